/* SPDX-License-Identifier: MIT */
/* What a target sees of its call: argument, result, failure, cancellation. Used by its own thread only. */
#include <tandem/shared.h>
#include "work/worker.h"

#include <stdio.h>

void td__call_prepare(td_call *call, const void *arg, size_t arg_size, int arg_kind, const char *name,
                      const _Atomic uint32_t *cancel)
{
    call->arg = arg;
    call->arg_size = arg_size;
    call->arg_kind = arg_kind;
    call->name = name;
    call->cancel = cancel;
    call->result = NULL;
    call->result_size = 0;
    call->result_kind = TD_KIND_NONE;
    call->failed = 0;
    call->connections = NULL;
    call->connection_count = 0;
    call->message[0] = 0; /* the rest of it, and `leave`, is written before it is read */
}

td_state td__call_run(td_call *call, td_target *target, int *code)
{
    if (setjmp(call->leave) == 0)
        *code = target(call);
    else
        *code = call->failed;
    if (*code == 0)
        *code = call->failed;
    if (*code == 0)
        return TD_RETURNED;
    return *code == TD_ECANCELLED ? TD_CANCELLED : TD_FAILED;
}

static _Noreturn void leave(td_call *call)
{
    longjmp(call->leave, 1);
}

const void *td_call_arg(td_call *call, size_t size, int kind)
{
    if (call->arg_size == size && call->arg_kind == kind)
        return call->arg;
    td__words read, given;
    td_fail(call, TD_ETYPE, "the target reads %s, but the caller gave %s", td__value_words(&read, kind, size),
            td__value_words(&given, call->arg_kind, call->arg_size));
    leave(call);
}

void *td_arg_shared(td_call *call)
{
    td__words given;
    void *pointer = NULL;
    if (call->arg_kind == TD_KIND_SHARED && call->arg_size == sizeof pointer)
        memcpy(&pointer, call->arg, sizeof pointer);
    if (td_shared_is(pointer))
        return pointer;
    if (call->arg_kind == TD_KIND_SHARED)
        td_fail(call, TD_EINVAL, "the argument %p does not point into the shared heap", pointer);
    else
        td_fail(call, TD_ETYPE, "the target reads a pointer into the shared heap, but the caller gave %s",
                td__value_words(&given, call->arg_kind, call->arg_size));
    leave(call);
}

const char *td_arg_str(td_call *call)
{
    /* The NUL is looked for too: in a worker process the bytes come from outside. */
    const char *string = call->arg;
    if (call->arg_kind == TD_KIND_STRING && call->arg_size > 0 && string[call->arg_size - 1] == 0)
        return string;
    td__words given;
    td_fail(call, TD_ETYPE, "the target reads a string, but the caller gave %s",
            td__value_words(&given, call->arg_kind, call->arg_size));
    leave(call);
}

const void *td_arg_bytes(td_call *call, size_t *size)
{
    if (size)
        *size = call->arg_size;
    return call->arg_size > 0 ? call->arg : NULL;
}

int td_call_return(td_call *call, const void *data, size_t size, int kind)
{
    if (size > TD_VALUE_MAX)
        return td_fail(call, TD_ETOOBIG, "a result of %zu bytes is larger than the limit of %zu", size, TD_VALUE_MAX);
    if (size > 0 && !data)
        return td_fail(call, TD_EINVAL, "a result of %zu bytes at NULL", size);
    void *copy = td__alloc(size);
    if (!copy)
        return td_fail(call, TD_ENOMEM, "out of memory for a result of %zu bytes", size);
    if (size > 0)
        memcpy(copy, data, size);
    td__release(call->result);
    call->result = copy;
    call->result_size = size;
    call->result_kind = kind;
    return 0;
}

int td_return_str(td_call *call, const char *string)
{
    return td_call_return(call, string, string ? strlen(string) + 1 : 0, string ? TD_KIND_STRING : TD_KIND_NONE);
}

int td_return_shared(td_call *call, const void *pointer)
{
    if (!td_shared_is(pointer))
        return td_fail(call, TD_EINVAL, "the result %p does not point into the shared heap", pointer);
    return td_call_return(call, &pointer, sizeof pointer, TD_KIND_SHARED);
}

int td_return_bytes(td_call *call, const void *data, size_t size)
{
    return td_call_return(call, data, size, TD_KIND_BYTES);
}

int td_fail(td_call *call, int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(call->message, sizeof call->message, format, args);
    va_end(args);
    call->failed = code ? code : 1;
    return call->failed;
}

bool td_cancelled(const td_call *call)
{
    /* Relaxed: a hint to stop; nothing is published with it. */
    return td__load_relaxed(call->cancel) != 0;
}

/* The flag is one: fired from this process by td_cancel_fire, from the starter's by td__parties_poke. */
td_cancel *td_call_cancel(const td_call *call)
{
    return call ? (td_cancel *)(uintptr_t)call->cancel : NULL;
}

td_connection *td_call_connection(td_call *call, size_t index)
{
    if (index < call->connection_count)
        return call->connections[index];
    td__fail(TD_EINVAL, "td_call_connection: worker '%s' has no connection %zu: it was given %zu", call->name, index,
             call->connection_count);
    return NULL;
}

size_t td_call_connection_count(const td_call *call)
{
    return call->connection_count;
}

const char *td_call_name(const td_call *call)
{
    return call->name;
}
