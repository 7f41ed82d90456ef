/* SPDX-License-Identifier: MIT */
#include "common.h"
#include "futex.h"

#include <errno.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 8192

/* --- small things ----------------------------------------------------------------------------------------------- */

int64_t bench_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void bench_idle(int64_t ns)
{
    struct timespec t = { ns / 1000000000, ns % 1000000000 };
    while (nanosleep(&t, &t) < 0 && errno == EINTR)
        continue;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *values, size_t n)
{
    if (n == 0)
        return NAN;
    qsort(values, n, sizeof *values, compare_doubles);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

double bench_part_ns(const bench_parts *parts, long iterations)
{
    double ns[BENCH_PARTS];
    for (int i = 0; i < BENCH_PARTS; i++)
        ns[i] = (double)(parts->at[i + 1] - parts->at[i]) / (double)iterations;
    return bench_median(ns, BENCH_PARTS);
}

double bench_mean_ns(long warm, long n, void (*once)(void))
{
    for (long i = 0; i < warm; i++)
        once();
    int64_t begin = bench_now();
    for (long i = 0; i < n; i++)
        once();
    return (double)(bench_now() - begin) / (double)n;
}

/* Samples without a figure are NAN. */
static bench_stats stats_of(const double *samples, int n)
{
    double kept[BENCH_ROUNDS_MAX];
    bench_stats s = { NAN, NAN, NAN, 0 };
    for (int i = 0; i < n; i++)
        if (!isnan(samples[i]))
            kept[s.n++] = samples[i];
    if (s.n) {
        s.median = bench_median(kept, (size_t)s.n);
        s.min = kept[0];
        s.max = kept[s.n - 1];
    }
    return s;
}

static _Noreturn void give_up(const char *what)
{
    fprintf(stderr, "bench: %s: %s\n", what, strerror(errno));
    exit(2);
}

const char *bench_text(const char *format, ...)
{
    char *text;
    va_list list;
    va_start(list, format);
    if (vasprintf(&text, format, list) < 0)
        give_up("vasprintf");
    va_end(list);
    return text;
}

const char *bench_option(int argc, char **argv, const char *option)
{
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], option) == 0)
            return argv[i + 1];
    return NULL;
}

const char *bench_self(void)
{
    static char path[PATH_MAX];
    if (path[0] == 0) {
        ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
        if (n < 0)
            give_up("/proc/self/exe");
        path[n] = 0;
    }
    return path;
}

const char *bench_beside(const char *name)
{
    const char *self = bench_self();
    const char *path = bench_text("%.*s/%s", (int)(strrchr(self, '/') - self), self, name);
    return access(path, F_OK) == 0 ? path : NULL;
}

#ifndef BENCH_SOURCE_DIR
#define BENCH_SOURCE_DIR "bench"
#endif

/* The first line that a command prints, without its newline. */
static bool first_line(const char *command, char *line, size_t size)
{
    FILE *f = popen(command, "r");
    if (f == NULL)
        return false;
    bool got = fgets(line, (int)size, f) != NULL;
    line[got ? strcspn(line, "\n") : 0] = 0;
    return pclose(f) == 0 && got;
}

/* The Python to measure, and its version "3.11"; false if there is none. */
static bool find_python(const char **executable, const char **version)
{
    static char line[PATH_MAX], *split;
    if (split == NULL) {
        /* sys.executable, since a shim may come first in PATH. */
        const char *python = getenv("BENCH_PYTHON");
        setenv("BENCH_PYTHON", python && *python ? python : "python3", 1);
        if (!first_line("\"$BENCH_PYTHON\" -c 'import sys; "
                        "print(\"%d.%d\" % sys.version_info[:2], sys.executable)' 2>/dev/null",
                        line, sizeof line) ||
            (split = strchr(line, ' ')) == NULL)
            return false;
        *split++ = 0;
    }
    *version = line;
    *executable = split;
    return true;
}

void bench_python_rows(bench_server *python, const char *name, bench_row *rows, size_t count)
{
    const char *executable, *version = "", *script = bench_text("%s/%s", BENCH_SOURCE_DIR, name);
    *python = (bench_server){ .fresh = python->fresh };
    if (!find_python(&executable, &version))
        python->missing = "no Python";
    else if (access(script, R_OK) < 0)
        python->missing = bench_text("%s is not there", name);
    else
        python->argv[0] = executable;
    python->argv[1] = script;
    for (size_t i = 0; i < count; i++)
        if (rows[i].server == python)
            rows[i].name = bench_text("CPython %s%s%s", version, *version ? " " : "", rows[i].name);
}

double bench_kib_in(const char *path, const char *key)
{
    char line[256];
    double kib = -1;
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return -1;
    while (kib < 0 && fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0)
            kib = strtod(line + strlen(key), NULL);
    fclose(f);
    return kib;
}

static cpu_set_t all_cpus;
static pthread_once_t cpus_once = PTHREAD_ONCE_INIT;

