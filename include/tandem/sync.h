/* SPDX-License-Identifier: MIT */
/*
 * Synchronisation, for threads and, in the shared heap, for processes. Python: threading.Lock and the like,
 * multiprocessing.Lock and the like.
 *
 *     static td_lock lock;              // guards balance; {0} is a free one
 *     static long balance;
 *
 *     td_lock_acquire(&lock);
 *     balance += 10;
 *     td_lock_release(&lock);
 *
 * All are plain structs, valid when zeroed, that can stand inside the program's own. One in memory from td_shared_alloc
 * works between all processes of the program, one anywhere else between the threads of its process: where it stands is
 * the flag, and nothing has to be said.
 *
 * They survive deaths, of processes by any signal, and of threads that end:
 *   owned      td_lock, td_rlock, td_rwlock: what a dead one held goes to the next to acquire it, who is told
 *              (TD_OWNER_DIED, which is not negative: the lock is held and can be used). A release by another is a bug
 *              of the caller: one sentence, and abort.
 *   not owned  td_semaphore, td_event, td_condition: nobody can know who would have signalled; a death never corrupts
 *              them and leaves nothing behind, but a wait may need a time limit.
 *   td_barrier a party that dies inside breaks it.
 *
 * Every wait comes in three forms: without a limit, _for with a time limit, _with with a time limit and a cancellation
 * object (either may be absent: TD_NO_LIMIT, NULL). They return 0, or
 *   TD_ETIMEOUT    the limit has passed            TD_ECANCELLED  the object was fired
 *   TD_ENOMEM      no memory for the record that the calling thread needs at its first use of any of these
 *   TD_EINVAL      a NULL pointer
 * Waits resume after signals. All calls may be made from any thread; none in a signal handler. After fork(), private
 * ones are the child's own copies: the forking thread still owns the locks it owned, those that other threads held are
 * held by nobody who could release them. Shared ones stay shared; the child owns none of them.
 *
 * Do not copy one that is in use, and do not free its memory while somebody waits on it or holds it: the _destroy
 * calls, which have nothing else to do, abort with a sentence about it in debug builds (TD_DEBUG).
 */
#ifndef TANDEM_SYNC_H
#define TANDEM_SYNC_H

#include <tandem/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --- Lock. Python: threading.Lock, multiprocessing.Lock; but owned: who acquired it releases it ----------------- */

typedef struct td_lock {
    uint32_t td_word;
} td_lock;

/*
 * Acquires it; blocks while another has it. 0 or TD_OWNER_DIED: it is held now. Negative: it is not (see above);
 * TD_EDEADLOCK: the calling thread holds it already; TD_ETOOBIG: the thread holds 200 objects already.
 * A few ns when it is free. Sleeps after a short time of trying; not in order of arrival, but nobody starves.
 */
TD_API int td_lock_acquire(td_lock *lock);
TD_API int td_lock_acquire_with(td_lock *lock, td_time limit, td_cancel *cancel);
static inline int td_lock_acquire_for(td_lock *lock, td_time limit)
{
    return td_lock_acquire_with(lock, limit, NULL);
}
/* Without waiting: TD_EBUSY if another thread has it. */
TD_API int td_lock_try_acquire(td_lock *lock);
/* Aborts unless the calling thread holds it. Does not block. */
TD_API void td_lock_release(td_lock *lock);
TD_API bool td_lock_locked(const td_lock *lock); /* by anybody, at this moment */
TD_API bool td_lock_owned(const td_lock *lock);  /* by the calling thread */
TD_API void td_lock_destroy(td_lock *lock);

/* --- RLock: the owner may acquire it again, and releases it as many times. Python: RLock ------------------------- */

typedef struct td_rlock {
    td_lock td_inner;
    uint32_t td_depth; /* by the owner */
} td_rlock;

