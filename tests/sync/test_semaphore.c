/* SPDX-License-Identifier: MIT */
/*
 * Semaphores: plain, bounded and owned, and the system's sem_t through the same suite where the meaning is the same, so
 * that a wrong test shows.
 */
#include "words.h"

#include <sched.h>
#include <semaphore.h>
#include <time.h>

enum { STARTED, GOT, GO };

/* --- one suite over all kinds ------------------------------------------------------------------------------ */

typedef struct objects {
    union {
        td_semaphore plain;
        td_bounded_semaphore bounded;
        td_owned_semaphore owned;
        sem_t system;
    } of;
    td_event go;
    td_cancel cancel;
    _Atomic long count, inside, most;
} objects;

static int system_try(void *s)
{
    return sem_trywait(s) == 0 ? 0 : TD_EBUSY;
}

static int system_acquire(void *s, td_time limit)
{
    struct timespec until;
    int r;
    if (limit.ns == 0) {
        while ((r = sem_wait(s)) < 0 && errno == EINTR)
            ;
        return r;
    }
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += limit.ns / 1000000000;
    if ((until.tv_nsec += limit.ns % 1000000000) >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    while ((r = sem_timedwait(s, &until)) < 0 && errno == EINTR)
        ;
    return r == 0 ? 0 : TD_ETIMEOUT;
}

static int plain_acquire(void *s, td_time limit)
{
    return limit.ns == 0 ? td_semaphore_acquire(s) : td_semaphore_acquire_for(s, limit);
}

static int plain_try(void *s)
{
    return td_semaphore_try_acquire(s);
}

static int bounded_acquire(void *s, td_time limit)
{
    return limit.ns == 0 ? td_bounded_semaphore_acquire(s) : td_bounded_semaphore_acquire_for(s, limit);
}

static int bounded_try(void *s)
{
    return td_bounded_semaphore_try_acquire(s);
}

static int owned_acquire(void *s, td_time limit)
{
    return limit.ns == 0 ? td_owned_semaphore_acquire(s) : td_owned_semaphore_acquire_for(s, limit);
}

static int owned_try(void *s)
{
    return td_owned_semaphore_try_acquire(s);
}

enum { PLAIN, BOUNDED, OWNED, SYSTEM, KINDS };

static int acquire(long kind, void *s, td_time limit)
{
    switch (kind) {
    case PLAIN:
        return plain_acquire(s, limit);
    case BOUNDED:
        return bounded_acquire(s, limit);
    case OWNED:
        return owned_acquire(s, limit);
    default:
        return system_acquire(s, limit);
    }
}

static int try(long kind, void *s)
{
    int (*const calls[])(void *) = { plain_try, bounded_try, owned_try, system_try };
    return calls[kind](s);
}

static void release(long kind, void *s)
{
    if (kind == PLAIN)
        REQUIRE_OK(td_semaphore_release(s));
    else if (kind == BOUNDED)
        REQUIRE_OK(td_bounded_semaphore_release(s));
    else if (kind == OWNED)
        td_owned_semaphore_release(s);
    else
        REQUIRE(sem_post(s) == 0);
}

static uint32_t value(long kind, void *s)
{
    int n = 0;
    if (kind == SYSTEM)
        sem_getvalue(s, &n);
    return kind == PLAIN     ? td_semaphore_value(s)
           : kind == BOUNDED ? td_bounded_semaphore_value(s)
           : kind == OWNED   ? td_owned_semaphore_value(s)
                             : (uint32_t)n;
}

static void init(long kind, void *s, unsigned n)
{
    if (kind == SYSTEM)
        REQUIRE(sem_init(s, 1, n) == 0);
    else
        REQUIRE_OK(kind == PLAIN     ? td_semaphore_init(s, n)
                   : kind == BOUNDED ? td_bounded_semaphore_init(s, n)
                                     : td_owned_semaphore_init(s, n));
}

#define EACH_KIND(kind) for (long kind = 0; kind < KINDS; kind++)

TEST_PLACES(counts)
{
    objects *o = place(how, sizeof *o);
    EACH_KIND(kind)
    {
        init(kind, &o->of, 3);
        CHECK_INT(value(kind, &o->of), 3);
        for (int i = 0; i < 2; i++)
            CHECK_INT(acquire(kind, &o->of, TD_NO_LIMIT), 0);
        CHECK_INT(try(kind, &o->of), 0);
        CHECK_INT(value(kind, &o->of), 0);
        CHECK_INT(try(kind, &o->of), TD_EBUSY);
        CHECK_INT(acquire(kind, &o->of, td_ms(2)), TD_ETIMEOUT);
        CHECK_INT(value(kind, &o->of), 0);
        for (int i = 0; i < 3; i++)
            release(kind, &o->of);
        CHECK_INT(value(kind, &o->of), 3);
        CHECK_INT(acquire(kind, &o->of, td_ms(2)), 0);
        release(kind, &o->of);
    }
}

static int takes_turns(td_call *call)
{
    part p = td_arg(call, part);
    objects *o = p.object;
    for (long i = 0; i < p.number; i++) {
        REQUIRE_INT(acquire((long)p.with, &o->of, i % 16 ? TD_NO_LIMIT : td_s(3000)), 0);
        long inside = td__fetch_add_acq_rel(&o->inside, 1) + 1, most = td__load_relaxed(&o->most);
        while (inside > most && !td__cas_acq_rel(&o->most, &most, inside))
            ;
        if (i % 64 == 0)
            pause_ms(1);
        td__fetch_sub_acq_rel(&o->inside, 1);
        release((long)p.with, &o->of);
    }
    return 0;
}

/* Never more inside than there are units, and nobody is left behind: more parties than processors, and more than units.
 */
TEST_PLACES(limits_entry)
{
    enum { N = 6, UNITS = 2 };
    objects *o = place(how, sizeof *o);
    EACH_KIND(kind)
    {
        memset(o, 0, sizeof *o);
        init(kind, &o->of, UNITS);
        td_worker *w[N];
        for (int i = 0; i < N; i++)
            w[i] = begin(how, takes_turns, o, (uint64_t)kind, 600 / SLOW, 0);
        for (int i = 0; i < N; i++)
            end_well(w[i]);
        CHECK_INT(value(kind, &o->of), UNITS);
        CHECK_IN(td__load_relaxed(&o->most), 1, UNITS);
    }
}

static int waits_briefly(td_call *call)
{
    part p = td_arg(call, part);
    objects *o = p.object;
    double begun = now();
    CHECK_INT(acquire((long)p.with, &o->of, td_ms(150)), TD_ETIMEOUT);
    CHECK_TIME(now() - begun, 0.15);
    return 0;
}

TEST_PLACES(timeout)
{
    objects *o = place(how, sizeof *o);
    EACH_KIND(kind)
    {
        init(kind, &o->of, 0);
        end_well(begin(how, waits_briefly, o, (uint64_t)kind, 0, 0));
        CHECK_INT(value(kind, &o->of), 0);
    }
    CHECK_ERROR(td_semaphore_acquire_for(&o->of.plain, td_ms(-1)), TD_ETIMEOUT);
}

/* --- lost wake-ups ----------------------------------------------------------------------------------------- */

static int consumes(td_call *call)
{
    part p = td_arg(call, part);
    objects *o = p.object;
    event_add(STARTED);
    for (long i = 0; i < p.number; i++) {
        REQUIRE_INT(acquire((long)p.with, &o->of, TD_NO_LIMIT), 0);
        td__fetch_add_acq_rel(&o->count, 1);
        td_event_set(&o->go);
    }
    return 0;
}

/* Units by one, and by many at once, for consumers that keep falling asleep: each unit finds its consumer. */
static void produce(const mode *how, long kind, int consumers, long rounds)
{
    objects *o = place(how, sizeof *o);
    init(kind, &o->of, 0);
    td_worker *w[16];
    for (int i = 0; i < consumers; i++)
        w[i] = begin(how, consumes, o, (uint64_t)kind, rounds, 0);
    long given = 0;
    for (long i = 0; given < rounds * consumers; i++) {
        long n = 1 + i % consumers;
        if (n > rounds * consumers - given)
            n = rounds * consumers - given;
        if (kind == PLAIN && i % 3 == 0)
            REQUIRE_OK(td_semaphore_release_n(&o->of.plain, (uint32_t)n));
        else
            for (long k = 0; k < n; k++)
                release(kind, &o->of);
        given += n;
        /* All are taken, although nobody else gives any: a lost wake-up hangs here. */
        while (i % 5 != 0 && td__load_acquire(&o->count) < given) {
            REQUIRE_OK(td_event_wait(&o->go));
            td_event_clear(&o->go);
        }
    }
    for (int i = 0; i < consumers; i++)
        end_well(w[i]);
    CHECK_INT(value(kind, &o->of), 0);
}

TEST_PLACES(no_unit_is_overslept)
{
    produce(how, PLAIN, 1, 6000 / SLOW);
    produce(how, PLAIN, 3, 3000 / SLOW);
    produce(how, PLAIN, 8, 500 / SLOW);
    produce(how, SYSTEM, 3, 500 / SLOW);
}

static int consumes_impatiently(td_call *call)
{
    part p = td_arg(call, part);
    objects *o = p.object;
    for (long i = 0; i < p.number;) {
        int r = td_semaphore_acquire_with(&o->of.plain, td_us(i % 7 * 20), p.step ? &o->cancel : NULL);
        if (r == TD_ECANCELLED)
            td_cancel_reset(&o->cancel);
        if (r < 0)
            continue;
        td__fetch_add_acq_rel(&o->count, 1);
        td_event_set(&o->go);
        i++;
    }
    return 0;
}

/* Among those that sleep some give up at the moment at which they are woken: the wake-up goes on to another. */
TEST_PLACES(who_gives_up_passes_it_on)
{
    enum { N = 4 };
    objects *o = place(how, sizeof *o);
    long rounds = 1500 / SLOW;
    td_worker *w[N];
    for (int i = 0; i < N; i++)
        w[i] = begin(how, i < 2 ? consumes : consumes_impatiently, o, PLAIN, rounds, i == 3);
    for (long given = 0; given < rounds * N;) {
        REQUIRE_OK(td_semaphore_release(&o->of.plain));
        given++;
        if (given % 16 == 0)
            td_cancel_fire(&o->cancel);
        while (td__load_acquire(&o->count) < given) {
            REQUIRE_OK(td_event_wait(&o->go));
            td_event_clear(&o->go);
        }
    }
    for (int i = 0; i < N; i++)
        end_well(w[i]);
}

TEST_PLACES(no_unit_is_overslept_on_one_cpu)
{
    cpu_set_t set;
    REQUIRE(sched_getaffinity(0, sizeof set, &set) == 0);
    int cpu = 0;
    while (!CPU_ISSET(cpu, &set))
        cpu++;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    REQUIRE(sched_setaffinity(0, sizeof set, &set) == 0);
    produce(how, PLAIN, 3, 1000 / SLOW);
}

/* --- release of several ------------------------------------------------------------------------------------ */

TEST_PLACES(release_n)
{
    enum { N = 4 };
    objects *o = place(how, sizeof *o);
    td_semaphore *s = &o->of.plain;
    CHECK_OK(td_semaphore_release_n(s, 5));
    CHECK_INT(td_semaphore_value(s), 5);
    CHECK_ERROR(td_semaphore_release_n(s, 0), TD_EINVAL);
    CHECK_ERROR(td_semaphore_release_n(s, TD_SEMAPHORE_MAX), TD_ETOOBIG);
    CHECK_ERROR(td_semaphore_release_n(s, UINT32_MAX), TD_ETOOBIG);
    CHECK_INT(td_semaphore_value(s), 5);
    CHECK_OK(td_semaphore_release_n(s, TD_SEMAPHORE_MAX - 5));
    CHECK_INT(td_semaphore_value(s), TD_SEMAPHORE_MAX);
    CHECK_ERROR(td_semaphore_release(s), TD_ETOOBIG);
    CHECK_ERROR(td_semaphore_init(s, TD_SEMAPHORE_MAX + 1u), TD_ETOOBIG);
    CHECK_OK(td_semaphore_init(s, 0));
    /* As many as were asleep go on, and no more. */
    td_worker *w[N];
    for (int i = 0; i < N; i++)
        w[i] = begin(how, consumes, o, PLAIN, 1, 0);
    WAIT_UNTIL(sleepers(s) == N, 20);
    CHECK_OK(td_semaphore_release_n(s, N - 1));
    WAIT_UNTIL(td__load_acquire(&o->count) == N - 1, 20);
    CHECK_INT(td_semaphore_value(s), 0);
    CHECK_INT(sleepers(s), 1);
    CHECK_OK(td_semaphore_release(s));
    for (int i = 0; i < N; i++)
        end_well(w[i]);
    td_semaphore_destroy(s);
}

static td_semaphore with_two = TD_SEMAPHORE_INIT(2);
static td_bounded_semaphore bounded_two = TD_BOUNDED_SEMAPHORE_INIT(2);
static td_owned_semaphore owned_two = TD_OWNED_SEMAPHORE_INIT(2);

TEST(static_ones)
{
    CHECK_INT(td_semaphore_value(&with_two), 2);
    CHECK_INT(td_bounded_semaphore_value(&bounded_two), 2);
    CHECK_INT(td_owned_semaphore_value(&owned_two), 2);
    td_bounded_semaphore zero = { 0 };
    CHECK_INT(td_bounded_semaphore_try_acquire(&zero), TD_EBUSY);
}

/* --- cancellation ------------------------------------------------------------------------------------------ */

static int is_cancelled(td_call *call)
{
    part p = td_arg(call, part);
    objects *o = p.object;
    REQUIRE(td__party_self() != NULL);
    if (p.step)
        td__fault_arm(p.step);
    event_add(STARTED);
    int r = p.with == OWNED ? td_owned_semaphore_acquire_with(&o->of.owned, TD_NO_LIMIT, &o->cancel)
                            : td_semaphore_acquire_with(&o->of.plain, TD_NO_LIMIT, &o->cancel);
    CHECK_INT(r, TD_ECANCELLED);
    return 0;
}

static void cancel(const mode *how, bool faulty)
{
    objects *o = place(how, sizeof *o);
    for (int n = 0; n < 12; n++) {
        long kind = n % 2 ? OWNED : PLAIN;
        init(kind, &o->of, 0);
        td_cancel_reset(&o->cancel);
        td_worker *w = begin(how, is_cancelled, o, (uint64_t)kind, 0, faulty ? n / 4 + 1 : 0);
        event_wait_count(STARTED, (uint32_t)n + 1);
        if (n % 4 == 0)
            WAIT_UNTIL(sleepers(&o->of) == 1, 20);
        td_cancel_fire(&o->cancel);
        end_well(w);
        td__fault_disarm();
        CHECK_INT(td_owned_semaphore_value(&o->of.owned), 0);
        if (kind == PLAIN)
            release(kind, &o->of);
        CHECK_INT(td_semaphore_acquire_with(&o->of.plain, TD_NO_LIMIT, &o->cancel), kind == PLAIN ? 0 : TD_ECANCELLED);
    }
}

TEST_PLACES(cancellation)
{
    cancel(how, false);
}

/* FUTEX_WAITV and the others fail, one after the other. */
TEST(cancellation_faults)
{
    cancel(&mode_private, true);
    cancel(&mode_shared, true);
}

/* --- misuse ------------------------------------------------------------------------------------------------ */

TEST(misuse)
{
    CHECK_ERROR(td_semaphore_init(NULL, 1), TD_EINVAL);
    CHECK_ERROR(td_semaphore_acquire(NULL), TD_EINVAL);
    CHECK_ERROR(td_semaphore_acquire_for(NULL, td_ms(1)), TD_EINVAL);
    CHECK_ERROR(td_semaphore_try_acquire(NULL), TD_EINVAL);
    CHECK_ERROR(td_semaphore_release(NULL), TD_EINVAL);
    CHECK_ERROR(td_semaphore_release_n(NULL, 2), TD_EINVAL);
    CHECK_INT(td_semaphore_value(NULL), 0);
    td_semaphore_destroy(NULL);
    CHECK_ERROR(td_bounded_semaphore_init(NULL, 1), TD_EINVAL);
    CHECK_ERROR(td_bounded_semaphore_acquire(NULL), TD_EINVAL);
    CHECK_ERROR(td_bounded_semaphore_release(NULL), TD_EINVAL);
    CHECK_ERROR(td_bounded_semaphore_release_n(&bounded_two, 0), TD_EINVAL);
    CHECK_INT(td_bounded_semaphore_value(NULL), 0);
    CHECK_ERROR(td_owned_semaphore_init(NULL, 1), TD_EINVAL);
    CHECK_ERROR(td_owned_semaphore_acquire(NULL), TD_EINVAL);
    CHECK_ERROR(td_owned_semaphore_try_acquire(NULL), TD_EINVAL);
    CHECK_INT(td_owned_semaphore_value(NULL), 0);
    td_owned_semaphore_destroy(NULL);
    CHECK_ERROR(td_owned_semaphore_init(&owned_two, UINT32_MAX), TD_ETOOBIG);
}

static int releases_foreign(td_call *call)
{
    (void)call;
    td_owned_semaphore_release(&owned_two);
    return 0;
}

HELPER(misuses)
{
    signal(SIGABRT, SIG_DFL);
    REQUIRE(argc == 2);
    switch (argv[1][0]) {
    case '0':
        td_bounded_semaphore_release(&bounded_two);
        break;
    case '1':
        td_bounded_semaphore_acquire(&bounded_two);
        td_bounded_semaphore_release_n(&bounded_two, 2);
        break;
    case '2':
        td_owned_semaphore_release(&owned_two);
        break;
    case '3':
        td_owned_semaphore_acquire(&owned_two);
        td_owned_semaphore_release(&owned_two);
        td_owned_semaphore_release(&owned_two);
        break;
    case '4':
        td_owned_semaphore_acquire(&owned_two);
        td_run(td_thread(.target = releases_foreign));
        break;
    case '5':
        td_owned_semaphore_release(NULL);
        break;
    default:
        begin(&mode_private, consumes, place(&mode_private, sizeof(objects)), PLAIN, 1, 0);
        WAIT_UNTIL(sleepers(place(&mode_private, 0)) == 1, 20);
        td_semaphore_destroy(place(&mode_private, 0));
    }
    return 3;
}

/* Each aborts with a sentence that says what was wrong. */
TEST(misuse_is_caught)
{
    const char *const said[] = {
        "td_bounded_semaphore_release: semaphore",
        "more than its 2 units",
        "holds no unit of semaphore",
        "holds no unit of semaphore",
        "holds no unit of semaphore",
        "the semaphore is NULL",
#ifdef TD_DEBUG
        "a thread waits for semaphore",
#endif
    };
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        char *output, which[2] = { (char)('0' + i), 0 };
        CHECK_INT(helper_output(&output, NULL, "misuses", which, NULL), -SIGABRT);
        CHECK_HAS(output, said[i]);
        free(output);
    }
}

