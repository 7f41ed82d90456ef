/* SPDX-License-Identifier: MIT */
/*
 * How long to spin before sleeping. Waking an idle processor takes 35 to 50 us on virtual machines, a hand-off between
 * two that spin 0.1 us: so who waits spins about as long as a wake-up takes, and so is never worse than twice the best.
 * It gives its processor away every now and then, for who shall come may need it: a bare spin is ruinous as soon as
 * threads outnumber processors. With one processor it does nothing but that.
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
