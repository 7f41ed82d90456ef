/* SPDX-License-Identifier: MIT */
/* The public calls on workers: what is the same for threads and processes is here, the rest one call further. */
#include <tandem/shared.h>
#include "work/worker.h"

#include <errno.h>
#include <stdio.h>

#define STACK_LEAST  32768
#define SENTENCE_MAX sizeof(((td__text *)0)->sentence)

static td__lock hook_lock;
static td_failure_hook *hook;       /* under hook_lock; NULL: the default */
static _Atomic uint32_t numbers[3]; /* by kind, for the default names */

/* By hand: the libc's formatting would be a good part of what a thread's start costs us. */
size_t td__next_name(const char *prefix, td_worker_kind kind, char *to)
{
    char digits[12];
    size_t length = strlen(prefix), count = 0;
    memcpy(to, prefix, length);
    to[length++] = '-';
    uint32_t left = td__fetch_add_relaxed(&numbers[kind], 1) + 1;
    do
        digits[count++] = (char)('0' + left % 10);
    while ((left /= 10) > 0);
    while (count > 0)
        to[length++] = digits[--count];
    to[length] = 0;
    return length;
}

/* --- what a worker has to say -------------------------------------------------------------------------------- */

/* Of all workers that had something to say when there was no memory. */
static td__text unkept = { .message = "there was no memory for its message" };

void td__worker_say(td_worker *worker, const char *message)
{
    td__text *text = td__load_acquire(&worker->text);
    if (text == &unkept)
        text = NULL;
    if (!text && message[0]) {
        text = td__alloc(sizeof *text);
        if (!text)
            text = &unkept;
    }
    if (text && text != &unkept)
        td__format(text->message, sizeof text->message, "%s", message);
    td__store_release(&worker->text, text);
}

static const char *message_of(const td_worker *worker)
{
    /* Acquire: the contents, stored before by td__worker_say or sentence_of. */
    const td__text *text = td__load_acquire(&worker->text);
    return text ? text->message : "";
}

/* --- handles ------------------------------------------------------------------------------------------------- */

static bool name_is_good(const char *name)
{
    size_t length = strnlen(name, TD_NAME_MAX);
    return length > 0 && length < TD_NAME_MAX;
}

static int check_options(td_worker_kind kind, const td_worker_options *options)
{
    if (kind != TD_THREAD && kind != TD_PROCESS)
        return td__fail(TD_EINVAL, "cannot create a worker: its kind %d is neither TD_THREAD nor TD_PROCESS",
                        (int)kind);
    const char *what = kind == TD_THREAD ? "thread" : "process";
    if (!options->target)
        return td__fail(TD_EINVAL, "cannot create a %s: its target is NULL", what);
    if (options->name && !options->name[0])
        return td__fail(TD_EINVAL, "cannot create a %s: its name is empty", what);
    if (options->name && !name_is_good(options->name))
        return td__fail(TD_EINVAL, "cannot create a %s: its name is longer than the limit of %d bytes", what,
                        TD_NAME_MAX - 1);
    if (options->method != TD_METHOD_DEFAULT && options->method != TD_FORKSERVER && options->method != TD_FORK)
        return td__fail(TD_EINVAL, "cannot create a %s: its start method %d is unknown", what, (int)options->method);
    if (kind == TD_THREAD && options->method != TD_METHOD_DEFAULT)
        return td__fail(TD_EINVAL, "cannot create a thread: a start method is for processes");
    if (options->daemon != TD_DAEMON_INHERIT && options->daemon != TD_DAEMON_YES && options->daemon != TD_DAEMON_NO)
        return td__fail(TD_EINVAL, "cannot create a %s: its daemon option %d is unknown", what, (int)options->daemon);
    if (options->stack_size && kind == TD_PROCESS)
        return td__fail(TD_EINVAL, "cannot create a process: a stack size is for threads");
    if (options->stack_size && options->stack_size < STACK_LEAST)
        return td__fail(TD_EINVAL, "cannot create a thread: a stack of %zu bytes is below the least, %d",
                        options->stack_size, STACK_LEAST);
    const td_value *args = &options->args;
    if (args->size > 0 && !args->data)
        return td__fail(TD_EINVAL, "cannot create a %s: an argument of %zu bytes at NULL", what, args->size);
    if (args->kind < TD_KIND_NONE || args->kind > TD_KIND_SHARED)
        return td__fail(TD_EINVAL, "cannot create a %s: the kind %d of its argument is unknown", what, args->kind);
    if (args->kind == TD_KIND_SHARED &&
        (args->size != sizeof(void *) || !td_shared_is(*(const void *const *)args->data))) {
        if (args->size == sizeof(void *) && !*(const void *const *)args->data && td_last_error() < 0)
            return td_last_error(); /* why there is nothing to point to */
        return td__fail(TD_EINVAL,
                        "cannot create a %s: its argument %p does not point into the shared heap "
                        "(td_shared_alloc, or a queue made with .shared)",
                        what, args->size == sizeof(void *) ? *(void *const *)args->data : args->data);
    }
    if (args->size > TD_VALUE_MAX)
        return td__fail(TD_ETOOBIG, "cannot create a %s: an argument of %zu bytes is larger than the limit of %zu",
                        what, args->size, TD_VALUE_MAX);
    if (options->connections.count > TD_CONNECTIONS_MAX)
        return td__fail(TD_EINVAL, "cannot create a %s: %zu connections are more than the limit of %d", what,
                        options->connections.count, TD_CONNECTIONS_MAX);
    for (size_t i = 0; i < options->connections.count; i++)
        if (!options->connections.list[i])
            return td__fail(TD_EINVAL, "cannot create a %s: connection %zu is NULL", what, i);
    return 0;
}

