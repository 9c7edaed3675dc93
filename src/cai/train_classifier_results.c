/* Calibration, thresholds, figures and files of a trained classifier. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cell.h"
#include "base/io.h"
#include "cai/train_classifier_int.h"

static const double RIDGE = 1; /* of the blend's weights: what one or two harmful rows alone may not overrule */
enum { TRUNK_ALONE = 1, NGRAMS_ALONE = 2, BOTH = 3 };
enum { CATEGORY_ROWS = 30 };

typedef struct {
    double *p, *raw; /* (n) calibrated; sigmoid of the mean log-odds */
    int32_t *label, *cluster;
    int64_t n;
} Slice;

static double sigmoid_of(double u) { return u >= 0 ? 1 / (1 + exp(-u)) : exp(u) / (1 + exp(u)); }

/* Log-odds of one row under the parts asked for. */
static void parts_of(double z[2], const Labelled *x, int k, int parts) {
    z[0] = x->z[2 * k + (parts == NGRAMS_ALONE)];
    z[1] = x->z[2 * k + 1];
}

static int n_parts(const ClassifierRun *r, int parts) { return parts == BOTH && r->ngrams ? 2 : 1; }

/* What the classifier says of a row's log-odds of all labels. */
static double whole_p(const ClassifierRun *r, const double *z) {
    return classifier_harmful(r->label, r->n_label, &r->mix, z, n_parts(r, BOTH));
}

static void slice_room(Slice *s, int rows) {
    size_t n = (size_t)rows + 1;
    *s = (Slice){mem_alloc(n * sizeof *s->p), mem_alloc(n * sizeof *s->raw), mem_alloc(n * sizeof *s->label),
                 mem_alloc(n * sizeof *s->cluster), 0};
}

/* Rows of a part (category < 0: all) judged by label k through a blend. */
static void slice_make(Slice *s, const ClassifierRun *r, int part, int category, int k, const DetectBlend *b,
                       int parts) {
    slice_room(s, r->n_part[part]);
    for (int i = 0; i < r->n_part[part]; i++) {
        const Labelled *x = &r->item[r->first[part] + i];
        double z[2];
        if (category >= 0 && x->category != category) continue;
        parts_of(z, x, k, parts);
        int m = n_parts(r, parts);
        s->p[s->n] = k == 0 && parts == BOTH ? whole_p(r, x->z) : detect_blended(b, z, m);
        s->raw[s->n] = sigmoid_of(m == 2 ? (z[0] + z[1]) / 2 : z[0]);
        s->label[s->n] = x->harmful && (k == 0 || x->category == r->label_category[k]);
        s->cluster[s->n++] = x->cluster;
    }
}

static void slice_release(Slice *s) {
    free(s->p);
    free(s->raw);
    free(s->label);
    free(s->cluster);
}

static void choose_thresholds(ClassifierLabel *out, const ClassifierRun *r, int k, int parts) {
    Slice s;
    slice_make(&s, r, PART_VALID, -1, k, &out->blend, parts);
    out->threshold = detect_expected_f1(s.p, s.n);
    recall_at_fpr(s.p, s.label, s.n, 0.05, &out->threshold_fpr05);
    if (!isfinite(out->threshold_fpr05)) out->threshold_fpr05 = 1;
    slice_release(&s);
}

/* Blend and thresholds of label k on the validation rows. */
static void calibrate(ClassifierLabel *out, const ClassifierRun *r, int k, int parts) {
    int n = r->n_part[PART_VALID], m = n_parts(r, parts);
    double *z = mem_alloc(((size_t)n * 2 + 1) * sizeof *z), two[2];
    int32_t *label = mem_alloc((size_t)(n + 1) * sizeof *label);
    for (int i = 0; i < n; i++) {
        const Labelled *x = &r->item[r->first[PART_VALID] + i];
        parts_of(two, x, k, parts);
        memcpy(z + (int64_t)i * m, two, (size_t)m * sizeof *z);
        label[i] = x->harmful && (k == 0 || x->category == r->label_category[k]);
    }
    detect_blend(&out->blend, z, m, label, n, RIDGE);
    choose_thresholds(out, r, k, parts);
    free(z);
    free(label);
}

