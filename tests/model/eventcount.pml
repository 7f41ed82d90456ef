/* SPDX-License-Identifier: MIT */
/*
 * Sleeping on a queue (src/queue/sleep.c): the event count with its bit and its number of sleepers, sleeping and waking as
 * the kernel does it, and a death of a producer or a consumer at any step. What a producer stores goes into a buffer of
 * its processor, so it can load the word before others see its item; locked instructions, fences, the sleeper's barrier
 * and a death empty it. The word `fences` is asked for by a sleeper, relied on after his barrier, and taken away by
 * producers when they like.
 *
 * Each of CONSUMERS takes ROUNDS items, and PRODUCERS put as many together. Checked: when nothing moves any more, nobody
 * sleeps while there is an item.
 *
 * By -D: CONSUMERS, PRODUCERS, ROUNDS, GIVE_UP (the first consumer waits with a limit), KILL (one death, of the last
 * consumer or the first producer). Controls, which must be found wrong: NO_BARRIER, NO_COUNT (who was woken does not
 * look whether others sleep), NO_MARK_AGAIN (does not set the bit for them), NO_PASSING_ON, GIVE_UP_BLINDLY (with
 * GIVE_UP), NO_REPAIR (with KILL); RELY_EARLY (from the asking on, with KILL), RELY_BLINDLY (whatever has become of the
 * asking), LOOK_FIRST (a producer looks for `fences` before his change), CLEAR_LATE (takes it away by a store, which the
 * others see later), MARK_LATE (a sleeper looks for `fences` before he sets his bit).
 */
#ifndef CONSUMERS
#define CONSUMERS 2
#endif
#ifndef PRODUCERS
#define PRODUCERS 2
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif
#define ITEMS (CONSUMERS * ROUNDS)

byte items = 0;              /* that everybody sees */
bool buffered[PRODUCERS];    /* one that only its producer sees */
byte to_put = ITEMS;
byte generation = 0;         /* the word: this */
bool mark = false;            /* and this */
#define NONE   0
#define ASKED  1
#define RELIED 2
byte fences = NONE, asked_by = 0;
bool clear[PRODUCERS];       /* in its buffer, before the item */
byte sleepers = 0;
bool asleep[CONSUMERS], finished[CONSUMERS];
bool killed = false, dead_consumer = false, dead_producer = false, repaired = false;

#define EMPTY_BUFFER(p)                                                        \
    if                                                                         \
    :: clear[p] -> clear[p] = false; fences = NONE                             \
    :: else                                                                    \
    fi;                                                                        \
    if                                                                         \
    :: buffered[p] -> buffered[p] = false; items++                             \
    :: else                                                                    \
    fi

/* One of those who sleep, any of them. */
inline kernel_wakes_one()
{
    atomic {
        if
        :: asleep[0] -> asleep[0] = false
#if CONSUMERS > 1
        :: asleep[1] -> asleep[1] = false
#endif
#if CONSUMERS > 2
        :: asleep[2] -> asleep[2] = false
#endif
        :: else
        fi
    }
}

/* What a processor has in its buffer it sees itself. */
#define SEES_FENCES(p) (fences != NONE && !clear[p])

proctype producer(byte me)
{
    bool pass;
    do
    :: atomic { to_put > 0 -> to_put--;
              if
              :: buffered[me] -> EMPTY_BUFFER(me)
              :: else
              fi;
              pass = SEES_FENCES(me);
#ifdef LOOK_FIRST
       };
       atomic {
#endif
       buffered[me] = true };
#ifndef LOOK_FIRST
       pass = SEES_FENCES(me);
#endif
       if
       :: pass ->
           atomic { EMPTY_BUFFER(me) };
           if
#ifdef CLEAR_LATE
           :: clear[me] = true
#else
           :: atomic { fences = NONE }
#endif
           :: skip
           fi
       :: else
       fi;
#ifdef KILL
       if
       :: atomic { me == 0 && !killed -> killed = true; dead_producer = true }; goto end
       :: skip
       fi;
#endif
       if
       :: mark ->
           atomic { EMPTY_BUFFER(me);
                    if
                    :: mark -> mark = false; generation++
                    :: else -> goto next
                    fi };
#ifdef KILL
           if
           :: atomic { me == 0 && !killed -> killed = true; dead_producer = true }; goto end
           :: skip
           fi;
#endif
           kernel_wakes_one()
       :: else
       fi;
next:  skip
    :: to_put == 0 -> break
    od;
end: skip
}

/* The processors write out what is in their buffers when they like. */
proctype processors()
{
end_idle:
    do
    :: atomic { buffered[0] || clear[0] -> EMPTY_BUFFER(0) }
#if PRODUCERS > 1
    :: atomic { buffered[1] || clear[1] -> EMPTY_BUFFER(1) }
#endif
    od
}

