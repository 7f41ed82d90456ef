/* SPDX-License-Identifier: MIT */
/*
 * How much memory does an idle thread take, and how much an idle process?
 *
 * A server starts the workers and leaves them parked; the driver then reads, from outside, the server's (threads) or
 * the workers' (processes) /proc/PID/smaps_rollup, and how much the kernel's own counters have grown. Each figure is
 * taken in a fresh server.
 */
#include "common.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <tandem.h>
#include <unistd.h>

enum { THREADS = 200, PROCESSES = 100, PYTHON_PROCESSES = 20, WORKERS_MAX = 256, SETTLE_NS = 60000000 };

/* --- the workers ------------------------------------------------------------------------------------------------ */

static pthread_mutex_t gate_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t gate_changed = PTHREAD_COND_INITIALIZER;
static bool gate_open;
static long at_gate;

static void pass_gate(void)
{
    pthread_mutex_lock(&gate_lock);
    at_gate++;
    pthread_cond_broadcast(&gate_changed);
    while (!gate_open)
        pthread_cond_wait(&gate_changed, &gate_lock);
    pthread_mutex_unlock(&gate_lock);
}

static void await_at_gate(long n)
{
    pthread_mutex_lock(&gate_lock);
    while (at_gate < n)
        pthread_cond_wait(&gate_changed, &gate_lock);
    pthread_mutex_unlock(&gate_lock);
}

static void open_gate(void)
{
    pthread_mutex_lock(&gate_lock);
    gate_open = true;
    pthread_cond_broadcast(&gate_changed);
    pthread_mutex_unlock(&gate_lock);
}

static int wait_at_gate(td_call *call)
{
    (void)call;
    pass_gate();
    return 0;
}

static void *pthread_wait_at_gate(void *argument)
{
    pass_gate();
    return argument;
}

/* A process tells by a queued signal that it is where it will stay. */
static void announce(pid_t server)
{
    sigqueue(server, SIGRTMIN, (union sigval){ 0 });
}

static void await_announcements(long n)
{
    sigset_t set;
    const struct timespec limit = { 30, 0 };
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    for (long i = 0; i < n; i++)
        if (sigtimedwait(&set, NULL, &limit) < 0)
            bench_fail("%ld of %ld processes have not begun", n - i, n);
}

static void block_announcements(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, NULL);
}

static int sleep_for_ever(td_call *call)
{
    announce(td_arg(call, pid_t));
    while (pause() < 0)
        continue;
    return 0;
}

static int nothing(td_call *call)
{
    (void)call;
    return 0;
}

static void *pthread_nothing(void *argument)
{
    return argument;
}

/* --- Tandem ----------------------------------------------------------------------------------------------------- */

static td_worker *workers[WORKERS_MAX];

static size_t tandem_warm(td_worker *w)
{
    int code = td_run(w);
    if (code)
        bench_fail("td_run: %d, %s", code, td_last_message());
    return 0;
}

static size_t tandem_thread_warm(long n, double *values)
{
    (void)n, (void)values;
    return tandem_warm(td_thread(.target = nothing));
}

static size_t tandem_thread_park(long n, double *values)
{
    (void)values;
    for (long i = 0; i < n; i++) {
        workers[i] = td_thread(.target = wait_at_gate);
        if (td_start(workers[i]) < 0)
            bench_fail("td_start: %s", td_last_message());
    }
    await_at_gate(n);
    return 0;
}

static size_t tandem_thread_release(long n, double *values)
{
    (void)values;
    open_gate();
    for (long i = 0; i < n; i++) {
        if (td_join(workers[i]) < 0 || td_outcome(workers[i]) != TD_RETURNED)
            bench_fail("%s", td_describe(workers[i]));
        td_free(workers[i]);
    }
    return 0;
}

static size_t tandem_process_warm(long n, double *values)
{
    (void)n, (void)values;
    return tandem_warm(td_process(.target = nothing));
}

static size_t tandem_fork_warm(long n, double *values)
{
    (void)n, (void)values;
    return tandem_warm(td_process(.target = nothing, .method = TD_FORK));
}

static size_t park_processes(long n, double *values, td_method method)
{
    block_announcements();
    for (long i = 0; i < n; i++) {
        workers[i] = td_process(.target = sleep_for_ever, .args = TD_ARG(pid_t, getpid()), .method = method);
        if (td_start(workers[i]) < 0)
            bench_fail("td_start: %s", td_last_message());
        values[i] = (double)td_pid(workers[i]);
    }
    await_announcements(n);
    return (size_t)n;
}

