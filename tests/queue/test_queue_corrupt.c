/* SPDX-License-Identifier: MIT */
/*
 * A process that writes where it should not, over a queue in the shared heap: whoever uses it then is told, by
 * TD_ECORRUPT or, where it looks like no queue at all, by a sentence and abort; or it goes on with what may be true,
 * and items are lost. Nobody crashes in another way, writes over its own memory, or does not come back from a call with
 * a time limit; nor does who repairs after those who die in it.
 */
#include "ledger.h"
#include <tandem/wait.h>
#include "queue/queue.h"

#include <signal.h>
#include <stddef.h>

enum { ITEM = 40, LARGE = 700, MANY = 12 };

typedef struct scene {
    const char *name;
    td_queue_options options;
    int items; /* in it when it is written over */
} scene;

#define SHARED .struct_size = sizeof(td_queue_options), .shared = true, .joinable = true
static const scene scenes[] = {
    { "fifo", { SHARED, .item_size = ITEM, .capacity = 50 }, 20 },
    { "fifo of one", { SHARED, .item_size = ITEM, .capacity = 1 }, 1 },
    { "fifo without a limit", { SHARED, .item_size = ITEM }, 300 },
    { "items of any size", { SHARED, .item_size = LARGE, .any_size = true, .capacity = 20 }, 15 },
    { "any size without a limit", { SHARED, .item_size = LARGE, .any_size = true }, 100 },
    { "lifo", { SHARED, .kind = TD_QUEUE_LIFO, .item_size = ITEM }, 150 },
    { "priority",
      { SHARED, .kind = TD_QUEUE_PRIORITY, .item_size = ITEM, .priority = { 0, sizeof(uint32_t), TD_KIND_UNSIGNED } },
      150 },
};
#define SCENES TD__COUNT(scenes)

static uint64_t state;

static uint64_t next_random(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return state >> 33;
}

/* --- a worker that uses it --------------------------------------------------------------------------------- */

typedef struct use {
    td_queue *queue;
    uint32_t scene;
    long step; /* where it is killed, or 0 */
} use;

typedef struct room {
    char bytes[LARGE * MANY], guard[64];
} room;

/* Whatever it says is one of the things that a queue says. */
static void told(int64_t r, int *corrupt)
{
    static const int codes[] = { TD_ECORRUPT, TD_EINVAL, TD_EFULL,  TD_EEMPTY,  TD_ETIMEOUT,
                                 TD_ECLOSED,  TD_ESTATE, TD_ENOMEM, TD_ETOOBIG, TD_EBUSY };
    bool known = r >= 0;
    for (size_t i = 0; i < TD__COUNT(codes); i++)
        known = known || r == codes[i];
    if (!CHECK(known))
        harness_note("    %lld: %s", (long long)r, td_last_message());
    if (r == TD_ECORRUPT)
        CHECK_HAS(td_last_message(), "corrupted");
    *corrupt += r == TD_ECORRUPT;
}

static int64_t put(const use *use, const room *from, size_t count, td_time limit)
{
    td_queue *q = use->queue;
    if (scenes[use->scene].options.any_size)
        return td_queue_put_bytes_with(q, from->bytes, count > 1 ? LARGE : 10, limit, NULL);
    return count > 1 ? td_queue_put_many_with(q, from->bytes, count, limit, NULL)
                     : td_queue_put_with(q, from->bytes, limit, NULL);
}

static int64_t get(const use *use, room *to, size_t count, td_time limit)
{
    td_queue *q = use->queue;
    size_t size;
    memset(to->guard, 'g', sizeof to->guard);
    int64_t r;
    if (scenes[use->scene].options.any_size) {
        r = td_queue_get_bytes_with(q, to->bytes, LARGE, &size, limit, NULL);
        CHECK(r < 0 || size <= LARGE);
    } else {
        /* So that there is nothing behind what the call may write to. */
        char *at = to->bytes + sizeof to->bytes - count * ITEM;
        r = count > 1 ? td_queue_get_many_with(q, at, count, limit, NULL) : td_queue_get_with(q, at, limit, NULL);
        CHECK(r <= (int64_t)count);
    }
    for (size_t i = 0; i < sizeof to->guard; i++)
        if (to->guard[i] != 'g')
            return CHECK(!"the room for the item was written beyond"), r;
    return r;
}

