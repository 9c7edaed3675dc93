/* Prompts: read, check, deduplicate, split, augment. prompts.jsonl {id, prompt, kind, category, split, parent, ...};
 * rows of data.eval keep their other members. Variants of one prompt stay on its side of the split; those of evaluation
 * prompts are the paraphrase clusters of the consistency measure. */
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "cai/stages.h"
#include "data/augment.h"

typedef struct {
    const StageCtx *ctx;
    Writer *w;
    Str line;
    int64_t n_train, n_dev, n_eval, n_variant;
} Out;

static bool put(Out *o, const char *id, const char *prompt, const char *kind, const Row *row, const char *split,
                const char *parent, Error *err) {
    JsonOut j;
    str_clear(&o->line);
    json_out_init(&j, &o->line, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "id", id);
    json_out_str(&j, "prompt", prompt);
    json_out_str(&j, "kind", kind);
    json_out_str(&j, "category", row->category);
    json_out_str(&j, "source", row->source);
    json_out_str(&j, "split", split);
    json_out_str(&j, "parent", parent);
    json_out_obj_end(&j);
    str_putc(&o->line, '\n');
    return writer_put(o->w, o->line.s, o->line.n, err);
}

enum { EVAL_VARIANTS = 4 }; /* with the prompt itself a cluster of five */

static bool put_variants(Out *o, const Row *row, const char *kind, const char *split, int n, Error *err) {
    const RunConfig *c = o->ctx->cfg;
    unsigned kinds = (c->prompts.slots ? AUGMENT_SLOTS : 0u) | (c->prompts.synonyms ? AUGMENT_SYNONYMS : 0u) |
                     (c->prompts.wrappers ? AUGMENT_WRAPPERS : 0u);
    Str text = {0}, id = {0};
    bool ok = true;
    for (int v = 0; v < n && ok && kinds; v++) {
        if (!augment_prompt(&text, dialogue_last_user(row->prompt), kinds, (Rng){o->ctx->seed, RNG_AUGMENT},
                            stage_id(row->id), (uint32_t)v))
            continue;
        str_clear(&id);
        str_printf(&id, "%s~%d", row->id, v + 1);
        ok = put(o, str_get(&id), str_get(&text), kind, row, split, row->id, err);
        o->n_variant++;
    }
    str_release(&text);
    str_release(&id);
    return ok;
}

static bool put_rows(Out *o, Rows *rows, const char *kind, Error *err) {
    const RunConfig *c = o->ctx->cfg;
    const char **drop = mem_alloc((size_t)(rows->n + 1) * sizeof *drop);
    int64_t in = rows->n, gone = rows_dedup(rows, c->data.dedup, drop), kept = 0;
    free(drop);
    ledger_in(o->ctx->ledger, in, 0);
    ledger_add(o->ctx->ledger, LEDGER_DROPPED, "DUP", gone, 0);
    int64_t limit = c->prompts.limit, *order = mem_alloc((size_t)(rows->n + 1) * sizeof *order);
    rng_shuffle((Rng){o->ctx->seed, RNG_SHUFFLE}, stage_id(kind), order, rows->n);
    bool ok = true;
    for (int i = 0; i < rows->n && ok; i++) {
        const Row *row = &rows->row[order[i]];
        if (limit && kept >= limit) {
            ledger_add(o->ctx->ledger, LEDGER_DROPPED, "over prompts.limit", 1, 0);
            continue;
        }
        kept++;
        const char *split = prompt_split(c, row->id);
        bool train = !strcmp(split, "train");
        *(train ? &o->n_train : !strcmp(split, "dev") ? &o->n_dev : &o->n_eval) += 1;
        ledger_add(o->ctx->ledger, LEDGER_TRAINED, NULL, 1, 0);
        ok = put(o, row->id, dialogue_last_user(row->prompt), kind, row, split, row->id, err) &&
             put_variants(o, row, kind, split, train ? (int)c->prompts.variants : EVAL_VARIANTS, err);
    }
    free(order);
    return ok;
}

