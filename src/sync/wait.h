/* SPDX-License-Identifier: MIT */
/*
 * Waiting, in two ways.
 *
 * On a list: the waiters of an object in the order of their coming, linked through their records, under the object's
 * latch. Who ends a wait takes the waiter off the list and grants it something, inside the section; afterwards it pokes
 * it. The waiter looks at what it was granted inside a section of its own: only there is it sure to hold.
 *
 * On a word: a futex, for what needs no order. Who sleeps names the word in its record, and so does who wakes: after a
 * death the repair wakes once more, so that no wake-up is lost with the one it woke, or with the one who was about to
 * wake. Waking once too often does no harm.
 */
#ifndef TD_SYNC_WAIT_H
#define TD_SYNC_WAIT_H

#include "sync/section.h"

/* Indexes of parties; 0: none. Under the object's latch. Zero: nobody waits. */
typedef struct td__waiters {
    _Atomic uint16_t first, last;
} td__waiters;

/* What is to be done when a waiter dies: by kind, registered by the primitive. */
enum { TD__WAIT_CONDITION = 1, TD__WAIT_BARRIER = 2, TD__WAIT_RWLOCK = 3, TD__WAIT_SEMAPHORE = 4, TD__WAIT_KINDS = 8 };

/*
 * In the repairing process, inside the section of the object's latch: `dead` has been taken off the list if it was on
 * it (granted is 0 then), else it had been granted something and has not taken it. Parties to be poked afterwards: the
 * repair pokes all.
 */
typedef void td__wait_repair(td__party *me, td__party *dead, td__latch *latch, uint32_t granted);
void td__wait_register(uint32_t kind, td__wait_repair *repair);

/*
 * Inside the section of `latch`, the only one: joins the end of the list, leaves the section, sleeps, and comes back
 * inside it when it has been granted something, which it returns (> 0); or TD_ETIMEOUT or TD_ECANCELLED, off the list,
 * without a sentence. The caller then puts the grant to its use and calls td__wait_taken, both inside this section: a
 * death finds both or neither.
 */
int td__wait_on_list(td__party *me, td__latch *latch, td__waiters *list, uint32_t kind, int64_t deadline,
                     const td_cancel *cancel);
static inline void td__wait_taken(td__party *me)
{
    td__set(me, &me->list_latch, NULL);
}

/*
 * The same in two steps, for who has to let go of something in between. Inside the section: joins the end of the list.
 * Then, outside of it: sleeps, and comes back outside of it. What was granted counts as not yet taken until
 * td__wait_used: by a death it is given on.
 */
void td__wait_join(td__party *me, td__latch *latch, td__waiters *list, uint32_t kind);
int td__wait_joined(td__party *me, td__latch *latch, int64_t deadline, const td_cancel *cancel);
static inline void td__wait_used(td__party *me)
{
    td__program_order();
    me->list_latch = NULL;
    td__program_order();
}

/* Inside the section: takes the first off the list and grants it `granted` (> 0). NULL: nobody waits. Poke it after
 * leaving. */
td__party *td__wait_grant(td__party *me, td__waiters *list, uint32_t granted);
/* The same for one that is not the first. */
void td__wait_grant_this(td__party *me, td__waiters *list, td__party *waiter, uint32_t granted);
static inline td__party *td__wait_first(const td__waiters *list)
{
    return td__party_numbered(td__load_relaxed(&list->first));
}

/*
 * What both ways end in, for conditions of other kinds: sleeps until `is_over` says so, 0; or TD_ETIMEOUT,
 * TD_ECANCELLED. Who makes it true pokes the party; so does every repair. `shared`: others than threads of this process
 * may.
 */
int td__wait_until(td__party *me, bool (*is_over)(const void *object), const void *object, bool shared,
                   int64_t deadline, const td_cancel *cancel);

/*
 * How often to look, with a pause each, before sleeping: no longer than waking an idle processor takes, and less the
 * less it has helped this thread of late: where processors are short, or what is waited for is far off, it is given up
 * but for an attempt now and then. Who spins never gives the processor away: a sleeper gets it back sooner.
 */
unsigned td__spin_looks(td__party *me);
void td__spin_fared(td__party *me, unsigned looks, bool well);
/*
 * Spins so while the word has this value, which is such that only the end of the wait changes it, so that looking
 * disturbs nobody. false: it still has it, sleep.
 */
bool td__spin_by_luck(td__party *me, const _Atomic uint32_t *word, uint32_t value);

/*
 * Sleeps while *word == expected: 0 to look again (woken, changed, spurious), TD_ETIMEOUT, TD_ECANCELLED; no sentence.
 * It does not spin. td__word_done when the caller has looked at the word and will not wait for it again.
 */
int td__word_wait(td__party *me, const _Atomic uint32_t *word, uint32_t expected, int64_t deadline,
                  const td_cancel *cancel);
static inline void td__word_done(td__party *me)
{
    td__program_order();
    td__store_relaxed(&me->word_waited, NULL);
}
/* The same on several words, at most TD__FUTEX_MANY - 1, without naming them: who makes such words ready wakes all. */
int td__words_wait(td__party *me, const td__futex_item *items, size_t count, int64_t deadline, const td_cancel *cancel);

/* How many threads wait for this word: a look, for debug builds and tests. */
uint32_t td__word_waiters(const _Atomic uint32_t *word);
/* Names the word before the change that ends a wait; then the change; then td__word_wake. */
static inline void td__word_change(td__party *me, const _Atomic uint32_t *word)
{
    me->word_woken = word;
    td__program_order();
}
void td__word_wake(td__party *me, int n);
static inline void td__word_unchanged(td__party *me) /* instead of the wake, when nobody sleeps */
{
    td__program_order();
    me->word_woken = NULL;
}

#endif
