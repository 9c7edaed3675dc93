/* tensor/cuda/attn_check.c — are the attention kernels for compute capability 9.0 right on this very device?
 *
 * Where their operands lie in shared memory, and when, is told to the hardware in descriptors and barriers that no
 * compiler checks. So the first time a backend is to compute in BF16, a small forward and backward (packed sequences of
 * several tiles, grouped heads, causal) is done by them and by the older kernels. If the two differ by more than
 * rounding allows, the older ones stay, and be->note says so. */
#include "tensor/cuda/attn_int.h"

#include "base/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEQS = 2, PAGES = 3, HEADS = 2, KV_HEADS = 1, IN = 4, OUT = 5 };

static const int32_t q_off[SEQS + 1] = {0, 140, 210}, kv_len[SEQS] = {140, 70};
static const int32_t kv_page[SEQS * PAGES] = {0, 64, 128, 140, 204, 0};
static const AttnSeqs seqs = {SEQS, PAGES, q_off, kv_len, kv_page, true, 0};

/* Of the sum of squares: BF16 has 8 bits, so two ways to round p and ds differ by some 2e-3. */
static const double bound = 1e-2;

typedef struct {
    Tensor in[IN];       /* q, k, v, d_o */
    Tensor out[2][OUT];  /* o, dq, dk, dv, lse; of the older kernels and the newer ones */
    unsigned char *base; /* NULL: only measures */
    size_t used;
} Place;

static Tensor place(Place *p, DType dtype, int64_t cols) {
    Tensor t = {
        .data = p->base ? p->base + p->used : NULL, .rows = q_off[SEQS], .cols = cols, .ld = cols, .dtype = dtype};
    p->used += ((size_t)(t.rows * cols) * dtype_bytes(dtype) + 255) / 256 * 256;
    return t;
}

static void place_all(Place *p, int d_head) {
    const int64_t in[IN] = {HEADS, KV_HEADS, KV_HEADS, HEADS}, out[OUT] = {HEADS, HEADS, KV_HEADS, KV_HEADS};
    for (int i = 0; i < IN; i++) p->in[i] = place(p, DTYPE_BF16, in[i] * d_head);
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < OUT; i++) p->out[k][i] = place(p, DTYPE_F32, i < OUT - 1 ? out[i] * d_head : HEADS);
}

/* Numbers in [-2, 2), whose BF16 is their upper half. */
static void fill(CudaImpl *c, Tensor t, uint64_t item) {
    const int64_t n = t.rows * t.cols;
    uint16_t *host = mem_alloc((size_t)n * sizeof *host);
    for (int64_t i = 0; i < n; i++) {
        float x = (float)(4 * rng_uniform((Rng){1, RNG_TEST}, item, (uint32_t)i) - 2);
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        host[i] = (uint16_t)(bits >> 16);
    }
    CUDA_OK(c->drv, c->drv->copy(t.data, host, (size_t)n * sizeof *host, CUDA_TO_DEVICE, c->stream));
    CUDA_OK(c->drv, c->drv->sync(c->stream));
    free(host);
}

/* |b - a| / |a|; infinity when a number is not finite. */
static double distance(Backend *be, Tensor a, Tensor b) {
    const int64_t n = a.rows * a.cols;
    float *x = mem_alloc(2 * (size_t)n * sizeof *x), *y = x + n;
    double off = 0, all = 0;
    cuda_fetch(be, x, a.data, (size_t)n * sizeof *x);
    cuda_fetch(be, y, b.data, (size_t)n * sizeof *y);
    for (int64_t i = 0; i < n; i++) {
        off += ((double)y[i] - x[i]) * ((double)y[i] - x[i]);
        all += (double)x[i] * x[i];
    }
    free(x);
    return isfinite(off) && all > 0 ? sqrt(off / all) : INFINITY;
}

static void run(Backend *be, const Place *p, int d_head, bool newer) {
    const Tensor *in = p->in, *out = p->out[newer];
    cuda_impl(be)->hopper = newer;
    cuda_attn_fwd(be, out[0], out[4], in[0], in[1], in[2], seqs, d_head);
    /* of one forward, so that what differs is the backward's */
    cuda_attn_bwd(be, out[1], out[2], out[3], in[3], p->out[0][0], p->out[0][4], in[0], in[1], in[2], seqs, d_head);
}

static double difference(Backend *be, Place *p, int d_head) {
    double worst = 0;
    place_all(p, d_head);
    for (int i = 0; i < IN; i++) fill(cuda_impl(be), p->in[i], (uint64_t)i);
    run(be, p, d_head, false);
    run(be, p, d_head, true);
    for (int i = 0; i < OUT; i++) worst = fmax(worst, distance(be, p->out[0][i], p->out[1][i]));
    return worst;
}

void cuda_attn_check(Backend *be) {
    CudaImpl *c = cuda_impl(be);
    if (!c->hopper || c->checked) return;
    Place measure = {0};
    place_all(&measure, 128);
    const bool exact = c->exact;
    void *memory = NULL;
    c->checked = true;
    c->difference = INFINITY;
    if (c->drv->get(&memory, measure.used) == 0) {
        c->exact = false; /* whose forward is the older kernels' */
        c->difference = 0;
        for (int d_head = 64; d_head <= 128; d_head *= 2)
            c->difference = fmax(c->difference, difference(be, &(Place){.base = memory}, d_head));
        c->exact = exact;
        CUDA_OK(c->drv, c->drv->put(memory));
    } else {
        c->drv->last_error();
    }
    c->hopper = c->difference < bound;
    if (c->hopper) return;
    snprintf(
        c->note, sizeof c->note,
        "GPU %d: attention's kernels for compute capability 9.0 differ from the older ones by %.1e (expected below "
        "%.0e) in a small case; the older ones are used. Please report this; --isa sm_80 asks for them",
        c->device, c->difference, bound);
    be->note = c->note;
}
