/* SPDX-License-Identifier: MIT */
/*
 * Blocks: td_shared_alloc and its kin, and what is done for those who died in them. See heap.h.
 *
 * A step is open from before a block is taken until its address is about to be returned, so that what nobody has been
 * told of comes back; and from before a block is freed until that is wholly done.
 */
#include "memory/heap.h"
#include <tandem/shared.h>

#include <stdio.h>

#define here td__heap_here

/* Before there is a second thread that could use it. */
static void open_heap(td__region *region)
{
    uintptr_t base = (uintptr_t)region, end = base + region->size;
    uintptr_t map = base + region->arena;
    size_t each = TD__PAGE + sizeof(td__page) + sizeof(td__slab) / TD__SLAB_GRAIN;
    size_t count = (size_t)(end - map) / each;
    uintptr_t slabs, pages;
    do { /* borders cost a little: one page less until all fits */
        count--;
        slabs = (map + (count + 1) * sizeof(td__page) + 63) & ~(uintptr_t)63;
        pages = (slabs + (count / TD__SLAB_GRAIN + 1) * sizeof(td__slab) + TD__PAGE - 1) & ~(TD__PAGE - 1);
    } while (pages + count * TD__PAGE > end);
    here.heap = (td__heap *)(void *)region->allocator;
    here.map = (td__page *)map;
    here.slabs = (td__slab *)slabs;
    here.pages = (char *)(pages - TD__PAGE);
    here.page_count = (uint32_t)count;
    /* Each shard may keep a slab of each class. */
    here.shards = count >= (size_t)1 << 18 ? TD__SHARDS : count >= 1 << 15 ? 2 : 1;
}

int td__heap_corrupt(const char *format, ...)
{
    char what[200];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return td__fail(TD_ECORRUPT, "the shared heap is corrupted: %s: not as the heap has left it", what);
}

/* --- finding a block --------------------------------------------------------------------------------------- */

typedef struct place {
    enum { NOWHERE, SMALL, LARGE, CORRUPT } kind;
    td__slab *slab; /* SMALL, and */
    int index;
    uint32_t page, count; /* LARGE */
    size_t size;
} place;

/* Does a block begin here? Without a latch: a block of the caller's stays where it is. */
static inline __attribute__((always_inline)) place locate(const void *at)
{
    place found = { .kind = NOWHERE };
    td__page_meaning meaning;
    uint32_t page = td__shared_size ? td__page_of(at) : 0;
    if (page == 0)
        return found;
    if (td__unlikely(!td__page_read(page, &meaning))) {
        td__heap_corrupt("the tag of page %p", (void *)td__page_address(page));
        found.kind = CORRUPT;
    } else if (td__likely(meaning.kind == TD__SLAB)) {
        uint32_t first = meaning.value;
        td__slab *slab = td__slab_of_page(first < td__heap_top() ? first : page);
        if (!td__slab_is_whole(slab) || td__slab_page(slab) != first || page - first >= TD__SLAB_PAGES) {
            td__heap_corrupt("the slab at %p", (void *)td__page_address(page));
            found.kind = CORRUPT;
            return found;
        }
        found.slab = slab;
        found.index = td__slab_index(slab, at);
        found.size = td__classes[td__slab_class(slab)].size;
        found.kind = found.index >= 0 ? SMALL : NOWHERE;
    } else if ((meaning.kind == TD__USED || meaning.kind == TD__COMING) && td__page_address(page) == at) {
        found = (place){ .kind = LARGE, .page = page, .count = meaning.value, .size = meaning.value * TD__PAGE };
    }
    return found;
}

/* --- taking ------------------------------------------------------------------------------------------------ */

static int take_once(td__party *me, size_t alignment, size_t size, uintptr_t *name, void **block)
{
    int class = td__class_of(size, alignment);
    if (td__likely(class >= 0))
        return td__slab_take(me, (unsigned)class, name, block);
    uint32_t page;
    if (size > here.page_count * TD__PAGE)
        return TD_ENOMEM;
    int r = td__pages_take(me, (uint32_t)((size + TD__PAGE - 1) / TD__PAGE), name, 0, &page);
    if (r == 0)
        *block = td__page_address(page);
    return r;
}

