/* tensor/ref/elem.c — norms, positions, activations, distributions. */
#include "tensor/ref/ref.h"

#include <math.h>
#include <string.h>

/* -- norms -------------------------------------------------------------------------------------------------------- */

/* y_c = x_c r w_c,  r = 1/sqrt(mean(x^2) + eps).  Zhang & Sennrich 2019, eq. 4 */
void ref_rmsnorm_fwd(Backend *be, Tensor y, Tensor rstd, Tensor x, Tensor w, float eps) {
    (void)be;
    ref_check("rmsnorm_fwd", "y", y, x.rows, x.cols);
    ref_check("rmsnorm_fwd", "x", x, x.rows, x.cols);
    ref_check("rmsnorm_fwd", "w", w, 1, x.cols);
    ref_check_opt("rmsnorm_fwd", "rstd", rstd, x.rows, 1);
    for (int64_t i = 0; i < x.rows; i++) {
        const double *xi = ref_row(x, i);
        double sum = 0;
        for (int64_t c = 0; c < x.cols; c++) sum += xi[c] * xi[c];
        double r = 1 / sqrt(sum / (double)x.cols + (double)eps);
        for (int64_t c = 0; c < x.cols; c++) ref_row(y, i)[c] = xi[c] * r * ref_row(w, 0)[c];
        if (!tensor_empty(rstd)) ref_row(rstd, i)[0] = r;
    }
}

/* With g_c = dy_c w_c:  dx_c (+)= r (g_c - x_c r^2 mean(g x));  dw_c += dy_c x_c r */
void ref_rmsnorm_bwd(Backend *be, Tensor dx, Tensor dw_acc, Tensor dy, Tensor x, Tensor w, Tensor rstd, bool add_dx) {
    (void)be;
    ref_check("rmsnorm_bwd", "dx", dx, x.rows, x.cols);
    ref_check("rmsnorm_bwd", "dy", dy, x.rows, x.cols);
    ref_check("rmsnorm_bwd", "x", x, x.rows, x.cols);
    ref_check("rmsnorm_bwd", "w", w, 1, x.cols);
    ref_check("rmsnorm_bwd", "rstd", rstd, x.rows, 1);
    ref_check_opt("rmsnorm_bwd", "dw", dw_acc, 1, x.cols);
    for (int64_t i = 0; i < x.rows; i++) {
        const double *xi = ref_row(x, i), *dyi = ref_row(dy, i), *wi = ref_row(w, 0);
        double r = ref_row(rstd, i)[0], gx = 0;
        for (int64_t c = 0; c < x.cols; c++) gx += dyi[c] * wi[c] * xi[c];
        gx /= (double)x.cols;
        for (int64_t c = 0; c < x.cols; c++) {
            double d = r * (dyi[c] * wi[c] - xi[c] * r * r * gx);
            ref_row(dx, i)[c] = add_dx ? ref_row(dx, i)[c] + d : d;
            if (!tensor_empty(dw_acc)) ref_row(dw_acc, 0)[c] += dyi[c] * xi[c] * r;
        }
    }
}

/* y_c = (x_c - mu) r w_c + b_c,  r = 1/sqrt(mean((x - mu)^2) + eps).  Ba et al. 2016 */
void ref_layernorm_fwd(Backend *be, Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor w, Tensor b, float eps) {
    (void)be;
    ref_check("layernorm_fwd", "y", y, x.rows, x.cols);
    ref_check("layernorm_fwd", "x", x, x.rows, x.cols);
    ref_check("layernorm_fwd", "w", w, 1, x.cols);
    ref_check("layernorm_fwd", "b", b, 1, x.cols);
    ref_check_opt("layernorm_fwd", "mean", mean, x.rows, 1);
    ref_check_opt("layernorm_fwd", "rstd", rstd, x.rows, 1);
    for (int64_t i = 0; i < x.rows; i++) {
        const double *xi = ref_row(x, i);
        double mu = 0, var = 0;
        for (int64_t c = 0; c < x.cols; c++) mu += xi[c];
        mu /= (double)x.cols;
        for (int64_t c = 0; c < x.cols; c++) var += (xi[c] - mu) * (xi[c] - mu);
        double r = 1 / sqrt(var / (double)x.cols + (double)eps);
        for (int64_t c = 0; c < x.cols; c++) ref_row(y, i)[c] = (xi[c] - mu) * r * ref_row(w, 0)[c] + ref_row(b, 0)[c];
        if (!tensor_empty(mean)) ref_row(mean, i)[0] = mu;
        if (!tensor_empty(rstd)) ref_row(rstd, i)[0] = r;
    }
}

