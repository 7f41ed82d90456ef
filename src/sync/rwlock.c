/* SPDX-License-Identifier: MIT */
/*
 * Read-write lock: quick ways for as long as nobody has to wait, and a monitor for the rest. docs/design/monitors.md
 * has the reasons; here is what holds.
 *
 * The gate, one word: the writer's index, and bits.
 *   0 (but for COOL)      nobody holds it. A writer comes in by a compare-and-swap to its index
 *   BY_RECORD             nobody writes or waits. A reader comes in by a place in its record (`reading`), in which it
 *                         writes the gate's address; then it looks at the gate once more
 *   index                 this party writes; it leaves by a compare-and-swap
 *   index, DRAINS         it has what it takes, but for those who read by their records, and counted ones
 *   CLOSED                the gate is changed only under the latch, but for the writer's taking DRAINS away. Closed it
 *                         is by whoever has the latch; and opened, when nobody writes or waits and no death is to be
 *                         told
 *   CLOSED, DRAINS        there may be readers by their records
 *   ASLEEP                the writer sleeps until they have left, and wants to be poked
 *   COOL                  so many readers more are to be counted before they go by their records
 *
 * Invariants: without CLOSED nobody is on the list. With none of CLOSED, BY_RECORD and DRAINS `readers` is 0. With
 * neither BY_RECORD nor DRAINS no record names the gate, but for those who are about to find out that they must take it
 * back. A writer without DRAINS is alone. Who opens the gate has the latch, and writes no more to the lock once it has
 * let go of it; who comes in by an open gate sees to it, when it leaves, that this has happened.
 *
 * Under the latch, in sections: the number of counted readers, the writer, a list of those who wait, in the order of
 * their coming. Nobody overtakes: who comes while others wait, waits behind them. Who leaves lets in those at the
 * front, a writer, or the readers up to the next writer: it changes the state for them, so that the lock does not stand
 * open in between, and nobody starves. At the end of each section: the first on the list could not be let in now; or
 * readers have just been let in, who are to let in more (one section lets in a limited number) as the first thing that
 * they do.
 *
 * A reader that reads already and asks again is let in past those who wait: they wait for it.
 *
 * A place in `reading` is what it says, for as long as it says so: it needs no repair but to be cleared. Writers, and
 * readers that are counted, stand in `held`. A counted one is named, once for each time, in the section in which the
 * number changes. A writer is named before it is in the gate and as long as it is there, and holds what the gate says.
 * So what a dead one held is taken back: of a reader nothing is left; a writer leaves a note, which everybody who
 * acquires the lock is told, until a writer has been told, who can put things right. One that had been let in and did
 * not know yet has held nothing: it was as if it had not come.
 */
#include <tandem/sync.h>
#include "sync/monitor.h"
#include "sync/spin.h"
#include "sync/wait.h"
#include "sync/use.h"

typedef struct rwlock {
    td__monitor monitor;
    td__waiters waiters;      /* under the latch, as all below but the gate; read without it only where that is said */
    _Atomic uint32_t readers; /* that are counted: each one as often as it has acquired it */
    union {
        _Atomic uint32_t gate;
        struct {
            _Atomic uint16_t writer, bits; /* the writer may ask at any time whether it is one */
        };
    };
    _Atomic uint16_t died; /* a writer has died, and no other has been told */
    uint16_t unused;
} rwlock;
_Static_assert(sizeof(rwlock) == sizeof(td_rwlock), "the public struct has the room");

#define CLOSED    1u
#define BY_RECORD 2u
#define DRAINS    4u
#define ASLEEP    8u
#define COOL_ONE  256u /* and all above */
#define COOL      0xff00u

/* As parts of the gate. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define BITS(bits)   ((uint32_t)(bits) << 16)
#define WRITER(gate) ((uint16_t)(gate))
#define WRITER_ONE   1u
#else
#define BITS(bits)   ((uint32_t)(bits))
#define WRITER(gate) ((uint16_t)((gate) >> 16))
#define WRITER_ONE   0x10000u
#endif

/* How many records are worth a reader that is counted; and how many such readers at most. */
#define RECORDS_A_READER 16u
#define COOL_MOST        255u

/* Who sleeps where barriers are refused looks this often, as with latches. */
#define SLICE_NS 1000000

