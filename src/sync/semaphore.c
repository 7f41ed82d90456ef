/* SPDX-License-Identifier: MIT */
/*
 * Semaphores. The plain and the bounded one are a word, changed by single atomic operations, so that a death at any
 * moment leaves it whole; the owned one has a latch, a list of waiters, and its units in its holders' records.
 *
 * The word: units << 1 | mark. The mark says that somebody may sleep.
 *   Who wants to sleep sets it, there being no unit, and sleeps on exactly that value, 1.
 *   A release adds its units and clears the mark, in one step; if the mark was set, it wakes as many as it gives units.
 *   One that has slept and now takes a unit sets the mark again, as others may sleep; if it was clear, and units are
 * left, it wakes as many as there are units. One that has slept gives up only when there is no unit and the mark is
 * set. Call those awake that have slept and have not yet taken a unit, set the mark or given up, and those wake-ups
 * that have been decided upon and not yet made. Then, while anybody sleeps: mark set     there are at least as many
 * awake as units, mark clear   there is at least one awake, and so, when nobody is awake any more, there is no unit,
 * and the next release sees the mark. (Each step above keeps it: tests/model/semaphore.pml.) A death does, too: of one
 * who is awake, the repair wakes one in its place (word_waited); of one who was about to wake others, it wakes all
 * (word_woken). Waking once too often does no harm.
 *
 * After its atomic step a release uses the word's address only: who has got the unit may free the semaphore.
 */
#include <tandem/sync.h>
#include "sync/wait.h"
#include "sync/use.h"

#define MARK 1u
#define UNIT 2u

#define LOOKS 8 /* at a word that others keep changing, before one sleeps */

static _Atomic uint32_t *word_of(const td_semaphore *semaphore)
{
    return (_Atomic uint32_t *)(uintptr_t)&semaphore->td_word;
}

static int is_null(const char *call)
{
    return td__fail(TD_EINVAL, "%s: the semaphore is NULL", call);
}

static int too_many(const char *call, uint32_t value)
{
    return td__fail(TD_ETOOBIG, "%s: %u units are too many (at most %d)", call, value, TD_SEMAPHORE_MAX);
}

int td_semaphore_init(td_semaphore *semaphore, uint32_t value)
{
    if (!semaphore)
        return is_null("td_semaphore_init");
    if (value > TD_SEMAPHORE_MAX)
        return too_many("td_semaphore_init", value);
    td__store_relaxed(word_of(semaphore), value * UNIT);
    return 0;
}

/* --- taking ------------------------------------------------------------------------------------------------ */

static inline bool take(_Atomic uint32_t *word)
{
    uint32_t now = td__load_relaxed(word);
    while (now >= UNIT)
        /* Acquire: sees what was written before the release of the unit. */
        if (td__likely(td__cas_acquire(word, &now, now - UNIT)))
            return true;
    return false;
}

/* By one that has slept, and sets the mark again. false: there is none. */
static bool take_after_sleep(td__party *me, _Atomic uint32_t *word)
{
    uint32_t now = td__load_relaxed(word);
    while (now >= UNIT) {
        uint32_t left = now & MARK ? 0 : now / UNIT - 1;
        if (left > 0)
            td__word_change(me, word);
        /* Acquire: as above. */
        if (td__cas_acquire(word, &now, (now - UNIT) | MARK)) {
            if (left > 0)
                td__word_wake(me, (int)left);
            return true;
        }
        if (left > 0)
            td__word_unchanged(me);
    }
    return false;
}

static int acquire_slowly(_Atomic uint32_t *word, td_time limit, const td_cancel *cancel, const char *call)
{
    int64_t deadline = td__deadline(limit);
    td__party *me = td__party_self();
    if (!me)
        return td_last_error();
    for (int i = 0; i < LOOKS; i++) {
        uint32_t now = td__load_relaxed(word);
        if (now < UNIT && !td__spin_by_luck(me, word, now))
            break;
        if (take(word))
            return 0;
    }
    bool slept = false;
    int r = 0;
    for (;;) {
        if (slept ? take_after_sleep(me, word) : take(word)) {
            r = 0;
            break;
        }
        uint32_t now = 0;
        if (!td__cas_acquire(word, &now, MARK) && now != MARK)
            continue;
        if (r < 0)
            break;
        r = td__word_wait(me, word, MARK, deadline, cancel);
        td__step_point(); /* a death here takes a wake-up along */
        slept = true;
    }
    td__word_done(me);
    return r < 0 ? td__fail_quick(r, call) : 0;
}

