/* SPDX-License-Identifier: MIT */
/*
 * Barrier. Its phases are numbered; all that those who wait look at is one word:
 *
 *   bit 0      SLEEPERS: somebody may sleep on the word
 *   bits 1, 2  the state: FILLING; BROKEN, until a reset; RESETTING: reset while parties were inside, who have not all
 * left others     the phase: how often all parties have met
 *
 * The last to arrive makes the next phase by a single store. Who finds the phase changed has met all the others, and
 * leaves without another look: in a new phase, whatever happens to it concerns others. So nobody has to wait for those
 * who are slow to leave, and the store needs no undoing: `arrived` belongs to a phase, and counts nobody in another.
 *
 * As long as the phase has not changed, its parties are counted in `arrived`, each has in its record where it is and in
 * which phase, and it leaves in a section. So those of a broken phase are known to be gone before a new attempt begins;
 * one that dies is missed, and its phase is broken.
 *
 * While the action runs, the barrier is full: newcomers wait for the next phase (what Python calls draining).
 *
 * SLEEPERS is set from outside of sections, and taken away by each change of the word; who changes it then wakes all. A
 * death between the two is made good by the repair, as the record names the word (td__word_change), also where a death
 * undoes the change, and the bit with it.
 */
#include <tandem/sync.h>
#include "sync/monitor.h"
#include "sync/wait.h"
#include "sync/use.h"

#include <limits.h>

#define SLEEPERS  1u
#define FILLING   0u
#define BROKEN    2u
#define RESETTING 4u
#define STATE     6u
#define PHASE     8u

typedef struct barrier {
    td__monitor monitor;
    _Atomic uint32_t word;          /* changed inside sections, but for SLEEPERS */
    _Atomic uint32_t arrived_phase; /* changed inside sections: the phase that `arrived` belongs to */
    _Atomic uint32_t arrived;       /* changed inside sections */
    uint32_t parties;               /* fixed */
} barrier;
_Static_assert(sizeof(barrier) == sizeof(td_barrier), "the public struct has the room");

/* In a record (`granted`, `acting_phase`): counted in this phase. Never 0. */
#define COUNTED(word) (phase_of(word) | 1u)

static barrier *inside(const td_barrier *b)
{
    return (barrier *)(uintptr_t)b;
}

static uint32_t phase_of(uint32_t word)
{
    return word & ~(PHASE - 1);
}

static uint32_t count(const barrier *b, uint32_t word)
{
    return td__load_relaxed(&b->arrived_phase) == phase_of(word) ? td__load_relaxed(&b->arrived) : 0;
}

static void left_by_fork(td__monitor *monitor)
{
    barrier *b = (barrier *)(void *)monitor;
    uint32_t word = td__load_relaxed(&b->word);
    td__store_relaxed(&b->word, phase_of(word) | ((word & STATE) == BROKEN ? BROKEN : FILLING));
    td__store_relaxed(&b->arrived, 0);
}

/* --- in sections ------------------------------------------------------------------------------------------- */

/* A visit to the section, and whether it has to wake somebody. */
typedef struct visit {
    td__party *me;
    barrier *b;
    uint32_t word; /* as it is, but for SLEEPERS */
    bool wakes;
} visit;

static void enter(visit *v)
{
    td__monitor_enter(v->me, &v->b->monitor, left_by_fork);
    v->word = td__load_relaxed(&v->b->word) & ~SLEEPERS;
    v->wakes = false;
}

/* Before the word is changed, and before its old value is noted: an undone change takes away SLEEPERS that have been
 * set since the note, and who sleeps must then be woken to set it again. */
static void name_word(visit *v)
{
    if (v->me->word_woken != &v->b->word)
        td__word_change(v->me, &v->b->word);
}

static void change(visit *v, uint32_t word)
{
    name_word(v);
    /* Release: what all parties wrote before they arrived, to those who find the new phase. */
    if (td__exchange_acq_rel(&v->b->word, word) & SLEEPERS)
        v->wakes = true;
    td__program_order();
    v->word = word;
}

static void set_state(visit *v, uint32_t state)
{
    name_word(v);
    td__section_note(v->me, &v->b->word, sizeof v->b->word);
    change(v, phase_of(v->word) | state);
}

static void leave(visit *v)
{
    td__monitor_leave(v->me, &v->b->monitor);
    if (v->wakes)
        td__word_wake(v->me, INT_MAX);
    else if (v->me->word_woken == &v->b->word)
        td__word_unchanged(v->me);
}

/* One of those in a phase that is broken, or is being reset, is gone. */
static void one_less(visit *v)
{
    uint32_t now = count(v->b, v->word) - 1;
    td__set_atomic(v->me, &v->b->arrived, now);
    if (now == 0 && (v->word & STATE) == RESETTING)
        set_state(v, FILLING);
}

