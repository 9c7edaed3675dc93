// layer: app
// label: slow
/* `dikast launch` over the program itself, one rank: whatever is done to it, in the end there are the bytes of a run
 * that nobody disturbed. */
#include "launch_help.h"

#include "base/rng.h"

#define TINY TEST_DIR "/../conf/tiny.yaml"
#define RUN "out/runs/tiny"
#define LAUNCH RUN "/launch"

/* States are written often, so that there is something to go on from. */
#define COMMAND "run", (char *)(uintptr_t)TINY, "-q", "rl.steps=8", "run.state_s=0.02"

static char reference[3][65];
static double took; /* seconds of the undisturbed run */

static pid_t start(Case *c) {
    char *const argv[] = {(char *)(uintptr_t)(BUILD_DIR "/dikast"), "launch", "-v", "--", COMMAND, NULL};
    return spawn_in(c, argv, "SOURCE_DATE_EPOCH=0");
}

static int command(Case *c, char *const *words) {
    char *argv[16] = {(char *)(uintptr_t)(BUILD_DIR "/dikast")};
    for (int i = 0; words[i]; i++) argv[i + 1] = words[i];
    return launch_wait(c, spawn_in(c, argv, "SOURCE_DATE_EPOCH=0"));
}

/* SHA-256 of the policy and of both reports. */
static bool result(char sha[3][65], const Case *c) {
    static const char *const file[] = {"report.json", "report.html"};
    char path[900];
    Json *j;
    Error err = {0};
    snprintf(path, sizeof path, "%s/" RUN "/stages.json", c->dir);
    if (!json_read_file(&j, path, 0, &err)) return false;
    const char *rl = json_str(json_get(json_get(j, "rl"), "dir"), NULL);
    snprintf(path, sizeof path, "%s/%s/model/model.safetensors", c->dir, rl ? rl : "");
    bool ok = sha256_file(sha[0], path, &err);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/" RUN "/%s", c->dir, file[i]);
        ok = ok && sha256_file(sha[i + 1], path, &err);
    }
    json_release(j);
    return ok;
}

static void need_same(Case *c) {
    char sha[3][65];
    need(c, result(sha, c), "there is no result");
    for (int i = 0; i < 3 && !c->failed[0]; i++) need(c, !strcmp(sha[i], reference[i]), "result %d differs", i);
}

static bool is_over(Case *c) {
    char *status = text_of(c, LAUNCH "/STATUS");
    bool over = !strncmp(status, "done", 4) || !strncmp(status, "failed", 6);
    free(status);
    return over;
}

/* Every kill meets a rank that has reported and saved something, so none of it is a crash loop. */
static void killed_anywhere(Case *c) {
    enum { KILLS = 12 };
    Rng rng = {20261127, RNG_TEST};
    pid_t p = start(c);
    int n = 0, last = 0;
    for (int i = 0; i < KILLS && !is_over(c); i++) {
        int saved = count_events(c, "checkpoint");
        double until = now_s() + PATIENCE_S;
        while (!is_over(c) && now_s() < until &&
               (rank_pid(c, 0) == last || (i > 0 && count_events(c, "checkpoint") == saved)))
            nap(0.005);
        nap(took / KILLS * rng_uniform(rng, (uint64_t)i, 0));
        last = rank_pid(c, 0);
        n += kill(last, SIGKILL) == 0;
    }
    need_code(c, launch_wait(c, p), 0);
    need(c, count_events(c, "fault") >= 3, "only %d of %d kills met a rank", count_events(c, "fault"), n);
    need_same(c);
    need_text(c, LAUNCH "/STATUS", "killed by signal 9");
}

static void stopped_process(Case *c) {
    pid_t p = start(c);
    wait_rank(c, 0);
    wait_event(c, "checkpoint");
    kill(rank_pid(c, 0), SIGSTOP);
    need_code(c, launch_wait(c, p), 0);
    Event e = event(c, "silent_rank", 0);
    need(c, strstr(e.msg, "stopped (SIGSTOP)") != NULL, "%s", e.msg);
    need_same(c);
}

static void interrupted(Case *c, int sig) {
    pid_t p = start(c);
    wait_event(c, "checkpoint");
    nap(took / 4);
    kill(p, sig);
    need_code(c, launch_wait(c, p), 75);
    need_text(c, LAUNCH "/STATUS", "stopped: ");
    need_code(c, launch_wait(c, start(c)), 0);
    need_same(c);
}

