/* SPDX-License-Identifier: MIT */
/* Queues while nobody dies: order, limits, waiting, shutdown, join, bad input; between threads and between processes.
 */
#include "ledger.h"
#include "queue/queue.h"
#include "sync/latch.h"

#include <math.h>
#include <sched.h>

/* --- one thread -------------------------------------------------------------------------------------------- */

/* Any capacity is kept exactly, over many laps of the ring. */
static void fill_and_empty(bool shared, size_t capacity)
{
    td_queue *q = QUEUE(.item_size = sizeof(uint64_t), .capacity = capacity, .shared = shared);
    uint64_t next = 0, expected = 0, got;
    for (int lap = 0; lap < 20; lap++) {
        size_t count = 0, limit = capacity ? capacity : 1000;
        while (count < limit && CHECK_OK(td_queue_try_put(q, &next)))
            next++, count++;
        CHECK_INT(td_queue_qsize(q), count);
        CHECK_INT(td_queue_full(q), capacity > 0);
        if (capacity)
            CHECK_ERROR(td_queue_try_put(q, &next), TD_EFULL);
        /* Not all, so that the positions move. */
        for (size_t i = 0; i < count - (capacity > 2 && lap % 3 == 0); i++)
            if (CHECK_OK(td_queue_try_get(q, &got)))
                CHECK_INT(got, expected++);
        if (capacity > 2 && lap % 3 == 0)
            CHECK(td_queue_try_get(q, &got) == 0 && got == expected++);
        CHECK_ERROR(td_queue_try_get(q, &got), TD_EEMPTY);
        CHECK(td_queue_empty(q));
        CHECK_INT(td_queue_qsize(q), 0);
    }
    td_queue_free(q);
}

TEST(capacities)
{
    static const size_t some[] = { 0, 1, 2, 3, 4, 5, 7, 8, 100, 1000, 4096 };
    for (size_t i = 0; i < TD__COUNT(some); i++)
        for (int shared = 0; shared < 2; shared++)
            fill_and_empty(shared, some[i]);
}

/* Items of all sizes come out as they went in, and the bytes beside them stay as they are. */
TEST(item_sizes)
{
    static const size_t some[] = { 1, 2, 3, 7, 8, 9, 16, 24, 63, 64, 65, 100, 1000, 4096, 65536, 1000001 };
    for (size_t i = 0; i < TD__COUNT(some); i++) {
        size_t size = some[i];
        td_queue *q = QUEUE(.item_size = size, .capacity = 3, .shared = i % 2);
        char *in = malloc(size), *out = malloc(size + 16);
        for (int n = 0; n < 10; n++) {
            memset(in, n + 1, size);
            memset(out, 0x55, size + 16);
            CHECK_OK(td_queue_put(q, in));
            CHECK_OK(td_queue_get(q, out + 8));
            CHECK(memcmp(out + 8, in, size) == 0);
            CHECK(out[7] == 0x55 && out[8 + size] == 0x55);
        }
        free(in);
        free(out);
        td_queue_free(q);
    }
    td_queue *q = QUEUE(.shared = false); /* of pointers */
    void *p = &q, *got;
    CHECK_OK(td_queue_put(q, &p));
    CHECK_OK(td_queue_get(q, &got));
    CHECK(got == p);
    td_queue_free(q);
}

/* Without a limit, however large the items: memory for a few. Catches: the sum of their sizes in too few bits. */
TEST(large_items_without_a_limit)
{
    for (int power = 24; power <= 26; power += 2) {
        td_queue *q = QUEUE(.item_size = ((size_t)1 << power) - sizeof(td__cell));
        CHECK_INT(q->first.capacity, 4);
        td_queue_free(q);
    }
}

/* Who has slept has asked for fences, and who changes the queue takes that away after a while: also one who changes
 * another queue in turn with it, on which somebody sleeps again and again. Catches: a count that only ever falls to one
 * of them, so that all changes of the other one pay for a sleeper who is long gone. */
