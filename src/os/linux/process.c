/* SPDX-License-Identifier: MIT */
/* Processes: identity, death and signals. Starting them is in exec.c and fork.c. */
#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

pid_t td__getpid(void)
{
    return getpid();
}

pid_t td__getppid(void)
{
    return getppid();
}

bool td__is_secure(void)
{
    return getauxval(AT_SECURE) != 0;
}

int td__pid_fd(pid_t pid)
{
    if (td__fault(EMFILE))
        return -1;
    return td__above_streams((int)syscall(SYS_pidfd_open, pid, 0)); /* closes on exec by itself */
}

int td__pid_fd_kill(int pid_fd, int signal)
{
    return (int)syscall(SYS_pidfd_send_signal, pid_fd, signal, NULL, 0);
}

void td__kill(pid_t pid, int signal)
{
    if (pid > 0)
        kill(pid, signal);
}

pid_t td__fork(void)
{
    if (td__fault(EAGAIN))
        return -1;
    return fork();
}

void td__exit_now(int code)
{
    _exit(code);
}

bool td__die_with_parent(pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    /* The parent may have died before the line above; then nobody would tell us. */
    return getppid() == parent;
}

int td__follow(int pipe_end)
{
    char path[32];
    if (td__fault(EMFILE))
        return -1;
    /* Each worker does this: by hand, for the libc's formatting would touch seven more pages of each. */
    memcpy(path, "/proc/self/fd/", 15);
    char digits[12];
    int count = 0, at = 14;
    for (int left = pipe_end; left > 0 || count == 0; left /= 10)
        digits[count++] = (char)('0' + left % 10);
    while (count > 0)
        path[at++] = digits[--count];
    path[at] = 0;
    int own = td__above_streams(open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    if (own < 0)
        return -1;
    struct pollfd gone = { .fd = own, .events = POLLIN };
    if (fcntl(own, F_SETOWN, getpid()) < 0 || fcntl(own, F_SETSIG, SIGKILL) < 0 ||
        fcntl(own, F_SETFL, O_NONBLOCK | O_ASYNC) < 0) {
        td__close(own);
        return -1;
    }
    /* From here on its end kills us; it may have come before. */
    if (poll(&gone, 1, 0) > 0)
        _exit(1);
    return own;
}

int td__child_ended(td__death *death)
{
    siginfo_t info = { .si_pid = 0 };
    int r;
    do
        r = waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WALL);
    while (r < 0 && errno == EINTR);
    if (r < 0)
        return -1;
    if (info.si_pid == 0)
        return 0;
    death->pid = info.si_pid;
    death->signaled = info.si_code != CLD_EXITED;
    death->number = info.si_status;
    return 1;
}

void td__child_reap(pid_t pid)
{
    siginfo_t info;
    while (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | __WALL) < 0 && errno == EINTR)
        ;
}
