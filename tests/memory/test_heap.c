/* SPDX-License-Identifier: MIT */
/* The shared heap: blocks, their sizes, their ends; one process and many. */
#include "refuse.h"
#include <tandem/shared.h>

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include "memory/heap.h"
#include "os/fault.h"

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static td_shared_counts counts(void)
{
    td_shared_counts c = { 0 };
    CHECK_OK(td_shared_stats(&c));
    return c;
}

/* In each process of the case: what it holds is its own; bytes tell. */
static void fill(void *block, size_t size, unsigned char with)
{
    memset(block, with, size < 4096 ? size : 4096);
    if (size > 4096)
        ((unsigned char *)block)[size - 1] = with;
}

static bool is_filled(const void *block, size_t size, unsigned char with)
{
    const unsigned char *at = block;
    for (size_t i = 0; i < (size < 4096 ? size : 4096); i++)
        if (at[i] != with)
            return false;
    return size <= 4096 || at[size - 1] == with;
}

static size_t some_size(uint64_t *state)
{
    uint64_t r = next_random(state);
    switch (r % 8) {
    case 0:
        return r >> 8 & 0xfffff; /* to 1 MiB */
    case 1:
        return r >> 8 & 0xffff;
    default:
        return r >> 8 & 0x3ff;
    }
}

/* --- sizes ------------------------------------------------------------------------------------------------- */

/* Every size gives at least so many bytes, aligned, and the heap is as before when all are freed. */
TEST_LIMIT(all_sizes, 100)
{
    td_shared_free(td_shared_alloc(1)); /* the party and the like */
    td_shared_counts before = counts();
    for (size_t size = 0; size <= 1 << 20; size += size < 20000 ? 1 : 4093) {
        void *at = td_shared_alloc(size);
        REQUIRE(at);
        REQUIRE(td_shared_is(at));
        REQUIRE_INT((uintptr_t)at % 16, 0);
        REQUIRE(td_shared_size(at) >= size);
        REQUIRE(size > 8192 || td_shared_size(at) <= size + size / 4 + 16);
        fill(at, size, 7);
        td_shared_free(at);
        REQUIRE_INT(td_shared_size(at), 0);
    }
    CHECK_OK(td_shared_check());
    CHECK_INT(counts().blocks, before.blocks);
    CHECK_INT(counts().in_use, before.in_use);
}

/* --- control groups ------------------------------------------------------------------------------------------ */

static void group_file(const char *group, const char *file, const char *text)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s/%s", harness_dir, group, file);
    REQUIRE(write_file(path, text));
}

static void group_made(const char *group)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", harness_dir, group);
    REQUIRE(mkdir(path, 0755) == 0);
}

static void group_of_v1(const char *group, const char *limit, const char *used, const char *stat)
{
    group_made(group);
    group_file(group, "memory.limit_in_bytes", limit);
    group_file(group, "memory.usage_in_bytes", used);
    group_file(group, "memory.stat", stat);
}

static void group_of_v2(const char *group, const char *limit, const char *used, const char *stat)
{
    group_made(group);
    group_file(group, "memory.max", limit);
    group_file(group, "memory.current", used);
    group_file(group, "memory.stat", stat);
}

