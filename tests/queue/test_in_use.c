/* SPDX-License-Identifier: MIT */
/*
 * The end of an object that somebody holds or waits on: a debug build says so, whatever the object, and whether it is
 * ended by its own call or with the block that it stands in. The dead are no reason.
 */
#include "harness.h"

#include <pthread.h>
#include <signal.h>
#include <tandem.h>
#include "queue/queue.h"
#include "sync/section.h"
#include "sync/use.h"

#ifdef TD_DEBUG
enum { USING = 1, GO = 2 };
enum { UNNOTICED = 3 }; /* how a program ends that was not stopped */

typedef struct object {
    union {
        td_lock lock;
        td_rlock rlock;
        td_rwlock rwlock;
        td_condition condition;
        td_semaphore semaphore;
        td_bounded_semaphore bounded;
        td_owned_semaphore owned;
        td_event event;
        td_barrier barrier;
        td_once once;
        td_cancel cancel;
    } of;
} object;

/* The block that is to go, and what stands beside it. */
typedef struct stage {
    object *object;
    td_queue *queue;
    td_lock lock;
    td_event never;
    uint32_t row;
} stage;

typedef struct stage_at {
    stage *at;
} stage_at;

/* --- the table ----------------------------------------------------------------------------------------------- */

typedef struct row {
    const char *name;
    int (*make)(object *);
    int (*use)(stage *, object *); /* holds it, or waits on it */
    bool waits;
    void (*destroy)(object *); /* NULL: there is no such call */
    const char *said;
    bool unseen; /* by a build for ThreadSanitizer, which does not look into records */
} row;

static int go_on(int r)
{
    event_set(USING);
    event_wait(GO);
    return r;
}

static int make_bounded(object *o)
{
    return td_bounded_semaphore_init(&o->of.bounded, 1) == 0 && td_bounded_semaphore_try_acquire(&o->of.bounded) == 0
               ? 0
               : -1;
}

static int make_owned(object *o)
{
    return td_owned_semaphore_init(&o->of.owned, 1);
}

static int make_owned_used(object *o)
{
    return td_owned_semaphore_init(&o->of.owned, 0);
}

static int make_barrier(object *o)
{
    return td_barrier_init(&o->of.barrier, 2);
}

static int make_barrier_of_one(object *o)
{
    return td_barrier_init(&o->of.barrier, 1);
}

static int hold_lock(stage *s, object *o)
{
    (void)s;
    return go_on(td_lock_acquire(&o->of.lock));
}

static int hold_rlock(stage *s, object *o)
{
    (void)s;
    return go_on(td_rlock_acquire(&o->of.rlock));
}

static int hold_reading(stage *s, object *o)
{
    (void)s;
    return go_on(td_rwlock_acquire_read(&o->of.rwlock));
}

static int hold_writing(stage *s, object *o)
{
    (void)s;
    return go_on(td_rwlock_acquire_write(&o->of.rwlock));
}

static int hold_owned(stage *s, object *o)
{
    (void)s;
    return go_on(td_owned_semaphore_acquire(&o->of.owned));
}

static int inside(void *unused)
{
    (void)unused;
    return go_on(0);
}

static int run_once(stage *s, object *o)
{
    (void)s;
    return td_once_run(&o->of.once, inside, NULL);
}

static int run_action(stage *s, object *o)
{
    (void)s;
    return td_barrier_wait_action(&o->of.barrier, inside, NULL);
}

static int wait_condition(stage *s, object *o)
{
    int r = td_lock_acquire(&s->lock);
    return r == 0 ? td_condition_wait(&o->of.condition, &s->lock) : r;
}

static int wait_semaphore(stage *s, object *o)
{
    (void)s;
    return td_semaphore_acquire(&o->of.semaphore);
}

static int wait_bounded(stage *s, object *o)
{
    (void)s;
    return td_bounded_semaphore_acquire(&o->of.bounded);
}

static int wait_owned(stage *s, object *o)
{
    (void)s;
    return td_owned_semaphore_acquire(&o->of.owned);
}

static int wait_event(stage *s, object *o)
{
    (void)s;
    return td_event_wait(&o->of.event);
}

static int wait_barrier(stage *s, object *o)
{
    (void)s;
    return td_barrier_wait(&o->of.barrier);
}

static int wait_cancel(stage *s, object *o)
{
    return td_event_wait_with(&s->never, TD_NO_LIMIT, &o->of.cancel);
}

#define DESTROY(name, call, member) \
    static void name(object *o)     \
    {                               \
        call(&o->of.member);        \
    }
