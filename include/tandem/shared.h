/* SPDX-License-Identifier: MIT */
/*
 * The shared heap: memory that all processes of the program see at the same address, so that pointers into it mean the
 * same in each. Python: multiprocessing.Value, Array, RawValue, RawArray, shared_memory, and what multiprocessing.heap
 * does behind them.
 *
 *     struct board *board = td_shared_calloc(1, sizeof *board);     // with td_locks in it, and pointers to more
 *     td_worker *w = td_process(.target = play, .args = TD_SHARED(board));
 *
 *     static int play(td_call *call)
 *     {
 *         struct board *board = td_arg_shared(call);
 *
 * Any process of the program, and any thread in it, allocates and frees any block. A block lives until it is freed: the
 * end of the process that allocated it, in whatever way, frees nothing, since others may have the pointer. A process
 * killed in the middle of one of these calls blocks nobody and loses nothing: a block whose address the call has not
 * returned yet is free again, and one that it was freeing is either free or allocated still, as though it had died
 * just before.
 *
 * Pages are the system's only after it has agreed, so that running out is TD_ENOMEM and never a signal. Up to 64 GiB,
 * less where address space or file size is limited (RLIMIT_AS, RLIMIT_FSIZE). Left out of core dumps.
 *
 * Errors: TD_EINIT before td_init; TD_ENOMEM; TD_EINVAL; TD_ECORRUPT: the heap's own data have been written over, by a
 * wild pointer in some process. All calls may be made from any thread, and in workers, their workers and forked
 * children; none in a signal handler. They may wait, for a moment, for each other. After fork() the child shares the
 * heap.
 */
#ifndef TANDEM_SHARED_H
#define TANDEM_SHARED_H

#include <string.h>
#include <tandem/sync.h>

