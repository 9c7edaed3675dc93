/* Behind dikast.h: plain types outside, the modules' types inside. Nothing is kept between calls but what an object
 * owns. */
#include "dikast.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cai/constitution.h"
#include "cai/pipeline.h"
#include "engine/engine.h"
#include "text/chat.h"

/* -- errors ---------------------------------------------------------------------------------------------------------
 */

static bool fail(dikast_error *out, const Error *err) {
    out->code = (dikast_code)error_exit_code(err->code);
    snprintf(out->message, sizeof out->message, "%s", err->msg);
    return false;
}

/* Every call begins here, so that a success leaves no message of an earlier failure. */
static void begin(dikast_error *out) {
    CHECK(out, "err is NULL; dikast.h asks for a dikast_error");
    *out = (dikast_error){0};
}

const char *dikast_version(void) { return DIKAST_VERSION; }

/* -- runs -----------------------------------------------------------------------------------------------------------
 */

typedef struct {
    dikast_result out; /* first: what the caller holds */
    PipelineResult run;
    dikast_stage stage[COUNT_OF(((PipelineResult *)0)->stage)];
    dikast_gate gate[COUNT_OF(((PipelineResult *)0)->gate)];
} RunResult;

static void fill_result(RunResult *r) {
    dikast_result *out = &r->out;
    *out = (dikast_result){.directory = r->run.run_dir, .report = r->run.report, .seconds = r->run.seconds};
    out->stage = r->stage;
    out->gate = r->gate;
    for (int i = 0; i < r->run.n_stage; i++) {
        const StageResult *s = &r->run.stage[i];
        if (s->applies) r->stage[out->n_stage++] = (dikast_stage){s->name, s->key, s->dir, s->seconds, s->cached};
    }
    for (int i = 0; i < r->run.n_gate; i++) {
        const Gate *g = &r->run.gate[i];
        r->gate[out->n_gate++] = (dikast_gate){g->text, g->value, g->bound, g->ok};
    }
}

bool dikast_run(dikast_result **out, const char *configuration, const dikast_run_options *options, dikast_error *err) {
    static const dikast_run_options plain;
    const dikast_run_options *o = options ? options : &plain;
    RunConfig cfg;
    Str report = {0};
    Error e = {0};
    begin(err);
    *out = NULL;
    if (!run_config_load(&cfg, configuration, o->set, (int)o->n_set, &report, &e)) {
        fail(err, &e); /* the report says each mistake and its place, the error only how many */
        if (report.n > 0) snprintf(err->message, sizeof err->message, "%s", str_get(&report));
        str_release(&report);
        return false;
    }
    str_release(&report);
    RunResult *r = mem_alloc(sizeof *r);
    Log *log = log_new(o->verbosity <= 0 ? LOG_QUIET : o->verbosity == 1 ? LOG_NORMAL : LOG_VERBOSE);
    bool ok = pipeline_run(&r->run, &cfg, configuration, o->only, log, NULL, &e);
    log_free(log);
    run_config_release(&cfg);
    fill_result(r);
    *out = &r->out;
    return ok || fail(err, &e);
}

void dikast_result_free(dikast_result *result) { free(result); /* RunResult begins with it */ }

/* -- tokenizers: a dikast_tokenizer is a Tokenizer -------------------------------------------------------------------
 */

static const Tokenizer *tokenizer_of(const dikast_tokenizer *t) { return (const Tokenizer *)t; }

bool dikast_tokenizer_open(dikast_tokenizer **out, const char *path, dikast_error *err) {
    Tokenizer *t = NULL;
    Error e = {0};
    begin(err);
    *out = NULL;
    if (!tokenizer_open(&t, path, &e)) return fail(err, &e);
    *out = (dikast_tokenizer *)t;
    return true;
}

void dikast_tokenizer_close(dikast_tokenizer *tokenizer) {
    if (tokenizer) tokenizer_close((Tokenizer *)tokenizer);
}

