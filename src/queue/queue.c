/* SPDX-License-Identifier: MIT */
/* The public calls: what is asked is checked, tried once, and waited for if it must be. */
#include <tandem/shared.h>
#include "queue/fifo.h"
#include "queue/memory.h"
#include "memory/heap.h"
#include "sync/use.h"

#define ITEM_MAX     ((size_t)1 << 30)
#define CAPACITY_MAX ((size_t)1 << 30)
/* The first ring of a queue without a limit: so many places, or bytes if that is less. */
#define FIRST_PLACES 64
#define FIRST_BYTES  65536

/* --- making one -------------------------------------------------------------------------------------------- */

static int check_key(const td_queue_options *o, size_t item_size)
{
    const td_priority *key = &o->priority;
    if (o->kind != TD_QUEUE_PRIORITY)
        return key->size == 0
                   ? 0
                   : td__fail(TD_EINVAL, "td_queue_new: a priority in a queue that is not TD_QUEUE_PRIORITY");
    bool number = key->kind >= TD_KIND_SIGNED && key->kind <= TD_KIND_BOOL;
    bool sized = key->size == 1 || key->size == 2 || key->size == 4 || key->size == 8 ||
                 (key->kind == TD_KIND_FLOAT && key->size == sizeof(long double));
    if (!number || !sized)
        return td__fail(TD_EINVAL, "td_queue_new: a TD_QUEUE_PRIORITY queue needs .priority, a number "
                                   "(TD_PRIORITY, TD_PRIORITY_ITEM)");
    if (key->offset > item_size || key->size > item_size - key->offset)
        return td__fail(TD_EINVAL, "td_queue_new: the priority (%zu bytes at %zu) is not in the item (%zu bytes)",
                        key->size, key->offset, item_size);
    return 0;
}

static int check_options(const td_queue_options *o, td_queue_options *copy)
{
    if (!o || o->struct_size < offsetof(td_queue_options, any_size) + 1)
        return td__fail(TD_EINVAL, "td_queue_new: no options, or struct_size is not set");
    memset(copy, 0, sizeof *copy);
    memcpy(copy, o, o->struct_size < sizeof *copy ? o->struct_size : sizeof *copy);
    if ((unsigned)copy->kind > TD_QUEUE_PRIORITY)
        return td__fail(TD_EINVAL, "td_queue_new: there is no kind %d", (int)copy->kind);
    if (copy->item_size > ITEM_MAX)
        return td__fail(TD_ETOOBIG, "td_queue_new: items of %zu bytes (the most is %zu)", copy->item_size, ITEM_MAX);
    if (copy->capacity > CAPACITY_MAX)
        return td__fail(TD_ETOOBIG, "td_queue_new: a capacity of %zu (the most is %zu)", copy->capacity, CAPACITY_MAX);
    if (copy->any_size && copy->kind != TD_QUEUE_FIFO)
        return td__fail(TD_EUNSUPPORTED, "td_queue_new: items of any size are for TD_QUEUE_FIFO only");
    if (copy->item_size == 0)
        copy->item_size = sizeof(void *);
    return check_key(copy, copy->item_size);
}

static void shape(td_queue *q, const td_queue_options *o)
{
    q->item_size = (uint32_t)o->item_size;
    q->kind = (uint8_t)o->kind;
    q->shared = o->shared;
    q->joinable = o->joinable;
    q->any_size = o->any_size;
    if (o->kind == TD_QUEUE_FIFO && !o->any_size)
        q->quick = o->shared ? TD__QUICK_SHARED : TD__QUICK_PRIVATE;
    q->capacity = o->capacity;
    q->life = td__queue_life;
    q->key = o->priority;
    q->room = !o->any_size || o->item_size < TD__ROOM_MAX ? q->item_size : TD__ROOM_MAX;
    if (o->kind != TD_QUEUE_FIFO)
        q->stride = td__sorted_stride(q);
    else
        q->stride = td__wheel_stride(q->room + (o->any_size ? (uint32_t)sizeof(td__sized) : 0), o->capacity > 0);
}

static uint64_t first_places(const td_queue *q)
{
    if (q->capacity)
        return q->capacity;
    return q->stride <= FIRST_BYTES / FIRST_PLACES ? FIRST_PLACES
           : q->stride <= FIRST_BYTES / 4          ? FIRST_BYTES / q->stride
                                                   : 4;
}