static void look_at_cpus(void)
{
    if (sched_getaffinity(0, sizeof all_cpus, &all_cpus) < 0)
        bench_fail("sched_getaffinity: %s", strerror(errno));
}

int bench_cpus(void)
{
    pthread_once(&cpus_once, look_at_cpus);
    return CPU_COUNT(&all_cpus);
}

void bench_pin_to(int index)
{
    cpu_set_t one;
    int left = index % bench_cpus();
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all_cpus) && left-- == 0)
            CPU_SET(cpu, &one);
    if (sched_setaffinity(0, sizeof one, &one) < 0)
        bench_fail("sched_setaffinity: %s", strerror(errno));
}

void bench_pin(void)
{
    bench_pin_to(0);
}

void bench_unpin(void)
{
    bench_cpus();
    if (sched_setaffinity(0, sizeof all_cpus, &all_cpus) < 0)
        bench_fail("sched_setaffinity: %s", strerror(errno));
}

void bench_yield(void)
{
    sched_yield();
}

void bench_compute(int64_t ns)
{
    for (int64_t end = bench_now() + ns; bench_now() < end;)
        bench_work(1, 8);
}

long bench_steps(double ns)
{
    enum { STEPS = 100000, TRIES = 20 };
    static double per_step; /* of the fastest try: the others were disturbed */
    for (int i = 0; per_step == 0 || i < TRIES; i++) {
        if (i == TRIES)
            break;
        int64_t begin = bench_now();
        bench_work((uint64_t)begin, STEPS);
        double took = (double)(bench_now() - begin) / STEPS;
        if (per_step == 0 || took < per_step)
            per_step = took;
    }
    return lround(ns / per_step);
}

/* --- teams ------------------------------------------------------------------------------------------------------ */

void *bench_share(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        bench_fail("mmap of %zu bytes: %s", size, strerror(errno));
    return memory;
}

void bench_unshare(void *memory, size_t size)
{
    munmap(memory, size);
}

typedef struct member {
    bench_team *team;
    int index;
    union {
        pthread_t thread;
        pid_t pid;
    };
    int64_t ended;
} member;

struct bench_team {
    int count;
    bool processes;
    void (*body)(int index, void *argument);
    void *argument;
    _Atomic uint32_t arrived, go; /* futexes */
    member members[BENCH_TEAM_MAX];
};

static void *take_part(void *argument)
{
    member *m = argument;
    bench_team *t = m->team;
    if (atomic_fetch_add(&t->arrived, 1) + 1 == (uint32_t)t->count)
        bench_futex_wake(&t->arrived, 1);
    bench_await(&t->go, 1);
    t->body(m->index, t->argument);
    m->ended = bench_now();
    return NULL;
}

static void start_member(member *m)
{
    if (!m->team->processes) {
        int error = pthread_create(&m->thread, NULL, take_part, m);
        if (error)
            bench_fail("pthread_create: %s", strerror(error));
        return;
    }
    pid_t pid = fork();
    if (pid < 0)
        bench_fail("fork: %s", strerror(errno));
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        take_part(m);
        _exit(0);
    }
    m->pid = pid; /* not by the child: the member is shared */
}

static void join_member(member *m)
{
    int status;
    if (!m->team->processes)
        pthread_join(m->thread, NULL);
    else if (waitpid(m->pid, &status, 0) != m->pid || status != 0)
        bench_fail("a process of the benchmark ended with status 0x%x", status);
}

bench_team *bench_team_create(int count, bool processes, void (*body)(int index, void *argument), void *argument)
{
    bench_team *t = bench_share(sizeof *t);
    if (count > BENCH_TEAM_MAX)
        bench_fail("a team of %d", count);
    t->count = count;
    t->processes = processes;
    t->body = body;
    t->argument = argument;
    for (int i = 0; i < count; i++) {
        t->members[i].team = t;
        t->members[i].index = i;
        start_member(&t->members[i]);
    }
    return t;
}

int64_t bench_team_begin(bench_team *t)
{
    bench_await(&t->arrived, (uint32_t)t->count);
    int64_t now = bench_now();
    atomic_store(&t->go, 1);
    bench_futex_wake(&t->go, t->count);
    return now;
}

int64_t bench_team_end(bench_team *t)
{
    int64_t last = 0;
    for (int i = 0; i < t->count; i++) {
        join_member(&t->members[i]);
        if (t->members[i].ended > last)
            last = t->members[i].ended;
    }
    bench_unshare(t, sizeof *t);
    return last;
}

int64_t bench_team_run(int count, bool processes, void (*body)(int index, void *argument), void *argument)
{
    bench_team *t = bench_team_create(count, processes, body, argument);
    int64_t begin = bench_team_begin(t);
    return bench_team_end(t) - begin;
}

static void *stay_parked(void *argument)
{
    for (;;)
        pause();
    return argument;
}

void bench_have_second_thread(void)
{
    pthread_t thread;
    int error = pthread_create(&thread, NULL, stay_parked, NULL);
    if (error)
        bench_fail("pthread_create: %s", strerror(error));
}

/* --- servers ---------------------------------------------------------------------------------------------------- */

