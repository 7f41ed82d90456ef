/* SPDX-License-Identifier: MIT */
/*
 * What happens rarely: found by the lines that no other test ran (make coverage). Workers that write garbage where the
 * program reads, messages that nobody of ours sends, what a worker cannot take over from its starter, places and
 * numbers that are used up, several threads that finish at once.
 */
#include "os/fault.h"
#include "refuse.h"
#include "targets.h"
#include "work/spawner.h"
#include "work/worker.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <tandem/connection.h>
#include <tandem/sync.h>
#include <tandem/wait.h>

enum { FIRST_DONE = OWN_EVENTS, CHANGED, FINISHED };

static int answer_42(td_call *call)
{
    return td_return(call, int, 42);
}

/* The library works: with processes of both methods. */
static void check_works(void)
{
    const mode *const all[] = { &mode_forkserver, &mode_fork };
    for (size_t i = 0; i < 2; i++) {
        const mode *how = all[i];
        int got = 0;
        td_worker *w = JOINED(NEW(.target = answer_42));
        if (!CHECK_INT(td_result(w, int, &got), 0) || !CHECK_INT(got, 42))
            harness_note("    %s: %s", how->name, td_describe(w));
        td_free(w);
    }
}

/* --- outcomes that are damaged ---------------------------------------------------------------------------------- */

typedef struct damage {
    uint32_t state, kind, in_window;
    uint64_t size;
    td_state outcome;
    int code;
    const char *says;
} damage;

static const damage damages[] = {
    { 77, TD_KIND_NONE, 0, 0, TD_FAILED, TD_EINVAL, "damaged" },
    { TD_CREATED, TD_KIND_NONE, 0, 0, TD_FAILED, TD_EINVAL, "damaged" },
    { TD_CRASHED, TD_KIND_NONE, 0, 0, TD_FAILED, TD_EINVAL, "damaged" },
    { UINT32_MAX, TD_KIND_NONE, 0, 0, TD_FAILED, TD_EINVAL, "damaged" },
    { TD_RETURNED, 99, 0, 4, TD_FAILED, TD_ENOMEM, "4 bytes" },
    { TD_RETURNED, UINT32_MAX, 0, 4, TD_FAILED, TD_ENOMEM, "4 bytes" },
    { TD_RETURNED, TD_KIND_BYTES, 0, TD__RESULT_INLINE + 1, TD_FAILED, TD_ENOMEM, "1409 bytes" },
    { TD_RETURNED, TD_KIND_BYTES, 0, UINT64_MAX, TD_FAILED, TD_ENOMEM, "18446744073709551615 bytes" },
    { TD_RETURNED, TD_KIND_BYTES, 1, UINT64_MAX, TD_FAILED, TD_ENOMEM, "18446744073709551615 bytes" },
    { TD_RETURNED, TD_KIND_BYTES, 1, (uint64_t)TD_VALUE_MAX + 1, TD_FAILED, TD_ENOMEM, "bytes" },
    { TD_RETURNED, TD_KIND_BYTES, 0, TD__RESULT_INLINE, TD_RETURNED, 0, "xxx" }, /* the control: nothing wrong */
};

/* Publishes it, instead of what the library would. */
static int damages_its_outcome(td_call *call)
{
    const damage *how = &damages[td_arg(call, int)];
    td__slot *slot = (td__slot *)((uintptr_t)call->cancel - offsetof(td__slot, cancel)); /* by either method */
    slot->reply.state = how->state;
    slot->reply.code = 0;
    slot->reply.result_kind = how->kind;
    slot->reply.result_size = how->size;
    slot->reply.in_window = how->in_window;
    memset(slot->reply.message, 'x', sizeof slot->reply.message); /* no end */
    td__fetch_or_acq_rel(&slot->done, TD__PUBLISHED);
    td__futex_wake(&slot->done, 100, true);
    td__exit_now(0);
}

/* Catches: a size, a kind or a state out of a worker's memory that the program believes; a message without an end. */
TEST_METHODS(outcomes_that_are_damaged)
{
    for (int i = 0; i < (int)TD__COUNT(damages); i++) {
        td_worker *w = JOINED(NEW(.target = damages_its_outcome, .args = TD_ARG(int, i)));
        bool right = CHECK_INT(td_outcome(w), damages[i].outcome);
        right &= CHECK_INT(td_result_code(w), damages[i].code);
        right &= CHECK_HAS(td_message(w), damages[i].says);
        CHECK(strlen(td_message(w)) < TD_MESSAGE_MAX);
        if (!right)
            harness_note("    row %d", i);
        td_free(w);
    }
    check_works();
}

/* Tells a death that cannot be, as the spawner would. */
static int damages_its_death(td_call *call)
{
    td__slot *slot = (td__slot *)((uintptr_t)call->cancel - offsetof(td__slot, cancel));
    page->number[0] = getpid();
    slot->signaled = 1;
    slot->number = td_arg(call, int);
    td__fetch_or_acq_rel(&slot->done, TD__ENDED);
    td__futex_wake(&slot->done, 100, true);
    event_wait(GO); /* else the spawner would tell the real one */
    td__exit_now(0);
}

