/* SPDX-License-Identifier: MIT */
/* Handlers of forks; see forks.h. */
#include "sync/forks.h"

#include <pthread.h>

static const td__forks_handlers *_Atomic handlers[TD__FORKS_LEVELS];
static bool registered; /* written when the library is loaded */

/* Of the fork under way: who takes part. Under the lowest level's lock, which its `before` takes and its other sides
 * let go: the libc's lock on its handlers is no help, which it lets go (since 2.36) while each of them runs. A spawner
 * has one thread. */
static struct under_way {
    const td__forks_handlers *level[TD__FORKS_LEVELS];
    bool spawns;
} under_way;

static void before(void)
{
    struct under_way now = { .spawns = false };
    for (int level = TD__FORKS_LEVELS - 1; level >= 0; level--) {
        /* Acquire: what the layer has made before it registered. */
        const td__forks_handlers *h = now.level[level] = td__load_acquire(&handlers[level]);
        if (h && h->spawns)
            now.spawns = h->spawns();
        if (h && h->before)
            h->before(now.spawns);
    }
    for (int level = 0; level < TD__FORKS_LEVELS; level++)
        if (under_way.level[level] != now.level[level])
            under_way.level[level] = now.level[level];
    if (under_way.spawns != now.spawns)
        under_way.spawns = now.spawns;
}

/* Both copy first: with the lowest level's lock let go, another thread's fork may begin. */
static void in_parent(void)
{
    const struct under_way now = under_way;
    for (int level = 0; level < TD__FORKS_LEVELS; level++)
        if (now.level[level] && now.level[level]->in_parent)
            now.level[level]->in_parent(now.spawns);
}

static void in_child(void)
{
    const struct under_way now = under_way;
    for (int level = 0; level < TD__FORKS_LEVELS; level++)
        if (now.level[level] && now.level[level]->in_child)
            now.level[level]->in_child(now.spawns);
}

void td__forks_register(int level, const td__forks_handlers *h)
{
    if (!registered) /* the first comes from a constructor */
        pthread_atfork(before, in_parent, in_child);
    registered = true;
    td__store_release(&handlers[level], h);
}
