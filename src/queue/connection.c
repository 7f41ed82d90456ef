/* SPDX-License-Identifier: MIT */
/*
 * Handles of connections, and the public calls.
 *
 * A call enters its handle and leaves it (`users`), so that the descriptor is not closed under it. All handles of the
 * process are in one list, for forks. One lock, td__lists, guards that list and the lists of frames of each handle;
 * nothing is waited for and no other lock is taken under it.
 */
#include <tandem/shared.h>
#include "queue/connection.h"
#include "sync/forks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define BUFFERED (512 * 1024) /* what a socket is asked to hold unread */

td__lock td__lists;
static td_connection *first; /* under td__lists */

/* --- handles ----------------------------------------------------------------------------------------------- */

static td_connection *make_handle(int fd, unsigned rights)
{
    td_connection *c = td__alloc(sizeof *c);
    if (!c)
        return NULL;
    c->fd = fd;
    c->rights = rights;
    td__lock_acquire(&td__lists);
    c->next = first;
    if (first)
        first->previous = c;
    first = c;
    td__lock_release(&td__lists);
    return c;
}

td_connection *td__connection_adopt(int fd, unsigned rights)
{
    td_connection *c = make_handle(fd, rights);
    if (!c)
        td__close(fd);
    return c;
}

/* With td__lists. */
static void free_frames(td__frame **list)
{
    while (*list) {
        td__frame *frame = *list;
        *list = frame->next;
        td__frame_free(frame);
    }
}

/* What was kept is dropped: a large frame's sender offers it again, if somebody else has this end. */
static void give_back(td_connection *c)
{
    td__lock_acquire(&td__lists);
    free_frames(&c->kept);
    td__store_relaxed(&c->kept_count, 0);
    td__lock_release(&td__lists);
    td__release(td__exchange_acq_rel(&c->spare, NULL));
    td__large_free(td__exchange_acq_rel(&c->ring, NULL));
    td__close(c->fd);
    c->fd = -1;
}

static int enter(td_connection *c, const char *call, unsigned right)
{
    if (!c)
        return td__pending();
    if (right && !(c->rights & right))
        return td__fail(TD_ESTATE, "%s: this end of the pipe can only %s", call,
                        right == TD__READABLE ? "send" : "receive");
    if (!(td__fetch_add_acq_rel(&c->users, 1) & TD__CLOSED))
        return 0;
    td__fetch_sub_acq_rel(&c->users, 1);
    if (td__load_relaxed(&c->starters))
        return td__fail(TD_EFORKED, "%s: the connection is the starter's: pass it to the worker with .connections",
                        call);
    return td__fail(TD_ESTATE, "%s: the connection's handle is closed", call);
}

static int leave(td_connection *c, int code)
{
    td__fetch_sub_acq_rel(&c->users, 1);
    return code;
}

int td_connection_close(td_connection *c)
{
    if (!c)
        return td__pending();
    for (;;) {
        uint32_t users = 0;
        if (td__cas_acq_rel(&c->users, &users, TD__CLOSED)) {
            give_back(c);
            return 0;
        }
        if (users & TD__CLOSED)
            return 0;
        if (users != 0)
            return td__fail(TD_ESTATE, "td_connection_close: another thread is inside a call on the connection");
    }
}

static void free_handle(td_connection *c, const char *when)
{
    if (td_connection_close(c) < 0) {
        fprintf(stderr, "%s: the connection is still in use: another thread is inside a call on it\n", when);
        abort();
    }
    td__lock_acquire(&td__lists);
    *(c->previous ? &c->previous->next : &first) = c->next;
    if (c->next)
        c->next->previous = c->previous;
    td__lock_release(&td__lists);
    td__release(c);
}

void td_connection_free(td_connection *c)
{
    if (c && c->of_call)
        td_connection_close(c);
    else if (c)
        free_handle(c, "td_connection_free");
}

void td__connection_lend(td_connection *c)
{
    c->of_call = true;
}

void td__connection_take_back(td_connection *c)
{
    if (c)
        free_handle(c, "the end of a target");
}

/* --- pipes ------------------------------------------------------------------------------------------------- */

