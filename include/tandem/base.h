/* SPDX-License-Identifier: MIT */
/*
 * Errors, time limits and the attributes that the other headers use.
 *
 * Every call that can fail because of its surroundings returns 0 or a negative td_code. The thread that
 * made the call can then read one sentence about it: what was being done, to what, and why it failed.
 *
 *     if (td_start(worker) < 0)
 *         fprintf(stderr, "%s\n", td_last_message());
 */
#ifndef TANDEM_BASE_H
#define TANDEM_BASE_H

#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>

#define TD_VERSION_MAJOR 0
#define TD_VERSION_MINOR 1
#define TD_VERSION_PATCH 0

#if defined(__GNUC__)
#define TD_API                 __attribute__((visibility("default")))
#define TD_NODISCARD           __attribute__((warn_unused_result))
#define TD_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define TD_API
#define TD_NODISCARD
#define TD_PRINTF(text, first)
#endif

/* In C++ every option has a default, so that naming a few of them raises no warning (C++11 has no such aggregates). */
#if defined(__cplusplus) && __cplusplus >= 201402L
#define TD_ZERO = {}
#else
#define TD_ZERO
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The codes, their names and their sentences, from one table. */
#define TD_CODE_MAP(X)                                                   \
    X(TD_EINVAL, -1, "invalid argument")                                 \
    X(TD_ENOMEM, -2, "out of memory")                                    \
    X(TD_ETIMEOUT, -3, "the time limit has passed")                      \
    X(TD_ESTATE, -4, "not possible in this state")                       \
    X(TD_EDEADLOCK, -5, "would wait for itself")                         \
    X(TD_EUNSUPPORTED, -6, "not supported")                              \
    X(TD_EPROCESS, -7, "no more processes or threads")                   \
    X(TD_EDESCRIPTOR, -8, "no more descriptors")                         \
    X(TD_ETYPE, -9, "size or kind does not match")                       \
    X(TD_EINIT, -10, "td_init() was not called")                         \
    X(TD_EFORKED, -11, "belongs to the parent of this forked process")   \
    X(TD_ESYSTEM, -12, "a system call failed")                           \
    X(TD_ESPAWNER, -13, "the spawner was lost")                          \
    X(TD_ETARGET, -14, "the target cannot be found in a worker process") \
    X(TD_ECANCELLED, -15, "cancelled")                                   \
    X(TD_ETOOBIG, -16, "too big")                                        \
    X(TD_EACCESS, -17, "not permitted")                                  \
    X(TD_ECLOSED, -18, "closed or shut down")                            \
    X(TD_EBUSY, -19, "in use by another")                                \
    X(TD_EEMPTY, -20, "the queue is empty")                              \
    X(TD_EFULL, -21, "the queue is full")                                \
    X(TD_EBROKEN, -22, "the barrier is broken")                          \
    X(TD_ECORRUPT, -23, "shared memory is corrupted")                    \
    X(TD_ETORN, -24, "cut off or damaged on its way")

/*
 * A result that is no failure: the call has acquired the lock, whose former owner died holding it. What the lock guards
 * may be half-written.
 */
#define TD_OWNER_DIED 1

typedef enum td_code {
    TD_OK = 0,
#define TD_CODE_ENUM(name, value, sentence) name = value,
    TD_CODE_MAP(TD_CODE_ENUM)
#undef TD_CODE_ENUM
} td_code;

/* The sentence of a code ("out of memory"); a constant string, never NULL. Any thread, also in a signal handler. */
TD_API const char *td_strerror(int code);

/* The name of a code ("TD_ENOMEM"); a constant string, never NULL. Any thread, also in a signal handler. */
TD_API const char *td_error_name(int code);

/*
 * The last failure of this thread: its code (0 if none yet) and its sentence, such as
 * "cannot start worker 'resize': fork: Resource temporarily unavailable (RLIMIT_NPROC is 1024)".
 * A call that succeeds leaves them as they are. The string is this thread's, until its next failing call. Ask after the
 * call, not among the arguments of the same printf: C does not say which of those is evaluated first.
 * A constructor that fails returns NULL; every call given NULL returns the code of this pending error, so that
 * a chain of calls can be checked once, at its end. Never block. Empty in a new thread; kept in a forked child.
 */
TD_API int td_last_error(void);
TD_API const char *td_last_message(void);

/*
 * A cancellation object: whoever has one can end the waits that were given it, in any thread, and in any process if it
 * is in shared memory. {0} is one that has not been fired. Fired, it stays so until td_cancel_reset: a wait that begins
 * later fails at once with TD_ECANCELLED, unless what it waits for is there already.
 * None of these calls blocks; all are for any thread. Python has none; nsync's note and .NET's token are the models.
 */
typedef struct td_cancel {
    uint32_t td_fired;
} td_cancel;
TD_API void td_cancel_fire(td_cancel *cancel);
TD_API bool td_cancel_fired(const td_cancel *cancel);
TD_API void td_cancel_reset(td_cancel *cancel);

/*
 * A time limit, relative to the call that takes it and measured on the monotonic clock. All zero means no limit;
 * td_ms(0), and anything below, is a limit that has passed already, so that a computed remainder of nothing never
 * turns into waiting for ever. More than 292 years counts as 292 years.
 */
typedef struct td_time {
    int64_t ns; /* 0: no limit */
} td_time;

#ifdef __cplusplus
#define TD_NO_LIMIT (td_time{})
#else
#define TD_NO_LIMIT ((td_time){ 0 })
#endif

static inline td_time td_ns(int64_t nanoseconds)
{
    td_time t;
    t.ns = nanoseconds > 0 ? nanoseconds : 1;
    return t;
}

static inline td_time td_us(int64_t microseconds)
{
    return td_ns(microseconds > INT64_MAX / 1000 ? INT64_MAX : microseconds > 0 ? microseconds * 1000 : 0);
}

static inline td_time td_ms(int64_t milliseconds)
{
    return td_ns(milliseconds > INT64_MAX / 1000000 ? INT64_MAX : milliseconds > 0 ? milliseconds * 1000000 : 0);
}

static inline td_time td_s(double seconds)
{
    return td_ns(seconds >= 9.2e9 ? INT64_MAX : seconds > 0 ? (int64_t)(seconds * 1e9) : 0);
}

#ifdef __cplusplus
}
#endif

#endif