/* No stdio between driver and server: a worker process that flushes its streams must have nothing to flush. */
static bool write_all(int fd, const char *text, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, text, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        text += n;
        size -= (size_t)n;
    }
    return true;
}

void bench_fail(const char *format, ...)
{
    char line[BENCH_TEXT_MAX + 16] = "error ";
    va_list list;
    va_start(list, format);
    vsnprintf(line + 6, BENCH_TEXT_MAX, format, list);
    va_end(list);
    for (char *c = line; *c; c++)
        if (*c == '\n')
            *c = ' ';
    strcat(line, "\n");
    write_all(STDOUT_FILENO, line, strlen(line));
    _exit(1);
}

static bool read_request(char *line, size_t size)
{
    size_t n = 0;
    while (n + 1 < size) {
        ssize_t got = read(STDIN_FILENO, line + n, 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        if (line[n] == '\n') {
            line[n] = 0;
            return true;
        }
        n++;
    }
    return false;
}

int bench_serve(const bench_op *ops, size_t count)
{
    char line[LINE_MAX_BYTES], name[64];
    while (read_request(line, sizeof line) && strcmp(line, "quit") != 0) {
        static double values[BENCH_VALUES_MAX];
        const bench_op *op = NULL;
        long n;
        if (sscanf(line, "%63s %ld", name, &n) != 2)
            bench_fail("not understood: %s", line);
        for (size_t i = 0; i < count; i++)
            if (strcmp(ops[i].name, name) == 0)
                op = &ops[i];
        if (op == NULL)
            bench_fail("unknown: %s", name);
        size_t got = op->run(n, values);
        size_t used = (size_t)snprintf(line, sizeof line, "ok");
        for (size_t i = 0; i < got; i++)
            used += (size_t)snprintf(line + used, sizeof line - used, " %.17g", values[i]);
        line[used++] = '\n';
        write_all(STDOUT_FILENO, line, used);
    }
    return 0;
}

/* --- the driver's side of servers ------------------------------------------------------------------------------- */

void bench_row_fail(bench_row *row, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(row->failure, sizeof row->failure, format, list);
    va_end(list);
}

static bool server_start(bench_server *s)
{
    int to[2], from[2];
    if (pipe2(to, O_CLOEXEC) < 0 || pipe2(from, O_CLOEXEC) < 0)
        give_up("pipe2");
    fflush(NULL);
    s->pid = fork();
    if (s->pid < 0)
        give_up("fork");
    if (s->pid == 0) {
        dup2(to[0], STDIN_FILENO);
        dup2(from[1], STDOUT_FILENO);
        signal(SIGPIPE, SIG_DFL);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execv(s->argv[0], (char *const *)s->argv);
        bench_fail("%s: %s", s->argv[0], strerror(errno));
    }
    close(to[0]);
    close(from[1]);
    s->to = to[1];
    s->from = from[0];
    return true;
}

/* Ends the server: politely if `quit`, and in any case. False if it did not end well. */
static bool server_stop(bench_server *s, bool quit)
{
    int status = 0;
    if (s->pid == 0)
        return true;
    if (quit)
        write_all(s->to, "quit\n", 5);
    for (int64_t end = bench_now() + (quit ? 10000000000 : 200000000); waitpid(s->pid, &status, WNOHANG) == 0;
         bench_idle(500000))
        if (bench_now() > end) {
            kill(s->pid, SIGKILL);
            waitpid(s->pid, &status, 0);
            break;
        }
    close(s->to);
    close(s->from);
    s->pid = 0;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool has_died(const bench_server *s)
{
    siginfo_t info = { 0 };
    return waitid(P_PID, (id_t)s->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == s->pid;
}

/* One line from the server; NULL if all is well, else what went wrong. The end of the pipe does not tell of its death:
 * a process that it left behind may have the other end too. */
static const char *server_read(const bench_server *s, int64_t limit_ms, char *line, size_t size)
{
    size_t n = 0;
    int64_t end = bench_now() + limit_ms * 1000000;
    while (n + 1 < size) {
        struct pollfd p = { .fd = s->from, .events = POLLIN };
        bool dead = has_died(s); /* before the look at the pipe: what it wrote before counts */
        if (poll(&p, 1, dead ? 0 : 500) <= 0) {
            if (dead)
                return "died";
            if (bench_now() > end)
                return "gave no answer in time";
            continue;
        }
        ssize_t got = read(s->from, line + n, size - 1 - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return "died";
        n += (size_t)got;
        if (line[n - 1] == '\n') {
            line[n - 1] = 0;
            return NULL;
        }
    }
    return "answers too long a line";
}

bool bench_ask(bench_row *row, const char *op, long n, double *values, size_t *count)
{
    char line[LINE_MAX_BYTES];
    bench_server *s = row->server;
    if (s->pid == 0)
        server_start(s);
    int used = snprintf(line, sizeof line, "%s %ld\n", op, n);
    write_all(s->to, line, (size_t)used); /* if it cannot be written, the server has died, and read tells */
    const char *wrong = server_read(s, row->limit_ms ? row->limit_ms : 60000, line, sizeof line);
    if (wrong == NULL && strncmp(line, "ok", 2) == 0) {
        char *at = line + 2, *next;
        *count = 0;
        for (double v = strtod(at, &next); next != at && *count < BENCH_VALUES_MAX; v = strtod(at, &next)) {
            values[(*count)++] = v;
            at = next;
        }
        return true;
    }
    if (wrong)
        bench_row_fail(row, "%s: its process %s", op, wrong);
    else
        bench_row_fail(row, "%s", strncmp(line, "error ", 6) == 0 ? line + 6 : line);
    server_stop(s, false);
    return false;
}

/* --- figures as text -------------------------------------------------------------------------------------------- */

/* Three digits, or all of a large one: 0.0306, 93.6, 518, 3630, 47,324. A ring of buffers, for several in a call. */
static const char *figure(double v)
{
    static char ring[8][48];
    static unsigned at;
    char *s = ring[at++ % 8], digits[32];
    if (isnan(v))
        return "";
    if (fabs(v) < 99.95) {
        snprintf(s, sizeof ring[0], "%.3g", v);
        return s;
    }
    int n = snprintf(digits, sizeof digits, "%.0f", v), used = 0;
    for (int i = 0; i < n; i++) {
        if (n >= 5 && i > 0 && (n - i) % 3 == 0)
            s[used++] = ',';
        s[used++] = digits[i];
    }
    s[used] = 0;
    return s;
}

static const bench_row *row_of(const bench *b, const char *id)
{
    for (size_t i = 0; i < b->row_count; i++)
        if (strcmp(b->rows[i].id, id) == 0)
            return &b->rows[i];
    return NULL;
}

static bool same_group(const bench_row *a, const bench_row *b)
{
    return a->group == b->group || (a->group && b->group && strcmp(a->group, b->group) == 0);
}

/* Is it the row that the ratios of metric `m` are to? */
static bool is_bold(const bench *b, const bench_row *row, size_t m)
{
    if (b->metrics[m].bold)
        return strcmp(b->metrics[m].bold, row->id) == 0;
    for (size_t i = 0; i < sizeof b->bold / sizeof *b->bold && b->bold[i]; i++)
        if (strcmp(b->bold[i], row->id) == 0)
            return true;
    return false;
}

static const bench_row *bold_of(const bench *b, const bench_row *row, size_t m)
{
    for (size_t i = 0; i < b->row_count; i++)
        if (is_bold(b, &b->rows[i], m) && (b->metrics[m].bold || same_group(&b->rows[i], row)))
            return &b->rows[i];
    return NULL;
}

static const char *why_none(const bench_row *row)
{
    if (row->server->missing)
        return bench_text("not measured: %s", row->server->missing);
    if (row->failures)
        return bench_text("failed: %s", row->failure);
    return NULL;
}

static void print_table(const bench *b, size_t m)
{
    const bench_metric *metric = &b->metrics[m];
    printf("`%s`, %s, %s (%s is better)", metric->name, metric->title, metric->unit,
           metric->higher ? "higher" : "lower");
    for (size_t i = 0, n = 0; i < b->row_count; i++)
        if (is_bold(b, &b->rows[i], m) && b->rows[i].stats[m].n)
            printf("%s**%s**", n++ ? ", " : "; ratio to ", b->rows[i].name);
    printf("\n\n| contender | median | min – max | n | ratio |\n| --- | ---: | ---: | ---: | ---: |\n");
    for (size_t i = 0; i < b->row_count; i++) {
        const bench_row *row = &b->rows[i];
        const char *bold = is_bold(b, row, m) ? "**" : "";
        const bench_stats *s = &row->stats[m];
        if (s->n)
            printf("| %s%s%s | %s | %s – %s | %d | %s |\n", bold, row->name, bold, figure(s->median), figure(s->min),
                   figure(s->max), s->n, figure(row->ratio[m]));
        else if (m == 0 && why_none(row))
            printf("| %s%s%s | %s | | 0 | |\n", bold, row->name, bold, why_none(row));
    }
    printf("\n");
}

/* --- the machine ------------------------------------------------------------------------------------------------ */

typedef struct machine {
    char cpu[128], compiler[128], kernel[256], date[64], thp[64], idle[128];
    double load, memory_gib;
    long cpus;
} machine;

static void read_line(const char *path, char *line, size_t size)
{
    FILE *f = fopen(path, "re");
    line[0] = 0;
    if (f == NULL)
        return;
    if (fgets(line, (int)size, f))
        line[strcspn(line, "\n")] = 0;
    fclose(f);
}

static machine look_at_machine(void)
{
    machine m = { .cpus = sysconf(_SC_NPROCESSORS_ONLN) };
    char line[256];
    struct utsname u;
    time_t now = time(NULL);
    FILE *f = fopen("/proc/cpuinfo", "re");
    snprintf(m.cpu, sizeof m.cpu, "unknown");
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (colon && strncmp(line, "model name", 10) == 0) {
            snprintf(m.cpu, sizeof m.cpu, "%.100s", colon + 2);
            m.cpu[strcspn(m.cpu, "\n")] = 0;
            break;
        }
    }
    if (f)
        fclose(f);
    uname(&u);
    snprintf(m.kernel, sizeof m.kernel, "%.60s %.60s, %.30s, glibc %s", u.sysname, u.release, u.machine,
             gnu_get_libc_version());
#ifdef __clang__
    snprintf(m.compiler, sizeof m.compiler, "%s", __VERSION__);
#else
    snprintf(m.compiler, sizeof m.compiler, "gcc %s", __VERSION__);
#endif
#ifndef __OPTIMIZE__
    strncat(m.compiler, ", WITHOUT optimization", sizeof m.compiler - strlen(m.compiler) - 1);
#endif
    strftime(m.date, sizeof m.date, "%Y-%m-%d %H:%M:%S %z", localtime(&now));
    read_line("/sys/kernel/mm/transparent_hugepage/enabled", m.thp, sizeof m.thp);
    char *from = strchr(m.thp, '['), *to = strchr(m.thp, ']');
    if (from && to) {
        *to = 0;
        memmove(m.thp, from + 1, (size_t)(to - from));
    }
    read_line("/sys/devices/system/cpu/cpuidle/current_driver", m.idle, sizeof m.idle);
    read_line("/sys/devices/system/cpu/cpuidle/current_governor", line, sizeof line);
    if (m.idle[0] && line[0]) {
        strncat(m.idle, "/", sizeof m.idle - strlen(m.idle) - 1);
        strncat(m.idle, line, sizeof m.idle - strlen(m.idle) - 1);
    }
    if (getloadavg(&m.load, 1) != 1)
        m.load = NAN;
    m.memory_gib = bench_kib_in("/proc/meminfo", "MemTotal:") / 1048576;
    return m;
}

/* Ticks of all CPUs since the boot: in all, and stolen by the hypervisor. */
static void cpu_ticks(double *all, double *stolen)
{
    double v[10] = { 0 };
    char line[512];
    read_line("/proc/stat", line, sizeof line);
    *all = *stolen = 0;
    if (sscanf(line, "cpu %lf %lf %lf %lf %lf %lf %lf %lf", v, v + 1, v + 2, v + 3, v + 4, v + 5, v + 6, v + 7) != 8)
        return;
    for (int i = 0; i < 8; i++)
        *all += v[i];
    *stolen = v[7];
}

/* --- JSON ------------------------------------------------------------------------------------------------------- */

static void json_string(FILE *f, const char *s)
{
    fputc('"', f);
    for (; *s; s++)
        if (*s == '"' || *s == '\\')
            fprintf(f, "\\%c", *s);
        else if ((unsigned char)*s < 0x20)
            fprintf(f, "\\u%04x", (unsigned)*s);
        else
            fputc(*s, f);
    fputc('"', f);
}

static void json_number(FILE *f, double v)
{
    if (isnan(v) || isinf(v))
        fprintf(f, "null");
    else
        fprintf(f, "%.9g", v);
}

static void json_pair(FILE *f, const char *key, const char *value, const char *end)
{
    json_string(f, key);
    fputs(": ", f);
    json_string(f, value);
    fputs(end, f);
}

static void json_row(FILE *f, const bench *b, const bench_row *row, size_t m)
{
    static const char *const kinds[] = { "limit", "tandem", "peer" };
    const bench_stats *s = &row->stats[m];
    fputs("        {", f);
    json_pair(f, "id", row->id, ", ");
    json_pair(f, "name", row->name, ", ");
    json_pair(f, "kind", kinds[row->kind], ", ");
    if (row->group)
        json_pair(f, "group", row->group, ", ");
    fprintf(f, "\"reference\": %s, ", is_bold(b, row, m) ? "true" : "false");
    if (m == 0 && s->n == 0 && why_none(row))
        json_pair(f, "missing", why_none(row), ", ");
    fputs("\"median\": ", f);
    json_number(f, s->median);
    fputs(", \"min\": ", f);
    json_number(f, s->min);
    fputs(", \"max\": ", f);
    json_number(f, s->max);
    fprintf(f, ", \"n\": %d, \"iterations\": %ld, \"ratio\": ", s->n, b->quick ? row->quick_n : row->n);
    json_number(f, row->ratio[m]);
    fputs(", \"samples\": [", f);
    for (int r = 0; r < b->rounds; r++) {
        fputs(r ? ", " : "", f);
        json_number(f, row->samples[m][r]);
    }
    fputs("]}", f);
}

typedef struct outcome {
    const bench_metric *metric;
    const bench_row *under; /* NULL: `value` is the figure, not a ratio */
    double value;           /* of the medians; NAN: one of them is not there */
    bench_stats by_round;   /* of the ratios, or figures, in each round */
} outcome;

static size_t metric_of(const bench *b, const char *name)
{
    for (size_t m = 0; name && m < b->metric_count; m++)
        if (strcmp(b->metrics[m].name, name) == 0)
            return m;
    return 0;
}

/* The best of the rows whose ids are in `ids`, separated by bars. NULL if none was measured. */
static const bench_row *best_of(const bench *b, const char *ids, size_t m)
{
    const bench_row *best = NULL;
    while (*ids) {
        size_t length = strcspn(ids, "|");
        char id[64];
        snprintf(id, sizeof id, "%.*s", (int)length, ids);
        const bench_row *row = row_of(b, id);
        if (row && row->stats[m].n &&
            (best == NULL || (row->stats[m].median > best->stats[m].median) == b->metrics[m].higher))
            best = row;
        ids += length + (ids[length] != 0);
    }
    return best;
}

static outcome compare(const bench *b, const bench_comparison *c)
{
    size_t m = metric_of(b, c->metric);
    outcome o = { &b->metrics[m], NULL, NAN, { NAN, NAN, NAN, 0 } };
    double ratios[BENCH_ROUNDS_MAX];
    const bench_row *over = row_of(b, c->over);
    o.under = c->under ? best_of(b, c->under, m) : NULL;
    if (over == NULL || over->stats[m].n == 0 || (c->under && o.under == NULL))
        return o;
    for (int i = 0; i < b->rounds; i++)
        ratios[i] = over->samples[m][i] / (o.under ? o.under->samples[m][i] : 1);
    o.value = over->stats[m].median / (o.under ? o.under->stats[m].median : 1);
    o.by_round = stats_of(ratios, b->rounds);
    return o;
}

static bool is_met(const bench_comparison *c, const outcome *o)
{
    return o->metric->higher ? o->value >= c->target : o->value <= c->target;
}

static void write_json(const bench *b, const char *path, const machine *m, double seconds, double steal, uint64_t seed,
                       int problems)
{
    const char *part = bench_text("%s.part", path);
    FILE *f = fopen(part, "we");
    if (f == NULL) {
        fprintf(stderr, "bench: cannot write '%s': %s\n", part, strerror(errno));
        return;
    }
    fputs("{\n  ", f);
    json_pair(f, "benchmark", b->name, ",\n  ");
    json_pair(f, "title", b->title, ",\n  ");
    json_pair(f, "date", m->date, ",\n  \"machine\": {");
    json_pair(f, "cpu", m->cpu, ", ");
    fprintf(f, "\"cpus\": %ld, \"memory_gib\": ", m->cpus);
    json_number(f, m->memory_gib);
    fputs(", \"load\": ", f);
    json_number(f, m->load);
    fputs(", ", f);
    json_pair(f, "kernel", m->kernel, ", ");
    json_pair(f, "compiler", m->compiler, ", ");
    json_pair(f, "cpuidle", m->idle, ", ");
    json_pair(f, "transparent_hugepages", m->thp, "},\n");
    fprintf(f, "  \"quick\": %s, \"rounds\": %d, \"seed\": %llu, \"seconds\": ", b->quick ? "true" : "false", b->rounds,
            (unsigned long long)seed);
    json_number(f, seconds);
    fputs(", \"steal\": ", f);
    json_number(f, steal);
    fprintf(f, ", \"problems\": %d,\n  \"tables\": [\n", problems);
    for (size_t t = 0; t < b->metric_count; t++) {
        fputs("    {", f);
        json_pair(f, "metric", b->metrics[t].name, ", ");
        json_pair(f, "title", b->metrics[t].title, ", ");
        json_pair(f, "unit", b->metrics[t].unit, ", ");
        json_pair(f, "better", b->metrics[t].higher ? "higher" : "lower", ",\n      \"rows\": [\n");
        for (size_t i = 0; i < b->row_count; i++) {
            json_row(f, b, &b->rows[i], t);
            fputs(i + 1 < b->row_count ? ",\n" : "\n", f);
        }
        fputs(t + 1 < b->metric_count ? "      ]},\n" : "      ]}\n", f);
    }
    fputs("  ],\n  \"comparisons\": [\n", f);
    for (size_t i = 0; i < b->comparison_count; i++) {
        const bench_comparison *c = &b->comparisons[i];
        outcome o = compare(b, c);
        fputs("    {", f);
        json_pair(f, "text", c->text, ", ");
        json_pair(f, "metric", o.metric->name, ", ");
        json_pair(f, "over", c->over, ", ");
        if (o.under)
            json_pair(f, "under", o.under->id, ", ");
        fputs(c->under ? "\"ratio\": " : "\"figure\": ", f);
        json_number(f, o.value);
        fputs(", \"min\": ", f);
        json_number(f, o.by_round.min);
        fputs(", \"max\": ", f);
        json_number(f, o.by_round.max);
        fprintf(f, ", \"%s\": ", o.metric->higher ? "at_least" : "at_most");
        json_number(f, c->target ? c->target : NAN);
        fputs(i + 1 < b->comparison_count ? "},\n" : "}\n", f);
    }
    fputs("  ],\n  \"notes\": [\n", f);
    for (size_t i = 0; i < b->note_count; i++) {
        fputs("    ", f);
        json_string(f, b->notes[i]);
        fputs(i + 1 < b->note_count ? ",\n" : "\n", f);
    }
    fputs("  ]\n}\n", f);
    bool bad = ferror(f) != 0;
    if (fclose(f) != 0 || bad || rename(part, path) < 0)
        fprintf(stderr, "bench: cannot write '%s': %s\n", path, strerror(errno));
}

/* --- the run ---------------------------------------------------------------------------------------------------- */

static uint64_t random_state;

/* xorshift64*; the seed is in the JSON. */
static uint64_t random_next(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 2685821657736338717u;
}

static void shuffle(size_t *order, size_t n)
{
    for (size_t i = n; i > 1; i--) {
        size_t j = (size_t)(random_next() >> 33) % i, t = order[i - 1];
        order[i - 1] = order[j];
        order[j] = t;
    }
}

static bool is_server(const bench *b, pid_t pid)
{
    for (size_t i = 0; i < b->row_count; i++)
        if (b->rows[i].server->pid == pid)
            return true;
    return false;
}

/*
 * Processes that outlive their server come to the driver, which is a subreaper: Python's helpers and the library's
 * spawner need a moment to see that they are alone. Reaps those that have ended, and waits for the others up to a
 * limit if there is one. The pids of what is left are put into `left`; returns how many.
 */
static size_t reap_orphans(const bench *b, int64_t limit_ns, pid_t *left, size_t capacity)
{
    char path[64], line[LINE_MAX_BYTES];
    size_t n;
    int64_t end = bench_now() + limit_ns;
    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    for (;; bench_idle(1000000)) {
        n = 0;
        read_line(path, line, sizeof line);
        for (char *s = strtok(line, " "); s && n < capacity; s = strtok(NULL, " ")) {
            pid_t pid = (pid_t)strtol(s, NULL, 10);
            if (pid > 0 && !is_server(b, pid) && waitpid(pid, NULL, WNOHANG | __WALL) == 0)
                left[n++] = pid;
        }
        if (n == 0 || bench_now() >= end)
            return n;
    }
}

static int end_orphans(const bench *b)
{
    char path[64], comm[64];
    pid_t left[64];
    size_t n = reap_orphans(b, 3000000000, left, sizeof left / sizeof *left);
    for (size_t i = 0; i < n; i++) {
        snprintf(path, sizeof path, "/proc/%d/comm", (int)left[i]);
        read_line(path, comm, sizeof comm);
        fprintf(stderr, "bench: process %d (%s) was left behind\n", (int)left[i], comm);
        kill(left[i], SIGKILL);
        waitpid(left[i], NULL, __WALL);
    }
    return (int)n;
}

static void measure(const bench *b, bench_row *row, int round)
{
    double values[BENCH_VALUES_MAX];
    size_t count = 0;
    if (row->server->missing || row->failures >= 2)
        return;
    bool good = row->measure ? row->measure(row, values)
                             : bench_ask(row, row->op, b->quick ? row->quick_n : row->n, values, &count);
    if (good && row->measure == NULL && count < b->metric_count) {
        bench_row_fail(row, "%s: answered %zu figures instead of %zu", row->op, count, b->metric_count);
        good = false;
    }
    if (row->server->fresh && !server_stop(row->server, true) && good) {
        bench_row_fail(row, "its process did not end by itself");
        good = false;
    }
    /* After a fresh server the next one begins with nothing left. */
    pid_t left[64];
    reap_orphans(b, row->server->fresh ? 3000000000 : 0, left, sizeof left / sizeof *left);
    if (!good) {
        row->failures++;
        fprintf(stderr, "bench: %s: %s\n", row->name, row->failure);
        return;
    }
    for (size_t m = 0; m < b->metric_count; m++)
        row->samples[m][round] = values[m] * b->metrics[m].scale;
}

static int usage(const char *name)
{
    fprintf(stderr, "usage: %s [--quick] [--rounds N] [--seed N] [--only TEXT] [--json FILE]\n", name);
    return 2;
}

static bool parse(bench *b, int argc, char **argv, const char **json, const char **only)
{
    b->rounds = 7;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0) {
            b->quick = true;
            b->rounds = 3;
        }
    }
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0)
            continue;
        if (i + 1 == argc)
            return false;
        if (strcmp(argv[i], "--rounds") == 0)
            b->rounds = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--seed") == 0)
            random_state = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--json") == 0)
            *json = argv[i + 1];
        else if (strcmp(argv[i], "--only") == 0)
            *only = argv[i + 1];
        else
            return false;
        i++;
    }
    return b->rounds >= 1 && b->rounds <= BENCH_ROUNDS_MAX;
}