int dikast_tokenizer_size(const dikast_tokenizer *tokenizer) { return tokenizer_n_vocab(tokenizer_of(tokenizer)); }

size_t dikast_encode(const dikast_tokenizer *tokenizer, const char *text, size_t n, int32_t *ids, size_t room) {
    TokBuf tok = {0};
    tokenizer_encode(tokenizer_of(tokenizer), text, n, &tok);
    size_t count = (size_t)tok.n, copied = count < room ? count : room;
    if (copied > 0) memcpy(ids, tok.id, copied * sizeof *ids);
    tokbuf_release(&tok);
    return count;
}

size_t dikast_decode(const dikast_tokenizer *tokenizer, const int32_t *ids, size_t n, char *text, size_t room) {
    Str s = {0};
    tokenizer_decode(tokenizer_of(tokenizer), ids, (int)n, false, &s);
    size_t count = s.n, copied = count < room ? count : room;
    if (copied > 0) memcpy(text, s.s, copied);
    str_release(&s);
    return count;
}

/* -- models ---------------------------------------------------------------------------------------------------------
 */

struct dikast_model {
    Pool *pool;
    Backend *be;
    Tokenizer *tok;
    Chat chat;
    Model trunk;
    Head head;
    bool has_trunk, has_head;
    Engine *engine;
};

static bool open_parts(dikast_model *m, const char *dir, int threads, Error *err) {
    HeadKind kind;
    if (threads < 0) return error_set(err, ERR_CONFIG, "threads must be 0 (all) or more, found %d", threads);
    if (!pool_open(&m->pool, threads, err) || !backend_open(&m->be, "cpu", m->pool, NULL, err) ||
        !model_head_kind(&kind, dir, err) || !tokenizer_open(&m->tok, dir, err) ||
        !chat_open(&m->chat, m->tok, dir, (int64_t)time(NULL), err))
        return false;
    m->has_trunk = model_open(&m->trunk, m->be, dir, false, err);
    m->has_head = m->has_trunk && head_open(&m->head, &m->trunk, kind, dir, false, err);
    if (!m->has_head) return false;
    if (kind == HEAD_SCORE && m->head.n_out != 1)
        return error_set(err, ERR_FORMAT, "%s: a scoring model with %d outputs; this library reads those with one", dir,
                         m->head.n_out);
    if (tokenizer_n_vocab(m->tok) > m->trunk.cfg.n_vocab)
        return error_set(err, ERR_FORMAT, "%s: the tokenizer has %d ids, the model's vocabulary %d", dir,
                         tokenizer_n_vocab(m->tok), m->trunk.cfg.n_vocab);
    return engine_open(&m->engine, (Net){&m->trunk, &m->head, NULL}, &(EngineConfig){.share_prefix = true}, err);
}

bool dikast_model_open(dikast_model **out, const char *directory, int threads, dikast_error *err) {
    Error e = {0};
    begin(err);
    *out = NULL;
    dikast_model *m = mem_alloc(sizeof *m);
    if (open_parts(m, directory, threads, &e)) {
        *out = m;
        return true;
    }
    dikast_model_close(m);
    return fail(err, &e);
}

void dikast_model_close(dikast_model *model) {
    if (!model) return;
    engine_close(model->engine);
    if (model->has_head) head_release(&model->head);
    if (model->has_trunk) model_release(&model->trunk);
    chat_close(&model->chat);
    if (model->tok) tokenizer_close(model->tok);
    backend_close(model->be);
    pool_close(model->pool);
    free(model);
}

dikast_model_info dikast_model_about(const dikast_model *model) {
    const ModelConfig *c = &model->trunk.cfg;
    return (dikast_model_info){model->head.kind == HEAD_SCORE, c->n_vocab, c->max_seq, model_config_params(c)};
}

const dikast_tokenizer *dikast_model_tokenizer(const dikast_model *model) {
    return (const dikast_tokenizer *)model->tok;
}

