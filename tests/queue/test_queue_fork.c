/* SPDX-License-Identifier: MIT */
/*
 * Private queues in a forked child, while other threads of the parent are in the middle of puts and gets: stopped at
 * every step of each operation, and at random. The child has what was there, whole, and its queue works.
 */
#include "ledger.h"
#include "os/fault.h"
#include "queue/queue.h"

#include <sched.h>
#include <sys/wait.h>
#include <tandem.h>

enum { BEFORE = 1, OTHER = 2, AFTER = 3, PRODUCERS = 4 }; /* who puts an item */
#define NUMBERS 200
#define BIG     1000 /* of items of any size: not in the cell */

/* --- operations ---------------------------------------------------------------------------------------------- */

static td_queue *queue; /* a private one, for threads, and for the children of forks */
static item hand[3];

static int put_one(const item *i)
{
    char bytes[BIG];
    if (!queue->any_size)
        return td_queue_put_for(queue, i, td_s(20));
    memset(bytes, (int)i->number + 1, BIG);
    memcpy(bytes, i, sizeof *i);
    return td_queue_put_bytes_with(queue, bytes, BIG, td_s(20), NULL);
}

static int get_one(item *i)
{
    char bytes[BIG];
    size_t size = 0;
    if (!queue->any_size)
        return td_queue_try_get(queue, i);
    int r = td_queue_try_get_bytes(queue, bytes, BIG, &size);
    for (size_t at = sizeof *i; r == 0 && at < BIG; at++)
        CHECK_INT(bytes[at], bytes[BIG - 1]);
    memcpy(i, bytes, sizeof *i);
    return r;
}

static int act_put(void)
{
    item i = item_make(OTHER, 0);
    return put_one(&i);
}

static int act_get(void)
{
    return get_one(hand);
}

static int act_put_many(void)
{
    item some[3] = { item_make(OTHER, 0), item_make(OTHER, 1), item_make(OTHER, 2) };
    return td_queue_put_many(queue, some, 3) == 3 ? 0 : -1;
}

static int act_get_many(void)
{
    return td_queue_get_many(queue, hand, 3) == 3 ? 0 : -1;
}

static int act_shutdown(void)
{
    return td_queue_shutdown(queue, true);
}

typedef struct scene {
    td_queue_options options;
    int before; /* items in the queue when the other thread comes */
    int (*act)(void);
    int puts, gets; /* of the other thread */
    int turned;     /* so many items have gone through before */
} scene;

#define ITEMS .struct_size = sizeof(td_queue_options), .item_size = sizeof(item), .joinable = true
#define BYTES .struct_size = sizeof(td_queue_options), .item_size = BIG, .joinable = true, .any_size = true
#define LIFO  .kind = TD_QUEUE_LIFO
#define SORTED \
    .kind = TD_QUEUE_PRIORITY, .priority = { offsetof(item, filling) + 8, sizeof(uint64_t), TD_KIND_UNSIGNED }

static const scene put_fifo = { { ITEMS, .capacity = 5 }, 1, act_put, .puts = 1 },
                   get_fifo = { { ITEMS, .capacity = 5 }, 3, act_get, .gets = 1 },
                   put_many_fifo = { { ITEMS, .capacity = 5 }, 1, act_put_many, .puts = 3, .turned = 3 },
                   get_many_fifo = { { ITEMS, .capacity = 5 }, 4, act_get_many, .gets = 3, .turned = 3 },
                   put_growing = { { ITEMS }, 64, act_put, .puts = 1 },
                   put_many_growing = { { ITEMS }, 62, act_put_many, .puts = 3 },
                   get_grown = { { ITEMS }, 66, act_get, .gets = 1 },
                   put_bytes = { { BYTES, .capacity = 5 }, 1, act_put, .puts = 1, .turned = 4 },
                   get_bytes = { { BYTES, .capacity = 5 }, 3, act_get, .gets = 1 },
                   put_lifo = { { ITEMS, LIFO, .capacity = 5 }, 3, act_put, .puts = 1 },
                   put_first_lifo = { { ITEMS, LIFO }, 0, act_put, .puts = 1 },
                   put_lifo_growing = { { ITEMS, LIFO }, 64, act_put, .puts = 1 },
                   get_lifo = { { ITEMS, LIFO }, 3, act_get, .gets = 1 },
                   get_many_lifo = { { ITEMS, LIFO, .capacity = 5 }, 4, act_get_many, .gets = 3 },
                   put_sorted = { { ITEMS, SORTED }, 40, act_put, .puts = 1 },
                   put_sorted_growing = { { ITEMS, SORTED }, 64, act_put, .puts = 1 },
                   get_sorted = { { ITEMS, SORTED }, 40, act_get, .gets = 1 },
                   get_last_sorted = { { ITEMS, SORTED }, 1, act_get, .gets = 1 },
                   shutdown_fifo = { { ITEMS, .capacity = 5 }, 3, act_shutdown, .gets = 3 },
                   shutdown_lifo = { { ITEMS, LIFO }, 3, act_shutdown, .gets = 3 },
                   shutdown_sorted = { { ITEMS, SORTED }, 3, act_shutdown, .gets = 3 };

