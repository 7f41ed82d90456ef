/* SPDX-License-Identifier: MIT */
/*
 * The program: its beginning, its end, its forks, and which worker runs what.
 *
 * After a fork by the user, the child starts afresh: it has no workers, no spawner and no watcher; its copies of their
 * descriptors are closed. td__the.epoch grows, so that handles of the parent are told from its own.
 */
#include "sync/forks.h"
#include "sync/party.h"
#include "work/spawner.h"
#include "work/waiting.h"
#include "work/worker.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#define DAEMON_LIMIT_S 1 /* from SIGTERM to SIGKILL, at the program's end */

td__program td__the = { .options = { .spares = 2 } };
_Thread_local td_worker *td__self;

static pthread_once_t ready_once = PTHREAD_ONCE_INIT;
static pthread_key_t stand_in_key;         /* frees the stand-in of a thread that Tandem did not start */
static td_worker main_place, parent_place; /* their first reference is never given back */
static char main_name[TD_NAME_MAX], parent_name[TD_NAME_MAX];
static td_worker *main_worker, *parent_worker; /* made at first use, under main_lock */
static td__lock main_lock;
static _Thread_local bool is_main_thread;

/* --- arguments ---------------------------------------------------------------------------------------------- */

/* The loader hands the arguments to constructors, before main: the spawner is started with the same. */
__attribute__((constructor)) static void keep_arguments(int argc, char **argv, char **environment)
{
    (void)environment;
    td__the.argc = argc;
    td__the.argv = argv;
    is_main_thread = true;
}

/* --- workers that were not started ---------------------------------------------------------------------------- */

/* The name stays where it is. */
static void set_stand_in(td_worker *worker, char *name, td_worker_kind kind, bool daemon, pid_t pid)
{
    memset(worker, 0, sizeof *worker);
    worker->references = 1;
    worker->epoch = td__the.epoch;
    worker->kind = (uint8_t)kind;
    worker->stand_in = true;
    worker->daemon = daemon;
    worker->phase = TD__STARTED;
    worker->sentinel = -1;
    worker->pid = pid;
    worker->native_id = pid;
    worker->name = name;
}

bool td__is_kept(const td_worker *worker)
{
    return worker == &main_place || worker == &parent_place;
}

static void forget_stand_in(void *worker)
{
    td__worker_unref(worker);
}

td_worker *td_main(void)
{
    td__program_ready();
    td__lock_acquire(&main_lock);
    if (!main_worker) {
        td__copy_string(main_name, sizeof main_name, "MainThread");
        set_stand_in(&main_place, main_name, TD_THREAD, false, td__the.pid);
        main_worker = &main_place;
    }
    td__lock_release(&main_lock);
    return main_worker;
}

td_worker *td_current(void)
{
    if (td__self)
        return td__self;
    if (is_main_thread)
        return td__self = td_main();
    td__program_ready();
    td__self = td__alloc(sizeof *td__self + TD_NAME_MAX);
    if (!td__self) {
        td__fail(TD_ENOMEM, "out of memory");
        return NULL;
    }
    set_stand_in(td__self, (char *)td__self->arg, TD_THREAD, true, td__the.pid);
    td__next_name("Dummy", TD_THREAD, td__self->name);
    td__store_relaxed(&td__self->native_id, td__thread_id());
    td__self->thread = pthread_self();
    pthread_setspecific(stand_in_key, td__self);
    return td__self;
}

td_worker *td_parent(void)
{
    return parent_worker;
}

/* One thread, at a process's beginning. */
void td__main_reset(const char *name, bool daemon, const char *parents_name, pid_t parent_pid)
{
    td__copy_string(main_name, sizeof main_name, name);
    td__copy_string(parent_name, sizeof parent_name, parents_name);
    set_stand_in(&main_place, main_name, TD_PROCESS, daemon, td__the.pid);
    set_stand_in(&parent_place, parent_name, TD_PROCESS, false, parent_pid);
    main_worker = &main_place;
    parent_worker = &parent_place;
    is_main_thread = true;
    td__self = main_worker;
}

