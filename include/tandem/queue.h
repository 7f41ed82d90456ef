/* SPDX-License-Identifier: MIT */
/*
 * Queues, between threads and, with .shared, between all processes of the program. Python: queue.Queue, SimpleQueue,
 * LifoQueue, PriorityQueue; multiprocessing.Queue, SimpleQueue, JoinableQueue.
 *
 *     td_queue *jobs = td_queue_new(.item_size = sizeof(struct job), .capacity = 1024, .shared = true);
 *     td_worker *w = td_process(.target = work, .args = TD_SHARED(jobs));
 *
 *     static int work(td_call *call)
 *     {
 *         td_queue *jobs = td_arg_shared(call);
 *         struct job job;
 *         while (td_queue_get(jobs, &job) == 0)       // until td_queue_shutdown, and nothing is left
 *             carry_out(&job);
 *         return 0;
 *     }
 *
 * Any number of threads put and get at the same time. An item is bytes: all items of a queue have one size, or, with
 * .any_size, up to one size. They are copied in by the put itself and belong to the queue then: there is no thread that
 * sends them later, and the end of the putting process loses nothing. The address of a shared queue is the same in all
 * processes.
 *
 * Deaths. Nothing is lost, torn or delivered twice when a process is killed, at whatever instruction: an item whose put
 * had returned is delivered once; one that was being put either not at all, or whole; one that a dead process was
 * taking out, and had not given back the place of, is delivered again, once. Nobody is blocked by the dead.
 *
 * Puts and gets come in forms: without a limit; _for, with a time limit; _with, with a time limit and a cancellation
 * object (either may be absent: TD_NO_LIMIT, NULL); try_, without waiting. They return 0, or
 *   TD_EFULL, TD_EEMPTY  try_ only: no place, no item. Also for the moment in which another thread is just taking the
 *                        oldest item out of a full queue, or putting the oldest into an empty one
 *   TD_ETIMEOUT, TD_ECANCELLED
 *   TD_ECLOSED           after td_queue_shutdown: every put; a get that finds nothing more
 *   TD_ENOMEM            no memory for a queue without a limit to grow, for a large item of any size, or for the record
 *                        that the calling thread needs at its first wait
 *   TD_ETOOBIG           a queue without a limit has come to its largest ring, of 2^30 places or the power of two below
 *   TD_ECORRUPT          something has written over a shared queue. The reader is told so and does not crash, but not
 *                        every lie shows: items may be lost or wrong, and a call without a limit may wait for ever
 *   TD_EINVAL            NULL, or no queue. A queue that could not be created is NULL: its error comes back
 * Items are in order; those who wait for them, or for places, are not: a thread that has been woken can lose what it
 * was woken for to one that comes at this moment, and is then woken for the next. Waits resume after signals. Threads
 * that wait spin for some 20 us, then sleep; an idle queue uses no processor time. No call is for signal handlers.
 *
 * After fork() a queue that is not shared is the child's own copy, of any kind, and can be used there whatever other
 * threads were doing with it: every item whose put had returned is in it, whole and in its order, unless a get had
 * taken effect. What another thread was in the middle of does not go on in the child. An item that it was putting is in
 * the copy, whole, or is not; of put_many the first so many are. One that it was taking out is in the copy, in its
 * order, unless that get had taken effect; of a FIFO queue's get_many some may be and others not.
 */
#ifndef TANDEM_QUEUE_H
#define TANDEM_QUEUE_H

#include <stddef.h>
#include <tandem/base.h>
#include <tandem/call.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct td_queue td_queue;

/* In which order items leave: as they came; the last one first; the one with the smallest priority first, and those of
 * equal priority as they came. */
typedef enum td_queue_kind { TD_QUEUE_FIFO = 0, TD_QUEUE_LIFO = 1, TD_QUEUE_PRIORITY = 2 } td_queue_kind;

/*
 * Where in the item its priority is: TD_PRIORITY(struct job, urgency) for a member, TD_PRIORITY_ITEM(int) for an item
 * that is its own priority. A signed, unsigned or floating number; smaller ones leave first (NaN: last).
 */
typedef struct td_priority {
    size_t offset TD_ZERO;
    size_t size TD_ZERO;
    int kind TD_ZERO;
} td_priority;

#ifdef __cplusplus
#define TD_PRIORITY(type, member) \
    (td_priority{ offsetof(type, member), sizeof(type::member), td_kind_of_type<decltype(type::member)>() })
#define TD_PRIORITY_ITEM(type) (td_priority{ 0, sizeof(type), TD_KIND_OF(type) })
#else
#define TD_PRIORITY(type, member)                        \
    ((td_priority){ .offset = offsetof(type, member),    \
                    .size = sizeof(((type *)0)->member), \
                    .kind = TD_KIND_OF_VALUE(((type *)0)->member) })