static uint64_t priority_of(const item *i)
{
    return i->filling[1];
}

/* --- looking at a copy --------------------------------------------------------------------------------------- */

/* What came out, how often, and in which place. */
typedef struct account {
    int times[PRODUCERS][NUMBERS], places;
    item last;
} account;

static bool in_order(const item *former, const item *next)
{
    if (queue->kind == TD_QUEUE_PRIORITY)
        return priority_of(former) <= priority_of(next);
    if (queue->kind == TD_QUEUE_LIFO)
        return former->producer != next->producer || former->number > next->number;
    return former->producer != next->producer || former->number < next->number;
}

static void drain(account *a)
{
    item i;
    int r;
    while ((r = get_one(&i)) == 0 && a->places < PRODUCERS * NUMBERS) {
        if (!CHECK(item_whole(&i)) || !CHECK(i.producer < PRODUCERS && i.number < NUMBERS))
            return;
        if (a->places > 0)
            CHECK(in_order(&a->last, &i));
        a->last = i;
        a->places++;
        CHECK_INT(++a->times[i.producer][i.number], 1);
    }
    CHECK(r == TD_EEMPTY || r == TD_ECLOSED);
}

static void works(void)
{
    int count = queue->capacity ? (int)queue->capacity : NUMBERS;
    for (int round = 0; round < 3; round++) {
        account a = { { { 0 } }, 0, { .number = 0 } };
        for (int n = 0; n < count; n++) {
            item i = item_make(AFTER, (uint32_t)n);
            CHECK_OK(put_one(&i));
        }
        CHECK_INT(td_queue_qsize(queue), count);
        drain(&a);
        CHECK_INT(a.places, count);
        for (int n = 0; n < count; n++)
            CHECK_OK(td_queue_task_done(queue));
    }
}

/* How much of what the other thread was to do has taken effect. */
static int effect_of(const scene *s, const account *a)
{
    int put = 0, got = s->before;
    for (int n = 0; n < NUMBERS; n++) {
        got -= a->times[BEFORE][n];
        if (a->times[OTHER][n])
            CHECK_INT(n, put++); /* in its order, without gaps */
    }
    CHECK(put <= s->puts && got >= 0 && got <= s->gets);
    return put + got;
}

/* Joined, with as many left undone as have been got, as who got them is to say that they are done. */
static void joins(int undone)
{
    for (int i = 0; i < undone; i++)
        CHECK_OK(td_queue_task_done(queue));
    CHECK_OK(td_queue_join_for(queue, td_s(10 * SLOW)));
    CHECK_ERROR(td_queue_task_done(queue), TD_ESTATE);
}

static int look(const scene *s)
{
    account a = { { { 0 } }, 0, { .number = 0 } };
    bool shut = s->act == act_shutdown;
    if (s->before == 0 && td_queue_empty(queue)) /* with nothing to get, and nothing put */
        CHECK_OK(td_queue_join_for(queue, td_s(10 * SLOW)));
    drain(&a);
    int effect = effect_of(s, &a);
    bool dropped = td_queue_is_shutdown(queue);
    joins(a.places + (s->gets && !shut ? effect : 0));
    if (!dropped)
        works();
    td_queue_free(queue);
    return effect;
}

/* --- at every step ------------------------------------------------------------------------------------------- */

enum { ARRIVED = 1, GO = 2 };
static long stop_at;
static _Atomic uint32_t rounds; /* how often the other thread has been let go */
static _Atomic bool stopped;

static void stop(void)
{
    stopped = true;
    event_add(ARRIVED);
    event_wait_count(GO, rounds + 1);
}

static const scene *now_on;

