/* SPDX-License-Identifier: MIT */
/* What a worker process finds: the functions it runs, its streams, directory, environment, limits and signals. */
#include "targets.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <wchar.h>
#include "module_plugin.h"

extern char **environ;

/* Runs a worker and gives its result's bytes, which belong to the worker. */
static td_worker *ended(const mode *how, td_target *target, td_value args)
{
    td_worker *w = JOINED(NEW(.target = target, .args = args));
    if (!CHECK_INT(td_outcome(w), TD_RETURNED))
        harness_note("    %s", td_describe(w));
    return w;
}

static const td_value none;

/* --- functions --------------------------------------------------------------------------------------------- */

static int triple(td_call *call)
{
    return td_return(call, int, 3 * td_arg(call, int));
}

int visible(td_call *call); /* in the dynamic symbol table, unlike triple() */
int visible(td_call *call)
{
    return td_return(call, int, 5 * td_arg(call, int));
}

static void gives(const mode *how, td_target *target, int argument, int want)
{
    int result = 0;
    td_worker *w = ended(how, target, TD_VAL(argument));
    if (CHECK_OK(td_result(w, int, &result)))
        CHECK_INT(result, want);
    td_free(w);
}

/* Catches: functions found by symbol only, or by address where addresses differ. */
TEST_MODES(functions_of_the_program_and_its_libraries)
{
    gives(how, triple, 7, 21);
    gives(how, visible, 7, 35);
    gives(how, library_negate, 7, -7);
}

static void *load(const char *path, td_target **add, td_target **hidden)
{
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!module)
        harness_note("%s", dlerror());
    REQUIRE(module != 0);
    void *symbol = dlsym(module, "plugin_add"), *get = dlsym(module, "plugin_hidden");
    REQUIRE(symbol && get);
    td_target *(*getter)(void);
    memcpy(add, &symbol, sizeof symbol);
    memcpy(&getter, &get, sizeof get);
    *hidden = getter();
    return module;
}

/* Catches: a module that the spawner, started before it was loaded, does not know. */
TEST_MODES(functions_of_a_module_loaded_late)
{
    gives(how, triple, 1, 3);
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/module_plugin.so", self_dir());
    td_target *add, *hidden;
    void *module = load(path, &add, &hidden);
    for (int i = 0; i < 3; i++) {
        gives(how, add, 7, 1007);
        gives(how, hidden, 7, 7000);
        gives(how, triple, 7, 21);
    }
    dlclose(module);
    gives(how, triple, 7, 21);
    module = load(path, &add, &hidden);
    gives(how, add, 8, 1008);
    dlclose(module);
}

/* Catches: a module that is remembered by a path that means something else, or nothing, by now. */
TEST_METHODS(module_loaded_by_a_relative_path)
{
    gives(how, triple, 1, 3);
    REQUIRE(chdir(self_dir()) == 0);
    td_target *add, *hidden;
    load("./module_plugin.so", &add, &hidden);
    REQUIRE(chdir("/") == 0);
    gives(how, add, 7, 1007);
    gives(how, hidden, 7, 7000);
}

static void copy_module(const char *name, const char *to)
{
    char from[PATH_MAX], new_path[PATH_MAX];
    snprintf(from, sizeof from, "%s/%s", self_dir(), name);
    snprintf(new_path, sizeof new_path, "%s.new", to);
    REQUIRE(copy_file(from, new_path));
    REQUIRE(rename(new_path, to) == 0);
}

/* Refused at once, or reported by the worker: never run. */
static void not_found(td_target *target)
{
    td_worker *w = WORKER(td_process(.target = target, .args = TD_ARG(int, 7)));
    int code = td_start(w);
    if (code == 0) {
        REQUIRE_OK(td_join(w));
        CHECK_INT(td_outcome(w), TD_FAILED);
        CHECK_INT(td_result_code(w), TD_ETARGET);
        CHECK(td_message(w)[0]);
    } else {
        CHECK_INT(code, TD_ETARGET);
        CHECK(td_last_message()[0]);
        CHECK_INT(td_outcome(w), TD_CREATED);
    }
    td_free(w);
}

/* Catches: calling into the middle of another build of a module, which took the place of the one that is loaded. */
TEST(module_replaced_on_disk)
{
    char path[PATH_MAX];
    dir_path("plugin.so", path, sizeof path);
    copy_module("module_plugin.so", path);
    gives(&mode_forkserver, triple, 1, 3);
    td_target *add, *hidden;
    load(path, &add, &hidden);
    copy_module("module_plugin_b.so", path);
    not_found(hidden);
    gives(&mode_fork, hidden, 7, 7000);
    gives(&mode_forkserver, triple, 7, 21);
}

/* Catches: a module that is gone taken for an empty one; a hang. */
TEST(module_removed_from_disk)
{
    char path[PATH_MAX];
    dir_path("plugin.so", path, sizeof path);
    copy_module("module_plugin.so", path);
    gives(&mode_forkserver, triple, 1, 3);
    td_target *add, *hidden;
    load(path, &add, &hidden);
    unlink(path);
    not_found(add);
    gives(&mode_fork, add, 7, 1007);
    gives(&mode_forkserver, triple, 7, 21);
}

