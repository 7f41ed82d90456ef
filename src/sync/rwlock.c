/* SPDX-License-Identifier: MIT */
/*
 * Read-write lock: a number of readers, or a writer, and a list of those who wait, in the order of their coming.
 *
 * Nobody overtakes: who comes while others wait, waits behind them. Who leaves lets in those at the front, a writer, or
 * the readers up to the next writer: it changes the state for them, so that the lock does not stand open in between,
 * and nobody starves. Invariant, at the end of each section: the first on the list could not be let in now; or readers
 * have just been let in, who are to let in more (one section lets in a limited number) as the first thing that they do.
 *
 * A reader that reads already and asks again is let in past those who wait: they wait for it.
 *
 * What a thread holds stands in its record, once for each time, and is changed in the section in which the lock is. So
 * the numbers agree at each death, and what the dead one held is taken back: of a reader nothing is left; a writer
 * leaves a note, which everybody who acquires the lock is told, until a writer has been told, who can put things right.
 * One that had been let in and did not know yet has held nothing: it was as if it had not come.
 */
#include <tandem/sync.h>
#include "sync/monitor.h"
#include "sync/wait.h"
#include "sync/use.h"

typedef struct rwlock {
    td__monitor monitor;
    td__waiters waiters;      /* under the latch, as all below; read without it only where that is said */
    _Atomic uint32_t readers; /* each one as often as it has acquired it */
    _Atomic uint16_t writer;  /* index, or 0. Whether it is the calling thread, it may ask at any time */
    _Atomic uint16_t died;    /* a writer has died, and no other has been told */
} rwlock;
_Static_assert(sizeof(rwlock) == sizeof(td_rwlock), "the public struct has the room");

/* What a waiter wants (`value`), what it is granted, and as the tag of what it holds. */
enum { READ = TD__HELD_READ, WRITE = TD__HELD_WRITE, TOLD = 4 };

/* In one section: each costs five notes of what is to be undone. */
#define BATCH 8

typedef struct admitted {
    uint32_t count;
    td__party *party[BATCH];
} admitted;

static rwlock *inside(const td_rwlock *lock)
{
    return (rwlock *)(uintptr_t)lock;
}

/* --- in sections ------------------------------------------------------------------------------------------- */

/* Makes a party that is free to do so a reader, or the writer. What it is told besides. */
static uint32_t enter_as(td__party *me, rwlock *l, const td__party *party, uint32_t what)
{
    uint32_t told = td__load_relaxed(&l->died) ? TOLD : 0;
    if (what == READ) {
        td__set_atomic(me, &l->readers, td__load_relaxed(&l->readers) + 1);
    } else {
        td__set_atomic(me, &l->writer, td__party_index(party));
        if (told)
            td__set_atomic(me, &l->died, 0);
    }
    return told;
}

/* A writer that leaves in this way has died, or has not known that it was one. */
static void exit_as(td__party *me, rwlock *l, uint32_t what, bool died)
{
    if (what == READ) {
        uint32_t readers = td__load_relaxed(&l->readers);
        if (readers) /* else somebody has written over it */
            td__set_atomic(me, &l->readers, readers - 1);
        return;
    }
    td__set_atomic(me, &l->writer, 0);
    if (died)
        td__set_atomic(me, &l->died, 1);
}

static bool is_open(const rwlock *l, uint32_t what)
{
    return td__load_relaxed(&l->writer) == 0 && (what == READ || td__load_relaxed(&l->readers) == 0);
}

static void let_in(td__party *me, rwlock *l, admitted *in)
{
    in->count = 0;
    for (td__party *first; in->count < BATCH && (first = td__wait_first(&l->waiters)) != NULL;) {
        uint32_t what = first->value;
        if (!is_open(l, what))
            break;
        uint32_t told = enter_as(me, l, first, what);
        td__wait_grant_this(me, &l->waiters, first, what | told);
        in->party[in->count++] = first;
    }
}

