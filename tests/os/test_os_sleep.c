/* SPDX-License-Identifier: MIT */
/* Clock, deadlines, sleeping on one word and on many, waiting for descriptors: at their borders. */
#include "borders.h"

#include <sys/mman.h>
#include <sys/socket.h>

#define MS INT64_C(1000000)

static const td_time no_limit;

/* --- deadlines -------------------------------------------------------------------------------------------------- */

/* Catches: a clock that is 0, which is "no deadline"; one that goes back. */
TEST(the_clock_is_never_zero_nor_goes_back)
{
    int64_t last = 0;
    for (int i = 0; i < 100000; i++) {
        int64_t t = td__now();
        if (!CHECK(t > 0 && t >= last))
            return;
        last = t;
    }
}

/* Catches: a limit that wraps round into the past, or into "none". */
TEST(deadlines_saturate)
{
    CHECK_INT(td__deadline(no_limit), 0);
    CHECK_INT(td__deadline((td_time){ -1 }), 1);
    CHECK_INT(td__deadline((td_time){ INT64_MIN }), 1);
    CHECK_INT(td__deadline((td_time){ INT64_MAX }), INT64_MAX);
    CHECK_INT(td__deadline((td_time){ INT64_MAX - 1 }), INT64_MAX);
    int64_t before = td__now();
    int64_t soon = td__deadline((td_time){ 1 });
    CHECK(soon > before && soon <= td__now() + 1);
    /* As far from the end of time as now is from its beginning: it may just fit. */
    int64_t last = td__deadline((td_time){ INT64_MAX - td__now() });
    CHECK(last == INT64_MAX);
    last = td__deadline((td_time){ INT64_MAX - td__now() - 1000 * 1000000000LL });
    CHECK(last < INT64_MAX && last > before);
}

/* --- one word --------------------------------------------------------------------------------------------------- */

static _Atomic uint32_t word, other;

static const bool sharing[] = { false, true };

/* Catches: a sleep on a word that has changed; one beyond its deadline, or without end where that has passed. */
TEST(words_at_the_borders_of_deadlines)
{
    for (int i = 0; i < 2; i++) {
        bool shared = sharing[i];
        word = 7;
        CHECK_FAILS(td__futex_wait(&word, 8, 0, shared), EAGAIN);
        CHECK_FAILS(td__futex_wait(&word, 8, 1, shared), EAGAIN);
        CHECK_FAILS(td__futex_wait(&word, 8, INT64_MAX, shared), EAGAIN);
        CHECK_FAILS(td__futex_wait(&word, 7, 1, shared), ETIMEDOUT);
        int64_t deadline = td__now() + 5 * MS;
        CHECK_FAILS(td__futex_wait(&word, 7, deadline, shared), ETIMEDOUT);
        CHECK(td__now() >= deadline);
        word = UINT32_MAX;
        CHECK_FAILS(td__futex_wait(&word, UINT32_MAX, 1, shared), ETIMEDOUT);
        CHECK_FAILS(td__futex_wait(&word, 0, 1, shared), EAGAIN);
    }
}

typedef struct sleeper {
    pthread_t thread;
    int64_t deadline;
    bool shared;
    _Atomic uint32_t *on;
} sleeper;

static atomic_int woken, asleep;

static void *sleep_on_word(void *context)
{
    sleeper *s = context;
    atomic_fetch_add(&asleep, 1);
    while (atomic_load(s->on) == 0)
        td__futex_wait(s->on, 0, s->deadline, s->shared);
    atomic_fetch_add(&woken, 1);
    return NULL;
}

/* Sleepers without a deadline and with the last one there is. Catches: a huge time that the kernel takes for none, or
 * refuses; a wake-up of too few. */
TEST(sleepers_are_woken)
{
    for (int i = 0; i < 4; i++) {
        sleeper s[3];
        word = 0;
        atomic_store(&woken, 0);
        atomic_store(&asleep, 0);
        for (int n = 0; n < 3; n++) {
            s[n] = (sleeper){ .deadline = i & 1 ? INT64_MAX : 0, .shared = sharing[i / 2], .on = &word };
            REQUIRE(pthread_create(&s[n].thread, NULL, sleep_on_word, &s[n]) == 0);
        }
        WAIT_UNTIL(atomic_load(&asleep) == 3, 10);
        CHECK(td__futex_wake(&word, 0, s[0].shared) >= 0); /* whatever that does, they look again */
        CHECK_INT(atomic_load(&woken), 0);
        /* One at a time, each of whom is counted, until all have been asleep and have been met. */
        int met = 0;
        for (double end = now() + 10 * SLOW; met < 3 && now() < end; pause_ms(1))
            met += td__futex_wake(&word, 1, s[0].shared) == 1;
        CHECK_INT(met, 3);
        CHECK_INT(atomic_load(&woken), 0);
        word = 1;
        td__futex_wake(&word, INT_MAX, s[0].shared);
        for (int n = 0; n < 3; n++)
            pthread_join(s[n].thread, NULL);
        CHECK_INT(atomic_load(&woken), 3);
        CHECK_INT(td__futex_wake(&word, INT_MAX, s[0].shared), 0);
    }
}

