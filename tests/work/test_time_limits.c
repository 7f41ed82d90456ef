/* SPDX-License-Identifier: MIT */
/*
 * Every call that takes a time limit, with limits from below zero to the end of time: one that has passed does not
 * wait, one that is too large to be added to the clock is as good as none, and does not pass at once. And every call
 * that takes a cancellation object, with one that is fired before, or while it sleeps. And all of them with signals,
 * which end none; and all asleep, which wakes nobody until there is a reason.
 */
#include "harness.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <tandem.h>
#include <time.h>
#include <unistd.h>

enum { LARGE = 1 << 20, GO = 1, ENTERED = 2, FIRED = 3 };

/* All that is waited for, in the state in which a wait lasts. */
typedef struct ground {
    td_lock lock, inner;
    td_rlock rlock, inner_rlock;
    td_rwlock rwlock;
    td_event event;
    td_semaphore semaphore;
    td_bounded_semaphore bounded;
    td_owned_semaphore owned;
    td_condition condition, of_rlock;
    td_barrier barrier;
    td_once once;
    _Atomic bool over;
    td_queue *items, *full, *bytes, *full_bytes, *blocks, *full_blocks, *joinable;
    td_connection *reader, *writer;
    td_worker *worker;
    void *block;
} ground;

static ground *g;
static char large[LARGE];
static td_cancel *cancel; /* what the calls that can be cancelled are given */

/* --- the calls, each with what ends its wait --------------------------------------------------------------- */

typedef struct call {
    const char *name;
    int64_t (*wait)(td_time limit);          /* in a thread */
    void (*end)(void);                       /* in the case's */
    int none;                                /* what it returns after a limit, if not TD_ETIMEOUT */
    enum { FIRST, ALWAYS, NEVER } cancelled; /* a fired object: what is there comes first; it ends any; it takes none */
} call;

static bool is_over(void *argument)
{
    (void)argument;
    return g->over;
}

static int nothing(void *argument)
{
    (void)argument;
    return 0;
}

#define WAITS(name, expression)               \
    static int64_t wait_##name(td_time limit) \
    {                                         \
        return (expression);                  \
    }
#define ENDS(name, expression)   \
    static void end_##name(void) \
    {                            \
        expression;              \
    }

static int64_t released(int r, void (*release)(void))
{
    if (r == 0)
        release();
    return r;
}

ENDS(lock, td_lock_release(&g->lock))
WAITS(lock, released(td_lock_acquire_with(&g->lock, limit, cancel), end_lock))
ENDS(rlock, td_rlock_release(&g->rlock))
WAITS(rlock, released(td_rlock_acquire_with(&g->rlock, limit, cancel), end_rlock))
ENDS(rwlock, td_rwlock_release(&g->rwlock))
WAITS(read, released(td_rwlock_acquire_read_with(&g->rwlock, limit, cancel), end_rwlock))
WAITS(write, released(td_rwlock_acquire_write_with(&g->rwlock, limit, cancel), end_rwlock))
ENDS(event, td_event_set(&g->event))
WAITS(event, td_event_wait_with(&g->event, limit, cancel))
ENDS(semaphore, td_semaphore_release(&g->semaphore))
WAITS(semaphore, td_semaphore_acquire_with(&g->semaphore, limit, cancel))
ENDS(bounded, td_bounded_semaphore_release(&g->bounded))
WAITS(bounded, td_bounded_semaphore_acquire_with(&g->bounded, limit, cancel))
ENDS(owned, td_owned_semaphore_release(&g->owned))
WAITS(owned, released(td_owned_semaphore_acquire_with(&g->owned, limit, cancel), end_owned))

static void end_condition(void)
{
    td_lock_acquire(&g->inner);
    g->over = true;
    td_condition_notify_all(&g->condition);
    td_lock_release(&g->inner);
}

static int64_t wait_condition(td_time limit)
{
    td_lock_acquire(&g->inner);
    int r = td_condition_wait_with(&g->condition, &g->inner, limit, cancel);
    td_lock_release(&g->inner);
    return r;
}

