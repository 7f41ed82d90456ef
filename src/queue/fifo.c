/* SPDX-License-Identifier: MIT */
/*
 * FIFO queues: one attempt to put or get one item, or several, which are claimed in runs (wheel.h). The attempts leave
 * the record's step to their caller; they name in it what they are about to claim.
 *
 * The gate is read before a claim and again after it. Claims and the gate's changes are sequentially consistent, so
 * either a put sees the change and gives its place up, or who changed the gate and looks at the cells sees its claim.
 */
#include "queue/fifo.h"
#include "queue/memory.h"
#include "queue/wheel.h"
#include <tandem/shared.h>

#include <limits.h>

static inline uint64_t owner_of(const td__party *me, bool shared)
{
    return TD__OWNED_BY(shared ? me->index : td__queue_life);
}

/* Sizes that a compiler makes into a few moves. */
static inline void copy(void *to, const void *from, size_t size)
{
    if (size == 8)
        memcpy(to, from, 8);
    else if (size == 64)
        memcpy(to, from, 64);
    else
        memcpy(to, from, size);
}

/* --- items of any size ------------------------------------------------------------------------------------- */

static td__sized *sized(td__cell *cell)
{
    return (td__sized *)(cell + 1);
}

/* Where an item of this size is, or goes to, in a cell that is ours; NULL: what it says of its block cannot be. */
static void *place_of(const td_queue *queue, td__cell *cell, size_t size)
{
    td__sized *head = sized(cell);
    if (td__unlikely(!td__queue_is_whole(queue)))
        return NULL;
    if (size <= queue->room)
        return head + 1;
    return !queue->shared || td_shared_size((void *)head->block) >= size ? (void *)head->block : NULL;
}

/* A block for an item of this size, which has no room in the cell. */
static int provide(td_queue *queue, td__party *me, td__cell *cell, size_t size)
{
    td__sized *head = sized(cell);
    if (td__load_relaxed(&head->block_size) >= size)
        return 0;
    td__store_relaxed(&head->block_size, 0);
    td__program_order();
    me = me ? me : td__party_self();
    if (!me)
        return td_last_error();
    td__queue_give(me, queue->shared, &head->block, true);
    if (!td__queue_take(me, queue->shared, size, &head->block))
        return td_last_error();
    td__program_order(); /* the size is believed only with the block */
    td__store_relaxed(&head->block_size, (uint32_t)size);
    return 0;
}

static int fill(td_queue *queue, td__party *me, td__cell *cell, const td__op *op)
{
    int r = op->size > queue->room ? provide(queue, me, cell, op->size) : 0;
    if (r < 0)
        return r;
    void *place = place_of(queue, cell, op->size);
    if (!place)
        return TD_ECORRUPT;
    memcpy(place, op->in, op->size);
    td__store_relaxed(&sized(cell)->size, (uint32_t)op->size);
    return 0;
}

static int take_out(td_queue *queue, td__cell *cell, td__op *op)
{
    size_t size = td__load_relaxed(&sized(cell)->size);
    const void *place = size <= queue->item_size ? place_of(queue, cell, size) : NULL;
    if (!place)
        return TD_ECORRUPT;
    op->got_size = size;
    memcpy(op->out, place, size < op->size ? size : op->size);
    return 0;
}

/* A place that we have claimed is not needed. */
static void give_up(td_queue *queue, td__party *me, bool shared, td__wheel *ring, uint64_t position)
{
    me = me ? me : td__party_self();
    if (me)
        td__queue_skip(queue, me, shared ? me : NULL, ring, position, TD__OWNER(owner_of(me, shared)), true);
}

/* A private queue, after a fork: the place at this position is that of a thread that is not in this process. It goes on
 * without. */