/* Catches: limits of one version, of groups above, or of a container's own group, that are not read. */
TEST(memory_left_in_groups)
{
    group_of_v1("memory", "9223372036854771712\n", "5000\n", "cache 1\ntotal_inactive_file 0\n");
    group_of_v1("memory/a", "8000\n", "3000\n", "inactive_file 1\ntotal_inactive_file 500\n");
    group_of_v1("memory/a/b", "9000\n", "1000\n", "cache 1\ntotal_inactive_file 100\n");
    group_of_v1("memory/a/full", "100\n", "200\n", "cache 1\n");
    group_of_v2("c", "7000\n", "2000\n", "anon 1\ninactive_file 1000\n");
    group_of_v2("c/d", "max\n", "2000\n", "anon 1\n");
    static const struct {
        const char *membership;
        uint64_t left;
    } rows[] = {
        { "4:memory:/a/b\n", 5500 },
        { "9:name=memory:/a/full\n4:cpu,memory:/a/b\n3:cpu:/a/full\n0::/\n", 5500 },
        { "4:memory,cpu:/a/full", 0 },
        { "4:memory:/a\n0::/c\n", 5500 },
        { "4:memory:/\n0::/c/d\n", 6000 },
        { "0::/c", 6000 },
        { "0::/\n", UINT64_MAX },
        { "5:cpu:/a\n", UINT64_MAX },
        { "", UINT64_MAX },
        { "nonsense\n:\n::\n4:memory", UINT64_MAX },
        { "4:memory:/host/path/of/a/container\n", 9223372036854771712u - 5000 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        CHECK(td__memory_left_in_groups(rows[i].membership, harness_dir) == rows[i].left ||
              (harness_note("row %zu: %llu", i,
                            (unsigned long long)td__memory_left_in_groups(rows[i].membership, harness_dir)),
               false));
}

/* A GiB is had, and its memory goes back at once. */
TEST_LIMIT(a_gibibyte, 100)
{
    size_t size = (size_t)1 << 30;
    if (td__memory_available() < 2 * size)
        SKIP("less than 2 GiB of memory are left");
    size_t before = counts().reserved;
    char *at = td_shared_alloc(size);
    REQUIRE(at);
    at[0] = at[size - 1] = 1;
    CHECK(counts().reserved >= before + size);
    CHECK_INT(counts().in_use, size);
    td_shared_free(at);
    CHECK(counts().reserved < before + (64 << 20));
    CHECK_OK(td_shared_check());
}

/* Sizes of more than memory are refused, in words; multiplied ones too. */
TEST(more_than_memory)
{
    static const size_t sizes[] = { SIZE_MAX, SIZE_MAX - 15, SIZE_MAX - 4096, SIZE_MAX / 2, (size_t)1 << 36 };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        CHECK_NULL(td_shared_alloc(sizes[i]), TD_ENOMEM);
        CHECK_NULL(td_shared_alloc_aligned(4096, sizes[i]), TD_ENOMEM);
        CHECK_NULL(td_shared_calloc(1, sizes[i]), TD_ENOMEM);
        CHECK_NULL(td_shared_realloc(NULL, sizes[i]), TD_ENOMEM);
    }
    CHECK_HAS(td_last_message(), "68719476736 bytes");
    CHECK_NULL(td_shared_calloc(SIZE_MAX / 2, 3), TD_ENOMEM);
    CHECK_NULL(td_shared_calloc((size_t)1 << 33, (size_t)1 << 33), TD_ENOMEM);
    /* In the region there is room for it, in this machine there is not: nobody may be killed for it. */
    if (td__memory_available() < (size_t)60 << 30)
        CHECK_NULL(td_shared_alloc((size_t)60 << 30), TD_ENOMEM);
    char *kept = td_shared_alloc(100);
    strcpy(kept, "kept");
    CHECK_NULL(td_shared_realloc(kept, SIZE_MAX), TD_ENOMEM);
    CHECK_STR(kept, "kept");
    td_shared_free(kept);
    CHECK_OK(td_shared_check());
}

TEST(alignments)
{
    static const size_t sizes[] = { 0, 1, 63, 64, 65, 100, 1000, 5000, 9000, 100000 };
    for (size_t alignment = 1; alignment <= 4096; alignment *= 2)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            void *first = td_shared_alloc_aligned(alignment, sizes[i]);
            void *at = td_shared_alloc_aligned(alignment, sizes[i]);
            CHECK_INT((uintptr_t)first % alignment, 0);
            CHECK_INT((uintptr_t)at % alignment, 0);
            CHECK(td_shared_size(at) >= sizes[i]);
            fill(at, sizes[i], 1);
            td_shared_free(at);
            td_shared_free(first);
        }
    CHECK_NULL(td_shared_alloc_aligned(0, 1), TD_EINVAL);
    CHECK_NULL(td_shared_alloc_aligned(48, 1), TD_EINVAL);
    CHECK_NULL(td_shared_alloc_aligned(8192, 1), TD_EINVAL);
    CHECK_HAS(td_last_message(), "8192");
}

TEST(calloc_is_zero_also_on_used_memory)
{
    static void *block[200];
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 200; i++) {
            size_t size = (size_t)i * 531;
            block[i] = td_shared_calloc(3, size / 3);
            REQUIRE(block[i]);
            REQUIRE(is_filled(block[i], size / 3 * 3, 0));
            fill(block[i], size / 3 * 3, 0xee);
        }
        for (int i = 0; i < 200; i++)
            td_shared_free(block[i]);
    }
}

