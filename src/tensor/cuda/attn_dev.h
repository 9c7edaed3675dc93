/* tensor/cuda/attn_dev.h — device code that the attention files share: rows of F32 or BF16 in any alignment, and which keys a
 * row sees. For .cu files. */
#ifndef DIKAST_TENSOR_CUDA_ATTN_DEV_H
#define DIKAST_TENSOR_CUDA_ATTN_DEV_H

#include "tensor/cuda/launch.h"

#include "tensor/cuda/attn_int.h"

#define ATTN_LOG2E 1.44269504088896340736f

/* Four elements from element `at` on, the first n of them, then zeros. With m.vec at is a multiple of 4. */
static __device__ __forceinline__ float4 attn_load4(const AttnMat &m, int64_t at, int n) {
    float4 x = make_float4(0, 0, 0, 0);
    if (m.half) {
        const bf16_t *p = (const bf16_t *)m.p + at;
        if (m.vec && n >= 4) {
            uint2 u = *(const uint2 *)p;
            return make_float4(__uint_as_float(u.x << 16), __uint_as_float(u.x & 0xffff0000u),
                               __uint_as_float(u.y << 16), __uint_as_float(u.y & 0xffff0000u));
        }
        if (n > 0) x.x = to_f32(p[0]);
        if (n > 1) x.y = to_f32(p[1]);
        if (n > 2) x.z = to_f32(p[2]);
        if (n > 3) x.w = to_f32(p[3]);
        return x;
    }
    const float *p = (const float *)m.p + at;
    if (m.vec && n >= 4) return *(const float4 *)p;
    if (n > 0) x.x = p[0];
    if (n > 1) x.y = p[1];
    if (n > 2) x.z = p[2];
    if (n > 3) x.w = p[3];
    return x;
}

/* Eight elements as BF16. With m.vec at is a multiple of 8. */
static __device__ __forceinline__ uint4 attn_load8(const AttnMat &m, int64_t at, int n) {
    if (m.half && m.vec && n >= 8) return *(const uint4 *)((const bf16_t *)m.p + at);
    float4 a = attn_load4(m, at, n), b = attn_load4(m, at + 4, n - 4);
    uint4 u;
    u.x = pack_bf16(a.x, a.y), u.y = pack_bf16(a.z, a.w);
    u.z = pack_bf16(b.x, b.y), u.w = pack_bf16(b.z, b.w);
    return u;
}

static __device__ __forceinline__ void attn_store1(const AttnMat &m, int64_t at, float x) {
    if (m.half)
        store((bf16_t *)m.p + at, x);
    else
        store((float *)m.p + at, x);
}

/* Two elements, the first n of them. With m.vec at is even. */
static __device__ __forceinline__ void attn_store2(const AttnMat &m, int64_t at, float x, float y, int n) {
    if (m.vec && n >= 2 && m.half) {
        *(uint32_t *)((bf16_t *)m.p + at) = pack_bf16(x, y);
    } else if (m.vec && n >= 2) {
        *(float2 *)((float *)m.p + at) = make_float2(x, y);
    } else {
        if (n > 0) attn_store1(m, at, x);
        if (n > 1) attn_store1(m, at + 1, y);
    }
}

/* Positions that a block's rows see between them: of rows [0, n) whose first sees keys < end. */
static __device__ __forceinline__ int attn_low(const AttnFwd &a, int end) { return max(end - a.window, 0); }
static __device__ __forceinline__ int attn_high(const AttnFwd &a, int end, int n) { return end + (a.causal ? n - 1 : 0); }

/* A decoding block: split number `split` of sequence seq, counted from the first that any of its rows sees. */
typedef struct {
    int row, n, end, page;  /* as AttnTile */
    int first;              /* split that number 0 is */
    int n_split;
} AttnDecode;

static __device__ __forceinline__ AttnDecode attn_sequence(const AttnFwd &a, int seq, int split_keys) {
    AttnDecode d;
    d.row = a.q_off[seq];
    d.n = a.q_off[seq + 1] - d.row;
    d.end = a.causal ? a.kv_len[seq] - d.n + 1 : a.kv_len[seq];
    d.page = seq * a.max_page;
    d.first = attn_low(a, d.end) / split_keys;
    d.n_split = (a.kv_len[seq] + split_keys - 1) / split_keys - d.first;
    return d;
}

/* Weights of two partial sums whose largest scores are x and y; returns the larger one. scale: of the scores, in units of the
 * exponential: powers of 2 if TWO, else of e. */
template <bool TWO>
static __device__ __forceinline__ float attn_weigh(float x, float y, float scale, float *of_x, float *of_y) {
    float top = fmaxf(x, y), base = top == -INFINITY ? 0 : top;
    *of_x = TWO ? exp2_approx((x - base) * scale) : expf((x - base) * scale);
    *of_y = TWO ? exp2_approx((y - base) * scale) : expf((y - base) * scale);
    return top;
}

/* Where the partial sums of a (query, head) pair of a decoded sequence lie. */
static __device__ __forceinline__ int64_t attn_part(const AttnFwd &a, int seq, int split, int kv_head, int pair) {
    return (((int64_t)seq * a.n_split + split) * a.n_kv + kv_head) * a.n_row + pair;
}

/* Adds up the splits in order. Block x: sequence and (query, head) pair; y: KV head. Threads: columns. */
template <int SPLIT, bool TWO> static __global__ void __launch_bounds__(128) attn_combine(AttnFwd a) {
    release_next();
    await_inputs();
    const int seq = (int)blockIdx.x / a.n_row, pair = (int)blockIdx.x % a.n_row, group = a.n_head / a.n_kv;
    const AttnDecode t = attn_sequence(a, seq, SPLIT);
    if (t.n > ATTN_FEW || pair >= t.n * group) return;
    const int query = pair / group, head = (int)blockIdx.y * group + pair % group, end = attn_high(a, t.end, query + 1);
    const int from = attn_low(a, end) / SPLIT - t.first, last = (end - 1) / SPLIT - t.first;
    const float scale = TWO ? a.scale * ATTN_LOG2E : a.scale;
    for (int col = (int)threadIdx.x; col < a.d_head; col += 128) {
        float top = -INFINITY, sum = 0, acc = 0;
        for (int split = from; split <= last; split++) {
            int64_t at = attn_part(a, seq, split, (int)blockIdx.y, pair);
            float x, y;
            top = attn_weigh<TWO>(top, a.stat[2 * at], scale, &x, &y);
            sum = fmaf(a.stat[2 * at + 1], y, sum * x);
            acc = fmaf(a.part[at * a.d_head + col], y, acc * x);
        }
        attn_store1(a.o, (int64_t)(t.row + query) * a.o.ld + (int64_t)head * a.d_head + col, acc / sum);
        if (a.lse && col == 0) a.lse[(t.row + query) * a.lse_ld + head] = fmaf(top, a.scale, logf(sum));
    }
}

#endif
