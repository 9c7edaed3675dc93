/* Trains the byte-level BPE on the texts the model will see, or takes over an imported tokenizer. */
#include <string.h>

#include "base/io.h"
#include "cai/import_text.h"
#include "cai/stages.h"

typedef struct {
    const Rows *rows;
    int at, part;
} Texts;

/* Every text of every row: prompt turns, replies, principles. */
static const char *next_text(void *ud, size_t *n) {
    Texts *t = ud;
    while (t->at < t->rows->n) {
        const Row *r = &t->rows->row[t->at];
        const char *more[] = {r->a, r->b, r->principle, r->critique};
        while (t->part < r->prompt.n + COUNT_OF(more)) {
            int p = t->part++;
            const char *s = p < r->prompt.n ? r->prompt.msg[p].text : more[p - r->prompt.n];
            if (s && s[0]) {
                *n = strlen(s);
                return s;
            }
        }
        t->at++;
        t->part = 0;
    }
    return NULL;
}

static bool train(const StageCtx *ctx, Str *json, Error *err) {
    const RunConfig *c = ctx->cfg;
    Rows rows = {0};
    bool ok = stage_rows(&rows, ctx, &c->data.pretrain, ROW_TEXT, err) &&
              stage_rows(&rows, ctx, &c->data.sft, ROW_INSTRUCTION, err) &&
              stage_rows(&rows, ctx, &c->data.format, ROW_FORMAT, err);
    const char *special[SENT_COUNT];
    for (int i = 0; i < SENT_COUNT; i++) special[i] = sentinel_spelling(i);
    BpeTrainParams p = {.n_vocab = (int)c->tokenizer.vocab,
                        .split = c->tokenizer.split == 0 ? SPLIT_LLAMA3 : SPLIT_GPT2,
                        .special = special,
                        .n_special = SENT_COUNT,
                        .min_count = 2};
    Texts texts = {.rows = &rows};
    ok = ok && bpe_train(json, &p, next_text, &texts, err);
    if (ok) log_info(ctx->log, "tokenizer trained on %d texts", rows.n);
    rows_release(&rows);
    return ok;
}

static bool run(const StageCtx *ctx, Error *err) {
    const RunConfig *c = ctx->cfg;
    Str json = {0}, path = {0};
    const char *import = c->tokenizer.import[0] ? c->tokenizer.import : c->model.path;
    path_join(&path, ctx->output, "tokenizer.json");
    bool ok = import[0] ? import_text(import, ctx->output, (PromptsMode)c->model.prompts, ctx->log, err)
                        : train(ctx, &json, err) && io_write_file(str_get(&path), json.s, json.n, err);
    StageText text = {0};
    ok = ok && stage_text_open(&text, ctx->output, err);
    if (ok) {
        Summary s;
        summary_begin(&s);
        summary_num(&s, "n_vocab", tokenizer_n_vocab(text.tok));
        ok = summary_end(&s, ctx, err);
    }
    stage_text_close(&text);
    str_release(&json);
    str_release(&path);
    return ok;
}

typedef struct {
    const char *dir;
    void (*add)(void *ud, const char *path);
    void *ud;
} ImportFiles;

static void add_import(void *ud, const char *file) {
    const ImportFiles *f = ud;
    stage_import_file(f->dir, file, f->add, f->ud);
}

static void files(const RunConfig *c, void (*add)(void *ud, const char *path), void *ud) {
    const char *import = c->tokenizer.import[0] ? c->tokenizer.import : c->model.path;
    if (import[0]) {
        ImportFiles f = {import, add, ud};
        import_text_files(import, add_import, &f);
        return;
    }
    stage_list_files(&c->data.pretrain, add, ud);
    stage_list_files(&c->data.sft, add, ud);
    stage_list_files(&c->data.format, add, ud);
}

const Stage stage_tokenizer = {.name = "tokenizer",
                               .help = "train the byte-level BPE tokenizer, or import one",
                               .version = 1,
                               .needs = {"world"},
                               .section = {"tokenizer.", "model.path", "model.prompts", "data.pretrain", "data.sft",
                                           "data.format", "data.columns", "data.max_rows"},
                               .files = files,
                               .run = run};
