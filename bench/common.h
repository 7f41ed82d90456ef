/* SPDX-License-Identifier: MIT */
/*
 * What the benchmarks share: statistics, contenders in processes of their own, shuffled rounds, tables and JSON.
 *
 * A benchmark is a driver and some servers. A server is a process that holds contenders: the same executable with
 * "--serve NAME", or Python. The driver asks a server for one figure at a time ("fork 40\n") and the server answers
 * on one line ("ok 491000\n"). So each parent's size, and each library, has a process of its own that lives through
 * all rounds; the driver only waits meanwhile. In each round every contender is measured once, in a new random order.
 */
#ifndef TANDEM_BENCH_COMMON_H
#define TANDEM_BENCH_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define BENCH_ROUNDS_MAX  64
#define BENCH_METRICS_MAX 16
#define BENCH_VALUES_MAX  256
#define BENCH_TEXT_MAX    256
#define BENCH_ARGS_MAX    8

/* --- for servers ------------------------------------------------------------------------------------------------ */

int64_t bench_now(void);     /* monotonic, ns */
void bench_idle(int64_t ns); /* sleeps */
void bench_yield(void);
double bench_median(double *values, size_t n); /* sorts them */

/* A loop in parts: at[i] is when part i began. The median part is what a loop costs that nobody disturbs: other
 * programs, while they have the CPU, do not count. */
enum { BENCH_PARTS = 20 };

typedef struct bench_parts {
    int64_t at[BENCH_PARTS + 1];
} bench_parts;

double bench_part_ns(const bench_parts *parts, long iterations); /* per iteration; a part has `iterations` */

/* The mean of `n` after `warm` that do not count, ns. */
double bench_mean_ns(long warm, long n, void (*once)(void));

/* Measures `n` iterations (or does what its name says to `n` workers), puts its figures into `values` (at most
 * BENCH_VALUES_MAX) and returns how many there are. Calls bench_fail if a result is wrong. */
typedef struct bench_op {
    const char *name;
    size_t (*run)(long n, double *values);
} bench_op;

/* Answers the driver's requests on standard input until it says "quit" or is gone. 0. */
int bench_serve(const bench_op *ops, size_t count);

/* Tells the driver why the request failed, and ends the server: its state is not to be trusted any more. */
_Noreturn void bench_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Restricts the calling thread to one of the CPUs that the process had at its first call: the first, the second and so
 * on, from the first again where there are fewer. bench_unpin gives the thread all of them. */
void bench_pin_to(int index);
void bench_pin(void); /* to the first */
void bench_unpin(void);
int bench_cpus(void); /* how many there are */

/* Computes until `ns` have passed; for pauses that must not sleep, from about 1 µs. */
void bench_compute(int64_t ns);

/* Work of a length known before: bench_steps tells how many steps take `ns` on this machine, bench_work does them. */
long bench_steps(double ns);

static inline uint64_t bench_work(uint64_t x, long steps)
{
    for (long i = 0; i < steps; i++)
        x = x * 6364136223846793005u + 1442695040888963407u;
    __asm__ volatile("" : "+r"(x));
    return x;
}

static inline void bench_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

/* Where a contender that only spins waits: pauses at first, and yields when that took long. A bare spin is ruinous as
 * soon as there are more spinners than CPUs. Begin with *spins 0. */
static inline void bench_spin(unsigned *spins)
{
    if (++*spins % 256 == 0)
        bench_yield();
    else
        bench_relax();
}

/* Zeroed memory that forked processes share; never fails. bench_unshare gives it back. */
void *bench_share(size_t size);
void bench_unshare(void *memory, size_t size);

/* Threads or forked processes that begin together. begin returns the moment when all of them were let go; end waits for
 * all, and returns the moment when the last one's body returned. In a process the body may call bench_fail. */
#define BENCH_TEAM_MAX 32

typedef struct bench_team bench_team;
bench_team *bench_team_create(int count, bool processes, void (*body)(int index, void *argument), void *argument);
int64_t bench_team_begin(bench_team *team);
int64_t bench_team_end(bench_team *team); /* frees it */

/* All of the above: the ns from the beginning to the end. */
int64_t bench_team_run(int count, bool processes, void (*body)(int index, void *argument), void *argument);

/* Leaves a parked thread beside the caller, for ever: libraries take short cuts where there is one thread only. */
void bench_have_second_thread(void);

