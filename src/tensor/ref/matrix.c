/* tensor/ref/matrix.c — rows, lookup, products, optimizer. */
#include "tensor/ref/ref.h"

#include <math.h>
#include <string.h>

/* y = 0 */
void ref_zero(Backend *be, Tensor y) {
    (void)be;
    ref_check("zero", "y", y, y.rows, y.cols);
    for (int64_t i = 0; i < y.rows; i++) memset(ref_row(y, i), 0, (size_t)y.cols * sizeof(double));
}

/* y = x */
void ref_copy(Backend *be, Tensor y, Tensor x) {
    (void)be;
    ref_check("copy", "x", x, y.rows, y.cols);
    ref_check("copy", "y", y, y.rows, y.cols);
    for (int64_t i = 0; i < y.rows; i++) memcpy(ref_row(y, i), ref_row(x, i), (size_t)y.cols * sizeof(double));
}

/* Its tensors have one dtype. */
void ref_cast(Backend *be, Tensor y, Tensor x) { ref_copy(be, y, x); }

/* scale_i = max_j |x_ij| / 127;  y_ij = rint(x_ij / scale_i) */
void ref_quantize(Backend *be, Tensor y, Tensor scale, Tensor x) {
    (void)be;
    ref_check("quantize", "x", x, y.rows, y.cols);
    ref_check("quantize", "y", y, y.rows, y.cols);
    ref_check("quantize", "scale", scale, 1, y.rows);
    for (int64_t i = 0; i < y.rows; i++) {
        double top = 0;
        for (int64_t j = 0; j < y.cols; j++) top = fmax(top, fabs(ref_row(x, i)[j]));
        ref_row(scale, 0)[i] = top > 0 ? top / 127 : 1;
        for (int64_t j = 0; j < y.cols; j++) ref_row(y, i)[j] = rint(ref_row(x, i)[j] / ref_row(scale, 0)[i]);
    }
}

/* y = a + b */
void ref_add(Backend *be, Tensor y, Tensor a, Tensor b) {
    (void)be;
    ref_check("add", "y", y, y.rows, y.cols);
    ref_check("add", "a", a, y.rows, y.cols);
    ref_check("add", "b", b, y.rows, y.cols);
    for (int64_t i = 0; i < y.rows; i++)
        for (int64_t j = 0; j < y.cols; j++) ref_row(y, i)[j] = ref_row(a, i)[j] + ref_row(b, i)[j];
}

/* y[i] = x[i] + b */
void ref_add_bias(Backend *be, Tensor y, Tensor x, Tensor b) {
    (void)be;
    ref_check("add_bias", "y", y, y.rows, y.cols);
    ref_check("add_bias", "x", x, y.rows, y.cols);
    ref_check("add_bias", "b", b, 1, y.cols);
    for (int64_t i = 0; i < y.rows; i++)
        for (int64_t j = 0; j < y.cols; j++) ref_row(y, i)[j] = ref_row(x, i)[j] + ref_row(b, 0)[j];
}

/* sum x_ij^2 */
double ref_sumsq(Backend *be, Tensor x) {
    (void)be;
    ref_check("sumsq", "x", x, x.rows, x.cols);
    double sum = 0;
    for (int64_t i = 0; i < x.rows; i++)
        for (int64_t j = 0; j < x.cols; j++) sum += ref_row(x, i)[j] * ref_row(x, i)[j];
    return sum;
}

bool ref_all_finite(Backend *be, Tensor x) {
    (void)be;
    ref_check("all_finite", "x", x, x.rows, x.cols);
    for (int64_t i = 0; i < x.rows; i++)
        for (int64_t j = 0; j < x.cols; j++)
            if (!isfinite(ref_row(x, i)[j])) return false;
    return true;
}

/* x = a x */
void ref_scale(Backend *be, Tensor x, double a) {
    (void)be;
    ref_check("scale", "x", x, x.rows, x.cols);
    for (int64_t i = 0; i < x.rows; i++)
        for (int64_t j = 0; j < x.cols; j++) ref_row(x, i)[j] *= a;
}