static bool settle_place(td_queue *queue, td__wheel *ring, uint64_t position)
{
    uint64_t state = td__load_acquire(&td__wheel_cell(ring, position)->state);
    unsigned phase = TD__PHASE(state);
    if (queue->shared || TD__OWNER(state) == td__queue_life || (phase != TD__WRITING && phase != TD__READING) ||
        !td__wheel_possible(ring, position, state))
        return false;
    td__party *me = td__party_self();
    int64_t laps = (int64_t)(td__wheel_lap(ring, position) - TD__LAP_OF(state)) / (int64_t)TD__LAP;
    position -= (uint64_t)laps << ring->shift;
    if (!me)
        return false;
    return phase == TD__WRITING ? td__queue_skip(queue, me, NULL, ring, position, TD__OWNER(state), true)
                                : td__queue_return(queue, me, ring, position, TD__RUN(state), TD__OWNER(state), true);
}

/* The place with this index in whatever lap it is. */
static uint64_t position_of(const td__wheel *ring, uint64_t index)
{
    return (td__load_relaxed(&ring->head) & ~ring->mask) | index;
}

/* Nobody gets on at this position: is that because of a fork? Then it is settled, and the caller looks again. */
static bool left_by_fork(td_queue *queue, td__wheel *ring, uint64_t position)
{
    if (td__queue_left(queue)) {
        td__queue_settle(queue);
        return true;
    }
    return settle_place(queue, ring, position);
}

/* --- puts -------------------------------------------------------------------------------------------------- */

/* Claims a place behind the gate, or up to `most`; TD_EFULL, TD_ECLOSED, TD_ECORRUPT. */
static inline int enter(td_queue *queue, td__party *me, bool shared, size_t most, td__wheel **ring, td__claim *claim)
{
    for (;;) {
        uint32_t gate = td__load_acquire(&queue->gate);
        if (td__unlikely(gate & TD__GATE_SHUT))
            return TD_ECLOSED;
        *ring = td__queue_ring(queue, gate >> TD__GATE_SHIFT);
        if (td__unlikely(!*ring))
            return TD_ECORRUPT;
        if (shared)
            me->step[TD__STEP_QUEUE].number = (gate >> TD__GATE_SHIFT << TD__SPAN_BITS) + 1;
        int r = td__wheel_claim_put(*ring, me, shared, owner_of(me, shared), most, claim);
        if (r < 0) {
            if (r == TD_EFULL && left_by_fork(queue, *ring, claim->position))
                continue;
            if (r == TD_EFULL && !td__queue_is_whole(queue))
                return TD_ECORRUPT;
            if (r != TD_EFULL || queue->capacity)
                return r;
            r = td__queue_grow(queue, me, gate >> TD__GATE_SHIFT);
            if (r < 0)
                return r;
            continue;
        }
        /* After the claim: has anybody decided meanwhile that nothing more comes here? */
        if (td__likely(td__load_seq_cst(&queue->gate) == gate))
            return 0;
        give_up(queue, me, shared, *ring, claim->position);
    }
}

/* The cell after this one, in the same run. */
static inline td__cell *cell_after(const td__wheel *ring, td__cell *cell)
{
    return (td__cell *)(void *)((char *)cell + ring->stride);
}

/* Copies items into a run, and publishes them: all at one moment, in which the first is. */
static inline void put_in(const td_queue *queue, td__wheel *ring, const td__claim *claim, const char *items)
{
    td__cell *first = td__wheel_cell(ring, claim->position), *cell = first;
    uint64_t full = td__wheel_lap(ring, claim->position) | TD__FULL;
    copy(first + 1, items, queue->item_size);
    for (uint32_t i = 1; i < claim->run; i++) {
        cell = cell_after(ring, cell);
        items += queue->item_size;
        copy(cell + 1, items, queue->item_size);
        td__wheel_settle(cell, full);
    }
    td__program_order();
    td__wheel_publish(first, full);
}

