/* SPDX-License-Identifier: MIT */
/* Waiting for queues: limits, cancellation, shutdown, wake-ups that must not get lost, join; and forks. */
#include "ledger.h"
#include "os/fault.h"
#include "queue/queue.h"
#include "sync/latch.h"

#include <pthread.h>
#include <sys/wait.h>

typedef struct waiter {
    td_queue *queue;
    td_cancel *cancel;
    int what, event;
} waiter;
enum { GET, PUT, GET_CANCELLED, PUT_CANCELLED, JOIN };

static int wait_once(td_call *call)
{
    waiter a = td_arg(call, waiter);
    int x = 7, r = 0;
    if (a.event)
        event_add(a.event);
    if (a.what == GET)
        r = td_queue_get(a.queue, &x);
    else if (a.what == PUT)
        r = td_queue_put(a.queue, &x);
    else if (a.what == GET_CANCELLED)
        r = td_queue_get_with(a.queue, &x, td_s(40 * SLOW), a.cancel);
    else if (a.what == PUT_CANCELLED)
        r = td_queue_put_with(a.queue, &x, td_s(40 * SLOW), a.cancel);
    else
        r = td_queue_join(a.queue);
    return td_return(call, int, r);
}

static td_worker *start_waiter(const mode *how, td_queue *q, td_cancel *cancel, int what)
{
    waiter a = { q, cancel, what, 1 };
    td_worker *w = WORKER(NEW(.target = wait_once, .args = TD_VAL(a)));
    REQUIRE_OK(td_start(w));
    return w;
}

static void ended_with(td_worker *w, int expected)
{
    int result = 1;
    CHECK_OK(td_join_for(w, td_s(30 * SLOW)));
    CHECK_OK(td_result(w, int, &result));
    CHECK_INT(result, expected);
    td_free(w);
}

static void asleep(const _Atomic uint32_t *word)
{
    WAIT_UNTIL(td__load_relaxed(word) & 1, 20);
    pause_ms(2); /* into the kernel; not needed for the outcome */
}

TEST_MODES(shutdown_wakes_all)
{
    FOR_ALL_QUEUES
    for (int what = GET; what <= PUT; what++) {
        td_queue *q = queue_of(kind, shared, 1);
        td_worker *w[3];
        int x = 1;
        if (what == PUT)
            CHECK_OK(td_queue_put(q, &x));
        for (int i = 0; i < 3; i++)
            w[i] = start_waiter(how, q, NULL, what);
        asleep(what == PUT ? &q->space : &q->items);
        CHECK_OK(td_queue_shutdown(q, false));
        for (int i = 0; i < 3; i++)
            ended_with(w[i], TD_ECLOSED);
        if (what == PUT)
            CHECK_OK(td_queue_get(q, &x));
        td_queue_free(q);
    }
}

TEST_MODES(cancel_ends_waits)
{
    FOR_ALL_QUEUES
    for (int what = GET_CANCELLED; what <= PUT_CANCELLED; what++) {
        td_queue *q = queue_of(kind, shared, 1);
        td_cancel *cancel = shared_memory(sizeof *cancel);
        int x = 1;
        if (what == PUT_CANCELLED)
            CHECK_OK(td_queue_put(q, &x));
        td_worker *a = start_waiter(how, q, cancel, what), *b = start_waiter(how, q, cancel, what);
        asleep(what == PUT_CANCELLED ? &q->space : &q->items);
        td_cancel_fire(cancel);
        ended_with(a, TD_ECANCELLED);
        ended_with(b, TD_ECANCELLED);
        /* Fired before: at once; but what is there is taken. */
        CHECK_ERROR(what == PUT_CANCELLED ? td_queue_put_with(q, &x, TD_NO_LIMIT, cancel)
                                          : td_queue_get_with(q, &x, TD_NO_LIMIT, cancel),
                    TD_ECANCELLED);
        if (what == GET_CANCELLED) {
            CHECK_OK(td_queue_put(q, &x));
            CHECK_OK(td_queue_get_with(q, &x, TD_NO_LIMIT, cancel));
        }
        td_queue_free(q);
    }
}

