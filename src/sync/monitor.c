/* SPDX-License-Identifier: MIT */
/* What the monitors share; see monitor.h. */
#include "sync/monitor.h"

/* In `life`, beside this process's: a thread of it is at work. Left over from the parent it is an old number like
 * others. */
#define RENEWING 0x80000000u

void td__monitor_renew(td__monitor *monitor, td__monitor_left *left)
{
    uint32_t life = td__load_acquire(&monitor->life);
    while (life != td__forks) {
        if (life == (td__forks | RENEWING)) {
            td__yield(); /* another thread has begun, and writes a few words */
            life = td__load_acquire(&monitor->life);
        } else if (td__cas_acq_rel(&monitor->life, &life, td__forks | RENEWING)) {
            td__store_relaxed(&monitor->latch.owner, 0);
            td__store_relaxed(&monitor->latch.contended, 0);
            left(monitor);
            /* Release: all of this, to whoever reads the number in td__monitor_check. */
            td__store_release(&monitor->life, td__forks);
            return;
        }
    }
}

/* --- steps ------------------------------------------------------------------------------------------------- */

static td__step_repair *repairs[TD__SYNC_KINDS];

void td__sync_step_register(uint32_t kind, td__step_repair *repair)
{
    repairs[kind] = repair;
}

static bool repair_step(td__party *me, td__party *dead, const td__step *step)
{
    return step->kind >= TD__SYNC_KINDS || !repairs[step->kind] || repairs[step->kind](me, dead, step);
}

__attribute__((constructor)) static void register_repair(void)
{
    td__step_register(TD__STEP_SYNC, repair_step);
}
