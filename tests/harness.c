/* SPDX-License-Identifier: MIT */
/*
 * The test harness; harness.h says what it offers.
 *
 * Three processes matter. The supervisor ("test_x CASE") is single-threaded, makes the case's directory and page,
 * starts the program again as "test_x --run CASE" in a process group of its own, reaps all that the case leaves
 * behind, and judges. The case's process runs the test. Its workers and helpers descend from it.
 */
#include "harness.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define MAX_PROCS 4096

const mode mode_thread = { "thread", TD_THREAD, TD_METHOD_DEFAULT };
const mode mode_forkserver = { "forkserver", TD_PROCESS, TD_FORKSERVER };
const mode mode_fork = { "fork", TD_PROCESS, TD_FORK };

harness_page *page;
const char *harness_dir = "/nonexistent";

static harness_case *cases, **cases_end = &cases;
static harness_helper *helpers;
static harness_init *inits;

static pid_t case_pid;      /* the process that runs the case, or the helper's; 0 in others */
static atomic_int failures; /* of this process */
static char own_dir[PATH_MAX];

#if WITH_TSAN
/* The user's fork in a program that has threads is part of what is tested. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "die_after_fork=0";
}
#endif

/* --- the page ---------------------------------------------------------------------------------------------- */

/* Runs in every image of this program, also in the spawner, so that workers find the page. */
__attribute__((constructor(101))) static void map_page(void)
{
    const char *dir = getenv("TANDEM_TEST_DIR");
    if (!dir || strlen(dir) >= sizeof own_dir)
        return;
    strcpy(own_dir, dir);
    harness_dir = own_dir;
    char path[PATH_MAX + 8];
    snprintf(path, sizeof path, "%s/.page", dir);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *map = mmap(0, sizeof(harness_page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map != MAP_FAILED)
        page = map;
}

static long futex(_Atomic uint32_t *word, int op, uint32_t value, const struct timespec *limit)
{
    return syscall(SYS_futex, word, op, value, limit, 0, 0);
}

void event_add(int n)
{
    REQUIRE(page != 0);
    atomic_fetch_add(&page->event[n], 1);
    futex(&page->event[n], FUTEX_WAKE, INT_MAX, 0);
}

void event_set(int n)
{
    REQUIRE(page != 0);
    atomic_store(&page->event[n], 1);
    futex(&page->event[n], FUTEX_WAKE, INT_MAX, 0);
}

uint32_t event_count(int n)
{
    REQUIRE(page != 0);
    return atomic_load(&page->event[n]);
}

bool event_is_set(int n)
{
    return event_count(n) != 0;
}

static bool wait_count(int n, uint32_t count, double seconds)
{
    double end = now() + seconds;
    for (;;) {
        uint32_t seen = event_count(n);
        if (seen >= count)
            return true;
        double left = end - now();
        if (left <= 0)
            return false;
        struct timespec limit = { (time_t)left, (long)((left - (double)(time_t)left) * 1e9) };
        futex(&page->event[n], FUTEX_WAIT, seen, &limit);
    }
}

void event_wait(int n)
{
    wait_count(n, 1, 1e6);
}

void event_wait_count(int n, uint32_t count)
{
    wait_count(n, count, 1e6);
}

bool event_wait_for(int n, double seconds)
{
    return wait_count(n, 1, seconds);
}

static bool long_tests(void)
{
    return getenv("TANDEM_TEST_FULL") != NULL;
}

int thrift(void)
{
    return SANITIZED && !long_tests() ? 4 : 1;
}

long one_in(long n)
{
    return long_tests() ? 1 : n;
}

double budget(void)
{
    return long_tests() ? 20 : 1.5;
}

/* --- checks ------------------------------------------------------------------------------------------------ */

/* Where the case's process reports, even while it plays with its standard streams; inherited by its forks only. */
static int report_fd = 2;

/* One write, so that lines of several processes do not mix. */
static void say(const char *format, va_list list)
{
    char line[4096];
    int n = vsnprintf(line, sizeof line - 1, format, list);
    if (n < 0)
        return;
    if (n > (int)sizeof line - 2)
        n = (int)sizeof line - 2;
    line[n++] = '\n';
    ssize_t ignored = write(report_fd, line, (size_t)n);
    (void)ignored;
}

void harness_note(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    say(format, list);
    va_end(list);
}

static void failed(bool fatal, const char *format, ...) TD_PRINTF(2, 3);
static void failed(bool fatal, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    say(format, list);
    va_end(list);
    if (page)
        atomic_fetch_add(&page->failures, 1);
    int so_far = atomic_fetch_add(&failures, 1) + 1;
    if (getpid() != case_pid)
        _exit(EXIT_WORKER);
    if (fatal || so_far >= 50)
        _exit(1);
}

bool harness_failed(void)
{
    return atomic_load(&failures) > 0;
}

bool harness_check(bool fatal, bool held, const char *file, int line, const char *text)
{
    if (!held)
        failed(fatal, "%s:%d: [%d] false: %s", file, line, (int)getpid(), text);
    return held;
}

bool harness_check_int(bool fatal, intmax_t got, intmax_t want, const char *file, int line, const char *text)
{
    if (got != want)
        failed(fatal, "%s:%d: [%d] %s: %jd, not %jd", file, line, (int)getpid(), text, got, want);
    return got == want;
}

bool harness_check_str(bool fatal, const char *got, const char *want, const char *file, int line, const char *text)
{
    bool same = got && want ? strcmp(got, want) == 0 : got == want;
    if (!same)
        failed(fatal, "%s:%d: [%d] %s:\n    is    \"%.1500s\"\n    not   \"%.1500s\"", file, line, (int)getpid(), text,
               got ? got : "(NULL)", want ? want : "(NULL)");
    return same;
}

bool harness_check_has(const char *got, const char *part, const char *file, int line, const char *text)
{
    bool has = got && strstr(got, part);
    if (!has)
        failed(false, "%s:%d: [%d] %s: \"%.1500s\" does not contain \"%s\"", file, line, (int)getpid(), text,
               got ? got : "(NULL)", part);
    return has;
}

bool harness_check_range(double got, double low, double high, const char *file, int line, const char *text)
{
    bool in = got >= low && got <= high;
    if (!in)
        failed(false, "%s:%d: [%d] %s: %g is not from %g to %g", file, line, (int)getpid(), text, got, low, high);
    return in;
}

bool harness_check_ok(bool fatal, int got, const char *file, int line, const char *text)
{
    if (got != 0)
        failed(fatal, "%s:%d: [%d] %s: %s (%d): %s", file, line, (int)getpid(), text, td_error_name(got), got,
               td_last_message());
    return got == 0;
}

bool harness_check_error(int got, int want, const char *file, int line, const char *text)
{
    if (got != want) {
        failed(false, "%s:%d: [%d] %s: %s (%d), not %s: %s", file, line, (int)getpid(), text, td_error_name(got), got,
               td_error_name(want), got < 0 ? td_last_message() : "");
        return false;
    }
    if (td_last_error() != want || !td_last_message()[0]) {
        failed(false, "%s:%d: [%d] %s: the pending error is %s, \"%s\"", file, line, (int)getpid(), text,
               td_error_name(td_last_error()), td_last_message());
        return false;
    }
    return true;
}

td_worker *worker_made(td_worker *w, const char *file, int line)
{
    if (!w)
        failed(true, "%s:%d: [%d] no worker: %s", file, line, (int)getpid(), td_last_message());
    return w;
}

td_worker *worker_joined(td_worker *w, const char *file, int line)
{
    worker_made(w, file, line);
    harness_check_ok(true, td_start(w), file, line, "td_start(w)");
    harness_check_ok(true, td_join(w), file, line, "td_join(w)");
    return w;
}

void harness_skip(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    say(format, list);
    va_end(list);
    fflush(stdout);
    _exit(atomic_load(&failures) ? 1 : EXIT_SKIPPED);
}

/* --- time -------------------------------------------------------------------------------------------------- */

double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void pause_ms(int ms)
{
    struct timespec t = { ms / 1000, ms % 1000 * 1000000L };
    while (nanosleep(&t, &t) < 0 && errno == EINTR)
        ;
}

/* --- what the system holds --------------------------------------------------------------------------------- */

static int count_entries(const char *path)
{
    DIR *dir = opendir(path);
    if (!dir)
        return -1;
    int n = 0;
    for (struct dirent *e; (e = readdir(dir));)
        n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

int count_fds(void)
{
    return count_entries("/proc/self/fd") - 1; /* that of the directory */
}

int count_threads(void)
{
    return count_entries("/proc/self/task");
}

int count_maps(const char *containing)
{
    FILE *f = fopen("/proc/self/maps", "re");
    if (!f)
        return -1;
    char line[PATH_MAX + 128];
    int n = 0;
    while (fgets(line, sizeof line, f))
        n += strstr(line, containing) != 0;
    fclose(f);
    return n;
}

long mapped_kib(void)
{
    char text[64];
    return strtol(status_of(getpid(), "VmSize", text, sizeof text), 0, 10);
}

static bool read_proc(pid_t pid, proc *p)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0)
        return false;
    text[n] = 0;
    char *open_paren = strchr(text, '('), *close_paren = strrchr(text, ')');
    int ppid;
    if (!open_paren || !close_paren || sscanf(close_paren + 1, " %c %d", &p->state, &ppid) != 2)
        return false;
    p->pid = pid;
    p->ppid = ppid;
    *close_paren = 0;
    snprintf(p->comm, sizeof p->comm, "%.31s", open_paren + 1);
    return true;
}

