/* SPDX-License-Identifier: MIT */
/*
 * Pipes whose users are killed at every step: of a sender, and of a receiver, of small and of large frames, also while
 * a frame is withdrawn. What arrives is whole and in order, without a gap but for the frame that a dead one had in its
 * hands; the end is seen; and the next one at either end goes on.
 */
#include "harness.h"
#include "filled.h"
#include "os/fault.h"

#include <signal.h>
#include <tandem/connection.h>

enum { FRAMES = 4, KIB = 1024 };
enum { CALLED = 1, STEPS = 2 }; /* numbers of the page: how many calls of the victim have returned */

/* One that fits into the ring as a whole, and one that goes around in it. */
static const size_t sizes[FRAMES] = { 100, 300 * KIB, 3072 * KIB + 5, 200 };
static const char mine[] = "the next one's";

/* Which of the frames is it, whole? -1: none. */
static int which(const void *data, size_t size)
{
    for (int i = 0; i < FRAMES; i++)
        if (size == sizes[i] && is_filled(data, size, (unsigned)i))
            return i;
    return -1;
}

static int send_frame(td_connection *c, int i, td_time limit)
{
    static unsigned char *bytes;
    if (!bytes)
        bytes = malloc(sizes[2]);
    REQUIRE(bytes != NULL);
    fill(bytes, sizes[i], (unsigned)i);
    return limit.ns == 0 ? td_send(c, bytes, sizes[i]) : td_send_for(c, bytes, sizes[i], limit);
}

/* true: it was killed. */
static bool end_victim(td_worker *w)
{
    CHECK_OK(td_join_for(w, td_s(20 * SLOW)));
    bool died = td_outcome(w) == TD_CRASHED;
    CHECK_INT(td_exitcode(w), died ? -SIGKILL : 0);
    return died;
}

/* --- the sender ------------------------------------------------------------------------------------------------ */

static int sends(td_call *call)
{
    td_connection *c = td_call_connection(call, 0);
    td__kill_at_step(td_arg(call, long));
    for (int i = 0; i < FRAMES; i++) {
        if (send_frame(c, i, TD_NO_LIMIT) < 0)
            return 1;
        page->number[CALLED]++;
    }
    td__kill_at_step(0);
    return 0;
}

/* Nobody receives until it has given up. */
static int withdraws(td_call *call)
{
    td_connection *c = td_call_connection(call, 0);
    td__kill_at_step(td_arg(call, long));
    for (int i = 1; i < 3; i++)
        if (send_frame(c, i, td_ms(1)) != TD_ETIMEOUT)
            return 1;
    td__kill_at_step(0);
    return 0;
}

typedef struct heir {
    td_worker *victim;
    td_connection *writer;
    bool died;
} heir;

/* Beside the receiver: sends what comes next, through the same end, when the victim has gone. */
static int goes_on(td_call *call)
{
    heir *h = (heir *)td_arg(call, uintptr_t);
    h->died = end_victim(h->victim);
    CHECK_OK(td_send(h->writer, mine, sizeof mine));
    td_connection_free(h->writer);
    return 0;
}

/* All that there is, until the end: how many of the victim's frames, from `first` on. */
static int receive_all(td_connection *r, int first, bool died)
{
    int got = first, torn = 0, own = 0, code;
    void *data;
    size_t size;
    while ((code = td_recv_for(r, &data, &size, td_s(20 * SLOW))) == 0 || code == TD_ETORN) {
        if (code == TD_ETORN) {
            CHECK(died && !own && torn++ == 0); /* the one that was under way */
            continue;
        }
        if (size == sizeof mine && memcmp(data, mine, size) == 0)
            CHECK(own++ == 0);
        else
            CHECK(!torn && !own && which(data, size) == got++);
        free(data);
    }
    CHECK_INT(code, TD_ECLOSED);
    CHECK_INT(own, 1);
    return got;
}

/* Catches: frames that are torn, out of order or missing; a receiver that waits for a dead sender; an end that is not
 * seen; a pipe that a death has made useless for the next sender. */