static void check_fences_end(bool shared, int kept)
{
    td_queue *q[2];
    uint64_t item = 1;
    for (int i = 0; i < 2; i++) {
        q[i] = QUEUE(.item_size = sizeof item, .shared = shared);
        CHECK_ERROR(td_queue_get_for(q[i], &item, td_ms(1)), TD_ETIMEOUT);
        CHECK(td__load_relaxed(&q[i]->fences) != 0);
    }
    uint32_t asked = td__load_relaxed(&q[kept]->fences);
    for (int n = 0; n < 1000; n++) {
        td__store_relaxed(&q[kept]->fences, asked);
        for (int i = 0; i < 2; i++)
            CHECK_OK(td_queue_put(q[i], &item));
        for (int i = 0; i < 2; i++)
            CHECK_OK(td_queue_get(q[i], &item));
    }
    CHECK_INT(td__load_relaxed(&q[!kept]->fences), 0);
    td_queue_free(q[0]);
    td_queue_free(q[1]);
}

TEST(fences_end)
{
    if (td__release_by_exchange)
        SKIP("the kernel refuses barriers");
    for (int shared = 0; shared < 2; shared++)
        for (int kept = 0; kept < 2; kept++)
            check_fences_end(shared, kept);
}

TEST(lifo_order)
{
    for (int shared = 0; shared < 2; shared++)
        for (size_t capacity = 0; capacity < 3000; capacity += 1000) {
            td_queue *q = QUEUE(.item_size = 4, .kind = TD_QUEUE_LIFO, .capacity = capacity, .shared = shared);
            int got, some[5];
            for (int i = 0; i < 1000; i++)
                CHECK_OK(td_queue_put(q, &i));
            CHECK_INT(td_queue_qsize(q), 1000);
            CHECK_INT(td_queue_full(q), capacity == 1000);
            CHECK_INT(td_queue_get_many(q, some, 5), 5);
            CHECK(some[0] == 999 && some[4] == 995);
            for (int i = 994; i >= 0; i--) {
                CHECK_OK(td_queue_get(q, &got));
                CHECK_INT(got, i);
            }
            CHECK_ERROR(td_queue_try_get(q, &got), TD_EEMPTY);
            td_queue_free(q);
        }
}

typedef struct urgent {
    char name[3];
    double urgency;
    int number;
} urgent;

/* The smallest first, equal ones as they came, in a heap of several parts. */
TEST(priority_order)
{
    for (int shared = 0; shared < 2; shared++) {
        td_queue *q = QUEUE(.item_size = sizeof(urgent), .kind = TD_QUEUE_PRIORITY,
                            .priority = TD_PRIORITY(urgent, urgency), .shared = shared);
        uint64_t random = 12345;
        for (int i = 0; i < 5000; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            urgent u = { "ab", (double)((int64_t)(random >> 33) % 100) - 50, i };
            CHECK_OK(td_queue_put(q, &u));
        }
        urgent last = { "", -1e9, 0 }, u;
        for (int i = 0; i < 5000; i++) {
            if (!CHECK_OK(td_queue_try_get(q, &u)))
                break;
            CHECK(last.urgency < u.urgency || (last.urgency == u.urgency && last.number < u.number));
            last = u;
        }
        CHECK(td_queue_empty(q));
        td_queue_free(q);
    }
}

#define CHECK_SORTED(type, ...)                                                                   \
    do {                                                                                          \
        static const type sorted[] = { __VA_ARGS__ };                                             \
        td_queue *q = QUEUE(.item_size = sizeof(type), .kind = TD_QUEUE_PRIORITY, .capacity = 16, \
                            .priority = TD_PRIORITY_ITEM(type));                                  \
        for (size_t i = 0; i < TD__COUNT(sorted); i++)                                            \
            CHECK_OK(td_queue_put(q, &sorted[(i * 3 + 1) % TD__COUNT(sorted)]));                  \
        type got;                                                                                 \
        for (size_t i = 0; i < TD__COUNT(sorted); i++)                                            \
            CHECK(td_queue_try_get(q, &got) == 0 && memcmp(&got, &sorted[i], sizeof got) == 0);   \
        td_queue_free(q);                                                                         \
    } while (0)

TEST(priority_kinds)
{
    CHECK_SORTED(int, INT32_MIN, -1, 0, 7, INT32_MAX);
    CHECK_SORTED(int8_t, -128, -1, 0, 7, 127);
    CHECK_SORTED(int16_t, -32768, -1, 0, 7, 32767);
    CHECK_SORTED(int64_t, INT64_MIN, -1, 0, 7, INT64_MAX);
    CHECK_SORTED(uint8_t, 0, 1, 7, 200, 255);
    CHECK_SORTED(uint64_t, 0, 1, 7, INT64_MAX, UINT64_MAX);
    CHECK_SORTED(double, -1e300, -1, 0, 1e-300, 7);
    CHECK_SORTED(float, -1e30f, -1, 0, 1e-30f, 7);
    CHECK_SORTED(bool, false, true);
}

