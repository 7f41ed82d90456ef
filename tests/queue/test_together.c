/* SPDX-License-Identifier: MIT */
/*
 * Everything that is shared, used at once and in random order, with short limits and cancellations, while some of the
 * processes are killed, or some of the threads end: no hang, no crash, and at the end each object is as good as new.
 * What is lost, torn or delivered twice is for the tests of the single types; this one is for what they have in common:
 * the record of a thread, which is in the middle of several things.
 */
#include "ledger.h"

#include <pthread.h>
#include <sched.h>
#include <tandem.h>

enum { N = 3, QUEUES = 5, WORKERS = 4, ITEM_MOST = 3000, UNITS = 2, NUMBERS = 10 };

typedef struct world {
    td_lock lock[N];
    td_rlock rlock[N];
    td_rwlock rwlock[N];
    td_condition condition[N]; /* of the lock of the same index */
    td_event event[N];
    td_semaphore semaphore[N]; /* with more units than can be lost */
    td_owned_semaphore owned[N];
    td_barrier barrier[N];
    td_once once[N];
    td_cancel cancel;
    td_queue *queue[QUEUES], *bytes, *blocks;
    int *numbers;
    bool alone; /* one thread in each process */
    _Atomic bool stop;
    _Atomic long done;
} world;

static world *g;
static _Thread_local uint32_t random_state;
static _Thread_local bool mortal;

static uint32_t below(uint32_t n)
{
    random_state = random_state * 1103515245u + 12345u;
    return (random_state >> 8) % n;
}

/* --- what is done ------------------------------------------------------------------------------------------ */

static td_time limit(void)
{
    return td_us(below(3000));
}

static td_cancel *cancel(void)
{
    return below(4) ? NULL : &g->cancel;
}

/* Ends the thread, if it is one of those, wherever it is. */
static void leave_now_and_then(void)
{
    if (mortal && below(8) == 0)
        pthread_exit(NULL);
}

static bool now_and_then(void *unused)
{
    (void)unused;
    leave_now_and_then();
    return below(3) == 0;
}

static int fails_now_and_then(void *unused)
{
    (void)unused;
    leave_now_and_then();
    return below(2) == 0;
}

static void meanwhile(void);

static void use_lock(void)
{
    td_lock *lock = &g->lock[below(N)];
    if (td_lock_acquire_with(lock, limit(), cancel()) < 0)
        return;
    meanwhile();
    td_lock_release(lock);
}

static void use_rlock(void)
{
    td_rlock *lock = &g->rlock[below(N)];
    if (td_rlock_acquire_with(lock, limit(), cancel()) < 0)
        return;
    CHECK_OK(td_rlock_acquire(lock));
    meanwhile();
    td_rlock_release(lock);
    td_rlock_release(lock);
}

static void read_under_lock(void)
{
    td_rwlock *lock = &g->rwlock[below(N)];
    if (td_rwlock_acquire_read_with(lock, limit(), cancel()) < 0)
        return;
    meanwhile();
    td_rwlock_release(lock);
}

static void write_under_lock(void)
{
    td_rwlock *lock = &g->rwlock[below(N)];
    if (td_rwlock_acquire_write_with(lock, limit(), cancel()) < 0)
        return;
    meanwhile();
    if (below(2))
        td_rwlock_downgrade(lock);
    td_rwlock_release(lock);
}

static void use_condition(void)
{
    uint32_t i = below(N), what = below(4);
    td_condition *condition = &g->condition[i];
    if (td_lock_acquire_for(&g->lock[i], limit()) < 0)
        return;
    if (what == 0)
        td_condition_wait_with(condition, &g->lock[i], limit(), cancel());
    else if (what == 1)
        td_condition_await_with(condition, &g->lock[i], now_and_then, NULL, limit(), cancel());
    else if (what == 2)
        td_condition_notify(condition);
    else
        td_condition_notify_all(condition);
    td_lock_release(&g->lock[i]);
}

static void wait_for_event(void)
{
    td_event_wait_with(&g->event[below(N)], limit(), cancel());
}

