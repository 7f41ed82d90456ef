/* SPDX-License-Identifier: MIT */
/*
 * The ring of src/queue/wheel.h, fifo.c and repair.c: producers, consumers, any of which may be killed between any two
 * steps, and the repair. Checked:
 *   - positions are claimed in order, by puts and, but for what comes back, by gets;
 *   - an item whose put has returned is delivered once, in the end; no item twice, none that was not written;
 *   - nobody waits for the dead: when nothing moves any more, everything has been delivered.
 * Cells of a lap, one after the other, may be claimed as a run.
 *
 * Negative controls: with NO_SKIP the place of a dead producer stays as it is; with NO_RANGE an item comes back without a
 * note of where; with NO_BUMP without telling that something has; with FIRST_FIRST the first cell of a producer's run is
 * published first; with NO_BACK what comes back looks like what was never claimed; with UPWARDS the cells of a dead one's
 * run come back from the first of the others on; with OLD_JUMP who is laps behind goes on from the cell that told so, in
 * its lap. Each must be found.
 *
 * Steps here are sequentially consistent. The claims are so in the code; the stores that end a claim are releases, which
 * is what their readers need; sleeping, which needs more, is the matter of eventcount.pml.
 */
#ifndef CAP
#define CAP       2
#endif
#ifndef PRODUCERS
#define PRODUCERS 2
#endif
#ifndef CONSUMERS
#define CONSUMERS 2
#endif
#ifndef EACH
#define EACH      2
#endif
#ifndef FIRST_ONE
#define FIRST_ONE EACH /* items of the first producer */
#endif
#ifndef DEATHS
#define DEATHS    2
#endif
#ifndef LONGEST
#define LONGEST   CAP  /* run */
#endif
#define ITEMS   (FIRST_ONE + (PRODUCERS - 1) * EACH)
#define PARTIES (PRODUCERS + CONSUMERS)

#define EMPTY   0
#define WRITING 1
#define FULL    2
#define READING 3
#ifdef NO_BACK
#define BACK    FULL
#else
#define BACK    4
#endif
#define NOBODY  255

#define NONE 0
#define PUT  1
#define GET  2
#define GONE 3
#define GOT  4

typedef cell_t {
    byte lap, phase, owner, span, data
};
cell_t cell[CAP];
byte tail, head;                       /* hints */
byte returned, looked, low, high;
byte kind[PARTIES], argument[PARTIES], number[PARTIES]; /* the records */
bool dead[PARTIES], finished[PARTIES];
byte deaths;
bool put_done[ITEMS];
byte delivered[ITEMS];
byte puts_claimed;                     /* ghosts: how many positions; which, by gets, or never to be */
bool taken[ITEMS + CAP];

#define DIE                                                                    \
    if                                                                         \
    :: atomic { deaths < DEATHS -> deaths++; dead[me] = true }; goto end       \
    :: skip                                                                    \
    fi

#define C      cell[pos % CAP]
#define LAP    (pos / CAP)
#define OWN(w) (C.lap == LAP && C.owner == me && C.phase == w)
#define AT(i)  cell[(pos + i) % CAP] /* of a run */
#define EMPTIED(c) d_step { c.lap = c.lap + 1; c.phase = EMPTY; c.owner = NOBODY; c.span = 1 }
/* How many cells, from this one on: any number that is possible, or the most. */
#ifdef GREEDY
#define ENOUGH else
#else
#define ENOUGH true
#endif
#define CHOOSE(most, w)                                                        \
    atomic {                                                                   \
        span = 1;                                                              \
        do                                                                     \
        :: span < most && span < LONGEST && pos % CAP + span < CAP &&          \
               AT(span).lap == LAP && AT(span).phase == w -> span++            \
        :: ENOUGH -> break                                                     \
        od                                                                     \
    }
#define LAPS (seen_lap - LAP)