static bool known_kind(const char *s) {
    static const char *const kind[] = {"harm", "redteam", "benign", "lookalike"};
    for (int i = 0; i < COUNT_OF(kind); i++)
        if (!strcmp(s, kind[i])) return true;
    return false;
}

static bool copy_eval_row(void *ud, const Json *row, int line, Error *err) {
    Out *o = ud;
    JsonOut j;
    const char *text, *id, *kind;
    (void)line;
    if (!json_need_str(row, "prompt", &text, NULL, err) || !json_need_str(row, "id", &id, NULL, err) ||
        !json_need_str(row, "kind", &kind, NULL, err))
        return false;
    if (!known_kind(kind))
        return error_set(err, ERR_FORMAT, "'kind' is '%.40s', expected harm, redteam, benign or lookalike", kind);
    str_clear(&o->line);
    json_out_init(&j, &o->line, 0);
    json_out_obj(&j, NULL);
    for (int i = 0; i < json_len(row); i++) {
        const Json *v;
        const char *key = json_key_at(row, i, &v);
        if (strcmp(key, "split")) json_out_node(&j, key, v);
    }
    json_out_str(&j, "split", "eval");
    if (!json_get(row, "parent")) json_out_str(&j, "parent", id);
    json_out_obj_end(&j);
    str_putc(&o->line, '\n');
    o->n_eval++;
    return writer_put(o->w, o->line.s, o->line.n, err);
}

static bool put_all(Out *o, Error *err) {
    const RunConfig *c = o->ctx->cfg;
    Rows red = {0}, benign = {0};
    bool ok = stage_rows(&red, o->ctx, &c->data.redteam, ROW_PROMPT, err) && put_rows(o, &red, "redteam", err) &&
              stage_rows(&benign, o->ctx, &c->data.benign, ROW_PROMPT, err) && put_rows(o, &benign, "benign", err);
    for (int i = 0; i < c->data.eval.n && ok; i++)
        ok = stage_each_row(o->ctx, c->data.eval.item[i], copy_eval_row, o, err);
    rows_release(&red);
    rows_release(&benign);
    return ok;
}

static bool run(const StageCtx *ctx, Error *err) {
    Out o = {.ctx = ctx};
    Str path = {0};
    path_join(&path, ctx->output, "prompts.jsonl");
    bool ok = writer_open(&o.w, str_get(&path), err);
    if (ok && !put_all(&o, err)) {
        writer_abandon(o.w);
        ok = false;
    } else
        ok = ok && writer_commit(o.w, err);
    if (ok && o.n_train == 0)
        ok = error_set(err, ERR_FORMAT, "no training prompts are left; see data.redteam and data.benign");
    if (ok) {
        Summary s;
        summary_begin(&s);
        summary_num(&s, "train", (double)o.n_train);
        summary_num(&s, "eval", (double)o.n_eval);
        if (ctx->cfg->data.dev_share > 0) summary_num(&s, "dev", (double)o.n_dev);
        summary_num(&s, "variants", (double)o.n_variant);
        ok = summary_end(&s, ctx, err);
    }
    str_release(&path);
    str_release(&o.line);
    return ok;
}

static void files(const RunConfig *c, void (*add)(void *ud, const char *path), void *ud) {
    stage_list_files(&c->data.redteam, add, ud);
    stage_list_files(&c->data.benign, add, ud);
    stage_list_files(&c->data.eval, add, ud);
}

const Stage stage_prompts = {.name = "prompts",
                             .help = "check, deduplicate, split and augment the prompts",
                             .version = 1,
                             .needs = {"world"},
                             .section = {"prompts.", "data.redteam", "data.benign", "data.eval", "data.dev_share",
                                         "data.dedup", "data.columns", "data.max_rows"},
                             .files = files,
                             .run = run};
