/* SPDX-License-Identifier: MIT */
/*
 * Waiting for any of several things: workers, queues, connections, events, descriptors. Python:
 * multiprocessing.connection.wait, and select with a worker's sentinel; for queues and events it has nothing.
 *
 *     td_waitable things[] = { TD_WAIT_WORKER(w), TD_WAIT_QUEUE(results) };
 *     while (td_wait_any(things, 2, TD_NO_LIMIT, NULL) > 0) {
 *         if (things[1].ready)
 *             ...
 *         if (things[0].ready)
 *             break;
 *     }
 *
 * Being ready means: a worker has ended; a queue has an item, or has been shut down; a connection has something to
 * receive (what td_poll tells), or its other end is closed; an event is set, or has been set since the wait began, even
 * if it was cleared again; a descriptor is readable or hung up. It says what was so at that moment: another thread may
 * be faster to take the item, so take it by td_queue_try_get.
 */
#ifndef TANDEM_WAIT_H
#define TANDEM_WAIT_H

#include <tandem/base.h>
#include <tandem/connection.h>
#include <tandem/queue.h>
#include <tandem/sync.h>
#include <tandem/worker.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum td_waitable_kind {
    TD_WAITS_NOTHING = 0, /* never ready: a place that is not used */
    TD_WAITS_WORKER = 1,
    TD_WAITS_QUEUE = 2,
    TD_WAITS_CONNECTION = 3,
    TD_WAITS_EVENT = 4,
    TD_WAITS_DESCRIPTOR = 5
} td_waitable_kind;

typedef struct td_waitable {
    td_waitable_kind kind;
    void *object;
    int descriptor;
    bool ready; /* set by td_wait_any */
} td_waitable;

#ifdef __cplusplus
#define TD__WAITABLE(kind, object, descriptor) (td_waitable{ kind, object, descriptor, false })
#else
#define TD__WAITABLE(kind, object, descriptor) ((td_waitable){ kind, object, descriptor, false })
#endif
/* A worker must have been started by this process. */
#define TD_WAIT_WORKER(worker)         TD__WAITABLE(TD_WAITS_WORKER, (worker), -1)
#define TD_WAIT_QUEUE(queue)           TD__WAITABLE(TD_WAITS_QUEUE, (queue), -1)
#define TD_WAIT_CONNECTION(connection) TD__WAITABLE(TD_WAITS_CONNECTION, (connection), -1)
#define TD_WAIT_EVENT(event)           TD__WAITABLE(TD_WAITS_EVENT, (event), -1)
#define TD_WAIT_DESCRIPTOR(descriptor) TD__WAITABLE(TD_WAITS_DESCRIPTOR, NULL, (descriptor))

/*
 * Waits until at least one of `count` things is ready, and sets `ready` of all. Returns how many are ready; 0 when the
 * limit has passed (td_ms(0): looks only). Negative: TD_EINVAL (no things, a kind unknown, a NULL event, a descriptor
 * that is not open; of another NULL the pending error), TD_ESTATE (a worker that was never started; a connection that
 * is closed, or can only send), TD_EUNSUPPORTED (a worker that this process has not started), TD_EFORKED, TD_ETOOBIG
 * (more than 1000 things; or see below), TD_ECANCELLED, TD_ENOMEM, TD_EDESCRIPTOR, TD_EPROCESS (no thread). Blocks;
 * resumes after signals. From any thread. Takes nothing and changes nothing. None of the things may be freed, and no
 * connection closed, before it has returned: debug builds (TD_DEBUG) abort if an event or a queue is, or if it still
 * has a descriptor, as far as they see it in their own process.
 *
 * If all are workers, queues and events, and at most 127, it sleeps on these themselves. With connections or
 * descriptors among them, or with more, it is poll: workers have a descriptor each, and queues and events are watched
 * by threads of the library, one for 127 of them, which stay until td_finish, or longer if waits do; at most 4064 of
 * them in a process at a time, those of td_descriptor included (TD_ETOOBIG). A cancellation is then seen within 10 ms.
 * A frame that another thread takes off a connection during the wait and, having failed (TD_ETOOBIG, say), leaves to be
 * received again may not end the wait.
 */
TD_API int td_wait_any(td_waitable *things, size_t count, td_time limit, td_cancel *cancel);

/*
 * A descriptor for poll, epoll and the like, which is readable when the thing is ready: of a worker its sentinel, of a
 * connection its own (td_connection_fileno says what that does not show); of a queue or an event a new one of this
 * process, served by a thread of the library, which td_descriptor_close gives back (do so before the thing is freed).
 * That of a queue or an event says "look": it becomes readable when the thing is ready, or at td_finish, and
 * stays so until td_descriptor_clear. So: clear it, then take all that is there; it becomes readable again if more
 * is there or comes. Negative: TD_EINVAL, TD_ESTATE, TD_EDESCRIPTOR, TD_ENOMEM, TD_EPROCESS (no thread), TD_ETOOBIG
 * (more than 4064 of queues and events, see td_wait_any). Do not block. From any thread. A forked child has none of its
 * parent's.
 */
TD_API int td_descriptor(td_waitable thing);
/* TD_EINVAL: not made by td_descriptor for a queue or an event. Clearing it also: TD_EPROCESS (no thread). */
TD_API int td_descriptor_clear(int descriptor);
TD_API int td_descriptor_close(int descriptor);

#ifdef __cplusplus
}
#endif

#endif
