#include "cai/stage_util.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/io.h"
#include "data/source.h"

bool stage_leads(const StageCtx *ctx) { return mesh_leads(ctx->mesh); }

const char *stage_input(const StageCtx *ctx, const char *name) {
    for (int i = 0; i < STAGE_MAX_NEEDS && ctx->stage->needs[i]; i++)
        if (!strcmp(ctx->stage->needs[i], name)) return ctx->input[i];
    CHECK(false, "stage '%s' asks for '%s', which it does not name in needs[]", ctx->stage->name, name);
    return NULL;
}

void path_join(Str *out, const char *a, const char *b) {
    str_clear(out);
    bool as_is = b[0] == '/' || !strncmp(b, "./", 2) || !strncmp(b, "../", 3);
    if (!as_is && a[0]) str_printf(out, "%s/", a);
    str_put(out, b);
}

void stage_data_path(Str *out, const char *data_dir, const char *name) { path_join(out, data_dir, name); }

void constitution_path(Str *out, const RunConfig *cfg, const char *data_dir) {
    str_clear(out);
    if (io_exists(cfg->constitution.path))
        str_put(out, cfg->constitution.path);
    else
        path_join(out, data_dir, cfg->constitution.path);
}

static bool keep_only(Constitution *c, const CfgList *only, const char *path, Error *err) {
    if (only->n == 0) return true;
    Principle *kept = heap_alloc(&c->heap, (size_t)only->n * sizeof *kept);
    for (int i = 0; i < only->n; i++) {
        int at = constitution_find(c, only->item[i]);
        if (at < 0)
            return error_set(err, ERR_CONFIG, "constitution.only: %s has no principle '%s'", path, only->item[i]);
        kept[i] = c->principle[at];
    }
    c->principle = kept;
    c->n = only->n;
    return true;
}

bool stage_constitution(Constitution *c, const RunConfig *cfg, const char *data_dir, Error *err) {
    Str path = {0};
    constitution_path(&path, cfg, data_dir);
    bool ok = io_exists(str_get(&path))
                  ? constitution_read(c, str_get(&path), err)
                  : error_set(err, ERR_FORMAT, "constitution.path=%s: no such file, neither from here nor at %s",
                              cfg->constitution.path, str_get(&path));
    if (ok && !keep_only(c, &cfg->constitution.only, str_get(&path), err)) {
        constitution_release(c);
        ok = false;
    }
    str_release(&path);
    return ok;
}

bool stage_rows(Rows *out, const StageCtx *ctx, const CfgList *files, RowKind kind, Error *err) {
    Str path = {0};
    Columns columns;
    const CfgList *names = &ctx->cfg->data.columns;
    if (!columns_parse(&columns, (const char *const *)names->item, names->n, "data.columns", err)) return false;
    bool ok = true;
    int64_t max = ctx->cfg->data.max_rows;
    int skipped = out->n_skip;
    for (int i = 0; i < files->n && ok; i++) {
        stage_data_path(&path, ctx->data_dir, files->item[i]);
        int first = out->n, reason = 0;
        int before[ROWS_SKIPS];
        for (int k = 0; k < ROWS_SKIPS; k++) before[k] = out->skip[k].n;
        ok = rows_read_pool(out, str_get(&path), kind, &columns, ctx->be ? ctx->be->pool : NULL, err);
        int n = ok ? out->n - first : 0;
        if (ok && out->n_skip > skipped)
            log_info(ctx->log, "%s: %d rows teach nothing (such as '%s') and are left out", files->item[i],
                     out->n_skip - skipped, out->skip[0].reason);
        skipped = out->n_skip;
        for (; ok && reason < ROWS_SKIPS && out->skip[reason].reason; reason++) {
            int gone = out->skip[reason].n - before[reason];
            ledger_in(ctx->ledger, gone, 0);
            ledger_add(ctx->ledger, LEDGER_DROPPED, out->skip[reason].reason, gone, 0);
        }
        if (max > 0 && n > max) {
            /* A seeded sample in file order: row k of n stays when its rank in a permutation is below max. */
            int64_t *order = mem_alloc((size_t)n * sizeof *order);
            rng_shuffle((Rng){(uint64_t)ctx->cfg->run.seed, RNG_SPLIT},
                        hash_bytes(files->item[i], strlen(files->item[i])).lo, order, n);
            int kept = first;
            for (int k = 0; k < n; k++)
                if (order[k] < max) out->row[kept++] = out->row[first + k];
            out->n = kept;
            free(order);
        }
    }
    columns_release(&columns);
    str_release(&path);
    return ok;
}

