/* SPDX-License-Identifier: MIT */
/* Waiting on lists and on words; see wait.h. And the cancellation object. */
#include "sync/wait.h"

#include <errno.h>
#include <limits.h>

/* Who sleeps where the kernel cannot wait for two words at once looks at the second one this often. */
#define SLICE_NS 2000000

/* --- cancellation ------------------------------------------------------------------------------------------ */

static _Atomic uint32_t *fired(const td_cancel *cancel)
{
    return (_Atomic uint32_t *)&cancel->td_fired;
}

bool td_cancel_fired(const td_cancel *cancel)
{
    /* Acquire: sees what was written before td_cancel_fire. */
    return cancel && td__load_acquire(fired(cancel));
}

void td_cancel_reset(td_cancel *cancel)
{
    if (cancel)
        td__store_release(fired(cancel), 0);
}

void td_cancel_fire(td_cancel *cancel)
{
    if (!cancel)
        return;
    /* Among processes: a record, if only to be repaired after. Whoever repairs pokes everybody, so that those whom a
     * death in between keeps us from poking look, too. Without memory for one it is fired all the same. */
    if (td__is_shared(cancel))
        td__party_self();
    /* Sequentially consistent, with cancel_begins(): either the waiter sees it fired, or we see whom to poke. */
    td__exchange_seq_cst(fired(cancel), 1);
    td__step_point();
    td__region *region = td__the_region;
    if (!region)
        return;
    /* Sequentially consistent, too: the waiter that does not see it fired has its place below the top we see. */
    uint32_t top = td__load_seq_cst(&region->party_top);
    for (uint32_t i = 1; i < top; i++)
        if (td__load_relaxed(td__party_entry(i)) && td__load_seq_cst(&td__party_at(i)->cancel) == (uintptr_t)cancel) {
            td__party_poke(td__party_at(i));
            td__step_point();
        }
}

/* --- sleeping on one's own word ---------------------------------------------------------------------------- */

void td__party_poke(td__party *party)
{
    /* Sequentially consistent, with park(): either the sleeper sees that `wake` has grown, or we see that it sleeps. */
    td__fetch_add_seq_cst(&party->wake, 1);
    td__step_point();
    uint32_t asleep = td__load_seq_cst(&party->asleep);
    if (asleep)
        td__futex_wake(&party->wake, 1, asleep == 2);
}

void td__party_poke_later(td__party *me)
{
    uint32_t count = me->later_count;
    me->later_count = 0;
    for (uint32_t i = 0; i < count; i++)
        td__party_poke(td__party_at(me->later[i]));
}

/* Who fires it may be in another process: it is in shared memory, or it is that of a worker's call. */
static bool is_wide(const td_cancel *cancel)
{
    return cancel && td__shared_size != 0;
}

static void cancel_begins(td__party *me, const td_cancel *cancel)
{
    if (cancel)
        td__store_seq_cst(&me->cancel, (uintptr_t)cancel);
}

static void cancel_ends(td__party *me, const td_cancel *cancel)
{
    if (cancel)
        td__store_relaxed(&me->cancel, 0);
}

/*
 * How long to spin before sleeping. Waking an idle processor takes 35 to 50 us on virtual machines, a hand-off between
 * two that spin 0.1 us: so who waits spins about as long as a wake-up takes, and so is never worse than twice the best.
 * Halved with each failure; then 1 in so many waits makes an attempt, as long as the first: who waits for a sleeper
 * sees him only then. If that succeeds, all is as at the beginning, so that the other has the time to find out, too.
 * To two that must share a processor each attempt is 30 us lost, half a microsecond a wait. Rarer ones would cost more:
 * it is mostly an attempt by which the system finds out that two it has put on one processor want two (0.1 us a round
 * trip and not 7; with 1 in 64 to 512, as attempts fail, fewer than half as many pairs did in 2000 round trips).
 */
#define SPIN_LOOKS      1024
#define SPIN_GIVE_UP    5
#define SPIN_ONE_IN     64
#define SPIN_AN_ATTEMPT 1024

unsigned td__spin_looks(td__party *me)
{
    if (td__cpu_count() == 1)
        return 0;
    if (me->spins_failed < SPIN_GIVE_UP)
        return SPIN_LOOKS >> me->spins_failed;
    return ++me->spins_skipped % SPIN_ONE_IN == 0 ? SPIN_AN_ATTEMPT : 0;
}

