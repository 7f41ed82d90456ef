/* SPDX-License-Identifier: MIT */
/*
 * Deaths inside the allocator: a worker is killed at each step of each operation in turn. Afterwards the heap is in
 * order, nobody is blocked, and every block is either free or one that the program had been given.
 */
#include "repairs.h"
#include <tandem/shared.h>

#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "memory/heap.h"

#if defined(TD_FAULTS) && TD_FAULTS

enum { SLOTS = 40 };

/* In the shared heap: what the worker is to do, and what it has. */
typedef struct job {
    int what;
    long step;
    bool kill_spawner;
    _Atomic long steps; /* that it took, if it came through */
    void *block[SLOTS];
} job;

typedef struct operation {
    const char *name;
    void (*prepare)(job *); /* in the program */
    void (*run)(job *);     /* in the worker */
} operation;

/* --- operations -------------------------------------------------------------------------------------------- */

static void nothing(job *job)
{
    (void)job;
}

static void alloc_small(job *job)
{
    job->block[0] = td_shared_alloc(64);
}

static void alloc_large(job *job)
{
    job->block[0] = td_shared_alloc(100000);
}

static void alloc_huge(job *job)
{
    job->block[0] = td_shared_alloc(9 << 20);
}

static void alloc_zeroed(job *job)
{
    job->block[0] = td_shared_calloc(3, 3000);
}

/* More than a slab has: one becomes full and leaves its list, another is made. */
static void alloc_many(job *job)
{
    for (int i = 0; i < 10; i++)
        job->block[i] = td_shared_alloc(8192);
}

static void free_all(job *job)
{
    for (int i = 0; i < SLOTS; i++) {
        td_shared_free(job->block[i]);
        job->block[i] = NULL;
    }
}

static void free_first(job *job)
{
    td_shared_free(job->block[0]);
    job->block[0] = NULL;
}

/* All but one of the blocks of a slab that has left its list and come back; another slab is on it too. */
static void all_but_one(job *job)
{
    alloc_many(job);
    for (int i = 1; i < 8; i++) {
        td_shared_free(job->block[i]);
        job->block[i] = NULL;
    }
}

/* A long free run on both sides of a block, so that it merges with both. */
static void between(job *job)
{
    for (int i = 0; i < 3; i++)
        job->block[i] = td_shared_alloc(60000 + (size_t)i * 30000);
    void *middle = job->block[1];
    td_shared_free(job->block[0]);
    td_shared_free(job->block[2]);
    job->block[1] = job->block[2] = NULL;
    job->block[0] = middle;
}

static void resize_to(job *job, size_t size)
{
    void *moved = td_shared_realloc(job->block[0], size);
    if (moved)
        job->block[0] = moved;
}

static void grow_small(job *job)
{
    resize_to(job, 5000);
}

static void grow_to_huge(job *job)
{
    resize_to(job, 10 << 20);
}

static void cut(job *job)
{
    resize_to(job, 3 << 20);
}

static void shrink_to_small(job *job)
{
    resize_to(job, 20);
}

static const operation operations[] = {
    { "allocates a small block, the first of its size", nothing, alloc_small },
    { "allocates small blocks, more than a slab has", nothing, alloc_many },
    { "allocates a run of pages", nothing, alloc_large },
    { "allocates a huge block", nothing, alloc_huge },
    { "allocates zeroed", nothing, alloc_zeroed },
    { "frees a small block", alloc_small, free_first },
    { "frees a block of a full slab", alloc_many, free_first },
    { "frees the last block of a slab", all_but_one, free_first },
    { "frees many", alloc_many, free_all },
    { "frees a run of pages", alloc_large, free_first },
    { "frees a run between free ones", between, free_first },
    { "frees a huge block", alloc_huge, free_first },
    { "makes a small block larger", alloc_small, grow_small },
    { "makes a small block a huge one", alloc_small, grow_to_huge },
    { "makes a run a huge one", alloc_large, grow_to_huge },
    { "cuts a huge block", alloc_huge, cut },
    { "makes a huge block a small one", alloc_huge, shrink_to_small },
};
enum { OPERATIONS = sizeof operations / sizeof *operations };

/* --- the worker -------------------------------------------------------------------------------------------- */

