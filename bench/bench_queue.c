/* SPDX-License-Identifier: MIT */
/* How many items a second go through a queue in one process, and how long do one there and one back take? */
#include "bench_queue.h"
#include "common.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <tandem.h>
#ifdef BENCH_GLIB
#include <glib.h>
#endif
#ifdef BENCH_CK
#include <ck_ring.h>
#endif

enum { TURN_SHARE = 100 }; /* n items in each run, and n / TURN_SHARE round trips */

enum { Q1_8, Q1_64, Q2_8, Q2_64, Q4_8, Q4_64, TURN, METRICS };

/* --- the measurements ------------------------------------------------------------------------------------------- */

typedef struct flow {
    const queue_kind *kind;
    void *queue, *back; /* back: for round trips */
    int each;           /* producers, and as many consumers */
    long n;
    items_seen seen[PRODUCERS_MAX]; /* by consumer */
    bench_parts parts;
} flow;

/* One producer and one consumer have a CPU each, so that they do not meet by chance. */
static void take_part(int index, void *argument)
{
    flow *f = argument;
    if (f->each == 1)
        bench_pin_to(index);
    if (index < f->each) {
        f->kind->produce(f->queue, index, f->n / f->each);
    } else {
        items_seen seen = { 0 };
        f->kind->consume(f->queue, f->n / f->each, &seen);
        f->seen[index - f->each] = seen;
    }
}

/* Millions of items a second. */
static double throughput(const queue_kind *kind, int each, long n)
{
    flow f = { .kind = kind, .queue = kind->create(), .each = each, .n = n - n % each };
    uint64_t sum = 0, expected = 0;
    int64_t ns = bench_team_run(2 * each, false, take_part, &f);
    for (int i = 0; i < each; i++) {
        sum += f.seen[i].sum;
        expected += item_sum(i, f.n / each);
    }
    if (sum != expected)
        bench_fail("items were lost, or came twice");
    kind->destroy(f.queue);
    return (double)f.n * 1e3 / (double)ns;
}

static void play(int index, void *argument)
{
    flow *f = argument;
    bench_pin_to(index);
    for (int i = 0; i <= BENCH_PARTS; i++) {
        if (index == 0)
            f->parts.at[i] = bench_now();
        if (i < BENCH_PARTS)
            f->kind->play(index ? f->back : f->queue, index ? f->queue : f->back, f->n / BENCH_PARTS, index == 0);
    }
}

static double round_trip_ns(const queue_kind *kind, long turns)
{
    flow f = { .kind = kind, .queue = kind->create(), .back = kind->create(), .n = turns };
    bench_team_run(2, false, play, &f);
    double ns = bench_part_ns(&f.parts, turns / BENCH_PARTS);
    kind->destroy(f.queue);
    kind->destroy(f.back);
    return ns;
}

static size_t measure_queue(const queue_pair *pair, long n, double *values)
{
    for (int i = 0; i < METRICS; i++)
        values[i] = NAN;
    for (int each = 1, m = Q1_8; each <= (pair->single ? 1 : 4); each *= 2, m += 2) {
        values[m] = throughput(&pair->k8, each, n);
        values[m + 1] = throughput(&pair->k64, each, n);
    }
    values[TURN] = round_trip_ns(&pair->k8, n / TURN_SHARE);
    return METRICS;
}