static td_queue *build(td__party *me, const td_queue_options *o, uintptr_t *name)
{
    td_queue shaped = { .magic = 0 };
    shape(&shaped, o);
    uint64_t places = first_places(&shaped);
    uint64_t bytes =
        o->kind == TD_QUEUE_FIFO ? td__wheel_bytes(places, shaped.stride) : td__sorted_bytes(&shaped, places);
    td_queue *q = td__queue_take(me, o->shared, sizeof *q + bytes, name);
    if (!q)
        return NULL;
    *q = shaped;
    td__wheel_init(&q->first, places, q->stride, (char *)(q + 1));
    if (o->kind == TD_QUEUE_FIFO) {
        q->part[0] = (uintptr_t)&q->first;
    } else {
        q->part[0] = (uintptr_t)(q + 1);
        q->slots = places;
        td__sorted_init(q, 0, places);
    }
    q->proof[0] = ~q->part[0];
    q->magic = TD__QUEUE_MAGIC;
    q->seal = td__queue_seal(q);
    q->seal_of_rest = td__queue_seal_of_rest(q);
    return q;
}

td_queue *td_queue_create(const td_queue_options *options)
{
    td_queue_options o;
    if (check_options(options, &o) < 0)
        return NULL;
    uintptr_t name = 0;
    if (!o.shared)
        return build(NULL, &o, &name);
    td__party *me = td__party_self();
    if (!me)
        return NULL;
    td__step_begin(me, TD__STEP_QUEUE, TD__QUEUE_MAKE, NULL, 0, 0);
    td_queue *q = build(me, &o, &me->step[TD__STEP_QUEUE].argument);
    td__step_end(me, TD__STEP_QUEUE);
    return q;
}

/* Who waits on it; those who put or get are too quick to be met. */
static void check_unused(const td_queue *q)
{
#ifdef TD_DEBUG
    td__use_settle(q, sizeof *q);
    if (td__word_waiters(&q->items) || td__word_waiters(&q->space) || td__word_waiters(&q->finished) ||
        td__is_watched(q, sizeof *q))
        td__bug("td_queue_free: a thread waits on queue %p", (const void *)q);
#else
    (void)q;
#endif
}

void td_queue_free(td_queue *q)
{
    if (!q)
        return;
    if (q->magic != TD__QUEUE_MAGIC)
        td__bug("td_queue_free: %p is no queue, or has been freed", (void *)q);
    if (!td__queue_is_whole(q)) {
        td__fail(TD_ECORRUPT, "td_queue_free: queue %p is corrupted: its memory stays taken", (void *)q);
        return;
    }
    uintptr_t name = (uintptr_t)q;
    bool shared = q->shared;
    td__party *me = shared ? td__party_self() : NULL;
    if (shared && !me)
        return;
    check_unused(q);
    if (shared) {
        td__parties_release(q, sizeof *q); /* what belongs to it is reached through it */
        td__step_begin(me, TD__STEP_QUEUE, TD__QUEUE_FREE, NULL, name, 0);
    }
    q->magic = TD__QUEUE_FREED;
    q->seal = ~q->seal;
    td__queue_dispose(q, me, true);
    td__queue_give(me, shared, shared ? &me->step[TD__STEP_QUEUE].argument : &name, true);
    if (shared)
        td__step_end(me, TD__STEP_QUEUE);
}

/* --- how every call goes ----------------------------------------------------------------------------------- */

static int corrupted(const td_queue *q, const char *call)
{
    return td__fail(TD_ECORRUPT, "%s: queue %p is corrupted", call, (const void *)q);
}

static int no_queue(const td_queue *q, const char *call)
{
    if (q && q->magic == TD__QUEUE_MAGIC)
        return corrupted(q, call);
    return q ? td__fail(TD_EINVAL, "%s: %p is no queue, or has been freed", call, (const void *)q) : td__pending();
}

/* The sentence of a result that an attempt or a wait has given. */
static int failed(int r, const td_queue *q, const td__op *op, const char *call)
{
    switch (r) {
    case TD_ETOOBIG:
        if (q->any_size && op->in)
            return td__fail(r, "%s: an item of %zu bytes (the queue takes %u)", call, op->size, q->item_size);
        if (q->any_size && op->got_size > q->item_size)
            return corrupted(q, call);
        if (q->any_size)
            return td__fail(r, "%s: the item has %zu bytes, the room is %zu", call, op->got_size, op->size);
        return r;
    case TD_ECORRUPT:
        return corrupted(q, call);
    case TD_ENOMEM:
    case TD_EINIT:
    case TD_EINVAL:
        return r;
    default:
        return td__fail_quick(r, call);
    }
}