proctype producer(byte me)
{
    byte pos, n, i, span, seen_lap, seen_phase, seen_span, mine, base;
    n = 0;
    if
    :: me == 0 -> mine = FIRST_ONE
    :: else -> mine = EACH; base = FIRST_ONE + (me - 1) * EACH
    fi;
    do
    :: n < mine ->
        kind[me] = PUT;
look:   pos = tail;
walk:   DIE;
        atomic { seen_lap = C.lap; seen_phase = C.phase; seen_span = C.span };
        if
        :: seen_lap == LAP && seen_phase == EMPTY ->
            CHOOSE(mine - n, EMPTY);
            argument[me] = pos;
            DIE;
            if
            :: atomic { C.lap == LAP && C.phase == EMPTY ->
                   assert(pos == puts_claimed);
                   puts_claimed = puts_claimed + span;
                   C.phase = WRITING; C.owner = me; C.span = span }
            :: atomic { else -> skip }; goto walk
            fi
        :: seen_lap < LAP -> /* full */
            if
            :: tail < pos -> tail = pos
            :: else
            fi;
end_full:   C.lap >= LAP; /* sleeps */
            goto look
        :: else ->
            /* behind by laps, or claimed by another */
            d_step { if
#ifdef OLD_JUMP
                     :: seen_phase == EMPTY -> pos = pos + (LAPS - 1) * CAP + 1
                     :: else -> pos = pos + LAPS * CAP + seen_span
#else
                     :: seen_phase == EMPTY && LAPS > 1 -> pos = pos + (LAPS - 2) * CAP + 1
                     :: (seen_phase == EMPTY || seen_phase == FULL) && LAPS > 0 && !(seen_phase == EMPTY && LAPS > 1) ->
                        pos = pos + (LAPS - 1) * CAP + 1
                     :: else -> pos = pos + LAPS * CAP + seen_span
#endif
                     fi };
            goto walk
        fi;
        DIE;
        if
        :: tail < pos + span -> DIE; tail = pos + span
        :: else
        fi;
        DIE;
        C.data = base + n;
        DIE;
#ifdef FIRST_FIRST
        atomic { C.phase = FULL; C.span = 1 };
        DIE;
#endif
        i = 1;
        do
        :: i < span -> d_step { AT(i).data = base + n + i; AT(i).phase = FULL; i++ }; DIE
        :: else -> break
        od;
        atomic { C.phase = FULL; C.span = 1 }; /* and no owner */
        DIE;
        kind[me] = NONE;
        d_step {
            i = 0;
            do
            :: i < span -> put_done[base + n] = true; n++; i++
            :: else -> break
            od }
    :: else -> break
    od;
    finished[me] = true;
end: skip
}

proctype consumer(byte me)
{
    byte pos, i, span, seen_lap, seen_phase, seen_span, l, r, hi, hand[CAP];
end_wait:
    do
    :: true ->
        kind[me] = GET;
look:   DIE;
        if
        :: returned != looked ->
            l = looked;
            r = returned;
            hi = high;
            pos = low;
            do
            :: l != r && pos < hi ->
                if
                :: C.lap == LAP && C.phase == BACK ->
                    span = 1;
                    atomic { argument[me] = pos; number[me] = 1 };
                    DIE;
                    if
                    :: atomic { C.lap == LAP && C.phase == BACK ->
                           C.phase = READING; C.owner = me; C.span = 1;
                           assert(pos == 0 || taken[pos - 1]);
                           taken[pos] = true }; goto have
                    :: atomic { else -> skip }
                    fi
                :: else
                fi;
                pos++
            :: else -> break
            od;
            atomic { if
                     :: looked == l -> looked = r
                     :: else
                     fi }
        :: else
        fi;
        pos = head;
walk:   DIE;
        atomic { seen_lap = C.lap; seen_phase = C.phase; seen_span = C.span };
        if
        :: seen_lap == LAP && seen_phase == FULL ->
            CHOOSE(CAP, FULL);
            atomic { argument[me] = pos; number[me] = span };
            DIE;
            if
            :: atomic { C.lap == LAP && C.phase == FULL ->
                   C.phase = READING; C.owner = me; C.span = span;
                   assert(pos == 0 || taken[pos - 1]);
                   i = 0;
                   do
                   :: i < span -> taken[pos + i] = true; i++
                   :: else -> break
                   od }
            :: atomic { else -> skip }; goto walk
            fi
        :: seen_lap < LAP || (seen_lap == LAP && seen_phase < FULL) -> /* empty, or being written */
            if
            :: head < pos -> head = pos
            :: else
            fi;
end_empty:  if
            :: atomic { C.lap != seen_lap || C.phase != seen_phase || returned != looked -> skip } /* sleeps */
            fi;
            goto look
        :: else ->
            d_step { if
#ifdef OLD_JUMP
                     :: seen_phase < READING -> pos = pos + (LAPS - 1) * CAP + 1
                     :: else -> pos = pos + LAPS * CAP + seen_span
#else
                     :: LAPS == 0 -> pos = pos + seen_span
                     :: seen_phase == EMPTY && LAPS > 1 -> pos = pos + (LAPS - 2) * CAP + 1
                     :: else -> pos = pos + (LAPS - 1) * CAP + 1
#endif
                     fi };
            goto walk
        fi;
have:   DIE;
        if
        :: head < pos + span -> DIE; head = pos + span
        :: else
        fi;
        DIE;
        d_step {
            i = 0;
            do
            :: i < span -> hand[i] = AT(i).data; i++
            :: else -> break
            od };
        DIE;
        if
        :: span > 1 ->
            atomic { kind[me] = GOT; /* takes effect */
                     i = 0;
                     do
                     :: i < span -> delivered[hand[i]]++; assert(delivered[hand[i]] == 1); i++
                     :: else -> break
                     od };
            DIE;
            i = 1;
            do
            :: i < span -> atomic { EMPTIED(AT(i)); i++ }; DIE
            :: else -> break
            od;
            atomic { EMPTIED(C) }
        :: else ->
            atomic { EMPTIED(C); /* takes effect */
                     delivered[hand[0]]++;
                     assert(delivered[hand[0]] == 1) }
        fi;
        DIE;
        kind[me] = NONE
    od;
end: skip
}

