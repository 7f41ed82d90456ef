/* SPDX-License-Identifier: MIT */
/* Once: the function runs once, or again if it failed or died; and pthread_once through the same case. */
#include "words.h"

#include <pthread.h>
#include <sys/wait.h>

enum { STARTED, INSIDE, GO };

typedef struct objects {
    td_once once;
    td_cancel cancel;
    long made;
    _Atomic long runs, seen;
} objects;

static int makes(void *argument)
{
    objects *o = argument;
    td__fetch_add_relaxed(&o->runs, 1);
    o->made = 42; /* plain: ordered by the once */
    return 0;
}

static int runs_once(td_call *call)
{
    objects *o = td_arg(call, part).object;
    CHECK_OK(td_once_run(&o->once, makes, o));
    CHECK_INT(o->made, 42);
    CHECK(td_once_done(&o->once));
    return 0;
}

TEST_PLACES(runs_once_for_all)
{
    enum { N = 6 };
    objects *o = place(how, sizeof *o);
    for (int round = 0; round < 20 / SLOW; round++) {
        memset(o, 0, sizeof *o);
        CHECK(!td_once_done(&o->once));
        td_worker *w[N];
        for (int i = 0; i < N; i++)
            w[i] = begin(how, runs_once, o, 0, 0, 0);
        for (int i = 0; i < N; i++)
            end_well(w[i]);
        CHECK_INT(td__load_relaxed(&o->runs), 1);
    }
}

static pthread_once_t system_once;
static _Atomic long system_runs;

static void makes_for_system(void)
{
    td__fetch_add_relaxed(&system_runs, 1);
}

static int runs_system_once(td_call *call)
{
    (void)call;
    return pthread_once(&system_once, makes_for_system);
}

/* The system's through the same case. */
TEST(runs_once_for_all_pthread)
{
    td_worker *w[6];
    for (int i = 0; i < 6; i++)
        w[i] = begin(&mode_private, runs_system_once, NULL, 0, 0, 0);
    for (int i = 0; i < 6; i++)
        end_well(w[i]);
    CHECK_INT(td__load_relaxed(&system_runs), 1);
}

static int makes_slowly(void *argument)
{
    objects *o = argument;
    event_add(INSIDE);
    event_wait(GO);
    return makes(o);
}

static int runs_slowly(td_call *call)
{
    objects *o = td_arg(call, part).object;
    event_add(STARTED);
    return td_once_run(&o->once, makes_slowly, o);
}

/* Many who sleep are all let go, without one waking the next; a limit and a cancellation end a wait. */
TEST_PLACES(others_wait)
{
    enum { N = 5 };
    objects *o = place(how, sizeof *o);
    td_worker *runner = begin(how, runs_slowly, o, 0, 0, 0);
    event_wait(INSIDE);
    CHECK(!td_once_done(&o->once));
    CHECK_ERROR(td_once_run_for(&o->once, makes_slowly, o, td_ms(5)), TD_ETIMEOUT);
    td_cancel_fire(&o->cancel);
    CHECK_ERROR(td_once_run_with(&o->once, makes_slowly, o, TD_NO_LIMIT, &o->cancel), TD_ECANCELLED);
    td_worker *w[N];
    for (int i = 0; i < N; i++)
        w[i] = begin(how, runs_slowly, o, 0, 0, 0);
    WAIT_UNTIL(sleepers(&o->once) == N, 20);
    event_set(GO);
    end_well(runner);
    for (int i = 0; i < N; i++)
        end_well(w[i]);
    CHECK_INT(td__load_relaxed(&o->runs), 1);
    CHECK_INT(event_count(INSIDE), 1);
}

static int fails(void *argument)
{
    objects *o = argument;
    td__fetch_add_relaxed(&o->runs, 1);
    return 7;
}

static int again(void *argument)
{
    objects *o = argument;
    CHECK_ERROR(td_once_run(&o->once, makes, o), TD_EDEADLOCK);
    return makes(o);
}

