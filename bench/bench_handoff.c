/* SPDX-License-Identifier: MIT */
/* What does it cost to hand the turn to another thread or process and to get it back: at once, and when the other one
 * has gone to sleep meanwhile? */
#include "common.h"
#include "futex.h"
#include "heap.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <semaphore.h>
#include <string.h>
#include <tandem.h>
#ifdef BENCH_GLIB
#include <glib.h>
#endif
#ifdef BENCH_NSYNC
#include <nsync.h>
#endif

enum {
    PAUSE_NS = 100000, /* long enough that every contender's other side has given up spinning */
    ASLEEP_SHARE = 50, /* n round trips hot, n / ASLEEP_SHARE asleep */
};

enum { HOT_FREE, HOT_2, HOT_1, ASLEEP_2, ASLEEP_1, METRICS };

/* How two sides, 0 and 1, hand the turn over. `game` is 512 zeroed bytes. */
typedef struct handoff_kind {
    void (*init)(void *game, bool shared);
    void (*give)(void *game, int to, unsigned turn);
    void (*await)(void *game, int side, unsigned turn); /* until turn `turn` was given to `side` */
    bool spins;                                         /* and never sleeps: no 1 CPU, nobody asleep */
    bool in_heap;                                       /* between processes: the shared heap */
} handoff_kind;

typedef struct match {
    _Alignas(64) char game[512];
    _Alignas(64) unsigned turn; /* handed over without atomics: its being right shows that the hand-over orders */
    const handoff_kind *kind;
    long each; /* round trips of a part */
    int64_t pause_ns;
    int cpus; /* pinned to so many; 0: not pinned */
    bench_parts parts;
} match;

enum { WARM = 20 };

static void hand_over(match *m, int to, unsigned turn)
{
    m->turn = turn;
    m->kind->give(m->game, to, turn);
}

static void come_back(match *m, int side, unsigned turn)
{
    m->kind->await(m->game, side, turn);
    if (m->turn != turn)
        bench_fail("turn %u is %u", turn, m->turn);
    if (m->pause_ns)
        bench_compute(m->pause_ns);
}

/* Odd turns are side 1's. */
static void begin_each(match *m)
{
    unsigned turn = 0;
    for (int part = -1; part < BENCH_PARTS; part++) {
        if (part >= 0)
            m->parts.at[part] = bench_now();
        for (long i = 0; i < (part < 0 ? WARM : m->each); i++) {
            hand_over(m, 1, ++turn);
            come_back(m, 0, ++turn);
        }
    }
    m->parts.at[BENCH_PARTS] = bench_now();
}

static void answer_each(match *m)
{
    unsigned last = 2 * (unsigned)(WARM + BENCH_PARTS * m->each);
    for (unsigned turn = 1; turn < last; turn += 2) {
        come_back(m, 1, turn);
        hand_over(m, 0, turn + 1);
    }
}

static void play(int side, void *argument)
{
    match *m = argument;
    if (m->cpus)
        bench_pin_to(m->cpus == 1 ? 0 : side);
    if (side == 0)
        begin_each(m);
    else
        answer_each(m);
}

/* ns of a round trip, without the pauses. */
static double round_trip(const handoff_kind *kind, bool processes, int cpus, int64_t pause_ns, long turns)
{
    match *m = bench_allocate(processes && kind->in_heap, sizeof *m);
    m->kind = kind;
    m->each = turns / BENCH_PARTS ? turns / BENCH_PARTS : 1;
    m->pause_ns = pause_ns;
    m->cpus = cpus;
    kind->init(m->game, processes);
    bench_team_run(2, processes, play, m);
    double ns = bench_part_ns(&m->parts, m->each) - 2 * (double)pause_ns;
    bench_give_back(processes && kind->in_heap, m, sizeof *m);
    return ns;
}