/* What a waiter wants (`value`), what it is granted, and as the tag of what it holds; BY_PLACE: what it has got it has
 * noted itself. */
enum { READ = TD__HELD_READ, WRITE = TD__HELD_WRITE, TOLD = 4, BY_PLACE = 8 };

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

/* --- readers by their records ------------------------------------------------------------------------------ */

static inline int place_of(const td__party *me, uintptr_t word)
{
    int top = (int)td__load_relaxed(&me->reading_top);
    for (int i = 0; i < top; i++)
        if (td__load_relaxed(&me->reading[i]) == word)
            return i;
    return -1;
}

static __attribute__((noinline)) int another_place(td__party *me)
{
    int at = place_of(me, 0);
    uint32_t top = td__load_relaxed(&me->reading_top);
    if (at >= 0 || top == TD__READING_MAX)
        return at;
    /* Seen by whoever sees the place in use: what uses it is an exchange. */
    td__store_relaxed(&me->reading_top, top + 1);
    return (int)top;
}

/* Not while there are no quick releases: these would need no less than a second locked instruction. */
static inline int free_place(td__party *me)
{
    if (td__unlikely(me->quick != me->index))
        return -1;
    if (td__likely(td__load_relaxed(&me->reading[0]) == 0 && td__load_relaxed(&me->reading_top) > 0))
        return 0;
    return another_place(me);
}

/* The writer that is in this gate, which may be no gate any more: then somebody looks for nothing. */
static void poke_writer(uint32_t gate)
{
    uint16_t writer = WRITER(gate);
    if (writer != 0 && writer < td__load_acquire(&td__the_region->party_top))
        td__party_poke(td__party_at(writer));
    td__step_point();
}

/* Touches the lock's memory only to look, for it may be another's after the store. Who dies after that is followed by a
 * repair, which pokes everybody. */
static inline void leave_place(td__party *me, const rwlock *l, int at)
{
    td__program_order(); /* what it did in other records, or in its own */
    /* Release: what it did as a reader, or read, to the writer that finds the place empty in found_reading(). */
    td__store_release(&me->reading[at], 0);
    td__program_order(); /* and the processor's order is the care of the writer that sleeps, see wait_until_drained() */
    uint32_t gate = td__load_relaxed(&l->gate);
    if (td__unlikely(gate & BITS(ASLEEP)))
        poke_writer(gate);
}

/* Was it used in this process already, and not in another life? */
static bool is_of_this_life(const rwlock *l)
{
    return td__likely(td__load_relaxed(&l->monitor.life) == td__forks) || td__is_shared(l);
}

/* How far a quick way has led: not to be had so; not now; it holds it; or it has to drain it. */
enum { SLOWLY, BUSY, QUICKLY, DRAINING };

static inline int read_quickly(td__party *me, rwlock *l)
{
    uint32_t gate = td__load_relaxed(&l->gate);
    int at = free_place(me);
    if (td__unlikely(at < 0 || !is_of_this_life(l)))
        return SLOWLY;
    if (td__unlikely(gate != BITS(BY_RECORD) && gate != 0))
        return WRITER(gate) && !(gate & BITS(CLOSED)) ? BUSY : SLOWLY;
    /* Sequentially consistent, with the look that follows, and with the writer that changes the gate and then looks at
     * the places: it finds ours, or we find the gate changed. */
    td__exchange_seq_cst(&me->reading[at], (uintptr_t)&l->gate);
    td__step_point();
    gate = td__load_seq_cst(&l->gate);
    if (td__likely(gate == BITS(BY_RECORD)))
        return QUICKLY;
    if (gate == 0 && (td__cas_seq_cst(&l->gate, &gate, BITS(BY_RECORD)) || gate == BITS(BY_RECORD)))
        return QUICKLY;
    leave_place(me, l, at);
    return BUSY;
}

static uint32_t own_pid(void)
{
    return td__likely(td__me != NULL) ? td__load_relaxed(&td__me->pid) : (uint32_t)td__getpid();
}

/* In how many places; all records are looked through unless one is enough. Of a private lock others' records do not
 * count: there is another one at its address in their memory. */
