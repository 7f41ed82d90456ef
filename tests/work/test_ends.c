/* SPDX-License-Identifier: MIT */
/* How a program ends: td_finish, exit, return from main; and that nothing is left of the library then. */
#include "targets.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>

enum { ENDING = OWN_EVENTS, TERM_SEEN };

/* --- workers that are joined ----------------------------------------------------------------------------------- */

/* Ends a while after the program has begun to end. */
static int outlasts(td_call *call)
{
    (void)call;
    event_add(STARTED);
    event_wait(ENDING);
    pause_ms(100); /* for a library that does not join: it would be gone by then */
    event_add(ENDED);
    return 0;
}

static void announce_end(void)
{
    event_set(ENDING);
}

/* Arguments: mode; "finish", "exit" or "return"; "kept" or "freed". */
HELPER(ends_with_a_worker)
{
    REQUIRE(argc == 4);
    const mode *how = mode_named(argv[1]);
    td_worker *w = WORKER(NEW(.target = outlasts));
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    if (argv[3][0] == 'f')
        td_free(w);
    if (argv[2][0] == 'f') {
        event_set(ENDING);
        CHECK_OK(td_finish());
        CHECK(event_is_set(ENDED));
        CHECK_INT(td_active_count(), 1);
        if (argv[3][0] == 'k') {
            CHECK_INT(td_outcome(w), TD_RETURNED);
            td_free(w);
        }
        return 0;
    }
    atexit(announce_end); /* runs before the library's part of exit() */
    if (argv[2][0] == 'e')
        exit(0);
    return 0;
}

static void check_joined(const mode *how, const char *way)
{
    for (int freed = 0; freed < 2; freed++) {
        if (WITH_ASAN && !freed && way[0] != 'f')
            continue; /* the handle is left to the end of the program: a leak */
        page->event[STARTED] = page->event[ENDING] = page->event[ENDED] = 0;
        CHECK_INT(helper_run(0, "ends_with_a_worker", how->name, way, freed ? "freed" : "kept", NULL), 0);
        CHECK(event_is_set(ENDED));
        WAIT_UNTIL(others() == 0, 1);
    }
}

/* Catches: non-daemon workers that are cut off by the end of the program. */
TEST_MODES(finish_joins)
{
    check_joined(how, "finish");
}

TEST_MODES(exit_joins)
{
    check_joined(how, "exit");
}

TEST_MODES(return_from_main_joins)
{
    check_joined(how, "return");
}

static int calls_exit(td_call *call)
{
    (void)call;
    exit(9);
}

HELPER(exits_in_a_worker_thread)
{
    td_worker *w = WORKER(td_thread(.target = calls_exit, .daemon = TD_DAEMON_YES));
    td_worker *p = WORKER(td_process(.target = outlasts));
    REQUIRE_OK(td_start(p));
    td_free(p);
    event_wait(STARTED);
    atexit(announce_end);
    REQUIRE_OK(td_start(w));
    td_join(w);
    event_wait(GO); /* never set */
    return 0;
}

static int calls_exit_alone(td_call *call)
{
    (void)call;
    exit(8);
}

HELPER(exits_in_a_non_daemon_thread)
{
    td_worker *w = WORKER(td_thread(.target = calls_exit_alone));
    REQUIRE_OK(td_start(w));
    td_free(w);
    event_wait(GO);
    return 0;
}

/* Catches: exit() in a worker thread, which would join itself for ever; or that joins nobody. */
TEST(exit_in_a_worker_thread)
{
    CHECK_INT(helper_run(0, "exits_in_a_worker_thread", NULL), 9);
    CHECK(event_is_set(ENDED));
    CHECK_INT(helper_run(0, "exits_in_a_non_daemon_thread", NULL), 8);
}

static int calls_finish(td_call *call)
{
    (void)call;
    CHECK_ERROR(td_finish(), TD_EDEADLOCK);
    return 0;
}

/* Catches: a worker that waits for itself. */
TEST(finish_in_a_worker_thread)
{
    CHECK_INT(td_run(td_thread(.target = calls_finish)), 0);
    CHECK_OK(td_finish());
}

/* --- workers that are ended -------------------------------------------------------------------------------------- */

static int for_ever(td_call *call)
{
    (void)call;
    event_add(STARTED);
    event_wait(GO); /* never set */
    return 0;
}

static void on_term(int number)
{
    (void)number;
    event_set(TERM_SEEN);
    _exit(0);
}

static int for_ever_until_term(td_call *call)
{
    signal(SIGTERM, on_term);
    return for_ever(call);
}

static int for_ever_without_term(td_call *call)
{
    signal(SIGTERM, SIG_IGN);
    return for_ever(call);
}

static int thread_for_ever(td_call *call)
{
    (void)call;
    event_add(STARTED);
    event_wait(GO);
    return 0;
}

