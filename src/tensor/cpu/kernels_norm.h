/* tensor/cpu/kernels_norm.h — norms, distributions, the optimizer.
 *
 * Sums along a row run in 4 x 16 lanes, folded in one order (row_*). Sums over rows (dw, db) are collected per tile of
 * NORM_ROWS rows and added in the order of the tiles. */
#ifndef DIKAST_TENSOR_CPU_KERNELS_NORM_H
#define DIKAST_TENSOR_CPU_KERNELS_NORM_H

enum { NORM_ROWS = 64 };

INLINE float fold4(const v16 s[4]) { return v16_sum(v16_add(v16_add(s[0], s[1]), v16_add(s[2], s[3]))); }

/* sum a_j */
INLINE float row_sum(const float *a, int64_t n) {
    v16 s[4] = {v16_zero(), v16_zero(), v16_zero(), v16_zero()};
    for (int64_t j = 0; j < n; j += 64)
#pragma GCC unroll 4
        for (int u = 0; u < 4; u++)
            if (j + 16 * u < n) s[u] = v16_add(s[u], v16_get(a + j + 16 * u, n - j - 16 * u));
    return fold4(s);
}

/* sum (a_j - mu)^2; lanes behind the end hold mu - mu */
INLINE float row_square(const float *a, float mu, int64_t n) {
    v16 s[4] = {v16_zero(), v16_zero(), v16_zero(), v16_zero()}, m = v16_set1(mu);
    for (int64_t j = 0; j < n; j += 64)
#pragma GCC unroll 4
        for (int u = 0; u < 4; u++) {
            int64_t left = n - j - 16 * u;
            if (left <= 0) continue;
            v16 d = v16_sub(v16_get(a + j + 16 * u, left), m);
            if (left < 16) d = v16_select_n(d, v16_zero(), (int)left);
            s[u] = v16_fma(d, d, s[u]);
        }
    return fold4(s);
}

/* -- norms ----------------------------------------------------------------------------------------------------------
 */

/* One struct for both norms: RMSNorm has no mean and no b. */
typedef struct {
    Tensor y, mean, rstd, x, w, b;
    float eps;
} Norm;

static float rstd_of(float sum, int64_t n, float eps) {
    return (float)(1.0 / sqrt((double)sum / (double)n + (double)eps));
}

static void rmsnorm_task(const void *job, int64_t row, int64_t row_end) {
    const Norm *n = job;
    int64_t cols = n->x.cols;
    for (int64_t i = row; i < row_end; i++) {
        const float *x = f32_row(n->x, i), *w = f32_row(n->w, 0);
        float r = rstd_of(row_square(x, 0.0f, cols), cols, n->eps);
        for (int64_t j = 0; j < cols; j += 16) {
            v16 h = v16_mul(v16_get(x + j, cols - j), v16_set1(r));
            row_put(n->y, i, j, v16_mul(h, v16_get(w + j, cols - j)), cols - j);
        }
        if (!tensor_empty(n->rstd)) *f32_row(n->rstd, i) = r;
    }
}

static void rmsnorm_fwd(Backend *be, Tensor y, Tensor rstd, Tensor x, Tensor w, float eps) {
    check_any("rmsnorm_fwd", "y", y, x.rows, x.cols);
    cpu_check("rmsnorm_fwd", "x", x, x.rows, x.cols);
    cpu_check("rmsnorm_fwd", "w", w, 1, x.cols);
    cpu_check_opt("rmsnorm_fwd", "rstd", rstd, x.rows, 1);
    Norm n = {.y = y, .rstd = rstd, .x = x, .w = w, .eps = eps};
    cpu_rows(be, x.rows, x.cols, 2, rmsnorm_task, &n);
}

static void layernorm_task(const void *job, int64_t row, int64_t row_end) {
    const Norm *n = job;
    int64_t cols = n->x.cols;
    for (int64_t i = row; i < row_end; i++) {
        const float *x = f32_row(n->x, i), *w = f32_row(n->w, 0), *b = f32_row(n->b, 0);
        float mu = row_sum(x, cols) / (float)cols;
        float r = rstd_of(row_square(x, mu, cols), cols, n->eps);
        for (int64_t j = 0; j < cols; j += 16) {
            int64_t left = cols - j;
            v16 h = v16_mul(v16_sub(v16_get(x + j, left), v16_set1(mu)), v16_set1(r));
            row_put(n->y, i, j, v16_fma(h, v16_get(w + j, left), v16_get(b + j, left)), left);
        }
        if (!tensor_empty(n->mean)) *f32_row(n->mean, i) = mu;
        if (!tensor_empty(n->rstd)) *f32_row(n->rstd, i) = r;
    }
}

