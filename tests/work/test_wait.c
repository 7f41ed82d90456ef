/* SPDX-License-Identifier: MIT */
/* Waiting for any of several things, and descriptors of queues and events. */
#include "refuse.h"
#include "targets.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <tandem.h>
#include "os/fault.h"
#include "queue/queue.h"
#include "sync/wait.h"

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

static td_worker *waiting_worker(const mode *how)
{
    td_worker *w = WORKER(NEW(.target = until_go));
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    return w;
}

static td_queue *new_queue(void)
{
    td_queue *q = td_queue_new(.item_size = sizeof(int), .capacity = 8, .shared = true);
    REQUIRE(q != 0);
    return q;
}

/* Catches: a worker's end that does not end the wait, or one that is told too early. */
TEST_MODES(a_worker)
{
    td_worker *w = waiting_worker(how);
    td_waitable thing = TD_WAIT_WORKER(w);
    CHECK_INT(td_wait_any(&thing, 1, td_ms(30), NULL), 0);
    CHECK(!thing.ready);
    event_set(GO);
    REQUIRE_INT(td_wait_any(&thing, 1, td_s(30), NULL), 1);
    CHECK(thing.ready);
    CHECK(!td_is_alive(w));
    CHECK_INT(td_wait_any(&thing, 1, TD_NO_LIMIT, NULL), 1);
    REQUIRE_OK(td_join(w));
    td_free(w);
}

enum { SCENES = 4 };

typedef struct shared {
    td_event event, other, scene[SCENES];
    td_queue *queue;
} shared;

static int puts_one(td_call *call)
{
    shared *s = (shared *)td_arg(call, uintptr_t);
    int item = 5;
    event_wait(GO);
    return td_queue_put(s->queue, &item);
}

/* Does somebody sleep on it, or is about to, having seen that it is not set? */
static bool awaited(const td_event *event)
{
    return __atomic_load_n((const uint32_t *)(const void *)&event->td_word, __ATOMIC_SEQ_CST) & 2;
}

static int sets_for_a_moment(td_call *call)
{
    shared *s = (shared *)td_arg(call, uintptr_t);
    for (int i = 0; i < SCENES; i++) {
        WAIT_UNTIL(awaited(&s->scene[i]), 30);
        td_event_set(&s->scene[i]);
        td_event_clear(&s->scene[i]);
    }
    return 0;
}

static shared *new_shared(void)
{
    shared *s = td_shared_calloc(1, sizeof *s);
    REQUIRE(s != 0);
    s->queue = new_queue();
    return s;
}

static void free_shared(shared *s)
{
    td_queue_free(s->queue);
    td_shared_free(s);
}

static td_worker *start_with(const mode *how, td_target *target, shared *s)
{
    td_worker *w = WORKER(NEW(.target = target, .args = TD_ARG(uintptr_t, (uintptr_t)s)));
    REQUIRE_OK(td_start(w));
    return w;
}

/* Catches: an item put by another thread or process that does not end the wait. */
TEST_MODES(a_queue_among_others)
{
    shared *s = new_shared();
    td_worker *w = start_with(how, puts_one, s);
    td_waitable things[] = { TD_WAIT_EVENT(&s->event), TD_WAIT_QUEUE(s->queue), { 0 } };
    CHECK_INT(td_wait_any(things, 3, td_ms(20), NULL), 0);
    event_set(GO);
    REQUIRE_INT(td_wait_any(things, 3, td_s(30), NULL), 1);
    CHECK(things[1].ready && !things[0].ready && !things[2].ready);
    int item = 0;
    CHECK_OK(td_queue_try_get(s->queue, &item));
    CHECK_INT(item, 5);
    CHECK_INT(td_wait_any(things, 3, td_ms(0), NULL), 0);
    REQUIRE_OK(td_join(w));
    td_free(w);
    free_shared(s);
}

static bool readable(int fd, int milliseconds)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    return poll(&p, 1, milliseconds) == 1 && (p.revents & POLLIN);
}

/* Catches: an event that is set and cleared at once, and so missed: on words, with descriptors, with more words than
 * the kernel takes, and as a descriptor. */