/* Catches: a shift by a number that is no signal. */
TEST(deaths_that_are_damaged)
{
    static const int numbers[] = { 0, -1, 65, INT_MIN, INT_MAX };
    for (size_t i = 0; i < TD__COUNT(numbers); i++) {
        td_worker *w = JOINED(td_process(.target = damages_its_death, .args = TD_ARG(int, numbers[i])));
        CHECK_INT(td_outcome(w), TD_FAILED);
        CHECK_INT(td_result_code(w), TD_EINVAL);
        CHECK_HAS(td_message(w), "damaged");
        td_free(w);
        event_set(GO);
        WAIT_UNTIL(!process_alive((pid_t)page->number[0]), 5);
        page->event[GO] = 0;
    }
    check_works();
}

/* --- garbage ---------------------------------------------------------------------------------------------------- */

static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/* Writes over what workers share with the program: all that is written at any time in the header, and slots, its own
 * among them. */
static int runs_wild(td_call *call)
{
    uint32_t random = (uint32_t)td_arg(call, int) * 2654435761u | 1;
    td__segment *segment = td__the.segment;
    unsigned char *header = (unsigned char *)segment;
    for (int i = 0; i < 3000; i++) {
        uint32_t where = next_random(&random);
        unsigned char what = (unsigned char)next_random(&random);
        if (where % 3 == 0)
            header[offsetof(td__segment, spare_slots) + where / 3 % sizeof segment->spare_slots] = what;
        else if (where % 3 == 1)
            header[offsetof(td__segment, in_use) + where / 3 % 64] = what;
        else
            ((unsigned char *)td__slot_at(segment, where / 3 % 12))[next_random(&random) % sizeof(td__slot)] = what;
    }
    return 0;
}

HELPER(has_a_wild_worker)
{
    int seed = atoi(argv[1]);
    for (int i = 0; i < 4; i++) {
        td_worker *wild = td_process(.target = runs_wild, .args = TD_ARG(int, seed + i));
        td_worker *w = td_process(.target = answer_42);
        int started = td_start(w);
        if (td_start(wild) == 0) {
            td_join_for(wild, td_ms(200));
            td_describe(wild);
            td_result_bytes(wild, NULL);
        }
        if (started == 0) {
            td_join_for(w, td_ms(200));
            td_describe(w);
            td_result_bytes(w, NULL);
        }
        td_is_alive(w);
        td_kill(w);
        td_kill(wild);
    }
    event_set(FINISHED);
    _exit(0);
}

static void end_in_time(void *unused)
{
    (void)unused;
    alarm(10);
}

/* A worker may keep its program from starting others; it must not crash it. Catches: a number out of the segment that
 * is used unchecked. */
TEST_LIMIT(garbage_in_the_segment, 400)
{
    int finished = 0, rounds = 40 / thrift();
    for (int seed = 1; seed <= rounds; seed++) {
        char text[16];
        snprintf(text, sizeof text, "%d", seed * 100);
        page->event[FINISHED] = 0;
        helper_options o = { .before = end_in_time };
        int status = helper_run(&o, "has_a_wild_worker", text, NULL);
        if (!CHECK(status == 0 || status == -SIGALRM))
            harness_note("    seed %d: status %d", seed * 100, status);
        finished += status == 0;
        WAIT_UNTIL(others() == 0, 5);
    }
    harness_note("%d of %d came to their end", finished, rounds);
}

/* --- messages that nobody of ours sends --------------------------------------------------------------------------- */

static td__spawner *spawner_now(void)
{
    td_free(JOINED(td_process(.target = nothing)));
    td__spawner *spawner = td__spawner_current();
    REQUIRE(spawner != NULL);
    return spawner;
}

/* Catches: a spawner that dies of a number in a message, forks for it, or keeps its descriptors. */
TEST(messages_to_the_spawner_that_are_damaged)
{
    td__spawner *spawner = spawner_now();
    pid_t pid = spawner->pid;
    td__message bad = { .what = TD__START, .slot = TD__SLOTS };
    char large[4096] = { 0 };
    const int fds[] = { 0, 1, 2 };
    for (int round = 0; round < 3; round++) {
        bad.what = TD__START;
        bad.slot = round == 0 ? TD__SLOTS : round == 1 ? UINT32_MAX : TD__SLOTS - 1; /* the last one is free */
        CHECK_INT(td__send(spawner->control, &bad, sizeof bad, fds, 3), 0);
        bad.what = TD__LEFT;
        bad.slot = round == 0 ? TD__SPARES_MAX : round == 1 ? UINT32_MAX : 0;
        CHECK_INT(td__send(spawner->control, &bad, sizeof bad, fds, 1), 0);
        bad.what = round == 0 ? 0 : round == 1 ? UINT32_MAX : TD__READY;
        CHECK_INT(td__send(spawner->control, &bad, sizeof bad, fds, 1), 0);
        CHECK_INT(td__send(spawner->control, &bad, sizeof bad - 1, NULL, 0), 0);
        CHECK_INT(td__send(spawner->control, large, sizeof large, NULL, 0), 0);
        td__spawner_lost_worker(spawner, 5); /* it is not dead: nothing */
        check_works();
    }
    CHECK(process_alive(pid));
    td__spawner_unref(spawner);
}

