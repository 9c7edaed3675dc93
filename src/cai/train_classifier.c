#include "cai/train_classifier.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/io.h"
#include "cai/stages.h"
#include "cai/train_classifier_int.h"

const char *const classifier_defaults[] = {"tokenizer.vocab=4096",
                                           "model.n_layer=2",
                                           "model.n_head=4",
                                           "model.d_model=128",
                                           "model.max_seq=256",
                                           "pretrain.epochs=1",
                                           "pretrain.lr=2e-3",
                                           "pretrain.warmup=50",
                                           "pretrain.batch_tokens=4096",
                                           "pretrain.micro_tokens=4096",
                                           "classifier.holdout=0.4",
                                           "classifier.epochs=1",
                                           "classifier.lr=1e-3",
                                           "classifier.warmup=50",
                                           "classifier.batch_tokens=4096",
                                           "classifier.micro_tokens=4096",
                                           "classifier.weight_decay=0.1"};
const int classifier_default_count = COUNT_OF(classifier_defaults);

/* -- rows, parts, labels ------------------------------------------------------------------------------------------- */

/* Replies to one prompt stay on one side, and so do prompts that differ in case and white space only. */
static uint64_t prompt_key(const char *s) {
    Str folded = {0};
    for (; *s; s++) {
        bool blank = *s == ' ' || (*s >= '\t' && *s <= '\r');
        if (blank && (folded.n == 0 || folded.s[folded.n - 1] == ' ')) continue;
        str_putc(&folded, blank ? ' ' : *s >= 'A' && *s <= 'Z' ? (char)(*s + 32) : *s);
    }
    if (folded.n && folded.s[folded.n - 1] == ' ') folded.s[--folded.n] = 0;
    uint64_t key = hash_bytes(str_get(&folded), folded.n).lo;
    str_release(&folded);
    return key;
}

