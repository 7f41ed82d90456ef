/* SPDX-License-Identifier: MIT */
/*
 * Who a program is may change between two starts: its user, groups, root, namespaces, sandbox, even its file on disk.
 * A worker must be what the program is at the moment of the start, never what it was; or there is a clear error.
 */
#include "targets.h"
#include "refuse.h"

#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/times.h>
#include <sys/utsname.h>

enum { READY = OWN_EVENTS, REPLACED };

static td_worker *ended(const mode *how, td_target *target)
{
    td_worker *w = JOINED(NEW(.target = target));
    if (!CHECK_INT(td_outcome(w), TD_RETURNED))
        harness_note("    %s", td_describe(w));
    return w;
}

/* A start and join that must not hang; success, or an error with a sentence. Returns whether it worked. */
static bool works_or_says_why(const mode *how)
{
    td_worker *w = WORKER(NEW(.target = nothing));
    int code = td_start(w);
    if (code == 0) {
        CHECK_OK(td_join_for(w, td_s(30)));
        td_state state = td_outcome(w);
        CHECK(state == TD_RETURNED || state == TD_FAILED);
        if (state == TD_FAILED)
            CHECK(td_message(w)[0]);
        code = state == TD_RETURNED ? 0 : -1;
    } else {
        CHECK(code < 0 && td_last_error() == code && td_last_message()[0]);
        harness_note("    (%s: %s)", how->name, td_last_message());
    }
    td_free(w);
    return code == 0;
}

/* For programs that a leak checker cannot follow: after a change of user, without /proc, and the like. */
static int leave(void)
{
    fflush(stdout);
    td_finish();
    _exit(harness_failed());
}

/* --- user and groups ------------------------------------------------------------------------------------------- */

struct user {
    uid_t r, e, s;
    gid_t gr, ge, gs;
    int n;
    gid_t groups[8];
    char capabilities[32];
};

static void look_at_user(struct user *u)
{
    memset(u, 0, sizeof *u);
    getresuid(&u->r, &u->e, &u->s);
    getresgid(&u->gr, &u->ge, &u->gs);
    u->n = getgroups(8, u->groups);
    status_of(getpid(), "CapEff", u->capabilities, sizeof u->capabilities);
}

static int tells_user(td_call *call)
{
    struct user u;
    look_at_user(&u);
    return td_return_bytes(call, &u, sizeof u);
}

static void check_user(const mode *how)
{
    struct user want;
    look_at_user(&want);
    td_worker *w = ended(how, tells_user);
    const struct user *got = td_result_bytes(w, 0);
    REQUIRE(got != 0);
    CHECK_INT(got->r, want.r);
    CHECK_INT(got->e, want.e);
    CHECK_INT(got->gr, want.gr);
    CHECK_INT(got->ge, want.ge);
    CHECK(got->s == want.s || got->s == want.e); /* a fresh image saves the effective one */
    CHECK(got->gs == want.gs || got->gs == want.ge);
    CHECK_INT(got->n, want.n);
    CHECK_INT(memcmp(got->groups, want.groups, sizeof want.groups), 0);
    CHECK_STR(got->capabilities, want.capabilities);
    td_free(w);
}

/* Arguments: mode, user id. */
HELPER(drops_its_user)
{
    REQUIRE(argc == 3);
    const mode *how = mode_named(argv[1]);
    uid_t uid = (uid_t)atoi(argv[2]);
    for (int i = 0; i < 3; i++)
        check_user(how);
    td_worker *old = WORKER(NEW(.target = until_go));
    REQUIRE_OK(td_start(old));
    event_wait(STARTED);
    gid_t groups[] = { 4000, 4001 };
    REQUIRE(setgroups(2, groups) == 0);
    check_user(how);
    REQUIRE(setgroups(0, 0) == 0 && setgid(uid) == 0 && setuid(uid) == 0);
    for (int i = 0; i < 5; i++)
        check_user(how);
    CHECK(td_is_alive(old)); /* what runs goes on */
    event_set(GO);
    CHECK_OK(td_join(old));
    CHECK_INT(td_outcome(old), TD_RETURNED);
    td_free(old);
    return leave();
}

/* Catches: a server that gave up root and whose workers still are root. */
TEST_METHODS(user_dropped_between_starts)
{
    char uid[32];
    snprintf(uid, sizeof uid, "%u", (unsigned)lonely_uid());
    CHECK_INT(helper_run(0, "drops_its_user", how->name, uid, NULL), 0);
    WAIT_UNTIL(others() == 0, 1);
}

