#include "train/head_cut.h"

#include <stdlib.h>
#include <string.h>

#include "nn/cut.h"

typedef struct {
    Net net;
    Acts *acts;
    const Batch *b; /* the whole */
    const Objective *obj;
    Tensor slice;
    const Cut *cut;
    const int32_t *pick; /* of this rank's chosen rows: their numbers among the whole's */
    int n_pick, n_own;   /* n_own: with one of nobody's, where it has none */
} Divided;

static int slice_rows(const Divided *d) { return (int)(d->slice.rows - d->slice.rows % d->obj->row_group); }

/* (R, width) of all ranks from what each knows of its own rows, in place. */
static void tell(const Divided *d, double *x, int64_t width, const char *site) {
    const Cut *c = d->cut;
    int64_t n = d->b->n_row, *count = mem_alloc((size_t)c->n_rank * sizeof *count);
    double *own = mem_alloc(2 * (size_t)(n * width + 1) * sizeof *own), *all = own + n * width + 1;
    for (int q = 0; q < c->n_rank; q++) count[q] = (c->pick_off[q + 1] - c->pick_off[q]) * width;
    for (int i = 0; i < d->n_pick; i++) memcpy(own + i * width, x + d->pick[i] * width, (size_t)width * sizeof *x);
    comm_all_gather(d->net.trunk->part.cp_group, all, own, count, DTYPE_F64, site);
    for (int64_t i = 0; i < n; i++) memcpy(x + c->pick[i] * width, all + i * width, (size_t)width * sizeof *x);
    free(own);
    free(count);
}

/* -- log-probs */

static double rows_loss(const Divided *d, LogpRows *rows, double *weight, Metrics *m) {
    const Objective *o = d->obj;
    double loss = 0;
    int step = slice_rows(d), n = d->b->n_row;
    Tensor none = {.cols = d->slice.cols, .ld = d->slice.ld, .dtype = d->slice.dtype}; /* rows that are not here */
    for (int look = o->look ? 0 : 1; look < 2; look++)
        for (int first = 0; first < n; first += step) {
            none.rows = n - first < step ? n - first : step;
            rows->at = first;
            if (look == 0)
                o->look(o->self, d->net.trunk->be, d->b, first, none);
            else
                loss += o->loss(o->self, d->net.trunk->be, d->b, first, none, weight, m);
        }
    return loss;
}

/* Own rows through the head; back: and their gradients through it, as far as they are known. */
static void own_rows(const Divided *d, LogpRows *rows, int32_t *target, bool back) {
    Backend *be = d->net.trunk->be;
    LogpBuf *logp = d->obj->logp;
    const Objective *o = d->obj;
    for (int first = 0, step = (int)d->slice.rows; first < d->n_own; first += step) {
        int n = d->n_own - first < step ? d->n_own - first : step;
        Tensor out = tensor_rows(d->slice, 0, n);
        for (int i = 0; i < n; i++) target[i] = first + i < d->n_pick ? o->target[d->pick[first + i]] : 0;
        head_forward(d->net, d->acts, first, out);
        logp_forward(logp, be, out, target, o->temp, o->entropy);
        for (int i = 0; i < n; i++) {
            bool own = first + i < d->n_pick;
            int at = own ? d->pick[first + i] : 0;
            if (own) rows->said[at * rows->width] = logp->lp[i];
            if (own && o->entropy) rows->said[at * rows->width + 1] = logp->ent[i];
            logp->dlp[i] = own ? rows->dlp[at] : 0;
        }
        if (!back) continue;
        logp_backward(logp, be, out, target, o->temp);
        head_backward(d->net, d->acts, first, out);
    }
}