void td__spin_fared(td__party *me, unsigned looks, bool well)
{
    if (well)
        me->spins_failed = 0;
    else if (looks > 0 && me->spins_failed < SPIN_GIVE_UP)
        me->spins_failed++;
}

bool td__spin_by_luck(td__party *me, const _Atomic uint32_t *word, uint32_t value)
{
    unsigned looks = td__spin_looks(me), i = 0;
    while (i < looks && td__load_relaxed(word) == value) {
        td__relax();
        i++;
    }
    td__spin_fared(me, looks, i < looks);
    return td__load_relaxed(word) != value;
}

int td__wait_until(td__party *me, bool (*is_over)(const void *object), const void *object, bool shared,
                   int64_t deadline, const td_cancel *cancel)
{
    int r = 0;
    shared |= is_wide(cancel);
    cancel_begins(me, cancel);
    td__exchange_seq_cst(&me->asleep, shared ? 2 : 1);
    for (;;) {
        uint32_t wake = td__load_seq_cst(&me->wake);
        if (is_over(object))
            break;
        if (cancel && td__load_seq_cst(fired(cancel))) {
            r = TD_ECANCELLED;
            break;
        }
        if (td__futex_wait(&me->wake, wake, deadline, shared) < 0 && errno == ETIMEDOUT) {
            r = TD_ETIMEOUT;
            break;
        }
    }
    td__store_relaxed(&me->asleep, 0);
    cancel_ends(me, cancel);
    return r;
}

static bool is_granted(const void *party)
{
    return td__load_acquire(&((const td__party *)party)->granted) != 0;
}

/* Until something is granted: 0, TD_ETIMEOUT or TD_ECANCELLED. */
static int park(td__party *me, int64_t deadline, const td_cancel *cancel, bool shared)
{
    return td__spin_by_luck(me, &me->granted, 0) ? 0 : td__wait_until(me, is_granted, me, shared, deadline, cancel);
}

/* --- lists ------------------------------------------------------------------------------------------------- */

static void link_last(td__party *me, td__waiters *list)
{
    uint16_t last = td__load_relaxed(&list->last);
    td__party *before = td__party_numbered(last);
    td__set_atomic(me, &me->next, 0);
    td__set_atomic(me, &me->previous, last);
    td__set_atomic(me, &me->granted, 0);
    td__set_atomic(me, &me->list, (uintptr_t)list);
    if (before)
        td__set_atomic(me, &before->next, me->index);
    else
        td__set_atomic(me, &list->first, me->index);
    td__set_atomic(me, &list->last, me->index);
}

static void unlink_from(td__party *me, td__waiters *list, td__party *waiter)
{
    uint16_t next = td__load_relaxed(&waiter->next), previous = td__load_relaxed(&waiter->previous);
    td__party *after = td__party_numbered(next), *before = td__party_numbered(previous);
    if (before)
        td__set_atomic(me, &before->next, next);
    else
        td__set_atomic(me, &list->first, next);
    if (after)
        td__set_atomic(me, &after->previous, previous);
    else
        td__set_atomic(me, &list->last, previous);
    td__set_atomic(me, &waiter->list, 0);
}

void td__wait_grant_this(td__party *me, td__waiters *list, td__party *waiter, uint32_t granted)
{
    unlink_from(me, list, waiter);
    td__set_atomic(me, &waiter->granted, granted);
}

td__party *td__wait_grant(td__party *me, td__waiters *list, uint32_t granted)
{
    td__party *first = td__wait_first(list);
    if (first)
        td__wait_grant_this(me, list, first, granted);
    return first;
}

void td__wait_join(td__party *me, td__latch *latch, td__waiters *list, uint32_t kind)
{
    td__store_relaxed(&me->granted,
                      0); /* and so it is if we die before we are linked: of an earlier wait it was taken */
    me->list_kind = kind;
    td__program_order();
    me->list_latch = latch; /* named before it is linked */
    link_last(me, list);
}

/* Inside the section, after sleeping: what it has come to; 0: nothing yet. */
static int outcome(td__party *me, int parked)
{
    /* Only here, under the latch, is it sure that what was granted will not be taken back. */
    uint32_t granted = td__load_relaxed(&me->granted);
    if (granted)
        return (int)granted;
    if (parked < 0) {
        unlink_from(me, (td__waiters *)td__load_relaxed(&me->list), me);
        td__wait_taken(me);
    }
    return parked;
}