/* Puts one item, or a run of several: `most`. */
static inline int put_run(td_queue *queue, td__party *me, bool shared, td__op *op, size_t most)
{
    td__wheel *ring;
    td__claim claim;
    int r = enter(queue, me, shared, most, &ring, &claim);
    if (td__unlikely(r < 0))
        return r;
    td__wheel_hint(&ring->tail, td__wheel_after(ring, claim.position, claim.run));
    if (td__unlikely(queue->any_size)) {
        td__cell *cell = td__wheel_cell(ring, claim.position);
        r = fill(queue, me, cell, op);
        if (r < 0) {
            give_up(queue, me, shared, ring, claim.position);
            return r;
        }
        td__program_order();
        td__wheel_publish(cell, td__wheel_lap(ring, claim.position) | TD__FULL);
    } else {
        put_in(queue, ring, &claim, op->in + op->done * queue->item_size);
    }
    op->done += claim.run;
    return 0;
}

static inline int put(td_queue *queue, td__party *me, bool shared, td__op *op)
{
    int r = 0;
    size_t before = op->done;
    while (td__likely(r == 0) && op->done < op->count)
        r = put_run(queue, me, shared, op, op->count - op->done);
    if (td__likely(op->done > before))
        td__queue_changed(queue, &queue->items, op->done - before > INT_MAX ? INT_MAX : (int)(op->done - before));
    return r;
}

int td__fifo_put_private(td_queue *queue, td__party *me, td__op *op)
{
    return put(queue, me, false, op);
}

int td__fifo_put_shared(td_queue *queue, td__party *me, td__op *op)
{
    return put(queue, me, true, op);
}

/* --- gets -------------------------------------------------------------------------------------------------- */

/* A search through the ranges of all rings for items that have come back. All zero at first. */
typedef struct behind {
    td__wheel *ring; /* NULL: the next one is to be begun */
    uint32_t number; /* of the ring */
    uint64_t at, high;
} behind;

/* The ring's range. It is set before `returned` grows, so that with its value we have at least what belongs to it. */
static bool begin_range(td_queue *queue, behind *b)
{
    b->ring = td__queue_ring(queue, b->number);
    if (!b->ring)
        return false;
    b->high = td__load_acquire(&b->ring->high);
    b->at = td__load_acquire(&b->ring->low);
    if (!td__wheel_has(b->ring, b->high) || !td__wheel_has(b->ring, b->at))
        return false;
    /* A lap is enough: what has come back keeps puts from its place of the next one. */
    if (b->high - b->at > b->ring->mask + 1)
        b->at = b->high - b->ring->mask - 1;
    return true;
}

/* 1: here is one, and after it the search goes on; 0: there are no more; or TD_ECORRUPT. */
static int look_further(td_queue *queue, behind *b, uint64_t *position, uint64_t *state)
{
    uint32_t last = td__load_acquire(&queue->gate) >> TD__GATE_SHIFT;
    for (; b->number <= last; b->number++, b->ring = NULL) {
        if (!b->ring && !begin_range(queue, b))
            return TD_ECORRUPT;
        while ((int64_t)(b->high - b->at) > 0) {
            *position = b->at;
            *state = td__load_acquire(&td__wheel_cell(b->ring, b->at)->state);
            b->at = td__wheel_next(b->ring, b->at);
            if (*state == (td__wheel_lap(b->ring, *position) | TD__BACK))
                return 1;
        }
    }
    return 0;
}

/* Items have come back at positions that consumers have left behind: the oldest of them. If there is none, those who
 * come after us need not look, until `returned` grows again. */
static int look_behind(td_queue *queue, td__party *me, bool shared, td__op *op, td__wheel **ring, td__claim *claimed)
{
    uint32_t looked = td__load_acquire(&queue->looked), returned = td__load_acquire(&queue->returned);
    behind b = { .number = 0 };
    uint64_t at, state;
    int found = 0;
    while (looked != returned && (found = look_further(queue, &b, &at, &state)) > 0) {
        td__cell *cell = td__wheel_cell(b.ring, at);
        if (queue->any_size && !td__cell_fits(cell, op) && td__load_acquire(&cell->state) == state)
            return TD_ETOOBIG;
        if (shared)
            me->step[TD__STEP_QUEUE].number = (b.number << TD__SPAN_BITS) + 1;
        td__wheel_name(me, shared, at);
        if (td__cas_acquire(&cell->state, &state, TD__LAP_OF(state) | owner_of(me, shared) | TD__READING)) {
            *ring = b.ring;
            *claimed = (td__claim){ at, 1 };
            td__program_order();
            return 0;
        }
    }
    if (found < 0)
        return found;
    td__cas_seq_cst(&queue->looked, &looked, returned);
    return TD_EEMPTY;
}

