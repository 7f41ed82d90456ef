/* SPDX-License-Identifier: MIT */
/* Arguments and results: bytes copied by value, with a kind that both sides must agree on. */
#include "targets.h"

#include <fcntl.h>
#include <float.h>
#include <stdalign.h>
#include <stddef.h>
#include <sys/file.h>
#include <sys/mman.h>

/* --- scalars ----------------------------------------------------------------------------------------------- */

enum colour { RED = 3, GREEN = 0x7ffffff0 };
union either {
    int i;
    double d;
};
struct mixed {
    char c;
    double d;
    short s[3];
    struct {
        int64_t deep;
    } inner;
};

/* Each type: a target that takes it and gives it back, unchanged. */
#define ECHO(name, type)                                             \
    static int echo_##name(td_call *call)                            \
    {                                                                \
        type x = td_arg(call, type);                                 \
        return td_call_return(call, &x, sizeof x, TD_KIND_OF(type)); \
    }
ECHO(bool, bool)
ECHO(char, char)
ECHO(schar, signed char)
ECHO(uchar, unsigned char)
ECHO(short, short)
ECHO(ushort, unsigned short)
ECHO(int, int)
ECHO(uint, unsigned)
ECHO(long, long)
ECHO(ulong, unsigned long)
ECHO(llong, long long)
ECHO(ullong, unsigned long long)
ECHO(float, float)
ECHO(double, double)
ECHO(ldouble, long double)
ECHO(size, size_t)
ECHO(i64, int64_t)
ECHO(enum, enum colour)
ECHO(union, union either)
ECHO(struct, struct mixed)

