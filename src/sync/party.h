/* SPDX-License-Identifier: MIT */
/*
 * A party: a thread, as the others see it that share objects with it. Each has an index, by which latches and lists
 * name it, and a record of what it holds and of the step it is in, written by plain stores of its own, before it does
 * what they say. When it dies, whoever watches its process repairs from that record, and from nothing else.
 *
 * An entry (one atomic word a party, in the region) says whether the index is in use: 0 free, else the pid and a serial
 * number. It is set by the party, and cleared when the record has been repaired or the thread has left in good order:
 * an index is never given to another while anything still names it.
 *
 * What others may write to a record: the words under "others", and, inside the section that a waiting party is linked
 * in, the words under "list".
 */
#ifndef TD_SYNC_PARTY_H
#define TD_SYNC_PARTY_H

#include "sync/region.h"

struct td__latch;

/* What is held: an address with a tag in its two lowest bits. */
enum { TD__HELD_LATCH = 0, TD__HELD_READ = 1, TD__HELD_WRITE = 2, TD__HELD_UNIT = 3 };
#define TD__HELD_MAX 200

/* How many objects it may hold by a place of its own, see td__party.reading. */
#define TD__READING_MAX 7

/* A change inside a section, to be undone if the party dies in it. */
typedef struct td__undo {
    void *at;
    uint64_t old;
    uint32_t size;
} td__undo;
#define TD__UNDO_MAX      64
#define TD__SECTION_DEPTH 4

/* A step in progress of each layer above: what a repair has to finish or to take back. */
enum { TD__STEP_SYNC = 0, TD__STEP_MEMORY = 1, TD__STEP_QUEUE = 2, TD__STEP_LEVELS = 3 };
typedef struct td__step {
    uint32_t kind; /* 0: none; written last when a step begins, first when it ends */
    uint32_t number;
    uintptr_t object, argument;
} td__step;

typedef struct td__party {
    /* fixed while in use */
    uint16_t index;
    uint16_t quick;       /* the index, or that of nobody, see latch.h */
    _Atomic uint32_t pid; /* of a record whose `reading` names something, others read it */

    /* own: what it holds. A latch is named, and counted, before it is acquired and until after it is released. */
    uint32_t held_count;
    /* own: while the last of so many is moved to this place, by td__held_remove; 0: none is */
    uint32_t moved_count, moved_to;
    /* own: the sections it is in, is about to enter or is leaving */
    uint32_t section_count;
    struct td__latch *section[TD__SECTION_DEPTH];
    uint32_t section_undo[TD__SECTION_DEPTH]; /* undo_count when it was entered */
    uint32_t undo_count;
    /* own: the word it sleeps on, or has been woken from without having looked; and the one whose sleepers it wakes */
    const _Atomic uint32_t *_Atomic word_waited; /* others read it in debug builds only */
    const _Atomic uint32_t *word_woken;
    td__step step[TD__STEP_LEVELS];

    /* others: */
    _Alignas(64) _Atomic uint32_t wake; /* futex: grows when there is something to look at */
    _Atomic uint32_t asleep;            /* own: 0, or how it sleeps on `wake`: 1 private, 2 shared */
    _Atomic uintptr_t cancel;           /* own: the td_cancel that ends its wait */
    /* list: under the latch of the object it waits for; `granted` is also looked at without, as a hint */
    _Atomic uint32_t granted; /* not 0: its wait is over, and why */
    _Atomic uint16_t next, previous;
    _Atomic uintptr_t list; /* the td__waiters it is linked in, or 0 */
    uint32_t value;         /* for the object's use */
    /* own: the latch of what it waits for, from before it is linked until it has taken what it was granted */
    struct td__latch *list_latch;
    uint32_t list_kind; /* and what to do about a death in that state, see wait.h */
    /* own: the latch of the barrier whose action it runs, and in which phase */
    uint32_t acting_phase;
    struct td__latch *acting;
    /* own: whom to wake when it releases a lock that says so, see TD__LATER. Dead, it is all the same: the repair wakes
     * everybody. */
#define TD__LATER_MAX 14
    uint32_t later_count;
    uint16_t later[TD__LATER_MAX];
    /* own: how it has fared with spinning, see td__spin_by_luck */
    uint32_t spins_failed, spins_skipped;

    /* own, read by others, with a cache line for itself: what it holds, or is about to, in that it stands here. See
     * rwlock_places.c. */
    _Alignas(64) _Atomic uintptr_t reading[TD__READING_MAX];
    _Atomic uint32_t reading_top; /* above it none has been used; before it is */

    _Alignas(64) uintptr_t held[TD__HELD_MAX];
    td__undo undo[TD__UNDO_MAX];
} td__party;
_Static_assert(sizeof(td__party) <= TD__PARTY_BYTES, "a record has a page");

