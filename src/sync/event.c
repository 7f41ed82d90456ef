/* SPDX-License-Identifier: MIT */
/*
 * Events: one word, changed by single atomic operations, so that a death at any moment leaves it whole.
 *
 *   bit 0    set
 *   bit 1    somebody may sleep; never together with bit 0
 *   others   how often it has been set: who waits ends when it is set or this has grown, so that a clear that follows
 * at once takes nothing from those who were waiting
 *
 * Who wants to sleep sets bit 1, and sleeps on exactly that value. Set clears bit 1 and wakes all. So, as it is all one
 * word: either set sees bit 1, or the sleeper's value is gone before the kernel compares it. Who gives up leaves bit 1
 * behind, which costs the next set one system call.
 *
 * A setter that dies between the change and the wake has named the word (td__word_change), and the repair wakes all. A
 * sleeper that dies takes nothing along, as all were woken.
 *
 * Setting a set event only looks, past a full barrier: a consumer that clears the event and then finds no work may
 * sleep, so either its clear came before the producer's look, which then sets it, or the producer's work came before
 * the consumer's search. The counter wraps after 2^30 sets: to be fooled, one who is awake would have to miss exactly
 * as many, and the event would have to be clear.
 */
#include "sync/event.h"
#include "sync/wait.h"
#include "sync/use.h"

#define SET        1u
#define SLEEPERS   2u
#define GENERATION 4u

static _Atomic uint32_t *word_of(const td_event *event)
{
    return (_Atomic uint32_t *)(uintptr_t)&event->td_word;
}

static bool happened(uint32_t word, uint32_t first)
{
    return word & SET || (word ^ first) >= GENERATION;
}

static int is_null(const char *call)
{
    return td__fail(TD_EINVAL, "%s: the event is NULL", call);
}

int td_event_set(td_event *event)
{
    if (!event)
        return is_null("td_event_set");
    _Atomic uint32_t *word = word_of(event);
    td__fence_seq_cst(); /* with td_event_clear, see above */
    uint32_t was = td__load_relaxed(word);
    if (was & SET)
        return 0;
    bool shared = td__is_shared(word);
    /* Among threads a death takes all along. Without memory for a record it is set all the same. */
    td__party *me = shared ? td__party_self() : NULL;
    if (me)
        td__word_change(me, word);
    uint32_t now;
    do {
        if (was & SET)
            now = was; /* by another, at the same time */
        else
            now = ((was & ~SLEEPERS) + GENERATION) | SET;
        /* Release: what was written before, to those who see the set bit or the counter's growth. */
    } while (!td__cas_acq_rel(word, &was, now));
    if (was & SLEEPERS && me)
        td__word_wake(me, INT_MAX);
    else if (was & SLEEPERS)
        td__futex_wake(word, INT_MAX, shared); /* it may be gone by now: only its address is used */
    else if (me)
        td__word_unchanged(me);
    return 0;
}

int td_event_clear(td_event *event)
{
    if (!event)
        return is_null("td_event_clear");
    td__fetch_and_seq_cst(word_of(event), ~SET);
    td__fence_seq_cst(); /* with td_event_set: what the caller looks at next is not older than this */
    return 0;
}

bool td_event_is_set(const td_event *event)
{
    /* Acquire: sees what was written before td_event_set. */
    return event && td__load_acquire(word_of(event)) & SET;
}

static int wait_slowly(td_event *event, uint32_t first, td_time limit, const td_cancel *cancel)
{
    _Atomic uint32_t *word = word_of(event);
    int64_t deadline = td__deadline(limit);
    td__party *me = td__party_self();
    if (!me)
        return td_last_error();
    uint32_t now = first;
    /* Others that wait change the word, too, by saying so. */
    while (!happened(now, first) && td__spin_by_luck(me, word, now))
        now = td__load_relaxed(word);
    int r = 0;
    for (;;) {
        /* Acquire: what was written before td_event_set. Changes since then are atomic, and so carry it on. */
        now = td__load_acquire(word);
        if (happened(now, first)) {
            r = 0;
            break;
        }
        if (r < 0)
            break;
        if (!(now & SLEEPERS) && !td__cas_acq_rel(word, &now, now | SLEEPERS))
            continue;
        r = td__word_wait(me, word, now | SLEEPERS, deadline, cancel);
    }
    td__word_done(me);
    return r < 0 ? td__fail_quick(r, "td_event_wait") : 0;
}

static inline int wait_for(td_event *event, td_time limit, const td_cancel *cancel)
{
    if (!event)
        return is_null("td_event_wait");
    uint32_t first = td__load_acquire(word_of(event));
    return first & SET ? 0 : wait_slowly(event, first, limit, cancel);
}

int td_event_wait(td_event *event)
{
    return wait_for(event, TD_NO_LIMIT, NULL);
}

int td_event_wait_with(td_event *event, td_time limit, td_cancel *cancel)
{
    return wait_for(event, limit, cancel);
}

bool td__event_prepare(td_event *event, td__futex_item *item)
{
    _Atomic uint32_t *word = word_of(event);
    uint32_t now = td__load_acquire(word);
    while (!(now & SET) && !td__cas_acq_rel(word, &now, now | SLEEPERS))
        ;
    *item = (td__futex_item){ word, now | SLEEPERS, td__is_shared(word) };
    return now & SET;
}

bool td__event_happened(const td_event *event, const td__futex_item *item)
{
    return happened(td__load_acquire(word_of(event)), item->expected);
}

void td_event_destroy(td_event *event)
{
#ifdef TD_DEBUG
    if (event && (td__word_waiters(word_of(event)) || td__is_watched(event, sizeof *event)))
        td__bug("td_event_destroy: a thread waits for event %p", (void *)event);
#else
    (void)event;
#endif
}
