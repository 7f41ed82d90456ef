/* SPDX-License-Identifier: MIT */
/* Events: for threads and processes, through misuse, lost wake-ups and deaths. */
#include "words.h"
#include "sync/event.h"

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>

enum { STARTED, WOKEN, KILLED_READY };

typedef struct set_of_events {
    td_event a, b, c;
    td_cancel cancel;
    _Atomic long data, count;
} set_of_events;

static td_event *event_of(td_call *call)
{
    return td_arg(call, part).object;
}

/* --- meaning ----------------------------------------------------------------------------------------------- */

/* The single calls: a wrong bit would show here. */
TEST_PLACES(flag)
{
    td_event *e = place(how, sizeof *e);
    CHECK(!td_event_is_set(e));
    CHECK_OK(td_event_clear(e));
    CHECK(!td_event_is_set(e));
    CHECK_OK(td_event_set(e));
    CHECK(td_event_is_set(e));
    CHECK_OK(td_event_set(e));
    CHECK_OK(td_event_wait(e));
    CHECK_OK(td_event_wait_for(e, td_ms(0)));
    CHECK_OK(td_event_clear(e));
    CHECK(!td_event_is_set(e));
    CHECK_ERROR(td_event_wait_for(e, td_ms(1)), TD_ETIMEOUT);
    CHECK_ERROR(td_event_wait_for(e, td_ms(-5)), TD_ETIMEOUT);
    CHECK_OK(td_event_set(e)); /* a sleeper's mark was left behind */
    CHECK(td_event_is_set(e));
    td_event_destroy(e);
}

static int waits(td_call *call)
{
    event_add(STARTED);
    int r = td_event_wait(event_of(call));
    event_add(WOKEN);
    return r;
}

/* Python's lock_tests: a clear that follows at once takes nothing from those who were waiting. */
TEST_PLACES(set_and_clear_wakes_all)
{
    enum { N = 5 };
    td_event *e = place(how, sizeof *e);
    for (int round = 0; round < 10; round++) {
        td_worker *w[N];
        for (int i = 0; i < N; i++)
            w[i] = begin(how, waits, e, 0, i, 0);
        WAIT_UNTIL(sleepers(e) == N, 20);
        CHECK_OK(td_event_set(e));
        CHECK_OK(td_event_clear(e));
        for (int i = 0; i < N; i++)
            end_well(w[i]);
        CHECK(!td_event_is_set(e));
        CHECK_INT(sleepers(e), 0);
    }
}

static int waits_briefly(td_call *call)
{
    double begun = now();
    int r = td_event_wait_for(event_of(call), td_ms(200));
    CHECK_INT(r, TD_ETIMEOUT);
    CHECK_TIME(now() - begun, 0.2);
    return 0;
}

TEST_PLACES(timeout)
{
    td_event *e = place(how, sizeof *e);
    end_well(begin(how, waits_briefly, e, 0, 0, 0));
    CHECK_INT(sleepers(e), 0);
    td_worker *w = begin(how, waits, e, 0, 0, 0); /* it works afterwards */
    CHECK_OK(td_event_set(e));
    end_well(w);
    double begun = now();
    td_event_clear(e);
    CHECK_ERROR(td_event_wait_for(e, td_ns(INT64_MIN)), TD_ETIMEOUT);
    CHECK_IN(now() - begun, 0, 1.0 * SLOW);
}

static int waits_to_be_cancelled(td_call *call)
{
    set_of_events *s = td_arg(call, part).object;
    event_add(STARTED);
    CHECK_INT(td_event_wait_with(&s->a, td_s(3000), &s->cancel), TD_ECANCELLED);
    CHECK_INT(td_last_error(), TD_ECANCELLED);
    return 0;
}

static int waits_uncancelled(td_call *call)
{
    set_of_events *s = td_arg(call, part).object;
    CHECK_INT(td_event_wait_with(&s->a, TD_NO_LIMIT, &s->cancel), 0);
    return 0;
}