#define TD_PRIORITY_ITEM(type) ((td_priority){ .offset = 0, .size = sizeof(type), .kind = TD_KIND_OF(type) })
#endif

/* All zero is the default: first in, first out, of pointers, without a limit, between the threads of this process. */
typedef struct td_queue_options {
    size_t struct_size TD_ZERO; /* filled in by the macro */
    size_t item_size TD_ZERO;   /* bytes; with any_size, the most; 0: sizeof(void *); up to 1 GiB */
    size_t capacity TD_ZERO;    /* items; up to 2^30; 0: no limit, but see td_queue_create. Python: maxsize */
    td_queue_kind kind TD_ZERO;
    td_priority priority TD_ZERO; /* needed for TD_QUEUE_PRIORITY */
    bool shared TD_ZERO;          /* between processes: in the shared heap */
    bool joinable TD_ZERO;        /* with td_queue_task_done and td_queue_join */
    bool any_size TD_ZERO;        /* FIFO only: td_queue_put_bytes and td_queue_get_bytes */
} td_queue_options;

/*
 * A new, empty queue; NULL: TD_EINVAL, TD_ENOMEM, TD_ETOOBIG (item size or capacity), TD_EINIT (shared, before
 * td_init). A queue with a limit takes all its memory now. One without takes twice as much each time it is full, and
 * keeps all of it until it is freed. The largest ring has 2^30 places, or the power of two below; then put fails
 * with TD_ETOOBIG. Free it with td_queue_free.
 */
TD_API td_queue *td_queue_create(const td_queue_options *options);

