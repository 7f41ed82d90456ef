/* SPDX-License-Identifier: MIT */
/* Bytes that tell their place and their frame. Tens of MiB of them: a sanitizer's look at each would take seconds. */
#ifndef TANDEM_TESTS_FILLED_H
#define TANDEM_TESTS_FILLED_H

#include <stdbool.h>
#include <stddef.h>

#define UNWATCHED __attribute__((no_sanitize("address", "thread", "undefined")))

UNWATCHED static inline void fill(unsigned char *bytes, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (unsigned char)(i * 7 + i / 251 + seed);
}

UNWATCHED static inline bool is_filled(const unsigned char *bytes, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != (unsigned char)(i * 7 + i / 251 + seed))
            return false;
    return true;
}

#endif
