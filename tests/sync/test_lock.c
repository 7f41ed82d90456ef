/* SPDX-License-Identifier: MIT */
/*
 * Lock and RLock: one suite over private and shared memory, threads and processes, and pthread's mutex where it means
 * the same; and every death that there is, at every step. All waits are bounded: a wake-up that is lost fails the case.
 */
#include "refuse.h"

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <tandem.h>
#include "sync/latch.h"

enum { READY, GO, HELD, DONE, WAITING };         /* events */
enum { N_STEPS, N_PID, N_RESULT, N_DIED, N_AT }; /* numbers */

#define BOUND td_s(20)

/* A semaphore of one unit is a lock, too, where it is only asked who gets it. */
enum {
    LOCK,
    RLOCK,
    PTHREAD,
    PTHREAD_RECURSIVE,
    KINDS,
    SEMAPHORE = KINDS,
    OWNED_SEMAPHORE,
    PTHREAD_SEMAPHORE,
    ALL_KINDS
};

/* What is fought over. */
typedef struct ground {
    _Alignas(64) union {
        td_lock lock;
        td_rlock rlock;
        pthread_mutex_t mutex;
        td_semaphore semaphore;
        td_owned_semaphore owned;
        sem_t sem;
    };
    int kind;
    int rounds;
    bool pinned;
    _Alignas(64) td_lock second;
    td_cancel cancel;
    td_owned_semaphore units;
    _Alignas(64) long counter; /* guarded by the lock, and plain: what is lost shows */
    long owner;
} ground;

static ground private_ground;

static ground *make(int kind, bool shared)
{
    ground *g = shared ? td_shared_alloc_aligned(64, sizeof *g) : &private_ground;
    REQUIRE(g != NULL);
    memset(g, 0, sizeof *g);
    g->kind = kind;
    if (kind == SEMAPHORE)
        REQUIRE_OK(td_semaphore_init(&g->semaphore, 1));
    if (kind == OWNED_SEMAPHORE)
        REQUIRE_OK(td_owned_semaphore_init(&g->owned, 1));
    if (kind == PTHREAD_SEMAPHORE)
        REQUIRE_INT(sem_init(&g->sem, shared, 1), 0);
    if (kind == PTHREAD || kind == PTHREAD_RECURSIVE) {
        pthread_mutexattr_t a;
        pthread_mutexattr_init(&a);
        pthread_mutexattr_setpshared(&a, shared ? PTHREAD_PROCESS_SHARED : PTHREAD_PROCESS_PRIVATE);
        pthread_mutexattr_settype(&a, kind == PTHREAD ? PTHREAD_MUTEX_ERRORCHECK : PTHREAD_MUTEX_RECURSIVE);
        pthread_mutex_init(&g->mutex, &a);
    }
    return g;
}

static int acquire(ground *g)
{
    switch (g->kind) {
    case LOCK:
        return td_lock_acquire(&g->lock);
    case RLOCK:
        return td_rlock_acquire(&g->rlock);
    case SEMAPHORE:
        return td_semaphore_acquire(&g->semaphore);
    case OWNED_SEMAPHORE:
        return td_owned_semaphore_acquire(&g->owned);
    case PTHREAD_SEMAPHORE:
        return sem_wait(&g->sem);
    default:
        return pthread_mutex_lock(&g->mutex);
    }
}

static int acquire_bounded(ground *g)
{
    switch (g->kind) {
    case LOCK:
        return td_lock_acquire_for(&g->lock, BOUND);
    case RLOCK:
        return td_rlock_acquire_for(&g->rlock, BOUND);
    case SEMAPHORE:
        return td_semaphore_acquire_for(&g->semaphore, BOUND);
    case OWNED_SEMAPHORE:
        return td_owned_semaphore_acquire_for(&g->owned, BOUND);
    default:
        return acquire(g);
    }
}

static int try_acquire(ground *g)
{
    switch (g->kind) {
    case LOCK:
        return td_lock_try_acquire(&g->lock);
    case RLOCK:
        return td_rlock_try_acquire(&g->rlock);
    default:
        return pthread_mutex_trylock(&g->mutex) ? TD_EBUSY : 0;
    }
}

static void release(ground *g)
{
    switch (g->kind) {
    case LOCK:
        td_lock_release(&g->lock);
        break;
    case RLOCK:
        td_rlock_release(&g->rlock);
        break;
    case SEMAPHORE:
        td_semaphore_release(&g->semaphore);
        break;
    case OWNED_SEMAPHORE:
        td_owned_semaphore_release(&g->owned);
        break;
    case PTHREAD_SEMAPHORE:
        sem_post(&g->sem);
        break;
    default:
        pthread_mutex_unlock(&g->mutex);
    }
}

static bool is_recursive(const ground *g)
{
    return g->kind == RLOCK || g->kind == PTHREAD_RECURSIVE;
}

static bool is_process(const mode *how)
{
    return how->kind == TD_PROCESS;
}

/* Over the kinds, and, for threads, private and shared memory. */
typedef void ground_test(const mode *how, ground *g);
static void over(const mode *how, ground_test *test, int kinds)
{
    for (int kind = 0; kind < kinds; kind++)
        for (int shared = is_process(how); shared < 2; shared++)
            test(how, make(kind, shared));
}