/* A slot that is ours, with a message that has too few descriptors, or too many. Catches: streams that are none of the
 * starter's. */
TEST(requests_without_their_descriptors)
{
    td__spawner *spawner = spawner_now();
    for (int sent = 0; sent <= 5; sent++) {
        int taken = td__slot_take(spawner->segment, TD__OWNER_MAIN, TD__TAKEN);
        REQUIRE(taken >= 0);
        td__slot *slot = td__slot_at(spawner->segment, (uint32_t)taken);
        td__message message = {
            .what = TD__START, .slot = (uint32_t)taken, .generation = TD__WORD_GENERATION(slot->word), .streams = 7
        };
        const int fds[] = { 0, 1, 2, 0, 1 };
        if (sent == 3)
            message.streams = 3;
        CHECK_INT(td__send(spawner->control, &message, sizeof message, fds, (size_t)sent), 0);
        while (slot->done == 0)
            td__futex_wait(&slot->done, 0, 0, true);
        CHECK(slot->done & TD__NOT_STARTED);
        CHECK_INT(slot->number, EMFILE);
        td__slot_end(spawner->segment, spawner->file, (uint32_t)taken, TD__RELEASED);
    }
    check_works();
    td__spawner_unref(spawner);
}

static struct {
    td__segment *segment;
    int again;
} places;

static void end_place(uint32_t index)
{
    td__slot_end(places.segment, -1, index, TD__GONE);
    td__slot_end(places.segment, -1, index, TD__RELEASED);
}

static void others_take_it(void)
{
    places.again = td__slot_take(places.segment, TD__OWNER_MAIN, TD__TAKEN);
    end_place(0);
}

static void others_end(void)
{
    end_place(1);
    td__call_at_step(1, others_take_it);
}

/* A worker comes for a place that another one has just taken, who gives it back then, and a third one takes it.
 * Catches: a place in use that is not in the map, so that nobody would end the process in it. */
