/* SPDX-License-Identifier: MIT */
/*
 * Repairs that are killed: each primitive, its user killed at each step, and who repairs after it at each of his. The
 * next one finds the rest to do, and does nothing twice that counts.
 */
#include "repairs.h"

#include <tandem/shared.h>
#include <tandem/sync.h>

#define LONG  td_s(20 * SLOW)
#define SHORT td_us(100)

typedef struct thing {
    td_lock lock, second;
    td_rwlock rwlock;
    td_owned_semaphore units;
    td_semaphore plain;
    td_event event;
    td_once once;
    td_condition condition;
    td_barrier barrier;
    _Atomic int begun, taken, told, notified, ended, broken, runs;
} thing;

static void climb_all(const ruin *ruins, size_t count)
{
    thing *t = td_shared_alloc(sizeof *t);
    REQUIRE(t != NULL);
    for (size_t i = 0; i < count && !harness_failed(); i++)
        ruin_climb(&ruins[i], t, sizeof *t);
    td_shared_free(t);
}

/* --- lock -------------------------------------------------------------------------------------------------- */

static void take_lock(void *object)
{
    thing *t = object;
    CHECK_INT(td_lock_acquire(&t->lock), 0);
}

static void take_and_release_lock(void *object)
{
    thing *t = object;
    t->told += CHECK(td_lock_acquire_for(&t->lock, LONG) >= 0);
    td_lock_release(&t->lock);
}

static void act_release_lock(void *object)
{
    thing *t = object;
    td_lock_release(&t->lock);
}

static void act_take_two(void *object)
{
    thing *t = object;
    td_lock_acquire(&t->lock);
    td_lock_acquire(&t->second);
    td_lock_release(&t->lock);
    td_lock_acquire(&t->lock);
}

static void act_wait_for_lock(void *object)
{
    thing *t = object;
    td_lock_acquire_for(&t->lock, SHORT);
}

static void check_lock(void *object, bool through)
{
    thing *t = object;
    (void)through;
    if (td_lock_owned(&t->lock))
        td_lock_release(&t->lock);
    td_lock *locks[] = { &t->lock, &t->second };
    for (int i = 0; i < 2; i++) {
        CHECK(td_lock_acquire_for(locks[i], LONG) >= 0);
        td_lock_release(locks[i]);
    }
}

/* The second one was held at the end. */
static void check_two_locks(void *object, bool through)
{
    thing *t = object;
    int first = td_lock_acquire_for(&t->lock, LONG), second = td_lock_acquire_for(&t->second, LONG);
    CHECK(first >= 0 && second >= 0);
    if (through)
        CHECK(first == TD_OWNER_DIED && second == TD_OWNER_DIED);
    td_lock_release(&t->lock);
    td_lock_release(&t->second);
}

TEST_LIMIT(repairs_of_locks_killed, 100)
{
    static const ruin ruins[] = {
        { "a lock released", .before = take_lock, .sleep = take_and_release_lock, .sleepers = 2,
          .act = act_release_lock, .check = check_lock },
        { "two locks taken", .act = act_take_two, .check = check_two_locks },
        { "a lock waited for", .prepare = take_lock, .sleep = take_and_release_lock, .sleepers = 1,
          .act = act_wait_for_lock, .check = check_lock },
    };
    climb_all(ruins, TD__COUNT(ruins));
}

/* --- read-write lock --------------------------------------------------------------------------------------- */

static void take_write(void *object)
{
    thing *t = object;
    CHECK_INT(td_rwlock_acquire_write(&t->rwlock), 0);
}

static void take_read(void *object)
{
    thing *t = object;
    CHECK_INT(td_rwlock_acquire_read(&t->rwlock), 0);
}

/* One writes, others read. */
static void take_either(void *object)
{
    thing *t = object;
    bool writes = t->begun++ == 0;
    CHECK((writes ? td_rwlock_acquire_write_for(&t->rwlock, LONG) : td_rwlock_acquire_read_for(&t->rwlock, LONG)) >= 0);
    td_rwlock_release(&t->rwlock);
}

static void act_release_rwlock(void *object)
{
    thing *t = object;
    td_rwlock_release(&t->rwlock);
}

static void act_wait_for_rwlock(void *object)
{
    thing *t = object;
    td_rwlock_acquire_read_for(&t->rwlock, SHORT);
    td_rwlock_acquire_write_for(&t->rwlock, SHORT);
}

static void act_take_rwlock(void *object)
{
    thing *t = object;
    td_rwlock_acquire_read(&t->rwlock);
    td_rwlock_release(&t->rwlock);
    td_rwlock_acquire_write(&t->rwlock);
    td_rwlock_downgrade(&t->rwlock);
}

