/* SPDX-License-Identifier: MIT */
/*
 * Slabs: runs of pages cut into blocks of one size. Each belongs to a shard; the slabs of a class that have free blocks
 * are on a list of the shard, and blocks are taken from the first one, under the shard's latch.
 *
 * Freeing turns one bit and takes no latch, so a slab that had no free block must be put back on the list by somebody:
 * the taker that finds none says FULL, and then looks once more; who frees turns its bit, and then looks whether it
 * says FULL. Both in sequentially consistent order, so at least one of them sees the other. Who frees has named the
 * slab in its step before, so that its death between the two is repaired.
 *
 * A slab without blocks gives its run back, but for the last one on a list, so that taking and freeing one block in
 * turns does not make and unmake a slab each time.
 */
#include "memory/heap.h"

#define MAGIC 0x62616c732d64745full

#define here td__heap_here

/* Slabs of small blocks are shorter, so that none has more than 1024. */
#define PAGES(size) ((size) < 64 ? (size) / 4 : TD__SLAB_PAGES)
/* The inverse of the size, times 2 to the 32nd, rounded up: exact for quotients of what is below 2 to the 16th. */
#define CLASS(size)                                                                    \
    {                                                                                  \
        (size), PAGES(size), PAGES(size) * TD__PAGE / (size), 0xffffffffu / (size) + 1 \
    }
#define ROW(log) CLASS((5 << (log)) / 4), CLASS((6 << (log)) / 4), CLASS((7 << (log)) / 4), CLASS((8 << (log)) / 4)
const td__class td__classes[TD__CLASSES] = { CLASS(16), CLASS(32),  CLASS(48),  CLASS(64), CLASS(80),
                                             CLASS(96), CLASS(112), CLASS(128), ROW(7),    ROW(8),
                                             ROW(9),    ROW(10),    ROW(11),    ROW(12) };

int td__class_of(size_t size, size_t alignment)
{
    unsigned class = 0;
    if (size > TD__SMALL_MAX)
        return -1;
    if (size > 128) {
        unsigned log = 63 - (unsigned)__builtin_clzll(size - 1);
        class = 8 + (log - 7) * 4 + ((unsigned)(size - 1) >> (log - 2) & 3);
    } else if (size > 0) {
        class = (unsigned)(size - 1) / 16;
    }
    /* Slabs begin with a page: a block whose size is a multiple is aligned. */
    while (td__classes[class].size & (alignment - 1))
        if (++class == TD__CLASSES)
            return -1;
    return (int)class;
}

static unsigned words_of(unsigned class)
{
    return (td__classes[class].blocks + 63) / 64;
}

uint64_t td__slab_beyond(unsigned class, unsigned word)
{
    uint32_t blocks = td__classes[class].blocks;
    return blocks >= (word + 1) * 64 ? 0 : blocks <= word * 64 ? ~(uint64_t)0 : ~(uint64_t)0 << blocks % 64;
}

static uint64_t check_of(const td__slab *slab)
{
    return (MAGIC ^ (uintptr_t)slab) + td__load_relaxed(&slab->what);
}

bool td__slab_is_whole(const td__slab *slab)
{
    return td__load_relaxed(&slab->check) == check_of(slab) && td__slab_class(slab) < TD__CLASSES &&
           td__slab_shard(slab) < TD__SHARDS;
}

td__slab *td__slab_numbered(uint32_t number)
{
    if (number == 0 || (number - 1) * TD__SLAB_GRAIN >= td__heap_top())
        return NULL;
    td__slab *slab = &here.slabs[number - 1];
    return td__slab_is_whole(slab) && td__slab_page(slab) / TD__SLAB_GRAIN == number - 1 ? slab : NULL;
}

static td__shard *shard_of(const td__slab *slab)
{
    return &here.heap->shard[td__slab_shard(slab)];
}

/* The bits of free blocks. Acquire: with the release of who freed one, all that it did with the block. */
static uint64_t free_bits(const td__slab *slab, unsigned word)
{
    return ~(td__load_relaxed(&slab->taken[word]) ^ td__load_acquire(&slab->freed[word]));
}

static bool has_free(const td__slab *slab)
{
    for (unsigned word = 0; word < words_of(td__slab_class(slab)); word++)
        if (~(td__load_relaxed(&slab->taken[word]) ^ td__load_seq_cst(&slab->freed[word])))
            return true;
    return false;
}

static bool is_empty(const td__slab *slab)
{
    unsigned class = td__slab_class(slab);
    for (unsigned word = 0; word < words_of(class); word++)
        if (free_bits(slab, word) != ~td__slab_beyond(class, word))
            return false;
    return true;
}

