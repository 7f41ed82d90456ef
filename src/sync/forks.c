/* SPDX-License-Identifier: MIT */
/* Handlers of forks; see forks.h. */
#include "sync/forks.h"

#include <pthread.h>

static const td__forks_handlers *_Atomic handlers[TD__FORKS_LEVELS];
static bool registered; /* written when the library is loaded */

/* Of the fork under way; one thread forks at a time, as the libc's lock on its handlers says. */
static const td__forks_handlers *taking_part[TD__FORKS_LEVELS];
static bool spawning;

static void before(void)
{
    for (int level = TD__FORKS_LEVELS - 1; level >= 0; level--) {
        /* Acquire: what the layer has made before it registered. */
        const td__forks_handlers *h = td__load_acquire(&handlers[level]);
        if (taking_part[level] != h)
            taking_part[level] = h;
        if (h && h->spawns) {
            bool now = h->spawns();
            if (spawning != now)
                spawning = now;
        }
        if (h && h->before)
            h->before(spawning);
    }
}

static void in_parent(void)
{
    for (int level = 0; level < TD__FORKS_LEVELS; level++)
        if (taking_part[level] && taking_part[level]->in_parent)
            taking_part[level]->in_parent(spawning);
}

static void in_child(void)
{
    for (int level = 0; level < TD__FORKS_LEVELS; level++)
        if (taking_part[level] && taking_part[level]->in_child)
            taking_part[level]->in_child(spawning);
}

void td__forks_register(int level, const td__forks_handlers *h)
{
    if (!registered) /* the first comes from a constructor */
        pthread_atfork(before, in_parent, in_child);
    registered = true;
    td__store_release(&handlers[level], h);
}
