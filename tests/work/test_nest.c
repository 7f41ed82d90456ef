/* SPDX-License-Identifier: MIT */
/* Workers that start workers, of either kind, several levels deep; and what becomes of them when one dies. */
#include "harness.h"

#include <signal.h>

enum { STARTED, GO, DEAD };

static const mode *mode_of(int n)
{
    return n == 0 ? &mode_thread : n == 1 ? &mode_forkserver : &mode_fork;
}

struct plan {
    int levels;
    int how[8]; /* of each level, the outermost first */
    int value;
    bool hold; /* the innermost waits for GO */
};

/* Starts the rest of the plan and returns its result plus its own level. */
static int descends(td_call *call)
{
    struct plan plan = td_arg(call, struct plan);
    page->number[plan.levels] = getpid();
    if (plan.levels == 0) {
        if (plan.hold) {
            event_add(STARTED);
            event_wait(GO);
        }
        return td_return(call, int, plan.value);
    }
    const mode *how = mode_of(plan.how[plan.levels - 1]);
    plan.levels--;
    td_worker *w = JOINED(NEW(.target = descends, .args = TD_VAL(plan)));
    int result = 0;
    if (!CHECK_OK(td_result(w, int, &result)))
        harness_note("    %s", td_describe(w));
    td_free(w);
    return td_return(call, int, result + 1);
}

/* libtsan dies in a copy of a program with threads when the copy makes a thread, as starting a worker does. */
static bool impossible(struct plan plan)
{
    for (int i = 1; WITH_TSAN && i < plan.levels; i++)
        if (plan.how[i] == 2)
            return true;
    return false;
}

static void descend(struct plan plan)
{
    if (impossible(plan))
        return;
    const mode *how = mode_of(plan.how[plan.levels - 1]);
    int want = plan.value + plan.levels - 1, result = 0;
    plan.levels--;
    td_worker *w = JOINED(NEW(.target = descends, .args = TD_VAL(plan)));
    if (CHECK_OK(td_result(w, int, &result)))
        CHECK_INT(result, want);
    td_free(w);
}

/* Catches: any combination in which a worker cannot start another one. */
TEST(two_levels_of_every_kind)
{
    for (int a = 0; a < 3; a++)
        for (int b = 0; b < 3; b++)
            descend((struct plan){ .levels = 2, .how = { a, b }, .value = 10 });
}

TEST(three_levels_of_every_kind)
{
    for (int a = 0; a < 3; a++)
        for (int b = 0; b < 3; b++)
            for (int c = 0; c < 3; c++)
                descend((struct plan){ .levels = 3, .how = { a, b, c }, .value = 100 });
}

TEST(seven_levels)
{
    descend((struct plan){ .levels = 7, .how = { 1, 1, 1, 1, 1, 1, 1 }, .value = 5 });
    descend((struct plan){ .levels = 7, .how = { 2, 1, 0, 2, 1, 0, 1 }, .value = 5 });
}

/* Catches: descendants of a dead worker that live on: the outermost is killed, the innermost must go. */
TEST(descendants_of_a_dead_worker_are_ended)
{
    for (int a = 1; a < 3; a++) {
        for (int b = 0; b < 3; b++) {
            for (int c = 1; c < 3; c++) {
                page->event[STARTED] = 0;
                const mode *how = mode_of(a);
                struct plan plan = { .levels = 2, .how = { c, b }, .hold = true };
                if (WITH_TSAN && (a == 2 || b == 2))
                    continue;
                td_worker *w = WORKER(NEW(.target = descends, .args = TD_VAL(plan)));
                REQUIRE_OK(td_start(w));
                event_wait(STARTED);
                pid_t middle = (pid_t)page->number[1], inner = (pid_t)page->number[0];
                CHECK(process_alive(inner));
                CHECK_OK(td_kill(w));
                REQUIRE_OK(td_join(w));
                double begin = now();
                while ((process_alive(inner) || process_alive(middle)) && now() - begin < 1.0 * SLOW)
                    pause_ms(1);
                if (!CHECK(!process_alive(inner) && !process_alive(middle)))
                    harness_note("    levels: %s, %s, %s", mode_of(a)->name, mode_of(b)->name, mode_of(c)->name);
                kill(inner, SIGKILL);
                td_free(w);
            }
        }
    }
    WAIT_UNTIL(others_zombies() == 0, 5);
}

