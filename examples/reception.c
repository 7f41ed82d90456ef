/* SPDX-License-Identifier: MIT */
/*
 * A receptionist waits for whatever comes first: a letter (by a queue), a call (by a connection), closing time (an
 * event), or the end of the process from which all of these come.
 */
#include <stdio.h>
#include <tandem.h>

enum { TEXT = 32 };

struct desk {
    td_queue *letters;
    td_event closing_time;
    td_semaphore attended; /* to what has come last */
};

static int world_outside(td_call *call)
{
    static const char letter[TEXT] = "a letter from Paris";
    struct desk *desk = td_arg_shared(call);
    td_connection *telephone = td_call_connection(call, 0);

    for (int day = 0; day < 2; day++) {
        if (td_queue_put(desk->letters, letter) < 0 || td_semaphore_acquire(&desk->attended) < 0 ||
            td_send_value(telephone, TD_STR("a call from room 12")) < 0 || td_semaphore_acquire(&desk->attended) < 0 ||
            td_event_set(&desk->closing_time) < 0 || td_semaphore_acquire(&desk->attended) < 0)
            return td_fail(call, 1, "%s", td_last_message());
    }
    return 0;
}

static int attend(struct desk *desk, td_connection *telephone, td_worker *world)
{
    enum { LETTERS, TELEPHONE, CLOSING_TIME, WORLD, THINGS };
    td_waitable things[THINGS] = {
        [LETTERS] = TD_WAIT_QUEUE(desk->letters),
        [TELEPHONE] = TD_WAIT_CONNECTION(telephone),
        [CLOSING_TIME] = TD_WAIT_EVENT(&desk->closing_time),
        [WORLD] = TD_WAIT_WORKER(world),
    };
    char text[TEXT];
    while (!things[WORLD].ready) {
        if (td_wait_any(things, THINGS, TD_NO_LIMIT, NULL) < 0)
            return -1;
        if (things[LETTERS].ready && td_queue_try_get(desk->letters, text) == 0) {
            printf("%s\n", text);
            td_semaphore_release(&desk->attended);
        }
        if (things[TELEPHONE].ready) {
            if (td_recv_into(telephone, text, sizeof text, NULL) == 0) {
                printf("%s\n", text);
                td_semaphore_release(&desk->attended);
            } else {
                things[TELEPHONE].kind = TD_WAITS_NOTHING; /* the other end has gone */
            }
        }
        if (things[CLOSING_TIME].ready) {
            printf("closing time\n");
            td_event_clear(&desk->closing_time); /* it stays set otherwise */
            td_semaphore_release(&desk->attended);
        }
    }
    printf("%s has %s\n", td_name(world), td_state_name(td_outcome(world)));
    return 0;
}

int main(void)
{
    td_init();

    td_connection *ours, *theirs;
    struct desk *desk = td_shared_calloc(1, sizeof *desk);
    if (desk == NULL || (desk->letters = td_queue_new(.item_size = TEXT, .shared = true)) == NULL ||
        td_pipe(&ours, &theirs) < 0) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }
    td_worker *world = td_process(.target = world_outside, .name = "the world", .args = TD_SHARED(desk),
                                  .connections = TD_CONNECTIONS(theirs), .daemon = TD_DAEMON_YES);
    int failed = td_start(world);
    td_connection_free(theirs); /* the world has its own */
    if (failed || attend(desk, ours, world) < 0) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1; /* which ends the world, as it is a daemon */
    }
    td_free(world);
    td_connection_free(ours);
    td_queue_free(desk->letters);
    td_shared_free(desk);
}
