/* SPDX-License-Identifier: MIT */
/*
 * The living workers of this process in the order of their start, each referenced; and those that have ended and that
 * somebody holds a handle of, not referenced, so that at the program's end those that nobody asked about can be told.
 * Locks: this one, then a worker's.
 */
#include "work/worker.h"

#include <limits.h>

enum { NO_LIST = 0, LIVING = 1, ENDED = 2, LISTS = 3 };

static td__lock lock;
static td_worker *first[LISTS], *last[LISTS]; /* under lock */

/* How many failures are being told, and TOLD times how many have been: who ends the program waits for those that other
 * threads tell, which may have freed what they tell of. A futex. */
#define TOLD 0x10000u
static _Atomic uint32_t telling;
static _Thread_local uint32_t telling_here; /* the share of this thread: it is in a hook */

void td__registry_lock(void)
{
    td__lock_acquire(&lock);
}

void td__registry_unlock(void)
{
    td__lock_release(&lock);
}

static void put(td_worker *worker, int list)
{
    worker->list = list;
    worker->previous = last[list];
    worker->next = NULL;
    *(last[list] ? &last[list]->next : &first[list]) = worker;
    last[list] = worker;
}

static void take_out(td_worker *worker)
{
    int list = worker->list;
    if (list == NO_LIST)
        return;
    worker->list = NO_LIST;
    *(worker->previous ? &worker->previous->next : &first[list]) = worker->next;
    *(worker->next ? &worker->next->previous : &last[list]) = worker->previous;
    worker->previous = worker->next = NULL;
}

void td__registry_add(td_worker *worker)
{
    td__worker_ref(worker);
    td__registry_lock();
    put(worker, LIVING);
    td__registry_unlock();
}

void td__registry_remove(td_worker *worker)
{
    td__registry_lock();
    bool was = worker->list == LIVING;
    if (was) {
        take_out(worker);
        if (td__load_acquire(&worker->phase) == TD__COLLECTED)
            put(worker, ENDED);
    }
    td__registry_unlock();
    if (was)
        td__worker_unref(worker);
}

void td__registry_drop(td_worker *worker)
{
    td__registry_lock();
    take_out(worker);
    td__registry_unlock();
}

td_worker *td__registry_find(td__worker_test *test)
{
    td__registry_lock();
    td_worker *worker = first[LIVING];
    while (worker && !test(worker))
        worker = worker->next;
    if (worker)
        td__worker_ref(worker);
    td__registry_unlock();
    return worker;
}

size_t td__registry_list(td_worker **workers, size_t capacity, td__worker_test *test)
{
    size_t count = 0;
    td__registry_lock();
    for (td_worker *worker = first[LIVING]; worker; worker = worker->next) {
        if (test && !test(worker))
            continue;
        if (count < capacity) {
            td__worker_ref(worker);
            workers[count] = worker;
        }
        count++;
    }
    td__registry_unlock();
    return count;
}

/* Of the ended one that is still to be told, referenced; else NULL, and whether there is one whose last reference has
 * just gone, by somebody who is about to tell. */
static td_worker *next_untold(bool *going)
{
    *going = false;
    td__registry_lock();
    td_worker *worker = first[ENDED];
    for (; worker; worker = worker->next) {
        if (!td__worker_untold(worker))
            continue;
        uint32_t references = td__load_relaxed(&worker->references);
        while (references > 0 && !td__cas_acq_rel(&worker->references, &references, references + 1))
            ;
        if (references > 0)
            break;
        *going = true;
    }
    td__registry_unlock();
    return worker;
}

bool td__registry_claim(td_worker *worker)
{
    td__registry_lock();
    bool ours = td__worker_untold(worker);
    if (ours) {
        td__store_relaxed(&worker->told, 1);
        td__fetch_add_relaxed(&telling, 1);
        telling_here++;
    }
    td__registry_unlock();
    return ours;
}

void td__registry_told(void)
{
    telling_here--;
    /* Release: what the hook did, to who waits for it. */
    td__fetch_add_acq_rel(&telling, TOLD - 1);
    td__futex_wake(&telling, INT_MAX, false);
}

void td__registry_tell_all(void)
{
    for (;;) {
        td_worker *worker;
        bool going;
        uint32_t before = td__load_acquire(&telling);
        while ((worker = next_untold(&going)) != NULL) {
            td__worker_tell(worker);
            td__worker_unref(worker);
        }
        /* A hook that ends the program does not wait for itself, nor for another one that does the same. */
        if (telling_here || (!going && before % TOLD == 0 && td__load_acquire(&telling) == before))
            return;
        td__futex_wait(&telling, before, 0, false);
    }
}

/* Called in the child with the lock held by the forking thread. The workers stay where they are for whoever holds
 * handles, but nobody lists or joins them; those that nobody holds are lost to the child, as all memory of other
 * threads is. */
void td__registry_forget(void)
{
    for (int list = LIVING; list < LISTS; list++)
        while (first[list])
            take_out(first[list]);
    td__store_relaxed(&telling, telling_here);
}
