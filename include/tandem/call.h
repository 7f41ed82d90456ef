/* SPDX-License-Identifier: MIT */
/*
 * What a target function sees: its argument, its result, its failure, its cancellation.
 *
 *     static int area(td_call *call)
 *     {
 *         struct size size = td_arg(call, struct size);
 *         if (size.width < 0)
 *             return td_fail(call, 2, "width %d is negative", size.width);
 *         return td_return(call, int, size.width * size.height);
 *     }
 *
 *     td_worker *w = td_process(.target = area, .args = TD_ARG(struct size, .width = 3, .height = 4));
 *
 * Arguments and results are bytes, copied by value: the target has its own copy whether it runs on a thread or in
 * a process. A pointer means nothing in another process, so pointer types are refused when compiled.
 */
#ifndef TANDEM_CALL_H
#define TANDEM_CALL_H

#include <string.h>
#include <tandem/base.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct td_call td_call;

/* Returns 0 for success; anything else is a failure with that code. td_fail() gives it a message. */
typedef int td_target(td_call *call);

/* How bytes are to be read; checked, with their size, when the target asks for its argument. */
typedef enum td_kind {
    TD_KIND_NONE = 0,
    TD_KIND_SIGNED = 1,
    TD_KIND_UNSIGNED = 2,
    TD_KIND_FLOAT = 3,
    TD_KIND_BOOL = 4,
    TD_KIND_STRUCT = 5, /* structs, unions and other aggregates */
    TD_KIND_STRING = 6,
    TD_KIND_BYTES = 7,
    TD_KIND_SHARED = 8 /* a pointer into the shared heap */
} td_kind;

/* Bytes to be copied. Made by TD_ARG, TD_VAL, TD_STR, TD_BYTES and TD_SHARED; all zero means none. */
typedef struct td_value {
    const void *data TD_ZERO;
    size_t size TD_ZERO; /* bytes; of a string, its length with the final NUL */
    int kind TD_ZERO;    /* a td_kind */
} td_value;

/* The largest argument or result: 1 GiB less a page. */
#define TD_VALUE_MAX (((size_t)1 << 30) - 4096)

/* A string, copied with its NUL. NULL is no argument. */
static inline td_value td_str(const char *string)
{
    td_value v;
    v.data = string;
    v.size = string ? strlen(string) + 1 : 0;
    v.kind = string ? TD_KIND_STRING : TD_KIND_NONE;
    return v;
}

/* A block of `size` bytes. */
static inline td_value td_bytes(const void *data, size_t size)
{
    td_value v;
    v.data = data;
    v.size = size;
    v.kind = TD_KIND_BYTES;
    return v;
}

#define TD_STR(string)       td_str(string)
#define TD_BYTES(data, size) td_bytes((data), (size))

/* --- behind the macros ------------------------------------------------------------------------------------- */

/* The argument's bytes; ends the call with TD_ETYPE if size or kind differ from what the caller gave. */
TD_API const void *td_call_arg(td_call *call, size_t size, int kind);
TD_API int td_call_return(td_call *call, const void *data, size_t size, int kind);

#ifdef __cplusplus
}
#include <type_traits>
template <class T> constexpr int td_kind_of_type()
{
    static_assert(!std::is_pointer<T>::value,
                  "a pointer means nothing in another process: use TD_STR, TD_BYTES, TD_SHARED or a struct");
    static_assert(std::is_trivially_copyable<T>::value, "arguments and results are copied as bytes");
    return std::is_same<T, bool>::value                           ? TD_KIND_BOOL
           : std::is_floating_point<T>::value                     ? TD_KIND_FLOAT
           : std::is_enum<T>::value || std::is_unsigned<T>::value ? TD_KIND_UNSIGNED
           : std::is_integral<T>::value                           ? TD_KIND_SIGNED
                                                                  : TD_KIND_STRUCT;
}
template <class T> inline td_value td_value_of(const T &x)
{
    td_value v;
    v.data = &x;
    v.size = sizeof(T);
    v.kind = td_kind_of_type<T>();
    return v;
}
template <class T> inline int td_call_return_of(td_call *call, const T &x)
{
    return td_call_return(call, &x, sizeof(T), td_kind_of_type<T>());
}
inline td_value td_shared_pointer(const void *const &pointer)
{
    td_value v;
    v.data = &pointer;
    v.size = sizeof pointer;
    v.kind = TD_KIND_SHARED;
    return v;
}
#define TD_SHARED(pointer)            td_shared_pointer(pointer)
#define TD_KIND_OF(type)              td_kind_of_type<type>()
#define TD_ARG(type, ...)             td_value_of<type>(type{ __VA_ARGS__ })
#define TD_VAL(variable)              td_value_of(variable)
#define td_return(call, type, ...)    td_call_return_of<type>((call), (type)(__VA_ARGS__))
#define td_return_val(call, variable) td_call_return_of((call), (variable))
#else
/* 5 is gcc's and clang's class of pointers (arrays among them). */
#define TD_REFUSE_POINTER(x)                                                                                        \
    (0 * sizeof(struct {                                                                                            \
         _Static_assert(__builtin_classify_type(x) != 5,                                                            \
                        "a pointer means nothing in another process: use TD_STR, TD_BYTES, TD_SHARED or a struct"); \
         int td_unused;                                                                                             \
     }))
