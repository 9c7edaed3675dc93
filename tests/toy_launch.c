/* tests/toy_launch.c — the supervisor over toy ranks, as a program: what tests and tests/faults/ start and kill.
 *
 *   toy_launch [-n N] [--via "mpirun ..."] [--hosts a:2,b:2] [--address A] [--group G] [--micro M] [--floor S] [--hello
 * S] DIR STEPS            supervises toy_rank beside it; its files are in DIR/launch; exit codes as dikast's */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dist/supervise.h"

static const char *flag(int *argc, char **argv, const char *name, const char *otherwise) {
    for (int i = 1; i + 1 < *argc; i++) {
        if (strcmp(argv[i], name)) continue;
        const char *value = argv[i + 1];
        memmove(argv + i, argv + i + 2, (size_t)(*argc - i - 1) * sizeof *argv);
        *argc -= 2;
        return value;
    }
    return otherwise;
}

static int words(const char *out[16], char *text) {
    int n = 0;
    for (char *w = strtok(text, " "); w && n < 15; w = strtok(NULL, " ")) out[n++] = w;
    out[n] = NULL;
    return n;
}

int main(int argc, char **argv) {
    static LaunchConfig c;
    static const char *launcher[16];
    char rank[4096], dir[4096], via[1000];
    Error err = {0};
    LaunchResult result;
    snprintf(via, sizeof via, "%s", flag(&argc, argv, "--via", "local"));
    c.n = atoi(flag(&argc, argv, "-n", "4"));
    c.hosts = flag(&argc, argv, "--hosts", NULL);
    c.address = flag(&argc, argv, "--address", NULL);
    c.group = atoi(flag(&argc, argv, "--group", "1"));
    c.micro = atoi(flag(&argc, argv, "--micro", "8"));
    c.floor_s = atof(flag(&argc, argv, "--floor", "2"));
    c.hello_s = atof(flag(&argc, argv, "--hello", "30"));
    CHECK(argc == 3, "usage: toy_launch [flags] DIR STEPS");
    const char *slash = strrchr(argv[0], '/');
    snprintf(rank, sizeof rank, "%.*stoy_rank", slash ? (int)(slash - argv[0]) + 1 : 0, argv[0]);
    snprintf(dir, sizeof dir, "%s/launch", argv[1]);
    const char *const program[] = {rank, argv[1], argv[2], NULL};
    c.dir = dir;
    c.argv = program;
    if (strcmp(via, "local")) {
        words(launcher, via);
        c.via = strstr(launcher[0], "srun") ? VIA_SRUN : VIA_MPIRUN;
        c.launcher = launcher;
    }
    Log *log = log_new(LOG_NORMAL);
    bool ok = supervise(&result, &c, log, &err);
    log_free(log);
    if (result.stopped_by_signal) raise(result.signal);
    if (!ok) fprintf(stderr, "toy_launch: %s\n", err.msg);
    return ok ? 0 : error_exit_code(err.code);
}
