/* SPDX-License-Identifier: MIT */
/* A program that uses the installed library: one function, on a thread and in a process. */
#include <stdio.h>
#include <tandem.h>

static int square(td_call *call)
{
    int n = td_arg(call, int);
    return td_return(call, int, n *n);
}

static int show(const char *word, td_worker *worker)
{
    int result = 0;
    if (td_start(worker) < 0 || td_join(worker) < 0 || td_result(worker, int, &result) < 0) {
        fprintf(stderr, "%s: %s\n", word, td_last_message());
        return 1;
    }
    printf("%s: %d\n", word, result);
    td_free(worker);
    return 0;
}

int main(void)
{
    td_init();
    int failed = show("thread", td_thread(.target = square, .args = TD_ARG(int, 7)));
    failed += show("process", td_process(.target = square, .args = TD_ARG(int, 8)));
    return failed || td_finish() < 0;
}
