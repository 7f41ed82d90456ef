/* SPDX-License-Identifier: MIT */
/*
 * The ring: claiming places and giving them back. See docs/design/queue.md for how it works, queue.h for the words.
 *
 * Who may change a cell's state: at EMPTY, FULL and BACK anybody, by a compare-and-swap that makes him its owner; at
 * WRITING and READING its owner, by a store, and for a dead owner the repair. Positions are claimed in order, by puts
 * and by gets (BACK has been claimed: it is taken out of turn).
 *
 * A run: several cells, one after the other, are claimed by one compare-and-swap of the first, if all are EMPTY, or
 * FULL, of its lap. They are so still when it succeeds: the others could only have been claimed after the first. Nobody
 * looks at them before the first is given up, since all come to them by way of it, and its state says how far to go on;
 * so they change without ado, the first one last. That holds for hints, too: none points into a run of its kind.
 */
#ifndef TD_QUEUE_WHEEL_H
#define TD_QUEUE_WHEEL_H

#include "queue/queue.h"
#include "sync/latch.h"

/* Names the position in the record before it is claimed. */
static inline void td__wheel_name(td__party *me, bool shared, uint64_t position)
{
    if (shared) {
        me->step[TD__STEP_QUEUE].argument = position;
        td__program_order();
    }
}

/* Of the other cells of a run: told by the first one's. */
static inline void td__wheel_settle(td__cell *cell, uint64_t state)
{
    td__store_release(&cell->state, state);
    td__program_order();
}

/* A store that ends somebody's wait. Release: the item, or that it has been read, to who claims the cell next. A
 * sleeper pays for the order of it and the load of his word, see sleep.c, unless we cannot be told to pass a barrier.
 */
static inline void td__wheel_publish(td__cell *cell, uint64_t state)
{
    td__store_release(&cell->state, state);
    if (td__unlikely(td__release_by_exchange))
        td__fence_seq_cst(); /* with the sleeper's, see td__latch_pass_barrier() */
    td__program_order();
}

/* Never back, as far as one sees: what a slow one stores is put right by who looks. */
static inline void td__wheel_hint(_Atomic uint64_t *hint, uint64_t position)
{
    /* Release: that the positions before have been claimed, to who begins here. */
    if ((int64_t)(position - td__load_relaxed(hint)) > 0)
        td__store_release(hint, position);
}

/*
 * The first position after those known to be claimed by puts, given a state seen at this one, of the same lap or later.
 *
 * It is never inside a run, if this one is not. A cell of our own lap we have come to by way of those before it, past
 * the first of its run. Of a later lap M it may be in the middle of one: FULL(M) of a put that has not published its
 * first yet, EMPTY(M) of a run of lap M - 1 that is given up. What such a cell says of laps before is sure: its place
 * of lap M - 1, or M - 2, was left by everybody, and with it the run that it was in. So we go on from there, cell by
 * cell. That is long, but only who has slept for a lap goes this way.
 */
static inline uint64_t td__wheel_after_puts(const td__wheel *ring, uint64_t position, uint64_t state)
{
    uint64_t laps = (TD__LAP_OF(state) - td__wheel_lap(ring, position)) >> TD__LAP_SHIFT, back = 0;
    if (TD__PHASE(state) == TD__EMPTY)
        back = laps > 1 ? 2 : 1;
    else if (TD__PHASE(state) == TD__FULL)
        back = laps > 0 ? 1 : 0;
    return td__wheel_after(ring, position + ((laps - back) << ring->shift), TD__RUN(state));
}

/*
 * The same for gets; `state` of a later lap, or READING, or BACK. A put of lap M proves that everything up to this
 * place in lap M - 1 has been taken out, and EMPTY(M + 1) no more than that: its put may have been given up.
 */
static inline uint64_t td__wheel_after_gets(const td__wheel *ring, uint64_t position, uint64_t state)
{
    uint64_t laps = (TD__LAP_OF(state) - td__wheel_lap(ring, position)) >> TD__LAP_SHIFT, back = 1;
    if (laps == 0)
        return td__wheel_after(ring, position, TD__RUN(state));
    if (TD__PHASE(state) == TD__EMPTY && laps > 1)
        back = 2;
    return td__wheel_next(ring, position + ((laps - back) << ring->shift));
}

/*
 * Does this item of any size fit? The cell is FULL, or was a moment ago: the answer is right if it is still in the same
 * state afterwards, or is claimed from it.
 */
static inline bool td__cell_fits(td__cell *cell, td__op *op)
{
    op->got_size = td__load_relaxed(&((td__sized *)(cell + 1))->size);
    return op->got_size <= op->size;
}

/* Has nobody written over it? What could make us run in circles. */
static inline bool td__wheel_possible(const td__wheel *ring, uint64_t position, uint64_t state)
{
    return (position & ring->mask) + TD__RUN(state) <= ring->capacity && TD__PHASE(state) <= TD__BACK &&
           (TD__PHASE(state) & 1 || (TD__OWNER(state) == 0 && TD__RUN(state) == 1));
}