static void leave(td__party *me, rwlock *l, const admitted *in)
{
    td__monitor_leave(me, &l->monitor);
    for (uint32_t i = 0; i < in->count; i++)
        td__party_poke(in->party[i]);
}

static void note_held(td__party *me, const rwlock *l, uint32_t what)
{
    uint32_t count = me->held_count;
    me->held[count] = (uintptr_t)l | what; /* above the count it names nothing yet */
    td__program_order();
    td__set(me, &me->held_count, count + 1);
}

static void note_released(td__party *me, uint32_t at)
{
    uint32_t last = me->held_count - 1;
    if (at != last)
        td__set(me, &me->held[at], me->held[last]);
    td__set(me, &me->held_count, last);
}

/* --- forks ------------------------------------------------------------------------------------------------- */

/* The other threads are not there: who read has gone, and who wrote is as good as dead. */
static void left_by_fork(td__monitor *monitor)
{
    rwlock *l = (rwlock *)(void *)monitor;
    td__store_relaxed(&l->waiters.first, 0);
    td__store_relaxed(&l->waiters.last, 0);
    td__store_relaxed(&l->readers, 0);
    if (td__load_relaxed(&l->writer))
        td__store_relaxed(&l->died, 1);
    td__store_relaxed(&l->writer, 0);
}

/* The forking thread itself holds on to what it held. Called once for each entry in its record, and finds the lock with
 * what it has found for those before. */
static void read_by_forking(td__party *me, void *object, uint16_t parent_index)
{
    rwlock *l = object;
    uint32_t times = 0;
    (void)parent_index;
    td__monitor_check(&l->monitor, left_by_fork);
    for (uint32_t i = 0; me && i < me->held_count; i++)
        if (me->held[i] == ((uintptr_t)l | READ))
            times++;
    td__store_relaxed(&l->readers, times);
}

static void written_by_forking(td__party *me, void *object, uint16_t parent_index)
{
    rwlock *l = object;
    bool is_ours = td__load_relaxed(&l->writer) == parent_index;
    uint16_t died = td__load_relaxed(&l->died);
    td__monitor_check(&l->monitor, left_by_fork);
    if (!is_ours || !me)
        return;
    td__store_relaxed(&l->died, died);
    td__store_relaxed(&l->writer, me->index);
}

/* --- acquiring --------------------------------------------------------------------------------------------- */

static bool reads(const td__party *me, const rwlock *l)
{
    return td__held_find(me, l, READ) >= 0;
}

/* Inside the section: > 0: granted, and what was granted. 0: it has to wait. Or TD_EDEADLOCK. */
static int enter_now(td__party *me, rwlock *l, uint32_t what)
{
    bool queue = td__wait_first(&l->waiters) != NULL;
    if (td__likely(!queue && is_open(l, what)))
        return (int)(what | enter_as(me, l, me, what));
    if (td__load_relaxed(&l->writer) == me->index)
        return TD_EDEADLOCK;
    if (!reads(me, l))
        return 0;
    return what == READ ? (int)(what | enter_as(me, l, me, what)) : TD_EDEADLOCK;
}

static int failed(int code, const rwlock *l, uint32_t what)
{
    if (code != TD_EDEADLOCK)
        return td__fail_quick(code);
    bool writes = td__load_relaxed(&l->writer) == td__me->index;
    return td__fail(code, "td_rwlock_acquire_%s: this thread holds lock %p for %s already",
                    what == READ ? "read" : "write", (const void *)l, writes ? "writing" : "reading");
}

/* In the section, has been granted something or not: the end of it. */
static int settle(td__party *me, rwlock *l, uint32_t what, int r, bool waited)
{
    admitted in = { 0 };
    if (r > 0)
        note_held(me, l, what);
    if (waited) {
        if (r > 0)
            td__wait_taken(me);
        let_in(me, l, &in); /* the next readers; or those whom we, who have given up, have kept out */
    }
    leave(me, l, &in);
    if (r > 0)
        return r & TOLD ? TD_OWNER_DIED : 0;
    return failed(r, l, what);
}

