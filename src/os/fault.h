/* SPDX-License-Identifier: MIT */
/*
 * Fault injection at the seam: in builds with TD_FAULTS, the n-th call of this file's kind fails once, the calls
 * being counted over the program's main process, its spawner and its workers. Without TD_FAULTS it costs nothing.
 */
#ifndef TD_OS_FAULT_H
#define TD_OS_FAULT_H

#include <stdbool.h>

/* In builds with TD_COVERAGE: writes down what this process has run, which nothing else does where it ends by _exit or
 * by a signal of its own sending. */
#if TD_COVERAGE
void td__coverage_save(void);
#else
#define td__coverage_save() ((void)0)
#endif

#if TD_FAULTS
/* The n-th counted call from now fails once; n <= 0 counts only. */
void td__fault_arm(long n);
void td__fault_disarm(void);
long td__fault_count(void);
bool td__fault_fired(void);

/* The counters live in memory that other processes can share: before a spawner starts they move into its segment
 * and they come back before that is unmapped. `to` NULL means the process's own. */
#define TD__FAULT_BYTES 64
void td__fault_move(void *to, bool copy);
void td__fault_leave(const void *from); /* back into the process's own, if they are there */

/*
 * Deaths: every td__program_order() and td__step_point() of the library that this thread passes is a step; at the n-th
 * one from now its process is killed (SIGKILL), n 0: never. Returns the steps counted since the last call.
 */
long td__kill_at_step(long n);
/* The same, but that the thread calls this function there. */
long td__call_at_step(long n, void (*function)(void));

/* Orders of events that are rare otherwise: at one of so many steps, at random, this thread gives its processor away or
 * sleeps for a moment. 0: never. */
void td__shake_steps(unsigned one_in);

bool td__fault(int error); /* true: fail now, with errno set to `error` */
#else
#define td__fault(error)         false
#define td__fault_move(to, copy) ((void)0)
#define td__fault_leave(from)    ((void)0)
#endif

#endif