TEST_MODES(an_event_that_is_cleared_at_once)
{
    enum { MANY = 200 };
    static td_event others[MANY];
    td_waitable things[MANY + 1];
    shared *s = new_shared();
    td_worker *w = start_with(how, sets_for_a_moment, s);
    td_connection *a, *b;
    REQUIRE_OK(td_pipe_duplex(&a, &b));
    things[0] = TD_WAIT_EVENT(&s->other);
    things[1] = TD_WAIT_EVENT(&s->scene[0]);
    CHECK_INT(td_wait_any(things, 2, td_s(10), NULL), 1);
    CHECK(things[1].ready);
    things[0] = TD_WAIT_CONNECTION(a);
    things[1] = TD_WAIT_EVENT(&s->scene[1]);
    CHECK_INT(td_wait_any(things, 2, td_s(10), NULL), 1);
    CHECK(things[1].ready);
    for (int i = 0; i < MANY; i++)
        things[i] = TD_WAIT_EVENT(&others[i]);
    things[MANY] = TD_WAIT_EVENT(&s->scene[2]);
    CHECK_INT(td_wait_any(things, MANY + 1, td_s(10), NULL), 1);
    CHECK(things[MANY].ready);
    int fd = td_descriptor(TD_WAIT_EVENT(&s->scene[3]));
    CHECK(fd >= 0 && readable(fd, 10000));
    REQUIRE_OK(td_join(w)); /* now it is clear */
    CHECK_OK(td_descriptor_clear(fd));
    CHECK(!readable(fd, 20));
    CHECK_OK(td_descriptor_close(fd));
    td_free(w);
    td_connection_free(a);
    td_connection_free(b);
    free_shared(s);
}

/* Catches: descriptors among words. */
TEST_MODES(all_kinds_together)
{
    shared *s = new_shared();
    td_worker *w = start_with(how, puts_one, s);
    td_connection *a, *b;
    int fds[2];
    REQUIRE_OK(td_pipe_duplex(&a, &b));
    REQUIRE(pipe(fds) == 0);
    td_waitable things[] = { TD_WAIT_QUEUE(s->queue), TD_WAIT_CONNECTION(a), TD_WAIT_DESCRIPTOR(fds[0]),
                             TD_WAIT_EVENT(&s->event), TD_WAIT_WORKER(w) };
    CHECK_INT(td_wait_any(things, 5, td_ms(20), NULL), 0);
    REQUIRE_OK(td_send(b, "x", 1));
    CHECK_INT(td_wait_any(things, 5, td_s(30), NULL), 1);
    CHECK(things[1].ready);
    REQUIRE(write(fds[1], "y", 1) == 1);
    CHECK_INT(td_wait_any(things, 5, td_s(30), NULL), 2);
    CHECK(things[1].ready && things[2].ready);
    td_event_set(&s->event);
    CHECK_INT(td_wait_any(things, 5, td_s(30), NULL), 3);
    CHECK(things[3].ready);
    event_set(GO);
    things[1].kind = things[2].kind = things[3].kind = TD_WAITS_NOTHING;
    things[4].kind = TD_WAITS_NOTHING;
    CHECK_INT(td_wait_any(things, 5, td_s(30), NULL), 1);
    CHECK(things[0].ready);
    things[0].kind = TD_WAITS_NOTHING;
    things[4] = TD_WAIT_WORKER(w);
    CHECK_INT(td_wait_any(things, 5, td_s(30), NULL), 1);
    CHECK(things[4].ready);
    REQUIRE_OK(td_join(w));
    td_free(w);
    td_connection_free(a);
    td_connection_free(b);
    close(fds[0]);
    close(fds[1]);
    free_shared(s);
}

/* Catches: descriptors that are silent, or that stay readable after they were cleared. */
TEST_MODES(descriptors)
{
    int before = count_fds();
    shared *s = new_shared();
    int of_queue = td_descriptor(TD_WAIT_QUEUE(s->queue)), of_event = td_descriptor(TD_WAIT_EVENT(&s->event));
    REQUIRE(of_queue > 2 && of_event > 2);
    CHECK(fcntl(of_queue, F_GETFD) & FD_CLOEXEC);
    CHECK(!readable(of_queue, 20) && !readable(of_event, 0));
    td_worker *w = start_with(how, puts_one, s);
    event_set(GO);
    CHECK(readable(of_queue, 30000));
    REQUIRE_OK(td_join(w));
    CHECK_OK(td_descriptor_clear(of_queue));
    CHECK(readable(of_queue, 30000)); /* it is still there */
    int item;
    CHECK_OK(td_queue_get(s->queue, &item));
    CHECK_OK(td_descriptor_clear(of_queue));
    CHECK(!readable(of_queue, 20));
    td_event_set(&s->event);
    CHECK(readable(of_event, 30000));
    CHECK_OK(td_descriptor_close(of_queue));
    CHECK_OK(td_descriptor_close(of_event));
    CHECK_ERROR(td_descriptor_close(of_event), TD_EINVAL);
    CHECK_ERROR(td_descriptor_clear(of_event), TD_EINVAL);
    td_free(w);
    free_shared(s);
    CHECK_OK(td_finish());
    WAIT_UNTIL(count_fds() <= before, 5);
}