/* From every kind of block to every other: the bytes come along, the counts stay right. */
TEST(realloc_keeps_bytes)
{
    static const size_t sizes[] = { 0,    1,     16,    17,     100,     1000,    4096,    8192,
                                    8193, 12288, 40000, 300000, 2 << 20, 5 << 20, 11 << 20 };
    enum { N = sizeof sizes / sizeof *sizes };
    td_shared_free(td_shared_alloc(1));
    td_shared_counts before = counts();
    for (int from = 0; from < N; from++)
        for (int to = from % thrift(); to < N; to += thrift()) {
            unsigned char *at = td_shared_alloc(sizes[from]);
            REQUIRE(at);
            memset(at, from + 1, sizes[from]);
            at = td_shared_realloc(at, sizes[to]);
            REQUIRE(at);
            size_t both = sizes[from] < sizes[to] ? sizes[from] : sizes[to];
            for (size_t i = 0; i < both; i++)
                if (at[i] != from + 1)
                    REQUIRE_INT(at[i], from + 1);
            REQUIRE(td_shared_size(at) >= sizes[to]);
            td_shared_free(at);
        }
    CHECK_OK(td_shared_check());
    CHECK_INT(counts().blocks, before.blocks);
    CHECK_INT(counts().in_use, before.in_use);
}

/* A block that shrinks by half or more gives the rest back. */
TEST(realloc_gives_back)
{
    char *at = td_shared_alloc(20 << 20);
    at = td_shared_realloc(at, 9 << 20);
    CHECK_INT(td_shared_size(at), 9 << 20);
    at = td_shared_realloc(at, 40000);
    CHECK_INT(td_shared_size(at), 40960);
    at = td_shared_realloc(at, 100);
    CHECK_INT(td_shared_size(at), 112);
    td_shared_free(at);
    td_shared_free(NULL);
    CHECK_OK(td_shared_check());
}

/* --- against a model --------------------------------------------------------------------------------------- */

enum { SLOTS = 2000 };

typedef struct model {
    void *block[SLOTS];
    size_t size[SLOTS];
    unsigned char with[SLOTS];
} model;

static void one_change(model *model, uint64_t *state)
{
    unsigned i = (unsigned)(next_random(state) % SLOTS);
    size_t size = some_size(state);
    unsigned char with = (unsigned char)next_random(state);
    if (!model->block[i]) {
        model->block[i] = with & 1 ? td_shared_alloc(size) : td_shared_alloc_aligned((size_t)16 << with % 9, size);
        REQUIRE(model->block[i]);
    } else {
        REQUIRE(is_filled(model->block[i], model->size[i], model->with[i]));
        if (with % 4 == 0) {
            size_t both = size < model->size[i] ? size : model->size[i];
            model->block[i] = td_shared_realloc(model->block[i], size);
            REQUIRE(model->block[i]);
            REQUIRE(is_filled(model->block[i], both < 4096 ? both : 4096, model->with[i]));
        } else {
            td_shared_free(model->block[i]);
            model->block[i] = NULL;
            return;
        }
    }
    model->size[i] = size;
    model->with[i] = with;
    fill(model->block[i], size, with);
}

static void free_all(model *model)
{
    for (int i = 0; i < SLOTS; i++) {
        if (model->block[i])
            REQUIRE(is_filled(model->block[i], model->size[i], model->with[i]));
        td_shared_free(model->block[i]);
    }
}

static void random_changes(uint64_t seed, int changes)
{
    static _Thread_local model model;
    memset(&model, 0, sizeof model);
    for (int i = 0; i < changes; i++)
        one_change(&model, &seed);
    free_all(&model);
}

/* Blocks never overlap, and keep their bytes. */
TEST_LIMIT(random_against_a_model, 100)
{
    td_shared_free(td_shared_alloc(1));
    td_shared_counts before = counts();
    for (uint64_t seed = 1; seed <= 5; seed++) {
        random_changes(seed * 77777, 20000 / thrift());
        REQUIRE_OK(td_shared_check());
    }
    CHECK_INT(counts().blocks, before.blocks);
    CHECK_INT(counts().in_use, before.in_use);
}

static int change_at_random(td_call *call)
{
    random_changes(td_arg(call, uint64_t), 10000);
    return 0;
}

