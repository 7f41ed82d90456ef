/* SPDX-License-Identifier: MIT */
/* Read-write locks: many readers or one writer, in order of arrival, and nothing left of those who die. */
#include "monitors.h"
#include "refuse.h"

#include <pthread.h>
#include <sys/wait.h>

#include "sync/rwlock.h"

enum { HAS, END };

/* What a worker does with it, in `what`. */
enum { READS, WRITES, READS_TWICE, DOWNGRADES };

typedef struct table {
    td_rwlock lock;
    pthread_rwlock_t theirs;
    bool is_pthread;
    int rounds, what;
    _Atomic int order[64], count, reading, writing, got[16], go[16];
    int first, second; /* guarded by the lock: equal but while somebody writes */
    td_cancel cancel;
} table;

static int waiters_of(const td_rwlock *lock)
{
    int count = 0;
    const td__rwlock *l = td__rwlock_inside(lock);
    for (uint16_t at = l->waiters.first; at && count < 1000; at = td__party_at(at)->next)
        count++;
    /* A writer that waits for readers by their records has closed the gate, but is not on the list. */
    return count + (l->writer && td__rwlock_bits(l) & TD__RW_DRAINS);
}

/* Does a writer sleep until the readers have left? */
static bool drain_sleeps(const td_rwlock *lock)
{
    return td__rwlock_bits(td__rwlock_inside(lock)) & TD__RW_ASLEEP;
}

static int waiters(const table *t)
{
    return waiters_of(&t->lock);
}

/* Held by nobody, waited for by nobody, and it works: in both ways, at once. */
static void is_free(table *t)
{
    UNTIL(td_rwlock_readers(&t->lock) == 0 && !td_rwlock_writing(&t->lock));
    CHECK_INT(waiters(t), 0);
    CHECK(td_rwlock_try_acquire_write(&t->lock) >= 0);
    td_rwlock_release(&t->lock);
    CHECK_INT(td_rwlock_try_acquire_read(&t->lock), 0);
    td_rwlock_release(&t->lock);
}

static void table_free(const mode *how, table *t)
{
    is_free(t);
    td_rwlock_destroy(&t->lock);
    object_free(how, t);
}

/* --- one thread -------------------------------------------------------------------------------------------- */

static void uses_of_one_thread(td_rwlock *lock)
{
    CHECK_INT(td_rwlock_acquire_read(lock), 0);
    CHECK_INT(td_rwlock_acquire_read(lock), 0);
    CHECK_INT(td_rwlock_try_acquire_read(lock), 0);
    CHECK_INT(td_rwlock_readers(lock), 3);
    CHECK(td_rwlock_owned_read(lock) && !td_rwlock_owned_write(lock) && !td_rwlock_writing(lock));
    CHECK_ERROR(td_rwlock_acquire_write(lock), TD_EDEADLOCK);
    CHECK_HAS(td_last_message(), "for reading already");
    CHECK_ERROR(td_rwlock_try_acquire_write(lock), TD_EDEADLOCK);
    for (int i = 0; i < 3; i++)
        td_rwlock_release(lock);
    CHECK(!td_rwlock_owned_read(lock));

    CHECK_INT(td_rwlock_acquire_write(lock), 0);
    CHECK(td_rwlock_owned_write(lock) && td_rwlock_writing(lock) && !td_rwlock_owned_read(lock));
    CHECK_ERROR(td_rwlock_acquire_write(lock), TD_EDEADLOCK);
    CHECK_ERROR(td_rwlock_acquire_read_for(lock, LONG), TD_EDEADLOCK);
    CHECK_HAS(td_last_message(), "for writing already");
    td_rwlock_downgrade(lock);
    CHECK(td_rwlock_owned_read(lock) && !td_rwlock_owned_write(lock));
    CHECK_INT(td_rwlock_readers(lock), 1);
    td_rwlock_release(lock);

    /* Held among others, released in another order. */
    td_lock other = { 0 };
    td_rwlock more[3] = { { { 0 } }, { { 0 } }, { { 0 } } };
    CHECK_INT(td_rwlock_acquire_write(lock), 0);
    CHECK_INT(td_rwlock_acquire_read(&more[0]), 0);
    CHECK_INT(td_lock_acquire(&other), 0);
    CHECK_INT(td_rwlock_acquire_write(&more[1]), 0);
    CHECK_INT(td_rwlock_acquire_read(&more[0]), 0);
    td_rwlock_release(&more[0]);
    td_rwlock_release(lock);
    td_lock_release(&other);
    td_rwlock_release(&more[0]);
    td_rwlock_release(&more[1]);
    CHECK_INT(td_rwlock_readers(&more[0]), 0);
    CHECK(!td_rwlock_writing(&more[1]) && !td_rwlock_writing(lock));
}

