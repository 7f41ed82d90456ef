/* SPDX-License-Identifier: MIT */
/*
 * Starting spawners, and which one is current. Seen from the processes that ask for workers.
 *
 * Locks: launching (held while one is started, which can take as long as the program's .prepare takes), then
 * current_lock (short).
 */
#include "sync/party.h"
#include "work/spawner.h"
#include "work/worker.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

extern char **environ;

/* Until td_init is reached in the new process; what comes after it (.prepare) may take any time. */
#define HELLO_LIMIT_S 30

/* A process that has been killed is dead after this time at the latest: if it still seems to live, its number has been
 * given to another one. */
#define DYING_LIMIT_S 2

static td__lock launching;
static td__lock current_lock;
static td__spawner *current; /* under current_lock; referenced */

/* --- environment ------------------------------------------------------------------------------------------- */

size_t td__environment_flatten(char *to, size_t room, uint32_t *count)
{
    size_t size = 0;
    *count = 0;
    for (char **entry = environ; entry && *entry; entry++) {
        size_t length = strlen(*entry) + 1;
        if (to && size + length <= room)
            memcpy(to + size, *entry, length);
        size += length;
        (*count)++;
    }
    return size;
}

uint64_t td__environment_hash(const char *flat, size_t size)
{
    uint64_t hash = 0xcbf29ce484222325;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ (unsigned char)flat[i]) * 0x100000001b3;
    return hash;
}

bool td__environment_is(const char *flat, size_t size)
{
    const char *at = flat, *end = flat + size;
    for (char **entry = environ; entry && *entry; entry++) {
        size_t length = strlen(*entry) + 1;
        if (length > (size_t)(end - at) || memcmp(at, *entry, length) != 0)
            return false;
        at += length;
    }
    return at == end;
}

static int keep_environment(td__spawner *spawner)
{
    uint32_t count;
    size_t size = td__environment_flatten(NULL, 0, &count);
    spawner->environment = td__alloc(size);
    if (!spawner->environment)
        return -1;
    size_t now = td__environment_flatten(spawner->environment, size, &count);
    spawner->environment_size = now < size ? now : size;
    return 0;
}

/* --- the life pipe ----------------------------------------------------------------------------------------- */

static td__lock life_lock;
static int life[2] = { -1, -1 }; /* under life_lock until made; then fixed until the finish */

const int *td__life(void)
{
    td__lock_acquire(&life_lock);
    int r = life[0] >= 0 ? 0 : td__life_pipe(life);
    if (r < 0)
        life[0] = life[1] = -1;
    td__lock_release(&life_lock);
    return r < 0 ? NULL : life;
}

static void close_life(void)
{
    td__close(life[0]);
    td__close(life[1]);
    life[0] = life[1] = -1;
}

void td__life_end(void)
{
    td__lock_acquire(&life_lock);
    close_life();
    td__lock_release(&life_lock);
}

/* --- lifetime ---------------------------------------------------------------------------------------------- */

static void dispose(td__spawner *spawner)
{
    /* A worker answers in its spawner's segment to its last breath. */
    if (spawner->inherited)
        return;
    if (spawner->segment) {
        td__fault_leave(spawner->segment->faults);
        td__unmap(spawner->segment, TD__MAPPED_BYTES);
    }
    td__close(spawner->file);
    td__close(spawner->control);
    for (uint32_t lane = 0; lane < spawner->lane_count; lane++)
        td__close(spawner->lanes[lane]);
    td__close(spawner->pid_fd);
    if (spawner->holder)
        td__holder_reap(spawner->holder, spawner->holder_stack);
    td__release(spawner->environment);
    td__release(spawner->modules);
    td__release(spawner);
}

void td__spawner_unref(td__spawner *spawner)
{
    if (spawner && td__fetch_sub_acq_rel(&spawner->references, 1) == 1)
        dispose(spawner);
}

#define SLICE_NS 1000000

/* Without a descriptor, of which the program may have none left. */
static void await_reaped(pid_t pid, int64_t deadline)
{
    const _Atomic uint32_t nothing = 0;
    while (td__pid_exists(pid) && td__now() < deadline) {
        td__step_point();
        td__futex_wait(&nothing, 0, td__now() + SLICE_NS, false);
    }
}