/* What is no number comes last, whatever its sign; long double has bytes that do not count. */
TEST(priorities_that_are_no_number)
{
#define CHECK_LAST(type)                                                                                               \
    do {                                                                                                               \
        const type in[] = { (type)NAN, 1, (type)-INFINITY, -(type)NAN, (type)INFINITY, -1 };                           \
        td_queue *q = QUEUE(.item_size = sizeof(type), .kind = TD_QUEUE_PRIORITY, .priority = TD_PRIORITY_ITEM(type)); \
        for (size_t i = 0; i < TD__COUNT(in); i++)                                                                     \
            CHECK_OK(td_queue_put(q, &in[i]));                                                                         \
        type got = 0;                                                                                                  \
        const type sorted[] = { (type)-INFINITY, -1, 1, (type)INFINITY };                                              \
        for (size_t i = 0; i < TD__COUNT(in); i++) {                                                                   \
            CHECK_OK(td_queue_try_get(q, &got));                                                                       \
            CHECK(i < TD__COUNT(sorted) ? got == sorted[i] : isnan(got));                                              \
        }                                                                                                              \
        td_queue_free(q);                                                                                              \
    } while (0)
    CHECK_LAST(float);
    CHECK_LAST(double);
    CHECK_LAST(long double);
}

/* Items of any size, in the cell and outside of it; one that does not fit stays. */
TEST(any_size)
{
    for (int shared = 0; shared < 2; shared++)
        for (size_t capacity = 0; capacity < 8; capacity += 4) {
            td_queue *q = QUEUE(.item_size = 5000, .any_size = true, .capacity = capacity, .shared = shared);
            char in[5001], out[5001];
            size_t size;
            for (size_t n = 0; n <= 5000; n += n < 300 ? 1 : 97) {
                memset(in, (int)(n % 127) + 1, sizeof in);
                CHECK_OK(td_queue_put_bytes(q, in, n));
                if (n > 0) {
                    CHECK_ERROR(td_queue_get_bytes(q, out, n - 1, &size), TD_ETOOBIG);
                    CHECK_INT(size, n);
                }
                out[n] = 0x55;
                CHECK_OK(td_queue_get_bytes(q, out, n, &size));
                CHECK_INT(size, n);
                CHECK(memcmp(in, out, n) == 0 && out[n] == 0x55);
            }
            CHECK_ERROR(td_queue_put_bytes(q, in, 5001), TD_ETOOBIG);
            CHECK_HAS(td_last_message(), "5001");
            CHECK_ERROR(td_queue_put(q, in), TD_EUNSUPPORTED);
            CHECK_ERROR(td_queue_get(q, in), TD_EUNSUPPORTED);
            CHECK_ERROR(td_queue_try_get_bytes(q, out, 10, &size), TD_EEMPTY);
            CHECK_ERROR(td_queue_get_bytes_for(q, out, 10, &size, td_ms(1)), TD_ETIMEOUT);
            for (size_t n = 0; n < capacity; n++)
                CHECK_OK(n % 2 ? td_queue_try_put_bytes(q, in, n) : td_queue_put_bytes_for(q, in, n, td_ms(1)));
            if (capacity) {
                CHECK_ERROR(td_queue_try_put_bytes(q, in, 1), TD_EFULL);
                CHECK_ERROR(td_queue_put_bytes_for(q, in, 1, td_ms(1)), TD_ETIMEOUT);
            }
            CHECK_ERROR(td_queue_try_put_bytes(q, in, 5001), TD_ETOOBIG);
            for (size_t n = 0; n < capacity; n++) {
                CHECK_OK(td_queue_try_get_bytes(q, out, sizeof out, &size));
                CHECK_INT(size, n);
            }
            td_queue_free(q);
        }
}

