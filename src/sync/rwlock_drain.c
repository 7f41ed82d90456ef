/* SPDX-License-Identifier: MIT */
/*
 * Draining. A writer that has got the lock while there may be readers by their records stands in the gate with DRAINS:
 * nobody comes in any more, and it waits until those who read have left. First it spins; then it sets ASLEEP, makes all
 * processors pass a barrier, and sleeps on its own word, until one that leaves pokes it.
 */
#include "sync/rwlock.h"
#include "sync/spin.h"

/* How many records are worth a reader that is counted; and how many such readers at most. */
#define RECORDS_A_READER 16u
#define COOL_MOST        255u

/* Who sleeps where barriers are refused looks this often, as with latches. */
#define SLICE_NS 1000000

/* Places first, for a reader that asks again is counted before it leaves its place. Acquire: what counted ones did. */
static bool look(const td__rwlock *l, const _Atomic uintptr_t **place)
{
    *place = td__rwlock_some_place(l);
    return !*place && td__load_acquire(&l->readers) == 0;
}

bool td__rwlock_is_drained(const td__rwlock *l)
{
    const _Atomic uintptr_t *place;
    return look(l, &place);
}

static bool is_drained(const void *lock)
{
    return td__rwlock_is_drained(lock);
}

static bool spin_until_drained(const td__rwlock *l)
{
    td__spin spin = { 0 };
    const _Atomic uintptr_t *place = NULL;
    while (td__spin_closely(&spin)) {
        if (td__load_relaxed(&l->readers) || (place && td__load_relaxed(place) == (uintptr_t)&l->gate))
            continue;
        if (look(l, &place))
            return true;
        spin.rounds += td__load_relaxed(&td__the_region->party_top) / RECORDS_A_READER; /* this took some time, too */
    }
    return false;
}

/* 0, TD_ETIMEOUT or TD_ECANCELLED. */
static int wait_until_drained(td__party *me, td__rwlock *l, const td__rwlock_patience *how)
{
    bool shared = td__is_shared(l);
    if (spin_until_drained(l))
        return 0;
    td__fetch_or_acq_rel(&l->bits, TD__RW_HALF(TD__RW_ASLEEP));
    td__step_point();
    /* A reader that leaves after the barrier sees the bit and pokes us; of one that left before it we see that it has.
     */
    bool passed = td__latch_pass_barrier(shared);
    for (;;) {
        int64_t until = how->deadline;
        bool sliced = !passed && (!until || until > td__now() + SLICE_NS);
        if (sliced)
            until = td__now() + SLICE_NS;
        int r = td__wait_until(me, is_drained, l, shared, until, how->cancel);
        td__step_point();
        if (r != TD_ETIMEOUT || !sliced)
            return r < 0 && !td__rwlock_is_drained(l) ? r : 0;
    }
}

/* Does not get it after all. */
static int stop_draining(td__party *me, td__rwlock *l, int code)
{
    td__rwlock_give_back(me, l, TD__RW_WRITE, (uint32_t)td__held_find(me, l, TD__RW_WRITE));
    return td__fail_quick(code, "td_rwlock_acquire_write");
}

/* The writer is alone now. */
static void drained(td__rwlock *l)
{
    uint32_t searched = td__load_relaxed(&td__the_region->party_top) / RECORDS_A_READER;
    uint32_t cool = (searched < COOL_MOST ? searched : COOL_MOST) * TD__RW_COOL_ONE;
    uint16_t bits = td__load_relaxed(&l->bits);
    td__step_point();
    /* The gate may be closed by another at the same time. */
    while (!td__cas_acquire(&l->bits, &bits, (uint16_t)((bits & TD__RW_HALF(TD__RW_CLOSED)) | TD__RW_HALF(cool))))
        ;
    td__step_point();
}

int td__rwlock_drain(td__party *me, td__rwlock *l, td__rwlock_patience *how)
{
    if (td__unlikely(!td__rwlock_is_drained(l))) {
        if (how->none)
            return stop_draining(me, l, TD_EBUSY);
        if (!how->deadline)
            how->deadline = td__deadline(how->limit);
        int r = wait_until_drained(me, l, how);
        if (r < 0)
            return stop_draining(me, l, r);
    }
    drained(l);
    return 0;
}