enum how { TRY, WAIT };

static td__try *put_of(const td_queue *q)
{
    return q->kind != TD_QUEUE_FIFO ? td__sorted_put : q->shared ? td__fifo_put_shared : td__fifo_put_private;
}

static td__try *get_of(const td_queue *q)
{
    return q->kind != TD_QUEUE_FIFO ? td__sorted_get : q->shared ? td__fifo_get_shared : td__fifo_get_private;
}

/* The first attempt has found it full, or empty. */
static int wait_for_it(td_queue *q, td__party *me, td__op *op, int again, td_time limit, const td_cancel *cancel)
{
    bool put = op->in != NULL;
    me = me ? me : td__party_self();
    if (!me)
        return td_last_error();
    return td__queue_wait(q, me, put ? put_of(q) : get_of(q), op, again, put ? &q->space : &q->items,
                          td__deadline(limit), cancel);
}

static inline int move(td_queue *q, td__op *op, enum how how, td_time limit, const td_cancel *cancel, const char *call)
{
    td__party *me = NULL;
    bool put = op->in != NULL, named = q->shared;
    int r, again = put ? TD_EFULL : TD_EEMPTY;
    if (td__likely(q->kind == TD_QUEUE_FIFO && !named)) {
        r = put ? td__fifo_put_private(q, NULL, op) : td__fifo_get_private(q, NULL, op);
    } else {
        me = td__party_self();
        if (td__unlikely(!me))
            return td_last_error();
        if (named)
            td__step_begin(me, TD__STEP_QUEUE, put ? TD__QUEUE_PUT : TD__QUEUE_GET, q, 0, 0);
        r = put ? put_of(q)(q, me, op) : get_of(q)(q, me, op);
    }
    if (td__unlikely(r == again) && how == WAIT)
        r = wait_for_it(q, me, op, again, limit, cancel);
    if (named)
        td__step_end(me, TD__STEP_QUEUE);
    return td__likely(r == 0) ? 0 : failed(r, q, op, call);
}

static inline bool is_queue(const td_queue *q)
{
    return td__likely(q != NULL && td__queue_is_sealed(q));
}

bool td__queue_valid(const td_queue *q)
{
    return is_queue(q);
}

static int check(const td_queue *q, const void *memory, bool any_size, const char *call)
{
    if (!is_queue(q))
        return no_queue(q, call);
    if (q->any_size != any_size)
        return td__fail(
            TD_EUNSUPPORTED,
            any_size ? "%s: the queue was not made with .any_size" : "%s: the queue was made with .any_size", call);
    if (!memory)
        return td__fail(TD_EINVAL, "%s: NULL for the item", call);
    return 0;
}

/* --- items of one size ------------------------------------------------------------------------------------- */

static inline int put(td_queue *q, const void *item, enum how how, td_time limit, td_cancel *cancel, const char *call)
{
    if (td__unlikely(!is_queue(q) || !item || q->any_size))
        return check(q, item, false, call);
    td__party *me = td__me;
    if (td__likely(q->quick == TD__QUICK_PRIVATE
                       ? td__fifo_put_quick_private(q, item)
                       : q->quick == TD__QUICK_SHARED && me && td__fifo_put_quick_shared(q, me, item)))
        return 0;
    td__op op = { .in = item, .count = 1 };
    return move(q, &op, how, limit, cancel, call);
}

int td_queue_put(td_queue *q, const void *item)
{
    return put(q, item, WAIT, TD_NO_LIMIT, NULL, "td_queue_put");
}

int td_queue_put_with(td_queue *q, const void *item, td_time limit, td_cancel *cancel)
{
    return put(q, item, WAIT, limit, cancel, "td_queue_put");
}

int td_queue_try_put(td_queue *q, const void *item)
{
    return put(q, item, TRY, TD_NO_LIMIT, NULL, "td_queue_try_put");
}

static inline int get(td_queue *q, void *item, enum how how, td_time limit, td_cancel *cancel, const char *call)
{
    if (td__unlikely(!is_queue(q) || !item || q->any_size))
        return check(q, item, false, call);
    td__party *me = td__me;
    if (td__likely(q->quick == TD__QUICK_PRIVATE
                       ? td__fifo_get_quick_private(q, item)
                       : q->quick == TD__QUICK_SHARED && me && td__fifo_get_quick_shared(q, me, item)))
        return 0;
    td__op op = { .out = item, .count = 1 };
    return move(q, &op, how, limit, cancel, call);
}

