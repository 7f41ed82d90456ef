/* SPDX-License-Identifier: MIT */
/* Thread-local storage: one value a thread, made at first touch and destroyed at the thread's end. */
#include "words.h"

#include <pthread.h>
#include <sys/wait.h>

enum { STARTED, DONE, GO };

static _Atomic long made, destroyed;

typedef struct thing {
    long magic, number;
} thing;

static int make(void *value, void *context)
{
    thing *t = value;
    CHECK_INT(t->magic, 0);
    CHECK_INT((uintptr_t)value % 16, 0);
    t->magic = (long)(intptr_t)context;
    td__fetch_add_relaxed(&made, 1);
    return 0;
}

static void drop(void *value, void *context)
{
    thing *t = value;
    CHECK_INT(t->magic, (long)(intptr_t)context);
    t->magic = -1;
    td__fetch_add_relaxed(&destroyed, 1);
}

static char context[1];
static td_local things = { .size = sizeof(thing), .init = make, .destroy = drop, .context = context };
static td_local pointer; /* {0}: each thread has a pointer */

/* The same by pthread's keys, which the same case is to pass. */
static bool is_pthread;
static pthread_key_t thing_key, pointer_key;

static void drop_theirs(void *value)
{
    drop(value, context);
    free(value);
}

static void begin_pthread(void)
{
    is_pthread = true;
    REQUIRE_INT(pthread_key_create(&thing_key, drop_theirs), 0);
    REQUIRE_INT(pthread_key_create(&pointer_key, NULL), 0);
}

static thing *my_thing(void)
{
    if (!is_pthread)
        return td_local_get(&things);
    thing *mine = pthread_getspecific(thing_key);
    if (!mine && (mine = calloc(1, sizeof *mine)) != NULL) {
        make(mine, context);
        pthread_setspecific(thing_key, mine);
    }
    return mine;
}

static void *my_pointer(void)
{
    return is_pthread ? pthread_getspecific(pointer_key) : *(void **)td_local_get(&pointer);
}

static void set_my_pointer(void *to)
{
    if (is_pthread)
        pthread_setspecific(pointer_key, to);
    else
        *(void **)td_local_get(&pointer) = to;
}

static void delete_all(void)
{
    if (is_pthread) { /* which leaves the values alone */
        drop_theirs(pthread_getspecific(thing_key));
        pthread_key_delete(thing_key);
        pthread_key_delete(pointer_key);
    } else {
        td_local_delete(&things);
        td_local_delete(&pointer);
    }
}

static void *use(void *argument)
{
    thing *t = my_thing();
    REQUIRE(t != NULL);
    t->number = (long)(intptr_t)argument;
    CHECK(my_pointer() == NULL);
    set_my_pointer(argument);
    for (int i = 0; i < 1000; i++) {
        CHECK(my_thing() == t);
        CHECK(my_pointer() == argument);
    }
    CHECK_INT(t->number, (long)(intptr_t)argument);
    return NULL;
}

static int uses(td_call *call)
{
    use((void *)(intptr_t)td_arg(call, part).number);
    return 0;
}

/* Threads of ours and of the system's: own values, init once in each, destroyed when they have ended. */
static void each_has_one(void)
{
    enum { N = 8 };
    use((void *)(intptr_t)100);
    for (int round = 0; round < 5; round++) {
        td_worker *w[N];
        pthread_t thread[N];
        for (int i = 0; i < N; i++) {
            w[i] = begin(&mode_private, uses, NULL, 0, i + 1, 0);
            REQUIRE_INT(pthread_create(&thread[i], NULL, use, (void *)(intptr_t)(i + 50)), 0);
        }
        for (int i = 0; i < N; i++) {
            end_well(w[i]);
            pthread_join(thread[i], NULL);
        }
        CHECK_INT(td__load_relaxed(&made), 1 + 2 * N * (round + 1));
        if (is_pthread) /* a worker's end is told before pthread drops its values */
            WAIT_UNTIL(td__load_relaxed(&destroyed) == 2 * N * (round + 1), 20);
        CHECK_INT(td__load_relaxed(&destroyed), 2 * N * (round + 1));
    }
    CHECK_INT(my_thing()->number, 100);
    delete_all();
    CHECK_INT(td__load_relaxed(&destroyed), td__load_relaxed(&made));
}

TEST(one_value_a_thread)
{
    each_has_one();
}

TEST(one_value_a_thread_pthread)
{
    begin_pthread();
    each_has_one();
}

/* In a process they are its own, and new. */
TEST_METHODS(process_has_its_own)
{
    use((void *)(intptr_t)7);
    td_local_delete(&pointer);
    if (how->method == TD_FORKSERVER)
        end_well(begin(how, uses, NULL, 0, 1, 0));
    pid_t child = fork();
    if (child == 0)
        _exit(my_thing()->number == 7 ? 0 : 1); /* a copy of the forking thread's */
    CHECK_INT(helper_wait(child), 0);
}

/* More than PTHREAD_KEYS_MAX, come and gone: an index that is used again has nothing of the former one. */
TEST(many)
{
    enum { N = 3000 };
    static td_local all[N];
    for (int round = 0; round < 3; round++) {
        for (long i = 0; i < N; i++) {
            all[i].size = sizeof(long);
            long *value = td_local_get(&all[i]);
            REQUIRE(value != NULL);
            CHECK_INT(*value, 0);
            *value = i + 1;
        }
        for (long i = 0; i < N; i++)
            CHECK_INT(*(long *)td_local_get(&all[i]), i + 1);
        for (long i = 0; i < N; i++)
            td_local_delete(&all[i]);
    }
}

