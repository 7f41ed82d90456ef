/* SPDX-License-Identifier: MIT */
/*
 * The condition (src/sync/condition.c): waiters on a list, notified in a section, woken when the lock is released; limits;
 * and one death, of a waiter inside its wait or of the notifier between the section and the waking, with its repair.
 *
 * The lock and the sections are taken as they are (latch.pml has them): a section is one step, since a death inside undoes
 * it. Sleeping is as the kernel does it: on a word that is compared once more, and grows with every waking.
 *
 * One notifier hands out a token for each waiter but the one that may give up, each with one notification. Checked: nobody is left asleep (an invalid
 * end state), and no token is taken that is not there.
 *
 * By -D: WAITERS, LIMIT (the last waiter may give up, and takes no token), KILL (one death). Controls, which must be found wrong:
 * RELEASE_FIRST (the lock is released before the list is joined), NO_COMPARE (the sleeper does not compare), NO_PASS_ON
 * (what a dead waiter was granted is lost), NO_POKE (the repair wakes nobody), BLIND (who gives up does not look whether
 * it has been notified).
 */
#ifndef WAITERS
#define WAITERS 2
#endif
#define NOTIFIER (WAITERS + 1)
#define FREE     0
#define DIED     15

byte lock = FREE;
byte tokens = 0;
#ifdef LIMIT
byte missing = WAITERS - 1; /* tokens that are still to be handed out: none for the one that may give up */
#else
byte missing = WAITERS;
#endif
chan list = [WAITERS] of { byte };
bool linked[WAITERS + 3], granted[WAITERS + 3], waits[WAITERS + 3]; /* waits: until the grant has been used */
bool flag[WAITERS + 3], sleeping[WAITERS + 3];
byte wake[WAITERS + 3];
bool mortal[WAITERS + 3], dead[WAITERS + 3];

#define acquire(i) \
    atomic { (lock == FREE || lock == DIED) -> died = (lock == DIED); lock = i }
#define release(i) atomic { assert(lock == i); lock = FREE }

#define poke(who)                    \
    wake[who]++;                     \
    if                               \
    :: flag[who] -> sleeping[who] = false \
    :: else                          \
    fi

/* In a section: the first one, if there is one. */
inline grant_first(who)
{
    if
    :: nempty(list) ->
        list?who;
        linked[who] = false;
        granted[who] = true
    :: empty(list) -> who = 0
    fi
}

/* Who is told of a death hands out what is missing, and notifies all. */
inline inherit(who)
{
    if
    :: died ->
        tokens = tokens + missing;
        missing = 0;
        do
        :: nempty(list) ->
            atomic { grant_first(who) };
            poke(who)
        :: empty(list) -> break
        od;
        died = false
    :: else
    fi
}

proctype waiter(byte i)
{
    byte seen, who;
    bool died, gave_up;
    {
        acquire(i);
        inherit(who);
        do
        :: tokens > 0 -> break
        :: else ->
#ifdef RELEASE_FIRST
            release(i);
#endif
            mortal[i] = true;
            atomic {
                granted[i] = false;
                waits[i] = true;
                list!i;
                linked[i] = true
            };
#ifndef RELEASE_FIRST
            release(i);
#endif
            gave_up = false;
            do
            :: granted[i] -> break
            :: else ->
                flag[i] = true;
                seen = wake[i];
                if
                :: granted[i] -> break
                :: else
                fi;
                atomic {
                    if
#ifndef NO_COMPARE
                    :: wake[i] != seen
#endif
                    :: else -> sleeping[i] = true
                    fi
                };
                if
                :: !sleeping[i]
#ifdef LIMIT
                :: i == WAITERS ->
                    sleeping[i] = false;
                    atomic {
#ifndef BLIND
                        if
                        :: granted[i]
                        :: else ->
#else
                        if
                        :: granted[i] -> granted[i] = false; gave_up = true
                        :: else ->
#endif
                            list??eval(i);
                            linked[i] = false;
                            waits[i] = false;
                            gave_up = true
                        fi
                    };
                    break
#endif
                fi
            od;
            flag[i] = false;
            acquire(i);
            d_step {
                waits[i] = false;
                granted[i] = false;
                mortal[i] = false
            };
            inherit(who);
            if
            :: gave_up -> break
            :: else
            fi
        od;
        who = 0;
        if
        :: gave_up
#ifdef LIMIT
        :: !gave_up && i == WAITERS -> /* wants none, and notifies the next in its place */
            atomic { grant_first(who) }
#endif
        :: else ->
            assert(tokens > 0);
            tokens--
        fi;
        release(i);
        if
        :: who -> poke(who)
        :: else
        fi
    }
    unless
    {
        dead[i]
    }
}

proctype notifier(byte i)
{
    byte who;
    bool died;
    {
        do
        :: missing == 0 -> break
        :: else ->
            acquire(i);
            inherit(who);
            if
            :: missing == 0 -> release(i)
            :: else ->
                d_step {
                    tokens++;
                    missing--
                };
                who = 0;
                if
                :: nempty(list) -> /* the one load */
                    atomic {
                        grant_first(who);
                        mortal[i] = (who != 0)
                    }
                :: empty(list)
                fi;
                release(i);
                if
                :: who -> poke(who)
                :: else
                fi;
                mortal[i] = false
            fi
        od
    }
    unless
    {
        dead[i]
    }
}

#ifdef KILL
/* One dies where it may; the watcher repairs. */
proctype watcher()
{
    byte victim = 1, who, at = 1;
    do
    :: victim < NOTIFIER -> victim++
    :: break
    od;
end:
    atomic {
        mortal[victim] -> dead[victim] = true
    };
    atomic {
        if
        :: linked[victim] ->
            list??eval(victim);
            linked[victim] = false
#ifndef NO_PASS_ON
        :: !linked[victim] && waits[victim] && granted[victim] -> grant_first(who)
#endif
        :: else
        fi;
        waits[victim] = false
    };
    if
    :: lock == victim -> lock = DIED
    :: else
    fi;
#ifndef NO_POKE
    do
    :: at <= WAITERS ->
        poke(at);
        at++
    :: else -> break
    od;
#endif
    if
    :: victim == NOTIFIER -> /* another takes its place, and hands out the rest */
        run notifier(NOTIFIER + 1)
    :: else
    fi
}
#endif

init
{
    byte i = 1;
    atomic {
        do
        :: i <= WAITERS ->
            run waiter(i);
            i++
        :: else -> break
        od;
        run notifier(NOTIFIER);
#ifdef KILL
        run watcher()
#endif
    }
}
