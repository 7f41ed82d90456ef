/* SPDX-License-Identifier: MIT */
/* Slots and windows of the shared segment; see segment.h for a slot's life. */
#include "work/segment.h"

#include <errno.h>
#include <limits.h>

/* A slot's window is mapped by both sides as a whole number of pages. */
static uint64_t window_offset(uint32_t index, int half)
{
    return TD__MAPPED_BYTES + (uint64_t)index * 2 * TD__WINDOW_HALF + (uint64_t)half * TD__WINDOW_HALF;
}

uint64_t td__segment_file_size(void)
{
    return window_offset(TD__SLOTS, 0);
}

static bool is_worker(unsigned owner)
{
    return owner != TD__OWNER_MAIN && owner != TD__OWNER_SPAWNER;
}

/* Sequentially consistent, with the taker, who sets the bit after its CAS of the word: one of us sees the other, so
 * that the bit of a slot in use does not stay clear. */
static void clear_in_use(td__segment *segment, uint32_t index)
{
    atomic_fetch_and_explicit(&segment->in_use[index / 64], ~((uint64_t)1 << (index % 64)), memory_order_seq_cst);
    if (TD__WORD_STATE(td__load_seq_cst(&td__slot_at(segment, index)->word)) != TD__FREE)
        td__fetch_or_acq_rel(&segment->in_use[index / 64], (uint64_t)1 << (index % 64));
}

int td__slot_take(td__segment *segment, unsigned owner, unsigned state)
{
    for (uint32_t group = 0; group < TD__SLOTS / 64; group++) {
        for (;;) {
            uint64_t used = td__load_relaxed(&segment->in_use[group]);
            if (used == UINT64_MAX)
                break;
            uint32_t index = group * 64 + (uint32_t)__builtin_ctzll(~used);
            td__slot *slot = td__slot_at(segment, index);
            uint64_t word = td__load_relaxed(&slot->word);
            /* The map is a hint, set after the word and cleared after it: the word decides. Acquire in the CAS: the
             * fields are ours to write, after the one that freed the slot has read them. */
            /* Release: before the CAS, so that the spawner finds the slot if a worker is killed before the bit is set.
             */
            if (is_worker(owner))
                td__store_release(&td__slot_at(segment, owner - 1)->taking, index + 1);
            bool ours =
                TD__WORD_STATE(word) == TD__FREE &&
                td__cas_seq_cst(&slot->word, &word, TD__WORD(TD__WORD_GENERATION(word) + 1, owner, TD__BOOTING));
            if (is_worker(owner)) /* the others' steps are those of tests that mean something else */
                td__step_point();
            td__fetch_or_acq_rel(&segment->in_use[group], (uint64_t)1 << (index % 64));
            if (is_worker(owner))
                td__step_point();
            if (!ours) {
                if (TD__WORD_STATE(td__load_relaxed(&slot->word)) != TD__FREE)
                    continue;
                if (is_worker(owner))
                    td__step_point();
                clear_in_use(segment, index);
                continue;
            }
            td__store_relaxed(&slot->pid, 0);
            td__store_relaxed(&slot->done, 0);
            td__store_relaxed(&slot->ends, 0);
            td__store_relaxed(&slot->cancel, 0);
            td__store_relaxed(&slot->signal, 0);
            td__store_relaxed(&slot->has_children, 0);
            td__store_relaxed(&slot->taking, 0);
            td__store_relaxed(&slot->received, 0);
            td__store_relaxed(&slot->go, TD__GO_UNKNOWN);
            td__store_relaxed(&slot->called, TD__UNCALLED);
            td__store_relaxed(&slot->starter_cpu, 0);
            td__store_relaxed(&slot->worker_cpu, 0);
            /* Release: the cleared fields, for whoever sees the slot taken. */
            td__store_release(&slot->word, TD__WORD(TD__WORD_GENERATION(word) + 1, owner, state));
            if (is_worker(owner))
                td__step_point();
            return (int)index;
        }
    }
    errno = ENOSPC;
    return -1;
}

void td__slot_drop_request(td__segment *segment, int file, uint32_t index)
{
    td__slot *slot = td__slot_at(segment, index);
    if (slot->request.in_window)
        td__punch(file, window_offset(index, 0), TD__WINDOW_HALF);
    slot->request.in_window = 0;
}