/* Catches: a target that no file holds being called at an address where something else is. */
TEST(target_in_no_file)
{
    void *code = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(code != MAP_FAILED);
    td_target *target;
    memcpy(&target, &code, sizeof code);
    for (int i = 0; i < 2; i++) {
        td_worker *w = WORKER(td_process(.target = target));
        CHECK_ERROR(td_start(w), TD_ETARGET);
        td_free(w);
        gives(&mode_forkserver, triple, 7, 21);
    }
    munmap(code, 4096);
}

/* --- variables --------------------------------------------------------------------------------------------- */

static int variable = 1;

static int tells_variable(td_call *call)
{
    return td_return(call, int, variable);
}

/* Catches: the promise of each method about globals: as they were before main, or as they are now. */
TEST(globals)
{
    int result = 0;
    variable = 2;
    td_worker *w = ended(&mode_forkserver, tells_variable, none);
    CHECK_OK(td_result(w, int, &result));
    CHECK_INT(result, 1);
    td_free(w);
    w = ended(&mode_fork, tells_variable, none);
    CHECK_OK(td_result(w, int, &result));
    CHECK_INT(result, 2);
    td_free(w);
}

static int changes_variable(td_call *call)
{
    variable++;
    return td_return(call, int, variable);
}

/* Catches: a worker that finds what another one left behind. */
TEST_METHODS(workers_do_not_share_globals)
{
    for (int i = 0; i < 8; i++) {
        int result = 0;
        td_worker *w = ended(how, changes_variable, none);
        CHECK_OK(td_result(w, int, &result));
        CHECK_INT(result, 2);
        td_free(w);
    }
    CHECK_INT(variable, 1);
}

/* --- the standard streams ---------------------------------------------------------------------------------- */

struct streams {
    bool open[3];
    dev_t device[3];
    ino_t inode[3];
};

static void look_at_streams(struct streams *s)
{
    memset(s, 0, sizeof *s);
    for (int i = 0; i < 3; i++) {
        struct stat st;
        s->open[i] = fstat(i, &st) == 0;
        if (s->open[i]) {
            s->device[i] = st.st_dev;
            s->inode[i] = st.st_ino;
        }
    }
}

static int tells_streams(td_call *call)
{
    struct streams s;
    look_at_streams(&s);
    return td_return_bytes(call, &s, sizeof s);
}

static void check_streams(const mode *how)
{
    struct streams before, after;
    look_at_streams(&before);
    td_worker *w = ended(how, tells_streams, none);
    size_t size = 0;
    const struct streams *in_worker = td_result_bytes(w, &size);
    look_at_streams(&after);
    REQUIRE_INT(size, sizeof *in_worker);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(in_worker->open[i], before.open[i]);
        CHECK_INT(in_worker->inode[i], before.inode[i]);
        CHECK_INT(in_worker->device[i], before.device[i]);
        CHECK_INT(after.open[i], before.open[i]);
        CHECK_INT(after.inode[i], before.inode[i]);
    }
    td_free(w);
}

/* Argument: the method. Some of its streams are closed from its birth. */
HELPER(closed_streams)
{
    REQUIRE(argc == 2);
    const mode *how = strcmp(argv[1], "fork") == 0 ? &mode_fork : &mode_forkserver;
    for (int i = 0; i < 3; i++)
        check_streams(how);
    return 0;
}

/* Catches: a descriptor of the library that becomes a standard stream because that number was free. */
TEST_METHODS(closed_streams_in_all_combinations)
{
    for (int closed = 0; closed < 8; closed++) {
        helper_options o = { 0 };
        for (int i = 0; i < 3; i++)
            o.streams[i] = closed & 1 << i ? STREAM_CLOSED : STREAM_KEEP;
        if (!CHECK_INT(helper_run(&o, "closed_streams", how->name, NULL), 0))
            harness_note("    with closed streams: %d", closed);
    }
}

/* Catches: streams taken once, when the spawner starts. */
TEST_METHODS(streams_change_between_starts)
{
    check_streams(how);
    char path[PATH_MAX];
    int kept[3];
    for (int i = 0; i < 3; i++)
        kept[i] = fcntl(i, F_DUPFD_CLOEXEC, 10);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 3; i++) {
            char name[32];
            snprintf(name, sizeof name, "stream-%d-%d", round, i);
            int fd = open(dir_path(name, path, sizeof path), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
            REQUIRE(fd >= 0);
            if (fd != i) {
                dup2(fd, i);
                close(fd);
            } else {
                fcntl(fd, F_SETFD, 0);
            }
        }
        if (round > 1)
            close(round - 1);
        check_streams(how);
    }
    for (int i = 0; i < 3; i++)
        dup2(kept[i], i);
    for (int i = 0; i < 3; i++)
        close(kept[i]);
}

static int prints_arg(td_call *call)
{
    fputs(td_arg_str(call), stdout);
    return 0;
}

