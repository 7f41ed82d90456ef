/* SPDX-License-Identifier: MIT */
/*
 * What happens when the system has no more: memory, processes, descriptors. An error with a sentence, no hang; what
 * runs goes on; and when there is room again, the same worker can be started.
 */
#include "targets.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>

static int measures(td_call *call)
{
    size_t size;
    td_arg_bytes(call, &size);
    return td_return(call, size_t, size);
}

static rlim_t limit_soft(int which, rlim_t to)
{
    struct rlimit l;
    REQUIRE(getrlimit(which, &l) == 0);
    rlim_t old = l.rlim_cur;
    l.rlim_cur = to;
    REQUIRE(setrlimit(which, &l) == 0);
    return old;
}

/* --- processes and threads ------------------------------------------------------------------------------------- */

/* Argument: mode. As a user who has no other process. */
HELPER(may_not_fork)
{
    REQUIRE(argc == 2);
    const mode *how = mode_named(argv[1]);
    td_worker *w = WORKER(NEW(.target = nothing, .name = "refused"));
    rlim_t old = limit_soft(RLIMIT_NPROC, 1);
    for (int i = 0; i < 3; i++) {
        CHECK_ERROR(td_start(w), TD_EPROCESS);
        CHECK_HAS(td_last_message(), "refused");
        CHECK_HAS(td_last_message(), "RLIMIT_NPROC");
        CHECK_INT(td_outcome(w), TD_CREATED);
        CHECK(!td_is_alive(w));
        CHECK_ERROR(td_join(w), TD_ESTATE);
        CHECK_INT(td_active_count(), 1);
    }
    limit_soft(RLIMIT_NPROC, old);
    REQUIRE_OK(td_start(w)); /* the same one */
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
    CHECK_OK(td_finish());
    CHECK_NOTHING_LEFT();
    return 0;
}

/* Catches: a refusal that hangs, leaves a half-started worker behind, or says nothing. */
TEST_MODES(no_more_processes_at_all)
{
    if (WITH_TSAN)
        SKIP("the sanitizer's own thread needs a process");
    helper_options o = { .uid = lonely_uid() };
    CHECK_INT(helper_run(&o, "may_not_fork", how->name, NULL), 0);
}

/* Argument: mode. Starts workers until it is refused. */
HELPER(forks_until_refused)
{
    REQUIRE(argc == 2);
    const mode *how = mode_named(argv[1]);
    enum { N = 64 };
    td_worker *w[N];
    rlim_t old = limit_soft(RLIMIT_NPROC, SANITIZED ? 40 : 24); /* before there is a spawner, as ulimit does */
    td_worker *first = WORKER(NEW(.target = nothing));
    REQUIRE_OK(td_start(first));
    REQUIRE_OK(td_join(first));
    td_free(first);
    int n = 0, code = 0;
    for (; n < N; n++) {
        w[n] = WORKER(NEW(.target = until_go));
        code = td_start(w[n]);
        if (code < 0)
            break;
        /* a worker is there when it has run, or has failed because its process could not be made */
        while (!event_wait_for(STARTED, 0.01) && td_is_alive(w[n]))
            ;
    }
    REQUIRE(n < N);
    CHECK(n > 2);
    CHECK_INT(code, TD_EPROCESS);
    CHECK_HAS(td_last_message(), "RLIMIT_NPROC");
    CHECK_INT(td_outcome(w[n]), TD_CREATED);
    for (int i = 0; i < n; i++)
        CHECK(td_is_alive(w[i])); /* what runs goes on */
    event_set(GO);
    for (int i = 0; i < n; i++) {
        REQUIRE_OK(td_join(w[i]));
        CHECK_INT(td_outcome(w[i]), TD_RETURNED);
    }
    double end = now() + 10 * SLOW; /* until the kernel counts them no more */
    while ((code = td_start(w[n])) == TD_EPROCESS && now() < end)
        pause_ms(1);
    CHECK_OK(code);
    if (code == 0)
        CHECK_OK(td_join(w[n]));
    for (int i = 0; i <= n; i++)
        td_free(w[i]);
    limit_soft(RLIMIT_NPROC, old);
    CHECK_OK(td_finish());
    CHECK_NOTHING_LEFT();
    return 0;
}

/* Catches: the same with workers running, at whatever step the refusal comes: spare, worker, holder, watcher. */
TEST_MODES(no_more_processes_than_some)
{
    helper_options o = { .uid = lonely_uid() };
    CHECK_INT(helper_run(&o, "forks_until_refused", how->name, NULL), 0);
}

/* --- descriptors ------------------------------------------------------------------------------------------------- */