TEST_PLACES(uses_of_one_thread)
{
    table *t = object_new(how, sizeof *t);
    uses_of_one_thread(&t->lock);
    table_free(how, t);
}

TEST(bad_input)
{
    CHECK_ERROR(td_rwlock_acquire_read(NULL), TD_EINVAL);
    CHECK_ERROR(td_rwlock_acquire_write(NULL), TD_EINVAL);
    CHECK_ERROR(td_rwlock_try_acquire_read(NULL), TD_EINVAL);
    CHECK_INT(td_rwlock_readers(NULL), 0);
    CHECK(!td_rwlock_writing(NULL) && !td_rwlock_owned_read(NULL) && !td_rwlock_owned_write(NULL));
    td_rwlock_destroy(NULL);
    static td_rwlock lock;
    int count = 0;
    while (td_rwlock_acquire_read(&lock) == 0)
        count++;
    CHECK_INT(count, TD__HELD_MAX);
    CHECK_INT(td_last_error(), TD_ETOOBIG);
    while (count-- > 0)
        td_rwlock_release(&lock);
    CHECK_INT(td_rwlock_readers(&lock), 0);
}

static td_rwlock misused;

static void *holds(void *unused)
{
    td_rwlock_acquire_write(&misused);
    event_set(HAS);
    event_wait(END);
    return unused;
}

HELPER(release_free)
{
    td_rwlock_release(&misused);
    return 0;
}

HELPER(release_foreign)
{
    pthread_t thread;
    pthread_create(&thread, NULL, holds, NULL);
    event_wait(HAS);
    td_rwlock_release(&misused);
    return 0;
}

HELPER(release_null)
{
    td_rwlock_release(NULL);
    return 0;
}

HELPER(downgrade_read)
{
    td_rwlock_acquire_read(&misused);
    td_rwlock_downgrade(&misused);
    return 0;
}

TEST(misuse_aborts_with_a_sentence)
{
    CHECK_ABORTS("release_free", "td_rwlock_release: lock 0x");
    CHECK_ABORTS("release_foreign", "is not held by this thread");
    CHECK_ABORTS("release_null", "td_rwlock_release: the lock is NULL");
    CHECK_ABORTS("downgrade_read", "is not held for writing by this thread");
}

/* --- several ----------------------------------------------------------------------------------------------- */

static int acquire(table *t, bool writes)
{
    return writes ? td_rwlock_acquire_write_for(&t->lock, LONG) : td_rwlock_acquire_read_for(&t->lock, LONG);
}

/* With the numbers from 0. */
static void begin_all(const mode *how, td_target *target, table *t, td_worker **w, int count)
{
    for (int i = 0; i < count; i++)
        w[i] = begin(how, target, t, i);
}

static void end_all(td_worker **w, int count)
{
    for (int i = 0; i < count; i++)
        end_well(w[i]);
}

/* As its number says: the n-th, to read with 2 n, to write with 2 n + 1. Keeps it until it may go on. */
static int comes(td_call *call)
{
    table *t = OBJECT(call);
    int n = NUMBER(call) / 2;
    bool writes = NUMBER(call) % 2;
    CHECK(acquire(t, writes) >= 0);
    CHECK(writes ? td_rwlock_owned_write(&t->lock) : td_rwlock_owned_read(&t->lock));
    t->order[t->count++] = n;
    t->got[n] = 1;
    while (!t->go[n])
        pause_ms(1);
    td_rwlock_release(&t->lock);
    return 0;
}