/* Returns false, and leaves, if no more can arrive now. */
static bool arrive(visit *v, uint32_t *index)
{
    td__party *me = v->me;
    *index = count(v->b, v->word);
    if ((v->word & STATE) != FILLING || *index == v->b->parties) {
        leave(v);
        return false;
    }
    td__set_atomic(me, &me->granted, COUNTED(v->word));
    td__set_atomic(me, &v->b->arrived_phase, phase_of(v->word));
    td__set_atomic(me, &v->b->arrived, *index + 1);
    return true;
}

/* --- waiting ----------------------------------------------------------------------------------------------- */

/* Until the word is no longer `word`: 0, or why not. May return without a reason. */
static int sleep_on(visit *v, uint32_t word, int64_t deadline, const td_cancel *cancel)
{
    barrier *b = v->b;
    /* Once others sleep, those who are to come are not about to. */
    td__spin_by_luck(v->me, &b->word, word);
    uint32_t now = td__load_relaxed(&b->word);
    if ((now & ~SLEEPERS) != word)
        return 0;
    /* Relaxed would do: the kernel compares the word once more. */
    if (!(now & SLEEPERS) && !td__cas_acq_rel(&b->word, &now, now | SLEEPERS))
        return 0;
    int r = td__word_wait(v->me, &b->word, word | SLEEPERS, deadline, cancel);
    td__word_done(v->me);
    return r;
}

/* Inside a phase that has not ended well: leaves it. */
static int leave_broken(visit *v)
{
    one_less(v);
    td__wait_taken(v->me);
    leave(v);
    return TD_EBROKEN;
}

/* Has arrived, waits for the others: 0, or a negative code without a sentence. */
static int wait_for_others(visit *v, int64_t deadline, const td_cancel *cancel)
{
    uint32_t phase = phase_of(v->word);
    for (;;) {
        int r = sleep_on(v, phase | FILLING, deadline, cancel);
        /* Acquire: what the others wrote before they arrived. */
        if (phase_of(td__load_acquire(&v->b->word)) != phase) {
            td__wait_used(v->me);
            return 0;
        }
        enter(v);
        if (phase_of(v->word) != phase) {
            td__wait_taken(v->me);
            leave(v);
            return 0;
        }
        if ((v->word & STATE) != FILLING)
            return leave_broken(v);
        if (r < 0) {
            set_state(v, BROKEN);
            leave_broken(v);
            return r;
        }
        leave(v); /* nothing has happened, or it has been undone */
    }
}

/* The last to arrive, with an action to run: as the others it is inside, but its record says so in another place, as
 * the action may wait for other things. */
static int act(visit *v, td_barrier_action *action, void *argument)
{
    td__party *me = v->me;
    uint32_t phase = phase_of(v->word);
    td__set(me, &me->acting_phase, COUNTED(v->word));
    td__set(me, &me->acting, &v->b->monitor.latch);
    td__wait_taken(me);
    leave(v);
    uint32_t forks = td__forks;
    int r = action(argument);
    if (td__forks != forks) { /* the child of a fork in the action: the phase is its parent's */
        if (td__me == me)     /* and so is the record, unless nothing is shared, and it has kept the copy */
            me->acting = NULL;
        return r == 0 ? 0 : td__fail_quick(TD_EBROKEN, "td_barrier_wait");
    }
    enter(v);
    td__set(me, &me->acting, NULL);
    if ((v->word & STATE) == FILLING && r == 0) {
        change(v, phase + PHASE);
        leave(v);
        return 0;
    }
    if ((v->word & STATE) == FILLING)
        set_state(v, BROKEN);
    one_less(v);
    leave(v);
    if (r)
        return td__fail(TD_EBROKEN, "td_barrier_wait: barrier %p is broken: the action returned %d", (void *)v->b, r);
    return td__fail_quick(TD_EBROKEN, "td_barrier_wait");
}

static int meet(visit *v, int64_t deadline, const td_cancel *cancel, td_barrier_action *action, void *argument)
{
    td__party *me = v->me;
    uint32_t index;
    for (;;) {
        enter(v);
        td__store_relaxed(&me->granted, 0);
        me->list_kind = TD__WAIT_BARRIER;
        td__program_order();
        me->list_latch = &v->b->monitor.latch; /* named before it is counted */
        if (arrive(v, &index))
            break;
        td__wait_used(me);
        if ((v->word & STATE) == BROKEN)
            return td__fail_quick(TD_EBROKEN, "td_barrier_wait");
        int r = sleep_on(v, v->word, deadline, cancel);
        if (r < 0)
            return td__fail_quick(r, "td_barrier_wait");
    }
    if (index + 1 < v->b->parties) {
        leave(v);
        int r = wait_for_others(v, deadline, cancel);
        return r < 0 ? td__fail_quick(r, "td_barrier_wait") : (int)index;
    }
    if (action) {
        int r = act(v, action, argument);
        return r < 0 ? r : (int)index;
    }
    td__wait_taken(me);
    change(v, phase_of(v->word) + PHASE);
    leave(v);
    return (int)index;
}

