/* SPDX-License-Identifier: MIT */
/*
 * The bridge: threads that sleep on the words of queues and events and make descriptors readable, for programs that
 * wait by poll. A process that has asked for no such descriptor has none; the first starts with the first entry, and
 * another with each STATION entries more, as the kernel waits for so many words at a time.
 *
 * An entry is a thing and the descriptor that tells of it; several entries may have the same one, those of one call of
 * td_wait_any. An armed entry is one that its station's thread watches: when the thing is ready, or its event has been
 * set since `since`, the thread signals the descriptor, and the entry is disarmed until it is armed again, and the
 * thread woken to look. So no entry is ever armed, and ready, and unknown to a thread that sleeps.
 *
 * td_finish ends the threads. What is armed then is signalled, so that whoever waits by it looks, arms it again, and
 * starts its thread again with that.
 *
 * All under one lock but for the sleep, for which the thread takes copies of the words: an entry that is closed
 * meanwhile wakes it, and the things must not be freed before their descriptors are closed.
 */
#include "sync/lock.h"
#include "sync/use.h"
#include "work/waiting.h"

#include <errno.h>
#include <limits.h>

#define STATION      ((size_t)TD__FUTEX_MANY - 1) /* entries; the last word is its own */
#define STATIONS_MAX 32
#define ENTRIES_MAX  (STATIONS_MAX * STATION)

typedef struct entry {
    td_waitable thing;
    td__since since;
    int fd; /* -1: the place is free */
    bool armed;
} entry;

typedef struct station {
    entry entries[STATION];  /* under lock; places from used on have never been used */
    size_t used;             /* under lock */
    bool running, stopping;  /* under lock: there is a thread, and it is to end */
    _Atomic uint32_t change; /* futex: grows when the thread is to look again */
    pthread_t thread;        /* under lock; fixed while it runs */
} station;

static td__lock lock;
static station *stations[STATIONS_MAX]; /* under lock; never freed, and those from `count` on are NULL */
static size_t count;                    /* under lock */
static bool watched;                    /* under lock: debug builds know of them */

static void wake(station *s)
{
    /* Release: the entries as they are now, with the lock. */
    td__fetch_add_acq_rel(&s->change, 1);
    td__futex_wake(&s->change, 1, false);
}

/* Under lock: signals what is ready, and gathers the words of the others. */
static size_t look(station *s, td__futex_item *items, bool *unsure)
{
    size_t words = 0;
    for (size_t i = 0; i < s->used; i++) {
        entry *e = &s->entries[i];
        if (e->fd < 0 || !e->armed)
            continue;
        if (td__thing_prepare(&e->thing, &e->since, &items[words], unsure)) {
            e->armed = false;
            td__event_fd_signal(e->fd);
        } else {
            words++;
        }
    }
    return words;
}

/* Under lock: the end of its thread. Who waits must not go on without. */
static void leave(station *s)
{
    s->running = s->stopping = false;
    for (size_t i = 0; i < s->used; i++) {
        entry *e = &s->entries[i];
        if (e->fd < 0 || !e->armed)
            continue;
        e->armed = false;
        td__event_fd_signal(e->fd);
    }
}

#define SLICE_NS 5000000 /* where the kernel cannot wait for several words */

static void *run(void *of)
{
    station *s = of;
    td__futex_item items[TD__FUTEX_MANY];
    td__thread_name("tandem-bridge");
    for (;;) {
        bool unsure = false;
        uint32_t seen = td__load_acquire(&s->change);
        td__lock_acquire(&lock);
        bool stop = s->stopping;
        size_t words = stop ? 0 : look(s, items, &unsure);
        if (stop)
            leave(s);
        td__lock_release(&lock);
        if (stop)
            return NULL;
        items[words] = (td__futex_item){ &s->change, seen, false };
        int64_t until = unsure ? td__now() + TD__UNSURE_NS : 0;
        if (td__futex_wait_many(items, words + 1, until) < 0 && errno == ENOSYS)
            td__futex_wait(&s->change, seen, words ? td__now() + SLICE_NS : 0, false);
    }
}

