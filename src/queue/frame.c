/* SPDX-License-Identifier: MIT */
/*
 * Packets, and frames that were taken off the socket.
 *
 * A frame in the hands of a call is in its connection's list `busy`, so that a fork can close the child's copies of its
 * descriptors; only the call that has it touches what is in it. The lists are under td__lists.
 */
#include "queue/connection.h"

#include <errno.h>

#define MAGIC 0x31434454u /* "TDC1" */

/* --- sending ----------------------------------------------------------------------------------------------- */

int td__send_failed(const char *call, int error)
{
    switch (error) {
    case ETIMEDOUT:
        return td__fail(TD_ETIMEOUT, "%s: the other side has not taken the frame within the time limit", call);
    case EPIPE:
    case ECONNRESET:
    case ENOTCONN:
        return td__fail(TD_ECLOSED, "%s: the other side of the connection is closed", call);
    case ENOMEM:
    case ENOBUFS:
    case ENOSPC:
    case EFBIG: /* RLIMIT_FSIZE is below what a ring needs */
        return td__fail(TD_ENOMEM, "%s: no memory to send the frame: %s", call, strerror(error));
    case EMFILE:
    case ENFILE:
    case ETOOMANYREFS:
        return td__fail(TD_EDESCRIPTOR, "%s: %s", call, strerror(error));
    default:
        return td__fail(TD_ESYSTEM, "%s: cannot send: %s", call, strerror(error));
    }
}

int td__packet_send(const td_connection *c, const td__header *header, const struct iovec *parts, size_t count,
                    const int *fds, size_t fd_count, int64_t deadline)
{
    struct iovec vector[1 + TD_PARTS_MAX];
    td__header whole = *header;
    whole.magic = MAGIC;
    whole.zero = 0;
    vector[0] = (struct iovec){ &whole, sizeof whole };
    for (size_t i = 0; i < count; i++)
        vector[1 + i] = parts[i];
    for (;;) {
        td__step_point();
        if (td__send_parts(c->fd, vector, 1 + count, fds, fd_count, deadline == 0) == 0) {
            td__step_point();
            return 0;
        }
        if (errno != EAGAIN) /* EAGAIN without a deadline: the user has made the descriptor non-blocking */
            return -1;
        int ready = td__wait_ready(c->fd, true, deadline);
        if (ready == 0)
            errno = ETIMEDOUT;
        if (ready <= 0)
            return -1;
    }
}

int td__send_bytes(td_connection *c, const char *call, const td__source *source, int kind, int64_t deadline)
{
    if (source->size > TD_FRAME_MAX)
        return td__fail(TD_ETOOBIG, "%s: a frame of %zu bytes is larger than the limit of %zu", call, source->size,
                        TD_FRAME_MAX);
    if (source->size > TD__PACKET_MAX)
        return td__large_send(c, call, source, kind, deadline);
    struct iovec parts[TD_PARTS_MAX];
    for (size_t i = 0; i < source->count; i++)
        parts[i] = (struct iovec){ (void *)(uintptr_t)source->parts[i].data, source->parts[i].size };
    td__header header = { .kind = TD__FRAME_DATA, .detail = (uint8_t)kind, .size = source->size };
    if (td__packet_send(c, &header, parts, source->count, NULL, 0, deadline) == 0)
        return 0;
    /* A packet needs memory of the kernel in one piece, or more than the socket may hold; the other way does not. */
    if ((errno == EMSGSIZE || errno == ENOBUFS || errno == ENOMEM) && source->size >= td__page_size())
        return td__large_send(c, call, source, kind, deadline);
    return td__send_failed(call, errno);
}

void td__source_copy(const td__source *source, size_t offset, char *to, size_t size)
{
    for (size_t i = 0; i < source->count && size > 0; i++) {
        const td_value *part = &source->parts[i];
        if (offset >= part->size) {
            offset -= part->size;
            continue;
        }
        size_t n = part->size - offset < size ? part->size - offset : size;
        memcpy(to, (const char *)part->data + offset, n);
        to += n;
        size -= n;
        offset = 0;
    }
}

/* --- frames ------------------------------------------------------------------------------------------------ */

