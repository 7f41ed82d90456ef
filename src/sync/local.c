/* SPDX-License-Identifier: MIT */
/*
 * Thread-local storage. A local that is in use has an id: its index in the low half, and in the high half a number that
 * no other one has had. Each thread has a table of slots by index: the id, and the value. So a get compares one number,
 * and a slot that a deleted local has left behind fits nobody.
 *
 * Each value is in the list of its local, so that deleting that reaches the values of all threads. A value is destroyed
 * by who takes it out of that list: the thread that ends, or the one that deletes the local. Deleting waits until the
 * threads that have already taken theirs are through with destroying it.
 *
 * The lock guards the locals' records, their lists and numbers; neither init nor destroy is called under it. A table is
 * its thread's own. A forked child has the values of the forking thread; those of others stay until the local is
 * deleted.
 */
#include <tandem/sync.h>
#include "sync/lock.h"
#include "sync/region.h"

typedef struct value {
    struct value *next, *previous; /* under the lock */
    uint64_t id;
    _Alignas(16) unsigned char data[];
} value;

typedef struct record {
    uint64_t id; /* 0: deleted, or never used */
    value *values;
    void (*destroy)(void *data, void *context);
    void *context;
    _Atomic uint32_t busy; /* futex: threads that destroy a value of it at their end; changed under the lock */
} record;

typedef struct slot {
    uint64_t id;
    value *value;
} slot;

static td__lock lock;
static record **records; /* never freed, but replaced by a larger array: under the lock */
static uint32_t record_count, record_room;
static uint32_t serial;

static _Thread_local struct {
    slot *slots;
    uint32_t count;
} mine;

static pthread_once_t prepared = PTHREAD_ONCE_INIT;
static pthread_key_t key; /* whose destructor ends a thread's values */
static bool has_key;

static _Atomic uint64_t *id_of(td_local *local)
{
    return (_Atomic uint64_t *)(void *)&local->td_id;
}

/* --- the end of values ------------------------------------------------------------------------------------- */

static void link_in(record *of, value *v)
{
    v->previous = NULL;
    v->next = of->values;
    if (v->next)
        v->next->previous = v;
    of->values = v;
}

static void link_out(record *of, value *v)
{
    if (v->next)
        v->next->previous = v->previous;
    if (v->previous)
        v->previous->next = v->next;
    else
        of->values = v->next;
}

static void destroy(const record *of, value *v)
{
    if (of->destroy)
        of->destroy(v->data, of->context);
    td__release(v);
}

/* By its thread, at its end. */
static void end_slot(slot *s)
{
    value *v = s->value;
    td__lock_acquire(&lock);
    record *of = records[(uint32_t)s->id];
    bool ours = of->id == s->id; /* else it has been deleted, and the value with it */
    *s = (slot){ 0, NULL };
    if (ours) {
        link_out(of, v);
        td__fetch_add_relaxed(&of->busy, 1);
    }
    td__lock_release(&lock);
    if (!ours)
        return;
    destroy(of, v);
    td__lock_acquire(&lock);
    uint32_t busy = td__load_relaxed(&of->busy);
    if (busy > 0) /* in a child that was forked in between it is 0 */
        td__store_release(&of->busy, busy - 1);
    td__lock_release(&lock);
    td__futex_wake(&of->busy, 1, false);
}

#define ROUNDS 8 /* destroy may make new values, for so long */

static void end_thread(void *unused)
{
    (void)unused;
    bool some = true;
    for (int round = 0; some && round < ROUNDS; round++) {
        some = false;
        for (uint32_t i = 0; i < mine.count; i++)
            if (mine.slots[i].value) {
                some = true;
                end_slot(&mine.slots[i]);
            }
    }
    td__release(mine.slots);
    mine.slots = NULL;
    mine.count = 0;
}

static void before_fork(void)
{
    td__lock_acquire(&lock);
}

static void after_fork_in_parent(void)
{
    td__lock_release(&lock);
}

static void after_fork_in_child(void)
{
    for (uint32_t i = 0; i < record_count; i++)
        td__store_relaxed(&records[i]->busy, 0); /* those threads are not here */
    td__lock_release(&lock);
}

