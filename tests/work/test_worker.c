/* SPDX-License-Identifier: MIT */
/* A worker's life, the same for threads and processes: create, start, join, ask, stop, close, free. */
#include "targets.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>

enum { OTHER = OWN_EVENTS };

/* Runs until it is asked to stop. */
static int until_cancelled(td_call *call)
{
    event_add(STARTED);
    while (!td_cancelled(call))
        pause_ms(1);
    return td_fail(call, TD_ECANCELLED, "asked to stop");
}

static td_worker *started(const mode *how, td_target *target)
{
    td_worker *w = WORKER(NEW(.target = target));
    REQUIRE_OK(td_start(w));
    event_wait_count(STARTED, 1);
    return w;
}

/* --- start and join ---------------------------------------------------------------------------------------- */

/* Catches: the simplest program does not work. */
TEST_MODES(start_and_join)
{
    td_worker *w = WORKER(NEW(.target = nothing));
    CHECK_INT(td_outcome(w), TD_CREATED);
    REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    CHECK_INT(td_result_code(w), 0);
    CHECK_INT(td_exitcode(w), 0);
    td_free(w);
}

/* Catches: a second start that runs the target again, or loses the first run. */
TEST_MODES(start_once_only)
{
    td_worker *w = started(how, until_go);
    CHECK_ERROR(td_start(w), TD_ESTATE);
    event_set(GO);
    REQUIRE_OK(td_join(w));
    CHECK_ERROR(td_start(w), TD_ESTATE);
    CHECK_INT(event_count(STARTED), 1);
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
}

static void *start_it(void *worker)
{
    return td_start(worker) == 0 ? worker : 0;
}

/* Catches: a race of two starts of which both succeed. */
TEST_MODES(start_from_many_threads_succeeds_once)
{
    for (int round = 0; round < 20; round++) {
        td_worker *w = WORKER(NEW(.target = nothing));
        pthread_t thread[4];
        int successes = 0;
        for (int i = 0; i < 4; i++)
            REQUIRE(pthread_create(&thread[i], 0, start_it, w) == 0);
        for (int i = 0; i < 4; i++) {
            void *result;
            pthread_join(thread[i], &result);
            successes += result != 0;
        }
        CHECK_INT(successes, 1);
        REQUIRE_OK(td_join(w));
        CHECK_INT(td_outcome(w), TD_RETURNED);
        td_free(w);
    }
}

/* Catches: join of a worker that never runs, which would wait for ever. */
TEST_MODES(join_before_start)
{
    td_worker *w = WORKER(NEW(.target = nothing));
    CHECK_ERROR(td_join(w), TD_ESTATE);
    CHECK_ERROR(td_join_for(w, td_ms(10)), TD_ESTATE);
    CHECK_INT(td_outcome(w), TD_CREATED);
    REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_join(w));
    td_free(w);
}

/* Catches: a join that works once only, or forgets the outcome. */
TEST_MODES(join_again_and_again)
{
    td_worker *w = WORKER(NEW(.target = returns_arg, .args = TD_ARG(int, 4)));
    REQUIRE_OK(td_start(w));
    for (int i = 0; i < 5; i++) {
        CHECK_OK(td_join(w));
        CHECK_OK(td_join_for(w, td_ms(0)));
        CHECK_OK(td_join_for(w, td_s(10)));
        CHECK_INT(td_result_code(w), 4);
    }
    td_free(w);
}

static void *join_it(void *worker)
{
    return td_join(worker) == 0 && td_outcome(worker) == TD_RETURNED ? worker : 0;
}

static void *join_it_for(void *worker)
{
    return td_join_for(worker, td_s(40)) == 0 && td_outcome(worker) == TD_RETURNED ? worker : 0;
}

/* Catches: one wake-up for many joiners; a joiner that reaps what the others wait for. */
TEST_MODES(many_joiners)
{
    td_worker *w = started(how, until_go);
    pthread_t thread[8];
    for (int i = 0; i < 8; i++)
        REQUIRE(pthread_create(&thread[i], 0, i % 2 ? join_it : join_it_for, w) == 0);
    event_set(GO);
    for (int i = 0; i < 8; i++) {
        void *result;
        pthread_join(thread[i], &result);
        CHECK(result == w);
    }
    td_free(w);
}

/* Catches: a limit that is not kept, kept far too late, or taken for none. */
TEST_MODES(join_with_a_limit)
{
    td_worker *w = started(how, until_go);
    double begin = now();
    CHECK_ERROR(td_join_for(w, td_ms(100)), TD_ETIMEOUT);
    CHECK_TIME(now() - begin, 0.1);
    CHECK_INT(td_outcome(w), TD_RUNNING);
    CHECK(td_is_alive(w));
    event_set(GO);
    CHECK_OK(td_join_for(w, td_s(40)));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
}

/* Catches: a limit of nothing, or less, that waits for ever. */
TEST_MODES(join_with_no_time_at_all)
{
    td_worker *w = started(how, until_go);
    double begin = now();
    CHECK_ERROR(td_join_for(w, td_ms(0)), TD_ETIMEOUT);
    CHECK_ERROR(td_join_for(w, td_ms(-7)), TD_ETIMEOUT);
    CHECK_ERROR(td_join_for(w, td_s(-1e300)), TD_ETIMEOUT);
    CHECK_ERROR(td_join_for(w, td_ns(INT64_MIN)), TD_ETIMEOUT);
    CHECK_ERROR(td_join_for(w, (td_time){ -1 }), TD_ETIMEOUT);
    CHECK_IN(now() - begin, 0, 5);
    event_set(GO);
    REQUIRE_OK(td_join(w));
    td_free(w);
}

