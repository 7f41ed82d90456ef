/* SPDX-License-Identifier: MIT */
/* What a caller can do wrong: each is an error with a sentence, and the program goes on. */
#include "targets.h"
#include <tandem/queue.h>
#include <tandem/timer.h>

#include <pthread.h>

/* Catches: options that are believed without a look. */
TEST_MODES(options_that_are_refused)
{
    char name[TD_NAME_MAX + 1];
    memset(name, 'n', sizeof name);
    name[TD_NAME_MAX] = 0;
    CHECK_NULL(NEW(.target = 0), TD_EINVAL);
    CHECK_NULL(NEW(.target = nothing, .name = ""), TD_EINVAL);
    CHECK_NULL(NEW(.target = nothing, .name = name), TD_EINVAL);
    CHECK_NULL(NEW(.target = nothing, .daemon = (td_daemon)7), TD_EINVAL);
    CHECK_NULL(NEW(.target = nothing, .args = { 0, 5, TD_KIND_BYTES }), TD_EINVAL);
    CHECK_NULL(NEW(.target = nothing, .args = { "x", 1, 99 }), TD_EINVAL);
    CHECK_NULL(NEW(.target = nothing, .args = { "x", 1, -1 }), TD_EINVAL);
    CHECK_NULL(td_worker_create(how->kind, 0), TD_EINVAL);
    if (how->kind == TD_PROCESS)
        CHECK_NULL(NEW(.target = nothing, .stack_size = 1 << 20), TD_EINVAL);
    CHECK_INT(td_active_count(), 1);
}

/* Catches: a method that is unknown, or for threads, and silently something else. */
TEST(methods_that_are_refused)
{
    CHECK_NULL(td_process(.target = nothing, .method = (td_method)3), TD_EINVAL);
    CHECK_NULL(td_process(.target = nothing, .method = (td_method)-1), TD_EINVAL);
    CHECK_NULL(td_process(.target = nothing, .method = (td_method)99), TD_EINVAL);
    CHECK_NULL(td_thread(.target = nothing, .method = TD_FORK), TD_EINVAL);
    CHECK_NULL(td_thread(.target = nothing, .method = TD_FORKSERVER), TD_EINVAL);
    td_worker_options options = { .struct_size = sizeof options, .target = nothing };
    CHECK_NULL(td_worker_create((td_worker_kind)0, &options), TD_EINVAL);
    CHECK_NULL(td_worker_create((td_worker_kind)3, &options), TD_EINVAL);
    CHECK_NULL(td_worker_create((td_worker_kind)-1, &options), TD_EINVAL);
}

/* What a program that was built with an earlier header gives, or with a later one. */
static void options_of_size(td_worker_kind kind, size_t known)
{
    struct {
        td_worker_options options;
        char later[64];
    } given;
    memset(&given, 0x55, sizeof given);
    td_worker_options set = { .struct_size = known, .target = nothing };
    memcpy(&given.options, &set, known < sizeof set ? known : sizeof set);
    td_worker *w = td_worker_create(kind, &given.options);
    REQUIRE(w != NULL);
    CHECK(!td_is_daemon(w));
    REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
}

/* Catches: options read beyond the size that they say they have, which the caller's struct does not hold. */
TEST(options_of_another_version)
{
    for (int kind = TD_THREAD; kind <= TD_PROCESS; kind++) {
        options_of_size((td_worker_kind)kind, offsetof(td_worker_options, args));
        options_of_size((td_worker_kind)kind, offsetof(td_worker_options, daemon));
        options_of_size((td_worker_kind)kind, offsetof(td_worker_options, connections));
        options_of_size((td_worker_kind)kind, sizeof(td_worker_options) + 64);
    }
    td_worker_options none = { .target = nothing };
    CHECK_NULL(td_worker_create(TD_THREAD, &none), TD_EINVAL);
    CHECK_HAS(td_last_message(), "struct_size");

    td_timer_options timer;
    memset(&timer, 0x55, sizeof timer);
    timer.struct_size = offsetof(td_timer_options, args);
    timer.interval = td_ms(0);
    timer.target = nothing;
    CHECK_INT(td_run(td_timer_create(&timer)), 0);

    struct {
        td_queue_options options;
        char later[64];
    } queue;
    memset(&queue, 0x55, sizeof queue);
    queue.options = (td_queue_options){ .struct_size = sizeof queue, .item_size = 4 };
    td_queue *q = td_queue_create(&queue.options);
    CHECK(q != NULL);
    td_queue_free(q);
    queue.options.struct_size = 0;
    CHECK_NULL(td_queue_create(&queue.options), TD_EINVAL);
}