TEST_METHODS_LIMIT(the_sender_is_killed, 120)
{
    bool died = true;
    long step = 1;
    int torn_somewhere = 0;
    for (; died && !harness_failed(); step += thrift()) {
        heir h = { 0 };
        td_connection *r;
        page->number[CALLED] = 0;
        REQUIRE_OK(td_pipe(&r, &h.writer));
        h.victim = WORKER(NEW(.target = sends, .args = TD_ARG(long, step), .connections = TD_CONNECTIONS(h.writer)));
        REQUIRE_OK(td_start(h.victim));
        td_worker *next = WORKER(td_thread(.target = goes_on, .args = TD_ARG(uintptr_t, (uintptr_t)&h)));
        REQUIRE_OK(td_start(next));
        int got = receive_all(r, 0, true);
        CHECK_OK(td_join(next));
        died = h.died;
        CHECK(got >= page->number[CALLED] && got <= page->number[CALLED] + 1);
        CHECK(died || got == FRAMES);
        torn_somewhere += got < FRAMES;
        if (harness_failed())
            harness_note("    step %ld, %d frames", step, got);
        td_connection_free(r);
        td_free(next);
        td_free(h.victim);
    }
    harness_note("    %ld steps", step - 1);
    CHECK(step > 60 && torn_somewhere > 20 / thrift());
}

/* The same while it takes frames back that nobody wants: they are whole, if all of one had been offered, or not there.
 */
TEST_METHODS_LIMIT(the_sender_is_killed_while_it_withdraws, 120)
{
    bool died = true;
    long step = 1;
    for (; died && !harness_failed(); step += thrift()) {
        td_connection *r, *w;
        REQUIRE_OK(td_pipe(&r, &w));
        td_worker *victim =
            WORKER(NEW(.target = withdraws, .args = TD_ARG(long, step), .connections = TD_CONNECTIONS(w)));
        REQUIRE_OK(td_start(victim));
        died = end_victim(victim);
        CHECK_OK(td_send(w, mine, sizeof mine));
        td_connection_free(w);
        int got = receive_all(r, 1, died);
        CHECK(died ? got <= 2 : got == 1);
        if (harness_failed())
            harness_note("    step %ld, %d frames", step, got);
        td_connection_free(r);
        td_free(victim);
    }
    harness_note("    %ld steps", step - 1);
    CHECK(step > 20);
}

/* --- the receiver ---------------------------------------------------------------------------------------------- */

static int receives(td_call *call)
{
    td_connection *c = td_call_connection(call, 0);
    td__kill_at_step(td_arg(call, long));
    for (int i = 0; i < FRAMES; i++) {
        void *data;
        size_t size;
        if (td_recv(c, &data, &size) < 0)
            return 1;
        CHECK(which(data, size) == i);
        page->number[CALLED]++;
        free(data);
    }
    td__kill_at_step(0);
    return 0;
}

static int sends_all(td_call *call)
{
    td_connection *w = (td_connection *)td_arg(call, uintptr_t);
    for (int i = 0; i < FRAMES; i++)
        CHECK_OK(send_frame(w, i, td_s(20 * SLOW)));
    CHECK_OK(td_send(w, mine, sizeof mine));
    td_connection_free(w);
    return 0;
}

/* Catches: a frame that is delivered twice, or to nobody although its receiver had not said that it has it; a sender
 * that waits for a dead one; the next receiver in the middle of something. */
TEST_METHODS_LIMIT(the_receiver_is_killed, 120)
{
    bool died = true;
    long step = 1;
    int again = 0;
    for (; died && !harness_failed(); step += thrift()) {
        td_connection *r, *w;
        page->number[CALLED] = 0;
        REQUIRE_OK(td_pipe(&r, &w));
        td_worker *victim =
            WORKER(NEW(.target = receives, .args = TD_ARG(long, step), .connections = TD_CONNECTIONS(r)));
        REQUIRE_OK(td_start(victim));
        td_worker *sender = WORKER(td_thread(.target = sends_all, .args = TD_ARG(uintptr_t, (uintptr_t)w)));
        REQUIRE_OK(td_start(sender));
        died = end_victim(victim);
        /* One more may have been in its hands. */
        int had = (int)page->number[CALLED], first = had;
        void *data = NULL;
        size_t size = 0;
        REQUIRE_OK(td_recv_for(r, &data, &size, td_s(20 * SLOW)));
        if (size == sizeof mine && memcmp(data, mine, size) == 0) {
            CHECK(had >= FRAMES - 1);
        } else {
            first = which(data, size);
            CHECK(first == had || (died && first == had + 1));
            again += first == had && died;
            CHECK_INT(receive_all(r, first + 1, false), FRAMES);
        }
        free(data);
        CHECK_OK(td_join(sender));
        if (harness_failed())
            harness_note("    step %ld: had %d, then %d", step, had, first);
        td_connection_free(r);
        td_free(sender);
        td_free(victim);
    }
    harness_note("    %ld steps", step - 1);
    CHECK(step > 30 && again > 8 / thrift());
}
