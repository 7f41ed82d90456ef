/* SPDX-License-Identifier: MIT */
/* Processes, how they are started and end, threads, and signals: at their borders. */
#include "borders.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/time.h>

enum { READY, GO, CHILD };
enum { STREAMS, FOUND, PID, STATUS, MASK, ARGUMENTS, HIGHEST };

/* Neither wait() nor a zombie shows a process that this one has started. */
static void check_childless(void)
{
    errno = 0;
    CHECK_INT(waitpid(-1, NULL, WNOHANG), -1);
    CHECK_INT(errno, ECHILD);
    errno = 0;
    CHECK_INT(waitpid(-1, NULL, WNOHANG | __WALL), -1);
    CHECK_INT(errno, ECHILD);
}

static uint64_t blocked(void)
{
    return status_hex(getpid(), "SigBlk");
}

/* --- the program, anew ------------------------------------------------------------------------------------------ */

static bool is_null(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3);
}

/* Tells which streams there are, and what its descriptors from 3 on are: by the size of the file each one is. */
HELPER(anew)
{
    int64_t streams = 0, found = 0;
    for (int i = 0; i < 3; i++)
        streams |= (is_null(i) ? (int64_t)2 : td__is_open(i) ? 1 : 0) << (4 * i);
    page->number[STREAMS] = streams;
    int count = argc > 1 ? atoi(argv[1]) : 0;
    for (int i = 0; i < count; i++) {
        struct stat st;
        if (fstat(3 + i, &st) == 0 && (fcntl(3 + i, F_GETFD) & FD_CLOEXEC) == 0 && st.st_size == i + 1)
            found++;
    }
    page->number[FOUND] = found;
    page->number[PID] = getpid();
    page->number[ARGUMENTS] = argc;
    page->number[MASK] = (int64_t)blocked();
    page->text[0] = getenv("ANEW") ? 'y' : 'n';
    event_add(READY);
    event_wait(GO);
    _exit(0);
}

static char *arguments[8];
static char count_text[16];
static int keep[32];

/* Files of 1, 2, 3, ... bytes, in numbers that fall, so that each is in the way of another. */
static void make_kept(int count, int highest)
{
    for (int i = 0; i < count; i++) {
        int fd = memfd_create("kept", MFD_CLOEXEC);
        REQUIRE(fd >= 0 && ftruncate(fd, i + 1) == 0);
        keep[i] = highest - i;
        REQUIRE(fd == keep[i] || dup3(fd, keep[i], O_CLOEXEC) == keep[i]);
        if (fd != keep[i])
            close(fd);
    }
}

static void drop_kept(int count)
{
    for (int i = 0; i < count; i++)
        close(keep[i]);
}

static td__exec request_for(int count)
{
    extern char **environ;
    static char self[PATH_MAX], option[] = "--helper", name[] = "anew";
    snprintf(self, sizeof self, "%s", self_path());
    snprintf(count_text, sizeof count_text, "%d", count);
    arguments[0] = self;
    arguments[1] = option;
    arguments[2] = name;
    arguments[3] = count_text;
    arguments[4] = NULL;
    return (td__exec){ .argv = arguments, .environment = environ, .keep = keep, .keep_count = (size_t)count };
}

/* Starts it, lets it tell, and sees it end. */
static void run_anew(int count)
{
    td__exec request = request_for(count);
    int before = count_fds();
    page->event[READY] = page->event[GO] = 0;
    atomic_fetch_add(&page->helpers_started, 1);
    sigset_t mask, now_blocked;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR2);
    REQUIRE(sigprocmask(SIG_SETMASK, &mask, NULL) == 0);
    int r = td__exec_self(&request);
    REQUIRE(sigprocmask(SIG_SETMASK, NULL, &now_blocked) == 0);
    CHECK(sigismember(&now_blocked, SIGUSR2) == 1 && sigismember(&now_blocked, SIGUSR1) == 0);
    if (!CHECK_INT(r, 0)) {
        harness_note("    %s: %s", request.stage, strerror(errno));
        return;
    }
    CHECK(request.pid_fd > 2 && fcntl(request.pid_fd, F_GETFD) == FD_CLOEXEC);
    CHECK_INT(count_fds(), before + 1);
    if (!request.holder)
        check_childless();
    WAIT_UNTIL(event_is_set(READY), 20);
    CHECK_INT(page->number[PID], request.pid);
    CHECK_INT(page->number[FOUND], count);
    CHECK_INT(page->number[ARGUMENTS], 2);
    CHECK_INT(page->number[MASK] & (int64_t)TD__SIGNAL_BIT(SIGUSR1), (int64_t)TD__SIGNAL_BIT(SIGUSR1));
    bool ready;
    CHECK_INT(td__poll(&request.pid_fd, &ready, 1, 1), 0);
    event_set(GO);
    CHECK_INT(td__poll(&request.pid_fd, &ready, 1, td__deadline(td_s(20 * SLOW))), 1);
    close(request.pid_fd);
    if (request.holder)
        td__holder_reap(request.holder, request.holder_stack);
    check_childless();
}

