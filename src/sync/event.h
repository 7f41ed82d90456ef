/* SPDX-License-Identifier: MIT */
/* Waiting for an event together with other things, on several words at once. The event itself: tandem/sync.h. */
#ifndef TD_SYNC_EVENT_H
#define TD_SYNC_EVENT_H

#include <tandem/sync.h>
#include "os/os.h"

/*
 * Before a wait on several words: true if the event is set. Otherwise it has been announced that somebody will sleep,
 * and `item` says on what: set changes that word, and wakes all who sleep on it. A wait that is given up needs nothing
 * more. Lock-free.
 */
bool td__event_prepare(td_event *event, td__futex_item *item);

/* Is it set, or has it been since td__event_prepare filled in `item`? (It may have been cleared again.) */
bool td__event_happened(const td_event *event, const td__futex_item *item);

#endif
