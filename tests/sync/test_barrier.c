/* SPDX-License-Identifier: MIT */
/* Barriers: Python's states, and no party that dies is waited for. */
#include "monitors.h"

#include <pthread.h>
#include <sys/wait.h>

enum { ACTING };

typedef struct meeting {
    td_barrier barrier, elsewhere;
    pthread_barrier_t theirs;
    bool is_pthread;
    int parties, rounds, what;
    _Atomic int arrived[16], index[64], actions, results[16], done;
    td_cancel cancel;
} meeting;

static meeting *meeting_new(const mode *how, int parties)
{
    meeting *m = object_new(how, sizeof *m);
    REQUIRE_OK(td_barrier_init(&m->barrier, (uint32_t)parties));
    m->parties = parties;
    return m;
}

/* --- meeting ----------------------------------------------------------------------------------------------- */

static int wait_at(meeting *m, int *index)
{
    if (m->is_pthread) {
        pthread_barrier_wait(&m->theirs);
        *index = -1;
        return 0;
    }
    *index = td_barrier_wait_for(&m->barrier, LONG);
    return *index < 0 ? *index : 0;
}

/* Nobody goes on before all have come: the count of a round is complete when anybody sees it. */
static int meets_often(td_call *call)
{
    meeting *m = OBJECT(call);
    td__shake_steps(NUMBER(call) % 2 ? 50 : 0);
    for (int round = 0; round < m->rounds; round++) {
        int index, place = round % 3;
        m->arrived[place]++;
        REQUIRE_INT(wait_at(m, &index), 0);
        REQUIRE_INT(m->arrived[place], m->parties);
        if (index >= 0)
            CHECK_INT(m->index[place * 16 + index]++, 0);
        /* Of the round before, which all have looked at. */
        m->arrived[(place + 2) % 3] = 0;
        for (int i = 0; i < m->parties; i++)
            m->index[(place + 2) % 3 * 16 + i] = 0;
        REQUIRE_INT(wait_at(m, &index), 0);
    }
    return 0;
}

static void meet_often(const mode *how, meeting *m)
{
    td_worker *w[8];
    m->rounds = 1500 / SLOW;
    for (int i = 0; i < m->parties; i++)
        w[i] = begin(how, meets_often, m, i);
    for (int i = 0; i < m->parties; i++)
        end_well(w[i]);
    if (!m->is_pthread)
        CHECK_INT(td_barrier_waiting(&m->barrier), 0);
    td_barrier_destroy(&m->barrier);
    object_free(how, m);
}

TEST_PLACES(all_meet_round_after_round)
{
    for (int parties = 1; parties <= 5; parties += 2)
        meet_often(how, meeting_new(how, parties));
}

TEST(all_meet_round_after_round_pthread)
{
    meeting *m = meeting_new(&mode_private, 3);
    m->is_pthread = true;
    pthread_barrier_init(&m->theirs, NULL, 3);
    meet_often(&mode_private, m);
}

/* More who come than places: they meet in groups of three, however late some leave the last one. */
static int meets_in_groups(td_call *call)
{
    meeting *m = OBJECT(call);
    td__shake_steps(NUMBER(call) % 2 ? 50 : 0);
    while (m->done++ < m->rounds * 3) {
        int index = td_barrier_wait_for(&m->barrier, LONG);
        REQUIRE(index >= 0 && index < 3);
        m->index[index]++;
    }
    return 0;
}

TEST_PLACES(groups_meet_at_one_barrier)
{
    meeting *m = meeting_new(how, 3);
    td_worker *w[7];
    m->rounds = 2000 / SLOW;
    for (int i = 0; i < 7; i++)
        w[i] = begin(how, meets_in_groups, m, i);
    for (int i = 0; i < 7; i++)
        end_well(w[i]);
    for (int i = 0; i < 3; i++)
        CHECK_INT(m->index[i], m->rounds);
    object_free(how, m);
}

/* --- states ------------------------------------------------------------------------------------------------ */

static int waits_once(td_call *call)
{
    meeting *m = OBJECT(call);
    m->results[NUMBER(call)] = td_barrier_wait_for(&m->barrier, LONG);
    return 0;
}