#define TRY(name, type, value)                                                   \
    do {                                                                         \
        type sent = (value), got;                                                \
        memset(&got, 0x55, sizeof got);                                          \
        td_worker *w = WORKER(NEW(.target = echo_##name, .args = TD_VAL(sent))); \
        REQUIRE_OK(td_start(w));                                                 \
        REQUIRE_OK(td_join(w));                                                  \
        CHECK_INT(td_outcome(w), TD_RETURNED);                                   \
        if (CHECK_OK(td_result(w, type, &got)))                                  \
            CHECK(got == sent);                                                  \
        td_free(w);                                                              \
    } while (0)

/* Catches: a kind or a width that is lost on the way; sign extension; padding of long double. */
TEST_MODES(every_scalar)
{
    TRY(bool, bool, true);
    TRY(bool, bool, false);
    TRY(char, char, 'x');
    TRY(schar, signed char, -128);
    TRY(uchar, unsigned char, 255);
    TRY(short, short, INT16_MIN);
    TRY(ushort, unsigned short, UINT16_MAX);
    TRY(int, int, INT32_MIN);
    TRY(uint, unsigned, UINT32_MAX);
    TRY(long, long, INT64_MIN);
    TRY(ulong, unsigned long, UINT64_MAX);
    TRY(llong, long long, INT64_MIN);
    TRY(ullong, unsigned long long, UINT64_MAX);
    TRY(float, float, -FLT_MIN);
    TRY(double, double, DBL_MAX);
    TRY(ldouble, long double, LDBL_MIN);
    TRY(size, size_t, SIZE_MAX - 1);
    TRY(i64, int64_t, -1);
    TRY(enum, enum colour, GREEN);
}

static int returns_variables(td_call *call)
{
    int scalar = 7;
    struct mixed whole = { .c = 'w', .d = 2.5 };
    int code = td_arg(call, bool) ? td_return_val(call, scalar) : td_return_val(call, whole);
    scalar = 8; /* it has been copied */
    whole.c = 'x';
    return code;
}

/* Catches: a variable that is returned by its address, or as another kind than that of its type. */
TEST_MODES(variables_returned)
{
    int number = 0;
    struct mixed got;
    td_worker *w = JOINED(NEW(.target = returns_variables, .args = TD_ARG(bool, true)));
    CHECK_OK(td_result(w, int, &number));
    CHECK_INT(number, 7);
    td_free(w);
    w = JOINED(NEW(.target = returns_variables, .args = TD_ARG(bool, false)));
    CHECK_OK(td_result(w, struct mixed, &got));
    CHECK(got.c == 'w' && got.d == 2.5);
    td_free(w);
}

/* Catches: aggregates that arrive with other bytes, and TD_ARG's way of building them. */
TEST_MODES(structs_and_unions)
{
    struct mixed sent = { 'c', 1.5, { 1, -2, 3 }, { INT64_MIN } }, got;
    td_worker *w = JOINED(NEW(.target = echo_struct, .args = TD_VAL(sent)));
    REQUIRE_OK(td_result(w, struct mixed, &got));
    CHECK(got.c == 'c' && got.d == 1.5 && got.s[0] == 1 && got.s[1] == -2 && got.s[2] == 3);
    CHECK(got.inner.deep == INT64_MIN);
    td_free(w);

    w = JOINED(NEW(.target = echo_struct, .args = TD_ARG(struct mixed, .d = 2.5, .s = { 4, 5, 6 })));
    REQUIRE_OK(td_result(w, struct mixed, &got));
    CHECK(got.c == 0 && got.d == 2.5 && got.s[2] == 6 && got.inner.deep == 0);
    td_free(w);

    union either u;
    w = JOINED(NEW(.target = echo_union, .args = TD_ARG(union either, .d = -7.25)));
    REQUIRE_OK(td_result(w, union either, &u));
    CHECK(u.d == -7.25);
    td_free(w);
}

static int returns_sum(td_call *call)
{
    struct mixed m = td_arg(call, struct mixed);
    return td_return(call, double, m.d + m.s[0]);
}

/* Catches: the caller's variable being read after td_thread has returned. */
TEST_MODES(copied_at_creation)
{
    struct mixed m = { .d = 10, .s = { 1 } };
    td_worker *w = WORKER(NEW(.target = returns_sum, .args = TD_VAL(m)));
    memset(&m, 0xff, sizeof m);
    REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_join(w));
    double sum = 0;
    CHECK_OK(td_result(w, double, &sum));
    CHECK(sum == 11);
    td_free(w);
}

static int returns_twice(td_call *call)
{
    int code = td_return_str(call, "first");
    return code ? code : td_return(call, int, 2);
}

/* Catches: the first result kept, or both leaked. */
TEST_MODES(last_result_counts)
{
    td_worker *w = JOINED(NEW(.target = returns_twice));
    int result = 0;
    CHECK_OK(td_result(w, int, &result));
    CHECK_INT(result, 2);
    td_free(w);
}

/* --- codes ------------------------------------------------------------------------------------------------- */

/* Catches: codes cut to eight bits, as exit statuses are; and exit codes that say 0 for a failure. */
TEST_MODES(result_code_is_the_full_int)
{
    const struct {
        int code, exitcode;
    } cases[] = { { 0, 0 },       { 1, 1 },         { 255, 255 },      { 256, 1 },         { 257, 1 },
                  { 511, 255 },   { -1, 255 },      { -128, 128 },     { INT32_MAX, 255 }, { INT32_MIN + 1, 1 },
                  { 0x10000, 1 }, { 12345678, 78 }, { -12345678, 178 } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        td_worker *w = JOINED(NEW(.target = returns_arg, .args = TD_ARG(int, cases[i].code)));
        CHECK_INT(td_result_code(w), cases[i].code);
        CHECK_INT(td_exitcode(w), cases[i].exitcode);
        CHECK_INT(td_outcome(w), cases[i].code ? TD_FAILED : TD_RETURNED);
        td_free(w);
    }
}

/* --- strings and blocks ------------------------------------------------------------------------------------ */

static int echo_str(td_call *call)
{
    return td_return_str(call, td_arg_str(call));
}

static int echo_bytes(td_call *call)
{
    size_t size;
    const void *data = td_arg_bytes(call, &size);
    CHECK_INT((uintptr_t)data % alignof(max_align_t), 0);
    return td_return_bytes(call, data, size);
}

/* Catches: a lost NUL, a cut at a border of the transport, an empty string that turns into none. */
TEST_MODES(strings)
{
    const size_t lengths[] = { 0, 1, 7, 8, 255, 256, 1000, 1407, 1408, 1409, 4095, 4096, 4097, 65535, 65536, 100000 };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        char *text = malloc(lengths[i] + 1);
        REQUIRE(text != 0);
        for (size_t k = 0; k < lengths[i]; k++)
            text[k] = (char)('a' + k % 23);
        text[lengths[i]] = 0;
        td_worker *w = JOINED(NEW(.target = echo_str, .args = TD_STR(text)));
        CHECK_INT(td_outcome(w), TD_RETURNED);
        CHECK_STR(td_result_str(w), text);
        size_t size = 0;
        CHECK(td_result_bytes(w, &size) != 0);
        CHECK_INT(size, lengths[i] + 1);
        td_free(w);
        free(text);
    }
}

