/* SPDX-License-Identifier: MIT */
/*
 * Deaths: of the program, of its spawner, of both, of whatever else the library keeps. Nothing of a program may live a
 * second longer than it does; and what dies alone is reported and survived.
 */
#include "targets.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

extern char **environ;

enum { READY = OWN_EVENTS, KILLED, ROUND };
enum { N_SPAWNER, N_WORKER }; /* numbers on the page */

#define GONE 1.0 /* seconds */

static int lives_hard(td_call *call)
{
    (void)call;
    for (int s = 1; s < 32; s++)
        signal(s, SIG_IGN);
    setsid();
    event_add(STARTED);
    event_wait(GO);
    return 0;
}

static int becomes_another_user(td_call *call)
{
    uid_t uid = td_arg(call, uid_t);
    if (setgid(uid) < 0 || setuid(uid) < 0)
        return 1;
    event_add(STARTED);
    event_wait(GO);
    return 0;
}

static int has_a_child(td_call *call)
{
    (void)call;
    td_worker *w = WORKER(td_process(.target = until_go));
    REQUIRE_OK(td_start(w));
    event_add(STARTED);
    event_wait(GO);
    return 0;
}

static int has_a_forked_child(td_call *call)
{
    (void)call;
    td_worker *w = WORKER(td_process(.target = until_go, .method = TD_FORK));
    REQUIRE_OK(td_start(w));
    event_add(STARTED);
    event_wait(GO);
    return 0;
}

static void kill_spawner(void)
{
    pid_t pid = find_spawner();
    kill(pid, SIGKILL);
    WAIT_UNTIL(!process_alive(pid), 5);
}

/* --- the program dies -------------------------------------------------------------------------------------- */

/*
 * A program with workers of all sorts, which then ends in the way that its argument names, or waits to be killed.
 * The second argument is a user id for a worker that changes its user, or 0.
 */
HELPER(family)
{
    REQUIRE(argc == 3);
    signal(SIGSEGV, SIG_DFL); /* of which it may be killed; a sanitizer would report it */
    td_target *const targets[] = { until_go, lives_hard, has_a_child, has_a_forked_child };
    uint32_t expected = 0;
    for (int method = TD_FORKSERVER; method <= TD_FORK; method++) {
        for (int i = 0; i < 4; i++) {
            td_worker *w = WORKER(td_process(.target = targets[i], .method = (td_method)method));
            REQUIRE_OK(td_start(w));
            expected += i < 2 ? 1 : 2;
        }
        uid_t uid = (uid_t)atoi(argv[2]);
        if (uid) {
            td_worker *w =
                WORKER(td_process(.target = becomes_another_user, .args = TD_VAL(uid), .method = (td_method)method));
            REQUIRE_OK(td_start(w));
            expected++;
        }
    }
    td_worker *t = WORKER(td_thread(.target = until_go));
    REQUIRE_OK(td_start(t));
    event_wait_count(STARTED, expected + 1);
    page->number[N_SPAWNER] = find_spawner();
    event_set(READY);
    if (strcmp(argv[1], "_exit") == 0)
        _exit(3);
    if (strcmp(argv[1], "abort") == 0) {
        signal(SIGABRT, SIG_DFL);
        abort();
    }
    if (strcmp(argv[1], "exec") == 0) {
        char *arguments[] = { argv[0], (char *)"--helper", (char *)"after_exec", 0 };
        page->helpers_started++;
        execv(self_path(), arguments);
        return 1;
    }
    event_wait(GO);
    return 0;
}

HELPER(after_exec)
{
    event_set(KILLED);
    event_wait(GO);
    return 5;
}

static void reset(void)
{
    for (int i = 0; i < 16; i++)
        page->event[i] = 0;
}

static pid_t family_ready(const char *end)
{
    char uid[32];
    snprintf(uid, sizeof uid, "%u", geteuid() == 0 ? 70000u + (unsigned)getpid() : 0);
    reset();
    pid_t pid = helper_start(0, "family", end, uid, NULL);
    helper_event(pid, READY, 1);
    return pid;
}

static void all_gone(void)
{
    double end = now() + GONE * SLOW;
    while (others() && now() < end)
        pause_ms(1);
    if (others())
        print_family(page->supervisor);
    REQUIRE_INT(others(), 0);
}

