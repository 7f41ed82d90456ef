/* SPDX-License-Identifier: MIT */
/*
 * Parties: coming, going, and repairing after those who died. See party.h.
 *
 * The repair reads what another process wrote, which may have run wild: counts are checked, and every address that it
 * follows lies in the region (whatever it finds there), so that it cannot crash.
 */
#include "sync/party.h"
#include "sync/section.h"
#include "sync/wait.h"

#include <limits.h>

/* In an entry, beside the pid: its sections have been undone, and it waits for the rest. */
#define DEAD 0x80000000u
/* In an entry, above the serial number: of a process that the program's main process watches, not a spawner. */
#define STRAY ((uint64_t)1 << 63)

_Thread_local td__party *td__me;
uint32_t td__forks;

static td__step_repair *step_repairs[TD__STEP_LEVELS];
static td__held_repair *held_repairs[4];
static td__held_forked *held_forked[4];
static td__wait_repair *wait_repairs[TD__WAIT_KINDS];
static void (*reading_leave)(td__party *me, int at);

static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static bool stray;        /* this process is one that the program's main process watches */
static pthread_key_t key; /* whose destructor ends a thread's party */

void td__step_register(int level, td__step_repair *repair)
{
    step_repairs[level] = repair;
}

void td__held_register(unsigned tag, td__held_repair *repair)
{
    held_repairs[tag] = repair;
}

void td__held_register_forked(unsigned tag, td__held_forked *forked)
{
    held_forked[tag] = forked;
}

void td__reading_register(void (*leave)(td__party *me, int at))
{
    reading_leave = leave;
}

void td__wait_register(uint32_t kind, td__wait_repair *repair)
{
    wait_repairs[kind] = repair;
}

int td__held_find(const td__party *me, const volatile void *object, unsigned tag)
{
    uintptr_t wanted = (uintptr_t)object | tag;
    for (uint32_t i = me->held_count; i-- > 0;)
        if (me->held[i] == wanted)
            return (int)i;
    return -1;
}

void td__held_remove(td__party *me, int at)
{
    if (at < 0)
        td__bug("a lock says that this thread holds it, which does not: its memory has been written over");
    /* The last one takes its place. A death between the two stores finds it named twice, and that this is so: of others
     * than latches, each that is named counts. */
    me->moved_to = (uint32_t)at;
    td__program_order();
    me->moved_count = me->held_count;
    td__program_order();
    me->held[at] = me->held[me->held_count - 1];
    td__program_order();
    me->held_count--;
    td__program_order();
    me->moved_count = 0;
}

/* By the repair. Before the move the place has that of a latch that has been let go: no harm if it is the same. */
static void finish_move(td__party *dead)
{
    uint32_t count = dead->held_count;
    if (dead->moved_count == count && count > 0 && dead->moved_to < count - 1 &&
        dead->held[dead->moved_to] == dead->held[count - 1])
        dead->held_count--;
    dead->moved_count = 0;
}

/* --- coming and going -------------------------------------------------------------------------------------- */

/* Before the entry becomes free: a record is clean when it is taken, and stays so if its taker dies at once. */
static void clean(td__party *party)
{
    party->held_count = party->moved_count = party->section_count = party->undo_count = 0;
    /* Release: what it has done as a reader, before the next writer's. Who waits for that is woken by the repair, as
     * all are. */
    for (int i = 0; i < TD__READING_MAX; i++)
        td__store_release(&party->reading[i], 0);
    td__store_relaxed(&party->reading_top, 0);
    td__store_relaxed(&party->word_waited, NULL);
    party->word_woken = NULL;
    for (int level = 0; level < TD__STEP_LEVELS; level++)
        party->step[level].kind = 0;
    td__store_relaxed(&party->asleep, 0);
    td__store_relaxed(&party->cancel, 0);
    td__store_relaxed(&party->granted, 0);
    td__store_relaxed(&party->list, 0);
    party->list_latch = NULL;
    party->acting = NULL;
    party->later_count = 0;
}

static void set_free(td__party *party, uint32_t index)
{
    clean(party);
    /* Release: the clean record, to the next one to take the index. */
    td__store_release(td__party_entry(index), 0);
}

/* May the repair touch this, whatever the dead one has written there? */
static bool is_object(const volatile void *at, size_t size)
{
    return td__is_shared(at) && td__is_shared((const volatile char *)at + size - 1) && (uintptr_t)at % 4 == 0;
}

