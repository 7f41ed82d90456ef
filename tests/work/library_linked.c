/* SPDX-License-Identifier: MIT */
/* A shared library that test_process is linked with. */
#include "module_plugin.h"

int library_negate(td_call *call)
{
    return td_return(call, int, -td_arg(call, int));
}