/* Readers that stand together are let in together, writers alone, nobody overtakes: w rr w rrr. */
TEST_PLACES(in_order_of_arrival)
{
    static const char line[] = "rwrrwrrrw";
    enum { COUNT = sizeof line - 1 };
    table *t = object_new(how, sizeof *t);
    td_worker *w[COUNT];
    for (int i = 0; i < COUNT; i++) {
        w[i] = begin(how, comes, t, i * 2 + (line[i] == 'w'));
        if (i == 0)
            UNTIL(t->got[0]);
        else
            UNTIL(waiters(t) == i);
    }
    CHECK_ERROR(td_rwlock_try_acquire_read(&t->lock), TD_EBUSY);
    CHECK(strstr(td_last_message(), "td_rwlock_try_acquire_read") != NULL);
    CHECK_ERROR(td_rwlock_try_acquire_write(&t->lock), TD_EBUSY);
    CHECK(strstr(td_last_message(), "td_rwlock_try_acquire_write") != NULL);
    for (int i = 0; i < COUNT;) {
        int end = i + 1;
        while (line[i] == 'r' && line[end] == 'r')
            end++;
        for (int k = i; k < end; k++)
            UNTIL(t->got[k]);
        CHECK_INT(waiters(t), COUNT - end);
        CHECK_INT(td_rwlock_readers(&t->lock), line[i] == 'r' ? end - i : 0);
        for (; i < end; i++)
            t->go[i] = 1;
    }
    end_all(w, COUNT);
    table_free(how, t);
}

/* More readers than one section lets in. */
TEST_PLACES(a_crowd_of_readers_comes_in_together)
{
    enum { CROWD = 14 };
    table *t = object_new(how, sizeof *t);
    td_worker *w[CROWD];
    CHECK_INT(td_rwlock_acquire_write(&t->lock), 0);
    for (int i = 0; i < CROWD; i++)
        w[i] = begin(how, comes, t, i * 2);
    UNTIL(waiters(t) == CROWD);
    td_rwlock_downgrade(&t->lock);
    UNTIL(td_rwlock_readers(&t->lock) == CROWD + 1);
    for (int i = 0; i < CROWD; i++)
        t->go[i] = 1;
    end_all(w, CROWD);
    td_rwlock_release(&t->lock);
    table_free(how, t);
}

/* A reader asks again while a writer waits for it. */
TEST_PLACES(a_reader_may_read_again_past_a_writer)
{
    table *t = object_new(how, sizeof *t);
    CHECK_INT(td_rwlock_acquire_read(&t->lock), 0);
    td_worker *w = begin(how, comes, t, 1);
    UNTIL(waiters(t) == 1);
    t->go[0] = 1;
    CHECK_INT(td_rwlock_acquire_read_for(&t->lock, LONG), 0);
    CHECK_INT(td_rwlock_try_acquire_read(&t->lock), 0);
    for (int i = 0; i < 3; i++)
        td_rwlock_release(&t->lock);
    end_well(w);
    table_free(how, t);
}

static int gives_up(td_call *call)
{
    table *t = OBJECT(call);
    CHECK_ERROR(td_rwlock_acquire_write_for(&t->lock, td_ms(30)), TD_ETIMEOUT);
    CHECK(!td_rwlock_owned_write(&t->lock));
    return 0;
}

static int is_cancelled(td_call *call)
{
    table *t = OBJECT(call);
    int r = NUMBER(call) ? td_rwlock_acquire_write_with(&t->lock, TD_NO_LIMIT, &t->cancel)
                         : td_rwlock_acquire_read_with(&t->lock, LONG, &t->cancel);
    if (NUMBER(call) || r < 0)
        CHECK_INT(r, TD_ECANCELLED);
    else
        td_rwlock_release(&t->lock); /* the writer before it was the first to see, and let it in */
    return 0;
}

/* A writer that gives up lets those in whom it has kept out. */
TEST_PLACES(giving_up_leaves_nothing_behind)
{
    table *t = object_new(how, sizeof *t);
    CHECK_INT(td_rwlock_acquire_read(&t->lock), 0);
    td_worker *w = begin(how, gives_up, t, 0);
    UNTIL(waiters(t) == 1 || ended(w)); /* it may have given up before we are back */
    td_worker *reader = begin(how, comes, t, 0);
    t->go[0] = 1;
    end_well(w);
    end_well(reader);
    w = begin(how, is_cancelled, t, 1);
    UNTIL(waiters(t) == 1);
    reader = begin(how, is_cancelled, t, 0);
    UNTIL(waiters(t) == 2);
    td_cancel_fire(&t->cancel);
    end_well(w);
    end_well(reader);
    td_rwlock_release(&t->lock);
    table_free(how, t);
}