static void not_in_a_copy(const mode *how)
{
    if (WITH_TSAN && how->method == TD_FORK)
        SKIP("the sanitizer knows no threads in copies of the caller");
}

static int leaves_one_running(td_call *call)
{
    const mode *how = mode_of(td_arg(call, int) % 10);
    td_worker *w = WORKER(NEW(.target = descends, .args = TD_ARG(struct plan, .hold = true),
                              .daemon = td_arg(call, int) >= 10 ? TD_DAEMON_YES : TD_DAEMON_NO));
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    td_free(w);
    event_add(DEAD);
    return 0;
}

/* Catches: a worker whose target returns while its own non-daemon worker runs: as a program, it waits for it. */
TEST_METHODS(worker_waits_for_its_own_workers)
{
    not_in_a_copy(how);
    for (int inner = 0; inner < 3; inner++) {
        page->event[STARTED] = page->event[GO] = page->event[DEAD] = 0;
        td_worker *w = WORKER(NEW(.target = leaves_one_running, .args = TD_VAL(inner)));
        REQUIRE_OK(td_start(w));
        event_wait(DEAD);
        pid_t pid = (pid_t)page->number[0];
        CHECK(process_alive(pid));
        event_set(GO);
        REQUIRE_OK(td_join(w));
        CHECK_INT(td_outcome(w), TD_RETURNED);
        WAIT_UNTIL(!process_alive(pid), 5);
        td_free(w);
    }
}

/* Catches: a daemon of a worker that lives on when that worker has ended. */
TEST_METHODS(daemon_of_a_worker_ends_with_it)
{
    not_in_a_copy(how);
    for (int inner = 1; inner < 3; inner++) {
        page->event[STARTED] = page->event[DEAD] = 0;
        td_worker *w = WORKER(NEW(.target = leaves_one_running, .args = TD_ARG(int, 10 + inner)));
        REQUIRE_OK(td_start(w));
        event_wait(DEAD);
        pid_t pid = (pid_t)page->number[0];
        REQUIRE_OK(td_join(w));
        CHECK_INT(td_outcome(w), TD_RETURNED);
        WAIT_UNTIL(!process_alive(pid), 3);
        td_free(w);
    }
}

static int fails_loudly(td_call *call)
{
    return td_fail(call, 77, "from the depth");
}

static int passes_on(td_call *call)
{
    const mode *how = mode_of(td_arg(call, int));
    td_worker *w = JOINED(NEW(.target = fails_loudly));
    int code = td_fail(call, td_result_code(w), "%s", td_message(w));
    td_free(w);
    return code;
}

static int crashes(td_call *call)
{
    (void)call;
    raise(SIGKILL);
    return 0;
}

static int sees_a_crash(td_call *call)
{
    const mode *how = mode_of(td_arg(call, int));
    td_worker *w = JOINED(NEW(.target = crashes));
    CHECK_INT(td_outcome(w), TD_CRASHED);
    CHECK_INT(td_exitcode(w), -SIGKILL);
    td_free(w);
    return 0;
}

/* Catches: outcomes that do not reach a worker as they reach the main process. */
TEST_MODES(outcomes_reach_workers)
{
    not_in_a_copy(how);
    for (int inner = 0; inner < 3; inner++) {
        td_worker *w = JOINED(NEW(.target = passes_on, .args = TD_VAL(inner)));
        CHECK_INT(td_result_code(w), 77);
        CHECK_STR(td_message(w), "from the depth");
        td_free(w);
        if (inner)
            CHECK_INT(td_run(NEW(.target = sees_a_crash, .args = TD_VAL(inner))), 0);
    }
}

static int stops_its_own(td_call *call)
{
    const mode *how = mode_of(td_arg(call, int));
    td_worker *w = WORKER(NEW(.target = descends, .args = TD_ARG(struct plan, .hold = true)));
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    CHECK_INT(td_active_children(0, 0), 1);
    CHECK_INT(td_active_count(), how == &mode_thread ? 1 : td_active_count());
    CHECK_OK(td_kill(w));
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_CANCELLED);
    td_free(w);
    return 0;
}

