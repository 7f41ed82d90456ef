/* SPDX-License-Identifier: MIT */
/* Allocation, memory files, mappings, and what memory is left: at their borders. */
#include "borders.h"

#include <sys/mman.h>
#include <sys/stat.h>

#define PAGE ((size_t)sysconf(_SC_PAGESIZE))

/* --- allocation ------------------------------------------------------------------------------------------------- */

TEST(allocations_of_any_size)
{
    static const size_t sizes[] = { 0, 1, 15, 16, 4096, 1 << 20, (32 << 20) + 1, 40 << 20 };
    for (size_t i = 0; i < TD__COUNT(sizes); i++) {
        unsigned char *zeroed = td__alloc(sizes[i]), *unset = td__alloc_unset(sizes[i]);
        REQUIRE(zeroed && unset);
        CHECK((uintptr_t)zeroed % 16 == 0 && (uintptr_t)unset % 16 == 0);
        size_t set = 0;
        for (size_t at = 0; at < sizes[i]; at += at < 4096 ? 1 : 61)
            set += zeroed[at] != 0;
        CHECK_INT(set, 0);
        memset(unset, 1, sizes[i]);
        td__release(zeroed);
        free(unset); /* as the caller of td_recv may */
    }
    td__release(NULL);
}

/* Catches: a size that wraps round to a small one. */
TEST(allocations_that_are_too_large)
{
    if (SANITIZED)
        SKIP("a sanitizer ends the program at such sizes");
    static const size_t sizes[] = { SIZE_MAX, SIZE_MAX - 15, (size_t)PTRDIFF_MAX + 1, (size_t)1 << 60 };
    for (size_t i = 0; i < TD__COUNT(sizes); i++) {
        CHECK_NO(td__alloc(sizes[i]), ENOMEM);
        CHECK_NO(td__alloc_unset(sizes[i]), ENOMEM);
    }
    WITH_FAULT(CHECK_NO(td__alloc(1), ENOMEM));
    WITH_FAULT(CHECK_NO(td__alloc_unset(1), ENOMEM));
}

/* --- memory files ----------------------------------------------------------------------------------------------- */

static int file;

static void check_sealed(uint64_t size)
{
    uint64_t got = 99;
    CHECK(td__is_memory_file(file, &got));
    CHECK_INT(got, size);
    if (size > 0)
        CHECK_FAILS(ftruncate(file, (off_t)size - 1), EPERM);
    CHECK_FAILS(ftruncate(file, (off_t)size + 1), EPERM);
    CHECK_FAILS(fcntl(file, F_ADD_SEALS, F_SEAL_WRITE), EPERM);
    CHECK_INT(td__memory_file_used(file), 0);
}

/* Catches: a file that somebody can make smaller under its readers, whom that would end. */
TEST(memory_files_of_any_size)
{
    static const uint64_t sizes[] = { 0, 1, 4096, 4097, (uint64_t)1 << 40 };
    for (size_t i = 0; i < TD__COUNT(sizes); i++) {
        file = td__memory_file("t", sizes[i]);
        REQUIRE(file >= 0);
        check_sealed(sizes[i]);
        close(file);
    }
    int before = count_fds();
    CHECK_FAILS(td__memory_file("t", UINT64_MAX), EINVAL);
    CHECK_FAILS(td__memory_file("t", (uint64_t)INT64_MAX + 1), EINVAL);
    char name[300];
    memset(name, 'n', sizeof name);
    name[299] = 0;
    CHECK_FAILS(td__memory_file(name, 1), EINVAL); /* longer than the kernel has it */
    CHECK_INT(count_fds(), before);
}