static int64_t wait_await(td_time limit)
{
    td_lock_acquire(&g->inner);
    int r = td_condition_await_with(&g->condition, &g->inner, is_over, NULL, limit, cancel);
    td_lock_release(&g->inner);
    return r;
}

static void end_of_rlock(void)
{
    td_rlock_acquire(&g->inner_rlock);
    g->over = true;
    td_condition_notify_all(&g->of_rlock);
    td_rlock_release(&g->inner_rlock);
}

static int64_t wait_of_rlock(td_time limit)
{
    td_rlock_acquire(&g->inner_rlock);
    int r = td_condition_wait_rlock_with(&g->of_rlock, &g->inner_rlock, limit, cancel);
    td_rlock_release(&g->inner_rlock);
    return r;
}

static int64_t wait_await_rlock(td_time limit)
{
    td_rlock_acquire(&g->inner_rlock);
    int r = td_condition_await_rlock_with(&g->of_rlock, &g->inner_rlock, is_over, NULL, limit, cancel);
    td_rlock_release(&g->inner_rlock);
    return r;
}

ENDS(barrier, td_barrier_wait(&g->barrier))
WAITS(barrier, td_barrier_wait_with(&g->barrier, limit, cancel))
WAITS(barrier_action, td_barrier_wait_action_with(&g->barrier, nothing, NULL, limit, cancel))
static void end_once(void)
{
    event_set(GO);
    WAIT_UNTIL(td_once_done(&g->once), 20);
}
WAITS(once, td_once_run_with(&g->once, nothing, NULL, limit, cancel))

static const int an_item = 7;
static int64_t wait_get(td_time limit)
{
    int item;
    return td_queue_get_with(g->items, &item, limit, cancel);
}
static int64_t wait_get_many(td_time limit)
{
    int some[2];
    return td_queue_get_many_with(g->items, some, 2, limit, cancel);
}
static int64_t wait_get_bytes(td_time limit)
{
    char some[8];
    size_t size;
    return td_queue_get_bytes_with(g->bytes, some, sizeof some, &size, limit, cancel);
}
static int64_t wait_get_shared(td_time limit)
{
    void *block;
    return td_queue_get_shared_with(g->blocks, &block, limit, cancel);
}
static void end_put(void)
{
    int item;
    td_queue_get(g->full, &item);
}
static void end_put_bytes(void)
{
    char some[8];
    size_t size;
    td_queue_get_bytes(g->full_bytes, some, sizeof some, &size);
}
static void end_put_shared(void)
{
    void *block;
    td_queue_get_shared(g->full_blocks, &block);
}
ENDS(get, td_queue_put(g->items, &an_item))
ENDS(get_bytes, td_queue_put_bytes(g->bytes, "x", 1))
ENDS(get_shared, td_queue_put_shared(g->blocks, g->block))
WAITS(put, td_queue_put_with(g->full, &an_item, limit, cancel))
WAITS(put_many, td_queue_put_many_with(g->full, &an_item, 1, limit, cancel))
WAITS(put_bytes, td_queue_put_bytes_with(g->full_bytes, "x", 1, limit, cancel))
WAITS(put_shared, td_queue_put_shared_with(g->full_blocks, g->block, limit, cancel))
ENDS(queue_join, td_queue_task_done(g->joinable))
WAITS(queue_join, td_queue_join_with(g->joinable, limit, cancel))

