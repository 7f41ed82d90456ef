/* SPDX-License-Identifier: MIT */
/*
 * What waiting for any of several things needs of each of them. "Preparing" a thing looks whether it is ready; if it is
 * not, it says on which word to sleep, and with what value, having announced a sleeper there; the word changes, and all
 * its sleepers are woken, when the thing becomes ready.
 */
#ifndef TD_WORK_WAITING_H
#define TD_WORK_WAITING_H

#include <tandem/wait.h>
#include "os/os.h"

/* Is it ready? If not, *item is set, and td__thing_done is to be called after the sleep. Not for descriptors. */
bool td__thing_prepare(const td_waitable *thing, td__futex_item *item);
void td__thing_done(const td_waitable *thing);

/* 0, or the code of what is wrong with it. */
int td__thing_check(const td_waitable *thing, const char *call);

/* bridge.c: descriptors of queues and events. */
int td__bridge_open(const td_waitable *thing);
void td__bridge_stop(void);   /* ends the thread; its descriptors stay open, and silent */
void td__bridge_forget(void); /* in a forked child */

#endif