/* 0, or a negative code. */
static int check(const td_barrier *b, const char *call)
{
    if (!b)
        return td__fail(TD_EINVAL, "%s: the barrier is NULL", call);
    if (inside(b)->parties == 0)
        return td__fail(TD_EINVAL, "%s: barrier %p has no parties: see td_barrier_init", call, (const void *)b);
    return td__party_self() ? 0 : td_last_error();
}

int td_barrier_wait_action_with(td_barrier *b, td_barrier_action *action, void *argument, td_time limit,
                                td_cancel *cancel)
{
    int r = check(b, "td_barrier_wait");
    if (r < 0)
        return r;
    if (td__me->acting == &inside(b)->monitor.latch)
        return td__fail(TD_EDEADLOCK, "td_barrier_wait: this thread runs the action of barrier %p", (void *)b);
    if (action && td__me->acting)
        return td__fail(TD_ESTATE, "td_barrier_wait: barrier %p: this thread runs the action of barrier %p", (void *)b,
                        (void *)td__me->acting);
    visit v = { .me = td__me, .b = inside(b) };
    return meet(&v, td__deadline(limit), cancel, action, argument);
}

int td_barrier_wait_with(td_barrier *b, td_time limit, td_cancel *cancel)
{
    return td_barrier_wait_action_with(b, NULL, NULL, limit, cancel);
}

/* --- the rest ---------------------------------------------------------------------------------------------- */

int td_barrier_init(td_barrier *b, uint32_t parties)
{
    static const td_barrier zero;
    if (!b)
        return td__fail(TD_EINVAL, "td_barrier_init: the barrier is NULL");
    if (parties == 0 || parties > INT_MAX)
        return td__fail(TD_EINVAL, "td_barrier_init: %u parties (1 to %d are possible)", parties, INT_MAX);
    *b = zero;
    inside(b)->parties = parties;
    if (!td__is_shared(b))
        td__store_relaxed(&inside(b)->monitor.life, td__forks);
    return 0;
}

int td_barrier_abort(td_barrier *b)
{
    int r = check(b, "td_barrier_abort");
    if (r < 0)
        return r;
    visit v = { .me = td__me, .b = inside(b) };
    enter(&v);
    if ((v.word & STATE) != BROKEN)
        set_state(&v, BROKEN);
    leave(&v);
    return 0;
}

int td_barrier_reset(td_barrier *b)
{
    int r = check(b, "td_barrier_reset");
    if (r < 0)
        return r;
    visit v = { .me = td__me, .b = inside(b) };
    enter(&v);
    uint32_t wanted = count(v.b, v.word) > 0 ? RESETTING : FILLING;
    if ((v.word & STATE) != wanted)
        set_state(&v, wanted);
    leave(&v);
    return 0;
}

uint32_t td_barrier_parties(const td_barrier *b)
{
    return b ? inside(b)->parties : 0;
}

/* The word and the count change one after the other: one look at the word before, and one after. */
uint32_t td_barrier_waiting(const td_barrier *b)
{
    if (!b)
        return 0;
    td__monitor_check(&inside(b)->monitor, left_by_fork);
    uint32_t word, number;
    do {
        word = td__load_acquire(&inside(b)->word) & ~SLEEPERS;
        number = count(inside(b), word);
    } while ((td__load_acquire(&inside(b)->word) & ~SLEEPERS) != word);
    return (word & STATE) == FILLING ? number : 0;
}

bool td_barrier_broken(const td_barrier *b)
{
    return b && (td__load_acquire(&inside(b)->word) & STATE) == BROKEN;
}

void td_barrier_destroy(td_barrier *b)
{
#ifdef TD_DEBUG
    if (b)
        td__use_settle(b, sizeof *b);
    if (b && td_barrier_waiting(b) > 0)
        td__bug("td_barrier_destroy: somebody waits at barrier %p", (void *)b);
#else
    (void)b;
#endif
}

/* A party has died, which was counted in the phase `counted`, if in any. */
static void repair(td__party *me, td__party *dead, td__latch *latch, uint32_t counted)
{
    visit v = { .me = me, .b = (barrier *)(void *)latch };
    (void)dead;
    v.word = td__load_relaxed(&v.b->word) & ~SLEEPERS;
    if (counted != COUNTED(v.word) || count(v.b, v.word) == 0)
        return;
    if ((v.word & STATE) == FILLING)
        set_state(&v, BROKEN);
    one_less(&v);
    /* Whoever wakes up now finds the section taken until we leave it. */
    if (me->word_woken == &v.b->word)
        td__word_wake(me, INT_MAX);
}

/* This thread ends in the middle of an action, which will not be over any more. In the child of a fork the phase is the
 * parent's: entering has emptied it. */
static void end_in_action(td__party *me)
{
    visit v = { .me = me, .b = (barrier *)(void *)me->acting };
    enter(&v);
    repair(me, me, &v.b->monitor.latch, me->acting_phase);
    td__set(me, &me->acting, NULL);
    leave(&v);
}

__attribute__((constructor)) static void register_repair(void)
{
    td__wait_register(TD__WAIT_BARRIER, repair);
    td__acting_register(end_in_action);
}
