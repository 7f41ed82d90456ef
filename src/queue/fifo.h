/* SPDX-License-Identifier: MIT */
/* FIFO queues; see fifo.c. */
#ifndef TD_QUEUE_FIFO_H
#define TD_QUEUE_FIFO_H

#include "queue/queue.h"

/* One attempt, of private and of shared queues. get: several if op->count says so. The private ones need no party. */
td__try td__fifo_put_private, td__fifo_put_shared, td__fifo_get_private, td__fifo_get_shared;

/*
 * The quick way of one item, in a FIFO queue of items of one size: straight through if nothing at all is in the way,
 * and nobody else. False: nothing has been done, the other way is to be gone. No step is open; `me` is NULL for private
 * ones.
 */
bool td__fifo_put_quick_private(td_queue *queue, const void *item);
bool td__fifo_put_quick_shared(td_queue *queue, td__party *me, const void *item);
bool td__fifo_get_quick_private(td_queue *queue, void *item);
bool td__fifo_get_quick_shared(td_queue *queue, td__party *me, void *item);

/* Throws away what is in the queue; for shutdown. The caller's step is open. */
void td__fifo_drop(td_queue *queue, td__party *me);

/* Of a private queue: all places that threads which a fork has left behind had claimed. */
void td__fifo_settle(td_queue *queue);

/* Hints: how many items are in the queue (as far as it is whole); how many have been put, with those that `skipped`
 * counts; false: it has been written over. */
size_t td__fifo_size(td_queue *queue);
bool td__fifo_claimed(td_queue *queue, uint64_t *sum);
/* Is there something to get, a place to put to? For those who pass a wake-up on. If it has been written over: yes. */
bool td__fifo_has_item(td_queue *queue);
bool td__fifo_has_space(td_queue *queue);

#endif
