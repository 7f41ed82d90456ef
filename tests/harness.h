/* SPDX-License-Identifier: MIT */
/*
 * The test harness: each case runs as a program of its own, with its own time limit, and must leave nothing behind.
 *
 *     TEST(join_twice)                     a case; runs in a new process, whose main has called td_init()
 *     TEST_LIMIT(slow_one, 120)            the same with another time limit, in seconds (default 50)
 *     TEST_MODES(join_twice)               three cases: join_twice_thread, _forkserver, _fork; the body gets `how`
 *                                          and creates its workers with NEW(.target = ...)
 *     HELPER(family)                       a program for tests to start: helper_start(NULL, "family", NULL)
 *     INIT(prepared)                       another way to call td_init, for a helper started with .init = "prepared"
 *
 * A test program:
 *
 *     test_x                all cases but those named full_*; prints a line for each (--full: these too)
 *     test_x --list         the names of all cases, one per line
 *     test_x CASE...        these cases; exit status 0 passed, 77 skipped, 1 failed
 *     test_x --run CASE     one case in this very process, without supervision, for a debugger
 *
 * The supervisor of a case is a child subreaper: whatever the case leaves alive becomes its child, is reported, and
 * makes the case fail. It ends the case's process group and all its descendants when the time limit has passed.
 *
 * Workers in processes do not share the variables of the test. They share one page of memory with it, which a
 * constructor maps again in each new image of the program: see event_set, event_wait and `page`.
 */
#ifndef TANDEM_TESTS_HARNESS_H
#define TANDEM_TESTS_HARNESS_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>
#include <tandem/base.h>
#include <tandem/call.h>
#include <tandem/init.h>
#include <tandem/worker.h>

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define WITH_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WITH_TSAN 1
#endif
#endif
#ifndef WITH_ASAN
#define WITH_ASAN 0
#endif
#ifndef WITH_TSAN
#define WITH_TSAN 0
#endif
#define SANITIZED (WITH_ASAN || WITH_TSAN)

/* Time limits and counts that a sanitizer build may stretch. */
#define SLOW (SANITIZED ? 5 : 1)

#define EXIT_SKIPPED 77
#define EXIT_WORKER  96 /* a worker process ends with it when one of its checks failed */

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The part of the work that the sanitizers' builds leave out when the long tests are not asked for, as they are up to
 * ten times as slow: one step of so many, one round of so many. The release build leaves nothing out.
 */
int thrift(void);

/* Of what is tried at each of so many steps by each of so many others: one in n in any build, all with the long tests.
 */
long one_in(long n);

/* How long what goes on at random does so, in any build: a second and a half, or twenty with the long tests. */
double budget(void);

/* --- cases ------------------------------------------------------------------------------------------------- */

/* What a suite is run over. */
typedef struct mode {
    const char *name;
    td_worker_kind kind;
    td_method method;
} mode;

extern const mode mode_thread, mode_forkserver, mode_fork;

typedef struct harness_case {
    const char *name;
    void (*plain)(void);
    void (*moded)(const mode *how);
    const mode *how;
    double limit;
    struct harness_case *next;
} harness_case;

typedef struct harness_helper {
    const char *name;
    int (*main)(int argc, char **argv);
    struct harness_helper *next;
} harness_helper;

typedef struct harness_init {
    const char *name;
    void (*init)(void);
    struct harness_init *next;
} harness_init;

void harness_add_case(harness_case *add);
void harness_add_helper(harness_helper *add);
void harness_add_init(harness_init *add);

