/* SPDX-License-Identifier: MIT */
/* Descriptors, messages that carry them, and waiting for several. */
#include "os/os.h"
#include "os/linux/raw.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * Bare system calls: no thread is cancelled inside. ThreadSanitizer must see some of them: it keeps books of
 * descriptors, which also come into being by messages, and takes a message for an order between two threads.
 */
#if defined(__SANITIZE_THREAD__)
#define SEEN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SEEN 1
#endif
#endif

/* The program may have closed a standard stream: its number must not become one of ours, to be written into. */
int td__above_streams(int fd)
{
    if (fd < 0 || fd > 2)
        return fd;
    int above = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    td__close(fd);
    return above;
}

void td__close(int fd)
{
    if (fd < 0)
        return;
#ifdef SEEN
    int kept = errno;
    close(fd);
    errno = kept;
#else
    td__raw1(SYS_close, fd);
#endif
}

int td__dup_from(int fd, int from)
{
    if (td__fault(EMFILE))
        return -1;
    return fcntl(fd, F_DUPFD_CLOEXEC, from);
}

int td__dup_to(int fd, int to)
{
    long r;
    if (fd == to)
        return (int)td__result(td__raw3(SYS_fcntl, fd, F_SETFD, 0)) < 0 ? -1 : to;
    do
        r = td__raw3(SYS_dup3, fd, to, 0);
    while (r == -EINTR || r == -EBUSY);
    return (int)td__result(r);
}

void td__close_range(int first, int last)
{
    unsigned end = last < 0 ? ~0u : (unsigned)last;
    if ((unsigned)first > end || td__raw3(SYS_close_range, (unsigned)first, end, 0) == 0)
        return;
    /* Before Linux 5.9, or refused. The limit says nothing: it may be lower than what is open. */
    int top = last >= 0 && last < 65535 ? last + 1 : 65536;
    for (int fd = first; fd < top; fd++)
        td__close(fd);
}

void td__close_many(const int *fds, size_t count, int but)
{
    for (size_t i = 0, end; i < count; i = end) {
        end = i + 1;
        if (fds[i] == but)
            continue;
        while (end < count && fds[end] == fds[end - 1] + 1 && fds[end] != but)
            end++;
        if (end == i + 1)
            td__close(fds[i]);
        else
            td__close_range(fds[i], fds[end - 1]);
    }
}

int td__life_pipe(int fds[2])
{
    if (td__pipe(fds) < 0)
        return -1;
    fchmod(fds[0], 0666); /* else, after a change of user, it could not be opened anew by /proc/self/fd */
    return 0;
}

int td__event_fd(unsigned initial)
{
    if (td__fault(EMFILE))
        return -1;
    return td__above_streams(eventfd(initial, EFD_CLOEXEC | EFD_NONBLOCK));
}

