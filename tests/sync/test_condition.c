/* SPDX-License-Identifier: MIT */
/* Conditions: what Python's do, without losing a wake-up, whoever dies. */
#include "monitors.h"

#include <pthread.h>
#include <sys/wait.h>

#include "sync/wait.h"

enum { GO };
enum { MANY = 25 }; /* waiters: more than one section can notify */

typedef struct board {
    td_lock lock;
    td_rlock rlock;
    td_condition condition, other;
    _Atomic int tokens;
    _Atomic int order[64], count;
    int turn, busy, filled;
} board;

/* How many are on the list; the lock need not be held, as nothing else changes while this is asked. */
static int waiters(const td_condition *c)
{
    int count = 0;
    const td__waiters *list = (const td__waiters *)(const void *)&c->td_words[2];
    for (uint16_t at = list->first; at && count < 1000; at = td__party_at(at)->next)
        count++;
    return count;
}

/* --- what it does ------------------------------------------------------------------------------------------ */

static int waits_for_token(td_call *call)
{
    board *b = OBJECT(call);
    REQUIRE_INT(td_lock_acquire(&b->lock), 0);
    int r = 0;
    while (b->tokens == 0 && r == 0)
        r = td_condition_wait_for(&b->condition, &b->lock, LONG);
    CHECK_INT(r, 0);
    CHECK(td_lock_owned(&b->lock));
    b->order[b->count++] = NUMBER(call);
    b->tokens--;
    td_lock_release(&b->lock);
    return 0;
}

/* In the order of their coming; one, some, all; and returns how many. */
TEST_PLACES(wakes_in_order_of_arrival)
{
    board *b = object_new(how, sizeof *b);
    td_worker *w[8];
    for (int i = 0; i < 8; i++) {
        w[i] = begin(how, waits_for_token, b, i);
        UNTIL(waiters(&b->condition) == i + 1);
    }
    int woken[] = { 1, 3, 4 };
    for (int i = 0, sum = 0; i < 3; i++) {
        REQUIRE_INT(td_lock_acquire(&b->lock), 0);
        b->tokens = woken[i];
        CHECK_INT(i == 0   ? td_condition_notify(&b->condition)
                  : i == 1 ? td_condition_notify_n(&b->condition, 3)
                           : td_condition_notify_all(&b->condition),
                  woken[i]);
        td_lock_release(&b->lock);
        sum += woken[i];
        UNTIL(b->count == sum);
    }
    for (int i = 0; i < 8; i++)
        end_well(w[i]);
    /* Those woken together take the lock in any order. */
    CHECK_INT(b->order[0], 0);
    for (int i = 1; i < 8; i++)
        CHECK(i < 4 ? b->order[i] >= 1 && b->order[i] <= 3 : b->order[i] >= 4);
    CHECK_INT(waiters(&b->condition), 0);
    td_condition_destroy(&b->condition);
    object_free(how, b);
}

/* A notification is not kept; a zeroed condition that nobody has waited on belongs to no lock. */
TEST_PLACES(notifying_nobody_does_nothing)
{
    board *b = object_new(how, sizeof *b);
    CHECK_INT(td_condition_notify(&b->condition), 0);
    REQUIRE_INT(td_lock_acquire(&b->lock), 0);
    CHECK_INT(td_condition_notify_all(&b->condition), 0);
    CHECK_ERROR(td_condition_wait_for(&b->condition, &b->lock, td_ms(20)), TD_ETIMEOUT);
    CHECK(td_lock_owned(&b->lock));
    CHECK_INT(td_condition_notify_all(&b->condition), 0);
    CHECK_INT(td_condition_notify_n(&b->condition, 0), 0);
    CHECK_ERROR(td_condition_wait_for(&b->condition, &b->lock, td_ms(0)), TD_ETIMEOUT);
    td_lock_release(&b->lock);
    object_free(how, b);
}

static int times_out_once(td_call *call)
{
    board *b = OBJECT(call);
    REQUIRE_INT(td_lock_acquire(&b->lock), 0);
    CHECK_ERROR(td_condition_wait_for(&b->condition, &b->lock, td_ms(30)), TD_ETIMEOUT);
    CHECK(td_lock_owned(&b->lock));
    td_lock_release(&b->lock);
    return 0;
}