/* Argument: mode. Each limit from nothing upwards, with the descriptors of this program in use. */
HELPER(has_few_descriptors)
{
    REQUIRE(argc == 2);
    const mode *how = mode_named(argv[1]);
    int failures = 0, successes = 0;
    for (int round = 0; round < 2; round++) { /* cold, then warm */
        for (rlim_t limit = 3; limit < 40; limit++) {
            rlim_t old = limit_soft(RLIMIT_NOFILE, limit);
            td_worker *w = WORKER(NEW(.target = nothing));
            int code = td_start(w);
            if (code == 0) {
                REQUIRE_OK(td_join_for(w, td_s(20)));
                td_state state = td_outcome(w);
                CHECK(state == TD_RETURNED || state == TD_FAILED);
                if (state == TD_FAILED)
                    CHECK(td_message(w)[0]);
                successes++;
            } else {
                CHECK(code == TD_EDESCRIPTOR || code == TD_ESPAWNER);
                CHECK(td_last_error() == code && td_last_message()[0]);
                if (code == TD_EDESCRIPTOR)
                    CHECK_HAS(td_last_message(), "RLIMIT_NOFILE");
                CHECK_INT(td_outcome(w), TD_CREATED);
                failures++;
            }
            limit_soft(RLIMIT_NOFILE, old);
            if (code < 0) {
                REQUIRE_OK(td_start(w));
                REQUIRE_OK(td_join(w));
                CHECK_INT(td_outcome(w), TD_RETURNED);
            }
            td_free(w);
            if (round == 0)
                CHECK_OK(td_finish());
        }
    }
    CHECK(successes > 0);
    if (how == &mode_thread)
        CHECK_INT(failures, 0);
    CHECK_OK(td_finish());
    CHECK_NOTHING_LEFT();
    return 0;
}

/* Catches: an error path of any step that takes a descriptor: leaks, hangs, a wrong code. */
TEST_MODES(few_descriptors)
{
    CHECK_INT(helper_run(0, "has_few_descriptors", how->name, NULL), 0);
}

HELPER(has_64_descriptors)
{
    REQUIRE(argc == 2);
    const mode *how = mode_named(argv[1]);
    limit_soft(RLIMIT_NOFILE, 64);
    for (int round = 0; round < 5; round++) {
        td_worker *w[10];
        for (int i = 0; i < 10; i++) {
            w[i] = WORKER(NEW(.target = nothing));
            REQUIRE_OK(td_start(w[i]));
        }
        for (int i = 0; i < 10; i++) {
            REQUIRE_OK(td_join(w[i]));
            CHECK_INT(td_outcome(w[i]), TD_RETURNED);
            td_free(w[i]);
        }
    }
    return 0;
}

/* Catches: a need for more descriptors than an ordinary small limit gives. */
TEST_MODES(sixty_four_descriptors_are_enough)
{
    CHECK_INT(helper_run(0, "has_64_descriptors", how->name, NULL), 0);
}