/* Blocks of the shared heap, in every form of the calls. */
TEST(blocks_handed_over)
{
    for (int shared = 0; shared < 2; shared++) {
        td_queue *q = QUEUE(.capacity = 2, .shared = shared);
        int *block[3], x = 0;
        void *got = NULL;
        for (int i = 0; i < 3; i++)
            block[i] = shared_memory(sizeof *block[i]);
        CHECK_ERROR(td_queue_try_get_shared(q, &got), TD_EEMPTY);
        CHECK_ERROR(td_queue_get_shared_for(q, &got, td_ms(1)), TD_ETIMEOUT);
        CHECK_ERROR(td_queue_try_put_shared(q, &x), TD_EINVAL);
        CHECK_ERROR(td_queue_try_get_shared(q, NULL), TD_EINVAL);
        CHECK_OK(td_queue_try_put_shared(q, block[0]));
        CHECK_OK(td_queue_put_shared_for(q, block[1], td_ms(1)));
        CHECK_ERROR(td_queue_try_put_shared(q, block[2]), TD_EFULL);
        CHECK_ERROR(td_queue_put_shared_for(q, block[2], td_ms(1)), TD_ETIMEOUT);
        CHECK_OK(td_queue_try_get_shared(q, &got));
        CHECK(got == block[0]);
        CHECK_OK(td_queue_get_shared_for(q, &got, td_ms(1)));
        CHECK(got == block[1]);
        td_queue_free(q);
        q = QUEUE(.item_size = 4, .shared = shared);
        CHECK_ERROR(td_queue_try_put_shared(q, block[0]), TD_ETYPE);
        CHECK_ERROR(td_queue_try_get_shared(q, &got), TD_ETYPE);
        td_queue_free(q);
    }
}

TEST(many_at_once)
{
    for (int kind = 0; kind < 2; kind++)
        for (int shared = 0; shared < 2; shared++) {
            td_queue *q =
                QUEUE(.item_size = 4, .capacity = 10, .shared = shared, .kind = kind ? TD_QUEUE_LIFO : TD_QUEUE_FIFO);
            int in[25], out[25];
            for (int i = 0; i < 25; i++)
                in[i] = i;
            CHECK_INT(td_queue_try_put_many(q, in, 0), 0);
            CHECK_INT(td_queue_try_put_many(q, in, 25), 10);
            CHECK_ERROR((int)td_queue_try_put_many(q, in, 25), TD_EFULL);
            CHECK_INT(td_queue_put_many_for(q, in, 3, td_ms(1)), TD_ETIMEOUT);
            CHECK_INT(td_queue_get_many(q, out, 4), 4);
            CHECK_INT(td_queue_put_many_with(q, in, 25, td_ms(1), NULL), 4);
            CHECK_INT(td_queue_get_many(q, out, 25), 10);
            for (int i = 0; i < 10 && kind == 0; i++)
                CHECK_INT(out[i], i < 6 ? i + 4 : i - 6);
            CHECK_ERROR((int)td_queue_try_get_many(q, out, 25), TD_EEMPTY);
            CHECK_ERROR((int)td_queue_get_many_for(q, out, 25, td_ms(1)), TD_ETIMEOUT);
            CHECK_INT(td_queue_get_many(q, out, 0), 0);
            td_queue_free(q);
        }
}

/* A queue without a limit keeps the order over all its rings, also while it is read. */
TEST(growth)
{
    for (int shared = 0; shared < 2; shared++) {
        td_queue *q = QUEUE(.item_size = 4, .shared = shared);
        int in = 0, out = 0, got;
        for (int round = 1; round < 300 / thrift(); round++) {
            for (int i = 0; i < round * 7; i++, in++)
                CHECK_OK(td_queue_put(q, &in));
            for (int i = 0; i < round * 5; i++, out++)
                CHECK(td_queue_try_get(q, &got) == 0 && got == out);
            CHECK_INT(td_queue_qsize(q), in - out);
        }
        for (; out < in; out++)
            CHECK(td_queue_try_get(q, &got) == 0 && got == out);
        CHECK_ERROR(td_queue_try_get(q, &got), TD_EEMPTY);
        td_queue_free(q);
    }
}