bool process_alive(pid_t pid)
{
    proc p;
    return read_proc(pid, &p) && p.state != 'Z' && p.state != 'X';
}

int family(pid_t root, proc *list, int capacity)
{
    int n = 0, found = 0;
    proc *all = malloc(MAX_PROCS * sizeof *all);
    bool *in = calloc(MAX_PROCS, sizeof *in);
    DIR *dir = opendir("/proc");
    REQUIRE(all && in && dir);
    for (struct dirent *e; (e = readdir(dir)) && n < MAX_PROCS;)
        if (e->d_name[0] >= '1' && e->d_name[0] <= '9' && read_proc((pid_t)atoi(e->d_name), &all[n]))
            n++;
    closedir(dir);
    for (bool more = true; more;) {
        more = false;
        for (int i = 0; i < n; i++) {
            if (in[i])
                continue;
            bool child = all[i].ppid == root;
            for (int j = 0; j < n && !child; j++)
                child = in[j] && all[j].pid == all[i].ppid;
            if (child) {
                in[i] = more = true;
                if (list && found < capacity)
                    list[found] = all[i];
                found++;
            }
        }
    }
    free(all);
    free(in);
    return found;
}

pid_t parent_of(pid_t pid)
{
    proc p;
    return read_proc(pid, &p) ? p.ppid : 0;
}

