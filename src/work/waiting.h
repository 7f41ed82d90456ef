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

/* Since when an event is waited for: the word as it was then. Zero: from the first look. Nothing of other things. */
typedef struct td__since {
    uint32_t word;
    bool begun;
} td__since;

/*
 * Is it ready, or has the event been set since then? If not, *item is set, and td__thing_done is to be called after the
 * sleep; and *unsure, which is left alone else, if a change may go unseen, so that the sleep must be short
 * (TD__UNSURE_NS). Not for descriptors and connections.
 */
bool td__thing_prepare(const td_waitable *thing, td__since *since, td__futex_item *item, bool *unsure);
void td__thing_done(const td_waitable *thing);
#define TD__UNSURE_NS 1000000

/* 0, or the code of what is wrong with it. */
int td__thing_check(const td_waitable *thing, const char *call);

/*
 * bridge.c: a descriptor for those of the things that are queues or events, signalled when one of them is ready, or has
 * been since; or a code, `call` being named in the sentence. td__bridge_again: all of them are watched again, since the
 * same moments.
 */
bool td__is_bridged(const td_waitable *thing);
bool td__thing_is_in(const td_waitable *thing, const volatile void *at, size_t size); /* for sync/use.h */
int td__bridge_open(const char *call, const td_waitable *things, const td__since *since, size_t count);
int td__bridge_again(const char *call, int descriptor); /* or a code */
void td__bridge_close(int descriptor);
void td__bridge_stop(void);   /* ends the threads; they begin anew for who waits, and for td_descriptor_clear */
void td__bridge_lock(void);   /* around a fork: its entries and descriptors are whole in the child */
void td__bridge_unlock(void); /* in the parent */
void td__bridge_forget(void); /* in the child */

#endif
