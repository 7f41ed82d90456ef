/* SPDX-License-Identifier: MIT */
/*
 * LIFO and PRIORITY queues: under the queue's latch, each attempt one section. What it changes of what others rely on
 * (the count, the serial number, the order) is noted, and taken back if it dies; what it writes before that goes to
 * slots that nobody else looks at. In private queues it is noted in short what may be half done (td__change), for the
 * child of a fork: there the change of the count is the moment in which all takes effect.
 *
 * Slots stand in parts: the first has as many as the queue was made with, each further one as many as all before it. A
 * part is an array of slot numbers, then the slots. LIFO uses the slots in their order. PRIORITY keeps slot numbers:
 * the first `count` are a binary heap, the smallest key first, the others are the free slots.
 */
#include "queue/queue.h"
#include "queue/memory.h"

#include <limits.h>

typedef struct slot {
    uint64_t key, serial; /* of PRIORITY */
    /* the item */
} slot;

uint32_t td__sorted_stride(const td_queue *queue)
{
    return (uint32_t)(sizeof(slot) + ((queue->item_size + 7) & ~7u));
}

uint64_t td__sorted_bytes(const td_queue *queue, uint64_t slots)
{
    return ((slots * sizeof(uint32_t) + 15) & ~(uint64_t)15) + slots * queue->stride;
}

/* --- places ------------------------------------------------------------------------------------------------ */

typedef struct place {
    char *part;
    uint64_t size, index;
} place;

static place place_of(const td_queue *queue, uint64_t number)
{
    uint64_t first = queue->first.capacity, from = 0, size = first;
    unsigned part = 0;
    if (number >= first) {
        part = 64 - (unsigned)__builtin_clzll(number / first);
        from = size = first << (part - 1);
    }
    return (place){ (char *)queue->part[part], size, number - from };
}

/* The part that has the last ones of so many slots: as many as the first part has, doubled some times. */
static unsigned last_part(const td_queue *queue, uint64_t slots)
{
    return slots == queue->first.capacity ? 0 : 63 - (unsigned)__builtin_clzll(slots / queue->first.capacity);
}

/* Under the latch: is all that leads to the slots as we have left it? */
static bool leads_on(const td_queue *queue, uint64_t first, uint64_t slots)
{
    unsigned last = slots >= first && slots <= TD__WHEEL_MAX ? last_part(queue, slots) : 0;
    if (first << last != slots)
        return false;
    for (unsigned part = 1; part <= last; part++)
        if (td__queue_part(queue, part) == 0)
            return false;
    return true;
}

static inline bool leads_to_slots(const td_queue *queue)
{
    const td__wheel *shape = &queue->first;
    uint64_t slots = queue->slots;
    return td__likely(shape->seal == td__wheel_seal(shape) && shape->stride == queue->stride &&
                      td__load_relaxed(&queue->count) <= slots && td__queue_part(queue, 0) != 0) &&
           (td__likely(slots == shape->capacity) || leads_on(queue, shape->capacity, slots));
}

static uint32_t *order_at(const td_queue *queue, uint64_t number)
{
    place at = place_of(queue, number);
    return (uint32_t *)(void *)at.part + at.index;
}

/* The number of the slot in this place of the order. If it is that of none, *bad; 0 is that of one. */
static uint32_t number_at(const td_queue *queue, uint64_t place, bool *bad)
{
    uint32_t number = *order_at(queue, place);
    if (td__likely(number < queue->slots))
        return number;
    *bad = true;
    return 0;
}

static slot *slot_at(const td_queue *queue, uint64_t number)
{
    place at = place_of(queue, number);
    return (slot *)(void *)(at.part + td__sorted_bytes(queue, at.size) - (at.size - at.index) * queue->stride);
}

void td__sorted_init(td_queue *queue, uint64_t from, uint64_t count)
{
    for (uint64_t i = from; i < from + count; i++)
        *order_at(queue, i) = (uint32_t)i;
}

/* In the section. Memory for twice as many. */
static int grow(td_queue *queue, td__party *me)
{
    uint64_t slots = queue->slots;
    unsigned part = last_part(queue, slots) + 1;
    if (slots * 2 > TD__WHEEL_MAX || part >= TD__QUEUE_PARTS)
        return td__fail(TD_ETOOBIG, "td_queue_put: a queue without a limit has grown to %llu places, the most",
                        (unsigned long long)slots);
    int r = td__queue_extend(queue, me, part, td__sorted_bytes(queue, slots));
    if (r < 0)
        return r;
    td__sorted_init(queue, slots, slots);
    td__set(me, &queue->slots, slots * 2);
    return 0;
}

/* --- priorities -------------------------------------------------------------------------------------------- */

