/* SPDX-License-Identifier: MIT */
/*
 * Condition: a list of waiters, in the order of their coming.
 *
 * No wake-up is lost: a waiter is on the list before it lets its lock go, and who notifies has the lock; so a single
 * load tells it that nobody waits. What a notification has taken off the list is woken after the section. If the
 * notifier dies before that, the repair wakes everybody; if it dies half-way through many, the step in its record says
 * how many are still to be notified, and the repair does that while the notifier still owns the lock, so that nobody
 * who came later is among them. A waiter that was notified, and dies before it has its lock back, has not used the
 * notification: it goes to the next one.
 *
 * The condition's latch guards the list and is held for moments only; whoever has it may want no other. The user's lock
 * is acquired outside of sections.
 */
#include <tandem/sync.h>
#include "sync/monitor.h"
#include "sync/wait.h"
#include "sync/use.h"

#include <limits.h>

typedef struct condition {
    td__monitor monitor;
    td__waiters waiters;    /* under the latch; who holds the lock may look whether there are any */
    _Atomic uintptr_t lock; /* the one it belongs to: written once, by the first to wait */
} condition;
_Static_assert(sizeof(condition) == sizeof(td_condition), "the public struct has the room");
_Static_assert(_Alignof(condition) == _Alignof(td_condition), "and the alignment");

enum { NOTIFIED = 1 };

/* In one section: each costs five notes of what is to be undone. */
#define BATCH 10

static condition *inside(td_condition *c)
{
    return (condition *)(void *)c;
}

static void left_by_fork(td__monitor *monitor)
{
    condition *c = (condition *)(void *)monitor;
    td__store_relaxed(&c->waiters.first, 0);
    td__store_relaxed(&c->waiters.last, 0);
}

/* --- waiting ----------------------------------------------------------------------------------------------- */

static void bind(condition *c, const td_lock *lock, const char *call)
{
    uintptr_t bound = td__load_relaxed(&c->lock);
    if (td__likely(bound == (uintptr_t)lock))
        return;
    if (td__is_shared(c) && !td__is_shared(lock))
        td__bug("%s: condition %p is in shared memory and lock %p is not", call, (void *)c, (const void *)lock);
    /* Relaxed is enough: of two that wait with different locks one finds the other's here, or the value is the same. */
    if (bound == 0 && td__cas_acquire(&c->lock, &bound, (uintptr_t)lock))
        return;
    if (bound != (uintptr_t)lock)
        td__bug("%s: condition %p belongs to lock %p, not to %p", call, (void *)c, (void *)bound, (const void *)lock);
}

/* 0, or a negative code; aborts if the lock is not the caller's. */
static int check(const td_condition *c, const td_lock *lock, const char *call)
{
    if (!c || !lock)
        return td__fail(TD_EINVAL, "%s: the %s is NULL", call, c ? "lock" : "condition");
    if (!td_lock_owned(lock))
        td__bug("%s: lock %p is not held by this thread", call, (const void *)lock);
    bind(inside((td_condition *)(uintptr_t)c), lock, call);
    return 0;
}

static int wait_once(condition *c, td_lock *lock, int64_t deadline, td_cancel *cancel)
{
    td__party *me = td__me;
    td__latch *latch = &c->monitor.latch;
    td__monitor_enter(me, &c->monitor, left_by_fork);
    td__wait_join(me, latch, &c->waiters, TD__WAIT_CONDITION);
    td__monitor_leave(me, &c->monitor);
    td_lock_release(lock);
    int r = td__wait_joined(me, latch, deadline, cancel);
    int locked = td_lock_acquire(lock);
    td__wait_used(me);
    /* A dead owner is worse news than a limit that has passed, and tells as well that the condition is to be looked at.
     */
    return locked != 0 ? locked : r < 0 ? r : 0;
}

static int told(int r, const char *call)
{
    return r < 0 ? td__fail_quick(r, call) : r;
}

int td_condition_wait_with(td_condition *c, td_lock *lock, td_time limit, td_cancel *cancel)
{
    static const char call[] = "td_condition_wait";
    int r = check(c, lock, call);
    return r < 0 ? r : told(wait_once(inside(c), lock, td__deadline(limit), cancel), call);
}

int td_condition_wait_rlock_with(td_condition *c, td_rlock *lock, td_time limit, td_cancel *cancel)
{
    static const char call[] = "td_condition_wait_rlock";
    int r = check(c, (td_lock *)lock, call);
    if (r < 0)
        return r;
    uint32_t depth = lock->td_depth;
    r = wait_once(inside(c), &lock->td_inner, td__deadline(limit), cancel);
    lock->td_depth = depth;
    return told(r, call);
}

static int await(condition *c, td_lock *lock, td_condition_predicate *predicate, void *argument, int64_t deadline,
                 td_cancel *cancel, const char *call)
{
    int r = 0;
    while (!predicate(argument)) {
        /* The limit or the cancellation ended the last wait, and this was the last look. */
        if (r < 0)
            return td__fail_quick(r, call);
        r = wait_once(c, lock, deadline, cancel);
        if (r > 0)
            return r;
    }
    return 0;
}

int td_condition_await_with(td_condition *c, td_lock *lock, td_condition_predicate *predicate, void *argument,
                            td_time limit, td_cancel *cancel)
{
    static const char call[] = "td_condition_await";
    int r = check(c, lock, call);
    if (r < 0)
        return r;
    if (!predicate)
        return td__fail(TD_EINVAL, "%s: the predicate is NULL", call);
    return await(inside(c), lock, predicate, argument, td__deadline(limit), cancel, call);
}

