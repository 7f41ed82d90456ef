/* SPDX-License-Identifier: MIT */
/*
 * What the tests of queues share: memory that all processes see, items that show whether they are whole, and a ledger
 * of what was put and what was delivered.
 */
#ifndef TANDEM_TESTS_QUEUE_LEDGER_H
#define TANDEM_TESTS_QUEUE_LEDGER_H

#include "harness.h"
#include <tandem/queue.h>
#include <tandem/shared.h>
#include "memory/heap.h"
#include "os/os.h"

/* Zeroed, in the shared heap. */
static inline void *shared_memory(size_t size)
{
    uintptr_t name = 0;
    td__party *me = td__party_self();
    REQUIRE(me != NULL);
    void *block = td__heap_take(me, 64, size, &name, "test");
    REQUIRE(block != NULL);
    return memset(block, 0, size);
}

typedef struct item {
    uint32_t producer, number;
    uint64_t filling[6];
    uint64_t sum;
} item;

static inline uint64_t item_sum(const item *i)
{
    uint64_t sum = 0x9e3779b97f4a7c15u ^ i->producer ^ (uint64_t)i->number << 32;
    for (size_t at = 0; at < TD__COUNT(i->filling); at++)
        sum = (sum ^ i->filling[at]) * 0xff51afd7ed558ccdu + at;
    return sum;
}

static inline item item_make(uint32_t producer, uint32_t number)
{
    item i = { .producer = producer, .number = number };
    for (size_t at = 0; at < TD__COUNT(i.filling); at++)
        i.filling[at] = (uint64_t)number * 0x9e3779b97f4a7c15u + at * producer;
    i.sum = item_sum(&i);
    return i;
}

static inline bool item_whole(const item *i)
{
    return i->sum == item_sum(i);
}

/* The index of a party of this process, dead or alive; 0: none any more. (While its record waits for the repair, the
 * entry has a mark beside the pid.) */
static inline uint32_t party_of(pid_t pid)
{
    for (uint32_t i = 1; i < td__load_acquire(&td__the_region->party_top); i++)
        if ((td__load_acquire(td__party_entry(i)) & 0x7fffffff) == (uint32_t)pid)
            return i;
    return 0;
}

/* All that a dead process was in the middle of has been put right. */
static inline bool is_repaired(pid_t pid)
{
    return party_of(pid) == 0;
}

static inline void repaired(pid_t pid)
{
    WAIT_UNTIL(is_repaired(pid), 20);
}

/* A queue for workers of this mode; private ones for threads only. */
#define QUEUE(...) queue_made(td_queue_new(__VA_ARGS__), __FILE__, __LINE__)
static inline td_queue *queue_made(td_queue *q, const char *file, int line)
{
    harness_check_ok(true, q ? 0 : td_last_error(), file, line, "td_queue_new");
    return q;
}

/* A joinable one of numbers. */
static inline td_queue *queue_of(int kind, bool shared, size_t capacity)
{
    return QUEUE(.item_size = sizeof(int), .capacity = capacity, .shared = shared, .kind = (td_queue_kind)kind,
                 .priority = kind == TD_QUEUE_PRIORITY ? TD_PRIORITY_ITEM(int) : (td_priority){ 0 }, .joinable = true);
}

/* Of each kind, in all places that workers of this mode can share. */
#define FOR_ALL_QUEUES                   \
    for (int kind = 0; kind < 3; kind++) \
        for (int shared = how != &mode_thread; shared < 2; shared++)

#endif