static int gives_up(td_call *call)
{
    meeting *m = OBJECT(call);
    CHECK_ERROR(td_barrier_wait_for(&m->barrier, td_ms(20)), TD_ETIMEOUT);
    return 0;
}

static int is_cancelled(td_call *call)
{
    meeting *m = OBJECT(call);
    CHECK_ERROR(td_barrier_wait_with(&m->barrier, TD_NO_LIMIT, &m->cancel), TD_ECANCELLED);
    return 0;
}

/* It works: three parties, the caller among them. */
static void still_works(const mode *how, meeting *m)
{
    td_worker *w[2];
    CHECK(!td_barrier_broken(&m->barrier));
    CHECK_INT(td_barrier_waiting(&m->barrier), 0);
    for (int i = 0; i < 2; i++)
        w[i] = begin(how, waits_once, m, i);
    int index = td_barrier_wait_for(&m->barrier, LONG);
    for (int i = 0; i < 2; i++)
        end_well(w[i]);
    CHECK(index >= 0);
    CHECK_INT(index + m->results[0] + m->results[1], 0 + 1 + 2);
}

/* The last of a case: after a reset it works, between parties of this mode. */
static void reuse(const mode *how, const mode *parties, meeting *m)
{
    CHECK_OK(td_barrier_reset(&m->barrier));
    still_works(parties, m);
    object_free(how, m);
}

static void two_wait(const mode *how, meeting *m, td_worker *w[2])
{
    for (int i = 0; i < 2; i++)
        w[i] = begin(how, waits_once, m, i);
    UNTIL(td_barrier_waiting(&m->barrier) == 2);
}

static void two_failed(meeting *m, td_worker *w[2])
{
    for (int i = 0; i < 2; i++) {
        end_well(w[i]);
        CHECK_INT(m->results[i], TD_EBROKEN);
    }
}

TEST_PLACES(a_limit_breaks_it_for_all)
{
    meeting *m = meeting_new(how, 3);
    td_worker *first = begin(how, waits_once, m, 0);
    UNTIL(td_barrier_waiting(&m->barrier) == 1);
    end_well(begin(how, gives_up, m, 0));
    end_well(first);
    CHECK_INT(m->results[0], TD_EBROKEN);
    CHECK(td_barrier_broken(&m->barrier));
    CHECK_INT(td_barrier_waiting(&m->barrier), 0);
    CHECK_ERROR(td_barrier_wait(&m->barrier), TD_EBROKEN);
    reuse(how, how, m);
}

TEST_PLACES(a_cancellation_breaks_it_for_all)
{
    meeting *m = meeting_new(how, 3);
    td_worker *w[2] = { begin(how, is_cancelled, m, 0), begin(how, waits_once, m, 0) };
    UNTIL(td_barrier_waiting(&m->barrier) == 2);
    td_cancel_fire(&m->cancel);
    end_well(w[0]);
    end_well(w[1]);
    CHECK_INT(m->results[0], TD_EBROKEN);
    CHECK(td_barrier_broken(&m->barrier));
    reuse(how, how, m);
}

TEST_PLACES(abort_and_reset)
{
    meeting *m = meeting_new(how, 3);
    td_worker *w[2];
    CHECK_INT(td_barrier_parties(&m->barrier), 3);
    CHECK_OK(td_barrier_reset(&m->barrier));
    still_works(how, m);

    two_wait(how, m, w);
    CHECK_OK(td_barrier_abort(&m->barrier));
    two_failed(m, w);
    CHECK(td_barrier_broken(&m->barrier));
    CHECK_OK(td_barrier_abort(&m->barrier));
    CHECK_ERROR(td_barrier_wait_for(&m->barrier, LONG), TD_EBROKEN);
    CHECK_OK(td_barrier_reset(&m->barrier));
    still_works(how, m);

    /* Those who wait fail, and it is not broken. */
    two_wait(how, m, w);
    CHECK_OK(td_barrier_reset(&m->barrier));
    CHECK(!td_barrier_broken(&m->barrier));
    two_failed(m, w);
    still_works(how, m);
    object_free(how, m);
}