int list_others(proc *list, int capacity)
{
    pid_t root = getpid() == 1 ? 1 : page->supervisor, above[64];
    int generations = 0, kept = 0;
    for (pid_t pid = getpid(); pid > 0 && pid != root && generations < 64; pid = parent_of(pid))
        above[generations++] = pid;
    proc *all = malloc(MAX_PROCS * sizeof *all);
    REQUIRE(all != 0);
    int n = family(root, all, MAX_PROCS);
    for (int i = 0; i < n && i < MAX_PROCS; i++) {
        bool mine = false;
        for (int k = 0; k < generations; k++)
            mine = mine || above[k] == all[i].pid;
        if (mine)
            continue;
        if (kept < capacity)
            list[kept] = all[i];
        kept++;
    }
    free(all);
    return kept;
}

static int count_others(bool zombies)
{
    proc *list = malloc(MAX_PROCS * sizeof *list);
    REQUIRE(list != 0);
    int n = list_others(list, MAX_PROCS), count = 0;
    for (int i = 0; i < n; i++)
        count += (list[i].state == 'Z' || list[i].state == 'X') == zombies;
    free(list);
    return count;
}

int others(void)
{
    return count_others(false);
}

void check_no_others(const char *file, int line)
{
    proc list[16];
    int n = list_others(list, 16), living = 0;
    for (int i = 0; i < n && i < 16; i++)
        if (list[i].state != 'Z' && list[i].state != 'X') {
            living++;
            harness_note("    left: process %d, child of %d, '%s', state %c", list[i].pid, list[i].ppid, list[i].comm,
                         list[i].state);
        }
    harness_check_int(false, living, 0, file, line, "processes left");
}