/* A word that has two addresses. Catches: a shared wait that is keyed by its address. */
TEST(shared_words_are_met_at_any_address)
{
    int fd = td__memory_file("word", 4096);
    REQUIRE(fd >= 0);
    _Atomic uint32_t *one = td__map_shared(fd, 0, 4096), *two = td__map_shared(fd, 0, 4096);
    REQUIRE(one && two && one != two);
    sleeper s = { .shared = true, .on = one };
    REQUIRE(pthread_create(&s.thread, NULL, sleep_on_word, &s) == 0);
    int met = 0;
    for (double end = now() + 10 * SLOW; met == 0 && now() < end; pause_ms(1))
        met = td__futex_wake(two, 1, true);
    CHECK_INT(met, 1);
    atomic_store(two, 1);
    td__futex_wake(two, 1, true);
    pthread_join(s.thread, NULL);
    td__unmap(one, 4096);
    td__unmap(two, 4096);
    close(fd);
}

/* Memory may be gone by the time of the wake-up. Catches: a crash, or a number of sleepers that were none. */
TEST(wake_ups_for_memory_that_is_gone)
{
    _Atomic uint32_t *gone = td__map_private(4096);
    REQUIRE(gone != NULL);
    td__unmap(gone, 4096);
    CHECK(td__futex_wake(gone, INT_MAX, false) <= 0);
    CHECK(td__futex_wake(gone, INT_MAX, true) <= 0);
}

/* Catches: a wait that swallows signals for ever, so that its caller cannot look at what they have set. */
TEST(signals_end_a_sleep)
{
    pest p;
    pest_start(&p);
    word = 0;
    CHECK_FAILS(td__futex_wait(&word, 0, 0, false), EINTR);
    CHECK_FAILS(td__futex_wait(&word, 0, INT64_MAX, true), EINTR);
    td__futex_item item = { &word, 0, false };
    int r = td__futex_wait_many(&item, 1, 0);
    CHECK(r == -1 && (errno == EINTR || errno == ENOSYS));
    pest_stop(&p);
    CHECK(atomic_load(&p.sent) >= 2);
}

/* Catches: a caller in a loop that takes a whole CPU and hangs for ever, or takes an unknown error for a wake-up. */
TEST(a_kernel_that_refuses_to_sleep)
{
    word = 0;
    refuse(SYS_futex, EPERM);
    CHECK_FAILS(td__futex_wait(&word, 0, 0, false), EAGAIN);
    CHECK_FAILS(td__futex_wait(&word, 0, INT64_MAX, true), EAGAIN);
    CHECK(td__futex_wake(&word, 1, false) <= 0);
    end_here();
}

/* --- many words ------------------------------------------------------------------------------------------------- */

static bool has_waitv(void)
{
    td__futex_item item = { &other, 1, false };
    other = 0;
    return td__futex_wait_many(&item, 1, 1) < 0 && errno != ENOSYS;
}

static _Atomic uint32_t words[TD__FUTEX_MANY];

static void *wake_last(void *unused)
{
    (void)unused;
    while (atomic_load(&words[TD__FUTEX_MANY - 1]) == 0) {
        if (td__futex_wake(&words[TD__FUTEX_MANY - 1], 1, true) == 1)
            return NULL;
        pause_ms(1);
    }
    return NULL;
}

TEST(many_words)
{
    if (!has_waitv())
        SKIP("this kernel has no futex_waitv");
    td__futex_item items[TD__FUTEX_MANY];
    for (int i = 0; i < TD__FUTEX_MANY; i++)
        items[i] = (td__futex_item){ &words[i], 0, i & 1 };
    for (size_t n = 1; n <= TD__FUTEX_MANY; n += n < 3 ? 1 : 25) {
        CHECK_FAILS(td__futex_wait_many(items, n, 1), ETIMEDOUT);
        items[n - 1].expected = 3;
        CHECK_FAILS(td__futex_wait_many(items, n, 0), EAGAIN);
        CHECK_FAILS(td__futex_wait_many(items, n, 1), EAGAIN);
        items[n - 1].expected = 0;
    }
    int64_t deadline = td__now() + 5 * MS;
    CHECK_FAILS(td__futex_wait_many(items, TD__FUTEX_MANY, deadline), ETIMEDOUT);
    CHECK(td__now() >= deadline);
    /* All there may be, and the last one is woken; without a deadline and with the last there is. */
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        REQUIRE(pthread_create(&thread, NULL, wake_last, NULL) == 0);
        CHECK_INT(td__futex_wait_many(items, TD__FUTEX_MANY, i ? INT64_MAX : 0), 0);
        pthread_join(thread, NULL);
    }
}

/* Catches: an error that callers do not know, and would take for a wake-up, for ever. */
TEST(many_words_refused)
{
    td__futex_item item = { &word, 0, false };
    refuse(449, EPERM);
    CHECK_FAILS(td__futex_wait_many(&item, 1, 0), ENOSYS);
    CHECK_FAILS(td__futex_wait_many(&item, 1, INT64_MAX), ENOSYS);
}

