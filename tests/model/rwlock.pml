/* SPDX-License-Identifier: MIT */
/*
 * The read-write lock (src/sync/rwlock*.c) on processors that put stores into a buffer: its quick ways, the draining of
 * readers that stand in their records, the gate between them and the monitor, and one death at any step.
 *
 * Of the stores, two are no locked instructions, and are looked at by who has not the latch: a reader's leaving of its
 * place, and the number of counted readers when one leaves; so a buffer holds these at most. They go to memory at any
 * time, and at the latest when their processor executes a locked instruction, or enters the kernel, when it dies, or when
 * somebody makes all processors pass a barrier; and the number before the latch is let go, which is a later store. (Where
 * that is in the buffer, too, the reader goes on, but looks at nothing that matters before its next locked instruction.)
 * The sections are steps here, under a latch: that they hold wholly or not at all, section.pml shows. Closing the gate
 * comes before and opening it after that step, as it does in the code.
 *
 * Checked: nobody reads or works beside a writer; no party sleeps for ever (an invalid end state); a death is told if and
 * only if a writer died that was alone; at the end nothing is held.
 *
 * By -D: READERS, WRITERS, ROUNDS (of the readers), TWICE (the first reader asks again while it reads), COUNTED (a
 * reader that comes slowly may be counted, too), GIVE_UP (the first writer has a limit when it drains), KILL (one death),
 * EXCHANGE (the kernel refuses barriers: all readers are counted, and who leaves passes a fence before it looks).
 * Controls, which must be found wrong: NO_LOOK, PLAIN_PLACE, NO_BARRIER, LATE_SNAPSHOT, NO_COUNT, NO_DRAINS, COUNT_FIRST,
 * NO_POKE, DIED_DRAINING, NO_FENCE (with EXCHANGE).
 */
#ifndef READERS
#define READERS 2
#endif
#ifndef WRITERS
#define WRITERS 1
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif
#define ALL (READERS + WRITERS)

#define EMPTY 1 /* in a buffer: place = false */
#define FULL  2

/* The gate. */
byte writer = 0;
bool closed = false, by_record = false, drains = false, wants_poke = false;
/* Under the latch. */
byte latch = 0, readers = 0, queued = 0;
byte queue[ALL + 1];
bool died = false;

/* The records. */
bool place[ALL + 1];
byte stored[ALL + 1]; /* in the buffer of its processor */
bool late[ALL + 1];   /* the same: one reader less */
bool named[ALL + 1];  /* as a writer */
byte counted[ALL + 1];
bool granted[ALL + 1], is_listed[ALL + 1];
bool poked[ALL + 1];

bool told[ALL + 1];   /* of a death */
bool killed[ALL + 1];
bool inside[ALL + 1]; /* and is alive */
bool was_alone = false; /* the dead one */
byte ended = 0;

#define is_writer(i) (i > READERS)
#if READERS > 1
#define is_read (inside[1] || inside[2])
#else
#define is_read inside[1]
#endif
#if WRITERS > 1
#define is_written (inside[READERS + 1] || inside[READERS + 2])
#else
#define is_written inside[READERS + 1]
#endif
#define flush(i)                  \
    late[i] = false;              \
    if                            \
    :: stored[i] == EMPTY -> place[i] = false; stored[i] = 0 \
    :: stored[i] == FULL -> place[i] = true; stored[i] = 0   \
    :: else                       \
    fi
#if READERS > 1
#define seen_readers (readers + late[1] + late[2])
#else
#define seen_readers (readers + late[1])
#endif
#define sees_place(i, k) ((k == i && stored[k]) -> stored[k] == FULL : place[k])

inline flush_all()
{
    at = 1;
    do
    :: at <= ALL -> flush(at); at++
    :: else -> break
    od;
    at = 0
}

inline poke(i, k)
{
    d_step {
        flush(i);
        poked[k] = true
    }
}

inline poke_all(i)
{
    d_step {
        flush(i);
        at = 1;
        do
        :: at <= ALL -> poked[at] = true; at++
        :: else -> break
        od;
        at = 0
    }
}

/* --- sections ---------------------------------------------------------------------------------------------- */

inline enter(i)
{
    atomic { latch == 0 -> flush(i); latch = i }
    d_step {
        if
        :: !closed ->
            closed = true;
            if
            :: by_record ->
                by_record = false;
#ifndef NO_DRAINS
                drains = true
#endif
            :: else
            fi
        :: else
        fi
    }
}

inline let_in()
{
    do
    :: queued > 0 && writer == 0 && (!is_writer(queue[0]) || readers == 0) ->
        if
        :: is_writer(queue[0]) -> writer = queue[0]; told[queue[0]] = died; died = false
        :: else -> readers++
        fi;
        granted[queue[0]] = true;
        is_listed[queue[0]] = false;
        mask = mask | (1 << queue[0]);
        at = 0;
        do
        :: at + 1 < queued -> queue[at] = queue[at + 1]; at++
        :: else -> break
        od;
        queued--;
        queue[queued] = 0
    :: else -> break
    od;
    at = 0
}