static int other(td_call *call)
{
    (void)call;
    REQUIRE(td__party_self() != NULL);
    td__call_at_step(stop_at, stop);
    int r = now_on->act();
    td__call_at_step(0, NULL);
    if (!stopped)
        event_add(ARRIVED);
    return r;
}

/* Seconds, after which a child that is blocked is ended. */
#define CHILD_LIMIT (20 * SLOW)

static void ended_well(pid_t pid)
{
    int status = -1;
    CHECK(pid > 0);
    CHECK_INT(waitpid(pid, &status, 0), pid);
    REQUIRE_INT(status, 0);
}

/* The child's own child first, which has it from the one that is not there either. */
static _Noreturn void be_child(const scene *s, int *effect)
{
    alarm(CHILD_LIMIT);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(CHILD_LIMIT);
        look(s);
        _exit(harness_failed());
    }
    ended_well(pid);
    int was = *effect, is = look(s);
    if (s->act != act_shutdown)
        CHECK(is >= was); /* what had happened at an earlier step has happened at a later one */
    td__store_relaxed(&page->number[0], is);
    _exit(harness_failed());
}

static void set_scene(const scene *s)
{
    now_on = s;
    queue = td_queue_create(&s->options);
    REQUIRE(queue != NULL);
    for (int i = 0; i < s->turned; i++) {
        item turned = item_make(AFTER, (uint32_t)i);
        REQUIRE_OK(put_one(&turned));
        REQUIRE_OK(get_one(&turned));
        REQUIRE_OK(td_queue_task_done(queue));
    }
    for (int i = 0; i < s->before; i++) {
        item before = item_make(BEFORE, (uint32_t)i);
        REQUIRE_OK(put_one(&before));
    }
}

/* Returns whether the other thread has been stopped. */
static bool fork_at(const scene *s, long step, int *effect)
{
    set_scene(s);
    stop_at = step;
    stopped = false;
    td_worker *w = WORKER(td_thread(.target = other));
    REQUIRE_OK(td_start(w));
    event_wait_count(ARRIVED, (uint32_t)step);
    bool was_stopped = stopped;
    pid_t pid = fork();
    if (pid == 0)
        be_child(s, effect);
    ended_well(pid);
    *effect = (int)td__load_relaxed(&page->number[0]);
    event_add(GO);
    rounds++;
    CHECK_OK(td_join_for(w, td_s(20 * SLOW)));
    CHECK_INT(td_result_code(w), 0);
    td_free(w);
    CHECK_INT(look(s), s->puts + s->gets);
    return was_stopped;
}

static void fork_at_every_step(const scene *s)
{
    int effect = 0;
    long step = 1;
    while (fork_at(s, step, &effect) && !harness_failed())
        step++;
    CHECK(step > 2); /* it has been stopped somewhere */
    if (s->act != act_shutdown)
        CHECK_INT(effect, s->puts + s->gets);
    harness_note("%ld steps", step - 1);
}