static void put_first(td__frame **list, td__frame *frame)
{
    frame->previous = NULL;
    frame->next = *list;
    if (*list)
        (*list)->previous = frame;
    *list = frame;
}

static void take_out(td__frame **list, td__frame *frame)
{
    *(frame->previous ? &frame->previous->next : list) = frame->next;
    if (frame->next)
        frame->next->previous = frame->previous;
}

void td__frame_free(td__frame *frame)
{
    td__close(frame->fds[0]);
    td__close(frame->fds[1]);
    td__release(frame->data);
    td__release(frame);
}

/* The room for the next packet, in `busy`. Its bytes are not set: they are written before they are read. */
static td__frame *take_room(td_connection *c)
{
    td__frame *frame = td__exchange_acq_rel(&c->spare, NULL);
    if (!frame)
        frame = td__alloc_unset(sizeof *frame);
    if (!frame)
        return NULL;
    memset(frame, 0, offsetof(td__frame, bytes));
    frame->fds[0] = frame->fds[1] = -1;
    return frame;
}

static void give_room(td_connection *c, td__frame *frame)
{
    td__release(td__exchange_acq_rel(&c->spare, frame));
}

static void make_busy(td_connection *c, td__frame *frame)
{
    td__lock_acquire(&td__lists);
    put_first(&c->busy, frame);
    td__lock_release(&td__lists);
}

/* Does it hold descriptors, so that a fork has to know of it? Small ones are in no list, which saves the lock. */
static bool is_listed(const td__frame *frame)
{
    return frame->kind != TD__FRAME_DATA;
}

void td__frame_keep(td_connection *c, td__frame *frame)
{
    td__lock_acquire(&td__lists);
    if (is_listed(frame))
        take_out(&c->busy, frame);
    put_first(&c->kept, frame);
    td__fetch_add_relaxed(&c->kept_count, 1);
    td__lock_release(&td__lists);
}

void td__frame_drop(td_connection *c, td__frame *frame)
{
    if (!is_listed(frame)) {
        give_room(c, frame);
        return;
    }
    td__lock_acquire(&td__lists);
    take_out(&c->busy, frame);
    td__lock_release(&td__lists);
    td__close(frame->fds[0]);
    td__close(frame->fds[1]);
    td__release(frame->data);
    give_room(c, frame);
}

static td__frame *take_kept(td_connection *c)
{
    /* Relaxed, for a hint: whoever knows of a kept frame was told by the call that kept it. */
    if (td__load_relaxed(&c->kept_count) == 0)
        return NULL;
    td__lock_acquire(&td__lists);
    td__frame *frame = c->kept;
    if (frame) {
        take_out(&c->kept, frame);
        td__fetch_sub_acq_rel(&c->kept_count, 1);
        if (is_listed(frame))
            put_first(&c->busy, frame);
    }
    td__lock_release(&td__lists);
    return frame;
}

/* --- receiving --------------------------------------------------------------------------------------------- */

static int receive_failed(const char *call, int error)
{
    if (error == ETIMEDOUT)
        return td__fail(TD_ETIMEOUT, "%s: nothing has come within the time limit", call);
    return td__fail(error == ENOMEM || error == ENOBUFS ? TD_ENOMEM : TD_ESYSTEM, "%s: cannot receive: %s", call,
                    strerror(error));
}

static ssize_t receive_packet(const td_connection *c, const struct iovec *parts, size_t count, int *fds,
                              size_t *fd_count, int64_t deadline, bool *lost)
{
    for (;;) {
        size_t room = *fd_count;
        ssize_t n = td__receive_parts(c->fd, parts, count, fds, &room, deadline == 0, lost);
        td__step_point(); /* killed here, it takes a packet along */
        if (n >= 0) {
            *fd_count = room;
            return n;
        }
        if (errno == ECONNRESET) /* once, before what is still to be read */
            continue;
        if (errno != EAGAIN)
            return -1;
        int ready = td__wait_ready(c->fd, false, deadline);
        if (ready == 0)
            errno = ETIMEDOUT;
        if (ready <= 0)
            return -1;
    }
}