static int descriptor_failed(const char *call, const char *stage, int error)
{
    int code = error == EMFILE || error == ENFILE    ? TD_EDESCRIPTOR
               : error == ENOMEM || error == ENOBUFS ? TD_ENOMEM
                                                     : TD_ESYSTEM;
    return td__fail(code, "%s: %s: %s", call, stage, strerror(error));
}

static int make_pipe(const char *call, td_connection **a, td_connection **b, unsigned rights_a, unsigned rights_b)
{
    if (a)
        *a = NULL;
    if (b)
        *b = NULL;
    if (!a || !b)
        return td__fail(TD_EINVAL, "%s: nowhere to put the connections: NULL", call);
    int fds[2];
    if (td__socket_pair(fds) < 0)
        return descriptor_failed(call, "socketpair", errno);
    td__socket_enlarge(fds[0], BUFFERED);
    td__socket_enlarge(fds[1], BUFFERED);
    /* So that also what does not ask us keeps to the direction. */
    td__socket_shut(fds[0], !(rights_a & TD__READABLE), !(rights_a & TD__WRITABLE));
    *a = td__connection_adopt(fds[0], rights_a);
    *b = *a ? td__connection_adopt(fds[1], rights_b) : NULL;
    if (*b)
        return 0;
    if (*a)
        free_handle(*a, call);
    else
        td__close(fds[1]);
    *a = NULL;
    return td__fail(TD_ENOMEM, "%s: out of memory", call);
}

int td_pipe(td_connection **reader, td_connection **writer)
{
    return make_pipe("td_pipe", reader, writer, TD__READABLE, TD__WRITABLE);
}

int td_pipe_duplex(td_connection **a, td_connection **b)
{
    unsigned both = TD__READABLE | TD__WRITABLE;
    return make_pipe("td_pipe_duplex", a, b, both, both);
}

/* --- sending ----------------------------------------------------------------------------------------------- */

static int check_part(const char *call, const td_value *part)
{
    if (part->size > 0 && !part->data)
        return td__fail(TD_EINVAL, "%s: %zu bytes at NULL", call, part->size);
    if (part->kind < TD_KIND_NONE || part->kind > TD_KIND_BYTES)
        return td__fail(TD_EINVAL, "%s: the kind %d of the value is unknown", call, part->kind);
    return 0;
}

/* Grows with each pointer that is sent. The kernel orders what the sender did with the block before what the receiver
 * does; the language, and what checks programs by its rules, knows of that by this word only. */
static _Atomic uint32_t handed_over;

/* A pointer travels alone: in a frame of its kind, and not among the bytes of another. */
static int check_shared(const char *call, const td_value *value)
{
    void *block = NULL;
    if (value->size == sizeof block && value->data)
        memcpy(&block, value->data, sizeof block);
    if (!td_shared_is(block))
        return td__fail(TD_EINVAL, "%s: %p does not point into the shared heap", call, block);
    td__fetch_add_acq_rel(&handed_over, 1); /* release: the block's bytes, to td_recv_shared */
    return 0;
}

static int send_parts(td_connection *c, const char *call, const td_value *parts, size_t count, int kind, td_time limit)
{
    int64_t deadline = td__deadline(limit);
    int code = enter(c, call, TD__WRITABLE);
    if (code < 0)
        return code;
    if (count > TD_PARTS_MAX || (count > 0 && !parts))
        return leave(c, td__fail(TD_EINVAL, "%s: %zu parts at %p; the limit is %d", call, count, (const void *)parts,
                                 TD_PARTS_MAX));
    td__source source = { parts, count, 0 };
    for (size_t i = 0; i < count && code == 0; i++) {
        code = kind == TD_KIND_SHARED ? check_shared(call, &parts[i]) : check_part(call, &parts[i]);
        if (code == 0 && parts[i].size > TD_FRAME_MAX - source.size)
            code = td__fail(TD_ETOOBIG, "%s: a frame is larger than the limit of %zu bytes", call, TD_FRAME_MAX);
        source.size += parts[i].size;
    }
    return leave(c, code == 0 ? td__send_bytes(c, call, &source, kind, deadline) : code);
}

int td_send(td_connection *c, const void *data, size_t size)
{
    td_value part = td_bytes(data, size);
    return send_parts(c, "td_send", &part, 1, TD_KIND_BYTES, TD_NO_LIMIT);
}