/* With h_c = (x_c - mu) r, g_c = dy_c w_c:  dx_c (+)= r (g_c - mean(g) - h_c mean(g h));  dw_c += dy_c h_c;  db_c +=
 * dy_c */
void ref_layernorm_bwd(Backend *be, Tensor dx, Tensor dw_acc, Tensor db_acc, Tensor dy, Tensor x, Tensor w, Tensor mean,
                       Tensor rstd, bool add_dx) {
    (void)be;
    ref_check("layernorm_bwd", "dx", dx, x.rows, x.cols);
    ref_check("layernorm_bwd", "dy", dy, x.rows, x.cols);
    ref_check("layernorm_bwd", "x", x, x.rows, x.cols);
    ref_check("layernorm_bwd", "w", w, 1, x.cols);
    ref_check("layernorm_bwd", "mean", mean, x.rows, 1);
    ref_check("layernorm_bwd", "rstd", rstd, x.rows, 1);
    ref_check_opt("layernorm_bwd", "dw", dw_acc, 1, x.cols);
    ref_check_opt("layernorm_bwd", "db", db_acc, 1, x.cols);
    for (int64_t i = 0; i < x.rows; i++) {
        const double *xi = ref_row(x, i), *dyi = ref_row(dy, i), *wi = ref_row(w, 0);
        double mu = ref_row(mean, i)[0], r = ref_row(rstd, i)[0], g_mean = 0, gh_mean = 0;
        for (int64_t c = 0; c < x.cols; c++) {
            g_mean += dyi[c] * wi[c];
            gh_mean += dyi[c] * wi[c] * (xi[c] - mu) * r;
        }
        g_mean /= (double)x.cols;
        gh_mean /= (double)x.cols;
        for (int64_t c = 0; c < x.cols; c++) {
            double h = (xi[c] - mu) * r, d = r * (dyi[c] * wi[c] - g_mean - h * gh_mean);
            ref_row(dx, i)[c] = add_dx ? ref_row(dx, i)[c] + d : d;
            if (!tensor_empty(dw_acc)) ref_row(dw_acc, 0)[c] += dyi[c] * h;
            if (!tensor_empty(db_acc)) ref_row(db_acc, 0)[c] += dyi[c];
        }
    }
}

/* -- positions and activations ------------------------------------------------------------------------------------ */

/* (x1, x2) -> (x1 cos a - x2 sin a, x2 cos a + x1 sin a),  a = pos_i freq_j, negated if inverse.  Su et al. 2021 */
void ref_rope(Backend *be, Tensor x, const int32_t *pos, const double *freq, int d_head, bool inverse) {
    (void)be;
    ref_check("rope", "x", x, x.rows, x.cols);
    CHECK(d_head > 0 && d_head % 2 == 0 && x.cols % d_head == 0, "rope: %lld columns, d_head %d", (long long)x.cols,
          d_head);
    int half = d_head / 2;
    for (int64_t i = 0; i < x.rows; i++)
        for (int64_t h = 0; h < x.cols; h += d_head)
            for (int j = 0; j < half; j++) {
                double a = (double)pos[i] * freq[j], c = cos(a), s = inverse ? -sin(a) : sin(a);
                double *x1 = ref_row(x, i) + h + j, *x2 = x1 + half, v1 = *x1, v2 = *x2;
                *x1 = v1 * c - v2 * s;
                *x2 = v2 * c + v1 * s;
            }
}

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

/* y = silu(g) u,  silu(g) = g sigmoid(g).  Shazeer 2020 */
void ref_swiglu_fwd(Backend *be, Tensor y, Tensor gate, Tensor up) {
    (void)be;
    ref_check("swiglu_fwd", "y", y, y.rows, y.cols);
    ref_check("swiglu_fwd", "gate", gate, y.rows, y.cols);
    ref_check("swiglu_fwd", "up", up, y.rows, y.cols);
    for (int64_t i = 0; i < y.rows; i++)
        for (int64_t j = 0; j < y.cols; j++) {
            double g = ref_row(gate, i)[j];
            ref_row(y, i)[j] = g * sigmoid(g) * ref_row(up, i)[j];
        }
}