static size_t tandem_process_park(long n, double *values)
{
    return park_processes(n, values, TD_FORKSERVER);
}

static size_t tandem_fork_park(long n, double *values)
{
    return park_processes(n, values, TD_FORK);
}

static size_t tandem_process_release(long n, double *values)
{
    (void)values;
    for (long i = 0; i < n; i++)
        if (td_kill(workers[i]) < 0)
            bench_fail("td_kill: %s", td_last_message());
    for (long i = 0; i < n; i++) {
        if (td_join(workers[i]) < 0 || td_outcome(workers[i]) != TD_CANCELLED || td_exitcode(workers[i]) != -SIGKILL)
            bench_fail("%s", td_describe(workers[i]));
        td_free(workers[i]);
    }
    return 0;
}

/* --- pthread, fork ---------------------------------------------------------------------------------------------- */

static pthread_t threads[WORKERS_MAX];
static pid_t children[WORKERS_MAX];

static size_t pthread_warm(long n, double *values)
{
    (void)n, (void)values;
    if (pthread_create(&threads[0], NULL, pthread_nothing, NULL) || pthread_join(threads[0], NULL))
        bench_fail("pthread_create, pthread_join");
    return 0;
}

static size_t pthread_park_with(long n, const pthread_attr_t *attr)
{
    for (long i = 0; i < n; i++)
        if (pthread_create(&threads[i], attr, pthread_wait_at_gate, NULL))
            bench_fail("pthread_create");
    await_at_gate(n);
    return 0;
}

static size_t pthread_park(long n, double *values)
{
    (void)values;
    return pthread_park_with(n, NULL);
}

static size_t pthread_park_64k(long n, double *values)
{
    (void)values;
    pthread_attr_t attr;
    if (pthread_attr_init(&attr) || pthread_attr_setstacksize(&attr, 64 << 10))
        bench_fail("pthread_attr_setstacksize");
    return pthread_park_with(n, &attr);
}

static size_t pthread_release(long n, double *values)
{
    (void)values;
    open_gate();
    for (long i = 0; i < n; i++)
        if (pthread_join(threads[i], NULL))
            bench_fail("pthread_join");
    return 0;
}

static pid_t fork_or_fail(void)
{
    pid_t pid = fork();
    if (pid < 0)
        bench_fail("fork: %s", strerror(errno));
    return pid;
}

static size_t fork_warm(long n, double *values)
{
    (void)n, (void)values;
    pid_t pid = fork_or_fail();
    if (pid == 0)
        _exit(0);
    if (waitpid(pid, NULL, 0) != pid)
        bench_fail("waitpid: %s", strerror(errno));
    return 0;
}

static size_t fork_park(long n, double *values)
{
    pid_t server = getpid();
    block_announcements();
    for (long i = 0; i < n; i++) {
        children[i] = fork_or_fail();
        if (children[i] == 0) {
            announce(server);
            while (pause() < 0)
                continue;
        }
        values[i] = (double)children[i];
    }
    await_announcements(n);
    return (size_t)n;
}

static size_t fork_release(long n, double *values)
{
    (void)values;
    for (long i = 0; i < n; i++)
        kill(children[i], SIGKILL);
    for (long i = 0; i < n; i++) {
        int status;
        if (waitpid(children[i], &status, 0) != children[i] || !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
            bench_fail("waitpid: the child did not end as it should");
    }
    return 0;
}

static const bench_op ops[] = {
    { "td-thread.warm", tandem_thread_warm },
    { "td-thread.park", tandem_thread_park },
    { "td-thread.release", tandem_thread_release },
    { "td-process.warm", tandem_process_warm },
    { "td-process.park", tandem_process_park },
    { "td-process.release", tandem_process_release },
    { "td-fork.warm", tandem_fork_warm },
    { "td-fork.park", tandem_fork_park },
    { "td-fork.release", tandem_process_release },
    { "pthread.warm", pthread_warm },
    { "pthread.park", pthread_park },
    { "pthread.release", pthread_release },
    { "pthread-64k.warm", pthread_warm },
    { "pthread-64k.park", pthread_park_64k },
    { "pthread-64k.release", pthread_release },
    { "c-fork.warm", fork_warm },
    { "c-fork.park", fork_park },
    { "c-fork.release", fork_release },
};

/* --- the driver: reading -------------------------------------------------------------------------------------- */

enum { RSS, PSS, PRIVATE_DIRTY, KERNEL, FIGURES };

/* Adds a process's figures to `sum`; KERNEL is not per process. */
static bool add_smaps(bench_row *row, pid_t pid, double *sum)
{
    static const char *const keys[] = { "Rss:", "Pss:", "Private_Dirty:" };
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)pid);
    for (int i = RSS; i < KERNEL; i++) {
        double kib = bench_kib_in(path, keys[i]);
        if (kib < 0) {
            bench_row_fail(row, "%s cannot be read", path);
            return false;
        }
        sum[i] += kib;
    }
    return true;
}

