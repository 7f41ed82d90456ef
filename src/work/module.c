/* SPDX-License-Identifier: MIT */
/* Functions across an exec; see module.h. The loader's own list of files is the source: no symbols are needed, so that
 * static functions work as well. */
#include "work/module.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>

struct search {
    uintptr_t function; /* 0: only listing */
    td__place *place;
    td__module *modules;
    uint32_t count, room;
};

/* Copies the build id out of a file's notes; 0 if it has none. */
static uint32_t build_id_of(const struct dl_phdr_info *info, unsigned char id[20])
{
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        if (segment->p_type != PT_NOTE)
            continue;
        const char *at = (const char *)(info->dlpi_addr + segment->p_vaddr), *end = at + segment->p_memsz;
        size_t align = segment->p_align == 8 ? 8 : 4;
        while ((size_t)(end - at) >= sizeof(ElfW(Nhdr))) {
            const ElfW(Nhdr) *note = (const void *)at;
            const char *name = at + sizeof *note;
            const char *data = name + ((note->n_namesz + align - 1) & ~(align - 1));
            const char *next = data + ((note->n_descsz + align - 1) & ~(align - 1));
            if (next > end || next <= at)
                break;
            if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == 4 && memcmp(name, "GNU", 4) == 0) {
                uint32_t size = note->n_descsz < 20 ? note->n_descsz : 20;
                memcpy(id, data, size);
                return size;
            }
            at = next;
        }
    }
    return 0;
}

static int visit(struct dl_phdr_info *info, size_t size, void *arg)
{
    (void)size;
    struct search *search = arg;
    const char *path = info->dlpi_name ? info->dlpi_name : "";
    if (!search->function) {
        if (search->count == search->room)
            return 1;
        td__module *module = &search->modules[search->count];
        if (td__format(module->path, sizeof module->path, "%s", path) != strlen(path))
            return 0; /* a path too long to compare: its functions are loaded anew when needed */
        module->base = info->dlpi_addr;
        module->build_id_size = build_id_of(info, module->build_id);
        search->count++;
        return 0;
    }
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        uintptr_t from = info->dlpi_addr + segment->p_vaddr;
        if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_X) || search->function < from ||
            search->function - from >= segment->p_memsz)
            continue;
        search->place->path = path;
        search->place->offset = search->function - info->dlpi_addr;
        search->place->build_id_size = build_id_of(info, search->place->build_id);
        return 1;
    }
    return 0;
}

bool td__module_find(const void *function, td__place *place)
{
    struct search search = { .function = (uintptr_t)function, .place = place };
    place->function = function;
    return function && dl_iterate_phdr(visit, &search) == 1;
}

int td__module_path(const td__place *place, char *path, size_t size)
{
    if (place->path[0] && place->path[0] != '/')
        return td__file_at(place->function, path, size);
    if (strlen(place->path) >= size) {
        errno = ENAMETOOLONG;
        return -1;
    }
    td__format(path, size, "%s", place->path);
    return 0;
}

uint32_t td__module_list(td__module *modules, uint32_t room)
{
    struct search search = { .modules = modules, .room = room };
    dl_iterate_phdr(visit, &search);
    return search.count;
}

static bool same(const unsigned char *id, uint32_t size, const unsigned char *other, uint32_t other_size)
{
    return size == other_size && memcmp(id, other, size) == 0;
}

uint64_t td__module_address(const td__place *place, const td__module *modules, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (!same(place->build_id, place->build_id_size, modules[i].build_id, modules[i].build_id_size))
            continue;
        if (place->build_id_size > 0 || strcmp(place->path, modules[i].path) == 0)
            return modules[i].base + place->offset;
    }
    return 0;
}

void *td__module_load(const char *path, const unsigned char *build_id, uint32_t build_id_size, uint64_t offset,
                      char *why, size_t why_size)
{
    void *handle = dlopen(path[0] ? path : NULL, RTLD_NOW);
    struct link_map *map = NULL;
    if (!handle || dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0 || !map) {
        const char *reason = dlerror();
        td__format(why, why_size, "cannot load '%s' for the target: %s", path, reason ? reason : "unknown reason");
        return NULL;
    }
    void *address = (void *)(uintptr_t)(map->l_addr + offset);
    td__place place;
    if (!td__module_find(address, &place) || place.offset != offset ||
        !same(place.build_id, place.build_id_size, build_id, build_id_size)) {
        td__format(why, why_size, "'%s' is not the file the target came from: it was replaced meanwhile", path);
        return NULL;
    }
    return address;
}