/* --- lists ------------------------------------------------------------------------------------------------- */

static void list(td__party *me, td__slab *slab)
{
    uint32_t *first = &shard_of(slab)->first[td__slab_class(slab)];
    td__slab *next = td__slab_numbered(*first);
    td__set_atomic(me, &slab->next, *first);
    td__set_atomic(me, &slab->previous, 0);
    td__set_atomic(me, &slab->state, TD__SLAB_LISTED);
    if (next)
        td__set_atomic(me, &next->previous, td__slab_number(slab));
    td__set(me, first, td__slab_number(slab));
}

static int unlist(td__party *me, td__slab *slab)
{
    uint32_t *first = &shard_of(slab)->first[td__slab_class(slab)], self = td__slab_number(slab);
    uint32_t next = td__load_relaxed(&slab->next), previous = td__load_relaxed(&slab->previous);
    td__slab *after = td__slab_numbered(next), *before = td__slab_numbered(previous);
    bool whole = (next ? after && td__load_relaxed(&after->previous) == self : true) &&
                 (previous ? before && td__load_relaxed(&before->next) == self : *first == self);
    if (!whole)
        return td__heap_corrupt("the links of the slab at %p", (void *)td__page_address(td__slab_page(slab)));
    if (after)
        td__set_atomic(me, &after->previous, previous);
    if (before)
        td__set_atomic(me, &before->next, next);
    else
        td__set(me, first, next);
    td__set_atomic(me, &slab->next, 0);
    td__set_atomic(me, &slab->previous, 0);
    return 0;
}

/* --- making and unmaking ----------------------------------------------------------------------------------- */

/* Nobody knows it yet. */
static void describe(td__slab *slab, uint32_t page, unsigned class, unsigned shard)
{
    td__store_relaxed(&slab->what, (uint64_t)shard << 48 | (uint64_t) class << 32 | page);
    slab->hint = 0;
    td__store_relaxed(&slab->state, TD__SLAB_HELD);
    td__store_relaxed(&slab->next, 0);
    td__store_relaxed(&slab->previous, 0);
    for (unsigned word = 0; word < TD__SLAB_WORDS; word++) {
        td__store_relaxed(&slab->taken[word], td__slab_beyond(class, word));
        td__store_relaxed(&slab->freed[word], 0);
    }
    td__store_release(&slab->check, check_of(slab)); /* with is_in_state() */
    td__program_order();
}

static int make(td__party *me, unsigned class, unsigned shard)
{
    uintptr_t *name = &me->step[TD__STEP_MEMORY].object;
    uint32_t page, count = td__classes[class].pages;
    int r = td__pages_take(me, count, name, 1, &page);
    if (r < 0)
        return r;
    td__slab *slab = td__slab_of_page(page);
    if (td__region_populate(slab, sizeof *slab) < 0) {
        td__pages_give(me, page, name, true);
        return TD_ENOMEM;
    }
    describe(slab, page, class, shard);
    /* The first page last: whoever finds a slab's tag there finds a slab. Release: its description. */
    for (uint32_t i = count; i-- > 0;)
        td__store_release(&here.map[page + i].tag, td__page_tag(page + i, TD__SLAB, page));
    td__section_enter(me, &shard_of(slab)->latch);
    list(me, slab);
    td__set(me, name, 0);
    td__section_leave(me, &shard_of(slab)->latch);
    return 0;
}

/* Under this latch: is it a slab of that shard? For who has a block of it: so it stays one. */
static bool is_under(const td__slab *slab, const td__latch *latch)
{
    return td__slab_is_whole(slab) && &shard_of(slab)->latch == latch;
}

/*
 * The same for who has none, and is it listed, or full? Then it stays so. If not, it may be about to be described anew,
 * as another shard's, and be listed or full there, while we look. So we look at the state on both sides. One that was
 * another shard's comes with that one's description, or a later one (acquire, with who set the state). And a later one
 * of ours comes with HELD (acquire, with describe()), which it stays for as long as we have the latch.
 */
static bool is_in_state(const td__slab *slab, const td__latch *latch, uint32_t state)
{
    bool was = td__load_acquire(&slab->state) == state;
    td__step_point();
    bool ours = is_under(slab, latch);
    td__step_point();
    return was && ours && td__load_acquire(&slab->check) == check_of(slab) && td__load_relaxed(&slab->state) == state;
}

/*
 * Gives the run back if no block is left. `alone`: even if it is the only one on its list. The slab may have been given
 * back by another one meanwhile, and may be another slab by now: `latch` is that of the one that was meant.
 */
