/* SPDX-License-Identifier: MIT */
/* A shared object that a test loads while it runs, and whose functions it runs in workers. */
#include <stdint.h>
#include <tandem/call.h>
#include "module_plugin.h"

#ifndef PLUGIN_NUMBER
#define PLUGIN_NUMBER 1000
#endif

static int number; /* set by the constructor: a worker must find a module that was properly loaded */

__attribute__((constructor)) static void begin(void)
{
    number = PLUGIN_NUMBER;
}

#if PLUGIN_NUMBER != 1000
/* Moves the rest to other offsets. */
int plugin_other(td_call *call);
int plugin_other(td_call *call)
{
    volatile int sum = 0;
    for (int i = 0; i < td_arg(call, int); i++)
        sum += i * number;
    return td_return(call, int, -sum);
}
#endif

static int hidden(td_call *call)
{
    return td_return(call, int, td_arg(call, int) * number);
}

int plugin_add(td_call *call)
{
    return td_return(call, int, td_arg(call, int) + number);
}

td_target *plugin_hidden(void)
{
    return hidden;
}