/* One that a reset has sent away has not gone yet, being stopped: newcomers wait for it. */
TEST_METHODS(newcomers_wait_out_a_reset)
{
    meeting *m = meeting_new(how, 3);
    td_worker *w[2], *later[2];
    two_wait(how, m, w);
    kill(td_pid(w[0]), SIGSTOP);
    char state[64];
    UNTIL(status_of(td_pid(w[0]), "State", state, sizeof state)[0] == 'T');
    CHECK_OK(td_barrier_reset(&m->barrier));
    end_well(w[1]);
    CHECK_INT(m->results[1], TD_EBROKEN);
    for (int i = 0; i < 2; i++)
        later[i] = begin(how, waits_once, m, i + 2);
    CHECK_ERROR(td_barrier_wait_for(&m->barrier, td_ms(20)), TD_ETIMEOUT); /* and has broken nothing */
    CHECK(!td_barrier_broken(&m->barrier));
    CHECK_INT(td_barrier_waiting(&m->barrier), 0);
    kill(td_pid(w[0]), SIGCONT);
    end_well(w[0]);
    CHECK_INT(m->results[0], TD_EBROKEN);
    CHECK(td_barrier_wait_for(&m->barrier, LONG) >= 0);
    end_well(later[0]);
    end_well(later[1]);
    CHECK(m->results[2] >= 0 && m->results[3] >= 0);
    object_free(how, m);
}

/* --- actions ----------------------------------------------------------------------------------------------- */

static int counts(void *argument)
{
    meeting *m = argument;
    for (int i = 0; i < 3; i++)
        CHECK_INT(m->results[i], 0); /* nobody has gone on */
    CHECK_ERROR(td_barrier_wait(&m->barrier), TD_EDEADLOCK);
    m->actions++;
    return 0;
}

static int fails(void *argument)
{
    meeting *m = argument;
    m->actions++;
    return 7;
}

static int waits_with_action(td_call *call)
{
    meeting *m = OBJECT(call);
    int r = td_barrier_wait_action_for(&m->barrier, NUMBER(call) < 10 ? counts : fails, m, LONG);
    m->results[NUMBER(call) % 10] = r < 0 ? r : 100 + r;
    return 0;
}

TEST_PLACES(one_runs_the_action_first)
{
    meeting *m = meeting_new(how, 3);
    td_worker *w[3];
    for (int round = 1; round <= 3; round++) {
        for (int i = 0; i < 3; i++)
            m->results[i] = 0;
        for (int i = 0; i < 3; i++)
            w[i] = begin(how, waits_with_action, m, i);
        for (int i = 0; i < 3; i++)
            end_well(w[i]);
        CHECK_INT(m->actions, round);
        CHECK_INT(m->results[0] + m->results[1] + m->results[2], 303);
    }
    /* One that fails. */
    for (int i = 0; i < 3; i++)
        w[i] = begin(how, waits_with_action, m, i + 10);
    for (int i = 0; i < 3; i++) {
        end_well(w[i]);
        CHECK_INT(m->results[i], TD_EBROKEN);
    }
    CHECK_INT(m->actions, 4);
    CHECK(td_barrier_broken(&m->barrier));
    reuse(how, how, m);
}

/* An action that waits for other things is not mistaken for being elsewhere. */
static int meets_elsewhere(void *argument)
{
    meeting *m = argument;
    CHECK_ERROR(td_barrier_wait_action(&m->elsewhere, fails, m), TD_ESTATE);
    event_set(ACTING);
    CHECK(td_barrier_wait_for(&m->elsewhere, LONG) >= 0);
    return 0;
}

static int acts_elsewhere(td_call *call)
{
    meeting *m = OBJECT(call);
    m->results[NUMBER(call)] = td_barrier_wait_action_for(&m->barrier, meets_elsewhere, m, LONG);
    return 0;
}

/* One of three is in its action, and waits there. */
static meeting *meeting_acting(const mode *how, td_worker *w[3])
{
    meeting *m = meeting_new(how, 3);
    REQUIRE_OK(td_barrier_init(&m->elsewhere, 2));
    for (int i = 0; i < 3; i++)
        w[i] = begin(how, acts_elsewhere, m, i);
    event_wait(ACTING);
    return m;
}

