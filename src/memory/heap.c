/* SPDX-License-Identifier: MIT */
#include "memory/heap.h"
bool td_shared_is(const void *address) { return td__is_shared(address); }
void *td__heap_take(td__party *me, size_t alignment, size_t size, uintptr_t *name, const char *call)
{
    (void)me;
    if (td__shared_size == 0) { td__fail(TD_EINIT, "%s: there is no shared memory", call); return NULL; }
    _Atomic uint64_t *top = (_Atomic uint64_t *)(void *)td__the_region->allocator;
    uint64_t at = td__fetch_add_acq_rel(top, size + alignment) + td__the_region->arena;
    at = (at + alignment - 1) & ~(uint64_t)(alignment - 1);
    if (at + size > td__the_region->size || td__region_populate((char *)td__the_region + at, size) < 0) {
        td__fetch_sub_acq_rel(top, size + alignment);
        td__fail(TD_ENOMEM, "%s: out of memory", call); return NULL; }
    *name = (uintptr_t)td__the_region + at;
    return (void *)*name;
}
bool td__heap_give(td__party *me, uintptr_t *name, bool wait) { (void)me; (void)wait; *name = 0; return true; }