int td_send_for(td_connection *c, const void *data, size_t size, td_time limit)
{
    td_value part = td_bytes(data, size);
    return send_parts(c, "td_send_for", &part, 1, TD_KIND_BYTES, limit);
}

int td_send_parts(td_connection *c, const td_value *parts, size_t count)
{
    return send_parts(c, "td_send_parts", parts, count, TD_KIND_BYTES, TD_NO_LIMIT);
}

int td_send_parts_for(td_connection *c, const td_value *parts, size_t count, td_time limit)
{
    return send_parts(c, "td_send_parts_for", parts, count, TD_KIND_BYTES, limit);
}

int td_send_value_for(td_connection *c, td_value value, td_time limit)
{
    return send_parts(c, "td_send_value", &value, 1, value.kind, limit);
}

int td_send_value(td_connection *c, td_value value)
{
    return td_send_value_for(c, value, TD_NO_LIMIT);
}

static int send_descriptor(td_connection *c, const char *call, int fd, int kind, unsigned detail, td_time limit)
{
    td__header header = { .kind = (uint8_t)kind, .detail = (uint8_t)detail };
    int r = td__packet_send(c, &header, NULL, 0, &fd, 1, td__deadline(limit));
    return r == 0 ? 0 : td__send_failed(call, errno);
}

int td_send_fd_for(td_connection *c, int fd, td_time limit)
{
    int code = enter(c, "td_send_fd", TD__WRITABLE);
    if (code < 0)
        return code;
    if (fd < 0 || !td__is_open(fd))
        return leave(c, td__fail(TD_EINVAL, "td_send_fd: %d is no open descriptor", fd));
    return leave(c, send_descriptor(c, "td_send_fd", fd, TD__FRAME_FD, 0, limit));
}

int td_send_fd(td_connection *c, int fd)
{
    return td_send_fd_for(c, fd, TD_NO_LIMIT);
}

int td_send_connection_for(td_connection *c, td_connection *passed, td_time limit)
{
    int code = enter(c, "td_send_connection", TD__WRITABLE);
    if (code < 0)
        return code;
    code = enter(passed, "td_send_connection, of the one to be passed", 0);
    if (code < 0)
        return leave(c, code);
    code = send_descriptor(c, "td_send_connection", passed->fd, TD__FRAME_CONNECTION, passed->rights, limit);
    return leave(c, leave(passed, code));
}

int td_send_connection(td_connection *c, td_connection *passed)
{
    return td_send_connection_for(c, passed, TD_NO_LIMIT);
}

/* --- receiving --------------------------------------------------------------------------------------------- */

/* What a call wants of the next frame. */
typedef struct want {
    const char *call;
    enum { TO_BLOCK, TO_BUFFER, TO_VALUE, TO_FD, TO_CONNECTION, TO_NOTHING } what;
    int64_t deadline;
    void *to; /* TO_BUFFER, TO_VALUE */
    size_t room;
    int kind; /* TO_VALUE */
    /* results */
    char *block;
    uint64_t size;
    int fd;
    unsigned rights;
} want;

static const char *what_it_is(const td__frame *frame)
{
    return frame->kind == TD__FRAME_FD           ? "a descriptor"
           : frame->kind == TD__FRAME_CONNECTION ? "a connection"
                                                 : "bytes";
}

static const char *who_takes_it(const td__frame *frame)
{
    return frame->kind == TD__FRAME_FD           ? "td_recv_fd takes it"
           : frame->kind == TD__FRAME_CONNECTION ? "td_recv_connection takes it"
                                                 : "td_recv takes them";
}

/* Does the frame suit the call? */
static int check_frame(const td__frame *frame, const want *want)
{
    if (want->what == TO_NOTHING)
        return 0;
    int wanted = want->what == TO_FD           ? TD__FRAME_FD
                 : want->what == TO_CONNECTION ? TD__FRAME_CONNECTION
                                               : TD__FRAME_DATA;
    if (wanted != (frame->kind == TD__FRAME_LARGE ? TD__FRAME_DATA : frame->kind))
        return td__fail(TD_ETYPE, "%s: the next frame is %s: %s", want->call, what_it_is(frame), who_takes_it(frame));
    if (want->what == TO_BUFFER && frame->size > want->room)
        return td__fail(TD_ETOOBIG, "%s: the next frame has %llu bytes, there is room for %zu", want->call,
                        (unsigned long long)frame->size, want->room);
    /* Bytes fit every type, but none makes a pointer of them. */
    bool suits = frame->detail == want->kind || (frame->detail == TD_KIND_BYTES && want->kind != TD_KIND_SHARED);
    td__words next, asked;
    if (want->what == TO_VALUE && (frame->size != want->room || !suits))
        return td__fail(TD_ETYPE, "%s: the next frame is %s, but %s is asked for", want->call,
                        td__value_words(&next, frame->detail, frame->size),
                        td__value_words(&asked, want->kind, want->room));
    return 0;
}