/* The place of the name that a handle is created with. It stays as it is, for whoever has it from td_name. */
static char *first_name(td_worker *worker)
{
    return (char *)worker->arg + worker->arg_size;
}

static bool inherited_daemon(void)
{
    td_worker *self = td__self;
    return self && self->daemon;
}

static uint32_t stack_units(size_t size)
{
    size_t units = (size - 1) / TD__STACK_UNIT + 1;
    return units < UINT32_MAX ? (uint32_t)units : UINT32_MAX; /* more than any system has */
}

void td__worker_close_connections(td_worker *worker)
{
    for (size_t i = 0; i < worker->connection_count; i++)
        td__connection_take_back(worker->connections[i]);
    worker->connection_count = 0;
    td__release(worker->connections);
    worker->connections = NULL;
}

static int copy_connections(td_worker *worker, const td_connections *given)
{
    char why[TD_NAME_MAX + 32];
    if (given->count == 0)
        return 0;
    worker->connections = td__alloc(given->count * sizeof(td_connection *));
    if (!worker->connections)
        return td__fail(TD_ENOMEM, "cannot create worker '%s': out of memory", worker->name);
    td__format(why, sizeof why, "cannot create worker '%s'", worker->name);
    for (size_t i = 0; i < given->count; i++) {
        td_connection *copy = td__connection_copy(given->list[i], why);
        if (!copy)
            return -1;
        td__connection_lend(copy);
        worker->connections[worker->connection_count++] = copy;
    }
    return 0;
}

td_worker *td_worker_create(td_worker_kind kind, const td_worker_options *given)
{
    td_worker_options options = { .target = NULL };
    if (!given) {
        td__fail(TD_EINVAL, "cannot create a worker: its options are NULL");
        return NULL;
    }
    if (given->struct_size == 0) {
        td__fail(TD_EINVAL, "cannot create a worker: struct_size is not set");
        return NULL;
    }
    memcpy(&options, given, given->struct_size < sizeof options ? given->struct_size : sizeof options);
    if (check_options(kind, &options) < 0)
        return NULL;
    td__program_ready();
    char numbered[TD_NAME_MAX];
    const char *name = options.name ? options.name : numbered;
    size_t length =
        options.name ? strlen(options.name) : td__next_name(kind == TD_THREAD ? "Thread" : "Process", kind, numbered);
    td_worker *worker = td__alloc(sizeof *worker + options.args.size + length + 1);
    if (!worker) {
        td__fail(TD_ENOMEM, "cannot create a worker: out of memory for its argument of %zu bytes", options.args.size);
        return NULL;
    }
    worker->references = 1;
    worker->epoch = td__the.epoch;
    worker->kind = (uint8_t)kind;
    worker->method = (uint8_t)options.method;
    worker->target = options.target;
    if (options.stack_size > 0)
        worker->stack_units = stack_units(options.stack_size);
    worker->daemon = options.daemon == TD_DAEMON_INHERIT ? inherited_daemon() : options.daemon == TD_DAEMON_YES;
    worker->sentinel = -1;
    worker->code = worker->exitcode = TD_NO_CODE;
    worker->arg_size = (uint32_t)options.args.size;
    worker->arg_kind = (uint8_t)options.args.kind;
    if (options.args.size > 0)
        memcpy(worker->arg, options.args.data, options.args.size);
    worker->name = first_name(worker);
    memcpy(worker->name, name, length);
    if (copy_connections(worker, &options.connections) < 0) {
        td__worker_close_connections(worker);
        td__release(worker);
        return NULL;
    }
    return worker;
}