/* The last one named. Latches are let go without more ado; the others' repair takes the entry off the record in the
 * same section in which it changes the object. */
static bool abandon_top(td__party *me, td__party *dead)
{
    uintptr_t held = dead->held[dead->held_count - 1];
    void *object = (void *)(held & ~(uintptr_t)3);
    unsigned tag = held & 3;
    if (me == dead || is_object(object, 4)) {
        if (tag != TD__HELD_LATCH && held_repairs[tag])
            return held_repairs[tag](me, dead, object);
        if (tag == TD__HELD_LATCH)
            td__latch_abandon(object, dead->index);
    }
    td__program_order();
    dead->held_count--;
    return true;
}

/* A thread ends in good order: what it still holds is told as held by a dead one. */
static void leave(void *party)
{
    td__party *me = party;
    if (me != td__me) /* of another life, before a fork */
        return;
    for (int i = 0; i < TD__READING_MAX; i++)
        if (td__load_relaxed(&me->reading[i]))
            reading_leave(me, i);
    while (me->held_count > 0)
        abandon_top(me, me);
    td__party_poke_later(me);
    td__me = NULL;
    set_free(me, me->index);
}

static void make_key(void)
{
    pthread_key_create(&key, leave);
}

/* An index for this thread, or 0. */
static uint32_t take_index(td__region *region, uint64_t word)
{
    for (;;) {
        uint32_t top = td__load_acquire(&region->party_top);
        for (uint32_t i = 1; i < top; i++) {
            uint64_t free = 0;
            /* Acquire: the record as its last user left it, see set_free(). */
            if (td__load_relaxed(td__party_entry(i)) == 0 && td__cas_acq_rel(td__party_entry(i), &free, word))
                return i;
        }
        /* Whoever looks at the parties below the top touches pages that are there. */
        if (top >= region->parties || td__region_populate((void *)td__party_entry(top), sizeof(uint64_t)) < 0 ||
            td__region_populate(td__party_at(top), TD__PARTY_BYTES) < 0)
            return 0;
        td__cas_acq_rel(&region->party_top, &top, top + 1); /* if it fails, another one did it */
    }
}

td__party *td__party_make(void)
{
    td__region *region = td__region_get();
    if (!region) {
        td__fail(TD_ENOMEM, "out of memory: no address space for the records of threads");
        return NULL;
    }
    pthread_once(&key_once, make_key);
    uint32_t pid = (uint32_t)td__getpid();
    uint64_t serial = (td__fetch_add_relaxed(&region->serial, 1) + 1) & 0x7fffffff;
    uint32_t index = take_index(region, (stray ? STRAY : 0) | serial << 32 | pid);
    if (index == 0) {
        td__fail(TD_ENOMEM, "no record for this thread: out of memory, or more than %u threads share objects",
                 region->parties);
        return NULL;
    }
    td__party *me = td__party_at(index);
    me->index = (uint16_t)index;
    td__store_relaxed(&me->pid, pid);
    me->quick = td__latch_quick((uint16_t)index);
    td__me = me;
    pthread_setspecific(key, me);
    if (stray)
        td__event_fd_signal(td__arrivals);
    return me;
}

/* --- forks ------------------------------------------------------------------------------------------------- */

/* What the forking thread holds of private objects, with its index then. One thread forks at a time. */
static uintptr_t kept[TD__HELD_MAX], kept_reading[TD__READING_MAX];
static uint32_t kept_count;
static bool reading_kept;
static uint16_t kept_index;

void td__party_before_fork(void)
{
    td__party *me = td__me;
    if (kept_count != 0) /* a spawner, which forks often, has none: no page is written here, nor below in its child */
        kept_count = 0;
    if (reading_kept) {
        memset(kept_reading, 0, sizeof kept_reading);
        reading_kept = false;
    }
    if (!me)
        return;
    kept_index = me->index;
    for (uint32_t i = 0; i < me->held_count; i++)
        if (!td__is_shared((void *)me->held[i]))
            kept[kept_count++] = me->held[i];
    for (int i = 0; i < TD__READING_MAX; i++) {
        uintptr_t word = td__load_relaxed(&me->reading[i]);
        if (word && !td__is_shared((void *)word)) {
            kept_reading[i] = word;
            reading_kept = true;
        }
    }
}

