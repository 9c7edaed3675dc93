/* Evaluation: the helpful model, SL-CAI and RL-CAI (and best-of-n of SL-CAI by the PM) answer the same held-out prompts
 * under the same random numbers; harm, help, over-refusal, consistency, perplexity and multiple choice, with intervals.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cai/eval_judge.h"

enum { N_MODEL = 3 };
static const char *const model_name[N_MODEL] = {"helpful", "sl", "rl"};

typedef struct {
    const StageCtx *ctx;
    StageText text;
    Prompts prompts;
    Constitution con;
    StageNet pm, classifier;
    Engine *pm_engine, *classifier_engine;
    double pm_mean, pm_sd, threshold;
    Rows choice;
    Rng rng;
} Eval;

static bool summary_value(double *out, const char *dir, const char *key, Error *err) {
    Str path = {0};
    Json *root = NULL;
    path_join(&path, dir, "summary.json");
    bool ok = json_read_file(&root, str_get(&path), 0, err) && json_need_num(root, key, out, err);
    json_release(root);
    str_release(&path);
    return ok;
}

static bool score_replies(Eval *v, Replies *r, Error *err) {
    const StageCtx *ctx = v->ctx;
    bool world = ctx->cfg->data.source == 1;
    if (!replies_score(r, v->pm_engine, &v->text, v->pm_mean, v->pm_sd, v->pm.m.cfg.max_seq, err)) return false;
    if (world) return replies_write(r, ctx, err) && replies_read_verdicts(r, ctx, err) && replies_write(r, ctx, err);
    return replies_classify(r, v->classifier_engine, &v->text, v->threshold,
                            v->classifier.open ? v->classifier.m.cfg.max_seq : 0, err) &&
           replies_write(r, ctx, err);
}

/* exp of the mean loss on the reference replies of evaluation prompts. */
static bool perplexity(Eval *v, Net net, const char *model, Summary *s, Error *err) {
    SampleSet set;
    samples_init(&set, 1);
    Sequence q = {0};
    for (int i = 0; i < v->prompts.n; i++) {
        const Prompt *p = &v->prompts.item[i];
        if (!p->reference || strcmp(p->split, eval_split(v->ctx->cfg))) continue;
        Message m = {ROLE_USER, p->text};
        sequence_clear(&q);
        chat_respond(&q, &v->text.chat, (Dialogue){&m, 1});
        chat_reply(&q, &v->text.chat, p->reference, 1, true);
        if (q.tok.n <= net.trunk->cfg.max_seq) samples_add(&set, q.tok.id, q.weight, q.tok.n, (uint64_t)i, 0, 1);
    }
    double loss;
    char key[64];
    bool ok = sequence_ok(&q, err) &&
              stage_lm_loss(&loss, net, &set, net.trunk->cfg.max_seq > 2048 ? net.trunk->cfg.max_seq : 2048, err);
    snprintf(key, sizeof key, "%s.ppl", model);
    if (ok && !isnan(loss)) summary_num(s, key, exp(loss));
    sequence_release(&q);
    samples_release(&set);
    return ok;
}

typedef struct {
    bool fits;       /* into the context with every choice; else not asked */
    int at, at_norm; /* the likeliest choice by summed log-prob, and by log-prob per byte */
} Chosen;

/* A choice follows the question after one space. */
static bool choose(Chosen *out, const Eval *v, Engine *e, const Row *r, int max, Error *err) {
    size_t n = (size_t)r->n_list;
    TokBuf prefix = {0}, *cont = mem_alloc(n * sizeof *cont);
    Tokens *p = mem_alloc(n * sizeof *p), *t = mem_alloc(n * sizeof *t);
    float **lp = mem_alloc(n * sizeof *lp);
    const char *question = dialogue_last_user(r->prompt);
    tokbuf_put(&prefix, v->text.chat.document);
    tokenizer_encode(v->text.tok, question, strlen(question), &prefix);
    *out = (Chosen){.fits = true};
    for (int k = 0; k < r->n_list; k++) {
        Str text = {0};
        str_printf(&text, " %s", r->list[k]);
        tokenizer_encode(v->text.tok, text.s, text.n, &cont[k]);
        str_release(&text);
        p[k] = (Tokens){prefix.id, prefix.n};
        t[k] = (Tokens){cont[k].id, cont[k].n};
        lp[k] = mem_alloc((size_t)(cont[k].n + 1) * sizeof **lp);
        out->fits = out->fits && prefix.n + cont[k].n <= max;
    }
    bool ok = !out->fits || engine_score(e, p, t, r->n_list, 1, lp, err);
    double best = -INFINITY, best_norm = -INFINITY;
    for (int k = 0; k < r->n_list; k++) {
        double sum = 0;
        for (int j = 0; j < cont[k].n && out->fits && ok; j++) sum += lp[k][j];
        double norm = sum / (double)(strlen(r->list[k]) + 1);
        if (sum > best) best = sum, out->at = k;
        if (norm > best_norm) best_norm = norm, out->at_norm = k;
        tokbuf_release(&cont[k]);
        free(lp[k]);
    }
    tokbuf_release(&prefix);
    free(cont);
    free(p);
    free(t);
    free(lp);
    return ok;
}