static void change_event(void)
{
    td_event *event = &g->event[below(N)];
    CHECK_OK(below(2) ? td_event_set(event) : td_event_clear(event));
}

static void use_semaphores(void)
{
    uint32_t i = below(N);
    if (td_semaphore_acquire_with(&g->semaphore[i], limit(), cancel()) == 0)
        CHECK_OK(td_semaphore_release(&g->semaphore[i]));
    if (td_owned_semaphore_acquire_with(&g->owned[i], limit(), cancel()) < 0)
        return;
    meanwhile();
    td_owned_semaphore_release(&g->owned[i]);
}

static void meet(void)
{
    td_barrier *barrier = &g->barrier[below(N)];
    td_barrier_wait_action_with(barrier, below(2) ? fails_now_and_then : NULL, NULL, limit(), cancel());
    if (below(3) == 0)
        CHECK_OK(td_barrier_reset(barrier));
}

static void run_once(void)
{
    td_once_run_with(&g->once[below(N)], fails_now_and_then, NULL, limit(), cancel());
}

static void put(void)
{
    int some[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    td_queue *q = g->queue[below(QUEUES)];
    if (below(2))
        td_queue_put_with(q, some, limit(), cancel());
    else
        td_queue_put_many_with(q, some, below(8), limit(), cancel());
}

static void get(void)
{
    int some[8];
    td_queue *q = g->queue[below(QUEUES)];
    if (below(2))
        td_queue_get_with(q, some, limit(), cancel());
    else
        td_queue_get_many_with(q, some, below(8), limit(), cancel());
}

static void put_bytes(void)
{
    char some[ITEM_MOST];
    size_t size = below(sizeof some);
    memset(some, 'x', size);
    td_queue_put_bytes_with(g->bytes, some, size, limit(), cancel());
}

static bool all_x(const char *some, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (some[i] != 'x')
            return false;
    return true;
}

static void get_bytes(void)
{
    char some[ITEM_MOST];
    size_t size;
    if (td_queue_get_bytes_with(g->bytes, some, sizeof some, &size, limit(), cancel()) == 0)
        CHECK(all_x(some, size));
}

static void hand_over(void)
{
    void *block = td_shared_alloc(below(below(10) ? 300 : 200000));
    if (block && td_queue_put_shared_with(g->blocks, block, limit(), cancel()) < 0)
        td_shared_free(block);
}

static void take_over(void)
{
    void *block;
    if (td_queue_get_shared_with(g->blocks, &block, limit(), cancel()) < 0)
        return;
    void *other = below(2) ? td_shared_realloc(block, below(5000)) : NULL;
    td_shared_free(other ? other : block);
}

static void add(void)
{
    td_shared_add_at(g->numbers, below(NUMBERS), 1);
}

static void wait_for_several(void)
{
    td_waitable things[] = { TD_WAIT_QUEUE(g->queue[below(QUEUES)]), TD_WAIT_EVENT(&g->event[below(N)]),
                             TD_WAIT_QUEUE(g->bytes) };
    td_wait_any(things, 3, limit(), cancel());
}

static void cancel_all(void)
{
    if (below(20))
        return;
    td_cancel_fire(&g->cancel);
    sched_yield();
    td_cancel_reset(&g->cancel);
}

typedef void deed(void);
static deed *const deeds[] = {
    use_lock,
    use_rlock,
    read_under_lock,
    write_under_lock,
    use_condition,
    use_condition,
    wait_for_event,
    change_event,
    use_semaphores,
    meet,
    run_once,
    put,
    put,
    get,
    get,
    put_bytes,
    get_bytes,
    hand_over,
    take_over,
    add,
    wait_for_several,
    cancel_all,
};

/* While something is held: another deed, or a moment in which to be killed or to leave. That two hold what the other
 * one wants is for the limits. */
static void meanwhile(void)
{
    static _Thread_local int depth;
    leave_now_and_then();
    if (depth++ < 3 && below(2))
        deeds[below(TD__COUNT(deeds))]();
    else
        sched_yield();
    depth--;
}

/* --- who does it ------------------------------------------------------------------------------------------- */

static void *lives(void *number)
{
    random_state = (uint32_t)(uintptr_t)number * 2654435761u ^ (uint32_t)getpid() * 97u;
    while (!g->stop) {
        deeds[below(TD__COUNT(deeds))]();
        g->done++;
    }
    return NULL;
}

static int lives_twice(td_call *call)
{
    g = td_arg_shared(call);
    pthread_t other;
    if (!g->alone)
        REQUIRE_INT(pthread_create(&other, NULL, lives, (void *)1), 0);
    lives((void *)2);
    if (!g->alone)
        pthread_join(other, NULL);
    return harness_failed();
}

static td_worker *start(const mode *how)
{
    td_worker *w = WORKER(NEW(.target = lives_twice, .args = TD_SHARED(g)));
    REQUIRE_OK(td_start(w));
    return w;
}

static world *new_world(bool shared)
{
    world *w = shared ? td_shared_calloc(1, sizeof *w) : calloc(1, sizeof *w);
    REQUIRE(w != NULL);
    for (int i = 0; i < N; i++) {
        REQUIRE_OK(td_semaphore_init(&w->semaphore[i], 1000000));
        REQUIRE_OK(td_owned_semaphore_init(&w->owned[i], UNITS));
        REQUIRE_OK(td_barrier_init(&w->barrier[i], 3));
    }
    w->queue[0] = QUEUE(.item_size = sizeof(int), .shared = shared, .capacity = 40);
    w->queue[1] = QUEUE(.item_size = sizeof(int), .shared = shared, .capacity = 1);
    w->queue[2] = QUEUE(.item_size = sizeof(int), .shared = shared, .capacity = 5, .kind = TD_QUEUE_LIFO);
    w->queue[3] = QUEUE(.item_size = sizeof(int), .shared = shared, .capacity = 40, .kind = TD_QUEUE_PRIORITY,
                        .priority = TD_PRIORITY_ITEM(int));
    w->queue[4] = QUEUE(.item_size = sizeof(int), .shared = shared, .capacity = 6);
    w->bytes = QUEUE(.item_size = ITEM_MOST, .shared = shared, .capacity = 7, .any_size = true);
    w->blocks = QUEUE(.shared = shared, .capacity = 50);
    w->numbers = td_shared_array(int, NUMBERS);
    REQUIRE(w->numbers != NULL);
    return w;
}

/* --- what must hold at the end ----------------------------------------------------------------------------- */

static void check_primitives(int i)
{
    td_time soon = td_s(5 * SLOW);
    if (CHECK(td_lock_acquire_for(&g->lock[i], soon) >= 0)) {
        CHECK_INT(td_condition_notify_all(&g->condition[i]), 0);
        CHECK_ERROR(td_condition_wait_for(&g->condition[i], &g->lock[i], td_ms(1)), TD_ETIMEOUT);
        td_lock_release(&g->lock[i]);
    }
    if (CHECK(td_rlock_acquire_for(&g->rlock[i], soon) >= 0))
        td_rlock_release(&g->rlock[i]);
    if (CHECK(td_rwlock_acquire_write_for(&g->rwlock[i], soon) >= 0))
        td_rwlock_release(&g->rwlock[i]);
    WAIT_UNTIL(td_rwlock_readers(&g->rwlock[i]) == 0, 5);
    WAIT_UNTIL(td_owned_semaphore_value(&g->owned[i]) == UNITS, 5);
    CHECK_OK(td_barrier_reset(&g->barrier[i]));
    WAIT_UNTIL(td_barrier_waiting(&g->barrier[i]) == 0, 5);
    CHECK_ERROR(td_barrier_wait_for(&g->barrier[i], td_ms(1)), TD_ETIMEOUT);
    int r = td_once_run_for(&g->once[i], fails_now_and_then, NULL, soon);
    CHECK(r == 0 || r == 1);
}

/* All its places are there, and it is empty when all has been taken out. */
static void check_queue(td_queue *q)
{
    int x = 0;
    while (td_queue_get_for(q, &x, td_ms(10)) == 0)
        ;
    CHECK_INT(td_last_error(), TD_ETIMEOUT);
    CHECK_INT(td_queue_qsize(q), 0);
    for (size_t i = 0; i < td_queue_capacity(q); i++)
        CHECK_OK(td_queue_put_for(q, &x, td_s(5 * SLOW)));
    CHECK_ERROR(td_queue_try_put(q, &x), TD_EFULL);
    td_queue_free(q);
}

static void check_and_free(bool shared)
{
    char some[ITEM_MOST];
    size_t size;
    void *block;
    for (int i = 0; i < N; i++)
        check_primitives(i);
    for (int i = 0; i < QUEUES; i++)
        check_queue(g->queue[i]);
    while (td_queue_get_bytes_for(g->bytes, some, sizeof some, &size, td_ms(10)) == 0)
        CHECK(all_x(some, size));
    while (td_queue_get_shared_for(g->blocks, &block, td_ms(10)) == 0)
        td_shared_free(block);
    td_queue_free(g->bytes);
    td_queue_free(g->blocks);
    td_shared_free(g->numbers);
    CHECK_OK(td_shared_check());
    shared ? td_shared_free(g) : free(g);
}

/* --- the cases --------------------------------------------------------------------------------------------- */

/* Those that live on do things all the time, whoever is killed. */
static long kill_some(const mode *how, double seconds)
{
    long killed = 0, done = 0;
    for (double until = now() + seconds; now() < until; killed++) {
        td_worker *w = start(how);
        WAIT_UNTIL(g->done > done + below(100), 20);
        done = g->done;
        CHECK_OK(td_kill(w));
        REQUIRE_OK(td_join(w));
        CHECK_INT(td_outcome(w), TD_CANCELLED);
        td_free(w);
    }
    return killed;
}

/* Catches: what a death leaves behind in one object because its thread was in the middle of another. */
TEST_METHODS_LIMIT(killed_among_all_there_is, 100)
{
    td_worker *w[WORKERS];
    g = new_world(true);
    /* ThreadSanitizer takes a thread of a forked child for the one of its parent that had the same place. */
    g->alone = WITH_TSAN && how->method == TD_FORK;
    random_state = (uint32_t)getpid();
    for (int i = 0; i < WORKERS; i++)
        w[i] = start(how);
    long killed = kill_some(how, budget());
    g->stop = true;
    for (int i = 0; i < WORKERS; i++) {
        REQUIRE_OK(td_join_for(w[i], td_s(30 * SLOW)));
        if (!CHECK_INT(td_outcome(w[i]), TD_RETURNED))
            harness_note("    %s", td_describe(w[i]));
        td_free(w[i]);
    }
    harness_note("%ld deeds, %ld killed", (long)g->done, killed);
    CHECK(killed > 3);
    check_and_free(true);
}

static void *lives_until_it_leaves(void *number)
{
    mortal = true;
    return lives(number);
}

static long end_some(double seconds)
{
    uintptr_t ended = 0;
    for (double until = now() + seconds; now() < until; ended++) {
        pthread_t thread;
        REQUIRE_INT(pthread_create(&thread, NULL, lives_until_it_leaves, (void *)(ended + WORKERS)), 0);
        REQUIRE_INT(pthread_join(thread, NULL), 0);
    }
    return (long)ended;
}

/* The same with threads that end. */
TEST_LIMIT(ended_among_all_there_is, 150)
{
    for (int shared = 0; shared < 2; shared++) {
        pthread_t thread[WORKERS];
        g = new_world(shared);
        random_state = (uint32_t)getpid();
        for (uintptr_t i = 0; i < WORKERS; i++)
            REQUIRE_INT(pthread_create(&thread[i], NULL, lives, (void *)i), 0);
        long ended = end_some(budget());
        g->stop = true;
        for (int i = 0; i < WORKERS; i++)
            REQUIRE_INT(pthread_join(thread[i], NULL), 0);
        harness_note("%ld deeds, %ld ended", (long)g->done, ended);
        CHECK(ended > 3);
        check_and_free(shared);
    }
}
