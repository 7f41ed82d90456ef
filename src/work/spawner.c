/* SPDX-License-Identifier: MIT */
/*
 * The spawner: this program started anew, small and with one thread, which forks workers.
 *
 * It keeps `spares` warm: workers already forked, each asleep until it is called, and then reading from its lane (a
 * socket whose other end the main process has), so that a start is one message to a spare. A starter without lanes (a
 * worker), or one that finds no spare, sends its request to the spawner itself, which forks for it.
 *
 * It waits, without a time limit, for: a message, the end of a child, the end of the main process. It is the
 * parent of all workers: a pid in its table cannot be reused before it has reaped it, which it does only after the slot
 * says that the process has ended (so that others can check, see td__process_signal). When the main process ends, or
 * the spawner itself, so do all workers.
 *
 * All of this process's memory is single-threaded; what is shared with others is in the segment.
 */
#include "sync/party.h"
#include "work/spawner.h"
#include "work/module.h"
#include "work/worker.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define TABLE 16384 /* a power of two, twice the slots */

static struct {
    td__segment *segment;
    int file, control, peer, main_fd, child_fd; /* peer: the end of control that workers send on */
    uint32_t spares;                            /* a copy: others can write to the segment */
    int life[2];                                /* a pipe that we alone can write to: workers follow it */
    int directory;                              /* of our descriptors, for workers to open `life` by; -1: none */
    int followed;                               /* the program's life pipe */
    int lanes[TD__SPARES_MAX];
    int lane_slot[TD__SPARES_MAX]; /* the slot whose process reads the lane, or -1 */
    int ours[TD__SPARES_MAX + 8];  /* of the above, those that no worker keeps but for its lane, in order */
    size_t our_count;
    uint64_t born_ignored; /* a copy as well */
    pid_t pid;
    uint32_t live;
    bool retiring, quitting;
    bool repairing;   /* after deaths */
    bool fork_failed; /* no spares until something has ended */
    struct entry {
        pid_t pid; /* 0 empty, -1 deleted */
        uint32_t slot;
    } * table; /* not copied to the children, who have no use for it */
} spawner;

/* --- the table of children --------------------------------------------------------------------------------- */

static uint32_t place_of(pid_t pid)
{
    return (uint32_t)pid & (TABLE - 1); /* pids grow: neighbours share a page */
}

static void remember(pid_t pid, uint32_t slot)
{
    uint32_t at = place_of(pid);
    while (spawner.table[at].pid > 0)
        at = (at + 1) & (TABLE - 1);
    spawner.table[at].pid = pid;
    spawner.table[at].slot = slot;
    spawner.live++;
}

static int forget(pid_t pid)
{
    for (uint32_t at = place_of(pid), n = 0; spawner.table[at].pid != 0 && n < TABLE;
         at = (at + 1) & (TABLE - 1), n++) {
        if (spawner.table[at].pid != pid)
            continue;
        /* Deleted places are needed only before a used one. */
        spawner.table[at].pid = spawner.table[(at + 1) & (TABLE - 1)].pid == 0 ? 0 : -1;
        spawner.live--;
        return (int)spawner.table[at].slot;
    }
    return -1;
}

static void kill_all(void)
{
    for (uint32_t at = 0; at < TABLE; at++)
        if (spawner.table[at].pid > 0)
            td__kill(spawner.table[at].pid, SIGKILL);
}

/* --- children ---------------------------------------------------------------------------------------------- */

/* What every child does first: it dies with the spawner, has the program's signals and none of our descriptors but
 * `file`, the way to ask for workers, and `keep`. All signals stay blocked. */
static void become_worker(uint32_t index, int keep)
{
    /* Both: the first needs nothing, but ends with a change of user; the second does not. */
    bool alive = td__die_with_parent(spawner.pid);
    /* Release: for who takes a spare. Before the socket is closed: see td__spawner_lost. */
    td__store_release(&td__slot_at(spawner.segment, index)->pid, (uint32_t)td__the.pid);
    int own = td__reopen(spawner.directory, spawner.life[0]);
    if (own < 0 && spawner.directory >= 0) /* not readable by us: .prepare has changed the user, or the like */
        own = td__reopen(-1, spawner.life[0]);
    td__close_many(spawner.ours, spawner.our_count, keep);
    td__follow_opened(own); /* after that: nobody but the spawner must hold the pipe's other end */
    if (!alive)
        td__exit_now(1);
    if (spawner.born_ignored & TD__SIGNAL_BIT(SIGCHLD))
        td__signal_ignore(SIGCHLD, true);
}

