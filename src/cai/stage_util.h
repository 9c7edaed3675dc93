/* cai/stage_util.h — what several stages need: paths, text tools and nets of other stages, samples, training, summaries. */
#ifndef DIKAST_CAI_STAGE_UTIL_H
#define DIKAST_CAI_STAGE_UTIL_H

#include "base/json.h"
#include "cai/constitution.h"
#include "cai/stage.h"
#include "data/rows.h"
#include "engine/engine.h"
#include "nn/lora.h"
#include "train/obj.h"
#include "train/trainer.h"

bool stage_leads(const StageCtx *ctx);      /* rank 0: the one that measures and writes */
const char *stage_input(const StageCtx *ctx, const char *name);     /* directory of that need; NULL if it does not apply */
void path_join(Str *out, const char *a, const char *b);             /* replaces *out by a/b; b beginning with / or ./ or ../ stays as it is */
void stage_data_path(Str *out, const char *data_dir, const char *name);     /* absolute names as they are */
/* Resolves constitution.path: as given when that file exists, else below data_dir. */
void constitution_path(Str *out, const RunConfig *cfg, const char *data_dir);
/* Reads it and keeps the principles of constitution.only (all when empty; unknown ids are errors). */
bool stage_constitution(Constitution *c, const RunConfig *cfg, const char *data_dir, Error *err);

/* Reads every file of the list; rows beyond data.max_rows per file are left out by a seeded draw. */
bool stage_rows(Rows *out, const StageCtx *ctx, const CfgList *files, RowKind kind, Error *err);

typedef struct { Tokenizer *tok; Chat chat; } StageText;
bool stage_text_open(StageText *t, const char *dir, Error *err);    /* dir: a stage's output or model folder */
void stage_text_close(StageText *t);

/* Of a new trunk by model.*, for that tokenizer. */
bool stage_model_config(ModelConfig *m, const RunConfig *c, const StageText *text, Error *err);
bool stage_model_shape(ModelConfig *m, const RunConfig *c, int n_vocab, int32_t end_id, Error *err);

/* Not copied: net points into it, or to the trunk and head of another one that stays open longer. */
typedef struct { Model m; Head h; Adapter *adapter; Net net; bool open; } StageNet;
/* dir/model of a stage; of several ranks this one's part to train, without grads all layers of its share. kind SCORE opens score.weight.
 * grads: for training, which under LoRA is that of a new adapter and of a
 * scoring head. */
bool stage_net_open(StageNet *n, const StageCtx *ctx, const char *stage_dir, HeadKind kind, bool grads, Error *err);
/* Does this rank measure what was trained? Those that share rank 0's net do, together. */
bool stage_measures(const StageCtx *ctx);
bool stage_agree(const StageCtx *ctx, bool ok, Error *err);     /* among them: can all go on? */
/* Does this stage, or the one of that name, train adapters? */
bool stage_lora(const StageCtx *ctx);
bool stage_lora_of(const RunConfig *cfg, const char *stage);
/* Names in lora.stages, and what cannot go with them. */
bool stage_lora_check(const RunConfig *cfg, Error *err);
/* A new adapter over n's trunk, which lies in base_dir. On failure n is closed. */
bool stage_net_adapt(StageNet *n, const StageCtx *ctx, const char *base_dir, Error *err);
/* What a net with an adapter was before: base's trunk and head, nothing opened. */
void stage_net_frozen(StageNet *n, const StageNet *base);
/* The adapter and scoring head that stage_dir/adapter holds, over base's trunk. */
bool stage_net_attach(StageNet *n, const StageNet *base, const char *stage_dir, bool grads, Error *err);
/* After training in stages (dist.pp): n becomes all layers of this rank's share, without gradients: what measures and is written. Other
 * nets stay. | A whole net becomes this rank's part. Every rank of the stage calls them. */