/* --- ownership --------------------------------------------------------------------------------------------- */

static int takes_and_ends(td_call *call)
{
    part p = td_arg(call, part);
    objects *o = p.object;
    for (long i = 0; i < p.number; i++)
        REQUIRE_OK(td_owned_semaphore_acquire(&o->of.owned));
    event_add(GOT);
    if (p.step)
        event_wait(GO);
    return 0;
}

/* A party that ends with units in its hands, in good order or not, leaves them to those who wait. */
TEST_PLACES(units_come_back)
{
    objects *o = place(how, sizeof *o);
    init(OWNED, &o->of, 3);
    end_well(begin(how, takes_and_ends, o, 0, 3, 0));
    WAIT_UNTIL(td_owned_semaphore_value(&o->of.owned) == 3, 20);
    td_worker *w = begin(how, takes_and_ends, o, 0, 2, 1);
    event_wait_count(GOT, 2);
    CHECK_INT(td_owned_semaphore_value(&o->of.owned), 1);
    CHECK_OK(td_owned_semaphore_acquire(&o->of.owned));
    if (how->kind == TD_PROCESS)
        td_kill(w);
    else
        event_set(GO);
    CHECK_OK(td_owned_semaphore_acquire_for(&o->of.owned, td_s(20 * SLOW)));
    CHECK_OK(td_owned_semaphore_acquire_for(&o->of.owned, td_s(20 * SLOW)));
    CHECK_INT(td_owned_semaphore_try_acquire(&o->of.owned), TD_EBUSY);
    REQUIRE_OK(td_join(w));
    td_outcome(w);
    td_free(w);
    for (int i = 0; i < 3; i++)
        td_owned_semaphore_release(&o->of.owned);
    CHECK_INT(td_owned_semaphore_value(&o->of.owned), 3);
}

