/* SPDX-License-Identifier: MIT */
/*
 * Read-write lock: the public calls. Nearly always a quick way does: a reader takes a place in its record, a writer an
 * open gate, and neither touches the latch. Where that fails they spin for a moment, as long as nobody waits in order,
 * and then go the slow way. What the gate says, and all that holds of it, stands in rwlock.h.
 */
#include "sync/rwlock.h"
#include "sync/spin.h"
#include "sync/use.h"

/* --- acquiring quickly ------------------------------------------------------------------------------------- */

/* Was it used in this process already, and not in another life? */
static bool is_of_this_life(const td__rwlock *l)
{
    return td__likely(td__load_relaxed(&l->monitor.life) == td__forks) || td__is_shared(l);
}

/* How far a quick way has led: not to be had so; not now; it holds it; or it has to drain it. */
enum { SLOWLY, BUSY, QUICKLY, DRAINING };

/* By this place, which is free. */
static inline __attribute__((always_inline)) int read_by(td__party *me, td__rwlock *l, int at)
{
    uint32_t gate = td__load_relaxed(&l->gate);
    if (td__unlikely(!is_of_this_life(l)))
        return SLOWLY;
    if (td__unlikely(gate != TD__RW_BY_RECORD && gate != 0))
        return TD__RW_WRITER(gate) && !(gate & TD__RW_CLOSED) ? BUSY : SLOWLY;
    /* Sequentially consistent, with the look that follows, and with the writer that changes the gate and then looks at
     * the places: it finds ours, or we find the gate changed. */
    td__exchange_seq_cst(&me->reading[at], (uintptr_t)&l->gate);
    td__step_point();
    gate = td__load_seq_cst(&l->gate);
    if (td__likely(gate == TD__RW_BY_RECORD))
        return QUICKLY;
    if (gate == 0 && (td__cas_seq_cst(&l->gate, &gate, TD__RW_BY_RECORD) || gate == TD__RW_BY_RECORD))
        return QUICKLY;
    td__rwlock_clear_place(me, l, at);
    return BUSY;
}

static int read_quickly(td__party *me, td__rwlock *l)
{
    int at = td__rwlock_free_place(me);
    return td__likely(at >= 0) ? read_by(me, l, at) : SLOWLY;
}

static void intend_to_write(td__party *me, const td__rwlock *l)
{
    uint32_t count = me->held_count;
    me->held[count] = (uintptr_t)l | TD__RW_WRITE;
    td__program_order(); /* named before it is counted, counted before it is in the gate */
    me->held_count = count + 1;
    td__program_order();
}

static void forget_to_write(td__party *me)
{
    td__program_order();
    me->held_count--;
}

static inline int write_quickly(td__party *me, td__rwlock *l)
{
    uint32_t gate = td__load_relaxed(&l->gate);
    bool by_record = gate == TD__RW_BY_RECORD;
    /* A reader would wait for itself; the slow way says so. */
    if ((by_record && td__rwlock_reads(me, l)) || !td__held_room(me) || !is_of_this_life(l))
        return SLOWLY;
    if (gate & ~TD__RW_COOL && !by_record)
        return gate & TD__RW_CLOSED ? SLOWLY : BUSY;
    intend_to_write(me, l);
    uint32_t mine = (by_record ? TD__RW_DRAINS : gate) | TD__RW_WRITTEN_BY(me->index);
    /* Sequentially consistent: see read_by(). And acquire: what the last writer did. */
    bool taken = td__cas_seq_cst(&l->gate, &gate, mine);
    td__step_point();
    if (taken)
        return by_record ? DRAINING : QUICKLY;
    forget_to_write(me);
    return BUSY;
}

/* The one case that is worth a way of its own: nobody is there. */
static inline bool write_at_once(td__party *me, td__rwlock *l)
{
    uint32_t gate = td__load_relaxed(&l->gate);
    if (gate != 0 || !td__held_room(me) || !is_of_this_life(l))
        return false;
    intend_to_write(me, l);
    /* Acquire: what the last writer did, or a reader that has gone by way of one. */
    bool taken = td__cas_acquire(&l->gate, &gate, TD__RW_WRITTEN_BY(me->index));
    td__step_point();
    if (td__unlikely(!taken))
        forget_to_write(me);
    return taken;
}

static inline int enter_quickly(td__party *me, td__rwlock *l, uint32_t what)
{
    return what == TD__RW_READ ? read_quickly(me, l) : write_quickly(me, l);
}

/*
 * While the gate is not closed nobody waits in order, and the writer that has it may be through at once. So who comes
 * then spins first, and the quickest gets it; as soon as one has given that up, and stands on the list, all who come
 * join it.
 */
static int enter_by_luck(td__party *me, td__rwlock *l, uint32_t what, bool once)
{
    td__spin spin = { 0 };
    int r;
    while ((r = enter_quickly(me, l, what)) == BUSY && !once) {
        uint32_t gate;
        if (td__rwlock_reads(me, l)) /* the writer waits for us */
            return SLOWLY;
        do {
            gate = td__load_relaxed(&l->gate);
            if (gate & TD__RW_CLOSED || TD__RW_WRITER(gate) == me->index || !td__spin_more(&spin))
                return SLOWLY;
        } while (TD__RW_WRITER(gate));
    }
    return r;
}

static __attribute__((noinline)) int acquire(td_rwlock *lock, uint32_t what, td__rwlock_patience how)
{
    td__party *me = td__me;
    td__rwlock *l = td__rwlock_inside(lock);
    int r = me && lock ? enter_by_luck(me, l, what, how.none) : SLOWLY;
    if (r == QUICKLY)
        return 0;
    if (r == DRAINING)
        return td__rwlock_drain(me, l, &how);
    if (r == BUSY) { /* a try: no need to close the gate for it */
        uint16_t writer = td__load_relaxed(&l->writer);
        /* Who reads already is let in, or told that it would wait for itself. */
        if (writer != 0 && writer != me->index && !td__rwlock_reads(me, l))
            return td__fail_quick(TD_EBUSY, td__rwlock_call(what, true));
    }
    return td__rwlock_acquire_slowly(lock, what, &how);
}