/* Waits for the end of a process that is dying, with the spawner. */
static void await_death(pid_t pid, int64_t deadline)
{
    int fd = pid > 0 ? td__pid_fd(pid) : -1;
    bool ready;
    if (fd >= 0)
        td__poll(&fd, &ready, 1, deadline);
    else if (pid > 0 && errno != ESRCH)
        await_reaped(pid, deadline);
    td__close(fd);
}

/* Repairs must not begin before it is dead; and a worker that has been joined may be there still, at its end. */
static void worker_lost(pid_t pid, int64_t deadline)
{
    await_death(pid, deadline);
    td__parties_died(pid); /* also if the spawner has marked them: it may not have come to tell */
}

/* Its workers die with it, by the kernel's hand; a stray one that asked to outlive it must not. Under `losing`, as only
 * one may mark a slot. */
static void lose_worker(td__spawner *spawner, uint32_t index, int64_t deadline)
{
    td__slot *slot = td__slot_at(spawner->segment, index);
    if (td__load_acquire(&slot->done) & TD__ENDED)
        return;
    worker_lost((pid_t)td__load_acquire(&slot->pid), deadline);
    td__slot_ended(slot, TD__ENDED, true, SIGKILL);
    td__slot_end(spawner->segment, spawner->file, index, TD__GONE);
}

void td__spawner_lost_worker(td__spawner *spawner, uint32_t index)
{
    if (!td__load_seq_cst(&spawner->dead))
        return;
    td__lock_acquire(&spawner->losing);
    lose_worker(spawner, index, td__deadline(td_s(DYING_LIMIT_S)));
    td__lock_release(&spawner->losing);
    td__event_fd_signal(td__arrivals); /* whose watcher repairs, and may have done so before */
}

/* All of whom the pid is known, or just all. False: there are others. */
static bool lose_all(td__spawner *spawner, bool unnamed)
{
    int64_t deadline = td__deadline(td_s(DYING_LIMIT_S));
    bool all = true;
    td__lock_acquire(&spawner->losing);
    for (uint32_t index = 0; index < TD__SLOTS; index++) {
        if (td__load_acquire(&spawner->segment->in_use[index / 64]) == 0) {
            index |= 63;
            continue;
        }
        td__slot *slot = td__slot_at(spawner->segment, index);
        uint64_t word = td__load_seq_cst(&slot->word);
        bool taken = TD__WORD_STATE(word) == TD__TAKEN;
        if (TD__WORD_STATE(word) == TD__FREE || (!taken && TD__WORD_OWNER(word) != TD__OWNER_SPAWNER))
            continue;
        if (!unnamed && td__load_acquire(&slot->pid) == 0)
            all &= (td__load_acquire(&slot->done) & TD__ENDED) != 0;
        else if (taken)
            lose_worker(spawner, index, deadline);
        else
            await_death((pid_t)td__load_acquire(&slot->pid), deadline);
    }
    td__lock_release(&spawner->losing);
    return all;
}

/* All that it has forked dies with it: who learns of its end after this finds them gone, spares too. */
void td__spawner_lost(td__spawner *spawner)
{
    td__parties_died(spawner->pid);
    /* Sequentially consistent, with the CAS that takes a slot and the load of `dead` after it in process.c: either the
     * starter sees that the spawner is dead, or we see its slot. */
    td__store_seq_cst(&spawner->dead, 1);
    if (lose_all(spawner, false))
        return;
    /* Whom it had just forked tells its pid before it closes the spawner's end of the socket. (So would somebody whom
     * .prepare has forked, and who lives on: hence the limit.) */
    td__wait_ready(spawner->control, false, td__deadline(td_s(DYING_LIMIT_S)));
    lose_all(spawner, true);
}

/* --- starting ---------------------------------------------------------------------------------------------- */

static int failed(const char *for_whom, const char *stage, int error)
{
    td_worker named = { .kind = TD_PROCESS, .name = (char *)(uintptr_t)for_whom };
    return td__start_failed(&named, stage, error);
}

