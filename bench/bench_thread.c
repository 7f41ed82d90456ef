/* SPDX-License-Identifier: MIT */
/* What does it cost to start a thread that does nothing, and to join it? */
#include "common.h"
#include "futex.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <tandem.h>
#include <threads.h>

/* --- Tandem ----------------------------------------------------------------------------------------------------- */

static int nothing(td_call *call)
{
    (void)call;
    return 0;
}

static void start_join_free(void)
{
    td_worker *w = td_thread(.target = nothing);
    if (td_start(w) < 0 || td_join(w) < 0)
        bench_fail("td_start, td_join: %s", td_last_message());
    if (td_outcome(w) != TD_RETURNED || td_result_code(w) != 0)
        bench_fail("%s", td_describe(w));
    td_free(w);
}

static size_t tandem(long n, double *values)
{
    values[0] = bench_mean_ns(1, n, start_join_free);
    return 1;
}

static void run(void)
{
    int code = td_run(td_thread(.target = nothing));
    if (code != 0)
        bench_fail("td_run: %d, %s", code, td_last_message());
}

static size_t tandem_run(long n, double *values)
{
    values[0] = bench_mean_ns(1, n, run);
    return 1;
}

static size_t tandem_pinned(long n, double *values)
{
    bench_pin();
    tandem(n, values);
    bench_unpin();
    return 1;
}

/* --- pthread, C11 ----------------------------------------------------------------------------------------------- */

static void *pthread_nothing(void *argument)
{
    return argument;
}

static void pthread_start_join(const pthread_attr_t *attr, int *proof)
{
    pthread_t t;
    void *result = NULL;
    int error = pthread_create(&t, attr, pthread_nothing, proof);
    if (error)
        bench_fail("pthread_create: %s", strerror(error));
    error = pthread_join(t, &result);
    if (error || result != proof)
        bench_fail("pthread_join: %s", strerror(error));
}

static double pthread_loop(long n, const pthread_attr_t *attr)
{
    int proof;
    pthread_start_join(attr, &proof);
    int64_t begin = bench_now();
    for (long i = 0; i < n; i++)
        pthread_start_join(attr, &proof);
    return (double)(bench_now() - begin) / (double)n;
}

static size_t with_pthread(long n, double *values)
{
    values[0] = pthread_loop(n, NULL);
    return 1;
}

static size_t with_pthread_64k(long n, double *values)
{
    pthread_attr_t attr;
    if (pthread_attr_init(&attr) || pthread_attr_setstacksize(&attr, 64 << 10))
        bench_fail("pthread_attr_setstacksize");
    values[0] = pthread_loop(n, &attr);
    pthread_attr_destroy(&attr);
    return 1;
}

static size_t with_pthread_pinned(long n, double *values)
{
    bench_pin();
    values[0] = pthread_loop(n, NULL);
    bench_unpin();
    return 1;
}

static int c11_nothing(void *argument)
{
    (void)argument;
    return 7;
}

static void c11_start_join(void)
{
    thrd_t t;
    int result = 0;
    if (thrd_create(&t, c11_nothing, NULL) != thrd_success || thrd_join(t, &result) != thrd_success || result != 7)
        bench_fail("thrd_create, thrd_join");
}

static size_t with_c11(long n, double *values)
{
    values[0] = bench_mean_ns(1, n, c11_start_join);
    return 1;
}

/* --- limits ----------------------------------------------------------------------------------------------------- */

enum { CLONE_STACK = 64 << 10 };

static _Atomic uint32_t clone_tid;
static volatile int clone_ran; /* the new thread has no errno of its own, and leaves after this one store */

static int clone_nothing(void *argument)
{
    (void)argument;
    clone_ran++;
    return 0;
}

static void clone_start_join(char *stack_end)
{
    uint32_t tid;
    const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
                      CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
    int before = clone_ran;
    if (clone(clone_nothing, stack_end, flags, NULL, &clone_tid, NULL, &clone_tid) < 0)
        bench_fail("clone: %s", strerror(errno));
    while ((tid = atomic_load(&clone_tid)) != 0)
        bench_futex_wait(&clone_tid, tid);
    if (clone_ran != before + 1)
        bench_fail("clone: the thread did not run");
}

static size_t bare_clone(long n, double *values)
{
    char *stack = mmap(NULL, CLONE_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED)
        bench_fail("mmap: %s", strerror(errno));
    clone_start_join(stack + CLONE_STACK);
    int64_t begin = bench_now();
    for (long i = 0; i < n; i++)
        clone_start_join(stack + CLONE_STACK);
    values[0] = (double)(bench_now() - begin) / (double)n;
    munmap(stack, CLONE_STACK);
    return 1;
}

static size_t bare_clone_pinned(long n, double *values)
{
    bench_pin();
    bare_clone(n, values);
    bench_unpin();
    return 1;
}

enum { WARM = 20 };

static struct {
    bench_turns turns;
    uint32_t taken;
} parked;

static void *park(void *count)
{
    bench_turns_park(&parked.turns, *(const long *)count);
    return NULL;
}

