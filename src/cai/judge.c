#include "cai/judge.h"

#include <math.h>
#include <stdlib.h>

#include "cai/judge_remote.h"
#include "train/losses.h"

const char *judge_miss_name(JudgeMiss m) {
    static const char *const name[MISS_COUNT] = {"NONE", "CONTEXT", "REFUSED", "UNREADABLE"};
    CHECK(m >= 0 && m < MISS_COUNT, "miss %d", (int)m);
    return name[m];
}

bool judge_ask(const Judge *j, Judged *out, const JudgeItem *item, int n, Error *err) {
    if (j->remote) return remote_judge_ask(j->remote, out, item, n, err);
    return j->reasons ? judge_reasoned(j, out, item, n, err)
                      : judge_pairs(out, j->engine, j->chat, item, n, j->max_len, err);
}

void judge_configure(Judge *j, const StageCtx *ctx) {
    j->reasons = (int)ctx->cfg->judge.reasons;
    j->reason_tokens = (int)ctx->cfg->judge.reason_tokens;
    j->seed = ctx->seed;
    j->stop = ctx->stop;
}

PairLabel label_combine(const Judged *j, const Principle *const *principle, int n, double clamp, double t_cal,
                        double abstain) {
    PairLabel out = {.level = -1};
    double total = 0, slot = 0;
    int scored = 0;
    for (int level = AUTH_ROOT; level <= AUTH_GUIDELINE; level++) {
        double sum = 0, ab = 0, ba = 0;
        bool any = false;
        for (int k = 0; k < n; k++) {
            const Principle *p = principle[k];
            if ((int)p->authority != level || !j[k].scored) continue;
            any = true;
            sum += p->weight * fmax(-clamp, fmin(clamp, judged_l(j[k])));
            ab += p->weight * j[k].l_ab;
            ba -= p->weight * j[k].l_ba;
            slot += (j[k].l_ab > 0) + (j[k].l_ba > 0);
            scored++;
        }
        if (!any) continue;
        total = sum;
        out.level = level;
        out.flip = (ab > 0) != (ba > 0);
        if (fabs(sum) >= LABEL_UNDECIDED) break;
    }
    out.q = out.uncut = sigmoid(total / t_cal);
    out.weight = scored && !(out.flip && fabs(out.q - 0.5) < abstain);
    out.first_slot = scored ? slot / (2 * scored) : NAN;
    out.miss = !scored && n > 0 ? j[0].miss : MISS_NONE;
    return out;
}

bool judge_pairs(Judged *out, Engine *e, const Chat *c, const JudgeItem *item, int n, int max_len, Error *err) {
    Sequence *seq = mem_alloc((size_t)(2 * n + 1) * sizeof *seq);
    Tokens *prompt = mem_alloc((size_t)(2 * n + 1) * sizeof *prompt);
    float *logprob = mem_alloc((size_t)(4 * n + 1) * sizeof *logprob);
    int *owner = mem_alloc((size_t)(2 * n + 1) * sizeof *owner), m = 0;
    for (int i = 0; i < n; i++) {
        const JudgeItem *it = &item[i];
        Sequence *ab = &seq[2 * i], *ba = &seq[2 * i + 1];
        chat_judge_prompt(ab, c, it->prompt, it->a, it->b, it->compare);
        chat_judge_prompt(ba, c, it->prompt, it->b, it->a, it->compare);
        out[i] = (Judged){.scored = ab->tok.n <= max_len && ba->tok.n <= max_len};
        out[i].miss = out[i].scored ? MISS_NONE : MISS_CONTEXT;
        for (int k = 0; k < 2 && out[i].scored; k++) {
            prompt[m] = (Tokens){seq[2 * i + k].tok.id, seq[2 * i + k].tok.n};
            owner[m++] = 2 * i + k;
        }
    }
    const int32_t option[] = {c->id[SENT_FIRST], c->id[SENT_SECOND]};
    bool ok = sequences_ok(seq, 2 * n, err) && engine_options(e, prompt, m, option, 2, logprob, err);
    for (int k = 0; k < m && ok; k++) {
        double l = (double)logprob[2 * k] - (double)logprob[2 * k + 1];
        *(owner[k] & 1 ? &out[owner[k] / 2].l_ba : &out[owner[k] / 2].l_ab) = l;
    }
    for (int i = 0; i < 2 * n; i++) sequence_release(&seq[i]);
    free(seq);
    free(prompt);
    free(logprob);
    free(owner);
    return ok;
}