/* Has anything come back that nobody has got yet? If it has been written over: yes. */
static bool is_behind(td_queue *queue)
{
    behind b = { .number = 0 };
    uint64_t at, state;
    return td__load_acquire(&queue->returned) != td__load_relaxed(&queue->looked) &&
           look_further(queue, &b, &at, &state) != 0;
}

/*
 * The ring is empty, as it seems. If the gate has gone on, or is shut, nothing will come here after what is in the ring
 * now: TD_ECLOSED if that is nothing. (The gate first, then the cells, both sequentially consistent: a put that was
 * not seen to have claimed its place sees the gate, and gives it up.)
 */
static int drained(td_queue *queue, td__wheel *ring, uint32_t number)
{
    uint32_t gate = td__load_seq_cst(&queue->gate);
    if (number == gate >> TD__GATE_SHIFT && !(gate & TD__GATE_SHUT))
        return TD_EEMPTY;
    uint64_t position = td__load_acquire(&ring->head);
    if (!td__wheel_has(ring, position))
        return TD_ECORRUPT;
    for (;;) {
        uint64_t lap = td__wheel_lap(ring, position), state = td__load_seq_cst(&td__wheel_cell(ring, position)->state);
        int64_t ahead = (int64_t)(TD__LAP_OF(state) - lap);
        if (!td__wheel_possible(ring, position, state) || td__wheel_late(ahead))
            return TD_ECORRUPT;
        if (ahead < 0 || state == lap)
            return TD_ECLOSED;
        if (ahead == 0 && TD__PHASE(state) != TD__READING)
            return TD_EEMPTY; /* something is here, or about to be */
        position = td__wheel_after_gets(ring, position, state);
    }
}

/* Has somebody an item in his hands, who may die with it, so that it comes back? Or has it just come back? */
static bool in_hands(td_queue *queue)
{
    uint32_t last = td__load_acquire(&queue->gate) >> TD__GATE_SHIFT;
    for (uint32_t number = 0; number <= last; number++) {
        td__wheel *ring = td__queue_ring(queue, number);
        for (uint64_t i = 0; ring && i < ring->capacity; i++)
            if (TD__PHASE(td__load_seq_cst(&td__wheel_cell(ring, i)->state)) >= TD__FULL) {
                /* Nobody's hands, if he was left behind by a fork: then it comes back now. */
                left_by_fork(queue, ring, position_of(ring, i));
                return true;
            }
    }
    return false;
}

/* The ring where gets are. 0: try it (again); else the result. */
static int leave_ring(td_queue *queue, td__wheel *ring, uint32_t *number)
{
    int r = drained(queue, ring, *number);
    if (r != TD_ECLOSED)
        return r;
    if (*number == td__load_acquire(&queue->gate) >> TD__GATE_SHIFT)
        return in_hands(queue) ? TD_EEMPTY : TD_ECLOSED;
    uint32_t former = (*number)++;
    td__cas_acq_rel(&queue->head_ring, &former, *number);
    return 0;
}

/* Claims the oldest item, or a run of up to `most`. TD_EEMPTY, TD_ECLOSED, TD_ECORRUPT, TD_ETOOBIG. */
static inline int claim(td_queue *queue, td__party *me, bool shared, td__op *op, size_t most, td__wheel **ring,
                        td__claim *claimed)
{
    if (!shared && td__queue_left(queue)) /* first, as it may bring back what is older than all */
        td__queue_settle(queue);
    if (td__unlikely(td__load_acquire(&queue->returned) != td__load_relaxed(&queue->looked))) {
        int r = look_behind(queue, me, shared, op, ring, claimed);
        if (r != TD_EEMPTY)
            return r;
    }
    uint32_t number = td__load_acquire(&queue->head_ring);
    for (;;) {
        *ring = td__queue_ring(queue, number);
        if (td__unlikely(!*ring))
            return TD_ECORRUPT;
        if (shared)
            me->step[TD__STEP_QUEUE].number = (number << TD__SPAN_BITS) + 1;
        int r =
            td__wheel_claim_get(*ring, me, shared, owner_of(me, shared), queue->any_size ? op : NULL, most, claimed);
        if (td__likely(r == 0) || r != TD_EEMPTY)
            return r;
        if (td__unlikely(left_by_fork(queue, *ring, claimed->position))) {
            if (look_behind(queue, me, shared, op, ring, claimed) == 0)
                return 0;
            continue;
        }
        r = leave_ring(queue, *ring, &number);
        if (r < 0)
            return r;
    }
}