TEST_PLACES(an_action_may_wait)
{
    td_worker *w[3];
    meeting *m = meeting_acting(how, w);
    /* Full: a newcomer waits for the next phase, and breaks nothing if it gives up. */
    CHECK_ERROR(td_barrier_wait_for(&m->barrier, td_ms(20)), TD_ETIMEOUT);
    CHECK(!td_barrier_broken(&m->barrier));
    CHECK(td_barrier_wait_for(&m->elsewhere, LONG) >= 0);
    for (int i = 0; i < 3; i++)
        end_well(w[i]);
    CHECK_INT(m->results[0] + m->results[1] + m->results[2], 3);
    still_works(how, m);
    object_free(how, m);
}

/* What breaks it while the action runs counts: nobody goes on. */
TEST_PLACES(broken_while_the_action_runs)
{
    td_worker *w[3];
    meeting *m = meeting_acting(how, w);
    CHECK_OK(td_barrier_abort(&m->barrier));
    CHECK_OK(td_barrier_reset(&m->barrier));
    CHECK(td_barrier_wait_for(&m->elsewhere, LONG) >= 0);
    for (int i = 0; i < 3; i++) {
        end_well(w[i]);
        CHECK_INT(m->results[i], TD_EBROKEN);
    }
    still_works(how, m);
    object_free(how, m);
}

static int ends_its_thread(void *argument)
{
    pthread_exit(argument);
    return 0;
}

static int is_ended(void *argument)
{
    meeting *m = argument;
    m->actions++;
    pause_ms(20000); /* where a cancellation ends it */
    return 0;
}

static void *comes_last(void *argument)
{
    meeting *m = argument;
    td_barrier_wait_action_for(&m->barrier, m->what ? is_ended : ends_its_thread, m, LONG);
    return NULL; /* not reached */
}

/* Catches: a thread that ends inside its action, for which the others wait for ever. */
TEST_PLACES(a_thread_that_ends_in_its_action_breaks_it)
{
    for (int cancelled = 0; cancelled < 2; cancelled++) {
        meeting *m = meeting_new(how, 3);
        td_worker *w[2];
        pthread_t last;
        void *result;
        m->what = cancelled;
        two_wait(how, m, w);
        REQUIRE_INT(pthread_create(&last, NULL, comes_last, m), 0);
        if (cancelled) {
            UNTIL(m->actions == 1);
            pthread_cancel(last);
        }
        REQUIRE_INT(pthread_join(last, &result), 0);
        CHECK(result == (cancelled ? PTHREAD_CANCELED : m));
        two_failed(m, w);
        CHECK(td_barrier_broken(&m->barrier));
        reuse(how, how, m);
    }
}

TEST(bad_input)
{
    td_barrier zero = { .td_parties = 0 };
    CHECK_ERROR(td_barrier_init(NULL, 3), TD_EINVAL);
    CHECK_ERROR(td_barrier_init(&zero, 0), TD_EINVAL);
    CHECK_ERROR(td_barrier_init(&zero, UINT32_MAX), TD_EINVAL);
    CHECK_ERROR(td_barrier_wait(NULL), TD_EINVAL);
    CHECK_ERROR(td_barrier_wait(&zero), TD_EINVAL);
    CHECK_ERROR(td_barrier_abort(&zero), TD_EINVAL);
    CHECK_ERROR(td_barrier_reset(NULL), TD_EINVAL);
    CHECK_INT(td_barrier_parties(NULL), 0);
    CHECK_INT(td_barrier_waiting(NULL), 0);
    CHECK(!td_barrier_broken(NULL));
    td_barrier_destroy(NULL);
    static td_barrier one = TD_BARRIER_INIT(1);
    CHECK_INT(td_barrier_wait(&one), 0);
    CHECK_INT(td_barrier_parties(&one), 1);
}

/* --- deaths ------------------------------------------------------------------------------------------------ */

static int succeeds(void *argument)
{
    meeting *m = argument;
    m->actions++;
    return 0;
}

enum { BARE, WITH_ACTION, ABORTS, RESETS };

static int visits_and_dies(td_call *call)
{
    meeting *m = OBJECT(call);
    td__kill_at_step(NUMBER(call));
    int r = m->what == BARE          ? td_barrier_wait_for(&m->barrier, LONG)
            : m->what == WITH_ACTION ? td_barrier_wait_action_for(&m->barrier, succeeds, m, LONG)
            : m->what == ABORTS      ? td_barrier_abort(&m->barrier)
                                     : td_barrier_reset(&m->barrier);
    td__kill_at_step(0);
    CHECK(r >= 0);
    return 0;
}

