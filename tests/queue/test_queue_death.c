/* SPDX-License-Identifier: MIT */
/*
 * Queues whose users are killed: at every step of each operation, at random, together with their watcher. What had been
 * put is delivered once; what a dead one was taking out is delivered again, or was in its hands; nobody is blocked.
 */
#include "ledger.h"
#include "repairs.h"
#include "queue/queue.h"

#include <signal.h>
#include <sys/syscall.h>

enum { BEFORE = 1, VICTIM = 2, RIVAL = 3, AFTER = 4 }; /* who puts an item */
#define PRODUCERS 5
#define NUMBERS   80
#define BIG       3000 /* of items of any size: not in the cell */

/* What the victim and the test share. */
typedef struct stage {
    td_queue *queue;
    uint32_t scene;
    long step;
    bool kill_watcher;
    _Atomic uint32_t returned;
    item hand[3];
    char bytes[BIG];
} stage;

typedef struct stage_at {
    stage *at;
} stage_at;

typedef struct scene {
    td_queue_options options;
    int before; /* items in the queue when the victim comes */
    int (*act)(stage *);
    int puts, gets; /* of the victim */
    bool all_or_none;
    bool known; /* the victim has a record when it begins, and so goes the quick way */
    int turned; /* so many items have gone through before: the ring's end is among what the victim does */
} scene;

/* With memory of all kinds: rings, and blocks of items. */
static const td_queue_options scenes_of_memory = {
    .struct_size = sizeof(td_queue_options), .shared = true, .item_size = BIG, .any_size = true
};

/* --- what victims do ----------------------------------------------------------------------------------------- */

static int put_item(td_queue *q, item i)
{
    char bytes[BIG];
    if (!q->any_size)
        return td_queue_put(q, &i);
    memset(bytes, (int)i.number + 1, BIG);
    memcpy(bytes, &i, sizeof i);
    return td_queue_put_bytes(q, bytes, BIG);
}

static bool is_whole(const char *bytes)
{
    item i;
    memcpy(&i, bytes, sizeof i);
    for (size_t at = sizeof i; at < BIG; at++)
        if (bytes[at] != (char)(i.number + 1))
            return false;
    return item_whole(&i);
}

static int act_put(stage *s)
{
    return put_item(s->queue, item_make(VICTIM, 0));
}

static int act_get(stage *s)
{
    return td_queue_get(s->queue, s->hand);
}

static int act_put_many(stage *s)
{
    item some[3] = { item_make(VICTIM, 0), item_make(VICTIM, 1), item_make(VICTIM, 2) };
    return td_queue_put_many(s->queue, some, 3) == 3 ? 0 : -1;
}

static int act_get_many(stage *s)
{
    return td_queue_get_many(s->queue, s->hand, 3) == 3 ? 0 : -1;
}

static int act_get_some(stage *s)
{
    return td_queue_get_many(s->queue, s->hand, 3) > 0 ? 0 : -1;
}

static int act_join(stage *s)
{
    return td_queue_join(s->queue);
}

static int act_get_bytes(stage *s)
{
    size_t size;
    return td_queue_get_bytes(s->queue, s->bytes, BIG, &size);
}

static int act_task_done(stage *s)
{
    return td_queue_task_done(s->queue);
}

static int act_free(stage *s)
{
    td_queue_free(s->queue);
    return 0;
}

static int act_create(stage *s)
{
    s->queue = td_queue_create(&scenes_of_memory);
    return s->queue ? 0 : -1;
}

static int act_shutdown(stage *s)
{
    return td_queue_shutdown(s->queue, true);
}