/* With s = sigmoid(g):  dg = dy u s (1 + g (1 - s));  du = dy g s */
void ref_swiglu_bwd(Backend *be, Tensor dgate, Tensor dup, Tensor dy, Tensor gate, Tensor up) {
    (void)be;
    ref_check("swiglu_bwd", "dgate", dgate, dy.rows, dy.cols);
    ref_check("swiglu_bwd", "dup", dup, dy.rows, dy.cols);
    ref_check("swiglu_bwd", "dy", dy, dy.rows, dy.cols);
    ref_check("swiglu_bwd", "gate", gate, dy.rows, dy.cols);
    ref_check("swiglu_bwd", "up", up, dy.rows, dy.cols);
    for (int64_t i = 0; i < dy.rows; i++)
        for (int64_t j = 0; j < dy.cols; j++) {
            double d = ref_row(dy, i)[j], g = ref_row(gate, i)[j], u = ref_row(up, i)[j], s = sigmoid(g);
            ref_row(dgate, i)[j] = d * u * s * (1 + g * (1 - s));
            ref_row(dup, i)[j] = d * g * s;
        }
}

static const double pi = 3.14159265358979323846;

/* y = x/2 (1 + tanh(k (x + 0.044715 x^3))), k = sqrt(2/pi);  y = x/2 (1 + erf(x/sqrt 2)).  Hendrycks & Gimpel 2016 */
static double gelu(double x, GeluKind kind) {
    if (kind == GELU_ERF) return 0.5 * x * (1 + erf(x / sqrt(2)));
    return 0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x * x * x)));
}