/* Catches: orphans: workers, spawner, spares or descendants of workers that outlive the program. */
TEST(program_killed)
{
    const int signals[] = { SIGKILL, SIGTERM, SIGSEGV };
    for (int i = 0; i < 3; i++) {
        pid_t pid = family_ready("wait");
        CHECK(others() >= 14);
        kill(pid, signals[i]);
        CHECK(helper_wait(pid) != 0);
        all_gone();
    }
}

TEST(spawner_and_program_killed)
{
    for (int i = 0; i < 4; i++) {
        pid_t pid = family_ready("wait"), spawner = (pid_t)page->number[N_SPAWNER];
        if (i & 1) {
            kill(spawner, SIGKILL);
            kill(pid, SIGKILL);
        } else {
            kill(pid, SIGSTOP); /* so that it cannot act on the news */
            kill(spawner, SIGKILL);
            kill(pid, SIGKILL);
        }
        helper_wait(pid);
        all_gone();
    }
}

/* Catches: a spawner that has to run in order to end its workers. */
TEST(program_killed_while_the_spawner_is_stopped)
{
    pid_t pid = family_ready("wait");
    kill((pid_t)page->number[N_SPAWNER], SIGSTOP);
    kill(pid, SIGKILL);
    helper_wait(pid);
    all_gone();
}

/* Processes that a spawner has forked and that have not begun to follow the program: a few instructions' time. */
static int newborn(void)
{
    static proc list[256];
    int n = list_others(list, 256), count = 0;
    for (int i = 0; i < n && i < 256; i++)
        for (int k = 0; k < n && k < 256; k++)
            count += list[i].ppid == list[k].pid && strcmp(list[i].comm, "tandem-spawner") == 0 &&
                     strcmp(list[k].comm, "tandem-spawner") == 0;
    return count;
}

TEST(program_killed_while_all_its_processes_are_stopped)
{
    pid_t pid = family_ready("wait");
    WAIT_UNTIL(newborn() == 0, 10);
    static proc list[256];
    int n = list_others(list, 256);
    for (int i = 0; i < n && i < 256; i++)
        kill(list[i].pid, SIGSTOP);
    kill(pid, SIGKILL);
    helper_wait(pid);
    all_gone();
}

/* Catches: ends that run no handlers. */
TEST(program_ends_without_a_farewell)
{
    pid_t pid = family_ready("_exit");
    CHECK_INT(helper_wait(pid), 3);
    all_gone();
    pid = family_ready("abort");
    CHECK_INT(helper_wait(pid), -SIGABRT);
    all_gone();
}

/* Catches: workers that live on under a program that has become another one, with the same pid. */
TEST(program_executes_another)
{
    pid_t pid = family_ready("exec");
    helper_event(pid, KILLED, 1);
    WAIT_UNTIL(others() == 1, GONE);
    if (others() != 1)
        print_family(page->supervisor);
    event_set(GO);
    CHECK_INT(helper_wait(pid), 5);
}

static void *starts_for_ever(void *method)
{
    for (;;) {
        td_worker *w = td_process(.target = nothing, .method = *(td_method *)method);
        if (td_start(w) == 0)
            td_join(w);
        td_free(w);
        event_add(ROUND);
    }
    return 0;
}

HELPER(starts_all_the_time)
{
    /* sanitizers are not made ready for a fork among threads */
    static td_method methods[] = { TD_FORKSERVER, SANITIZED ? TD_FORKSERVER : TD_FORK, TD_FORKSERVER };
    pthread_t thread[3];
    for (int i = 0; i < 3; i++)
        pthread_create(&thread[i], 0, starts_for_ever, &methods[i]);
    pthread_join(thread[0], 0);
    return 0;
}

static void kill_while_starting(int rounds)
{
    unsigned random = 1;
    for (int i = 0; i < rounds; i++) {
        reset();
        pid_t pid = helper_start(0, "starts_all_the_time", NULL);
        random = random * 1103515245 + 12345;
        helper_event(pid, ROUND, random >> 16 & 31);
        kill(pid, SIGKILL);
        helper_wait(pid);
        all_gone();
    }
}

/* Catches: a worker forked in the instant in which its parent dies, which no death signal reaches. */
TEST(program_killed_while_it_starts_workers)
{
    kill_while_starting(SANITIZED ? 5 : 25);
}

TEST_LIMIT(full_program_killed_while_it_starts_workers, 600)
{
    kill_while_starting(SANITIZED ? 100 : 1000);
}

/* --- a process of the library dies alone ---------------------------------------------------------------------- */

