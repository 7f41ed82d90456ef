/* SPDX-License-Identifier: MIT */
/*
 * A monitor: an object whose state is guarded by a latch, and changed in sections. Condition, Barrier and RWLock are
 * monitors.
 *
 * A private one that a fork has copied may have been caught with another thread inside, or with others waiting, who are
 * not there in the child. The number of forks that it was last used under tells: before its first use in the child it
 * is renewed, that is, brought into the state that it would be in without them.
 */
#ifndef TD_SYNC_MONITOR_H
#define TD_SYNC_MONITOR_H

#include "sync/section.h"

typedef struct td__monitor {
    td__latch latch;
    _Atomic uint32_t life; /* td__forks at its last use; in shared memory always 0 */
} td__monitor;

/* What is left in the child, beside the latch, which is free then. */
typedef void td__monitor_left(td__monitor *monitor);
void td__monitor_renew(td__monitor *monitor, td__monitor_left *left);

static inline void td__monitor_check(td__monitor *monitor, td__monitor_left *left)
{
    /* Acquire: what the thread that renewed it wrote. */
    if (td__unlikely(td__load_acquire(&monitor->life) != td__forks) && !td__is_shared(monitor))
        td__monitor_renew(monitor, left);
}

static inline void td__monitor_enter(td__party *me, td__monitor *monitor, td__monitor_left *left)
{
    td__monitor_check(monitor, left);
    td__section_enter(me, &monitor->latch);
}

static inline void td__monitor_leave(td__party *me, td__monitor *monitor)
{
    td__section_leave(me, &monitor->latch);
}

/*
 * Steps that several sections make up, of all that is in this layer (TD__STEP_SYNC): each kind has its own repair. See
 * td__step_repair.
 */
enum { TD__SYNC_NOTIFY = 1, TD__SYNC_KINDS = 8 };
void td__sync_step_register(uint32_t kind, td__step_repair *repair);

#endif