static void *fires(void *cancel)
{
    event_wait(GO);
    td_cancel_fire(cancel);
    return NULL;
}

/* Catches: a wait that a cancellation does not end; with words only, and with descriptors. */
TEST(cancelled)
{
    for (int i = 0; i < 2; i++) {
        td_event event = { 0 };
        td_cancel cancel = { 0 };
        int fds[2];
        pthread_t thread;
        REQUIRE(pipe(fds) == 0);
        page->event[GO] = 0;
        REQUIRE(pthread_create(&thread, 0, fires, &cancel) == 0);
        td_waitable things[] = { TD_WAIT_EVENT(&event), TD_WAIT_DESCRIPTOR(fds[0]) };
        event_set(GO);
        CHECK_ERROR(td_wait_any(things, i == 0 ? 1 : 2, td_s(30), &cancel), TD_ECANCELLED);
        pthread_join(thread, 0);
        close(fds[0]);
        close(fds[1]);
    }
}

/* Catches: hangs and crashes on bad input. */
TEST(bad_input)
{
    td_event event = { 0 };
    td_waitable thing = TD_WAIT_EVENT(&event);
    CHECK_ERROR(td_wait_any(NULL, 1, td_ms(1), NULL), TD_EINVAL);
    CHECK_ERROR(td_wait_any(&thing, 0, td_ms(1), NULL), TD_EINVAL);
    CHECK_ERROR(td_wait_any(&thing, 1001, td_ms(1), NULL), TD_ETOOBIG);
    thing.object = NULL;
    CHECK_NULL(td_thread(.target = until_go, .args = td_bytes("", SIZE_MAX)), TD_ETOOBIG);
    CHECK_ERROR(td_wait_any(&thing, 1, td_ms(1), NULL), TD_EINVAL);
    CHECK_NULL(td_thread(.target = until_go, .args = td_bytes("", SIZE_MAX)), TD_ETOOBIG);
    thing.kind = TD_WAITS_WORKER;
    CHECK_ERROR(td_wait_any(&thing, 1, td_ms(1), NULL), TD_ETOOBIG); /* why there is none */
    thing.kind = (td_waitable_kind)77;
    CHECK_ERROR(td_wait_any(&thing, 1, td_ms(1), NULL), TD_EINVAL);
    thing = TD_WAIT_DESCRIPTOR(-1);
    CHECK_ERROR(td_wait_any(&thing, 1, td_ms(1), NULL), TD_EINVAL);
    int fds[2];
    REQUIRE(pipe(fds) == 0);
    td_waitable two[] = { TD_WAIT_DESCRIPTOR(fds[0]), TD_WAIT_DESCRIPTOR(fds[0]) };
    two[1].descriptor = dup(fds[1]);
    close(two[1].descriptor);
    CHECK_ERROR(td_wait_any(two, 2, td_s(20), NULL), TD_EINVAL);
    CHECK_HAS(td_last_message(), "is not open");
    close(fds[1]);
    CHECK_INT(td_wait_any(two, 1, td_s(20), NULL), 1); /* hung up */
    close(fds[0]);
    CHECK_ERROR(td_descriptor((td_waitable){ 0 }), TD_EINVAL);
    td_worker *w = WORKER(td_thread(.target = until_go));
    thing = TD_WAIT_WORKER(w);
    CHECK_ERROR(td_wait_any(&thing, 1, td_ms(1), NULL), TD_ESTATE);
    td_free(w);
    thing = (td_waitable){ 0 };
    CHECK_INT(td_wait_any(&thing, 1, td_ms(5), NULL), 0);
}

/* Catches: a frame that a failed call has left in the handle, where the socket does not show it. */
TEST(a_kept_frame)
{
    td_event event = { 0 };
    td_connection *a, *b;
    char room[1];
    REQUIRE_OK(td_pipe_duplex(&a, &b));
    REQUIRE_OK(td_send(b, "xy", 2));
    CHECK_ERROR(td_recv_into(a, room, sizeof room, NULL), TD_ETOOBIG);
    td_waitable things[] = { TD_WAIT_EVENT(&event), TD_WAIT_CONNECTION(a), TD_WAIT_CONNECTION(b) };
    CHECK_INT(td_wait_any(things, 3, td_s(5), NULL), 1);
    CHECK(things[1].ready && !things[0].ready && !things[2].ready);
    CHECK_INT(td_wait_any(&things[1], 1, td_ms(0), NULL), 1);
    CHECK_OK(td_recv_skip(a));
    CHECK_INT(td_wait_any(things, 3, td_ms(0), NULL), 0);
    td_connection_free(a);
    td_connection_free(b);
}