static int go_after_a_while(td_call *call)
{
    (void)call;
    pause_ms(50);
    event_set(GO);
    return 0;
}

/* Catches: a huge limit that overflows into the past, and a zero one taken for a passed one. */
TEST_MODES(join_with_a_huge_limit)
{
    const td_time limits[] = {
        td_s(1e300), td_ms(INT64_MAX), td_us(INT64_MAX), td_ns(INT64_MAX), td_s(1e9), TD_NO_LIMIT
    };
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        td_worker *w = WORKER(NEW(.target = until_go));
        td_worker *helper = WORKER(td_thread(.target = go_after_a_while));
        REQUIRE_OK(td_start(w));
        REQUIRE_OK(td_start(helper));
        CHECK_OK(td_join_for(w, limits[i]));
        CHECK_INT(td_outcome(w), TD_RETURNED);
        REQUIRE_OK(td_join(helper));
        td_free(w);
        td_free(helper);
        page->event[GO] = 0;
    }
}

static int joins_itself(td_call *call)
{
    (void)call;
    if (td_join(td_current()) != TD_EDEADLOCK)
        return 1;
    if (td_join_for(td_current(), td_s(30)) != TD_EDEADLOCK)
        return 2;
    return td_last_message()[0] ? 0 : 3;
}

/* Catches: waiting for oneself. */
TEST_MODES(join_itself)
{
    td_worker *w = JOINED(NEW(.target = joins_itself));
    CHECK_INT(td_result_code(w), 0);
    td_free(w);
    CHECK_ERROR(td_join(td_main()), TD_EDEADLOCK);
    CHECK_ERROR(td_join(td_current()), TD_EDEADLOCK);
}

/* --- several at once --------------------------------------------------------------------------------------- */

enum { SEVERAL = 4 };

static void start_several(const mode *how, td_target *target, td_worker *w[SEVERAL])
{
    for (int i = 0; i < SEVERAL; i++) {
        w[i] = WORKER(NEW(.target = target, .args = TD_VAL(i)));
        REQUIRE_OK(td_start(w[i]));
    }
}

static void free_several(td_worker *w[SEVERAL])
{
    for (int i = 0; i < SEVERAL; i++)
        td_free(w[i]);
}

/* The first one first, each a little after the one before, the last one never before GO. */
static int end_in_order(td_call *call)
{
    int me = td_arg(call, int);
    event_wait_count(ENDED, (uint32_t)me);
    if (me == SEVERAL - 1)
        event_wait(GO);
    pause_ms(20); /* for a join that does not wait; one that does gains nothing from it, and loses nothing */
    event_add(ENDED);
    return me == 1 ? td_fail(call, 7, "as it must") : 0;
}

static void check_in_order(td_worker *w[SEVERAL])
{
    for (int i = 0; i < SEVERAL; i++) {
        CHECK_INT(td_outcome(w[i]), i == 1 ? TD_FAILED : TD_RETURNED);
        CHECK_INT(td_result_code(w[i]), i == 1 ? 7 : 0);
    }
}

/* Catches: one that waits for some of them only, or gives up at one that has failed. */
TEST_MODES(join_all)
{
    td_worker *w[SEVERAL];
    start_several(how, end_in_order, w);
    event_set(GO);
    CHECK_OK(td_join_all(w, SEVERAL));
    check_in_order(w);
    CHECK_OK(td_join_all(w, SEVERAL)); /* again */
    CHECK_OK(td_join_all_for(w, SEVERAL, td_ms(0)));
    free_several(w);
}

/* Catches: a limit that counts for the first only, or anew for each; one that has ended in time and is waited for. */
TEST_MODES(join_all_with_a_limit)
{
    td_worker *w[SEVERAL];
    start_several(how, end_in_order, w);
    CHECK_ERROR(td_join_all_for(w, SEVERAL, td_ms(0)), TD_ETIMEOUT);
    CHECK_OK(td_join_all_for(w, SEVERAL - 1, td_s(40)));
    CHECK_ERROR(td_join_all_for(w, SEVERAL, td_ms(30)), TD_ETIMEOUT);
    CHECK_HAS(td_last_message(), td_name(w[SEVERAL - 1]));
    CHECK_INT(td_outcome(w[SEVERAL - 1]), TD_RUNNING);
    CHECK_ERROR(td_join_all_for(w, SEVERAL, td_ms(-7)), TD_ETIMEOUT);
    event_set(GO);
    CHECK_OK(td_join_all_for(w, SEVERAL, td_s(40)));
    check_in_order(w);
    free_several(w);
}