/* --- stress ------------------------------------------------------------------------------------------------ */

static int stressed_acquire(table *t, bool writes)
{
    if (!t->is_pthread)
        return acquire(t, writes);
    return writes ? pthread_rwlock_wrlock(&t->theirs) : pthread_rwlock_rdlock(&t->theirs);
}

static void stressed_release(table *t)
{
    if (t->is_pthread)
        pthread_rwlock_unlock(&t->theirs);
    else
        td_rwlock_release(&t->lock);
}

static int reads_and_writes(td_call *call)
{
    table *t = OBJECT(call);
    int n = NUMBER(call);
    unsigned seed = (unsigned)n + 7;
    td__shake_steps(n % 2 ? 100 : 0);
    for (int i = 0; i < t->rounds; i++) {
        seed = seed * 1103515245 + 12345;
        bool writes = (seed >> 16) % 4 == 0;
        REQUIRE_INT(stressed_acquire(t, writes), 0);
        if (writes) {
            CHECK_INT(t->writing++, 0);
            CHECK_INT(t->reading, 0);
            t->first++;
            if (n % 2)
                pause_ms(0);
            t->second++;
            t->writing--;
        } else {
            t->reading++;
            int first = t->first;
            if (i % 8 == 0)
                pause_ms(0); /* whoever does not wait for readers comes in now */
            CHECK_INT(t->writing, 0);
            CHECK_INT(first, t->second);
            t->reading--;
        }
        stressed_release(t);
        t->got[n]++;
    }
    return 0;
}

static void stress(const mode *how, td_target *target, table *t, int rounds)
{
    td_worker *w[6];
    t->rounds = rounds / SLOW;
    begin_all(how, target, t, w, 6);
    end_all(w, 6);
    CHECK_INT(t->first, t->second);
}

TEST_PLACES(readers_and_writers)
{
    table *t = object_new(how, sizeof *t);
    stress(how, reads_and_writes, t, 2000);
    table_free(how, t);
}

TEST(readers_and_writers_pthread)
{
    table *t = object_new(&mode_private, sizeof *t);
    t->is_pthread = true;
    pthread_rwlock_init(&t->theirs, NULL);
    stress(&mode_private, reads_and_writes, t, 2000);
    object_free(&mode_private, t);
}

/* Nobody reads by its record there. */
HELPER(reads_and_writes_without_barriers)
{
    static const mode *const modes[] = { &mode_private, &mode_thread, &mode_forkserver, &mode_fork };
    for (size_t i = 0; i < TD__COUNT(modes); i++) {
        table *t = object_new(modes[i], sizeof *t);
        stress(modes[i], reads_and_writes, t, 2000);
        CHECK_INT(td_rwlock_acquire_read(&t->lock), 0);
        CHECK_INT(td__me->reading_top, 0);
        td_rwlock_release(&t->lock);
        table_free(modes[i], t);
    }
    return harness_failed();
}

TEST(barriers_refused)
{
    helper_options options = { .before = refuse_barriers };
    CHECK_INT(helper_run(&options, "reads_and_writes_without_barriers", NULL), 0);
}

static int reads_and_writes_in_a_sandbox(td_call *call)
{
    if (NUMBER(call) % 3 == 0)
        refuse_barriers(NULL);
    return reads_and_writes(call);
}

/* Some are refused them when they, and others, read by their records already. */
TEST_PLACES(barriers_refused_later)
{
    table *t = object_new(how, sizeof *t);
    stress(how, reads_and_writes_in_a_sandbox, t, 500);
    table_free(how, t);
}

/* By `what`: readers, or writers, come without a pause until the other kind has come through fifty times. */
static int comes_until_told(td_call *call)
{
    table *t = OBJECT(call);
    while (!event_is_set(END)) {
        CHECK_INT(acquire(t, t->what == WRITES), 0);
        t->got[NUMBER(call)]++;
        td_rwlock_release(&t->lock);
    }
    return 0;
}