/* Catches: a death of the spawner that hangs joiners, or after which no process can be started. */
TEST(spawner_killed)
{
    for (int round = 0; round < 3; round++) {
        page->event[STARTED] = 0;
        pid_t spawner = find_spawner();
        td_worker *w[4];
        for (int i = 0; i < 4; i++) {
            w[i] = WORKER(td_process(.target = i % 2 ? lives_hard : until_go, .name = "victim"));
            REQUIRE_OK(td_start(w[i]));
        }
        event_wait_count(STARTED, 4);
        int sentinel = td_sentinel(w[0]);
        CHECK(sentinel > 2);
        kill(spawner, SIGKILL);
        WAIT_UNTIL(!process_alive(spawner), 5);
        for (int i = 0; i < 4; i++) {
            REQUIRE_OK(td_join(w[i]));
            CHECK_INT(td_outcome(w[i]), TD_CRASHED);
            CHECK(td_exitcode(w[i]) != TD_NO_CODE);
            CHECK(td_exitcode(w[i]) != 0);
            CHECK_HAS(td_describe(w[i]), "victim");
            CHECK(!td_is_alive(w[i]));
            WAIT_UNTIL(!process_alive(td_pid(w[i])), GONE);
        }
        CHECK_INT(td_active_children(0, 0), 0);
        CHECK_INT(td_run(td_process(.target = nothing)), 0);
        pid_t next = find_spawner();
        CHECK(next != spawner);
        for (int i = 0; i < 4; i++)
            td_free(w[i]);
        WAIT_UNTIL(others_zombies() == 0, 5);
    }
    CHECK_OK(td_finish());
    WAIT_UNTIL(others() == 0, 1); /* the spares of a spawner that was killed die by the kernel's hand, in their time */
    CHECK_NOTHING_LEFT();
}

/* Catches: forked workers, which have nothing to do with it, dying with the spawner. */
TEST(spawner_killed_forked_workers_go_on)
{
    pid_t spawner = find_spawner();
    td_worker *w = WORKER(td_process(.target = until_go, .method = TD_FORK));
    td_worker *t = WORKER(td_thread(.target = until_go));
    REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_start(t));
    event_wait_count(STARTED, 2);
    kill(spawner, SIGKILL);
    WAIT_UNTIL(!process_alive(spawner), 5);
    CHECK(td_is_alive(w));
    event_set(GO);
    REQUIRE_OK(td_join(w));
    REQUIRE_OK(td_join(t));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    CHECK_INT(td_outcome(t), TD_RETURNED);
    td_free(w);
    td_free(t);
}

/* Catches: a start that fails, or hangs, because the spawner died since the last one and nobody noticed yet. */
TEST(spawner_killed_while_idle)
{
    for (int i = 0; i < 5; i++) {
        kill_spawner();
        CHECK_INT(td_run(td_process(.target = nothing)), 0);
    }
}

static pid_t spawner_of_start;

/* The spares of the spawner that sleep; returns how many. */
static int sleeping_spares(pid_t *pids, int capacity)
{
    proc list[64];
    int n = list_others(list, 64), count = 0;
    for (int i = 0; i < n && i < 64; i++)
        if (list[i].ppid == spawner_of_start && list[i].state == 'S' && strcmp(list[i].comm, "tandem-spare") == 0 &&
            count < capacity)
            pids[count++] = list[i].pid;
    return count;
}

/* Catches, now and then: a td_finish that returns while the spares of a spawner that was killed are still dying. */
TEST(spawner_killed_just_before_the_finish)
{
    for (int i = 0; i < 20; i++) {
        spawner_of_start = find_spawner();
        pid_t spares[2];
        WAIT_UNTIL(sleeping_spares(spares, 2) == 2, 10);
        kill(spawner_of_start, SIGKILL);
        CHECK_OK(td_finish());
        CHECK_NOTHING_LEFT();
    }
}

static atomic_bool stop;
static atomic_int starts_failed, starts_done;

static void *starts_until_stop(void *unused)
{
    while (!atomic_load(&stop)) {
        td_worker *w = WORKER(td_process(.target = nothing));
        int code = td_start(w);
        if (code == 0) {
            REQUIRE_OK(td_join(w));
            td_outcome(w);
        } else {
            CHECK(td_last_message()[0]);
            atomic_fetch_add(&starts_failed, 1);
        }
        td_free(w);
        atomic_fetch_add(&starts_done, 1);
    }
    return unused;
}