static inline int acquire_units(td_semaphore *semaphore, td_time limit, const td_cancel *cancel, const char *call)
{
    if (td__unlikely(!semaphore))
        return is_null(call);
    _Atomic uint32_t *word = word_of(semaphore);
    return td__likely(take(word)) ? 0 : acquire_slowly(word, limit, cancel, call);
}

int td_semaphore_acquire(td_semaphore *semaphore)
{
    return acquire_units(semaphore, TD_NO_LIMIT, NULL, "td_semaphore_acquire");
}

int td_semaphore_acquire_with(td_semaphore *semaphore, td_time limit, td_cancel *cancel)
{
    return acquire_units(semaphore, limit, cancel, "td_semaphore_acquire");
}

static inline int try_acquire_unit(td_semaphore *semaphore, const char *call)
{
    if (!semaphore)
        return is_null(call);
    return take(word_of(semaphore)) ? 0 : td__fail_quick(TD_EBUSY, call);
}

int td_semaphore_try_acquire(td_semaphore *semaphore)
{
    return try_acquire_unit(semaphore, "td_semaphore_try_acquire");
}

/* --- giving ------------------------------------------------------------------------------------------------ */

static void wake(td__party *me, _Atomic uint32_t *word, uint32_t n)
{
    if (me)
        td__word_wake(me, (int)n);
    else
        td__futex_wake(word, (int)n, td__is_shared(word));
}

/* false: there would be more than `most`. */
static inline bool give(_Atomic uint32_t *word, uint32_t n, uint32_t most)
{
    /* Among threads a death takes all along. Without memory for a record the unit is given all the same. */
    td__party *me = td__is_shared(word) ? td__party_self() : NULL;
    if (me)
        td__word_change(me, word);
    uint32_t was = td__load_relaxed(word);
    do {
        if (td__unlikely(was / UNIT > most || n > most - was / UNIT)) {
            if (me)
                td__word_unchanged(me);
            return false;
        }
        /* Release: what was written before, to the one that takes the unit. */
    } while (td__unlikely(!td__cas_release(word, &was, (was & ~MARK) + n * UNIT)));
    if (td__unlikely(was & MARK))
        wake(me, word, n);
    else if (me)
        td__word_unchanged(me);
    return true;
}

int td_semaphore_release_n(td_semaphore *semaphore, uint32_t n)
{
    if (!semaphore)
        return is_null("td_semaphore_release");
    if (n == 0)
        return td__fail(TD_EINVAL, "td_semaphore_release_n: 0 units");
    return give(word_of(semaphore), n, TD_SEMAPHORE_MAX) ? 0 : too_many("td_semaphore_release", n);
}

int td_semaphore_release(td_semaphore *semaphore)
{
    if (td__unlikely(!semaphore))
        return is_null("td_semaphore_release");
    return td__likely(give(word_of(semaphore), 1, TD_SEMAPHORE_MAX)) ? 0 : too_many("td_semaphore_release", 1);
}

uint32_t td_semaphore_value(const td_semaphore *semaphore)
{
    return semaphore ? td__load_relaxed(word_of(semaphore)) / UNIT : 0;
}

static void check_unused(const char *call, const td_semaphore *semaphore)
{
#ifdef TD_DEBUG
    if (semaphore && td__word_waiters(word_of(semaphore)))
        td__bug("%s: a thread waits for semaphore %p", call, (const void *)semaphore);
#else
    (void)call;
    (void)semaphore;
#endif
}

void td_semaphore_destroy(td_semaphore *semaphore)
{
    check_unused("td_semaphore_destroy", semaphore);
}

/* --- bounded ----------------------------------------------------------------------------------------------- */