extern _Thread_local td__party *td__me;

/* The calling thread's record; NULL when there is no memory for one (the thread's error is set). */
td__party *td__party_make(void);
static inline td__party *td__party_self(void)
{
    td__party *me = td__me;
    return td__likely(me != NULL) ? me : td__party_make();
}

static inline td__party *td__party_at(uint32_t index)
{
    return (td__party *)((char *)td__the_region + td__the_region->records + (size_t)index * TD__PARTY_BYTES);
}

/* By a number that stands where others may have written over it. NULL: there is none; so is 0. */
static inline td__party *td__party_numbered(uint16_t index)
{
    return index != 0 && index < td__the_region->parties ? td__party_at(index) : NULL;
}

/* Of another party: by its place, as `index` is its own to write. */
static inline uint16_t td__party_index(const td__party *party)
{
    uintptr_t records = (uintptr_t)td__the_region + td__the_region->records;
    return (uint16_t)(((uintptr_t)party - records) / TD__PARTY_BYTES);
}

static inline _Atomic uint64_t *td__party_entry(uint32_t index)
{
    return (_Atomic uint64_t *)((char *)td__the_region + TD__REGION_ENTRIES) + index;
}

/* In the record: a latch is about to be acquired; has been released, or not been acquired. Never more than
 * TD__HELD_MAX: td__held_room says whether there is room. What is above the count names nothing: it may have become
 * something else. */
static inline bool td__held_room(const td__party *me)
{
    return me->held_count < TD__HELD_MAX;
}
static inline void td__held_intend(td__party *me, const volatile void *latch)
{
    uint32_t count = me->held_count;
    me->held[count] = (uintptr_t)latch | TD__HELD_LATCH;
    td__program_order(); /* named before it is counted, counted before it is acquired */
    me->held_count = count + 1;
    td__program_order();
}
/* The place of an object among those held, or -1. */
int td__held_find(const td__party *me, const volatile void *object, unsigned tag);
void td__held_remove(td__party *me, int at);
/* The last one named is as a rule the first one released. */
static inline bool td__held_is_last(const td__party *me, const volatile void *latch)
{
    uint32_t count = me->held_count;
    return count > 0 && me->held[count - 1] == ((uintptr_t)latch | TD__HELD_LATCH);
}
static inline void td__held_forget(td__party *me, const volatile void *latch)
{
    td__program_order();
    if (td__likely(td__held_is_last(me, latch)))
        me->held_count--;
    else
        td__held_remove(me, td__held_find(me, latch, TD__HELD_LATCH));
}

/* In the record: a step begins, ends. */
static inline void td__step_begin(td__party *me, int level, uint32_t kind, const volatile void *object,
                                  uintptr_t argument, uint32_t number)
{
    td__step *step = &me->step[level];
    step->object = (uintptr_t)object;
    step->argument = argument;
    step->number = number;
    td__program_order();
    step->kind = kind;
    td__program_order();
}
static inline void td__step_end(td__party *me, int level)
{
    td__program_order();
    me->step[level].kind = 0;
    td__program_order();
}

/*
 * What a layer does about a step that a death has interrupted, at its level. Called in the process that repairs (`me`
 * is that thread's party), outside of sections, with what the dead one was in the middle of inside sections undone
 * already. It may be called again for the same death, if that process dies too: it must then find what it has done
 * already. It must not wait: false if a latch that it needs is taken (td__section_try); it is called again later.
 */
typedef bool td__step_repair(td__party *me, td__party *dead, const td__step *step);
void td__step_register(int level, td__step_repair *repair);

