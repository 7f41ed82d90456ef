/* SPDX-License-Identifier: MIT */
/*
 * A process that writes where it should not, over the heap's own data: whoever comes upon it is told, by TD_ECORRUPT
 * or, where it looks like a bad pointer, by a sentence and abort; nobody crashes in another way, or does not come back.
 */
#include "harness.h"
#include <tandem/shared.h>

#include <signal.h>
#include "memory/heap.h"

enum { BLOCKS = 60 };

typedef struct scene {
    void *block[BLOCKS];
} scene;

static const size_t sizes[] = { 16, 64, 100, 3000, 8192, 9000, 70000, 500000, 5 << 20 };

static uint64_t state = 4711;

static uint64_t next_random(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return state >> 33;
}

/* Slabs full and not, free runs of several lengths, huge blocks. */
static scene *set_scene(void)
{
    scene *scene = td_shared_calloc(1, sizeof *scene);
    void *gap[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        scene->block[i] = td_shared_alloc(sizes[(size_t)i % (sizeof sizes / sizeof *sizes)]);
        gap[i] = td_shared_alloc(sizes[(size_t)(i * 7) % (sizeof sizes / sizeof *sizes)]);
        REQUIRE(scene->block[i] && gap[i]);
    }
    for (int i = 0; i < BLOCKS; i++)
        td_shared_free(gap[i]);
    return scene;
}

/* --- the heap's own data ----------------------------------------------------------------------------------- */

typedef struct part {
    unsigned char *at;
    size_t size;
} part;

static int parts(part part[3])
{
    uint32_t top = td__heap_top();
    part[0] = (struct part){ (unsigned char *)td__heap_here.heap, sizeof(td__heap) };
    part[1] = (struct part){ (unsigned char *)td__heap_here.map, top * sizeof(td__page) };
    part[2] = (struct part){ (unsigned char *)td__heap_here.slabs, (top / TD__SLAB_GRAIN + 1) * sizeof(td__slab) };
    return 3;
}

/* A latch that says that somebody holds it cannot be told from one that is held. */
static bool is_latch(const unsigned char *at)
{
    const unsigned char *root = (unsigned char *)td__heap_here.heap;
    const td__latch *pages = &td__heap_here.heap->latch;
    if ((size_t)(at - (const unsigned char *)pages) < sizeof *pages)
        return true;
    for (unsigned i = 0; i < TD__SHARDS; i++) {
        const td__latch *latch = &td__heap_here.heap->shard[i].latch;
        if ((size_t)(at - (const unsigned char *)latch) < sizeof *latch)
            return true;
    }
    (void)root;
    return false;
}

static void scribble(const part *part)
{
    size_t at = (size_t)next_random() % part->size, length = 1 + (size_t)next_random() % 16;
    unsigned how = (unsigned)next_random() % 4;
    for (size_t i = at; i < at + length && i < part->size; i++)
        if (!is_latch(part->at + i))
            part->at[i] = how == 0   ? 0
                          : how == 1 ? 0xff
                          : how == 2 ? (unsigned char)next_random()
                                     : (unsigned char)(part->at[i] ^ 1u << next_random() % 8);
}

/* --- a worker that uses it --------------------------------------------------------------------------------- */

static void told(bool failed, int *corrupt)
{
    if (!failed)
        return;
    CHECK(td_last_error() == TD_ECORRUPT || td_last_error() == TD_ENOMEM);
    CHECK(td_last_message()[0]);
    *corrupt += td_last_error() == TD_ECORRUPT;
}

static int use_heap(td_call *call)
{
    scene *scene = (struct scene *)td_arg(call, uintptr_t);
    int corrupt = 0;
    told(td_shared_check() < 0, &corrupt);
    td_shared_counts counts;
    told(td_shared_stats(&counts) < 0, &corrupt);
    for (int i = 0; i < 200; i++)
        told(!td_shared_alloc(sizes[(size_t)i % (sizeof sizes / sizeof *sizes)]), &corrupt);
    for (int i = 0; i < BLOCKS; i++) {
        if (i % 3)
            td_shared_free(scene->block[i]);
        else
            told(!td_shared_realloc(scene->block[i], 20000), &corrupt);
    }
    told(td_shared_check() < 0, &corrupt);
    return td_return(call, int, corrupt);
}

