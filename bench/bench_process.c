/* SPDX-License-Identifier: MIT */
/*
 * What does it cost to start a process that does nothing, and to join it? And does it depend on the parent's size?
 *
 * Linked a second time with libcurl, as bench_process_curl: an image with many libraries is dearer to fork, for the
 * spawner too. The driver takes that executable's servers into the same table.
 */
#include "common.h"
#include "futex.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <tandem.h>
#include <unistd.h>

extern char **environ;

enum { PROOF = 7, IDLE_NS = 3000000, WORK_NS = 500000, WARM = 5 };

/* --- Tandem ----------------------------------------------------------------------------------------------------- */

static int nothing(td_call *call)
{
    (void)call;
    return 0;
}

static void start_join_free(td_method method)
{
    td_worker *w = td_process(.target = nothing, .method = method);
    if (td_start(w) < 0 || td_join(w) < 0)
        bench_fail("td_start, td_join: %s", td_last_message());
    if (td_outcome(w) != TD_RETURNED || td_result_code(w) != 0 || td_exitcode(w) != 0)
        bench_fail("%s", td_describe(w));
    td_free(w);
}

static void start_join_spare(void)
{
    start_join_free(TD_FORKSERVER);
}

static void start_join_fork(void)
{
    start_join_free(TD_FORK);
}

static size_t tandem_sustained(long n, double *values)
{
    values[0] = bench_mean_ns(WARM, n, start_join_spare);
    return 1;
}

static void sleep_before(void)
{
    bench_idle(IDLE_NS);
}

static void work_before(void)
{
    for (int64_t end = bench_now() + WORK_NS; bench_now() < end;)
        continue;
}

/* The median of single ones. Before each the caller sleeps: the processors have gone to sleep, the caches are others'.
 * Or it works: its own processor is awake. */
static double single(long n, void (*before)(void), void (*once)(void))
{
    double times[n];
    for (long i = -WARM; i < n; i++) {
        before();
        int64_t begin = bench_now();
        once();
        if (i >= 0)
            times[i] = (double)(bench_now() - begin);
    }
    return bench_median(times, (size_t)n);
}

/* One at a time: the spawner has time to fork the next spare before each start. */
static size_t tandem_single(long n, double *values)
{
    values[0] = single(n, sleep_before, start_join_spare);
    return 1;
}

static size_t tandem_single_awake(long n, double *values)
{
    values[0] = single(n, work_before, start_join_spare);
    return 1;
}

static size_t tandem_fork(long n, double *values)
{
    values[0] = bench_mean_ns(n < WARM ? 1 : WARM, n, start_join_fork); /* so few: dear, 2 GiB */
    return 1;
}

/* What a fork of the spawner's own image costs: what the sustained starts are measured by. */

static void wait_proof(pid_t pid, const char *what)
{
    int status;
    if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != PROOF)
        bench_fail("%s: the child did not exit as it should", what);
}

static void fork_wait(void)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(PROOF);
    if (pid < 0)
        bench_fail("fork: %s", strerror(errno));
    wait_proof(pid, "fork");
}

static int fork_in_image(td_call *call)
{
    return td_return(call, double, bench_mean_ns(WARM, td_arg(call, long), fork_wait));
}

static size_t image(long n, double *values)
{
    td_worker *w = td_process(.target = fork_in_image, .args = TD_VAL(n));
    if (td_start(w) < 0 || td_join(w) < 0)
        bench_fail("td_start, td_join: %s", td_last_message());
    if (td_outcome(w) != TD_RETURNED)
        bench_fail("%s", td_describe(w));
    if (td_result(w, double, values) < 0)
        bench_fail("td_result: %s", td_last_message());
    td_free(w);
    return 1;
}

/* --- peers ------------------------------------------------------------------------------------------------------ */

static size_t with_fork(long n, double *values)
{
    values[0] = bench_mean_ns(1, n, fork_wait);
    return 1;
}

static const char *tiny;

static void vfork_exit(void)
{
    pid_t pid = vfork();
    if (pid == 0)
        _exit(PROOF);
    if (pid < 0)
        bench_fail("vfork: %s", strerror(errno));
    wait_proof(pid, "vfork");
}

static void vfork_exec(void)
{
    pid_t pid = vfork();
    if (pid == 0) {
        execl(tiny, tiny, (char *)NULL);
        _exit(127);
    }
    if (pid < 0)
        bench_fail("vfork: %s", strerror(errno));
    wait_proof(pid, tiny);
}