/* Catches: a descriptor that is overwritten while the others are put in order, or not handed on; one that is. */
TEST(program_anew_with_any_descriptors)
{
    static const int counts[] = { 0, 1, 2, 7, 15, 16 };
    int stray = fcntl(1, F_DUPFD, 90); /* without close-on-exec: to be closed all the same */
    REQUIRE(stray >= 90);
    for (size_t i = 0; i < TD__COUNT(counts); i++) {
        int count = counts[i];
        for (int highest = 2 + count; highest < 45; highest += 20) { /* first: exactly where they are to go, reversed */
            make_kept(count, highest);
            run_anew(count);
            drop_kept(count);
        }
    }
    /* The same one more than once. */
    make_kept(1, 20);
    keep[1] = keep[0];
    td__exec request = request_for(2);
    page->event[READY] = 0;
    event_set(GO);
    atomic_fetch_add(&page->helpers_started, 1);
    REQUIRE_OK(td__exec_self(&request));
    WAIT_UNTIL(event_is_set(READY), 20);
    CHECK_INT(page->number[FOUND], 1);
    bool ready;
    CHECK_INT(td__poll(&request.pid_fd, &ready, 1, td__deadline(td_s(20 * SLOW))), 1);
}

/* The same with a process that stays between the two. */
TEST(program_anew_under_a_holder)
{
    REQUIRE(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0);
    CHECK(td__orphans_stay());
    for (int count = 0; count <= 16; count += 8) {
        make_kept(count, 30);
        run_anew(count);
        drop_kept(count);
    }
    td__reaper_above = false;
    REQUIRE(prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0);
    CHECK(!td__orphans_stay());
}

/* With every combination of closed streams. Catches: a process without a standard stream, whose number something else
 * gets then, to be written into. */
TEST(program_anew_with_closed_streams)
{
    int saved[3];
    for (int i = 0; i < 3; i++)
        REQUIRE((saved[i] = fcntl(i, F_DUPFD_CLOEXEC, 100)) >= 0);
    for (int closed = 0; closed < 8; closed++) {
        for (int held = 0; held < 2; held++) {
            td__reaper_above = held;
            make_kept(2, 20);
            for (int i = 0; i < 3; i++)
                if (closed >> i & 1)
                    close(i);
            td__exec request = request_for(2);
            page->event[READY] = page->event[GO] = 0;
            atomic_fetch_add(&page->helpers_started, 1);
            int r = td__exec_self(&request);
            for (int i = 0; i < 3; i++)
                dup2(saved[i], i);
            REQUIRE_INT(r, 0);
            CHECK(request.pid_fd > 2 && fcntl(request.pid_fd, F_GETFD) == FD_CLOEXEC);
            WAIT_UNTIL(event_is_set(READY), 20);
            if (!CHECK_INT(page->number[STREAMS], closed >> 2 & 1 ? 0x222 : 0x122))
                harness_note("    streams closed: %d, held: %d", closed, held);
            CHECK_INT(page->number[FOUND], 2);
            event_set(GO);
            bool ready;
            CHECK_INT(td__poll(&request.pid_fd, &ready, 1, td__deadline(td_s(20 * SLOW))), 1);
            close(request.pid_fd);
            if (request.holder)
                td__holder_reap(request.holder, request.holder_stack);
            drop_kept(2);
        }
    }
}

