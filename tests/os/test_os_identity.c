/* SPDX-License-Identifier: MIT */
/* Who a thread is, what a process inherits, and the files of /proc that tell: at their borders, cut and damaged. */
#include "borders.h"

#include <grp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>

static void put(const char *name, const char *text, size_t size)
{
    char path[PATH_MAX];
    int fd = open(dir_path(name, path, sizeof path), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    REQUIRE(fd >= 0);
    REQUIRE(write(fd, text, size) == (ssize_t)size);
    close(fd);
}

static void make_folder(const char *name)
{
    char path[PATH_MAX];
    REQUIRE(mkdir(dir_path(name, path, sizeof path), 0777) == 0);
}

static char genuine[65536];
static size_t genuine_size;

static void enter_proc(void)
{
    ssize_t n = td__read_file("/proc/thread-self/status", genuine, sizeof genuine - 1);
    REQUIRE(n > 0);
    genuine_size = (size_t)n;
    make_folder("proc");
    make_folder("proc/self");
    make_folder("proc/thread-self");
    make_folder("proc/thread-self/ns");
    put("proc/thread-self/cgroup", "0::/\n", 5);
    td__identity_forget(); /* what td_init has opened */
    enter_root();
}

/* The main thread keeps its files open: here each time is the first one. */
static int identify(const char *status, size_t size, td__identity *identity)
{
    put("proc/thread-self/status", status, size);
    int r = td__identity_get(identity), error = errno;
    td__identity_forget();
    errno = error;
    return r;
}

/* Catches: a umask of 0, or capabilities of none, out of a file that ends before they are told; a crash at its end. */
TEST(status_cut_at_any_length)
{
    td__identity whole, identity;
    enter_proc();
    REQUIRE(identify(genuine, genuine_size, &whole) == 0);
    for (size_t size = 0; size < genuine_size; size++) {
        if (identify(genuine, size, &identity) < 0) {
            if (!CHECK_INT(errno, ENODATA))
                break;
        } else if (!CHECK_INT(identity.umask, whole.umask) ||
                   !CHECK(memcmp(&identity.capabilities, &whole.capabilities, sizeof whole.capabilities) == 0)) {
            harness_note("    cut to %zu of %zu bytes", size, genuine_size);
            break;
        }
    }
    leave_root();
}

static void check_status(const char *status, int error)
{
    td__identity identity;
    if (error == 0) {
        if (!CHECK_INT(identify(status, strlen(status), &identity), 0))
            harness_note("    %s", status);
    } else {
        CHECK_FAILS(identify(status, strlen(status), &identity), error);
    }
}

#define CAPS "CapInh:\t0\nCapPrm:\t0\nCapEff:\t0\n"

TEST(status_damaged)
{
    enter_proc();
    check_status("Umask:\t0022\n" CAPS, 0);
    check_status("\n\n\nUmask:\t0022\n\n" CAPS "\n", 0);
    check_status("", ENODATA);
    check_status("\n", ENODATA);
    check_status(CAPS, ENODATA);
    check_status("Umask:\t0022\n", ENODATA);
    check_status("Umask:\n" CAPS, ENODATA);
    check_status("Umask:\tx\n" CAPS, ENODATA);
    check_status("Umask:\t-1\n" CAPS, ENODATA);
    check_status("Umask:\t99999999999999999999\n" CAPS, ENODATA);
    check_status("Umask:\t10000\n" CAPS, ENODATA);
    check_status("XUmask:\t0022\n" CAPS, ENODATA);
    check_status("Umask", ENODATA);
    check_status("Umask:\t0022\nCapInh:\t0\nCapPrm:\tzz\nCapEff:\t0\n", ENODATA);
    /* A byte of 0 ends nothing but our understanding. */
    td__identity identity;
    static const char zero[] = "Umask:\t0022\n\0" CAPS;
    CHECK_FAILS(identify(zero, sizeof zero - 1, &identity), ENODATA);
    leave_root();
}

/* Everything that decides who we are makes a difference, and nothing else does. */
TEST(what_makes_an_identity)
{
    static const char usual[] = "Name:\tx\nUmask:\t0022\nState:\tR\nUid:\t1\t1\t1\t1\nGid:\t1\t1\t1\t1\nGroups:\t5 \n"
                                "VmSize:\t1\n" CAPS "CapBnd:\t0\nNoNewPrivs:\t0\nSeccomp:\t0\nSeccomp_filters:\t0\n";
    static const struct {
        const char *from, *to;
        bool other;
    } rows[] = {
        { "Name:\tx", "Name:\ty", false },
        { "Umask:\t0022", "Umask:\t0077", false },
        { "State:\tR", "State:\tS", false },
        { "VmSize:\t1", "VmSize:\t2", false },
        { "Uid:\t1\t1\t1\t1", "Uid:\t1\t2\t1\t1", true },
        { "Uid:\t1\t1\t1\t1", "Uid:\t1\t1\t1\t2", true },
        { "Gid:\t1\t1\t1\t1", "Gid:\t2\t1\t1\t1", true },
        { "Groups:\t5 ", "Groups:\t", true },
        { "Groups:\t5 ", "Groups:\t5 6 ", true },
        { "CapEff:\t0", "CapEff:\t1", true },
        { "CapBnd:\t0", "CapBnd:\t1", true },
        { "NoNewPrivs:\t0", "NoNewPrivs:\t1", true },
        { "Seccomp:\t0", "Seccomp:\t2", true },
        { "Seccomp_filters:\t0", "Seccomp_filters:\t1", true },
    };
    td__identity first, second;
    enter_proc();
    REQUIRE(identify(usual, strlen(usual), &first) == 0);
    for (size_t i = 0; i < TD__COUNT(rows); i++) {
        char text[1024];
        const char *at = strstr(usual, rows[i].from);
        REQUIRE(at != NULL);
        snprintf(text, sizeof text, "%.*s%s%s", (int)(at - usual), usual, rows[i].to, at + strlen(rows[i].from));
        REQUIRE(identify(text, strlen(text), &second) == 0);
        if (!CHECK_INT(first.hash != second.hash, rows[i].other))
            harness_note("    %s", rows[i].to);
    }
    put("proc/thread-self/cgroup", "0::/other\n", 10);
    REQUIRE(identify(usual, strlen(usual), &second) == 0);
    CHECK(first.hash != second.hash);
    put("proc/thread-self/cgroup", "0::/\n", 5);
    REQUIRE(symlink("user:[1]", "/proc/thread-self/ns/user") == 0);
    REQUIRE(identify(usual, strlen(usual), &second) == 0);
    CHECK(first.hash != second.hash);
    REQUIRE(symlink("net:[1]", "/proc/thread-self/ns/net") == 0); /* not looked at without CAP_SYS_ADMIN */
    REQUIRE(identify(usual, strlen(usual), &first) == 0);
    CHECK(first.hash == second.hash);
    leave_root();
}

/* Files that are not there. */
TEST(proc_without_some_files)
{
    td__identity identity;
    enter_proc();
    CHECK_INT(identify(genuine, genuine_size, &identity), 0);
    REQUIRE(unlink("/proc/thread-self/cgroup") == 0); /* no control groups: fine */
    CHECK_INT(identify(genuine, genuine_size, &identity), 0);
    REQUIRE(rmdir("/proc/thread-self/ns") == 0);
    CHECK_FAILS(identify(genuine, genuine_size, &identity), ENOENT);
    REQUIRE(unlink("/proc/thread-self/status") == 0);
    CHECK_FAILS(td__identity_get(&identity), ENOENT);
    WITH_FAULT(CHECK(td__identity_get(&identity) == -1));
    REQUIRE(mkdir("/proc/thread-self/status", 0777) == 0 && mkdir("/proc/thread-self/ns", 0777) == 0);
    CHECK_FAILS(td__identity_get(&identity), EISDIR);
    leave_root();
}

static void check_capabilities(void)
{
    td__identity identity;
    REQUIRE_OK(td__identity_get(&identity));
    CHECK(identity.capabilities.effective == status_hex(getpid(), "CapEff"));
    CHECK(identity.capabilities.permitted == status_hex(getpid(), "CapPrm"));
}

/* As many groups as a process may have make the file longer than any usual room for it. Catches: what comes after them,
 * the capabilities, being none: so all would be taken from every worker; a group more that is not noticed. */
TEST(as_many_groups_as_there_may_be)
{
    static gid_t groups[65536];
    td__identity first, second;
    lonely_uid();
    long most = sysconf(_SC_NGROUPS_MAX);
    REQUIRE(most > 0 && most <= 65536);
    for (long i = 0; i < most; i++)
        groups[i] = (gid_t)(4000000000u + (unsigned)i);
    for (long n = 1000; n <= most; n = n < most && n * 2 > most ? most : n * 2) {
        if (setgroups((size_t)n, groups) < 0)
            SKIP("cannot set %ld groups: %s", n, strerror(errno));
        check_capabilities();
        REQUIRE_OK(td__identity_get(&first));
        groups[n - 1]++;
        REQUIRE(setgroups((size_t)n, groups) == 0);
        groups[n - 1]--;
        REQUIRE_OK(td__identity_get(&second));
        CHECK(first.hash != second.hash);
        REQUIRE(setgroups((size_t)n, groups) == 0);
        REQUIRE_OK(td__identity_get(&second));
        CHECK(first.hash == second.hash);
    }
    REQUIRE(setgroups(0, NULL) == 0);
}

static void *identity_of_thread(void *to)
{
    static td__identity first;
    REQUIRE_OK(td__identity_get(&first));
    REQUIRE_OK(td__identity_get(to));
    CHECK(memcmp(&first, to, sizeof first) == 0);
    return NULL;
}

/* Catches: descriptors that other threads leave open; files of the main thread that a child of fork takes for its. */
TEST(identities_of_threads_and_children)
{
    static td__identity here, there, again;
    pthread_t thread;
    REQUIRE_OK(td__identity_get(&here));
    int open_now = count_fds();
    REQUIRE_OK(td__identity_get(&again));
    CHECK_INT(count_fds(), open_now);
    CHECK(here.hash == again.hash && here.umask == again.umask);
    REQUIRE(pthread_create(&thread, NULL, identity_of_thread, &there) == 0);
    pthread_join(thread, NULL);
    CHECK_INT(count_fds(), open_now);
    CHECK(here.hash == there.hash);
    td__identity_forget();
    CHECK(count_fds() == open_now - 3);
    td__identity_forget();
    CHECK(count_fds() == open_now - 3);
    umask(0123);
    REQUIRE_OK(td__identity_get(&again));
    CHECK_INT(again.umask, 0123);
    CHECK(here.hash == again.hash);
    REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    REQUIRE_OK(td__identity_get(&again));
    CHECK(here.hash != again.hash);
    pid_t pid = fork();
    if (pid == 0) {
        umask(0321);
        _exit(td__identity_get(&again) == 0 && again.umask == 0321 ? 0 : 1);
    }
    CHECK_INT(helper_wait(pid), 0);
}

/* --- names of files ---------------------------------------------------------------------------------------------- */

static int find(const char *maps, size_t size, uintptr_t at, char path[PATH_MAX])
{
    put("proc/self/maps", maps, size);
    path[0] = 0;
    return td__file_at((const void *)at, path, PATH_MAX);
}

TEST(files_at_addresses)
{
    char path[PATH_MAX], small[8];
    CHECK_INT(td__file_at((const void *)(uintptr_t)getpid, path, sizeof path), 0);
    CHECK(path[0] == '/' && strstr(path, "libc"));
    CHECK_INT(td__file_at((const void *)(uintptr_t)test_files_at_addresses, path, sizeof path), 0);
    CHECK_STR(path, self_path());
    CHECK(td__file_at((const void *)(uintptr_t)getpid, small, sizeof small) < 0);
    size_t length = strlen(path);
    CHECK(td__file_at((const void *)(uintptr_t)test_files_at_addresses, path, length) < 0);
    CHECK_INT(td__file_at((const void *)(uintptr_t)test_files_at_addresses, path, length + 1), 0);
    CHECK_FAILS(td__file_at(path, path, sizeof path), ENOENT); /* the stack */
    CHECK_FAILS(td__file_at(NULL, path, sizeof path), ENOENT);
    CHECK_FAILS(td__file_at((const void *)UINTPTR_MAX, path, sizeof path), ENOENT);
}

/* Catches: an address at the edge of a mapping, or a name with blanks; a file without a name taken for one. */
TEST(mappings_described_strangely)
{
    static const char maps[] = "1000-2000 r-xp 00000000 fd:00 1 /one\n"
                               "2000-3000 r-xp 00001000 fd:00 1                          /with two words\n"
                               "3000-4000 rw-p 00000000 00:00 0\n"
                               "4000-5000 rw-p 00000000 00:00 0 [heap]\n"
                               "5000-6000 r-xp 00000000 fd:00 2 relative\n"
                               "6000-7000 r-xp\n"
                               "nonsense\n"
                               "\n"
                               "7000-8000 r-xp 00000000 fd:00 3 /gone (deleted)\n"
                               "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]\n"
                               "8000-9000 r-xp 00000000 fd:00 3 /last";
    static const struct {
        uintptr_t at;
        const char *path;
    } rows[] = {
        { 0xfff, NULL },
        { 0x1000, "/one" },
        { 0x1fff, "/one" },
        { 0x2000, "/with two words" },
        { 0x3000, NULL },
        { 0x4000, NULL },
        { 0x5000, NULL },
        { 0x6000, NULL },
        { 0x7000, "/gone (deleted)" },
        { 0x8fff, "/last" },
        { 0x9000, NULL },
        { 0xffffffffff600000, NULL },
    };
    char path[PATH_MAX];
    enter_proc();
    CHECK_FAILS(td__file_at(maps, path, sizeof path), ENOENT);
    for (size_t i = 0; i < TD__COUNT(rows); i++) {
        int r = find(maps, strlen(maps), rows[i].at, path);
        CHECK_INT(r, rows[i].path ? 0 : -1);
        CHECK_STR(path, rows[i].path ? rows[i].path : "");
    }
    for (size_t size = 0; size < strlen(maps); size++) /* cut anywhere: that file, or a shorter name, or none */
        if (find(maps, size, 0x2000, path) == 0 && !CHECK(strncmp(path, "/with two words", strlen(path)) == 0))
            break;
    leave_root();
}

/* A name so long that a part of it comes as a line of its own. Catches: a name that says where others are. */
TEST(mappings_with_names_that_are_too_long)
{
    static const char line[] = "1000-9000 r-xp 00000000 fd:00 1 /evil\n";
    static char maps[4 * PATH_MAX];
    char path[PATH_MAX];
    enter_proc();
    for (size_t length = PATH_MAX - 200; length < PATH_MAX + 300; length++) {
        size_t size = (size_t)snprintf(maps, sizeof maps, "100-200 r-xp 00000000 fd:00 1 /");
        memset(maps + size, 'x', length);
        size += length;
        size += (size_t)snprintf(maps + size, sizeof maps - size, "%s1000-2000 r-xp 00000000 fd:00 1 /good\n", line);
        if (!CHECK_INT(find(maps, size, 0x1500, path), 0) || !CHECK_STR(path, "/good")) {
            harness_note("    after a name of %zu", length);
            break;
        }
    }
    leave_root();
}

/* --- what is handed on ------------------------------------------------------------------------------------------ */

TEST(limits)
{
    td__limit all[TD__LIMITS];
    struct rlimit now;
    td__limits_get(all);
    for (int which = 0; which < TD__LIMITS; which++) {
        REQUIRE(getrlimit((__rlimit_resource_t)which, &now) == 0);
        CHECK(all[which].soft == now.rlim_cur && all[which].hard == now.rlim_max);
        CHECK(strncmp(td__limit_name(which), "RLIMIT_", 7) == 0);
    }
    CHECK_STR(td__limit_name(TD__LIMIT_NOFILE), "RLIMIT_NOFILE");
    CHECK_STR(td__limit_name(TD__LIMIT_NPROC), "RLIMIT_NPROC");
    CHECK_STR(td__limit_name(TD__LIMIT_CORE), "RLIMIT_CORE");
    CHECK_STR(td__limit_name(TD__LIMIT_FSIZE), "RLIMIT_FSIZE");
    CHECK_STR(td__limit_name(-1), "a limit");
    CHECK_STR(td__limit_name(TD__LIMITS), "a limit");
    CHECK_FAILS(td__limit_set(RLIMIT_STACK, (td__limit){ 2, 1 }), EINVAL);
    CHECK_FAILS(td__limit_set(999, (td__limit){ 1, 1 }), EINVAL);
    CHECK_INT(td__limit_set(RLIMIT_MSGQUEUE, (td__limit){ 5, 9 }), 0);
    td__limit_raise(RLIMIT_MSGQUEUE);
    td__limit_raise(999);
    td__limits_get(all);
    CHECK(all[RLIMIT_MSGQUEUE].soft == 9 && all[RLIMIT_MSGQUEUE].hard == 9);
#if defined(SYS_getrlimit)
    refuse(SYS_getrlimit, EPERM); /* the older call: the newer one will do */
    td__limits_get(all);
    CHECK(all[RLIMIT_MSGQUEUE].soft == 9 && all[RLIMIT_MSGQUEUE].hard == 9);
    refuse(SYS_prlimit64, EPERM); /* then none that is known */
    td__limits_get(all);
    CHECK(all[RLIMIT_MSGQUEUE].soft == UINT64_MAX && all[RLIMIT_MSGQUEUE].hard == UINT64_MAX);
#endif
}

TEST(limits_of_core_dumps)
{
    struct rlimit now = { 100, 200 };
    td__limit wanted = { 0, 0 };
    REQUIRE(setrlimit(RLIMIT_CORE, &now) == 0);
    CHECK(td__limit_without_core(&wanted)); /* the present one */
    CHECK(wanted.soft == 1 && wanted.hard == 200);
    CHECK(!td__limit_without_core(&wanted));
    wanted = (td__limit){ 0, 5 };
    CHECK(!td__limit_without_core(&wanted));
    wanted = (td__limit){ UINT64_MAX, UINT64_MAX };
    CHECK(td__limit_without_core(&wanted));
    CHECK(wanted.soft == 1 && wanted.hard == UINT64_MAX);
}

TEST(affinity_nice_and_umask)
{
    unsigned char mask[TD__CPU_BYTES] = { 0 }, none[TD__CPU_BYTES] = { 0 };
    size_t size = td__affinity_get(mask);
    CHECK(size > 0 && size <= sizeof mask && memcmp(mask, none, size) != 0);
    CHECK_INT(td__affinity_set(mask, size), 0);
    CHECK_FAILS(td__affinity_set(none, size), EINVAL);
    CHECK_FAILS(td__affinity_set(mask, 0), EINVAL);
    CHECK_FAILS(td__affinity_set(NULL, 8), EFAULT);
    CHECK(td__cpu_count() >= 1);
    unsigned kept = td__cpu_count();
    td__cpu_count_set(0);
    CHECK_INT(td__cpu_count(), 1); /* never none */
    td__cpu_count_set(kept);

    int nice_now = td__nice_get();
    CHECK_INT(td__nice_set(19), 0);
    CHECK_INT(td__nice_get(), 19);
    CHECK_INT(td__nice_set(1000), 0); /* as far as it goes */
    CHECK_INT(td__nice_get(), 19);
    if (geteuid() == 0) {
        CHECK_INT(td__nice_set(-1), 0);
        errno = EIO;
        CHECK_INT(td__nice_get(), -1); /* no failure */
        CHECK_INT(td__nice_set(nice_now), 0);
    }
    int mask_now = td__umask_set(0777);
    CHECK_INT(td__umask_set(mask_now), 0777);
    refuse(SYS_sched_getaffinity, EPERM);
    CHECK_INT(td__affinity_get(mask), 0);
}

/* Catches: bits of one half in the other; rights that nobody has. */
TEST(capabilities)
{
    td__identity identity;
    lonely_uid();
    REQUIRE_OK(td__identity_get(&identity));
    td__capabilities wanted = identity.capabilities;
    for (int bit = 0; bit < 41; bit += 13) { /* in both halves of 32 */
        uint64_t one = (uint64_t)1 << bit;
        if (!(wanted.permitted & one))
            continue;
        wanted.effective = one;
        CHECK_INT(td__capabilities_set(&wanted), 0);
        REQUIRE_OK(td__identity_get(&identity));
        CHECK(identity.capabilities.effective == one);
        CHECK(identity.capabilities.permitted == wanted.permitted);
    }
    td__capabilities none = { 0, 0, 0 }, all = { 0, UINT64_MAX >> 1, UINT64_MAX >> 1 };
    CHECK_INT(td__capabilities_set(&none), 0);
    check_capabilities();
    CHECK_FAILS(td__capabilities_set(&wanted), EPERM);
    CHECK_FAILS(td__capabilities_set(&all), EPERM);
    check_capabilities();
}