int others_zombies(void)
{
    return count_others(true);
}

static int family_count(pid_t root, bool zombies)
{
    proc *list = malloc(MAX_PROCS * sizeof *list);
    if (!list)
        return -1;
    int n = family(root, list, MAX_PROCS), count = 0;
    for (int i = 0; i < n; i++)
        count += (list[i].state == 'Z' || list[i].state == 'X') == zombies;
    free(list);
    return count;
}

int family_alive(pid_t root)
{
    return family_count(root, false);
}

int family_zombies(pid_t root)
{
    return family_count(root, true);
}

const char *first_line(const char *path, char *to, size_t size)
{
    to[0] = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return to;
    ssize_t n = read(fd, to, size - 1);
    close(fd);
    if (n < 0)
        n = 0;
    to[n] = 0;
    to[strcspn(to, "\n")] = 0;
    return to;
}

void print_family(pid_t root)
{
    proc *list = malloc(64 * sizeof *list);
    if (!list)
        return;
    int n = family(root, list, 64);
    for (int i = 0; i < n && i < 64; i++) {
        char path[128], command[256], where[128], call[128];
        snprintf(path, sizeof path, "/proc/%d/cmdline", (int)list[i].pid);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t size = fd < 0 ? 0 : read(fd, command, sizeof command - 1);
        if (fd >= 0)
            close(fd);
        if (size < 0)
            size = 0;
        command[size] = 0;
        for (ssize_t k = 0; k + 1 < size; k++)
            if (!command[k])
                command[k] = ' ';
        harness_note("    process %d, child of %d, '%s', state %c: %s", (int)list[i].pid, (int)list[i].ppid,
                     list[i].comm, list[i].state, command);
        snprintf(path, sizeof path, "/proc/%d/task", (int)list[i].pid);
        DIR *dir = opendir(path);
        if (!dir)
            continue;
        for (struct dirent *e; (e = readdir(dir));) {
            if (e->d_name[0] == '.')
                continue;
            snprintf(path, sizeof path, "/proc/%d/task/%.20s/wchan", (int)list[i].pid, e->d_name);
            first_line(path, where, sizeof where);
            snprintf(path, sizeof path, "/proc/%d/task/%.20s/syscall", (int)list[i].pid, e->d_name);
            first_line(path, call, sizeof call);
            harness_note("        thread %s: in %s, system call %s", e->d_name, where, call);
        }
        closedir(dir);
    }
    free(list);
}

const char *status_of(pid_t pid, const char *field, char *to, size_t size)
{
    char path[64], line[512];
    size_t length = strlen(field);
    to[0] = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return to;
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, field, length) == 0 && line[length] == ':') {
            char *value = line + length + 1;
            value += strspn(value, " \t");
            value[strcspn(value, "\n")] = 0;
            snprintf(to, size, "%s", value);
            break;
        }
    }
    fclose(f);
    return to;
}

uint64_t status_hex(pid_t pid, const char *field)
{
    char text[64];
    return strtoull(status_of(pid, field, text, sizeof text), 0, 16);
}

char *read_all(int fd, size_t *size)
{
    size_t room = 65536, have = 0;
    char *text = malloc(room);
    REQUIRE(text != 0);
    for (;;) {
        if (have + 1 >= room) {
            text = realloc(text, room *= 2);
            REQUIRE(text != 0);
        }
        ssize_t n = read(fd, text + have, room - have - 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        have += (size_t)n;
    }
    text[have] = 0;
    if (size)
        *size = have;
    return text;
}

char *read_file(const char *path, size_t *size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    char *text = read_all(fd, size);
    close(fd);
    return text;
}

bool write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return false;
    size_t length = strlen(text);
    bool ok = write(fd, text, length) == (ssize_t)length;
    return close(fd) == 0 && ok;
}