static void check_no_program(td__exec *request, const char *stage, int error)
{
    int fds = count_fds(), maps = mappings_now();
    uint64_t mask = blocked();
    errno = 0;
    CHECK_INT(td__exec_self(request), -1);
    CHECK_INT(errno, error);
    CHECK_STR(request->stage, stage);
    CHECK_INT(request->pid_fd, -1);
    CHECK_INT(request->holder, 0);
    CHECK_INT(count_fds(), fds);
    CHECK_INT(mappings_now(), maps);
    CHECK(blocked() == mask);
    check_childless();
}

/* Catches: a failure without its reason; a process, a descriptor or a stack that is left of it. */
TEST(program_anew_that_fails)
{
    for (int held = 0; held < 2; held++) {
        td__reaper_above = held;
        make_kept(17, 40);
        td__exec request = request_for(17);
        CHECK_FAILS(td__exec_self(&request), EINVAL);
        drop_kept(17);
        make_kept(3, 20);
        close(keep[1]);
        request = request_for(3);
        check_no_program(&request, "fcntl", EBADF);
        keep[1] = -1;
        check_no_program(&request, "fcntl", EBADF);
        request = request_for(0);
        request.argv = (char **)16; /* nothing there */
        check_no_program(&request, "execve /proc/self/exe", EFAULT);
        request = request_for(0);
        WITH_FAULT(check_no_program(&request, "mmap", ENOMEM));
        td__fault_arm(2);
        check_no_program(&request, "clone", EAGAIN);
        CHECK(td__fault_fired());
        td__fault_disarm();
    }
}

TEST(program_anew_without_numbers)
{
    td__exec request = request_for(0);
    struct rlimit limit;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    int top = dup(0);
    close(top);
    for (int held = 0; held < 2; held++) {
        td__reaper_above = held;
        no_more_descriptors(
            (rlim_t)top); /* neither for the descriptor of the new process nor for what it needs itself */
        int r = td__exec_self(&request), error = errno;
        no_more_descriptors(limit.rlim_cur);
        CHECK_INT(r, -1);
        CHECK_INT(error, EMFILE);
        CHECK_INT(request.pid_fd, -1);
        check_childless();
    }
    /* One that is left for the descriptor of the new process, but not where it may be: that one must not run on. */
    td__reaper_above = false;
    int saved = fcntl(0, F_DUPFD_CLOEXEC, 10);
    for (int i = 0; i < 5; i++) {
        atomic_fetch_add(&page->helpers_started, 1);
        no_more_descriptors((rlim_t)top);
        close(0);
        int r = td__exec_self(&request), error = errno;
        CHECK(!td__is_open(0));
        no_more_descriptors(limit.rlim_cur);
        dup2(saved, 0);
        CHECK_INT(r, -1);
        CHECK(error == EMFILE || error == EINVAL);
        CHECK_STR(request.stage, "fcntl");
        CHECK_INT(request.pid_fd, -1);
        check_childless();
    }
    WAIT_UNTIL(others() == 0, 5);
}

TEST(program_anew_refused)
{
    td__exec request = request_for(0);
    refuse(SYS_execve, EACCES);
    check_no_program(&request, "execve /proc/self/exe", EACCES);
    refuse(SYS_dup3, EIO);
    check_no_program(&request, "dup3", EIO);
    end_here();
}

TEST(program_anew_without_a_null_device)
{
    td__exec request = request_for(0);
    refuse(SYS_execve, EACCES);
    refuse(SYS_openat, EACCES); /* no /dev/null either: not needed */
    check_no_program(&request, "execve /proc/self/exe", EACCES);
    refuse(SYS_eventfd2, EMFILE);
    check_no_program(&request, "open /dev/null", EMFILE);
    refuse(SYS_clone, EPERM);
    check_no_program(&request, "clone", EPERM);
    end_here();
}

/* It runs already, and cannot be watched. Catches: one that runs on. */
TEST(program_anew_without_a_descriptor_of_it)
{
    td__exec request = request_for(0);
    refuse(SYS_pidfd_open, EMFILE);
    td__reaper_above = true;
    atomic_fetch_add(&page->helpers_started, 1);
    check_no_program(&request, "pidfd_open", EMFILE);
    WAIT_UNTIL(others() == 0, 5);
}