TEST(limits_pass)
{
    for (int kind = 0; kind < 3; kind++)
        for (int shared = 0; shared < 2; shared++) {
            td_queue *q = queue_of(kind, shared, 1);
            int x = 1;
            double start = now();
            CHECK_ERROR(td_queue_get_for(q, &x, td_ms(50)), TD_ETIMEOUT);
            CHECK_TIME(now() - start, 0.05);
            CHECK_OK(td_queue_put_for(q, &x, td_ms(50)));
            start = now();
            CHECK_ERROR(td_queue_put_for(q, &x, td_ms(50)), TD_ETIMEOUT);
            CHECK_TIME(now() - start, 0.05);
            CHECK_ERROR(td_queue_join_for(q, td_ms(1)), TD_ETIMEOUT);
            td_queue_free(q);
        }
}

/* As many items, or places, as sleepers, all at once: every one is woken, though only one wake-up is on its way. */
TEST_MODES(batches_wake_all)
{
    FOR_ALL_QUEUES
    for (int what = GET; what <= PUT; what++) {
        td_queue *q = queue_of(kind, shared, 4);
        int some[4] = { 1, 2, 3, 4 };
        td_worker *w[4];
        if (what == PUT)
            CHECK_INT(td_queue_put_many(q, some, 4), 4);
        for (int i = 0; i < 4; i++)
            w[i] = start_waiter(how, q, NULL, what);
        asleep(what == PUT ? &q->space : &q->items);
        for (int moved = 0; moved < 4;) {
            int64_t n =
                what == PUT ? td_queue_try_get_many(q, some, (size_t)(4 - moved)) : td_queue_try_put_many(q, some, 4);
            REQUIRE(n > 0);
            moved += (int)n;
        }
        for (int i = 0; i < 4; i++)
            ended_with(w[i], 0);
        td_queue_free(q);
    }
}

TEST_MODES(join_is_woken)
{
    FOR_ALL_QUEUES
    {
        td_queue *q = queue_of(kind, shared, 4);
        int x = 1;
        for (int i = 0; i < 3; i++)
            CHECK_OK(td_queue_put(q, &x));
        td_worker *a = start_waiter(how, q, NULL, JOIN), *b = start_waiter(how, q, NULL, JOIN);
        asleep(&q->finished);
        for (int i = 0; i < 3; i++) {
            CHECK(td_is_alive(a) && td_is_alive(b));
            CHECK_OK(td_queue_get(q, &x));
            CHECK_OK(td_queue_task_done(q));
        }
        ended_with(a, 0);
        ended_with(b, 0);
        CHECK_OK(td_queue_put(q, &x));
        CHECK_OK(td_queue_put(q, &x));
        a = start_waiter(how, q, NULL, JOIN);
        asleep(&q->finished);
        CHECK_OK(td_queue_shutdown(q, true));
        ended_with(a, 0);
        td_queue_free(q);
    }
}

/* After a shutdown, who finds nothing more waits for what others have in their hands: it may come back. */
TEST(shutdown_waits_for_hands)
{
    enum { OTHER = 12345 }; /* no party of this process */
    for (int returned = 0; returned < 2; returned++) {
        td_queue *q = queue_of(TD_QUEUE_FIFO, true, 4);
        int x = 3;
        CHECK_OK(td_queue_put(q, &x));
        td__cell *cell = td__wheel_cell(&q->first, 0);
        td__store_relaxed(&cell->state, TD__OWNED_BY(OTHER) | TD__READING);
        CHECK_OK(td_queue_shutdown(q, false));
        CHECK_ERROR(td_queue_try_get(q, &x), TD_EEMPTY);
        td_worker *w = start_waiter(&mode_thread, q, NULL, GET);
        asleep(&q->items);
        if (returned) {
            CHECK(td__queue_return(q, td__party_self(), &q->first, 0, 1, OTHER, true));
            ended_with(w, 0);
        } else {
            CHECK(td__queue_skip(q, td__party_self(), NULL, &q->first, 0, OTHER, true));
            ended_with(w, TD_ECLOSED);
        }
        CHECK_ERROR(td_queue_get(q, &x), TD_ECLOSED);
        td_queue_free(q);
    }
}