bool stage_net_join(StageNet *n, const StageCtx *ctx, Error *err);
bool stage_net_part(StageNet *n, const StageCtx *ctx, Error *err);
void stage_net_close(StageNet *n);
/* Lines of Model.note as warnings. */
void stage_warn_notes(Log *log, const char *dir, const char *note);
/* Writes output/model, of a net with an adapter output/adapter too, which is merged into the trunk then: weights, config.json, the tokenizer of text_dir and what other programs look for beside them. The
 * ids it names: the dialogue's end ends a text, <|mask|> pads unless another id can: padding must never be an id of text. */
bool stage_net_save(const StageCtx *ctx, Net net, const char *text_dir, Error *err);

/* Tokens of one forward pass over the set: micro_tokens, or as many as its longest group has. */
int stage_pass_tokens(const SampleSet *s, int64_t micro_tokens);
/* Steps, schedule and optimizer from the keys; packs in one epoch decide steps when keys->steps is 0. */
/* Its TrainConfig; packs_in_epoch decides c->steps when the keys do not. */
void stage_train_config(TrainConfig *c, const StageCtx *ctx, const TrainKeys *k, int64_t packs_in_epoch);
bool stage_train(const StageCtx *ctx, Net net, const TrainKeys *keys, const Objective *obj, int64_t packs_in_epoch, Error *err);
/* Mean next-token loss per weighted token of the whole set, nats; NaN when it is empty. */
bool stage_lm_loss(double *out, Net net, const SampleSet *s, int max_tok, Error *err);
void stage_optim(OptimConfig *o, const TrainKeys *k);
StateConfig stage_state(const StageCtx *ctx);    /* ckpt.* */
void stage_schedule(Schedule *s, const char *section, const TrainKeys *k, int64_t steps);
void stage_sampling(SampleParams *p, const StageCtx *ctx, const SampleKeys *k, const int32_t *stop, int n_stop);
/* One sequence into the set, unless it is longer than max_len: then it is dropped with a ledger entry. Tokens with weight
 * count as trained, the others as masked. Returns whether it went in. */
bool stage_add(const StageCtx *ctx, SampleSet *set, const Sequence *s, int max_len, uint64_t id, float target, float weight);
/* Rows of text as samples of at most max tokens: texts, then what was tokenised before. l may be NULL. */
void stage_add_texts(SampleSet *set, const StageCtx *ctx, const StageText *text, const Row *row, int n, int max, Ledger *l);
/* 64-bit hash of a record id: keys its random numbers. */
uint64_t stage_id(const char *id);
/* Where stage 'prompts' puts a prompt of this id: "eval", data.eval_share of them when data.eval names no others; "dev",
 * data.dev_share, for choosing settings; "train". */
const char *prompt_split(const RunConfig *c, const char *id);
/* The split that is answered in evaluation (eval.split), and the one that the guard of rl looks at: dev, when there is one. */
const char *eval_split(const RunConfig *c);
const char *guard_split(const RunConfig *c);
/* Whether a row of data.sft is a prompt of "eval" or "dev": its file gives prompts too. The rows of the same ids are then
 * learnt nowhere. */
bool instruction_held_out(const RunConfig *c, const char *id);

/* summary.json: flat metric -> number; the report and the gates read "<stage>.<metric>". */
typedef struct { Str text; JsonOut out; } Summary;
void summary_begin(Summary *s);
void summary_num(Summary *s, const char *name, double v);
bool summary_end(Summary *s, const StageCtx *ctx, Error *err);

/* Reads output JSONL of another stage, calling fn per line until it returns false. */
typedef bool JsonlFn(void *ud, const Json *row, int line, Error *err);
bool jsonl_each(const char *dir, const char *file, JsonlFn *fn, void *ud, Error *err);
/* The same for a file of the data folder in any container of data/source.h, columns under our names (data.columns); members
 * that are null are left out. line: where the row begins; of Parquet its number. */
bool stage_each_row(const StageCtx *ctx, const char *file, JsonlFn *fn, void *ud, Error *err);

#endif
