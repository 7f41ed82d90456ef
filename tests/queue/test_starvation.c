/* SPDX-License-Identifier: MIT */
/*
 * Who waits gets its turn, however greedy the others are. The judge is what happened, never the clock. The types
 * promise three things:
 *
 *   in order       read-write lock, owned semaphore: nobody who comes while another waits gets it before him, not once
 *   let go first   lock, recursive lock, and a condition's waiter that wants its lock back: who has tried for long says
 *                  so, and who then releases lets him go first
 *   woken again    whatever one can lose after one has been woken, to somebody quicker: lock, condition, semaphore,
 *                  queue (a producer or a consumer). The loser is woken by the next release as by the first, for ever,
 *                  and has it as soon as nobody is quicker
 */
#include "harness.h"

#include <sched.h>
#include <stdatomic.h>
#include <tandem.h>
#include "queue/queue.h"
#include "sync/latch.h"
#include "sync/rwlock.h"

enum { END = 1, READY = 2 };

typedef struct arena {
    union {
        td_lock lock;
        td_rlock rlock;
        td__latch latch; /* as both locks begin */
        td_rwlock rwlock;
        td_semaphore semaphore;
        _Atomic uint32_t word; /* as it begins */
        td_owned_semaphore owned;
    } of;
    td_condition condition; /* of `lock` */
    td_queue *queue;
    uint32_t kind;
    _Atomic uint32_t waiter;               /* the index of the one that is looked after */
    _Atomic long turns;                    /* that it has had */
    _Atomic uint32_t gone;                 /* from who snatches */
    _Atomic long members, seen, overtaken; /* of and by a crowd */
} arena;

typedef struct arena_at {
    arena *at;
} arena_at;

/* --- the types ------------------------------------------------------------------------------------------------- */

typedef struct kind {
    const char *name;
    int (*take)(arena *);
    void (*give)(arena *);
    int (*try)(arena *);
    bool (*asleep)(arena *); /* does somebody sleep for it, as he has not got it? By whoever has it */
    int (*come)(arena *);    /* what the one that waits does instead of take */
} kind;

#define LOCK_CALLS(type, member)                       \
    static int take_##type(arena *a)                   \
    {                                                  \
        return td_##type##_acquire(&a->of.member);     \
    }                                                  \
    static void give_##type(arena *a)                  \
    {                                                  \
        td_##type##_release(&a->of.member);            \
    }                                                  \
    static int try_##type(arena *a)                    \
    {                                                  \
        return td_##type##_try_acquire(&a->of.member); \
    }
LOCK_CALLS(lock, lock)
LOCK_CALLS(rlock, rlock)
LOCK_CALLS(semaphore, semaphore)

static uint16_t contended(arena *a)
{
    return td__load_acquire(&a->of.latch.contended);
}

static bool asleep_for_lock(arena *a)
{
    return contended(a) & TD__SLEEPERS;
}

static bool asleep_for_unit(arena *a)
{
    return td__load_acquire(&a->of.word) & 1;
}

static bool asleep_for_item(arena *a)
{
    return td__load_acquire(&a->queue->items) & TD__QUEUE_SLEEPER;
}

static bool asleep_for_space(arena *a)
{
    return td__load_acquire(&a->queue->space) & TD__QUEUE_SLEEPER;
}

/* Has it twice: to wait, and back. */
static int come_notified(arena *a)
{
    int r = td_lock_acquire(&a->of.lock);
    td__fetch_add_acq_rel(&a->turns, 1);
    return r || event_is_set(END) ? r : td_condition_wait(&a->condition, &a->of.lock);
}

/* Who has been notified is woken when the lock is released, and then wants it. */
static bool asleep_notified(arena *a)
{
    if (td_condition_notify_all(&a->condition) > 0) {
        td_lock_release(&a->of.lock);
        REQUIRE_OK(td_lock_acquire(&a->of.lock));
    }
    return asleep_for_lock(a);
}

static int put(arena *a)
{
    int item = 1;
    return td_queue_put(a->queue, &item);
}

