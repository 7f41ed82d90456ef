/* SPDX-License-Identifier: MIT */
/*
 * Frames that do not fit into a packet: through a ring of shared memory that sender and receiver copy into and out of
 * at the same time, and a channel, a socket pair, by which they tell each other how far they are, and learn of each
 * other's death. Both belong to one frame.
 *
 * Sender to receiver: FULL for each slot that it has filled, WITHDRAWN. Receiver to sender: EMPTY for each slot that it
 * has copied out, DELIVERED in place of the last one (or of all). The sender never has more than `slots` out, so
 * neither direction of the channel ever holds more bytes than any socket can: td__stream_send need not wait.
 *
 * A frame is delivered if and only if the sender has read DELIVERED, unless one of the two dies. The kernel orders the
 * receiver's DELIVERED against the sender's shutdown.
 */
#include "queue/connection.h"

#include <errno.h>

enum { FULL = 'c', WITHDRAWN = 'W', EMPTY = 'a', DELIVERED = 'D' };
static const char full = FULL, withdrawn = WITHDRAWN, delivered = DELIVERED;

#define SLOTS       8
#define SLOT_MAX    ((uint32_t)256 * 1024) /* some of them stay in the second-level cache */
#define SLOT_LEAST  ((uint32_t)32 * 1024)
#define RING_BYTES  ((uint64_t)SLOTS * SLOT_MAX)
#define MAPPED_FROM (4 * RING_BYTES) /* below it the receiver reads the ring as a file: a mapping costs more */

/* --- the ring ---------------------------------------------------------------------------------------------- */

void td__large_free(td__large *ring)
{
    if (!ring)
        return;
    td__unmap(ring->at, RING_BYTES);
    td__close(ring->fd);
    td__release(ring);
}

static td__large *make_ring(void)
{
    td__large *ring = td__alloc(sizeof *ring);
    if (!ring)
        return NULL;
    ring->fd = td__memory_file("tandem-frame", RING_BYTES);
    ring->at = ring->fd >= 0 ? td__map_shared(ring->fd, 0, RING_BYTES) : NULL;
    if (ring->at)
        return ring;
    int error = errno;
    td__large_free(ring);
    errno = error;
    return NULL;
}

/* This handle's ring, or one more while another call has that, with pages for `size` bytes. NULL with errno. */
static td__large *take_ring(td_connection *c, uint64_t size)
{
    td__large *ring = td__exchange_acq_rel(&c->ring, NULL);
    if (!ring)
        ring = make_ring();
    if (!ring || ring->reserved >= size)
        return ring;
    if (td__reserve(ring->fd, 0, size) == 0) {
        ring->reserved = size;
        return ring;
    }
    int error = errno;
    td__large_free(ring);
    errno = error;
    return NULL;
}

static td__geometry geometry_for(uint64_t size)
{
    /* An eighth, so that both sides work at the same time also on frames that fit as a whole. */
    uint64_t slot = (size / SLOTS + 4095) & ~(uint64_t)4095;
    slot = slot < SLOT_LEAST ? SLOT_LEAST : slot > SLOT_MAX ? SLOT_MAX : slot;
    return (td__geometry){ .slot_size = (uint32_t)slot, .slots = SLOTS };
}

/* A word of ours, or several. 0, or -1: refused, the other side listens no more. */
static int say(int channel, const char *words, size_t count)
{
    td__step_point(); /* whoever is killed between two words leaves the other side with what they say so far */
    int r = td__stream_send(channel, words, count);
    td__step_point();
    return r;
}

/* What the other side has said. The number of bytes; 0 at the end of the channel; -1 with errno, ETIMEDOUT. */
static ssize_t listen_to(int channel, char *said, size_t size, bool wait, int64_t deadline)
{
    for (;;) {
        ssize_t n = td__stream_receive(channel, said, size, wait && deadline == 0);
        td__step_point();
        if (n < 0 && errno == ECONNRESET) /* it went without reading all that we had said */
            return 0;
        if (n >= 0 || errno != EAGAIN || !wait)
            return n;
        int ready = td__wait_ready(channel, false, deadline);
        if (ready == 0)
            errno = ETIMEDOUT;
        if (ready <= 0)
            return -1;
    }
}

/* --- sending ----------------------------------------------------------------------------------------------- */

typedef struct transfer {
    const td__source *source;
    td__large *ring;
    td__geometry geometry;
    uint64_t slots, filled, emptied;
    td__sending sending;
} transfer;

static td__sending *sendings; /* all of this process, under td__lists */

/* Under td__lists from before the descriptors are there: a fork meets either none or knows of both. */
static int open_channel(td__sending *sending)
{
    td__lock_acquire(&td__lists);
    int r = td__stream_pair(sending->channel);
    if (r == 0) {
        sending->previous = NULL;
        sending->next = sendings;
        if (sendings)
            sendings->previous = sending;
        sendings = sending;
    }
    td__lock_release(&td__lists);
    td__step_point();
    return r;
}

