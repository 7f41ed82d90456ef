/* SPDX-License-Identifier: MIT */
/*
 * Every call that the library makes of the system fails once, in turn: the n-th, for n = 1, 2, 3... until a run goes
 * through without meeting it. Each run either works or says what failed; it neither hangs nor crashes; and after
 * td_finish nothing is left, whatever failed.
 */
#include "harness.h"

#include <dlfcn.h>
#include <malloc.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>

#if defined(TD_FAULTS) && TD_FAULTS
#include "os/fault.h"

enum { PAYLOAD = 100000 };

static unsigned char payload[PAYLOAD];

static int echo(td_call *call)
{
    size_t size;
    const void *data = td_arg_bytes(call, &size);
    return td_return_bytes(call, data, size);
}

static int small(td_call *call)
{
    return td_return(call, int, td_arg(call, int) + 1);
}

/* What one_life runs, of the program or of a module loaded late, and what becomes of 41. */
static td_target *target = small;
static int answer = 42;

static atomic_int told;

static void hook(const td_failure *failure)
{
    (void)failure;
    atomic_fetch_add(&told, 1);
}

/* An error must come with its code and a sentence. */
static void check_said(int code)
{
    CHECK(code < 0);
    CHECK_INT(td_last_error(), code);
    CHECK(td_last_message()[0]);
}

/* One worker's life. The target must not run on a failed start, and a result that is reported must be right. */
static void one_life(const mode *how, bool big, bool sentinel)
{
    td_worker *w = big ? NEW(.target = echo, .args = TD_BYTES(payload, PAYLOAD), .name = "faulty")
                       : NEW(.target = target, .args = TD_ARG(int, 41), .name = "faulty");
    if (!w) {
        check_said(td_last_error());
        return;
    }
    int code = td_start(w);
    if (code < 0) {
        check_said(code);
        CHECK_INT(td_outcome(w), TD_CREATED);
        CHECK(!td_is_alive(w));
        td_free(w);
        return;
    }
    if (sentinel) {
        int fd = td_sentinel(w);
        if (fd < 0)
            check_said(fd);
    }
    if (!CHECK_OK(td_join_for(w, td_s(20)))) {
        td_kill(w);
        harness_note("    hangs: %s", td_describe(w));
        _exit(1);
    }
    td_state state = td_outcome(w);
    if (state == TD_RETURNED) {
        size_t size;
        const void *result = td_result_bytes(w, &size);
        if (big) {
            if (result || td_last_error() != TD_ENOMEM) /* a copy may fail here too */
                CHECK(result && size == PAYLOAD && memcmp(result, payload, PAYLOAD) == 0);
        } else {
            int number = 0;
            code = td_result(w, int, &number);
            if (code == 0)
                CHECK_INT(number, answer);
            else
                check_said(code);
        }
    } else {
        CHECK(state == TD_FAILED || state == TD_CRASHED);
        CHECK(td_describe(w)[0]);
        if (state == TD_FAILED)
            CHECK(td_message(w)[0]);
    }
    td_free(w);
}

struct counts {
    int fds, threads, processes, memory_files;
};

/* After td_finish: of threads only this one is left. */
static struct counts count(void)
{
    for (int i = 0; i < 1000 && !WITH_TSAN && count_threads() > 1; i++) /* a joined thread takes a moment to go */
        pause_ms(1);
    return (struct counts){ count_fds(), WITH_TSAN ? 0 : count_threads(), others(), count_maps("memfd:") };
}

/* Until the processes of the library have come to rest: a spare may still be on its way. */
static void settle(void)
{
    for (long seen = -1; seen != td__fault_count();) {
        seen = td__fault_count();
        pause_ms(SANITIZED ? 20 : 3);
    }
}

/* What is different, in the n-th round, from what the spawner was started with; NULL: nothing. */
static void (*surroundings)(long n);

/* warm: the spawner runs before the fault is armed. */
static void each_call_fails_once(const mode *how, bool big, bool warm, bool sentinel)
{
    td_set_failure_hook(hook);
    for (size_t i = 0; i < PAYLOAD; i++)
        payload[i] = (unsigned char)(i * 7);
    mallopt(M_ARENA_MAX, 1);
    one_life(how, big, sentinel);
    CHECK_OK(td_finish());
    struct counts before = count();
    long fired_at = 0;
    for (long n = 1;; n++) {
        if (warm) {
            one_life(how, big, sentinel);
            settle();
        }
        if (surroundings)
            surroundings(n);
        td__fault_arm(n);
        one_life(how, big, sentinel);
        settle();
        bool fired = td__fault_fired();
        td__fault_disarm();
        one_life(how, big, sentinel); /* the next one, without a fault: it must work */
        int finished = td_finish();
        CHECK_INT(finished, 0);
        struct counts after = count();
        bool same = after.fds == before.fds && after.threads == before.threads && after.processes == before.processes &&
                    after.memory_files == before.memory_files;
        if (!same) {
            CHECK_INT(after.fds, before.fds);
            CHECK_INT(after.threads, before.threads);
            CHECK_INT(after.processes, before.processes);
            CHECK_INT(after.memory_files, before.memory_files);
            harness_note("    after the failure of call %ld", n);
            print_family(getpid());
            before = after;
        }
        if (page->failures > 20)
            return;
        fired_at = fired ? n : fired_at;
        if (n - fired_at >= 3) { /* the order of calls in several processes is not the same each time */
            harness_note("%ld calls", fired_at);
            CHECK(fired_at > 1);
            return;
        }
        REQUIRE(n < 3000);
    }
}