/* Gives the places of a run back: at one moment, in which the first is. */
static inline void release(td__wheel *ring, const td__claim *claim)
{
    td__cell *first = td__wheel_cell(ring, claim->position), *cell = first;
    uint64_t empty = td__wheel_lap(ring, claim->position) + TD__LAP;
    for (uint32_t i = 1; i < claim->run; i++) {
        cell = cell_after(ring, cell);
        td__wheel_settle(cell, empty);
    }
    td__wheel_publish(first, empty);
}

static inline char *copy_out(const td_queue *queue, const td__wheel *ring, const td__claim *claim, char *out)
{
    td__cell *cell = td__wheel_cell(ring, claim->position);
    for (uint32_t i = 0; i < claim->run; i++, cell = cell_after(ring, cell), out += queue->item_size)
        copy(out, cell + 1, queue->item_size);
    return out;
}

/* Gets one item, or a run of several: `most`. */
static inline int get_run(td_queue *queue, td__party *me, bool shared, td__op *op, size_t most)
{
    td__wheel *ring;
    td__claim claimed;
    int r = claim(queue, me, shared, op, most, &ring, &claimed);
    if (td__unlikely(r < 0))
        return r;
    td__wheel_hint(&ring->head, td__wheel_after(ring, claimed.position, claimed.run));
    if (td__unlikely(queue->any_size))
        r = take_out(queue, td__wheel_cell(ring, claimed.position), op);
    else
        copy_out(queue, ring, &claimed, op->out + op->done * queue->item_size);
    td__program_order(); /* from here on it is ours */
    release(ring, &claimed);
    op->done += r == 0 ? claimed.run : 0;
    return r;
}

/* The runs after this one, which is ours, up to `most` items in all: how many there are of them together. */
static size_t claim_more(td__wheel *ring, td__party *me, const td__claim *first, size_t most)
{
    uint64_t position = td__wheel_after(ring, first->position, first->run);
    size_t count = first->run;
    while (count < most) {
        uint64_t state = td__wheel_lap(ring, position) | TD__FULL;
        if (td__load_acquire(&td__wheel_cell(ring, position)->state) != state)
            break;
        uint32_t run = td__wheel_run(ring, position, state, most - count);
        me->step[TD__STEP_QUEUE].number++;
        if (!td__wheel_take_run(ring, me, true, owner_of(me, true), position, &state, run))
            break;
        count += run;
        position = td__wheel_after(ring, position, run);
    }
    return count;
}

/* The run at this position, which is ours. No longer than what is left of ours, whatever its state says. */
static td__claim claimed_at(const td__wheel *ring, uint64_t position, size_t left)
{
    uint64_t run = TD__RUN(td__load_relaxed(&td__wheel_cell(ring, position)->state)),
             room = ring->capacity - (position & ring->mask);
    run = run < room ? run : room;
    return (td__claim){ position, (uint32_t)(run < left ? run : left) };
}