/* Without the system call that closes many. */
TEST(program_anew_closes_one_by_one)
{
    refuse(SYS_close_range, ENOSYS);
    for (int held = 0; held < 2; held++) {
        td__reaper_above = held;
        make_kept(3, 20);
        run_anew(3);
        drop_kept(3);
    }
}

/* --- a copy of the caller, hidden ------------------------------------------------------------------------------- */

static td__death death;
static _Atomic uint32_t done;

static td__forked record(void)
{
    memset(&death, 0, sizeof death);
    done = 0;
    return (td__forked){ .death = &death, .done = &done, .done_bit = 4 };
}

static void check_copy(int status, bool signaled)
{
    int life[2], fds, maps, value = 1;
    REQUIRE_OK(td__life_pipe(life));
    fds = count_fds();
    maps = mappings_now();
    td__forked forked = record();
    uint64_t mask = blocked();
    pid_t parent = getpid();
    pid_t pid = td__fork_hidden(&forked, life);
    if (pid == 0) {
        value = 2;
        if (signaled) {
            td__signals_clear();
            kill(getpid(), status);
        }
        _exit(getppid() == forked.holder && ~blocked() == (TD__SIGNAL_BIT(SIGKILL) | TD__SIGNAL_BIT(SIGSTOP)) &&
                      getpid() != parent
                  ? status
                  : 99);
    }
    REQUIRE(pid > 0);
    CHECK_INT(value, 1);
    CHECK_INT(forked.pid, pid);
    CHECK(blocked() == mask);
    while (!(done & 4))
        td__futex_wait(&done, 0, td__deadline(td_s(1)), true);
    CHECK_INT(done, 4);
    CHECK_INT(death.pid, pid);
    CHECK_INT(death.signaled, signaled);
    CHECK_INT(death.number, status);
    CHECK_INT(waitpid(-1, NULL, WNOHANG), -1);
    td__fork_reap(&forked);
    CHECK_INT(forked.holder_fd, -1);
    CHECK_INT(count_fds(), fds);
    CHECK_INT(mappings_now(), maps);
    check_childless();
    close(life[0]);
    close(life[1]);
}

/* Catches: a death that is told wrong; a child that wait() meets; a holder, a stack, a descriptor left. */
TEST(copies_and_their_ends)
{
    struct sigaction ignored = { .sa_handler = SIG_IGN };
    for (int held = 0; held < 2; held++) {
        td__reaper_above = held;
        check_copy(0, false);
        check_copy(255, false);
        check_copy(SIGKILL, true);
        check_copy(SIGTERM, true);
        REQUIRE(sigaction(SIGCHLD, &ignored, NULL) == 0); /* whose children would vanish unseen */
        check_copy(7, false);
        signal(SIGCHLD, SIG_DFL);
    }
}

static void check_no_copy(const int life[2], int error)
{
    int fds = count_fds(), maps = mappings_now();
    uint64_t mask = blocked();
    td__forked forked = record();
    errno = 0;
    pid_t pid = td__fork_hidden(&forked, life);
    if (pid == 0)
        _exit(98);
    CHECK_INT(pid, -1);
    CHECK_INT(errno, error);
    CHECK_INT(count_fds(), fds);
    CHECK_INT(mappings_now(), maps);
    CHECK(blocked() == mask);
    check_childless();
}

TEST(copies_that_fail)
{
    int life[2], bad[2] = { 77, 78 };
    REQUIRE_OK(td__life_pipe(life));
    for (int held = 0; held < 2; held++) {
        td__reaper_above = held;
        WITH_FAULT(check_no_copy(life, ENOMEM));
        for (long n = 2; n <= 3; n++) {
            td__fault_arm(n);
            check_no_copy(life, EAGAIN);
            CHECK(td__fault_fired());
            td__fault_disarm();
        }
        if (held) {
            td__fault_arm(4);
            check_no_copy(life, EMFILE);
            CHECK(td__fault_fired());
            td__fault_disarm();
        }
    }
    /* A pipe that is not there is no failure: there may be no /proc. The child still dies with its holder. */
    td__forked forked = record();
    pid_t pid = td__fork_hidden(&forked, bad);
    if (pid == 0)
        _exit(5);
    REQUIRE(pid > 0);
    td__fork_reap(&forked);
    CHECK_INT(death.number, 5);
    refuse(SYS_fcntl, EPERM);
    for (int held = 0; held < 2; held++) {
        td__reaper_above = held;
        check_no_copy(life, EINVAL); /* the holder could not follow */
    }
    refuse(SYS_clone, EPERM);
    check_no_copy(life, EPERM);
    end_here();
}

