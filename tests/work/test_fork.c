/* SPDX-License-Identifier: MIT */
/*
 * The program's own processes: its fork(), wait() and SIGCHLD, its terminal's signals, its role as process 1. The
 * library must neither disturb them nor be disturbed.
 */
#include "targets.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { READY = OWN_EVENTS, SIGNALLED, SENT, NESTED };

extern char **environ;

static int dies(td_call *call)
{
    (void)call;
    raise(SIGKILL);
    return 0;
}

static const mode *const modes[] = { &mode_thread, &mode_forkserver, &mode_fork };

static pid_t first; /* the process of the case */

__attribute__((constructor)) static void remember(void)
{
    first = getpid();
}

static void run_all_modes(void)
{
    if (WITH_TSAN && getpid() != first)
        return; /* the sanitizer knows no threads in copies of a program that has threads */
    for (int i = 0; i < 3; i++) {
        const mode *how = modes[i];
        CHECK_INT(td_run(NEW(.target = returns_arg, .args = TD_ARG(int, 0))), 0);
        CHECK_INT(td_run(NEW(.target = returns_arg, .args = TD_ARG(int, 300))), 300);
    }
}

/* --- wait and SIGCHLD ---------------------------------------------------------------------------------------- */

static atomic_int children_told;

static void on_child(int number)
{
    (void)number;
    atomic_fetch_add(&children_told, 1);
}

/* Nothing that wait() could find, now. */
static void check_no_child(void)
{
    siginfo_t info = { 0 };
    CHECK_INT(waitid(P_ALL, 0, &info, WEXITED | WSTOPPED | WCONTINUED | WNOHANG | WNOWAIT), -1);
    CHECK_INT(errno, ECHILD);
}

static void own_child(int status)
{
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0)
        _exit(status);
    int got;
    CHECK_INT(wait(&got), pid);
    CHECK(WIFEXITED(got) && WEXITSTATUS(got) == status);
}

static void undisturbed(const mode *how)
{
    td_worker *w = WORKER(NEW(.target = until_go));
    REQUIRE_OK(td_start(w));
    event_wait_count(STARTED, 1);
    errno = 0;
    CHECK_INT(wait(0), -1); /* while a worker runs */
    CHECK_INT(errno, ECHILD);
    check_no_child();
    own_child(7);
    check_no_child();
    event_set(GO);
    REQUIRE_OK(td_join(w));
    check_no_child();
    td_free(w);
    for (int i = 0; i < 5; i++) {
        w = WORKER(NEW(.target = i % 2 ? dies : nothing));
        REQUIRE_OK(td_start(w));
        own_child(8);
        REQUIRE_OK(td_join(w));
        CHECK_INT(td_exitcode(w), i % 2 && how->kind == TD_PROCESS ? -SIGKILL : 0);
        td_free(w);
        check_no_child();
    }
}

/* Catches: a wait() of the program that finds our processes, or waits for ever for them. */
TEST_METHODS(wait_does_not_see_workers)
{
    undisturbed(how);
    CHECK_OK(td_finish());
    check_no_child();
}

/* Catches: a SIGCHLD handler called for processes that the program does not know. */
TEST_METHODS(sigchld_is_not_sent)
{
    struct sigaction action = { .sa_handler = on_child };
    sigaction(SIGCHLD, &action, 0);
    for (int i = 0; i < 20; i++) {
        td_worker *w = WORKER(NEW(.target = i % 2 ? nothing : dies));
        REQUIRE_OK(td_start(w));
        if (i == 4) {
            kill(td_pid(w), SIGSTOP);
            kill(td_pid(w), SIGCONT);
        }
        REQUIRE_OK(td_join(w));
        td_outcome(w);
        td_free(w);
    }
    WAIT_UNTIL(others_zombies() == 0, 5);
    CHECK_OK(td_finish());
    CHECK_INT(atomic_load(&children_told), 0);
    own_child(3);
    CHECK_INT(atomic_load(&children_told), 1);
}