/* Takes effect in one moment: when the record says that they have been got. */
static int get_several(td_queue *queue, td__party *me, td__op *op)
{
    td__step *step = &me->step[TD__STEP_QUEUE];
    td__wheel *ring;
    td__claim first;
    size_t most = op->count < TD__SPAN_MAX / 2 ? op->count : TD__SPAN_MAX / 2;
    int r = claim(queue, me, true, op, most, &ring, &first);
    if (r < 0)
        return r;
    size_t count = claim_more(ring, me, &first, most);
    char *out = op->out;
    td__claim run = first;
    for (size_t i = 0; i < count; i += run.run, run.position = td__wheel_after(ring, run.position, run.run)) {
        run = claimed_at(ring, run.position, count - i);
        out = copy_out(queue, ring, &run, out);
    }
    td__wheel_hint(&ring->head, run.position);
    td__program_order();
    step->kind = TD__QUEUE_GOT;
    td__program_order();
    run = first;
    for (size_t i = 0; i < count; i += run.run, run.position = td__wheel_after(ring, run.position, run.run)) {
        run = claimed_at(ring, run.position, count - i);
        release(ring, &run);
    }
    op->done = count;
    return 0;
}

/* Nothing is given out any more; what a put, or a shutdown that has died, has left is dropped. */
static inline bool is_dropped(td_queue *queue, td__party *me)
{
    if (td__likely(!(td__load_acquire(&queue->gate) & TD__GATE_DROPPED)))
        return false;
    td__fifo_drop(queue, me);
    return true;
}

static inline void tell_got(td_queue *queue, size_t count)
{
    td__queue_changed(queue, &queue->space, count > INT_MAX ? INT_MAX : (int)count);
    /* After a shutdown, others may wait for what we had in our hands: now it will not come back. */
    if (td__unlikely(td__load_relaxed(&queue->gate) & TD__GATE_SHUT))
        td__queue_changed(queue, &queue->items, INT_MAX);
}

int td__fifo_get_private(td_queue *queue, td__party *me, td__op *op)
{
    if (is_dropped(queue, me))
        return TD_ECLOSED;
    int r = get_run(queue, me, false, op, op->count);
    while (r == 0 && op->done < op->count)
        if (get_run(queue, me, false, op, op->count - op->done) < 0)
            break;
    if (td__likely(r == 0))
        tell_got(queue, op->done);
    return r;
}

int td__fifo_get_shared(td_queue *queue, td__party *me, td__op *op)
{
    if (is_dropped(queue, me))
        return TD_ECLOSED;
    int r = op->count > 1 ? get_several(queue, me, op) : get_run(queue, me, true, op, 1);
    if (td__likely(r == 0))
        tell_got(queue, op->done);
    return r;
}

void td__fifo_drop(td_queue *queue, td__party *me)
{
    td__wheel *ring;
    td__claim one;
    td__op op = { .size = SIZE_MAX };
    bool shared = queue->shared;
    me = me ? me : td__party_self();
    while (me && claim(queue, me, shared, &op, 1, &ring, &one) == 0) {
        td__wheel_hint(&ring->head, td__wheel_next(ring, one.position));
        td__queue_skip(queue, me, shared ? me : NULL, ring, one.position, TD__OWNER(owner_of(me, shared)), true);
    }
}

/* --- one item, straight through ---------------------------------------------------------------------------- */

#define STRAIGHT static inline __attribute__((always_inline))

/* Nobody else writes to a private queue: it needs no looks. */
STRAIGHT td__wheel *straight_ring(const td_queue *queue, uint32_t number, bool shared)
{
    return shared ? td__queue_ring(queue, number) : (td__wheel *)queue->part[number];
}

