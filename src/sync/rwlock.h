/* SPDX-License-Identifier: MIT */
/*
 * Read-write lock: quick ways for as long as nobody has to wait, and a monitor for the rest. docs/design/monitors.md
 * has the reasons; here is what holds. Only its own files include this one:
 *
 *   rwlock.c           the public calls, and the quick ways by which most of them are done at once
 *   rwlock_slow.c      the slow ways: acquiring, in the order of coming, and releasing in sections
 *   rwlock_section.c   what all sections are made of: the gate closed and opened, parties let in and out
 *   rwlock_places.c    readers that stand in their records: taking, leaving and finding a place
 *   rwlock_drain.c     a writer that waits until those have left
 *   rwlock_repair.c    those who are gone: deaths, ends of threads, and what a fork leaves in the child
 *
 * The gate, one word: the writer's index, and bits (TD__RW_...).
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
#ifndef TD_SYNC_RWLOCK_H
#define TD_SYNC_RWLOCK_H

#include <tandem/sync.h>
#include "sync/monitor.h"
#include "sync/wait.h"

typedef struct td__rwlock {
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
} td__rwlock;
_Static_assert(sizeof(td__rwlock) == sizeof(td_rwlock), "the public struct has the room");

/* --- the gate ---------------------------------------------------------------------------------------------- */

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define TD__RW_BITS_SHIFT   16
#define TD__RW_WRITER_SHIFT 0
#else
#define TD__RW_BITS_SHIFT   0
#define TD__RW_WRITER_SHIFT 16
#endif

/* As they stand in the gate. */
#define TD__RW_CLOSED    (1u << TD__RW_BITS_SHIFT)
#define TD__RW_BY_RECORD (2u << TD__RW_BITS_SHIFT)
#define TD__RW_DRAINS    (4u << TD__RW_BITS_SHIFT)
#define TD__RW_ASLEEP    (8u << TD__RW_BITS_SHIFT)
#define TD__RW_COOL_ONE  (0x100u << TD__RW_BITS_SHIFT)
#define TD__RW_COOL      (0xff00u << TD__RW_BITS_SHIFT)

#define TD__RW_WRITER(gate)      ((uint16_t)((gate) >> TD__RW_WRITER_SHIFT))
#define TD__RW_WRITTEN_BY(index) ((uint32_t)(index) << TD__RW_WRITER_SHIFT)

/* For who changes the half `bits`: as they stand there. */
#define TD__RW_HALF(bits) ((uint16_t)((bits) >> TD__RW_BITS_SHIFT))

/* By this half, as it is written: a load of the whole gate would have to wait until the processor has done a store to
 * one half. */
static inline uint32_t td__rwlock_bits(const td__rwlock *l)
{
    return (uint32_t)td__load_relaxed(&l->bits) << TD__RW_BITS_SHIFT;
}

/* What a waiter wants (`value`), what it is granted, and as the tag of what it holds; BY_PLACE: what it has got it has
 * noted itself. */
enum { TD__RW_READ = TD__HELD_READ, TD__RW_WRITE = TD__HELD_WRITE, TD__RW_TOLD = 4, TD__RW_BY_PLACE = 8 };

static inline td__rwlock *td__rwlock_inside(const td_rwlock *lock)
{
    return (td__rwlock *)(uintptr_t)lock;
}

/* --- rwlock_repair.c --------------------------------------------------------------------------------------- */

td__monitor_left td__rwlock_left_by_fork;

/* Before its first use in this process. */
static inline void td__rwlock_check(td__rwlock *l)
{
    td__monitor_check(&l->monitor, td__rwlock_left_by_fork);
}

/* --- rwlock_places.c --------------------------------------------------------------------------------------- */

/* The writer that is in this gate, which may be no gate any more: then somebody looks for nothing. */
void td__rwlock_poke_writer(uint32_t gate) __attribute__((cold));
int td__rwlock_another_place(td__party *me);
void td__rwlock_leave_after_latch(td__party *me, td__rwlock *l, int at) __attribute__((cold));

/* Of those who read the lock by their records: one's place, NULL if there is none; and how many there are. Of a private
 * lock others' records do not count: there is another one at its address in their memory. */
const _Atomic uintptr_t *td__rwlock_some_place(const td__rwlock *l);
uint32_t td__rwlock_count_places(const td__rwlock *l);

static inline int td__rwlock_place_of(const td__party *me, uintptr_t word)
{
    int top = (int)td__load_relaxed(&me->reading_top);
    for (int i = 0; i < top; i++)
        if (td__load_relaxed(&me->reading[i]) == word)
            return i;
    return -1;
}

/* By its record, or counted. */
static inline bool td__rwlock_reads(const td__party *me, const td__rwlock *l)
{
    return td__rwlock_place_of(me, (uintptr_t)&l->gate) >= 0 || td__held_find(me, l, TD__RW_READ) >= 0;
}