TEST(place_taken_and_given_back_meanwhile)
{
    places.segment = mmap(NULL, TD__MAPPED_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(places.segment != MAP_FAILED);
    for (int i = 0; i < 2; i++)
        CHECK_INT(td__slot_take(places.segment, TD__OWNER_MAIN, TD__TAKEN), i);
    places.segment->in_use[0] = 1; /* the second one has not come to it yet */
    td__call_at_step(2, others_end);
    int taken = td__slot_take(places.segment, 10, TD__TAKEN);
    td__call_at_step(0, NULL);
    CHECK_INT(places.again, 1);
    CHECK_INT(taken, 0);
    CHECK_INT(places.segment->in_use[0], 3);
    munmap(places.segment, TD__MAPPED_BYTES);
}

static struct {
    td__slot *slot;
    pid_t pid;
} last;

static void it_ends(void)
{
    CHECK(!(td__load_acquire(&last.slot->done) & TD__ENDED));
    kill(last.pid, SIGKILL);
    CHECK_INT(waitpid(last.pid, NULL, 0), last.pid);
    last.pid = 0;
}

/* The spawner has died, its worker is about to, and the program has no number left for a descriptor of it. Catches: a
 * worker that is taken for dead, and repaired after, while it still runs. */
TEST(worker_lost_without_numbers)
{
    td__spawner spawner = { .file = -1, .dead = 1 };
    spawner.segment = mmap(NULL, TD__MAPPED_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(spawner.segment != MAP_FAILED);
    uint32_t index = (uint32_t)td__slot_take(spawner.segment, TD__OWNER_MAIN, TD__TAKEN);
    last.slot = td__slot_at(spawner.segment, index);
    last.pid = fork();
    if (last.pid == 0)
        for (;;)
            pause();
    td__store_release(&last.slot->pid, (uint32_t)last.pid);
    td__fault_arm(1);
    td__call_at_step(1, it_ends);
    td__spawner_lost_worker(&spawner, index);
    td__call_at_step(0, NULL);
    CHECK(td__fault_fired());
    td__fault_disarm();
    CHECK_INT(last.pid, 0);
    CHECK(last.slot->done & TD__ENDED);
    munmap(spawner.segment, TD__MAPPED_BYTES);
}

/* --- used up ---------------------------------------------------------------------------------------------------- */

/* All places but those in use are taken. Catches: a start that hangs then, or an error that does not say so. */
TEST(all_places_are_taken)
{
    td__spawner *spawner = spawner_now();
    td__segment *segment = spawner->segment;
    static uint32_t taken[TD__SLOTS];
    int count = 0, refused = 0;
    for (int slot; (slot = td__slot_take(segment, TD__OWNER_MAIN, TD__TAKEN)) >= 0;)
        taken[count++] = (uint32_t)slot;
    CHECK(count > TD__SLOTS - 20);
    td_worker *workers[12];
    for (int i = 0; i < 12; i++) { /* more than there are spares */
        workers[i] = WORKER(td_process(.target = until_go));
        if (td_start(workers[i]) == 0)
            continue;
        refused++;
        CHECK_INT(td_last_error(), TD_EPROCESS);
        CHECK_HAS(td_last_message(), "all 8192 places");
        CHECK_INT(td_outcome(workers[i]), TD_CREATED);
    }
    CHECK(refused >= 1);
    event_set(GO);
    for (int i = 0; i < count; i++) {
        td__slot_end(segment, spawner->file, taken[i], TD__GONE);
        td__slot_end(segment, spawner->file, taken[i], TD__RELEASED);
    }
    for (int i = 0; i < 12; i++) {
        if (td_outcome(workers[i]) == TD_CREATED)
            CHECK_OK(td_start(workers[i])); /* now there is a place */
        CHECK_OK(td_join(workers[i]));
        td_free(workers[i]);
    }
    td__spawner_unref(spawner);
    check_works();
}

HELPER(has_few_numbers)
{
    rlim_t most = (rlim_t)atoi(argv[1]);
    struct rlimit limit = { most, most };
    REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    int worked = 0;
    for (int i = 0; i < 4; i++) {
        td_worker *w = WORKER(td_process(.target = answer_42, .method = i % 2 ? TD_FORK : TD_FORKSERVER));
        if (td_start(w) < 0) {
            CHECK(td_last_message()[0]);
        } else {
            CHECK_OK(td_join_for(w, td_s(20)));
            worked += td_outcome(w) == TD_RETURNED;
            if (td_outcome(w) != TD_RETURNED)
                CHECK(td_message(w)[0]);
        }
        td_free(w);
    }
    event_add(FINISHED);
    page->number[0] = worked;
    fflush(stdout);
    td_finish();
    _exit(harness_failed());
}

/* Each limit from hopeless to plenty. Catches: a hang, or an error without a sentence, at the one number that nobody
 * has tried. */
TEST_LIMIT(any_number_of_descriptors, 200)
{
    int before = -1;
    for (int most = 6; most <= 48; most += thrift() > 1 ? 3 : 1) {
        char text[16];
        snprintf(text, sizeof text, "%d", most);
        page->event[FINISHED] = 0;
        page->number[0] = -1;
        pid_t pid = helper_start(0, "has_few_numbers", text, NULL);
        int status = helper_wait(pid);
        if (!CHECK_INT(status, 0) || !CHECK_INT(event_count(FINISHED), 1))
            harness_note("    with %d", most);
        WAIT_UNTIL(others() == 0, 5);
        before = (int)page->number[0];
    }
    CHECK_INT(before, 4); /* plenty: all have worked */
}

/* A thread that is not ours has no memory for what names it. */
static void *has_no_memory(void *unused)
{
    td__fault_arm(1);
    CHECK_NULL(td_current(), TD_ENOMEM);
    CHECK(td__fault_fired());
    td__fault_disarm();
    CHECK(td_current() != NULL);
    return unused;
}

TEST(a_foreign_thread_without_memory)
{
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, has_no_memory, NULL) == 0);
    pthread_join(thread, NULL);
}

/* --- starters that are killed ----------------------------------------------------------------------------------- */

static int starts_and_dies(td_call *call)
{
    td_worker *w = td_process(.target = nothing);
    td__kill_at_step(td_arg(call, long));
    int code = td_start(w);
    if (code == 0)
        code = td_join(w);
    td_free(w);
    td__kill_at_step(0);
    return code;
}

/* The places that nobody has. */
static int free_places(td__spawner *spawner)
{
    static uint32_t taken[TD__SLOTS];
    int count = 0;
    for (int slot; (slot = td__slot_take(spawner->segment, TD__OWNER_MAIN, TD__TAKEN)) >= 0;)
        taken[count++] = (uint32_t)slot;
    for (int i = 0; i < count; i++) {
        td__slot_end(spawner->segment, spawner->file, taken[i], TD__GONE);
        td__slot_end(spawner->segment, spawner->file, taken[i], TD__RELEASED);
    }
    return count;
}

/* A worker that starts another one is killed at each step of that. Catches: a process that nobody ends, and a place
 * that nobody gives back. */
