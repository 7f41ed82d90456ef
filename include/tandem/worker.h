/* SPDX-License-Identifier: MIT */
/*
 * Workers: a function on a thread or in a process. Python: threading.Thread, multiprocessing.Process.
 *
 *     td_worker *w = td_process(.target = resize, .args = TD_STR("photo.jpg"));     // or td_thread(...)
 *     td_start(w);
 *     td_join(w);
 *     if (td_outcome(w) != TD_RETURNED)
 *         fprintf(stderr, "%s\n", td_describe(w));
 *     td_free(w);
 *
 * A worker's states: created, running, ended. It is started once. How it ended is its outcome. All calls may be
 * made from any thread, several at a time, on the same worker, but for td_free, which is the last one by its owner.
 *
 * After fork() by the program itself, the child has none of the parent's workers: calls on them fail with
 * TD_EFORKED (td_free frees the child's copy). The child can create and start workers of its own.
 *
 * None of these calls is for signal handlers. Waits resume after a signal, with the time that is left.
 */
#ifndef TANDEM_WORKER_H
#define TANDEM_WORKER_H

#include <sys/types.h>
#include <tandem/base.h>
#include <tandem/call.h>
#include <tandem/connection.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct td_worker td_worker;

typedef enum td_worker_kind { TD_THREAD = 1, TD_PROCESS = 2 } td_worker_kind;

/*
 * How a process starts. Python: set_start_method.
 *   TD_FORKSERVER  from a small, single-threaded spawner, a fresh image of this program: functions and globals as
 *                  they were before main (and after td_init's .prepare). The default. Constant cost.
 *   TD_FORK        a copy of the caller, with all its memory as it is now, but only the calling thread. Costs
 *                  in proportion to the memory in use; locks that other threads hold stay held in the copy.
 */
typedef enum td_method { TD_METHOD_DEFAULT = 0, TD_FORKSERVER = 1, TD_FORK = 2 } td_method;

/* Daemon workers do not hold up the program's end: threads are left behind, processes are ended. */
typedef enum td_daemon { TD_DAEMON_INHERIT = 0, TD_DAEMON_YES = 1, TD_DAEMON_NO = 2 } td_daemon;

#define TD_NAME_MAX 64 /* bytes, with the final NUL; `ps -L` and `top -H` show the first 15 */

/* Everything is copied by td_thread and td_process. All zero is the default. */
typedef struct td_worker_options {
    size_t struct_size TD_ZERO; /* filled in by the macros */
    td_target *target TD_ZERO;  /* needed */
    td_value args TD_ZERO;      /* TD_ARG, TD_VAL, TD_STR, TD_BYTES, TD_SHARED */
    const char *name TD_ZERO;   /* default "Thread-1", "Process-1", counting up */
    td_daemon daemon TD_ZERO;   /* default: as the creating worker; the main thread is none */
    td_method method TD_ZERO;   /* processes only */
    size_t stack_size TD_ZERO;  /* bytes, threads only; default: the system's; at least 32 KiB */
    /* TD_CONNECTIONS(a, b), duplicated here; the target has them by td_call_connection. Close your own when you have no
     * use for them, or the other side will not see the end. */
    td_connections connections TD_ZERO;
} td_worker_options;

/*
 * Creates a worker without starting it; NULL on failure: TD_EINVAL (no target, a name too long or empty, a method
 * unknown or given for a thread, a stack too small, a connection that is NULL or closed), TD_ENOMEM, TD_ETOOBIG,
 * TD_EDESCRIPTOR. Free it with td_free. Does not block.
 * Python: Thread(target=..., args=..., name=..., daemon=...), Process(...).
 */
TD_API td_worker *td_worker_create(td_worker_kind kind, const td_worker_options *options);

#ifdef __cplusplus
}
inline td_worker *td_worker_create_from(td_worker_kind kind, const td_worker_options &options)
{
    return td_worker_create(kind, &options);
}
#define TD_WORKER_NEW(kind, ...) \
    td_worker_create_from(kind, td_worker_options{ .struct_size = sizeof(td_worker_options), __VA_ARGS__ })
