/* SPDX-License-Identifier: MIT */
/* A thread counts in the background, one number a second, while main waits for it. */
#include <stdio.h>
#include <unistd.h>
#include <tandem.h>

static int print_numbers(td_call *call)
{
    (void)call;
    for (int i = 0; i < 5; i++) {
        sleep(1);
        printf("%d\n", i);
    }
    return 0;
}

int main(void)
{
    td_init();

    td_worker *thread = td_thread(.target = print_numbers);

    if (td_start(thread) < 0 || td_join(thread) < 0) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }
    td_free(thread);

    puts("Done");
}
