/* SPDX-License-Identifier: MIT */
/*
 * Waiting for any of several things. If all of them have words to sleep on, it is one system call on these words. If
 * there are descriptors among them, or too many words, it is poll(): workers have descriptors, too, and for all queues
 * and events of the call together the bridge has one.
 *
 * Whichever it is, the words of events are noted at the first look (td__since), before anything is said to be asleep,
 * and every later look compares with these: what has been set and cleared since then is not missed, however the sleep
 * ended and whatever was looked at in between.
 */
#include "work/waiting.h"
#include "queue/connection.h"
#include "queue/queue.h"
#include "sync/event.h"
#include "sync/use.h"
#include "sync/wait.h"
#include "work/worker.h"

#include <errno.h>

#define WORDS_MAX  (TD__FUTEX_MANY - 1) /* one is for the cancellation */
#define THINGS_MAX 1000

int td__thing_check(const td_waitable *thing, const char *call)
{
    bool needs_object = thing->kind >= TD_WAITS_WORKER && thing->kind <= TD_WAITS_EVENT;
    if (thing->kind < TD_WAITS_NOTHING || thing->kind > TD_WAITS_DESCRIPTOR)
        return td__fail(TD_EINVAL, "%s: unknown kind of thing %d", call, (int)thing->kind);
    if (thing->kind == TD_WAITS_EVENT && !thing->object) /* no constructor has failed to make it */
        return td__fail(TD_EINVAL, "%s: the event is NULL", call);
    if (needs_object && !thing->object)
        return td__pending();
    if (thing->kind == TD_WAITS_DESCRIPTOR && thing->descriptor < 0)
        return td__fail(TD_EINVAL, "%s: descriptor %d is none", call, thing->descriptor);
    if (thing->kind == TD_WAITS_WORKER)
        return td__worker_waitable(thing->object, call);
    if (thing->kind == TD_WAITS_QUEUE && !td__queue_valid(thing->object))
        return td__fail(TD_EINVAL, "%s: %p is no queue, or has been freed", call, thing->object);
    return 0;
}

bool td__is_bridged(const td_waitable *thing)
{
    return thing->kind == TD_WAITS_QUEUE || thing->kind == TD_WAITS_EVENT;
}

bool td__thing_is_in(const td_waitable *thing, const volatile void *at, size_t size)
{
    return td__is_bridged(thing) && (uintptr_t)thing->object - (uintptr_t)at < size;
}

static bool prepare_event(td_event *event, td__since *since, td__futex_item *item)
{
    bool set = td__event_prepare(event, item);
    if (!since->begun)
        *since = (td__since){ item->expected, true };
    return set || td__event_happened(event, &(td__futex_item){ .expected = since->word });
}

bool td__thing_prepare(const td_waitable *thing, td__since *since, td__futex_item *item, bool *unsure)
{
    td__step_point();
    switch (thing->kind) {
    case TD_WAITS_WORKER:
        return td__worker_prepare(thing->object, item);
    case TD_WAITS_QUEUE:
        return td__queue_prepare(thing->object, item, unsure);
    case TD_WAITS_EVENT:
        return prepare_event(thing->object, since, item);
    default:
        return false;
    }
}

void td__thing_done(const td_waitable *thing)
{
    if (thing->kind == TD_WAITS_WORKER)
        td__worker_prepared_done(thing->object);
}

typedef struct wait {
    td__watch watch; /* in debug builds */
    td_waitable *things;
    size_t count;
    td__since *since; /* of each */
    int64_t deadline;
    const td_cancel *cancel;
} wait;

/* --- on words ---------------------------------------------------------------------------------------------- */

/* How many are ready; items[0..*words) are to be slept on if none is. To be followed by done(). */
static int look(const wait *w, td__futex_item *items, size_t *words, bool *unsure)
{
    int ready = 0;
    *words = 0;
    *unsure = false;
    for (size_t i = 0; i < w->count; i++) {
        td_waitable *thing = &w->things[i];
        thing->ready =
            thing->kind != TD_WAITS_NOTHING && td__thing_prepare(thing, &w->since[i], &items[*words], unsure);
        ready += thing->ready;
        *words += thing->kind != TD_WAITS_NOTHING && !thing->ready;
    }
    return ready;
}

static void done(const wait *w)
{
    for (size_t i = 0; i < w->count; i++)
        if (!w->things[i].ready)
            td__thing_done(&w->things[i]);
}

/* Sleeps once. */
static int sleep_on_words(const wait *w, td__party *me, const td__futex_item *items, size_t words, bool unsure)
{
    int64_t slice = unsure ? td__now() + TD__UNSURE_NS : 0;
    td__step_point();
    bool last = slice == 0 || (w->deadline && w->deadline <= slice);
    int r = td__words_wait(me, items, words, last ? w->deadline : slice, w->cancel);
    td__step_point();
    return r == TD_ETIMEOUT && !last ? 0 : r;
}