/* Catches: a table of the program's that is full, whatever its limit. */
TEST_MODES(descriptors_used_up)
{
    static int fds[4096];
    int n = 0;
    td_worker *running = WORKER(NEW(.target = until_go));
    REQUIRE_OK(td_start(running));
    event_wait(STARTED);
    rlim_t old = limit_soft(RLIMIT_NOFILE, 300);
    while (n < 4096 && (fds[n] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
        n++;
    REQUIRE(n < 4096);
    td_worker *w = WORKER(NEW(.target = nothing));
    int code = td_start(w);
    if (how->kind == TD_THREAD)
        CHECK_OK(code);
    if (code < 0)
        CHECK_ERROR(code, TD_EDESCRIPTOR);
    int sentinel = td_sentinel(running);
    if (sentinel < 0)
        CHECK_INT(sentinel, TD_EDESCRIPTOR);
    CHECK(td_is_alive(running));
    event_set(GO);
    REQUIRE_OK(td_join(running)); /* needs none */
    CHECK_INT(td_outcome(running), TD_RETURNED);
    while (n)
        close(fds[--n]);
    limit_soft(RLIMIT_NOFILE, old);
    if (code < 0)
        REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    CHECK(td_sentinel(running) > 2);
    td_free(w);
    td_free(running);
}

static int does_not_end(td_call *call)
{
    signal(SIGTERM, SIG_IGN);
    event_set(STARTED);
    while (call)
        pause();
    return 0;
}

/* Catches: an end of the program that waits for ever for a daemon that it has no descriptor left to kill by. */
TEST_METHODS(daemon_ends_without_descriptors)
{
    static int fds[300];
    int n = 0;
    td_worker *w = WORKER(NEW(.target = does_not_end, .daemon = true));
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    rlim_t old = limit_soft(RLIMIT_NOFILE, 300);
    while (n < 300 && (fds[n] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
        n++;
    CHECK_OK(td_finish());
    CHECK_INT(td_exitcode(w), -SIGKILL);
    while (n)
        close(fds[--n]);
    limit_soft(RLIMIT_NOFILE, old);
    td_free(w);
    w = WORKER(NEW(.target = nothing));
    REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_join(w));
    td_free(w);
}

/* --- memory ------------------------------------------------------------------------------------------------------ */

/* Argument: mode. */
HELPER(has_little_memory)
{
    REQUIRE(argc == 2);
    const mode *how = mode_named(argv[1]);
    enum { BIG = 64 << 20 };
    char *block = mmap(0, BIG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(block != MAP_FAILED);
    td_worker *running = WORKER(NEW(.target = until_go));
    REQUIRE_OK(td_start(running));
    event_wait(STARTED);
    rlim_t old = limit_soft(RLIMIT_AS, (rlim_t)mapped_kib() * 1024 + (4 << 20));
    td_worker *w = NEW(.target = measures, .args = TD_BYTES(block, BIG));
    CHECK(w == 0);
    CHECK_INT(td_last_error(), TD_ENOMEM);
    CHECK(td_last_message()[0]);
    CHECK(td_start(w) == TD_ENOMEM); /* the chain */
    for (int i = 0; i < 50; i++) {
        w = NEW(.target = nothing);
        if (!w) {
            CHECK_INT(td_last_error(), TD_ENOMEM);
            continue;
        }
        int code = td_start(w);
        if (code == 0) {
            REQUIRE_OK(td_join_for(w, td_s(20)));
        } else {
            CHECK(code == TD_ENOMEM || code == TD_EPROCESS || code == TD_ESPAWNER);
            CHECK(td_last_message()[0]);
        }
        if (code == 0)
            td_outcome(w);
        td_free(w);
    }
    CHECK(td_is_alive(running));
    event_set(GO);
    REQUIRE_OK(td_join(running));
    CHECK_INT(td_outcome(running), TD_RETURNED);
    td_free(running);
    limit_soft(RLIMIT_AS, old);
    w = JOINED(NEW(.target = measures, .args = TD_BYTES(block, BIG)));
    size_t size = 0;
    CHECK_OK(td_result(w, size_t, &size));
    CHECK_INT(size, BIG);
    td_free(w);
    munmap(block, BIG);
    CHECK_OK(td_finish());
    return 0;
}

/* Catches: an allocation that is not checked; a worker that takes the program with it. */
TEST_MODES(little_memory)
{
    if (SANITIZED)
        SKIP("a sanitizer needs address space without limit");
    CHECK_INT(helper_run(0, "has_little_memory", how->name, NULL), 0);
}

/* Argument: mode. The first start of all, under ever larger limits. */
HELPER(begins_with_little_memory)
{
    REQUIRE(argc == 2);
    const mode *how = mode_named(argv[1]);
    int successes = 0;
    rlim_t begin = (rlim_t)mapped_kib() * 1024;
    for (int i = 0; i < 24; i++) {
        rlim_t old = limit_soft(RLIMIT_AS, begin + ((rlim_t)1 << 14 << i));
        td_worker *w = NEW(.target = nothing);
        if (w) {
            int code = td_start(w);
            if (code == 0) {
                REQUIRE_OK(td_join_for(w, td_s(30)));
                successes += td_outcome(w) == TD_RETURNED;
            } else {
                CHECK(code < 0 && td_last_message()[0]);
            }
            td_free(w);
        } else {
            CHECK_INT(td_last_error(), TD_ENOMEM);
        }
        td_finish();
        limit_soft(RLIMIT_AS, old);
    }
    CHECK(successes > 0);
    CHECK_INT(td_run(NEW(.target = nothing)), 0);
    CHECK_OK(td_finish());
    CHECK_NOTHING_LEFT();
    return 0;
}

/* Catches: a mapping, in program or spawner, whose failure is not looked at. */
TEST_MODES(little_memory_from_the_beginning)
{
    if (SANITIZED)
        SKIP("a sanitizer needs address space without limit");
    CHECK_INT(helper_run(0, "begins_with_little_memory", how->name, NULL), 0);
}

static int eats_memory(td_call *call)
{
    (void)call;
    struct rlimit l = { (rlim_t)mapped_kib() * 1024 + (1 << 20), RLIM_INFINITY };
    if (setrlimit(RLIMIT_AS, &l) < 0)
        return 1;
    static char block[100];
    void *big = mmap(0, 1 << 26, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (big != MAP_FAILED)
        return 2;
    /* a result that fits is returned, one that does not is a failure, not a crash */
    int code = td_return_bytes(call, block, sizeof block);
    return code;
}

static int returns_too_much_for_memory(td_call *call)
{
    enum { BIG = 64 << 20 };
    char *block = mmap(0, BIG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    struct rlimit l = { (rlim_t)mapped_kib() * 1024 + (1 << 20), RLIM_INFINITY };
    if (block == MAP_FAILED || setrlimit(RLIMIT_AS, &l) < 0)
        return 1;
    return td_return_bytes(call, block, BIG);
}

/* Catches: a worker without memory that crashes where it could say so. */
TEST_METHODS(worker_without_memory)
{
    if (SANITIZED)
        SKIP("a sanitizer needs address space without limit");
    td_worker *w = JOINED(NEW(.target = eats_memory));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    CHECK_INT(td_result_code(w), 0);
    td_free(w);
    w = JOINED(NEW(.target = returns_too_much_for_memory));
    CHECK_INT(td_outcome(w), TD_FAILED);
    CHECK_INT(td_result_code(w), TD_ENOMEM);
    td_free(w);
}