/* Once more, if giving back what is empty helps. */
static void *take_at_last(td__party *me, int r, size_t alignment, size_t size, uintptr_t *name, const char *call)
{
    void *block = NULL;
    if (r == TD_ENOMEM && size <= here.page_count * TD__PAGE && td__slabs_trim(me))
        r = take_once(me, alignment, size, name, &block);
    if (r == TD_ENOMEM)
        td__fail(r, "%s: out of memory for %zu bytes in the shared heap (of %zu bytes in all)", call, size,
                 here.page_count * TD__PAGE);
    return r == 0 ? block : NULL;
}

/* In the step. */
static inline void *take(td__party *me, size_t alignment, size_t size, uintptr_t *name, const char *call)
{
    void *block;
    int r = take_once(me, alignment, size, name, &block);
    return td__likely(r == 0) ? block : take_at_last(me, r, alignment, size, name, call);
}

static inline uintptr_t *given(td__party *me)
{
    return &me->step[TD__STEP_MEMORY].object;
}

/* The step stays open for good: with nothing in it, it says that nothing is under way. */
static inline void begin(td__party *me)
{
    if (td__unlikely(me->step[TD__STEP_MEMORY].kind == 0))
        td__step_begin(me, TD__STEP_MEMORY, 1, NULL, 0, 0);
}

/* The last that is done: from here on the block is the program's. */
static inline void end_taking(td__party *me)
{
    td__program_order();
    me->step[TD__STEP_MEMORY].object = 0;
}

static inline void end_freeing(td__party *me)
{
    td__program_order();
    me->step[TD__STEP_MEMORY].argument = 0;
}

static inline bool there_is_a_heap(const char *call)
{
    if (td__likely(td__shared_size != 0))
        return true;
    td__fail(TD_EINIT, "%s: there is no shared memory: td_init() was not called, or found no room for it", call);
    return false;
}

void *td__heap_take(td__party *me, size_t alignment, size_t size, uintptr_t *name, const char *call)
{
    if (!there_is_a_heap(call))
        return NULL;
    begin(me);
    void *block = take(me, alignment, size, name, call);
    end_freeing(me);
    return block;
}

int td__heap_complete(const void *block, const char *call)
{
    place where = locate(block);
    if (where.kind != LARGE || td__pages_complete(where.page) == 0)
        return 0;
    return td__fail(TD_ENOMEM, "%s: out of memory for %zu bytes in the shared heap", call, where.size);
}

/* The calling thread's party, if there is a heap. */
static td__party *enter(const char *call)
{
    return there_is_a_heap(call) ? td__party_self() : NULL;
}

static inline __attribute__((always_inline)) void *allocate(size_t alignment, size_t size, bool zero, const char *call)
{
    td__party *me = enter(call);
    if (td__unlikely(!me))
        return NULL;
    begin(me);
    void *block = take(me, alignment, size, given(me), call);
    if (zero && block)
        memset(block, 0, size);
    end_taking(me);
    return block;
}

void *td_shared_alloc(size_t size)
{
    return allocate(16, size, false, "td_shared_alloc");
}

void *td_shared_alloc_aligned(size_t alignment, size_t size)
{
    if (alignment == 0 || (alignment & (alignment - 1)) || alignment > TD__PAGE) {
        td__fail(TD_EINVAL, "td_shared_alloc_aligned: an alignment of %zu is no power of two up to %zu", alignment,
                 TD__PAGE);
        return NULL;
    }
    return allocate(alignment, size, false, "td_shared_alloc_aligned");
}

void *td_shared_calloc(size_t count, size_t size)
{
    size_t all;
    if (__builtin_mul_overflow(count, size, &all)) {
        td__fail(TD_ENOMEM, "td_shared_calloc: %zu times %zu bytes are more than memory", count, size);
        return NULL;
    }
    return allocate(16, all, true, "td_shared_calloc");
}

/* --- freeing ----------------------------------------------------------------------------------------------- */

static _Noreturn void no_block(const char *call, const void *at)
{
    td__bug("%s: %p is not the beginning of a block of the shared heap, or has been freed", call, at);
}

/* In the step. */
static void release(td__party *me, const place *where, const void *at, const char *call)
{
    if (where->kind == SMALL) {
        if (!td__slab_free(me, where->slab, where->index))
            td__bug("%s: block %p of the shared heap has been freed already", call, at);
    } else if (td__pages_free(me, where->page, 0, &me->step[TD__STEP_MEMORY].argument) == TD_EINVAL) {
        td__bug("%s: block %p of the shared heap has been freed already", call, at);
    }
}