static int64_t wait_recv(td_time limit)
{
    void *data;
    int r = td_recv_for(g->reader, &data, NULL, limit);
    free(data);
    return r;
}
static int64_t wait_recv_into(td_time limit)
{
    char some[8];
    return td_recv_into_for(g->reader, some, sizeof some, NULL, limit);
}
static int64_t wait_recv_shared(td_time limit)
{
    void *block;
    return td_recv_shared_for(g->reader, &block, limit);
}
static int64_t wait_send_parts(td_time limit)
{
    td_value parts[] = { TD_BYTES(large, LARGE), TD_VAL(an_item) };
    return td_send_parts_for(g->writer, parts, 2, limit);
}
static int64_t wait_recv_value(td_time limit)
{
    int item;
    int r = td_recv_value_for(g->reader, int, &item, limit);
    return r == 0 ? item == an_item ? 0 : TD_ETYPE : r;
}
static int64_t wait_recv_fd(td_time limit)
{
    int fd = td_recv_fd_for(g->reader, limit);
    if (fd >= 0)
        close(fd);
    return fd;
}
static int64_t wait_recv_connection(td_time limit)
{
    td_connection *c = td_recv_connection_for(g->reader, limit);
    td_connection_free(c);
    return c ? 0 : td_last_error();
}
ENDS(recv_value, td_send_value_for(g->writer, TD_VAL(an_item), td_s(20)))
ENDS(recv_fd, td_send_fd_for(g->writer, 2, td_s(20)))
ENDS(recv_connection, td_send_connection_for(g->writer, g->writer, td_s(20)))
ENDS(recv, td_send(g->writer, "x", 1))
ENDS(recv_shared, td_send_value(g->writer, TD_SHARED(g->block)))
ENDS(send, td_recv_skip(g->reader))
WAITS(recv_skip, td_recv_skip_for(g->reader, limit))
WAITS(poll, td_poll(g->reader, limit))
WAITS(send, td_send_for(g->writer, large, LARGE, limit))
WAITS(send_value, td_send_value_for(g->writer, TD_BYTES(large, LARGE), limit))

/* The descriptor's place is taken by others, which the other side has not received. */
static void fill(void)
{
    while (td_send_for(g->writer, large, 4096, td_ms(0)) == 0)
        ;
}
static int64_t wait_send_fd(td_time limit)
{
    fill();
    return td_send_fd_for(g->writer, 2, limit);
}
static int64_t wait_send_connection(td_time limit)
{
    fill();
    return td_send_connection_for(g->writer, g->writer, limit);
}
static void end_full(void)
{
    while (td_recv_skip_for(g->reader, td_ms(0)) == 0)
        ;
}

ENDS(join, event_set(GO))
WAITS(join, td_join_for(g->worker, limit))
WAITS(join_all, td_join_all_for(&g->worker, 1, limit))

static int64_t wait_any(td_time limit)
{
    td_waitable things[] = { TD_WAIT_EVENT(&g->event), TD_WAIT_QUEUE(g->items) };
    return td_wait_any(things, 2, limit, cancel);
}
static int64_t wait_any_connection(td_time limit)
{
    td_waitable things[] = { TD_WAIT_EVENT(&g->event), TD_WAIT_CONNECTION(g->reader) };
    return td_wait_any(things, 2, limit, cancel);
}