/* What the kernel keeps for itself, of the whole system: unreclaimable slabs, kernel stacks, page tables. */
static double kernel_kib(void)
{
    return bench_kib_in("/proc/meminfo", "SUnreclaim:") + bench_kib_in("/proc/meminfo", "KernelStack:") +
           bench_kib_in("/proc/meminfo", "PageTables:");
}

static double settled_kernel_kib(void)
{
    bench_idle(SETTLE_NS); /* the kernel frees late */
    return kernel_kib();
}

static bool ask(bench_row *row, const char *verb, long n, double *values, size_t *count)
{
    return bench_ask(row, bench_text("%s.%s", row->op, verb), n, values, count);
}

static bool measure_threads(bench_row *row, double *values)
{
    double before[FIGURES] = { 0 }, after[FIGURES] = { 0 };
    size_t count;
    if (!ask(row, "warm", 0, values, &count))
        return false;
    before[KERNEL] = settled_kernel_kib();
    if (!add_smaps(row, row->server->pid, before) || !ask(row, "park", row->n, values, &count))
        return false;
    after[KERNEL] = settled_kernel_kib();
    if (!add_smaps(row, row->server->pid, after))
        return false;
    if (!ask(row, "release", row->n, values, &count))
        return false;
    for (int i = 0; i < FIGURES; i++)
        values[i] = (after[i] - before[i]) / (double)row->n;
    return true;
}

static bool measure_processes(bench_row *row, double *values)
{
    double sum[FIGURES] = { 0 }, before;
    size_t count;
    if (!ask(row, "warm", 0, values, &count))
        return false;
    before = settled_kernel_kib();
    if (!ask(row, "park", row->n, values, &count))
        return false;
    if (count != (size_t)row->n) {
        bench_row_fail(row, "%zu processes instead of %ld", count, row->n);
        return false;
    }
    sum[KERNEL] = settled_kernel_kib() - before;
    for (size_t i = 0; i < count; i++)
        if (!add_smaps(row, (pid_t)values[i], sum))
            return false;
    if (!ask(row, "release", row->n, values, &count))
        return false;
    for (int i = 0; i < FIGURES; i++)
        values[i] = sum[i] / (double)row->n;
    return true;
}

static pid_t parent_of(pid_t pid)
{
    char path[64], line[512] = "";
    int parent = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return 0;
    char *name_end = fgets(line, sizeof line, f) ? strrchr(line, ')') : NULL;
    fclose(f);
    if (name_end == NULL || sscanf(name_end, ") %*c %d", &parent) != 1)
        return 0;
    return parent;
}

static bool is_below(pid_t pid, pid_t ancestor)
{
    for (pid = parent_of(pid); pid > 1; pid = parent_of(pid))
        if (pid == ancestor)
            return true;
    return false;
}

/* The library's own processes. The spawner is no child of the server; as an orphan it came to the driver. */
static size_t find_own(pid_t server, pid_t *found, size_t capacity)
{
    size_t n = 0;
    DIR *proc = opendir("/proc");
    if (proc == NULL)
        return 0;
    for (struct dirent *e = readdir(proc); e && n < capacity; e = readdir(proc)) {
        char *end, exe[PATH_MAX], path[64];
        long pid = strtol(e->d_name, &end, 10);
        if (*end || pid <= 1 || pid == server || pid == getpid())
            continue;
        snprintf(path, sizeof path, "/proc/%ld/exe", pid);
        ssize_t size = readlink(path, exe, sizeof exe - 1);
        if (size < 0)
            continue;
        exe[size] = 0;
        if (strcmp(exe, bench_self()) == 0 && is_below((pid_t)pid, getpid()))
            found[n++] = (pid_t)pid;
    }
    closedir(proc);
    return n;
}