TEST_LIMIT(worker_killed_at_each_step_of_a_start, 200)
{
    td__spawner *spawner = spawner_now();
    pid_t pid = spawner->pid;
    int before = 0, places = 0;
    td_state state = TD_CRASHED;
    WAIT_UNTIL(others() == 3, 10); /* the spawner, and its spares */
    WAIT_UNTIL((before = free_places(spawner)) == TD__SLOTS - 2, 10);
    for (long n = 1; state == TD_CRASHED && n < 1000; n++) {
        td_worker *w = JOINED(td_process(.target = starts_and_dies, .args = TD_ARG(long, n)));
        state = td_outcome(w);
        if (!CHECK(state == TD_CRASHED || state == TD_RETURNED))
            harness_note("    step %ld: %s", n, td_describe(w));
        td_free(w);
        WAIT_UNTIL(others() == 3, 10);
        WAIT_UNTIL((places = free_places(spawner)) == before, 10);
        if (places != before)
            harness_note("    after step %ld: %d places of %d", n, places, before);
        before = places;
    }
    CHECK(process_alive(pid));
    td__spawner_unref(spawner);
    check_works();
}

/* Arguments: mode; step. */
HELPER(starts_and_is_killed)
{
    const mode *how = mode_named(argv[1]);
    td_free(JOINED(NEW(.target = nothing)));
    td_worker *w = WORKER(NEW(.target = until_go));
    td__kill_at_step(atol(argv[2]));
    int code = td_start(w);
    td__kill_at_step(0);
    REQUIRE_OK(code);
    event_add(CHANGED);
    event_set(GO);
    CHECK_OK(td_join(w));
    td_free(w);
    return 0;
}

/* The same of the program itself. Catches: a spare that is told too late that nobody wants it any more, or a worker
 * that nobody has told, and that stays. */
TEST_METHODS(program_killed_at_each_step_of_a_start)
{
    for (long n = 1; n < 1000 && event_count(CHANGED) == 0; n++) {
        char step[32];
        snprintf(step, sizeof step, "%ld", n);
        page->event[STARTED] = page->event[GO] = 0;
        int status = helper_run(0, "starts_and_is_killed", how->name, step, NULL);
        if (!CHECK(status == (event_count(CHANGED) ? 0 : -SIGKILL)))
            harness_note("    step %ld: %d", n, status);
        WAIT_UNTIL(others() == 0, 5);
    }
    CHECK_INT(event_count(CHANGED), 1);
}

/* --- what a worker cannot take over ------------------------------------------------------------------------------- */

/* An unprivileged program, whose circumstances somebody with more rights changes after its spawner has started. */
HELPER(is_changed_from_outside)
{
    if (argv[1][0] == 'a')
        refuse(SYS_sched_setaffinity, EPERM);
    td_free(JOINED(td_process(.target = nothing)));
    event_set(FIRST_DONE);
    event_wait(CHANGED);
    td_worker *w = JOINED(td_process(.target = answer_42));
    CHECK_INT(td_outcome(w), TD_FAILED);
    CHECK_INT(td_result_code(w), TD_EACCESS);
    CHECK_HAS(td_message(w), argv[2]);
    CHECK_HAS(td_message(w), "could not start");
    td_free(w);
    w = JOINED(td_process(.target = answer_42, .method = TD_FORK)); /* it has all of it, as a copy */
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
    fflush(stdout);
    td_finish();
    _exit(harness_failed());
}

static pid_t start_unprivileged(const char *kind, const char *says)
{
    helper_options o = { .uid = lonely_uid() };
    pid_t pid = helper_start(&o, "is_changed_from_outside", kind, says, NULL);
    helper_event(pid, FIRST_DONE, 1);
    return pid;
}

static void end_unprivileged(pid_t pid)
{
    event_set(CHANGED);
    CHECK_INT(helper_wait(pid), 0);
    WAIT_UNTIL(others() == 0, 5);
}

/* Catches: a worker that runs with less than its starter has, and nobody is told. */
TEST(a_limit_that_a_worker_cannot_have)
{
    struct rlimit lower = { 100, 100 }, higher = { 200, 200 };
    REQUIRE(setrlimit(RLIMIT_SIGPENDING, &lower) == 0); /* of the spawner */
    pid_t pid = start_unprivileged("limit", "RLIMIT_SIGPENDING");
    bool raised = prlimit(pid, RLIMIT_SIGPENDING, &higher, NULL) == 0;
    if (!raised) {
        kill(pid, SIGKILL);
        helper_wait(pid);
        SKIP("not permitted to raise limits");
    }
    end_unprivileged(pid);
}

TEST(a_nice_value_that_a_worker_cannot_have)
{
    struct rlimit none = { 0, 0 };
    REQUIRE(setrlimit(RLIMIT_NICE, &none) == 0);
    REQUIRE(setpriority(PRIO_PROCESS, 0, 10) == 0);
    pid_t pid = start_unprivileged("nice", "setpriority");
    REQUIRE(setpriority(PRIO_PROCESS, (id_t)pid, 2) == 0);
    end_unprivileged(pid);
}