static void close_channel(td__sending *sending)
{
    td__lock_acquire(&td__lists);
    *(sending->previous ? &sending->previous->next : &sendings) = sending->next;
    if (sending->next)
        sending->next->previous = sending->previous;
    td__lock_release(&td__lists);
    td__close(sending->channel[0]);
    td__close(sending->channel[1]);
}

/* In a forked child, with the lock: those who were sending are in the parent. */
void td__sendings_forked(void)
{
    for (td__sending *at = sendings; at; at = at->next) {
        td__close(at->channel[0]);
        td__close(at->channel[1]);
    }
    sendings = NULL;
}

/* Offers the frame to whoever receives next. */
static int announce(td_connection *c, transfer *transfer, int kind, int64_t deadline)
{
    td__header header = { .kind = TD__FRAME_LARGE, .detail = (uint8_t)kind, .size = transfer->source->size };
    struct iovec part = { &transfer->geometry, sizeof transfer->geometry };
    int fds[2] = { transfer->ring->fd, transfer->sending.channel[1] };
    int r = td__packet_send(c, &header, &part, 1, fds, 2, deadline);
    int error = errno;
    /* Ours would hide that the receiver has gone. */
    td__lock_acquire(&td__lists);
    td__close(transfer->sending.channel[1]);
    transfer->sending.channel[1] = -1;
    td__lock_release(&td__lists);
    td__step_point();
    errno = error;
    return r;
}

static void fill(transfer *transfer)
{
    const td__geometry *geometry = &transfer->geometry;
    while (transfer->filled < transfer->slots && transfer->filled - transfer->emptied < geometry->slots) {
        uint64_t offset = transfer->filled * geometry->slot_size, left = transfer->source->size - offset;
        char *to = transfer->ring->at + transfer->filled % geometry->slots * geometry->slot_size;
        td__source_copy(transfer->source, offset, to, left < geometry->slot_size ? left : geometry->slot_size);
        transfer->filled++;
        if (say(transfer->sending.channel[0], &full, 1) < 0)
            return; /* it has gone, and perhaps with a last word */
    }
}

enum { GOES_ON, IS_DELIVERED, IS_OVER, IS_WRONG };

static int understand(transfer *transfer, const char *said, ssize_t n)
{
    for (ssize_t i = 0; i < n; i++) {
        if (said[i] == DELIVERED)
            return IS_DELIVERED;
        if (said[i] != EMPTY || transfer->emptied >= transfer->filled)
            return IS_WRONG;
        transfer->emptied++;
    }
    return n == 0 ? IS_OVER : GOES_ON;
}

/* The time has passed. From the shutdown on, the receiver's word is refused, so it delivers no more; what it said
 * before is still to be read. */
static int withdraw(transfer *transfer)
{
    int channel = transfer->sending.channel[0], how = GOES_ON;
    say(channel, &withdrawn, 1);
    td__socket_shut(channel, true, true);
    td__step_point();
    while (how == GOES_ON) {
        char said[64];
        ssize_t n = listen_to(channel, said, sizeof said, false, 0);
        how = n < 0 ? IS_OVER : understand(transfer, said, n);
    }
    return how == IS_DELIVERED ? 0 : -1;
}

/* 0 delivered; TD__AGAIN: the receiver died, or handed it back; -1 with errno. */
static int offer(td_connection *c, transfer *transfer, int kind, int64_t deadline)
{
    transfer->filled = transfer->emptied = 0;
    if (open_channel(&transfer->sending) < 0)
        return -1;
    int how = GOES_ON, error = 0;
    if (announce(c, transfer, kind, deadline) < 0) {
        error = errno;
        how = IS_OVER;
    }
    while (how == GOES_ON) {
        fill(transfer);
        char said[64];
        ssize_t n = listen_to(transfer->sending.channel[0], said, sizeof said, true, deadline);
        if (n >= 0) {
            how = understand(transfer, said, n);
        } else {
            error = errno;
            how = withdraw(transfer) == 0 ? IS_DELIVERED : IS_OVER;
        }
    }
    close_channel(&transfer->sending);
    td__step_point();
    if (how == IS_DELIVERED)
        return 0;
    errno = how == IS_WRONG ? EBADMSG : error;
    return how == IS_OVER && error == 0 ? TD__AGAIN : -1;
}

int td__large_send(td_connection *c, const char *call, const td__source *source, int kind, int64_t deadline)
{
    transfer transfer = { .source = source, .geometry = geometry_for(source->size) };
    uint64_t slot = transfer.geometry.slot_size, used = slot * SLOTS;
    transfer.slots = (source->size + slot - 1) / slot;
    if (transfer.slots < SLOTS)
        used = transfer.slots * slot;
    transfer.ring = take_ring(c, used);
    if (!transfer.ring)
        return td__send_failed(call, errno);
    int code = offer(c, &transfer, kind, deadline);
    while (code == TD__AGAIN && (!deadline || td__now() < deadline))
        code = offer(c, &transfer, kind, deadline);
    int error = code == TD__AGAIN ? ETIMEDOUT : errno;
    /* Also after a failure: whoever still reads in it finds that the frame is not to be delivered. */
    td__large_free(td__exchange_acq_rel(&c->ring, transfer.ring));
    if (code == 0)
        return 0;
    if (error == EBADMSG)
        return td__fail(TD_ETORN, "%s: the other side does not receive as this library does", call);
    return td__send_failed(call, error);
}

