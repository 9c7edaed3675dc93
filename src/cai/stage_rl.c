/* RL-CAI: SL-CAI learns from the preference model's scores of its own replies, held near SL-CAI by a KL penalty; or
 * from the labelled pairs (DPO, stage_rl_dpo.c). samples.jsonl keeps some rollouts. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "cai/rl_guard.h"
#include "cai/stage_rl.h"

typedef struct {
    const StageCtx *ctx;
    const StageText *text;
    const Prompts *prompts;
    const int *prompt_of; /* by PpoPrompt index */
    const PpoPrompt *first;
    Appender *samples;
    int64_t updates;
} Reporter;

enum { SAMPLES_PER_UPDATE = 4 };

/* A few rollouts of some twenty updates, among them the first and the last (numbered from 1). A resumed run repeats
 * updates: the stage ends by keeping one row of each id. */
static void report(void *ud, const PpoReport *r) {
    Reporter *me = ud;
    int64_t every = me->updates > 20 ? me->updates / 20 : 1;
    if (r->update % every && r->update != 1 && r->update != me->updates) return;
    Str line = {0}, reply = {0}, id = {0};
    Error ignore = {0};
    for (int i = 0; i < r->n && i < SAMPLES_PER_UPDATE; i++) {
        const Prompt *p = &me->prompts->item[me->prompt_of[r->prompt[i] - me->first]];
        str_clear(&reply);
        tokenizer_decode(me->text->tok, r->reply[i].text, r->reply[i].n, false, &reply);
        str_clear(&id);
        str_printf(&id, "ro-%lld-%d", (long long)r->update, i);
        str_clear(&line);
        JsonOut j;
        json_out_init(&j, &line, 0);
        json_out_obj(&j, NULL);
        json_out_str(&j, "id", str_get(&id));
        json_out_int(&j, "update", r->update);
        json_out_str(&j, "prompt_id", p->id);
        json_out_str(&j, "kind", p->kind);
        json_out_str(&j, "prompt", p->text);
        json_out_str(&j, "reply", str_get(&reply));
        json_out_num(&j, "score", r->score[i]);
        json_out_num(&j, "kl", r->kl[i]);
        json_out_obj_end(&j);
        appender_line(me->samples, line.s, line.n, &ignore); /* samples are for people; a full disk shows elsewhere */
    }
    str_release(&line);
    str_release(&reply);
    str_release(&id);
}

/* Repeated updates write the same rows again, so the first row of an id is as good as any, and the order stays. */
typedef struct {
    Str text;
    uint64_t *seen;
    int n, cap;
} Unique;
static bool keep_new(void *ud, const Json *row, int line, Error *err) {
    Unique *u = ud;
    const char *id;
    JsonOut j;
    (void)line;
    if (!json_need_str(row, "id", &id, NULL, err)) return false;
    uint64_t hash = stage_id(id);
    for (int i = 0; i < u->n; i++)
        if (u->seen[i] == hash) return true;
    if (u->n == u->cap) {
        u->cap = u->cap ? 2 * u->cap : 64;
        u->seen = mem_grow(u->seen, (size_t)u->cap * sizeof *u->seen);
    }
    u->seen[u->n++] = hash;
    json_out_init(&j, &u->text, 0);
    json_out_node(&j, NULL, row);
    str_putc(&u->text, '\n');
    return true;
}

static bool unique_samples(const char *dir, Error *err) {
    Unique u = {0};
    Str path = {0};
    path_join(&path, dir, "samples.jsonl");
    bool ok = jsonl_each(dir, "samples.jsonl", keep_new, &u, err) &&
              io_write_file(str_get(&path), str_get(&u.text), u.text.n, err);
    str_release(&path);
    str_release(&u.text);
    free(u.seen);
    return ok;
}

