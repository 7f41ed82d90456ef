/* SPDX-License-Identifier: MIT */
/*
 * The region: the memory that all processes of a program share, at the same address in each, so that pointers into it
 * mean the same everywhere. It begins with this header, then the parties (party.h), then the arena, from which the
 * layer above allocates.
 *
 *   header | entries of the parties | records of the parties | arena
 *
 * td_init makes it, as one memory file without a name; the spawner maps it before its first worker; forked children
 * inherit it. In a program that has not called td_init it is made at first use, of this process's own memory, and
 * holds the parties only: then nothing is shared. If td_init comes after that, the region stays where it is, and what
 * it holds is carried over into the file (td_init is to come before other threads; one that changes its record in these
 * microseconds would lose that).
 *
 * Its address space is reserved whole; pages come by td__region_populate before they are touched, so that running out
 * of memory is an error and never a signal.
 */
#ifndef TD_SYNC_REGION_H
#define TD_SYNC_REGION_H

#include "os/os.h"

#define TD__REGION_MAGIC   0x4e4f4947455254ull /* "TREGION" */
#define TD__REGION_ENTRIES 4096                /* offset of the entries; before it, the header */
#define TD__PARTY_BYTES    4096
#define TD__PARTIES        65534 /* indexes 1 to 65533: 0 is nobody, 65535 a dead one */

typedef struct td__region {
    /* Fixed before another process attaches. */
    uint64_t magic, base, size;
    uint64_t records, arena; /* offsets */
    uint32_t parties;        /* how many there can be, index 0 included */
    uint32_t by_exchange;    /* no process releases a latch by a plain store, see latch.h */

    _Atomic uint32_t party_top;          /* no party with this index or above has been used yet */
    _Atomic uint32_t serial;             /* the last number given to an attached thread */
    _Alignas(4) unsigned char repair[4]; /* the latch of who repairs */
    _Atomic uint32_t deaths;             /* see TD__DEATHS_PENDING in party.h */

    /* The allocator's own, see memory/: all zero at first. */
    _Alignas(64) unsigned char allocator[2048];
} td__region;
_Static_assert(sizeof(td__region) <= TD__REGION_ENTRIES, "the header has room");

/* Written once, before there is a second thread that could use them, or under the lock of region.c. */
extern td__region *td__the_region; /* NULL: none yet */
extern uintptr_t td__shared_base;  /* where it is, */
extern size_t td__shared_size;     /* 0 while nothing is shared */
extern int td__region_file;        /* or -1 */
extern int td__arrivals; /* an event descriptor, signalled by parties that ask the program to watch them; or -1 */

/* Is this address in memory that the processes of the program share? */
static inline bool td__is_shared(const volatile void *at)
{
    return (uintptr_t)at - td__shared_base < td__shared_size;
}

/* Called when this process gets its shared region, before td__shared_size says so: for the layer above. */
extern void (*td__region_hook)(td__region *region);

/* By td_init in the main process: 0, or -1 with errno. Again: nothing. Both register the process for latches. */
int td__region_create(void);

/* In a spawner, with the file of the program that started it; false: it cannot be mapped at that address. */
bool td__region_attach(int file);

/* The region of this process, made private if there is none yet; NULL: no memory. */
td__region *td__region_get(void);

/* Around a fork; what stands between them must not ask for the region. */
void td__region_before_fork(void);
void td__region_after_fork(void);

/* Makes sure that these bytes have pages. -1 with errno: there is no memory for them. */
int td__region_populate(void *at, size_t size);

#endif
