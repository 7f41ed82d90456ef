/* SPDX-License-Identifier: MIT */
/* What a new process gets from the one that starts it, and who that one is. */
#include "os/os.h"
#include "os/linux/raw.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int td__nice_get(void)
{
    errno = 0;
    return getpriority(PRIO_PROCESS, 0);
}

int td__nice_set(int nice)
{
    return setpriority(PRIO_PROCESS, 0, nice);
}

size_t td__affinity_get(void *mask)
{
    long n = syscall(SYS_sched_getaffinity, 0, TD__CPU_BYTES, mask);
    return n > 0 ? (size_t)n : 0;
}

int td__affinity_set(const void *mask, size_t size)
{
    return (int)syscall(SYS_sched_setaffinity, 0, size, mask);
}

/* The older of the two calls takes half the time, for it is always about the caller itself. Its struct is that of the
 * newer one where a long has 64 bits, and all ones are no limit in both. */
static bool limit_get(int which, td__limit *limit)
{
#if defined(SYS_getrlimit) && ULONG_MAX == UINT64_MAX
    if (td__raw2(SYS_getrlimit, which, limit) == 0)
        return true;
#endif
    return td__raw4(SYS_prlimit64, 0, which, NULL, limit) == 0; /* also where a filter refuses the other */
}

void td__limits_get(td__limit limits[TD__LIMITS])
{
    for (int which = 0; which < TD__LIMITS; which++) {
        td__limit limit;
        limits[which] = limit_get(which, &limit) ? limit : (td__limit){ UINT64_MAX, UINT64_MAX };
    }
}

int td__limit_set(int which, td__limit limit)
{
    struct rlimit wanted = { (rlim_t)limit.soft, (rlim_t)limit.hard };
    return setrlimit((__rlimit_resource_t)which, &wanted);
}