static const char *default_json(const bench *b)
{
    const char *self = bench_self();
    const char *folder = bench_text("%.*s/results", (int)(strrchr(self, '/') - self), self);
    mkdir(folder, 0777);
    return bench_text("%s/%s.json", folder, b->name);
}

static void print_header(const bench *b, const machine *m)
{
    printf("## %s: %s\n\n", b->name, b->title);
    printf("| | |\n| --- | --- |\n| CPU | %ld × %s |\n| memory | %.1f GiB, transparent huge pages: %s |\n", m->cpus,
           m->cpu, m->memory_gib, m->thp[0] ? m->thp : "unknown");
    printf("| system | %s%s%s |\n| compiler | %s |\n| date | %s, load %.2f |\n\n", m->kernel,
           m->idle[0] ? ", cpuidle " : "", m->idle, m->compiler, m->date, m->load);
    fflush(stdout);
}

static void print_comparisons(const bench *b)
{
    for (size_t i = 0; i < b->comparison_count; i++) {
        const bench_comparison *c = &b->comparisons[i];
        outcome o = compare(b, c);
        if (isnan(o.value))
            continue;
        printf("- %s", c->text);
        if (c->under && strchr(c->under, '|'))
            printf(" (%s)", o.under->name);
        printf(": %s%s%s (rounds %s – %s)", figure(o.value), c->under ? "" : " ", c->under ? "" : o.metric->unit,
               figure(o.by_round.min), figure(o.by_round.max));
        if (c->target > 0)
            printf("; target %s %g: %s", o.metric->higher ? "≥" : "≤", c->target, is_met(c, &o) ? "met" : "MISSED");
        printf("\n");
    }
}