bool copy_file(const char *from, const char *to)
{
    struct stat st;
    int in = open(from, O_RDONLY | O_CLOEXEC);
    if (in < 0 || fstat(in, &st) < 0)
        return false;
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);
    bool ok = out >= 0;
    static char block[1 << 16];
    for (ssize_t n; ok && (n = read(in, block, sizeof block)) != 0;)
        ok = n > 0 && write(out, block, (size_t)n) == n;
    ok = ok && fchmod(out, st.st_mode & 0777) == 0;
    close(in);
    if (out >= 0)
        ok = close(out) == 0 && ok;
    return ok;
}

const char *self_path(void)
{
    static char path[PATH_MAX];
    if (!path[0]) {
        ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
        path[n > 0 ? n : 0] = 0;
    }
    return path;
}

const char *self_dir(void)
{
    static char dir[PATH_MAX];
    snprintf(dir, sizeof dir, "%s", self_path());
    char *slash = strrchr(dir, '/');
    if (slash)
        *slash = 0;
    return dir;
}

const char *dir_path(const char *name, char *to, size_t size)
{
    snprintf(to, size, "%s/%s", harness_dir, name);
    return to;
}

/* --- helpers ----------------------------------------------------------------------------------------------- */

static pid_t start_helper(const helper_options *options, const char *name, va_list list)
{
    static const helper_options none;
    const helper_options *o = options ? options : &none;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", o->exe ? o->exe : self_path());
    char option[] = "--helper", name_copy[128];
    snprintf(name_copy, sizeof name_copy, "%s", name);
    char *argv[32] = { path, option, name_copy };
    int n = 3;
    for (char *argument; n < 31 && (argument = va_arg(list, char *));)
        argv[n++] = argument;
    argv[n] = 0;
    fflush(stdout);
    if (page)
        atomic_fetch_add(&page->helpers_started, 1);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid)
        return pid;
    int streams[3];
    for (int i = 0; i < 3; i++)
        streams[i] = o->streams[i];
    if (o->own_group)
        setpgid(0, 0);
    if (o->init)
        setenv("TANDEM_TEST_INIT", o->init, 1);
    if (o->before)
        o->before(o->argument);
    for (int i = 0; i < 3; i++)
        if (streams[i] > 2 && dup2(streams[i], i) < 0)
            _exit(125);
    for (int i = 0; i < 3; i++)
        if (streams[i] == STREAM_CLOSED)
            close(i);
    if (o->uid && (setgid(o->uid) < 0 || setuid(o->uid) < 0))
        _exit(126);
    execv(path, argv);
    _exit(127);
}

pid_t helper_start(const helper_options *options, const char *name, ...)
{
    va_list list;
    va_start(list, name);
    pid_t pid = start_helper(options, name, list);
    va_end(list);
    return pid;
}

int helper_wait(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -1000;
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

void helper_event(pid_t pid, int n, uint32_t count)
{
    while (!wait_count(n, count, 0.05)) {
        siginfo_t info = { 0 };
        if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid &&
            event_count(n) < count)
            failed(true, "helper %d ended before event %d: %d", (int)pid, n, helper_wait(pid));
    }
}

int helper_run(const helper_options *options, const char *name, ...)
{
    va_list list;
    va_start(list, name);
    pid_t pid = start_helper(options, name, list);
    va_end(list);
    return helper_wait(pid);
}

int helper_output(char **output, const helper_options *options, const char *name, ...)
{
    helper_options o = { 0 };
    if (options)
        o = *options;
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    if (o.streams[1] == STREAM_KEEP)
        o.streams[1] = ends[1];
    if (o.streams[2] == STREAM_KEEP)
        o.streams[2] = ends[1];
    va_list list;
    va_start(list, name);
    pid_t pid = start_helper(&o, name, list);
    va_end(list);
    close(ends[1]);
    *output = read_all(ends[0], 0);
    close(ends[0]);
    return helper_wait(pid);
}

