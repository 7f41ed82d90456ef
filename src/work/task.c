/* SPDX-License-Identifier: MIT */
/*
 * A worker process's life: it takes over the starter's circumstances, runs its target and ends (publish.c). What goes
 * wrong before the target runs is the worker's failure, with a sentence.
 */
#include "work/spawner.h"
#include "work/module.h"
#include "work/worker.h"

#include <errno.h>
#include <stdio.h>

extern char **environ;

typedef struct task {
    td__segment *segment;
    int file;
    uint32_t index;
    td__slot *slot;
    td__request request; /* a copy: from here on nobody else can change it */
    const char *arg, *environment, *module;
    td_connection *connections[TD_CONNECTIONS_MAX];
    size_t connection_count;
    char why[TD_MESSAGE_MAX]; /* what failed, if something did */
} task;

static void *room(void *context, uint64_t size)
{
    task *task = context;
    return td__window_open(task->file, td__the.file_size, task->index, 1, size, true);
}

static _Noreturn void cannot(task *task, int code, const char *what, int error)
{
    char message[TD_MESSAGE_MAX];
    if (error)
        td__format(message, sizeof message, "could not start: %s: %s", what, strerror(error));
    else
        td__format(message, sizeof message, "could not start: %s", what);
    td__publish(task->slot, TD_FAILED, code, message, NULL, NULL, NULL);
}

static void take_connections(task *task, const td__message *message, const int *fds)
{
    for (uint32_t i = 0; i < message->connections; i++) {
        td_connection *c = td__connection_adopt(fds[i], message->rights[i] & (TD__READABLE | TD__WRITABLE));
        if (!c)
            cannot(task, TD_ENOMEM, "no memory for its connections", 0);
        td__connection_lend(c);
        task->connections[task->connection_count++] = c;
    }
}

static void take_descriptors(task *task, const td__message *message, const int *fds, size_t count)
{
    size_t next = 0;
    bool whole =
        message->streams < 16 && message->connections <= TD_CONNECTIONS_MAX && count == td__message_fds(message);
    for (int stream = 0; stream < 3; stream++) {
        if (whole && message->streams >> stream & 1) {
            if (td__dup_to(fds[next], stream) < 0)
                cannot(task, TD_ESYSTEM, "dup2", errno);
            next++;
        } else {
            td__close(stream);
        }
    }
    if (!whole)
        cannot(task, TD_EDESCRIPTOR, "its streams did not arrive", EMFILE);
    if (message->streams & 8 && td__chdir_fd(fds[next]) < 0)
        cannot(task, TD_ESYSTEM, "fchdir", errno);
    size_t others = count - message->connections;
    td__close_many(fds, others, -1);
    take_connections(task, message, fds + others);
}

static void take_limits(task *task, const td__limit now[TD__LIMITS], const td__limit limits[TD__LIMITS])
{
    for (int which = 0; which < TD__LIMITS; which++) {
        td__limit wanted = limits[which];
        if (which == TD__LIMIT_CORE && !task->segment->core_dumps && wanted.soft > 0)
            td__limit_without_core(&wanted);
        if (wanted.soft == now[which].soft && wanted.hard == now[which].hard)
            continue;
        if (td__limit_set(which, wanted) < 0)
            cannot(task, TD_EACCESS, td__limit_name(which), errno);
    }
}

/* memcmp() without the libc: see td__copy_string. */
static bool is_same(const void *one, const void *other, size_t size)
{
    const unsigned char *a = one, *b = other;
    size_t i = 0;
    while (i < size && a[i] == b[i])
        i++;
    return i == size;
}

/* What the starter found out while we made the other preparations; only what differs from the spawner's is set. */
static void take_circumstances(task *task)
{
    const td__circumstances *now = &task->segment->circumstances, *wanted = &task->slot->circumstances;
    if (td__slot_await(&task->slot->go, &task->slot->starter_cpu) != TD__GO)
        td__exit_now(0);
    if (wanted->umask != now->umask)
        td__umask_set(wanted->umask);
    if (wanted->affinity_size > 0 && wanted->affinity_size <= sizeof wanted->affinity &&
        (wanted->affinity_size != now->affinity_size ||
         !is_same(wanted->affinity, now->affinity, wanted->affinity_size)) &&
        td__affinity_set(wanted->affinity, wanted->affinity_size) < 0)
        cannot(task, TD_EACCESS, "sched_setaffinity", errno);
    if (wanted->nice != now->nice && td__nice_set(wanted->nice) < 0)
        cannot(task, TD_EACCESS, "setpriority", errno);
    take_limits(task, now->limits, wanted->limits);
    td__capabilities rights = wanted->capabilities;
    rights.permitted &=
        now->capabilities.permitted; /* the exec may have given more than the starter has; never what it lacks */
    rights.effective &= rights.permitted;
    rights.inheritable &= now->capabilities.inheritable | now->capabilities.permitted;
    if (!is_same(&now->capabilities, &rights, sizeof rights) && td__capabilities_set(&rights) < 0)
        cannot(task, TD_EACCESS, "capset", errno);
}

/* Until here all signals were blocked: one that came to a spare, as Ctrl-C comes to a whole group, was not meant for
 * this worker, and is dropped now. One that our owner sent meanwhile would be dropped as well: it is made up for. */
