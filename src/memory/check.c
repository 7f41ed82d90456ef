/* SPDX-License-Identifier: MIT */
/*
 * Walks over the whole heap: is it in order, and what is in it. A walk holds the latch of what it looks at, never
 * follows what it has not checked, and goes no more steps than there are pages, whatever it finds.
 */
#include "memory/heap.h"
#include <tandem/shared.h>

#define here td__heap_here

typedef struct found {
    uint32_t free_runs;
    size_t blocks, bytes;
} found;

static bool is_free(td__page_kind kind)
{
    return kind == TD__FREE || kind == TD__BARE;
}

static int bad(const char *what, uint32_t page)
{
    return td__heap_corrupt("%s at %p", what, (void *)td__page_address(page));
}

/* --- pages ------------------------------------------------------------------------------------------------- */

static int walk_slab(uint32_t page, uint32_t *count, found *found)
{
    td__page_meaning tag;
    const td__slab *slab = td__slab_of_page(page);
    if (!td__slab_is_whole(slab) || td__slab_page(slab) != page)
        return bad("the slab", page);
    unsigned class = td__slab_class(slab);
    *count = td__classes[class].pages;
    /* While it is being made or unmade some of its pages have no tag. */
    for (uint32_t i = 1; i < *count; i++)
        if (page + i >= td__heap_top() || !td__page_read(page + i, &tag) ||
            (tag.kind != TD__NONE && (tag.kind != TD__SLAB || tag.value != page)))
            return bad("a tag in the slab", page);
    for (unsigned word = 0; word < TD__SLAB_WORDS; word++) {
        uint64_t taken = td__load_relaxed(&slab->taken[word]) ^ td__load_relaxed(&slab->freed[word]);
        uint64_t beyond = td__slab_beyond(class, word);
        if ((taken & beyond) != beyond)
            return bad("the blocks of the slab", page);
        found->blocks += (size_t)__builtin_popcountll(taken & ~beyond);
        found->bytes += (size_t)__builtin_popcountll(taken & ~beyond) * td__classes[class].size;
    }
    return 0;
}

static int walk_run(uint32_t page, td__page_meaning run, found *found)
{
    td__page_meaning last = run;
    if (run.value == 0 || run.value > td__heap_top() - page)
        return bad("the length of the run of pages", page);
    if (run.value > 1 && !td__page_read(page + run.value - 1, &last))
        return bad("the last tag of the run of pages", page);
    if (is_free(run.kind)) {
        found->free_runs++;
        if (last.value != run.value || (run.value > 1 && last.kind != TD__END))
            return bad("the last tag of the free pages", page);
        return 0;
    }
    if (run.value > 1 && last.kind != TD__NONE && last.kind != TD__SLAB)
        return bad("the last tag of the block", page);
    if (run.kind == TD__USED) {
        found->blocks++;
        found->bytes += run.value * TD__PAGE;
    }
    return 0;
}

/* Under the latch of the pages. */
static int walk_pages(found *found)
{
    td__page_kind before = TD__NONE;
    for (uint32_t page = 1, count; page < td__heap_top(); page += count) {
        td__page_meaning tag;
        if (!td__page_read(page, &tag) || tag.kind == TD__NONE || tag.kind == TD__END || tag.kind > TD__SLAB)
            return bad("the tag of the page", page);
        count = tag.value;
        int r = tag.kind == TD__SLAB ? walk_slab(page, &count, found) : walk_run(page, tag, found);
        if (r < 0)
            return r;
        if (is_free(tag.kind) && before == tag.kind)
            return bad("two free runs side by side", page);
        before = tag.kind;
    }
    return 0;
}

static int walk_bins(uint32_t free_runs)
{
    uint32_t met = 0, top = td__heap_top();
    for (unsigned bin = 0; bin < TD__BINS; bin++) {
        uint32_t page = here.heap->bin[bin], previous = 0;
        if (!(here.heap->bins_used[bin / 64] >> bin % 64 & 1) != !page)
            return td__heap_corrupt("the list of free runs of pages number %u", bin);
        for (; page; page = here.map[page].next) {
            td__page_meaning tag;
            if (page >= top || met++ == free_runs || !td__page_read(page, &tag) || !is_free(tag.kind) ||
                td__bin_of(tag.value) != bin || here.map[page].previous != previous)
                return td__heap_corrupt("the list of free runs of pages number %u", bin);
            previous = page;
        }
    }
    return met == free_runs ? 0 : td__heap_corrupt("the lists of free runs of pages");
}

/* --- shards ------------------------------------------------------------------------------------------------ */

static int walk_list(unsigned shard, unsigned class)
{
    uint32_t number = here.heap->shard[shard].first[class], previous = 0;
    for (uint32_t steps = td__heap_top() / TD__SLAB_GRAIN + 1; number; steps--) {
        const td__slab *slab = td__slab_numbered(number);
        if (steps == 0 || !slab || td__slab_class(slab) != class || td__slab_shard(slab) != shard ||
            td__load_relaxed(&slab->state) != TD__SLAB_LISTED || td__load_relaxed(&slab->previous) != previous)
            return td__heap_corrupt("the list of slabs number %u of shard %u", class, shard);
        previous = number;
        number = td__load_relaxed(&slab->next);
    }
    return 0;
}

static int walk_shard(td__party *me, unsigned shard)
{
    int r = 0;
    td__section_enter(me, &here.heap->shard[shard].latch);
    for (unsigned class = 0; class < TD__CLASSES && r == 0; class ++)
        r = walk_list(shard, class);
    td__section_leave(me, &here.heap->shard[shard].latch);
    return r;
}

static int walk(const char *call, found *found)
{
    int r = 0;
    if (td__shared_size == 0)
        return td__fail(TD_EINIT, "%s: there is no shared memory: td_init() was not called, or found no room for it",
                        call);
    td__party *me = td__party_self();
    if (!me)
        return td_last_error();
    for (unsigned shard = 0; shard < here.shards && r == 0; shard++)
        r = walk_shard(me, shard);
    if (r < 0)
        return r;
    td__section_enter(me, &here.heap->latch);
    r = walk_pages(found);
    if (r == 0)
        r = walk_bins(found->free_runs);
    td__section_leave(me, &here.heap->latch);
    return r;
}

int td_shared_check(void)
{
    found found = { .blocks = 0 };
    return walk("td_shared_check", &found);
}

int td_shared_stats(td_shared_counts *counts)
{
    found found = { .blocks = 0 };
    if (!counts)
        return td__fail(TD_EINVAL, "td_shared_stats: the place for the counts is NULL");
    int r = walk("td_shared_stats", &found);
    if (r < 0)
        return r;
    counts->limit = here.page_count * TD__PAGE;
    counts->reserved = (size_t)td__memory_file_used(td__region_file);
    counts->in_use = found.bytes;
    counts->blocks = found.blocks;
    return 0;
}

/* --- blocks that are freed while somebody waits ------------------------------------------------------------ */

#if TD__CHECKS_USE
void td__heap_check_unused(const void *block, size_t size)
{
    td__use use = td__use_of(block, size);
    if (use.what)
        td__bug("td_shared_free: a thread of process %u %s something inside block %p", use.pid, use.what, block);
}
#endif
