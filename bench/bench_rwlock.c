/* SPDX-License-Identifier: MIT */
/* What does a read-write lock cost: alone, read by several at once, and with a writer among readers now and then? */
#include "contend.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <tandem.h>
#ifdef BENCH_GLIB
#include <glib.h>
#endif
#ifdef BENCH_NSYNC
#include "nsync_lock.h"
#endif

enum {
    WRITE_ONE_IN = 10,
    CONTEST_SHARE = 20000, /* n uncontended iterations, and n / CONTEST_SHARE ms of each contest */
};

enum { READ_ALONE, WRITE_ALONE, MIXED_ALONE, R2, R4, M2, M4, P2, METRICS };

/* Threads or processes that read, and write at every WRITE_ONE_IN-th turn, without a pause. */
typedef struct contest {
    bench_contest base;
    long write_one_in; /* 0: never */
} contest;

/* A contender. The loops are compiled for each, so that a lock which can be inlined is inlined. */
typedef struct rwlock_kind {
    bench_contender base;
    bool processes;
} rwlock_kind;

typedef void lock_call(void *lock);

static inline __attribute__((always_inline)) void alone_loop(bench_contest *c, long n, long write_one_in,
                                                             lock_call read, lock_call read_end, lock_call write,
                                                             lock_call write_end)
{
    for (long i = 1; i <= n; i++) {
        bool writes = write_one_in == 1 || (write_one_in != 0 && i % WRITE_ONE_IN == 0);
        (writes ? write : read)(c->lock);
        __asm__ volatile("" ::: "memory");
        (writes ? write_end : read_end)(c->lock);
    }
}

static inline __attribute__((always_inline)) void turns_loop(contest *of, int index, lock_call read, lock_call read_end,
                                                             lock_call write, lock_call write_end)
{
    bench_contest *c = &of->base;
    uint64_t turns = 0, writes = 0, next = (uint64_t)of->write_one_in;
    while (bench_contest_goes_on(c)) {
        if (++turns == next) {
            next += (uint64_t)of->write_one_in;
            write(c->lock);
            c->writes++;
            c->writes_again++;
            write_end(c->lock);
            writes++;
        } else {
            read(c->lock);
            uint64_t first = *(volatile uint64_t *)&c->writes, second = *(volatile uint64_t *)&c->writes_again;
            read_end(c->lock);
            if (first != second)
                bench_fail("a reader beside a writer");
        }
    }
    c->member[index].turns = turns;
    c->member[index].writes = writes;
}