/* Catches: an error that is found only after those before it have been waited for, who here wait for the caller. */
TEST_MODES(join_all_that_cannot_be_joined)
{
    td_worker *idle = WORKER(NEW(.target = nothing)), *running = started(how, until_go);
    td_worker *with_idle[] = { running, idle }, *with_none[] = { running, NULL }, *with_main[] = { running, td_main() };
    CHECK_OK(td_join_all(NULL, 0));
    CHECK_OK(td_join_all_for(with_idle, 0, td_ms(0)));
    CHECK_ERROR(td_join_all(NULL, 2), TD_EINVAL);
    CHECK_ERROR(td_join_all_for(NULL, 2, td_s(40)), TD_EINVAL);
    CHECK_ERROR(td_join_all(with_idle, 2), TD_ESTATE);
    CHECK_HAS(td_last_message(), td_name(idle));
    CHECK_ERROR(td_join_all_for(with_idle, 2, td_s(40)), TD_ESTATE);
    CHECK_ERROR(td_join_all(with_main, 2), TD_EDEADLOCK);
    td_thread(.target = NULL); /* why there is a NULL */
    CHECK_ERROR(td_join_all(with_none, 2), TD_EINVAL);
    CHECK_HAS(td_last_message(), "target");
    CHECK_INT(td_outcome(running), TD_RUNNING);
    event_set(GO);
    CHECK_OK(td_join_all(with_none, 1));
    td_free(running);
    td_free(idle);
}

static int joins_all_and_itself(td_call *call)
{
    td_worker *child = WORKER(td_process(.target = until_go)), *both[] = { child, td_current() };
    (void)call;
    REQUIRE_OK(td_start(child));
    CHECK_ERROR(td_join_all(both, 2), TD_EDEADLOCK);
    CHECK_ERROR(td_join_all_for(both, 2, td_s(40)), TD_EDEADLOCK);
    event_set(GO);
    CHECK_OK(td_join_all(both, 1));
    td_free(child);
    return 0;
}

/* Catches: waiting for oneself, behind another. */
TEST_MODES(join_all_and_itself)
{
    if (WITH_TSAN && how->method == TD_FORK)
        SKIP("libtsan dies when a copy of a program with threads makes one");
    td_worker *w = JOINED(NEW(.target = joins_all_and_itself));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
}

/* Catches: one that is killed and is taken for an error, or for one that runs on. */
TEST_METHODS(join_all_when_one_is_killed)
{
    td_worker *w[SEVERAL];
    start_several(how, end_in_order, w);
    kill(td_pid(w[SEVERAL - 1]), SIGKILL);
    CHECK_OK(td_join_all(w, SEVERAL));
    CHECK_INT(td_outcome(w[SEVERAL - 1]), TD_CRASHED);
    CHECK_INT(td_exitcode(w[SEVERAL - 1]), -SIGKILL);
    for (int i = 0; i < SEVERAL - 1; i++)
        CHECK_INT(td_outcome(w[i]), i == 1 ? TD_FAILED : TD_RETURNED);
    free_several(w);
}

/* Catches: a second wait for the same worker that finds nothing to wait for; kinds that do not mix. */
TEST_MODES(join_all_twice_the_same)
{
    td_worker *w = started(how, until_go), *thread = WORKER(td_thread(.target = go_after_a_while));
    td_worker *all[] = { w, thread, w, w, thread };
    REQUIRE_OK(td_start(thread));
    CHECK_OK(td_join_all(all, 5));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    CHECK_INT(td_outcome(thread), TD_RETURNED);
    td_free(w);
    td_free(thread);
}

static void *join_them_all(void *workers)
{
    return td_join_all(workers, SEVERAL) == 0 ? workers : NULL;
}

/* Catches: joiners of the same workers who take each other's wake-ups. */
TEST_MODES(many_joiners_of_all)
{
    td_worker *w[SEVERAL], *backwards[SEVERAL];
    pthread_t thread[6];
    start_several(how, end_in_order, w);
    for (int i = 0; i < SEVERAL; i++)
        backwards[i] = w[SEVERAL - 1 - i];
    for (int i = 0; i < 6; i++)
        REQUIRE(pthread_create(&thread[i], 0, join_them_all, i % 2 ? w : backwards) == 0);
    event_set(GO);
    for (int i = 0; i < 6; i++) {
        void *result;
        pthread_join(thread[i], &result);
        CHECK(result != NULL);
    }
    check_in_order(w);
    free_several(w);
}

static void on_alarm(int signal)
{
    (void)signal;
}

/* Catches: a wait that ends early with EINTR, or starts its limit anew after each signal. */
TEST_MODES(join_resumes_after_signals)
{
    struct sigaction action = { .sa_handler = on_alarm };
    sigaction(SIGALRM, &action, 0);
    td_worker *w = started(how, until_go);
    ualarm(5000, 5000);
    double begin = now();
    CHECK_ERROR(td_join_for(w, td_ms(200)), TD_ETIMEOUT);
    CHECK_TIME(now() - begin, 0.2);
    td_worker *helper = WORKER(td_thread(.target = go_after_a_while));
    REQUIRE_OK(td_start(helper));
    CHECK_OK(td_join(w));
    CHECK_OK(td_join(helper));
    ualarm(0, 0);
    td_free(w);
    td_free(helper);
}

/* Catches: is_alive that lies before, while or after. */
TEST_MODES(is_alive)
{
    td_worker *w = WORKER(NEW(.target = until_go));
    CHECK(!td_is_alive(w));
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    CHECK(td_is_alive(w));
    CHECK_INT(td_outcome(w), TD_RUNNING);
    CHECK_INT(td_exitcode(w), TD_NO_CODE);
    CHECK_INT(td_result_code(w), TD_NO_CODE);
    event_set(GO);
    REQUIRE_OK(td_join(w));
    CHECK(!td_is_alive(w));
    td_free(w);
}

