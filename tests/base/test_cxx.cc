/* SPDX-License-Identifier: MIT */
/* The same names in C++: options by name, arguments and results by type. */
#include "harness.h"
#include <tandem.h>

#include <cstdint>
#include <string>

struct point {
    int x, y;
};

enum class colour : std::uint8_t { red = 3 };

static int sum(td_call *call)
{
    point p = td_arg(call, point);
    return td_return(call, int, p.x + p.y);
}

static int text(td_call *call)
{
    std::string s = td_arg_str(call);
    return td_return_str(call, (s + s).c_str());
}

static int fails(td_call *call)
{
    return td_fail(call, 3, "no %s", "luck");
}

static int half(td_call *call)
{
    return td_return(call, double, td_arg(call, double) / 2);
}

static int wants_long(td_call *call)
{
    long x = td_arg(call, long);
    return td_return(call, long, x);
}

static int echo_colour(td_call *call)
{
    colour c = td_arg(call, colour);
    return td_return(call, colour, c);
}

static int makes_point(td_call *call)
{
    point p{ 5, 6 };
    (void)call;
    return td_call_return_of(call, p);
}

static void check_all(td_worker *sum_worker, td_worker *text_worker, td_worker *fails_worker, td_worker *half_worker,
                      td_worker *mismatch_worker, td_worker *colour_worker, td_worker *point_worker)
{
    td_worker *all[] = { sum_worker,      text_worker,   fails_worker, half_worker,
                         mismatch_worker, colour_worker, point_worker };
    for (td_worker *w : all) {
        REQUIRE(w != nullptr);
        REQUIRE_OK(td_start(w));
    }
    for (td_worker *w : all)
        REQUIRE_OK(td_join(w));
    int number = 0;
    CHECK_OK(td_result(sum_worker, int, &number));
    CHECK_INT(number, 7);
    CHECK_STR(td_result_str(text_worker), "abab");
    CHECK_INT(td_outcome(fails_worker), TD_FAILED);
    CHECK_STR(td_message(fails_worker), "no luck");
    double d = 0;
    CHECK_OK(td_result(half_worker, double, &d));
    CHECK(d == 1.25);
    CHECK_INT(td_result_code(mismatch_worker), TD_ETYPE);
    colour c{};
    CHECK_OK(td_result(colour_worker, colour, &c));
    CHECK(c == colour::red);
    point p{};
    CHECK_OK(td_result(point_worker, point, &p));
    CHECK_INT(p.y, 6);
    for (td_worker *w : all)
        td_free(w);
}

/* Catches: a header that C++ does not take, options that must be given in another order, a kind that differs from C's.
 */
TEST(threads_in_cxx)
{
    point p{ 3, 4 };
    double d = 2.5;
    colour c = colour::red;
    check_all(td_thread(.target = sum, .args = TD_VAL(p)), td_thread(.target = text, .args = TD_STR("ab")),
              td_thread(.target = fails, .name = "fails", .daemon = TD_DAEMON_NO),
              td_thread(.target = half, .args = TD_VAL(d), .stack_size = 1 << 20),
              td_thread(.target = wants_long, .args = TD_ARG(int, 5)),
              td_thread(.target = echo_colour, .args = TD_VAL(c)), td_thread(.target = makes_point));
}

TEST(processes_in_cxx)
{
    for (td_method method : { TD_FORKSERVER, TD_FORK, TD_METHOD_DEFAULT })
        check_all(td_process(.target = sum, .args = TD_ARG(point, 3, 4), .method = method),
                  td_process(.target = text, .args = TD_STR("ab"), .method = method),
                  td_process(.target = fails, .name = "fails", .method = method),
                  td_process(.target = half, .args = TD_ARG(double, 2.5), .method = method),
                  td_process(.target = wants_long, .args = TD_ARG(int, 5), .method = method),
                  td_process(.target = echo_colour, .args = TD_ARG(colour, colour::red), .method = method),
                  td_process(.target = makes_point, .method = method));
}

