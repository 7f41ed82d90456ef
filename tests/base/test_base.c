/* SPDX-License-Identifier: MIT */
/* Codes, sentences, time limits, kinds: what the other headers use. */
#include "harness.h"

#include <math.h>

/* Catches: a code without a name or sentence, two codes with one number. */
TEST(every_code_has_a_name_and_a_sentence)
{
    int seen[64] = { 0 };
#define LOOK(name, value, sentence)         \
    CHECK_INT(name, value);                 \
    CHECK_STR(td_error_name(name), #name);  \
    CHECK_STR(td_strerror(name), sentence); \
    CHECK_INT(seen[-(value)]++, 0);
    TD_CODE_MAP(LOOK)
#undef LOOK
    CHECK_STR(td_error_name(TD_OK), "TD_OK");
    CHECK(td_strerror(TD_OK)[0]);
    CHECK_STR(td_error_name(TD_OWNER_DIED), "TD_OWNER_DIED");
    CHECK_HAS(td_strerror(TD_OWNER_DIED), "died");
}

/* Catches: a code from elsewhere that reads outside of the table. */
TEST(unknown_codes)
{
    const int codes[] = { 2, 1000, -18, -1000, INT32_MAX, INT32_MIN };
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        CHECK(td_strerror(codes[i]) && td_strerror(codes[i])[0]);
        CHECK(td_error_name(codes[i]) && td_error_name(codes[i])[0]);
    }
}

/* Catches: an error at the start of the program. */
TEST(no_error_at_first)
{
    CHECK_INT(td_last_error(), 0);
    CHECK_STR(td_last_message(), "");
}

/* Catches: limits that overflow, and a remainder of nothing that waits for ever. */
TEST(time_limits)
{
    CHECK_INT(td_ns(5).ns, 5);
    CHECK_INT(td_us(5).ns, 5000);
    CHECK_INT(td_ms(5).ns, 5000000);
    CHECK_INT(td_s(0.5).ns, 500000000);
    CHECK_INT(td_s(2).ns, 2000000000);
    CHECK_INT(TD_NO_LIMIT.ns, 0);
    CHECK(td_ns(0).ns == 1 && td_us(0).ns == 1 && td_ms(0).ns == 1 && td_s(0).ns == 1);
    CHECK(td_ns(-1).ns == 1 && td_us(-1).ns == 1 && td_ms(-1).ns == 1 && td_s(-1).ns == 1);
    CHECK(td_ns(INT64_MIN).ns == 1 && td_us(INT64_MIN).ns == 1 && td_ms(INT64_MIN).ns == 1 && td_s(-1e300).ns == 1);
    CHECK(td_ns(INT64_MAX).ns == INT64_MAX && td_us(INT64_MAX).ns == INT64_MAX && td_ms(INT64_MAX).ns == INT64_MAX);
    CHECK(td_s(1e300).ns == INT64_MAX && td_s((double)INFINITY).ns == INT64_MAX);
    CHECK_INT(td_us(INT64_MAX / 1000).ns, INT64_MAX / 1000 * 1000);
    CHECK_INT(td_us(INT64_MAX / 1000 + 1).ns, INT64_MAX);
    CHECK_INT(td_s((double)NAN).ns, 1);
    CHECK_INT(td_s(1e-12).ns, 1);
    CHECK(td_s(9.1e9).ns > 0);
}

struct point {
    int x, y;
};
enum colour { RED };

/* Catches: a kind that depends on anything but the type. */
TEST(kinds)
{
    CHECK_INT(TD_KIND_OF(bool), TD_KIND_BOOL);
    CHECK_INT(TD_KIND_OF(char), TD_KIND_SIGNED);
    CHECK_INT(TD_KIND_OF(signed char), TD_KIND_SIGNED);
    CHECK_INT(TD_KIND_OF(short), TD_KIND_SIGNED);
    CHECK_INT(TD_KIND_OF(int), TD_KIND_SIGNED);
    CHECK_INT(TD_KIND_OF(long), TD_KIND_SIGNED);
    CHECK_INT(TD_KIND_OF(long long), TD_KIND_SIGNED);
    CHECK_INT(TD_KIND_OF(int64_t), TD_KIND_SIGNED);
    CHECK_INT(TD_KIND_OF(unsigned char), TD_KIND_UNSIGNED);
    CHECK_INT(TD_KIND_OF(unsigned short), TD_KIND_UNSIGNED);
    CHECK_INT(TD_KIND_OF(unsigned), TD_KIND_UNSIGNED);
    CHECK_INT(TD_KIND_OF(unsigned long), TD_KIND_UNSIGNED);
    CHECK_INT(TD_KIND_OF(unsigned long long), TD_KIND_UNSIGNED);
    CHECK_INT(TD_KIND_OF(size_t), TD_KIND_UNSIGNED);
    CHECK_INT(TD_KIND_OF(enum colour), TD_KIND_UNSIGNED);
    CHECK_INT(TD_KIND_OF(float), TD_KIND_FLOAT);
    CHECK_INT(TD_KIND_OF(double), TD_KIND_FLOAT);
    CHECK_INT(TD_KIND_OF(long double), TD_KIND_FLOAT);
    CHECK_INT(TD_KIND_OF(struct point), TD_KIND_STRUCT);
}

/* Catches: values that the macros describe wrongly. */
TEST(values)
{
    td_value v = TD_ARG(struct point, .x = 3, .y = 4);
    CHECK(v.size == sizeof(struct point) && v.kind == TD_KIND_STRUCT && ((const struct point *)v.data)->y == 4);
    v = TD_ARG(int, 10);
    CHECK(v.size == sizeof(int) && v.kind == TD_KIND_SIGNED && *(const int *)v.data == 10);
    double d = 1.5;
    v = TD_VAL(d);
    CHECK(v.size == sizeof d && v.kind == TD_KIND_FLOAT && v.data == &d);
    const unsigned constant = 7;
    v = TD_VAL(constant);
    CHECK(v.size == sizeof constant && v.kind == TD_KIND_UNSIGNED);
    v = TD_STR("abc");
    CHECK(v.size == 4 && v.kind == TD_KIND_STRING && strcmp(v.data, "abc") == 0);
    v = TD_STR("");
    CHECK(v.size == 1 && v.kind == TD_KIND_STRING);
    v = TD_STR(NULL);
    CHECK(v.size == 0 && v.kind == TD_KIND_NONE && v.data == 0);
    int array[5] = { 0 };
    v = TD_BYTES(array, sizeof array);
    CHECK(v.size == sizeof array && v.kind == TD_KIND_BYTES && v.data == array);
}
