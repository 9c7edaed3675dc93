#include "eval/classifier.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"

typedef struct {
    Model model;
    Head head;
    Engine *engine;
    bool model_open, head_open;
} Trunk;

struct Classifier {
    Trunk trunk[CLASSIFIER_TRUNKS];
    int n_trunk;
    Tokenizer *tok;
    Chat chat;
    NgramModel *ngrams;
    ClassifierLabel *label;
    int n_label;
    ClassifierMix mix;
};

/* -- what it reads ------------------------------------------------------------------------------------------------- */

int classifier_sequence(Sequence *s, const Chat *c, Dialogue prompt, const char *reply, int max) {
    sequence_clear(s);
    chat_respond(s, c, prompt);
    int n_prompt = s->tok.n;
    chat_reply(s, c, reply, 0, true);
    int over = s->tok.n - max, n_reply = s->tok.n - n_prompt;
    if (over <= 0) return 0;
    int room = n_reply < max / 2 ? n_reply : max / 2;
    if (room < max - n_prompt) room = max - n_prompt;
    int32_t *id = s->tok.id;
    int keep_prompt = max - room, last = n_reply > room ? room / 4 : 0, first = room - last;
    if (last < 1 && n_reply > room) last = 1, first--; /* the end token always */
    memmove(id, id + n_prompt - keep_prompt, (size_t)keep_prompt * sizeof *id);
    memmove(id + keep_prompt, id + n_prompt, (size_t)first * sizeof *id);
    memmove(id + keep_prompt + first, id + s->tok.n - last, (size_t)last * sizeof *id);
    s->tok.n = max;
    return over;
}

const char *classifier_request(Dialogue prompt) {
    for (int i = prompt.n - 1; i >= 0; i--)
        if (prompt.msg[i].role == ROLE_USER) return prompt.msg[i].text;
    return "";
}

void classifier_trunk_dir(Str *out, const char *dir, int k) {
    str_clear(out);
    str_put(out, dir);
    if (k > 0) str_printf(out, "/trunk-%d", k + 1);
    str_put(out, "/model");
}

void classifier_mean(float *z, const float *one, int64_t n, int k, int n_trunk) {
    for (int64_t i = 0; i < n; i++) {
        z[i] = k == 0 ? one[i] : z[i] + one[i];
        if (k == n_trunk - 1) z[i] /= (float)n_trunk;
    }
}

static double log_odds(const ClassifierLabel *l, const double *z, int n_part) {
    double u = l->blend.bias;
    for (int i = 0; i < n_part; i++) u += l->blend.w[i] * z[i];
    return u;
}

double classifier_mixed(const ClassifierLabel *label, int n_label, double share, const double *z, int n_part) {
    double u = log_odds(&label[0], z, n_part), none = 0; /* none: log of prod (1 - p_k) */
    if (share == 0 || n_label < 2) return u;
    for (int k = 1; k < n_label; k++) {
        double x = log_odds(&label[k], z + 2 * k, n_part);
        none -= x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
    }
    if (none > -1e-12) none = -1e-12;
    return (1 - share) * u + share * (log(-expm1(none)) - none);
}

double classifier_harmful(const ClassifierLabel *label, int n_label, const ClassifierMix *m, const double *z,
                          int n_part) {
    if (m->share == 0) return detect_blended(&label[0].blend, z, n_part);
    const DetectBlend last = {{m->scale, 0}, m->bias};
    double u = classifier_mixed(label, n_label, m->share, z, n_part);
    return detect_blended(&last, &u, 1);
}

/* -- classifier.json ----------------------------------------------------------------------------------------------- */

void classifier_labels_out(JsonOut *j, const ClassifierLabel *label, int n, bool ngrams) {
    json_out_arr(j, "labels");
    for (int k = 0; k < n; k++) {
        json_out_obj(j, NULL);
        json_out_str(j, "label", label[k].name);
        json_out_num(j, "trunk", label[k].blend.w[0]);
        json_out_num(j, "ngrams", ngrams ? label[k].blend.w[1] : NAN);
        json_out_num(j, "bias", label[k].blend.bias);
        json_out_num(j, "threshold", label[k].threshold);
        json_out_num(j, "threshold_fpr05", label[k].threshold_fpr05);
        json_out_obj_end(j);
    }
    json_out_arr_end(j);
}