TEST_PLACES(cancellation)
{
    set_of_events *s = place(how, sizeof *s);
    for (int n = 0; n < 12; n++) {
        td_cancel_reset(&s->cancel);
        td_worker *w = begin(how, waits_to_be_cancelled, s, 0, 0, 0);
        td_worker *v = begin(how, waits_to_be_cancelled, s, 0, 0, 0);
        event_wait_count(STARTED, 2 * n + 2);
        if (n % 3)
            WAIT_UNTIL(sleepers(&s->a) == 2, 20);
        td_cancel_fire(&s->cancel);
        end_well(w);
        end_well(v);
    }
    CHECK_ERROR(td_event_wait_with(&s->a, TD_NO_LIMIT, &s->cancel), TD_ECANCELLED);
    CHECK_OK(td_event_set(&s->a)); /* what is there already comes first */
    CHECK_OK(td_event_wait_with(&s->a, TD_NO_LIMIT, &s->cancel));
    td_event_clear(&s->a);
    td_cancel_reset(&s->cancel);
    td_worker *w = begin(how, waits_uncancelled, s, 0, 0, 0);
    WAIT_UNTIL(sleepers(&s->a) == 1, 20);
    CHECK_OK(td_event_set(&s->a));
    end_well(w);
}

static int waits_faulty(td_call *call)
{
    part p = td_arg(call, part);
    set_of_events *s = p.object;
    REQUIRE(td__party_self() != NULL);
    td__fault_arm(p.step);
    event_add(STARTED);
    int r = td_event_wait_with(&s->a, TD_NO_LIMIT, p.with ? &s->cancel : NULL);
    CHECK_INT(r, p.number ? TD_ECANCELLED : 0);
    return 0;
}

/* Each call of the system fails once, FUTEX_WAITV among them: a slower way, and no other result. */
static void faults(const mode *how)
{
    set_of_events *s = place(how, sizeof *s);
    for (int n = 0; n < 24; n++) {
        bool cancelled = n % 2, given = cancelled || n % 3;
        td_event_clear(&s->a);
        td_cancel_reset(&s->cancel);
        td_worker *w = begin(how, waits_faulty, s, given, cancelled, n / 6 + 1);
        event_wait_count(STARTED, (uint32_t)n + 1);
        if (n % 4 > 1)
            WAIT_UNTIL(sleepers(&s->a) == 1, 20);
        if (cancelled)
            td_cancel_fire(&s->cancel);
        else
            CHECK_OK(td_event_set(&s->a));
        end_well(w);
        td__fault_disarm();
    }
}

TEST(faults_private)
{
    faults(&mode_private);
}

TEST(faults_shared)
{
    faults(&mode_shared);
}

/* No memory for the record of a thread that waits for the first time: it is told, and the event does without. */
TEST(no_memory_for_a_record)
{
    td_event *e = place(&mode_shared, sizeof *e);
    td__fault_arm(1);
    int r = td_event_wait_for(e, td_ms(1));
    bool fired = td__fault_fired();
    td__fault_disarm();
    CHECK(fired);
    CHECK(r == TD_ENOMEM || r == TD_ETIMEOUT);
    CHECK_OK(td_event_set(e));
    CHECK_OK(td_event_wait(e));
}

TEST(misuse)
{
    CHECK_ERROR(td_event_set(NULL), TD_EINVAL);
    CHECK_ERROR(td_event_clear(NULL), TD_EINVAL);
    CHECK_ERROR(td_event_wait(NULL), TD_EINVAL);
    CHECK_ERROR(td_event_wait_for(NULL, td_ms(1)), TD_EINVAL);
    CHECK_ERROR(td_event_wait_with(NULL, td_ms(1), NULL), TD_EINVAL);
    CHECK(!td_event_is_set(NULL));
    td_event_destroy(NULL);
}

HELPER(destroys)
{
    static td_event e;
    signal(SIGABRT, SIG_DFL);
    begin(&mode_private, waits, &e, 0, 0, 0);
    WAIT_UNTIL(sleepers(&e) == 1, 20);
    td_event_destroy(&e);
    return 3;
}

