/* SPDX-License-Identifier: MIT */
/* The pending error of each thread, and the table of codes. */
#include "base/base.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static _Thread_local int pending_code;
static _Thread_local const char *pending_call; /* not NULL: the message is to be made of this and the code's sentence */
static _Thread_local char pending_message[512];

static const struct {
    int code;
    const char *name;
    const char *sentence;
} codes[] = { { TD_OK, "TD_OK", "success" },
              { TD_OWNER_DIED, "TD_OWNER_DIED", "held, and its last owner died holding it" },
#define ROW(name, value, sentence) { name, #name, sentence },
              TD_CODE_MAP(ROW)
#undef ROW
};

const char *td_strerror(int code)
{
    for (size_t i = 0; i < TD__COUNT(codes); i++)
        if (codes[i].code == code)
            return codes[i].sentence;
    return "unknown error";
}

const char *td_error_name(int code)
{
    for (size_t i = 0; i < TD__COUNT(codes); i++)
        if (codes[i].code == code)
            return codes[i].name;
    return "unknown";
}

int td_last_error(void)
{
    return pending_code;
}

const char *td_last_message(void)
{
    if (pending_call) {
        int kept = errno;
        td__format(pending_message, sizeof pending_message, "%s: %s", pending_call, td_strerror(pending_code));
        pending_call = NULL;
        errno = kept;
    }
    return pending_message;
}

int td__pending(void)
{
    if (pending_code < 0)
        return pending_code;
    return td__fail(TD_EINVAL, "the handle is NULL");
}

int td__fail(int code, const char *format, ...)
{
    int kept = errno;
    va_list args;
    va_start(args, format);
    vsnprintf(pending_message, sizeof pending_message, format, args);
    va_end(args);
    pending_code = code;
    pending_call = NULL;
    errno = kept;
    return code;
}

int td__fail_quick(int code, const char *call)
{
    pending_code = code;
    pending_call = call;
    return code;
}

void td__bug(const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(stderr, "tandem: %s\n", text);
    abort();
}

size_t td__format(char *to, size_t size, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(to, size, format, args);
    va_end(args);
    if (n < 0) {
        to[0] = 0;
        return 0;
    }
    return (size_t)n < size ? (size_t)n : size - 1;
}
