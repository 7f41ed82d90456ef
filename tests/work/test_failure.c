/* SPDX-License-Identifier: MIT */
/* How a worker fails, crashes and exits; and who is told when nobody asks. */
#include "targets.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>

enum { MAIN_HANDLER = OWN_EVENTS, WORKER_HANDLER, HOOK, IN_HOOK };

static int fails(td_call *call)
{
    return td_fail(call, 42, "cannot read '%s', item %d", "photo.jpg", 7);
}

static td_worker *run(const mode *how, td_target *target, td_value args)
{
    td_worker *w = JOINED(NEW(.target = target, .args = args, .name = "resize"));
    return w;
}

static const td_value none;

/* --- failed ------------------------------------------------------------------------------------------------ */

/* Catches: a failure whose code or message is lost on the way. */
TEST_MODES(fail_with_a_message)
{
    td_worker *w = run(how, fails, none);
    CHECK_INT(td_outcome(w), TD_FAILED);
    CHECK_INT(td_result_code(w), 42);
    CHECK_INT(td_exitcode(w), 42);
    CHECK_STR(td_message(w), "cannot read 'photo.jpg', item 7");
    CHECK_HAS(td_describe(w), "resize");
    CHECK_HAS(td_describe(w), "cannot read 'photo.jpg', item 7");
    CHECK(strchr(td_describe(w), '\n') == 0);
    td_free(w);
}

/* Catches: a message where there is none, or none of the sentences that a report needs. */
TEST_MODES(fail_without_a_message)
{
    td_worker *w = run(how, returns_arg, TD_ARG(int, 3));
    CHECK_INT(td_outcome(w), TD_FAILED);
    CHECK_STR(td_message(w), "");
    CHECK_HAS(td_describe(w), "resize");
    CHECK_HAS(td_describe(w), "3");
    td_free(w);
    w = run(how, returns_arg, TD_ARG(int, 0));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    CHECK_STR(td_message(w), "");
    CHECK_HAS(td_describe(w), "resize");
    td_free(w);
}

static int fails_with_zero(td_call *call)
{
    return td_fail(call, 0, "zero");
}

static int fails_but_returns_zero(td_call *call)
{
    td_fail(call, 5, "forgotten");
    return 0;
}

static int fails_with_length(td_call *call)
{
    int length = td_arg(call, int);
    char *text = malloc((size_t)length + 1);
    REQUIRE(text != 0);
    memset(text, 'm', (size_t)length);
    text[length] = 0;
    int code = td_fail(call, -7, "%s", text);
    free(text);
    return code;
}

/* Catches: a failure that becomes a success. */
TEST_MODES(fail_with_code_zero)
{
    td_worker *w = run(how, fails_with_zero, none);
    CHECK_INT(td_outcome(w), TD_FAILED);
    CHECK_INT(td_result_code(w), 1);
    CHECK_STR(td_message(w), "zero");
    td_free(w);
    w = run(how, fails_but_returns_zero, none); /* "the task fails with code" */
    CHECK_INT(td_outcome(w), TD_FAILED);
    CHECK_STR(td_message(w), "forgotten");
    td_free(w);
}

/* Catches: a message that overflows its place. */
TEST_MODES(messages_are_cut)
{
    const int lengths[] = { 0, 1, TD_MESSAGE_MAX - 2, TD_MESSAGE_MAX - 1, TD_MESSAGE_MAX, TD_MESSAGE_MAX + 1, 100000 };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        td_worker *w = run(how, fails_with_length, TD_VAL(lengths[i]));
        int want = lengths[i] < TD_MESSAGE_MAX ? lengths[i] : TD_MESSAGE_MAX - 1;
        CHECK_INT(td_result_code(w), -7);
        CHECK_INT(strlen(td_message(w)), want);
        CHECK_INT(strspn(td_message(w), "m"), want);
        td_free(w);
    }
}

static int cancels(td_call *call)
{
    return td_fail(call, TD_ECANCELLED, "not wanted any more");
}