static int use_queue(td_call *call)
{
    use use = td_arg(call, struct use);
    td_queue *q = use.queue;
    static room room;
    int all = 0;
    td_time little = td_us(300);
    td__kill_at_step(use.step);
    td_queue_qsize(q);
    td_queue_full(q);
    for (int i = 0; i < 8; i++) {
        told(get(&use, &room, 1, little), &all);
        told(put(&use, &room, 1, little), &all);
        told(put(&use, &room, MANY, little), &all);
        told(get(&use, &room, MANY, little), &all);
        told(td_queue_task_done(q), &all);
    }
    for (int i = 0; i < 70; i++) /* around */
        if (told(put(&use, &room, 1, td_us(1)), &all), i % 3)
            told(get(&use, &room, 1, td_us(1)), &all);
    td_waitable thing = TD_WAIT_QUEUE(q);
    td_wait_any(&thing, 1, little, NULL);
    told(td_queue_join_for(q, little), &all);
    told(td_queue_shutdown(q, use.scene % 2), &all);
    for (int i = 0; i < 300; i++)
        told(get(&use, &room, MANY, td_us(1)), &all);
    told(td_queue_join_for(q, little), &all);
    td_queue_qsize(q);
    td_queue_free(q);
    td__kill_at_step(0);
    return td_return(call, int, all);
}

/* --- the test's side --------------------------------------------------------------------------------------- */

static td_queue *set_scene(uint32_t number)
{
    const scene *s = &scenes[number];
    static room room;
    use use = { .scene = number };
    use.queue = td_queue_create(&s->options);
    REQUIRE(use.queue != NULL);
    for (int i = 0; i < s->items; i++) {
        memset(room.bytes, i * 37, ITEM);
        REQUIRE(put(&use, &room, s->options.any_size && i % 2 ? MANY : 1, td_s(5)) >= 0);
    }
    for (int i = 0; i < s->items / 4; i++)
        REQUIRE(get(&use, &room, 1, td_s(5)) >= 0);
    for (int i = 0; i < s->items / 4; i++)
        REQUIRE(put(&use, &room, 1, td_s(5)) >= 0);
    return use.queue;
}

/* Another process uses it. Returns whether it was told. */
static bool used(const mode *how, td_queue *q, uint32_t number, long step)
{
    use use = { q, number, step };
    td_worker *w = WORKER(NEW(.target = use_queue, .args = TD_VAL(use)));
    REQUIRE_OK(td_start(w));
    int corrupt = 0;
    bool is_told = false;
    if (!CHECK_OK(td_join_for(w, td_s(20 * SLOW)))) {
        td_kill(w);
        td_join(w);
    } else if (td_outcome(w) == TD_RETURNED) {
        REQUIRE_OK(td_result(w, int, &corrupt));
        is_told = corrupt > 0;
    } else if (!(step && td_exitcode(w) == -SIGKILL)) {
        is_told = CHECK_INT(td_exitcode(w), -SIGABRT);
        if (!is_told)
            harness_note("    %s", td_describe(w));
    }
    pid_t pid = td_pid(w);
    td_free(w);
    repaired(pid);
    return is_told;
}

/* --- at random ----------------------------------------------------------------------------------------------- */

/* What belongs to a queue: its own block, and the further parts. */
typedef struct part {
    unsigned char *at;
    size_t size;
} part;

static size_t parts_of(const td_queue *q, part part[TD__QUEUE_PARTS])
{
    size_t count = 0;
    part[count++] = (struct part){ (unsigned char *)(uintptr_t)q, td_shared_size(q) };
    for (uint32_t i = 1; i < TD__QUEUE_PARTS; i++)
        if (q->part[i])
            part[count++] = (struct part){ (unsigned char *)q->part[i], td_shared_size((void *)q->part[i]) };
    return count;
}

/* Half of all go to the first words of a part. A latch that says that somebody holds it cannot be told from one that is
 * held. */
static void scribble(const part *part, const td_queue *q)
{
    size_t most = next_random() % 2 ? part->size : sizeof(td_queue);
    size_t at = (size_t)next_random() % (most < part->size ? most : part->size),
           length = 1 + (size_t)next_random() % 16;
    unsigned how = (unsigned)next_random() % 4;
    for (size_t i = at; i < at + length && i < part->size; i++)
        if ((size_t)(part->at + i - (const unsigned char *)&q->latch) >= sizeof q->latch)
            part->at[i] = how == 0   ? 0
                          : how == 1 ? 0xff
                          : how == 2 ? (unsigned char)next_random()
                                     : (unsigned char)(part->at[i] ^ 1u << next_random() % 8);
}