DESTROY(end_lock, td_lock_destroy, lock)
DESTROY(end_rlock, td_rlock_destroy, rlock)
DESTROY(end_rwlock, td_rwlock_destroy, rwlock)
DESTROY(end_condition, td_condition_destroy, condition)
DESTROY(end_semaphore, td_semaphore_destroy, semaphore)
DESTROY(end_bounded, td_bounded_semaphore_destroy, bounded)
DESTROY(end_owned, td_owned_semaphore_destroy, owned)
DESTROY(end_event, td_event_destroy, event)
DESTROY(end_barrier, td_barrier_destroy, barrier)

static const row rows[] = {
    { "lock", NULL, hold_lock, false, end_lock, "td_lock_destroy: lock", false },
    { "rlock", NULL, hold_rlock, false, end_rlock, "td_rlock_destroy: lock", false },
    { "reading", NULL, hold_reading, false, end_rwlock, "td_rwlock_destroy: lock", false },
    { "writing", NULL, hold_writing, false, end_rwlock, "td_rwlock_destroy: lock", false },
    { "condition", NULL, wait_condition, true, end_condition, "td_condition_destroy: somebody waits", false },
    { "semaphore", NULL, wait_semaphore, true, end_semaphore, "td_semaphore_destroy: a thread waits", false },
    { "bounded", make_bounded, wait_bounded, true, end_bounded, "td_bounded_semaphore_destroy: a thread waits", false },
    { "owned", make_owned, hold_owned, false, end_owned, "td_owned_semaphore_destroy: a thread of process", true },
    { "owned_waited", make_owned_used, wait_owned, true, end_owned, "td_owned_semaphore_destroy: a thread waits",
      false },
    { "event", NULL, wait_event, true, end_event, "td_event_destroy: a thread waits", false },
    { "barrier", make_barrier, wait_barrier, true, end_barrier, "td_barrier_destroy: somebody waits", false },
    { "action", make_barrier_of_one, run_action, false, end_barrier, "td_barrier_destroy: ", true },
    { "once", NULL, run_once, false, NULL, NULL, false },
    { "cancel", NULL, wait_cancel, true, NULL, NULL, false },
};
#define ROWS (sizeof rows / sizeof *rows)

/* --- using it ------------------------------------------------------------------------------------------------ */

static int use(td_call *call)
{
    stage *s = td_arg(call, stage_at).at;
    rows[s->row].use(s, s->object);
    return 0;
}

/* Does somebody sleep with a record that leads there? */
static bool is_waited(const void *at, size_t size)
{
    uint32_t top = td__load_acquire(&td__the_region->party_top);
    for (uint32_t i = 1; i < top; i++) {
        td__party *party = td__party_at(i);
        /* A list is named before the party stands in it. */
        uintptr_t list = td__load_acquire(&party->asleep) ? (uintptr_t)td__load_relaxed(&party->list) : 0;
        uintptr_t named[] = { (uintptr_t)td__load_relaxed(&party->word_waited), list,
                              td__load_relaxed(&party->cancel) };
        for (size_t j = 0; j < sizeof named / sizeof *named; j++)
            if (named[j] - (uintptr_t)at < size)
                return true;
    }
    return false;
}

static stage *set_stage(uint32_t number, bool shared)
{
    static stage private;
    stage *s = shared ? td_shared_calloc(1, sizeof *s) : &private;
    s->row = number;
    return s;
}

static stage *set_object(uint32_t number, bool shared)
{
    static object there;
    stage *s = set_stage(number, shared);
    s->object = shared ? td_shared_calloc(1, sizeof *s->object) : &there;
    REQUIRE(!rows[number].make || rows[number].make(s->object) == 0);
    return s;
}

static td_worker *start_use(stage *s, bool process, td_target *target)
{
    stage_at at = { s };
    td_worker *w = WORKER(process ? td_process(.target = target, .args = TD_VAL(at))
                                  : td_thread(.target = target, .args = TD_VAL(at)));
    REQUIRE_OK(td_start(w));
    return w;
}

/* After which it is no reason any more. Its death is known then, but nobody has repaired after it: what comes next
 * meets its record, and what it has left in the object. */
static void kill_and_free(td_worker *w)
{
    td__party *me = td__party_self();
    td__latch *repair = (td__latch *)(void *)td__the_region->repair;
    td__section_enter(me, repair);
    td_kill(w);
    REQUIRE_OK(td_join(w));
    td_outcome(w);
    td_free(w);
    td__section_leave(me, repair);
}

/* row, place (p: private, t: shared and a thread, P: shared and a process; k: which is killed), how it ends (d: its own
 * call, f: its block) */