/* The categories' part of "harmful", on the validation rows; the first label's thresholds follow it. */
static void calibrate_whole(ClassifierRun *r) {
    int n = r->n_part[PART_VALID];
    if (r->n_label < 2) return;
    double *u = mem_alloc((size_t)(n + 1) * sizeof *u);
    int32_t *label = mem_alloc((size_t)(n + 1) * sizeof *label);
    DetectBlend last;
    for (int i = 0; i < n; i++) {
        const Labelled *x = &r->item[r->first[PART_VALID] + i];
        u[i] = classifier_mixed(r->label, r->n_label, CLASSIFIER_SHARE, x->z, n_parts(r, BOTH));
        label[i] = x->harmful;
    }
    detect_blend(&last, u, 1, label, n, RIDGE);
    r->mix = (ClassifierMix){CLASSIFIER_SHARE, last.w[0], last.bias};
    choose_thresholds(&r->label[0], r, 0, BOTH);
    free(u);
    free(label);
}

static void stats_of(DetectStats *d, double *ece_raw, const ClassifierRun *r, const Slice *s, double threshold,
                     const char *what) {
    double *soft = mem_alloc((size_t)(s->n + 1) * sizeof *soft);
    for (int64_t i = 0; i < s->n; i++) soft[i] = s->label[i];
    detect_stats(d, s->p, s->label, s->cluster, s->n, threshold, rng_derive((Rng){r->ctx.seed, RNG_BOOT}, what),
                 r->job->be->pool);
    *ece_raw = s->n ? ece(s->raw, soft, s->n, 10) : NAN;
    free(soft);
}

static void put_stats(JsonOut *j, const DetectStats *d, double ece_raw, int64_t n) {
    json_out_int(j, "n", n);
    json_out_int(j, "positive", d->at.tp + d->at.fn);
    json_out_estimate(j, "auprc", d->auprc);
    json_out_estimate(j, "auroc", d->auroc);
    json_out_estimate(j, "f1", d->f1);
    json_out_rate(j, "precision", (double)d->at.tp, d->at.tp + d->at.fp);
    json_out_rate(j, "recall", (double)d->at.tp, d->at.tp + d->at.fn);
    json_out_rate(j, "fpr", (double)d->at.fp, d->at.fp + d->at.tn);
    json_out_balanced_accuracy(j, &d->at);
    json_out_num(j, "recall_at_fpr05", d->recall_at_fpr05);
    json_out_num(j, "ece", d->ece);
    json_out_num(j, "ece_raw", ece_raw);
    json_out_num(j, "brier", d->brier);
}

static void put_line(Str *table, const char *name, const DetectStats *d, int64_t n) {
    str_cell(table, name, 44, 44);
    str_printf(table, " %6lld %5lld  ", (long long)n, (long long)(d->at.tp + d->at.fn));
    if (isnan(d->auprc.mean))
        str_put(table, "   n/a: nothing harmful\n");
    else
        str_printf(table, "%.3f [%.3f, %.3f]  %.3f [%.3f, %.3f]  %.3f\n", d->auprc.mean, d->auprc.lo, d->auprc.hi,
                   d->f1.mean, d->f1.lo, d->f1.hi, d->ece);
}

/* One object of figures, and its line. */
static void figures(JsonOut *j, Str *table, const char *key, const char *name_key, const char *name,
                    const ClassifierRun *r, int part, int category, int k, const ClassifierLabel *l, int parts) {
    Slice s;
    DetectStats d;
    double raw;
    slice_make(&s, r, part, category, k, &l->blend, parts);
    if (s.n) {
        stats_of(&d, &raw, r, &s, l->threshold, name);
        json_out_obj(j, key);
        if (name_key) json_out_str(j, name_key, name);
        json_out_num(j, "threshold", l->threshold);
        put_stats(j, &d, raw, s.n);
        json_out_obj_end(j);
        if (part == PART_TEST) put_line(table, name, &d, s.n);
    }
    slice_release(&s);
}

/* A category's own threshold: where few replies are harmful and hard to tell, the best F1 asks for less certainty than
 * where many are. The one of all rows where validation rows of the category are too few to say. */
static double category_threshold(const ClassifierRun *r, int category) {
    Slice s;
    double threshold = r->label[0].threshold;
    int64_t harmful = 0;
    slice_make(&s, r, PART_VALID, category, 0, &r->label[0].blend, BOTH);
    for (int64_t i = 0; i < s.n; i++) harmful += s.label[i];
    if (s.n >= CATEGORY_ROWS && harmful > 0) threshold = detect_expected_f1(s.p, s.n);
    slice_release(&s);
    return threshold;
}