/* Red-team and other prompts in the wanted proportion: the scarcer kind is repeated in turn. */
static int mix_prompts(int **out, const Prompts *p, double red_share) {
    int n[2] = {0}, *at[2], total = 0;
    for (int k = 0; k < 2; k++) at[k] = mem_alloc((size_t)(p->n + 1) * sizeof **at);
    for (int i = 0; i < p->n; i++) {
        bool red = prompt_harmful(&p->item[i]);
        if (!strcmp(p->item[i].split, "train")) at[red][n[red]++] = i;
    }
    double share[2] = {1 - red_share, red_share};
    if (n[0] == 0) share[0] = 0, share[1] = 1;
    if (n[1] == 0) share[0] = 1, share[1] = 0;
    double scale = 0; /* smallest total in which no kind is cut */
    for (int k = 0; k < 2; k++)
        if (share[k] > 0 && n[k] / share[k] > scale) scale = n[k] / share[k];
    *out = mem_alloc((size_t)(scale + 3) * sizeof **out);
    for (int k = 0; k < 2; k++) {
        int want = (int)(share[k] * scale + 0.5);
        for (int i = 0; i < want && n[k]; i++) (*out)[total++] = at[k][i % n[k]];
        free(at[k]);
    }
    return total;
}

/* Keys whose first word is auto, then the kinds in their order. */
static int chosen(int key, int otherwise) { return key > 0 ? key - 1 : otherwise; }

void stage_rl_config(PpoConfig *p, const StageCtx *ctx) {
    const RunConfig *c = ctx->cfg;
    static const DType weights[] = {DTYPE_F32, DTYPE_BF16, DTYPE_I8};
    enum { NO_END_REPLACE, NO_END_ADD, NO_END_KEEP };
    const RlMethodInfo *m = &rl_methods[c->rl.method];
    *p = (PpoConfig){.rollout_weights = weights[c->rl.rollout_weights],
                     .method = (RlMethod)c->rl.method,
                     .updates = c->rl.t.steps,
                     .rollouts = (int)c->rl.rollouts,
                     .epochs = (int)c->rl.epochs,
                     .minibatches = (int)c->rl.minibatches,
                     .max_new = (int)c->rl.s.max_new,
                     .max_tok = (int)c->rl.t.micro_tokens,
                     .beta = c->rl.beta,
                     .temperature = c->rl.s.temperature,
                     .gamma = c->rl.gamma,
                     .lambda = c->rl.lambda,
                     .value_weight = c->rl.value_weight,
                     .value_clip = c->rl.value_clip,
                     .clip = {c->rl.clip_low, c->rl.clip_high, c->rl.dual_clip, c->rl.clip_delta, 0},
                     .term = (PolicyTerm)c->rl.policy_term,
                     .level = (RatioLevel)chosen(c->rl.ratio, (int)m->level),
                     .no_end_score = c->rl.no_end == NO_END_KEEP ? NAN : c->rl.no_end_score,
                     .no_end_adds = c->rl.no_end == NO_END_ADD,
                     .score_clip = c->rl.score_clip,
                     .whiten_rewards = c->rl.whiten_rewards,
                     .whiten_advantages = c->rl.whiten_advantages,
                     .whiten_unbiased = c->rl.whiten_unbiased,
                     .value_warmup = c->rl.value_warmup,
                     .mix_weight = c->rl.mix,
                     .aggregation = (Aggregation)chosen(c->rl.aggregate, (int)m->aggregation),
                     .group = (int)c->rl.group,
                     .group_kind = (GroupKind)c->rl.group_scale,
                     .group_eps = c->rl.group_eps,
                     .kl_by_ratio = c->rl.kl_by_ratio,
                     .kl_target = c->rl.kl_target,
                     .kl_horizon = c->rl.kl_horizon,
                     .kl_stop = c->rl.kl_stop,
                     .value_lr = c->rl.value_lr,
                     .state_s = c->run.state_s,
                     .state_updates = c->ckpt.every,
                     .state = stage_state(ctx),
                     .trace = ctx->trace,
                     .seed = ctx->seed,
                     .mesh = ctx->mesh,
                     .shard = run_config_zero(c),
                     .overlap = c->dist.overlap,
                     .running_sum = !c->dist.tree,
                     .compare_every = c->dist.check_every,
                     .keep = c->rl.t.recompute == RECOMPUTE_ON ? KEEP_INPUTS : KEEP_ALL,
                     .keep_auto = c->rl.t.recompute == RECOMPUTE_AUTO};
    stage_optim(&p->optim, &c->rl.t);
    stage_schedule(&p->schedule, "rl", &c->rl.t, c->rl.t.steps);
}

