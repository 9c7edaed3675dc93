#include "train/obj.h"

#include <math.h>
#include <stdlib.h>

#include "train/batch.h"
#include "train/losses.h"

/* One number per sample, read at its last token, which must be the end token: a sample that was cut has no end and its
 * score would mean something else. Pairs are neighbours in a pack, so both sides come from the same weights. */

struct ObjPm {
    const SampleSet *s;
    Loader *loader;
    BatchBuf buf;
    double center;
    PmRule rule;
    int max_row;        /* sequences that fit in one pack */
    int64_t *sample;    /* (R) sample of each head row */
    const float *label; /* (n, n_label) of samples; NULL: their targets are the labels */
    int n_label;        /* outputs of the head of a classifier; 0: preferences, whose rule says how many */
    double *out;        /* (rows) host copy of the head's output, then of its gradient */
    int cap_out;
};

static bool pm_micro(void *self, int64_t number, Batch *b, Error *err) {
    ObjPm *o = self;
    const Pack *p = loader_pack(o->loader, number);
    batch_from_pack(&o->buf, b, p, true);
    for (int s = 0; s < p->n_seq; s++) {
        o->buf.row[s] = p->seq_off[s + 1] - 1;
        o->sample[s] = p->sample[s];
    }
    b->n_row = p->n_seq;
    for (int s = 0; o->s->group == 2 && s < p->n_seq; s += 2)
        if (s + 1 == p->n_seq || p->sample[s] % 2 != 0 || p->sample[s + 1] != p->sample[s] + 1)
            return error_set(err, ERR_STATE, "pack %lld: the sides of a preference pair are not neighbours",
                             (long long)number);
    return true;
}

static double *host_rows(ObjPm *o, Backend *be, Tensor out) {
    int64_t width = o->n_label > 0 ? o->n_label : o->rule.n_head;
    CHECK(out.cols == width, "a score head of %lld outputs, %lld expected", (long long)out.cols, (long long)width);
    int n = (int)(out.rows * out.cols);
    if (n > o->cap_out) {
        o->cap_out = n;
        o->out = mem_grow(o->out, (size_t)o->cap_out * sizeof(double));
    }
    tensor_get(be, o->out, out);
    return o->out;
}

/* How right a decision d > 0 is, given the probability q that it should be: a tie counts half. */
static double correct(double d, double q) { return d == 0 ? 0.5 : (d > 0) == (q > 0.5); }

/* One head on one pair: x and y, the scores of its sides, become the gradient. */
static double head_loss(const ObjPm *o, double *x, double *y, int64_t pair, int head, double *q, double *w) {
    const PmRule *r = &o->rule;
    *q = (double)(r->target ? r->target[pair * r->n_head + head] : o->s->target[2 * pair]);
    *w = (double)(r->weight ? r->weight[pair * r->n_head + head] : o->s->sample_weight[2 * pair]);
    double a = *x, c = *y;
    if (*w == 0) { /* no weight, no trace, whatever the scores hold */
        *x = *y = 0;
        return 0;
    }
    double margin = r->margin * (2 * *q - 1) - (r->offset ? r->offset[pair] : 0);
    double loss = preference_loss(x, y, a, c, *q, margin, o->center);
    *x *= *w;
    *y *= *w;
    return *w * loss;
}

static double pm_loss(void *self, Backend *be, const Batch *b, int first, Tensor out, double *weight, Metrics *m) {
    ObjPm *o = self;
    (void)b;
    double *x = host_rows(o, be, out), loss = 0;
    int n_head = o->rule.n_head;
    CHECK(out.rows % 2 == 0 && first % 2 == 0, "a slice of %lld rows splits a pair", (long long)out.rows);
    for (int i = 0; i < out.rows; i += 2) {
        double *a = x + (size_t)i * (size_t)n_head, *c = a + n_head, all = 0, share = 0, d = 0, sum = 0, label = 0;
        for (int k = 0; k < n_head; k++) {
            double q, w, before_a = a[k], before_c = c[k];
            loss += head_loss(o, &a[k], &c[k], o->sample[first + i] / 2, k, &q, &w);
            if (w == 0) continue;
            double v = n_head > 1 ? w : 1; /* one head is its own mean, to the bit */
            all += w, share += v;
            label += v * q;
            d += v * (before_a - before_c);
            sum += v * (before_a + before_c);
        }
        if (all == 0) continue;
        label /= share, d /= share, sum /= share;
        *weight += all;
        metrics_add(m, "accuracy", correct(d, label), label == 0.5 ? 0 : all);
        metrics_add(m, "margin", label > 0.5 ? d : -d, label == 0.5 ? 0 : all);
        metrics_add(m, "score_mean", 0.5 * sum, all);
    }
    tensor_set(be, out, x);
    return loss;
}

static double classifier_loss(void *self, Backend *be, const Batch *b, int first, Tensor out, double *weight,
                              Metrics *m) {
    ObjPm *o = self;
    (void)b;
    double *x = host_rows(o, be, out), loss = 0;
    for (int i = 0; i < out.rows; i++) {
        int64_t s = o->sample[first + i];
        double label = o->s->target[s], w = o->s->sample_weight[s], z = x[i];
        x[i] = 0;
        if (w == 0) continue;
        loss += w * logistic_loss(&x[i], z, label);
        x[i] *= w;
        *weight += w;
        metrics_add(m, "accuracy", correct(z, label), label == 0.5 ? 0 : w);
    }
    tensor_set(be, out, x);
    return loss;
}

