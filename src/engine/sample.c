/* engine/sample.c — logits to token, by the rules of Hugging Face's logits processors: which tokens survive, how ties
 * fall and in which order the filters run is part of the contract, because published numbers were made with it.
 *
 *   repetition   every distinct id once: z < 0 ? z * penalty : z / penalty
 *   temperature  z / T
 *   top-k        drop z < k-th largest: ties at the border stay
 *   top-p        ascending by (z, index): drop while the running sum of probabilities <= 1 - p; the last one stays
 *   min-p        drop probabilities below min_p times the largest
 *
 * Nothing is sorted. Both orders above need one border only, which a quickselect finds in linear time: top-k by rank,
 * top-p by mass. Keys are unique (value, then index), so ties need no thought: they fall as in a stable ascending sort.
 *
 * The draw inverts the cumulative distribution in index order. Weights are added in blocks and only the block that
 * holds the drawn point is walked, so a vocabulary costs one exp per token and little else. exp is ours (2e-7
 * relative): the C library's would be most of the time. */
#include "engine/sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 64 }; /* weights per partial sum */

void sample_scratch_open(SampleScratch *s, int n_vocab) {
    size_t n = (size_t)(n_vocab + BLOCK - 1) / BLOCK * BLOCK;
    s->n_vocab = n_vocab;
    s->key = mem_alloc(n * sizeof *s->key);
    s->weight = mem_alloc(n * sizeof *s->weight);
    s->mark = mem_alloc(n * sizeof *s->mark);
    s->upto = mem_alloc(n / BLOCK * sizeof *s->upto);
}

void sample_scratch_release(SampleScratch *s) {
    free(s->key);
    free(s->weight);
    free(s->mark);
    free(s->upto);
    memset(s, 0, sizeof *s);
}

void sample_mask(SampleScratch *s, float *logits, const GenRule *rule) {
    if (rule->n_allow > 0) {
        for (int i = 0; i < rule->n_allow; i++) {
            CHECK(rule->allow[i] >= 0 && rule->allow[i] < s->n_vocab, "allowed token %d outside 0..%d", rule->allow[i],
                  s->n_vocab - 1);
            s->mark[rule->allow[i]] = 1;
        }
        for (int i = 0; i < s->n_vocab; i++) {
            if (!s->mark[i]) logits[i] = -INFINITY;
        }
        for (int i = 0; i < rule->n_allow; i++) s->mark[rule->allow[i]] = 0;
    }
    if (rule->ban) {
        for (int i = 0; i < s->n_vocab; i++) {
            if (rule->ban[i]) logits[i] = -INFINITY;
        }
    }
}

static void penalize(SampleScratch *s, float *logits, double penalty, const int32_t *seen, int n_seen) {
    float f = (float)penalty;
    for (int i = 0; i < n_seen; i++) {
        int32_t t = seen[i];
        CHECK(t >= 0 && t < s->n_vocab, "seen token %d outside 0..%d", t, s->n_vocab - 1);
        if (s->mark[t]) continue;
        s->mark[t] = 1;
        logits[t] = logits[t] < 0.0f ? logits[t] * f : logits[t] / f;
    }
    for (int i = 0; i < n_seen; i++) s->mark[seen[i]] = 0;
}

/* Largest logit; NaN when one of them is NaN. Eight running maxima, so that the loop is not one long chain. */
static float max_logit(const float *z, int n) {
    float m[8], top = -INFINITY;
    int nan = 0, i = 0;
    for (int j = 0; j < 8; j++) m[j] = -INFINITY;
    for (; i + 8 <= n; i += 8) {
        for (int j = 0; j < 8; j++) {
            m[j] = z[i + j] > m[j] ? z[i + j] : m[j];
            nan |= z[i + j] != z[i + j];
        }
    }
    for (; i < n; i++) {
        top = z[i] > top ? z[i] : top;
        nan |= z[i] != z[i];
    }
    for (int j = 0; j < 8; j++) top = m[j] > top ? m[j] : top;
    return nan ? NAN : top;
}

/* w[i] = exp(z[i] - m) for one whole block, z - m <= 0: Cody-Waite reduction and a polynomial of degree 6, 0 below
 * 2^-126. Constant counts and no branch: x is clamped at -100 through its bits, since a float comparison would keep
 * compilers from vector code at -O2. */