TEST(processors_that_a_worker_cannot_have)
{
    cpu_set_t all, one;
    REQUIRE(sched_getaffinity(0, sizeof all, &all) == 0);
    if (CPU_COUNT(&all) < 2)
        SKIP("needs two processors");
    CPU_ZERO(&one);
    for (int cpu = 0; CPU_COUNT(&one) == 0; cpu++)
        if (CPU_ISSET(cpu, &all))
            CPU_SET(cpu, &one);
    pid_t pid = start_unprivileged("affinity", "sched_setaffinity");
    REQUIRE(sched_setaffinity(pid, sizeof one, &one) == 0);
    end_unprivileged(pid);
}

static int tells_disposition(td_call *call)
{
    struct sigaction now;
    REQUIRE(sigaction(SIGCHLD, NULL, &now) == 0);
    return td_return(call, bool, now.sa_handler == SIG_IGN);
}

static void ignore_children(void *unused)
{
    (void)unused;
    signal(SIGCHLD, SIG_IGN);
}

HELPER(was_born_ignoring_children)
{
    bool ignored = false;
    td_worker *w = JOINED(td_process(.target = tells_disposition));
    CHECK_OK(td_result(w, bool, &ignored));
    CHECK(ignored);
    td_free(w);
    return 0;
}

/* Catches: a worker that the spawner's own need for SIGCHLD has changed. */
TEST(born_ignoring_children)
{
    helper_options o = { .before = ignore_children };
    CHECK_INT(helper_run(&o, "was_born_ignoring_children", NULL), 0);
}

/* --- signals that cannot be sent -----------------------------------------------------------------------------------
 */

TEST_METHODS(signals_refused)
{
    td_worker *w = WORKER(NEW(.target = until_go));
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    refuse(SYS_pidfd_send_signal, EPERM);
    CHECK_ERROR(td_kill(w), TD_EACCESS);
    CHECK_HAS(td_last_message(), "cannot signal worker");
    refuse(SYS_pidfd_open, EMFILE);
    CHECK_ERROR(td_kill(w), TD_EDESCRIPTOR);
    CHECK_HAS(td_last_message(), "pidfd_open");
    CHECK_ERROR(td_sentinel(w), TD_EDESCRIPTOR);
    event_set(GO);
    CHECK_OK(td_join(w));
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
}

/* --- ends ------------------------------------------------------------------------------------------------------------
 */

static void *finishes(void *unused)
{
    CHECK_OK(td_finish());
    event_add(FINISHED);
    return unused;
}

/* Catches: a finish that returns while another one is still at it, or waits for it for ever. */
TEST_MODES(threads_that_finish_at_once)
{
    for (int round = 0; round < 10; round++) {
        pthread_t threads[4];
        page->event[STARTED] = page->event[GO] = page->event[FINISHED] = 0;
        td_worker *w = WORKER(NEW(.target = until_go));
        REQUIRE_OK(td_start(w));
        event_wait(STARTED);
        for (int i = 0; i < 4; i++)
            REQUIRE(pthread_create(&threads[i], NULL, finishes, NULL) == 0);
        CHECK_INT(event_count(FINISHED), 0);
        event_set(GO);
        for (int i = 0; i < 4; i++)
            pthread_join(threads[i], NULL);
        CHECK(!td_is_alive(w));
        CHECK_INT(td_outcome(w), TD_RETURNED);
        td_free(w);
        if (how->kind == TD_PROCESS)
            WAIT_UNTIL(others() == 0, 5);
    }
}

static int finishes_in_a_worker(td_call *call)
{
    td_worker *w = WORKER(td_process(.target = until_go));
    REQUIRE_OK(td_start(w));
    event_wait(STARTED);
    event_set(GO);
    CHECK_OK(td_finish());
    CHECK_INT(event_count(ENDED), 1);
    CHECK(!td_is_alive(w));
    td_free(w);
    (void)call;
    return harness_failed();
}

/* Catches: a worker's finish that ends the program's spawner, or does nothing. */
TEST_METHODS(a_worker_that_finishes)
{
    td_worker *w = JOINED(NEW(.target = finishes_in_a_worker));
    CHECK_INT(td_result_code(w), 0);
    CHECK_INT(td_outcome(w), TD_RETURNED);
    td_free(w);
    check_works();
}

static int writes_to_a_full_device(td_call *call)
{
    (void)call;
    int full = open("/dev/full", O_WRONLY);
    if (full < 0)
        return 9;
    dup2(full, 1);
    printf("lost");
    return td_return(call, int, 5);
}