/* Catches: starts that wait for ever for an answer of a spawner that died; a lock held over its death. */
TEST(spawner_killed_while_it_starts_workers)
{
    pthread_t thread[3];
    for (int i = 0; i < 3; i++)
        REQUIRE(pthread_create(&thread[i], 0, starts_until_stop, 0) == 0);
    for (int round = 0; round < (SANITIZED ? 3 : 15); round++) {
        int done = atomic_load(&starts_done);
        WAIT_UNTIL(atomic_load(&starts_done) > done + 5, 20);
        kill_spawner();
    }
    atomic_store(&stop, true);
    for (int i = 0; i < 3; i++)
        pthread_join(thread[i], 0);
    CHECK_INT(td_run(td_process(.target = nothing)), 0);
    CHECK_OK(td_finish());
    CHECK_NOTHING_LEFT();
}

static void kill_workers(pid_t spawner)
{
    proc list[64];
    int n = list_others(list, 64);
    for (int i = 0; i < n && i < 64; i++)
        if (list[i].ppid == spawner)
            kill(list[i].pid, SIGKILL);
}

/*
 * A start that is held up after it has taken a spare and before it sends the request: the first string of its
 * environment cannot be read until `when_held_up` has run.
 */
static char *unreadable;
static void (*when_held_up)(void);

static void held_up(int signal)
{
    (void)signal;
    when_held_up();
    REQUIRE(mprotect(unreadable, 4096, PROT_READ | PROT_WRITE) == 0);
}

static int start_held_up(td_worker *w, void (*what)(void))
{
    static char *held_environment[2];
    char **own = environ;
    when_held_up = what;
    unreadable = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(unreadable != MAP_FAILED);
    held_environment[0] = strcpy(unreadable, "HELD=up");
    struct sigaction held = { .sa_handler = held_up, .sa_flags = SA_NODEFER }, before;
    REQUIRE(sigaction(SIGSEGV, &held, &before) == 0);
    REQUIRE(mprotect(unreadable, 4096, PROT_NONE) == 0);
    environ = held_environment;
    int code = td_start(w);
    environ = own;
    sigaction(SIGSEGV, &before, NULL);
    munmap(unreadable, 4096);
    return code;
}

static pid_t replaced[2];

/* Kills both spares, and waits until there are others, which have looked at their lanes and sleep. */
static void replace_spares(void)
{
    pid_t *old = replaced, next[2];
    WAIT_UNTIL(sleeping_spares(old, 2) == 2, 10);
    kill(old[0], SIGKILL);
    kill(old[1], SIGKILL);
    WAIT_UNTIL(sleeping_spares(next, 2) == 2 && next[0] != old[0] && next[0] != old[1] && next[1] != old[0] &&
                   next[1] != old[1],
               10);
}

/* Catches: a request that reached its lane after its spare had died, and the next one had looked: what was sent with it
 * stays open until somebody starts something. */
TEST(worker_killed_just_before_its_request_is_sent)
{
    if (WITH_TSAN)
        SKIP("the sanitizer wants nothing allocated while a signal is handled");
    spawner_of_start = find_spawner();
    int rounds = 0;
    for (int tries = 0; rounds < 3 && tries < 100; tries++) {
        td_connection *ours, *theirs;
        REQUIRE_OK(td_pipe_duplex(&ours, &theirs));
        td_worker *w = WORKER(td_process(.target = nothing, .connections = TD_CONNECTIONS(theirs)));
        REQUIRE_OK(start_held_up(w, replace_spares));
        td_connection_free(theirs);
        REQUIRE_OK(td_join(w));
        /* Else it was none of them: the spawner had not yet said that they are there, so it was asked to fork one. */
        if (td_pid(w) == replaced[0] || td_pid(w) == replaced[1]) {
            rounds++;
            CHECK_INT(td_outcome(w), TD_CRASHED);
            CHECK_INT(td_exitcode(w), -SIGKILL);
        }
        td_free(w);
        void *data;
        size_t size;
        CHECK_INT(td_recv_for(ours, &data, &size, td_s(10)), TD_ECLOSED);
        td_connection_free(ours);
        CHECK_INT(td_run(td_process(.target = nothing)), 0);
    }
    CHECK_INT(rounds, 3);
    CHECK_INT(find_spawner(), spawner_of_start);
}

static struct rlimit space_limit;

static void refuse_space(void)
{
    struct rlimit none = { 0, space_limit.rlim_max };
    REQUIRE(setrlimit(RLIMIT_AS, &none) == 0);
}

static void replace_and_refuse(void)
{
    replace_spares();
    refuse_space();
}

static int tells_pid(td_call *call)
{
    return td_return(call, pid_t, getpid());
}

