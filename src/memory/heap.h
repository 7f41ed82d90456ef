/* SPDX-License-Identifier: MIT */
/* The part of the shared heap that queues use. */
#ifndef TD_MEMORY_HEAP_H
#define TD_MEMORY_HEAP_H
#include "sync/section.h"
void *td__heap_take(td__party *me, size_t alignment, size_t size, uintptr_t *name, const char *call);
bool td__heap_give(td__party *me, uintptr_t *name, bool wait);
bool td_shared_is(const void *address);
#endif
