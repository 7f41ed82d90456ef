/* SPDX-License-Identifier: MIT */
/* Numbers in items and messages, by which a consumer sees whether all came to it in order and whole. C and C++. */
#ifndef TANDEM_BENCH_ITEMS_H
#define TANDEM_BENCH_ITEMS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { PRODUCERS_MAX = 8 };

/* What a consumer has seen: each producer's items come in order and whole, and the sum tells that all came to somebody.
 */
typedef struct items_seen {
    uint64_t sum;
    uint64_t last[PRODUCERS_MAX];
} items_seen;

__attribute__((noreturn)) void bench_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A producer's numbers begin with 1. */
static inline uint64_t item_value(int producer, long number)
{
    return (uint64_t)producer << 40 | (uint64_t)number;
}

/* The sum of a producer's first `count` values. */
static inline uint64_t item_sum(int producer, long count)
{
    return (uint64_t)count * item_value(producer, 0) + (uint64_t)count * ((uint64_t)count + 1) / 2;
}

static inline void item_write(uint64_t *v, size_t words, uint64_t value)
{
    v[0] = value;
    v[words - 1] = value;
}

static inline void item_see(items_seen *seen, const uint64_t *v, size_t words)
{
    uint64_t producer = v[0] >> 40;
    if (v[words - 1] != v[0])
        bench_fail("an item is torn");
    if (producer >= PRODUCERS_MAX || v[0] <= seen->last[producer])
        bench_fail("an item is out of order");
    seen->last[producer] = v[0];
    seen->sum += v[0];
}

#ifdef __cplusplus
}
#endif

#endif