uid_t lonely_uid(void)
{
    if (geteuid() != 0)
        SKIP("needs root, to become another user");
    return 70000 + (uid_t)getpid();
}

/* --- registration ------------------------------------------------------------------------------------------ */

void harness_add_case(harness_case *add)
{
    *cases_end = add;
    cases_end = &add->next;
}

void harness_add_helper(harness_helper *add)
{
    add->next = helpers;
    helpers = add;
}

void harness_add_init(harness_init *add)
{
    add->next = inits;
    inits = add;
}

static harness_case *find_case(const char *name)
{
    for (harness_case *c = cases; c; c = c->next)
        if (strcmp(c->name, name) == 0)
            return c;
    fprintf(stderr, "there is no case '%s'; --list names them\n", name);
    exit(2);
}

/* --- the supervisor ---------------------------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    remove(path);
    return 0;
}

static void remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

/* Reports of sanitizers go to files in the case's directory, from all its processes: none is lost in a pipe. */
static void add_option(const char *variable, const char *option)
{
    const char *old = getenv(variable);
    char text[2 * PATH_MAX];
    snprintf(text, sizeof text, "%s%s%s", old ? old : "", old && old[0] ? ":" : "", option);
    setenv(variable, text, 1);
}

static void exec_case(const harness_case *c, const char *dir, int output)
{
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setenv("TANDEM_TEST_DIR", dir, 1);
    char option[PATH_MAX + 32];
    snprintf(option, sizeof option, "log_path=%s/.sanitizer", dir);
    if (WITH_ASAN) {
        add_option("ASAN_OPTIONS", option);
        add_option("UBSAN_OPTIONS", "print_stacktrace=1");
    }
    if (WITH_TSAN) {
        add_option("TSAN_OPTIONS", option);
        add_option("TSAN_OPTIONS", "atexit_sleep_ms=0"); /* a second, at the end of each process with threads */
    }
    struct sigaction by_default = { .sa_handler = SIG_DFL };
    for (int s = 1; s < 65; s++)
        sigaction(s, &by_default, 0);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, 0);
    struct rlimit core;
    getrlimit(RLIMIT_CORE, &core);
    core.rlim_cur = 0;
    setrlimit(RLIMIT_CORE, &core);
    int null = open("/dev/null", O_RDONLY);
    dup2(null, 0);
    dup2(output, 1);
    dup2(output, 2);
    for (int fd = 3; fd < 256; fd++)
        close(fd);
    char path[PATH_MAX], run[] = "--run", name[256];
    snprintf(path, sizeof path, "%s", self_path());
    snprintf(name, sizeof name, "%s", c->name);
    char *argv[] = { path, run, name, 0 };
    execv(path, argv);
    _exit(127);
}

static char supervised_dir[32];

static void supervisor_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGCHLD);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
}

static void kill_family(void);

/* Told to end, by the one who runs the tests: takes everything along. */
static void give_up(void)
{
    kill_family();
    remove_tree(supervised_dir);
    _exit(1);
}

/* Waits until `pid` has ended (then *status is its), or all children of the supervisor have, if pid is 0. */
static bool reap_until(pid_t pid, int *status, double end)
{
    sigset_t child;
    supervisor_signals(&child);
    for (;;) {
        int st;
        pid_t dead;
        while ((dead = waitpid(-1, &st, WNOHANG | __WALL)) > 0) {
            if (dead == pid) {
                *status = st;
                return true;
            }
        }
        if (dead < 0 && errno == ECHILD && pid == 0)
            return true;
        double left = end - now();
        if (left <= 0)
            return false;
        if (left > 0.02)
            left = 0.02; /* of an adopted child with another exit signal nothing is told */
        struct timespec limit = { 0, (long)(left * 1e9) };
        int number = sigtimedwait(&child, 0, &limit);
        if (number > 0 && number != SIGCHLD)
            give_up();
    }
}