/* The same by several at once. */
TEST_MODES_LIMIT(random_together, 150)
{
    enum { WORKERS = 4 };
    td_worker *w[WORKERS];
    td_shared_free(td_shared_alloc(1));
    td_shared_counts before = counts();
    for (int i = 0; i < WORKERS; i++) {
        w[i] = WORKER(NEW(.target = change_at_random, .args = TD_ARG(uint64_t, 1234567u * (unsigned)(i + 1))));
        REQUIRE_OK(td_start(w[i]));
    }
    for (int i = 0; i < WORKERS; i++) {
        REQUIRE_OK(td_join(w[i]));
        CHECK_INT(td_result_code(w[i]), 0);
        td_free(w[i]);
    }
    CHECK_OK(td_shared_check());
    CHECK_INT(counts().blocks, before.blocks);
    CHECK_INT(counts().in_use, before.in_use);
}

/* --- blocks that go from hand to hand ---------------------------------------------------------------------- */

typedef struct exchange {
    _Atomic uintptr_t place[64];
    int rounds;
} exchange;

typedef struct parcel {
    uint32_t size, with;
} parcel;

static void check_parcel(parcel *parcel)
{
    REQUIRE(is_filled(parcel + 1, parcel->size, (unsigned char)parcel->with));
}

/* Puts new blocks in random places and frees those that were there, which others have put. */
static int hand_over(td_call *call)
{
    exchange *table = td_arg(call, uintptr_t) ? (exchange *)td_arg(call, uintptr_t) : NULL;
    uint64_t state = (uint64_t)getpid() * 40503 + 12345 + (uintptr_t)&state;
    for (int i = 0; i < table->rounds; i++) {
        size_t size = some_size(&state) / 4;
        parcel *new = td_shared_alloc(sizeof *new + size);
        REQUIRE(new);
        *new = (parcel){ (uint32_t)size, (uint32_t)i & 0xff };
        fill(new + 1, size, (unsigned char)i);
        parcel *old = (parcel *)atomic_exchange(&table->place[next_random(&state) % 64], (uintptr_t) new);
        if (old)
            check_parcel(old);
        td_shared_free(old);
    }
    return 0;
}

TEST_MODES_LIMIT(freed_by_others, 100)
{
    enum { WORKERS = 4 };
    td_worker *w[WORKERS];
    exchange *table = td_shared_calloc(1, sizeof *table);
    table->rounds = 20000 / thrift();
    for (int i = 0; i < WORKERS; i++) {
        w[i] = WORKER(NEW(.target = hand_over, .args = TD_ARG(uintptr_t, (uintptr_t)table)));
        REQUIRE_OK(td_start(w[i]));
    }
    for (int i = 0; i < WORKERS; i++) {
        REQUIRE_OK(td_join(w[i]));
        CHECK_INT(td_result_code(w[i]), 0);
        td_free(w[i]);
    }
    for (int i = 0; i < 64; i++) {
        if (table->place[i])
            check_parcel((parcel *)table->place[i]);
        td_shared_free((void *)table->place[i]);
    }
    td_shared_free(table);
    CHECK_OK(td_shared_check());
    CHECK_INT(counts().blocks, 0);
}

static int inner(td_call *call)
{
    char *at = (char *)td_arg(call, uintptr_t);
    strcat(at, " nested");
    td_shared_free(td_shared_alloc(100));
    return td_return(call, uintptr_t, (uintptr_t)td_shared_realloc(at, 100000));
}

static int outer(td_call *call)
{
    char *at = (char *)td_arg(call, uintptr_t);
    strcat(at, " worker");
    td_worker *w = td_process(.target = inner, .args = TD_ARG(uintptr_t, (uintptr_t)at));
    uintptr_t moved = 0;
    if (td_start(w) < 0 || td_join(w) < 0 || td_result(w, uintptr_t, &moved) < 0)
        return 1;
    td_free(w);
    return td_return(call, uintptr_t, moved);
}

/* A block from the program, changed by a worker, moved by the worker's worker, freed by the program. */
TEST_METHODS(nested_workers)
{
    char *at = td_shared_alloc(50);
    strcpy(at, "program");
    td_worker *w = WORKER(NEW(.target = outer, .args = TD_ARG(uintptr_t, (uintptr_t)at)));
    uintptr_t moved;
    REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_join(w));
    REQUIRE_OK(td_result(w, uintptr_t, &moved));
    CHECK_STR((char *)moved, "program worker nested");
    td_shared_free((void *)moved);
    td_free(w);
    CHECK_INT(counts().blocks, 0);
}