/* The time has passed, and the caller's buffer is not ours to go on in: what has come is kept with the frame. Without
 * memory for that the frame is dropped here, and its sender, who waits, offers it anew. */
static bool save_received(td__frame *frame, const char *buffer)
{
    if (frame->received == 0)
        return true;
    if (!frame->data)
        frame->data = td__alloc_unset(frame->size + 1);
    if (!frame->data)
        return false;
    memcpy(frame->data, buffer, frame->received);
    return true;
}

static int take_large(td_connection *c, td__frame *frame, want *want)
{
    bool own = want->what == TO_BLOCK;
    if (own && !frame->data)
        frame->data = td__alloc_unset(frame->size + 1);
    if (own && !frame->data) {
        td__frame_keep(c, frame);
        return td__fail(TD_ENOMEM, "%s: no memory for a frame of %llu bytes", want->call,
                        (unsigned long long)frame->size);
    }
    if (!own && frame->data) {
        memcpy(want->to, frame->data, frame->received);
        td__release(frame->data);
        frame->data = NULL;
    }
    char *to = own ? frame->data : want->to;
    int code = td__large_receive(frame, want->call, to, want->deadline);
    if ((code == TD_ETIMEOUT || code == TD_ENOMEM) && (own || save_received(frame, to))) {
        td__frame_keep(c, frame);
        return code;
    }
    if (code == 0 && own) {
        want->block = frame->data;
        frame->data = NULL;
    }
    td__frame_drop(c, frame);
    return code;
}

static int take_packet(td_connection *c, td__frame *frame, want *want)
{
    if (want->what == TO_BLOCK) {
        want->block = td__alloc_unset(frame->size + 1);
        if (!want->block) {
            td__frame_keep(c, frame);
            return td__fail(TD_ENOMEM, "%s: no memory for a frame of %llu bytes", want->call,
                            (unsigned long long)frame->size);
        }
        memcpy(want->block, frame->bytes, frame->size);
    }
    want->fd = frame->fds[0];
    want->rights = frame->detail;
    if (want->what == TO_FD || want->what == TO_CONNECTION)
        frame->fds[0] = -1;
    td__frame_drop(c, frame);
    return 0;
}

/* TD__AGAIN: the frame was withdrawn. */
static int receive_one(td_connection *c, want *want)
{
    td__frame *frame;
    int code = td__frame_next(c, want->call, want->to, want->room, want->deadline, &frame);
    if (code < 0)
        return code;
    want->size = frame->size;
    code = check_frame(frame, want);
    if (code < 0) {
        /* The beginning of a packet's bytes is in the caller's buffer. */
        if (frame->kind == TD__FRAME_DATA && want->room > 0)
            memcpy(frame->bytes, want->to, frame->size < want->room ? frame->size : want->room);
        td__frame_keep(c, frame);
        return code;
    }
    if (frame->kind == TD__FRAME_LARGE && want->what == TO_NOTHING) {
        code = td__large_skip(frame);
        td__frame_drop(c, frame);
        return code;
    }
    return frame->kind == TD__FRAME_LARGE ? take_large(c, frame, want) : take_packet(c, frame, want);
}

static int receive(td_connection *c, want *want)
{
    int code = enter(c, want->call, TD__READABLE);
    if (code < 0)
        return code;
    if (want->room > 0 && !want->to)
        return leave(c, td__fail(TD_EINVAL, "%s: room for %zu bytes at NULL", want->call, want->room));
    do
        code = receive_one(c, want);
    while (code == TD__AGAIN);
    return leave(c, code);
}