#define open_gate()                                                        \
    if                                                                     \
    :: queued == 0 && writer == 0 && !died && closed ->                    \
        if                                                                 \
        :: drains || readers > 0 ->                                        \
            closed = false; drains = false; wants_poke = false; by_record = true \
        :: else -> closed = false; wants_poke = false                      \
        fi                                                                 \
    :: else                                                                \
    fi

inline leave(i)
{
#if defined(EXCHANGE) && !defined(NO_FENCE)
    d_step { flush(i) };
#endif
    d_step { seen = (wants_poke -> writer : 0) };
    d_step {
        open_gate();
        if
        :: !closed -> late[i] = false /* a store before this one */
        :: else
        fi
    };
    d_step { late[i] = false; latch = 0 };
    if
    :: seen -> poke(i, seen)
    :: else
    fi;
    seen = 0;
    k = 1;
    do
    :: k <= ALL ->
        if
        :: mask & (1 << k) -> poke(i, k)
        :: else
        fi;
        k++
    :: else -> break
    od;
    mask = 0;
    k = 0
}

/* Until something is granted: then inside the section. */
inline wait_on_list(i)
{
    do
    :: d_step { flush(i); poked[i] = false };
        if
        :: granted[i] -> break
        :: else -> poked[i]
        fi
    od;
    enter(i)
}

/* --- deaths ------------------------------------------------------------------------------------------------ */

inline repair(i)
{
    /* Its stores are all done; what it had not finished in a section, it has not begun. */
    d_step {
        flush(i);
        inside[i] = false;
        mask = 0;
        seen = 0;
        k = 0;
        at = 0;
        if
        :: latch == i -> latch = 0
        :: else
        fi
    };
    if
    :: is_listed[i] || granted[i] ->
        enter(i);
        d_step {
            if
            :: is_listed[i] ->
                at = 0;
                do
                :: queue[at] != i -> at++
                :: else -> break
                od;
                do
                :: at + 1 < queued -> queue[at] = queue[at + 1]; at++
                :: else -> break
                od;
                queued--;
                queue[queued] = 0;
                at = 0;
                is_listed[i] = false
            :: else ->
                granted[i] = false;
                if
                :: is_writer(i) -> writer = 0; died = told[i]
                :: else -> readers--
                fi
            fi;
            let_in()
        };
        d_step { latch = 0 }; /* it does not open the gate */
        mask = 0
    :: else
    fi;
    if
    :: named[i] && writer == i ->
        enter(i);
        d_step {
#ifndef DIED_DRAINING
            died = !drains;
#else
            died = true;
#endif
            was_alone = died;
            writer = 0;
            named[i] = false;
            let_in()
        };
#ifdef DIED_DRAINING
        assert(!drains);
#endif
        leave(i)
    :: else
    fi;
    do
    :: counted[i] > 0 ->
        enter(i);
        d_step { readers--; counted[i]--; let_in() };
        leave(i)
    :: else -> break
    od;
    place[i] = false;
#ifndef NO_POKE
    poke_all(i)
#endif
}

inline end_of(i)
{
    d_step {
        flush(i);
        ended++
    };
    if
    :: ended == ALL ->
        assert(writer == 0 && readers == 0 && queued == 0 && latch == 0);
        assert(!died || was_alone);
        at = 1;
        do
        :: at <= ALL -> assert(!place[at]); at++
        :: else -> break
        od;
        at = 0
    :: else
    fi
}

/* --- readers ----------------------------------------------------------------------------------------------- */

inline leave_place(i)
{
    d_step {
        flush(i);
        stored[i] = EMPTY
    };
    d_step { seen = (wants_poke -> writer : 0) };
    if
    :: seen -> poke(i, seen)
    :: else
    fi;
    seen = 0
}

inline read_quickly(i, got)
{
    if
#ifdef EXCHANGE
    :: true
#else
    :: closed || writer
    :: else ->
#ifdef PLAIN_PLACE
        d_step { flush(i); stored[i] = FULL };
#else
        d_step { flush(i); place[i] = true };
#endif
#ifdef NO_LOOK
        d_step {
            got = true;
            if
            :: !closed && writer == 0 -> by_record = true
            :: else
            fi
        }
#else
        d_step {
            got = !closed && writer == 0;
            if
            :: got && !by_record -> flush(i); by_record = true
            :: else
            fi
        };
        if
        :: !got -> leave_place(i)
        :: else
        fi
#endif
#endif
    fi
}