static bool multiple_choice(Eval *v, Engine *e, const char *model, int max, Summary *s, Error *err) {
    int64_t limit = v->ctx->cfg->eval.choice_limit ? v->ctx->cfg->eval.choice_limit : v->choice.n;
    int right = 0, right_norm = 0, n = 0;
    for (int i = 0; i < v->choice.n && n < limit; i++) {
        const Row *r = &v->choice.row[i];
        Chosen c;
        if (stop_requested(v->ctx->stop)) return error_set(err, ERR_STOPPED, "stopped; run again to go on");
        if (!choose(&c, v, e, r, max, err)) return false;
        if (!c.fits) continue;
        right += c.at == r->label;
        right_norm += c.at_norm == r->label;
        n++;
    }
    if (n == 0) return true;
    Interval acc = interval_wilson(right, n);
    const struct {
        const char *what;
        double value;
    } row[] = {{"choice.n", n},
               {"choice.acc", acc.mean},
               {"choice.acc.lo", acc.lo},
               {"choice.acc.hi", acc.hi},
               {"choice.acc_norm", (double)right_norm / n}};
    for (int i = 0; i < COUNT_OF(row); i++) {
        char key[64];
        snprintf(key, sizeof key, "%s.%s", model, row[i].what);
        summary_num(s, key, row[i].value);
    }
    return true;
}

static bool eval_model(Eval *v, Replies *out, const char *model, const char *dir, Summary *s, Error *err) {
    StageNet net = {0};
    Engine *e = NULL;
    EngineConfig ec = {.share_prefix = true};
    bool ok = stage_net_open(&net, v->ctx, dir, HEAD_LM, false, err) && engine_open(&e, net.net, &ec, err) &&
              replies_generate(out, v->ctx, model, e, &v->text, &v->prompts, err);
    if (ok && !(score_replies(v, out, err) && perplexity(v, net.net, model, s, err) &&
                multiple_choice(v, e, model, net.m.cfg.max_seq, s, err))) {
        replies_release(out);
        ok = false;
    }
    if (ok) replies_summary(out, s, &v->con, v->rng);
    if (e) engine_close(e);
    stage_net_close(&net);
    return ok;
}

/* Best of n replies of SL-CAI by PM score: what reinforcement learning has to beat. */
static bool best_of(Eval *v, Summary *s, Error *err) {
    int n_best = (int)v->ctx->cfg->eval.bon;
    if (n_best < 2) return true;
    StageNet net = {0};
    Engine *e = NULL;
    EngineConfig ec = {.share_prefix = true};
    StageCtx ctx = *v->ctx;
    RunConfig cfg = *ctx.cfg;
    cfg.eval.samples = n_best;
    cfg.eval.s.temperature = 1;
    ctx.cfg = &cfg;
    Replies r = {0};
    bool ok = stage_net_open(&net, v->ctx, stage_input(v->ctx, "sl"), HEAD_LM, false, err) &&
              engine_open(&e, net.net, &ec, err) &&
              replies_generate(&r, &ctx, "best_of", e, &v->text, &v->prompts, err) &&
              replies_score(&r, v->pm_engine, &v->text, v->pm_mean, v->pm_sd, v->pm.m.cfg.max_seq, err);
    int kept = 0;
    for (int i = 0; ok && i < r.n; i += n_best) {
        int best = i;
        for (int k = i + 1; k < i + n_best; k++)
            if (r.item[k].score > r.item[best].score) best = k;
        for (int k = i; k < i + n_best; k++)
            if (k != best) free(r.item[k].text);
        r.item[kept] = r.item[best];
        r.item[kept++].sample = 0;
    }
    if (ok) {
        r.n = kept;
        ok = score_replies(v, &r, err);
        if (ok) replies_summary(&r, s, &v->con, v->rng);
    }
    replies_release(&r);
    if (e) engine_close(e);
    stage_net_close(&net);
    return ok;
}