/* The descriptor of the holder gets the number of a closed stream, and there is none above: it cannot be kept. Catches:
 * a stack that is taken from under the holder, who is waited for by a descriptor that is gone. */
TEST(copies_without_numbers)
{
    int life[2], saved = fcntl(0, F_DUPFD_CLOEXEC, 10);
    REQUIRE_OK(td__life_pipe(life));
    struct rlimit limit;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    int top = dup(0);
    close(top);
    for (int i = 0; i < 20; i++) {
        td__forked forked = record();
        int fds = count_fds(), maps = mappings_now();
        no_more_descriptors((rlim_t)top);
        close(0);
        pid_t pid = td__fork_hidden(&forked, life);
        int error = errno;
        if (pid == 0)
            for (;;)
                pause();
        CHECK(!td__is_open(0));
        no_more_descriptors(limit.rlim_cur);
        dup2(saved, 0);
        CHECK_INT(pid, -1);
        CHECK(error == EMFILE || error == EINVAL);
        CHECK_INT(done, 4); /* the holder has ended, and before that it has seen its child end */
        CHECK_INT(death.number, SIGKILL);
        CHECK_INT(count_fds(), fds);
        CHECK_INT(mappings_now(), maps);
    }
    /* None at all, with a holder that is our child: it cannot open the pipe that it is to follow. */
    td__reaper_above = true;
    no_more_descriptors((rlim_t)top);
    td__forked forked = record();
    pid_t pid = td__fork_hidden(&forked, life);
    int error = errno;
    if (pid == 0)
        _exit(97);
    no_more_descriptors(limit.rlim_cur);
    CHECK_INT(pid, -1);
    CHECK_INT(error, EMFILE);
    check_childless();
    WAIT_UNTIL(others() == 0, 5);
}

/* --- following -------------------------------------------------------------------------------------------------- */

/* Catches: a process that goes on when the other end of the pipe has gone; one that is killed while it is there. */
TEST(following_a_pipe)
{
    int life[2], ready[2];
    for (int before = 0; before < 2; before++) {
        REQUIRE_OK(td__life_pipe(life));
        REQUIRE_OK(td__pipe(ready));
        pid_t pid = fork();
        if (pid == 0) {
            td__close(life[1]);
            if (before)
                pause_ms(0);
            int own = td__follow(life[0]);
            if (own < 3 || fcntl(own, F_GETFD) != FD_CLOEXEC || write(ready[1], "r", 1) != 1)
                _exit(99);
            for (;;)
                pause();
        }
        if (before)
            td__close(life[1]);
        char byte;
        if (!before) {
            REQUIRE(read(ready[0], &byte, 1) == 1);
            CHECK(process_alive(pid));
            int copy = td__dup_from(life[1], 3);
            td__close(life[1]);
            CHECK(process_alive(pid)); /* one writing end is left */
            td__close(copy);
        }
        int status = helper_wait(pid);
        CHECK(status == -SIGKILL || (before && status == 1));
        td__close(life[0]);
        td__close(ready[0]);
        td__close(ready[1]);
    }
}

TEST(following_what_is_none)
{
    int life[2], fds;
    REQUIRE_OK(td__life_pipe(life));
    fds = count_fds();
    CHECK_FAILS(td__follow(-1), EBADF);
    CHECK_FAILS(td__follow(INT_MIN), EBADF);
    CHECK_FAILS(td__follow(INT_MAX), ENOENT);
    CHECK_FAILS(td__follow(99), ENOENT);
    errno = ENOTTY;
    CHECK_INT(td__follow_opened(-1), -1);
    CHECK_INT(errno, ENOTTY); /* of what failed before */
    CHECK_FAILS(td__follow_opened(99), EBADF);
    int directory = td__descriptors();
    REQUIRE(directory >= 0);
    int own = td__reopen(directory, life[0]);
    CHECK(own > 2 && own != life[0]);
    CHECK_FAILS(td__reopen(directory, 99), ENOENT);
    CHECK_FAILS(td__reopen(life[0], life[0]), ENOTDIR);
    CHECK_INT(td__follow_opened(own), own);
    close(own); /* before its pipe ends, which would kill us */
    close(directory);
    CHECK_INT(count_fds(), fds);
    refuse(SYS_fcntl, EPERM);
    own = td__reopen(-1, life[0]);
    CHECK_FAILS(td__follow_opened(own), EPERM);
    CHECK_INT(count_fds(), fds);
}