static void fill(unsigned char *block, size_t size, unsigned seed)
{
    uint64_t x = seed * 2654435769u + 1;
    for (size_t i = 0; i < size; i += 8) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        memcpy(block + i, &x, size - i < 8 ? size - i : 8);
    }
}

static void there_and_back(const mode *how, size_t size)
{
    unsigned char *block = malloc(size ? size : 1);
    REQUIRE(block != 0);
    fill(block, size, (unsigned)size);
    td_worker *w = JOINED(NEW(.target = echo_bytes, .args = TD_BYTES(block, size)));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    size_t got = 1;
    const unsigned char *result = td_result_bytes(w, &got);
    CHECK_INT(got, size);
    if (size && got == size) {
        CHECK_INT((uintptr_t)result % alignof(max_align_t), 0);
        CHECK(result && memcmp(result, block, size) == 0);
    }
    td_free(w);
    free(block);
}

/* Catches: sizes at the borders of any inline buffer, page or window. */
TEST_MODES(blocks)
{
    for (size_t size = 1; size <= (1 << 20); size *= 2) {
        there_and_back(how, size - 1);
        there_and_back(how, size);
        there_and_back(how, size + 1);
    }
    there_and_back(how, 3);
    there_and_back(how, 1407);
    there_and_back(how, 1409);
}

/* Catches: big values that do not fit what was mapped for them. */
TEST_MODES(large_block)
{
    there_and_back(how, ((size_t)64 << 20) / (size_t)thrift());
}

/* Catches: a result that comes into the window of the next one; memory that is not given back. */
TEST_METHODS(big_values_one_after_another)
{
    for (int i = 0; i < 20; i++)
        there_and_back(how, ((size_t)1 << 20) + (size_t)i * 4096 + (size_t)i);
}

/* Catches: several big values at the same time that share memory by mistake. */
TEST_MODES(big_values_at_once)
{
    enum { N = 8, SIZE = 300000 };
    static unsigned char block[N][SIZE];
    td_worker *w[N];
    for (int i = 0; i < N; i++) {
        fill(block[i], SIZE, (unsigned)i);
        w[i] = WORKER(NEW(.target = echo_bytes, .args = TD_BYTES(block[i], SIZE)));
        REQUIRE_OK(td_start(w[i]));
    }
    for (int i = N - 1; i >= 0; i--) {
        size_t size;
        REQUIRE_OK(td_join(w[i]));
        const void *result = td_result_bytes(w[i], &size);
        CHECK_INT(size, SIZE);
        CHECK(result && size == SIZE && memcmp(result, block[i], SIZE) == 0);
    }
    for (int i = 0; i < N; i++)
        td_free(w[i]);
}

static long available_mib(void)
{
    char *text = read_file("/proc/meminfo", 0), *line = text ? strstr(text, "MemAvailable:") : 0;
    long mib = line ? atol(line + 13) / 1024 : 0;
    free(text);
    return mib;
}

/* Cases of gigabytes: one at a time, or together they would have more than there is. */
static void take_turns(void)
{
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    REQUIRE(fd >= 0);
    REQUIRE_INT(flock(fd, LOCK_EX), 0); /* until the case has ended */
}

