/* fuzz/replay.c — runs a fuzz target over the files of folders, under any compiler: every input that once broke a
 * parser stays a test. Usage: replay_x FOLDER... */
#include "base/io.h"

#include <stdio.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static bool replay(const char *dir, int *count) {
    Error err = {0};
    char **names;
    int n;
    if (!io_list_dir(&names, &n, dir, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        return false;
    }
    bool ok = true;
    Str path = {0}, data = {0};
    for (int i = 0; i < n && ok; i++) {
        str_clear(&path);
        str_printf(&path, "%s/%s", dir, names[i]);
        ok = io_read_file(&data, path.s, (size_t)1 << 30, &err);
        if (!ok) break;
        printf("%s\n", names[i]);
        fflush(stdout); /* a crash then names its input */
        LLVMFuzzerTestOneInput((const uint8_t *)data.s, data.n);
        ++*count;
    }
    if (!ok) fprintf(stderr, "%s\n", err.msg);
    str_release(&path);
    str_release(&data);
    io_free_list(names, n);
    return ok;
}

int main(int argc, char **argv) {
    int count = 0;
    for (int i = 1; i < argc; i++) {
        if (!replay(argv[i], &count)) return 1;
    }
    printf("%d inputs\n", count);
    return count > 0 ? 0 : 1; /* an empty corpus proves nothing */
}
