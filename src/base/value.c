/* SPDX-License-Identifier: MIT */
/* What is asked for and what was given, in words, for the sentences about values that do not match. */
#include "base/base.h"
#include <tandem/call.h>

#include <inttypes.h>

const char *td__value_words(td__words *words, int kind, uint64_t size)
{
    static const char *const names[] = {
        [TD_KIND_SIGNED] = "a signed integer",
        [TD_KIND_UNSIGNED] = "an unsigned integer",
        [TD_KIND_FLOAT] = "a floating-point number",
        [TD_KIND_BOOL] = "a bool",
        [TD_KIND_STRUCT] = "a struct",
        [TD_KIND_STRING] = "a string",
        [TD_KIND_BYTES] = "a block",
    };
    if (kind == TD_KIND_NONE)
        return "no value";
    if (kind == TD_KIND_SHARED)
        return "a pointer into the shared heap";
    const char *name = kind > 0 && kind < (int)TD__COUNT(names) ? names[kind] : "a value of unknown kind";
    td__format(words->text, sizeof words->text, "%s of %" PRIu64 " bytes", name, size);
    return words->text;
}
