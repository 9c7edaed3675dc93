/* cai/stages.h — the stages of the method, one file each, in the order of stages[] (stages.c). */
#ifndef DIKAST_CAI_STAGES_H
#define DIKAST_CAI_STAGES_H

#include "cai/stage_util.h"

extern const Stage stage_world, stage_tokenizer, stage_prompts, stage_pretrain, stage_helpful, stage_revise, stage_sl,
    stage_pairs, stage_label, stage_pm, stage_rl, stage_classifier, stage_eval;

/* The chat of an instruction row; the replies and their ends have weight: every one that the row leaves to learn, or the last
 * alone. False, with nothing appended: the row uses tools, and dialogues are written natively. */
bool sequence_instruction(Sequence *s, const Chat *c, const Row *r, bool all_turns);
/* The same instruction in other words: variant v of its last user turn by frame or wrapper (data/augment.h), the same
 * answer. Synonyms are left out: an instruction may be about the very word. False, with nothing appended: there is no such
 * variant, or the row is no plain text (ids, tools). */
bool sequence_variant(Sequence *s, const StageCtx *ctx, const Chat *c, const Row *r, int v);
bool instruction_ok(const Sequence *s, const Row *r, Error *err);     /* sequence_ok; the error names the row */
#define INSTRUCTION_TOOLS "tools, which only a chat template of the model's own writes"

/* Tells the pipeline of every file in a list. */
void stage_list_files(const CfgList *list, void (*add)(void *ud, const char *path), void *ud);
/* The same for dir/file, which lies outside the data folder; file "" means dir itself. */
void stage_import_file(const char *dir, const char *file, void (*add)(void *ud, const char *path), void *ud);

/* prompts.jsonl of the prompts stage. */
typedef struct {
    const char *id, *text, *kind, *category, *split, *parent;   /* kind: redteam | benign | lookalike | harm ...; split: train | dev | eval */
    const char *reference;      /* gold helpful reply, or NULL */
    bool unseen;                /* an object no demonstration used (tiny world) */
} Prompt;
typedef struct { Prompt *item; int n, cap; Heap heap; } Prompts;
bool prompts_read(Prompts *p, const char *stage_dir, Error *err);
void prompts_release(Prompts *p);
bool prompt_harmful(const Prompt *p);   /* a request that should be declined under some principle */

/* Draws n training prompts of the wanted kind: every prompt of a shuffled order in turn, `repeats` times over; n 0: all of
 * them, repeats times; n < 0: none. Returns indices (caller frees) and their number; item i is repetition out_rep[i] of its prompt. */
typedef struct { int prompt, repeat; } PromptDraw;
PromptDraw *prompts_draw(const Prompts *p, const StageCtx *ctx, int64_t n_red, int64_t n_benign, int64_t repeats, int *n);

#endif