TEST(sleeps_that_are_made_to_fail)
{
    td__futex_item item = { &word, 0, false };
    word = 0;
    WITH_FAULT(CHECK_FAILS(td__futex_wait(&word, 0, 0, false), EINTR));
    WITH_FAULT(CHECK_FAILS(td__futex_wait_many(&item, 1, 0), ENOSYS));
    CHECK_FAILS(td__futex_wait(&word, 0, 1, false), ETIMEDOUT);
}

/* --- descriptors ------------------------------------------------------------------------------------------------ */

/* Catches: a poll of many on a stack that has room for few; flags of descriptors that were skipped. */
TEST(polls_of_any_number)
{
    static const size_t counts[] = { 0, 1, 2, 7, 8, 9, 100, TD__POLL_MAX };
    static int fds[TD__POLL_MAX + 1];
    static bool ready[TD__POLL_MAX + 1];
    int quiet[2], full = td__event_fd(1);
    REQUIRE(td__pipe(quiet) == 0 && full >= 0);
    for (size_t i = 0; i < TD__COUNT(counts); i++) {
        size_t n = counts[i];
        for (size_t at = 0; at <= TD__POLL_MAX; at++) {
            fds[at] = at % 2 ? quiet[0] : -1;
            ready[at] = true;
        }
        CHECK_INT(td__poll(fds, ready, n, 1), 0);
        for (size_t at = 0; at < n; at++)
            if (!CHECK(!ready[at]))
                break;
        CHECK(ready[n]); /* beyond: not touched */
        if (n == 0)
            continue;
        fds[n - 1] = full;
        CHECK_INT(td__poll(fds, ready, n, n % 2 ? 0 : INT64_MAX), 1);
        CHECK(ready[n - 1]);
        CHECK(n == 1 || !ready[n - 2]);
    }
    CHECK_FAILS(td__poll(fds, ready, TD__POLL_MAX + 1, 1), EINVAL);
    /* What is no descriptor is ready: who waits for it would wait for ever. */
    int closed = td__event_fd(0);
    close(closed);
    CHECK_INT(td__poll(&closed, ready, 1, 0), 1);
    CHECK(ready[0]);
    close(quiet[1]);
    CHECK_INT(td__poll(quiet, ready, 1, 0), 1); /* hung up */
}

/* More than the process may have descriptors: the kernel refuses. Catches: flags left from the last time. */
TEST(polls_that_the_kernel_refuses)
{
    int fds[20];
    bool ready[20];
    for (int i = 0; i < 20; i++) {
        fds[i] = -1;
        ready[i] = true;
    }
    no_more_descriptors(10);
    CHECK_FAILS(td__poll(fds, ready, 20, 0), EINVAL);
    for (int i = 0; i < 20; i++)
        CHECK(!ready[i]);
}

static int late_pipe[2];
static void *write_late(void *context)
{
    await_signals(context, 5);
    REQUIRE(write(late_pipe[1], "x", 1) == 1);
    return NULL;
}

/* Catches: a wait that ends at the first signal, or begins anew with each, and so never ends. */
TEST(signals_do_not_end_a_poll)
{
    pest p;
    bool ready;
    char byte;
    REQUIRE(td__pipe(late_pipe) == 0);
    for (int way = 0; way < 3; way++) {
        pest_start(&p);
        pthread_t thread = beside_pest(&p, write_late);
        if (way == 0)
            CHECK_INT(td__poll(late_pipe, &ready, 1, 0), 1);
        else
            CHECK_INT(td__wait_ready(late_pipe[0], false, way == 1 ? 0 : INT64_MAX), 1);
        int64_t deadline = td__now() + 20 * MS;
        REQUIRE(read(late_pipe[0], &byte, 1) == 1);
        CHECK_INT(way == 0 ? td__poll(late_pipe, &ready, 1, deadline) : td__wait_ready(late_pipe[0], false, deadline),
                  0);
        CHECK(td__now() >= deadline);
        pest_stop(&p);
        pthread_join(thread, NULL);
    }
}

TEST(waits_for_one_descriptor)
{
    int pair[2];
    char block[4096] = { 0 };
    REQUIRE(td__stream_pair(pair) == 0);
    CHECK_INT(td__wait_ready(pair[0], false, 1), 0);
    CHECK_INT(td__wait_ready(pair[0], true, 1), 1);
    CHECK_INT(td__wait_ready(pair[0], true, 0), 1);
    while (td__stream_send(pair[0], block, sizeof block) == 0)
        ;
    CHECK_INT(errno, EAGAIN);
    CHECK_INT(td__wait_ready(pair[0], true, 1), 0);
    CHECK_INT(td__wait_ready(pair[1], false, INT64_MAX), 1);
    close(pair[1]);
    CHECK_INT(td__wait_ready(pair[0], true, 0), 1);  /* hung up */
    CHECK_INT(td__wait_ready(pair[1], false, 0), 1); /* no descriptor: not for ever */
}
