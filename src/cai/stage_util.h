/* cai/stage_util.h — what several stages need: paths, rows, samples, splits, summaries; nets are in stage_net.h, training in stage_train.h. */
#ifndef DIKAST_CAI_STAGE_UTIL_H
#define DIKAST_CAI_STAGE_UTIL_H

#include "base/json.h"
#include "cai/constitution.h"
#include "cai/stage_net.h"
#include "cai/stage_train.h"
#include "data/rows.h"
#include "engine/engine.h"
#include "train/obj.h"

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