/* `dying`: killed at some step, too, so that who repairs has to do with it. */
static void written_over(const mode *how, bool dying)
{
    const char *given = getenv("TANDEM_TEST_SEED");
    state = given ? strtoull(given, NULL, 10) : 4711 + (uint64_t)dying;
    int tellings = 0, rounds = 210 / thrift();
    harness_note("    seed %llu (TANDEM_TEST_SEED)", (unsigned long long)state);
    for (int round = 0; round < rounds && !harness_failed(); round++) {
        uint32_t number = (uint32_t)round % SCENES;
        uint64_t seed = state;
        td_queue *q = set_scene(number);
        part part[TD__QUEUE_PARTS];
        size_t count = parts_of(q, part);
        for (uint64_t n = 1 + next_random() % 3; n > 0; n--)
            scribble(&part[next_random() % count], q);
        tellings += used(how, q, number, dying ? 1 + (long)next_random() % 600 : 0);
        if (harness_failed())
            harness_note("    %s, round %d, state %llu", scenes[number].name, round, (unsigned long long)seed);
        REQUIRE_OK(td_shared_check());
    }
    harness_note("    told %d times of %d", tellings, rounds);
    CHECK(dying || tellings > rounds / 8);
}

TEST_METHODS_LIMIT(written_over, 200)
{
    written_over(how, false);
}

TEST_METHODS_LIMIT(written_over_and_killed, 200)
{
    written_over(how, true);
}

/* --- each word ------------------------------------------------------------------------------------------------ */

enum { ALL = 1, RINGS = 2, GROWS = 4, SIZED = 8, SORTED = 16, ORDERED = 32, FIRST = 64 };

typedef struct word {
    const char *name;
    size_t at, size;
    unsigned of; /* which queues have a use for it */
    bool fixed;  /* nothing else can be true: whoever uses the queue is told */
} word;

#define OF(member) #member, offsetof(td_queue, member), sizeof((td_queue *)0)->member
static const word words[] = {
    { OF(magic), ALL, true },         { OF(seal), ALL, true },          { OF(seal_of_rest), ALL, true },
    { OF(item_size), ALL, true },     { OF(kind), ALL, true },          { OF(shared), ALL, true },
    { OF(any_size), ALL, true },      { OF(quick), ALL, true },         { OF(capacity), ALL, true },
    { OF(stride), ALL, true },        { OF(room), ALL, true },          { OF(joinable), ALL, true },
    { OF(key.offset), ALL, true },    { OF(key.size), ALL, true },      { OF(key.kind), ALL, true },
    { OF(gate), ALL, false },         { OF(items), ALL, false },        { OF(space), ALL, false },
    { OF(finished), ALL, false },     { OF(for_items), ALL, false },    { OF(for_space), ALL, false },
    { OF(returned), ALL, false },     { OF(looked), ALL, false },       { OF(head_ring), RINGS, false },
    { OF(part[0]), SORTED, true },    { OF(proof[0]), SORTED, true },   { OF(part[1]), GROWS, true },
    { OF(proof[1]), GROWS, true },    { OF(part[2]), GROWS, false }, /* not there yet, in some */
    { OF(skipped), ALL, false },      { OF(done), ALL, false },         { OF(count), SORTED, false },
    { OF(serial), SORTED, false },    { OF(slots), SORTED, false },     { OF(first.capacity), ALL, true },
    { OF(first.mask), ALL, true },    { OF(first.shift), ALL, true },   { OF(first.stride), ALL, true },
    { OF(first.cells), ALL, true },   { OF(first.seal), ALL, true },    { OF(first.low), RINGS, false },
    { OF(first.high), RINGS, false }, { OF(first.tail), RINGS, false }, { OF(first.head), RINGS, false },
};

static const uint64_t changes[] = { 1,         0x40, 0x10000, UINT64_C(1) << 30, UINT64_C(1) << 47, UINT64_C(1) << 63,
                                    UINT64_MAX };

static unsigned uses(const td_queue_options *o)
{
    return ALL | (o->kind == TD_QUEUE_FIFO ? RINGS : SORTED) | (o->capacity == 0 ? GROWS : 0);
}

static void flip(void *at, size_t size, uint64_t change)
{
    uint64_t value = 0;
    memcpy(&value, at, size);
    value ^= change;
    memcpy(at, &value, size);
}

/* Returns false: the change does not touch a word of this size. */
static bool try_word(uint32_t number, const word *word, uint64_t change)
{
    if (word->size < 8 && (change & ((UINT64_C(1) << word->size * 8) - 1)) == 0)
        return false;
    td_queue *q = set_scene(number);
    flip((char *)q + word->at, word->size, change);
    bool is_told = used(&mode_forkserver, q, number, 0);
    if (!CHECK(is_told || !word->fixed) || harness_failed())
        harness_note("    %s, word %s, change %llx", scenes[number].name, word->name, (unsigned long long)change);
    return true;
}

TEST_LIMIT(each_word, 200)
{
    for (uint32_t number = 0; number < SCENES; number++)
        for (size_t i = 0; i < TD__COUNT(words) && !harness_failed(); i++)
            for (size_t n = (i + number) % 3; n < TD__COUNT(changes) && !harness_failed(); n += (size_t)(3 * thrift()))
                if (words[i].of & uses(&scenes[number].options))
                    try_word(number, &words[i], changes[n]);
}