static td_worker *start(const mode *how, td_target *target, ground *g)
{
    td_worker *w = WORKER(NEW(.target = target, .args = TD_ARG(uintptr_t, (uintptr_t)g)));
    REQUIRE_OK(td_start(w));
    return w;
}

static ground *of(td_call *call)
{
    return (ground *)td_arg(call, uintptr_t);
}

static void finish(td_worker *w)
{
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
}

/* --- exclusion, and wake-ups ------------------------------------------------------------------------------- */

#define TEAM 4

static void pin(void)
{
    cpu_set_t set;
    sched_getaffinity(0, sizeof set, &set);
    int cpu = 0;
    while (!CPU_ISSET(cpu, &set))
        cpu++;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static int fights(td_call *call)
{
    ground *g = of(call);
    if (g->pinned)
        pin();
    unsigned x = (unsigned)getpid() + (unsigned)(uintptr_t)call;
    for (int i = 0; i < g->rounds; i++) {
        if (i % 2 ? acquire(g) : acquire_bounded(g)) {
            CHECK(false && "acquired");
            return 1;
        }
        long before = g->counter;
        g->owner = i;
        int deeper = is_recursive(g) ? i % 3 : 0;
        for (int d = 0; d < deeper; d++)
            CHECK_INT(d ? acquire(g) : try_acquire(g), 0);
        x = x * 1103515245 + 12345;
        /* Sometimes so long that the others go to sleep. */
        if (x >> 16 & 1 && i % 16 == 0)
            usleep(x >> 20 & 63);
        else if (i % 4 == 0)
            sched_yield();
        for (int d = 0; d < deeper; d++)
            release(g);
        CHECK_INT(g->owner, i);
        g->counter = before + 1;
        release(g);
        if (x >> 17 & 1 && i % 8 == 0)
            usleep(x >> 21 & 63);
    }
    return 0;
}

static void fight(const mode *how, ground *g, int team, int rounds)
{
    td_worker *w[16];
    g->rounds = rounds / SLOW;
    for (int i = 0; i < team; i++)
        w[i] = start(how, fights, g);
    for (int i = 0; i < team; i++)
        finish(w[i]);
    CHECK_INT(g->counter, (long)team * g->rounds);
    CHECK_INT(try_acquire(g), 0);
    release(g);
}

static void excludes(const mode *how, ground *g)
{
    fight(how, g, TEAM, 2000);
}

/* Catches: two owners at a time, an owner's writes not seen by the next, and wake-ups that get lost. */
TEST_MODES(exclusion)
{
    over(how, excludes, KINDS);
}

static void excludes_on_one_cpu(const mode *how, ground *g)
{
    g->pinned = true;
    fight(how, g, 8, 300);
}

/* Catches: one that waits for a thread which cannot run because of it. */
TEST_MODES(exclusion_on_one_cpu)
{
    over(how, excludes_on_one_cpu, RLOCK + 1);
}

/* The same for long: many more threads than processors, sleeping and waking all the time. */
TEST_MODES_LIMIT(full_wake_ups, 600)
{
    for (int shared = is_process(how); shared < 2; shared++)
        for (int pinned = 0; pinned < 2; pinned++) {
            ground *g = make(LOCK, shared);
            g->pinned = pinned;
            fight(how, g, 16, 20000);
        }
}

/* Those who always want it, each with a count of its own. */
typedef struct hog {
    ground *g;
    int number;
} hog;

#define HOGS     3
#define N_SHARES 100

static int hogs(td_call *call)
{
    hog h = td_arg(call, hog);
    event_add(READY);
    while (!event_is_set(GO)) {
        if (acquire(h.g))
            return 1;
        for (int i = 0; i < 100; i++)
            h.g->counter++;
        page->number[N_SHARES + h.number]++;
        release(h.g);
    }
    return 0;
}

static void start_hogs(const mode *how, ground *g, td_worker *w[HOGS])
{
    page->event[READY] = page->event[GO] = 0;
    for (int i = 0; i < HOGS; i++) {
        page->number[N_SHARES + i] = 0;
        w[i] = WORKER(NEW(.target = hogs, .args = TD_ARG(hog, g, i)));
        REQUIRE_OK(td_start(w[i]));
    }
    event_wait_count(READY, HOGS);
}

static void end_hogs(const char *name, td_worker *w[HOGS], long mine)
{
    event_set(GO);
    int64_t most = 1, least = INT64_MAX;
    for (int i = 0; i < HOGS; i++) {
        finish(w[i]);
        int64_t share = page->number[N_SHARES + i];
        most = share > most ? share : most;
        least = share < least ? share : least;
    }
    harness_note("%s: %ld of ours, %lld to %lld of the others'", name, mine, (long long)least, (long long)most);
}

static const char *const names[ALL_KINDS] = { "lock",      "rlock",           "mutex", "recursive mutex",
                                              "semaphore", "owned semaphore", "sem_t" };

/* Catches: a thread that never gets what others take again as soon as they have released it. */
TEST_MODES(nobody_starves)
{
    static const int kinds[] = { LOCK, RLOCK, SEMAPHORE, OWNED_SEMAPHORE };
    for (size_t k = 0; k < TD__COUNT(kinds); k++) {
        ground *g = make(kinds[k], is_process(how));
        td_worker *w[HOGS];
        start_hogs(how, g, w);
        for (int i = 0; i < 100; i++) {
            REQUIRE_OK(acquire_bounded(g));
            release(g);
        }
        end_hogs(names[kinds[k]], w, 100);
    }
}

/*
 * How even the shares are, and pthread's beside them, which may starve anybody for as long as it likes: only told.
 * That each gets some is checked of ours.
 */
TEST_MODES(shares)
{
    for (int kind = 0; kind < ALL_KINDS; kind++) {
        bool theirs = kind == PTHREAD || kind == PTHREAD_RECURSIVE || kind == PTHREAD_SEMAPHORE;
        ground *g = make(kind, is_process(how));
        td_worker *w[HOGS];
        start_hogs(how, g, w);
        for (double until = now() + 0.1 * SLOW; now() < until;)
            sched_yield();
        if (!theirs)
            for (int i = 0; i < HOGS; i++)
                WAIT_UNTIL(page->number[N_SHARES + i] > 0, 20);
        end_hogs(names[kind], w, 0);
    }
}

static int holds_deep(td_call *call)
{
    ground *g = of(call);
    for (int i = 0; i < 3; i++)
        CHECK_INT(i == 1 ? try_acquire(g) : acquire(g), 0);
    for (uint32_t i = 1; i <= 3; i++) {
        event_set(HELD);
        event_wait_count(GO, i);
        page->event[HELD] = 0;
        release(g);
        event_set(DONE);
    }
    return 0;
}

/* Catches: one that is free before it has been released as often as it was acquired. */
TEST_MODES(deep)
{
    static const int kinds[] = { RLOCK, PTHREAD_RECURSIVE };
    for (size_t k = 0; k < TD__COUNT(kinds); k++)
        for (int shared = is_process(how); shared < 2; shared++) {
            ground *g = make(kinds[k], shared);
            page->event[HELD] = page->event[GO] = page->event[DONE] = 0;
            td_worker *w = start(how, holds_deep, g);
            for (int i = 0; i < 3; i++) {
                event_wait(HELD);
                CHECK_INT(try_acquire(g), TD_EBUSY);
                page->event[DONE] = 0;
                event_add(GO);
                event_wait(DONE);
            }
            CHECK_INT(try_acquire(g), 0);
            CHECK_INT(try_acquire(g), 0);
            release(g);
            release(g);
            finish(w);
        }
}

/* --- what calls return ------------------------------------------------------------------------------------- */

static int holds(td_call *call)
{
    ground *g = of(call);
    if (acquire(g))
        return 1;
    event_add(HELD);
    event_wait(GO);
    release(g);
    return 0;
}

static void limits(const mode *how, ground *g)
{
    page->event[HELD] = page->event[GO] = 0;
    td_worker *w = start(how, holds, g);
    event_wait(HELD);
    CHECK(td_lock_locked(&g->lock) && !td_lock_owned(&g->lock));
    CHECK_ERROR(try_acquire(g), TD_EBUSY);
    CHECK_ERROR(g->kind == LOCK ? td_lock_acquire_for(&g->lock, td_ms(-5)) : td_rlock_acquire_for(&g->rlock, td_ms(-5)),
                TD_ETIMEOUT);
    double begin = now();
    CHECK_ERROR(g->kind == LOCK ? td_lock_acquire_for(&g->lock, td_ms(100))
                                : td_rlock_acquire_for(&g->rlock, td_ms(100)),
                TD_ETIMEOUT);
    CHECK_TIME(now() - begin, 0.1);
    event_set(GO);
    /* A limit of nearly for ever. */
    CHECK_OK(g->kind == LOCK ? td_lock_acquire_for(&g->lock, (td_time){ INT64_MAX })
                             : td_rlock_acquire_for(&g->rlock, (td_time){ INT64_MAX }));
    CHECK(td_lock_locked(&g->lock) && td_lock_owned(&g->lock));
    release(g);
    CHECK(!td_lock_locked(&g->lock) && !td_lock_owned(&g->lock));
    finish(w);
}

/* Catches: limits that are not kept, or that fail a call which could have had the lock. */
TEST_MODES(time_limits)
{
    over(how, limits, RLOCK + 1);
}

static void owns_already(const mode *how, ground *g)
{
    (void)how;
    CHECK_OK(td_lock_acquire(&g->second));
    CHECK_ERROR(td_lock_acquire(&g->second), TD_EDEADLOCK);
    CHECK_ERROR(td_lock_try_acquire(&g->second), TD_EDEADLOCK);
    CHECK_ERROR(td_lock_acquire_for(&g->second, td_ms(10)), TD_EDEADLOCK);
    CHECK(td_lock_owned(&g->second));
    td_lock_release(&g->second);
    CHECK(!td_lock_locked(&g->second));
    CHECK_INT(td_rlock_depth(&g->rlock), 0);
    for (uint32_t i = 1; i <= 5; i++) {
        CHECK_OK(i % 3 == 0   ? td_rlock_acquire(&g->rlock)
                 : i % 3 == 1 ? td_rlock_try_acquire(&g->rlock)
                              : td_rlock_acquire_for(&g->rlock, td_ms(1)));
        CHECK_INT(td_rlock_depth(&g->rlock), i);
    }
    g->rlock.td_depth = UINT32_MAX;
    CHECK_ERROR(td_rlock_acquire(&g->rlock), TD_ETOOBIG);
    g->rlock.td_depth = 5;
    for (int i = 0; i < 5; i++) {
        CHECK(td_rlock_owned(&g->rlock) && td_rlock_locked(&g->rlock));
        td_rlock_release(&g->rlock);
    }
    CHECK(!td_rlock_locked(&g->rlock));
}

/* Catches: a thread that waits for itself; recursion that is counted wrongly. */
TEST_MODES(recursion)
{
    over(how, owns_already, 1);
}

/* Catches: a crash instead of a code. */
TEST(null_pointers)
{
    CHECK_ERROR(td_lock_acquire(NULL), TD_EINVAL);
    CHECK_ERROR(td_lock_try_acquire(NULL), TD_EINVAL);
    CHECK_ERROR(td_lock_acquire_for(NULL, td_ms(1)), TD_EINVAL);
    CHECK_ERROR(td_rlock_acquire(NULL), TD_EINVAL);
    CHECK_ERROR(td_rlock_try_acquire(NULL), TD_EINVAL);
    CHECK_ERROR(td_rlock_acquire_for(NULL, td_ms(1)), TD_EINVAL);
    CHECK(!td_lock_locked(NULL) && !td_lock_owned(NULL) && !td_rlock_locked(NULL) && !td_rlock_owned(NULL));
    CHECK_INT(td_rlock_depth(NULL), 0);
}

/* Catches: a record that is written beyond its end; a release out of order that forgets the wrong one. */
TEST(as_many_as_can_be_held)
{
    static td_lock lock[TD__HELD_MAX + 1];
    td_lock *last = &lock[TD__HELD_MAX];
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < TD__HELD_MAX; i++)
            REQUIRE_OK(td_lock_acquire(&lock[i]));
        CHECK_ERROR(td_lock_acquire(last), TD_ETOOBIG);
        CHECK_ERROR(td_lock_try_acquire(last), TD_ETOOBIG);
        CHECK_ERROR(td_lock_acquire_for(last, td_ms(1)), TD_ETOOBIG);
        CHECK(!td_lock_locked(last));
        for (int i = 0; i < TD__HELD_MAX; i++) {
            td_lock_release(&lock[round ? i : TD__HELD_MAX - 1 - i]);
            CHECK_OK(td_lock_acquire(last));
            td_lock_release(last);
        }
        for (int i = 0; i <= TD__HELD_MAX; i++)
            CHECK(!td_lock_locked(&lock[i]));
    }
}

