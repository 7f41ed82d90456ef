/* SPDX-License-Identifier: MIT */
/*
 * Flushing all of stdio, as each worker process does at its end, most of them without having used it. The libc's own
 * way costs a new process three pages for the first time; whether there is anything to flush is seen without that.
 */
#include "os/os.h"

#include <errno.h>
#include <stdio.h>

#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 32)
#include <sys/single_threaded.h>

/* The libc's list of all streams: an exported name as old as its ABI, and the members are in its public headers, for
 * the macros of old. Weak, should it go one day. */
extern FILE *_IO_list_all __attribute__((weak));

/* False also if that cannot be known: other threads may be at work on the list, and wide streams hide their buffers. */
static bool nothing_buffered(void)
{
    if (!&_IO_list_all || !__libc_single_threaded)
        return false;
    for (const FILE *stream = _IO_list_all; stream; stream = stream->_chain)
        if (stream->_IO_write_ptr > stream->_IO_write_base || stream->_IO_read_ptr < stream->_IO_read_end ||
            stream->_mode > 0)
            return false;
    return true;
}
#else
static bool nothing_buffered(void)
{
    return false;
}
#endif

int td__flush_all(void)
{
    return nothing_buffered() || fflush(NULL) == 0 ? 0 : errno;
}
