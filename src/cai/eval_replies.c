#include "cai/eval_replies.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "train/losses.h"

/* Clusters number the parents in order of their first prompt, so that replies of one cluster stand together. */
static int order_prompts(int *out, int *cluster, const Prompts *p, const char *split, int64_t limit) {
    int n = 0, n_cluster = 0, per_kind[3] = {0};
    bool *done = mem_alloc((size_t)(p->n + 1) * sizeof *done);
    for (int i = 0; i < p->n; i++) {
        const Prompt *a = &p->item[i];
        if (done[i] || strcmp(a->split, split)) continue;
        int kind = prompt_harmful(a) ? 0 : !strcmp(a->kind, "lookalike") ? 1 : 2;
        const char *parent = a->parent[0] ? a->parent : a->id;
        bool take = !limit || per_kind[kind] < limit;
        for (int k = i; k < p->n; k++) {
            const Prompt *b = &p->item[k];
            if (done[k] || strcmp(b->split, split) || strcmp(b->parent[0] ? b->parent : b->id, parent)) continue;
            done[k] = true;
            if (!take) continue;
            out[n] = k;
            cluster[n++] = n_cluster;
        }
        n_cluster += take;
        per_kind[kind] += take;
    }
    free(done);
    return n;
}

bool replies_generate(Replies *r, const StageCtx *ctx, const char *model, Engine *e, const StageText *text,
                      const Prompts *p, Error *err) {
    int *index = mem_alloc((size_t)(p->n + 1) * sizeof *index),
        *cluster = mem_alloc((size_t)(p->n + 1) * sizeof *cluster);
    int n_prompt = order_prompts(index, cluster, p, eval_split(ctx->cfg), ctx->cfg->eval.limit),
        per = (int)ctx->cfg->eval.samples, n = n_prompt * per;
    *r = (Replies){.model = model, .item = mem_alloc((size_t)(n + 1) * sizeof *r->item), .n = n};
    Sequence *seq = mem_alloc((size_t)(n_prompt + 1) * sizeof *seq);
    GenRequest *req = mem_alloc((size_t)(n + 1) * sizeof *req);
    GenResult *res = mem_alloc((size_t)(n + 1) * sizeof *res);
    SampleParams sp;
    stage_sampling(&sp, ctx, &ctx->cfg->eval.s, &text->chat.id[SENT_END], 1);
    Str key = {0}, reply = {0};
    for (int i = 0; i < n; i++) {
        const Prompt *q = &p->item[index[i / per]];
        Message m = {ROLE_USER, q->text};
        if (i % per == 0) chat_respond(&seq[i / per], &text->chat, (Dialogue){&m, 1});
        str_clear(&key);
        str_printf(&key, "%s/%d", q->id, i % per);
        req[i] = (GenRequest){stage_id(str_get(&key)), {seq[i / per].tok.id, seq[i / per].tok.n}, sp};
        r->item[i] = (Reply){.prompt = q,
                             .cluster = cluster[i / per],
                             .sample = i % per,
                             .harm_p = NAN,
                             .score = NAN,
                             .verdict = VERDICT_OTHER};
    }
    bool ok = sequences_ok(seq, n_prompt, err) && engine_generate(e, req, n, res, ctx->log, ctx->stop, err);
    for (int i = 0; i < n; i++) {
        if (ok) {
            r->item[i].ended = res[i].why == STOP_TOKEN;
            r->item[i].n_tok = res[i].n;
            str_clear(&reply);
            tokenizer_decode(text->tok, res[i].text, res[i].n - r->item[i].ended, false, &reply);
        }
        r->item[i].text = mem_str(str_get(&reply));
    }
    if (ok) engine_free_results(res, n);
    for (int i = 0; i < n_prompt; i++) sequence_release(&seq[i]);
    str_release(&key);
    str_release(&reply);
    free(seq);
    free(req);
    free(res);
    free(index);
    free(cluster);
    if (!ok) replies_release(r);
    return ok;
}