/* --- cancellation ------------------------------------------------------------------------------------------ */

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

static int is_cancelled(td_call *call)
{
    ground *g = of(call);
    event_add(READY);
    CHECK_ERROR(td_lock_acquire_with(&g->lock, BOUND, &g->cancel), TD_ECANCELLED);
    /* Fired, it ends what begins later at once; and does not hinder what needs no wait. */
    CHECK_ERROR(td_lock_acquire_with(&g->lock, TD_NO_LIMIT, &g->cancel), TD_ECANCELLED);
    CHECK_OK(td_lock_acquire_with(&g->second, TD_NO_LIMIT, &g->cancel));
    td_lock_release(&g->second);
    return 0;
}

static int is_cancelled_without_waitv(td_call *call)
{
    refuse(SYS_futex_waitv, ENOSYS);
    return is_cancelled(call);
}

/* Parties that wait for this. */
static int sleepers(const void *word)
{
    int count = 0;
    uint32_t top = td__load_acquire(&td__the_region->party_top);
    for (uint32_t i = 1; i < top; i++)
        if (td__load_acquire(td__party_entry(i)) && td__load_relaxed(&td__party_at(i)->word_waited) == word)
            count++;
    return count;
}

static void cancels(const mode *how, ground *g, td_target *target)
{
    page->event[READY] = 0;
    g->cancel = (td_cancel){ 0 };
    REQUIRE_OK(td_lock_acquire(&g->lock));
    td_worker *w[2];
    for (int i = 0; i < 2; i++)
        w[i] = start(how, target, g);
    event_wait_count(READY, 2);
    WAIT_UNTIL(sleepers(&g->lock) == 2, 10);
    CHECK(!td_cancel_fired(&g->cancel));
    td_cancel_fire(&g->cancel);
    CHECK(td_cancel_fired(&g->cancel));
    for (int i = 0; i < 2; i++)
        finish(w[i]);
    td_lock_release(&g->lock);
    CHECK_OK(td_lock_acquire_for(&g->lock, BOUND));
    td_lock_release(&g->lock);
}