static int adds_one(td_call *call)
{
    int number = 0;
    CHECK_INT(td_call_connection_count(call), 2);
    CHECK_OK(td_recv_value(td_call_connection(call, 0), int, &number));
    CHECK_OK(td_send_value(td_call_connection(call, 1), TD_ARG(int, number + 1)));
    return 0;
}

/* Catches: connections that C++ drops or reorders on their way into the options. */
TEST(connections_in_cxx)
{
    td_connection *to, *from, *ours, *theirs;
    REQUIRE_OK(td_pipe(&theirs, &to));
    REQUIRE_OK(td_pipe(&from, &ours));
    td_worker *w = td_process(.target = adds_one, .connections = TD_CONNECTIONS(theirs, ours));
    REQUIRE(w != nullptr);
    REQUIRE_OK(td_start(w));
    int number = 41;
    CHECK_OK(td_send_value(to, TD_VAL(number)));
    CHECK_OK(td_recv_value(from, int, &number));
    CHECK_INT(number, 42);
    CHECK_OK(td_join(w));
    td_free(w);
    CHECK(td_worker_create_from(TD_THREAD, td_worker_options{}) == nullptr);
    for (td_connection *c : { to, from, ours, theirs })
        td_connection_free(c);
}

/* Catches: an exception of the program's own that does not pass through a target's frames. */
static int catches(td_call *call)
{
    try {
        throw std::string("inside");
    } catch (const std::string &s) {
        return td_return_str(call, s.c_str());
    }
}

TEST(exceptions_inside_a_target)
{
    for (int i = 0; i < 2; i++) {
        td_worker *w = i ? td_process(.target = catches) : td_thread(.target = catches);
        REQUIRE(w != nullptr);
        REQUIRE_OK(td_start(w));
        REQUIRE_OK(td_join(w));
        CHECK_STR(td_result_str(w), "inside");
        td_free(w);
    }
    CHECK_INT(td_run(td_thread(.target = nullptr)), TD_EINVAL);
    CHECK(TD_NO_LIMIT.ns == 0);
    CHECK_OK(td_init());
    CHECK_OK(td_finish());
}

static int add_shared(td_call *call)
{
    int *value = static_cast<int *>(td_arg_shared(call));
    td_shared_add(value, 2);
    return td_return_shared(call, value);
}

TEST(shared_values)
{
    int *value = td_shared_value(int, 40);
    point *pair = td_shared_value(point, 1, 2);
    double *row = td_shared_array(double, 10);
    td_worker *w = td_process(.target = add_shared, .args = TD_SHARED(value));
    REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_join(w));
    CHECK(td_result_shared(w) == value);
    td_free(w);
    CHECK_INT(td_shared_get(value), 42);
    CHECK_INT(td_shared_get(pair).y, 2);
    CHECK_OK(td_shared_set(pair, point{ 3, 4 }));
    CHECK_INT(pair->x, 3);
    CHECK_OK(td_shared_set_at(row, 3, 1));
    CHECK(td_shared_add_at(row, 3, 0.5) == 1.5);
    double copy[2];
    CHECK_OK(td_shared_read(row, 3, 2, copy));
    CHECK(copy[0] == 1.5 && copy[1] == 0);
    *td_shared_at(row, 9) = 1;
    CHECK_INT(td_shared_count(row), 10);
    int *raw = td_shared_raw_value(int, 3);
    CHECK_INT(*raw, 3);
    for (void *block :
         { static_cast<void *>(value), static_cast<void *>(pair), static_cast<void *>(row), static_cast<void *>(raw) })
        td_shared_free(block);
}

struct job {
    char name[3];
    int urgency;
};

static int seven(void *value, void *context)
{
    (void)context;
    *static_cast<int *>(value) = 7;
    return 0;
}

/* Static ones, as C++ initialises them; of the local, no field need be named. */
static td_local mine = { .size = sizeof(int), .init = seven }, pointers;
static td_semaphore units = TD_SEMAPHORE_INIT(2);
static td_bounded_semaphore bounded = TD_BOUNDED_SEMAPHORE_INIT(2);
static td_owned_semaphore owned = TD_OWNED_SEMAPHORE_INIT(2);
static td_barrier alone = TD_BARRIER_INIT(1);
static td_lock lock;
static td_rlock rlock;
static td_rwlock rwlock;
static td_condition condition;
static td_event event;
static td_once once;

