/* SPDX-License-Identifier: MIT */
/* Deaths of processes that no spawner watches: children that the program forks itself, and theirs. */
#include "harness.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <tandem.h>
#include "sync/party.h"
#include "os/fault.h"

enum { HELD = 1, GO = 2, FULL = 3 };

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
    td_worker *w = JOINED(NEW(.target = forks_and_dies, .args = TD_ARG(uintptr_t, (uintptr_t)lock)));
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

/* --- killed before they could announce themselves ------------------------------------------------------------ */

static int entries_of(pid_t pid)
{
    int count = 0;
    for (uint32_t i = 1; i < td__load_acquire(&td__the_region->party_top); i++)
        count += ((uint32_t)td__load_acquire(td__party_entry(i)) & 0x7fffffff) == (uint32_t)pid;
    return count;
}

/* A child that takes an entry, and is killed at the next step. */
static pid_t one_is_lost(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        td__kill_at_step(1);
        _exit(td__party_self() ? 1 : 2);
    }
    int status;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    CHECK_INT(status, SIGKILL); /* not 0x200: there was an entry */
    return pid;
}

static int shares(td_call *call)
{
    td_lock *lock = (td_lock *)td_arg(call, uintptr_t);
    CHECK_OK(td_lock_acquire_for(lock, td_s(20)));
    td_lock_release(lock);
    return 0;
}

/* Catches: entries that are taken for ever, until nobody gets one. */
TEST(killed_before_they_are_known)
{
    td_lock *lock = shared_lock();
    REQUIRE_OK(td_lock_acquire(lock));
    td_lock_release(lock);
    td__the_region->parties = 24; /* fixed as a rule: before there is a watcher. A table that is soon full */
    pid_t first = one_is_lost();
    CHECK_INT(entries_of(first), 1);
    for (int i = 0; i < 100 && !harness_failed(); i++)
        one_is_lost();
    CHECK_INT(entries_of(first), 0);
    for (int i = 0; i < 30; i++) {
        td_worker *w = JOINED(td_thread(.target = shares, .args = TD_ARG(uintptr_t, (uintptr_t)lock)));
        CHECK_INT(td_outcome(w), TD_RETURNED);
        td_free(w);
        one_is_lost();
    }
}

static int quits(td_call *call)
{
    (void)call;
    return 0;
}

/* Catches: the same where the table is not full: the next death is an occasion to look. */
TEST(found_at_the_next_death)
{
    td_lock *lock = shared_lock();
    REQUIRE_OK(td_lock_acquire(lock));
    td_lock_release(lock);
    pid_t lost = one_is_lost();
    CHECK_INT(entries_of(lost), 1);
    td_worker *w = WORKER(td_worker_create(
        TD_PROCESS,
        &(td_worker_options){ .struct_size = sizeof(td_worker_options), .method = TD_FORK, .target = quits }));
    REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_join(w));
    td_free(w);
    WAIT_UNTIL(entries_of(lost) == 0, 20);
}

static int waits_for_go(td_call *call)
{
    td_lock *lock = (td_lock *)td_arg(call, uintptr_t);
    if (td_lock_acquire_for(lock, td_s(20)) == 0)
        td_lock_release(lock);
    else
        event_add(FULL);
    event_add(HELD);
    event_wait(GO);
    return 0;
}

/* Catches: a table that is full of the living, and somebody who waits for it for ever. */
TEST(taken_by_the_living)
{
    enum { THREADS = 30 };
    td_lock *lock = shared_lock();
    REQUIRE_OK(td_lock_acquire(lock));
    td_lock_release(lock);
    td__the_region->parties = 24;
    one_is_lost();
    td_worker *w[THREADS];
    for (int i = 0; i < THREADS; i++) {
        w[i] = WORKER(td_thread(.target = waits_for_go, .args = TD_ARG(uintptr_t, (uintptr_t)lock)));
        REQUIRE_OK(td_start(w[i]));
    }
    event_wait_count(HELD, THREADS);
    CHECK_IN(event_count(FULL), THREADS - 23, THREADS - 20);
    event_set(GO);
    for (int i = 0; i < THREADS; i++) {
        REQUIRE_OK(td_join(w[i]));
        td_free(w[i]);
    }
}

/* --- a record that a wild process has written over ----------------------------------------------------------- */

static void little_room(void *unused)
{
    (void)unused;
    struct rlimit limit = { 40 << 20, 40 << 20 };
    setrlimit(RLIMIT_FSIZE, &limit);
}

static int reads_it(td_call *call)
{
    td_rwlock *lock = (td_rwlock *)td_arg(call, uintptr_t);
    return td_rwlock_acquire_read_for(lock, td_s(40));
}

static td__party *listed(pid_t pid)
{
    for (uint32_t i = 1; i < td__load_acquire(&td__the_region->party_top); i++)
        if ((pid_t)td__load_acquire(td__party_entry(i)) == pid && td__load_relaxed(&td__party_at(i)->list))
            return td__party_at(i);
    return NULL;
}

HELPER(wild_links)
{
    td_rwlock *lock = td_shared_calloc(1, sizeof *lock);
    REQUIRE(lock != NULL);
    CHECK(td__the_region->parties < 2000); /* what follows leads out of the region */
    CHECK_OK(td_rwlock_acquire_write(lock));
    for (int which = 0; which < 3; which++) {
        td_worker *w = WORKER(td_process(.target = reads_it, .args = TD_ARG(uintptr_t, (uintptr_t)lock)));
        REQUIRE_OK(td_start(w));
        WAIT_UNTIL(listed(td_pid(w)) != NULL, 20);
        td__party *party = listed(td_pid(w));
        REQUIRE(party != NULL);
        td__store_relaxed(which == 0 ? &party->previous : &party->next, 65000);
        if (which == 2)
            td__store_relaxed(&party->list, td__the_region->base + sizeof(td__region));
        kill(td_pid(w), SIGKILL);
        CHECK_OK(td_join_for(w, td_s(20)));
        CHECK_INT(td_exitcode(w), -SIGKILL);
        td_free(w);
        /* The bit may be there for nothing: a release looks. */
        WAIT_UNTIL((td__parties_release(&td__the_region->deaths, 1),
                    !(td__load_acquire(&td__the_region->deaths) & TD__DEATHS_PENDING)),
                   20);
    }
    /* Who repairs lives on: the spawner starts one more. */
    td_worker *w = WORKER(td_process(.target = reads_it, .args = TD_ARG(uintptr_t, (uintptr_t)lock)));
    REQUIRE_OK(td_start(w));
    CHECK_OK(td_kill(w));
    CHECK_OK(td_join_for(w, td_s(20)));
    td_outcome(w);
    td_free(w);
    return harness_failed();
}

/* Catches: a repair that follows the number of a party where there are only a thousand. */
TEST(wild_links_in_a_little_region)
{
    helper_options options = { .before = little_room };
    CHECK_INT(helper_run(&options, "wild_links", NULL), 0);
}
