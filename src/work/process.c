/* SPDX-License-Identifier: MIT */
/*
 * Workers in processes, as their starter sees them.
 *
 * A started worker has a slot in its spawner's segment until its outcome has been copied into the handle ("collected");
 * the slot is then released, unless threads still sleep on it ("pins"): the last of them releases it. All under the
 * handle's lock, except the sleep itself.
 */
#include "sync/party.h"
#include "work/spawner.h"
#include "work/module.h"
#include "work/worker.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

/* --- starting ---------------------------------------------------------------------------------------------- */

typedef struct start {
    td_worker *worker;
    td__spawner *spawner;
    td__identity identity;
    bool identified; /* identity has been read */
    td__place place;
    int fds[4 + TD_CONNECTIONS_MAX]; /* the open streams, the working directory, the connections */
    size_t fd_count;
    int cwd;
    uint32_t streams;
    bool streams_looked; /* one of them is closed: they are looked at one by one */
    char path[PATH_MAX]; /* of the file the target is in, if the spawner has not loaded it; last, see td__process_start
                          */
} start;

static unsigned self_as_owner(void)
{
    return td__the.role == TD__ROLE_WORKER && td__the.slot ? td__the.slot_index + 1 : TD__OWNER_MAIN;
}

/* In a worker, its own slot in its own spawner's segment is the owner; another spawner of its own knows it as main. */
static unsigned owner_for(const td__spawner *spawner)
{
    return spawner->inherited ? self_as_owner() : TD__OWNER_MAIN;
}

/* Those of the standard streams that are open: or, at first, all of them, which costs no calls. */
static void collect_streams(start *start, bool look)
{
    start->streams = 0;
    start->fd_count = 0;
    for (int stream = 0; stream < 3; stream++)
        if (!look || td__is_open(stream)) {
            start->streams |= 1u << stream;
            start->fds[start->fd_count++] = stream;
        }
    start->streams |= 8;
    start->fds[start->fd_count++] = start->cwd;
    for (size_t i = 0; i < start->worker->connection_count; i++)
        start->fds[start->fd_count++] = td__connection_fd(start->worker->connections[i]);
}

/* Puts argument, environment and file name into the slot, or into its window if they are large. */
static int write_payload(start *start, td__slot *slot, uint32_t index)
{
    td_worker *worker = start->worker;
    td__spawner *spawner = start->spawner;
    td__request *request = &slot->request;
    request->own_environment =
        spawner->environment_differs || !td__environment_is(spawner->environment, spawner->environment_size);
    request->environment_count = 0;
    request->environment_size =
        request->own_environment ? td__environment_flatten(NULL, 0, &request->environment_count) : 0;
    request->arg_size = worker->arg_size;
    request->arg_kind = (uint32_t)worker->arg_kind;
    request->module_size = request->target ? 0 : strlen(start->path) + 1;
    uint64_t arg_room = td__align16(request->arg_size), environment_room = td__align16(request->environment_size);
    uint64_t size = arg_room + environment_room + request->module_size;
    char *at = (char *)slot->request_data;
    bool in_window = size > sizeof slot->request_data;
    if (in_window) {
        at = td__window_open(spawner->file, spawner->file_size, index, 0, size, true);
        if (!at)
            return td__start_failed(worker, "memory for its argument and environment", errno);
        request->in_window = 1;
    } else {
        request->in_window = 0;
    }
    if (worker->arg_size > 0)
        memcpy(at, worker->arg, worker->arg_size);
    if (request->own_environment) {
        size_t room = request->environment_size;
        size_t now = td__environment_flatten(at + arg_room, room, &request->environment_count);
        if (now < room)
            request->environment_size = now; /* another thread has changed it meanwhile; what fitted counts */
    }
    if (request->module_size)
        memcpy(at + arg_room + environment_room, start->path, request->module_size);
    if (in_window)
        td__unmap(at, size);
    return 0;
}

