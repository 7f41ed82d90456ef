/* SPDX-License-Identifier: MIT */
/*
 * The shared heap inside. From below: pages of 4096 bytes, handed out in runs (pages.c); slabs, which are runs cut into
 * blocks of one size (slab.c); and blocks, small ones from slabs, large ones being runs (heap.c).
 *
 * What describes memory stands apart from it: no block has a head or a link in it, so that a program that writes beyond
 * a block's end, or into one that it has freed, meets other blocks, but not the heap's own data.
 *
 *   arena:  map (an entry a page) | slabs (a description every four pages) | pages
 *
 * The root, in the region's header, is valid when zeroed; its places are computed by each process for itself, not read
 * from shared memory. Whatever is read from there is checked before it is followed.
 *
 * Deaths. All changes of lists and tags are made in sections, and are taken back if their maker dies inside. What a
 * party has in its hands between sections is named in its step, by a change inside the same section that gave it that:
 *   step.object    what it is about to be given: a block; or, with bit 0 set, a run
 *   step.argument  what it is giving back: a run, with bit 0 set; or a slab that may have to be put back on its list
 * The repair gives both back. Each is set to 0 by the section that settles the matter, so that nothing is given back
 * twice, even if the repairing process dies too.
 *
 * Latches, never held together but for check.c: a shard's, then that of the pages.
 */
#ifndef TD_MEMORY_HEAP_H
#define TD_MEMORY_HEAP_H

#include "sync/section.h"
#include "sync/use.h"

#define TD__PAGE        ((size_t)4096) /* of the heap; the system's may be larger */
#define TD__BINS        100
#define TD__CLASSES     32
#define TD__SMALL_MAX   8192 /* the largest block of a slab */
#define TD__SHARDS      8
#define TD__SLAB_WORDS  16
#define TD__SLAB_PAGES  16
#define TD__SLAB_GRAIN  4    /* pages: the smallest slab, so that no two begin within the same four */
#define TD__PUNCH_PAGES 1024 /* a freed run at least so long gives its memory back to the system */

/*
 * What a page is, by its tag: kind, value and a check over both and the page's number. Of a run, the first page has a
 * tag and, if it is free, the last one; the others have none (0), but for slabs, where all have.
 */
typedef enum td__page_kind {
    TD__NONE = 0,
    TD__FREE = 1,   /* value: the run's length */
    TD__BARE = 2,   /* the same, and some of its pages may have no memory yet */
    TD__END = 3,    /* the last page of a free run of more than one; value: its length */
    TD__USED = 4,   /* a block, or in somebody's hands; value: the length */
    TD__GOING = 5,  /* the same, being freed */
    TD__COMING = 6, /* the same, in the hands of who takes it, and some of its pages may have no memory yet */
    TD__SLAB = 7    /* value: the slab's first page */
} td__page_kind;

typedef struct td__page {
    _Atomic uint64_t tag;    /* under the latch of the pages, or by who has the run in its hands; read by all */
    uint32_t next, previous; /* under the latch: in its bin; page numbers, 0 none */
} td__page;

/*
 * Blocks of one size. A block is free if its bits in `taken` and `freed` are equal: who takes one turns the bit in
 * `taken`, under the shard's latch and undoably; who frees one turns the bit in `freed`, with one atomic instruction
 * and no latch, which has either happened or not when it dies.
 */
typedef struct td__slab {
    /* Fixed while it is a slab, and read without a latch: its first page, class (<< 32) and shard (<< 48); a check. */
    _Atomic uint64_t what, check;
    _Atomic uint32_t state;          /* under the latch; read without as a hint */
    _Atomic uint32_t next, previous; /* under the latch: in the list of its class; page >> 2, plus 1; 0 none */
    uint32_t hint;                   /* under the latch, of no importance: the word where to look first */
    _Alignas(64) _Atomic uint64_t taken[TD__SLAB_WORDS];
    _Alignas(64) _Atomic uint64_t freed[TD__SLAB_WORDS];
} td__slab;