typedef struct {
    StageNet policy, reference, value, pm;
    Engine *scorer;
} Nets;

/* A preference model that was trained whole: the value model is an adapter over it, and a head that begins as its own.
 */
static bool open_value(Nets *n, const StageCtx *ctx, const char *pm, Error *err) {
    Str dir = {0};
    StageNet *v = &n->value;
    *v = (StageNet){.net = {&n->pm.m, &v->h, NULL}, .open = true};
    path_join(&dir, pm, "model");
    bool ok = head_open(&v->h, v->net.trunk, HEAD_SCORE, str_get(&dir), true, err);
    if (!ok) stage_net_close(v);
    ok = ok && stage_net_adapt(v, ctx, str_get(&dir), err);
    str_release(&dir);
    return ok;
}

/* One frozen SL-CAI: the policy is an adapter over it, the reference is it alone, and where the preference model was
 * trained so too, that and the value model are adapters over it. */
static bool open_lora(Nets *n, const StageCtx *ctx, const char *sl, const char *pm, Error *err) {
    bool value = rl_methods[ctx->cfg->rl.method].value;
    if (!stage_net_open(&n->policy, ctx, sl, HEAD_LM, true, err)) return false;
    stage_net_frozen(&n->reference, &n->policy);
    if (stage_lora_of(ctx->cfg, "pm"))
        return stage_net_attach(&n->pm, &n->policy, pm, false, err) &&
               (!value || stage_net_attach(&n->value, &n->policy, pm, true, err));
    return stage_net_open(&n->pm, ctx, pm, HEAD_SCORE, false, err) && (!value || open_value(n, ctx, pm, err));
}

static bool open_nets(Nets *n, const StageCtx *ctx, Error *err) {
    const char *sl = stage_input(ctx, "sl"), *pm = stage_input(ctx, "pm");
    EngineConfig ec = {.max_batch_tok = (int)ctx->cfg->rl.t.micro_tokens};
    bool value = rl_methods[ctx->cfg->rl.method].value;
    if (stage_lora(ctx)) return open_lora(n, ctx, sl, pm, err) && engine_open(&n->scorer, n->pm.net, &ec, err);
    return stage_net_open(&n->policy, ctx, sl, HEAD_LM, true, err) &&
           stage_net_open(&n->reference, ctx, sl, HEAD_LM, false, err) &&
           (!value || stage_net_open(&n->value, ctx, pm, HEAD_SCORE, true, err)) &&
           stage_net_open(&n->pm, ctx, pm, HEAD_SCORE, false, err) && engine_open(&n->scorer, n->pm.net, &ec, err);
}

static bool read_unit(double *mean, double *sd, const char *pm_dir, Error *err) {
    Str path = {0};
    Json *root = NULL;
    path_join(&path, pm_dir, "summary.json");
    bool ok = json_read_file(&root, str_get(&path), 0, err) && json_need_num(root, "score_mean", mean, err) &&
              json_need_num(root, "score_sd", sd, err);
    json_release(root);
    str_release(&path);
    return ok;
}

typedef struct {
    double kl, score, end_share, length;
    int64_t rows;
} LastRow;
static bool last_row(void *ud, const Json *row, int line, Error *err) {
    LastRow *l = ud;
    (void)line, (void)err;
    l->kl = json_num(json_get(row, "kl"), NAN);
    l->score = json_num(json_get(row, "score"), NAN);
    l->end_share = json_num(json_get(row, "end_share"), NAN);
    l->length = json_num(json_get(row, "length"), NAN);
    l->rows++;
    return true;
}

/* The last rollout was the last policy's but one; where the guard put weights back, their own check says more. */
static bool summarise(const StageCtx *ctx, bool by_kl, RlGuard *guard, Error *err) {
    LastRow last = {0};
    if (!jsonl_each(ctx->output, "metrics.jsonl", last_row, &last, err)) return false;
    const PpoGuard *g = rl_guard_of(guard);
    if (g && g->stopped)
        last = (LastRow){g->kept.kl, g->kept.proxy, 1 - g->kept.share[GUARD_CUT], g->kept.length, last.rows};
    Summary s;
    summary_begin(&s);
    summary_num(&s, "updates", (double)last.rows);
    summary_num(&s, "kl", last.kl);
    summary_num(&s, "score", last.score);
    summary_num(&s, "end_share", last.end_share);
    summary_num(&s, "length", last.length);
    summary_num(&s, "stopped_by_kl", by_kl);
    rl_guard_summary(guard, &s);
    return summary_end(&s, ctx, err);
}