void td__event_fd_signal(int fd)
{
    uint64_t one = 1;
    while (write(fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

void td__event_fd_clear(int fd)
{
    uint64_t count;
    while (read(fd, &count, sizeof count) < 0 && errno == EINTR)
        ;
}

int td__open_path(const char *path)
{
    if (td__fault(EMFILE))
        return -1;
    return td__above_streams(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC));
}

int td__chdir_fd(int fd)
{
    return (int)td__result(td__raw1(SYS_fchdir, fd));
}

void td__chdir_root(void)
{
    int r = chdir("/");
    (void)r;
}

bool td__is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

int td__close_on_exec(int fd)
{
    return fcntl(fd, F_SETFD, FD_CLOEXEC);
}

int td__open_read(const char *path)
{
    if (td__fault(EMFILE))
        return -1;
    int fd;
    do
        fd = open(path, O_RDONLY | O_CLOEXEC);
    while (fd < 0 && errno == EINTR);
    return td__above_streams(fd);
}

static int pair_above_streams(int fds[2])
{
    fds[0] = td__above_streams(fds[0]);
    fds[1] = td__above_streams(fds[1]);
    if (fds[0] >= 0 && fds[1] >= 0)
        return 0;
    td__close(fds[0]);
    td__close(fds[1]);
    return -1;
}

int td__pipe(int fds[2])
{
    if (td__fault(EMFILE))
        return -1;
    return pipe2(fds, O_CLOEXEC) < 0 ? -1 : pair_above_streams(fds);
}

ssize_t td__read_from(int fd, char *buffer, size_t size, uint64_t offset)
{
    long n;
    do
        n = td__raw4(SYS_pread64, fd, buffer, size, offset);
    while (n == -EINTR);
    return (ssize_t)td__result(n);
}

ssize_t td__read_at(int fd, char *buffer, size_t size)
{
    ssize_t n;
    do
        n = pread(fd, buffer, size, 0);
    while (n < 0 && errno == EINTR);
    return n;
}

int td__write_at(int fd, const void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = pwrite(fd, (const char *)data + done, size - done, (off_t)done);
        if (n < 0 && errno != EINTR)
            return -1;
        if (n > 0)
            done += (size_t)n;
    }
    return 0;
}

ssize_t td__read_file(const char *path, char *buffer, size_t size)
{
    int fd = td__open_read(path);
    if (fd < 0)
        return -1;
    ssize_t n = td__read_at(fd, buffer, size);
    td__close(fd);
    return n;
}

int td__socket_pair(int fds[2])
{
    if (td__fault(EMFILE))
        return -1;
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0 ? -1 : pair_above_streams(fds);
}

static ssize_t send_message(int socket, const struct msghdr *message, int flags)
{
#ifdef SEEN
    return sendmsg(socket, message, flags);
#else
    return (ssize_t)td__result(td__raw3(SYS_sendmsg, socket, message, flags));
#endif
}

static ssize_t receive_message(int socket, struct msghdr *message, int flags)
{
#ifdef SEEN
    return recvmsg(socket, message, flags);
#else
    return (ssize_t)td__result(td__raw3(SYS_recvmsg, socket, message, flags));
#endif
}

union control {
    char bytes[CMSG_SPACE(sizeof(int) * TD__MESSAGE_FDS)];
    struct cmsghdr align;
};

int td__send_parts(int socket, const struct iovec *parts, size_t count, const int *fds, size_t fd_count, bool wait)
{
    if (td__fault(ENOBUFS))
        return -1;
    if (fd_count > TD__MESSAGE_FDS) {
        errno = EINVAL;
        return -1;
    }
    union control control;
    struct msghdr message = { .msg_iov = (struct iovec *)(uintptr_t)parts, .msg_iovlen = count };
    if (fd_count > 0) {
        memset(&control, 0, CMSG_SPACE(sizeof(int) * fd_count));
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(header), fds, sizeof(int) * fd_count);
    }
    for (;;) {
        ssize_t n = send_message(socket, &message, MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT));
        if (n >= 0 || errno != EINTR)
            return n < 0 ? -1 : 0;
    }
}

int td__send(int socket, const void *data, size_t size, const int *fds, size_t fd_count)
{
    struct iovec part = { (void *)(uintptr_t)data, size };
    return td__send_parts(socket, &part, 1, fds, fd_count, true);
}

ssize_t td__receive_parts(int socket, const struct iovec *parts, size_t count, int *fds, size_t *fd_count, bool wait,
                          bool *lost)
{
    size_t room = fd_count ? *fd_count : 0;
    if (fd_count)
        *fd_count = 0;
    if (lost)
        *lost = false;
    if (td__fault(ENOBUFS))
        return -1;
    union control control;
    struct msghdr message = { .msg_iov = (struct iovec *)(uintptr_t)parts,
                              .msg_iovlen = count,
                              .msg_control = &control };
    message.msg_controllen = sizeof control;
    ssize_t n;
    do
        n = receive_message(socket, &message, MSG_CMSG_CLOEXEC | MSG_TRUNC | (wait ? 0 : MSG_DONTWAIT));
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -1;
    size_t got = 0;
    bool missing = (message.msg_flags & MSG_CTRUNC) != 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        size_t number = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < number; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
            if (got < room && (fd = td__above_streams(fd)) >= 0)
                fds[got++] = fd;
            else if (fd >= 0)
                td__close(fd);
            else
                missing = true;
        }
    }
    if (missing) { /* some did not fit into our table: none, rather than a part */
        for (size_t i = 0; i < got; i++)
            td__close(fds[i]);
        got = 0;
    }
    if (fd_count)
        *fd_count = got;
    if (lost)
        *lost = missing;
    return n;
}