static bool is_true(void *argument)
{
    return argument != nullptr;
}

static int nothing_to_do(void *argument)
{
    (void)argument;
    return 0;
}

TEST(primitives_in_cxx)
{
    td_cancel cancel{};
    CHECK_OK(td_lock_acquire_for(&lock, td_ms(100)));
    CHECK_OK(td_condition_await(&condition, &lock, is_true, &lock));
    CHECK_ERROR(td_condition_wait_for(&condition, &lock, td_ms(1)), TD_ETIMEOUT);
    td_lock_release(&lock);
    CHECK_OK(td_rlock_acquire(&rlock));
    td_rlock_release(&rlock);
    CHECK_OK(td_rwlock_acquire_read_for(&rwlock, td_ms(100)));
    td_rwlock_release(&rwlock);
    CHECK_OK(td_semaphore_acquire(&units));
    CHECK_OK(td_bounded_semaphore_acquire(&bounded));
    CHECK_OK(td_owned_semaphore_acquire(&owned));
    td_owned_semaphore_release(&owned);
    CHECK_INT(td_semaphore_value(&units) + td_bounded_semaphore_value(&bounded) + td_owned_semaphore_value(&owned), 4);
    CHECK_INT(td_barrier_wait(&alone), 0);
    CHECK_OK(td_once_run(&once, nothing_to_do, nullptr));
    CHECK_INT(*static_cast<int *>(td_local_get(&mine)), 7);
    CHECK(*static_cast<void **>(td_local_get(&pointers)) == nullptr);
    td_cancel_fire(&cancel);
    CHECK_ERROR(td_event_wait_with(&event, TD_NO_LIMIT, &cancel), TD_ECANCELLED);
}

static int calls_nothing(td_call *call)
{
    (void)call;
    return 0;
}

TEST(queues_timers_and_waits_in_cxx)
{
    td_queue *jobs = td_queue_new(.item_size = sizeof(job), .capacity = 4, .kind = TD_QUEUE_PRIORITY,
                                  .priority = TD_PRIORITY(job, urgency), .shared = true, .joinable = true);
    td_queue *numbers =
        td_queue_new(.item_size = sizeof(float), .kind = TD_QUEUE_PRIORITY, .priority = TD_PRIORITY_ITEM(float));
    td_queue *of_pointers = td_queue_new();
    REQUIRE(jobs && numbers && of_pointers);
    job late = { "a", 3 }, soon = { "b", 1 }, got{};
    CHECK_OK(td_queue_put(jobs, &late));
    CHECK_OK(td_queue_put(jobs, &soon));
    CHECK_OK(td_queue_get(jobs, &got));
    CHECK_INT(got.urgency, 1);
    td_worker *timer = td_timer(.interval = td_ms(1), .target = calls_nothing);
    REQUIRE_OK(td_start(timer));
    td_connection *reader, *writer;
    REQUIRE_OK(td_pipe(&reader, &writer));
    td_value parts[] = { TD_STR("a"), TD_BYTES("bc", 2) };
    CHECK_OK(td_send_parts(writer, parts, 2));
    td_waitable things[] = { TD_WAIT_QUEUE(jobs), TD_WAIT_WORKER(timer), TD_WAIT_EVENT(&event),
                             TD_WAIT_CONNECTION(reader), TD_WAIT_DESCRIPTOR(td_connection_fileno(reader)) };
    REQUIRE_OK(td_join(timer));
    CHECK_INT(td_wait_any(things, 5, td_s(20), nullptr), 4);
    CHECK(!things[2].ready);
    td_free(timer);
    td_connection_free(reader);
    td_connection_free(writer);
    for (td_queue *q : { jobs, numbers, of_pointers })
        td_queue_free(q);
}
