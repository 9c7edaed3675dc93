// layer: base
/* Lines of plain, gzip and zstd files: any bytes end in lines or an error; plain lines are those a simple loop finds.
 */
#include "base/io.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    Error err = {0};
    char path[64];
    int fd = memfd_create("lines", MFD_CLOEXEC);
    CHECK(fd >= 0 && write(fd, data, n) == (ssize_t)n, "memfd");
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    LineReader *r;
    CHECK(lines_open(&r, path, 1000, &err), "%s", err.msg);
    bool packed =
        n >= 2 && ((data[0] == 0x1F && data[1] == 0x8B) || (n >= 4 && memcmp(data + 1, "\xB5\x2F\xFD", 3) == 0) ||
                   (n >= 4 && memcmp(data + 1, "\x2A\x4D\x18", 3) == 0));
    const char *line;
    size_t len, at = 0;
    int64_t count = 0;
    while (lines_next(r, &line, &len, &err)) {
        count++;
        CHECK(lines_number(r) == count && len <= 1000 && line[len] == 0, "line %lld", (long long)count);
        if (packed) {
            if (count > 100000) break; /* a bomb of empty lines */
            continue;
        }
        if (count == 1 && n >= 3 && memcmp(data, "\xEF\xBB\xBF", 3) == 0) at = 3;
        CHECK(at + len <= n && (len == 0 || memcmp(data + at, line, len) == 0), "line %lld differs", (long long)count);
        const uint8_t *newline = memchr(data + at, '\n', n - at);
        at = newline ? (size_t)(newline - data) + 1 : n;
    }
    CHECK(packed || err.code != ERR_NONE || at == n, "text is left over");
    lines_close(r);
    close(fd);
    return 0;
}
