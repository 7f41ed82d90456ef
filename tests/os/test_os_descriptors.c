/* SPDX-License-Identifier: MIT */
/* Descriptors, where they are numbered, and messages that carry them: at their borders. */
#include "borders.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* --- all that make descriptors ---------------------------------------------------------------------------------- */

static int spare_pipe[2];

static int by_event(void)
{
    return td__event_fd(0);
}

static int by_path(void)
{
    return td__open_path("/");
}

static int by_file(void)
{
    return td__open_read("/dev/null");
}

static int by_dup(void)
{
    return td__dup_from(spare_pipe[0], 3);
}

static int by_memory(void)
{
    return td__memory_file("t", 4096);
}

static int by_signals(void)
{
    return td__signal_fd_child();
}

static int by_pid(void)
{
    return td__pid_fd(getpid());
}

static int by_directory(void)
{
    return td__descriptors();
}

static int by_reopening(void)
{
    return td__reopen(-1, spare_pipe[0]);
}

/* Of a pair both numbers are checked, and the first one is the caller's. */
static int first_of(int r, int fds[2])
{
    if (r < 0)
        return -1;
    CHECK(fds[1] > 2);
    CHECK(fcntl(fds[1], F_GETFD) == FD_CLOEXEC);
    close(fds[1]);
    return fds[0];
}

static int by_pipe(void)
{
    int fds[2];
    return first_of(td__pipe(fds), fds);
}

static int by_life_pipe(void)
{
    int fds[2];
    return first_of(td__life_pipe(fds), fds);
}

static int by_socket_pair(void)
{
    int fds[2];
    return first_of(td__socket_pair(fds), fds);
}

static int by_stream_pair(void)
{
    int fds[2];
    return first_of(td__stream_pair(fds), fds);
}

static const struct {
    const char *name;
    int (*make)(void);
} makers[] = {
    { "event", by_event },
    { "path", by_path },
    { "file", by_file },
    { "dup", by_dup },
    { "memory", by_memory },
    { "signals", by_signals },
    { "pid", by_pid },
    { "directory", by_directory },
    { "reopening", by_reopening },
    { "pipe", by_pipe },
    { "life pipe", by_life_pipe },
    { "socket pair", by_socket_pair },
    { "stream pair", by_stream_pair },
};

/* With every combination of closed streams. Catches: a descriptor that the program's printf() would write into; one
 * that is inherited over an exec. */
TEST(numbers_above_the_streams)
{
    REQUIRE(td__pipe(spare_pipe) == 0);
    int saved[3];
    for (int i = 0; i < 3; i++)
        REQUIRE((saved[i] = fcntl(i, F_DUPFD_CLOEXEC, 100)) >= 0);
    for (int closed = 0; closed < 8; closed++) {
        for (size_t m = 0; m < TD__COUNT(makers); m++) {
            int before = count_fds();
            for (int i = 0; i < 3; i++)
                if (closed >> i & 1)
                    close(i);
            int fd = makers[m].make();
            int flags = fcntl(fd, F_GETFD);
            for (int i = 0; i < 3; i++)
                dup2(saved[i], i);
            if (!CHECK(fd > 2 && flags == FD_CLOEXEC))
                harness_note("    %s, streams closed: %d", makers[m].name, closed);
            td__close(fd);
            CHECK_INT(count_fds(), before);
        }
    }
}

/* As many numbers as are open already, but for those of closed streams, from which a new one must move away and cannot.
 * Catches: a descriptor that is lost on the way, or kept where it must not be. */
