/* SPDX-License-Identifier: MIT */
/* Who uses an object; see use.h. */
#include "sync/use.h"
#include "sync/lock.h"
#include "sync/section.h"

#ifdef TD_DEBUG
static td__lock lock;
static td__watch *first; /* under lock */

void td__watch_begins(td__watch *watch)
{
    td__lock_acquire(&lock);
    watch->previous = NULL;
    watch->next = first;
    if (first)
        first->previous = watch;
    first = watch;
    td__lock_release(&lock);
}

void td__watch_ends(td__watch *watch)
{
    td__lock_acquire(&lock);
    *(watch->previous ? &watch->previous->next : &first) = watch->next;
    if (watch->next)
        watch->next->previous = watch->previous;
    td__lock_release(&lock);
}

void td__watches_forget(void)
{
    lock = (td__lock){ 0 };
    first = NULL;
}

bool td__is_watched(const volatile void *at, size_t size)
{
    bool found = false;
    td__lock_acquire(&lock);
    for (const td__watch *watch = first; watch && !found; watch = watch->next)
        found = watch->uses(watch, at, size);
    td__lock_release(&lock);
    return found;
}

/* Dead processes do nothing, even if nobody has repaired after them yet. */
static bool lives(pid_t pid)
{
    if (pid == td__getpid())
        return true;
    int fd = td__pid_fd(pid);
    if (fd < 0)
        return false;
    bool ended = false;
    td__poll(&fd, &ended, 1, 1);
    td__close(fd);
    return !ended;
}

#endif

#if TD__CHECKS_USE
static bool is_in(const volatile void *at, size_t size, uintptr_t address)
{
    return address - (uintptr_t)at < size;
}

static const char *use_by(const td__party *party, const volatile void *at, size_t size)
{
    if (is_in(at, size, (uintptr_t)party->word_waited) || is_in(at, size, (uintptr_t)party->list_latch))
        return "waits on";
    if (is_in(at, size, party->cancel))
        return "can be cancelled by";
    if (is_in(at, size, (uintptr_t)party->acting))
        return "runs the action of";
    uint32_t held = party->held_count < TD__HELD_MAX ? party->held_count : 0;
    for (uint32_t i = 0; i < held; i++)
        if (is_in(at, size, party->held[i] & ~(uintptr_t)3))
            return "holds";
    for (int i = 0; i < TD__READING_MAX; i++)
        if (is_in(at, size, td__load_relaxed(&party->reading[i])))
            return "holds";
    uint32_t sections = party->section_count < TD__SECTION_DEPTH ? party->section_count : 0;
    for (uint32_t i = 0; i < sections; i++)
        if (is_in(at, size, (uintptr_t)party->section[i]))
            return "uses";
    return NULL;
}

td__use td__use_of(const volatile void *at, size_t size)
{
    td__region *region = td__the_region;
    uint32_t top = region ? td__load_acquire(&region->party_top) : 0;
    bool shared = td__is_shared(at);
    for (uint32_t i = 1; i < top && i < region->parties; i++) {
        /* A process's number; more, if it is known to be dead. */
        uint32_t pid = (uint32_t)td__load_acquire(td__party_entry(i));
        /* A private address means something else in another process. */
        if (!pid || pid > INT32_MAX || (!shared && (pid_t)pid != td__getpid()))
            continue;
        const char *use = use_by(td__party_at(i), at, size);
        if (use && lives((pid_t)pid))
            return (td__use){ use, pid };
    }
    if (td__is_watched(at, size))
        return (td__use){ "waits, for several things, on", (uint32_t)td__getpid() };
    return (td__use){ NULL, 0 };
}
#endif

#ifdef TD_DEBUG
/* Where records are not looked into: perhaps. */
static bool may_use(const td__party *party, const volatile void *at, size_t size)
{
#if TD__CHECKS_USE
    return use_by(party, at, size) != NULL;
#else
    (void)party;
    (void)at;
    (void)size;
    return true;
#endif
}

void td__use_settle(const volatile void *at, size_t size)
{
    td__region *region = td__the_region;
    if (!td__is_shared(at))
        return;
    uint32_t top = td__load_acquire(&region->party_top);
    for (uint32_t i = 1; i < top && i < region->parties; i++) {
        uint32_t pid = (uint32_t)td__load_acquire(td__party_entry(i));
        if (pid && pid <= INT32_MAX && may_use(td__party_at(i), at, size) && !lives((pid_t)pid))
            td__parties_await_death((pid_t)pid);
    }
    td__parties_release(at, size);
}
#endif