#define ITEMS  .struct_size = sizeof(td_queue_options), .shared = true, .item_size = sizeof(item)
#define BYTES  .struct_size = sizeof(td_queue_options), .shared = true, .item_size = BIG, .any_size = true
#define SORTED .kind = TD_QUEUE_PRIORITY, .priority = { offsetof(item, number), sizeof(uint32_t), TD_KIND_UNSIGNED }
#define LIFO   .kind = TD_QUEUE_LIFO
enum {
    PUT,
    GET,
    PUT_JOINABLE,
    GET_JOINABLE,
    PUT_MANY,
    GET_MANY,
    PUT_QUICK,
    GET_QUICK,
    PUT_MANY_OVER_END,
    GET_MANY_OVER_END,
    PUT_MANY_JOINABLE,
    PUT_MANY_GROWING,
    PUT_BYTES,
    GET_BYTES,
    PUT_GROWING,
    PUT_LIFO,
    GET_LIFO,
    GET_MANY_LIFO,
    PUT_SORTED,
    GET_SORTED,
    TASK_DONE,
    SHUTDOWN,
    FREE,
    CREATE,
    PUT_FULL,
    GET_NONE,
    PUT_FULL_LIFO,
    GET_NONE_SORTED,
    PUT_MANY_FULL,
    GET_MANY_NONE,
    PUT_BYTES_FULL,
    GET_BYTES_NONE,
    JOIN,
    WAKE_PUT,
    WAKE_PUT_MANY,
    WAKE_GET,
    WAKE_GET_MANY,
    WAKE_PUT_LIFO
};
static const scene scenes[] = {
    [PUT] = { { ITEMS, .capacity = 5 }, 1, act_put, .puts = 1 },
    [GET] = { { ITEMS, .capacity = 5 }, 3, act_get, .gets = 1 },
    [PUT_JOINABLE] = { { ITEMS, .capacity = 5, .joinable = true }, 1, act_put, .puts = 1 },
    [GET_JOINABLE] = { { ITEMS, .capacity = 5, .joinable = true }, 3, act_get, .gets = 1 },
    [PUT_MANY] = { { ITEMS, .capacity = 5 }, 1, act_put_many, .puts = 3, .all_or_none = true },
    [GET_MANY] = { { ITEMS, .capacity = 5 }, 4, act_get_many, .gets = 3, .all_or_none = true },
    [PUT_QUICK] = { { ITEMS, .capacity = 5, .joinable = true }, 1, act_put, .puts = 1, .known = true },
    [GET_QUICK] = { { ITEMS, .capacity = 5, .joinable = true }, 3, act_get, .gets = 1, .known = true },
    [PUT_MANY_OVER_END] = { { ITEMS, .capacity = 5 }, 1, act_put_many, .puts = 3, .turned = 3 },
    [GET_MANY_OVER_END] = { { ITEMS, .capacity = 5 }, 4, act_get_many, .gets = 3, .all_or_none = true, .turned = 3 },
    [PUT_MANY_JOINABLE] = { { ITEMS, .capacity = 5, .joinable = true },
                            1,
                            act_put_many,
                            .puts = 3,
                            .all_or_none = true },
    [PUT_MANY_GROWING] = { { ITEMS, .joinable = true }, 62, act_put_many, .puts = 3 },
    [PUT_BYTES] = { { BYTES, .capacity = 5 }, 1, act_put, .puts = 1 },
    [GET_BYTES] = { { BYTES, .capacity = 5 }, 3, act_get_bytes, .gets = 1 },
    [PUT_GROWING] = { { ITEMS, .joinable = true }, 64, act_put, .puts = 1 },
    [PUT_LIFO] = { { ITEMS, LIFO, .joinable = true }, 64, act_put, .puts = 1 },
    [GET_LIFO] = { { ITEMS, LIFO, .capacity = 5 }, 3, act_get, .gets = 1 },
    [GET_MANY_LIFO] = { { ITEMS, LIFO, .capacity = 5 }, 4, act_get_many, .gets = 3, .all_or_none = true },
    [PUT_SORTED] = { { ITEMS, SORTED, .joinable = true }, 64, act_put, .puts = 1 },
    [GET_SORTED] = { { ITEMS, SORTED }, 40, act_get, .gets = 1 },
    [TASK_DONE] = { { ITEMS, .joinable = true, .capacity = 3 }, 1, act_task_done, .puts = 0 },
    [SHUTDOWN] = { { ITEMS, .joinable = true, .capacity = 5 }, 3, act_shutdown, .gets = 3 },
    [FREE] = { { BYTES }, 70, act_free, .puts = 0 },
    [CREATE] = { { BYTES }, 0, act_create, .puts = 0 },
    [PUT_FULL] = { { ITEMS, .capacity = 2 }, 2, act_put, .puts = 1 },
    [GET_NONE] = { { ITEMS, .capacity = 2 }, 0, act_get, .gets = 1 },
    [PUT_FULL_LIFO] = { { ITEMS, LIFO, .capacity = 2 }, 2, act_put, .puts = 1 },
    [GET_NONE_SORTED] = { { ITEMS, SORTED }, 0, act_get, .gets = 1 },
    [PUT_MANY_FULL] = { { ITEMS, .capacity = 2 }, 2, act_put_many, .puts = 3 },
    [GET_MANY_NONE] = { { ITEMS, .capacity = 4 }, 0, act_get_some, .gets = 3 },
    [PUT_BYTES_FULL] = { { BYTES, .capacity = 2 }, 2, act_put, .puts = 1 },
    [GET_BYTES_NONE] = { { BYTES, .capacity = 2 }, 0, act_get_bytes, .gets = 1 },
    [JOIN] = { { ITEMS, .capacity = 2, .joinable = true }, 2, act_join, .puts = 0 },
    [WAKE_PUT] = { { ITEMS, .capacity = 2 }, 0, act_put, .puts = 1, .known = true },
    [WAKE_PUT_MANY] = { { ITEMS, .capacity = 3 }, 0, act_put_many, .puts = 3 },
    [WAKE_GET] = { { ITEMS, .capacity = 2 }, 2, act_get, .gets = 1, .known = true },
    [WAKE_GET_MANY] = { { ITEMS, .capacity = 2 }, 2, act_get_some, .gets = 3 },
    [WAKE_PUT_LIFO] = { { ITEMS, LIFO, .capacity = 2 }, 0, act_put, .puts = 1 },
};

static int victim(td_call *call)
{
    stage *s = td_arg(call, stage_at).at;
    if (s->kill_watcher)
        kill(getppid(), SIGKILL);
    if (scenes[s->scene].known && !td__party_self())
        return -1;
    td__kill_at_step(s->step);
    int r = scenes[s->scene].act(s);
    td__kill_at_step(0);
    td__store_relaxed(&s->returned, 1);
    return r;
}

/* --- the test's side ----------------------------------------------------------------------------------------- */

/* What came out of the queue: how often, and in which place. */
typedef struct account {
    int times[PRODUCERS][NUMBERS], place[PRODUCERS][NUMBERS], places;
} account;

static void note(account *a, const item *i)
{
    if (CHECK(item_whole(i)) && CHECK(i->producer < PRODUCERS && i->number < NUMBERS)) {
        a->times[i->producer][i->number]++;
        a->place[i->producer][i->number] = ++a->places;
    }
}

static int take(td_queue *q, account *a, td_time limit)
{
    char bytes[BIG] = { 0 };
    size_t size;
    bool wait = limit.ns != 0;
    int r;
    if (q->any_size)
        r = wait ? td_queue_get_bytes_with(q, bytes, BIG, &size, limit, NULL)
                 : td_queue_try_get_bytes(q, bytes, BIG, &size);
    else
        r = wait ? td_queue_get_for(q, bytes, limit) : td_queue_try_get(q, bytes);
    if (r == 0) {
        item i;
        memcpy(&i, bytes, sizeof i);
        CHECK(!q->any_size || is_whole(bytes));
        note(a, &i);
    }
    return r;
}

static void drain(td_queue *q, account *a)
{
    int r;
    while ((r = take(q, a, TD_NO_LIMIT)) == 0)
        ;
    CHECK(r == TD_EEMPTY || r == TD_ECLOSED);
}