static int write_request(start *start, td__slot *slot, uint32_t index)
{
    td_worker *worker = start->worker;
    td__request *request = &slot->request;
    if (start->cwd < 0 && (start->cwd = td__open_path(".")) < 0)
        return td__start_failed(worker, "open the working directory", errno);
    request->target = td__module_address(&start->place, start->spawner->modules, start->spawner->module_count);
    if (!request->target && td__module_path(&start->place, start->path, sizeof start->path) < 0)
        return td__start_failed(worker, "find the file of its target", errno);
    request->target_offset = start->place.offset;
    request->build_id_size = start->place.build_id_size;
    memcpy(request->build_id, start->place.build_id, sizeof request->build_id);
    request->daemon = worker->daemon;
    td__format(request->name, sizeof request->name, "%s", worker->name);
    td_worker *self = td_main();
    td__format(request->parent_name, sizeof request->parent_name, "%s", self ? self->name : "");
    request->parent_pid = td__the.pid;
    return write_payload(start, slot, index);
}

static int send_request(start *start, int socket, uint32_t index, uint32_t generation)
{
    td__message message = { .what = TD__START, .slot = index, .generation = generation };
    message.connections = start->worker->connection_count;
    for (size_t i = 0; i < start->worker->connection_count; i++)
        message.rights[i] = (unsigned char)td__connection_rights(start->worker->connections[i]);
    for (bool look = start->streams_looked;; look = start->streams_looked = true) {
        collect_streams(start, look);
        message.streams = start->streams;
        int r = td__send(socket, &message, sizeof message, start->fds, start->fd_count);
        if (r == 0 || errno != EBADF || look)
            return r;
    }
}

enum { NO_SPARE = 1, SPAWNER_DEAD = 2, SPAWNER_WRONG = 3 };

static int identify(start *start)
{
    if (!start->identified && td__identity_get(&start->identity) < 0)
        return td__start_failed(start->worker, "read /proc/thread-self/status", errno);
    start->identified = true;
    return 0;
}

/* The request is with the worker, or on its way. Lets it run if the spawner it comes from is the right one for this
 * starter. */
static int confirm(start *start, uint32_t index)
{
    td__spawner *spawner = start->spawner;
    td__slot *slot = td__slot_at(spawner->segment, index);
    int code = identify(start);
    if (code == 0 && start->identity.hash != spawner->identity)
        code = SPAWNER_WRONG;
    td__circumstances_get(&slot->circumstances);
    slot->circumstances.umask = start->identity.umask;
    slot->circumstances.capabilities = start->identity.capabilities;
    td__step_point();
    td__slot_answer(slot, code == 0 ? TD__GO : TD__GO_AWAY);
    td__step_point();
    if (code != 0)
        td__slot_end(spawner->segment, spawner->file, index, TD__RELEASED);
    return code;
}

static void started(start *start, uint32_t index)
{
    td_worker *worker = start->worker;
    td__slot *slot = td__slot_at(start->spawner->segment, index);
    td__lock_acquire(&worker->lock);
    worker->spawner = start->spawner; /* takes over the reference */
    worker->slot = slot;
    worker->slot_index = index;
    td__lock_release(&worker->lock);
    pid_t pid = (pid_t)td__load_acquire(&slot->pid);
    td__store_relaxed(&worker->pid, pid);
    td__store_relaxed(&worker->native_id, pid);
    td__spawner *spawner = start->spawner;
    start->spawner = NULL;
    td__spawner_lost_worker(spawner, index);
}

/* Wakes a spare, which then waits for the request on its lane. It may be awake already. */
static void call(td__slot *slot, uint32_t how)
{
    td__store_relaxed(&slot->starter_cpu, td__slot_cpu());
    /* Release, for the line above; what the request says goes with its message. */
    if (td__exchange_acq_rel(&slot->called, how) == TD__UNCALLED)
        td__futex_wake(&slot->called, 1, true);
}