static int comes_sometimes(td_call *call)
{
    table *t = OBJECT(call);
    for (int i = 0; i < 50; i++) {
        CHECK_INT(acquire(t, t->what != WRITES), 0);
        t->count++;
        td_rwlock_release(&t->lock);
    }
    return 0;
}

static void comes_through(const mode *how, int what, int crowd)
{
    table *t = object_new(how, sizeof *t);
    td_worker *w[4];
    t->what = what;
    begin_all(how, comes_until_told, t, w, crowd);
    for (int i = 0; i < crowd; i++)
        UNTIL(t->got[i]);
    end_well(begin(how, comes_sometimes, t, 0));
    event_set(END);
    end_all(w, crowd);
    CHECK_INT(t->count, 50);
    table_free(how, t);
}

/* A stream of readers that never breaks off does not keep a writer out, which pthread's would. */
TEST_PLACES(writers_do_not_starve)
{
    comes_through(how, READS, 4);
}

TEST_PLACES(readers_do_not_starve)
{
    comes_through(how, WRITES, 3);
}

static int acquires_and_releases(td_call *call)
{
    table *t = OBJECT(call);
    REQUIRE(td__party_self()); /* else it comes slowly */
    CHECK_INT(acquire(t, NUMBER(call)), 0);
    t->got[0] = 1;
    td_rwlock_release(&t->lock);
    t->got[1] = 1;
    return 0;
}

/* Catches: a last user who comes and goes, and may free the lock, while the one who has opened the gate for it has not
 * yet let go of the latch: which writes to it. */
TEST_PLACES(who_leaves_last_leaves_after_who_let_it_in)
{
    for (int writes = 0; writes <= 1; writes++) {
        table *t = object_new(how, sizeof *t);
        td__latch *latch = &td__rwlock_inside(&t->lock)->monitor.latch;
        td__section_enter(td__party_self(), latch); /* as at the end of a slow release */
        td_worker *w = begin(how, acquires_and_releases, t, writes);
        /* It has it, in spite of the latch, and then waits for that. */
        UNTIL(t->got[1] || (t->got[0] && td__load_relaxed(&latch->contended) & TD__SLEEPERS));
        CHECK(!t->got[1]);
        td__section_leave(td__party_self(), latch);
        end_well(w);
        CHECK(t->got[1]);
        table_free(how, t);
    }
}

/* Catches: a thread that reads already, and is refused as others are, while a writer drains with the gate open. */
TEST_PLACES(a_reader_may_try_again_past_a_writer_that_came_quickly)
{
    table *t = object_new(how, sizeof *t);
    CHECK_INT(td_rwlock_acquire_read(&t->lock), 0);
    td_worker *w = begin(how, acquires_and_releases, t, 1);
    UNTIL(waiters(t) == 1);
    CHECK_INT(td__rwlock_bits(td__rwlock_inside(&t->lock)) & TD__RW_CLOSED, 0);
    CHECK_INT(td_rwlock_try_acquire_read(&t->lock), 0);
    CHECK_ERROR(td_rwlock_try_acquire_write(&t->lock), TD_EDEADLOCK);
    td_rwlock_release(&t->lock);
    td_rwlock_release(&t->lock);
    end_well(w);
    table_free(how, t);
}

/* --- deaths ------------------------------------------------------------------------------------------------ */

static void *ends_reading(void *argument)
{
    table *t = argument;
    CHECK_INT(td_rwlock_acquire_read(&t->lock), 0);
    CHECK_INT(td_rwlock_acquire_read(&t->lock), 0);
    return NULL;
}

static void *ends_writing(void *argument)
{
    table *t = argument;
    CHECK_INT(td_rwlock_acquire_write(&t->lock), 0);
    return NULL;
}

/* Threads that end with it in their hands. */
static void ended_threads(const mode *how)
{
    table *t = object_new(how, sizeof *t);
    pthread_t thread;
    pthread_create(&thread, NULL, ends_reading, t);
    pthread_join(thread, NULL);
    is_free(t);
    pthread_create(&thread, NULL, ends_writing, t);
    pthread_join(thread, NULL);
    /* Readers are told, until a writer has been. */
    CHECK_INT(td_rwlock_acquire_read(&t->lock), TD_OWNER_DIED);
    CHECK_INT(td_rwlock_try_acquire_read(&t->lock), TD_OWNER_DIED);
    td_rwlock_release(&t->lock);
    td_rwlock_release(&t->lock);
    CHECK_INT(td_rwlock_acquire_write(&t->lock), TD_OWNER_DIED);
    td_rwlock_release(&t->lock);
    CHECK_INT(td_rwlock_acquire_read(&t->lock), 0);
    td_rwlock_release(&t->lock);
    table_free(how, t);
}

