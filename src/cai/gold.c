#include "cai/gold.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"
#include "cai/stage_util.h"

extern char **environ;

static const char *const verdict_name[VERDICT_COUNT] = {"comply", "refuse_reason", "refuse", "evade", "other"};

const char *verdict_word(Verdict v) {
    CHECK((int)v >= 0 && v < VERDICT_COUNT, "verdict %d", (int)v);
    return verdict_name[v];
}

Verdict verdict_find(const char *word) {
    int i = 0;
    while (i < VERDICT_COUNT && strcmp(word, verdict_name[i])) i++;
    return (Verdict)i;
}

bool gold_program(char out[1024], const RunConfig *cfg, Error *err) {
    if (cfg->eval.gold[0])
        snprintf(out, 1024, "%s", cfg->eval.gold);
    else {
        Str path = {0};
        bool known = io_beside_program(&path, "dikast-gold", err);
        snprintf(out, 1024, "%s", str_get(&path));
        str_release(&path);
        if (!known) return false;
    }
    if (access(out, X_OK) == 0) return true;
    return error_set(err, ERR_CONFIG, "the tiny world's gold program is not at %s; set eval.gold to it", out);
}

static bool run_program(const char *program, const char *in, const char *out, Error *err) {
    posix_spawn_file_actions_t fa;
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_addopen(&fa, STDOUT_FILENO, out, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    char *argv[] = {(char *)program, (char *)in, NULL};
    pid_t pid;
    int rc = posix_spawn(&pid, program, &fa, NULL, argv, environ), status = 0;
    posix_spawn_file_actions_destroy(&fa);
    if (rc) {
        errno = rc;
        return error_errno(err, "cannot start", program);
    }
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return error_errno(err, "cannot wait for", program);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return true;
    return error_set(err, ERR_STATE, "%s failed with status %d on %s", program,
                     WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), in);
}

typedef struct {
    Verdict *verdict;
    int at, n;
} Verdicts;

static bool read_verdict(void *ud, const Json *row, int line, Error *err) {
    Verdicts *v = ud;
    const char *word;
    if (!json_need_str(row, "verdict", &word, NULL, err)) return false;
    if (v->at >= v->n) return error_set(err, ERR_FORMAT, "line %d: more verdicts than replies", line);
    Verdict found = verdict_find(word);
    v->verdict[v->at++] = found < VERDICT_COUNT ? found : VERDICT_OTHER;
    return true;
}

bool gold_ask(Verdict *verdict, int n, const char *program, const char *dir, const char *in, const char *out,
              Error *err) {
    Str from = {0}, to = {0};
    Verdicts v = {verdict, 0, n};
    path_join(&from, dir, in);
    path_join(&to, dir, out);
    bool ok = run_program(program, str_get(&from), str_get(&to), err) && jsonl_each(dir, out, read_verdict, &v, err);
    if (ok && v.at != n) ok = error_set(err, ERR_STATE, "%s gave %d verdicts for %d replies", program, v.at, n);
    str_release(&from);
    str_release(&to);
    return ok;
}