static void layernorm_fwd(Backend *be, Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor w, Tensor b, float eps) {
    check_any("layernorm_fwd", "y", y, x.rows, x.cols);
    cpu_check("layernorm_fwd", "x", x, x.rows, x.cols);
    cpu_check("layernorm_fwd", "w", w, 1, x.cols);
    cpu_check("layernorm_fwd", "b", b, 1, x.cols);
    cpu_check_opt("layernorm_fwd", "mean", mean, x.rows, 1);
    cpu_check_opt("layernorm_fwd", "rstd", rstd, x.rows, 1);
    Norm n = {y, mean, rstd, x, w, b, eps};
    cpu_rows(be, x.rows, x.cols, 2, layernorm_task, &n);
}

typedef struct {
    Tensor dx, dy, x, w, mean, rstd;
    float *dw, *db; /* (n_tile, C) each, or NULL */
    bool add_dx, centred;
} NormGrad;

/* Both norms, with h = (x - mu) r and g = dy w:  dx (+)= r (g - mean(g) - h mean(g h));  RMSNorm has mu = mean(g) = 0.
 */
static void norm_row_bwd(const NormGrad *n, int64_t i, float *dw, float *db) {
    int64_t cols = n->x.cols;
    const float *x = f32_row(n->x, i), *dy = f32_row(n->dy, i), *w = f32_row(n->w, 0);
    v16 mu = v16_set1(n->centred ? *f32_row(n->mean, i) : 0.0f), r = v16_set1(*f32_row(n->rstd, i));
    v16 sum_g = v16_zero(), sum_gh = v16_zero();
    for (int64_t j = 0; j < cols; j += 16) {
        int64_t left = cols - j;
        v16 h = v16_mul(v16_sub(v16_get(x + j, left), mu), r), d = v16_get(dy + j, left);
        v16 g = v16_mul(d, v16_get(w + j, left));
        sum_g = v16_add(sum_g, g);
        sum_gh = v16_fma(g, h, sum_gh);
        if (dw) v16_put(dw + j, v16_fma(d, h, v16_get(dw + j, left)), left);
        if (db) v16_put(db + j, v16_add(d, v16_get(db + j, left)), left);
    }
    v16 g_mean = v16_set1(n->centred ? v16_sum(sum_g) / (float)cols : 0.0f);
    v16 gh_mean = v16_set1(v16_sum(sum_gh) / (float)cols);
    for (int64_t j = 0; j < cols; j += 16) {
        int64_t left = cols - j;
        v16 h = v16_mul(v16_sub(v16_get(x + j, left), mu), r);
        v16 g = v16_sub(v16_mul(v16_get(dy + j, left), v16_get(w + j, left)), g_mean);
        v16 d = v16_mul(r, v16_sub(g, v16_mul(h, gh_mean)));
        float *dx = f32_row(n->dx, i) + j;
        v16_put(dx, n->add_dx ? v16_add(v16_get(dx, left), d) : d, left);
    }
}

static void norm_bwd_task(void *ud, int64_t tile, int thread) {
    (void)thread;
    const NormGrad *n = ud;
    int64_t cols = n->x.cols, end = least((tile + 1) * NORM_ROWS, n->x.rows);
    float *dw = n->dw ? n->dw + tile * cols : NULL, *db = n->db ? n->db + tile * cols : NULL;
    if (dw) memset(dw, 0, (size_t)cols * sizeof *dw);
    if (db) memset(db, 0, (size_t)cols * sizeof *db);
    for (int64_t i = tile * NORM_ROWS; i < end; i++) norm_row_bwd(n, i, dw, db);
}

static void norm_bwd(Backend *be, NormGrad *n, Tensor dw, Tensor db) {
    int64_t n_tile = ceil_div(n->x.rows, NORM_ROWS), cols = n->x.cols;
    float *part = cpu_scratch_shared(be, (size_t)(2 * n_tile * cols) * sizeof(float));
    if (!tensor_empty(dw)) n->dw = part;
    if (!tensor_empty(db)) n->db = part + n_tile * cols;
    cpu_tiles(be, n_tile, 32.0 * (double)tensor_count(n->x), norm_bwd_task, n);
    if (n->dw) column_sums(be, dw, tensor_over(n->dw, DTYPE_F32, n_tile, cols));
    if (n->db) column_sums(be, db, tensor_over(n->db, DTYPE_F32, n_tile, cols));
}

