/* SPDX-License-Identifier: MIT */
/*
 * The ring: claiming places and giving them back. See docs/design/queue.md for how it works, queue.h for the words.
 *
 * Who may change a cell's state: at EMPTY and FULL anybody, by a compare-and-swap that makes him its owner; at WRITING
 * and READING its owner, by a store, and for a dead owner the repair. Positions are claimed in order, by puts and by
 * gets.
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

/* A store that ends somebody's wait. Release: the item, or that it has been read, to who claims the cell next. A
 * sleeper pays for the order of it and the load of his word, see sleep.c, unless we cannot be told to pass a barrier.
 */
static inline void td__wheel_publish(td__cell *cell, uint64_t state)
{
    if (td__unlikely(td__release_by_exchange))
        td__exchange_seq_cst(&cell->state, state);
    else
        td__store_release(&cell->state, state);
    td__program_order();
}

/* Never back, as far as one sees: what a slow one stores is put right by who looks. */
static inline void td__wheel_hint(_Atomic uint64_t *hint, uint64_t position)
{
    /* Release: that the positions before have been claimed, to who begins here. */
    if ((int64_t)(position - td__load_relaxed(hint)) > 0)
        td__store_release(hint, position);
}

/* The first position after those known to be claimed by puts, given a state seen at this one, of the same lap or later.
 */
static inline uint64_t td__wheel_after_puts(const td__wheel *ring, uint64_t position, uint64_t state)
{
    uint64_t laps = (TD__LAP_OF(state) - td__wheel_lap(ring, position)) >> TD__LAP_SHIFT;
    if (TD__PHASE(state) == TD__EMPTY)
        laps--;
    return td__wheel_next(ring, position + (laps << ring->shift));
}

/* The same for gets; `state` of a later lap, or READING. */
static inline uint64_t td__wheel_after_gets(const td__wheel *ring, uint64_t position, uint64_t state)
{
    uint64_t laps = (TD__LAP_OF(state) - td__wheel_lap(ring, position)) >> TD__LAP_SHIFT;
    if (TD__PHASE(state) != TD__READING)
        laps--;
    return td__wheel_next(ring, position + (laps << ring->shift));
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
    return (position & ring->mask) < ring->capacity && TD__PHASE(state) <= TD__READING &&
           (TD__PHASE(state) != TD__EMPTY || TD__OWNER(state) == 0);
}

/* Claims the next place for an item: its position, or TD_EFULL. */
static inline int td__wheel_claim_put(td__wheel *ring, td__party *me, bool shared, uint64_t owner, uint64_t *claimed)
{
    /* Acquire, here and at the state: with td__wheel_hint, so that a position before the hint is not seen unclaimed. */
    uint64_t position = td__load_acquire(&ring->tail);
    for (;;) {
        td__cell *cell = td__wheel_cell(ring, position);
        uint64_t lap = td__wheel_lap(ring, position), state = td__load_acquire(&cell->state);
        if (td__likely(state == lap)) {
            td__wheel_name(me, shared, position);
            /* Sequentially consistent, with the gate: see td__queue_enter. Acquire: the former item has been read. */
            if (td__likely(td__cas_seq_cst(&cell->state, &state, lap | owner | TD__WRITING))) {
                *claimed = position;
                td__program_order();
                return 0;
            }
        }
        int64_t ahead = (int64_t)(TD__LAP_OF(state) - lap);
        if (td__unlikely(!td__wheel_possible(ring, position, state)))
            return TD_ECORRUPT;
        if (ahead < 0) {
            td__wheel_hint(&ring->tail, position);
            return TD_EFULL;
        }
        position = td__wheel_after_puts(ring, position, state);
    }
}

/* Claims the oldest item: its position, or TD_EEMPTY and the position that it would have. */
static inline int td__wheel_claim_get(td__wheel *ring, td__party *me, bool shared, uint64_t owner, td__op *sized,
                                      uint64_t *claimed)
{
    uint64_t position = td__load_acquire(&ring->head);
    for (;;) {
        td__cell *cell = td__wheel_cell(ring, position);
        uint64_t lap = td__wheel_lap(ring, position);
        /* Acquire: the item, with td__wheel_publish. Sequentially consistent, with the gate: see td__queue_drained. */
        uint64_t state = td__load_seq_cst(&cell->state);
        if (td__likely(state == (lap | TD__FULL))) {
            if (td__unlikely(sized != NULL) && !td__cell_fits(cell, sized) && td__load_acquire(&cell->state) == state)
                return TD_ETOOBIG;
            td__wheel_name(me, shared, position);
            if (td__likely(td__cas_acquire(&cell->state, &state, lap | owner | TD__READING))) {
                *claimed = position;
                td__program_order();
                return 0;
            }
        }
        int64_t ahead = (int64_t)(TD__LAP_OF(state) - lap);
        if (td__unlikely(!td__wheel_possible(ring, position, state)))
            return TD_ECORRUPT;
        if (ahead < 0 || (ahead == 0 && TD__PHASE(state) < TD__FULL)) {
            td__wheel_hint(&ring->head, position);
            *claimed = position;
            return TD_EEMPTY;
        }
        if (ahead > 0 || TD__PHASE(state) == TD__READING)
            position = td__wheel_after_gets(ring, position, state);
    }
}

#endif
