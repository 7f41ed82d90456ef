/* SPDX-License-Identifier: MIT */
/*
 * Workers on threads.
 *
 * pthread_join() may be called once, and it is the cheapest way to wait for a thread (no wake-up beside the one the
 * kernel makes for it). So one of the joiners calls it and the others sleep on `joining`; one with a time limit first
 * waits for the thread to say, in `phase`, that it has ended. The thread holds a reference to its handle: if that is
 * the last one, it detaches itself; else the last one who has the handle joins it, so that no thread is left behind.
 */
#include "work/worker.h"

#include <errno.h>
#include <limits.h>

/* Nobody had a handle that could ask, and the hook has been told. Somebody may have got one meanwhile. */
static void ended_alone(void *arg)
{
    td_worker *worker = arg;
    td__self = NULL;
    if (td__the.epoch != worker->epoch) /* the hook forked, and this is the child */
        return;
    if (!td__registry_leave(worker, true))
        return;
    pthread_detach(pthread_self());
    td__store_relaxed(&worker->references, 1);
    td__store_relaxed(&worker->joining, TD__JOINED);
    td__worker_unref(worker);
}

/* The thread's last act, whether its target has returned or it was left by pthread_exit or pthread_cancel. */
static void ended(td_worker *worker)
{
    td__worker_close_connections(worker);
    td__lock_acquire(&worker->lock);
    /* Release, at least: publishes the outcome to those who see the thread ended; before the descriptor says so. */
    td__store_seq_cst(&worker->phase, TD__COLLECTED);
    if (td__load_seq_cst(&worker->timed)) /* see wait_for_end() */
        td__futex_wake(&worker->phase, INT_MAX, false);
    if (worker->sentinel >= 0)
        td__event_fd_signal(worker->sentinel);
    td__lock_release(&worker->lock);
    if (!td__registry_leave(worker, false)) {
        td__self = NULL;
        return;
    }
    pthread_cleanup_push(ended_alone, worker); /* a hook may leave by pthread_exit */
    td__worker_tell(worker);
    pthread_cleanup_pop(1);
}

/* No return from the target: as when a process exits inside it. */
static void left(void *arg)
{
    td_worker *worker = arg;
    if (td__the.epoch != worker->epoch)
        return;
    worker->outcome = TD_CRASHED;
    worker->code = TD_NO_CODE;
    worker->exitcode = 0;
    td__worker_say(worker, "exited without returning");
    ended(worker);
}

static void *run(void *arg)
{
    td_worker *worker = arg;
    uint32_t epoch = worker->epoch, starting = TD__STARTING;
    td__self = worker;
    td__cas_acq_rel(&worker->phase, &starting, TD__STARTED);
    td__store_relaxed(&worker->native_id, td__thread_id());
    td__thread_name(worker->name);
    td_call call;
    td__call_prepare(&call, worker->arg, worker->arg_size, worker->arg_kind, worker->name, &worker->cancel);
    call.connections = worker->connections;
    call.connection_count = worker->connection_count;
    int code;
    td_state state;
    pthread_cleanup_push(left, worker);
    state = td__call_run(&call, worker->target, &code);
    pthread_cleanup_pop(0);
    if (td__the.epoch != epoch) {
        /* The target forked, and this is the child: its thread is no worker any more. */
        td__release(call.result);
        return NULL;
    }
    worker->outcome = (uint8_t)state;
    worker->code = code;
    worker->exitcode = td__exitcode_of(code);
    worker->result = call.result;
    worker->result_size = (uint32_t)call.result_size;
    worker->result_kind = (uint8_t)call.result_kind;
    td__worker_say(worker, call.message);
    ended(worker);
    return NULL;
}

int td__thread_start(td_worker *worker)
{
    td__worker_ref(worker); /* the thread's */
    td__registry_add(worker);
    td__store_relaxed(&worker->pid, td__the.pid);
    if (td__thread_create(&worker->thread, (size_t)worker->stack_units * TD__STACK_UNIT, run, worker) == 0) {
        /* The thread does the same, as its first act, and may have ended by now. Release: whoever sees it started can
         * join worker->thread, which pthread_create writes before the thread runs. */
        uint32_t starting = TD__STARTING;
        td__cas_acq_rel(&worker->phase, &starting, TD__STARTED);
        return 0;
    }
    int error = errno;
    td__store_release(&worker->phase, TD__CREATED);
    td__registry_remove(worker);
    td__worker_unref(worker);
    return td__start_failed(worker, "pthread_create", error);
}

/* Until the thread has ended by its own account; it is then only leaving. */
static int wait_for_end(td_worker *worker, int64_t deadline)
{
    /* Sequentially consistent, with ended(): either the thread sees that somebody waits, or we see that it has ended.
     */
    td__store_seq_cst(&worker->timed, 1);
    uint32_t phase;
    while ((phase = td__load_seq_cst(&worker->phase)) != TD__COLLECTED)
        if (td__futex_wait(&worker->phase, phase, deadline, false) < 0 && errno == ETIMEDOUT &&
            td__load_seq_cst(&worker->phase) != TD__COLLECTED)
            return td__fail(TD_ETIMEOUT, "worker '%s' has not ended within the time limit", worker->name);
    return 0;
}

int td__thread_wait(td_worker *worker, int64_t deadline)
{
    if (deadline && wait_for_end(worker, deadline) < 0)
        return TD_ETIMEOUT;
    for (;;) {
        /* Acquire: sees what the joiner saw of the thread before its release below. */
        uint32_t joining = td__load_acquire(&worker->joining);
        if (joining == TD__JOINED)
            return 0;
        if (joining == TD__UNJOINED && td__cas_acq_rel(&worker->joining, &joining, TD__JOINING)) {
            int error = td__thread_join(worker->thread);
            /* Release: what this thread has seen of it. Whoever sleeps has left TD__AWAITED here. */
            if (td__exchange_acq_rel(&worker->joining, error ? TD__UNJOINED : TD__JOINED) == TD__AWAITED)
                td__futex_wake(&worker->joining, INT_MAX, false);
            if (error)
                return td__fail(TD_ESYSTEM, "cannot join worker '%s': %s", worker->name, strerror(error));
            return 0;
        }
        if (joining == TD__AWAITED ||
            (joining == TD__JOINING && td__cas_acq_rel(&worker->joining, &joining, TD__AWAITED)))
            td__futex_wait(&worker->joining, TD__AWAITED, 0, false);
    }
}

/* The handle is about to be freed. The thread has given its reference back, so it is at its very end. */
void td__thread_last_reference(td_worker *worker)
{
    if (td__load_acquire(&worker->phase) == TD__COLLECTED && td__load_acquire(&worker->joining) == TD__UNJOINED)
        td__thread_join(worker->thread);
}