static void rmsnorm_bwd(Backend *be, Tensor dx, Tensor dw_acc, Tensor dy, Tensor x, Tensor w, Tensor rstd,
                        bool add_dx) {
    cpu_check("rmsnorm_bwd", "dx", dx, x.rows, x.cols);
    cpu_check("rmsnorm_bwd", "dy", dy, x.rows, x.cols);
    cpu_check("rmsnorm_bwd", "x", x, x.rows, x.cols);
    cpu_check("rmsnorm_bwd", "w", w, 1, x.cols);
    cpu_check("rmsnorm_bwd", "rstd", rstd, x.rows, 1);
    cpu_check_opt("rmsnorm_bwd", "dw", dw_acc, 1, x.cols);
    NormGrad n = {.dx = dx, .dy = dy, .x = x, .w = w, .rstd = rstd, .add_dx = add_dx};
    norm_bwd(be, &n, dw_acc, (Tensor){0});
}

static void layernorm_bwd(Backend *be, Tensor dx, Tensor dw_acc, Tensor db_acc, Tensor dy, Tensor x, Tensor w,
                          Tensor mean, Tensor rstd, bool add_dx) {
    cpu_check("layernorm_bwd", "dx", dx, x.rows, x.cols);
    cpu_check("layernorm_bwd", "dy", dy, x.rows, x.cols);
    cpu_check("layernorm_bwd", "x", x, x.rows, x.cols);
    cpu_check("layernorm_bwd", "w", w, 1, x.cols);
    cpu_check("layernorm_bwd", "mean", mean, x.rows, 1);
    cpu_check("layernorm_bwd", "rstd", rstd, x.rows, 1);
    cpu_check_opt("layernorm_bwd", "dw", dw_acc, 1, x.cols);
    cpu_check_opt("layernorm_bwd", "db", db_acc, 1, x.cols);
    NormGrad n = {.dx = dx, .dy = dy, .x = x, .w = w, .mean = mean, .rstd = rstd, .add_dx = add_dx, .centred = true};
    norm_bwd(be, &n, dw_acc, db_acc);
}

/* -- distributions --------------------------------------------------------------------------------------------------
 */

typedef struct {
    Tensor logprob, entropy, logits, dlogp;
    const int32_t *target;
    float inv; /* 1/temp */
} Logprob;

/* Of one row, z = logits * inv:  top = max z, sum = sum e^(z - top), moment = sum e^(z - top) (z - top) */
typedef struct {
    float top, sum, moment;
} RowStats;

/* e: NULL, or the row where e^(z - top) goes, logits itself perhaps. */
INLINE RowStats row_stats(const float *logits, int64_t n, float inv, bool moment, float *e) {
    const v16 low = v16_set1(-INFINITY), k = v16_set1(inv);
    v16 t[4] = {low, low, low, low};
    for (int64_t j = 0; j < n; j += 64)
#pragma GCC unroll 4
        for (int u = 0; u < 4; u++) {
            int64_t left = n - j - 16 * u;
            if (left <= 0) continue;
            v16 z = v16_mul(v16_get(logits + j + 16 * u, left), k);
            t[u] = v16_max(t[u], left < 16 ? v16_select_n(z, low, (int)left) : z);
        }
    RowStats r = {.top = v16_top(v16_max(v16_max(t[0], t[1]), v16_max(t[2], t[3])))};
    v16 top = v16_set1(r.top), s[2] = {v16_zero(), v16_zero()}, m[2] = {v16_zero(), v16_zero()};
    for (int64_t j = 0; j < n; j += 32)
#pragma GCC unroll 2
        for (int u = 0; u < 2; u++) {
            int64_t at = j + 16 * u, left = n - at;
            if (left <= 0) continue;
            v16 z = v16_sub(v16_mul(v16_get(logits + at, left), k), top), x = v16_exp_below(z);
            if (e) v16_put(e + at, x, left);
            if (left < 16) x = v16_select_n(x, v16_zero(), (int)left);
            s[u] = v16_add(s[u], x);
            if (!moment) continue;
            if (left < 16) z = v16_select_n(z, v16_zero(), (int)left);
            m[u] = v16_fma(x, z, m[u]);
        }
    r.sum = v16_sum(v16_add(s[0], s[1]));
    r.moment = v16_sum(v16_add(m[0], m[1]));
    return r;
}

static void logprob_fwd_task(const void *job, int64_t row, int64_t row_end) {
    const Logprob *p = job;
    for (int64_t i = row; i < row_end; i++) {
        const float *l = f32_row(p->logits, i);
        bool entropy = !tensor_empty(p->entropy);
        RowStats r = entropy ? row_stats(l, p->logits.cols, p->inv, true, NULL)
                             : row_stats(l, p->logits.cols, p->inv, false, NULL);
        double log_sum = cpu_log((double)r.sum);
        *f32_row(p->logprob, i) = (float)((double)(l[p->target[i]] * p->inv - r.top) - log_sum);
        if (entropy) *f32_row(p->entropy, i) = (float)(log_sum - (double)r.moment / (double)r.sum);
    }
}