/* Catches: exit codes that are lost when the program lets the kernel reap its children. */
TEST_METHODS(sigchld_ignored)
{
    signal(SIGCHLD, SIG_IGN);
    for (int i = 0; i < 4; i++) {
        td_worker *w = JOINED(NEW(.target = i % 2 ? returns_arg : dies, .args = TD_ARG(int, 9)));
        CHECK_INT(td_exitcode(w), i % 2 ? 9 : -SIGKILL);
        td_free(w);
    }
    struct sigaction no_wait = { .sa_handler = on_child, .sa_flags = SA_NOCLDWAIT };
    sigaction(SIGCHLD, &no_wait, 0);
    td_worker *w = JOINED(NEW(.target = dies));
    CHECK_INT(td_exitcode(w), -SIGKILL);
    td_free(w);
    CHECK_OK(td_finish());
}

/* Catches: system() and posix_spawn() disturbed by workers that end in between. */
TEST_METHODS(system_and_spawn)
{
    for (int i = 0; i < 10; i++) {
        td_worker *w = WORKER(NEW(.target = nothing));
        REQUIRE_OK(td_start(w));
        int status = system("exit 5");
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5);
        REQUIRE_OK(td_join(w));
        td_free(w);
    }
}

static int waits_itself(td_call *call)
{
    (void)call;
    for (int i = 0; i < 3; i++)
        own_child(4);
    check_no_child();
    CHECK_INT(system("exit 3") >> 8, 3);
    return 0;
}

/* Catches: a worker in which the program's own processes cannot be waited for. */
TEST_MODES(children_of_a_worker)
{
    td_worker *w = JOINED(NEW(.target = waits_itself));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
}

/* --- process 1, and child subreaper ---------------------------------------------------------------------------- */

static int starts_one_and_dies(td_call *call)
{
    td_method method = (td_method)td_arg(call, int);
    td_worker *w = WORKER(td_process(.target = until_go, .method = method));
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    page->number[0] = td_pid(w);
    event_set(NESTED);
    event_wait(READY);
    raise(SIGKILL);
    return 0;
}

/* Argument: "subreaper" or "1". */
HELPER(adopts_orphans)
{
    REQUIRE(argc == 2);
    if (argv[1][0] == 's')
        REQUIRE(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    else
        REQUIRE_INT(getpid(), 1);
    for (int i = 1; i < 3; i++) {
        page->event[STARTED] = page->event[GO] = 0;
        undisturbed(modes[i]);
    }
    /* a worker's own worker is orphaned */
    for (int i = 0; i < 4; i++) {
        page->event[STARTED] = page->event[GO] = page->event[NESTED] = page->event[READY] = 0;
        td_worker *w = WORKER(td_process(.target = starts_one_and_dies, .method = i & 1 ? TD_FORK : TD_FORKSERVER,
                                         .args = TD_ARG(int, i & 2 ? TD_FORK : TD_FORKSERVER)));
        REQUIRE_OK(td_start(w));
        event_wait(NESTED);
        pid_t pid = (pid_t)page->number[0];
        event_set(READY);
        REQUIRE_OK(td_join(w));
        CHECK_INT(td_exitcode(w), -SIGKILL);
        td_free(w);
        if (argv[1][0] == 's') /* pids of the page are of another namespace otherwise */
            WAIT_UNTIL(!process_alive(pid), 1);
        CHECK_INT(wait(0), -1);
        CHECK_INT(errno, ECHILD);
    }
    /* the spawner dies, with a worker */
    page->event[STARTED] = page->event[GO] = 0;
    pid_t spawner = 0;
    td_worker *t = WORKER(td_process(.target = tells_parent)), *w = WORKER(td_process(.target = until_go));
    REQUIRE_OK(td_start(t));
    REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_join(t));
    CHECK_OK(td_result(t, pid_t, &spawner));
    kill(spawner, SIGKILL);
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_CRASHED);
    td_free(t);
    td_free(w);
    WAIT_UNTIL(others_zombies() == 0, 2);
    check_no_child();
    CHECK_INT(td_run(td_process(.target = nothing)), 0);
    CHECK_OK(td_finish());
    check_no_child();
    CHECK_NOTHING_LEFT();
    return 0;
}

