/* SPDX-License-Identifier: MIT */
/*
 * The living workers of this process in the order of their start, each referenced; and those that have ended and that
 * somebody holds a handle of, not referenced, so that at the program's end those that nobody asked about can be told.
 * Locks: this one, then a worker's.
 */
#include "work/worker.h"

enum { NO_LIST = 0, LIVING = 1, ENDED = 2, LISTS = 3 };

static td__lock lock;
static td_worker *first[LISTS], *last[LISTS]; /* under lock */

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

/* Under lock, as no new reference comes but from the list: whoever takes them all away decides what is next. */
bool td__registry_leave(td_worker *worker, bool told)
{
    td__registry_lock();
    bool listed = worker->list == LIVING;
    uint32_t ours = listed ? 2 : 1;
    /* As in td__worker_unref. Who drops the last reference after this waits for the lock before it frees the worker. */
    bool alone = td__fetch_sub_acq_rel(&worker->references, ours) == ours;
    if (alone && listed && !told) {
        td__store_relaxed(&worker->references, ours);
    } else if (listed) {
        take_out(worker);
        if (!alone)
            put(worker, ENDED);
    }
    td__registry_unlock();
    return alone;
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

/* One of the ended that is still to be told, referenced: unless its last reference is just going, which then tells. */
static td_worker *next_untold(void)
{
    td__registry_lock();
    td_worker *worker = first[ENDED];
    for (; worker; worker = worker->next) {
        uint32_t references = td__load_relaxed(&worker->references);
        if (!td__worker_untold(worker))
            continue;
        while (references > 0 && !td__cas_acq_rel(&worker->references, &references, references + 1))
            ;
        if (references > 0)
            break;
    }
    td__registry_unlock();
    return worker;
}

void td__registry_tell_all(void)
{
    td_worker *worker;
    while ((worker = next_untold()) != NULL) {
        td__worker_tell(worker);
        td__worker_unref(worker);
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
}

/* What is not there is not written: that would make each worker a page of its own. */
void td__registry_abandon(void)
{
    if (td__load_relaxed(&lock.word))
        lock = (td__lock){ 0 };
    td__registry_forget();
}