/* Did the two go on? If not, both have failed. */
static bool two_ended(meeting *m, td_worker *w[2])
{
    end_well(w[0]);
    end_well(w[1]);
    bool met = m->results[0] >= 0;
    CHECK(met || (m->results[0] == TD_EBROKEN && m->results[1] == TD_EBROKEN));
    return met;
}

/* Two wait; a third comes last, or breaks or resets it, and dies at each step. The two go on together, or fail
 * together, or wait still, if it had not got so far; and the barrier can be used again. */
static bool kill_last(const mode *how, long n, int what)
{
    meeting *m = meeting_new(how, 3);
    td_worker *w[2];
    m->what = what;
    two_wait(&mode_thread, m, w);
    td_worker *victim = begin(how, visits_and_dies, m, (int)n);
    pid_t pid = td_pid(victim);
    bool well = returned(victim);
    if (!well)
        repaired(pid);
    int mine = -1;
    if (!well && td_barrier_waiting(&m->barrier) == 2) {
        mine = td_barrier_wait_for(&m->barrier, LONG);
        CHECK_INT(mine, 2);
    }
    bool met = two_ended(m, w);
    if (met)
        CHECK_INT(m->results[0] + m->results[1], 0 + 1);
    if (well)
        CHECK_INT(met, what == BARE || what == WITH_ACTION);
    if (what != RESETS && !met)
        CHECK(td_barrier_broken(&m->barrier));
    reuse(how, &mode_thread, m);
    return !well;
}

static bool kill_last_bare(const mode *how, long n)
{
    return kill_last(how, n, BARE);
}

static bool kill_last_with_action(const mode *how, long n)
{
    return kill_last(how, n, WITH_ACTION);
}

static bool kill_aborting(const mode *how, long n)
{
    return kill_last(how, n, ABORTS);
}

static bool kill_resetting(const mode *how, long n)
{
    return kill_last(how, n, RESETS);
}

TEST_METHODS(the_last_one_killed_at_every_step)
{
    climb(how, kill_last_bare, 15);
    climb(how, kill_last_with_action, 30);
}

TEST_METHODS(killed_while_aborting_or_resetting)
{
    climb(how, kill_aborting, 8);
    climb(how, kill_resetting, 8);
}

/* One arrives first and dies at each step, also of leaving: the others are told at once if it had arrived. */
static bool kill_first(const mode *how, long n)
{
    meeting *m = meeting_new(how, 3);
    td_worker *w[2];
    m->what = BARE;
    td_worker *victim = begin(how, visits_and_dies, m, (int)n);
    pid_t pid = td_pid(victim);
    UNTIL(td_barrier_waiting(&m->barrier) == 1 || ended(victim));
    for (int i = 0; i < 2; i++)
        w[i] = begin(&mode_thread, waits_once, m, i);
    bool well = returned(victim);
    if (!well) {
        repaired(pid);
        /* It may have broken it before or after the others came, or have gone on with them, or never have been there.
         */
        UNTIL(td_barrier_broken(&m->barrier) || td_barrier_waiting(&m->barrier) == 2 || (ended(w[0]) && ended(w[1])));
        if (td_barrier_waiting(&m->barrier) == 2)
            CHECK_INT(td_barrier_wait_for(&m->barrier, LONG), 2);
    }
    bool met = two_ended(m, w);
    CHECK_INT(met, m->results[1] >= 0);
    reuse(how, &mode_thread, m);
    return !well;
}

TEST_METHODS(the_first_one_killed_at_every_step)
{
    climb(how, kill_first, 20);
}

