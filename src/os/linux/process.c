/* SPDX-License-Identifier: MIT */
/* Processes: identity, death and signals. Starting them is in exec.c and fork.c. */
#include "os/os.h"
#include "os/linux/raw.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
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

bool td__exec_gives_rights(void)
{
    static const char self[] = "/proc/self/exe";
    struct stat file;
    if (stat(self, &file) < 0)
        return false;
    return ((file.st_mode & S_ISUID) && file.st_uid != geteuid()) ||
           ((file.st_mode & S_ISGID) && file.st_gid != getegid()) ||
           (geteuid() != 0 && getxattr(self, "security.capability", NULL, 0) > 0);
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

bool td__pid_exists(pid_t pid)
{
    return kill(pid, 0) == 0 || errno != ESRCH;
}

pid_t td__fork(void)
{
    if (td__fault(EAGAIN))
        return -1;
    return fork();
}

void td__exit_now(int code)
{
    td__coverage_save();
    for (;;)
        td__raw1(SYS_exit_group, code);
}

bool td__die_with_parent(pid_t parent)
{
    td__raw5(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    /* The parent may have died before the line above; then nobody would tell us. */
    return td__raw0(SYS_getppid) == parent;
}

int td__descriptors(void)
{
    return td__open_path("/proc/self/fd");
}

int td__reopen(int directory, int fd)
{
    if (td__fault(EMFILE))
        return -1;
    if (fd < 0) { /* its digits would be a path as well */
        errno = EBADF;
        return -1;
    }
    /* By hand: the libc's formatting would touch seven more pages of each worker. */
    char path[32] = "/proc/self/fd/", digits[12];
    int at = directory < 0 ? 14 : 0, count = 0;
    for (int left = fd; left > 0 || count == 0; left /= 10)
        digits[count++] = (char)('0' + left % 10);
    while (count > 0)
        path[at++] = digits[--count];
    path[at] = 0;
    long own = td__raw4(SYS_openat, directory < 0 ? AT_FDCWD : directory, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC, 0);
    return td__above_streams((int)td__result(own));
}

int td__follow_opened(int own)
{
    if (own < 0)
        return -1;
    struct pollfd gone = { .fd = own, .events = POLLIN };
    struct timespec now = { 0, 0 };
    long r = td__raw3(SYS_fcntl, own, F_SETOWN, td__raw0(SYS_getpid));
    if (r >= 0)
        r = td__raw3(SYS_fcntl, own, F_SETSIG, SIGKILL);
    if (r >= 0)
        r = td__raw3(SYS_fcntl, own, F_SETFL, O_NONBLOCK | O_ASYNC);
    if (r < 0) {
        td__close(own);
        return (int)td__result(r);
    }
    /* From here on its end kills us; it may have come before. */
    if (td__raw5(SYS_ppoll, &gone, 1, &now, NULL, 0) > 0)
        td__exit_now(1);
    return own;
}

int td__follow(int pipe_end)
{
    return td__follow_opened(td__reopen(-1, pipe_end));
}

int td__child_ended(td__death *death)
{
    siginfo_t info;
    info.si_pid = 0;
    long r;
    do
        r = td__raw5(SYS_waitid, P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WALL, NULL);
    while (r == -EINTR);
    if (r < 0)
        return (int)td__result(r);
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
    while (td__raw5(SYS_waitid, P_PID, pid, &info, WEXITED | WNOHANG | __WALL, NULL) == -EINTR)
        ;
}
