/* SPDX-License-Identifier: MIT */
/*
 * Memory is freed as soon as a death is known, while the repair after it is still to come: the repair must not meet
 * what the memory has become. A thread that has the latch of who repairs holds all repairs up.
 */
#include "ledger.h"
#include "queue/queue.h"

#include <signal.h>
#include <tandem.h>

enum { HELD_UP = 1, GO = 2 };

/* --- holding up ---------------------------------------------------------------------------------------------- */

typedef struct held_up {
    td__latch *latch;
    uint32_t round;
} held_up;

static int hold_up(td_call *call)
{
    held_up h = td_arg(call, held_up);
    td__party *me = td__party_self();
    td__section_enter(me, h.latch);
    event_add(HELD_UP);
    event_wait_count(GO, h.round);
    pause_ms(20); /* for a free that does not wait; one that does gains nothing from it, and loses nothing */
    td__section_leave(me, h.latch);
    return 0;
}

static td_worker *holder_of(td__latch *latch, uint32_t round)
{
    held_up h = { latch, round };
    td_worker *holder = WORKER(td_thread(.target = hold_up, .args = TD_VAL(h)));
    REQUIRE_OK(td_start(holder));
    event_wait_count(HELD_UP, round);
    return holder;
}

static td__latch *repairs(void)
{
    return (td__latch *)(void *)td__the_region->repair;
}

static void holder_free(td_worker *holder)
{
    REQUIRE_OK(td_join(holder));
    td_free(holder);
}

/* While repairs are held up, or in the section of who repairs. */
static bool works_on(uint32_t index, const void *object)
{
    td__party *party = td__party_at(index);
    const td__step *step = &party->step[TD__STEP_QUEUE];
    return index != 0 && step->kind != 0 && step->object == (uintptr_t)object;
}

static bool holds(uint32_t index, const void *object)
{
    td__party *party = td__party_at(index);
    return index != 0 && party->held_count > 0 && (party->held[0] & ~(uintptr_t)3) == (uintptr_t)object;
}

/* --- queues -------------------------------------------------------------------------------------------------- */

typedef struct victim {
    td_queue *queue;
    long step;
    bool gets;
} victim;

static int die_at_step(td_call *call)
{
    victim v = td_arg(call, victim);
    uint64_t item = 1;
    td__party_self();
    td__kill_at_step(v.step);
    if (v.gets)
        td_queue_try_get(v.queue, &item);
    else
        td_queue_try_put(v.queue, &item);
    td__kill_at_step(0);
    return 0;
}

/* A queue with an item, and a worker who has died in a call on it while a latch is held up. */
typedef struct scene {
    td_queue *queue;
    td_worker *holder, *dead;
} scene;

static td__latch *of_repairs(td_queue *q)
{
    (void)q;
    return repairs();
}

static td__latch *of_queue(td_queue *q)
{
    return &q->latch;
}

static scene scene_of(const mode *how, td__latch *(*of)(td_queue *), uint32_t round, long step, bool gets)
{
    uint64_t item = 7;
    scene s = { .queue = QUEUE(.item_size = sizeof item, .capacity = 8, .shared = true) };
    REQUIRE_OK(td_queue_put(s.queue, &item));
    s.holder = holder_of(of(s.queue), round);
    victim v = { s.queue, step, gets };
    s.dead = JOINED(NEW(.target = die_at_step, .args = TD_VAL(v)));
    td_outcome(s.dead);
    return s;
}

static void scene_end(scene s)
{
    td_free(s.dead);
    holder_free(s.holder);
}

/* Catches: a queue's free that returns while the repair is still to look at the queue. */
TEST_METHODS_LIMIT(a_queue_is_freed_at_once, 100)
{
    uint32_t named = 0, round = 0;
    for (int gets = 0; gets < 2; gets++)
        for (long step = 1; step <= 12 && !harness_failed(); step++) {
            scene s = scene_of(how, of_repairs, ++round, step, gets != 0);
            bool works = works_on(party_of(td_pid(s.dead)), s.queue);
            named += works;
            event_add(GO);
            td_queue_free(s.queue);
            CHECK(!works || party_of(td_pid(s.dead)) == 0);
            scene_end(s);
        }
    CHECK(named >= 6);
    CHECK_OK(td_shared_check());
}

/* --- blocks -------------------------------------------------------------------------------------------------- */

typedef struct thing {
    td_lock lock;
    char more[56];
} thing;

typedef struct thing_at {
    thing *at;
    bool returns;
} thing_at;

static int hold_and_end(td_call *call)
{
    thing_at t = td_arg(call, thing_at);
    REQUIRE_OK(td_lock_acquire(&t.at->lock));
    if (!t.returns)
        kill(getpid(), SIGKILL);
    return 0;
}

/* A block with a lock that a worker held when it ended. */
static td_worker *ended_holding(const mode *how, thing_at t)
{
    td_worker *w = JOINED(NEW(.target = hold_and_end, .args = TD_VAL(t)));
    td_outcome(w);
    return w;
}