/* The environment with the marker; the strings are the caller's own. */
static char **marked_environment(void)
{
    static char marker[] = TD__MARKER "=3";
    size_t count = 0;
    while (environ && environ[count])
        count++;
    char **marked = td__alloc((count + 2) * sizeof *marked);
    if (!marked)
        return NULL;
    size_t kept = 0;
    for (size_t i = 0; i < count && environ[i]; i++)
        if (strncmp(environ[i], TD__MARKER "=", sizeof TD__MARKER) != 0)
            marked[kept++] = environ[i];
    marked[kept] = marker;
    return marked;
}

/* The sentence for a spawner that ended before it sent this message. */
static const char *ended_early(uint32_t what)
{
    if (what != TD__HELLO)
        return "cannot start worker '%s': the spawner ended while it prepared itself";
    if (td__exec_gives_rights())
        return "cannot start worker '%s': this program's file gives rights (set-user-ID or the like) that the program "
               "does not have any more, and it is not started anew with them: use the fork method";
    return "cannot start worker '%s': the spawner, this program started anew, ended before it reached td_init(): is "
           "td_init() the first line of main?";
}

/* Waits for one message of the new spawner. 0, or a code with the thread's error set. */
static int hear(td__spawner *spawner, uint32_t what, int64_t deadline, td__message *message, const char *for_whom)
{
    int fds[2] = { spawner->control, spawner->pid_fd };
    bool ready[2];
    size_t room = TD__SPARES_MAX;
    int n = td__poll(fds, ready, 2, deadline);
    if (n < 0)
        return failed(for_whom, "poll", errno);
    if (n == 0)
        return td__fail(TD_ESPAWNER,
                        "cannot start worker '%s': the spawner, this program started anew, did not reach td_init() "
                        "within %d seconds: is td_init() the first line of main?",
                        for_whom, HELLO_LIMIT_S);
    ssize_t got = td__receive(spawner->control, message, sizeof *message, spawner->lanes, &room, false);
    int error = errno;
    if (got == (ssize_t)sizeof *message && message->what == what) {
        spawner->lane_count = (uint32_t)room;
        return what == TD__READY && room == 0 && message->code == 0 ? failed(for_whom, "recvmsg", EMFILE) : 0;
    }
    if (got < 0 && !(ready[1] && error == EAGAIN))
        return failed(for_whom, "recvmsg", error);
    return td__fail(TD_ESPAWNER, ended_early(what), for_whom);
}

/* Before there is a worker. The spawner could have written anything as well, so the number is checked. */
static int take_modules(td__spawner *spawner, const char *for_whom)
{
    uint32_t count = spawner->segment->module_count;
    if (count > TD__MODULES_MAX)
        count = 0;
    spawner->modules = td__alloc(count * sizeof *spawner->modules);
    if (!spawner->modules)
        return failed(for_whom, "malloc", ENOMEM);
    memcpy(spawner->modules, spawner->segment->modules, count * sizeof *spawner->modules);
    for (uint32_t i = 0; i < count; i++) {
        td__module *module = &spawner->modules[i];
        module->path[sizeof module->path - 1] = 0;
        if (module->build_id_size > sizeof module->build_id)
            module->build_id_size = 0;
    }
    spawner->module_count = count;
    return 0;
}

static td__segment *make_segment(td__spawner *spawner)
{
    uint64_t size = td__segment_file_size();
    spawner->file = td__memory_file("tandem", size);
    if (spawner->file < 0 && errno == EFBIG) { /* under RLIMIT_FSIZE: without windows for large values */
        size = TD__MAPPED_BYTES;
        spawner->file = td__memory_file("tandem", size);
    }
    if (spawner->file < 0)
        return NULL;
    /* The header's pages, and those of the first slots, now: later ones come as slots are used. */
    if (td__reserve(spawner->file, 0, TD__HEADER_BYTES + 16 * TD__SLOT_BYTES) < 0)
        return NULL;
    td__segment *segment = td__map_shared(spawner->file, 0, TD__MAPPED_BYTES);
    if (!segment)
        return NULL;
    segment->magic = TD__SEGMENT_MAGIC;
    spawner->file_size = segment->file_size = size;
    segment->main_pid = td__getpid();
    segment->spares = td__the.options.spares;
    segment->reaper_above = td__orphans_stay();
    segment->core_dumps = td__the.options.core_dumps;
    segment->cpus = td__cpu_count();
    segment->born_ignored = td__the.born_ignored;
    return segment;
}

