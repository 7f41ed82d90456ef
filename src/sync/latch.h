/* SPDX-License-Identifier: MIT */
/*
 * The latch: four bytes by which one party excludes the others, and which tells who it is. The public lock is one; the
 * sections of the other primitives are guarded by one (section.h).
 *
 *   owner      0 free; the index of the party that holds it; or DIED: free, and the last owner died holding it
 *   contended  bits: SLEEPERS: somebody may sleep; ASIDE: somebody has tried for long, and asks who releases to stand
 *              aside for a moment; LATER: the owner itself has something to do after the release: there are those in
 *              its record whom it has notified, and who will want the lock
 *
 * A release that finds `contended` clear is a plain store to `owner`, and then another load of `contended`; the
 * processor may do these in the other order. A sleeper pays for that: it sets `contended`, makes all processors pass a
 * barrier, and only then looks at the owner for the last time, in the kernel. So either the releaser's load came after
 * the barrier and sees `contended`, or its store came before the barrier and the sleeper sees it free. Where the kernel
 * refuses such barriers, a process releases by a compare-and-swap of the whole word, always; if the program's first
 * process does so, all of them do, and no sleeper needs a barrier. One that is refused it later (by a sandbox) sleeps
 * for a millisecond at most.
 *
 * The latch's memory may be given to another use by whoever acquires it after a release: after its store the releaser
 * reads `contended` once more, and takes it as a reason to wake those who sleep at this address; it writes nothing.
 *
 * A release that finds `contended` set takes all away in one step and then wakes one sleeper, who sets it again when it
 * has the latch, or before it sleeps again. Invariant: while somebody sleeps, `contended` is set, or somebody who has
 * been woken, or is in the act of waking, is awake and will see to it. That somebody may be killed: its record names
 * the latch (held, a section, or as the word it sleeps on), and the repair wakes one more. A wake-up too many does no
 * harm.
 *
 * Who is awake takes the latch before who sleeps, so that it does not stand idle while a sleeper wakes up. It cannot go
 * on so for ever: who has tried in vain for some microseconds sets ASIDE, and looks without pausing; who then releases
 * lets it go first. ASIDE is a hint: it may be lost or left over.
 */
#ifndef TD_SYNC_LATCH_H
#define TD_SYNC_LATCH_H

#include "sync/party.h"

#define TD__DIED     0xffffu
#define TD__NOBODY   0xfffeu /* no party has this index, see TD__PARTIES */
#define TD__SLEEPERS 1u
#define TD__ASIDE    2u
#define TD__LATER    4u

typedef struct td__latch {
    union {
        _Atomic uint32_t word;
        struct {
            _Atomic uint16_t owner, contended;
        };
    };
} td__latch;
_Static_assert(sizeof(td__latch) == 4, "a latch has four bytes");

static inline uint32_t td__latch_word(uint16_t owner, uint16_t contended)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return (uint32_t)contended << 16 | owner;
#else
    return (uint32_t)owner << 16 | contended;
#endif
}

/* Stores of this process that end waits must be exchanges, here and in what else sleeps in this way. Fixed early. */
extern bool td__release_by_exchange;
/* A sleeper's barrier, if the others need one; false: they do, and it is refused. */
bool td__latch_pass_barrier(bool shared);

/*
 * After the quick way has failed: 0, TD_OWNER_DIED, TD_ETIMEOUT or TD_ECANCELLED (no sentence set). The caller's record
 * names the latch already.
 */
int td__latch_wait(td__latch *latch, td__party *me, int64_t deadline, const td_cancel *cancel);
void td__latch_release_slowly(td__latch *latch, td__party *me);
/* After a release, which has found `contended` so. */
void td__latch_after(const td__latch *latch, uint16_t contended);
/* One that sleeps, if there is one. */
void td__latch_wake(const td__latch *latch);

static inline bool td__latch_try(td__latch *latch, const td__party *me)
{
    uint16_t free = 0;
    /* Acquire: sees what the last holder wrote before its release. */
    bool taken = td__cas_acquire(&latch->owner, &free, me->index);
    td__step_point();
    return taken;
}

/* Is it held by this party, are releases quick, and does nobody seem to wait for it? By halves, as they were written: a
 * load of the whole word would have to wait until the processor has done the stores. */
static inline bool td__latch_is_quick(const td__latch *latch, const td__party *me)
{
    return td__load_relaxed(&latch->owner) == me->quick && td__load_relaxed(&latch->contended) == 0;
}

/* Not 0: to be followed by td__latch_after. */
static inline uint16_t td__latch_release_quickly(td__latch *latch)
{
    /* Release: publishes the section to the next holder, who acquires in td__latch_try. After it the latch may be gone:
     * the load below then reads something else, and only its address is used. */
    td__store_release(&latch->owner, 0);
    td__program_order(); /* and the processor's order is the sleeper's care, see above */
    return td__load_relaxed(&latch->contended);
}

static inline void td__latch_release(td__latch *latch, td__party *me)
{
    uint16_t contended;
    if (td__unlikely(!td__latch_is_quick(latch, me)))
        td__latch_release_slowly(latch, me);
    else if (td__unlikely((contended = td__latch_release_quickly(latch)) != 0))
        td__latch_after(latch, contended);
}

/* What td__latch_is_quick compares with, for a party of this process: no index where releases must be slow. */
uint16_t td__latch_quick(uint16_t index);

/* For the barriers of others: in each process that maps the region, while it has one thread. `first`: nobody else has
 * mapped it yet. */
void td__latch_register_shared(bool first);

/* By the repair of a dead party, or a party at its end: if it holds the latch, the next one to acquire it is told. */
void td__latch_abandon(td__latch *latch, uint16_t index);

#endif