/* How many cells from this position on, at most `most`, that can be claimed as one run, are in this state. */
static inline uint32_t td__wheel_run(const td__wheel *ring, uint64_t position, uint64_t state, size_t most)
{
    uint64_t room = ring->capacity - (position & ring->mask);
    uint32_t run = 1, limit = most < TD__RUN_MAX ? (uint32_t)most : TD__RUN_MAX;
    if (limit > room)
        limit = (uint32_t)room;
    /* Acquire, each: what is in the cell has been read, or written. */
    while (run < limit && td__load_acquire(&td__wheel_cell(ring, position + run)->state) == state)
        run++;
    return run;
}

/* What will have been claimed, named in the record before. */
typedef struct td__claim {
    uint64_t position;
    uint32_t run;
} td__claim;

/* Claims the next place for an item, or up to `most`; or TD_EFULL, and the position that it would have. */
static inline int td__wheel_claim_put(td__wheel *ring, td__party *me, bool shared, uint64_t owner, size_t most,
                                      td__claim *claimed)
{
    /* Acquire, here and at the state: with td__wheel_hint, so that a position before the hint is not seen unclaimed. */
    uint64_t position = td__load_acquire(&ring->tail);
    if (td__unlikely(!td__wheel_has(ring, position)))
        return TD_ECORRUPT;
    for (;;) {
        td__cell *cell = td__wheel_cell(ring, position);
        uint64_t lap = td__wheel_lap(ring, position), state = td__load_acquire(&cell->state);
        if (td__likely(state == lap)) {
            uint32_t run = most > 1 ? td__wheel_run(ring, position, state, most) : 1;
            td__wheel_name(me, shared, position);
            /* Sequentially consistent, with the gate: see enter() in fifo.c. Acquire: the former item has been read. */
            if (td__likely(td__cas_seq_cst(&cell->state, &state, lap | TD__RUN_OF(run) | owner | TD__WRITING))) {
                *claimed = (td__claim){ position, run };
                td__program_order();
                return 0;
            }
        }
        int64_t ahead = (int64_t)(TD__LAP_OF(state) - lap);
        if (td__unlikely(!td__wheel_possible(ring, position, state)) || td__wheel_late(ahead))
            return TD_ECORRUPT;
        if (ahead < 0) {
            td__wheel_hint(&ring->tail, position);
            claimed->position = position;
            return TD_EFULL;
        }
        position = td__wheel_after_puts(ring, position, state);
    }
}

/* Names a run of items, the first or one that follows those named before, and tries to claim it. */
static inline bool td__wheel_take_run(td__wheel *ring, td__party *me, bool shared, uint64_t owner, uint64_t position,
                                      uint64_t *state, uint32_t run)
{
    if (shared) {
        me->step[TD__STEP_QUEUE].number += run - 1;
        td__program_order();
    }
    td__cell *cell = td__wheel_cell(ring, position);
    /* Acquire: the item, with td__wheel_publish. */
    bool taken = td__cas_acquire(&cell->state, state, TD__LAP_OF(*state) | TD__RUN_OF(run) | owner | TD__READING);
    td__program_order();
    return taken;
}

/* Claims the oldest item, or up to `most`; or TD_EEMPTY, and the position that it would have. */
static inline int td__wheel_claim_get(td__wheel *ring, td__party *me, bool shared, uint64_t owner, td__op *sized,
                                      size_t most, td__claim *claimed)
{
    uint64_t position = td__load_acquire(&ring->head);
    if (td__unlikely(!td__wheel_has(ring, position)))
        return TD_ECORRUPT;
    for (;;) {
        td__cell *cell = td__wheel_cell(ring, position);
        uint64_t lap = td__wheel_lap(ring, position);
        /* Acquire: the item, with td__wheel_publish. Sequentially consistent, with the gate: see drained() in
         * fifo.c. */
        uint64_t state = td__load_seq_cst(&cell->state);
        if (td__likely(state == (lap | TD__FULL))) {
            if (td__unlikely(sized != NULL) && !td__cell_fits(cell, sized) && td__load_acquire(&cell->state) == state)
                return TD_ETOOBIG;
            uint32_t run = most > 1 ? td__wheel_run(ring, position, state, most) : 1;
            td__wheel_name(me, shared, position);
            if (td__likely(td__wheel_take_run(ring, me, shared, owner, position, &state, run))) {
                *claimed = (td__claim){ position, run };
                return 0;
            }
            /* Too many named are none of ours; but of the next attempt there shall not be too many for the field. */
            if (shared)
                me->step[TD__STEP_QUEUE].number -= run - 1;
        }
        int64_t ahead = (int64_t)(TD__LAP_OF(state) - lap);
        if (td__unlikely(!td__wheel_possible(ring, position, state)) || td__wheel_late(ahead))
            return TD_ECORRUPT;
        if (ahead < 0 || (ahead == 0 && TD__PHASE(state) < TD__FULL)) {
            td__wheel_hint(&ring->head, position);
            claimed->position = position;
            return TD_EEMPTY;
        }
        if (ahead > 0 || TD__PHASE(state) >= TD__READING)
            position = td__wheel_after_gets(ring, position, state);
    }
}

#endif
