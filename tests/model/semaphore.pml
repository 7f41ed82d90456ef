/* SPDX-License-Identifier: MIT */
/*
 * The semaphore's word (src/sync/semaphore.c): units and mark, sleeping and waking as the kernel does it, and with one
 * death at any step. All is one word, changed by locked instructions, so no processor sees its changes in another order.
 *
 * Each of TAKERS takes ROUNDS units; exactly as many are given, by one who gives two at a time, and one who gives one.
 * Checked: nobody is left asleep (an invalid end state). What a record names is named in the step that it is about,
 * where the code names it before that.
 *
 * By -D: TAKERS, ROUNDS, GIVE_UP (the first one waits with a limit), KILL (one death, of the first taker or a giver).
 * Controls, which must be found wrong: NO_PASSING_ON, NO_MARK_AGAIN, GIVE_UP_BLINDLY (with GIVE_UP), NO_REPAIR (with
 * KILL).
 */
#ifndef TAKERS
#define TAKERS 3
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif
#define ALL    (TAKERS * ROUNDS)

byte units = 0;
bool mark = false;
bool asleep[TAKERS + 1];
byte to_give = ALL;
bool waited;        /* the first taker's record names the word as one it waits for, */
bool waking[3];     /* a record names it as one whose sleepers are to be woken: the first taker's, the givers' */
bool killed[3];

/* As many of those who sleep as there are, any of them: one system call. */
inline wake(n)
{
    do
    :: n == 0 -> break
    :: n > 0 && asleep[1] -> asleep[1] = false; n--
    :: n > 0 && asleep[2] -> asleep[2] = false; n--
#if TAKERS > 2
    :: n > 0 && asleep[3] -> asleep[3] = false; n--
    :: n > 0 && !(asleep[1] || asleep[2] || asleep[3]) -> n = 0
#else
    :: n > 0 && !(asleep[1] || asleep[2]) -> n = 0
#endif
    od
}

active [TAKERS] proctype taker()
{
    byte i = _pid + 1, round = ROUNDS, n = 0;
    bool slept = false, limit = false;
    {
        skip;
take:
        atomic {
            if
            :: units == 0 -> goto announce
            :: else ->
#ifndef NO_PASSING_ON
                n = (slept && !mark -> units - 1 : 0);
#endif
                units--;
#ifndef NO_MARK_AGAIN
                mark = mark || slept;
#endif
                waking[0] = (i == 1 && n > 0) || waking[0]
            fi
        }
        if
        :: n > 0 -> atomic { wake(n); waking[0] = waking[0] && i != 1 }
        :: else
        fi;
        atomic {
            waited = waited && i != 1;
            slept = false;
            round--;
            if
            :: round > 0 -> goto take
            :: else -> goto through
            fi
        };
announce:
        atomic {
            if
            :: units > 0 -> goto take
            :: else ->
                mark = true;
                if
                :: limit -> goto through
                :: else
                fi
            fi
        };
        atomic {
            waited = waited || i == 1;
            asleep[i] = (units == 0 && mark)
        };
        atomic {
            if
            :: !asleep[i]
#ifdef GIVE_UP
            :: i == 1 -> asleep[i] = false; limit = true /* perhaps woken, too: it cannot tell */
#endif
            fi;
            slept = true;
#ifdef GIVE_UP_BLINDLY
            if
            :: limit -> goto through
            :: else
            fi;
#endif
            goto take
        };
through:
        waited = waited && i != 1
    } unless {
        atomic {
            i == 1 && killed[0];
            asleep[1] = false;
            n = 0;
#ifndef NO_REPAIR
            if
            :: waited -> n = 1
            :: else
            fi;
            if
            :: waking[0] -> n = TAKERS
            :: else
            fi;
            wake(n)
#endif
        }
    }
}

active [2] proctype giver()
{
    byte me = _pid - TAKERS + 1, n = 0;
    bool was = false;
    {
        do
        :: atomic {
                to_give > 0;
                n = (to_give > 1 && me == 1 -> 2 : 1);
                was = mark;
                units = units + n;
                to_give = to_give - n;
                mark = false;
                waking[me] = was
            };
            if
            :: was -> atomic { wake(n); waking[me] = false }
            :: else
            fi
        :: to_give == 0 -> break
        od
    } unless {
        atomic {
            killed[me];
#ifndef NO_REPAIR
            n = (waking[me] -> TAKERS : 0);
            wake(n)
#endif
        }
    }
}

#ifdef KILL
/* Of the first giver only: the other one gives what it has left. */
active proctype killer()
{
    if
    :: killed[0] = true
    :: killed[1] = true
    :: skip
    fi
}
#endif
