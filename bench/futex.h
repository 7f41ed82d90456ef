/* SPDX-License-Identifier: MIT */
/* The futex calls that the limit rows need. */
#ifndef TANDEM_BENCH_FUTEX_H
#define TANDEM_BENCH_FUTEX_H

#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Sleeps while *word is `value`; may return early. Not the private kind: also between processes. */
static inline void bench_futex_wait(_Atomic uint32_t *word, uint32_t value)
{
    syscall(SYS_futex, word, FUTEX_WAIT, value, NULL, NULL, 0);
}

static inline void bench_futex_wake(_Atomic uint32_t *word, int count)
{
    syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
}

/* One half of a hand-off: sets `mine` to `turn` and wakes who waits for that. */
static inline void bench_hand_over(_Atomic uint32_t *mine, uint32_t turn)
{
    atomic_store(mine, turn);
    bench_futex_wake(mine, 1);
}

/* The other half: waits until `theirs` is `turn`. */
static inline void bench_await(_Atomic uint32_t *theirs, uint32_t turn)
{
    uint32_t seen;
    while ((seen = atomic_load(theirs)) != turn)
        bench_futex_wait(theirs, seen);
}

/* Two who hand the turn to each other and back: one is parked between its turns. Zeroed; turns are counted from 1. */
typedef struct bench_turns {
    _Atomic uint32_t to, from;
} bench_turns;

static inline void bench_turns_park(bench_turns *t, long count)
{
    for (long i = 1; i <= count; i++) {
        bench_await(&t->to, (uint32_t)i);
        bench_hand_over(&t->from, (uint32_t)i);
    }
}

static inline void bench_turns_take(bench_turns *t, uint32_t turn)
{
    bench_hand_over(&t->to, turn);
    bench_await(&t->from, turn);
}

#endif