static double logp_micro(const Divided *d, double *weight, Metrics *m, bool grads) {
    const Objective *o = d->obj;
    size_t n = (size_t)d->b->n_row;
    LogpRows rows = {.width = o->entropy ? 2 : 1};
    rows.said = mem_alloc((size_t)(rows.width + 1) * n * sizeof(double));
    rows.dlp = rows.said + (size_t)rows.width * n;
    int32_t *target = mem_alloc((size_t)d->slice.rows * sizeof *target);
    memset(rows.said, 0, (size_t)(rows.width + 1) * n * sizeof(double));
    double ignore = 0;
    logp_rows(o->logp, &rows);
    if (grads && o->linear) rows_loss(d, &rows, &ignore, NULL);
    logp_rows(o->logp, NULL);
    own_rows(d, &rows, target, grads && o->linear);
    tell(d, rows.said, rows.width, "log-probs of rows");
    logp_rows(o->logp, &rows);
    double loss = rows_loss(d, &rows, weight, m);
    logp_rows(o->logp, NULL);
    if (grads && !o->linear) own_rows(d, &rows, target, true);
    free(rows.said);
    free(target);
    return loss;
}

/* -- other outputs */

/* Between own rows, a slice at a time, and the whole's values. */
static void own_outputs(const Divided *d, double *all, double *some, bool back) {
    Backend *be = d->net.trunk->be;
    size_t width = (size_t)d->slice.cols, row = width * sizeof *all;
    for (int first = 0, step = (int)d->slice.rows; first < d->n_own; first += step) {
        int n = d->n_own - first < step ? d->n_own - first : step;
        int known = d->n_pick - first < n ? d->n_pick - first : n;
        Tensor out = tensor_rows(d->slice, 0, n);
        if (!back) {
            head_forward(d->net, d->acts, first, out);
            tensor_get(be, some, out);
            for (int i = 0; i < known; i++)
                memcpy(all + (size_t)d->pick[first + i] * width, some + (size_t)i * width, row);
            continue;
        }
        memset(some, 0, (size_t)n * row);
        for (int i = 0; i < known; i++) memcpy(some + (size_t)i * width, all + (size_t)d->pick[first + i] * width, row);
        tensor_set(be, out, some);
        head_backward(d->net, d->acts, first, out);
    }
}

static double outputs_micro(const Divided *d, double *weight, Metrics *m, bool grads) {
    Backend *be = d->net.trunk->be;
    const Objective *o = d->obj;
    int n = d->b->n_row, step = slice_rows(d);
    size_t width = (size_t)d->slice.cols;
    double *all = mem_alloc(((size_t)n + (size_t)d->slice.rows) * width * sizeof *all), loss = 0;
    double *some = all + (size_t)n * width;
    own_outputs(d, all, some, false);
    tell(d, all, d->slice.cols, "outputs of rows");
    for (int look = o->look ? 0 : 1; look < 2; look++)
        for (int first = 0; first < n; first += step) {
            Tensor out = tensor_rows(d->slice, 0, n - first < step ? n - first : step);
            double *values = all + (size_t)first * width;
            tensor_set(be, out, values);
            if (look == 0) {
                o->look(o->self, be, d->b, first, out);
                continue;
            }
            loss += o->loss(o->self, be, d->b, first, out, weight, m);
            tensor_get(be, values, out);
        }
    if (grads) own_outputs(d, all, some, true);
    free(all);
    return loss;
}

double head_micro_cut(Net net, Acts *a, const Batch *b, const Objective *obj, Tensor slice, double *weight, Metrics *m,
                      bool grads) {
    Divided d = {net, a, b, obj, slice, acts_cut(a), NULL, 0, 0};
    const int32_t *off = d.cut->pick_off + d.cut->rank;
    d.pick = d.cut->pick + off[0];
    d.n_pick = off[1] - off[0];
    d.n_own = d.n_pick > 0 ? d.n_pick : 1;
    CHECK(d.cut->n_all == b->n_tok, "head of another micro-batch than forward's");
    CHECK((obj->logp != NULL) == (obj->target != NULL), "objective %s reads log-probs and does not say of which tokens",
          obj->name);
    return obj->logp ? logp_micro(&d, weight, m, grads) : outputs_micro(&d, weight, m, grads);
}
