/* SPDX-License-Identifier: MIT */
/*
 * Everything at once, in random order: several threads create, start, stop, join, ask and free workers of all kinds,
 * while workers and spawners are killed. What must hold: no hang, no crash, right results where there are results, and
 * nothing left at the end. The sequence depends on a seed that is printed.
 */
#include "harness.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

enum { LIVES = 8, THREADS = 4 };

static atomic_bool stop;
static atomic_long done, returned, crashed, cancelled, refused;
static bool violent; /* spawners are killed too */

static uint32_t next(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

struct work {
    uint32_t number;
    uint32_t way;
};

static int works(td_call *call)
{
    size_t size;
    const struct work *work = td_arg_bytes(call, &size);
    uint32_t number = work->number, way = work->way;
    switch (way % 8) {
    case 0:
        return (int)(number % 200 + 1);
    case 1:
        return td_fail(call, 7, "number %u", number);
    case 2:
        for (int i = 0; i < 20 && !td_cancelled(call); i++)
            pause_ms(1);
        return td_cancelled(call) ? td_fail(call, TD_ECANCELLED, "asked") : td_return(call, uint32_t, number);
    case 3:
        return td_return_bytes(call, work, size);
    default:
        return td_return(call, uint32_t, number);
    }
}

static int dies(td_call *call)
{
    const struct work *work = td_arg_bytes(call, 0);
    if (work->way & 1)
        raise(SIGKILL);
    _exit((int)(work->number % 100));
}

/* Sanitizers are not made ready for a fork among threads. */
static const mode *const modes[] = { &mode_thread, &mode_forkserver, &mode_forkserver,
                                     SANITIZED ? &mode_forkserver : &mode_fork };

static void life(uint32_t *random, unsigned char *block)
{
    const mode *how = modes[next(random) % 4];
    struct work work = { next(random), next(random) };
    size_t size = next(random) % 16 == 0 ? 200000 : sizeof work + next(random) % 3000;
    memset(block, (int)(work.number & 255), size);
    memcpy(block, &work, sizeof work);
    bool die = how->kind == TD_PROCESS && next(random) % 8 == 0;
    td_worker *w = WORKER(NEW(.target = die ? dies : works, .args = TD_BYTES(block, size),
                              .daemon = next(random) % 4 == 0 ? TD_DAEMON_YES : TD_DAEMON_NO));
    if (next(random) % 32 == 0) { /* never started */
        td_free(w);
        return;
    }
    int code = td_start(w);
    if (code < 0) {
        if (!violent)
            CHECK_OK(code);
        CHECK(td_last_message()[0]);
        atomic_fetch_add(&refused, 1);
        td_free(w);
        return;
    }
    uint32_t action = next(random) % 16;
    if (action == 0)
        CHECK_OK(td_terminate(w));
    else if (action == 1 && how->kind == TD_PROCESS)
        CHECK_OK(td_kill(w));
    else if (action == 2)
        CHECK_OK(td_interrupt(w));
    else if (action == 3)
        CHECK(td_sentinel(w) > 2);
    else if (action == 4)
        td_join_for(w, td_us(next(random) % 2000));
    else if (action == 5) { /* let go */
        td_free(w);
        return;
    } else if (action == 6) {
        td_worker *list[4];
        size_t n = td_enumerate(list, 4);
        for (size_t i = 0; i < n && i < 4; i++) {
            td_describe(list[i]);
            td_free(list[i]);
        }
    }
    if (!CHECK_OK(td_join_for(w, td_s(30)))) {
        harness_note("    %s", td_describe(w));
        _exit(1);
    }
    td_state state = td_outcome(w);
    if (state == TD_RETURNED) {
        CHECK(!die);
        uint32_t number = 0;
        size_t got;
        if (work.way % 8 == 3) {
            const void *result = td_result_bytes(w, &got);
            CHECK(result && got == size && memcmp(result, block, size) == 0);
        } else if (CHECK_OK(td_result(w, uint32_t, &number))) {
            CHECK_INT(number, work.number);
        }
        atomic_fetch_add(&returned, 1);
    } else if (state == TD_FAILED) {
        CHECK(td_result_code(w) == 7 || td_result_code(w) == (int)(work.number % 200 + 1));
    } else if (state == TD_CANCELLED) {
        CHECK(action < 3 || violent);
        atomic_fetch_add(&cancelled, 1);
    } else {
        CHECK_INT(state, TD_CRASHED);
        CHECK(die || violent);
        atomic_fetch_add(&crashed, 1);
    }
    td_free(w);
    atomic_fetch_add(&done, 1);
}

static void *lives(void *seed)
{
    uint32_t random = *(uint32_t *)seed;
    unsigned char *block = malloc(200000);
    REQUIRE(block != 0);
    while (!atomic_load(&stop))
        life(&random, block);
    free(block);
    return 0;
}

static void silent(const td_failure *failure)
{
    (void)failure;
}

static void run(double seconds, bool kill_spawners)
{
    int fds = count_fds();
    uint32_t seeds[THREADS], seed = (uint32_t)time(0) * 2654435761u ^ (uint32_t)getpid();
    harness_note("seed %u", seed);
    violent = kill_spawners;
    td_set_failure_hook(silent);
    pthread_t thread[THREADS];
    for (int i = 0; i < THREADS; i++) {
        seeds[i] = (seed + (uint32_t)i) | 1;
        REQUIRE(pthread_create(&thread[i], 0, lives, &seeds[i]) == 0);
    }
    static proc list[256];
    int kills = 0;
    for (double end = now() + seconds; now() < end;) {
        pause_ms(20);
        if (!kill_spawners)
            continue;
        int n = list_others(list, 256);
        for (int i = 0; i < n && i < 256; i++)
            if (strncmp(list[i].comm, "tandem-spawner", 14) == 0 && next(&seed) % 4 == 0)
                kills += kill(list[i].pid, SIGKILL) == 0;
    }
    atomic_store(&stop, true);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], 0);
    CHECK_OK(td_finish());
    CHECK_NOTHING_LEFT();
    CHECK_INT(count_fds(), fds);
    harness_note("%ld lives: %ld returned, %ld crashed, %ld cancelled, %ld refused; %d spawners killed", (long)done,
                 (long)returned, (long)crashed, (long)cancelled, (long)refused, kills);
    CHECK(!kill_spawners || kills > 0);
    CHECK(returned > 0 && crashed > 0 && cancelled > 0);
    CHECK(atomic_load(&done) > 10);
}

/* Catches: what only many things at once can show. */
TEST(everything_at_once)
{
    run(1.5, false);
}

TEST(everything_at_once_while_spawners_die)
{
    run(1.5, true);
}

TEST_LIMIT(full_everything_at_once, 300)
{
    run(60, false);
}

TEST_LIMIT(full_everything_at_once_while_spawners_die, 300)
{
    run(60, true);
}
