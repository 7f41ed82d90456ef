/* SPDX-License-Identifier: MIT */
/* which: threads or processes? Measures both on this machine and says which to choose. */
#define _GNU_SOURCE 1
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <tandem.h>

enum {
    TASKS = 4,
    WAIT_MS = 250,
    BOUND = 2000000,
    PRIMES_BELOW_BOUND = 148933,
    STARTS = 201,
    IDLE_THREADS = 64,
    IDLE_PROCESSES = 8,
};

/* --- the tasks --------------------------------------------------------------------------------------------- */

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000 }, NULL);
}

static int wait_for_something(td_call *call)
{
    (void)call;
    sleep_ms(WAIT_MS);
    return 0;
}

static int compute(td_call *call)
{
    int primes = 0;
    for (int n = 2; n < BOUND; n++) {
        int divisor = 2;
        while (divisor * divisor <= n && n % divisor != 0)
            divisor++;
        primes += divisor * divisor > n;
    }
    return primes == PRIMES_BELOW_BOUND ? 0 : td_fail(call, 1, "counted %d primes", primes);
}

static int do_nothing(td_call *call)
{
    (void)call;
    return 0;
}

static int idle(td_call *call)
{
    while (!td_cancelled(call))
        sleep_ms(50);
    return 0;
}

static int crash(td_call *call)
{
    (void)call;
    abort();
}

/* --- the measurements -------------------------------------------------------------------------------------- */

_Noreturn static void give_up(const char *what, const char *why)
{
    fprintf(stderr, "cannot measure %s: %s\n", what, why);
    exit(1);
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static td_worker *new_worker(td_worker_kind kind, td_target *target)
{
    return kind == TD_THREAD ? td_thread(.target = target) : td_process(.target = target);
}

static double time_one_by_one(td_target *target)
{
    double start = seconds_now();
    for (int i = 0; i < TASKS; i++) {
        if (td_run(td_thread(.target = target)) != 0)
            give_up("tasks one by one", td_last_message());
    }
    return seconds_now() - start;
}

static double time_together(td_worker_kind kind, td_target *target)
{
    td_worker *workers[TASKS];
    double start = seconds_now();
    for (int i = 0; i < TASKS; i++) {
        workers[i] = new_worker(kind, target);
        if (td_start(workers[i]) < 0)
            give_up("tasks together", td_last_message());
    }
    for (int i = 0; i < TASKS; i++) {
        td_join(workers[i]);
        if (td_outcome(workers[i]) != TD_RETURNED)
            give_up("tasks together", td_describe(workers[i]));
        td_free(workers[i]);
    }
    return seconds_now() - start;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_start(td_worker_kind kind)
{
    double seconds[STARTS];
    for (int i = 0; i < STARTS; i++) {
        double start = seconds_now();
        if (td_run(new_worker(kind, do_nothing)) != 0)
            give_up("starts", td_last_message());
        seconds[i] = seconds_now() - start;
    }
    qsort(seconds, STARTS, sizeof(*seconds), compare);
    return seconds[STARTS / 2];
}

/* The memory of a process in KiB; of what it shares with others, its share. */
static double memory_of(pid_t pid)
{
    char path[64], line[128];
    long kib = -1;
    snprintf(path, sizeof(path), "/proc/%ld/smaps_rollup", (long)pid);
    FILE *file = fopen(path, "r");
    if (!file)
        give_up(path, strerror(errno));
    while (kib < 0 && fgets(line, sizeof(line), file))
        sscanf(line, "Pss: %ld", &kib);
    fclose(file);
    if (kib < 0)
        give_up(path, "no line 'Pss:'");
    return (double)kib;
}

/* What one more waiting worker takes: of a process its memory, of threads the growth of the process they share. */
static double memory_of_worker(td_worker_kind kind)
{
    td_worker *workers[IDLE_THREADS];
    int count = kind == TD_THREAD ? IDLE_THREADS : IDLE_PROCESSES;
    pid_t here = td_pid(td_main());
    double kib = kind == TD_THREAD ? -memory_of(here) : 0;

    for (int i = 0; i < count; i++) {
        workers[i] = new_worker(kind, idle);
        if (td_start(workers[i]) < 0)
            give_up("memory", td_last_message());
    }
    sleep_ms(200); /* for the last one to settle */

    if (kind == TD_THREAD)
        kib += memory_of(here);
    else
        for (int i = 0; i < count; i++)
            kib += memory_of(td_pid(workers[i]));

    for (int i = 0; i < count; i++)
        td_terminate(workers[i]);
    td_join_all(workers, count);
    for (int i = 0; i < count; i++)
        td_free(workers[i]);
    return kib / count;
}

/* --- the answer -------------------------------------------------------------------------------------------- */

static void print_row(const char *title, const char *one_by_one, const char *threads, const char *processes)
{
    printf("%-27s%13s%16s%16s\n", title, one_by_one, threads, processes);
}

static void print_tasks(const char *title, td_target *target)
{
    double alone = time_one_by_one(target);
    double threads = time_together(TD_THREAD, target);
    double processes = time_together(TD_PROCESS, target);
    printf("%d tasks that %s\n", TASKS, title);
    printf("%-27s%11.2f s%14.2f s%14.2f s\n", "  wall time", alone, threads, processes);
    printf("%-27s%11.1f x%14.1f x%14.1f x\n", "  speed-up", 1.0, alone / threads, alone / processes);
}

int main(void)
{
    td_init();

    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    sched_getaffinity(0, sizeof(cpus), &cpus);

    /* Threads' memory first: later ones would get the stacks of those that have ended. */
    double thread_kib = memory_of_worker(TD_THREAD), process_kib = memory_of_worker(TD_PROCESS);
    double thread_start = median_start(TD_THREAD), process_start = median_start(TD_PROCESS);

    printf("Threads and processes, measured on this machine (CPUs: %d)\n\n", CPU_COUNT(&cpus));
    print_row("", "one by one", "on threads", "in processes");
    print_tasks("wait", wait_for_something);
    print_tasks("compute", compute);
    puts("One worker");
    printf("%-27s%13s%13.1f us%13.1f us\n", "  start and join, median", "-", thread_start * 1e6, process_start * 1e6);
    printf("%-27s%13s%12.1f KiB%12.1f KiB\n", "  memory while it waits", "-", thread_kib, process_kib);
    print_row("  sees its caller's memory", "-", "yes", "no");
    print_row("  can be killed", "-", "no", "yes");
    print_row("  interpreter lock", "-", "none", "none");
    print_row("  a crash costs", "-", "the program", "its task");

    td_worker *crashing = td_process(.target = crash);
    if (td_start(crashing) < 0 || td_join(crashing) < 0)
        give_up("a crash", td_last_message());
    printf("\nA process that crashes, tried here:\n  %s\nand this program goes on.\n\n", td_describe(crashing));
    td_free(crashing);

    puts("Which to choose");
    printf("  Tasks that wait (network, disk): threads. Both kinds wait at the same\n"
           "  time, but a process takes %.0f times as long to start and %.0f times the\n"
           "  memory.\n",
           process_start / thread_start, process_kib / thread_kib);
    puts("  Tasks that compute: either. C has no global interpreter lock: threads\n"
         "  use every free CPU too. Threads where tasks share much data; processes\n"
         "  where a task may crash, leak or hang: that costs this task only.\n"
         "  Tasks shorter than a start: neither. Give each worker many of them.");
}