/* Held beside others, released in any order; and the limit of what one thread can hold. */
TEST(many_held)
{
    objects *o = place(&mode_private, sizeof *o);
    objects *shared = place(&mode_shared, sizeof *shared);
    init(OWNED, &o->of, 1000);
    init(OWNED, &shared->of, 1000);
    for (int i = 0; i < 100; i++) {
        CHECK_OK(td_owned_semaphore_acquire(&o->of.owned));
        CHECK_OK(td_owned_semaphore_acquire(&shared->of.owned));
    }
    CHECK_ERROR(td_owned_semaphore_acquire(&o->of.owned), TD_ETOOBIG);
    for (int i = 0; i < 100; i++)
        td_owned_semaphore_release(&o->of.owned);
    for (int i = 0; i < 100; i++)
        td_owned_semaphore_release(&shared->of.owned);
    CHECK_INT(td_owned_semaphore_value(&o->of.owned), 1000);
    CHECK_INT(td_owned_semaphore_value(&shared->of.owned), 1000);
    CHECK_INT(td__me->held_count, 0);
}

static int in_order(td_call *call)
{
    part p = td_arg(call, part);
    objects *o = p.object;
    REQUIRE_OK(td_owned_semaphore_acquire(&o->of.owned));
    CHECK_INT(td__fetch_add_acq_rel(&o->count, 1), p.number);
    td_owned_semaphore_release(&o->of.owned);
    return 0;
}

