/* SPDX-License-Identifier: MIT */
/*
 * What is put right after those who are gone: processes that died, threads that ended, and the threads that a fork has
 * not taken along. Their records say what they held or were waiting for.
 *
 * A death is repaired under the latch, with the gate closed, in sections: so one that interrupts the repair leaves it
 * to be done again, or done. A forked child has one thread when it renews its copy, or the others wait for that (see
 * monitor.c): plain stores are enough.
 */
#include "sync/rwlock.h"

/* --- deaths ------------------------------------------------------------------------------------------------ */

/* It waited; or it had been let in. */
static void repair_waiter(td__party *me, td__party *dead, td__latch *latch, uint32_t granted)
{
    td__rwlock *l = (td__rwlock *)(void *)latch;
    td__rwlock_admitted in;
    td__rwlock_close_gate(l); /* and the next to come opens it */
    if (granted == TD__RW_READ || granted == (TD__RW_READ | TD__RW_TOLD))
        td__rwlock_exit_as(me, l, TD__RW_READ, false);
    else if (granted && td__load_relaxed(&l->writer) == dead->index)
        td__rwlock_exit_as(me, l, TD__RW_WRITE, granted & TD__RW_TOLD);
    td__rwlock_let_in(me, l, &in); /* the repair wakes them, and a writer that has drained it now */
}

/* What a thread held that has died, or has ended. A writer that is not in the gate has let go of the lock, which may
 * be gone. */
static bool take_back(td__party *me, td__party *dead, td__rwlock *l, uint32_t what)
{
    td__rwlock_admitted in;
    if (what == TD__RW_WRITE && td__load_relaxed(&l->writer) != dead->index) {
        dead->held_count--;
        return true;
    }
    if (me == dead)
        td__section_enter(me, &l->monitor.latch);
    else if (!td__section_try(me, &l->monitor.latch))
        return false;
    td__rwlock_close_gate(l);
    if (what == TD__RW_READ || td__load_relaxed(&l->writer) == dead->index)
        td__rwlock_exit_as(me, l, what, true);
    td__set(me, &dead->held_count, dead->held_count - 1);
    td__rwlock_let_in(me, l, &in);
    td__rwlock_leave(me, l, &in);
    return true;
}

static bool take_back_read(td__party *me, td__party *dead, void *object)
{
    return take_back(me, dead, object, TD__RW_READ);
}

static bool take_back_write(td__party *me, td__party *dead, void *object)
{
    return take_back(me, dead, object, TD__RW_WRITE);
}

/* A thread that ends while it reads by its record. Of a dead one the place is just cleared. */
static void leave_at_end(td__party *me, int at)
{
    uintptr_t gate = td__load_relaxed(&me->reading[at]);
    td__rwlock_leave_place(me, (td__rwlock *)(gate - offsetof(td__rwlock, gate)), at);
}

/* --- forks ------------------------------------------------------------------------------------------------- */

/* The other threads are not there: who read has gone, and who wrote is as good as dead. */
void td__rwlock_left_by_fork(td__monitor *monitor)
{
    td__rwlock *l = (td__rwlock *)(void *)monitor;
    uint32_t gate = td__load_relaxed(&l->gate);
    td__store_relaxed(&l->waiters.first, 0);
    td__store_relaxed(&l->waiters.last, 0);
    td__store_relaxed(&l->readers, 0);
    if (TD__RW_WRITER(gate) && !(gate & TD__RW_DRAINS))
        td__store_relaxed(&l->died, 1);
    /* What is true at any time, but after a death, when nobody reads. */
    td__store_release(&l->gate, TD__RW_CLOSED | (td__load_relaxed(&l->died) ? 0 : TD__RW_DRAINS));
}

/* The forking thread itself holds on to what it held. Called once for each entry in its record, and finds the lock with
 * what it has found for those before. */
static void read_by_forking(td__party *me, void *object, uint16_t parent_index)
{
    td__rwlock *l = object;
    uint32_t times = 0;
    (void)parent_index;
    td__rwlock_check(l);
    for (uint32_t i = 0; me && i < me->held_count; i++)
        if (me->held[i] == ((uintptr_t)l | TD__RW_READ))
            times++;
    td__store_relaxed(&l->readers, times);
}

static void written_by_forking(td__party *me, void *object, uint16_t parent_index)
{
    td__rwlock *l = object;
    bool is_ours = td__load_relaxed(&l->writer) == parent_index;
    uint16_t died = td__load_relaxed(&l->died);
    td__rwlock_check(l);
    if (!is_ours || !me)
        return;
    td__store_relaxed(&l->died, died);
    td__store_release(&l->gate, TD__RW_CLOSED | TD__RW_WRITTEN_BY(me->index));
}

__attribute__((constructor)) static void register_repairs(void)
{
    td__wait_register(TD__WAIT_RWLOCK, repair_waiter);
    td__reading_register(leave_at_end);
    td__held_register(TD__HELD_READ, take_back_read);
    td__held_register(TD__HELD_WRITE, take_back_write);
    td__held_register_forked(TD__HELD_READ, read_by_forking);
    td__held_register_forked(TD__HELD_WRITE, written_by_forking);
}