/* A debug build says so. */
TEST(destroyed_while_waited_for)
{
#ifdef TD_DEBUG
    char *said;
    CHECK_INT(helper_output(&said, NULL, "destroys", NULL), -SIGABRT);
    CHECK_HAS(said, "td_event_destroy: a thread waits for event");
    free(said);
#else
    SKIP("a debug build looks for it");
#endif
}

/* --- several at once --------------------------------------------------------------------------------------- */

static int waits_for_any(td_call *call)
{
    set_of_events *s = td_arg(call, part).object;
    td_event *all[] = { &s->a, &s->b, &s->c };
    td__futex_item items[3];
    event_add(STARTED);
    bool ready = false;
    for (int i = 0; i < 3; i++)
        ready |= td__event_prepare(all[i], &items[i]);
    CHECK(!ready);
    event_add(WOKEN); /* prepared */
    int which = -1;
    while (which < 0) {
        int r = td__futex_wait_many(items, 3, td__deadline(td_s(20 * SLOW)));
        if (r < 0 && errno == ENOSYS)
            return 0;
        REQUIRE(r == 0 || errno == EAGAIN || errno == EINTR);
        for (int i = 0; i < 3; i++)
            if (td__event_happened(all[i], &items[i]))
                which = i;
    }
    return td_return(call, int, which);
}

/* What td_wait is built on: a set that is cleared at once is seen, whichever it was of, and none is taken for set. */
TEST_PLACES(any_of_several)
{
    set_of_events *s = place(how, sizeof *s);
    td_event *all[] = { &s->a, &s->b, &s->c };
    for (int i = 0; i < 9; i++) {
        td_worker *w = begin(how, waits_for_any, s, 0, 0, 0);
        event_wait_count(WOKEN, (uint32_t)i + 1);
        if (i % 2)
            pause_ms(2); /* asleep, or not yet: both must do */
        td_event_set(all[i % 3]);
        td_event_clear(all[i % 3]);
        REQUIRE_OK(td_join(w));
        int which;
        CHECK_OK(td_result(w, int, &which));
        CHECK_INT(which, i % 3);
        td_free(w);
    }
    td__futex_item item;
    CHECK(!td__event_prepare(&s->a, &item));
    CHECK(!td__event_happened(&s->a, &item));
    td_event_set(&s->a);
    CHECK(td__event_happened(&s->a, &item));
    CHECK(td__event_prepare(&s->a, &item));
}

/* --- lost wake-ups ----------------------------------------------------------------------------------------- */

static int answers(td_call *call)
{
    part p = td_arg(call, part);
    set_of_events *s = p.object;
    for (long i = 0; i < p.number; i++) {
        REQUIRE_INT(td_event_wait(&s->a), 0);
        td_event_clear(&s->a);
        REQUIRE_INT(td__load_relaxed(&s->data), 2 * i + 1); /* written before the set */
        td__store_relaxed(&s->data, 2 * i + 2);
        td_event_set(&s->b);
    }
    return 0;
}

static void asks(set_of_events *s, long rounds)
{
    for (long i = 0; i < rounds; i++) {
        REQUIRE_INT(td__load_relaxed(&s->data), 2 * i);
        td__store_relaxed(&s->data, 2 * i + 1);
        td_event_set(&s->a);
        if (i % 512 == 0)
            pause_ms(1); /* the other one sleeps, now and then */
        REQUIRE_INT(td_event_wait(&s->b), 0);
        td_event_clear(&s->b);
    }
}

TEST_PLACES(ping_pong)
{
    set_of_events *s = place(how, sizeof *s);
    long rounds = 20000 / SLOW;
    td_worker *w = begin(how, answers, s, 0, rounds, 0);
    asks(s, rounds);
    end_well(w);
}

/* One processor: whoever spins keeps the other one from coming. Four pairs: more threads than processors. */
TEST_PLACES(ping_pong_on_one_cpu)
{
    set_of_events *s = place(how, sizeof *s);
    cpu_set_t one;
    CPU_ZERO(&one);
    REQUIRE(sched_getaffinity(0, sizeof one, &one) == 0);
    int cpu = 0;
    while (!CPU_ISSET(cpu, &one))
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0); /* workers inherit it */
    long rounds = 3000 / SLOW;
    td_worker *w = begin(how, answers, s, 0, rounds, 0);
    asks(s, rounds);
    end_well(w);
}

