/* SPDX-License-Identifier: MIT */
/*
 * The shared heap: free lists by size, under one latch. All changes are made in sections, so that a death takes them
 * back; the block that is being given is named in the step in the same section that takes it.
 *
 * A block is a head of 16 bytes, then the user's bytes; its size, head included, is a power of two.
 */
#include <tandem/shared.h>
#include "sync/section.h"

#define MAGIC   0x6b636f6c6264745fu
#define HEAD    16
#define CLASSES 40
#define STEP    ((size_t)1 << 20)

enum { USED = 1, FREE = 2, SHIFTED = 3 };

typedef struct head {
    uint32_t check;
    uint16_t class;
    uint16_t state;
    uint64_t next; /* FREE: an offset from the region's beginning; SHIFTED: how far the real head is before this */
} head;

typedef struct root {
    td__latch latch;
    uint64_t top, populated; /* offsets; 0: not set up */
    uint64_t free[CLASSES];
} root;
_Static_assert(sizeof(root) <= sizeof(((td__region *)0)->allocator), "the region has room for it");

static root *heap(void)
{
    return (root *)(void *)td__the_region->allocator;
}

static head *head_at(uint64_t offset)
{
    return (head *)((char *)td__the_region + offset);
}

static uint32_t check_of(const head *head, unsigned class)
{
    uint64_t x = (MAGIC ^ (uintptr_t)head) * 0x9e3779b97f4a7c15u + class;
    return (uint32_t)(x >> 32);
}

static bool in_arena(const void *at)
{
    return td__is_shared(at) && (uintptr_t)at - td__shared_base >= td__the_region->arena + HEAD;
}

static bool is_whole(const head *head)
{
    return head->class < CLASSES && head->check == check_of(head, head->class);
}

static bool grow(td__party *me, root *root, uint64_t size)
{
    if (root->top == 0) {
        td__set(me, &root->populated, td__the_region->arena);
        td__set(me, &root->top, td__the_region->arena);
    }
    if (size > td__the_region->size - root->top)
        return false;
    if (root->top + size > root->populated) {
        uint64_t more = (root->top + size - root->populated + STEP - 1) & ~(STEP - 1);
        if (more > td__the_region->size - root->populated)
            more = td__the_region->size - root->populated;
        if (td__region_populate((char *)td__the_region + root->populated, more) < 0)
            return false;
        td__set(me, &root->populated, root->populated + more);
    }
    return true;
}

/* In the section. */
static int take(td__party *me, root *root, unsigned class, head **block)
{
    uint64_t offset = root->free[class];
    if (offset) {
        *block = head_at(offset);
        if (offset % HEAD || !in_arena(*block + 1) || !is_whole(*block) || (*block)->state != FREE)
            return TD_ECORRUPT;
        td__set(me, &root->free[class], (*block)->next);
    } else {
        uint64_t size = (uint64_t)1 << class;
        if (!grow(me, root, size))
            return TD_ENOMEM;
        *block = head_at(root->top);
        td__set(me, &root->top, root->top + size);
        (*block)->class = (uint16_t) class;
        (*block)->check = check_of(*block, class);
    }
    td__set(me, &(*block)->state, USED);
    td__set(me, &me->step[TD__STEP_MEMORY].object, (uintptr_t)*block);
    return 0;
}

static void give(td__party *me, root *root, head *block)
{
    td__set(me, &block->state, FREE);
    td__set(me, &block->next, root->free[block->class]);
    td__set(me, &root->free[block->class], (uint64_t)((char *)block - (char *)td__the_region));
}

static bool repair(td__party *me, td__party *dead, const td__step *step)
{
    (void)step;
    root *root = heap();
    uintptr_t *object = &dead->step[TD__STEP_MEMORY].object;
    if (*object == 0)
        return true;
    if (!td__section_try(me, &root->latch))
        return false;
    head *block = (head *)*object;
    if (in_arena(block + 1) && *object % HEAD == 0 && is_whole(block) && block->state == USED)
        give(me, root, block);
    td__set(me, object, 0);
    td__section_leave(me, &root->latch);
    return true;
}

__attribute__((constructor)) static void set_up(void)
{
    td__step_register(TD__STEP_MEMORY, repair);
}