static void cancels_both(const mode *how, ground *g)
{
    cancels(how, g, is_cancelled);
    cancels(how, g, is_cancelled_without_waitv);
}

/* Catches: a sleeper that its cancellation does not reach, on the way by two words and on the way without that call. */
TEST_MODES(cancellation)
{
    over(how, cancels_both, 1);
}

/* --- without barriers -------------------------------------------------------------------------------------- */

HELPER(fights_without_barriers)
{
    if (argc < 1)
        return 1;
    const mode *modes[] = { &mode_thread, &mode_forkserver, &mode_fork };
    for (size_t i = 0; i < TD__COUNT(modes); i++)
        for (int shared = is_process(modes[i]); shared < 2; shared++) {
            ground *g = make(LOCK, shared);
            g->pinned = shared;
            fight(modes[i], g, TEAM, 400);
            CHECK(td__the_region->by_exchange);
            CHECK_INT(td__me->quick, TD__NOBODY);
        }
    return harness_failed() || argv == NULL;
}

/* Catches: a kernel, or a sandbox, that has no membarrier from the beginning. */
TEST(barriers_refused)
{
    CHECK(!td__the_region->by_exchange);
    helper_options options = { .before = refuse_barriers };
    CHECK_INT(helper_run(&options, "fights_without_barriers", NULL), 0);
}