/* It holds what it is said to hold, and no place in it is lost. */
static void still_works(td_queue *q)
{
    account a = { 0 };
    int limit = q->capacity ? (int)q->capacity : NUMBERS;
    CHECK_INT(td_queue_qsize(q), 0);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < limit; i++)
            CHECK_OK(put_item(q, item_make(AFTER, (uint32_t)i)));
        CHECK_INT(td_queue_qsize(q), limit);
        drain(q, &a);
        for (int i = 0; i < limit; i++)
            CHECK_INT(a.times[AFTER][i], round + 1);
        for (int i = 0; q->joinable && i < limit; i++)
            CHECK_OK(td_queue_task_done(q));
    }
}

/* All that were put have been taken out, by whomever. */
static void joins(td_queue *q, int undone)
{
    if (!q->joinable)
        return;
    for (int i = 0; i < undone; i++)
        CHECK_OK(td_queue_task_done(q));
    CHECK_OK(td_queue_join_for(q, td_s(10 * SLOW)));
    CHECK_ERROR(td_queue_task_done(q), TD_ESTATE);
}

/* So that memory that is taken next is not zero by chance. */
static void soil(size_t size)
{
    void *block = td_shared_alloc_aligned(128, size);
    REQUIRE(block != NULL);
    memset(block, 0xff, size);
    td_shared_free(block);
}

static stage *set_stage(uint32_t number, long step)
{
    for (size_t size = 64; size < 100000; size += size / 4)
        soil(size);
    stage *s = shared_memory(sizeof *s);
    s->scene = number;
    s->step = step;
    s->queue = td_queue_create(&scenes[number].options);
    REQUIRE(s->queue != NULL);
    for (int i = 0; i < scenes[number].turned; i++) {
        REQUIRE_OK(put_item(s->queue, item_make(AFTER, (uint32_t)i)));
        REQUIRE_OK(td_queue_try_get(s->queue, &(item){ 0 }));
    }
    for (int i = 0; i < scenes[number].before; i++)
        REQUIRE_OK(put_item(s->queue, item_make(BEFORE, (uint32_t)i)));
    return s;
}

static td_worker *start_victim(const mode *how, stage *s)
{
    stage_at at = { s };
    td_worker *w = WORKER(NEW(.target = victim, .args = TD_VAL(at)));
    REQUIRE_OK(td_start(w));
    return w;
}

/* true: it was killed, and has been repaired. */
static bool end_victim(td_worker *w, stage *s)
{
    pid_t pid = td_pid(w);
    CHECK_OK(td_join_for(w, td_s(20 * SLOW)));
    bool died = td_outcome(w) == TD_CRASHED;
    if (died) {
        CHECK_INT(td_exitcode(w), -SIGKILL);
        repaired(pid);
    } else {
        CHECK_INT(td_outcome(w), TD_RETURNED);
        CHECK_INT(td__load_relaxed(&s->returned), 1);
    }
    td_free(w);
    return died;
}

/* Of what the victim was to put and to get, how much has taken effect. */
static int effect_of(const stage *s, const account *a, bool died)
{
    const scene *now = &scenes[s->scene];
    int put = 0, got = 0;
    for (int i = 0; i < NUMBERS; i++) {
        CHECK(a->times[VICTIM][i] <= 1 && a->times[BEFORE][i] <= 1);
        if (a->times[VICTIM][i])
            CHECK_INT(i, put++); /* in its order, without gaps */
    }
    for (int i = 0; i < now->before; i++)
        if (!a->times[BEFORE][i])
            got++;
    /* What is missing is in the victim's hands, whole. */
    for (int i = 0; i < got && now->act != act_shutdown; i++) {
        const item *hand = now->act == act_get_bytes ? (const item *)(const void *)s->bytes : &s->hand[i];
        CHECK(now->act == act_get_bytes ? is_whole(s->bytes) : item_whole(hand));
        CHECK(hand->producer == BEFORE && hand->number < NUMBERS && a->times[BEFORE][hand->number] == 0);
    }
    CHECK(put <= now->puts && got <= now->gets);
    CHECK(!now->all_or_none || ((got == 0 || got == now->gets) && (put == 0 || put == now->puts)));
    if (!died)
        CHECK(put == now->puts && got == now->gets);
    return put + got;
}

/* In a FIFO queue, also what came back comes before younger ones. */
static void in_order(const account *a)
{
    int last = 0;
    for (int i = 0; i < NUMBERS; i++)
        if (a->place[BEFORE][i]) {
            CHECK(a->place[BEFORE][i] > last);
            last = a->place[BEFORE][i];
        }
    CHECK(a->place[VICTIM][0] == 0 || a->place[VICTIM][0] > last);
}

/* When all is repaired: what is in the queue fits what the victim has, and the queue works. Frees it. */
static void check_stage(stage *s, bool died, bool watcher, int *effect)
{
    account a = { { { 0 } }, { { 0 } }, 0 };
    uint32_t number = s->scene;
    drain(s->queue, &a);
    if (s->queue->kind == TD_QUEUE_FIFO)
        in_order(&a);
    int now = effect_of(s, &a, died);
    if (*effect > now && !watcher)
        CHECK_INT(now, *effect); /* what had happened at an earlier step has happened at a later one */
    *effect = now;
    if (number == SHUTDOWN) {
        joins(s->queue, a.places);
    } else {
        joins(s->queue, a.places + (scenes[number].gets ? now : 0));
        still_works(s->queue);
    }
    td_queue_free(s->queue);
}

/* Returns whether the victim was killed. */
static bool kill_at(const mode *how, uint32_t number, long step, bool watcher, int *effect)
{
    stage *s = set_stage(number, step);
    s->kill_watcher = watcher;
    bool died = end_victim(start_victim(how, s), s);
    check_stage(s, died, watcher, effect);
    return died;
}

static void kill_at_all_steps(const mode *how, uint32_t number)
{
    int effect = 0;
    long step = 1;
    while (kill_at(how, number, step, false, &effect) && !harness_failed())
        step += thrift();
    CHECK(step > 3); /* it has been killed somewhere */
    harness_note("%ld steps", step - 1);
}