/* What is in a cell, at the place where the next item is got, or put. */
TEST_LIMIT(each_cell, 100)
{
    static const uint64_t states[] = { 0,
                                       TD__WRITING,
                                       TD__FULL,
                                       TD__READING,
                                       TD__BACK,
                                       5,
                                       7,
                                       TD__RUN_OF(128) | TD__READING,
                                       TD__RUN_OF(128) | TD__FULL,
                                       TD__LAP * 5 | TD__FULL,
                                       TD__LAP * 5 | TD__BACK,
                                       TD__LAP << 37 | TD__READING,
                                       UINT64_MAX };
    for (uint32_t number = 0; number < SCENES && !harness_failed(); number++)
        for (size_t i = 0; i < 2 * TD__COUNT(states) && scenes[number].options.kind == TD_QUEUE_FIFO;
             i += (size_t)thrift()) {
            bool put = i % 2;
            td_queue *q = set_scene(number);
            td__wheel *ring = &q->first;
            td__store_relaxed(&td__wheel_cell(ring, td__load_relaxed(put ? &ring->tail : &ring->head))->state,
                              states[i / 2]);
            used(&mode_forkserver, q, number, 0);
            if (harness_failed())
                harness_note("    %s, state %zu", scenes[number].name, i);
        }
}

/* A block that is none, and a size that cannot be, are never followed. */
TEST(blocks_of_items)
{
    uint32_t number = 3;
    static const uint64_t blocks[] = { 0, 8, 0x1000, UINT64_MAX - 127, UINT64_C(1) << 46 };
    for (size_t i = 0; i < TD__COUNT(blocks) + 2; i++) {
        td_queue *q = set_scene(number);
        uint64_t head = td__load_relaxed(&q->first.head);
        for (uint64_t at = head; at < head + 4; at++) {
            td__sized *sized = (td__sized *)(td__wheel_cell(&q->first, at) + 1);
            if (i < TD__COUNT(blocks))
                sized->block = blocks[i];
            else
                td__store_relaxed(&sized->size, i == TD__COUNT(blocks) ? UINT32_MAX : LARGE + 1);
        }
        CHECK(used(&mode_forkserver, q, number, 0));
    }
}

/* Numbers of slots that are none; also in a place where the sifting only comes by. */
TEST(order_of_priorities)
{
    uint32_t number = SCENES - 1;
    for (uint32_t place = 0; place < 64; place += (uint32_t)(5 * thrift())) {
        td_queue *q = set_scene(number);
        ((uint32_t *)q->part[0])[place] = place % 2 ? UINT32_MAX : 1u << 20;
        CHECK(used(&mode_forkserver, q, number, 0));
    }
}

/* The same sentence from every call. */
TEST(calls_say_so)
{
    td_queue *q = set_scene(0);
    item i;
    q->item_size++;
    CHECK_ERROR(td_queue_put(q, &i), TD_ECORRUPT);
    CHECK_HAS(td_last_message(), "td_queue_put: queue");
    CHECK_HAS(td_last_message(), "is corrupted");
    CHECK_ERROR(td_queue_try_get(q, &i), TD_ECORRUPT);
    CHECK_ERROR((int)td_queue_put_many(q, &i, 1), TD_ECORRUPT);
    CHECK_ERROR((int)td_queue_get_many(q, &i, 1), TD_ECORRUPT);
    CHECK_ERROR(td_queue_task_done(q), TD_ECORRUPT);
    CHECK_ERROR(td_queue_join(q), TD_ECORRUPT);
    CHECK_ERROR(td_queue_shutdown(q, false), TD_ECORRUPT);
    CHECK_INT(td_queue_qsize(q), 0);
    td_queue_free(q);
    CHECK_INT(td_last_error(), TD_ECORRUPT);
    q->item_size--;
    uint64_t tail = td__load_relaxed(&q->first.tail);
    td__store_relaxed(&q->first.tail, tail + (UINT64_C(5) << q->first.shift)); /* laps ahead */
    CHECK_ERROR(td_queue_put(q, &i), TD_ECORRUPT);
    td__store_relaxed(&q->first.tail, tail | q->first.mask); /* beyond the end */
    CHECK_ERROR(td_queue_put(q, &i), TD_ECORRUPT);
    CHECK_ERROR(td_queue_join(q), TD_ECORRUPT);
    td__store_relaxed(&q->first.tail, tail);
    td__store_relaxed(&q->done, 1000);
    CHECK_ERROR(td_queue_join(q), TD_ECORRUPT);
    td__store_relaxed(&q->done, 0);
    CHECK_OK(td_queue_put(q, (char[ITEM]){ 0 }));
    td_queue_free(q);
}
