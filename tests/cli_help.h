/* tests/cli_help.h — runs the program in processes of its own and makes tiny models for it: one policy, one preference model,
 * with a trained tokenizer. For one test program at a time: everything is static. */
#ifndef DIKAST_TESTS_CLI_HELP_H
#define DIKAST_TESTS_CLI_HELP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/io.h"
#include "base/json.h"
#include "engine/engine.h"
#include "text/chat.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PROGRAM BUILD_DIR "/dikast"
#ifndef DIR
#define DIR "app_cli_test.d"
#endif
#define MODEL DIR "/model"
#define PM DIR "/pm"

#define OK(expr)                                                                                                       \
    do {                                                                                                               \
        if (!(expr)) fail_msg("%s: %s", #expr, err.msg);                                                               \
    } while (0)

/* -- processes ------------------------------------------------------------------------------------------------------
 */

typedef struct {
    int code, sig; /* sig 0: it ended by itself */
    double cpu_s;
    Str out, err;
} Ran;

enum { MAX_WORDS = 24 };
typedef struct {
    char *word[MAX_WORDS];
    const char *in;
    size_t n_in;
    const char *out_path; /* NULL: kept in Ran.out; "": closed */
    int in_fd, out_fd;    /* > 0: used as they are */
} Call;

static void put_fd(int fd, int as) {
    if (dup2(fd, as) < 0) _exit(99);
}

static pid_t start(const Call *c) {
    FILE *in = fopen(DIR "/stdin", "wb");
    assert_non_null(in);
    if (c->n_in) fwrite(c->in, 1, c->n_in, in);
    fclose(in);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0) return pid;
    signal(SIGINT, SIG_DFL); /* a shell's background job ignores it, and so would the program */
    put_fd(c->in_fd > 0 ? c->in_fd : open(DIR "/stdin", O_RDONLY), 0);
    put_fd(open(DIR "/stderr", O_WRONLY | O_CREAT | O_TRUNC, 0600), 2);
    if (c->out_fd > 0)
        put_fd(c->out_fd, 1);
    else if (c->out_path && !c->out_path[0])
        close(1);
    else
        put_fd(open(c->out_path ? c->out_path : DIR "/stdout", O_WRONLY | O_CREAT | O_TRUNC, 0600), 1);
    execv(PROGRAM, c->word);
    _exit(98);
}