/* --- the gate: a count of starts under way, and whether the program finishes; a futex ---------------------------- */

#define FINISHING 0x80000000u
static _Atomic uint32_t gate;

void td__gate_enter(void)
{
    uint32_t now = td__load_relaxed(&gate);
    for (;;) {
        if (now & FINISHING) {
            td__futex_wait(&gate, now, 0, false);
            now = td__load_relaxed(&gate);
        } else if (td__cas_acq_rel(&gate, &now, now + 1)) {
            return;
        }
    }
}

void td__gate_leave(void)
{
    if (td__fetch_sub_acq_rel(&gate, 1) == (FINISHING | 1))
        td__futex_wake(&gate, INT_MAX, false);
}

/* False: another thread is finishing, and has finished by the time this returns. */
static bool gate_close(void)
{
    uint32_t now = td__load_relaxed(&gate);
    while (!(now & FINISHING))
        if (td__cas_acq_rel(&gate, &now, now | FINISHING))
            break;
    if (now & FINISHING) {
        while ((now = td__load_acquire(&gate)) & FINISHING)
            td__futex_wait(&gate, now, 0, false);
        return false;
    }
    while ((now = td__load_acquire(&gate)) != FINISHING)
        td__futex_wait(&gate, now, 0, false);
    return true;
}

static void gate_open(void)
{
    td__store_release(&gate, 0);
    td__futex_wake(&gate, INT_MAX, false);
}

/* --- forks ----------------------------------------------------------------------------------------------------- */

static bool spawns(void)
{
    return td__the.role == TD__ROLE_SPAWNER;
}

static void before_fork(bool spawner)
{
    if (spawner)
        return;
    td__watch_strays();
    td__registry_lock();
    td__lock_acquire(&main_lock);
    td__bridge_lock();
}

static void after_fork_in_parent(bool spawner)
{
    if (spawner)
        return;
    td__bridge_unlock();
    td__lock_release(&main_lock);
    td__registry_unlock();
}

static void after_fork_in_child(bool spawner)
{
    td__the.pid = td__getpid();
    if (spawner) { /* it becomes a worker, and says so itself */
        td__registry_abandon();
        td__hook_forget();
        td__bridge_forget(); /* what .prepare has left */
        return;
    }
    td__lock_release(&main_lock);
    td__registry_forget();
    td__registry_unlock();
    td__the.epoch++;
    td__the.role = TD__ROLE_MAIN;
    td__the.slot = NULL;
    gate = 0;
    td__hook_forget();
    td__fork_records_forget();
    td__identity_forget();
    td__spawners_forget(); /* before those that the watcher watches, the current one among them, are freed */
    td__watcher_forget();
    td__bridge_forget();
    main_worker = parent_worker = NULL; /* made anew in the same places */
    td__self = NULL;
    is_main_thread = true;
}

/* --- the end ----------------------------------------------------------------------------------------------------- */

static bool is_other(const td_worker *worker)
{
    return worker != td__self;
}

static bool holds_up(const td_worker *worker)
{
    /* One that is being started cannot be joined yet. Inside the gate there is none. */
    return !worker->daemon && is_other(worker) && td__load_acquire(&worker->phase) != TD__STARTING;
}

static bool is_daemon_process(const td_worker *worker)
{
    return worker->daemon && worker->kind == TD_PROCESS;
}

static bool unsignalled_daemon(const td_worker *worker)
{
    return is_daemon_process(worker) && td__load_relaxed(&worker->stopping) == 0;
}

/* False: one of them cannot be joined, as it joins us. */
static bool join_all(void)
{
    td_worker *worker;
    while ((worker = td__registry_find(holds_up)) != NULL) {
        int code = worker->kind == TD_THREAD ? td__thread_wait(worker, 0) : td__process_wait(worker, 0);
        td__worker_unref(worker);
        if (code < 0)
            return false;
    }
    return true;
}

/* False: it cannot be, and ends with its spawner, or with us. */
static bool kill_daemon(td_worker *worker)
{
    if (td__process_signal(worker, SIGKILL) < 0) {
        /* As a rule no descriptor is left. Those that follow our life are killed without, and leave two. */
        td__life_end();
        if (td__process_signal(worker, SIGKILL) < 0)
            return false;
    }
    td__process_wait(worker, 0);
    return true;
}

