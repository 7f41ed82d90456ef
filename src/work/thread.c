/* SPDX-License-Identifier: MIT */
/*
 * Workers on threads.
 *
 * pthread_join() may be called once, and it is the cheapest way to wait for a thread (no wake-up beside the one the
 * kernel makes for it). So one of the joiners calls it, the others sleep on `joining`; a joiner that gives up at its
 * time limit hands the role on. The thread holds a reference to its handle: if that is the last one, it detaches
 * itself; else the last one who has the handle joins it, so that no thread is left behind.
 */
#include "work/worker.h"

#include <errno.h>
#include <limits.h>

/* The thread's last act, whether its target has returned or it was left by pthread_exit or pthread_cancel. */
static void ended(td_worker *worker)
{
    td__lock_acquire(&worker->lock);
    /* Release: publishes the outcome to those who see the thread ended; before the descriptor says so. */
    td__store_release(&worker->phase, TD__COLLECTED);
    if (worker->sentinel >= 0)
        td__event_fd_signal(worker->sentinel);
    td__lock_release(&worker->lock);
    td__self = NULL;
    td__registry_remove(worker);
    if (td__fetch_sub_acq_rel(&worker->references, 1) == 1) { /* nobody can join it any more */
        pthread_detach(pthread_self());
        td__store_relaxed(&worker->references, 1);
        td__store_relaxed(&worker->joining, TD__JOINED);
        td__worker_unref(worker);
    }
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
    td__format(worker->message, sizeof worker->message, "exited without returning");
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
    td_call call = { .arg = worker->arg,
                     .arg_size = worker->arg_size,
                     .arg_kind = worker->arg_kind,
                     .name = worker->name,
                     .cancel = &worker->cancel };
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
    worker->outcome = state;
    worker->code = code;
    worker->exitcode = td__exitcode_of(code);
    worker->result = call.result;
    worker->result_size = call.result_size;
    worker->result_kind = call.result_kind;
    memcpy(worker->message, call.message, sizeof worker->message);
    ended(worker);
    return NULL;
}

int td__thread_start(td_worker *worker)
{
    td__worker_ref(worker); /* the thread's */
    td__registry_add(worker);
    td__store_relaxed(&worker->pid, td__getpid());
    if (td__thread_create(&worker->thread, worker->stack_size, run, worker) == 0) {
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

int td__thread_wait(td_worker *worker, int64_t deadline)
{
    for (;;) {
        /* One that has ended by its own account is only leaving: that takes no time worth a limit. */
        if (td__load_acquire(&worker->phase) == TD__COLLECTED)
            deadline = 0;
        /* Acquire: sees what the joiner saw of the thread before its release below. */
        uint32_t joining = td__load_acquire(&worker->joining);
        int error = 0;
        if (joining == TD__JOINED)
            return 0;
        if (joining == TD__UNJOINED && td__cas_acq_rel(&worker->joining, &joining, TD__JOINING)) {
            error = td__thread_join(worker->thread, deadline);
            td__store_release(&worker->joining, error ? TD__UNJOINED : TD__JOINED);
            td__futex_wake(&worker->joining, INT_MAX, false);
            if (error == 0)
                return 0;
            if (error != ETIMEDOUT)
                return td__fail(TD_ESYSTEM, "cannot join worker '%s': %s", worker->name, strerror(error));
        } else if (joining == TD__JOINING && td__futex_wait(&worker->joining, TD__JOINING, deadline, false) < 0) {
            error = errno;
        }
        if (error == ETIMEDOUT && td__load_acquire(&worker->phase) != TD__COLLECTED)
            return td__fail(TD_ETIMEOUT, "worker '%s' has not ended within the time limit", worker->name);
    }
}

/* The handle is about to be freed. The thread has given its reference back, so it is at its very end. */
void td__thread_last_reference(td_worker *worker)
{
    if (td__load_acquire(&worker->phase) == TD__COLLECTED && td__load_acquire(&worker->joining) == TD__UNJOINED)
        td__thread_join(worker->thread, 0);
}