#if defined(TD_FAULTS) && TD_FAULTS
enum { STOPPED = 30, GO_ON, PUT_ENDED, JOINED_IT };

typedef struct late_put {
    td_queue *queue;
    long step;
    size_t count;
} late_put;

static void stop(void)
{
    event_set(STOPPED);
    event_wait(GO_ON);
}

static void *put_late(void *argument)
{
    const late_put *p = argument;
    int items[2] = { 1, 2 };
    td__party_self();
    td__call_at_step(p->step, stop);
    int64_t r = p->count == 1 ? td_queue_put(p->queue, items) : td_queue_put_many(p->queue, items, p->count);
    td__call_at_step(0, NULL);
    CHECK(r >= 0 || r == TD_ECLOSED);
    event_set(PUT_ENDED);
    return NULL;
}

static void *drop_and_join(void *queue)
{
    CHECK_OK(td_queue_shutdown(queue, true));
    CHECK_OK(td_queue_join(queue));
    event_set(JOINED_IT);
    return NULL;
}

/* Has the put come to its step, while the queue was dropped, and somebody waited for its end? */
static bool dropped_at(td_queue *q, size_t count, long step)
{
    pthread_t putting, joining;
    late_put p = { q, step, count };
    for (int n = STOPPED; n <= JOINED_IT; n++)
        page->event[n] = 0;
    REQUIRE_INT(pthread_create(&putting, NULL, put_late, &p), 0);
    WAIT_UNTIL(event_is_set(STOPPED) || event_is_set(PUT_ENDED), 20);
    bool stopped = event_is_set(STOPPED);
    REQUIRE_INT(pthread_create(&joining, NULL, drop_and_join, q), 0);
    /* Or for the latch, in which the put was stopped. */
    WAIT_UNTIL(event_is_set(JOINED_IT) || td__word_waiters(&q->finished) > 0 || td__word_waiters(&q->latch.word) > 0,
               20);
    event_set(GO_ON);
    pthread_join(putting, NULL);
    if (!CHECK(event_wait_for(JOINED_IT, 20))) {
        harness_note("    stopped at step %ld", step);
        td_queue_shutdown(q, true); /* wakes everybody */
    }
    pthread_join(joining, NULL);
    return stopped;
}

/* A put, stopped at each of its steps while the queue is dropped, and while somebody waits until nothing is left of it.
 * Catches: an item that is published after all have looked, of which nobody tells who waits. */
TEST(a_put_while_the_queue_is_dropped)
{
    for (size_t count = 1; count <= 2; count++)
        for (int kind = 0; kind < 2; kind++)
            for (int shared = 0; shared < 2; shared++)
                for (long step = 1; !harness_failed(); step += thrift()) {
                    td_queue *q = queue_of(kind, shared, 4);
                    bool stopped = dropped_at(q, count, step);
                    td_queue_free(q);
                    if (!stopped)
                        break;
                }
}
#endif

/* For a wait on several things: either there is something now, or the word changes when something comes. */
TEST(prepared)
{
    for (int kind = 0; kind < 3; kind++)
        for (int shared = 0; shared < 2; shared++) {
            td_queue *q = queue_of(kind, shared, 1);
            td__futex_item word;
            bool unsure = false;
            int x = 1;
            CHECK(!td__queue_prepare(q, &word, &unsure));
            CHECK_INT(td__load_relaxed(word.word), word.expected);
            CHECK_OK(td_queue_put(q, &x));
            CHECK(td__load_relaxed(word.word) != word.expected);
            CHECK(td__queue_prepare(q, &word, &unsure));
            CHECK_OK(td_queue_get(q, &x));
            CHECK(!td__queue_prepare(q, &word, &unsure));
            CHECK_OK(td_queue_shutdown(q, false));
            CHECK(td__load_relaxed(word.word) != word.expected);
            CHECK(td__queue_prepare(q, &word, &unsure));
            CHECK(!unsure);
            td_queue_free(q);
        }
}