/* As for the lock; TD_ETOOBIG after four thousand million times. */
TD_API int td_rlock_acquire(td_rlock *lock);
TD_API int td_rlock_acquire_with(td_rlock *lock, td_time limit, td_cancel *cancel);
static inline int td_rlock_acquire_for(td_rlock *lock, td_time limit)
{
    return td_rlock_acquire_with(lock, limit, NULL);
}
TD_API int td_rlock_try_acquire(td_rlock *lock);
TD_API void td_rlock_release(td_rlock *lock);
TD_API bool td_rlock_locked(const td_rlock *lock);
TD_API bool td_rlock_owned(const td_rlock *lock);
TD_API uint32_t td_rlock_depth(const td_rlock *lock); /* of the calling thread, 0 if it is not the owner */
TD_API void td_rlock_destroy(td_rlock *lock);

/* --- Event: a flag to wait for. Python: threading.Event, multiprocessing.Event ---------------------------------- */

typedef struct td_event {
    uint32_t td_word; /* {0}: not set */
} td_event;

/*
 * Sets it: all who wait go on, also if it is cleared at once afterwards; who comes later does not wait until it is
 * cleared. What was written before is seen by them. Clearing it. Both return 0, or TD_EINVAL for NULL, and do not
 * block. Setting a set one does not touch it, and no system call is made unless somebody sleeps. Whoever clears it and
 * then looks whether there is work will find the work of those who announced it, by setting it, too early to be waited
 * for.
 */
TD_API int td_event_set(td_event *event);
TD_API int td_event_clear(td_event *event);
TD_API bool td_event_is_set(const td_event *event);
/* Until it is set, or has been set since the call began. Spins for a short time before it sleeps. */
TD_API int td_event_wait(td_event *event);
TD_API int td_event_wait_with(td_event *event, td_time limit, td_cancel *cancel);
static inline int td_event_wait_for(td_event *event, td_time limit)
{
    return td_event_wait_with(event, limit, NULL);
}
TD_API void td_event_destroy(td_event *event);

/* --- Semaphore: a number of units, not owned. Python: threading.Semaphore, multiprocessing.Semaphore ------------- */

#define TD_SEMAPHORE_MAX 0x7fffffff

typedef struct td_semaphore {
    uint32_t td_word; /* {0}: no unit */
} td_semaphore;

/* For a static one: td_semaphore slots = TD_SEMAPHORE_INIT(4); at most TD_SEMAPHORE_MAX. */
#define TD_SEMAPHORE_INIT(value) \
    {                            \
        (uint32_t)(value) << 1   \
    }

/* Gives it its first units; TD_ETOOBIG above TD_SEMAPHORE_MAX. Nobody may be using it. */
TD_API int td_semaphore_init(td_semaphore *semaphore, uint32_t value);
/*
 * Takes a unit; blocks while there is none. Not in order of arrival. Spins for a short time before it sleeps.
 * A unit that a dead process had taken is lost, as nobody knows who would have released it: see td_owned_semaphore. One
 * that a waiter was being woken for is not.
 */
TD_API int td_semaphore_acquire(td_semaphore *semaphore);
TD_API int td_semaphore_acquire_with(td_semaphore *semaphore, td_time limit, td_cancel *cancel);
static inline int td_semaphore_acquire_for(td_semaphore *semaphore, td_time limit)
{
    return td_semaphore_acquire_with(semaphore, limit, NULL);
}
/* Without waiting: TD_EBUSY if there is no unit. */
TD_API int td_semaphore_try_acquire(td_semaphore *semaphore);
/*
 * Gives one unit, or n, by any thread. Does not block; no system call unless somebody sleeps. The semaphore may be
 * freed by who has got all units that he knows of. Errors, nothing being given: TD_EINVAL for n = 0, TD_ETOOBIG if
 * there would be more than TD_SEMAPHORE_MAX. Python: release(n).
 */
TD_API int td_semaphore_release(td_semaphore *semaphore);
TD_API int td_semaphore_release_n(td_semaphore *semaphore, uint32_t n);
TD_API uint32_t td_semaphore_value(const td_semaphore *semaphore); /* at this moment */
TD_API void td_semaphore_destroy(td_semaphore *semaphore);

