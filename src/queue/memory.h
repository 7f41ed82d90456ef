/* SPDX-License-Identifier: MIT */
/* Memory of queues; see memory.c. */
#ifndef TD_QUEUE_MEMORY_H
#define TD_QUEUE_MEMORY_H

#include "queue/queue.h"

#define TD__WHEEL_MAX ((uint64_t)1 << 30) /* cells */

/* Zeroed, aligned to a line; named in *name, in the region if it is shared. NULL, with the error set. */
void *td__queue_take(td__party *me, bool shared, size_t size, uintptr_t *name);
/* Gives back what *name names, and clears it. false: `wait` is false, and it would have to. */
bool td__queue_give(td__party *me, bool shared, uintptr_t *name, bool wait);

/*
 * From cell to cell, for an item of so many bytes. In a queue with a limit, small cells are in as few lines of the
 * cache as can be, and share none with a neighbour that goes on in the next: a round trip takes a fifth less. A queue
 * without a limit may become large: there memory counts more.
 */
uint32_t td__wheel_stride(uint32_t item, bool limited);
uint64_t td__wheel_bytes(uint64_t capacity, uint32_t stride);
void td__wheel_init(td__wheel *ring, uint64_t capacity, uint32_t stride, char *cells); /* of zeros */

/* Under the latch: memory for this part, which then is followed (td__queue_part). What is in it is not told. 0,
 * TD_ENOMEM, TD_ECORRUPT. */
int td__queue_extend(td_queue *queue, td__party *me, uint32_t number, uint64_t bytes);

/* The ring after `number` takes puts from now on, if this one did so far. 0, TD_ENOMEM, TD_ETOOBIG, TD_ECORRUPT. */
int td__queue_grow(td_queue *queue, td__party *me, uint32_t number);

/* All blocks but the queue's own, and those that a word that was written over named. May be begun again. */
bool td__queue_dispose(td_queue *queue, td__party *me, bool wait);

#endif
