/* dikast verify-export: does a written file hold the model it was made from? Both read by this program, one text
 * through both, log-probability against log-probability. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/export.h"
#include "app/forward.h"
#include "base/io.h"
#include "nn/convert.h"
#include "nn/gguf_model.h"

static const Flag flags[] = {
    {"--text", "FILE", "text to compare on; default: a paragraph of our own and random token ids"},
    {"--bound", "X", "largest difference of a token's log-probability beyond rounding, nats (default 1e-4)"},
    MODEL_FLAGS,
    {0}};

enum { MOST = 512 }; /* tokens of one sequence */

static const GgufType coarser[] = {GGUF_TYPE_F32, GGUF_TYPE_F16, GGUF_TYPE_BF16, GGUF_TYPE_Q8_0}; /* one by one */

typedef struct {
    GgufType type; /* the coarsest of the file's matrices */
    Model m;
    Head h;
    bool open;
} Written;

typedef struct {
    double max, sum;
    int64_t n;
} Difference;

/* -- the other side ------------------------------------------------------------------------------------------------ */

static int rank_of(GgufType type) {
    int i = COUNT_OF(coarser);
    while (--i > 0 && coarser[i] != type)
        ;
    return i;
}

static bool open_gguf(Written *w, const OpenModel *src, const char *path, Log *log, Error *err) {
    GgufFile f;
    Str tokenizer = {0};
    if (!gguf_open(&f, path, err)) return false;
    w->type = GGUF_TYPE_F32;
    for (int64_t i = 0; i < f.n_tensor; i++)
        if (rank_of(f.tensor[i].type) > rank_of(w->type)) w->type = f.tensor[i].type;
    str_printf(&tokenizer, "%s/tokenizer.json", str_get(&src->dir));
    bool ok = !io_exists(tokenizer.s) || export_gguf_check(src, &f, log, err);
    ok = ok && gguf_model_open(&w->m, &w->h, src->machine.be, &f, err);
    w->open = ok;
    str_release(&tokenizer);
    gguf_close(&f);
    return ok || error_wrap(err, "%s", path);
}

static bool folder_type(GgufType *type, const char *dir, Error *err) {
    Str path = {0};
    Json *j = NULL;
    str_printf(&path, "%s/config.json", dir);
    bool ok = json_read_file(&j, path.s, JSON_INT_AS_REAL, err);
    const char *dtype = ok ? json_str(json_get(j, "dtype"), NULL) : NULL;
    *type = dtype && !strcmp(dtype, "bfloat16")  ? GGUF_TYPE_BF16
            : dtype && !strcmp(dtype, "float16") ? GGUF_TYPE_F16
                                                 : GGUF_TYPE_F32;
    json_release(j);
    str_release(&path);
    return ok;
}

static bool open_folder(Written *w, const OpenModel *src, const char *dir, Error *err) {
    if (!folder_type(&w->type, dir, err) || !model_open(&w->m, src->machine.be, dir, false, err)) return false;
    w->open = true;
    return head_open(&w->h, &w->m, src->head.kind, dir, false, err);
}

static bool open_written(Written *w, const OpenModel *src, const Args *a, Error *err) {
    const char *path = a->arg[1];
    *w = (Written){0};
    bool ok = io_is_dir(path) ? open_folder(w, src, path, err) : open_gguf(w, src, path, a->log, err);
    const ModelConfig *x = &src->model.cfg, *y = &w->m.cfg;
    if (ok && (x->n_vocab != y->n_vocab || src->head.n_out != w->h.n_out))
        ok = error_set(err, ERR_FORMAT, "%s: a vocabulary of %d and %d outputs, the source has %d and %d", path,
                       y->n_vocab, w->h.n_out, x->n_vocab, src->head.n_out);
    return ok;
}

static void written_close(Written *w) {
    if (!w->open) return;
    head_release(&w->h);
    model_release(&w->m);
}

/* -- comparing ----------------------------------------------------------------------------------------------------- */

typedef struct {
    Tokens seq;
    int width;
    bool lm;
    double *out; /* log-probs of seq.tok[i + 1]; a scoring model: all outputs */
} Collect;

static bool collect(void *ud, int first, int n, const float *z, Error *err) {
    Collect *c = ud;
    (void)err;
    for (int i = 0; i < n; i++, z += c->width) {
        int at = first + i;
        if (!c->lm) {
            for (int k = 0; k < c->width; k++) c->out[(size_t)at * (size_t)c->width + (size_t)k] = (double)z[k];
            continue;
        }
        if (at + 1 == c->seq.n) break;
        double most = -INFINITY, sum = 0;
        for (int k = 0; k < c->width; k++) most = fmax(most, (double)z[k]);
        for (int k = 0; k < c->width; k++) sum += exp((double)z[k] - most);
        c->out[at] = (double)z[c->seq.tok[at + 1]] - most - log(sum);
    }
    return true;
}