/* Catches: a connection that is closed, or can only send, and is waited for all the same; and what an earlier failure
 * has left taken for the reason. */
TEST(connections_that_cannot_receive)
{
    td_event event = { 0 };
    td_connection *reader, *writer;
    REQUIRE_OK(td_pipe(&reader, &writer));
    td_waitable things[] = { TD_WAIT_EVENT(&event), TD_WAIT_CONNECTION(writer) };
    CHECK_ERROR(td_wait_any(things, 0, td_ms(1), NULL), TD_EINVAL);
    CHECK_ERROR(td_wait_any(things, 2, td_ms(1), NULL), TD_ESTATE);
    CHECK_HAS(td_last_message(), "td_wait_any: this end of the pipe can only send");
    CHECK_ERROR(td_descriptor(things[1]), TD_ESTATE);
    CHECK_OK(td_connection_close(reader));
    things[1] = TD_WAIT_CONNECTION(reader);
    CHECK_ERROR(td_wait_any(things, 0, td_ms(1), NULL), TD_EINVAL);
    CHECK_ERROR(td_wait_any(things, 2, td_ms(1), NULL), TD_ESTATE);
    CHECK_HAS(td_last_message(), "td_wait_any: the connection's handle is closed");
    CHECK_ERROR(td_wait_any(things, 0, td_ms(1), NULL), TD_EINVAL);
    CHECK_ERROR(td_descriptor(things[1]), TD_ESTATE);
    CHECK_HAS(td_last_message(), "td_descriptor: the connection's handle is closed");
    td_connection_free(reader);
    td_connection_free(writer);
}

typedef struct pair {
    td_event event;
    td_connection *connection;
} pair;

static void *waits_for_both(void *of)
{
    pair *p = of;
    td_waitable things[] = { TD_WAIT_CONNECTION(p->connection), TD_WAIT_EVENT(&p->event) };
    CHECK_INT(td_wait_any(things, 2, td_s(30), NULL), 1);
    CHECK(things[1].ready);
    return NULL;
}

/* Catches: a descriptor that is closed under a thread that waits for it, and given to somebody else. */
TEST(closed_while_waited_for)
{
    td_connection *other;
    pthread_t thread;
    pair p = { .connection = NULL };
    REQUIRE_OK(td_pipe(&p.connection, &other));
    REQUIRE(pthread_create(&thread, 0, waits_for_both, &p) == 0);
    WAIT_UNTIL(awaited(&p.event), 30);
    CHECK_ERROR(td_connection_close(p.connection), TD_ESTATE);
    td_event_set(&p.event);
    pthread_join(thread, 0);
    CHECK_OK(td_connection_close(p.connection));
    td_connection_free(p.connection);
    td_connection_free(other);
}