/* The predicate sees the lock as its caller had it. */
struct deep {
    td_condition_predicate *predicate;
    void *argument;
    td_rlock *lock;
    uint32_t depth;
};

static bool look_deep(void *argument)
{
    struct deep *deep = argument;
    deep->lock->td_depth = deep->depth;
    return deep->predicate(deep->argument);
}

int td_condition_await_rlock_with(td_condition *c, td_rlock *lock, td_condition_predicate *predicate, void *argument,
                                  td_time limit, td_cancel *cancel)
{
    static const char call[] = "td_condition_await_rlock";
    int r = check(c, (td_lock *)lock, call);
    if (r < 0)
        return r;
    if (!predicate)
        return td__fail(TD_EINVAL, "%s: the predicate is NULL", call);
    struct deep deep = { predicate, argument, lock, lock->td_depth };
    r = await(inside(c), &lock->td_inner, look_deep, &deep, td__deadline(limit), cancel, call);
    lock->td_depth = deep.depth;
    return r;
}

/* --- notifying --------------------------------------------------------------------------------------------- */

/* Inside the section. `left`: how many are to be notified in all; the new number is noted there. Returns how many were.
 */
static uint32_t grant(td__party *me, condition *c, uint32_t *left, td__party *woken[BATCH])
{
    uint32_t count = 0, most = *left < BATCH ? *left : BATCH;
    while (count < most && (woken[count] = td__wait_grant(me, &c->waiters, NOTIFIED)) != NULL)
        count++;
    td__set(me, left, td__wait_first(&c->waiters) ? *left - count : 0);
    return count;
}

/* When the lock is released: one that wakes before that finds it taken, and perhaps its owner preempted in its favour.
 */
static void wake_later(td__party *me, condition *c, td__party *woken[], uint32_t count)
{
    td__latch *lock = (td__latch *)td__load_relaxed(&c->lock);
    for (uint32_t i = 0; i < count; i++) {
        if (me->later_count < TD__LATER_MAX)
            me->later[me->later_count++] = td__party_index(woken[i]);
        else
            td__party_poke(woken[i]);
    }
    /* Ours: no other changes this bit while we have the lock, and we see it at the release. */
    if (count > 0)
        td__fetch_or_acq_rel(&lock->contended, TD__LATER);
}

static uint32_t notify_some(td__party *me, condition *c, uint32_t *left)
{
    td__party *woken[BATCH];
    td__monitor_enter(me, &c->monitor, left_by_fork);
    uint32_t count = grant(me, c, left, woken);
    td__monitor_leave(me, &c->monitor);
    wake_later(me, c, woken, count);
    return count;
}

static uint32_t notify_many(td__party *me, condition *c, uint32_t n)
{
    uint32_t count = 0;
    td__step_begin(me, TD__STEP_SYNC, TD__SYNC_NOTIFY, c, 0, n);
    while (me->step[TD__STEP_SYNC].number > 0)
        count += notify_some(me, c, &me->step[TD__STEP_SYNC].number);
    td__step_end(me, TD__STEP_SYNC);
    return count;
}

int td_condition_notify_n(td_condition *condition_, uint32_t n)
{
    condition *c = inside(condition_);
    if (!c)
        return td__fail(TD_EINVAL, "td_condition_notify: the condition is NULL");
    /* Ours to read, and the list's head too, as far as the caller is right: who waits has had the lock before us. */
    const td_lock *lock = (const td_lock *)td__load_relaxed(&c->lock);
    if (!lock)
        return 0; /* nobody has ever waited */
    if (td__unlikely(!td_lock_owned(lock)))
        td__bug("td_condition_notify: condition %p: its lock %p is not held by this thread", (void *)c,
                (const void *)lock);
    if (n == 0 || !td__wait_first(&c->waiters))
        return 0;
    if (n > BATCH)
        return (int)notify_many(td__me, c, n);
    return (int)notify_some(td__me, c, &n);
}

int td_condition_notify(td_condition *c)
{
    return td_condition_notify_n(c, 1);
}

int td_condition_notify_all(td_condition *c)
{
    return td_condition_notify_n(c, UINT32_MAX);
}

/* --- deaths ------------------------------------------------------------------------------------------------ */

static void repair_waiter(td__party *me, td__party *dead, td__latch *latch, uint32_t granted)
{
    condition *c = (condition *)(void *)latch;
    (void)dead;
    if (granted)
        td__wait_grant(me, &c->waiters, NOTIFIED);
}

/* The rest of a notifier's. Who is notified is woken by the end of the repair. */
static bool repair_notify(td__party *me, td__party *dead, const td__step *step)
{
    condition *c = (condition *)step->object;
    td__party *woken[BATCH];
    if (!td__is_shared(c) || !td__is_shared((char *)(c + 1) - 1) || (uintptr_t)c % _Alignof(condition))
        return true;
    while (dead->step[TD__STEP_SYNC].number > 0) {
        if (!td__section_try(me, &c->monitor.latch))
            return false;
        grant(me, c, &dead->step[TD__STEP_SYNC].number, woken);
        td__monitor_leave(me, &c->monitor);
    }
    return true;
}

__attribute__((constructor)) static void register_repairs(void)
{
    td__wait_register(TD__WAIT_CONDITION, repair_waiter);
    td__sync_step_register(TD__SYNC_NOTIFY, repair_notify);
}

void td_condition_destroy(td_condition *c)
{
#ifdef TD_DEBUG
    if (c)
        td__use_settle(c, sizeof *c);
    if (c && td__wait_first(&inside(c)->waiters) && (td__is_shared(c) || inside(c)->monitor.life == td__forks))
        td__bug("td_condition_destroy: somebody waits on condition %p", (void *)c);
#else
    (void)c;
#endif
}