/* --- running out ------------------------------------------------------------------------------------------- */

static void little_room(void *unused)
{
    (void)unused;
    struct rlimit limit = { 40 << 20, 40 << 20 };
    setrlimit(RLIMIT_FSIZE, &limit);
}

static void use_up(size_t size)
{
    static void *block[1 << 20];
    size_t n = 0;
    for (; n < sizeof block / sizeof *block; n++) {
        block[n] = td_shared_alloc(size);
        if (!block[n])
            break;
        memset(block[n], 1, size);
    }
    REQUIRE(n < sizeof block / sizeof *block);
    CHECK_INT(td_last_error(), TD_ENOMEM);
    CHECK_HAS(td_last_message(), "out of memory");
    CHECK_OK(td_shared_check());
    /* Nearly all of it has been used, whatever the sizes before. */
    if (!CHECK(n * size > (size_t)20 << 20))
        harness_note("    %zu blocks of %zu bytes", n, size);
    while (n > 0)
        td_shared_free(block[--n]);
}

HELPER(little_heap)
{
    CHECK(counts().limit < 40 << 20);
    for (int round = 0; round < (thrift() > 1 ? 1 : 3); round++) {
        use_up(100000);
        use_up(64);
        use_up(2500);
        use_up(8192);
        use_up(1 << 20);
    }
    CHECK_INT(counts().blocks, 0);
    CHECK_NULL(td_shared_alloc(64 << 20), TD_ENOMEM);
    return harness_failed();
}

/*
 * Older kernels give all pages of a request back if a signal comes, and a timer sends them again and again. Here a
 * filter refuses what takes longer than its interval. Catches: asking for the whole of it for ever.
 */
static void little_time(void *unused)
{
    (void)unused;
    refuse_above(SYS_fallocate, 3, 1 << 20, EINTR);
}

HELPER(interrupted)
{
    char *block = td_shared_alloc(100 << 20);
    REQUIRE(block != NULL);
    block[0] = block[(100 << 20) - 1] = 1;
    CHECK(counts().reserved >= 100 << 20);
    CHECK_OK(td_shared_check());
    return harness_failed(); /* with the block: to give pages back is the same call, which no signal undoes */
}

TEST(interrupted_again_and_again)
{
    helper_options options = { .before = little_time };
    if (td__memory_available() < (size_t)1 << 30)
        SKIP("less than 1 GiB of memory is left");
    CHECK_INT(helper_run(&options, "interrupted", NULL), 0);
}

/* A small region is used up by blocks of any size, says so, and is whole again when they are freed. */
TEST_LIMIT(exhaustion, 100)
{
    helper_options options = { .before = little_room };
    CHECK_INT(helper_run(&options, "little_heap", NULL), 0);
}

#if defined(TD_FAULTS) && TD_FAULTS
/* --- a slab that becomes another one's ----------------------------------------------------------------------- */

enum { BLOCK = 8192, IN_SLAB = 8, TAKEN, WRONG_SHARD, AT_FIRST, AT_SECOND, FREED, GO_FIRST, GO_SECOND, LAST_EVENT };

typedef struct late_free {
    void *block[IN_SLAB + 1];
    long first, second; /* at which steps it stops */
} late_free;

static late_free *late;

static void stop_second(void)
{
    event_set(AT_SECOND);
    event_wait(GO_SECOND);
}

static void stop_first(void)
{
    event_set(AT_FIRST);
    event_wait(GO_FIRST);
    td__call_at_step(late->second, stop_second);
}

/* In another shard than the program. */
static void *frees_late(void *programs_shard)
{
    bool wrong = (td__party_self()->index & 1) == *(unsigned *)programs_shard;
    for (int i = 0; i <= IN_SLAB && !wrong; i++)
        late->block[i] = td_shared_alloc(BLOCK);
    event_set(wrong ? WRONG_SHARD : TAKEN);
    if (wrong) {
        event_wait(FREED); /* and so leaves this index to nobody */
        return NULL;
    }
    td__call_at_step(late->first, stop_first);
    td_shared_free(late->block[0]);
    td__call_at_step(0, NULL);
    event_set(FREED);
    return NULL;
}

static td__shard *shard_of_program(void)
{
    return &td__heap_here.heap->shard[td__party_self()->index & 1];
}

/* The slab has been given back and is made anew, in our shard, all but one of its blocks taken: as by somebody who has
 * just freed that one, and not come to put the slab on its list yet. Whoever else does now, does it without the latch,
 * which we have. */
