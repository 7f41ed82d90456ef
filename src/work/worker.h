/* SPDX-License-Identifier: MIT */
/* clang-format off */
/*
 * A worker's handle, and what the files of this layer offer each other:
 *   worker.c    the public calls            call.c      what a target sees
 *   thread.c    workers on threads          process.c   workers in processes, as their starter sees them
 *   forked.c    the fork method             registry.c  the living workers
 *   launch.c    starting a spawner          spawner.c   what it does
 *   task.c      its workers                 publish.c   their end
 *   watcher.c   deaths of spawners and of forked workers
 *   module.c    functions across an exec    program.c   init, finish, forks by the user
 */
/* clang-format on */
#ifndef TD_WORK_WORKER_H
#define TD_WORK_WORKER_H

#include <setjmp.h>
#include <tandem.h>
#include "os/os.h"
#include "queue/connection.h"
#include "sync/lock.h"
#include "work/segment.h"

/* Where a worker is in its life. STARTING keeps a second start out. */
enum { TD__CREATED = 0, TD__STARTING = 1, TD__STARTED = 2, TD__COLLECTED = 3 };

/* Who joins the thread: pthread_join works once. AWAITED is JOINING, and others sleep until it is over. */
enum { TD__UNJOINED = 0, TD__JOINING = 1, TD__JOINED = 2, TD__AWAITED = 3 };

#define TD__STACK_UNIT 4096

struct td__spawner;
struct td__fork_record;

/* What there is to say about a worker, most of which have nothing to say: see td__worker_say. */
typedef struct td__text {
    char message[TD_MESSAGE_MAX];
    char sentence[TD_MESSAGE_MAX + TD_NAME_MAX + 96]; /* what td_describe made of it; under the worker's lock */
} td__text;

/* There may be thousands, each beside a thread that costs 8 KiB: small types, and nothing in it that few workers need.
 * Argument and name follow in the same block. */
struct td_worker {
    /* One for each handle the user holds, one while the worker runs. The last one frees. */
    _Atomic uint32_t references;
    uint32_t epoch;            /* fixed: which forked child (program.c) it belongs to */
    _Atomic uint32_t phase;    /* TD__CREATED ...; release by whoever moves it on, acquire by readers of what follows */
    td__lock lock;             /* guards `sentinel`, and what is said to be under it */
    _Atomic uint32_t stopping; /* the signals that td_kill and the like sent, as bits */
    _Atomic int32_t native_id; /* 0 until known */
    _Atomic int32_t pid;
    int sentinel; /* descriptor or -1 */

    uint8_t kind;          /* fixed: a td_worker_kind */
    uint8_t method;        /* fixed: a td_method */
    bool stand_in;         /* fixed: a thread that Tandem did not start, or a main thread */
    bool daemon;           /* until the start */
    uint8_t arg_kind;      /* fixed */
    uint8_t list;          /* under the registry's lock, as the links: 0 in none, 1 living, 2 ended and not freed */
    _Atomic uint8_t asked; /* somebody has looked at the outcome */
    _Atomic uint8_t told;  /* the failure hook has been told */

    /* The outcome: written once before phase becomes TD__COLLECTED (release), read after (acquire). */
    uint8_t outcome; /* a td_state */
    uint8_t signal;
    uint8_t result_kind;
    uint8_t connection_count;
    int code, exitcode;
    uint32_t result_size;
    uint32_t arg_size; /* fixed; both are at most TD_VALUE_MAX */
    void *result;
    _Atomic(td__text *) text; /* NULL: nothing. Set with release: its contents */

    td_target *target; /* fixed */
    char *name;        /* until the start; behind the argument, or a block of TD_NAME_MAX bytes of its own */
    td_worker *previous, *next;

    union {
        struct {                      /* a thread */
            pthread_t thread;         /* of the started thread */
            _Atomic uint32_t joining; /* futex: TD__UNJOINED ... */
            _Atomic uint32_t cancel;  /* what td_cancelled reads */
            uint32_t stack_units;     /* fixed; of TD__STACK_UNIT bytes; 0: the system's */
            _Atomic uint8_t timed;    /* somebody waits with a time limit */
        };
        struct {                                     /* a process; all under lock */
            union {                                  /* by `method`; not NULL while there is a slot */
                struct td__spawner *spawner;         /* forkserver: referenced until collected */
                struct td__fork_record *fork_record; /* TD_FORK: owned until collected */
            };
            td__slot *slot;
            uint32_t slot_index;
            uint32_t pins : 31;    /* threads inside a wait on the slot */
            uint32_t lingered : 1; /* somebody has waited awake for its end */
        };
    };

    /* Duplicates: until the start has succeeded, of a thread until its target has returned. NULL: none. */
    td_connection **connections;

    _Alignas(16) unsigned char arg[];
};

/* --- call.c ------------------------------------------------------------------------------------------------ */

struct td_call {
    const void *arg;
    size_t arg_size;
    int arg_kind;
    const char *name;
    const _Atomic uint32_t *cancel;
    td_connection *const *connections; /* lent */
    size_t connection_count;
    void *result; /* allocated */
    size_t result_size;
    int result_kind;
    int failed; /* of td_fail, or 0 */
    char message[TD_MESSAGE_MAX];
    jmp_buf leave; /* where a mismatch of kinds goes */
};

/* Before it runs: all but `leave`, which needs nothing. */
void td__call_prepare(td_call *call, const void *arg, size_t arg_size, int arg_kind, const char *name,
                      const _Atomic uint32_t *cancel);

/* Runs the target to its end. Returns TD_RETURNED, TD_FAILED or TD_CANCELLED, and the code. */
td_state td__call_run(td_call *call, td_target *target, int *code);

/* --- program.c --------------------------------------------------------------------------------------------- */

