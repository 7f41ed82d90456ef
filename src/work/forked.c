/* SPDX-License-Identifier: MIT */
/*
 * The fork method: a worker with a copy of the caller's memory.
 *
 * It has a slot of its own in memory shared with the caller only (for outcome and result; the argument is in the copied
 * memory), and a holder process between it and the caller (os/linux/fork.c), whose end the watcher waits for. In the
 * copy the library starts afresh, as in any forked child.
 */
#include "sync/party.h"
#include "work/spawner.h"
#include "work/worker.h"

#include <errno.h>
#include <stdio.h>

/* Room for the largest result: address space only, until a worker reserves what it needs. */
#define MAPPED      (TD__SLOT_BYTES + (size_t)TD__WINDOW_HALF)
#define MAPPED_LESS (TD__SLOT_BYTES + (size_t)1024 * 1024)

typedef struct td__fork_record {
    _Atomic uint32_t references; /* the worker's, the watcher's */
    td__forked forked;
    td__death death;
    td__slot *slot;
    size_t mapped;
    struct td__fork_record *previous, *next; /* under lock */
} td__fork_record;

/* All of this process. Those that a forked child finds are the parent's: it keeps its copies, which no thread of its
 * own works on, as `former` ones. */
static td__lock lock;
static td__fork_record *first, *former; /* under lock */

static td__fork_record *make_record(void)
{
    td__fork_record *record = td__alloc(sizeof *record);
    if (!record)
        return NULL;
    record->references = 1;
    td__lock_acquire(&lock);
    record->next = first;
    if (first)
        first->previous = record;
    first = record;
    td__lock_release(&lock);
    return record;
}

static void unref(td__fork_record *record)
{
    if (td__fetch_sub_acq_rel(&record->references, 1) != 1)
        return;
    td__lock_acquire(&lock);
    *(record->previous ? &record->previous->next : &first) = record->next;
    if (record->next)
        record->next->previous = record->previous;
    td__lock_release(&lock);
    td__unmap(record->slot, record->mapped);
    td__release(record);
}

void td__forked_release(td__fork_record *record)
{
    unref(record);
}

pid_t td__forked_pid(const td__fork_record *record)
{
    return record->forked.pid;
}

const void *td__forked_window(const td__fork_record *record, uint64_t size)
{
    return size <= record->mapped - TD__SLOT_BYTES ? (const char *)record->slot + TD__SLOT_BYTES : NULL;
}

int td__fork_record_fd(const td__fork_record *record)
{
    return record->forked.holder_fd;
}

/* By the watcher, when the holder has ended: it told of its child's end, or was killed, and its child with it. */
void td__fork_record_ended(td__fork_record *record)
{
    if (!(td__load_acquire(&record->slot->done) & TD__ENDED)) {
        record->death = (td__death){ .signaled = true, .number = SIGKILL };
        td__slot_ended(record->slot, TD__ENDED, true, SIGKILL);
    }
    td__fork_reap(&record->forked);
    /* It may have been killed before it could announce itself. */
    if (td__parties_of(record->forked.pid))
        td__event_fd_signal(td__arrivals);
    unref(record);
}

const td__death *td__forked_death(const td__fork_record *record)
{
    return &record->death;
}

void td__fork_record_forget(td__fork_record *record)
{
    td__close(record->forked.holder_fd);
    record->forked.holder_fd = -1;
}

static void *room(void *context, uint64_t size)
{
    td__fork_record *record = context;
    void *to = (char *)record->slot + TD__SLOT_BYTES;
    if (size > record->mapped - TD__SLOT_BYTES) {
        errno = ENOMEM;
        return NULL;
    }
    return td__populate(to, size) < 0 ? NULL : to;
}

/* In the child, where td__the has already been set afresh by the fork handler. */
void td__fork_records_forget(void)
{
    lock = (td__lock){ 0 };
    td__fork_record **end = &first;
    while (*end)
        end = &(*end)->next;
    *end = former;
    former = first;
    first = NULL;
}

static _Noreturn void run(td_worker *worker, td__fork_record *record, const char *parent_name, pid_t parent_pid)
{
    static td_call call;
    char name[TD_NAME_MAX];
    if (!td__die_with_parent(record->forked.holder))
        td__exit_now(1);
    td__format(name, sizeof name, "%s", worker->name); /* the handle is the parent's, and its copy may be freed */
    td__the.role = TD__ROLE_WORKER;
    td__main_reset(name, worker->daemon, parent_name, parent_pid);
    td__thread_name(name);
    td__connections_keep_only(worker->connections, worker->connection_count);
    td__limit core = { 0, 0 };
    if (!td__the.options.core_dumps && td__limit_without_core(&core))
        td__limit_set(TD__LIMIT_CORE, core);
    td__signals_reset(td__the.born_ignored);
    td__signals_clear();
    td__call_prepare(&call, worker->arg, worker->arg_size, worker->arg_kind, name, &record->slot->cancel);
    call.connections = worker->connections;
    call.connection_count = worker->connection_count;
    td__program_guard_exit();
    uint32_t epoch = td__the.epoch;
    int code;
    td_state state = td__call_run(&call, worker->target, &code);
    if (td__the.epoch != epoch) {
        td__flush_all();
        td__exit_now(td__exitcode_of(code));
    }
    td__publish(record->slot, state, code, call.message, &call, room, record);
}

int td__forked_start(td_worker *worker)
{
    td__fork_record *record = make_record();
    if (!record)
        return td__start_failed(worker, "malloc", ENOMEM);
    record->mapped = MAPPED;
    record->slot = td__map_with_children(record->mapped);
    if (!record->slot) {
        record->mapped = MAPPED_LESS; /* little address space: results are limited to what there is */
        record->slot = td__map_with_children(record->mapped);
    }
    if (!record->slot || td__populate(record->slot, TD__SLOT_BYTES) < 0) {
        int error = errno;
        unref(record);
        return td__start_failed(worker, "mmap", error);
    }
    record->forked.death = &record->death;
    record->forked.done = &record->slot->done;
    record->forked.done_bit = TD__ENDED;
    char parent_name[TD_NAME_MAX];
    pid_t parent_pid = td__getpid();
    td_worker *self = td_main();
    td__format(parent_name, sizeof parent_name, "%s", self ? self->name : "");
    fflush(NULL); /* what is in the buffers would else be written twice */
    const int *life = td__life();
    pid_t pid = life ? td__fork_hidden(&record->forked, life) : -1;
    if (pid == 0)
        run(worker, record, parent_name, parent_pid);
    if (pid < 0) {
        int error = errno;
        unref(record);
        return td__start_failed(worker, "fork", error);
    }
    td__store_release(&record->slot->pid, (uint32_t)pid);
    td__fetch_add_relaxed(&record->references, 1);
    if (td__watch_fork(record) < 0) {
        int error = errno;
        bool ready;
        td__kill(pid, SIGKILL); /* the holder keeps it unreaped until it has written down its end, or is about to */
        td__poll(&record->forked.holder_fd, &ready, 1, 0);
        td__fork_record_ended(record);
        unref(record);
        return td__start_failed(worker, "watcher", error);
    }
    td__lock_acquire(&worker->lock);
    worker->fork_record = record;
    worker->slot = record->slot;
    td__lock_release(&worker->lock);
    td__store_relaxed(&worker->pid, pid);
    td__store_relaxed(&worker->native_id, pid);
    return 0;
}
