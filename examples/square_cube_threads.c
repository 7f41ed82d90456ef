/* SPDX-License-Identifier: MIT */
/* square_cube_threads.c and square_cube_processes.c differ in one word. */
#include <stdio.h>
#include <tandem.h>

static int print_cube(td_call *call)
{
    int num = td_arg(call, int);
    printf("Cube: %d\n", num * num * num);
    return 0;
}

static int print_square(td_call *call)
{
    int num = td_arg(call, int);
    printf("Square: %d\n", num * num);
    return 0;
}

int main(void)
{
    td_init();

    td_worker *t1 = td_thread(.target = print_square, .args = TD_ARG(int, 10));
    td_worker *t2 = td_thread(.target = print_cube, .args = TD_ARG(int, 10));

    if (td_start(t1) < 0 || td_start(t2) < 0 || td_join(t1) < 0 || td_join(t2) < 0) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }
    td_free(t1);
    td_free(t2);

    puts("Done!");
}
