/* Metrics for tests/peers/metrics_equal.py: JSON lines {"fn", ..} in, one JSON array of numbers per line out. */
#include "base/io.h"
#include "base/json.h"
#include "eval/agree.h"
#include "eval/paired.h"
#include "eval/rank.h"
#include "eval/stats.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 100000 };
typedef struct {
    double x[MOST];
    int32_t k[MOST];
    int n;
} Column;

static bool column(Column *c, const Json *row, const char *key) {
    const Json *a = json_get(row, key);
    c->n = json_len(a);
    if (c->n > MOST) return false;
    for (int i = 0; i < c->n; i++) {
        c->x[i] = json_num(json_at(a, i), NAN);
        c->k[i] = (int32_t)c->x[i];
    }
    return true;
}

static int option(const Json *row, const char *key) { return (int)json_int(json_get(row, key), 0); }

/* x: log-odds against model 0. */
static bool rank(double *out, int *n, const Json *row, const Column *a, const Column *b, const Column *o,
                 const Column *len, Error *err) {
    int models = option(row, "models");
    double rating[64];
    LengthEffect e = {0};
    bool ridge, ok;
    Game *game = mem_alloc((size_t)a->n * sizeof *game);
    for (int i = 0; i < a->n; i++) game[i] = (Game){a->k[i], b->k[i], o->x[i], 1};
    if (len->n)
        ok = rank_length(rating, &e, game, len->x, a->n, models, 0, err);
    else
        ok = rank_bradley_terry(rating, &ridge, game, a->n, models, 0, err);
    for (int m = 0; m < models && ok; m++) out[(*n)++] = (rating[m] - 1000) * log(10) / 400;
    if (len->n) out[(*n)++] = e.phi;
    free(game);
    return ok;
}

static bool answer(double *out, int *n, const char *fn, const Json *row, Error *err) {
    static Column y, s, a, b, o, len;
    if (!column(&y, row, "y") || !column(&s, row, "s") || !column(&a, row, "a") || !column(&b, row, "b") ||
        !column(&o, row, "o") || !column(&len, row, "len"))
        return error_set(err, ERR_FORMAT, "too many numbers");
    if (!strcmp(fn, "detect")) {
        Detection d = detection(s.x, y.k, y.n, json_num(json_get(row, "threshold"), NAN));
        const double v[] = {average_precision(s.x, y.k, y.n),
                            auroc(s.x, y.k, y.n),
                            brier(s.x, y.x, y.n),
                            d.f1,
                            d.precision,
                            d.recall,
                            d.fpr,
                            balanced_accuracy(&d),
                            d.accuracy};
        for (int i = 0; i < COUNT_OF(v); i++) out[(*n)++] = v[i];
    } else if (!strcmp(fn, "agree")) {
        out[(*n)++] = cohen_kappa(a.k, b.k, a.n, option(row, "classes"), KAPPA_PLAIN);
        out[(*n)++] = cohen_kappa(a.k, b.k, a.n, option(row, "classes"), KAPPA_QUADRATIC);
        out[(*n)++] = spearman(a.x, b.x, a.n);
    } else if (!strcmp(fn, "fleiss"))
        out[(*n)++] = fleiss_kappa(a.k, option(row, "items"), option(row, "classes"));
    else if (!strcmp(fn, "mcnemar"))
        out[(*n)++] = mcnemar_exact(option(row, "b01"), option(row, "b10"));
    else if (!strcmp(fn, "holm")) {
        holm_adjust(out, a.x, a.n);
        *n = a.n;
    } else if (!strcmp(fn, "wilson")) {
        Interval w = interval_wilson(option(row, "hits"), option(row, "of"));
        out[(*n)++] = w.lo;
        out[(*n)++] = w.hi;
    } else if (!strcmp(fn, "rank"))
        return rank(out, n, row, &a, &b, &o, &len, err);
    else
        return error_set(err, ERR_FORMAT, "no function '%s'", fn);
    return true;
}

int main(int argc, char **argv) {
    static double out[MOST];
    LineReader *r = NULL;
    Error err = {0};
    const char *line;
    size_t len;
    bool ok = argc == 2 && lines_open(&r, argv[1], 64 << 20, &err);
    while (ok && lines_next(r, &line, &len, &err)) {
        Json *row = NULL;
        int n = 0;
        ok = json_parse(&row, line, len, 0, argv[1], (int)lines_number(r), &err);
        const char *fn = ok ? json_str(json_get(row, "fn"), NULL) : NULL;
        ok = ok && answer(out, &n, fn ? fn : "", row, &err);
        for (int i = 0; i < n && ok; i++) printf(isfinite(out[i]) ? "%s%.17g" : "%snull", i ? "," : "[", out[i]);
        if (ok) printf("]\n");
        json_release(row);
    }
    if (err.code) fprintf(stderr, "%s\n", err.msg);
    lines_close(r);
    return ok && err.code == ERR_NONE ? 0 : 1;
}