/* Catches: the one code that is no failure taken for one. */
TEST_MODES(fail_as_cancelled)
{
    td_worker *w = run(how, cancels, none);
    CHECK_INT(td_outcome(w), TD_CANCELLED);
    CHECK_STR(td_message(w), "not wanted any more");
    CHECK_HAS(td_describe(w), "cancelled");
    td_free(w);
}

/* --- crashed ----------------------------------------------------------------------------------------------- */

struct signal_name {
    int number;
    const char *name;
};

static const struct signal_name fatal[] = {
    { SIGSEGV, "SIGSEGV" },
    { SIGABRT, "SIGABRT" },
    { SIGBUS, "SIGBUS" },
    { SIGFPE, "SIGFPE" },
    { SIGILL, "SIGILL" },
    { SIGKILL, "SIGKILL" },
    { SIGTERM, "SIGTERM" },
    { SIGTRAP, "SIGTRAP" },
    { SIGSYS, "SIGSYS" },
    { SIGXCPU, "SIGXCPU" },
    { SIGXFSZ, "SIGXFSZ" },
    { SIGINT, "SIGINT" },
    { SIGQUIT, "SIGQUIT" },
    { SIGHUP, "SIGHUP" },
    { SIGPIPE, "SIGPIPE" },
    { SIGALRM, "SIGALRM" },
    { SIGUSR1, "SIGUSR1" },
    { SIGUSR2, "SIGUSR2" },
    { SIGVTALRM, "SIGVTALRM" },
    { SIGPROF, "SIGPROF" },
    { SIGIO, 0 },
    { 40, 0 },
};

static int dies_of(td_call *call)
{
    int number = td_arg(call, int);
    signal(number, SIG_DFL); /* a sanitizer may have taken it */
    raise(number);
    return 99;
}

/* Catches: a signal that is caught, blocked or ignored in workers; a wrong exit code; a sentence without the name. */
TEST_METHODS(killed_by_each_signal)
{
    for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++) {
        td_worker *w = run(how, dies_of, TD_ARG(int, fatal[i].number));
        char pid[32];
        snprintf(pid, sizeof pid, "%d", (int)td_pid(w));
        CHECK_INT(td_exitcode(w), -fatal[i].number);
        CHECK_INT(td_outcome(w), TD_CRASHED);
        CHECK_INT(td_result_code(w), TD_NO_CODE);
        CHECK_HAS(td_describe(w), "resize");
        CHECK_HAS(td_describe(w), pid);
        CHECK_HAS(td_describe(w), td_message(w));
        CHECK_HAS(td_message(w), "killed by SIG");
        if (fatal[i].name)
            CHECK_HAS(td_message(w), fatal[i].name);
        int number;
        CHECK(td_result_str(w) == 0);
        CHECK(td_result(w, int, &number) < 0);
        td_free(w);
    }
}

static int reads_nowhere(td_call *call)
{
    (void)call;
    signal(SIGSEGV, SIG_DFL);
    char *at = mmap(0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return *(volatile char *)at;
}

static int reads_beyond_a_file(td_call *call)
{
    (void)call;
    signal(SIGBUS, SIG_DFL);
    int fd = memfd_create("empty", MFD_CLOEXEC);
    char *at = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    return *(volatile char *)at;
}

static int aborts(td_call *call)
{
    (void)call;
    signal(SIGABRT, SIG_DFL);
    abort();
}

static volatile int endless = 1;

static int deeper(int depth)
{
    volatile char block[4096];
    block[depth % 4096] = (char)depth;
    return endless ? deeper(depth + 1) + block[5] : 0;
}

static int overflows_the_stack(td_call *call)
{
    (void)call;
    return deeper(0);
}

static int uses_up_cpu(td_call *call)
{
    (void)call;
    struct rlimit limit = { 1, 5 };
    setrlimit(RLIMIT_CPU, &limit);
    while (endless)
        ;
    return 0;
}

/* Catches: real faults that behave in another way than raise(). */
TEST_METHODS(killed_by_real_faults)
{
    const struct {
        td_target *target;
        int number;
    } cases[] = { { reads_nowhere, SIGSEGV }, { reads_beyond_a_file, SIGBUS }, { aborts, SIGABRT } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        td_worker *w = run(how, cases[i].target, none);
        CHECK_INT(td_outcome(w), TD_CRASHED);
        CHECK_INT(td_exitcode(w), -cases[i].number);
        td_free(w);
    }
    if (!SANITIZED) {
        td_worker *w = run(how, overflows_the_stack, none);
        CHECK_INT(td_exitcode(w), -SIGSEGV);
        td_free(w);
    }
}

/* Catches: limits that kill being reported as something else. */
TEST(full_killed_by_the_cpu_limit)
{
    td_worker *w = run(&mode_forkserver, uses_up_cpu, none);
    CHECK_INT(td_outcome(w), TD_CRASHED);
    CHECK_INT(td_exitcode(w), -SIGXCPU);
    td_free(w);
}

/* Catches: a signal that came from elsewhere taken for one sent by td_terminate. */
TEST_METHODS(killed_by_a_stranger)
{
    td_worker *w = WORKER(NEW(.target = until_go));
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    kill(td_pid(w), SIGTERM);
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_CRASHED);
    CHECK_INT(td_exitcode(w), -SIGTERM);
    td_free(w);
}

