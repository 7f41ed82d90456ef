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
 * All are plain structs, valid when zeroed, that can stand inside the program's own. One in shared memory
 * (td_shared_calloc, which zeroes it; td_shared_alloc does not) works between all processes of the program, one
 * anywhere else between the threads of its process: where it stands is the flag, and nothing has to be said.
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
 * A few ns when it is free. Sleeps after a short time of trying. Not in order of arrival: who is awake can be quicker
 * than one who sleeps, or has just been woken; but who has tried for 15 us is let go first by whoever releases it.
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
 * Takes a unit; blocks while there is none. Spins for a short time before it sleeps. Not in order of arrival: one that
 * has been woken can lose the unit to somebody quicker, and then sleeps until the next release wakes it. Where that
 * must not happen again and again, td_owned_semaphore serves those who wait in their order.
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
 * and may not have notified those who wait: who puts right what the lock guards should notify all. TD_ETIMEOUT,
 * TD_ECANCELLED. A notification that comes together with the limit counts as one. There are no wake-ups without a
 * reason, but for one: a notifier that dies may have notified too many. A thread that is killed between being notified
 * and having the lock gives its notification to the next. Aborts unless the calling thread holds the lock. Python:
 * wait.
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

/* --- Once. Python has none; pthread_once is the model ------------------------------------------------------------ */

typedef struct td_once {
    uint32_t td_latch, td_state;
} td_once;

typedef int td_once_function(void *argument);

/*
 * The first call runs the function; others that come meanwhile wait for it, later ones return at once. All see what it
 * wrote. If it fails (returns something else than 0, which is then this call's result), or its thread ends or its
 * process dies in the middle of it, the next call, one that waits if there is one, runs it again: it must be able to
 * begin anew. The limit is one of waiting for another's run. TD_EDEADLOCK when called in the function itself,
 * TD_ETOOBIG if the thread holds 200 objects already. One or two ns when it is done. In shared memory it is once for
 * all processes; they must all be able to run the function, and what it makes must be shared. After fork(), a private
 * one that another thread was running has not been run in the child, which runs it itself, as with pthread_once; if the
 * function itself has forked, its thread goes on in the child too.
 */
TD_API int td_once_run_with(td_once *once, td_once_function *function, void *argument, td_time limit,
                            td_cancel *cancel);
static inline int td_once_run_for(td_once *once, td_once_function *function, void *argument, td_time limit)
{
    return td_once_run_with(once, function, argument, limit, NULL);
}
static inline int td_once_run(td_once *once, td_once_function *function, void *argument)
{
    return td_once_run_with(once, function, argument, TD_NO_LIMIT, NULL);
}
TD_API bool td_once_done(const td_once *once); /* has it been run, with success? */

/* --- A value of its own in each thread. Python: threading.local -------------------------------------------------- */

/*
 *     static td_local buffer = { .size = sizeof(struct buffer), .init = make, .destroy = drop };
 *
 *     struct buffer *mine = td_local_get(&buffer);
 *
 * {0} gives each thread a pointer, which is NULL at first. The fields may be changed until the first td_local_get.
 * There may be any number of locals, and they may be static or come and go. Not in shared memory: processes have their
 * own.
 */
typedef struct td_local {
    size_t size TD_ZERO;                                 /* of a value, in bytes; 0: that of a pointer */
    int (*init)(void *value, void *context) TD_ZERO;     /* of zeroed bytes, at a thread's first get; 0 or a failure */
    void (*destroy)(void *value, void *context) TD_ZERO; /* at the thread's end, and by td_local_delete */
    void *context TD_ZERO;
#ifdef __cplusplus
    alignas(8)
#else
    _Alignas(8)
#endif
        uint64_t td_id TD_ZERO;
} td_local;

/*
 * The calling thread's value, aligned for every type; the same until the thread ends or the local is deleted. Two or
 * three ns but for the first time. NULL: TD_ENOMEM, TD_EINVAL (a NULL local, or one in shared memory), TD_ESTATE (init
 * has failed; the next call tries again). Init may use other locals, and this one, which it then finds as it is.
 * For all threads, also those that Tandem has not started. The values of the thread that returns from main live to the
 * end. A forked child has the forking thread's values. Not in signal handlers.
 */