static void check_rwlock(void *object, bool through)
{
    thing *t = object;
    (void)through;
    if (td_rwlock_owned_write(&t->rwlock))
        td_rwlock_release(&t->rwlock);
    CHECK(td_rwlock_acquire_write_for(&t->rwlock, LONG) >= 0);
    CHECK_INT(td_rwlock_readers(&t->rwlock), 0);
    td_rwlock_release(&t->rwlock);
    CHECK_OK(td_rwlock_acquire_read_for(&t->rwlock, LONG));
    td_rwlock_release(&t->rwlock);
}

TEST_LIMIT(repairs_of_rwlocks_killed, 100)
{
    static const ruin ruins[] = {
        { "writing ended", .before = take_write, .listed = true, .sleep = take_either, .sleepers = 3,
          .act = act_release_rwlock, .check = check_rwlock },
        { "reading ended", .before = take_read, .listed = true, .sleep = take_either, .sleepers = 1,
          .act = act_release_rwlock, .check = check_rwlock },
        { "reading, writing and both", .act = act_take_rwlock, .check = check_rwlock },
        { "a read-write lock waited for", .prepare = take_write, .listed = true, .sleep = take_either, .sleepers = 1,
          .act = act_wait_for_rwlock, .check = check_rwlock },
    };
    climb_all(ruins, TD__COUNT(ruins));
}

/* --- semaphores -------------------------------------------------------------------------------------------- */

static void one_unit(void *object)
{
    thing *t = object;
    CHECK_OK(td_owned_semaphore_init(&t->units, 1));
}

static void one_unit_taken(void *object)
{
    thing *t = object;
    one_unit(t);
    CHECK_OK(td_owned_semaphore_acquire(&t->units));
    t->taken = 1;
}

static void take_unit(void *object)
{
    thing *t = object;
    CHECK_OK(td_owned_semaphore_acquire(&t->units));
}

static void take_and_release_unit(void *object)
{
    thing *t = object;
    CHECK_OK(td_owned_semaphore_acquire_for(&t->units, LONG));
    td_owned_semaphore_release(&t->units);
}

static void act_release_unit(void *object)
{
    thing *t = object;
    td_owned_semaphore_release(&t->units);
}

static void act_take_units(void *object)
{
    thing *t = object;
    td_owned_semaphore_acquire(&t->units);
    td_owned_semaphore_release(&t->units);
    td_owned_semaphore_acquire(&t->units);
    td_owned_semaphore_acquire_for(&t->units, SHORT);
}

static void act_wait_for_unit(void *object)
{
    thing *t = object;
    td_owned_semaphore_acquire_for(&t->units, SHORT);
}

/* The unit is there once, and only once. */
static void check_units(void *object, bool through)
{
    thing *t = object;
    (void)through;
    if (t->taken)
        td_owned_semaphore_release(&t->units);
    WAIT_UNTIL(td_owned_semaphore_value(&t->units) == 1, 20);
    CHECK_OK(td_owned_semaphore_acquire_for(&t->units, LONG));
    CHECK_ERROR(td_owned_semaphore_try_acquire(&t->units), TD_EBUSY);
    td_owned_semaphore_release(&t->units);
}

static void take_plain(void *object)
{
    thing *t = object;
    CHECK_OK(td_semaphore_acquire_for(&t->plain, LONG));
    t->told++;
}

static void act_release_plain(void *object)
{
    thing *t = object;
    td_semaphore_release_n(&t->plain, 2);
}

static void check_plain(void *object, bool through)
{
    thing *t = object;
    /* One sleeps who is to be woken: either both units have been given, or none. */
    WAIT_UNTIL(t->told == 1 || (!through && ruin_asleep(false) == 1 && td_semaphore_value(&t->plain) == 0), 20);
    if (t->told == 0)
        CHECK_OK(td_semaphore_release_n(&t->plain, 2));
    CHECK_OK(td_semaphore_acquire_for(&t->plain, LONG));
}

TEST_LIMIT(repairs_of_semaphores_killed, 100)
{
    static const ruin ruins[] = {
        { "a unit released", .prepare = one_unit, .before = take_unit, .listed = true, .sleep = take_and_release_unit,
          .sleepers = 2, .act = act_release_unit, .check = check_units },
        { "units taken", .prepare = one_unit, .act = act_take_units, .check = check_units },
        { "a unit waited for", .prepare = one_unit_taken, .listed = true, .sleep = take_and_release_unit, .sleepers = 1,
          .act = act_wait_for_unit, .check = check_units },
        { "a semaphore released", .sleep = take_plain, .sleepers = 1, .act = act_release_plain, .check = check_plain },
    };
    climb_all(ruins, TD__COUNT(ruins));
}

/* --- event and once ---------------------------------------------------------------------------------------- */