int td_queue_get(td_queue *q, void *item)
{
    return get(q, item, WAIT, TD_NO_LIMIT, NULL, "td_queue_get");
}

int td_queue_get_with(td_queue *q, void *item, td_time limit, td_cancel *cancel)
{
    return get(q, item, WAIT, limit, cancel, "td_queue_get");
}

int td_queue_try_get(td_queue *q, void *item)
{
    return get(q, item, TRY, TD_NO_LIMIT, NULL, "td_queue_try_get");
}

static int64_t several(td_queue *q, td__op *op, enum how how, td_time limit, td_cancel *cancel, const char *call)
{
    int r = check(q, op->in ? op->in : op->out, false, call);
    if (r < 0)
        return r;
    if (op->count == 0)
        return 0;
    r = move(q, op, how, limit, cancel, call);
    return op->done > 0 ? (int64_t)op->done : r;
}

static int64_t put_many(td_queue *q, const void *items, size_t count, enum how how, td_time limit, td_cancel *cancel,
                        const char *call)
{
    td__op op = { .in = items, .count = count };
    return several(q, &op, how, limit, cancel, call);
}

static int64_t get_many(td_queue *q, void *items, size_t count, enum how how, td_time limit, td_cancel *cancel,
                        const char *call)
{
    td__op op = { .out = items, .count = count };
    return several(q, &op, how, limit, cancel, call);
}

int64_t td_queue_put_many(td_queue *q, const void *items, size_t count)
{
    return put_many(q, items, count, WAIT, TD_NO_LIMIT, NULL, "td_queue_put_many");
}

int64_t td_queue_put_many_with(td_queue *q, const void *items, size_t count, td_time limit, td_cancel *cancel)
{
    return put_many(q, items, count, WAIT, limit, cancel, "td_queue_put_many");
}

int64_t td_queue_try_put_many(td_queue *q, const void *items, size_t count)
{
    return put_many(q, items, count, TRY, TD_NO_LIMIT, NULL, "td_queue_try_put_many");
}

int64_t td_queue_get_many(td_queue *q, void *items, size_t count)
{
    return get_many(q, items, count, WAIT, TD_NO_LIMIT, NULL, "td_queue_get_many");
}

int64_t td_queue_get_many_with(td_queue *q, void *items, size_t count, td_time limit, td_cancel *cancel)
{
    return get_many(q, items, count, WAIT, limit, cancel, "td_queue_get_many");
}

int64_t td_queue_try_get_many(td_queue *q, void *items, size_t count)
{
    return get_many(q, items, count, TRY, TD_NO_LIMIT, NULL, "td_queue_try_get_many");
}

/* --- items of any size ------------------------------------------------------------------------------------- */

static int put_bytes(td_queue *q, const void *bytes, size_t size, enum how how, td_time limit, td_cancel *cancel,
                     const char *call)
{
    int r = check(q, size == 0 ? "" : bytes, true, call);
    if (r < 0)
        return r;
    td__op op = { .in = bytes ? bytes : "", .size = size, .count = 1 };
    return size > q->item_size ? failed(TD_ETOOBIG, q, &op, call) : move(q, &op, how, limit, cancel, call);
}

int td_queue_put_bytes(td_queue *q, const void *bytes, size_t size)
{
    return put_bytes(q, bytes, size, WAIT, TD_NO_LIMIT, NULL, "td_queue_put_bytes");
}

int td_queue_put_bytes_with(td_queue *q, const void *bytes, size_t size, td_time limit, td_cancel *cancel)
{
    return put_bytes(q, bytes, size, WAIT, limit, cancel, "td_queue_put_bytes");
}

int td_queue_try_put_bytes(td_queue *q, const void *bytes, size_t size)
{
    return put_bytes(q, bytes, size, TRY, TD_NO_LIMIT, NULL, "td_queue_try_put_bytes");
}

static int get_bytes(td_queue *q, void *bytes, size_t room, size_t *size, enum how how, td_time limit,
                     td_cancel *cancel, const char *call)
{
    char none;
    int r = check(q, room == 0 ? &none : bytes, true, call);
    if (r < 0)
        return r;
    td__op op = { .out = bytes ? bytes : &none, .size = room, .count = 1 };
    r = move(q, &op, how, limit, cancel, call);
    if (size && (r == 0 || r == TD_ETOOBIG))
        *size = op.got_size;
    return r;
}