int td_bounded_semaphore_init(td_bounded_semaphore *semaphore, uint32_t value)
{
    int r = td_semaphore_init((td_semaphore *)semaphore, value);
    if (r == 0)
        semaphore->td_bound = value;
    return r;
}

int td_bounded_semaphore_acquire(td_bounded_semaphore *semaphore)
{
    return acquire_units((td_semaphore *)semaphore, TD_NO_LIMIT, NULL, "td_bounded_semaphore_acquire");
}

int td_bounded_semaphore_acquire_with(td_bounded_semaphore *semaphore, td_time limit, td_cancel *cancel)
{
    return acquire_units((td_semaphore *)semaphore, limit, cancel, "td_bounded_semaphore_acquire");
}

int td_bounded_semaphore_try_acquire(td_bounded_semaphore *semaphore)
{
    return try_acquire_unit((td_semaphore *)semaphore, "td_bounded_semaphore_try_acquire");
}

int td_bounded_semaphore_release_n(td_bounded_semaphore *semaphore, uint32_t n)
{
    if (!semaphore)
        return is_null("td_bounded_semaphore_release");
    if (n == 0)
        return td__fail(TD_EINVAL, "td_bounded_semaphore_release_n: 0 units");
    if (!give(word_of(&semaphore->td_units), n, semaphore->td_bound))
        td__bug("td_bounded_semaphore_release: semaphore %p would have more than its %u units", (void *)semaphore,
                semaphore->td_bound);
    return 0;
}

int td_bounded_semaphore_release(td_bounded_semaphore *semaphore)
{
    return td_bounded_semaphore_release_n(semaphore, 1);
}

uint32_t td_bounded_semaphore_value(const td_bounded_semaphore *semaphore)
{
    return td_semaphore_value((const td_semaphore *)semaphore);
}

void td_bounded_semaphore_destroy(td_bounded_semaphore *semaphore)
{
    check_unused("td_bounded_semaphore_destroy", (td_semaphore *)semaphore);
}

/* --- owned ------------------------------------------------------------------------------------------------- */

/*
 * Each unit is either free or in the record of the party that holds it, or granted to a waiter that has not yet put it
 * there; it moves inside sections of the latch, so that a death leaves it in one of these places. While somebody waits
 * none is free.
 */
typedef struct units {
    td__latch latch;
    _Atomic uint32_t free; /* changed under the latch */
    td__waiters waiters;
} units;
_Static_assert(sizeof(units) == sizeof(td_owned_semaphore), "the public struct has the same layout");

#define GRANTED 1

static units *units_of(const td_owned_semaphore *semaphore)
{
    return (units *)(uintptr_t)semaphore;
}

int td_owned_semaphore_init(td_owned_semaphore *semaphore, uint32_t value)
{
    if (!semaphore)
        return is_null("td_owned_semaphore_init");
    if (value > TD_SEMAPHORE_MAX)
        return too_many("td_owned_semaphore_init", value);
    *semaphore = (td_owned_semaphore)TD_OWNED_SEMAPHORE_INIT(value);
    return 0;
}

static void hold(td__party *me, units *semaphore)
{
    me->held[me->held_count] = (uintptr_t)semaphore | TD__HELD_UNIT;
    td__set(me, &me->held_count, me->held_count + 1);
}

/* Inside the section. Whom to poke afterwards, or NULL. */
static td__party *pass_on(td__party *me, units *semaphore)
{
    td__party *next = td__wait_grant(me, &semaphore->waiters, GRANTED);
    if (!next)
        td__set_atomic(me, &semaphore->free, td__load_relaxed(&semaphore->free) + 1);
    return next;
}