static int try_put(arena *a)
{
    int item = 1;
    return td_queue_try_put(a->queue, &item);
}

static void put_there(arena *a)
{
    REQUIRE_OK(put(a));
}

static int get(arena *a)
{
    int item;
    return td_queue_get(a->queue, &item);
}

static int try_get(arena *a)
{
    int item;
    return td_queue_try_get(a->queue, &item);
}

static void get_there(arena *a)
{
    REQUIRE_OK(get(a));
}

/* Of a queue with one place: a producer takes the place, a consumer the item. The other one gives it back. */
enum { LOCK, RLOCK, CONDITION, SEMAPHORE, PUTS, GETS, LIFO_PUTS, LIFO_GETS, KINDS };
static const kind kinds[KINDS] = {
    [LOCK] = { "lock", take_lock, give_lock, try_lock, asleep_for_lock, take_lock },
    [RLOCK] = { "rlock", take_rlock, give_rlock, try_rlock, asleep_for_lock, take_rlock },
    [CONDITION] = { "condition", take_lock, give_lock, try_lock, asleep_notified, come_notified },
    [SEMAPHORE] = { "semaphore", take_semaphore, give_semaphore, try_semaphore, asleep_for_unit, take_semaphore },
    [PUTS] = { "put", put, get_there, try_put, asleep_for_space, put },
    [GETS] = { "get", get, put_there, try_get, asleep_for_item, get },
    [LIFO_PUTS] = { "put, LIFO", put, get_there, try_put, asleep_for_space, put },
    [LIFO_GETS] = { "get, LIFO", get, put_there, try_get, asleep_for_item, get },
};

static arena *make(const mode *how, uint32_t number, bool shared)
{
    static arena private;
    arena *a = &private;
    shared |= how->kind == TD_PROCESS;
    memset(a, 0, sizeof *a);
    if (shared)
        REQUIRE((a = td_shared_calloc(1, sizeof *a)) != NULL);
    a->kind = number;
    page->event[END] = page->event[READY] = 0;
    return a;
}

static void make_kind(arena *a, bool shared)
{
    if (a->kind == SEMAPHORE)
        REQUIRE_OK(td_semaphore_init(&a->of.semaphore, 1));
    if (a->kind < PUTS)
        return;
    a->queue = td_queue_new(.item_size = sizeof(int), .capacity = 1, .shared = shared,
                            .kind = a->kind >= LIFO_PUTS ? TD_QUEUE_LIFO : TD_QUEUE_FIFO);
    REQUIRE(a->queue != NULL);
    if (a->kind == GETS || a->kind == LIFO_GETS)
        REQUIRE_OK(put(a));
}

static td_worker *start(const mode *how, td_target *target, arena *a)
{
    arena_at at = { a };
    td_worker *w = WORKER(NEW(.target = target, .args = TD_VAL(at)));
    REQUIRE_OK(td_start(w));
    return w;
}

static arena *of(td_call *call)
{
    return td_arg(call, arena_at).at;
}

static void end(td_worker *w)
{
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
}

#define UNTIL(condition) WAIT_UNTIL(condition, 20)

/* --- woken again ----------------------------------------------------------------------------------------------- */

enum { LOSERS = 3, LOSSES = 60 };

static int takes_turns(td_call *call)
{
    arena *a = of(call);
    const kind *k = &kinds[a->kind];
    do {
        if (!CHECK_INT(k->come(a), 0))
            return 1;
        td__fetch_add_acq_rel(&a->turns, 1);
        k->give(a);
        while (td__load_acquire(&a->gone) && !event_is_set(END)) /* one turn, and it comes back */
            sched_yield();
    } while (!event_is_set(END));
    return 0;
}

/* As soon as somebody sleeps for what we have: we let go of it, and take it back before he is awake. */
static void snatch(arena *a)
{
    const kind *k = &kinds[a->kind];
    long lost = 0;
    while (lost < LOSSES && !harness_failed()) {
        UNTIL(k->asleep(a));
        td__store_release(&a->gone, 1);
        k->give(a);
        if (k->try(a) == 0)
            lost++;
        else
            REQUIRE_OK(k->take(a));
        td__store_release(&a->gone, 0);
    }
    harness_note("%s: snatched %ld times, not %ld times", k->name, lost, td__load_relaxed(&a->turns));
}