int td_queue_get_bytes(td_queue *q, void *bytes, size_t room, size_t *size)
{
    return get_bytes(q, bytes, room, size, WAIT, TD_NO_LIMIT, NULL, "td_queue_get_bytes");
}

int td_queue_get_bytes_with(td_queue *q, void *bytes, size_t room, size_t *size, td_time limit, td_cancel *cancel)
{
    return get_bytes(q, bytes, room, size, WAIT, limit, cancel, "td_queue_get_bytes");
}

int td_queue_try_get_bytes(td_queue *q, void *bytes, size_t room, size_t *size)
{
    return get_bytes(q, bytes, room, size, TRY, TD_NO_LIMIT, NULL, "td_queue_try_get_bytes");
}

/* --- blocks of the shared heap ----------------------------------------------------------------------------- */

static int check_pointers(const td_queue *q, const char *call)
{
    if (is_queue(q) && (q->item_size != sizeof(void *) || q->any_size))
        return td__fail(TD_ETYPE, "%s: the queue's items have %u bytes, a pointer %zu", call, q->item_size,
                        sizeof(void *));
    return 0;
}

static int put_shared(td_queue *q, void *block, enum how how, td_time limit, td_cancel *cancel, const char *call)
{
    int r = check_pointers(q, call);
    if (r < 0)
        return r;
    if (is_queue(q) && !td_shared_is(block))
        return td__fail(TD_EINVAL, "%s: %p is not in the shared heap", call, block);
    return put(q, &block, how, limit, cancel, call);
}

int td_queue_put_shared_with(td_queue *q, void *block, td_time limit, td_cancel *cancel)
{
    return put_shared(q, block, WAIT, limit, cancel, "td_queue_put_shared");
}

int td_queue_put_shared(td_queue *q, void *block)
{
    return td_queue_put_shared_with(q, block, TD_NO_LIMIT, NULL);
}

int td_queue_try_put_shared(td_queue *q, void *block)
{
    return put_shared(q, block, TRY, TD_NO_LIMIT, NULL, "td_queue_try_put_shared");
}

static int get_shared(td_queue *q, void **block, enum how how, td_time limit, td_cancel *cancel, const char *call)
{
    void *got;
    int r = check_pointers(q, call);
    if (r == 0 && is_queue(q) && !block)
        return td__fail(TD_EINVAL, "%s: NULL for the pointer", call);
    if (r == 0)
        r = get(q, &got, how, limit, cancel, call);
    if (r == 0 && !td_shared_is(got))
        return td__fail(TD_EINVAL, "%s: %p, put by td_queue_put, is not in the shared heap", call, got);
    if (r == 0)
        *block = got;
    return r;
}

int td_queue_get_shared_with(td_queue *q, void **block, td_time limit, td_cancel *cancel)
{
    return get_shared(q, block, WAIT, limit, cancel, "td_queue_get_shared");
}

int td_queue_get_shared(td_queue *q, void **block)
{
    return td_queue_get_shared_with(q, block, TD_NO_LIMIT, NULL);
}

int td_queue_try_get_shared(td_queue *q, void **block)
{
    return get_shared(q, block, TRY, TD_NO_LIMIT, NULL, "td_queue_try_get_shared");
}

/* --- the queue as a whole ---------------------------------------------------------------------------------- */

size_t td_queue_qsize(td_queue *q)
{
    if (!is_queue(q))
        return 0;
    return q->kind == TD_QUEUE_FIFO ? td__fifo_size(q) : (size_t)td__load_acquire(&q->count);
}

bool td_queue_empty(td_queue *q)
{
    return td_queue_qsize(q) == 0;
}

bool td_queue_full(td_queue *q)
{
    return is_queue(q) && q->capacity && td_queue_qsize(q) >= q->capacity;
}

size_t td_queue_capacity(const td_queue *q)
{
    return is_queue(q) ? (size_t)q->capacity : 0;
}

bool td_queue_is_shutdown(const td_queue *q)
{
    return is_queue(q) && td__load_acquire(&q->gate) & TD__GATE_SHUT;
}

static void drop(td_queue *q, td__party *me)
{
    if (q->kind == TD_QUEUE_FIFO)
        td__fifo_drop(q, me);
    else
        td__sorted_drop(q, me);
}