TEST(no_numbers_left)
{
    REQUIRE(td__pipe(spare_pipe) == 0);
    int saved[3];
    for (int i = 0; i < 3; i++)
        REQUIRE((saved[i] = fcntl(i, F_DUPFD_CLOEXEC, 10)) >= 0);
    int top = dup(0);
    close(top);
    for (int fd = top; fd < 16; fd++)
        dup2(saved[0], fd);
    struct rlimit limit;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    rlim_t usual = limit.rlim_cur;
    for (int closed = 0; closed < 4; closed++) {
        for (size_t m = 0; m < TD__COUNT(makers); m++) {
            int before = count_fds();
            no_more_descriptors(16);
            for (int i = 0; i < closed; i++)
                close(i);
            errno = 0;
            int fd = makers[m].make(), error = errno;
            bool all_closed = true;
            for (int i = 0; i < closed; i++)
                all_closed &= fcntl(i, F_GETFD) < 0;
            no_more_descriptors(usual);
            for (int i = 0; i < 3; i++)
                dup2(saved[i], i);
            if (!CHECK_INT(fd, -1) || !CHECK(error == EMFILE || error == EINVAL) || !CHECK(all_closed))
                harness_note("    %s, %d streams closed", makers[m].name, closed);
            CHECK_INT(count_fds(), before);
        }
    }
}

TEST(makers_that_are_made_to_fail)
{
    REQUIRE(td__pipe(spare_pipe) == 0);
    int before = count_fds();
    for (size_t m = 0; m < TD__COUNT(makers); m++) {
        td__fault_arm(1);
        errno = 0;
        if (!CHECK_INT(makers[m].make(), -1) || !CHECK_INT(errno, EMFILE) || !CHECK(td__fault_fired()))
            harness_note("    %s", makers[m].name);
        td__fault_disarm();
        int fd = makers[m].make();
        CHECK(fd > 2);
        td__close(fd);
    }
    CHECK_INT(count_fds(), before);
}

/* --- moving and closing ----------------------------------------------------------------------------------------- */

TEST(descriptors_move)
{
    int fds[2];
    REQUIRE(td__pipe(fds) == 0);
    CHECK_INT(td__above_streams(-1), -1);
    CHECK_INT(td__above_streams(fds[0]), fds[0]);
    CHECK_FAILS(td__dup_from(-1, 3), EBADF);
    CHECK_FAILS(td__dup_from(fds[0], -1), EINVAL);
    CHECK_FAILS(td__dup_from(fds[0], INT_MAX), EINVAL);
    CHECK_INT(td__dup_from(fds[0], 50), 50);
    CHECK_INT(td__dup_from(fds[0], 50), 51);
    CHECK_INT(fcntl(50, F_GETFD), FD_CLOEXEC);
    /* To itself: without close-on-exec too. */
    CHECK_INT(td__dup_to(50, 50), 50);
    CHECK_INT(fcntl(50, F_GETFD), 0);
    CHECK_INT(td__dup_to(51, 50), 50);
    CHECK_INT(fcntl(50, F_GETFD), 0);
    CHECK_INT(td__dup_to(51, 60), 60);
    CHECK_FAILS(td__dup_to(99, 60), EBADF);
    CHECK(td__is_open(60)); /* what was there stays */
    CHECK_FAILS(td__dup_to(99, 99), EBADF);
    CHECK_FAILS(td__dup_to(-1, -1), EBADF);
    CHECK_FAILS(td__dup_to(51, -1), EBADF);
    CHECK_FAILS(td__dup_to(51, INT_MAX), EBADF);
    CHECK_INT(td__close_on_exec(60), 0);
    CHECK_INT(fcntl(60, F_GETFD), FD_CLOEXEC);
    CHECK_FAILS(td__close_on_exec(61), EBADF);
    CHECK(!td__is_open(61) && !td__is_open(-1) && td__is_open(0));
}

/* Catches: an errno that is lost while what failed is cleaned up. */
TEST(closing_leaves_errno)
{
    errno = ENOTTY;
    td__close(-1);
    td__close(-1000);
    CHECK_INT(errno, ENOTTY);
    int fd = td__event_fd(0);
    errno = ENOTTY;
    td__close(fd);
    td__close(fd);
    CHECK_INT(errno, ENOTTY);
}

static void open_numbers(int from, int to)
{
    for (int fd = from; fd <= to; fd++)
        REQUIRE(dup2(1, fd) == fd);
}

static void check_open(int from, int to, const char *which)
{
    for (int i = 0; which[i]; i++)
        if (!CHECK_INT(td__is_open(from + i), which[i] == 'o'))
            harness_note("    descriptor %d of %d to %d", from + i, from, to);
}

/* All, among them the harness's own way to report. */
static void close_above(int first)
{
    td__close_range(first, -1);
    fcntl(2, F_DUPFD_CLOEXEC, 200);
}

