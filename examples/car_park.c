/* SPDX-License-Identifier: MIT */
/*
 * Five cars, processes all, and a car park with two places: a semaphore whose units are owned. One car breaks down
 * where it stands; its place comes back, and all others are served.
 */
#include <signal.h>
#include <stdio.h>
#include <tandem.h>

struct car_park {
    td_owned_semaphore places;
    td_lock lock;
    int inside, most; /* under the lock */
};

struct visit {
    struct car_park *park;
    int number;
};

static void count(struct car_park *park, int change)
{
    td_lock_acquire(&park->lock);
    park->inside += change;
    if (park->inside > park->most)
        park->most = park->inside;
    td_lock_release(&park->lock);
}

static int car(td_call *call)
{
    struct visit visit = td_arg(call, struct visit);

    if (td_owned_semaphore_acquire_for(&visit.park->places, td_s(60)) < 0)
        return td_fail(call, 1, "no place: %s", td_last_message());
    if (visit.number == 2)
        raise(SIGKILL); /* breaks down */
    count(visit.park, +1);
    td_event never = { 0 };
    td_event_wait_for(&never, td_ms(20)); /* stays for a while */
    count(visit.park, -1);
    td_owned_semaphore_release(&visit.park->places);
    return 0;
}

int main(void)
{
    enum { CARS = 5 };
    td_worker *cars[CARS];

    td_init();
    struct car_park *park = td_shared_calloc(1, sizeof *park);
    if (!park) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }
    td_owned_semaphore_init(&park->places, 2);
    for (int i = 0; i < CARS; i++) {
        char name[32];
        snprintf(name, sizeof name, "car %d", i + 1);
        cars[i] = td_process(.target = car, .args = TD_ARG(struct visit, park, i + 1), .name = name);
        if (td_start(cars[i]) < 0)
            fprintf(stderr, "%s\n", td_last_message());
    }
    for (int i = 0; i < CARS; i++) {
        td_join(cars[i]);
        printf("%s: %s\n", td_name(cars[i]), td_state_name(td_outcome(cars[i])));
        td_free(cars[i]);
    }
    printf("never more than two: %s\n", park->most <= 2 ? "yes" : "no");
    td_shared_free(park);
}
