/* SPDX-License-Identifier: MIT */
/* Runners wait for one event, each in its own process; a semaphore tells the referee that all of them are ready. */
#include <stdio.h>
#include <tandem.h>

struct track {
    td_semaphore ready;
    td_event gun;
};

static int runner(td_call *call)
{
    struct track *track = td_arg_shared(call);

    td_semaphore_release(&track->ready);
    if (td_event_wait_for(&track->gun, td_s(60)) < 0)
        return td_fail(call, 1, "no gun: %s", td_last_message());
    printf("%s runs\n", td_call_name(call));
    return 0;
}

int main(void)
{
    static const char *const names[] = { "Ada", "Ben", "Cleo" };
    td_worker *runners[3];
    int started = 0, missing = 0;

    td_init();
    struct track *track = td_shared_calloc(1, sizeof *track); /* of zeroes: no unit, not set */
    if (!track) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }
    for (int i = 0; i < 3; i++) {
        runners[i] = td_process(.target = runner, .args = TD_SHARED(track), .name = names[i]);
        if (td_start(runners[i]) == 0)
            started++;
    }
    for (int i = 0; i < started; i++)
        td_semaphore_acquire(&track->ready);
    puts("Bang!");
    fflush(stdout);
    td_event_set(&track->gun); /* for all who wait, and those who come late */

    for (int i = 0; i < 3; i++) {
        td_join(runners[i]);
        if (td_outcome(runners[i]) != TD_RETURNED) {
            fprintf(stderr, "%s\n", td_describe(runners[i]));
            missing++;
        }
        td_free(runners[i]);
    }
    td_shared_free(track);
    printf("%d missing\n", missing);
    return missing;
}
