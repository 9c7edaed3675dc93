/* tensor/cuda/attn_wgmma_bwd.cu — attention backward for compute capability 9.0: the two walks of attn_mma_bwd.cu,
 * whose names these are, with products of warp groups.
 *
 *      keys:     x = k, y = v;  u = q, w = do;    dv += p^T do,  dk += ds^T q
 *      queries:  x = q, y = do; u = k, w = v;     dq += ds k
 *      s = x u^T,  dp = y w^T,  ds = p (dp - delta)
 *
 * A computing warp group has 64 own rows. s and dp are products from shared memory; p and ds become operands in
 * registers, and what they are multiplied with is read by rows, so that nothing is ever transposed. The sums of a row
 * have one owner and one order: no atomics. */
#include "tensor/cuda/attn_wgmma.h"

namespace {

template <int D_, int NB_, int STAGES_, bool KEYS_> struct Shape {
    enum { D = D_, NB = NB_, STAGES = STAGES_, KEYS = KEYS_ };
    enum { OWN_PANEL = Panels<D, WG_ROWS>::PANEL, OWN = Panels<D, WG_ROWS>::BYTES };
    enum { PANEL = Panels<D, NB>::PANEL, TILE = Panels<D, NB>::BYTES };
    enum { STAT = KEYS_ ? 2 * NB * 4 : 0, BARS = 2 + 2 * STAGES };
    enum { BYTES = 2 * OWN + STAGES * (2 * TILE + STAT) + BARS * 8 };
};

/* Shared memory. full and empty of: own rows; slots of (u, w, lse and delta of queries). */
template <typename S> struct Shared {
    unsigned char *x, *y, *u, *w;
    float *stat;
    Bar *own_full, *own_empty, *full, *empty;
    __device__ __forceinline__ explicit Shared(unsigned char *raw) {
        x = raw, y = x + S::OWN, u = y + S::OWN, w = u + S::STAGES * S::TILE;
        stat = (float *)(w + S::STAGES * S::TILE);
        own_full = (Bar *)((unsigned char *)stat + S::STAGES * S::STAT), own_empty = own_full + 1;
        full = own_empty + 1, empty = full + S::STAGES;
    }
};

/* A piece of work: own rows [t.first, last) of a head; tiles of the other side's rows [from, end), `walks` times. */
struct Piece {
    AttnSpan t;
    int head, last, from, end, walks;
};
template <typename S> __device__ __forceinline__ Piece piece(const AttnBwd &a, int number) {
    const int n_own = S::KEYS ? a.n_kv : a.n_head;
    Piece p;
    p.t = a.span[number / n_own];
    p.head = number % n_own;
    p.last = min(p.t.len, p.t.first + (int)WG_ROWS);
    p.from = 0, p.end = p.t.len;
    if (a.causal && S::KEYS) p.from = p.t.first, p.end = min(p.t.len - p.last + 1, a.window) + p.last - 1;
    if (a.causal && !S::KEYS) p.from = max(p.t.first - a.window + 1, 0), p.end = p.last;
    p.from = p.from / S::NB * S::NB;
    p.walks = S::KEYS ? a.n_head / a.n_kv : 1;
    return p;
}

template <typename S> __device__ __forceinline__ void produce(const AttnBwd &a, int n_piece, const Shared<S> &sh) {
    enum { D = S::D, NB = S::NB };
    const AttnMat &mx = S::KEYS ? a.k : a.q, &my = S::KEYS ? a.v : a.d_o, &mu = S::KEYS ? a.q : a.k,
                  &mw = S::KEYS ? a.d_o : a.v;
    const int group = a.n_head / a.n_kv;
    unsigned use = 0;
    for (int i = 0, number; (number = wg_piece(i)) < n_piece; i++) {
        const Piece p = piece<S>(a, number);
        const int64_t row = p.t.begin + p.t.first, col = (int64_t)p.head * D;
        bar_wait(sh.own_empty, (unsigned)i % 2 ^ 1);
        wg_fetch<D, WG_ROWS, S::OWN_PANEL>(sh.x, (const bf16_t *)mx.p + row * mx.ld + col, mx.ld, 0,
                                           p.last - p.t.first);
        wg_fetch<D, WG_ROWS, S::OWN_PANEL>(sh.y, (const bf16_t *)my.p + row * my.ld + col, my.ld, 0,
                                           p.last - p.t.first);
        cp_async_arrive(sh.own_full);
        for (int walk = 0; walk < p.walks; walk++) {
            const int head = S::KEYS ? p.head * group + walk : p.head / group;
            const bf16_t *u = (const bf16_t *)mu.p + (int64_t)head * D, *w = (const bf16_t *)mw.p + (int64_t)head * D;
            for (int other = p.from; other < p.end; other += NB, use++) {
                const int slot = ring_slot<S::STAGES>(use);
                const int64_t at = p.t.begin + other;
                const int n = p.t.len - other;
                bar_wait(sh.empty + slot, ring_phase<S::STAGES>(use) ^ 1);
                wg_fetch<D, NB, S::PANEL>(sh.u + slot * S::TILE, u + at * mu.ld, mu.ld, 0, n);
                wg_fetch<D, NB, S::PANEL>(sh.w + slot * S::TILE, w + at * mw.ld, mw.ld, 0, n);
                if (S::KEYS) { /* half of the threads copy lse, half delta */
                    static_assert(!S::KEYS || 2 * NB == WG_COPY, "one copy a thread");
                    const int r = (int)threadIdx.x % NB;
                    const float *from = (threadIdx.x < NB ? a.lse : a.delta) + (int64_t)head * a.n + at + r;
                    cp_async4(sh.stat + slot * 2 * NB + threadIdx.x, r < n ? from : a.lse, r < n);
                }
                cp_async_arrive(sh.full + slot);
            }
        }
    }
    wg_drain();
}

/* The other side's rows that an own row sees: [low, high). */
struct Seen {
    int low, high;
};
template <typename S> __device__ __forceinline__ Seen seen(const AttnBwd &a, int own, int len) {
    if (own >= len) return {0, 0};
    if (!a.causal) return {0, len};
    return S::KEYS ? Seen{own, min(own + a.window, len)} : Seen{own - a.window + 1, own + 1};
}

/* Do n own rows and NB of the other side's see nothing of each other, or not everything? */
template <typename S> __device__ __forceinline__ bool none(const AttnBwd &a, int own, int n, int other) {
    const int key = S::KEYS ? own : other, keys = S::KEYS ? n : (int)S::NB;
    const int query = S::KEYS ? other : own, queries = S::KEYS ? (int)S::NB : n;
    return a.causal && (key > query + queries - 1 || key + keys - 1 <= query - a.window);
}
template <typename S> __device__ __forceinline__ bool some(const AttnBwd &a, int own, int n, int other, int len) {
    const int key = S::KEYS ? own : other, keys = S::KEYS ? n : (int)S::NB;
    const int query = S::KEYS ? other : own, queries = S::KEYS ? (int)S::NB : n;
    return key + keys > len || query + queries > len ||
           (a.causal && (key + keys - 1 > query || key <= query + queries - 1 - a.window));
}

/* s to p. lse: of the thread's queries, rows (row_lse) or columns (stat). own, other: of s[0][0]; masked: not all are
 * seen. */
template <typename S>
__device__ __forceinline__ void weights(const AttnBwd &a, float (&s)[S::NB / 8][4], const float *stat,
                                        const float (&row_lse)[2], int own, int other, int len, bool masked) {
    const float scale = a.scale * ATTN_LOG2E;
    UNROLL for (int n = 0; n < S::NB / 8; n++) {
        float2 lse;
        if (S::KEYS) lse = *(const float2 *)(stat + n * 8 + (int)threadIdx.x % 4 * 2);
        UNROLL for (int e = 0; e < 4; e++) s[n][e] =
            exp2_approx(fmaf(s[n][e], scale, -(S::KEYS ? e % 2 ? lse.y : lse.x : row_lse[e / 2])));
    }
    if (!masked) return;
    UNROLL for (int h = 0; h < 2; h++) {
        const Seen r = seen<S>(a, own + h * 8, len);
        const int low = r.low - other, high = r.high - other;
        UNROLL for (int n = 0; n < S::NB / 8; n++)
            UNROLL for (int e = 0; e < 2; e++) if (n * 8 + e < low || n * 8 + e >= high) s[n][2 * h + e] = 0;
    }
}

/* dp to ds. */
template <typename S>
__device__ __forceinline__ void slopes(float (&dp)[S::NB / 8][4], const float (&p)[S::NB / 8][4], const float *stat,
                                       const float (&row_delta)[2]) {
    UNROLL for (int n = 0; n < S::NB / 8; n++) {
        float2 delta;
        if (S::KEYS) delta = *(const float2 *)(stat + S::NB + n * 8 + (int)threadIdx.x % 4 * 2);
        UNROLL for (int e = 0; e < 4; e++) dp[n][e] =
            p[n][e] * (dp[n][e] - (S::KEYS ? e % 2 ? delta.y : delta.x : row_delta[e / 2]));
    }
}

template <int D>
__device__ __forceinline__ void store_rows(const AttnMat &to, const Piece &p, int row, const float (&o)[D / 8][4],
                                           float scale) {
    UNROLL for (int h = 0; h < 2; h++) {
        const int r = row + h * 8 + (int)threadIdx.x % 32 / 4;
        if (r < p.last) wg_store<D>(to, (p.t.begin + r) * to.ld + (int64_t)p.head * D, o, h, scale);
    }
}

/* Of a tile, the tensor cores do dp while s becomes p, and p's sum while dp becomes ds; else the other warp group's. */
template <typename S> __device__ __forceinline__ void consume(const AttnBwd &a, int n_piece, const Shared<S> &sh) {
    enum { D = S::D, NB = S::NB };
    const bool KEYS = S::KEYS;
    const int half = uniform((int)threadIdx.x / 128 - 1), warp = (int)threadIdx.x % 128 / 32,
              lane = (int)threadIdx.x % 32;
    unsigned use = 0;
    for (int i = 0; wg_piece(i) < n_piece; i++) {
        const Piece p = piece<S>(a, wg_piece(i));
        const int mine = p.t.first + half * 64, row = mine + warp * 16 + lane / 4;
        const bool idle = mine >= p.last;
        float row_lse[2] = {}, row_delta[2] = {};
        if (!KEYS) {
            UNROLL for (int h = 0; h < 2; h++) if (row + h * 8 < p.last) {
                const int64_t r = (int64_t)p.head * a.n + p.t.begin + row + h * 8;
                row_lse[h] = a.lse[r], row_delta[h] = a.delta[r];
            }
        }
        float s[NB / 8][4], dp[NB / 8][4], of_x[D / 8][4] = {}, of_y[KEYS ? D / 8 : 1][4] = {};
        uint32_t pp[KEYS ? NB / 16 : 1][4], ps[NB / 16][4];
        wgmma_held(of_x);
        wgmma_held(of_y);
        bar_wait(sh.own_full, (unsigned)i % 2);
        int other = p.from; /* where the walk stands */
        for (int left = (p.end - p.from + NB - 1) / NB * p.walks; left > 0; left--, use++) {
            const int slot = uniform(ring_slot<S::STAGES>(use)), now = other;
            const float *stat = sh.stat + slot * 2 * NB;
            other += NB;
            if (other >= p.end) other = p.from;
            bar_wait(sh.full + slot, ring_phase<S::STAGES>(use));
            if (idle || none<S>(a, mine, 64, now)) {
                wg_release(sh.empty + slot);
                continue;
            }
            async_fence();
            wgmma_fence();
            wg_scores<D, S::OWN_PANEL, S::PANEL>(s, wgmma_cols(sh.x + half * 64 * 128),
                                                 wgmma_cols(sh.u + slot * S::TILE));
            wgmma_commit();
            wg_scores<D, S::OWN_PANEL, S::PANEL>(dp, wgmma_cols(sh.y + half * 64 * 128),
                                                 wgmma_cols(sh.w + slot * S::TILE));
            wgmma_commit();
            wgmma_wait<1>();
            wgmma_held(s);
            weights<S>(a, s, stat, row_lse, row, now + lane % 4 * 2, p.t.len,
                       some<S>(a, mine + warp * 16, 16, now, p.t.len));
            if constexpr (KEYS) {
                wg_pack(pp, s);
                wgmma_held(pp);
                wgmma_fence();
                wg_sum<D>(of_y, pp, wgmma_rows(sh.w + slot * S::TILE, S::PANEL));
                wgmma_commit();
                wgmma_wait<1>();
            } else {
                wgmma_wait<0>();
            }
            wgmma_held(dp);
            slopes<S>(dp, s, stat, row_delta);
            wg_pack(ps, dp);
            wgmma_held(ps);
            wgmma_fence();
            wg_sum<D>(of_x, ps, wgmma_rows(sh.u + slot * S::TILE, S::PANEL));
            wgmma_commit();
            wgmma_wait<0>();
            wgmma_held(of_x);
            wgmma_held(of_y);
            wg_release(sh.empty + slot);
        }
        wg_release(sh.own_empty);
        const Piece q = piece<S>(a, wg_piece(i)); /* read again: registers are short in between */
        const int to = q.t.first + half * 64 + warp * 16;
        store_rows<D>(KEYS ? a.dk : a.dq, q, to, of_x, a.scale);
        if constexpr (KEYS) store_rows<D>(a.dv, q, to, of_y, 1);
    }
}

template <typename S> __global__ void __launch_bounds__(WG_THREADS, 1) attn_wgmma_grad(AttnBwd a, int n_piece) {
    SHARED_PANELS(raw);
    const Shared<S> sh(raw);
    if (threadIdx.x == 0) {
        bar_init(sh.own_full, WG_COPY), bar_init(sh.own_empty, WG_WARPS);
        for (int i = 0; i < S::STAGES; i++) bar_init(sh.full + i, WG_COPY), bar_init(sh.empty + i, WG_WARPS);
    }
    sync_block();
    if (threadIdx.x < WG_COPY) {
        regs_less<WG_COPY_REGS>();
        produce<S>(a, n_piece, sh);
    } else {
        regs_more<WG_REGS>();
        consume<S>(a, n_piece, sh);
    }
}

template <typename S> void launch(Backend *be, const AttnBwd &a, int n_span) {
    const int n_piece = n_span * (S::KEYS ? a.n_kv : a.n_head), n_sm = cuda_impl(be)->n_sm;
    LAUNCH(be, attn_wgmma_grad<S>, (unsigned)(n_piece < n_sm ? n_piece : n_sm), WG_THREADS, (size_t)S::BYTES, a,
           n_piece);
}

} // namespace

void attn_wgmma_bwd_keys(Backend *be, AttnBwd a, int n_span) {
    if (a.d_head == 64)
        launch<Shape<64, 64, 4, true>>(be, a, n_span);
    else
        launch<Shape<128, 64, 4, true>>(be, a, n_span);
}

void attn_wgmma_bwd_queries(Backend *be, AttnBwd a, int n_span) {
    if (a.d_head == 64)
        launch<Shape<64, 128, 4, false>>(be, a, n_span);
    else
        launch<Shape<128, 128, 2, false>>(be, a, n_span);
}