static void kill_family(void)
{
    static proc list[MAX_PROCS];
    for (int round = 0; round < 10000; round++) {
        int n = family(getpid(), list, MAX_PROCS);
        if (n == 0)
            return;
        for (int i = 0; i < n && i < MAX_PROCS; i++)
            kill(list[i].pid, SIGKILL);
        while (waitpid(-1, 0, WNOHANG | __WALL) > 0)
            ;
        pause_ms(1);
    }
}

/* The leak check of a forked child looks in vain for the parent's threads, and says so: no finding. */
static bool only_about_stopping(const char *text)
{
    for (const char *line = text; *line;) {
        const char *end = strchr(line, '\n');
        size_t length = end ? (size_t)(end - line) : strlen(line);
        if (length > 0 && !memmem(line, length, "was not suspended. False leaks are possible.", 44))
            return false;
        line += length + (end != NULL);
    }
    return true;
}

static bool report_sanitizers(const char *dir)
{
    bool any = false;
    DIR *d = opendir(dir);
    if (!d)
        return false;
    for (struct dirent *e; (e = readdir(d));) {
        if (strncmp(e->d_name, ".sanitizer", 10) != 0)
            continue;
        char path[PATH_MAX + 300];
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        char *text = read_file(path, 0);
        if (text && only_about_stopping(text)) {
            free(text);
            continue;
        }
        fprintf(stderr, "--- %s\n%s\n", e->d_name, text ? text : "");
        free(text);
        any = true;
    }
    closedir(d);
    return any;
}

/* After what the case itself printed. */
static void print_family_into(int output)
{
    int was = fcntl(2, F_DUPFD_CLOEXEC, 3);
    dup2(output, 2);
    print_family(getpid());
    dup2(was, 2);
    close(was);
}

