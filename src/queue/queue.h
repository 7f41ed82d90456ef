/* SPDX-License-Identifier: MIT */
/*
 * The inside of queues: what fifo.c, sorted.c (LIFO, PRIORITY), sleep.c, repair.c, forks.c and queue.c share. How it
 * works is told in docs/design/queue.md.
 *
 * A queue and all that belongs to it is in one kind of memory: this process's own, or the shared heap, where its
 * pointers mean the same in every process.
 */
#ifndef TD_QUEUE_QUEUE_H
#define TD_QUEUE_QUEUE_H

#include <tandem/queue.h>
#include "sync/section.h"
#include "sync/wait.h"

#define TD__QUEUE_MAGIC 0x5545555144544154ull
#define TD__QUEUE_FREED 0x4545524644514154ull
#define TD__QUEUE_PARTS 32
#define TD__QUEUE_LINE  128 /* what two processors should not both write to: a line and the one fetched with it */

/* --- cells ------------------------------------------------------------------------------------------------- */

/*
 * A state word: lap (38 bits) | run (7) | owner (16) | phase (3). A cell of zeros is empty, for lap 0.
 *
 * WRITING and READING with a run of r, less one, in the first of r cells are the owner's claim to all of them; what the
 * others' words say has to wait until the first changes, which is the last to do so. BACK is FULL, but at a position
 * that gets had claimed before: its consumer died.
 */
enum { TD__EMPTY = 0, TD__WRITING = 1, TD__FULL = 2, TD__READING = 3, TD__BACK = 4 };
#define TD__PHASE(state)    ((unsigned)(state)&7)
#define TD__OWNER(state)    ((uint16_t)((state) >> 3))
#define TD__OWNED_BY(index) ((uint64_t)(index) << 3)
#define TD__RUN_SHIFT       19
#define TD__RUN_MAX         128
#define TD__RUN(state)      (((state) >> TD__RUN_SHIFT) % TD__RUN_MAX + 1)
#define TD__RUN_OF(count)   ((uint64_t)((count)-1) << TD__RUN_SHIFT)
#define TD__LAP_SHIFT       26
#define TD__LAP             ((uint64_t)1 << TD__LAP_SHIFT)
#define TD__LAP_OF(state)   ((state) & ~(TD__LAP - 1))

typedef struct td__cell {
    _Atomic uint64_t state;
    /* the item; in queues with any_size a td__sized, then the item if it is small */
} td__cell;

typedef struct td__sized {
    _Atomic uint32_t size; /* the owner's while WRITING, fixed while FULL */
    _Atomic uint32_t block_size;
    uintptr_t block; /* or 0. For items larger than the cell's room; it stays the cell's. The owner's while WRITING */
} td__sized;
#define TD__ROOM_MAX 232 /* bytes of an item of any size that are in the cell: four lines */

/*
 * A ring of cells. Positions are laps of 1 << shift, of which the first `capacity` are used. `tail`: all positions
 * before it have been claimed by puts; `head`: all before it have been claimed by gets. They may be behind the truth.
 */
typedef struct td__wheel {
    /* fixed before the gate lets anybody in */
    uint64_t capacity, mask;
    union {
        struct {
            uint32_t shift, stride;
        };
        uint64_t steps; /* both */
    };
    char *cells;
    uint64_t seal; /* td__wheel_seal of the above */
    /* under the queue's latch; read without, see look_behind() in fifo.c */
    _Atomic uint64_t low, high;
    /* producers', consumers' */
    _Alignas(TD__QUEUE_LINE) _Atomic uint64_t tail;
    _Alignas(TD__QUEUE_LINE) _Atomic uint64_t head;
} td__wheel;

/* --- the queue --------------------------------------------------------------------------------------------- */

/* In the gate, below the number of the ring that takes puts. It changes under the latch only, by one store. */
#define TD__GATE_SHUT    1u
#define TD__GATE_DROPPED 2u
#define TD__GATE_SHIFT   2

enum { TD__QUICK_NOT, TD__QUICK_PRIVATE, TD__QUICK_SHARED };

/*
 * What a section of a private queue is in the middle of, for the child of a fork in which the thread is not there. It
 * is written before the section changes anything, `effect` last; and there is none before the latch is acquired and
 * after it is released. The section's last change is that of *effect.
 */