/* NULL: the error is set. */
static td__party *prepare(const td_rwlock *lock, uint32_t what)
{
    td__party *me = td__party_self();
    const char *call = what == READ ? "read" : "write";
    if (!me)
        return NULL;
    if (td__likely(lock && td__held_room(me)))
        return me;
    if (!lock)
        td__fail(TD_EINVAL, "td_rwlock_acquire_%s: the lock is NULL", call);
    else
        td__fail(TD_ETOOBIG, "td_rwlock_acquire_%s: this thread holds %d objects already, the limit", call,
                 TD__HELD_MAX);
    return NULL;
}

static inline int acquire(td_rwlock *lock, uint32_t what, td_time limit, const td_cancel *cancel)
{
    td__party *me = prepare(lock, what);
    rwlock *l = inside(lock);
    if (!me)
        return td_last_error();
    td__monitor_enter(me, &l->monitor, left_by_fork);
    int r = enter_now(me, l, what);
    if (td__likely(r != 0))
        return settle(me, l, what, r, false);
    me->value = what;
    r = td__wait_on_list(me, &l->monitor.latch, &l->waiters, TD__WAIT_RWLOCK, td__deadline(limit), cancel);
    return settle(me, l, what, r, true);
}

static int try_acquire(td_rwlock *lock, uint32_t what)
{
    td__party *me = prepare(lock, what);
    rwlock *l = inside(lock);
    if (!me)
        return td_last_error();
    td__monitor_enter(me, &l->monitor, left_by_fork);
    int r = enter_now(me, l, what);
    return settle(me, l, what, r ? r : TD_EBUSY, false);
}

int td_rwlock_acquire_read(td_rwlock *lock)
{
    return acquire(lock, READ, TD_NO_LIMIT, NULL);
}

int td_rwlock_acquire_read_with(td_rwlock *lock, td_time limit, td_cancel *cancel)
{
    return acquire(lock, READ, limit, cancel);
}

int td_rwlock_try_acquire_read(td_rwlock *lock)
{
    return try_acquire(lock, READ);
}

int td_rwlock_acquire_write(td_rwlock *lock)
{
    return acquire(lock, WRITE, TD_NO_LIMIT, NULL);
}

int td_rwlock_acquire_write_with(td_rwlock *lock, td_time limit, td_cancel *cancel)
{
    return acquire(lock, WRITE, limit, cancel);
}

int td_rwlock_try_acquire_write(td_rwlock *lock)
{
    return try_acquire(lock, WRITE);
}

/* --- releasing --------------------------------------------------------------------------------------------- */

/* Its place in the record, and as what it is held; aborts if it is not. The last one acquired is as a rule the first
 * one released. */
static uint32_t find(const td__party *me, const rwlock *l, uint32_t *what)
{
    uintptr_t last = me && me->held_count ? me->held[me->held_count - 1] : 0;
    *what = last & 3;
    if (td__likely(l && (last == ((uintptr_t)l | READ) || last == ((uintptr_t)l | WRITE))))
        return me->held_count - 1;
    int at = -1;
    if (l && me) {
        *what = td__load_relaxed(&l->writer) == me->index ? WRITE : READ;
        at = td__held_find(me, l, *what);
    }
    if (at < 0)
        td__bug(l ? "td_rwlock_release: lock %p is not held by this thread" : "td_rwlock_release: the lock is NULL",
                (const void *)l);
    return (uint32_t)at;
}

void td_rwlock_release(td_rwlock *lock)
{
    td__party *me = td__me;
    rwlock *l = inside(lock);
    admitted in;
    uint32_t what, at = find(me, l, &what);
    td__section_enter(me, &l->monitor.latch);
    exit_as(me, l, what, false);
    note_released(me, at);
    let_in(me, l, &in);
    leave(me, l, &in);
}

