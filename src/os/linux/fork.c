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
#include <poll.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define STACK (128 * 1024)

struct forking {
    td__forked *forked;
    bool stay; /* the holder is the asker's child and adopts what comes to it; else it is an orphan. See exec.c */
    int life[2];
    int followed; /* the holder's descriptor of the life pipe; in the child too, until it has its own */
    int holder_fd;
    char path[32];
    char *stack;
    int error;
    _Atomic uint32_t step; /* 1: fork() has returned in the holder; 2: the asker knows, the holder may reap */
    void *back[5];         /* where the child goes on */
};

static void TD__NO_SANITIZE in_child(struct forking *forking)
{
    __builtin_longjmp(forking->back, 1);
}

static void TD__NO_SANITIZE tell(struct forking *forking, pid_t pid, int error)
{
    forking->error = error;
    forking->forked->pid = pid;
    td__store_release(&forking->step, 1); /* publishes the two above */
    td__raw3(SYS_futex, &forking->step, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1);
}

/* td__follow, without thread-local data. Whatever this process waits for then (the libc's fork() takes locks that a
 * thread of the program may hold when the program is killed), it does not outlive the program; and its child dies with
 * it. */
static bool TD__NO_SANITIZE follow(struct forking *forking)
{
    long own = td__raw4(SYS_openat, AT_FDCWD, forking->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC, 0);
    td__raw1(SYS_close, forking->life[1]);
    forking->followed = -1;
    if (own == -ENOENT || own == -ENOTDIR)
        return true; /* no /proc: only the kernel's word to our child remains, that it dies with us */
    if (own < 0) {
        tell(forking, -1, (int)-own);
        return false;
    }
    if (td__raw3(SYS_fcntl, own, F_SETOWN, forking->forked->holder) < 0 ||
        td__raw3(SYS_fcntl, own, F_SETSIG, SIGKILL) < 0 ||
        td__raw3(SYS_fcntl, own, F_SETFL, O_NONBLOCK | O_ASYNC) < 0) {
        tell(forking, -1, EINVAL);
        return false;
    }
    struct pollfd gone = { .fd = (int)own, .events = POLLIN };
    struct timespec now = { 0, 0 };
    if (td__raw5(SYS_ppoll, &gone, 1, &now, NULL, 0) > 0)
        td__raw1(SYS_exit_group, 1); /* killed before we followed */
    forking->followed = (int)own;
    return true;
}

static void TD__NO_SANITIZE hold(void *arg)
{
    struct forking *forking = arg;
    td__forked *forked = forking->forked;
    struct {
        void *handler;
        unsigned long flags;
        void *restorer;
        uint64_t mask;
    } none = { NULL, 0, NULL, 0 };
    forked->holder = (pid_t)td__raw1(SYS_getpid, 0);
    /* Ignored, as the program may have it, SIGCHLD would let the child go before we have seen how. */
    td__raw4(SYS_rt_sigaction, SIGCHLD, &none, NULL, 8);
    if (forking->stay)
        td__raw5(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    if (!follow(forking))
        return;
    pid_t pid = td__fork();
    if (pid == 0)
        in_child(forking);
    tell(forking, pid, pid < 0 ? errno : 0); /* from here on no thread-local data */
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

/* Makes the holder an orphan whose descriptor is in the asker's table. */
static void TD__NO_SANITIZE middle(void *arg)
{
    struct forking *forking = arg;
    long r = td__raw_clone(CLONE_VM | CLONE_PIDFD, forking->stack + STACK, &forking->holder_fd, hold, forking);
    if (r < 0)
        tell(forking, -1, (int)-r);
}

static int start_holder(struct forking *forking)
{
    if (td__fault(EAGAIN))
        return -1;
    /* The holder of an orphan has the upper half of the stack, the middle process the lower one. */
    long r = forking->stay ? td__raw_clone(CLONE_VM, forking->stack + STACK, NULL, hold, forking)
                           : td__raw_clone(CLONE_VM | CLONE_VFORK | CLONE_FILES, forking->stack + STACK / 2, NULL,
                                           middle, forking);
    if (r < 0) {
        errno = (int)-r;
        return -1;
    }
    /* Raw: the holder uses this thread's errno meanwhile. Acquire: pid and error. */
    while (!forking->stay && td__raw4(SYS_wait4, r, NULL, __WALL, NULL) == -EINTR)
        ;
    while (td__load_acquire(&forking->step) == 0)
        td__raw4(SYS_futex, &forking->step, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, NULL);
    if (forking->stay)
        forking->forked->holder = (pid_t)r;
    return 0;
}

/* As td__above_streams, but what cannot be moved stays open: by it the holder is waited for. */
static int above_streams(struct forking *forking)
{
    int fd = forking->holder_fd > 2 ? forking->holder_fd : td__dup_from(forking->holder_fd, 3);
    if (fd >= 0 && fd != forking->holder_fd)
        td__close(forking->holder_fd);
    return fd;
}

int td__fork_hidden(td__forked *forked, const int life[2])
{
    /* Lives as long as the holder, at the lowest end of its stack. */
    char *stack = td__map_private(STACK);
    if (!stack)
        return -1;
    struct forking *forking = (struct forking *)stack;
    forking->forked = forked;
    forking->stack = stack;
    forking->stay = td__orphans_stay();
    forking->holder_fd = -1;
    forking->life[0] = life[0];
    forking->life[1] = life[1];
    td__format(forking->path, sizeof forking->path, "/proc/self/fd/%d", life[0]);
    forked->stack = stack;
    forked->holder = 0;
    forked->holder_fd = -1;
    sigset_t mask;
    td__signals_block(&mask);
    if (__builtin_setjmp(forking->back)) {
        /* The child, with all signals blocked. Its own way to follow; the holder's is not its to keep. */
        if (forking->followed >= 0)
            td__follow(forking->followed);
        td__close(forking->followed);
        return 0;
    }
    if (start_holder(forking) < 0) {
        int error = errno;
        td__signals_restore(&mask);
        td__unmap(stack, STACK);
        errno = error;
        return -1;
    }
    int error = forking->error;
    if (error == 0) {
        forked->holder_fd = forking->stay ? td__pid_fd(forked->holder) : above_streams(forking);
        if (forked->holder_fd < 0) {
            error = errno;
            td__kill(forked->pid, SIGKILL); /* unreaped as yet */
        }
        td__store_release(&forking->step, 2);
        td__futex_wake(&forking->step, 1, false);
    }
    td__signals_restore(&mask);
    if (error == 0)
        return forked->pid;
    if (forked->holder_fd < 0 && !forking->stay)
        forked->holder_fd = forking->holder_fd;
    td__fork_reap(forked);
    errno = error;
    return -1;
}

void td__fork_reap(td__forked *forked)
{
    struct forking *forking = (struct forking *)forked->stack;
    bool ready;
    if (forking->stay)
        while (wait4(forked->holder, NULL, __WALL, NULL) < 0 && errno == EINTR)
            ;
    else if (forked->holder_fd >= 0) /* init reaps it; it no longer uses our memory when its descriptor is readable */
        td__poll(&forked->holder_fd, &ready, 1, 0);
    td__close(forked->holder_fd);
    td__unmap(forked->stack, STACK);
    forked->holder_fd = -1;
    forked->stack = NULL;
}
