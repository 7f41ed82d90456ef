/* SPDX-License-Identifier: MIT */
/*
 * Programs that run with more rights than their user (set-user-ID, set-group-ID, file capabilities), and strangers who
 * would like to have theirs. Threads and the fork method work there; the forkserver method, whose spawner would be a
 * privileged image that believes the user's environment, is refused by one sentence. And whoever sets the marker, and
 * has the descriptors to go with it, gets nobody else's rights.
 */
#include "sync/region.h"
#include "targets.h"
#include "work/spawner.h"

#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

enum { RAN = OWN_EVENTS, PRIVILEGED_IMAGE, HELPED };
enum { OWNER = 0 }; /* of the page's numbers: the user that the set-user-ID file belongs to */

/* What gives a file rights. */
typedef enum gift { SET_ROOT, SET_OTHER, SET_GROUP, CAPABILITY, GIFTS } gift;
static const char *const gift_names[] = { "set-user-ID root", "set-user-ID of a third user", "set-group-ID",
                                          "a file capability" };

static bool secure(void)
{
    return getauxval(AT_SECURE) != 0;
}

/* Runs in each image of this program, before main: a spawner of a privileged program would be one with its rights, and
 * outside of secure mode. */
__attribute__((constructor)) static void look_at_image(void)
{
    if (page && page->number[OWNER] && (int64_t)geteuid() == page->number[OWNER] - 1 && !secure())
        event_add(PRIVILEGED_IMAGE);
}

/* A copy of this program that gives rights to whoever runs it. */
static bool give(const char *path, gift what, uid_t other)
{
    struct {
        uint32_t magic;
        struct {
            uint32_t permitted, inheritable;
        } data[2];
    } capability = { VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE, { { 1u << CAP_NET_BIND_SERVICE, 0 }, { 0, 0 } } };
    if (!copy_file(self_path(), path))
        return false;
    switch (what) {
    case SET_ROOT:
        return chown(path, 0, 0) == 0 && chmod(path, 04755) == 0;
    case SET_OTHER:
        return chown(path, other, 0) == 0 && chmod(path, 04755) == 0;
    case SET_GROUP:
        return chown(path, 0, other) == 0 && chmod(path, 02755) == 0;
    case CAPABILITY:
        return chmod(path, 0755) == 0 && setxattr(path, "security.capability", &capability, sizeof capability, 0) == 0;
    default:
        return false;
    }
}

/* The path of such a copy; skips where the file system knows no such rights. */
static const char *gifted(gift what, uid_t other, char path[PATH_MAX])
{
    if (WITH_TSAN)
        SKIP("ThreadSanitizer needs a layout of memory that the kernel gives no privileged program");
    char name[32];
    snprintf(name, sizeof name, "gifted-%d", (int)what);
    if (!give(dir_path(name, path, PATH_MAX), what, other))
        SKIP("cannot make a file with %s here: %s", gift_names[what], strerror(errno));
    return path;
}

/* Leak checkers cannot look into such a process. */
static int leave(void)
{
    fflush(stdout);
    td_finish();
    _exit(harness_failed());
}

static int tells_users(td_call *call)
{
    uid_t ids[3];
    getresuid(&ids[0], &ids[1], &ids[2]);
    return td_return_bytes(call, ids, sizeof ids);
}

static void check_refused(void)
{
    for (int i = 0; i < 2; i++) {
        td_worker *w = WORKER(td_process(.target = nothing));
        CHECK_ERROR(td_start(w), TD_EUNSUPPORTED);
        CHECK_HAS(td_last_message(), "set-user-ID");
        CHECK_HAS(td_last_message(), "fork method");
        td_free(w);
    }
}

static void check_works(void)
{
    uid_t ids[3];
    getresuid(&ids[0], &ids[1], &ids[2]);
    CHECK_INT(td_run(td_thread(.target = nothing)), 0);
    td_worker *w = JOINED(td_process(.target = tells_users, .method = TD_FORK));
    const uid_t *got = td_result_bytes(w, 0);
    if (CHECK(got != 0))
        CHECK_INT(memcmp(got, ids, sizeof ids), 0);
    else
        harness_note("    %s", td_describe(w));
    td_free(w);
}

HELPER(has_gifts)
{
    if (!secure())
        return EXIT_SKIPPED; /* mounted nosuid */
    check_works();
    check_refused();
    check_works();
    event_add(RAN);
    return leave();
}