TEST_PLACES(failure_and_recursion)
{
    objects *o = place(how, sizeof *o);
    CHECK_INT(td_once_run(&o->once, fails, o), 7);
    CHECK_INT(td_once_run(&o->once, fails, o), 7);
    CHECK(!td_once_done(&o->once));
    CHECK_OK(td_once_run(&o->once, again, o));
    CHECK_INT(td__load_relaxed(&o->runs), 3);
    CHECK_OK(td_once_run(&o->once, fails, o));
    CHECK_OK(td_once_run_with(&o->once, fails, o, td_ms(0), &o->cancel));
    CHECK_ERROR(td_once_run(NULL, fails, o), TD_EINVAL);
    CHECK_ERROR(td_once_run(&o->once, NULL, o), TD_EINVAL);
    CHECK(!td_once_done(NULL));
}

static int leaves(void *argument)
{
    (void)argument;
    event_add(INSIDE);
    event_wait(GO);
    pthread_exit(NULL);
}

static void *runs_and_leaves(void *argument)
{
    objects *o = argument;
    td_once_run(&o->once, leaves, o);
    return NULL;
}

/* A thread that ends in the middle, among threads: the next one runs it. */
TEST(runner_ends)
{
    objects *o = place(&mode_private, sizeof *o);
    pthread_t thread;
    REQUIRE_INT(pthread_create(&thread, NULL, runs_and_leaves, o), 0);
    event_wait(INSIDE);
    td_worker *w = begin(&mode_private, runs_once, o, 0, 0, 0);
    WAIT_UNTIL(sleepers(&o->once) == 1, 20);
    event_set(GO);
    end_well(w);
    pthread_join(thread, NULL);
    CHECK_INT(td__load_relaxed(&o->runs), 1);
}

/* The rest of the run's steps come while another one sleeps. */
static int makes_awaited(void *argument)
{
    objects *o = argument;
    event_add(INSIDE);
    WAIT_UNTIL(sleepers(&o->once) == 1, 20);
    return makes(o);
}

static int runs_and_dies(td_call *call)
{
    part p = td_arg(call, part);
    objects *o = p.object;
    REQUIRE(td__party_self() != NULL);
    td__kill_at_step(p.step);
    int r = td_once_run(&o->once, makes_awaited, o);
    td__kill_at_step(0);
    return r;
}

/* The runner is killed at every step, before it runs the function, and afterwards, while another one sleeps. */
TEST_METHODS(runner_killed_at_every_step)
{
    objects *o = place(how, sizeof *o);
    bool killed = true;
    int steps = 0;
    for (long n = 1; killed; n++) {
        memset(o, 0, sizeof *o);
        uint32_t inside = event_count(INSIDE);
        td_worker *dies = begin(how, runs_and_dies, o, 0, 0, n);
        WAIT_UNTIL(event_count(INSIDE) > inside || !td_is_alive(dies), 20);
        td_worker *lives = begin(how, runs_once, o, 0, 0, 0);
        killed = end_killed(dies);
        steps += killed;
        end_well(lives);
        CHECK(td_once_done(&o->once));
        CHECK_INT(o->made, 42);
        CHECK_IN(td__load_relaxed(&o->runs), 1, 2);
    }
    CHECK_IN(steps, 5, 60);
}

static int dies_inside(void *argument)
{
    (void)argument;
    event_add(INSIDE);
    event_wait(GO);
    raise(SIGKILL);
    return 0;
}

static int runs_to_die(td_call *call)
{
    objects *o = td_arg(call, part).object;
    return td_once_run(&o->once, dies_inside, o);
}

/* Killed inside the function, while threads and processes sleep, and the spawner with it. */
TEST_METHODS(runner_and_spawner_killed)
{
    objects *o = place(how, sizeof *o);
    td_worker *dies = begin(how, runs_to_die, o, 0, 0, 0);
    event_wait(INSIDE);
    td_worker *thread = begin(&mode_shared, runs_once, o, 0, 0, 0);
    WAIT_UNTIL(sleepers(&o->once) == 1, 20);
    if (how->method == TD_FORKSERVER)
        kill(parent_of(td_pid(dies)), SIGKILL);
    event_set(GO);
    end_well(thread);
    CHECK(end_killed(dies));
    CHECK_INT(td__load_relaxed(&o->runs), 1);
}