/* The action's runner, and all who wait, and the spawner. */
TEST(killed_in_the_action_and_all_at_once)
{
    const mode *how = &mode_forkserver;
    for (int round = 0; round < 3; round++) {
        meeting *m = meeting_new(how, 3);
        REQUIRE_OK(td_barrier_init(&m->elsewhere, 2));
        td_worker *w[3];
        for (int i = 0; i < 2; i++)
            w[i] = begin(round == 0 ? &mode_thread : how, waits_once, m, i);
        UNTIL(td_barrier_waiting(&m->barrier) == 2);
        w[2] = begin(how, acts_elsewhere, m, 2);
        UNTIL(td_barrier_waiting(&m->elsewhere) == 1);
        pid_t spawner = parent_of(td_pid(w[2]));
        pid_t pids[3] = { td_pid(w[0]), td_pid(w[1]), td_pid(w[2]) };
        /* Kept from repairing after the first one before the others are dead, too. */
        kill(spawner, round < 2 ? SIGSTOP : SIGKILL);
        for (int i = round == 0 ? 2 : 0; round < 2 && i < 3; i++)
            kill(pids[i], SIGKILL);
        if (round < 2)
            kill(spawner, SIGCONT);
        for (int i = 0; i < 3; i++)
            CHECK_INT(returned(w[i]), round == 0 && i < 2);
        if (round == 2)
            UNTIL(!process_alive(spawner));
        repaired(pids[2]);
        CHECK(td_barrier_broken(&m->barrier));
        if (round == 0)
            CHECK(m->results[0] == TD_EBROKEN && m->results[1] == TD_EBROKEN);
        reuse(how, &mode_thread, m);
    }
}

static void *waits_in_parent(void *argument)
{
    meeting *m = argument;
    m->results[0] = td_barrier_wait_for(&m->barrier, LONG);
    return NULL;
}

static int forks(void *argument)
{
    pid_t *child = argument;
    int status = -1;
    *child = fork();
    if (*child == 0)
        return 0;
    REQUIRE(waitpid(*child, &status, 0) == *child);
    CHECK_INT(status, 0);
    /* Its record says that it is in here, whatever the child has done meanwhile. */
    CHECK(td__party_self()->acting != NULL);
    return 0;
}

/* An action that forks. Catches: a child that goes on in its parent's record. */
TEST(an_action_that_forks)
{
    static td_barrier private;
    td_barrier *shared = td_shared_calloc(1, sizeof *shared), *both[] = { &private, shared };
    for (int i = 0; i < 2; i++) {
        pid_t child = -1;
        REQUIRE_OK(td_barrier_init(both[i], 1));
        CHECK_INT(td_barrier_wait_action(both[i], forks, &child), 0);
        if (child == 0) {
            if (both[i] == &private)
                CHECK_INT(td_barrier_wait_for(&private, td_s(5)), 0);
            _exit(harness_failed() ? 1 : 0);
        }
        CHECK_INT(td_barrier_wait_for(both[i], td_s(5)), 0);
        CHECK(td__party_self()->acting == NULL);
    }
    td_shared_free(shared);
}

/* In a forked child the parent's parties are not there. */
TEST(a_fork_leaves_the_parties_behind)
{
    if (WITH_TSAN)
        SKIP("ThreadSanitizer knows no threads that begin after a fork");
    static meeting m;
    pthread_t thread;
    REQUIRE_OK(td_barrier_init(&m.barrier, 2));
    pthread_create(&thread, NULL, waits_in_parent, &m);
    UNTIL(td_barrier_waiting(&m.barrier) == 1);
    pid_t pid = fork();
    if (pid == 0) {
        CHECK_INT(td_barrier_waiting(&m.barrier), 0);
        pthread_create(&thread, NULL, waits_in_parent, &m);
        CHECK(td_barrier_wait_for(&m.barrier, LONG) >= 0);
        pthread_join(thread, NULL);
        CHECK(m.results[0] >= 0);
        _exit(harness_failed() ? EXIT_WORKER : 0);
    }
    CHECK_INT(helper_wait(pid), 0);
    CHECK_INT(td_barrier_waiting(&m.barrier), 1);
    CHECK_INT(td_barrier_wait_for(&m.barrier, LONG), 1);
    pthread_join(thread, NULL);
    CHECK_INT(m.results[0], 0);
}

TEST(refusals_of_the_system)
{
    meeting *m = meeting_new(&mode_thread, 2);
    for (long n = 1; n < 40; n++) {
        td_worker *w = begin(&mode_thread, waits_once, m, 0);
        UNTIL(td_barrier_waiting(&m->barrier) == 1);
        td__fault_arm(n);
        CHECK_INT(td_barrier_wait_for(&m->barrier, LONG), 1);
        td__fault_disarm();
        end_well(w);
        CHECK_INT(m->results[0], 0);
    }
    object_free(&mode_thread, m);
}