int td__wait_on_list(td__party *me, td__latch *latch, td__waiters *list, uint32_t kind, int64_t deadline,
                     const td_cancel *cancel)
{
    bool shared = td__is_shared(latch);
    td__wait_join(me, latch, list, kind);
    for (;;) {
        td__section_leave(me, latch);
        int r = park(me, deadline, cancel, shared);
        td__section_enter(me, latch);
        r = outcome(me, r);
        if (r)
            return r;
    }
}

int td__wait_joined(td__party *me, td__latch *latch, int64_t deadline, const td_cancel *cancel)
{
    bool shared = td__is_shared(latch);
    for (;;) {
        int r = park(me, deadline, cancel, shared);
        /* Acquire: what the granter wrote. Of a private object nothing is ever taken back, as its sections end or the
         * whole process does; and who has granted us something does not touch our links any more. */
        uint32_t granted = shared ? 0 : td__load_acquire(&me->granted);
        if (granted)
            return (int)granted;
        td__section_enter(me, latch);
        r = outcome(me, r);
        td__section_leave(me, latch);
        if (r)
            return r;
    }
}

/* --- words ------------------------------------------------------------------------------------------------- */

/* Where the kernel cannot wait for several words: on the first, for a short time. */
static int wait_a_slice(const td__futex_item *item, int64_t deadline)
{
    int64_t slice = td__now() + SLICE_NS;
    bool last = deadline && deadline <= slice;
    return td__futex_wait(item->word, item->expected, last ? deadline : slice, item->shared) < 0 &&
                   errno == ETIMEDOUT && last
               ? TD_ETIMEOUT
               : 0;
}

int td__words_wait(td__party *me, const td__futex_item *items, size_t count, int64_t deadline, const td_cancel *cancel)
{
    td__futex_item all[TD__FUTEX_MANY];
    int r = 0;
    bool wide = is_wide(cancel);
    cancel_begins(me, cancel);
    td__exchange_seq_cst(&me->asleep, wide ? 2 : 1);
    uint32_t wake = td__load_seq_cst(&me->wake);
    if (cancel && td__load_seq_cst(fired(cancel))) {
        r = TD_ECANCELLED;
    } else {
        memcpy(all, items, count * sizeof *items);
        all[count] = (td__futex_item){ &me->wake, wake, wide };
        if (td__futex_wait_many(all, count + 1, deadline) < 0) {
            if (errno == ETIMEDOUT)
                r = TD_ETIMEOUT;
            else if (errno == ENOSYS)
                r = wait_a_slice(&all[0], deadline);
        }
    }
    td__store_relaxed(&me->asleep, 0);
    cancel_ends(me, cancel);
    return r;
}

int td__word_wait(td__party *me, const _Atomic uint32_t *word, uint32_t expected, int64_t deadline,
                  const td_cancel *cancel)
{
    bool shared = td__is_shared(word);
    td__store_relaxed(&me->word_waited, word); /* named before it sleeps, and until it has looked */
    td__program_order();
    if (cancel)
        return td__words_wait(me, &(td__futex_item){ word, expected, shared }, 1, deadline, cancel);
    return td__futex_wait(word, expected, deadline, shared) < 0 && errno == ETIMEDOUT ? TD_ETIMEOUT : 0;
}

void td__word_wake(td__party *me, int n)
{
    const _Atomic uint32_t *word = me->word_woken;
    td__program_order();
    td__futex_wake(word, n, td__is_shared(word));
    td__program_order();
    me->word_woken = NULL;
}

uint32_t td__word_waiters(const _Atomic uint32_t *word)
{
    td__region *region = td__the_region;
    uint32_t top = region ? td__load_acquire(&region->party_top) : 0;
    uint32_t pid = (uint32_t)td__getpid(), count = 0;
    for (uint32_t i = 1; i < top; i++) {
        uint32_t of = (uint32_t)td__load_relaxed(td__party_entry(i));
        /* A private word's address means something else in another process. More than a pid: known to be dead. */
        if (of && of <= INT32_MAX && (of == pid || td__is_shared(word)) &&
            td__load_relaxed(&td__party_at(i)->word_waited) == word)
            count++;
    }
    return count;
}
