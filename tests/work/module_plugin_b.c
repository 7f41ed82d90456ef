/* SPDX-License-Identifier: MIT */
/* Another build of module_plugin: what an upgrade puts in its place. */
#define PLUGIN_NUMBER 2000
#include "module_plugin.c"