static int by_prompt(const void *a, const void *b) {
    const Labelled *x = a, *y = b;
    if (x->part != y->part) return x->part - y->part;
    if (x->prompt != y->prompt) return x->prompt < y->prompt ? -1 : 1;
    return (x->number > y->number) - (x->number < y->number);
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void list_categories(ClassifierRun *r) {
    const char **name = mem_alloc((size_t)(r->rows.n + 1) * sizeof *name);
    int n = 0;
    for (int i = 0; i < r->rows.n; i++)
        if (r->rows.row[i].category[0]) name[n++] = r->rows.row[i].category;
    qsort(name, (size_t)n, sizeof *name, by_name);
    r->category = mem_alloc((size_t)(n + 1) * sizeof *r->category);
    for (int i = 0; i < n; i++)
        if (i == 0 || strcmp(name[i], name[i - 1])) r->category[r->n_category++] = name[i];
    free(name);
}

static int category_of(const ClassifierRun *r, const Row *row) {
    for (int c = 0; c < r->n_category; c++)
        if (!strcmp(r->category[c], row->category)) return c;
    return -1;
}

static void split_rows(ClassifierRun *r) {
    const RunConfig *cfg = r->job->cfg;
    double hold = cfg->classifier.holdout;
    r->item = mem_alloc((size_t)(r->rows.n + 1) * sizeof *r->item);
    for (int i = 0; i < r->rows.n; i++) {
        const Row *row = &r->rows.row[i];
        uint64_t key = prompt_key(dialogue_last_user(row->prompt));
        double u = rng_uniform((Rng){(uint64_t)cfg->run.seed, RNG_SPLIT}, key, 0);
        r->item[i] = (Labelled){.row = row,
                                .number = i,
                                .prompt = key,
                                .part = u >= hold       ? PART_TRAIN
                                        : u >= hold / 2 ? PART_VALID
                                                        : PART_TEST,
                                .category = category_of(r, row),
                                .harmful = row->label};
    }
    qsort(r->item, (size_t)r->rows.n, sizeof *r->item, by_prompt);
    for (int i = 0, run = -1; i < r->rows.n; i++) {
        run += i == 0 || r->item[i].prompt != r->item[i - 1].prompt;
        r->item[i].cluster = run;
        r->n_prompt = run + 1;
        r->n_part[r->item[i].part]++;
    }
    r->first[PART_VALID] = r->n_part[PART_TRAIN];
    r->first[PART_TEST] = r->first[PART_VALID] + r->n_part[PART_VALID];
}

static int harmful_in(const ClassifierRun *r, int part, int category) {
    int n = 0;
    for (int i = 0; i < r->n_part[part]; i++) {
        const Labelled *x = &r->item[r->first[part] + i];
        n += x->harmful && (category < 0 || x->category == category);
    }
    return n;
}

static bool choose_labels(ClassifierRun *r, Error *err) {
    static const char *const part[] = {"training", "validation", "test"};
    for (int p = 0; p < 3; p++) {
        int pos = harmful_in(r, p, -1);
        if (pos == 0 || pos == r->n_part[p])
            return error_set(err, ERR_FORMAT,
                             "%d of the %d %s rows are harmful: expected some of both kinds; bring more prompts, or "
                             "change classifier.holdout or run.seed",
                             pos, r->n_part[p], part[p]);
    }
    r->label = mem_alloc((size_t)(r->n_category + 1) * sizeof *r->label);
    r->label_category = mem_alloc((size_t)(r->n_category + 1) * sizeof *r->label_category);
    r->label[0].name = mem_str("harmful");
    r->label_category[0] = -1;
    r->n_label = 1;
    for (int c = 0; c < r->n_category && r->n_category > 1; c++) {
        if (harmful_in(r, PART_TRAIN, c) < CLASSIFIER_LEAST || harmful_in(r, PART_VALID, c) < 1) continue;
        Str name = {0};
        str_printf(&name, "harmful: %s", r->category[c]);
        r->label_category[r->n_label] = c;
        r->label[r->n_label++].name = str_detach(&name);
    }
    return true;
}

static float label_of(const ClassifierRun *r, const Labelled *x, int k) {
    return x->harmful && (k == 0 || x->category == r->label_category[k]) ? 1 : 0;
}

/* label (n of part, n_label) */
static float *labels_of(const ClassifierRun *r, int part) {
    int n = r->n_part[part];
    float *label = mem_alloc(((size_t)n * (size_t)r->n_label + 1) * sizeof *label);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < r->n_label; k++) label[i * r->n_label + k] = label_of(r, &r->item[r->first[part] + i], k);
    return label;
}

/* -- text ---------------------------------------------------------------------------------------------------------- */

typedef struct {
    const ClassifierRun *r;
    int at, part;
} Texts;