static void keep(td__party *me, uintptr_t held)
{
    void *object = (void *)(held & ~(uintptr_t)3);
    unsigned tag = held & 3;
    if (tag == TD__HELD_LATCH) {
        td__latch *latch = object;
        if (td__load_relaxed(&latch->owner) != kept_index)
            return;
        td__store_relaxed(&latch->owner, me ? me->index : TD__DIED);
    }
    if (me)
        me->held[me->held_count++] = held;
    if (tag != TD__HELD_LATCH && held_forked[tag])
        held_forked[tag](me, object, kept_index);
}

void td__party_moved(void)
{
    if (td__me)
        td__me = NULL;
    if (kept_count == 0 && !reading_kept)
        return;
    td__party *me = td__party_make();
    for (int i = 0; me && i < TD__READING_MAX; i++)
        td__store_relaxed(&me->reading[i], kept_reading[i]);
    if (me)
        td__store_relaxed(&me->reading_top, TD__READING_MAX);
    for (uint32_t i = 0; i < kept_count; i++)
        keep(me, kept[i]);
}

/* In a child whose records are copies: the parent's other threads read nothing here. */
static void forget_reading(td__region *region)
{
    uint32_t top = td__load_relaxed(&region->party_top);
    for (uint32_t i = 1; i < top; i++)
        for (int at = 0; at < TD__READING_MAX && td__party_at(i) != td__me; at++)
            if (td__load_relaxed(&td__party_at(i)->reading[at]))
                td__store_relaxed(&td__party_at(i)->reading[at], 0);
}

void td__party_after_fork(bool by_spawner)
{
    td__forks++;
    td__region *region = td__the_region;
    bool is_stray = !by_spawner && td__shared_size != 0;
    if (stray != is_stray)
        stray = is_stray;
    if (region && td__shared_size == 0) {
        /* A copy of the parent's, of our own. Its other threads are not there, but the locks that they held are, and
         * name them: their indexes are not given to others. */
        forget_reading(region);
        for (uint32_t i = 0; td__me && i < td__me->held_count; i++)
            if (held_forked[td__me->held[i] & 3])
                held_forked[td__me->held[i] & 3](td__me, (void *)(td__me->held[i] & ~(uintptr_t)3), td__me->index);
        if (td__me)
            td__store_relaxed(&td__me->pid, (uint32_t)td__getpid());
        return;
    }
    td__party_moved();
}

/* --- deaths ------------------------------------------------------------------------------------------------ */

static void undo(td__party *dead, uint32_t from)
{
    uint32_t count = dead->undo_count < TD__UNDO_MAX ? dead->undo_count : TD__UNDO_MAX;
    while (count > from) {
        const td__undo *change = &dead->undo[--count];
        if (change->size <= 8 && td__is_shared(change->at) && td__is_shared((char *)change->at + 7))
            memcpy(change->at, &change->old, change->size);
    }
    td__program_order();
    dead->undo_count = from; /* done: not again, once the latch is free */
}

/* Inside which it died: taken back, innermost first. May be done twice, as long as the latch names the dead one. */
static void undo_sections(td__party *dead, uint16_t index)
{
    uint32_t depth = dead->section_count < TD__SECTION_DEPTH ? dead->section_count : TD__SECTION_DEPTH;
    while (depth-- > 0) {
        td__latch *latch = dead->section[depth];
        if (!is_object(latch, sizeof *latch))
            continue;
        if (td__load_acquire(&latch->owner) == index) {
            undo(dead, dead->section_undo[depth]);
            uint16_t owner = index;
            /* Release: the undone changes. */
            td__cas_acq_rel(&latch->owner, &owner, 0);
        }
        td__latch_wake(latch);
    }
}

void td__parties_died(pid_t pid)
{
    td__region *region = td__the_region;
    if (!region || !td__shared_size)
        return;
    uint32_t top = td__load_acquire(&region->party_top);
    for (uint32_t i = 1; i < top && i < region->parties; i++) {
        uint64_t word = td__load_acquire(td__party_entry(i));
        if ((uint32_t)word != (uint32_t)pid)
            continue;
        undo_sections(td__party_at(i), (uint16_t)i);
        td__cas_acq_rel(td__party_entry(i), &word, word | DEAD);
    }
}

static bool repair_wait(td__party *me, td__party *dead)
{
    td__latch *latch = dead->list_latch;
    if (!is_object(latch, sizeof *latch))
        return true;
    if (!td__section_try(me, latch))
        return false;
    td__waiters *list = (td__waiters *)td__load_relaxed(&dead->list);
    uint32_t granted = td__load_relaxed(&dead->granted), kind = dead->list_kind;
    if (list) {
        granted = 0;
        if (is_object(list, sizeof *list))
            td__wait_grant_this(me, list, dead, 0);
    }
    if (kind < TD__WAIT_KINDS && wait_repairs[kind])
        wait_repairs[kind](me, dead, latch, granted);
    td__set(me, &dead->list_latch, NULL);
    td__section_leave(me, latch);
    return true;
}