typedef struct td__change {
    _Atomic uint64_t *effect; /* NULL: none; it has taken effect when this word is not `before` any more */
    uint64_t before;
    uint64_t serial, skipped; /* what they were */
    /* PRIORITY: of the first `placed` slot numbers one may stand twice, and then `slot` nowhere. */
    uint64_t placed;
    uint32_t slot;
} td__change;

struct td_queue {
    /* fixed, and sealed, see td__queue_is_whole() */
    uint64_t magic, seal, seal_of_rest;
    union {
        struct {
            uint32_t item_size; /* the largest item */
            uint8_t kind;
            bool shared, any_size;
            uint8_t quick; /* may one item go straight through? TD__QUICK_... */
        };
        uint64_t shape; /* all of these */
    };
    uint64_t capacity;     /* 0: no limit */
    uint32_t stride, room; /* what of an item has a place in the cell */
    uint8_t joinable;      /* no bool: it is read before it is known to be one */
    td_priority key;

    /* read by every operation, written when something rare happens */
    _Atomic uint32_t gate;
    _Atomic uint32_t items, space, finished; /* slept on, see sleep.c */
    _Atomic uint32_t fences;                 /* not 0: who changes something passes one, see sleep.c */
    _Atomic uint32_t for_items, for_space;   /* how many sleep there, or more: the dead are not taken off */
    _Atomic uint32_t returned, looked;       /* they differ: items have come back, see fifo.c */
    _Atomic uint16_t life;                   /* private: td__queue_life when it was last put in order, see forks.c */
    _Atomic uint32_t head_ring;              /* hint: gets are in this ring or a later one */
    uintptr_t part[TD__QUEUE_PARTS];         /* the rings; latch, fixed as far as the gate has come */
    uintptr_t proof[TD__QUEUE_PARTS];        /* and their complements, for td__queue_part() */

    _Alignas(TD__QUEUE_LINE) td__latch latch;
    _Atomic uint64_t skipped;                       /* latch: positions without an item, in joinable queues */
    _Alignas(TD__QUEUE_LINE) _Atomic uint64_t done; /* how many task_done */

    /* LIFO and PRIORITY, latch */
    _Alignas(TD__QUEUE_LINE) _Atomic uint64_t count;
    _Atomic uint64_t serial; /* how many have been put */
    uint64_t slots;
    td__change change; /* also of FIFO ones; private */

    _Alignas(TD__QUEUE_LINE) td__wheel first;
};

/* What a party is doing, in its record (TD__STEP_QUEUE). object: the queue; argument: a position, number: how many from
 * there, and the ring above TD__SPAN_BITS. */
enum {
    TD__QUEUE_PUT = 1,  /* owns at most one run, WRITING */
    TD__QUEUE_GET = 2,  /* READING: what comes back */
    TD__QUEUE_GOT = 3,  /* READING: what has been got */
    TD__QUEUE_SKIP = 4, /* one run, which `skipped` has counted already */
    TD__QUEUE_MAKE = 5, /* argument names the block of a queue that is being made, */
    TD__QUEUE_FREE = 6, /* or freed: with all that belongs to it */
};
#define TD__SPAN_BITS 24
#define TD__SPAN_MAX  ((1u << TD__SPAN_BITS) - 1)

/* One call: what it is to move, and what it has moved. */
typedef struct td__op {
    const char *in; /* put */
    char *out;      /* get */
    size_t size;    /* any_size: of the item, or the room for it */
    size_t count, done;
    size_t got_size; /* any_size: of the item that has been got, or does not fit */
} td__op;

/* Tries, once: 0; TD_EFULL or TD_EEMPTY: wait; others are final. No sentence. */
typedef int td__try(td_queue *queue, td__party *me, td__op *op);

/* --- forks.c ----------------------------------------------------------------------------------------------- */

/* Of private queues: the cells' owner. It changes with a fork, so that the places of the threads that are not there in
 * the child show. */
extern uint16_t td__queue_life;

/*
 * A private queue that this process has from its parent is put in order before its first get here, and before its first
 * section: what other threads of the parent were in the middle of when it forked is taken back, or done.
 * `td__queue_left` says whether that is still to come.
 */