TEST(a_thread_that_ends_holding_it)
{
    ended_threads(&mode_private);
    ended_threads(&mode_thread);
}

enum { HELD = 15 }; /* in `got`: the victim has it */

static bool does_write(int what)
{
    return what == WRITES || what == DOWNGRADES;
}

static int holds_and_dies(td_call *call)
{
    table *t = OBJECT(call);
    td__kill_at_step(NUMBER(call));
    int r = acquire(t, does_write(t->what));
    if (t->what == READS_TWICE)
        r |= acquire(t, false);
    t->got[HELD] = 1;
    td__step_point();
    t->got[HELD] = 0;
    if (t->what == DOWNGRADES)
        td_rwlock_downgrade(&t->lock);
    td_rwlock_release(&t->lock);
    if (t->what == READS_TWICE)
        td_rwlock_release(&t->lock);
    td__kill_at_step(0);
    CHECK(r >= 0);
    return 0;
}

/* How a free lock's gate may stand: as at first; for readers by their records; with readers to be counted first. */
enum { FRESH, FOR_READERS, COOL, GATES };

static void set_gate(td_rwlock *lock, int gate)
{
    if (gate == FOR_READERS) {
        CHECK_INT(td_rwlock_acquire_read(lock), 0);
        td_rwlock_release(lock);
        CHECK_INT(td__rwlock_inside(lock)->gate, TD__RW_BY_RECORD);
    } else if (gate == COOL) {
        td__rwlock_inside(lock)->gate = 2 * TD__RW_COOL_ONE;
    }
}

/* Waits for the victim's end: true if it returned, false if it was killed and all of it is repaired. */
static bool survived(td_worker *victim)
{
    pid_t pid = td_pid(victim);
    REQUIRE(pid > 0);
    bool well = returned(victim);
    if (!well)
        repaired(pid);
    return well;
}

/* What the victim of a ladder does, and how it finds the lock. */
static int climbing, gate;

static table *table_to_climb(const mode *how)
{
    table *t = object_new(how, sizeof *t);
    t->what = climbing;
    return t;
}

/* It acquires a free lock and releases it, and dies at each step; nobody waits. */
static bool kill_alone(const mode *how, long n)
{
    table *t = table_to_climb(how);
    set_gate(&t->lock, gate);
    bool well = survived(begin(how, holds_and_dies, t, (int)n));
    CHECK_INT(td_rwlock_readers(&t->lock), 0);
    CHECK(!td_rwlock_writing(&t->lock));
    bool wrote = does_write(climbing);
    int r = td_rwlock_try_acquire_read(&t->lock);
    CHECK(r == 0 || (r == TD_OWNER_DIED && wrote && !well));
    CHECK(r == TD_OWNER_DIED || !wrote || !t->got[HELD]);
    if (r >= 0)
        td_rwlock_release(&t->lock);
    CHECK_INT(td_rwlock_try_acquire_write(&t->lock), r);
    td_rwlock_release(&t->lock);
    table_free(how, t);
    return !well;
}

/* The same while a writer has it and then readers and a writer wait on both sides of it. */
static bool kill_among_others(const mode *how, long n)
{
    table *t = table_to_climb(how);
    td_worker *w[4];
    static const char line[] = "rwrw";
    CHECK_INT(td_rwlock_acquire_write(&t->lock), 0);
    for (int i = 0; i < 2; i++) {
        w[i] = begin(&mode_thread, comes, t, i * 2 + (line[i] == 'w'));
        UNTIL(waiters(t) == i + 1);
    }
    td_worker *victim = begin(how, holds_and_dies, t, (int)n);
    UNTIL(waiters(t) == 3 || ended(victim));
    for (int i = 2; i < 4; i++)
        w[i] = begin(&mode_thread, comes, t, i * 2 + (line[i] == 'w'));
    UNTIL(waiters(t) >= 4);
    for (int i = 0; i < 4; i++)
        t->go[i] = 1;
    td_rwlock_release(&t->lock);
    bool well = survived(victim);
    end_all(w, 4);
    CHECK_INT(td_rwlock_readers(&t->lock), 0);
    CHECK(!td_rwlock_writing(&t->lock));
    table_free(how, t);
    return !well;
}

