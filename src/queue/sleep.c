/* SPDX-License-Identifier: MIT */
/*
 * Waiting for items and for places: two event counts, and one for join. A word is a generation and two bits: SLEEPER,
 * somebody sleeps, or is about to; WATCHER, and somebody who will not take anything, as he waits for several things:
 * then all are woken.
 *
 * Who changes a queue stores the change, then loads the word; who sleeps sets the bit, then looks at the queue. One of
 * them must see the other. The changer's store and load may pass each other in its processor; so the sleeper makes all
 * processors pass a barrier after it has set the bit (as in sync/latch.h). Where the kernel refuses, both have a
 * fence; or, if it has refused one process later than the others, that one's sleepers look again every millisecond.
 *
 * A barrier for all interrupts another processor, which may take longer than all the rest of a sleep. So the first
 * sleeper asks for fences: while the word `fences` is not 0, changers pass one between their change and their look, and
 * further sleepers need no barrier. `fences` is loaded after the change. So after a barrier that follows its being set,
 * whoever had found 0 has made his change known, and all others find it set: only then is it RELIED on, and the one who
 * asked says so himself (his number is in the word; if he dies before, nobody relies on it). The changers take it away
 * again when they have found it set for a while. That is sequentially consistent, and so is the look of a sleeper at it
 * after he has set his bit: if he found it RELIED on, whoever finds it cleared finds his bit too.
 *
 * Invariant: while somebody sleeps, the bit is set, or somebody who took it away has woken one, who is awake. If others
 * are counted, that one sets the bit again after its success, and wakes the next if there is more to do. All of these
 * have an open step, so that after their death the repair wakes everybody.
 *
 * Who waits for the end of a dropped queue also has to learn of items: of those that puts publish which had passed the
 * gate before, and which he is to drop. He sets WATCHER there, and who finds it wakes him, too.
 */
#include "queue/queue.h"
#include "queue/fifo.h"
#include "sync/latch.h"

#include <limits.h>

#define SLICE_NS 1000000

/* `fences`: a count, RELIED, and the number of who asked. One is counted of so many fences that a thread passes, as all
 * count in one word: a prime, so that who changes several queues in turn counts in each. */
#define FENCES        8u
#define FENCES_EACH   17u
#define FENCES_COUNT  0xffu
#define FENCES_RELIED 0x100u
#define FENCES_SHIFT  16

void td__queue_fence(td_queue *queue)
{
    static _Thread_local unsigned passed;
    td__fence_seq_cst();
    if (++passed % FENCES_EACH != 0)
        return;
    uint32_t seen = td__load_relaxed(&queue->fences);
    if (seen != 0)
        td__cas_seq_cst(&queue->fences, &seen, (seen & FENCES_COUNT) > 1 ? seen - 1 : 0);
}

static void wake_everybody(td_queue *queue, _Atomic uint32_t *word)
{
    /* Also where the bit is not set: a waker may have died between taking it away and waking. */
    td__fetch_add_seq_cst(word, TD__QUEUE_AWAITED + 1);
    td__program_order();
    td__futex_wake(word, INT_MAX, queue->shared);
}

void td__queue_wake(td_queue *queue, _Atomic uint32_t *word, int n)
{
    uint32_t seen = td__load_relaxed(word);
    while (seen & TD__QUEUE_AWAITED) {
        /* The next generation, without the bits: who is about to sleep will not. */
        if (td__cas_seq_cst(word, &seen, (seen | TD__QUEUE_AWAITED) + 1)) {
            td__program_order();
            td__futex_wake(word, seen & TD__QUEUE_WATCHER ? INT_MAX : n, queue->shared);
            if (word == &queue->items && td__load_relaxed(&queue->gate) & TD__GATE_DROPPED)
                wake_everybody(queue, &queue->finished); /* who set the bit had seen the gate so */
            return;
        }
    }
}

void td__queue_wake_all(td_queue *queue)
{
    wake_everybody(queue, &queue->items);
    wake_everybody(queue, &queue->space);
    wake_everybody(queue, &queue->finished);
}

/* Is it sure that who changes the queue from now on passes a fence? Then for some time longer. */
static bool fences_relied_on(td_queue *queue, uint32_t *fences)
{
    *fences = td__load_seq_cst(&queue->fences);
    if (!(*fences & FENCES_RELIED))
        return false;
    td__fence_seq_cst(); /* with td__queue_fence(): before we look at the queue */
    if ((*fences & FENCES_COUNT) <= FENCES / 2)
        td__cas_seq_cst(&queue->fences, fences, (*fences & ~FENCES_COUNT) | FENCES);
    return true;
}

/* Makes all pass a barrier, and asks for fences before, for the next ones: in the name of `me`, NULL: not. Where there
 * are no barriers, everybody passes fences anyway. */
static bool pass_barrier(td_queue *queue, const td__party *me, uint32_t fences)
{
    uint32_t mine = me ? (uint32_t)me->index << FENCES_SHIFT | FENCES : 0;
    bool asked = me && !td__release_by_exchange && td__cas_seq_cst(&queue->fences, &fences, mine);
    td__program_order();
    if (!td__latch_pass_barrier(queue->shared))
        return false;
    td__program_order();
    fences = mine;
    while (asked && fences != 0 && !((fences ^ mine) & ~FENCES_COUNT) &&
           !td__cas_seq_cst(&queue->fences, &fences, fences | FENCES_RELIED))
        ; /* somebody has counted */
    return true;
}