HELPER(ends)
{
    uint32_t number = (uint32_t)atoi(argv[1]);
    const row *r = &rows[number];
    signal(SIGABRT, SIG_DFL);
    stage *s = set_object(number, argv[2][0] != 'p');
    td_worker *w = start_use(s, argv[2][0] == 'P', use);
    if (r->waits)
        WAIT_UNTIL(is_waited(s->object, sizeof *s->object), 20);
    else
        event_wait(USING);
    if (argv[2][1] == 'k')
        kill_and_free(w);
    if (argv[3][0] == 'd')
        r->destroy(s->object);
    else
        td_shared_free(s->object);
    (void)argc;
    _exit(UNNOTICED); /* at its end the program would join who uses it */
}

static void expect(uint32_t number, const char *place, const char *how, const char *said)
{
    char row_number[16], *output;
    snprintf(row_number, sizeof row_number, "%u", number);
    page->event[USING] = page->event[GO] = 0;
    bool ok =
        CHECK_INT(helper_output(&output, NULL, "ends", row_number, place, how, NULL), said ? -SIGABRT : UNNOTICED);
    ok = (!said || CHECK_HAS(output, said)) && ok;
    if (!ok)
        harness_note("%s, %s, %s", rows[number].name, place, how);
    free(output);
}

/* Catches: a type that its own call lets go while it is held or waited on. */
TEST_LIMIT(ended_in_use, 120)
{
    for (uint32_t i = 0; i < ROWS; i++) {
        if (!rows[i].destroy || (rows[i].unseen && WITH_TSAN))
            continue;
        expect(i, "p", "d", rows[i].said);
        expect(i, "t", "d", rows[i].said);
        expect(i, "P", "d", rows[i].said);
    }
}

/* Catches: the same, with the block. */
TEST_LIMIT(freed_in_use, 120)
{
    if (WITH_TSAN)
        SKIP("a build for ThreadSanitizer does not look into records");
    for (uint32_t i = 0; i < ROWS; i++) {
        expect(i, "t", "f", "something inside block");
        expect(i, "P", "f", "something inside block");
    }
}

/* Catches: a dead one who is taken for one that waits, by the call or with the block. */
TEST_LIMIT(ended_after_a_death, 120)
{
    for (uint32_t i = 0; i < ROWS; i++) {
        if (rows[i].destroy)
            expect(i, "Pk", "d", NULL);
        expect(i, "Pk", "f", NULL);
    }
}

/* --- queues -------------------------------------------------------------------------------------------------- */

enum { GETS = 0, PUTS = 1, JOINS = 2 };

static int use_queue(td_call *call)
{
    stage *s = td_arg(call, stage_at).at;
    uint32_t item = 1;
    if (s->row == GETS)
        td_queue_get(s->queue, &item);
    else if (s->row == PUTS)
        td_queue_put(s->queue, &item);
    else
        td_queue_join(s->queue);
    return 0;
}

/* kind, what is waited for, place as above */
HELPER(frees_queue)
{
    int kind = atoi(argv[1]);
    uint32_t number = (uint32_t)atoi(argv[2]), item = 0;
    bool shared = argv[3][0] != 'p';
    signal(SIGABRT, SIG_DFL);
    stage *s = set_stage(number, shared);
    td_queue_options options = { .struct_size = sizeof options,
                                 .kind = kind,
                                 .item_size = sizeof item,
                                 .capacity = 1,
                                 .shared = shared,
                                 .joinable = true };
    if (kind == TD_QUEUE_PRIORITY)
        options.priority = (td_priority){ 0, sizeof item, TD_KIND_UNSIGNED };
    s->queue = td_queue_create(&options);
    REQUIRE(s->queue != NULL);
    if (number != GETS)
        REQUIRE_OK(td_queue_put(s->queue, &item));
    td_worker *w = start_use(s, argv[3][0] == 'P', use_queue);
    WAIT_UNTIL(is_waited(s->queue, sizeof *s->queue), 20);
    if (argv[3][1] == 'k')
        kill_and_free(w);
    td_queue_free(s->queue);
    (void)argc;
    _exit(UNNOTICED);
}

static void expect_of_queue(int kind, int number, const char *place)
{
    char of_kind[16], of_number[16], *output;
    bool dead = place[1] == 'k';
    snprintf(of_kind, sizeof of_kind, "%d", kind);
    snprintf(of_number, sizeof of_number, "%d", number);
    CHECK_INT(helper_output(&output, NULL, "frees_queue", of_kind, of_number, place, NULL),
              dead ? UNNOTICED : -SIGABRT);
    CHECK(dead || CHECK_HAS(output, "td_queue_free: a thread waits on queue"));
    free(output);
}