/* Arguments: mode, user id. */
HELPER(drops_its_effective_user)
{
    REQUIRE(argc == 3);
    const mode *how = mode_named(argv[1]);
    uid_t uid = (uid_t)atoi(argv[2]);
    check_user(how);
    REQUIRE(setegid(uid) == 0 && seteuid(uid) == 0);
    for (int i = 0; i < 3; i++) {
        /* a program whose effective user is not its real one cannot be started anew in safety: an error will do */
        td_worker *w = WORKER(NEW(.target = tells_user));
        if (td_start(w) == 0) {
            struct user want;
            look_at_user(&want);
            REQUIRE_OK(td_join(w));
            const struct user *got = td_result_bytes(w, 0);
            REQUIRE(got != 0);
            CHECK_INT(got->e, want.e);
            CHECK_INT(got->ge, want.ge);
            CHECK_STR(got->capabilities, want.capabilities);
        } else {
            CHECK(td_last_message()[0]);
        }
        td_free(w);
    }
    REQUIRE(seteuid(0) == 0 && setegid(0) == 0);
    check_user(how);
    return leave();
}

/* Catches: the same for a change for a while. */
TEST_METHODS(effective_user_dropped_between_starts)
{
    char uid[32];
    snprintf(uid, sizeof uid, "%u", (unsigned)lonely_uid());
    CHECK_INT(helper_run(0, "drops_its_effective_user", how->name, uid, NULL), 0);
    WAIT_UNTIL(others() == 0, 1);
}

static void drop_capability(int which, bool permitted_too)
{
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct data[2];
    REQUIRE(syscall(SYS_capget, &header, data) == 0);
    data[which / 32].effective &= ~(1u << which % 32);
    if (permitted_too)
        data[which / 32].permitted &= ~(1u << which % 32);
    REQUIRE(syscall(SYS_capset, &header, data) == 0);
}

/* Argument: mode. */
HELPER(drops_capabilities)
{
    REQUIRE(argc == 2);
    const mode *how = mode_named(argv[1]);
    check_user(how);
    drop_capability(CAP_NET_ADMIN, false);
    check_user(how);
    drop_capability(CAP_NET_ADMIN, true);
    check_user(how);
    drop_capability(CAP_SYS_CHROOT, true);
    check_user(how);
    drop_capability(CAP_SETUID, true);
    drop_capability(CAP_SETGID, true);
    check_user(how);
    /* what is out of the bounding set, a fresh image cannot have, though we still can: no more than we have, then */
    REQUIRE(prctl(PR_CAPBSET_DROP, CAP_NET_RAW, 0, 0, 0) == 0);
    td_worker *w = ended(how, tells_user);
    const struct user *got = td_result_bytes(w, 0);
    REQUIRE(got != 0);
    CHECK_INT(strtoull(got->capabilities, 0, 16) & ~status_hex(getpid(), "CapEff"), 0);
    td_free(w);
    return leave();
}

/* Catches: a program that stays root but gives up what root can do, and workers that can still do it. */
TEST_METHODS(capabilities_dropped_between_starts)
{
    if (geteuid() != 0)
        SKIP("needs root, to have capabilities");
    CHECK_INT(helper_run(0, "drops_capabilities", how->name, NULL), 0);
}

static void *checks_user_in_thread(void *how)
{
    check_user(how);
    return 0;
}

/* The change is made by another thread than the one that starts, and the spawner was started by a third. */
HELPER(drops_its_user_in_threads)
{
    REQUIRE(argc == 3);
    const mode *how = mode_named(argv[1]);
    uid_t uid = (uid_t)atoi(argv[2]);
    pthread_t thread;
    for (int round = 0; round < 2; round++) {
        REQUIRE(pthread_create(&thread, 0, checks_user_in_thread, (void *)(uintptr_t)how) == 0);
        pthread_join(thread, 0);
        if (round == 0)
            REQUIRE(setgroups(0, 0) == 0 && setgid(uid) == 0 && setuid(uid) == 0);
    }
    return leave();
}

TEST_METHODS(user_dropped_by_another_thread)
{
    char uid[32];
    snprintf(uid, sizeof uid, "%u", (unsigned)lonely_uid());
    CHECK_INT(helper_run(0, "drops_its_user_in_threads", how->name, uid, NULL), 0);
}