static bool retire(td__party *me, td__slab *slab, td__latch *latch, bool alone)
{
    uintptr_t *name = &me->step[TD__STEP_MEMORY].argument;
    uint32_t page = 0;
    td__section_enter(me, latch);
    bool go = is_in_state(slab, latch, TD__SLAB_LISTED) && is_empty(slab) &&
              (alone || td__load_relaxed(&slab->next) || td__load_relaxed(&slab->previous)) && unlist(me, slab) == 0;
    if (go) {
        page = td__slab_page(slab);
        td__set_atomic(me, &slab->state, TD__SLAB_HELD);
        td__set(me, name, (uintptr_t)td__page_address(page) | 1);
    }
    td__section_leave(me, latch);
    return go && td__pages_give(me, page, name, true) == 0;
}

bool td__slabs_trim(td__party *me)
{
    bool some = false;
    for (unsigned shard = 0; shard < here.shards; shard++)
        for (unsigned class = 0; class < TD__CLASSES; class ++) {
            td__slab *slab = td__slab_numbered(here.heap->shard[shard].first[class]);
            /* Others may give and take meanwhile; more than this many have not been there before. */
            for (uint32_t i = 0; slab && i < here.page_count / TD__SLAB_GRAIN; i++) {
                td__slab *next = td__slab_numbered(td__load_relaxed(&slab->next));
                some |= retire(me, slab, &here.heap->shard[shard].latch, true);
                slab = next;
            }
        }
    return some;
}

/* --- taking ------------------------------------------------------------------------------------------------ */

/* Under the latch: a free block, or -1. */
static int find(td__slab *slab)
{
    unsigned words = words_of(td__slab_class(slab)), word = slab->hint < words ? slab->hint : 0;
    for (unsigned i = 0; i < words; i++) {
        uint64_t bits = free_bits(slab, word);
        if (bits) {
            slab->hint = word;
            return (int)(word * 64 + (unsigned)__builtin_ctzll(bits));
        }
        word = word + 1 == words ? 0 : word + 1;
    }
    return -1;
}

static void turn(td__party *me, td__slab *slab, int index)
{
    _Atomic uint64_t *word = &slab->taken[index / 64];
    td__set_atomic(me, word, td__load_relaxed(word) ^ (uint64_t)1 << index % 64);
}

/* Under the latch: the block is taken, and its address in *name. As td__set twice, but quicker. */
static inline void turn_and_name(td__party *me, td__slab *slab, int index, uintptr_t *name, uintptr_t address)
{
    _Atomic uint64_t *word = &slab->taken[index / 64];
    uint64_t taken = td__load_relaxed(word);
    if (td__unlikely(me->undo_count + 2 > TD__UNDO_MAX))
        td__section_overflow();
    td__undo *undo = &me->undo[me->undo_count];
    undo[0] = (td__undo){ word, taken, sizeof taken };
    undo[1] = (td__undo){ name, *name, sizeof *name };
    td__program_order(); /* noted before they are changed */
    me->undo_count += 2;
    td__program_order();
    td__store_relaxed(word, taken ^ (uint64_t)1 << index % 64);
    td__program_order();
    *name = address;
    td__program_order();
}

/* Under the latch: off the list, unless a block has just been freed. */
static int set_full(td__party *me, td__slab *slab)
{
    td__section_note(me, &slab->state, sizeof slab->state);
    td__exchange_seq_cst(&slab->state, TD__SLAB_FULL); /* before we look again; see the head of this file */
    td__program_order();
    if (!has_free(slab))
        return unlist(me, slab);
    td__set_atomic(me, &slab->state, TD__SLAB_LISTED);
    return 0;
}

/* From the first slab on the list: 0, TD_EEMPTY without a sentence if there is none, TD_EBUSY to be called again. */
static int take_listed(td__party *me, td__shard *shard, unsigned class, uintptr_t *name, void **block)
{
    int r = 0;
    td__section_enter(me, &shard->latch);
    uint32_t first = shard->first[class];
    td__slab *slab = td__slab_numbered(first);
    if (td__likely(slab && td__slab_class(slab) == class && shard_of(slab) == shard)) {
        int index = find(slab);
        if (td__unlikely(index >= td__classes[class].blocks)) {
            r = td__heap_corrupt("the blocks of the slab at %p", (void *)td__page_address(td__slab_page(slab)));
        } else if (td__likely(index >= 0)) {
            *block = td__page_address(td__slab_page(slab)) + (size_t)index * td__classes[class].size;
            turn_and_name(me, slab, index, name, (uintptr_t)*block);
        } else if ((r = set_full(me, slab)) == 0) {
            r = TD_EBUSY;
        } else {
            td__section_undo(me);
        }
    } else {
        r = first == 0 ? TD_EEMPTY : td__heap_corrupt("a list of slabs");
    }
    td__section_leave(me, &shard->latch);
    return r;
}