/* Catches: a call whose failure nobody looks at; a path back that forgets something. */
TEST_MODES(each_call_fails_once_first_start)
{
    each_call_fails_once(how, false, false, false);
}

TEST_MODES(each_call_fails_once_next_start)
{
    each_call_fails_once(how, false, true, false);
}

TEST_MODES(each_call_fails_once_with_big_values)
{
    each_call_fails_once(how, true, true, false);
}

TEST_MODES(each_call_fails_once_with_a_sentinel)
{
    each_call_fails_once(how, false, true, true);
}

/* Of the environment, the umask, the limits and the nice value. */
static void change_surroundings(long n)
{
    char round[32];
    snprintf(round, sizeof round, "%ld", n);
    setenv("ROUND", round, 1);
    umask(n % 2 ? 022 : 027);
    struct rlimit limit;
    REQUIRE(getrlimit(RLIMIT_SIGPENDING, &limit) == 0);
    limit.rlim_cur = limit.rlim_max - (rlim_t)(n % 2);
    REQUIRE(setrlimit(RLIMIT_SIGPENDING, &limit) == 0);
    if (geteuid() == 0)
        REQUIRE(setpriority(PRIO_PROCESS, 0, (int)(n % 2)) == 0);
}

/* The same with surroundings that differ from the spawner's, and a module that it does not know. */
TEST_METHODS(each_call_fails_once_with_other_surroundings)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/module_plugin.so", self_dir());
    void *module = dlopen(path, RTLD_NOW), *symbol = module ? dlsym(module, "plugin_add") : 0;
    REQUIRE(symbol != 0);
    one_life(how, false, false);
    memcpy(&target, &symbol, sizeof symbol);
    answer = 1041;
    static char value[20000];
    memset(value, 'v', sizeof value - 1);
    setenv("LARGE", value, 1);
    REQUIRE(chdir(harness_dir) == 0);
    surroundings = change_surroundings;
    each_call_fails_once(how, false, true, false);
}

/* Everything that td_finish itself does fails, in turn. */
TEST_MODES(each_call_of_finish_fails_once)
{
    td_set_failure_hook(hook);
    one_life(how, false, false);
    CHECK_OK(td_finish());
    struct counts before = count();
    for (long n = 1;; n++) {
        one_life(how, false, false);
        td__fault_arm(n);
        td_finish();
        bool fired = td__fault_fired();
        td__fault_disarm();
        td_finish();
        WAIT_UNTIL(others() == before.processes, 5);
        CHECK_INT(count_fds(), before.fds);
        CHECK_INT(count_maps("memfd:"), before.memory_files);
        if (!fired)
            break;
        if (page->failures > 20 || n > 1000)
            break;
    }
}

static int refuse_politely(td_call *call)
{
    return td_fail(call, 7, "there is no paper in tray %d", 3);
}

/* Catches: an outcome that is lost with the memory for what there is to say about it. */
TEST(outcomes_survive_without_memory)
{
    bool whole = false;
    for (long n = 1; !whole && n < 100; n++) {
        td_worker *w = td_thread(.target = refuse_politely, .name = "printer");
        REQUIRE(w != 0);
        CHECK_INT(td_outcome(w), TD_CREATED);
        td__fault_arm(n);
        int code = td_set_name(w, "plotter");
        CHECK_STR(td_name(w), code < 0 ? "printer" : "plotter");
        code = td_start(w);
        if (code < 0) {
            check_said(code);
            CHECK_OK(td_start(w));
        }
        CHECK_OK(td_join(w));
        const char *message = td_message(w), *sentence = td_describe(w);
        char before[1024];
        snprintf(before, sizeof before, "%s", sentence);
        whole = !td__fault_fired();
        td__fault_disarm();
        CHECK_INT(td_outcome(w), TD_FAILED);
        CHECK_INT(td_result_code(w), 7);
        CHECK_INT(td_exitcode(w), 7);
        CHECK(message[0] && strstr(sentence, "failed"));
        CHECK(td_describe(w)[0]);
        CHECK_STR(sentence, before); /* what was handed out stays, whatever there is memory for now */
        if (whole)
            CHECK_STR(sentence, "worker 'plotter' failed: there is no paper in tray 3");
        td_free(w);
    }
    CHECK(whole);
}

#else

/* Catches: nothing; shows that the build has no faults. */
TEST(faults)
{
    SKIP("built without TD_FAULTS");
}

#endif