static void allow_descriptors(rlim_t count)
{
    struct rlimit limit;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = count;
    REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

/* Catches: places that are not used and count all the same; and a refusal of the kernel taken for nothing ready. */
TEST(places_above_the_limit_of_descriptors)
{
    enum { PLACES = 1000, ALLOWED = 64 };
    static td_waitable things[PLACES];
    td_event event = { 0 };
    td_connection *a, *b;
    REQUIRE_OK(td_pipe_duplex(&a, &b));
    allow_descriptors(ALLOWED);
    things[10] = TD_WAIT_CONNECTION(a);
    things[500] = TD_WAIT_CONNECTION(b);
    things[PLACES - 1] = TD_WAIT_EVENT(&event);
    CHECK_INT(td_wait_any(things, PLACES, td_ms(20), NULL), 0);
    REQUIRE_OK(td_send(a, "x", 1));
    CHECK_INT(td_wait_any(things, PLACES, td_s(5), NULL), 1);
    CHECK(things[500].ready && !things[10].ready);
    td_event_set(&event);
    CHECK_INT(td_wait_any(things, PLACES, td_s(5), NULL), 2);
    for (int i = 0; i < PLACES; i++)
        things[i] = i < 2 * ALLOWED ? TD_WAIT_CONNECTION(a) : (td_waitable){ 0 };
    CHECK_ERROR(td_wait_any(things, PLACES, td_s(5), NULL), TD_EDESCRIPTOR);
    td_connection_free(a);
    td_connection_free(b);
}

enum { ALL = 1000 };

/* Catches: a limit of words that is one of the kernel's, or of the bridge's table. */
TEST(a_thousand_things)
{
    static td_event events[ALL];
    static td_waitable things[ALL];
    td_connection *a, *b;
    td_queue *q = new_queue();
    int before = 0, item = 3;
    REQUIRE_OK(td_pipe_duplex(&a, &b));
    for (int i = 0; i < ALL; i++)
        things[i] = TD_WAIT_EVENT(&events[i]);
    CHECK_INT(td_wait_any(things, 127, td_ms(5), NULL), 0);
    before = count_fds();
    for (int count = 128; count <= ALL; count += ALL - 128) {
        td_event *last = &events[count - 1];
        things[0] = TD_WAIT_EVENT(&events[0]);
        CHECK_INT(td_wait_any(things, (size_t)count, td_ms(5), NULL), 0);
        td_event_set(last);
        CHECK_INT(td_wait_any(things, (size_t)count, td_s(10), NULL), 1);
        CHECK(things[count - 1].ready);
        td_event_clear(last);
        things[0] = TD_WAIT_CONNECTION(a);
        CHECK_INT(td_wait_any(things, (size_t)count, td_ms(5), NULL), 0);
        td_event_set(last);
        CHECK_INT(td_wait_any(things, (size_t)count, td_s(10), NULL), 1);
        CHECK(things[count - 1].ready);
        td_event_clear(last);
    }
    for (int i = 1; i < ALL; i++)
        things[i] = TD_WAIT_QUEUE(q);
    CHECK_INT(td_wait_any(things, ALL, td_ms(5), NULL), 0);
    REQUIRE_OK(td_queue_put(q, &item));
    CHECK_INT(td_wait_any(things, ALL, td_s(10), NULL), ALL - 1);
    CHECK_INT(count_fds(), before);
    td_queue_free(q);
    td_connection_free(a);
    td_connection_free(b);
}

static td_event many[ALL];

static void *waits_for_many(void *unused)
{
    td_waitable mine[ALL];
    int r;
    (void)unused;
    for (int i = 0; i < ALL; i++)
        mine[i] = TD_WAIT_EVENT(&many[i]);
    do
        r = td_wait_any(mine, ALL, td_s(40), NULL);
    while (r == TD_ETOOBIG); /* five at a time are one too many, whichever */
    CHECK_INT(r, 1);
    CHECK(mine[ALL - 1].ready);
    return NULL;
}

/* Catches: several threads that cannot wait for so much at the same time; and a limit that is not told as one. */
TEST(thousands_of_things)
{
    pthread_t thread[4];
    td_waitable mine[ALL];
    for (int i = 0; i < ALL; i++)
        mine[i] = TD_WAIT_EVENT(&many[i]);
    for (int i = 0; i < 3; i++)
        REQUIRE(pthread_create(&thread[i], 0, waits_for_many, NULL) == 0);
    CHECK_INT(td_wait_any(mine, ALL, td_ms(1), NULL), 0);
    REQUIRE(pthread_create(&thread[3], 0, waits_for_many, NULL) == 0);
    WAIT_UNTIL(td_wait_any(mine, ALL, td_ms(1), NULL) == TD_ETOOBIG, 30);
    CHECK_HAS(td_last_message(), "4064 descriptors of queues and events and waits of many, the limit");
    td_event_set(&many[ALL - 1]);
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], 0);
    CHECK_INT(td_wait_any(mine, ALL - 1, td_ms(1), NULL), 0);
}

static bool works_in_a_child(int descriptor, int fds)
{
    enum { MANY = 300 };
    static td_event mine[MANY];
    static td_waitable things[MANY];
    bool fine = count_fds() == fds && fcntl(descriptor, F_GETFD) < 0 && td_descriptor_close(descriptor) == TD_EINVAL;
    for (int i = 0; i < MANY; i++)
        things[i] = TD_WAIT_EVENT(&mine[i]);
    int fd = td_descriptor(things[7]);
    fine = fine && fd >= 0 && !readable(fd, 5) && td_wait_any(things, MANY, td_ms(5), NULL) == 0;
    fine = fine && td_event_set(&mine[7]) == 0 && readable(fd, 20000) && td_descriptor_close(fd) == 0;
    return fine && td_wait_any(things, MANY, td_s(20), NULL) == 1 && things[7].ready && count_fds() == fds;
}