static void exp_block(float *restrict w, const float *restrict z, float m) {
    typedef union {
        float f[BLOCK];
        int32_t i[BLOCK];
    } Bits;
    const int32_t minus_zero = INT32_MIN,
                  minus_100 = INT32_MIN + 0x42c80000; /* as bits; negative floats fall as these rise */
    Bits x, scale;
    for (int i = 0; i < BLOCK; i++) x.f[i] = z[i] - m;
    for (int i = 0; i < BLOCK; i++) {
        int32_t bits = x.i[i] | minus_zero;
        x.i[i] = bits < minus_100 ? bits : minus_100;
    }
    for (int i = 0; i < BLOCK; i++) {
        float n = (x.f[i] * 1.44269504f + 12582912.0f) - 12582912.0f; /* nearest integer */
        int32_t e = (int32_t)n + 127;
        scale.i[i] = (e > 0 ? e : 0) * (1 << 23);
        x.f[i] = (x.f[i] - n * 0.693145752f) - n * 1.42860682e-6f;
    }
    for (int i = 0; i < BLOCK; i++) {
        float r = x.f[i], p = 1.38888889e-3f;
        p = p * r + 8.33333333e-3f;
        p = p * r + 4.16666667e-2f;
        p = p * r + 1.66666667e-1f;
        p = p * r + 0.5f;
        p = p * r + 1.0f;
        p = p * r + 1.0f;
        w[i] = p * scale.f[i];
    }
}

static void exp_weights(SampleScratch *s, const float *z, float m) {
    int i = 0;
    for (; i + BLOCK <= s->n_vocab; i += BLOCK) exp_block(s->weight + i, z + i, m);
    if (i < s->n_vocab) {
        float tail[BLOCK];
        for (int j = 0; j < BLOCK; j++) tail[j] = i + j < s->n_vocab ? z[i + j] : -INFINITY;
        exp_block(s->weight + i, tail, m);
    }
}

/* -- borders ------------------------------------------------------------------------------------------------------- */

/* Ascending order of (value, index) as one integer; -0 and +0 are the same value. */
static uint64_t key_of(float z, int index) {
    uint32_t bits;
    float v = z + 0.0f;
    memcpy(&bits, &v, sizeof bits);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)bits << 32 | (uint32_t)index;
}

static int key_index(uint64_t key) { return (int)(uint32_t)key; }

static int fill_keys(SampleScratch *s, const float *z) {
    int n = 0;
    for (int i = 0; i < s->n_vocab; i++) {
        s->key[n] = key_of(z[i], i);
        n += z[i] > -INFINITY;
    }
    return n;
}

static void sort_keys(uint64_t *k, int n) {
    for (int i = 1; i < n; i++) {
        uint64_t v = k[i];
        int j = i;
        for (; j > 0 && k[j - 1] > v; j--) k[j] = k[j - 1];
        k[j] = v;
    }
}

/* Parts k[0..n), n >= 3, around the median of three keys: afterwards k[0..mid) < pivot <= k[mid..n), 0 < mid < n. */
static int partition(uint64_t *k, int n) {
    uint64_t a = k[0], b = k[n / 2], c = k[n - 1];
    uint64_t pivot = a < b ? (b < c ? b : (a < c ? c : a)) : (a < c ? a : (b < c ? c : b));
    int i = 0, j = n - 1;
    for (;;) {
        while (k[i] < pivot) i++;
        while (j >= i && k[j] >= pivot) j--;
        if (i >= j) return i;
        uint64_t t = k[i];
        k[i] = k[j];
        k[j] = t;
    }
}

enum { SMALL = 12 }; /* keys from here on are sorted */

/* Key of ascending rank `rank`. */
static uint64_t key_at_rank(uint64_t *k, int n, int rank) {
    while (n > SMALL) {
        int mid = partition(k, n);
        if (rank < mid) {
            n = mid;
        } else {
            k += mid, n -= mid, rank -= mid;
        }
    }
    sort_keys(k, n);
    return k[rank];
}

/* First key in ascending order at which the running sum of weights / total exceeds `limit`; the last key if none does.
 * Probabilities are compared in float, as the filters' reference does. */
static uint64_t key_at_mass(uint64_t *k, int n, const float *weight, double total, float limit) {
    double below = 0.0;
    while (n > SMALL) {
        int mid = partition(k, n);
        double mass = 0.0;
        for (int i = 0; i < mid; i++) mass += (double)weight[key_index(k[i])];
        if ((float)((below + mass) / total) <= limit) {
            below += mass, k += mid, n -= mid;
        } else {
            n = mid;
        }
    }
    sort_keys(k, n);
    for (int i = 0; i < n; i++) {
        below += (double)weight[key_index(k[i])];
        if ((float)(below / total) > limit) return k[i];
    }
    return k[n - 1];
}

static void top_k(SampleScratch *s, float *z, int k) {
    int n = fill_keys(s, z);
    if (k >= n) return;
    float border = z[key_index(key_at_rank(s->key, n, n - k))];
    for (int i = 0; i < s->n_vocab; i++) z[i] = z[i] < border ? -INFINITY : z[i];
}