/* The row with our names and without nulls; NULL: it is no object. */
static Json *plain_row(const Json *row, const Columns *c, const char *path, int line, Error *err) {
    Str text = {0};
    JsonOut j;
    Json *out = NULL;
    if (json_kind(row) != JSON_OBJ) {
        error_set(err, ERR_FORMAT, "%s:%d: expected an object {...}", path, line);
        return NULL;
    }
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    for (int i = 0; i < json_len(row); i++) {
        const Json *value;
        const char *key = json_key_at(row, i, &value);
        if (json_kind(value) != JSON_NIL) json_out_node(&j, columns_ours(c, key), value);
    }
    json_out_obj_end(&j);
    if (!json_parse(&out, text.s, text.n, JSON_NUL_OK, path, line, err)) out = NULL;
    str_release(&text);
    return out;
}

bool stage_each_row(const StageCtx *ctx, const char *file, JsonlFn *fn, void *ud, Error *err) {
    const CfgList *names = &ctx->cfg->data.columns;
    Str path = {0};
    Columns columns;
    Source *in = NULL;
    SourceRow row;
    int n = 0;
    if (!columns_parse(&columns, (const char *const *)names->item, names->n, "data.columns", err)) return false;
    stage_data_path(&path, ctx->data_dir, file);
    err->code = ERR_NONE;
    bool ok = source_open(&in, str_get(&path), false, &columns, err), more = ok;
    for (; ok && more; n++) {
        Json *parsed = NULL, *plain = NULL;
        ok = source_next(in, &row, err);
        more = ok && (row.text || row.value);
        if (!more) break;
        ok = row.value || json_parse(&parsed, row.text, row.n, JSON_NUL_OK, str_get(&path), row.line, err);
        if (ok) plain = plain_row(row.value ? row.value : parsed, &columns, str_get(&path), row.line, err);
        ok = ok && plain && (fn(ud, plain, row.line, err) || error_wrap(err, "%s:%d", str_get(&path), row.line));
        json_release(plain);
        json_release(parsed);
        if (source_held(in) > (size_t)1 << 20) source_forget(in);
    }
    if (ok && n == 0) ok = error_set(err, ERR_FORMAT, "%s: no rows: the file is empty", str_get(&path));
    source_close(in);
    columns_release(&columns);
    str_release(&path);
    return ok;
}

void stage_sampling(SampleParams *p, const StageCtx *ctx, const SampleKeys *k, const int32_t *stop, int n_stop) {
    *p = (SampleParams){.temperature = k->temperature,
                        .top_p = k->top_p,
                        .top_k = (int)k->top_k,
                        .repetition = 1,
                        .max_new = (int)k->max_new,
                        .rng = {ctx->seed, RNG_SAMPLE},
                        .stop = stop,
                        .n_stop = n_stop};
}

bool stage_add(const StageCtx *ctx, SampleSet *set, const Sequence *s, int max_len, uint64_t id, float target,
               float weight) {
    int n = s->tok.n, trained = 0;
    ledger_in(ctx->ledger, 1, n);
    if (n > max_len) {
        ledger_add(ctx->ledger, LEDGER_DROPPED, "longer than the context", 1, n);
        return false;
    }
    for (int i = 1; i < n; i++) trained += s->weight[i] != 0;
    ledger_add(ctx->ledger, LEDGER_TRAINED, NULL, 1, trained);
    ledger_add(ctx->ledger, LEDGER_MASKED, NULL, 0, n - trained);
    samples_add(set, s->tok.id, s->weight, n, id, target, weight);
    return true;
}