/* Catches: a block's free that returns while the repair is still to free the lock in it, which by then is a number in
 * another block. */
TEST_METHODS(a_held_lock_is_freed_at_once)
{
    for (uint32_t round = 1; round <= 5; round++) {
        thing_at t = { .at = td_shared_calloc(1, sizeof(thing)) };
        td_worker *holder = holder_of(repairs(), round);
        td_worker *w = ended_holding(how, t);
        uint32_t index = party_of(td_pid(w));
        CHECK(holds(index, t.at));
        event_add(GO);
        td_shared_free(t.at);
        CHECK_INT(party_of(td_pid(w)), 0);
        uint16_t *numbers = td_shared_alloc(sizeof(thing));
        size_t count = sizeof(thing) / sizeof *numbers;
        for (size_t i = 0; i < count; i++)
            numbers[i] = (uint16_t)index;
        holder_free(holder);
        repaired(td_pid(w));
        for (size_t i = 0; i < count; i++)
            CHECK_INT(numbers[i], index);
        td_shared_free(numbers);
        td_free(w);
    }
}

static bool pending(void)
{
    return td__load_acquire(&td__the_region->deaths) & TD__DEATHS_PENDING;
}

static void clear_pending(void)
{
    td__fetch_and_acq_rel(&td__the_region->deaths, ~TD__DEATHS_PENDING);
}

/*
 * Catches: one who learns of a death by the marks, and frees without a look at them, since a repair that had looked
 * before they were made has cleared the bit; or since who made them was killed before he told. And a bit that nobody
 * clears any more.
 */
TEST_METHODS(a_death_known_by_its_marks_is_told)
{
    thing_at t = { .at = td_shared_calloc(1, sizeof(thing)) };
    td_worker *holder = holder_of(repairs(), 1);
    td_worker *w = ended_holding(how, t);
    pause_ms(20); /* it has been told, so that what follows is not done by whoever tells: else it shows nothing */
    clear_pending();
    td__parties_await_death(td_pid(w));
    CHECK(pending());
    clear_pending();
    td__parties_died(td_pid(w));
    CHECK(pending());
    CHECK(holds(party_of(td_pid(w)), t.at));
    event_add(GO);
    td_shared_free(t.at);
    CHECK_INT(party_of(td_pid(w)), 0);
    holder_free(holder);
    repaired(td_pid(w));
    td__fetch_or_acq_rel(&td__the_region->deaths, TD__DEATHS_PENDING);
    td_shared_free(td_shared_alloc(100));
    CHECK(!pending());
    td_free(w);
}

/* Catches: the same by realloc, which moves a block with a lock that a dead one held. */
TEST_METHODS(a_held_lock_is_moved_at_once)
{
    thing_at t = { .at = td_shared_calloc(1, sizeof(thing)) };
    td_worker *holder = holder_of(repairs(), 1);
    td_worker *w = ended_holding(how, t);
    CHECK(holds(party_of(td_pid(w)), t.at));
    event_add(GO);
    thing *moved = td_shared_realloc(t.at, 5000);
    CHECK_INT(party_of(td_pid(w)), 0);
    CHECK_INT(td_lock_acquire_for(&moved->lock, td_s(20)), TD_OWNER_DIED);
    td_lock_release(&moved->lock);
    holder_free(holder);
    td_shared_free(moved);
    td_free(w);
}

/* Catches: a worker that has said that it has returned, and whose record still names a lock that it held. */
TEST_METHODS(a_lock_held_to_the_end_is_freed_at_once)
{
    for (int i = 0; i < 20; i++) {
        thing_at t = { .at = td_shared_calloc(1, sizeof(thing)), .returns = true };
        td_worker *w = ended_holding(how, t);
        CHECK_INT(td_outcome(w), TD_RETURNED);
        td__section_enter(td__party_self(), repairs());
        bool held = holds(party_of(td_pid(w)), t.at);
        td__section_leave(td__party_self(), repairs());
        CHECK(!held);
        CHECK_INT(td_lock_acquire_for(&t.at->lock, td_s(20)), TD_OWNER_DIED);
        td_lock_release(&t.at->lock);
        td_shared_free(t.at);
        td_free(w);
    }
}

/* Catches: a free that waits for a repair that has nothing to do with it, and cannot be, as somebody is inside. */
TEST_METHODS(another_block_is_freed_at_once)
{
    uint32_t round = 0, late = 0;
    for (long step = 1; step <= 12 && !harness_failed(); step++) {
        void *other = td_shared_alloc(100);
        scene s = scene_of(how, of_queue, ++round, step, true);
        td_shared_free(other);
        late += party_of(td_pid(s.dead)) != 0;
        event_add(GO);
        td_queue_free(s.queue);
        scene_end(s);
    }
    CHECK(late > 0);
}
