/* cai/run_config.h — the configuration of a run: one struct, and one table of keys (run_config.c) that drives file,
 * overrides, help, dump and hashes. To add a key: the field here, a row there. Sections are the prefixes stages name. */
#ifndef DIKAST_CAI_RUN_CONFIG_H
#define DIKAST_CAI_RUN_CONFIG_H

#include "base/config.h"

enum { RECOMPUTE_AUTO, RECOMPUTE_OFF, RECOMPUTE_ON };

typedef struct {            /* every training stage's section holds one */
    int64_t steps, batch_tokens, micro_tokens, warmup;
    double epochs;          /* > 0 and steps 0: steps follow from the data */
    double lr, min_lr, weight_decay, clip, beta1, beta2, eps;
    int schedule;           /* constant|linear|cosine|wsd */
    int recompute;          /* auto|false|true */
} TrainKeys;

typedef struct { double temperature, top_p; int64_t top_k, max_new; } SampleKeys;

typedef struct {
    struct { char *name, *out; int64_t seed, threads, device; int backend, isa, dtype; double state_s; } run;
    struct { int64_t every, keep, keep_every; bool keep_best, async; } ckpt;    /* saved training states; how often by the clock: run.state_s */
    struct { int64_t ranks, tp, cp, pp, gpus; int comm, zero; bool overlap, tree; int64_t check_every; double timeout_s; } dist;
    struct {
        int source;         /* files | world */
        int sft_turns;      /* all | last */
        char *dir;
        CfgList pretrain, sft, format, redteam, benign, prefs_helpful, prefs_harmless, harm_qa, choice, eval, judge_gold, pm_gold, columns;
        double dedup, eval_share, dev_share, max_lost;
        int64_t max_rows;   /* per file, 0: all; a seeded sample */
    } data;
    struct {                /* the tiny world's generator */
        int64_t categories, objects, demo_objects, eval_prompts, sft_rows, pretrain_docs;
        int64_t seed, prefs_helpful;
        double judge_share, critique_share, helpful_share, reason_share, applies_share;
    } world;
    struct { char *import; int64_t vocab; int split; } tokenizer;
    struct {
        char *path;         /* a model directory to start from instead of random weights; "" none */
        int prompts;        /* auto | sentinels | headings */
        int family;
        int64_t n_layer, n_head, n_kv_head, d_model, d_ff, max_seq;
        bool tied;
        double rope_theta;
    } model;
    struct { int64_t r; double alpha, dropout; bool rslora; CfgList targets, stages; } lora;
    struct { char *path; int select, score; double epsilon, tau; int64_t candidates; CfgList only; } constitution;
    struct { TrainKeys t; int objective; double mask_rate; } pretrain;
    struct { TrainKeys t; double format_share, judge_weight; bool reason_first; } helpful;
    struct { int64_t limit, variants; bool slots, synonyms, wrappers; } prompts;
    struct {
        SampleKeys s;
        int64_t redteam, benign;    /* dialogues made from each; 0: one per prompt, -1: none */
        int64_t repeats, rounds, critique_tokens, min_words, retries, audit;
        int mode;                   /* one | two */
        bool critique;              /* false: the no-critique control: nothing is revised */
        bool gate, need_quote, dedup;
        double gate_min, max_similar, min_similar, evasive_share;
    } revise;
    struct { TrainKeys t; int start; double revise_share, keep_share, helpful_share, format_share; int64_t variants; } sl;
    struct { SampleKeys s; int64_t redteam, benign, repeats; } pairs;
    struct {                    /* who judges pairs; all but kind is judge.remote.* */
        int kind, api, key_header;
        char *url, *model, *key_env, *cache;
        double temperature, timeout_s, backoff_s, per_minute, max_usd, price_in, price_out;
        int64_t max_tokens, votes, retries, concurrency, max_requests, max_total_tokens;
        bool logprobs;
        int64_t reasons, reason_tokens;
    } judge;
    struct { double clamp, t_cal, abstain, max_q, min_tests; bool ensemble; int release; CfgList gates; } label;
    struct {
        TrainKeys t;
        int64_t n_layer;            /* 0: as the policy; fewer: the first layers of its trunk */
        double holdout, helpful_share, center, margin;
        int heads;                  /* one | principles */
        int64_t ensemble;
        bool length_control, calibrate;
        int64_t shuffle, untrained;
    } pm;
    struct {
        TrainKeys t;                /* lr, schedule, clip...; steps = updates */
        SampleKeys s;
        int method;                 /* rl_methods[] */
        int rollout_weights;        /* own | bf16 | int8 */
        int64_t rollouts, epochs, minibatches, group;
        int aggregate;              /* auto | the kinds of Aggregation */
        int ratio, policy_term;     /* auto | RatioLevel; PolicyTerm */
        int group_scale;            /* group | batch | none */
        int no_end;                 /* replace | add | keep */
        int value_unit;             /* raw | score */
        int64_t value_warmup;
        double mix, clip_delta;
        double redteam_share, beta, gamma, lambda, clip_low, clip_high, dual_clip, value_clip, value_weight, value_lr;
        double no_end_score, score_clip, kl_target, kl_horizon, kl_stop;
        double group_eps;
        bool whiten_rewards, whiten_advantages, whiten_unbiased, kl_by_ratio;
        struct {                    /* against over-optimisation (train/guard.h) */
            int64_t every, prompts, patience;
            double cut, top4, duplicates, evasive, comfort, refused, length, entropy;
        } guard;
    } rl;
    struct { TrainKeys t; int loss; double beta, label_smoothing; bool average; } dpo;
    struct { TrainKeys t; double holdout; } classifier;
    struct {
        SampleKeys s;
        int split;                  /* eval | dev */
        int64_t samples, limit, choice_limit, bon;
        bool judge;
        char *gold;                 /* program that scores the tiny world; "" : beside dikast */
        char *base;                 /* run whose report gates may compare with */
        CfgList gates;
    } eval;
} RunConfig;

extern const CfgKey run_keys[];
extern const int run_key_count;
bool run_config_load(RunConfig *c, const char *path, const char *const *set, int n_set, Str *report, Error *err);
void run_config_release(RunConfig *c);
int run_config_zero(const RunConfig *c);        /* ZeRO stage: 0, 1, 2 */

#endif