/* Defines the contender NAME_kind; NAME_init, NAME_read, NAME_read_end, NAME_write and NAME_write_end are there. */
#define RWLOCK_KIND(NAME, ...)                                                                            \
    static void NAME##_alone(bench_contest *c, long n)                                                    \
    {                                                                                                     \
        long write_one_in = ((contest *)c)->write_one_in;                                                 \
        if (write_one_in == 0)                                                                            \
            alone_loop(c, n, 0, NAME##_read, NAME##_read_end, NAME##_write, NAME##_write_end);            \
        else if (write_one_in == 1)                                                                       \
            alone_loop(c, n, 1, NAME##_read, NAME##_read_end, NAME##_write, NAME##_write_end);            \
        else                                                                                              \
            alone_loop(c, n, WRITE_ONE_IN, NAME##_read, NAME##_read_end, NAME##_write, NAME##_write_end); \
    }                                                                                                     \
    static void NAME##_turns(bench_contest *c, int index)                                                 \
    {                                                                                                     \
        turns_loop((contest *)c, index, NAME##_read, NAME##_read_end, NAME##_write, NAME##_write_end);    \
    }                                                                                                     \
    static const rwlock_kind NAME##_kind = {                                                              \
        .base.init = NAME##_init, .base.alone = NAME##_alone, .base.turns = NAME##_turns, __VA_ARGS__     \
    };                                                                                                    \
    static size_t NAME(long n, double *values)                                                            \
    {                                                                                                     \
        return measure(&NAME##_kind, n, values);                                                          \
    }

/* --- the measurements ------------------------------------------------------------------------------------------- */

static contest *new_contest(const rwlock_kind *kind, bool processes, long write_one_in)
{
    contest *c = bench_contest_new(&kind->base, processes, sizeof *c);
    c->write_one_in = write_one_in;
    return c;
}

static double alone(const rwlock_kind *kind, long n, long write_one_in)
{
    contest *c = new_contest(kind, kind->base.in_heap, write_one_in);
    double ns = bench_contest_alone(&c->base, n);
    bench_contest_end(&c->base);
    return ns;
}

/* Millions of turns a second, of all together. */
static double together(const rwlock_kind *kind, int parties, bool processes, long write_one_in, long ms)
{
    contest *c = new_contest(kind, processes, write_one_in);
    uint64_t turns;
    int64_t ns = bench_contest_run(&c->base, parties, ms, &turns);
    if (c->base.writes_again != c->base.writes)
        bench_fail("two at once: counted %llu writes, and %llu", (unsigned long long)c->base.writes,
                   (unsigned long long)c->base.writes_again);
    bench_contest_end(&c->base);
    return (double)turns * 1e3 / (double)ns;
}

static size_t measure(const rwlock_kind *kind, long n, double *values)
{
    long ms = n / CONTEST_SHARE;
    values[READ_ALONE] = alone(kind, n, 0);
    values[WRITE_ALONE] = alone(kind, n, 1);
    values[MIXED_ALONE] = alone(kind, n, WRITE_ONE_IN);
    values[R2] = together(kind, 2, false, 0, ms);
    values[R4] = together(kind, 4, false, 0, ms);
    values[M2] = together(kind, 2, false, WRITE_ONE_IN, ms);
    values[M4] = together(kind, 4, false, WRITE_ONE_IN, ms);
    values[P2] = kind->processes ? together(kind, 2, true, 0, ms) : NAN;
    return METRICS;
}

/* --- Tandem ----------------------------------------------------------------------------------------------------- */

static inline void tandem_read(void *lock)
{
    if (td_rwlock_acquire_read(lock) != 0)
        bench_fail("td_rwlock_acquire_read: %s", td_last_message());
}

static inline void tandem_write(void *lock)
{
    if (td_rwlock_acquire_write(lock) != 0)
        bench_fail("td_rwlock_acquire_write: %s", td_last_message());
}

static inline void tandem_end(void *lock)
{
    td_rwlock_release(lock);
}

#define tandem_init             NULL
#define tandem_read_end         tandem_end
#define tandem_write_end        tandem_end
#define tandem_shared_init      NULL
#define tandem_shared_read      tandem_read
#define tandem_shared_write     tandem_write
#define tandem_shared_read_end  tandem_end
#define tandem_shared_write_end tandem_end
RWLOCK_KIND(tandem, .processes = false)
RWLOCK_KIND(tandem_shared, .base.in_heap = true, .processes = true)

/* --- a limit ---------------------------------------------------------------------------------------------------- */

/* A count of readers, or -1: spins. */
static void count_init(void *lock, bool shared)
{
    (void)shared;
    atomic_store((_Atomic int *)lock, 0);
}

static inline void count_read(void *lock)
{
    unsigned spins = 0;
    int old = atomic_load_explicit((_Atomic int *)lock, memory_order_relaxed);
    while (old < 0 || !atomic_compare_exchange_weak_explicit((_Atomic int *)lock, &old, old + 1, memory_order_acquire,
                                                             memory_order_relaxed)) {
        if (old < 0) {
            bench_spin(&spins);
            old = atomic_load_explicit((_Atomic int *)lock, memory_order_relaxed);
        }
    }
}

static inline void count_read_end(void *lock)
{
    atomic_fetch_sub_explicit((_Atomic int *)lock, 1, memory_order_release);
}

static inline void count_write(void *lock)
{
    unsigned spins = 0;
    int none = 0;
    while (!atomic_compare_exchange_weak_explicit((_Atomic int *)lock, &none, -1, memory_order_acquire,
                                                  memory_order_relaxed)) {
        none = 0;
        bench_spin(&spins);
    }
}

static inline void count_write_end(void *lock)
{
    atomic_store_explicit((_Atomic int *)lock, 0, memory_order_release);
}

RWLOCK_KIND(count, .processes = true)

/* --- peers ------------------------------------------------------------------------------------------------------ */

static void plain_init(void *lock, bool shared)
{
    pthread_rwlockattr_t attr;
    if (pthread_rwlockattr_init(&attr) ||
        pthread_rwlockattr_setpshared(&attr, shared ? PTHREAD_PROCESS_SHARED : PTHREAD_PROCESS_PRIVATE) ||
        pthread_rwlock_init(lock, &attr))
        bench_fail("pthread_rwlock_init");
    pthread_rwlockattr_destroy(&attr);
}

static inline void plain_read(void *lock)
{
    pthread_rwlock_rdlock(lock);
}

static inline void plain_write(void *lock)
{
    pthread_rwlock_wrlock(lock);
}

static inline void plain_end(void *lock)
{
    pthread_rwlock_unlock(lock);
}

#define plain_read_end  plain_end
#define plain_write_end plain_end
RWLOCK_KIND(plain, .processes = true)

#ifdef BENCH_GLIB
static void grwlock_init(void *lock, bool shared)
{
    (void)shared;
    g_rw_lock_init(lock);
}

static inline void grwlock_read(void *lock)
{
    g_rw_lock_reader_lock(lock);
}

static inline void grwlock_read_end(void *lock)
{
    g_rw_lock_reader_unlock(lock);
}

static inline void grwlock_write(void *lock)
{
    g_rw_lock_writer_lock(lock);
}

static inline void grwlock_write_end(void *lock)
{
    g_rw_lock_writer_unlock(lock);
}

RWLOCK_KIND(grwlock, .processes = false)
#endif

#ifdef BENCH_NSYNC
static inline void nsync_read(void *lock)
{
    nsync_mu_rlock(lock);
}

static inline void nsync_read_end(void *lock)
{
    nsync_mu_runlock(lock);
}

#define nsync_write     nsync_acquire
#define nsync_write_end nsync_release
RWLOCK_KIND(nsync, .processes = false)
#endif

/* --- the driver ------------------------------------------------------------------------------------------------- */

static const bench_op ops[] = {
    { "td", tandem },       { "td-shared", tandem_shared }, { "count", count }, { "pthread", plain },
#ifdef BENCH_GLIB
    { "grwlock", grwlock },
#endif
#ifdef BENCH_NSYNC
    { "nsync", nsync },
#endif
};

static bench_server tandem_server, peers;

#define RWLOCK_ROW(id, kind, server, name) BENCH_ROW(id, kind, server, id, 4000000, 1000000, name)

static bench_row rows[] = {
    RWLOCK_ROW("count", BENCH_LIMIT, &peers, "limit: a count of readers, spinning"),
    RWLOCK_ROW("td", BENCH_TANDEM, &tandem_server, "Tandem td_rwlock"),
    RWLOCK_ROW("td-shared", BENCH_TANDEM, &tandem_server, "Tandem td_rwlock in the shared heap"),
    RWLOCK_ROW("pthread", BENCH_PEER, &peers, "pthread_rwlock"),
#ifdef BENCH_GLIB
    RWLOCK_ROW("grwlock", BENCH_PEER, &peers, "GRWLock"),
#endif
#ifdef BENCH_NSYNC
    RWLOCK_ROW("nsync", BENCH_PEER, &peers, "nsync_mu, read by rlock"),
#endif
};

static const bench_metric metrics[METRICS] = {
    [READ_ALONE] = { "read_ns", "acquire + release for reading, nobody else there", "ns", 1, false, NULL },
    [WRITE_ALONE] = { "write_ns", "acquire + release for writing, nobody else there", "ns", 1, false, NULL },
    [MIXED_ALONE] = { "mixed_ns", "nine times reading, once writing, nobody else there", "ns", 1, false, NULL },
    [R2] = { "mops_2t_read", "2 threads reading", "M/s", 1, true, NULL },
    [R4] = { "mops_4t_read", "4 threads reading", "M/s", 1, true, NULL },
    [M2] = { "mops_2t_mixed", "2 threads, each writes once after reading nine times", "M/s", 1, true, NULL },
    [M4] = { "mops_4t_mixed", "4 threads, each writes once after reading nine times", "M/s", 1, true, NULL },
    [P2] = { "mops_2p_read", "2 processes reading", "M/s", 1, true, NULL },
};

#define BEST_PEER "pthread|grwlock|nsync"

static const bench_comparison comparisons[] = {
    { "reading, uncontended: td_rwlock / pthread_rwlock", "td", "pthread", 1, "read_ns" },
    { "writing, uncontended: td_rwlock / pthread_rwlock", "td", "pthread", 1, "write_ns" },
    { "reading in the shared heap, uncontended / pthread_rwlock", "td-shared", "pthread", 1, "read_ns" },
    { "writing in the shared heap, uncontended / pthread_rwlock", "td-shared", "pthread", 1, "write_ns" },
    { "nine reads to a write, uncontended: td_rwlock / pthread_rwlock", "td", "pthread", 0, "mixed_ns" },
    { "2 threads reading: td_rwlock / the best peer", "td", BEST_PEER, 1, "mops_2t_read" },
    { "4 threads reading: td_rwlock / the best peer", "td", BEST_PEER, 1, "mops_4t_read" },
    { "2 threads, nine reads to a write: td_rwlock / the best peer", "td", BEST_PEER, 0, "mops_2t_mixed" },
    { "4 threads, nine reads to a write: td_rwlock / the best peer", "td", BEST_PEER, 0, "mops_4t_mixed" },
    { "2 processes reading: td_rwlock / pthread_rwlock", "td-shared", "pthread", 1, "mops_2p_read" },
};

static const char *const notes[] = {
    "a second thread is alive in every process; nobody pauses between the turns",
    "readers compare two numbers that a writer changes; these are checked against the number of writes",
    "pthread_rwlock and GRWLock let readers pass writers that wait, who can starve",
#ifndef BENCH_GLIB
    "left out: GRWLock (no GLib when this was built)",
#endif
#ifndef BENCH_NSYNC
    "left out: nsync_mu (no nsync when this was built)",
#endif
};

int main(int argc, char **argv)
{
    td_init();
    if (bench_option(argc, argv, "--serve")) {
        bench_have_second_thread();
        return bench_serve(ops, sizeof ops / sizeof *ops);
    }
    tandem_server = (bench_server){ .argv = { bench_self(), "--serve", "tandem" } };
    peers = (bench_server){ .argv = { bench_self(), "--serve", "peers" } };
    bench b = {
        .name = "bench_rwlock",
        .title = "read-write locks: alone, read by several, and with writers",
        .metrics = metrics,
        .metric_count = METRICS,
        .rows = rows,
        .row_count = sizeof rows / sizeof *rows,
        .bold = { "count" },
        .comparisons = comparisons,
        .comparison_count = sizeof comparisons / sizeof *comparisons,
        .notes = notes,
        .note_count = sizeof notes / sizeof *notes,
    };
    return bench_main(&b, argc, argv);
}
