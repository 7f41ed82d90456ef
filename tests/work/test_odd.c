/* SPDX-License-Identifier: MIT */
/* Workers that do what programs do, though not every library expects it: exec, fork, close everything, change user. */
#include "targets.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { READY = OWN_EVENTS };
enum { N_PID };

static td_worker *ended(const mode *how, td_target *target, td_value args)
{
    td_worker *w = JOINED(NEW(.target = target, .args = args));
    return w;
}

static const td_value none;

static char block[200000];

/* --- exec ------------------------------------------------------------------------------------------------------- */

static int becomes_shell(td_call *call)
{
    char script[256];
    snprintf(script, sizeof script, "%s", td_arg_str(call));
    char *arguments[] = { (char *)"sh", (char *)"-c", script, 0 };
    execv("/bin/sh", arguments);
    return 1;
}

/* Catches: a worker that has become another program, and whose end is not seen. */
TEST_METHODS(exec_in_the_target)
{
    td_worker *w = ended(how, becomes_shell, TD_STR("exit 7"));
    CHECK_INT(td_outcome(w), TD_CRASHED);
    CHECK_INT(td_exitcode(w), 7);
    td_free(w);
    w = ended(how, becomes_shell, TD_STR("kill -TERM $$"));
    CHECK_INT(td_outcome(w), TD_CRASHED);
    CHECK_INT(td_exitcode(w), -SIGTERM);
    td_free(w);
    w = WORKER(NEW(.target = becomes_shell, .args = TD_STR("exec sleep 1000")));
    REQUIRE_OK(td_start(w));
    CHECK_ERROR(td_join_for(w, td_ms(50)), TD_ETIMEOUT);
    CHECK_OK(td_kill(w));
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_CANCELLED);
    td_free(w);
}

/* Catches: descriptors that a worker's new program inherits from the library. */
TEST_METHODS(exec_inherits_nothing)
{
    td_worker *w = ended(how, becomes_shell, TD_STR("set -- /proc/self/fd/*; exit $#"));
    CHECK_IN(td_exitcode(w), 3, 4); /* and the shell's own, of the directory */
    td_free(w);
}

static int sleeps_as_another_program(td_call *call)
{
    (void)call;
    page->number[N_PID] = getpid();
    event_set(STARTED);
    char *arguments[] = { (char *)"sleep", (char *)"1000", 0 };
    execv("/bin/sleep", arguments);
    return 1;
}

HELPER(has_sleeping_worker)
{
    REQUIRE(argc == 2);
    td_worker *w =
        WORKER(td_process(.target = sleeps_as_another_program, .method = argv[1][0] == 'c' ? TD_FORK : TD_FORKSERVER));
    REQUIRE_OK(td_start(w));
    event_wait(GO);
    return 0;
}

/* Catches: a worker's program that outlives ours. */
TEST(executed_program_ends_with_ours)
{
    for (int copy = 0; copy < 2; copy++) {
        char comm[64] = "", path[64];
        page->event[STARTED] = 0;
        pid_t pid = helper_start(0, "has_sleeping_worker", copy ? "copy" : "fresh", NULL);
        helper_event(pid, STARTED, 1);
        snprintf(path, sizeof path, "/proc/%d/comm", (int)page->number[N_PID]);
        WAIT_UNTIL(strcmp(first_line(path, comm, sizeof comm), "sleep") == 0, 5);
        kill(pid, SIGKILL);
        helper_wait(pid);
        WAIT_UNTIL(others() == 0, 1);
    }
}

/* --- processes and threads of the target's own ----------------------------------------------------------------------
 */

static int leaves_a_child(td_call *call)
{
    (void)call;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        event_set(STARTED);
        event_wait(GO);
        _exit(0);
    }
    event_wait(STARTED);
    page->number[N_PID] = pid;
    return 0;
}

/* Catches: a join, or a sentinel, that waits for a process which the target forked by itself and left behind. */
TEST_METHODS(child_of_the_target_does_not_hold_up_join)
{
    td_worker *w = WORKER(NEW(.target = leaves_a_child));
    REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_join_for(w, td_s(20)));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    WAIT_UNTIL(!process_alive(td_pid(w)), 5);
    CHECK(process_alive((pid_t)page->number[N_PID])); /* it is the program's own: it is left alone */
    event_set(GO);
    td_free(w);
    CHECK_INT(td_run(NEW(.target = nothing)), 0);
    WAIT_UNTIL(!process_alive((pid_t)page->number[N_PID]), 5);
}