ssize_t td__receive(int socket, void *data, size_t size, int *fds, size_t *fd_count, bool wait)
{
    struct iovec part = { data, size };
    return td__receive_parts(socket, &part, 1, fds, fd_count, wait, NULL);
}

void td__socket_enlarge(int socket, int bytes)
{
    setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

void td__socket_shut(int socket, bool reading, bool writing)
{
    if (reading || writing)
        shutdown(socket, reading && writing ? SHUT_RDWR : reading ? SHUT_RD : SHUT_WR);
}

bool td__is_packet_socket(int fd)
{
    int domain = 0, type = 0;
    socklen_t size = sizeof domain;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0)
        return false;
    size = sizeof type;
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && domain == AF_UNIX && type == SOCK_SEQPACKET;
}

bool td__is_own_socket(int fd)
{
    struct ucred maker;
    socklen_t size = sizeof maker;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &maker, &size) == 0 && size == sizeof maker &&
           maker.uid == geteuid() && maker.gid == getegid();
}

int td__stream_pair(int fds[2])
{
    if (td__fault(EMFILE))
        return -1;
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0 ? -1 : pair_above_streams(fds);
}

int td__stream_send(int socket, const char *bytes, size_t size)
{
    struct iovec part = { (void *)(uintptr_t)bytes, size };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
    ssize_t n;
    do
        n = send_message(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -1 : 0;
}

ssize_t td__stream_receive(int socket, char *bytes, size_t size, bool wait)
{
    struct iovec part = { bytes, size };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
    ssize_t n;
    do
        n = receive_message(socket, &message, wait ? 0 : MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n;
}

static struct timespec *left_until(int64_t deadline, struct timespec *left)
{
    if (!deadline)
        return NULL;
    int64_t ns = deadline - td__now();
    ns = ns > 0 ? ns : 0;
    *left = (struct timespec){ .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };
    return left;
}

int td__wait_ready(int fd, bool writing, int64_t deadline)
{
    struct pollfd polled = { .fd = fd, .events = writing ? POLLOUT : POLLIN };
    struct timespec left;
    int n;
    do
        n = (int)td__result(td__raw5(SYS_ppoll, &polled, 1, left_until(deadline, &left), NULL, 0));
    while (n < 0 && errno == EINTR);
    return n;
}

static int poll_with(struct pollfd *polled, const int *fds, bool *ready, size_t count, int64_t deadline)
{
    for (size_t i = 0; i < count; i++)
        polled[i] = (struct pollfd){ .fd = fds[i], .events = POLLIN };
    for (;;) {
        struct timespec left;
        long n = td__raw5(SYS_ppoll, polled, count, left_until(deadline, &left), NULL, 0);
        if (n == -EINTR)
            continue;
        for (size_t i = 0; i < count; i++)
            ready[i] = n > 0 && polled[i].revents != 0;
        return (int)td__result(n);
    }
}

static __attribute__((noinline)) int poll_many(const int *fds, bool *ready, size_t count, int64_t deadline)
{
    struct pollfd polled[TD__POLL_MAX];
    if (count > TD__COUNT(polled)) {
        errno = EINVAL;
        return -1;
    }
    return poll_with(polled, fds, ready, count, deadline);
}

int td__poll(const int *fds, bool *ready, size_t count, int64_t deadline)
{
    struct pollfd polled[8]; /* a spawner touches no more of its stack than it must: a fork makes it anew each time */
    if (count > TD__COUNT(polled))
        return poll_many(fds, ready, count, deadline);
    return poll_with(polled, fds, ready, count, deadline);
}