/* Catches: alive, or an outcome, that changes only when somebody joins. */
TEST_MODES(ends_without_a_join)
{
    td_worker *w = WORKER(NEW(.target = nothing));
    REQUIRE_OK(td_start(w));
    WAIT_UNTIL(!td_is_alive(w), 10);
    CHECK_INT(td_outcome(w), TD_RETURNED);
    CHECK_INT(td_exitcode(w), 0);
    td_free(w);
}

/* --- names and numbers ------------------------------------------------------------------------------------- */

/* Catches: other names than Python's, or a count that threads and processes share. */
TEST(default_names)
{
    td_worker *t1 = WORKER(td_thread(.target = nothing)), *p1 = WORKER(td_process(.target = nothing));
    td_worker *t2 = WORKER(td_thread(.target = nothing)), *p2 = WORKER(td_process(.target = nothing));
    td_worker *named = WORKER(td_thread(.target = nothing, .name = "resize"));
    CHECK_STR(td_name(t1), "Thread-1");
    CHECK_STR(td_name(t2), "Thread-2");
    CHECK_STR(td_name(p1), "Process-1");
    CHECK_STR(td_name(p2), "Process-2");
    CHECK_STR(td_name(named), "resize");
    td_free(t1);
    td_free(t2);
    td_free(p1);
    td_free(p2);
    td_free(named);
}

static int name_is(td_call *call)
{
    const char *want = td_arg_str(call);
    CHECK_STR(td_call_name(call), want);
    CHECK_STR(td_name(td_current()), want);
    return 0;
}

/* Catches: a worker that does not know its name, or that keeps the caller's buffer. */
TEST_MODES(name_inside_the_worker)
{
    char name[] = "colour \xc3\xa4nderung";
    td_worker *w = WORKER(NEW(.target = name_is, .args = TD_STR(name), .name = name));
    char copy[sizeof name];
    strcpy(copy, name);
    memset(name, 'x', sizeof name - 1);
    REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    CHECK_STR(td_name(w), copy);
    td_free(w);
}

/* Catches: `ps -L` and `top -H` not showing which worker is which; the main thread being renamed. */
TEST_MODES(name_in_the_system)
{
    char before[64], after[64], comm[64], main_path[128], path[128];
    snprintf(main_path, sizeof main_path, "/proc/self/task/%d/comm", (int)getpid());
    first_line(main_path, before, sizeof before);
    td_worker *w = WORKER(NEW(.target = until_go, .name = "a-name-longer-than-15-bytes"));
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    snprintf(path, sizeof path, "/proc/%d/task/%d/comm", (int)td_pid(w), (int)td_native_id(w));
    CHECK_STR(first_line(path, comm, sizeof comm), "a-name-longer-t");
    CHECK_STR(first_line(main_path, after, sizeof after), before);
    event_set(GO);
    REQUIRE_OK(td_join(w));
    td_free(w);
}

/* Catches: a name that changes under a running worker, or that cannot be set before. */
TEST_MODES(set_name)
{
    td_worker *w = WORKER(NEW(.target = until_go));
    CHECK_OK(td_set_name(w, "second"));
    CHECK_STR(td_name(w), "second");
    CHECK_ERROR(td_set_name(w, ""), TD_EINVAL);
    CHECK_ERROR(td_set_name(w, 0), TD_EINVAL);
    CHECK_STR(td_name(w), "second");
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    CHECK_ERROR(td_set_name(w, "third"), TD_ESTATE);
    CHECK_STR(td_name(w), "second");
    event_set(GO);
    REQUIRE_OK(td_join(w));
    CHECK_ERROR(td_set_name(w, "third"), TD_ESTATE);
    td_free(w);
}

/* Catches: a name cut, or refused, at the very limit. */
TEST_MODES(name_of_the_greatest_length)
{
    char name[TD_NAME_MAX];
    memset(name, 'n', sizeof name);
    name[TD_NAME_MAX - 1] = 0;
    td_worker *w = WORKER(NEW(.target = name_is, .args = TD_STR(name), .name = name));
    CHECK_STR(td_name(w), name);
    REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
}

struct ids {
    pid_t pid, tid;
    uint64_t ident;
    pid_t native_id, own_pid;
};

static int tells_ids(td_call *call)
{
    td_worker *me = td_current();
    struct ids ids = { getpid(), (pid_t)syscall(SYS_gettid), td_ident(me), td_native_id(me), td_pid(me) };
    event_add(STARTED);
    event_wait(GO);
    return td_return_bytes(call, &ids, sizeof ids);
}

