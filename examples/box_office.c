/* SPDX-License-Identifier: MIT */
/* Four box offices sell the seats of one hall. The lock keeps two of them from selling the same seat. */
#include <stdio.h>
#include <tandem.h>

enum { SEATS = 2000, OFFICES = 4 };

struct hall {
    td_lock lock;
    int next;        /* the next free seat: looked at and changed under the lock only */
    int sold[SEATS]; /* how often */
};

static int sell(td_call *call)
{
    struct hall *hall = td_arg_shared(call);
    for (int tickets = 0;; tickets++) {
        if (td_lock_acquire(&hall->lock) < 0)
            return td_fail(call, 1, "%s", td_last_message());
        int seat = hall->next;
        if (seat < SEATS)
            hall->next = seat + 1;
        td_lock_release(&hall->lock);

        if (seat == SEATS)
            return td_return(call, int, tickets);
        hall->sold[seat]++; /* this seat is nobody else's */
    }
}

int main(void)
{
    td_init();

    struct hall *hall = td_shared_calloc(1, sizeof *hall); /* all zero: the lock is free */
    if (hall == NULL) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }

    td_worker *offices[OFFICES];
    for (int i = 0; i < OFFICES; i++) {
        offices[i] = td_process(.target = sell, .args = TD_SHARED(hall));
        td_start(offices[i]);
    }

    int tickets = 0;
    for (int i = 0; i < OFFICES; i++) {
        int part = 0;
        td_join(offices[i]);
        if (td_result(offices[i], int, &part) < 0) /* also if it could not be started */
            fprintf(stderr, "%s\n", td_last_message());
        tickets += part;
        td_free(offices[i]);
    }

    int once = 0;
    for (int seat = 0; seat < SEATS; seat++)
        once += hall->sold[seat] == 1;
    printf("%d tickets for %d seats, %d of them sold once\n", tickets, SEATS, once);
    td_shared_free(hall);
    return once != SEATS;
}