static void put_test(JsonOut *j, Str *table, const ClassifierRun *r) {
    json_out_obj(j, "test");
    figures(j, table, "overall", NULL, "all", r, PART_TEST, -1, 0, &r->label[0], BOTH);
    json_out_arr(j, "categories");
    for (int c = 0; c < r->n_category; c++) {
        ClassifierLabel own = r->label[0];
        own.threshold = category_threshold(r, c);
        figures(j, table, NULL, "category", r->category[c], r, PART_TEST, c, 0, &own, BOTH);
    }
    json_out_arr_end(j);
    json_out_arr(j, "labels");
    for (int k = 0; k < r->n_label; k++)
        figures(j, table, NULL, "label", r->label[k].name, r, PART_TEST, -1, k, &r->label[k], BOTH);
    json_out_arr_end(j);
    static const char *const part[] = {"trunk", "ngrams"}, *const name[] = {"trunk alone", "n-grams alone"};
    for (int i = 0; i < 2 && r->ngrams; i++) {
        ClassifierLabel alone = {0};
        calibrate(&alone, r, 0, i + 1);
        figures(j, table, part[i], NULL, name[i], r, PART_TEST, -1, 0, &alone, i + 1);
    }
    json_out_obj_end(j);
    json_out_obj(j, "valid");
    figures(j, table, "overall", NULL, "all", r, PART_VALID, -1, 0, &r->label[0], BOTH);
    json_out_obj_end(j);
}

/* Figures of a control over the test rows; returns its AUROC. */
static double put_control(JsonOut *j, Str *table, const ClassifierRun *r, const ClassifierControl *c) {
    int n_valid = r->n_part[PART_VALID], n = r->n_part[PART_TEST];
    const Labelled *valid = r->item + r->first[PART_VALID], *test = r->item + r->first[PART_TEST];
    Slice s;
    DetectStats d;
    double raw, threshold = r->label[0].threshold;
    DetectBlend blend = r->label[0].blend;
    if (c->own) {
        int32_t *label = mem_alloc((size_t)(n_valid + 1) * sizeof *label);
        double *p = mem_alloc((size_t)(n_valid + 1) * sizeof *p);
        for (int i = 0; i < n_valid; i++) label[i] = valid[i].harmful;
        detect_blend(&blend, c->z, 1, label, n_valid, RIDGE);
        for (int i = 0; i < n_valid; i++) p[i] = detect_blended(&blend, &c->z[i], 1);
        threshold = detect_expected_f1(p, n_valid);
        free(label);
        free(p);
    }
    slice_room(&s, n);
    for (int i = 0; i < n; i++) {
        const double *z = c->z + (n_valid + i) * c->m;
        s.p[i] = c->own ? detect_blended(&blend, z, 1) : whole_p(r, z);
        s.raw[i] = sigmoid_of(!c->own && r->ngrams ? (z[0] + z[1]) / 2 : z[0]);
        s.label[i] = test[i].harmful;
        s.cluster[i] = test[i].cluster;
    }
    s.n = n;
    stats_of(&d, &raw, r, &s, threshold, c->key);
    json_out_obj(j, c->key);
    put_stats(j, &d, raw, n);
    json_out_obj_end(j);
    put_line(table, c->name, &d, n);
    slice_release(&s);
    return d.auroc.mean;
}

/* reply_share: how much of what the classifier knows beyond chance is gone with other replies. */
static void put_controls(JsonOut *j, Str *table, const ClassifierRun *r) {
    double whole, shuffled = NAN;
    Slice s;
    slice_make(&s, r, PART_TEST, -1, 0, &r->label[0].blend, BOTH);
    whole = auroc(s.p, s.label, s.n);
    slice_release(&s);
    json_out_obj(j, "controls");
    for (int k = 0; k < CONTROLS; k++) {
        if (!r->control[k].z) continue;
        double v = put_control(j, table, r, &r->control[k]);
        if (k == CONTROL_REPLIES) shuffled = v;
    }
    double share = detect_reply_share(whole, shuffled);
    json_out_num(j, "reply_share", share);
    json_out_obj_end(j);
    if (share < DETECT_READS)
        str_printf(
            table,
            "With other rows' replies its AUROC is %.3f, with their own %.3f: the verdict follows the request.\n",
            shuffled, whole);
}

