/* SPDX-License-Identifier: MIT */
/* Memory for what processes fight over: in the shared heap, which the library's own need, or bench_share's. */
#ifndef TANDEM_BENCH_HEAP_H
#define TANDEM_BENCH_HEAP_H

#include "common.h"

#include <string.h>
#include <tandem.h>

/* Zeroed, at the beginning of a cache line; never fails. */
static inline void *bench_allocate(bool in_heap, size_t size)
{
    if (!in_heap)
        return bench_share(size);
    void *memory = td_shared_alloc_aligned(64, size);
    if (memory == NULL)
        bench_fail("td_shared_alloc_aligned: %s", td_last_message());
    return memset(memory, 0, size);
}

static inline void bench_give_back(bool in_heap, void *memory, size_t size)
{
    if (in_heap)
        td_shared_free(memory);
    else
        bench_unshare(memory, size);
}

#endif