/* Sets the bit so that everybody else sees it who has not changed the queue before we look at it. */
static uint32_t announce(td_queue *queue, const td__party *me, _Atomic uint32_t *word, uint32_t bit, bool *seen)
{
    uint32_t fences, value = td__fetch_or_seq_cst(word, bit) | bit;
    if (word == &queue->finished && td__load_relaxed(&queue->gate) & TD__GATE_DROPPED)
        td__fetch_or_seq_cst(&queue->items, TD__QUEUE_WATCHER);
    td__program_order();
    *seen = fences_relied_on(queue, &fences) || pass_barrier(queue, me, fences);
    return value;
}

/* TD_ETIMEOUT, TD_ECANCELLED, or 0 to look again. */
static int sleep_once(td__party *me, const _Atomic uint32_t *word, uint32_t value, bool seen, int64_t deadline,
                      const td_cancel *cancel)
{
    int64_t slice = seen ? 0 : td__now() + SLICE_NS;
    bool last = seen || (deadline && deadline <= slice);
    int r = td__word_wait(me, word, value, last ? deadline : slice, cancel);
    return r == TD_ETIMEOUT && !last ? 0 : r;
}

static bool more_to_do(td_queue *queue, const _Atomic uint32_t *word)
{
    if (word == &queue->finished)
        return true;
    if (queue->kind != TD_QUEUE_FIFO) {
        uint64_t count = td__load_relaxed(&queue->count);
        return word == &queue->items ? count > 0 : !queue->capacity || count < queue->capacity;
    }
    return word == &queue->items ? td__fifo_has_item(queue) : td__fifo_has_space(queue);
}

static _Atomic uint32_t *sleepers(td_queue *queue, const _Atomic uint32_t *word)
{
    return word == &queue->items ? &queue->for_items : word == &queue->space ? &queue->for_space : NULL;
}

/* Counted before it sets the bit, so that who finds nobody counted need not care for others: who comes later sets it.
 */
static void came(td_queue *queue, const _Atomic uint32_t *word)
{
    _Atomic uint32_t *count = sleepers(queue, word);
    if (count)
        td__fetch_add_acq_rel(count, 1);
    td__program_order();
}

/* May others sleep? */
static bool left(td_queue *queue, const _Atomic uint32_t *word)
{
    _Atomic uint32_t *count = sleepers(queue, word);
    td__program_order();
    return !count || td__fetch_sub_acq_rel(count, 1) > 1;
}

/* The quick way, with the step open again if it does not lead there. */
static bool try_quickly(td_queue *queue, td__party *me, td__op *op)
{
    bool shared = queue->shared, put = op->in != NULL, done;
    if (put)
        done = shared ? td__fifo_put_quick_shared(queue, me, op->in) : td__fifo_put_quick_private(queue, op->in);
    else
        done = shared ? td__fifo_get_quick_shared(queue, me, op->out) : td__fifo_get_quick_private(queue, op->out);
    if (done)
        op->done = 1;
    else if (shared && me->step[TD__STEP_QUEUE].kind == 0)
        td__step_begin(me, TD__STEP_QUEUE, put ? TD__QUEUE_PUT : TD__QUEUE_GET, queue, 0, 0);
    return done;
}

#define QUICK_LOOKS 8 /* of so many all but one */

/* As a rule what comes is straight ahead, and is got so in half the time. */
static int look(td_queue *queue, td__party *me, td__try *attempt, td__op *op, int again, unsigned number)
{
    if (queue->quick == TD__QUICK_NOT || op->count != 1 || number % QUICK_LOOKS == QUICK_LOOKS - 1)
        return attempt(queue, me, op);
    return try_quickly(queue, me, op) ? 0 : again;
}

int td__queue_wait(td_queue *queue, td__party *me, td__try *attempt, td__op *op, int again, _Atomic uint32_t *word,
                   int64_t deadline, const td_cancel *cancel)
{
    int r, given_up = 0;
    unsigned looks = td__spin_looks(me);
    for (unsigned i = 0; i < looks; i++) {
        td__relax();
        r = look(queue, me, attempt, op, again, i);
        if (r != again) {
            td__spin_fared(me, looks, true);
            return r;
        }
    }
    td__spin_fared(me, looks, false);
    bool others = false, slept = false;
    for (;;) {
        bool seen;
        came(queue, word);
        uint32_t value = announce(queue, me, word, TD__QUEUE_SLEEPER, &seen);
        r = attempt(queue, me, op);
        if (r != again || given_up) {
            others = left(queue, word);
            break;
        }
        given_up = sleep_once(me, word, value, seen, deadline, cancel);
        slept = true;
        others = left(queue, word);
        r = given_up ? again : attempt(queue, me, op);
        if (r != again)
            break;
    }
    /* Who woke us has taken the bit away, and has woken nobody else. */
    if (slept && others) {
        bool seen;
        announce(queue, me, word, TD__QUEUE_SLEEPER, &seen);
    }
    if (given_up || (others && more_to_do(queue, word)))
        td__queue_changed(queue, word, 1);
    td__word_done(me);
    return r == again && given_up ? given_up : r;
}

static bool has_item(td_queue *queue)
{
    return td__load_acquire(&queue->gate) & TD__GATE_SHUT || more_to_do(queue, &queue->items);
}

bool td__queue_prepare(td_queue *queue, td__futex_item *item, bool *unsure)
{
    bool seen = true;
    if (td__queue_left(queue)) /* it may bring items back */
        td__queue_settle(queue);
    if (has_item(queue))
        return true;
    item->word = &queue->items;
    item->shared = queue->shared;
    item->expected = announce(queue, NULL, &queue->items, TD__QUEUE_WATCHER, &seen);
    if (has_item(queue))
        return true;
    *unsure |= !seen;
    return false;
}