static int waiting(objects *o)
{
    int count = 0;
    td__waiters *list = (td__waiters *)(void *)o->of.owned.td_waiters;
    uint16_t i = td__load_acquire(&list->first);
    while (i && count < 100) {
        count++;
        i = td__load_acquire(&td__party_at(i)->next);
    }
    return count;
}

TEST_PLACES(owned_in_order_of_arrival)
{
    enum { N = 6 };
    objects *o = place(how, sizeof *o);
    init(OWNED, &o->of, 1);
    CHECK_OK(td_owned_semaphore_acquire(&o->of.owned));
    td_worker *w[N];
    for (int i = 0; i < N; i++) {
        w[i] = begin(how, in_order, o, 0, i, 0);
        WAIT_UNTIL(waiting(o) == i + 1, 20);
    }
    td_owned_semaphore_release(&o->of.owned);
    for (int i = 0; i < N; i++)
        end_well(w[i]);
    CHECK_INT(td_owned_semaphore_value(&o->of.owned), 1);
}

static int forks(td_call *call)
{
    part p = td_arg(call, part);
    objects *o = p.object;
    REQUIRE_OK(td_owned_semaphore_acquire(&o->of.owned));
    REQUIRE_OK(td_owned_semaphore_acquire(&owned_two));
    td_worker *w = WORKER(td_process(.target = in_order, .method = TD_FORK, .args = TD_ARG(part, o, 0, 0, 0)));
    REQUIRE_OK(td_start(w)); /* not the forking thread: it holds nothing that is shared */
    td_owned_semaphore_release(&o->of.owned);
    end_well(w);
    pid_t child = fork();
    if (child == 0) {
        td_owned_semaphore_release(&owned_two); /* its own copy, and held by it */
        _exit(td_owned_semaphore_value(&owned_two) == 2 ? 0 : 1);
    }
    CHECK_INT(helper_wait(child), 0);
    CHECK_INT(td_owned_semaphore_value(&owned_two), 1);
    td_owned_semaphore_release(&owned_two);
    return 0;
}

