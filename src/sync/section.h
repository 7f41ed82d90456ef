/* SPDX-License-Identifier: MIT */
/*
 * Sections: short stretches in which one party changes an object that is guarded by a latch, wholly or, if it dies, not
 * at all. Every change of shared memory inside goes through td__set, which first notes the old value in the party's
 * record; the repair puts the old values back, newest first, and frees the latch. Leaving forgets the notes: that is
 * the moment from which the change holds.
 *
 * Sections nest (an inner one's changes hold from its own leaving on). They never sleep inside but for other latches,
 * and these always in the order: a queue's, an allocator's, a waiters' list's.
 *
 * Who reads without the latch may see what will be undone: use such reads as hints only.
 */
#ifndef TD_SYNC_SECTION_H
#define TD_SYNC_SECTION_H

#include "sync/latch.h"

_Noreturn void td__section_overflow(void);

static inline void td__section_name(td__party *me, td__latch *latch)
{
    uint32_t depth = me->section_count;
    if (td__unlikely(depth == TD__SECTION_DEPTH))
        td__section_overflow();
    me->section[depth] = latch;
    me->section_undo[depth] = me->undo_count;
    td__program_order(); /* named before it is acquired */
    me->section_count = depth + 1;
    td__program_order();
}

static inline void td__section_enter(td__party *me, td__latch *latch)
{
    td__section_name(me, latch);
    if (td__unlikely(!td__latch_try(latch, me)))
        td__latch_wait(latch, me, 0, NULL);
    td__program_order();
}

/* false: somebody else is inside, and has not left within a few microseconds. */
static inline bool td__section_try(td__party *me, td__latch *latch)
{
    td__section_name(me, latch);
    for (int i = 0; i < 200; i++) {
        if (td__latch_try(latch, me)) {
            td__program_order();
            return true;
        }
        td__relax();
    }
    me->section_count--;
    return false;
}

static inline void td__section_leave(td__party *me, td__latch *latch)
{
    uint32_t depth = me->section_count - 1;
    td__program_order();
    me->undo_count = me->section_undo[depth]; /* from here on the changes hold */
    td__program_order();
    td__latch_release(latch, me);
    td__program_order();
    me->section_count = depth;
}

/* As an atomic word, which it may be: one that is read without the latch may be the repair's to clear by now. */
static inline uint64_t td__section_read(const volatile void *at, size_t size)
{
    uint64_t old = 0;
    switch (size) {
    case 8:
        return td__load_relaxed((const volatile _Atomic uint64_t *)at);
    case 4: {
        uint32_t word = td__load_relaxed((const volatile _Atomic uint32_t *)at);
        __builtin_memcpy(&old, &word, sizeof word); /* in the first bytes, where undoing takes it from */
        return old;
    }
    case 2: {
        uint16_t half = td__load_relaxed((const volatile _Atomic uint16_t *)at);
        __builtin_memcpy(&old, &half, sizeof half);
        return old;
    }
    default:
        __builtin_memcpy(&old, (const void *)at, size);
        return old;
    }
}

/* Notes what is there. Private memory needs no notes: it dies with its party. */
static inline void td__section_note(td__party *me, volatile void *at, size_t size)
{
    if (!td__is_shared(at))
        return;
    if (td__unlikely(me->undo_count == TD__UNDO_MAX))
        td__section_overflow();
    td__undo *undo = &me->undo[me->undo_count];
    undo->at = (void *)at;
    undo->size = (uint32_t)size;
    undo->old = td__section_read(at, size);
    td__program_order(); /* noted before it is changed */
    me->undo_count++;
    td__program_order();
}

/* What has been changed so far holds, as if the section had been left and entered again at once. */
static inline void td__section_commit(td__party *me)
{
    td__program_order();
    me->undo_count = me->section_undo[me->section_count - 1];
    td__program_order();
}

/* Takes back what the innermost section has changed so far: for who finds in the middle that it cannot be done. */
static inline void td__section_undo(td__party *me)
{
    uint32_t from = me->section_undo[me->section_count - 1];
    /* If it dies in between, the repair does all of it again. */
    for (uint32_t i = me->undo_count; i-- > from;)
        __builtin_memcpy(me->undo[i].at, &me->undo[i].old, me->undo[i].size);
    td__program_order();
    me->undo_count = from;
    td__program_order();
}

/* Changes a word of at most 8 bytes, inside a section. */
#define td__set(me, at, value)                      \
    do {                                            \
        td__section_note((me), (at), sizeof *(at)); \
        *(at) = (value);                            \
        td__program_order();                        \
    } while (0)
/* The same for an atomic word, which others read without the latch. Release: what was written before. */
#define td__set_atomic(me, at, value)               \
    do {                                            \
        td__section_note((me), (at), sizeof *(at)); \
        td__store_release((at), (value));           \
        td__program_order();                        \
    } while (0)

#endif
