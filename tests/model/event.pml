/* SPDX-License-Identifier: MIT */
/*
 * The event (src/sync/event.c): its word, sleeping and waking as the kernel does it, and a death of the setter.
 *
 * Without -DSEARCH: when WAITERS have begun to wait, a setter sets the event and clears it at once; nobody may be left
 * asleep (an invalid end state). Another setter does the same at any time.
 * With -DSEARCH: a consumer clears the event, searches, and waits if it finds nothing; a producer, whose stores go into a
 * buffer, adds work and sets the event, which is set already at first. The consumer must find the work.
 *
 * By -D: WAITERS, SEARCH, KILL (the setter may die at any step). Controls, which must be found wrong: NO_COUNT (who waits
 * looks at the set bit only), NO_MARK (sleeps without saying so), NO_REPAIR (with KILL), NO_FENCE (with SEARCH).
 */
#ifndef WAITERS
#define WAITERS 3
#endif

bool is_set = false, mark = false;
byte count = 0;
bool asleep[WAITERS + 1];
byte begun = 0;

/* In the kernel: all. */
inline wake_all()
{
    asleep[0] = false;
    asleep[1] = false;
#if WAITERS > 1
    asleep[2] = false;
#endif
#if WAITERS > 2
    asleep[3] = false
#endif
}

inline change()
{
    was = mark && !is_set;
    if
    :: !is_set -> is_set = true; mark = false; count++
    :: else
    fi
}

inline set()
{
    d_step { change() };
    if
    :: was -> d_step { wake_all() }
    :: else
    fi
}

#ifdef NO_COUNT
#define HAPPENED (is_set)
#else
#define HAPPENED (is_set || count != first)
#endif

/* Announces, by a compare-and-swap; sleeps on what it has announced. */
inline wait(i)
{
    do
    :: atomic {
            if
            :: HAPPENED -> break
            :: else ->
                seen_count = count;
#ifndef NO_MARK
                mark = true
#endif
            fi
        };
        d_step { asleep[i] = (!is_set && count == seen_count
#ifndef NO_MARK
                && mark
#endif
            ) };
        !asleep[i]
    od
}

#ifndef SEARCH
active [WAITERS] proctype waiter()
{
    byte i = _pid + 1, first = 0, seen_count = 0;
    bool seen_set = false;
    d_step { first = count; seen_set = is_set; begun++ };
    if
    :: seen_set
    :: else -> wait(i)
    fi
}

bool killed = false, changed = false;

active proctype setter()
{
    bool was = false;
    begun == WAITERS;
    {
        d_step { change(); changed = true };
        if
        :: was -> d_step { wake_all() }
        :: else
        fi;
        is_set = false /* clear */
    } unless {
        killed;
        /* Dead before it has changed anything: another one does it. Else the repair. */
        if
        :: !changed -> set()
        :: else ->
#ifndef NO_REPAIR
            d_step { wake_all() }
#else
            skip
#endif
        fi;
        is_set = false
    }
}

#ifdef KILL
active proctype killer()
{
    if
    :: killed = true
    :: skip
    fi
}
#else
active proctype another()
{
    bool was = false;
    if
    :: set(); is_set = false
    :: skip
    fi
}
#endif
#else
/* One unit of work: in memory, and in the producer's buffer. */
bool work = false, stored = false;

active proctype consumer()
{
    byte first = 0, seen_count = 0;
    bool seen_set = false;
    do
    :: is_set = false; /* a locked instruction, and a fence */
        if
        :: work -> break
        :: else ->
            d_step { first = count; seen_set = is_set };
            if
            :: seen_set
            :: else -> wait(0)
            fi
        fi
    od
}

active proctype producer()
{
    bool was = false;
    set(); /* for nothing */
    stored = true;
#ifndef NO_FENCE
    d_step { work = work || stored; stored = false };
#endif
    if
    :: is_set
    :: else ->
        d_step { work = work || stored; stored = false }; /* the locked instruction */
        set()
    fi
}

active proctype memory()
{
end:
    do
    :: d_step { stored -> work = true; stored = false }
    od
}
#endif
