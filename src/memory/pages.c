/* SPDX-License-Identifier: MIT */
/*
 * Runs of pages. Free ones stand in bins by length, and no two of a kind side by side: neighbours are found by the tags
 * at both ends. Everything here is guarded by the latch of the pages, but for runs that somebody has in its hands.
 *
 * Memory for the pages is asked for outside of the latch, for it takes long: a run from a BARE one is in the taker's
 * hands until it has memory.
 *
 * A section here notes at most 24 changes.
 */
#include "memory/heap.h"

#define GROWTH 256 /* pages: the least that top moves by */
#define LARGE  ((size_t)64 << 20)
#define LOOKS  8 /* runs of the own bin that are looked at before a longer one is cut */

td__heap_view td__heap_here;

#define here td__heap_here

unsigned td__bin_of(uint32_t count)
{
    if (count < 16)
        return count;
    unsigned log = 31 - (unsigned)__builtin_clz(count);
    return 16 + (log - 4) * 4 + (count >> (log - 2) & 3);
}

static bool is_free(td__page_meaning run)
{
    return run.kind == TD__FREE || run.kind == TD__BARE;
}

/* The free run that begins here, checked; kind NONE if it is none. */
static td__page_meaning run_at(uint32_t page)
{
    td__page_meaning run = { TD__NONE, 0 };
    if (page == 0 || page >= td__heap_top() || !td__page_read(page, &run) || !is_free(run) || run.value == 0 ||
        run.value > td__heap_top() - page)
        return (td__page_meaning){ TD__NONE, 0 };
    return run;
}

static void set_tag(td__party *me, uint32_t page, td__page_kind kind, uint32_t value)
{
    td__set_atomic(me, &here.map[page].tag, td__page_tag(page, kind, value));
}

static void set_no_tag(td__party *me, uint32_t page)
{
    td__set_atomic(me, &here.map[page].tag, 0);
}

/* --- bins -------------------------------------------------------------------------------------------------- */

static void set_first(td__party *me, unsigned bin, uint32_t page)
{
    td__set(me, &here.heap->bin[bin], page);
    uint64_t *word = &here.heap->bins_used[bin / 64], bit = (uint64_t)1 << bin % 64;
    if (!(*word & bit) != !page)
        td__set(me, word, *word ^ bit);
}

static void insert(td__party *me, uint32_t page, uint32_t count, td__page_kind kind)
{
    unsigned bin = td__bin_of(count);
    uint32_t first = here.heap->bin[bin];
    set_tag(me, page, kind, count);
    if (count > 1)
        set_tag(me, page + count - 1, TD__END, count);
    td__set(me, &here.map[page].next, first);
    td__set(me, &here.map[page].previous, 0);
    if (first && first < td__heap_top())
        td__set(me, &here.map[first].previous, page);
    set_first(me, bin, page);
}

static int cut_off(td__party *me, uint32_t page, uint32_t count)
{
    unsigned bin = td__bin_of(count);
    uint32_t next = here.map[page].next, previous = here.map[page].previous, top = td__heap_top();
    bool whole = next < top && previous < top && (!next || here.map[next].previous == page) &&
                 (previous ? here.map[previous].next == page : here.heap->bin[bin] == page);
    if (!whole)
        return td__heap_corrupt("the links of the free pages at %p", (void *)td__page_address(page));
    if (previous)
        td__set(me, &here.map[previous].next, next);
    else
        set_first(me, bin, next);
    if (next)
        td__set(me, &here.map[next].previous, previous);
    return 0;
}

/* --- finding ----------------------------------------------------------------------------------------------- */

/* The first of a bin that is long enough, of at most `looks`; 0: none. */
static int look_through(unsigned bin, uint32_t count, uint32_t looks, uint32_t *found)
{
    uint32_t page = here.heap->bin[bin];
    *found = 0;
    for (; page && looks > 0; looks--) {
        td__page_meaning run = run_at(page);
        if (run.kind == TD__NONE || td__bin_of(run.value) != bin)
            return td__heap_corrupt("the list of free runs of pages number %u", bin);
        if (run.value >= count) {
            *found = page;
            return 0;
        }
        page = here.map[page].next;
    }
    return 0;
}

