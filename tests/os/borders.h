/* SPDX-License-Identifier: MIT */
/* What the tests of the seam share. They call its functions as the layers above do, and at borders that these avoid. */
#ifndef TANDEM_TESTS_BORDERS_H
#define TANDEM_TESTS_BORDERS_H

#include "harness.h"
#include "os/os.h"
#include "refuse.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/wait.h>

/* The call fails with that errno. */
#define CHECK_FAILS(call, error)           \
    do {                                   \
        errno = 0;                         \
        if (CHECK((intmax_t)(call) == -1)) \
            CHECK_INT(errno, (error));     \
    } while (0)

/* The same for what returns NULL. */
#define CHECK_NO(call, error)          \
    do {                               \
        errno = 0;                     \
        if (CHECK((call) == NULL))     \
            CHECK_INT(errno, (error)); \
    } while (0)

/* With the next call of the seam failing: once only, so that the same call works afterwards. */
#define WITH_FAULT(check)         \
    do {                          \
        td__fault_arm(1);         \
        check;                    \
        CHECK(td__fault_fired()); \
        td__fault_disarm();       \
    } while (0)

static inline void no_more_descriptors(rlim_t limit)
{
    struct rlimit now;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &now) == 0);
    now.rlim_cur = limit;
    REQUIRE(setrlimit(RLIMIT_NOFILE, &now) == 0);
}

/* --- signals that come again and again, until a call has met one ------------------------------------------------ */

static volatile sig_atomic_t signals_met;

static inline void meet_signal(int number)
{
    (void)number;
    signals_met++;
}

typedef struct pest {
    pthread_t victim, thread;
    atomic_bool stop;
} pest;

static inline void *pester(void *context)
{
    pest *p = context;
    while (!atomic_load(&p->stop)) {
        pthread_kill(p->victim, SIGUSR1);
        pause_ms(1);
    }
    return NULL;
}

/* From now on this thread meets SIGUSR1 every millisecond; no call is restarted by the kernel. */
static inline void pest_start(pest *p)
{
    struct sigaction action = { .sa_handler = meet_signal };
    REQUIRE(sigaction(SIGUSR1, &action, NULL) == 0);
    signals_met = 0;
    p->victim = pthread_self();
    atomic_init(&p->stop, false);
    REQUIRE(pthread_create(&p->thread, NULL, pester, p) == 0);
}

static inline void pest_stop(pest *p)
{
    atomic_store(&p->stop, true);
    pthread_join(p->thread, NULL);
}

#endif