/* Catches: a queue that is freed while somebody waits on it; and one that is not to be freed because of a dead one. */
TEST_LIMIT(queues_freed_in_use, 120)
{
    static const char *const places[] = { "p", "t", "P", "Pk" };
    for (int kind = TD_QUEUE_FIFO; kind <= TD_QUEUE_PRIORITY; kind++)
        for (int number = GETS; number <= JOINS; number++)
            for (size_t i = 0; i < sizeof places / sizeof *places; i++)
                expect_of_queue(kind, number, places[i]);
}

/* --- several things at once ---------------------------------------------------------------------------------- */

enum { ON_WORDS, BY_POLL, BY_DESCRIPTOR, HOWS };

typedef struct watched {
    td_waitable thing;
    td_event over;
    int how;
} watched;

static void *watch(void *of)
{
    watched *w = of;
    td_connection *a, *b;
    REQUIRE_OK(td_pipe_duplex(&a, &b));
    td_waitable things[] = { TD_WAIT_EVENT(&w->over), w->thing, TD_WAIT_CONNECTION(a) };
    CHECK_INT(td_wait_any(things, w->how == ON_WORDS ? 2 : 3, td_s(30), NULL), 1);
    td_connection_free(a);
    td_connection_free(b);
    return NULL;
}

/* Event or queue, private or shared, how it is watched, whether that is over, how it ends (as above) */
HELPER(ends_watched)
{
    static td_event private;
    bool queue = argv[1][0] == 'q', shared = argv[2][0] == 's', over = argv[4][0] == 'o';
    td_event *event = shared ? td_shared_calloc(1, sizeof *event) : &private;
    td_queue *q = td_queue_new(.item_size = sizeof(int), .capacity = 4, .shared = shared);
    const _Atomic uint32_t *word = queue ? &q->items : (_Atomic uint32_t *)(void *)&event->td_word;
    watched w = { .thing = queue ? TD_WAIT_QUEUE(q) : TD_WAIT_EVENT(event), .how = atoi(argv[3]) };
    pthread_t thread;
    int fd = -1;
    signal(SIGABRT, SIG_DFL);
    if (w.how == BY_DESCRIPTOR)
        fd = td_descriptor(w.thing);
    else
        REQUIRE(pthread_create(&thread, NULL, watch, &w) == 0);
    WAIT_UNTIL(td__load_seq_cst(word) & (queue ? TD__QUEUE_WATCHER : 2), 20);
    if (over && w.how == BY_DESCRIPTOR)
        CHECK_OK(td_descriptor_close(fd));
    if (over && w.how != BY_DESCRIPTOR) {
        td_event_set(&w.over);
        pthread_join(thread, NULL);
    }
    if (queue)
        td_queue_free(q);
    else if (argv[5][0] == 'd')
        td_event_destroy(event);
    else
        td_shared_free(event);
    td_queue_free(queue ? NULL : q);
    (void)argc;
    _exit(harness_failed() ? 4 : UNNOTICED);
}

static void expect_watched(const char *what, const char *place, const char *how, const char *end, const char *said)
{
    char *output;
    bool ok = CHECK_INT(helper_output(&output, NULL, "ends_watched", what, place, how, "now", end, NULL), -SIGABRT);
    ok = CHECK_HAS(output, said) && ok;
    free(output);
    ok = CHECK_INT(helper_run(NULL, "ends_watched", what, place, how, "over", end, NULL), UNNOTICED) && ok;
    if (!ok)
        harness_note("%s, %s, %s, %s", what, place, how, end);
}

/* Catches: an event or a queue that goes while a thread waits for several things, or has a descriptor of it. */
TEST_LIMIT(watched_by_several, 120)
{
    for (int i = 0; i < HOWS; i++) {
        char how[16];
        snprintf(how, sizeof how, "%d", i);
        expect_watched("event", "private", how, "d", "td_event_destroy: a thread waits");
        expect_watched("event", "shared", how, "d", "td_event_destroy: a thread waits");
        expect_watched("queue", "private", how, "d", "td_queue_free: a thread waits");
        expect_watched("queue", "shared", how, "d", "td_queue_free: a thread waits");
        if (!WITH_TSAN)
            expect_watched("event", "shared", how, "f", "for several things, on something inside block");
    }
}
#else
/* Catches: nothing; the others are for debug builds. */
TEST(in_use)
{
    SKIP("a debug build looks for it");
}
#endif

/* A timer may go while it waits: its worker has what it needs, and goes on. Catches: one that does not. */
static int tick(td_call *call)
{
    (void)call;
    event_set(10);
    return 0;
}

TEST(a_timer_is_freed_while_it_waits)
{
    td_worker *timer = td_timer(.interval = td_ms(30), .target = tick);
    REQUIRE_OK(timer ? td_start(timer) : td_last_error());
    td_free(timer);
    event_wait(10);
}