static bool other_spares(uint32_t lane)
{
    for (uint32_t other = 0; other < spawner.spares; other++)
        if (other != lane && td__spare_waits(spawner.segment, other))
            return true;
    return false;
}

/* Reads our request from the lane; `wait` false: if it is there. What else is there was meant for one who was here
 * before us and died. */
static bool take_request(int socket, uint32_t index, uint32_t generation, bool wait, td__message *message, int *fds,
                         size_t *count)
{
    for (bool there = wait; wait || td__poll(&socket, &there, 1, 1) > 0;) {
        *count = TD__MESSAGE_FDS;
        ssize_t n = td__receive(socket, message, sizeof *message, fds, count, true);
        if (n <= 0)
            td__exit_now(n < 0); /* the main process has gone */
        if (n == (ssize_t)sizeof *message && message->slot == index && message->generation == generation)
            return true;
        td__close_many(fds, *count, -1);
    }
    return false;
}

static void await_call(td__slot *slot)
{
    while (td__load_acquire(&slot->called) == TD__UNCALLED)
        td__futex_wait(&slot->called, TD__UNCALLED, 0, true);
    td__store_relaxed(&slot->worker_cpu, td__slot_cpu());
    td__slot_linger(&slot->called, TD__CALLED, &slot->starter_cpu, 0);
}

/* Says that we are ready; false: nobody wants us any more. A starter may have taken us already, or have taken us and
 * put us back, as ready. */
static bool be_ready(td__slot *slot, uint32_t generation)
{
    uint64_t word = TD__WORD(generation, TD__OWNER_SPAWNER, TD__BOOTING);
    return td__cas_acq_rel(&slot->word, &word, TD__WORD(generation, TD__OWNER_SPAWNER, TD__SPARE)) ||
           TD__WORD_OWNER(word) != TD__OWNER_SPAWNER || TD__WORD_STATE(word) == TD__SPARE;
}

static _Noreturn void be_spare(uint32_t index, uint32_t lane)
{
    int socket = spawner.lanes[lane];
    become_worker(index, socket);
    td__thread_name("tandem-spare");
    td__slot *slot = td__slot_at(spawner.segment, index);
    uint32_t generation = TD__WORD_GENERATION(td__load_relaxed(&slot->word));
    td__task_rehearse(spawner.segment, spawner.file, index);
    if (!be_ready(slot, generation))
        td__exit_now(0);
    td__message message;
    int fds[TD__MESSAGE_FDS];
    size_t count;
    if (!take_request(socket, index, generation, false, &message, fds, &count)) {
        await_call(slot);
        take_request(socket, index, generation, true, &message, fds, &count);
    }
    td__close(socket);
    td__store_release(&slot->received, 1);
    if (!other_spares(lane)) {
        /* The spawner sees us end, and makes another then; it must be told only if there is none till then. */
        td__message taken = { .what = TD__TAKEN_UP, .slot = index, .generation = generation };
        td__send(spawner.peer, &taken, sizeof taken, NULL, 0);
    }
    td__task_run(spawner.segment, spawner.file, index, &message, fds, count);
}

/* The slot of who reads the lane; -1: nobody any more, or it has read what was meant for it. */
static int reader_of(uint32_t lane)
{
    int index = spawner.lane_slot[lane];
    if (index >= 0 && td__load_acquire(&td__slot_at(spawner.segment, (uint32_t)index)->received))
        index = spawner.lane_slot[lane] = -1;
    return index;
}

static int free_lane(void)
{
    for (uint32_t lane = 0; lane < spawner.spares; lane++)
        if (reader_of(lane) < 0)
            return (int)lane;
    return -1;
}

/* What is on a lane that nobody reads was meant for its last reader, which died: its descriptors, of which somebody may
 * wait for the last one to be closed, must not wait for the next reader. */
static void clear_lane(uint32_t lane)
{
    for (bool there = true; td__poll(&spawner.lanes[lane], &there, 1, 1) > 0;) {
        td__message message;
        int fds[TD__MESSAGE_FDS];
        size_t count = TD__COUNT(fds);
        ssize_t n = td__receive(spawner.lanes[lane], &message, sizeof message, fds, &count, false);
        td__close_many(fds, count, -1);
        if (n <= 0)
            return;
    }
}