static uint32_t found_reading(const rwlock *l, bool one, const _Atomic uintptr_t **where)
{
    td__region *region = td__the_region;
    uintptr_t word = (uintptr_t)&l->gate;
    bool shared = td__is_shared(l);
    uint32_t count = 0, pid = shared ? 0 : own_pid();
    uint32_t top = region ? td__load_seq_cst(&region->party_top) : 0;
    for (uint32_t i = 1; i < top; i++) {
        if (td__load_seq_cst(td__party_entry(i)) == 0)
            continue;
        td__party *party = td__party_at(i);
        uint32_t used = td__load_seq_cst(&party->reading_top);
        for (uint32_t at = 0; at < used && at < TD__READING_MAX; at++) {
            /* Sequentially consistent: see read_quickly(). And it acquires: see leave_place(). */
            if (td__load_seq_cst(&party->reading[at]) != word || (!shared && td__load_relaxed(&party->pid) != pid))
                continue;
            count++;
            if (where)
                *where = &party->reading[at];
            if (one)
                return count;
        }
    }
    return count;
}

/* Nobody reads it any more, and nobody will as long as it has this writer: places first, for a reader that asks again
 * is counted before it leaves its place. Acquire: what counted ones did. */
static bool is_drained(const rwlock *l, const _Atomic uintptr_t **where)
{
    return found_reading(l, true, where) == 0 && td__load_acquire(&l->readers) == 0;
}

/* The writer is alone now. */
static void drained(rwlock *l)
{
    uint32_t searched = td__load_relaxed(&td__the_region->party_top) / RECORDS_A_READER;
    uint32_t cool = (searched < COOL_MOST ? searched : COOL_MOST) * COOL_ONE;
    uint16_t bits = td__load_relaxed(&l->bits);
    td__step_point();
    /* The gate may be closed by another at the same time. */
    while (!td__cas_acquire(&l->bits, &bits, (uint16_t)((bits & CLOSED) | cool)))
        ;
    td__step_point();
}

/* --- in sections ------------------------------------------------------------------------------------------- */

/* The first thing in each. Needs no undoing: a closed gate with nobody behind it is one that the next opens. */
static void close_gate(rwlock *l)
{
    uint32_t gate = td__load_relaxed(&l->gate), closed;
    do {
        if (gate & BITS(CLOSED))
            return;
        closed = gate | BITS(CLOSED);
        if (gate & BITS(BY_RECORD))
            closed = (closed & ~BITS(BY_RECORD)) | BITS(DRAINS);
        /* Sequentially consistent: see read_quickly(). And acquire: what a writer did that has left by it. */
    } while (!td__cas_seq_cst(&l->gate, &gate, closed));
    td__step_point();
}

/* The last thing, when what the section has changed holds: whoever comes in by it then can rely on that. */
static void open_gate(rwlock *l)
{
    uint32_t gate = td__load_relaxed(&l->gate), open = gate & BITS(COOL);
    if (td__wait_first(&l->waiters) || WRITER(gate) || td__load_relaxed(&l->died) || !(gate & BITS(CLOSED)))
        return;
    if (gate & BITS(DRAINS) || (td__load_relaxed(&l->readers) && !open))
        open = BITS(BY_RECORD);
    else if (td__load_relaxed(&l->readers))
        return;
    /* Release: what writers have done, to those who come in quickly. Nobody else changes a closed gate. */
    td__store_release(&l->gate, open);
    td__step_point();
}

static void enter(td__party *me, rwlock *l)
{
    td__section_enter(me, &l->monitor.latch);
    close_gate(l);
}

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

/* A writer that has died leaves a note, unless it was draining: then it had held nothing yet. (While there is a note
 * the gate is closed, and nobody reads by a record: so who drains has been told of no death, and keeps it from nobody.)
 */