/* tanh: (1 + t)/2 + x/2 (1 - t^2) k (1 + 3 * 0.044715 x^2);  erf: (1 + erf(x/sqrt 2))/2 + x exp(-x^2/2)/sqrt(2 pi) */
static double gelu_slope(double x, GeluKind kind) {
    if (kind == GELU_ERF) return 0.5 * (1 + erf(x / sqrt(2))) + x * exp(-0.5 * x * x) / sqrt(2 * pi);
    double k = sqrt(2 / pi), t = tanh(k * (x + 0.044715 * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 3 * 0.044715 * x * x);
}

void ref_gelu_fwd(Backend *be, Tensor y, Tensor x, GeluKind kind) {
    (void)be;
    ref_check("gelu_fwd", "y", y, y.rows, y.cols);
    ref_check("gelu_fwd", "x", x, y.rows, y.cols);
    for (int64_t i = 0; i < y.rows; i++)
        for (int64_t j = 0; j < y.cols; j++) ref_row(y, i)[j] = gelu(ref_row(x, i)[j], kind);
}

/* dx = dy gelu'(x) */
void ref_gelu_bwd(Backend *be, Tensor dx, Tensor dy, Tensor x, GeluKind kind) {
    (void)be;
    ref_check("gelu_bwd", "dx", dx, dy.rows, dy.cols);
    ref_check("gelu_bwd", "dy", dy, dy.rows, dy.cols);
    ref_check("gelu_bwd", "x", x, dy.rows, dy.cols);
    for (int64_t i = 0; i < dx.rows; i++)
        for (int64_t j = 0; j < dx.cols; j++)
            ref_row(dx, i)[j] = ref_row(dy, i)[j] * gelu_slope(ref_row(x, i)[j], kind);
}

/* -- distributions ------------------------------------------------------------------------------------------------ */

/* Of one row, z = logits/temp:  top = max z;  returns sum exp(z - top). Subtracting top first is what lets logits of
 * any size through. */
static double exp_sum(const double *logits, int64_t n, double temp, double *top) {
    *top = -INFINITY;
    for (int64_t j = 0; j < n; j++) *top = fmax(*top, logits[j] / temp);
    double sum = 0;
    for (int64_t j = 0; j < n; j++) sum += exp(logits[j] / temp - *top);
    return sum;
}

static void check_targets(const char *op, Tensor logits, const int32_t *target, float temp, int32_t least) {
    CHECK(temp > 0, "%s: temperature %g", op, (double)temp);
    for (int64_t i = 0; i < logits.rows; i++)
        CHECK(target[i] >= least && target[i] < logits.cols, "%s: target %lld is %d, expected [0, %lld)", op,
              (long long)i, (int)target[i], (long long)logits.cols);
}

/* logprob = z_t - logsumexp(z);  entropy = logsumexp(z) - sum_j p_j z_j, both from z - max */
void ref_logprob_fwd(Backend *be, Tensor logprob, Tensor entropy, Tensor logits, const int32_t *target, float temp) {
    (void)be;
    ref_check("logprob_fwd", "logits", logits, logits.rows, logits.cols);
    ref_check("logprob_fwd", "logprob", logprob, logits.rows, 1);
    ref_check_opt("logprob_fwd", "entropy", entropy, logits.rows, 1);
    check_targets("logprob_fwd", logits, target, temp, 0);
    for (int64_t i = 0; i < logits.rows; i++) {
        const double *l = ref_row(logits, i), t = temp;
        double top, sum = exp_sum(l, logits.cols, t, &top), mean = 0;
        ref_row(logprob, i)[0] = l[target[i]] / t - top - log(sum);
        if (tensor_empty(entropy)) continue;
        for (int64_t j = 0; j < logits.cols; j++) mean += exp(l[j] / t - top) / sum * (l[j] / t - top);
        ref_row(entropy, i)[0] = log(sum) - mean;
    }
}

/* logits_j := dlogp/temp (1[j = target] - softmax(z)_j);  a row with dlogp 0 is written, not multiplied, so a NaN in a
 * row without weight cannot get out */
void ref_logprob_bwd(Backend *be, Tensor logits, const int32_t *target, Tensor dlogp, float temp) {
    (void)be;
    ref_check("logprob_bwd", "logits", logits, logits.rows, logits.cols);
    ref_check("logprob_bwd", "dlogp", dlogp, logits.rows, 1);
    check_targets("logprob_bwd", logits, target, temp, 0);
    for (int64_t i = 0; i < logits.rows; i++) {
        double *l = ref_row(logits, i), t = temp, d = ref_row(dlogp, i)[0];
        if (d == 0) {
            memset(l, 0, (size_t)logits.cols * sizeof *l);
            continue;
        }
        double top, sum = exp_sum(l, logits.cols, t, &top);
        for (int64_t j = 0; j < logits.cols; j++) l[j] = d / t * ((j == target[i]) - exp(l[j] / t - top) / sum);
    }
}

void ref_logprob_part_fwd(Backend *be, Tensor stat, Tensor logits, const int32_t *target, float temp) {
    (void)be;
    ref_check("logprob_part_fwd", "logits", logits, logits.rows, logits.cols);
    ref_check("logprob_part_fwd", "stat", stat, logits.rows, 4);
    check_targets("logprob_part_fwd", logits, target, temp, -1);
    for (int64_t i = 0; i < logits.rows; i++) {
        const double *l = ref_row(logits, i), t = temp;
        double *s = ref_row(stat, i);
        s[1] = exp_sum(l, logits.cols, t, &s[0]);
        s[2] = 0;
        for (int64_t j = 0; j < logits.cols; j++) s[2] += exp(l[j] / t - s[0]) * (l[j] / t - s[0]);
        s[3] = target[i] < 0 ? 0 : l[target[i]] / t;
    }
}

void ref_logprob_part_bwd(Backend *be, Tensor logits, const int32_t *target, Tensor whole, Tensor dlogp, float temp) {
    (void)be;
    ref_check("logprob_part_bwd", "logits", logits, logits.rows, logits.cols);
    ref_check("logprob_part_bwd", "whole", whole, logits.rows, 3);
    ref_check("logprob_part_bwd", "dlogp", dlogp, logits.rows, 1);
    check_targets("logprob_part_bwd", logits, target, temp, -1);
    for (int64_t i = 0; i < logits.rows; i++) {
        double *l = ref_row(logits, i), t = temp, d = ref_row(dlogp, i)[0];
        const double *w = ref_row(whole, i);
        if (d == 0) {
            memset(l, 0, (size_t)logits.cols * sizeof *l);
            continue;
        }
        for (int64_t j = 0; j < logits.cols; j++) l[j] = d / t * ((j == target[i]) - exp(l[j] / t - w[0]) / w[1]);
    }
}