/* --- acquiring --------------------------------------------------------------------------------------------- */

int td_rwlock_acquire_read(td_rwlock *lock)
{
    td__party *me = td__me;
    if (td__likely(me && lock && td__rwlock_may_take_first(me) && read_by(me, td__rwlock_inside(lock), 0) == QUICKLY))
        return 0;
    return acquire(lock, TD__RW_READ, (td__rwlock_patience){ .none = false });
}

int td_rwlock_acquire_read_with(td_rwlock *lock, td_time limit, td_cancel *cancel)
{
    return acquire(lock, TD__RW_READ, (td__rwlock_patience){ .limit = limit, .cancel = cancel });
}

int td_rwlock_try_acquire_read(td_rwlock *lock)
{
    return acquire(lock, TD__RW_READ, (td__rwlock_patience){ .none = true });
}

int td_rwlock_acquire_write(td_rwlock *lock)
{
    td__party *me = td__me;
    if (td__likely(me && lock && write_at_once(me, td__rwlock_inside(lock))))
        return 0;
    return acquire(lock, TD__RW_WRITE, (td__rwlock_patience){ .none = false });
}

int td_rwlock_acquire_write_with(td_rwlock *lock, td_time limit, td_cancel *cancel)
{
    return acquire(lock, TD__RW_WRITE, (td__rwlock_patience){ .limit = limit, .cancel = cancel });
}

int td_rwlock_try_acquire_write(td_rwlock *lock)
{
    td__party *me = td__me;
    td__rwlock *l = td__rwlock_inside(lock);
    /* Looked at first, so as not to close it to others for nothing. */
    if (me && l && td__load_relaxed(&l->gate) == TD__RW_BY_RECORD && is_of_this_life(l) && !td__rwlock_is_drained(l) &&
        !td__rwlock_reads(me, l))
        return td__fail_quick(TD_EBUSY, td__rwlock_call(TD__RW_WRITE, true));
    return acquire(lock, TD__RW_WRITE, (td__rwlock_patience){ .none = true });
}

/* --- releasing --------------------------------------------------------------------------------------------- */

/* As the last thing it named, and nobody has come since: then it is free by one step, after which nothing of it is
 * touched. Not while the latch is taken: the slow way waits for it, and so for nobody longer than for a section. */
static inline bool leave_quickly(td__party *me, td__rwlock *l)
{
    uint32_t gate = td__load_relaxed(&l->gate), count = me->held_count;
    if (gate & TD__RW_CLOSED || TD__RW_WRITER(gate) != me->index || count == 0 ||
        me->held[count - 1] != ((uintptr_t)l | TD__RW_WRITE) || td__rwlock_is_latched(l))
        return false;
    /* Release: what the writer did, to whoever comes in. Another may just be closing the gate. */
    if (!td__cas_release(&l->gate, &gate, gate & ~TD__RW_WRITTEN_BY(me->index)))
        return false;
    td__program_order();
    me->held_count = count - 1;
    return true;
}

static __attribute__((noinline, cold)) void release_otherwise(td__party *me, td__rwlock *l)
{
    int at = td__rwlock_place_of(me, (uintptr_t)&l->gate);
    if (at >= 0)
        td__rwlock_leave_place(me, l, at);
    else
        td__rwlock_release_slowly(me, l);
}

void td_rwlock_release(td_rwlock *lock)
{
    td__party *me = td__me;
    td__rwlock *l = td__rwlock_inside(lock);
    if (td__unlikely(!me || !l))
        td__rwlock_release_slowly(me, l);
    else if (td__likely(td__load_relaxed(&me->reading[0]) == (uintptr_t)&l->gate))
        td__rwlock_leave_place(me, l, 0);
    else if (td__unlikely(!leave_quickly(me, l)))
        release_otherwise(me, l);
}

void td_rwlock_downgrade(td_rwlock *lock)
{
    td__party *me = td__me;
    td__rwlock *l = td__rwlock_inside(lock);
    if (!l)
        td__bug("td_rwlock_downgrade: the lock is NULL");
    if (!me || td__load_relaxed(&l->writer) != me->index)
        td__bug("td_rwlock_downgrade: lock %p is not held for writing by this thread", (void *)lock);
    td__rwlock_downgrade(me, l);
}

/* --- asking ------------------------------------------------------------------------------------------------ */

uint32_t td_rwlock_readers(const td_rwlock *lock)
{
    td__rwlock *l = td__rwlock_inside(lock);
    if (!l)
        return 0;
    td__rwlock_check(l);
    return td__load_relaxed(&l->readers) + td__rwlock_count_places(l);
}

bool td_rwlock_writing(const td_rwlock *lock)
{
    td__rwlock *l = td__rwlock_inside(lock);
    if (!l)
        return false;
    td__rwlock_check(l);
    uint32_t gate = td__load_relaxed(&l->gate);
    return TD__RW_WRITER(gate) != 0 && !(gate & TD__RW_DRAINS);
}

bool td_rwlock_owned_read(const td_rwlock *lock)
{
    return lock && td__me && td__rwlock_reads(td__me, td__rwlock_inside(lock));
}

bool td_rwlock_owned_write(const td_rwlock *lock)
{
    return lock && td__me && td__load_relaxed(&td__rwlock_inside(lock)->writer) == td__me->index &&
           td__held_find(td__me, lock, TD__RW_WRITE) >= 0;
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