/* --- receiving --------------------------------------------------------------------------------------------- */

static uint64_t slots_of(const td__frame *frame)
{
    return (frame->size + frame->ring.slot_size - 1) / frame->ring.slot_size;
}

/* What the sender has said: 0 something new, TD__AGAIN withdrawn, 1 + TD__AGAIN the end, or -1 with errno. */
enum { THE_END = TD__AGAIN + 1 };
static int hear(td__frame *frame, bool wait, int64_t deadline)
{
    char said[64];
    ssize_t n = listen_to(frame->fds[1], said, sizeof said, wait, deadline);
    if (n < 0)
        return -1;
    uint64_t slots = slots_of(frame);
    for (ssize_t i = 0; i < n; i++) {
        if (said[i] == WITHDRAWN)
            return TD__AGAIN;
        if (said[i] != FULL || frame->announced - frame->taken >= frame->ring.slots || frame->announced >= slots) {
            errno = EBADMSG;
            return -1;
        }
        frame->announced++;
    }
    return n == 0 ? THE_END : 0;
}

/* All of it has been copied. Refused, our word came too late: either the sender has withdrawn the frame, or it died,
 * and what we have is whole. */
static int deliver(td__frame *frame)
{
    if (say(frame->fds[1], &delivered, 1) == 0)
        return 0;
    int how;
    while ((how = hear(frame, false, 0)) == 0)
        ;
    return how == TD__AGAIN ? TD__AGAIN : 0;
}

/* `ring` NULL: it is not mapped. */
static bool copy_slot(td__frame *frame, const char *ring, char *to)
{
    uint64_t left = frame->size - frame->received, slot = frame->ring.slot_size;
    uint64_t n = left < slot ? left : slot, at = frame->taken % frame->ring.slots * slot;
    if (ring)
        memcpy(to + frame->received, ring + at, n);
    else if (td__read_from(frame->fds[0], to + frame->received, n, at) != (ssize_t)n)
        return false;
    td__step_point();
    frame->received += n;
    frame->taken++;
    return true;
}

/*
 * Tells the sender of empty slots, if it has a use for them, half a ring at a time: each word may wake it up. At most
 * half of the slots are untold at any moment, so it never waits for those that we keep to ourselves.
 */
static void tell_of_empty(const td__frame *frame)
{
    char word[32];
    uint64_t half = frame->ring.slots > 1 ? frame->ring.slots / 2 : 1;
    if (frame->taken % half != 0 || frame->taken - half + frame->ring.slots >= slots_of(frame))
        return;
    memset(word, EMPTY, half);
    say(frame->fds[1], word, half); /* refused: what the sender said last is still to be heard */
}

static int copy_all(td__frame *frame, const char *ring, char *to, int64_t deadline)
{
    while (frame->received < frame->size) {
        int how = frame->announced == frame->taken ? hear(frame, true, deadline) : 0;
        if (how != 0)
            return how;
        if (frame->announced == frame->taken)
            continue;
        if (!copy_slot(frame, ring, to)) {
            errno = EBADMSG;
            return -1;
        }
        tell_of_empty(frame);
    }
    return deliver(frame);
}

int td__large_receive(td__frame *frame, const char *call, char *to, int64_t deadline)
{
    size_t size = (size_t)frame->ring.slot_size * frame->ring.slots;
    bool mapped = frame->size > MAPPED_FROM;
    char *ring = mapped ? td__map_reading(frame->fds[0], size) : NULL;
    if (mapped && !ring)
        return td__fail(TD_ENOMEM, "%s: no memory to receive a frame of %llu bytes: mmap: %s", call,
                        (unsigned long long)frame->size, strerror(errno));
    int how = copy_all(frame, ring, to, deadline), error = errno;
    td__unmap(ring, size);
    if (how == 0 || how == TD__AGAIN)
        return how;
    if (how == THE_END)
        return td__fail(TD_ETORN, "%s: the sender of a frame of %llu bytes ended after %llu of them", call,
                        (unsigned long long)frame->size, (unsigned long long)frame->received);
    if (error == ETIMEDOUT)
        return td__fail(TD_ETIMEOUT, "%s: %llu of a frame's %llu bytes have come within the time limit", call,
                        (unsigned long long)frame->received, (unsigned long long)frame->size);
    return td__fail(TD_ETORN, "%s: a frame of %llu bytes came out of step and was dropped", call,
                    (unsigned long long)frame->size);
}

int td__large_skip(td__frame *frame)
{
    return deliver(frame);
}
