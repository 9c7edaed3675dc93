#include "cai/run_check.h"

#include <math.h>
#include <string.h>

#include "base/guess.h"
#include "base/io.h"
#include "cai/judge_remote.h"
#include "cai/pipeline.h"
#include "cai/stage_util.h"
#include "eval/stats.h"
#include "train/ppo.h"

/* While nothing is known yet every metric that some stage could report is 1: this finds what is written wrong. */
static double metric_possible(void *ud, const char *name) {
    const RunConfig *cfg = ud;
    char stage[32];
    size_t n = strcspn(name, ".");
    if (!name[n] || n >= sizeof stage) return NAN;
    memcpy(stage, name, n);
    stage[n] = 0;
    return stage_find(stage) || (!strcmp(stage, "base") && cfg->eval.base[0]) ? 1 : NAN;
}

/* The label stage knows its own metrics only. */
static double label_possible(void *ud, const char *name) {
    (void)ud;
    return strncmp(name, "label.", 6) ? NAN : 1;
}

static bool check_gates(const RunConfig *cfg, Error *err) {
    PipelineResult *r = NULL;
    Str path = {0};
    str_printf(&path, "%s/runs/%s/report.json", cfg->run.out, cfg->eval.base);
    bool ok = !cfg->eval.base[0] || io_exists(str_get(&path)) ||
              error_set(err, ERR_CONFIG, "eval.base=%s: there is no %s; run that configuration first", cfg->eval.base,
                        str_get(&path));
    str_release(&path);
    if (ok && cfg->eval.gates.n > COUNT_OF(r->gate))
        ok = error_set(err, ERR_CONFIG, "eval.gates: %d gates, at most %d", cfg->eval.gates.n, COUNT_OF(r->gate));
    for (int i = 0; i < cfg->eval.gates.n && ok; i++) {
        GateResult g;
        ok = gate_eval(&g, cfg->eval.gates.item[i], metric_possible, (void *)cfg, err) || error_wrap(err, "eval.gates");
    }
    for (int i = 0; i < cfg->label.gates.n && ok; i++) {
        GateResult g;
        ok = gate_eval(&g, cfg->label.gates.item[i], label_possible, NULL, err) || error_wrap(err, "label.gates");
    }
    return ok;
}

static bool check_data(const RunConfig *cfg, Error *err) {
    const struct {
        const char *name;
        int n;
    } list[] = {{"data.pretrain", cfg->data.pretrain.n},
                {"data.sft", cfg->data.sft.n},
                {"data.redteam or data.benign", cfg->data.redteam.n + cfg->data.benign.n}};
    if (cfg->eval.split && cfg->data.dev_share <= 0)
        return error_set(err, ERR_CONFIG,
                         "eval.split dev: data.dev_share 0 keeps no prompt for it; set it, such as 0.1");
    if (cfg->data.eval_share + cfg->data.dev_share > 0.9 && !cfg->data.eval.n)
        return error_set(err, ERR_CONFIG,
                         "data.eval_share %g and data.dev_share %g leave less than a tenth to train on",
                         cfg->data.eval_share, cfg->data.dev_share);
    for (int i = 0; i < COUNT_OF(list); i++)
        if (list[i].n == 0) return error_set(err, ERR_CONFIG, "%s: no file is named", list[i].name);
    return true;
}

static bool check_machine(const RunConfig *cfg, Error *err) {
    if (cfg->run.device != 0 && cfg->run.backend != RUN_CUDA)
        return error_set(err, ERR_CONFIG, "run.device %lld names a GPU: leave it at 0, or run.backend at cuda",
                         (long long)cfg->run.device);
    return cfg->rl.rollout_weights == 0 || (cfg->run.dtype == 0 && cfg->run.backend == 0) ||
           error_set(err, ERR_CONFIG,
                     "rl.rollout_weights rounds F32 weights of backend cpu: leave it at own, or run.dtype at fp32 and "
                     "run.backend at cpu");
}