static void take_signals(task *task)
{
    td__signals_drop();
    td__signals_clear();
    int sent = (int)td__load_relaxed(&task->slot->signal);
    if (sent)
        td__kill(td__getpid(), sent);
}

static void take_environment(task *task)
{
    const td__request *request = &task->request;
    if (!request->own_environment)
        return;
    /* Both stay for the rest of the process's life. */
    char **entries = td__alloc(((size_t)request->environment_count + 1) * sizeof *entries);
    char *strings = td__alloc(request->environment_size + 1);
    if (!entries || !strings)
        cannot(task, TD_ENOMEM, "no memory for the environment", 0);
    memcpy(strings, task->environment, request->environment_size);
    const char *end = strings + request->environment_size;
    uint32_t n = 0;
    for (char *at = strings; at < end && n < request->environment_count; at += strlen(at) + 1)
        entries[n++] = at;
    environ = entries;
}

static void open_payload(task *task)
{
    const td__request *request = &task->request;
    uint64_t size = td__align16(request->arg_size) + td__align16(request->environment_size) + request->module_size;
    const char *at = (const char *)task->slot->request_data;
    if (request->in_window) {
        at = td__window_open(task->file, td__the.file_size, task->index, 0, size, false);
        if (!at)
            cannot(task, TD_ENOMEM, "mmap", errno);
    } else if (size > sizeof task->slot->request_data) {
        cannot(task, TD_EINVAL, "its request is damaged", 0);
    }
    task->arg = at;
    task->environment = at + td__align16(request->arg_size);
    task->module = task->environment + td__align16(request->environment_size);
}

static td_target *find_target(task *task)
{
    const td__request *request = &task->request;
    if (request->target)
        return (td_target *)(uintptr_t)request->target;
    if (request->module_size == 0 || task->module[request->module_size - 1] != 0 ||
        request->build_id_size > sizeof request->build_id)
        cannot(task, TD_EINVAL, "its request is damaged", 0);
    void *found = td__module_load(task->module, request->build_id, request->build_id_size, request->target_offset,
                                  task->why, sizeof task->why);
    if (!found)
        cannot(task, TD_ETARGET, task->why, 0);
    return (td_target *)(uintptr_t)found;
}

static task the_task; /* one a process; off the stack, which deep targets may need */
static td_call the_call;

static int nothing(td_call *call)
{
    (void)call;
    return 0;
}

void td__task_prepare(void)
{
    int code;
    _Atomic uint32_t cancel = 0, elsewhere = UINT32_MAX;
    td__call_prepare(&the_call, NULL, 0, TD_KIND_NONE, "", &cancel);
    td__call_run(&the_call, nothing, &code);
    td__slot_linger(&cancel, 1, &elsewhere, 0); /* returns at once */
    td__program_guard_exit(); /* nothing can be registered after it and before a target: .prepare has run */
}

static void take_place(td__segment *segment, int file, uint32_t index)
{
    td__slot *slot = td__slot_at(segment, index);
    the_task = (task){ .segment = segment, .file = file, .index = index, .slot = slot };
    the_call.message[0] = 0;
    td__the.role = TD__ROLE_WORKER;
    td__the.segment = segment;
    td__the.slot = slot;
    td__the.slot_index = index;
}

/* A page that is touched for the first time in this process costs a microsecond or two: a spare pays them before it has
 * work. So this writes what td__task_run will write, and calls what it will call where that does no harm. It writes
 * nothing in the slot, which a starter may have taken already. */
void td__task_rehearse(td__segment *segment, int file, uint32_t index)
{
    int code;
    take_place(segment, file, index);
    td__main_reset("", false, "", 0);
    td__call_run(&the_call, nothing, &code);

    td__connections_lock();
    td__connections_forked(); /* those that .prepare has made are in other workers too */
    td__program_end_worker(); /* there is nothing to end: it looks at the registry and flushes what is empty */
    _Atomic uint32_t go = TD__GO_AWAY, elsewhere = UINT32_MAX;
    td__slot_await(&go, &elsewhere); /* returns at once */
}

_Noreturn void td__task_run(td__segment *segment, int file, uint32_t index, const td__message *message, const int *fds,
                            size_t fd_count)
{
    if (the_task.slot == NULL)
        take_place(segment, file, index);
    td__slot *slot = the_task.slot;
    the_task.request = slot->request; /* published by the message that brought us here */
    td__request *request = &the_task.request;
    request->name[sizeof request->name - 1] = 0;
    request->parent_name[sizeof request->parent_name - 1] = 0;
    td__main_reset(request->name, request->daemon != 0, request->parent_name, request->parent_pid);
    take_descriptors(&the_task, message, fds, fd_count);
    open_payload(&the_task);
    take_environment(&the_task);
    td__thread_name(request->name);
    take_circumstances(&the_task);
    take_signals(&the_task);
    td_target *target = find_target(&the_task);
    td__call_prepare(&the_call, the_task.arg, request->arg_size, (int)request->arg_kind, request->name, &slot->cancel);
    the_call.connections = the_task.connections;
    the_call.connection_count = the_task.connection_count;
    uint32_t epoch = td__the.epoch;
    int code;
    td_state state = td__call_run(&the_call, target, &code);
    if (td__the.epoch != epoch) {
        /* The target forked, and this is the child: the outcome is its parent's to publish. */
        td__flush_all();
        td__exit_now(td__exitcode_of(code));
    }
    td__publish(slot, state, code, the_call.message, &the_call, room, &the_task);
}