void td__queue_settle(td_queue *queue);
static inline bool td__queue_left(const td_queue *queue)
{
    /* Acquire: all that has been put in order, with the store in td__queue_settle. */
    return td__unlikely(td__load_acquire(&queue->life) != td__queue_life) && !queue->shared;
}

/* Every section of a queue's latch begins so. Outside of others. */
static inline void td__queue_enter(td_queue *queue, td__party *me)
{
    if (td__queue_left(queue))
        td__queue_settle(queue);
    td__section_enter(me, &queue->latch);
}

/* In the section: its changes of `serial`, `skipped` and the order come between these, that of *effect last. One store
 * alone needs no notes. */
static inline void td__change_begin(td_queue *queue, _Atomic uint64_t *effect, uint64_t placed, uint32_t slot)
{
    td__change *change = &queue->change;
    if (queue->shared) /* noted in the party's record */
        return;
    change->before = td__load_relaxed(effect);
    change->serial = td__load_relaxed(&queue->serial);
    change->skipped = td__load_relaxed(&queue->skipped);
    change->placed = placed;
    change->slot = slot;
    td__program_order();
    change->effect = effect;
    td__program_order();
}

static inline void td__change_end(td_queue *queue)
{
    if (queue->shared)
        return;
    td__program_order();
    queue->change.effect = NULL;
    td__program_order();
}

/* --- repair.c ---------------------------------------------------------------------------------------------- */

/*
 * The places of a run that `whose` owns (`owner` in its state) go on without items: what was in them, or was to come,
 * counts as skipped. `whose` is the caller, or a dead party, whose step is open; NULL in private queues, where several
 * may try. `wait` false: gives up instead of waiting for the latch, and returns false.
 */
bool td__queue_skip(td_queue *queue, td__party *me, td__party *whose, td__wheel *ring, uint64_t position,
                    uint16_t owner, bool wait);
/* The items that `owner` is reading from these positions come back. */
bool td__queue_return(td_queue *queue, td__party *me, td__wheel *ring, uint64_t position, uint64_t span, uint16_t owner,
                      bool wait);

/* --- sleep.c ----------------------------------------------------------------------------------------------- */

#define TD__QUEUE_SLEEPER 1u
#define TD__QUEUE_WATCHER 2u
#define TD__QUEUE_AWAITED 3u

/* Between a change and the look for sleepers, while `fences` says so. */
void td__queue_fence(td_queue *queue);
/* After a change that ends a wait on this word: if anybody sleeps, wakes up to n. */
void td__queue_wake(td_queue *queue, _Atomic uint32_t *word, int n);
static inline void td__queue_changed(td_queue *queue, _Atomic uint32_t *word, int n)
{
    td__program_order();
    /* Sequentially consistent, both, which costs nothing as a load: with announce() in sleep.c and the clearing of
     * `fences`. Who finds it cleared finds the bits of those who had relied on it before. */
    if (td__unlikely(td__load_seq_cst(&queue->fences) != 0))
        td__queue_fence(queue);
    if (td__unlikely(td__load_seq_cst(word) & TD__QUEUE_AWAITED))
        td__queue_wake(queue, word, n);
}
/* Everybody, also those who are about to sleep. */
void td__queue_wake_all(td_queue *queue);

/*
 * Tries until it succeeds, or fails for good, or the limit has passed. `word` is what to sleep on while `again` is the
 * result. The caller's step is open.
 */
int td__queue_wait(td_queue *queue, td__party *me, td__try *attempt, td__op *op, int again, _Atomic uint32_t *word,
                   int64_t deadline, const td_cancel *cancel);

/* Is there something to get, or has it been shut down? If not, it has been announced that somebody sleeps, and `item`
 * says on what; who ends that wakes all. *unsure, which is left alone else: it may go unseen, as the kernel refuses the
 * barrier that others rely on; look again after a while. */
bool td__queue_valid(const td_queue *queue); /* made and not freed */
bool td__queue_prepare(td_queue *queue, td__futex_item *item, bool *unsure);

/* --- sorted.c ---------------------------------------------------------------------------------------------- */

td__try td__sorted_put, td__sorted_get;
uint32_t td__sorted_stride(const td_queue *queue);
uint64_t td__sorted_bytes(const td_queue *queue, uint64_t slots);
void td__sorted_init(td_queue *queue, uint64_t from, uint64_t count);
void td__sorted_drop(td_queue *queue, td__party *me);
/* Takes the order back to what it was before queue->change. */
void td__sorted_take_back(td_queue *queue);

