/* cai/stage_net.h — tokenizer and nets that a stage opens from the results of others, and the folder that it leaves of its own: whole or a
 * rank's part, with an adapter or without. */
#ifndef DIKAST_CAI_STAGE_NET_H
#define DIKAST_CAI_STAGE_NET_H

#include "cai/stage.h"
#include "nn/lora.h"
#include "nn/model.h"
#include "text/chat.h"

typedef struct { Tokenizer *tok; Chat chat; } StageText;
bool stage_text_open(StageText *t, const char *dir, Error *err);    /* dir: a stage's output or model folder */
void stage_text_close(StageText *t);

/* Of a new trunk by model.*, for that tokenizer. */
bool stage_model_config(ModelConfig *m, const RunConfig *c, const StageText *text, Error *err);
bool stage_model_shape(ModelConfig *m, const RunConfig *c, int n_vocab, int32_t end_id, Error *err);

/* Not copied: net points into it, or to the trunk and head of another one that stays open longer. */
typedef struct { Model m; Head h; Adapter *adapter; Net net; bool open; } StageNet;
/* dir/model of a stage; of several ranks this one's part to train, without grads all layers of its share. kind SCORE opens score.weight.
 * grads: for training, which under LoRA is that of a new adapter and of a scoring head. */
bool stage_net_open(StageNet *n, const StageCtx *ctx, const char *stage_dir, HeadKind kind, bool grads, Error *err);
/* Likewise to train, with a scoring head of n_out outputs drawn by the seed. */
bool stage_net_open_fresh(StageNet *n, const StageCtx *ctx, const char *stage_dir, int n_out, Error *err);
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
/* Writes output/model: weights, config.json, the tokenizer of text_dir and what other programs look for beside them; of a net with an
 * adapter output/adapter too, which is merged into the trunk then. The ids it names: the dialogue's end ends a text, <|mask|> pads unless
 * another id can: padding must never be an id of text. */
bool stage_net_save(const StageCtx *ctx, Net net, const char *text_dir, Error *err);

#endif