/* Catches: a child that has its parent's descriptors, or entries, or waits on threads that it has not got. */
TEST(forked)
{
    td_event event = { 0 };
    pthread_t thread;
    int before = count_fds(), fd = td_descriptor(TD_WAIT_EVENT(&event)), status = -1;
    REQUIRE(fd >= 0);
    REQUIRE(pthread_create(&thread, 0, waits_for_many, NULL) == 0);
    WAIT_UNTIL(count_fds() == before + 2, 30);
    pid_t pid = fork();
    if (pid == 0)
        _exit(works_in_a_child(fd, before) ? 0 : 1);
    REQUIRE_INT(waitpid(pid, &status, 0), pid);
    CHECK_INT(status, 0);
    td_event_set(&event);
    CHECK(readable(fd, 20000));
    CHECK_OK(td_descriptor_close(fd));
    td_event_set(&many[ALL - 1]);
    pthread_join(thread, 0);
    CHECK_INT(count_fds(), before);
}

/* --- in a sandbox -------------------------------------------------------------------------------------------- */

/* A thread of this process, by its name; 0: there is none. */
static pid_t thread_named(const char *name)
{
    char path[64], comm[32];
    pid_t found = 0;
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *task; tasks && (task = readdir(tasks));) {
        pid_t tid = atoi(task->d_name);
        snprintf(path, sizeof path, "/proc/self/task/%d/comm", (int)tid);
        if (tid > 0 && strcmp(first_line(path, comm, sizeof comm), name) == 0)
            found = tid;
    }
    if (tasks)
        closedir(tasks);
    return found;
}

static bool sleeps(const char *name)
{
    char state[32];
    pid_t tid = thread_named(name);
    return tid > 0 && *status_of(tid, "State", state, sizeof state) == 'S';
}

/* As if its load had passed its store: an item is there, and the watcher, who sleeps, has not been seen. */
static void put_unseen(td_queue *q, const char *watcher)
{
    int item = 4;
    WAIT_UNTIL(td__load_seq_cst(&q->items) & TD__QUEUE_WATCHER, 30);
    WAIT_UNTIL(sleeps(watcher), 30);
    td__fetch_and_seq_cst(&q->items, ~TD__QUEUE_WATCHER);
    CHECK_OK(td_queue_put(q, &item));
}

static void *watches_without_barriers(void *queue)
{
    prctl(PR_SET_NAME, "watches");
    refuse(SYS_membarrier, EPERM);
    td_waitable thing = TD_WAIT_QUEUE(queue);
    CHECK_INT(td_wait_any(&thing, 1, TD_NO_LIMIT, NULL), 1); /* at a limit it would look once more */
    return NULL;
}

/* Catches: a watcher without barriers, which the others rely on, that sleeps on what it may have missed. */
TEST(barriers_refused_later)
{
    td_queue *q = new_queue(), *other = new_queue();
    pthread_t thread;
    REQUIRE(pthread_create(&thread, 0, watches_without_barriers, q) == 0);
    put_unseen(q, "watches");
    pthread_join(thread, 0);
    refuse(SYS_membarrier, EPERM);
    int fd = td_descriptor(TD_WAIT_QUEUE(other));
    REQUIRE(fd >= 0);
    put_unseen(other, "tandem-bridge");
    CHECK(readable(fd, 10000));
    CHECK_OK(td_descriptor_close(fd));
    td_queue_free(q);
    td_queue_free(other);
}

static void *sets_later(void *event)
{
    td_event first = { 0 };
    td_event_set(&first); /* this thread has its record now */
    event_add(STARTED);
    event_wait(GO);
    td_event_set(event);
    return NULL;
}

/* Catches: the kernel that refuses to wait for several words: slower, but the same. */
TEST(without_futex_waitv)
{
    for (int n = 1; n < 6; n++) {
        td_event events[2] = { { 0 } };
        td_waitable things[] = { TD_WAIT_EVENT(&events[0]), TD_WAIT_EVENT(&events[1]) };
        pthread_t thread;
        page->event[GO] = 0;
        REQUIRE(pthread_create(&thread, 0, sets_later, &events[1]) == 0);
        CHECK_INT(td_wait_any(things, 2, td_ms(0), NULL), 0); /* and this one */
        event_wait_count(STARTED, (uint32_t)n);
        td__fault_arm(n);
        event_set(GO);
        CHECK_INT(td_wait_any(things, 2, td_s(30), NULL), 1);
        td__fault_disarm();
        CHECK(things[1].ready);
        pthread_join(thread, 0);
    }
}

/* The same in a sandbox that never allows it, for all kinds of things, on words and by descriptors. */
TEST_MODES(without_futex_waitv_ever)
{
    refuse(SYS_futex_waitv, ENOSYS);
    test_all_kinds_together(how);
}

TEST_MODES(words_without_futex_waitv)
{
    refuse(SYS_futex_waitv, EPERM);
    test_a_queue_among_others(how);
    page->event[GO] = 0;
    test_a_worker(how);
}

