/* SPDX-License-Identifier: MIT */
/*
 * The latch: four bytes by which one party excludes the others, and which tells who it is. The public lock is one; the
 * sections of the other primitives are guarded by one (section.h).
 *
 *   owner      0 free; the index of the party that holds it; or DIED: free, and the last owner died holding it
 *   contended  not 0: somebody may sleep
 *
 * They are stored separately, so that a release is a plain store, and one load of `contended`; the processor may do
 * them in the other order. A sleeper pays for that: it stores `contended`, makes all processors pass a barrier, and
 * only then looks at the owner for the last time, in the kernel. So either the releaser's load came after the barrier
 * and sees `contended`, or its store came before the barrier and the sleeper sees it free. Where the kernel refuses
 * such barriers, this process releases by an exchange, and sleeps for a millisecond at most.
 *
 * Who wakes clears `contended` first and wakes one sleeper; that one stores it again before it tries, as others may
 * sleep. Invariant: while somebody sleeps, `contended` is set, or somebody who has been woken, or is in the act of
 * waking, is awake and will see to it. That somebody may be killed: its record names the latch (held, or a section),
 * and the repair wakes one more. A wake-up too many does no harm.
 */
#ifndef TD_SYNC_LATCH_H
#define TD_SYNC_LATCH_H

#include "sync/party.h"

#define TD__DIED 0xffffu

typedef struct td__latch {
    _Alignas(4) _Atomic uint16_t owner;
    _Atomic uint16_t contended;
} td__latch;

/* Releases must be exchanges: this process has not been registered for the others' barriers. Fixed early. */
extern bool td__release_by_exchange;

/*
 * After the quick way has failed: 0, TD_OWNER_DIED, TD_ETIMEOUT or TD_ECANCELLED (no sentence set). The caller's record
 * names the latch already.
 */
int td__latch_wait(td__latch *latch, td__party *me, int64_t deadline, const td_cancel *cancel);
void td__latch_wake(td__latch *latch);

static inline bool td__latch_try(td__latch *latch, const td__party *me)
{
    uint16_t free = 0;
    /* Acquire: sees what the last holder wrote before its release. */
    return td__cas_acquire(&latch->owner, &free, me->index);
}

static inline void td__latch_release(td__latch *latch)
{
    /* Release: publishes the section to the next holder, who acquires in td__latch_try. After it the latch may be gone:
     * the load below then reads something else, and only its address is used. */
    if (td__unlikely(td__release_by_exchange)) {
        td__exchange_seq_cst(&latch->owner, 0);
    } else {
        td__store_release(&latch->owner, 0);
        td__program_order(); /* and the processor's order is the sleeper's care, see above */
    }
    if (td__unlikely(td__load_relaxed(&latch->contended)))
        td__latch_wake(latch);
}

/* For the barriers of others: in each process that attaches to the region, while it has one thread. */
void td__latch_register_shared(void);

/* By the repair of a dead party, or a party at its end: if it holds the latch, the next one to acquire it is told. */
void td__latch_abandon(td__latch *latch, uint16_t index);

#endif