/* Catches: one crash that takes others with it. */
TEST_METHODS(crash_is_contained)
{
    td_worker *w[10];
    for (int i = 0; i < 10; i++) {
        w[i] = WORKER(NEW(.target = until_go));
        REQUIRE_OK(td_start(w[i]));
    }
    event_wait_count(STARTED, 10);
    for (int i = 0; i < 10; i += 2)
        kill(td_pid(w[i]), SIGSEGV);
    for (int i = 0; i < 10; i += 2)
        REQUIRE_OK(td_join(w[i]));
    for (int i = 1; i < 10; i += 2)
        CHECK(td_is_alive(w[i]));
    event_set(GO);
    for (int i = 0; i < 10; i++) {
        REQUIRE_OK(td_join(w[i]));
        CHECK_INT(td_outcome(w[i]), i % 2 ? TD_RETURNED : TD_CRASHED);
        td_free(w[i]);
    }
    CHECK_INT(td_run(NEW(.target = returns_arg, .args = TD_ARG(int, 0))), 0);
}

static int returns_then_dies(td_call *call)
{
    td_return_str(call, "half done");
    raise(SIGKILL);
    return 0;
}

/* Catches: a result of a worker that never returned. */
TEST_METHODS(result_of_a_crashed_worker)
{
    td_worker *w = run(how, returns_then_dies, none);
    CHECK_INT(td_outcome(w), TD_CRASHED);
    CHECK(td_result_str(w) == 0);
    CHECK_INT(td_last_error(), TD_ESTATE);
    td_free(w);
}

/* --- exited ------------------------------------------------------------------------------------------------ */

static void main_handler(void)
{
    if (page)
        event_add(MAIN_HANDLER);
}

static int exits(td_call *call)
{
    exit(td_arg(call, int));
}

static int exits_now(td_call *call)
{
    _exit(td_arg(call, int));
}

static int quick_exits(td_call *call)
{
    quick_exit(td_arg(call, int));
}

static void *exits_in_thread(void *status)
{
    exit(*(int *)status);
}

static int exits_in_a_thread(td_call *call)
{
    static int status;
    status = td_arg(call, int);
    pthread_t thread;
    if (pthread_create(&thread, 0, exits_in_thread, &status) == 0)
        pthread_join(thread, 0);
    return 0;
}

/* Catches: exit() in a target that is taken for a return, hangs, or ends the parent; and the parent's atexit handlers
 * running in a worker. */
TEST_METHODS(exit_in_the_target)
{
    atexit(main_handler);
    td_target *const targets[] = { exits, exits_now, exits_in_a_thread };
    const int codes[] = { 3, 0, 255, 1, 256 + 9 };
    char text[64];
    for (size_t t = 0; t < (WITH_TSAN && how->method == TD_FORK ? 2 : 3); t++) { /* no threads in copies */
        for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
            td_worker *w = run(how, targets[t], TD_VAL(codes[i]));
            CHECK_INT(td_outcome(w), TD_CRASHED);
            CHECK_INT(td_exitcode(w), codes[i] & 255);
            CHECK_INT(td_result_code(w), TD_NO_CODE);
            snprintf(text, sizeof text, "exited with status %d", codes[i] & 255);
            CHECK_HAS(td_message(w), text);
            CHECK_HAS(td_describe(w), text);
            td_free(w);
        }
    }
    WAIT_UNTIL(others_zombies() == 0, 10);
    CHECK_INT(event_count(MAIN_HANDLER), 0);
}

