/* SPDX-License-Identifier: MIT */
/*
 * fork() whose child wait() and SIGCHLD do not meet.
 *
 * The libc's fork() is needed, for it keeps malloc, stdio and the atfork handlers in order; but its child has
 * SIGCHLD as exit signal. So it is called by a holder: a process that shares our memory and has exit signal 0. The
 * holder calls fork() on the thread data of the thread that asked, which sleeps meanwhile; then it tells that thread,
 * touches no thread-local data any more, waits for its child, writes down how it ended and ends. The child jumps back
 * into the copy of the asking thread's stack and returns from there, as after any fork().
 */
#include "os/os.h"
#include "os/linux/raw.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define STACK (64 * 1024)

struct forking {
    td__forked *forked;
    pid_t asker;
    bool adopt;
    int life[2];
    int followed; /* in the holder, and in the child until it closes it */
    char path[32];
    int error;
    _Atomic uint32_t
        step;      /* 1: fork() has returned in the holder; 2: the asker has its descriptors, the holder may reap */
    void *back[5]; /* where the child goes on */
};

static void TD__NO_SANITIZE in_child(struct forking *forking)
{
    __builtin_longjmp(forking->back, 1);
}

/* td__follow, without thread-local data. Whatever this process waits for then (the libc's fork() takes locks that a
 * thread of the program may hold when the program is killed), it does not outlive the program; and its child dies with
 * it. */
static bool TD__NO_SANITIZE follow(struct forking *forking)
{
    td__raw1(SYS_close, forking->life[1]);
    long own = td__raw4(SYS_openat, AT_FDCWD, forking->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC, 0);
    if (own < 0 || td__raw3(SYS_fcntl, own, F_SETOWN, forking->forked->holder) < 0 ||
        td__raw3(SYS_fcntl, own, F_SETSIG, SIGKILL) < 0 || td__raw3(SYS_fcntl, own, F_SETFL, O_NONBLOCK | O_ASYNC) < 0)
        return false;
    if (td__raw1(SYS_getppid, 0) != forking->asker)
        td__raw1(SYS_exit_group, 1); /* killed before we followed */
    forking->followed = (int)own;
    return true;
}

static void TD__NO_SANITIZE hold(void *arg)
{
    struct forking *forking = arg;
    td__forked *forked = forking->forked;
    forked->holder = (pid_t)td__raw1(SYS_getpid, 0);
    if (forking->adopt)
        td__raw5(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    if (!follow(forking)) {
        forking->error = ESRCH;
        forked->pid = -1;
        td__store_release(&forking->step, 1);
        td__raw3(SYS_futex, &forking->step, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1);
        return;
    }
    pid_t pid = td__fork();
    if (pid == 0)
        in_child(forking);
    forking->error = pid < 0 ? errno : 0;
    forked->pid = pid;
    td__store_release(&forking->step, 1); /* publishes pid and error; from here on no thread-local data */
    td__raw3(SYS_futex, &forking->step, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1);
    if (pid < 0)
        return;
    while (td__load_acquire(&forking->step) != 2)
        td__raw4(SYS_futex, &forking->step, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 1, NULL);
    if (forking->followed > 0)
        td__raw3(SYS_close_range, 0, forking->followed - 1, 0);
    td__raw3(SYS_close_range, forking->followed + 1, ~0u, 0);
    td__raw1(SYS_chdir, "/");
    siginfo_t info;
    long r;
    do
        r = td__raw5(SYS_waitid, P_PID, pid, &info, WEXITED | WNOWAIT | __WALL, NULL);
    while (r == -EINTR);
    forked->death->pid = pid;
    forked->death->signaled = r < 0 || info.si_code != CLD_EXITED;
    forked->death->number = r < 0 ? SIGKILL : info.si_status;
    td__fetch_or_acq_rel(forked->done, forked->done_bit); /* publishes the death to joiners */
    td__raw3(SYS_futex, forked->done, FUTEX_WAKE, INT_MAX);
    do /* what the child left, if it comes to us */
        r = td__raw4(SYS_wait4, -1, NULL, __WALL, NULL);
    while (r > 0 || r == -EINTR);
}

int td__fork_hidden(td__forked *forked, const int life[2])
{
    /* Lives as long as the holder: at the lowest end of its stack. */
    char *stack = td__map_private(STACK);
    if (!stack)
        return -1;
    struct forking *forking = (struct forking *)stack;
    forking->forked = forked;
    forking->asker = getpid();
    forking->adopt = td__orphans_stay();
    forking->life[0] = life[0];
    forking->life[1] = life[1];
    td__format(forking->path, sizeof forking->path, "/proc/self/fd/%d", life[0]);
    forked->stack = stack;
    forked->holder_fd = -1;
    sigset_t mask;
    td__signals_block(&mask);
    if (__builtin_setjmp(forking->back)) {
        td__close(forking->followed);
        return 0; /* the child, with all signals blocked */
    }
    long holder = td__fault(EAGAIN) ? -EAGAIN : td__raw_clone(CLONE_VM, stack + STACK, NULL, hold, forking);
    if (holder < 0) {
        td__signals_restore(&mask);
        td__unmap(stack, STACK);
        errno = (int)-holder;
        return -1;
    }
    /* Raw: the holder uses this thread's errno meanwhile. Acquire: pid and error. */
    while (td__load_acquire(&forking->step) == 0)
        td__raw4(SYS_futex, &forking->step, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, NULL);
    int error = forking->error;
    forked->holder = (pid_t)holder;
    if (error == 0) {
        forked->holder_fd = td__pid_fd((pid_t)holder);
        if (forked->holder_fd < 0) {
            error = errno;
            td__kill(forked->pid, SIGKILL); /* unreaped as yet */
        }
        td__store_release(&forking->step, 2);
        td__futex_wake(&forking->step, 1, false);
    }
    td__signals_restore(&mask);
    if (error) {
        td__fork_reap(forked);
        errno = error;
        return -1;
    }
    return forked->pid;
}

void td__fork_reap(td__forked *forked)
{
    while (wait4(forked->holder, NULL, __WALL, NULL) < 0 && errno == EINTR)
        ;
    td__close(forked->holder_fd);
    td__unmap(forked->stack, STACK);
    forked->holder_fd = -1;
    forked->stack = NULL;
}
