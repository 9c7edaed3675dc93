#include "eval/classifier.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"

struct Classifier {
    Model model;
    Head head;
    Tokenizer *tok;
    Chat chat;
    Engine *engine;
    NgramModel *ngrams;
    ClassifierLabel *label;
    int n_label;
    bool model_open, head_open;
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

static bool read_label(ClassifierLabel *l, const Json *j, bool ngrams, Error *err) {
    const char *name;
    return json_need_str(j, "label", &name, NULL, err) && (l->name = mem_str(name)) &&
           json_need_num(j, "trunk", &l->blend.w[0], err) &&
           (!ngrams || json_need_num(j, "ngrams", &l->blend.w[1], err)) &&
           json_need_num(j, "bias", &l->blend.bias, err) && json_need_num(j, "threshold", &l->threshold, err) &&
           json_need_num(j, "threshold_fpr05", &l->threshold_fpr05, err);
}

static bool read_labels(Classifier *c, const char *path, Error *err) {
    Json *j = NULL;
    if (!json_read_file(&j, path, JSON_INT_AS_REAL, err)) return false;
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
    json_release(j);
    return ok;
}

/* -- life ---------------------------------------------------------------------------------------------------------- */

static bool open_model(Classifier *c, Backend *be, const char *dir, Error *err) {
    c->model_open = model_open(&c->model, be, dir, false, err);
    c->head_open = c->model_open && head_open(&c->head, &c->model, HEAD_SCORE, dir, false, err);
    if (!c->head_open || !tokenizer_open(&c->tok, dir, err) || !chat_open(&c->chat, c->tok, dir, CHAT_FIXED_DAY, err))
        return false;
    c->n_label = c->head.n_out;
    c->label = mem_alloc((size_t)c->n_label * sizeof *c->label);
    return engine_open(&c->engine, (Net){&c->model, &c->head, NULL}, &(EngineConfig){0}, err);
}

static bool open_parts(Classifier *c, Backend *be, const char *dir, Error *err) {
    Str path = {0};
    str_printf(&path, "%s/classifier.json", dir);
    bool whole = io_exists(str_get(&path)), ok = true;
    str_clear(&path);
    str_printf(&path, whole ? "%s/model" : "%s", dir);
    ok = open_model(c, be, str_get(&path), err);
    for (int k = 0; ok && !whole && k < c->n_label; k++)
        c->label[k] = (ClassifierLabel){mem_str(k ? "other" : "harmful"), {{1, 0}, 0}, 0.5, 0.5};
    if (ok && whole) {
        str_clear(&path);
        str_printf(&path, "%s/ngrams.safetensors", dir);
        if (io_exists(str_get(&path))) ok = ngram_open(&c->ngrams, str_get(&path), err);
        if (ok && c->ngrams && ngram_labels(c->ngrams) != c->n_label)
            ok = error_set(err, ERR_FORMAT, "%s: %d labels, the model has %d", str_get(&path), ngram_labels(c->ngrams),
                           c->n_label);
        str_clear(&path);
        str_printf(&path, "%s/classifier.json", dir);
        ok = ok && read_labels(c, str_get(&path), err);
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
    if (c->engine) engine_close(c->engine);
    chat_close(&c->chat);
    if (c->tok) tokenizer_close(c->tok);
    if (c->head_open) head_release(&c->head);
    if (c->model_open) model_release(&c->model);
    free(c);
}

int classifier_labels(const Classifier *c) { return c->n_label; }
const ClassifierLabel *classifier_label(const Classifier *c, int k) { return &c->label[k]; }

/* -- scores -------------------------------------------------------------------------------------------------------- */

static void blend_row(const Classifier *c, const ClassifierText *t, const float *trunk, double *p) {
    double *z = mem_alloc((size_t)c->n_label * sizeof *z);
    if (c->ngrams) {
        NgramRow row;
        ngram_row(&row, c->ngrams, (NgramText){classifier_request(t->prompt), t->reply});
        ngram_score(c->ngrams, &row, z);
        ngram_row_release(&row);
    }
    for (int k = 0; k < c->n_label; k++) {
        double parts[2] = {(double)trunk[k], z[k]};
        p[k] = detect_blended(&c->label[k].blend, parts, c->ngrams ? 2 : 1);
    }
    free(z);
}

bool classifier_score(Classifier *c, const ClassifierText *text, int n, double *p, Error *err) {
    Sequence *seq = mem_alloc((size_t)(n + 1) * sizeof *seq);
    Tokens *tok = mem_alloc((size_t)(n + 1) * sizeof *tok);
    float *z = mem_alloc(((size_t)n * (size_t)c->n_label + 1) * sizeof *z);
    for (int i = 0; i < n; i++) {
        classifier_sequence(&seq[i], &c->chat, text[i].prompt, text[i].reply, c->model.cfg.max_seq);
        tok[i] = (Tokens){seq[i].tok.id, seq[i].tok.n};
    }
    bool ok = sequences_ok(seq, n, err) && engine_score_last(c->engine, tok, n, z, err);
    for (int i = 0; i < n && ok; i++) blend_row(c, &text[i], z + (int64_t)i * c->n_label, p + (int64_t)i * c->n_label);
    for (int i = 0; i < n; i++) sequence_release(&seq[i]);
    free(seq);
    free(tok);
    free(z);
    return ok;
}