/* The same for quick_exit, which gives no handler its status: so those of a fork worker's copy run, as after any fork.
 */
TEST_METHODS(quick_exit_in_the_target)
{
    td_worker *w = run(how, quick_exits, TD_ARG(int, 3));
    CHECK_INT(td_outcome(w), TD_CRASHED);
    CHECK_INT(td_exitcode(w), 3);
    td_free(w);
}

static void worker_handler(void)
{
    event_add(WORKER_HANDLER);
}

static int registers_handler(td_call *call)
{
    (void)call;
    atexit(worker_handler);
    return 0;
}

/* Catches: a worker that ends through exit() when its target returns, and so runs what the program registered. */
TEST_METHODS(return_runs_no_handlers_of_the_program)
{
    atexit(main_handler);
    td_worker *w = run(how, registers_handler, none);
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
    CHECK_INT(event_count(MAIN_HANDLER), 0);
}

static int ends_its_thread(td_call *call)
{
    (void)call;
    pthread_exit(0);
}

/* Catches: a target that leaves by pthread_exit, after which join waits for ever. */
TEST_MODES(pthread_exit_in_the_target)
{
    if (WITH_TSAN && how->kind == TD_PROCESS)
        SKIP("the sanitizer's own thread keeps the process alive");
    td_worker *w = run(how, ends_its_thread, none);
    CHECK(td_outcome(w) == TD_CRASHED || td_outcome(w) == TD_FAILED);
    CHECK(!td_is_alive(w));
    td_free(w);
}

/* --- the hook ---------------------------------------------------------------------------------------------- */

static atomic_int told;
static td_failure last;
static char last_name[64], last_message[256], last_sentence[512];
static pthread_t told_on;

static void hook(const td_failure *failure)
{
    last = *failure;
    snprintf(last_name, sizeof last_name, "%s", failure->name);
    snprintf(last_message, sizeof last_message, "%s", failure->message);
    snprintf(last_sentence, sizeof last_sentence, "%s", failure->sentence);
    told_on = pthread_self();
    atomic_fetch_add(&told, 1);
}

static void other_hook(const td_failure *failure)
{
    (void)failure;
}

/* Catches: a failure that nobody hears of. */
TEST_MODES(hook_is_told_once)
{
    td_set_failure_hook(hook);
    td_worker *w = run(how, fails, none);
    pid_t pid = td_pid(w);
    CHECK_INT(atomic_load(&told), 0);
    td_free(w);
    CHECK_INT(atomic_load(&told), 1);
    CHECK_STR(last_name, "resize");
    CHECK_STR(last_message, "cannot read 'photo.jpg', item 7");
    CHECK_INT(last.kind, how->kind);
    CHECK_INT(last.pid, pid);
    CHECK_INT(last.outcome, TD_FAILED);
    CHECK_INT(last.exitcode, 42);
    CHECK_HAS(last_sentence, "resize");
    CHECK_HAS(last_sentence, "cannot read 'photo.jpg', item 7");
    CHECK(pthread_equal(told_on, pthread_self()));
    CHECK_OK(td_finish());
    CHECK_INT(atomic_load(&told), 1);
}

TEST_METHODS(hook_is_told_of_a_crash)
{
    td_set_failure_hook(hook);
    td_free(run(how, dies_of, TD_ARG(int, SIGKILL)));
    CHECK_INT(atomic_load(&told), 1);
    CHECK_INT(last.outcome, TD_CRASHED);
    CHECK_INT(last.exitcode, -SIGKILL);
    CHECK_STR(last_message, "killed by SIGKILL");
    CHECK_HAS(last_sentence, "SIGKILL");
}

