/* SPDX-License-Identifier: MIT */
/*
 * All that the library asks of the operating system: the one seam, with Linux behind it (os/linux). Nothing above
 * may make a system call, allocate or read a clock in any other way. Calls that can fail return -1 (or NULL)
 * with errno set, resume after signals, and can be made to fail by os/fault.h.
 */
#ifndef TD_OS_OS_H
#define TD_OS_OS_H

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>
#include "base/base.h"
#include "os/fault.h"

/* --- memory ------------------------------------------------------------------------------------------------ */

void *td__alloc(size_t size);       /* zeroed, aligned for every type; NULL when out of memory */
void *td__alloc_unset(size_t size); /* not zeroed; both may be freed by the libc's free() */
void td__release(void *block);      /* NULL is allowed */

/* An anonymous shared file of `size` bytes that cannot be shrunk, grown or resealed; close-on-exec. */
int td__memory_file(const char *name, uint64_t size);
bool td__is_memory_file(int fd, uint64_t *size); /* made by td__memory_file, still sealed? */
void *td__map_shared(int fd, uint64_t offset, size_t size);
void *td__map_reading(int fd, size_t size);
void *td__map_private(size_t size); /* zeroed pages of our own */
void *
td__map_with_children(size_t size);      /* zeroed pages shared with processes forked from now on; td__populate first */
int td__populate(void *at, size_t size); /* pages now, so that touching them cannot fail */
void *td__map_uncopied(size_t size);     /* the same, and not there in forked children */
/* The n-th address where a program of the usual kind has nothing mapped for a long way; 0: no more. */
uintptr_t td__free_place(int n);
/* At this address or not at all (NULL, EEXIST); fd negative: zeroed pages of our own. Left out of core dumps. */
void *td__map_at(uintptr_t at, int fd, size_t size);
/* Puts a file in the place of pages of our own, which hold the same bytes: -1 if not, with all as it was. */
int td__map_over(void *at, int fd, size_t size);
void td__unmap(void *at, size_t size);
int td__reserve(int fd, uint64_t offset, uint64_t size); /* pages now, so that touching them cannot fail */
void td__punch(int fd, uint64_t offset, uint64_t size);  /* gives pages back; cannot fail */
uint64_t td__memory_file_used(int fd);                   /* bytes that have pages; 0 if that cannot be known */
/* How much memory the system, and the control groups above us, still have to give; UINT64_MAX if that cannot be known.
 */
uint64_t td__memory_available(void);
/* The groups alone: those that a text like /proc/self/cgroup names, below `root`, of either version. */
uint64_t td__memory_left_in_groups(const char *membership, const char *root);
size_t td__page_size(void);

/* --- time and sleeping ------------------------------------------------------------------------------------- */

/* Monotonic, in ns, never 0. */
int64_t td__now(void);

/* A deadline from a relative limit: 0 for no limit. Saturates. */
int64_t td__deadline(td_time limit);

/*
 * Sleeps while *word == expected, until woken, the deadline (monotonic ns, 0: none) or a spurious wake-up.
 * 0, or -1 with errno EAGAIN (the word differed), EINTR, or ETIMEDOUT. The caller looks at its word again in every
 * case but ETIMEDOUT. `shared`: other processes use the word too.
 */
int td__futex_wait(const _Atomic uint32_t *word, uint32_t expected, int64_t deadline, bool shared);

/*
 * The same on several words: sleeps while all of them have their expected values. 0 when woken; else -1 as above, or
 * with ENOSYS where the kernel has no such call (the caller then sleeps on one of them, for a short time).
 */
#define TD__FUTEX_MANY 128
typedef struct td__futex_item {
    const _Atomic uint32_t *word;
    uint32_t expected;
    bool shared;
} td__futex_item;
int td__futex_wait_many(const td__futex_item *items, size_t count, int64_t deadline);

/* Wakes up to `n`. The word's memory may be gone by then: it is only an address. */
int td__futex_wake(const _Atomic uint32_t *word, int n, bool shared); /* how many were woken */

