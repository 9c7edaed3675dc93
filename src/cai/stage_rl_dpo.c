/* DPO on the pairs of stage label: soft labels as they are, abstentions left out. The reference is SL-CAI, the policy's
 * own beginning. */
#include <stdlib.h>

#include "cai/pair_rows.h"
#include "cai/stage_rl.h"
#include "train/rollout.h"

static bool add_side(Sequence *s, const StageText *t, const char *prompt, const char *reply, Error *err) {
    Message m = {ROLE_USER, prompt};
    sequence_clear(s);
    chat_respond(s, &t->chat, (Dialogue){&m, 1});
    chat_reply(s, &t->chat, reply, 1, true);
    return sequence_ok(s, err);
}

static int trained(const Sequence *s) {
    int n = 0;
    for (int i = 0; i < s->tok.n; i++) n += s->weight[i] != 0;
    return n;
}

static bool fill(SampleSet *set, const StageCtx *ctx, const StageText *text, const PairRows *rows, int max,
                 Error *err) {
    Sequence a = {0}, b = {0};
    bool ok = true;
    for (int i = 0; ok && i < rows->n; i++) {
        const PairRow *r = &rows->item[i];
        if (r->weight <= 0) continue;
        ok = add_side(&a, text, r->prompt, r->a, err) && add_side(&b, text, r->prompt, r->b, err);
        if (!ok) break;
        int n = a.tok.n + b.tok.n, reply = trained(&a) + trained(&b);
        bool fits = a.tok.n <= max && b.tok.n <= max;
        ledger_in(ctx->ledger, 1, n);
        ledger_add(ctx->ledger, fits ? LEDGER_TRAINED : LEDGER_DROPPED, fits ? NULL : "longer than the context", 1,
                   fits ? reply : n);
        if (!fits) continue;
        ledger_add(ctx->ledger, LEDGER_MASKED, NULL, 0, n - reply);
        samples_add(set, a.tok.id, a.weight, a.tok.n, (uint64_t)i, (float)r->q, (float)r->weight);
        samples_add(set, b.tok.id, b.weight, b.tok.n, (uint64_t)i, (float)(1 - r->q), (float)r->weight);
    }
    sequence_release(&a);
    sequence_release(&b);
    if (ok && set->n == 0)
        return error_set(err, ERR_STATE,
                         "no pair to train on: all %d are abstentions (label.abstain) or longer than "
                         "the context; stage 'label' counts the former",
                         rows->n);
    return ok;
}

static bool learn(const StageCtx *ctx, const SampleSet *set, const PpoSetup *s, int max, Error *err) {
    const RunConfig *c = ctx->cfg;
    int max_tok = (int)c->dpo.t.micro_tokens > 2 * max ? (int)c->dpo.t.micro_tokens : 2 * max;
    double *ref = mem_alloc((size_t)set->n * sizeof *ref);
    ObjDpo *o = NULL;
    Objective obj;
    DpoConfig d = {{c->dpo.beta, c->dpo.label_smoothing, (DpoKind)c->dpo.loss}, c->dpo.average, false};
    /* Of a policy in parts nobody has the whole yet; it was made of the reference's files all the same. */
    bool whole = model_is_whole(s->policy.trunk);
    d.equal = (stage_leads(ctx) || !whole) && s->policy.trunk->be->exact && s->policy.trunk->part.tp_n == 1 &&
              !state_exists(ctx->output) && (!whole || doctor_same_weights(s->policy, s->reference));
    bool ok = obj_dpo_reference(ref, set, s->reference, max_tok, err) &&
              obj_dpo_open(&o, &obj, set, ref, max_tok, ctx->seed, &d, err) &&
              stage_train(ctx, s->policy, &c->dpo.t, &obj, obj_dpo_packs(o, 0), err) && obj_dpo_check(o, err);
    obj_dpo_close(o);
    free(ref);
    return ok;
}

static double mean_of(const double *x, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] / n;
    return sum;
}

/* What the other methods measure in every update, once: how far the policy is, what it scores, whether it ends. */
static bool measure(const StageCtx *ctx, const PpoConfig *c, const PpoSetup *s, int64_t pairs, Error *err) {
    Rollout r;
    Experience x;
    if (!rollout_open(&r, c, s, err)) return false;
    if (!rollout_make(&x, &r, 0, c->beta, ctx->stop, err)) {
        rollout_close(&r);
        return false;
    }
    double ended = 0;
    for (int i = 0; i < x.n; i++) ended += x.reply[i].why == STOP_TOKEN;
    double kl = mean_of(x.kl, x.n);
    if (stage_leads(ctx) && c->kl_stop > 0 && !(kl <= c->kl_stop))
        log_warn(
            ctx->log,
            "the policy is %.1f nats per reply away from the reference, allowed %.1f (rl.kl_stop): it has learnt more "
            "than the pairs say. Likely causes: dpo.lr (%g) is too high; dpo.beta (%g) is too small; dpo.epochs or "
            "dpo.steps are too many. Its weights are kept",
            kl, c->kl_stop, ctx->cfg->dpo.t.lr, ctx->cfg->dpo.beta);
    PpoReport report = {1, x.n, x.prompt, x.reply, x.score, x.kl, x.generate_s, x.score_s, 0};
    if (s->report && stage_leads(ctx)) s->report(s->report_ud, &report);
    Summary sum;
    summary_begin(&sum);
    summary_num(&sum, "pairs", (double)pairs);
    summary_num(&sum, "kl", kl);
    summary_num(&sum, "score", mean_of(x.score, x.n));
    summary_num(&sum, "end_share", ended / x.n);
    summary_num(&sum, "length", (double)x.n_tok / x.n);
    experience_release(&x);
    rollout_close(&r);
    return summary_end(&sum, ctx, err);
}

bool stage_rl_dpo(const StageCtx *ctx, const StageText *text, const PpoConfig *c, const PpoSetup *s, Error *err) {
    PairRows rows = {0};
    SampleSet set;
    int max = s->policy.trunk->cfg.max_seq;
    samples_init(&set, 2);
    bool ok = pair_rows_read(&rows, stage_input(ctx, "pairs"), stage_input(ctx, "label"), err) &&
              fill(&set, ctx, text, &rows, max, err) && learn(ctx, &set, s, max, err) &&
              measure(ctx, c, s, set.n / 2, err);
    samples_release(&set);
    pair_rows_release(&rows);
    return ok;
}