/* The same when a starter tells that it has sent such a message. Whoever reads the lane now may have looked before the
 * message was there, and sleep: called, it drops the message and waits for its own. Who is forked later looks later. */
static void message_left(uint32_t lane)
{
    int index = lane < spawner.spares ? reader_of(lane) : -1;
    if (index >= 0) {
        td__slot *slot = td__slot_at(spawner.segment, (uint32_t)index);
        uint32_t called = TD__UNCALLED;
        if (td__cas_acq_rel(&slot->called, &called, TD__CALLED))
            td__futex_wake(&slot->called, 1, true);
    } else if (lane < spawner.spares) {
        clear_lane(lane);
    }
}

static void give_back(uint32_t index)
{
    td__slot_end(spawner.segment, spawner.file, index, TD__RELEASED);
    td__slot_end(spawner.segment, spawner.file, index, TD__GONE);
}

static bool make_spare(void)
{
    int lane = free_lane();
    if (lane < 0)
        return false;
    int index = td__slot_take(spawner.segment, TD__OWNER_SPAWNER, TD__BOOTING);
    if (index < 0)
        return false;
    pid_t pid = td__fork();
    if (pid == 0)
        be_spare((uint32_t)index, (uint32_t)lane);
    if (pid < 0) {
        spawner.fork_failed = true;
        give_back((uint32_t)index);
        return false;
    }
    remember(pid, (uint32_t)index);
    spawner.lane_slot[lane] = index;
    td__store_release(&td__slot_at(spawner.segment, (uint32_t)index)->pid, (uint32_t)pid);
    /* Release: the pid, for a starter, who may take it from now on. */
    td__store_release(&spawner.segment->spare_slots[lane], (uint32_t)index + 1);
    return true;
}

static bool owner_lives(unsigned owner)
{
    if (owner == TD__OWNER_MAIN)
        return true;
    if (owner == 0 || owner > TD__SLOTS)
        return false;
    td__slot *slot = td__slot_at(spawner.segment, owner - 1);
    return TD__WORD_STATE(td__load_acquire(&slot->word)) == TD__TAKEN && !(td__load_acquire(&slot->done) & TD__ENDED);
}

static void refuse(uint32_t index, int error)
{
    td__slot_ended(td__slot_at(spawner.segment, index), TD__ENDED | TD__NOT_STARTED, false, error);
    td__slot_end(spawner.segment, spawner.file, index, TD__GONE);
}

static void start(const td__message *message, int *fds, size_t count)
{
    /* The number comes from another process. */
    if (message->slot >= TD__SLOTS)
        return;
    td__slot *slot = td__slot_at(spawner.segment, message->slot);
    uint64_t word = td__load_acquire(&slot->word);
    if (TD__WORD_STATE(word) != TD__TAKEN || TD__WORD_GENERATION(word) != message->generation)
        return;
    if (!owner_lives(TD__WORD_OWNER(word))) {
        td__slot_ended(slot, TD__ENDED | TD__NOT_STARTED, false, ECANCELED);
        give_back(message->slot);
        return;
    }
    if (count != td__message_fds(message)) {
        refuse(message->slot, EMFILE);
        return;
    }
    pid_t pid = td__fork();
    if (pid == 0) {
        become_worker(message->slot, -1);
        td__store_release(&slot->received, 1);
        td__task_run(spawner.segment, spawner.file, message->slot, message, fds, count);
    }
    if (pid < 0) {
        refuse(message->slot, errno);
        return;
    }
    spawner.fork_failed = false;
    remember(pid, message->slot);
    td__store_release(&slot->pid, (uint32_t)pid);
    td__futex_wake(&slot->pid, INT_MAX, true);
}

/* Of the dead worker in slot `owner`, if it is. */
static void end_child(uint32_t owner, uint32_t i)
{
    td__slot *slot = td__slot_at(spawner.segment, i);
    uint64_t word = td__load_acquire(&slot->word);
    if (TD__WORD_STATE(word) != TD__FREE && TD__WORD_OWNER(word) != owner + 1)
        return;
    if (TD__WORD_STATE(word) == TD__FREE) {
        td__slot_end_for(spawner.segment, spawner.file, i, owner + 1);
        return;
    }
    bool booting = TD__WORD_STATE(word) == TD__BOOTING;
    if (booting) /* its owner died while it took it; what is there is of its former use */
        td__store_release(&slot->ends, 0);
    uint32_t done = booting ? 0 : td__load_acquire(&slot->done);
    uint32_t pid = booting ? 0 : td__load_acquire(&slot->pid);
    if (!(done & TD__ENDED) && pid != 0)
        td__kill((pid_t)pid, SIGKILL);
    else if (!(done & TD__ENDED)) /* taken, but its request has not reached us and never will, or is refused */
        td__slot_end(spawner.segment, spawner.file, i, TD__GONE);
    td__slot_end_for(spawner.segment, spawner.file, i, owner + 1);
}