void td__worker_ref(td_worker *worker)
{
    /* Relaxed: whoever takes a reference has one, or the registry's lock, already. */
    td__fetch_add_relaxed(&worker->references, 1);
}

void td__worker_unref(td_worker *worker)
{
    /* Release: all that was done with the worker; acquire, in the last one: before it is freed. */
    if (!worker || td__fetch_sub_acq_rel(&worker->references, 1) != 1)
        return;
    if (td__is_kept(worker)) { /* borrowed handles, given back once too often */
        td__store_relaxed(&worker->references, 1);
        return;
    }
    bool ours = worker->epoch == td__the.epoch;
    if (ours)
        td__registry_drop(worker);
    if (ours && !worker->stand_in) {
        if (worker->kind == TD_THREAD)
            td__thread_last_reference(worker);
        else
            td__process_let_go(worker);
        td__worker_tell(worker);
    }
    td__worker_close_connections(worker);
    td__close(worker->sentinel);
    td__release(worker->result);
    if (worker->text != &unkept)
        td__release(worker->text);
    if (worker->name != first_name(worker))
        td__release(worker->name);
    td__release(worker);
}

/* --- checks that every call begins with ------------------------------------------------------------------------ */

static int check(const td_worker *worker, const char *call)
{
    if (!worker)
        return td__pending();
    if (worker->epoch != td__the.epoch)
        return td__fail(TD_EFORKED, "%s: worker '%s' belongs to the parent of this forked process", call, worker->name);
    return 0;
}

static uint32_t phase_of(const td_worker *worker)
{
    return td__load_acquire(&worker->phase);
}

static int check_started(const td_worker *worker, const char *call)
{
    int code = check(worker, call);
    if (code == 0 && (phase_of(worker) == TD__CREATED || phase_of(worker) == TD__STARTING))
        code = message_of(worker)[0] && phase_of(worker) == TD__CREATED
                   ? td__fail(TD_ESTATE, "%s", message_of(worker)) /* why its start failed */
                   : td__fail(TD_ESTATE, "%s: worker '%s' has not been started", call, worker->name);
    return code;
}

/* Ended, with its outcome in the handle? */
static bool has_ended(td_worker *worker)
{
    if (phase_of(worker) == TD__COLLECTED)
        return true;
    return phase_of(worker) == TD__STARTED && worker->kind == TD_PROCESS && !worker->stand_in &&
           worker->epoch == td__the.epoch && td__process_ended(worker);
}

/* The same, and remembers that somebody has asked. */
static bool ask(td_worker *worker)
{
    if (!worker || !has_ended(worker))
        return false;
    td__store_relaxed(&worker->asked, 1);
    return true;
}

/* --- start and join ---------------------------------------------------------------------------------------------- */

int td__start_failed(const td_worker *worker, const char *stage, int error)
{
    char limit[96] = "";
    int which = -1, code = TD_ESYSTEM;
    if (error == EAGAIN) {
        which = TD__LIMIT_NPROC;
        code = TD_EPROCESS;
    } else if (error == EMFILE || error == ENFILE) {
        which = TD__LIMIT_NOFILE;
        code = TD_EDESCRIPTOR;
    } else if (error == EFBIG) {
        which = TD__LIMIT_FSIZE;
        code = TD_ETOOBIG;
    } else if (error == ENOMEM || error == ENOSPC) {
        code = TD_ENOMEM;
    } else if (error == EPERM || error == EACCES) {
        code = TD_EACCESS;
    }
    if (which >= 0) {
        td__limit limits[TD__LIMITS];
        td__limits_get(limits);
        if (limits[which].soft != UINT64_MAX)
            td__format(limit, sizeof limit, " (%s is %llu)", td__limit_name(which),
                       (unsigned long long)limits[which].soft);
    }
    return td__fail(code, "cannot start worker '%s': %s: %s%s", worker->name, stage, strerror(error), limit);
}

