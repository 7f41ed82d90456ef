/* SPDX-License-Identifier: MIT */
/* What does a lock cost: alone, fought over by threads and by processes, and while one sleeps for it? */
#include "contend.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <tandem.h>
#include <time.h>
#ifdef BENCH_GLIB
#include <glib.h>
#endif
#ifdef BENCH_NSYNC
#include "nsync_lock.h"
#endif

enum {
    SECTION_NS = 50,
    OUTSIDE_NS = 200,
    HELD_NS = 100000000,
    CONTEST_SHARE = 20000, /* n uncontended iterations, and n / CONTEST_SHARE ms of each contest */
};

enum { UNCONTENDED, T2_0, T2_200, T4_0, T4_200, P2_0, P2_200, FAIR, SLEEPER = FAIR + P2_200 - UNCONTENDED, METRICS };

/* A contest: threads or processes that take the lock, work for 50 ns, give it back, and work elsewhere. */
typedef struct contest {
    bench_contest base;
    long inside, outside; /* steps of work */
    int64_t cpu_ns[2];    /* of who sleeps for it */
} contest;

/* A contender. The loops are compiled for each, so that a lock which can be inlined is inlined. */
typedef struct lock_kind {
    bench_contender base;
    void (*acquire)(void *lock);
    void (*release)(void *lock);
    bool threads, processes, one_alone;
} lock_kind;

typedef void lock_call(void *lock);

static inline __attribute__((always_inline)) void uncontended_loop(bench_contest *c, long n, lock_call acquire,
                                                                   lock_call release)
{
    for (long i = 0; i < n; i++) {
        acquire(c->lock);
        __asm__ volatile("" ::: "memory");
        release(c->lock);
    }
}

static inline __attribute__((always_inline)) void section_loop(contest *of, int index, lock_call acquire,
                                                               lock_call release)
{
    bench_contest *c = &of->base;
    uint64_t x = (uint64_t)index, sections = 0;
    while (bench_contest_goes_on(c)) {
        acquire(c->lock);
        c->writes++;
        x = bench_work(x, of->inside);
        release(c->lock);
        x = bench_work(x, of->outside);
        sections++;
    }
    c->member[index].turns = c->member[index].writes = sections;
}