extern "C" {
#else
#define TD_WORKER_NEW(kind, ...) \
    td_worker_create(kind, &(td_worker_options){ .struct_size = sizeof(td_worker_options), __VA_ARGS__ })
#endif

#define td_thread(...)  TD_WORKER_NEW(TD_THREAD, __VA_ARGS__)
#define td_process(...) TD_WORKER_NEW(TD_PROCESS, __VA_ARGS__)

/*
 * Starts the worker. Once only: again is TD_ESTATE. After a failure that was not TD_ESTATE it may be tried again.
 * A process gets the standard streams, working directory, environment, umask, limits, nice value and affinity that
 * the caller has at this moment, an empty signal mask, and the signal dispositions the program was born with.
 * Errors: TD_ESTATE, TD_EINIT (a process before td_init), TD_EPROCESS, TD_EDESCRIPTOR, TD_ENOMEM, TD_ETARGET (the
 * target is in no loaded file; if the worker cannot load that file, it fails with this code), TD_ESPAWNER, TD_EACCESS,
 * TD_ESYSTEM, TD_EFORKED, TD_EUNSUPPORTED (a process, not by fork, in a program that runs with its file's rights, as
 * set-user-ID programs do). Blocks for as long as the system needs to start it; the first process start also starts the
 * spawner.
 */
TD_API int td_start(td_worker *worker);

/*
 * Waits until the worker has ended: its outcome is there, and what it wrote to stdio has been flushed. Any number of
 * threads may join, any number of times. td_join_for gives up after `limit` with TD_ETIMEOUT. The result is 0 however
 * the worker ended: ask td_outcome or td_result_code. Errors: TD_ESTATE (never started), TD_EDEADLOCK (itself).
 * Python: join(timeout).
 */
TD_API int td_join(td_worker *worker);
TD_API int td_join_for(td_worker *worker, td_time limit);

/*
 * Waits until all of the `count` workers of an array have ended, as td_join does for one; a worker may be there more
 * than once. The limit of td_join_all_for is one for all of them together: when it has passed and any has not ended, it
 * gives up with TD_ETIMEOUT. The result is 0 however they ended: ask each of them. None is freed. Before any is waited
 * for, all are looked at, and one that cannot be joined is an error: TD_EINVAL (no array), TD_ESTATE (one was never
 * started, or could not be), TD_EDEADLOCK (the caller itself), TD_EUNSUPPORTED (td_parent and the like), TD_EFORKED, of
 * a NULL among them the pending error; those that run do so still. 0 for no workers. Block; resume after signals. From
 * any thread, several at a time; the array must stay as it is meanwhile.
 * Python: a loop of join().
 */
TD_API int td_join_all(td_worker *const *workers, size_t count);
TD_API int td_join_all_for(td_worker *const *workers, size_t count, td_time limit);

/* Started and not ended? Does not block. False for NULL. Python: is_alive(). */
TD_API bool td_is_alive(const td_worker *worker);

/*
 * Ask a worker to stop. For a process: SIGTERM, SIGKILL, SIGINT. For a thread, terminate and interrupt set the flag
 * that td_cancelled() reads and fire what td_call_cancel() gives to waits, and kill is refused (TD_EUNSUPPORTED): no
 * thread can be stopped safely from outside. For a process, terminate and interrupt do that as well. 0 if it has ended
 * already. A process that dies of a signal sent here has the outcome TD_CANCELLED. Do not wait. Errors: TD_ESTATE
 * (never started), TD_EFORKED. Python: terminate(), kill(), interrupt().
 */
TD_API int td_terminate(td_worker *worker);
TD_API int td_kill(td_worker *worker);
TD_API int td_interrupt(td_worker *worker);

/*
 * td_close gives back what the worker holds in the system while the handle stays readable; TD_ESTATE if it is still
 * running. Python: close(). td_free(NULL) does nothing; of a running worker it lets go without waiting: the worker
 * runs on, and a non-daemon one still holds up the program's end. If the worker failed or crashed and nobody asked
 * for its outcome, result, code, exit code or description, the failure hook is told.
 */
TD_API int td_close(td_worker *worker);
TD_API void td_free(td_worker *worker);

/* Starts, joins and frees in one call. 0 if the target returned 0, its code if it failed, a negative td_code
 * if it crashed (TD_ECANCELLED when cancelled, else TD_EPROCESS) or could not be started. td_last_message() tells. */
TD_API int td_run(td_worker *worker);

typedef enum td_state {
    TD_CREATED = 0,
    TD_RUNNING = 1,
    TD_RETURNED = 2,  /* the target returned 0 */
    TD_FAILED = 3,    /* the target returned something else, or called td_fail */
    TD_CRASHED = 4,   /* ended by a signal, or exited without returning */
    TD_TIMED_OUT = 5, /* stopped by a time limit of the library */
    TD_CANCELLED = 6  /* stopped because it was asked to */
} td_state;

/* How the worker stands, or ended. TD_CREATED for NULL. Does not block. */
TD_API td_state td_outcome(td_worker *worker);

/* The word for a state: "created", "running", "returned", "failed", "crashed", "timed out", "cancelled". */
TD_API const char *td_state_name(td_state state);

/* What the target returned, the full int, the same for threads and processes. TD_NO_CODE if it did not return. */
#define TD_NO_CODE INT32_MIN
TD_API int td_result_code(td_worker *worker);

/* Python's exit code: 0 returned; 1..255 failed or exited with; -N killed by signal N; TD_NO_CODE (Python's None)
 * while it has not ended. A failure's code outside 1..255 gives its low eight bits, or 1 if those are zero. */
TD_API int td_exitcode(td_worker *worker);

/* One sentence about the worker: "worker 'resize' (pid 21992) killed by SIGSEGV". Of a failure, it holds the message;
 * of a start that failed, why. The string belongs to the worker; before it has ended, it is the calling thread's, until
 * its next such call; of NULL it is why that was not made, td_last_message. td_message says only why it did not return:
 * the message of td_fail, "killed by SIGSEGV", "exited with status 3 without returning", the failed start; ""
 * otherwise.
 */
TD_API const char *td_describe(td_worker *worker);
TD_API const char *td_message(td_worker *worker);

/*
 * The result of a worker that has ended. td_result(worker, type, &variable) copies it out: TD_ESTATE if it has not
 * ended or did not return one, TD_ETYPE if size or kind differ. The pointers belong to the worker, until td_free.
 */
TD_API int td_result_copy(td_worker *worker, void *to, size_t size, int kind);
#define td_result(worker, type, to) td_result_copy((worker), (1 ? (to) : (type *)0), sizeof(type), TD_KIND_OF(type))
TD_API const char *td_result_str(td_worker *worker);
TD_API void *td_result_shared(td_worker *worker); /* given by td_return_shared */
TD_API const void *td_result_bytes(td_worker *worker, size_t *size);

/* The name, never NULL. td_set_name is possible until the start; TD_ESTATE after it, TD_EINVAL, TD_ENOMEM. Python:
 * name.
 */
TD_API const char *td_name(const td_worker *worker);
TD_API int td_set_name(td_worker *worker, const char *name);

/* Daemon or not; td_set_daemon is possible until the start. Python: daemon. */
TD_API bool td_is_daemon(const td_worker *worker);
TD_API int td_set_daemon(td_worker *worker, bool daemon);

TD_API td_worker_kind td_kind_of(const td_worker *worker);

/* ident: of a thread a number unique among the living threads of its process, of a process its pid. native_id: the
 * kernel's thread id, of a process that of its main thread. pid: of a thread the process it lives in. 0 until started.
 */
TD_API uint64_t td_ident(const td_worker *worker);
TD_API pid_t td_native_id(const td_worker *worker);
TD_API pid_t td_pid(const td_worker *worker);

/*
 * A descriptor that becomes readable (POLLIN) when the worker has ended; for a process, when it is gone from the
 * system, which can be a little after td_join returned. It belongs to the worker: do not close or read it. Made at the
 * first call. Negative: TD_ESTATE (never started), TD_EDESCRIPTOR. Python: sentinel.
 */
TD_API int td_sentinel(td_worker *worker);

/*
 * The worker that runs this code; in the main thread, the main worker of this process; in a thread that Tandem did not
 * start, a stand-in (a daemon that cannot be joined). NULL only without memory. Borrowed: not to be freed.
 * td_parent: in a worker process, the process that started it, NULL elsewhere. Python: current_thread,
 * current_process, main_thread, parent_process.
 */
TD_API td_worker *td_current(void);
TD_API td_worker *td_main(void);
TD_API td_worker *td_parent(void);

/*
 * td_enumerate fills `workers` with at most `capacity` living workers of this process, the main one first and threads
 * that Tandem did not start left out; td_active_children with its living worker processes. Both return how many there
 * are, which may be more than the capacity. Each one filled in must be given back with td_free.
 * td_active_count: how many td_enumerate would find. Python: threading.enumerate (which counts threads only),
 * multiprocessing.active_children, threading.active_count.
 */
TD_API size_t td_enumerate(td_worker **workers, size_t capacity);
TD_API size_t td_active_children(td_worker **workers, size_t capacity);
TD_API size_t td_active_count(void);

/* --- failures that nobody asked about ---------------------------------------------------------------------- */

typedef struct td_failure {
    const char *name; /* the worker's */
    td_worker_kind kind;
    pid_t pid;
    td_state outcome;
    int exitcode;
    const char *message;  /* as td_message gives it */
    const char *sentence; /* what the default hook prints */
} td_failure;

/*
 * Called when a worker that failed or crashed is freed, or the program ends, without anybody having asked how it
 * ended; on the thread that freed it. If it was freed while it ran: a thread calls the hook itself when it ends; of a
 * process, whoever starts the next worker or ends the program. The default prints the sentence to stderr; NULL restores
 * it. Returns the one before. Python: threading.excepthook.
 */
typedef void td_failure_hook(const td_failure *failure);
TD_API td_failure_hook *td_set_failure_hook(td_failure_hook *hook);

#ifdef __cplusplus
}
#endif

#endif