/* Argument: the method. Prints before and after, leaving all to the buffer. */
HELPER(prints)
{
    REQUIRE(argc == 2);
    const mode *how = strcmp(argv[1], "fork") == 0     ? &mode_fork
                      : strcmp(argv[1], "thread") == 0 ? &mode_thread
                                                       : &mode_forkserver;
    printf("[before]");
    for (int i = 0; i < 3; i++) {
        td_worker *w = ended(how, prints_arg, TD_STR("<worker>"));
        td_free(w);
        printf("[after %d]", i);
    }
    return 0;
}

static int occurrences(const char *text, const char *of)
{
    int n = 0;
    for (; (text = strstr(text, of)); text += strlen(of))
        n++;
    return n;
}

/* Catches: buffered output printed by both sides of a fork, or by neither. */
TEST_MODES(stdio_is_neither_lost_nor_doubled)
{
    for (int to_file = 0; to_file < 2; to_file++) {
        char *text, path[PATH_MAX];
        if (to_file) {
            int fd = open(dir_path("out", path, sizeof path), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
            helper_options o = { .streams = { 0, fd, 0 } };
            CHECK_INT(helper_run(&o, "prints", how->name, NULL), 0);
            close(fd);
            text = read_file(path, 0);
        } else {
            CHECK_INT(helper_output(&text, 0, "prints", how->name, NULL), 0);
        }
        REQUIRE(text != 0);
        CHECK_INT(occurrences(text, "[before]"), 1);
        CHECK_INT(occurrences(text, "<worker>"), 3);
        CHECK_INT(occurrences(text, "[after 0]"), 1);
        CHECK_INT(occurrences(text, "[after 2]"), 1);
        CHECK_INT(strlen(text), 8 + 3 * 8 + 3 * 9);
        free(text);
    }
}

/* Catches: a file without O_APPEND in which worker and parent overwrite each other, since offsets are not shared. */
TEST_METHODS(file_offset_is_shared)
{
    char path[PATH_MAX];
    int fd = open(dir_path("out", path, sizeof path), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    helper_options o = { .streams = { 0, fd, 0 } };
    CHECK_INT(helper_run(&o, "prints", how->name, NULL), 0);
    close(fd);
    char *text = read_file(path, 0);
    REQUIRE(text != 0);
    CHECK_INT(strlen(text), 8 + 3 * 8 + 3 * 9);
    free(text);
}

/* Catches: join that returns before the worker's output is there. */
TEST_METHODS(output_is_flushed_before_join)
{
    int ends[2], kept = fcntl(1, F_DUPFD_CLOEXEC, 10);
    REQUIRE(pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
    dup2(ends[1], 1);
    td_worker *w = ended(how, prints_arg, TD_STR("no newline"));
    char text[32] = "";
    CHECK_INT(read(ends[0], text, sizeof text - 1), 10);
    CHECK_STR(text, "no newline");
    dup2(kept, 1);
    close(kept);
    close(ends[0]);
    close(ends[1]);
    td_free(w);
}

static void *idles(void *unused)
{
    return unused;
}

/* Leaves a file open with something in its buffer: of bytes; of wide characters; of bytes, after a thread. */
enum { BYTES, WIDE, AFTER_THREAD };

static int leaves_file_open(td_call *call)
{
    int what = td_arg(call, int);
    char path[PATH_MAX];
    pthread_t thread;
    if (what == AFTER_THREAD && (pthread_create(&thread, 0, idles, 0) || pthread_join(thread, 0)))
        return 1;
    FILE *file = fopen(dir_path("left open", path, sizeof path), "w");
    return file && (what == WIDE ? fputws(L"text", file) : fputs("text", file)) >= 0 ? 0 : 1;
}

/* Catches: an end of a worker that looks at the standard streams only, or at buffers of bytes only. */
TEST_METHODS(files_left_open_are_flushed)
{
    char path[PATH_MAX];
    dir_path("left open", path, sizeof path);
    int last = WITH_TSAN && how->method == TD_FORK ? WIDE : AFTER_THREAD; /* no threads in copies */
    for (int what = BYTES; what <= last; what++) {
        td_free(ended(how, leaves_file_open, TD_ARG(int, what)));
        char *text = read_file(path, 0);
        REQUIRE(text != 0);
        CHECK_STR(text, "text");
        free(text);
        unlink(path);
    }
}

static int prints_much(td_call *call)
{
    int lines = td_arg(call, int);
    for (int i = 0; i < lines; i++)
        printf("%062d\n", i);
    fprintf(stderr, "%s", "");
    return ferror(stdout);
}

static void *read_pipe(void *fd)
{
    return read_all(*(int *)fd, 0);
}

/* Catches: output that is cut where a pipe is full. */
TEST_METHODS(large_output)
{
    int ends[2], kept = fcntl(1, F_DUPFD_CLOEXEC, 10);
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    dup2(ends[1], 1);
    close(ends[1]);
    pthread_t reader;
    REQUIRE(pthread_create(&reader, 0, read_pipe, &ends[0]) == 0);
    td_worker *w = ended(how, prints_much, TD_ARG(int, 50000));
    td_free(w);
    dup2(kept, 1);
    close(kept);
    if (how->method == TD_FORKSERVER)
        td_finish(); /* spares may hold a copy of the stream */
    void *text;
    pthread_join(reader, &text);
    CHECK_INT(strlen(text), 50000 * 63);
    CHECK_INT(strncmp((char *)text + 49999 * 63, "00000", 5), 0);
    free(text);
    close(ends[0]);
}

/* Catches: a parent's pipe that never ends because the spawner, or a spare, keeps a copy of its write end. */
TEST_METHODS(streams_are_not_kept_open)
{
    int ends[2], kept = fcntl(1, F_DUPFD_CLOEXEC, 10);
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    dup2(ends[1], 1);
    close(ends[1]);
    for (int i = 0; i < 5; i++)
        td_free(ended(how, prints_arg, TD_STR("x")));
    dup2(kept, 1);
    close(kept);
    char text[16];
    CHECK_INT(read(ends[0], text, 5), 5);
    CHECK_INT(read(ends[0], text, sizeof text), 0); /* the end, without td_finish */
    close(ends[0]);
}

/* The same with the pipe in place when the spawner starts, and the first process started from it. */
HELPER(starts_and_waits)
{
    td_worker *w = ended(&mode_forkserver, nothing, none);
    td_free(w);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(null, 1);
    close(null);
    event_set(STARTED);
    event_wait(GO);
    return 0;
}

/* Catches: the spawner keeping the standard output it was born with: `prog | consumer` would never see the end. */
TEST(spawner_does_not_keep_standard_output)
{
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    helper_options o = { .streams = { 0, ends[1], 0 } };
    pid_t pid = helper_start(&o, "starts_and_waits", NULL);
    close(ends[1]);
    helper_event(pid, STARTED, 1);
    char text[16];
    CHECK_INT(read(ends[0], text, sizeof text), 0);
    event_set(GO);
    CHECK_INT(helper_wait(pid), 0);
    close(ends[0]);
}

static int echoes_input(td_call *call)
{
    char line[64] = "";
    if (!fgets(line, sizeof line, stdin))
        return 1;
    return td_return_str(call, line);
}

/* Catches: a standard input of /dev/null, or of the spawner's time. */
TEST_METHODS(standard_input)
{
    td_free(ended(how, nothing, none));
    int ends[2], kept = fcntl(0, F_DUPFD_CLOEXEC, 10);
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    REQUIRE(write(ends[1], "hello\n", 6) == 6);
    dup2(ends[0], 0);
    close(ends[0]);
    td_worker *w = ended(how, echoes_input, none);
    CHECK_STR(td_result_str(w), "hello\n");
    td_free(w);
    dup2(kept, 0);
    close(kept);
    close(ends[1]);
}

struct numbers {
    int n;
    int fd[64];
};

static int tells_fds(td_call *call)
{
    struct numbers found = { 0 };
    for (int fd = 0; fd < 1024 && found.n < 64; fd++)
        if (fcntl(fd, F_GETFD) >= 0 && !(fcntl(fd, F_GETFD) & FD_CLOEXEC))
            found.fd[found.n++] = fd;
    return td_return_bytes(call, &found, sizeof found);
}

/* Catches: descriptors of the program, or of the library, that leak into workers and what these execute. */
TEST(descriptors_do_not_leak_into_workers)
{
    int leak = open("/dev/null", O_RDONLY), before = count_fds(); /* without close-on-exec */
    REQUIRE(leak > 2);
    for (int i = 0; i < 5; i++) {
        td_worker *w = ended(&mode_forkserver, tells_fds, none);
        const struct numbers *found = td_result_bytes(w, 0);
        REQUIRE(found != 0);
        CHECK_INT(found->n, 3);
        td_free(w);
    }
    CHECK(count_fds() - before < 20);
    close(leak);
}

INIT(without_td_init)
{
}

static const helper_options no_init = { .init = "without_td_init" };

HELPER(counts_its_fds)
{
    return count_fds();
}

/* Catches: descriptors of the library without close-on-exec, in programs that the parent or a worker executes. */
static int runs_a_program(td_call *call)
{
    return td_return(call, int, helper_run(&no_init, "counts_its_fds", NULL));
}

TEST_MODES(descriptors_do_not_leak_into_programs)
{
    td_worker *w = WORKER(NEW(.target = nothing));
    REQUIRE_OK(td_start(w));
    CHECK_INT(helper_run(&no_init, "counts_its_fds", NULL), 3);
    REQUIRE_OK(td_join(w));
    td_free(w);
    CHECK_INT(helper_run(&no_init, "counts_its_fds", NULL), 3);
    int result = 0;
    w = ended(how, runs_a_program, none);
    CHECK_OK(td_result(w, int, &result));
    CHECK_INT(result, 3);
    td_free(w);
}

/* --- directory, umask, environment ------------------------------------------------------------------------- */

static int tells_directory(td_call *call)
{
    char text[PATH_MAX];
    struct stat st;
    CHECK(stat(".", &st) == 0);
    return td_return_str(call, getcwd(text, sizeof text) ? text : "(gone)");
}

/* Catches: the directory of the spawner's start. */
TEST_METHODS(working_directory)
{
    const char *directories[] = { "/", harness_dir, "/usr", "/proc/self", "/tmp" };
    for (size_t i = 0; i < sizeof directories / sizeof *directories; i++) {
        char here[PATH_MAX];
        REQUIRE(chdir(directories[i]) == 0);
        REQUIRE(getcwd(here, sizeof here) != 0);
        td_worker *w = ended(how, tells_directory, none);
        CHECK_STR(td_result_str(w), here);
        td_free(w);
    }
}

/* Catches: a directory passed as a path. */
TEST_METHODS(removed_working_directory)
{
    for (int i = 0; i < 2; i++) {
        char path[PATH_MAX];
        REQUIRE(mkdir(dir_path("gone", path, sizeof path), 0700) == 0);
        REQUIRE(chdir(path) == 0);
        REQUIRE(rmdir(path) == 0);
        td_worker *w = ended(how, tells_directory, none);
        CHECK_STR(td_result_str(w), "(gone)");
        td_free(w);
    }
    REQUIRE(chdir("/") == 0);
    td_worker *w = ended(how, tells_directory, none);
    CHECK_STR(td_result_str(w), "/");
    td_free(w);
}

static int tells_umask(td_call *call)
{
    return td_return(call, int, (int)umask(0));
}

TEST_METHODS(umask_of_the_moment)
{
    const mode_t masks[] = { 022, 0, 077, 0777, 027 };
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++) {
        umask(masks[i]);
        int result = -1;
        td_worker *w = ended(how, tells_umask, none);
        CHECK_OK(td_result(w, int, &result));
        CHECK_INT(result, masks[i]);
        td_free(w);
        CHECK_INT(umask(022), masks[i]);
    }
}

static char *join_environment(void)
{
    size_t size = 1;
    for (char **e = environ; e && *e; e++)
        size += strlen(*e) + 1;
    char *text = calloc(1, size), *at = text;
    REQUIRE(text != 0);
    for (char **e = environ; e && *e; e++)
        at += sprintf(at, "%s\n", *e);
    return text;
}

static int tells_environment(td_call *call)
{
    char *text = join_environment();
    int code = td_return_str(call, text);
    free(text);
    return code;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The same lines, in whatever order. */
static void check_lines(const char *got, const char *want)
{
    char *copies[2] = { strdup(got), strdup(want) }, *lines[2][512];
    int n[2] = { 0, 0 };
    for (int i = 0; i < 2; i++) {
        for (char *line = strtok(copies[i], "\n"); line && n[i] < 512; line = strtok(0, "\n"))
            lines[i][n[i]++] = line;
        qsort(lines[i], (size_t)n[i], sizeof(char *), by_text);
    }
    CHECK_INT(n[0], n[1]);
    for (int k = 0; k < n[0] && k < n[1]; k++)
        if (!CHECK_STR(lines[0][k], lines[1][k]))
            break;
    free(copies[0]);
    free(copies[1]);
}

static void check_environment(const mode *how)
{
    char *want = join_environment();
    td_worker *w = ended(how, tells_environment, none);
    const char *got = td_result_str(w);
    REQUIRE(got != 0);
    check_lines(got, want);
    free(want);
    td_free(w);
}

/* Catches: the environment of the spawner's start; variables that were removed and come back; a marker of ours. */
TEST_METHODS(environment_of_the_moment)
{
    static char put[] = "PUT=by putenv", no_value[] = "EMPTY=", block[100000];
    check_environment(how);
    setenv("NEW_ONE", "value", 1);
    check_environment(how);
    setenv("NEW_ONE", "another value", 1);
    setenv("PATH", "/nowhere", 1);
    check_environment(how);
    unsetenv("NEW_ONE");
    unsetenv("HOME");
    check_environment(how);
    putenv(put);
    putenv(no_value);
    check_environment(how);
    strcpy(put, "PUT=changed");
    check_environment(how);
    memset(block, 'b', sizeof block - 1);
    setenv("LARGE", block, 1);
    check_environment(how);
    unsetenv("LARGE");
    check_environment(how);
    for (int i = 0; i < 200; i++) {
        char name[32];
        snprintf(name, sizeof name, "MANY_%d", i);
        setenv(name, "x", 1);
    }
    check_environment(how);
    clearenv();
    check_environment(how);
    setenv("ONLY", "one", 1);
    check_environment(how);
    environ = 0;
    check_environment(how);
}

/* Catches: a first start, and so a spawner, without any environment. */
TEST_METHODS(environment_empty_from_the_first_start)
{
    clearenv();
    check_environment(how);
    setenv("ONE", "1", 1);
    check_environment(how);
}

static int changes_environment(td_call *call)
{
    (void)call;
    setenv("FROM_WORKER", "1", 1);
    unsetenv("PATH");
    return 0;
}

TEST_METHODS(environment_of_a_worker_is_its_own)
{
    char *before = join_environment();
    for (int i = 0; i < 6; i++)
        td_free(ended(how, changes_environment, none));
    char *after = join_environment();
    CHECK_STR(after, before);
    free(before);
    free(after);
    check_environment(how);
}

/* --- limits, nice, affinity -------------------------------------------------------------------------------- */

struct limits {
    struct rlimit of[RLIM_NLIMITS];
};

static void look_at_limits(struct limits *l)
{
    memset(l, 0, sizeof *l);
    for (int i = 0; i < (int)RLIM_NLIMITS; i++)
        getrlimit(i, &l->of[i]);
}

static int tells_limits(td_call *call)
{
    struct limits l;
    look_at_limits(&l);
    return td_return_bytes(call, &l, sizeof l);
}

static void check_limits(const mode *how)
{
    struct limits want;
    look_at_limits(&want);
    td_worker *w = ended(how, tells_limits, none);
    const struct limits *got = td_result_bytes(w, 0);
    REQUIRE(got != 0);
    for (int i = 0; i < (int)RLIM_NLIMITS; i++) {
        bool same = got->of[i].rlim_cur == want.of[i].rlim_cur && got->of[i].rlim_max == want.of[i].rlim_max;
        if (i == RLIMIT_CORE) /* workers dump no core unless asked */
            same = same || got->of[i].rlim_cur == 0;
        if (!CHECK(same))
            harness_note("    limit %d: %ju/%ju, not %ju/%ju", i, (uintmax_t)got->of[i].rlim_cur,
                         (uintmax_t)got->of[i].rlim_max, (uintmax_t)want.of[i].rlim_cur,
                         (uintmax_t)want.of[i].rlim_max);
    }
    td_free(w);
}

static rlim_t lower(rlim_t limit)
{
    return limit == RLIM_INFINITY ? (rlim_t)1 << 46 : limit - limit / 4;
}

/* Catches: limits of the spawner's start: soft and hard, lowered and raised again. */
TEST_METHODS(limits_of_the_moment)
{
    check_limits(how);
    struct limits old;
    look_at_limits(&old);
    for (int i = 0; i < (int)RLIM_NLIMITS; i++) {
        if (SANITIZED && (i == RLIMIT_AS || i == RLIMIT_DATA))
            continue;
        struct rlimit l = old.of[i];
        l.rlim_cur = lower(l.rlim_cur);
        CHECK(setrlimit(i, &l) == 0);
        if (i % 4 == 0)
            check_limits(how);
    }
    check_limits(how);
    for (int i = 0; i < (int)RLIM_NLIMITS; i++)
        CHECK(setrlimit(i, &old.of[i]) == 0);
    check_limits(how);
    for (int i = 0; i < (int)RLIM_NLIMITS; i++) {
        if (SANITIZED && (i == RLIMIT_AS || i == RLIMIT_DATA))
            continue;
        struct rlimit l = { lower(lower(old.of[i].rlim_cur)), lower(old.of[i].rlim_max) };
        CHECK(setrlimit(i, &l) == 0);
    }
    check_limits(how);
    for (int i = 0; i < (int)RLIM_NLIMITS; i++)
        if (setrlimit(i, &old.of[i]) < 0)
            return; /* not privileged to raise a hard limit */
    check_limits(how);
}

/* As another user, who cannot raise a hard limit. Argument: the method. */
HELPER(limits_unprivileged)
{
    REQUIRE(argc == 2);
    const mode *how = strcmp(argv[1], "fork") == 0 ? &mode_fork : &mode_forkserver;
    struct rlimit l;
    check_limits(how);
    for (int round = 0; round < 3; round++) {
        getrlimit(RLIMIT_NOFILE, &l);
        l.rlim_cur = round % 2 ? l.rlim_max : 100;
        CHECK(setrlimit(RLIMIT_NOFILE, &l) == 0);
        check_limits(how);
    }
    l.rlim_max = 512;
    l.rlim_cur = 200;
    CHECK(setrlimit(RLIMIT_NOFILE, &l) == 0);
    check_limits(how);
    l.rlim_cur = 512;
    CHECK(setrlimit(RLIMIT_NOFILE, &l) == 0);
    check_limits(how);
    return 0;
}

TEST_METHODS(limits_of_a_user_without_privileges)
{
    helper_options o = { .uid = lonely_uid() };
    CHECK_INT(helper_run(&o, "limits_unprivileged", how->name, NULL), 0);
}

/* Catches: a file size limit that kills the program by SIGXFSZ, or the library's memory files being taken for files. */
HELPER(small_file_limit)
{
    REQUIRE(argc == 2);
    const mode *how = strcmp(argv[1], "fork") == 0 ? &mode_fork : &mode_forkserver;
    struct rlimit old, l;
    getrlimit(RLIMIT_FSIZE, &old);
    l = old;
    l.rlim_cur = 65536;
    setrlimit(RLIMIT_FSIZE, &l);
    static char block[300000];
    td_worker *w = WORKER(NEW(.target = nothing, .args = TD_BYTES(block, sizeof block)));
    int code = td_start(w);
    if (code == 0) {
        REQUIRE_OK(td_join(w));
        CHECK_INT(td_outcome(w), TD_RETURNED);
    } else {
        CHECK(code < 0 && td_last_message()[0]);
        CHECK_HAS(td_last_message(), "RLIMIT_FSIZE");
    }
    td_free(w);
    setrlimit(RLIMIT_FSIZE, &old);
    check_limits(how);
    return 0;
}

TEST_METHODS(file_size_limit)
{
    CHECK_INT(helper_run(0, "small_file_limit", how->name, NULL), 0);
}

static int tells_nice(td_call *call)
{
    errno = 0;
    return td_return(call, int, getpriority(PRIO_PROCESS, 0));
}

TEST_METHODS(nice_of_the_moment)
{
    const int values[] = { getpriority(PRIO_PROCESS, 0), 5, 10, 19, 3, 0 };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        if (setpriority(PRIO_PROCESS, 0, values[i]) < 0)
            continue; /* only root can go back */
        int result = -100;
        td_worker *w = ended(how, tells_nice, none);
        CHECK_OK(td_result(w, int, &result));
        CHECK_INT(result, values[i]);
        td_free(w);
    }
}

static int tells_affinity(td_call *call)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof set, &set);
    return td_return_bytes(call, &set, sizeof set);
}