/* Several labels: the losses of a sample's known ones add up; the first is what the accuracy is about. */
static double labels_loss(void *self, Backend *be, const Batch *b, int first, Tensor out, double *weight, Metrics *m) {
    ObjPm *o = self;
    (void)b;
    double *x = host_rows(o, be, out), loss = 0;
    for (int i = 0; i < out.rows; i++) {
        int64_t s = o->sample[first + i];
        const float *label = o->label + s * o->n_label;
        double w = o->s->sample_weight[s], *row = x + (int64_t)i * o->n_label, z = row[0];
        for (int k = 0; k < o->n_label; k++) {
            double logit = row[k];
            row[k] = 0;
            if (w == 0 || isnan(label[k])) continue;
            loss += w * logistic_loss(&row[k], logit, (double)label[k]);
            row[k] *= w;
        }
        *weight += w;
        if (w != 0 && !isnan(label[0])) metrics_add(m, "accuracy", correct(z, (double)label[0]), w);
    }
    tensor_set(be, out, x);
    return loss;
}

int64_t obj_pm_packs(ObjPm *o, int64_t epoch) { return loader_packs_in_epoch(o->loader, epoch); }
static double pm_wait_s(void *self) { return loader_wait_s(((ObjPm *)self)->loader); }

static bool pm_check(const SampleSet *s, int group, int32_t end_id, const char *what, Error *err) {
    CHECK(s->group == group, "%s objective: samples come in groups of %d, expected %d", what, s->group, group);
    for (int64_t i = 0; i < s->n; i++) {
        int64_t n = s->off[i + 1] - s->off[i];
        if (n == 0 || s->tok[s->off[i + 1] - 1] != end_id)
            return error_set(
                err, ERR_FORMAT,
                "%s objective: sample %llu (number %lld, %lld tokens) does not end with the end token %d; its "
                "score is read there, so drop such samples instead of cutting them",
                what, (unsigned long long)s->id[i], (long long)i, (long long)n, end_id);
        if (i % group == 0 && !(s->target[i] >= 0 && s->target[i] <= 1))
            return error_set(err, ERR_FORMAT, "%s objective: sample %llu has target %g, expected 0..1", what,
                             (unsigned long long)s->id[i], (double)s->target[i]);
    }
    return true;
}

static bool pm_open(ObjPm **out, const SampleSet *s, int max_tok, uint64_t seed, double center, Error *err) {
    *out = NULL;
    ObjPm *o = mem_alloc(sizeof *o);
    o->s = s;
    o->center = center;
    o->rule.n_head = 1;
    int64_t shortest = max_tok;
    for (int64_t i = 0; i < s->n; i++)
        if (s->off[i + 1] - s->off[i] < shortest) shortest = s->off[i + 1] - s->off[i];
    o->max_row = (int)(max_tok / (shortest ? shortest : 1));
    if (!loader_open(&o->loader, s, max_tok, seed, err)) {
        free(o);
        return false;
    }
    o->sample = mem_alloc((size_t)o->max_row * sizeof(int64_t));
    *out = o;
    return true;
}

typedef double PmLoss(void *self, Backend *be, const Batch *b, int first, Tensor out, double *weight, Metrics *m);

static Objective pm_objective(const char *name, PmLoss *loss, ObjPm *o, int max_tok) {
    Objective obj = {.name = name, .row_group = o->s->group, .micro = pm_micro, .loss = loss, .self = o};
    obj.max_tok = max_tok, obj.max_row = o->max_row;
    obj.wait_s = pm_wait_s;
    return obj;
}

bool obj_pm_open(ObjPm **out, Objective *obj, const SampleSet *s, int max_tok, uint64_t seed, int32_t end_id,
                 double center, Error *err) {
    *out = NULL;
    if (!pm_check(s, 2, end_id, "preference", err) || !pm_open(out, s, max_tok, seed, center, err)) return false;
    *obj = pm_objective("preference", pm_loss, *out, max_tok);
    return true;
}

bool obj_classifier_open(ObjPm **out, Objective *obj, const SampleSet *s, int max_tok, uint64_t seed, int32_t end_id,
                         Error *err) {
    *out = NULL;
    if (!pm_check(s, 1, end_id, "classifier", err) || !pm_open(out, s, max_tok, seed, 0, err)) return false;
    *obj = pm_objective("classifier", classifier_loss, *out, max_tok);
    return true;
}

bool obj_labels_open(ObjPm **out, Objective *obj, const SampleSet *s, const float *label, int n_label, int max_tok,
                     uint64_t seed, int32_t end_id, Error *err) {
    *out = NULL;
    for (int64_t i = 0; i < s->n * n_label; i++)
        if (!isnan(label[i]) && !(label[i] >= 0 && label[i] <= 1))
            return error_set(err, ERR_FORMAT, "labels objective: sample %llu has label %g, expected 0..1 or none",
                             (unsigned long long)s->id[i / n_label], (double)label[i]);
    if (!pm_check(s, 1, end_id, "labels", err) || !pm_open(out, s, max_tok, seed, 0, err)) return false;
    (*out)->label = label;
    (*out)->n_label = n_label;
    *obj = pm_objective("labels", labels_loss, *out, max_tok);
    return true;
}

void obj_pm_rule(ObjPm *o, const PmRule *rule) {
    CHECK(rule->n_head >= 1, "%d heads", rule->n_head);
    CHECK((rule->target == NULL) == (rule->weight == NULL), "labels of heads come with their weights");
    o->rule = *rule;
}

void obj_pm_close(ObjPm *o) {
    if (!o) return;
    loader_close(o->loader);
    batch_release(&o->buf);
    free(o->sample);
    free(o->out);
    free(o);
}
