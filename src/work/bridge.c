/* SPDX-License-Identifier: MIT */
/*
 * The bridge: a thread that sleeps on the words of queues and events and makes descriptors readable, for programs that
 * wait by poll. There is one in a process that has asked for such a descriptor, and none else.
 *
 * An armed entry is one whose descriptor is not readable: the thread watches its word. When the thing is ready it
 * signals the descriptor and the entry is disarmed until td_descriptor_clear, which arms it again and wakes the thread
 * to look.
 *
 * All under one lock but for the sleep, for which the thread takes copies of the words: an entry that is closed
 * meanwhile wakes it, and the things must not be freed before their descriptors are closed.
 */
#include "sync/lock.h"
#include "work/waiting.h"

#include <errno.h>
#include <limits.h>

#define ENTRIES_MAX 120

static td__lock lock;
static struct entry {
    td_waitable thing;
    int fd; /* -1: the place is free */
    bool armed;
} entries[ENTRIES_MAX];         /* under lock; places from used on have never been used */
static size_t used;             /* under lock */
static bool running, stopping;  /* under lock */
static _Atomic uint32_t change; /* futex: grows when the thread is to look again */
static pthread_t thread;

static void wake_thread(void)
{
    /* Release: the entries as they are now, with the lock. */
    td__fetch_add_acq_rel(&change, 1);
    td__futex_wake(&change, 1, false);
}

/* Under lock: signals what is ready, and gathers the words of the others. */
static size_t look(td__futex_item *items)
{
    size_t count = 0;
    for (size_t i = 0; i < used; i++) {
        struct entry *entry = &entries[i];
        if (entry->fd < 0 || !entry->armed)
            continue;
        if (td__thing_prepare(&entry->thing, &items[count])) {
            entry->armed = false;
            td__event_fd_signal(entry->fd);
        } else {
            count++;
        }
    }
    return count;
}

#define SLICE_NS 5000000 /* where the kernel cannot wait for several words */

static void *run(void *unused)
{
    td__futex_item items[TD__FUTEX_MANY];
    (void)unused;
    td__thread_name("tandem-bridge");
    for (;;) {
        uint32_t seen = td__load_acquire(&change);
        td__lock_acquire(&lock);
        bool stop = stopping;
        size_t count = stop ? 0 : look(items);
        td__lock_release(&lock);
        if (stop)
            return NULL;
        items[count] = (td__futex_item){ &change, seen, false };
        if (td__futex_wait_many(items, count + 1, 0) < 0 && errno == ENOSYS)
            td__futex_wait(&change, seen, count ? td__now() + SLICE_NS : 0, false);
    }
}

/* Under lock. */
static int start_thread(void)
{
    if (running)
        return 0;
    sigset_t mask;
    stopping = false;
    td__signals_block_users(&mask);
    int r = td__thread_create(&thread, 0, run, NULL);
    int error = errno;
    td__signals_restore(&mask);
    errno = error;
    running = r == 0;
    return r;
}

static struct entry *free_entry(void)
{
    for (size_t i = 0; i < used; i++)
        if (entries[i].fd < 0)
            return &entries[i];
    return used < ENTRIES_MAX ? &entries[used++] : NULL;
}

int td__bridge_open(const td_waitable *thing)
{
    int fd = td__event_fd(0);
    if (fd < 0)
        return td__fail(errno == EMFILE || errno == ENFILE ? TD_EDESCRIPTOR : TD_ESYSTEM,
                        "td_descriptor: cannot make an event descriptor: %s", strerror(errno));
    td__lock_acquire(&lock);
    int code = 0, error = 0;
    if (start_thread() < 0) {
        error = errno;
        code = TD_EPROCESS;
    }
    struct entry *entry = code == 0 ? free_entry() : NULL;
    if (entry)
        *entry = (struct entry){ .thing = *thing, .fd = fd, .armed = true };
    td__lock_release(&lock);
    if (entry) {
        wake_thread();
        return fd;
    }
    td__close(fd);
    if (code < 0)
        return td__fail(code, "td_descriptor: cannot start the thread that serves it: %s", strerror(error));
    return td__fail(TD_ETOOBIG, "td_descriptor: %d descriptors of queues and events are open, the limit", ENTRIES_MAX);
}

static struct entry *find(int fd)
{
    for (size_t i = 0; i < used && fd >= 0; i++)
        if (entries[i].fd == fd)
            return &entries[i];
    return NULL;
}

int td_descriptor_clear(int fd)
{
    td__lock_acquire(&lock);
    struct entry *entry = find(fd);
    bool arm = entry && !entry->armed;
    if (arm) {
        td__event_fd_clear(fd);
        entry->armed = true;
    }
    td__lock_release(&lock);
    if (!entry)
        return td__fail(TD_EINVAL, "td_descriptor_clear: descriptor %d is none of td_descriptor's", fd);
    if (arm)
        wake_thread();
    return 0;
}

int td_descriptor_close(int fd)
{
    td__lock_acquire(&lock);
    struct entry *entry = find(fd);
    if (entry) {
        entry->fd = -1;
        td__close(fd);
    }
    td__lock_release(&lock);
    if (!entry)
        return td__fail(TD_EINVAL, "td_descriptor_close: descriptor %d is none of td_descriptor's", fd);
    wake_thread();
    return 0;
}

void td__bridge_stop(void)
{
    td__lock_acquire(&lock);
    bool was = running;
    stopping = true;
    td__lock_release(&lock);
    if (!was)
        return;
    wake_thread();
    td__thread_join(thread);
    td__lock_acquire(&lock);
    running = false;
    td__lock_release(&lock);
}

void td__bridge_forget(void)
{
    lock = (td__lock){ 0 };
    for (size_t i = 0; i < used; i++) {
        td__close(entries[i].fd);
        entries[i].fd = -1;
    }
    used = 0;
    running = stopping = false;
}