static void check_closing(void)
{
    open_numbers(40, 47);
    td__close_range(44, 43);
    check_open(40, 47, "oooooooo");
    td__close_range(42, 42);
    check_open(40, 47, "ooxooooo");
    td__close_range(41, 44);
    check_open(40, 47, "oxxxxooo");
    close_above(46);
    check_open(40, 47, "oxxxxoxx");
    close_above(46); /* none is left */
    td__close_range(INT_MAX, -1);
    td__close_range(INT_MAX, INT_MAX);
    check_open(40, 47, "oxxxxoxx");

    open_numbers(40, 47);
    const int in_order[] = { 40, 41, 42, 44, 45, 47 };
    td__close_many(in_order, 0, -1);
    check_open(40, 47, "oooooooo");
    td__close_many(in_order, TD__COUNT(in_order), 44);
    check_open(40, 47, "xxxooxox");
    open_numbers(40, 47);
    td__close_many(in_order, TD__COUNT(in_order), 41);
    check_open(40, 47, "xoxoxxox");
    open_numbers(40, 47);
    td__close_many(in_order, TD__COUNT(in_order), 40);
    check_open(40, 47, "oxxoxxox");
    open_numbers(40, 47);
    td__close_many(in_order, TD__COUNT(in_order), 47);
    check_open(40, 47, "xxxoxxoo");
    open_numbers(40, 47);
    const int backwards[] = { 45, 44, -1, 41 };
    td__close_many(backwards, TD__COUNT(backwards), -1);
    check_open(40, 47, "oxooxxoo");
    close_above(40);
}

/* Catches: one too many closed, or one too few, which a worker would keep. */
TEST(ranges_are_closed)
{
    check_closing();
}

/* The same without the system call; and where the limit is lower than what is open. Catches: numbers above the limit,
 * which are open nevertheless, and stay so. */
TEST(ranges_are_closed_one_by_one)
{
    refuse(SYS_close_range, ENOSYS);
    check_closing();
    open_numbers(40, 47);
    no_more_descriptors(20);
    td__close_range(41, 46);
    check_open(40, 47, "oxxxxxxo");
    const int fds[] = { 40, 47 };
    td__close_many(fds, 2, -1);
    check_open(40, 47, "xxxxxxxx");
}

/* --- files ------------------------------------------------------------------------------------------------------ */

/* Catches: reads and writes that are off by one at the ends, or that move the descriptor's place for others. */
TEST(files_are_read_and_written)
{
    char path[PATH_MAX], buffer[64];
    REQUIRE(write_file(dir_path("file", path, sizeof path), "0123456789"));
    CHECK_INT(td__read_file(path, buffer, sizeof buffer), 10);
    CHECK_INT(td__read_file(path, buffer, 10), 10);
    CHECK_INT(td__read_file(path, buffer, 3), 3);
    CHECK_INT(td__read_file(path, buffer, 0), 0);
    CHECK_FAILS(td__read_file(harness_dir, buffer, sizeof buffer), EISDIR);
    CHECK_FAILS(td__read_file("/nonexistent/file", buffer, sizeof buffer), ENOENT);
    CHECK_FAILS(td__read_file("", buffer, sizeof buffer), ENOENT);
    int fd = td__open_read(path);
    REQUIRE(fd >= 0);
    for (int i = 0; i < 2; i++) {
        memset(buffer, 0, sizeof buffer);
        CHECK_INT(td__read_at(fd, buffer, 4), 4);
        CHECK_STR(buffer, "0123");
    }
    CHECK_INT(td__read_from(fd, buffer, sizeof buffer, 0), 10);
    CHECK_INT(td__read_from(fd, buffer, sizeof buffer, 9), 1);
    CHECK_INT(buffer[0], '9');
    CHECK_INT(td__read_from(fd, buffer, sizeof buffer, 10), 0);
    CHECK_INT(td__read_from(fd, buffer, sizeof buffer, INT64_MAX - 64), 0);
    CHECK_FAILS(td__read_from(fd, buffer, sizeof buffer, UINT64_MAX), EINVAL);
    CHECK_FAILS(td__read_from(-1, buffer, sizeof buffer, 0), EBADF);
    CHECK_FAILS(td__read_from(fd, NULL, 10, 0), EFAULT);
    CHECK_FAILS(td__write_at(fd, "x", 1), EBADF); /* opened for reading */
    td__close(fd);
    fd = open(path, O_RDWR | O_CLOEXEC);
    REQUIRE(fd >= 0);
    CHECK_INT(td__write_at(fd, "abc", 3), 0);
    CHECK_INT(td__write_at(fd, NULL, 0), 0);
    CHECK_INT(lseek(fd, 0, SEEK_CUR), 0);
    memset(buffer, 0, sizeof buffer);
    CHECK_INT(td__read_at(fd, buffer, sizeof buffer), 10);
    CHECK_STR(buffer, "abc3456789");
    close(fd);
    int ends[2];
    REQUIRE(td__pipe(ends) == 0);
    CHECK_FAILS(td__read_at(ends[0], buffer, 1), ESPIPE);
    CHECK_FAILS(td__write_at(ends[1], "x", 1), ESPIPE);
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    if (full >= 0)
        CHECK_FAILS(td__write_at(full, "x", 1), ENOSPC);
    WITH_FAULT(CHECK_FAILS(td__read_file(path, buffer, sizeof buffer), EMFILE));
}