static int finds_work(td_call *call)
{
    part p = td_arg(call, part);
    set_of_events *s = p.object;
    for (long found = 0; found < p.number;) {
        td_event_clear(&s->a);
        found = td__load_relaxed(&s->count);
        td__store_relaxed(&s->data, found);
        if (found < p.number)
            REQUIRE_INT(td_event_wait(&s->a), 0);
    }
    return 0;
}

/*
 * A consumer that clears the event, searches, and sleeps if it finds nothing; a producer that wakes it for nothing, so
 * that it searches, and sets the still set event for work. Without the full barrier before the look in td_event_set the
 * work is announced to nobody, and both wait for ever.
 */
TEST_PLACES(clear_then_search)
{
    set_of_events *s = place(how, sizeof *s);
    long units = 30000 / SLOW;
    td_worker *w = begin(how, finds_work, s, 0, units, 0);
    for (long i = 1; i <= units; i++) {
        td_event_set(&s->a);
        for (long delay = i % 64; delay > 0; delay--)
            td__relax();
        td__store_relaxed(&s->count, i);
        td_event_set(&s->a);
        for (int spins = 0; td__load_relaxed(&s->data) < i; spins++)
            if (spins > 100)
                sched_yield();
    }
    end_well(w);
}

static int marches(td_call *call)
{
    part p = td_arg(call, part);
    set_of_events *s = p.object;
    for (long i = 0; i < p.number; i++) {
        REQUIRE_INT(td_event_wait(i % 2 ? &s->b : &s->a), 0);
        td__fetch_add_acq_rel(&s->count, 1);
        td_event_set(&s->c);
    }
    return 0;
}

/* Eight who wait for the same event, more than there are processors: each set reaches all. */
TEST_PLACES(broadcast)
{
    enum { N = 8 };
    set_of_events *s = place(how, sizeof *s);
    long rounds = 300 / SLOW;
    td_worker *w[N];
    for (int i = 0; i < N; i++)
        w[i] = begin(how, marches, s, 0, rounds, 0);
    for (long i = 0; i < rounds; i++) {
        td_event_clear(i % 2 ? &s->a : &s->b);
        td_event_set(i % 2 ? &s->b : &s->a);
        while (td__load_acquire(&s->count) < N * (i + 1)) {
            REQUIRE_INT(td_event_wait(&s->c), 0);
            td_event_clear(&s->c);
        }
    }
    for (int i = 0; i < N; i++)
        end_well(w[i]);
}

/* --- deaths ------------------------------------------------------------------------------------------------ */

static int sets_and_dies(td_call *call)
{
    part p = td_arg(call, part);
    td__party_self();
    td__kill_at_step(p.step);
    td_event_set(p.object);
    td__kill_at_step(0);
    return 0;
}

static int waits_and_dies(td_call *call)
{
    part p = td_arg(call, part);
    td__party_self();
    event_add(STARTED);
    td__kill_at_step(p.step);
    int r = td_event_wait(p.object);
    td__kill_at_step(0);
    return r;
}

/* Is it usable, for waiters old and new? */
static void check_usable(const mode *how, td_event *e)
{
    td_event_clear(e);
    td_worker *w = begin(how, waits, e, 0, 0, 0);
    WAIT_UNTIL(sleepers(e) == 1, 20);
    CHECK_OK(td_event_set(e));
    end_well(w);
    td_event_clear(e);
    CHECK_ERROR(td_event_wait_for(e, td_ms(1)), TD_ETIMEOUT);
}

/* Two sleep, and the setter is killed at its n-th step, for every n: what it has done reaches them. */
TEST_KILLED(setter_killed_at_every_step)
{
    td_event *e = place(how, sizeof *e);
    bool killed = true;
    int steps = 0;
    for (long n = 1; killed; n++) {
        td_event_clear(e);
        td_worker *thread = begin(&mode_shared, waits, e, 0, 0, 0);
        td_worker *process = begin(how, waits, e, 0, 0, 0);
        WAIT_UNTIL(sleepers(e) == 2, 20);
        killed = end_killed(begin(how, sets_and_dies, e, 0, 0, n));
        steps += killed;
        if (!td_event_is_set(e))
            td_event_set(e);
        end_well(thread);
        end_well(process);
        check_usable(how, e);
    }
    CHECK_IN(steps, 2, 50); /* before the change, and between the change and the wake */
}

