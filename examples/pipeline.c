/* SPDX-License-Identifier: MIT */
/*
 * A pipeline over processes: one counts, three square, the main program adds up. Half-way, one of the three is killed.
 * Nothing is lost: the queues go on, what it was just taking out comes back, and the number it was working on is in
 * shared memory, from where it is put into the queue again.
 */
#include <stdio.h>
#include <tandem.h>

enum { NUMBERS = 1000, SQUARERS = 3, KILLED = 1 };

struct result {
    long number, square;
};

struct pipeline {
    td_queue *numbers, *results;
    long in_hand[SQUARERS]; /* the number that this squarer works on, or 0 */
};

struct squarer {
    struct pipeline *pipeline;
    int index;
};

static int count(td_call *call)
{
    struct pipeline *pipeline = td_arg_shared(call);
    for (long number = 1; number <= NUMBERS; number++)
        if (td_queue_put(pipeline->numbers, &number) < 0)
            return td_fail(call, 1, "%s", td_last_message());
    return 0;
}

static int square(td_call *call)
{
    struct squarer me = td_arg(call, struct squarer);
    long *in_hand = &me.pipeline->in_hand[me.index];
    while (td_queue_get(me.pipeline->numbers, in_hand) == 0) { /* straight to where main finds it */
        struct result result = { *in_hand, *in_hand * *in_hand };
        if (td_queue_put(me.pipeline->results, &result) < 0)
            return td_fail(call, 1, "%s", td_last_message());
        *in_hand = 0;
    }
    return 0; /* the queue has been shut down */
}

/* A number may come twice, if its squarer was killed between its result and saying so. */
static long add_up(struct pipeline *pipeline, td_worker *squarer[])
{
    static bool seen[NUMBERS + 1];
    struct result result;
    long sum = 0;
    for (int count = 0; count < NUMBERS; count++) {
        if (count == NUMBERS / 2) {
            td_kill(squarer[KILLED]);
            td_join(squarer[KILLED]);
            printf("%s: %s\n", td_name(squarer[KILLED]), td_message(squarer[KILLED]));
            if (pipeline->in_hand[KILLED] != 0)
                td_queue_put(pipeline->numbers, &pipeline->in_hand[KILLED]);
        }
        do {
            if (td_queue_get_for(pipeline->results, &result, td_s(60)) < 0)
                return -1;
        } while (seen[result.number]);
        seen[result.number] = true;
        sum += result.square;
    }
    return sum;
}

int main(void)
{
    td_init();

    struct pipeline *pipeline = td_shared_calloc(1, sizeof *pipeline);
    if (pipeline == NULL || (pipeline->numbers = td_queue_new(.item_size = sizeof(long), .shared = true)) == NULL ||
        (pipeline->results = td_queue_new(.item_size = sizeof(struct result), .capacity = 16, .shared = true)) ==
            NULL) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }

    td_worker *counter = td_process(.target = count, .args = TD_SHARED(pipeline), .name = "counter");
    td_worker *squarer[SQUARERS];
    int failed = td_start(counter);
    for (int i = 0; i < SQUARERS; i++) {
        char name[32];
        snprintf(name, sizeof name, "squarer %d", i + 1);
        squarer[i] = td_process(.target = square, .args = TD_ARG(struct squarer, pipeline, i), .name = name);
        failed |= td_start(squarer[i]);
    }

    long sum = failed ? -1 : add_up(pipeline, squarer);
    td_queue_shutdown(pipeline->numbers, false);
    if (sum < 0) {
        fprintf(stderr, "%s\n", td_last_message());
        td_queue_shutdown(pipeline->results, true); /* nobody gets them any more */
    } else {
        printf("the sum of %d squares is %ld\n", NUMBERS, sum);
    }

    for (int i = 0; i < SQUARERS; i++) {
        td_join(squarer[i]);
        if (i != KILLED)
            printf("%s: %s\n", td_name(squarer[i]), td_state_name(td_outcome(squarer[i])));
        td_free(squarer[i]);
    }
    td_join(counter);
    td_free(counter);
    td_queue_free(pipeline->numbers);
    td_queue_free(pipeline->results);
    td_shared_free(pipeline);
    return sum < 0;
}