TEST(directories)
{
    char path[PATH_MAX], now[PATH_MAX];
    int fd = td__open_path(harness_dir);
    REQUIRE(fd >= 0);
    CHECK_INT(td__chdir_fd(fd), 0);
    CHECK(getcwd(now, sizeof now) && strcmp(now, harness_dir) == 0);
    td__chdir_root();
    CHECK(getcwd(now, sizeof now) && strcmp(now, "/") == 0);
    CHECK_FAILS(td__chdir_fd(-1), EBADF);
    int file = td__open_read("/dev/null");
    CHECK_FAILS(td__chdir_fd(file), ENOTDIR);
    CHECK_FAILS(td__open_path("/dev/null"), ENOTDIR);
    CHECK_FAILS(td__open_path("/nonexistent"), ENOENT);
    /* Removed, it can still be gone to; it has no name then. */
    REQUIRE(mkdir(dir_path("gone", path, sizeof path), 0777) == 0);
    int gone = td__open_path(path);
    REQUIRE(gone >= 0 && rmdir(path) == 0);
    CHECK_INT(td__chdir_fd(gone), 0);
    CHECK(getcwd(now, sizeof now) == NULL);
}

TEST(event_descriptors)
{
    bool ready;
    int fd = td__event_fd(0);
    REQUIRE(fd >= 0);
    CHECK_INT(td__poll(&fd, &ready, 1, 1), 0);
    td__event_fd_clear(fd); /* nothing there: does not wait */
    for (int i = 0; i < 3; i++)
        td__event_fd_signal(fd);
    CHECK_INT(td__poll(&fd, &ready, 1, 0), 1);
    td__event_fd_clear(fd); /* all of them */
    CHECK_INT(td__poll(&fd, &ready, 1, 1), 0);
    uint64_t most = UINT64_MAX - 1;
    REQUIRE(write(fd, &most, sizeof most) == sizeof most);
    td__event_fd_signal(fd); /* full: does not wait, and it is set in any case */
    CHECK_INT(td__poll(&fd, &ready, 1, 0), 1);
    close(fd);
    fd = td__event_fd(UINT_MAX);
    CHECK_INT(td__poll(&fd, &ready, 1, 0), 1);
    td__event_fd_signal(-1);
    td__event_fd_clear(-1);
}

/* --- messages --------------------------------------------------------------------------------------------------- */

#define MAX TD__MESSAGE_FDS

static int pair[2];

static void make_pair(void)
{
    REQUIRE(td__socket_pair(pair) == 0);
}