static int fights_in_a_sandbox(td_call *call)
{
    refuse(SYS_membarrier, EPERM);
    return fights(call);
}

/* Catches: a process that is refused it when others, and it itself, release by plain stores already. */
TEST_MODES(barriers_refused_later)
{
    ground *g = make(LOCK, true);
    td_worker *w[TEAM];
    g->rounds = 400 / SLOW;
    for (int i = 0; i < TEAM; i++)
        w[i] = start(how, i % 2 ? fights_in_a_sandbox : fights, g);
    for (int i = 0; i < TEAM; i++)
        finish(w[i]);
    CHECK_INT(g->counter, (long)TEAM * g->rounds);
}

/* --- misuse ------------------------------------------------------------------------------------------------ */

static int holds_for_ever(td_call *call)
{
    td_lock_acquire(&of(call)->lock);
    event_set(HELD);
    event_wait(DONE);
    return 0;
}

HELPER(misuses)
{
    REQUIRE_INT(argc, 2);
    ground *g = make(LOCK, strstr(argv[1], "shared") != NULL);
    struct rlimit none = { 0, 0 };
    setrlimit(RLIMIT_CORE, &none);
    signal(SIGABRT, SIG_DFL);
    if (strstr(argv[1], "foreign")) {
        start(&mode_thread, holds_for_ever, g);
        event_wait(HELD);
    }
    if (strstr(argv[1], "twice")) {
        td_lock_acquire(&g->lock);
        td_lock_release(&g->lock);
    }
    if (strstr(argv[1], "null"))
        td_lock_release(NULL);
    else if (strstr(argv[1], "rlock"))
        td_rlock_release(&g->rlock);
    else
        td_lock_release(&g->lock);
    return 0;
}

/* Catches: a release by who does not hold the lock that goes by without a word. */
TEST(misuse)
{
    static const struct {
        const char *how, *sentence;
    } cases[] = {
        { "free", "td_lock_release: lock" },
        { "free", "is not held" },
        { "shared free", "is not held" },
        { "twice", "is not held" },
        { "foreign", "is held by another thread" },
        { "shared foreign", "is held by another thread" },
        { "null", "td_lock_release: the lock is NULL" },
        { "rlock free", "td_rlock_release: lock" },
        { "rlock foreign", "is held by another thread" },
    };
    for (size_t i = 0; i < TD__COUNT(cases); i++) {
        char *text;
        page->event[HELD] = 0;
        CHECK_INT(helper_output(&text, NULL, "misuses", cases[i].how, NULL), -SIGABRT);
        CHECK_HAS(text, cases[i].sentence);
        free(text);
    }
}

/* --- deaths ------------------------------------------------------------------------------------------------ */

/* The next to acquire it is told, or is not, as it may be; the one after that is not. */
static int expect_usable(ground *g)
{
    int r = acquire_bounded(g);
    CHECK(r == 0 || r == TD_OWNER_DIED);
    if (r < 0)
        return r;
    CHECK(td_lock_owned(&g->lock));
    release(g);
    CHECK_INT(acquire_bounded(g), 0);
    release(g);
    return r;
}

/* Records in use: what has died gives its own back. */
static int parties(void)
{
    int count = 0;
    uint32_t top = td__load_acquire(&td__the_region->party_top);
    for (uint32_t i = 1; i < top; i++)
        count += td__load_acquire(td__party_entry(i)) != 0;
    return count;
}

static void begin_steps(void)
{
    td__kill_at_step((long)page->number[N_AT]);
}

static void end_steps(void)
{
    page->number[N_STEPS] = td__kill_at_step(0);
}

/* Runs `round` with page->number[N_AT] = 1, 2, ... until the target lives through it. `told`: must at least one death
 * have been told, that is, have hit an owner? */