#define AT_EVERY_STEP(name, number)           \
    TEST_METHODS_LIMIT(killed_in_##name, 120) \
    {                                         \
        kill_at_all_steps(how, number);       \
    }

AT_EVERY_STEP(put, PUT)
AT_EVERY_STEP(get, GET)
AT_EVERY_STEP(put_joinable, PUT_JOINABLE)
AT_EVERY_STEP(get_joinable, GET_JOINABLE)
AT_EVERY_STEP(put_many, PUT_MANY)
AT_EVERY_STEP(get_many, GET_MANY)
AT_EVERY_STEP(put_quick, PUT_QUICK)
AT_EVERY_STEP(get_quick, GET_QUICK)
AT_EVERY_STEP(put_many_over_end, PUT_MANY_OVER_END)
AT_EVERY_STEP(get_many_over_end, GET_MANY_OVER_END)
AT_EVERY_STEP(put_many_joinable, PUT_MANY_JOINABLE)
AT_EVERY_STEP(put_many_growing, PUT_MANY_GROWING)
AT_EVERY_STEP(put_bytes, PUT_BYTES)
AT_EVERY_STEP(get_bytes, GET_BYTES)
AT_EVERY_STEP(put_growing, PUT_GROWING)
AT_EVERY_STEP(put_lifo, PUT_LIFO)
AT_EVERY_STEP(get_lifo, GET_LIFO)
AT_EVERY_STEP(get_many_lifo, GET_MANY_LIFO)
AT_EVERY_STEP(put_sorted, PUT_SORTED)
AT_EVERY_STEP(get_sorted, GET_SORTED)
AT_EVERY_STEP(shutdown, SHUTDOWN)

/* task_done has been counted, or not. */
TEST_METHODS_LIMIT(killed_in_task_done, 120)
{
    bool died = true, counted = false;
    for (long step = 1; died && !harness_failed(); step += thrift()) {
        account a = { { { 0 } }, { { 0 } }, 0 };
        stage *s = set_stage(TASK_DONE, step);
        drain(s->queue, &a);
        died = end_victim(start_victim(how, s), s);
        int r = td_queue_task_done(s->queue);
        CHECK(r == 0 || r == TD_ESTATE);
        CHECK(!counted || r == TD_ESTATE);
        CHECK(died || r == TD_ESTATE);
        counted = r == TD_ESTATE;
        CHECK_OK(td_queue_join_for(s->queue, td_s(10 * SLOW)));
        td_queue_free(s->queue);
    }
}

static size_t blocks(void)
{
    td_shared_counts counts = { 0 };
    CHECK_OK(td_shared_stats(&counts));
    return counts.blocks;
}

/* A queue is there, with all its memory, or none of it is. */
TEST_METHODS_LIMIT(killed_in_free, 120)
{
    bool died = true;
    for (long step = 1; died && !harness_failed(); step += thrift()) {
        stage *s = set_stage(FREE, step);
        size_t with = blocks();
        td_queue_free(s->queue);
        size_t without = blocks();
        CHECK(with > without + 70);
        s->queue = td_queue_create(&scenes[FREE].options);
        for (int i = 0; i < scenes[FREE].before; i++)
            REQUIRE_OK(put_item(s->queue, item_make(BEFORE, (uint32_t)i)));
        CHECK_INT(blocks(), with);
        died = end_victim(start_victim(how, s), s);
        if (blocks() == with)
            td_queue_free(s->queue); /* it had not begun */
        CHECK_INT(blocks(), without);
        td_shared_free(s);
    }
}

TEST_METHODS_LIMIT(killed_in_create, 120)
{
    bool died = true;
    int kept = 0;
    for (long step = 1; died && !harness_failed(); step += thrift()) {
        stage *s = set_stage(CREATE, step);
        td_queue_free(s->queue);
        s->queue = NULL;
        size_t without = blocks();
        died = end_victim(start_victim(how, s), s);
        td_queue_free(s->queue);
        kept += blocks() > without;
    }
    CHECK(kept <= 1); /* at the last step it is there, and nobody has been told */
}

/* --- in its sleep, beside another sleeper -------------------------------------------------------------------- */

typedef struct rival {
    td_queue *queue;
    bool put, join;
    account account;
    int result;
} rival;
typedef struct rival_at {
    rival *at;
} rival_at;

static int put_within(td_queue *q, item i, td_time limit)
{
    char bytes[BIG];
    if (!q->any_size)
        return td_queue_put_for(q, &i, limit);
    memset(bytes, (int)i.number + 1, BIG);
    memcpy(bytes, &i, sizeof i);
    return td_queue_put_bytes_with(q, bytes, BIG, limit, NULL);
}

static int compete(td_call *call)
{
    rival *r = td_arg(call, rival_at).at;
    td_time limit = td_s(100 * SLOW); /* longer than it is waited for: at its end it would look once more */
    r->result = r->join  ? td_queue_join_for(r->queue, limit)
                : r->put ? put_within(r->queue, item_make(RIVAL, 0), limit)
                         : take(r->queue, &r->account, limit);
    return 0;
}

static td_worker *start_rival(rival *r, td_target *target)
{
    rival_at at = { r };
    td_worker *other = WORKER(td_thread(.target = target, .args = TD_VAL(at)));
    REQUIRE_OK(td_start(other));
    return other;
}

static void end_rival(td_worker *other, const rival *r)
{
    REQUIRE_OK(td_join_for(other, td_s(30 * SLOW)));
    CHECK_OK(r->result);
    td_free(other);
}

/* Has the victim taken this one out? */
static bool is_in_hand(const stage *s, uint32_t number)
{
    item i;
    bool found = false;
    for (int at = 0; at < 4 && !found; at++) {
        memcpy(&i, at < 3 ? (const void *)&s->hand[at] : s->bytes, sizeof i);
        found = i.producer == BEFORE && item_whole(&i) && i.number == number;
    }
    return found;
}

/* Takes until both have ended, as nobody knows how much the victim puts. */
static void take_for(td_queue *q, account *a, const td_worker *victim, const td_worker *other)
{
    while (td_is_alive(victim) || td_is_alive(other))
        if (take(q, a, TD_NO_LIMIT) != 0)
            pause_ms(1);
}

static bool sleeps(pid_t pid)
{
    char state[32];
    return !process_alive(pid) || status_of(pid, "State", state, sizeof state)[0] == 'S';
}

/* Says which thread it is. */
static int compete_known(td_call *call)
{
    page->number[0] = syscall(SYS_gettid);
    return compete(call);
}

/* Does a thread of that process wait for the word? */
static bool waits_here(const _Atomic uint32_t *word, pid_t pid)
{
    for (uint32_t i = 1; i < td__load_acquire(&td__the_region->party_top); i++)
        if ((td__load_acquire(td__party_entry(i)) & 0x7fffffff) == (uint32_t)pid &&
            td__load_relaxed(&td__party_at(i)->word_waited) == word)
            return true;
    return false;
}

/* One item comes, and a second one only if one of the two has got it and ended: else it is the other's. How many. */
static int put_no_more_than_needed(td_queue *q, const stage *s, const td_worker *victim, const td_worker *other)
{
    WAIT_UNTIL(!td_is_alive(victim) || !td_is_alive(other), 20);
    bool victims = !td_is_alive(victim) && (td__load_relaxed(&s->returned) || is_in_hand(s, 0));
    if (!victims && td_is_alive(other))
        return 1;
    CHECK_OK(put_item(q, item_make(BEFORE, 1)));
    return 2;
}

/*
 * One place, or item, comes while two wait for it, of which one is killed. If its call had not taken effect, the other
 * one must get it; if it had, the next. `sparse`: of items no more come than that.
 */
static bool kill_asleep_at(const mode *how, uint32_t number, long step, bool sparse)
{
    stage *s = set_stage(number, step);
    td_queue *q = s->queue;
    rival r = { .queue = q, .put = scenes[number].puts > 0 };
    account a = { { { 0 } }, { { 0 } }, 0 };
    const _Atomic uint32_t *word = r.put ? &q->space : &q->items;
    td_worker *other, *w = NULL;
    /* The first one to sleep is woken first. */
    if (sparse) {
        w = start_victim(how, s);
        WAIT_UNTIL(!process_alive(td_pid(w)) || (waits_here(word, td_pid(w)) && sleeps(td_pid(w))), 20);
    }
    other = start_rival(&r, compete_known);
    WAIT_UNTIL(waits_here(word, getpid()) && sleeps((pid_t)page->number[0]), 20);
    if (!sparse) {
        w = start_victim(how, s);
        WAIT_UNTIL(sleeps(td_pid(w)), 20);
    }
    if (r.put)
        CHECK_OK(take(q, &a, td_s(20 * SLOW)));
    else
        CHECK_OK(put_item(q, item_make(BEFORE, 0)));
    pause_ms(step % 3 ? 0 : 2);
    /* Enough for both. */
    int items = number == GET_MANY_NONE ? 3 : 2;
    if (sparse)
        items = put_no_more_than_needed(q, s, w, other);
    else if (number == PUT_MANY_FULL)
        take_for(q, &a, w, other);
    else if (r.put)
        CHECK_OK(take(q, &a, td_s(20 * SLOW)));
    for (int i = 1; i < items && !r.put && !sparse; i++)
        CHECK_OK(put_item(q, item_make(BEFORE, (uint32_t)i)));
    bool died = end_victim(w, s);
    end_rival(other, &r);
    drain(q, &a);
    for (int i = 0; i < 2 && r.put; i++)
        CHECK_INT(a.times[BEFORE][i], 1);
    if (r.put) {
        CHECK_INT(a.times[RIVAL][0], 1);
        CHECK(a.times[VICTIM][0] <= 1 && (died || a.times[VICTIM][0] == 1));
    }
    for (int i = 0; i < items && !r.put; i++) {
        int times = a.times[BEFORE][i] + r.account.times[BEFORE][i];
        CHECK(times == 1 || (times == 0 && is_in_hand(s, (uint32_t)i)));
    }
    still_works(q);
    td_queue_free(q);
    return died;
}

static bool kill_asleep_sparsely_at(const mode *how, uint32_t number, long step)
{
    return kill_asleep_at(how, number, step, true);
}

static bool kill_asleep_richly_at(const mode *how, uint32_t number, long step)
{
    return kill_asleep_at(how, number, step, false);
}

/* At each step, until three times in a row nobody has died: how long a victim tries before it sleeps varies. */
static void climb(const mode *how, bool (*kill_at)(const mode *, uint32_t, long), uint32_t number, long least)
{
    long step = 1, survived = 0;
    for (; survived < 3 && !harness_failed(); step++)
        survived = kill_at(how, number, step) ? 0 : survived + 1;
    CHECK(step > least);
    harness_note("%ld steps", step);
}

static void kill_asleep(const mode *how, uint32_t number)
{
    climb(how, kill_asleep_richly_at, number, 10);
    if (scenes[number].gets > 0)
        climb(how, kill_asleep_sparsely_at, number, 10);
}

#define ASLEEP(name, number)                     \
    TEST_METHODS_LIMIT(killed_while_##name, 150) \
    {                                            \
        kill_asleep(how, number);                \
    }

ASLEEP(full, PUT_FULL)
ASLEEP(empty, GET_NONE)
ASLEEP(full_lifo, PUT_FULL_LIFO)
ASLEEP(empty_sorted, GET_NONE_SORTED)
ASLEEP(full_of_many, PUT_MANY_FULL)
ASLEEP(empty_for_many, GET_MANY_NONE)
ASLEEP(full_of_bytes, PUT_BYTES_FULL)
ASLEEP(empty_of_bytes, GET_BYTES_NONE)

/* One of two who wait until all is done: the other one is told. */
static bool kill_joining_at(const mode *how, uint32_t number, long step)
{
    stage *s = set_stage(number, step);
    rival r = { .queue = s->queue, .join = true };
    account a = { { { 0 } }, { { 0 } }, 0 };
    td_worker *other = start_rival(&r, compete);
    WAIT_UNTIL(td__load_relaxed(&s->queue->finished) & 1, 20);
    td_worker *w = start_victim(how, s);
    WAIT_UNTIL(sleeps(td_pid(w)), 20);
    drain(s->queue, &a);
    CHECK(td_is_alive(other));
    for (int i = 0; i < 2; i++)
        CHECK_OK(td_queue_task_done(s->queue));
    bool died = end_victim(w, s);
    end_rival(other, &r);
    still_works(s->queue);
    td_queue_free(s->queue);
    return died;
}

TEST_METHODS_LIMIT(killed_while_joining, 150)
{
    climb(how, kill_joining_at, JOIN, 6);
}

/* What would have woken it comes from somebody else: the victim has died before it had done it. */
static void wake_instead(td_queue *q, const rival *r, account *a)
{
    if (r->join && td__load_acquire(&q->done) == 0)
        CHECK_OK(td_queue_task_done(q));
    else if (r->put && td_queue_qsize(q) == q->capacity)
        CHECK_OK(take(q, a, td_s(20 * SLOW)));
    else if (!r->put && !r->join && td_queue_qsize(q) == 0)
        CHECK_OK(put_within(q, item_make(AFTER, 0), td_s(20 * SLOW)));
}

/* One sleeps, and who puts the item, takes one, or says that the last is done, that it waits for is killed: it has
 * come, or another one's wakes. */
static bool kill_waking_at(const mode *how, uint32_t number, long step)
{
    stage *s = set_stage(number, step);
    td_queue *q = s->queue;
    rival r = { .queue = q, .put = scenes[number].gets > 0, .join = number == TASK_DONE };
    account a = { { { 0 } }, { { 0 } }, 0 };
    if (r.join)
        drain(q, &a);
    td_worker *other = start_rival(&r, compete);
    WAIT_UNTIL(td__load_relaxed(r.join ? &q->finished : r.put ? &q->space : &q->items) & 1, 20);
    bool died = end_victim(start_victim(how, s), s);
    if (died && td_is_alive(other))
        wake_instead(q, &r, &a);
    end_rival(other, &r);
    td_queue_free(q);
    return died;
}

#define WAKING(name, number)                               \
    TEST_METHODS_LIMIT(killed_while_waking_by_##name, 150) \
    {                                                      \
        climb(how, kill_waking_at, number, 10);            \
    }

WAKING(put, WAKE_PUT)
WAKING(put_many, WAKE_PUT_MANY)
WAKING(get, WAKE_GET)
WAKING(get_many, WAKE_GET_MANY)
WAKING(put_lifo, WAKE_PUT_LIFO)

TEST_METHODS_LIMIT(killed_in_task_done_beside_a_join, 150)
{
    climb(how, kill_waking_at, TASK_DONE, 5);
}

/* --- after a shutdown ---------------------------------------------------------------------------------------- */

static int take_all(td_call *call)
{
    rival *r = td_arg(call, rival_at).at;
    while ((r->result = take(r->queue, &r->account, td_s(20 * SLOW))) == 0)
        ;
    return 0;
}

/* The last ones to leave a queue that was shut down leave nothing in it that comes back from a dead one. */
TEST_METHODS_LIMIT(killed_after_shutdown, 120)
{
    for (int kind = 0; kind < 2; kind++)
        for (long step = 1; step < 30 && !harness_failed(); step++) {
            stage *s = set_stage(kind ? GET_LIFO : GET, step);
            rival r = { .queue = s->queue };
            rival_at at = { &r };
            CHECK_OK(td_queue_shutdown(s->queue, false));
            td_worker *w = start_victim(how, s), *other = WORKER(td_thread(.target = take_all, .args = TD_VAL(at)));
            REQUIRE_OK(td_start(other));
            CHECK_OK(td_join_for(other, td_s(30 * SLOW)));
            CHECK_INT(r.result, TD_ECLOSED);
            td_free(other);
            CHECK_OK(td_join_for(w, td_s(20 * SLOW)));
            td_outcome(w);
            repaired(td_pid(w)); /* which looks at the queue */
            td_free(w);
            for (uint32_t i = 0; i < 3; i++) {
                bool in_hand = s->hand[0].producer == BEFORE && item_whole(&s->hand[0]) && s->hand[0].number == i;
                CHECK(r.account.times[BEFORE][i] == 1 || (r.account.times[BEFORE][i] == 0 && in_hand));
            }
            td_queue_free(s->queue);
        }
}

/* --- with the watcher ---------------------------------------------------------------------------------------- */

/* The spawner, which would repair, is killed a moment before the victim: the main process does it. */
TEST_LIMIT(killed_with_the_watcher, 150)
{
    static const uint32_t some[] = { PUT_QUICK, GET_QUICK, PUT_MANY, GET_MANY, PUT_GROWING, PUT_LIFO, GET_SORTED };
    for (size_t i = 0; i < TD__COUNT(some); i++)
        for (long step = 1; step < 60 && !harness_failed(); step += thrift()) {
            int effect = 0;
            kill_at(&mode_forkserver, some[i], step, true, &effect);
        }
}

/* --- with places of another ring ------------------------------------------------------------------------------ */

enum { MANY_TURNS = 1000, FIRST_RING = 64, LATE_STOPPED = 40, LATE_GOES_ON, HOLDS, BOTH_GO };

typedef struct pair {
    td_queue *queue;
    long late_step, step; /* at which the one, and the other, is stopped */
} pair;

typedef struct pair_at {
    pair *at;
} pair_at;

static void stop_late(void)
{
    event_set(LATE_STOPPED);
    event_wait(LATE_GOES_ON);
}

static void hold(void)
{
    event_add(HOLDS);
    for (;;)
        pause();
}

static void *gets_late(void *argument)
{
    const pair *p = argument;
    int items[2];
    td__party_self();
    td__call_at_step(p->late_step, stop_late);
    td_queue_get_many(p->queue, items, 2);
    hold();
    return NULL;
}

/* A thread that is late, and, in its process, one that dies with an item. */
static int gets_both(td_call *call)
{
    pair *p = td_arg(call, pair_at).at;
    pthread_t late;
    int item;
    REQUIRE_INT(pthread_create(&late, NULL, gets_late, p), 0);
    event_wait(BOTH_GO);
    td__party_self();
    td__call_at_step(p->step, hold);
    td_queue_get(p->queue, &item);
    hold();
    return 0;
}

static int in_phase(const td_queue *q, uint32_t number, unsigned phase)
{
    const td__wheel *ring = td__queue_ring(q, number);
    int count = 0;
    for (uint64_t i = 0; ring && i < ring->capacity; i++)
        count += TD__PHASE(td__load_acquire(&td__wheel_cell(ring, i)->state)) == phase;
    return count;
}

static void put_numbers(td_queue *q, int count)
{
    for (int i = 0; i < count; i++)
        REQUIRE_OK(td_queue_put(q, &i));
}

static void get_numbers(td_queue *q, int count)
{
    int item;
    for (int i = 0; i < count; i++)
        REQUIRE_OK(td_queue_get(q, &item));
}

static void die_in_second_ring(const mode *how, long late_step, long step)
{
    td_queue *q = td_queue_new(.item_size = sizeof(int), .shared = true);
    pair *p = shared_memory(sizeof *p);
    *p = (pair){ q, late_step, step };
    page->event[LATE_STOPPED] = page->event[LATE_GOES_ON] = page->event[HOLDS] = page->event[BOTH_GO] = 0;
    for (int i = 0; i < MANY_TURNS; i++) {
        put_numbers(q, 1);
        get_numbers(q, 1);
    }
    put_numbers(q, 1);
    pair_at at = { p };
    td_worker *w = WORKER(NEW(.target = gets_both, .args = TD_VAL(at)));
    REQUIRE_OK(td_start(w));
    event_wait(LATE_STOPPED);
    /* The item that it is about to take is taken by us; and the queue goes on in another ring. */
    int item, got = td_queue_try_get(q, &item);
    put_numbers(q, FIRST_RING + 4);
    get_numbers(q, FIRST_RING + 3);
    event_set(BOTH_GO);
    event_wait(HOLDS);
    event_set(LATE_GOES_ON);
    /* It finds something, or nothing, and sleeps. */
    WAIT_UNTIL(event_count(HOLDS) > 1 || td__word_waiters(&q->items) > 0, 20);
    REQUIRE_OK(td_kill(w));
    CHECK_OK(td_join(w));
    td_outcome(w);
    repaired(td_pid(w));
    td_free(w);
    (void)got;
    int back = 0;
    for (uint32_t number = 0; number < 2; number++) {
        CHECK_INT(in_phase(q, number, TD__READING), 0);
        back += in_phase(q, number, TD__BACK) + in_phase(q, number, TD__FULL);
    }
    for (int i = 0; i < back; i++)
        if (!CHECK_OK(td_queue_try_get(q, &item)))
            harness_note("    %ld, %ld", late_step, step);
    CHECK_ERROR(td_queue_try_get(q, &item), TD_EEMPTY);
    td_queue_free(q);
    td_shared_free(p);
}

/* Catches: a range of places to look for what has come back that is taken from a place in another ring, which the dead
 * one had looked at before. */
TEST_METHODS_LIMIT(killed_after_a_look_at_another_ring, 120)
{
    for (long late_step = 1; late_step <= 8 && !harness_failed(); late_step++)
        for (long step = 1; step <= 5 && !harness_failed(); step++)
            die_in_second_ring(how, late_step, step);
}

/* --- with the repairer --------------------------------------------------------------------------------------- */

/* Killed at this step, and who repairs after it at that one of his. Returns whether the second was killed. */
static bool kill_twice(uint32_t number, long step, long repair_step, bool *died, int *effect)
{
    stage *s = set_stage(number, step);
    pid_t pid = ruin_child();
    if (pid == 0) {
        if (scenes[number].known)
            td__party_self();
        td__kill_at_step(step);
        ruin_exit(scenes[number].act(s) != 0);
    }
    *died = ruin_end(pid);
    bool killed = ruin_repair(pid, repair_step);
    check_stage(s, *died, false, effect);
    td_shared_free(s);
    return killed;
}

/* Every step of the victim, and of the repair after it. */
static void kill_repairers(const uint32_t *numbers, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int effect = 0;
        long rungs = 0, step = 1;
        for (bool died = true; died && !harness_failed(); step += thrift())
            for (long repair_step = 1; kill_twice(numbers[i], step, repair_step, &died, &effect) && !harness_failed();
                 repair_step += thrift())
                rungs++;
        harness_note("scene %u: %ld steps, %ld pairs", numbers[i], step - 1, rungs);
        CHECK(rungs > step / thrift());
    }
}

/* Catches: what a repair gives back, skips or frees, and the next one once more, or not at all. */
TEST_LIMIT(repairs_of_rings_killed, 150)
{
    static const uint32_t some[] = { PUT_QUICK, GET_QUICK, PUT_MANY, GET_MANY, PUT_GROWING };
    kill_repairers(some, TD__COUNT(some));
}

TEST_LIMIT(repairs_of_sorted_and_shut_killed, 150)
{
    static const uint32_t some[] = { PUT_BYTES, GET_BYTES, PUT_LIFO, GET_SORTED, SHUTDOWN };
    kill_repairers(some, TD__COUNT(some));
}

/* --- at random ----------------------------------------------------------------------------------------------- */

/*
 * Producers and consumers are killed at random and replaced. A producer says in shared memory which item it is putting
 * and which it has put; a consumer takes items out into shared memory, and says which it has counted.
 */
#define WORKERS 4
#define LIMIT   100000
enum { IN_HAND = 0x10000, PUT_RETURNED = 0x1000000 };
typedef struct ledger {
    td_queue *queue;
    bool batches;
    _Atomic uint32_t stop;
    _Atomic uint32_t putting[WORKERS];     /* the number of the last item, one more */
    _Atomic uint32_t fate[WORKERS][LIMIT]; /* how often it was delivered, and more: */
    struct {
        _Atomic uint32_t counted; /* items of the hand, from the first on */
        item hand[8];
    } place[4096];
} ledger;

typedef struct job {
    ledger *ledger;
    uint32_t index, place;
} job;

static int produce(td_call *call)
{
    job j = td_arg(call, job);
    ledger *l = j.ledger;
    uint32_t n = td__load_relaxed(&l->putting[j.index]), count;
    for (; n < LIMIT - 8 && !td__load_relaxed(&l->stop); n += count) {
        item some[8];
        count = l->batches ? 1 + n % 8 : 1;
        for (uint32_t i = 0; i < count; i++)
            some[i] = item_make(j.index, n + i);
        td__store_release(&l->putting[j.index], n + count);
        if (count > 1 ? td_queue_put_many(l->queue, some, count) != count : td_queue_put(l->queue, some) < 0)
            return 1;
        for (uint32_t i = 0; i < count; i++)
            td__fetch_add_relaxed(&l->fate[j.index][n + i], PUT_RETURNED);
    }
    return 0;
}

static int consume(td_call *call)
{
    job j = td_arg(call, job);
    ledger *l = j.ledger;
    item *hand = l->place[j.place].hand;
    for (;;) {
        memset(hand, 0, sizeof l->place[j.place].hand);
        td__store_release(&l->place[j.place].counted, 0);
        int64_t count = l->batches ? td_queue_get_many(l->queue, hand, 8) : td_queue_get(l->queue, hand) == 0 ? 1 : -1;
        if (count < 0)
            return 0;
        for (int64_t n = 0; n < count; n++) {
            if (!item_whole(&hand[n]))
                return 1;
            td__fetch_add_relaxed(&l->fate[hand[n].producer][hand[n].number], 1);
            td__fetch_add_relaxed(&l->place[j.place].counted, 1);
        }
    }
}

/* Between the two additions above, a killed one may have counted one more than it says. */
static void count_hand(ledger *l, uint32_t place)
{
    item *hand = l->place[place].hand;
    uint32_t counted = td__load_acquire(&l->place[place].counted);
    for (uint32_t n = counted; n < 8; n++)
        if (hand[n].sum && item_whole(&hand[n]) &&
            td__load_relaxed(&l->fate[hand[n].producer][hand[n].number]) % IN_HAND == 0)
            td__fetch_add_relaxed(&l->fate[hand[n].producer][hand[n].number], IN_HAND); /* if nobody else got it */
}

static void kill_at_random(const mode *how, size_t capacity, bool batches, td_queue_kind kind)
{
    ledger *l = shared_memory(sizeof *l);
    l->batches = batches;
    l->queue = QUEUE(.item_size = sizeof(item), .capacity = capacity, .shared = true, .kind = kind,
                     .priority = kind == TD_QUEUE_PRIORITY ? TD_PRIORITY(item, number) : (td_priority){ 0 });
    td_worker *w[2 * WORKERS] = { 0 };
    uint32_t place_of[2 * WORKERS] = { 0 }, places = 0, seed = 1;
    double end = now() + budget();
    int kills = 0;
    while (now() < end && !harness_failed()) {
        seed = seed * 1103515245 + 12345;
        uint32_t n = seed >> 16 & 7;
        if (w[n]) {
            pid_t pid = td_pid(w[n]);
            td_kill(w[n]);
            CHECK_OK(td_join_for(w[n], td_s(20 * SLOW)));
            CHECK(td_outcome(w[n]) != TD_FAILED);
            td_free(w[n]);
            if (n % 3 == 0)
                repaired(pid);
            kills++;
        }
        place_of[n] = places < TD__COUNT(l->place) - 1 ? places++ : places;
        job j = { l, n % WORKERS, place_of[n] };
        w[n] = WORKER(NEW(.target = n < WORKERS ? produce : consume, .args = TD_VAL(j)));
        REQUIRE_OK(td_start(w[n]));
        pause_ms(seed >> 24 & 3);
    }
    td__store_relaxed(&l->stop, 1);
    for (int n = 0; n < 2 * WORKERS; n++) {
        if (n == WORKERS) /* all producers have ended */
            CHECK_OK(td_queue_shutdown(l->queue, false));
        if (!w[n])
            continue;
        CHECK_OK(td_join_for(w[n], td_s(20 * SLOW)));
        CHECK_INT(td_outcome(w[n]), TD_RETURNED);
        td_free(w[n]);
    }
    CHECK_INT(td_queue_qsize(l->queue), 0);
    for (uint32_t place = 0; place < places; place++)
        count_hand(l, place);
    long total = 0;
    for (uint32_t p = 0; p < WORKERS; p++)
        for (uint32_t n = 0; n < td__load_relaxed(&l->putting[p]) && !harness_failed(); n++) {
            uint32_t times = td__load_relaxed(&l->fate[p][n]);
            /* Its producer may have been killed in the put; its consumer, with the item. */
            if (times % IN_HAND > 1 || times == PUT_RETURNED)
                CHECK_INT(times, PUT_RETURNED + 1);
            total += times != 0;
        }
    harness_note("%d kills, %ld items", kills, total);
    td_queue_free(l->queue);
}

TEST_METHODS_LIMIT(killed_at_random, 60)
{
    kill_at_random(how, 16, false, TD_QUEUE_FIFO);
}

TEST_METHODS_LIMIT(killed_at_random_batches, 60)
{
    kill_at_random(how, 100, true, TD_QUEUE_FIFO);
}

TEST_METHODS_LIMIT(killed_at_random_unlimited, 60)
{
    kill_at_random(how, 0, true, TD_QUEUE_FIFO);
}

TEST_METHODS_LIMIT(killed_at_random_lifo, 60)
{
    kill_at_random(how, 16, true, TD_QUEUE_LIFO);
}

TEST_METHODS_LIMIT(killed_at_random_sorted, 60)
{
    kill_at_random(how, 16, false, TD_QUEUE_PRIORITY);
}