static void exit_as(td__party *me, rwlock *l, uint32_t what, bool died)
{
    if (what == READ) {
        uint32_t readers = td__load_relaxed(&l->readers);
        if (readers) /* else somebody has written over it */
            td__set_atomic(me, &l->readers, readers - 1);
        return;
    }
    bool alone = !(td__load_relaxed(&l->bits) & DRAINS);
    td__set_atomic(me, &l->writer, 0);
    if (died && alone)
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
    /* The number of readers is stored before the look at the gate: either a writer that drains finds it, or we find
     * ASLEEP. Its barrier sees to that; where there is none for this process, we do. */
    if (td__unlikely(td__release_by_exchange))
        td__fence_seq_cst();
    uint32_t gate = td__load_relaxed(&l->gate);
    td__section_commit(me);
    open_gate(l);
    td__monitor_leave(me, &l->monitor);
    if (td__unlikely(gate & BITS(ASLEEP))) /* until the last counted reader has left, too */
        poke_writer(gate);
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
    uint32_t gate = td__load_relaxed(&l->gate);
    td__store_relaxed(&l->waiters.first, 0);
    td__store_relaxed(&l->waiters.last, 0);
    td__store_relaxed(&l->readers, 0);
    if (WRITER(gate) && !(gate & BITS(DRAINS)))
        td__store_relaxed(&l->died, 1);
    /* What is true at any time, but after a death, when nobody reads. */
    td__store_release(&l->gate, BITS(CLOSED | (td__load_relaxed(&l->died) ? 0 : DRAINS)));
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
    td__store_release(&l->gate, BITS(CLOSED) | me->index * WRITER_ONE);
}

/* --- acquiring, in the section ------------------------------------------------------------------------------ */

/* How long, and whether, to wait. The deadline is that of the limit, once it has been needed. */
typedef struct patience {
    bool none;
    td_time limit;
    int64_t deadline;
    const td_cancel *cancel;
} patience;

static bool reads(const td__party *me, const rwlock *l)
{
    return place_of(me, (uintptr_t)&l->gate) >= 0 || td__held_find(me, l, READ) >= 0;
}

/* A reader, with the gate closed: by its record, if it will be opened for that, else counted. */
static int enter_reading(td__party *me, rwlock *l)
{
    uint16_t bits = td__load_relaxed(&l->bits);
    int at = bits & COOL || td__load_relaxed(&l->died) ? -1 : free_place(me);
    if (at < 0) {
        if (bits & COOL)
            td__store_relaxed(&l->bits, (uint16_t)(bits - COOL_ONE));
        return (int)(READ | enter_as(me, l, me, READ));
    }
    td__store_relaxed(&me->reading[at], (uintptr_t)&l->gate);
    td__program_order();
    /* There is one who reads by its record, and so the gate will be opened as for that. A death before it is finds
     * nobody there. */
    td__store_relaxed(&l->bits, bits | DRAINS);
    td__step_point();
    return READ | BY_PLACE;
}