/* Catches: a message that is cut without a word, or taken for the end; one that is not there and is waited for. */
TEST(messages_of_any_size)
{
    static char out[100000], in[100000];
    make_pair();
    for (size_t i = 0; i < sizeof out; i++)
        out[i] = (char)(i * 31);
    CHECK_FAILS(td__receive(pair[1], in, sizeof in, NULL, NULL, false), EAGAIN);
    static const size_t sizes[] = { 1, 2, 4095, 4096, 4097, 65536, 100000 };
    for (size_t i = 0; i < TD__COUNT(sizes); i++) {
        size_t size = sizes[i];
        CHECK_INT(td__send(pair[0], out, size, NULL, 0), 0);
        memset(in, 0, sizeof in);
        CHECK_INT(td__receive(pair[1], in, sizeof in, NULL, NULL, true), (ssize_t)size);
        CHECK_INT(memcmp(in, out, size), 0);
        /* Room for one byte less: its own size is told, and the rest is gone. */
        CHECK_INT(td__send(pair[0], out, size, NULL, 0), 0);
        CHECK_INT(td__receive(pair[1], in, size - 1, NULL, NULL, true), (ssize_t)size);
        CHECK_FAILS(td__receive(pair[1], in, sizeof in, NULL, NULL, false), EAGAIN);
    }
    CHECK_FAILS(td__send(pair[0], out, (size_t)1 << 30, NULL, 0), EMSGSIZE);
    /* In parts, which need not be the same on both sides, nor hold anything. */
    struct iovec from[3] = { { out, 3 }, { out + 3, 0 }, { out + 3, 4 } }, to[2] = { { in, 5 }, { in + 5, 95 } };
    memset(in, 0, sizeof in);
    CHECK_INT(td__send_parts(pair[0], from, 3, NULL, 0, false), 0);
    CHECK_INT(td__receive_parts(pair[1], to, 2, NULL, NULL, false, NULL), 7);
    CHECK_INT(memcmp(in, out, 7), 0);
    close(pair[0]);
    CHECK_INT(td__receive(pair[1], in, sizeof in, NULL, NULL, true), 0);
    CHECK_FAILS(td__send(pair[1], out, 1, NULL, 0), EPIPE); /* and no SIGPIPE */
    CHECK_FAILS(td__send(-1, out, 1, NULL, 0), EBADF);
    CHECK_FAILS(td__receive(-1, in, 1, NULL, NULL, false), EBADF);
}

static void fill_pair(void)
{
    char block[1024] = { 0 };
    struct iovec part = { block, sizeof block };
    td__socket_enlarge(pair[0], 1); /* the least that it takes */
    while (td__send_parts(pair[0], &part, 1, NULL, 0, false) == 0)
        ;
    CHECK_INT(errno, EAGAIN);
}

static void *drain_late(void *context)
{
    char block[2048];
    await_signals(context, 5);
    return (void *)(intptr_t)td__receive(pair[1], block, sizeof block, NULL, NULL, true);
}

/* Catches: a message that is lost with a signal; a sender that does not wait, or not again. */
TEST(messages_and_signals)
{
    pest p;
    char block[1024] = { 1 };
    void *got;
    make_pair();
    fill_pair();
    pest_start(&p);
    pthread_t thread = beside_pest(&p, drain_late);
    CHECK_INT(td__send(pair[0], block, sizeof block, NULL, 0), 0);
    pthread_join(thread, &got);
    CHECK_INT((intptr_t)got, 1024);
    pest_stop(&p);
    int n = 0;
    while (td__receive(pair[1], block, sizeof block, NULL, NULL, false) > 0)
        n++;
    CHECK(n > 0 && block[0] == 1);
}

static size_t send_descriptors(size_t count)
{
    int fds[MAX];
    for (size_t i = 0; i < count; i++)
        fds[i] = (int)(i % 3);
    return td__send(pair[0], "m", 1, fds, count) == 0 ? count : SIZE_MAX;
}