/* Who has given up is off the list, wherever it stood, and takes nobody's notification. */
TEST_PLACES(a_limit_leaves_nothing_behind)
{
    board *b = object_new(how, sizeof *b);
    td_worker *w[4];
    for (int i = 0; i < 4; i++) {
        bool gives_up = i == 0 || i == 2;
        w[i] = begin(how, gives_up ? times_out_once : waits_for_token, b, i);
        if (!gives_up)
            UNTIL(waiters(&b->condition) > 0);
    }
    end_well(w[0]);
    end_well(w[2]);
    UNTIL(waiters(&b->condition) == 2);
    REQUIRE_INT(td_lock_acquire(&b->lock), 0);
    b->tokens = 2;
    CHECK_INT(td_condition_notify_n(&b->condition, 5), 2);
    td_lock_release(&b->lock);
    end_well(w[1]);
    end_well(w[3]);
    object_free(how, b);
}

typedef struct cancelled {
    board board;
    td_cancel cancel;
} cancelled;

static int waits_cancelled(td_call *call)
{
    cancelled *c = OBJECT(call);
    REQUIRE_INT(td_lock_acquire(&c->board.lock), 0);
    CHECK_ERROR(td_condition_wait_with(&c->board.condition, &c->board.lock, LONG, &c->cancel), TD_ECANCELLED);
    CHECK(td_lock_owned(&c->board.lock));
    /* Fired it stays. */
    CHECK_ERROR(td_condition_wait_with(&c->board.condition, &c->board.lock, TD_NO_LIMIT, &c->cancel), TD_ECANCELLED);
    td_lock_release(&c->board.lock);
    return 0;
}

TEST_PLACES(a_wait_can_be_cancelled)
{
    cancelled *c = object_new(how, sizeof *c);
    td_worker *w[3];
    for (int i = 0; i < 3; i++)
        w[i] = begin(how, waits_cancelled, c, i);
    UNTIL(waiters(&c->board.condition) == 3);
    td_cancel_fire(&c->cancel);
    for (int i = 0; i < 3; i++)
        end_well(w[i]);
    CHECK_INT(waiters(&c->board.condition), 0);
    object_free(how, c);
}

static int waits_deeply(td_call *call)
{
    board *b = OBJECT(call);
    for (int i = 0; i < 3; i++)
        REQUIRE_INT(td_rlock_acquire(&b->rlock), 0);
    while (b->tokens == 0)
        REQUIRE_INT(td_condition_wait_rlock_for(&b->condition, &b->rlock, LONG), 0);
    CHECK_INT(td_rlock_depth(&b->rlock), 3);
    CHECK_ERROR(td_condition_wait_rlock_for(&b->condition, &b->rlock, td_ms(1)), TD_ETIMEOUT);
    CHECK_INT(td_rlock_depth(&b->rlock), 3);
    for (int i = 0; i < 3; i++)
        td_rlock_release(&b->rlock);
    return 0;
}

/* All levels are released, and come back. */
TEST_PLACES(an_rlock_is_released_wholly)
{
    board *b = object_new(how, sizeof *b);
    td_worker *w = begin(how, waits_deeply, b, 0);
    UNTIL(waiters(&b->condition) == 1);
    REQUIRE_INT(td_rlock_acquire_for(&b->rlock, LONG), 0);
    REQUIRE_INT(td_rlock_acquire(&b->rlock), 0);
    b->tokens = 1;
    CHECK_INT(td_condition_notify(&b->condition), 1);
    td_rlock_release(&b->rlock);
    td_rlock_release(&b->rlock);
    end_well(w);
    object_free(how, b);
}

static bool has_tokens(void *argument)
{
    board *b = argument;
    b->count++;
    return b->tokens >= 3;
}

static bool has_tokens_deeply(void *argument)
{
    board *b = argument;
    CHECK_INT(td_rlock_depth(&b->rlock), 2);
    return has_tokens(b);
}