static bool compare(Difference *d, Net a, Net b, Tokens seq, Error *err) {
    int width = a.head->n_out;
    bool lm = a.head->kind == HEAD_LM;
    size_t n = lm ? (size_t)seq.n - 1 : (size_t)seq.n * (size_t)width;
    double *x = mem_alloc((n + 1) * sizeof *x), *y = mem_alloc((n + 1) * sizeof *y);
    Collect cx = {seq, width, lm, x}, cy = {seq, width, lm, y};
    bool ok = forward_sequence(a, seq, 0, collect, &cx, err) && forward_sequence(b, seq, 0, collect, &cy, err);
    for (size_t i = 0; i < n && ok; i++) {
        double by = fabs(x[i] - y[i]);
        d->max = by <= d->max ? d->max : by; /* NaN stays */
        d->sum += by;
        d->n++;
    }
    free(x);
    free(y);
    return ok;
}

static const char sample[] =
    "The assistant answers what it is asked, says what it does not know, and gives a reason where it declines. In 1984 "
    "nobody would have believed it; by 2024 it's ordinary.\n\n1. Read the question.\n2. Answer it.\n\n\tfor (int i = "
    "0; i "
    "< n; i++) sum += x[i];\n\nVoilà — ¿qué tal?\n";

/* Text, if the tokenizer is one that we read, then ids drawn from the whole vocabulary. */
static bool compare_all(Difference *d, const OpenModel *m, const Written *w, const Args *a, Error *err) {
    const char *file = args_flag(a, &command_verify_export, "--text");
    Net x = m->net, y = {(Model *)&w->m, (Head *)&w->h, NULL};
    int most = m->model.cfg.max_seq < w->m.cfg.max_seq ? m->model.cfg.max_seq : w->m.cfg.max_seq;
    if (most > MOST) most = MOST;
    Str text = {0};
    TokBuf ids = {0};
    bool ok = true;
    if (file && !m->tok)
        ok = error_set(err, ERR_CONFIG, "--text needs a tokenizer that is read: compare without it");
    else if (file)
        ok = io_read_file(&text, file, (size_t)1 << 30, err);
    else
        str_put(&text, sample);
    if (ok && m->tok) tokenizer_encode(m->tok, str_get(&text), text.n, &ids);
    for (int at = 0; at + 1 < ids.n && ok; at += most) {
        int n = ids.n - at < most ? ids.n - at : most;
        if (n > 1) ok = compare(d, x, y, (Tokens){ids.id + at, n}, err);
    }
    if (ok && !file) {
        int32_t drawn[MOST];
        int n = most < MOST / 2 ? most : MOST / 2;
        for (int i = 0; i < n; i++)
            drawn[i] = (int32_t)rng_below((Rng){1, RNG_TEST}, (uint64_t)i, 0, (uint32_t)m->model.cfg.n_vocab);
        ok = n < 2 || compare(d, x, y, (Tokens){drawn, n}, err);
    }
    tokbuf_release(&ids);
    str_release(&text);
    return ok &&
           (d->n > 0 || error_set(err, ERR_FORMAT, "nothing to compare: a text of at least two tokens is needed"));
}

/* -- rounding ------------------------------------------------------------------------------------------------------ */

typedef struct {
    Tensor w;
    char name[128];
} Weight;

static void list_weight(void *ud, int index, const ParamInfo *p) {
    Weight *all = ud;
    all[index].w = p->w;
    snprintf(all[index].name, sizeof all[index].name, "%s", p->name);
}

/* Rounding may differ by a step between programs; a damaged number differs by more. */
static bool same_row(const float *a, const float *b, int64_t n) {
    float most = 0, worst = 0;
    for (int64_t i = 0; i < n; i++) {
        float by = fabsf(a[i] - b[i]);
        most = fmaxf(most, fabsf(a[i]));
        if (!(by <= worst)) worst = by;
    }
    return worst <= 0.02f * most;
}