/* A spare in this state that reads the lane: its slot is ours then. */
static bool take_spare(const td__spawner *spawner, uint32_t lane, unsigned state, uint32_t *index, uint32_t *generation)
{
    _Atomic uint32_t *hint = &spawner->segment->spare_slots[lane];
    uint32_t named = td__load_acquire(hint);
    if (named == 0 || named > TD__SLOTS) /* or taken */
        return false;
    td__slot *slot = td__slot_at(spawner->segment, named - 1);
    uint64_t word = td__load_acquire(&slot->word), spare = word;
    if (TD__WORD_STATE(word) != state || TD__WORD_OWNER(word) != TD__OWNER_SPAWNER)
        return false;
    /* Once more, for the slot may have got another use since, on another lane. The spawner takes the name away before
     * the slot becomes free: so it is of the use that the word told of. */
    if (td__load_acquire(hint) != named)
        return false;
    *index = named - 1;
    *generation = TD__WORD_GENERATION(word);
    if (!td__cas_seq_cst(&slot->word, &spare, TD__WORD(*generation, owner_for(spawner), TD__TAKEN)))
        return false;
    td__step_point();
    td__cas_acq_rel(hint, &named, named | TD__SPARE_TAKEN);
    td__step_point();
    return true;
}

/* A spare that has got no work: it waits on, and can be taken again. The hint first, while the slot is ours: it is
 * there only if the spawner has not heard of the spare's death, and then takes it away. */
static void put_back(const td__spawner *spawner, uint32_t lane, uint32_t index, uint32_t generation)
{
    td__segment *segment = spawner->segment;
    td__slot *slot = td__slot_at(segment, index);
    uint32_t taken = (index + 1) | TD__SPARE_TAKEN;
    uint64_t again = TD__WORD(generation, TD__OWNER_SPAWNER, TD__SPARE);
    td__slot_drop_request(segment, spawner->file, index);
    td__cas_acq_rel(&segment->spare_slots[lane], &taken, index + 1);
    /* Sequentially consistent, with the spawner's mark and its look at the word after it: if it takes this for a
     * worker's death, we see the mark, and give the slot back. */
    td__store_seq_cst(&slot->word, again);
    if (td__load_seq_cst(&slot->done) & TD__ENDED &&
        td__cas_seq_cst(&slot->word, &again, TD__WORD(generation, TD__OWNER_SPAWNER, TD__TAKEN)))
        td__slot_end(segment, spawner->file, index, TD__RELEASED);
}

/* The request is on the lane. If the spare died before, nobody may read it, as long as nobody starts anything: the
 * spawner is told. It forks the lane's next reader, or looks itself, only after it has marked the slot: so who sees no
 * mark here knows that the message is found. */
static void see_to_lane(const td__spawner *spawner, uint32_t lane, td__slot *slot)
{
    if (!(td__load_seq_cst(&slot->done) & TD__ENDED))
        return;
    td__message message = { .what = TD__LEFT, .slot = lane };
    /* It waits while the spawner is behind, who waits for no starter. It fails if the spawner is dead, and so the lane;
     * or if the kernel has no memory: what is left is then dropped when the lane's next reader is called. */
    td__send(spawner->control, &message, sizeof message, NULL, 0);
}

/* Gives the work to a spare in this state. 0, NO_SPARE, SPAWNER_DEAD or a failure. */
static int start_on_spare(start *start, unsigned state)
{
    td__spawner *spawner = start->spawner;
    for (uint32_t lane = 0; lane < spawner->lane_count; lane++) {
        uint32_t index, generation;
        if (!take_spare(spawner, lane, state, &index, &generation))
            continue;
        td__slot *slot = td__slot_at(spawner->segment, index);
        /* An idle processor takes longer to wake up than the request to write; on a busy one, where worker and starter
         * take turns, it would wake up twice. What was so the last time is a good guess. */
        if (td__load_relaxed(&spawner->apart))
            call(slot, TD__CALLED);
        int code = write_request(start, slot, index);
        td__step_point();
        if (code == 0 && send_request(start, spawner->lanes[lane], index, generation) < 0)
            code = errno == EPIPE || errno == ECONNRESET ? SPAWNER_DEAD
                                                         : td__start_failed(start->worker, "sendmsg", errno);
        if (code != 0) {
            put_back(spawner, lane, index, generation);
            return code;
        }
        td__step_point();
        call(slot, TD__SENT);
        td__step_point();
        see_to_lane(spawner, lane, slot);
        code = confirm(start, index);
        uint32_t cpu = td__load_relaxed(&slot->worker_cpu);
        td__store_relaxed(&spawner->apart, cpu != 0 && cpu != td__slot_cpu());
        if (code == 0)
            started(start, index);
        return code;
    }
    return NO_SPARE;
}