INIT(starts_at_once)
{
    if (!secure())
        return;
    CHECK_ERROR(td_init(.start_now = true), TD_EUNSUPPORTED);
    CHECK_HAS(td_last_message(), "set-user-ID");
}

static void check_gift(gift what, const char *init)
{
    char path[PATH_MAX];
    uid_t user = lonely_uid();
    page->number[OWNER] = (what == SET_ROOT ? 0 : user + 1) + 1;
    helper_options o = { .exe = gifted(what, user + 1, path), .uid = user, .init = init };
    int status = helper_run(&o, "has_gifts", NULL);
    if (status == EXIT_SKIPPED)
        SKIP("the file system ignores %s (nosuid)", gift_names[what]);
    if (!CHECK_INT(status, 0) || !CHECK_INT(event_count(RAN), 1))
        harness_note("    with %s", gift_names[what]);
    CHECK_INT(event_count(PRIVILEGED_IMAGE), 0);
    WAIT_UNTIL(others() == 0, 1);
}

/* Catches: a spawner with a set-user-ID program's rights; a sentence that does not say why; a hang. */
TEST(set_user_id_root)
{
    check_gift(SET_ROOT, NULL);
}

TEST(set_user_id_of_a_third_user)
{
    check_gift(SET_OTHER, NULL);
}

TEST(set_group_id)
{
    check_gift(SET_GROUP, NULL);
}

TEST(capability_of_the_file)
{
    check_gift(CAPABILITY, NULL);
}

/* Catches: a spawner with these rights by the back door, as td_init(.start_now) starts it without a worker. */
TEST(set_user_id_and_started_at_once)
{
    check_gift(SET_ROOT, "starts_at_once");
}

TEST(set_user_id_of_a_third_user_and_started_at_once)
{
    check_gift(SET_OTHER, "starts_at_once");
}

/* --- rights given up ------------------------------------------------------------------------------------------- */

HELPER(gives_up_its_rights)
{
    uid_t user = (uid_t)atoi(argv[1]);
    if (secure())
        return EXIT_SKIPPED;
    td_free(JOINED(td_process(.target = nothing)));
    REQUIRE(setgroups(0, 0) == 0 && setgid(user) == 0 && setuid(user) == 0);
    page->number[OWNER] = 1; /* from here on no image of the program has root's rights outside of secure mode */
    td_worker *w = WORKER(td_process(.target = tells_users));
    CHECK_ERROR(td_start(w), TD_ESPAWNER);
    CHECK_HAS(td_last_message(), "set-user-ID");
    CHECK_HAS(td_last_message(), "fork method");
    td_free(w);
    check_works();
    event_add(RAN);
    return leave();
}

/* Root runs a set-user-ID program, which gives its rights up: started anew it would have them again. Catches: workers
 * that do; and the advice to call td_init, which it does. */
TEST(rights_that_were_given_up)
{
    char path[PATH_MAX], user[32];
    uid_t uid = lonely_uid();
    snprintf(user, sizeof user, "%u", (unsigned)uid);
    helper_options o = { .exe = gifted(SET_ROOT, uid, path) };
    CHECK_INT(helper_run(&o, "gives_up_its_rights", user, NULL), 0);
    CHECK_INT(event_count(RAN), 1);
    CHECK_INT(event_count(PRIVILEGED_IMAGE), 0);
    WAIT_UNTIL(others() == 0, 1);
}

/* --- the role, forged ------------------------------------------------------------------------------------------ */

enum { FILE_, CONTROL, PEER, PROGRAM, LIFE, HEAP, ARRIVALS, FORGED };
static int forged[FORGED]; /* to become 3, 4, ... */
static int life_end;       /* its closing ends a spawner that follows */

/* All that a spawner is given, flawless, as `user` would make it; control[0] stays with him. */
static void forge(uid_t user)
{
    REQUIRE(setegid(user) == 0 && seteuid(user) == 0);
    uint64_t size = td__segment_file_size();
    forged[FILE_] = td__memory_file("forged", size);
    REQUIRE(forged[FILE_] >= 0);
    td__segment *segment = td__map_shared(forged[FILE_], 0, TD__MAPPED_BYTES);
    REQUIRE(segment != NULL);
    segment->magic = TD__SEGMENT_MAGIC;
    segment->file_size = size;
    segment->main_pid = getpid();
    segment->spares = 2;
    segment->cpus = 1;
    td__unmap(segment, TD__MAPPED_BYTES);
    int control[2], life[2];
    REQUIRE(td__socket_pair(control) == 0 && td__life_pipe(life) == 0);
    forged[CONTROL] = control[1];
    forged[PEER] = control[0];
    forged[PROGRAM] = td__pid_fd(getpid());
    forged[LIFE] = life[0];
    life_end = life[1];
    forged[HEAP] = td__dup_from(td__region_file, 3);
    forged[ARRIVALS] = td__event_fd(0);
    REQUIRE(seteuid(0) == 0 && setegid(0) == 0);
}

