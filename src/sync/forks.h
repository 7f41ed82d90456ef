/* SPDX-License-Identifier: MIT */
/*
 * Forks: what the layers do around one, whoever makes it. Each registers itself when the library is loaded, or when it
 * is first used, so that no primitive is copied by a fork that nobody noticed. Before the fork the highest layer comes
 * first, for its locks are taken before those of the layers below; after it, in parent and child, it comes last.
 */
#ifndef TD_SYNC_FORKS_H
#define TD_SYNC_FORKS_H

#include "os/os.h"

enum { TD__FORKS_SYNC = 0, TD__FORKS_QUEUE = 1, TD__FORKS_CONNECTION = 2, TD__FORKS_WORK = 3, TD__FORKS_LEVELS = 4 };

/* `spawns`: the process is a spawner, which has one thread, watches its children itself, and forks often: a page that
 * it writes here is made anew for each of them. */
typedef struct td__forks_handlers {
    void (*before)(bool spawns);
    void (*in_parent)(bool spawns);
    void (*in_child)(bool spawns);
    bool (*spawns)(void); /* of TD__FORKS_WORK only */
} td__forks_handlers;

/* NULL members: nothing. A level that comes between the two sides of a fork is left out of that one. */
void td__forks_register(int level, const td__forks_handlers *handlers);

#endif