/* A start that takes a spare and finds no room for its argument. */
static void start_refused(void (*what)(void))
{
    static char large[100000];
    td_worker *w = WORKER(td_process(.target = nothing, .args = TD_BYTES(large, sizeof large)));
    CHECK(start_held_up(w, what) < 0);
    REQUIRE(setrlimit(RLIMIT_AS, &space_limit) == 0);
    td_free(w);
}

/* Catches: a spare that was taken and got no work, and is lost; one that died meanwhile and is given work. */
TEST(spares_that_get_no_work)
{
    if (SANITIZED)
        SKIP("a sanitizer ends a program without address space");
    REQUIRE(getrlimit(RLIMIT_AS, &space_limit) == 0);
    spawner_of_start = find_spawner();
    for (int round = 0; round < 3; round++) {
        pid_t spares[2], pids[2];
        start_refused(replace_and_refuse);
        WAIT_UNTIL(sleeping_spares(spares, 2) == 2, 10);
        start_refused(refuse_space);
        start_refused(refuse_space);
        for (int i = 0; i < 2; i++) {
            kill(spawner_of_start, SIGSTOP); /* it makes no others */
            td_worker *w = WORKER(td_process(.target = tells_pid));
            REQUIRE_OK(td_start(w)); /* hangs if both are lost */
            pids[i] = td_pid(w);
            CHECK(pids[i] == spares[0] || pids[i] == spares[1]);
            REQUIRE_OK(td_join(w));
            CHECK_INT(td_outcome(w), TD_RETURNED);
            td_free(w);
        }
        CHECK(pids[0] != pids[1]);
        kill(spawner_of_start, SIGCONT);
    }
    CHECK_INT(find_spawner(), spawner_of_start);
}

/* Catches: starts, or joins, that wait for ever for a worker that was killed before it had its work, at whatever step:
 * being made, asleep, called, or with its request unread; and what was sent to such a one kept open for ever. */
TEST(workers_killed_while_they_start)
{
    pid_t spawner = find_spawner();
    int ends[2], kept = fcntl(1, F_DUPFD_CLOEXEC, 10);
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    dup2(ends[1], 1);
    close(ends[1]);
    pthread_t thread[3];
    for (int i = 0; i < 3; i++)
        REQUIRE(pthread_create(&thread[i], 0, starts_until_stop, 0) == 0);
    for (int round = 0; round < (SANITIZED ? 50 : 400); round++) {
        int done = atomic_load(&starts_done);
        WAIT_UNTIL(atomic_load(&starts_done) > done, 20);
        kill_workers(spawner);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < 3; i++)
        pthread_join(thread[i], 0);
    CHECK_INT(atomic_load(&starts_failed), 0);
    dup2(kept, 1);
    close(kept);
    CHECK_INT(find_spawner(), spawner);
    char text[16];
    CHECK_INT(read(ends[0], text, sizeof text), 0); /* nobody has kept the other end */
    close(ends[0]);
    CHECK_OK(td_finish());
    CHECK_NOTHING_LEFT();
}

/* Waits for KILLED; then all that it started ends somehow, and it can go on. */
HELPER(survivor)
{
    td_worker *w[4];
    for (int i = 0; i < 4; i++) {
        w[i] = WORKER(td_process(.target = until_go, .method = i % 2 ? TD_FORK : TD_FORKSERVER));
        REQUIRE_OK(td_start(w[i]));
    }
    event_wait_count(STARTED, 4);
    event_set(READY);
    event_wait(KILLED);
    event_set(GO);
    for (int i = 0; i < 4; i++) {
        if (!CHECK_OK(td_join_for(w[i], td_s(20))))
            _exit(1);
        td_state state = td_outcome(w[i]);
        CHECK(state == TD_RETURNED || state == TD_CRASHED);
        CHECK_INT(td_active_count() >= 1, 1);
        td_free(w[i]);
    }
    for (int i = 0; i < 6; i++)
        CHECK_INT(td_run(td_process(.target = nothing, .method = i % 2 ? TD_FORK : TD_FORKSERVER)), 0);
    CHECK_OK(td_finish());
    CHECK_NOTHING_LEFT();
    return 0;
}