static int do_job(td_call *call)
{
    job *job = *(struct job *const *)td_arg_bytes(call, NULL);
    td__party_self();
    td__kill_at_step(job->step);
    if (job->kill_spawner)
        kill(getppid(), SIGKILL); /* and so this one too, somewhere in what follows, if not at the step before that */
    operations[job->what].run(job);
    atomic_store(&job->steps, td__kill_at_step(0));
    return 0;
}

/* --- what is left ------------------------------------------------------------------------------------------ */

static bool is_named(pid_t pid)
{
    uint32_t top = td__load_acquire(&td__the_region->party_top);
    for (uint32_t i = 1; i < top; i++)
        if (((uint32_t)td__load_acquire(td__party_entry(i)) & 0x7fffffff) == (uint32_t)pid)
            return true;
    return false;
}

/* Runs and slabs that nobody has, and that would stay so. */
static size_t lost(void)
{
    size_t count = 0;
    for (uint32_t page = 1, length; page < td__heap_top(); page += length) {
        td__page_meaning tag;
        REQUIRE(td__page_read(page, &tag));
        length = tag.value;
        count += tag.kind == TD__GOING || tag.kind == TD__COMING;
        if (tag.kind != TD__SLAB)
            continue;
        const td__slab *slab = td__slab_of_page(page);
        uint32_t blocks = td__classes[td__slab_class(slab)].blocks, taken = 0;
        length = td__classes[td__slab_class(slab)].pages;
        for (uint32_t i = 0; i < blocks; i++)
            taken += td__slab_taken(slab, (int)i);
        count += slab->state == TD__SLAB_HELD || (slab->state == TD__SLAB_FULL && taken < blocks);
    }
    return count;
}

static size_t blocks(void)
{
    td_shared_counts counts;
    REQUIRE_OK(td_shared_stats(&counts));
    return counts.blocks;
}

/* Nothing is left of the job but itself. */
static bool settled(job *job, const char *name, long step)
{
    bool good = CHECK_OK(td_shared_check());
    good &= CHECK_INT(lost(), 0);
    for (int i = 0; i < SLOTS; i++)
        if (td_shared_size(job->block[i]) > 0)
            td_shared_free(job->block[i]);
    good &= CHECK_INT(blocks(), 1);
    good &= CHECK_OK(td_shared_check());
    if (!good)
        harness_note("    %s, killed at step %ld", name, step);
    return good;
}

static void prepare(job *job, int what, long step)
{
    memset(job, 0, sizeof *job);
    job->what = what;
    job->step = step;
    td__slabs_trim(td__party_self());
    operations[what].prepare(job);
    for (int i = 0; i < SLOTS; i++)
        if (job->block[i])
            memset(job->block[i], 5, 20);
}

/* Whatever became of a resized block, one of the two is there. */
static void check_bytes(const job *job)
{
    if (operations[job->what].run == operations[12].run || operations[job->what].run == grow_to_huge)
        for (int i = 0; i < 20 && td_shared_size(job->block[0]); i++)
            REQUIRE_INT(((char *)job->block[0])[i], 5);
}

static bool run(const mode *how, job *job)
{
    struct job *address = job;
    td_worker *w = JOINED(NEW(.target = do_job, .args = TD_BYTES(&address, sizeof address)));
    bool through = td_outcome(w) == TD_RETURNED;
    if (!through)
        CHECK_INT(td_exitcode(w), -SIGKILL);
    pid_t pid = td_pid(w);
    td_free(w);
    WAIT_UNTIL(!is_named(pid), 10);
    return through;
}

/* Each operation, killed at step 1, 2, 3... until it comes through. */
TEST_METHODS_LIMIT(killed_at_each_step, 300)
{
    job *job = td_shared_calloc(1, sizeof *job);
    long all = 0;
    for (int what = 0; what < OPERATIONS && !harness_failed(); what++)
        for (long step = 1;; step += thrift()) {
            prepare(job, what, step);
            bool through = run(how, job);
            check_bytes(job);
            all++;
            if (!settled(job, operations[what].name, step) || through)
                break;
            REQUIRE(step < 5000);
        }
    harness_note("    %ld deaths", all);
    td_shared_free(job);
}

/*
 * Between a death and its repair others go on: what they take meanwhile is theirs, though the dead one may have been
 * about to take the same. All in one shard, so that they do meet; and a child that the library does not know of, so
 * that nobody repairs after it but this test.
 */
