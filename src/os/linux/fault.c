/* SPDX-License-Identifier: MIT */
/* The counters of fault injection; see os/fault.h. */
#include "os/fault.h"
#include "base/base.h"

#if TD_FAULTS
#include <errno.h>
#include <signal.h>
#include <unistd.h>

struct counters {
    _Atomic long calls; /* counted since arm */
    _Atomic long at;    /* the call that fails; 0: none */
    _Atomic int fired;
};
_Static_assert(sizeof(struct counters) <= TD__FAULT_BYTES, "the segment keeps room for the counters");

static struct counters own;
static struct counters *_Atomic current = &own;

void td__fault_move(void *to, bool copy)
{
    struct counters *from = current, *target = to ? to : &own;
    if (from == target)
        return;
    if (copy) {
        target->calls = td__load_relaxed(&from->calls);
        target->at = td__load_relaxed(&from->at);
        target->fired = td__load_relaxed(&from->fired);
    }
    current = target;
}

void td__fault_leave(const void *from)
{
    if (current == from)
        td__fault_move(NULL, true);
}

void td__fault_arm(long n)
{
    struct counters *c = current;
    c->fired = 0;
    c->calls = 0;
    c->at = n > 0 ? n : 0;
}

void td__fault_disarm(void)
{
    current->at = 0;
}

long td__fault_count(void)
{
    return current->calls;
}

bool td__fault_fired(void)
{
    return current->fired != 0;
}

bool td__fault(int error)
{
    struct counters *c = current;
    long at = c->at, call = ++c->calls;
    if (at == 0 || call != at)
        return false;
    c->fired = 1;
    errno = error;
    return true;
}

static _Thread_local long steps, kill_at;

void td__step_point(void)
{
    if (++steps == kill_at) {
        kill(getpid(), SIGKILL);
        for (;;)
            pause();
    }
}

long td__kill_at_step(long n)
{
    long counted = steps;
    steps = 0;
    kill_at = n;
    return counted;
}
#else
typedef int td__no_faults;
#endif