static void spawn(void)
{
    pid_t pid;
    char *argv[] = { (char *)(uintptr_t)tiny, NULL };
    int error = posix_spawn(&pid, tiny, NULL, NULL, argv, environ);
    if (error)
        bench_fail("posix_spawn %s: %s", tiny, strerror(error));
    wait_proof(pid, tiny);
}

static size_t with_vfork(long n, double *values)
{
    values[0] = bench_mean_ns(WARM, n, vfork_exit);
    return 1;
}

static size_t with_vfork_exec(long n, double *values)
{
    values[0] = bench_mean_ns(WARM, n, vfork_exec);
    return 1;
}

static size_t with_fork_single(long n, double *values)
{
    values[0] = single(n, sleep_before, fork_wait);
    return 1;
}

static size_t with_vfork_exec_single(long n, double *values)
{
    values[0] = single(n, sleep_before, vfork_exec);
    return 1;
}

static size_t with_vfork_exec_single_awake(long n, double *values)
{
    values[0] = single(n, work_before, vfork_exec);
    return 1;
}

static size_t with_spawn(long n, double *values)
{
    values[0] = bench_mean_ns(WARM, n, spawn);
    return 1;
}

/* --- limit: a process that exists already ----------------------------------------------------------------------- */

static struct {
    bench_turns *turns;
    pid_t pid;
    uint32_t taken;
} parked;

static void park(long turns)
{
    parked.turns = bench_share(sizeof *parked.turns);
    parked.taken = 0;
    parked.pid = fork();
    if (parked.pid == 0) {
        bench_turns_park(parked.turns, turns);
        _exit(PROOF);
    }
    if (parked.pid < 0)
        bench_fail("fork: %s", strerror(errno));
}

static void take_turn(void)
{
    bench_turns_take(parked.turns, ++parked.taken);
}

static void unpark(void)
{
    wait_proof(parked.pid, "the parked process");
    bench_unshare(parked.turns, sizeof *parked.turns);
}

static size_t parked_process(long n, double *values)
{
    park(WARM + n);
    values[0] = bench_mean_ns(WARM, n, take_turn);
    unpark();
    return 1;
}

/* The same one at a time: what a start and join cannot do without, where both sides sleep. */
static size_t parked_process_single(long n, double *values)
{
    park(WARM + n);
    values[0] = single(n, sleep_before, take_turn);
    unpark();
    return 1;
}

static size_t parked_process_single_awake(long n, double *values)
{
    park(WARM + n);
    values[0] = single(n, work_before, take_turn);
    unpark();
    return 1;
}

static size_t parked_process_pinned(long n, double *values)
{
    bench_pin();
    parked_process(n, values);
    bench_unpin();
    return 1;
}

/* --- servers ---------------------------------------------------------------------------------------------------- */

static const bench_op tandem_ops[] = {
    { "single", tandem_single },
    { "single-awake", tandem_single_awake },
    { "sustained", tandem_sustained },
    { "fork", tandem_fork },
    { "image", image },
};

static const bench_op peer_ops[] = {
    { "fork", with_fork },
    { "fork-single", with_fork_single },
    { "vfork", with_vfork },
    { "vfork-exec", with_vfork_exec },
    { "vfork-exec-single", with_vfork_exec_single },
    { "vfork-exec-single-awake", with_vfork_exec_single_awake },
    { "spawn", with_spawn },
    { "parked", parked_process },
    { "parked-pinned", parked_process_pinned },
    { "parked-single", parked_process_single },
    { "parked-single-awake", parked_process_single_awake },
};

/* A parent of this size: private memory, every 4 KiB page of it touched, no huge pages. */
static void grow(long mib)
{
    size_t size = (size_t)mib << 20;
    volatile char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        bench_fail("mmap of %ld MiB: %s", mib, strerror(errno));
    madvise((void *)(uintptr_t)p, size, MADV_NOHUGEPAGE); /* EINVAL where the kernel has none anyway */
    for (size_t i = 0; i < size; i += 4096)
        p[i] = 1;
}

static bench_server tandem_small, tandem_large, tandem_curl, peers_small, peers_large, python;

#define NAME_IMAGE "limit: fork + _exit + waitpid in the spawner's own image"

