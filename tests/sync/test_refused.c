/* SPDX-License-Identifier: MIT */
/*
 * Condition, barrier, owned semaphore and once where the kernel refuses barriers, from the beginning or later on: all
 * of them sleep on latches, whose quick release relies on these.
 */
#include "monitors.h"
#include "refuse.h"
#include "sync/latch.h"

enum { PARTIES = 4, ROUNDS = 400 };

typedef struct place {
    td_barrier barrier;
    td_owned_semaphore units; /* two, for four */
    td_lock lock;
    td_condition turned;
    int turn; /* under the lock */
    td_once once[ROUNDS];
    int runs[ROUNDS], together[ROUNDS];
    _Atomic int inside;
} place;

static int runs_slowly(void *argument)
{
    static _Thread_local int times;
    int *runs = argument;
    *runs += 1;
    /* The others come, and sleep; at times for longer than a slice of those who are refused. */
    if (++times % 8 == 0)
        pause_ms(3);
    else
        sched_yield();
    return 0;
}

static int adds(void *argument)
{
    int *count = argument;
    *count += 1;
    return 0;
}

static void take_a_unit(place *p)
{
    REQUIRE_OK(td_owned_semaphore_acquire_for(&p->units, LONG));
    CHECK(++p->inside <= 2);
    sched_yield();
    p->inside--;
    td_owned_semaphore_release(&p->units);
}

static void take_a_turn(place *p, int number)
{
    REQUIRE_INT(td_lock_acquire_for(&p->lock, LONG), 0);
    while (p->turn % PARTIES != number)
        REQUIRE_INT(td_condition_wait_for(&p->turned, &p->lock, LONG), 0);
    p->turn++;
    td_condition_notify_all(&p->turned);
    td_lock_release(&p->lock);
}

static int visits(td_call *call)
{
    place *p = OBJECT(call);
    for (int i = 0; i < ROUNDS / SLOW; i++) {
        REQUIRE(td_barrier_wait_action_for(&p->barrier, adds, &p->together[i], LONG) >= 0);
        CHECK_INT(p->together[i], 1);
        REQUIRE_OK(td_once_run_for(&p->once[i], runs_slowly, &p->runs[i], LONG));
        CHECK_INT(p->runs[i], 1);
        take_a_unit(p);
        take_a_turn(p, NUMBER(call));
    }
    return 0;
}

static int visits_in_a_sandbox(td_call *call)
{
    if (NUMBER(call) % 2)
        refuse_barriers(NULL);
    return visits(call);
}

static void meet(const mode *how, td_target *target)
{
    place *p = object_new(how, sizeof *p);
    td_worker *w[PARTIES];
    REQUIRE_OK(td_barrier_init(&p->barrier, PARTIES));
    REQUIRE_OK(td_owned_semaphore_init(&p->units, 2));
    for (int i = 0; i < PARTIES; i++)
        w[i] = begin(how, target, p, i);
    for (int i = 0; i < PARTIES; i++)
        end_well(w[i]);
    CHECK_INT(p->turn, PARTIES * (ROUNDS / SLOW));
    CHECK_INT(td_owned_semaphore_value(&p->units), 2);
    object_free(how, p);
}

HELPER(meets_without_barriers)
{
    static const mode *const modes[] = { &mode_private, &mode_thread, &mode_forkserver, &mode_fork };
    for (size_t i = 0; i < TD__COUNT(modes); i++)
        meet(modes[i], visits);
    CHECK(td__the_region->by_exchange);
    CHECK_INT(td__party_self()->quick, TD__NOBODY);
    return harness_failed();
}

/* Catches: a kernel, or a sandbox, that has no membarrier from the beginning. */
TEST(refused_from_the_beginning)
{
    helper_options options = { .before = refuse_barriers };
    CHECK_INT(helper_run(&options, "meets_without_barriers", NULL), 0);
}

/* Catches: some that are refused it when they, and others, release by plain stores already. */
TEST_PLACES(refused_later)
{
    meet(how, visits_in_a_sandbox);
}