static size_t measure_handoff(const handoff_kind *kind, bool processes, long n, double *values)
{
    bool two = bench_cpus() > 1;
    long asleep = n / ASLEEP_SHARE;
    for (int i = 0; i < METRICS; i++)
        values[i] = NAN;
    if (two || !kind->spins)
        values[HOT_FREE] = round_trip(kind, processes, 0, 0, n);
    if (two)
        values[HOT_2] = round_trip(kind, processes, 2, 0, n);
    if (!kind->spins)
        values[HOT_1] = round_trip(kind, processes, 1, 0, n);
    if (two && !kind->spins)
        values[ASLEEP_2] = round_trip(kind, processes, 2, PAUSE_NS, asleep);
    if (!kind->spins)
        values[ASLEEP_1] = round_trip(kind, processes, 1, PAUSE_NS, asleep);
    return METRICS;
}

/* Defines the contenders NAME between threads and NAME_processes; NAME_init, NAME_give and NAME_await are there. */
#define HANDOFF(NAME, ...)                                                                           \
    static const handoff_kind NAME##_kind = { NAME##_init, NAME##_give, NAME##_await, __VA_ARGS__ }; \
    static size_t NAME(long n, double *values)                                                       \
    {                                                                                                \
        return measure_handoff(&NAME##_kind, false, n, values);                                      \
    }
#define HANDOFF_PROCESSES(NAME)                                \
    static size_t NAME##_processes(long n, double *values)     \
    {                                                          \
        return measure_handoff(&NAME##_kind, true, n, values); \
    }

/* --- limits: a word for each side ------------------------------------------------------------------------------- */

typedef struct words {
    struct {
        _Alignas(64) _Atomic uint32_t word;
    } of[2];
} words;

static void words_init(void *game, bool shared)
{
    (void)game;
    (void)shared;
}

static void spin_give(void *game, int to, unsigned turn)
{
    atomic_store_explicit(&((words *)game)->of[to].word, turn, memory_order_release);
}

static void spin_await(void *game, int side, unsigned turn)
{
    unsigned spins = 0;
    while (atomic_load_explicit(&((words *)game)->of[side].word, memory_order_acquire) != turn)
        bench_spin(&spins);
}

static void futex_give(void *game, int to, unsigned turn)
{
    bench_hand_over(&((words *)game)->of[to].word, turn);
}

static void futex_await(void *game, int side, unsigned turn)
{
    bench_await(&((words *)game)->of[side].word, turn);
}

#define spin_init  words_init
#define futex_init words_init
HANDOFF(spin, .spins = true)
HANDOFF(futex, .spins = false)
HANDOFF_PROCESSES(spin)
HANDOFF_PROCESSES(futex)

/* --- pthread's condition, and the same with other libraries ----------------------------------------------------- */

/* Signalled under the lock, as Python asks for; CONDITION_AFTER: when it has been released, which some do better with.
 */
#define CONDITION(NAME, MUTEX, COND, LOCK, UNLOCK, WAIT, SIGNAL)  \
    typedef struct NAME##_game {                                  \
        MUTEX mutex;                                              \
        COND cond[2];                                             \
        unsigned turn;                                            \
    } NAME##_game;                                                \
    static void NAME##_give(void *game, int to, unsigned turn)    \
    {                                                             \
        NAME##_game *g = game;                                    \
        LOCK(&g->mutex);                                          \
        g->turn = turn;                                           \
        SIGNAL(&g->cond[to]);                                     \
        UNLOCK(&g->mutex);                                        \
    }                                                             \
    static void NAME##_await(void *game, int side, unsigned turn) \
    {                                                             \
        NAME##_game *g = game;                                    \
        LOCK(&g->mutex);                                          \
        while (g->turn != turn)                                   \
            WAIT(&g->cond[side], &g->mutex);                      \
        UNLOCK(&g->mutex);                                        \
    }
#define CONDITION_AFTER(NAME, LOCK, UNLOCK, SIGNAL)                  \
    static void NAME##_after_give(void *game, int to, unsigned turn) \
    {                                                                \
        NAME##_game *g = game;                                       \
        LOCK(&g->mutex);                                             \
        g->turn = turn;                                              \
        UNLOCK(&g->mutex);                                           \
        SIGNAL(&g->cond[to]);                                        \
    }

/* A semaphore and an event that are made of a mutex and a condition for each side: the count that a release adds to,
 * and the flag that set sets for all, and that is cleared by who waited, in a section of its own as there is no other
 * way to clear an event. WAKE_UNDER or WAKE_AFTER: when it signals. */
#define WAKE_UNDER(UNLOCK, WAKE) \
    WAKE;                        \
    UNLOCK
#define WAKE_AFTER(UNLOCK, WAKE) \
    UNLOCK;                      \
    WAKE

#define SIDES(NAME, MUTEX, COND, LOCK, UNLOCK, WAIT)                    \
    typedef struct NAME##_sides {                                       \
        struct {                                                        \
            _Alignas(64) MUTEX mutex;                                   \
            COND cond;                                                  \
            unsigned count;                                             \
        } of[2];                                                        \
    } NAME##_sides;                                                     \
    static void NAME##_sem_await(void *game, int side, unsigned turn)   \
    {                                                                   \
        NAME##_sides *g = game;                                         \
        (void)turn;                                                     \
        LOCK(&g->of[side].mutex);                                       \
        while (g->of[side].count == 0)                                  \
            WAIT(&g->of[side].cond, &g->of[side].mutex);                \
        g->of[side].count--;                                            \
        UNLOCK(&g->of[side].mutex);                                     \
    }                                                                   \
    static void NAME##_event_await(void *game, int side, unsigned turn) \
    {                                                                   \
        NAME##_sides *g = game;                                         \
        (void)turn;                                                     \
        LOCK(&g->of[side].mutex);                                       \
        while (g->of[side].count == 0)                                  \
            WAIT(&g->of[side].cond, &g->of[side].mutex);                \
        UNLOCK(&g->of[side].mutex);                                     \
        LOCK(&g->of[side].mutex);                                       \
        g->of[side].count = 0;                                          \
        UNLOCK(&g->of[side].mutex);                                     \
    }