/* Has the spawner fork a worker for us, and waits until it has. */
static int start_by_spawner(start *start)
{
    td__spawner *spawner = start->spawner;
    unsigned owner = owner_for(spawner);
    if (owner != TD__OWNER_MAIN)
        td__store_release(&td__the.slot->has_children, 1);
    int taken = td__slot_take(spawner->segment, owner, TD__TAKEN);
    if (taken < 0)
        return td__fail(TD_EPROCESS, "cannot start worker '%s': all %d places for processes are in use",
                        start->worker->name, TD__SLOTS);
    uint32_t index = (uint32_t)taken;
    td__slot *slot = td__slot_at(spawner->segment, index);
    uint32_t generation = TD__WORD_GENERATION(td__load_relaxed(&slot->word));
    int code = write_request(start, slot, index);
    td__step_point();
    if (code == 0 && send_request(start, spawner->control, index, generation) < 0)
        code = errno == EPIPE || errno == ECONNRESET ? SPAWNER_DEAD : td__start_failed(start->worker, "sendmsg", errno);
    if (code != 0) {
        td__slot_end(spawner->segment, spawner->file, index, TD__GONE);
        td__slot_end(spawner->segment, spawner->file, index, TD__RELEASED);
        return code;
    }
    td__step_point();
    /* While the spawner forks. If this fails, the slot is no longer ours. */
    code = confirm(start, index);
    if (code != 0)
        return code;
    /* Acquire, both: the pid, and if it failed, why. */
    while (td__load_acquire(&slot->pid) == 0 && td__load_acquire(&slot->done) == 0 && !td__load_seq_cst(&spawner->dead))
        td__futex_wait(&slot->pid, 0, 0, true);
    uint32_t done = td__load_acquire(&slot->done);
    if (done & TD__NOT_STARTED) {
        int error = slot->number;
        td__slot_end(spawner->segment, spawner->file, index, TD__RELEASED);
        return td__start_failed(start->worker, "fork", error);
    }
    if (td__load_acquire(&slot->pid) == 0) {
        if (!(done & TD__ENDED))
            td__slot_end(spawner->segment, spawner->file, index, TD__GONE);
        td__slot_end(spawner->segment, spawner->file, index, TD__RELEASED);
        return SPAWNER_DEAD;
    }
    started(start, index);
    return 0;
}

int td__process_start(td_worker *worker)
{
    if (!td__the.initialized)
        return td__fail(TD_EINIT, "cannot start worker '%s': td_init() was not called: make it the first line of main",
                        worker->name);
    if (td__the.role == TD__ROLE_SPAWNER)
        return td__fail(TD_ESTATE,
                        "cannot start worker '%s': .prepare runs in the spawner, which starts no workers of its own",
                        worker->name);
    if (worker->method == TD_FORK)
        return td__forked_start(worker);
    start start;
    memset(&start, 0, offsetof(struct start, path)); /* the path is large and mostly unused */
    start.worker = worker;
    start.spawner = NULL;
    start.cwd = -1;
    if (!td__module_find((const void *)(uintptr_t)worker->target, &start.place))
        return td__fail(TD_ETARGET,
                        "cannot start worker '%s': its target is not a function of the program or its libraries",
                        worker->name);
    int code = 0;
    for (int attempt = 0; code == 0 && attempt < 4; attempt++) {
        /* The current one, as if it were the right one; if it was not, the right one, started if need be. */
        start.spawner = start.identified ? NULL : td__spawner_current();
        if (!start.spawner && (code = identify(&start)) == 0) {
            start.spawner = td__spawner_get(&start.identity, worker->name);
            code = start.spawner ? 0 : td_last_error();
        }
        if (code == 0)
            code = start_on_spare(&start, TD__SPARE);
        if (code == NO_SPARE) /* one that is about to be ready is sooner there than one that is still to be made */
            code = start_on_spare(&start, TD__BOOTING);
        if (code == NO_SPARE)
            code = start_by_spawner(&start);
        if (code <= 0)
            break;
        if (code == SPAWNER_DEAD) /* found before the watcher has */
            td__store_seq_cst(&start.spawner->dead, 1);
        td__spawner_unref(start.spawner);
        start.spawner = NULL;
        code = attempt < 3 ? 0
                           : td__fail(TD_ESPAWNER, "cannot start worker '%s': the spawner was killed, several times",
                                      worker->name);
    }
    td__spawner_unref(start.spawner);
    td__close(start.cwd);
    return code;
}