/* As many as there may be, and one more. Catches: one that is lost or stays open; a buffer too small for them. */
TEST(descriptors_in_messages)
{
    make_pair();
    char byte;
    int before = count_fds();
    for (size_t sent = 0; sent <= MAX; sent++) {
        static const int rooms[] = { -1, 0, 1, MAX / 2, MAX }; /* -1: no place for them at all */
        for (size_t i = 0; i < TD__COUNT(rooms); i++) {
            int fds[MAX + 1];
            size_t room = rooms[i] < 0 ? 0 : (size_t)rooms[i], got = room;
            bool lost = true;
            REQUIRE_INT(send_descriptors(sent), sent);
            struct iovec part = { &byte, 1 };
            CHECK_INT(td__receive_parts(pair[1], &part, 1, fds, rooms[i] < 0 ? NULL : &got, true, &lost), 1);
            got = rooms[i] < 0 ? 0 : got;
            CHECK_INT(got, sent < room ? sent : room);
            CHECK(!lost);
            for (size_t n = 0; n < got; n++) {
                CHECK(fds[n] > 2 && fcntl(fds[n], F_GETFD) == FD_CLOEXEC);
                close(fds[n]);
            }
            CHECK_INT(count_fds(), before);
        }
    }
    int many[MAX + 1];
    for (int i = 0; i <= MAX; i++)
        many[i] = 0;
    CHECK_FAILS(td__send(pair[0], "m", 1, many, MAX + 1), EINVAL);
    CHECK_FAILS(td__receive(pair[1], &byte, 1, NULL, NULL, false), EAGAIN); /* nothing of it was sent */
    int bad = 99;
    CHECK_FAILS(td__send(pair[0], "m", 1, &bad, 1), EBADF);
    CHECK_INT(count_fds(), before);
}

/* Another program's message may have more than ours. Catches: descriptors that stay open unseen; some taken for all. */
TEST(more_descriptors_than_ever_sent)
{
    make_pair();
    int before = count_fds(), fds[100];
    struct iovec part = { "m", 1 };
    union {
        char bytes[CMSG_SPACE(sizeof(int) * 100)];
        struct cmsghdr align;
    } control;
    memset(&control, 0, sizeof control);
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control
    };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * 100);
    for (int i = 0; i < 100; i++)
        memcpy(CMSG_DATA(header) + (size_t)i * sizeof(int), &(int){ 0 }, sizeof(int));
    REQUIRE(sendmsg(pair[0], &message, 0) == 1);
    char byte;
    size_t got = MAX;
    bool lost = false;
    struct iovec to = { &byte, 1 };
    CHECK_INT(td__receive_parts(pair[1], &to, 1, fds, &got, true, &lost), 1);
    CHECK_INT(got, 0);
    CHECK(lost);
    CHECK_INT(count_fds(), before);
}

/* Catches: a part of the descriptors, taken for all of them; some that stay open. */
TEST(no_numbers_for_descriptors_in_messages)
{
    make_pair();
    struct rlimit limit;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    int before = count_fds(), top = dup(0);
    close(top);
    for (int room = 0; room < 5; room++) {
        int fds[MAX];
        size_t got = MAX;
        char byte;
        bool lost = false;
        REQUIRE_INT(send_descriptors(5), 5);
        no_more_descriptors((rlim_t)(top + room));
        struct iovec part = { &byte, 1 };
        CHECK_INT(td__receive_parts(pair[1], &part, 1, fds, &got, true, &lost), 1);
        no_more_descriptors(limit.rlim_cur);
        CHECK_INT(got, 0);
        CHECK(lost);
        CHECK_INT(count_fds(), before);
    }
    /* Numbers of closed streams only: they cannot be kept there. */
    int fds[MAX], saved = fcntl(0, F_DUPFD_CLOEXEC, 50);
    size_t got = MAX;
    char byte;
    REQUIRE_INT(send_descriptors(1), 1);
    before = count_fds();
    no_more_descriptors((rlim_t)top);
    close(0);
    CHECK_INT(td__receive(pair[1], &byte, 1, fds, &got, true), 1);
    CHECK(!td__is_open(0));
    no_more_descriptors(limit.rlim_cur);
    dup2(saved, 0);
    CHECK_INT(got, 0);
    CHECK_INT(count_fds(), before);
}