static void prepare(void)
{
    has_key = pthread_key_create(&key, end_thread) == 0;
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* --- making ------------------------------------------------------------------------------------------------ */

/* Under the lock: an unused record, or NULL. */
static record *unused_record(uint32_t *index)
{
    for (uint32_t i = 0; i < record_count; i++)
        if (records[i]->id == 0 && td__load_relaxed(&records[i]->busy) == 0) {
            *index = i;
            return records[i];
        }
    if (record_count == record_room) {
        uint32_t room = record_room ? 2 * record_room : 16;
        record **larger = td__alloc(room * sizeof *larger);
        if (!larger)
            return NULL;
        if (records)
            memcpy(larger, records, record_count * sizeof *larger);
        td__release(records);
        records = larger;
        record_room = room;
    }
    record *made = td__alloc(sizeof *made);
    if (made) {
        *index = record_count;
        records[record_count++] = made;
    }
    return made;
}

/* The id of a local that is used for the first time, or 0. */
static uint64_t make_id(td_local *local)
{
    uint32_t index;
    td__lock_acquire(&lock);
    uint64_t id = td__load_relaxed(id_of(local));
    record *made = id ? NULL : unused_record(&index);
    if (made) {
        id = (uint64_t)++serial << 32 | index;
        *made = (record){ .id = id, .destroy = local->destroy, .context = local->context };
        td__store_release(id_of(local), id);
    }
    td__lock_release(&lock);
    return id;
}

static bool make_room(uint32_t index)
{
    if (index < mine.count)
        return true;
    uint32_t count = mine.count ? mine.count : 8;
    while (count <= index)
        count *= 2;
    slot *larger = td__alloc(count * sizeof *larger);
    if (!larger)
        return false;
    if (mine.slots)
        memcpy(larger, mine.slots, mine.count * sizeof *larger);
    td__release(mine.slots);
    mine.slots = larger;
    mine.count = count;
    return true;
}

static void *no_memory(void)
{
    td__fail(TD_ENOMEM, "td_local_get: out of memory for this thread's value");
    return NULL;
}

static value *make_value(td_local *local, uint64_t id)
{
    size_t size = local->size ? local->size : sizeof(void *);
    if (size > SIZE_MAX / 2)
        return NULL;
    value *v = td__alloc(sizeof *v + size);
    if (!v)
        return NULL;
    v->id = id;
    td__lock_acquire(&lock);
    link_in(records[(uint32_t)id], v);
    td__lock_release(&lock);
    mine.slots[(uint32_t)id] = (slot){ id, v };
    return v;
}

static void take_back(uint64_t id, value *v)
{
    mine.slots[(uint32_t)id] = (slot){ 0, NULL };
    td__lock_acquire(&lock);
    link_out(records[(uint32_t)id], v);
    td__lock_release(&lock);
    td__release(v);
}

/* The first time in this thread. */
static __attribute__((noinline)) void *get_slowly(td_local *local)
{
    if (!local || td__is_shared(local)) {
        td__fail(TD_EINVAL,
                 local ? "td_local_get: a thread's values cannot be shared by processes, but %p is"
                       : "td_local_get: the local is NULL",
                 (void *)local);
        return NULL;
    }
    pthread_once(&prepared, prepare);
    uint64_t id = td__load_acquire(id_of(local));
    if (!has_key || (!id && !(id = make_id(local))) || !make_room((uint32_t)id) || pthread_setspecific(key, &mine) != 0)
        return no_memory();
    value *v = make_value(local, id);
    if (!v)
        return no_memory();
    int r = local->init ? local->init(v->data, local->context) : 0;
    if (r == 0)
        return v->data;
    take_back(id, v);
    td__fail(TD_ESTATE, "td_local_get: the init of local %p returned %d", (void *)local, r);
    return NULL;
}

void *td_local_get(td_local *local)
{
    if (td__likely(local != NULL)) {
        /* Relaxed: the slot is this thread's own, and there is none with this id unless it has made it. */
        uint64_t id = td__load_relaxed(id_of(local));
        uint32_t index = (uint32_t)id;
        if (td__likely(id != 0 && index < mine.count && mine.slots[index].id == id))
            return mine.slots[index].value->data;
    }
    return get_slowly(local);
}

void td_local_delete(td_local *local)
{
    uint64_t id = local ? td__load_relaxed(id_of(local)) : 0;
    if (!id)
        return;
    td__lock_acquire(&lock);
    record *of = records[(uint32_t)id], was = *of;
    of->id = 0;
    of->values = NULL;
    td__lock_release(&lock);
    uint32_t busy;
    /* Acquire: what those threads have done in destroy. */
    while ((busy = td__load_acquire(&of->busy)) > 0)
        td__futex_wait(&of->busy, busy, 0, false);
    while (was.values) {
        value *v = was.values;
        was.values = v->next;
        destroy(&was, v);
    }
    td__store_relaxed(id_of(local), 0);
}