/* Catches: noise about failures that were looked at, about successes and cancellations. */
TEST_MODES(hook_is_not_told)
{
    td_set_failure_hook(hook);
    for (int way = 0; way < 6; way++) {
        td_worker *w = run(how, fails, none);
        switch (way) {
        case 0:
            td_outcome(w);
            break;
        case 1:
            td_result_code(w);
            break;
        case 2:
            td_exitcode(w);
            break;
        case 3:
            td_describe(w);
            break;
        case 4:
            td_result_str(w);
            break;
        case 5:
            td_result_bytes(w, 0);
            break;
        }
        td_free(w);
        CHECK_INT(atomic_load(&told), 0);
    }
    CHECK_INT(td_run(NEW(.target = fails)), 42);
    td_free(run(how, returns_arg, TD_ARG(int, 0)));
    td_free(run(how, cancels, none));
    CHECK_OK(td_finish());
    CHECK_INT(atomic_load(&told), 0);
}

/* Catches: a question before the end that counts as having asked. */
TEST_MODES(asking_too_early_does_not_count)
{
    td_set_failure_hook(hook);
    td_worker *w = WORKER(NEW(.target = fails));
    CHECK_INT(td_outcome(w), TD_CREATED);
    CHECK_INT(td_exitcode(w), TD_NO_CODE);
    REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_join(w));
    td_free(w);
    CHECK_INT(atomic_load(&told), 1);
}

static int fails_after_go(td_call *call)
{
    event_add(STARTED);
    event_wait(GO);
    return td_fail(call, 9, "late");
}

/* Catches: the failure of a worker that was let go while it ran. */
TEST_MODES(hook_is_told_of_freed_workers)
{
    td_set_failure_hook(hook);
    td_worker *w = WORKER(NEW(.target = fails_after_go, .name = "orphan"));
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    td_free(w);
    event_set(GO);
    CHECK_OK(td_finish());
    CHECK_INT(atomic_load(&told), 1);
    CHECK_STR(last_message, "late");
    CHECK_STR(last_name, "orphan");
}

static void slow_hook(const td_failure *failure)
{
    event_set(IN_HOOK);
    pause_ms(100); /* for what must not go on, to do so */
    hook(failure);
}

/* A thread's failure, which it tells of itself. */
static void fail_without_a_handle(void)
{
    td_worker *w = WORKER(td_thread(.target = fails_after_go));
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    td_free(w);
    event_set(GO);
}

/* Catches: an end of the program that goes on while a thread that nobody holds is still telling. */
TEST(finish_waits_for_the_hook)
{
    td_set_failure_hook(slow_hook);
    fail_without_a_handle();
    event_wait(IN_HOOK);
    CHECK_OK(td_finish());
    CHECK_INT(atomic_load(&told), 1);
}

static int starts_another(td_call *call)
{
    (void)call;
    pause_ms(100); /* for the end of the program to come as far as it can */
    return td_run(td_thread(.target = nothing));
}

static void hook_that_starts(const td_failure *failure)
{
    hook(failure);
    td_worker *w = WORKER(td_thread(.target = starts_another));
    CHECK_OK(td_start(w));
    td_free(w);
}

/* Catches: an end of the program that keeps those from starting workers whom it waits for. */
TEST(hook_that_starts_workers)
{
    td_set_failure_hook(hook_that_starts);
    td_worker *w = JOINED(td_thread(.target = fails));
    CHECK_OK(td_finish());
    CHECK_INT(atomic_load(&told), 1);
    CHECK_INT(td_active_count(), 1);
    td_free(w);
}

static void hook_that_ends(const td_failure *failure)
{
    (void)failure;
    CHECK_ERROR(td_finish(), TD_EDEADLOCK);
    atomic_fetch_add(&told, 1);
    pthread_exit(NULL);
}

/* Catches: a hook that ends its thread, which is waited for ever after. */
TEST(hook_that_leaves)
{
    td_set_failure_hook(hook_that_ends);
    fail_without_a_handle();
    WAIT_UNTIL(atomic_load(&told) == 1, 20);
    CHECK_OK(td_finish());
}

