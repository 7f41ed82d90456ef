/* SPDX-License-Identifier: MIT */
/*
 * The sanitizers and the tests' forks.
 *
 * AddressSanitizer (of gcc 12) does not prepare its allocator for a fork: a lock of it that another thread holds then
 * is held in the child for good, and the child's first thread waits for it. Threads take those locks while they begin
 * (the sanitizer asks for the stack's place, which allocates) and while they end (their caches go back). ThreadSanitizer
 * prepares some of its locks only; a child of a fork was seen to wait for another, once in thousands. So in these builds
 * each thread is counted from before its creation until its own function runs, and from that function's end until it is
 * gone; a fork waits for both. The tests' and the library's threads are created through here, as this program's
 * pthread_create comes before the sanitizer's in the order of lookup.
 */
#include "harness.h"

#if SANITIZED
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#define MAX_ENDING 64

static atomic_int starting;

/* Threads whose function has returned, and 0; an entry is taken by the thread and given back by a fork that finds it
   gone. Where all are in use, which only many threads and no fork can do, the oldest knowledge is overwritten. */
static atomic_int ending[MAX_ENDING];
static atomic_uint next_ending;

typedef struct body {
    void *(*function)(void *);
    void *argument;
} body;

static void note_end(void *nothing)
{
    (void)nothing;
    atomic_store(&ending[atomic_fetch_add(&next_ending, 1) % MAX_ENDING], (int)syscall(SYS_gettid));
}

static void *run(void *argument)
{
    body own = *(body *)argument;
    free(argument);
    void *result = NULL;
    pthread_cleanup_push(note_end, NULL);
    atomic_fetch_sub(&starting, 1);
    result = own.function(own.argument);
    pthread_cleanup_pop(1);
    return result;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*function)(void *), void *argument)
{
    static int (*_Atomic next)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (!next) {
        void *symbol = dlsym(RTLD_NEXT, "pthread_create");
        memcpy((void *)&next, &symbol, sizeof symbol);
    }
    body *own = malloc(sizeof *own);
    if (!own)
        return EAGAIN;
    *own = (body){ function, argument };
    atomic_fetch_add(&starting, 1);
    int error = next(thread, attributes, run, own);
    if (error) {
        atomic_fetch_sub(&starting, 1);
        free(own);
    }
    return error;
}

/* Bounded, as a thread's end may itself wait for what the forking one holds. */
static void wait_for_others(void)
{
    double limit = now() + 1;
    while (atomic_load(&starting) && now() < limit)
        sched_yield();
    for (int i = 0; i < MAX_ENDING; i++) {
        int tid = atomic_load(&ending[i]);
        while (tid && syscall(SYS_tgkill, getpid(), tid, 0) == 0 && now() < limit)
            sched_yield();
        atomic_compare_exchange_strong(&ending[i], &tid, 0);
    }
}

/* In the child the others have not begun and have not ended: they are not there. */
static void forget_others(void)
{
    atomic_store(&starting, 0);
    for (int i = 0; i < MAX_ENDING; i++)
        atomic_store(&ending[i], 0);
}

__attribute__((constructor)) static void prepare_forks(void)
{
    pthread_atfork(wait_for_others, NULL, forget_others);
}
#else
typedef int no_sanitizer;
#endif