TEST(bad_input)
{
    int x = 0;
    size_t size;
    CHECK_NULL(td_queue_create(NULL), TD_EINVAL);
    CHECK_NULL(td_queue_create(&(td_queue_options){ .item_size = 8 }), TD_EINVAL);
    CHECK_NULL(td_queue_new(.item_size = SIZE_MAX), TD_ETOOBIG);
    CHECK_NULL(td_queue_new(.item_size = 8, .capacity = SIZE_MAX), TD_ETOOBIG);
    if (!SANITIZED) /* which end a program that asks for so much */
        CHECK_NULL(td_queue_new(.item_size = (size_t)1 << 30, .capacity = (size_t)1 << 30), TD_ENOMEM);
    CHECK_NULL(td_queue_new(.item_size = (size_t)1 << 30, .capacity = (size_t)1 << 30, .shared = true), TD_ENOMEM);
    CHECK_NULL(td_queue_new(.item_size = 8, .kind = (td_queue_kind)7), TD_EINVAL);
    CHECK_NULL(td_queue_new(.item_size = 8, .kind = TD_QUEUE_PRIORITY), TD_EINVAL);
    CHECK_NULL(td_queue_new(.item_size = 8, .priority = TD_PRIORITY_ITEM(int)), TD_EINVAL);
    CHECK_NULL(td_queue_new(.item_size = 8, .kind = TD_QUEUE_PRIORITY, .priority = { 6, 4, TD_KIND_SIGNED }),
               TD_EINVAL);
    CHECK_NULL(td_queue_new(.item_size = 8, .kind = TD_QUEUE_PRIORITY, .priority = { SIZE_MAX, 4, TD_KIND_SIGNED }),
               TD_EINVAL);
    CHECK_NULL(td_queue_new(.item_size = 8, .kind = TD_QUEUE_PRIORITY, .priority = { 0, 8, TD_KIND_STRUCT }),
               TD_EINVAL);
    CHECK_NULL(td_queue_new(.item_size = 8, .kind = TD_QUEUE_LIFO, .any_size = true), TD_EUNSUPPORTED);

    CHECK_NULL(td_queue_new(.item_size = SIZE_MAX), TD_ETOOBIG);
    CHECK_ERROR(td_queue_put(NULL, &x), TD_ETOOBIG); /* the pending one */
    CHECK_ERROR(td_queue_get(NULL, &x), TD_ETOOBIG);
    CHECK_ERROR(td_queue_shutdown(NULL, false), TD_ETOOBIG);
    CHECK_ERROR(td_queue_join(NULL), TD_ETOOBIG);
    CHECK_INT(td_queue_qsize(NULL), 0);
    td_queue_free(NULL);

    td_queue *q = QUEUE(.item_size = sizeof x, .capacity = 1);
    CHECK_ERROR(td_queue_put(q, NULL), TD_EINVAL);
    CHECK_ERROR(td_queue_get(q, NULL), TD_EINVAL);
    CHECK_ERROR((int)td_queue_put_many(q, NULL, 3), TD_EINVAL);
    CHECK_ERROR(td_queue_put_bytes(q, &x, sizeof x), TD_EUNSUPPORTED);
    CHECK_ERROR(td_queue_get_bytes(q, &x, sizeof x, &size), TD_EUNSUPPORTED);
    CHECK_ERROR(td_queue_put_shared(q, &x), TD_ETYPE);
    CHECK_ERROR(td_queue_task_done(q), TD_EUNSUPPORTED);
    CHECK_ERROR(td_queue_join(q), TD_EUNSUPPORTED);
    CHECK_ERROR(td_queue_get_for(q, &x, td_ns(-5)), TD_ETIMEOUT);
    CHECK_OK(td_queue_put_for(q, &x, td_ns(INT64_MAX)));
    CHECK_ERROR(td_queue_put_for(q, &x, td_ms(0)), TD_ETIMEOUT);
    CHECK_INT(td_queue_capacity(q), 1);
    td_queue_free(q);

    q = QUEUE(.shared = false);
    int *block = shared_memory(sizeof *block), *got = NULL;
    CHECK_ERROR(td_queue_put_shared(q, &x), TD_EINVAL);
    CHECK_OK(td_queue_put_shared(q, block));
    CHECK_OK(td_queue_get_shared(q, (void **)&got));
    CHECK(got == block);
    td_queue_free(q);
}

HELPER(without_init)
{
    (void)argc, (void)argv;
    td_lock lock = { 0 };
    int x = 4;
    for (int i = 0; i < 2; i++) { /* the second time by a thread that has its record already */
        CHECK_NULL(td_queue_new(.item_size = sizeof x, .shared = true), TD_EINIT);
        CHECK_NULL(td_queue_new(.kind = TD_QUEUE_LIFO, .shared = true), TD_EINIT);
        CHECK_HAS(td_last_message(), "td_init");
        CHECK_OK(td_lock_acquire(&lock));
        td_lock_release(&lock);
    }
    td_queue *own = QUEUE(.item_size = sizeof x);
    CHECK_OK(td_queue_put(own, &x));
    CHECK_OK(td_init());
    td_queue *q = QUEUE(.item_size = sizeof x, .shared = true);
    CHECK_OK(td_queue_get(own, &x));
    CHECK_OK(td_queue_put(q, &x));
    td_queue_free(own);
    td_queue_free(q);
    return harness_failed();
}