static bool abandoned_process(const td_worker *worker)
{
    return worker->kind == TD_PROCESS && td__load_relaxed(&worker->references) == 1 &&
           phase_of(worker) == TD__STARTED && !td__process_lives(worker);
}

/* Worker processes whose handles were freed while they ran have nobody else to collect them. */
static _Atomic uint32_t abandoned;

static void collect_abandoned(void)
{
    td_worker *worker;
    while (td__load_relaxed(&abandoned) > 0 && (worker = td__registry_find(abandoned_process)) != NULL) {
        td__fetch_sub_acq_rel(&abandoned, 1);
        td__process_ended(worker);
        td__worker_unref(worker);
    }
}

int td_start(td_worker *worker)
{
    int code = check(worker, "td_start");
    if (code < 0)
        return code;
    collect_abandoned();
    uint32_t created = TD__CREATED;
    if (worker->stand_in || !td__cas_acq_rel(&worker->phase, &created, TD__STARTING))
        return td__fail(TD_ESTATE, "td_start: worker '%s' was started before; it can be started only once",
                        worker->name);
    td__gate_enter();
    if (worker->kind == TD_THREAD) {
        code = td__thread_start(worker);
    } else {
        code = td__process_start(worker);
        if (code == 0) {
            /* Release: its slot. Before it is listed, so that whoever finds it there can join it. */
            td__worker_close_connections(worker); /* the process has its own */
            td__store_release(&worker->phase, TD__STARTED);
            td__registry_add(worker);
        }
    }
    td__gate_leave();
    if (code < 0) {
        td__lock_acquire(&worker->lock);
        td__worker_say(worker, td_last_message());
        td__lock_release(&worker->lock);
        td__store_release(&worker->phase, TD__CREATED);
    }
    return code;
}

/* 0 if it can be waited for, and so it stays: who has started ends once. */
static int check_joinable(const td_worker *worker, const char *call)
{
    int code = check_started(worker, call);
    if (code < 0)
        return code;
    if (worker == td__self || worker == td_main())
        return td__fail(TD_EDEADLOCK, "%s: worker '%s' would wait for itself", call, worker->name);
    if (worker->stand_in)
        return td__fail(TD_EUNSUPPORTED, "%s: worker '%s' was not started by this process", call, worker->name);
    return 0;
}

static int wait_for(td_worker *worker, int64_t deadline)
{
    return worker->kind == TD_THREAD ? td__thread_wait(worker, deadline) : td__process_wait(worker, deadline);
}

static int join(td_worker *worker, int64_t deadline)
{
    int code = check_joinable(worker, "td_join");
    return code < 0 ? code : wait_for(worker, deadline);
}

int td_join(td_worker *worker)
{
    return join(worker, 0);
}

int td_join_for(td_worker *worker, td_time limit)
{
    return join(worker, td__deadline(limit));
}

/* One after the other: those that have ended meanwhile cost no sleep, so there are at most as many as workers. */
static int join_all(td_worker *const *workers, size_t count, int64_t deadline)
{
    int code = 0;
    if (!workers && count > 0)
        return td__fail(TD_EINVAL, "td_join_all: no array, but a count of %zu", count);
    for (size_t i = 0; i < count && code == 0; i++)
        code = check_joinable(workers[i], "td_join_all");
    for (size_t i = 0; i < count && code == 0; i++)
        code = wait_for(workers[i], deadline);
    return code;
}

int td_join_all(td_worker *const *workers, size_t count)
{
    return join_all(workers, count, 0);
}

int td_join_all_for(td_worker *const *workers, size_t count, td_time limit)
{
    return join_all(workers, count, td__deadline(limit));
}