static void hand_over(void *without_socket)
{
    int high[FORGED];
    for (int i = 0; i < FORGED; i++)
        high[i] = fcntl(forged[i], F_DUPFD_CLOEXEC, 100);
    for (int i = 0; i < FORGED; i++)
        dup2(high[i], 3 + i);
    if (without_socket)
        close(3 + CONTROL);
    setenv(TD__MARKER, "3", 1);
}

/* Runs a program with these, until it has spoken as a spawner or has ended; its status. */
static int play(const helper_options *options, bool *spoke)
{
    pid_t pid = helper_start(options, "is_no_spawner", NULL);
    close(forged[CONTROL]); /* so that its end is seen here */
    struct pollfd polled = { .fd = forged[PEER], .events = POLLIN };
    td__message message;
    CHECK_INT(poll(&polled, 1, 20000 * SLOW), 1);
    *spoke = recv(forged[PEER], &message, sizeof message, MSG_DONTWAIT) > 0;
    close(life_end); /* ends a spawner that follows */
    int status = helper_wait(pid);
    forged[CONTROL] = -1;
    for (int i = 0; i < FORGED; i++)
        td__close(forged[i]);
    return status;
}

HELPER(is_no_spawner)
{
    CHECK(getenv(TD__MARKER) == NULL);
    event_add(HELPED);
    return leave();
}

/* The control: whoever is the same user may play the program, and the program the spawner. Else the forgery below
 * would prove nothing. Catches also: the check of who made the socket, if it refused the right one. */
TEST(role_taken_for_the_same_user)
{
    bool spoke;
    lonely_uid();
    forge(0);
    CHECK_INT(play(&(helper_options){ .before = hand_over }, &spoke), -SIGKILL);
    CHECK(spoke);
    CHECK_INT(event_count(HELPED), 0);
    WAIT_UNTIL(others() == 0, 1);
}

/* A program with more rights, outside of secure mode, with a stranger's environment and descriptors: as it is started
 * by a tool that takes on another user by hand and passes on too much. Catches: a stranger's segment as root's orders.
 */
TEST(role_not_taken_for_another_user)
{
    bool spoke;
    forge(lonely_uid());
    CHECK_INT(play(&(helper_options){ .before = hand_over }, &spoke), 1);
    CHECK(!spoke);
    CHECK_INT(event_count(HELPED), 0);
    WAIT_UNTIL(others() == 0, 1);
}

/* The same without a socket: nobody to speak to. */
TEST(role_not_taken_without_a_socket)
{
    bool spoke, without = true;
    lonely_uid();
    forge(0);
    CHECK_INT(play(&(helper_options){ .before = hand_over, .argument = &without }, &spoke), 1);
    CHECK_INT(event_count(HELPED), 0);
    WAIT_UNTIL(others() == 0, 1);
}

/* The stranger's own way: a set-user-ID program, with all that a spawner is given. Made by root, so that nothing but
 * secure mode is in the way. */
TEST(role_not_taken_in_secure_mode)
{
    bool spoke;
    char path[PATH_MAX];
    uid_t user = lonely_uid();
    const char *exe = gifted(SET_ROOT, 0, path);
    forge(0);
    int status = play(&(helper_options){ .exe = exe, .uid = user, .before = hand_over }, &spoke);
    CHECK_INT(status, 1);
    CHECK(!spoke);
    CHECK_INT(event_count(HELPED), 0);
    WAIT_UNTIL(others() == 0, 1);
}

static void mark_only(void *unused)
{
    (void)unused;
    setenv(TD__MARKER, "3", 1);
}

/* The marker alone changes nothing in secure mode, and is not passed on. */
TEST(marker_alone_in_secure_mode)
{
    char path[PATH_MAX];
    uid_t user = lonely_uid();
    helper_options o = { .exe = gifted(SET_ROOT, 0, path), .uid = user, .before = mark_only };
    CHECK_INT(helper_run(&o, "is_no_spawner", NULL), 0);
    CHECK_INT(event_count(HELPED), 1);
    WAIT_UNTIL(others() == 0, 1);
}