void td__limit_raise(int which)
{
    struct rlimit limit;
    if (getrlimit((__rlimit_resource_t)which, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit((__rlimit_resource_t)which, &limit);
    }
}

const char *td__limit_name(int which)
{
    static const char *const names[TD__LIMITS] = {
        "RLIMIT_CPU",      "RLIMIT_FSIZE",  "RLIMIT_DATA",    "RLIMIT_STACK",  "RLIMIT_CORE",  "RLIMIT_RSS",
        "RLIMIT_NPROC",    "RLIMIT_NOFILE", "RLIMIT_MEMLOCK", "RLIMIT_AS",     "RLIMIT_LOCKS", "RLIMIT_SIGPENDING",
        "RLIMIT_MSGQUEUE", "RLIMIT_NICE",   "RLIMIT_RTPRIO",  "RLIMIT_RTTIME",
    };
    return which >= 0 && which < TD__LIMITS ? names[which] : "a limit";
}

bool td__limit_without_core(td__limit *wanted)
{
    struct rlimit now;
    if (wanted->soft == 0 && wanted->hard == 0 && getrlimit(RLIMIT_CORE, &now) == 0)
        *wanted = (td__limit){ now.rlim_cur, now.rlim_max };
    if (wanted->soft <= 1)
        return false;
    wanted->soft = 1; /* not 0: a limit of 0 still lets core_pattern's programs be started */
    return true;
}

int td__umask_set(int mask)
{
    return (int)umask((mode_t)mask);
}

/* --- identity ---------------------------------------------------------------------------------------------- */

/* FNV-1a, by eight bytes; strong enough to notice a change, and nobody gains by a collision but who has our rights
 * already. */
static void append(td__identity *identity, const char *bytes, size_t size)
{
    uint64_t hash = identity->hash, word;
    for (; size >= sizeof word; bytes += sizeof word, size -= sizeof word) {
        memcpy(&word, bytes, sizeof word);
        hash = (hash ^ word) * 0x100000001b3;
        hash ^= hash >> 32;
    }
    for (; size > 0; bytes++, size--)
        hash = (hash ^ (unsigned char)*bytes) * 0x100000001b3;
    identity->hash = hash;
}

static inline bool begins(const char *line, const char *with)
{
    return strncmp(line, with, strlen(with)) == 0;
}

/* A number at the end of a line, no larger than `most`. */
static bool number_at(const char *text, unsigned base, uint64_t most, uint64_t *number)
{
    uint64_t value = 0;
    text += strspn(text, "\t ");
    const char *first = text;
    for (; *text && *text != '\n'; text++) {
        unsigned digit = *text >= '0' && *text <= '9'   ? (unsigned)(*text - '0')
                         : *text >= 'a' && *text <= 'f' ? (unsigned)(*text - 'a') + 10
                                                        : base;
        if (digit >= base || value > (most - digit) / base)
            return false;
        value = value * base + digit;
    }
    *number = value;
    return text > first;
}

/* The lines of /proc/.../status that say who we are; the umask is taken out of it on the way, for the system call that
 * reads it also changes it, under the feet of other threads. False: the umask or capabilities are not told. A last line
 * without an end is none: it may have been cut. */
static bool take_status(td__identity *identity, const char *status)
{
    uint64_t mask;
    unsigned told = 0;
    td__capabilities *rights = &identity->capabilities;
    for (const char *line = status, *end; (end = strchr(line, '\n')) != NULL; line = end) {
        end++;
        bool kept = false;
        switch (line[0]) { /* first, as there are some fifty lines, at each start */
        case 'U':
            kept = begins(line, "Uid:");
            if (begins(line, "Umask:") && number_at(line + 6, 8, 0777, &mask)) {
                identity->umask = (int)mask;
                told |= 1;
            }
            break;
        case 'G':
            kept = begins(line, "Gid:") || begins(line, "Groups:");
            break;
        case 'C':
            kept = begins(line, "Cap");
            if (begins(line, "CapInh:") && number_at(line + 7, 16, UINT64_MAX, &rights->inheritable))
                told |= 2;
            else if (begins(line, "CapPrm:") && number_at(line + 7, 16, UINT64_MAX, &rights->permitted))
                told |= 4;
            else if (begins(line, "CapEff:") && number_at(line + 7, 16, UINT64_MAX, &rights->effective))
                told |= 8;
            break;
        case 'N':
            kept = begins(line, "NoNewPrivs:");
            break;
        case 'S':
            kept = begins(line, "Seccomp");
            break;
        default:
            break;
        }
        if (kept)
            append(identity, line, (size_t)(end - line));
    }
    return told == 15;
}

/*
 * The files below are read at each start. For the main thread, whose /proc directory is that of the process, they stay
 * open from the first start to the finish; other threads open theirs each time. Only the main thread uses these.
 */
static struct {
    pid_t pid; /* 0: none are open */
    int status, namespaces, cgroup;
} kept_open;

struct sources {
    int status, namespaces, cgroup;
    bool keep;
};

static struct sources open_sources(void)
{
    pid_t pid = td__getpid();
    struct sources sources = { -1, -1, -1, td__thread_id() == pid };
    if (sources.keep && kept_open.pid == pid) {
        sources.status = kept_open.status;
        sources.namespaces = kept_open.namespaces;
        sources.cgroup = kept_open.cgroup;
        return sources;
    }
    sources.status = td__open_read("/proc/thread-self/status");
    sources.namespaces = td__open_path("/proc/thread-self/ns");
    sources.cgroup = td__open_read("/proc/thread-self/cgroup");
    if (sources.status < 0 || sources.namespaces < 0 || sources.cgroup < 0)
        sources.keep = false;
    if (sources.keep) {
        kept_open.pid = pid;
        kept_open.status = sources.status;
        kept_open.namespaces = sources.namespaces;
        kept_open.cgroup = sources.cgroup;
    }
    return sources;
}

static void close_sources(const struct sources *sources)
{
    if (sources->keep)
        return;
    td__close(sources->status);
    td__close(sources->namespaces);
    td__close(sources->cgroup);
}

void td__identity_forget(void)
{
    if (kept_open.pid == 0)
        return;
    td__close(kept_open.status);
    td__close(kept_open.namespaces);
    td__close(kept_open.cgroup);
    kept_open.pid = 0;
}

/* The namespaces. Without CAP_SYS_ADMIN only the user namespace can have changed by our own doing, and the others
 * after it; so that one alone is compared then (reading a link costs some microseconds). A mount namespace shows in the
 * mount of the root directory. */
static void take_namespaces(td__identity *identity, int directory, bool admin)
{
    static const char *const names[] = {
        "user", "net", "uts", "ipc", "pid_for_children", "cgroup", "time_for_children"
    };
    char link[64];
    for (size_t i = 0; i < (admin ? TD__COUNT(names) : 1); i++) {
        ssize_t n = readlinkat(directory, names[i], link, sizeof link);
        if (n > 0)
            append(identity, link, (size_t)n);
    }
}

static void take_cgroup(td__identity *identity, int file)
{
    char text[1024];
    ssize_t n = td__read_at(file, text, sizeof text);
    if (n > 0)
        append(identity, text, (size_t)n);
}

static void take_root(td__identity *identity)
{
    struct statx root;
    if (statx(AT_FDCWD, "/", 0, STATX_INO | STATX_MNT_ID, &root) < 0)
        return;
    uint64_t numbers[4] = { root.stx_dev_major, root.stx_dev_minor, root.stx_ino, root.stx_mnt_id };
    append(identity, (const char *)numbers, sizeof numbers);
}

/* All of the file, as text: in `room`, or where that is too small (it names all groups, of which there may be 65,536)
 * in memory of its own, which is then to be released. NULL with errno. */
static char *read_status(int file, char *room, size_t size)
{
    enum { MOST = 16 << 20 };
    char *text = room;
    for (;;) {
        ssize_t n = td__read_at(file, text, size - 1);
        if (n > 0 && (size_t)n < size - 1) {
            text[n] = 0;
            return text;
        }
        int error = n < 0 ? errno : n == 0 ? ENODATA : EOVERFLOW;
        if (text != room)
            td__release(text);
        size *= 4;
        text = error == EOVERFLOW && size <= MOST ? td__alloc_unset(size) : NULL;
        if (!text) {
            errno = error;
            return NULL;
        }
    }
}

int td__identity_get(td__identity *identity)
{
    char room[16384];
    *identity = (td__identity){ .hash = 0xcbf29ce484222325, .umask = -1 };
    struct sources sources = open_sources();
    char *status =
        sources.status >= 0 && sources.namespaces >= 0 ? read_status(sources.status, room, sizeof room) : NULL;
    if (!status) {
        int error = errno;
        close_sources(&sources);
        errno = error;
        return -1;
    }
    bool told = take_status(identity, status);
    if (status != room)
        td__release(status);
    take_namespaces(identity, sources.namespaces, (identity->capabilities.permitted >> CAP_SYS_ADMIN & 1) != 0);
    if (sources.cgroup >= 0)
        take_cgroup(identity, sources.cgroup);
    take_root(identity);
    close_sources(&sources);
    if (told)
        return 0;
    errno = ENODATA;
    return -1;
}

int td__capabilities_set(const td__capabilities *wanted)
{
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct data[2];
    for (int i = 0; i < 2; i++) {
        data[i].effective = (uint32_t)(wanted->effective >> (32 * i));
        data[i].permitted = (uint32_t)(wanted->permitted >> (32 * i));
        data[i].inheritable = (uint32_t)(wanted->inheritable >> (32 * i));
    }
    return (int)syscall(SYS_capset, &header, data);
}

int td__file_at(const void *address, char *path, size_t size)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    if (!maps)
        return -1;
    char line[PATH_MAX + 128];
    int found = -1;
    errno = ENOENT;
    while (found < 0 && fgets(line, sizeof line, maps)) {
        unsigned long from, to;
        int at = 0;
        size_t length = strcspn(line, "\n");
        bool whole = line[length] == '\n' || feof(maps);
        line[length] = 0;
        if (!whole) /* what follows of a name is no line of its own */
            for (int c = 0; c != EOF && c != '\n';)
                c = getc(maps);
        if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %n", &from, &to, &at) < 2 || (uintptr_t)address < from ||
            (uintptr_t)address >= to)
            continue;
        if (at == 0 || line[at] != '/' || !whole || strlen(line + at) >= size)
            break;
        td__format(path, size, "%s", line + at);
        found = 0;
    }
    fclose(maps);
    return found;
}
