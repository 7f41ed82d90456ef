/* SPDX-License-Identifier: MIT */
/* The clock, and sleeping on a word. */
#include "os/os.h"
#include "os/linux/raw.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int64_t td__now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec + 1;
}

int64_t td__deadline(td_time limit)
{
    if (limit.ns == 0)
        return 0;
    if (limit.ns < 0)
        return 1;
    int64_t now = td__now();
    return limit.ns > INT64_MAX - now ? INT64_MAX : now + limit.ns;
}

int td__futex_wait(const _Atomic uint32_t *word, uint32_t expected, int64_t deadline, bool shared)
{
    struct timespec until;
    if (td__fault(EINTR))
        return -1;
    until.tv_sec = deadline / 1000000000;
    until.tv_nsec = deadline % 1000000000;
    /* WAIT_BITSET takes an absolute time on the monotonic clock, so that an interrupted wait keeps its deadline. */
    int r = (int)td__result(td__raw(SYS_futex, (long)word, FUTEX_WAIT_BITSET | (shared ? 0 : FUTEX_PRIVATE_FLAG),
                                    (long)expected, deadline ? (long)&until : 0, 0, (long)FUTEX_BITSET_MATCH_ANY));
    if (r < 0 && errno != EAGAIN && errno != EINTR && errno != ETIMEDOUT) {
        /* A kernel that refuses to sleep must not cost a CPU: give it away and let the caller look again. */
        sched_yield();
        errno = EAGAIN;
    }
    return r;
}

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

/* The kernel's struct futex_waitv and its flags, which older headers lack. */
struct waitv {
    uint64_t expected, address;
    uint32_t flags, reserved;
};
#define WAITV_SIZE_U32 2u

int td__futex_wait_many(const td__futex_item *items, size_t count, int64_t deadline)
{
    struct waitv list[TD__FUTEX_MANY];
    struct timespec until;
    if (td__fault(ENOSYS))
        return -1;
    for (size_t i = 0; i < count; i++)
        list[i] = (struct waitv){ .expected = items[i].expected,
                                  .address = (uint64_t)(uintptr_t)items[i].word,
                                  .flags = WAITV_SIZE_U32 | (items[i].shared ? 0 : FUTEX_PRIVATE_FLAG) };
    until.tv_sec = deadline / 1000000000;
    until.tv_nsec = deadline % 1000000000;
    long r = syscall(SYS_futex_waitv, list, count, 0, deadline ? &until : NULL, CLOCK_MONOTONIC);
    if (r >= 0)
        return 0;
    if (errno != EAGAIN && errno != EINTR && errno != ETIMEDOUT)
        errno = ENOSYS; /* unknown, or refused by a sandbox */
    return -1;
}

int td__futex_wake(const _Atomic uint32_t *word, int n, bool shared)
{
    return (int)td__raw3(SYS_futex, word, FUTEX_WAKE | (shared ? 0 : FUTEX_PRIVATE_FLAG), n);
}