static void at_every_step(ground *g, void (*round)(const mode *, ground *, td_target *), const mode *how,
                          td_target *target, bool told)
{
    int deaths = 0, tellings = 0;
    REQUIRE(td_lock_acquire(&g->lock) == 0);
    td_lock_release(&g->lock);
    for (long n = 1;; n++) {
        page->number[N_AT] = n;
        page->number[N_STEPS] = -1;
        page->number[N_DIED] = 0;
        page->event[READY] = page->event[GO] = page->event[HELD] = page->event[DONE] = 0;
        round(how, g, target);
        tellings += (page->number[N_DIED] != 0);
        if (page->number[N_STEPS] >= 0)
            break;
        deaths++;
        CHECK_INT(td_lock_locked(&g->lock), false);
        if (harness_failed()) {
            harness_note("at step %ld", n);
            break;
        }
    }
    CHECK(deaths >= 3);
    CHECK(!told || tellings > 0);
    CHECK_INT(td_lock_locked(&g->second), false);
    /* The workers' records, and one of who repairs. */
    WAIT_UNTIL(parties() <= 3, 10);
}

static void alone(const mode *how, ground *g, td_target *target)
{
    td_worker *w = start(how, target, g);
    REQUIRE_OK(td_join(w));
    td_free(w);
    page->number[N_DIED] += expect_usable(g);
    int r = td_lock_acquire_for(&g->second, BOUND);
    CHECK(r == 0 || r == TD_OWNER_DIED);
    td_lock_release(&g->second);
}

static int acquires_and_releases(td_call *call)
{
    ground *g = of(call);
    begin_steps();
    if (acquire(g) >= 0)
        release(g);
    end_steps();
    return 0;
}

/* Catches: a lock that stays with a dead one, or is given on twice, after a death at any step of the quick ways. */
TEST_METHODS(killed_in_acquire_or_release)
{
    for (int kind = LOCK; kind <= RLOCK; kind++)
        at_every_step(make(kind, true), alone, how, acquires_and_releases, true);
}

static int holds_two(td_call *call)
{
    ground *g = of(call);
    begin_steps();
    acquire(g);
    td_lock_acquire(&g->second);
    release(g); /* not in the order of acquiring */
    td_lock_try_acquire(&g->lock);
    td_lock_release(&g->second);
    td_lock_release(&g->lock);
    end_steps();
    return 0;
}

/* Catches: the same with several locks, and an entry that is lost while another takes its place. */
TEST_METHODS(killed_with_several)
{
    at_every_step(make(LOCK, true), alone, how, holds_two, true);
}

static int holds_lock_and_unit(td_call *call)
{
    ground *g = of(call);
    begin_steps();
    acquire(g);
    td_lock_acquire(&g->second);
    td_owned_semaphore_acquire(&g->units);
    release(g); /* the unit takes its place in the record */
    td_owned_semaphore_release(&g->units);
    td_lock_release(&g->second);
    end_steps();
    return 0;
}

#define UNITS 3

static void alone_with_units(const mode *how, ground *g, td_target *target)
{
    alone(how, g, target);
    WAIT_UNTIL(td_owned_semaphore_value(&g->units) == UNITS, 10);
}

/* Catches: a unit that is given back twice, as a death found it in two places. */
TEST_METHODS(killed_with_a_unit)
{
    ground *g = make(LOCK, true);
    td_owned_semaphore_init(&g->units, UNITS);
    at_every_step(g, alone_with_units, how, holds_lock_and_unit, true);
}

/* A waiter that must not be lost. Its result goes on the page. */
static int waits(td_call *call)
{
    ground *g = of(call);
    int r = acquire_bounded(g);
    CHECK(r == 0 || r == TD_OWNER_DIED);
    if (r < 0)
        return 1;
    page->number[N_DIED] += r;
    release(g);
    event_add(DONE);
    return 0;
}

static int releases_to_sleepers(td_call *call)
{
    ground *g = of(call);
    if (acquire(g) != 0)
        return 1;
    event_set(HELD);
    event_wait(GO);
    begin_steps();
    release(g);
    end_steps();
    return 0;
}

static void with_sleepers(const mode *how, ground *g, td_target *target)
{
    td_worker *w = start(how, target, g), *waiters[2];
    event_wait(HELD);
    for (int i = 0; i < 2; i++)
        waiters[i] = start(how, waits, g);
    WAIT_UNTIL(sleepers(&g->lock) == 2, 10);
    event_set(GO);
    for (int i = 0; i < 2; i++)
        finish(waiters[i]);
    REQUIRE_OK(td_join(w));
    td_free(w);
    expect_usable(g);
}

/* Catches: sleepers whom nobody wakes, as the one who was about to do it has been killed. */
TEST_METHODS(killed_in_release_with_sleepers)
{
    at_every_step(make(LOCK, true), with_sleepers, how, releases_to_sleepers, false);
}

static int waits_and_is_killed(td_call *call)
{
    ground *g = of(call);
    begin_steps();
    page->number[N_PID] = getpid();
    int r = acquire_bounded(g);
    if (r >= 0)
        release(g);
    end_steps();
    return 0;
}

static int waits_with_limit_and_is_killed(td_call *call)
{
    ground *g = of(call);
    begin_steps();
    page->number[N_PID] = getpid();
    if (td_lock_acquire_for(&g->lock, td_ms(3)) >= 0)
        release(g);
    end_steps();
    return 0;
}

