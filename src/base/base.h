/* SPDX-License-Identifier: MIT */
/* What every layer uses: the pending error of a thread, and the names of atomics. Includes nothing of ours. */
#ifndef TD_BASE_BASE_H
#define TD_BASE_BASE_H

#include <stdatomic.h>
#include <stdarg.h>
#include <string.h>
#include <tandem/base.h>

/* Sets the thread's pending error to `code` and the sentence; returns the code. Keeps errno. */
int td__fail(int code, const char *format, ...) TD_PRINTF(2, 3);

/* The same with the name of the call, a constant string, and the code's own sentence, which are put together when
 * somebody asks: for calls that fail as a matter of course, such as a try. */
int td__fail_quick(int code, const char *call);

/* A td_kind and a size in words: "a signed integer of 4 bytes", "no value". The string may be in `words`. */
typedef struct td__words {
    char text[64];
} td__words;
const char *td__value_words(td__words *words, int kind, uint64_t size);

/* A bug of the caller: one sentence on standard error ("td_lock_release: lock 0x... is not held"), then abort(). */
_Noreturn void td__bug(const char *format, ...) TD_PRINTF(1, 2);

/* The pending error's code, or TD_EINVAL where there is none: what a call given NULL returns. */
int td__pending(void);

/*
 * Atomics. Every access names its order; the comment at the access says what it publishes or observes, its partner
 * and what would break. They stand here so that a model checker or a scheduler for tests can take their place.
 */
#define td__load_relaxed(p)         atomic_load_explicit((p), memory_order_relaxed)
#define td__load_acquire(p)         atomic_load_explicit((p), memory_order_acquire)
#define td__store_relaxed(p, v)     atomic_store_explicit((p), (v), memory_order_relaxed)
#define td__store_release(p, v)     atomic_store_explicit((p), (v), memory_order_release)
#define td__fetch_add_relaxed(p, v) atomic_fetch_add_explicit((p), (v), memory_order_relaxed)
#define td__fetch_add_acq_rel(p, v) atomic_fetch_add_explicit((p), (v), memory_order_acq_rel)
#define td__fetch_sub_acq_rel(p, v) atomic_fetch_sub_explicit((p), (v), memory_order_acq_rel)
#define td__fetch_or_acq_rel(p, v)  atomic_fetch_or_explicit((p), (v), memory_order_acq_rel)
#define td__exchange_acq_rel(p, v)  atomic_exchange_explicit((p), (v), memory_order_acq_rel)
#define td__exchange_acquire(p, v)  atomic_exchange_explicit((p), (v), memory_order_acquire)
#define td__exchange_release(p, v)  atomic_exchange_explicit((p), (v), memory_order_release)
#define td__fetch_and_acq_rel(p, v) atomic_fetch_and_explicit((p), (v), memory_order_acq_rel)
#define td__cas_acquire(p, expected, v) \
    atomic_compare_exchange_strong_explicit((p), (expected), (v), memory_order_acquire, memory_order_relaxed)
#define td__cas_release(p, expected, v) \
    atomic_compare_exchange_strong_explicit((p), (expected), (v), memory_order_release, memory_order_relaxed)
#define td__cas_acq_rel(p, expected, v) \
    atomic_compare_exchange_strong_explicit((p), (expected), (v), memory_order_acq_rel, memory_order_acquire)

/* Sequentially consistent, for the few places where each of two sides must see the other's write or be seen. */
#define td__load_seq_cst(p)         atomic_load_explicit((p), memory_order_seq_cst)
#define td__store_seq_cst(p, v)     atomic_store_explicit((p), (v), memory_order_seq_cst)
#define td__fetch_add_seq_cst(p, v) atomic_fetch_add_explicit((p), (v), memory_order_seq_cst)
#define td__fetch_or_seq_cst(p, v)  atomic_fetch_or_explicit((p), (v), memory_order_seq_cst)
#define td__fetch_and_seq_cst(p, v) atomic_fetch_and_explicit((p), (v), memory_order_seq_cst)
#define td__exchange_seq_cst(p, v)  atomic_exchange_explicit((p), (v), memory_order_seq_cst)
#define td__cas_seq_cst(p, expected, v) \
    atomic_compare_exchange_strong_explicit((p), (expected), (v), memory_order_seq_cst, memory_order_seq_cst)

/* All that stands before it, before all that stands after it, for every processor. ThreadSanitizer knows no fences:
 * there it is an exchange of a word that nobody else uses, which is as good on the processors that it runs on. */
#if defined(__SANITIZE_THREAD__)
#define TD__FENCE_BY_EXCHANGE 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TD__FENCE_BY_EXCHANGE 1
#endif
#endif
#if TD__FENCE_BY_EXCHANGE
static inline void td__fence_seq_cst(void)
{
    _Atomic int none = 0;
    atomic_exchange_explicit(&none, 1, memory_order_seq_cst);
}
#else
#define td__fence_seq_cst() atomic_thread_fence(memory_order_seq_cst)
#endif

/*
 * Order as one thread's own record shows it: what stands before it is done before what stands after it, as seen by
 * whoever repairs after this thread has died (the kernel orders all of a dead thread's stores before the news of its
 * death). Keeps the compiler, not the processor.
 */
#if TD_FAULTS
void td__step_point(void); /* os/linux/fault.c: tests kill here */
#define td__program_order() (atomic_signal_fence(memory_order_seq_cst), td__step_point())
#else
#define td__program_order() atomic_signal_fence(memory_order_seq_cst)
#define td__step_point()    ((void)0)
#endif

#define td__unlikely(x) __builtin_expect(!!(x), 0)
#define td__likely(x)   __builtin_expect(!!(x), 1)

#define TD__COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Copies a string, cut to what fits. Nothing of the libc, for worker processes: see os/linux/raw.h. */
static inline void td__copy_string(char *to, size_t size, const char *from)
{
    size_t i = 0;
    for (; i + 1 < size && from[i]; i++)
        to[i] = from[i];
    to[i] = 0;
}

/* snprintf that cannot fail: cuts, always ends with NUL. Returns the length written. */
size_t td__format(char *to, size_t size, const char *format, ...) TD_PRINTF(3, 4);

#endif
