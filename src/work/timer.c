/* SPDX-License-Identifier: MIT */
/*
 * Timers: workers on threads whose target first waits, and whose argument begins with what it needs for that. The state
 * is decided once, by a compare-and-swap of the thread whose time has come or of who cancels: never both.
 */
#include <tandem/sync.h>
#include <tandem/timer.h>
#include "work/worker.h"

enum { WAITING = 0, BEGUN = 1, CANCELLED = 2 };

typedef struct timer {
    td_target *target;
    td_time interval;
    int arg_kind;
    _Atomic uint32_t state; /* WAITING ... */
    td_event over;          /* set by who cancels, to end the wait */
    _Alignas(16) unsigned char arg[];
} timer;

static bool decide(timer *t, uint32_t state)
{
    uint32_t waiting = WAITING;
    return td__cas_acq_rel(&t->state, &waiting, state) || waiting == state;
}

static int wait_and_run(td_call *call)
{
    timer *t = (timer *)(uintptr_t)call->arg;
    int r = td_event_wait_with(&t->over, t->interval, td_call_cancel(call));
    if (r == TD_ETIMEOUT ? !decide(t, BEGUN) : decide(t, CANCELLED)) {
        if (r < 0 && r != TD_ETIMEOUT && r != TD_ECANCELLED)
            return td_fail(call, r, "%s", td_last_message());
        return td_fail(call, TD_ECANCELLED, "cancelled before its time");
    }
    call->arg_size -= sizeof *t;
    call->arg = call->arg_size > 0 ? t->arg : NULL;
    call->arg_kind = t->arg_kind;
    return t->target(call);
}

static int check(const td_timer_options *options)
{
    if (!options)
        return td__fail(TD_EINVAL, "cannot create a timer: its options are NULL");
    if (options->interval.ns == 0)
        return td__fail(TD_EINVAL, "cannot create a timer: it has no interval");
    if (!options->target)
        return td__fail(TD_EINVAL, "cannot create a timer: its target is NULL");
    if (options->args.size > TD_VALUE_MAX - sizeof(timer))
        return td__fail(TD_ETOOBIG, "cannot create a timer: its argument of %zu bytes is larger than the limit",
                        options->args.size);
    return 0;
}

td_worker *td_timer_create(const td_timer_options *given)
{
    td_timer_options options = { .target = NULL };
    if (given)
        memcpy(&options, given, given->struct_size < sizeof options ? given->struct_size : sizeof options);
    if (check(given ? &options : NULL) < 0)
        return NULL;
    size_t size = sizeof(timer) + options.args.size;
    timer *t = td__alloc(size);
    if (!t) {
        td__fail(TD_ENOMEM, "cannot create a timer: out of memory for its argument of %zu bytes", options.args.size);
        return NULL;
    }
    t->target = options.target;
    t->interval = options.interval;
    t->arg_kind = options.args.kind;
    if (options.args.size > 0)
        memcpy(t->arg, options.args.data, options.args.size);
    td_worker *worker = td_thread(.target = wait_and_run, .args = TD_BYTES(t, size), .name = options.name,
                                  .daemon = options.daemon, .stack_size = options.stack_size);
    td__release(t);
    return worker;
}

int td_timer_cancel(td_worker *worker)
{
    if (!worker)
        return td__pending();
    if (worker->epoch != td__the.epoch)
        return td__fail(TD_EFORKED, "td_timer_cancel: timer '%s' belongs to the parent of this forked process",
                        worker->name);
    if (worker->target != wait_and_run || worker->kind != TD_THREAD)
        return td__fail(TD_EINVAL, "td_timer_cancel: worker '%s' is not a timer", worker->name);
    timer *t = (timer *)(void *)worker->arg;
    if (!decide(t, CANCELLED))
        return td__fail(TD_ESTATE, "td_timer_cancel: the target of timer '%s' has been called already", worker->name);
    td_event_set(&t->over);
    return 0;
}