#define TEST(name) TEST_LIMIT(name, 50)
#define TEST_LIMIT(name, seconds)                                             \
    static void test_##name(void);                                            \
    __attribute__((constructor)) static void test_register_##name(void)       \
    {                                                                         \
        static harness_case add = { #name, test_##name, 0, 0, (seconds), 0 }; \
        harness_add_case(&add);                                               \
    }                                                                         \
    static void test_##name(void)

/* A case for each MODE_CASE that follows; the body gets `how`. */
#define TEST_OVER(name, ...)                                            \
    static void test_##name(const mode *how);                           \
    __attribute__((constructor)) static void test_register_##name(void) \
    {                                                                   \
        static harness_case add[] = { __VA_ARGS__ };                    \
        for (size_t i = 0; i < sizeof add / sizeof *add; i++)           \
            harness_add_case(&add[i]);                                  \
    }                                                                   \
    static void test_##name(const mode *how)
#define MODE_CASE(name_, of, seconds)                                                        \
    {                                                                                        \
        .name = #name_ "_" #of, .moded = test_##name_, .how = &mode_##of, .limit = (seconds) \
    }

#define TEST_MODES(name) TEST_MODES_LIMIT(name, 50)
#define TEST_MODES_LIMIT(name, seconds)                                                     \
    TEST_OVER(name, MODE_CASE(name, thread, seconds), MODE_CASE(name, forkserver, seconds), \
              MODE_CASE(name, fork, seconds))

/* The two methods of processes only. */
#define TEST_METHODS(name) TEST_METHODS_LIMIT(name, 50)
#define TEST_METHODS_LIMIT(name, seconds) \
    TEST_OVER(name, MODE_CASE(name, forkserver, seconds), MODE_CASE(name, fork, seconds))

/* A worker of the mode under test. */
#define NEW(...)                                      \
    td_worker_create(how->kind, &(td_worker_options){ \
                                    .struct_size = sizeof(td_worker_options), .method = how->method, __VA_ARGS__ })

#define HELPER(name)                                                                                 \
    static int helper_##name(int argc __attribute__((unused)), char **argv __attribute__((unused))); \
    __attribute__((constructor)) static void helper_register_##name(void)                            \
    {                                                                                                \
        static harness_helper add = { #name, helper_##name, 0 };                                     \
        harness_add_helper(&add);                                                                    \
    }                                                                                                \
    static int helper_##name(int argc __attribute__((unused)), char **argv __attribute__((unused)))

#define INIT(name)                                                      \
    static void init_##name(void);                                      \
    __attribute__((constructor)) static void init_register_##name(void) \
    {                                                                   \
        static harness_init add = { #name, init_##name, 0 };            \
        harness_add_init(&add);                                         \
    }                                                                   \
    static void init_##name(void)

/* --- checks ------------------------------------------------------------------------------------------------ */

/*
 * A failed CHECK prints both sides and the case goes on, to fail at its end. A failed REQUIRE ends the case at once.
 * In a process other than that of the case, either ends that process with EXIT_WORKER.
 * Each CHECK returns whether it held.
 */
bool harness_check(bool fatal, bool held, const char *file, int line, const char *text);
bool harness_check_int(bool fatal, intmax_t got, intmax_t want, const char *file, int line, const char *text);
bool harness_check_str(bool fatal, const char *got, const char *want, const char *file, int line, const char *text);
bool harness_check_has(const char *got, const char *part, const char *file, int line, const char *text);
bool harness_check_range(double got, double low, double high, const char *file, int line, const char *text);
bool harness_check_ok(bool fatal, int got, const char *file, int line, const char *text);
bool harness_check_error(int got, int want, const char *file, int line, const char *text);
void harness_skip(const char *format, ...) TD_PRINTF(1, 2);
void harness_note(const char *format, ...) TD_PRINTF(1, 2);

bool harness_failed(void); /* a check, in this process */

#define CHECK(x)             harness_check(false, (x), __FILE__, __LINE__, #x)
#define REQUIRE(x)           harness_check(true, (x), __FILE__, __LINE__, #x)
#define CHECK_INT(a, b)      harness_check_int(false, (intmax_t)(a), (intmax_t)(b), __FILE__, __LINE__, #a " == " #b)
#define REQUIRE_INT(a, b)    harness_check_int(true, (intmax_t)(a), (intmax_t)(b), __FILE__, __LINE__, #a " == " #b)
#define CHECK_STR(a, b)      harness_check_str(false, (a), (b), __FILE__, __LINE__, #a)
#define CHECK_HAS(a, part)   harness_check_has((a), (part), __FILE__, __LINE__, #a)
#define CHECK_IN(x, low, up) harness_check_range((double)(x), (low), (up), __FILE__, __LINE__, #x)
/* The call returns 0 (if not, td_last_message() is printed too). */
#define CHECK_OK(call)   harness_check_ok(false, (call), __FILE__, __LINE__, #call)
#define REQUIRE_OK(call) harness_check_ok(true, (call), __FILE__, __LINE__, #call)
/* The call fails with that code, which is also the pending error, and a sentence about it is there. */
#define CHECK_ERROR(call, code) harness_check_error((call), (code), __FILE__, __LINE__, #call)
/* A constructor fails in the same way. */
#define CHECK_NULL(call, code) \
    harness_check_error((call) ? 0 : td_last_error(), (code), __FILE__, __LINE__, #call " == NULL")

/* The case cannot run here; not a failure. Only in the process of the case. */
#define SKIP(...) harness_skip(__VA_ARGS__)

#define WORKER(w) worker_made((w), __FILE__, __LINE__)
td_worker *worker_made(td_worker *w, const char *file, int line); /* REQUIREs that it is not NULL */
/* A new worker that has been started and has ended, however. */
#define JOINED(w) worker_joined((w), __FILE__, __LINE__)
td_worker *worker_joined(td_worker *w, const char *file, int line);

/* --- time -------------------------------------------------------------------------------------------------- */

double now(void); /* seconds, monotonic */
void pause_ms(int ms);

/* Only for state of the kernel that announces itself in no other way, such as a process that must be gone. */
#define WAIT_UNTIL(condition, seconds)                                                             \
    do {                                                                                           \
        double wait_end = now() + (seconds)*SLOW;                                                  \
        bool wait_met;                                                                             \
        while (!(wait_met = (condition)) && now() < wait_end)                                      \
            pause_ms(1);                                                                           \
        harness_check(false, wait_met, __FILE__, __LINE__, #condition " (within " #seconds " s)"); \
    } while (0)

/* The limits of a wait that was to take `seconds`: never by less than 0.6, and not by ten times (plus what a busy
 * machine adds). */
#define CHECK_TIME(elapsed, seconds) CHECK_IN((elapsed), (seconds)*0.6, (seconds)*10.0 + 1.0 * SLOW)

/* --- the page that all processes of a case share ----------------------------------------------------------- */

#ifndef __cplusplus
#define PAGE_EVENTS 256
#define PAGE_TEXT   16384
typedef struct harness_page {
    _Atomic uint32_t event[PAGE_EVENTS];
    _Atomic int64_t number[PAGE_EVENTS];
    _Atomic int32_t failures;                         /* checks that failed, in any process */
    _Atomic int32_t helpers_started, helpers_entered; /* a spawner that runs main would be one too many */
    pid_t supervisor;
    char text[PAGE_TEXT];
} harness_page;

extern harness_page *page; /* NULL in an image started without the environment, or under another root */
#endif

extern const char *harness_dir; /* an empty directory for this case, mode 0777; removed afterwards */

void event_set(int n); /* to 1 */
void event_add(int n); /* one more */
bool event_is_set(int n);
uint32_t event_count(int n);
void event_wait(int n); /* until it is set */
void event_wait_count(int n, uint32_t count);
bool event_wait_for(int n, double seconds);

/* --- what the system holds --------------------------------------------------------------------------------- */

typedef struct proc {
    pid_t pid, ppid;
    char state;
    char comm[32];
} proc;

int count_fds(void);                    /* descriptors of this process */
int count_threads(void);                /* threads of this process */
int count_maps(const char *containing); /* mappings whose line in /proc/self/maps contains the string; "" for all */
long mapped_kib(void);                  /* VmSize */

/* All processes below `root`, zombies too; returns how many there are. */
int family(pid_t root, proc *list, int capacity);
/* Those that live (zombies not counted). */
int family_alive(pid_t root);
int family_zombies(pid_t root);
/*
 * All processes of this case but the calling one and those above it: what the library, and helpers, have started. (The
 * spawner is not below the program in the tree of processes.) Orphans are reaped by the supervisor, so that a zombie
 * that stays is one that somebody does not reap.
 */
int list_others(proc *list, int capacity);
int others(void); /* that live */
int others_zombies(void);
void check_no_others(const char *file, int line); /* and says which there are */
#define CHECK_NOTHING_LEFT()                   \
    do {                                       \
        check_no_others(__FILE__, __LINE__);   \
        WAIT_UNTIL(list_others(0, 0) == 0, 1); \
    } while (0)
bool process_alive(pid_t pid); /* false for a zombie */
pid_t parent_of(pid_t pid);
void print_family(pid_t root);
/* A field of /proc/PID/status ("SigBlk"), as text without leading blanks; "" if there is none. */
const char *status_of(pid_t pid, const char *field, char *to, size_t size);
uint64_t status_hex(pid_t pid, const char *field);

/* Writes a file, creating it. Reads a file into new memory, NUL at its end; NULL if it cannot. */
bool write_file(const char *path, const char *text);
const char *first_line(const char *path, char *to, size_t size); /* "" if it cannot be read */
char *read_file(const char *path, size_t *size);
bool copy_file(const char *from, const char *to);              /* with its mode */
char *read_all(int fd, size_t *size);                          /* until the end */
const char *self_path(void);                                   /* this test program */
const char *self_dir(void);                                    /* the directory it is in */
const char *dir_path(const char *name, char *to, size_t size); /* a path in harness_dir */

/* --- helpers: programs that a test starts ------------------------------------------------------------------- */

#define STREAM_KEEP   0
#define STREAM_CLOSED (-1)

typedef struct helper_options {
    const char *exe;                /* default: this program */
    const char *init;               /* how main calls td_init: the name of an INIT */
    int streams[3];                 /* STREAM_KEEP, STREAM_CLOSED or a descriptor above 2 */
    uid_t uid;                      /* 0: as this process */
    bool own_group;                 /* in a new process group */
    void (*before)(void *argument); /* in the child, before the exec */
    void *argument;
} helper_options;

pid_t helper_start(const helper_options *options, const char *name, ...) __attribute__((sentinel));
/* Waits for it: its exit status, or minus the signal. */
int helper_wait(pid_t pid);
/* Waits for an event that the helper sets; ends the case if the helper ends before. */
void helper_event(pid_t pid, int n, uint32_t count);
int helper_run(const helper_options *options, const char *name, ...) __attribute__((sentinel));
/* Runs it with standard output and error into *output (to be freed). */
int helper_output(char **output, const helper_options *options, const char *name, ...) __attribute__((sentinel));

/* A user id that no other process has, for limits that are counted by user. Skips the case unless it runs as root. */
uid_t lonely_uid(void);

#ifdef __cplusplus
}
#endif

#endif