/* After the change of user, the program is killed: the new spawner must still notice. */
HELPER(drops_its_user_and_waits)
{
    REQUIRE(argc == 3);
    const mode *how = mode_named(argv[1]);
    check_user(how);
    uid_t uid = (uid_t)atoi(argv[2]);
    td_worker *before = WORKER(NEW(.target = until_go)), *after = WORKER(NEW(.target = until_go));
    REQUIRE_OK(td_start(before));
    REQUIRE(setgroups(0, 0) == 0 && setgid(uid) == 0 && setuid(uid) == 0);
    REQUIRE_OK(td_start(after));
    event_wait_count(STARTED, 2);
    event_set(READY);
    event_wait(GO);
    return 0;
}

/* Catches: a death signal that the kernel took back with the change of user, or may not deliver. */
TEST_METHODS(killed_after_the_user_was_dropped)
{
    char uid[32];
    snprintf(uid, sizeof uid, "%u", (unsigned)lonely_uid());
    pid_t pid = helper_start(0, "drops_its_user_and_waits", how->name, uid, NULL);
    helper_event(pid, READY, 1);
    kill(pid, SIGKILL);
    helper_wait(pid);
    WAIT_UNTIL(others() == 0, 1);
}

/* --- root directory ---------------------------------------------------------------------------------------------- */

static int looks_for_usr(td_call *call)
{
    return td_return(call, bool, access("/usr", F_OK) == 0);
}

HELPER(changes_root_to_nothing)
{
    REQUIRE(argc == 2);
    const mode *how = mode_named(argv[1]);
    char path[PATH_MAX];
    td_free(ended(how, nothing));
    td_worker *old = WORKER(NEW(.target = until_go));
    REQUIRE_OK(td_start(old));
    event_wait(STARTED);
    REQUIRE(mkdir(dir_path("empty", path, sizeof path), 0755) == 0);
    REQUIRE(chroot(path) == 0 && chdir("/") == 0);
    for (int i = 0; i < 3; i++) {
        td_worker *w = WORKER(NEW(.target = looks_for_usr));
        int code = td_start(w);
        if (code == 0) {
            bool found = true;
            CHECK_OK(td_join_for(w, td_s(30)));
            if (td_outcome(w) == TD_RETURNED) {
                CHECK_OK(td_result(w, bool, &found));
                CHECK(!found); /* never in the old root */
            }
        } else {
            CHECK(code < 0 && td_last_message()[0]);
        }
        td_free(w);
    }
    CHECK(td_is_alive(old));
    CHECK_INT(td_run(td_thread(.target = nothing)), 0);
    event_set(GO);
    CHECK_OK(td_join(old));
    CHECK_INT(td_outcome(old), TD_RETURNED);
    td_free(old);
    return leave();
}

/* Catches: workers outside of the jail; a hang where the program's file cannot be found. */
TEST_METHODS(root_changed_to_an_empty_directory)
{
    if (geteuid() != 0)
        SKIP("needs root, for chroot");
    CHECK_INT(helper_run(0, "changes_root_to_nothing", how->name, NULL), 0);
}

static void private_mounts(void *unused)
{
    (void)unused;
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", 0, MS_REC | MS_PRIVATE, 0) < 0)
        _exit(EXIT_SKIPPED);
}

HELPER(changes_root_to_a_copy)
{
    REQUIRE(argc == 2);
    const mode *how = mode_named(argv[1]);
    char path[PATH_MAX];
    td_free(ended(how, nothing));
    REQUIRE(mkdir(dir_path("root", path, sizeof path), 0755) == 0);
    if (mount("/", path, 0, MS_BIND | MS_REC, 0) < 0)
        return EXIT_SKIPPED;
    REQUIRE(chroot(path) == 0 && chdir("/") == 0);
    for (int i = 0; i < 3; i++)
        td_free(ended(how, nothing));
    return leave();
}

TEST_METHODS(root_changed_to_a_copy)
{
    helper_options o = { .before = private_mounts };
    int status = helper_run(&o, "changes_root_to_a_copy", how->name, NULL);
    if (status == EXIT_SKIPPED)
        SKIP("not permitted to mount");
    CHECK_INT(status, 0);
}

/* --- namespaces ------------------------------------------------------------------------------------------------ */

struct spaces {
    char link[5][64];
    char host[64];
};

static void look_at_spaces(struct spaces *s)
{
    static const char *const names[] = { "uts", "ipc", "net", "mnt", "cgroup" };
    memset(s, 0, sizeof *s);
    for (int i = 0; i < 5; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
        ssize_t n = readlink(path, s->link[i], sizeof s->link[i] - 1);
        CHECK(n > 0);
    }
    gethostname(s->host, sizeof s->host - 1);
}