static head *allocate(size_t size, const char *call)
{
    if (td__shared_size == 0) {
        td__fail(TD_EINIT, "%s: there is no shared memory: td_init() was not called, or found no room for it", call);
        return NULL;
    }
    td__party *me = td__party_self();
    if (!me)
        return NULL;
    unsigned class = 5;
    while (class < CLASSES && ((uint64_t)1 << class) - HEAD < size)
        class ++;
    head *block = NULL;
    int r = TD_ENOMEM;
    td__step_begin(me, TD__STEP_MEMORY, 1, NULL, 0, 0);
    if (class < CLASSES) {
        td__section_enter(me, &heap()->latch);
        r = take(me, heap(), class, &block);
        td__section_leave(me, &heap()->latch);
    }
    td__step_end(me, TD__STEP_MEMORY);
    if (r == 0)
        return block;
    if (r == TD_ECORRUPT)
        td__fail(r, "%s: the shared heap is corrupted: its list of free blocks has been written over", call);
    else
        td__fail(r, "%s: out of memory for %zu bytes in the shared heap (of %zu bytes)", call, size, td__shared_size);
    return NULL;
}

void *td_shared_alloc(size_t size)
{
    head *block = allocate(size, "td_shared_alloc");
    return block ? block + 1 : NULL;
}

void *td_shared_alloc_aligned(size_t alignment, size_t size)
{
    if (alignment == 0 || (alignment & (alignment - 1)) || alignment > 4096) {
        td__fail(TD_EINVAL, "td_shared_alloc_aligned: %zu is no power of two up to 4096", alignment);
        return NULL;
    }
    if (alignment <= HEAD)
        return td_shared_alloc(size);
    head *block = allocate(size < SIZE_MAX - alignment ? size + alignment : size, "td_shared_alloc_aligned");
    if (!block)
        return NULL;
    uintptr_t at = ((uintptr_t)(block + 1) + alignment - 1) & ~(uintptr_t)(alignment - 1);
    head *shifted = (head *)at - 1;
    if (shifted != block) {
        *shifted =
            (head){ .class = block->class, .state = SHIFTED, .next = (uint64_t)((char *)shifted - (char *)block) };
        shifted->check = check_of(shifted, shifted->class);
    }
    return (void *)at;
}

void *td_shared_calloc(size_t count, size_t size)
{
    size_t all;
    if (__builtin_mul_overflow(count, size, &all)) {
        td__fail(TD_ENOMEM, "td_shared_calloc: %zu times %zu bytes are more than memory", count, size);
        return NULL;
    }
    head *block = allocate(all, "td_shared_calloc");
    return block ? memset(block + 1, 0, all) : NULL;
}

/* NULL: no block of ours. */
static head *head_of(const void *at)
{
    head *block = (head *)(uintptr_t)at - 1;
    if (!in_arena(at) || (uintptr_t)at % HEAD || !is_whole(block))
        return NULL;
    if (block->state == SHIFTED) {
        if (block->next > 4096 || !in_arena((char *)block - block->next + HEAD))
            return NULL;
        block = (head *)(void *)((char *)block - block->next);
    }
    return is_whole(block) ? block : NULL;
}

void td_shared_free(void *at)
{
    if (!at)
        return;
    head *block = head_of(at);
    if (!block)
        td__bug("td_shared_free: %p is no block of the shared heap", at);
    if (block->state != USED)
        td__bug("td_shared_free: block %p is free already", at);
    td__party *me = td__party_self();
    if (!me)
        return;
    td__section_enter(me, &heap()->latch);
    give(me, heap(), block);
    td__section_leave(me, &heap()->latch);
}

bool td_shared_is(const void *address)
{
    return td__the_region && in_arena(address);
}

size_t td_shared_size(const void *at)
{
    const head *block = td_shared_is(at) ? head_of(at) : NULL;
    return block && block->state == USED
               ? ((size_t)1 << block->class) - (size_t)((const char *)at - (const char *)block)
               : 0;
}

void *td_shared_realloc(void *at, size_t size)
{
    if (!at)
        return td_shared_alloc(size);
    if (!head_of(at))
        td__bug("td_shared_realloc: %p is no block of the shared heap", at);
    size_t had = td_shared_size(at);
    if (size <= had)
        return at;
    void *new = td_shared_alloc(size);
    if (!new)
        return NULL;
    memcpy(new, at, had);
    td_shared_free(at);
    return new;
}