TEST_LIMIT(repair_spares_others, 150)
{
    static const int what[] = { 0, 1, 2, 3, 6, 7, 11 };
    static const size_t sizes[] = { 64, 8192, 8192, 8192, 8192, 8192, 8192, 8192, 8192, 8192, 100000, 5000 };
    enum { TAKEN = sizeof sizes / sizeof *sizes };
    td__heap_here.shards = 1;
    job *job = td_shared_calloc(1, sizeof *job);
    for (int i = 0; i < 7 && !harness_failed(); i++)
        for (long step = 1;; step += thrift()) {
            void *taken[TAKEN];
            prepare(job, what[i], step);
            td__party_before_fork();
            pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
            if (pid == 0) {
                td__party_after_fork(true); /* as though somebody watched it */
                td__party_self();
                td__kill_at_step(step);
                operations[what[i]].run(job);
                _exit(0);
            }
            int status;
            REQUIRE_INT(waitpid(pid, &status, 0), pid);
            td__parties_died(pid);
            for (int t = 0; t < TAKEN; t++)
                REQUIRE((taken[t] = td_shared_alloc(sizes[t])) != NULL);
            REQUIRE(td__parties_repair());
            CHECK(!is_named(pid));
            for (int t = 0; t < TAKEN; t++) {
                CHECK(td_shared_size(taken[t]) >= sizes[t]);
                if (td_shared_size(taken[t]) > 0)
                    td_shared_free(taken[t]);
            }
            if (!settled(job, operations[what[i]].name, step) || status == 0)
                break;
        }
    td_shared_free(job);
}

/* Pages that a dead one has had in its hands, and for which it had not asked the system yet, have memory when they are
 * given out again. */
TEST_LIMIT(memory_of_new_pages, 150)
{
    const size_t size = 100 * TD__PAGE;
    td_shared_counts before, after;
    bool killed = true;
    td_shared_free(td_shared_alloc(1));
    for (long step = 1; killed && !harness_failed(); step++) {
        REQUIRE_OK(td_shared_stats(&before));
        pid_t pid = ruin_child();
        if (pid == 0) {
            td__party_self();
            td__kill_at_step(step);
            td_shared_alloc(size);
            ruin_exit(0);
        }
        killed = ruin_end(pid);
        td__parties_died(pid);
        REQUIRE(td__parties_repair());
        REQUIRE(td_shared_alloc(size) != NULL); /* it stays, so that the next ones are new */
        REQUIRE_OK(td_shared_stats(&after));
        if (!CHECK(after.reserved >= before.reserved + size))
            harness_note("    killed at step %ld", step);
        CHECK_INT(lost(), 0);
        CHECK_OK(td_shared_check());
    }
}

/* Killed at this step, and who repairs after it at that one of his. Returns whether the second was killed. */
static bool kill_twice(job *job, int what, long step, long repair_step, bool *through)
{
    prepare(job, what, step);
    pid_t pid = ruin_child();
    if (pid == 0) {
        td__party_self();
        td__kill_at_step(step);
        operations[what].run(job);
        ruin_exit(0);
    }
    *through = !ruin_end(pid);
    bool killed = ruin_repair(pid, repair_step);
    CHECK(!is_named(pid));
    check_bytes(job);
    settled(job, operations[what].name, step);
    return killed;
}

/* Catches: a block that a repair frees, and the next one once more, or that neither does. */
TEST_LIMIT(repairer_killed_at_each_step, 200)
{
    job *job = td_shared_calloc(1, sizeof *job);
    for (int what = 0; what < OPERATIONS && !harness_failed(); what++) {
        long rungs = 0, step = 1;
        for (bool through = false; !through && !harness_failed(); step += 7 * thrift())
            for (long repair_step = 1; kill_twice(job, what, step, repair_step, &through) && !harness_failed();
                 repair_step += thrift())
                rungs++;
        harness_note("%s: %ld steps, %ld pairs", operations[what].name, step - 1, rungs);
        CHECK(rungs > 0);
    }
    td_shared_free(job);
}

/* The spawner, which would repair, is killed together with its worker: the program does it. */
TEST_LIMIT(spawner_killed_too, 100)
{
    static const int what[] = { 1, 6, 7, 11, 13 };
    job *job = td_shared_calloc(1, sizeof *job);
    for (int i = 0; i < 5; i++)
        for (long step = 1; step < 120 && !harness_failed(); step += 13) {
            prepare(job, what[i], step);
            job->kill_spawner = true;
            struct job *address = job;
            td_worker *w = JOINED(td_process(.target = do_job, .args = TD_BYTES(&address, sizeof address)));
            pid_t pid = td_pid(w);
            (void)td_outcome(w);
            td_free(w);
            WAIT_UNTIL(!is_named(pid), 10);
            settled(job, operations[what[i]].name, step);
        }
    td_shared_free(job);
}