void td_shared_free(void *block)
{
    if (!block)
        return;
    place where = locate(block);
    if (where.kind == NOWHERE)
        no_block("td_shared_free", block);
    td__parties_release(block, where.size);
    td__heap_check_unused(block, where.size);
    td__party *me = where.kind == CORRUPT ? NULL : td__party_self();
    if (!me)
        return;
    begin(me);
    release(me, &where, block, "td_shared_free");
    end_freeing(me);
}

bool td_shared_is(const void *address)
{
    return td__shared_size && td__page_of(address) != 0;
}

size_t td_shared_size(const void *block)
{
    place where = locate(block);
    bool taken = where.kind == LARGE || (where.kind == SMALL && td__slab_taken(where.slab, where.index));
    return taken ? where.size : 0;
}

/* --- another size ------------------------------------------------------------------------------------------ */

/* Can the block stay where it is? A long run is cut. */
static bool fits(td__party *me, const place *where, size_t size)
{
    if (size > where->size || (where->kind == LARGE && size <= TD__SMALL_MAX))
        return false;
    if (size >= where->size / 2 || size == where->size)
        return true;
    if (where->kind == SMALL)
        return td__class_of(size, 16) == (int)td__slab_class(where->slab);
    uint32_t keep = (uint32_t)((size + TD__PAGE - 1) / TD__PAGE);
    begin(me);
    td__pages_free(me, where->page, keep, &me->step[TD__STEP_MEMORY].argument);
    end_freeing(me);
    return true;
}

void *td_shared_realloc(void *block, size_t size)
{
    td__party *me = enter("td_shared_realloc");
    if (!me)
        return NULL;
    if (!block)
        return allocate(16, size, false, "td_shared_realloc");
    place where = locate(block);
    if (where.kind == NOWHERE || (where.kind == SMALL && !td__slab_taken(where.slab, where.index)))
        no_block("td_shared_realloc", block);
    if (where.kind == CORRUPT)
        return NULL;
    td__parties_release(block, where.size);
    if (fits(me, &where, size))
        return block;
    td__heap_check_unused(block, where.size);
    begin(me);
    void *moved = take(me, 16, size, given(me), "td_shared_realloc");
    if (moved) {
        memcpy(moved, block, size < where.size ? size : where.size);
        release(me, &where, block, "td_shared_realloc");
    }
    end_freeing(me);
    end_taking(me);
    return moved;
}

/* --- deaths ------------------------------------------------------------------------------------------------ */

/* For a name that leads nowhere: a wild process has written it. */
static void forget(uintptr_t *name)
{
    *name = 0;
    td__program_order();
}

static bool give_run(td__party *me, uintptr_t *name, bool wait)
{
    void *at = (void *)(*name & ~(uintptr_t)1);
    uint32_t page = td__page_of(at);
    int r = page && td__page_address(page) == at ? td__pages_give(me, page, name, wait) : TD_EINVAL;
    if (r < 0 && r != TD_EBUSY)
        forget(name);
    return r != TD_EBUSY;
}

bool td__heap_give(td__party *me, uintptr_t *name, bool wait)
{
    if (*name & 1)
        return give_run(me, name, wait);
    place where = locate((void *)*name);
    if (where.kind == SMALL)
        return td__slab_give(me, where.slab, where.index, name, wait) == 0;
    if (where.kind == LARGE)
        return give_run(me, name, wait);
    forget(name);
    return true;
}

static bool give_slab(td__party *me, uintptr_t *name)
{
    size_t offset = (size_t)(*name - (uintptr_t)here.slabs), slabs = td__heap_top() / TD__SLAB_GRAIN + 1;
    td__slab *slab = &here.slabs[offset / sizeof *slab];
    if (offset % sizeof *slab == 0 && offset / sizeof *slab < slabs && td__slab_is_whole(slab)) {
        td__latch *latch = &here.heap->shard[td__slab_shard(slab)].latch;
        return td__slab_relist(me, slab, latch, name, false) == 0;
    }
    forget(name);
    return true;
}

static bool repair(td__party *me, td__party *dead, const td__step *step)
{
    uintptr_t *going = &dead->step[TD__STEP_MEMORY].argument, *coming = &dead->step[TD__STEP_MEMORY].object;
    (void)step;
    if (*going && !(*going & 1 ? give_run(me, going, false) : give_slab(me, going)))
        return false;
    return *coming == 0 || td__heap_give(me, coming, false);
}

__attribute__((constructor)) static void set_up(void)
{
    td__region_hook = open_heap;
    td__step_register(TD__STEP_MEMORY, repair);
}
