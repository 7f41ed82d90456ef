/* SPDX-License-Identifier: MIT */
/* Allocation, memory files and mappings. */
#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

void *td__alloc(size_t size)
{
    if (td__fault(ENOMEM))
        return NULL;
    return calloc(1, size ? size : 1);
}

void *td__alloc_unset(size_t size)
{
    enum { HUGE_PAGE = 2 << 20, ALONE = 32 << 20 }; /* above it the libc's malloc maps each block by itself */
    if (td__fault(ENOMEM))
        return NULL;
    char *block = malloc(size ? size : 1);
    if (block && size > ALONE) {
        uintptr_t first = ((uintptr_t)block + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1);
        uintptr_t end = ((uintptr_t)block + size) & ~(uintptr_t)(HUGE_PAGE - 1);
        madvise((void *)first, end - first, MADV_HUGEPAGE); /* 512 times fewer faults; refused, it is slower */
    }
    return block;
}

void td__release(void *block)
{
    free(block);
}

int td__memory_file(const char *name, uint64_t size)
{
    if (td__fault(EMFILE))
        return -1;
    /* Beyond RLIMIT_FSIZE the kernel would send SIGXFSZ, which ends the program. */
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < size) {
        errno = EFBIG;
        return -1;
    }
    int fd = td__above_streams(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (fd < 0)
        return -1;
    if (ftruncate(fd, (off_t)size) < 0 || fcntl(fd, F_ADD_SEALS, SEALS) < 0) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

bool td__is_memory_file(int fd, uint64_t *size)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS) != SEALS || fstat(fd, &st) < 0 || st.st_size < 0)
        return false;
    *size = (uint64_t)st.st_size;
    return true;
}

void *td__map_shared(int fd, uint64_t offset, size_t size)
{
    if (td__fault(ENOMEM))
        return NULL;
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
    if (at == MAP_FAILED)
        return NULL;
    madvise(at, size, MADV_DONTDUMP);
    return at;
}

void *td__map_reading(int fd, size_t size)
{
    if (td__fault(ENOMEM))
        return NULL;
    void *at = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    return at == MAP_FAILED ? NULL : at;
}

void *td__map_private(size_t size)
{
    if (td__fault(ENOMEM))
        return NULL;
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

void *td__map_uncopied(size_t size)
{
    void *at = td__map_private(size);
    if (at)
        madvise(at, size, MADV_DONTFORK);
    return at;
}

void *td__map_with_children(size_t size)
{
    if (td__fault(ENOMEM))
        return NULL;
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    madvise(at, size, MADV_DONTDUMP);
    return at;
}

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

int td__populate(void *at, size_t size)
{
    if (td__fault(ENOMEM))
        return -1;
    int r;
    do
        r = madvise(at, size, MADV_POPULATE_WRITE);
    while (r < 0 && errno == EINTR);
    return r < 0 && errno != EINVAL ? -1 : 0; /* before Linux 5.14 pages come when they are touched */
}

/* There in a program that ThreadSanitizer checks, which keeps most of the address space for itself, and ends the
 * program when something is mapped there. */
extern void __tsan_init(void) __attribute__((weak));

uintptr_t td__free_place(int n)
{
    /* The last is for machines with fewer bits of address. */
    static const uintptr_t usual[] = { 0x200000000000, 0x300000000000, 0x2000000000, 0 };
    static const uintptr_t checked[] = { 0x7e9000000000, 0 };
    return (__tsan_init ? checked : usual)[n];
}

void *td__map_at(uintptr_t at, int fd, size_t size)
{
    if (td__fault(ENOMEM))
        return NULL;
    int flags = MAP_FIXED_NOREPLACE | MAP_NORESERVE | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);
    void *wanted = (void *)at;
    void *got = mmap(wanted, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (got == MAP_FAILED)
        return NULL;
    if (got != wanted) { /* a kernel before 4.17, or a sanitizer, took the address for a wish */
        munmap(got, size);
        errno = EEXIST;
        return NULL;
    }
    madvise(got, size, MADV_DONTDUMP);
    return got;
}

int td__map_over(void *at, int fd, size_t size)
{
    if (td__fault(ENOMEM))
        return -1;
    if (mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0) == MAP_FAILED)
        return -1;
    madvise(at, size, MADV_DONTDUMP);
    return 0;
}

void td__unmap(void *at, size_t size)
{
    if (at)
        munmap(at, size);
}

#define RESERVE_LEAST ((uint64_t)256 * 1024) /* takes less time than between the ticks of any timer */

int td__reserve(int fd, uint64_t offset, uint64_t size)
{
    if (td__fault(ENOSPC))
        return -1;
    if (size == 0) {
        errno = EINVAL;
        return -1;
    }
    /* A signal can undo all of a request: so after each a smaller part is asked for, lest a timer never let it end. */
    for (uint64_t part = size, done = 0; done < size;) {
        uint64_t next = part < size - done ? part : size - done;
        if (fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)(offset + done), (off_t)next) == 0)
            done += next;
        else if (errno != EINTR)
            return -1;
        else if (part > RESERVE_LEAST)
            part = part / 2 > RESERVE_LEAST ? part / 2 : RESERVE_LEAST;
    }
    return 0;
}