static int waits_with_cancel_and_is_killed(td_call *call)
{
    ground *g = of(call);
    begin_steps();
    page->number[N_PID] = getpid();
    if (td_lock_acquire_with(&g->lock, TD_NO_LIMIT, &g->cancel) >= 0)
        release(g);
    end_steps();
    return 0;
}

/* We hold it; the target waits, and so do others: when we release, all that live must get it. */
static void among_waiters(const mode *how, ground *g, td_target *target)
{
    REQUIRE(td_lock_acquire_for(&g->lock, BOUND) >= 0);
    page->number[N_PID] = 0;
    g->cancel = (td_cancel){ 0 };
    td_worker *w = start(how, target, g), *waiters[2];
    /* Asleep first, so that it is the first to be woken; or dead already. */
    WAIT_UNTIL(page->number[N_PID] != 0, 10);
    WAIT_UNTIL(sleepers(&g->lock) >= 1 || !td_is_alive(w) || page->number[N_STEPS] >= 0, 10);
    for (int i = 0; i < 2; i++)
        waiters[i] = start(how, waits, g);
    WAIT_UNTIL(sleepers(&g->lock) >= 2, 10);
    if (target == waits_with_cancel_and_is_killed)
        td_cancel_fire(&g->cancel);
    td_lock_release(&g->lock);
    for (int i = 0; i < 2; i++)
        finish(waiters[i]);
    REQUIRE_OK(td_join(w));
    td_free(w);
    page->number[N_DIED] += expect_usable(g);
}

/* Catches: a wake-up that goes with the one who got it. */
TEST_METHODS(waiter_killed)
{
    at_every_step(make(LOCK, true), among_waiters, how, waits_and_is_killed, true);
}

/* Catches: the same where it was about to give up. */
TEST_METHODS(waiter_killed_at_its_limit)
{
    at_every_step(make(LOCK, true), among_waiters, how, waits_with_limit_and_is_killed, false);
}

TEST_METHODS(waiter_killed_when_cancelled)
{
    at_every_step(make(LOCK, true), among_waiters, how, waits_with_cancel_and_is_killed, false);
}

/* Catches: sleepers whom the news of a death does not wake. */
TEST_METHODS(holder_killed_with_sleepers)
{
    ground *g = make(LOCK, true);
    for (int i = 0; i < 5; i++) {
        page->event[HELD] = page->event[DONE] = 0;
        page->number[N_DIED] = 0;
        td_worker *holder = start(how, holds_for_ever, g), *waiters[2];
        event_wait(HELD);
        for (int k = 0; k < 2; k++)
            waiters[k] = start(how, waits, g);
        WAIT_UNTIL(sleepers(&g->lock) == 2, 10);
        kill(td_pid(holder), SIGKILL);
        for (int k = 0; k < 2; k++)
            finish(waiters[k]);
        CHECK_INT(page->number[N_DIED], TD_OWNER_DIED); /* one of them was told */
        td_join(holder);
        td_free(holder);
    }
}

/* Catches: sleepers forgotten when the holder dies with the one that its death would have woken. */
TEST_METHODS(holder_and_waiter_killed_together)
{
    ground *g = make(LOCK, true);
    for (int i = 0; i < 10; i++) {
        page->event[HELD] = page->event[READY] = page->event[GO] = page->event[DONE] = 0;
        page->number[N_AT] = 0;
        td_worker *holder = start(how, holds_for_ever, g);
        event_wait(HELD);
        td_worker *victim = start(how, waits_and_is_killed, g);
        WAIT_UNTIL(sleepers(&g->lock) == 1, 10);
        td_worker *waiter = start(how, waits, g);
        WAIT_UNTIL(sleepers(&g->lock) == 2, 10);
        pid_t first = td_pid(i % 2 ? holder : victim), second = td_pid(i % 2 ? victim : holder);
        kill(first, SIGKILL);
        kill(second, SIGKILL);
        finish(waiter);
        td_join(holder);
        td_join(victim);
        td_free(holder);
        td_free(victim);
        expect_usable(g);
    }
}

/* Catches: a lock whose holder dies with the one who was to repair after it. */
TEST(holder_and_spawner_killed_together)
{
    const mode *how = &mode_forkserver;
    ground *g = make(LOCK, true);
    for (int i = 0; i < 6; i++) {
        page->event[HELD] = 0;
        td_worker *holder = start(how, holds_for_ever, g);
        event_wait(HELD);
        pid_t pid = td_pid(holder), spawner = parent_of(pid);
        if (i % 3 == 0)
            kill(spawner, SIGKILL); /* and the holder dies of it */
        else if (i % 3 == 1) {
            kill(pid, SIGKILL);
            kill(spawner, SIGKILL);
        } else {
            kill(spawner, SIGSTOP); /* it does not come to repair */
            kill(pid, SIGKILL);
            kill(spawner, SIGKILL);
        }
        CHECK_INT(expect_usable(g), TD_OWNER_DIED);
        REQUIRE_OK(td_join(holder));
        td_free(holder);
    }
}

static int sets_steps(void)
{
    td__kill_at_step((long)page->number[N_AT]);
    return 0;
}

INIT(killed_repairer)
{
    td_init(.prepare = sets_steps, .spares = 1);
}