#ifdef KILL
#define DIE                                                                    \
    if                                                                         \
    :: atomic { me == CONSUMERS - 1 && !killed -> killed = true; dead_consumer = true }; goto end \
    :: skip                                                                    \
    fi
#else
#define DIE skip
#endif

#ifdef NO_BARRIER
#define BARRIER skip
#elif PRODUCERS > 1
#define BARRIER atomic { EMPTY_BUFFER(0); EMPTY_BUFFER(1) }
#else
#define BARRIER atomic { EMPTY_BUFFER(0) }
#endif

/* Two steps as it is two words: the bit first, then `fences`. */
#ifdef MARK_LATE
#define SET_MARK relied = fences == RELIED; DIE; atomic { mark = true; seen = generation }
#else
#define SET_MARK atomic { mark = true; seen = generation }; DIE; relied = fences == RELIED
#endif

#ifdef RELY_EARLY
#define ASK atomic { fences = RELIED; asked_by = me }
#else
#define ASK atomic { fences = ASKED; asked_by = me }
#endif

#ifdef RELY_BLINDLY
#define RELY fences = RELIED
#else
#define RELY                                                                   \
    atomic {                                                                   \
        if                                                                     \
        :: fences == ASKED && asked_by == me -> fences = RELIED                \
        :: else                                                                \
        fi                                                                     \
    }
#endif

#define ANNOUNCE                                                               \
    SET_MARK;                                                                  \
    DIE;                                                                       \
    if                                                                         \
    :: relied                                                                  \
    :: else -> ASK; DIE; BARRIER; DIE; RELY                                    \
    fi

#define ATTEMPT                                                                \
    atomic {                                                                   \
        if                                                                     \
        :: items > 0 -> items--; got = true                                    \
        :: else                                                                \
        fi                                                                     \
    }

proctype consumer(byte me)
{
    byte round, seen;
    bool got, others, slept, given_up, relied;
    do
    :: round < ROUNDS ->
        got = false;
        slept = false;
        others = false;
        ATTEMPT;
        if
        :: got -> goto next
        :: else
        fi;
again:  sleepers++;
        DIE;
        ANNOUNCE;
        DIE;
        ATTEMPT;
        if
        :: got || given_up -> atomic { others = sleepers > 1; sleepers-- }; goto out
        :: else
        fi;
        DIE;
        atomic { if
                 :: generation == seen && mark -> asleep[me] = true
                 :: else
                 fi };
end_asleep:
        if
        :: !asleep[me]
#ifdef GIVE_UP
        :: atomic { me == 0 -> asleep[me] = false; given_up = true }
#endif
        fi;
        DIE;
        slept = true;
        atomic { others = sleepers > 1; sleepers-- };
        DIE;
        if
        :: !given_up -> ATTEMPT
        :: else
        fi;
        if
        :: !got -> goto again
        :: else
        fi;
out:    DIE;
#ifdef NO_COUNT
        others = false;
#endif
#ifndef NO_MARK_AGAIN
        if
        :: slept && others -> ANNOUNCE
        :: else
        fi;
        DIE;
#endif
        if
#ifdef GIVE_UP_BLINDLY
        :: false
#else
        :: given_up
#endif
#ifndef NO_PASSING_ON
        :: !given_up && others && items > 0
#endif
        :: else -> goto next
        fi;
        atomic { if
                 :: mark -> mark = false; generation++
                 :: else -> goto next
                 fi };
        DIE;
        kernel_wakes_one();
next:   round++;
        if
        :: given_up -> break
        :: else
        fi
    :: else -> break
    od;
    finished[me] = true;
end: skip
}

/* The dead one's step was open: everybody is woken, to look again. A consumer's number stays. */
proctype repair()
{
    byte i;
end_idle:
    if
    :: atomic { dead_consumer -> asleep[CONSUMERS - 1] = false }
    :: atomic { dead_producer -> EMPTY_BUFFER(0) }
    fi;
#ifndef NO_REPAIR
    generation++;
    atomic {
        i = 0;
        do
        :: i < CONSUMERS -> asleep[i] = false; i++
        :: else -> break
        od
    };
#endif
    repaired = true
}

init {
    byte i;
    atomic {
        i = 0;
        do
        :: i < PRODUCERS -> run producer(i); i++
        :: else -> break
        od;
        i = 0;
        do
        :: i < CONSUMERS -> run consumer(i); i++
        :: else -> break
        od;
        run processors();
        run repair()
    };
    timeout;
    atomic {
        i = 0;
        do
        :: i < CONSUMERS -> assert(finished[i] || (dead_consumer && i == CONSUMERS - 1) || items == 0); i++
        :: else -> break
        od
    }
}