void classifier_mix_out(JsonOut *j, const ClassifierMix *m) {
    if (m->share == 0) return;
    json_out_obj(j, "categories");
    json_out_num(j, "share", m->share);
    json_out_num(j, "scale", m->scale);
    json_out_num(j, "bias", m->bias);
    json_out_obj_end(j);
}

static bool read_mix(ClassifierMix *m, const Json *j, const char *path, Error *err) {
    if (!j) return true; /* one category, or a folder of before there was this */
    return (json_need_num(j, "share", &m->share, err) && json_need_num(j, "scale", &m->scale, err) &&
            json_need_num(j, "bias", &m->bias, err)) ||
           error_wrap(err, "%s: categories", path);
}

static bool read_label(ClassifierLabel *l, const Json *j, bool ngrams, Error *err) {
    const char *name;
    return json_need_str(j, "label", &name, NULL, err) && (l->name = mem_str(name)) &&
           json_need_num(j, "trunk", &l->blend.w[0], err) &&
           (!ngrams || json_need_num(j, "ngrams", &l->blend.w[1], err)) &&
           json_need_num(j, "bias", &l->blend.bias, err) && json_need_num(j, "threshold", &l->threshold, err) &&
           json_need_num(j, "threshold_fpr05", &l->threshold_fpr05, err);
}

static bool read_labels(Classifier *c, const Json *j, const char *path, Error *err) {
    const Json *list = json_get(j, "labels");
    int n = json_len(list);
    bool ok = json_kind(list) == JSON_ARR && n == c->n_label;
    if (!ok)
        error_set(err, ERR_FORMAT, "%s: expected a list 'labels' of %d, as many as the model has outputs", path,
                  c->n_label);
    for (int k = 0; k < n && ok; k++) {
        ok = read_label(&c->label[k], json_at(list, k), c->ngrams != NULL, err);
        if (!ok) error_wrap(err, "%s: labels[%d]", path, k);
    }
    return ok;
}

/* -- life ---------------------------------------------------------------------------------------------------------- */

/* The first one brings the tokenizer and says how many labels there are. */
static bool open_trunk(Classifier *c, Backend *be, const char *dir, Error *err) {
    Trunk *t = &c->trunk[c->n_trunk];
    t->model_open = model_open(&t->model, be, dir, false, err);
    t->head_open = t->model_open && head_open(&t->head, &t->model, HEAD_SCORE, dir, false, err);
    if (!t->head_open) return false;
    if (c->n_trunk == 0) {
        if (!tokenizer_open(&c->tok, dir, err) || !chat_open(&c->chat, c->tok, dir, CHAT_FIXED_DAY, err)) return false;
        c->n_label = t->head.n_out;
        c->label = mem_alloc((size_t)c->n_label * sizeof *c->label);
    }
    const Trunk *first = &c->trunk[0];
    if (t->head.n_out != c->n_label || t->model.cfg.n_vocab != first->model.cfg.n_vocab ||
        t->model.cfg.max_seq != first->model.cfg.max_seq)
        return error_set(err, ERR_FORMAT, "%s: labels, vocabulary or context differ from those of the first trunk",
                         dir);
    if (!engine_open(&t->engine, (Net){&t->model, &t->head, NULL}, &(EngineConfig){0}, err)) return false;
    c->n_trunk++;
    return true;
}

static bool open_ngrams(Classifier *c, const char *dir, Error *err) {
    Str path = {0};
    str_printf(&path, "%s/ngrams.safetensors", dir);
    bool ok = !io_exists(str_get(&path)) || ngram_open(&c->ngrams, str_get(&path), err);
    if (ok && c->ngrams && ngram_labels(c->ngrams) != c->n_label)
        ok = error_set(err, ERR_FORMAT, "%s: %d labels, the model has %d", str_get(&path), ngram_labels(c->ngrams),
                       c->n_label);
    str_release(&path);
    return ok;
}

/* What classifier.json describes. */
static bool open_whole(Classifier *c, Backend *be, const char *dir, const char *path, Error *err) {
    Json *j = NULL;
    Str trunk = {0};
    if (!json_read_file(&j, path, JSON_INT_AS_REAL, err)) return false;
    int64_t n = json_int(json_get(j, "trunks"), 1);
    bool ok = (n >= 1 && n <= CLASSIFIER_TRUNKS) ||
              error_set(err, ERR_FORMAT, "%s: 'trunks' is %lld, expected 1..%d", path, (long long)n, CLASSIFIER_TRUNKS);
    for (int k = 0; k < n && ok; k++) {
        classifier_trunk_dir(&trunk, dir, k);
        ok = open_trunk(c, be, str_get(&trunk), err);
    }
    ok = ok && open_ngrams(c, dir, err) && read_labels(c, j, path, err) &&
         read_mix(&c->mix, json_get(j, "categories"), path, err);
    str_release(&trunk);
    json_release(j);
    return ok;
}