void td_rwlock_downgrade(td_rwlock *lock)
{
    td__party *me = td__me;
    rwlock *l = inside(lock);
    admitted in;
    if (!l)
        td__bug("td_rwlock_downgrade: the lock is NULL");
    if (!me || td__load_relaxed(&l->writer) != me->index)
        td__bug("td_rwlock_downgrade: lock %p is not held for writing by this thread", (void *)lock);
    td__section_enter(me, &l->monitor.latch);
    td__set(me, &me->held[td__held_find(me, l, WRITE)], (uintptr_t)l | READ);
    td__set_atomic(me, &l->writer, 0);
    td__set_atomic(me, &l->readers, 1);
    let_in(me, l, &in);
    leave(me, l, &in);
}

/* --- asking ------------------------------------------------------------------------------------------------ */

uint32_t td_rwlock_readers(const td_rwlock *lock)
{
    if (!lock)
        return 0;
    td__monitor_check(&inside(lock)->monitor, left_by_fork);
    return td__load_relaxed(&inside(lock)->readers);
}

bool td_rwlock_writing(const td_rwlock *lock)
{
    if (!lock)
        return false;
    td__monitor_check(&inside(lock)->monitor, left_by_fork);
    return td__load_relaxed(&inside(lock)->writer) != 0;
}

bool td_rwlock_owned_read(const td_rwlock *lock)
{
    return lock && td__me && reads(td__me, inside(lock));
}

bool td_rwlock_owned_write(const td_rwlock *lock)
{
    return lock && td__me && td__load_relaxed(&inside(lock)->writer) == td__me->index &&
           td__held_find(td__me, lock, WRITE) >= 0;
}

void td_rwlock_destroy(td_rwlock *lock)
{
#ifdef TD_DEBUG
    if (lock)
        td__use_settle(lock, sizeof *lock);
    if (lock && (td_rwlock_readers(lock) || td_rwlock_writing(lock)))
        td__bug("td_rwlock_destroy: lock %p is held", (void *)lock);
#else
    (void)lock;
#endif
}

/* --- deaths ------------------------------------------------------------------------------------------------ */

/* It waited; or it had been let in. */
static void repair_waiter(td__party *me, td__party *dead, td__latch *latch, uint32_t granted)
{
    rwlock *l = (rwlock *)(void *)latch;
    admitted in;
    if (granted == READ || granted == (READ | TOLD))
        exit_as(me, l, READ, false);
    else if (granted && td__load_relaxed(&l->writer) == dead->index)
        exit_as(me, l, WRITE, granted & TOLD);
    let_in(me, l, &in); /* the repair wakes them */
}

/* What a thread held that has died, or has ended. */
static bool give_back(td__party *me, td__party *dead, rwlock *l, uint32_t what)
{
    admitted in;
    if (me == dead)
        td__section_enter(me, &l->monitor.latch);
    else if (!td__section_try(me, &l->monitor.latch))
        return false;
    if (what == READ || td__load_relaxed(&l->writer) == dead->index)
        exit_as(me, l, what, true);
    td__set(me, &dead->held_count, dead->held_count - 1);
    let_in(me, l, &in);
    leave(me, l, &in);
    return true;
}

static bool give_back_read(td__party *me, td__party *dead, void *object)
{
    return give_back(me, dead, object, READ);
}

static bool give_back_write(td__party *me, td__party *dead, void *object)
{
    return give_back(me, dead, object, WRITE);
}

__attribute__((constructor)) static void register_repairs(void)
{
    td__wait_register(TD__WAIT_RWLOCK, repair_waiter);
    td__held_register(TD__HELD_READ, give_back_read);
    td__held_register(TD__HELD_WRITE, give_back_write);
    td__held_register_forked(TD__HELD_READ, read_by_forking);
    td__held_register_forked(TD__HELD_WRITE, written_by_forking);
}