TEST_METHODS(affinity_of_the_moment)
{
    cpu_set_t all, one;
    CPU_ZERO(&all);
    REQUIRE(sched_getaffinity(0, sizeof all, &all) == 0);
    for (int round = 0; round < 6; round++) {
        one = all;
        if (round % 2) {
            int nth = (round / 2) % CPU_COUNT(&all);
            CPU_ZERO(&one);
            for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
                if (CPU_ISSET(cpu, &all) && nth-- == 0)
                    CPU_SET(cpu, &one);
        }
        REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
        td_worker *w = ended(how, tells_affinity, none);
        const cpu_set_t *got = td_result_bytes(w, 0);
        REQUIRE(got != 0);
        CHECK(CPU_EQUAL(got, &one));
        td_free(w);
    }
}

static void *starts_with_one_cpu(void *out)
{
    const mode *how = &mode_forkserver;
    cpu_set_t all, one;
    sched_getaffinity(0, sizeof all, &all);
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; cpu++)
        if (CPU_ISSET(cpu, &all))
            CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
    td_worker *w = ended(how, tells_affinity, none);
    const cpu_set_t *got = td_result_bytes(w, 0);
    REQUIRE(got != 0);
    CHECK(CPU_EQUAL(got, &one));
    td_free(w);
    return out;
}