/* y = x / (1 - p), or 0: p = drop/2^16 */
void ref_dropout(Backend *be, Tensor y, Tensor x, Dropout d) {
    (void)be;
    ref_check("dropout", "y", y, y.rows, y.cols);
    ref_check("dropout", "x", x, y.rows, y.cols);
    CHECK(d.drop < 1 << 16, "dropout: %u of 65536", d.drop);
    for (int64_t i = 0; i < y.rows; i++)
        for (int64_t j = 0; j < y.cols; j++) {
            uint32_t block[4];
            rng_block(block, d.rng, d.row + (uint64_t)i, (uint32_t)(j / 8));
            bool falls = (block[j % 8 / 2] >> (j % 2 ? 16 : 0) & 0xffff) < d.drop;
            ref_row(y, i)[j] = falls ? 0 : ref_row(x, i)[j] * (65536.0 / (65536 - d.drop));
        }
}

/* -- lookup ------------------------------------------------------------------------------------------------------- */

static int64_t checked(const char *op, const int32_t *idx, int64_t i, int64_t n) {
    CHECK(idx[i] >= 0 && idx[i] < n, "%s: index %lld is %d, expected [0, %lld)", op, (long long)i, (int)idx[i],
          (long long)n);
    return idx[i];
}

/* y[i] = (add ? y[i] : 0) + w[idx[i]] */
void ref_embed_fwd(Backend *be, Tensor y, Tensor w, const int32_t *idx, bool add) {
    (void)be;
    ref_check("embed_fwd", "y", y, y.rows, y.cols);
    ref_check("embed_fwd", "w", w, w.rows, y.cols);
    for (int64_t i = 0; i < y.rows; i++) {
        const double *src = ref_row(w, checked("embed_fwd", idx, i, w.rows));
        for (int64_t j = 0; j < y.cols; j++) ref_row(y, i)[j] = add ? ref_row(y, i)[j] + src[j] : src[j];
    }
}

/* dw[idx[i]] += dy[i], i ascending */
void ref_embed_bwd(Backend *be, Tensor dw_acc, Tensor dy, const int32_t *idx) {
    ref_scatter_add_rows(be, dw_acc, dy, idx);
}

/* y[i] = x[row[i]] */
void ref_gather_rows(Backend *be, Tensor y, Tensor x, const int32_t *row) { ref_embed_fwd(be, y, x, row, false); }

/* y[row[i]] = x[i] */
void ref_scatter_rows(Backend *be, Tensor y, Tensor x, const int32_t *row) {
    (void)be;
    ref_check("scatter_rows", "y", y, y.rows, x.cols);
    ref_check("scatter_rows", "x", x, x.rows, x.cols);
    for (int64_t i = 0; i < x.rows; i++)
        memcpy(ref_row(y, checked("scatter_rows", row, i, y.rows)), ref_row(x, i), (size_t)x.cols * sizeof(double));
}

/* y[row[i]] += x[i], i ascending */
void ref_scatter_add_rows(Backend *be, Tensor y_acc, Tensor x, const int32_t *row) {
    (void)be;
    ref_check("scatter_add_rows", "y", y_acc, y_acc.rows, x.cols);
    ref_check("scatter_add_rows", "x", x, x.rows, x.cols);
    for (int64_t i = 0; i < x.rows; i++) {
        double *dst = ref_row(y_acc, checked("scatter_add_rows", row, i, y_acc.rows));
        for (int64_t j = 0; j < x.cols; j++) dst[j] += ref_row(x, i)[j];
    }
}

/* -- linear ------------------------------------------------------------------------------------------------------- */

/* y_nm = (add ? y_nm : 0) + (sum_k x_nk w_mk + bias_m) */
static void product(const LinearOut *o, Tensor x, bool add) {
    Tensor y = o->y, w = o->w, bias = o->bias;
    ref_check("linear_fwd", "y", y, x.rows, w.rows);
    ref_check("linear_fwd", "w", w, w.rows, x.cols);
    ref_check_opt("linear_fwd", "bias", bias, 1, w.rows);
    for (int64_t n = 0; n < y.rows; n++)
        for (int64_t m = 0; m < y.cols; m++) {
            double sum = 0;
            for (int64_t k = 0; k < x.cols; k++) sum += ref_row(x, n)[k] * ref_row(w, m)[k];
            if (!tensor_empty(o->scale)) sum *= ref_row(o->scale, 0)[m];
            if (!tensor_empty(bias)) sum += ref_row(bias, 0)[m];
            ref_row(y, n)[m] = add ? sum + ref_row(y, n)[m] : sum;
        }
}

void ref_linear_fwd(Backend *be, const LinearOut *out, int n, Tensor x, bool add) {
    (void)be;
    ref_check("linear_fwd", "x", x, x.rows, x.cols);
    for (int i = 0; i < n; i++) product(&out[i], x, add);
}

