/* SPDX-License-Identifier: MIT */
/* Threads, by the libc's pthread_create: it owns stacks and thread-local data. */
#include "os/os.h"
#include "os/linux/raw.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

size_t td__stack_minimum(void)
{
    long least = sysconf(_SC_THREAD_STACK_MIN);
    return least > 0 ? (size_t)least : 16384;
}

int td__thread_create(pthread_t *thread, size_t stack_size, void *(*run)(void *), void *arg)
{
    if (td__fault(EAGAIN))
        return -1;
    int error;
    if (stack_size == 0) {
        error = pthread_create(thread, NULL, run, arg);
    } else {
        pthread_attr_t attributes;
        error = pthread_attr_init(&attributes);
        if (error == 0) {
            size_t page = td__page_size();
            error = pthread_attr_setstacksize(&attributes, (stack_size + page - 1) & ~(page - 1));
            if (error == 0)
                error = pthread_create(thread, &attributes, run, arg);
            pthread_attr_destroy(&attributes);
        }
    }
    if (error == 0)
        return 0;
    errno = error;
    return -1;
}

int td__thread_join(pthread_t thread)
{
    return pthread_join(thread, NULL);
}

void td__thread_name(const char *name)
{
    td__raw2(SYS_prctl, PR_SET_NAME, name);
}

/* The number is in the libc's record of the thread, and the libc builds the thread's CPU clock from it, in the form
 * that the kernel knows: the number inverted, above three bits that say which clock. So it can be had without a system
 * call, if this libc does so. */
static pid_t id_by_clock(void)
{
    clockid_t clock;
    if (pthread_getcpuclockid(pthread_self(), &clock) != 0 || clock >= 0)
        return 0;
    return (pid_t)(~(unsigned)clock >> 3);
}

pid_t td__thread_id(void)
{
    static _Atomic int trusted; /* 0 not tried, 1 yes, -1 no; relaxed: any thread finds the same */
    int known = td__load_relaxed(&trusted);
    pid_t id = known >= 0 ? id_by_clock() : 0;
    if (known > 0)
        return id;
    pid_t asked = (pid_t)syscall(SYS_gettid);
    td__store_relaxed(&trusted, id == asked ? 1 : -1);
    return asked;
}

void td__yield(void)
{
    td__raw0(SYS_sched_yield);
}

unsigned td__cpu(void)
{
    return (unsigned)sched_getcpu();
}

static unsigned cpus;

/* At the beginning, when no thread can have been bound to a processor of its own: with two that are, each on another,
 * what the one that asks first may run on would say nothing about the other. */
__attribute__((constructor)) static void count_cpus(void)
{
    cpu_set_t set;
    long count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : sysconf(_SC_NPROCESSORS_ONLN);
    cpus = count > 0 ? (unsigned)count : 1;
}

unsigned td__cpu_count(void)
{
    return cpus > 0 ? cpus : 1; /* 0: a constructor before this one asks */
}

void td__cpu_count_set(unsigned count)
{
    cpus = count;
}

static int barrier(int command)
{
    if (td__fault(EPERM))
        return -1;
    return (int)syscall(SYS_membarrier, command, 0, 0);
}

bool td__barrier_register(bool shared)
{
    return barrier(shared ? MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED : MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0;
}

bool td__barrier_others(bool shared)
{
    return barrier(shared ? MEMBARRIER_CMD_GLOBAL_EXPEDITED : MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0;
}