static int receive_block(td_connection *c, const char *call, void **data, size_t *size, td_time limit)
{
    want want = { .call = call, .what = TO_BLOCK, .deadline = td__deadline(limit) };
    if (data)
        *data = NULL;
    if (size)
        *size = 0;
    if (c && !data)
        return td__fail(TD_EINVAL, "%s: nowhere to put the block: NULL", call);
    int code = receive(c, &want);
    if (code < 0)
        return code;
    want.block[want.size] = 0;
    *data = want.block;
    if (size)
        *size = (size_t)want.size;
    return 0;
}

int td_recv(td_connection *c, void **data, size_t *size)
{
    return receive_block(c, "td_recv", data, size, TD_NO_LIMIT);
}

int td_recv_for(td_connection *c, void **data, size_t *size, td_time limit)
{
    return receive_block(c, "td_recv_for", data, size, limit);
}

static int receive_into(td_connection *c, const char *call, void *buffer, size_t room, size_t *size, td_time limit)
{
    want want = { .call = call, .what = TO_BUFFER, .deadline = td__deadline(limit), .to = buffer, .room = room };
    int code = receive(c, &want);
    if (size)
        *size = code == 0 || code == TD_ETOOBIG ? (size_t)want.size : 0;
    return code;
}

int td_recv_into(td_connection *c, void *buffer, size_t room, size_t *size)
{
    return receive_into(c, "td_recv_into", buffer, room, size, TD_NO_LIMIT);
}

int td_recv_into_for(td_connection *c, void *buffer, size_t room, size_t *size, td_time limit)
{
    return receive_into(c, "td_recv_into_for", buffer, room, size, limit);
}

int td_recv_copy_for(td_connection *c, void *to, size_t size, int kind, td_time limit)
{
    want want = {
        .call = "td_recv_value", .what = TO_VALUE, .to = to, .room = size, .kind = kind, .deadline = td__deadline(limit)
    };
    return receive(c, &want);
}

int td_recv_copy(td_connection *c, void *to, size_t size, int kind)
{
    return td_recv_copy_for(c, to, size, kind, TD_NO_LIMIT);
}

int td_recv_shared_for(td_connection *c, void **block, td_time limit)
{
    void *got = NULL;
    want want = { .call = "td_recv_shared",
                  .what = TO_VALUE,
                  .to = &got,
                  .room = sizeof got,
                  .kind = TD_KIND_SHARED,
                  .deadline = td__deadline(limit) };
    if (c && !block)
        return td__fail(TD_EINVAL, "td_recv_shared: NULL for the pointer");
    int code = receive(c, &want);
    (void)td__load_acquire(&handed_over); /* with its sender, if it is a thread of ours */
    if (code == 0 && !td_shared_is(got))  /* from elsewhere than this program, or from a process gone wild */
        return td__fail(TD_EINVAL, "td_recv_shared: %p, which was sent, is not in the shared heap", got);
    if (code == 0)
        *block = got;
    return code;
}

int td_recv_shared(td_connection *c, void **block)
{
    return td_recv_shared_for(c, block, TD_NO_LIMIT);
}

int td_recv_skip(td_connection *c)
{
    want want = { .call = "td_recv_skip", .what = TO_NOTHING };
    return receive(c, &want);
}

int td_recv_skip_for(td_connection *c, td_time limit)
{
    want want = { .call = "td_recv_skip_for", .what = TO_NOTHING, .deadline = td__deadline(limit) };
    return receive(c, &want);
}

int td_recv_fd_for(td_connection *c, td_time limit)
{
    want want = { .call = "td_recv_fd", .what = TO_FD, .deadline = td__deadline(limit) };
    int code = receive(c, &want);
    return code < 0 ? code : want.fd;
}

int td_recv_fd(td_connection *c)
{
    return td_recv_fd_for(c, TD_NO_LIMIT);
}

td_connection *td_recv_connection_for(td_connection *c, td_time limit)
{
    want want = { .call = "td_recv_connection", .what = TO_CONNECTION, .deadline = td__deadline(limit) };
    if (receive(c, &want) < 0)
        return NULL;
    td_connection *received = td__connection_adopt(want.fd, want.rights);
    if (!received)
        td__fail(TD_ENOMEM, "td_recv_connection: out of memory");
    return received;
}

td_connection *td_recv_connection(td_connection *c)
{
    return td_recv_connection_for(c, TD_NO_LIMIT);
}