/* Texts of the pre-training mix, none of which is booked: the ledger of this stage counts prompts. */
static bool read_mix(SampleSet *set, const StageCtx *ctx, const StageText *text, int max, Error *err) {
    Rows rows = {0};
    if (ctx->cfg->rl.mix == 0) return true;
    bool ok = stage_rows(&rows, ctx, &ctx->cfg->data.pretrain, ROW_TEXT, err) &&
              rows_check_ids(&rows, tokenizer_n_vocab(text->tok), err);
    if (ok) stage_add_texts(set, ctx, text, rows.row, rows.n, max, NULL);
    rows_release(&rows);
    return ok && (set->n > 0 || error_set(err, ERR_CONFIG, "rl.mix %g: data.pretrain has no text", ctx->cfg->rl.mix));
}

/* Prompts of the rollouts that fit, and where each comes from. */
typedef struct {
    PpoPrompt *prompt;
    Sequence *seq;
    int *of, n, n_seq;
} RlPrompts;

static void prompts_place(RlPrompts *r, const StageCtx *ctx, const StageText *text, const Prompts *prompts, int max_seq,
                          PpoConfig *c) {
    bool booked = rl_methods[c->method].rollouts;
    r->n_seq = mix_prompts(&r->of, prompts, ctx->cfg->rl.redteam_share);
    r->prompt = mem_alloc((size_t)(r->n_seq + 1) * sizeof *r->prompt);
    r->seq = mem_alloc((size_t)(r->n_seq + 1) * sizeof *r->seq);
    for (int i = 0; i < r->n_seq; i++) {
        Message m = {ROLE_USER, prompts->item[r->of[i]].text};
        TokBuf *tok = &r->seq[i].tok;
        chat_respond(&r->seq[i], &text->chat, (Dialogue){&m, 1});
        bool fits = tok->n <= max_seq - c->max_new;
        if (booked) {
            ledger_in(ctx->ledger, 1, 0);
            ledger_add(ctx->ledger, fits ? LEDGER_TRAINED : LEDGER_DROPPED, fits ? NULL : "CONTEXT", 1, 0);
        }
        if (!fits) continue;
        if (tok->n + c->max_new > c->max_tok) c->max_tok = tok->n + c->max_new; /* one reply has to fit a pass */
        r->of[r->n] = r->of[i];
        r->prompt[r->n++] = (PpoPrompt){stage_id(prompts->item[r->of[i]].id), tok->id, tok->n};
    }
}

static void prompts_free(RlPrompts *r) {
    for (int i = 0; i < r->n_seq; i++) sequence_release(&r->seq[i]);
    free(r->prompt);
    free(r->seq);
    free(r->of);
}

/* Past kl_stop, or where the guard ended the run, the policy holds the last good weights: a result, with a warning, not
 * a failure. */
static bool update(const StageCtx *ctx, const PpoConfig *c, PpoSetup *setup, RlGuard *guard, Error *err) {
    bool kl_stop = false;
    setup->stopped_by_kl = &kl_stop;
    setup->guard = rl_guard_of(guard);
    bool done = ppo_run(c, setup, ctx->output, ctx->log, ctx->stop, err);
    bool put_back = err->code == ERR_DIVERGED && (kl_stop || (setup->guard && setup->guard->stopped));
    if (!done && put_back) {
        log_warn(ctx->log, "%s; going on with those", err->msg);
        log_event(ctx->log, "rl_stopped", "%s", err->msg);
        *err = (Error){0};
    }
    return (done || put_back) && (!stage_leads(ctx) || summarise(ctx, kl_stop, guard, err));
}

static bool update_guarded(const StageCtx *ctx, const StageText *text, const Prompts *prompts, const PpoConfig *c,
                           PpoSetup *setup, Error *err) {
    RlGuard *guard;
    if (!rl_guard_open(&guard, ctx, text, prompts, c, setup->policy.trunk->cfg.max_seq, err)) return false;
    bool ok = update(ctx, c, setup, guard, err);
    rl_guard_close(guard);
    return ok;
}