static unsigned bin_above(unsigned bin)
{
    for (unsigned word = (bin + 1) / 64; word < 2; word++) {
        uint64_t used = here.heap->bins_used[word];
        if (word == (bin + 1) / 64)
            used &= ~(uint64_t)0 << (bin + 1) % 64;
        if (used)
            return word * 64 + (unsigned)__builtin_ctzll(used);
    }
    return TD__BINS;
}

/* 0 and *page 0: there is none. */
static int find(uint32_t count, uint32_t *page)
{
    unsigned bin = td__bin_of(count);
    int r = look_through(bin, count, LOOKS, page);
    if (r < 0 || *page)
        return r;
    unsigned above = bin_above(bin);
    if (above >= TD__BINS)
        return 0;
    r = look_through(above, count, 1, page);
    return r < 0 || *page ? r : td__heap_corrupt("the list of free runs of pages number %u", above);
}

/* The free run before this page, if there is one. */
static int run_before(uint32_t page, uint32_t *first, td__page_meaning *run)
{
    td__page_meaning last;
    run->kind = TD__NONE;
    if (page <= 1)
        return 0;
    if (!td__page_read(page - 1, &last))
        return td__heap_corrupt("the tag of page %p", (void *)td__page_address(page - 1));
    if (last.kind != TD__END && !is_free(last))
        return 0;
    *first = last.value > 0 && last.value < page ? page - last.value : 0;
    *run = run_at(*first);
    if (run->kind == TD__NONE || run->value != last.value)
        return td__heap_corrupt("the tags of the free pages before %p", (void *)td__page_address(page));
    return 0;
}

/*
 * Puts a run among the free ones, together with its neighbours of the same kind, or with free ones of any. One with
 * memory and one without are kept apart until pages run out: what is freed and taken again need not be asked for again.
 */
static int merge(td__party *me, uint32_t page, uint32_t count, td__page_kind kind, bool any)
{
    uint32_t after = page + count, before;
    td__page_meaning run;
    if (after < td__heap_top()) {
        if (!td__page_read(after, &run))
            return td__heap_corrupt("the tag of page %p", (void *)td__page_address(after));
        if (is_free(run) && (any || run.kind == kind)) {
            run = run_at(after);
            if (run.kind == TD__NONE || cut_off(me, after, run.value) < 0)
                return td__heap_corrupt("the free pages at %p", (void *)td__page_address(after));
            set_no_tag(me, after);
            count += run.value;
            kind = run.kind == TD__BARE ? TD__BARE : kind;
        }
    }
    if (run_before(page, &before, &run) < 0)
        return TD_ECORRUPT;
    if (run.kind != TD__NONE && (any || run.kind == kind)) {
        if (cut_off(me, before, run.value) < 0)
            return TD_ECORRUPT;
        if (run.value > 1)
            set_no_tag(me, page - 1);
        set_no_tag(me, page);
        page = before;
        count += run.value;
        kind = run.kind == TD__BARE ? TD__BARE : kind;
    }
    insert(me, page, count, kind);
    return 0;
}

/* --- taking ------------------------------------------------------------------------------------------------ */

/* Makes pages beyond top usable, as a run at least so long together with what is free before it. */
static int grow(td__party *me, uint32_t count)
{
    uint32_t top = td__heap_top(), room = here.page_count + 1 - top, before, more = count;
    td__page_meaning run;
    if (run_before(top, &before, &run) < 0)
        return TD_ECORRUPT;
    if (run.kind == TD__BARE && run.value < count)
        more = count - run.value;
    if (more > room)
        return TD_ENOMEM;
    more = more < GROWTH ? (GROWTH < room ? GROWTH : room) : more;
    if (td__region_populate(&here.map[top], more * sizeof(td__page)) < 0)
        return TD_ENOMEM;
    td__set_atomic(me, &here.heap->top, top + more);
    return merge(me, top, more, TD__BARE, false);
}