/* A directory for a case (`dir` is its template) and the page in it. */
static harness_page *make_directory(char *dir)
{
    char path[64];
    harness_page *shared = MAP_FAILED;
    if (mkdtemp(dir)) {
        chmod(dir, 0777);
        snprintf(path, sizeof path, "%s/.page", dir);
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (fd >= 0 && fchmod(fd, 0666) == 0 && ftruncate(fd, sizeof(harness_page)) == 0)
            shared = mmap(0, sizeof(harness_page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        close(fd);
    }
    if (shared == MAP_FAILED) {
        perror(dir);
        exit(1);
    }
    shared->supervisor = getpid();
    return shared;
}

/* Cases with full_ in their names know how long they are. */
static double limit_of(const harness_case *c)
{
    return long_tests() && strncmp(c->name, "full_", 5) != 0 ? 10 * c->limit : c->limit;
}

static int supervise(const harness_case *c)
{
    double begun = now(), limit = limit_of(c);
    char dir[] = "/tmp/tandem-test.XXXXXX";
    harness_page *shared = make_directory(dir);
    int output = memfd_create("output", MFD_CLOEXEC);
    if (output < 0) {
        perror("cannot supervise");
        return 1;
    }

    sigset_t signals;
    supervisor_signals(&signals);
    sigprocmask(SIG_BLOCK, &signals, 0);
    snprintf(supervised_dir, sizeof supervised_dir, "%s", dir);
    prctl(PR_SET_CHILD_SUBREAPER, 1);

    pid_t pid = fork();
    if (pid < 0) {
        perror("fork");
        return 1;
    }
    if (pid == 0)
        exec_case(c, dir, output);
    setpgid(pid, pid);

    int status = 0;
    char verdict[256] = "";
    if (!reap_until(pid, &status, begun + limit)) {
        snprintf(verdict, sizeof verdict, "not done after %.0f s", limit);
        print_family_into(output);
    } else if (WIFSIGNALED(status)) {
        snprintf(verdict, sizeof verdict, "killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    } else if (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != EXIT_SKIPPED) {
        snprintf(verdict, sizeof verdict, "exit status %d", WEXITSTATUS(status));
    }
    if (!verdict[0] && !reap_until(0, &status, now() + 2 * SLOW)) {
        snprintf(verdict, sizeof verdict, "left processes behind");
        print_family_into(output);
    }
    if (verdict[0])
        kill(-pid, SIGKILL);
    kill_family();
    bool skipped = !verdict[0] && WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SKIPPED;
    if (!verdict[0] && atomic_load(&shared->failures))
        snprintf(verdict, sizeof verdict, "checks failed in another process");

    lseek(output, 0, SEEK_SET);
    char *text = read_all(output, 0);
    if (report_sanitizers(dir) && !verdict[0])
        snprintf(verdict, sizeof verdict, "a sanitizer reported");
    if (skipped) {
        text[strcspn(text, "\n")] = 0;
        printf("skip    %s (%s)\n", c->name, text);
    } else if (verdict[0]) {
        printf("%s%sFAILED  %s (%s; %.2f s)\n", text, text[0] && text[strlen(text) - 1] != '\n' ? "\n" : "", c->name,
               verdict, now() - begun);
    } else {
        printf("ok      %s (%.2f s)\n", c->name, now() - begun);
    }
    fflush(stdout);
    free(text);
    close(output);
    munmap(shared, sizeof *shared);
    remove_tree(dir);
    return verdict[0] ? 1 : skipped ? EXIT_SKIPPED : 0;
}

static int run_here(const harness_case *c)
{
    case_pid = getpid();
    report_fd = fcntl(2, F_DUPFD_CLOEXEC, 200);
    if (c->plain)
        c->plain();
    else
        c->moded(c->how);
    fflush(stdout);
    if (atomic_load(&failures))
        _exit(1); /* what failed may also hang exit() */
    return 0;
}

static int harness_main(int argc, char **argv)
{
    if (argc >= 3 && strcmp(argv[1], "--helper") == 0) {
        for (harness_helper *h = helpers; h; h = h->next) {
            if (strcmp(h->name, argv[2]) != 0)
                continue;
            case_pid = getpid();
            if (page && atomic_fetch_add(&page->helpers_entered, 1) >= atomic_load(&page->helpers_started)) {
                harness_note("td_init() has returned in a process that was to be the spawner");
                atomic_fetch_add(&page->failures, 1);
                _exit(99);
            }
            int status = h->main(argc - 2, argv + 2);
            if (atomic_load(&failures)) {
                fflush(stdout);
                _exit(1);
            }
            return status;
        }
        fprintf(stderr, "there is no helper '%s'\n", argv[2]);
        return 2;
    }
    if (argc == 3 && strcmp(argv[1], "--run") == 0) {
        if (!page) { /* without a supervisor; its directory stays */
            char dir[] = "/tmp/tandem-test.XXXXXX";
            make_directory(dir);
            setenv("TANDEM_TEST_DIR", dir, 1);
            execv(self_path(), argv);
        }
        return run_here(find_case(argv[2]));
    }
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (harness_case *c = cases; c; c = c->next)
            puts(c->name);
        return 0;
    }
    int failed_cases = 0, passed = 0, skipped = 0;
    bool full = argc == 2 && strcmp(argv[1], "--full") == 0;
    if (argc == 1 || full) {
        for (harness_case *c = cases; c; c = c->next) {
            if (!full && strncmp(c->name, "full_", 5) == 0)
                continue;
            int result = supervise(c);
            failed_cases += result == 1;
            skipped += result == EXIT_SKIPPED;
            passed += result == 0;
        }
    } else {
        for (int i = 1; i < argc; i++) {
            int result = supervise(find_case(argv[i]));
            failed_cases += result == 1;
            skipped += result == EXIT_SKIPPED;
            passed += result == 0;
        }
    }
    if (passed + failed_cases + skipped > 1)
        printf("%d passed, %d skipped, %d failed\n", passed, skipped, failed_cases);
    return failed_cases ? 1 : passed == 0 && skipped ? EXIT_SKIPPED : 0;
}

/* The spawner takes this way too, with the environment that the program had at its first process start. */
static void call_init(void)
{
    const char *name = getenv("TANDEM_TEST_INIT");
    if (name) {
        for (harness_init *i = inits; i; i = i->next) {
            if (strcmp(i->name, name) == 0) {
                i->init();
                return;
            }
        }
    }
    td_init();
}

int main(int argc, char **argv)
{
    call_init();
    return harness_main(argc, argv);
}