/* SL-CAI against the helpful model, RL-CAI against both, in the judge's eyes. */
static bool win_rates(Eval *v, const Replies *r, Summary *s, Error *err) {
    EvalJudge *j = NULL;
    if (!v->ctx->cfg->eval.judge) return true;
    bool ok = eval_judge_open(&j, v->ctx, &v->text, &v->con, err);
    for (int b = 1; b < N_MODEL && ok; b++)
        for (int a = 0; a < b && ok; a++) ok = eval_judge_compare(j, &r[a], &r[b], s, v->rng, err);
    ok = ok && eval_judge_books(j, s, err);
    eval_judge_close(j);
    return ok;
}

static bool eval_all(Eval *v, Error *err) {
    const StageCtx *ctx = v->ctx;
    Replies r[N_MODEL] = {{0}};
    Summary s;
    summary_begin(&s);
    bool ok = true;
    for (int i = 0; i < N_MODEL && ok; i++) {
        log_info(ctx->log, "evaluating %s", model_name[i]);
        ok = eval_model(v, &r[i], model_name[i], stage_input(ctx, model_name[i]), &s, err);
    }
    for (int i = 1; i < N_MODEL && ok; i++) replies_compare(&r[i - 1], &r[i], &s, &v->con, v->rng);
    if (ok) replies_compare(&r[0], &r[2], &s, &v->con, v->rng);
    ok = ok && win_rates(v, r, &s, err) && best_of(v, &s, err);
    for (int i = 0; i < N_MODEL; i++) replies_release(&r[i]);
    if (ok) return summary_end(&s, ctx, err);
    str_release(&s.text);
    return false;
}

static bool open_all(Eval *v, Error *err) {
    const StageCtx *ctx = v->ctx;
    EngineConfig ec = {0};
    const char *pm = stage_input(ctx, "pm"), *classifier = stage_input(ctx, "classifier");
    return stage_text_open(&v->text, stage_input(ctx, "tokenizer"), err) &&
           prompts_read(&v->prompts, stage_input(ctx, "prompts"), err) &&
           stage_constitution(&v->con, ctx->cfg, ctx->data_dir, err) &&
           stage_net_open(&v->pm, ctx, pm, HEAD_SCORE, false, err) && engine_open(&v->pm_engine, v->pm.net, &ec, err) &&
           summary_value(&v->pm_mean, pm, "score_mean", err) && summary_value(&v->pm_sd, pm, "score_sd", err) &&
           (!classifier || (stage_net_open(&v->classifier, ctx, classifier, HEAD_SCORE, false, err) &&
                            engine_open(&v->classifier_engine, v->classifier.net, &ec, err) &&
                            summary_value(&v->threshold, classifier, "threshold", err))) &&
           stage_rows(&v->choice, ctx, &ctx->cfg->data.choice, ROW_CHOICE, err);
}

static bool run(const StageCtx *ctx, Error *err) {
    Eval v = {.ctx = ctx, .rng = {ctx->seed, RNG_BOOT}};
    pulse_section(log_pulse(ctx->log), SECTION_EVAL);
    bool ok = open_all(&v, err) && eval_all(&v, err);
    if (v.pm_engine) engine_close(v.pm_engine);
    if (v.classifier_engine) engine_close(v.classifier_engine);
    stage_net_close(&v.pm);
    stage_net_close(&v.classifier);
    rows_release(&v.choice);
    constitution_release(&v.con);
    prompts_release(&v.prompts);
    stage_text_close(&v.text);
    return ok;
}

static void files(const RunConfig *c, void (*add)(void *ud, const char *path), void *ud) {
    stage_list_files(&c->data.choice, add, ud);
}

static bool uses_judge(const RunConfig *c) { return c->eval.judge; }

/* The tiny world's replies are judged by a program of its own. */
static bool ready(const RunConfig *c, Error *err) {
    char program[1024];
    return c->data.source != 1 || gold_program(program, c, err);
}

const Stage stage_eval = {
    .name = "eval",
    .help = "harm, help, over-refusal, consistency and capability of every stage's model on the same prompts",
    .version = 3,
    .needs = {"world", "tokenizer", "prompts", "helpful", "sl", "pm", "rl", "classifier"},
    .section = {"eval.", "data.choice", "data.columns", "data.max_rows"},
    .files = files,
    .uses_constitution = true,
    .uses_judge = uses_judge,
    .ready = ready,
    .run = run};