enum { TD__ROLE_MAIN = 0, TD__ROLE_SPAWNER = 1, TD__ROLE_WORKER = 2 };

typedef struct td__program {
    bool initialized;
    pid_t pid; /* of this process: from td__program_ready on, kept right over forks */
    int role;
    uint32_t epoch; /* grows in each child that the program forks itself */
    td_init_options options;
    uint64_t born_ignored;
    int argc;
    char **argv;
    /* in a worker process */
    td__segment *segment;
    uint64_t file_size; /* the segment's */
    td__slot *slot;
    uint32_t slot_index;
} td__program;
extern td__program td__the;

/*
 * Starts and td_finish exclude each other: a start that comes while the program finishes waits for that
 * and then begins anew; td_finish waits for starts under way.
 */
void td__gate_enter(void);
void td__gate_leave(void);

/* Registers the fork handlers and the end of the program, once. */
void td__program_ready(void);

/* A worker process's end: joins its non-daemon workers, ends its daemons, flushes stdio. 0, or the errno of the flush.
 */
int td__program_end_worker(void);

/* In a worker process, before its target: exit() there ends it without the exit handlers that were registered before,
 * which are the program's. */
void td__program_guard_exit(void);

/* The main worker of this process, set anew in a worker process. */
void td__main_reset(const char *name, bool daemon, const char *parents_name, pid_t parent_pid);
bool td__is_kept(const td_worker *worker); /* the main worker or its parent: never freed */
extern _Thread_local td_worker *td__self;

/* --- worker.c ---------------------------------------------------------------------------------------------- */

void td__worker_unref(td_worker *worker);
void td__worker_close_connections(td_worker *worker);
void td__worker_ref(td_worker *worker);
/* Keeps a copy of the message ("" for none) of an outcome or a failed start. Cannot fail: without memory for it, what
 * is kept says so. By whoever is about to move the phase on. */
void td__worker_say(td_worker *worker, const char *message);
/* Tells the failure hook if it failed and nobody asked; once. */
void td__worker_tell(td_worker *worker);
void td__hook_forget(void);                      /* in a forked child: nobody is inside it */
bool td__worker_untold(const td_worker *worker); /* has it anything to tell? */
int td__exitcode_of(int code);
/* "<prefix>-<number>", counting up, and its length; to has TD_NAME_MAX bytes. */
size_t td__next_name(const char *prefix, td_worker_kind kind, char *to);

/* For waiting.c: 0 or the code of why nobody can wait for its end; as td__thing_prepare, td__thing_done. */
int td__worker_waitable(td_worker *worker, const char *call);
bool td__worker_prepare(td_worker *worker, td__futex_item *item);
void td__worker_prepared_done(td_worker *worker);

/* --- registry.c -------------------------------------------------------------------------------------------- */

void td__registry_add(td_worker *worker);
void td__registry_remove(td_worker *worker);
/*
 * By a thread that ends: it gives up its reference and the list's. True: nobody else has any. Then the worker stays as
 * it is, in the list, so that the program's end waits for the thread while it tells, and this is called again; `told`:
 * it has been told, and is the caller's to free.
 */
bool td__registry_leave(td_worker *worker, bool told);
/* The first living worker that passes the test, referenced, or NULL. The test runs under the lock. */
typedef bool td__worker_test(const td_worker *worker);
td_worker *td__registry_find(td__worker_test *test);
size_t td__registry_list(td_worker **workers, size_t capacity, td__worker_test *test);
void td__registry_lock(void);
void td__registry_unlock(void);
void td__registry_forget(void);            /* in a forked child: all workers were the parent's */
void td__registry_abandon(void);           /* in a worker of the spawner, without the lock: those of .prepare */
void td__registry_drop(td_worker *worker); /* its handle is about to be freed */
/* Tells the failure hook of all workers that have ended and that nobody asked about. */
void td__registry_tell_all(void);

/* --- thread.c ---------------------------------------------------------------------------------------------- */

int td__thread_start(td_worker *worker);
int td__thread_wait(td_worker *worker, int64_t deadline);
void td__thread_last_reference(td_worker *worker);

/* --- process.c --------------------------------------------------------------------------------------------- */

int td__process_start(td_worker *worker);
int td__process_wait(td_worker *worker, int64_t deadline);
bool td__process_ended(td_worker *worker);       /* collects it if so */
bool td__process_lives(const td_worker *worker); /* only looks */
int td__process_signal(td_worker *worker, int signal);
int td__process_sentinel(td_worker *worker);
void td__process_let_go(td_worker *worker); /* before the handle is freed */

bool td__process_prepare(td_worker *worker, td__futex_item *item);
void td__process_prepared_done(td_worker *worker);

/* Fails with the sentence "cannot start worker 'name': stage: reason (the limit that was hit)"; returns the code. */
int td__start_failed(const td_worker *worker, const char *stage, int error);

/* --- publish.c --------------------------------------------------------------------------------------------- */

/* Room for a result that does not fit into the slot; NULL with errno on failure. */
typedef void *td__room(void *context, uint64_t size);

/* Ends a worker process with this outcome; `call` (may be NULL) has the result. */
_Noreturn void td__publish(td__slot *slot, td_state state, int code, const char *message, const td_call *call,
                           td__room *room, void *context);

/* --- forked.c ---------------------------------------------------------------------------------------------- */

int td__forked_start(td_worker *worker);
void td__forked_release(struct td__fork_record *record);
const td__death *td__forked_death(const struct td__fork_record *record); /* once TD__ENDED is set */
pid_t td__forked_pid(const struct td__fork_record *record);
const void *td__forked_window(const struct td__fork_record *record, uint64_t size); /* NULL: the size cannot be */

#endif