TEST_MODES(moments_without_futex_waitv)
{
    refuse(SYS_futex_waitv, ENOSYS);
    test_an_event_that_is_cleared_at_once(how);
}

TEST_MODES(descriptors_without_futex_waitv)
{
    refuse(SYS_futex_waitv, ENOSYS);
    test_descriptors(how);
}

static int gets_all(td_call *call)
{
    shared *s = (shared *)td_arg(call, uintptr_t);
    int item, n = 0;
    while (td_queue_get(s->queue, &item) == 0)
        n++;
    return td_return(call, int, n);
}

/* Catches: a wake-up that goes to one who only looks, and is lost for one who would take the item. */
TEST_MODES_LIMIT(watchers_take_no_wake_ups_away, 100)
{
    shared *s = new_shared();
    td_worker *getter = start_with(how, gets_all, s);
    td_waitable thing = TD_WAIT_QUEUE(s->queue);
    int seen = 0;
    for (int i = 0; i < 500; i++) {
        REQUIRE_OK(td_queue_put_with(s->queue, &i, td_s(30), NULL));
        seen += td_wait_any(&thing, 1, td_us(50), NULL);
    }
    REQUIRE_OK(td_queue_shutdown(s->queue, false));
    REQUIRE_OK(td_join_for(getter, td_s(60)));
    int got = 0;
    CHECK_OK(td_result(getter, int, &got));
    CHECK_INT(got, 500);
    harness_note("%d seen", seen);
    td_free(getter);
    free_shared(s);
}

/* --- the end of the program ---------------------------------------------------------------------------------- */

static void *waits_beyond_the_end(void *event)
{
    int fds[2];
    REQUIRE_INT(pipe(fds), 0);
    td_waitable things[] = { TD_WAIT_EVENT(event), TD_WAIT_DESCRIPTOR(fds[0]) };
    CHECK_INT(td_wait_any(things, 2, TD_NO_LIMIT, NULL), 1);
    close(fds[0]);
    close(fds[1]);
    event_set(STARTED);
    return NULL;
}

/* A thread of the program's own that waits while the program finishes, and goes on. Catches: a wait that is left to a
 * thread of the library that has ended. */
TEST(td_finish_during_a_wait)
{
    td_event event = { 0 };
    pthread_t thread;
    for (int i = 0; i < 20; i++) {
        page->event[STARTED] = 0;
        REQUIRE_INT(pthread_create(&thread, NULL, waits_beyond_the_end, &event), 0);
        if (i > 0)
            WAIT_UNTIL(awaited(&event), 20);
        CHECK_OK(td_finish());
        td_event_set(&event);
        REQUIRE(event_wait_for(STARTED, 20));
        pthread_join(thread, NULL);
        td_event_clear(&event);
    }
    /* The same descriptor, after the threads have ended. */
    int fd = td_descriptor(TD_WAIT_EVENT(&event));
    REQUIRE(fd >= 0);
    CHECK_OK(td_finish());
    CHECK_OK(td_descriptor_clear(fd));
    td_event_set(&event);
    CHECK(readable(fd, 20000));
    CHECK_OK(td_descriptor_close(fd));
}

/* --- deaths -------------------------------------------------------------------------------------------------- */

typedef struct doomed {
    shared *at;
    long step;
    bool by_poll;
} doomed;

static int watches_and_dies(td_call *call)
{
    doomed d = td_arg(call, doomed);
    td_connection *a, *b;
    REQUIRE_OK(td_pipe_duplex(&a, &b));
    td_waitable things[] = { TD_WAIT_QUEUE(d.at->queue), TD_WAIT_EVENT(&d.at->event), TD_WAIT_CONNECTION(a) };
    REQUIRE(td__party_self() != NULL);
    td__kill_at_step(d.step);
    int r = td_wait_any(things, d.by_poll ? 3 : 2, td_s(40), NULL);
    td__kill_at_step(0);
    td_connection_free(a);
    td_connection_free(b);
    return r == 1 ? 0 : 1;
}

static int gets_one(td_call *call)
{
    shared *s = (shared *)td_arg(call, uintptr_t);
    int item;
    return td_queue_get_for(s->queue, &item, td_s(40));
}

static bool is_asleep_or_dead(pid_t pid, const td_queue *q)
{
    char state[32];
    return !process_alive(pid) ||
           (td__load_seq_cst(&q->items) & TD__QUEUE_WATCHER && *status_of(pid, "State", state, sizeof state) == 'S');
}

static void joined_with_nothing(td_worker *w)
{
    REQUIRE_OK(td_join_for(w, td_s(30)));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    CHECK_INT(td_result_code(w), 0);
    td_free(w);
}