static uint64_t key_of_signed(const char *at, size_t size)
{
    int64_t value = 0;
    if (size == 1)
        value = *(const int8_t *)at;
    else if (size == 2)
        value = *(const int16_t *)(const void *)at;
    else if (size == 4)
        value = *(const int32_t *)(const void *)at;
    else
        value = *(const int64_t *)(const void *)at;
    return (uint64_t)value ^ (uint64_t)1 << 63;
}

static uint64_t key_of_float(const char *at, size_t size)
{
    double value;
    uint64_t bits;
    if (size == sizeof(float))
        value = (double)*(const float *)(const void *)at;
    else if (size == sizeof(double))
        value = *(const double *)(const void *)at;
    else
        value = (double)*(const long double *)(const void *)at;
    if (value != value)
        return UINT64_MAX;
    value = value == 0 ? 0 : value; /* both zeros are one */
    memcpy(&bits, &value, sizeof bits);
    return bits >> 63 ? ~bits : bits | (uint64_t)1 << 63;
}

/* A number that is smaller for what leaves earlier. */
static uint64_t key_of(const td_queue *queue, const char *item)
{
    _Alignas(16) char number[16] = { 0 };
    memcpy(number, item + queue->key.offset, queue->key.size);
    if (queue->key.kind == TD_KIND_SIGNED)
        return key_of_signed(number, queue->key.size);
    if (queue->key.kind == TD_KIND_FLOAT)
        return key_of_float(number, queue->key.size);
    uint64_t value = 0;
    for (size_t i = 0; i < queue->key.size; i++)
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        value |= (uint64_t)(unsigned char)number[i] << 8 * i;
#else
        value = value << 8 | (unsigned char)number[i];
#endif
    return value;
}

static bool before(const td_queue *queue, uint32_t a, uint32_t b)
{
    const slot *x = slot_at(queue, a), *y = slot_at(queue, b);
    return x->key < y->key || (x->key == y->key && x->serial < y->serial);
}

/* The slot goes from the heap's place `at` to where it belongs, towards the top or the bottom. */
static void sift_up(td_queue *queue, td__party *me, uint64_t at, uint32_t number, bool *bad)
{
    while (at > 0) {
        uint64_t parent = (at - 1) / 2;
        uint32_t above = number_at(queue, parent, bad);
        if (!before(queue, number, above))
            break;
        td__set(me, order_at(queue, at), above);
        at = parent;
    }
    td__set(me, order_at(queue, at), number);
}

static void sift_down(td_queue *queue, td__party *me, uint64_t at, uint64_t count, uint32_t number, bool *bad)
{
    for (;;) {
        uint64_t child = at * 2 + 1;
        if (child >= count)
            break;
        if (child + 1 < count && before(queue, number_at(queue, child + 1, bad), number_at(queue, child, bad)))
            child++;
        uint32_t below = number_at(queue, child, bad);
        if (!before(queue, below, number))
            break;
        td__set(me, order_at(queue, at), below);
        at = child;
    }
    td__set(me, order_at(queue, at), number);
}

/* While a slot's number is on its way, the one that it has passed last stands in two places: in those of a parent and a
 * child; or, when a get has only just begun, in the first and the last. */
static void complete(td_queue *queue, uint64_t placed, uint32_t missing)
{
    for (uint64_t i = 1; i < placed; i++) {
        uint32_t number = *order_at(queue, i);
        if (number == *order_at(queue, (i - 1) / 2) || number == *order_at(queue, 0)) {
            *order_at(queue, i) = missing;
            return;
        }
    }
}

static uint64_t place_in_order(const td_queue *queue, uint64_t last, uint32_t number)
{
    while (last > 0 && *order_at(queue, last) != number)
        last--;
    return last;
}

void td__sorted_take_back(td_queue *queue)
{
    uint64_t count = queue->change.before, placed = queue->change.placed;
    uint32_t slot = queue->change.slot;
    if (placed == 0) /* no change of the order */
        return;
    complete(queue, placed, slot);
    if (placed > count) { /* a put: its slot is the first free one again */
        *order_at(queue, place_in_order(queue, count, slot)) = *order_at(queue, count);
        *order_at(queue, count) = slot;
    }
    bool bad = false;
    for (uint64_t i = count / 2; i-- > 0;)
        sift_down(queue, NULL, i, count, *order_at(queue, i), &bad);
}

/* --- attempts, in the section ------------------------------------------------------------------------------ */