static int awaits(td_call *call)
{
    board *b = OBJECT(call);
    if (NUMBER(call)) {
        REQUIRE_INT(td_rlock_acquire(&b->rlock), 0);
        REQUIRE_INT(td_rlock_acquire(&b->rlock), 0);
        CHECK_INT(td_condition_await_rlock_for(&b->condition, &b->rlock, has_tokens_deeply, b, LONG), 0);
        CHECK_INT(td_rlock_depth(&b->rlock), 2);
        CHECK(b->tokens >= 3);
        CHECK_INT(td_condition_await_rlock(&b->condition, &b->rlock, has_tokens_deeply, b), 0);
        td_rlock_release(&b->rlock);
        td_rlock_release(&b->rlock);
        return 0;
    }
    REQUIRE_INT(td_lock_acquire(&b->lock), 0);
    CHECK_INT(td_condition_await_for(&b->condition, &b->lock, has_tokens, b, LONG), 0);
    CHECK(b->tokens >= 3);
    CHECK_INT(td_condition_await(&b->condition, &b->lock, has_tokens, b), 0);
    td_lock_release(&b->lock);
    return 0;
}

/* Until the predicate is true; it is asked first, after each notification, and at the end of the limit. */
TEST_PLACES(awaits_a_predicate)
{
    for (int deep = 0; deep < 2; deep++) {
        board *b = object_new(how, sizeof *b);
        td_worker *w = begin(how, awaits, b, deep);
        for (int i = 0; i < 3; i++) {
            UNTIL(waiters(&b->condition) == 1);
            CHECK_INT(b->count, i + 1);
            REQUIRE_INT(deep ? td_rlock_acquire(&b->rlock) : td_lock_acquire(&b->lock), 0);
            b->tokens++;
            CHECK_INT(td_condition_notify(&b->condition), 1);
            if (deep)
                td_rlock_release(&b->rlock);
            else
                td_lock_release(&b->lock);
        }
        end_well(w);
        CHECK_INT(b->count, 5);
        object_free(how, b);
    }
    board *b = object_new(how, sizeof *b);
    REQUIRE_INT(td_lock_acquire(&b->lock), 0);
    CHECK_ERROR(td_condition_await_for(&b->condition, &b->lock, has_tokens, b, td_ms(30)), TD_ETIMEOUT);
    CHECK_INT(b->count, 2);
    td_cancel cancel = { 1 };
    CHECK_ERROR(td_condition_await_with(&b->condition, &b->lock, has_tokens, b, TD_NO_LIMIT, &cancel), TD_ECANCELLED);
    CHECK(td_lock_owned(&b->lock));
    td_lock_release(&b->lock);
    object_free(how, b);
}

TEST(nothing_is_refused)
{
    static board b;
    td_lock_acquire(&b.lock);
    CHECK_ERROR(td_condition_wait(NULL, &b.lock), TD_EINVAL);
    CHECK_ERROR(td_condition_wait(&b.condition, NULL), TD_EINVAL);
    CHECK_ERROR(td_condition_wait_rlock(NULL, &b.rlock), TD_EINVAL);
    CHECK_ERROR(td_condition_wait_rlock(&b.condition, NULL), TD_EINVAL);
    CHECK_ERROR(td_condition_await(&b.condition, &b.lock, NULL, NULL), TD_EINVAL);
    CHECK_ERROR(td_condition_notify(NULL), TD_EINVAL);
    CHECK_ERROR(td_condition_notify_all(NULL), TD_EINVAL);
    td_condition_destroy(NULL);
    td_lock_release(&b.lock);
}

/* --- bugs of the caller ------------------------------------------------------------------------------------ */

HELPER(wait_without)
{
    static board b;
    return td_condition_wait(&b.condition, &b.lock);
}

HELPER(wait_without_rlock)
{
    static board b;
    return td_condition_wait_rlock(&b.condition, &b.rlock);
}

HELPER(notify_without)
{
    static board b;
    td_lock_acquire(&b.lock);
    td_condition_wait_for(&b.condition, &b.lock, td_ms(1));
    td_lock_release(&b.lock);
    return td_condition_notify(&b.condition);
}

HELPER(two_locks)
{
    static board b;
    td_lock_acquire(&b.lock);
    td_condition_wait_for(&b.condition, &b.lock, td_ms(1));
    td_rlock_acquire(&b.rlock);
    return td_condition_wait_rlock(&b.condition, &b.rlock);
}

HELPER(private_lock)
{
    static td_lock lock;
    board *b = td_shared_calloc(1, sizeof *b);
    td_lock_acquire(&lock);
    return td_condition_wait(&b->condition, &lock);
}