#define GIVE(NAME, SIDES_OF, WHEN, CHANGE, LOCK, UNLOCK, WAKE) \
    static void NAME##_give(void *game, int to, unsigned turn) \
    {                                                          \
        SIDES_OF##_sides *g = game;                            \
        (void)turn;                                            \
        LOCK(&g->of[to].mutex);                                \
        g->of[to].count CHANGE;                                \
        WHEN(UNLOCK(&g->of[to].mutex), WAKE(&g->of[to].cond)); \
    }

CONDITION(pcond, pthread_mutex_t, pthread_cond_t, pthread_mutex_lock, pthread_mutex_unlock, pthread_cond_wait,
          pthread_cond_signal)
CONDITION_AFTER(pcond, pthread_mutex_lock, pthread_mutex_unlock, pthread_cond_signal)

SIDES(pcond, pthread_mutex_t, pthread_cond_t, pthread_mutex_lock, pthread_mutex_unlock, pthread_cond_wait)
#define PTHREAD_GIVE(NAME, WHEN, CHANGE, WAKE) \
    GIVE(NAME, pcond, WHEN, CHANGE, pthread_mutex_lock, pthread_mutex_unlock, WAKE)
PTHREAD_GIVE(pcond_sem, WAKE_UNDER, += 1, pthread_cond_signal)
PTHREAD_GIVE(pcond_sem_after, WAKE_AFTER, += 1, pthread_cond_signal)
PTHREAD_GIVE(pcond_event, WAKE_UNDER, = 1, pthread_cond_broadcast)
PTHREAD_GIVE(pcond_event_after, WAKE_AFTER, = 1, pthread_cond_broadcast)

static void init_mutex(pthread_mutex_t *mutex, bool shared)
{
    pthread_mutexattr_t how;
    if (pthread_mutexattr_init(&how) ||
        pthread_mutexattr_setpshared(&how, shared ? PTHREAD_PROCESS_SHARED : PTHREAD_PROCESS_PRIVATE) ||
        pthread_mutex_init(mutex, &how))
        bench_fail("pthread_mutex_init");
}

