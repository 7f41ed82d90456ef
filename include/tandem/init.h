/* SPDX-License-Identifier: MIT */
/*
 * The beginning and the end of a program.
 *
 *     int main(void)
 *     {
 *         td_init();
 *         ...
 *         td_finish();          // optional: gives the end a defined order
 *     }
 */
#ifndef TANDEM_INIT_H
#define TANDEM_INIT_H

#include <tandem/base.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct td_init_options {
    size_t struct_size TD_ZERO; /* filled in by the macro */
    int (*prepare)(
        void) TD_ZERO;       /* runs once in the spawner, before any worker: loads what all workers share.
                                Not 0 means that it failed: process starts then fail with TD_ESPAWNER and tell the number. */
    bool start_now TD_ZERO;  /* start the spawner here instead of at the first process start */
    bool core_dumps TD_ZERO; /* let crashing workers dump core; default no (a dump delays the news) */
    unsigned spares TD_ZERO; /* warm processes kept ready, 1 to 8; default 2 */
} td_init_options;

/*
 * The first line of main, like Python's main guard: the spawner is this same program, started anew, and there td_init
 * does not return. Threads work without it. Calling it again does nothing. 0, or with .start_now a negative code as
 * from td_start. Call it before other threads exist: objects that they acquire or release at the same time may be left
 * as if they had not. Does not block, but for .start_now.
 */
TD_API int td_init_with(const td_init_options *options);

#ifdef __cplusplus
}
inline int td_init_from(const td_init_options &options)
{
    return td_init_with(&options);
}
#define td_init(...) td_init_from(td_init_options{ .struct_size = sizeof(td_init_options), __VA_ARGS__ })
extern "C" {
#else
#define td_init(...) td_init_with(&(td_init_options){ .struct_size = sizeof(td_init_options), __VA_ARGS__ })
#endif

/*
 * Joins the non-daemon workers, ends the daemon processes (SIGTERM, a second later SIGKILL), tells the failure
 * hook what nobody asked about, and ends the spawner; nothing of the library is left in the system then. What exit()
 * does anyway, but late, after the atexit handlers registered since td_init. A later start begins anew.
 * Not from a worker thread: TD_EDEADLOCK. Blocks until the non-daemon workers have ended.
 */
TD_API int td_finish(void);

#ifdef __cplusplus
}
#endif

#endif
