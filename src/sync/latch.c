/* SPDX-License-Identifier: MIT */
/* The slow ways of the latch; see latch.h. */
#include "sync/latch.h"
#include "sync/section.h"
#include "sync/wait.h"

#include <errno.h>
#include <limits.h>

/* How long to sleep where the barriers that plain releases rely on are refused. */
#define SLICE_NS 1000000

/* Who has waited for so long, and has been woken so often in vain, has the latch handed over. */
#define PATIENCE_NS    1000000
#define PATIENCE_WAKES 2

/*
 * How long to spin: about as long as it takes to wake a processor that idles, so that the whole wait takes at most
 * twice the best. The pauses between two looks grow, for each look takes the cache line from the one who works with it;
 * at first they are short, for most sections are. Then the processor is given away, for the holder may need it.
 */
#define SPIN_NS     40000
#define PAUSES_MOST 32
#define YIELDS      2

/* Fixed early: all releases of this process are slow; all that are made by its threads, by all processes. */
static bool by_exchange, private_by_exchange, shared_by_exchange;

uint16_t td__latch_quick(uint16_t index)
{
    return by_exchange ? TD__NOBODY : index;
}

/* When the library is loaded, as a rule before there is a second thread, which would make it a thousand times dearer.
 */
__attribute__((constructor)) static void register_private(void)
{
    if (!td__barrier_register(false))
        private_by_exchange = by_exchange = true;
}

void td__latch_register_shared(bool first)
{
    td__region *region = td__the_region;
    bool registered = td__barrier_register(true);
    if (first)
        region->by_exchange = !registered;
    shared_by_exchange = region->by_exchange;
    by_exchange = private_by_exchange || shared_by_exchange || !registered;
    /* Records that there are already. Only the first process can have several, of threads that do not know it yet. */
    uint32_t top = td__load_relaxed(&region->party_top);
    for (uint32_t i = 1; i < top && by_exchange; i++)
        if (first || td__party_at(i) == td__me)
            td__party_at(i)->quick = td__latch_quick((uint16_t)i);
}

/* The parts of a word. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define OWNER(word)     ((uint16_t)(word))
#define CONTENDED(word) ((uint16_t)((word) >> 16))
#else
#define OWNER(word)     ((uint16_t)((word) >> 16))
#define CONTENDED(word) ((uint16_t)(word))
#endif

static bool is_free(uint16_t owner)
{
    return owner == 0 || owner == TD__DIED;
}

/* Tries; *result when it has it. */
static bool take(td__latch *latch, const td__party *me, int *result)
{
    /* Acquire, here if it has been handed over, else in the CAS: sees what the last holder wrote before its release. */
    uint16_t owner = td__load_acquire(&latch->owner);
    *result = owner == TD__DIED ? TD_OWNER_DIED : 0;
    return owner == me->index || (is_free(owner) && td__cas_acquire(&latch->owner, &owner, me->index));
}

/* Somebody may sleep, or shall. Leaves an index that is there. */
static void mark(td__latch *latch)
{
    uint16_t none = 0;
    if (td__load_relaxed(&latch->contended) == 0)
        td__cas_acquire(&latch->contended, &none, TD__SLEEPERS);
}

typedef struct waiting {
    td__latch *latch;
    td__party *me;
    int64_t deadline;
    const td_cancel *cancel;
    bool shared;
    bool claimed;   /* our index may stand in `contended` */
    unsigned wakes; /* after each, it was for us to see to those who sleep */
    int64_t since;
    int result;
} waiting;

static bool spin(waiting *w)
{
    int64_t until = 0;
    if (td__cpu_count() > 1)
        for (unsigned pauses = 1;;) {
            for (unsigned i = 0; i < pauses; i++)
                td__relax();
            if (take(w->latch, w->me, &w->result))
                return true;
            if (pauses < PAUSES_MOST) {
                pauses *= 2;
                continue;
            }
            int64_t now = td__now();
            if (until == 0)
                until = w->deadline && w->deadline < now + SPIN_NS ? w->deadline : now + SPIN_NS;
            if (now >= until)
                break;
        }
    for (int i = 0; i < YIELDS; i++) {
        td__yield();
        if (take(w->latch, w->me, &w->result))
            return true;
    }
    return false;
}