static int fires_and_dies(td_call *call)
{
    part p = td_arg(call, part);
    set_of_events *s = p.object;
    td__kill_at_step(p.step);
    td_cancel_fire(&s->cancel);
    td__kill_at_step(0);
    return 0;
}

/* Three sleep, without a limit, and who fires is killed at its n-th step: fired is fired, for all of them. It has no
 * record yet, so that nothing but this call makes its death known to a repair. */
TEST_KILLED(killed_while_firing)
{
    enum { N = 3 };
    set_of_events *s = place(how, sizeof *s);
    long n = 0, unfired = 0;
    for (bool killed = true; killed;) {
        td_worker *w[N];
        td_cancel_reset(&s->cancel);
        for (int i = 0; i < N; i++)
            w[i] = begin(i ? how : &mode_shared, waits_to_be_cancelled, s, 0, 0, 0);
        WAIT_UNTIL(sleepers(&s->a) == N, 20);
        killed = end_killed(begin(how, fires_and_dies, s, 0, 0, ++n));
        unfired += !td_cancel_fired(&s->cancel);
        if (!td_cancel_fired(&s->cancel))
            td_cancel_fire(&s->cancel);
        for (int i = 0; i < N; i++)
            end_well(w[i]);
    }
    harness_note("%ld steps, the first %ld before it was fired", n - 1, unfired);
    CHECK(n - 1 - unfired >= 1 + 2 * N);
}

/* A waiter is killed at every step of its wait, while others wait; nothing of it stays. */
TEST_KILLED(waiter_killed_at_every_step)
{
    td_event *e = place(how, sizeof *e);
    bool killed = true;
    int steps = 0;
    for (long n = 1; killed; n++) {
        td_event_clear(e);
        td_worker *other = begin(how, waits, e, 0, 0, 0);
        WAIT_UNTIL(sleepers(e) == 1, 20);
        td_worker *w = begin(how, waits_and_dies, e, 0, 0, n);
        event_wait_count(STARTED, 3 * (uint32_t)n - 1); /* the other, this, and those of check_usable */
        WAIT_UNTIL(sleepers(e) == 2 || !td_is_alive(w), 20);
        td_event_set(e);
        td_event_clear(e);
        killed = end_killed(w);
        steps += killed;
        end_well(other);
        WAIT_UNTIL(repaired() && sleepers(e) == 0, 20);
        check_usable(how, e);
    }
    CHECK_IN(steps, 2, 50);
}

/* A waiter and the setter that has just woken it die together, and the spawner with them: others that wait are woken.
 */
TEST_KILLED(waiter_and_setter_killed)
{
    td_event *e = place(how, sizeof *e);
    for (long n = 1; n <= 5; n++) {
        td_event_clear(e);
        td_worker *thread = begin(&mode_shared, waits, e, 0, 0, 0);
        td_worker *waiter = begin(how, waits, e, 0, 0, 0);
        WAIT_UNTIL(sleepers(e) == 2, 20);
        pid_t spawner = how->method == TD_FORKSERVER ? parent_of(td_pid(waiter)) : 0;
        td_worker *setter = begin(how, sets_and_dies, e, 0, 0, n);
        kill(td_pid(waiter), SIGKILL);
        if (spawner && n % 2) {
            kill(spawner, SIGKILL);
            WAIT_UNTIL(!process_alive(spawner), 20); /* or the next one might be started by it */
        }
        REQUIRE_OK(td_join(setter));
        REQUIRE_OK(td_join(waiter));
        WAIT_UNTIL(repaired(), 20);
        if (!td_event_is_set(e))
            td_event_set(e);
        end_well(thread);
        td_outcome(setter);
        td_outcome(waiter);
        td_free(setter);
        td_free(waiter);
        check_usable(how, e);
    }
}
