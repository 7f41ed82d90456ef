/* SPDX-License-Identifier: MIT */
/*
 * A program that uses primitives, forks, and has neither called td_init nor started a worker: its private objects are
 * renewed in the child as they are in others.
 */
#include "harness.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <tandem.h>

enum { READY = 1, GO = 2 };
#define LONG td_s(20)

INIT(nothing)
{
}

/* A test of a helper whose main does not call td_init. */
static void without_init(const char *helper)
{
    const helper_options options = { .init = "nothing" };
    CHECK_INT(helper_run(&options, helper, NULL), 0);
}

/* What a helper or a child that it has forked says of its checks. */
static int judgement(void)
{
    return harness_failed() ? 1 : 0;
}

static td_rwlock writing;
static td_condition condition;
static td_lock lock, held;
static td_barrier barrier;

static void *other_thread(void *unused)
{
    (void)unused;
    CHECK_OK(td_rwlock_acquire_write(&writing));
    CHECK_OK(td_lock_acquire(&lock));
    event_add(READY);
    td_condition_wait_for(&condition, &lock, LONG);
    return NULL;
}

static void *waits_at_barrier(void *unused)
{
    (void)unused;
    td_barrier_wait_for(&barrier, LONG);
    return NULL;
}

static int child(void)
{
    /* The writer is not there: counts as dead. */
    CHECK_INT(td_rwlock_acquire_write_for(&writing, td_s(5)), TD_OWNER_DIED);
    /* Its own lock, which it held. */
    CHECK(td_lock_owned(&held));
    td_lock_release(&held);
    /* Nobody waits here: neither is the parent's waiter notified in place of somebody. */
    CHECK_INT(td_barrier_waiting(&barrier), 0);
    CHECK_OK(td_lock_acquire_for(&lock, td_s(5)));
    CHECK_INT(td_condition_wait_for(&condition, &lock, td_ms(1)), TD_ETIMEOUT);
    CHECK_INT(td_condition_notify(&condition), 0);
    td_lock_release(&lock);
    return judgement();
}

HELPER(forks_early)
{
    pthread_t first, second;
    CHECK_OK(td_lock_acquire(&held));
    CHECK_OK(td_barrier_init(&barrier, 2));
    REQUIRE(pthread_create(&first, NULL, other_thread, NULL) == 0);
    event_wait(READY);
    CHECK_OK(td_lock_acquire(&lock)); /* it waits */
    td_lock_release(&lock);
    REQUIRE(pthread_create(&second, NULL, waits_at_barrier, NULL) == 0);
    WAIT_UNTIL(td_barrier_waiting(&barrier) == 1, 20);
    pid_t pid = fork();
    if (pid == 0)
        _exit(child());
    CHECK_INT(helper_wait(pid), 0);
    CHECK_OK(td_lock_acquire(&lock));
    CHECK_INT(td_condition_notify(&condition), 1);
    td_lock_release(&lock);
    CHECK_INT(td_barrier_wait_for(&barrier, LONG) >= 0, 1);
    pthread_join(first, NULL);
    pthread_join(second, NULL);
    return judgement();
}

static int forks_and_fails(void *forked)
{
    pid_t *pid = forked;
    *pid = fork();
    if (*pid == 0)
        return 1;
    return helper_wait(*pid);
}

HELPER(forks_in_an_action)
{
    pid_t pid = -1;
    CHECK_OK(td_barrier_init(&barrier, 1));
    int r = td_barrier_wait_action(&barrier, forks_and_fails, &pid);
    CHECK_INT(r, pid == 0 ? TD_EBROKEN : 0);
    /* In both it is as after any other wait: a new phase, and this thread may run actions. */
    CHECK_INT(td_barrier_waiting(&barrier), 0);
    CHECK_INT(td_barrier_wait_for(&barrier, LONG), 0);
    if (pid == 0)
        _exit(judgement());
    return judgement();
}

/* Catches: a child that ends the action of a phase that is its parent's. */
TEST(in_the_action_of_a_barrier)
{
    without_init("forks_in_an_action");
}

/* Catches: handlers of forks that are not there yet. */
TEST(before_anything_else)
{
    without_init("forks_early");
}

static void *puts_and_gets(void *queue)
{
    uint32_t item;
    event_add(READY);
    td_queue_get(queue, &item);
    return NULL;
}

HELPER(inits_after_a_fork)
{
    pid_t pid = fork();
    if (pid == 0) { /* as a daemon does: the child is the program */
        CHECK_OK(td_init());
        int *value = td_shared_value(int, 1);
        CHECK(value != NULL);
        pid_t inner = fork();
        if (inner == 0) {
            td_rlock_acquire(td_shared_lock(value));
            kill(getpid(), SIGKILL);
        }
        waitpid(inner, NULL, 0);
        /* Somebody has seen to the dead one's. */
        CHECK_INT(td_rlock_acquire_for(td_shared_lock(value), td_s(20)), TD_OWNER_DIED);
        td_rlock_release(td_shared_lock(value));
        td_shared_free(value);
        _exit(harness_failed() ? 1 : td_finish());
    }
    CHECK_INT(helper_wait(pid), 0);
    return judgement();
}

/* Catches: a program that has forked before td_init, and whose children nobody watches. */
TEST(init_in_the_child)
{
    without_init("inits_after_a_fork");
}

HELPER(forks_with_a_queue)
{
    uint32_t item = 5;
    pthread_t thread;
    td_queue *q = td_queue_new(.item_size = sizeof item, .capacity = 4);
    td_connection *one, *other;
    CHECK_OK(td_pipe(&one, &other));
    REQUIRE(pthread_create(&thread, NULL, puts_and_gets, q) == 0);
    event_wait(READY);
    pid_t pid = fork();
    if (pid == 0) {
        CHECK_OK(td_queue_put_for(q, &item, td_s(5)));
        CHECK_OK(td_queue_get_for(q, &item, td_s(5)));
        _exit(judgement());
    }
    CHECK_INT(helper_wait(pid), 0);
    CHECK_OK(td_queue_put(q, &item));
    pthread_join(thread, NULL);
    td_queue_free(q);
    td_connection_free(one);
    td_connection_free(other);
    return judgement();
}

TEST(queues_before_anything_else)
{
    without_init("forks_with_a_queue");
}

/* A descriptor of an event that is set becomes readable. */
static bool tells(td_event *event)
{
    int fd = td_descriptor(TD_WAIT_EVENT(event));
    struct pollfd one = { .fd = fd, .events = POLLIN };
    REQUIRE(fd >= 0);
    td_event_set(event);
    bool told = poll(&one, 1, 10000) == 1;
    CHECK_OK(td_descriptor_close(fd));
    return told;
}

HELPER(forks_with_a_descriptor)
{
    static td_event first, second;
    CHECK(tells(&first));
    pid_t pid = fork();
    if (pid == 0) {
        CHECK(tells(&second));
        _exit(judgement());
    }
    CHECK_INT(helper_wait(pid), 0);
    return judgement();
}

/* Catches: a child that takes the parent's threads, which watch for descriptors, for its own. */
TEST(descriptors_before_anything_else)
{
    without_init("forks_with_a_descriptor");
}