static void init_cond(pthread_cond_t *cond, bool shared)
{
    pthread_condattr_t how;
    if (pthread_condattr_init(&how) ||
        pthread_condattr_setpshared(&how, shared ? PTHREAD_PROCESS_SHARED : PTHREAD_PROCESS_PRIVATE) ||
        pthread_cond_init(cond, &how))
        bench_fail("pthread_cond_init");
}

static void pcond_init(void *game, bool shared)
{
    pcond_game *g = game;
    init_mutex(&g->mutex, shared);
    for (int i = 0; i < 2; i++)
        init_cond(&g->cond[i], shared);
}

static void pcond_sem_init(void *game, bool shared)
{
    pcond_sides *g = game;
    for (int i = 0; i < 2; i++) {
        init_mutex(&g->of[i].mutex, shared);
        init_cond(&g->of[i].cond, shared);
    }
}

#define pcond_after_init  pcond_init
#define pcond_after_await pcond_await
HANDOFF(pcond, .spins = false)
HANDOFF(pcond_after, .spins = false)
HANDOFF_PROCESSES(pcond)
HANDOFF_PROCESSES(pcond_after)

#define pcond_sem_after_init    pcond_sem_init
#define pcond_sem_after_await   pcond_sem_await
#define pcond_event_init        pcond_sem_init
#define pcond_event_after_init  pcond_sem_init
#define pcond_event_after_await pcond_event_await
HANDOFF(pcond_sem, .spins = false)
HANDOFF(pcond_sem_after, .spins = false)
HANDOFF(pcond_event, .spins = false)
HANDOFF(pcond_event_after, .spins = false)
HANDOFF_PROCESSES(pcond_sem)
HANDOFF_PROCESSES(pcond_sem_after)
HANDOFF_PROCESSES(pcond_event)
HANDOFF_PROCESSES(pcond_event_after)

#ifdef BENCH_GLIB
CONDITION(gcond, GMutex, GCond, g_mutex_lock, g_mutex_unlock, g_cond_wait, g_cond_signal)
CONDITION_AFTER(gcond, g_mutex_lock, g_mutex_unlock, g_cond_signal)
#define gcond_init        words_init
#define gcond_after_init  words_init
#define gcond_after_await gcond_await
HANDOFF(gcond, .spins = false)
HANDOFF(gcond_after, .spins = false)
#endif

#ifdef BENCH_NSYNC
CONDITION(ncv, nsync_mu, nsync_cv, nsync_mu_lock, nsync_mu_unlock, nsync_cv_wait, nsync_cv_signal)
CONDITION_AFTER(ncv, nsync_mu_lock, nsync_mu_unlock, nsync_cv_signal)
#define ncv_init        words_init
#define ncv_after_init  words_init
#define ncv_after_await ncv_await
HANDOFF(ncv, .spins = false)
HANDOFF(ncv_after, .spins = false)

/* nsync's own semaphore is no part of its interface, its counter only goes down, and its note is set but once. */
SIDES(ncv, nsync_mu, nsync_cv, nsync_mu_lock, nsync_mu_unlock, nsync_cv_wait)
#define NSYNC_GIVE(NAME, WHEN, CHANGE, WAKE) GIVE(NAME, ncv, WHEN, CHANGE, nsync_mu_lock, nsync_mu_unlock, WAKE)
NSYNC_GIVE(ncv_sem, WAKE_UNDER, += 1, nsync_cv_signal)
NSYNC_GIVE(ncv_sem_after, WAKE_AFTER, += 1, nsync_cv_signal)
NSYNC_GIVE(ncv_event, WAKE_UNDER, = 1, nsync_cv_broadcast)
NSYNC_GIVE(ncv_event_after, WAKE_AFTER, = 1, nsync_cv_broadcast)
#define ncv_sem_init          words_init
#define ncv_sem_after_init    words_init
#define ncv_sem_after_await   ncv_sem_await
#define ncv_event_init        words_init
#define ncv_event_after_init  words_init
#define ncv_event_after_await ncv_event_await
HANDOFF(ncv_sem, .spins = false)
HANDOFF(ncv_sem_after, .spins = false)
HANDOFF(ncv_event, .spins = false)
HANDOFF(ncv_event_after, .spins = false)
#endif