TEST_METHODS(worker_stops_its_worker)
{
    not_in_a_copy(how);
    for (int inner = 1; inner < 3; inner++) {
        page->event[STARTED] = 0;
        CHECK_INT(td_run(NEW(.target = stops_its_own, .args = TD_VAL(inner))), 0);
    }
}

static int starts_ten(td_call *call)
{
    int n = td_arg(call, int), sum = 0;
    td_worker *w[10];
    for (int i = 0; i < 10; i++) {
        w[i] = WORKER(td_process(.target = descends, .args = TD_ARG(struct plan, .value = n)));
        REQUIRE_OK(td_start(w[i]));
    }
    for (int i = 0; i < 10; i++) {
        int result = 0;
        REQUIRE_OK(td_join(w[i]));
        CHECK_OK(td_result(w[i], int, &result));
        sum += result;
        td_free(w[i]);
    }
    return td_return(call, int, sum);
}

/* Catches: requests of several workers, at the same time, mixed up by the spawner that they share. */
TEST_MODES(many_workers_start_many)
{
    not_in_a_copy(how);
    td_worker *w[8];
    for (int i = 0; i < 8; i++) {
        w[i] = WORKER(NEW(.target = starts_ten, .args = TD_VAL(i)));
        REQUIRE_OK(td_start(w[i]));
    }
    for (int i = 0; i < 8; i++) {
        int sum = -1;
        REQUIRE_OK(td_join(w[i]));
        CHECK_OK(td_result(w[i], int, &sum));
        CHECK_INT(sum, 10 * i);
        td_free(w[i]);
    }
}

static int knows_its_parent(td_call *call)
{
    int level = td_arg(call, int);
    CHECK(td_parent() != 0);
    CHECK_INT(td_pid(td_parent()), (pid_t)page->number[level]);
    CHECK(td_is_alive(td_parent()));
    page->number[level + 1] = getpid();
    if (level == 2)
        return 0;
    CHECK_INT(td_run(td_process(.target = knows_its_parent, .args = TD_ARG(int, level + 1),
                                .method = level % 2 ? TD_FORK : TD_FORKSERVER)),
              0);
    return 0;
}

/* Catches: the spawner, or the main process, taken for the parent. */
TEST_METHODS(parent_of_each_level)
{
    not_in_a_copy(how);
    page->number[0] = getpid();
    CHECK_INT(td_run(NEW(.target = knows_its_parent, .args = TD_ARG(int, 0))), 0);
}

static int checks_environment(td_call *call)
{
    const char *value = getenv("LEVEL");
    CHECK_STR(value, td_arg_str(call));
    return 0;
}

static int sets_environment(td_call *call)
{
    (void)call;
    setenv("LEVEL", "worker", 1);
    REQUIRE(chdir("/usr") == 0);
    return td_run(td_process(.target = checks_environment, .args = TD_STR("worker")));
}

/* Catches: a worker's worker that gets the main process's surroundings. */
TEST_METHODS(surroundings_come_from_the_worker_that_starts)
{
    not_in_a_copy(how);
    setenv("LEVEL", "main", 1);
    CHECK_INT(td_run(td_process(.target = checks_environment, .args = TD_STR("main"))), 0);
    CHECK_INT(td_run(NEW(.target = sets_environment)), 0);
    CHECK_INT(td_run(td_process(.target = checks_environment, .args = TD_STR("main"))), 0);
}

/* Catches: a spawner that dies under a worker in the middle. */
TEST(spawner_killed_under_nested_workers)
{
    struct plan plan = { .levels = 2, .how = { 1, 1 }, .hold = true };
    td_worker *w = WORKER(td_process(.target = descends, .args = TD_VAL(plan)));
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    pid_t outer = (pid_t)page->number[2], inner = (pid_t)page->number[0], spawner = 0;
    spawner = parent_of(outer);
    REQUIRE(spawner > 1 && spawner != getpid());
    kill(spawner, SIGKILL);
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_CRASHED);
    WAIT_UNTIL(!process_alive(outer) && !process_alive(inner), 1);
    td_free(w);
    descend((struct plan){ .levels = 3, .how = { 1, 1, 1 }, .value = 5 });
}
