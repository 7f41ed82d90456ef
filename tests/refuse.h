/* SPDX-License-Identifier: MIT */
/* System calls that the kernel refuses, as sandboxes do: by a filter. */
#ifndef TANDEM_TESTS_REFUSE_H
#define TANDEM_TESTS_REFUSE_H

#include "harness.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* From now on, to the calling thread and to what it starts: the call, if the lower half of this argument is as large as
 * that. False: it may not have filters. */
static inline bool try_refuse_above(long call, int argument, uint32_t least, int error)
{
    size_t at = offsetof(struct seccomp_data, args) + (size_t)argument * sizeof(uint64_t);
    if (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__)
        at += sizeof(uint32_t);
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)at),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, least, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof filter / sizeof *filter, filter };
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static inline void refuse_above(long call, int argument, uint32_t least, int error)
{
    if (!try_refuse_above(call, argument, least, error))
        _exit(EXIT_WORKER);
}

static inline bool try_refuse(long call, int error)
{
    return try_refuse_above(call, 0, 0, error);
}

static inline void refuse(long call, int error)
{
    refuse_above(call, 0, 0, error);
}

/* The barriers that plain releases rely on. Also for helper_options.before. */
static inline void refuse_barriers(void *unused)
{
    (void)unused;
    refuse(SYS_membarrier, EPERM);
}

#endif
