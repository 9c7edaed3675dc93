// layer: base
/* Configuration: any bytes are read or refused with a report; what was read, dumped and read again dumps the same. */
#include "base/config.h"
#include "base/io.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

typedef struct {
    bool b;
    int e;
    int64_t i;
    double f;
    char *s;
    CfgList l;
} Conf;

// clang-format off
static const CfgKey keys[] = {
    {"a.b", CFG_BOOL,  CFG_RESULT,  offsetof(Conf, b), "true",  0,    0,   "a flag"},
    {"a.e", CFG_ENUM,  CFG_RESULT,  offsetof(Conf, e), "x|y|z", 0,    0,   "a choice"},
    {"a.i", CFG_INT,   CFG_RUNTIME, offsetof(Conf, i), "1",     -100, 1e9, "a count"},
    {"f",   CFG_FLOAT, CFG_RESULT,  offsetof(Conf, f), "0.5",   0,    0,   "a number"},
    {"c.s", CFG_STR,   CFG_RESULT,  offsetof(Conf, s), "",      0,    0,   "a text"},
    {"c.l", CFG_LIST,  CFG_RESULT,  offsetof(Conf, l), "p,q",   0,    0,   "a list"},
};
// clang-format on

static bool load(Conf *c, Str *report, const void *text, size_t n) {
    Error err = {0};
    char path[64];
    int fd = memfd_create("config", MFD_CLOEXEC);
    CHECK(fd >= 0 && write(fd, text, n) == (ssize_t)n, "memfd");
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    *c = (Conf){0};
    bool ok = config_load(c, keys, COUNT_OF(keys), path, NULL, 0, report, &err);
    close(fd);
    CHECK(ok == (report->n == 0) && ok == (err.code == ERR_NONE), "a refusal says why");
    return ok;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n > 1 << 16 || memmem(data, n, "extends", 7)) return 0; /* it would open files of this machine */
    Conf c, d;
    Str report = {0}, a = {0}, b = {0};
    if (load(&c, &report, data, n)) {
        config_dump(&a, &c, keys, COUNT_OF(keys));
        CHECK(load(&d, &report, a.s, a.n), "%s\n%s", a.s, report.s);
        config_dump(&b, &d, keys, COUNT_OF(keys));
        CHECK(strcmp(a.s, b.s) == 0, "dumped twice:\n%s\n%s", a.s, b.s);
        config_release(&c, keys, COUNT_OF(keys));
        config_release(&d, keys, COUNT_OF(keys));
    }
    str_release(&report), str_release(&a), str_release(&b);
    return 0;
}
