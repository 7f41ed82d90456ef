/* SPDX-License-Identifier: MIT */
/* What module_plugin and library_linked offer. */
#ifndef TANDEM_TESTS_MODULE_PLUGIN_H
#define TANDEM_TESTS_MODULE_PLUGIN_H

#include <tandem/call.h>

int plugin_add(td_call *call);     /* the argument (int) plus 1000 */
td_target *plugin_hidden(void);    /* a function that no symbol names: the argument times 1000 */
int library_negate(td_call *call); /* of the library that the test is linked with: minus the argument */

#endif