static void check_logprob(const char *op, Tensor logits, const int32_t *target, float temp) {
    cpu_check(op, "logits", logits, logits.rows, logits.cols);
    CHECK(temp > 0, "%s: temperature %g", op, (double)temp);
    cpu_check_index(op, target, logits.rows, logits.cols);
}

static void logprob_fwd(Backend *be, Tensor logprob, Tensor entropy, Tensor logits, const int32_t *target, float temp) {
    check_logprob("logprob_fwd", logits, target, temp);
    cpu_check("logprob_fwd", "logprob", logprob, logits.rows, 1);
    cpu_check_opt("logprob_fwd", "entropy", entropy, logits.rows, 1);
    Logprob p = {.logprob = logprob, .entropy = entropy, .logits = logits, .target = target, .inv = 1.0f / temp};
    cpu_rows(be, logits.rows, logits.cols, 2, logprob_fwd_task, &p);
}

static void logprob_bwd_task(const void *job, int64_t row, int64_t row_end) {
    const Logprob *p = job;
    int64_t n = p->logits.cols;
    for (int64_t i = row; i < row_end; i++) {
        float *l = f32_row(p->logits, i), d = *f32_row(p->dlogp, i) * p->inv;
        if (*f32_row(p->dlogp, i) == 0) {
            memset(l, 0, (size_t)n * sizeof *l);
            continue;
        }
        RowStats r = row_stats(l, n, p->inv, false, l);
        /* 1 - p of the target as the share of all others: a difference would keep no digit of it where p is near 1. */
        v16 share = v16_set1(-d / r.sum), others = v16_zero();
        l[p->target[i]] = 0;
        for (int64_t j = 0; j < n; j += 16) {
            v16 e = v16_get(l + j, n - j);
            others = v16_add(others, e);
            v16_put(l + j, v16_mul(e, share), n - j);
        }
        l[p->target[i]] = d * (v16_sum(others) / r.sum);
    }
}

static void logprob_bwd(Backend *be, Tensor logits, const int32_t *target, Tensor dlogp, float temp) {
    check_logprob("logprob_bwd", logits, target, temp);
    cpu_check("logprob_bwd", "dlogp", dlogp, logits.rows, 1);
    Logprob p = {.logits = logits, .dlogp = dlogp, .target = target, .inv = 1.0f / temp};
    cpu_rows(be, logits.rows, logits.cols, 3, logprob_bwd_task, &p);
}

/* -- distributions of which some columns are here -------------------------------------------------------------------
 */

static void check_part(const char *op, Tensor logits, const int32_t *target, float temp) {
    cpu_check(op, "logits", logits, logits.rows, logits.cols);
    CHECK(temp > 0, "%s: temperature %g", op, (double)temp);
    for (int64_t i = 0; i < logits.rows; i++)
        CHECK(target[i] >= -1 && target[i] < logits.cols, "%s: target %lld is %d, expected [-1, %lld)", op,
              (long long)i, (int)target[i], (long long)logits.cols);
}

static void logprob_part_fwd_task(const void *job, int64_t row, int64_t row_end) {
    const Logprob *p = job;
    for (int64_t i = row; i < row_end; i++) {
        const float *l = f32_row(p->logits, i);
        float *s = f32_row(p->logprob, i);
        RowStats r = row_stats(l, p->logits.cols, p->inv, true, NULL);
        s[0] = r.top, s[1] = r.sum, s[2] = r.moment;
        s[3] = p->target[i] < 0 ? 0 : l[p->target[i]] * p->inv;
    }
}

static void logprob_part_fwd(Backend *be, Tensor stat, Tensor logits, const int32_t *target, float temp) {
    check_part("logprob_part_fwd", logits, target, temp);
    cpu_check("logprob_part_fwd", "stat", stat, logits.rows, 4);
    Logprob p = {.logprob = stat, .logits = logits, .target = target, .inv = 1.0f / temp};
    cpu_rows(be, logits.rows, logits.cols, 2, logprob_part_fwd_task, &p);
}

