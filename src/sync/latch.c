/* SPDX-License-Identifier: MIT */
/* The slow ways of the latch; see latch.h. */
#include "sync/latch.h"
#include "sync/section.h"
#include "sync/wait.h"

#include <errno.h>

/* How long to sleep where the barriers that plain releases rely on are refused. */
#define SLICE_NS 1000000

/*
 * How long to spin: about as long as it takes to wake a processor that idles, so that the whole wait takes at most
 * twice the best. The pauses between two looks grow, for each look takes the cache line from the one who works with it;
 * at first they are short, for most sections are. Half-way through, the others are asked to stand aside. At the end the
 * processor is given away, for the holder may need it.
 */
#define SPIN_NS      40000
#define PATIENCE_NS  15000
#define PAUSES_FIRST 2
#define PAUSES_MOST  64
#define PRESS_LOOKS  100
#define PAUSES_ASIDE 16
#define YIELDS       2

/* Fixed early: all releases of this process are slow; all that are made by its threads, by all processes. */
bool td__release_by_exchange;
static bool private_by_exchange, shared_by_exchange;

uint16_t td__latch_quick(uint16_t index)
{
    return td__release_by_exchange ? TD__NOBODY : index;
}

/* When the library is loaded, as a rule before there is a second thread, which would make it a thousand times dearer.
 */
__attribute__((constructor)) static void register_private(void)
{
    if (!td__barrier_register(false))
        private_by_exchange = td__release_by_exchange = true;
}

void td__latch_register_shared(bool first)
{
    td__region *region = td__the_region;
    bool registered = td__barrier_register(true);
    if (first)
        region->by_exchange = !registered;
    shared_by_exchange = region->by_exchange;
    td__release_by_exchange = private_by_exchange || shared_by_exchange || !registered;
    /* Records that there are already. Only the first process can have several, of threads that do not know it yet. */
    uint32_t top = td__load_relaxed(&region->party_top);
    for (uint32_t i = 1; i < top && td__release_by_exchange; i++)
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
    uint16_t owner = td__load_relaxed(&latch->owner);
    *result = owner == TD__DIED ? TD_OWNER_DIED : 0;
    /* Acquire: as in td__latch_try. */
    if (!is_free(owner) || !td__cas_acquire(&latch->owner, &owner, me->index))
        return false;
    td__step_point();
    return true;
}

static void mark(td__latch *latch, uint16_t bit)
{
    if (!(td__load_relaxed(&latch->contended) & bit))
        td__fetch_or_acq_rel(&latch->contended, bit);
    td__step_point();
}

static void pauses(unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        td__relax();
}

typedef struct waiting {
    td__latch *latch;
    td__party *me;
    int64_t deadline;
    const td_cancel *cancel;
    bool shared;
    bool slept; /* and has perhaps been woken: it is for us to see to the others who sleep */
    int result;
} waiting;

/* Asks the others to stand aside, and looks all the time. */
static bool press(waiting *w)
{
    bool taken = false;
    mark(w->latch, TD__ASIDE);
    for (int i = 0; i < PRESS_LOOKS && !taken; i++) {
        td__relax();
        taken = take(w->latch, w->me, &w->result);
    }
    if (taken) /* it has served */
        td__fetch_and_acq_rel(&w->latch->contended, (uint16_t)~TD__ASIDE);
    return taken;
}

static bool spin(waiting *w)
{
    int64_t begun = 0, now = 0;
    bool pressed = false;
    for (unsigned length = PAUSES_FIRST; td__cpu_count() > 1 && now - begun < SPIN_NS;) {
        pauses(length);
        if (take(w->latch, w->me, &w->result))
            return true;
        if (length < PAUSES_MOST) {
            length *= 2;
            continue;
        }
        now = td__now();
        if (begun == 0)
            begun = now;
        if (w->deadline && now >= w->deadline)
            break;
        if (!pressed && now - begun >= PATIENCE_NS) {
            pressed = true;
            if (press(w))
                return true;
        }
    }
    for (int i = 0; i < YIELDS; i++) {
        td__yield();
        if (take(w->latch, w->me, &w->result))
            return true;
    }
    return false;
}

bool td__latch_pass_barrier(bool shared)
{
    if (!(shared ? shared_by_exchange : private_by_exchange))
        return td__barrier_others(shared);
    /* Of a latch, the releaser's compare-and-swap and our fetch_or are of the same word: one sees the other. Who
     * changes other things than the word that is slept on has a fence between the change and the look at that word. */
    td__fence_seq_cst();
    return true;
}

/* True: w->result, which is an error if we do not have it. */
static bool sleep_once(waiting *w)
{
    td__latch *latch = w->latch;
    mark(latch, TD__SLEEPERS);
    bool passed = td__latch_pass_barrier(w->shared);
    if (take(latch, w->me, &w->result))
        return true;
    uint32_t word = td__load_relaxed(&latch->word);
    if (is_free(OWNER(word)) || !(CONTENDED(word) & TD__SLEEPERS))
        return false;
    int64_t until = w->deadline;
    bool sliced = !passed && (!until || until > td__now() + SLICE_NS);
    if (sliced)
        until = td__now() + SLICE_NS;
    int r = td__word_wait(w->me, &latch->word, word, until, w->cancel);
    td__step_point();
    w->slept = true;
    w->result = r;
    return r < 0 && !(r == TD_ETIMEOUT && sliced);
}

int td__latch_wait(td__latch *latch, td__party *me, int64_t deadline, const td_cancel *cancel)
{
    waiting w = { .latch = latch, .me = me, .deadline = deadline, .cancel = cancel, .shared = td__is_shared(latch) };
    while (!spin(&w) && !sleep_once(&w))
        ;
    int r = w.result;
    if (r < 0 && !take(latch, me, &w.result)) { /* at the last moment? */
        td__latch_wake(latch);                  /* we may have been woken, and give that on */
        w.result = r;
    }
    td__step_point();
    if (w.slept) {
        if (w.result >= 0)
            mark(latch, TD__SLEEPERS); /* others may sleep, whom the one that woke us has left to us */
        td__word_done(me);
    }
    return w.result;
}

void td__latch_wake(const td__latch *latch)
{
    td__futex_wake(&latch->word, 1, td__is_shared(latch));
    td__step_point();
}

void td__latch_after(const td__latch *latch, uint16_t contended)
{
    if (contended & TD__SLEEPERS)
        td__latch_wake(latch);
    if (contended & TD__ASIDE)
        pauses(PAUSES_ASIDE);
}

void td__latch_release_slowly(td__latch *latch, td__party *me)
{
    uint32_t word = td__load_relaxed(&latch->word);
    do
        word = td__latch_word(me->index, CONTENDED(word));
    /* Release: as in td__latch_release_quickly. */
    while (!td__cas_acq_rel(&latch->word, &word, 0));
    /* What has been changed under it, before the look at who sleeps for that: the compare-and-swap orders no later
     * load. See td__latch_pass_barrier(). */
    if (td__release_by_exchange)
        td__fence_seq_cst();
    td__step_point();
    td__latch_after(latch, CONTENDED(word));
    if (CONTENDED(word) & TD__LATER)
        td__party_poke_later(me);
}

void td__latch_abandon(td__latch *latch, uint16_t index)
{
    uint16_t owner = index;
    /* Release: what the dead one wrote, which reached us through the kernel, to the one that is told of its death. */
    td__cas_acq_rel(&latch->owner, &owner, TD__DIED);
    td__futex_wake(&latch->word, 1, td__is_shared(latch));
}

void td__section_overflow(void)
{
    td__bug("tandem itself: a section is too deep, or changes too much");
}
