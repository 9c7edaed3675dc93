/* tensor/cuda/attn_mma_bwd.cu — attention on tensor cores, backward (Dao 2023), without atomics.
 *
 * The two walks of attn_simt_bwd.cu: tiles of keys over their queries give dk and dv, tiles of queries over their keys
 * give dq; the scores are computed in both, seven products in all instead of five, and in return every sum has one
 * owner and one order.
 *
 *      keys:     x = k, y = v;  u = q, w = do;    dv += p^T do,  dk += ds^T q
 *      queries:  x = q, y = do; u = k, w = v;     dq += ds k
 *      s = x u^T,  dp = y w^T,  ds = p (dp - delta)
 *
 * The own rows are the rows of the accumulators in both, so p and ds go from one product to the next in registers. Sums
 * are F32; p and ds are rounded to BF16 where they are multiplied. A warp holds 16 MT own rows; the others come in
 * tiles of NB rows, two in flight, and are taken STEP at a time, which bounds the registers that scores need. */
#include "tensor/cuda/attn_mma.h"

namespace {

template <int D_, int MT_, int WARPS_, int NB_, int STEP_, bool KEYS_, bool HELD_, int BLOCKS_> struct Shape {
    enum { D = D_, MT = MT_, WARPS = WARPS_, NB = NB_, STEP = STEP_, BLOCKS = BLOCKS_ };
    enum { KEYS = KEYS_, HELD = HELD_ }; /* HELD: own rows stay in registers, not in shared memory */
    enum { THREADS = WARPS * 32, ROWS = WARPS * 16 * MT, PITCH = MmaTile<D>::PITCH };
    enum {
        OWN = 2 * ROWS * PITCH,
        STAGES = 4 * NB * PITCH
    }; /* elements; when held, the stages lie where own rows were */
    enum { TILES = HELD_ ? ((int)OWN > (int)STAGES ? (int)OWN : (int)STAGES) : (int)OWN + (int)STAGES };
    enum { BYTES = TILES * 2 + (KEYS_ ? 4 * NB * 4 : 0) };
};

/* Own rows of a warp, positions [own, ...), against columns [other, other + STEP): s and dp to p and ds. lse, delta: of
 * the thread's queries, rows or columns. */
template <typename S, bool MASK>
__device__ __forceinline__ void gradients(const AttnBwd &a, float s[S::MT][S::STEP / 8][4],
                                          float dp[S::MT][S::STEP / 8][4], int own, int other, int len,
                                          const float *col_stat, const float row_stat[S::MT][2][2]) {
    const int lane = (int)threadIdx.x % 32;
    const float scale = a.scale * ATTN_LOG2E;
    UNROLL for (int n = 0; n < S::STEP / 8; n++) {
        float2 lse, delta;
        if (S::KEYS) {
            lse = *(const float2 *)(col_stat + n * 8 + lane % 4 * 2);
            delta = *(const float2 *)(col_stat + S::NB + n * 8 + lane % 4 * 2);
        }
        UNROLL for (int m = 0; m < S::MT; m++) UNROLL for (int e = 0; e < 4; e++) {
            float l = S::KEYS ? e % 2 ? lse.y : lse.x : row_stat[m][e / 2][0];
            float d = S::KEYS ? e % 2 ? delta.y : delta.x : row_stat[m][e / 2][1];
            float p = exp2_approx(fmaf(s[m][n][e], scale, -l));
            if (MASK) {
                int mine = own + m * 16 + e / 2 * 8 + lane / 4, theirs = other + n * 8 + lane % 4 * 2 + e % 2;
                int key = S::KEYS ? mine : theirs, query = S::KEYS ? theirs : mine;
                if (key >= len || query >= len || (a.causal && (key > query || key <= query - a.window))) p = 0;
            }
            s[m][n][e] = p;
            dp[m][n][e] = p * (dp[m][n][e] - d);
        }
    }
}

template <typename S>
__device__ __forceinline__ void store_rows(const AttnMat &to, const float o[S::MT][S::D / 8][4], float scale,
                                           int64_t row, int n, int head, int d_head) {
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    UNROLL for (int m = 0; m < S::MT; m++) UNROLL for (int h = 0; h < 2; h++) {
        int r = (warp * S::MT + m) * 16 + h * 8 + lane / 4;
        if (r >= n) continue;
        mma_store<S::D>(to, (row + r) * to.ld + (int64_t)head * d_head, o[m], h, scale, d_head);
    }
}

template <typename S> __global__ void __launch_bounds__(S::THREADS, S::BLOCKS) attn_mma_grad(AttnBwd a) {
    enum { D = S::D, MT = S::MT, NB = S::NB, STEP = S::STEP, PITCH = S::PITCH };
    const bool KEYS = S::KEYS, HELD = S::HELD;
    SHARED_DYNAMIC(raw);
    bf16_t *own = (bf16_t *)raw, *stage = HELD ? own : own + S::OWN;
    float *stat = (float *)(own + S::TILES);
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, chunks = (a.d_head + 7) / 8;
    const int n_own = KEYS ? a.n_kv : a.n_head, group = a.n_head / a.n_kv;
    const AttnSpan t = a.span[blockIdx.x / (unsigned)n_own];
    const int own_head = (int)(blockIdx.x % (unsigned)n_own), n = min(t.len - t.first, (int)S::ROWS),
              last = t.first + n;
    const AttnMat &mx = KEYS ? a.k : a.q, &my = KEYS ? a.v : a.d_o, &mu = KEYS ? a.q : a.k, &mw = KEYS ? a.d_o : a.v;
    int from = 0, end = t.len;
    if (a.causal && KEYS) from = t.first, end = min(end - last + 1, a.window) + last - 1;
    if (a.causal && !KEYS) from = max(t.first - a.window + 1, 0), end = last;
    const int first_tile = from / NB, tiles = (end + NB - 1) / NB - first_tile, all = (KEYS ? group : 1) * tiles;

    {
        const int64_t row = t.begin + t.first, col = (int64_t)own_head * chunks * 8;
        mma_fetch<D, S::ROWS, S::THREADS>(own, (const bf16_t *)mx.p + row * mx.ld + col, mx.ld, 0, n, chunks);
        mma_fetch<D, S::ROWS, S::THREADS>(own + S::ROWS * PITCH, (const bf16_t *)my.p + row * my.ld + col, my.ld, 0, n,
                                          chunks);
        cp_async_commit();
    }
    const bf16_t *at_x = own + warp * 16 * MT * PITCH + mma_rows_lane<D>(), *at_y = at_x + S::ROWS * PITCH;
    uint32_t x[HELD ? MT : 1][HELD ? D / 16 : 1][4], y[HELD ? MT : 1][HELD ? D / 16 : 1][4];
    if (HELD) {
        cp_async_wait<0>();
        sync_block();
        UNROLL for (int m = 0; m < (HELD ? MT : 0); m++) UNROLL for (int k = 0; k < D / 16; k++) {
            ldmatrix_x4(x[m][k], at_x + m * 16 * PITCH + k * 16);
            ldmatrix_x4(y[m][k], at_y + m * 16 * PITCH + k * 16);
        }
        sync_block();
    }
    float row_stat[MT][2][2];
    if (!KEYS) {
        UNROLL for (int m = 0; m < MT; m++) UNROLL for (int h = 0; h < 2; h++) {
            int r = (warp * MT + m) * 16 + h * 8 + lane / 4;
            int64_t at = (int64_t)own_head * a.n + t.begin + t.first + r;
            row_stat[m][h][0] = r < n ? a.lse[at] : INFINITY, row_stat[m][h][1] = r < n ? a.delta[at] : 0;
        }
    }

    /* Where the walk stands: rows [other, other + NB) of a head, in one half of the stages. */
    int other = first_tile * NB, head = KEYS ? own_head * group : own_head / group, half = 0;
    /* Rows of u and w at once; for queries what goes with them, which the thread keeps until later. */
    auto fetch = [&]() {
        const int64_t row = t.begin + other, col = (int64_t)head * chunks * 8;
        bf16_t *to = stage + half * 2 * NB * PITCH;
        mma_fetch<D, NB, S::THREADS>(to, (const bf16_t *)mu.p + row * mu.ld + col, mu.ld, 0, t.len - other, chunks);
        mma_fetch<D, NB, S::THREADS>(to + NB * PITCH, (const bf16_t *)mw.p + row * mw.ld + col, mw.ld, 0, t.len - other,
                                     chunks);
        cp_async_commit();
        int i = (int)threadIdx.x % NB;
        if (!KEYS || threadIdx.x >= 2 * NB) return 0.0f;
        if (other + i >= t.len) return threadIdx.x < NB ? INFINITY : 0.0f;
        return (threadIdx.x < NB ? a.lse : a.delta)[(int64_t)head * a.n + row + i];
    };
    auto keep = [&](float x_) {
        if (KEYS && threadIdx.x < 2 * NB) stat[half * 2 * NB + threadIdx.x] = x_;
    };
    keep(fetch());

    float of_x[MT][D / 8][4] = {}, of_y[KEYS ? MT : 1][KEYS ? D / 8 : 1][4] = {};
    const int mine = t.first + warp * 16 * MT;
    for (int left = all; left > 0; left--) {
        cp_async_wait<0>();
        sync_block();
        const int now = other;
        const bf16_t *u = stage + half * 2 * NB * PITCH, *w = u + NB * PITCH;
        const float *stat_now = stat + half * 2 * NB;
        float later = 0;
        other += NB, half ^= 1;
        if (other >= end) other = first_tile * NB, head++;
        if (left > 1) later = fetch();
        /* Which (key, query) pairs of the warp and this tile are seen: all, some, none. */
        const int key = KEYS ? mine : now, keys = KEYS ? 16 * MT : NB, query = KEYS ? now : mine,
                  queries = KEYS ? NB : 16 * MT;
        bool none = mine >= last || (a.causal && (key > query + queries - 1 || key + keys - 1 <= query - a.window));
        bool some = key + keys > t.len || query + queries > t.len ||
                    (a.causal && (key + keys - 1 > query || key <= query + queries - 1 - a.window));
        if (!none) {
            UNROLL for (int c = 0; c < NB; c += STEP) {
                float s[MT][STEP / 8][4] = {}, dp[MT][STEP / 8][4] = {};
                if constexpr (HELD) {
                    mma_scores_held<D, MT, STEP>(s, x, u + c * PITCH + mma_cols_lane<D>());
                    mma_scores_held<D, MT, STEP>(dp, y, w + c * PITCH + mma_cols_lane<D>());
                } else {
                    mma_scores<D, MT, STEP>(s, at_x, u + c * PITCH + mma_cols_lane<D>());
                    mma_scores<D, MT, STEP>(dp, at_y, w + c * PITCH + mma_cols_lane<D>());
                }
                if (some)
                    gradients<S, true>(a, s, dp, mine, now + c, t.len, stat_now + c, row_stat);
                else
                    gradients<S, false>(a, s, dp, mine, now + c, t.len, stat_now + c, row_stat);
                UNROLL for (int i = 0; i < STEP / 16; i++) {
                    uint32_t p[MT][4];
                    if constexpr (KEYS) {
                        UNROLL for (int m = 0; m < MT; m++) mma_pack(p[m], s[m][2 * i], s[m][2 * i + 1]);
                        mma_sum<D, MT>(of_y, p, w + (c + i * 16) * PITCH + mma_sums_lane<D>());
                    }
                    UNROLL for (int m = 0; m < MT; m++) mma_pack(p[m], dp[m][2 * i], dp[m][2 * i + 1]);
                    mma_sum<D, MT>(of_x, p, u + (c + i * 16) * PITCH + mma_sums_lane<D>());
                }
            }
        }
        if (left > 1) keep(later);
    }
    const AttnMat &dx = KEYS ? a.dk : a.dq;
    store_rows<S>(dx, of_x, a.scale, t.begin + t.first, n, own_head, a.d_head);
    if constexpr (KEYS) store_rows<S>(a.dv, of_y, 1, t.begin + t.first, n, own_head, a.d_head);
}

template <typename S> void launch(Backend *be, const AttnBwd &a, int n_span) {
    LAUNCH(be, attn_mma_grad<S>, (unsigned)(n_span * (S::KEYS ? a.n_kv : a.n_head)), S::THREADS, (size_t)S::BYTES, a);
}

/* What fits into registers:     D  MT WARPS NB STEP KEYS   HELD BLOCKS */
// clang-format off
typedef Shape< 32, 2, 4, 64, 32, true,  true,  2> Keys32;
typedef Shape< 64, 2, 4, 64, 16, true,  true,  2> Keys64;
typedef Shape< 80, 1, 8, 64, 32, true,  true,  1> Keys80;
typedef Shape< 96, 1, 8, 64, 32, true,  true,  1> Keys96;
typedef Shape<128, 1, 8, 64, 16, true,  true,  1> Keys128;
typedef Shape< 32, 2, 4, 64, 32, false, true,  2> Queries32;
typedef Shape< 64, 2, 4, 64, 32, false, true,  2> Queries64;
typedef Shape< 80, 2, 4, 32, 32, false, false, 2> Queries80;
typedef Shape< 96, 2, 4, 32, 32, false, false, 2> Queries96;
typedef Shape<128, 2, 4, 32, 32, false, false, 2> Queries128;
// clang-format on

} // namespace

