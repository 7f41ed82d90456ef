/* SPDX-License-Identifier: MIT */
/*
 * Dishes come to the sink from one meal after the other, and three workers wash them. A meal is over when all of its
 * dishes are clean: the queue is joined, by main, while the workers wait for more.
 */
#include <stdio.h>
#include <tandem.h>

enum { WORKERS = 3 };

struct kitchen {
    td_queue *sink;
    int *clean; /* a shared value, with a lock of its own */
};

static int wash(td_call *call)
{
    struct kitchen *kitchen = td_arg_shared(call);
    int dish;
    while (td_queue_get(kitchen->sink, &dish) == 0) { /* until the sink is shut down */
        td_shared_add(kitchen->clean, 1);
        td_queue_task_done(kitchen->sink);
    }
    return 0;
}

static int meal(struct kitchen *kitchen, const char *name, int dishes)
{
    for (int dish = 0; dish < dishes; dish++)
        if (td_queue_put(kitchen->sink, &dish) < 0)
            return -1;
    if (td_queue_join_for(kitchen->sink, td_s(60)) < 0)
        return -1;
    printf("after %s, %d dishes are clean\n", name, td_shared_get(kitchen->clean));
    return 0;
}

int main(void)
{
    td_init();

    struct kitchen *kitchen = td_shared_calloc(1, sizeof *kitchen);
    if (kitchen == NULL || (kitchen->clean = td_shared_value(int, 0)) == NULL ||
        (kitchen->sink = td_queue_new(.item_size = sizeof(int), .capacity = 8, .joinable = true, .shared = true)) ==
            NULL) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }

    int failed = 0;
    td_worker *workers[WORKERS];
    for (int i = 0; i < WORKERS; i++) {
        workers[i] = td_process(.target = wash, .args = TD_SHARED(kitchen));
        failed |= td_start(workers[i]);
    }
    if (failed || meal(kitchen, "breakfast", 12) < 0 || meal(kitchen, "lunch", 40) < 0 ||
        meal(kitchen, "dinner", 48) < 0) {
        fprintf(stderr, "%s\n", td_last_message());
        failed = 1;
    }
    td_queue_shutdown(kitchen->sink, failed);
    for (int i = 0; i < WORKERS; i++) {
        td_join(workers[i]);
        td_free(workers[i]); /* tells of one that failed */
    }
    td_queue_free(kitchen->sink);
    td_shared_free(kitchen->clean);
    td_shared_free(kitchen);
    return failed;
}
