/* SPDX-License-Identifier: MIT */
/*
 * A spawner, as the processes see it that ask it for workers: the main process, and workers that start workers.
 *
 * The current spawner is the one that new workers come from. If the starter's user, namespaces, cgroup, root directory
 * or sandbox are no longer those it was started with, it is retired (it ends after its last worker) and another one is
 * started in its place.
 */
#ifndef TD_WORK_SPAWNER_H
#define TD_WORK_SPAWNER_H

#include "sync/lock.h"
#include "work/segment.h"

typedef struct td__spawner {
    _Atomic uint32_t references; /* one as a member of the watcher's list, one a worker, one while current */
    td__segment *segment;
    uint64_t file_size; /* these three are copies, made before the first worker could write */
    td__module *modules;
    uint32_t module_count;
    int file;                  /* the segment's */
    int control;               /* to the spawner */
    int lanes[TD__SPARES_MAX]; /* to its spares; none in workers */
    uint32_t lane_count;
    int pid_fd; /* of the spawner; -1 in workers, which die with it */
    pid_t pid;
    pid_t holder;
    void *holder_stack;
    uint64_t identity; /* of the thread that started it */
    char *environment; /* what it was started with: strings in a row */
    size_t environment_size;
    bool environment_differs; /* it has changed its own meanwhile, in a constructor or in .prepare */
    _Atomic uint32_t dead;    /* set by the watcher */
    _Atomic uint32_t apart;   /* the last starter and its worker ran on different processors */
    bool inherited;           /* in a worker: the one it came from */
    td__lock losing;          /* held by who marks the slots of a dead one */
} td__spawner;

/* --- launch.c ---------------------------------------------------------------------------------------------- */

/* The current spawner for a starter of this identity, referenced; started if need be. NULL: the thread's error is set.
 */
td__spawner *td__spawner_get(const td__identity *identity, const char *for_whom);
/* The current one, referenced, whoever asks; NULL if there is none. */
td__spawner *td__spawner_current(void);
void td__spawner_unref(td__spawner *spawner);

/* Ends all of them, with what is left of their workers, and waits until they are gone. */
void td__spawners_finish(void);
void td__spawners_forget(void);                                        /* in a forked child */
void td__spawner_inherit(td__segment *segment, int file, int control); /* in the spawner, for its workers */

/* A pipe that this process holds both ends of, as long as it has processes: the spawner and the holders of forked
 * workers follow it, so that they end with this process, and when it executes another program. NULL with errno on
 * failure. */
const int *td__life(void);
void td__life_end(void); /* all that follow it are killed, and the next call makes another */

/* The strings of an environment in a row, as they are now: their number and size; copied if there is room. */
size_t td__environment_flatten(char *to, size_t room, uint32_t *count);
uint64_t td__environment_hash(const char *flat, size_t size);
bool td__environment_is(const char *flat, size_t size);

/* Marks every worker of a dead spawner as gone. */
void td__spawner_lost(td__spawner *spawner);

/* By who has taken a slot: if the spawner is dead, which may have been seen to before the slot was taken, nobody else
 * will mark it. */
void td__spawner_lost_worker(td__spawner *spawner, uint32_t index);

#define TD__MARKER "TANDEM_SPAWNER"

/* --- spawner.c, task.c ------------------------------------------------------------------------------------- */

/* Called by td_init: if this process was started as a spawner, takes that role and does not return. */
void td__spawner_role(void);

/* In the spawner, before its first worker: makes what all of them would make, and has the dynamic linker find what they
 * call. */
void td__task_prepare(void);

/* In a worker process that has no work yet: makes all preparations that need none, and touches what will be needed. */
void td__task_rehearse(td__segment *segment, int file, uint32_t index);

/* In a worker process: takes up the work in the slot, with the descriptors that came with the message, and ends. */
_Noreturn void td__task_run(td__segment *segment, int file, uint32_t index, const td__message *message, const int *fds,
                            size_t fd_count);

/* --- watcher.c --------------------------------------------------------------------------------------------- */

/* The thread that waits for the deaths of spawners and of workers made by the fork method. */
int td__watch_spawner(td__spawner *spawner);
struct td__fork_record;
int td__watch_fork(struct td__fork_record *record);
/* In the program's main process, before it forks: its children, and theirs, may share objects with it, and are watched
 * as soon as they do. Elsewhere: nothing. */
void td__watch_strays(void);
void td__watcher_stop(void);   /* ends all spawners, and the thread when nothing is watched any more */
void td__watcher_forget(void); /* in a forked child */

/* Of forked.c: the descriptor that tells the end of its process, and what is to be done then. */
int td__fork_record_fd(const struct td__fork_record *record);
void td__fork_record_ended(struct td__fork_record *record);
void td__fork_record_forget(struct td__fork_record *record);
void td__fork_records_forget(void); /* in a forked child */

#endif
