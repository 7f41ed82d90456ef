/* SPDX-License-Identifier: MIT */
/*
 * Lock and RLock: a latch that is named among what its owner holds. The record says so before the latch is acquired and
 * until after it is released; whether it is really held, the latch itself tells.
 */
#include <tandem/sync.h>
#include "sync/latch.h"
#include "sync/use.h"

#include <errno.h>

_Static_assert(sizeof(td_lock) == sizeof(td__latch), "a lock is a latch");

static td__latch *latch_of(const td_lock *lock)
{
    return (td__latch *)(uintptr_t)lock;
}

static bool owns(const td__party *me, const td_lock *lock)
{
    return me && td__load_relaxed(&latch_of(lock)->owner) == me->index;
}

static int given_up(int code, const char *call, const void *lock)
{
    if (code == TD_ETIMEOUT || code == TD_ECANCELLED)
        return td__fail_quick(code, call);
    if (code == TD_EDEADLOCK)
        return td__fail(code, "%s: this thread holds lock %p already", call, lock);
    return code;
}

/* The lock is named already. */
static __attribute__((noinline, cold)) int wait_for(td__party *me, td_lock *lock, td_time limit,
                                                    const td_cancel *cancel, const char *call)
{
    int r = owns(me, lock) ? TD_EDEADLOCK : td__latch_wait(latch_of(lock), me, td__deadline(limit), cancel);
    if (r >= 0)
        return r;
    td__held_forget(me, lock);
    return given_up(r, call, lock);
}

/* A record with room for one more, or NULL with the error set. */
static td__party *prepare(const char *call, const void *lock)
{
    td__party *me = td__party_self();
    if (!me)
        return NULL;
    if (lock && td__held_room(me))
        return me;
    if (!lock)
        td__fail(TD_EINVAL, "%s: the lock is NULL", call);
    else
        td__fail(TD_ETOOBIG, "%s: this thread holds %d objects already, the limit", call, TD__HELD_MAX);
    return NULL;
}

static __attribute__((noinline, cold)) int acquire_with(td_lock *lock, td_time limit, const td_cancel *cancel,
                                                        const char *call)
{
    td__party *me = prepare(call, lock);
    if (!me)
        return td_last_error();
    td__held_intend(me, lock);
    return td__latch_try(latch_of(lock), me) ? 0 : wait_for(me, lock, limit, cancel, call);
}

/* As few instructions as can be; the rest stands elsewhere, so that these need no jump: 5.9 ns instead of 6.2. */
static inline int acquire(td__party *me, td_lock *lock, const char *call)
{
    if (td__unlikely(!me || !lock || !td__held_room(me)))
        return acquire_with(lock, TD_NO_LIMIT, NULL, call);
    td__held_intend(me, lock);
    if (td__unlikely(!td__latch_try(latch_of(lock), me)))
        return wait_for(me, lock, TD_NO_LIMIT, NULL, call);
    return 0;
}

int td_lock_acquire(td_lock *lock)
{
    return acquire(td__me, lock, "td_lock_acquire");
}

int td_lock_acquire_with(td_lock *lock, td_time limit, td_cancel *cancel)
{
    return acquire_with(lock, limit, cancel, "td_lock_acquire");
}

static inline int try_acquire(td_lock *lock, const char *call)
{
    td__party *me = prepare(call, lock);
    if (!me)
        return td_last_error();
    td__latch *latch = latch_of(lock);
    td__held_intend(me, lock);
    uint16_t owner = td__load_relaxed(&latch->owner);
    while (owner == 0 || owner == TD__DIED) {
        int r = owner == TD__DIED ? TD_OWNER_DIED : 0;
        /* Acquire: as in td__latch_try. */
        if (td__cas_acquire(&latch->owner, &owner, me->index))
            return r;
    }
    td__held_forget(me, lock);
    if (owner == me->index)
        return given_up(TD_EDEADLOCK, call, lock);
    return td__fail_quick(TD_EBUSY, call);
}

int td_lock_try_acquire(td_lock *lock)
{
    return try_acquire(lock, "td_lock_try_acquire");
}