/* Catches: orphans of the library that become the program's children, as which wait() finds them, or zombies. */
TEST(program_is_a_subreaper)
{
    CHECK_INT(helper_run(0, "adopts_orphans", "subreaper", NULL), 0);
}

static void become_process_1(void *unused)
{
    (void)unused;
    if (unshare(CLONE_NEWPID | CLONE_NEWNS) < 0)
        _exit(EXIT_SKIPPED);
    pid_t pid = fork();
    if (pid) {
        int status = 0;
        waitpid(pid, &status, 0);
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 124);
    }
    if (mount("none", "/", 0, MS_REC | MS_PRIVATE, 0) < 0 || mount("proc", "/proc", "proc", 0, 0) < 0)
        _exit(EXIT_SKIPPED);
}

TEST(program_is_process_1)
{
    helper_options o = { .before = become_process_1 };
    int status = helper_run(&o, "adopts_orphans", "1", NULL);
    if (status == EXIT_SKIPPED)
        SKIP("not permitted to make a namespace of processes");
    CHECK_INT(status, 0);
}

/* --- the terminal ---------------------------------------------------------------------------------------------- */

static void on_interrupt(int number)
{
    (void)number;
    event_add(SIGNALLED);
}

/* Argument: the number of a signal that its group will get, and that it handles. */
HELPER(handles_interrupt)
{
    REQUIRE(argc == 2);
    int number = atoi(argv[1]);
    signal(number, on_interrupt);
    td_worker *w[4];
    pid_t spawner = 0, again = 0;
    td_worker *t = WORKER(td_process(.target = tells_parent));
    REQUIRE_OK(td_start(t));
    REQUIRE_OK(td_join(t));
    CHECK_OK(td_result(t, pid_t, &spawner));
    td_free(t);
    for (int i = 0; i < 4; i++) {
        w[i] = WORKER(td_process(.target = until_go, .method = i % 2 ? TD_FORK : TD_FORKSERVER));
        REQUIRE_OK(td_start(w[i]));
    }
    event_wait_count(STARTED, 4);
    for (int round = 0; round < 10; round++) {
        event_add(READY);
        event_wait_count(SENT, (uint32_t)round + 1); /* to the whole group */
        event_wait_count(SIGNALLED, (uint32_t)round + 1);
        if (round == 0) {
            for (int i = 0; i < 4; i++) {
                REQUIRE_OK(td_join(w[i]));
                CHECK_INT(td_outcome(w[i]), TD_CRASHED);
                CHECK_INT(td_exitcode(w[i]), -number);
                td_free(w[i]);
            }
        }
        for (int i = 0; i < 4; i++)
            CHECK_INT(td_run(td_process(.target = nothing, .method = i % 2 ? TD_FORK : TD_FORKSERVER)), 0);
    }
    t = WORKER(td_process(.target = tells_parent));
    REQUIRE_OK(td_start(t));
    REQUIRE_OK(td_join(t));
    CHECK_OK(td_result(t, pid_t, &again));
    CHECK_INT(again, spawner);
    td_free(t);
    return 0;
}

/* Catches: Ctrl-C that ends the spawner, or spares which the next start would take. */
TEST(terminal_signals_to_the_process_group)
{
    const int numbers[] = { SIGINT, SIGQUIT, SIGHUP };
    for (int i = 0; i < 3; i++) {
        char number[16];
        page->event[STARTED] = page->event[READY] = page->event[SIGNALLED] = page->event[SENT] = 0;
        snprintf(number, sizeof number, "%d", numbers[i]);
        helper_options o = { .own_group = true };
        pid_t pid = helper_start(&o, "handles_interrupt", number, NULL);
        for (int round = 0; round < 10; round++) {
            helper_event(pid, READY, (uint32_t)round + 1);
            kill(-pid, numbers[i]);
            event_add(SENT);
        }
        CHECK_INT(helper_wait(pid), 0);
    }
}

