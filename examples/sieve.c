/* SPDX-License-Identifier: MIT */
/*
 * Four processes need the same table of primes. The first to need it makes it, once for all of them, in the shared
 * heap; who comes meanwhile waits until it is there, who comes later finds it.
 */
#include <stdio.h>
#include <tandem.h>

enum { WORKERS = 4, BOUND = 1000000, PRIMES_BELOW_BOUND = 78498 };

struct primes {
    td_once made;
    int makers;
    bool *composite; /* for each number below BOUND; there when `made` is */
};

struct range {
    struct primes *primes;
    int first, end;
};

static int make(void *argument)
{
    struct primes *primes = argument;
    primes->composite = td_shared_calloc(BOUND, sizeof(bool));
    if (primes->composite == NULL)
        return td_last_error(); /* the next one who needs it tries again */
    for (int n = 2; n * n < BOUND; n++)
        if (!primes->composite[n])
            for (int multiple = n * n; multiple < BOUND; multiple += n)
                primes->composite[multiple] = true;
    primes->makers++;
    return 0;
}

static int count(td_call *call)
{
    struct range range = td_arg(call, struct range);
    if (td_once_run(&range.primes->made, make, range.primes) != 0)
        return td_fail(call, 1, "%s", td_last_message());

    int primes = 0;
    for (int n = range.first; n < range.end; n++)
        primes += !range.primes->composite[n];
    return td_return(call, int, primes);
}

int main(void)
{
    td_init();

    struct primes *primes = td_shared_calloc(1, sizeof *primes);
    if (primes == NULL) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }
    td_worker *workers[WORKERS];
    for (int i = 0; i < WORKERS; i++) {
        int first = i == 0 ? 2 : i * (BOUND / WORKERS), end = (i + 1) * (BOUND / WORKERS);
        workers[i] = td_process(.target = count, .args = TD_ARG(struct range, primes, first, end));
        td_start(workers[i]);
    }
    int sum = 0;
    for (int i = 0; i < WORKERS; i++) {
        int part = 0;
        td_join(workers[i]);
        if (td_result(workers[i], int, &part) < 0) /* also if it could not be started */
            fprintf(stderr, "%s\n", td_last_message());
        sum += part;
        td_free(workers[i]);
    }
    printf("%d primes below %d, by a table that was made %d time\n", sum, BOUND, primes->makers);
    td_shared_free(primes->composite);
    td_shared_free(primes);
    return sum != PRIMES_BELOW_BOUND;
}
