/* SPDX-License-Identifier: MIT */
/* td_init and its options; each case's helper calls it in its own way (see INIT). */
#include "targets.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <tandem/wait.h>

enum { PREPARED = OWN_EVENTS, READY, ALONE, TELLING };

static int prepared_value;

static int prepare(void)
{
    prepared_value = 42;
    if (page)
        event_add(PREPARED);
    return 0;
}

static int prepare_that_fails(void)
{
    return 7;
}

static int prepare_that_dies(void)
{
    raise(SIGKILL);
    return 0;
}

static int prepare_that_exits(void)
{
    exit(0);
}

static int prepare_that_returns_a_code(void)
{
    return TD_ENOMEM;
}

/* A thread of its is telling the hook when workers are forked, and does so for as long as the spawner lives. */
static void hook_that_stays(const td_failure *failure)
{
    (void)failure;
    event_set(TELLING);
    for (;;)
        pause();
}

static int fails_alone(td_call *call)
{
    (void)call;
    event_wait(ALONE); /* else the hook is told by who frees the handle */
    return 3;
}

static int prepare_that_tells(void)
{
    td_set_failure_hook(hook_that_stays);
    td_worker *w = td_thread(.target = fails_alone);
    if (!w || td_start(w) < 0)
        return 1;
    td_free(w);
    event_set(ALONE);
    event_wait(TELLING);
    return 0;
}

static int codes[4]; /* of td_init */

INIT(none)
{
}

INIT(twice)
{
    codes[0] = td_init(.spares = 1);
    codes[1] = td_init();
    codes[2] = td_init(.prepare = prepare, .start_now = true);
}

INIT(prepared)
{
    codes[0] = td_init(.prepare = prepare);
}

INIT(prepared_now)
{
    codes[0] = td_init(.prepare = prepare, .start_now = true);
}

INIT(failing)
{
    codes[0] = td_init(.prepare = prepare_that_fails);
}

INIT(failing_now)
{
    codes[0] = td_init(.prepare = prepare_that_fails, .start_now = true);
}

INIT(failing_with_a_code)
{
    codes[0] = td_init(.prepare = prepare_that_returns_a_code);
}

INIT(dying)
{
    codes[0] = td_init(.prepare = prepare_that_dies);
}

INIT(exiting)
{
    codes[0] = td_init(.prepare = prepare_that_exits);
}

INIT(telling)
{
    codes[0] = td_init(.prepare = prepare_that_tells);
}

/* A thread of the library stays, which watches for descriptors; and one of those. */
static td_event prepared_event;
static int prepared_fd = -1;

static bool tells(int fd, td_event *event)
{
    struct pollfd one = { .fd = fd, .events = POLLIN };
    td_event_set(event);
    return fd >= 0 && poll(&one, 1, 10000) == 1;
}

static int prepare_that_watches(void)
{
    static td_event event;
    prepared_fd = td_descriptor(TD_WAIT_EVENT(&prepared_event));
    int fd = td_descriptor(TD_WAIT_EVENT(&event));
    return tells(fd, &event) ? td_descriptor_close(fd) : 1;
}

INIT(watching)
{
    codes[0] = td_init(.prepare = prepare_that_watches);
}

static int watches_too(td_call *call)
{
    static td_event event;
    (void)call;
    int fd = td_descriptor(TD_WAIT_EVENT(&event));
    CHECK(tells(fd, &event));
    CHECK_ERROR(td_descriptor_close(prepared_fd), TD_EINVAL); /* the spawner's own */
    return td_descriptor_close(fd);
}

INIT(start_now)
{
    codes[0] = td_init(.start_now = true);
}

INIT(one_spare)
{
    codes[0] = td_init(.spares = 1);
}

INIT(eight_spares)
{
    codes[0] = td_init(.spares = 8);
}

INIT(too_many_spares)
{
    codes[0] = td_init(.spares = 9);
}

INIT(core_dumps)
{
    codes[0] = td_init(.core_dumps = true);
}

INIT(null_options)
{
    codes[0] = td_init_with(0);
}

static int tells_prepared(td_call *call)
{
    return td_return(call, int, prepared_value);
}

/* --- without it -------------------------------------------------------------------------------------------------- */

HELPER(without_init)
{
    CHECK_INT(td_run(td_thread(.target = nothing)), 0);
    td_worker *w = WORKER(td_process(.target = nothing));
    CHECK_ERROR(td_start(w), TD_EINIT);
    CHECK_ERROR(td_start(w), TD_EINIT);
    CHECK_INT(td_outcome(w), TD_CREATED);
    td_free(w);
    CHECK(td_current() == td_main());
    CHECK(td_main() != 0);
    CHECK_INT(td_active_count(), 1);
    CHECK_OK(td_finish());
    CHECK_INT(td_run(td_thread(.target = nothing)), 0);
    return 0;
}