static void wait_for_event(void *object)
{
    thing *t = object;
    CHECK_OK(td_event_wait_for(&t->event, LONG));
}

static void act_set(void *object)
{
    thing *t = object;
    td_event_set(&t->event);
}

static void act_wait_for_event(void *object)
{
    thing *t = object;
    td_event_wait_for(&t->event, SHORT);
}

static void check_event(void *object, bool through)
{
    thing *t = object;
    (void)through;
    if (!td_event_is_set(&t->event)) /* else all are to be awake, without another word */
        td_event_set(&t->event);
}

static int runs(void *argument)
{
    thing *t = argument;
    t->runs++;
    return 0;
}

static void run_once(void *object)
{
    thing *t = object;
    CHECK_OK(td_once_run_for(&t->once, runs, t, LONG));
}

/* Others come while it runs. */
static int runs_awaited(void *argument)
{
    thing *t = argument;
    t->runs++;
    t->begun = 1;
    event_wait(1);
    return 0;
}

static void act_run(void *object)
{
    thing *t = object;
    td_once_run(&t->once, runs_awaited, t);
}

static void *runs_too(void *object)
{
    run_once(object);
    return NULL;
}

static pthread_t too;

static void come_while_it_runs(void *object, pid_t victim)
{
    thing *t = object;
    while (!t->begun && ruin_alive(victim))
        sched_yield();
    REQUIRE_INT(pthread_create(&too, NULL, runs_too, t), 0);
    WAIT_UNTIL(ruin_asleep(false) == 1 || td_once_done(&t->once), 20);
    event_set(1);
}

static void check_once(void *object, bool through)
{
    thing *t = object;
    run_once(t);
    REQUIRE_INT(pthread_join(too, NULL), 0);
    CHECK_IN(t->runs, 1, through ? 1 : 2);
    page->event[1] = 0;
}

TEST_LIMIT(repairs_of_events_and_onces_killed, 100)
{
    static const ruin ruins[] = {
        { "an event set", .sleep = wait_for_event, .sleepers = 2, .act = act_set, .check = check_event },
        { "an event waited for", .sleep = wait_for_event, .sleepers = 1, .act = act_wait_for_event,
          .check = check_event },
        { "once", .act = act_run, .meanwhile = come_while_it_runs, .check = check_once },
    };
    climb_all(ruins, TD__COUNT(ruins));
}

/* --- condition --------------------------------------------------------------------------------------------- */

static void wait_to_be_notified(void *object)
{
    thing *t = object;
    CHECK(td_lock_acquire_for(&t->lock, LONG) >= 0);
    CHECK(td_condition_wait_for(&t->condition, &t->lock, LONG) >= 0);
    t->told++;
    td_lock_release(&t->lock);
}

/* The next to acquire the lock cannot know whom it had notified: it looks. */
static int notify_the_rest(thing *t, bool *died)
{
    *died = td_lock_acquire_for(&t->lock, LONG) == TD_OWNER_DIED;
    CHECK(td_lock_owned(&t->lock));
    int left = td_condition_notify_all(&t->condition);
    td_lock_release(&t->lock);
    return left;
}

/* Two wait before the victim, which is to notify, has the lock. */
static void act_notify_one(void *object)
{
    thing *t = object;
    td_lock_acquire(&t->lock);
    td_condition_notify(&t->condition);
    td_lock_release(&t->lock);
}

/* More than go into one section: a step, which the repair finishes. */
static void act_notify_many(void *object)
{
    thing *t = object;
    td_lock_acquire(&t->lock);
    td_condition_notify_n(&t->condition, 11);
    td_lock_release(&t->lock);
}

static void check_notified_one(void *object, bool through)
{
    bool died;
    int left = notify_the_rest(object, &died);
    CHECK_IN(left, 1, through ? 1 : 2);
}

static void check_notified_all(void *object, bool through)
{
    bool died;
    int left = notify_the_rest(object, &died);
    CHECK(left == 0 || (left == 2 && !through));
}

static void act_wait_to_be_notified(void *object)
{
    thing *t = object;
    td_lock_acquire(&t->lock);
    td_condition_wait_for(&t->condition, &t->lock, LONG);
    t->taken = 1;
    td_lock_release(&t->lock);
}

static void *waits_behind(void *object)
{
    wait_to_be_notified(object);
    return NULL;
}

static bool on_a_list(pid_t pid)
{
    uint32_t top = td__load_acquire(&td__the_region->party_top);
    for (uint32_t i = 1; i < top; i++)
        if ((uint32_t)td__load_relaxed(td__party_entry(i)) == (uint32_t)pid && td__load_relaxed(&td__party_at(i)->list))
            return true;
    return false;
}