#ifdef __cplusplus
#include <type_traits>
extern "C" {
#endif

/* A block of `size` bytes, aligned to 16, its bytes undefined: for locks and the like, which begin as zeros, take
 * td_shared_calloc. Of size 0: one that can be freed. NULL: see above. */
TD_API void *td_shared_alloc(size_t size);
/* Aligned to `alignment`, a power of two up to 4096: 64 keeps what two processes write out of one cache line. */
TD_API void *td_shared_alloc_aligned(size_t alignment, size_t size);
/* Room for `count` times `size` bytes, all zero. A product of more than memory is TD_ENOMEM. */
TD_API void *td_shared_calloc(size_t count, size_t size);
/*
 * The block with another size: the same or another address, its first bytes kept. On failure, NULL and the block stays
 * as it was. `block` NULL: as td_shared_alloc. Size 0 is a size like others.
 */
TD_API void *td_shared_realloc(void *block, size_t size);
/*
 * Frees a block. NULL is allowed. What killed processes have left in it, held locks for one, is no obstacle, once their
 * deaths have been told (td_join and the like); the call may have to wait for a repair then. A pointer that is no
 * block's, or one freed already, is a bug of the caller: one sentence, and abort. In debug builds (TD_DEBUG) also a
 * block in which somebody holds, or waits on, a lock or the like.
 */
TD_API void td_shared_free(void *block);

/* Is this an address in the shared heap? Then it means the same in all processes. It need not be the beginning of a
 * block. */
TD_API bool td_shared_is(const void *address);
/* The size that the block has for its user, at least what was asked for; 0 for anything else. */
TD_API size_t td_shared_size(const void *block);

/* Is the heap in order? 0, or TD_ECORRUPT with a sentence that says where it is not. Looks at every run of pages and
 * every group of small blocks; the others wait meanwhile. */
TD_API int td_shared_check(void);

/* What there is, in bytes; found by the same walk. */
typedef struct td_shared_counts {
    size_t limit;    /* for blocks, at most */
    size_t reserved; /* memory that the system has given for all of it, the heap's own data and others' included */
    size_t in_use;   /* of allocated blocks, by td_shared_size */
    size_t blocks;   /* their number */
} td_shared_counts;
TD_API int td_shared_stats(td_shared_counts *counts);

/* --- Values and arrays. Python: multiprocessing.Value, Array, RawValue, RawArray ------------------------------ */

/*
 * Blocks of the heap that know how many elements of what size they have, and come with a lock of their own:
 *
 *     int *hits = td_shared_value(int, 0);                  // Value('i', 0)
 *     double *row = td_shared_array(double, 1000);          // Array('d', 1000): all zero
 *
 *     td_shared_add(hits, 1);                               // with hits.get_lock(): hits.value += 1
 *     int now = td_shared_get(hits);
 *
 *     td_rlock_acquire(td_shared_lock(row));                // with row.get_lock():
 *     for (size_t i = 0; i < td_shared_count(row); i++)
 *         row[i] *= 2;
 *     td_rlock_release(td_shared_lock(row));
 *
 * They are plain pointers: passed to workers by TD_SHARED, freed by td_shared_free, not to be given to
 * td_shared_realloc. What is done through the pointer itself takes no lock and checks nothing; each of the calls below
 * takes the lock. To do several under one lock, hold it yourself: it is an RLock, as in Python.
 *
 *   td_shared_value(type, value)          NULL when it cannot be made; see td_shared_alloc
 *   td_shared_array(type, count)          all zero
 *   td_shared_raw_value(type, value), td_shared_raw_array(type, count)
 *                                         the same without a lock and a count, for td_shared_free only
 *   td_shared_get(value)                  what it is
 *   td_shared_set(value, x)               0, or TD_OWNER_DIED: the last one who held the lock died with it
 *   td_shared_add(value, x)               +=, and what it is then
 *   td_shared_get_at(array, index), td_shared_set_at(array, index, x), td_shared_add_at(array, index, x)
 *   td_shared_at(array, index)            the address of an element, without the lock
 *   td_shared_read(array, from, count, to), td_shared_write(array, from, count, source)
 *                                         copy a slice out and in: 0, TD_OWNER_DIED, or TD_EINVAL if it is not inside
 *   td_shared_count(array)                how many elements; 1 for a value
 *   td_shared_lock(array)                 its lock
 *
 * An index that is out of bounds, and a pointer that is no such value or array, or one of another size, are bugs of the
 * caller: one sentence, and abort. Where the lock cannot be had (TD_ENOMEM, TD_ETOOBIG, see td_lock_acquire), they
 * change nothing, and get, add and their like give 0; td_last_error tells. They block while another holds the lock.
 * Who died holding it is told once, to the next to acquire it; get and add have no way to say so. Where a death may
 * have left several elements that no longer fit together, take the lock, or read by td_shared_read.
 */
TD_API void *td_shared_make(size_t count, size_t size, size_t alignment, const void *first);
TD_API td_rlock *td_shared_lock(const void *array);
TD_API size_t td_shared_count(const void *array);
/* Behind the macros. */
TD_API size_t td_shared_index(const void *array, size_t size, size_t index);
TD_API void *td_shared_enter(void *array, size_t size, size_t index);
TD_API void td_shared_leave(void *array);
TD_API int td_shared_copy_out(const void *array, size_t size, size_t from, size_t count, void *to);
TD_API int td_shared_copy_in(void *array, size_t size, size_t from, size_t count, const void *source);

#define td_shared_at(array, index) (&(array)[td_shared_index((array), sizeof *(array), (index))])
#define td_shared_read(array, from, count, to) \
    td_shared_copy_out((array), sizeof *(array), (from), (count), (1 ? (to) : &(array)[0]))
#define td_shared_write(array, from, count, ...) \
    td_shared_copy_in((array), sizeof *(array), (from), (count), (1 ? (__VA_ARGS__) : &(array)[0]))

#ifdef __cplusplus
}
template <class T> inline T *td_shared_raw_of(size_t count, const T *first)
{
    static_assert(std::is_trivially_copyable<T>::value, "what several processes share is copied as bytes");
    T *made = static_cast<T *>(td_shared_calloc(count, sizeof(T)));
    if (made && first)
        memcpy(static_cast<void *>(made), first, sizeof(T));
    return made;
}
template <class T> inline T *td_shared_make_of(size_t count, const T *first)
{
    static_assert(std::is_trivially_copyable<T>::value, "what several processes share is copied as bytes");
    return static_cast<T *>(td_shared_make(count, sizeof(T), alignof(T), first));
}
template <class T> inline T *td_shared_value_of(const T &value)
{
    return td_shared_make_of<T>(1, &value);
}
template <class T> inline T *td_shared_raw_value_of(const T &value)
{
    return td_shared_raw_of<T>(1, &value);
}
template <class T> inline T td_shared_get_at(const T *array, size_t index)
{
    T value = T();
    td_shared_copy_out(array, sizeof(T), td_shared_index(array, sizeof(T), index), 1, &value);
    return value;
}
template <class T, class U> inline int td_shared_set_at(T *array, size_t index, const U &value)
{
    T converted = T(value);
    return td_shared_copy_in(array, sizeof(T), td_shared_index(array, sizeof(T), index), 1, &converted);
}
template <class T, class U> inline T td_shared_add_at(T *array, size_t index, const U &value)
{
    T sum = T();
    if (T *element = static_cast<T *>(td_shared_enter(array, sizeof(T), index))) {
        sum = *element = T(*element + value);
        td_shared_leave(array);
    }
    return sum;
}
#define td_shared_value(type, ...)       td_shared_value_of<type>(type{ __VA_ARGS__ })
#define td_shared_raw_value(type, ...)   td_shared_raw_value_of<type>(type{ __VA_ARGS__ })
#define td_shared_array(type, count)     td_shared_make_of<type>((count), nullptr)
#define td_shared_raw_array(type, count) td_shared_raw_of<type>((count), nullptr)
#define td_shared_set(value, ...)        td_shared_set_at((value), 0, __VA_ARGS__)
#else
static inline void *td_shared_raw(size_t size, const void *first)
{
    void *made = td_shared_calloc(1, size);
    return made ? memcpy(made, first, size) : NULL;
}
#define td_shared_value(type, ...)       ((type *)td_shared_make(1, sizeof(type), _Alignof(type), &(type){ __VA_ARGS__ }))
#define td_shared_raw_value(type, ...)   ((type *)td_shared_raw(sizeof(type), &(type){ __VA_ARGS__ }))
#define td_shared_array(type, count)     ((type *)td_shared_make((count), sizeof(type), _Alignof(type), NULL))
#define td_shared_raw_array(type, count) ((type *)td_shared_calloc((count), sizeof(type)))
#define td_shared_get_at(array, index)                                                                              \
    __extension__({                                                                                                 \
        __typeof__(&(array)[0]) td_array_ = (array);                                                                \
        __typeof__(((void)0, *(array))) td_got_ = { 0 };                                                            \
        td_shared_copy_out(td_array_, sizeof *td_array_, td_shared_index(td_array_, sizeof *td_array_, (index)), 1, \
                           &td_got_);                                                                               \
        td_got_;                                                                                                    \
    })