static Ran finish(pid_t pid) {
    Ran r = {0};
    Error err = {0};
    struct rusage use;
    int status;
    assert_int_equal(wait4(pid, &status, 0, &use), pid);
    r.sig = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    r.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    if (r.code == 98) fail_msg("%s: cannot be started; build the target dikast first", PROGRAM);
    r.cpu_s = (double)use.ru_utime.tv_sec + (double)use.ru_stime.tv_sec +
              1e-6 * (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
    if (io_exists(DIR "/stdout")) OK(io_read_file(&r.out, DIR "/stdout", 1 << 24, &err));
    OK(io_read_file(&r.err, DIR "/stderr", 1 << 24, &err));
    return r;
}

static void words(Call *c, const char *line) {
    int n = 0;
    c->word[n++] = mem_str("dikast");
    for (const char *p = line; *(p += strspn(p, " "));) {
        assert_true(n < MAX_WORDS - 1);
        size_t len = strcspn(p, " ");
        c->word[n] = mem_alloc(len + 1);
        memcpy(c->word[n++], p, len);
        p += len;
    }
}

static void call_release(Call *c) {
    for (int i = 0; i < MAX_WORDS; i++) free(c->word[i]);
}

static Ran run_call(Call *c, const char *line) {
    words(c, line);
    unlink(DIR "/stdout");
    Ran r = finish(start(c));
    call_release(c);
    return r;
}

/* Words are separated by spaces; none of ours holds one. */
static Ran run_in(const char *line, const char *in, size_t n) {
    Call c = {.in = in, .n_in = n};
    return run_call(&c, line);
}

static Ran run(const char *line) { return run_in(line, NULL, 0); }

static void ran_release(Ran *r) {
    str_release(&r->out);
    str_release(&r->err);
}

static inline void expect_code(const Ran *r, const char *line, int code) {
    if (r->sig || r->code != code)
        fail_msg("dikast %s: code %d signal %d, expected %d; stderr: %s", line, r->code, r->sig, code,
                 str_get(&r->err));
}

static inline void expect_holds(const Str *text, const char *part) {
    if (!strstr(str_get(text), part)) fail_msg("'%s' is not in: %s", part, str_get(text));
}

/* The whole of stdout is one JSON object on one line. */
static inline Json *one_object(const Ran *r, const char *line) {
    Json *j = NULL;
    Error err = {0};
    const char *end = strchr(str_get(&r->out), '\n');
    if (!end || end[1]) fail_msg("dikast %s: expected one line on stdout: %s", line, str_get(&r->out));
    OK(json_parse(&j, r->out.s, r->out.n, 0, line, 1, &err));
    assert_int_equal(json_kind(j), JSON_OBJ);
    return j;
}

static inline const char *member(const Json *j, const char *key) {
    const char *s = json_str(json_get(j, key), NULL);
    return s ? s : "(absent)";
}

/* -- a tiny model ----------------------------------------------------------------------------------------------------
 */

static void louder(void *ud, int index, const ParamInfo *p) {
    Backend *be = ud;
    (void)index;
    if (p->init == INIT_NORMAL || p->init == INIT_RESID) be->op->scale(be, p->w, 10); /* far from uniform */
}

static const char *one_text(void *ud, size_t *n) {
    const char **next = ud, *s = *next;
    *next = NULL;
    *n = s ? strlen(s) : 0;
    return s;
}

static void make_tokenizer(Str *json) {
    const char *special[SENT_COUNT],
        *text = "the judge reads the rules and the judge weighs the replies of the other judge";
    Error err = {0};
    for (int i = 0; i < SENT_COUNT; i++) special[i] = sentinel_spelling((Sentinel)i);
    BpeTrainParams p = {
        .n_vocab = SENT_COUNT + 256 + 12, .split = SPLIT_GPT2, .special = special, .n_special = SENT_COUNT};
    OK(bpe_train(json, &p, one_text, &text, &err));
}

static inline void make_models(void) {
    Pool *pool;
    Backend *be;
    Model m;
    Head lm, score;
    Str json = {0};
    Error err = {0};
    ModelConfig c = {.family = FAMILY_LLAMA,
                     .n_layer = 2,
                     .n_head = 4,
                     .n_kv_head = 2,
                     .d_model = 32,
                     .d_head = 8,
                     .d_ff = 48,
                     .n_vocab = SENT_COUNT + 256 + 12,
                     .max_seq = 128,
                     .norm = NORM_RMS,
                     .pos = POS_ROPE,
                     .mlp = MLP_SWIGLU,
                     .rope_theta = 10000,
                     .norm_eps = 1e-5,
                     .eos_id = 0};
    OK(pool_open(&pool, 1, &err));
    OK(backend_open(&be, "cpu", pool, NULL, &err));
    OK(model_init(&m, be, &c, 5, false, &err));
    OK(head_init(&lm, &m, HEAD_LM, c.n_vocab, 5, false, &err));
    OK(head_init(&score, &m, HEAD_SCORE, 1, 5, false, &err));
    net_visit((Net){&m, &lm, NULL}, louder, be);
    OK(io_make_dirs(MODEL, &err) && io_make_dirs(PM, &err));
    OK(net_save((Net){&m, &lm, NULL}, MODEL, &err));
    OK(net_save((Net){&m, &score, NULL}, PM, &err));
    make_tokenizer(&json);
    OK(io_write_file(MODEL "/tokenizer.json", json.s, json.n, &err));
    OK(io_write_file(PM "/tokenizer.json", json.s, json.n, &err));
    str_release(&json);
    head_release(&score);
    head_release(&lm);
    model_release(&m);
    backend_close(be);
    pool_close(pool);
}

#endif