static void becomes_ours(td__slab *slab)
{
    td__party *me = td__party_self();
    void *block[IN_SLAB + 1];
    for (int i = 0; i <= IN_SLAB; i++)
        REQUIRE((block[i] = td_shared_alloc(BLOCK)) != NULL);
    bool same = &td__heap_here.heap->shard[td__slab_shard(slab)] == shard_of_program() &&
                td__load_relaxed(&slab->state) == TD__SLAB_FULL;
    if (same)
        __atomic_fetch_xor((uint64_t *)(uintptr_t)&slab->freed[0], 1, __ATOMIC_SEQ_CST);
    td__section_enter(me, &shard_of_program()->latch);
    uint32_t first = shard_of_program()->first[TD__CLASSES - 1];
    event_set(GO_SECOND);
    event_wait(FREED);
    CHECK_INT(shard_of_program()->first[TD__CLASSES - 1], first);
    td__section_leave(me, &shard_of_program()->latch);
    if (same)
        __atomic_fetch_xor((uint64_t *)(uintptr_t)&slab->freed[0], 1, __ATOMIC_SEQ_CST);
    for (int i = 0; i <= IN_SLAB; i++)
        td_shared_free(block[i]);
}

/* Returns whether it was stopped for the second time. */
static bool free_late(long first, long second)
{
    pthread_t thread[8];
    int threads = 0;
    unsigned ours = td__party_self()->index & 1;
    *late = (late_free){ .first = first, .second = second };
    td__slabs_trim(td__party_self()); /* so that the first pages are those of the slab, and taken again first */
    for (int n = TAKEN; n < LAST_EVENT; n++)
        page->event[n] = 0;
    for (; threads < 8 && !event_is_set(TAKEN); threads++) {
        page->event[WRONG_SHARD] = 0;
        REQUIRE_INT(pthread_create(&thread[threads], NULL, frees_late, &ours), 0);
        WAIT_UNTIL(event_is_set(TAKEN) || event_is_set(WRONG_SHARD), 20);
    }
    REQUIRE(event_is_set(TAKEN));
    td__slab *slab = td__slab_of_page(td__page_of(late->block[0]));
    const td__latch *latch = &td__heap_here.heap->shard[!ours].latch;
    WAIT_UNTIL(event_is_set(AT_FIRST) || event_is_set(FREED), 20);
    bool free_to_go = !event_is_set(FREED) && td__load_relaxed(&latch->owner) == 0, stopped = false;
    for (int i = 1; i < IN_SLAB && free_to_go; i++)
        td_shared_free(late->block[i]); /* the last one gives the slab back, if the first is free */
    bool retired = td__load_relaxed(&slab->state) == TD__SLAB_HELD;
    event_set(GO_FIRST);
    WAIT_UNTIL(event_is_set(AT_SECOND) || event_is_set(FREED), 20);
    stopped = event_is_set(AT_SECOND);
    if (stopped && retired)
        becomes_ours(slab);
    event_set(GO_SECOND);
    event_wait(FREED);
    while (threads > 0)
        pthread_join(thread[--threads], NULL);
    for (int i = free_to_go ? IN_SLAB : 1; i <= IN_SLAB; i++)
        td_shared_free(late->block[i]);
    return stopped;
}

/* Who has freed a block of a full slab puts it back on its list. Stopped before he does, he may find that the slab has
 * been given back since, and stopped once more, that it is another shard's, and full, too. Catches: a slab that is put
 * on the list of a shard without its latch. */
TEST_LIMIT(a_slab_that_becomes_another_shards, 100)
{
    late_free place;
    late = &place;
    td__heap_here.shards = 2;
    long pairs = 0;
    for (long first = 1; first < 12 && !harness_failed(); first++)
        for (long second = 1; second < 30 && free_late(first, second) && !harness_failed(); second += thrift())
            pairs++;
    harness_note("    %ld pairs of steps", pairs);
    CHECK(pairs > 10);
    CHECK_OK(td_shared_check());
    CHECK_INT(counts().blocks, 0);
}