#define td_shared_set_at(array, index, ...)                                                                        \
    __extension__({                                                                                                \
        __typeof__(&(array)[0]) td_array_ = (array);                                                               \
        __typeof__(*(array)) td_new_ = (__VA_ARGS__);                                                              \
        td_shared_copy_in(td_array_, sizeof *td_array_, td_shared_index(td_array_, sizeof *td_array_, (index)), 1, \
                          &td_new_);                                                                               \
    })
#define td_shared_add_at(array, index, x)                                                           \
    __extension__({                                                                                 \
        __typeof__(&(array)[0]) td_array_ = (array);                                                \
        __typeof__(x) td_more_ = (x);                                                               \
        __typeof__(*(array)) td_sum_ = 0;                                                           \
        __typeof__(td_array_) td_element_ = td_shared_enter(td_array_, sizeof *td_array_, (index)); \
        if (td_element_) {                                                                          \
            td_sum_ = *td_element_ += td_more_;                                                     \
            td_shared_leave(td_array_);                                                             \
        }                                                                                           \
        td_sum_;                                                                                    \
    })
#define td_shared_set(value, ...) td_shared_set_at((value), 0, __VA_ARGS__)
#endif
#define td_shared_get(value)    td_shared_get_at((value), 0)
#define td_shared_add(value, x) td_shared_add_at((value), 0, (x))

#endif