static bool train(const StageCtx *ctx, Nets *n, const StageText *text, const Prompts *prompts, Error *err) {
    RlPrompts p = {0};
    PpoConfig c;
    SampleSet mix;
    samples_init(&mix, 1);
    stage_rl_config(&c, ctx);
    prompts_place(&p, ctx, text, prompts, n->policy.net.trunk->cfg.max_seq, &c);
    Reporter reporter = {ctx, text, prompts, p.of, p.prompt, NULL, c.updates};
    PpoPmScore score = {n->scorer, text->chat.id[SENT_END], n->pm.net.trunk->cfg.max_seq};
    PpoSetup setup = {.policy = n->policy.net,
                      .reference = n->reference.net,
                      .value = n->value.net,
                      .prompt = p.prompt,
                      .n_prompt = p.n,
                      .end_id = text->chat.id[SENT_END],
                      .score = ppo_score_pm,
                      .score_ud = &score,
                      .mix = &mix,
                      .report = report,
                      .report_ud = &reporter};
    Str path = {0};
    path_join(&path, ctx->output, "samples.jsonl");
    int max = n->policy.net.trunk->cfg.max_seq < c.max_tok ? n->policy.net.trunk->cfg.max_seq : c.max_tok;
    bool ok = p.n > 0 || error_set(err, ERR_CONFIG,
                                   "no prompt leaves room for rl.max_new %d tokens in the context of %d: lower it",
                                   c.max_new, n->policy.net.trunk->cfg.max_seq);
    ok = ok && sequences_ok(p.seq, p.n_seq, err) &&
         read_unit(&setup.score_mean, &setup.score_sd, stage_input(ctx, "pm"), err) &&
         read_mix(&mix, ctx, text, max, err) &&
         (!stage_leads(ctx) ||
          appender_open(&reporter.samples, str_get(&path), state_exists(ctx->output) ? -1 : 0, err));
    if (ctx->cfg->rl.value_unit == 1) c.value_shift = setup.score_mean, c.value_scale = setup.score_sd;
    if (ok) {
        ok = rl_methods[c.method].rollouts ? update_guarded(ctx, text, prompts, &c, &setup, err)
                                           : stage_rl_dpo(ctx, text, &c, &setup, err);
        appender_close(reporter.samples);
        ok = ok && (!stage_leads(ctx) || unique_samples(ctx->output, err));
    }
    samples_release(&mix);
    prompts_free(&p);
    str_release(&path);
    return ok;
}

static bool run(const StageCtx *ctx, Error *err) {
    const char *tokenizer = stage_input(ctx, "tokenizer");
    StageText text = {0};
    Nets n = {0};
    Prompts prompts = {0};
    bool ok = stage_text_open(&text, tokenizer, err) && open_nets(&n, ctx, err) &&
              prompts_read(&prompts, stage_input(ctx, "prompts"), err) && train(ctx, &n, &text, &prompts, err) &&
              stage_net_save(ctx, n.policy.net, tokenizer, err);
    if (n.scorer) engine_close(n.scorer);
    stage_net_close(&n.value); /* before the trunk that it may borrow */
    stage_net_close(&n.pm);
    stage_net_close(&n.reference);
    stage_net_close(&n.policy);
    prompts_release(&prompts);
    stage_text_close(&text);
    return ok;
}

static void files(const RunConfig *c, void (*add)(void *ud, const char *path), void *ud) {
    if (c->rl.mix > 0) stage_list_files(&c->data.pretrain, add, ud);
}

const Stage stage_rl = {
    .name = "rl",
    .help = "RL-CAI: policy gradients against the preference model, or DPO, near SL-CAI by a KL penalty",
    .version = 4,
    .needs = {"world", "tokenizer", "prompts", "helpful", "sl", "pairs", "label", "pm"},
    .section = {"rl.", "dpo.", "lora.", "label.", "dist.", "data.columns", "data.max_rows"},
    .files = files,
    .uses_constitution = true, /* its guard judges */
    .spread = true,
    .run = run};
