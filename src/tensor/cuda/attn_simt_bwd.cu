/* tensor/cuda/attn_simt_bwd.cu — attention in F32, backward.
 *
 * The scores are computed again, p = exp(s - lse), and nothing is added by atomics: one kernel has tiles of keys and
 * walks over the queries that see them (of all heads that share the keys, one after another), giving dk and dv; the
 * other has tiles of queries and walks over their keys, giving dq. Both are the same walk: a block's own rows x, y
 * against others u, w,
 *
 *      keys:     x = k, y = v;  u = q, w = do;    dv += p^T do,  dk += ds^T q
 *      queries:  x = q, y = do; u = k, w = v;     dq += ds k
 *      s = x u^T,  dp = y w^T,  ds = p (dp - delta) */
#include "tensor/cuda/attn_simt.h"

namespace {

enum { RM = ATTN_SIMT_ROWS / 16, TILE = 64 };

template <int DP> size_t shared_bytes(void) {
    return (size_t)(4 * TILE * (DP + 4) + TILE * SIMT_P_PITCH) * sizeof(float);
}

/* Own tile's rows [own, own + TILE) against [other, other + TILE), positions in the sequence; lse, delta: of its first
 * row. s, dp to p, ds; what is masked becomes 0. */
template <bool KEYS>
__device__ __forceinline__ void gradients(const AttnBwd &a, float s[RM][4], float dp[RM][4], int own, int other,
                                          int len, const float *lse, const float *delta) {
    UNROLL for (int i = 0; i < RM; i++) UNROLL for (int c = 0; c < 4; c++) {
        int mine = own + simt_ty() * RM + i, theirs = other + simt_tx() + 16 * c;
        int key = KEYS ? mine : theirs, query = KEYS ? theirs : mine;
        bool seen = key < len && query < len && (!a.causal || (key <= query && key > query - a.window));
        float p = seen ? expf(fmaf(s[i][c], a.scale, -lse[query])) : 0;
        s[i][c] = p;
        dp[i][c] = seen ? p * (dp[i][c] - delta[query]) : 0;
    }
}

__device__ __forceinline__ void keep(float *p, const float s[RM][4]) {
    sync_warp(); /* a warp's rows are its own: all have read what was there */
    UNROLL for (int i = 0; i < RM; i++) UNROLL for (int c = 0; c < 4; c++)
        p[(simt_ty() * RM + i) * SIMT_P_PITCH + simt_tx() + 16 * c] = s[i][c];
    sync_warp();
}

template <int DP, bool KEYS> __global__ void __launch_bounds__(SIMT_THREADS) attn_simt_grad(AttnBwd a) {
    SHARED_DYNAMIC(raw);
    float *x = (float *)raw, *y = x + TILE * (DP + 4), *u = y + TILE * (DP + 4), *w = u + TILE * (DP + 4);
    float *p = w + TILE * (DP + 4);
    const int n_own = KEYS ? a.n_kv : a.n_head, group = a.n_head / a.n_kv, slice = (int)blockIdx.z * DP;
    const AttnSpan t = a.span[blockIdx.x / (unsigned)n_own];
    const int own_head = (int)(blockIdx.x % (unsigned)n_own), n = t.len - t.first, last = t.first + min(n, (int)TILE);
    const AttnMat &mx = KEYS ? a.k : a.q, &my = KEYS ? a.v : a.d_o, &mu = KEYS ? a.q : a.k, &mw = KEYS ? a.d_o : a.v;
    int from = 0, end = t.len;
    if (a.causal && KEYS) from = t.first, end = min(end - last + 1, a.window) + last - 1;
    if (a.causal && !KEYS) from = max(t.first - a.window + 1, 0), end = last;
    const int first_tile = from / TILE, tiles = (end + TILE - 1) / TILE - first_tile, heads = KEYS ? group : 1;
    float of_x[RM][DP / 16] = {}, of_y[RM][DP / 16] = {}, unused[RM] = {};
    for (int it = 0; it < heads * tiles; it++) {
        const int other = (first_tile + it % tiles) * TILE,
                  query_head = KEYS ? own_head * group + it / tiles : own_head;
        const int other_head = KEYS ? query_head : own_head / group;
        const bool whole = a.d_head <= DP;
        float s[RM][4] = {}, dp[RM][4] = {};
        for (int col = 0; col < a.d_head; col += DP) {
            sync_block();
            if (!whole || it == 0) {
                simt_rows<DP>(x, mx, t.begin + t.first, own_head, a.d_head, col, 0, n);
                simt_rows<DP>(y, my, t.begin + t.first, own_head, a.d_head, col, 0, n);
            }
            simt_rows<DP>(u, mu, t.begin + other, other_head, a.d_head, col, 0, t.len - other);
            simt_rows<DP>(w, mw, t.begin + other, other_head, a.d_head, col, 0, t.len - other);
            sync_block();
            simt_dot<RM, DP>(s, x, u);
            simt_dot<RM, DP>(dp, y, w);
        }
        const int64_t stat = (int64_t)query_head * a.n + t.begin;
        gradients<KEYS>(a, s, dp, t.first, other, t.len, a.lse + stat, a.delta + stat);
        if (!whole) {
            sync_block();
            simt_rows<DP>(u, mu, t.begin + other, other_head, a.d_head, slice, 0, t.len - other);
            if (KEYS) simt_rows<DP>(w, mw, t.begin + other, other_head, a.d_head, slice, 0, t.len - other);
            sync_block();
        }
        if (KEYS) {
            keep(p, s);
            simt_add<RM, DP>(of_y, unused, p, w);
        }
        keep(p, dp);
        simt_add<RM, DP>(of_x, unused, p, u);
    }
    const AttnMat &dx = KEYS ? a.dk : a.dq;
    UNROLL for (int i = 0; i < RM; i++) {
        int64_t row = t.begin + t.first + simt_ty() * RM + i;
        if (simt_ty() * RM + i >= n) continue;
        simt_store<RM, DP>(dx, row * dx.ld + (int64_t)own_head * a.d_head, of_x[i], a.scale, slice, a.d_head);
        if (KEYS) simt_store<RM, DP>(a.dv, row * a.dv.ld + (int64_t)own_head * a.d_head, of_y[i], 1, slice, a.d_head);
    }
}

template <int DP, bool KEYS> void launch(Backend *be, const AttnBwd &a, int n_span) {
    dim3 grid((unsigned)(n_span * (KEYS ? a.n_kv : a.n_head)), 1, (unsigned)((a.d_head + DP - 1) / DP));
    LAUNCH(be, (attn_simt_grad<DP, KEYS>), grid, SIMT_THREADS, shared_bytes<DP>(), a);
}

/* Four tiles of whole heads of 128 fill most of an SM's shared memory; where there is less, heads go in two halves. */
template <bool KEYS> void pick(Backend *be, const AttnBwd &a, int n_span) {
    if (a.d_head <= 32)
        launch<32, KEYS>(be, a, n_span);
    else if (a.d_head <= 64 || shared_bytes<128>() > cuda_impl(be)->shared_max)
        launch<64, KEYS>(be, a, n_span);
    else
        launch<128, KEYS>(be, a, n_span);
}

} // namespace

void attn_simt_bwd_keys(Backend *be, AttnBwd a, int n_span) { pick<true>(be, a, n_span); }
void attn_simt_bwd_queries(Backend *be, AttnBwd a, int n_span) { pick<false>(be, a, n_span); }