static void loses(const mode *how, uint32_t number, bool shared)
{
    td_worker *w[LOSERS];
    arena *a = make(how, number, shared);
    make_kind(a, shared || how->kind == TD_PROCESS);
    REQUIRE_OK(kinds[number].take(a));
    for (int i = 0; i < LOSERS; i++)
        w[i] = start(how, takes_turns, a);
    snatch(a);
    REQUIRE(!harness_failed()); /* they would be waited for in vain */
    event_set(END);
    if (number == CONDITION)
        td_condition_notify_all(&a->condition);
    kinds[number].give(a);
    for (int i = 0; i < LOSERS; i++)
        end(w[i]);
    td_queue_free(a->queue);
}

/* Catches: one that was woken, was too late, and is not woken any more. */
TEST_MODES(a_loser_is_woken_again)
{
    for (uint32_t i = 0; i < KINDS; i++)
        for (int shared = how->kind == TD_PROCESS; shared < 2; shared++)
            loses(how, i, shared);
}

/* --- let go first ---------------------------------------------------------------------------------------------- */

/* The section is shorter than the time for which the other one looks all the time, after it has asked. */
enum { SECTION_PAUSES = 50, ASKED = 200 };

/* The first or the second of the processors. False: there are no two. */
static bool pin(int which)
{
    cpu_set_t set, one;
    sched_getaffinity(0, sizeof set, &set);
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &set) && which-- == 0)
            CPU_SET(cpu, &one);
    return CPU_COUNT(&set) > 1 && sched_setaffinity(0, sizeof one, &one) == 0;
}

static int takes_turns_there(td_call *call)
{
    pin(1);
    return takes_turns(call);
}

/* How often the other one had the next turn after it had asked for it, being awake. */
static long hog(arena *a)
{
    const kind *k = &kinds[a->kind];
    long asked = 0, first = 0;
    double limit = now() + 20 * SLOW;
    REQUIRE_OK(k->take(a));
    while (asked < ASKED && now() < limit) {
        for (int i = 0; i < SECTION_PAUSES; i++)
            td__relax();
        if (a->kind == CONDITION)
            td_condition_notify(&a->condition);
        bool asks = (contended(a) & (TD__ASIDE | TD__SLEEPERS)) == TD__ASIDE;
        long before = td__load_relaxed(&a->turns);
        k->give(a);
        REQUIRE_OK(k->take(a));
        asked += asks;
        first += asks && td__load_relaxed(&a->turns) != before;
    }
    CHECK(asked == ASKED);
    harness_note("%s: asked %ld times, let go first %ld times", k->name, asked, first);
    return first;
}

static void asks(const mode *how, uint32_t number, bool shared)
{
    arena *a = make(how, number, shared);
    td_worker *w = start(how, takes_turns_there, a);
    REQUIRE(pin(0));
    CHECK(hog(a) * 2 > ASKED); /* nearly always, as a rule; without what is tested here, one time in three at most */
    event_set(END);
    if (number == CONDITION)
        td_condition_notify(&a->condition);
    kinds[number].give(a);
    end(w);
}

/* Catches: a lock that is taken again by who has just released it, whoever else has tried for long. */
TEST_MODES(who_has_tried_for_long_is_let_go_first)
{
    cpu_set_t all;
    sched_getaffinity(0, sizeof all, &all);
    if (CPU_COUNT(&all) < 2)
        SKIP("there is one processor, and nobody else looks while one runs");
    if (WITH_TSAN)
        SKIP("the sanitizer makes looking take longer than what is looked for");
    for (uint32_t i = LOCK; i <= CONDITION; i++)
        for (int shared = how->kind == TD_PROCESS; shared < 2; shared++) {
            sched_setaffinity(0, sizeof all, &all);
            asks(how, i, shared);
        }
}

