/* SPDX-License-Identifier: MIT */
/*
 * For the tests of what sleeps on words (event, semaphore, once): one suite over places and parties.
 *
 *     TEST_PLACES(name)     four cases: name_private (threads, an object of this process), name_shared (threads, an
 *                           object in shared memory), name_forkserver and name_fork (processes)
 *     place(how, size)      zeroed memory for the objects of a case, where `how` says
 *     TEST_KILLED(name)     two cases, name_forkserver and name_fork: of processes that are killed
 */
#ifndef TANDEM_TESTS_WORDS_H
#define TANDEM_TESTS_WORDS_H

#include "harness.h"

#include <signal.h>
#include <tandem/shared.h>
#include <tandem/sync.h>
#include "sync/wait.h"

static const mode mode_private __attribute__((unused)) = { "private", TD_THREAD, TD_METHOD_DEFAULT };
static const mode mode_shared __attribute__((unused)) = { "shared", TD_THREAD, TD_METHOD_DEFAULT };

#define TEST_PLACES(name)                                                                                       \
    TEST_OVER(name, MODE_CASE(name, private, 50), MODE_CASE(name, shared, 50), MODE_CASE(name, forkserver, 50), \
              MODE_CASE(name, fork, 50))

#define TEST_KILLED(name) TEST_METHODS(name)

/* The same memory at each call. */
static inline __attribute__((unused)) void *place(const mode *how, size_t size)
{
    static _Alignas(64) char here[16384];
    if (how == &mode_private) {
        REQUIRE(size <= sizeof here);
        memset(here, 0, size);
        return here;
    }
    static void *there;
    REQUIRE(size <= sizeof here);
    if (!there)
        there = td_shared_alloc(sizeof here);
    REQUIRE(there != NULL);
    memset(there, 0, size);
    return there;
}

/* What a party is told; the same for a thread and for a process. */
typedef struct part {
    void *object;
    uint64_t with;
    long number, step;
} part;

static inline td_worker *begin(const mode *how, td_target *target, void *object, uint64_t with, long number, long step)
{
    td_worker *w = WORKER(NEW(.target = target, .args = TD_ARG(part, object, with, number, step)));
    REQUIRE_OK(td_start(w));
    return w;
}

static inline void end_well(td_worker *w)
{
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
}

/* Of one that may have been killed: true if it was, which then was by SIGKILL. */
static inline bool end_killed(td_worker *w)
{
    REQUIRE_OK(td_join(w));
    bool killed = td_outcome(w) != TD_RETURNED;
    if (killed)
        CHECK_INT(td_exitcode(w), -SIGKILL);
    td_free(w);
    return killed;
}

static inline uint32_t sleepers(const void *word)
{
    return td__word_waiters(word);
}

/* Nobody's record names the dead any more: repairs have been made. */
static inline bool repaired(void)
{
    uint32_t top = td__load_acquire(&td__the_region->party_top);
    for (uint32_t i = 1; i < top; i++) {
        uint32_t pid = (uint32_t)td__load_acquire(td__party_entry(i)) & ~0x80000000u;
        if (pid && !process_alive((pid_t)pid))
            return false;
    }
    return true;
}

/* Fault injection: is it built in? It is in all test programs. */
#include "os/fault.h"

#endif
