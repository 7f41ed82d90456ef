/* SPDX-License-Identifier: MIT */
/* Shared values, arrays, and pointers as arguments and results. */
#include "harness.h"
#include <tandem/shared.h>

#include <signal.h>
#include <sys/wait.h>

static size_t blocks(void)
{
    td_shared_counts counts;
    REQUIRE_OK(td_shared_stats(&counts));
    return counts.blocks;
}

/* --- pointers ---------------------------------------------------------------------------------------------- */

struct tree {
    struct tree *left, *right;
    int value;
};

static struct tree *grow_tree(int depth)
{
    struct tree *tree = td_shared_calloc(1, sizeof *tree);
    tree->value = depth;
    if (depth > 0) {
        tree->left = grow_tree(depth - 1);
        tree->right = grow_tree(depth - 1);
    }
    return tree;
}

static int cut_tree(struct tree *tree)
{
    if (!tree)
        return 0;
    int sum = tree->value + cut_tree(tree->left) + cut_tree(tree->right);
    td_shared_free(tree);
    return sum;
}

static int replace_tree(td_call *call)
{
    CHECK_INT(cut_tree(td_arg_shared(call)), 26);
    return td_return_shared(call, grow_tree(5));
}

/* A structure with pointers goes to a worker and another comes back. */
TEST_MODES(pointers_mean_the_same)
{
    struct tree *tree = grow_tree(4);
    td_worker *w = JOINED(NEW(.target = replace_tree, .args = TD_SHARED(tree)));
    CHECK_INT(cut_tree(td_result_shared(w)), 57);
    td_free(w);
    CHECK_INT(blocks(), 0);
}

static int nothing(td_call *call)
{
    (void)call;
    return 0;
}

static int read_shared(td_call *call)
{
    td_arg_shared(call);
    return 0;
}

static int read_int(td_call *call)
{
    return td_arg(call, int) == 0;
}

static int return_local(td_call *call)
{
    int local = 0;
    return td_return_shared(call, &local);
}

static int code_of(const mode *how, td_target *target, td_value args)
{
    td_worker *w = JOINED(NEW(.target = target, .args = args));
    int code = td_result_code(w);
    CHECK(!td_result_shared(w));
    td_free(w);
    return code;
}

/* What is not in the heap is refused on every way; a mix-up of kinds too. */
TEST_MODES(other_pointers_are_refused)
{
    int local = 0, *block = td_shared_alloc(100);
    char *array = td_shared_array(char, 10000);
    CHECK_NULL(NEW(.target = nothing, .args = TD_SHARED(&local)), TD_EINVAL);
    CHECK_HAS(td_last_message(), "does not point into the shared heap");
    CHECK_NULL(NEW(.target = nothing, .args = TD_SHARED(NULL)), TD_EINVAL);
    CHECK_NULL(NEW(.target = nothing, .args = { &block, 4, TD_KIND_SHARED }), TD_EINVAL);
    CHECK_NULL(NEW(.target = nothing, .args = { &block, 8, TD_KIND_SHARED + 1 }), TD_EINVAL);
    CHECK_INT(code_of(how, read_shared, TD_SHARED(block)), 0);
    CHECK_INT(code_of(how, read_shared, TD_SHARED(array + 9000)), 0);
    CHECK_INT(code_of(how, read_shared, TD_ARG(int, 3)), TD_ETYPE);
    CHECK_INT(code_of(how, read_shared, TD_ARG(uintptr_t, (uintptr_t)block)), TD_ETYPE);
    CHECK_INT(code_of(how, read_int, TD_SHARED(block)), TD_ETYPE);
    CHECK_INT(code_of(how, return_local, TD_STR("")), TD_EINVAL);
    td_shared_free(block);
    td_shared_free(array);
}

/* --- values and arrays ------------------------------------------------------------------------------------- */

enum { ROUNDS = 3000, WORKERS = 4 };

struct numbers {
    int *whole;
    double *row;
    char *raw;
};

static int count_up(td_call *call)
{
    struct numbers *numbers = td_arg_shared(call);
    for (int i = 0; i < ROUNDS; i++) {
        td_shared_add(numbers->whole, 1);
        td_shared_add_at(numbers->row, (size_t)i % 10, 0.5);
        td_rlock_acquire(td_shared_lock(numbers->whole));
        *numbers->whole += 2;
        td_shared_add(numbers->whole, 3); /* an RLock */
        numbers->raw[0] = 'x';
        td_rlock_release(td_shared_lock(numbers->whole));
    }
    return 0;
}