/* When pages run out: joins the free runs side by side that have been kept apart. */
static int join_all(td__party *me)
{
    for (uint32_t page = 1; page < td__heap_top();) {
        td__page_meaning run, next = { TD__NONE, 0 };
        if (!td__page_read(page, &run) || run.kind == TD__NONE || run.kind == TD__END || run.kind > TD__SLAB)
            return td__heap_corrupt("the tag of page %p", (void *)td__page_address(page));
        uint32_t count = run.value;
        if (run.kind == TD__SLAB) {
            if (!td__slab_is_whole(td__slab_of_page(page)))
                return td__heap_corrupt("the slab at %p", (void *)td__page_address(page));
            count = td__classes[td__slab_class(td__slab_of_page(page))].pages;
        }
        if (count == 0 || count > td__heap_top() - page)
            return td__heap_corrupt("the length of the run of pages at %p", (void *)td__page_address(page));
        if (is_free(run) && page + count < td__heap_top())
            next = run_at(page + count);
        if (next.kind == TD__NONE) {
            page += count;
            continue;
        }
        if (cut_off(me, page, count) < 0)
            return TD_ECORRUPT;
        set_no_tag(me, page + count - 1);
        if (merge(me, page, count, run.kind, true) < 0)
            return TD_ECORRUPT;
        td__section_commit(me); /* one at a time, however many */
    }
    return 0;
}

/* Takes the first pages of a free run: they are USED; or COMING, if they may have no memory. */
static int use(td__party *me, uint32_t page, uint32_t count, td__page_kind *kind)
{
    td__page_meaning run = run_at(page);
    if (cut_off(me, page, run.value) < 0)
        return TD_ECORRUPT;
    if (run.value > count)
        insert(me, page + count, run.value - count, run.kind);
    else if (count > 1)
        set_no_tag(me, page + count - 1);
    set_tag(me, page, run.kind == TD__BARE ? TD__COMING : TD__USED, count);
    *kind = run.kind;
    return 0;
}

/*
 * Makes sure of a taken run's memory. Asking the system for more than it has would not fail: it would kill processes to
 * find it. So much is looked at first; a little is asked for as everybody does.
 */
static int find_memory(uint32_t page, uint32_t count)
{
    size_t size = count * TD__PAGE;
    if (size >= LARGE && td__memory_available() < size)
        return TD_ENOMEM;
    if (td__region_populate(td__page_address(page), size) < 0)
        return TD_ENOMEM;
    td__program_order(); /* a death before this leaves a run of which it is known that it may have none */
    td__store_release(&here.map[page].tag, td__page_tag(page, TD__USED, count));
    return 0;
}

int td__pages_complete(uint32_t page)
{
    td__page_meaning run;
    bool coming = td__page_read(page, &run) && run.kind == TD__COMING;
    return coming ? find_memory(page, run.value) : 0;
}

int td__pages_take(td__party *me, uint32_t count, uintptr_t *name, unsigned tag, uint32_t *page)
{
    td__page_kind kind = TD__NONE;
    td__section_enter(me, &here.heap->latch);
    int r = find(count, page);
    if (r == 0 && *page == 0) {
        r = grow(me, count);
        if (r == TD_ENOMEM)
            r = join_all(me);
        if (r == 0)
            r = find(count, page);
        if (r == 0 && *page == 0) /* the last resort: all of the own bin */
            r = look_through(td__bin_of(count), count, here.page_count, page);
        if (r == 0 && *page == 0)
            r = TD_ENOMEM;
    }
    if (r == 0)
        r = use(me, *page, count, &kind);
    if (r == 0)
        td__set(me, name, (uintptr_t)td__page_address(*page) | tag);
    else
        td__section_undo(me);
    td__section_leave(me, &here.heap->latch);
    if (r == 0 && kind == TD__BARE && find_memory(*page, count) < 0) {
        td__pages_give(me, *page, name, true);
        return TD_ENOMEM;
    }
    return r;
}

