/* SPDX-License-Identifier: MIT */
/*
 * Starting the program anew (the spawner), hidden from the caller's wait() and SIGCHLD.
 *
 * A child whose exit signal is not SIGCHLD is seen neither by wait() nor by a SIGCHLD handler, but execve() sets the
 * exit signal back to SIGCHLD. So the new process must not be our child: a middle process, which shares our memory (so
 * that nothing is copied, whatever its size) and has exit signal 0, starts it and
 *   - ends: the new process is then the child of init; or,
 *   - where init or the nearest reaper of orphans is this very process, or a program of which this is a worker, so that
 *     the orphan would come to it, stays as its parent ("holder"), adopts what it leaves, and ends after all of
 *     it. It has the price that process viewers count our memory twice.
 *
 * The middle process and the new one until its execve() run in our memory on stacks of their own, while the thread
 * that asked sleeps (or, with a holder, runs): they make raw system calls only, touch no thread-local data and run with
 * all signals blocked, so that none of our handlers can run there.
 */
#include "os/os.h"
#include "os/linux/raw.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define STACK (32 * 1024)

struct launch {
    td__exec *request;
    char *stacks; /* two: the middle process's, the new one's */
    bool stay;
    /* results, written by the other processes while we wait */
    long pid;
    int pid_fd;
    int error;
    const char *stage;
    /* with a holder: 1 set by it when the results are there, 2 by us when we have our own descriptor of the new
     * process, so that the holder may reap it */
    _Atomic uint32_t step;
};

static void TD__NO_SANITIZE give_up(struct launch *launch, const char *stage, long error)
{
    launch->stage = stage;
    launch->error = (int)-error;
    td__raw1(SYS_exit, 127);
}

/* The new process, until it becomes the program anew. */
static void TD__NO_SANITIZE become(void *arg)
{
    struct launch *launch = arg;
    td__exec *request = launch->request;
    int count = (int)request->keep_count;
    int moved[16];
    /* Out of the way first: a number in `keep` may be one that we are about to fill. */
    for (int i = 0; i < count; i++) {
        long fd = td__raw3(SYS_fcntl, request->keep[i], F_DUPFD, 3 + count);
        if (fd < 0)
            give_up(launch, "fcntl", fd);
        moved[i] = (int)fd;
    }
    long null = td__raw4(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC, 0);
    if (null < 0) /* no /dev here: anything will do that keeps 0, 1 and 2 from being given out */
        null = td__raw2(SYS_eventfd2, 0, O_CLOEXEC);
    if (null < 0)
        give_up(launch, "open /dev/null", null);
    for (int fd = 0; fd < 3; fd++) {
        if (fd == 2 && null != 2 && td__raw3(SYS_fcntl, 2, F_GETFD, 0) >= 0)
            continue;
        long r = null == fd ? td__raw3(SYS_fcntl, fd, F_SETFD, 0) : td__raw3(SYS_dup3, null, fd, 0);
        if (r < 0)
            give_up(launch, "dup3", r);
    }
    for (int i = 0; i < count; i++) {
        long r = td__raw3(SYS_dup3, moved[i], 3 + i, 0);
        if (r < 0)
            give_up(launch, "dup3", r);
    }
    if (td__raw3(SYS_close_range, 3 + count, ~0u, 0) < 0)
        for (int fd = 3 + count; fd < 65536; fd++)
            td__raw1(SYS_close, fd);
    /* A program whose real user is not the effective one would be started with AT_SECURE: as setuid programs are. */
    if (request->user != request->real_user || request->group != request->real_group)
        if (td__raw3(SYS_setresgid, request->group, request->group, request->group) < 0 ||
            td__raw3(SYS_setresuid, request->user, request->user, request->user) < 0)
            give_up(launch, "setresuid", -EPERM);
    long r = td__raw3(SYS_execve, "/proc/self/exe", request->argv, request->environment);
    give_up(launch, "execve /proc/self/exe", r);
}