/* --- threads ----------------------------------------------------------------------------------------------- */

int td__thread_create(pthread_t *thread, size_t stack_size, void *(*run)(void *), void *arg);

/* 0, or an error number. */
int td__thread_join(pthread_t thread);
void td__thread_name(const char *name); /* of the calling thread, cut to 15 bytes */
pid_t td__thread_id(void);
size_t td__stack_minimum(void);
void td__yield(void);
unsigned td__cpu(void);                 /* the one that the caller runs on; it may be another one by now */
unsigned td__cpu_count(void);           /* those that the program might run on when it was loaded, at least 1 */
void td__cpu_count_set(unsigned count); /* in its processes: who started them may have bound himself since */

/*
 * The expensive half of an asymmetric fence: after td__barrier_others() all running threads (of this process; `shared`:
 * of all processes that registered so) have passed a full memory barrier, so that those who use the other half need
 * only keep the compiler from reordering. Registering is cheap while there is one thread. false: the kernel refuses.
 */
bool td__barrier_register(bool shared);
bool td__barrier_others(bool shared);

/* In a spinning loop: tells the processor. */
static inline void td__relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#else
    __asm__ volatile("" ::: "memory");
#endif
}

/* --- descriptors ------------------------------------------------------------------------------------------- */

/* All descriptors made here close on exec and have numbers above 2. */
int td__above_streams(int fd); /* the same descriptor, so numbered */
void td__close(int fd);        /* negative: nothing */
/* A copy that closes on exec, numbered `from` or above. */
int td__dup_from(int fd, int from);
int td__dup_to(int fd, int to);            /* without close-on-exec */
void td__close_range(int first, int last); /* last -1: all above */
/* All but `but`; those whose numbers follow each other by one call. */
void td__close_many(const int *fds, size_t count, int but);
int td__event_fd(unsigned initial);
void td__event_fd_signal(int fd);
void td__event_fd_clear(int fd);
int td__open_path(const char *path); /* a directory, for td__chdir_fd only */
int td__chdir_fd(int fd);
void td__chdir_root(void); /* so as to hold no other directory; where that cannot be, stays */
bool td__is_open(int fd);
int td__close_on_exec(int fd);
ssize_t td__read_file(const char *path, char *buffer, size_t size);
ssize_t td__read_at(int fd, char *buffer, size_t size);
ssize_t td__read_from(int fd, char *buffer, size_t size, uint64_t offset);
int td__write_at(int fd, const void *data, size_t size); /* all of it, at the beginning; 0 or -1 */
int td__open_read(const char *path);

int td__life_pipe(int fds[2]); /* for td__follow: what can name its reading end can open it anew, whatever the user */
int td__pipe(int fds[2]);      /* [0] the end to read from, [1] the one to write to */

/* A connected pair that keeps message borders; both ends close on exec. */
int td__socket_pair(int fds[2]);

#define TD__MESSAGE_FDS 24
/* Sends one message with descriptors; blocks while the receiver is behind. EPIPE when it is gone. */
int td__send(int socket, const void *data, size_t size, const int *fds, size_t fd_count);

/* Receives one message. *fd_count: in the room in fds, out the number received (all close on exec): 0 if this process
 * had no numbers left for all of them. Returns its size, 0 at the end of the stream. `wait` false: EAGAIN if there is
 * none. */
ssize_t td__receive(int socket, void *data, size_t size, int *fds, size_t *fd_count, bool wait);

/* The same with a message in parts. `wait` false: EAGAIN instead of blocking. td__receive_parts: *lost (may be NULL)
 * says that descriptors came but that there were no numbers for them. The size returned is the message's own, and more
 * than the room if that was too small; what was too much is gone. */
int td__send_parts(int socket, const struct iovec *parts, size_t count, const int *fds, size_t fd_count, bool wait);
ssize_t td__receive_parts(int socket, const struct iovec *parts, size_t count, int *fds, size_t *fd_count, bool wait,
                          bool *lost);