INIT(no_init)
{
}

/* Catches: a queue made in shared memory where there is none. */
TEST(before_init)
{
    helper_options options = { .init = "no_init" };
    CHECK_INT(helper_run(&options, "without_init", NULL), 0);
}

/* --- shutdown, task_done and join in one thread ------------------------------------------------------------- */

TEST(shutdown_drains)
{
    for (int kind = 0; kind < 3; kind++)
        for (int shared = 0; shared < 2; shared++)
            for (size_t capacity = 0; capacity < 5; capacity += 4) {
                td_queue *q =
                    QUEUE(.item_size = 4, .capacity = capacity, .shared = shared, .kind = (td_queue_kind)kind,
                          .priority = kind == 2 ? TD_PRIORITY_ITEM(int) : (td_priority){ 0 }, .joinable = true);
                int x = 5;
                CHECK_OK(td_queue_put(q, &x));
                CHECK_OK(td_queue_put(q, &x));
                CHECK(!td_queue_is_shutdown(q));
                CHECK_OK(td_queue_shutdown(q, false));
                CHECK(td_queue_is_shutdown(q));
                CHECK_ERROR(td_queue_put(q, &x), TD_ECLOSED);
                CHECK_ERROR(td_queue_try_put(q, &x), TD_ECLOSED);
                CHECK_OK(td_queue_get(q, &x));
                CHECK_INT(td_queue_qsize(q), 1);
                CHECK_OK(td_queue_shutdown(q, false));
                CHECK_OK(td_queue_try_get(q, &x));
                CHECK_ERROR(td_queue_try_get(q, &x), TD_ECLOSED);
                CHECK_ERROR(td_queue_get(q, &x), TD_ECLOSED);
                CHECK_ERROR(td_queue_join_for(q, td_ms(1)), TD_ETIMEOUT);
                CHECK_OK(td_queue_task_done(q));
                CHECK_OK(td_queue_task_done(q));
                CHECK_ERROR(td_queue_task_done(q), TD_ESTATE);
                CHECK_OK(td_queue_join(q));
                td_queue_free(q);
            }
}

TEST(shutdown_immediate)
{
    for (int kind = 0; kind < 3; kind++)
        for (int shared = 0; shared < 2; shared++) {
            td_queue *q = QUEUE(.item_size = 4, .shared = shared, .kind = (td_queue_kind)kind, .joinable = true,
                                .priority = kind == 2 ? TD_PRIORITY_ITEM(int) : (td_priority){ 0 });
            int x = 5;
            for (int i = 0; i < 200; i++)
                CHECK_OK(td_queue_put(q, &x));
            CHECK_OK(td_queue_get(q, &x));
            CHECK_OK(td_queue_shutdown(q, true));
            CHECK_INT(td_queue_qsize(q), 0);
            CHECK_ERROR(td_queue_get(q, &x), TD_ECLOSED);
            CHECK_ERROR(td_queue_put(q, &x), TD_ECLOSED);
            CHECK_ERROR(td_queue_join_for(q, td_ms(1)), TD_ETIMEOUT); /* the one that was taken out */
            CHECK_OK(td_queue_task_done(q));
            CHECK_OK(td_queue_join(q));
            CHECK_ERROR(td_queue_task_done(q), TD_ESTATE);
            td_queue_free(q);
        }
}

/* A put that had passed the gate when the queue was dropped: nobody gets its item, and join does not wait for it. */
TEST(put_into_a_dropped_queue)
{
    for (int get = 0; get < 2; get++)
        for (int shared = 0; shared < 2; shared++) {
            td_queue *q = QUEUE(.item_size = 4, .shared = shared, .joinable = true, .capacity = 2);
            int x = 5;
            CHECK_OK(td_queue_shutdown(q, true));
            uint32_t gate = td__load_relaxed(&q->gate);
            td__store_relaxed(&q->gate, 0);
            CHECK_OK(td_queue_put(q, &x));
            td__store_relaxed(&q->gate, gate);
            if (get)
                CHECK_ERROR(td_queue_try_get(q, &x), TD_ECLOSED);
            CHECK_OK(td_queue_join_for(q, td_s(20)));
            td_queue_free(q);
        }
}

