/* SPDX-License-Identifier: MIT */
/*
 * The watcher: the one thread of the library in a program that uses processes. It sleeps until a spawner or the holder
 * of a forked worker ends (or there is one more to watch), and then marks what ended with it, so that joiners wake up.
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
};

static td__lock lock;
static struct item items[TD__POLL_MAX - 1]; /* under lock */
static size_t item_count;                   /* under lock */
static bool stopping;                       /* under lock */
static bool running;                        /* under lock */
static int wake_fd = -1;                    /* under lock; open while it runs */
static pthread_t thread;

static int item_fd(const struct item *item)
{
    return item->spawner ? item->spawner->pid_fd : td__fork_record_fd(item->record);
}

static void item_ended(struct item item)
{
    if (item.spawner) {
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

static void end_spawners(bool kill)
{
    td__message message = { .what = TD__QUIT };
    for (size_t i = 0; i < item_count; i++) {
        if (!items[i].spawner)
            continue;
        if (kill)
            td__pid_fd_kill(items[i].spawner->pid_fd, SIGKILL);
        else
            td__send(items[i].spawner->control, &message, sizeof message, NULL, 0);
    }
}

static void *run(void *unused)
{
    /* One thread a process; too large for its stack. */
    static struct item watched[TD__POLL_MAX];
    static int fds[TD__POLL_MAX];
    static bool ready[TD__POLL_MAX];
    bool repairing = false; /* after a death; a latch that it needs may be taken for a moment */
    (void)unused;
    td__thread_name("tandem-watcher");
    for (;;) {
        td__lock_acquire(&lock);
        size_t count = item_count;
        bool last = stopping;
        int wake = wake_fd;
        memcpy(watched, items, count * sizeof *watched);
        td__lock_release(&lock);
        if (last && count == 0)
            return NULL;
        for (size_t i = 0; i < count; i++)
            fds[i] = item_fd(&watched[i]);
        fds[count] = wake;
        int64_t deadline = repairing ? td__deadline(td_ms(1)) : last ? td__deadline(td_s(FINISH_LIMIT_S)) : 0;
        if (td__poll(fds, ready, count + 1, deadline) == 0 && !repairing) {
            td__lock_acquire(&lock);
            end_spawners(true);
            td__lock_release(&lock);
        }
        if (ready[count])
            td__event_fd_clear(wake);
        for (size_t i = 0; i < count; i++) {
            if (!ready[i])
                continue;
            td__lock_acquire(&lock);
            for (size_t at = 0; at < item_count; at++)
                if (items[at].spawner == watched[i].spawner && items[at].record == watched[i].record) {
                    items[at] = items[--item_count];
                    break;
                }
            td__lock_release(&lock);
            item_ended(watched[i]);
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
    if (r == 0 && item_count == TD__COUNT(items)) {
        r = -1;
        error = ENOSPC;
    }
    if (r == 0) {
        items[item_count++] = item;
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

void td__watcher_stop(void)
{
    td__lock_acquire(&lock);
    bool was = running;
    if (was) {
        stopping = true;
        end_spawners(false);
        td__event_fd_signal(wake_fd);
    }
    td__lock_release(&lock);
    if (!was)
        return;
    td__thread_join(thread);
    td__lock_acquire(&lock);
    running = false;
    td__close(wake_fd);
    wake_fd = -1;
    td__lock_release(&lock);
}

void td__watcher_forget(void)
{
    lock = (td__lock){ 0 };
    for (size_t i = 0; i < item_count; i++) {
        if (items[i].record) {
            td__fork_record_forget(items[i].record);
            continue;
        }
        /* The parent's: nobody is told or reaped, only this process's copies go. */
        items[i].spawner->holder = 0;
        items[i].spawner->references = 1;
        td__spawner_unref(items[i].spawner);
    }
    item_count = 0;
    running = stopping = false;
    td__close(wake_fd);
    wake_fd = -1;
}
