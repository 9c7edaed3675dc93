#include "cai/eval_judge.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cai/judge_remote.h"

static const double TIE = 0.05, DECIDED = 0.2; /* distances of q from one half */

struct EvalJudge {
    const StageCtx *ctx;
    StageNet net;
    Judge judge;
    const Principle *principle[64];
    int n_principle;
    char *rule[64];
};

bool eval_judge_open(EvalJudge **out, const StageCtx *ctx, const StageText *text, const Constitution *con, Error *err) {
    EvalJudge *j = mem_alloc(sizeof *j);
    EngineConfig ec = {.share_prefix = true};
    Str rule = {0};
    j->ctx = ctx;
    for (int i = 0; i < con->n && j->n_principle < COUNT_OF(j->principle); i++) {
        if (!(con->principle[i].use & USE_LABEL)) continue;
        principle_text(&rule, &con->principle[i]);
        j->rule[j->n_principle] = mem_str(str_get(&rule));
        j->principle[j->n_principle++] = &con->principle[i];
    }
    str_release(&rule);
    bool ok = j->n_principle > 0 ||
              error_set(err, ERR_CONFIG, "eval.judge: no principle of the constitution has use 'label'");
    if (ok && ctx->cfg->judge.kind == JUDGE_REMOTE)
        ok = remote_judge_open(&j->judge.remote, ctx, err);
    else if (ok) {
        ok = stage_net_open(&j->net, ctx, stage_input(ctx, "helpful"), HEAD_LM, false, err) &&
             engine_open(&j->judge.engine, j->net.net, &ec, err);
        j->judge.chat = &text->chat;
        judge_configure(&j->judge, ctx);
        j->judge.max_len = ok ? j->net.m.cfg.max_seq : 0;
    }
    *out = j;
    if (ok) return true;
    eval_judge_close(j);
    *out = NULL;
    return false;
}

void eval_judge_close(EvalJudge *j) {
    if (!j) return;
    if (j->judge.engine) engine_close(j->judge.engine);
    remote_judge_close(j->judge.remote);
    stage_net_close(&j->net);
    for (int i = 0; i < j->n_principle; i++) free(j->rule[i]);
    free(j);
}

bool eval_judge_books(const EvalJudge *j, Summary *s, Error *err) {
    return !j || !j->judge.remote || remote_judge_books(j->judge.remote, s, err);
}

/* q[i] = P(a's reply i is better); NaN: nothing could be judged. */
static bool judge_replies(EvalJudge *j, double *q, bool *flip, const Replies *a, const Replies *b, Error *err) {
    const RunConfig *c = j->ctx->cfg;
    int per = j->n_principle, m = 0;
    JudgeItem *item = mem_alloc((size_t)(a->n * per + 1) * sizeof *item);
    Judged *judged = mem_alloc((size_t)(a->n * per + 1) * sizeof *judged);
    Message *msg = mem_alloc((size_t)(a->n + 1) * sizeof *msg);
    for (int i = 0; i < a->n; i++) {
        msg[i] = (Message){ROLE_USER, a->item[i].prompt->text};
        q[i] = 0.5;
        flip[i] = false;
        for (int k = 0; k < per && strcmp(a->item[i].text, b->item[i].text) != 0; k++)
            item[m++] = (JudgeItem){
                {&msg[i], 1}, a->item[i].text, b->item[i].text, principle_compare(j->principle[k]), j->rule[k]};
    }
    bool ok = judge_ask(&j->judge, judged, item, m, err);
    m = 0;
    for (int i = 0; i < a->n && ok; i++) {
        if (!strcmp(a->item[i].text, b->item[i].text)) continue;
        PairLabel l = label_combine(judged + m, j->principle, per, c->label.clamp,
                                    c->label.t_cal > 0 ? c->label.t_cal : 1, 0); /* 0: fitted, for labels alone */
        m += per;
        q[i] = l.level < 0 ? NAN : l.q;
        flip[i] = l.flip;
    }
    free(item);
    free(judged);
    free(msg);
    return ok;
}

static void put(Summary *s, const Replies *a, const Replies *b, const char *what, double value) {
    char key[96];
    snprintf(key, sizeof key, "win.%s-%s%s", a->model, b->model, what);
    summary_num(s, key, value);
}

bool eval_judge_compare(EvalJudge *j, const Replies *a, const Replies *b, Summary *s, Rng rng, Error *err) {
    CHECK(a->n == b->n, "%d replies against %d: not the same prompts", a->n, b->n);
    size_t size = (size_t)(a->n + 1);
    double *q = mem_alloc(size * sizeof *q), *win = mem_alloc(size * sizeof *win), *len = mem_alloc(size * sizeof *len);
    int32_t *cluster = mem_alloc(size * sizeof *cluster);
    bool *flip = mem_alloc(size * sizeof *flip);
    int n = 0, ties = 0, decided = 0, flips = 0;
    bool ok = judge_replies(j, q, flip, a, b, err);
    for (int i = 0; i < a->n && ok; i++) {
        double p = 1 - q[i];
        if (isnan(p)) continue;
        bool tie = fabs(p - 0.5) < TIE;
        cluster[n] = a->item[i].cluster;
        win[n++] = tie ? 0.5 : p > 0.5;
        ties += tie;
        if (fabs(p - 0.5) < DECIDED) continue;
        flips += flip[i];
        q[decided] = p; /* decided <= i: what is overwritten has been read */
        len[decided++] = (double)strlen(b->item[i].text) - (double)strlen(a->item[i].text);
    }
    if (ok) {
        Interval v = interval_cluster(win, cluster, n, rng);
        put(s, a, b, "", v.mean);
        put(s, a, b, ".lo", v.lo);
        put(s, a, b, ".hi", v.hi);
        put(s, a, b, ".n", n);
        put(s, a, b, ".unjudged", a->n - n);
        put(s, a, b, ".ties", n ? (double)ties / n : 0);
        put(s, a, b, ".flips", decided ? (double)flips / decided : 0);
        put(s, a, b, ".length_corr", correlation(q, len, decided));
    }
    free(q);
    free(win);
    free(len);
    free(cluster);
    free(flip);
    return ok;
}