/* Catches: a stack that is too small to be entered, or so big that sizes overflow. */
TEST(stacks_that_are_refused)
{
    CHECK_NULL(td_thread(.target = nothing, .stack_size = 1), TD_EINVAL);
    CHECK_NULL(td_thread(.target = nothing, .stack_size = (32 << 10) - 1), TD_EINVAL);
    const size_t huge[] = { SIZE_MAX, SIZE_MAX - 4095, (size_t)1 << 60 };
    for (size_t i = 0; i < sizeof huge / sizeof *huge; i++) {
        td_worker *w = td_thread(.target = nothing, .stack_size = huge[i]);
        if (w) {
            int code = td_start(w);
            CHECK(code < 0);
            CHECK(td_last_message()[0]);
            CHECK_INT(td_outcome(w), TD_CREATED);
            td_free(w);
        } else {
            CHECK(td_last_message()[0]);
        }
    }
    CHECK_INT(td_run(td_thread(.target = nothing)), 0);
}

/* Catches: a NULL handle that crashes; one that does not give the error of the constructor that returned it. */
TEST(null_worker_gives_the_pending_error)
{
    td_worker *w = WORKER(td_thread(.target = until_go));
    for (int round = 0; round < 2; round++) {
        int want;
        if (round == 0) {
            td_worker *bad = td_thread(.target = 0);
            CHECK(bad == 0);
            want = TD_EINVAL;
        } else {
            REQUIRE_OK(td_start(w));
            CHECK_ERROR(td_join_for(w, td_ms(0)), TD_ETIMEOUT);
            want = TD_ETIMEOUT;
        }
        char sentence[512];
        snprintf(sentence, sizeof sentence, "%s", td_last_message());
        int number;
        size_t size = 5;
        CHECK_INT(td_start(0), want);
        CHECK_INT(td_join(0), want);
        CHECK_INT(td_join_for(0, td_ms(1)), want);
        CHECK_INT(td_terminate(0), want);
        CHECK_INT(td_kill(0), want);
        CHECK_INT(td_interrupt(0), want);
        CHECK_INT(td_close(0), want);
        CHECK_INT(td_run(0), want);
        CHECK_INT(td_result(0, int, &number), want);
        CHECK_INT(td_set_name(0, "name"), want);
        CHECK_INT(td_set_daemon(0, true), want);
        CHECK_INT(td_sentinel(0), want);
        CHECK(!td_is_alive(0));
        CHECK_INT(td_outcome(0), TD_CREATED);
        CHECK(td_result_code(0) < 0);
        CHECK(td_exitcode(0) < 0);
        CHECK(td_describe(0) != 0);
        CHECK(td_message(0) != 0);
        CHECK(td_result_str(0) == 0);
        CHECK(td_result_bytes(0, &size) == 0);
        CHECK_INT(size, 0);
        CHECK(td_result_bytes(0, 0) == 0);
        CHECK(td_name(0) != 0);
        CHECK(!td_is_daemon(0));
        td_kind_of(0);
        CHECK_INT(td_ident(0), 0);
        CHECK(td_native_id(0) <= 0);
        CHECK(td_pid(0) <= 0);
        td_free(0);
        CHECK_INT(td_last_error(), want);
        CHECK_STR(td_last_message(), sentence);
    }
    event_set(GO);
    REQUIRE_OK(td_join(w));
    td_free(w);
}

static void *without_a_pending_error(void *unused)
{
    (void)unused;
    CHECK_INT(td_last_error(), 0);
    CHECK_STR(td_last_message(), "");
    CHECK(td_start(0) < 0);
    CHECK(td_join(0) < 0);
    return 0;
}

/* Catches: NULL taken for success where no error is pending; errors that leak from thread to thread. */
TEST(null_worker_without_a_pending_error)
{
    CHECK_NULL(td_thread(.target = 0), TD_EINVAL);
    pthread_t thread;
    REQUIRE(pthread_create(&thread, 0, without_a_pending_error, 0) == 0);
    pthread_join(thread, 0);
    CHECK_INT(td_last_error(), TD_EINVAL);
}