/* Arguments: mode; "finish", "exit" or "return"; "plain", "term" or "stubborn". */
HELPER(ends_with_a_daemon)
{
    REQUIRE(argc == 4);
    const mode *how = mode_named(argv[1]);
    td_target *target = how->kind == TD_THREAD ? thread_for_ever
                        : argv[3][0] == 't'    ? for_ever_until_term
                        : argv[3][0] == 's'    ? for_ever_without_term
                                               : for_ever;
    td_worker *w = WORKER(NEW(.target = target, .daemon = TD_DAEMON_YES));
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    pid_t pid = td_pid(w);
    if (argv[2][0] == 'f') {
        double begin = now();
        CHECK_OK(td_finish());
        if (argv[3][0] == 's')
            CHECK_TIME(now() - begin, 1.0);
        if (how->kind == TD_PROCESS) {
            CHECK(!process_alive(pid));
            CHECK(!td_is_alive(w));
            CHECK_NOTHING_LEFT();
            if (argv[3][0] == 'p')
                CHECK_INT(td_exitcode(w), -SIGTERM);
            if (argv[3][0] == 's')
                CHECK_INT(td_exitcode(w), -SIGKILL);
        } else {
            CHECK(td_is_alive(w));
        }
    }
    td_free(w);
    if (argv[2][0] == 'e')
        exit(0);
    return 0;
}

static void check_ended(const mode *how, const char *way)
{
    const char *kinds[] = { "plain", "term", "stubborn" };
    for (int i = 0; i < (how->kind == TD_THREAD ? 1 : 3); i++) {
        page->event[STARTED] = page->event[TERM_SEEN] = 0;
        double begin = now();
        CHECK_INT(helper_run(0, "ends_with_a_daemon", how->name, way, kinds[i], NULL), 0);
        CHECK_IN(now() - begin, i == 2 ? 0.6 : 0, 10);
        CHECK_INT(event_is_set(TERM_SEEN), i == 1);
        WAIT_UNTIL(others() == 0, 1);
    }
}

/* Catches: daemons that hold up the end, outlive it, or get no chance to clean up; and a hook told of them. */
TEST_MODES(finish_ends_daemons)
{
    check_ended(how, "finish");
}

TEST_MODES(exit_ends_daemons)
{
    check_ended(how, "exit");
}

TEST_MODES(return_from_main_ends_daemons)
{
    check_ended(how, "return");
}

/* Catches: a daemon that is ended by the end of the program reported as a failure nobody asked about. */
TEST_METHODS(ended_daemon_is_no_failure)
{
    char *text;
    CHECK_INT(helper_output(&text, 0, "ends_with_a_daemon", how->name, "exit", "plain", NULL), 0);
    CHECK_STR(text, "");
    free(text);
}

/* Catches: a second for each stubborn daemon, one after another. */
TEST_METHODS(stubborn_daemons_end_together)
{
    for (int i = 0; i < 8; i++) {
        td_worker *w = WORKER(NEW(.target = for_ever_without_term, .daemon = TD_DAEMON_YES));
        REQUIRE_OK(td_start(w));
        td_free(w);
    }
    event_wait_count(STARTED, 8);
    double begin = now();
    CHECK_OK(td_finish());
    CHECK_IN(now() - begin, 0.6, 5.0 * SLOW);
    CHECK_NOTHING_LEFT();
}

/* --- and after ------------------------------------------------------------------------------------------------- */

/* Catches: a finish that cannot be called without a beginning, or twice; an end after which nothing begins. */
TEST_MODES(begin_anew_after_finish)
{
    CHECK_OK(td_finish());
    CHECK_OK(td_finish());
    for (int i = 0; i < 5; i++) {
        CHECK_INT(td_run(NEW(.target = nothing)), 0);
        CHECK_OK(td_finish());
        CHECK_NOTHING_LEFT();
        CHECK_OK(td_init());
        CHECK_OK(td_finish());
    }
}

/* Catches: a worker that was never started holding up the end. */
TEST_MODES(finish_with_a_worker_that_was_not_started)
{
    td_worker *w = WORKER(NEW(.target = nothing));
    CHECK_OK(td_finish());
    CHECK_OK(td_start(w));
    CHECK_OK(td_join(w));
    td_free(w);
}

static void *starts_some(void *unused)
{
    for (int i = 0; i < 30; i++) {
        const mode *how = i % 3 == 0 ? &mode_thread : i % 3 == 1 || SANITIZED ? &mode_forkserver : &mode_fork;
        td_worker *w = WORKER(NEW(.target = nothing));
        int code = td_start(w);
        if (code == 0) {
            CHECK_OK(td_join(w));
            CHECK_INT(td_outcome(w), TD_RETURNED);
        } else {
            CHECK(td_last_message()[0]);
        }
        td_free(w);
        event_add(STARTED);
    }
    return unused;
}

/* Catches: starts on other threads that meet an end: they succeed or fail, but neither hang nor crash. */
TEST(finish_while_other_threads_start_workers)
{
    pthread_t thread[3];
    for (int i = 0; i < 3; i++)
        REQUIRE(pthread_create(&thread[i], 0, starts_some, 0) == 0);
    for (uint32_t i = 1; i <= 8; i++) {
        event_wait_count(STARTED, 10 * i);
        CHECK_OK(td_finish());
    }
    for (int i = 0; i < 3; i++)
        pthread_join(thread[i], 0);
    CHECK_OK(td_finish());
    CHECK_NOTHING_LEFT();
}