/* Catches: ident, native id and pid that are not what the system knows, or differ between inside and outside. */
TEST_MODES(ident_native_id_and_pid)
{
    td_worker *w[3];
    for (int i = 0; i < 3; i++) {
        w[i] = WORKER(NEW(.target = tells_ids));
        CHECK_INT(td_ident(w[i]), 0);
        CHECK_INT(td_native_id(w[i]), 0);
        CHECK_INT(td_pid(w[i]), 0);
        CHECK_INT(td_kind_of(w[i]), how->kind);
        REQUIRE_OK(td_start(w[i]));
    }
    event_wait_count(STARTED, 3);
    uint64_t ident[4] = { td_ident(td_current()) };
    CHECK_INT(td_native_id(td_current()), getpid());
    CHECK_INT(td_pid(td_current()), getpid());
    for (int i = 0; i < 3; i++) {
        ident[i + 1] = td_ident(w[i]);
        CHECK(ident[i + 1] != 0);
        for (int k = 0; k <= i; k++)
            CHECK(ident[k] != ident[i + 1]);
        if (how->kind == TD_PROCESS) {
            CHECK_INT(td_ident(w[i]), td_pid(w[i]));
            CHECK_INT(td_native_id(w[i]), td_pid(w[i]));
            CHECK(td_pid(w[i]) != getpid());
        } else {
            CHECK_INT(td_pid(w[i]), getpid());
        }
    }
    event_set(GO);
    for (int i = 0; i < 3; i++) {
        REQUIRE_OK(td_join(w[i]));
        size_t size;
        const struct ids *ids = td_result_bytes(w[i], &size);
        REQUIRE(ids && size == sizeof *ids);
        CHECK_INT(ids->pid, td_pid(w[i]));
        CHECK_INT(ids->tid, td_native_id(w[i]));
        CHECK_INT(ids->native_id, td_native_id(w[i]));
        CHECK_INT(ids->own_pid, td_pid(w[i]));
        CHECK_INT(ids->ident, td_ident(w[i]));
        CHECK_INT(ids->ident, ident[i + 1]);
        td_free(w[i]);
    }
}

/* --- daemon ------------------------------------------------------------------------------------------------ */

/* Catches: a flag that cannot be read back, or that changes while the worker runs. */
TEST_MODES(daemon_flag)
{
    td_worker *by_default = WORKER(NEW(.target = nothing));
    td_worker *yes = WORKER(NEW(.target = until_go, .daemon = TD_DAEMON_YES));
    td_worker *no = WORKER(NEW(.target = nothing, .daemon = TD_DAEMON_NO));
    CHECK(!td_is_daemon(td_main()));
    CHECK(!td_is_daemon(by_default));
    CHECK(td_is_daemon(yes));
    CHECK(!td_is_daemon(no));
    CHECK_OK(td_set_daemon(by_default, true));
    CHECK(td_is_daemon(by_default));
    CHECK_OK(td_set_daemon(by_default, false));
    CHECK(!td_is_daemon(by_default));
    REQUIRE_OK(td_start(yes));
    event_wait(STARTED);
    CHECK_ERROR(td_set_daemon(yes, false), TD_ESTATE);
    CHECK(td_is_daemon(yes));
    event_set(GO);
    REQUIRE_OK(td_join(yes));
    td_free(by_default);
    td_free(yes);
    td_free(no);
}

static int inherits(td_call *call)
{
    bool daemon = td_arg(call, bool);
    CHECK_INT(td_is_daemon(td_current()), daemon);
    td_worker *child = WORKER(td_thread(.target = nothing));
    td_worker *other = WORKER(td_thread(.target = nothing, .daemon = daemon ? TD_DAEMON_NO : TD_DAEMON_YES));
    CHECK_INT(td_is_daemon(child), daemon);
    CHECK_INT(td_is_daemon(other), !daemon);
    td_free(child);
    td_free(other);
    return 0;
}

/* Catches: the flag not inherited from the creating worker, whatever that one is. */
TEST_MODES(daemon_is_inherited)
{
    for (int daemon = 0; daemon < 2; daemon++) {
        td_worker *w = WORKER(
            NEW(.target = inherits, .args = TD_ARG(bool, daemon), .daemon = daemon ? TD_DAEMON_YES : TD_DAEMON_NO));
        REQUIRE_OK(td_start(w));
        REQUIRE_OK(td_join(w));
        CHECK_INT(td_outcome(w), TD_RETURNED);
        td_free(w);
    }
}

/* --- the sentinel ------------------------------------------------------------------------------------------ */

static bool readable(int fd, int milliseconds)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    return poll(&p, 1, milliseconds) == 1 && (p.revents & POLLIN);
}

/* Catches: a sentinel that is readable too early, never, or once only. */
TEST_MODES(sentinel)
{
    td_worker *w = WORKER(NEW(.target = until_go));
    CHECK_ERROR(td_sentinel(w), TD_ESTATE);
    REQUIRE_OK(td_start(w));
    int fd = td_sentinel(w);
    REQUIRE(fd > 2);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    CHECK_INT(td_sentinel(w), fd);
    CHECK(!readable(fd, 50));
    event_set(GO);
    CHECK(readable(fd, 30000));
    CHECK(!td_is_alive(w));
    CHECK_OK(td_join_for(w, td_ms(0)));
    CHECK(readable(fd, 0));
    CHECK(readable(fd, 0));
    if (how->kind == TD_PROCESS)
        CHECK(!process_alive(td_pid(w)));
    td_free(w);
    CHECK(fcntl(fd, F_GETFD) < 0);
}

/* Catches: a sentinel that is asked for only after the end and never becomes readable. */
TEST_MODES(sentinel_asked_for_late)
{
    td_worker *w = JOINED(NEW(.target = nothing));
    int before = count_fds(), fd = td_sentinel(w);
    REQUIRE(fd > 2);
    CHECK(readable(fd, 30000));
    td_free(w);
    CHECK(fcntl(fd, F_GETFD) < 0);
    CHECK(count_fds() <= before); /* less by the holder's, which the watcher closes when that process has ended */
}