TEST(dying_with_a_parent)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(td__die_with_parent(getppid()) && !td__die_with_parent(getppid() + 1) && !td__die_with_parent(0) ? 0 : 1);
    CHECK_INT(helper_wait(pid), 0);
}

/* --- ends of children ------------------------------------------------------------------------------------------- */

TEST(ends_of_children)
{
    td__death of;
    CHECK_FAILS(td__child_ended(&of), ECHILD);
    td__child_reap(1 << 22);
    static const struct {
        int status;
        bool signaled;
    } rows[] = { { 0, false }, { 255, false }, { SIGKILL, true }, { SIGABRT, true } };
    for (size_t i = 0; i < TD__COUNT(rows); i++) {
        pid_t pid = fork();
        if (pid == 0) {
            event_wait(CHILD);
            signal(SIGABRT, SIG_DFL);
            if (rows[i].signaled)
                kill(getpid(), rows[i].status);
            _exit(rows[i].status);
        }
        CHECK_INT(td__child_ended(&of), 0);
        td__child_reap(pid); /* it lives: does not wait */
        event_set(CHILD);
        WAIT_UNTIL(td__child_ended(&of) == 1, 10);
        CHECK_INT(of.pid, pid);
        CHECK_INT(of.signaled, rows[i].signaled);
        CHECK_INT(of.number, rows[i].status);
        CHECK_INT(td__child_ended(&of), 1); /* it was not reaped */
        td__child_reap(pid);
        CHECK_FAILS(td__child_ended(&of), ECHILD);
        page->event[CHILD] = 0;
    }
}

TEST(signals_by_descriptor)
{
    CHECK_FAILS(td__pid_fd(0), EINVAL);
    CHECK_FAILS(td__pid_fd(-1), EINVAL);
    CHECK_FAILS(td__pid_fd((1 << 22) + 1), ESRCH);
    CHECK_FAILS(td__pid_fd_kill(-1, 0), EBADF);
    CHECK_FAILS(td__pid_fd_kill(0, 0), EBADF);
    int self = td__pid_fd(getpid());
    CHECK_INT(td__pid_fd_kill(self, 0), 0);
    CHECK_FAILS(td__pid_fd_kill(self, 65), EINVAL);
    CHECK_FAILS(td__pid_fd_kill(self, -1), EINVAL);
    td__kill(0, SIGKILL); /* the whole group, if it were passed on */
    td__kill(-1, SIGKILL);
    td__kill(getpid(), 0);
    CHECK(td__getpid() == getpid() && td__getppid() == getppid());
    CHECK(!td__is_secure() && !td__exec_gives_rights());
    refuse(SYS_pidfd_open, ENOSYS);
    CHECK_FAILS(td__pid_fd(getpid()), ENOSYS);
}

TEST(ends_without_handlers)
{
    pid_t pid = fork();
    if (pid == 0) {
        printf("never seen");
        td__exit_now(258); /* eight bits of it */
    }
    CHECK_INT(helper_wait(pid), 2);
    WITH_FAULT(CHECK_FAILS(td__fork(), EAGAIN));
    pid = td__fork();
    if (pid == 0)
        td__exit_now(-1);
    CHECK_INT(helper_wait(pid), 255);
}

/* --- threads ---------------------------------------------------------------------------------------------------- */

static void *give_back(void *arg)
{
    *(pid_t *)arg = td__thread_id();
    return NULL;
}

