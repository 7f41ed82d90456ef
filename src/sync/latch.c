/* SPDX-License-Identifier: MIT */
/* The slow ways of the latch; see latch.h. */
#include "sync/latch.h"
#include "sync/section.h"
#include "sync/spin.h"
#include "sync/wait.h"

#include <errno.h>

/* How long to sleep where the barriers that a plain release relies on are refused. */
#define SLICE_NS 1000000

bool td__release_by_exchange;
static bool barriers_refused; /* fixed early: we cannot ask the others to pass one */

/* When the library is loaded, as a rule before there is a second thread, which would make it a thousand times dearer.
 */
__attribute__((constructor)) static void register_private(void)
{
    if (!td__barrier_register(false))
        td__release_by_exchange = barriers_refused = true;
}

void td__latch_register_shared(void)
{
    if (!td__barrier_register(true))
        td__release_by_exchange = barriers_refused = true;
}

static const _Atomic uint32_t *as_word(const td__latch *latch)
{
    return (const _Atomic uint32_t *)(const void *)latch;
}

static uint32_t word_of(uint16_t owner, uint16_t contended)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return (uint32_t)contended << 16 | owner;
#else
    return (uint32_t)owner << 16 | contended;
#endif
}

/* Tries; *result when it has it. */
static bool take(td__latch *latch, const td__party *me, int *result)
{
    uint16_t owner = td__load_relaxed(&latch->owner);
    if (owner != 0 && owner != TD__DIED)
        return false;
    *result = owner == TD__DIED ? TD_OWNER_DIED : 0;
    return td__cas_acquire(&latch->owner, &owner, me->index);
}

int td__latch_wait(td__latch *latch, td__party *me, int64_t deadline, const td_cancel *cancel)
{
    bool shared = td__is_shared(latch);
    int result;
    td__spin spin = { 0 };
    do {
        if (take(latch, me, &result))
            return result;
    } while (td__spin_more(&spin));
    for (;;) {
        /* Others may sleep, whom the one that woke us has left to us: so before we try. */
        td__store_relaxed(&latch->contended, 1);
        bool passed = td__barrier_others(shared);
        if (take(latch, me, &result))
            break;
        uint32_t expected = word_of(td__load_relaxed(&latch->owner), 1);
        if ((uint16_t)expected == 0)
            continue;
        int64_t until = deadline;
        bool sliced = !passed || barriers_refused;
        if (sliced && (!deadline || deadline > td__now() + SLICE_NS))
            until = td__now() + SLICE_NS;
        else
            sliced = false;
        int r = td__word_wait(me, as_word(latch), expected, until, cancel);
        if (r == 0 || (r == TD_ETIMEOUT && sliced))
            continue;
        if (take(latch, me, &result))
            break;
        /* We may have been woken, too, and give that on. */
        result = r;
        td__futex_wake(as_word(latch), 1, shared);
        break;
    }
    td__word_done(me);
    return result;
}

void td__latch_wake(td__latch *latch)
{
    td__store_relaxed(&latch->contended, 0);
    td__futex_wake(as_word(latch), 1, td__is_shared(latch));
}

void td__latch_abandon(td__latch *latch, uint16_t index)
{
    uint16_t owner = index;
    /* Release: what the dead one wrote, which reached us through the kernel, to the one that is told of its death. */
    td__cas_acq_rel(&latch->owner, &owner, TD__DIED);
    td__futex_wake(as_word(latch), 1, td__is_shared(latch));
}

void td__section_overflow(void)
{
    td__bug("tandem itself: a section is too deep, or changes too much");
}