struct counts {
    int fds, threads, processes, shared_maps, maps;
};

static struct counts count(void)
{
    struct counts c = { count_fds(), WITH_TSAN ? 0 : count_threads(), others(), count_maps("memfd:"),
                        count_maps(" rw-s ") };
    return c;
}

static void check_counts(struct counts want)
{
    struct counts got = count();
    for (int i = 0; i < 1000 && got.threads > want.threads; i++) { /* a joined thread takes a moment to go */
        pause_ms(1);
        got = count();
    }
    CHECK_INT(got.fds, want.fds);
    CHECK_INT(got.threads, want.threads);
    CHECK_INT(got.processes, want.processes);
    CHECK_INT(got.shared_maps, want.shared_maps);
    CHECK_INT(got.maps, want.maps);
}

static int echo(td_call *call)
{
    size_t size;
    const void *data = td_arg_bytes(call, &size);
    return td_return_bytes(call, data, size);
}

static void use_everything(const mode *how, int n)
{
    static char block[100000];
    for (int i = 0; i < n; i++) {
        td_worker *w = WORKER(NEW(.target = echo, .args = TD_BYTES(block, i % 2 ? sizeof block : 10)));
        REQUIRE_OK(td_start(w));
        if (i % 5 == 1)
            CHECK(td_sentinel(w) > 2);
        REQUIRE_OK(td_join(w));
        CHECK_INT(td_outcome(w), TD_RETURNED);
        if (i % 5 == 2)
            CHECK_OK(td_close(w));
        td_free(w);
    }
}

/* Catches: a descriptor, mapping, thread or process that td_finish leaves behind. */
TEST_MODES(nothing_is_left_after_finish)
{
    struct counts before = count();
    for (int round = 0; round < 3; round++) {
        use_everything(how, 10);
        CHECK_OK(td_finish());
        check_counts(before);
    }
}

/* Catches: something that each start leaves behind. */
TEST_MODES(starts_leave_nothing_behind)
{
    use_everything(how, 20);
    WAIT_UNTIL(others_zombies() == 0, 5);
    struct counts before = count();
    long kib = mapped_kib();
    use_everything(how, how->kind == TD_THREAD ? 1000 : SANITIZED ? 100 : 400);
    /* what goes on behind a join: the last process leaving, a spare coming */
    WAIT_UNTIL(count_fds() <= before.fds, 5);
    WAIT_UNTIL(WITH_TSAN || count_threads() <= before.threads, 5);
    WAIT_UNTIL(others() <= before.processes + 1, 5);
    WAIT_UNTIL(others_zombies() == 0, 5);
    CHECK_INT(count_maps("memfd:"), before.shared_maps);
    if (!SANITIZED)
        CHECK_IN(mapped_kib(), 0, (double)kib + 1024);
}

/* Catches: the memory of failed and crashed workers, messages, results. */
static int crashes(td_call *call)
{
    (void)call;
    raise(SIGKILL);
    return 0;
}

static int fails(td_call *call)
{
    return td_fail(call, 4, "no luck");
}

TEST_METHODS(crashes_leave_nothing_behind)
{
    struct counts before = count();
    for (int i = 0; i < 40; i++) {
        td_worker *w = JOINED(NEW(.target = i % 2 ? crashes : fails));
        CHECK_INT(td_outcome(w), i % 2 ? TD_CRASHED : TD_FAILED);
        td_describe(w);
        td_free(w);
    }
    WAIT_UNTIL(others_zombies() == 0, 5);
    CHECK_OK(td_finish());
    check_counts(before);
}

/* Catches: an idle program that wakes up, or a spawner that polls. */
TEST(an_idle_program_uses_no_cpu)
{
    CHECK_INT(td_run(td_process(.target = nothing)), 0);
    td_worker *w = WORKER(td_process(.target = thread_for_ever));
    td_worker *t = WORKER(td_thread(.target = thread_for_ever));
    REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_start(t));
    event_wait_count(STARTED, 2);
    static proc list[64];
    /* voluntary switches of all of them, from when the last spare has come to rest */
    long switches[2] = { 0 };
    pause_ms(100);
    int n = list_others(list, 63);
    REQUIRE(n >= 2 && n < 63);
    list[n++].pid = getpid();
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < n; i++) {
            char text[64];
            if (list[i].pid != getpid())
                switches[round] += atol(status_of(list[i].pid, "voluntary_ctxt_switches", text, sizeof text));
        }
        if (round == 0)
            pause_ms(300);
    }
    CHECK_IN(switches[1] - switches[0], 0, 2);
    event_set(GO);
    REQUIRE_OK(td_join(w));
    REQUIRE_OK(td_join(t));
    td_free(w);
    td_free(t);
}