int td_queue_shutdown(td_queue *q, bool immediate)
{
    if (!is_queue(q))
        return no_queue(q, "td_queue_shutdown");
    if (!td__queue_is_whole(q))
        return corrupted(q, "td_queue_shutdown");
    td__party *me = td__party_self();
    if (!me)
        return td_last_error();
    if (q->shared)
        td__step_begin(me, TD__STEP_QUEUE, TD__QUEUE_GET, q, 0, 0);
    td__queue_enter(q, me);
    /* Sequentially consistent, with enter() and drained() in fifo.c. Not undone: who sees it acts on it. */
    td__store_seq_cst(&q->gate, td__load_relaxed(&q->gate) | TD__GATE_SHUT | (immediate ? TD__GATE_DROPPED : 0));
    td__section_leave(me, &q->latch);
    if (immediate)
        drop(q, me);
    td__queue_wake_all(q);
    if (q->shared)
        td__step_end(me, TD__STEP_QUEUE);
    return 0;
}

/* --- task_done and join ------------------------------------------------------------------------------------ */

/*
 * Is there something that has been put, will be got or has been, and is not done? TD_EBUSY: yes; 0; TD_ECORRUPT. In
 * this order: `done` and `skipped` only grow, and never beyond what has been put, which is looked at last. So if they
 * are equal then, they were. (Together they are more if task_done was called for what then was dropped.)
 */
static int unfinished(td_queue *q, uint64_t done)
{
    if (td__queue_left(q)) /* one that is half put counts until then */
        td__queue_settle(q);
    uint64_t skipped = td__load_seq_cst(&q->skipped), put;
    if (q->kind != TD_QUEUE_FIFO)
        put = td__load_seq_cst(&q->serial);
    else if (!td__fifo_claimed(q, &put))
        return TD_ECORRUPT;
    if (skipped > put || done > put)
        return TD_ECORRUPT;
    return put - skipped > done ? TD_EBUSY : 0;
}

static int all_done(td_queue *q)
{
    return unfinished(q, td__load_seq_cst(&q->done));
}

static int check_joinable(const td_queue *q, const char *call)
{
    if (!is_queue(q))
        return no_queue(q, call);
    if (!td__queue_is_whole(q))
        return corrupted(q, call);
    return q->joinable ? 0 : td__fail(TD_EUNSUPPORTED, "%s: the queue was not made with .joinable", call);
}

int td_queue_task_done(td_queue *q)
{
    int r = check_joinable(q, "td_queue_task_done");
    td__party *me = r == 0 && q->shared ? td__party_self() : NULL;
    if (r < 0)
        return r;
    if (q->shared && !me)
        return td_last_error();
    if (me)
        td__step_begin(me, TD__STEP_QUEUE, TD__QUEUE_GET, q, 0, 0);
    uint64_t done = td__load_relaxed(&q->done);
    /* Sequentially consistent, with the bit of who waits in join: he sees it done, or we see the bit. */
    do {
        int left = unfinished(q, done);
        if (left == 0)
            r = td__fail(TD_ESTATE, "td_queue_task_done: called more often than items were put");
        else if (left == TD_ECORRUPT)
            r = corrupted(q, "td_queue_task_done");
    } while (r == 0 && !td__cas_seq_cst(&q->done, &done, done + 1));
    if (r == 0 && td__load_seq_cst(&q->finished) & TD__QUEUE_AWAITED && all_done(q) != TD_EBUSY)
        td__queue_wake(q, &q->finished, INT_MAX);
    if (me)
        td__step_end(me, TD__STEP_QUEUE);
    return r;
}

static int try_join(td_queue *q, td__party *me, td__op *op)
{
    (void)op;
    if (td__load_acquire(&q->gate) & TD__GATE_DROPPED)
        drop(q, me); /* what a shutdown that died has left */
    return all_done(q);
}

int td_queue_join_with(td_queue *q, td_time limit, td_cancel *cancel)
{
    int r = check_joinable(q, "td_queue_join");
    td__party *me = r == 0 ? td__party_self() : NULL;
    if (!me)
        return td_last_error();
    td__op op = { .size = 0 };
    if (q->shared)
        td__step_begin(me, TD__STEP_QUEUE, TD__QUEUE_GET, q, 0, 0);
    r = try_join(q, me, &op);
    if (r == TD_EBUSY)
        r = td__queue_wait(q, me, try_join, &op, TD_EBUSY, &q->finished, td__deadline(limit), cancel);
    if (q->shared)
        td__step_end(me, TD__STEP_QUEUE);
    return r < 0 ? failed(r, q, &op, "td_queue_join") : 0;
}

int td_queue_join(td_queue *q)
{
    return td_queue_join_with(q, TD_NO_LIMIT, NULL);
}