static int wait_on_words(const wait *w)
{
    td__futex_item items[TD__FUTEX_MANY];
    size_t words = 0;
    bool unsure;
    td__party *me = td__party_self();
    if (!me)
        return td_last_error();
    for (int r = 0;;) {
        int ready = look(w, items, &words, &unsure);
        int before = r;
        if (ready == 0 && before == 0)
            r = sleep_on_words(w, me, items, words, unsure);
        done(w);
        if (ready > 0 || before == TD_ETIMEOUT)
            return ready;
        if (before == TD_ECANCELLED)
            return td__fail_quick(before, "td_wait_any");
    }
}

/* --- on descriptors ---------------------------------------------------------------------------------------- */

/* What is polled: of each thing that has one its descriptor, in their order, then the bridge's. */
typedef struct polled {
    int fds[THINGS_MAX + 1];
    bool readable[THINGS_MAX + 1];
    size_t count;    /* with the bridge's */
    size_t gathered; /* things; the connections among them must not be closed for now */
    size_t bridged;  /* how many of the things */
    int bridge;      /* or -1 */
} polled;

static int descriptor_of(const td_waitable *thing, const char *call)
{
    if (thing->kind == TD_WAITS_WORKER)
        return td_sentinel(thing->object);
    if (thing->kind == TD_WAITS_DESCRIPTOR)
        return thing->descriptor;
    int code = td__connection_wait_begins(thing->object, call);
    return code < 0 ? code : td__connection_fd(thing->object);
}

static int gather(const wait *w, polled *p)
{
    p->count = p->gathered = p->bridged = 0;
    p->bridge = -1;
    for (size_t i = 0; i < w->count; i++) {
        const td_waitable *thing = &w->things[i];
        if (td__is_bridged(thing)) {
            p->bridged++;
        } else if (thing->kind != TD_WAITS_NOTHING) {
            int fd = descriptor_of(thing, "td_wait_any");
            if (fd < 0)
                return fd;
            p->fds[p->count++] = fd;
        }
        p->gathered++;
    }
    return 0;
}

static void give_back(const wait *w, const polled *p)
{
    if (p->bridge >= 0)
        td__bridge_close(p->bridge);
    for (size_t i = 0; i < p->gathered; i++)
        if (w->things[i].kind == TD_WAITS_CONNECTION)
            td__connection_wait_ends(w->things[i].object);
}

static bool is_ready(const wait *w, size_t i, bool readable)
{
    const td_waitable *thing = &w->things[i];
    td__futex_item item;
    bool unsure = false; /* the bridge's threads see to that themselves */
    if (td__is_bridged(thing))
        return td__thing_prepare(thing, &w->since[i], &item, &unsure);
    return readable || (thing->kind == TD_WAITS_CONNECTION && td__connection_has_kept(thing->object));
}

/* One that is not open is readable to poll for ever, and to nobody else. */
static bool is_closed(const td_waitable *thing)
{
    return thing->kind == TD_WAITS_DESCRIPTOR && !td__is_open(thing->descriptor);
}

/* How many are ready, after poll has found these readable; or a code. */
static int sort_out(const wait *w, const polled *p)
{
    int ready = 0;
    size_t next = 0;
    for (size_t i = 0; i < w->count; i++) {
        td_waitable *thing = &w->things[i];
        bool has_fd = !td__is_bridged(thing) && thing->kind != TD_WAITS_NOTHING;
        bool readable = has_fd && p->readable[next];
        if (readable && is_closed(thing))
            return td__fail(TD_EINVAL, "td_wait_any: descriptor %d is not open", thing->descriptor);
        thing->ready = thing->kind != TD_WAITS_NOTHING && is_ready(w, i, readable);
        ready += thing->ready;
        next += has_fd;
    }
    return ready;
}

static int poll_failed(size_t count)
{
    if (errno == EINVAL)
        return td__fail(TD_EDESCRIPTOR, "td_wait_any: %zu descriptors at once are more than the limit of open files",
                        count);
    return td__fail(errno == ENOMEM ? TD_ENOMEM : TD_ESYSTEM, "td_wait_any: poll: %s", strerror(errno));
}

/* Sleeps, if it is not to look only, and looks: how many are ready, or a code. */
static int poll_once(const wait *w, polled *p, int64_t until)
{
    td__step_point();
    if (td__poll(p->fds, p->readable, p->count, until) < 0)
        return poll_failed(p->count);
    td__step_point();
    int ready = sort_out(w, p);
    if (ready == 0 && p->bridge >= 0 && p->readable[p->count - 1]) /* another one was faster, or the thread has ended */
        return td__bridge_again("td_wait_any", p->bridge);
    return ready;
}