/* Catches: one sentinel that stands for another worker. */
TEST_MODES(sentinels_of_several)
{
    td_worker *slow = started(how, until_go), *quick = WORKER(NEW(.target = nothing));
    REQUIRE_OK(td_start(quick));
    struct pollfd p[2] = { { .fd = td_sentinel(slow), .events = POLLIN },
                           { .fd = td_sentinel(quick), .events = POLLIN } };
    CHECK_INT(poll(p, 2, 30000), 1);
    CHECK_INT(p[0].revents, 0);
    CHECK_INT(p[1].revents & POLLIN, POLLIN);
    event_set(GO);
    REQUIRE_OK(td_join(slow));
    REQUIRE_OK(td_join(quick));
    td_free(slow);
    td_free(quick);
}

/* --- stopping ---------------------------------------------------------------------------------------------- */

static int stop_by(td_worker *w, int way)
{
    return way == 0 ? td_terminate(w) : way == 1 ? td_kill(w) : td_interrupt(w);
}

static const int signals[] = { SIGTERM, SIGKILL, SIGINT };

/* Catches: a wrong signal, or a death on demand that is reported as a crash. */
TEST_METHODS(stop_a_process)
{
    for (int way = 0; way < 3; way++) {
        page->event[STARTED] = 0;
        td_worker *w = started(how, until_go);
        CHECK_OK(stop_by(w, way));
        REQUIRE_OK(td_join(w));
        CHECK_INT(td_outcome(w), TD_CANCELLED);
        CHECK_INT(td_exitcode(w), -signals[way]);
        CHECK_INT(td_result_code(w), TD_NO_CODE);
        CHECK(!td_is_alive(w));
        CHECK_HAS(td_describe(w), way == 0 ? "SIGTERM" : way == 1 ? "SIGKILL" : "SIGINT");
        for (int again = 0; again < 3; again++)
            CHECK_OK(stop_by(w, again));
        CHECK_INT(td_outcome(w), TD_CANCELLED);
        td_free(w);
    }
}

/* Catches: a thread that is stopped by force, or that cannot learn that it should stop. */
TEST(stop_a_thread)
{
    for (int way = 0; way < 3; way++) {
        page->event[STARTED] = 0;
        td_worker *w = started(&mode_thread, way == 1 ? until_go : until_cancelled);
        if (way == 1) {
            CHECK_ERROR(td_kill(w), TD_EUNSUPPORTED);
            CHECK(td_is_alive(w));
            event_set(GO);
            REQUIRE_OK(td_join(w));
            CHECK_INT(td_outcome(w), TD_RETURNED);
        } else {
            CHECK_OK(stop_by(w, way));
            REQUIRE_OK(td_join(w));
            CHECK_INT(td_outcome(w), TD_CANCELLED);
            CHECK_STR(td_message(w), "asked to stop");
            CHECK_OK(td_terminate(w));
            CHECK_OK(td_interrupt(w));
        }
        td_free(w);
    }
}

static int ignores_term(td_call *call)
{
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    return until_cancelled(call);
}

/* Catches: the flag of td_cancelled not reaching a process, which then can only be killed. */
TEST_METHODS(stop_a_process_that_polls)
{
    for (int way = 0; way < 3; way += 2) {
        page->event[STARTED] = 0;
        td_worker *w = started(how, ignores_term);
        CHECK_OK(stop_by(w, way));
        REQUIRE_OK(td_join(w));
        CHECK_INT(td_outcome(w), TD_CANCELLED);
        CHECK_STR(td_message(w), "asked to stop");
        td_free(w);
    }
}

static int is_not_cancelled(td_call *call)
{
    return td_cancelled(call);
}

/* Catches: a flag left over from the worker before. */
TEST_MODES(cancelled_flag_is_fresh)
{
    td_worker *w = started(how, until_cancelled);
    CHECK_OK(td_terminate(w));
    REQUIRE_OK(td_join(w));
    td_free(w);
    for (int i = 0; i < 10; i++) {
        w = JOINED(NEW(.target = is_not_cancelled));
        CHECK_INT(td_result_code(w), 0);
        td_free(w);
    }
}

/* Catches: a worker that was asked, and yet returned, reported as cancelled. */
TEST(asked_to_stop_but_returned)
{
    td_worker *w = started(&mode_thread, until_go);
    CHECK_OK(td_terminate(w));
    event_set(GO);
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
}

/* Catches: stopping what never ran. */
TEST_MODES(stop_before_start)
{
    td_worker *w = WORKER(NEW(.target = nothing));
    CHECK_ERROR(td_terminate(w), TD_ESTATE);
    CHECK_ERROR(td_interrupt(w), TD_ESTATE);
    if (how->kind == TD_PROCESS)
        CHECK_ERROR(td_kill(w), TD_ESTATE);
    REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
}

/* Catches: a signal that lands on another process, because the worker's pid was given to it; and an outcome that a
 * late stop changes. */
TEST_METHODS(stop_after_the_end)
{
    td_worker *w = JOINED(NEW(.target = returns_arg, .args = TD_ARG(int, 5)));
    for (int way = 0; way < 3; way++)
        CHECK_OK(stop_by(w, way));
    CHECK_INT(td_outcome(w), TD_FAILED);
    CHECK_INT(td_result_code(w), 5);
    td_free(w);
}

