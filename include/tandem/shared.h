/* SPDX-License-Identifier: MIT */
/*
 * The shared heap: memory that all processes of the program see at the same address, so that pointers into it mean the
 * same in each. Python: multiprocessing.Value, Array, RawValue, RawArray, shared_memory, and what multiprocessing.heap
 * does behind them.
 *
 *     struct board *board = td_shared_calloc(1, sizeof *board);     // with td_locks in it, and pointers to more
 *     td_worker *w = td_process(.target = play, .args = TD_SHARED(board));
 *
 *     static int play(td_call *call)
 *     {
 *         struct board *board = td_arg_shared(call);
 *
 * Any process of the program, and any thread in it, allocates and frees any block. A block lives until it is freed: the
 * end of the process that allocated it, in whatever way, frees nothing, since others may have the pointer. A process
 * killed in the middle of one of these calls blocks nobody and loses nothing: a block whose address the call has not
 * returned yet is free again, and one that it was freeing is either free or allocated still, as though it had died
 * just before.
 *
 * Pages are the system's only after it has agreed, so that running out is TD_ENOMEM and never a signal. Up to 64 GiB,
 * less where address space or file size is limited (RLIMIT_AS, RLIMIT_FSIZE). Left out of core dumps.
 *
 * Errors: TD_EINIT before td_init; TD_ENOMEM; TD_EINVAL; TD_ECORRUPT: the heap's own data have been written over, by a
 * wild pointer in some process. All calls may be made from any thread, and in workers, their workers and forked
 * children; none in a signal handler. They may wait, for a moment, for each other. After fork() the child shares the
 * heap.
 */
#ifndef TANDEM_SHARED_H
#define TANDEM_SHARED_H

#include <tandem/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A block of `size` bytes, aligned to 16, its bytes undefined. Of size 0: one that can be freed. NULL: see above. */
TD_API void *td_shared_alloc(size_t size);
/* Aligned to `alignment`, a power of two up to 4096: 64 keeps what two processes write out of one cache line. */
TD_API void *td_shared_alloc_aligned(size_t alignment, size_t size);
/* Room for `count` times `size` bytes, all zero. A product of more than memory is TD_ENOMEM. */
TD_API void *td_shared_calloc(size_t count, size_t size);
/*
 * The block with another size: the same or another address, its first bytes kept. On failure, NULL and the block stays
 * as it was. `block` NULL: as td_shared_alloc. Size 0 is a size like others.
 */
TD_API void *td_shared_realloc(void *block, size_t size);
/*
 * Frees a block. NULL is allowed. A pointer that is no block's, or one freed already, is a bug of the caller: one
 * sentence, and abort. In debug builds (TD_DEBUG) also a block in which somebody holds, or waits on, a lock or the
 * like.
 */
TD_API void td_shared_free(void *block);

/* Is this an address in the shared heap? Then it means the same in all processes. It need not be the beginning of a
 * block. */
TD_API bool td_shared_is(const void *address);
/* The size that the block has for its user, at least what was asked for; 0 for anything else. */
TD_API size_t td_shared_size(const void *block);

/* Is the heap in order? 0, or TD_ECORRUPT with a sentence that says where it is not. Looks at every run of pages and
 * every group of small blocks; the others wait meanwhile. */
TD_API int td_shared_check(void);

/* What there is, in bytes; found by the same walk. */
typedef struct td_shared_counts {
    size_t limit;    /* for blocks, at most */
    size_t reserved; /* memory that the system has given for all of it, the heap's own data and others' included */
    size_t in_use;   /* of allocated blocks, by td_shared_size */
    size_t blocks;   /* their number */
} td_shared_counts;
TD_API int td_shared_stats(td_shared_counts *counts);

#ifdef __cplusplus
}
#endif

#endif