/* Memory that is refused: a sentence, nothing lost, and the next try succeeds. */
static bool with_fault(bool shared, td_queue_kind kind, long n)
{
    char item[500], got[500];
    size_t size;
    int put = 0;
    td_queue_options o = { .struct_size = sizeof o, .shared = shared, .kind = kind, .item_size = sizeof item };
    o.any_size = kind == TD_QUEUE_FIFO;
    td__fault_arm(n);
    td_queue *q = td_queue_create(&o);
    if (!q) {
        CHECK_INT(td_last_error(), TD_ENOMEM);
        td__fault_disarm();
        return true;
    }
    for (; put < 300; put++) {
        memset(item, put % 100 + 1, sizeof item);
        int r;
        while ((r = o.any_size ? td_queue_put_bytes(q, item, sizeof item) : td_queue_put(q, item)) < 0) {
            CHECK_INT(r, TD_ENOMEM);
            REQUIRE(td__fault_fired());
        }
    }
    td__fault_disarm();
    bool fired = td__fault_fired();
    CHECK_INT(td_queue_qsize(q), put);
    for (int i = 0; i < put; i++) {
        int expected = kind == TD_QUEUE_FIFO ? i : put - 1 - i;
        CHECK_OK(o.any_size ? td_queue_get_bytes(q, got, sizeof got, &size) : td_queue_get(q, got));
        CHECK(got[0] == expected % 100 + 1 && got[499] == got[0]);
    }
    CHECK(td_queue_empty(q));
    td_queue_free(q);
    return fired;
}

TEST(faults)
{
    for (int shared = 0; shared < 2; shared++)
        for (int kind = 0; kind < 2; kind++)
            for (long n = 1; with_fault(shared, (td_queue_kind)kind, n) && !harness_failed(); n++)
                ;
}

TEST(join_counts)
{
    for (int kind = 0; kind < 3; kind++)
        for (int shared = 0; shared < 2; shared++)
            for (size_t capacity = 0; capacity < 4; capacity += 3) {
                td_queue *q =
                    QUEUE(.item_size = 4, .shared = shared, .kind = (td_queue_kind)kind, .joinable = true,
                          .capacity = capacity, .priority = kind == 2 ? TD_PRIORITY_ITEM(int) : (td_priority){ 0 });
                int x = 5;
                CHECK_OK(td_queue_join(q));
                CHECK_ERROR(td_queue_task_done(q), TD_ESTATE);
                for (int i = 0; i < 300; i++) {
                    CHECK_OK(td_queue_put(q, &x));
                    if (i % 50 == 0)
                        CHECK_ERROR(td_queue_join_for(q, td_ms(1)), TD_ETIMEOUT);
                    CHECK_OK(td_queue_get(q, &x));
                    CHECK_OK(td_queue_task_done(q));
                    CHECK_OK(td_queue_join_for(q, td_ms(1)));
                }
                td_queue_free(q);
            }
}

/* --- many ---------------------------------------------------------------------------------------------------- */

enum { MANY = 16, FAST = 0, BATCH = 1, SIZED = 2, POLLED = 3 };
typedef struct run {
    td_queue *queue;
    uint32_t index, producers, items;
    int way;
    _Atomic uint32_t *seen; /* [producers][items] */
} run;

static void put_in(const run *r, const item *some, uint32_t count)
{
    if (r->way == BATCH) {
        CHECK_INT(td_queue_put_many(r->queue, some, count), count);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        int e = TD_EFULL;
        if (r->way == SIZED)
            e = td_queue_put_bytes(r->queue, &some[i], sizeof(item));
        else if (r->way == FAST)
            e = td_queue_put(r->queue, &some[i]);
        else
            while ((e = td_queue_try_put(r->queue, &some[i])) == TD_EFULL)
                sched_yield();
        CHECK_OK(e);
    }
}

static int produce(td_call *call)
{
    run r = td_arg(call, run);
    item some[50];
    for (uint32_t i = 0; i < r.items; i += 50) {
        for (uint32_t n = 0; n < 50; n++)
            some[n] = item_make(r.index, i + n);
        put_in(&r, some, 50);
    }
    return harness_failed();
}