static bench_row rows[] = {
    BENCH_ROW("vfork", BENCH_LIMIT, &peers_small, "vfork", 500, 100, "limit: vfork + _exit (no exec), 10 MB"),
    BENCH_ROW("parked", BENCH_LIMIT, &peers_small, "parked", 1000, 200,
              "limit: parked process, 2 futex hand-offs (free CPUs)"),
    BENCH_ROW("parked-pinned", BENCH_LIMIT, &peers_small, "parked-pinned", 5000, 1000,
              "limit: parked process, 2 futex hand-offs (both on 1 CPU)"),
    BENCH_ROW("parked-single", BENCH_LIMIT, &peers_small, "parked-single", 60, 20,
              "limit: parked process, 2 futex hand-offs, one at a time (free CPUs)"),
    BENCH_ROW("parked-single-awake", BENCH_LIMIT, &peers_small, "parked-single-awake", 200, 40,
              "limit: parked process, 2 futex hand-offs, one at a time, caller awake (free CPUs)"),
    BENCH_ROW("image", BENCH_LIMIT, &tandem_small, "image", 300, 100, NAME_IMAGE),
    BENCH_ROW("image-curl", BENCH_LIMIT, &tandem_curl, "image", 300, 100, NAME_IMAGE ", with libcurl"),
    BENCH_ROW("td-single", BENCH_TANDEM, &tandem_small, "single", 60, 20, "Tandem td_process, one at a time, 10 MB"),
    BENCH_ROW("td-single-awake", BENCH_TANDEM, &tandem_small, "single-awake", 200, 40,
              "Tandem td_process, one at a time, caller awake, 10 MB"),
    BENCH_ROW("td-single-awake-large", BENCH_TANDEM, &tandem_large, "single-awake", 200, 40,
              "Tandem td_process, one at a time, caller awake, 2 GiB"),
    BENCH_ROW("td-single-large", BENCH_TANDEM, &tandem_large, "single", 60, 20,
              "Tandem td_process, one at a time, 2 GiB"),
    BENCH_ROW("td-single-curl", BENCH_TANDEM, &tandem_curl, "single", 60, 20,
              "Tandem td_process, one at a time, 10 MB, with libcurl"),
    BENCH_ROW("td-sustained", BENCH_TANDEM, &tandem_small, "sustained", 300, 100,
              "Tandem td_process, sustained, 10 MB"),
    BENCH_ROW("td-sustained-large", BENCH_TANDEM, &tandem_large, "sustained", 300, 100,
              "Tandem td_process, sustained, 2 GiB"),
    BENCH_ROW("td-sustained-curl", BENCH_TANDEM, &tandem_curl, "sustained", 300, 100,
              "Tandem td_process, sustained, 10 MB, with libcurl"),
    BENCH_ROW("td-fork", BENCH_TANDEM, &tandem_small, "fork", 100, 30, "Tandem td_process, method fork, 10 MB"),
    BENCH_ROW("td-fork-large", BENCH_TANDEM, &tandem_large, "fork", 3, 1, "Tandem td_process, method fork, 2 GiB"),
    BENCH_ROW("fork", BENCH_PEER, &peers_small, "fork", 200, 60, "fork + _exit + waitpid, 10 MB"),
    BENCH_ROW("fork-single", BENCH_PEER, &peers_small, "fork-single", 60, 20,
              "fork + _exit + waitpid, one at a time, 10 MB"),
    BENCH_ROW("fork-large", BENCH_PEER, &peers_large, "fork", 3, 1, "fork + _exit + waitpid, 2 GiB"),
    BENCH_ROW("vfork-exec", BENCH_PEER, &peers_small, "vfork-exec", 300, 60, "vfork + exec tiny static, 10 MB"),
    BENCH_ROW("vfork-exec-single", BENCH_PEER, &peers_small, "vfork-exec-single", 60, 20,
              "vfork + exec tiny static, one at a time, 10 MB"),
    BENCH_ROW("vfork-exec-single-awake", BENCH_PEER, &peers_small, "vfork-exec-single-awake", 200, 40,
              "vfork + exec tiny static, one at a time, caller awake, 10 MB"),
    BENCH_ROW("spawn", BENCH_PEER, &peers_small, "spawn", 300, 60, "posix_spawn tiny static, 10 MB"),
    BENCH_ROW("spawn-large", BENCH_PEER, &peers_large, "spawn", 300, 60, "posix_spawn tiny static, 2 GiB"),
    BENCH_ROW("python-fork", BENCH_PEER, &python, "fork", 50, 10, "Process fork"),
    BENCH_ROW("python-forkserver", BENCH_PEER, &python, "forkserver", 30, 5, "Process forkserver"),
    BENCH_ROW("python-spawn", BENCH_PEER, &python, "spawn", 5, 2, "Process spawn"),
};