HELPER(does_not_handle_interrupt)
{
    for (int i = 0; i < 2; i++) {
        td_worker *w = WORKER(td_process(.target = until_go, .method = i % 2 ? TD_FORK : TD_FORKSERVER));
        REQUIRE_OK(td_start(w));
    }
    event_wait_count(STARTED, 2);
    event_set(READY);
    event_wait(GO);
    return 0;
}

/* Catches: Ctrl-C that leaves something behind. */
TEST(interrupt_ends_a_program_that_does_not_handle_it)
{
    helper_options o = { .own_group = true };
    pid_t pid = helper_start(&o, "does_not_handle_interrupt", NULL);
    helper_event(pid, READY, 1);
    kill(-pid, SIGINT);
    CHECK_INT(helper_wait(pid), -SIGINT);
    WAIT_UNTIL(others() == 0, 1);
}

/* --- fork by the program ------------------------------------------------------------------------------------- */

static int ended_with(pid_t pid)
{
    int status = 0;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* Catches: a forked child that uses the parent's handles, waits for its workers, or ends them. */
TEST_MODES(fork_by_the_program)
{
    td_worker *w = WORKER(NEW(.target = until_go)), *idle = WORKER(NEW(.target = nothing));
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    CHECK_NULL(td_thread(.target = 0), TD_EINVAL);
    fflush(stdout);
    for (int way = 0; way < 3; way++) {
        pid_t pid = fork();
        REQUIRE(pid >= 0);
        if (pid == 0) {
            int number;
            CHECK_INT(td_last_error(), TD_EINVAL);
            CHECK_ERROR(td_join(w), TD_EFORKED);
            CHECK_ERROR(td_join_for(w, td_ms(0)), TD_EFORKED);
            CHECK_ERROR(td_join_all(&w, 1), TD_EFORKED);
            CHECK_ERROR(td_terminate(w), TD_EFORKED);
            CHECK_ERROR(td_interrupt(w), TD_EFORKED);
            CHECK_ERROR(td_kill(w), TD_EFORKED);
            CHECK_ERROR(td_close(w), TD_EFORKED);
            CHECK_ERROR(td_result(w, int, &number), TD_EFORKED);
            CHECK_ERROR(td_sentinel(w), TD_EFORKED);
            CHECK_ERROR(td_start(idle), TD_EFORKED);
            CHECK_INT(td_active_count(), 1);
            CHECK_INT(td_active_children(0, 0), 0);
            CHECK(td_current() == td_main());
            CHECK_INT(td_pid(td_main()), getpid());
            CHECK_INT(td_native_id(td_main()), getpid());
            td_free(w);
            td_free(idle);
            if (way == 2)
                run_all_modes();
            if (way == 0)
                _exit(0);
            exit(0); /* which joins the child's workers, not the parent's */
        }
        CHECK_INT(ended_with(pid), 0);
        CHECK(td_is_alive(w));
        CHECK_INT(td_run(NEW(.target = nothing)), 0);
    }
    event_set(GO);
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    CHECK_OK(td_start(idle));
    CHECK_OK(td_join(idle));
    td_free(w);
    td_free(idle);
}

/* Catches: a child's td_finish, or death, that ends the parent's spawner. */
TEST(fork_and_the_parents_spawner)
{
    run_all_modes();
    pid_t spawner[2] = { 0 };
    for (int i = 0; i < 2; i++) {
        td_worker *t = WORKER(td_process(.target = tells_parent));
        REQUIRE_OK(td_start(t));
        REQUIRE_OK(td_join(t));
        CHECK_OK(td_result(t, pid_t, &spawner[i]));
        td_free(t);
        if (i)
            break;
        for (int way = 0; way < 3; way++) {
            fflush(stdout);
            pid_t pid = fork();
            REQUIRE(pid >= 0);
            if (pid == 0) {
                run_all_modes();
                if (way == 0)
                    CHECK_OK(td_finish());
                else if (way == 1)
                    raise(SIGKILL);
                exit(0);
            }
            CHECK_INT(ended_with(pid), way == 1 ? -SIGKILL : 0);
        }
    }
    CHECK_INT(spawner[0], spawner[1]);
    run_all_modes();
}

/* Catches: more than one generation of forks. */
TEST(fork_of_a_fork)
{
    td_worker *w = WORKER(td_process(.target = until_go));
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        run_all_modes();
        pid_t inner = fork();
        if (inner == 0) {
            CHECK_ERROR(td_join(w), TD_EFORKED);
            run_all_modes();
            exit(0);
        }
        CHECK_INT(ended_with(inner), 0);
        run_all_modes();
        exit(0);
    }
    CHECK_INT(ended_with(pid), 0);
    event_set(GO);
    REQUIRE_OK(td_join(w));
    td_free(w);
}