/* One that cannot be used. If it serves, it may have spares: it is asked to end, as it waits for them then; killed, it
 * would leave them dying. */
static void end_unwatched(const td__spawner *spawner, bool serves)
{
    td__message message = { .what = TD__QUIT };
    bool ready = false;
    if (serves && td__send(spawner->control, &message, sizeof message, NULL, 0) == 0)
        td__poll(&spawner->pid_fd, &ready, 1, td__deadline(td_s(DYING_LIMIT_S)));
    if (!ready)
        td__pid_fd_kill(spawner->pid_fd, SIGKILL);
    td__poll(&spawner->pid_fd, &ready, 1, 0);
}

static int start_it(td__spawner *spawner, const char *for_whom)
{
    int control[2] = { -1, -1 }, self = -1, code = 0;
    const int *pipe = NULL;
    char **environment = NULL;
    char *no_arguments[] = { (char *)(uintptr_t) "tandem", NULL };
    const char *stage = "memfd_create";
    spawner->segment = make_segment(spawner);
    if (spawner->segment) {
        td__fault_move(spawner->segment->faults, true);
        stage = "socketpair";
    }
    if (spawner->segment && td__region_create() < 0)
        stage = "memfd_create (shared heap)";
    else if (spawner->segment && td__socket_pair(control) == 0) {
        spawner->control = control[0];
        stage = "pidfd_open";
        self = td__pid_fd(td__getpid());
    }
    if (self >= 0) {
        stage = "pipe";
        pipe = td__life();
    }
    if (pipe) {
        stage = "malloc";
        environment = marked_environment();
    }
    if (!environment) {
        code = failed(for_whom, stage, errno);
    } else {
        const int keep[] = { spawner->file, control[1], control[0], self, pipe[0], td__region_file, td__arrivals };
        td__exec request = { .argv = td__the.argv ? td__the.argv : no_arguments,
                             .environment = environment,
                             .keep = keep,
                             .keep_count = TD__COUNT(keep) };
        if (td__exec_self(&request) < 0) {
            code = failed(for_whom, request.stage, errno);
        } else {
            spawner->pid = request.pid;
            spawner->pid_fd = request.pid_fd;
            spawner->holder = request.holder;
            spawner->holder_stack = request.holder_stack;
        }
    }
    td__release(environment);
    td__close(control[1]);
    td__close(self);
    td__message message;
    if (code == 0)
        code = hear(spawner, TD__HELLO, td__deadline(td_s(HELLO_LIMIT_S)), &message, for_whom);
    if (code == 0)
        code = hear(spawner, TD__READY, 0, &message, for_whom);
    bool serves = code == 0;
    if (code == 0 && message.code != 0)
        code = td__fail(TD_ESPAWNER, "cannot start worker '%s': the spawner's .prepare returned %d", for_whom,
                        message.code);
    if (code == 0)
        code = take_modules(spawner, for_whom);
    if (code == 0)
        spawner->environment_differs =
            spawner->segment->environment_hash != td__environment_hash(spawner->environment, spawner->environment_size);
    if (code == 0 && td__watch_spawner(spawner) < 0)
        code = failed(for_whom, "watcher", errno);
    if (code != 0 && spawner->pid_fd >= 0) {
        end_unwatched(spawner, serves);
    }
    return code;
}