static void top_p(SampleScratch *s, float *z, double p, float m) {
    int n = fill_keys(s, z);
    if (n < 2) return;
    exp_weights(s, z, m);
    double total = 0.0;
    for (int i = 0; i < s->n_vocab; i++) total += (double)s->weight[i];
    uint64_t border = key_at_mass(s->key, n, s->weight, total, (float)(1.0 - p));
    for (int i = 0; i < s->n_vocab; i++) z[i] = key_of(z[i], i) < border ? -INFINITY : z[i];
}

static void min_p(SampleScratch *s, float *z, double p, float m) {
    exp_weights(s, z, m);
    for (int i = 0; i < s->n_vocab; i++) z[i] = s->weight[i] < (float)p ? -INFINITY : z[i];
}

/* Filters after the penalty; returns the largest logit, which no filter drops. NaN or infinite: nothing was filtered.
 */
static float filter(SampleScratch *s, float *z, const SampleParams *p) {
    if (p->temperature > 0.0 && p->temperature != 1.0) {
        float t = (float)p->temperature;
        for (int i = 0; i < s->n_vocab; i++) z[i] /= t;
    }
    float m = max_logit(z, s->n_vocab);
    if (!isfinite(m)) return m;
    if (p->top_k > 0) top_k(s, z, p->top_k);
    if (p->top_p < 1.0) top_p(s, z, p->top_p, m);
    if (p->min_p > 0.0) min_p(s, z, p->min_p, m);
    return m;
}

/* -- draw ---------------------------------------------------------------------------------------------------------- */

static int32_t draw(SampleScratch *s, const float *z, float m, double u) {
    exp_weights(s, z, m);
    int n_block = (s->n_vocab + BLOCK - 1) / BLOCK;
    double total = 0.0;
    for (int b = 0; b < n_block; b++) {
        const float *w = s->weight + (size_t)b * BLOCK;
        float part[8] = {0};
        for (int i = 0; i < BLOCK; i += 8) {
            for (int j = 0; j < 8; j++) part[j] += w[i + j];
        }
        total += (double)(((part[0] + part[4]) + (part[1] + part[5])) + ((part[2] + part[6]) + (part[3] + part[7])));
        s->upto[b] = total;
    }
    double point = u * total, sum = 0.0;
    int32_t last = -1;
    for (int b = 0; b < n_block; b++) {
        if (s->upto[b] <= point && b + 1 < n_block) {
            sum = s->upto[b];
            continue;
        }
        for (int i = b * BLOCK; i < (b + 1) * BLOCK; i++) {
            sum += (double)s->weight[i];
            if (s->weight[i] > 0.0f) last = i;
            if (sum > point && last == i) return i;
        }
        if (last >= 0) return last; /* the block's sum was rounded up past its parts */
    }
    for (int i = 0; i < s->n_vocab; i++) {
        if (s->weight[i] > 0.0f) last = i;
    }
    return last;
}

int32_t sample_draw(SampleScratch *s, float *logits, const SampleParams *p, const int32_t *seen, int n_seen, double u) {
    if (p->repetition != 1.0) penalize(s, logits, p->repetition, seen, n_seen);
    if (p->temperature > 0.0) {
        float m = filter(s, logits, p);
        return isfinite(m) ? draw(s, logits, m, u) : -1;
    }
    float m = max_logit(logits, s->n_vocab);
    if (!isfinite(m)) return -1;
    int32_t best = 0;
    while (logits[best] != m) best++;
    return best;
}

void sample_filter_with(SampleScratch *s, float *logits, const SampleParams *p, const int32_t *seen, int n_seen) {
    if (p->repetition != 1.0) penalize(s, logits, p->repetition, seen, n_seen);
    filter(s, logits, p);
}

void sample_filter(float *logits, int n_vocab, const SampleParams *p, const int32_t *seen, int n_seen) {
    SampleScratch s;
    sample_scratch_open(&s, n_vocab);
    sample_filter_with(&s, logits, p, seen, n_seen);
    sample_scratch_release(&s);
}

int32_t sample_token(float *logits, int n_vocab, const SampleParams *p, const GenRule *rule, const int32_t *seen,
                     int n_seen, double u) {
    if (rule && rule->force >= 0) return rule->force;
    SampleScratch s;
    sample_scratch_open(&s, n_vocab);
    if (rule) sample_mask(&s, logits, rule);
    int32_t token = sample_draw(&s, logits, p, seen, n_seen, u);
    sample_scratch_release(&s);
    return token;
}