static int forks_itself(td_call *call)
{
    (void)call;
    fflush(stdout);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        run_all_modes();
        _exit(6);
    }
    CHECK_INT(ended_with(pid), 6);
    return 0;
}

/* Catches: a fork inside a worker, whose child must not end the worker's life in the books. */
TEST_MODES(fork_inside_a_worker)
{
    td_worker *w = JOINED(NEW(.target = forks_itself));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
}

static int forks_and_both_return(td_call *call)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0)
        return td_return(call, int, 111); /* the child runs out of the target as well */
    ended_with(pid);
    event_wait(GO);
    return td_return(call, int, 222);
}

/* Catches: the outcome published by a copy of the worker. */
TEST_METHODS(fork_inside_a_worker_that_returns)
{
    td_worker *w = WORKER(NEW(.target = forks_and_both_return));
    REQUIRE_OK(td_start(w));
    CHECK_ERROR(td_join_for(w, td_ms(100)), TD_ETIMEOUT);
    event_set(GO);
    REQUIRE_OK(td_join(w));
    int number = 0;
    CHECK_OK(td_result(w, int, &number));
    CHECK_INT(number, 222);
    td_free(w);
}

static atomic_bool stop;

static void *busy(void *kind)
{
    while (!atomic_load(&stop))
        CHECK_INT(td_run(*(int *)kind ? td_process(.target = nothing) : td_thread(.target = nothing)), 0);
    return 0;
}

static void fork_while_busy(int forks)
{
    if (SANITIZED)
        SKIP("the sanitizer is not made ready for a fork among threads");
    pthread_t thread[3];
    static int kinds[] = { 0, 1, 0 };
    for (int i = 0; i < 3; i++)
        REQUIRE(pthread_create(&thread[i], 0, busy, &kinds[i]) == 0);
    for (int i = 0; i < forks; i++) {
        pid_t pid = fork();
        REQUIRE(pid >= 0);
        if (pid == 0) {
            CHECK_INT(td_run(td_thread(.target = nothing)), 0);
            if (i % 4 == 0)
                CHECK_INT(td_run(td_process(.target = nothing)), 0);
            if (i % 2)
                CHECK_OK(td_finish());
            _exit(0);
        }
        CHECK_INT(ended_with(pid), 0);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < 3; i++)
        pthread_join(thread[i], 0);
}

/* Catches: a lock of the library that another thread holds at the fork and that stays held in the child for ever. */
TEST(fork_while_other_threads_use_the_library)
{
    fork_while_busy(60);
}

TEST_LIMIT(full_fork_while_other_threads_use_the_library, 600)
{
    fork_while_busy(3000);
}