static void end_daemons(void)
{
    td_worker *worker;
    while ((worker = td__registry_find(unsignalled_daemon)) != NULL) {
        td__process_signal(worker, SIGTERM);
        td__fetch_or_acq_rel(&worker->stopping, (uint32_t)TD__SIGNAL_BIT(SIGTERM));
        td__worker_unref(worker);
    }
    int64_t deadline = 0;
    while ((worker = td__registry_find(is_daemon_process)) != NULL) {
        if (deadline == 0)
            deadline = td__deadline(td_s(DAEMON_LIMIT_S));
        bool ended = td__process_wait(worker, deadline) == 0 || kill_daemon(worker);
        td__store_relaxed(&worker->asked, 1); /* it is the program's end that ended it */
        td__worker_unref(worker);
        if (!ended)
            return;
    }
}

static void finish(void)
{
    /* Outside of the gate, as those who are joined may start others, and so may the hook. */
    bool last = false;
    while (!last) {
        bool all = join_all();
        td__registry_tell_all();
        if (!gate_close())
            break;
        last = !all || td__registry_list(NULL, 0, holds_up) == 0;
        if (last) {
            end_daemons();
            td__bridge_stop();
            td__spawners_finish();
            td__identity_forget();
        }
        gate_open();
    }
    td__registry_tell_all();
}

int td_finish(void)
{
    if (td__self && td__self->kind == TD_THREAD && !td__self->stand_in)
        return td__fail(TD_EDEADLOCK, "td_finish: worker '%s' would wait for itself", td__self->name);
    if (td__the.role == TD__ROLE_MAIN)
        finish();
    else
        td__program_end_worker();
    return 0;
}

int td__program_end_worker(void)
{
    join_all();
    end_daemons();
    td__registry_tell_all();
    int error = td__flush_all();
    return error == EBADF ? 0 : error; /* a standard stream that is closed has lost nothing of ours */
}

static void leave(int status, void *unused)
{
    (void)unused;
    td__flush_all();
    td__exit_now(status);
}

void td__program_guard_exit(void)
{
    on_exit(leave, NULL);
}

static void at_exit(void)
{
    if (td__the.role == TD__ROLE_MAIN)
        finish();
}

/* --- the beginning ----------------------------------------------------------------------------------------------- */

static void make_ready(void)
{
    td__the.pid = td__getpid();
    static const td__forks_handlers handlers = { before_fork, after_fork_in_parent, after_fork_in_child, spawns };
    td__forks_register(TD__FORKS_WORK, &handlers);
    pthread_key_create(&stand_in_key, forget_stand_in);
    atexit(at_exit);
}

void td__program_ready(void)
{
    pthread_once(&ready_once, make_ready);
}

int td_init_with(const td_init_options *options)
{
    if (td__the.initialized)
        return 0;
    td_init_options given = { .spares = 0 };
    if (options)
        memcpy(&given, options, options->struct_size < sizeof given ? options->struct_size : sizeof given);
    if (given.spares > TD__SPARES_MAX)
        return td__fail(TD_EINVAL, "td_init: %u spares are more than the limit of %d", given.spares, TD__SPARES_MAX);
    if (given.spares == 0)
        given.spares = 2;
    td__the.options = given;
    td__the.born_ignored = td__signals_ignored();
    td__the.pid = td__getpid();
    is_main_thread = true;
    td__program_ready();
    td__the.initialized = true;
    td__spawner_role();
    /* If it cannot be made now, a start of a process tries again, and says so. */
    td__region_create();
    if (!given.start_now)
        return 0;
    td__identity identity;
    if (td__identity_get(&identity) < 0)
        return td__fail(TD_ESYSTEM, "td_init: cannot start the spawner: read /proc/thread-self/status: %s",
                        strerror(errno));
    td__spawner *spawner = td__spawner_get(&identity, "the first");
    if (!spawner)
        return td_last_error();
    td__spawner_unref(spawner);
    return 0;
}