#define REPAIR_DIES                                                            \
    if                                                                         \
    :: !killed -> killed = true; goto end_watch                                \
    :: skip                                                                    \
    fi

/* The watcher. It may be killed, too, between any two steps, and another one begins again. */
proctype repair()
{
    byte me, pos, i, span;
    bool killed;
end_watch:
    do
    :: atomic { dead[0] && kind[0] != GONE -> me = 0 }; goto work
    :: atomic { dead[1] && kind[1] != GONE -> me = 1 }; goto work
#if PARTIES > 2
    :: atomic { dead[2] && kind[2] != GONE -> me = 2 }; goto work
#endif
#if PARTIES > 3
    :: atomic { dead[3] && kind[3] != GONE -> me = 3 }; goto work
#endif
    od;
work:
    pos = argument[me];
    span = C.span; /* believed only if it is his */
    if
    :: kind[me] == PUT || kind[me] == GOT ->
#ifndef NO_SKIP
        if
        :: OWN(WRITING) || OWN(READING) ->
            i = 1;
            do
            :: i < span ->
                atomic { if
                         :: AT(i).lap == LAP -> EMPTIED(AT(i)); taken[pos + i] = true
                         :: else
                         fi;
                         i++ };
                REPAIR_DIES
            :: else -> break
            od;
            atomic { EMPTIED(C); taken[pos] = true }
        :: else
        fi
#else
        skip
#endif
    :: kind[me] == GET ->
#ifndef NO_RANGE
        if
        :: returned != looked && low != high ->
            if
            :: pos < low -> low = pos
            :: else
            fi;
            if
            :: pos + number[me] > high -> high = pos + number[me]
            :: else
            fi
        :: else -> low = pos; high = pos + number[me]
        fi;
#endif
        REPAIR_DIES;
        if
        :: OWN(READING) ->
            i = 1;
            do
            :: i < span ->
#ifdef UPWARDS
#define J i
#else
#define J (span - i)
#endif
                /* Who is seen to be FULL is not looked at again: it is nobody else's. */
                if
                :: AT(J).lap == LAP && AT(J).phase == FULL -> d_step { AT(J).lap = LAP; AT(J).phase = BACK;
                                                                       AT(J).owner = NOBODY; AT(J).span = 1 }
                :: else
                fi;
                i++;
                REPAIR_DIES
            :: else -> break
            od;
            atomic { if
                     :: OWN(READING) -> C.phase = BACK; C.owner = NOBODY; C.span = 1
                     :: else
                     fi }
        :: else
        fi;
        REPAIR_DIES;
#ifndef NO_BUMP
        returned++
#endif
    :: else
    fi;
    kind[me] = GONE;
    goto end_watch
}

init {
    byte i;
    atomic {
        i = 0;
        do
        :: i < CAP -> cell[i].owner = NOBODY; cell[i].span = 1; i++
        :: else -> break
        od;
        i = 0;
        do
        :: i < PRODUCERS -> run producer(i); i++
        :: i >= PRODUCERS && i < PARTIES -> run consumer(i); i++
        :: else -> break
        od;
        run repair()
    };
    /* Nothing moves any more. */
    timeout;
    bool some = false;
    atomic {
        i = PRODUCERS;
        do
        :: i < PARTIES -> some = some || !dead[i]; i++
        :: else -> break
        od;
        i = 0;
        do
        :: i < PRODUCERS -> assert(!some || dead[i] || finished[i]); i++
        :: else -> break
        od;
        i = 0;
        do
        :: i < ITEMS -> assert(!some || !put_done[i] || delivered[i] == 1); i++
        :: else -> break
        od
    }
}
