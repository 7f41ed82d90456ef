/* SPDX-License-Identifier: MIT */
/* Five processes compute at the same time, each on a CPU of its own if there are as many. */
#include <stdio.h>
#include <tandem.h>

enum { TASKS = 5, BOUND = 4000000, PRIMES_BELOW_BOUND = 283146 };

static int count_primes(int bound)
{
    int primes = 0;
    for (int n = 2; n < bound; n++) {
        int divisor = 2;
        while (divisor * divisor <= n && n % divisor != 0)
            divisor++;
        primes += divisor * divisor > n;
    }
    return primes;
}

static int compute_heavy_task(td_call *call)
{
    const char *name = td_arg_str(call);
    printf("Process %s: starting\n", name);

    int primes = count_primes(BOUND); /* about a second of one CPU */
    if (primes != PRIMES_BELOW_BOUND)
        return td_fail(call, 1, "counted %d primes below %d, expected %d", primes, BOUND, PRIMES_BELOW_BOUND);

    printf("Process %s: finishing\n", name);
    return 0;
}

int main(void)
{
    td_init();

    int status = 0;
    td_worker *processes[TASKS];
    for (int i = 0; i < TASKS; i++) {
        char name[32];
        snprintf(name, sizeof(name), "Process %d", i);
        processes[i] = td_process(.target = compute_heavy_task, .args = TD_STR(name), .name = name);
        if (td_start(processes[i]) < 0) {
            fprintf(stderr, "%s\n", td_last_message());
            status = 1;
        }
    }

    for (int i = 0; i < TASKS; i++) {
        if (td_join(processes[i]) == 0 && td_outcome(processes[i]) != TD_RETURNED) {
            fprintf(stderr, "%s\n", td_describe(processes[i]));
            status = 1;
        }
        td_free(processes[i]);
    }

    puts("Done");
    return status;
}
