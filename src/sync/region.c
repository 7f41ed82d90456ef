/* SPDX-License-Identifier: MIT */
/* Making and mapping the region; see region.h. */
#include "sync/region.h"
#include "sync/latch.h"
#include "sync/lock.h"

#include <errno.h>

td__region *td__the_region;
uintptr_t td__shared_base;
size_t td__shared_size;
int td__region_file = -1;
int td__arrivals = -1;
void (*td__region_hook)(td__region *region);

static td__lock lock; /* guards the making of it */

/* From much to little: address space may be limited (RLIMIT_AS), and so may the size of files (RLIMIT_FSIZE). */
static const struct plan {
    size_t size;
    uint32_t parties;
} plans[] = { { (size_t)64 << 30, TD__PARTIES },
              { (size_t)4 << 30, TD__PARTIES },
              { (size_t)256 << 20, 8192 },
              { (size_t)32 << 20, 1024 } };

static uint64_t page_up(uint64_t size)
{
    uint64_t page = td__page_size();
    return (size + page - 1) & ~(page - 1);
}

static void lay_out(td__region *region, uintptr_t base, const struct plan *plan)
{
    region->base = base;
    region->size = plan->size;
    region->parties = plan->parties;
    region->records = page_up(TD__REGION_ENTRIES + (uint64_t)plan->parties * sizeof(uint64_t));
    region->arena = page_up(region->records + (uint64_t)plan->parties * TD__PARTY_BYTES);
    region->party_top = 1;
    /* Last: whoever sees it may use the rest. */
    region->magic = TD__REGION_MAGIC;
}

static void *map_somewhere(int file, size_t size)
{
    errno = ENOMEM;
    uintptr_t base;
    for (int i = 0; (base = td__free_place(i)) != 0; i++) {
        void *at = td__map_at(base, file, size);
        if (at)
            return at;
    }
    return NULL;
}

/* Of our own memory, or of a new file's. */
static td__region *make(const struct plan *plan, bool shared, int *file)
{
    *file = shared ? td__memory_file("tandem-heap", plan->size) : -1;
    if (shared && *file < 0)
        return NULL;
    td__region *region = map_somewhere(*file, plan->size);
    if (region && (!shared || td__reserve(*file, 0, TD__REGION_ENTRIES + td__page_size()) == 0)) {
        lay_out(region, (uintptr_t)region, plan);
        return region;
    }
    int error = errno;
    td__unmap(region, plan->size);
    td__close(*file);
    errno = error;
    return NULL;
}

static td__region *make_some(bool shared, int *file)
{
    td__region *region = NULL;
    for (size_t i = 0; i < TD__COUNT(plans) && !region; i++)
        region = make(&plans[i], shared, file);
    return region;
}

td__region *td__region_get(void)
{
    int none;
    td__lock_acquire(&lock);
    if (!td__the_region)
        td__the_region = make_some(false, &none);
    td__region *region = td__the_region;
    td__lock_release(&lock);
    return region;
}

/* Puts a file under the private region. */
static int carry_over(td__region *region, int *file)
{
    size_t used = region->records + (size_t)td__load_relaxed(&region->party_top) * TD__PARTY_BYTES;
    *file = td__memory_file("tandem-heap", region->size);
    if (*file < 0)
        return -1;
    if (td__reserve(*file, 0, used) == 0 && td__write_at(*file, region, used) == 0 &&
        td__map_over(region, *file, region->size) == 0)
        return 0;
    int error = errno;
    td__close(*file);
    errno = error;
    return -1;
}

static void share(td__region *region)
{
    if (td__region_hook)
        td__region_hook(region);
    td__shared_base = (uintptr_t)region;
    td__shared_size = region->size;
}

int td__region_create(void)
{
    int file = -1, error = 0;
    td__lock_acquire(&lock);
    if (td__region_file < 0) {
        td__region *region = td__the_region;
        if (td__arrivals < 0 && (td__arrivals = td__event_fd(0)) < 0) {
            error = errno;
        } else if (region ? carry_over(region, &file) < 0 : !(region = make_some(true, &file))) {
            error = errno;
        } else {
            td__the_region = region;
            td__region_file = file;
            share(region);
            td__latch_register_shared(true);
        }
    }
    td__lock_release(&lock);
    errno = error;
    return error ? -1 : 0;
}

bool td__region_attach(int file)
{
    uint64_t size;
    td__region head;
    if (!td__is_memory_file(file, &size) || td__read_at(file, (char *)&head, sizeof head) != (ssize_t)sizeof head ||
        head.magic != TD__REGION_MAGIC || head.size != size)
        return false;
    td__region *former = td__the_region;
    if (former) { /* constructors have used it */
        td__party_before_fork();
        td__unmap(former, former->size);
    }
    td__region *region = td__map_at(head.base, file, head.size);
    td__the_region = region;
    if (region) {
        td__region_file = file;
        share(region);
        td__latch_register_shared(false);
    }
    if (former)
        td__party_moved();
    return region != NULL;
}

void td__region_before_fork(void)
{
    td__lock_acquire(&lock);
}

void td__region_after_fork(void)
{
    td__lock_release(&lock);
}

int td__region_populate(void *at, size_t size)
{
    uintptr_t page = td__page_size(), from = (uintptr_t)at & ~(page - 1);
    size_t length = ((uintptr_t)at + size + page - 1 - from) & ~(page - 1);
    if (td__region_file >= 0)
        return td__reserve(td__region_file, from - td__shared_base, length);
    return td__populate((void *)from, length);
}
