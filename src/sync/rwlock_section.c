/* SPDX-License-Identifier: MIT */
/*
 * What the sections of a read-write lock are made of. Each closes the gate first, so that nobody comes or goes by it
 * quickly; then it changes the number of readers, the writer and the list, with notes for a repair; and lets in whom it
 * can. When all that holds it opens the gate, if it may, lets go of the latch, and wakes those whom it has let in.
 */
#include "sync/rwlock.h"

/* --- the gate ---------------------------------------------------------------------------------------------- */

/* Needs no undoing: a closed gate with nobody behind it is one that the next opens. */
void td__rwlock_close_gate(td__rwlock *l)
{
    uint32_t gate = td__load_relaxed(&l->gate), closed;
    do {
        if (gate & TD__RW_CLOSED)
            return;
        closed = gate | TD__RW_CLOSED;
        if (gate & TD__RW_BY_RECORD)
            closed = (closed & ~TD__RW_BY_RECORD) | TD__RW_DRAINS;
        /* Sequentially consistent: see read_by() in rwlock.c. And acquire: what a writer did that has left by it. */
    } while (!td__cas_seq_cst(&l->gate, &gate, closed));
    td__step_point();
}

/* The last thing, when what the section has changed holds: whoever comes in by it then can rely on that. */
static void open_gate(td__rwlock *l)
{
    uint32_t gate = td__load_relaxed(&l->gate), open = gate & TD__RW_COOL;
    if (td__wait_first(&l->waiters) || TD__RW_WRITER(gate) || td__load_relaxed(&l->died) || !(gate & TD__RW_CLOSED))
        return;
    if (gate & TD__RW_DRAINS || (td__load_relaxed(&l->readers) && !open))
        open = TD__RW_BY_RECORD;
    else if (td__load_relaxed(&l->readers))
        return;
    /* Release: what writers have done, to those who come in quickly. Nobody else changes a closed gate. */
    td__store_release(&l->gate, open);
    td__step_point();
}

/* --- who is inside ----------------------------------------------------------------------------------------- */

bool td__rwlock_is_open(const td__rwlock *l, uint32_t what)
{
    return td__load_relaxed(&l->writer) == 0 && (what == TD__RW_READ || td__load_relaxed(&l->readers) == 0);
}

uint32_t td__rwlock_enter_as(td__party *me, td__rwlock *l, const td__party *party, uint32_t what)
{
    uint32_t told = td__load_relaxed(&l->died) ? TD__RW_TOLD : 0;
    if (what == TD__RW_READ) {
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
void td__rwlock_exit_as(td__party *me, td__rwlock *l, uint32_t what, bool died)
{
    if (what == TD__RW_READ) {
        uint32_t readers = td__load_relaxed(&l->readers);
        if (readers) /* else somebody has written over it */
            td__set_atomic(me, &l->readers, readers - 1);
        return;
    }
    bool alone = !(td__rwlock_bits(l) & TD__RW_DRAINS);
    td__set_atomic(me, &l->writer, 0);
    if (died && alone)
        td__set_atomic(me, &l->died, 1);
}

void td__rwlock_let_in(td__party *me, td__rwlock *l, td__rwlock_admitted *in)
{
    in->count = 0;
    for (td__party *first; in->count < TD__RW_BATCH && (first = td__wait_first(&l->waiters)) != NULL;) {
        uint32_t what = first->value;
        if (!td__rwlock_is_open(l, what))
            break;
        uint32_t told = td__rwlock_enter_as(me, l, first, what);
        td__wait_grant_this(me, &l->waiters, first, what | told);
        in->party[in->count++] = first;
    }
}

/* --- whole sections ---------------------------------------------------------------------------------------- */

void td__rwlock_enter(td__party *me, td__rwlock *l)
{
    td__section_enter(me, &l->monitor.latch);
    td__rwlock_close_gate(l);
}

void td__rwlock_leave(td__party *me, td__rwlock *l, const td__rwlock_admitted *in)
{
    /* The number of readers is stored before the look at the gate: either a writer that drains finds it, or we find
     * ASLEEP. Its barrier sees to that; where there is none for this process, we do. */
    if (td__unlikely(td__release_by_exchange))
        td__fence_seq_cst();
    uint32_t gate = td__load_relaxed(&l->gate);
    td__section_commit(me);
    open_gate(l);
    td__monitor_leave(me, &l->monitor);
    if (td__unlikely(gate & TD__RW_ASLEEP)) /* until the last counted reader has left, too */
        td__rwlock_poke_writer(gate);
    for (uint32_t i = 0; i < in->count; i++)
        td__party_poke(in->party[i]);
}

static void note_released(td__party *me, uint32_t at)
{
    uint32_t last = me->held_count - 1;
    if (at != last)
        td__set(me, &me->held[at], me->held[last]);
    td__set(me, &me->held_count, last);
}

void td__rwlock_give_back(td__party *me, td__rwlock *l, uint32_t what, uint32_t at)
{
    td__rwlock_admitted in;
    td__rwlock_enter(me, l);
    td__rwlock_exit_as(me, l, what, false);
    note_released(me, at);
    td__rwlock_let_in(me, l, &in);
    td__rwlock_leave(me, l, &in);
}