static const char *const role_name[] = {"system", "user", "assistant"};

static bool read_roles(Message *to, const dikast_message *from, size_t n, Error *err) {
    for (size_t i = 0; i < n; i++) {
        int role = 0;
        while (role < COUNT_OF(role_name) && strcmp(role_name[role], from[i].role)) role++;
        if (role == COUNT_OF(role_name))
            return error_set(err, ERR_CONFIG, "message %zu: role '%s'; expected system, user or assistant", i + 1,
                             from[i].role);
        if (role == ROLE_SYSTEM && i > 0)
            return error_set(err, ERR_CONFIG, "message %zu: a system message stands first", i + 1);
        to[i] = (Message){(Role)role, from[i].text};
    }
    return (n > 0 && to[n - 1].role == ROLE_USER) ||
           error_set(err, ERR_CONFIG, "the dialogue must end with a user's turn");
}

/* The dialogue up to <|assistant|>, leaving room for `more` tokens of the context; kind: what the caller's verb needs.
 */
static bool start_reply(Sequence *s, const dikast_model *m, HeadKind kind, const dikast_message *message, size_t n,
                        Error *err) {
    if (m->head.kind != kind)
        return error_set(err, ERR_CONFIG,
                         kind == HEAD_LM ? "this is a scoring model; it neither writes nor rates text token by token"
                                         : "this is a language model; a score takes a preference model");
    Message *list = mem_alloc((n + 1) * sizeof *list);
    bool ok = read_roles(list, message, n, err);
    if (ok) chat_respond(s, &m->chat, (Dialogue){list, (int)n});
    free(list);
    return ok && sequence_ok(s, err);
}

static bool fits(const dikast_model *m, int n, Error *err) {
    int max = m->trunk.cfg.max_seq;
    return n <= max ||
           error_set(err, ERR_CONFIG, "dialogue and reply have %d tokens, the model's context holds %d", n, max);
}

dikast_sampling dikast_sampling_default(void) {
    return (dikast_sampling){.temperature = 1, .top_p = 1, .max_new = 256};
}

static bool check_sampling(const dikast_sampling *s, Error *err) {
    if (!(s->temperature >= 0 && s->temperature <= 100))
        return error_set(err, ERR_CONFIG, "temperature must lie in [0, 100], found %g", s->temperature);
    if (!(s->top_p > 0 && s->top_p <= 1))
        return error_set(err, ERR_CONFIG, "top_p must lie in (0, 1], found %g", s->top_p);
    if (s->top_k < 0) return error_set(err, ERR_CONFIG, "top_k must be 0 (off) or more, found %d", s->top_k);
    return s->max_new > 0 || error_set(err, ERR_CONFIG, "max_new must be positive, found %d", s->max_new);
}

static void fill_reply(dikast_reply *out, const dikast_model *m, const GenResult *g) {
    Str text = {0};
    *out = (dikast_reply){.n_token = g->n, .ended = g->why == STOP_TOKEN};
    tokenizer_decode(m->tok, g->text, g->n, false, &text);
    for (int i = 0; i < g->n; i++) out->logprob += (double)g->logprob[i];
    out->size = text.n;
    out->text = str_detach(&text);
}

