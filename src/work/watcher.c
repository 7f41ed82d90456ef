/* SPDX-License-Identifier: MIT */
/*
 * The watcher: the one thread of the library in a program that uses processes. It sleeps until a spawner or the holder
 * of a forked worker ends (or there is one more to watch), and then marks what ended with it, so that joiners wake up.
 * In the program's main process it also watches the strays: forked children that share objects. They announce
 * themselves when they first do, whoever forked them. What the dead held or were in the middle of is repaired here.
 * It runs with all signals blocked.
 */
#include "sync/party.h"
#include "work/spawner.h"
#include "work/worker.h"

#include <errno.h>

#define FINISH_LIMIT_S 2 /* a spawner that is told to quit and does not is killed after this time */

struct item {
    td__spawner *spawner; /* referenced; or: */
    struct td__fork_record *record;
    pid_t stray; /* or: */
    int stray_fd;
};

#define STRAYS_MAX 256 /* new ones at a time */

static td__lock lock;
static size_t item_count; /* under lock */
static bool stopping;     /* under lock */
static bool running;      /* under lock */
static int wake_fd = -1;  /* under lock; open while it runs */
static pthread_t thread;

/* Made for the thread and unmapped after it: static, they would lie between what each worker process writes. */
static struct tables {
    struct item items[TD__POLL_MAX - 2]; /* under lock */
    /* the thread's own */
    struct item watched[TD__POLL_MAX];
    int fds[TD__POLL_MAX];
    bool ready[TD__POLL_MAX];
    pid_t strays[STRAYS_MAX];
} * tables;

static int item_fd(const struct item *item)
{
    if (item->stray)
        return item->stray_fd;
    return item->spawner ? item->spawner->pid_fd : td__fork_record_fd(item->record);
}

static void item_ended(struct item item)
{
    if (item.stray) {
        td__parties_died(item.stray);
        td__close(item.stray_fd);
    } else if (item.spawner) {
        td__spawner_lost(item.spawner);
        if (item.spawner->holder) { /* it ends now, with all that the spawner left behind */
            td__holder_reap(item.spawner->holder, item.spawner->holder_stack);
            item.spawner->holder = 0;
        }
        td__spawner_unref(item.spawner);
    } else {
        td__fork_record_ended(item.record);
    }
}

/* Under lock. */
static bool is_watched(pid_t stray)
{
    for (size_t i = 0; i < item_count; i++)
        if (tables->items[i].stray == stray)
            return true;
    return false;
}

/* Whoever has announced himself. One that has ended and been reaped meanwhile is seen to at once. */
static void take_up_strays(void)
{
    pid_t *strays = tables->strays;
    td__event_fd_clear(td__arrivals);
    size_t count = td__parties_strays(strays, STRAYS_MAX);
    td__lock_acquire(&lock);
    for (size_t i = 0; i < count; i++) {
        if (is_watched(strays[i]) || item_count == TD__COUNT(tables->items))
            continue;
        int fd = td__pid_fd(strays[i]);
        if (fd >= 0)
            tables->items[item_count++] = (struct item){ .stray = strays[i], .stray_fd = fd };
        else if (errno == ESRCH)
            td__parties_died(strays[i]);
    }
    td__lock_release(&lock);
    td__parties_looked();
}

/* Under lock: nobody waits for them. */
static void drop_strays(void)
{
    for (size_t i = item_count; i-- > 0;)
        if (tables->items[i].stray) {
            td__close(tables->items[i].stray_fd);
            tables->items[i] = tables->items[--item_count];
        }
}

static void end_spawners(bool kill)
{
    td__message message = { .what = TD__QUIT };
    for (size_t i = 0; i < item_count; i++) {
        if (!tables->items[i].spawner)
            continue;
        if (kill)
            td__pid_fd_kill(tables->items[i].spawner->pid_fd, SIGKILL);
        else
            td__send(tables->items[i].spawner->control, &message, sizeof message, NULL, 0);
    }
}

static bool take_out(const struct item *item)
{
    bool found = false;
    td__lock_acquire(&lock);
    for (size_t at = 0; at < item_count && !found; at++)
        if (tables->items[at].spawner == item->spawner && tables->items[at].record == item->record &&
            tables->items[at].stray == item->stray) {
            tables->items[at] = tables->items[--item_count];
            found = true;
        }
    td__lock_release(&lock);
    return found;
}

/* The one that made the region, not a child of it, nor a worker; nor a holder, which shares its memory and forks too.
 */
static bool is_program(void)
{
    return td__the.role == TD__ROLE_MAIN && td__the.epoch == 0 && td__the.pid == td__getpid();
}