/* --- forks ------------------------------------------------------------------------------------------------- */

static objects forked;

static int makes_awaited_too(void *argument)
{
    event_add(INSIDE);
    event_wait(GO);
    return makes(argument);
}

static int runs_awaited_too(td_call *call)
{
    (void)call;
    return td_once_run(&forked.once, makes_awaited_too, &forked);
}

static void *runs_in_child(void *unused)
{
    (void)unused;
    CHECK_OK(td_once_run_for(&forked.once, makes, &forked, td_s(10)));
    CHECK_INT(forked.made, 42);
    return NULL;
}

static void reap_well(pid_t pid)
{
    int status = -1;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    CHECK_INT(status, 0);
}

/* Catches: a once that another thread was running at the fork, and that nobody can ever finish in the child. */
TEST(run_by_another_thread_at_a_fork)
{
    td_worker *runner = begin(&mode_private, runs_awaited_too, &forked, 0, 0, 0);
    event_wait(INSIDE);
    td_worker *sleeper = begin(&mode_private, runs_once, &forked, 0, 0, 0);
    WAIT_UNTIL(sleepers(&forked.once) == 1, 20);
    pid_t pid = fork();
    if (pid == 0) {
        enum { N = WITH_TSAN ? 0 : 3 }; /* the sanitizer is not made ready for threads of a forked child */
        pthread_t thread[N + 1];
        CHECK(!td_once_done(&forked.once));
        for (int i = 0; i < N; i++)
            REQUIRE(pthread_create(&thread[i], NULL, runs_in_child, NULL) == 0);
        runs_in_child(NULL);
        for (int i = 0; i < N; i++)
            pthread_join(thread[i], NULL);
        CHECK_INT(td__load_relaxed(&forked.runs), 1);
        CHECK(td_once_done(&forked.once));
        pid_t inner = fork(); /* done stays done */
        if (inner == 0) {
            runs_in_child(NULL);
            _exit(td__load_relaxed(&forked.runs) == 1 && !harness_failed() ? 0 : 1);
        }
        reap_well(inner);
        _exit(harness_failed() ? 1 : 0);
    }
    reap_well(pid);
    CHECK(!td_once_done(&forked.once)); /* the parent's is its own */
    event_set(GO);
    end_well(runner);
    end_well(sleeper);
    CHECK_INT(td__load_relaxed(&forked.runs), 1);
}

/* The function itself forks: in the child its thread goes on, and others wait for it. */
static int makes_and_forks(void *argument)
{
    pthread_t thread;
    pid_t pid = fork();
    if (pid == 0) {
        CHECK_ERROR(td_once_run(&forked.once, makes, &forked), TD_EDEADLOCK);
        if (!WITH_TSAN) {
            REQUIRE(pthread_create(&thread, NULL, runs_in_child, NULL) == 0);
            WAIT_UNTIL(sleepers(&forked.once) == 1, 20);
            CHECK_INT(td__load_relaxed(&forked.runs), 0);
            pthread_detach(thread);
        }
        page->number[0] = getpid();
    } else {
        page->number[1] = pid;
    }
    return makes(argument);
}

TEST(function_that_forks)
{
    pid_t me = getpid();
    CHECK_OK(td_once_run(&forked.once, makes_and_forks, &forked));
    CHECK_INT(td__load_relaxed(&forked.runs), 1);
    CHECK(td_once_done(&forked.once));
    runs_in_child(NULL);
    CHECK_INT(td__load_relaxed(&forked.runs), 1);
    if (getpid() != me)
        _exit(harness_failed() ? 1 : 0);
    reap_well((pid_t)page->number[1]);
}