static bool check_rl(const RunConfig *cfg, Error *err) {
    if (cfg->rl.minibatches > cfg->rl.rollouts)
        return error_set(err, ERR_CONFIG, "rl.n_minibatch %lld is more than rl.rollouts %lld",
                         (long long)cfg->rl.minibatches, (long long)cfg->rl.rollouts);
    if (rl_methods[cfg->rl.method].groups && cfg->rl.rollouts % cfg->rl.group)
        return error_set(
            err, ERR_CONFIG,
            "rl.rollouts %lld is no multiple of rl.group %lld: with rl.method %s every update has whole groups",
            (long long)cfg->rl.rollouts, (long long)cfg->rl.group, rl_methods[cfg->rl.method].name);
    const struct {
        const char *name;
        double x;
    } bound[] = {{"rl.dual_clip", cfg->rl.dual_clip}, {"rl.clip_delta", cfg->rl.clip_delta}};
    for (int i = 0; i < COUNT_OF(bound); i++)
        if (bound[i].x > 0 && bound[i].x <= 1)
            return error_set(
                err, ERR_CONFIG,
                "%s %g would take the gradient of every token whose ratio is 1, which is where each update "
                "begins: it must be above 1, such as 3, or 0: off",
                bound[i].name, bound[i].x);
    if (cfg->rl.kl_target > 0 && cfg->rl.beta == 0)
        return error_set(
            err, ERR_CONFIG,
            "rl.kl_target %g with rl.beta 0: the penalty is adapted by factors, and 0 stays 0; set rl.beta, "
            "such as 0.05, or rl.kl_target to 0",
            cfg->rl.kl_target);
    if (cfg->rl.policy_term == TERM_CISPO && cfg->rl.clip_high < 1)
        return error_set(
            err, ERR_CONFIG,
            "rl.policy_term cispo cuts ratios at rl.clip_high %g, which would weigh every token down: with it "
            "rl.clip_high is the ratio itself, such as 5",
            cfg->rl.clip_high);
    return cfg->dpo.loss != DPO_ROBUST || cfg->dpo.label_smoothing < 0.5 ||
           error_set(err, ERR_CONFIG,
                     "dpo.loss robust with dpo.label_smoothing %g: labels of which half are wrong say nothing; it must "
                     "be below 0.5",
                     cfg->dpo.label_smoothing);
}

/* What parts of models cannot do. */
static bool check_parts(const RunConfig *cfg, Error *err) {
    long long pp = (long long)cfg->dist.pp, tp = (long long)cfg->dist.tp;
    if (pp * tp > 1 && cfg->lora.r > 0 && cfg->lora.stages.n > 0)
        return error_set(err, ERR_CONFIG,
                         "dist.%s %lld with lora.stages (%.40s): an adapter is trained beside a whole model; set "
                         "dist.%s=1, or leave the stage out",
                         pp > 1 ? "pp" : "tp", pp > 1 ? pp : tp, cfg->lora.stages.item[0], pp > 1 ? "pp" : "tp");
    if (cfg->dist.cp > 1 && cfg->run.backend == RUN_CUDA)
        return error_set(err, ERR_CONFIG,
                         "dist.cp %lld with run.backend=cuda: its attention learns from whole sequences only; set "
                         "dist.cp=1, or run.backend=cpu",
                         (long long)cfg->dist.cp);
    if (!cfg->model.path[0] && pp > cfg->model.n_layer)
        return error_set(err, ERR_CONFIG, "dist.pp %lld is more than model.n_layer %lld: every stage needs a layer", pp,
                         (long long)cfg->model.n_layer);
    return cfg->pm.n_layer == 0 || pp <= cfg->pm.n_layer ||
           error_set(err, ERR_CONFIG, "dist.pp %lld is more than pm.n_layer %lld: every stage needs a layer", pp,
                     (long long)cfg->pm.n_layer);
}

/* Of a model that is made here; an imported one decides for itself. */
static bool check_lengths(const RunConfig *cfg, Error *err) {
    int64_t max = cfg->model.max_seq, revise = cfg->revise.critique_tokens + cfg->revise.s.max_new;
    if (cfg->pm.n_layer > cfg->model.n_layer)
        return error_set(err, ERR_CONFIG, "pm.n_layer %d is more than model.n_layer %d", (int)cfg->pm.n_layer,
                         (int)cfg->model.n_layer);
    if (cfg->revise.critique && revise + 5 >= max)
        return error_set(
            err, ERR_CONFIG,
            "revise.critique_tokens %lld and revise.max_new %lld leave no room for a prompt in model.max_seq %lld",
            (long long)cfg->revise.critique_tokens, (long long)cfg->revise.s.max_new, (long long)max);
    const struct {
        const char *name;
        int64_t n;
    } reply[] = {{"revise", cfg->revise.s.max_new},
                 {"pairs", cfg->pairs.s.max_new},
                 {"rl", cfg->rl.s.max_new},
                 {"eval", cfg->eval.s.max_new}};
    for (int i = 0; i < COUNT_OF(reply); i++)
        if (reply[i].n >= max)
            return error_set(err, ERR_CONFIG, "%s.max_new %lld leaves no room for a prompt in model.max_seq %lld",
                             reply[i].name, (long long)reply[i].n, (long long)max);
    return true;
}

bool run_stage_check(const char *name, Error *err) {
    Guess near = {.typed = name};
    for (int i = 0; stages[i]; i++) guess_offer(&near, stages[i]->name);
    return stage_find(name) ||
           error_set(err, ERR_CONFIG, "unknown stage '%s'%s; 'dikast --help' lists them", name, guess_hint(&near));
}

bool run_config_check(const RunConfig *cfg, Error *err) {
    return check_gates(cfg, err) && stage_lora_check(cfg, err) && remote_judge_check(cfg, false, err) &&
           check_data(cfg, err) && check_machine(cfg, err) && check_rl(cfg, err) && check_parts(cfg, err) &&
           (cfg->model.path[0] || check_lengths(cfg, err));
}