static _Noreturn void not_held(const char *call, const td_lock *lock)
{
    uint16_t owner = lock ? td__load_relaxed(&latch_of(lock)->owner) : 0;
    if (!lock)
        td__bug("%s: the lock is NULL", call);
    if (owner == 0 || owner == TD__DIED)
        td__bug("%s: lock %p is not held", call, (const void *)lock);
    td__bug("%s: lock %p is held by another thread", call, (const void *)lock);
}

static __attribute__((noinline, cold)) void release_slowly(td_lock *lock)
{
    td__party *me = td__me;
    if (!lock || !owns(me, lock))
        not_held("td_lock_release", lock);
    td__latch_release(latch_of(lock), me);
    td__held_forget(me, lock);
}

static __attribute__((noinline, cold)) void after_release(td__party *me, td_lock *lock, uint16_t contended)
{
    td__latch_after(latch_of(lock), contended);
    td__held_forget(me, lock);
}

static inline void release(td__party *me, td_lock *lock)
{
    if (td__unlikely(!me || !lock || !td__latch_is_quick(latch_of(lock), me) || !td__held_is_last(me, lock))) {
        release_slowly(lock);
        return;
    }
    uint32_t before = me->held_count - 1;
    uint16_t contended = td__latch_release_quickly(latch_of(lock));
    if (td__unlikely(contended != 0)) {
        after_release(me, lock, contended);
        return;
    }
    td__program_order();
    me->held_count = before;
}

void td_lock_release(td_lock *lock)
{
    release(td__me, lock);
}

bool td_lock_locked(const td_lock *lock)
{
    uint16_t owner = lock ? td__load_relaxed(&latch_of(lock)->owner) : 0;
    return owner != 0 && owner != TD__DIED;
}

bool td_lock_owned(const td_lock *lock)
{
    return lock && owns(td__me, lock);
}

/* --- RLock ------------------------------------------------------------------------------------------------- */

/* It is ours already: once more. */
static int again(td_rlock *lock)
{
    if (lock->td_depth == UINT32_MAX)
        return td__fail(TD_ETOOBIG, "td_rlock_acquire: lock %p is held %u times, the limit", (void *)lock, UINT32_MAX);
    lock->td_depth++;
    return 0;
}

static int first(td_rlock *lock, int r)
{
    if (r >= 0)
        lock->td_depth = 1;
    return r;
}

static bool is_ours(const td_rlock *lock)
{
    return lock && owns(td__me, &lock->td_inner);
}

int td_rlock_acquire(td_rlock *lock)
{
    td__party *me = td__me;
    if (lock && owns(me, &lock->td_inner))
        return again(lock);
    return first(lock, acquire(me, (td_lock *)lock, "td_rlock_acquire"));
}

int td_rlock_acquire_with(td_rlock *lock, td_time limit, td_cancel *cancel)
{
    if (is_ours(lock))
        return again(lock);
    return first(lock, acquire_with((td_lock *)lock, limit, cancel, "td_rlock_acquire"));
}

int td_rlock_try_acquire(td_rlock *lock)
{
    return is_ours(lock) ? again(lock) : first(lock, try_acquire((td_lock *)lock, "td_rlock_try_acquire"));
}

void td_rlock_release(td_rlock *lock)
{
    td__party *me = td__me;
    if (td__unlikely(!lock || !owns(me, &lock->td_inner)))
        not_held("td_rlock_release", (td_lock *)lock);
    if (--lock->td_depth == 0)
        release(me, &lock->td_inner);
}

bool td_rlock_locked(const td_rlock *lock)
{
    return td_lock_locked((const td_lock *)lock);
}

bool td_rlock_owned(const td_rlock *lock)
{
    return is_ours(lock);
}

uint32_t td_rlock_depth(const td_rlock *lock)
{
    return is_ours(lock) ? lock->td_depth : 0;
}

/* --- the end of one ---------------------------------------------------------------------------------------- */

static void check_unused(const char *call, const td_lock *lock)
{
#ifdef TD_DEBUG
    if (lock)
        td__use_settle(lock, sizeof *lock);
    if (td_lock_locked(lock))
        td__bug("%s: lock %p is held", call, (const void *)lock);
#else
    (void)call;
    (void)lock;
#endif
}

void td_lock_destroy(td_lock *lock)
{
    check_unused("td_lock_destroy", lock);
}

void td_rlock_destroy(td_rlock *lock)
{
    check_unused("td_rlock_destroy", (td_lock *)lock);
}