static bool open_parts(Classifier *c, Backend *be, const char *dir, Error *err) {
    Str path = {0};
    str_printf(&path, "%s/classifier.json", dir);
    bool ok;
    if (io_exists(str_get(&path))) {
        ok = open_whole(c, be, dir, str_get(&path), err);
    } else {
        ok = open_trunk(c, be, dir, err);
        for (int k = 0; ok && k < c->n_label; k++)
            c->label[k] = (ClassifierLabel){mem_str(k ? "other" : "harmful"), {{1, 0}, 0}, 0.5, 0.5};
    }
    str_release(&path);
    return ok;
}

bool classifier_open(Classifier **out, Backend *be, const char *dir, Error *err) {
    Classifier *c = mem_alloc(sizeof *c);
    *out = NULL;
    if (open_parts(c, be, dir, err)) {
        *out = c;
        return true;
    }
    classifier_close(c);
    return error_wrap(err, "classifier");
}

void classifier_close(Classifier *c) {
    if (!c) return;
    for (int k = 0; k < c->n_label; k++) free(c->label[k].name);
    free(c->label);
    ngram_free(c->ngrams);
    for (int k = 0; k < CLASSIFIER_TRUNKS; k++) {
        Trunk *t = &c->trunk[k];
        if (t->engine) engine_close(t->engine);
        if (t->head_open) head_release(&t->head);
        if (t->model_open) model_release(&t->model);
    }
    chat_close(&c->chat);
    if (c->tok) tokenizer_close(c->tok);
    free(c);
}

int classifier_labels(const Classifier *c) { return c->n_label; }
const ClassifierLabel *classifier_label(const Classifier *c, int k) { return &c->label[k]; }

/* -- scores -------------------------------------------------------------------------------------------------------- */

static void blend_row(const Classifier *c, const ClassifierText *t, const float *trunk, double *p) {
    int n = c->n_label, n_part = c->ngrams ? 2 : 1;
    double *words = mem_alloc((size_t)n * sizeof *words), *z = mem_alloc((size_t)n * 2 * sizeof *z);
    if (c->ngrams) {
        NgramRow row;
        ngram_row(&row, c->ngrams, (NgramText){classifier_request(t->prompt), t->reply});
        ngram_score(c->ngrams, &row, words);
        ngram_row_release(&row);
    }
    for (int k = 0; k < n; k++) {
        z[2 * k] = (double)trunk[k];
        z[2 * k + 1] = words[k];
        p[k] = detect_blended(&c->label[k].blend, z + 2 * k, n_part);
    }
    p[0] = classifier_harmful(c->label, n, &c->mix, z, n_part);
    free(words);
    free(z);
}

bool classifier_score(Classifier *c, const ClassifierText *text, int n, double *p, Error *err) {
    int64_t size = (int64_t)n * c->n_label;
    Sequence *seq = mem_alloc((size_t)(n + 1) * sizeof *seq);
    Tokens *tok = mem_alloc((size_t)(n + 1) * sizeof *tok);
    float *z = mem_alloc((size_t)(size + 1) * sizeof *z), *one = mem_alloc((size_t)(size + 1) * sizeof *one);
    for (int i = 0; i < n; i++) {
        classifier_sequence(&seq[i], &c->chat, text[i].prompt, text[i].reply, c->trunk[0].model.cfg.max_seq);
        tok[i] = (Tokens){seq[i].tok.id, seq[i].tok.n};
    }
    bool ok = sequences_ok(seq, n, err);
    for (int k = 0; k < c->n_trunk && ok; k++) {
        ok = engine_score_last(c->trunk[k].engine, tok, n, one, err);
        if (ok) classifier_mean(z, one, size, k, c->n_trunk);
    }
    for (int i = 0; i < n && ok; i++) blend_row(c, &text[i], z + (int64_t)i * c->n_label, p + (int64_t)i * c->n_label);
    for (int i = 0; i < n; i++) sequence_release(&seq[i]);
    free(seq);
    free(tok);
    free(z);
    free(one);
    return ok;
}