TEST(misuse_aborts_with_a_sentence)
{
    CHECK_ABORTS("wait_without", "td_condition_wait: lock 0x");
    CHECK_ABORTS("wait_without", "is not held by this thread");
    CHECK_ABORTS("wait_without_rlock", "td_condition_wait_rlock: lock 0x");
    CHECK_ABORTS("notify_without", "td_condition_notify: condition 0x");
    CHECK_ABORTS("notify_without", "is not held by this thread");
    CHECK_ABORTS("two_locks", "belongs to lock 0x");
    CHECK_ABORTS("private_lock", "is in shared memory and lock 0x");
}

/* --- stress: a lost wake-up would end these by their time limit -------------------------------------------- */

/* Also over pthread's, so that a test that is wrong itself shows. */
typedef struct stress {
    bool is_pthread;
    board board;
    pthread_mutex_t mutex;
    pthread_cond_t cond[2];
    int rounds, threads;
} stress;

static void acquire(stress *s)
{
    if (s->is_pthread)
        pthread_mutex_lock(&s->mutex);
    else
        REQUIRE_INT(td_lock_acquire(&s->board.lock), 0);
}

static void release(stress *s)
{
    if (s->is_pthread)
        pthread_mutex_unlock(&s->mutex);
    else
        td_lock_release(&s->board.lock);
}

static void wait_on(stress *s, int which)
{
    if (s->is_pthread)
        pthread_cond_wait(&s->cond[which], &s->mutex);
    else
        REQUIRE_INT(td_condition_wait(which ? &s->board.other : &s->board.condition, &s->board.lock), 0);
}

static void notify_on(stress *s, int which)
{
    if (s->is_pthread)
        pthread_cond_signal(&s->cond[which]);
    else
        td_condition_notify(which ? &s->board.other : &s->board.condition);
}

static stress *stress_new(const mode *how, int rounds, int threads)
{
    stress *s = object_new(how, sizeof *s);
    s->rounds = rounds / SLOW;
    s->threads = threads;
    return s;
}

static stress *stress_new_pthread(int rounds, int threads)
{
    stress *s = stress_new(&mode_private, rounds, threads);
    s->is_pthread = true;
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->cond[0], NULL);
    pthread_cond_init(&s->cond[1], NULL);
    return s;
}

/* All begin together; half of them lose their processor now and then, at the worst of moments. */
static void begin_stress(td_call *call)
{
    td__shake_steps(NUMBER(call) % 2 ? 100 : 0);
    event_wait(GO);
}

static void run_stress(const mode *how, stress *s, td_target *target)
{
    td_worker *w[16];
    for (int i = 0; i < s->threads; i++)
        w[i] = begin(how, target, s, i);
    event_set(GO);
    for (int i = 0; i < s->threads; i++)
        end_well(w[i]);
    if (!s->is_pthread) {
        CHECK_INT(waiters(&s->board.condition), 0);
        CHECK_INT(waiters(&s->board.other), 0);
    }
    object_free(how, s);
}

/* A lock made of a lock: the pattern that glibc's condition loses wake-ups with (BZ 25847). One notification a
 * hand-over, and whoever is not notified sleeps for ever. */
static int master_lock(td_call *call)
{
    stress *s = OBJECT(call);
    begin_stress(call);
    for (int i = 0; i < s->rounds; i++) {
        acquire(s);
        while (s->board.busy)
            wait_on(s, 0);
        s->board.busy = 1;
        release(s);
        acquire(s);
        s->board.busy = 0;
        notify_on(s, 0);
        release(s);
    }
    return 0;
}

TEST_PLACES(a_lock_made_of_a_condition)
{
    run_stress(how, stress_new(how, 20000, 5), master_lock);
}

TEST(a_lock_made_of_a_condition_pthread)
{
    run_stress(&mode_private, stress_new_pthread(20000, 5), master_lock);
}

/* A queue of two places: some put, some take, one notification for each. */
static int puts_or_takes(td_call *call)
{
    stress *s = OBJECT(call);
    bool puts = NUMBER(call) % 2 == 0;
    begin_stress(call);
    for (int i = 0; i < s->rounds; i++) {
        acquire(s);
        while (puts ? s->board.filled == 2 : s->board.filled == 0)
            wait_on(s, puts);
        s->board.filled += puts ? 1 : -1;
        notify_on(s, !puts);
        release(s);
    }
    return 0;
}

