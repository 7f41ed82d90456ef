/* SPDX-License-Identifier: MIT */
/*
 * How those who want a read-write lock spin before they line up: for about as long as it takes to wake an idle
 * processor (see td__spin_looks, which everybody else uses), giving theirs away every now and then, for who has the
 * lock may need it. Once in line, everything goes in order, from sleep to sleep: with more threads than processors that
 * is a hundred times slower, so it is put off. With one processor it does nothing but give it away.
 */
#ifndef TD_SYNC_SPIN_H
#define TD_SYNC_SPIN_H

#include "os/os.h"

typedef struct td__spin {
    uint32_t rounds;
} td__spin;

#define TD__SPIN_ROUNDS 16
#define TD__SPIN_PAUSES 64

/* One round; false: enough, sleep. */
static inline bool td__spin_more(td__spin *spin)
{
    if (spin->rounds >= TD__SPIN_ROUNDS)
        return false;
    spin->rounds++;
    if (td__cpu_count() > 1)
        for (int i = 0; i < TD__SPIN_PAUSES; i++)
            td__relax();
    if (spin->rounds % 4 == 0 || td__cpu_count() == 1)
        td__yield();
    return true;
}

/* As long as td__spin_more in all, but a single pause at a time: for what another processor does in a fraction of a
 * microsecond. */
static inline bool td__spin_closely(td__spin *spin)
{
    if (td__cpu_count() == 1)
        return td__spin_more(spin);
    if (spin->rounds >= TD__SPIN_ROUNDS * TD__SPIN_PAUSES)
        return false;
    spin->rounds++;
    td__relax();
    if (spin->rounds % (4 * TD__SPIN_PAUSES) == 0)
        td__yield();
    return true;
}

#endif