void td__punch(int fd, uint64_t offset, uint64_t size)
{
    while (fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, (off_t)offset, (off_t)size) < 0 && errno == EINTR)
        ;
}

uint64_t td__memory_file_used(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && st.st_blocks > 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

/* --- what is left ------------------------------------------------------------------------------------------ */

/* The number after a name in a text of lines, or in a text that is a number (name ""); UINT64_MAX: "max", or none. */
static uint64_t number_in(const char *text, const char *name)
{
    const char *at = *name ? strstr(text, name) : text;
    if (!at)
        return UINT64_MAX;
    at += strlen(name);
    at += strspn(at, " \t");
    return *at >= '0' && *at <= '9' ? strtoull(at, NULL, 10) : UINT64_MAX;
}

static bool read_text(const char *path, char *text, size_t size)
{
    ssize_t n = td__read_file(path, text, size - 1);
    text[n > 0 ? n : 0] = 0;
    return n > 0;
}

static uint64_t left_in_system(void)
{
    char text[4096];
    if (!read_text("/proc/meminfo", text, sizeof text))
        return UINT64_MAX;
    const uint64_t most = UINT64_MAX / 1024; /* in KiB: more than it cannot be told in bytes */
    uint64_t memory = number_in(text, "MemAvailable:"), swap = number_in(text, "SwapFree:");
    swap = swap == UINT64_MAX ? 0 : swap;
    return memory > most || swap > most - memory ? UINT64_MAX : (memory + swap) * 1024;
}

/* What a group's files are called, by the version of the system of groups. */
typedef struct group_files {
    const char *limit, *used, *cache; /* cache: in memory.stat, with the groups below */
} group_files;
static const group_files files_v1 = { "memory.limit_in_bytes", "memory.usage_in_bytes", "\ntotal_inactive_file " };
static const group_files files_v2 = { "memory.max", "memory.current", "\ninactive_file " };

static uint64_t number_of(const char *group, const char *file, const char *name)
{
    char path[PATH_MAX + 32], text[4096];
    snprintf(path, sizeof path, "%s/%s", group, file);
    return read_text(path, text, sizeof text) ? number_in(text, name) : UINT64_MAX;
}

/* Of one group: its limit, less what it uses and could not drop. */
static uint64_t left_in_group(const char *group, const group_files *files)
{
    uint64_t limit = number_of(group, files->limit, "");
    if (limit == UINT64_MAX)
        return limit;
    uint64_t used = number_of(group, files->used, ""), cache = number_of(group, "memory.stat", files->cache);
    used = used == UINT64_MAX ? 0 : used;
    used = cache == UINT64_MAX || cache > used ? used : used - cache;
    return used < limit ? limit - used : 0;
}

/* And of all the groups above it, as far as they are to be seen. In a container the path may be that outside; then its
 * own group is the uppermost. */
static uint64_t left_in_groups(const char *top, const char *path, int path_length, const group_files *files)
{
    char group[PATH_MAX];
    uint64_t left = UINT64_MAX;
    int top_length = (int)strlen(top), length = snprintf(group, sizeof group, "%s%.*s", top, path_length, path);
    while (length >= top_length && length < (int)sizeof group) {
        uint64_t here = left_in_group(group, files);
        left = here < left ? here : left;
        char *slash = strrchr(group, '/');
        if (!slash)
            break;
        *slash = 0;
        length = (int)(slash - group);
    }
    return left;
}

/* Is it one of these, which stand between commas? */
static bool is_among(const char *name, const char *list, size_t length)
{
    size_t size = strlen(name);
    for (const char *at = list, *end = list + length; at < end; at += strcspn(at, ",:") + 1)
        if (strncmp(at, name, size) == 0 && (at[size] == ',' || at[size] == ':'))
            return true;
    return false;
}

uint64_t td__memory_left_in_groups(const char *membership, const char *root)
{
    uint64_t left = UINT64_MAX;
    /* A line: number:controllers:path */
    for (const char *line = membership; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        const char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL;
        if (!path || path > line + strcspn(line, "\n"))
            continue;
        size_t list_length = (size_t)(path - list) - 1;
        bool v1 = is_among("memory", list + 1, list_length);
        if (!v1 && list_length > 0)
            continue;
        char top[PATH_MAX];
        snprintf(top, sizeof top, "%s%s", root, v1 ? "/memory" : "");
        uint64_t here = left_in_groups(top, path + 1, (int)strcspn(path + 1, "\n"), v1 ? &files_v1 : &files_v2);
        left = here < left ? here : left;
    }
    return left;
}

uint64_t td__memory_available(void)
{
    uint64_t in_system = left_in_system(), in_groups = UINT64_MAX;
    char text[4096];
    if (read_text("/proc/self/cgroup", text, sizeof text))
        in_groups = td__memory_left_in_groups(text, "/sys/fs/cgroup");
    return in_groups < in_system ? in_groups : in_system;
}

size_t td__page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}