/* --- the end ----------------------------------------------------------------------------------------------- */

/* Of one that has a slot: where that is. */
static bool is_forked(const td_worker *worker)
{
    return worker->method == TD_FORK;
}

static int copy_result(td_worker *worker, const td__reply *reply)
{
    uint64_t size = reply->result_size;
    int kind = (int)reply->result_kind;
    if (kind == TD_KIND_NONE)
        return 0;
    const void *from = worker->slot->result_data;
    void *window = NULL;
    if (kind < 0 || kind > TD_KIND_SHARED || size > TD_VALUE_MAX ||
        (!reply->in_window && size > sizeof worker->slot->result_data))
        return -1;
    if (reply->in_window && is_forked(worker)) {
        from = td__forked_window(worker->fork_record, size);
        if (!from)
            return -1;
    } else if (reply->in_window) {
        from = window =
            td__window_open(worker->spawner->file, worker->spawner->file_size, worker->slot_index, 1, size, false);
        if (!window)
            return -1;
    }
    worker->result = td__alloc(size);
    if (worker->result)
        memcpy(worker->result, from, size);
    if (window)
        td__unmap(window, size);
    if (!worker->result)
        return -1;
    worker->result_size = (uint32_t)size;
    worker->result_kind = (uint8_t)kind;
    return 0;
}

static void take_reply(td_worker *worker)
{
    /* Copied first, checked then: a worker gone wild may still write. */
    td__reply reply;
    memcpy(&reply, &worker->slot->reply, sizeof reply);
    reply.message[sizeof reply.message - 1] = 0;
    char *message = reply.message;
    worker->outcome = (uint8_t)reply.state;
    worker->code = reply.code;
    if (reply.state != TD_RETURNED && reply.state != TD_FAILED && reply.state != TD_CANCELLED) {
        worker->outcome = TD_FAILED;
        worker->code = TD_EINVAL;
        td__format(message, TD_MESSAGE_MAX, "its outcome is damaged");
    } else if (copy_result(worker, &reply) < 0) {
        worker->outcome = TD_FAILED;
        worker->code = TD_ENOMEM;
        td__format(message, TD_MESSAGE_MAX, "no memory for its result of %llu bytes",
                   (unsigned long long)reply.result_size);
    }
    td__worker_say(worker, message);
    worker->exitcode = td__exitcode_of(worker->code);
}