bool td_is_alive(const td_worker *worker)
{
    if (!worker || worker->epoch != td__the.epoch || phase_of(worker) != TD__STARTED)
        return false;
    return worker->stand_in || worker->kind == TD_THREAD || td__process_lives(worker);
}

int td_run(td_worker *worker)
{
    int code = td_start(worker);
    if (code == 0)
        code = td_join(worker);
    if (code == 0) {
        switch (td_outcome(worker)) {
        case TD_RETURNED:
            break;
        case TD_FAILED:
            code = td__fail(worker->code, "%s", td_describe(worker));
            break;
        case TD_CANCELLED:
            code = td__fail(TD_ECANCELLED, "%s", td_describe(worker));
            break;
        default:
            code = td__fail(TD_EPROCESS, "%s", td_describe(worker));
        }
    }
    td_free(worker);
    return code;
}

/* --- stopping ---------------------------------------------------------------------------------------------------- */

static int stop(td_worker *worker, const char *call, int signal)
{
    int code = check_started(worker, call);
    if (code < 0 || phase_of(worker) == TD__COLLECTED)
        return code;
    if (worker->stand_in)
        return td__fail(TD_EUNSUPPORTED, "%s: worker '%s' was not started by this process", call, worker->name);
    if (worker->kind == TD_PROCESS)
        return td__process_signal(worker, signal);
    if (signal == SIGKILL)
        return td__fail(TD_EUNSUPPORTED, "%s: a thread cannot be killed; td_terminate asks worker '%s' to stop", call,
                        worker->name);
    td__fetch_or_acq_rel(&worker->stopping, (uint32_t)TD__SIGNAL_BIT(signal));
    td_cancel_fire((td_cancel *)(void *)&worker->cancel);
    return 0;
}

int td_terminate(td_worker *worker)
{
    return stop(worker, "td_terminate", SIGTERM);
}

int td_kill(td_worker *worker)
{
    return stop(worker, "td_kill", SIGKILL);
}

int td_interrupt(td_worker *worker)
{
    return stop(worker, "td_interrupt", SIGINT);
}

int td_close(td_worker *worker)
{
    int code = check(worker, "td_close");
    if (code < 0)
        return code;
    if (phase_of(worker) == TD__STARTING || (phase_of(worker) == TD__STARTED && !has_ended(worker)))
        return td__fail(TD_ESTATE, "td_close: worker '%s' is still running", worker->name);
    if (phase_of(worker) == TD__COLLECTED && worker->kind == TD_THREAD)
        td__thread_wait(worker, 0);
    if (worker->kind == TD_PROCESS)
        td__process_let_go(worker);
    td__lock_acquire(&worker->lock);
    td__close(worker->sentinel);
    worker->sentinel = -1;
    td__lock_release(&worker->lock);
    return 0;
}

void td_free(td_worker *worker)
{
    if (!worker)
        return;
    if (worker->kind == TD_PROCESS && worker->epoch == td__the.epoch && phase_of(worker) == TD__STARTED &&
        !worker->stand_in && !has_ended(worker))
        td__fetch_add_relaxed(&abandoned, 1);
    td__worker_unref(worker);
}

/* --- how it ended --------------------------------------------------------------------------------------------------
 */

int td__exitcode_of(int code)
{
    return code == 0 ? 0 : code & 0xff ? code & 0xff : 1;
}

const char *td_state_name(td_state state)
{
    static const char *const names[] = {
        "created", "running", "returned", "failed", "crashed", "timed out", "cancelled"
    };
    return (size_t)state < TD__COUNT(names) ? names[state] : "unknown";
}

td_state td_outcome(td_worker *worker)
{
    if (!worker || phase_of(worker) == TD__CREATED || phase_of(worker) == TD__STARTING)
        return TD_CREATED;
    return ask(worker) ? worker->outcome : TD_RUNNING;
}

int td_result_code(td_worker *worker)
{
    return ask(worker) ? worker->code : TD_NO_CODE;
}

int td_exitcode(td_worker *worker)
{
    return ask(worker) ? worker->exitcode : TD_NO_CODE;
}

const char *td_message(td_worker *worker)
{
    return ask(worker) || (worker && phase_of(worker) == TD__CREATED) ? message_of(worker) : "";
}