/* It writes, or is about to, while others read by their records: it drains, and sleeps for that. A reader waits behind
 * it. */
static bool kill_draining(const mode *how, long n)
{
    table *t = table_to_climb(how);
    CHECK_INT(td_rwlock_acquire_read(&t->lock), 0);
    td_worker *victim = begin(how, holds_and_dies, t, (int)n);
    UNTIL(drain_sleeps(&t->lock) || ended(victim));
    td_worker *reader = begin(&mode_thread, comes, t, 0);
    UNTIL(waiters(t) == 2 || t->got[0] || ended(victim));
    t->go[0] = 1;
    td_rwlock_release(&t->lock);
    bool well = survived(victim);
    end_well(reader);
    int r = td_rwlock_try_acquire_read(&t->lock);
    CHECK(r == 0 || (r == TD_OWNER_DIED && !well));
    CHECK(r == TD_OWNER_DIED || !t->got[HELD]);
    td_rwlock_release(&t->lock);
    table_free(how, t);
    return !well;
}

/* Holds it by its record, and perhaps once more past the writer; then a writer sleeps for it, and it dies leaving. */
static int leaves_and_dies(td_call *call)
{
    table *t = OBJECT(call);
    CHECK_INT(td_rwlock_acquire_read_for(&t->lock, LONG), 0);
    t->got[1] = 1;
    UNTIL(drain_sleeps(&t->lock));
    td__kill_at_step(NUMBER(call));
    if (t->what == READS_TWICE)
        CHECK_INT(td_rwlock_acquire_read_for(&t->lock, LONG), 0);
    td_rwlock_release(&t->lock);
    if (t->what == READS_TWICE)
        td_rwlock_release(&t->lock);
    td__kill_at_step(0);
    return 0;
}

static bool kill_leaving(const mode *how, long n)
{
    table *t = table_to_climb(how);
    td_worker *victim = begin(how, leaves_and_dies, t, (int)n);
    UNTIL(t->got[1]);
    td_worker *writer = begin(&mode_thread, comes, t, 1);
    t->go[0] = 1;
    bool well = survived(victim);
    end_well(writer);
    CHECK_INT(td_rwlock_try_acquire_read(&t->lock), 0);
    td_rwlock_release(&t->lock);
    table_free(how, t);
    return !well;
}

TEST_METHODS(a_holder_killed_at_every_step)
{
    for (climbing = READS; climbing <= DOWNGRADES; climbing++)
        for (gate = FRESH; gate < GATES; gate++)
            climb(how, kill_alone, 4);
}

TEST_METHODS(a_writer_killed_at_every_step_of_draining)
{
    climbing = WRITES;
    climb(how, kill_draining, 10);
    climbing = DOWNGRADES;
    climb(how, kill_draining, 20);
}

TEST_METHODS(a_reader_killed_at_every_step_of_leaving_a_writer_that_sleeps)
{
    climbing = READS;
    climb(how, kill_leaving, 2);
    climbing = READS_TWICE;
    climb(how, kill_leaving, 20);
}

TEST_METHODS(a_waiter_killed_at_every_step)
{
    for (climbing = READS; climbing <= DOWNGRADES; climbing++)
        climb(how, kill_among_others, 40);
}

static int holds_on(td_call *call)
{
    table *t = OBJECT(call);
    CHECK(acquire(t, NUMBER(call)) >= 0);
    t->got[0]++;
    event_wait(END);
    return 0;
}

