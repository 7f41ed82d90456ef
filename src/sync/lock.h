/* SPDX-License-Identifier: MIT */
/* The lock of the library's own bookkeeping: private, not recursive, held for short sections only. {0} is free. */
#ifndef TD_SYNC_LOCK_H
#define TD_SYNC_LOCK_H

#include "os/os.h"

typedef struct td__lock {
    _Atomic uint32_t word; /* 0 free, 1 held, 2 held and somebody may sleep */
} td__lock;

void td__lock_acquire(td__lock *lock);
void td__lock_release(td__lock *lock);

#endif
