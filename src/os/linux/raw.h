/* SPDX-License-Identifier: MIT */
/*
 * System calls that touch neither errno nor any other thread-local data, and a clone whose child runs on a stack of its
 * own: for code that runs as another process in our memory (exec.c, fork.c), on the thread data of a thread that
 * may be running, or gone; and for what every worker process calls: the libc's wrappers are far apart, and each page
 * that a new process touches for the first time costs it more than the call.
 */
#ifndef TD_OS_LINUX_RAW_H
#define TD_OS_LINUX_RAW_H

#include <errno.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__clang__)
#define TD__UNWATCHED __attribute__((disable_sanitizer_instrumentation))
#else
#define TD__UNWATCHED __attribute__((no_sanitize("address", "thread", "undefined")))
#endif
#define TD__NO_SANITIZE TD__UNWATCHED __attribute__((noinline, no_stack_protector))

#if defined(__x86_64__)
static inline TD__UNWATCHED long td__raw(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

/* run(arg) in the child, on `stack_top`, then exit. Returns the pid or -errno. */
static inline TD__UNWATCHED long td__raw_clone(unsigned long flags, void *stack_top, int *parent_tid,
                                               void (*run)(void *), void *arg)
{
    long result;
    void **top = (void **)((uintptr_t)stack_top & ~(uintptr_t)15);
    *--top = arg;
    *--top = (void *)(uintptr_t)run;
    register long r10 __asm__("r10") = 0;
    register long r8 __asm__("r8") = 0;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "pop %%rax\n\t"
                     "pop %%rdi\n\t"
                     "call *%%rax\n\t"
                     "mov $60, %%eax\n\t" /* exit(0) */
                     "xor %%edi, %%edi\n\t"
                     "syscall\n\t"
                     "hlt\n\t"
                     "1:"
                     : "=a"(result)
                     : "a"((long)SYS_clone), "D"(flags), "S"(top), "d"(parent_tid), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory", "cc");
    return result;
}
#elif defined(__aarch64__)
static inline TD__UNWATCHED long td__raw(long number, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory", "cc");
    return x0;
}

static inline TD__UNWATCHED long td__raw_clone(unsigned long flags, void *stack_top, int *parent_tid,
                                               void (*run)(void *), void *arg)
{
    void **top = (void **)((uintptr_t)stack_top & ~(uintptr_t)15);
    *--top = arg;
    *--top = (void *)(uintptr_t)run;
    register long x8 __asm__("x8") = SYS_clone;
    register long x0 __asm__("x0") = (long)flags;
    register long x1 __asm__("x1") = (long)top;
    register long x2 __asm__("x2") = (long)parent_tid;
    register long x3 __asm__("x3") = 0;
    register long x4 __asm__("x4") = 0;
    __asm__ volatile("svc 0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, xzr\n\t"
                     "ldp x1, x0, [sp], #16\n\t"
                     "blr x1\n\t"
                     "mov x8, #93\n\t" /* exit(0) */
                     "mov x0, xzr\n\t"
                     "svc 0\n\t"
                     "1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4)
                     : "memory", "cc");
    return x0;
}
#else
#error "Tandem knows x86-64 and AArch64: add this machine's system call and clone here"
#endif

/* As the libc's wrappers give it. */
static inline long td__result(long raw)
{
    if (raw >= 0 || raw < -4095)
        return raw;
    errno = (int)-raw;
    return -1;
}

#define td__raw0(n)                td__raw((n), 0, 0, 0, 0, 0, 0)
#define td__raw1(n, a)             td__raw((n), (long)(a), 0, 0, 0, 0, 0)
#define td__raw2(n, a, b)          td__raw((n), (long)(a), (long)(b), 0, 0, 0, 0)
#define td__raw3(n, a, b, c)       td__raw((n), (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define td__raw4(n, a, b, c, d)    td__raw((n), (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define td__raw5(n, a, b, c, d, e) td__raw((n), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

#endif