/* The value after `option` in the arguments, NULL if it is not there. */
const char *bench_option(int argc, char **argv, const char *option);

/* --- for drivers ------------------------------------------------------------------------------------------------ */

typedef struct bench_server {
    const char *argv[BENCH_ARGS_MAX]; /* NULL-terminated */
    const char *missing;              /* why there is none on this machine; NULL: there is one */
    bool fresh;                       /* a new process for each figure */
    pid_t pid;                        /* 0: not running */
    int to, from;
} bench_server;

typedef enum bench_kind { BENCH_LIMIT, BENCH_TANDEM, BENCH_PEER } bench_kind;

typedef struct bench_stats {
    double median, min, max;
    int n;
} bench_stats;

typedef struct bench_row bench_row;

struct bench_row {
    const char *id;    /* in the JSON, in comparisons and for --only */
    const char *name;  /* in the table */
    const char *group; /* ratios are to the bold row of the same group; NULL is a group too */
    bench_kind kind;
    bench_server *server;
    const char *op;
    long n, quick_n;  /* iterations a round */
    int64_t limit_ms; /* how long an answer may take; 0: a minute */
    /* Gives one value per metric and returns true. NULL: ask the server for `op`. */
    bool (*measure)(bench_row *row, double *values);

    double samples[BENCH_METRICS_MAX][BENCH_ROUNDS_MAX]; /* by round; NAN where there is none */
    bench_stats stats[BENCH_METRICS_MAX];
    double ratio[BENCH_METRICS_MAX]; /* NAN if there is nothing to compare with */
    int failures;
    char failure[BENCH_TEXT_MAX];
};

typedef struct bench_metric {
    const char *name, *title, *unit;
    double scale;     /* the servers' figures are multiplied by it */
    bool higher;      /* more is better */
    const char *bold; /* the id of the row that this metric's ratios are to; NULL: see bench.bold */
} bench_metric;

#define BENCH_ROW(row_id, of_kind, in_server, with_op, iterations, quick_iterations, row_name)         \
    {                                                                                                  \
        .id = (row_id), .name = (row_name), .kind = (of_kind), .server = (in_server), .op = (with_op), \
        .n = (iterations), .quick_n = (quick_iterations)                                               \
    }

/* One sentence under the table: the ratio of two rows, paired by rounds, or one row's figure. */
typedef struct bench_comparison {
    const char *text, *over; /* an id */
    const char *under;       /* an id, or several ("a|b"): the best of them. NULL: the figure itself */
    double target;           /* at most, or at least where more is better; 0: none */
    const char *metric;      /* NULL: the first */
} bench_comparison;

typedef struct bench {
    const char *name, *title;
    const bench_metric *metrics;
    size_t metric_count;
    bench_row *rows;
    size_t row_count;
    const char *bold[4]; /* ids of the rows that others are compared with, one a group */
    const bench_comparison *comparisons;
    size_t comparison_count;
    const char *const *notes;
    size_t note_count;

    bool quick;
    int rounds; /* so many that were asked for */
} bench;

/*
 * Runs the benchmark: prints its table, writes its JSON. The options are --quick, --rounds N, --seed N,
 * --only TEXT (rows whose id or name holds it) and --json FILE (default: results/NAME.json beside the executable).
 * Returns main's result: 0; 1 if a contender failed, or left processes behind; 2 for wrong usage.
 */
int bench_main(bench *b, int argc, char **argv);

/* Asks the row's server; starts it first if it is not running. False after a failure, with row->failure set. */
bool bench_ask(bench_row *row, const char *op, long n, double *values, size_t *count);

/* Sets row->failure. */
void bench_row_fail(bench_row *row, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The file `name` in the executable's directory; NULL if it is not there. Never freed. */
const char *bench_beside(const char *name);

/* This executable. Never freed. */
const char *bench_self(void);

/* Sets up a server that runs bench/NAME by the Python to measure (BENCH_PYTHON, else python3), and puts its version
 * before the names of the rows that it serves. Without Python, or the file, the server is missing. */
void bench_python_rows(bench_server *python, const char *name, bench_row *rows, size_t count);

/* printf into memory that is never freed. */
const char *bench_text(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* KiB of a line ("MemAvailable:") of a file like /proc/meminfo; -1 if there is none. */
double bench_kib_in(const char *path, const char *key);

#endif