TEST(after_fork)
{
    objects *o = place(&mode_shared, sizeof *o);
    init(OWNED, &o->of, 1);
    end_well(begin(&mode_shared, forks, o, 0, 0, 0));
    CHECK_INT(td_owned_semaphore_value(&o->of.owned), 1);
}

/* --- deaths ------------------------------------------------------------------------------------------------ */

/* Acquires and, if `number`, releases. */
static int acts_and_dies(td_call *call)
{
    part p = td_arg(call, part);
    objects *o = p.object;
    REQUIRE(td__party_self() != NULL);
    event_add(STARTED);
    td__kill_at_step(p.step);
    if (p.number == 0 || p.with == OWNED)
        acquire((long)p.with, &o->of, TD_NO_LIMIT);
    if (p.number)
        release((long)p.with, &o->of);
    td__kill_at_step(0);
    return 0;
}

static int gets_one(td_call *call)
{
    part p = td_arg(call, part);
    objects *o = p.object;
    event_add(STARTED);
    /* Without a limit: one that has passed looks once more, and would find what it has overslept. */
    REQUIRE_INT(acquire((long)p.with, &o->of, TD_NO_LIMIT), 0);
    td__fetch_add_acq_rel(p.step ? &o->inside : &o->count, 1);
    event_add(GOT);
    event_wait_count(GO, (uint32_t)p.number);
    if (p.with == OWNED)
        td_owned_semaphore_release(&o->of.owned);
    return 0;
}