/* --- in order -------------------------------------------------------------------------------------------------- */

enum { CROWD = 4, SEEN = 400 };

/* Who the crowd is, and who waits. (A reader among readers is let in together with those behind it.) */
enum { READERS_A_WRITER, WRITERS_A_READER, BOTH_A_WRITER, UNITS, ORDERS };
static const char *const orders[ORDERS] = { "a writer among readers", "a reader among writers", "a writer among both",
                                            "an owned unit" };

static bool crowd_reads(const arena *a, long member)
{
    return a->kind == READERS_A_WRITER || (a->kind != WRITERS_A_READER && member % 2);
}

static int take_in_order(arena *a, bool reads)
{
    if (a->kind == UNITS)
        return td_owned_semaphore_acquire(&a->of.owned);
    return reads ? td_rwlock_acquire_read(&a->of.rwlock) : td_rwlock_acquire_write(&a->of.rwlock);
}

static void give_in_order(arena *a)
{
    if (a->kind == UNITS)
        td_owned_semaphore_release(&a->of.owned);
    else
        td_rwlock_release(&a->of.rwlock);
}

/* In the list of those who wait; or as the writer for whom no more readers are let in. */
static bool waits(arena *a)
{
    uint32_t index = td__load_acquire(&a->waiter);
    if (index == 0)
        return false;
    if (td__load_acquire(&td__party_at(index)->list) - (uintptr_t)a < sizeof *a)
        return true;
    uint32_t gate = a->kind == UNITS ? 0 : td__load_acquire(&td__rwlock_inside(&a->of.rwlock)->gate);
    return gate & TD__RW_DRAINS && TD__RW_WRITER(gate) == index;
}

static int waits_in_order(td_call *call)
{
    arena *a = of(call);
    REQUIRE(td__party_self() != NULL);
    bool reads = a->kind == WRITERS_A_READER;
    td__store_release(&a->waiter, td__me->index);
    while (!event_is_set(END)) {
        if (!CHECK_INT(take_in_order(a, reads), 0))
            return 1;
        td__fetch_add_acq_rel(&a->turns, 1);
        give_in_order(a);
    }
    return 0;
}

static int crowds(td_call *call)
{
    arena *a = of(call);
    bool reads = crowd_reads(a, td__fetch_add_acq_rel(&a->members, 1));
    event_add(READY);
    while (!event_is_set(END)) {
        /* The turn first: what he waits for is this one, or a later one, which does not count. */
        long turn = td__load_acquire(&a->turns);
        bool waited = waits(a);
        if (!CHECK_INT(take_in_order(a, reads), 0))
            return 1;
        if (waited) {
            td__fetch_add_acq_rel(&a->seen, 1);
            td__fetch_add_acq_rel(&a->overtaken, td__load_acquire(&a->turns) == turn);
        }
        give_in_order(a);
    }
    return 0;
}

static void overtakes(const mode *how, uint32_t order, bool shared)
{
    td_worker *w[CROWD + 1];
    arena *a = make(how, order, shared);
    if (order == UNITS)
        REQUIRE_OK(td_owned_semaphore_init(&a->of.owned, 1));
    for (int i = 0; i < CROWD; i++)
        w[i] = start(how, crowds, a);
    event_wait_count(READY, CROWD);
    w[CROWD] = start(how, waits_in_order, a);
    UNTIL(td__load_relaxed(&a->seen) >= SEEN);
    event_set(END);
    for (int i = 0; i <= CROWD; i++)
        end(w[i]);
    harness_note("%s: seen waiting %ld times, %ld turns", orders[order], td__load_relaxed(&a->seen),
                 td__load_relaxed(&a->turns));
    CHECK_INT(td__load_relaxed(&a->overtaken), 0);
}

/* Catches: one that comes later, sees that another waits, and has it before him. */
TEST_MODES(nobody_overtakes)
{
    for (uint32_t i = 0; i < ORDERS; i++)
        for (int shared = how->kind == TD_PROCESS; shared < 2; shared++)
            overtakes(how, i, shared);
}
