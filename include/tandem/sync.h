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
    td_lock td_lock;
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

#ifdef __cplusplus
}
#endif

#endif