/* --- rings ------------------------------------------------------------------------------------------------- */

/*
 * A queue in the shared heap may be written over by any process. So whoever follows a word of it has looked whether the
 * word can be true, and says TD_ECORRUPT if it cannot: what is fixed has a seal, a part's address its complement, a
 * position's index is below the capacity, and what is in a cell is looked at by td__wheel_possible(). The seals are no
 * secret; they tell what nobody meant to write. Of what changes all the time, much can be wrong and yet possible: then
 * items are lost, or a call waits for ever.
 */
static inline uint64_t td__queue_seal(const td_queue *queue)
{
    return queue->shape ^ TD__QUEUE_MAGIC;
}

/* What one item that goes straight through relies on. */
static inline bool td__queue_is_sealed(const td_queue *queue)
{
    return td__likely(queue->seal == td__queue_seal(queue));
}

/* Of what is needed beside, by who makes memory, sorts, or has items of any size. */
static inline uint64_t td__queue_seal_of_rest(const td_queue *queue)
{
    uint64_t places = (uint64_t)queue->stride << 32 | queue->room, size = queue->key.size;
    uint64_t key = queue->key.offset ^ (size << 16 | size >> 48) ^ (uint64_t)(unsigned)queue->key.kind << 24;
    return queue->capacity ^ places ^ key ^ (uint64_t)queue->joinable << 56 ^ TD__QUEUE_MAGIC;
}

/* Private ones are not written over by others. */
static inline bool td__queue_is_whole(const td_queue *queue)
{
    return td__queue_is_sealed(queue) && queue->magic == TD__QUEUE_MAGIC &&
           (!queue->shared || td__likely(queue->seal_of_rest == td__queue_seal_of_rest(queue)));
}

/* Where a part stands; 0: there is none, or its word has been written over. */
static inline uintptr_t td__queue_part(const td_queue *queue, uint32_t number)
{
    bool good = number < TD__QUEUE_PARTS && queue->part[number] == ~queue->proof[number];
    return td__likely(good) ? queue->part[number] : 0;
}

static inline uint64_t td__wheel_seal(const td__wheel *ring)
{
    return (uintptr_t)ring->cells ^ ring->mask ^ ring->capacity ^ ring->steps;
}

/* NULL: there is none, or it has been written over. */
static inline td__wheel *td__queue_ring(const td_queue *queue, uint32_t number)
{
    td__wheel *ring = td__likely(number == 0) ? (td__wheel *)&queue->first : (td__wheel *)td__queue_part(queue, number);
    return td__likely(ring != NULL) && td__likely(ring->seal == td__wheel_seal(ring)) ? ring : NULL;
}

/* Is there such a position? */
static inline bool td__wheel_has(const td__wheel *ring, uint64_t position)
{
    return td__likely((position & ring->mask) < ring->capacity);
}

/* A position that all positions up to its own of the lap before have been left behind, or claimed, by what it is the
 * next for: its cell cannot be two laps late. */
static inline bool td__wheel_late(int64_t ahead)
{
    return td__unlikely(ahead < -(int64_t)TD__LAP);
}

static inline td__cell *td__wheel_cell(const td__wheel *ring, uint64_t position)
{
    return (td__cell *)(void *)(ring->cells + (position & ring->mask) * ring->stride);
}

/* The position after a run of so many; no run goes over the end of the ring. */
static inline uint64_t td__wheel_after(const td__wheel *ring, uint64_t position, uint64_t run)
{
    return td__unlikely((position & ring->mask) + run == ring->capacity) ? (position | ring->mask) + 1 : position + run;
}

static inline uint64_t td__wheel_next(const td__wheel *ring, uint64_t position)
{
    return td__wheel_after(ring, position, 1);
}

static inline uint64_t td__wheel_lap(const td__wheel *ring, uint64_t position)
{
    return position >> ring->shift << TD__LAP_SHIFT;
}

/* How many positions lie between two. */
static inline uint64_t td__wheel_distance(const td__wheel *ring, uint64_t from, uint64_t to)
{
    return ((to >> ring->shift) - (from >> ring->shift)) * ring->capacity + (to & ring->mask) - (from & ring->mask);
}

#endif
