/* SPDX-License-Identifier: MIT */
/* Waits that are given the cancellation object of their worker's call. */
#include "harness.h"

#include <signal.h>
#include <tandem.h>

enum { READY = 1 };

static int waits_for_the_lock(td_call *call)
{
    td_lock *wanted = (td_lock *)td_arg(call, uintptr_t);
    signal(SIGTERM, SIG_IGN);
    event_add(READY);
    int r = td_lock_acquire_with(wanted, td_s(30), td_call_cancel(call));
    return r == TD_ECANCELLED ? td_fail(call, TD_ECANCELLED, "asked to stop") : 1;
}

/* Catches: a wait that goes on after its worker has been asked to stop, and one that begins after that. */
TEST_MODES(terminate_ends_a_wait)
{
    td_lock *held = td_shared_calloc(1, sizeof *held);
    REQUIRE(held != 0);
    REQUIRE_OK(td_lock_acquire(held));
    for (int i = 0; i < 10; i++) {
        td_worker *w = WORKER(NEW(.target = waits_for_the_lock, .args = TD_ARG(uintptr_t, (uintptr_t)held)));
        REQUIRE_OK(td_start(w));
        event_wait_count(READY, (uint32_t)i + 1);
        if (i % 2)
            pause_ms(5); /* asleep, as a rule */
        REQUIRE_OK(td_terminate(w));
        REQUIRE_OK(td_join_for(w, td_s(20)));
        CHECK_INT(td_outcome(w), TD_CANCELLED);
        td_free(w);
    }
    td_lock_release(held);
    td_shared_free(held);
}
