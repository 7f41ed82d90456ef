/* SPDX-License-Identifier: MIT */
/* What bench_queue.c asks of a contender, for C and C++. */
#ifndef TANDEM_BENCH_QUEUE_H
#define TANDEM_BENCH_QUEUE_H

#include "items.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { QUEUE_CAPACITY = 4096, QUEUE_BATCH = 64 };

typedef struct item_8 {
    uint64_t v[1];
} item_8;

typedef struct item_64 {
    uint64_t v[8];
} item_64;

typedef struct queue_kind {
    void *(*create)(void);
    void (*destroy)(void *queue);
    void (*produce)(void *queue, int producer, long count);
    void (*consume)(void *queue, long count, items_seen *seen);
    void (*play)(void *to, void *from, long turns, bool begins); /* ping-pong */
} queue_kind;

/* A contender with both sizes of items. */
typedef struct queue_pair {
    queue_kind k8, k64;
    bool single; /* one producer and one consumer only */
} queue_pair;

/*
 * Defines NAME_produce, NAME_consume, NAME_play, compiled for this contender. HANDLE(h, queue) declares what a thread
 * needs to use the queue (a void * by QUEUE_PLAIN); PUT(h, items, n) puts n items, at most BATCH, GET(h, items, most)
 * waits for at least one and returns how many it got.
 */
#define QUEUE_PLAIN(h, queue) void *h = (queue)

#define QUEUE_LOOPS(NAME, ITEM, BATCH, PRODUCER, CONSUMER, PUT, GET)                      \
    static void NAME##_produce(void *queue, int producer, long count)                     \
    {                                                                                     \
        ITEM items[BATCH];                                                                \
        PRODUCER(h, queue);                                                               \
        for (long done = 0; done < count;) {                                              \
            size_t n = count - done < (BATCH) ? (size_t)(count - done) : (size_t)(BATCH); \
            for (size_t i = 0; i < n; i++)                                                \
                item_write(items[i].v, sizeof(ITEM) / 8, item_value(producer, ++done));   \
            PUT(h, items, n);                                                             \
        }                                                                                 \
    }                                                                                     \
    static void NAME##_consume(void *queue, long count, items_seen *seen)                 \
    {                                                                                     \
        ITEM items[BATCH];                                                                \
        CONSUMER(h, queue);                                                               \
        for (size_t left = (size_t)count; left > 0;) {                                    \
            size_t n = GET(h, items, left < (BATCH) ? left : (size_t)(BATCH));            \
            for (size_t i = 0; i < n; i++)                                                \
                item_see(seen, items[i].v, sizeof(ITEM) / 8);                             \
            left -= n;                                                                    \
        }                                                                                 \
    }                                                                                     \
    static void NAME##_play(void *to, void *from, long turns, bool begins)                \
    {                                                                                     \
        ITEM item[1];                                                                     \
        PRODUCER(h_to, to);                                                               \
        CONSUMER(h_from, from);                                                           \
        for (long i = 1; i <= turns; i++) {                                               \
            item_write(item[0].v, sizeof(ITEM) / 8, (uint64_t)i);                         \
            if (begins)                                                                   \
                PUT(h_to, item, 1);                                                       \
            while (GET(h_from, item, 1) != 1)                                             \
                continue;                                                                 \
            if (item[0].v[0] != (uint64_t)i)                                              \
                bench_fail("another item came back");                                     \
            if (!begins)                                                                  \
                PUT(h_to, item, 1);                                                       \
        }                                                                                 \
    }

#define QUEUE_KIND(NAME, CREATE, DESTROY)                            \
    {                                                                \
        CREATE, DESTROY, NAME##_produce, NAME##_consume, NAME##_play \
    }

/* In bench_queue_cxx.cc, if BENCH_MOODYCAMEL, BENCH_TBB. */
extern const queue_pair moodycamel_pair, moodycamel_tokens_pair, moodycamel_bulk_pair, tbb_pair;

#ifdef __cplusplus
}
#endif

#endif