static bool geometry_is_good(const td__geometry *ring, int fd)
{
    uint64_t size;
    return ring->slot_size >= 4096 && ring->slots > 0 && ring->slots <= 64 && ring->slot_size <= (1u << 24) &&
           td__is_memory_file(fd, &size) && size >= (uint64_t)ring->slot_size * ring->slots;
}

/* Is it a packet of ours? `n`: its bytes. */
static bool packet_is_good(const td__header *header, size_t n, size_t fd_count, td__frame *frame)
{
    if (n < sizeof *header || header->magic != MAGIC || header->zero != 0)
        return false;
    size_t payload = n - sizeof *header;
    switch (header->kind) {
    case TD__FRAME_DATA:
        return fd_count == 0 && header->size == payload && payload <= TD__PACKET_MAX &&
               (header->detail <= TD_KIND_BYTES || (header->detail == TD_KIND_SHARED && payload == sizeof(void *)));
    case TD__FRAME_LARGE:
        return fd_count == 2 && payload == sizeof frame->ring && header->size > 0 && header->size <= TD_FRAME_MAX &&
               header->detail <= TD_KIND_BYTES && geometry_is_good(&frame->ring, frame->fds[0]);
    case TD__FRAME_FD:
        return fd_count == 1 && payload == 0 && header->size == 0 && header->detail == 0;
    case TD__FRAME_CONNECTION:
        return fd_count == 1 && payload == 0 && header->size == 0 && header->detail > 0 &&
               header->detail <= (TD__READABLE | TD__WRITABLE) && td__is_packet_socket(frame->fds[0]);
    default:
        return false;
    }
}

static int refuse(td_connection *c, td__frame *frame, int code, const char *call, const char *why)
{
    td__close(frame->fds[0]);
    td__close(frame->fds[1]);
    give_room(c, frame);
    return td__fail(code, "%s: %s", call, why);
}

int td__frame_next(td_connection *c, const char *call, void *to, size_t room, int64_t deadline, td__frame **result)
{
    td__frame *frame = take_kept(c);
    if (frame) {
        size_t n = frame->size < room ? frame->size : room;
        if (frame->kind == TD__FRAME_DATA && n > 0)
            memcpy(to, frame->bytes, n);
        *result = frame;
        return 0;
    }
    frame = take_room(c);
    if (!frame)
        return td__fail(TD_ENOMEM, "%s: out of memory", call);
    if (room > TD__PACKET_MAX)
        room = TD__PACKET_MAX;
    td__header header;
    struct iovec parts[3] = { { &header, sizeof header },
                              { to, room },
                              { frame->bytes + room, TD__PACKET_MAX - room } };
    int fds[3];
    size_t fd_count = TD__COUNT(fds);
    bool lost;
    ssize_t n = receive_packet(c, parts, TD__COUNT(parts), fds, &fd_count, deadline, &lost);
    if (n <= 0) {
        int error = errno;
        give_room(c, frame);
        return n == 0 ? td__fail(TD_ECLOSED, "%s: the other side of the connection is closed", call)
                      : receive_failed(call, error);
    }
    for (size_t i = 0; i < fd_count && i < 2; i++)
        frame->fds[i] = fds[i];
    if (fd_count > 2)
        td__close(fds[2]);
    if (lost)
        return refuse(c, frame, TD_EDESCRIPTOR, call, "no descriptors are left for those that came with the frame");
    if ((size_t)n >= sizeof header && header.kind == TD__FRAME_LARGE) {
        /* Small as it is, it went to where the bytes of a packet go. */
        size_t first = room < sizeof frame->ring ? room : sizeof frame->ring;
        if (first > 0)
            memcpy(frame->bytes, to, first);
        memcpy(&frame->ring, frame->bytes, sizeof frame->ring);
    }
    if (!packet_is_good(&header, (size_t)n, fd_count, frame))
        return refuse(c, frame, TD_ETORN, call, "what came is no frame of this library, and was dropped");
    frame->kind = header.kind;
    frame->detail = header.detail;
    frame->size = header.size;
    if (is_listed(frame))
        make_busy(c, frame);
    *result = frame;
    return 0;
}