/* Holders and waiters of both kinds die together, with the spawner or without; those who live on get it at once. */
TEST(all_killed_together)
{
    const mode *how = &mode_forkserver;
    for (int round = 0; round < 4; round++) {
        table *t = object_new(how, sizeof *t);
        td_worker *w[6];
        pid_t pids[6];
        int holders = round % 2 ? 1 : 3; /* a writer, or readers */
        for (int i = 0; i < 6; i++) {
            w[i] = begin(how, holds_on, t, holders == 1 ? i % 2 == 0 : i >= 3 && i % 2);
            pids[i] = td_pid(w[i]);
            if (i < holders)
                UNTIL(t->got[0] == i + 1);
            else
                UNTIL(waiters(t) == i + 1 - holders);
        }
        td_worker *alive = begin(&mode_thread, comes, t, 1);
        t->go[0] = 1;
        UNTIL(waiters(t) == 7 - holders);
        pid_t spawner = parent_of(pids[0]);
        if (round < 2)
            for (int i = 0; i < 6; i++)
                kill(pids[i], SIGKILL);
        else
            kill(spawner, SIGKILL);
        for (int i = 0; i < 6; i++)
            CHECK(!returned(w[i]));
        end_well(alive);
        UNTIL(round < 2 || !process_alive(spawner));
        for (int i = 0; i < 6; i++)
            repaired(pids[i]);
        table_free(how, t);
    }
}

/* --- forks, faults ----------------------------------------------------------------------------------------- */

static td_rwlock forked[5];

static void *waits_or_holds(void *argument)
{
    (void)argument;
    CHECK_INT(td_rwlock_acquire_read(&forked[2]), 0);
    CHECK_INT(td_rwlock_acquire_write(&forked[3]), 0);
    CHECK_INT(td_rwlock_acquire_write(&forked[4]), 0);
    td_rwlock_downgrade(&forked[4]);
    event_set(HAS);
    CHECK_INT(td_rwlock_acquire_read_for(&forked[0], LONG), 0);
    td_rwlock_release(&forked[0]);
    td_rwlock_release(&forked[2]);
    td_rwlock_release(&forked[3]);
    td_rwlock_release(&forked[4]);
    return NULL;
}

/* The forking thread holds its copies on; of other threads' nothing is left, but for the word about a writer. */
static void check_child(void)
{
    CHECK(td_rwlock_owned_write(&forked[0]));
    CHECK_INT(td_rwlock_readers(&forked[1]), 2);
    CHECK(td_rwlock_owned_read(&forked[1]));
    td_rwlock_release(&forked[0]);
    CHECK_INT(td_rwlock_try_acquire_read(&forked[0]), 0);
    td_rwlock_release(&forked[0]);
    td_rwlock_release(&forked[1]);
    td_rwlock_release(&forked[1]);
    CHECK_INT(td_rwlock_try_acquire_write(&forked[1]), 0);
    CHECK_INT(td_rwlock_try_acquire_write(&forked[2]), 0);
    CHECK_INT(td_rwlock_try_acquire_read(&forked[3]), TD_OWNER_DIED);
    CHECK_INT(td_rwlock_try_acquire_write(&forked[4]), 0);
}

TEST(a_fork_keeps_what_the_forking_thread_holds)
{
    pthread_t thread;
    CHECK_INT(td_rwlock_acquire_write(&forked[0]), 0);
    CHECK_INT(td_rwlock_acquire_read(&forked[1]), 0);
    CHECK_INT(td_rwlock_acquire_read(&forked[1]), 0);
    pthread_create(&thread, NULL, waits_or_holds, NULL);
    event_wait(HAS);
    UNTIL(waiters_of(&forked[0]) == 1);
    pid_t pid = fork();
    if (pid == 0) {
        check_child();
        _exit(harness_failed() ? EXIT_WORKER : 0);
    }
    CHECK_INT(helper_wait(pid), 0);
    td_rwlock_release(&forked[0]);
    td_rwlock_release(&forked[1]);
    td_rwlock_release(&forked[1]);
    pthread_join(thread, NULL);
}

TEST(refusals_of_the_system)
{
    table *t = object_new(&mode_thread, sizeof *t);
    for (long n = 1; n < 60; n++) {
        CHECK_INT(td_rwlock_acquire_write(&t->lock), 0);
        t->got[0] = t->go[0] = t->count = 0;
        td_worker *w = begin(&mode_thread, comes, t, n % 2);
        UNTIL(waiters(t) == 1);
        td__fault_arm(n);
        td_rwlock_release(&t->lock);
        t->go[0] = 1;
        CHECK_INT(td_rwlock_acquire_write_for(&t->lock, LONG), 0);
        td__fault_disarm();
        td_rwlock_release(&t->lock);
        end_well(w);
    }
    table_free(&mode_thread, t);
}