/* What a program pays once it has started one process: the spawner and its warm spares, all together. */
static bool measure_fixed(bench_row *row, double *values)
{
    double sum[FIGURES] = { 0 }, before;
    pid_t found[WORKERS_MAX];
    size_t count, n;
    if (!bench_ask(row, "td-thread.warm", 0, values, &count))
        return false;
    before = settled_kernel_kib();
    if (!ask(row, "warm", 0, values, &count))
        return false;
    sum[KERNEL] = settled_kernel_kib() - before;
    n = find_own(row->server->pid, found, WORKERS_MAX);
    if (n == 0) {
        bench_row_fail(row, "no spawner found");
        return false;
    }
    for (size_t i = 0; i < n; i++)
        if (!add_smaps(row, found[i], sum))
            return false;
    memcpy(values, sum, sizeof sum);
    return true;
}

/* --- the driver: rows ------------------------------------------------------------------------------------------- */

static bench_server here, python;

#define ROW(in_group, row_id, of_kind, in_server, with_op, count, by, row_name)                            \
    {                                                                                                      \
        .id = (row_id), .name = (row_name), .group = (in_group), .kind = (of_kind), .server = (in_server), \
        .op = (with_op), .n = (count), .measure = (by)                                                     \
    }
#define THREAD_ROW(id, kind, server, op, n, name)      ROW("thread", id, kind, server, op, n, measure_threads, name)
#define PROCESS_ROW(id, kind, server, op, n, by, name) ROW("process", id, kind, server, op, n, by, name)

static bench_row rows[] = {
    THREAD_ROW("pthread", BENCH_PEER, &here, "pthread", THREADS, "pthread, default stack"),
    THREAD_ROW("pthread-64k", BENCH_PEER, &here, "pthread-64k", THREADS, "pthread, 64 KiB stack"),
    THREAD_ROW("td-thread", BENCH_TANDEM, &here, "td-thread", THREADS, "Tandem td_thread"),
    THREAD_ROW("python-thread", BENCH_PEER, &python, "thread", THREADS, "threading.Thread"),
    PROCESS_ROW("c-fork", BENCH_PEER, &here, "c-fork", PROCESSES, measure_processes, "forked C process"),
    PROCESS_ROW("td-process", BENCH_TANDEM, &here, "td-process", PROCESSES, measure_processes, "Tandem td_process"),
    PROCESS_ROW("td-fork", BENCH_TANDEM, &here, "td-fork", PROCESSES, measure_processes,
                "Tandem td_process, method fork"),
    PROCESS_ROW("td-fixed", BENCH_TANDEM, &here, "td-process", 1, measure_fixed,
                "Tandem's spawner and warm spares, once"),
    PROCESS_ROW("python-fork", BENCH_PEER, &python, "fork", PYTHON_PROCESSES, measure_processes, "Process fork"),
    PROCESS_ROW("python-forkserver", BENCH_PEER, &python, "forkserver", PYTHON_PROCESSES, measure_processes,
                "Process forkserver"),
    PROCESS_ROW("python-spawn", BENCH_PEER, &python, "spawn", PYTHON_PROCESSES, measure_processes, "Process spawn"),
};

static const char *const notes[] = {
    "KiB each: 200 threads, 100 processes, 20 of Python's; each figure in a fresh parent",
    "rss, pss, private_dirty: /proc/PID/smaps_rollup; of threads, what the process has grown by",
    "kernel: growth of the system's SUnreclaim + KernelStack + PageTables (/proc/meminfo): other programs disturb it",
};

static const bench_metric metrics[] = {
    { "rss_kib", "resident (RSS)", "KiB", 1, false, NULL },
    { "pss_kib", "proportional share (PSS)", "KiB", 1, false, NULL },
    { "private_dirty_kib", "private and dirty", "KiB", 1, false, NULL },
    { "kernel_kib", "in the kernel", "KiB", 1, false, NULL },
};

int main(int argc, char **argv)
{
    td_init();
    if (bench_option(argc, argv, "--serve"))
        return bench_serve(ops, sizeof ops / sizeof *ops);

    here = (bench_server){ .argv = { bench_self(), "--serve", "all" }, .fresh = true };
    python.fresh = true;
    bench_python_rows(&python, "peers.py", rows, sizeof rows / sizeof *rows);

    bench b = {
        .name = "bench_memory",
        .title = "memory of an idle thread or process",
        .metrics = metrics,
        .metric_count = sizeof metrics / sizeof *metrics,
        .rows = rows,
        .row_count = sizeof rows / sizeof *rows,
        .bold = { "pthread", "c-fork" },
        .notes = notes,
        .note_count = sizeof notes / sizeof *notes,
    };
    return bench_main(&b, argc, argv);
}
