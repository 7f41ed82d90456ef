/* SPDX-License-Identifier: MIT */
/*
 * Two take turns: each waits for its own semaphore, and releases the other's. Any thread may release a semaphore, not
 * only the one that acquired it; that makes it a signal.
 */
#include <stdio.h>
#include <tandem.h>

enum { ROUNDS = 3 };

struct pendulum {
    td_semaphore turn[2];
};

struct side {
    struct pendulum *pendulum;
    int number;
};

static int swing(td_call *call)
{
    struct side side = td_arg(call, struct side);
    td_semaphore *turn = side.pendulum->turn;

    for (int i = 0; i < ROUNDS; i++) {
        if (td_semaphore_acquire_for(&turn[side.number], td_s(60)) < 0)
            return td_fail(call, 1, "%s is alone: %s", td_call_name(call), td_last_message());
        printf("%s\n", td_call_name(call));
        fflush(stdout); /* before the other one prints */
        td_semaphore_release(&turn[!side.number]);
    }
    return 0;
}

int main(void)
{
    td_init();

    struct pendulum *pendulum = td_shared_calloc(1, sizeof *pendulum);
    if (pendulum == NULL) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }
    td_semaphore_init(&pendulum->turn[0], 1); /* the first one begins; the other semaphore has no unit yet */

    td_worker *tick = td_process(.target = swing, .args = TD_ARG(struct side, pendulum, 0), .name = "tick");
    td_worker *tock = td_process(.target = swing, .args = TD_ARG(struct side, pendulum, 1), .name = "tock");
    if (td_start(tick) < 0 || td_start(tock) < 0)
        fprintf(stderr, "%s\n", td_last_message());
    td_join(tick);
    td_join(tock);
    int failed = td_outcome(tick) != TD_RETURNED || td_outcome(tock) != TD_RETURNED;
    td_free(tick);
    td_free(tock);
    td_shared_free(pendulum);
    return failed;
}
