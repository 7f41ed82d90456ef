/* SPDX-License-Identifier: MIT */
/*
 * Pipes and connections: frames of bytes between threads and processes. Python: multiprocessing.Pipe, Connection.
 *
 *     td_connection *ours, *theirs;
 *     td_pipe_duplex(&ours, &theirs);
 *     td_worker *w = td_process(.target = player, .connections = TD_CONNECTIONS(theirs));
 *     td_start(w);
 *     td_connection_free(theirs);             // the worker has its own
 *     td_send_value(ours, TD_STR("ping"));
 *     ...
 *     static int player(td_call *call)
 *     {
 *         td_connection *c = td_call_connection(call, 0);
 *         void *text;
 *         while (td_recv(c, &text, NULL) == 0) {          // TD_ECLOSED when the other side has gone
 *             ...
 *             free(text);
 *         }
 *
 * A frame is received as it was sent: whole, once, in the order in which its sender sent it. It is a block of 0 to
 * TD_FRAME_MAX bytes, or a descriptor, or another connection.
 *
 * All calls may be made from any thread, several at a time, on the same handle, but for close and free, which come
 * after the last other call. Processes that have handles of the same end may use them at the same time as well:
 * each frame goes to one receiver. None raises SIGPIPE; waits resume after signals, with the time that is left.
 * None is for signal handlers.
 *
 * Errors of all calls: TD_EINVAL, TD_ESTATE (the handle is closed, or the direction is not its own). Of those that
 * send: TD_ECLOSED (the other side has gone), TD_ENOMEM, TD_EDESCRIPTOR, TD_ESYSTEM, TD_ETIMEOUT. Of those that
 * receive: TD_ECLOSED (the other side has gone, and all that it sent has been received), TD_ETORN, TD_ETYPE,
 * TD_ENOMEM, TD_EDESCRIPTOR, TD_ESYSTEM, TD_ETIMEOUT.
 *
 * Calls that end in _for take a time limit, which bounds the waiting; td_ms(0) does not wait. Those without one wait as
 * long as it takes. None can be cancelled: to receive until a cancellation, wait by td_wait_any (tandem/wait.h) before,
 * and receive with a limit, since another receiver may take the frame in between.
 *
 * After TD_ETIMEOUT, TD_ENOMEM, TD_ETYPE and TD_ETOOBIG nothing has been sent, or the frame is still there for the next
 * call. TD_ETORN: a frame whose sender ended while it sent it, or that is no frame of this library; it is gone, and the
 * next call goes on behind it.
 *
 * After fork() by the program, parent and child both have the connection.
 */
#ifndef TANDEM_CONNECTION_H
#define TANDEM_CONNECTION_H

#include <tandem/base.h>
#include <tandem/call.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct td_connection td_connection;

/* The largest frame, if there is memory. */
#define TD_FRAME_MAX ((size_t)PTRDIFF_MAX / 2)

/*
 * A pipe: what `writer` sends, `reader` receives. Duplex: both ends do both. Each end is freed with
 * td_connection_free; an end is gone when all handles of it are closed or their processes have ended, so close those
 * that you have passed on, or the other side will not see the end. Two descriptors. 0, or TD_EDESCRIPTOR, TD_ENOMEM,
 * TD_ESYSTEM; then both are set to NULL. Do not block. Python: Pipe(duplex=False), Pipe().
 */
TD_API int td_pipe(td_connection **reader, td_connection **writer);
TD_API int td_pipe_duplex(td_connection **a, td_connection **b);

/*
 * Send a frame of `size` bytes. Block while the other side is behind: up to some hundred KiB are buffered, and a
 * frame above 256 KiB returns when a receiver has taken all of it. With a limit, TD_ETIMEOUT says that the frame is not
 * delivered. The bytes may be changed as soon as the call has returned. Python: send_bytes.
 */
TD_API int td_send(td_connection *c, const void *data, size_t size);
TD_API int td_send_for(td_connection *c, const void *data, size_t size, td_time limit);

/* Send one frame made of `count` parts (at most TD_PARTS_MAX), one behind the other:
 * td_send_parts(c, (td_value[]){ TD_VAL(header), TD_BYTES(body, size) }, 2) */
#define TD_PARTS_MAX 64
TD_API int td_send_parts(td_connection *c, const td_value *parts, size_t count);
TD_API int td_send_parts_for(td_connection *c, const td_value *parts, size_t count, td_time limit);

/*
 * Send one value, made by TD_ARG, TD_VAL, TD_STR or TD_BYTES, with its kind. Python: send.
 * Made by TD_SHARED, it hands a block of the shared heap over without copying it: who receives it (td_recv_shared) owns
 * the block, and frees it; until then, and if nobody does, it stays allocated. TD_EINVAL for another pointer, with
 * TD_SHARED among the parts of td_send_parts too.
 */
TD_API int td_send_value(td_connection *c, td_value value);
TD_API int td_send_value_for(td_connection *c, td_value value, td_time limit);

/*
 * Receive a frame into a new block, to be freed with free(). *size (may be NULL) gets its size; a NUL byte, not
 * counted, follows it. On failure *data is NULL. Block until there is a frame. Python: recv_bytes, recv.
 */
TD_API int td_recv(td_connection *c, void **data, size_t *size);
TD_API int td_recv_for(td_connection *c, void **data, size_t *size, td_time limit);

/*
 * Receive a frame into `buffer` with room for `room` bytes. *size (may be NULL) gets the frame's size. If it is larger
 * than the room, TD_ETOOBIG: *size says what is needed and the frame is still there. After any failure the contents of
 * the buffer are undefined. Python: recv_bytes_into, BufferTooShort.
 */