/*
 * Deaths. Who watches a process calls td__parties_died when it is dead, and before its pid can be used again: what the
 * process was in the middle of inside sections is undone, and it is on the list for the rest. Does not wait. Then, and
 * again soon as long as it returns false, td__parties_repair: it does the rest for all on the list. (A latch that it
 * needs may be held by somebody who has been preempted, or who has died and of whom the caller is just about to hear.)
 */
void td__parties_died(pid_t pid);
bool td__parties_repair(void);

/*
 * The region's word `deaths`: a number that grows before and after each td__parties_died has marked its entries, and
 * whenever somebody has found such marks; and a bit: there may be marked ones. It is cleared by a repair that has found
 * none, if the number is still as it was before it looked. So it is set while a repair may touch what the dead name,
 * for all who have learned of their death: by td__parties_died, after which it is told, or by td__parties_await_death,
 * which counts once more, for between marks and count a repair that looked before the marks may clear it.
 */
#define TD__DEATHS_PENDING 1u
#define TD__DEATHS_ONE     2u

/*
 * Before memory is given to another use: no repair will look at it any more on behalf of those whose death has been
 * told. Repairs, if there is something in it that a dead one's record names; else one load. Outside of sections.
 */
void td__parties_settle(const volatile void *at, size_t size);
static inline void td__parties_release(const volatile void *at, size_t size)
{
    /* Acquire: with the repair that has cleared it, so that its reads and writes are over. */
    if (td__unlikely(td__load_acquire(&td__the_region->deaths) & TD__DEATHS_PENDING))
        td__parties_settle(at, size);
}

/* Until the death of this process, which is dead, has been told to whoever repairs; a second at most. */
void td__parties_await_death(pid_t pid);

/* The calling thread, whose process is about to say that it has ended, shares nothing any more. */
void td__party_end(void);

/* Are there any of this process? Cheap. The processes of strays that are not known to be dead, each once. */
bool td__parties_of(pid_t pid);
size_t td__parties_strays(pid_t *pids, size_t capacity);
/* By who has asked for them, and marked the dead ones: for those who wait for a free index. */
void td__parties_looked(void);

/*
 * What is to be done about an object that a dead thread held (also one that has ended in good order, which then is
 * `me`), by its tag; as a td__step_repair. Those tagged TD__HELD_LATCH need nothing: the latch itself tells whether it
 * is held. Others are held by being counted: held_count must change in the section in which the object does, by
 * td__set. The object is that of the last entry, which the function so takes off dead->held_count.
 */
typedef bool td__held_repair(td__party *me, td__party *dead, void *object);
void td__held_register(unsigned tag, td__held_repair *repair);

/* What a thread that ends is to do about what stands in `reading`. Of a dead one that is just cleared: the repair wakes
 * everybody. */
void td__reading_register(void (*leave)(td__party *me, int at));
/* What a thread that ends inside an action (`acting`) is to do about it. */
void td__acting_register(void (*leave)(td__party *me));

/* In the child of a fork: before it, in the forking thread, and after it, in the child. The child is a party of its
 * own, which holds the private locks that the forking thread held. */
void td__party_before_fork(void);
void td__party_after_fork(bool by_spawner); /* whose children it watches itself; others announce themselves */

/*
 * How many forks lie between this process and the program's first one. A private object that keeps the number it was
 * last used under sees by it that those who waited there, or were inside a section, are the parent's.
 */
extern uint32_t td__forks;

/* Did the thread that forked this process hold this private object then? It is the only one of the child that can. */
bool td__party_inherited(const volatile void *object);

/*
 * What the forking thread held of private objects that are held by being counted, in the child: `me` is the child's
 * party (NULL: there was no memory for one), whose record names the object again, in place of the parent's.
 */
typedef void td__held_forked(td__party *me, void *object, uint16_t parent_index);
void td__held_register_forked(unsigned tag, td__held_forked *forked);

/* The region has been replaced by another one: the calling thread, the only one, is to have a record there. */
void td__party_moved(void);

/* Makes a party that waits look at its surroundings. */
void td__party_poke(td__party *party);
/* The same for those in `later`. */
void td__party_poke_later(td__party *me);
void td__parties_poke(pid_t pid); /* those of a process */

#endif
