/* dikast answer: a model's replies to a file of prompts, for comparisons of any models. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/open.h"
#include "base/io.h"
#include "cai/questions.h"
#include "cai/stage_util.h"

static const Flag flags[] = {{"--out", "FILE", "where the rows go (default: standard output)"},
                             {"--name", "NAME", "what the system is called in the rows (default: MODEL's folder)"},
                             {"--n", "N", "replies to each prompt (default 1)"},
                             SAMPLE_FLAGS("256"),
                             MODEL_FLAGS,
                             {0}};

typedef struct {
    Questions q;
    Sequence *seq;
    GenRequest *req;
    GenResult *res;
    int per, n;
} Asked;

static bool ask(Asked *k, const OpenModel *m, const SampleParams *p, Log *log, Error *err) {
    Str key = {0};
    k->n = k->q.n * k->per;
    k->seq = mem_alloc((size_t)k->q.n * sizeof *k->seq);
    k->req = mem_alloc((size_t)k->n * sizeof *k->req);
    k->res = mem_alloc((size_t)k->n * sizeof *k->res);
    for (int i = 0; i < k->q.n; i++) {
        chat_respond(&k->seq[i], &m->chat, k->q.item[i].dialogue);
        for (int s = 0; s < k->per; s++) {
            str_clear(&key);
            str_printf(&key, "%s/%d", k->q.item[i].id, s);
            k->req[i * k->per + s] = (GenRequest){stage_id(str_get(&key)), {k->seq[i].tok.id, k->seq[i].tok.n}, *p};
        }
    }
    str_release(&key);
    return sequences_ok(k->seq, k->q.n, err) && engine_generate(m->engine, k->req, k->n, k->res, log, NULL, err);
}

/* The prompt fills the model's context: nothing was asked. */
static bool no_room(const GenResult *r) { return r->why == STOP_CONTEXT && r->n == 0; }

static void put_row(Str *out, const Asked *k, int i, const OpenModel *m, const char *name, Str *text) {
    const Question *q = &k->q.item[i / k->per];
    const GenResult *r = &k->res[i];
    bool ended = r->why == STOP_TOKEN;
    JsonOut j;
    str_clear(text);
    tokenizer_decode(m->tok, r->text, r->n - ended, false, text);
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    question_json(&j, q);
    json_out_str(&j, "model", name);
    json_out_str(&j, "prompt_id", q->id);
    json_out_int(&j, "sample", i % k->per);
    json_out_strn(&j, "reply", str_get(text), text->n);
    json_out_int(&j, "tokens", r->n - ended);
    json_out_bool(&j, "ended", ended);
    if (no_room(r)) json_out_bool(&j, "room", false);
    json_out_obj_end(&j);
    str_putc(out, '\n');
}

static void put_counts(const char *file, const char *name, int prompts, int replies, int ended, double seconds) {
    Str text = {0};
    JsonOut j;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "kind", "answers");
    json_out_int(&j, "schema", 1);
    json_out_str(&j, "out", file);
    json_out_str(&j, "system", name);
    json_out_int(&j, "prompts", prompts);
    json_out_int(&j, "replies", replies);
    json_out_int(&j, "ended", ended);
    json_out_num(&j, "seconds", seconds);
    json_out_obj_end(&j);
    print_text(&text);
}

static bool write_all(Asked *k, const OpenModel *m, const Args *a, double seconds, Error *err) {
    const char *file = args_flag(a, &command_answer, "--out");
    Str text = {0}, piece = {0}, name = {0};
    int ended = 0, full = 0;
    open_model_name(&name, m, args_flag(a, &command_answer, "--name"));
    for (int i = 0; i < k->n; i++) {
        put_row(&text, k, i, m, str_get(&name), &piece);
        ended += k->res[i].why == STOP_TOKEN;
        full += no_room(&k->res[i]);
    }
    if (full)
        log_warn(a->log,
                 "%d of %d prompts leave no room for a reply in the model's context of %d tokens: they were not asked",
                 full, k->n, m->model.cfg.max_seq);
    bool ok = !file || io_write_file(file, text.s, text.n, err);
    if (ok && a->json)
        put_counts(file, str_get(&name), k->q.n, k->n, ended, seconds);
    else if (ok && !file)
        print_text(&text);
    if (ok) log_info(a->log, "%d replies to %d prompts, %d ended by themselves", k->n, k->q.n, ended);
    str_release(&text);
    str_release(&piece);
    str_release(&name);
    return ok;
}

static bool run(const Args *a, Error *err) {
    const Command *self = &command_answer;
    Asked k = {0};
    SampleParams p;
    int64_t per;
    OpenModel m = {0};
    double start = now_s();
    if (!sampling_read(&p, a, self, 256, err) || !args_int(a, self, "--n", 1, 1, 1000, &per, err)) return false;
    if (a->json && !args_flag(a, self, "--out"))
        return error_set(err, ERR_CONFIG, "with --json the rows need a file: --out FILE");
    if (!questions_read(&k.q, a->arg[1], err)) return false;
    k.per = (int)per;
    bool open = open_model(&m, a, self, err), ok = open && open_model_need(&m, HEAD_LM, err);
    if (ok && !m.has_chat) {
        *err = m.no_chat;
        ok = error_wrap(err, "%s: no dialogue with this model", str_get(&m.dir));
    }
    p.stop = &m.chat.id[SENT_END];
    p.n_stop = 1;
    bool asked = ok && ask(&k, &m, &p, a->log, err);
    ok = asked && write_all(&k, &m, a, now_s() - start, err);
    if (asked) engine_free_results(k.res, k.n);
    for (int i = 0; k.seq && i < k.q.n; i++) sequence_release(&k.seq[i]);
    free(k.seq);
    free(k.req);
    free(k.res);
    questions_release(&k.q);
    if (open) open_model_close(&m);
    return ok;
}

const Command command_answer = {
    .name = "answer",
    .usage = "answer MODEL PROMPTS [--out FILE] [flags]",
    .help = "a model's replies to a file of prompts\n\n"
            "PROMPTS: rows {id, prompt or messages, kind, category, parent, ..}; what they say is carried into the "
            "rows of\n"
            "replies {.., model, prompt_id, sample, reply, tokens, ended}, which 'dikast compare', 'consistency', "
            "'rate' and\n"
            "'rank' read. Random numbers follow from seed, id and sample: every model is asked under the same ones.",
    .flag = flags,
    .min_arg = 2,
    .max_arg = 2,
    .run = run};