/* Catches: a spawner, started by a thread that is bound to one CPU, that binds all later workers to it. */
TEST(affinity_of_the_thread_that_starts)
{
    pthread_t thread;
    REQUIRE(pthread_create(&thread, 0, starts_with_one_cpu, 0) == 0);
    pthread_join(thread, 0);
    cpu_set_t all;
    CPU_ZERO(&all);
    sched_getaffinity(0, sizeof all, &all);
    td_worker *w = ended(&mode_forkserver, tells_affinity, none);
    const cpu_set_t *got = td_result_bytes(w, 0);
    REQUIRE(got != 0);
    CHECK(CPU_EQUAL(got, &all));
    td_free(w);
}

/* --- signals ----------------------------------------------------------------------------------------------- */

struct masks {
    uint64_t blocked, ignored, caught, pending;
};

static int tells_signals(td_call *call)
{
    struct masks m = { status_hex(getpid(), "SigBlk"), status_hex(getpid(), "SigIgn"), status_hex(getpid(), "SigCgt"),
                       status_hex(getpid(), "SigPnd") | status_hex(getpid(), "ShdPnd") };
    return td_return_bytes(call, &m, sizeof m);
}

static uint64_t bit(int number)
{
    return (uint64_t)1 << (number - 1);
}

static void check_signals(const mode *how, uint64_t ignored)
{
    td_worker *w = ended(how, tells_signals, none);
    const struct masks *m = td_result_bytes(w, 0);
    REQUIRE(m != 0);
    uint64_t caught = m->caught & ~(bit(32) | bit(33)); /* the libc's own */
    if (SANITIZED)
        caught &= ~(bit(SIGSEGV) | bit(SIGBUS) | bit(SIGFPE) | bit(SIGILL) | bit(SIGABRT) | bit(SIGTRAP) | bit(SIGSYS));
    CHECK_INT(m->blocked, 0);
    CHECK_INT(m->ignored & ~(bit(32) | bit(33)), ignored); /* make(1) ignores them in all that it starts */
    CHECK_INT(caught, 0);
    CHECK_INT(m->pending, 0);
    td_free(w);
}

