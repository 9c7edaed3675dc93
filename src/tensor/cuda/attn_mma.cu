/* tensor/cuda/attn_mma.cu — attention on tensor cores, forward (Dao 2023).
 *
 * A block has 128 query rows of one head, a warp 32 of them: with two row tiles per fragment of K and V, shared memory
 * keeps up with the tensor cores. Keys come in tiles of one page, two in flight. Products take BF16 and add in F32;
 * probabilities are rounded to BF16 before they meet V, and are summed before that. exp(x) is 2^(x log2 e), the factor
 * folded into the scale.
 *
 * Every row's tiles begin at position 0 (or, under a window, at a page), and a tile or a key that a row does not see
 * changes none of its bits, so they do not depend on the other rows; decoding (attn_decode.cu) adds in another order.
 */
#include "tensor/cuda/attn_mma.h"

namespace {

enum { WARPS = 4, MT = 2, ROWS = ATTN_MMA_ROWS, THREADS = WARPS * 32 };

template <int D> size_t shared_bytes(void) { return (size_t)(ROWS + 4 * KV_PAGE) * MmaTile<D>::PITCH * sizeof(bf16_t); }

/* Query rows as BF16, whatever they were. */
template <int D>
__device__ __forceinline__ void load_queries(bf16_t *to, const AttnFwd &a, const AttnTile &t, int head) {
    typedef MmaTile<D> T;
    for (int i = (int)threadIdx.x; i < ROWS * T::CHUNKS; i += THREADS) {
        int r = i / T::CHUNKS, c = i % T::CHUNKS * 8;
        uint4 x = {0, 0, 0, 0};
        if (r < t.n) x = attn_load8(a.q, (int64_t)(t.row + r) * a.q.ld + (int64_t)head * a.d_head + c, a.d_head - c);
        *(uint4 *)(to + r * T::PITCH + c) = x;
    }
}

/* One tile's scores to probabilities, and what was summed so far to the new maximum. limit: the keys of the tile that
 * the thread's first row sees end here; further rows: step behind. */
template <int D>
__device__ __forceinline__ void soften(float s[MT][KV_PAGE / 8][4], float o[MT][D / 8][4], float top[MT][2],
                                       float sum[MT][2], float scale) {
    UNROLL for (int m = 0; m < MT; m++) UNROLL for (int h = 0; h < 2; h++) {
        float next = top[m][h];
        UNROLL for (int n = 0; n < KV_PAGE / 8; n++) next = fmaxf(next, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
        next = fmaxf(next, shfl_xor(next, 1));
        next = fmaxf(next, shfl_xor(next, 2));
        float base = next == -INFINITY ? 0 : next, carry = exp2_approx((top[m][h] - base) * scale);
        float shift = base * scale, part[2] = {};
        top[m][h] = next;
        UNROLL for (int n = 0; n < KV_PAGE / 8; n++) {
            float x = exp2_approx(fmaf(s[m][n][2 * h], scale, -shift));
            float y = exp2_approx(fmaf(s[m][n][2 * h + 1], scale, -shift));
            s[m][n][2 * h] = x, s[m][n][2 * h + 1] = y;
            part[n % 2] += x + y;
        }
        sum[m][h] = fmaf(sum[m][h], carry, part[0] + part[1]);
        UNROLL for (int n = 0; n < D / 8; n++) o[m][n][2 * h] *= carry, o[m][n][2 * h + 1] *= carry;
    }
}

/* limit: keys of the tile that the warp's row 0 sees end here; step: 1 when each further row sees one more. */
__device__ __forceinline__ void mask(float s[MT][KV_PAGE / 8][4], int limit, int step, int window) {
    const int lane = (int)threadIdx.x % 32;
    UNROLL for (int m = 0; m < MT; m++) UNROLL for (int h = 0; h < 2; h++) {
        int end = limit + step * (m * 16 + h * 8 + lane / 4);
        UNROLL for (int n = 0; n < KV_PAGE / 8; n++) UNROLL for (int e = 0; e < 2; e++) {
            int j = n * 8 + lane % 4 * 2 + e;
            if (j >= end || j < end - window) s[m][n][2 * h + e] = -INFINITY;
        }
    }
}

template <int D>
__device__ __forceinline__ void finish(const AttnFwd &a, const AttnTile &t, int head, float o[MT][D / 8][4],
                                       const float top[MT][2], const float sum[MT][2]) {
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    UNROLL for (int m = 0; m < MT; m++) UNROLL for (int h = 0; h < 2; h++) {
        int r = warp * 16 * MT + m * 16 + h * 8 + lane / 4;
        float all = sum[m][h];
        all += shfl_xor(all, 1);
        all += shfl_xor(all, 2);
        if (r >= t.n) continue;
        float share = 1 / all;
        int64_t at = (int64_t)(t.row + r) * a.o.ld + (int64_t)head * a.d_head;
        UNROLL for (int n = 0; n < D / 8; n++) {
            int c = n * 8 + lane % 4 * 2;
            attn_store2(a.o, at + c, o[m][n][2 * h] * share, o[m][n][2 * h + 1] * share, a.d_head - c);
        }
        if (a.lse && lane % 4 == 0) a.lse[(t.row + r) * a.lse_ld + head] = fmaf(top[m][h], a.scale, logf(all));
    }
}

template <int D, int BLOCKS> __global__ void __launch_bounds__(THREADS, BLOCKS) attn_mma_prompt(AttnFwd a) {
    typedef MmaTile<D> T;
    SHARED_DYNAMIC(raw);
    bf16_t *sq = (bf16_t *)raw, *stage = sq + ROWS * T::PITCH;
    const AttnTile t = a.tile[blockIdx.x / (unsigned)a.n_head];
    const int head = (int)(blockIdx.x % (unsigned)a.n_head), chunks = (a.d_head + 7) / 8, warp = (int)threadIdx.x / 32;
    const int64_t kv_col = (int64_t)(head / (a.n_head / a.n_kv)) * chunks * 8;
    const bf16_t *k = (const bf16_t *)a.k.p + kv_col, *v = (const bf16_t *)a.v.p + kv_col;
    const int low = attn_low(a, t.end), high = attn_high(a, t.end, t.n), step = a.causal ? 1 : 0;
    const int from = low / KV_PAGE, last = (high + KV_PAGE - 1) / KV_PAGE;
    const int32_t *page = a.page + t.page;

    auto fetch = [&](int tile, int64_t row) {
        bf16_t *to = stage + tile % 2 * 2 * KV_PAGE * T::PITCH;
        int l = low - tile * KV_PAGE, h = high - tile * KV_PAGE;
        mma_fetch<D, KV_PAGE, THREADS>(to, k + row * a.k.ld, a.k.ld, l, h, chunks);
        mma_fetch<D, KV_PAGE, THREADS>(to + KV_PAGE * T::PITCH, v + row * a.v.ld, a.v.ld, l, h, chunks);
        cp_async_commit();
    };
    fetch(from, page[from]);
    int next_row = from + 1 < last ? page[from + 1] : 0;
    load_queries<D>(sq, a, t, head);

    float o[MT][D / 8][4] = {}, top[MT][2], sum[MT][2] = {};
    UNROLL for (int m = 0; m < MT; m++) top[m][0] = top[m][1] = -INFINITY;
    const bf16_t *at_q = sq + warp * 16 * MT * T::PITCH + mma_rows_lane<D>();
    const float scale = a.scale * ATTN_LOG2E;
    const int first = t.end + step * warp * 16 * MT,
              final = first + step * (16 * MT - 1); /* ends of the warp's outer rows */
    const bool idle = warp * 16 * MT >= t.n;
    for (int tile = from; tile < last; tile++) {
        cp_async_wait<0>();
        sync_block();
        if (tile + 1 < last) {
            fetch(tile + 1, next_row);
            if (tile + 2 < last) next_row = page[tile + 2];
        }
        const int begin = tile * KV_PAGE;
        if (idle || begin >= final || begin + KV_PAGE <= first - a.window) continue;
        const bf16_t *at = stage + tile % 2 * 2 * KV_PAGE * T::PITCH;
        float s[MT][KV_PAGE / 8][4] = {};
        mma_scores<D, MT, KV_PAGE>(s, at_q, at + mma_cols_lane<D>());
        if (begin + KV_PAGE > first || begin < final - a.window) mask(s, first - begin, step, a.window);
        soften<D>(s, o, top, sum, scale);
        UNROLL for (int i = 0; i < KV_PAGE / 16; i++) {
            uint32_t p[MT][4];
            UNROLL for (int m = 0; m < MT; m++) mma_pack(p[m], s[m][2 * i], s[m][2 * i + 1]);
            mma_sum<D, MT>(o, p, at + (KV_PAGE + i * 16) * T::PITCH + mma_sums_lane<D>());
        }
    }
    finish<D>(a, t, head, o, top, sum);
}

template <int D, int BLOCKS> void launch(Backend *be, const AttnFwd &a, int n_tile) {
    LAUNCH(be, (attn_mma_prompt<D, BLOCKS>), (unsigned)(n_tile * a.n_head), THREADS, shared_bytes<D>(), a);
}

} // namespace

void attn_mma_fwd(Backend *be, AttnFwd a, int n_tile) {
    if (a.d_head <= 32)
        launch<32, 3>(be, a, n_tile);
    else if (a.d_head <= 64)
        launch<64, 3>(be, a, n_tile);
    else if (a.d_head <= 80)
        launch<80, 2>(be, a, n_tile);
    else if (a.d_head <= 96)
        launch<96, 2>(be, a, n_tile);
    else
        launch<128, 2>(be, a, n_tile);
}