#ifdef __cplusplus
}
inline td_queue *td_queue_create_from(const td_queue_options &options)
{
    return td_queue_create(&options);
}
#define td_queue_new(...) td_queue_create_from(td_queue_options{ .struct_size = sizeof(td_queue_options), __VA_ARGS__ })
extern "C" {
#else
#define td_queue_new(...) td_queue_create(&(td_queue_options){ .struct_size = sizeof(td_queue_options), __VA_ARGS__ })
#endif

/* Frees the queue and the items in it. By whoever is the last to use it: nobody may be in a call on it, or call later.
 * A process that was killed in a call does not count, once its death has been told (td_join and the like). NULL is
 * allowed. Does not block, but for the repair after such a one. Of a queue that was written over, memory stays taken
 * that cannot be told to be its own; if that is all of it, td_last_error() is TD_ECORRUPT. What is no queue, or has
 * been freed: aborts with a sentence. Debug builds (TD_DEBUG) abort so if a thread waits on it. */
TD_API void td_queue_free(td_queue *queue);

/* --- items of the queue's size. TD_EUNSUPPORTED with .any_size -------------------------------------------------- */

/* Copies an item in; waits while the queue is full. Python: put(item, block, timeout). */
TD_API int td_queue_put(td_queue *queue, const void *item);
TD_API int td_queue_put_with(td_queue *queue, const void *item, td_time limit, td_cancel *cancel);
static inline int td_queue_put_for(td_queue *queue, const void *item, td_time limit)
{
    return td_queue_put_with(queue, item, limit, NULL);
}
TD_API int td_queue_try_put(td_queue *queue, const void *item); /* Python: put_nowait */

/* Takes an item out, into `item`; waits while the queue is empty. Python: get(block, timeout). */
TD_API int td_queue_get(td_queue *queue, void *item);
TD_API int td_queue_get_with(td_queue *queue, void *item, td_time limit, td_cancel *cancel);
static inline int td_queue_get_for(td_queue *queue, void *item, td_time limit)
{
    return td_queue_get_with(queue, item, limit, NULL);
}
TD_API int td_queue_try_get(td_queue *queue, void *item); /* Python: get_nowait */

/*
 * Several at once, one after the other in memory: faster than one by one. put_many waits until all `count` have been
 * put; get_many waits until there is one, and takes what is there, up to `count`. Both return how many, which is less
 * than `count` for a put that was ended by the limit, the cancellation or shutdown after some; or the error if
 * none. A get_many that is killed has taken all or none; from a TD_QUEUE_PRIORITY queue it takes one. Python has none.
 */
TD_API int64_t td_queue_put_many(td_queue *queue, const void *items, size_t count);
TD_API int64_t td_queue_put_many_with(td_queue *queue, const void *items, size_t count, td_time limit,
                                      td_cancel *cancel);
static inline int64_t td_queue_put_many_for(td_queue *queue, const void *items, size_t count, td_time limit)
{
    return td_queue_put_many_with(queue, items, count, limit, NULL);
}
TD_API int64_t td_queue_try_put_many(td_queue *queue, const void *items, size_t count);
TD_API int64_t td_queue_get_many(td_queue *queue, void *items, size_t count);
TD_API int64_t td_queue_get_many_with(td_queue *queue, void *items, size_t count, td_time limit, td_cancel *cancel);
static inline int64_t td_queue_get_many_for(td_queue *queue, void *items, size_t count, td_time limit)
{
    return td_queue_get_many_with(queue, items, count, limit, NULL);
}
TD_API int64_t td_queue_try_get_many(td_queue *queue, void *items, size_t count);

/* --- items of any size, up to item_size. TD_EUNSUPPORTED without .any_size -------------------------------------- */

/* `size` 0 is an item as well. Larger than item_size: TD_ETOOBIG. */
TD_API int td_queue_put_bytes(td_queue *queue, const void *bytes, size_t size);
TD_API int td_queue_put_bytes_with(td_queue *queue, const void *bytes, size_t size, td_time limit, td_cancel *cancel);
static inline int td_queue_put_bytes_for(td_queue *queue, const void *bytes, size_t size, td_time limit)
{
    return td_queue_put_bytes_with(queue, bytes, size, limit, NULL);
}
TD_API int td_queue_try_put_bytes(td_queue *queue, const void *bytes, size_t size);
/* *size: the item's. If that is more than `room`, TD_ETOOBIG, and the item stays the next one. */
TD_API int td_queue_get_bytes(td_queue *queue, void *bytes, size_t room, size_t *size);
TD_API int td_queue_get_bytes_with(td_queue *queue, void *bytes, size_t room, size_t *size, td_time limit,
                                   td_cancel *cancel);
static inline int td_queue_get_bytes_for(td_queue *queue, void *bytes, size_t room, size_t *size, td_time limit)
{
    return td_queue_get_bytes_with(queue, bytes, room, size, limit, NULL);
}
TD_API int td_queue_try_get_bytes(td_queue *queue, void *bytes, size_t room, size_t *size);

/* --- blocks of the shared heap, handed over without a copy ------------------------------------------------------- */

/*
 * In a queue with items of a pointer's size, shared or not: who gets the pointer owns the block, and frees it.
 * TD_EINVAL if the pointer is not into the shared heap, TD_ETYPE if the queue's items are of another size.
 */
TD_API int td_queue_put_shared(td_queue *queue, void *block);
TD_API int td_queue_put_shared_with(td_queue *queue, void *block, td_time limit, td_cancel *cancel);
static inline int td_queue_put_shared_for(td_queue *queue, void *block, td_time limit)
{
    return td_queue_put_shared_with(queue, block, limit, NULL);
}
TD_API int td_queue_try_put_shared(td_queue *queue, void *block);
TD_API int td_queue_get_shared(td_queue *queue, void **block);
TD_API int td_queue_get_shared_with(td_queue *queue, void **block, td_time limit, td_cancel *cancel);
static inline int td_queue_get_shared_for(td_queue *queue, void **block, td_time limit)
{
    return td_queue_get_shared_with(queue, block, limit, NULL);
}
TD_API int td_queue_try_get_shared(td_queue *queue, void **block);

/* --- the queue as a whole ------------------------------------------------------------------------------------------
 */

/* As it is at this moment; others may change it at the next. 0 and false for NULL. None of them blocks, but that those
 * of LIFO and PRIORITY may wait for a moment. Python: qsize(), empty(), full(), maxsize. */
TD_API size_t td_queue_qsize(td_queue *queue);
TD_API bool td_queue_empty(td_queue *queue);
TD_API bool td_queue_full(td_queue *queue);
TD_API size_t td_queue_capacity(const td_queue *queue);

/*
 * From now on every put fails with TD_ECLOSED, also those that wait; a get takes what is left, and fails so when there
 * is nothing more. With `immediate`, what is in the queue is dropped, counts as done for td_queue_join, and gets fail
 * at once. May be called again, also to make it immediate. Does not wait. Python 3.13: shutdown(immediate).
 */
TD_API int td_queue_shutdown(td_queue *queue, bool immediate);
TD_API bool td_queue_is_shutdown(const td_queue *queue);

/*
 * For queues made with .joinable: who has got an item and is done with it says so; join waits until that has been said
 * for every item that was put. TD_EUNSUPPORTED for other queues; task_done more often than items were put: TD_ESTATE. A
 * process that dies between get and task_done leaves its item undone: give join a limit where that may happen.
 * Python: task_done(), join().
 */
TD_API int td_queue_task_done(td_queue *queue);
TD_API int td_queue_join(td_queue *queue);
TD_API int td_queue_join_with(td_queue *queue, td_time limit, td_cancel *cancel);
static inline int td_queue_join_for(td_queue *queue, td_time limit)
{
    return td_queue_join_with(queue, limit, NULL);
}

#ifdef __cplusplus
}
#endif

#endif
