#include "cai/stage_train.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "train/obj.h"

void stage_optim(OptimConfig *o, const TrainKeys *k) {
    *o = (OptimConfig){.lr = k->lr,
                       .beta1 = k->beta1,
                       .beta2 = k->beta2,
                       .eps = k->eps,
                       .weight_decay = k->weight_decay,
                       .clip = k->clip};
}

/* The words of a schedule key stand in another order where another one is the default, so the word decides, not the
 * index. */
static ScheduleKind schedule_kind(const char *section, int index) {
    static const char *const word[] = {"constant", "linear", "cosine", "wsd"};
    static const ScheduleKind kind[] = {SCHED_CONSTANT, SCHED_LINEAR, SCHED_COSINE, SCHED_WSD};
    char name[64];
    snprintf(name, sizeof name, "%s.schedule", section);
    for (int i = 0; i < run_key_count; i++) {
        if (strcmp(run_keys[i].name, name)) continue;
        const char *at = run_keys[i].def;
        for (; index > 0; index--) at = strchr(at, '|') + 1;
        for (int w = 0; w < COUNT_OF(word); w++)
            if (strcspn(at, "|") == strlen(word[w]) && !strncmp(at, word[w], strlen(word[w]))) return kind[w];
    }
    CHECK(false, "no key %s", name);
    return SCHED_CONSTANT;
}

void stage_schedule(Schedule *s, const char *section, const TrainKeys *k, int64_t steps) {
    *s = (Schedule){.kind = schedule_kind(section, k->schedule),
                    .warmup = k->warmup < steps ? k->warmup : steps / 2,
                    .total = steps,
                    .decay = steps / 5,
                    .floor = k->min_lr,
                    .warmup_from_one = true};
}

int stage_pass_tokens(const SampleSet *s, int64_t micro_tokens) {
    int64_t longest = micro_tokens;
    for (int64_t i = 0; i + s->group <= s->n; i += s->group)
        if (s->off[i + s->group] - s->off[i] > longest) longest = s->off[i + s->group] - s->off[i];
    return (int)longest;
}

StateConfig stage_state(const StageCtx *ctx) {
    const RunConfig *c = ctx->cfg;
    return (StateConfig){.keep = (int)c->ckpt.keep,
                         .keep_every = c->ckpt.keep_every,
                         .keep_best = c->ckpt.keep_best,
                         .wait = !c->ckpt.async,
                         .seed = ctx->seed};
}

void stage_train_config(TrainConfig *c, const StageCtx *ctx, const TrainKeys *k, int64_t packs_in_epoch) {
    *c = (TrainConfig){.accum = (int)((k->batch_tokens + k->micro_tokens / 2) / k->micro_tokens),
                       .keep = k->recompute == RECOMPUTE_ON ? KEEP_INPUTS : KEEP_ALL,
                       .keep_auto = k->recompute == RECOMPUTE_AUTO,
                       .state_s = ctx->cfg->run.state_s,
                       .state_steps = ctx->cfg->ckpt.every,
                       .state = stage_state(ctx),
                       .mesh = ctx->mesh,
                       .shard = run_config_zero(ctx->cfg),
                       .overlap = ctx->cfg->dist.overlap,
                       .running_sum = !ctx->cfg->dist.tree,
                       .compare_every = ctx->cfg->dist.check_every,
                       .trace = ctx->trace};
    if (c->accum < 1) c->accum = 1;
    c->steps = k->steps;
    if (c->steps == 0) c->steps = (int64_t)ceil(k->epochs * (double)packs_in_epoch / c->accum);
    if (c->steps < 1) c->steps = 1;
    stage_optim(&c->optim, k);
}

bool stage_train(const StageCtx *ctx, Net net, const TrainKeys *k, const Objective *obj, int64_t packs_in_epoch,
                 Error *err) {
    TrainConfig c;
    stage_train_config(&c, ctx, k, packs_in_epoch);
    if (ctx->mesh && ctx->mesh->size.dp > c.accum)
        log_warn(ctx->log,
                 "a step has %d micro-batches for %d ranks, so some have nothing to do: lower %s.micro_tokens, "
                 "or raise %s.batch_tokens",
                 c.accum, ctx->mesh->size.dp, ctx->stage->name, ctx->stage->name);
    if (!ledger_check(ctx->ledger, ctx->cfg->data.max_lost, err)) return false;
    stage_schedule(&c.schedule, ctx->stage->name, k, c.steps);
    Trainer *t = NULL;
    if (!trainer_open(&t, net, &c, obj, ctx->log, ctx->stop, err)) return false;
    bool ok = trainer_run(t, ctx->output, err);
    trainer_close(t);
    return ok;
}

/* Of a net that other ranks share and follow: by what they follow. */
static bool lm_loss_led(double *out, Net net, const SampleSet *s, int max_tok, Error *err) {
    Engine *e = NULL;
    EngineConfig c = {.max_batch_tok = max_tok};
    size_t n = (size_t)s->n;
    Tokens *prefix = mem_alloc(2 * n * sizeof *prefix), *text = prefix + n;
    float *flat = mem_alloc((size_t)s->off[s->n] * sizeof *flat), **lp = mem_alloc(n * sizeof *lp);
    for (size_t i = 0; i < n; i++) {
        const int32_t *tok = s->tok + s->off[i];
        prefix[i] = (Tokens){tok, 1};
        text[i] = (Tokens){tok + 1, (int)(s->off[i + 1] - s->off[i]) - 1};
        lp[i] = flat + s->off[i] + 1;
    }
    bool ok = engine_open(&e, net, &c, err) && engine_score(e, prefix, text, (int)n, 1, lp, err);
    double loss = 0, weight = 0;
    for (size_t i = 0; i < n && ok; i++)
        for (int64_t k = s->off[i] + 1; k < s->off[i + 1]; k++) {
            if (s->weight[k] == 0) continue;
            loss -= s->weight[k] * (double)flat[k];
            weight += s->weight[k];
        }
    *out = loss / weight;
    engine_close(e);
    free(prefix);
    free(flat);
    free(lp);
    return ok;
}

bool stage_lm_loss(double *out, Net net, const SampleSet *s, int max_tok, Error *err) {
    ObjLm *o = NULL;
    Objective obj;
    *out = NAN;
    if (s->n == 0) return true;
    if (net.trunk->part.lead) return lm_loss_led(out, net, s, max_tok, err);
    if (!obj_lm_open(&o, &obj, s, max_tok, 0, err)) return false;
    bool ok = eval_run(out, net, &obj, obj_lm_packs(o, 0), NULL, err);
    obj_lm_close(o);
    return ok;
}