static unsigned char *copy[3];

TEST_METHODS_LIMIT(written_over, 200)
{
    scene *scene = set_scene();
    part part[3];
    size_t count = (size_t)parts(part), found = 0, aborted = 0;
    for (size_t i = 0; i < count; i++) {
        copy[i] = malloc(part[i].size);
        memcpy(copy[i], part[i].at, part[i].size);
    }
    uint32_t top = td__heap_top();
    for (int round = 0; round < 150 / thrift() && !harness_failed(); round++) {
        uint64_t seed = state;
        for (uint64_t n = 1 + next_random() % 3; n > 0; n--)
            scribble(&part[next_random() % count]);
        td_worker *w = WORKER(NEW(.target = use_heap, .args = TD_ARG(uintptr_t, (uintptr_t)scene)));
        REQUIRE_OK(td_start(w));
        int corrupt = 0;
        if (!CHECK_OK(td_join_for(w, td_s(20)))) {
            td_kill(w);
            td_join(w);
        } else if (td_outcome(w) == TD_RETURNED) {
            REQUIRE_OK(td_result(w, int, &corrupt));
            found += corrupt > 0;
        } else {
            aborted++;
            if (!CHECK_INT(td_exitcode(w), -SIGABRT))
                harness_note("    %s", td_describe(w));
        }
        if (harness_failed())
            harness_note("    round %d, state %llu", round, (unsigned long long)seed);
        pid_t pid = td_pid(w);
        td_free(w);
        WAIT_UNTIL(!td__parties_of(pid), 10);
        /* As it was. The latches are free: all who used them have gone. */
        for (size_t i = 0; i < count; i++)
            memcpy(part[i].at, copy[i], part[i].size);
        for (uint32_t page = top; page < top + 100000; page++)
            td__heap_here.map[page].tag = 0;
        REQUIRE_OK(td_shared_check());
    }
    harness_note("    told %zu times, aborted %zu times", found, aborted);
    CHECK(found > 30u / (unsigned)thrift());
    for (int i = 0; i < BLOCKS; i++)
        td_shared_free(scene->block[i]);
    td_shared_free(scene);
    CHECK_OK(td_shared_check());
}

/* Each kind of thing that the walk looks at is found by it. */
TEST(walk_finds)
{
    scene *scene = set_scene();
    td__slab *slab = td__slab_of_page((uint32_t)(td__heap_here.map[td__page_of(scene->block[0])].tag >> 4));
    uint32_t run = td__page_of(scene->block[7]);
    _Atomic uint64_t *words[] = { &td__heap_here.map[1].tag,
                                  &td__heap_here.map[run].tag,
                                  &td__heap_here.map[run + 1].tag,
                                  &td__heap_here.map[td__page_of(scene->block[0])].tag,
                                  &slab->what,
                                  &slab->check,
                                  (_Atomic uint64_t *)&td__heap_here.heap->bins_used[0],
                                  (_Atomic uint64_t *)&td__heap_here.heap->bins_used[1] };
    REQUIRE_OK(td_shared_check());
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        uint64_t before = *words[i];
        if (i == 2) /* inside a run nothing is looked at but when it is freed */
            continue;
        *words[i] = before ^ 0x10000;
        if (!CHECK_ERROR(td_shared_check(), TD_ECORRUPT))
            harness_note("    word %zu", i);
        CHECK_HAS(td_last_message(), "the shared heap is corrupted: ");
        *words[i] = before;
        CHECK_OK(td_shared_check());
    }
    /* A ring where a list should be. */
    for (unsigned bin = 0; bin < TD__BINS; bin++) {
        uint32_t first = td__heap_here.heap->bin[bin];
        if (!first)
            continue;
        uint32_t next = td__heap_here.map[first].next;
        td__heap_here.map[first].next = first;
        CHECK_ERROR(td_shared_check(), TD_ECORRUPT);
        td__heap_here.map[first].next = next;
    }
    CHECK_OK(td_shared_check());
}