/* Catches: a process start that, without td_init, would run main again; threads that do not work without it. */
TEST(threads_without_init)
{
    helper_options o = { .init = "none" };
    CHECK_INT(helper_run(&o, "without_init", NULL), 0);
}

static int outlasts(td_call *call)
{
    (void)call;
    event_set(STARTED);
    event_wait(GO);
    pause_ms(50);
    event_set(READY);
    return 0;
}

static void announce(void)
{
    event_set(GO);
}

HELPER(ends_without_init)
{
    td_worker *w = WORKER(td_thread(.target = outlasts));
    REQUIRE_OK(td_start(w));
    td_free(w);
    event_wait(STARTED);
    atexit(announce);
    return 0;
}

/* Catches: non-daemon threads of a program without td_init that are cut off at its end. */
TEST(exit_joins_without_init)
{
    helper_options o = { .init = "none" };
    CHECK_INT(helper_run(&o, "ends_without_init", NULL), 0);
    CHECK(event_is_set(READY));
}

/* --- again ---------------------------------------------------------------------------------------------------------
 */

HELPER(after_init_twice)
{
    for (int i = 0; i < 3; i++)
        CHECK_INT(codes[i], 0);
    CHECK_INT(others(), 0); /* the second and third did nothing */
    CHECK_INT(td_run(td_process(.target = nothing)), 0);
    CHECK_INT(event_count(PREPARED), 0);
    CHECK_OK(td_init());
    return 0;
}

TEST(init_again_does_nothing)
{
    helper_options o = { .init = "twice" };
    CHECK_INT(helper_run(&o, "after_init_twice", NULL), 0);
    helper_options null = { .init = "null_options" };
    CHECK_INT(helper_run(&null, "any_code", NULL), 0);
}

/* Whatever td_init said to bad options, the program does not crash. */
HELPER(any_code)
{
    CHECK(codes[0] <= 0);
    CHECK_INT(td_run(td_thread(.target = nothing)), 0);
    return 0;
}

/* --- prepare -------------------------------------------------------------------------------------------------------
 */

/* Argument: the method. */
HELPER(uses_prepared)
{
    REQUIRE(argc == 2);
    CHECK_INT(codes[0], 0);
    CHECK_INT(prepared_value, 0); /* not here */
    for (int i = 0; i < 6; i++) {
        int value = 0;
        td_worker *w = JOINED(td_process(.target = tells_prepared));
        CHECK_OK(td_result(w, int, &value));
        CHECK_INT(value, 42);
        td_free(w);
    }
    CHECK_INT(event_count(PREPARED), 1); /* once, not for each worker */
    CHECK_INT(td_run(td_process(.target = nothing, .method = TD_FORK)), 0);
    CHECK_OK(td_finish());
    CHECK_INT(td_run(td_process(.target = nothing)), 0);
    CHECK_INT(event_count(PREPARED), 2); /* a new spawner */
    return 0;
}

/* Catches: prepare that runs in the program, in each worker, or not at all. */
TEST(prepare_runs_once_in_the_spawner)
{
    const char *ways[] = { "prepared", "prepared_now" };
    for (int i = 0; i < 2; i++) {
        page->event[PREPARED] = 0;
        helper_options o = { .init = ways[i] };
        CHECK_INT(helper_run(&o, "uses_prepared", "x", NULL), 0);
    }
}

HELPER(watches_in_workers)
{
    CHECK_INT(codes[0], 0);
    for (int i = 0; i < 4; i++)
        CHECK_INT(td_run(td_process(.target = watches_too)), 0);
    return harness_failed();
}

/* Catches: a worker that takes its spawner's thread for its own, and waits for it. */
TEST(prepare_that_watches)
{
    helper_options o = { .init = "watching" };
    CHECK_INT(helper_run(&o, "watches_in_workers", NULL), 0);
}

/* Arguments: what the sentence must hold; "now" or "later". */
HELPER(cannot_prepare)
{
    REQUIRE(argc == 3);
    if (argv[2][0] == 'n')
        CHECK_ERROR(codes[0], TD_ESPAWNER);
    else
        CHECK_INT(codes[0], 0);
    for (int i = 0; i < 3; i++) {
        td_worker *w = WORKER(td_process(.target = nothing));
        CHECK_ERROR(td_start(w), TD_ESPAWNER);
        CHECK_HAS(td_last_message(), argv[1]);
        CHECK_INT(td_outcome(w), TD_CREATED);
        td_free(w);
    }
    CHECK_INT(td_run(td_thread(.target = nothing)), 0);
    CHECK_INT(td_run(td_process(.target = nothing, .method = TD_FORK)), 0);
    CHECK_OK(td_finish());
    CHECK_NOTHING_LEFT();
    return 0;
}

