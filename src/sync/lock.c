/* SPDX-License-Identifier: MIT */
/* The classic futex lock of three states (Drepper, "Futexes are tricky", 2011, mutex 2). */
#include "sync/lock.h"

void td__lock_acquire(td__lock *lock)
{
    uint32_t free = 0;
    /* Acquire, in the CAS and the exchange: sees what the last holder wrote before its exchange-release. */
    if (td__cas_acq_rel(&lock->word, &free, 1))
        return;
    while (td__exchange_acquire(&lock->word, 2) != 0)
        td__futex_wait(&lock->word, 2, 0, false);
}

void td__lock_release(td__lock *lock)
{
    /* Release: publishes the section to the next holder. After it the lock may be gone: only its address is used. */
    if (td__exchange_release(&lock->word, 0) == 2)
        td__futex_wake(&lock->word, 1, false);
}
