/* SPDX-License-Identifier: MIT */
/* What does a block cost, in the shared heap and by malloc: alone, in numbers, and beside another thread or process? */
#include "common.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <tandem.h>

enum { PAIR_64, MANY_64, PAIR_4K, PAIR_100K, T2_64, P2_64, METRICS };
enum { MANY = 1000, LARGE_SHARE = 20 };

typedef void *allocate_call(size_t size);
typedef void free_call(void *block);

typedef struct heap_kind {
    allocate_call *allocate;
    free_call *release;
} heap_kind;

/* A block that is written to: its first access is part of its cost. */
static void *used(const heap_kind *kind, size_t size)
{
    volatile char *block = kind->allocate(size);
    if (block == NULL)
        bench_fail("out of memory for %zu bytes", size);
    block[0] = 1;
    return (void *)block;
}

static double pairs(const heap_kind *kind, long n, size_t size)
{
    int64_t start = bench_now();
    for (long i = 0; i < n; i++)
        kind->release(used(kind, size));
    return (double)(bench_now() - start) / (double)n;
}

/* All are there before the first is freed. */
static double many(const heap_kind *kind, long n, size_t size)
{
    static void *block[MANY];
    int64_t start = bench_now();
    for (long round = 0; round < n / MANY; round++) {
        for (int i = 0; i < MANY; i++)
            block[i] = used(kind, size);
        for (int i = 0; i < MANY; i++)
            kind->release(block[i]);
    }
    return (double)(bench_now() - start) / (double)(n / MANY * MANY);
}

typedef struct together {
    const heap_kind *kind;
    long n;
} together;

static void pairs_beside(int index, void *argument)
{
    const together *t = argument;
    (void)index;
    for (long i = 0; i < t->n; i++)
        t->kind->release(used(t->kind, 64));
}

static double two(const heap_kind *kind, long n, bool processes)
{
    together t = { kind, n };
    return (double)bench_team_run(2, processes, pairs_beside, &t) / (double)n;
}

static size_t measure(const heap_kind *kind, long n, double *values)
{
    bench_pin();
    pairs(kind, n / 10, 64);
    values[PAIR_64] = pairs(kind, n, 64);
    values[MANY_64] = many(kind, n, 64);
    values[PAIR_4K] = pairs(kind, n, 4096);
    values[PAIR_100K] = pairs(kind, n / LARGE_SHARE, 100000);
    bench_unpin();
    values[T2_64] = two(kind, n, false);
    values[P2_64] = two(kind, n, true);
    return METRICS;
}

/* --- contenders ------------------------------------------------------------------------------------------------- */

static void *malloc_checked(size_t size)
{
    void *volatile block = malloc(size); /* that the compiler does not leave out both */
    return block;
}

static size_t by_malloc(long n, double *values)
{
    static const heap_kind kind = { malloc_checked, free };
    return measure(&kind, n, values);
}

static size_t by_td_shared(long n, double *values)
{
    static const heap_kind kind = { td_shared_alloc, td_shared_free };
    return measure(&kind, n, values);
}

/* What may not be left out where others can see the block: one atomic instruction to take it, one to give it back. */
static void *take_atomically(size_t size)
{
    static _Thread_local char block[1];
    static _Thread_local _Atomic uint32_t word;
    (void)size;
    uint32_t expected = 0;
    atomic_compare_exchange_strong(&word, &expected, 0);
    return block;
}

static void give_atomically(void *block)
{
    static _Thread_local _Atomic uint32_t word;
    uint32_t expected = 0;
    (void)block;
    atomic_compare_exchange_strong(&word, &expected, 0);
}

static size_t by_atomics(long n, double *values)
{
    static const heap_kind kind = { take_atomically, give_atomically };
    return measure(&kind, n, values);
}

static const bench_op ops[] = {
    { "malloc", by_malloc },
    { "td_shared", by_td_shared },
    { "atomics", by_atomics },
};

/* --- the table -------------------------------------------------------------------------------------------------- */

static bench_server server;

#define ROW(ID, KIND, NAME) BENCH_ROW(ID, KIND, &server, ID, 1000000, 50000, NAME)
static bench_row rows[] = {
    ROW("atomics", BENCH_LIMIT, "two atomic instructions"),
    ROW("malloc", BENCH_PEER, "malloc + free (private memory)"),
    ROW("td_shared", BENCH_TANDEM, "td_shared_alloc + td_shared_free"),
};

static const bench_metric metrics[] = {
    [PAIR_64] = { "pair_64_ns", "64 B, one at a time", "ns", 1, false, NULL },
    [MANY_64] = { "many_64_ns", "64 B, a thousand at a time", "ns", 1, false, NULL },
    [PAIR_4K] = { "pair_4k_ns", "4 KiB, one at a time", "ns", 1, false, NULL },
    [PAIR_100K] = { "pair_100k_ns", "100 kB, one at a time", "ns", 1, false, NULL },
    [T2_64] = { "threads_64_ns", "64 B, two threads at once, each", "ns", 1, false, NULL },
    [P2_64] = { "processes_64_ns", "64 B, two processes at once, each", "ns", 1, false, NULL },
};

static const bench_comparison comparisons[] = {
    { "64 B allocated and freed in the shared heap", "td_shared", NULL, 40, "pair_64_ns" },
    { "64 B: the shared heap / malloc", "td_shared", "malloc", 0, "pair_64_ns" },
    { "64 B, two processes: the shared heap / malloc", "td_shared", "malloc", 0, "processes_64_ns" },
};

static const char *const notes[] = {
    "a second thread is alive in every process; malloc's blocks are of no use to other processes",
};

int main(int argc, char **argv)
{
    td_init();
    if (bench_option(argc, argv, "--serve")) {
        bench_have_second_thread(); /* malloc takes short cuts, too */
        return bench_serve(ops, sizeof ops / sizeof *ops);
    }
    server = (bench_server){ .argv = { bench_self(), "--serve", "all" }, .fresh = true };
    bench b = {
        .name = "bench_heap",
        .title = "blocks: the shared heap and malloc",
        .metrics = metrics,
        .metric_count = METRICS,
        .rows = rows,
        .row_count = sizeof rows / sizeof *rows,
        .bold = { "malloc" },
        .comparisons = comparisons,
        .comparison_count = sizeof comparisons / sizeof *comparisons,
        .notes = notes,
        .note_count = sizeof notes / sizeof *notes,
    };
    return bench_main(&b, argc, argv);
}