void td__socket_enlarge(int socket, int bytes); /* what it may hold unread; as far as the system lets us */
void td__socket_shut(int socket, bool reading, bool writing);
bool td__is_packet_socket(int fd); /* such as td__socket_pair makes? */
bool td__is_own_socket(int fd);    /* of a pair that was made with our effective user and group? */

/* A connected pair that keeps no message borders. Neither call raises SIGPIPE. td__stream_send does not wait: EAGAIN.
 */
int td__stream_pair(int fds[2]);
int td__stream_send(int socket, const char *bytes, size_t size);
ssize_t td__stream_receive(int socket, char *bytes, size_t size, bool wait);

/* Waits until a descriptor can be read (or written), or is hung up. 1, 0 at the deadline. */
int td__wait_ready(int fd, bool writing, int64_t deadline);

/* Waits until one of the descriptors (negative ones are skipped) is readable or hung up; ready[i] tells. The number of
 * ready ones, 0 at the deadline. */
#define TD__POLL_MAX 1024
int td__poll(const int *fds, bool *ready, size_t count, int64_t deadline);

int td__flush_all(void); /* all of stdio's output; 0 or an error number */

/* --- signals ----------------------------------------------------------------------------------------------- */

void td__signals_block(sigset_t *before);       /* all of them, of this thread */
void td__signals_block_users(sigset_t *before); /* but the libc's own, by which it reaches all threads (setuid) */
void td__signals_restore(const sigset_t *mask);
void td__signals_clear(void); /* unblock all */

/* Sets of signals as bits: signal n is bit n - 1. */
#define TD__SIGNAL_BIT(number) ((uint64_t)1 << ((number)-1))

/* Default dispositions for all signals but those in `ignored`, which are ignored. */
void td__signals_reset(uint64_t ignored);
uint64_t td__signals_ignored(void); /* those ignored now */
void td__signals_drop(void);        /* those that are blocked and pending */
/* For the spawner while it runs the program's code, which may unblock them: it lives through Ctrl-C, Ctrl-Z and the
 * like. */
void td__signals_ignore_terminal(void);
void td__signal_ignore(int number, bool ignore); /* else the default */
int td__signal_fd_child(void);                   /* readable when a child has ended; SIGCHLD must be blocked */
void td__signal_fd_clear(int fd);
const char *td__signal_name(int number, char buffer[24]); /* "SIGSEGV" */

/* --- processes --------------------------------------------------------------------------------------------- */

pid_t td__getpid(void);
pid_t td__getppid(void);
bool td__is_secure(void);         /* executed with rights that its starter had not: set-user-ID and the like */
bool td__exec_gives_rights(void); /* would td__exec_self's process get some from its file? for a sentence only */
int td__pid_fd(pid_t pid);
int td__pid_fd_kill(int pid_fd, int signal);
void td__kill(pid_t pid, int signal);
bool td__pid_exists(pid_t pid); /* also dead, as long as nobody has reaped it */
pid_t td__fork(void);           /* the libc's fork: its locks and ours are in order in the child */
void td__exit_now(int code) __attribute__((noreturn)); /* no handlers, no flushing */

typedef struct td__death {
    pid_t pid;
    bool signaled;
    int number; /* exit status or signal */
} td__death;

/* The calling process dies with its parent `parent`; false if that one is gone already. */
bool td__die_with_parent(pid_t parent);

/*
 * The calling process is killed by the kernel as soon as the last writing end of this pipe is closed: when the process
 * that holds it ends or executes another program, also while we are stopped, and after a change of user. A descriptor
 * that must stay open for it. Needs /proc. Does not return if that has happened already.
 */
int td__follow(int pipe_end);

/* The same in steps, for many children of one process: a directory of that process's descriptors, which costs less to
 * open from than their own, which is made anew for each; a descriptor out of it (-1: of the caller's own), opened anew;
 * and following that: it is closed on failure, and -1 is passed on. */
int td__descriptors(void);
int td__reopen(int directory, int fd);
int td__follow_opened(int own);

/* Looks for an ended child without reaping it: 1 found, 0 none has ended, -1 there are no children. */
int td__child_ended(td__death *death);
void td__child_reap(pid_t pid);

