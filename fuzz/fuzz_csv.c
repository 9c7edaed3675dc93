// layer: data
/* Texts of rows: CSV, TSV and JSON that is no lines. The first byte chooses the name, and so the container; the rest is
 * the file. Any bytes are rows or an error that names the file; CSV that was read, written again and read again is the
 * same. */
#include "data/csv.h"
#include "data/source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int file_of(const void *data, size_t n, char path[64]) {
    int fd = memfd_create("rows", MFD_CLOEXEC);
    CHECK(fd >= 0 && write(fd, data, n) == (ssize_t)n, "memfd");
    snprintf(path, 64, "/proc/self/fd/%d", fd);
    return fd;
}

/* Records as one line each, fields in quotes; false when it is refused. */
static bool again(Str *out, const void *data, size_t n, char separator) {
    char path[64];
    Error err = {0};
    LineReader *lines;
    int fd = file_of(data, n, path), line = 0;
    CHECK(lines_open(&lines, path, 1 << 20, &err), "%s", err.msg);
    Csv c = {.in = lines, .name = "fuzz", .separator = separator};
    bool ok;
    while ((ok = csv_next(&c, &err)) && c.n > 0) {
        CHECK(c.line > line, "line %d after %d", c.line, line);
        line = c.line;
        for (int i = 0; i < c.n; i++) {
            size_t bad;
            CHECK(str_utf8_valid(c.field[i].s, c.field[i].n, &bad) && c.field[i].s[c.field[i].n] == 0,
                  "a field that is not UTF-8");
            if (i) str_putc(out, separator);
            str_putc(out, '"');
            for (size_t k = 0; k < c.field[i].n; k++) {
                if (c.field[i].s[k] == '"') str_putc(out, '"');
                str_putc(out, c.field[i].s[k]);
            }
            str_putc(out, '"');
        }
        str_putc(out, '\n');
    }
    CHECK(ok || err.code == ERR_FORMAT, "%s", err.msg);
    csv_release(&c);
    lines_close(lines);
    close(fd);
    return ok;
}

static bool packed(const uint8_t *p, size_t n) {
    return n >= 2 && ((p[0] == 0x1F && p[1] == 0x8B) ||
                      (n >= 4 && (!memcmp(p + 1, "\xB5\x2F\xFD", 3) || !memcmp(p + 1, "\x2A\x4D\x18", 3))));
}

static void check_csv(const uint8_t *data, size_t n, char separator) {
    Str once = {0}, twice = {0};
    if (!packed(data, n) && again(&once, data, n, separator) && !packed((const uint8_t *)str_get(&once), once.n)) {
        CHECK(again(&twice, str_get(&once), once.n, separator), "what was written is refused");
        CHECK(once.n == twice.n && memcmp(str_get(&once), str_get(&twice), once.n) == 0,
              "what was written reads back different");
    }
    str_release(&once);
    str_release(&twice);
}

/* Through a name in a folder of its own, as the ending decides. */
static void check_source(const uint8_t *data, size_t n, const char *ending) {
    char path[64], name[64];
    Error err = {0};
    Source *s;
    SourceRow row;
    int fd = file_of(data, n, path), n_row = 0;
    snprintf(name, sizeof name, "/tmp/fuzz_csv_%ld%s", (long)getpid(), ending);
    unlink(name);
    CHECK(symlink(path, name) == 0, "symlink");
    bool ok = source_open(&s, name, false, NULL, &err);
    if (ok) {
        int line = 0;
        while ((ok = source_next(s, &row, &err)) && (row.text || row.value) && n_row++ < 10000) {
            CHECK((row.text == NULL) != (row.value == NULL) && row.line >= line, "a row of line %d after one of %d",
                  row.line, line);
            line = row.line;
            Json *parsed;
            if (row.text && json_parse(&parsed, row.text, row.n, JSON_NUL_OK, name, row.line, &err))
                json_release(parsed);
            if (n_row % 3 == 0) source_forget(s);
        }
        source_close(s);
    }
    CHECK(ok || err.code == ERR_FORMAT, "%s", err.msg);
    unlink(name);
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const char *const ending[] = {".csv", ".tsv", ".json", ".jsonl"};
    if (n == 0) return 0;
    int k = data[0] % 4;
    if (k < 2) check_csv(data + 1, n - 1, k ? '\t' : ',');
    check_source(data + 1, n - 1, ending[k]);
    return 0;
}