static void take_turn(void)
{
    bench_turns_take(&parked.turns, ++parked.taken);
}

static size_t parked_thread(long n, double *values)
{
    long count = WARM + n;
    pthread_t t;
    atomic_store(&parked.turns.to, 0);
    atomic_store(&parked.turns.from, 0);
    parked.taken = 0;
    if (pthread_create(&t, NULL, park, &count))
        bench_fail("pthread_create");
    values[0] = bench_mean_ns(WARM, n, take_turn);
    if (pthread_join(t, NULL))
        bench_fail("pthread_join");
    return 1;
}

static size_t parked_thread_pinned(long n, double *values)
{
    bench_pin();
    parked_thread(n, values);
    bench_unpin();
    return 1;
}

/* --- the driver ------------------------------------------------------------------------------------------------- */

static const bench_op tandem_ops[] = {
    { "td", tandem },
    { "td-run", tandem_run },
    { "td-pinned", tandem_pinned },
};

static const bench_op peer_ops[] = {
    { "pthread", with_pthread },
    { "pthread-64k", with_pthread_64k },
    { "pthread-pinned", with_pthread_pinned },
    { "c11", with_c11 },
    { "clone", bare_clone },
    { "clone-pinned", bare_clone_pinned },
    { "parked", parked_thread },
    { "parked-pinned", parked_thread_pinned },
};

static bench_server tandem_server, peers, python;

static bench_row rows[] = {
    BENCH_ROW("parked", BENCH_LIMIT, &peers, "parked", 1000, 200,
              "limit: parked thread, 2 futex hand-offs (free CPUs)"),
    BENCH_ROW("parked-pinned", BENCH_LIMIT, &peers, "parked-pinned", 5000, 1000,
              "limit: parked thread, 2 futex hand-offs (both on 1 CPU)"),
    BENCH_ROW("clone", BENCH_LIMIT, &peers, "clone", 1000, 200, "limit: bare clone(2), stack reused"),
    BENCH_ROW("clone-pinned", BENCH_LIMIT, &peers, "clone-pinned", 1000, 200,
              "limit: bare clone(2), stack reused (both on 1 CPU)"),
    BENCH_ROW("td", BENCH_TANDEM, &tandem_server, "td", 1000, 200, "Tandem td_thread"),
    BENCH_ROW("td-run", BENCH_TANDEM, &tandem_server, "td-run", 1000, 200, "Tandem td_run(td_thread(…))"),
    BENCH_ROW("td-pinned", BENCH_TANDEM, &tandem_server, "td-pinned", 1000, 200, "Tandem td_thread (both on 1 CPU)"),
    BENCH_ROW("pthread", BENCH_PEER, &peers, "pthread", 1000, 200, "pthread"),
    BENCH_ROW("pthread-pinned", BENCH_PEER, &peers, "pthread-pinned", 1000, 200, "pthread (both on 1 CPU)"),
    BENCH_ROW("pthread-64k", BENCH_PEER, &peers, "pthread-64k", 1000, 200, "pthread, 64 KiB stack"),
    BENCH_ROW("c11", BENCH_PEER, &peers, "c11", 1000, 200, "C11 thrd"),
    BENCH_ROW("python", BENCH_PEER, &python, "thread", 500, 100, "threading.Thread"),
};

static const bench_comparison comparisons[] = {
    { "td_thread / pthread", "td", "pthread", 0, NULL },
    { "td_thread / pthread, both on 1 CPU", "td-pinned", "pthread-pinned", 0, NULL },
    { "CPython threading.Thread / td_thread", "python", "td", 0, NULL },
};

static const char *const notes[] = {
    "a figure is the mean of a loop of start + join (Tandem: create + start + join + outcome + free); the table "
    "has the median of the rounds' figures",
    "every thread's result is checked inside the loop",
};

static const bench_metric metrics[] = { { "start_join_ns", "start + join", "ns", 1, false, NULL } };

int main(int argc, char **argv)
{
    td_init();
    const char *serve = bench_option(argc, argv, "--serve");
    if (serve && strcmp(serve, "tandem") == 0)
        return bench_serve(tandem_ops, sizeof tandem_ops / sizeof *tandem_ops);
    if (serve)
        return bench_serve(peer_ops, sizeof peer_ops / sizeof *peer_ops);

    tandem_server = (bench_server){ .argv = { bench_self(), "--serve", "tandem" } };
    peers = (bench_server){ .argv = { bench_self(), "--serve", "peers" } };
    bench_python_rows(&python, "peers.py", rows, sizeof rows / sizeof *rows);

    bench b = {
        .name = "bench_thread",
        .title = "thread start + join of an empty function",
        .metrics = metrics,
        .metric_count = 1,
        .rows = rows,
        .row_count = sizeof rows / sizeof *rows,
        .bold = { "parked-pinned" },
        .comparisons = comparisons,
        .comparison_count = sizeof comparisons / sizeof *comparisons,
        .notes = notes,
        .note_count = sizeof notes / sizeof *notes,
    };
    return bench_main(&b, argc, argv);
}