/* The victim waits first, then another one: one notification. Dead, the victim may have the lock. */
static void notify_the_victim(void *object, pid_t victim)
{
    thing *t = object;
    while (!on_a_list(victim) && ruin_alive(victim))
        sched_yield();
    if (!ruin_alive(victim))
        return;
    REQUIRE_INT(pthread_create(&too, NULL, waits_behind, t), 0);
    t->begun = 1;
    while (!on_a_list(getpid()) && ruin_alive(victim))
        sched_yield();
    while (ruin_alive(victim) && td_lock_try_acquire(&t->lock) < 0)
        sched_yield();
    if (!td_lock_owned(&t->lock))
        return;
    t->notified = td_condition_notify(&t->condition);
    td_lock_release(&t->lock);
}

static void check_passed_on(void *object, bool through)
{
    thing *t = object;
    bool died;
    if (!t->begun) {
        CHECK(td_lock_acquire_for(&t->lock, LONG) >= 0);
        td_lock_release(&t->lock);
        return;
    }
    WAIT_UNTIL(t->told == 1 || on_a_list(getpid()), 20);
    int left = notify_the_rest(t, &died);
    if (through)
        CHECK(t->taken);
    /* One notification: the victim's, which had the lock with it, or of the one behind it. */
    if (t->notified && !died && !t->taken)
        CHECK_INT(left, 0);
    REQUIRE_INT(pthread_join(too, NULL), 0);
}

TEST_LIMIT(repairs_of_conditions_killed, 150)
{
    static const ruin ruins[] = {
        { "one notified", .sleep = wait_to_be_notified, .sleepers = 2, .listed = true, .act = act_notify_one,
          .check = check_notified_one },
        { "many notified", .sleep = wait_to_be_notified, .sleepers = 2, .listed = true, .act = act_notify_many,
          .check = check_notified_all },
        { "a notification waited for", .act = act_wait_to_be_notified, .meanwhile = notify_the_victim,
          .check = check_passed_on },
    };
    climb_all(ruins, TD__COUNT(ruins));
}

/* --- barrier ----------------------------------------------------------------------------------------------- */

static void three_parties(void *object)
{
    thing *t = object;
    CHECK_OK(td_barrier_init(&t->barrier, 3));
}

static void wait_at_barrier(void *object)
{
    thing *t = object;
    int r = td_barrier_wait_for(&t->barrier, LONG);
    CHECK(r >= 0 || r == TD_EBROKEN);
    t->broken += r < 0;
    t->ended++;
}

static void act_come_last(void *object)
{
    thing *t = object;
    td_barrier_wait(&t->barrier);
}

static void act_come_last_with_action(void *object)
{
    thing *t = object;
    td_barrier_wait_action(&t->barrier, runs, t);
}

static void act_give_up(void *object)
{
    thing *t = object;
    td_barrier_wait_for(&t->barrier, SHORT);
}

static void check_met(void *object, bool through)
{
    thing *t = object;
    bool still = td_barrier_waiting(&t->barrier) == 2 && !through; /* it had not come: it is missed by nobody */
    if (still)
        CHECK_INT(td_barrier_wait_for(&t->barrier, LONG), 2);
    WAIT_UNTIL(t->ended == 2, 20);
    CHECK(t->broken == 0 || (t->broken == 2 && !through && !still));
    CHECK_INT(td_barrier_broken(&t->barrier), t->broken == 2);
}

static void check_given_up(void *object, bool through)
{
    thing *t = object;
    if (!td_barrier_broken(&t->barrier)) {
        CHECK(!through);
        CHECK_INT(td_barrier_waiting(&t->barrier), 1);
        CHECK_OK(td_barrier_abort(&t->barrier));
    }
    WAIT_UNTIL(t->ended == 1, 20);
    CHECK_INT(t->broken, 1);
    CHECK_OK(td_barrier_reset(&t->barrier));
    CHECK(!td_barrier_broken(&t->barrier));
    CHECK_ERROR(td_barrier_wait_for(&t->barrier, td_ns(1)), TD_ETIMEOUT); /* nobody is left in there */
}

TEST_LIMIT(repairs_of_barriers_killed, 100)
{
    static const ruin ruins[] = {
        { "the last one", .prepare = three_parties, .sleep = wait_at_barrier, .sleepers = 2, .act = act_come_last,
          .check = check_met },
        { "the last one, with an action", .prepare = three_parties, .sleep = wait_at_barrier, .sleepers = 2,
          .act = act_come_last_with_action, .check = check_met },
        { "one that gives up", .prepare = three_parties, .sleep = wait_at_barrier, .sleepers = 1, .act = act_give_up,
          .check = check_given_up },
    };
    climb_all(ruins, TD__COUNT(ruins));
}