/* dx_nk = (add_dx ? dx_nk : 0) + sum_i sum_m dy_nm w_mk */
static void input_grad(Tensor dx, const LinearGrad *g, int n, bool add_dx) {
    for (int i = 0; i < n; i++) {
        ref_check("linear_bwd", "dx", dx, g[i].dy.rows, g[i].w.cols);
        ref_check("linear_bwd", "w", g[i].w, g[i].dy.cols, g[i].w.cols);
    }
    for (int64_t r = 0; r < dx.rows; r++)
        for (int64_t k = 0; k < dx.cols; k++) {
            double sum = 0;
            for (int i = 0; i < n; i++) {
                const Tensor dy = g[i].dy, w = g[i].w;
                for (int64_t m = 0; m < dy.cols; m++) sum += ref_row(dy, r)[m] * ref_row(w, m)[k];
            }
            ref_row(dx, r)[k] = add_dx ? sum + ref_row(dx, r)[k] : sum;
        }
}

/* dw_mk += sum_n dy_nm x_nk;  dbias_m += sum_n dy_nm */
static void weight_grad(Tensor dw_acc, Tensor dbias_acc, Tensor dy, Tensor x) {
    ref_check("linear_bwd", "dy", dy, dy.rows, dy.cols);
    if (!tensor_empty(dw_acc)) {
        ref_check("linear_bwd", "dw", dw_acc, dy.cols, x.cols);
        ref_check("linear_bwd", "x", x, dy.rows, x.cols);
        for (int64_t m = 0; m < dw_acc.rows; m++)
            for (int64_t k = 0; k < dw_acc.cols; k++) {
                double sum = 0;
                for (int64_t n = 0; n < dy.rows; n++) sum += ref_row(dy, n)[m] * ref_row(x, n)[k];
                ref_row(dw_acc, m)[k] += sum;
            }
    }
    if (!tensor_empty(dbias_acc)) {
        ref_check("linear_bwd", "dbias", dbias_acc, 1, dy.cols);
        for (int64_t m = 0; m < dy.cols; m++) {
            double sum = 0;
            for (int64_t n = 0; n < dy.rows; n++) sum += ref_row(dy, n)[m];
            ref_row(dbias_acc, 0)[m] += sum;
        }
    }
}

void ref_linear_bwd(Backend *be, Tensor dx, const LinearGrad *g, int n, Tensor x, bool add_dx) {
    (void)be;
    if (!tensor_empty(dx)) input_grad(dx, g, n, add_dx);
    for (int i = 0; i < n; i++) weight_grad(g[i].dw_acc, g[i].dbias_acc, g[i].dy, x);
}

/* -- optimizer ---------------------------------------------------------------------------------------------------- */

/* Loshchilov & Hutter 2019, algorithm 2, in the order of torch's single-tensor path:
 *   g' = grad_scale g;  p = (1 - lr wd) p;  m += (g' - m)(1 - b1);  v = b2 v + (1 - b2) g'^2
 *   p -= lr/(1 - b1^t) * m / (sqrt(v)/sqrt(1 - b2^t) + eps) */
void ref_adamw(Backend *be, Tensor p, Tensor m, Tensor v, Tensor g, AdamwParams a) {
    (void)be;
    ref_check("adamw", "p", p, p.rows, p.cols);
    ref_check("adamw", "m", m, p.rows, p.cols);
    ref_check("adamw", "v", v, p.rows, p.cols);
    ref_check("adamw", "g", g, p.rows, p.cols);
    CHECK(a.t >= 1, "adamw: t is %lld, expected 1 for the first update", (long long)a.t);
    double step = a.lr / (1 - pow(a.beta1, (double)a.t)), root = sqrt(1 - pow(a.beta2, (double)a.t));
    for (int64_t i = 0; i < p.rows; i++) {
        double *pi = ref_row(p, i), *mi = ref_row(m, i), *vi = ref_row(v, i);
        for (int64_t j = 0; j < p.cols; j++) {
            double gj = a.grad_scale * ref_row(g, i)[j];
            pi[j] *= 1 - a.lr * a.weight_decay;
            mi[j] += (gj - mi[j]) * (1 - a.beta1);
            vi[j] = a.beta2 * vi[j] + (1 - a.beta2) * gj * gj;
            pi[j] -= step * mi[j] / (sqrt(vi[j]) / root + a.eps);
        }
    }
}