#define TD_KIND_OF_VALUE(x)                         \
    _Generic((x), _Bool                             \
             : TD_KIND_BOOL, char                   \
             : TD_KIND_SIGNED, signed char          \
             : TD_KIND_SIGNED, short                \
             : TD_KIND_SIGNED, int                  \
             : TD_KIND_SIGNED, long                 \
             : TD_KIND_SIGNED, long long            \
             : TD_KIND_SIGNED, unsigned char        \
             : TD_KIND_UNSIGNED, unsigned short     \
             : TD_KIND_UNSIGNED, unsigned           \
             : TD_KIND_UNSIGNED, unsigned long      \
             : TD_KIND_UNSIGNED, unsigned long long \
             : TD_KIND_UNSIGNED, float              \
             : TD_KIND_FLOAT, double                \
             : TD_KIND_FLOAT, long double           \
             : TD_KIND_FLOAT, default               \
             : TD_KIND_STRUCT)
#define TD_KIND_OF(type)   (TD_KIND_OF_VALUE(*(type *)0) + (int)TD_REFUSE_POINTER(*(type *)0))
#define TD_SHARED(pointer) ((td_value){ &(const void *){ (pointer) }, sizeof(void *), TD_KIND_SHARED })
#define TD_VAL(variable) \
    ((td_value){ &(variable), sizeof(variable) + TD_REFUSE_POINTER(variable), TD_KIND_OF_VALUE(variable) })
#define TD_ARG(type, ...)          ((td_value){ &(type){ __VA_ARGS__ }, sizeof(type), TD_KIND_OF(type) })
#define td_return(call, type, ...) td_call_return((call), &(type){ __VA_ARGS__ }, sizeof(type), TD_KIND_OF(type))
#define td_return_val(call, variable) \
    td_call_return((call), &(variable), sizeof(variable) + TD_REFUSE_POINTER(variable), TD_KIND_OF_VALUE(variable))
#endif

/*
 * TD_ARG(type, value)     a value of that type; TD_ARG(struct point, .x = 1, .y = 2) builds one in place.
 * TD_VAL(variable)        the value of a variable.
 * TD_STR(string)          a string.          TD_BYTES(data, size)   a block, or an array.
 * TD_SHARED(pointer)      a pointer into the shared heap (shared.h), the only memory where one means the same in all
 *                         processes. Any other is refused with TD_EINVAL when the worker is created.
 *
 * td_arg(call, type)      the argument, read as that type. If the caller gave another size or another kind (signed,
 *                         unsigned, floating, bool, struct, string, block), the task fails with TD_ETYPE and a
 *                         sentence that names both; the target does not go on (its stack is left by a jump, so call
 *                         td_arg before anything that needs undoing). Of TD_BYTES and arrays: td_arg_bytes.
 *                         Python: the parameters of `target`.
 * td_return(call, type, value)
 *                         sets the result and is 0: `return td_return(call, double, x);`. The last one counts.
 *                         In C, a struct is given by its members; td_return_val(call, variable) returns a variable of
 *                         any type. Negative if there is no memory for it, which as return value makes the task fail.
 *
 * All of these are for the target's own thread. None blocks.
 */
#define td_arg(call, type) (*(const type *)td_call_arg((call), sizeof(type), TD_KIND_OF(type)))

#ifdef __cplusplus
extern "C" {
#endif

/* The argument given by TD_STR; checked like td_arg. Valid until the target returns. */
TD_API const char *td_arg_str(td_call *call);

/* The argument as bytes, whatever its kind, aligned for every type; *size (may be NULL) gets its size in bytes.
 * NULL and 0 if there is none. Valid until the target returns. */
TD_API const void *td_arg_bytes(td_call *call, size_t *size);

/* The argument given by TD_SHARED; checked like td_arg, and that it points into the shared heap. */
TD_API void *td_arg_shared(td_call *call);

/* Sets the result to a pointer into the shared heap: any other makes the task fail with TD_EINVAL. */
TD_API int td_return_shared(td_call *call, const void *pointer);

/* Set the result to a string or a block, as td_return does. */
TD_API int td_return_str(td_call *call, const char *string);
TD_API int td_return_bytes(td_call *call, const void *data, size_t size);

/*
 * The task fails with `code` (not 0; 0 is taken as 1) and a message of up to TD_MESSAGE_MAX - 1 bytes, longer ones
 * being cut. Returns the code: `return td_fail(call, 3, "cannot read '%s'", path);`. The code TD_ECANCELLED gives the
 * outcome "cancelled" instead of "failed". Python: raising an exception.
 */
#define TD_MESSAGE_MAX 256
TD_API int td_fail(td_call *call, int code, const char *format, ...) TD_PRINTF(3, 4);

/* Has the caller asked this task to stop (td_terminate, td_interrupt)? A flag to poll; costs one load. */
TD_API bool td_cancelled(const td_call *call);

/*
 * The same as a cancellation object, for the waits of this task (td_lock_acquire_with and so on): asking the task to
 * stop ends them at once with TD_ECANCELLED. Valid until the target returns; do not fire or reset it.
 */
TD_API td_cancel *td_call_cancel(const td_call *call);

/* The name of the worker that runs this call. Valid until the target returns. */
TD_API const char *td_call_name(const td_call *call);

#ifdef __cplusplus
}
#endif

#endif