static int64_t take_out(const run *r, item *some)
{
    size_t size = sizeof(item);
    int64_t e = 0;
    if (r->way == BATCH)
        return td_queue_get_many(r->queue, some, 20);
    if (r->way == SIZED)
        e = td_queue_get_bytes(r->queue, some, sizeof(item), &size);
    else if (r->way == FAST)
        e = td_queue_get(r->queue, some);
    else
        while ((e = td_queue_try_get(r->queue, some)) == TD_EEMPTY)
            sched_yield();
    CHECK_INT(size, sizeof(item));
    return e < 0 ? e : 1;
}

static int consume(td_call *call)
{
    run r = td_arg(call, run);
    uint32_t next[MANY] = { 0 };
    item some[20];
    int64_t count;
    while ((count = take_out(&r, some)) > 0)
        for (int64_t i = 0; i < count; i++) {
            REQUIRE(item_whole(&some[i]));
            REQUIRE(some[i].producer < r.producers && some[i].number < r.items);
            /* In the order of each producer. */
            REQUIRE(some[i].number >= next[some[i].producer]);
            next[some[i].producer] = some[i].number + 1;
            td__fetch_add_relaxed(&r.seen[some[i].producer * r.items + some[i].number], 1);
        }
    CHECK_INT(count, TD_ECLOSED);
    return harness_failed();
}

static void many(const mode *how, bool shared, int way, size_t capacity, uint32_t producers, uint32_t consumers)
{
    uint32_t items = 2000 / (WITH_TSAN ? 10 : 1) / 50 * 50;
    run r = { .producers = producers, .items = items, .way = way, .seen = shared_memory(4 * producers * items) };
    r.queue = QUEUE(.item_size = sizeof(item), .capacity = capacity, .shared = shared, .any_size = way == SIZED);
    td_worker *w[2 * MANY];
    for (uint32_t i = 0; i < consumers; i++)
        w[MANY + i] = WORKER(NEW(.target = consume, .args = TD_VAL(r)));
    for (uint32_t i = 0; i < producers; i++) {
        r.index = i;
        w[i] = WORKER(NEW(.target = produce, .args = TD_VAL(r)));
        REQUIRE_OK(td_start(w[i]));
    }
    for (uint32_t i = 0; i < consumers; i++)
        REQUIRE_OK(td_start(w[MANY + i]));
    for (uint32_t i = 0; i < 2 * MANY; i++) {
        if (i == MANY)
            CHECK_OK(td_queue_shutdown(r.queue, false));
        if (i < producers || (i >= MANY && i < MANY + consumers)) {
            CHECK_OK(td_join(w[i]));
            CHECK_INT(td_result_code(w[i]), 0);
            td_free(w[i]);
        }
    }
    for (uint32_t i = 0; i < producers * items; i++)
        if (td__load_relaxed(&r.seen[i]) != 1 && !CHECK_INT(td__load_relaxed(&r.seen[i]), 1))
            break;
    td_queue_free(r.queue);
}

static void many_of(const mode *how, int way)
{
    static const struct {
        size_t capacity;
        uint32_t producers, consumers;
    } some[] = { { 1, 1, 1 },  { 1, 3, 3 }, { 2, 2, 1 },    { 3, 1, 4 },
                 { 64, 8, 8 }, { 0, 4, 4 }, { 1000, 1, 1 }, { 0, 1, 1 } };
    for (size_t i = 0; i < TD__COUNT(some); i++) {
        if (how == &mode_thread)
            many(how, false, way, some[i].capacity, some[i].producers, some[i].consumers);
        many(how, true, way, some[i].capacity, some[i].producers, some[i].consumers);
    }
}

TEST_MODES(many_single)
{
    many_of(how, FAST);
}

TEST_MODES(many_batches)
{
    many_of(how, BATCH);
}

TEST_MODES(many_of_any_size)
{
    many_of(how, SIZED);
}

TEST_MODES(many_polled)
{
    many_of(how, POLLED);
}

/* On one processor everybody must give way. */
TEST_MODES(many_on_one_cpu)
{
    cpu_set_t all, one;
    REQUIRE(sched_getaffinity(0, sizeof all, &all) == 0);
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++)
        if (CPU_ISSET(i, &all))
            CPU_SET(i, &one);
    REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
    many_of(how, FAST);
}
