/* SPDX-License-Identifier: MIT */
/*
 * A queue's memory: the block that it stands in, with its first ring or slots; further ones; blocks for large items.
 *
 * Every block is named in one word, in the queue or in its maker's record, from the moment in which it is taken to that
 * in which it is given back; so a death loses none, and giving all back can be begun again.
 */
#include "queue/memory.h"
#include "memory/heap.h"
#include <tandem/shared.h>

#include <inttypes.h>

#define CALL "td_queue"

/* Private blocks: the address that td__alloc gave, before an aligned one. */
static void *take_private(size_t size)
{
    char *block = size < SIZE_MAX / 2 ? td__alloc(size + TD__QUEUE_LINE) : NULL;
    if (!block) {
        td__fail(TD_ENOMEM, "td_queue: out of memory for %zu bytes", size);
        return NULL;
    }
    uintptr_t at = ((uintptr_t)block + TD__QUEUE_LINE) & ~(uintptr_t)(TD__QUEUE_LINE - 1);
    ((void **)at)[-1] = block;
    return (void *)at;
}

void *td__queue_take(td__party *me, bool shared, size_t size, uintptr_t *name)
{
    if (!shared) {
        void *block = take_private(size);
        *name = (uintptr_t)block;
        return block;
    }
    void *block = td__heap_take(me, TD__QUEUE_LINE, size, name, CALL);
    td__program_order();
    return block ? memset(block, 0, size) : NULL;
}

bool td__queue_give(td__party *me, bool shared, uintptr_t *name, bool wait)
{
    if (*name == 0)
        return true;
    if (shared)
        return td__heap_give(me, name, wait);
    void *block = ((void **)*name)[-1];
    *name = 0;
    td__program_order(); /* the child of another thread's fork frees no block twice */
    td__release(block);
    return true;
}

/* --- rings ------------------------------------------------------------------------------------------------- */

uint64_t td__wheel_bytes(uint64_t capacity, uint32_t stride)
{
    return capacity * stride;
}

uint32_t td__wheel_stride(uint32_t item, bool limited)
{
    uint32_t size = (uint32_t)sizeof(td__cell) + item, stride = sizeof(td__cell);
    if (!limited || size > TD__QUEUE_LINE)
        return (size + 7) & ~7u;
    while (stride < size)
        stride *= 2;
    return stride;
}

void td__wheel_init(td__wheel *ring, uint64_t capacity, uint32_t stride, char *cells)
{
    ring->shift = 0;
    while ((uint64_t)1 << ring->shift < capacity)
        ring->shift++;
    ring->mask = ((uint64_t)1 << ring->shift) - 1;
    ring->capacity = capacity;
    ring->stride = stride;
    ring->cells = cells;
    ring->seal = td__wheel_seal(ring);
}

int td__queue_extend(td_queue *queue, td__party *me, uint32_t number, uint64_t bytes)
{
    uintptr_t *part = &queue->part[number];
    if (*part == 0) {
        if (!td__queue_take(me, queue->shared, bytes, part))
            return td_last_error();
    } else if (queue->shared) { /* one that is gone came so far, or somebody has written over it */
        if (td_shared_size((void *)*part) < bytes)
            return TD_ECORRUPT;
        if (td__heap_complete((void *)*part, CALL) < 0)
            return TD_ENOMEM;
    }
    queue->proof[number] = ~*part;
    td__program_order();
    return 0;
}

static int add_ring(td_queue *queue, td__party *me, uint32_t number, uint64_t capacity)
{
    if (number >= TD__QUEUE_PARTS || capacity > TD__WHEEL_MAX)
        return td__fail(TD_ETOOBIG, "td_queue_put: a queue without a limit has grown to %" PRIu64 " places, the most",
                        (uint64_t)TD__WHEEL_MAX);
    uint64_t bytes = sizeof(td__wheel) + td__wheel_bytes(capacity, queue->stride);
    bool there = queue->part[number] != 0;
    int r = td__queue_extend(queue, me, number, bytes);
    if (r < 0)
        return r;
    td__wheel *ring = (td__wheel *)queue->part[number];
    if (there) /* a dead one, or one that a fork has left behind, may not have come to the end of the zeros */
        memset(ring, 0, bytes);
    td__wheel_init(ring, capacity, queue->stride, (char *)(ring + 1));
    td__program_order();
    return 0;
}

int td__queue_grow(td_queue *queue, td__party *me, uint32_t number)
{
    me = me ? me : td__party_self();
    if (!me)
        return td_last_error();
    int r = 0;
    td__queue_enter(queue, me);
    uint32_t gate = td__load_relaxed(&queue->gate);
    const td__wheel *last = td__queue_ring(queue, number);
    if (!last || !td__queue_is_whole(queue)) {
        r = TD_ECORRUPT;
    } else if (gate >> TD__GATE_SHIFT == number && !(gate & TD__GATE_SHUT)) {
        r = add_ring(queue, me, number + 1, last->capacity * 2);
        /* Sequentially consistent, with enter() and drained() in fifo.c. */
        if (r == 0)
            td__store_seq_cst(&queue->gate, gate + (1u << TD__GATE_SHIFT));
    }
    td__section_leave(me, &queue->latch);
    return r;
}

/* --- the end ----------------------------------------------------------------------------------------------- */

static bool give_blocks(td_queue *queue, td__party *me, const td__wheel *ring, bool wait)
{
    for (uint64_t i = 0; i < ring->capacity; i++) {
        td__sized *sized = (td__sized *)(td__wheel_cell(ring, i) + 1);
        if (!td__queue_give(me, queue->shared, &sized->block, wait))
            return false;
    }
    return true;
}

bool td__queue_dispose(td_queue *queue, td__party *me, bool wait)
{
    for (uint32_t number = TD__QUEUE_PARTS; number-- > 0;) {
        if (queue->part[number] == 0)
            continue;
        const td__wheel *ring = queue->any_size ? td__queue_ring(queue, number) : NULL;
        if (ring && !give_blocks(queue, me, ring, wait))
            return false;
        /* It stands in the queue's own block; or it is not what it was, nor what a dead one has left half done. */
        if (number == 0 || (queue->proof[number] != 0 && td__queue_part(queue, number) == 0))
            queue->part[number] = 0;
        else if (!td__queue_give(me, queue->shared, &queue->part[number], wait))
            return false;
    }
    return true;
}