/* No addition is lost, whoever adds. */
TEST_MODES(counted_together)
{
    struct numbers *numbers = td_shared_alloc(sizeof *numbers);
    td_worker *w[WORKERS];
    *numbers = (struct numbers){ td_shared_value(int, 5), td_shared_array(double, 10), td_shared_raw_value(char, 'a') };
    REQUIRE(numbers->whole && numbers->row && numbers->raw);
    CHECK_INT(td_shared_get(numbers->whole), 5);
    CHECK_INT(*numbers->raw, 'a');
    for (int i = 0; i < WORKERS; i++) {
        w[i] = WORKER(NEW(.target = count_up, .args = TD_SHARED(numbers)));
        REQUIRE_OK(td_start(w[i]));
    }
    for (int i = 0; i < WORKERS; i++) {
        REQUIRE_OK(td_join(w[i]));
        CHECK_INT(td_result_code(w[i]), 0);
        td_free(w[i]);
    }
    CHECK_INT(td_shared_get(numbers->whole), 5 + 6 * WORKERS * ROUNDS);
    for (size_t i = 0; i < 10; i++)
        CHECK(td_shared_get_at(numbers->row, i) == 0.5 * WORKERS * ROUNDS / 10);
    CHECK_INT(*numbers->raw, 'x');
    td_shared_free(numbers->whole);
    td_shared_free(numbers->row);
    td_shared_free(numbers->raw);
    td_shared_free(numbers);
    CHECK_INT(blocks(), 0);
}

struct point {
    int x, y;
};

TEST(values_of_any_type)
{
    struct point *point = td_shared_value(struct point, .x = 1, .y = 2), other = { 3, 4 };
    CHECK_INT(td_shared_get(point).y, 2);
    CHECK_OK(td_shared_set(point, other));
    CHECK_INT(td_shared_get(point).x, 3);
    CHECK_OK(td_shared_set(point, (struct point){ 5, 6 }));
    CHECK_INT(point->y, 6);
    CHECK_INT(td_shared_count(point), 1);

    long double *large = td_shared_value(long double, 1);
    CHECK((uintptr_t)large % _Alignof(long double) == 0);
    CHECK(td_shared_add(large, 2) == 3);
    int *sum = td_shared_value(int, 10);
    CHECK_INT(td_shared_add(sum, -3), 7);
    CHECK_INT(td_shared_add(sum, 2.6), 9);
    const int *constant = sum;
    CHECK_INT(td_shared_get(constant), 9);
    CHECK_OK(td_shared_set(sum, td_shared_get(sum) * 2));
    CHECK_INT(*sum, 18);

    struct line {
        _Alignas(64) char bytes[64];
    } *lines = td_shared_array(struct line, 7);
    CHECK_INT((uintptr_t)lines % 64, 0);
    CHECK_INT(td_shared_count(lines), 7);
    td_shared_free(point);
    td_shared_free(large);
    td_shared_free(sum);
    td_shared_free(lines);
    CHECK_INT(blocks(), 0);
}

TEST(slices)
{
    int *array = td_shared_array(int, 100), some[10];
    REQUIRE(array);
    CHECK_INT(td_shared_count(array), 100);
    for (int i = 0; i < 10; i++)
        some[i] = i;
    CHECK_OK(td_shared_write(array, 90, 10, some));
    CHECK_OK(td_shared_write(array, 0, 2, (int[]){ 1, 2 })); /* the commas are no further arguments */
    memset(some, 0, sizeof some);
    CHECK_OK(td_shared_read(array, 85, 10, some));
    CHECK_INT(some[0], 0);
    CHECK_INT(some[9], 4);
    CHECK_INT(td_shared_get_at(array, 1), 2);
    CHECK_OK(td_shared_read(array, 100, 0, some));
    CHECK_OK(td_shared_set_at(array, 99, 77));
    CHECK_INT(*td_shared_at(array, 99), 77);
    CHECK_INT(td_shared_add_at(array, 99, 1), 78);
    CHECK_ERROR(td_shared_read(array, 91, 10, some), TD_EINVAL);
    CHECK_HAS(td_last_message(), "has 100");
    CHECK_ERROR(td_shared_write(array, 101, 0, some), TD_EINVAL);
    CHECK_ERROR(td_shared_write(array, SIZE_MAX, 2, some), TD_EINVAL);
    CHECK_ERROR(td_shared_write(array, 0, SIZE_MAX, some), TD_EINVAL);
    CHECK_ERROR(td_shared_read(array, 0, 1, (int *)NULL), TD_EINVAL);
    td_shared_free(array);

    char *none = td_shared_array(char, 0);
    CHECK_INT(td_shared_count(none), 0);
    td_shared_free(none);
    CHECK_NULL(td_shared_array(int, SIZE_MAX / 4), TD_ENOMEM);
    CHECK_NULL(td_shared_array(int, SIZE_MAX / 2), TD_ENOMEM);
    CHECK_NULL(td_shared_raw_array(int, SIZE_MAX / 2), TD_ENOMEM);
    CHECK_INT(blocks(), 0);
}