/* A slab's states: in somebody's hands; on its list; off it since all its blocks were taken. */
enum { TD__SLAB_HELD = 0, TD__SLAB_LISTED = 1, TD__SLAB_FULL = 2 };

/* Parties spread over the shards by their index, so as not to meet. */
typedef struct td__shard {
    _Alignas(64) td__latch latch;
    uint32_t first[TD__CLASSES]; /* lists of slabs with free blocks */
} td__shard;

typedef struct td__heap {
    td__latch latch;        /* of the pages */
    _Atomic uint32_t top;   /* pages from here on have never been used; 0 counts as 1. Under the latch; read by all */
    uint64_t bins_used[2];  /* under the latch, and */
    uint32_t bin[TD__BINS]; /* lists of free runs by length */
    _Alignas(64) td__shard shard[TD__SHARDS];
} td__heap;
_Static_assert(sizeof(td__heap) <= sizeof(((td__region *)0)->allocator), "the region has room for the root");

/* Where all of it is in this process; written before td__shared_size is. */
typedef struct td__heap_view {
    td__heap *heap;
    td__page *map;
    td__slab *slabs;
    char *pages;         /* page number 0, which is not used */
    uint32_t page_count; /* the last page's number */
    uint32_t shards;     /* a power of two */
} td__heap_view;
extern td__heap_view td__heap_here;

static inline uint32_t td__heap_top(void)
{
    uint32_t top = td__load_acquire(&td__heap_here.heap->top);
    return top == 0 ? 1 : top <= td__heap_here.page_count + 1 ? top : td__heap_here.page_count + 1;
}
static inline char *td__page_address(uint32_t page)
{
    return td__heap_here.pages + page * TD__PAGE;
}
/* The number of the page of an address; 0: in no page that has ever been used. */
static inline uint32_t td__page_of(const volatile void *at)
{
    size_t offset = (size_t)((uintptr_t)at - (uintptr_t)td__heap_here.pages);
    return offset / TD__PAGE < td__heap_top() ? (uint32_t)(offset / TD__PAGE) : 0;
}

static inline uint64_t td__page_tag(uint32_t page, td__page_kind kind, uint32_t value)
{
    uint64_t low = (uint64_t)kind | (uint64_t)value << 4;
    return low | (((uint64_t)page << 36 | low) * 0x9e3779b97f4a7c15u) >> 36 << 36;
}
typedef struct td__page_meaning {
    td__page_kind kind;
    uint32_t value;
} td__page_meaning;
/* false: no tag of ours. */
static inline bool td__page_read(uint32_t page, td__page_meaning *meaning)
{
    /* Acquire: with the release of who made it a slab, the slab's description. */
    uint64_t tag = td__load_acquire(&td__heap_here.map[page].tag);
    meaning->kind = (td__page_kind)(tag & 15);
    meaning->value = (uint32_t)(tag >> 4);
    return tag == 0 || tag == td__page_tag(page, meaning->kind, meaning->value);
}

/* Sets the error TD_ECORRUPT with a sentence about what was found. */
int td__heap_corrupt(const char *format, ...) TD_PRINTF(1, 2);

/* With `wait` false, where a latch is taken: TD_EBUSY, without a sentence. */
static inline bool td__heap_enter(td__party *me, td__latch *latch, bool wait)
{
    if (!wait)
        return td__section_try(me, latch);
    td__section_enter(me, latch);
    return true;
}

/* --- pages.c: all return 0 or a code; TD_ECORRUPT with its sentence, TD_ENOMEM without --------------------- */

/*
 * Takes a run that has memory, as USED; *name is set to its address with `tag` (0 or 1) in the same section. `name` is
 * in the region.
 */
int td__pages_take(td__party *me, uint32_t count, uintptr_t *name, unsigned tag, uint32_t *page);

/* Gives back a run in the caller's hands, which *name names, a slab too; *name becomes 0 in the same section. Its
 * memory goes back to the system if it is long. */
int td__pages_give(td__party *me, uint32_t page, uintptr_t *name, bool wait);

