/* SPDX-License-Identifier: MIT */
/*
 * Shared values and arrays: blocks whose last bytes say how many elements of what size they have, and are their lock.
 * What is written there when one is made stays; its check tells a block of another kind, and one that was written over.
 */
#include "memory/heap.h"
#include <tandem/shared.h>

#define MAGIC 0x79617272612d6474u

typedef struct tail {
    uint64_t check;
    td_rlock lock;
    uint64_t count, size;
} tail;

static uint64_t check_of(const tail *tail)
{
    return (MAGIC ^ (uintptr_t)tail) + (tail->count * 0x9e3779b97f4a7c15u ^ tail->size);
}

/* The tail stands at the end of what the block has, wherever the elements end. */
static tail *tail_at(const void *array, size_t block_size)
{
    return (tail *)(uintptr_t)((const char *)array + block_size - sizeof(tail));
}

static tail *tail_of(const void *array, const char *call)
{
    size_t size = array ? td_shared_size(array) : 0;
    tail *tail = size >= sizeof *tail ? tail_at(array, size) : NULL;
    if (!tail || tail->check != check_of(tail))
        td__bug("%s: %p is no shared value or array, or its end was written over", call, array);
    return tail;
}

void *td_shared_make(size_t count, size_t size, size_t alignment, const void *first)
{
    size_t all;
    if (__builtin_mul_overflow(count, size, &all) || all > SIZE_MAX - sizeof(tail)) {
        td__fail(TD_ENOMEM, "td_shared_array: %zu elements of %zu bytes are more than memory", count, size);
        return NULL;
    }
    void *made = td_shared_alloc_aligned(alignment < 16 ? 16 : alignment, all + sizeof(tail));
    if (!made)
        return NULL;
    if (first)
        memcpy(made, first, all);
    else
        memset(made, 0, all);
    tail *tail = tail_at(made, td_shared_size(made));
    *tail = (struct tail){ .count = count, .size = size };
    tail->check = check_of(tail);
    return made;
}

td_rlock *td_shared_lock(const void *array)
{
    return &tail_of(array, "td_shared_lock")->lock;
}

size_t td_shared_count(const void *array)
{
    return tail_of(array, "td_shared_count")->count;
}

static tail *typed_tail(const void *array, size_t size, const char *call)
{
    tail *tail = tail_of(array, call);
    if (tail->size != size)
        td__bug("%s: the elements of %p have %zu bytes, not %zu", call, array, (size_t)tail->size, size);
    return tail;
}

size_t td_shared_index(const void *array, size_t size, size_t index)
{
    const tail *tail = typed_tail(array, size, "td_shared_at");
    if (index >= tail->count)
        td__bug("td_shared_at: index %zu is out of bounds: array %p has %zu elements", index, array,
                (size_t)tail->count);
    return index;
}

void *td_shared_enter(void *array, size_t size, size_t index)
{
    tail *tail = typed_tail(array, size, "td_shared_add");
    td_shared_index(array, size, index);
    return td_rlock_acquire(&tail->lock) >= 0 ? (char *)array + index * size : NULL;
}

void td_shared_leave(void *array)
{
    td_rlock_release(&tail_of(array, "td_shared_add")->lock);
}

/* Acquires the lock if the slice is inside. */
static int open_slice(const void *array, size_t size, size_t from, size_t count, const void *other, const char *call)
{
    tail *tail = typed_tail(array, size, call);
    if (from > tail->count || count > tail->count - from)
        return td__fail(TD_EINVAL, "%s: %zu elements from index %zu on are not inside: array %p has %zu", call, count,
                        from, array, (size_t)tail->count);
    if (!other && count > 0)
        return td__fail(TD_EINVAL, "%s: %zu elements at NULL", call, count);
    return td_rlock_acquire(&tail->lock);
}

int td_shared_copy_out(const void *array, size_t size, size_t from, size_t count, void *to)
{
    int r = open_slice(array, size, from, count, to, "td_shared_read");
    if (r < 0)
        return r;
    if (count > 0)
        memcpy(to, (const char *)array + from * size, count * size);
    td_rlock_release(td_shared_lock(array));
    return r;
}

int td_shared_copy_in(void *array, size_t size, size_t from, size_t count, const void *source)
{
    int r = open_slice(array, size, from, count, source, "td_shared_write");
    if (r < 0)
        return r;
    if (count > 0)
        memcpy((char *)array + from * size, source, count * size);
    td_rlock_release(td_shared_lock(array));
    return r;
}