/*
 * A releaser is killed at its n-th step, for every n, while two sleep: a unit that it has given reaches one of them,
 * and the semaphore works on. (Without the record of the word whose sleepers are to be woken: a unit is free, and two
 * sleep.)
 */
TEST_KILLED(releaser_killed_at_every_step)
{
    objects *o = place(how, sizeof *o);
    bool killed = true;
    int steps = 0;
    for (long n = 1; killed; n++) {
        init(PLAIN, &o->of, 0);
        td__store_relaxed(&o->count, 0);
        td_worker *thread = begin(&mode_shared, gets_one, o, PLAIN, 0, 0);
        td_worker *process = begin(how, gets_one, o, PLAIN, 0, 0);
        WAIT_UNTIL(sleepers(&o->of) == 2, 20);
        killed = end_killed(begin(how, acts_and_dies, o, PLAIN, 1, n));
        steps += killed;
        WAIT_UNTIL(repaired() && td_semaphore_value(&o->of.plain) == 0, 20);
        long got = 2 - (long)sleepers(&o->of);
        CHECK_IN(got, 0, 1);
        for (long i = got; i < 2; i++)
            CHECK_OK(td_semaphore_release(&o->of.plain));
        end_well(thread);
        end_well(process);
        CHECK_INT(td__load_relaxed(&o->count), 2);
    }
    CHECK_IN(steps, 3, 50);
}

