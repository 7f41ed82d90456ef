/* SPDX-License-Identifier: MIT */
/*
 * The latch (src/sync/latch.h) on processors that put stores into a buffer, with barriers that the sleeper imposes on
 * all, with sleeping and waking as the kernel does it, and with one death at any step.
 *
 * Of the stores, only the quick release is not a locked instruction; so a buffer holds that one at most. It goes to
 * memory at any time, and at the latest when its processor executes a locked instruction or a system call, when it
 * dies, or when somebody makes all processors pass a barrier.
 *
 * Checked: no two owners; and no party is left asleep when all others are through (an invalid end state).
 *
 * By -D: THREADS, ROUNDS, MORE (rounds of the first one), KILL (one death), GIVE_UP (the second one waits with a limit), EXCHANGE (releases are swaps, and there are
 * no barriers). Controls, which must be found wrong: NO_BARRIER, NO_MARK, NO_GIVING_ON, NO_REPAIR, DIED_IS_HELD,
 * QUICK_CLEARS.
 */
#ifndef THREADS
#define THREADS 3
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif
#ifndef MORE
#define MORE 0
#endif

#define FREE     0
#define DIED     15
#define SLEEPERS 1

byte owner = FREE;    /* in memory */
byte contended = 0;   /* in memory */
bool stored[THREADS + 1];  /* in the buffer of a processor: owner = FREE */
bool asleep[THREADS + 1];
bool named[THREADS + 1];   /* the record names the latch */
bool killed[THREADS + 1];
byte inside = 0;
byte awake = THREADS; /* threads that have not ended */

#define drain(i)                \
    if                          \
    :: stored[i] ->             \
        owner = FREE;           \
        stored[i] = false       \
    :: else                     \
    fi

inline drain_all()
{
    byte at = 1;
    do
    :: at <= THREADS ->
        drain(at);
        at++
    :: else -> break
    od;
    at = 0
}

/* Any one of those who sleep. */
inline wake_one(i)
{
    atomic {
        drain(i);
        if
        :: asleep[1] -> asleep[1] = false
        :: asleep[2] -> asleep[2] = false
#if THREADS > 2
        :: asleep[3] -> asleep[3] = false
#endif
        :: !(asleep[1] || asleep[2]
#if THREADS > 2
             || asleep[3]
#endif
            ) -> skip
        fi
    }
}

inline try_free(i, got)
{
    d_step {
        drain(i);
        got = (owner == FREE);
        if
        :: got -> owner = i
        :: else
        fi
    }
}

/* A look, and a locked instruction if it seems free. */
inline take(i, got)
{
    d_step {
        got = (owner == FREE && !stored[i]) || (owner == DIED);
        got = got || stored[i];
        if
        :: got ->
            drain(i);
            owner = i
        :: else
        fi
    }
}

inline mark(i)
{
    if
    :: contended & SLEEPERS
    :: else ->
        d_step {
            drain(i);
            contended = contended | SLEEPERS
        }
    fi
}

inline acquire(i, got)
{
    try_free(i, got);
    do
    :: got -> break
    :: else ->
        /* spins, or does not */
        if
        :: take(i, got)
        :: skip
        fi;
        if
        :: got
        :: else ->
            mark(i);
#if !defined(NO_BARRIER) && !defined(EXCHANGE)
            d_step { drain_all() };
#endif
            take(i, got);
            if
            :: got
            :: else ->
                d_step {
                    seen_owner = (stored[i] -> FREE : owner);
                    seen_contended = contended
                };
                if
                :: seen_owner == FREE
#ifndef DIED_IS_HELD
                :: seen_owner == DIED
#endif
                :: !(seen_contended & SLEEPERS)
                :: else ->
                    /* In the kernel: sleeps, if the word is still the same. */
                    d_step {
                        drain(i);
                        asleep[i] = (owner == seen_owner && contended == seen_contended)
                    };
                    slept = true;
                    if
                    :: !asleep[i]
#ifdef GIVE_UP
                    :: d_step { (i == 2 && asleep[i]) -> asleep[i] = false };
                        take(i, got);
                        if
                        :: got
                        :: else ->
#ifndef NO_GIVING_ON
                            wake_one(i);
#endif
                            goto given_up
                        fi
                    /* Woken and at its limit at the same time: it cannot tell. */
                    :: (i == 2 && !asleep[i]) ->
                        take(i, got);
                        if
                        :: got
                        :: else ->
#ifndef NO_GIVING_ON
                            wake_one(i);
#endif
                            goto given_up
                        fi
#endif
                    fi
                fi
            fi
        fi
    od;
    if
    :: slept ->
#ifndef NO_MARK
        mark(i);
#endif
        slept = false
    :: else
    fi
}

inline release(i)
{
    if
#ifndef EXCHANGE
    :: contended == 0 ->
        stored[i] = true;
#ifdef QUICK_CLEARS
        /* As though the waker cleared `contended` after its release: the latch may be another's by then. */
        if
        :: contended != 0 -> d_step { drain(i); contended = 0; assert(owner == FREE) }; wake_one(i)
        :: else
        fi
#else
        if
        :: contended != 0 -> wake_one(i)
        :: else
        fi
#endif
    :: contended != 0 ->
#else
    ::
#endif
        d_step {
            drain(i);
            seen_contended = contended;
            owner = FREE;
            contended = 0
        };
        if
        :: seen_contended & SLEEPERS -> wake_one(i)
        :: else
        fi
    fi
}

active [THREADS] proctype party()
{
    byte i = _pid + 1, round = 0;
    byte seen_owner = 0, seen_contended = 0;
    bool got = false, slept = false;
    {
        do
        :: round < ROUNDS + (i == 1 -> MORE : 0) ->
            round++;
            named[i] = true;
            acquire(i, got);
            inside++;
            assert(inside == 1);
            inside--;
            got = false;
            release(i);
given_up:
            slept = false;
            named[i] = false
        :: else -> break
        od
    } unless {
        killed[i] ->
            d_step {
                /* The kernel lets go of it, and its stores are all done. */
                drain(i);
                asleep[i] = false;
                if
                :: owner == i -> inside = 0
                :: else
                fi
            }
            /* The repair. */
            if
            :: named[i] ->
                d_step {
                    if
                    :: owner == i -> owner = DIED
                    :: else
                    fi
                }
#ifndef NO_REPAIR
                wake_one(i);
#endif
            :: else
            fi
    }
}

/* The buffers empty themselves, when they like. */
active proctype memory()
{
end:
    do
    :: d_step { stored[1] -> owner = FREE; stored[1] = false }
    :: d_step { stored[2] -> owner = FREE; stored[2] = false }
#if THREADS > 2
    :: d_step { stored[3] -> owner = FREE; stored[3] = false }
#endif
    od
}

#ifdef KILL
active proctype killer()
{
    if
    :: killed[1] = true
    :: killed[2] = true
    :: skip
    fi
}
#endif