/* --- BoundedSemaphore: never more units than at first. Python: BoundedSemaphore --------------------------------- */

typedef struct td_bounded_semaphore {
    td_semaphore td_units;
    uint32_t td_bound;
} td_bounded_semaphore;

#define TD_BOUNDED_SEMAPHORE_INIT(value)  \
    {                                     \
        TD_SEMAPHORE_INIT(value), (value) \
    }

/* As for the semaphore; but a release above the first value aborts: more has been released than acquired. */
TD_API int td_bounded_semaphore_init(td_bounded_semaphore *semaphore, uint32_t value);
TD_API int td_bounded_semaphore_acquire(td_bounded_semaphore *semaphore);
TD_API int td_bounded_semaphore_acquire_with(td_bounded_semaphore *semaphore, td_time limit, td_cancel *cancel);
static inline int td_bounded_semaphore_acquire_for(td_bounded_semaphore *semaphore, td_time limit)
{
    return td_bounded_semaphore_acquire_with(semaphore, limit, NULL);
}
TD_API int td_bounded_semaphore_try_acquire(td_bounded_semaphore *semaphore);
TD_API int td_bounded_semaphore_release(td_bounded_semaphore *semaphore);
TD_API int td_bounded_semaphore_release_n(td_bounded_semaphore *semaphore, uint32_t n);
TD_API uint32_t td_bounded_semaphore_value(const td_bounded_semaphore *semaphore);
TD_API void td_bounded_semaphore_destroy(td_bounded_semaphore *semaphore);

/* --- Semaphore whose units are owned: whoever acquired one releases it. Python has none -------------------------- */

typedef struct td_owned_semaphore {
    uint32_t td_latch, td_free;
    uint16_t td_waiters[2];
} td_owned_semaphore;

#define TD_OWNED_SEMAPHORE_INIT(value) \
    {                                  \
        0, (value),                    \
        {                              \
            0, 0                       \
        }                              \
    }

/*
 * As for the semaphore, with these differences. The units of a thread that ends, or whose process dies, come back at
 * once. Units go to those who wait in the order of their arrival. A release by a thread that holds no unit aborts. A
 * thread can hold 200 objects, each unit counted: TD_ETOOBIG. Acquire and release take about twice as long.
 */
TD_API int td_owned_semaphore_init(td_owned_semaphore *semaphore, uint32_t value);
TD_API int td_owned_semaphore_acquire(td_owned_semaphore *semaphore);
TD_API int td_owned_semaphore_acquire_with(td_owned_semaphore *semaphore, td_time limit, td_cancel *cancel);
static inline int td_owned_semaphore_acquire_for(td_owned_semaphore *semaphore, td_time limit)
{
    return td_owned_semaphore_acquire_with(semaphore, limit, NULL);
}
TD_API int td_owned_semaphore_try_acquire(td_owned_semaphore *semaphore);
TD_API void td_owned_semaphore_release(td_owned_semaphore *semaphore);
TD_API uint32_t td_owned_semaphore_value(const td_owned_semaphore *semaphore);
TD_API void td_owned_semaphore_destroy(td_owned_semaphore *semaphore);

/* --- Condition. Python: threading.Condition, multiprocessing.Condition -------------------------------------------- */

/*
 *     static td_lock lock;
 *     static td_condition arrived;      // belongs to the lock
 *     static int items;
 *
 *     td_lock_acquire(&lock);                              td_lock_acquire(&lock);
 *     while (items == 0)                                   items++;
 *         td_condition_wait(&arrived, &lock);              td_condition_notify(&arrived);
 *     items--;                                             td_lock_release(&lock);
 *     td_lock_release(&lock);
 *
 * The first wait binds it to its lock, a td_lock or a td_rlock, for good (all zero it is unbound again): waiting with
 * another one is a bug of the caller. One in shared memory needs a lock in shared memory.
 */
typedef struct td_condition {
    uint32_t td_words[3];
    uintptr_t td_lock;
} td_condition;

