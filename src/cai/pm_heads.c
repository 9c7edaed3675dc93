#include "cai/pm_heads.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/losses.h"

bool pm_heads_plan(PmHeads *h, const RunConfig *c, const Constitution *con, Error *err) {
    *h = (PmHeads){.n = (int)c->pm.ensemble, .per_principle = c->pm.heads == 1};
    for (int k = 0; k < h->n && !h->per_principle; k++) h->share[k] = 1.0 / h->n;
    if (!h->per_principle) return true;
    if (c->pm.ensemble > 1)
        return error_set(err, ERR_CONFIG, "pm.heads principles goes with pm.ensemble 1, found %d", h->n);
    if (c->pm.shuffle)
        return error_set(err, ERR_CONFIG,
                         "pm.shuffle shuffles the pairs' labels, and pm.heads principles learns from "
                         "those of each principle: use one head for this control");
    h->n = 0;
    for (int i = 0; i < con->n && h->n < PM_HEADS - 1; i++) {
        if (!(con->principle[i].use & USE_LABEL)) continue;
        h->principle[h->n] = i;
        h->share[h->n++] = con->principle[i].weight;
    }
    h->principle[h->n] = PM_HELPFUL;
    h->share[h->n++] = 1;
    return true;
}

typedef struct {
    double *l;
    int n, at;
    const Constitution *con;
} LabelRows;

static bool label_row(void *ud, const Json *row, int line, Error *err) {
    LabelRows *r = ud;
    const Json *judged = json_get(row, "judged");
    (void)line; /* the caller names it */
    if (r->at >= r->n) return error_set(err, ERR_STATE, "more labels than the %d pairs", r->n);
    double *l = r->l + (size_t)r->at++ * (size_t)r->con->n;
    for (int i = 0; i < r->con->n; i++) l[i] = NAN;
    for (int i = 0; i < json_len(judged); i++) {
        const Json *one = json_at(judged, i);
        const char *id;
        if (!json_need_str(one, "principle", &id, NULL, err)) return false;
        int p = constitution_find(r->con, id);
        if (p < 0) return error_set(err, ERR_STATE, "the constitution has no principle '%s'", id);
        l[p] = (json_num(json_get(one, "l_ab"), NAN) - json_num(json_get(one, "l_ba"), NAN)) / 2;
    }
    return true;
}

bool pm_labels_read(double *l, int n_pair, const Constitution *con, const char *label_dir, Error *err) {
    LabelRows r = {l, n_pair, 0, con};
    return jsonl_each(label_dir, "labels.jsonl", label_row, &r, err) &&
           (r.at == n_pair ||
            error_set(err, ERR_STATE, "%s/labels.jsonl: %d labels for %d pairs", label_dir, r.at, n_pair));
}

/* Poisson(1), by its distribution function. */
static int poisson(double u) {
    double p = exp(-1), sum = p;
    int n = 0;
    while (u >= sum && n < 12) {
        p /= ++n;
        sum += p;
    }
    return n;
}

void pm_head_label(float *q_out, float *weight, const PmHeads *h, int k, double q, const double *l, bool swapped,
                   double clamp, Rng rng, uint64_t id) {
    *q_out = (float)q;
    *weight = 1;
    if (!h->per_principle) {
        if (h->n > 1) *weight = (float)poisson(rng_uniform(rng, id, (uint32_t)k));
        return;
    }
    if (h->principle[k] == PM_HELPFUL) {
        *weight = l ? 0 : 1;
        return;
    }
    double own = l ? l[h->principle[k]] : NAN;
    *weight = isnan(own) ? 0 : 1;
    if (isnan(own)) return;
    double mine = sigmoid(fmax(-clamp, fmin(clamp, own)));
    *q_out = (float)(swapped ? 1 - mine : mine);
}

bool pm_heads_sum(StageNet *pm, const PmHeads *h, double scale, Error *err) {
    Backend *be = pm->m.be;
    int width = pm->m.cfg.d_model;
    if (h->n == 1 && scale == 1) return true;
    CHECK(pm->h.n_out == h->n, "a net of %d heads, %d expected", pm->h.n_out, h->n);
    double *row = mem_alloc((size_t)width * sizeof *row), *sum = mem_alloc((size_t)width * sizeof *sum);
    for (int k = 0; k < h->n; k++) {
        tensor_get_row(be, row, pm->h.w, k);
        for (int i = 0; i < width; i++) sum[i] += scale * h->share[k] * row[i];
    }
    Head one = {0};
    bool ok = head_init(&one, &pm->m, HEAD_SCORE, 1, 0, false, err);
    if (ok) {
        tensor_set_row(be, one.w, 0, sum);
        head_release(&pm->h);
        pm->h = one;
    }
    free(row);
    free(sum);
    return ok;
}

/* The trunk below knows from SL-CAI what a refusal is, and whether a random head reads that as good or bad is chance.
 * So heads come in pairs, the second one minus the first: over a pair chance favours neither. */
void pm_heads_random(StageNet *pm, uint64_t seed, int which) {
    char name[24];
    int pair = (which - 1) / 2;
    snprintf(name, sizeof name, "head %d", pair + 1);
    head_draw(&pm->h, &pm->m, pair ? rng_derive((Rng){seed, 0}, name).seed : seed, which % 2 ? 1 : -1);
}
