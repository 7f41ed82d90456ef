/* SPDX-License-Identifier: MIT */
/*
 * Parties: coming, going, and repairing after those who died. See party.h.
 *
 * The repair reads what another process wrote, which may have run wild: counts are checked, and every address that it
 * follows lies in the region (whatever it finds there), so that it cannot crash.
 */
#include "sync/party.h"
#include "sync/forks.h"
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
static void (*acting_leave)(td__party *me);

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

void td__acting_register(void (*leave)(td__party *me))
{
    acting_leave = leave;
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
        td__bug("a lock says that this thread holds it, which does not: its memory has been written over, "
                "or is a copy of another lock");
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
    if (me->acting)
        acting_leave(me);
    for (int i = 0; i < TD__READING_MAX; i++)
        if (td__load_relaxed(&me->reading[i]))
            reading_leave(me, i);
    while (me->held_count > 0)
        abandon_top(me, me);
    td__party_poke_later(me);
    td__me = NULL;
    set_free(me, me->index);
}

void td__party_end(void)
{
    if (td__me)
        leave(td__me);
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

#define FULL_LIMIT_S 1
#define FULL_LOOKS   3

/*
 * All are taken: perhaps by dead ones of whom nobody has heard. A process that announces itself after it has taken its
 * entry can be killed in between. So the program's main process is asked to look. It has found nobody when it has
 * looked that often, and nothing waits to be repaired.
 */
static uint32_t take_index_at_last(td__region *region, uint64_t word)
{
    int64_t deadline = td__deadline(td_s(FULL_LIMIT_S));
    uint32_t index = 0;
    if (!td__shared_size || td__load_relaxed(&region->party_top) < region->parties)
        return 0;
    for (int looks = 0; looks < FULL_LOOKS && index == 0 && td__now() < deadline; looks++) {
        uint32_t seen = td__load_acquire(&region->deaths);
        if (seen & TD__DEATHS_PENDING)
            looks = -1;
        td__event_fd_signal(td__arrivals); /* in any case: the bit may be there for nothing, see tell_of_marks() */
        td__futex_wait(&region->deaths, seen, deadline, true);
        index = take_index(region, word);
    }
    return index;
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
    uint64_t word = (stray ? STRAY : 0) | serial << 32 | pid;
    uint32_t index = take_index(region, word);
    if (index == 0 && (index = take_index_at_last(region, word)) == 0) {
        td__fail(TD_ENOMEM, "no record for this thread: out of memory, or more than %u threads share objects",
                 region->parties);
        return NULL;
    }
    td__step_point(); /* killed here, it is not known to whoever watches strays */
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
/* The same for this process's own beginning; written in the child of a fork only, while there is one thread. */
static uintptr_t inherited[TD__HELD_MAX];
static uint32_t inherited_count;

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

bool td__party_inherited(const volatile void *object)
{
    for (uint32_t i = 0; i < inherited_count; i++)
        if ((inherited[i] & ~(uintptr_t)3) == (uintptr_t)object)
            return true;
    return false;
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
    if (inherited_count != kept_count)
        inherited_count = kept_count;
    if (kept_count > 0)
        memcpy(inherited, kept, kept_count * sizeof *kept);
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

static void before_fork(bool spawns)
{
    if (!spawns)
        td__region_before_fork();
    td__party_before_fork();
}

static void in_parent(bool spawns)
{
    if (!spawns)
        td__region_after_fork();
}

static void in_child(bool spawns)
{
    if (!spawns)
        td__region_after_fork();
    td__party_after_fork(spawns);
}

/* When the library is loaded: whatever stands on this counts forks. */
__attribute__((constructor)) static void register_forks(void)
{
    static const td__forks_handlers handlers = { .before = before_fork, .in_parent = in_parent, .in_child = in_child };
    td__forks_register(TD__FORKS_SYNC, &handlers);
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

/* For those who sleep on the word, and those who free. */
static void tell_of_deaths(td__region *region)
{
    uint32_t word = td__load_relaxed(&region->deaths);
    /* Release: the marks, to those who look for them when they have seen the word. */
    while (!td__cas_acq_rel(&region->deaths, &word, (word + TD__DEATHS_ONE) | TD__DEATHS_PENDING))
        ;
    td__futex_wake(&region->deaths, INT_MAX, true);
}

/* Not for a worker that has no process yet, whose pid is 0: so are free entries. */
static bool entry_says(td__region *region, uint32_t pid)
{
    uint32_t top = region && td__shared_size && pid & ~DEAD ? td__load_acquire(&region->party_top) : 0;
    /* Acquire: who finds none any more sees what their repair wrote, in the objects too. */
    for (uint32_t i = 1; i < top && i < region->parties; i++)
        if ((uint32_t)td__load_acquire(td__party_entry(i)) == pid)
            return true;
    return false;
}

bool td__parties_of(pid_t pid)
{
    return entry_says(td__the_region, (uint32_t)pid);
}

/* By who learns of a death by the marks alone: who made them may not have told since, and may never, being dead. As the
 * word is now, a repair that has found no marks may be just about to clear the bit. If it has just ended the marks as
 * well, the bit is there for nothing, until the next one who repairs, or frees something, finds so. */
static void tell_of_marks(td__region *region, pid_t pid)
{
    if (entry_says(region, (uint32_t)pid | DEAD))
        tell_of_deaths(region);
}

void td__parties_died(pid_t pid)
{
    td__region *region = td__the_region;
    if (!td__parties_of(pid)) {
        tell_of_marks(region, pid);
        return;
    }
    tell_of_deaths(region);
    uint32_t top = td__load_acquire(&region->party_top);
    for (uint32_t i = 1; i < top && i < region->parties; i++) {
        uint64_t word = td__load_acquire(td__party_entry(i));
        if ((uint32_t)word != (uint32_t)pid)
            continue;
        undo_sections(td__party_at(i), (uint16_t)i);
        td__cas_acq_rel(td__party_entry(i), &word, word | DEAD);
    }
    tell_of_deaths(region);
}

void td__parties_await_death(pid_t pid)
{
    td__region *region = td__the_region;
    int64_t deadline = td__deadline(td_s(1));
    while (region && td__shared_size && td__now() < deadline) {
        uint32_t word = td__load_acquire(&region->deaths);
        if (!td__parties_of(pid)) {
            tell_of_marks(region, pid);
            return;
        }
        td__futex_wait(&region->deaths, word, deadline, true);
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

/* Under the latch of who repairs. Are all done? */
static bool repair_all(td__region *region, td__party *me, bool *some)
{
    bool all = true;
    uint32_t top = td__load_acquire(&region->party_top);
    for (uint32_t i = 1; i < top && i < region->parties; i++) {
        if (!((uint32_t)td__load_acquire(td__party_entry(i)) & DEAD))
            continue;
        if (repair(me, td__party_at(i), i))
            *some = true;
        else
            all = false;
    }
    return all;
}

static bool any_dead(td__region *region)
{
    uint32_t top = td__load_acquire(&region->party_top);
    for (uint32_t i = 1; i < top && i < region->parties; i++)
        if ((uint32_t)td__load_acquire(td__party_entry(i)) & DEAD)
            return true;
    return false;
}

/* Who was granted something by a dead one has perhaps not been told. */
static void poke_all(td__region *region)
{
    uint32_t top = td__load_acquire(&region->party_top);
    for (uint32_t i = 1; i < top && i < region->parties; i++)
        if (td__load_relaxed(td__party_entry(i)))
            td__party_poke(td__party_at(i));
}

/* There were none after the word was like this. */
static void tell_of_repair(td__region *region, uint32_t word)
{
    /* Release: what was repaired, to those who free it. Failing, others have died, or another one has told. */
    if (word & TD__DEATHS_PENDING && td__cas_acq_rel(&region->deaths, &word, word & ~TD__DEATHS_PENDING))
        td__futex_wake(&region->deaths, INT_MAX, true);
}

bool td__parties_repair(void)
{
    td__region *region = td__the_region;
    if (!region || !td__shared_size)
        return true;
    uint32_t word = td__load_acquire(&region->deaths);
    bool all = true, some = false;
    if (any_dead(region)) {
        td__party *me = td__party_self();
        td__latch *latch = (td__latch *)(void *)region->repair;
        if (!me || !td__section_try(me, latch))
            return false;
        all = repair_all(region, me, &some);
        td__section_leave(me, latch);
    }
    if (some)
        poke_all(region);
    if (all)
        tell_of_repair(region, word);
    return all;
}

/* Does its record lead to something in there? Under the latch of who repairs. */
static bool names(const td__party *dead, uintptr_t at, size_t size)
{
    uintptr_t named[] = { (uintptr_t)dead->list_latch, (uintptr_t)dead->acting,
                          (uintptr_t)td__load_relaxed(&dead->list), (uintptr_t)td__load_relaxed(&dead->word_waited),
                          (uintptr_t)dead->word_woken };
    for (size_t i = 0; i < TD__COUNT(named); i++)
        if (named[i] - at < size)
            return true;
    for (int level = 0; level < TD__STEP_LEVELS; level++)
        if (dead->step[level].kind &&
            (dead->step[level].object - at < size || (dead->step[level].argument & ~(uintptr_t)1) - at < size))
            return true;
    for (uint32_t i = 0; i < dead->held_count && i < TD__HELD_MAX; i++)
        if ((dead->held[i] & ~(uintptr_t)3) - at < size)
            return true;
    for (int i = 0; i < TD__READING_MAX; i++)
        if (td__load_relaxed(&dead->reading[i]) - at < size)
            return true;
    return false;
}

static bool named_by_dead(td__region *region, uintptr_t at, size_t size)
{
    uint32_t top = td__load_acquire(&region->party_top);
    for (uint32_t i = 1; i < top && i < region->parties; i++)
        if ((uint32_t)td__load_acquire(td__party_entry(i)) & DEAD && names(td__party_at(i), at, size))
            return true;
    return false;
}

/* Repairs itself instead of waiting for whoever would: he may have died, or not have begun. */
void td__parties_settle(const volatile void *at, size_t size)
{
    td__region *region = td__the_region;
    td__latch *latch = (td__latch *)(void *)region->repair;
    td__party *me = td__party_self();
    for (bool settled = !me; !settled;) {
        bool some = false, all = false;
        uint32_t word = td__load_acquire(&region->deaths);
        if (td__section_try(me, latch)) {
            if (named_by_dead(region, (uintptr_t)at, size))
                repair_all(region, me, &some);
            settled = !named_by_dead(region, (uintptr_t)at, size);
            all = !any_dead(region);
            td__section_leave(me, latch);
        }
        if (some)
            poke_all(region);
        if (all) /* told by one who saw marks, after the repair: no other one may come for long */
            tell_of_repair(region, word);
        /* Somebody is inside what the repair needs: for a moment, or dead, and soon heard of. */
        if (!settled)
            td__futex_wait(&region->deaths, word, td__deadline(td_ms(1)), true);
    }
}

void td__parties_poke(pid_t pid)
{
    td__region *region = td__the_region;
    uint32_t top = region && td__shared_size ? td__load_seq_cst(&region->party_top) : 0;
    for (uint32_t i = 1; i < top && i < region->parties; i++)
        if ((uint32_t)td__load_relaxed(td__party_entry(i)) == (uint32_t)pid)
            td__party_poke(td__party_at(i));
}

void td__parties_looked(void)
{
    td__region *region = td__the_region;
    /* Release: what has been marked, to those who wait for it. */
    td__fetch_add_acq_rel(&region->deaths, TD__DEATHS_ONE);
    td__futex_wake(&region->deaths, INT_MAX, true);
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
