/* SPDX-License-Identifier: MIT */
/*
 * The end of a worker process, by whichever method it was started.
 *
 * Order: the program's own end (workers of this worker joined, stdio flushed), then the outcome, then _exit. So whoever
 * has joined finds all output written. The thread's party ends before the outcome is told, so that he may also free
 * what the target has left locked.
 */
#include "sync/party.h"
#include "work/worker.h"

#include <errno.h>
#include <limits.h>

typedef struct end {
    td_state state;
    int code;
    char message[TD_MESSAGE_MAX];
} end;

/* What goes wrong after a target has returned makes its success a failure; a failure stays what it was. */
static void fail(end *end, int code, const char *what, int error)
{
    if (end->state != TD_RETURNED)
        return;
    end->state = TD_FAILED;
    end->code = code;
    td__format(end->message, sizeof end->message, "%s: %s", what, strerror(error));
}

static void put_result(td__slot *slot, const td_call *call, td__room *room, void *context, end *end)
{
    td__reply *reply = &slot->reply;
    void *to = slot->result_data;
    bool large = call->result_size > sizeof slot->result_data;
    if (large)
        to = room(context, call->result_size);
    if (!to) {
        fail(end, TD_ENOMEM, "no memory for its result", errno);
        return;
    }
    memcpy(to, call->result, call->result_size);
    reply->in_window = large;
    reply->result_size = call->result_size;
    reply->result_kind = (uint32_t)call->result_kind;
}

/* To end us takes the kernel longer than all that a joiner still has to do: if he was put on this processor, he shall
 * go first. But not if no spare is warm: then what he may start next waits for our end, after which the spawner makes
 * one. */
static bool joiner_first(void)
{
    const td__segment *segment = td__the.segment;
    if (!segment) /* the fork method */
        return true;
    for (uint32_t lane = 0; lane < TD__SPARES_MAX; lane++)
        if (td__spare_waits(segment, lane))
            return true;
    return false;
}

_Noreturn void td__publish(td__slot *slot, td_state state, int code, const char *message, const td_call *call,
                           td__room *room, void *context)
{
    end end = { .state = state, .code = code };
    for (size_t i = 0; call && i < call->connection_count; i++)
        td__connection_take_back(call->connections[i]);
    td__copy_string(end.message, sizeof end.message, message);
    int error = td__program_end_worker();
    if (error)
        fail(&end, TD_ESYSTEM, "cannot write all of its output", error);
    td__reply *reply = &slot->reply;
    reply->in_window = 0;
    reply->result_size = 0;
    reply->result_kind = TD_KIND_NONE;
    if (call && call->result)
        put_result(slot, call, room, context, &end);
    reply->state = (uint32_t)end.state;
    reply->code = end.code;
    td__copy_string(reply->message, sizeof reply->message, end.message);
    td__coverage_save(); /* who has joined may end the program, and that what is left of us */
    td__party_end();     /* before others may think that it is over, and free what this thread held */
    /* Release: publishes the reply; acquired by the joiner in process.c. */
    td__fetch_or_acq_rel(&slot->done, TD__PUBLISHED);
    if (td__futex_wake(&slot->done, INT_MAX, true) > 0 && joiner_first())
        td__yield();
    td__exit_now(td__exitcode_of(end.code));
}