/* After both ends. */
static void make_free(td__segment *segment, int file, uint32_t index)
{
    td__slot *slot = td__slot_at(segment, index);
    td__slot_drop_request(segment, file, index);
    if (slot->reply.in_window)
        td__punch(file, window_offset(index, 1), TD__WINDOW_HALF);
    slot->reply.in_window = 0;
    uint64_t word = td__load_relaxed(&slot->word);
    td__store_relaxed(&slot->pid, 0); /* of the next use it is another's, or not known yet */
    td__step_point();
    td__store_release(&slot->word, TD__WORD(TD__WORD_GENERATION(word), 0, TD__FREE));
    td__step_point();
    clear_in_use(segment, index);
}

void td__slot_end(td__segment *segment, int file, uint32_t index, uint32_t end)
{
    uint32_t other = end == TD__GONE ? TD__RELEASED : TD__GONE;
    /* Acquire and release: the second one sees all that the first did with the slot, and frees it after both. */
    uint32_t before = td__fetch_or_acq_rel(&td__slot_at(segment, index)->ends, end);
    td__step_point();
    if (!(before & end) && before & other)
        make_free(segment, file, index);
}

void td__slot_end_for(td__segment *segment, int file, uint32_t index, unsigned dead)
{
    td__slot *slot = td__slot_at(segment, index);
    uint64_t word = td__load_acquire(&slot->word);
    if (TD__WORD_STATE(word) == TD__FREE)
        clear_in_use(segment, index);
    else if (TD__WORD_OWNER(word) == dead && td__load_acquire(&slot->ends) == (TD__RELEASED | TD__GONE))
        make_free(segment, file, index);
    else if (TD__WORD_OWNER(word) == dead)
        td__slot_end(segment, file, index, TD__RELEASED);
}

void td__slot_mark(td__slot *slot, uint32_t how, bool signaled, int number)
{
    slot->signaled = signaled;
    slot->number = number;
    /* Publishes the two lines above to joiners. Sequentially consistent, for put_back() in process.c. */
    td__fetch_or_seq_cst(&slot->done, how);
    td__futex_wake(&slot->done, INT_MAX, true);
}

void td__slot_ended(td__slot *slot, uint32_t how, bool signaled, int number)
{
    td__slot_mark(slot, how, signaled, number);
    td__futex_wake(&slot->pid, INT_MAX, true);
}

void td__circumstances_get(td__circumstances *circumstances)
{
    circumstances->nice = td__nice_get();
    circumstances->affinity_size = (uint32_t)td__affinity_get(circumstances->affinity);
    td__limits_get(circumstances->limits);
}

void td__slot_answer(td__slot *slot, uint32_t answer)
{
    /* Release: the circumstances. The worker says that it sleeps before it does, so a wake-up is rarely needed. */
    if (atomic_exchange_explicit(&slot->go, answer, memory_order_acq_rel) == TD__GO_AWAITED)
        td__futex_wake(&slot->go, 1, true);
}

/* By the clock, since what a pause takes differs tenfold between processors. */
#define LINGER_NS    100000
#define LINGER_LOOKS 16

void td__slot_linger(const _Atomic uint32_t *word, uint32_t value, const _Atomic uint32_t *other_cpu, int64_t deadline)
{
    uint32_t other = td__load_relaxed(other_cpu);
    if (other == 0 || other == td__slot_cpu())
        return;
    int64_t end = td__now() + LINGER_NS;
    if (deadline && deadline < end)
        end = deadline;
    do
        for (int i = 0; i < LINGER_LOOKS; i++) {
            if (td__load_relaxed(word) != value)
                return;
            td__relax();
        }
    while (td__now() < end);
}

uint32_t td__slot_await(_Atomic uint32_t *go, const _Atomic uint32_t *starter_cpu)
{
    td__slot_linger(go, TD__GO_UNKNOWN, starter_cpu, 0);
    for (;;) {
        uint32_t answer = TD__GO_UNKNOWN;
        if (!td__cas_acq_rel(go, &answer, TD__GO_AWAITED) && answer != TD__GO_AWAITED)
            return answer;
        td__futex_wait(go, TD__GO_AWAITED, 0, true);
    }
}

void *td__window_open(int file, uint64_t file_size, uint32_t index, int half, uint64_t size, bool reserve)
{
    uint64_t page = td__page_size(), offset = window_offset(index, half);
    if (size > TD__WINDOW_HALF || offset + size > file_size) {
        errno = EFBIG;
        return NULL;
    }
    size = (size + page - 1) & ~(page - 1);
    if (reserve && td__reserve(file, offset, size) < 0)
        return NULL;
    void *at = td__map_shared(file, offset, size);
    if (!at && reserve)
        td__punch(file, offset, size);
    return at;
}