static const call calls[] = {
    { "td_lock_acquire", wait_lock, end_lock, 0, FIRST },
    { "td_rlock_acquire", wait_rlock, end_rlock, 0, FIRST },
    { "td_rwlock_acquire_read", wait_read, end_rwlock, 0, FIRST },
    { "td_rwlock_acquire_write", wait_write, end_rwlock, 0, FIRST },
    { "td_event_wait", wait_event, end_event, 0, FIRST },
    { "td_semaphore_acquire", wait_semaphore, end_semaphore, 0, FIRST },
    { "td_bounded_semaphore_acquire", wait_bounded, end_bounded, 0, FIRST },
    { "td_owned_semaphore_acquire", wait_owned, end_owned, 0, FIRST },
    { "td_condition_wait", wait_condition, end_condition, 0, ALWAYS },
    { "td_condition_await", wait_await, end_condition, 0, FIRST },
    { "td_condition_wait_rlock", wait_of_rlock, end_of_rlock, 0, ALWAYS },
    { "td_condition_await_rlock", wait_await_rlock, end_of_rlock, 0, FIRST },
    { "td_barrier_wait", wait_barrier, end_barrier, 0, ALWAYS },
    { "td_barrier_wait with an action", wait_barrier_action, end_barrier, 0, ALWAYS },
    { "td_once_run", wait_once, end_once, 0, FIRST },
    { "td_queue_get", wait_get, end_get, 0, FIRST },
    { "td_queue_get_many", wait_get_many, end_get, 0, FIRST },
    { "td_queue_get_bytes", wait_get_bytes, end_get_bytes, 0, FIRST },
    { "td_queue_get_shared", wait_get_shared, end_get_shared, 0, FIRST },
    { "td_queue_put", wait_put, end_put, 0, FIRST },
    { "td_queue_put_many", wait_put_many, end_put, 0, FIRST },
    { "td_queue_put_bytes", wait_put_bytes, end_put_bytes, 0, FIRST },
    { "td_queue_put_shared", wait_put_shared, end_put_shared, 0, FIRST },
    { "td_queue_join", wait_queue_join, end_queue_join, 0, FIRST },
    { "td_recv", wait_recv, end_recv, 0, NEVER },
    { "td_recv_into", wait_recv_into, end_recv, 0, NEVER },
    { "td_recv_skip", wait_recv_skip, end_recv, 0, NEVER },
    { "td_recv_shared", wait_recv_shared, end_recv_shared, 0, NEVER },
    { "td_recv_value", wait_recv_value, end_recv_value, 0, NEVER },
    { "td_recv_fd", wait_recv_fd, end_recv_fd, 0, NEVER },
    { "td_recv_connection", wait_recv_connection, end_recv_connection, 0, NEVER },
    { "td_send_value", wait_send_value, end_send, 0, NEVER },
    { "td_send_fd", wait_send_fd, end_full, 0, NEVER },
    { "td_send_connection", wait_send_connection, end_full, 0, NEVER },
    { "td_poll", wait_poll, end_recv, 0, NEVER },
    { "td_send", wait_send, end_send, 0, NEVER },
    { "td_send_parts", wait_send_parts, end_send, 0, NEVER },
    { "td_join", wait_join, end_join, 0, NEVER },
    { "td_join_all", wait_join_all, end_join, 0, NEVER },
    { "td_wait_any", wait_any, end_event, 1, FIRST },
    { "td_wait_any with a connection", wait_any_connection, end_event, 1, FIRST },
};

/* --- the ground -------------------------------------------------------------------------------------------- */

static int waits_for_go(td_call *call)
{
    (void)call;
    event_wait(GO);
    return 0;
}

static int runs_until_go(void *argument)
{
    (void)argument;
    event_set(ENTERED);
    event_wait(GO);
    return 0;
}

static void *runs_once(void *argument)
{
    td_once_run(&g->once, runs_until_go, NULL);
    return argument;
}

static td_queue *queue_of(bool shared, size_t size, bool any_size, const void *first)
{
    td_queue *q =
        td_queue_new(.shared = shared, .item_size = size, .any_size = any_size, .capacity = 1, .joinable = true);
    REQUIRE(q != NULL);
    if (first && any_size)
        REQUIRE_OK(td_queue_put_bytes(q, first, size));
    else if (first)
        REQUIRE_OK(td_queue_put(q, first));
    return q;
}

static pthread_t runner;

static void make_queues(bool shared)
{
    g->items = queue_of(shared, sizeof an_item, false, NULL);
    g->full = queue_of(shared, sizeof an_item, false, &an_item);
    g->bytes = queue_of(shared, 8, true, NULL);
    g->full_bytes = queue_of(shared, 8, true, "1234567");
    g->blocks = queue_of(shared, sizeof g->block, false, NULL);
    g->full_blocks = queue_of(shared, sizeof g->block, false, &g->block);
    g->joinable = queue_of(shared, sizeof an_item, false, &an_item);
}

