/* SPDX-License-Identifier: MIT */
/*
 * Sleepers hand items to each other, who come and go: also where the kernel refuses membarrier, which those who sleep
 * rely on, from the program's start, so that everybody does without; or later, by a sandbox, to some, who then look
 * again while they sleep.
 */
#include "ledger.h"
#include "refuse.h"
#include "queue/queue.h"
#include "sync/latch.h"

/* --- numbers handed around, through queues of one place -------------------------------------------------------- */

enum { STATIONS = 4, EACH = 2 };

typedef struct station {
    td_queue *from, *to;
    int rounds;
    bool refused;
} station;

static int hand_on(td_call *call)
{
    station at = td_arg(call, station);
    int x;
    if (at.refused)
        refuse_barriers(NULL);
    for (int i = 0; i < at.rounds; i++) {
        REQUIRE_OK(td_queue_get_for(at.from, &x, td_s(30 * SLOW)));
        REQUIRE_OK(td_queue_put_for(at.to, &x, td_s(30 * SLOW)));
        REQUIRE_OK(td_queue_task_done(at.from));
    }
    return harness_failed();
}

/* Of each station's two, the second one may be refused it. */
static void hand_around(const mode *how, int kind, bool shared, bool refused)
{
    td_queue *q[STATIONS];
    td_worker *w[STATIONS * EACH];
    for (int i = 0; i < STATIONS; i++)
        q[i] = queue_of(kind, shared, 1);
    for (int i = 0; i < STATIONS * EACH; i++) {
        station at = { q[i % STATIONS], q[(i + 1) % STATIONS], 300 / SLOW, refused && i >= STATIONS };
        w[i] = WORKER(NEW(.target = hand_on, .args = TD_VAL(at)));
        REQUIRE_OK(td_start(w[i]));
    }
    for (int x = 0; x < 2; x++)
        CHECK_OK(td_queue_put(q[x], &x));
    for (int i = 0; i < STATIONS * EACH; i++) {
        CHECK_OK(td_join(w[i]));
        CHECK_INT(td_result_code(w[i]), 0);
        td_free(w[i]);
    }
    for (int i = 0; i < STATIONS; i++) {
        int x;
        while (td_queue_try_get(q[i], &x) == 0)
            CHECK_OK(td_queue_task_done(q[i]));
        CHECK_OK(td_queue_join_for(q[i], td_s(10 * SLOW)));
        td_queue_free(q[i]);
    }
}

/* Catches: a wake-up that gets lost. */
TEST_MODES(handed_around)
{
    FOR_ALL_QUEUES
    hand_around(how, kind, shared, false);
}

HELPER(hands_around)
{
    test_handed_around(&mode_thread);
    test_handed_around(&mode_forkserver);
    test_handed_around(&mode_fork);
    CHECK(td__the_region->by_exchange && td__release_by_exchange);
    return harness_failed();
}

/* Catches: a kernel, or a sandbox, that has no membarrier from the beginning. */
TEST(barriers_refused)
{
    CHECK(!td__the_region->by_exchange);
    helper_options options = { .before = refuse_barriers };
    CHECK_INT(helper_run(&options, "hands_around", NULL), 0);
}

/* Catches: some that are refused it when all change queues by plain stores already. */
TEST_MODES(barriers_refused_later)
{
    FOR_ALL_QUEUES
    hand_around(how, kind, shared, true);
}

/* --- what a sleeper overlooks ---------------------------------------------------------------------------------- */

enum { GET, PUT, GET_MANY, PUT_MANY, JOIN, WAITS };

typedef struct sleeper {
    td_queue *queue;
    int what;
} sleeper;

static int sleep_refused(td_call *call)
{
    sleeper s = td_arg(call, sleeper);
    int some[2] = { 1, 2 };
    td_time limit = td_s(20 * SLOW);
    refuse_barriers(NULL);
    int64_t r = s.what == GET        ? td_queue_get_for(s.queue, some, limit)
                : s.what == PUT      ? td_queue_put_for(s.queue, some, limit)
                : s.what == GET_MANY ? td_queue_get_many_with(s.queue, some, 2, limit, NULL)
                : s.what == PUT_MANY ? td_queue_put_many_with(s.queue, some, 1, limit, NULL)
                                     : td_queue_join_for(s.queue, limit);
    return td_return(call, int, (int)r);
}

/* As if the processor of who changes the queue had looked for sleepers before its store was seen: the change comes
 * without a word to those who sleep. */
static void change_silently(td_queue *q, int what)
{
    td__cell *cell = td__wheel_cell(&q->first, 0);
    if (what == JOIN)
        td__fetch_add_seq_cst(&q->done, 1);
    else
        td__store_seq_cst(&cell->state, what == GET || what == GET_MANY ? TD__FULL : TD__LAP);
}

/* Catches: a sleeper that was refused its barrier and relies on being woken all the same. */
TEST_MODES(sleepers_look_again)
{
    for (int what = 0; what < WAITS; what++)
        for (int shared = how != &mode_thread; shared < 2; shared++) {
            td_queue *q = queue_of(TD_QUEUE_FIFO, shared, 1);
            int x = 5, result = -1;
            if (what == PUT || what == PUT_MANY || what == JOIN)
                REQUIRE_OK(td_queue_put(q, &x));
            if (what == JOIN)
                REQUIRE_OK(td_queue_get(q, &x));
            sleeper s = { q, what };
            td_worker *w = WORKER(NEW(.target = sleep_refused, .args = TD_VAL(s)));
            REQUIRE_OK(td_start(w));
            _Atomic uint32_t *word = what == JOIN                      ? &q->finished
                                     : what == GET || what == GET_MANY ? &q->items
                                                                       : &q->space;
            WAIT_UNTIL(td__word_waiters(word) == 1, 20);
            change_silently(q, what);
            CHECK_OK(td_join_for(w, td_s(30 * SLOW)));
            REQUIRE_OK(td_result(w, int, &result));
            CHECK_INT(result, what == GET_MANY || what == PUT_MANY);
            if (harness_failed())
                harness_note("    %d, shared %d", what, shared);
            td_free(w);
            td_queue_free(q);
        }
}