STRAIGHT bool put_quick(td_queue *queue, td__party *me, bool shared, const void *item)
{
    uint32_t gate = td__load_acquire(&queue->gate);
    td__wheel *ring = straight_ring(queue, gate >> TD__GATE_SHIFT, shared);
    if (shared && !ring)
        return false;
    uint64_t position = td__load_acquire(&ring->tail), lap = td__wheel_lap(ring, position);
    if (shared && !td__wheel_has(ring, position))
        return false;
    td__cell *cell = td__wheel_cell(ring, position);
    uint64_t state = td__load_acquire(&cell->state);
    if (td__unlikely(state != lap || gate & TD__GATE_SHUT))
        return false;
    if (shared)
        td__step_begin(me, TD__STEP_QUEUE, TD__QUEUE_PUT, queue, position,
                       (gate >> TD__GATE_SHIFT << TD__SPAN_BITS) + 1);
    /* As in td__wheel_claim_put() and enter(). */
    bool done = td__cas_seq_cst(&cell->state, &state, lap | owner_of(me, shared) | TD__WRITING);
    td__program_order();
    if (td__likely(done)) {
        done = td__load_seq_cst(&queue->gate) == gate;
        if (td__unlikely(!done))
            give_up(queue, me, shared, ring, position);
    }
    if (td__likely(done)) {
        td__wheel_hint(&ring->tail, td__wheel_next(ring, position));
        copy(cell + 1, item, queue->item_size);
        td__program_order();
        td__wheel_publish(cell, lap | TD__FULL);
        td__queue_changed(queue, &queue->items, 1);
    }
    if (shared)
        td__step_end(me, TD__STEP_QUEUE);
    return done;
}

bool td__fifo_put_quick_private(td_queue *queue, const void *item)
{
    return put_quick(queue, NULL, false, item);
}

bool td__fifo_put_quick_shared(td_queue *queue, td__party *me, const void *item)
{
    return put_quick(queue, me, true, item);
}

STRAIGHT bool get_quick(td_queue *queue, td__party *me, bool shared, void *item)
{
    uint32_t number = td__load_acquire(&queue->head_ring);
    td__wheel *ring = straight_ring(queue, number, shared);
    if (shared && !ring)
        return false;
    uint64_t position = td__load_acquire(&ring->head), lap = td__wheel_lap(ring, position);
    if (shared && !td__wheel_has(ring, position))
        return false;
    td__cell *cell = td__wheel_cell(ring, position);
    uint64_t state = td__load_acquire(&cell->state);
    if (td__unlikely(state != (lap | TD__FULL) ||
                     td__load_acquire(&queue->returned) != td__load_relaxed(&queue->looked) ||
                     td__load_acquire(&queue->gate) & TD__GATE_DROPPED) ||
        (!shared && td__queue_left(queue)))
        return false;
    if (shared)
        td__step_begin(me, TD__STEP_QUEUE, TD__QUEUE_GET, queue, position, (number << TD__SPAN_BITS) + 1);
    /* As in td__wheel_take_run(). */
    bool done = td__cas_acquire(&cell->state, &state, lap | owner_of(me, shared) | TD__READING);
    td__program_order();
    if (td__likely(done)) {
        td__wheel_hint(&ring->head, td__wheel_next(ring, position));
        copy(item, cell + 1, queue->item_size);
        td__program_order(); /* from here on it is ours */
        td__wheel_publish(cell, lap + TD__LAP);
        tell_got(queue, 1);
    }
    if (shared)
        td__step_end(me, TD__STEP_QUEUE);
    return done;
}

bool td__fifo_get_quick_private(td_queue *queue, void *item)
{
    return get_quick(queue, NULL, false, item);
}

bool td__fifo_get_quick_shared(td_queue *queue, td__party *me, void *item)
{
    return get_quick(queue, me, true, item);
}

/* --- looking at it ----------------------------------------------------------------------------------------- */

/* The first position that no put has claimed; false: it cannot be found. */
static bool tail_of(const td__wheel *ring, uint64_t *tail)
{
    uint64_t position = td__load_acquire(&ring->tail);
    if (!td__wheel_has(ring, position))
        return false;
    for (;;) {
        uint64_t lap = td__wheel_lap(ring, position), state = td__load_acquire(&td__wheel_cell(ring, position)->state);
        int64_t ahead = (int64_t)(TD__LAP_OF(state) - lap);
        if (!td__wheel_possible(ring, position, state) || td__wheel_late(ahead))
            return false;
        if (state == lap || ahead < 0) {
            *tail = position;
            return true;
        }
        position = td__wheel_after_puts(ring, position, state);
    }
}

