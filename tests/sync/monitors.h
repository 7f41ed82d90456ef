/* SPDX-License-Identifier: MIT */
/*
 * What the tests of conditions, barriers and read-write locks share: one suite over private and shared objects, between
 * threads and between processes; and ladders of kills.
 */
#ifndef TANDEM_TESTS_MONITORS_H
#define TANDEM_TESTS_MONITORS_H

#include "harness.h"
#include "os/fault.h"
#include "sync/party.h"

#include <signal.h>
#include <stdatomic.h>
#include <tandem/shared.h>
#include <tandem/sync.h>

/* The longest that anything here may take; only a failure reaches it. */
#define LONG td_s(20 * SLOW)

/* Threads with private objects, threads with shared ones, processes. */
static const mode mode_private = { "private", TD_THREAD, TD_METHOD_DEFAULT };

#define TEST_PLACES(name) TEST_PLACES_LIMIT(name, 50)
#define TEST_PLACES_LIMIT(name, seconds)                                                 \
    TEST_OVER(name, MODE_CASE(name, private, seconds), MODE_CASE(name, thread, seconds), \
              MODE_CASE(name, forkserver, seconds), MODE_CASE(name, fork, seconds))

static inline void *object_new(const mode *how, size_t size)
{
    void *object = how == &mode_private ? calloc(1, size) : td_shared_calloc(1, size);
    REQUIRE(object != NULL);
    return object;
}

static inline void object_free(const mode *how, void *object)
{
    if (how == &mode_private)
        free(object);
    else
        td_shared_free(object);
}

/* Workers are given an address, and perhaps a number. */
typedef struct task {
    uintptr_t object;
    int number;
} task;

static inline td_worker *begin(const mode *how, td_target *target, const void *object, int number)
{
    task given = { (uintptr_t)object, number };
    td_worker *w = WORKER(NEW(.target = target, .args = TD_VAL(given)));
    REQUIRE_OK(td_start(w));
    return w;
}

#define OBJECT(call) ((void *)td_arg((call), task).object)
#define NUMBER(call) (td_arg((call), task).number)

/* Waits for its end: true if it returned, false if it was killed; anything else is a failure. */
static inline bool returned(td_worker *w)
{
    REQUIRE_OK(td_join_for(w, LONG));
    td_state outcome = td_outcome(w);
    if (outcome != TD_RETURNED) {
        CHECK_INT(outcome, TD_CRASHED);
        CHECK_INT(td_exitcode(w), -SIGKILL);
    }
    td_free(w);
    return outcome == TD_RETURNED;
}

static inline void end_well(td_worker *w)
{
    CHECK(returned(w));
}

/* Has this worker ended? For loops that wait until it has come to a certain point, or has died before. */
static inline bool ended(td_worker *w)
{
    return !td_is_alive(w);
}

/* Waits, without an event: for states that only the inside of an object shows. */
#define UNTIL(condition) WAIT_UNTIL(condition, 20)

/* A lock, whatever has become of its owner. */
static inline bool acquire_any(td_lock *lock)
{
    int r = td_lock_acquire_for(lock, LONG);
    CHECK(r >= 0);
    return r == TD_OWNER_DIED;
}

/*
 * A ladder: runs `rung` with n = 1, 2, 3... until it says that nobody was killed, which is when n is more than the
 * number of steps.
 */
static inline void climb(const mode *how, bool (*rung)(const mode *how, long n), long least)
{
    long n = 1;
    while (rung(how, n) && !harness_failed())
        n += thrift();
    harness_note("%ld steps", n - 1);
    CHECK(n > least);
}

/* All repairs are done: nothing of this process is in the records any more. */
static inline void repaired(pid_t pid)
{
    UNTIL(!td__parties_of(pid) && !td__parties_of((pid_t)((uint32_t)pid | 0x80000000u)));
}

/* This process's helper aborts with a sentence. */
#define CHECK_ABORTS(helper, sentence)                                     \
    do {                                                                   \
        char *output;                                                      \
        CHECK_INT(helper_output(&output, NULL, (helper), NULL), -SIGABRT); \
        CHECK_HAS(output, (sentence));                                     \
        free(output);                                                      \
    } while (0)

#endif