/* Catches: any one process of the library without which the program hangs. Kills each in turn. */
TEST(any_one_process_killed)
{
    static proc list[64];
    int n = 1;
    for (int victim = 0; victim < n; victim++) {
        reset();
        pid_t pid = helper_start(0, "survivor", NULL);
        helper_event(pid, READY, 1);
        n = list_others(list, 64);
        CHECK(n > 5 && n < 64);
        if (victim < n && list[victim].pid == pid) {
            list[victim] = list[--n];
        }
        if (victim >= n) {
            event_set(KILLED);
            helper_wait(pid);
            break;
        }
        char comm[32];
        snprintf(comm, sizeof comm, "%s", list[victim].comm);
        pid_t dead = list[victim].pid;
        char entry[32];
        snprintf(entry, sizeof entry, "/proc/%d", (int)dead);
        kill(dead, SIGKILL);
        WAIT_UNTIL(access(entry, F_OK) < 0, 5); /* reaped: so its spawner has noticed */
        event_set(KILLED);
        if (!CHECK_INT(helper_wait(pid), 0))
            harness_note("    after the death of '%s', number %d of %d", comm, victim, n);
        all_gone();
    }
}

/* Catches: a death that is told only when the spawner has time. */
TEST_METHODS(worker_killed)
{
    td_worker *w = WORKER(NEW(.target = until_go));
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    kill(td_pid(w), SIGKILL);
    double begin = now();
    REQUIRE_OK(td_join(w));
    CHECK_IN(now() - begin, 0, 1.0 * SLOW);
    CHECK_INT(td_exitcode(w), -SIGKILL);
    td_free(w);
}

/* --- threads that end ---------------------------------------------------------------------------------------- */

static void *starts_and_ends(void *worker)
{
    REQUIRE_OK(td_start(worker));
    return 0;
}

/* Catches: PR_SET_PDEATHSIG, which acts when the *thread* that forked ends: workers, or the spawner, die with it. */
TEST_METHODS(thread_that_started_it_ends)
{
    td_worker *w = WORKER(NEW(.target = until_go));
    pthread_t thread;
    REQUIRE(pthread_create(&thread, 0, starts_and_ends, w) == 0);
    pthread_join(thread, 0);
    event_wait(STARTED);
    /* the death signal would be sent when that thread is gone from the system */
    WAIT_UNTIL(count_threads() <= 2 + WITH_TSAN, 1);
    CHECK_ERROR(td_join_for(w, td_ms(30)), TD_ETIMEOUT);
    CHECK(td_is_alive(w));
    CHECK_INT(td_run(NEW(.target = nothing)), 0);
    event_set(GO);
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
}

static void *waits_for_workers(void *workers)
{
    td_worker **w = workers;
    char path[64];
    /* until the main thread is a zombie */
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)getpid());
    for (char line[256]; first_line(path, line, sizeof line)[0] && !strstr(line, ") Z");)
        pause_ms(1);
    event_set(GO);
    for (int i = 0; i < 2; i++) {
        REQUIRE_OK(td_join(w[i]));
        CHECK_INT(td_outcome(w[i]), TD_RETURNED);
        td_free(w[i]);
        CHECK_INT(td_run(td_process(.target = nothing, .method = i ? TD_FORK : TD_FORKSERVER)), 0);
    }
    exit(harness_failed() ? 1 : 7);
}

/* Its main thread ends, which is not the end of the program. */
HELPER(main_thread_ends)
{
    static td_worker *w[2];
    for (int i = 0; i < 2; i++) {
        w[i] = WORKER(td_process(.target = until_go, .method = i ? TD_FORK : TD_FORKSERVER));
        REQUIRE_OK(td_start(w[i]));
    }
    event_wait_count(STARTED, 2);
    pthread_t thread;
    pthread_create(&thread, 0, waits_for_workers, w);
    pthread_detach(thread);
    pthread_exit(0);
}

TEST(main_thread_that_started_it_ends)
{
    CHECK_INT(helper_run(0, "main_thread_ends", NULL), 7);
    all_gone();
}

HELPER(started_by_thread)
{
    td_worker *w[2];
    pthread_t thread;
    for (int i = 0; i < 2; i++) {
        w[i] = WORKER(td_process(.target = until_go, .method = i ? TD_FORK : TD_FORKSERVER));
        REQUIRE(pthread_create(&thread, 0, starts_and_ends, w[i]) == 0);
        pthread_join(thread, 0);
    }
    event_wait_count(STARTED, 2);
    event_set(READY);
    event_wait(GO);
    return 0;
}

/* Catches: the death signal lost with the thread that asked for it. */
TEST(program_killed_after_the_thread_that_started_ended)
{
    pid_t pid = helper_start(0, "started_by_thread", NULL);
    helper_event(pid, READY, 1);
    kill(pid, SIGKILL);
    helper_wait(pid);
    all_gone();
}