static void take_death(td_worker *worker)
{
    td__death death = { .signaled = worker->slot->signaled != 0, .number = worker->slot->number };
    if (is_forked(worker))
        death = *td__forked_death(worker->fork_record);
    int number = death.number;
    char message[TD_MESSAGE_MAX];
    worker->code = TD_NO_CODE;
    if (death.signaled && (number < 1 || number > 64)) {
        /* The spawner wrote it, but in memory that the worker can write. */
        worker->outcome = TD_FAILED;
        worker->code = TD_EINVAL;
        worker->exitcode = td__exitcode_of(worker->code);
        td__format(message, sizeof message, "its outcome is damaged");
    } else if (death.signaled) {
        worker->signal = (uint8_t)number;
        worker->exitcode = -number;
        char name[24];
        bool asked_for = (td__load_relaxed(&worker->stopping) & TD__SIGNAL_BIT(number)) != 0;
        worker->outcome = asked_for ? TD_CANCELLED : TD_CRASHED;
        td__format(message, sizeof message, "%s by %s", asked_for ? "cancelled" : "killed",
                   td__signal_name(number, name));
    } else {
        worker->exitcode = number & 0xff;
        worker->outcome = TD_CRASHED;
        td__format(message, sizeof message, "exited with status %d without returning", worker->exitcode);
    }
    td__worker_say(worker, message);
}

/* Under the handle's lock. */
static void release_slot(td_worker *worker)
{
    if (!worker->slot || worker->pins > 0)
        return;
    if (is_forked(worker)) {
        td__forked_release(worker->fork_record);
        worker->fork_record = NULL;
    } else {
        td__slot_end(worker->spawner->segment, worker->spawner->file, worker->slot_index, TD__RELEASED);
        td__spawner_unref(worker->spawner);
        worker->spawner = NULL;
    }
    worker->slot = NULL;
}

/* Under the handle's lock. Whether the worker has ended; copies its outcome if that is new. */
static bool collect(td_worker *worker)
{
    if (td__load_relaxed(&worker->phase) == TD__COLLECTED)
        return true;
    /* Acquire: the reply or the death, published by the worker or the spawner. */
    uint32_t done = worker->slot ? td__load_acquire(&worker->slot->done) : 0;
    if (done == 0)
        return false;
    if (done & TD__PUBLISHED)
        take_reply(worker);
    else
        take_death(worker);
    /* Its holder, which has told us, knows nothing of parties: the main process's watcher sees to these. From here on
     * the death is known, and what it held may be freed. */
    if (is_forked(worker) && !(done & TD__PUBLISHED))
        td__parties_await_death(td__forked_pid(worker->fork_record));
    td__store_release(&worker->phase, TD__COLLECTED);
    return true;
}

/* After the lock, for the registry has its own. */
static void after(td_worker *worker, bool ended)
{
    if (ended)
        td__registry_remove(worker);
}

bool td__process_lives(const td_worker *worker)
{
    td_worker *w = (td_worker *)(uintptr_t)worker; /* its lock is not part of what const promises */
    td__lock_acquire(&w->lock);
    bool lives = td__load_relaxed(&w->phase) != TD__COLLECTED && w->slot && td__load_acquire(&w->slot->done) == 0;
    td__lock_release(&w->lock);
    return lives;
}

bool td__process_ended(td_worker *worker)
{
    td__lock_acquire(&worker->lock);
    bool ended = collect(worker);
    if (ended && worker->sentinel < 0)
        release_slot(worker);
    td__lock_release(&worker->lock);
    after(worker, ended);
    return ended;
}

int td__process_wait(td_worker *worker, int64_t deadline)
{
    for (bool timed_out = false;;) {
        td__lock_acquire(&worker->lock);
        bool ended = collect(worker);
        td__slot *slot = worker->slot;
        bool linger = false;
        if (ended) {
            release_slot(worker);
        } else {
            worker->pins++;
            linger = !worker->lingered; /* once: who has not ended soon after its start may take any time */
            worker->lingered = 1;
        }
        td__lock_release(&worker->lock);
        after(worker, ended);
        if (ended)
            return 0;
        if (timed_out) {
            td__lock_acquire(&worker->lock);
            worker->pins--;
            td__lock_release(&worker->lock);
            return td__fail(TD_ETIMEOUT, "worker '%s' has not ended within the time limit", worker->name);
        }
        if (linger)
            td__slot_linger(&slot->done, 0, &slot->worker_cpu, deadline);
        timed_out = td__futex_wait(&slot->done, 0, deadline, true) < 0 && errno == ETIMEDOUT;
        td__lock_acquire(&worker->lock);
        worker->pins--;
        td__lock_release(&worker->lock);
    }
}

