/* SPDX-License-Identifier: MIT */
/* Signal masks, dispositions and names. */
#include "os/os.h"
#include "os/linux/raw.h"

#include <errno.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

/* By system call: the libc keeps two signals of its own out of its calls, and those must be blocked as well while
 * another process runs in our memory. */
void td__signals_block(sigset_t *before)
{
    sigset_t all;
    memset(&all, 0xff, sizeof all);
    memset(before, 0, sizeof *before);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, before, _NSIG / 8);
}

void td__signals_block_users(sigset_t *before)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, before);
}

void td__signals_restore(const sigset_t *mask)
{
    td__raw4(SYS_rt_sigprocmask, SIG_SETMASK, mask, NULL, _NSIG / 8);
}

void td__signals_clear(void)
{
    uint64_t none = 0;
    td__raw4(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, sizeof none);
}

void td__signals_reset(uint64_t ignored)
{
    for (int number = 1; number < _NSIG; number++) {
        if (number == SIGKILL || number == SIGSTOP)
            continue;
        struct sigaction now;
        if (sigaction(number, NULL, &now) < 0)
            continue; /* the libc's own */
        void (*wanted)(int) = ignored & TD__SIGNAL_BIT(number) ? SIG_IGN : SIG_DFL;
        if (!(now.sa_flags & SA_SIGINFO) && now.sa_handler == wanted)
            continue;
        struct sigaction action = { .sa_handler = wanted };
        sigaction(number, &action, NULL);
    }
}

uint64_t td__signals_ignored(void)
{
    uint64_t ignored = 0;
    for (int number = 1; number < _NSIG; number++) {
        struct sigaction now;
        if (sigaction(number, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_IGN)
            ignored |= TD__SIGNAL_BIT(number);
    }
    return ignored;
}

void td__signals_drop(void)
{
    struct timespec now = { 0, 0 };
    uint64_t all = ~(uint64_t)0;
    while (td__raw4(SYS_rt_sigtimedwait, &all, NULL, &now, sizeof all) > 0)
        ;
}

void td__signals_ignore_terminal(void)
{
    static const int numbers[] = { SIGINT,  SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU, SIGHUP,
                                   SIGPIPE, SIGTERM, SIGALRM, SIGUSR1, SIGUSR2 };
    for (size_t i = 0; i < TD__COUNT(numbers); i++)
        td__signal_ignore(numbers[i], true);
}

void td__signal_ignore(int number, bool ignore)
{
    struct sigaction action = { .sa_handler = ignore ? SIG_IGN : SIG_DFL };
    sigaction(number, &action, NULL);
}

int td__signal_fd_child(void)
{
    if (td__fault(EMFILE))
        return -1;
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    return td__above_streams(signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK));
}

void td__signal_fd_clear(int fd)
{
    struct signalfd_siginfo info; /* there is one at most: such a signal is pending once */
    while (td__raw3(SYS_read, fd, &info, sizeof info) == -EINTR)
        ;
}

const char *td__signal_name(int number, char buffer[24])
{
    const char *name = sigabbrev_np(number);
    if (name)
        snprintf(buffer, 24, "SIG%s", name);
    else if (number >= SIGRTMIN && number <= SIGRTMAX)
        snprintf(buffer, 24, "SIGRTMIN+%d", number - SIGRTMIN);
    else
        snprintf(buffer, 24, "signal %d", number);
    return buffer;
}
