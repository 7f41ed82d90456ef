/* SPDX-License-Identifier: MIT */
/* Deaths of processes that no spawner watches: children that the program forks itself, and theirs. */
#include "harness.h"

#include <signal.h>
#include <sys/wait.h>
#include <tandem.h>
#include "sync/party.h"

enum { HELD = 1, GO = 2 };

static td_lock *shared_lock(void)
{
    void *at = (char *)td__the_region + td__the_region->arena;
    REQUIRE(td__region_populate(at, 4096) == 0);
    return at;
}

static void hold_and_die(td_lock *lock)
{
    if (td_lock_acquire(lock) != 0)
        _exit(1);
    event_add(HELD);
    kill(getpid(), SIGKILL);
}

/* Bounded: a lock that is not given on fails the case. */
static void expect_told(td_lock *lock)
{
    CHECK_INT(td_lock_acquire_for(lock, td_s(20)), TD_OWNER_DIED);
    td_lock_release(lock);
    CHECK_INT(td_lock_acquire_for(lock, td_s(20)), 0);
    td_lock_release(lock);
}

/* Catches: a forked child whose death nobody sees, in a program that has no spawner. */
TEST(a_forked_child_dies_holding)
{
    td_lock *lock = shared_lock();
    REQUIRE_OK(td_lock_acquire(lock));
    td_lock_release(lock);
    for (int i = 0; i < 3; i++) {
        pid_t pid = fork();
        if (pid == 0)
            hold_and_die(lock);
        event_wait_count(HELD, (uint32_t)i + 1);
        expect_told(lock);
        int status;
        REQUIRE(waitpid(pid, &status, 0) == pid);
        CHECK(WIFSIGNALED(status));
    }
}

/* Catches: the same for a child's child, which the program has never heard of. */
TEST(a_grandchild_dies_holding)
{
    td_lock *lock = shared_lock();
    REQUIRE_OK(td_lock_acquire(lock));
    td_lock_release(lock);
    pid_t pid = fork();
    if (pid == 0) {
        pid_t inner = fork();
        if (inner == 0)
            hold_and_die(lock);
        event_wait(GO);
        waitpid(inner, NULL, 0);
        _exit(0);
    }
    event_wait(HELD);
    expect_told(lock);
    event_set(GO);
    waitpid(pid, NULL, 0);
}

static int forks_and_dies(td_call *call)
{
    td_lock *lock = (td_lock *)td_arg(call, uintptr_t);
    pid_t pid = fork();
    if (pid == 0) {
        if (td_lock_acquire(lock) != 0)
            _exit(1);
        event_add(HELD);
        event_wait(GO);
        kill(getpid(), SIGKILL);
    }
    event_wait(HELD);
    kill(getpid(), SIGKILL);
    return 0;
}

/* Catches: a worker's own forked child, whose parent is dead before it. */
TEST_METHODS(a_workers_child_dies_after_it)
{
    td_lock *lock = shared_lock();
    td_worker *w = WORKER(NEW(.target = forks_and_dies, .args = TD_ARG(uintptr_t, (uintptr_t)lock)));
    REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_exitcode(w), -SIGKILL);
    if (how->method == TD_FORKSERVER) /* a forked worker's children end with its holder's tree as they like */
        CHECK_ERROR(td_lock_acquire_for(lock, td_ms(100)), TD_ETIMEOUT);
    event_set(GO);
    expect_told(lock);
    td_free(w);
}

static int dies_holding(td_call *call)
{
    hold_and_die((td_lock *)td_arg(call, uintptr_t));
    return 0;
}

/* Catches: workers of either method, with their deaths told by whoever watches them. */
TEST_METHODS(a_worker_dies_holding)
{
    td_lock *lock = shared_lock();
    for (int i = 0; i < 5; i++) {
        td_worker *w = WORKER(NEW(.target = dies_holding, .args = TD_ARG(uintptr_t, (uintptr_t)lock)));
        REQUIRE_OK(td_start(w));
        event_wait_count(HELD, (uint32_t)i + 1);
        expect_told(lock);
        REQUIRE_OK(td_join(w));
        CHECK_INT(td_exitcode(w), -SIGKILL);
        td_free(w);
    }
}