static int tells_spaces(td_call *call)
{
    struct spaces s;
    look_at_spaces(&s);
    return td_return_bytes(call, &s, sizeof s);
}

static void check_spaces(const mode *how)
{
    struct spaces want;
    look_at_spaces(&want);
    td_worker *w = ended(how, tells_spaces);
    const struct spaces *got = td_result_bytes(w, 0);
    REQUIRE(got != 0);
    for (int i = 0; i < 5; i++)
        CHECK_STR(got->link[i], want.link[i]);
    CHECK_STR(got->host, want.host);
    td_free(w);
}

HELPER(unshares)
{
    REQUIRE(argc == 2);
    const mode *how = mode_named(argv[1]);
    const int flags[] = { CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWCGROUP };
    check_spaces(how);
    for (int i = 0; i < 5; i++) {
        if (unshare(flags[i]) < 0)
            return i ? 0 : EXIT_SKIPPED;
        if (i == 0)
            REQUIRE(sethostname("tandem-test", 11) == 0);
        check_spaces(how);
        check_spaces(how);
    }
    return 0;
}

/* Catches: workers that stay in the namespaces which the program has left. */
TEST_METHODS(namespaces_changed_between_starts)
{
    int status = helper_run(0, "unshares", how->name, NULL);
    if (status == EXIT_SKIPPED)
        SKIP("not permitted to make namespaces");
    CHECK_INT(status, 0);
}

/* --- sandboxes --------------------------------------------------------------------------------------------------- */

struct sandbox {
    int no_new_privileges, mode, refused;
};

static void look_at_sandbox(struct sandbox *s)
{
    char text[32];
    s->no_new_privileges = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
    s->mode = atoi(status_of(getpid(), "Seccomp", text, sizeof text));
    struct tms t;
    s->refused = syscall(SYS_times, &t) == -1 ? errno : 0;
}

static int tells_sandbox(td_call *call)
{
    struct sandbox s;
    look_at_sandbox(&s);
    return td_return_bytes(call, &s, sizeof s);
}

static void check_sandbox(const mode *how)
{
    struct sandbox want;
    look_at_sandbox(&want);
    td_worker *w = ended(how, tells_sandbox);
    const struct sandbox *got = td_result_bytes(w, 0);
    REQUIRE(got != 0);
    CHECK_INT(got->no_new_privileges, want.no_new_privileges);
    CHECK_INT(got->mode, want.mode);
    CHECK_INT(got->refused, want.refused);
    td_free(w);
}

HELPER(enters_a_sandbox)
{
    REQUIRE(argc == 2);
    const mode *how = mode_named(argv[1]);
    for (int i = 0; i < 3; i++)
        check_sandbox(how);
    REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    check_sandbox(how);
    if (!try_refuse(SYS_times, E2BIG))
        return EXIT_SKIPPED;
    struct sandbox s;
    look_at_sandbox(&s);
    CHECK_INT(s.refused, E2BIG);
    for (int i = 0; i < 3; i++)
        check_sandbox(how);
    /* a second filter changes neither mode nor flag */
    REQUIRE(try_refuse(SYS_times, ENOTTY));
    check_sandbox(how);
    return leave();
}

/* Catches: workers that escape from the sandbox which the program has entered. */
TEST_METHODS(sandbox_entered_between_starts)
{
    int status = helper_run(0, "enters_a_sandbox", how->name, NULL);
    if (status == EXIT_SKIPPED)
        SKIP("no filters of system calls here");
    CHECK_INT(status, 0);
}

static const struct {
    const char *name;
    int number, error;
} refusals[] = {
    { "clone3 EPERM", SYS_clone3, EPERM },
    { "clone3 ENOSYS", SYS_clone3, ENOSYS },
    { "pidfd_open EPERM", SYS_pidfd_open, EPERM },
    { "pidfd_open ENOSYS", SYS_pidfd_open, ENOSYS },
    { "memfd_create EPERM", SYS_memfd_create, EPERM },
    { "close_range ENOSYS", SYS_close_range, ENOSYS },
    { "membarrier ENOSYS", SYS_membarrier, ENOSYS },
    { "membarrier EPERM", SYS_membarrier, EPERM },
    { "pidfd_send_signal ENOSYS", SYS_pidfd_send_signal, ENOSYS },
    { "set_robust_list ENOSYS", SYS_set_robust_list, ENOSYS },
    { "execveat ENOSYS", SYS_execveat, ENOSYS },
    { "vfork EPERM", SYS_vfork, EPERM },
    { "fallocate ENOSYS", SYS_fallocate, ENOSYS },
};

