/* SPDX-License-Identifier: MIT */
/* Guests of a bar wait for four different things, none of which will come. One cancellation ends all of their waits. */
#include <stdio.h>
#include <tandem.h>

enum { GUESTS = 4 };

struct bar {
    td_cancel closed;
    td_semaphore tables, guests;
    td_queue *drinks;
    td_event bus;
    td_lock telephone;
};

struct guest {
    struct bar *bar;
    int number;
};

static int wait_in(struct bar *bar, int number)
{
    int drink;
    switch (number) {
    case 0:
        return td_semaphore_acquire_with(&bar->tables, TD_NO_LIMIT, &bar->closed);
    case 1:
        return td_queue_get_with(bar->drinks, &drink, TD_NO_LIMIT, &bar->closed);
    case 2:
        return td_event_wait_with(&bar->bus, TD_NO_LIMIT, &bar->closed);
    default:
        return td_lock_acquire_with(&bar->telephone, TD_NO_LIMIT, &bar->closed);
    }
}

static int visit(td_call *call)
{
    struct guest guest = td_arg(call, struct guest);
    td_semaphore_release(&guest.bar->guests);
    int code = wait_in(guest.bar, guest.number);
    if (code < 0)
        return td_fail(call, code, "%s", td_last_message()); /* TD_ECANCELLED gives the outcome "cancelled" */
    return 0;
}

int main(void)
{
    static const char *const names[GUESTS] = { "Ada at the door", "Ben at the bar", "Cleo at the stop",
                                               "Dan at the telephone" };
    td_worker *guests[GUESTS];

    td_init();
    struct bar *bar = td_shared_calloc(1, sizeof *bar);
    if (bar == NULL || (bar->drinks = td_queue_new(.item_size = sizeof(int), .shared = true)) == NULL ||
        td_lock_acquire(&bar->telephone) < 0) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }
    for (int i = 0; i < GUESTS; i++) {
        guests[i] = td_process(.target = visit, .args = TD_ARG(struct guest, bar, i), .name = names[i]);
        if (td_start(guests[i]) == 0)
            td_semaphore_acquire(&bar->guests);
        else
            fprintf(stderr, "%s\n", td_last_message());
    }
    td_cancel_fire(&bar->closed); /* also for those who begin to wait only now */

    int cancelled = 0;
    for (int i = 0; i < GUESTS; i++) {
        td_join(guests[i]);
        cancelled += td_outcome(guests[i]) == TD_CANCELLED;
        printf("%s: %s\n", td_name(guests[i]), td_state_name(td_outcome(guests[i])));
        td_free(guests[i]);
    }
    td_lock_release(&bar->telephone);
    td_queue_free(bar->drinks);
    td_shared_free(bar);
    return cancelled != GUESTS;
}
