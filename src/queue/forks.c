/* SPDX-License-Identifier: MIT */
/*
 * Private queues in the child of a fork, which other threads of the parent were using at that moment. They are not in
 * the child; what each had written so far is, up to some point of its program, and nothing that came after it.
 *
 * Nobody is stopped for a fork. The child puts a queue in order before its first get, or when it first needs its latch
 * or finds it full: a section that had not taken effect is taken back, what it was going to change being noted in
 * queue->change; then the latch is free, and the places of FIFO queues that were claimed go on, or come back.
 *
 * That is done under one lock for all queues, which a fork waits for, so that no child finds it half done.
 */
#include "queue/fifo.h"
#include "sync/forks.h"
#include "sync/lock.h"

uint16_t td__queue_life = 1;

static td__lock lock;
static _Thread_local bool settles; /* holds the lock, for a queue that only this thread can be in the sections of */

/* The latch was held. */
static void take_back(td_queue *queue)
{
    td__change *change = &queue->change;
    if (change->effect && td__load_relaxed(change->effect) == change->before) {
        td__store_relaxed(&queue->serial, change->serial);
        td__store_relaxed(&queue->skipped, change->skipped);
        td__sorted_take_back(queue);
    }
    change->effect = NULL;
    /* Perhaps items had come back that there had been no memory for settling, and this had not been said. If none had:
     * who looks finds none. */
    td__store_relaxed(&queue->returned, td__load_relaxed(&queue->returned) + 1);
}

void td__queue_settle(td_queue *queue)
{
    if (settles) /* a section of its own */
        return;
    td__lock_acquire(&lock);
    settles = true;
    if (td__queue_left(queue)) {
        if (td__load_relaxed(&queue->latch.word) != 0) {
            take_back(queue);
            td__store_relaxed(&queue->latch.word, 0);
        }
        if (queue->kind == TD_QUEUE_FIFO)
            td__fifo_settle(queue);
        /* Release: with td__queue_left. From here on others can be in sections. */
        td__store_release(&queue->life, td__queue_life);
    }
    settles = false;
    td__lock_release(&lock);
}

static void before_fork(bool spawns)
{
    if (!spawns)
        td__lock_acquire(&lock);
}

static void in_parent(bool spawns)
{
    if (!spawns)
        td__lock_release(&lock);
}

static void in_child(bool spawns)
{
    td__queue_life++;
    if (!spawns)
        td__lock_release(&lock);
}

__attribute__((constructor)) static void register_forks(void)
{
    static const td__forks_handlers handlers = { .before = before_fork, .in_parent = in_parent, .in_child = in_child };
    td__forks_register(TD__FORKS_QUEUE, &handlers);
}