static int acquire(td_owned_semaphore *owned, bool wait, td_time limit, const td_cancel *cancel)
{
    const char *call = wait ? "td_owned_semaphore_acquire" : "td_owned_semaphore_try_acquire";
    td__party *me = td__party_self();
    if (!me)
        return td_last_error();
    if (!owned)
        return is_null(call);
    if (!td__held_room(me))
        return td__fail(TD_ETOOBIG, "%s: this thread holds %d objects already, the limit", call, TD__HELD_MAX);
    units *semaphore = units_of(owned);
    int r = 0;
    td__section_enter(me, &semaphore->latch);
    uint32_t free = td__load_relaxed(&semaphore->free);
    if (free > 0) {
        td__set_atomic(me, &semaphore->free, free - 1);
        hold(me, semaphore);
    } else if (!wait) {
        r = TD_EBUSY;
    } else {
        r = td__wait_on_list(me, &semaphore->latch, &semaphore->waiters, TD__WAIT_SEMAPHORE, td__deadline(limit),
                             cancel);
        if (r == GRANTED) {
            hold(me, semaphore);
            td__wait_taken(me);
            r = 0;
        }
    }
    td__section_leave(me, &semaphore->latch);
    return r < 0 ? td__fail_quick(r, call) : 0;
}

int td_owned_semaphore_acquire(td_owned_semaphore *semaphore)
{
    return acquire(semaphore, true, TD_NO_LIMIT, NULL);
}

int td_owned_semaphore_acquire_with(td_owned_semaphore *semaphore, td_time limit, td_cancel *cancel)
{
    return acquire(semaphore, true, limit, cancel);
}

int td_owned_semaphore_try_acquire(td_owned_semaphore *semaphore)
{
    return acquire(semaphore, false, TD_NO_LIMIT, NULL);
}

void td_owned_semaphore_release(td_owned_semaphore *owned)
{
    td__party *me = td__me;
    if (!owned)
        td__bug("td_owned_semaphore_release: the semaphore is NULL");
    units *semaphore = units_of(owned);
    int at = me ? td__held_find(me, semaphore, TD__HELD_UNIT) : -1;
    if (at < 0)
        td__bug("td_owned_semaphore_release: this thread holds no unit of semaphore %p", (void *)semaphore);
    td__section_enter(me, &semaphore->latch);
    uint32_t last = me->held_count - 1;
    if ((uint32_t)at != last)
        td__set(me, &me->held[at], me->held[last]);
    td__set(me, &me->held_count, last);
    td__party *next = pass_on(me, semaphore);
    td__section_leave(me, &semaphore->latch);
    if (next)
        td__party_poke(next);
}

uint32_t td_owned_semaphore_value(const td_owned_semaphore *semaphore)
{
    return semaphore ? td__load_relaxed(&units_of(semaphore)->free) : 0;
}

void td_owned_semaphore_destroy(td_owned_semaphore *semaphore)
{
#ifdef TD_DEBUG
    if (semaphore)
        td__use_settle(semaphore, sizeof *semaphore);
    if (semaphore && td__wait_first(&units_of(semaphore)->waiters))
        td__bug("td_owned_semaphore_destroy: a thread waits for semaphore %p", (void *)semaphore);
#if TD__CHECKS_USE
    td__use use = td__use_of(semaphore, semaphore ? sizeof *semaphore : 0);
    if (use.what)
        td__bug("td_owned_semaphore_destroy: a thread of process %u %s semaphore %p", use.pid, use.what,
                (void *)semaphore);
#endif
#else
    (void)semaphore;
#endif
}

/* A unit of a dead thread, or of one that ends (then it is `me`, and there is nobody to come back later for it). */
static bool give_back(td__party *me, td__party *dead, void *object)
{
    units *semaphore = object;
    if (me != dead && !td__is_shared((char *)object + sizeof *semaphore - 1)) {
        dead->held_count--;
        return true;
    }
    if (me == dead)
        td__section_enter(me, &semaphore->latch);
    else if (!td__section_try(me, &semaphore->latch))
        return false;
    td__set(me, &dead->held_count, dead->held_count - 1);
    td__party *next = pass_on(me, semaphore);
    td__section_leave(me, &semaphore->latch);
    if (next)
        td__party_poke(next);
    return true;
}

/* A waiter has died: if it had been granted a unit, that goes to the next. */
static void waiter_died(td__party *me, td__party *dead, td__latch *latch, uint32_t granted)
{
    (void)dead;
    if (granted)
        pass_on(me, (units *)(void *)latch); /* who gets it is poked by the repair */
}

__attribute__((constructor)) static void register_repairs(void)
{
    td__held_register(TD__HELD_UNIT, give_back);
    td__wait_register(TD__WAIT_SEMAPHORE, waiter_died);
}