static int put_one(td_queue *queue, td__party *me, const char *item)
{
    uint64_t count = td__load_relaxed(&queue->count);
    if (td__load_relaxed(&queue->gate) & TD__GATE_SHUT)
        return TD_ECLOSED;
    if (!leads_to_slots(queue))
        return TD_ECORRUPT;
    if (queue->capacity && count >= queue->capacity)
        return TD_EFULL;
    if (count == queue->slots) {
        int r = grow(queue, me);
        if (r < 0)
            return r;
    }
    bool sorted = queue->kind == TD_QUEUE_PRIORITY, bad = false;
    if (sorted && !td__queue_is_whole(queue)) /* it says where the key is */
        return TD_ECORRUPT;
    uint32_t number = sorted ? number_at(queue, count, &bad) : (uint32_t)count;
    slot *slot = slot_at(queue, number);
    memcpy(slot + 1, item, queue->item_size);
    slot->serial = td__load_relaxed(&queue->serial);
    td__change_begin(queue, &queue->count, sorted ? count + 1 : 0, number);
    if (sorted) {
        slot->key = key_of(queue, item);
        sift_up(queue, me, count, number, &bad);
    }
    if (td__unlikely(bad)) {
        td__section_undo(me);
        td__change_end(queue);
        return TD_ECORRUPT;
    }
    td__set_atomic(me, &queue->serial, td__load_relaxed(&queue->serial) + 1);
    td__set_atomic(me, &queue->count, count + 1);
    td__change_end(queue);
    return 0;
}

static int get_first(td_queue *queue, td__party *me, char *out)
{
    uint64_t count = td__load_relaxed(&queue->count);
    bool bad = false;
    uint32_t top = number_at(queue, 0, &bad), last = number_at(queue, count - 1, &bad);
    memcpy(out, slot_at(queue, top) + 1, queue->item_size);
    td__change_begin(queue, &queue->count, count, last);
    td__set(me, order_at(queue, count - 1), top);
    if (count > 1)
        sift_down(queue, me, 0, count - 1, last, &bad);
    if (td__unlikely(bad)) {
        td__section_undo(me);
        td__change_end(queue);
        return TD_ECORRUPT;
    }
    td__set_atomic(me, &queue->count, count - 1);
    td__change_end(queue);
    return 1;
}

/* Up to `most` items of a LIFO queue, one of a PRIORITY queue, for more changes than that cannot be noted. How many, or
 * TD_ECORRUPT. */
static int64_t get_some(td_queue *queue, td__party *me, char *out, size_t most)
{
    uint64_t count = td__load_relaxed(&queue->count);
    if (!leads_to_slots(queue))
        return TD_ECORRUPT;
    if (queue->kind == TD_QUEUE_PRIORITY)
        return get_first(queue, me, out);
    most = most < count ? most : count;
    for (size_t i = 0; i < most; i++)
        memcpy(out + i * queue->item_size, slot_at(queue, count - 1 - i) + 1, queue->item_size);
    td__set_atomic(me, &queue->count, count - most);
    return (int64_t)most;
}

/* Who finds nothing to do need not keep the others out; here and below. */
int td__sorted_put(td_queue *queue, td__party *me, td__op *op)
{
    int r = 0;
    size_t start = op->done;
    uint32_t gate = td__load_seq_cst(&queue->gate);
    if (queue->capacity && td__load_seq_cst(&queue->count) == queue->capacity && !(gate & TD__GATE_SHUT))
        return TD_EFULL;
    while (r == 0 && op->done < op->count) {
        td__queue_enter(queue, me);
        r = put_one(queue, me, op->in + op->done * queue->item_size);
        td__section_leave(me, &queue->latch);
        if (r == 0)
            op->done++;
    }
    if (op->done > start)
        td__queue_changed(queue, &queue->items, (int)(op->done - start < INT_MAX ? op->done - start : INT_MAX));
    return r;
}

int td__sorted_get(td_queue *queue, td__party *me, td__op *op)
{
    uint32_t gate = td__load_seq_cst(&queue->gate);
    /* After a shutdown it must be certain: somebody may die in a section that has changed the count. */
    if (td__load_seq_cst(&queue->count) == 0 && !(gate & TD__GATE_SHUT))
        return TD_EEMPTY;
    int r = 0;
    int64_t got = 0;
    td__queue_enter(queue, me);
    gate = td__load_relaxed(&queue->gate);
    if (gate & TD__GATE_DROPPED || (td__load_relaxed(&queue->count) == 0 && gate & TD__GATE_SHUT))
        r = TD_ECLOSED;
    else if (td__load_relaxed(&queue->count) == 0)
        r = TD_EEMPTY;
    else
        got = get_some(queue, me, op->out, op->count);
    td__section_leave(me, &queue->latch);
    if (got < 0)
        return (int)got;
    op->done = (size_t)got;
    if (r == 0)
        td__queue_changed(queue, &queue->space, (int)(op->done < INT_MAX ? op->done : INT_MAX));
    return r;
}

void td__sorted_drop(td_queue *queue, td__party *me)
{
    td__queue_enter(queue, me);
    td__change_begin(queue, &queue->count, 0, 0);
    td__set_atomic(me, &queue->skipped, td__load_relaxed(&queue->skipped) + td__load_relaxed(&queue->count));
    td__set_atomic(me, &queue->count, 0);
    td__change_end(queue);
    td__section_leave(me, &queue->latch);
}