/* Catches: a success whose output is nowhere. */
TEST_METHODS(output_that_cannot_be_written)
{
    if (access("/dev/full", W_OK) < 0)
        SKIP("there is no /dev/full");
    td_worker *w = JOINED(NEW(.target = writes_to_a_full_device));
    CHECK_INT(td_outcome(w), TD_FAILED);
    CHECK_INT(td_result_code(w), TD_ESYSTEM);
    CHECK_HAS(td_message(w), "cannot write all of its output");
    td_free(w);
}

HELPER(adopts_orphans)
{
    REQUIRE(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0);
    for (int i = 0; i < 3; i++) {
        check_works();
        CHECK_OK(td_finish());
        CHECK_INT(waitpid(-1, NULL, WNOHANG), -1);
        CHECK_INT(waitpid(-1, NULL, WNOHANG | __WALL), -1);
        CHECK_INT(errno, ECHILD);
    }
    return 0;
}

/* Catches: a spawner, or the process that holds it, that comes to the program as an orphan. */
TEST(a_program_that_adopts_orphans)
{
    CHECK_INT(helper_run(0, "adopts_orphans", NULL), 0);
    CHECK_NOTHING_LEFT();
}

/* --- preparing -------------------------------------------------------------------------------------------------------
 */

static int prepare_that_starts(void)
{
    td_worker *w = WORKER(td_process(.target = nothing));
    CHECK_ERROR(td_start(w), TD_ESTATE);
    CHECK_HAS(td_last_message(), ".prepare");
    td_free(w);
    event_add(STARTED);
    return 0;
}

INIT(starts_in_prepare)
{
    td_init(.prepare = prepare_that_starts);
}

HELPER(started_in_prepare)
{
    check_works();
    CHECK_INT(event_count(STARTED), 1);
    return 0;
}

/* Catches: a spawner that starts a spawner, and so on. */
TEST(a_process_started_by_prepare)
{
    helper_options o = { .init = "starts_in_prepare" };
    CHECK_INT(helper_run(&o, "started_in_prepare", NULL), 0);
    CHECK_NOTHING_LEFT();
}

INIT(never_reached_anew)
{
    if (getenv(TD__MARKER))
        for (;;)
            pause(); /* a main that does something else first */
    td_init();
}

HELPER(waits_for_its_spawner)
{
    td_worker *w = WORKER(td_process(.target = nothing));
    CHECK_ERROR(td_start(w), TD_ESPAWNER);
    CHECK_HAS(td_last_message(), "within 30 seconds");
    CHECK_HAS(td_last_message(), "td_init() the first line of main?");
    td_free(w);
    CHECK_INT(td_run(td_thread(.target = nothing)), 0);
    return 0;
}

/* Catches: a start that waits for ever for a spawner that never gets to td_init. */
TEST_LIMIT(full_a_spawner_that_never_reaches_td_init, 120)
{
    helper_options o = { .init = "never_reached_anew" };
    CHECK_INT(helper_run(&o, "waits_for_its_spawner", NULL), 0);
    CHECK_NOTHING_LEFT();
}

/* --- more of preparing ----------------------------------------------------------------------------------------------
 */

static int prepare_that_forks(void)
{
    for (int i = 0; i < 3; i++)
        if (fork() == 0)
            _exit(i);
    event_add(STARTED);
    return 0;
}

INIT(forks_in_prepare)
{
    td_init(.prepare = prepare_that_forks);
}

HELPER(forked_in_prepare)
{
    td_worker *w = WORKER(td_process(.target = tells_parent));
    REQUIRE_OK(td_start(w));
    REQUIRE_OK(td_join(w));
    td_free(w);
    check_works();
    WAIT_UNTIL(others_zombies() == 0, 5); /* it has reaped them */
    return 0;
}

/* Catches: children of the spawner that are no workers, taken for some, or never reaped. */
TEST(processes_forked_by_prepare)
{
    helper_options o = { .init = "forks_in_prepare" };
    CHECK_INT(helper_run(&o, "forked_in_prepare", NULL), 0);
    CHECK_INT(event_count(STARTED), 1);
    WAIT_UNTIL(others() == 0, 5); /* they may have been the last to run */
}

enum { FIRED, SAID }; /* of the page's numbers */

INIT(starts_at_once_with_a_fault)
{
    const char *at = getenv("FAULT_AT");
    bool anew = getenv(TD__MARKER) != NULL; /* the spawner counts on from the program's number */
    if (at && !anew)
        td__fault_arm(atol(at));
    int code = td_init(.start_now = true);
    page->number[SAID] = code == 0 || (code < 0 && td_last_error() == code && td_last_message()[0]);
    page->number[FIRED] = td__fault_fired();
    td__fault_disarm();
}

HELPER(has_started_at_once)
{
    check_works();
    return 0;
}

/* Each call of the system that td_init makes fails once. Catches: an error without a sentence; a program that cannot
 * start anything afterwards. */