static void *none(void *unused)
{
    return unused;
}

/* Arguments: which refusal; mode; "first" or "later" for when it begins. */
HELPER(lives_with_a_refusal)
{
    REQUIRE(argc == 4);
    int which = atoi(argv[1]);
    const mode *how = mode_named(argv[2]);
    if (argv[3][0] == 'l')
        td_free(ended(how, nothing));
    if (!try_refuse(refusals[which].number, refusals[which].error))
        return EXIT_SKIPPED;
    pthread_t thread;
    bool libc_can = pthread_create(&thread, 0, none, 0) == 0;
    if (libc_can)
        pthread_join(thread, 0);
    td_worker *t = WORKER(td_thread(.target = nothing));
    int code = td_start(t);
    if (libc_can || code == 0) {
        CHECK_OK(code);
        CHECK_OK(td_join(t));
    } else {
        CHECK(code < 0 && td_last_message()[0]);
    }
    td_free(t);
    bool worked = works_or_says_why(how);
    if (libc_can) /* it needs nothing that is refused here in order to work */
        CHECK(worked || refusals[which].number == SYS_memfd_create || refusals[which].number == SYS_pidfd_open ||
              refusals[which].number == SYS_fallocate);
    CHECK_INT(works_or_says_why(how), worked);
    return leave();
}

/* Catches: a sandbox, or an old kernel, without a newer system call: a hang, a crash or an error without a sentence. */
TEST_METHODS(system_calls_refused)
{
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        for (int later = 0; later < 2; later++) {
            char which[16];
            snprintf(which, sizeof which, "%zu", i);
            int status = helper_run(0, "lives_with_a_refusal", which, how->name, later ? "later" : "first", NULL);
            if (status == EXIT_SKIPPED)
                SKIP("no filters of system calls here");
            if (!CHECK_INT(status, 0))
                harness_note("    with %s, %s", refusals[i].name, later ? "later" : "from the first start");
            WAIT_UNTIL(others() == 0, 1);
        }
    }
}

/* --- the file on disk -------------------------------------------------------------------------------------------- */

HELPER(is_replaced)
{
    td_free(ended(&mode_forkserver, nothing));
    event_set(READY);
    event_wait(REPLACED);
    for (int i = 0; i < 3; i++)
        td_free(ended(&mode_forkserver, nothing));
    td_free(ended(&mode_fork, nothing));
    pid_t spawner = find_spawner();
    kill(spawner, SIGKILL);
    WAIT_UNTIL(!process_alive(spawner), 5);
    td_free(ended(&mode_forkserver, nothing)); /* from the file that this program came from */
    CHECK(find_spawner() != spawner);
    CHECK_OK(td_finish());
    td_free(ended(&mode_forkserver, nothing));
    return 0;
}

static void replace_running(int way)
{
    char path[PATH_MAX], other[PATH_MAX];
    REQUIRE(copy_file(self_path(), dir_path("program", path, sizeof path)));
    helper_options o = { .exe = path };
    page->event[READY] = page->event[REPLACED] = 0;
    pid_t pid = helper_start(&o, "is_replaced", NULL);
    helper_event(pid, READY, 1);
    if (way == 0) { /* by another program, as an upgrade does */
        REQUIRE(copy_file("/bin/true", dir_path("other", other, sizeof other)));
        REQUIRE(rename(other, path) == 0);
    } else if (way == 1) { /* by the same program built anew: the same name, other addresses */
        char sibling[PATH_MAX];
        snprintf(sibling, sizeof sibling, "%s/test_worker", self_dir());
        REQUIRE(copy_file(sibling, dir_path("other", other, sizeof other)));
        REQUIRE(rename(other, path) == 0);
    } else {
        REQUIRE(unlink(path) == 0);
    }
    event_set(REPLACED);
    CHECK_INT(helper_wait(pid), 0);
    WAIT_UNTIL(others() == 0, 1);
}

/* Catches: a spawner that is started from whatever lies under the program's name by now. */
TEST(program_replaced_on_disk)
{
    replace_running(0);
    replace_running(1);
}

TEST(program_removed_from_disk)
{
    replace_running(2);
}

