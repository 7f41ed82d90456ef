/* SPDX-License-Identifier: MIT */
/* The shared heap. */
#include "harness.h"
#include <tandem/shared.h>

/* A block keeps its bytes; freed ones come back. */
TEST(blocks_keep_their_bytes)
{
    static unsigned char *block[1000];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 1000; i++) {
            block[i] = td_shared_alloc((size_t)i * 3);
            REQUIRE(block[i]);
            CHECK(td_shared_is(block[i]));
            CHECK_INT((uintptr_t)block[i] % 16, 0);
            CHECK(td_shared_size(block[i]) >= (size_t)i * 3);
            memset(block[i], i, (size_t)i * 3);
        }
        for (int i = 0; i < 1000; i++) {
            for (int at = 0; at < i * 3; at++)
                REQUIRE_INT(block[i][at], i & 0xff);
            td_shared_free(block[i]);
        }
    }
    for (size_t alignment = 16; alignment <= 4096; alignment *= 2) {
        void *at = td_shared_alloc_aligned(alignment, 100);
        CHECK_INT((uintptr_t)at % alignment, 0);
        td_shared_free(at);
    }
    char *grown = td_shared_realloc(NULL, 10);
    strcpy(grown, "bytes");
    grown = td_shared_realloc(grown, 100000);
    CHECK_STR(grown, "bytes");
    td_shared_free(grown);
    CHECK_NULL(td_shared_alloc(SIZE_MAX), TD_ENOMEM);
    CHECK_NULL(td_shared_calloc(SIZE_MAX / 2, 3), TD_ENOMEM);
}
