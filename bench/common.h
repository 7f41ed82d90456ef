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
#define BENCH_METRICS_MAX 4
#define BENCH_VALUES_MAX  256
#define BENCH_TEXT_MAX    256
#define BENCH_ARGS_MAX    8

/* --- for servers ------------------------------------------------------------------------------------------------ */

int64_t bench_now(void);                       /* monotonic, ns */
void bench_idle(int64_t ns);                   /* sleeps */
double bench_median(double *values, size_t n); /* sorts them */

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

/* Restricts the calling thread to the first CPU it may use; bench_unpin undoes it. */
void bench_pin(void);
void bench_unpin(void);

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
    double scale; /* the servers' figures are multiplied by it */
} bench_metric;

#define BENCH_ROW(row_id, of_kind, in_server, with_op, iterations, quick_iterations, row_name)         \
    {                                                                                                  \
        .id = (row_id), .name = (row_name), .kind = (of_kind), .server = (in_server), .op = (with_op), \
        .n = (iterations), .quick_n = (quick_iterations)                                               \
    }

/* One sentence under the table: the ratio of two rows, paired by rounds. */
typedef struct bench_comparison {
    const char *text, *over, *under; /* ids */
    double target;                   /* at most; 0: none */
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

/* The Python to measure (BENCH_PYTHON, else python3) and its version "3.11"; false if there is none. */
bool bench_python(const char **executable, const char **version);

/* bench/peers.py, where this source was when it was compiled. NULL if it is not there. */
const char *bench_peers_script(void);

/* printf into memory that is never freed. */
const char *bench_text(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* KiB of a line ("MemAvailable:") of a file like /proc/meminfo; -1 if there is none. */
double bench_kib_in(const char *path, const char *key);

#endif
