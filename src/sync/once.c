/* SPDX-License-Identifier: MIT */
/*
 * Once: a latch that is held while the function runs, and a word that says that it has succeeded. The latch is named
 * among what its holder holds, so that it is free again, and one waiter awake, when the holder dies; who gets it finds
 * the word without DONE, and is the next to run the function. DONE is written under the latch, before it is released:
 * who reads it set, with or without the latch, sees what the function wrote.
 *
 * A private one that a fork has copied while another thread was running the function is held by nobody in the child.
 * The number of forks that it was last used under (`life`, above the bits; in shared memory 0) tells: before its first
 * use in the child its latch is made free, unless it is the forking thread that runs the function, also in the child.
 */
#include <tandem/sync.h>
#include "sync/latch.h"

#include <limits.h>

typedef struct once {
    td__latch latch;
    _Atomic uint32_t state; /* DONE, RENEWING, life */
} once;
_Static_assert(sizeof(once) == sizeof(td_once), "the public struct has the same layout");

#define DONE       1u
#define RENEWING   2u /* a thread of this life makes the latch free */
#define LIFE_SHIFT 2

static once *once_of(const td_once *public)
{
    return (once *)(uintptr_t) public;
}

/* Those that sleep are all to go on, at once and not one after the other. */
static void let_go(td__party *me, once *once, bool all)
{
    bool sleepers = td__load_relaxed(&once->latch.contended) & TD__SLEEPERS;
    td__latch_release(&once->latch, me);
    if (all && sleepers)
        td__futex_wake(&once->latch.word, INT_MAX, td__is_shared(once));
    td__held_forget(me, once);
}

static uint32_t life_of(const once *once)
{
    return td__is_shared(once) ? 0 : td__forks << LIFE_SHIFT;
}

/* The first to come in this life. */
static void renew(once *once, uint32_t life)
{
    uint32_t state = td__load_acquire(&once->state);
    while (!(state & DONE) && state != life) {
        if (state == (life | RENEWING)) {
            td__yield(); /* another thread has begun, and writes two words */
            state = td__load_acquire(&once->state);
        } else if (td__cas_acq_rel(&once->state, &state, life | RENEWING)) {
            if (!td__party_inherited(once)) {
                td__store_relaxed(&once->latch.owner, 0);
                td__store_relaxed(&once->latch.contended, 0);
            }
            state = life | RENEWING;
            /* Release: the latch, to those who come later. It fails if the forking thread has done its part. */
            if (td__cas_acq_rel(&once->state, &state, life))
                return;
        }
    }
}

static int run_or_wait(once *once, td_once_function *function, void *argument, td_time limit, const td_cancel *cancel)
{
    td__party *me = td__party_self();
    if (!me)
        return td_last_error();
    if (!td__held_room(me))
        return td__fail(TD_ETOOBIG, "td_once_run: this thread holds %d objects already, the limit", TD__HELD_MAX);
    uint32_t life = life_of(once);
    /* Acquire: the latch as who has renewed it left it. */
    if (td__unlikely(td__load_acquire(&once->state) != life))
        renew(once, life);
    if (td__load_relaxed(&once->latch.owner) == me->index)
        return td__fail(TD_EDEADLOCK, "td_once_run: the function of %p is running in this thread", (void *)once);
    td__held_intend(me, once);
    int r = 0;
    if (!td__latch_try(&once->latch, me))
        r = td__latch_wait(&once->latch, me, td__deadline(limit), cancel);
    if (r < 0) {
        td__held_forget(me, once);
        return td__fail_quick(r, "td_once_run");
    }
    r = 0;
    if (!(td__load_relaxed(&once->state) & DONE)) {
        r = function(argument);
        me = td__me; /* another one, if it has forked and this is the child */
        if (r == 0)
            /* Release: what the function wrote, to those who look at it without the latch. */
            td__store_release(&once->state, life_of(once) | DONE); /* perhaps of another life: it may have forked */
        td__step_point();
    }
    if (me) /* else the child had no memory for its record, and holds nothing */
        let_go(me, once, r == 0);
    return r;
}

int td_once_run_with(td_once *public, td_once_function *function, void *argument, td_time limit, td_cancel *cancel)
{
    if (!public || !function)
        return td__fail(TD_EINVAL, "td_once_run: the %s is NULL", public ? "function" : "once");
    /* Acquire: sees what the function wrote. */
    if (td__likely(td__load_acquire(&once_of(public)->state) & DONE))
        return 0;
    return run_or_wait(once_of(public), function, argument, limit, cancel);
}

bool td_once_done(const td_once *public)
{
    return public && td__load_acquire(&once_of(public)->state) & DONE;
}
