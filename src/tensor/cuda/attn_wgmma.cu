/* tensor/cuda/attn_wgmma.cu — attention forward for compute capability 9.0 (Dao 2023; FlashAttention-3, Shah et al.
 * 2024).
 *
 * A block has 128 query rows of one head, a computing warp group 64 of them. Scores are products from shared memory;
 * probabilities stay in registers, where they are rounded to BF16 and meet V. While the scores of one tile become
 * probabilities, the tensor cores do the product of the last tile's with V, and the other warp group's work.
 *
 * Tiles begin at multiples of BN from position 0, and a tile or a key that a row does not see changes none of its bits:
 * they do not depend on the other rows, nor on how a prompt is cut. They are other bits than attn_mma.cu's, which adds
 * up in other steps. */
#include "tensor/cuda/attn_wgmma.h"

namespace {

template <int D_, int BN_, int STAGES_> struct Shape {
    enum { D = D_, BN = BN_, STAGES = STAGES_ };
    enum { Q_PANEL = Panels<D, WG_ROWS>::PANEL, PANEL = Panels<D, BN>::PANEL, TILE = Panels<D, BN>::BYTES };
    enum { Q_BYTES = Panels<D, WG_ROWS>::BYTES, BARS = 2 + 4 * STAGES };
    enum { BYTES = Q_BYTES + 2 * STAGES * TILE + BARS * 8 };
};

/* Shared memory. full and empty of: q; slots of k; slots of v. */
template <typename S> struct Shared {
    unsigned char *q, *k, *v;
    Bar *q_full, *q_empty, *k_full, *k_empty, *v_full, *v_empty;
    __device__ __forceinline__ explicit Shared(unsigned char *raw) {
        q = raw, k = q + S::Q_BYTES, v = k + S::STAGES * S::TILE;
        q_full = (Bar *)(v + S::STAGES * S::TILE), q_empty = q_full + 1;
        k_full = q_empty + 1, k_empty = k_full + S::STAGES, v_full = k_empty + S::STAGES, v_empty = v_full + S::STAGES;
    }
};

/* A piece of work: query rows of a head, and the tiles of keys [from, last) that they see between them. */
struct Piece {
    AttnTile t;
    int head, low, high, from, last;
};
template <typename S> __device__ __forceinline__ Piece piece(const AttnFwd &a, int number) {
    Piece p;
    p.t = a.tile[number / a.n_head];
    p.head = number % a.n_head;
    p.low = attn_low(a, p.t.end), p.high = attn_high(a, p.t.end, p.t.n);
    p.from = p.low / S::BN, p.last = (p.high + S::BN - 1) / S::BN;
    return p;
}

template <typename S> __device__ __forceinline__ void produce(const AttnFwd &a, int n_piece, const Shared<S> &sh) {
    enum { D = S::D, PAGES = S::BN / KV_PAGE };
    const int group = a.n_head / a.n_kv;
    unsigned use = 0; /* of rings k and v */
    for (int i = 0, number; (number = wg_piece(i)) < n_piece; i++) {
        const Piece p = piece<S>(a, number);
        const int64_t col = (int64_t)(p.head / group) * D;
        const bf16_t *k = (const bf16_t *)a.k.p + col, *v = (const bf16_t *)a.v.p + col;
        const bf16_t *q = (const bf16_t *)a.q.p + p.t.row * a.q.ld + (int64_t)p.head * D;
        const int32_t *page = a.page + p.t.page;
        const int pages = (p.high + KV_PAGE - 1) / KV_PAGE;
        bar_wait(sh.q_empty, i % 2 ^ 1);
        wg_fetch<D, WG_ROWS, S::Q_PANEL>(sh.q, q, a.q.ld, 0, p.t.n);
        cp_async_arrive(sh.q_full);
        for (int tile = p.from; tile < p.last; tile++, use++) {
            const int slot = ring_slot<S::STAGES>(use);
            const unsigned free = ring_phase<S::STAGES>(use) ^ 1;
            int64_t row[PAGES];
            UNROLL for (int j = 0; j < PAGES; j++) {
                int number_ = tile * PAGES + j;
                row[j] = number_ < pages && (number_ + 1) * KV_PAGE > p.low ? page[number_] : 0;
            }
            bar_wait(sh.k_empty + slot, free);
            UNROLL for (int j = 0; j < PAGES; j++) {
                const int begin = (tile * PAGES + j) * KV_PAGE;
                wg_fetch<D, KV_PAGE, S::PANEL>(sh.k + slot * S::TILE + j * KV_PAGE * 128, k + row[j] * a.k.ld, a.k.ld,
                                               p.low - begin, p.high - begin);
            }
            cp_async_arrive(sh.k_full + slot);
            bar_wait(sh.v_empty + slot, free);
            UNROLL for (int j = 0; j < PAGES; j++) {
                const int begin = (tile * PAGES + j) * KV_PAGE;
                wg_fetch<D, KV_PAGE, S::PANEL>(sh.v + slot * S::TILE + j * KV_PAGE * 128, v + row[j] * a.v.ld, a.v.ld,
                                               p.low - begin, p.high - begin);
            }
            cp_async_arrive(sh.v_full + slot);
        }
    }
    wg_drain();
}

/* limit: keys of the tile that the warp's row 0 sees end here; step: 1 when each further row sees one more. */
template <int BN> __device__ __forceinline__ void mask(float (&s)[BN / 8][4], int limit, int step, int window) {
    const int lane = (int)threadIdx.x % 32;
    UNROLL for (int h = 0; h < 2; h++) {
        const int end = limit + step * (h * 8 + lane / 4) - lane % 4 * 2;
        UNROLL for (int n = 0; n < BN / 8; n++)
            UNROLL for (int e = 0; e < 2; e++) if (n * 8 + e >= end || n * 8 + e < end - window) s[n][2 * h + e] =
                -INFINITY;
    }
}

/* Scores of a tile to probabilities. carry: what was summed before is worth under the new maximum. */
template <int BN>
__device__ __forceinline__ void soften(float (&s)[BN / 8][4], float (&top)[2], float (&sum)[2], float (&carry)[2],
                                       float scale) {
    UNROLL for (int h = 0; h < 2; h++) {
        float next = top[h];
        UNROLL for (int n = 0; n < BN / 8; n++) next = fmaxf(next, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
        next = fmaxf(next, shfl_xor(next, 1));
        next = fmaxf(next, shfl_xor(next, 2));
        const float base = next == -INFINITY ? 0 : next, shift = base * scale;
        float part[2] = {};
        carry[h] = exp2_approx((top[h] - base) * scale); /* 1 to the last bit where nothing is larger */
        top[h] = next;
        UNROLL for (int n = 0; n < BN / 8; n++) {
            float x = exp2_approx(fmaf(s[n][2 * h], scale, -shift));
            float y = exp2_approx(fmaf(s[n][2 * h + 1], scale, -shift));
            s[n][2 * h] = x, s[n][2 * h + 1] = y;
            part[n % 2] += x + y;
        }
        sum[h] = fmaf(sum[h], carry[h], part[0] + part[1]);
    }
}

template <int D>
__device__ __forceinline__ void finish(const AttnFwd &a, const Piece &p, int row, float (&o)[D / 8][4],
                                       const float (&top)[2], const float (&sum)[2]) {
    UNROLL for (int h = 0; h < 2; h++) {
        const int r = row + h * 8 + (int)threadIdx.x % 32 / 4;
        float all = sum[h];
        all += shfl_xor(all, 1);
        all += shfl_xor(all, 2);
        if (r >= p.t.n) continue;
        wg_store<D>(a.o, (int64_t)(p.t.row + r) * a.o.ld + (int64_t)p.head * D, o, h, 1 / all);
        if (a.lse && threadIdx.x % 4 == 0) a.lse[(p.t.row + r) * a.lse_ld + p.head] = fmaf(top[h], a.scale, logf(all));
    }
}

/* The warp groups issue their products by turns, so that one has the tensor cores while the other one computes
 * exponentials; so both take every tile of the piece, seen or not. */
static __device__ __forceinline__ void take_turn(int half) { half_sync(1 + half, 256); }
static __device__ __forceinline__ void pass_turn(int half) { half_arrive(2 - half, 256); }

template <typename S> __device__ __forceinline__ void consume(const AttnFwd &a, int n_piece, const Shared<S> &sh) {
    enum { D = S::D, BN = S::BN };
    const int half = uniform((int)threadIdx.x / 128 - 1), warp = (int)threadIdx.x % 128 / 32, step = a.causal ? 1 : 0;
    const float scale = a.scale * ATTN_LOG2E;
    unsigned uses_k = 0, uses_v = 0, pieces = 0;
    if (half == 1) pass_turn(half);
    for (int number; (number = wg_piece((int)pieces)) < n_piece; pieces++) {
        const Piece p = piece<S>(a, number);
        /* Ends of the warp's outer rows. */
        const int first = p.t.end + step * (half * 64 + warp * 16), final = first + step * 15;
        float s[BN / 8][4], o[D / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {}, carry[2];
        uint32_t pr[BN / 16][4];
        auto await_k = [&]() { bar_wait(sh.k_full + ring_slot<S::STAGES>(uses_k), ring_phase<S::STAGES>(uses_k)); };
        auto await_v = [&]() { bar_wait(sh.v_full + ring_slot<S::STAGES>(uses_v), ring_phase<S::STAGES>(uses_v)); };
        auto scores = [&]() {
            wgmma_fence();
            wg_scores<D, S::Q_PANEL, S::PANEL>(s, wgmma_cols(sh.q + half * 64 * 128),
                                               wgmma_cols(sh.k + uniform(ring_slot<S::STAGES>(uses_k)) * S::TILE));
            wgmma_commit();
        };
        auto values = [&]() {
            wgmma_held(o);
            wgmma_held(pr);
            wgmma_fence();
            wg_sum<D>(o, pr, wgmma_rows(sh.v + uniform(ring_slot<S::STAGES>(uses_v)) * S::TILE, S::PANEL));
            wgmma_commit();
        };
        /* Scores to probabilities. K's slot is given back behind them, on a condition that holds: arrivals and waits
         * keep their order, and without it the assembler would move the next wait in front of the exponentials. */
        auto weigh = [&](int tile) {
            wgmma_held(s);
            const int begin = tile * BN;
            if (begin + BN > first || begin < final - a.window) mask<BN>(s, first - begin, step, a.window);
            soften<BN>(s, top, sum, carry, scale);
            if (!(sum[0] + sum[1] < 0)) wg_release(sh.k_empty + ring_slot<S::STAGES>(uses_k));
            uses_k++;
        };
        auto valued = [&]() {
            wgmma_wait<0>();
            wgmma_held(o);
            wg_release(sh.v_empty + ring_slot<S::STAGES>(uses_v));
            uses_v++;
        };

        bar_wait(sh.q_full, pieces % 2);
        await_k();
        async_fence();
        take_turn(half);
        scores();
        pass_turn(half);
        wgmma_wait<0>();
        weigh(p.from);
        wg_pack(pr, s);
        for (int tile = p.from + 1; tile < p.last; tile++) {
            await_v();
            await_k();
            async_fence();
            take_turn(half);
            scores();
            values();
            pass_turn(half);
            wgmma_wait<1>();
            weigh(tile);
            valued();
            UNROLL for (int n = 0; n < D / 8; n++) UNROLL for (int e = 0; e < 4; e++) o[n][e] *= carry[e / 2];
            wg_pack(pr, s);
        }
        wg_release(sh.q_empty);
        await_v();
        async_fence();
        values();
        valued();
        finish<D>(a, p, half * 64 + warp * 16, o, top, sum);
    }
}

template <typename S> __global__ void __launch_bounds__(WG_THREADS, 1) attn_wgmma_prompt(AttnFwd a, int n_piece) {
    SHARED_PANELS(raw);
    const Shared<S> sh(raw);
    if (threadIdx.x == 0) {
        bar_init(sh.q_full, WG_COPY), bar_init(sh.q_empty, WG_WARPS);
        for (int i = 0; i < S::STAGES; i++) {
            bar_init(sh.k_full + i, WG_COPY), bar_init(sh.k_empty + i, WG_WARPS);
            bar_init(sh.v_full + i, WG_COPY), bar_init(sh.v_empty + i, WG_WARPS);
        }
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

template <typename S> void launch(Backend *be, const AttnFwd &a, int n_tile) {
    const int n_piece = n_tile * a.n_head, n_sm = cuda_impl(be)->n_sm;
    LAUNCH(be, attn_wgmma_prompt<S>, (unsigned)(n_piece < n_sm ? n_piece : n_sm), WG_THREADS, (size_t)S::BYTES, a,
           n_piece);
}

} // namespace

void attn_wgmma_fwd(Backend *be, AttnFwd a, int n_tile) {
    if (a.d_head == 64)
        launch<Shape<64, 128, 4>>(be, a, n_tile);
    else
        launch<Shape<128, 128, 2>>(be, a, n_tile);
}