/* All sizes around those of blocks: what is written up to the last element leaves the count alone. */
TEST(arrays_of_every_length)
{
    for (size_t count = 0; count < 9000; count += count < 300 ? 1 : 37) {
        unsigned char *array = td_shared_array(unsigned char, count);
        REQUIRE(array);
        for (size_t i = 0; i < count; i++)
            REQUIRE_INT(array[i], 0);
        memset(array, 0xff, count);
        REQUIRE_INT(td_shared_count(array), count);
        td_shared_free(array);
    }
    CHECK_INT(blocks(), 0);
}

static int dies_holding(td_call *call)
{
    int *value = td_arg_shared(call);
    td_rlock_acquire(td_shared_lock(value));
    raise(SIGKILL);
    return 0;
}

/* Who died with the lock is told of, once; the value works on. */
TEST_METHODS(owner_died)
{
    int *value = td_shared_value(int, 1);
    td_worker *w = JOINED(NEW(.target = dies_holding, .args = TD_SHARED(value)));
    (void)td_outcome(w);
    CHECK_INT(td_shared_set(value, 2), TD_OWNER_DIED);
    CHECK_INT(td_shared_set(value, 3), 0);
    CHECK_INT(td_shared_get(value), 3);
    td_free(w);
    td_shared_free(value);
}

HELPER(misuse)
{
    int *array = td_shared_array(int, 10), *block = td_shared_alloc(100), local = 0;
    switch (atoi(argv[1])) {
    case 0:
        *td_shared_at(array, 10) = 1;
        break;
    case 1:
        td_shared_add_at(array, SIZE_MAX, 1);
        break;
    case 2:
        td_shared_set(block, 1);
        break;
    case 3:
        (void)td_shared_get(&local);
        break;
    case 4:
        (void)td_shared_get((char *)array);
        break;
    case 5:
        td_shared_free(array);
        (void)td_shared_get(array);
        break;
    case 6:
        memset(array, 0xff, td_shared_size(array));
        (void)td_shared_count(array);
        break;
    case 7:
        td_shared_lock(array + 1);
        break;
    case 8:
        td_shared_count(NULL);
        break;
    }
    (void)argc;
    return 0;
}

TEST(misuse_is_told)
{
    static const char *const said[] = { "index 10 is out of bounds", "out of bounds", "no shared value or array",
                                        "no shared value or array",  "not 1",         "no shared value or array",
                                        "its end was written over",  "no shared",     "no shared value or array" };
    for (int which = 0; which < 9; which++) {
        char number[16], *output;
        snprintf(number, sizeof number, "%d", which);
        CHECK_INT(helper_output(&output, NULL, "misuse", number, NULL), -SIGABRT);
        CHECK_HAS(output, said[which]);
        free(output);
    }
}

/* After the program's own fork the child shares the heap. */
TEST(forked_child)
{
    int *value = td_shared_value(int, 1);
    pid_t pid = fork();
    if (pid == 0) {
        td_shared_add(value, 41);
        td_shared_free(td_shared_alloc(10000));
        _exit(0);
    }
    int status;
    CHECK_INT(waitpid(pid, &status, 0), pid);
    CHECK_INT(status, 0);
    CHECK_INT(td_shared_get(value), 42);
    td_shared_free(value);
}

#if defined(TD_DEBUG) && !WITH_TSAN
static int holds(td_call *call)
{
    td_lock *lock = td_arg_shared(call);
    td_lock_acquire(lock);
    event_set(1);
    event_wait(2);
    td_lock_release(lock);
    return 0;
}

HELPER(free_locked)
{
    td_lock *lock = td_shared_calloc(1, sizeof *lock);
    td_worker *w = WORKER(argv[1][0] == 'p' ? td_process(.target = holds, .args = TD_SHARED(lock))
                                            : td_thread(.target = holds, .args = TD_SHARED(lock)));
    REQUIRE_OK(td_start(w));
    event_wait(1);
    (void)argc;
    td_shared_free(lock);
    return 0;
}

/* In debug builds a block in which somebody holds a lock is not freed. */
TEST(freed_while_held)
{
    char *said;
    CHECK_INT(helper_output(&said, NULL, "free_locked", "process", NULL), -SIGABRT);
    CHECK_HAS(said, "holds something inside block");
    free(said);
    page->event[1] = 0;
    CHECK_INT(helper_output(&said, NULL, "free_locked", "thread", NULL), -SIGABRT);
    CHECK_HAS(said, "holds something inside block");
    free(said);
}

/* A dead process that held one is no reason. */
TEST_METHODS(freed_after_the_holder_died)
{
    int *value = td_shared_value(int, 1);
    td_worker *w = JOINED(NEW(.target = dies_holding, .args = TD_SHARED(value)));
    (void)td_outcome(w);
    td_free(w);
    td_shared_free(value);
}
#endif