/* Everything is held, empty or full, by this thread where it is held. */
static void make_ground(bool shared)
{
    page->event[GO] = page->event[ENTERED] = 0;
    g = shared ? td_shared_calloc(1, sizeof *g) : calloc(1, sizeof *g);
    REQUIRE(g != NULL);
    REQUIRE((g->block = td_shared_alloc(8)) != NULL);
    REQUIRE_OK(td_lock_acquire(&g->lock));
    REQUIRE_OK(td_rlock_acquire(&g->rlock));
    REQUIRE_OK(td_rwlock_acquire_write(&g->rwlock));
    REQUIRE_OK(td_bounded_semaphore_init(&g->bounded, 1));
    REQUIRE_OK(td_bounded_semaphore_acquire(&g->bounded));
    REQUIRE_OK(td_owned_semaphore_init(&g->owned, 1));
    REQUIRE_OK(td_owned_semaphore_acquire(&g->owned));
    REQUIRE_OK(td_barrier_init(&g->barrier, 2));
    REQUIRE_INT(pthread_create(&runner, NULL, runs_once, NULL), 0);
    event_wait(ENTERED);
    make_queues(shared);
    REQUIRE_OK(td_pipe(&g->reader, &g->writer));
    g->worker = WORKER(td_thread(.target = waits_for_go));
    REQUIRE_OK(td_start(g->worker));
}

static void free_ground(bool shared)
{
    event_set(GO);
    REQUIRE_INT(pthread_join(runner, NULL), 0);
    REQUIRE_OK(td_join(g->worker));
    td_free(g->worker);
    td_connection_free(g->reader);
    td_connection_free(g->writer);
    td_queue *queues[] = { g->items, g->full, g->bytes, g->full_bytes, g->blocks, g->full_blocks, g->joinable };
    for (size_t i = 0; i < sizeof queues / sizeof *queues; i++)
        td_queue_free(queues[i]);
    if (td_lock_owned(&g->lock))
        td_lock_release(&g->lock);
    if (td_rlock_owned(&g->rlock))
        td_rlock_release(&g->rlock);
    if (td_rwlock_owned_write(&g->rwlock))
        td_rwlock_release(&g->rwlock);
    if (td_owned_semaphore_value(&g->owned) == 0)
        td_owned_semaphore_release(&g->owned);
    td_shared_free(g->block);
    if (shared)
        td_shared_free(g);
    else
        free(g);
}

/* --- a thread that waits ----------------------------------------------------------------------------------- */

typedef struct waiter {
    const call *call;
    td_time limit;
    _Atomic pid_t tid;
    _Atomic bool returned;
    int64_t result;
    int looks;
    pthread_t thread;
} waiter;

/* The sentence begins with the name of the call, whose forms go by one, or of the worker. */
static void check_sentence(const call *of)
{
    const char *said = td_last_message();
    if (!CHECK(strncmp(said, of->name, strcspn(of->name, " ")) == 0 || strncmp(said, "worker '", 8) == 0))
        harness_note("%s: \"%s\"", of->name, said);
}

static void *waits(void *argument)
{
    waiter *w = argument;
    w->tid = (pid_t)syscall(SYS_gettid);
    w->result = w->call->wait(w->limit);
    w->returned = true;
    if (w->result < 0)
        check_sentence(w->call);
    return NULL;
}

static void begin(waiter *w, const call *of, td_time limit)
{
    *w = (waiter){ .call = of, .limit = limit };
    REQUIRE_INT(pthread_create(&w->thread, NULL, waits, w), 0);
}

/* It sleeps, or has returned already: nothing else in a call takes it off the processor for as long as ten looks. */
static bool asleep(waiter *w)
{
    char path[64], line[512], *at;
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)w->tid);
    first_line(path, line, sizeof line);
    w->looks = w->tid && (at = strrchr(line, ')')) != NULL && at[1] && at[2] == 'S' ? w->looks + 1 : 0;
    return w->returned || w->looks == 10;
}

static int64_t end(waiter *w)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20 * SLOW;
    if (!CHECK(pthread_timedjoin_np(w->thread, NULL, &until) == 0)) {
        harness_note("%s waits", w->call->name);
        _exit(1);
    }
    return w->result;
}

/* --- the cases --------------------------------------------------------------------------------------------- */