static void sigterm(Case *c) { interrupted(c, SIGTERM); }
static void sigusr1(Case *c) { interrupted(c, SIGUSR1); }

/* The rank hears of its supervisor's death by SIGTERM, saves and leaves. */
static void supervisor_killed(Case *c) {
    pid_t p = start(c);
    wait_event(c, "checkpoint");
    nap(took / 5);
    int rank = rank_pid(c, 0);
    kill(p, SIGKILL);
    need_code(c, launch_wait(c, p), 1000 + SIGKILL);
    need_code(c, adopted_wait(c, rank, 12), 75);
    need_code(c, launch_wait(c, start(c)), 0);
    need_same(c);
}

static void refusals(Case *c) {
    need_code(c, command(c, (char *[]){"launch", "--", "chat", "model", NULL}), 2);
    need_text(c, "said", "'chat' cannot be launched");
    need_code(c, command(c, (char *[]){"launch", "-n", "2", "--", "run", (char *)(uintptr_t)TINY, NULL}), 2);
    need_code(c,
              command(c, (char *[]){"launch", "-n", "2", "--via", "mpirun", "--", "run", (char *)(uintptr_t)TINY,
                                    "model.n_layer=3", "pm.n_layer=3", "dist.pp=3", NULL}),
              2);
    need_text(c, "said", "2 ranks, expected at least 3");
    need_code(c, command(c, (char *[]){"launch", "--", "run", (char *)(uintptr_t)TINY, "rl.lrr=1", NULL}), 2);
    need_text(c, "said", "did you mean 'rl.lr'");
    need_code(c, command(c, (char *[]){"launch", "--via", "ssh", "--", "run", (char *)(uintptr_t)TINY, NULL}), 2);
    need_code(c, command(c, (char *[]){"launch", "--", "run", (char *)(uintptr_t)TINY, "data.source=files", NULL}), 3);
    need(c, event(c, "attempt", 1).t == 0, "a mistake in the configuration was tried again");
}

static void two_supervisors(Case *c) {
    pid_t p = start(c);
    wait_event(c, "hello");
    need_code(c, launch_wait(c, start(c)), 2);
    need_text(c, "said", "another supervisor is at work");
    need_code(c, launch_wait(c, p), 0);
}

static void gate_missed(Case *c) {
    need_code(c, command(c, (char *[]){"launch", "--", COMMAND, "eval.gates=[eval.rl.harm.named <= -1]", NULL}), 6);
    need(c, count_events(c, "attempt") == 1, "a gate that was missed was tried again");
}

static Case cases[] = {
    {.name = "killed_anywhere", .run = killed_anywhere, .launch = LAUNCH},
    {.name = "stopped_process", .run = stopped_process, .launch = LAUNCH},
    {.name = "run_sigterm", .run = sigterm, .launch = LAUNCH},
    {.name = "run_sigusr1", .run = sigusr1, .launch = LAUNCH},
    {.name = "run_supervisor_killed", .run = supervisor_killed, .launch = LAUNCH},
    {.name = "refusals", .run = refusals, .launch = LAUNCH},
    {.name = "run_two_supervisors", .run = two_supervisors, .launch = LAUNCH},
    {.name = "gate_missed", .run = gate_missed, .launch = LAUNCH},
};

/* A run without a supervisor. */
static bool undisturbed(void) {
    Case c = {.name = "undisturbed"};
    char *const argv[] = {(char *)(uintptr_t)(BUILD_DIR "/dikast"), COMMAND, NULL};
    begin(&c);
    double begun = now_s();
    need_code(&c, launch_wait(&c, spawn_in(&c, argv, "SOURCE_DATE_EPOCH=0")), 0);
    took = now_s() - begun;
    need(&c, result(reference, &c), "there is no result");
    if (c.failed[0]) fprintf(stderr, "undisturbed run: %s (%s)\n", c.failed, c.dir);
    finish(&c);
    return !c.failed[0];
}

int main(int argc, char **argv) {
    return undisturbed() ? run_cases(cases, COUNT_OF(cases), argc > 1 ? argv[1] : NULL) : 1;
}
