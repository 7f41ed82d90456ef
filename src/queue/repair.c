/* SPDX-License-Identifier: MIT */
/*
 * What is done about places that somebody had claimed who does not go on: the dead, threads that a fork has left
 * behind, a put that found the gate closed.
 *
 * A cell's state is never put back: others act on it at once. So it is changed by one store, last, and everything that
 * goes with it is settled before, in a section under the latch, or can be done again. Each function here can be called
 * again after it has died half-way.
 */
#include "queue/memory.h"
#include "memory/heap.h"
#include "queue/wheel.h"

static bool enter(td_queue *queue, td__party *me, bool wait)
{
    if (!wait)
        return td__section_try(me, &queue->latch);
    td__queue_enter(queue, me);
    return true;
}

/* The length of the run at this position if it is this owner's and in this phase, else 0. */
static uint32_t owns(const td__wheel *ring, uint64_t position, uint16_t owner, unsigned phase)
{
    uint64_t state = td__load_acquire(&td__wheel_cell(ring, position)->state);
    bool is = TD__LAP_OF(state) == td__wheel_lap(ring, position) && TD__OWNER(state) == owner &&
              TD__PHASE(state) == phase && td__wheel_possible(ring, position, state);
    return is ? (uint32_t)TD__RUN(state) : 0;
}

/* All cells of a run, the first one last, so that it can be done again. The others are of this lap until they have been
 * changed, and nobody else changes them. */
static void empty_run(td__wheel *ring, uint64_t position, uint32_t run)
{
    uint64_t lap = td__wheel_lap(ring, position);
    for (uint32_t i = 1; i < run; i++) {
        td__cell *cell = td__wheel_cell(ring, position + i);
        if (TD__LAP_OF(td__load_relaxed(&cell->state)) == lap)
            td__wheel_settle(cell, lap + TD__LAP);
    }
    td__wheel_publish(td__wheel_cell(ring, position), lap + TD__LAP);
}

/* The same, for items that come back. Who looks behind may take one of the others at once, and go on from there: so
 * from the last one to the first, that what follows is BACK already. */
static void return_run(td__wheel *ring, uint64_t position, uint32_t run)
{
    uint64_t lap = td__wheel_lap(ring, position);
    for (uint32_t i = run; i-- > 1;) {
        td__cell *cell = td__wheel_cell(ring, position + i);
        if (td__load_relaxed(&cell->state) == (lap | TD__FULL))
            td__wheel_publish(cell, lap | TD__BACK);
    }
    td__wheel_publish(td__wheel_cell(ring, position), lap | TD__BACK);
}

static uint32_t owns_any(const td__wheel *ring, uint64_t position, uint16_t owner)
{
    uint32_t run = owns(ring, position, owner, TD__WRITING);
    return run > 0 ? run : owns(ring, position, owner, TD__READING);
}

/* Wholly in the section: another thread may meet the same place that a fork has left behind. */
static void skip_private(td_queue *queue, td__party *me, td__wheel *ring, uint64_t position, uint16_t owner)
{
    td__queue_enter(queue, me);
    uint32_t run = owns_any(ring, position, owner);
    if (run > 0) {
        td__change_begin(queue, &td__wheel_cell(ring, position)->state, 0, 0);
        td__set_atomic(me, &queue->skipped, td__load_relaxed(&queue->skipped) + run);
        empty_run(ring, position, run);
        td__change_end(queue);
    }
    td__section_leave(me, &queue->latch);
}

static bool skip_shared(td_queue *queue, td__party *me, td__party *whose, td__wheel *ring, uint64_t position,
                        uint16_t owner, bool wait)
{
    uint32_t run = owns_any(ring, position, owner);
    if (run == 0)
        return true;
    uint32_t *kind = &whose->step[TD__STEP_QUEUE].kind, former = *kind;
    if (former != TD__QUEUE_SKIP) {
        if (!enter(queue, me, wait))
            return false;
        td__set_atomic(me, &queue->skipped, td__load_relaxed(&queue->skipped) + run);
        td__set(me, kind, TD__QUEUE_SKIP); /* with it, so that it is counted once */
        td__section_leave(me, &queue->latch);
    }
    empty_run(ring, position, run);
    if (whose == me)
        *kind = former;
    return true;
}

bool td__queue_skip(td_queue *queue, td__party *me, td__party *whose, td__wheel *ring, uint64_t position,
                    uint16_t owner, bool wait)
{
    if (!whose)
        skip_private(queue, me, ring, position, owner);
    else if (!skip_shared(queue, me, whose, ring, position, owner, wait))
        return false;
    td__queue_wake_all(queue);
    return true;
}

/* Under the latch: consumers will find this range. While they still look through a former one, both. */
static void note_range(td_queue *queue, td__wheel *ring, uint64_t low, uint64_t high)
{
    if (td__load_relaxed(&queue->returned) != td__load_relaxed(&queue->looked)) {
        uint64_t former_low = td__load_relaxed(&ring->low), former_high = td__load_relaxed(&ring->high);
        if (former_low != former_high) {
            low = (int64_t)(former_low - low) < 0 ? former_low : low;
            high = (int64_t)(former_high - high) > 0 ? former_high : high;
        }
    }
    td__store_relaxed(&ring->low, low);
    td__store_relaxed(&ring->high, high);
    td__program_order();
}

/*
 * Where in the span there are runs of this owner's, and items that have come back: perhaps by a repair that has died
 * before it could say so. The rest of the span is none of his: he may have named it, in this ring or in another one,
 * and then not have got it. false: there is nothing.
 */