#define AT_EVERY_STEP(scene)           \
    TEST_LIMIT(forked_in_##scene, 120) \
    {                                  \
        fork_at_every_step(&scene);    \
    }

AT_EVERY_STEP(put_fifo)
AT_EVERY_STEP(get_fifo)
AT_EVERY_STEP(put_many_fifo)
AT_EVERY_STEP(get_many_fifo)
AT_EVERY_STEP(put_growing)
AT_EVERY_STEP(put_many_growing)
AT_EVERY_STEP(get_grown)
AT_EVERY_STEP(put_bytes)
AT_EVERY_STEP(get_bytes)
AT_EVERY_STEP(put_lifo)
AT_EVERY_STEP(put_first_lifo)
AT_EVERY_STEP(put_lifo_growing)
AT_EVERY_STEP(get_lifo)
AT_EVERY_STEP(get_many_lifo)
AT_EVERY_STEP(put_sorted)
AT_EVERY_STEP(put_sorted_growing)
AT_EVERY_STEP(get_sorted)
AT_EVERY_STEP(get_last_sorted)
AT_EVERY_STEP(shutdown_fifo)
AT_EVERY_STEP(shutdown_lifo)
AT_EVERY_STEP(shutdown_sorted)

/* --- at random ----------------------------------------------------------------------------------------------- */

#define THREADS 3
#define TOKENS  48
#define BATCH   4
#define FORKS   100

static _Atomic bool enough;
static td_worker *threads[THREADS];

static void start_all(td_target *target)
{
    enough = false;
    for (int i = 0; i < THREADS; i++) {
        threads[i] = WORKER(td_thread(.target = target, .args = TD_VAL(i)));
        REQUIRE_OK(td_start(threads[i]));
    }
}

static void end_all(void)
{
    enough = true;
    for (int i = 0; i < THREADS; i++) {
        CHECK_OK(td_join_for(threads[i], td_s(20 * SLOW)));
        CHECK_INT(td_result_code(threads[i]), 0);
        td_free(threads[i]);
    }
}

/* Takes tokens out, one or several, and puts them back. */
static int passes_tokens(td_call *call)
{
    uint32_t state = (uint32_t)td_arg(call, int) + 1;
    while (!enough) {
        item some[BATCH];
        state = state * 1664525u + 1013904223u;
        size_t count = state >> 28 & 1 ? 1 : 1 + (state >> 29) % BATCH;
        int64_t got = td_queue_get_many_with(queue, some, count, td_s(20 * SLOW), NULL);
        if (got < 1 || td_queue_put_many_with(queue, some, (size_t)got, td_s(20 * SLOW), NULL) != got)
            return -1;
    }
    return 0;
}

/* All are there but for those that were in the hands of threads that are not here. */
static int tokens_in_order(item *tokens, bool strict)
{
    bool seen[TOKENS] = { false };
    int count = 0;
    while (count < TOKENS && td_queue_try_get(queue, &tokens[count]) == 0) {
        const item *i = &tokens[count];
        if (!CHECK(item_whole(i)) || !CHECK(i->number < TOKENS) || !CHECK(!seen[i->number]))
            return count;
        seen[i->number] = true;
        if (strict && count > 0)
            CHECK(in_order(&tokens[count - 1], i));
        count++;
    }
    CHECK_INT(td_queue_try_get(queue, &(item){ 0 }), TD_EEMPTY);
    return count;
}

static int passes_some(td_call *call)
{
    for (uint32_t i = 0; i < 200; i++) {
        item token;
        if (td_queue_get_for(queue, &token, td_s(20 * SLOW)) < 0 || !item_whole(&token) ||
            td_queue_put_for(queue, &token, td_s(20 * SLOW)) < 0)
            return -1;
    }
    (void)call;
    return 0;
}

/* A copy of the queue of tokens. Several threads meet it at the same time, every other time. */
static void look_at_tokens(bool by_many)
{
    item tokens[TOKENS + 1];
    if (by_many && !WITH_TSAN) {
        start_all(passes_some);
        end_all();
    }
    int count = tokens_in_order(tokens, !by_many && queue->kind == TD_QUEUE_PRIORITY);
    CHECK_IN(count, TOKENS - THREADS * BATCH, TOKENS);
    for (uint32_t i = 0; i < TOKENS; i++) {
        item token = item_make(BEFORE, i);
        CHECK_OK(td_queue_put_for(queue, &token, td_s(20 * SLOW)));
    }
    CHECK_INT(td_queue_try_put(queue, tokens), TD_EFULL);
    CHECK_INT(tokens_in_order(tokens, true), TOKENS);
    CHECK_OK(td_queue_shutdown(queue, false));
    td_queue_free(queue);
}

static void queue_of_tokens(int kind)
{
    queue = QUEUE(.item_size = sizeof(item), .capacity = TOKENS, .kind = (td_queue_kind)kind,
                  .priority = kind == TD_QUEUE_PRIORITY ? put_sorted.options.priority : (td_priority){ 0 });
    for (uint32_t i = 0; i < TOKENS; i++) {
        item token = item_make(BEFORE, i);
        REQUIRE_OK(td_queue_put(queue, &token));
    }
}

static void forks_among_tokens(int kind)
{
    queue_of_tokens(kind);
    start_all(passes_tokens);
    for (int i = 0; i < FORKS && !harness_failed(); i++) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(CHILD_LIMIT);
            pid = i % 4 == 3 ? fork() : 0;
            if (pid == 0)
                look_at_tokens(i % 2);
            else
                ended_well(pid);
            _exit(harness_failed());
        }
        ended_well(pid);
    }
    end_all();
    item tokens[TOKENS + 1];
    CHECK_INT(tokens_in_order(tokens, queue->kind == TD_QUEUE_PRIORITY), TOKENS);
    td_queue_free(queue);
}

TEST(forked_among_gets_and_puts_fifo)
{
    forks_among_tokens(TD_QUEUE_FIFO);
}