/*
 * Starts this program anew as a process that the caller's wait() and SIGCHLD never meet, and whose descriptors are
 * those in `keep` (made numbers 3, 4, ... in that order) and the standard error; input and output are /dev/null.
 * All other descriptors are closed there. Works with any number of threads, whatever memory is in use, and leaves the
 * caller's signals alone. On success the new process's pid and a descriptor for it; -1 with errno, and *stage says
 * what failed. `holder`: see os/linux/exec.c.
 */
typedef struct td__exec {
    char *const *argv;
    char *const *environment;
    const int *keep;
    size_t keep_count;
    uid_t user, real_user; /* set by td__exec_self; the new process has the effective ones only */
    gid_t group, real_group;
    /* results */
    pid_t pid;
    int pid_fd;
    const char *stage;
    pid_t holder; /* 0, or the process between us and the new one: td__holder_reap it after that one has ended */
    void *holder_stack;
} td__exec;
int td__exec_self(td__exec *request);

/* Would an orphan come back to this process, or to a program whose worker it is (which sets the variable)? */
extern bool td__reaper_above;
bool td__orphans_stay(void);

/* Waits until the holder has ended and gives its stack back. */
void td__holder_reap(pid_t holder, void *stack);

/*
 * fork(), with all its memory, of a child that wait() and SIGCHLD do not meet. A holder process, which shares our
 * memory and is the child's parent, writes the child's end to `ended`. Returns the child's pid in the parent; in the
 * child 0, with all signals blocked, and the holder as its parent. td__fork_reap after holder_fd has become readable.
 */
typedef struct td__forked {
    /* given; they live as long as the holder */
    td__death *death;       /* written first, */
    _Atomic uint32_t *done; /* then gets this bit, and those who sleep on it (shared) are woken */
    uint32_t done_bit;
    /* results */
    pid_t pid;
    pid_t holder;  /* also known in the child */
    int holder_fd; /* readable when the holder has ended: after its child, or killed before that */
    void *stack;
} td__forked;
int td__fork_hidden(td__forked *forked, const int life[2]); /* life: a pipe of ours, which the holder follows */
void td__fork_reap(td__forked *forked);

/* --- what a process inherits ------------------------------------------------------------------------------- */

int td__nice_get(void);
int td__nice_set(int nice);
#define TD__CPU_BYTES 128
size_t td__affinity_get(void *mask); /* bytes written, at most TD__CPU_BYTES; 0: unknown */
int td__affinity_set(const void *mask, size_t size);
#define TD__LIMITS 16
typedef struct td__limit {
    uint64_t soft, hard;
} td__limit;
void td__limits_get(td__limit limits[TD__LIMITS]);
int td__limit_set(int which, td__limit limit);
void td__limit_raise(int which); /* as far as it may be */
const char *td__limit_name(int which);
int td__umask_set(int mask);
/* The limit that keeps a crash from dumping core, also into a pipe; false if `wanted` (all zero: the present one) does.
 */
bool td__limit_without_core(td__limit *wanted);
#define TD__LIMIT_CORE   4 /* RLIMIT_CORE, RLIMIT_NPROC, ... in the kernel's numbers */
#define TD__LIMIT_NPROC  6
#define TD__LIMIT_NOFILE 7
#define TD__LIMIT_FSIZE  1

/*
 * Who the calling thread is: user, groups, capabilities, sandbox, namespaces, cgroup and root directory, as a hash to
 * be compared; its capabilities and its umask. -1: /proc cannot be read.
 */
typedef struct td__capabilities {
    uint64_t inheritable, permitted, effective;
} td__capabilities;
typedef struct td__identity {
    uint64_t hash;
    td__capabilities capabilities;
    int umask;
} td__identity;
int td__identity_get(td__identity *identity);
void td__identity_forget(void); /* closes what it keeps open to be quick on the main thread */

/* The absolute name of the file that is mapped at an address. */
int td__file_at(const void *address, char *path, size_t size);
int td__capabilities_set(const td__capabilities *wanted);

#endif
