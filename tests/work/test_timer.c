/* SPDX-License-Identifier: MIT */
/* Timers: they call in time, or not at all. */
#include "harness.h"

#include <sys/wait.h>
#include <tandem/timer.h>
#include "os/fault.h"

enum { CALLED, GO };

static int doubles(td_call *call)
{
    event_add(CALLED);
    return td_return(call, int, 2 * td_arg(call, int));
}

static int waits_for_go(td_call *call)
{
    event_add(CALLED);
    event_wait(GO);
    return td_cancelled(call) ? TD_ECANCELLED : 0;
}

TEST(calls_after_the_interval)
{
    td_worker *t = WORKER(td_timer(.interval = td_ms(100), .target = doubles, .args = TD_ARG(int, 21)));
    CHECK_INT(td_outcome(t), TD_CREATED);
    double begun = now();
    REQUIRE_OK(td_start(t));
    CHECK(td_is_alive(t));
    REQUIRE_OK(td_join(t));
    CHECK_TIME(now() - begun, 0.1);
    int result = 0;
    CHECK_INT(td_outcome(t), TD_RETURNED);
    CHECK_OK(td_result(t, int, &result));
    CHECK_INT(result, 42);
    CHECK_ERROR(td_timer_cancel(t), TD_ESTATE);
    CHECK_ERROR(td_start(t), TD_ESTATE);
    td_free(t);
}

static int says(td_call *call)
{
    CHECK_STR(td_arg_str(call), "tea");
    return td_fail(call, 3, "cold");
}

static int has_no_argument(td_call *call)
{
    size_t size;
    CHECK(td_arg_bytes(call, &size) == NULL);
    CHECK_INT(size, 0);
    CHECK_STR(td_call_name(call), "clock");
    return 0;
}

/* What the target sees is what any target sees. */
TEST(arguments_and_failures)
{
    td_worker *t = WORKER(td_timer(.interval = td_ms(0), .target = says, .args = TD_STR("tea"), .name = "kettle"));
    CHECK_INT(td_run(t), 3);
    t = WORKER(td_timer(.interval = td_ms(-4), .target = has_no_argument, .name = "clock"));
    CHECK_OK(td_run(t));
    t = WORKER(td_timer(.interval = td_us(1), .target = doubles, .args = TD_STR("no number")));
    CHECK_INT(td_run(t), TD_ETYPE);
}

/* Before the start, while it waits, by the timer's call or by asking the worker to stop: at once, and never called. */
TEST(cancelled)
{
    for (int how = 0; how < 4; how++) {
        td_worker *t = WORKER(td_timer(.interval = td_s(3000), .target = doubles, .args = TD_ARG(int, 1)));
        if (how == 0)
            CHECK_OK(td_timer_cancel(t));
        REQUIRE_OK(td_start(t));
        if (how == 2)
            pause_ms(20); /* it waits, as a rule */
        if (how == 3)
            CHECK_OK(td_terminate(t));
        else
            CHECK_OK(td_timer_cancel(t));
        REQUIRE_OK(td_join(t));
        CHECK_INT(td_outcome(t), TD_CANCELLED);
        if (how < 3)
            CHECK_OK(td_timer_cancel(t)); /* again */
        td_free(t);
    }
    CHECK(!event_is_set(CALLED));
}

TEST(too_late)
{
    td_worker *t = WORKER(td_timer(.interval = td_ms(1), .target = waits_for_go));
    REQUIRE_OK(td_start(t));
    event_wait(CALLED);
    CHECK_ERROR(td_timer_cancel(t), TD_ESTATE);
    event_set(GO);
    REQUIRE_OK(td_join(t));
    CHECK_INT(td_outcome(t), TD_RETURNED); /* nothing of the attempt has reached it */
    td_free(t);
}

/* Cancelling races with the end of the interval: either it is called, or the cancellation succeeds. */
TEST(cancel_at_the_last_moment)
{
    for (int i = 0; i < 300 / SLOW; i++) {
        uint32_t called = event_count(CALLED);
        td_worker *t = WORKER(td_timer(.interval = td_us(i % 100 + 1), .target = doubles, .args = TD_ARG(int, i)));
        REQUIRE_OK(td_start(t));
        int r = td_timer_cancel(t);
        REQUIRE_OK(td_join(t));
        CHECK_INT(td_outcome(t), r == 0 ? TD_CANCELLED : TD_RETURNED);
        CHECK_INT(event_count(CALLED) - called, r == 0 ? 0 : 1);
        td_free(t);
    }
}

TEST(misuse)
{
    CHECK_NULL(td_timer_create(NULL), TD_EINVAL);
    CHECK_NULL(td_timer(.target = doubles), TD_EINVAL);
    CHECK_NULL(td_timer(.interval = td_s(1)), TD_EINVAL);
    CHECK_NULL(td_timer(.interval = td_s(1), .target = doubles, .name = ""), TD_EINVAL);
    CHECK_NULL(td_timer(.interval = td_s(1), .target = doubles, .args = td_bytes("", SIZE_MAX)), TD_ETOOBIG);
    td_worker *t = WORKER(td_thread(.target = doubles, .args = TD_ARG(int, 1)));
    CHECK_ERROR(td_timer_cancel(t), TD_EINVAL);
    td_free(t);
    t = WORKER(td_timer(.interval = td_s(1), .target = doubles, .args = TD_ARG(int, 1)));
    pid_t child = fork();
    if (child == 0)
        _exit(td_timer_cancel(t) == TD_EFORKED ? 0 : 1);
    CHECK_INT(helper_wait(child), 0);
    td_free(t); /* never started */
    CHECK(td_timer_cancel(NULL) < 0);
}

/* The program's end waits for a timer, but not for a daemon. */
HELPER(ends_with_timers)
{
    td_start(td_timer(.interval = td_s(3000), .target = doubles, .args = TD_ARG(int, 1), .daemon = TD_DAEMON_YES));
    td_start(td_timer(.interval = td_ms(50), .target = doubles, .args = TD_ARG(int, 1)));
    return 0;
}

TEST(end_of_the_program)
{
    CHECK_INT(helper_run(NULL, "ends_with_timers", NULL), 0);
    CHECK_INT(event_count(CALLED), 1);
}

TEST(faults)
{
    bool fired = true;
    for (long n = 1; fired; n++) {
        td__fault_arm(n);
        td_worker *t = td_timer(.interval = td_us(50), .target = doubles, .args = TD_ARG(int, 21));
        int r = t ? td_start(t) : td_last_error();
        if (r == 0) {
            REQUIRE_OK(td_join(t));
            td_state state = td_outcome(t);
            CHECK(state == TD_RETURNED || state == TD_FAILED);
        }
        fired = td__fault_fired();
        td__fault_disarm();
        CHECK(r == 0 || fired);
        CHECK_INT(r == 0 ? 0 : td_last_error(), r);
        td_free(t);
    }
}