static bool round_like(Backend *be, const Weight *s, Tensor y, GgufType type, Error *err) {
    Tensor x = s->w;
    bool ok = true;
    size_t n = (size_t)tensor_count(x);
    float *a = mem_alloc(n * sizeof *a), *b = mem_alloc(n * sizeof *b);
    tensor_get_f32(be, a, x);
    tensor_get_f32(be, b, y);
    if (memcmp(a, b, n * sizeof *a) != 0) { /* equal ones were not rounded */
        if (gguf_row_bytes(type, x.cols) < 0) type = GGUF_TYPE_F16;
        unsigned char *row = mem_alloc((size_t)gguf_row_bytes(type, x.cols));
        for (int64_t r = 0; r < x.rows; r++) {
            gguf_store_row(row, a + r * x.cols, type, x.cols);
            gguf_load_row(a + r * x.cols, row, type, x.cols);
        }
        for (int64_t r = 0; r < x.rows && ok; r++)
            ok = same_row(a + r * x.cols, b + r * x.cols, x.cols) ||
                 error_set(err, ERR_GATE, "parameter '%s', row %lld: the file holds other numbers", s->name,
                           (long long)r);
        tensor_set_f32(be, x, a);
        free(row);
    }
    free(a);
    free(b);
    return ok;
}

static bool round_source(OpenModel *m, Written *w, Error *err) {
    Net x = m->net, y = {&w->m, &w->h, NULL};
    int n = net_visit(x, NULL, NULL);
    if (net_visit(y, NULL, NULL) != n)
        return error_set(err, ERR_GATE, "the file holds %d parameters, its source %d", net_visit(y, NULL, NULL), n);
    Weight *a = mem_alloc((size_t)n * sizeof *a), *b = mem_alloc((size_t)n * sizeof *b);
    net_visit(x, list_weight, a);
    net_visit(y, list_weight, b);
    bool ok = true;
    for (int i = 0; i < n && ok; i++) {
        ok = tensor_same_shape(a[i].w, b[i].w) ||
             error_set(err, ERR_GATE, "parameter '%s' has another shape in the file", a[i].name);
        ok = ok && round_like(m->machine.be, &a[i], b[i].w, w->type, err);
    }
    m->model.version++;
    free(a);
    free(b);
    return ok;
}

static bool report(const Difference *source, const Difference *rounded, const Written *w, double bound, bool json,
                   Error *err) {
    double mean = rounded->sum / (double)rounded->n, source_mean = source->sum / (double)source->n;
    bool ok = rounded->max <= bound;
    const char *type = gguf_type_name(w->type);
    Str text = {0};
    JsonOut j;
    if (json) {
        json_out_init(&j, &text, 0);
        json_out_obj(&j, NULL);
        json_out_str(&j, "schema", "dikast-verify-export/1");
        json_out_str(&j, "type", type);
        json_out_int(&j, "tokens", rounded->n);
        json_out_num(&j, "max", rounded->max);
        json_out_num(&j, "mean", mean);
        json_out_num(&j, "source_max", source->max);
        json_out_num(&j, "source_mean", source_mean);
        json_out_num(&j, "bound", bound);
        json_out_bool(&j, "ok", ok);
        json_out_obj_end(&j);
    } else {
        str_printf(
            &text,
            "%s, %lld tokens: log-probabilities differ from the source's by at most %.2g, %.2g in the mean; from "
            "those of the source rounded to %s by at most %.2g (bound %g): %s",
            type, (long long)rounded->n, source->max, source_mean, type, rounded->max, bound,
            ok ? "equal" : "NOT EQUAL");
    }
    print_text(&text);
    return ok ||
           error_set(err, ERR_GATE,
                     "the file is not its source rounded to %s: log-probabilities differ by %.3g at most, bound %g",
                     type, rounded->max, bound);
}

static bool run(const Args *a, Error *err) {
    const Command *self = &command_verify_export;
    OpenModel m;
    Written w = {0};
    Difference source = {0}, rounded = {0};
    double bound;
    if (!args_num(a, self, "--bound", 1e-4, 0, 1e9, &bound, err) || !open_net(&m, a, self, err)) return false;
    open_model_merge(&m);
    bool ok = open_text_if_any(&m, a->log, err) && open_written(&w, &m, a, err) &&
              compare_all(&source, &m, &w, a, err) && round_source(&m, &w, err) &&
              compare_all(&rounded, &m, &w, a, err) && report(&source, &rounded, &w, bound, a->json, err);
    written_close(&w);
    open_model_close(&m);
    return ok;
}

const Command command_verify_export = {
    .name = "verify-export",
    .usage = "verify-export MODEL FILE|FOLDER [--text FILE] [--bound X] [--json]",
    .help =
        "compare an exported model with its source\n\n"
        "Reads the GGUF file or folder strictly, sends text through both models and compares every token's\n"
        "log-probability; of a GGUF file the vocabulary too. Exit status 6 when they differ by more than rounding to "
        "the\n"
        "file's type explains, 3 when the file is malformed.",
    .flag = flags,
    .min_arg = 2,
    .max_arg = 2,
    .run = run};