/* Catches: the failure of a worker that the program still holds at its end. */
TEST_MODES(hook_is_told_by_td_finish)
{
    td_set_failure_hook(hook);
    td_worker *w = run(how, fails, none);
    CHECK_OK(td_finish());
    CHECK_INT(atomic_load(&told), 1);
    CHECK_INT(td_result_code(w), 42);
    td_free(w);
    CHECK_INT(atomic_load(&told), 1);
}

/* Catches: the hook set being another than the one told; NULL not restoring the default. */
TEST(hook_is_replaced)
{
    td_failure_hook *first = td_set_failure_hook(hook);
    CHECK(td_set_failure_hook(other_hook) == hook);
    CHECK(td_set_failure_hook(0) == other_hook);
    CHECK(td_set_failure_hook(hook) == first || first == 0);
    td_set_failure_hook(other_hook);
    td_free(run(&mode_thread, fails, none));
    CHECK_INT(atomic_load(&told), 0);
}

static void hook_that_uses_the_library(const td_failure *failure)
{
    (void)failure;
    if (atomic_fetch_add(&told, 1) == 0)
        td_free(run(&mode_thread, fails, none));
}

/* Catches: a lock that is held while the hook runs. */
TEST_MODES(hook_may_use_the_library)
{
    td_set_failure_hook(hook_that_uses_the_library);
    td_free(run(how, fails, none));
    CHECK_INT(atomic_load(&told), 2);
}

/* The helper's failing worker is freed without a question, by the default hook. Its argument: 0 freed, 1 left to
 * exit(), 2 asked. */
HELPER(default_hook)
{
    REQUIRE(argc == 3);
    const mode *how = strcmp(argv[1], "thread") == 0 ? &mode_thread
                      : strcmp(argv[1], "fork") == 0 ? &mode_fork
                                                     : &mode_forkserver;
    td_worker *w = run(how, fails, none);
    if (argv[2][0] == '2')
        td_outcome(w);
    if (argv[2][0] != '1')
        td_free(w);
    return 0;
}

/* Catches: a default hook that is silent, prints on standard output, or more than one line; an end of the program that
 * tells nobody. */
TEST_MODES(default_hook_prints_one_line)
{
    for (int way = 0; way < 3; way++) {
        char *text, way_text[] = { (char)('0' + way), 0 };
        int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
        helper_options o = { .streams = { 0, null, 0 } };
        if (WITH_ASAN && way == 1)
            continue; /* the handle is left to the end of the program: a leak */
        CHECK_INT(helper_output(&text, &o, "default_hook", how->name, way_text, NULL), 0);
        if (way == 2) {
            CHECK_STR(text, "");
        } else {
            CHECK_HAS(text, "resize");
            CHECK_HAS(text, "cannot read 'photo.jpg', item 7");
            CHECK(strchr(text, '\n') == text + strlen(text) - 1);
        }
        free(text);
        close(null);
    }
}

/* --- words ------------------------------------------------------------------------------------------------- */

TEST(state_names)
{
    CHECK_STR(td_state_name(TD_CREATED), "created");
    CHECK_STR(td_state_name(TD_RUNNING), "running");
    CHECK_STR(td_state_name(TD_RETURNED), "returned");
    CHECK_STR(td_state_name(TD_FAILED), "failed");
    CHECK_STR(td_state_name(TD_CRASHED), "crashed");
    CHECK_STR(td_state_name(TD_TIMED_OUT), "timed out");
    CHECK_STR(td_state_name(TD_CANCELLED), "cancelled");
    CHECK(td_state_name((td_state)99) != 0);
    CHECK(td_state_name((td_state)-1) != 0);
}

/* Catches: a sentence that is missing in one of the states. */
TEST_MODES(describe_in_every_state)
{
    td_worker *w = WORKER(NEW(.target = until_go, .name = "resize"));
    CHECK_HAS(td_describe(w), "resize");
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    CHECK_HAS(td_describe(w), "resize");
    event_set(GO);
    REQUIRE_OK(td_join(w));
    CHECK_HAS(td_describe(w), "resize");
    td_free(w);
}