/* Catches: SIGXFSZ, which ends the program. */
TEST(memory_files_beyond_the_limit_of_files)
{
    struct rlimit limit = { 8192, 8192 };
    REQUIRE(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    int before = count_fds();
    CHECK_FAILS(td__memory_file("t", 8193), EFBIG);
    CHECK_FAILS(td__memory_file("t", UINT64_MAX), EFBIG);
    CHECK_INT(count_fds(), before);
    file = td__memory_file("t", 8192);
    REQUIRE(file >= 0);
    CHECK_INT(td__reserve(file, 0, 8192), 0);
}

TEST(memory_files_refused)
{
    int before = count_fds();
    refuse(SYS_ftruncate, EIO);
    CHECK_FAILS(td__memory_file("t", 1), EIO);
    CHECK_INT(count_fds(), before);
    refuse(SYS_memfd_create, ENOSYS);
    CHECK_FAILS(td__memory_file("t", 1), ENOSYS);
    CHECK_INT(count_fds(), before);
}

/* Catches: a file that can still be cut, or none of memory, taken for one that is safe to read. */
TEST(what_is_no_memory_file)
{
    char path[PATH_MAX];
    uint64_t size = 0;
    CHECK(!td__is_memory_file(-1, &size));
    REQUIRE(write_file(dir_path("file", path, sizeof path), "text"));
    int fd = td__open_read(path);
    CHECK(!td__is_memory_file(fd, &size));
    int ends[2];
    REQUIRE(td__pipe(ends) == 0);
    CHECK(!td__is_memory_file(ends[0], &size));
    int unsealed = memfd_create("t", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    REQUIRE(unsealed >= 0 && ftruncate(unsealed, 4096) == 0);
    const int seals[] = { F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL };
    for (int i = 0; i < 3; i++) { /* the last one first would forbid the others */
        CHECK(!td__is_memory_file(unsealed, &size));
        REQUIRE(fcntl(unsealed, F_ADD_SEALS, seals[i]) == 0);
    }
    CHECK(td__is_memory_file(unsealed, &size));
    CHECK_INT(size, 4096);
}

/* --- mappings --------------------------------------------------------------------------------------------------- */

TEST(mappings)
{
    file = td__memory_file("mappings", 4 * PAGE);
    REQUIRE(file >= 0);
    char *one = td__map_shared(file, 0, 2 * PAGE), *two = td__map_shared(file, PAGE, PAGE);
    const char *reading = td__map_reading(file, PAGE);
    REQUIRE(one && two && reading);
    strcpy(one + PAGE, "second");
    strcpy(one, "first");
    CHECK_STR(two, "second");
    CHECK_STR(reading, "first");
    CHECK_NO(td__map_shared(file, 1, PAGE), EINVAL);
    CHECK_NO(td__map_shared(file, 0, 0), EINVAL);
    CHECK_NO(td__map_shared(-1, 0, PAGE), EBADF);
    CHECK_NO(td__map_shared(file, 0, SIZE_MAX), ENOMEM);
    CHECK_NO(td__map_reading(-1, PAGE), EBADF);
    CHECK_NO(td__map_reading(file, 0), EINVAL);
    CHECK_NO(td__map_private(0), EINVAL);
    CHECK_NO(td__map_private(SIZE_MAX), ENOMEM);
    CHECK_NO(td__map_uncopied(0), EINVAL);
    CHECK_NO(td__map_with_children(0), EINVAL);
    CHECK_NO(td__map_with_children(SIZE_MAX), ENOMEM);
    td__unmap(one, 2 * PAGE);
    td__unmap(two, PAGE);
    td__unmap((void *)(uintptr_t)reading, PAGE);
    td__unmap(NULL, PAGE);
    CHECK_INT(count_maps("memfd:mappings"), 0);
    WITH_FAULT(CHECK_NO(td__map_shared(file, 0, PAGE), ENOMEM));
    WITH_FAULT(CHECK_NO(td__map_reading(file, PAGE), ENOMEM));
    WITH_FAULT(CHECK_NO(td__map_private(PAGE), ENOMEM));
    WITH_FAULT(CHECK_NO(td__map_uncopied(PAGE), ENOMEM));
    WITH_FAULT(CHECK_NO(td__map_with_children(PAGE), ENOMEM));
}

/* Catches: the spawner's table in each worker; children that do not see what they share. */
TEST(mappings_and_children)
{
    char *private = td__map_private(PAGE), *uncopied = td__map_uncopied(PAGE), *with = td__map_with_children(PAGE);
    REQUIRE(private && uncopied && with);
    CHECK_INT(td__populate(with, PAGE), 0);
    CHECK_INT(private[0] | uncopied[0] | with[0], 0);
    pid_t pid = fork();
    if (pid == 0) {
        private[0] = with[0] = 1;
        signal(SIGSEGV, SIG_DFL);
        *(volatile char *)uncopied = 1;
        _exit(0);
    }
    CHECK_INT(helper_wait(pid), -SIGSEGV);
    CHECK_INT(private[0], 0);
    CHECK_INT(with[0], 1);
    td__unmap(private, PAGE);
    td__unmap(uncopied, PAGE);
    td__unmap(with, PAGE);
}

TEST(pages_before_they_are_touched)
{
    char *at = td__map_private(4 * PAGE);
    REQUIRE(at != NULL);
    CHECK_INT(td__populate(at, 4 * PAGE), 0);
    CHECK_INT(td__populate(at, 0), 0);
    td__unmap(at, 4 * PAGE);
    CHECK_FAILS(td__populate(at, PAGE), ENOMEM);
    WITH_FAULT(CHECK_FAILS(td__populate(at, PAGE), ENOMEM));
    refuse(SYS_madvise, EINVAL); /* as kernels before it do: the pages come later */
    CHECK_INT(td__populate(at, PAGE), 0);
}

/* Catches: something that is mapped over what is there; an address that is somewhere else than asked for. */
TEST(mappings_at_a_place)
{
    CHECK_INT(td__free_place(0) % PAGE, 0);
    int places = 0;
    while (places < 10 && td__free_place(places))
        places++;
    CHECK(places >= 1 && places < 10);
    char *there = td__map_private(2 * PAGE);
    REQUIRE(there != NULL);
    strcpy(there, "kept");
    int before = count_maps("");
    CHECK_NO(td__map_at((uintptr_t)there, -1, PAGE), EEXIST);
    CHECK_NO(td__map_at((uintptr_t)there - PAGE, -1, 2 * PAGE), EEXIST);
    CHECK_NO(td__map_at((uintptr_t)there + 1, -1, PAGE), EINVAL);
    if (!WITH_TSAN) /* which ends the program */
        CHECK_NO(td__map_at(UINTPTR_MAX & ~(PAGE - 1), -1, PAGE), ENOMEM);
    CHECK_INT(count_maps(""), before);
    CHECK_STR(there, "kept");
    td__unmap(there, 2 * PAGE);
    char *again = td__map_at((uintptr_t)there, -1, PAGE);
    CHECK(again == there);
    CHECK_INT(again[0], 0);
    td__unmap(again, PAGE);
    WITH_FAULT(CHECK_NO(td__map_at((uintptr_t)there, -1, PAGE), ENOMEM));
    file = td__memory_file("t", PAGE);
    char *mapped = td__map_at((uintptr_t)there, file, PAGE), *other = td__map_shared(file, 0, PAGE);
    REQUIRE(mapped == there && other);
    strcpy(mapped, "shared");
    CHECK_STR(other, "shared");
    td__unmap(mapped, PAGE);
    td__unmap(other, PAGE);
}

TEST(a_file_in_the_place_of_pages)
{
    file = td__memory_file("t", 2 * PAGE);
    char *pages = td__map_private(2 * PAGE);
    REQUIRE(file >= 0 && pages);
    strcpy(pages, "before");
    CHECK_FAILS(td__map_over(pages, -1, 2 * PAGE), EBADF);
    CHECK_FAILS(td__map_over(pages + 1, file, 2 * PAGE), EINVAL);
    CHECK_FAILS(td__map_over(pages, file, 0), EINVAL);
    WITH_FAULT(CHECK_FAILS(td__map_over(pages, file, 2 * PAGE), ENOMEM));
    CHECK_STR(pages, "before"); /* all as it was */
    CHECK_INT(td__write_at(file, "before", 7), 0);
    CHECK_INT(td__map_over(pages, file, 2 * PAGE), 0);
    CHECK_STR(pages, "before");
    CHECK_INT(td__write_at(file, "after!", 7), 0);
    CHECK_STR(pages, "after!");
    td__unmap(pages, 2 * PAGE);
}

/* Catches: a hole that keeps its memory; a reservation that makes the file larger, or that is none. */
TEST(reservations)
{
    file = td__memory_file("t", 8 * PAGE);
    REQUIRE(file >= 0);
    CHECK_INT(td__memory_file_used(file), 0);
    CHECK_INT(td__reserve(file, PAGE, 2 * PAGE), 0);
    CHECK_INT(td__memory_file_used(file), 2 * PAGE);
    CHECK_INT(td__reserve(file, PAGE, 2 * PAGE), 0);
    CHECK_INT(td__memory_file_used(file), 2 * PAGE);
    td__punch(file, 0, PAGE); /* nothing there */
    CHECK_INT(td__memory_file_used(file), 2 * PAGE);
    td__punch(file, PAGE, PAGE);
    CHECK_INT(td__memory_file_used(file), PAGE);
    td__punch(file, 0, (uint64_t)1 << 40); /* beyond the end */
    CHECK_INT(td__memory_file_used(file), 0);
    CHECK_FAILS(td__reserve(file, 0, 0), EINVAL);
    CHECK_FAILS(td__reserve(file, UINT64_MAX, PAGE), EINVAL);
    CHECK_FAILS(td__reserve(file, 0, UINT64_MAX), EINVAL);
    CHECK_FAILS(td__reserve(-1, 0, PAGE), EBADF);
    CHECK(td__reserve(file, 0, (uint64_t)1 << 62) < 0);
    CHECK_INT(td__memory_file_used(file), 0);
    td__punch(file, 0, 0);
    td__punch(-1, 0, PAGE);
    CHECK_INT(td__memory_file_used(-1), 0);
    uint64_t size;
    CHECK(td__is_memory_file(file, &size) && size == 8 * PAGE);
    WITH_FAULT(CHECK_FAILS(td__reserve(file, 0, PAGE), ENOSPC));
    refuse(SYS_fallocate, EPERM);
    CHECK_FAILS(td__reserve(file, 0, PAGE), EPERM);
    td__punch(file, 0, PAGE);
}

/* --- what is left ----------------------------------------------------------------------------------------------- */

static void put(const char *name, const char *text)
{
    char path[PATH_MAX];
    if (!write_file(dir_path(name, path, sizeof path), text))
        harness_note("    %s", path);
}

static void make_folder(const char *name)
{
    char path[PATH_MAX];
    REQUIRE(mkdir(dir_path(name, path, sizeof path), 0777) == 0);
}

static void make_groups(void)
{
    make_folder("a");
    make_folder("a/b");
    make_folder("memory");
    make_folder("memory/v1");
    put("a/memory.max", "1000000\n");
    put("a/memory.current", "400000\n");
    put("a/memory.stat", "anon 5\ninactive_file 100000\nactive_file 3\n");
    put("a/b/memory.max", "max\n");
    put("memory/v1/memory.limit_in_bytes", "5000\n");
    put("memory/v1/memory.usage_in_bytes", "1000\n");
}

/* Cut at each length, and with each byte in turn spoilt. Catches: a read beyond the end; a loop that does not end; a
 * limit that is read out of another line. */
TEST(groups_whose_description_is_damaged)
{
    static const char whole[] = "12:cpu,memory:/v1\n5:pids:/x\n0::/a/b\n";
    make_groups();
    CHECK_INT(td__memory_left_in_groups(whole, harness_dir), 4000);
    for (size_t length = 0; length < sizeof whole; length++) {
        char *text = malloc(length + 1); /* of its exact size, for AddressSanitizer */
        REQUIRE(text != NULL);
        memcpy(text, whole, length);
        text[length] = 0;
        uint64_t left = td__memory_left_in_groups(text, harness_dir);
        CHECK(left == 4000 || left == 700000 || left == UINT64_MAX);
        static const char spoilt[] = { '\n', ':', ',', '/', '.', 1, (char)0xff };
        for (size_t i = 0; i < TD__COUNT(spoilt) && length < sizeof whole - 1; i++) {
            char *other = strdup(whole);
            other[length] = spoilt[i];
            left = td__memory_left_in_groups(other, harness_dir);
            CHECK(left == 4000 || left == 700000 || left == UINT64_MAX);
            free(other);
        }
        free(text);
    }
    CHECK_INT(td__memory_left_in_groups("0::/a", harness_dir), 700000);
    CHECK_INT(td__memory_left_in_groups("0::/a", "/nonexistent"), UINT64_MAX);
    CHECK_INT(td__memory_left_in_groups(":::\n::\n:\n", harness_dir), UINT64_MAX);
    CHECK_INT(td__memory_left_in_groups("no colon\n0::/a", harness_dir), 700000);
    CHECK_INT(td__memory_left_in_groups("1:memoryx,xmemory:/v1", harness_dir), UINT64_MAX);
}

/* Catches: names beyond the room for them. */
TEST(groups_with_long_names)
{
    static char membership[3 * PATH_MAX];
    make_groups();
    for (int length = PATH_MAX - 100; length < PATH_MAX + 100; length++) {
        int n = snprintf(membership, sizeof membership, "0::/a/");
        memset(membership + n, 'x', (size_t)length);
        membership[n + length] = 0;
        uint64_t left = td__memory_left_in_groups(membership, harness_dir);
        if (!CHECK(left == 700000 || left == UINT64_MAX))
            break;
    }
    memset(membership, '/', sizeof membership - 1);
    memcpy(membership, "0::/a", 5);
    CHECK_INT(td__memory_left_in_groups(membership, harness_dir), UINT64_MAX);
}

/* Numbers that are none, or more than there are. */
TEST(groups_with_strange_numbers)
{
    static const struct {
        const char *max, *current, *stat;
        uint64_t left;
    } rows[] = {
        { "", "", "", UINT64_MAX },
        { "max", "5", "", UINT64_MAX },
        { "-1", "5", "", UINT64_MAX },
        { "1000", "", "", 1000 },
        { "1000", "max", "", 1000 },
        { "1000", "1000", "", 0 },
        { "1000", "1001", "", 0 },
        { "0", "0", "", 0 },
        { "1000", "400", "inactive_file 100", 600 }, /* the first line: the kernel never has it there */
        { "1000", "400", "\ninactive_file 100", 700 },
        { "1000", "400", "\ninactive_file 500", 600 }, /* more than there is: not believed */
        { "1000", "400", "\ninactive_file", 600 },
        { "1000", "400", "\ninactive_file x", 600 },
        { "99999999999999999999999", "1", "", UINT64_MAX },
        { "1000", "99999999999999999999999", "", 1000 },
        { "18446744073709551614", "1", "", UINT64_MAX - 2 },
    };
    make_groups();
    for (size_t i = 0; i < TD__COUNT(rows); i++) {
        put("a/memory.max", rows[i].max);
        put("a/memory.current", rows[i].current);
        put("a/memory.stat", rows[i].stat);
        uint64_t left = td__memory_left_in_groups("0::/a", harness_dir);
        if (!CHECK(left == rows[i].left))
            harness_note("    row %zu: %llu", i, (unsigned long long)left);
    }
}

TEST(memory_of_the_system)
{
    static const struct {
        const char *text;
        uint64_t left;
    } rows[] = {
        { "MemTotal: 100 kB\nMemAvailable:     50 kB\nSwapFree: 7 kB\n", 57 * 1024 },
        { "MemAvailable:\t50", 50 * 1024 },
        { "MemAvailable: 50 kB\nSwapFree: none\n", 50 * 1024 },
        { "MemAvailable: 0 kB\n", 0 },
        { "MemAvailable: x\nSwapFree: 7 kB\n", UINT64_MAX },
        { "MemAvailable:", UINT64_MAX },
        { "SwapFree: 7 kB\n", UINT64_MAX },
        { "", UINT64_MAX },
        { "MemAvailable: 18446744073709551614 kB\nSwapFree: 7 kB\n", UINT64_MAX },
        { "MemAvailable: 18014398509481984 kB\n", UINT64_MAX }, /* 2^54: one too many for 64 bits of bytes */
        { "MemAvailable: 18014398509481983 kB\n", UINT64_MAX - 1023 },
    };
    CHECK(td__memory_available() > 0);
    make_folder("proc");
    make_folder("proc/self");
    enter_root();
    CHECK(td__memory_available() == UINT64_MAX); /* no files at all */
    for (size_t i = 0; i < TD__COUNT(rows); i++) {
        put("proc/meminfo", rows[i].text);
        uint64_t left = td__memory_available();
        if (!CHECK(left == rows[i].left))
            harness_note("    row %zu: %llu", i, (unsigned long long)left);
    }
    /* The tighter of the two. */
    make_folder("sys");
    make_folder("sys/fs");
    make_folder("sys/fs/cgroup");
    put("proc/self/cgroup", "0::/\n");
    put("sys/fs/cgroup/memory.max", "4096\n");
    CHECK_INT(td__memory_available(), 4096);
    put("proc/meminfo", "MemAvailable: 3 kB\n");
    CHECK_INT(td__memory_available(), 3072);
    put("proc/self/cgroup", "");
    put("proc/meminfo", "");
    CHECK(td__memory_available() == UINT64_MAX);
    leave_root();
}