size_t td__fifo_size(td_queue *queue)
{
    uint32_t gate = td__load_acquire(&queue->gate);
    size_t size = 0;
    if (gate & TD__GATE_DROPPED)
        return 0;
    for (uint32_t number = 0; number <= gate >> TD__GATE_SHIFT; number++) {
        td__wheel *ring = td__queue_ring(queue, number);
        uint64_t tail;
        if (!ring || !tail_of(ring, &tail))
            return size;
        bool behind = td__load_acquire(&queue->returned) != td__load_relaxed(&queue->looked);
        uint64_t position = td__load_acquire(behind ? &ring->low : &ring->head);
        /* Places without an item may stand before those that are in use: up to two laps. */
        if (td__wheel_distance(ring, position, tail) > 2 * ring->capacity)
            position = td__load_acquire(&ring->head);
        if (!td__wheel_has(ring, position))
            return size;
        for (uint64_t i = 0; i < 2 * ring->capacity && (int64_t)(tail - position) > 0; i++) {
            uint64_t lap = td__wheel_lap(ring, position),
                     state = td__load_acquire(&td__wheel_cell(ring, position)->state);
            size += state == (lap | TD__FULL) || state == (lap | TD__BACK);
            /* The others of a run that is being read are not there any more. */
            bool run = TD__LAP_OF(state) == lap && td__wheel_possible(ring, position, state);
            position = td__wheel_after(ring, position, run ? TD__RUN(state) : 1);
        }
    }
    return size;
}

bool td__fifo_claimed(td_queue *queue, uint64_t *sum)
{
    uint32_t last = td__load_acquire(&queue->gate) >> TD__GATE_SHIFT;
    *sum = 0;
    for (uint32_t number = 0; number <= last; number++) {
        const td__wheel *ring = td__queue_ring(queue, number);
        uint64_t tail;
        if (!ring || !tail_of(ring, &tail))
            return false;
        *sum += td__wheel_distance(ring, 0, tail);
    }
    return true;
}

/* One that has been written over has: who comes for it is told. */
static bool ring_has_item(const td__wheel *ring)
{
    uint64_t position = ring ? td__load_acquire(&ring->head) : 0;
    if (!ring || !td__wheel_has(ring, position))
        return true;
    for (;;) {
        uint64_t lap = td__wheel_lap(ring, position), state = td__load_seq_cst(&td__wheel_cell(ring, position)->state);
        int64_t ahead = (int64_t)(TD__LAP_OF(state) - lap);
        if (state == (lap | TD__FULL) || !td__wheel_possible(ring, position, state) || td__wheel_late(ahead))
            return true;
        if (ahead < 0 || (ahead == 0 && TD__PHASE(state) < TD__READING))
            return false;
        position = td__wheel_after_gets(ring, position, state);
    }
}

bool td__fifo_has_item(td_queue *queue)
{
    uint32_t last = td__load_acquire(&queue->gate) >> TD__GATE_SHIFT;
    if (is_behind(queue))
        return true;
    for (uint32_t number = td__load_acquire(&queue->head_ring); number <= last; number++)
        if (ring_has_item(td__queue_ring(queue, number)))
            return true;
    return false;
}

bool td__fifo_has_space(td_queue *queue)
{
    const td__wheel *ring = td__queue_ring(queue, td__load_acquire(&queue->gate) >> TD__GATE_SHIFT);
    uint64_t position;
    if (!ring || !tail_of(ring, &position))
        return true;
    return td__load_seq_cst(&td__wheel_cell(ring, position)->state) == td__wheel_lap(ring, position);
}

/* Before the end of the first lap only those that a put has come to. */
void td__fifo_settle(td_queue *queue)
{
    uint32_t last = td__load_acquire(&queue->gate) >> TD__GATE_SHIFT;
    for (uint32_t number = 0; number <= last; number++) {
        td__wheel *ring = td__queue_ring(queue, number);
        if (!ring)
            return;
        uint64_t tail = 0, used = tail_of(ring, &tail) && tail <= ring->mask ? tail : ring->capacity;
        for (uint64_t i = 0; i < used; i++)
            settle_place(queue, ring, position_of(ring, i));
    }
}
