/* SPDX-License-Identifier: MIT */
/*
 * A museum has three headphones for six visitors: a pool of things, and a bounded semaphore that counts those on the
 * shelf. Who has acquired a unit will find one there. Giving back more than was borrowed is a bug; a bounded semaphore
 * finds it, and ends the process that has it.
 */
#include <stdio.h>
#include <threads.h>
#include <tandem.h>

enum { HEADPHONES = 3, VISITORS = 6, ROOMS = 500 };

struct museum {
    td_bounded_semaphore available;
    td_lock lock;
    int shelf[HEADPHONES], count; /* which are there, and how many; under the lock */
    int played[HEADPHONES];       /* by whoever has borrowed it */
};

static int borrow(struct museum *museum)
{
    td_lock_acquire(&museum->lock);
    int which = museum->shelf[--museum->count];
    td_lock_release(&museum->lock);
    return which;
}

static void give_back(struct museum *museum, int which)
{
    td_lock_acquire(&museum->lock);
    museum->shelf[museum->count++] = which;
    td_lock_release(&museum->lock);
}

static int visit(td_call *call)
{
    struct museum *museum = td_arg_shared(call);
    for (int room = 0; room < ROOMS; room++) {
        if (td_bounded_semaphore_acquire_for(&museum->available, td_s(60)) < 0)
            return td_fail(call, 1, "no headphones: %s", td_last_message());
        int which = borrow(museum);
        museum->played[which]++;
        thrd_yield(); /* time for others to come */
        give_back(museum, which);
        td_bounded_semaphore_release(&museum->available);
    }
    return 0;
}

int main(void)
{
    td_worker *visitors[VISITORS];

    td_init();
    struct museum *museum = td_shared_calloc(1, sizeof *museum);
    if (museum == NULL) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }
    td_bounded_semaphore_init(&museum->available, HEADPHONES);
    for (int i = 0; i < HEADPHONES; i++)
        give_back(museum, i);

    for (int i = 0; i < VISITORS; i++) {
        visitors[i] = td_process(.target = visit, .args = TD_SHARED(museum));
        if (td_start(visitors[i]) < 0)
            fprintf(stderr, "%s\n", td_last_message());
    }
    for (int i = 0; i < VISITORS; i++) {
        td_join(visitors[i]);
        td_free(visitors[i]); /* tells of one that failed */
    }

    int played = 0;
    for (int i = 0; i < HEADPHONES; i++)
        played += museum->played[i];
    printf("%d visitors heard %d rooms, and %d headphones are back\n", VISITORS, played,
           (int)td_bounded_semaphore_value(&museum->available));
    td_shared_free(museum);
    return played != VISITORS * ROOMS;
}