/* How often to look at a cancellation object, which has no descriptor. */
#define SLICE_NS 10000000
#define PAST     1

/* Is any of them to be looked at before poll says so: by whom it is not seen, or not yet watched? */
static bool needs_a_look(const wait *w, const polled *p)
{
    bool kept = false;
    for (size_t i = 0; i < w->count && !kept; i++)
        kept = w->things[i].kind == TD_WAITS_CONNECTION && td__connection_has_kept(w->things[i].object);
    return kept || p->bridged > 0;
}

static int open_bridge(const wait *w, polled *p)
{
    p->bridge = td__bridge_open("td_wait_any", w->things, w->since, w->count);
    if (p->bridge < 0)
        return p->bridge;
    td__step_point();
    p->fds[p->count++] = p->bridge;
    return 0;
}

static int poll_all(const wait *w, polled *p)
{
    int r = needs_a_look(w, p) ? poll_once(w, p, PAST) : 0;
    if (r == 0 && p->bridged > 0 && w->deadline != PAST)
        r = open_bridge(w, p);
    while (r == 0) {
        bool fired = td_cancel_fired(w->cancel);
        int64_t slice = fired ? PAST : w->cancel ? td__now() + SLICE_NS : 0;
        bool last = slice == 0 || (w->deadline && w->deadline <= slice);
        r = poll_once(w, p, last ? w->deadline : slice);
        if (r == 0 && fired)
            return td__fail_quick(TD_ECANCELLED, "td_wait_any");
        if (r == 0 && w->deadline && td__now() >= w->deadline)
            break;
    }
    return r;
}

/* Not in td_wait_any's own frame: most waits do not need so much. */
static __attribute__((noinline)) int wait_on_descriptors(const wait *w)
{
    polled p;
    int r = gather(w, &p);
    if (r == 0)
        r = poll_all(w, &p);
    give_back(w, &p);
    return r;
}

/* ----------------------------------------------------------------------------------------------------------- */

static bool uses(const td__watch *watch, const volatile void *at, size_t size)
{
    const wait *w = (const wait *)(const void *)watch; /* its first member */
    bool found = (uintptr_t)w->cancel - (uintptr_t)at < size;
    for (size_t i = 0; i < w->count && !found; i++)
        found = td__thing_is_in(&w->things[i], at, size);
    return found;
}

int td_wait_any(td_waitable *things, size_t count, td_time limit, td_cancel *cancel)
{
    size_t words = 0, descriptors = 0;
    td__program_ready(); /* from here on forks are seen to: a child has none of our threads that watch */
    if (!things || count == 0)
        return td__fail(TD_EINVAL, "td_wait_any: nothing to wait for");
    if (count > THINGS_MAX)
        return td__fail(TD_ETOOBIG, "td_wait_any: %zu things, the limit is %d", count, THINGS_MAX);
    for (size_t i = 0; i < count; i++) {
        int code = td__thing_check(&things[i], "td_wait_any");
        if (code < 0)
            return code;
        bool descriptor = things[i].kind == TD_WAITS_CONNECTION || things[i].kind == TD_WAITS_DESCRIPTOR;
        descriptors += descriptor;
        words += !descriptor && things[i].kind != TD_WAITS_NOTHING;
    }
    td__since since[THINGS_MAX];
    memset(since, 0, count * sizeof *since);
    wait w = { { .uses = uses }, things, count, since, td__deadline(limit), cancel };
    td__watch_begins(&w.watch);
    int r = descriptors > 0 || words > WORDS_MAX ? wait_on_descriptors(&w) : wait_on_words(&w);
    td__watch_ends(&w.watch);
    return r;
}

static int of_connection(td_connection *c)
{
    int code = td__connection_wait_begins(c, "td_descriptor");
    if (code < 0)
        return code;
    int fd = td__connection_fd(c);
    td__connection_wait_ends(c);
    return fd;
}

static int of_bridge(const td_waitable *thing)
{
    td__since since = { 0 };
    td__futex_item item;
    bool unsure = false;
    td__thing_prepare(thing, &since, &item, &unsure); /* since now, not since the bridge's first look */
    return td__bridge_open("td_descriptor", thing, &since, 1);
}

int td_descriptor(td_waitable thing)
{
    td__program_ready(); /* as above */
    int code = td__thing_check(&thing, "td_descriptor");
    if (code < 0)
        return code;
    switch (thing.kind) {
    case TD_WAITS_WORKER:
        return td_sentinel(thing.object);
    case TD_WAITS_CONNECTION:
        return of_connection(thing.object);
    case TD_WAITS_DESCRIPTOR:
        return thing.descriptor;
    case TD_WAITS_NOTHING:
        return td__fail(TD_EINVAL, "td_descriptor: nothing has no descriptor");
    default:
        return of_bridge(&thing);
    }
}