int attn_mma_bwd_rows(int d_head) {
    if (d_head <= 32) return Keys32::ROWS;
    if (d_head <= 64) return Keys64::ROWS;
    if (d_head <= 80) return Keys80::ROWS;
    return d_head <= 96 ? (int)Keys96::ROWS : (int)Keys128::ROWS;
}

void attn_mma_bwd_keys(Backend *be, AttnBwd a, int n_span) {
    if (a.d_head <= 32)
        launch<Keys32>(be, a, n_span);
    else if (a.d_head <= 64)
        launch<Keys64>(be, a, n_span);
    else if (a.d_head <= 80)
        launch<Keys80>(be, a, n_span);
    else if (a.d_head <= 96)
        launch<Keys96>(be, a, n_span);
    else
        launch<Keys128>(be, a, n_span);
}

void attn_mma_bwd_queries(Backend *be, AttnBwd a, int n_span) {
    if (a.d_head <= 32)
        launch<Queries32>(be, a, n_span);
    else if (a.d_head <= 64)
        launch<Queries64>(be, a, n_span);
    else if (a.d_head <= 80)
        launch<Queries80>(be, a, n_span);
    else if (a.d_head <= 96)
        launch<Queries96>(be, a, n_span);
    else
        launch<Queries128>(be, a, n_span);
}
