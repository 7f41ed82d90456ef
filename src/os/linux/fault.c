/* SPDX-License-Identifier: MIT */
/* The counters of fault injection; see os/fault.h. */
#include "os/fault.h"
#include "base/base.h"

#if TD_COVERAGE
#include <gcov.h>

void __wrap__exit(int status) __attribute__((noreturn));
void __real__exit(int status) __attribute__((noreturn));

void td__coverage_save(void)
{
    __gcov_dump();
    __gcov_reset(); /* else the atexit handlers of the libc would add it again */
}

/* Of the tests, whose processes end by it too. */
void __wrap__exit(int status)
{
    td__coverage_save();
    __real__exit(status);
}
#endif

#if TD_FAULTS
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
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

static _Thread_local long steps, act_at;
static _Thread_local void (*act)(void); /* NULL: the process is killed */

static _Thread_local unsigned shake_one_in;
static _Thread_local uint32_t shake_state;

static void shake(void)
{
    static const struct timespec moment = { 0, 1000 };
    if (shake_state == 0)
        shake_state = (uint32_t)syscall(SYS_gettid) * 2654435761u | 1;
    /* Marsaglia's xorshift. */
    shake_state ^= shake_state << 13;
    shake_state ^= shake_state >> 17;
    shake_state ^= shake_state << 5;
    if (shake_state % shake_one_in != 0)
        return;
    int kept = errno;
    if (shake_state & 0x10000)
        sched_yield();
    else
        nanosleep(&moment, NULL);
    errno = kept;
}

void td__shake_steps(unsigned one_in)
{
    shake_one_in = one_in;
}

void td__step_point(void)
{
    if (shake_one_in)
        shake();
    if (++steps != act_at)
        return;
    if (act) {
        act();
        return;
    }
    td__coverage_save();
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

long td__call_at_step(long n, void (*function)(void))
{
    long counted = steps;
    steps = 0;
    act_at = n;
    act = function;
    return counted;
}

long td__kill_at_step(long n)
{
    return td__call_at_step(n, NULL);
}
#else
typedef int td__no_faults;
#endif
