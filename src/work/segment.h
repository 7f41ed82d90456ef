/* SPDX-License-Identifier: MIT */
/*
 * The memory that a program, its spawner and its worker processes share: a header and a slot for each process, in one
 * sealed memory file without a name.
 *
 *   header | slot 0 | slot 1 | ... || window 0 | window 1 | ...
 *
 * Header and slots are mapped everywhere. A window is the (sparse) place for an argument or a result that does not fit
 * into its slot; it is mapped only while it is used, its pages are reserved before they are touched, so that running
 * out of memory is an error, and given back when the slot becomes free.
 *
 * A slot's life, in its `word` (one atomic, changed by CAS, with a generation that grows with each use):
 *   FREE -> BOOTING by the spawner -> SPARE by the spare itself, waiting for work -> TAKEN by a starter
 *           BOOTING -> TAKEN by a starter that finds none in SPARE: its request waits for the spare
 *   FREE -> TAKEN by a starter that found no spare
 *   TAKEN -> FREE by whoever is second of: the owner, done with the result (TD__RELEASED), and the spawner, having
 *            seen the process go (TD__GONE).
 * A slot always names the process that answers for it, so that after any death the spawner finds what is left.
 *
 * Trust: a worker can write anything here. Whoever reads what a worker wrote (collect() in process.c) copies first and
 * checks sizes and kinds before use; what is fixed before the first worker runs, others copy before that.
 */
#ifndef TD_WORK_SEGMENT_H
#define TD_WORK_SEGMENT_H

#include <tandem/call.h>
#include <tandem/worker.h>
#include "os/os.h"

#define TD__SEGMENT_MAGIC  0x314d444e4154ull /* "TANDM1" */
#define TD__SLOTS          8192
#define TD__SLOT_BYTES     4096
#define TD__HEADER_BYTES   (128 * 1024)
#define TD__MAPPED_BYTES   ((size_t)TD__HEADER_BYTES + (size_t)TD__SLOTS * TD__SLOT_BYTES)
#define TD__WINDOW_HALF    (((uint64_t)1 << 30) + ((uint64_t)1 << 26)) /* the largest value, and the environment */
#define TD__SPARES_MAX     8
#define TD__MODULES_MAX    256
#define TD__REQUEST_INLINE 1408
#define TD__RESULT_INLINE  1408

enum { TD__FREE = 0, TD__BOOTING = 1, TD__SPARE = 2, TD__TAKEN = 3 };

/* Who answers for a slot: the program's main process, the worker in slot n (n + 1), or the spawner. */
#define TD__OWNER_MAIN    0u
#define TD__OWNER_SPAWNER 0xffffffu

#define TD__WORD(generation, owner, state) ((uint64_t)(generation) << 32 | (uint64_t)(owner) << 8 | (state))
#define TD__WORD_STATE(word)               ((unsigned)((word)&0xff))
#define TD__WORD_OWNER(word)               ((unsigned)((word) >> 8 & 0xffffff))
#define TD__WORD_GENERATION(word)          ((uint32_t)((word) >> 32))

/* Bits of `done`: the worker has published its outcome; the process is gone; the start itself failed. */
enum { TD__PUBLISHED = 1, TD__ENDED = 2, TD__NOT_STARTED = 4 };
/* Of `go`. The starter sends its request first and then makes sure that the spawner is still the right one for it,
 * while the worker wakes up and prepares itself; the worker waits for the answer before it runs the target. */
enum { TD__GO_UNKNOWN = 0, TD__GO_AWAITED = 1, TD__GO = 2, TD__GO_AWAY = 3 };
/* Of `called`, by the starter. A spare is woken before its request is written, where that can save time: the request is
 * on its lane when it is TD__SENT, and may be there before. */
enum { TD__UNCALLED = 0, TD__CALLED = 1, TD__SENT = 2 };
/* Bits of `ends`. */
enum { TD__RELEASED = 1, TD__GONE = 2 };

/* What a worker has of its starter beside streams, directory and environment: of the spawner, so that a worker sees
 * what differs; and of the starter. */