TEST_PLACES(a_queue_of_two_places)
{
    run_stress(how, stress_new(how, 4000, 6), puts_or_takes);
}

TEST(a_queue_of_two_places_pthread)
{
    run_stress(&mode_private, stress_new_pthread(4000, 6), puts_or_takes);
}

/* Round and round: each waits for its turn on one condition, and wakes all. */
static int takes_turns(td_call *call)
{
    stress *s = OBJECT(call);
    begin_stress(call);
    for (int i = 0; i < s->rounds; i++) {
        acquire(s);
        while (s->board.turn % s->threads != NUMBER(call))
            wait_on(s, 0);
        s->board.turn++;
        CHECK(td_condition_notify_all(&s->board.condition) < s->threads);
        release(s);
    }
    return 0;
}

TEST_PLACES(turns_by_waking_all)
{
    run_stress(how, stress_new(how, 300, 13), takes_turns);
}

/* Two hand one word to each other: any wake-up lost is the end. */
TEST_PLACES(to_and_fro)
{
    run_stress(how, stress_new(how, 5000, 2), takes_turns);
}

/* Limits of all lengths meet notifications: tokens are neither lost nor doubled, and no notification is lost with them.
 */
static int gives_up_often(td_call *call)
{
    stress *s = OBJECT(call);
    board *b = &s->board;
    unsigned seed = (unsigned)NUMBER(call) + 1;
    begin_stress(call);
    for (int i = 0; i < s->rounds; i++) {
        REQUIRE_INT(td_lock_acquire(&b->lock), 0);
        if (NUMBER(call) < 2) {
            b->tokens++;
            td_condition_notify(&b->condition);
        } else {
            seed = seed * 1103515245 + 12345;
            while (b->tokens == 0)
                td_condition_wait_for(&b->condition, &b->lock, td_us(seed >> 16 & 127));
            b->tokens--;
        }
        td_lock_release(&b->lock);
    }
    return 0;
}

TEST_PLACES(limits_meet_notifications)
{
    run_stress(how, stress_new(how, 5000, 4), gives_up_often);
}

/* --- deaths ------------------------------------------------------------------------------------------------ */

/* Waits and takes a token; is killed at the n-th step of the wait. */
static int waits_and_dies(td_call *call)
{
    board *b = OBJECT(call);
    REQUIRE_INT(td_lock_acquire(&b->lock), 0);
    td__kill_at_step(NUMBER(call));
    int r = td_condition_wait_for(&b->condition, &b->lock, LONG);
    td__kill_at_step(0);
    CHECK(r >= 0);
    b->tokens--;
    td_lock_release(&b->lock);
    return 0;
}

/* Who is told that an owner died looks after the rest, as everybody should: it wakes all. */
static int stands_by(td_call *call)
{
    board *b = OBJECT(call);
    int r = td_lock_acquire_for(&b->lock, LONG);
    while (r >= 0 && b->tokens == 0)
        r = td_condition_wait_for(&b->condition, &b->lock, LONG);
    CHECK(r >= 0);
    b->tokens--;
    td_lock_release(&b->lock);
    return 0;
}

/*
 * A waiter is killed at each step, and one that came later waits behind it. One token and one notification: either the
 * victim takes it, or the other one, who has it passed on if it had been the victim's.
 */
static bool kill_waiter(const mode *how, long n)
{
    board *b = object_new(how, sizeof *b);
    td_worker *victim = begin(how, waits_and_dies, b, (int)n);
    UNTIL(waiters(&b->condition) == 1 || ended(victim));
    td_worker *other = begin(&mode_thread, stands_by, b, 0);
    bool early = ended(victim);
    pid_t pid = td_pid(victim);
    if (early)
        repaired(pid);
    UNTIL(waiters(&b->condition) == (early ? 1 : 2) || (!early && ended(victim)));
    acquire_any(&b->lock);
    b->tokens = 1;
    td_condition_notify(&b->condition);
    td_lock_release(&b->lock);
    bool well = returned(victim);
    if (well) {
        acquire_any(&b->lock);
        CHECK_INT(b->tokens, 0);
        b->tokens = 1;
        CHECK_INT(td_condition_notify(&b->condition), 1);
        td_lock_release(&b->lock);
    } else {
        repaired(pid);
        /* It may have had the lock back, as its notification's rightful owner: that the lock tells. */
        if (acquire_any(&b->lock) && b->tokens)
            td_condition_notify_all(&b->condition);
        td_lock_release(&b->lock);
    }
    end_well(other);
    CHECK_INT(b->tokens, 0);
    CHECK_INT(waiters(&b->condition), 0);
    object_free(how, b);
    return !well;
}

