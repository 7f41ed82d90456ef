/* SPDX-License-Identifier: MIT */
/* Patients come as they come, and are seen by urgency: a priority queue, filled in another process. */
#include <stdio.h>
#include <tandem.h>

struct patient {
    int urgency; /* the smallest number first; equal ones as they came */
    char name[20];
};

static int admit(td_call *call)
{
    static const struct patient patients[] = {
        { 3, "Ann: a cough" }, { 1, "Bob: heart" },     { 3, "Cid: a finger" },
        { 2, "Dot: a leg" },   { 1, "Eve: no breath" },
    };
    td_queue *waiting = td_arg_shared(call);
    for (size_t i = 0; i < sizeof patients / sizeof *patients; i++) {
        printf("comes   %s\n", patients[i].name);
        if (td_queue_put(waiting, &patients[i]) < 0)
            return td_fail(call, 1, "%s", td_last_message());
    }
    return 0;
}

int main(void)
{
    td_init();

    td_queue *waiting = td_queue_new(.item_size = sizeof(struct patient), .kind = TD_QUEUE_PRIORITY,
                                     .priority = TD_PRIORITY(struct patient, urgency), .shared = true);
    if (waiting == NULL || td_run(td_process(.target = admit, .args = TD_SHARED(waiting))) != 0) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }

    struct patient patient;
    while (td_queue_try_get(waiting, &patient) == 0)
        printf("is seen %s\n", patient.name);
    td_queue_free(waiting);
}