inline read_slowly(i)
{
    enter(i);
    if
    :: queued == 0 && writer == 0 ->
        if
#ifndef EXCHANGE
        :: !died && !place[i] -> d_step { place[i] = true; drains = true }; by_place = true
#endif
#if defined(EXCHANGE)
        :: true
#elif !defined(COUNTED)
        :: else
#else
        :: true
#endif
            -> d_step { readers++; counted[i]++ }
        fi;
        leave(i)
    :: else ->
        d_step { queue[queued] = i; queued++; granted[i] = false; is_listed[i] = true };
        leave(i);
        wait_on_list(i);
        d_step { granted[i] = false; counted[i]++; let_in() };
        leave(i)
    fi
}

/* It reads, and asks again: past those who wait. */
inline read_again(i)
{
    enter(i);
    d_step { readers++; counted[i]++ };
    leave(i)
}

inline leave_counted(i)
{
    enter(i);
    d_step { readers--; late[i] = true; counted[i]--; let_in() };
    leave(i)
}

active [READERS] proctype reader()
{
    byte i = _pid + 1, round = 0, k = 0, at = 0, mask = 0, seen = 0;
    bool got = false, by_place = false, quick = false;
    {
        do
        :: round < ROUNDS ->
            round++;
            got = false;
            read_quickly(i, got);
            quick = got;
            if
            :: got -> by_place = true
            :: else -> by_place = false; read_slowly(i)
            fi;
            inside[i] = true;
            assert(!is_written);
#ifdef TWICE
            if
            :: i == 1 && by_place ->
                read_again(i);
                leave_place(i);
                assert(!is_written);
                by_place = false
            :: else
            fi;
#endif
            inside[i] = false;
            if
            :: by_place -> leave_place(i); by_place = false
            :: else -> leave_counted(i)
            fi
        :: else -> break
        od
    } unless { killed[i] -> repair(i) };
    end_of(i)
}

/* --- writers ----------------------------------------------------------------------------------------------- */

inline look(i, found)
{
    found = false;
#ifdef COUNT_FIRST
    found = seen_readers > 0;
#endif
    k = 1;
    do
    :: k <= READERS && !found -> found = sees_place(i, k); k++
    :: else -> break
    od;
    k = 0;
#if !defined(NO_COUNT) && !defined(COUNT_FIRST)
    found = found || seen_readers > 0
#endif
}

inline drain(i, found)
{
    look(i, found);
    if
    :: found ->
        d_step { flush(i); wants_poke = true };
#if !defined(NO_BARRIER) && !defined(EXCHANGE)
        d_step { flush_all() };
#endif
        do
#ifndef LATE_SNAPSHOT
        :: d_step { flush(i); poked[i] = false };
#else
        ::
#endif
            look(i, found);
            if
            :: !found -> break
            :: else ->
#ifdef LATE_SNAPSHOT
                d_step { flush(i); poked[i] = false };
#endif
                if
                :: poked[i]
#ifdef GIVE_UP
                :: i == READERS + 1 -> break
#endif
                fi
            fi
        od
    :: else
    fi;
    if
    :: !found -> d_step { drains = false; wants_poke = false }
    :: else
    fi
}

inline leave_writing(i)
{
    enter(i);
    d_step { writer = 0; named[i] = false; let_in() };
    leave(i)
}

active [WRITERS] proctype writes()
{
    byte i = _pid + 1, k = 0, at = 0, mask = 0, seen = 0;
    bool found = false, quick = false;
    {
        named[i] = true;
        d_step {
            quick = !closed && writer == 0;
            if
            :: quick ->
                writer = i;
                drains = by_record;
                by_record = false
            :: else
            fi
        };
        if
        :: quick
        :: else ->
            named[i] = false;
            enter(i);
            if
            :: queued == 0 && writer == 0 && readers == 0 ->
                d_step { writer = i; named[i] = true; told[i] = died; died = false };
                leave(i)
            :: else ->
                d_step { queue[queued] = i; queued++; granted[i] = false; is_listed[i] = true };
                leave(i);
                wait_on_list(i);
                d_step { granted[i] = false; named[i] = true; let_in() };
                leave(i)
            fi
        fi;
        if
        :: drains -> drain(i, found)
        :: else
        fi;
        if
        :: found -> leave_writing(i) /* it has given up */
        :: else ->
            d_step { assert(!is_written && !is_read); inside[i] = true };
            assert(!told[i] || was_alone);
            d_step { inside[i] = false; quick = !closed };
            if
            :: quick ->
                d_step {
                    quick = !closed;
                    if
                    :: quick -> writer = 0
                    :: else
                    fi
                }
            :: else
            fi;
            if
            :: quick -> named[i] = false
            :: else -> leave_writing(i)
            fi
        fi
    } unless { killed[i] -> repair(i) };
    end_of(i)
}

/* The buffers empty themselves, when they like. */
active proctype memory()
{
    byte at;
end:
    do
    :: d_step { stored[1] || late[1] -> flush(1) }
#if READERS > 1
    :: d_step { stored[2] || late[2] -> flush(2) }
#endif
    od
}

#ifdef KILL
active proctype killer()
{
    if
    :: killed[1] = true
    :: killed[READERS + 1] = true
    :: skip
    fi
}
#endif