static void write_sentence(const td_worker *worker, bool ended, char *to, size_t size)
{
    char who[TD_NAME_MAX + 40];
    if (worker->kind == TD_PROCESS && td__load_relaxed(&worker->pid) > 0)
        td__format(who, sizeof who, "worker '%s' (pid %d)", worker->name, (int)td__load_relaxed(&worker->pid));
    else
        td__format(who, sizeof who, "worker '%s'", worker->name);
    const char *message = message_of(worker);
    if (!ended && phase_of(worker) == TD__CREATED && message[0])
        td__format(to, size, "%s", message);
    else if (!ended)
        td__format(to, size, "%s %s", who, phase_of(worker) == TD__CREATED ? "has not been started" : "is running");
    else if (worker->outcome == TD_RETURNED)
        td__format(to, size, "%s returned", who);
    else if (worker->outcome == TD_CRASHED || worker->signal)
        td__format(to, size, "%s %s", who, message);
    else if (message[0])
        td__format(to, size, "%s %s: %s", who, td_state_name(worker->outcome), message);
    else
        td__format(to, size, "%s %s with code %d", who, td_state_name(worker->outcome), worker->code);
}

/* Of a worker that has ended. Under its lock. */
static const char *ended_sentence(td_worker *worker)
{
    static const char *const bare[] = {
        [TD_RETURNED] = "the worker returned",
        [TD_FAILED] = "the worker failed; there is no memory to say more",
        [TD_CRASHED] = "the worker crashed; there is no memory to say more",
        [TD_TIMED_OUT] = "the worker timed out; there is no memory to say more",
        [TD_CANCELLED] = "the worker was cancelled; there is no memory to say more",
    };
    td__text *text = td__load_acquire(&worker->text);
    if (!text || text == &unkept) {
        td__text *own = td__alloc(sizeof *own);
        if (!own) /* a string that outlives the handle, whatever is asked later */
            return bare[worker->outcome];
        td__format(own->message, sizeof own->message, "%s", message_of(worker));
        td__store_release(&worker->text, text = own);
    }
    if (!text->sentence[0])
        write_sentence(worker, true, text->sentence, sizeof text->sentence);
    return text->sentence;
}

/* Of a worker that has ended, written once, for all threads that ask; before that, for this thread only. */
static const char *sentence_of(td_worker *worker)
{
    static _Thread_local char passing[SENTENCE_MAX];
    if (!has_ended(worker)) {
        write_sentence(worker, false, passing, sizeof passing);
        return passing;
    }
    td__lock_acquire(&worker->lock);
    const char *sentence = ended_sentence(worker);
    td__lock_release(&worker->lock);
    return sentence;
}

const char *td_describe(td_worker *worker)
{
    if (!worker)
        return td_last_error() < 0 ? td_last_message() : "no worker";
    ask(worker);
    return sentence_of(worker);
}

int td_result_copy(td_worker *worker, void *to, size_t size, int kind)
{
    int code = check(worker, "td_result");
    if (code < 0)
        return code;
    if (!ask(worker) || worker->outcome != TD_RETURNED)
        return td__fail(TD_ESTATE, "td_result: %s", sentence_of(worker));
    if (worker->result_kind == TD_KIND_NONE)
        return td__fail(TD_ESTATE, "td_result: worker '%s' returned without a result", worker->name);
    td__words gave, asked;
    if (worker->result_size != size || worker->result_kind != kind)
        return td__fail(TD_ETYPE, "td_result: worker '%s' gave %s, but %s is asked for", worker->name,
                        td__value_words(&gave, worker->result_kind, worker->result_size),
                        td__value_words(&asked, kind, size));
    if (!to)
        return td__fail(TD_EINVAL, "td_result: the result of worker '%s' has nowhere to go: NULL", worker->name);
    if (size > 0)
        memcpy(to, worker->result, size);
    return 0;
}

