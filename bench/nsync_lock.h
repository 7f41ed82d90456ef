/* SPDX-License-Identifier: MIT */
/* nsync_mu as contests need it. */
#ifndef TANDEM_BENCH_NSYNC_LOCK_H
#define TANDEM_BENCH_NSYNC_LOCK_H

#include <nsync.h>
#include <stdbool.h>

static inline void nsync_init(void *lock, bool shared)
{
    (void)shared;
    nsync_mu_init(lock);
}

static inline void nsync_acquire(void *lock)
{
    nsync_mu_lock(lock);
}

static inline void nsync_release(void *lock)
{
    nsync_mu_unlock(lock);
}

#endif