/* Catches: a stopped (SIGSTOP) worker taken for an ended one, or that cannot be killed. */
TEST_METHODS(stopped_worker_is_alive)
{
    td_worker *w = started(how, until_go);
    kill(td_pid(w), SIGSTOP);
    CHECK_ERROR(td_join_for(w, td_ms(50)), TD_ETIMEOUT);
    CHECK(td_is_alive(w));
    CHECK_INT(td_outcome(w), TD_RUNNING);
    CHECK_OK(td_kill(w));
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_exitcode(w), -SIGKILL);
    td_free(w);
}

/* --- close and free ---------------------------------------------------------------------------------------- */

/* Catches: close of a running worker, a handle that is dead after close, and resources kept until free. */
TEST_MODES(close_keeps_the_handle_readable)
{
    int before = count_fds();
    td_worker *w = WORKER(NEW(.target = until_go, .name = "closing"));
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    int running = count_fds();
    REQUIRE(td_sentinel(w) > 2);
    pid_t pid = td_pid(w);
    CHECK_ERROR(td_close(w), TD_ESTATE);
    event_set(GO);
    REQUIRE_OK(td_join(w));
    CHECK_OK(td_close(w));
    CHECK(count_fds() <= running);
    if (how->kind == TD_THREAD)
        CHECK_INT(count_fds(), before);
    CHECK_INT(td_outcome(w), TD_RETURNED);
    CHECK_INT(td_exitcode(w), 0);
    CHECK_INT(td_pid(w), pid);
    CHECK_STR(td_name(w), "closing");
    CHECK(td_describe(w)[0]);
    CHECK_OK(td_join(w));
    td_free(w);
}

/* Catches: free of a running worker that waits, kills, or frees what the worker still uses. */
TEST_MODES(free_while_running)
{
    td_worker *w = started(how, until_go);
    pid_t pid = td_pid(w);
    double begin = now();
    td_free(w);
    CHECK_IN(now() - begin, 0, 5);
    CHECK(!event_is_set(ENDED));
    event_set(GO);
    event_wait(ENDED);
    if (how->kind == TD_PROCESS)
        WAIT_UNTIL(!process_alive(pid), 10);
}

/* Catches: a free that races with the worker's end. */
TEST_MODES(free_at_once)
{
    for (int i = 0; i < 100; i++) {
        td_worker *w = WORKER(NEW(.target = nothing));
        REQUIRE_OK(td_start(w));
        td_free(w);
    }
    CHECK_OK(td_finish());
}

/* Catches: a worker that leaks when it never ran. */
TEST_MODES(free_without_a_start)
{
    for (int i = 0; i < 1000; i++) {
        static char block[4096];
        td_worker *w = WORKER(NEW(.target = nothing, .args = TD_BYTES(block, sizeof block)));
        td_free(w);
    }
    td_free(0);
}

/* Catches: td_run's promise of codes. */
TEST_MODES(run_in_one_call)
{
    CHECK_INT(td_run(NEW(.target = returns_arg, .args = TD_ARG(int, 0))), 0);
    CHECK_INT(td_run(NEW(.target = returns_arg, .args = TD_ARG(int, 7))), 7);
    CHECK_INT(td_run(NEW(.target = returns_arg, .args = TD_ARG(int, -1234567))), -1234567);
    CHECK_ERROR(td_run(NEW(.target = 0)), TD_EINVAL);
}

static int kills_itself(td_call *call)
{
    (void)call;
    raise(SIGKILL);
    return 0;
}

static int fails_as_cancelled(td_call *call)
{
    return td_fail(call, TD_ECANCELLED, "no more");
}

/* Catches: a crash that td_run reports as success. */
TEST_METHODS(run_a_crash)
{
    CHECK_ERROR(td_run(NEW(.target = kills_itself)), TD_EPROCESS);
    CHECK_HAS(td_last_message(), "SIGKILL");
}

TEST_MODES(run_a_cancelled_one)
{
    CHECK_ERROR(td_run(NEW(.target = fails_as_cancelled)), TD_ECANCELLED);
}

/* --- who is who -------------------------------------------------------------------------------------------- */

static int knows_itself(td_call *call)
{
    bool process = td_arg(call, bool);
    td_worker *me = td_current();
    CHECK(me != 0);
    CHECK(td_is_alive(me));
    CHECK_INT(td_outcome(me), TD_RUNNING);
    CHECK_INT(td_native_id(me), (pid_t)syscall(SYS_gettid));
    if (process) {
        CHECK(me == td_main());
        CHECK(td_parent() != 0);
        CHECK_INT(td_pid(td_parent()), (pid_t)page->number[0]);
        CHECK(td_is_alive(td_parent()));
        CHECK(td_name(td_parent()) != 0);
    } else {
        CHECK(me != td_main());
        CHECK(td_parent() == 0);
    }
    CHECK_INT(td_pid(td_main()), getpid());
    return 0;
}

/* Catches: current, main and parent mixed up. */
TEST_MODES(current_main_and_parent)
{
    page->number[0] = getpid();
    CHECK(td_current() == td_main());
    CHECK(td_current() != 0);
    CHECK(td_parent() == 0);
    CHECK(td_is_alive(td_main()));
    td_worker *w = JOINED(NEW(.target = knows_itself, .args = TD_ARG(bool, how->kind == TD_PROCESS)));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
}