const char *td_result_str(td_worker *worker)
{
    if (check(worker, "td_result_str") < 0)
        return NULL;
    if (!ask(worker) || worker->outcome != TD_RETURNED) {
        td__fail(TD_ESTATE, "td_result_str: %s", sentence_of(worker));
        return NULL;
    }
    const char *string = worker->result;
    if (worker->result_kind == TD_KIND_STRING && worker->result_size > 0 && string[worker->result_size - 1] == 0)
        return string;
    td__words gave;
    td__fail(TD_ETYPE, "td_result_str: worker '%s' gave %s, but a string is asked for", worker->name,
             td__value_words(&gave, worker->result_kind, worker->result_size));
    return NULL;
}

void *td_result_shared(td_worker *worker)
{
    void *pointer = NULL;
    if (td_result_copy(worker, &pointer, sizeof pointer, TD_KIND_SHARED) < 0)
        return NULL;
    if (!td_shared_is(pointer)) {
        td__fail(TD_EINVAL, "td_result_shared: worker '%s' gave %p, which is not in the shared heap", worker->name,
                 pointer);
        return NULL;
    }
    return pointer;
}

const void *td_result_bytes(td_worker *worker, size_t *size)
{
    if (size)
        *size = 0;
    if (check(worker, "td_result_bytes") < 0)
        return NULL;
    if (!ask(worker) || worker->outcome != TD_RETURNED || worker->result_kind == TD_KIND_NONE) {
        td__fail(TD_ESTATE, "td_result_bytes: %s", sentence_of(worker));
        return NULL;
    }
    if (size)
        *size = worker->result_size;
    return worker->result;
}

/* --- failures that nobody asked about ------------------------------------------------------------------------------
 */

static void print_failure(const td_failure *failure)
{
    fprintf(stderr, "%s\n", failure->sentence);
}

void td__hook_forget(void)
{
    if (td__load_relaxed(&hook_lock.word)) /* not written in vain, as in td__registry_abandon */
        hook_lock = (td__lock){ 0 };
}

td_failure_hook *td_set_failure_hook(td_failure_hook *wanted)
{
    td__lock_acquire(&hook_lock);
    td_failure_hook *former = hook;
    hook = wanted;
    td__lock_release(&hook_lock);
    return former ? former : print_failure;
}

bool td__worker_untold(const td_worker *worker)
{
    return phase_of(worker) == TD__COLLECTED && (worker->outcome == TD_FAILED || worker->outcome == TD_CRASHED) &&
           !td__load_relaxed(&worker->asked) && !td__load_relaxed(&worker->told);
}

void td__worker_tell(td_worker *worker)
{
    if (!td__worker_untold(worker) || atomic_exchange_explicit(&worker->told, 1, memory_order_acq_rel))
        return;
    char sentence[SENTENCE_MAX]; /* for the hook's time, so that it needs no memory */
    write_sentence(worker, true, sentence, sizeof sentence);
    td_failure failure = { .name = worker->name,
                           .kind = worker->kind,
                           .pid = td__load_relaxed(&worker->pid),
                           .outcome = worker->outcome,
                           .exitcode = worker->exitcode,
                           .message = message_of(worker),
                           .sentence = sentence };
    td__lock_acquire(&hook_lock);
    td_failure_hook *call = hook ? hook : print_failure;
    td__lock_release(&hook_lock);
    call(&failure);
}

/* --- what it is ------------------------------------------------------------------------------------------------------
 */

const char *td_name(const td_worker *worker)
{
    return worker ? worker->name : "";
}

int td_set_name(td_worker *worker, const char *name)
{
    int code = check(worker, "td_set_name");
    if (code < 0)
        return code;
    if (!name || !name_is_good(name))
        return td__fail(TD_EINVAL, "td_set_name: a name has 1 to %d bytes", TD_NAME_MAX - 1);
    if (phase_of(worker) != TD__CREATED)
        return td__fail(TD_ESTATE, "td_set_name: worker '%s' has been started", worker->name);
    if (worker->name == first_name(worker)) {
        char *own = td__alloc(TD_NAME_MAX);
        if (!own)
            return td__fail(TD_ENOMEM, "td_set_name: out of memory for the name of worker '%s'", worker->name);
        worker->name = own;
    }
    td__format(worker->name, TD_NAME_MAX, "%s", name);
    return 0;
}

bool td_is_daemon(const td_worker *worker)
{
    return worker && worker->daemon;
}