/*
 * One of two sleepers is killed at every step of its wait, before and after it has been woken, by the first of two
 * releases: the second one made no system call, relying on the one that had been woken, so the repair must wake the
 * other.
 */
TEST_KILLED(waiter_killed_at_every_step)
{
    objects *o = place(how, sizeof *o);
    bool killed = true;
    int steps = 0, started = 0;
    for (long n = 1; killed; n++) {
        init(PLAIN, &o->of, 0);
        td_worker *dies = begin(how, acts_and_dies, o, PLAIN, 0, n);
        event_wait_count(STARTED, (uint32_t)++started);
        WAIT_UNTIL(sleepers(&o->of) == 1 || !td_is_alive(dies), 20);
        td_worker *lives = begin(how, gets_one, o, PLAIN, 0, 0); /* behind it in the kernel's queue */
        event_wait_count(STARTED, (uint32_t)++started);
        WAIT_UNTIL(sleepers(&o->of) == 2 || !td_is_alive(dies), 20);
        CHECK_OK(td_semaphore_release(&o->of.plain));
        CHECK_OK(td_semaphore_release(&o->of.plain));
        killed = end_killed(dies);
        steps += killed;
        end_well(lives);
        CHECK_IN(td_semaphore_value(&o->of.plain), 0, killed);
    }
    CHECK_IN(steps, 3, 50);
}

/* Waiters and a releaser are killed together, and the spawner with them: what is left works on. */
TEST_KILLED(all_killed_together)
{
    objects *o = place(how, sizeof *o);
    for (long n = 1; n <= 8; n++) {
        long kind = n % 2 ? PLAIN : OWNED;
        init(kind, &o->of, kind == OWNED);
        td__store_relaxed(&o->inside, 0);
        if (kind == OWNED)
            CHECK_OK(td_owned_semaphore_acquire(&o->of.owned));
        uint32_t go = event_count(GO) + 1, started = event_count(STARTED);
        td_worker *thread = begin(&mode_shared, gets_one, o, (uint64_t)kind, go, 1);
        td_worker *waiter = begin(how, gets_one, o, (uint64_t)kind, go, 0);
        td_worker *other = begin(how, acts_and_dies, o, (uint64_t)kind, kind == PLAIN, n);
        event_wait_count(STARTED, started + 3);
        pid_t spawner = how->method == TD_FORKSERVER ? parent_of(td_pid(waiter)) : 0;
        if (kind == OWNED)
            td_owned_semaphore_release(&o->of.owned);
        kill(td_pid(waiter), SIGKILL);
        kill(td_pid(other), SIGKILL);
        if (spawner && n % 4 > 1) {
            kill(spawner, SIGKILL);
            WAIT_UNTIL(!process_alive(spawner), 20); /* or the next one might be started by it */
        }
        REQUIRE_OK(td_join(waiter));
        REQUIRE_OK(td_join(other));
        WAIT_UNTIL(repaired(), 20);
        event_add(GO);
        if (kind == PLAIN && td__load_acquire(&o->inside) == 0) /* the dead may have had theirs */
            CHECK_OK(td_semaphore_release(&o->of.plain));
        end_well(thread); /* an owned one's unit came back to it */
        td_outcome(waiter);
        td_outcome(other);
        td_free(waiter);
        td_free(other);
        if (kind == OWNED)
            WAIT_UNTIL(td_owned_semaphore_value(&o->of.owned) == 1, 20);
    }
}