static void handler(int number)
{
    (void)number;
}

static void change_signals(void)
{
    signal(SIGPIPE, SIG_IGN);
    signal(SIGUSR1, handler);
    signal(SIGINT, handler);
    signal(SIGTERM, handler);
    signal(SIGCHLD, SIG_IGN);
    signal(SIGTTOU, SIG_IGN);
    signal(40, SIG_IGN);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, 0);
}

/* Catches: SIGPIPE ignored, or signals blocked, in workers because the parent does so (Python's bpo-1652). */
TEST_METHODS(signals_of_the_parent_do_not_leak)
{
    check_signals(how, 0);
    change_signals();
    check_signals(how, 0);
    check_signals(how, 0);
    CHECK(signal(SIGPIPE, SIG_IGN) == SIG_IGN);
    CHECK(signal(SIGUSR1, handler) == handler);
    sigset_t now_blocked;
    sigprocmask(SIG_SETMASK, 0, &now_blocked);
    CHECK(sigismember(&now_blocked, SIGUSR1) && sigismember(&now_blocked, SIGRTMAX));
}

/* The same with the changes made before there is a spawner. */
TEST_METHODS(signals_changed_before_the_first_start)
{
    change_signals();
    check_signals(how, 0);
}

static void ignore_hangup(void *unused)
{
    (void)unused;
    signal(SIGHUP, SIG_IGN);
    signal(SIGQUIT, SIG_IGN);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, 0);
}