TD_API void *td_local_get(td_local *local);

/*
 * Destroys the values of all threads, in the calling one; those that are ending right now are waited for. The local can
 * be used anew, as {0} can. No other thread may be using it, nor may its destroy call this. For NULL, or one that has
 * no values, does nothing.
 */
TD_API void td_local_delete(td_local *local);

/* --- Barrier. Python: threading.Barrier, multiprocessing.Barrier ------------------------------------------------- */

/*
 *     static td_barrier met = TD_BARRIER_INIT(4);
 *     ...
 *     int index = td_barrier_wait(&met);     // in each of four threads; returns when all four have called it
 *
 * A set number of parties meet, again and again. Whoever goes on has seen all of them arrive, and sees what they wrote
 * before. Broken, it fails for everybody until td_barrier_reset: by a party whose limit passed, that was cancelled,
 * that died inside (while it waited, or ran the action), whose action failed, or by td_barrier_abort.
 *
 * All zero it has no parties, and must be given them before it is used: by TD_BARRIER_INIT or td_barrier_init.
 */
typedef struct td_barrier {
    uint32_t td_words[5];
    uint32_t td_parties;
} td_barrier;
#define TD_BARRIER_INIT(parties)     \
    {                                \
        { 0, 0, 0, 0, 0 }, (parties) \
    }

/* A new one of 1 to INT_MAX parties: 0 or TD_EINVAL. Before others know it. */
TD_API int td_barrier_init(td_barrier *barrier, uint32_t parties);

/*
 * Arrives and waits for the others. Returns how many had arrived before, 0 to parties - 1: to each party another
 * number. Negative: they have not met. TD_EBROKEN: another one broke it, or it was reset. TD_ETIMEOUT, TD_ECANCELLED:
 * of this party, and the barrier is broken by it, unless it was not among those to meet yet: who comes while an action
 * runs, or while those of a reset barrier leave, waits for the next phase first. Also TD_EINVAL, TD_ENOMEM. Python:
 * wait(), which raises BrokenBarrierError also in the thread whose own limit has passed.
 */
TD_API int td_barrier_wait_with(td_barrier *barrier, td_time limit, td_cancel *cancel);
static inline int td_barrier_wait_for(td_barrier *barrier, td_time limit)
{
    return td_barrier_wait_with(barrier, limit, NULL);
}
static inline int td_barrier_wait(td_barrier *barrier)
{
    return td_barrier_wait_with(barrier, TD_NO_LIMIT, NULL);
}

/*
 * The same with an action: the last party to arrive runs the one that it was given, before anybody goes on. If it does
 * not return 0, the barrier is broken, and the one that ran it gets TD_EBROKEN too. It may use anything, but not wait
 * at this barrier (TD_EDEADLOCK) or at another one with an action (TD_ESTATE). A limit that passes while it runs breaks
 * the barrier as well. If it forks, the call returns in the child too, where the barrier is as after any fork. Every
 * party gives the action, since functions have other addresses in other processes. Python:
 * Barrier(action=...).
 */
typedef int td_barrier_action(void *argument);
TD_API int td_barrier_wait_action_with(td_barrier *barrier, td_barrier_action *action, void *argument, td_time limit,
                                       td_cancel *cancel);
static inline int td_barrier_wait_action_for(td_barrier *barrier, td_barrier_action *action, void *argument,
                                             td_time limit)
{
    return td_barrier_wait_action_with(barrier, action, argument, limit, NULL);
}
static inline int td_barrier_wait_action(td_barrier *barrier, td_barrier_action *action, void *argument)
{
    return td_barrier_wait_action_with(barrier, action, argument, TD_NO_LIMIT, NULL);
}