bool dikast_generate(dikast_reply *out, dikast_model *model, const dikast_message *message, size_t n_message,
                     const dikast_sampling *sampling, dikast_error *err) {
    dikast_sampling s = sampling ? *sampling : dikast_sampling_default();
    Sequence prompt = {0};
    Error e = {0};
    GenResult res;
    int32_t stop[MODEL_MAX_EOS + 1];
    begin(err);
    *out = (dikast_reply){0};
    bool ok = check_sampling(&s, &e) && start_reply(&prompt, model, HEAD_LM, message, n_message, &e) &&
              fits(model, prompt.tok.n + 1, &e);
    if (ok) {
        GenRequest req = {.prompt = {prompt.tok.id, prompt.tok.n}};
        req.sample = (SampleParams){.temperature = s.temperature, .top_p = s.top_p, .top_k = s.top_k, .repetition = 1};
        req.sample.max_new = s.max_new;
        req.sample.rng = (Rng){s.seed, RNG_SAMPLE};
        req.sample.stop = stop;
        req.sample.n_stop = chat_stops(&model->chat, model->trunk.tokens.eos, model->trunk.tokens.n_eos, stop);
        ok = engine_generate(model->engine, &req, 1, &res, NULL, NULL, &e);
    }
    if (ok) {
        fill_reply(out, model, &res);
        engine_free_results(&res, 1);
    }
    sequence_release(&prompt);
    return ok || fail(err, &e);
}

void dikast_reply_free(dikast_reply *reply) {
    free(reply->text);
    *reply = (dikast_reply){0};
}

bool dikast_score(double *logprob, int *n_token, dikast_model *model, const dikast_message *message, size_t n_message,
                  const char *reply, dikast_error *err) {
    Sequence prompt = {0}, text = {0};
    Error e = {0};
    begin(err);
    *logprob = 0;
    if (n_token) *n_token = 0;
    bool ok = start_reply(&prompt, model, HEAD_LM, message, n_message, &e);
    if (ok) chat_reply(&text, &model->chat, reply, 1, true);
    ok = ok && fits(model, prompt.tok.n + text.tok.n, &e);
    if (ok) {
        Tokens before = {prompt.tok.id, prompt.tok.n}, after = {text.tok.id, text.tok.n};
        float *each = mem_alloc((size_t)text.tok.n * sizeof *each);
        ok = engine_score(model->engine, &before, &after, 1, 1, &each, &e);
        for (int i = 0; ok && i < text.tok.n; i++) *logprob += (double)each[i];
        if (ok && n_token) *n_token = text.tok.n;
        free(each);
    }
    sequence_release(&prompt);
    sequence_release(&text);
    return ok || fail(err, &e);
}

bool dikast_preference(double *score, dikast_model *model, const dikast_message *message, size_t n_message,
                       const char *reply, dikast_error *err) {
    Sequence s = {0};
    Error e = {0};
    float out = 0;
    begin(err);
    *score = 0;
    bool ok = start_reply(&s, model, HEAD_SCORE, message, n_message, &e);
    if (ok) chat_reply(&s, &model->chat, reply, 1, true);
    ok = ok && fits(model, s.tok.n, &e) && engine_score_last(model->engine, &(Tokens){s.tok.id, s.tok.n}, 1, &out, &e);
    if (ok) *score = (double)out;
    sequence_release(&s);
    return ok || fail(err, &e);
}

/* -- constitutions --------------------------------------------------------------------------------------------------
 */

struct dikast_constitution {
    Constitution c;
};

bool dikast_constitution_open(dikast_constitution **out, const char *path, dikast_error *err) {
    Error e = {0};
    begin(err);
    *out = NULL;
    dikast_constitution *c = mem_alloc(sizeof *c);
    if (constitution_read(&c->c, path, &e)) {
        *out = c;
        return true;
    }
    free(c);
    return fail(err, &e);
}

void dikast_constitution_close(dikast_constitution *constitution) {
    if (constitution) constitution_release(&constitution->c);
    free(constitution);
}

const char *dikast_constitution_sha256(const dikast_constitution *constitution) { return constitution->c.sha256; }

size_t dikast_constitution_size(const dikast_constitution *constitution) { return (size_t)constitution->c.n; }

dikast_principle dikast_constitution_at(const dikast_constitution *constitution, size_t i) {
    CHECK(i < (size_t)constitution->c.n, "principle %zu of %d", i, constitution->c.n);
    const Principle *p = &constitution->c.principle[i];
    return (dikast_principle){p->id,    p->text, principle_critique(p), principle_revise(p), principle_compare(p),
                              p->weight};
}