/* --- many at once ------------------------------------------------------------------------------------------ */

enum { OWN = 64, LIVES = 120, AT_ONCE = 3 };

/* What one worker has. Bit 0: about to be freed. */
typedef struct diary {
    uint64_t seed;
    long step; /* 0: it is killed from outside */
    int started;
    _Atomic uintptr_t block[OWN];
} diary;

static int live_and_die(td_call *call)
{
    diary *diary = *(struct diary *const *)td_arg_bytes(call, NULL);
    uint64_t state = diary->seed;
    atomic_store((_Atomic int *)&diary->started, 1);
    event_add(1);
    td__kill_at_step(diary->step);
    for (;;) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        _Atomic uintptr_t *place = &diary->block[state >> 33 & (OWN - 1)];
        size_t size = state >> 40 & 7 ? state >> 45 & 0x1fff : state >> 40 & 0x1ffff;
        void *block = (void *)atomic_load(place);
        if (!block) {
            atomic_store(place, (uintptr_t)td_shared_alloc(size));
        } else {
            atomic_store(place, (uintptr_t)block | 1);
            td_shared_free(block);
            atomic_store(place, 0);
        }
    }
    return 0;
}

static void settle(diary *diary, bool sure)
{
    for (int i = 0; i < OWN; i++) {
        uintptr_t block = atomic_load(&diary->block[i]);
        if (block == 0 || (block & 1) == sure)
            continue;
        /* One that was about to be freed is there or not; by now nobody else has the address. */
        size_t size = td_shared_size((void *)(block & ~(uintptr_t)1));
        if (sure)
            REQUIRE(size > 0);
        if (size > 0)
            td_shared_free((void *)(block & ~(uintptr_t)1));
    }
}

/* How many blocks are left that nobody knows. */
static size_t many_deaths(const mode *how, bool from_outside)
{
    diary *diaries = td_shared_calloc(LIVES, sizeof *diaries);
    td_worker *w[AT_ONCE];
    uint64_t state = 99;
    for (int life = 0; life < LIVES && !harness_failed(); life += AT_ONCE) {
        pid_t pid[AT_ONCE];
        for (int i = 0; i < AT_ONCE; i++) {
            diary *diary = &diaries[life + i];
            state = state * 6364136223846793005u + 1442695040888963407u;
            diary->seed = state;
            diary->step = from_outside ? 0 : (long)(state >> 33) % 30000 + 1;
            w[i] = WORKER(NEW(.target = live_and_die, .args = TD_BYTES(&diary, sizeof diary)));
            REQUIRE_OK(td_start(w[i]));
        }
        event_wait_count(1, (uint32_t)(life + AT_ONCE));
        for (int i = AT_ONCE; i-- > 0;) {
            if (from_outside)
                CHECK_OK(td_kill(w[i]));
            CHECK_OK(td_join(w[i]));
            CHECK_INT(td_exitcode(w[i]), -SIGKILL);
            pid[i] = td_pid(w[i]);
            td_free(w[i]);
        }
        for (int i = 0; i < AT_ONCE; i++)
            WAIT_UNTIL(!is_named(pid[i]), 10);
        CHECK_OK(td_shared_check());
    }
    for (int life = 0; life < LIVES; life++)
        settle(&diaries[life], true);
    for (int life = 0; life < LIVES; life++)
        settle(&diaries[life], false);
    CHECK_INT(lost(), 0);
    CHECK_OK(td_shared_check());
    td_shared_free(diaries);
    return blocks();
}

/* Workers allocate and free beside each other and are killed at some step; in the end every block is known. */
TEST_METHODS_LIMIT(many_killed_at_steps, 200)
{
    CHECK_INT(many_deaths(how, false), 0);
}

/* The same, killed at any instruction. One that dies between the return of td_shared_alloc and its own note of the
 * address leaves a block that only it knew. */
TEST_METHODS_LIMIT(many_killed_anywhere, 200)
{
    CHECK(many_deaths(how, true) <= LIVES);
}
#endif