int td_set_daemon(td_worker *worker, bool daemon)
{
    int code = check(worker, "td_set_daemon");
    if (code < 0)
        return code;
    if (phase_of(worker) != TD__CREATED)
        return td__fail(TD_ESTATE, "td_set_daemon: worker '%s' has been started", worker->name);
    worker->daemon = daemon;
    return 0;
}

td_worker_kind td_kind_of(const td_worker *worker)
{
    return worker ? worker->kind : TD_THREAD;
}

static bool is_started(const td_worker *worker)
{
    return worker && phase_of(worker) != TD__CREATED;
}

uint64_t td_ident(const td_worker *worker)
{
    if (!is_started(worker))
        return 0;
    if (worker->kind == TD_THREAD && !worker->stand_in)
        return (uint64_t)(uintptr_t)worker->thread;
    return (uint64_t)td_native_id(worker);
}

pid_t td_native_id(const td_worker *worker)
{
    if (!is_started(worker))
        return 0;
    /* A thread writes it as its first act: until then there is a moment to wait. */
    while (worker->kind == TD_THREAD && td__load_relaxed(&worker->native_id) == 0 && phase_of(worker) != TD__CREATED)
        td__yield();
    return td__load_relaxed(&worker->native_id);
}

pid_t td_pid(const td_worker *worker)
{
    return is_started(worker) ? td__load_relaxed(&worker->pid) : 0;
}

int td_sentinel(td_worker *worker)
{
    int code = check_started(worker, "td_sentinel");
    if (code < 0)
        return code;
    if (worker->stand_in)
        return td__fail(TD_EUNSUPPORTED, "td_sentinel: worker '%s' was not started by this process", worker->name);
    if (worker->kind == TD_PROCESS)
        return td__process_sentinel(worker);
    td__lock_acquire(&worker->lock);
    /* The thread signals under the same lock, so it either finds the descriptor or has ended already. */
    if (worker->sentinel < 0)
        worker->sentinel = td__event_fd(phase_of(worker) == TD__COLLECTED ? 1 : 0);
    int fd = worker->sentinel, error = errno;
    td__lock_release(&worker->lock);
    if (fd < 0)
        return td__fail(error == EMFILE || error == ENFILE ? TD_EDESCRIPTOR : TD_ESYSTEM,
                        "cannot make a sentinel of worker '%s': %s", worker->name, strerror(error));
    return fd;
}

/* --- as one of several things to wait for ------------------------------------------------------------------ */

int td__worker_waitable(td_worker *worker, const char *call)
{
    int code = check_started(worker, call);
    if (code == 0 && worker->stand_in)
        code = td__fail(TD_EUNSUPPORTED, "%s: worker '%s' was not started by this process", call, worker->name);
    return code;
}

bool td__worker_prepare(td_worker *worker, td__futex_item *item)
{
    if (worker->kind == TD_PROCESS)
        return td__process_prepare(worker, item);
    /* Sequentially consistent, with the thread's end: either it sees that somebody waits, or we see that it has ended.
     */
    td__store_seq_cst(&worker->timed, 1);
    uint32_t phase = td__load_seq_cst(&worker->phase);
    *item = (td__futex_item){ &worker->phase, phase, false };
    return phase == TD__COLLECTED;
}

void td__worker_prepared_done(td_worker *worker)
{
    if (worker->kind == TD_PROCESS)
        td__process_prepared_done(worker);
}

/* --- which there are
 * --------------------------------------------------------------------------------------------------- */

static bool is_living(const td_worker *worker)
{
    return phase_of(worker) == TD__STARTED && (worker->kind == TD_THREAD || td__process_lives(worker));
}

static bool is_living_process(const td_worker *worker)
{
    return worker->kind == TD_PROCESS && is_living(worker);
}

size_t td_enumerate(td_worker **workers, size_t capacity)
{
    td_worker *self = td_main();
    size_t first = 0;
    if (self && capacity > 0) {
        td__worker_ref(self);
        workers[0] = self;
        first = 1;
    }
    return 1 + td__registry_list(workers + first, capacity - first, is_living);
}

size_t td_active_children(td_worker **workers, size_t capacity)
{
    return td__registry_list(workers, capacity, is_living_process);
}

size_t td_active_count(void)
{
    return td_enumerate(NULL, 0);
}
