/* SPDX-License-Identifier: MIT */
/*
 * A program, or a library that it is linked with, that starts threads before main: they run before td_init, in the
 * program and again in the spawner, which is then not single-threaded when it forks.
 */
#include "harness.h"

#include <pthread.h>
#include <stdatomic.h>

static atomic_long rounds;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool end;

/* Allocates, locks and prints nothing, all the time: what a fork could catch in the middle. */
static void *works(void *unused)
{
    while (!atomic_load(&end)) {
        pthread_mutex_lock(&lock);
        void *block = malloc(1000);
        atomic_fetch_add(&rounds, 1);
        free(block);
        pthread_mutex_unlock(&lock);
        pause_ms(1);
    }
    return unused;
}

static pthread_t thread;

__attribute__((constructor)) static void begin(void)
{
    pthread_create(&thread, 0, works, 0);
}

__attribute__((destructor)) static void stop(void)
{
    atomic_store(&end, true);
    pthread_join(thread, 0);
}

static int allocates(td_call *call)
{
    for (int i = 0; i < 100; i++)
        free(malloc(1000 + (size_t)i * 100));
    return td_return_str(call, "done");
}

/* Catches: a spawner that refuses, or hangs in, a program with a thread of its own; a lock that stays held. */
TEST_MODES(thread_before_init)
{
    CHECK(count_threads() >= 2);
    for (int i = 0; i < 100; i++) {
        td_worker *w = JOINED(NEW(.target = allocates));
        CHECK_STR(td_result_str(w), "done");
        td_free(w);
    }
    CHECK_OK(td_finish());
    CHECK_NOTHING_LEFT();
}