static void *for_ever(void *unused)
{
    event_set(STARTED);
    for (;;)
        pause();
    return unused;
}

static int leaves_a_thread(td_call *call)
{
    pthread_t thread;
    if (pthread_create(&thread, 0, for_ever, 0) != 0)
        return 1;
    event_wait(STARTED);
    return td_return(call, int, 5);
}

/* Catches: a worker process that does not end because of a thread of its own. */
TEST_METHODS(thread_of_the_target_does_not_hold_up_its_end)
{
    for (int i = 0; i < 3; i++) {
        int result = 0;
        page->event[STARTED] = 0;
        td_worker *w = ended(how, leaves_a_thread, none);
        CHECK_OK(td_result(w, int, &result));
        CHECK_INT(result, 5);
        WAIT_UNTIL(!process_alive(td_pid(w)), 5);
        td_free(w);
    }
}

/* --- descriptors ----------------------------------------------------------------------------------------------------
 */

static int closes_everything(td_call *call)
{
    for (int fd = 0; fd < 2000; fd++)
        close(fd);
    return td_return_bytes(call, block, td_arg(call, bool) ? sizeof block : 10);
}

/* Catches: a result that needs a descriptor which the target has closed, as daemons do. */
TEST_METHODS(target_closes_all_descriptors)
{
    for (int big = 0; big < 2; big++) {
        td_worker *w = ended(how, closes_everything, TD_ARG(bool, big));
        size_t size = 0;
        if (td_outcome(w) == TD_RETURNED) {
            CHECK(td_result_bytes(w, &size) != 0);
            CHECK_INT(size, big ? sizeof block : 10);
        } else {
            CHECK(big); /* a large result may need one: then a failure that says so */
            CHECK_INT(td_outcome(w), TD_FAILED);
            CHECK(td_message(w)[0]);
        }
        td_free(w);
    }
    CHECK_INT(td_run(NEW(.target = nothing)), 0);
}

static int closes_and_starts(td_call *call)
{
    (void)call;
    for (int fd = 3; fd < 2000; fd++)
        close(fd);
    for (int i = 0; i < 2; i++) {
        td_worker *w = WORKER(td_process(.target = nothing, .method = i ? TD_FORK : TD_FORKSERVER));
        int code = td_start(w);
        if (code == 0)
            CHECK_OK(td_join_for(w, td_s(20)));
        else
            CHECK(code < 0 && td_last_message()[0]);
        td_outcome(w);
        td_free(w);
    }
    return 0;
}

/* Catches: a worker without descriptors that waits for ever for an answer of the spawner. */
TEST_METHODS(target_closes_all_descriptors_and_starts_workers)
{
    if (WITH_TSAN && how->method == TD_FORK)
        SKIP("the sanitizer knows no threads in copies of the caller");
    td_worker *w = ended(how, closes_and_starts, none);
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
    CHECK_INT(td_run(NEW(.target = nothing)), 0);
}

static int uses_all_descriptors(td_call *call)
{
    while (open("/dev/null", O_RDONLY) >= 0)
        ;
    return td_return_bytes(call, block, td_arg(call, bool) ? sizeof block : 10);
}

/* Catches: a worker that cannot tell its result because it has no descriptor left. */
TEST_METHODS(target_uses_up_all_descriptors)
{
    for (int big = 0; big < 2; big++) {
        td_worker *w = ended(how, uses_all_descriptors, TD_ARG(bool, big));
        CHECK_INT(td_outcome(w), TD_RETURNED);
        td_free(w);
    }
}

/* --- user, root, signals, limits
 * ---------------------------------------------------------------------------------------- */

static int drops_its_user(td_call *call)
{
    uid_t uid = td_arg(call, uid_t);
    if (setgid(uid) < 0 || setuid(uid) < 0)
        return 1;
    event_add(STARTED);
    event_wait(GO);
    return td_return_bytes(call, block, sizeof block);
}