/*
 * Releases the lock, waits for a notification, and acquires the lock again, for which there is no limit: it is held at
 * return, whatever is returned, but for TD_EINVAL. 0: notified. TD_OWNER_DIED: another one died holding the lock,
 * meanwhile or before we had it back; it says nothing about the wait. TD_ETIMEOUT, TD_ECANCELLED. A notification that
 * comes together with the limit counts as one. There are no wake-ups without a reason, but for one: a notifier that
 * dies may have notified too many. A thread that is killed between being notified and having the lock gives its
 * notification to the next. Aborts unless the calling thread holds the lock. Python: wait.
 */
TD_API int td_condition_wait_with(td_condition *condition, td_lock *lock, td_time limit, td_cancel *cancel);
static inline int td_condition_wait_for(td_condition *condition, td_lock *lock, td_time limit)
{
    return td_condition_wait_with(condition, lock, limit, NULL);
}
static inline int td_condition_wait(td_condition *condition, td_lock *lock)
{
    return td_condition_wait_with(condition, lock, TD_NO_LIMIT, NULL);
}

/* With an RLock: released as often as it was acquired, and held as deep again at return. */
TD_API int td_condition_wait_rlock_with(td_condition *condition, td_rlock *lock, td_time limit, td_cancel *cancel);
static inline int td_condition_wait_rlock_for(td_condition *condition, td_rlock *lock, td_time limit)
{
    return td_condition_wait_rlock_with(condition, lock, limit, NULL);
}
static inline int td_condition_wait_rlock(td_condition *condition, td_rlock *lock)
{
    return td_condition_wait_rlock_with(condition, lock, TD_NO_LIMIT, NULL);
}

/*
 * Waits until predicate(argument) is true: it is called with the lock held, first at once, then after each
 * notification, and once more when the limit has passed, which is one for all of it. 0: it is true. Negative: it is
 * not, and why. TD_OWNER_DIED: at once, without asking it, as what it looks at may be half-written. Python: wait_for.
 */
typedef bool td_condition_predicate(void *argument);
TD_API int td_condition_await_with(td_condition *condition, td_lock *lock, td_condition_predicate *predicate,
                                   void *argument, td_time limit, td_cancel *cancel);
static inline int td_condition_await_for(td_condition *condition, td_lock *lock, td_condition_predicate *predicate,
                                         void *argument, td_time limit)
{
    return td_condition_await_with(condition, lock, predicate, argument, limit, NULL);
}
static inline int td_condition_await(td_condition *condition, td_lock *lock, td_condition_predicate *predicate,
                                     void *argument)
{
    return td_condition_await_with(condition, lock, predicate, argument, TD_NO_LIMIT, NULL);
}
TD_API int td_condition_await_rlock_with(td_condition *condition, td_rlock *lock, td_condition_predicate *predicate,
                                         void *argument, td_time limit, td_cancel *cancel);
static inline int td_condition_await_rlock_for(td_condition *condition, td_rlock *lock,
                                               td_condition_predicate *predicate, void *argument, td_time limit)
{
    return td_condition_await_rlock_with(condition, lock, predicate, argument, limit, NULL);
}
static inline int td_condition_await_rlock(td_condition *condition, td_rlock *lock, td_condition_predicate *predicate,
                                           void *argument)
{
    return td_condition_await_rlock_with(condition, lock, predicate, argument, TD_NO_LIMIT, NULL);
}

/*
 * Wakes one of those that wait, or `n`, or all, in the order in which they came: returns how many. Nothing is kept for
 * those who come later. Aborts unless the calling thread holds the lock (as long as nobody has ever waited there is no
 * lock to hold). Does not block; a few ns when nobody waits. Those woken go on when the lock is released.
 * Python: notify(), notify(n), notify_all().
 */
TD_API int td_condition_notify(td_condition *condition);
TD_API int td_condition_notify_n(td_condition *condition, uint32_t n);
TD_API int td_condition_notify_all(td_condition *condition);
TD_API void td_condition_destroy(td_condition *condition);

#ifdef __cplusplus
}
#endif

#endif
