/* SPDX-License-Identifier: MIT */
/* Contests for a lock: threads or processes take turns with it until they are told to stop, or one alone does. */
#ifndef TANDEM_BENCH_CONTEND_H
#define TANDEM_BENCH_CONTEND_H

#include "common.h"

#include <stdatomic.h>

typedef struct bench_contender bench_contender;

/* What they share; a benchmark's own kind of contest begins with it. Everything that one of them writes has a cache
 * line of its own. */
typedef struct bench_contest {
    _Alignas(64) char lock[256];
    _Alignas(64) uint64_t writes,
        writes_again; /* guarded by the lock: its writers count. The second: if one compares */
    _Alignas(64) _Atomic bool stop;
    bool processes;
    const bench_contender *contender;
    size_t size; /* of the benchmark's kind */
    struct {
        _Alignas(64) uint64_t turns, writes; /* set when it has stopped; writes: of the turns */
    } member[BENCH_TEAM_MAX];
} bench_contest;

struct bench_contender {
    void (*init)(void *lock, bool shared); /* NULL: zeroed memory is a free lock */
    void (*alone)(bench_contest *c, long n);
    void (*turns)(bench_contest *c, int index);
    bool in_heap; /* the shared heap */
};

/* Zeroed, but for the lock; `size` is that of the benchmark's kind of contest. bench_contest_end gives it back. */
void *bench_contest_new(const bench_contender *contender, bool processes, size_t size);
void bench_contest_end(bench_contest *c);

/* The ns of one turn of one alone, of `n`. */
double bench_contest_alone(bench_contest *c, long n);

/* Has so many take turns for `ms`, and checks what the lock guards. Returns the ns that it took; `turns` is set to the
 * turns of all. */
int64_t bench_contest_run(bench_contest *c, int parties, long ms, uint64_t *turns);

static inline bool bench_contest_goes_on(bench_contest *c)
{
    return !atomic_load_explicit(&c->stop, memory_order_relaxed);
}

#endif