/* --- Tandem ----------------------------------------------------------------------------------------------------- */

static void must(int code)
{
    if (code != 0)
        bench_fail("%s", code == TD_OWNER_DIED ? "an owner died" : td_last_message());
}

static void td_acquire(td_lock *lock)
{
    must(td_lock_acquire(lock));
}

static void td_wait(td_condition *condition, td_lock *lock)
{
    must(td_condition_wait(condition, lock));
}

/* Zeroed memory is all that they need. */
CONDITION(tcond, td_lock, td_condition, td_acquire, td_lock_release, td_wait, td_condition_notify)
#define tcond_init words_init
HANDOFF(tcond, .in_heap = true)
HANDOFF_PROCESSES(tcond)

typedef struct tsem_game {
    struct {
        _Alignas(64) td_semaphore semaphore;
    } of[2];
} tsem_game;

static void tsem_give(void *game, int to, unsigned turn)
{
    (void)turn;
    must(td_semaphore_release(&((tsem_game *)game)->of[to].semaphore));
}

static void tsem_await(void *game, int side, unsigned turn)
{
    (void)turn;
    must(td_semaphore_acquire(&((tsem_game *)game)->of[side].semaphore));
}

#define tsem_init words_init
HANDOFF(tsem, .in_heap = true)
HANDOFF_PROCESSES(tsem)

typedef struct tevent_game {
    struct {
        _Alignas(64) td_event event;
    } of[2];
} tevent_game;

static void tevent_give(void *game, int to, unsigned turn)
{
    (void)turn;
    must(td_event_set(&((tevent_game *)game)->of[to].event));
}

static void tevent_await(void *game, int side, unsigned turn)
{
    td_event *event = &((tevent_game *)game)->of[side].event;
    (void)turn;
    must(td_event_wait(event));
    must(td_event_clear(event));
}

#define tevent_init words_init
HANDOFF(tevent, .in_heap = true)
HANDOFF_PROCESSES(tevent)

/* --- semaphores ------------------------------------------------------------------------------------------------- */

typedef struct sem_game {
    struct {
        _Alignas(64) sem_t sem;
    } of[2];
} sem_game;

static void psem_init(void *game, bool shared)
{
    for (int i = 0; i < 2; i++)
        if (sem_init(&((sem_game *)game)->of[i].sem, shared, 0) < 0)
            bench_fail("sem_init: %s", strerror(errno));
}

static void psem_give(void *game, int to, unsigned turn)
{
    (void)turn;
    sem_post(&((sem_game *)game)->of[to].sem);
}

static void psem_await(void *game, int side, unsigned turn)
{
    (void)turn;
    while (sem_wait(&((sem_game *)game)->of[side].sem) < 0)
        if (errno != EINTR)
            bench_fail("sem_wait: %s", strerror(errno));
}

HANDOFF(psem, .spins = false)
HANDOFF_PROCESSES(psem)

/* --- the driver ------------------------------------------------------------------------------------------------- */