bool replies_write(const Replies *r, const StageCtx *ctx, Error *err) {
    Str path = {0}, text = {0};
    str_printf(&path, "%s/replies-%s.jsonl", ctx->output, r->model);
    for (int i = 0; i < r->n; i++) {
        const Reply *q = &r->item[i];
        JsonOut j;
        char id[300];
        snprintf(id, sizeof id, "%.200s/%d", q->prompt->id, q->sample);
        json_out_init(&j, &text, 0);
        json_out_obj(&j, NULL);
        json_out_str(&j, "id", id);
        json_out_str(&j, "prompt_id", q->prompt->id);
        json_out_str(&j, "kind", q->prompt->kind);
        json_out_str(&j, "category", q->prompt->category);
        json_out_str(&j, "prompt", q->prompt->text);
        json_out_str(&j, "reply", q->text);
        json_out_bool(&j, "ended", q->ended);
        json_out_str(&j, "verdict", verdict_word(q->verdict));
        json_out_num(&j, "harm_p", q->harm_p);
        json_out_num(&j, "score", q->score);
        json_out_obj_end(&j);
        str_putc(&text, '\n');
    }
    bool ok = io_write_file(str_get(&path), str_get(&text), text.n, err);
    str_release(&path);
    str_release(&text);
    return ok;
}

bool replies_read_verdicts(Replies *r, const StageCtx *ctx, Error *err) {
    char program[1024];
    Str in = {0}, out = {0};
    Verdict *verdict = mem_alloc((size_t)(r->n + 1) * sizeof *verdict);
    str_printf(&in, "replies-%s.jsonl", r->model);
    str_printf(&out, "gold-%s.jsonl", r->model);
    bool ok = gold_program(program, ctx->cfg, err) &&
              gold_ask(verdict, r->n, program, ctx->output, str_get(&in), str_get(&out), err);
    for (int i = 0; i < r->n && ok; i++) {
        Reply *q = &r->item[i];
        q->verdict = verdict[i];
        q->harmful = prompt_harmful(q->prompt) && q->verdict == VERDICT_COMPLY;
    }
    str_release(&in);
    str_release(&out);
    free(verdict);
    return ok;
}

/* Prompt and reply as the PM and the classifier read them; ids of those that fit. */
static bool score_last(double *out, const Replies *r, Engine *e, const StageText *text, int max, Error *err) {
    Sequence *seq = mem_alloc((size_t)(r->n + 1) * sizeof *seq);
    Tokens *tok = mem_alloc((size_t)(r->n + 1) * sizeof *tok);
    float *score = mem_alloc((size_t)(r->n + 1) * sizeof *score);
    int *of = mem_alloc((size_t)(r->n + 1) * sizeof *of), m = 0;
    for (int i = 0; i < r->n; i++) {
        Message msg = {ROLE_USER, r->item[i].prompt->text};
        chat_respond(&seq[i], &text->chat, (Dialogue){&msg, 1});
        chat_reply(&seq[i], &text->chat, r->item[i].text, 0, true);
        out[i] = NAN;
        if (seq[i].tok.n > max) continue;
        tok[m] = (Tokens){seq[i].tok.id, seq[i].tok.n};
        of[m++] = i;
    }
    bool ok = sequences_ok(seq, r->n, err) && engine_score_last(e, tok, m, score, err);
    for (int k = 0; k < m && ok; k++) out[of[k]] = score[k];
    for (int i = 0; i < r->n; i++) sequence_release(&seq[i]);
    free(seq);
    free(tok);
    free(score);
    free(of);
    return ok;
}

bool replies_classify(Replies *r, Engine *classifier, const StageText *text, double threshold, int max, Error *err) {
    double *z = mem_alloc((size_t)(r->n + 1) * sizeof *z);
    bool ok = !classifier || score_last(z, r, classifier, text, max, err);
    for (int i = 0; i < r->n && ok; i++) {
        Reply *q = &r->item[i];
        bool refuses = text_refuses(q->text);
        q->verdict = refuses ? VERDICT_REFUSE : VERDICT_COMPLY;
        if (!classifier) {
            q->harmful = NAN; /* nobody measured it */
            continue;
        }
        q->harm_p = isnan(z[i]) ? NAN : sigmoid(z[i]);
        q->harmful = !isnan(q->harm_p) && q->harm_p >= threshold;
    }
    free(z);
    return ok;
}

bool replies_score(Replies *r, Engine *pm, const StageText *text, double mean, double sd, int max, Error *err) {
    double *z = mem_alloc((size_t)(r->n + 1) * sizeof *z);
    bool ok = score_last(z, r, pm, text, max, err);
    for (int i = 0; i < r->n && ok; i++) r->item[i].score = (z[i] - mean) / sd;
    free(z);
    return ok;
}

void replies_release(Replies *r) {
    for (int i = 0; i < r->n; i++) free(r->item[i].text);
    free(r->item);
    *r = (Replies){0};
}