static void passed(bool shared)
{
    const td_time limits[] = {
        { -1 },           { INT64_MIN },    td_ns(0), td_ns(-1),    td_ns(INT64_MIN), td_us(-1),
        td_ms(INT64_MIN), td_us(INT64_MIN), td_s(0),  td_s(-1e300), td_s(-INFINITY),  td_s(NAN)
    };
    for (size_t c = 0; c < sizeof calls / sizeof *calls; c++) {
        make_ground(shared);
        for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
            waiter w;
            td_barrier_reset(&g->barrier); /* a limit breaks it */
            begin(&w, &calls[c], limits[i]);
            if (!CHECK_INT(end(&w), calls[c].none ? 0 : TD_ETIMEOUT))
                harness_note("%s, limit %zu", calls[c].name, i);
        }
        free_ground(shared);
    }
}

/* Catches: a limit of zero or less that is none, or that waits a little; a sentence that does not name the call. */
TEST(limits_that_have_passed)
{
    passed(false);
    passed(true);
}

static void far_off(bool shared, td_time limit)
{
    for (size_t c = 0; c < sizeof calls / sizeof *calls; c++) {
        waiter w;
        make_ground(shared);
        begin(&w, &calls[c], limit);
        WAIT_UNTIL(asleep(&w), 20);
        CHECK(!w.returned);
        calls[c].end();
        if (!CHECK(end(&w) >= 0))
            harness_note("%s, limit %lld: %lld", calls[c].name, (long long)limit.ns, (long long)w.result);
        free_ground(shared);
    }
}

/* Catches: a limit that is added to the clock, and so lies in the past. */
TEST(limits_at_the_end_of_time)
{
    const td_time limits[] = { td_ns(INT64_MAX), { INT64_MAX - 1000000000 }, td_s(9.1e9), td_s(INFINITY) };
    CHECK_INT(td_us(INT64_MAX).ns, INT64_MAX);
    CHECK_INT(td_ms(INT64_MAX).ns, INT64_MAX);
    CHECK_INT(td_s(1e300).ns, INT64_MAX);
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i += (size_t)thrift()) {
        far_off(false, limits[i]);
        far_off(true, limits[i]);
    }
}

static void catches(int number)
{
    (void)number;
}

/* How often it has gone to sleep. */
static long sleeps_of(const waiter *w)
{
    char text[64];
    return strtol(status_of(w->tid, "voluntary_ctxt_switches", text, sizeof text), NULL, 10);
}

/* Each signal takes it out of its sleep, to which it goes back. */
static void interrupted(const call *of, td_time limit)
{
    waiter w;
    begin(&w, of, limit);
    for (int i = 0; i < 2; i++) {
        w.looks = 0;
        WAIT_UNTIL(asleep(&w), 20);
        REQUIRE(!w.returned);
        long before = sleeps_of(&w);
        REQUIRE_INT(pthread_kill(w.thread, SIGUSR1), 0);
        WAIT_UNTIL(w.returned || sleeps_of(&w) > before, 20);
    }
    w.looks = 0;
    WAIT_UNTIL(asleep(&w), 20);
    CHECK(!w.returned);
    of->end();
    if (!CHECK(end(&w) >= 0))
        harness_note("%s, after signals: %lld", of->name, (long long)w.result);
}

/* Catches: a wait that a signal's handler ends, with or without a limit. */
TEST(signals)
{
    struct sigaction action = { .sa_handler = catches }; /* without SA_RESTART */
    REQUIRE_INT(sigaction(SIGUSR1, &action, NULL), 0);
    for (size_t c = 0; c < sizeof calls / sizeof *calls; c++)
        for (int shared = 0; shared < 2; shared++) {
            make_ground(shared);
            interrupted(&calls[c], shared ? td_s(3000) : TD_NO_LIMIT);
            free_ground(shared);
        }
}

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