/* What a dead worker had started ends with it, and nobody will ask for it. */
static void end_children_of(uint32_t index)
{
    for (uint32_t i = 0; i < TD__SLOTS; i++)
        if (td__load_relaxed(&spawner.segment->in_use[i / 64]) >> (i % 64) & 1)
            end_child(index, i);
    /* The one that it was taking when it died, which is not in the map perhaps. */
    uint32_t taking = td__load_acquire(&td__slot_at(spawner.segment, index)->taking);
    if (taking > 0 && taking <= TD__SLOTS)
        end_child(index, taking - 1);
}

/* The lane whose reader has died before it could read; -1: none. Before its slot says that it has ended. */
static int leave_lanes(const td__slot *slot, uint32_t index)
{
    int unread = -1;
    for (uint32_t lane = 0; lane < spawner.spares; lane++) {
        uint32_t hint = td__load_relaxed(&spawner.segment->spare_slots[lane]);
        while ((hint & ~TD__SPARE_TAKEN) == index + 1 &&
               !td__cas_acq_rel(&spawner.segment->spare_slots[lane], &hint, 0))
            ;
        if (spawner.lane_slot[lane] != (int)index)
            continue;
        spawner.lane_slot[lane] = -1;
        if (!td__load_acquire(&slot->received))
            unread = (int)lane;
    }
    return unread;
}

/* A spare that nobody has is ours: its slot becomes free with the second end. Taken meanwhile, it is a worker's death.
 * After its slot says that it has ended: a starter that puts it back after we have looked sees that (put_back() in
 * process.c). */
static void release_unused(td__slot *slot, uint32_t index)
{
    uint64_t word = td__load_seq_cst(&slot->word);
    while (TD__WORD_OWNER(word) == TD__OWNER_SPAWNER && TD__WORD_STATE(word) != TD__FREE &&
           !td__cas_seq_cst(&slot->word, &word, TD__WORD(TD__WORD_GENERATION(word), TD__OWNER_SPAWNER, TD__TAKEN)))
        ;
    if (TD__WORD_OWNER(word) == TD__OWNER_SPAWNER)
        td__slot_end(spawner.segment, spawner.file, index, TD__RELEASED);
}

static void child_ended(const td__death *death)
{
    int index = forget(death->pid);
    if (index < 0) {
        td__child_reap(death->pid);
        return;
    }
    td__slot *slot = td__slot_at(spawner.segment, (uint32_t)index);
    int unread = leave_lanes(slot, (uint32_t)index);
    /* Before the slot says that it has ended: else, should we die between the two, nobody would look at its parties. */
    if (td__parties_of(death->pid)) {
        td__parties_died(death->pid);
        spawner.repairing = true;
    }
    td__slot_mark(slot, TD__ENDED, death->signaled, death->number); /* its pid was told when it was forked */
    release_unused(slot, (uint32_t)index);
    if (unread >= 0)
        clear_lane((uint32_t)unread); /* whose message comes later sees the mark, and tells us */
    bool has_children = td__load_acquire(&slot->has_children) != 0;
    /* Only now may the pid be used again. */
    td__child_reap(death->pid);
    if (has_children)
        end_children_of((uint32_t)index);
    td__slot_end(spawner.segment, spawner.file, (uint32_t)index, TD__GONE);
    spawner.fork_failed = false;
}

/* --- the loop ---------------------------------------------------------------------------------------------- */

/* There is one, at least. Whether there is another one is asked by a poll, since to receive nothing writes errno: a
 * page that each fork makes anew. */