TEST_METHODS(a_waiter_killed_at_every_step)
{
    climb(how, kill_waiter, 30);
}

static int notifies_and_dies(td_call *call)
{
    board *b = OBJECT(call);
    REQUIRE_INT(td_lock_acquire(&b->lock), 0);
    b->tokens = 1000;
    td__kill_at_step(NUMBER(call));
    td_condition_notify_all(&b->condition);
    td__kill_at_step(0);
    td_lock_release(&b->lock);
    return 0;
}

/* Dies notifying many: all of them are notified then, or none was. */
static bool kill_notifier(const mode *how, long n)
{
    board *b = object_new(how, sizeof *b);
    td_worker *waiting[MANY];
    for (int i = 0; i < MANY; i++)
        waiting[i] = begin(&mode_thread, stands_by, b, 0);
    UNTIL(waiters(&b->condition) == MANY);
    td_worker *victim = begin(how, notifies_and_dies, b, (int)n);
    pid_t pid = td_pid(victim);
    bool well = returned(victim);
    if (!well)
        repaired(pid);
    acquire_any(&b->lock); /* and it is we who hear of the death, or one of those it has woken */
    int left = waiters(&b->condition);
    CHECK(left == 0 || (left == MANY && !well));
    CHECK_INT(td_condition_notify_all(&b->condition), left);
    td_lock_release(&b->lock);
    for (int i = 0; i < MANY; i++)
        end_well(waiting[i]);
    CHECK_INT(b->tokens, 1000 - MANY);
    object_free(how, b);
    return !well;
}

TEST_METHODS(a_notifier_killed_at_every_step)
{
    climb(how, kill_notifier, 100);
}

static int notifies_one_and_dies(td_call *call)
{
    board *b = OBJECT(call);
    REQUIRE_INT(td_lock_acquire(&b->lock), 0);
    b->tokens = 1;
    td__kill_at_step(NUMBER(call));
    td_condition_notify(&b->condition);
    td__kill_at_step(0);
    td_lock_release(&b->lock);
    return 0;
}

static int waits_to_be_killed(td_call *call)
{
    board *b = OBJECT(call);
    REQUIRE_INT(td_lock_acquire(&b->lock), 0);
    td_condition_wait_for(&b->condition, &b->lock, LONG);
    /* Alive still: the token is not for us, and the one behind us would have no notification. */
    td_condition_notify(&b->condition);
    td_lock_release(&b->lock);
    return 0;
}

/* The notifier dies at each step, and with it the waiter that it notifies, and with both the spawner. */
static bool kill_together(const mode *how, long n)
{
    board *b = object_new(how, sizeof *b);
    td_worker *first = begin(how, waits_to_be_killed, b, 0);
    UNTIL(waiters(&b->condition) == 1);
    td_worker *other = begin(&mode_thread, stands_by, b, 0);
    UNTIL(waiters(&b->condition) == 2);
    td_worker *victim = begin(how, notifies_one_and_dies, b, (int)n);
    pid_t pids[2] = { td_pid(first), td_pid(victim) };
    UNTIL(b->tokens == 1 || ended(victim));
    kill(pids[0], SIGKILL);
    bool well = returned(victim);
    returned(first);
    repaired(pids[0]);
    if (!well)
        repaired(pids[1]);
    /* Either may have died with the lock, the first one as the notification's rightful owner. */
    if (acquire_any(&b->lock) && b->tokens)
        td_condition_notify_all(&b->condition);
    td_lock_release(&b->lock);
    end_well(other);
    CHECK_INT(waiters(&b->condition), 0);
    object_free(how, b);
    return !well;
}

TEST_METHODS(waiter_and_notifier_killed_together)
{
    climb(how, kill_together, 15);
}

static int tells_spawner(td_call *call)
{
    return td_return(call, pid_t, getppid());
}