/* Argument: the method. Born with SIGHUP and SIGQUIT ignored. */
HELPER(born_ignoring)
{
    REQUIRE(argc == 2);
    const mode *how = strcmp(argv[1], "fork") == 0 ? &mode_fork : &mode_forkserver;
    check_signals(how, bit(SIGHUP) | bit(SIGQUIT));
    signal(SIGHUP, handler);
    signal(SIGQUIT, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
    check_signals(how, bit(SIGHUP) | bit(SIGQUIT));
    return 0;
}

/* Catches: `nohup prog` whose workers die of the hang-up. */
TEST_METHODS(signals_ignored_at_birth_stay_ignored)
{
    helper_options o = { .before = ignore_hangup };
    CHECK_INT(helper_run(&o, "born_ignoring", how->name, NULL), 0);
}

/* --- many -------------------------------------------------------------------------------------------------- */

static int returns_index(td_call *call)
{
    return td_return(call, int, td_arg(call, int) + 1);
}

static const mode *many_how;
static int many_each;

static void *starts_many(void *first)
{
    const mode *how = many_how;
    int base = *(int *)first;
    for (int i = 0; i < many_each; i++) {
        int result = 0;
        td_worker *w = ended(how, returns_index, TD_ARG(int, base + i));
        CHECK_OK(td_result(w, int, &result));
        CHECK_INT(result, base + i + 1);
        td_free(w);
    }
    return 0;
}

static void many_from_threads(const mode *how, int threads, int each)
{
    if (SANITIZED && how->method == TD_FORK)
        SKIP("the sanitizer is not made ready for a fork among threads");
    pthread_t thread[16];
    int first[16];
    many_how = how;
    many_each = each;
    for (int i = 0; i < threads; i++) {
        first[i] = i * 100000;
        REQUIRE(pthread_create(&thread[i], 0, starts_many, &first[i]) == 0);
    }
    for (int i = 0; i < threads; i++)
        pthread_join(thread[i], 0);
}

/* Catches: requests and replies of several starters mixed up; slots, descriptors or processes that run out. */
TEST_MODES(a_thousand_from_eight_threads)
{
    if (SANITIZED && how->method == TD_FORK)
        SKIP("the sanitizer is not made ready for a fork among threads");
    td_free(ended(how, nothing, none));
    int fds = count_fds();
    many_from_threads(how, 8, SANITIZED ? 25 : 125);
    WAIT_UNTIL(count_fds() <= fds, 5);
    WAIT_UNTIL(others_zombies() == 0, 5);
}

TEST_MODES_LIMIT(full_many_from_eight_threads, 600)
{
    many_from_threads(how, 8, SANITIZED ? 300 : 3000);
}

static int waits_for_go(td_call *call)
{
    event_add(STARTED);
    event_wait(GO);
    return td_return(call, int, td_arg(call, int) + 1);
}

/* Catches: a table that is full at some number of living workers. */
TEST_METHODS(three_hundred_alive)
{
    enum { N = 300 };
    static td_worker *w[N];
    int n = SANITIZED ? 50 : N;
    for (int i = 0; i < n; i++) {
        w[i] = WORKER(NEW(.target = waits_for_go, .args = TD_ARG(int, i)));
        REQUIRE_OK(td_start(w[i]));
    }
    event_wait_count(STARTED, (uint32_t)n);
    CHECK_INT(td_active_children(0, 0), n);
    event_set(GO);
    for (int i = 0; i < n; i++) {
        int result = 0;
        REQUIRE_OK(td_join(w[i]));
        CHECK_OK(td_result(w[i], int, &result));
        CHECK_INT(result, i + 1);
    }
    for (int i = 0; i < n; i++)
        td_free(w[i]);
}