static int take_from(td__party *me, unsigned shard, unsigned class, uintptr_t *name, void **block)
{
    int r;
    do
        r = take_listed(me, &here.heap->shard[shard], class, name, block);
    while (r == TD_EBUSY);
    return r;
}

/* The first slab of the list has had no free block. */
static __attribute__((noinline)) int take_slowly(td__party *me, unsigned class, unsigned shard, uintptr_t *name,
                                                 void **block)
{
    for (;;) {
        int r = take_from(me, shard, class, name, block);
        if (r != TD_EEMPTY)
            return r;
        r = make(me, class, shard);
        if (r < 0 && r != TD_ENOMEM)
            return r;
        for (unsigned i = 0; i < here.shards && r == TD_ENOMEM; i++) {
            int other = take_from(me, i, class, name, block);
            if (other != TD_EEMPTY)
                return other;
        }
        if (r == TD_ENOMEM)
            return r;
    }
}

int td__slab_take(td__party *me, unsigned class, uintptr_t *name, void **block)
{
    unsigned shard = me->index & (here.shards - 1);
    int r = take_listed(me, &here.heap->shard[shard], class, name, block);
    return td__likely(r == 0) || r == TD_ECORRUPT ? r : take_slowly(me, class, shard, name, block);
}

/* --- freeing ----------------------------------------------------------------------------------------------- */

int td__slab_index(const td__slab *slab, const void *at)
{
    unsigned class = td__slab_class(slab);
    size_t offset = (size_t)((const char *)at - td__page_address(td__slab_page(slab)));
    uint32_t index = (uint32_t)((uint64_t)offset * td__classes[class].inverse >> 32);
    bool begins = offset < TD__SLAB_PAGES * TD__PAGE && index * td__classes[class].size == offset &&
                  index < td__classes[class].blocks;
    return begins ? (int)index : -1;
}

bool td__slab_taken(const td__slab *slab, int index)
{
    return !(free_bits(slab, (unsigned)index / 64) >> index % 64 & 1);
}

bool td__slab_free(td__party *me, td__slab *slab, int index)
{
    unsigned word = (unsigned)index / 64;
    uint64_t bit = (uint64_t)1 << index % 64, all = ~td__slab_beyond(td__slab_class(slab), word);
    uint64_t taken = td__load_relaxed(&slab->taken[word]), freed = td__load_relaxed(&slab->freed[word]);
    td__latch *latch = &shard_of(slab)->latch;
    me->step[TD__STEP_MEMORY].argument = (uintptr_t)slab;
    td__program_order();
    do
        if (!((taken ^ freed) & bit))
            return false;
    while (!td__cas_seq_cst(&slab->freed[word], &freed, freed ^ bit));
    td__program_order();
    /* From here on it may become another slab: what follows is asked for again under the latch. */
    uint32_t state = td__load_seq_cst(&slab->state);
    if (td__unlikely(state == TD__SLAB_FULL))
        td__slab_relist(me, slab, latch, &me->step[TD__STEP_MEMORY].argument, true);
    else if (td__unlikely(~(taken ^ freed ^ bit) == all) &&
             (td__load_relaxed(&slab->next) || td__load_relaxed(&slab->previous)) && is_empty(slab))
        retire(me, slab, latch, false);
    return true;
}

int td__slab_relist(td__party *me, td__slab *slab, td__latch *latch, uintptr_t *name, bool wait)
{
    if (!td__heap_enter(me, latch, wait))
        return TD_EBUSY;
    if (is_in_state(slab, latch, TD__SLAB_FULL) && has_free(slab))
        list(me, slab);
    td__set(me, name, 0);
    td__section_leave(me, latch);
    return 0;
}

int td__slab_give(td__party *me, td__slab *slab, int index, uintptr_t *name, bool wait)
{
    td__latch *latch = &shard_of(slab)->latch;
    if (!td__heap_enter(me, latch, wait))
        return TD_EBUSY;
    if (is_under(slab, latch) && td__slab_taken(slab, index)) {
        turn(me, slab, index);
        if (td__load_relaxed(&slab->state) == TD__SLAB_FULL)
            list(me, slab);
    }
    td__set(me, name, 0);
    td__section_leave(me, latch);
    return 0;
}