TEST(forked_among_gets_and_puts_lifo)
{
    forks_among_tokens(TD_QUEUE_LIFO);
}

TEST(forked_among_gets_and_puts_sorted)
{
    forks_among_tokens(TD_QUEUE_PRIORITY);
}

static int looks_at_tokens(td_call *call)
{
    alarm(CHILD_LIMIT);
    look_at_tokens(td_arg(call, int) % 2);
    return harness_failed();
}

/* The same in workers of the fork method. */
TEST(fork_method_among_gets_and_puts)
{
    for (int kind = 0; kind < 3; kind++) {
        queue_of_tokens(kind);
        start_all(passes_tokens);
        for (int i = 0; i < FORKS / 4; i++) {
            td_worker *w = WORKER(td_process(.target = looks_at_tokens, .args = TD_VAL(i), .method = TD_FORK));
            REQUIRE_OK(td_start(w));
            CHECK_OK(td_join_for(w, td_s(2 * CHILD_LIMIT)));
            CHECK_INT(td_exitcode(w), 0);
            td_free(w);
        }
        end_all();
        td_queue_free(queue);
    }
}

/* How many puts each producer has seen return: what the child finds here is of the same moment as its queue. */
static _Atomic uint32_t put_by[THREADS];

static int produces(td_call *call)
{
    int who = td_arg(call, int);
    for (uint32_t n = 0; !enough; n++) {
        item i = item_make((uint32_t)who, n);
        if (td_queue_put(queue, &i) < 0)
            return -1;
        put_by[who] = n + 1;
    }
    return 0;
}

static void look_at_growing(void)
{
    uint32_t next[THREADS] = { 0 }, count = 0;
    bool falling = queue->kind == TD_QUEUE_LIFO;
    item i = { .number = 0 }, former = i;
    for (; td_queue_try_get(queue, &i) == 0; former = i) {
        if (!CHECK(item_whole(&i)) || !CHECK(i.producer < THREADS))
            return;
        if (count++ > 0 && queue->kind == TD_QUEUE_PRIORITY)
            CHECK(in_order(&former, &i));
        else if (queue->kind == TD_QUEUE_FIFO && !CHECK_INT(i.number, next[i.producer]))
            return;
        else if (falling && next[i.producer] > 0 && !CHECK_INT(i.number, next[i.producer] - 1))
            return;
        next[i.producer] = falling ? i.number : next[i.producer] + 1;
    }
    uint32_t put = 0;
    for (int who = 0; who < THREADS; who++) {
        put += put_by[who];
        if (falling)
            CHECK_INT(next[who], 0);
        if (queue->kind == TD_QUEUE_FIFO)
            CHECK_IN(next[who], put_by[who], put_by[who] + 1);
    }
    CHECK_IN(count, put, put + THREADS);
    for (uint32_t n = 0; n < count + 100; n++) { /* it grows on */
        i = item_make(0, n);
        CHECK_OK(td_queue_put(queue, &i));
    }
    CHECK_INT(td_queue_qsize(queue), count + 100);
    td_queue_free(queue);
}

static void forks_while_it_grows(int kind)
{
    if (SANITIZED)
        SKIP("the sanitizers do not keep their allocators for the child of a fork among threads that allocate");
    for (int round = 0; round < FORKS / 3 && !harness_failed(); round++) {
        queue = QUEUE(.item_size = sizeof(item), .kind = (td_queue_kind)kind,
                      .priority = kind == TD_QUEUE_PRIORITY ? put_sorted.options.priority : (td_priority){ 0 });
        memset((void *)put_by, 0, sizeof put_by);
        start_all(produces);
        uint32_t until = 60u << round % 6; /* just before it grows */
        for (double limit = now() + 20; put_by[0] + put_by[1] + put_by[2] < until && now() < limit;)
            sched_yield();
        pid_t pid = fork();
        if (pid == 0) {
            alarm(CHILD_LIMIT);
            look_at_growing();
            _exit(harness_failed());
        }
        ended_well(pid);
        end_all();
        td_queue_free(queue);
    }
}

TEST(forked_while_it_grows_fifo)
{
    forks_while_it_grows(TD_QUEUE_FIFO);
}

TEST(forked_while_it_grows_lifo)
{
    forks_while_it_grows(TD_QUEUE_LIFO);
}

TEST(forked_while_it_grows_sorted)
{
    forks_while_it_grows(TD_QUEUE_PRIORITY);
}