TEST_LIMIT(each_call_of_td_init_fails_once, 120)
{
    helper_options o = { .init = "starts_at_once_with_a_fault" };
    int fired = 0, quiet = 0;
    for (long n = 1; quiet < 3 && n < 300; n++) {
        char text[32];
        snprintf(text, sizeof text, "%ld", n);
        setenv("FAULT_AT", text, 1);
        if (!CHECK_INT(helper_run(&o, "has_started_at_once", NULL), 0) || !CHECK_INT(page->number[SAID], 1))
            harness_note("    call %ld", n);
        quiet = page->number[FIRED] ? 0 : quiet + 1;
        fired += page->number[FIRED] != 0;
        WAIT_UNTIL(others() == 0, 5);
    }
    CHECK(fired > 10 && quiet == 3);
}

/* --- core dumps
 * ------------------------------------------------------------------------------------------------------- */

static int tells_core_limit(td_call *call)
{
    struct rlimit limit;
    REQUIRE(getrlimit(RLIMIT_CORE, &limit) == 0);
    return td_return(call, uint64_t, limit.rlim_cur);
}

/* Catches: workers that dump core, which takes seconds, where the program may and has not asked for theirs. */
TEST_METHODS(workers_dump_no_core)
{
    struct rlimit limit;
    REQUIRE(getrlimit(RLIMIT_CORE, &limit) == 0);
    if (limit.rlim_max < 2)
        SKIP("core dumps cannot be allowed here");
    for (int i = 0; i < 2; i++) { /* from the beginning, and raised after the spawner has started */
        limit.rlim_cur = limit.rlim_max < 100000 ? limit.rlim_max : (rlim_t)100000 + (rlim_t)i;
        REQUIRE(setrlimit(RLIMIT_CORE, &limit) == 0);
        uint64_t got = 99;
        td_worker *w = JOINED(NEW(.target = tells_core_limit));
        CHECK_OK(td_result(w, uint64_t, &got));
        CHECK_INT(got, 1);
        td_free(w);
    }
}

/* --- descriptors of things
 * ----------------------------------------------------------------------------------------------- */

/* Catches: a descriptor that tells nothing, or is not the thing's. */
TEST(descriptors_of_all_kinds)
{
    td_connection *ends[2];
    bool ready;
    REQUIRE_OK(td_pipe_duplex(&ends[0], &ends[1]));
    td_worker *w = WORKER(td_process(.target = until_go));
    REQUIRE_OK(td_start(w));
    int of_worker = td_descriptor(TD_WAIT_WORKER(w)), of_connection = td_descriptor(TD_WAIT_CONNECTION(ends[0]));
    REQUIRE(of_worker >= 0 && of_connection >= 0);
    CHECK_INT(of_worker, td_sentinel(w));
    CHECK_INT(of_connection, td_connection_fileno(ends[0]));
    CHECK_INT(td_descriptor(TD_WAIT_DESCRIPTOR(0)), 0);
    CHECK_ERROR(td_descriptor(TD_WAIT_DESCRIPTOR(-1)), TD_EINVAL);
    CHECK_ERROR(td_descriptor_clear(of_worker), TD_EINVAL);
    CHECK_ERROR(td_descriptor_close(of_connection), TD_EINVAL);
    CHECK_INT(td__poll(&of_worker, &ready, 1, 1), 0);
    CHECK_INT(td__poll(&of_connection, &ready, 1, 1), 0);
    CHECK_OK(td_send(ends[1], "x", 1));
    CHECK_INT(td__poll(&of_connection, &ready, 1, td__deadline(td_s(20))), 1);
    event_set(GO);
    CHECK_INT(td__poll(&of_worker, &ready, 1, td__deadline(td_s(20))), 1);
    CHECK_OK(td_join(w));
    td_free(w);
    td_connection_close(ends[0]);
    td_connection_close(ends[1]);
}

/* Each call of the system that it takes to watch an event by a descriptor fails once. */
TEST(each_call_of_a_descriptor_fails_once)
{
    td_event event = { 0 };
    bool ready, fired = true;
    int works = td_descriptor(TD_WAIT_EVENT(&event)); /* so that the thread that watches is there */
    REQUIRE(works >= 0);
    CHECK_OK(td_descriptor_close(works));
    int before = count_fds();
    for (long n = 1; fired; n++) {
        REQUIRE(n < 100);
        td__fault_arm(n);
        int fd = td_descriptor(TD_WAIT_EVENT(&event));
        fired = td__fault_fired();
        td__fault_disarm();
        if (fd < 0) {
            CHECK(fired && td_last_error() == fd && td_last_message()[0]);
            fd = td_descriptor(TD_WAIT_EVENT(&event));
        }
        REQUIRE(fd >= 0);
        td_event_set(&event);
        CHECK_INT(td__poll(&fd, &ready, 1, td__deadline(td_s(20 * SLOW))), 1);
        td_event_clear(&event);
        CHECK_OK(td_descriptor_close(fd));
    }
    CHECK_INT(count_fds(), before);
}