typedef struct td__circumstances {
    int32_t nice, umask;
    uint32_t affinity_size;
    unsigned char affinity[TD__CPU_BYTES];
    td__limit limits[TD__LIMITS];
    td__capabilities capabilities;
} td__circumstances;

typedef struct td__request {
    uint64_t target; /* its address in the spawner's image; 0: see module_offset */
    uint64_t target_offset;
    uint64_t arg_size, environment_size, module_size; /* the parts of the payload, each aligned to 16, in this order */
    uint32_t arg_kind, environment_count;
    uint32_t in_window; /* the payload is in the window, else in request_data */
    uint32_t own_environment;
    uint32_t daemon;
    uint32_t build_id_size;
    unsigned char build_id[20];
    char name[TD_NAME_MAX];
    char parent_name[TD_NAME_MAX];
    int32_t parent_pid;
} td__request;

typedef struct td__reply {
    uint32_t state; /* TD_RETURNED, TD_FAILED or TD_CANCELLED */
    int32_t code;
    uint64_t result_size;
    uint32_t result_kind;
    uint32_t in_window;
    char message[TD_MESSAGE_MAX];
} td__reply;

typedef struct td__slot {
    _Atomic uint64_t word;
    _Atomic uint32_t pid;  /* futex; 0 until the process exists */
    _Atomic uint32_t done; /* futex; joiners sleep here while it is 0 */
    _Atomic uint32_t ends;
    _Atomic uint32_t cancel;       /* set by the owner's side, read by td_cancelled */
    _Atomic uint32_t signal;       /* the last one sent by the owner's side */
    _Atomic uint32_t has_children; /* set by the worker before it starts its first */
    _Atomic uint32_t taking;       /* by the worker: the number + 1 of the slot that it last tried to take */
    _Atomic uint32_t received;     /* a spare has taken its work off its lane */
    _Atomic uint32_t go;           /* futex; TD__GO_...: the target waits for it */
    _Atomic uint32_t called;       /* futex; a spare sleeps here while it is TD__UNCALLED */
    /* The processors that the two were last seen on, plus 1; 0: none as yet. See td__slot_linger. */
    _Atomic uint32_t starter_cpu, worker_cpu;
    /* by the spawner (or, when that is dead, the main process), before it sets TD__ENDED or TD__NOT_STARTED */
    uint32_t signaled;               /* ended by a signal */
    int32_t number;                  /* the signal or exit status; the errno of a start that failed */
    td__request request;             /* by the starter, before the message that wakes the worker */
    td__circumstances circumstances; /* by the starter, before TD__GO */
    td__reply reply;                 /* by the worker, before it sets TD__PUBLISHED */
    _Alignas(16) unsigned char request_data[TD__REQUEST_INLINE];
    _Alignas(16) unsigned char result_data[TD__RESULT_INLINE];
} td__slot;
_Static_assert(sizeof(td__slot) <= TD__SLOT_BYTES, "a slot is a page");

#define TD__SPARE_TAKEN 0x80000000u /* in a spare's hint; by the starter that has it, which has the slot as well */

typedef struct td__module {
    uint64_t base;
    uint32_t build_id_size;
    unsigned char build_id[20];
    char path[256]; /* "": the program itself */
} td__module;

typedef struct td__segment {
    uint64_t magic;
    uint64_t file_size;
    /* fixed by the main process before the spawner starts */
    int32_t main_pid;
    uint32_t spares;
    uint32_t core_dumps;
    uint32_t cpus;
    uint32_t reaper_above; /* orphans must not get as far as the main process */
    uint64_t born_ignored; /* signal n is bit n - 1 */
    /* fixed by the spawner before it says that it is ready */
    uint32_t module_count;
    td__circumstances circumstances;
    uint64_t environment_hash;
    /* at any time */
    _Atomic uint32_t spare_slots[TD__SPARES_MAX]; /* by lane: slot + 1 of the spare that reads it, with the bit below
                                                   * if it is taken; or 0. The number is the spawner's to write: set
                                                   * when the slot is of this lane, and cleared before it is free */
    _Atomic uint64_t in_use[TD__SLOTS / 64];      /* a hint where slots are free */
    unsigned char faults[64];
    td__module modules[TD__MODULES_MAX];
} td__segment;
_Static_assert(sizeof(td__segment) <= TD__HEADER_BYTES, "the header has room");