static bool find_range(const td__wheel *ring, uint64_t position, uint64_t span, uint16_t owner, uint64_t *low,
                       uint64_t *high)
{
    bool found = false;
    for (uint64_t i = 0; i < span && i < ring->capacity; i++, position = td__wheel_next(ring, position)) {
        uint64_t state = td__load_acquire(&td__wheel_cell(ring, position)->state);
        uint32_t run = owns(ring, position, owner, TD__READING);
        if (run == 0 && state != (td__wheel_lap(ring, position) | TD__BACK))
            continue;
        *low = found ? *low : position;
        *high = td__wheel_after(ring, position, run > 0 ? run : 1);
        found = true;
    }
    return found;
}

static void return_range(td_queue *queue, td__wheel *ring, uint64_t low, uint64_t high, uint16_t owner)
{
    note_range(queue, ring, low, high);
    for (uint64_t at = low; at != high; at = td__wheel_next(ring, at)) {
        uint32_t run = owns(ring, at, owner, TD__READING);
        if (run > 0)
            return_run(ring, at, run);
    }
    /* Release, after range and cells: with look_behind(). */
    td__store_release(&queue->returned, td__load_relaxed(&queue->returned) + 1);
}

bool td__queue_return(td_queue *queue, td__party *me, td__wheel *ring, uint64_t position, uint64_t span, uint16_t owner,
                      bool wait)
{
    uint64_t low, high;
    if (!enter(queue, me, wait))
        return false;
    if (find_range(ring, position, span, owner, &low, &high))
        return_range(queue, ring, low, high, owner);
    td__section_leave(me, &queue->latch);
    td__queue_wake_all(queue);
    return true;
}

/* What has been got: gives the places back. */
static void release(td__wheel *ring, uint64_t position, uint64_t span, uint16_t owner)
{
    for (uint64_t i = 0; i < span && i < ring->capacity; i++, position = td__wheel_next(ring, position)) {
        uint32_t run = owns(ring, position, owner, TD__READING);
        if (run > 0)
            empty_run(ring, position, run);
    }
}

static bool in_region(const void *at, uint64_t size)
{
    return size > 0 && size <= td__shared_size && td__is_shared(at) && td__is_shared((const char *)at + size - 1) &&
           (uintptr_t)at % 8 == 0;
}

static bool is_ring(const td__wheel *ring)
{
    return in_region(ring, sizeof *ring) && ring->capacity > 0 && ring->capacity - 1 <= ring->mask &&
           ring->shift < 64 && ring->mask == ((uint64_t)1 << ring->shift) - 1 && ring->stride >= sizeof(td__cell) &&
           ring->stride % 8 == 0 && ring->capacity <= td__shared_size / ring->stride &&
           in_region(ring->cells, ring->capacity * ring->stride);
}

/* Before it was being freed. */
static bool was_whole(const td_queue *queue)
{
    uint64_t seal = td__queue_seal(queue);
    return (queue->magic == TD__QUEUE_FREED || queue->magic == TD__QUEUE_MAGIC) &&
           (queue->seal == seal || queue->seal == ~seal) && queue->shared;
}

/* Of a queue that was being made or freed, nothing stays. One that was being made may have no memory yet: it is not
 * looked at. */
static bool repair_block(td__party *me, td__party *dead)
{
    td__step *step = &dead->step[TD__STEP_QUEUE];
    td_queue *queue = (td_queue *)step->argument;
    if (!in_region(queue, sizeof *queue))
        return true;
    if (step->kind == TD__QUEUE_FREE && was_whole(queue) && !td__queue_dispose(queue, me, false))
        return false;
    return td__heap_give(me, &step->argument, false);
}

/* By the process that watches. A queue that is none any more, or has been overwritten, is left alone. */
static bool repair(td__party *me, td__party *dead, const td__step *step)
{
    td_queue *queue = (td_queue *)step->object;
    if (step->kind == TD__QUEUE_MAKE || step->kind == TD__QUEUE_FREE)
        return repair_block(me, dead);
    uint32_t number = step->number >> TD__SPAN_BITS, span = step->number & TD__SPAN_MAX;
    if (!in_region(queue, sizeof *queue) || !td__queue_is_whole(queue))
        return true;
    /* Acquire: the rings, as whoever made them has written them. The dead one was in none but these. */
    bool made = number <= td__load_acquire(&queue->gate) >> TD__GATE_SHIFT;
    td__wheel *ring = made && queue->kind == TD_QUEUE_FIFO ? td__queue_ring(queue, number) : NULL;
    uint64_t position = step->argument;
    bool done = true;
    if (ring && span > 0 && is_ring(ring) && (position & ring->mask) < ring->capacity) {
        if (step->kind == TD__QUEUE_PUT || step->kind == TD__QUEUE_SKIP)
            done = td__queue_skip(queue, me, dead, ring, position, dead->index, false);
        else if (step->kind == TD__QUEUE_GET)
            done = td__queue_return(queue, me, ring, position, span, dead->index, false);
        else if (step->kind == TD__QUEUE_GOT)
            release(ring, position, span, dead->index);
    }
    if (done) /* for it was perhaps about to, or has been woken and has not passed it on */
        td__queue_wake_all(queue);
    return done;
}

__attribute__((constructor)) static void set_up(void)
{
    td__step_register(TD__STEP_QUEUE, repair);
}
