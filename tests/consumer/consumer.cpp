// SPDX-License-Identifier: MIT
// The C++ twin of consumer.c.
#include <cstdio>
#include <tandem.h>

struct pair {
    int a, b;
};

static int multiply(td_call *call)
{
    pair p = td_arg(call, pair);
    return td_return(call, int, p.a *p.b);
}

static int show(const char *word, td_worker *worker)
{
    int result = 0;
    if (td_start(worker) < 0 || td_join(worker) < 0 || td_result(worker, int, &result) < 0) {
        std::fprintf(stderr, "%s: %s\n", word, td_last_message());
        return 1;
    }
    std::printf("%s: %d\n", word, result);
    td_free(worker);
    return 0;
}

int main()
{
    td_init();
    int failed = show("thread", td_thread(.target = multiply, .args = TD_ARG(pair, 7, 7)));
    failed += show("process", td_process(.target = multiply, .args = TD_ARG(pair, 8, 8), .name = "multiply"));
    return failed || td_finish() < 0;
}