static const char *row_text(void *ud, int64_t i, size_t *n) {
    const Row *r = &((const Row *)ud)[i];
    *n = strlen(r->a);
    return r->a;
}

void stage_add_texts(SampleSet *set, const StageCtx *ctx, const StageText *text, const Row *row, int n, int max,
                     Ledger *l) {
    Row *texts = mem_alloc((size_t)n * sizeof *texts + 1);
    int n_text = 0;
    for (int i = 0; i < n; i++)
        if (!row[i].tok) texts[n_text++] = row[i];
    samples_add_texts(set, &text->chat, row_text, texts, n_text, max, pool_threads(ctx->be->pool), l);
    for (int i = 0; i < n; i++)
        if (row[i].tok) samples_add_ids(set, row[i].tok, row[i].tok_weight, row[i].n_tok, (uint64_t)i, max, l);
    free(texts);
}

uint64_t stage_id(const char *id) { return hash_bytes(id, strlen(id)).lo; }

const char *prompt_split(const RunConfig *c, const char *id) {
    Rng rng = rng_derive((Rng){(uint64_t)c->run.seed, 0}, "prompts"); /* the seed of that stage */
    double u = rng_uniform((Rng){rng.seed, RNG_SPLIT}, stage_id(id), 0), eval = c->data.eval.n ? 0 : c->data.eval_share;
    return u < eval ? "eval" : u < eval + c->data.dev_share ? "dev" : "train";
}

const char *eval_split(const RunConfig *c) { return c->eval.split ? "dev" : "eval"; }

const char *guard_split(const RunConfig *c) { return c->data.dev_share > 0 ? "dev" : "eval"; }

static bool shares_file(const CfgList *a, const CfgList *b) {
    for (int i = 0; i < a->n; i++)
        for (int k = 0; k < b->n; k++)
            if (!strcmp(a->item[i], b->item[k])) return true;
    return false;
}

bool instruction_held_out(const RunConfig *c, const char *id) {
    return (shares_file(&c->data.sft, &c->data.benign) || shares_file(&c->data.sft, &c->data.redteam)) &&
           strcmp(prompt_split(c, id), "train") != 0;
}

void summary_begin(Summary *s) {
    *s = (Summary){0};
    json_out_init(&s->out, &s->text, 1);
    json_out_obj(&s->out, NULL);
}

void summary_num(Summary *s, const char *name, double v) { json_out_num(&s->out, name, v); }

bool summary_end(Summary *s, const StageCtx *ctx, Error *err) {
    json_out_obj_end(&s->out);
    str_putc(&s->text, '\n');
    Str path = {0};
    path_join(&path, ctx->output, "summary.json");
    bool ok = !stage_leads(ctx) || io_write_file(str_get(&path), s->text.s, s->text.n, err);
    str_release(&path);
    str_release(&s->text);
    return ok;
}

bool jsonl_each(const char *dir, const char *file, JsonlFn *fn, void *ud, Error *err) {
    Str path = {0};
    path_join(&path, dir, file);
    LineReader *r = NULL;
    if (!lines_open(&r, str_get(&path), (size_t)64 << 20, err)) {
        str_release(&path);
        return false;
    }
    const char *line;
    size_t n;
    bool ok = true;
    err->code = ERR_NONE;
    while (ok && lines_next(r, &line, &n, err)) {
        Json *row = NULL;
        int number = (int)lines_number(r);
        if (n == 0) continue;
        ok = json_parse(&row, line, n, 0, str_get(&path), number, err);
        if (ok && !fn(ud, row, number, err)) ok = error_wrap(err, "%s:%d", str_get(&path), number);
        json_release(row);
    }
    ok = ok && err->code == ERR_NONE;
    lines_close(r);
    str_release(&path);
    return ok;
}
