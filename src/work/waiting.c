/* SPDX-License-Identifier: MIT */
/*
 * Waiting for any of several things. If all of them have words to sleep on, it is one system call on these words; if
 * there are descriptors among them (or too many words), all are turned into descriptors, and it is poll().
 */
#include "work/waiting.h"
#include "queue/connection.h"
#include "queue/queue.h"
#include "sync/event.h"
#include "sync/latch.h"
#include "sync/wait.h"
#include "work/worker.h"

#include <errno.h>

#define WORDS_MAX  (TD__FUTEX_MANY - 1) /* one is for the cancellation */
#define THINGS_MAX 1000
#define REFUSED_NS 1000000

int td__thing_check(const td_waitable *thing, const char *call)
{
    bool needs_object = thing->kind >= TD_WAITS_WORKER && thing->kind <= TD_WAITS_EVENT;
    if (thing->kind < TD_WAITS_NOTHING || thing->kind > TD_WAITS_DESCRIPTOR)
        return td__fail(TD_EINVAL, "%s: unknown kind of thing %d", call, (int)thing->kind);
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

bool td__thing_prepare(const td_waitable *thing, td__futex_item *item)
{
    switch (thing->kind) {
    case TD_WAITS_WORKER:
        return td__worker_prepare(thing->object, item);
    case TD_WAITS_QUEUE:
        return td__queue_prepare(thing->object, item);
    case TD_WAITS_EVENT:
        return td__event_prepare(thing->object, item);
    default:
        return false;
    }
}

void td__thing_done(const td_waitable *thing)
{
    if (thing->kind == TD_WAITS_WORKER)
        td__worker_prepared_done(thing->object);
}

/* --- on words ---------------------------------------------------------------------------------------------- */

/* An event that has been set and cleared since items[0..words) were prepared, in the order of the things. */
static int look_back(td_waitable *things, size_t count, const td__futex_item *items)
{
    int ready = 0;
    for (size_t i = 0; i < count; i++) {
        if (things[i].kind == TD_WAITS_NOTHING)
            continue;
        things[i].ready = things[i].kind == TD_WAITS_EVENT && td__event_happened(things[i].object, items);
        ready += things[i].ready;
        items++;
    }
    return ready;
}

/* How many are ready; items[0..*words) are to be slept on if none is. To be followed by done(). */
static int look(td_waitable *things, size_t count, td__futex_item *items, size_t *words)
{
    int ready = 0;
    *words = 0;
    for (size_t i = 0; i < count; i++) {
        things[i].ready = things[i].kind != TD_WAITS_NOTHING && td__thing_prepare(&things[i], &items[*words]);
        ready += things[i].ready;
        *words += things[i].kind != TD_WAITS_NOTHING && !things[i].ready;
    }
    return ready;
}

static void done(const td_waitable *things, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!things[i].ready)
            td__thing_done(&things[i]);
}

/* Sleeps once. Where barriers are refused, a change may have gone unseen: for a short time then. */
static int sleep_on_words(td__party *me, const td__futex_item *items, size_t words, int64_t deadline,
                          const td_cancel *cancel)
{
    int64_t slice = td__release_by_exchange ? td__now() + REFUSED_NS : 0;
    bool last = slice == 0 || (deadline && deadline <= slice);
    int r = td__words_wait(me, items, words, last ? deadline : slice, cancel);
    return r == TD_ETIMEOUT && !last ? 0 : r;
}

static int wait_on_words(td_waitable *things, size_t count, int64_t deadline, const td_cancel *cancel)
{
    td__futex_item items[TD__FUTEX_MANY];
    size_t words = 0;
    td__party *me = td__party_self();
    if (!me)
        return td_last_error();
    for (int r = 0;;) {
        int ready = look(things, count, items, &words);
        bool last = r == TD_ETIMEOUT;
        if (ready == 0 && r == 0)
            r = sleep_on_words(me, items, words, deadline, cancel);
        done(things, count);
        if (ready == 0 && !last)
            ready = look_back(things, count, items);
        if (ready > 0 || last)
            return ready;
        if (r == TD_ECANCELLED)
            return td__fail_quick(r);
    }
}

/* --- on descriptors ---------------------------------------------------------------------------------------- */

/* A queue or an event that is one of several things gets a descriptor for the time of the call. */
static bool is_bridged(const td_waitable *thing)
{
    return thing->kind == TD_WAITS_QUEUE || thing->kind == TD_WAITS_EVENT;
}

static void close_bridged(const td_waitable *things, const int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (is_bridged(&things[i]) && fds[i] >= 0)
            td_descriptor_close(fds[i]);
}

/* Ready ones among those that poll found; a bridged one is looked at itself. */
static int sort_out(td_waitable *things, const bool *readable, const int *fds, size_t count)
{
    int ready = 0;
    for (size_t i = 0; i < count; i++) {
        td__futex_item item;
        things[i].ready = readable[i];
        if (is_bridged(&things[i])) {
            things[i].ready = td__thing_prepare(&things[i], &item);
            if (!things[i].ready && readable[i])
                td_descriptor_clear(fds[i]); /* another one was faster */
        }
        ready += things[i].ready;
    }
    return ready;
}

/* How often to look at a cancellation object, which has no descriptor. */
#define SLICE_NS 10000000

static int poll_all(td_waitable *things, size_t count, int64_t deadline, const td_cancel *cancel, const int *fds)
{
    bool readable[THINGS_MAX];
    for (;;) {
        int64_t until = deadline, slice = cancel ? td__now() + SLICE_NS : 0;
        bool last = !cancel || (deadline && deadline <= slice);
        td__poll(fds, readable, count, last ? until : slice);
        int ready = sort_out(things, readable, fds, count);
        if (ready > 0)
            return ready;
        if (td_cancel_fired(cancel))
            return td__fail_quick(TD_ECANCELLED);
        if (deadline && td__now() >= deadline)
            return 0;
    }
}

static int wait_on_descriptors(td_waitable *things, size_t count, int64_t deadline, const td_cancel *cancel)
{
    int fds[THINGS_MAX], r = 0;
    for (size_t i = 0; i < count; i++)
        fds[i] = -1;
    for (size_t i = 0; i < count && r == 0; i++) {
        if (things[i].kind == TD_WAITS_NOTHING)
            continue;
        fds[i] = td_descriptor(things[i]);
        r = fds[i] < 0 ? fds[i] : 0;
    }
    if (r == 0)
        r = poll_all(things, count, deadline, cancel, fds);
    close_bridged(things, fds, count);
    return r;
}

/* ----------------------------------------------------------------------------------------------------------- */

int td_wait_any(td_waitable *things, size_t count, td_time limit, td_cancel *cancel)
{
    size_t words = 0, descriptors = 0;
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
    int64_t deadline = td__deadline(limit);
    if (descriptors > 0 || words > WORDS_MAX)
        return wait_on_descriptors(things, count, deadline, cancel);
    return wait_on_words(things, count, deadline, cancel);
}

int td_descriptor(td_waitable thing)
{
    int code = td__thing_check(&thing, "td_descriptor");
    if (code < 0)
        return code;
    switch (thing.kind) {
    case TD_WAITS_WORKER:
        return td_sentinel(thing.object);
    case TD_WAITS_CONNECTION:
        return td__connection_fd(thing.object);
    case TD_WAITS_DESCRIPTOR:
        return thing.descriptor;
    case TD_WAITS_NOTHING:
        return td__fail(TD_EINVAL, "td_descriptor: nothing has no descriptor");
    default:
        return td__bridge_open(&thing);
    }
}