static void logprob_part_bwd_task(const void *job, int64_t row, int64_t row_end) {
    const Logprob *p = job;
    int64_t n = p->logits.cols;
    for (int64_t i = row; i < row_end; i++) {
        float *l = f32_row(p->logits, i), d = *f32_row(p->dlogp, i) * p->inv;
        const float *w = f32_row(p->logprob, i);
        if (*f32_row(p->dlogp, i) == 0) {
            memset(l, 0, (size_t)n * sizeof *l);
            continue;
        }
        const v16 k = v16_set1(p->inv), top = v16_set1(w[0]), share = v16_set1(-d / w[1]);
        for (int64_t j = 0; j < n; j += 16)
            v16_put(l + j, v16_exp_below(v16_sub(v16_mul(v16_get(l + j, n - j), k), top)), n - j);
        if (p->target[i] >= 0) l[p->target[i]] = 0;
        v16 others = v16_zero(); /* as in logprob_bwd */
        for (int64_t j = 0; j < n; j += 16) {
            v16 e = v16_get(l + j, n - j);
            others = v16_add(others, e);
            v16_put(l + j, v16_mul(e, share), n - j);
        }
        if (p->target[i] >= 0) l[p->target[i]] = d * ((v16_sum(others) + w[2]) / w[1]);
    }
}

static void logprob_part_bwd(Backend *be, Tensor logits, const int32_t *target, Tensor whole, Tensor dlogp,
                             float temp) {
    check_part("logprob_part_bwd", logits, target, temp);
    cpu_check("logprob_part_bwd", "whole", whole, logits.rows, 3);
    cpu_check("logprob_part_bwd", "dlogp", dlogp, logits.rows, 1);
    Logprob p = {.logprob = whole, .logits = logits, .dlogp = dlogp, .target = target, .inv = 1.0f / temp};
    cpu_rows(be, logits.rows, logits.cols, 3, logprob_part_bwd_task, &p);
}

/* -- optimizer ------------------------------------------------------------------------------------------------------
 */

/* The scalars of AdamwParams, worked out in double and rounded once, as torch's CPU kernels do. */
typedef struct {
    Tensor p, m, v, g;
    float grad_scale, keep, mix1, beta2, mix2, step, root, eps;
} Adamw;

static void adamw_span(const void *job, Span s, int64_t tile) {
    (void)tile;
    const Adamw *a = job;
    const v16 step = v16_set1(-a->step), root = v16_set1(a->root), eps = v16_set1(a->eps);
    for (int64_t i = s.row; i < s.row_end; i++) {
        float *p = f32_row(a->p, i), *m = f32_row(a->m, i), *v = f32_row(a->v, i);
        const float *g = f32_row(a->g, i);
        for (int64_t j = s.col; j < s.col_end; j += 16) {
            int64_t left = s.col_end - j;
            v16 gj = v16_mul(v16_get(g + j, left), v16_set1(a->grad_scale)), mj = v16_get(m + j, left);
            mj = v16_fma(v16_sub(gj, mj), v16_set1(a->mix1), mj);
            v16 vj = v16_mul(v16_get(v + j, left), v16_set1(a->beta2));
            vj = v16_fma(v16_mul(gj, v16_set1(a->mix2)), gj, vj);
            v16 under = v16_add(v16_div(v16_sqrt(vj), root), eps);
            v16 pj = v16_mul(v16_get(p + j, left), v16_set1(a->keep));
            pj = v16_add(pj, v16_div(v16_mul(mj, step), under));
            v16_put(m + j, mj, left);
            v16_put(v + j, vj, left);
            v16_put(p + j, pj, left);
        }
    }
}

static void adamw(Backend *be, Tensor p, Tensor m, Tensor v, Tensor g, AdamwParams a) {
    CHECK(m.panels == p.panels && v.panels == p.panels && g.panels == p.panels, "adamw: layouts differ");
    p = tensor_storage(p), m = tensor_storage(m), v = tensor_storage(v), g = tensor_storage(g);
    cpu_check("adamw", "p", p, p.rows, p.cols);
    cpu_check("adamw", "m", m, p.rows, p.cols);
    cpu_check("adamw", "v", v, p.rows, p.cols);
    cpu_check("adamw", "g", g, p.rows, p.cols);
    CHECK(a.t >= 1, "adamw: t is %lld, expected 1 for the first update", (long long)a.t);
    Adamw w = {.p = p, .m = m, .v = v, .g = g};
    w.grad_scale = (float)a.grad_scale;
    w.keep = (float)(1 - a.lr * a.weight_decay);
    w.mix1 = (float)(1 - a.beta1);
    w.beta2 = (float)a.beta2;
    w.mix2 = (float)(1 - a.beta2);
    w.step = (float)(a.lr / (1 - cpu_pow(a.beta1, a.t)));
    w.root = (float)sqrt(1 - cpu_pow(a.beta2, a.t));
    w.eps = (float)a.eps;
    cpu_spans(be, p.rows, p.cols, adamw_span, &w);
}

#endif