/* --- forks --------------------------------------------------------------------------------------------------- */

/* A private queue is the child's own copy: with the items, and usable. */
TEST(private_in_a_forked_child)
{
    for (size_t capacity = 0; capacity < 8; capacity += 4) {
        td_queue *q = queue_of(TD_QUEUE_FIFO, false, capacity);
        int x = 5;
        CHECK_OK(td_queue_put(q, &x));
        pid_t pid = fork();
        if (pid == 0) {
            bool fine = td_queue_get(q, &x) == 0 && x == 5 && td_queue_try_get(q, &x) == TD_EEMPTY;
            for (x = 0; x < 3; x++)
                fine = fine && td_queue_put(q, &x) == 0;
            _exit(fine ? 0 : 1);
        }
        int status = -1;
        CHECK_INT(waitpid(pid, &status, 0), pid);
        CHECK_INT(status, 0);
        CHECK_INT(td_queue_qsize(q), 1);
        td_queue_free(q);
    }
}

/* What another thread was in the middle of when the process forked goes on in the parent, and not in the child. */
TEST(places_left_by_a_fork)
{
    for (int way = 0; way < 4; way++) {
        bool reading = way % 2, shut = way / 2;
        td_queue *q = queue_of(TD_QUEUE_FIFO, false, 2);
        int x;
        for (x = 0; x < 2; x++)
            CHECK_OK(td_queue_put(q, &x));
        /* As though a thread were just taking out the first, or putting it. */
        td__cell *cell = td__wheel_cell(&q->first, 0);
        td__store_relaxed(&cell->state, TD__OWNED_BY(td__queue_life) | (reading ? TD__READING : TD__WRITING));
        pid_t pid = fork();
        if (pid == 0) {
            bool fine = !shut || td_queue_shutdown(q, false) == 0, got[2] = { !reading, false };
            while (fine && !(got[0] && got[1])) {
                fine = td_queue_get_for(q, &x, td_s(20)) == 0 && !got[x];
                got[x] = true;
            }
            for (int i = 0; i < 2 && !shut; i++)
                fine = fine && td_queue_put_for(q, &i, td_s(20)) == 0;
            fine =
                fine && (shut ? td_queue_get_for(q, &x, td_s(20)) == TD_ECLOSED : td_queue_try_put(q, &x) == TD_EFULL);
            _exit(fine ? 0 : 1);
        }
        int status = -1;
        CHECK_INT(waitpid(pid, &status, 0), pid);
        CHECK_INT(status, 0);
        td_queue_free(q);
    }
}

/* --- who has slept for laps ------------------------------------------------------------------------------------ */

static void set_cell(td_queue *q, uint64_t index, uint64_t lap, uint64_t rest)
{
    td__store_relaxed(&td__wheel_cell(&q->first, index)->state, lap * TD__LAP | rest);
}

static uint64_t position_of(const td_queue *q, uint64_t lap, uint64_t index)
{
    return lap << q->first.shift | index;
}

/* A thread that was stopped with an old place for the next put finds cells in the middle of another's run, some
 * published and some not: it must not take one of them. */
