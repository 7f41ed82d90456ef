/* SPDX-License-Identifier: MIT */
/*
 * Lock and RLock: a latch that is named among what its owner holds. The record says so before the latch is acquired and
 * until after it is released; whether it is really held, the latch itself tells.
 */
#include <tandem/sync.h>
#include "sync/latch.h"

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
    if (code == TD_ETIMEOUT)
        return td__fail_quick(TD_ETIMEOUT);
    if (code == TD_ECANCELLED)
        return td__fail_quick(TD_ECANCELLED);
    if (code == TD_EDEADLOCK)
        return td__fail(code, "%s: this thread holds lock %p already", call, lock);
    return code;
}

/* The quick way has failed. */
static int acquire_slowly(td__party *me, td_lock *lock, td_time limit, const td_cancel *cancel)
{
    if (owns(me, lock))
        return given_up(TD_EDEADLOCK, "td_lock_acquire", lock);
    int r = td__latch_wait(latch_of(lock), me, td__deadline(limit), cancel);
    if (r < 0)
        return given_up(r, "td_lock_acquire", lock);
    td__held_add(me);
    return r;
}

static td__party *prepare(const void *lock)
{
    td__party *me = td__party_self();
    if (td__unlikely(!me))
        return NULL;
    if (td__unlikely(!lock)) {
        td__fail(TD_EINVAL, "td_lock_acquire: the lock is NULL");
        return NULL;
    }
    if (td__unlikely(!td__held_room(me))) {
        td__fail(TD_ETOOBIG, "td_lock_acquire: this thread holds %d objects already, the limit", TD__HELD_MAX);
        return NULL;
    }
    td__held_intend(me, lock, TD__HELD_LATCH);
    return me;
}

int td_lock_acquire(td_lock *lock)
{
    td__party *me = prepare(lock);
    if (td__unlikely(!me))
        return td_last_error();
    if (td__likely(td__latch_try(latch_of(lock), me))) {
        td__held_add(me);
        return 0;
    }
    return acquire_slowly(me, lock, TD_NO_LIMIT, NULL);
}

int td_lock_acquire_with(td_lock *lock, td_time limit, td_cancel *cancel)
{
    td__party *me = prepare(lock);
    if (!me)
        return td_last_error();
    if (td__latch_try(latch_of(lock), me)) {
        td__held_add(me);
        return 0;
    }
    return acquire_slowly(me, lock, limit, cancel);
}

int td_lock_try_acquire(td_lock *lock)
{
    td__party *me = prepare(lock);
    if (!me)
        return td_last_error();
    td__latch *latch = latch_of(lock);
    uint16_t owner = td__load_relaxed(&latch->owner);
    while (owner == 0 || owner == TD__DIED) {
        bool died = owner == TD__DIED;
        if (td__cas_acquire(&latch->owner, &owner, me->index)) {
            td__held_add(me);
            return died ? TD_OWNER_DIED : 0;
        }
    }
    if (owner == me->index)
        return given_up(TD_EDEADLOCK, "td_lock_try_acquire", lock);
    return td__fail_quick(TD_EBUSY);
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

/* The last one acquired is as a rule the first one released. */
static void forget(td__party *me, const td_lock *lock)
{
    uint32_t top = me->held_count - 1;
    if (td__likely(me->held[top] == (uintptr_t)lock)) {
        td__program_order();
        me->held_count = top;
        return;
    }
    td__held_remove(me, td__held_find(me, lock, TD__HELD_LATCH));
}

void td_lock_release(td_lock *lock)
{
    td__party *me = td__me;
    if (td__unlikely(!lock || !owns(me, lock)))
        not_held("td_lock_release", lock);
    td__latch_release(latch_of(lock));
    forget(me, lock);
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
    return lock && owns(td__me, &lock->td_lock);
}

int td_rlock_acquire(td_rlock *lock)
{
    return is_ours(lock) ? again(lock) : first(lock, td_lock_acquire((td_lock *)lock));
}

int td_rlock_acquire_with(td_rlock *lock, td_time limit, td_cancel *cancel)
{
    return is_ours(lock) ? again(lock) : first(lock, td_lock_acquire_with((td_lock *)lock, limit, cancel));
}

int td_rlock_try_acquire(td_rlock *lock)
{
    return is_ours(lock) ? again(lock) : first(lock, td_lock_try_acquire((td_lock *)lock));
}

void td_rlock_release(td_rlock *lock)
{
    if (!is_ours(lock))
        not_held("td_rlock_release", (td_lock *)lock);
    if (--lock->td_depth == 0)
        td_lock_release(&lock->td_lock);
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