/* Is there a spare on this lane that nobody has taken? A hint. */
static inline bool td__spare_waits(const td__segment *segment, uint32_t lane)
{
    uint32_t hint = td__load_relaxed(&segment->spare_slots[lane]);
    return hint != 0 && !(hint & TD__SPARE_TAKEN);
}

/* What the spawner is told, with descriptors: the streams, the working directory, the connections. TD__LEFT: on the
 * lane with the number `slot` there is a message for a spare that died. */
enum { TD__START = 1, TD__RETIRE = 2, TD__QUIT = 3, TD__HELLO = 4, TD__READY = 5, TD__TAKEN_UP = 6, TD__LEFT = 7 };
typedef struct td__message {
    uint32_t what;
    uint32_t slot;
    uint32_t generation;
    uint32_t streams; /* bit n: stream n is open, its descriptor is sent; bit 3: the working directory */
    int32_t code;     /* of TD__READY: what .prepare returned */
    uint32_t connections;
    unsigned char rights[TD_CONNECTIONS_MAX]; /* of each: TD__READABLE, TD__WRITABLE */
} td__message;

/* How many descriptors belong to it. */
static inline size_t td__message_fds(const td__message *message)
{
    uint32_t s = message->streams;
    return (s & 1) + (s >> 1 & 1) + (s >> 2 & 1) + (s >> 3 & 1) + message->connections;
}

static inline td__slot *td__slot_at(td__segment *segment, uint32_t index)
{
    return (td__slot *)((char *)segment + TD__HEADER_BYTES + (size_t)index * TD__SLOT_BYTES);
}

/* Nice value, affinity and limits of the calling thread. */
void td__circumstances_get(td__circumstances *circumstances);

/* The starter's answer, TD__GO or TD__GO_AWAY; and the worker's wait for it, on these two of its slot. */
void td__slot_answer(td__slot *slot, uint32_t answer);
uint32_t td__slot_await(_Atomic uint32_t *go, const _Atomic uint32_t *starter_cpu);

/* The processor that the caller runs on, as slots have it. */
static inline uint32_t td__slot_cpu(void)
{
    return (uint32_t)td__cpu() + 1;
}

/* Who has no more to do than to wait for the other side, which is about to come, stays awake for it, for a short time:
 * as long as *word has this value, and not beyond the deadline, if there is one. Not if the other one was last seen on
 * the same processor, or not at all: it would wait for us there. */
void td__slot_linger(const _Atomic uint32_t *word, uint32_t value, const _Atomic uint32_t *other_cpu, int64_t deadline);

/* A free slot, taken in the state given; -1 when all are in use. */
int td__slot_take(td__segment *segment, unsigned owner, unsigned state);

/* One of the two ends of a slot's use (TD__RELEASED, TD__GONE) has come; the second makes it free. */
void td__slot_end(td__segment *segment, int file, uint32_t index, uint32_t end);

/* TD__RELEASED, by the spawner for an owner that is dead, who may have died at any step of it: as the second to come,
 * or with the slot free already, and its bit not cleared. */
void td__slot_end_for(td__segment *segment, int file, uint32_t index, unsigned dead);

/* A request that was written and not sent: the pages of its window are given back. */
void td__slot_drop_request(td__segment *segment, int file, uint32_t index);

/* The worker's end has come: tells joiners; and (td__slot_ended) starters that still wait for its pid. */
void td__slot_mark(td__slot *slot, uint32_t how, bool signaled, int number);
void td__slot_ended(td__slot *slot, uint32_t how, bool signaled, int number);

/* The window's half for requests (0) or results (1) of a slot: reserved and mapped; NULL with errno on failure. */
void *td__window_open(int file, uint64_t file_size, uint32_t index, int half, uint64_t size, bool reserve);

static inline uint64_t td__align16(uint64_t size)
{
    return (size + 15) & ~(uint64_t)15;
}

uint64_t td__segment_file_size(void);

#endif