static void *stranger(void *unused)
{
    (void)unused;
    td_worker *me = td_current();
    CHECK(me != 0);
    CHECK(me == td_current());
    CHECK(me != td_main());
    CHECK(td_is_daemon(me));
    CHECK(td_is_alive(me));
    CHECK(td_name(me)[0]);
    CHECK_INT(td_native_id(me), (pid_t)syscall(SYS_gettid));
    CHECK(td_join(me) < 0);
    return me;
}

/* Catches: a thread of the program's own for which td_current crashes or leaks; and one counted as a worker. */
TEST(thread_that_tandem_did_not_start)
{
    CHECK_INT(td_active_count(), 1);
    for (int i = 0; i < 100; i++) {
        pthread_t thread;
        REQUIRE(pthread_create(&thread, 0, stranger, 0) == 0);
        pthread_join(thread, 0);
    }
    CHECK_INT(td_active_count(), 1);
}

/* Catches: wrong members, wrong counts, and handles that cannot be given back. */
TEST_MODES(enumerate)
{
    td_worker *list[8];
    CHECK_INT(td_active_count(), 1);
    CHECK_INT(td_enumerate(list, 8), 1);
    CHECK(list[0] == td_main());
    td_free(list[0]);
    td_worker *w[3];
    for (int i = 0; i < 3; i++) {
        w[i] = WORKER(NEW(.target = until_go));
        REQUIRE_OK(td_start(w[i]));
    }
    td_worker *idle = WORKER(NEW(.target = nothing));
    event_wait_count(STARTED, 3);
    CHECK_INT(td_active_count(), 4);
    CHECK_INT(td_enumerate(0, 0), 4);
    CHECK_INT(td_enumerate(list, 2), 4);
    CHECK(list[0] == td_main());
    td_free(list[0]);
    td_free(list[1]);
    CHECK_INT(td_enumerate(list, 8), 4);
    for (int i = 0; i < 4; i++) {
        bool known = list[i] == td_main();
        for (int k = 0; k < 3; k++)
            known = known || (list[i] && td_native_id(list[i]) == td_native_id(w[k]));
        CHECK(known);
        CHECK(td_is_alive(list[i]));
    }
    for (int i = 0; i < 4; i++)
        td_free(list[i]);
    CHECK_INT(td_active_children(list, 8), how->kind == TD_PROCESS ? 3 : 0);
    for (int i = 0; i < 3 && how->kind == TD_PROCESS; i++) {
        CHECK_INT(td_kind_of(list[i]), TD_PROCESS);
        td_free(list[i]);
    }
    CHECK_INT(td_active_children(0, 0), how->kind == TD_PROCESS ? 3 : 0);
    event_set(GO);
    for (int i = 0; i < 3; i++)
        REQUIRE_OK(td_join(w[i]));
    CHECK_INT(td_active_count(), 1);
    CHECK_INT(td_active_children(list, 8), 0);
    for (int i = 0; i < 3; i++)
        td_free(w[i]);
    td_free(idle);
}

/* Catches: a handle from td_enumerate that dies when the owner frees its own. */
TEST_MODES(enumerated_handle_outlives_the_owners)
{
    td_worker *w = started(how, until_go), *list[4];
    CHECK_INT(td_enumerate(list, 4), 2);
    td_free(list[0]);
    td_free(w);
    CHECK(td_is_alive(list[1]));
    event_set(GO);
    CHECK_OK(td_join(list[1]));
    CHECK_INT(td_outcome(list[1]), TD_RETURNED);
    td_free(list[1]);
}

/* Catches: workers that were let go missing from the list while they run. */
TEST_MODES(freed_worker_is_still_enumerated)
{
    td_worker *w = started(how, until_go), *list[4];
    td_free(w);
    CHECK_INT(td_active_count(), 2);
    CHECK_INT(td_enumerate(list, 4), 2);
    event_set(GO);
    CHECK_OK(td_join(list[1]));
    td_free(list[0]);
    td_free(list[1]);
    CHECK_INT(td_active_count(), 1);
}

/* --- stacks ------------------------------------------------------------------------------------------------ */

static int uses_stack(td_call *call)
{
    size_t size = td_arg(call, size_t);
    pthread_attr_t attributes;
    size_t real = 0;
    REQUIRE(pthread_getattr_np(pthread_self(), &attributes) == 0);
    pthread_attr_getstacksize(&attributes, &real);
    pthread_attr_destroy(&attributes);
    CHECK(real >= size);
    return 0;
}

/* Catches: a stack size that is ignored, or the smallest allowed one refused by the system. */
TEST(stack_size)
{
    const size_t sizes[] = { 32 << 10, 100001, 1 << 20, 64 << 20 };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        td_worker *w = JOINED(td_thread(.target = uses_stack, .args = TD_VAL(sizes[i]), .stack_size = sizes[i]));
        CHECK_INT(td_outcome(w), TD_RETURNED);
        td_free(w);
    }
}

/* --- many -------------------------------------------------------------------------------------------------- */

/* Catches: a mix-up of results between workers that run at the same time. */
TEST_MODES(a_hundred_at_once)
{
    enum { N = 100 };
    td_worker *w[N];
    for (int i = 0; i < N; i++) {
        w[i] = WORKER(NEW(.target = returns_arg, .args = TD_ARG(int, i * 7 + 1)));
        REQUIRE_OK(td_start(w[i]));
    }
    for (int i = 0; i < N; i++) {
        REQUIRE_OK(td_join(w[i]));
        CHECK_INT(td_result_code(w[i]), i * 7 + 1);
        td_free(w[i]);
    }
}
