/* SPDX-License-Identifier: MIT */
/*
 * Ladders of two deaths: a victim is killed at each step of what it does, and whoever repairs after it at each step of
 * that repair; then another one takes up where both have left it. Both are children that the library does not know of,
 * so that nobody repairs but the case. (That the spawner and the program's watcher do so by themselves is shown
 * elsewhere.)
 */
#ifndef TANDEM_TESTS_REPAIRS_H
#define TANDEM_TESTS_REPAIRS_H

#include "harness.h"
#include "os/fault.h"
#include "sync/party.h"

#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* All on the same object, in shared memory. What is not needed is NULL. */
typedef struct ruin {
    const char *name;
    void (*prepare)(void *object); /* by the case, before all */
    void (*before)(void *object);  /* by the victim, which is not killed in it */
    void (*sleep)(void *object);   /* by threads of the case; the victim goes on when so many are asleep */
    int sleepers;
    bool listed;               /* who is asleep is on a list, or drains, and does not sleep on the object's word */
    void (*act)(void *object); /* by the victim, until it is killed */
    void (*meanwhile)(void *object, pid_t victim); /* by the case */
    void (*check)(void *object, bool through);     /* by the case, when all is repaired; lets all sleepers go */
    long stride;                                   /* between the steps of the victim; 0: 1 */
} ruin;

enum { RUIN_READY = 240, RUIN_GO };

typedef struct ruin_sleeper {
    void (*sleep)(void *object);
    void *object;
    pthread_t thread;
} ruin_sleeper;

static inline void *ruin_sleep(void *argument)
{
    ruin_sleeper *sleeper = argument;
    sleeper->sleep(sleeper->object);
    return NULL;
}

/* Threads of this process that wait in either way. */
static inline int ruin_asleep(bool listed)
{
    int count = 0;
    uint32_t top = td__load_acquire(&td__the_region->party_top);
    for (uint32_t i = 1; i < top; i++)
        count +=
            (uint32_t)td__load_relaxed(td__party_entry(i)) == (uint32_t)getpid() &&
            (listed ? td__load_relaxed(&td__party_at(i)->list) != 0 || td__load_relaxed(&td__party_at(i)->asleep) != 0
                    : td__load_relaxed(&td__party_at(i)->word_waited) != NULL);
    return count;
}

static inline bool ruin_alive(pid_t pid)
{
    siginfo_t info = { .si_pid = 0 };
    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0;
}

/* ThreadSanitizer, which has not seen the fork, takes the child for one more of the threads that are not there. */
#if WITH_TSAN
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreWritesBegin(const char *file, int line);
static inline void ruin_alone(void)
{
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
}
#else
static inline void ruin_alone(void)
{
}
#endif

/* A child; 0: we are it, and a party of our own. */
static inline pid_t ruin_child(void)
{
    td__party_before_fork();
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) {
        ruin_alone();
        td__party_after_fork(true); /* as though somebody watched it */
    }
    REQUIRE(pid >= 0);
    return pid;
}

/* The end of a child, without ThreadSanitizer's look at what it ignores. */
static inline _Noreturn void ruin_exit(int code)
{
    for (;;)
        syscall(SYS_exit_group, code);
}

/* Was it killed? */
static inline bool ruin_end(pid_t pid)
{
    int status;
    REQUIRE_INT(waitpid(pid, &status, 0), pid);
    CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status);
}

static inline pid_t ruin_victim(const ruin *of, void *object, long step)
{
    pid_t pid = ruin_child();
    if (pid != 0)
        return pid;
    if (of->before)
        of->before(object);
    event_add(RUIN_READY);
    event_wait(RUIN_GO);
    td__kill_at_step(step);
    of->act(object);
    ruin_exit(harness_failed()); /* as a death, too: nothing is given back */
}

/* Repairs after the dead, and is killed; was it? */
static inline bool ruin_repair(pid_t dead, long step)
{
    pid_t pid = ruin_child();
    if (pid == 0) {
        td__kill_at_step(step);
        td__parties_died(dead);
        while (!td__parties_repair())
            sched_yield();
        ruin_exit(0);
    }
    bool killed = ruin_end(pid);
    td__parties_died(dead); /* as who comes next will: he does not know how far the other one got */
    td__parties_died(pid);
    WAIT_UNTIL(td__parties_repair(), 20);
    return killed;
}

/* Returns false if the repair was through before its step; `*through`: so was the victim. */
static inline bool ruin_rung(const ruin *of, void *object, long step, long repair_step, bool *through)
{
    ruin_sleeper sleepers[12];
    page->event[RUIN_READY] = page->event[RUIN_GO] = 0;
    if (of->prepare)
        of->prepare(object);
    pid_t victim = ruin_victim(of, object, step);
    event_wait(RUIN_READY);
    for (int i = 0; i < of->sleepers; i++) {
        sleepers[i] = (ruin_sleeper){ .sleep = of->sleep, .object = object };
        REQUIRE_INT(pthread_create(&sleepers[i].thread, NULL, ruin_sleep, &sleepers[i]), 0);
    }
    WAIT_UNTIL(ruin_asleep(of->listed) == of->sleepers, 20);
    event_set(RUIN_GO);
    if (of->meanwhile)
        of->meanwhile(object, victim);
    *through = !ruin_end(victim);
    bool killed = ruin_repair(victim, repair_step);
    of->check(object, *through);
    for (int i = 0; i < of->sleepers; i++)
        REQUIRE_INT(pthread_join(sleepers[i].thread, NULL), 0);
    return killed;
}

static inline void ruin_climb(const ruin *of, void *object, size_t size)
{
    long rungs = 0, tried = 0, step = 1;
    for (bool through = false; !through && !harness_failed();
         step += (of->stride ? of->stride : 1) * one_in(3) * thrift()) {
        tried++;
        for (long repair_step = 1; !harness_failed(); repair_step += thrift()) {
            memset(object, 0, size);
            rungs++;
            if (!ruin_rung(of, object, step, repair_step, &through))
                break;
        }
    }
    if (harness_failed())
        harness_note("%s: at step %ld", of->name, step);
    harness_note("%s: %ld steps, %ld pairs", of->name, step - 1, rungs);
    CHECK(rungs > tried); /* each repair has more than a few steps */
}

#endif