/* Of a run that somebody was taking who has died, and that is the caller's now: memory. 0, TD_ENOMEM. */
int td__pages_complete(uint32_t page);

/*
 * Frees the block that begins with this page, but for its first `keep` pages: TD_EINVAL, without a sentence, if there
 * is no block that is longer. *going is used as a name.
 */
int td__pages_free(td__party *me, uint32_t page, uint32_t keep, uintptr_t *going);

unsigned td__bin_of(uint32_t count);

/* --- slab.c ------------------------------------------------------------------------------------------------ */

typedef struct td__class {
    uint16_t size, pages, blocks; /* of a block, bytes; of a slab */
    uint32_t inverse;             /* of the size */
} td__class;
extern const td__class td__classes[TD__CLASSES];

/* The class for blocks of this size and alignment, or -1. */
int td__class_of(size_t size, size_t alignment);

static inline uint32_t td__slab_page(const td__slab *slab)
{
    return (uint32_t)td__load_relaxed(&slab->what);
}
static inline unsigned td__slab_class(const td__slab *slab)
{
    return td__load_relaxed(&slab->what) >> 32 & 0xffff;
}
static inline unsigned td__slab_shard(const td__slab *slab)
{
    return (unsigned)(td__load_relaxed(&slab->what) >> 48);
}
static inline uint32_t td__slab_number(const td__slab *slab)
{
    return (uint32_t)(slab - td__heap_here.slabs) + 1;
}
static inline td__slab *td__slab_of_page(uint32_t page)
{
    return &td__heap_here.slabs[page / TD__SLAB_GRAIN];
}
bool td__slab_is_whole(const td__slab *slab);
/* The slab on a list by this number; NULL: there is none. */
td__slab *td__slab_numbered(uint32_t number);

/* A block of the class; *name as above. */
int td__slab_take(td__party *me, unsigned class, uintptr_t *name, void **block);

/* Which block of the slab begins here; -1: none. */
int td__slab_index(const td__slab *slab, const void *at);
/* Is it allocated? */
bool td__slab_taken(const td__slab *slab, int index);
/* Frees the block; false: it was free. In the caller's step, whose object is left alone. */
bool td__slab_free(td__party *me, td__slab *slab, int index);
/* The same inside a section, where *name becomes 0; for the repair. */
int td__slab_give(td__party *me, td__slab *slab, int index, uintptr_t *name, bool wait);
/* Puts a slab that has free blocks back on the list of the shard with this latch, if it is one there; *name as above.
 */
int td__slab_relist(td__party *me, td__slab *slab, td__latch *latch, uintptr_t *name, bool wait);

/* Gives back the runs of all slabs without blocks: is there one? */
bool td__slabs_trim(td__party *me);

/* Bits of a word that belong to no block. */
uint64_t td__slab_beyond(unsigned class, unsigned word);

/* --- check.c ----------------------------------------------------------------------------------------------- */

/* In debug builds: aborts if a party holds something inside the block, or waits on it, see sync/use.h. */
#if TD__CHECKS_USE
void td__heap_check_unused(const void *block, size_t size);
#else
#define td__heap_check_unused(block, size) ((void)(block), (void)(size))
#endif

/* --- heap.c: for the layers above -------------------------------------------------------------------------- */

/*
 * As td_shared_alloc, but the block's address is written to *name, which is in the caller's record or another place in
 * the region, in the section that takes it: if the caller dies, its repair finds either both or none. TD_ENOMEM,
 * TD_ECORRUPT with sentences. The caller clears the name when the block has found its place.
 */
void *td__heap_take(td__party *me, size_t alignment, size_t size, uintptr_t *name, const char *call);

/* Of a block that *name has named since somebody took it who has died: that it has memory. 0, TD_ENOMEM. */
int td__heap_complete(const void *block, const char *call);

/*
 * Frees what *name names (a block of td__heap_take) and clears it, for good if it happens at all. Anything else there
 * is only cleared. With `wait` false it gives up where it would have to wait: false.
 */
bool td__heap_give(td__party *me, uintptr_t *name, bool wait);

#endif
