/* SPDX-License-Identifier: MIT */
/*
 * Timers: a function that is called on a thread of its own after some time, unless it is cancelled before.
 * Python: threading.Timer.
 *
 *     td_worker *reminder = td_timer(.interval = td_s(30), .target = remind, .args = TD_STR("tea"));
 *     td_start(reminder);                     // the interval begins here
 *     ...
 *     if (td_timer_cancel(reminder) == 0)     // in time: it will not be called
 *         puts("not needed any more");
 *     td_join(reminder);
 *     td_free(reminder);
 *
 * A timer is a worker on a thread: it is started, joined, asked for its outcome and result, and freed as one.
 */
#ifndef TANDEM_TIMER_H
#define TANDEM_TIMER_H

#include <tandem/worker.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Everything is copied by td_timer. */
typedef struct td_timer_options {
    size_t struct_size TD_ZERO; /* filled in by the macro */
    td_time interval TD_ZERO;   /* needed; td_ms(0): at once */
    td_target *target TD_ZERO;  /* needed */
    td_value args TD_ZERO;      /* as for td_thread, and so the others */
    const char *name TD_ZERO;
    td_daemon daemon TD_ZERO; /* one that is none holds up the program's end until its target has returned */
    size_t stack_size TD_ZERO;
} td_timer_options;

/* Creates a timer without starting it; NULL on failure: TD_EINVAL (no interval), and as td_worker_create. */
TD_API td_worker *td_timer_create(const td_timer_options *options);

/*
 * Cancels it: 0 if its target will never be called, which is so whenever the target has not been called yet, also
 * before td_start. Its outcome will then be TD_CANCELLED, and its thread ends at once. TD_ESTATE: too late, the target
 * has been called (td_terminate sets what it may ask for by td_cancelled). TD_EINVAL: not a timer. TD_EFORKED. Does not
 * block. td_terminate and td_interrupt cancel one that waits, too. Python: cancel().
 */
TD_API int td_timer_cancel(td_worker *timer);

#ifdef __cplusplus
}
inline td_worker *td_timer_create_from(const td_timer_options &options)
{
    return td_timer_create(&options);
}
#define td_timer(...) td_timer_create_from(td_timer_options{ .struct_size = sizeof(td_timer_options), __VA_ARGS__ })
#else
#define td_timer(...) td_timer_create(&(td_timer_options){ .struct_size = sizeof(td_timer_options), __VA_ARGS__ })
#endif

#endif