static int has_no_error(td_call *call)
{
    (void)call;
    CHECK_INT(td_last_error(), 0);
    CHECK_STR(td_last_message(), "");
    return 0;
}

/* Catches: a worker that begins with its creator's error. */
TEST_MODES(pending_error_in_a_new_worker)
{
    td_worker *w = WORKER(NEW(.target = has_no_error));
    if (how->method == TD_FORK) { /* a copy of the caller, but a new thread in spirit: not promised */
        td_free(w);
        SKIP("not promised for copies of the caller");
    }
    CHECK_NULL(td_thread(.target = 0), TD_EINVAL);
    REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
}

/* Catches: a success that clears or overwrites the sentence. */
TEST_MODES(success_keeps_the_pending_error)
{
    CHECK_NULL(NEW(.target = nothing, .name = ""), TD_EINVAL);
    char sentence[512];
    snprintf(sentence, sizeof sentence, "%s", td_last_message());
    td_worker *w = JOINED(NEW(.target = nothing));
    td_describe(w);
    td_free(w);
    CHECK_INT(td_last_error(), TD_EINVAL);
    CHECK_STR(td_last_message(), sentence);
}

/* Catches: a sentence that cannot hold what the user named. */
TEST_MODES(sentence_names_the_worker)
{
    td_worker *w = WORKER(NEW(.target = nothing, .name = "resize-7"));
    CHECK_ERROR(td_join(w), TD_ESTATE);
    CHECK_HAS(td_last_message(), "resize-7");
    td_free(w);
}

static int returns_nowhere(td_call *call)
{
    return td_return_bytes(call, 0, 5);
}

/* Catches: a result that is read from nowhere. */
TEST_MODES(result_of_nothing)
{
    td_worker *w = JOINED(NEW(.target = returns_nowhere));
    CHECK_INT(td_outcome(w), TD_FAILED);
    CHECK_INT(td_result_code(w), TD_EINVAL);
    td_free(w);
}

/* What could not be made says why to the end, also by way of arguments. */
TEST_MODES(an_argument_that_was_not_made)
{
    td_queue *none = td_queue_new(.item_size = SIZE_MAX);
    CHECK_NULL(none, TD_ETOOBIG);
    td_worker *w = NEW(.target = nothing, .args = TD_SHARED(none));
    CHECK_NULL(w, TD_ETOOBIG);
    CHECK_ERROR(td_start(w), TD_ETOOBIG);
    CHECK_HAS(td_describe(w), "items of");
}

/* What no worker of this process is can be asked, but not joined, stopped, started or changed. */
static void check_foreign(td_worker *w)
{
    CHECK(w != 0);
    CHECK(td_is_alive(w));
    CHECK(td_name(w) != 0);
    CHECK(td_describe(w)[0]);
    CHECK(td_join(w) < 0);
    CHECK(td_join_for(w, td_ms(1)) < 0);
    CHECK(td_start(w) < 0);
    CHECK(td_terminate(w) < 0);
    CHECK(td_kill(w) < 0);
    CHECK(td_interrupt(w) < 0);
    CHECK(td_sentinel(w) < 0);
    CHECK(td_close(w) < 0);
    CHECK(td_set_daemon(w, true) < 0);
    CHECK_INT(td_outcome(w), TD_RUNNING);
    CHECK_INT(td_result_code(w), TD_NO_CODE);
}

static int looks_at_its_parent(td_call *call)
{
    if (td_arg(call, bool))
        check_foreign(td_parent());
    check_foreign(td_main());
    return 0;
}

static void *stranger(void *unused)
{
    check_foreign(td_current());
    return unused;
}

/* Catches: a parent that its worker ends, a main worker that is joined by its own thread. */
TEST_MODES(handles_that_are_no_workers)
{
    check_foreign(td_main());
    check_foreign(td_current());
    pthread_t thread;
    REQUIRE(pthread_create(&thread, 0, stranger, 0) == 0);
    pthread_join(thread, 0);
    td_worker *w = JOINED(NEW(.target = looks_at_its_parent, .args = TD_ARG(bool, how->kind == TD_PROCESS)));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
    CHECK(td_is_alive(td_main()));
}

/* Catches: results asked for with nowhere to put them. */
TEST_MODES(result_without_a_place)
{
    td_worker *w = JOINED(NEW(.target = nothing));
    CHECK(td_result_copy(w, 0, sizeof(int), TD_KIND_SIGNED) < 0);
    td_free(w);
}
