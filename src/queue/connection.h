/* SPDX-License-Identifier: MIT */
/*
 * Connections, as the files of this layer and those above see them: connection.c has the handles and the public calls,
 * frame.c packets and kept frames, large.c frames that do not fit into a packet. See docs/design/connection.md.
 */
#ifndef TD_QUEUE_CONNECTION_H
#define TD_QUEUE_CONNECTION_H

#include <tandem/connection.h>
#include "sync/lock.h"

enum { TD__READABLE = 1, TD__WRITABLE = 2 };

/* The largest payload that goes into one packet. */
#define TD__PACKET_MAX ((size_t)256 * 1024)

enum { TD__FRAME_DATA = 1, TD__FRAME_LARGE = 2, TD__FRAME_FD = 3, TD__FRAME_CONNECTION = 4 };

/* A packet's beginning. Everything in it comes from another process. */
typedef struct td__header {
    uint32_t magic;
    uint8_t kind;
    uint8_t detail; /* DATA, LARGE: the td_kind of the value; CONNECTION: TD__READABLE, TD__WRITABLE */
    uint16_t zero;
    uint64_t size; /* DATA, LARGE: bytes of the frame; else 0 */
} td__header;

/* Behind the header of LARGE. */
typedef struct td__geometry {
    uint32_t slot_size, slots;
} td__geometry;

/*
 * A frame that has been taken off the socket, and the room to receive it in: whoever receives has one of these before
 * he does, so that no frame is ever lost for want of memory. In one of a connection's lists, or its spare, or in the
 * hands of one call.
 */
typedef struct td__frame {
    struct td__frame *previous, *next; /* under td__lists */
    uint8_t kind, detail;
    uint64_t size;
    int fds[2];         /* LARGE: the ring, the channel; FD, CONNECTION: the descriptor, -1. Closed with the frame */
    td__geometry ring;  /* LARGE, checked */
    uint64_t announced; /* LARGE: slots that the sender has said to be full */
    uint64_t taken;     /* LARGE: those copied out */
    uint64_t received;  /* LARGE: bytes copied out, */
    char *data;         /* to here, if an earlier call did it */
    char bytes[TD__PACKET_MAX]; /* DATA */
} td__frame;

/* The memory that a sender moves its large frames through. Of one call at a time. */
typedef struct td__large {
    int fd;
    char *at;
    uint64_t reserved; /* bytes of pages that are there */
} td__large;

/* A large frame on its way: its channel, known to forks. On the sender's stack. */
typedef struct td__sending {
    struct td__sending *previous, *next; /* under td__lists */
    int channel[2];                      /* ours, the receiver's; -1 when closed */
} td__sending;

struct td_connection {
    int fd;          /* fixed until closed */
    unsigned rights; /* fixed: TD__READABLE, TD__WRITABLE */
    bool of_call;    /* fixed: belongs to a worker's call, which frees it */
    /* Calls that are inside, or TD__CLOSED (and those that are about to find that out). An add to enter, acquire: after
     * a close, in order; a CAS from 0 to close, acquire: sees what the calls did, who leave by a release. */
    _Atomic uint32_t users;
    _Atomic bool starters;          /* closed because it is not this worker's */
    _Atomic uint32_t kept_count;    /* of `kept`: a hint, changed under td__lists */
    td__frame *kept, *busy;         /* under td__lists: to be received first, and in the hands of calls */
    _Atomic(td__frame *) spare;     /* owned by who takes it out; acquire and release: its contents */
    _Atomic(td__large *) ring;      /* the same */
    td_connection *previous, *next; /* under td__lists */
};
#define TD__CLOSED 0x80000000u

/* --- for the layers above ---------------------------------------------------------------------------------- */

/* The descriptor, which stays this handle's; -1 if it is closed. */
int td__connection_fd(const td_connection *c);
/* A wait for what is to be received, as a call of that name: 0, and it will not be closed before the end; or a code. */
int td__connection_wait_begins(td_connection *c, const char *call);
void td__connection_wait_ends(td_connection *c);
/* Is there a frame that the descriptor does not show? */
bool td__connection_has_kept(const td_connection *c);
unsigned td__connection_rights(const td_connection *c);
/* A handle of the same end, with a descriptor of its own. NULL: the thread's error is set; `why` begins its sentence.
 */
td_connection *td__connection_copy(const td_connection *c, const char *why);
/* A handle for a descriptor, which it takes over, also on failure (NULL, errno). */
td_connection *td__connection_adopt(int fd, unsigned rights);
/* Marks it as belonging to a call. */
void td__connection_lend(td_connection *c);
/* The end of the call: closes and frees. */
void td__connection_take_back(td_connection *c);

void td__connections_lock(void);   /* before td__connections_forked, by a worker that has just been forked */
void td__connections_forked(void); /* in the child: what was half received stays with the parent; unlocks */
/* In a worker of the fork method: closes all handles of this process but these. */
void td__connections_keep_only(td_connection *const *list, size_t count);

/* --- connection.c, for frame.c and large.c ------------------------------------------------------------------ */

extern td__lock td__lists; /* the list of handles, and the lists of frames of each */

/* --- frame.c ----------------------------------------------------------------------------------------------- */

/* What is to be sent: parts one behind the other. */
typedef struct td__source {
    const td_value *parts;
    size_t count;
    size_t size; /* of all */
} td__source;

/* Internal results beside the codes. */
enum { TD__AGAIN = 1 };

/* Sends one packet. 0, or -1 with errno; ETIMEDOUT at the deadline. */
int td__packet_send(const td_connection *c, const td__header *header, const struct iovec *parts, size_t count,
                    const int *fds, size_t fd_count, int64_t deadline);
/* The code and sentence for an errno of the above. */
int td__send_failed(const char *call, int error);
int td__send_bytes(td_connection *c, const char *call, const td__source *source, int kind, int64_t deadline);

/*
 * The next frame, kept or from the socket. If it is bytes of a packet, as many as `room` of them are in `to`, the rest
 * in frame->bytes, each at its place. The frame is the caller's, to be kept or dropped. 0 or a code.
 */
int td__frame_next(td_connection *c, const char *call, void *to, size_t room, int64_t deadline, td__frame **frame);
void td__frame_keep(td_connection *c, td__frame *frame); /* it is the next one again */
void td__frame_drop(td_connection *c, td__frame *frame);
void td__frame_free(td__frame *frame); /* of no list */

/* --- large.c ----------------------------------------------------------------------------------------------- */

int td__large_send(td_connection *c, const char *call, const td__source *source, int kind, int64_t deadline);

/* Goes on with a large frame, into `to`, which has what was received so far. 0: it is all there, and delivered.
 * TD__AGAIN: withdrawn by its sender, as if it had never been. TD_ETIMEOUT: can go on. Others: it is lost. */
int td__large_receive(td__frame *frame, const char *call, char *to, int64_t deadline);
/* Tells the sender that the frame has arrived, though it is dropped. The same results. */
int td__large_skip(td__frame *frame);
void td__large_free(td__large *ring);
void td__sendings_forked(void); /* in a forked child, with td__lists: closes its copies of the senders' channels */

/* Cut out of the parts: `size` bytes from `offset`. */
void td__source_copy(const td__source *source, size_t offset, char *to, size_t size);

#endif