/* 60 µs is the target where a sustained vfork + exec takes 77: the second line is the same on other machines. */
static const bench_comparison comparisons[] = {
    { "td_process one at a time, caller awake", "td-single-awake", NULL, 60, NULL },
    { "td_process one at a time, caller awake / vfork + exec tiny static", "td-single-awake", "vfork-exec", 0.78,
      NULL },
    { "td_process one at a time, caller awake / parked process, the same", "td-single-awake", "parked-single-awake", 0,
      NULL },
    { "td_process one at a time, caller awake / vfork + exec tiny static, the same", "td-single-awake",
      "vfork-exec-single-awake", 0, NULL },
    { "td_process one at a time", "td-single", NULL, 0, NULL },
    { "td_process one at a time / vfork + exec tiny static, one at a time", "td-single", "vfork-exec-single", 0, NULL },
    { "td_process one at a time / parked process, one at a time", "td-single", "parked-single", 0, NULL },
    { "td_process sustained / fork in the spawner's own image", "td-sustained", "image", 1.1, NULL },
    { "td_process sustained / fork in the spawner's own image, with libcurl", "td-sustained-curl", "image-curl", 1.1,
      NULL },
    { "td_process one at a time, caller awake, parent 2 GiB / 10 MB", "td-single-awake-large", "td-single-awake", 1.1,
      NULL },
    { "td_process one at a time, parent 2 GiB / 10 MB", "td-single-large", "td-single", 0, NULL },
    { "td_process sustained, parent 2 GiB / 10 MB", "td-sustained-large", "td-sustained", 1.1, NULL },
    { "td_process method fork / fork, 10 MB", "td-fork", "fork", 0, NULL },
    { "td_process method fork / fork, 2 GiB", "td-fork-large", "fork-large", 0, NULL },
    { "CPython Process forkserver / td_process sustained", "python-forkserver", "td-sustained", 0, NULL },
};

static const char *const notes[] = {
    "a figure is the mean of a loop of start + join (Tandem: create + start + join + outcome + free); \"one at a "
    "time\": the median of single ones, 3 ms of sleep before each, not counted; the table has the median of the "
    "rounds' figures; \"caller awake\": it computes for 0.5 ms before each instead of sleeping",
    "10 MB, 2 GiB: so much private memory touched by the parent, in 4 KiB pages; every exit code is checked",
};

static const bench_metric metrics[] = { { "start_join_us", "start + join", "µs", 1e-3, false, NULL } };

static bench_server server(const char *executable, const char *role, const char *mib)
{
    return (bench_server){ .argv = { executable, "--serve", role, "--mib", mib } };
}

static void set_up_servers(void)
{
    const char *curl = bench_beside("bench_process_curl");
    tandem_small = server(bench_self(), "tandem", "10");
    tandem_large = server(bench_self(), "tandem", "2048");
    tandem_curl = server(curl, "tandem", "10");
    peers_small = server(bench_self(), "peers", "10");
    peers_large = server(bench_self(), "peers", "2048");
    if (curl == NULL)
        tandem_curl.missing = "built without libcurl";
    if (bench_kib_in("/proc/meminfo", "MemAvailable:") < 6 << 20)
        tandem_large.missing = peers_large.missing = "less than 6 GiB of memory available";
    bench_python_rows(&python, "peers.py", rows, sizeof rows / sizeof *rows);
}

int main(int argc, char **argv)
{
    td_init();
    const char *serve = bench_option(argc, argv, "--serve"), *mib = bench_option(argc, argv, "--mib");
    if (serve) {
        tiny = bench_beside("bench_tiny");
        if (tiny == NULL)
            bench_fail("bench_tiny is not beside this program");
        grow(mib ? atol(mib) : 10);
        return strcmp(serve, "tandem") == 0 ? bench_serve(tandem_ops, sizeof tandem_ops / sizeof *tandem_ops)
                                            : bench_serve(peer_ops, sizeof peer_ops / sizeof *peer_ops);
    }

    set_up_servers();
    bench b = {
        .name = strstr(bench_self(), "bench_process_curl") ? "bench_process_curl" : "bench_process",
        .title = "process start + join of an empty function",
        .metrics = metrics,
        .metric_count = 1,
        .rows = rows,
        .row_count = sizeof rows / sizeof *rows,
        .bold = { "vfork" },
        .comparisons = comparisons,
        .comparison_count = sizeof comparisons / sizeof *comparisons,
        .notes = notes,
        .note_count = sizeof notes / sizeof *notes,
    };
    return bench_main(&b, argc, argv);
}
