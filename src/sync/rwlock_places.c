/* SPDX-License-Identifier: MIT */
/*
 * Readers by their records. A party has a few places (`reading`), in a line of the cache of its own; while one of them
 * names a lock's gate, the party reads that lock, or is about to find out that it may not. Nobody but the party writes
 * there, until it is dead: then the place is cleared, which is all of the repair. The first place is taken and left by
 * inline functions, see rwlock.h; here is what they need seldom, and how a writer finds the places.
 */
#include "sync/rwlock.h"

/* --- taking and leaving ------------------------------------------------------------------------------------ */

int td__rwlock_another_place(td__party *me)
{
    int at = td__rwlock_place_of(me, 0);
    uint32_t top = td__load_relaxed(&me->reading_top);
    if (at >= 0 || top == TD__READING_MAX)
        return at;
    /* Seen by whoever sees the place in use: what uses it is an exchange. */
    td__store_relaxed(&me->reading_top, top + 1);
    return (int)top;
}

void td__rwlock_poke_writer(uint32_t gate)
{
    uint16_t writer = TD__RW_WRITER(gate);
    if (writer != 0 && writer < td__load_acquire(&td__the_region->party_top))
        td__party_poke(td__party_at(writer));
    td__step_point();
}

/* Until who has opened the gate has let go of the latch. If the gate is closed that is so already: who closed it has
 * had the latch later. */
static void await_latch(td__party *me, td__rwlock *l)
{
    if (td__load_relaxed(&l->gate) & TD__RW_CLOSED)
        return;
    td__rwlock_check(l); /* else an owner that is not there would be waited for */
    td__section_enter(me, &l->monitor.latch);
    td__monitor_leave(me, &l->monitor);
}

void td__rwlock_leave_after_latch(td__party *me, td__rwlock *l, int at)
{
    await_latch(me, l);
    td__rwlock_clear_place(me, l, at);
}

/* --- finding ----------------------------------------------------------------------------------------------- */

static uint32_t own_pid(void)
{
    return td__likely(td__me != NULL) ? td__load_relaxed(&td__me->pid) : (uint32_t)td__getpid();
}

/* Counts the places in all records, or finds one and looks no further. */
static inline uint32_t search(const td__rwlock *l, const _Atomic uintptr_t **one)
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
            /* Sequentially consistent, after the writer's change of the gate, as the reader's exchange is before its
             * look at the gate. And it acquires: see td__rwlock_clear_place(). */
            if (td__load_seq_cst(&party->reading[at]) != word || (!shared && td__load_relaxed(&party->pid) != pid))
                continue;
            count++;
            if (one) {
                *one = &party->reading[at];
                return count;
            }
        }
    }
    return count;
}

const _Atomic uintptr_t *td__rwlock_some_place(const td__rwlock *l)
{
    const _Atomic uintptr_t *place = NULL;
    search(l, &place);
    return place;
}

uint32_t td__rwlock_count_places(const td__rwlock *l)
{
    return search(l, NULL);
}