/* Two sleep for items beside the watcher, who is killed at that step; 0: in its sleep. true: it was. */
static bool kill_watcher_at(const mode *how, shared *s, long step, bool by_poll)
{
    enum { GETTERS = 2 };
    td_worker *getter[GETTERS];
    doomed d = { s, step, by_poll };
    int item = 1;
    for (uint32_t i = 0; i < GETTERS; i++) {
        getter[i] = start_with(i ? how : &mode_thread, gets_one, s);
        WAIT_UNTIL(td__word_waiters(&s->queue->items) == i + 1, 30);
    }
    td_worker *w = WORKER(NEW(.target = watches_and_dies, .args = TD_VAL(d)));
    REQUIRE_OK(td_start(w));
    WAIT_UNTIL(is_asleep_or_dead(td_pid(w), s->queue), 30);
    if (step == 0) {
        kill(td_pid(w), SIGKILL);
        REQUIRE_OK(td_join_for(w, td_s(30)));
    }
    for (int i = 0; i < GETTERS; i++)
        REQUIRE_OK(td_queue_put(s->queue, &item));
    for (int i = 0; i < GETTERS; i++)
        joined_with_nothing(getter[i]);
    REQUIRE_OK(td_queue_put(s->queue, &item)); /* which stays until the watcher has seen it */
    REQUIRE_OK(td_join_for(w, td_s(30)));
    bool killed = td_outcome(w) == TD_CRASHED;
    CHECK(killed || (td_outcome(w) == TD_RETURNED && td_result_code(w) == 0));
    td_free(w);
    CHECK_OK(td_queue_try_get(s->queue, &item));
    td_event_set(&s->event);
    CHECK_OK(td_event_wait(&s->event));
    td_event_clear(&s->event);
    return killed;
}

/* Catches: a wake-up that is lost with a watcher, wherever in td_wait_any it is killed. */
TEST_METHODS_LIMIT(watcher_killed_at_every_step, 150)
{
    for (int by_poll = 0; by_poll < 2; by_poll++) {
        shared *s = new_shared();
        long step = 0, killed = kill_watcher_at(how, s, 0, by_poll);
        /* How many there are varies with how often it is woken. */
        for (int survived = 0; survived < 3 && !harness_failed(); survived++)
            while (!harness_failed() && kill_watcher_at(how, s, ++step, by_poll)) {
                killed++;
                survived = 0;
            }
        CHECK(killed > 3);
        harness_note("%ld killed of %ld", killed, step);
        free_shared(s);
    }
}

static int gets_and_dies(td_call *call)
{
    doomed d = td_arg(call, doomed);
    int item;
    REQUIRE(td__party_self() != NULL);
    td__kill_at_step(d.step);
    return td_queue_get_for(d.at->queue, &item, td_s(40));
}

static void repaired(void)
{
    /* The bit may be there for nothing: a release looks. */
    WAIT_UNTIL((td__parties_release(&td__the_region->deaths, 1),
                !(td__load_acquire(&td__the_region->deaths) & TD__DEATHS_PENDING)),
               20);
}

/* A consumer dies in its sleep, or with an item in its hand, which comes back and is got. Catches: a queue that then
 * counts as ready, with nothing in it. */
TEST_METHODS(a_queue_whose_consumer_has_died)
{
    shared *s = new_shared();
    td_waitable thing = TD_WAIT_QUEUE(s->queue);
    int item = 1;
    td_worker *w = start_with(how, gets_one, s);
    WAIT_UNTIL(td__word_waiters(&s->queue->items) == 1, 30);
    REQUIRE_OK(td_kill(w));
    REQUIRE_OK(td_join_for(w, td_s(30)));
    td_outcome(w);
    td_free(w);
    repaired();
    CHECK_INT(td_wait_any(&thing, 1, td_ms(20), NULL), 0);
    for (long step = 1; step < 10; step++) {
        doomed d = { s, step, false };
        REQUIRE_OK(td_queue_put(s->queue, &item));
        w = WORKER(NEW(.target = gets_and_dies, .args = TD_VAL(d)));
        REQUIRE_OK(td_start(w));
        REQUIRE_OK(td_join_for(w, td_s(30)));
        td_outcome(w);
        td_free(w);
        repaired();
        bool left = td_wait_any(&thing, 1, td_ms(20), NULL) == 1;
        CHECK_INT(td_queue_try_get(s->queue, &item), left ? 0 : TD_EEMPTY);
        CHECK_INT(td_wait_any(&thing, 1, td_ms(20), NULL), 0);
    }
    free_shared(s);
}
