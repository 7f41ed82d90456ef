/* SPDX-License-Identifier: MIT */
/*
 * Functions across an exec: the same program, started anew, has its files at other addresses. A function is therefore
 * known as (file, offset), and the file is checked by its build id (or, lacking one, by its path), so that a file that
 * was replaced on disk meanwhile is noticed instead of run.
 */
#ifndef TD_WORK_MODULE_H
#define TD_WORK_MODULE_H

#include "work/segment.h"

typedef struct td__place {
    const void *function;
    const char *path; /* "": the program itself; belongs to the loader, which has it as it was given */
    uint64_t offset;
    uint32_t build_id_size;
    unsigned char build_id[20];
} td__place;

/* Where a function of this process is; false if it is in no loaded file. */
bool td__module_find(const void *function, td__place *place);

/* The file's absolute name, as long as the directory may have changed since it was loaded. 0, or -1 with errno. */
int td__module_path(const td__place *place, char *path, size_t size);

/* The loaded files of this process. Returns their number, at most `room`. */
uint32_t td__module_list(td__module *modules, uint32_t room);

/* The address in a process with these modules; 0 if that one has not the file. */
uint64_t td__module_address(const td__place *place, const td__module *modules, uint32_t count);

/* Loads the file and finds the address in this process. NULL, and a sentence in `why`. */
void *td__module_load(const char *path, const unsigned char *build_id, uint32_t build_id_size, uint64_t offset,
                      char *why, size_t why_size);

#endif