/*
 * Breaks it: those who wait, and who come later, get TD_EBROKEN. Mends it: those who wait get TD_EBROKEN, and who comes
 * later waits until they have left. 0, TD_EINVAL or TD_ENOMEM; neither blocks. Python: abort(), reset().
 */
TD_API int td_barrier_abort(td_barrier *barrier);
TD_API int td_barrier_reset(td_barrier *barrier);

/* At this moment; of NULL 0 and false. Python: parties, n_waiting, broken. */
TD_API uint32_t td_barrier_parties(const td_barrier *barrier);
TD_API uint32_t td_barrier_waiting(const td_barrier *barrier);
TD_API bool td_barrier_broken(const td_barrier *barrier);
TD_API void td_barrier_destroy(td_barrier *barrier);

/* --- RWLock: many readers, or one writer. Python has none --------------------------------------------------------- */

/*
 *     static td_rwlock lock;
 *
 *     td_rwlock_acquire_read(&lock);      // any number of threads at a time
 *     price = lookup(table, name);
 *     td_rwlock_release(&lock);
 *
 * In order of arrival: who comes while others wait, waits behind them, so that neither readers nor writers starve;
 * readers that stand next to each other are let in together. (Who finds a writer there, and nobody waiting, tries for
 * some microseconds before it waits.) A thread that reads may acquire it for reading again (and
 * releases it as many times), also while a writer waits.
 *
 * Readers do not disturb each other, and so are quick on many processors. The first writer after readers looks through
 * the records of all threads that share objects, which takes some nanoseconds for each.
 *
 * Owned, by readers too. A reader that dies, or ends, is a reader less. After a writer's death all who acquire it are
 * told, by TD_OWNER_DIED, until a writer has been. In a forked child the forking thread holds its copy of a private one
 * as before; other readers are gone from it, and if another thread was writing, that counts as a death.
 */
typedef struct td_rwlock {
    uint32_t td_words[6];
} td_rwlock;

/*
 * Acquires it for reading, or for writing; blocks while that cannot be. 0 or TD_OWNER_DIED: it is held now. Negative:
 * it is not; TD_EDEADLOCK: the calling thread holds it already, for writing; or for reading, and asks for writing
 * (release it first: two readers who both want to write could but wait for each other). TD_ETOOBIG: the thread holds
 * 200 objects already.
 */
TD_API int td_rwlock_acquire_read(td_rwlock *lock);
TD_API int td_rwlock_acquire_read_with(td_rwlock *lock, td_time limit, td_cancel *cancel);
static inline int td_rwlock_acquire_read_for(td_rwlock *lock, td_time limit)
{
    return td_rwlock_acquire_read_with(lock, limit, NULL);
}
TD_API int td_rwlock_acquire_write(td_rwlock *lock);
TD_API int td_rwlock_acquire_write_with(td_rwlock *lock, td_time limit, td_cancel *cancel);
static inline int td_rwlock_acquire_write_for(td_rwlock *lock, td_time limit)
{
    return td_rwlock_acquire_write_with(lock, limit, NULL);
}
/* Without waiting: TD_EBUSY if it is held in a way that excludes this, or others wait for it. */
TD_API int td_rwlock_try_acquire_read(td_rwlock *lock);
TD_API int td_rwlock_try_acquire_write(td_rwlock *lock);

/* Whichever way it is held; aborts unless the calling thread holds it. Does not block. */
TD_API void td_rwlock_release(td_rwlock *lock);
/* From writing to reading, with no writer in between; aborts unless it is held for writing. Does not block. */
TD_API void td_rwlock_downgrade(td_rwlock *lock);

/* At this moment: how often it is held for reading; whether somebody writes; whether the calling thread does either. */
TD_API uint32_t td_rwlock_readers(const td_rwlock *lock);
TD_API bool td_rwlock_writing(const td_rwlock *lock);
TD_API bool td_rwlock_owned_read(const td_rwlock *lock);
TD_API bool td_rwlock_owned_write(const td_rwlock *lock);
TD_API void td_rwlock_destroy(td_rwlock *lock);

#ifdef __cplusplus
}
#endif

#endif