#define QUEUE_OP(NAME)                                 \
    static size_t NAME(long n, double *values)         \
    {                                                  \
        return measure_queue(&NAME##_pair, n, values); \
    }

/* --- Tandem ----------------------------------------------------------------------------------------------------- */

static void *tandem_create(size_t item_size, size_t capacity)
{
    td_queue *q = td_queue_new(.item_size = item_size, .capacity = capacity);
    if (q == NULL)
        bench_fail("td_queue_new: %s", td_last_message());
    return q;
}

static void *bounded_create_8(void)
{
    return tandem_create(sizeof(item_8), QUEUE_CAPACITY);
}

static void *bounded_create_64(void)
{
    return tandem_create(sizeof(item_64), QUEUE_CAPACITY);
}

static void *unbounded_create_8(void)
{
    return tandem_create(sizeof(item_8), 0);
}

static void *unbounded_create_64(void)
{
    return tandem_create(sizeof(item_64), 0);
}

static void tandem_destroy(void *queue)
{
    td_queue_free(queue);
}

static inline void tandem_put(void *queue, const void *item, size_t n)
{
    (void)n;
    if (td_queue_put(queue, item) < 0)
        bench_fail("td_queue_put: %s", td_last_message());
}

static inline size_t tandem_get(void *queue, void *item, size_t most)
{
    (void)most;
    if (td_queue_get(queue, item) < 0)
        bench_fail("td_queue_get: %s", td_last_message());
    return 1;
}

static inline void tandem_put_many(void *queue, const void *items, size_t n)
{
    if (td_queue_put_many(queue, items, n) != (int64_t)n)
        bench_fail("td_queue_put_many: %s", td_last_message());
}

static inline size_t tandem_get_many(void *queue, void *items, size_t most)
{
    int64_t n = td_queue_get_many(queue, items, most);
    if (n <= 0)
        bench_fail("td_queue_get_many: %s", td_last_message());
    return (size_t)n;
}

QUEUE_LOOPS(tandem_8, item_8, 1, QUEUE_PLAIN, QUEUE_PLAIN, tandem_put, tandem_get)
QUEUE_LOOPS(tandem_64, item_64, 1, QUEUE_PLAIN, QUEUE_PLAIN, tandem_put, tandem_get)
QUEUE_LOOPS(many_8, item_8, QUEUE_BATCH, QUEUE_PLAIN, QUEUE_PLAIN, tandem_put_many, tandem_get_many)
QUEUE_LOOPS(many_64, item_64, QUEUE_BATCH, QUEUE_PLAIN, QUEUE_PLAIN, tandem_put_many, tandem_get_many)

static const queue_pair bounded_pair = { QUEUE_KIND(tandem_8, bounded_create_8, tandem_destroy),
                                         QUEUE_KIND(tandem_64, bounded_create_64, tandem_destroy), false };
static const queue_pair unbounded_pair = { QUEUE_KIND(tandem_8, unbounded_create_8, tandem_destroy),
                                           QUEUE_KIND(tandem_64, unbounded_create_64, tandem_destroy), false };
static const queue_pair many_pair = { QUEUE_KIND(many_8, bounded_create_8, tandem_destroy),
                                      QUEUE_KIND(many_64, bounded_create_64, tandem_destroy), false };
QUEUE_OP(bounded)
QUEUE_OP(unbounded)
QUEUE_OP(many)

/* --- limit: a bare ring ----------------------------------------------------------------------------------------- */

/* Each side keeps the other's index as it last saw it. */
#define RING(SIZE)                                                                       \
    typedef struct ring_##SIZE {                                                         \
        _Alignas(64) _Atomic size_t head; /* written by the consumer */                  \
        size_t seen_tail;                                                                \
        _Alignas(64) _Atomic size_t tail; /* written by the producer */                  \
        size_t seen_head;                                                                \
        _Alignas(64) item_##SIZE slots[QUEUE_CAPACITY];                                  \
    } ring_##SIZE;                                                                       \
                                                                                         \
    static void *ring_##SIZE##_create(void)                                              \
    {                                                                                    \
        return bench_share(sizeof(ring_##SIZE));                                         \
    }                                                                                    \
    static void ring_##SIZE##_destroy(void *queue)                                       \
    {                                                                                    \
        bench_unshare(queue, sizeof(ring_##SIZE));                                       \
    }                                                                                    \
    static inline void ring_##SIZE##_put(void *queue, const item_##SIZE *item, size_t n) \
    {                                                                                    \
        ring_##SIZE *r = queue;                                                          \
        size_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);              \
        unsigned spins = 0;                                                              \
        (void)n;                                                                         \
        while (tail - r->seen_head == QUEUE_CAPACITY) {                                  \
            r->seen_head = atomic_load_explicit(&r->head, memory_order_acquire);         \
            if (tail - r->seen_head == QUEUE_CAPACITY)                                   \
                bench_spin(&spins);                                                      \
        }                                                                                \
        r->slots[tail % QUEUE_CAPACITY] = *item;                                         \
        atomic_store_explicit(&r->tail, tail + 1, memory_order_release);                 \
    }                                                                                    \
    static inline size_t ring_##SIZE##_get(void *queue, item_##SIZE *item, size_t most)  \
    {                                                                                    \
        ring_##SIZE *r = queue;                                                          \
        size_t head = atomic_load_explicit(&r->head, memory_order_relaxed);              \
        unsigned spins = 0;                                                              \
        (void)most;                                                                      \
        while (head == r->seen_tail) {                                                   \
            r->seen_tail = atomic_load_explicit(&r->tail, memory_order_acquire);         \
            if (head == r->seen_tail)                                                    \
                bench_spin(&spins);                                                      \
        }                                                                                \
        *item = r->slots[head % QUEUE_CAPACITY];                                         \
        atomic_store_explicit(&r->head, head + 1, memory_order_release);                 \
        return 1;                                                                        \
    }                                                                                    \
    QUEUE_LOOPS(ring_##SIZE, item_##SIZE, 1, QUEUE_PLAIN, QUEUE_PLAIN, ring_##SIZE##_put, ring_##SIZE##_get)

RING(8)
RING(64)

static const queue_pair ring_pair = { QUEUE_KIND(ring_8, ring_8_create, ring_8_destroy),
                                      QUEUE_KIND(ring_64, ring_64_create, ring_64_destroy), true };
QUEUE_OP(ring)

/* --- queues of pointers: 8 bytes are the pointer, 64 are allocated and freed ------------------------------------ */

static inline void *pack_8(const item_8 *item)
{
    return (void *)(uintptr_t)item->v[0];
}

static inline void unpack_8(void *pointer, item_8 *item)
{
    item->v[0] = (uintptr_t)pointer;
}

static inline void *pack_64(const item_64 *item)
{
    item_64 *copy = malloc(sizeof *copy);
    if (copy == NULL)
        bench_fail("malloc");
    *copy = *item;
    return copy;
}

static inline void unpack_64(void *pointer, item_64 *item)
{
    *item = *(item_64 *)pointer;
    free(pointer);
}

/* NAME_push(queue, pointer) and NAME_pop(queue) are there. */
#define POINTER_QUEUE(NAME, SIZE)                                                          \
    static inline void NAME##_##SIZE##_put(void *queue, const item_##SIZE *item, size_t n) \
    {                                                                                      \
        (void)n;                                                                           \
        NAME##_push(queue, pack_##SIZE(item));                                             \
    }                                                                                      \
    static inline size_t NAME##_##SIZE##_get(void *queue, item_##SIZE *item, size_t most)  \
    {                                                                                      \
        (void)most;                                                                        \
        unpack_##SIZE(NAME##_pop(queue), item);                                            \
        return 1;                                                                          \
    }                                                                                      \
    QUEUE_LOOPS(NAME##_##SIZE, item_##SIZE, 1, QUEUE_PLAIN, QUEUE_PLAIN, NAME##_##SIZE##_put, NAME##_##SIZE##_get)

#define POINTER_PAIR(NAME, SINGLE)                                                                          \
    POINTER_QUEUE(NAME, 8)                                                                                  \
    POINTER_QUEUE(NAME, 64)                                                                                 \
    static const queue_pair NAME##_pair = { QUEUE_KIND(NAME##_8, NAME##_create, NAME##_destroy),            \
                                            QUEUE_KIND(NAME##_64, NAME##_create, NAME##_destroy), SINGLE }; \
    QUEUE_OP(NAME)

#ifdef BENCH_GLIB
static void *gasync_create(void)
{
    return g_async_queue_new();
}

static void gasync_destroy(void *queue)
{
    g_async_queue_unref(queue);
}

static inline void gasync_push(void *queue, void *pointer)
{
    g_async_queue_push(queue, pointer);
}

static inline void *gasync_pop(void *queue)
{
    return g_async_queue_pop(queue);
}

POINTER_PAIR(gasync, false)
#endif

#ifdef BENCH_CK
typedef struct ck_queue {
    ck_ring_t ring;
    ck_ring_buffer_t slots[QUEUE_CAPACITY];
} ck_queue;

static void *ck_create(void)
{
    ck_queue *q = bench_share(sizeof *q);
    ck_ring_init(&q->ring, QUEUE_CAPACITY);
    return q;
}

static void ck_destroy(void *queue)
{
    bench_unshare(queue, sizeof(ck_queue));
}

#define CK_QUEUE(WAY)                                                \
    static inline void ck_##WAY##_push(void *queue, void *pointer)   \
    {                                                                \
        ck_queue *q = queue;                                         \
        unsigned spins = 0;                                          \
        while (!ck_ring_enqueue_##WAY(&q->ring, q->slots, pointer))  \
            bench_spin(&spins);                                      \
    }                                                                \
    static inline void *ck_##WAY##_pop(void *queue)                  \
    {                                                                \
        ck_queue *q = queue;                                         \
        void *pointer;                                               \
        unsigned spins = 0;                                          \
        while (!ck_ring_dequeue_##WAY(&q->ring, q->slots, &pointer)) \
            bench_spin(&spins);                                      \
        return pointer;                                              \
    }

CK_QUEUE(spsc)
CK_QUEUE(mpmc)
#define ck_spsc_create  ck_create
#define ck_spsc_destroy ck_destroy
#define ck_mpmc_create  ck_create
#define ck_mpmc_destroy ck_destroy
POINTER_PAIR(ck_spsc, true)
/* Could do more, but with more threads than CPUs its producers wait for a preempted one: for minutes at times. */
POINTER_PAIR(ck_mpmc, true)
#endif

#ifdef BENCH_MOODYCAMEL
QUEUE_OP(moodycamel)
QUEUE_OP(moodycamel_tokens)
QUEUE_OP(moodycamel_bulk)
#endif
#ifdef BENCH_TBB
QUEUE_OP(tbb)
#endif

/* --- the driver ------------------------------------------------------------------------------------------------- */

static const bench_op ops[] = {
    { "td", bounded },
    { "td-unbounded", unbounded },
    { "td-many", many },
    { "ring", ring },
#ifdef BENCH_MOODYCAMEL
    { "moodycamel", moodycamel },
    { "moodycamel-tokens", moodycamel_tokens },
    { "moodycamel-bulk", moodycamel_bulk },
#endif
#ifdef BENCH_CK
    { "ck-spsc", ck_spsc },
    { "ck-mpmc", ck_mpmc },
#endif
#ifdef BENCH_TBB
    { "tbb", tbb },
#endif
#ifdef BENCH_GLIB
    { "gasync", gasync },
#endif
};

static bench_server tandem_server, peers;

static bench_row rows[] = {
    BENCH_ROW("ring", BENCH_LIMIT, &peers, "ring", 5000000, 1000000, "limit: ring for one and one, spinning"),
    BENCH_ROW("td", BENCH_TANDEM, &tandem_server, "td", 1000000, 300000, "Tandem td_queue, 4096 places"),
    BENCH_ROW("td-unbounded", BENCH_TANDEM, &tandem_server, "td-unbounded", 1000000, 300000,
              "Tandem td_queue, without a limit"),
    BENCH_ROW("td-many", BENCH_TANDEM, &tandem_server, "td-many", 2000000, 500000,
              "Tandem td_queue, 4096 places, 64 at a time"),
#ifdef BENCH_MOODYCAMEL
    BENCH_ROW("moodycamel", BENCH_PEER, &peers, "moodycamel", 1000000, 300000, "moodycamel BlockingConcurrentQueue"),
    BENCH_ROW("moodycamel-tokens", BENCH_PEER, &peers, "moodycamel-tokens", 1000000, 300000,
              "moodycamel BlockingConcurrentQueue, tokens"),
    BENCH_ROW("moodycamel-bulk", BENCH_PEER, &peers, "moodycamel-bulk", 2000000, 500000,
              "moodycamel BlockingConcurrentQueue, tokens, 64 at a time"),
#endif
#ifdef BENCH_CK
    BENCH_ROW("ck-spsc", BENCH_PEER, &peers, "ck-spsc", 1000000, 300000, "ck_ring spsc, spinning"),
    BENCH_ROW("ck-mpmc", BENCH_PEER, &peers, "ck-mpmc", 1000000, 300000, "ck_ring mpmc, spinning"),
#endif
#ifdef BENCH_TBB
    BENCH_ROW("tbb", BENCH_PEER, &peers, "tbb", 300000, 100000, "TBB concurrent_bounded_queue"),
#endif
#ifdef BENCH_GLIB
    BENCH_ROW("gasync", BENCH_PEER, &peers, "gasync", 300000, 100000, "GAsyncQueue"),
#endif
};

static const bench_metric metrics[METRICS] = {
    [Q1_8] = { "mitems_1p1c_8B", "1 producer, 1 consumer, 8 bytes", "M/s", 1, true, NULL },
    [Q1_64] = { "mitems_1p1c_64B", "1 producer, 1 consumer, 64 bytes", "M/s", 1, true, NULL },
    [Q2_8] = { "mitems_2p2c_8B", "2 producers, 2 consumers, 8 bytes", "M/s", 1, true, "moodycamel" },
    [Q2_64] = { "mitems_2p2c_64B", "2 producers, 2 consumers, 64 bytes", "M/s", 1, true, "moodycamel" },
    [Q4_8] = { "mitems_4p4c_8B", "4 producers, 4 consumers, 8 bytes", "M/s", 1, true, "moodycamel" },
    [Q4_64] = { "mitems_4p4c_64B", "4 producers, 4 consumers, 64 bytes", "M/s", 1, true, "moodycamel" },
    [TURN] = { "roundtrip_ns", "round trip of 8 bytes, both wait for nothing else", "ns", 1, false, NULL },
};

#define SINGLE(what, metric)                                                                            \
    {                                                                                                   \
        "one at a time, " what ": Tandem / moodycamel", "td", "moodycamel|moodycamel-tokens", 1, metric \
    }
#define AT_ONCE(what, metric)                                                                  \
    {                                                                                          \
        "64 at a time, " what ": Tandem / moodycamel", "td-many", "moodycamel-bulk", 1, metric \
    }

static const bench_comparison comparisons[] = {
    SINGLE("1 and 1, 8 bytes", "mitems_1p1c_8B"),      SINGLE("1 and 1, 64 bytes", "mitems_1p1c_64B"),
    SINGLE("2 and 2, 8 bytes", "mitems_2p2c_8B"),      SINGLE("2 and 2, 64 bytes", "mitems_2p2c_64B"),
    AT_ONCE("1 and 1, 8 bytes", "mitems_1p1c_8B"),     AT_ONCE("1 and 1, 64 bytes", "mitems_1p1c_64B"),
    AT_ONCE("2 and 2, 8 bytes", "mitems_2p2c_8B"),     AT_ONCE("2 and 2, 64 bytes", "mitems_2p2c_64B"),
    { "round trip", "td", NULL, 300, "roundtrip_ns" },
};

static const char *const notes[] = {
    "the ring, ck_ring and TBB hold 4096 items; moodycamel and GAsyncQueue have no limit",
    "one producer and one consumer, and the two of a round trip, have a CPU each; others go where the system puts them",
    "each producer's order, each item's last word and the sum of all are checked",
#ifndef BENCH_MOODYCAMEL
    "left out: moodycamel (not there when this was built)",
#endif
#ifndef BENCH_CK
    "left out: ck_ring (not there when this was built)",
#endif
#ifndef BENCH_TBB
    "left out: TBB (not there when this was built)",
#endif
#ifndef BENCH_GLIB
    "left out: GAsyncQueue (no GLib when this was built)",
#endif
};

int main(int argc, char **argv)
{
    td_init();
    if (bench_option(argc, argv, "--serve"))
        return bench_serve(ops, sizeof ops / sizeof *ops);
    tandem_server = (bench_server){ .argv = { bench_self(), "--serve", "tandem" } };
    peers = (bench_server){ .argv = { bench_self(), "--serve", "peers" } };
    bench b = {
        .name = "bench_queue",
        .title = "queues in one process",
        .metrics = metrics,
        .metric_count = METRICS,
        .rows = rows,
        .row_count = sizeof rows / sizeof *rows,
        .bold = { "ring" },
        .comparisons = comparisons,
        .comparison_count = sizeof comparisons / sizeof *comparisons,
        .notes = notes,
        .note_count = sizeof notes / sizeof *notes,
    };
    return bench_main(&b, argc, argv);
}
