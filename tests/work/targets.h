/* SPDX-License-Identifier: MIT */
/* What many tests have their workers do, with the events by which it is known; a test's own events begin with
 * OWN_EVENTS. */
#ifndef TANDEM_TESTS_TARGETS_H
#define TANDEM_TESTS_TARGETS_H

#include "harness.h"

enum { STARTED, GO, ENDED, OWN_EVENTS };

static inline int nothing(td_call *call)
{
    (void)call;
    return 0;
}

static inline int returns_arg(td_call *call)
{
    return td_arg(call, int);
}

static inline int until_go(td_call *call)
{
    (void)call;
    event_add(STARTED);
    event_wait(GO);
    event_add(ENDED);
    return 0;
}

/* Of a process of the forkserver method: the spawner's pid. */
static inline int tells_parent(td_call *call)
{
    return td_return(call, pid_t, getppid());
}

static inline pid_t find_spawner(void)
{
    pid_t pid = 0;
    td_worker *w = JOINED(td_process(.target = tells_parent));
    REQUIRE_OK(td_result(w, pid_t, &pid));
    td_free(w);
    REQUIRE(pid > 1 && pid != getpid());
    return pid;
}

/* For helpers that are told a mode. */
static inline const mode *mode_named(const char *name)
{
    return strcmp(name, "fork") == 0 ? &mode_fork : strcmp(name, "thread") == 0 ? &mode_thread : &mode_forkserver;
}

#endif