static const bench_op ops[] = {
    { "td-cond", tcond },
    { "td-sem", tsem },
    { "td-event", tevent },
    { "td-cond-p", tcond_processes },
    { "td-sem-p", tsem_processes },
    { "td-event-p", tevent_processes },
    { "spin", spin },
    { "futex", futex },
    { "pcond", pcond },
    { "pcond-after", pcond_after },
    { "pcond-sem", pcond_sem },
    { "pcond-sem-after", pcond_sem_after },
    { "pcond-event", pcond_event },
    { "pcond-event-after", pcond_event_after },
    { "psem", psem },
    { "spin-p", spin_processes },
    { "futex-p", futex_processes },
    { "pcond-p", pcond_processes },
    { "pcond-after-p", pcond_after_processes },
    { "pcond-sem-p", pcond_sem_processes },
    { "pcond-sem-after-p", pcond_sem_after_processes },
    { "pcond-event-p", pcond_event_processes },
    { "pcond-event-after-p", pcond_event_after_processes },
    { "psem-p", psem_processes },
#ifdef BENCH_GLIB
    { "gcond", gcond },
    { "gcond-after", gcond_after },
#endif
#ifdef BENCH_NSYNC
    { "ncv", ncv },
    { "ncv-after", ncv_after },
    { "ncv-sem", ncv_sem },
    { "ncv-sem-after", ncv_sem_after },
    { "ncv-event", ncv_event },
    { "ncv-event-after", ncv_event_after },
#endif
};

static bench_server tandem_server, peers;

#define FAST_ROW(id, kind, server, name) BENCH_ROW(id, kind, server, id, 20000, 5000, name)
#define ROW(id, kind, server, name)      BENCH_ROW(id, kind, server, id, 5000, 1000, name)

static bench_row rows[] = {
    FAST_ROW("spin", BENCH_LIMIT, &peers, "limit: a word each, spinning"),
    ROW("futex", BENCH_LIMIT, &peers, "limit: a word each, futex sleep at once"),
    ROW("td-cond", BENCH_TANDEM, &tandem_server, "Tandem td_condition, notified under the lock"),
    ROW("td-sem", BENCH_TANDEM, &tandem_server, "Tandem td_semaphore"),
    ROW("td-event", BENCH_TANDEM, &tandem_server, "Tandem td_event, set, cleared by who waited"),
    ROW("pcond", BENCH_PEER, &peers, "pthread_cond, signalled under the lock"),
    ROW("pcond-after", BENCH_PEER, &peers, "pthread_cond, signalled after it"),
#ifdef BENCH_GLIB
    ROW("gcond", BENCH_PEER, &peers, "GCond, signalled under the lock"),
    ROW("gcond-after", BENCH_PEER, &peers, "GCond, signalled after it"),
#endif
#ifdef BENCH_NSYNC
    ROW("ncv", BENCH_PEER, &peers, "nsync_cv, signalled under the lock"),
    ROW("ncv-after", BENCH_PEER, &peers, "nsync_cv, signalled after it"),
#endif
    ROW("psem", BENCH_PEER, &peers, "sem_t"),
    ROW("pcond-sem", BENCH_PEER, &peers, "semaphore of pthread_cond, signalled under the lock"),
    ROW("pcond-sem-after", BENCH_PEER, &peers, "semaphore of pthread_cond, signalled after it"),
    ROW("pcond-event", BENCH_PEER, &peers, "event of pthread_cond, signalled under the lock"),
    ROW("pcond-event-after", BENCH_PEER, &peers, "event of pthread_cond, signalled after it"),
#ifdef BENCH_NSYNC
    ROW("ncv-sem", BENCH_PEER, &peers, "semaphore of nsync_cv, signalled under the lock"),
    ROW("ncv-sem-after", BENCH_PEER, &peers, "semaphore of nsync_cv, signalled after it"),
    ROW("ncv-event", BENCH_PEER, &peers, "event of nsync_cv, signalled under the lock"),
    ROW("ncv-event-after", BENCH_PEER, &peers, "event of nsync_cv, signalled after it"),
#endif
    FAST_ROW("spin-p", BENCH_LIMIT, &peers, "limit: a word each, spinning, 2 processes"),
    ROW("futex-p", BENCH_LIMIT, &peers, "limit: a word each, futex sleep at once, 2 processes"),
    ROW("td-cond-p", BENCH_TANDEM, &tandem_server, "Tandem td_condition, 2 processes"),
    ROW("td-sem-p", BENCH_TANDEM, &tandem_server, "Tandem td_semaphore, 2 processes"),
    ROW("td-event-p", BENCH_TANDEM, &tandem_server, "Tandem td_event, 2 processes"),
    ROW("pcond-p", BENCH_PEER, &peers, "pthread_cond pshared, under the lock, 2 processes"),
    ROW("pcond-after-p", BENCH_PEER, &peers, "pthread_cond pshared, after it, 2 processes"),
    ROW("psem-p", BENCH_PEER, &peers, "sem_t pshared, 2 processes"),
    ROW("pcond-sem-p", BENCH_PEER, &peers, "semaphore of pthread_cond, under the lock, 2 processes"),
    ROW("pcond-sem-after-p", BENCH_PEER, &peers, "semaphore of pthread_cond, after it, 2 processes"),
    ROW("pcond-event-p", BENCH_PEER, &peers, "event of pthread_cond, under the lock, 2 processes"),
    ROW("pcond-event-after-p", BENCH_PEER, &peers, "event of pthread_cond, after it, 2 processes"),
};