static const char *next_text(void *ud, size_t *n) {
    Texts *t = ud;
    while (t->at < t->r->n_part[PART_TRAIN]) {
        const Row *row = t->r->item[t->at].row;
        while (t->part <= row->prompt.n) {
            int p = t->part++;
            const char *s = p < row->prompt.n ? row->prompt.msg[p].text : row->a;
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

/* The folder whose tokenizer is used: model.path, or train/tokenizer made here. */
static bool open_text(ClassifierRun *r, Error *err) {
    const RunConfig *c = r->job->cfg;
    if (c->model.path[0]) {
        str_put(&r->text_dir, c->model.path);
        return stage_text_open(&r->text, c->model.path, err);
    }
    const char *special[SENT_COUNT];
    for (int i = 0; i < SENT_COUNT; i++) special[i] = sentinel_spelling((Sentinel)i);
    BpeTrainParams p = {.n_vocab = (int)c->tokenizer.vocab,
                        .split = c->tokenizer.split == 0 ? SPLIT_LLAMA3 : SPLIT_GPT2,
                        .special = special,
                        .n_special = SENT_COUNT,
                        .min_count = 2};
    Texts texts = {.r = r};
    Str json = {0}, path = {0};
    str_printf(&r->text_dir, "%s/train/tokenizer", r->job->out);
    str_printf(&path, "%s/tokenizer.json", str_get(&r->text_dir));
    bool ok = io_make_dirs(str_get(&r->text_dir), err) && bpe_train(&json, &p, next_text, &texts, err) &&
              io_write_file(str_get(&path), json.s, json.n, err) &&
              stage_text_open(&r->text, str_get(&r->text_dir), err);
    str_release(&json);
    str_release(&path);
    return ok;
}

/* -- the trunk ----------------------------------------------------------------------------------------------------- */

/* First weights and the order of rows. The first trunk's are the run's. */
static uint64_t trunk_seed(const ClassifierRun *r, int k) {
    char name[24];
    snprintf(name, sizeof name, "trunk %d", k + 1);
    return k == 0 ? r->ctx.seed : rng_derive((Rng){r->ctx.seed, 0}, name).seed;
}

static bool open_trunk(ClassifierRun *r, int k, Error *err) {
    const RunConfig *c = r->job->cfg;
    StageNet *n = &r->trunk[k].net;
    ModelConfig m;
    bool ok = c->model.path[0] ? model_open(&n->m, r->job->be, c->model.path, true, err)
                               : stage_model_config(&m, c, &r->text, err) &&
                                     model_init(&n->m, r->job->be, &m, trunk_seed(r, k), true, err);
    if (!ok) return false;
    r->trunk[k].trunk_open = true;
    if (n->m.cfg.n_vocab < tokenizer_n_vocab(r->text.tok))
        return error_set(err, ERR_FORMAT, "%s: the tokenizer has %d ids, the model's vocabulary %d", c->model.path,
                         tokenizer_n_vocab(r->text.tok), n->m.cfg.n_vocab);
    r->max = (int)c->model.max_seq < n->m.cfg.max_seq ? (int)c->model.max_seq : n->m.cfg.max_seq;
    return true;
}

/* Training rows as samples; lm: every token but the first is a target. count: into the ledger. */
static void train_samples(ClassifierRun *r, SampleSet *set, bool lm, bool count) {
    Sequence s = {0};
    float *weight = mem_alloc((size_t)(r->max + 1) * sizeof *weight);
    samples_init(set, 1);
    for (int i = 1; i <= r->max; i++) weight[i] = lm ? 1 : 0;
    for (int i = 0; i < r->n_part[PART_TRAIN]; i++) {
        const Labelled *x = &r->item[i];
        int cut = classifier_sequence(&s, &r->text.chat, x->row->prompt, x->row->a, r->max);
        if (count) {
            ledger_in(r->ctx.ledger, 1, s.tok.n + cut);
            ledger_add(r->ctx.ledger, LEDGER_TRAINED, NULL, 1, s.tok.n);
            ledger_add(r->ctx.ledger, LEDGER_TRUNCATED, "longer than the context", 0, cut);
        }
        samples_add(set, s.tok.id, weight, s.tok.n, stage_id(x->row->id), (float)x->harmful, 1);
    }
    sequence_release(&s);
    free(weight);
}

/* A trained part is kept in train/, so that a run that was stopped behind it goes on behind it. */
static bool done_before(const StageCtx *ctx, Net net, bool *done, Error *err) {
    Str path = {0};
    path_join(&path, ctx->output, "DONE");
    *done = io_exists(str_get(&path));
    str_release(&path);
    return !*done || state_get_net(net, NULL, ctx->output, "net", err);
}

static bool keep_part(const StageCtx *ctx, Net net, Error *err) {
    Str path = {0};
    path_join(&path, ctx->output, "DONE");
    bool ok = state_put_net(net, NULL, ctx->output, "net", err) && io_write_file(str_get(&path), "", 0, err) &&
              state_remove(ctx->output, err);
    str_release(&path);
    return ok;
}

static bool train_part(ClassifierRun *r, int k, const char *stage, Net net, const TrainKeys *keys, const Objective *obj,
                       int64_t packs, Error *err) {
    StageCtx ctx = r->ctx;
    Str dir = {0};
    bool done = false;
    ctx.stage = stage_find(stage);
    ctx.seed = trunk_seed(r, k);
    str_printf(&dir, "%s/train/%s", r->job->out, stage);
    if (k > 0) str_printf(&dir, "-%d", k + 1);
    ctx.output = str_get(&dir);
    log_stage(r->job->log, stage);
    bool ok = io_make_dirs(ctx.output, err) && done_before(&ctx, net, &done, err);
    if (ok && !done) ok = stage_train(&ctx, net, keys, obj, packs, err) && keep_part(&ctx, net, err);
    log_stage(r->job->log, NULL);
    str_release(&dir);
    return ok;
}

static bool train_lm(ClassifierRun *r, int k, Error *err) {
    const TrainKeys *keys = &r->job->cfg->pretrain.t;
    Model *m = &r->trunk[k].net.m;
    Head lm = {0};
    SampleSet set;
    ObjLm *o = NULL;
    Objective obj;
    if (keys->steps == 0 && keys->epochs == 0) return true;
    const char *from = r->job->cfg->model.path;
    bool ok = from[0] ? head_open(&lm, m, HEAD_LM, from, true, err)
                      : head_init(&lm, m, HEAD_LM, m->whole.n_vocab, trunk_seed(r, k), true, err);
    if (!ok) return false;
    train_samples(r, &set, true, false);
    ok = obj_lm_open(&o, &obj, &set, stage_pass_tokens(&set, keys->micro_tokens), trunk_seed(r, k), err) &&
         train_part(r, k, "pretrain", (Net){m, &lm, NULL}, keys, &obj, obj_lm_packs(o, 0), err);
    if (o) obj_lm_close(o);
    samples_release(&set);
    head_release(&lm);
    return ok;
}

static bool train_head(ClassifierRun *r, int k, Error *err) {
    const TrainKeys *keys = &r->job->cfg->classifier.t;
    StageNet *net = &r->trunk[k].net;
    SampleSet set;
    ObjPm *o = NULL;
    Objective obj;
    if (!head_init(&net->h, &net->m, HEAD_SCORE, r->n_label, trunk_seed(r, k), true, err)) return false;
    net->net = (Net){&net->m, &net->h, NULL};
    r->trunk[k].head_open = true;
    train_samples(r, &set, false, k == 0);
    float *label = labels_of(r, PART_TRAIN);
    bool ok = obj_labels_open(&o, &obj, &set, label, r->n_label, stage_pass_tokens(&set, keys->micro_tokens),
                              trunk_seed(r, k), r->text.chat.id[SENT_END], err) &&
              train_part(r, k, "classifier", net->net, keys, &obj, obj_pm_packs(o, 0), err);
    if (o) obj_pm_close(o);
    free(label);
    samples_release(&set);
    return ok;
}

static bool train_trunks(ClassifierRun *r, Error *err) {
    for (int k = 0; k < r->job->trunks; k++)
        if (!open_trunk(r, k, err) || !train_lm(r, k, err) || !train_head(r, k, err)) return false;
    return true;
}

bool classifier_trunk(ClassifierRun *r, const ClassifierText *text, int n, float *z, Error *err) {
    int64_t size = (int64_t)n * r->n_label;
    float *one = mem_alloc((size_t)(size + 1) * sizeof *one);
    Sequence *seq = mem_alloc((size_t)(n + 1) * sizeof *seq);
    Tokens *tok = mem_alloc((size_t)(n + 1) * sizeof *tok);
    for (int i = 0; i < n; i++) {
        classifier_sequence(&seq[i], &r->text.chat, text[i].prompt, text[i].reply, r->max);
        tok[i] = (Tokens){seq[i].tok.id, seq[i].tok.n};
    }
    bool ok = sequences_ok(seq, n, err);
    for (int k = 0; k < r->job->trunks && ok; k++) {
        Engine *e = NULL;
        ok = engine_open(&e, r->trunk[k].net.net, &(EngineConfig){0}, err) && engine_score_last(e, tok, n, one, err);
        if (ok) classifier_mean(z, one, size, k, r->job->trunks);
        if (e) engine_close(e);
    }
    for (int i = 0; i < n; i++) sequence_release(&seq[i]);
    free(seq);
    free(tok);
    free(one);
    return ok;
}

/* Log-odds of the trunk for valid and test rows, into item.z. */
static bool score_trunk(ClassifierRun *r, Error *err) {
    int n = r->n_part[PART_VALID] + r->n_part[PART_TEST];
    Labelled *item = r->item + r->first[PART_VALID];
    ClassifierText *text = mem_alloc((size_t)(n + 1) * sizeof *text);
    float *z = mem_alloc(((size_t)n * (size_t)r->n_label + 1) * sizeof *z);
    for (int i = 0; i < n; i++) text[i] = (ClassifierText){item[i].row->prompt, item[i].row->a};
    bool ok = classifier_trunk(r, text, n, z, err);
    for (int i = 0; i < n && ok; i++) {
        item[i].z = mem_alloc((size_t)r->n_label * 2 * sizeof *item[i].z);
        for (int k = 0; k < r->n_label; k++) item[i].z[2 * k] = (double)z[i * r->n_label + k];
    }
    free(text);
    free(z);
    return ok;
}

/* -- n-grams ------------------------------------------------------------------------------------------------------- */

/* Average precision of the first label on validation rows: what a blend cannot repair, unlike the scale of the
 * log-odds. */
static double valid_precision(const ClassifierRun *r, const NgramModel *m, const NgramRow *row) {
    int n = r->n_part[PART_VALID];
    double *p = mem_alloc((size_t)(n + 1) * sizeof *p), *z = mem_alloc((size_t)r->n_label * sizeof *z);
    int32_t *label = mem_alloc((size_t)(n + 1) * sizeof *label);
    for (int i = 0; i < n; i++) {
        ngram_score(m, &row[i], z);
        p[i] = z[0];
        label[i] = r->item[r->first[PART_VALID] + i].harmful;
    }
    double out = average_precision(p, label, n);
    free(p);
    free(z);
    free(label);
    return out;
}

/* A model of one reading of the rows, with the C that validation rows like best. */
static NgramModel *fit_reading(ClassifierRun *r, NgramReading reading, const NgramRow *whole, const float *label) {
    static const double c[] = {3, 10, 30, 100, 300};
    int n_train = r->n_part[PART_TRAIN], n = n_train + r->n_part[PART_VALID];
    NgramRow *row = mem_alloc((size_t)(n + 1) * sizeof *row);
    NgramModel *m = ngram_like(r->ngrams);
    Rng rng = {r->ctx.seed, RNG_SHUFFLE};
    Pool *pool = r->job->be->pool;
    double best = -1;
    for (int i = 0; i < n; i++) row[i] = ngram_reading(&whole[i], reading);
    for (int k = 0; k < COUNT_OF(c); k++) {
        ngram_fit(m, row, label, n_train, 1, c[k], rng, pool);
        double precision = valid_precision(r, m, row + n_train);
        if (precision > best) best = precision, r->ngram_c[reading] = c[k];
    }
    ngram_fit(m, row, label, n_train, r->n_label, r->ngram_c[reading], rng, pool);
    free(row);
    return m;
}

static void train_ngrams(ClassifierRun *r) {
    int n = r->rows.n, n_train = r->n_part[PART_TRAIN];
    NgramText *text = mem_alloc((size_t)(n + 1) * sizeof *text);
    NgramRow *row = mem_alloc((size_t)(n + 1) * sizeof *row);
    float *label = labels_of(r, PART_TRAIN);
    NgramModel *model[NGRAM_READINGS];
    for (int i = 0; i < n; i++) text[i] = (NgramText){classifier_request(r->item[i].row->prompt), r->item[i].row->a};
    r->ngrams = ngram_new(text, label, n_train, r->n_label);
    for (int i = 0; i < n; i++) ngram_row(&row[i], r->ngrams, text[i]);
    for (int k = 0; k < NGRAM_READINGS; k++) model[k] = fit_reading(r, k, row, label);
    ngram_mean(r->ngrams, model);
    double *z = mem_alloc((size_t)r->n_label * sizeof *z);
    for (int i = n_train; i < n; i++) {
        ngram_score(r->ngrams, &row[i], z);
        for (int k = 0; k < r->n_label; k++) r->item[i].z[2 * k + 1] = z[k];
    }
    for (int i = 0; i < n; i++) ngram_row_release(&row[i]);
    for (int k = 0; k < NGRAM_READINGS; k++) ngram_free(model[k]);
    free(z);
    free(text);
    free(row);
    free(label);
}

/* -- the folder --------------------------------------------------------------------------------------------------- */

static void put_names(JsonOut *j, const ClassifierRun *r) {
    char id[16];
    json_out_obj(j, "id2label");
    for (int k = 0; k < r->n_label; k++) {
        snprintf(id, sizeof id, "%d", k);
        json_out_str(j, id, r->label[k].name);
    }
    json_out_obj_end(j);
    json_out_obj(j, "label2id");
    for (int k = 0; k < r->n_label; k++) json_out_int(j, r->label[k].name, k);
    json_out_obj_end(j);
    json_out_str(j, "problem_type", "multi_label_classification");
}

/* Loaders show labels by the names in config.json. */
static bool name_labels(const ClassifierRun *r, const char *model, Error *err) {
    static const char *const ours[] = {"id2label", "label2id", "problem_type"};
    Str path = {0}, text = {0};
    Json *j = NULL;
    str_printf(&path, "%s/config.json", model);
    bool ok = json_read_file(&j, str_get(&path), 0, err);
    if (ok) {
        JsonOut out;
        json_out_init(&out, &text, 2);
        json_out_obj(&out, NULL);
        for (int i = 0; i < json_len(j); i++) {
            const Json *value;
            const char *key = json_key_at(j, i, &value);
            bool named = false;
            for (int k = 0; k < COUNT_OF(ours); k++) named |= !strcmp(key, ours[k]);
            if (!named) json_out_node(&out, key, value);
        }
        put_names(&out, r);
        json_out_obj_end(&out);
        str_putc(&text, '\n');
        ok = io_write_file(str_get(&path), text.s, text.n, err);
        json_release(j);
    }
    str_release(&path);
    str_release(&text);
    return ok;
}

/* -- the whole ----------------------------------------------------------------------------------------------------- */

static bool save_trunk(ClassifierRun *r, int k, Error *err) {
    Str model = {0}, above = {0};
    StageCtx ctx = r->ctx;
    classifier_trunk_dir(&model, r->job->out, k);
    str_putn(&above, model.s, (size_t)(strrchr(model.s, '/') - model.s));
    ctx.output = str_get(&above);
    bool ok = io_make_dirs(ctx.output, err) && stage_net_save(&ctx, r->trunk[k].net.net, str_get(&r->text_dir), err) &&
              name_labels(r, str_get(&model), err);
    str_release(&model);
    str_release(&above);
    return ok;
}

static bool save(ClassifierRun *r, Error *err) {
    Str path = {0};
    bool ok = true;
    for (int k = 0; k < r->job->trunks && ok; k++) ok = save_trunk(r, k, err);
    path_join(&path, r->job->out, "ngrams.safetensors");
    ok = ok && (!r->ngrams || ngram_save(r->ngrams, str_get(&path), err));
    path_join(&path, r->job->out, "ledger.json");
    ok = ok && ledger_close(r->ctx.ledger, 1, str_get(&path), err);
    str_release(&path);
    return ok;
}

static void release(ClassifierRun *r) {
    for (int i = 0; i < r->rows.n && r->item; i++) free(r->item[i].z);
    for (int k = 0; k < r->n_label; k++) free(r->label[k].name);
    for (int k = 0; k < CONTROLS; k++) free(r->control[k].z);
    free(r->label);
    free(r->label_category);
    free(r->category);
    free(r->file_hash);
    free(r->item);
    ngram_free(r->ngrams);
    for (int k = 0; k < CLASSIFIER_TRUNKS; k++) {
        if (r->trunk[k].head_open) head_release(&r->trunk[k].net.h);
        if (r->trunk[k].trunk_open) model_release(&r->trunk[k].net.m);
    }
    stage_text_close(&r->text);
    rows_release(&r->rows);
    ledger_free(r->ctx.ledger);
    str_release(&r->text_dir);
}

/* What was kept of another training, of other files or other settings, is of no use here. */
static bool clear_others(ClassifierRun *r, Error *err) {
    static const char *const section[] = {"run.seed",      "run.backend", "run.isa", "run.dtype", "data.columns",
                                          "data.max_rows", "tokenizer.",  "model.",  "pretrain.", "classifier."};
    const ClassifierJob *job = r->job;
    Str dir = {0}, path = {0}, had = {0};
    Hasher *h = hasher_new();
    char key[33];
    config_hash_into(h, job->cfg, run_keys, run_key_count, section, COUNT_OF(section));
    for (int i = 0; i < job->n_file; i++) hasher_add(h, &r->file_hash[i], sizeof r->file_hash[i]);
    hash_hex(key, hasher_finish(h));
    path_join(&dir, job->out, "train");
    path_join(&path, str_get(&dir), "key");
    bool ok = !io_exists(str_get(&path)) || io_read_file(&had, str_get(&path), 64, err);
    if (ok && strcmp(str_get(&had), key)) ok = io_remove_tree(str_get(&dir), err);
    ok = ok && io_make_dirs(str_get(&dir), err) && io_write_file(str_get(&path), key, strlen(key), err);
    str_release(&dir);
    str_release(&path);
    str_release(&had);
    return ok;
}

static bool read_files(ClassifierRun *r, Error *err) {
    const ClassifierJob *job = r->job;
    const CfgList files = {(char **)job->file, job->n_file};
    r->file_hash = mem_alloc((size_t)job->n_file * sizeof *r->file_hash);
    for (int i = 0; i < job->n_file; i++)
        if (!hash_file(&r->file_hash[i], job->file[i], err)) return false;
    if (!stage_rows(&r->rows, &r->ctx, &files, ROW_LABELLED, err)) return false;
    list_categories(r);
    split_rows(r);
    return true;
}

bool classifier_train(const ClassifierJob *job, Str *result, Str *table, Error *err) {
    ClassifierRun r = {.job = job, .start = now_s()};
    r.ctx = (StageCtx){.cfg = job->cfg,
                       .be = job->be,
                       .log = job->log,
                       .stop = job->stop,
                       .ledger = ledger_new(),
                       .seed = rng_derive((Rng){(uint64_t)job->cfg->run.seed, 0}, "train-classifier").seed,
                       .data_dir = "",
                       .output = job->out,
                       .stage = stage_find("classifier")};
    bool ok = io_make_dirs(job->out, err) && read_files(&r, err) && clear_others(&r, err) && choose_labels(&r, err) &&
              open_text(&r, err) && train_trunks(&r, err) && score_trunk(&r, err);
    if (ok && job->ngrams) train_ngrams(&r);
    ok = ok && classifier_controls(&r, err) && save(&r, err) && classifier_results(&r, result, table, err);
    release(&r);
    return ok;
}
