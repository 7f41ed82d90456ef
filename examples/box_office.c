/* SPDX-License-Identifier: MIT */
/* Four box offices sell the seats of one hall. The lock keeps two of them from selling the same seat. */
#include <stdio.h>
#include <tandem.h>

enum { SEATS = 20000, OFFICES = 4 };

struct hall {
    td_lock lock;
    bool sold[SEATS]; /* under the lock */
};

static int sell(td_call *call)
{
    struct hall *hall = td_arg_shared(call);
    int seat = 0, tickets = 0;
    for (;;) {
        if (td_lock_acquire(&hall->lock) < 0)
            return td_fail(call, 1, "%s", td_last_message());
        while (seat < SEATS && hall->sold[seat])
            seat++;
        if (seat < SEATS)
            hall->sold[seat] = true; /* it is free still: nobody else has had the lock meanwhile */
        td_lock_release(&hall->lock);

        if (seat == SEATS)
            return td_return(call, int, tickets);
        tickets++;
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

    printf("%d seats, %d tickets\n", SEATS, tickets);
    td_shared_free(hall);
    return tickets != SEATS;
}