static bool write_predictions(const ClassifierRun *r, Error *err) {
    static const char *const part[] = {"train", "valid", "test"};
    Str path = {0}, text = {0};
    path_join(&path, r->job->out, "predictions.jsonl");
    for (int i = 0; i < r->rows.n; i++) {
        const Labelled *x = &r->item[i];
        JsonOut j;
        json_out_init(&j, &text, 0);
        json_out_obj(&j, NULL);
        json_out_str(&j, "id", x->row->id);
        json_out_str(&j, "split", part[x->part]);
        json_out_str(&j, "category", x->row->category);
        json_out_int(&j, "harmful", x->harmful);
        json_out_num(&j, "p", x->z ? whole_p(r, x->z) : NAN);
        json_out_arr(&j, "labels");
        for (int k = 0; x->z && k < r->n_label; k++)
            json_out_num(&j, NULL,
                         k ? detect_blended(&r->label[k].blend, x->z + 2 * k, n_parts(r, BOTH)) : whole_p(r, x->z));
        json_out_arr_end(&j);
        json_out_num(&j, "trunk", x->z ? x->z[0] : NAN);
        json_out_num(&j, "ngrams", x->z && r->ngrams ? x->z[1] : NAN);
        json_out_obj_end(&j);
        str_putc(&text, '\n');
    }
    bool ok = io_write_file(str_get(&path), str_get(&text), text.n, err);
    str_release(&path);
    str_release(&text);
    return ok;
}

static void put_head(JsonOut *j, const ClassifierRun *r) {
    char hash[33];
    const ClassifierJob *job = r->job;
    Str path = {0};
    path_join(&path, job->out, "model");
    json_out_str(j, "kind", "classifier");
    json_out_int(j, "schema", 1);
    json_out_str(j, "model", str_get(&path));
    json_out_num(j, "seconds", round((now_s() - r->start) * 10) / 10);
    json_out_int(j, "seed", job->cfg->run.seed);
    json_out_arr(j, "data");
    for (int i = 0; i < job->n_file; i++) {
        json_out_obj(j, NULL);
        json_out_str(j, "file", job->file[i]);
        hash_hex(hash, r->file_hash[i]);
        json_out_str(j, "hash", hash);
        json_out_obj_end(j);
    }
    json_out_arr_end(j);
    json_out_obj(j, "split");
    json_out_str(j, "by", "prompt");
    json_out_int(j, "train", r->n_part[PART_TRAIN]);
    json_out_int(j, "valid", r->n_part[PART_VALID]);
    json_out_int(j, "test", r->n_part[PART_TEST]);
    json_out_int(j, "prompts", r->n_prompt);
    json_out_obj_end(j);
    json_out_int(j, "parameters", model_config_params(&r->trunk[0].net.m.cfg));
    json_out_int(j, "trunks", job->trunks);
    json_out_arr(j, "ngram_c");
    for (int k = 0; k < NGRAM_READINGS && r->ngrams; k++) json_out_num(j, NULL, r->ngram_c[k]);
    json_out_arr_end(j);
    str_release(&path);
}

bool classifier_results(ClassifierRun *r, Str *result, Str *table, Error *err) {
    JsonOut j;
    Str path = {0};
    for (int k = 0; k < r->n_label; k++) calibrate(&r->label[k], r, k, BOTH);
    calibrate_whole(r);
    json_out_init(&j, result, 0);
    json_out_obj(&j, NULL);
    put_head(&j, r);
    classifier_labels_out(&j, r->label, r->n_label, r->ngrams != NULL);
    classifier_mix_out(&j, &r->mix);
    json_out_num(&j, "threshold", r->label[0].threshold);
    json_out_num(&j, "threshold_fpr05", r->label[0].threshold_fpr05);
    str_printf(table, "%d training rows, %d validation, %d test, of %d prompts\n%-44s %6s %5s  %-21s  %-21s  %s\n",
               r->n_part[PART_TRAIN], r->n_part[PART_VALID], r->n_part[PART_TEST], r->n_prompt, "test rows", "n",
               "harm", "AUPRC", "F1", "ECE");
    put_test(&j, table, r);
    put_controls(&j, table, r);
    json_out_obj_end(&j);
    str_putc(result, '\n');
    path_join(&path, r->job->out, "classifier.json");
    bool ok = write_predictions(r, err) && io_write_file(str_get(&path), result->s, result->n, err);
    str_release(&path);
    return ok;
}