/* Catches: a wait that wakes up to look. */
TEST(idleness)
{
    if (syscall(SYS_futex_waitv, NULL, 0, 0, NULL, 0) < 0 && errno == ENOSYS)
        SKIP("the kernel cannot wait for several words");
    for (int shared = 0; shared < 2; shared++)
        for (size_t c = 0; c < sizeof calls / sizeof *calls; c++) {
            waiter w;
            make_ground(shared);
            begin(&w, &calls[c], shared ? td_s(3000) : TD_NO_LIMIT);
            WAIT_UNTIL(asleep(&w), 20);
            REQUIRE(!w.returned);
            long before = sleeps_of(&w);
            pause_ms(60);
            if (!CHECK_IN(sleeps_of(&w) - before, 0, 1))
                harness_note("%s", calls[c].name);
            calls[c].end();
            end(&w);
            free_ground(shared);
        }
}

/* Fired before: what is there already comes first, else it fails at once. */
static void cancelled_before(const call *of)
{
    waiter w;
    begin(&w, of, TD_NO_LIMIT);
    if (!CHECK_INT(end(&w), TD_ECANCELLED))
        harness_note("%s, fired before", of->name);
    if (of->cancelled != FIRST)
        return;
    of->end();
    begin(&w, of, TD_NO_LIMIT);
    if (!CHECK(end(&w) >= 0))
        harness_note("%s, fired, and it is there: %lld", of->name, (long long)w.result);
}

static void cancelled_asleep(const call *of)
{
    waiter w;
    begin(&w, of, TD_NO_LIMIT);
    WAIT_UNTIL(asleep(&w), 20);
    CHECK(!w.returned);
    td_cancel_fire(cancel);
    if (!CHECK_INT(end(&w), TD_ECANCELLED))
        harness_note("%s, fired while it sleeps", of->name);
}

static void cancelled_all(bool shared)
{
    for (size_t c = 0; c < sizeof calls / sizeof *calls; c++)
        for (int before = 0; before < 2 && calls[c].cancelled != NEVER; before++) {
            make_ground(shared);
            cancel = shared ? td_shared_calloc(1, sizeof *cancel) : calloc(1, sizeof *cancel);
            REQUIRE(cancel != NULL);
            if (before) {
                td_cancel_fire(cancel);
                cancelled_before(&calls[c]);
            } else {
                cancelled_asleep(&calls[c]);
            }
            free_ground(shared);
            shared ? td_shared_free(cancel) : free(cancel);
        }
}

/* Catches: a wait that takes a cancellation object and is not ended by it; a sentence that does not name the call. */
TEST(cancellations)
{
    cancelled_all(false);
    cancelled_all(true);
}

static int fires(td_call *call)
{
    (void)call;
    event_add(FIRED);
    return 0;
}

static td_worker *timer(td_time interval)
{
    td_worker *t = WORKER(td_timer(.interval = interval, .target = fires));
    REQUIRE_OK(td_start(t));
    return t;
}

/* The same for timers: at once, and never. */
TEST(timers_at_both_ends)
{
    const td_time at_once[] = { { -1 }, { INT64_MIN }, td_ns(-5), td_s(-1) };
    const td_time never[] = { td_ns(INT64_MAX), { INT64_MAX - 1000000000 }, td_s(INFINITY) };
    td_worker *late[3];
    for (size_t i = 0; i < 3; i++)
        late[i] = timer(never[i]);
    for (size_t i = 0; i < 4; i++) {
        td_worker *t = timer(at_once[i]);
        REQUIRE_OK(td_join_for(t, td_s(20 * SLOW)));
        CHECK_INT(td_outcome(t), TD_RETURNED);
        td_free(t);
    }
    CHECK_INT(event_count(FIRED), 4);
    for (size_t i = 0; i < 3; i++) {
        CHECK_OK(td_timer_cancel(late[i]));
        REQUIRE_OK(td_join_for(late[i], td_s(20 * SLOW)));
        CHECK_INT(td_outcome(late[i]), TD_CANCELLED);
        td_free(late[i]);
    }
    CHECK_INT(event_count(FIRED), 4);
}