static void *holds_until_go(void *argument)
{
    (void)argument;
    REQUIRE(td_local_get(&things) != NULL);
    event_add(STARTED);
    event_wait(GO);
    return NULL;
}

/* Deleting reaches the values of living threads, which do not destroy them again at their end. */
TEST(deleted_under_threads)
{
    enum { N = 4 };
    pthread_t thread[N];
    for (int i = 0; i < N; i++)
        REQUIRE_INT(pthread_create(&thread[i], NULL, holds_until_go, NULL), 0);
    event_wait_count(STARTED, N);
    td_local_delete(&things);
    CHECK_INT(td__load_relaxed(&destroyed), N);
    REQUIRE(td_local_get(&things) != NULL); /* used anew, in the same place of the tables */
    event_set(GO);
    for (int i = 0; i < N; i++)
        pthread_join(thread[i], NULL);
    CHECK_INT(td__load_relaxed(&destroyed), N);
    td_local_delete(&things);
    CHECK_INT(td__load_relaxed(&destroyed), N + 1);
}

static void *gets_and_ends(void *argument)
{
    td_local_get(argument);
    event_add(STARTED);
    return NULL;
}

/* Threads end while the local is deleted: each value is destroyed once, and none after td_local_delete has returned. */
TEST(deleted_while_threads_end)
{
    for (int round = 0; round < 200 / SLOW; round++) {
        pthread_t thread[4];
        long before = td__load_relaxed(&destroyed);
        for (int i = 0; i < 4; i++)
            REQUIRE_INT(pthread_create(&thread[i], NULL, gets_and_ends, &things), 0);
        event_wait_count(STARTED, 4 * (uint32_t)round + 4);
        td_local_delete(&things);
        CHECK_INT(td__load_relaxed(&destroyed) - before, 4);
        for (int i = 0; i < 4; i++)
            pthread_join(thread[i], NULL);
        CHECK_INT(td__load_relaxed(&destroyed) - before, 4);
    }
}

static td_local second;
static int chain;

static void makes_another(void *value, void *context)
{
    (void)value;
    (void)context;
    if (++chain < 5)
        CHECK(td_local_get(&second) != NULL); /* at its thread's end, again and again */
}

static td_local second = { .size = 8, .destroy = makes_another };

static void *starts_chain(void *argument)
{
    (void)argument;
    REQUIRE(td_local_get(&second) != NULL);
    return NULL;
}

/* A destructor that touches locals. */
TEST(destroy_makes_values)
{
    pthread_t thread;
    REQUIRE_INT(pthread_create(&thread, NULL, starts_chain, NULL), 0);
    pthread_join(thread, NULL);
    CHECK_INT(chain, 5);
    td_local_delete(&second);
}

static int tries;

static int fails_first(void *value, void *given)
{
    (void)given;
    if (++tries == 1)
        return 5;
    *(int *)value = 11;
    return 0;
}

static td_local nested;

static int finds_itself(void *value, void *given)
{
    (void)given;
    CHECK(td_local_get(&nested) == value);
    return 0;
}

static td_local nested = { .init = finds_itself };

TEST(init_fails_or_recurs)
{
    static td_local fussy = { .size = 4, .init = fails_first };
    CHECK_NULL(td_local_get(&fussy), TD_ESTATE);
    CHECK_HAS(td_last_message(), "returned 5");
    int *value = td_local_get(&fussy);
    REQUIRE(value != NULL);
    CHECK_INT(*value, 11);
    CHECK(td_local_get(&nested) != NULL);
    td_local_delete(&fussy);
    td_local_delete(&nested);
}

TEST(misuse)
{
    CHECK_NULL(td_local_get(NULL), TD_EINVAL);
    td_local_delete(NULL);
    td_local unused = { 0 };
    td_local_delete(&unused);
    td_local *shared = place(&mode_shared, sizeof *shared);
    CHECK_NULL(td_local_get(shared), TD_EINVAL);
    td_local huge = { .size = SIZE_MAX };
    CHECK_NULL(td_local_get(&huge), TD_ENOMEM);
}

static void *many_faults(void *argument)
{
    long n = *(long *)argument;
    td_local l = { .size = 100, .init = make, .destroy = drop, .context = context };
    td__fault_arm(n);
    void *value = td_local_get(&l);
    bool fired = td__fault_fired();
    td__fault_disarm();
    if (!value)
        CHECK_INT(td_last_error(), TD_ENOMEM);
    CHECK(value || fired);
    CHECK(td_local_get(&l) != NULL);
    td_local_delete(&l);
    *(long *)argument = fired;
    return NULL;
}

/* Out of memory at each place in turn: told, and nothing is left. */
TEST(faults)
{
    for (long n = 1, fired = 1; fired; n++) {
        fired = n;
        pthread_t thread;
        REQUIRE_INT(pthread_create(&thread, NULL, many_faults, &fired), 0);
        pthread_join(thread, NULL);
    }
    CHECK_INT(td__load_relaxed(&made), td__load_relaxed(&destroyed));
}