TEST(threads_with_any_stack)
{
    pthread_t thread;
    pid_t id;
    static const size_t sizes[] = { 0, 1 << 20, (1 << 20) + 1, 8 << 20 };
    for (size_t i = 0; i < TD__COUNT(sizes); i++) {
        id = 0;
        CHECK_INT(td__thread_create(&thread, sizes[i], give_back, &id), 0);
        CHECK_INT(td__thread_join(thread), 0);
        CHECK(id > 0 && id != getpid());
    }
    CHECK(td__stack_minimum() >= 16384 || td__stack_minimum() >= (size_t)sysconf(_SC_THREAD_STACK_MIN));
    CHECK_FAILS(td__thread_create(&thread, 1, give_back, &id), EINVAL);
    CHECK_FAILS(td__thread_create(&thread, SIZE_MAX, give_back, &id), EINVAL); /* rounded up it would be none */
    if (!SANITIZED)
        CHECK_FAILS(td__thread_create(&thread, (size_t)1 << 60, give_back, &id), EAGAIN);
    WITH_FAULT(CHECK_FAILS(td__thread_create(&thread, 0, give_back, &id), EAGAIN));
    CHECK_INT(td__thread_join(pthread_self()), EDEADLK);
}

static pid_t id_in_child(void)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(td__thread_id() == getpid() ? 0 : 1);
    return pid;
}

/* Catches: an id that stays the parent's after a fork. */
TEST(ids_and_names_of_threads)
{
    char name[32];
    CHECK_INT(td__thread_id(), getpid());
    CHECK_INT(helper_wait(id_in_child()), 0);
    static const char *const names[] = { "", "a", "fifteen-letters", "more-than-fifteen-letters" };
    for (size_t i = 0; i < TD__COUNT(names); i++) {
        td__thread_name(names[i]);
        REQUIRE(prctl(PR_GET_NAME, name) == 0);
        CHECK(strncmp(name, names[i], 15) == 0 && strlen(name) <= 15);
    }
    CHECK(td__cpu() < 100000);
    td__yield();
    td__relax();
}

TEST(barriers_refused)
{
    CHECK(td__barrier_register(false));
    CHECK(td__barrier_others(false));
    CHECK(td__barrier_register(true));
    CHECK(td__barrier_others(true));
    WITH_FAULT(CHECK(!td__barrier_register(false)));
    WITH_FAULT(CHECK(!td__barrier_others(true)));
    refuse(SYS_membarrier, ENOSYS);
    CHECK(!td__barrier_register(false) && !td__barrier_register(true));
    CHECK(!td__barrier_others(false) && !td__barrier_others(true));
}

/* --- signals ---------------------------------------------------------------------------------------------------- */

TEST(masks)
{
    sigset_t before, inner;
    uint64_t at_first = blocked(), unblockable = TD__SIGNAL_BIT(SIGKILL) | TD__SIGNAL_BIT(SIGSTOP);
    td__signals_block(&before);
    CHECK(blocked() == ~unblockable);
    td__signals_block(&inner);
    td__signals_restore(&inner);
    CHECK(blocked() == ~unblockable);
    td__signals_restore(&before);
    CHECK(blocked() == at_first);
    td__signals_block_users(&before);
    CHECK((blocked() | TD__SIGNAL_BIT(32) | TD__SIGNAL_BIT(33)) == ~unblockable);
    CHECK((blocked() & (TD__SIGNAL_BIT(32) | TD__SIGNAL_BIT(33))) == 0);
    td__signals_restore(&before);
    CHECK(blocked() == at_first);
    td__signals_block(&before);
    td__signals_clear();
    CHECK_INT(blocked(), 0);
}

/* Catches: a signal that was meant for somebody else, and comes when it is let in. */
TEST(pending_signals_are_dropped)
{
    sigset_t before;
    struct sigaction action = { .sa_handler = meet_signal };
    for (int number = 1; number < 65; number++)
        sigaction(number, &action, NULL);
    td__signals_drop(); /* none */
    td__signals_block(&before);
    for (int number = 1; number < 65; number++)
        if (number != SIGKILL && number != SIGSTOP)
            for (int i = 0; i < 3; i++) /* those of real time come as often as they were sent */
                kill(getpid(), number);
    td__signals_drop();
    td__signals_clear();
    CHECK_INT(atomic_load(&signals_met), 0);
    kill(getpid(), SIGUSR1);
    CHECK_INT(atomic_load(&signals_met), 1);
}

static void with_information(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info, (void)context;
}

