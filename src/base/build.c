#include "base/build.h"

#include <elf.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static size_t padded(size_t n) { return (n + 3) / 4 * 4; }

/* A note: ElfW(Nhdr), name, description, both padded to 4. */
static void read_notes(char *out, const unsigned char *p, size_t n) {
    ElfW(Nhdr) h;
    while (n >= sizeof h) {
        memcpy(&h, p, sizeof h);
        size_t all = sizeof h + padded(h.n_namesz) + padded(h.n_descsz);
        if (all > n) return;
        const unsigned char *name = p + sizeof h, *id = name + padded(h.n_namesz);
        if (h.n_type == NT_GNU_BUILD_ID && h.n_namesz == 4 && !memcmp(name, "GNU", 4) && 2 * h.n_descsz < BUILD_ID_MAX)
            for (size_t i = 0; i < h.n_descsz; i++) snprintf(out + 2 * i, 3, "%02x", id[i]);
        p += all;
        n -= all;
    }
}

/* Is this the object that holds us? Then its notes are read. */
static int look(struct dl_phdr_info *info, size_t size, void *ud) {
    uintptr_t here = (uintptr_t)&build_id;
    bool ours = false;
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *s = &info->dlpi_phdr[i];
        uintptr_t at = info->dlpi_addr + s->p_vaddr;
        ours = ours || (s->p_type == PT_LOAD && here >= at && here - at < s->p_memsz);
    }
    for (int i = 0; ours && i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *s = &info->dlpi_phdr[i];
        if (s->p_type == PT_NOTE) read_notes(ud, (const unsigned char *)(info->dlpi_addr + s->p_vaddr), s->p_memsz);
    }
    return ours;
}

void build_id(char out[BUILD_ID_MAX]) {
    out[0] = 0;
    dl_iterate_phdr(look, out);
}