static int dies_holding_two(td_call *call)
{
    ground *g = of(call);
    td__kill_at_step(0);
    if (acquire(g) != 0 || td_lock_acquire(&g->second) != 0)
        return 1;
    event_set(HELD);
    event_wait(GO);
    kill(getpid(), SIGKILL);
    return 0;
}

HELPER(repairs)
{
    if (argc < 1 || !argv)
        return 1;
    const mode *how = &mode_forkserver;
    ground *g = make(LOCK, true);
    td_worker *w = start(how, dies_holding_two, g);
    event_wait(HELD);
    pid_t spawner = parent_of(td_pid(w));
    event_set(GO);
    CHECK_INT(expect_usable(g), TD_OWNER_DIED);
    CHECK_INT(td_lock_acquire_for(&g->second, BOUND), TD_OWNER_DIED);
    td_lock_release(&g->second);
    td_join(w);
    td_free(w);
    page->number[N_RESULT] = process_alive(spawner);
    return harness_failed();
}

/* Catches: a repair that another one cannot take up where it was left. */
TEST_LIMIT(repairer_killed_at_every_step, 100)
{
    long n = 0;
    do {
        page->number[N_AT] = ++n;
        page->number[N_RESULT] = 0;
        page->event[HELD] = page->event[GO] = 0;
        helper_options options = { .init = "killed_repairer" };
        CHECK_INT(helper_run(&options, "repairs", NULL), 0);
    } while (page->number[N_RESULT] == 0 && !harness_failed());
    harness_note("%ld steps", n);
    CHECK(n > 5);
}

static void *ends_holding(void *argument)
{
    ground *g = argument;
    if (acquire(g) != 0 || td_lock_acquire(&g->second) != 0)
        return argument;
    td_lock_release(&g->second);
    event_add(HELD);
    return NULL;
}

/* Catches: a lock that stays with a thread that is no more. */
TEST(thread_ends_holding)
{
    for (int shared = 0; shared < 2; shared++) {
        ground *g = make(LOCK, shared);
        pthread_t thread;
        REQUIRE(pthread_create(&thread, NULL, ends_holding, g) == 0);
        void *result;
        REQUIRE(pthread_join(thread, &result) == 0);
        CHECK(result == NULL);
        CHECK_INT(expect_usable(g), TD_OWNER_DIED);
        CHECK_OK(td_lock_acquire(&g->second));
        td_lock_release(&g->second);
    }
}

static int forks_holding(td_call *call)
{
    ground *g = of(call);
    REQUIRE(acquire(g) == 0);
    REQUIRE(td_lock_acquire(&private_ground.lock) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        /* The private one is ours, in our copy; the shared one is the parent's. */
        CHECK(td_lock_owned(&private_ground.lock) && !td_lock_owned(&g->lock));
        td_lock_release(&private_ground.lock);
        CHECK_ERROR(td_lock_try_acquire(&g->lock), TD_EBUSY);
        event_set(READY);
        int r = td_lock_acquire_for(&g->lock, BOUND);
        CHECK(r == 0 || r == TD_OWNER_DIED);
        _exit(harness_failed() ? EXIT_WORKER : 0);
    }
    event_wait(READY);
    CHECK(td_lock_owned(&private_ground.lock));
    td_lock_release(&private_ground.lock);
    release(g);
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    /* It has ended holding it. */
    CHECK_INT(expect_usable(g), TD_OWNER_DIED);
    return 0;
}

/* Catches: a fork that takes a lock along, or leaves it with nobody. */
TEST_MODES(fork_while_holding)
{
    finish(start(how, forks_holding, make(LOCK, true)));
}

/* --- asleep ------------------------------------------------------------------------------------------------ */

static int sleeps_for_it(td_call *call)
{
    ground *g = of(call);
    struct rusage before, after;
    getrusage(RUSAGE_THREAD, &before);
    if (acquire(g) != 0)
        return 1;
    getrusage(RUSAGE_THREAD, &after);
    release(g);
    page->number[N_RESULT] = (after.ru_utime.tv_sec - before.ru_utime.tv_sec) * 1000000L +
                             (after.ru_utime.tv_usec - before.ru_utime.tv_usec) +
                             (after.ru_stime.tv_sec - before.ru_stime.tv_sec) * 1000000L +
                             (after.ru_stime.tv_usec - before.ru_stime.tv_usec);
    page->number[N_STEPS] = after.ru_nvcsw - before.ru_nvcsw;
    return 0;
}

static void sleeps(const mode *how, ground *g)
{
    REQUIRE_OK(td_lock_acquire(&g->lock));
    td_worker *w = start(how, sleeps_for_it, g);
    WAIT_UNTIL(sleepers(&g->lock) == 1, 10);
    pause_ms(500);
    td_lock_release(&g->lock);
    finish(w);
    /* Of 500 ms asleep, a fifth would be a lot; and it does not wake up to look. */
    CHECK_IN(page->number[N_RESULT], 0, 100000 * SLOW);
    CHECK_IN(page->number[N_STEPS], 0, 20);
}

/* Catches: a wait that polls. */
TEST_MODES(sleepers_use_no_cpu)
{
    over(how, sleeps, 1);
}