TEST(dispositions)
{
    uint64_t usual = td__signals_ignored();
    td__signal_ignore(SIGUSR1, true);
    td__signal_ignore(64, true);
    CHECK(td__signals_ignored() == (usual | TD__SIGNAL_BIT(SIGUSR1) | TD__SIGNAL_BIT(64)));
    td__signal_ignore(SIGUSR1, false);
    td__signal_ignore(SIGKILL, true); /* cannot be */
    td__signal_ignore(0, true);
    td__signal_ignore(65, true);
    CHECK(td__signals_ignored() == (usual | TD__SIGNAL_BIT(64)));
    struct sigaction action = { .sa_sigaction = with_information, .sa_flags = SA_SIGINFO }, now;
    REQUIRE(sigaction(SIGUSR2, &action, NULL) == 0);
    action = (struct sigaction){ .sa_handler = meet_signal };
    REQUIRE(sigaction(SIGHUP, &action, NULL) == 0);
    td__signals_reset(TD__SIGNAL_BIT(SIGHUP) | TD__SIGNAL_BIT(SIGWINCH) | TD__SIGNAL_BIT(SIGKILL));
    CHECK(td__signals_ignored() == (TD__SIGNAL_BIT(SIGHUP) | TD__SIGNAL_BIT(SIGWINCH)));
    for (int number = 1; number < 65; number++) {
        if (sigaction(number, NULL, &now) < 0)
            continue;
        bool ignored = number == SIGHUP || number == SIGWINCH;
        if (!CHECK(now.sa_handler == (ignored ? SIG_IGN : SIG_DFL)))
            harness_note("    signal %d", number);
    }
    td__signals_reset(0);
    CHECK_INT(td__signals_ignored(), 0);
    td__signals_ignore_terminal();
    static const int numbers[] = { SIGINT, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU, SIGHUP, SIGPIPE, SIGTERM };
    for (size_t i = 0; i < TD__COUNT(numbers); i++)
        CHECK(td__signals_ignored() & TD__SIGNAL_BIT(numbers[i]));
    CHECK(!(td__signals_ignored() & TD__SIGNAL_BIT(SIGCHLD)));
}

TEST(names_of_signals)
{
    char name[24];
    CHECK_STR(td__signal_name(SIGSEGV, name), "SIGSEGV");
    CHECK_STR(td__signal_name(1, name), "SIGHUP");
    CHECK_STR(td__signal_name(SIGRTMIN, name), "SIGRTMIN+0");
    CHECK_STR(td__signal_name(64, name), "SIGRTMIN+30");
    CHECK_STR(td__signal_name(0, name), "signal 0");
    CHECK_STR(td__signal_name(65, name), "signal 65");
    CHECK_STR(td__signal_name(INT_MIN, name), "signal -2147483648");
    CHECK_STR(td__signal_name(INT_MAX, name), "signal 2147483647");
}

TEST(ends_of_children_by_descriptor)
{
    sigset_t child;
    bool ready;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    REQUIRE(sigprocmask(SIG_BLOCK, &child, NULL) == 0);
    int fd = td__signal_fd_child();
    REQUIRE(fd > 2);
    td__signal_fd_clear(fd); /* none: does not wait */
    CHECK_INT(td__poll(&fd, &ready, 1, 1), 0);
    for (int i = 0; i < 2; i++) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(0);
        CHECK_INT(td__poll(&fd, &ready, 1, td__deadline(td_s(20))), 1);
        td__signal_fd_clear(fd);
        CHECK_INT(td__poll(&fd, &ready, 1, 1), 0);
        CHECK_INT(helper_wait(pid), 0);
    }
    td__signal_fd_clear(-1);
}

/* --- standard output -------------------------------------------------------------------------------------------- */

/* Catches: output that stays in a buffer; an error of it that nobody is told. */
TEST(output_is_flushed)
{
    char path[PATH_MAX];
    CHECK_INT(td__flush_all(), 0);
    FILE *file = fopen(dir_path("out", path, sizeof path), "w");
    REQUIRE(file != NULL);
    fputs("text", file);
    CHECK_INT(td__flush_all(), 0);
    char *text = read_file(path, NULL);
    CHECK_STR(text, "text");
    free(text);
    fputs("more", file);
    close(fileno(file));
    CHECK_INT(td__flush_all(), EBADF);
    FILE *full = fopen("/dev/full", "w");
    if (full) {
        fputs("more", full);
        CHECK(td__flush_all() == ENOSPC || errno == ENOSPC);
    }
    end_here(); /* nothing that these streams hold is of use */
}
