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

/* Under another root, harness_dir, whose /proc is ours to write; and back, for what looks at the process afterwards. */
static int former_root = -1;

static inline void enter_root(void)
{
    lonely_uid();
    former_root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    REQUIRE(former_root >= 0 && chroot(harness_dir) == 0 && chdir("/") == 0);
    harness_dir = "";
}

static inline void leave_root(void)
{
    REQUIRE(fchdir(former_root) == 0 && chroot(".") == 0);
}

/* Ends the case: where a leak checker cannot look, as without /proc, or refused what it needs. */
static inline _Noreturn void end_here(void)
{
    fflush(stdout);
    _exit(harness_failed());
}

/* Mappings of this process; ThreadSanitizer makes its own whenever it likes. */
static inline int mappings_now(void)
{
    return WITH_TSAN ? 0 : count_maps("");
}

/* --- signals that come again and again, until a call has met some ------------------------------------------------ */

static atomic_int signals_met; /* ThreadSanitizer calls handlers later than the kernel does */

static inline void meet_signal(int number)
{
    (void)number;
    atomic_fetch_add(&signals_met, 1);
}

typedef struct pest {
    pthread_t victim, thread;
    atomic_bool stop;
    atomic_int sent;
} pest;

static inline void *pester(void *context)
{
    pest *p = context;
    while (!atomic_load(&p->stop)) {
        pthread_kill(p->victim, SIGUSR1);
        atomic_fetch_add(&p->sent, 1);
        pause_ms(1);
    }
    return NULL;
}

/* From now on this thread meets SIGUSR1 every millisecond; no call is restarted by the kernel. */
static inline void pest_start(pest *p)
{
    struct sigaction action = { .sa_handler = meet_signal };
    REQUIRE(sigaction(SIGUSR1, &action, NULL) == 0);
    atomic_store(&signals_met, 0);
    p->victim = pthread_self();
    atomic_init(&p->stop, false);
    atomic_init(&p->sent, 0);
    REQUIRE(pthread_create(&p->thread, NULL, pester, p) == 0);
}

static inline void pest_stop(pest *p)
{
    atomic_store(&p->stop, true);
    pthread_join(p->thread, NULL);
}

/* Runs `function` in another thread, which does not meet the signals, and is to wait for some. */
static inline pthread_t beside_pest(pest *p, void *(*function)(void *))
{
    pthread_t thread;
    sigset_t mask, before;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    REQUIRE(pthread_sigmask(SIG_BLOCK, &mask, &before) == 0);
    REQUIRE(pthread_create(&thread, NULL, function, p) == 0);
    REQUIRE(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    return thread;
}

/* Until the victim has been sent so many more. */
static inline void await_signals(pest *p, int more)
{
    int until = atomic_load(&p->sent) + more;
    for (double end = now() + 10 * SLOW; atomic_load(&p->sent) < until && now() < end;)
        pause_ms(1);
}

#endif