/* The system refuses the n-th request: an error, nothing lost, and the next one works. */
TEST(refused_pages)
{
    static const size_t sizes[] = { 64, 5000, 100000, 9 << 20 };
    td_shared_free(td_shared_alloc(1));
    for (size_t i = 0; i < 4; i++)
        for (long n = 1;; n++) {
            td__slabs_trim(td__party_self());
            td__fault_arm(n);
            void *at = td_shared_alloc(sizes[i]);
            bool fired = td__fault_fired();
            td__fault_disarm();
            if (!at)
                CHECK_INT(td_last_error(), TD_ENOMEM);
            CHECK(at || fired);
            td_shared_free(at);
            CHECK_OK(td_shared_check());
            CHECK_INT(counts().blocks, 0);
            if (!fired)
                break;
            REQUIRE(n < 20);
        }
}

/* Pages whose memory the system has refused are asked for again when they are taken again. Catches: a block that is
 * given out without memory, so that its user is killed by SIGBUS and not told of TD_ENOMEM. */
TEST(refused_memory_is_asked_for_again)
{
    size_t size = 100 * TD__PAGE;
    bool fired = true;
    td_shared_free(td_shared_alloc(1));
    for (long n = 1; fired; n++) {
        size_t before = counts().reserved;
        td__fault_arm(n);
        void *at = td_shared_alloc(size);
        fired = td__fault_fired();
        td__fault_disarm();
        CHECK(at || fired);
        if (!at)
            at = td_shared_alloc(size);
        REQUIRE(at != NULL); /* it stays, so that the next one has new pages */
        CHECK(counts().reserved >= before + size);
        REQUIRE(n < 20);
    }
}
#endif

/* --- misuse ------------------------------------------------------------------------------------------------ */

HELPER(free_this)
{
    char *block = td_shared_alloc(100), *large = td_shared_alloc(100000);
    static int outside;
    td_shared_free(td_shared_alloc(100));
    switch (atoi(argv[1])) {
    case 0:
        td_shared_free(block);
        td_shared_free(block);
        break;
    case 1:
        td_shared_free(large);
        td_shared_free(large);
        break;
    case 2:
        td_shared_free(block + 16);
        break;
    case 3:
        td_shared_free(large + 4096);
        break;
    case 4:
        td_shared_free(&outside);
        break;
    case 5:
        td_shared_free((void *)(uintptr_t)8);
        break;
    case 6:
        td_shared_free(td__the_region);
        break;
    case 7:
        td_shared_free(td__heap_here.map);
        break;
    case 8:
        td_shared_free((char *)td__the_region + td__the_region->size - 4096);
        break;
    case 9:
        td_shared_free((void *)((uintptr_t)td__the_region + td__the_region->size));
        break;
    case 10:
        td_shared_free(block);
        (void)!td_shared_realloc(block, 10);
        break;
    case 11:
        (void)!td_shared_realloc(large + 16, 10);
        break;
    }
    (void)argc;
    return 0;
}

TEST(bad_pointers)
{
    for (int which = 0; which < 12; which++) {
        char number[16], *said;
        snprintf(number, sizeof number, "%d", which);
        int status = helper_output(&said, NULL, "free_this", number, NULL);
        if (!CHECK_INT(status, -SIGABRT))
            harness_note("    misuse %d", which);
        CHECK_HAS(said, which < 10 ? "tandem: td_shared_free: " : "tandem: td_shared_realloc: ");
        CHECK_HAS(said, "freed");
        free(said);
    }
}

HELPER(without_init)
{
    CHECK_NULL(td_shared_alloc(1), TD_EINIT);
    CHECK_NULL(td_shared_calloc(1, 1), TD_EINIT);
    CHECK_NULL(td_shared_realloc(NULL, 1), TD_EINIT);
    CHECK_NULL(td_shared_alloc_aligned(64, 1), TD_EINIT);
    CHECK_ERROR(td_shared_check(), TD_EINIT);
    td_shared_counts c;
    CHECK_ERROR(td_shared_stats(&c), TD_EINIT);
    CHECK(!td_shared_is(&c));
    CHECK_INT(td_shared_size(&c), 0);
    td_shared_free(NULL);
    CHECK_OK(td_init());
    void *at = td_shared_alloc(1);
    CHECK(at);
    td_shared_free(at);
    (void)argc;
    (void)argv;
    return harness_failed();
}

INIT(no_init)
{
}

TEST(before_init)
{
    helper_options options = { .init = "no_init" };
    CHECK_INT(helper_run(&options, "without_init", NULL), 0);
    CHECK_ERROR(td_shared_stats(NULL), TD_EINVAL);
}