int td_poll(td_connection *c, td_time limit)
{
    int64_t deadline = td__deadline(limit);
    int code = enter(c, "td_poll", TD__READABLE);
    if (code < 0)
        return code;
    if (td__connection_has_kept(c))
        return leave(c, 0);
    int ready = td__wait_ready(c->fd, false, deadline);
    if (ready < 0)
        return leave(c, td__fail(TD_ESYSTEM, "td_poll: poll: %s", strerror(errno)));
    return leave(c, ready > 0 ? 0 : td__fail(TD_ETIMEOUT, "td_poll: nothing has come within the time limit"));
}

/* --- what it is -------------------------------------------------------------------------------------------- */

int td_connection_fileno(const td_connection *c)
{
    if (!c)
        return td__pending();
    if (td_connection_closed(c))
        return td__fail(TD_ESTATE, "td_connection_fileno: the connection's handle is closed");
    return c->fd;
}

bool td_connection_readable(const td_connection *c)
{
    return c && c->rights & TD__READABLE;
}

bool td_connection_writable(const td_connection *c)
{
    return c && c->rights & TD__WRITABLE;
}

bool td_connection_closed(const td_connection *c)
{
    return !c || td__load_acquire(&c->users) & TD__CLOSED;
}

/* --- for the layers above ---------------------------------------------------------------------------------- */

int td__connection_fd(const td_connection *c)
{
    return td_connection_closed(c) ? -1 : c->fd;
}

int td__connection_wait_begins(td_connection *c, const char *call)
{
    return enter(c, call, TD__READABLE);
}

void td__connection_wait_ends(td_connection *c)
{
    leave(c, 0);
}

bool td__connection_has_kept(const td_connection *c)
{
    return td__load_relaxed(&c->kept_count) > 0;
}

unsigned td__connection_rights(const td_connection *c)
{
    return c->rights;
}

td_connection *td__connection_copy(const td_connection *given, const char *why)
{
    td_connection *c = (td_connection *)(uintptr_t)given; /* `users` is not part of what const promises */
    if (enter(c, why, 0) < 0)
        return NULL;
    int fd = td__dup_from(c->fd, 3), error = errno;
    leave(c, 0);
    if (fd < 0) {
        descriptor_failed(why, "duplicate a connection", error);
        return NULL;
    }
    td_connection *copy = td__connection_adopt(fd, c->rights);
    if (!copy)
        td__fail(TD_ENOMEM, "%s: out of memory for a connection", why);
    return copy;
}

/* --- forks ------------------------------------------------------------------------------------------------- */

void td__connections_lock(void)
{
    td__lock_acquire(&td__lists);
}

static void unlock_connections(void)
{
    td__lock_release(&td__lists);
}

/* This thread is the only one: no call is inside any handle, and a ring is the parent's to write to. */
void td__connections_forked(void)
{
    td__sendings_forked();
    for (td_connection *c = first; c; c = c->next) {
        td__store_relaxed(&c->users, td__load_relaxed(&c->users) & TD__CLOSED);
        free_frames(&c->kept);
        free_frames(&c->busy);
        td__store_relaxed(&c->kept_count, 0);
        td__large_free(td__exchange_acq_rel(&c->ring, NULL));
    }
    td__lock_release(&td__lists);
}

static void before_fork(bool spawns)
{
    if (!spawns)
        td__connections_lock();
}

static void in_parent(bool spawns)
{
    if (!spawns)
        unlock_connections();
}

/* In a spawner's child the worker does it, when it is one. */
static void in_child(bool spawns)
{
    if (!spawns)
        td__connections_forked();
}

__attribute__((constructor)) static void register_forks(void)
{
    static const td__forks_handlers handlers = { .before = before_fork, .in_parent = in_parent, .in_child = in_child };
    td__forks_register(TD__FORKS_CONNECTION, &handlers);
}

void td__connections_keep_only(td_connection *const *list, size_t count)
{
    for (td_connection *c = first; c; c = c->next) {
        bool kept = td_connection_closed(c);
        for (size_t i = 0; i < count; i++)
            kept = kept || list[i] == c;
        if (kept)
            continue;
        td__store_relaxed(&c->starters, true);
        td_connection_close(c);
    }
}