static td__spawner *launch(const td__identity *identity, const char *for_whom)
{
    /* Whoever asks: a spawner would be an image with the file's rights, but outside of secure mode. */
    if (td__is_secure()) {
        td__fail(TD_EUNSUPPORTED,
                 "cannot start worker '%s': this program runs with rights of its file (set-user-ID or the like), which "
                 "it cannot be started anew with: use the fork method",
                 for_whom);
        return NULL;
    }
    td__spawner *spawner = td__alloc(sizeof *spawner);
    if (!spawner) {
        failed(for_whom, "malloc", ENOMEM);
        return NULL;
    }
    spawner->references = 1;
    spawner->file = spawner->control = spawner->pid_fd = -1;
    spawner->identity = identity->hash;
    if (keep_environment(spawner) < 0) {
        failed(for_whom, "malloc", ENOMEM);
        td__spawner_unref(spawner);
        return NULL;
    }
    if (start_it(spawner, for_whom) < 0) {
        td__spawner_unref(spawner);
        return NULL;
    }
    return spawner;
}

/* Any identity will do if it is NULL. */
static bool fits(const td__spawner *spawner, const td__identity *identity)
{
    return spawner && (!identity || spawner->identity == identity->hash) && !td__load_acquire(&spawner->dead);
}

static void retire(td__spawner *spawner)
{
    td__message message = { .what = TD__RETIRE };
    if (!spawner->inherited)
        td__send(spawner->control, &message, sizeof message, NULL, 0);
    td__spawner_unref(spawner);
}

static td__spawner *current_if(const td__identity *identity)
{
    td__lock_acquire(&current_lock);
    td__spawner *spawner = fits(current, identity) ? current : NULL;
    if (spawner)
        td__fetch_add_relaxed(&spawner->references, 1);
    td__lock_release(&current_lock);
    return spawner;
}

td__spawner *td__spawner_current(void)
{
    td__spawner *spawner = current_if(NULL);
    bool ready = false;
    /* Dead, and the watcher has not come to it yet? Its spares are dying, and would take the work with them. */
    if (spawner && spawner->pid_fd >= 0 && td__poll(&spawner->pid_fd, &ready, 1, 1) > 0) {
        td__store_seq_cst(&spawner->dead, 1);
        td__spawner_unref(spawner);
        spawner = NULL;
    }
    return spawner;
}

td__spawner *td__spawner_get(const td__identity *identity, const char *for_whom)
{
    td__spawner *spawner = current_if(identity);
    if (spawner)
        return spawner;
    td__lock_acquire(&launching);
    spawner = current_if(identity); /* another thread was faster */
    if (!spawner) {
        spawner = launch(identity, for_whom);
        if (spawner) {
            td__fetch_add_relaxed(&spawner->references, 1);
            td__lock_acquire(&current_lock);
            td__spawner *former = current;
            current = spawner;
            td__lock_release(&current_lock);
            if (former)
                retire(former);
        }
    }
    td__lock_release(&launching);
    return spawner;
}

void td__spawners_finish(void)
{
    td__lock_acquire(&launching);
    td__lock_acquire(&current_lock);
    td__spawner *former = current;
    current = NULL;
    td__lock_release(&current_lock);
    if (former)
        retire(former);
    td__watcher_stop();
    close_life();
    td__lock_release(&launching);
}

/* The watcher forgets all that it watches, the current one among them. In a worker, the inherited one stays mapped: the
 * target that forked may still look at its call. */
void td__spawners_forget(void)
{
    launching = current_lock = life_lock = (td__lock){ 0 };
    close_life();
    if (current && current->inherited) {
        td__close(current->file);
        td__close(current->control);
    }
    current = NULL;
}

void td__spawner_inherit(td__segment *segment, int file, int control)
{
    td__spawner *spawner = td__alloc(sizeof *spawner);
    td__identity identity;
    if (!spawner || td__identity_get(&identity) < 0 || keep_environment(spawner) < 0) {
        td__release(spawner);
        return; /* a worker that starts workers will then start a spawner of its own */
    }
    spawner->references = 1;
    spawner->segment = segment;
    spawner->file = file;
    spawner->control = control;
    spawner->pid_fd = -1;
    spawner->identity = identity.hash;
    spawner->inherited = true;
    spawner->file_size = td__the.file_size;
    if (take_modules(spawner, "the first") < 0) {
        td__release(spawner->environment);
        td__release(spawner);
        return;
    }
    segment->environment_hash = td__environment_hash(spawner->environment, spawner->environment_size);
    current = spawner;
}