/* All of a program's processes at once, its spawner among them: the threads that are left go on. */
TEST(spawner_killed_with_waiters_and_notifiers)
{
    for (int n = 1; n <= 40 && !harness_failed(); n += 3) {
        const mode *how = &mode_forkserver;
        pid_t spawner = 0;
        td_worker *w = begin(how, tells_spawner, NULL, 0);
        REQUIRE_OK(td_join(w));
        REQUIRE_OK(td_result(w, pid_t, &spawner));
        td_free(w);
        board *b = object_new(how, sizeof *b);
        td_worker *first = begin(how, waits_to_be_killed, b, 0);
        UNTIL(waiters(&b->condition) == 1);
        td_worker *other = begin(&mode_thread, stands_by, b, 0);
        UNTIL(waiters(&b->condition) == 2);
        td_worker *victim = begin(how, notifies_one_and_dies, b, n);
        pid_t pids[2] = { td_pid(first), td_pid(victim) };
        UNTIL(b->tokens == 1 || ended(victim));
        kill(spawner, SIGKILL);
        REQUIRE_OK(td_join_for(victim, LONG));
        REQUIRE_OK(td_join_for(first, LONG));
        td_free(first);
        td_free(victim);
        UNTIL(!process_alive(spawner));
        repaired(pids[0]);
        repaired(pids[1]);
        acquire_any(&b->lock);
        b->tokens = 1;
        td_condition_notify_all(&b->condition);
        td_lock_release(&b->lock);
        end_well(other);
        CHECK_INT(waiters(&b->condition), 0);
        object_free(how, b);
    }
}

/* --- forks, faults ----------------------------------------------------------------------------------------- */

static void *waits_in_parent(void *argument)
{
    board *b = argument;
    td_lock_acquire(&b->lock);
    while (b->tokens == 0)
        CHECK_INT(td_condition_wait_for(&b->condition, &b->lock, LONG), 0);
    td_lock_release(&b->lock);
    return NULL;
}

static void *notifies_in_child(void *argument)
{
    board *b = argument;
    td_lock_acquire(&b->lock);
    b->tokens = 1;
    CHECK_INT(td_condition_notify_all(&b->condition), 1);
    td_lock_release(&b->lock);
    return NULL;
}

/* A private condition's waiters are the parent's: the child notifies nobody, and can use its own copy. */
TEST(a_fork_leaves_the_waiters_behind)
{
    if (WITH_TSAN)
        SKIP("ThreadSanitizer knows no threads that begin after a fork");
    static board b;
    pthread_t thread;
    pthread_create(&thread, NULL, waits_in_parent, &b);
    UNTIL(waiters(&b.condition) == 1);
    td_lock_acquire(&b.lock);
    pid_t pid = fork();
    if (pid == 0) {
        CHECK_INT(td_condition_notify_all(&b.condition), 0);
        CHECK_ERROR(td_condition_wait_for(&b.condition, &b.lock, td_ms(5)), TD_ETIMEOUT);
        pthread_create(&thread, NULL, notifies_in_child, &b);
        while (b.tokens == 0)
            CHECK_INT(td_condition_wait_for(&b.condition, &b.lock, LONG), 0);
        td_lock_release(&b.lock);
        pthread_join(thread, NULL);
        _exit(harness_failed() ? EXIT_WORKER : 0);
    }
    td_lock_release(&b.lock);
    CHECK_INT(helper_wait(pid), 0);
    CHECK_INT(waiters(&b.condition), 1);
    td_lock_acquire(&b.lock);
    b.tokens = 1;
    CHECK_INT(td_condition_notify(&b.condition), 1);
    td_lock_release(&b.lock);
    pthread_join(thread, NULL);
}

/* Whatever the system refuses, a wait ends as it should, with the lock held. */
TEST(refusals_of_the_system)
{
    board *b = td_shared_calloc(1, sizeof *b);
    for (long n = 1; n < 60; n++) {
        b->tokens = 0;
        td_worker *w = begin(&mode_thread, stands_by, b, 0);
        UNTIL(waiters(&b->condition) == 1);
        td__fault_arm(n);
        td_lock_acquire(&b->lock);
        CHECK_ERROR(td_condition_wait_for(&b->condition, &b->lock, td_us(300)), TD_ETIMEOUT);
        CHECK(td_lock_owned(&b->lock));
        b->tokens = 1;
        CHECK_INT(td_condition_notify(&b->condition), 1);
        td_lock_release(&b->lock);
        td__fault_disarm();
        end_well(w);
    }
    td_shared_free(b);
}
