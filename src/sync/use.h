/* SPDX-License-Identifier: MIT */
/*
 * Debug builds (TD_DEBUG) look, before an object goes, whether somebody still holds it or waits on it. What stands in
 * the object says some of it; the records of the parties say all. These are written by their owners without a thought
 * for readers; ThreadSanitizer is right about that, so its builds do not look there.
 */
#ifndef TD_SYNC_USE_H
#define TD_SYNC_USE_H

#include "sync/party.h"

#include <stdbool.h>

#if defined(__SANITIZE_THREAD__)
#define TD__CHECKS_USE 0
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TD__CHECKS_USE 0
#endif
#endif
#if defined(TD_DEBUG) && !defined(TD__CHECKS_USE)
#define TD__CHECKS_USE 1
#endif

/*
 * Who sleeps on several things at a time names none of them in its record. The waits of this process that do, and what
 * else watches objects, are in a list of their own, of debug builds only; those of other processes are not seen.
 * Between the two calls the watch, and what `uses` looks at, stay where they are; `uses` must not wait for one who ends
 * a watch.
 */
typedef struct td__watch {
    struct td__watch *previous, *next;
    bool (*uses)(const struct td__watch *watch, const volatile void *at, size_t size);
} td__watch;
#ifdef TD_DEBUG
void td__watch_begins(td__watch *watch);
void td__watch_ends(td__watch *watch);
void td__watches_forget(void);                             /* in a forked child: nobody is inside one */
bool td__is_watched(const volatile void *at, size_t size); /* is something in this memory? */
#else
static inline void td__watch_begins(td__watch *watch)
{
    (void)watch;
}
static inline void td__watch_ends(td__watch *watch)
{
    (void)watch;
}
static inline void td__watches_forget(void)
{
}
#endif

#ifdef TD_DEBUG
/* Before a look at an object that is to go: what the dead have left in it, as they would else be taken for living. Of a
 * death that the caller has found out by himself, before whoever watches, it is waited for that one to say so. */
void td__use_settle(const volatile void *at, size_t size);
#endif

#if TD__CHECKS_USE
/* What a living party does with something in this memory; `what` NULL: none does anything. */
typedef struct td__use {
    const char *what;
    uint32_t pid;
} td__use;
td__use td__use_of(const volatile void *at, size_t size);
#endif

#endif