/* Inside the section: > 0: granted, and what was granted. 0: it has to wait. Or TD_EDEADLOCK. */
static int enter_now(td__party *me, rwlock *l, uint32_t what)
{
    bool queue = td__wait_first(&l->waiters) != NULL;
    if (td__likely(!queue && is_open(l, what)))
        /* A writer that reads by its record would wait for itself. */
        return what == READ   ? enter_reading(me, l)
               : reads(me, l) ? TD_EDEADLOCK
                              : (int)(what | enter_as(me, l, me, what));
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

/* --- draining ---------------------------------------------------------------------------------------------- */

static bool spin_until_drained(const rwlock *l)
{
    td__spin spin = { 0 };
    const _Atomic uintptr_t *place = NULL;
    while (td__spin_closely(&spin)) {
        if (td__load_relaxed(&l->readers) || (place && td__load_relaxed(place) == (uintptr_t)&l->gate))
            continue;
        place = NULL;
        if (is_drained(l, &place))
            return true;
        spin.rounds += td__load_relaxed(&td__the_region->party_top) / RECORDS_A_READER; /* this took some time, too */
    }
    return false;
}

static bool is_drained_now(const void *lock)
{
    return is_drained(lock, NULL);
}

/* 0, TD_ETIMEOUT or TD_ECANCELLED. */
static int wait_until_drained(td__party *me, rwlock *l, const patience *how)
{
    bool shared = td__is_shared(l);
    if (spin_until_drained(l))
        return 0;
    td__fetch_or_acq_rel(&l->bits, ASLEEP);
    td__step_point();
    /* A reader that leaves after the barrier sees the bit and pokes us; of one that left before it we see that it has.
     */
    bool passed = td__latch_pass_barrier(shared);
    for (;;) {
        int64_t until = how->deadline;
        bool sliced = !passed && (!until || until > td__now() + SLICE_NS);
        if (sliced)
            until = td__now() + SLICE_NS;
        int r = td__wait_until(me, is_drained_now, l, shared, until, how->cancel);
        td__step_point();
        if (r != TD_ETIMEOUT || !sliced)
            return r < 0 && !is_drained(l, NULL) ? r : 0;
    }
}

/* Does not get it after all. */
static int stop_draining(td__party *me, rwlock *l, int code)
{
    admitted in;
    enter(me, l);
    exit_as(me, l, WRITE, false);
    note_released(me, (uint32_t)td__held_find(me, l, WRITE));
    let_in(me, l, &in);
    leave(me, l, &in);
    return failed(code, l, WRITE);
}

/* It is the writer, but for those who read. */
static int drain(td__party *me, rwlock *l, patience *how)
{
    if (td__unlikely(!is_drained(l, NULL))) {
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

/* --- acquiring --------------------------------------------------------------------------------------------- */

/* In the section, has been granted something or not: the end of it. */
static int settle(td__party *me, rwlock *l, uint32_t what, int r, bool waited, patience *how)
{
    admitted in = { 0 };
    if (r > 0 && !(r & BY_PLACE))
        note_held(me, l, what);
    if (waited) {
        if (r > 0)
            td__wait_taken(me);
        let_in(me, l, &in); /* the next readers; or those whom we, who have given up, have kept out */
    }
    leave(me, l, &in);
    if (r < 0)
        return failed(r, l, what);
    if (what == WRITE && td__load_relaxed(&l->bits) & DRAINS)
        return drain(me, l, how);
    return r & TOLD ? TD_OWNER_DIED : 0;
}

static uint32_t places_taken(const td__party *me)
{
    uint32_t count = 0;
    for (int i = 0; i < TD__READING_MAX; i++)
        count += td__load_relaxed(&me->reading[i]) != 0;
    return count;
}

/* NULL: the error is set. */
static td__party *prepare(const td_rwlock *lock, uint32_t what)
{
    td__party *me = td__party_self();
    const char *call = what == READ ? "read" : "write";
    if (!me)
        return NULL;
    if (td__likely(lock && me->held_count + places_taken(me) < TD__HELD_MAX))
        return me;
    if (!lock)
        td__fail(TD_EINVAL, "td_rwlock_acquire_%s: the lock is NULL", call);
    else
        td__fail(TD_ETOOBIG, "td_rwlock_acquire_%s: this thread holds %d objects already, the limit", call,
                 TD__HELD_MAX);
    return NULL;
}

static __attribute__((noinline, cold)) int acquire_slowly(td_rwlock *lock, uint32_t what, patience *how)
{
    td__party *me = prepare(lock, what);
    rwlock *l = inside(lock);
    if (!me)
        return td_last_error();
    td__monitor_check(&l->monitor, left_by_fork);
    enter(me, l);
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

static void intend_to_write(td__party *me, const rwlock *l)
{
    uint32_t count = me->held_count;
    me->held[count] = (uintptr_t)l | WRITE;
    td__program_order(); /* named before it is counted, counted before it is in the gate */
    me->held_count = count + 1;
    td__program_order();
}

static void forget_to_write(td__party *me)
{
    td__program_order();
    me->held_count--;
}

static inline int write_quickly(td__party *me, rwlock *l)
{
    uint32_t gate = td__load_relaxed(&l->gate);
    bool by_record = gate == BITS(BY_RECORD);
    /* A reader would wait for itself; the slow way says so. */
    if ((by_record && reads(me, l)) || !td__held_room(me) || !is_of_this_life(l))
        return SLOWLY;
    if (gate & ~BITS(COOL) && !by_record)
        return gate & BITS(CLOSED) ? SLOWLY : BUSY;
    intend_to_write(me, l);
    uint32_t mine = (by_record ? BITS(DRAINS) : gate) | me->index * WRITER_ONE;
    /* Sequentially consistent: see read_quickly(). And acquire: what the last writer did. */
    bool taken = td__cas_seq_cst(&l->gate, &gate, mine);
    td__step_point();
    if (taken)
        return by_record ? DRAINING : QUICKLY;
    forget_to_write(me);
    return BUSY;
}

/* The one case that is worth a way of its own: nobody is there. */
static inline bool write_at_once(td__party *me, rwlock *l)
{
    uint32_t gate = td__load_relaxed(&l->gate);
    if (gate != 0 || !td__held_room(me) || !is_of_this_life(l))
        return false;
    intend_to_write(me, l);
    /* Acquire: what the last writer did, or a reader that has gone by way of one. */
    bool taken = td__cas_acquire(&l->gate, &gate, me->index * WRITER_ONE);
    td__step_point();
    if (td__unlikely(!taken))
        forget_to_write(me);
    return taken;
}

static inline int enter_quickly(td__party *me, rwlock *l, uint32_t what)
{
    return what == READ ? read_quickly(me, l) : write_quickly(me, l);
}

/*
 * While the gate is not closed nobody waits in order, and the writer that has it may be through at once. So who comes
 * then spins first, and the quickest gets it; as soon as one has given that up, and stands on the list, all who come
 * join it.
 */
static int enter_by_luck(td__party *me, rwlock *l, uint32_t what, bool once)
{
    td__spin spin = { 0 };
    int r;
    while ((r = enter_quickly(me, l, what)) == BUSY && !once) {
        uint32_t gate;
        if (reads(me, l)) /* the writer waits for us */
            return SLOWLY;
        do {
            gate = td__load_relaxed(&l->gate);
            if (gate & BITS(CLOSED) || WRITER(gate) == me->index || !td__spin_more(&spin))
                return SLOWLY;
        } while (WRITER(gate));
    }
    return r;
}

static __attribute__((noinline)) int acquire(td_rwlock *lock, uint32_t what, patience how)
{
    td__party *me = td__me;
    rwlock *l = inside(lock);
    int r = me && lock ? enter_by_luck(me, l, what, how.none) : SLOWLY;
    if (r == QUICKLY)
        return 0;
    if (r == DRAINING)
        return drain(me, l, &how);
    if (r == BUSY) { /* a try: no need to close the gate for it */
        uint16_t writer = td__load_relaxed(&l->writer);
        /* Who reads already is let in, or told that it would wait for itself. */
        if (writer != 0 && writer != me->index && !reads(me, l))
            return td__fail_quick(TD_EBUSY);
    }
    return acquire_slowly(lock, what, &how);
}

int td_rwlock_acquire_read(td_rwlock *lock)
{
    td__party *me = td__me;
    if (td__likely(me && lock && read_quickly(me, inside(lock)) == QUICKLY))
        return 0;
    return acquire(lock, READ, (patience){ .none = false });
}

int td_rwlock_acquire_read_with(td_rwlock *lock, td_time limit, td_cancel *cancel)
{
    return acquire(lock, READ, (patience){ .limit = limit, .cancel = cancel });
}

int td_rwlock_try_acquire_read(td_rwlock *lock)
{
    return acquire(lock, READ, (patience){ .none = true });
}

int td_rwlock_acquire_write(td_rwlock *lock)
{
    td__party *me = td__me;
    if (td__likely(me && lock && write_at_once(me, inside(lock))))
        return 0;
    return acquire(lock, WRITE, (patience){ .none = false });
}

int td_rwlock_acquire_write_with(td_rwlock *lock, td_time limit, td_cancel *cancel)
{
    return acquire(lock, WRITE, (patience){ .limit = limit, .cancel = cancel });
}

int td_rwlock_try_acquire_write(td_rwlock *lock)
{
    td__party *me = td__me;
    rwlock *l = inside(lock);
    /* Looked at first, so as not to close it to others for nothing. */
    if (me && l && td__load_relaxed(&l->gate) == BITS(BY_RECORD) && is_of_this_life(l) && !is_drained(l, NULL) &&
        !reads(me, l))
        return td__fail_quick(TD_EBUSY);
    return acquire(lock, WRITE, (patience){ .none = true });
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

/*
 * Does somebody hold the latch? Who opens the gate lets go of the latch only after that, and writes to the lock so. Who
 * came in by that gate, as the last one to use the lock, must not leave, and free it, before. It sees this owner, or
 * that it has let go: the owner was there before the gate was opened, and whoever comes in by the gate acquires it.
 * Acquire: the other's last store, before what the lock's memory is used for next.
 */
static inline bool is_latched(const rwlock *l)
{
    return td__unlikely(td__load_acquire(&l->monitor.latch.owner) != 0);
}

/* A closed gate has been closed by one who had the latch later: the one who opened it before has let go. */
static __attribute__((noinline, cold)) void await_latch(td__party *me, rwlock *l)
{
    if (td__load_relaxed(&l->gate) & BITS(CLOSED))
        return;
    td__monitor_check(&l->monitor, left_by_fork); /* else an owner that is not there would be waited for */
    td__section_enter(me, &l->monitor.latch);
    td__monitor_leave(me, &l->monitor);
}

static inline void leave_reading(td__party *me, rwlock *l, int at)
{
    if (is_latched(l))
        await_latch(me, l);
    leave_place(me, l, at);
}

static void leave_at_end(td__party *me, int at)
{
    uintptr_t gate = td__load_relaxed(&me->reading[at]);
    leave_reading(me, (rwlock *)(gate - offsetof(rwlock, gate)), at);
}

/* As the last thing it named, and nobody has come since: then it is free by one step, after which nothing of it is
 * touched. Not while the latch is taken: the slow way waits for it, and so for nobody longer than for a section. */
static inline bool leave_quickly(td__party *me, rwlock *l)
{
    uint32_t gate = td__load_relaxed(&l->gate), count = me->held_count;
    if (gate & BITS(CLOSED) || WRITER(gate) != me->index || count == 0 ||
        me->held[count - 1] != ((uintptr_t)l | WRITE) || is_latched(l))
        return false;
    /* Release: what the writer did, to whoever comes in. Another may just be closing the gate. */
    if (!td__cas_release(&l->gate, &gate, gate & ~(me->index * WRITER_ONE)))
        return false;
    td__program_order();
    me->held_count = count - 1;
    return true;
}

static __attribute__((noinline, cold)) void release_slowly(td__party *me, rwlock *l)
{
    admitted in;
    uint32_t what, at = find(me, l, &what);
    enter(me, l);
    exit_as(me, l, what, false);
    note_released(me, at);
    let_in(me, l, &in);
    leave(me, l, &in);
}

static __attribute__((noinline, cold)) void release_otherwise(td__party *me, rwlock *l)
{
    int at = place_of(me, (uintptr_t)&l->gate);
    if (at >= 0)
        leave_reading(me, l, at);
    else
        release_slowly(me, l);
}

void td_rwlock_release(td_rwlock *lock)
{
    td__party *me = td__me;
    rwlock *l = inside(lock);
    if (td__unlikely(!me || !l))
        release_slowly(me, l);
    else if (td__likely(td__load_relaxed(&me->reading[0]) == (uintptr_t)&l->gate))
        leave_reading(me, l, 0);
    else if (td__unlikely(!leave_quickly(me, l)))
        release_otherwise(me, l);
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
    enter(me, l);
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
    return td__load_relaxed(&inside(lock)->readers) + found_reading(inside(lock), false, NULL);
}

bool td_rwlock_writing(const td_rwlock *lock)
{
    if (!lock)
        return false;
    td__monitor_check(&inside(lock)->monitor, left_by_fork);
    uint32_t gate = td__load_relaxed(&inside(lock)->gate);
    return WRITER(gate) != 0 && !(gate & BITS(DRAINS));
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
    close_gate(l); /* and the next to come opens it */
    if (granted == READ || granted == (READ | TOLD))
        exit_as(me, l, READ, false);
    else if (granted && td__load_relaxed(&l->writer) == dead->index)
        exit_as(me, l, WRITE, granted & TOLD);
    let_in(me, l, &in); /* the repair wakes them, and a writer that has drained it now */
}

/* What a thread held that has died, or has ended. A writer that is not in the gate has let go of the lock, which may
 * be gone. */
static bool give_back(td__party *me, td__party *dead, rwlock *l, uint32_t what)
{
    admitted in;
    if (what == WRITE && td__load_relaxed(&l->writer) != dead->index) {
        dead->held_count--;
        return true;
    }
    if (me == dead)
        td__section_enter(me, &l->monitor.latch);
    else if (!td__section_try(me, &l->monitor.latch))
        return false;
    close_gate(l);
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
    td__reading_register(leave_at_end);
    td__held_register(TD__HELD_READ, give_back_read);
    td__held_register(TD__HELD_WRITE, give_back_write);
    td__held_register_forked(TD__HELD_READ, read_by_forking);
    td__held_register_forked(TD__HELD_WRITE, written_by_forking);
}