HELPER(is_unreadable)
{
    works_or_says_why(&mode_forkserver);
    td_free(ended(&mode_fork, nothing));
    CHECK_INT(td_run(td_thread(.target = nothing)), 0);
    return 0;
}

/* Catches: a program that may be executed but not read (and whose /proc entries belong to root). */
TEST(program_that_cannot_be_read)
{
    char path[PATH_MAX];
    uid_t uid = lonely_uid();
    REQUIRE(copy_file(self_path(), dir_path("program", path, sizeof path)));
    REQUIRE(chmod(path, 0711) == 0);
    helper_options o = { .exe = path, .uid = uid };
    int status = helper_run(&o, "is_unreadable", NULL);
    CHECK_INT(status, 0);
}

/* --- the marker ----------------------------------------------------------------------------------------------------
 */

HELPER(plain_program)
{
    td_free(ended(&mode_forkserver, nothing));
    td_free(ended(&mode_fork, nothing));
    CHECK_INT(td_run(td_thread(.target = nothing)), 0);
    CHECK_OK(td_finish());
    event_add(READY);
    return 0;
}

static int marker_kind;

static void forge_marker(void *unused)
{
    (void)unused;
    static const char *const names[] = { "TANDEM_SPAWNER", "TD_SPAWNER", "TANDEM", "TANDEM_FD", "TD_SPAWNER_FD" };
    int fd = -1, ends[2];
    char text[64];
    if (marker_kind == 1)
        fd = open("/dev/null", O_RDWR);
    else if (marker_kind == 2)
        fd = pipe(ends) == 0 ? ends[0] : -1;
    else if (marker_kind == 3) {
        fd = memfd_create("tandem", 0);
        if (ftruncate(fd, 1 << 26) < 0)
            _exit(120);
    }
    if (fd >= 0 && fd != 3)
        dup2(fd, 3);
    if (marker_kind)
        dup2(3, 4);
    snprintf(text, sizeof text, "%s", marker_kind == 4 ? "99999999999999999999" : marker_kind == 5 ? "x" : "3");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        setenv(names[i], text, 1);
}

/* Catches: a stranger who makes a program play the spawner, by a variable and a descriptor that it did not ask for. */
TEST(forged_marker_is_ignored)
{
    for (marker_kind = 0; marker_kind < 6; marker_kind++) {
        helper_options o = { .before = forge_marker };
        page->event[READY] = 0;
        if (!CHECK_INT(helper_run(&o, "plain_program", NULL), 0))
            harness_note("    marker %d", marker_kind);
        CHECK_INT(event_count(READY), 1);
    }
}

/* --- without /proc --------------------------------------------------------------------------------------------------
 */

static void hide_proc(void)
{
    if (mount("none", "/proc", "tmpfs", 0, 0) < 0)
        _exit(EXIT_SKIPPED);
}

/* Arguments: mode; "first" or "later". */
HELPER(lives_without_proc)
{
    REQUIRE(argc == 3);
    const mode *how = mode_named(argv[1]);
    td_worker *old = 0;
    if (argv[2][0] == 'l') {
        td_free(ended(how, nothing));
        old = WORKER(NEW(.target = until_go));
        REQUIRE_OK(td_start(old));
        event_wait(STARTED);
    }
    hide_proc();
    bool worked = works_or_says_why(how);
    CHECK_INT(works_or_says_why(how), worked);
    if (how->method == TD_FORK)
        CHECK(worked); /* a copy of the caller needs no file */
    CHECK_INT(td_run(td_thread(.target = nothing)), 0);
    if (old) {
        CHECK(td_is_alive(old));
        event_set(GO);
        CHECK_OK(td_join(old));
        CHECK_INT(td_outcome(old), TD_RETURNED);
        td_free(old);
    }
    umount("/proc");
    td_free(ended(how, nothing)); /* and it is tried again */
    return leave();
}

/* Catches: a hang, or an error without a sentence, in a container without /proc. */
TEST_METHODS(proc_is_not_mounted)
{
    const char *when[] = { "first", "later" };
    for (int i = 0; i < 2; i++) {
        helper_options o = { .before = private_mounts };
        page->event[STARTED] = page->event[GO] = 0;
        int status = helper_run(&o, "lives_without_proc", how->name, when[i], NULL);
        if (status == EXIT_SKIPPED)
            SKIP("not permitted to mount");
        CHECK_INT(status, 0);
        WAIT_UNTIL(others() == 0, 1);
    }
}
