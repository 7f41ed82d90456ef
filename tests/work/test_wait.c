/* SPDX-License-Identifier: MIT */
/* Waiting for any of several things, and descriptors of queues and events. */
#include "targets.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <tandem.h>
#include "os/fault.h"

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

typedef struct shared {
    td_event event, other;
    td_queue *queue;
} shared;

static int puts_one(td_call *call)
{
    shared *s = (shared *)td_arg(call, uintptr_t);
    int item = 5;
    event_wait(GO);
    return td_queue_put(s->queue, &item);
}

static int sets_it(td_call *call)
{
    shared *s = (shared *)td_arg(call, uintptr_t);
    event_wait(GO);
    td_event_set(&s->event);
    td_event_clear(&s->event);
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

/* Catches: an event that is set and cleared at once, and so missed. */
TEST_MODES(an_event_that_is_cleared_at_once)
{
    shared *s = new_shared();
    td_worker *w = start_with(how, sets_it, s);
    td_waitable things[] = { TD_WAIT_EVENT(&s->other), TD_WAIT_EVENT(&s->event) };
    event_set(GO);
    /* It may have been over before the wait began: then it is not seen, and the time limit ends it. */
    int n = td_wait_any(things, 2, td_ms(200), NULL);
    CHECK(n == 0 || (n == 1 && things[1].ready));
    REQUIRE_OK(td_join(w));
    td_free(w);
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

static bool readable(int fd, int milliseconds)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    return poll(&p, 1, milliseconds) == 1 && (p.revents & POLLIN);
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
    CHECK(td_wait_any(&thing, 1, td_ms(1), NULL) < 0);
    thing.kind = (td_waitable_kind)77;
    CHECK_ERROR(td_wait_any(&thing, 1, td_ms(1), NULL), TD_EINVAL);
    thing = TD_WAIT_DESCRIPTOR(-1);
    CHECK_ERROR(td_wait_any(&thing, 1, td_ms(1), NULL), TD_EINVAL);
    CHECK_ERROR(td_descriptor((td_waitable){ 0 }), TD_EINVAL);
    td_worker *w = WORKER(td_thread(.target = until_go));
    thing = TD_WAIT_WORKER(w);
    CHECK_ERROR(td_wait_any(&thing, 1, td_ms(1), NULL), TD_ESTATE);
    td_free(w);
    thing = (td_waitable){ 0 };
    CHECK_INT(td_wait_any(&thing, 1, td_ms(5), NULL), 0);
}

/* Catches: a limit of words that is one of the kernel's: more than that are turned into descriptors. */
TEST(two_hundred_events)
{
    static td_event events[100];
    static td_waitable things[100];
    for (int i = 0; i < 100; i++)
        things[i] = TD_WAIT_EVENT(&events[i]);
    CHECK_INT(td_wait_any(things, 100, td_ms(10), NULL), 0);
    td_event_set(&events[99]);
    CHECK_INT(td_wait_any(things, 100, td_s(10), NULL), 1);
    CHECK(things[99].ready);
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