static const bench_metric metrics[METRICS] = {
    [HOT_FREE] = { "hot_free_ns", "round trip, both come back at once, not pinned", "ns", 1, false, "spin" },
    [HOT_2] = { "hot_2cpu_ns", "round trip, both come back at once, each on its CPU", "ns", 1, false, "spin" },
    [HOT_1] = { "hot_1cpu_ns", "round trip, both come back at once, both on 1 CPU", "ns", 1, false, "futex" },
    [ASLEEP_2] = { "asleep_2cpu_us", "round trip, 100 µs of work before each answer, each on its CPU", "µs", 1e-3,
                   false, "futex" },
    [ASLEEP_1] = { "asleep_1cpu_us", "round trip, 100 µs of work before each answer, both on 1 CPU", "µs", 1e-3, false,
                   "futex" },
};

/* Each type against the peers that do the same, in the four metrics that are pinned. */
#define AGAINST(what, row, peers)                                                                      \
    { what ", hot, each on its CPU: Tandem / the best peer", row, peers, 1, "hot_2cpu_ns" },           \
        { what ", hot, both on 1 CPU: Tandem / the best peer", row, peers, 1, "hot_1cpu_ns" },         \
        { what ", asleep, each on its CPU: Tandem / the best peer", row, peers, 1, "asleep_2cpu_us" }, \
    {                                                                                                  \
        what ", asleep, both on 1 CPU: Tandem / the best peer", row, peers, 1, "asleep_1cpu_us"        \
    }

static const bench_comparison comparisons[] = {
    AGAINST("condition", "td-cond", "pcond|pcond-after|ncv|ncv-after"),
    AGAINST("semaphore", "td-sem", "psem|pcond-sem|pcond-sem-after|ncv-sem|ncv-sem-after"),
    AGAINST("event", "td-event", "psem|pcond-event|pcond-event-after|ncv-event|ncv-event-after"),
    AGAINST("condition between processes", "td-cond-p", "pcond-p|pcond-after-p"),
    AGAINST("semaphore between processes", "td-sem-p", "psem-p|pcond-sem-p|pcond-sem-after-p"),
    AGAINST("event between processes", "td-event-p", "psem-p|pcond-event-p|pcond-event-after-p"),
};

static const char *const notes[] = {
    "the work is not counted; a number that only the one whose turn it is touches is checked at each turn",
#ifndef BENCH_GLIB
    "left out: GCond (no GLib when this was built)",
#endif
#ifndef BENCH_NSYNC
    "left out: nsync_cv (no nsync when this was built)",
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
        .name = "bench_handoff",
        .title = "handing the turn to another thread or process, and back",
        .metrics = metrics,
        .metric_count = METRICS,
        .rows = rows,
        .row_count = sizeof rows / sizeof *rows,
        .comparisons = comparisons,
        .comparison_count = sizeof comparisons / sizeof *comparisons,
        .notes = notes,
        .note_count = sizeof notes / sizeof *notes,
    };
    return bench_main(&b, argc, argv);
}