/* Units of an owned one are neither lost nor doubled, at whatever step their holder, or one that waits, is killed. */
TEST_KILLED(owner_killed_at_every_step)
{
    objects *o = place(how, sizeof *o);
    bool killed = true;
    int steps = 0;
    for (long n = 1; killed; n++) {
        init(OWNED, &o->of, 2);
        killed = end_killed(begin(how, acts_and_dies, o, OWNED, 1, n));
        steps += killed;
        WAIT_UNTIL(repaired(), 20);
        CHECK_INT(td_owned_semaphore_value(&o->of.owned), 2);
        CHECK_OK(td_owned_semaphore_acquire_for(&o->of.owned, td_s(20 * SLOW)));
        CHECK_OK(td_owned_semaphore_acquire_for(&o->of.owned, td_s(20 * SLOW)));
        CHECK_INT(td_owned_semaphore_try_acquire(&o->of.owned), TD_EBUSY);
        td_owned_semaphore_release(&o->of.owned);
        td_owned_semaphore_release(&o->of.owned);
    }
    CHECK_IN(steps, 10, 200);
}

TEST_KILLED(owners_waiter_killed_at_every_step)
{
    objects *o = place(how, sizeof *o);
    bool killed = true;
    int steps = 0;
    for (long n = 1; killed; n++) {
        init(OWNED, &o->of, 1);
        CHECK_OK(td_owned_semaphore_acquire(&o->of.owned));
        td__store_relaxed(&o->count, 0);
        td_worker *dies = begin(how, acts_and_dies, o, OWNED, 0, n);
        WAIT_UNTIL(waiting(o) == 1 || !td_is_alive(dies), 20);
        td_worker *lives = begin(how, gets_one, o, OWNED, 0, 0);
        WAIT_UNTIL(waiting(o) >= 1, 20);
        td_owned_semaphore_release(&o->of.owned);
        killed = end_killed(dies);
        steps += killed;
        end_well(lives); /* it gets the one unit, from us or from the dead one */
        WAIT_UNTIL(repaired() && td_owned_semaphore_value(&o->of.owned) == 1, 20);
        CHECK_INT(waiting(o), 0);
    }
    CHECK_IN(steps, 10, 200);
}

/* Again with grants between processes that are killed at any time: no unit is lost or doubled in the end. */
static int takes_turns_and_dies(td_call *call)
{
    part p = td_arg(call, part);
    objects *o = p.object;
    REQUIRE(td__party_self() != NULL);
    td__kill_at_step(p.step);
    for (int i = 0; i < 1000; i++) {
        td_owned_semaphore_acquire(&o->of.owned);
        long inside = td__fetch_add_acq_rel(&o->inside, 1);
        (void)inside;
        td_owned_semaphore_release(&o->of.owned);
    }
    td__kill_at_step(0);
    return 0;
}

TEST_KILLED(owners_killed_in_the_crowd)
{
    enum { N = 4 };
    objects *o = place(how, sizeof *o);
    init(OWNED, &o->of, 2);
    unsigned seed = 1;
    for (int round = 0; round < 40 / SLOW; round++) {
        td_worker *w[N];
        for (int i = 0; i < N; i++) {
            seed = seed * 1103515245 + 12345;
            w[i] = begin(how, takes_turns_and_dies, o, 0, 0, 1 + seed / 65536 % 3000);
        }
        for (int i = 0; i < N; i++)
            end_killed(w[i]);
        WAIT_UNTIL(repaired(), 20);
        CHECK_INT(td_owned_semaphore_value(&o->of.owned), 2);
        CHECK_INT(waiting(o), 0);
    }
}