/* Under lock. 0, or a code with its sentence. One that is about to end is one: what is armed comes back to us then. */
static int start_thread(const char *call, station *s)
{
    if (s->running)
        return 0;
    sigset_t mask;
    td__signals_block_users(&mask);
    int r = td__thread_create(&s->thread, 0, run, s);
    int error = errno;
    td__signals_restore(&mask);
    errno = error;
    s->running = r == 0;
    return r == 0 ? 0 : td__fail(TD_EPROCESS, "%s: cannot start the thread that watches it: %s", call, strerror(errno));
}

static entry *free_entry_of(station *s)
{
    for (size_t i = 0; i < s->used; i++)
        if (s->entries[i].fd < 0)
            return &s->entries[i];
    return s->used < STATION ? &s->entries[s->used++] : NULL;
}

/* Under lock. A code of why there is none, with the sentence. */
static int find_place(const char *call, size_t *at, entry **place)
{
    for (; *at < STATIONS_MAX; ++*at) {
        station *s = stations[*at];
        if (!s && !(s = stations[*at] = td__alloc(sizeof *s)))
            return td__fail(TD_ENOMEM, "%s: out of memory for the words of queues and events", call);
        count = *at < count ? count : *at + 1;
        *place = free_entry_of(s);
        if (!*place)
            continue;
        (*place)->fd = -1;
        return start_thread(call, s);
    }
    return td__fail(TD_ETOOBIG,
                    "%s: this process has %zu descriptors of queues and events and waits of many, the limit", call,
                    ENTRIES_MAX);
}

/* Under lock; `at` is the station to begin with: those before it are full. */
static int add(const char *call, const td_waitable *thing, const td__since *since, int fd, size_t *at)
{
    entry *place;
    int code = find_place(call, at, &place);
    if (code == 0)
        *place = (entry){ .thing = *thing, .since = *since, .fd = fd, .armed = true };
    return code;
}

/* Under lock: what is done to each entry of a descriptor, in stations whose threads are woken. How many there are. */
typedef void act(entry *e);

static size_t for_all_of(int fd, act *what)
{
    size_t found = 0;
    for (size_t i = 0; i < count && fd >= 0; i++) {
        size_t before = found;
        for (size_t j = 0; j < stations[i]->used; j++) {
            if (stations[i]->entries[j].fd != fd)
                continue;
            what(&stations[i]->entries[j]);
            found++;
        }
        if (found > before)
            wake(stations[i]);
    }
    return found;
}

static bool has(const station *s, int fd)
{
    for (size_t i = 0; i < s->used && fd >= 0; i++)
        if (s->entries[i].fd == fd)
            return true;
    return false;
}

/* Under lock: those of a descriptor are watched, by threads that td_finish may have ended. 0, or a code. */
static int watch(const char *call, int fd, act *what)
{
    int code = 0;
    for_all_of(fd, what);
    for (size_t i = 0; i < count && code == 0; i++)
        if (has(stations[i], fd))
            code = start_thread(call, stations[i]);
    return code;
}

static void drop(entry *e)
{
    e->fd = -1;
}

static void arm(entry *e)
{
    e->armed = true;
}

/* What has been until now does not count. */
static void arm_anew(entry *e)
{
    td__futex_item item;
    bool unsure = false;
    if (e->armed)
        return;
    e->since = (td__since){ 0 };
    td__thing_prepare(&e->thing, &e->since, &item, &unsure);
    e->armed = true;
}

/* --- what is watched, for debug builds ---------------------------------------------------------------------- */

static bool uses(const td__watch *watch, const volatile void *at, size_t size)
{
    bool found = false;
    (void)watch;
    td__lock_acquire(&lock);
    for (size_t i = 0; i < count && !found; i++)
        for (size_t j = 0; j < stations[i]->used && !found; j++) {
            const entry *e = &stations[i]->entries[j];
            found = e->fd >= 0 && td__thing_is_in(&e->thing, at, size);
        }
    td__lock_release(&lock);
    return found;
}