bool td__process_prepare(td_worker *worker, td__futex_item *item)
{
    td__lock_acquire(&worker->lock);
    bool ended = collect(worker);
    if (ended && worker->sentinel < 0) {
        release_slot(worker);
    } else if (!ended) {
        worker->pins++;
        *item = (td__futex_item){ &worker->slot->done, 0, true };
    }
    td__lock_release(&worker->lock);
    after(worker, ended);
    return ended;
}

void td__process_prepared_done(td_worker *worker)
{
    td__lock_acquire(&worker->lock);
    worker->pins--;
    td__lock_release(&worker->lock);
}

/* --- signals and descriptors -------------------------------------------------------------------------------- */

/* Under the lock. A descriptor for the process; -1 with errno 0 if it has gone. The spawner marks a slot before it
 * reaps, so a pid whose slot is not marked after pidfd_open was the worker's at that moment. */
static int pid_fd_of(td_worker *worker)
{
    errno = 0;
    if (!worker->slot || td__load_acquire(&worker->slot->done) & TD__ENDED)
        return -1;
    int fd = td__pid_fd(is_forked(worker) ? td__forked_pid(worker->fork_record)
                                          : (pid_t)td__load_acquire(&worker->slot->pid));
    int error = errno;
    if (td__load_acquire(&worker->slot->done) & TD__ENDED) {
        td__close(fd);
        fd = -1;
        error = 0;
    }
    errno = fd < 0 && error == ESRCH ? 0 : error;
    return fd;
}

int td__process_signal(td_worker *worker, int signal)
{
    int code = 0;
    td__lock_acquire(&worker->lock);
    if (td__load_relaxed(&worker->phase) != TD__COLLECTED && worker->slot) {
        td__fetch_or_acq_rel(&worker->stopping, (uint32_t)TD__SIGNAL_BIT(signal));
        if (signal != SIGKILL) {
            td__party_self(); /* a death between the two is repaired after, see td_cancel_fire */
            /* Sequentially consistent, with waits that are given it: they see it set, or are poked. */
            td__exchange_seq_cst(&worker->slot->cancel, 1);
            td__step_point();
            td__parties_poke((pid_t)td__load_relaxed(&worker->pid));
            td__store_relaxed(&worker->slot->signal, (uint32_t)signal); /* see take_signals in task.c */
        }
        int fd = pid_fd_of(worker);
        if (fd >= 0) {
            if (td__pid_fd_kill(fd, signal) < 0 && errno != ESRCH)
                code = td__fail(errno == EPERM ? TD_EACCESS : TD_ESYSTEM, "cannot signal worker '%s': %s", worker->name,
                                strerror(errno));
            td__close(fd);
        } else if (errno) {
            code = td__fail(errno == EMFILE || errno == ENFILE ? TD_EDESCRIPTOR : TD_ESYSTEM,
                            "cannot signal worker '%s': pidfd_open: %s", worker->name, strerror(errno));
        }
    }
    td__lock_release(&worker->lock);
    return code;
}

int td__process_sentinel(td_worker *worker)
{
    td__lock_acquire(&worker->lock);
    if (worker->sentinel < 0) {
        int fd = pid_fd_of(worker);
        if (fd < 0 && errno == 0)
            fd = td__event_fd(1);
        worker->sentinel = fd;
    }
    int fd = worker->sentinel, error = errno;
    td__lock_release(&worker->lock);
    if (fd < 0)
        return td__fail(error == EMFILE || error == ENFILE ? TD_EDESCRIPTOR : TD_ESYSTEM,
                        "cannot make a sentinel of worker '%s': %s", worker->name, strerror(error));
    return fd;
}

/* Collected or never started. The spawner will see the end of one that runs on; its slot is released then. */
void td__process_let_go(td_worker *worker)
{
    td__lock_acquire(&worker->lock);
    worker->pins = 0;
    release_slot(worker);
    td__lock_release(&worker->lock);
}