static void TD__NO_SANITIZE middle(void *arg)
{
    struct launch *launch = arg;
    /* CLONE_VFORK: we go on when the new process has left our memory. Sharing the caller's descriptor table (unless we
     * stay), the descriptor of the new process appears in the caller's. */
    long pid = td__raw_clone(CLONE_VM | CLONE_VFORK | (launch->stay ? 0 : CLONE_PIDFD) | SIGCHLD,
                             launch->stacks + 2 * STACK, &launch->pid_fd, become, launch);
    if (pid < 0) {
        launch->stage = "clone";
        launch->error = (int)-pid;
        launch->pid_fd = -1;
    }
    launch->pid = pid;
    if (!launch->stay)
        return;
    td__raw3(SYS_close_range, 0, ~0u, 0);
    td__raw1(SYS_chdir, "/");
    td__raw5(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    td__store_release(&launch->step, 1); /* publishes the results to td__exec_self */
    td__raw3(SYS_futex, &launch->step, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1);
    while (td__load_acquire(&launch->step) != 2)
        td__raw4(SYS_futex, &launch->step, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 1, NULL);
    long r;
    do
        r = td__raw4(SYS_wait4, -1, NULL, __WALL, NULL);
    while (r > 0 || r == -EINTR);
}

bool td__reaper_above;

bool td__orphans_stay(void)
{
    int reaper = 0;
    if (getpid() == 1 || (prctl(PR_GET_CHILD_SUBREAPER, &reaper) == 0 && reaper))
        td__reaper_above = true;
    return td__reaper_above;
}

static void reap(pid_t pid)
{
    while (wait4(pid, NULL, __WALL, NULL) < 0 && errno == EINTR)
        ;
}

/* The descriptor has the number of a closed stream. Where it cannot be moved away, the new process cannot be watched.
 */
static void move_above(struct launch *launch)
{
    int above = td__dup_from(launch->pid_fd, 3);
    if (above >= 0) {
        td__close(launch->pid_fd);
        launch->pid_fd = above;
        return;
    }
    launch->error = errno;
    launch->stage = "fcntl";
    td__pid_fd_kill(launch->pid_fd, SIGKILL);
}

/* With a holder, the launch record lives at the lowest end of the stacks, since the holder uses it as long as it lives.
 */
int td__exec_self(td__exec *request)
{
    request->user = geteuid();
    request->real_user = getuid();
    request->group = getegid();
    request->real_group = getgid();
    request->pid_fd = -1;
    request->holder = 0;
    request->holder_stack = NULL;
    request->stage = "mmap";
    if (request->keep_count > 16) {
        errno = EINVAL;
        return -1;
    }
    char *stacks = td__map_private(2 * STACK);
    if (!stacks)
        return -1;
    struct launch *launch = (struct launch *)stacks;
    *launch = (struct launch){ .request = request, .stacks = stacks, .stay = td__orphans_stay(), .pid_fd = -1 };
    sigset_t mask;
    td__signals_block(&mask);
    long pid = -EAGAIN;
    if (!td__fault(EAGAIN))
        pid = td__raw_clone(CLONE_VM | (launch->stay ? 0 : CLONE_VFORK | CLONE_FILES), stacks + STACK, NULL, middle,
                            launch);
    if (pid < 0) {
        launch->stage = "clone";
        launch->error = (int)-pid;
    } else if (launch->stay) {
        /* Acquire: the results that middle() published. */
        while (td__load_acquire(&launch->step) == 0)
            td__futex_wait(&launch->step, 0, 0, false);
        if (launch->error == 0) {
            launch->pid_fd = td__pid_fd((pid_t)launch->pid);
            if (launch->pid_fd < 0) {
                launch->error = errno;
                launch->stage = "pidfd_open";
                td__kill((pid_t)launch->pid, SIGKILL); /* still unreaped: the holder waits for us */
            }
        }
        td__store_release(&launch->step, 2);
        td__futex_wake(&launch->step, 1, false);
        if (launch->error)
            reap((pid_t)pid);
    } else {
        reap((pid_t)pid);
    }
    td__signals_restore(&mask);
    if (launch->error == 0 && launch->pid_fd < 3)
        move_above(launch);
    int error = launch->error;
    request->stage = launch->stage;
    request->pid = (pid_t)launch->pid;
    request->pid_fd = launch->pid_fd;
    if (error) {
        td__close(launch->pid_fd); /* of a process that ended before its execve, or has been killed */
        request->pid_fd = -1;
        td__unmap(stacks, 2 * STACK);
        errno = error;
        return -1;
    }
    if (launch->stay) {
        request->holder = (pid_t)pid;
        request->holder_stack = stacks;
    } else {
        td__unmap(stacks, 2 * STACK);
    }
    return 0;
}

void td__holder_reap(pid_t holder, void *stack)
{
    if (holder > 0)
        reap(holder);
    td__unmap(stack, 2 * STACK);
}