TEST(an_old_place_for_a_put)
{
    td_queue *q = queue_of(TD_QUEUE_FIFO, false, 5);
    uint64_t mine = TD__OWNED_BY(td__queue_life);
    int x = 7;
    set_cell(q, 0, 2, TD__FULL);
    set_cell(q, 1, 2, TD__RUN_OF(3) | mine | TD__WRITING);
    set_cell(q, 2, 2, TD__FULL);
    set_cell(q, 3, 2, TD__EMPTY);
    set_cell(q, 4, 2, TD__EMPTY);
    for (uint64_t index = 0; index < 5; index++)
        for (uint64_t lap = 0; lap < 2; lap++) {
            td__store_relaxed(&q->first.head, position_of(q, 2, 0));
            td__store_relaxed(&q->first.tail, position_of(q, lap, index));
            set_cell(q, 4, 2, TD__EMPTY);
            CHECK_OK(td_queue_try_put(q, &x));
            CHECK(td__load_relaxed(&td__wheel_cell(&q->first, 3)->state) == 2 * TD__LAP);
            CHECK(td__load_relaxed(&td__wheel_cell(&q->first, 4)->state) == (2 * TD__LAP | TD__FULL));
        }
    td_queue_free(q);
}

/* The same for a get, while another gives his run back. */
TEST(an_old_place_for_a_get)
{
    td_queue *q = queue_of(TD_QUEUE_FIFO, false, 5);
    uint64_t mine = TD__OWNED_BY(td__queue_life);
    int x;
    for (uint64_t index = 0; index < 5; index++)
        for (uint64_t lap = 0; lap < 2; lap++) {
            set_cell(q, 0, 3, TD__EMPTY);
            set_cell(q, 1, 2, TD__RUN_OF(3) | mine | TD__READING);
            set_cell(q, 2, 3, TD__EMPTY);
            set_cell(q, 3, 2, TD__FULL);
            set_cell(q, 4, 2, TD__FULL);
            td__store_relaxed(&q->first.tail, position_of(q, 3, 0));
            td__store_relaxed(&q->first.head, position_of(q, lap, index));
            CHECK_OK(td_queue_try_get(q, &x));
            CHECK(td__load_relaxed(&td__wheel_cell(&q->first, 3)->state) == (2 * TD__LAP | TD__FULL));
            CHECK(td__load_relaxed(&td__wheel_cell(&q->first, 4)->state) == 3 * TD__LAP);
        }
    td_queue_free(q);
}

/* A put that was given up, ahead of an item that is still there. */
TEST(an_old_place_before_a_put_that_was_given_up)
{
    td_queue *q = queue_of(TD_QUEUE_FIFO, false, 2);
    int x = 7, y = 0;
    CHECK_OK(td_queue_put(q, &y));
    CHECK_OK(td_queue_put(q, &x));
    CHECK_OK(td_queue_get(q, &y));
    set_cell(q, 0, 2, TD__EMPTY); /* of lap 1 */
    td__store_relaxed(&q->first.head, 0);
    CHECK_OK(td_queue_try_get(q, &y));
    CHECK_INT(y, 7);
    CHECK_ERROR(td_queue_try_get(q, &y), TD_EEMPTY);
    for (x = 0; x < 6; x++) {
        CHECK_OK(td_queue_try_put(q, &x));
        CHECK_OK(td_queue_try_get(q, &y));
        CHECK_INT(y, x);
    }
    td_queue_free(q);
}

/* The forked child uses a shared queue together with its parent. */
TEST(shared_with_a_forked_child)
{
    td_queue *to = queue_of(TD_QUEUE_FIFO, true, 2), *from = queue_of(TD_QUEUE_FIFO, true, 2);
    pid_t pid = fork();
    int x = 0;
    if (pid == 0) {
        for (int i = 0; i < 1000; i++)
            if (td_queue_get_for(to, &x, td_s(20)) < 0 || td_queue_put_for(from, &x, td_s(20)) < 0)
                _exit(1);
        _exit(0);
    }
    for (int i = 0; i < 1000; i++) {
        CHECK_OK(td_queue_put_for(to, &i, td_s(20)));
        CHECK_OK(td_queue_get_for(from, &x, td_s(20)));
        CHECK_INT(x, i);
    }
    int status = -1;
    CHECK_INT(waitpid(pid, &status, 0), pid);
    CHECK_INT(status, 0);
}
