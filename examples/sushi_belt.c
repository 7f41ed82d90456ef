/* SPDX-License-Identifier: MIT */
/*
 * A bounded buffer by hand: a belt with room for four plates. The cook waits until it is not full, guests wait until it
 * is not empty: two conditions, one lock. (td_queue is such a buffer as well, and a faster one.)
 */
#include <stdio.h>
#include <tandem.h>

enum { ROOM = 4, GUESTS = 3, PLATES = 600, CLOSED = -1 };

struct belt {
    td_lock lock;
    td_condition not_full, not_empty;
    int first, count, plates[ROOM]; /* a ring; under the lock */
};

static bool is_not_full(void *belt)
{
    return ((struct belt *)belt)->count < ROOM;
}

static bool is_not_empty(void *belt)
{
    return ((struct belt *)belt)->count > 0;
}

static int put(struct belt *belt, int plate)
{
    td_lock_acquire(&belt->lock);
    int code = td_condition_await_for(&belt->not_full, &belt->lock, is_not_full, belt, td_s(60));
    if (code == 0) {
        belt->plates[(belt->first + belt->count++) % ROOM] = plate;
        td_condition_notify(&belt->not_empty);
    }
    td_lock_release(&belt->lock);
    return code;
}

static int take(struct belt *belt, int *plate)
{
    td_lock_acquire(&belt->lock);
    int code = td_condition_await_for(&belt->not_empty, &belt->lock, is_not_empty, belt, td_s(60));
    if (code == 0) {
        *plate = belt->plates[belt->first];
        belt->first = (belt->first + 1) % ROOM;
        belt->count--;
        td_condition_notify(&belt->not_full);
    }
    td_lock_release(&belt->lock);
    return code;
}

static int guest(td_call *call)
{
    struct belt *belt = td_arg_shared(call);
    int plate, eaten = 0;
    while (take(belt, &plate) == 0 && plate != CLOSED)
        eaten++;
    return td_return(call, int, eaten);
}

int main(void)
{
    td_worker *guests[GUESTS];
    int present = 0, eaten = 0;

    td_init();
    struct belt *belt = td_shared_calloc(1, sizeof *belt);
    if (belt == NULL) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }
    for (int i = 0; i < GUESTS; i++) {
        guests[i] = td_process(.target = guest, .args = TD_SHARED(belt));
        present += td_start(guests[i]) == 0;
    }
    for (int i = 0; present > 0 && i < PLATES + present; i++)
        if (put(belt, i < PLATES ? i : CLOSED) != 0) {
            fprintf(stderr, "nobody takes plate %d\n", i);
            break;
        }

    for (int i = 0; i < GUESTS; i++) {
        int part = 0;
        td_join(guests[i]);
        if (td_result(guests[i], int, &part) < 0) /* also if it could not be started */
            fprintf(stderr, "%s\n", td_last_message());
        eaten += part;
        td_free(guests[i]);
    }
    printf("%d plates, %d eaten by %d guests\n", PLATES, eaten, GUESTS);
    td_shared_free(belt);
    return eaten != PLATES;
}