/* Defines the contender NAME_kind; NAME_init, NAME_acquire and NAME_release are there. */
#define LOCK_KIND(NAME, ...)                                                 \
    static void NAME##_uncontended(bench_contest *c, long n)                 \
    {                                                                        \
        uncontended_loop(c, n, NAME##_acquire, NAME##_release);              \
    }                                                                        \
    static void NAME##_sections(bench_contest *c, int index)                 \
    {                                                                        \
        section_loop((contest *)c, index, NAME##_acquire, NAME##_release);   \
    }                                                                        \
    static const lock_kind NAME##_kind = { .base.init = NAME##_init,         \
                                           .base.alone = NAME##_uncontended, \
                                           .base.turns = NAME##_sections,    \
                                           .acquire = NAME##_acquire,        \
                                           .release = NAME##_release,        \
                                           __VA_ARGS__ };                    \
    static size_t NAME(long n, double *values)                               \
    {                                                                        \
        return measure_lock(&NAME##_kind, n, values);                        \
    }

/* --- the measurements ------------------------------------------------------------------------------------------- */

static contest *new_contest(const lock_kind *kind, bool processes)
{
    return bench_contest_new(&kind->base, processes, sizeof(contest));
}

static double uncontended(const lock_kind *kind, long n)
{
    contest *c = new_contest(kind, !kind->threads);
    double ns = bench_contest_alone(&c->base, n);
    bench_contest_end(&c->base);
    return ns;
}

/* Millions of sections a second, of all together, and the most busy one's share over the least busy one's. */
static void fight(const lock_kind *kind, int parties, bool processes, double outside_ns, long ms, double *mops,
                  double *fairness)
{
    contest *c = new_contest(kind, processes);
    uint64_t sum, most = 0, least = UINT64_MAX;
    c->inside = bench_steps(SECTION_NS);
    c->outside = bench_steps(outside_ns);
    int64_t ns = bench_contest_run(&c->base, parties, ms, &sum);
    for (int i = 0; i < parties; i++) {
        uint64_t n = c->base.member[i].turns;
        most = n > most ? n : most;
        least = n < least ? n : least;
    }
    *mops = (double)sum * 1e3 / (double)ns;
    *fairness = parties == 1 ? NAN : (double)most / (double)(least ? least : 1);
    bench_contest_end(&c->base);
}

static int64_t own_cpu_time(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void sleep_for_it(int index, void *argument)
{
    contest *c = argument;
    const lock_kind *kind = (const lock_kind *)c->base.contender;
    int64_t before = own_cpu_time();
    kind->acquire(c->base.lock);
    kind->release(c->base.lock);
    c->cpu_ns[index] = own_cpu_time() - before;
}

/* µs of CPU that one of two threads uses while it waits for a lock that is held for 100 ms. */
static double sleeper(const lock_kind *kind)
{
    contest *c = new_contest(kind, false);
    kind->acquire(c->base.lock);
    bench_team *team = bench_team_create(2, false, sleep_for_it, c);
    bench_team_begin(team);
    bench_idle(HELD_NS);
    kind->release(c->base.lock);
    bench_team_end(team);
    double us = (double)(c->cpu_ns[0] + c->cpu_ns[1]) / 2e3;
    bench_contest_end(&c->base);
    return us;
}

static size_t measure_lock(const lock_kind *kind, long n, double *values)
{
    static const struct {
        int metric, parties, outside_ns;
        bool processes;
    } fights[] = {
        { T2_0, 2, 0, false }, { T2_200, 2, OUTSIDE_NS, false },
        { T4_0, 4, 0, false }, { T4_200, 4, OUTSIDE_NS, false },
        { P2_0, 2, 0, true },  { P2_200, 2, OUTSIDE_NS, true },
    };
    long ms = n / CONTEST_SHARE;
    for (int i = 0; i < METRICS; i++)
        values[i] = NAN;
    values[UNCONTENDED] = uncontended(kind, n);
    for (size_t i = 0; i < sizeof fights / sizeof *fights; i++)
        if (kind->one_alone || (fights[i].processes ? kind->processes : kind->threads)) {
            int m = fights[i].metric;
            fight(kind, kind->one_alone ? 1 : fights[i].parties, fights[i].processes, fights[i].outside_ns, ms,
                  &values[m], &values[FAIR + m - T2_0]);
        }
    if (kind->threads)
        values[SLEEPER] = sleeper(kind);
    return METRICS;
}

/* --- Tandem ----------------------------------------------------------------------------------------------------- */

static inline void tandem_acquire(void *lock)
{
    if (td_lock_acquire(lock) != 0)
        bench_fail("td_lock_acquire: %s", td_last_message());
}

static inline void tandem_release(void *lock)
{
    td_lock_release(lock);
}

static inline void rlock_acquire(void *lock)
{
    if (td_rlock_acquire(lock) != 0)
        bench_fail("td_rlock_acquire: %s", td_last_message());
}

static inline void rlock_release(void *lock)
{
    td_rlock_release(lock);
}

#define tandem_init           NULL
#define rlock_init            NULL
#define tandem_shared_init    NULL
#define tandem_shared_acquire tandem_acquire
#define tandem_shared_release tandem_release
LOCK_KIND(tandem, .threads = true)
LOCK_KIND(tandem_shared, .base.in_heap = true, .threads = true, .processes = true)
LOCK_KIND(rlock, .threads = true)

/* --- limits ----------------------------------------------------------------------------------------------------- */

static void word_init(void *lock, bool shared)
{
    (void)shared;
    atomic_store((_Atomic uint32_t *)lock, 0);
}

static inline void store_acquire(void *lock)
{
    uint32_t none = 0;
    while (!atomic_compare_exchange_weak_explicit((_Atomic uint32_t *)lock, &none, 1, memory_order_acquire,
                                                  memory_order_relaxed)) {
        none = 0;
        bench_relax();
    }
}

static inline void store_release(void *lock)
{
    atomic_store_explicit((_Atomic uint32_t *)lock, 0, memory_order_release);
}

static inline void exchange_release(void *lock)
{
    if (atomic_exchange_explicit((_Atomic uint32_t *)lock, 0, memory_order_release) != 1)
        bench_fail("exchange: not held");
}

#define store_init       word_init
#define exchange_init    word_init
#define exchange_acquire store_acquire

LOCK_KIND(store, .one_alone = true)
LOCK_KIND(exchange, .one_alone = true)

/* --- pthread ---------------------------------------------------------------------------------------------------- */

static void pthread_kind_init(void *lock, int type, bool shared, bool robust)
{
    pthread_mutexattr_t attr;
    if (pthread_mutexattr_init(&attr) || pthread_mutexattr_settype(&attr, type) ||
        pthread_mutexattr_setpshared(&attr, shared ? PTHREAD_PROCESS_SHARED : PTHREAD_PROCESS_PRIVATE) ||
        pthread_mutexattr_setrobust(&attr, robust ? PTHREAD_MUTEX_ROBUST : PTHREAD_MUTEX_STALLED) ||
        pthread_mutex_init(lock, &attr))
        bench_fail("pthread_mutex_init");
    pthread_mutexattr_destroy(&attr);
}

static void plain_init(void *lock, bool shared)
{
    pthread_kind_init(lock, PTHREAD_MUTEX_DEFAULT, shared, false);
}

static void adaptive_init(void *lock, bool shared)
{
    pthread_kind_init(lock, PTHREAD_MUTEX_ADAPTIVE_NP, shared, false);
}

static void recursive_init(void *lock, bool shared)
{
    pthread_kind_init(lock, PTHREAD_MUTEX_RECURSIVE, shared, false);
}

/* Pshared also between threads: its row stands beside the shared heap's lock. */
static void robust_init(void *lock, bool shared)
{
    (void)shared;
    pthread_kind_init(lock, PTHREAD_MUTEX_DEFAULT, true, true);
}

static inline void plain_acquire(void *lock)
{
    pthread_mutex_lock(lock);
}

static inline void plain_release(void *lock)
{
    pthread_mutex_unlock(lock);
}

#define adaptive_acquire  plain_acquire
#define adaptive_release  plain_release
#define recursive_acquire plain_acquire
#define recursive_release plain_release
#define robust_acquire    plain_acquire
#define robust_release    plain_release

LOCK_KIND(plain, .threads = true, .processes = true)
LOCK_KIND(adaptive, .threads = true, .processes = true)
LOCK_KIND(recursive, .threads = true)
LOCK_KIND(robust, .threads = true, .processes = true)

/* --- other libraries -------------------------------------------------------------------------------------------- */

#ifdef BENCH_GLIB
static void gmutex_init(void *lock, bool shared)
{
    (void)shared;
    g_mutex_init(lock);
}

static inline void gmutex_acquire(void *lock)
{
    g_mutex_lock(lock);
}

static inline void gmutex_release(void *lock)
{
    g_mutex_unlock(lock);
}

LOCK_KIND(gmutex, .threads = true)
#endif

#ifdef BENCH_NSYNC
LOCK_KIND(nsync, .threads = true)
#endif

/* --- the driver ------------------------------------------------------------------------------------------------- */

static const bench_op ops[] = {
    { "td", tandem },         { "td-shared", tandem_shared }, { "td-rlock", rlock },
    { "store", store },       { "exchange", exchange },       { "pthread", plain },
    { "adaptive", adaptive }, { "recursive", recursive },     { "robust", robust },
#ifdef BENCH_GLIB
    { "gmutex", gmutex },
#endif
#ifdef BENCH_NSYNC
    { "nsync", nsync },
#endif
};

static bench_server tandem_server, peers;

#define LOCK_ROW(id, kind, server, name) BENCH_ROW(id, kind, server, id, 4000000, 1000000, name)

static bench_row rows[] = {
    LOCK_ROW("store", BENCH_LIMIT, &peers, "limit: CAS + store; one thread alone doing the sections"),
    LOCK_ROW("exchange", BENCH_LIMIT, &peers, "limit: CAS + exchange; one thread alone doing the sections"),
    LOCK_ROW("td", BENCH_TANDEM, &tandem_server, "Tandem td_lock"),
    LOCK_ROW("td-shared", BENCH_TANDEM, &tandem_server, "Tandem td_lock in the shared heap"),
    LOCK_ROW("td-rlock", BENCH_TANDEM, &tandem_server, "Tandem td_rlock"),
    LOCK_ROW("pthread", BENCH_PEER, &peers, "pthread_mutex"),
    LOCK_ROW("adaptive", BENCH_PEER, &peers, "pthread_mutex, adaptive"),
    LOCK_ROW("recursive", BENCH_PEER, &peers, "pthread_mutex, recursive"),
    LOCK_ROW("robust", BENCH_PEER, &peers, "pthread_mutex, pshared and robust"),
#ifdef BENCH_GLIB
    LOCK_ROW("gmutex", BENCH_PEER, &peers, "GMutex"),
#endif
#ifdef BENCH_NSYNC
    LOCK_ROW("nsync", BENCH_PEER, &peers, "nsync_mu"),
#endif
};

static const bench_metric metrics[METRICS] = {
    [UNCONTENDED] = { "uncontended_ns", "acquire + release, nobody else there", "ns", 1, false, NULL },
    [T2_0] = { "mops_2t_out0", "2 threads, 50 ns sections, nothing between", "M/s", 1, true, NULL },
    [T2_200] = { "mops_2t_out200", "2 threads, 50 ns sections, 200 ns between", "M/s", 1, true, NULL },
    [T4_0] = { "mops_4t_out0", "4 threads, 50 ns sections, nothing between", "M/s", 1, true, NULL },
    [T4_200] = { "mops_4t_out200", "4 threads, 50 ns sections, 200 ns between", "M/s", 1, true, NULL },
    [P2_0] = { "mops_2p_out0", "2 processes, 50 ns sections, nothing between", "M/s", 1, true, NULL },
    [P2_200] = { "mops_2p_out200", "2 processes, 50 ns sections, 200 ns between", "M/s", 1, true, NULL },
    [FAIR] = { "fair_2t_out0", "most / least sections, 2 threads, nothing between", "×", 1, false, NULL },
    { "fair_2t_out200", "most / least sections, 2 threads, 200 ns between", "×", 1, false, NULL },
    { "fair_4t_out0", "most / least sections, 4 threads, nothing between", "×", 1, false, NULL },
    { "fair_4t_out200", "most / least sections, 4 threads, 200 ns between", "×", 1, false, NULL },
    { "fair_2p_out0", "most / least sections, 2 processes, nothing between", "×", 1, false, NULL },
    { "fair_2p_out200", "most / least sections, 2 processes, 200 ns between", "×", 1, false, NULL },
    [SLEEPER] = { "sleeper_cpu_us", "CPU time of a thread that waits 100 ms", "µs", 1, false, NULL },
};

#define BEST_PEER "adaptive|gmutex|nsync"

static const bench_comparison comparisons[] = {
    { "td_lock uncontended", "td", NULL, 6, "uncontended_ns" },
    { "td_lock in the shared heap, uncontended", "td-shared", NULL, 6, "uncontended_ns" },
    { "2 threads, nothing between: td_lock / the best peer", "td", BEST_PEER, 1, "mops_2t_out0" },
    { "2 threads, 200 ns between: td_lock / the best peer", "td", BEST_PEER, 1, "mops_2t_out200" },
    { "4 threads, nothing between: td_lock / the best peer", "td", BEST_PEER, 1, "mops_4t_out0" },
    { "4 threads, 200 ns between: td_lock / the best peer", "td", BEST_PEER, 1, "mops_4t_out200" },
    { "2 processes, nothing between: td_lock / pthread robust", "td-shared", "robust", 1, "mops_2p_out0" },
    { "2 processes, 200 ns between: td_lock / pthread robust", "td-shared", "robust", 1, "mops_2p_out200" },
    { "fairness, 2 threads, nothing between", "td", NULL, 1.5, "fair_2t_out0" },
    { "fairness, 2 threads, 200 ns between", "td", NULL, 1.5, "fair_2t_out200" },
    { "fairness, 4 threads, nothing between", "td", NULL, 1.5, "fair_4t_out0" },
    { "fairness, 4 threads, 200 ns between", "td", NULL, 1.5, "fair_4t_out200" },
    { "CPU of a sleeper: td_lock / pthread_mutex", "td", "pthread", 0, "sleeper_cpu_us" },
};

static const char *const notes[] = {
    "a second thread is alive in every process",
    "contended: sections of all together during 200 ms; a counter that the lock guards is checked against their sum",
#ifndef BENCH_GLIB
    "left out: GMutex (no GLib when this was built)",
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
        .name = "bench_lock",
        .title = "locks: alone, contended, and asleep",
        .metrics = metrics,
        .metric_count = METRICS,
        .rows = rows,
        .row_count = sizeof rows / sizeof *rows,
        .bold = { "store" },
        .comparisons = comparisons,
        .comparison_count = sizeof comparisons / sizeof *comparisons,
        .notes = notes,
        .note_count = sizeof notes / sizeof *notes,
    };
    return bench_main(&b, argc, argv);
}