/* None may be taken while there are no quick releases: these would need no less than a second locked instruction. */
static inline bool td__rwlock_may_take_first(const td__party *me)
{
    return td__likely(me->quick == me->index && td__load_relaxed(&me->reading[0]) == 0 &&
                      td__load_relaxed(&me->reading_top) > 0);
}

static inline int td__rwlock_free_place(td__party *me)
{
    if (td__rwlock_may_take_first(me))
        return 0;
    return me->quick == me->index ? td__rwlock_another_place(me) : -1;
}

/* Touches the lock's memory only to look, for it may be another's after the store. Who dies after that is followed by a
 * repair, which pokes everybody. */
static inline void td__rwlock_clear_place(td__party *me, const td__rwlock *l, int at)
{
    td__program_order(); /* what it did in other records, or in its own */
    /* Release: what it did as a reader, or read, to the writer that finds the place empty in rwlock_places.c. */
    td__store_release(&me->reading[at], 0);
    td__program_order(); /* and the processor's order is the care of the writer that sleeps, see rwlock_drain.c */
    uint32_t gate = td__load_relaxed(&l->gate);
    if (td__unlikely(gate & TD__RW_ASLEEP))
        td__rwlock_poke_writer(gate);
}

/*
 * Does somebody hold the latch? Who opens the gate lets go of the latch only after that, and writes to the lock so. Who
 * came in by that gate, as the last one to use the lock, must not leave, and free it, before. It sees this owner, or
 * that it has let go: the owner was there before the gate was opened, and whoever comes in by the gate acquires it.
 * Acquire: the other's last store, before what the lock's memory is used for next.
 */
static inline bool td__rwlock_is_latched(const td__rwlock *l)
{
    return td__unlikely(td__load_acquire(&l->monitor.latch.owner) != 0);
}

/* Who has read by its record. */
static inline void td__rwlock_leave_place(td__party *me, td__rwlock *l, int at)
{
    if (td__rwlock_is_latched(l))
        td__rwlock_leave_after_latch(me, l, at);
    else
        td__rwlock_clear_place(me, l, at);
}

/* --- rwlock_section.c -------------------------------------------------------------------------------------- */

/* In one section: each costs five notes of what is to be undone. */
#define TD__RW_BATCH 8

/* Whom a section has let in: to be poked when it is over. */
typedef struct td__rwlock_admitted {
    uint32_t count;
    td__party *party[TD__RW_BATCH];
} td__rwlock_admitted;

/* A section begins: the gate is closed; and ends: the gate is open, if that may be, and those let in are poked. */
void td__rwlock_enter(td__party *me, td__rwlock *l);
void td__rwlock_leave(td__party *me, td__rwlock *l, const td__rwlock_admitted *in);
/* For a section that is entered in another way. */
void td__rwlock_close_gate(td__rwlock *l);

/* In a section. May somebody become a reader, or the writer? */
bool td__rwlock_is_open(const td__rwlock *l, uint32_t what);
/* Makes a party that is free to do so a reader, or the writer. What it is told besides. */
uint32_t td__rwlock_enter_as(td__party *me, td__rwlock *l, const td__party *party, uint32_t what);
/* The other way round: it leaves, or has died. */
void td__rwlock_exit_as(td__party *me, td__rwlock *l, uint32_t what, bool died);
/* Those at the front of the list, for as long as it is open to them. */
void td__rwlock_let_in(td__party *me, td__rwlock *l, td__rwlock_admitted *in);

/* A whole section: what stands in the record at this place of `held` is held no more. */
void td__rwlock_give_back(td__party *me, td__rwlock *l, uint32_t what, uint32_t at);

/* --- rwlock_slow.c, rwlock_drain.c ------------------------------------------------------------------------- */

/* How long, and whether, to wait. The deadline is that of the limit, once it has been needed. */
typedef struct td__rwlock_patience {
    bool none;
    td_time limit;
    int64_t deadline;
    const td_cancel *cancel;
} td__rwlock_patience;

/* What is told of an acquire for reading, or for writing, that fails. */
static inline const char *td__rwlock_call(uint32_t what, bool tries)
{
    if (tries)
        return what == TD__RW_READ ? "td_rwlock_try_acquire_read" : "td_rwlock_try_acquire_write";
    return what == TD__RW_READ ? "td_rwlock_acquire_read" : "td_rwlock_acquire_write";
}

int td__rwlock_acquire_slowly(td_rwlock *lock, uint32_t what, td__rwlock_patience *how) __attribute__((cold));
/* Aborts, with a sentence, unless the party holds it, counted or as the writer. */
void td__rwlock_release_slowly(td__party *me, td__rwlock *l) __attribute__((cold));
/* For the writer, which is a counted reader then. */
void td__rwlock_downgrade(td__party *me, td__rwlock *l);

/* Nobody reads it any more, and nobody will as long as it has this writer. */
bool td__rwlock_is_drained(const td__rwlock *l);
/* For the writer, with DRAINS: waits until it is alone. Fails: then it is the writer no more, and the error is set. */
int td__rwlock_drain(td__party *me, td__rwlock *l, td__rwlock_patience *how);

#endif
