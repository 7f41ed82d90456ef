/* SPDX-License-Identifier: MIT */
/*
 * A section (src/sync/section.h) and the repair after a death in it (td__parties_died): one party changes three words, one
 * of them twice, inside a section, and dies at any step; its repairer dies at any step, and another one repairs again;
 * meanwhile a second party goes through a section of the same latch.
 *
 * Stores of one party are seen in its order: by others through the latch, by a repairer through the kernel. So they are
 * done at once here.
 *
 * Checked: whoever is inside finds the words as a whole section left them; nobody is kept out for ever.
 *
 * Controls, which must be found wrong: NOTE_LATE, COUNT_EARLY, OLDEST_FIRST, FREE_EARLY, FORGET_EARLY.
 */
#define VICTIM 1
#define OTHER  2

byte owner = 0;
byte word[3];      /* all equal outside of sections */
byte value = 0;    /* the last one that a section has left */

/* The victim's record. */
byte section_count = 0;
byte undo_count = 0;
byte undo_at[4];
byte undo_old[4];

bool dead = false, first_dead = false, repaired = false;

inline note(at)
{
#ifdef COUNT_EARLY
    undo_count++;
    d_step { undo_at[undo_count - 1] = at; undo_old[undo_count - 1] = word[at] }
#else
    d_step { undo_at[undo_count] = at; undo_old[undo_count] = word[at] };
    undo_count++
#endif
}

inline set(at, to)
{
#ifdef NOTE_LATE
    word[at] = to;
    d_step { undo_at[undo_count] = at; undo_old[undo_count] = value };
    undo_count++
#else
    note(at);
    word[at] = to
#endif
}

inline consistent()
{
    d_step { assert(word[0] == word[1] && word[1] == word[2]) }
}

active proctype victim()
{
    {
        /* Two sections, so that notes of the first are there in the second. */
        byte round = 0;
        do
        :: round < 2 ->
            round++;
            section_count = 1;
            d_step { owner == 0 -> owner = VICTIM };
            consistent();
            set(0, 9);
            set(1, value + 1);
            set(0, value + 1);
            set(2, value + 1);
            d_step { undo_count = 0; value++ }; /* the one store from which it holds */
#ifdef FORGET_EARLY
            section_count = 0;
#endif
            owner = 0;
            section_count = 0
        :: else -> break
        od;
        goto through
    } unless {
        dead
    };
through:
    skip
}

active proctype other()
{
    byte round = 0;
    do
    :: round < 2 ->
        round++;
        d_step { owner == 0 -> owner = OTHER };
        consistent();
        word[0] = value + 1;
        word[1] = value + 1;
        word[2] = value + 1;
        value++;
        owner = 0
    :: else -> break
    od
}

inline undo()
{
#ifdef OLDEST_FIRST
    at = 0;
    do
    :: at < undo_count -> word[undo_at[at]] = undo_old[at]; at++
    :: else -> break
    od;
#else
    at = undo_count;
    do
    :: at > 0 -> at--; word[undo_at[at]] = undo_old[at]
    :: else -> break
    od;
#endif
    at = 0;
    undo_count = 0
}

inline repair()
{
    if
    :: section_count > 0 ->
        if
        :: owner == VICTIM ->
#ifdef FREE_EARLY
            owner = 0;
            undo()
#else
            undo();
            d_step {
                if
                :: owner == VICTIM -> owner = 0
                :: else
                fi
            }
#endif
        :: else
        fi
    :: else
    fi
}

proctype repairer()
{
    byte at = 0;
    {
        repair();
        repaired = true
    } unless {
        first_dead
    };
    if
    :: first_dead && !repaired ->
        at = 0;
        repair();
        repaired = true
    :: else
    fi
}

active proctype fate()
{
    if
    :: dead = true;
        run repairer();
        if
        :: first_dead = true
        :: skip
        fi
    :: skip
    fi
}