static void evaluate(bench *b)
{
    for (size_t i = 0; i < b->row_count; i++)
        for (size_t m = 0; m < b->metric_count; m++)
            b->rows[i].stats[m] = stats_of(b->rows[i].samples[m], b->rounds);
    for (size_t i = 0; i < b->row_count; i++)
        for (size_t m = 0; m < b->metric_count; m++) {
            const bench_row *bold = bold_of(b, &b->rows[i], m);
            b->rows[i].ratio[m] = bold ? b->rows[i].stats[m].median / bold->stats[m].median : NAN;
        }
}

int bench_main(bench *b, int argc, char **argv)
{
    const char *json = NULL, *only = NULL;
    size_t order[256];
    int problems = 0;
    double ticks, stolen, ticks_after, stolen_after;

    random_state = (uint64_t)bench_now() | 1;
    if (!parse(b, argc, argv, &json, &only) || b->row_count > sizeof order / sizeof *order)
        return usage(b->name);
    random_state += random_state == 0;
    uint64_t seed = random_state;
    if (json == NULL)
        json = default_json(b);
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_CHILD_SUBREAPER, 1);

    machine m = look_at_machine();
    print_header(b, &m);
    for (size_t i = 0; i < b->row_count; i++) {
        order[i] = i;
        for (size_t k = 0; k < BENCH_METRICS_MAX; k++)
            for (int r = 0; r < BENCH_ROUNDS_MAX; r++)
                b->rows[i].samples[k][r] = NAN;
    }
    cpu_ticks(&ticks, &stolen);
    int64_t begin = bench_now();
    for (int round = 0; round < b->rounds; round++) {
        shuffle(order, b->row_count);
        for (size_t i = 0; i < b->row_count; i++) {
            bench_row *row = &b->rows[order[i]];
            if (only == NULL || strstr(row->id, only) || strstr(row->name, only))
                measure(b, row, round);
        }
        if (isatty(STDERR_FILENO))
            fprintf(stderr, "\r%s: round %d of %d%s", b->name, round + 1, b->rounds,
                    round + 1 == b->rounds ? "\r\033[K" : "");
    }
    double seconds = (double)(bench_now() - begin) / 1e9;
    cpu_ticks(&ticks_after, &stolen_after);
    double steal = ticks_after > ticks ? (stolen_after - stolen) / (ticks_after - ticks) : 0;

    for (size_t i = 0; i < b->row_count; i++) {
        if (b->rows[i].server->pid && !server_stop(b->rows[i].server, true)) {
            fprintf(stderr, "bench: %s: its process did not end by itself\n", b->rows[i].name);
            problems++;
        }
        problems += b->rows[i].failures;
    }
    problems += end_orphans(b);
    evaluate(b);

    for (size_t k = 0; k < b->metric_count; k++)
        print_table(b, k);
    print_comparisons(b);
    for (size_t i = 0; i < b->note_count; i++)
        printf("- %s\n", b->notes[i]);
    for (size_t i = 0; i < b->row_count; i++)
        if (b->rows[i].failures && b->rows[i].stats[0].n)
            printf("- %s failed %d time(s): %s\n", b->rows[i].name, b->rows[i].failures, b->rows[i].failure);
    if (m.load > 0.3 * (double)m.cpus)
        printf("- **noisy**: the load was %.2f when this began\n", m.load);
    if (problems)
        printf("- **%d problem(s)**: see above\n", problems);
    printf("- %d interleaved repetitions, %.0f s, steal %.2f %%, seed %llu\n\n", b->rounds, seconds, 100 * steal,
           (unsigned long long)seed);
    write_json(b, json, &m, seconds, steal, seed, problems);
    return problems ? 1 : 0;
}
