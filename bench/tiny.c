/* SPDX-License-Identifier: MIT */
/* The smallest program: what exec of anything costs at least. Linked -static, and -nostdlib where this knows how. */
#ifdef BENCH_TINY_NOSTDLIB
#if defined(__x86_64__)
__attribute__((naked, noreturn)) void _start(void)
{
    __asm__ volatile("mov $231, %eax\n\tmov $7, %edi\n\tsyscall"); /* exit_group(7) */
}
#elif defined(__aarch64__)
__attribute__((naked, noreturn)) void _start(void)
{
    __asm__ volatile("mov x8, #94\n\tmov x0, #7\n\tsvc #0");
}
#else
#error "no start code for this machine"
#endif
#else
int main(void)
{
    return 7;
}
#endif