static void take_messages(void)
{
    for (bool another = true; another; another = td__poll(&spawner.control, &another, 1, 1) > 0) {
        td__message message;
        int fds[TD__MESSAGE_FDS];
        size_t count = TD__COUNT(fds);
        ssize_t n = td__receive(spawner.control, &message, sizeof message, fds, &count, false);
        if (n == (ssize_t)sizeof message && message.what == TD__START)
            start(&message, fds, count);
        else if (n == (ssize_t)sizeof message && message.what == TD__LEFT)
            message_left(message.slot);
        else if (n == (ssize_t)sizeof message && message.what == TD__RETIRE)
            spawner.retiring = true;
        else if (n == (ssize_t)sizeof message && message.what == TD__QUIT)
            spawner.retiring = spawner.quitting = true;
        td__close_many(fds, count, -1);
        if (n <= 0)
            return;
    }
}

static void end_spares(void)
{
    for (uint32_t lane = 0; lane < spawner.spares; lane++) {
        int index = spawner.lane_slot[lane];
        if (index < 0)
            continue;
        td__slot *slot = td__slot_at(spawner.segment, (uint32_t)index);
        uint64_t word = td__load_acquire(&slot->word);
        /* Taking it first: a starter that still knows us may be about to. */
        while (TD__WORD_STATE(word) == TD__BOOTING || TD__WORD_STATE(word) == TD__SPARE)
            if (td__cas_acq_rel(&slot->word, &word,
                                TD__WORD(TD__WORD_GENERATION(word), TD__OWNER_SPAWNER, TD__TAKEN))) {
                td__kill((pid_t)td__load_acquire(&slot->pid), SIGKILL);
                break;
            }
    }
}

static _Noreturn void serve(void)
{
    int fds[3] = { spawner.control, spawner.main_fd, spawner.child_fd };
    bool ready[3] = { false, false, true };
    for (;;) {
        td__death death;
        while (ready[2] && td__child_ended(&death) == 1)
            child_ended(&death);
        if (spawner.repairing)
            spawner.repairing = !td__parties_repair();
        if (ready[0])
            take_messages();
        if (spawner.quitting)
            kill_all();
        else if (spawner.retiring)
            end_spares();
        if (spawner.retiring && spawner.live == 0)
            td__exit_now(0);
        bool made = !spawner.retiring && !spawner.fork_failed && make_spare();
        int64_t deadline = 0;
        if (made && free_lane() >= 0)
            deadline = 1; /* passed: a look before the next one, for requests come first */
        else if (spawner.repairing)
            deadline = td__deadline(td_ms(1)); /* a latch that it needs is taken: by somebody about to leave it */
        td__poll(fds, ready, 3, deadline);
        if (ready[1]) { /* the main process has ended */
            kill_all();
            td__exit_now(0);
        }
        if (ready[2])
            td__signal_fd_clear(spawner.child_fd); /* before the look at the children: it is set again by the next */
    }
}

/* --- beginning --------------------------------------------------------------------------------------------- */

/* Our descriptors go where the program's own will hardly be. */
static int move_high(int fd, int base)
{
    int high = td__dup_from(fd, base);
    if (high < 0)
        return td__close_on_exec(fd) < 0 ? -1 : fd;
    td__close(fd);
    return high;
}

/* Above the lowest ones, which are the workers'; below 64, so that a process's table of them is not a block of its own,
 * to be copied and freed with each worker. */
static int descriptor_base(void)
{
    td__limit limits[TD__LIMITS];
    td__limits_get(limits);
    return limits[TD__LIMIT_NOFILE].soft >= 64 ? 64 - 20 - 2 : 3;
}

static void add_ours(int fd)
{
    size_t at = spawner.our_count++;
    for (; at > 0 && spawner.ours[at - 1] > fd; at--)
        spawner.ours[at] = spawner.ours[at - 1];
    spawner.ours[at] = fd;
}

static void announce(uint32_t what, int code, const int *fds, size_t count)
{
    td__message message = { .what = what, .code = code };
    if (td__send(spawner.control, &message, sizeof message, fds, count) < 0)
        td__exit_now(1);
}

static void publish(void)
{
    td__segment *segment = spawner.segment;
    segment->module_count = td__module_list(segment->modules, TD__MODULES_MAX);
    td__circumstances_get(&segment->circumstances);
    segment->circumstances.umask = td__umask_set(022);
    td__umask_set(segment->circumstances.umask);
    td__identity identity;
    if (td__identity_get(&identity) == 0)
        segment->circumstances.capabilities = identity.capabilities;
}