/* --- giving back ------------------------------------------------------------------------------------------- */

/* Of whole pages of the system that lie inside. */
static void punch(uint32_t page, uint32_t count)
{
    uint64_t unit = td__page_size(), from = (uint64_t)(td__page_address(page) - (char *)td__the_region);
    uint64_t to = (from + count * TD__PAGE) & ~(unit - 1);
    from = (from + unit - 1) & ~(unit - 1);
    if (from < to)
        td__punch(td__region_file, from, to - from);
}

/* A slab, or what was to become one, is a plain run again: how long, and as what it is free. May be done twice. */
static int make_plain(uint32_t page, uint32_t *count, td__page_kind *kind)
{
    td__page_meaning run;
    if (!td__page_read(page, &run) ||
        (run.kind != TD__USED && run.kind != TD__GOING && run.kind != TD__COMING && run.kind != TD__SLAB))
        return td__heap_corrupt("the tag of page %p", (void *)td__page_address(page));
    *count = run.value;
    if (run.kind == TD__SLAB) {
        td__slab *slab = td__slab_of_page(page);
        if (run.value != page || !td__slab_is_whole(slab) || td__slab_page(slab) != page)
            return td__heap_corrupt("the slab at %p", (void *)td__page_address(page));
        *count = td__classes[td__slab_class(slab)].pages;
        /* First, so that who finds a slab's tag here finds a slab. */
        td__store_release(&here.map[page].tag, td__page_tag(page, TD__USED, *count));
        td__program_order();
    }
    if (*count == 0 || *count > td__heap_top() - page)
        return td__heap_corrupt("the length of the run of pages at %p", (void *)td__page_address(page));
    if (*count <= TD__SLAB_PAGES)
        for (uint32_t i = 1; i < *count; i++)
            td__store_release(&here.map[page + i].tag, 0);
    *kind = run.kind == TD__COMING || *count >= TD__PUNCH_PAGES ? TD__BARE : TD__FREE;
    td__program_order();
    return 0;
}

int td__pages_give(td__party *me, uint32_t page, uintptr_t *name, bool wait)
{
    uint32_t count = 0;
    td__page_kind kind = TD__FREE;
    int r = make_plain(page, &count, &kind);
    if (r < 0)
        return r;
    if (count >= TD__PUNCH_PAGES)
        punch(page, count);
    td__step_point();
    if (!td__heap_enter(me, &here.heap->latch, wait))
        return TD_EBUSY;
    r = merge(me, page, count, kind, false);
    if (r < 0)
        td__section_undo(me);
    td__set(me, name, 0);
    td__section_leave(me, &here.heap->latch);
    return r;
}

/* Under the latch: the first `keep` pages stay, the others are going, and in the caller's hands. */
static void part(td__party *me, uint32_t page, uint32_t count, uint32_t keep, uintptr_t *going)
{
    if (keep)
        set_tag(me, page, TD__USED, keep);
    set_tag(me, page + keep, TD__GOING, count - keep);
    td__set(me, going, (uintptr_t)td__page_address(page + keep) | 1);
}

int td__pages_free(td__party *me, uint32_t page, uint32_t keep, uintptr_t *going)
{
    td__page_meaning run;
    td__section_enter(me, &here.heap->latch);
    /* Under the latch: of two that free it at once, one is told. */
    bool whole = td__page_read(page, &run) && run.kind == TD__USED && run.value > keep;
    int r = !whole ? TD_EINVAL : run.value > td__heap_top() - page ? td__heap_corrupt("a block's length") : 0;
    bool apart = r == 0 && (keep || run.value >= TD__PUNCH_PAGES);
    if (apart)
        part(me, page, run.value, keep, going);
    else if (r == 0 && (r = merge(me, page, run.value, TD__FREE, false)) < 0)
        td__section_undo(me);
    td__section_leave(me, &here.heap->latch);
    return apart ? td__pages_give(me, page + keep, going, true) : r;
}