static int measures(td_call *call)
{
    size_t size;
    const unsigned char *data = td_arg_bytes(call, &size);
    CHECK(data && data[0] == 1 && data[size - 1] == 2);
    return td_return(call, size_t, size);
}

/* Catches: the largest value promised not being accepted. */
TEST_MODES_LIMIT(full_the_largest_argument, 900)
{
    enum { NEEDED_GB = SANITIZED ? 12 : 6 };
    take_turns();
    if (available_mib() < NEEDED_GB * 1000L)
        SKIP("needs %d GB of free memory", NEEDED_GB);
    unsigned char *block =
        mmap(0, TD_VALUE_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(block != MAP_FAILED);
    block[0] = 1;
    block[TD_VALUE_MAX - 1] = 2;
    td_worker *w = JOINED(NEW(.target = measures, .args = TD_BYTES(block, TD_VALUE_MAX)));
    size_t size = 0;
    CHECK_OK(td_result(w, size_t, &size));
    CHECK_INT(size, TD_VALUE_MAX);
    td_free(w);
    munmap(block, TD_VALUE_MAX);
}

/* Catches: a size that is not checked before it is copied, or that overflows. */
TEST_METHODS(argument_too_big)
{
    unsigned char *block =
        mmap(0, TD_VALUE_MAX + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(block != MAP_FAILED);
    CHECK_NULL(NEW(.target = echo_bytes, .args = TD_BYTES(block, TD_VALUE_MAX + 1)), TD_ETOOBIG);
    CHECK_NULL(NEW(.target = echo_bytes, .args = TD_BYTES(block, SIZE_MAX)), TD_ETOOBIG);
    CHECK_NULL(NEW(.target = echo_bytes, .args = TD_BYTES(block, SIZE_MAX - 4096)), TD_ETOOBIG);
    munmap(block, TD_VALUE_MAX + 1);
}

/* Catches: an overflow in the size of the worker's own block, for threads, which memory alone limits. */
TEST(argument_too_big_for_memory)
{
    static char block[1];
    td_worker *w = td_thread(.target = echo_bytes, .args = TD_BYTES(block, SIZE_MAX));
    CHECK(w == 0);
    CHECK(td_last_error() == TD_ENOMEM || td_last_error() == TD_ETOOBIG);
    w = td_thread(.target = echo_bytes, .args = TD_BYTES(block, SIZE_MAX - 64));
    CHECK(w == 0);
    CHECK(td_last_error() == TD_ENOMEM || td_last_error() == TD_ETOOBIG);
}

static int returns_too_much(td_call *call)
{
    void *block = mmap(0, TD_VALUE_MAX + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(block != MAP_FAILED);
    int code = td_return_bytes(call, block, TD_VALUE_MAX + 1);
    munmap(block, TD_VALUE_MAX + 1);
    return code;
}

/* Catches: a result beyond the limit that kills the worker or the parent. */
TEST_METHODS(result_too_big)
{
    td_worker *w = JOINED(NEW(.target = returns_too_much));
    CHECK_INT(td_outcome(w), TD_FAILED);
    CHECK_INT(td_result_code(w), TD_ETOOBIG);
    size_t size = 1;
    CHECK(td_result_bytes(w, &size) == 0);
    td_free(w);
}

/* --- nothing ----------------------------------------------------------------------------------------------- */

static int has_none(td_call *call)
{
    size_t size = 1;
    CHECK(td_arg_bytes(call, &size) == 0);
    CHECK_INT(size, 0);
    CHECK(td_arg_bytes(call, 0) == 0);
    return 0;
}

static int has_no_bytes(td_call *call)
{
    size_t size = 1;
    td_arg_bytes(call, &size);
    CHECK_INT(size, 0);
    return td_return_bytes(call, "", 0);
}

/* Catches: no argument that arrives as some argument. */
TEST_MODES(no_argument_and_no_result)
{
    for (int i = 0; i < 2; i++) {
        td_worker *w = JOINED(i ? NEW(.target = has_none, .args = TD_STR(0)) : NEW(.target = has_none));
        CHECK_INT(td_outcome(w), TD_RETURNED);
        size_t size = 1;
        int number;
        CHECK(td_result_bytes(w, &size) == 0);
        CHECK_INT(size, 0);
        CHECK(td_result_str(w) == 0);
        CHECK_ERROR(td_result(w, int, &number), TD_ESTATE);
        td_free(w);
    }
    td_worker *w = JOINED(NEW(.target = has_no_bytes, .args = TD_BYTES("", 0)));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    size_t size = 1;
    td_result_bytes(w, &size);
    CHECK_INT(size, 0);
    td_free(w);
}

/* Catches: a result that can be read before it is there. */
TEST_MODES(result_before_the_end)
{
    int number = 77;
    size_t size = 1;
    td_worker *w = WORKER(NEW(.target = echo_int, .args = TD_ARG(int, 1)));
    CHECK_ERROR(td_result(w, int, &number), TD_ESTATE);
    CHECK(td_result_str(w) == 0);
    CHECK(td_result_bytes(w, &size) == 0);
    CHECK_INT(number, 77);
    CHECK_INT(td_result_code(w), TD_NO_CODE);
    CHECK_INT(td_exitcode(w), TD_NO_CODE);
    REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_join(w));
    CHECK_OK(td_result(w, int, &number));
    CHECK_INT(number, 1);
    td_free(w);
}

/* --- what does not match ----------------------------------------------------------------------------------- */

static int goes_on; /* in this process: set by a target that was not stopped */

#define WANTS(name, type)                  \
    static int wants_##name(td_call *call) \
    {                                      \
        type x = td_arg(call, type);       \
        (void)x;                           \
        goes_on = 1;                       \
        return 0;                          \
    }
WANTS(int, int)
WANTS(uint, unsigned)
WANTS(long, long)
WANTS(float, float)
WANTS(double, double)
WANTS(bool, bool)
WANTS(uchar, unsigned char)
WANTS(mixed, struct mixed)

struct four {
    int only;
};
WANTS(four, struct four)

static int wants_str(td_call *call)
{
    td_arg_str(call);
    goes_on = 1;
    return 0;
}

static void mismatch(const mode *how, td_target *target, td_value value)
{
    td_worker *w = WORKER(NEW(.target = target, .args = value));
    goes_on = 0;
    REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_join(w));
    CHECK_INT(goes_on, 0);
    CHECK_INT(td_outcome(w), TD_FAILED);
    CHECK_INT(td_result_code(w), TD_ETYPE);
    CHECK(td_message(w)[0]);
    CHECK_HAS(td_describe(w), td_message(w));
    td_free(w);
}

/* Catches: a target that reads beyond its argument, or reads a float as an int; and a program that dies of it. */
TEST_MODES(mismatched_arguments)
{
    static char block[sizeof(struct mixed)];
    mismatch(how, wants_int, TD_ARG(long, 1));
    mismatch(how, wants_long, TD_ARG(int, 1));
    mismatch(how, wants_int, TD_ARG(unsigned, 1));
    mismatch(how, wants_uint, TD_ARG(int, 1));
    mismatch(how, wants_int, TD_ARG(float, 1));
    mismatch(how, wants_float, TD_ARG(int, 1));
    mismatch(how, wants_double, TD_ARG(float, 1));
    mismatch(how, wants_bool, TD_ARG(unsigned char, 1));
    mismatch(how, wants_uchar, TD_ARG(bool, 1));
    mismatch(how, wants_four, TD_ARG(int, 1));
    mismatch(how, wants_int, TD_ARG(struct four, 1));
    mismatch(how, wants_mixed, TD_ARG(struct four, 1));
    mismatch(how, wants_mixed, TD_STR("text"));
    mismatch(how, wants_str, TD_ARG(int, 1));
    mismatch(how, wants_str, TD_BYTES(block, sizeof block));
    mismatch(how, wants_int, TD_STR("abc"));
    mismatch(how, wants_int, (td_value){ 0 });
    mismatch(how, wants_str, (td_value){ 0 });
    /* and the program goes on */
    CHECK_INT(td_run(NEW(.target = wants_int, .args = TD_ARG(int, 1))), 0);
}

/* Catches: a sentence that does not say what was given and what was wanted. */
TEST_MODES(mismatch_names_both)
{
    td_worker *w = JOINED(NEW(.target = wants_long, .args = TD_ARG(int, 1), .name = "narrow"));
    CHECK_HAS(td_message(w), "4");
    CHECK_HAS(td_message(w), "8");
    CHECK_HAS(td_describe(w), "narrow");
    td_free(w);
    w = JOINED(NEW(.target = wants_float, .args = TD_ARG(int, 1)));
    CHECK_HAS(td_message(w), "float");
    td_free(w);
}

/* Catches: a result read as what it is not. */
TEST_MODES(mismatched_results)
{
    td_worker *w = JOINED(NEW(.target = echo_int, .args = TD_ARG(int, 1)));
    long l = 77;
    unsigned u = 77;
    float f = 77;
    struct four s = { 77 };
    CHECK_ERROR(td_result(w, long, &l), TD_ETYPE);
    CHECK_ERROR(td_result(w, unsigned, &u), TD_ETYPE);
    CHECK_ERROR(td_result(w, float, &f), TD_ETYPE);
    CHECK_ERROR(td_result(w, struct four, &s), TD_ETYPE);
    CHECK_HAS(td_last_message(), "gave a signed integer of 4 bytes, but a struct of 4 bytes is asked for");
    CHECK(l == 77 && u == 77 && f == 77 && s.only == 77);
    CHECK(td_result_str(w) == 0);
    CHECK_INT(td_last_error(), TD_ETYPE);
    CHECK_HAS(td_last_message(), "gave a signed integer of 4 bytes, but a string is asked for");
    size_t size = 0;
    CHECK(td_result_bytes(w, &size) != 0);
    CHECK_INT(size, sizeof(int));
    td_free(w);
}

static int counts_bytes(td_call *call)
{
    size_t size;
    const char *bytes = td_arg_bytes(call, &size);
    return bytes && size == sizeof(int) ? 0 : 1;
}

/* Catches: td_arg_bytes refusing what it promises to take. */
TEST_MODES(any_kind_can_be_read_as_bytes)
{
    CHECK_INT(td_run(NEW(.target = counts_bytes, .args = TD_ARG(int, 1))), 0);
    CHECK_INT(td_run(NEW(.target = counts_bytes, .args = TD_ARG(float, 1))), 0);
    CHECK_INT(td_run(NEW(.target = counts_bytes, .args = TD_STR("abc"))), 0);
    CHECK_INT(td_run(NEW(.target = counts_bytes, .args = TD_BYTES("abcd", 4))), 0);
}

static int asks_twice(td_call *call)
{
    int first = td_arg(call, int), second = td_arg(call, int);
    return first == second ? 0 : 1;
}

/* Catches: an argument that is consumed by the first look. */
TEST_MODES(argument_can_be_asked_for_again)
{
    CHECK_INT(td_run(NEW(.target = asks_twice, .args = TD_ARG(int, 123))), 0);
}

static int writes_result_of_strings(td_call *call)
{
    char text[300];
    memset(text, 'r', sizeof text - 1);
    text[sizeof text - 1] = 0;
    int code = td_return_str(call, text);
    memset(text, 'x', sizeof text); /* it was copied */
    return code;
}

/* Catches: a result that points into the target's stack. */
TEST_MODES(result_is_copied)
{
    td_worker *w = JOINED(NEW(.target = writes_result_of_strings));
    const char *text = td_result_str(w);
    REQUIRE(text != 0);
    CHECK_INT(strlen(text), 299);
    CHECK_INT(strspn(text, "r"), 299);
    td_free(w);
}

static int returns_null_string(td_call *call)
{
    return td_return_str(call, 0);
}

/* Catches: a crash of a target that returns no string. */
TEST_MODES(null_string_as_result)
{
    td_worker *w = JOINED(NEW(.target = returns_null_string));
    CHECK(td_outcome(w) == TD_RETURNED || td_outcome(w) == TD_FAILED);
    CHECK(td_result_str(w) == 0);
    td_free(w);
}