static bool is_starved(waiting *w)
{
    if (w->since == 0)
        w->since = td__now();
    return w->wakes >= PATIENCE_WAKES && td__now() - w->since >= PATIENCE_NS;
}

/* A barrier, if releases need one; false: they do, and it is refused. */
static bool pass_barrier(bool shared)
{
    /* In the other case the releaser's compare-and-swap and ours are of the same word, so that one sees the other. */
    return (shared ? shared_by_exchange : private_by_exchange) || td__barrier_others(shared);
}

/* True: w->result, which is an error if we do not have it. */
static bool sleep_once(waiting *w)
{
    td__latch *latch = w->latch;
    mark(latch);
    if (is_starved(w)) {
        uint16_t sleepers = TD__SLEEPERS;
        if (td__cas_acquire(&latch->contended, &sleepers, w->me->index))
            w->claimed = true;
    }
    bool passed = pass_barrier(w->shared);
    if (take(latch, w->me, &w->result))
        return true;
    uint32_t word = td__load_relaxed(&latch->word);
    if (is_free(OWNER(word)) || OWNER(word) == w->me->index || CONTENDED(word) == 0)
        return false;
    int64_t until = w->deadline;
    bool sliced = !passed && (!until || until > td__now() + SLICE_NS);
    if (sliced)
        until = td__now() + SLICE_NS;
    int r = td__word_wait(w->me, &latch->word, word, until, w->cancel);
    w->wakes++; /* perhaps */
    if (r == 0 || (r == TD_ETIMEOUT && sliced))
        return false;
    w->result = r;
    return true;
}

/* Nobody hands it over to us any more. */
static void withdraw(waiting *w)
{
    if (w->claimed)
        td__latch_unclaim(w->latch, w->me->index);
    w->claimed = false;
}

int td__latch_wait(td__latch *latch, td__party *me, int64_t deadline, const td_cancel *cancel)
{
    waiting w = { .latch = latch, .me = me, .deadline = deadline, .cancel = cancel, .shared = td__is_shared(latch) };
    while (!spin(&w) && !sleep_once(&w))
        ;
    withdraw(&w);
    if (w.result < 0) {
        int r = w.result;
        /* At the last moment? If not, we may have been woken, and give that on. */
        if (!take(latch, me, &w.result)) {
            td__futex_wake(&latch->word, 1, w.shared);
            w.result = r;
        }
    }
    if (w.wakes) {
        if (w.result >= 0)
            mark(latch); /* as others may sleep, whom the one that woke us has left to us */
        td__word_done(me);
    }
    return w.result;
}

void td__latch_wake(const td__latch *latch)
{
    td__futex_wake(&latch->word, 1, td__is_shared(latch));
}

void td__latch_release_slowly(td__latch *latch, const td__party *me)
{
    uint32_t word = td__load_relaxed(&latch->word), next;
    bool hand_over;
    do {
        uint16_t contended = CONTENDED(word);
        hand_over = contended != 0 && contended != TD__SLEEPERS;
        next = hand_over ? td__latch_word(contended, TD__SLEEPERS) : 0;
        word = td__latch_word(me->index, contended);
        /* Release: as in td__latch_release_quickly, and to the one it is handed over to, in take(). */
    } while (!td__cas_acq_rel(&latch->word, &word, next));
    if (CONTENDED(word) != 0)
        td__futex_wake(&latch->word, hand_over ? INT_MAX : 1, td__is_shared(latch));
}

void td__latch_unclaim(td__latch *latch, uint16_t index)
{
    uint16_t claim = index;
    /* Acquire: if it fails because the latch has been handed over, a load of the owner after it sees that. */
    td__cas_acq_rel(&latch->contended, &claim, TD__SLEEPERS);
}

void td__latch_abandon(td__latch *latch, uint16_t index)
{
    uint16_t owner = index;
    td__latch_unclaim(latch, index);
    /* Release: what the dead one wrote, which reached us through the kernel, to the one that is told of its death. */
    td__cas_acq_rel(&latch->owner, &owner, TD__DIED);
    td__futex_wake(&latch->word, 1, td__is_shared(latch));
}

void td__section_overflow(void)
{
    td__bug("tandem itself: a section is too deep, or changes too much");
}