static void *run(void *unused)
{
    struct item *watched = tables->watched;
    int *fds = tables->fds;
    bool *ready = tables->ready;
    bool repairing = false; /* after a death; a latch that it needs may be taken for a moment */
    (void)unused;
    td__thread_name("tandem-watcher");
    if (is_program() && td__shared_size)
        td__party_self(); /* now: when all are taken it is the one that repairs */
    for (;;) {
        td__lock_acquire(&lock);
        size_t count = item_count;
        bool last = stopping;
        int wake = wake_fd;
        memcpy(watched, tables->items, count * sizeof *watched);
        td__lock_release(&lock);
        if (last && count == 0)
            return NULL;
        int arrivals = is_program() ? td__arrivals : -1;
        for (size_t i = 0; i < count; i++)
            fds[i] = item_fd(&watched[i]);
        fds[count] = wake;
        fds[count + 1] = last ? -1 : arrivals;
        int64_t deadline = repairing ? td__deadline(td_ms(1)) : last ? td__deadline(td_s(FINISH_LIMIT_S)) : 0;
        if (td__poll(fds, ready, count + 2, deadline) == 0 && !repairing) {
            td__lock_acquire(&lock);
            end_spawners(true);
            td__lock_release(&lock);
        }
        if (ready[count])
            td__event_fd_clear(wake);
        bool arrived = ready[count + 1];
        for (size_t i = 0; i < count; i++) {
            if (!ready[i])
                continue;
            if (!take_out(&watched[i]))
                continue; /* dropped meanwhile */
            item_ended(watched[i]);
            repairing = true;
            arrived |= arrivals >= 0 && !last; /* one may have been killed before it could announce itself */
        }
        if (arrived) {
            take_up_strays();
            repairing = true;
        }
        if (repairing)
            repairing = !td__parties_repair();
    }
}

/* Under lock. */
static int start_thread(void)
{
    if (running)
        return 0;
    if (!tables && !(tables = td__map_private(sizeof *tables)))
        return -1;
    wake_fd = td__event_fd(0);
    if (wake_fd < 0)
        return -1;
    sigset_t mask;
    td__signals_block_users(&mask);
    int r = td__thread_create(&thread, 0, run, NULL);
    int error = errno;
    td__signals_restore(&mask);
    if (r < 0) {
        td__close(wake_fd);
        wake_fd = -1;
        errno = error;
        return -1;
    }
    stopping = false;
    running = true;
    return 0;
}

static int watch(struct item item)
{
    td__lock_acquire(&lock);
    int r = start_thread();
    int error = errno;
    if (r == 0 && item_count == TD__COUNT(tables->items)) {
        r = -1;
        error = ENOSPC;
    }
    if (r == 0) {
        tables->items[item_count++] = item;
        td__event_fd_signal(wake_fd);
    }
    td__lock_release(&lock);
    errno = error;
    return r;
}

int td__watch_spawner(td__spawner *spawner)
{
    td__fetch_add_relaxed(&spawner->references, 1);
    if (watch((struct item){ .spawner = spawner }) == 0)
        return 0;
    int error = errno;
    td__fetch_sub_acq_rel(&spawner->references, 1);
    errno = error;
    return -1;
}

int td__watch_fork(struct td__fork_record *record)
{
    return watch((struct item){ .record = record });
}

void td__watch_strays(void)
{
    if (!is_program() || !td__shared_size || td__load_relaxed(&td__the_region->party_top) == 1)
        return;
    td__lock_acquire(&lock);
    start_thread(); /* if it cannot be, a death among them is not seen to, until a process start makes another try */
    td__lock_release(&lock);
}

void td__watcher_stop(void)
{
    td__lock_acquire(&lock);
    bool was = running;
    if (was) {
        stopping = true;
        drop_strays();
        end_spawners(false);
        td__event_fd_signal(wake_fd);
    }
    td__lock_release(&lock);
    if (!was)
        return;
    td__thread_join(thread);
    td__lock_acquire(&lock);
    running = false;
    if (item_count == 0) {
        td__unmap(tables, sizeof *tables);
        tables = NULL;
    }
    td__close(wake_fd);
    wake_fd = -1;
    td__lock_release(&lock);
}

void td__watcher_forget(void)
{
    lock = (td__lock){ 0 };
    for (size_t i = 0; i < item_count; i++) {
        if (tables->items[i].stray)
            td__close(tables->items[i].stray_fd);
        if (tables->items[i].record)
            td__fork_record_forget(tables->items[i].record);
        if (!tables->items[i].spawner)
            continue;
        /* The parent's: nobody is told or reaped, only this process's copies go. */
        tables->items[i].spawner->holder = 0;
        tables->items[i].spawner->references = 1;
        td__spawner_unref(tables->items[i].spawner);
    }
    item_count = 0;
    td__unmap(tables, sizeof *tables);
    tables = NULL;
    running = stopping = false;
    td__close(wake_fd);
    wake_fd = -1;
}