TEST(messages_that_are_made_to_fail)
{
    make_pair();
    char byte = 'a';
    int fds[2];
    size_t got = 2;
    WITH_FAULT(CHECK_FAILS(td__send(pair[0], &byte, 1, NULL, 0), ENOBUFS));
    CHECK_FAILS(td__receive(pair[1], &byte, 1, NULL, NULL, false), EAGAIN);
    REQUIRE_INT(send_descriptors(1), 1);
    WITH_FAULT(CHECK_FAILS(td__receive(pair[1], &byte, 1, fds, &got, true), ENOBUFS));
    CHECK_INT(got, 0);
    got = 2;
    CHECK_INT(td__receive(pair[1], &byte, 1, fds, &got, true), 1); /* it is still there */
    CHECK_INT(got, 1);
}

TEST(kinds_of_sockets)
{
    int stream[2], pipes[2];
    make_pair();
    REQUIRE(td__stream_pair(stream) == 0 && td__pipe(pipes) == 0);
    int datagram[2], inet = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, datagram) == 0);
    CHECK(td__is_packet_socket(pair[0]) && td__is_packet_socket(pair[1]));
    CHECK(!td__is_packet_socket(stream[0]));
    CHECK(!td__is_packet_socket(datagram[0]));
    CHECK(!td__is_packet_socket(inet));
    CHECK(!td__is_packet_socket(pipes[0]));
    CHECK(!td__is_packet_socket(-1));
    CHECK(td__is_own_socket(pair[0]) && td__is_own_socket(stream[1]));
    CHECK(!td__is_own_socket(pipes[0]));
    CHECK(!td__is_own_socket(-1));
    /* One that nobody is connected to has no maker. */
    int lone = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    CHECK(!td__is_own_socket(lone));
}

/* Catches: a socket that another user has made, taken for ours. */
TEST(sockets_of_other_users)
{
    uid_t user = lonely_uid();
    make_pair();
    REQUIRE(seteuid(user) == 0);
    CHECK(!td__is_own_socket(pair[0]));
    int theirs[2];
    REQUIRE(td__socket_pair(theirs) == 0);
    CHECK(td__is_own_socket(theirs[0]));
    REQUIRE(seteuid(0) == 0);
    CHECK(!td__is_own_socket(theirs[0]));
    CHECK(td__is_own_socket(pair[0]));
    REQUIRE(setegid(user) == 0);
    CHECK(!td__is_own_socket(pair[0]));
}

TEST(sockets_are_shut)
{
    char byte;
    make_pair();
    td__socket_shut(pair[0], false, false);
    CHECK_INT(td__send(pair[0], "a", 1, NULL, 0), 0);
    td__socket_shut(pair[0], false, true);
    CHECK_FAILS(td__send(pair[0], "a", 1, NULL, 0), EPIPE);
    CHECK_INT(td__receive(pair[1], &byte, 1, NULL, NULL, true), 1);
    CHECK_INT(td__receive(pair[1], &byte, 1, NULL, NULL, true), 0);
    CHECK_INT(td__send(pair[1], "b", 1, NULL, 0), 0); /* the other way goes on */
    td__socket_shut(pair[0], true, false);
    CHECK_FAILS(td__send(pair[1], "b", 1, NULL, 0), EPIPE);
    make_pair();
    td__socket_shut(pair[0], true, true);
    CHECK_FAILS(td__send(pair[0], "a", 1, NULL, 0), EPIPE);
    CHECK_FAILS(td__send(pair[1], "a", 1, NULL, 0), EPIPE);
    td__socket_shut(-1, true, true); /* nothing */
}

TEST(streams)
{
    int fds[2];
    char in[16];
    REQUIRE(td__stream_pair(fds) == 0);
    CHECK_FAILS(td__stream_receive(fds[1], in, sizeof in, false), EAGAIN);
    CHECK_INT(td__stream_send(fds[0], "ab", 2), 0);
    CHECK_INT(td__stream_send(fds[0], "cd", 2), 0);
    CHECK_INT(td__stream_receive(fds[1], in, 3, true), 3);
    CHECK_INT(td__stream_receive(fds[1], in, 3, false), 1);
    close(fds[0]);
    CHECK_INT(td__stream_receive(fds[1], in, 3, true), 0);
    CHECK_FAILS(td__stream_send(fds[1], "a", 1), EPIPE);
    CHECK_FAILS(td__stream_send(-1, "a", 1), EBADF);
    CHECK_FAILS(td__stream_receive(-1, in, 1, true), EBADF);
}