/* Catches: a worker that has become another user, and cannot give its result or be stopped. */
TEST_METHODS(target_drops_its_user)
{
    uid_t uid = lonely_uid();
    td_worker *w = WORKER(NEW(.target = drops_its_user, .args = TD_VAL(uid)));
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    CHECK_OK(td_terminate(w));
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_CANCELLED);
    td_free(w);
    event_set(GO);
    w = ended(how, drops_its_user, TD_VAL(uid));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    size_t size = 0;
    CHECK(td_result_bytes(w, &size) != 0);
    CHECK_INT(size, sizeof block);
    td_free(w);
    CHECK_INT(td_run(NEW(.target = nothing)), 0);
}

static int changes_root(td_call *call)
{
    char path[128];
    if (mkdir(dir_path("jail", path, sizeof path), 0755) < 0 && errno != EEXIST)
        return 2;
    if (chroot(path) < 0 || chdir("/") < 0)
        return 3;
    return td_return_bytes(call, block, sizeof block);
}

TEST_METHODS(target_changes_its_root)
{
    if (geteuid() != 0)
        SKIP("needs root, for chroot");
    td_worker *w = ended(how, changes_root, none);
    CHECK_INT(td_result_code(w), 0);
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
    CHECK_INT(td_run(NEW(.target = nothing)), 0);
}

static int blocks_all_signals(td_call *call)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, 0);
    event_add(STARTED);
    while (!td_cancelled(call))
        pause_ms(1);
    return td_fail(call, TD_ECANCELLED, "asked");
}

/* Catches: a cancellation that works by its signal only. */
TEST_METHODS(target_blocks_all_signals)
{
    td_worker *w = WORKER(NEW(.target = blocks_all_signals));
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    CHECK_OK(td_terminate(w));
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_CANCELLED);
    td_free(w);
}

static int becomes_a_group_leader(td_call *call)
{
    (void)call;
    setsid();
    kill(0, SIGKILL); /* the whole group: only this process, now */
    return 1;
}

/* Catches: processes of the library in the group of a worker that has made one of its own. */
TEST_METHODS(target_kills_its_group)
{
    td_worker *w = ended(how, becomes_a_group_leader, none);
    CHECK_INT(td_exitcode(w), -SIGKILL);
    td_free(w);
    CHECK_INT(td_run(NEW(.target = nothing)), 0);
}

static int limits_file_size(td_call *call)
{
    struct rlimit l = { 0, 0 };
    setrlimit(RLIMIT_FSIZE, &l);
    return td_return_bytes(call, block, sizeof block);
}

/* Catches: a result that dies of SIGXFSZ. */
TEST_METHODS(target_limits_its_file_size)
{
    td_worker *w = ended(how, limits_file_size, none);
    CHECK(td_outcome(w) == TD_RETURNED || td_outcome(w) == TD_FAILED);
    if (td_outcome(w) == TD_FAILED)
        CHECK(td_message(w)[0]);
    td_free(w);
}

/* --- output
 * ----------------------------------------------------------------------------------------------------------- */

static int prints_much(td_call *call)
{
    (void)call;
    event_set(STARTED);
    for (int i = 0; i < 100000; i++)
        printf("%062d\n", i);
    return 0;
}

/* Catches: a worker that hangs in its output, and that cannot be stopped. */
TEST_METHODS(target_hangs_in_its_output)
{
    int ends[2], kept = fcntl(1, F_DUPFD_CLOEXEC, 10);
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    dup2(ends[1], 1);
    close(ends[1]);
    td_worker *w = WORKER(NEW(.target = prints_much));
    REQUIRE_OK(td_start(w));
    dup2(kept, 1);
    close(kept);
    event_wait(STARTED);
    CHECK_ERROR(td_join_for(w, td_ms(50)), TD_ETIMEOUT);
    CHECK_OK(td_kill(w));
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_CANCELLED);
    td_free(w);
    close(ends[0]);
}

/* Catches: text of the user's that is taken for a format. */
TEST_MODES(percent_signs)
{
    td_worker *w = WORKER(NEW(.target = nothing, .name = "100%s%n%d"));
    CHECK_ERROR(td_join(w), TD_ESTATE);
    CHECK_HAS(td_last_message(), "100%s%n%d");
    CHECK_HAS(td_describe(w), "100%s%n%d");
    REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_join(w));
    CHECK_STR(td_name(w), "100%s%n%d");
    CHECK_HAS(td_describe(w), "100%s%n%d");
    td_free(w);
}
