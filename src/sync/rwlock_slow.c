/* SPDX-License-Identifier: MIT */
/*
 * The slow ways, for when somebody has to wait, or the quick ones do not reach: a thread is let in in a section, or
 * joins the list, and whoever leaves lets in those at its front. What it holds so stands in `held`.
 */
#include "sync/rwlock.h"

/* --- acquiring, in the section ----------------------------------------------------------------------------- */

/* A reader, with the gate closed: by its record, if it will be opened for that, else counted. */
static int enter_reading(td__party *me, td__rwlock *l)
{
    uint32_t bits = td__rwlock_bits(l);
    int at = bits & TD__RW_COOL || td__load_relaxed(&l->died) ? -1 : td__rwlock_free_place(me);
    if (at < 0) {
        if (bits & TD__RW_COOL)
            td__store_relaxed(&l->bits, TD__RW_HALF(bits - TD__RW_COOL_ONE));
        return (int)(TD__RW_READ | td__rwlock_enter_as(me, l, me, TD__RW_READ));
    }
    td__store_relaxed(&me->reading[at], (uintptr_t)&l->gate);
    td__program_order();
    /* There is one who reads by its record, and so the gate will be opened as for that. A death before it is finds
     * nobody there. */
    td__store_relaxed(&l->bits, TD__RW_HALF(bits | TD__RW_DRAINS));
    td__step_point();
    return TD__RW_READ | TD__RW_BY_PLACE;
}

/* > 0: granted, and what was granted. 0: it has to wait. Or TD_EDEADLOCK. */
static int enter_now(td__party *me, td__rwlock *l, uint32_t what)
{
    bool queue = td__wait_first(&l->waiters) != NULL;
    if (td__likely(!queue && td__rwlock_is_open(l, what)))
        /* A writer that reads by its record would wait for itself. */
        return what == TD__RW_READ       ? enter_reading(me, l)
               : td__rwlock_reads(me, l) ? TD_EDEADLOCK
                                         : (int)(what | td__rwlock_enter_as(me, l, me, what));
    if (td__load_relaxed(&l->writer) == me->index)
        return TD_EDEADLOCK;
    if (!td__rwlock_reads(me, l))
        return 0;
    return what == TD__RW_READ ? (int)(what | td__rwlock_enter_as(me, l, me, what)) : TD_EDEADLOCK;
}

static void note_held(td__party *me, const td__rwlock *l, uint32_t what)
{
    uint32_t count = me->held_count;
    me->held[count] = (uintptr_t)l | what; /* above the count it names nothing yet */
    td__program_order();
    td__set(me, &me->held_count, count + 1);
}

static int failed(int code, const td__rwlock *l, uint32_t what, bool tries)
{
    if (code != TD_EDEADLOCK)
        return td__fail_quick(code, td__rwlock_call(what, tries));
    bool writes = td__load_relaxed(&l->writer) == td__me->index;
    return td__fail(code, "%s: this thread holds lock %p for %s already", td__rwlock_call(what, tries), (const void *)l,
                    writes ? "writing" : "reading");
}

/* Has been granted something or not: the end of the section. */
static int settle(td__party *me, td__rwlock *l, uint32_t what, int r, bool waited, td__rwlock_patience *how)
{
    td__rwlock_admitted in = { 0 };
    if (r > 0 && !(r & TD__RW_BY_PLACE))
        note_held(me, l, what);
    if (waited) {
        if (r > 0)
            td__wait_taken(me);
        td__rwlock_let_in(me, l, &in); /* the next readers; or those whom we, who have given up, have kept out */
    }
    td__rwlock_leave(me, l, &in);
    if (r < 0)
        return failed(r, l, what, how->none);
    if (what == TD__RW_WRITE && td__rwlock_bits(l) & TD__RW_DRAINS)
        return td__rwlock_drain(me, l, how);
    return r & TD__RW_TOLD ? TD_OWNER_DIED : 0;
}

/* --- acquiring --------------------------------------------------------------------------------------------- */

static uint32_t places_taken(const td__party *me)
{
    uint32_t count = 0;
    for (int i = 0; i < TD__READING_MAX; i++)
        count += td__load_relaxed(&me->reading[i]) != 0;
    return count;
}

/* NULL: the error is set. */
static td__party *prepare(const td_rwlock *lock, uint32_t what, bool tries)
{
    td__party *me = td__party_self();
    const char *call = td__rwlock_call(what, tries);
    if (!me)
        return NULL;
    if (td__likely(lock && me->held_count + places_taken(me) < TD__HELD_MAX))
        return me;
    if (!lock)
        td__fail(TD_EINVAL, "%s: the lock is NULL", call);
    else
        td__fail(TD_ETOOBIG, "%s: this thread holds %d objects already, the limit", call, TD__HELD_MAX);
    return NULL;
}

int td__rwlock_acquire_slowly(td_rwlock *lock, uint32_t what, td__rwlock_patience *how)
{
    td__party *me = prepare(lock, what, how->none);
    td__rwlock *l = td__rwlock_inside(lock);
    if (!me)
        return td_last_error();
    td__rwlock_check(l);
    td__rwlock_enter(me, l);
    int r = enter_now(me, l, what);
    if (r == 0 && how->none)
        r = TD_EBUSY;
    if (r != 0)
        return settle(me, l, what, r, false, how);
    me->value = what;
    how->deadline = td__deadline(how->limit);
    r = td__wait_on_list(me, &l->monitor.latch, &l->waiters, TD__WAIT_RWLOCK, how->deadline, how->cancel);
    return settle(me, l, what, r, true, how);
}

/* --- releasing --------------------------------------------------------------------------------------------- */

/* Its place in the record, and as what it is held; aborts if it is not. The last one acquired is as a rule the first
 * one released. */
static uint32_t find(const td__party *me, const td__rwlock *l, uint32_t *what)
{
    uintptr_t last = me && me->held_count ? me->held[me->held_count - 1] : 0;
    *what = last & 3;
    if (td__likely(l && (last == ((uintptr_t)l | TD__RW_READ) || last == ((uintptr_t)l | TD__RW_WRITE))))
        return me->held_count - 1;
    int at = -1;
    if (l && me) {
        *what = td__load_relaxed(&l->writer) == me->index ? TD__RW_WRITE : TD__RW_READ;
        at = td__held_find(me, l, *what);
    }
    if (at < 0)
        td__bug(l ? "td_rwlock_release: lock %p is not held by this thread" : "td_rwlock_release: the lock is NULL",
                (const void *)l);
    return (uint32_t)at;
}

void td__rwlock_release_slowly(td__party *me, td__rwlock *l)
{
    uint32_t what, at = find(me, l, &what);
    td__rwlock_give_back(me, l, what, at);
}

void td__rwlock_downgrade(td__party *me, td__rwlock *l)
{
    td__rwlock_admitted in;
    td__rwlock_enter(me, l);
    td__set(me, &me->held[td__held_find(me, l, TD__RW_WRITE)], (uintptr_t)l | TD__RW_READ);
    td__set_atomic(me, &l->writer, 0);
    td__set_atomic(me, &l->readers, 1);
    td__rwlock_let_in(me, l, &in);
    td__rwlock_leave(me, l, &in);
}