TD_API int td_recv_into(td_connection *c, void *buffer, size_t room, size_t *size);
TD_API int td_recv_into_for(td_connection *c, void *buffer, size_t room, size_t *size, td_time limit);

/* td_recv_value(c, type, &variable) receives a value of exactly that type: TD_ETYPE if size or kind differ (the frame
 * is still there then). A frame sent by td_send has the kind of a block of bytes, which fits every type. Python: recv.
 */
TD_API int td_recv_copy(td_connection *c, void *to, size_t size, int kind);
TD_API int td_recv_copy_for(td_connection *c, void *to, size_t size, int kind, td_time limit);
#define td_recv_value(c, type, to) td_recv_copy((c), (1 ? (to) : (type *)0), sizeof(type), TD_KIND_OF(type))
#define td_recv_value_for(c, type, to, limit) \
    td_recv_copy_for((c), (1 ? (to) : (type *)0), sizeof(type), TD_KIND_OF(type), (limit))

/*
 * Receives a block of the shared heap, sent by td_send_value(c, TD_SHARED(block)): it is the caller's now. TD_ETYPE if
 * the next frame is something else (it is still there then), TD_EINVAL if what was sent is not in this program's heap.
 */
TD_API int td_recv_shared(td_connection *c, void **block);
TD_API int td_recv_shared_for(td_connection *c, void **block, td_time limit);

/* Receive the next frame, whatever it is, and drop it. */
TD_API int td_recv_skip(td_connection *c);
TD_API int td_recv_skip_for(td_connection *c, td_time limit);

/*
 * Is there a frame, or the end of the stream? 0, or TD_ETIMEOUT when there is none within the limit: td_ms(0) only
 * looks, TD_NO_LIMIT waits. A receiver that comes first may take the frame, and a sender whose time limit passes in the
 * middle of a large one withdraws it, which shows only when it is received: where that must not wait, receive with a
 * limit. Python: poll(timeout).
 */
TD_API int td_poll(td_connection *c, td_time limit);

/*
 * A descriptor passed along: the receiver has a duplicate of its own, close-on-exec and above 2, to be closed by it.
 * The sender's stays open. td_recv_fd returns the descriptor. It is a frame of its own; td_recv on it is TD_ETYPE, as
 * is td_recv_fd on bytes. If the receiver has no descriptor left (TD_EDESCRIPTOR), it is lost. Python:
 * multiprocessing.reduction.send_handle, recv_handle.
 */
TD_API int td_send_fd(td_connection *c, int fd);
TD_API int td_send_fd_for(td_connection *c, int fd, td_time limit);
TD_API int td_recv_fd(td_connection *c);
TD_API int td_recv_fd_for(td_connection *c, td_time limit);

/* The same with a connection: the receiver gets a handle of its own of the same end. The sender's stays open, until it
 * closes it, with what a failed call has left in it. NULL on failure. Python: send(connection). */
TD_API int td_send_connection(td_connection *c, td_connection *passed);
TD_API int td_send_connection_for(td_connection *c, td_connection *passed, td_time limit);
TD_API td_connection *td_recv_connection(td_connection *c);
TD_API td_connection *td_recv_connection_for(td_connection *c, td_time limit);

/*
 * The descriptor, for poll and epoll: readable when there may be a frame or the end. Do not read, write or close it. It
 * does not show a frame that is still there after TD_ETOOBIG, TD_ETYPE, TD_ENOMEM or TD_ETIMEOUT of this handle:
 * receive or skip that first. It may show a frame that another receiver takes, or that its sender withdraws: where a
 * call must not block, use td_recv_for with td_ms(0). Negative on failure. Python: fileno().
 */
TD_API int td_connection_fileno(const td_connection *c);

/* Python: readable, writable, closed. False, false and true for NULL. */
TD_API bool td_connection_readable(const td_connection *c);
TD_API bool td_connection_writable(const td_connection *c);
TD_API bool td_connection_closed(const td_connection *c);

/*
 * td_connection_close closes this handle's copy of the end; what it has sent can still be received, what it has not
 * received is dropped if it is the last one. Again is 0. TD_ESTATE while another thread is inside a call on it.
 * td_connection_free closes and frees; NULL does nothing; it aborts while another thread is inside a call. Of a call's
 * connection it only closes. Do not block. Python: close().
 */
TD_API int td_connection_close(td_connection *c);
TD_API void td_connection_free(td_connection *c);

/* The connections of a worker: .connections = TD_CONNECTIONS(a, b), at most TD_CONNECTIONS_MAX. */
#define TD_CONNECTIONS_MAX 8
typedef struct td_connections {
    td_connection *list[TD_CONNECTIONS_MAX] TD_ZERO;
    size_t count TD_ZERO;
} td_connections;

/*
 * In a target: the worker's connection number `index`, counted from 0; NULL if there are not so many. It belongs to the
 * call: it is closed when the target has returned; the target may close it before.
 */
TD_API td_connection *td_call_connection(td_call *call, size_t index);
TD_API size_t td_call_connection_count(const td_call *call);

#ifdef __cplusplus
}
template <class... C> inline td_connections td_connections_of(C *...connection)
{
    static_assert(sizeof...(C) <= TD_CONNECTIONS_MAX, "too many connections for one worker");
    td_connections c = td_connections();
    td_connection *list[] = { connection..., nullptr };
    for (; c.count < sizeof...(C); c.count++)
        c.list[c.count] = list[c.count];
    return c;
}
#define TD_CONNECTIONS(...) td_connections_of(__VA_ARGS__)
#else
#define TD_CONNECTIONS(...) \
    ((td_connections){ { __VA_ARGS__ }, sizeof((td_connection *[]){ __VA_ARGS__ }) / sizeof(td_connection *) })
#endif

#endif
