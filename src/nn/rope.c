/* nn/rope.c — frequencies of the rotation of positions, plain and changed for longer contexts. f_j = theta^(-2j/D):
 *
 *      linear    f_j / factor.  Chen et al. 2023
 *      llama3    by turns t = original * f_j / 2pi over the context trained on: t > high keeps f_j, t < low divides it
 * by factor, between them the two are mixed in proportion.  Llama 3.1 yarn      f_j and f_j / factor mixed by a ramp
 * over j, whose ends are the pairs that turn beta_fast and beta_slow times; cos and sin grow by 0.1 ln(factor) + 1.
 * Peng et al. 2023, eq. 17-22
 *
 * The growth of cos and sin is a factor of q and of k, which is how the block applies it. */
#include "nn/nn_int.h"

#include <math.h>

static const double two_pi = 6.283185307179586476925;

/* Fraction of f_j / factor in the mix. */
static double llama3_share(const RopeScaling *r, double freq) {
    double turns = r->original * freq / two_pi;
    if (turns > r->high) return 0;
    if (turns < r->low) return 1;
    return 1 - (turns - r->low) / (r->high - r->low);
}

/* The pair, as a real number, that turns `turns` times over the original context. */
static double yarn_pair(const ModelConfig *c, double turns) {
    return c->d_head * log(c->rope.original / (turns * two_pi)) / (2 * log(c->rope_theta));
}

static double yarn_share(const ModelConfig *c, int j) {
    const RopeScaling *r = &c->rope;
    double begin = yarn_pair(c, r->beta_fast), end = yarn_pair(c, r->beta_slow);
    if (!r->no_truncate) begin = floor(begin), end = ceil(end);
    begin = fmax(begin, 0), end = fmin(end, c->d_head - 1);
    if (begin == end) end += 0.001;
    return fmin(fmax((j - begin) / (end - begin), 0), 1);
}

void rope_frequencies(double *freq, const ModelConfig *c) {
    const RopeScaling *r = &c->rope;
    for (int j = 0; j < c->d_head / 2; j++) {
        double f = pow(c->rope_theta, -2.0 * j / c->d_head), share = 0;
        if (r->kind == ROPE_LINEAR) share = 1;
        if (r->kind == ROPE_LLAMA3) share = llama3_share(r, f);
        if (r->kind == ROPE_YARN) share = yarn_share(c, j);
        freq[j] = share == 0 ? f : share == 1 ? f / r->factor : share * f / r->factor + (1 - share) * f;
    }
}

double rope_attention(const ModelConfig *c) {
    if (c->pos != POS_ROPE || c->rope.kind != ROPE_YARN) return 1;
    if (c->rope.attention > 0) return c->rope.attention;
    return c->rope.factor > 1 ? 0.1 * log(c->rope.factor) + 1 : 1;
}