static void begin_watch(void)
{
    static td__watch watch = { .uses = uses };
    td__lock_acquire(&lock);
    bool first = !watched;
    watched = true;
    td__lock_release(&lock);
    if (first)
        td__watch_begins(&watch);
}

/* --- descriptors --------------------------------------------------------------------------------------------- */

static int open_with_lock(const char *call, const td_waitable *things, const td__since *since, size_t of)
{
    int fd = td__event_fd(0), code = 0;
    if (fd < 0)
        return td__fail(errno == EMFILE || errno == ENFILE ? TD_EDESCRIPTOR : TD_ESYSTEM,
                        "%s: cannot make an event descriptor: %s", call, strerror(errno));
    size_t at = 0;
    for (size_t i = 0; i < of && code == 0; i++)
        if (td__is_bridged(&things[i]))
            code = add(call, &things[i], &since[i], fd, &at);
    td__step_point();
    for_all_of(fd, code == 0 ? arm : drop);
    if (code == 0)
        return fd;
    td__close(fd);
    return code;
}

int td__bridge_open(const char *call, const td_waitable *things, const td__since *since, size_t of)
{
    begin_watch();
    td__lock_acquire(&lock);
    int fd = open_with_lock(call, things, since, of);
    td__lock_release(&lock);
    return fd;
}

int td__bridge_again(const char *call, int fd)
{
    td__lock_acquire(&lock);
    td__event_fd_clear(fd); /* before they are armed: what is signalled from then on stays */
    td__step_point();
    int code = watch(call, fd, arm);
    td__lock_release(&lock);
    return code;
}

void td__bridge_close(int fd)
{
    td__lock_acquire(&lock);
    for_all_of(fd, drop);
    td__close(fd);
    td__lock_release(&lock);
}

static bool is_open(int fd)
{
    bool found = false;
    for (size_t i = 0; i < count && !found; i++)
        found = has(stations[i], fd);
    return found;
}

int td_descriptor_clear(int fd)
{
    int code = 0;
    td__lock_acquire(&lock);
    bool open = is_open(fd);
    if (open) {
        td__event_fd_clear(fd);
        code = watch("td_descriptor_clear", fd, arm_anew);
    }
    td__lock_release(&lock);
    return open ? code : td__fail(TD_EINVAL, "td_descriptor_clear: descriptor %d is none of td_descriptor's", fd);
}

int td_descriptor_close(int fd)
{
    td__lock_acquire(&lock);
    bool open = for_all_of(fd, drop) > 0;
    if (open)
        td__close(fd);
    td__lock_release(&lock);
    return open ? 0 : td__fail(TD_EINVAL, "td_descriptor_close: descriptor %d is none of td_descriptor's", fd);
}

void td__bridge_stop(void)
{
    pthread_t running[STATIONS_MAX];
    size_t of = 0;
    td__lock_acquire(&lock);
    for (size_t i = 0; i < count; i++) {
        if (!stations[i]->running)
            continue;
        stations[i]->stopping = true;
        running[of++] = stations[i]->thread;
        wake(stations[i]);
    }
    td__lock_release(&lock);
    for (size_t i = 0; i < of; i++)
        td__thread_join(running[i]);
}

void td__bridge_lock(void)
{
    td__lock_acquire(&lock);
}

void td__bridge_unlock(void)
{
    td__lock_release(&lock);
}

void td__bridge_forget(void)
{
    td__watches_forget();
    if (count == 0 && !watched && td__load_relaxed(&lock.word) == 0) /* a worker's page stays its spawner's */
        return;
    lock = (td__lock){ 0 };
    watched = false;
    for (size_t i = 0; i < count; i++) {
        station *s = stations[i];
        for (size_t j = 0; j < s->used; j++) {
            int fd = s->entries[j].fd;
            if (fd >= 0)
                td_descriptor_close(fd); /* all entries that have it */
        }
        s->used = 0;
        s->running = s->stopping = false;
    }
}