static bool repair_action(td__party *me, td__party *dead)
{
    td__latch *latch = dead->acting;
    if (!is_object(latch, sizeof *latch) || !wait_repairs[TD__WAIT_BARRIER])
        return true;
    if (!td__section_try(me, latch))
        return false;
    wait_repairs[TD__WAIT_BARRIER](me, dead, latch, dead->acting_phase);
    td__set(me, &dead->acting, NULL);
    td__section_leave(me, latch);
    return true;
}

static bool repair(td__party *me, td__party *dead, uint32_t index)
{
    dead->index = (uint16_t)index;
    if (!repair_wait(me, dead) || !repair_action(me, dead))
        return false;
    const _Atomic uint32_t *waited = td__load_relaxed(&dead->word_waited);
    if (is_object(waited, 4))
        td__futex_wake(waited, 1, true);
    if (is_object(dead->word_woken, 4))
        td__futex_wake(dead->word_woken, INT_MAX, true);
    for (int level = 0; level < TD__STEP_LEVELS; level++) {
        td__step *step = &dead->step[level];
        if (step->kind && step_repairs[level] && !step_repairs[level](me, dead, step))
            return false;
        step->kind = 0;
    }
    if (dead->held_count > TD__HELD_MAX)
        dead->held_count = TD__HELD_MAX;
    finish_move(dead);
    while (dead->held_count > 0)
        if (!abandon_top(me, dead))
            return false;
    set_free(dead, index);
    return true;
}

bool td__parties_repair(void)
{
    td__region *region = td__the_region;
    if (!region || !td__shared_size)
        return true;
    bool all = true, some = false;
    td__party *me = NULL;
    td__latch *latch = (td__latch *)(void *)region->repair;
    uint32_t top = td__load_acquire(&region->party_top);
    for (uint32_t i = 1; i < top && i < region->parties; i++) {
        if (!((uint32_t)td__load_acquire(td__party_entry(i)) & DEAD))
            continue;
        if (!me) {
            me = td__party_self();
            if (!me || !td__section_try(me, latch))
                return false;
        }
        /* Again, now that nobody else repairs. */
        if (!((uint32_t)td__load_acquire(td__party_entry(i)) & DEAD))
            continue;
        if (repair(me, td__party_at(i), i))
            some = true;
        else
            all = false;
    }
    if (me)
        td__section_leave(me, latch);
    /* Who was granted something by a dead one has perhaps not been told. */
    for (uint32_t i = 1; some && i < top && i < region->parties; i++)
        if (td__load_relaxed(td__party_entry(i)))
            td__party_poke(td__party_at(i));
    return all;
}

void td__parties_poke(pid_t pid)
{
    td__region *region = td__the_region;
    uint32_t top = region && td__shared_size ? td__load_seq_cst(&region->party_top) : 0;
    for (uint32_t i = 1; i < top && i < region->parties; i++)
        if ((uint32_t)td__load_relaxed(td__party_entry(i)) == (uint32_t)pid)
            td__party_poke(td__party_at(i));
}

bool td__parties_of(pid_t pid)
{
    td__region *region = td__the_region;
    uint32_t top = region && td__shared_size ? td__load_acquire(&region->party_top) : 0;
    /* Acquire: who finds none any more sees what their repair wrote, in the objects too. */
    for (uint32_t i = 1; i < top && i < region->parties; i++)
        if ((uint32_t)td__load_acquire(td__party_entry(i)) == (uint32_t)pid)
            return true;
    return false;
}

size_t td__parties_strays(pid_t *pids, size_t capacity)
{
    td__region *region = td__the_region;
    size_t count = 0;
    uint32_t top = region && td__shared_size ? td__load_acquire(&region->party_top) : 0;
    for (uint32_t i = 1; i < top && i < region->parties; i++) {
        uint64_t word = td__load_acquire(td__party_entry(i));
        uint32_t pid = (uint32_t)word;
        bool known = pid == 0 || pid & DEAD || !(word & STRAY);
        for (size_t at = 0; at < count && !known; at++)
            known = pids[at] == (pid_t)pid;
        if (!known && count < capacity)
            pids[count++] = (pid_t)pid;
    }
    return count;
}