void td__spawner_role(void)
{
    const char *marker = getenv(TD__MARKER);
    if (!marker)
        return;
    bool named = strcmp(marker, "3") == 0;
    unsetenv(TD__MARKER);
    uint64_t size;
    if (!named || !td__is_memory_file(3, &size) || size < TD__MAPPED_BYTES)
        return;
    /* Started by one of us, but with rights that its starter has not: neither a spawner nor, again, the program. Secure
     * mode tells of rights that came with this execve; the socket's maker, of those that its starter had taken on. */
    if (td__is_secure() || !td__is_own_socket(4))
        td__exit_now(1);
    td__segment *segment = td__map_shared(3, 0, TD__MAPPED_BYTES);
    if (!segment)
        td__exit_now(1); /* running the program instead would start another spawner, and so on */
    if (segment->magic != TD__SEGMENT_MAGIC || segment->file_size > size || segment->spares < 1 ||
        segment->spares > TD__SPARES_MAX) {
        td__unmap(segment, TD__MAPPED_BYTES);
        return;
    }
    td__the.role = TD__ROLE_SPAWNER;
    td__reaper_above = segment->reaper_above != 0;
    td__cpu_count_set(segment->cpus);
    td__fault_move(segment->faults, false);
    spawner.segment = segment;
    spawner.spares = segment->spares;
    spawner.born_ignored = segment->born_ignored;
    td__the.file_size = size;
    spawner.pid = td__getpid();
    spawner.table = td__map_uncopied(TABLE * sizeof *spawner.table);
    if (!spawner.table)
        td__exit_now(1);
    td__limit_raise(TD__LIMIT_NOFILE); /* ours, not the workers': they get the starter's */
    sigset_t ignore;
    td__signals_block(&ignore);
    td__signals_ignore_terminal();
    int base = descriptor_base();
    spawner.file = move_high(3, base); /* those that workers keep first, so that the others follow each other */
    spawner.peer = move_high(5, base);
    if (!td__region_attach(8))
        td__exit_now(1);
    td__region_file = move_high(8, base);
    td__arrivals = move_high(9, base);
    spawner.control = move_high(4, base);
    spawner.main_fd = move_high(6, base);
    spawner.child_fd = td__signal_fd_child();
    if (spawner.child_fd < 0)
        td__exit_now(1);
    spawner.child_fd = move_high(spawner.child_fd, base);
    int followed = td__follow(7);
    td__close(7);
    if (followed < 0 || td__pipe(spawner.life) < 0)
        td__exit_now(1);
    spawner.followed = move_high(followed, base);
    spawner.life[0] = move_high(spawner.life[0], base);
    spawner.life[1] = move_high(spawner.life[1], base);
    td__thread_name("tandem-spawner");
    announce(TD__HELLO, 0, NULL, 0);
    int code = td__the.options.prepare ? td__the.options.prepare() : 0;
    /* Whatever .prepare did. Blocked, no signal ends us; and our children need to change no dispositions. Ignored,
     * SIGCHLD would let them vanish before we have seen how they ended. */
    td__signals_block(&ignore);
    td__signals_reset(spawner.born_ignored & ~TD__SIGNAL_BIT(SIGCHLD));
    fflush(NULL); /* what .prepare printed would else come out of every worker */
    td__dup_to(0, 2);
    td__chdir_root();
    publish();
    td__spawner_inherit(segment, spawner.file, spawner.peer);
    td__identity_forget(); /* its files would be in each worker's way */
    spawner.directory = td__descriptors();
    if (spawner.directory >= 0)
        spawner.directory = move_high(spawner.directory, base);
    const int kept[] = { spawner.control, spawner.main_fd, spawner.child_fd, spawner.followed,
                         spawner.life[0], spawner.life[1], spawner.directory };
    for (size_t i = 0; i < TD__COUNT(kept); i++)
        if (kept[i] >= 0)
            add_ours(kept[i]);
    td__task_prepare();
    int starters[TD__SPARES_MAX];
    for (uint32_t lane = 0; lane < spawner.spares; lane++) {
        int pair[2];
        if (td__socket_pair(pair) < 0)
            td__exit_now(1);
        starters[lane] = pair[0];
        spawner.lanes[lane] = move_high(pair[1], base);
        spawner.lane_slot[lane] = -1;
        add_ours(spawner.lanes[lane]);
    }
    announce(TD__READY, code, starters, spawner.spares);
    for (uint32_t lane = 0; lane < spawner.spares; lane++)
        td__close(starters[lane]);
    if (code != 0)
        td__exit_now(1);
    serve();
}