/* Catches: a failed prepare that hangs the start, or that workers run after. */
TEST(prepare_fails)
{
    helper_options o = { .init = "failing" };
    CHECK_INT(helper_run(&o, "cannot_prepare", "7", "later", NULL), 0);
    o.init = "failing_now";
    CHECK_INT(helper_run(&o, "cannot_prepare", "7", "now", NULL), 0);
    o.init = "failing_with_a_code";
    CHECK_INT(helper_run(&o, "cannot_prepare", "-2", "later", NULL), 0);
    o.init = "dying";
    CHECK_INT(helper_run(&o, "cannot_prepare", "", "later", NULL), 0);
    o.init = "exiting";
    CHECK_INT(helper_run(&o, "cannot_prepare", "", "later", NULL), 0);
}

/* --- start_now and spares -------------------------------------------------------------------------------------------
 */

HELPER(with_a_hook_in_prepare)
{
    for (int i = 0; i < 3; i++) {
        td_worker *w = JOINED(td_process(.target = nothing));
        CHECK_INT(td_outcome(w), TD_RETURNED);
        td_free(w);
    }
    return harness_failed();
}

/* Catches: workers that wait, at their end, for threads that .prepare has started in the spawner. */
TEST(threads_of_prepare_are_not_joined)
{
    helper_options o = { .init = "telling" };
    CHECK_INT(helper_run(&o, "with_a_hook_in_prepare", NULL), 0);
}

HELPER(started_now)
{
    CHECK_INT(codes[0], 0);
    CHECK(others() >= 1); /* the spawner is there before any start */
    CHECK_INT(td_run(td_process(.target = nothing)), 0);
    CHECK_OK(td_finish());
    CHECK_NOTHING_LEFT();
    CHECK_INT(td_run(td_process(.target = nothing)), 0);
    return 0;
}

TEST(start_now)
{
    helper_options o = { .init = "start_now" };
    CHECK_INT(helper_run(&o, "started_now", NULL), 0);
}

HELPER(has_spares)
{
    REQUIRE(argc == 2);
    int spares = atoi(argv[1]);
    CHECK_INT(codes[0], 0);
    for (int i = 0; i < 20; i++)
        CHECK_INT(td_run(td_process(.target = nothing)), 0);
    WAIT_UNTIL(others() == 1 + spares, 5); /* and the spawner */
    CHECK_OK(td_finish());
    CHECK_NOTHING_LEFT();
    return 0;
}

/* Catches: other numbers of idle processes than asked for; and ones that td_finish leaves. */
TEST(spares)
{
    helper_options o = { .init = "one_spare" };
    CHECK_INT(helper_run(&o, "has_spares", "1", NULL), 0);
    o.init = "eight_spares";
    CHECK_INT(helper_run(&o, "has_spares", "8", NULL), 0);
    o.init = 0;
    o.init = "too_many_spares";
    CHECK_INT(helper_run(&o, "any_code", NULL), 0);
}

/* --- core dumps ------------------------------------------------------------------------------------------------------
 */

static int tells_core_limit(td_call *call)
{
    struct rlimit l;
    getrlimit(RLIMIT_CORE, &l);
    return td_return(call, bool, l.rlim_cur > 0);
}

HELPER(core_limit)
{
    REQUIRE(argc == 2);
    struct rlimit l = { 4096, RLIM_INFINITY };
    getrlimit(RLIMIT_CORE, &l);
    if (l.rlim_max < 4096)
        return EXIT_SKIPPED;
    l.rlim_cur = 4096;
    REQUIRE(setrlimit(RLIMIT_CORE, &l) == 0);
    for (int i = 0; i < 2; i++) {
        bool dumps = false;
        td_worker *w = JOINED(td_process(.target = tells_core_limit, .method = i ? TD_FORK : TD_FORKSERVER));
        CHECK_OK(td_result(w, bool, &dumps));
        if (argv[1][0] == 'y')
            CHECK(dumps);
        td_free(w);
    }
    return 0;
}

/* Catches: the option without effect. (That workers do not dump otherwise need not show in the limit.) */
TEST(core_dumps_when_asked_for)
{
    helper_options o = { .init = "core_dumps" };
    int status = helper_run(&o, "core_limit", "yes", NULL);
    if (status == EXIT_SKIPPED)
        SKIP("core dumps are not allowed here");
    CHECK_INT(status, 0);
}
