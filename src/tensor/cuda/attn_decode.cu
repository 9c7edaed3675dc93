/* tensor/cuda/attn_decode.cu — attention of few queries against many keys, BF16 mode: as fast as the keys come from
 * memory.
 *
 * A block has ATTN_MMA_SPLIT keys of one sequence and KV head, and up to 16 (query, head) pairs that read them: all
 * heads of a group, so that keys and values pass once. Each of its four warps has 16 keys of every page for itself, in
 * two stages of shared memory of its own, and keeps its own maximum and sums: nobody waits for anybody until the end,
 * when the four are added up in order, and, in a second kernel, the splits. Splits begin at multiples of ATTN_MMA_SPLIT
 * from position 0: a row's bits depend on its keys alone.
 *
 * Keys and values are BF16 or F32 (then rounded on their way to the tensor core).
 *
 * Where rows must not tell how many they were (be->exact), a block goes through all keys of its rows, a tile after
 * another, with the sums of attn_mma.cu in their order: the four warps share a tile's columns of scores, then the
 * columns of the result. */
#include "tensor/cuda/attn_mma.h"

namespace {

enum { WARPS = 4, THREADS = WARPS * 32, KEYS = 16, PAIRS = 16, PER = ATTN_MMA_SPLIT / KV_PAGE };

/* One warp's keys or values of a page. Pitches: the lanes of a fragment in different banks, rows at multiples of 16
 * bytes. */
template <int D, typename T> struct Stage {
    enum { CHUNK = 16 / sizeof(T), CHUNKS = D / CHUNK };
    enum { K_PITCH = D + 8, V_PITCH = sizeof(T) == 2 ? D + 8 : D + 4, ELEMENTS = KEYS * (K_PITCH + V_PITCH) };
};
template <int D, typename T> struct Shared {
    enum { Q = PAIRS * (D + 8) * 2, STAGES = WARPS * 2 * Stage<D, T>::ELEMENTS * (int)sizeof(T) };
    enum {
        O_PITCH = D + 8,
        SUMS = WARPS * PAIRS * (O_PITCH + 2) * 4,
        BYTES = Q + ((int)STAGES > (int)SUMS ? (int)STAGES : (int)SUMS)
    };
};

/* B fragments of 16 keys at 16 columns d: of two times eight keys. */
template <int D> __device__ __forceinline__ void keys_at(uint32_t b[4], const bf16_t *k, int d) {
    ldmatrix_x4(b, k + d + mma_cols_lane<D>());
}
template <int D> __device__ __forceinline__ void keys_at(uint32_t b[4], const float *k, int d) {
    const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    UNROLL for (int i = 0; i < 4; i++) {
        float2 x = *(const float2 *)(k + (g + i / 2 * 8) * Stage<D, float>::K_PITCH + d + i % 2 * 8 + 2 * t);
        b[i] = pack_bf16(x.x, x.y);
    }
}
/* Of two times eight columns d, summing over 16 keys. */
template <int D> __device__ __forceinline__ void values_at(uint32_t b[4], const bf16_t *v, int d) {
    ldmatrix_x4_t(b, v + d + mma_sums_lane<D>());
}
template <int D> __device__ __forceinline__ void values_at(uint32_t b[4], const float *v, int d) {
    const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4, pitch = Stage<D, float>::V_PITCH;
    UNROLL for (int i = 0; i < 4; i++) {
        const float *x = v + (2 * t + i % 2 * 8) * pitch + d + i / 2 * 8 + g;
        b[i] = pack_bf16(x[0], x[pitch]);
    }
}

/* Keys and values of tiles [from, end) below position `high` set out for the second cache, while the newest of them may
 * still be being written: nobody looks at them yet. page: where the sequence's begin. */
__device__ __forceinline__ void prefetch_tiles(const AttnFwd &a, int page, int kv_head, int from, int end, int high) {
    const int size = a.k.half ? 2 : 4, bytes = a.d_head * size, line = 128;
    for (int i = (int)threadIdx.x; i < (end - from) * KV_PAGE && from * KV_PAGE + i < high; i += THREADS) {
        const int64_t row = a.page[page + from + i / KV_PAGE] + i % KV_PAGE, col = (int64_t)kv_head * a.d_head;
        const char *k = (const char *)a.k.p + (row * a.k.ld + col) * size;
        const char *v = (const char *)a.v.p + (row * a.v.ld + col) * size;
        for (int at = 0; at < bytes; at += line) prefetch(k + at), prefetch(v + at);
    }
}

template <int D> struct Sums { float o[D / 8][4], top[2], sum[2]; };

/* 16 keys; limit[h]: of them, row h sees those below. */
template <int D, typename T>
__device__ __forceinline__ void visit(Sums<D> &r, const uint32_t q[D / 16][4], const T *k, const T *v,
                                      const int limit[2], int window, float scale) {
    const int t = (int)threadIdx.x % 4;
    float s[2][4] = {};
    UNROLL for (int i = 0; i < D / 16; i++) {
        uint32_t b[4];
        keys_at<D>(b, k, i * 16);
        mma_bf16(s[0], q[i], b), mma_bf16(s[1], q[i], b + 2);
    }
    UNROLL for (int h = 0; h < 2; h++) {
        float next = r.top[h];
        UNROLL for (int n = 0; n < 2; n++) UNROLL for (int e = 0; e < 2; e++) {
            int j = n * 8 + 2 * t + e;
            if (j >= limit[h] || j < limit[h] - window) s[n][2 * h + e] = -INFINITY;
            next = fmaxf(next, s[n][2 * h + e]);
        }
        next = fmaxf(next, shfl_xor(next, 1));
        next = fmaxf(next, shfl_xor(next, 2));
        float base = next == -INFINITY ? 0 : next, shift = base * scale, part = 0;
        float carry = exp2_approx((r.top[h] - base) * scale);
        r.top[h] = next;
        UNROLL for (int n = 0; n < 2; n++) UNROLL for (int e = 2 * h; e < 2 * h + 2; e++) {
            s[n][e] = exp2_approx(fmaf(s[n][e], scale, -shift));
            part += s[n][e];
        }
        r.sum[h] = fmaf(r.sum[h], carry, part);
        UNROLL for (int n = 0; n < D / 8; n++) r.o[n][2 * h] *= carry, r.o[n][2 * h + 1] *= carry;
    }
    uint32_t p[4];
    mma_pack(p, s[0], s[1]);
    UNROLL for (int n = 0; n < D / 16; n++) {
        uint32_t b[4];
        values_at<D>(b, v, n * 16);
        mma_bf16(r.o[2 * n], p, b), mma_bf16(r.o[2 * n + 1], p, b + 2);
    }
}

/* The warps' sums, in order, to the split's part, or, where it is the only one, to the result. */
template <int D>
__device__ __forceinline__ void finish(const AttnFwd &a, const AttnDecode &t, const Sums<D> &r, float *all, int seq,
                                       int split, int kv_head, int first, int n) {
    enum { PITCH = D + 8 };
    float *top = all + WARPS * PAIRS * PITCH, *sum = top + WARPS * PAIRS; /* then: weights; of the row */
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, group = a.n_head / a.n_kv;
    UNROLL for (int h = 0; h < 2; h++) {
        float part = r.sum[h] + shfl_xor(r.sum[h], 1);
        part += shfl_xor(part, 2);
        int row = warp * PAIRS + h * 8 + lane / 4;
        if (lane % 4 == 0) top[row] = r.top[h], sum[row] = part;
        UNROLL for (int i = 0; i < D / 8; i++) * (float2 *)(all + row * PITCH + i * 8 + lane % 4 * 2) =
            make_float2(r.o[i][2 * h], r.o[i][2 * h + 1]);
    }
    sync_block();
    if ((int)threadIdx.x < n) {
        const int row = (int)threadIdx.x;
        float most = -INFINITY, part = 0;
        UNROLL for (int w = 0; w < WARPS; w++) most = fmaxf(most, top[w * PAIRS + row]);
        float base = most == -INFINITY ? 0 : most;
        UNROLL for (int w = 0; w < WARPS; w++) {
            float weight = exp2_approx((top[w * PAIRS + row] - base) * a.scale * ATTN_LOG2E);
            part = fmaf(sum[w * PAIRS + row], weight, part);
            top[w * PAIRS + row] = weight;
        }
        sum[row] = part;
        if (a.n_split > 1) {
            int64_t at = attn_part(a, seq, split, kv_head, first + row);
            a.stat[2 * at] = most, a.stat[2 * at + 1] = part;
        } else if (a.lse) {
            int head = kv_head * group + (first + row) % group;
            a.lse[(t.row + (first + row) / group) * a.lse_ld + head] = fmaf(most, a.scale, logf(part));
        }
    }
    sync_block();
    for (int i = (int)threadIdx.x; i < n * D; i += THREADS) {
        const int row = i / D, col = i % D;
        float acc = 0;
        UNROLL for (int w = 0; w < WARPS; w++) acc =
            fmaf(all[(w * PAIRS + row) * PITCH + col], top[w * PAIRS + row], acc);
        if (col >= a.d_head) continue;
        if (a.n_split > 1) {
            a.part[attn_part(a, seq, split, kv_head, first + row) * a.d_head + col] = acc;
        } else {
            int64_t to = t.row + (first + row) / group, head = kv_head * group + (first + row) % group;
            attn_store1(a.o, to * a.o.ld + head * a.d_head + col, acc / sum[row]);
        }
    }
}

/* The queries of 16 (query, head) pairs, in that order, as BF16. */
template <int D>
__device__ __forceinline__ void load_pairs(bf16_t *to, const AttnFwd &a, int row, int kv_head, int first, int n) {
    const int group = a.n_head / a.n_kv;
    for (int i = (int)threadIdx.x; i < PAIRS * (D / 8); i += THREADS) {
        int r = i / (D / 8), c = i % (D / 8) * 8, query = (first + r) / group,
            head = kv_head * group + (first + r) % group;
        uint4 x = {0, 0, 0, 0};
        if (r < n) x = attn_load8(a.q, (int64_t)(row + query) * a.q.ld + (int64_t)head * a.d_head + c, a.d_head - c);
        *(uint4 *)(to + r * (D + 8) + c) = x;
    }
}

/* Block x: sequence and split; y: KV head and 16 of its (query, head) pairs. */
template <int D, typename T, int BLOCKS> __global__ void __launch_bounds__(THREADS, BLOCKS) attn_mma_split(AttnFwd a) {
    typedef Stage<D, T> S;
    SHARED_DYNAMIC(raw);
    release_next();
    bf16_t *sq = (bf16_t *)raw;
    const int seq = (int)blockIdx.x / a.n_split, split = (int)blockIdx.x % a.n_split, warp = (int)threadIdx.x / 32;
    const int group = a.n_head / a.n_kv, tiles = (a.n_row + PAIRS - 1) / PAIRS, lane = (int)threadIdx.x % 32;
    const AttnDecode t = attn_sequence(a, seq, ATTN_MMA_SPLIT);
    const int kv_head = (int)blockIdx.y / tiles, first = (int)blockIdx.y % tiles * PAIRS,
              n = min(t.n * group - first, (int)PAIRS);
    const bool decoded = t.n <= ATTN_FEW && n > 0;
    const int low = attn_low(a, t.end + (a.causal ? first / group : 0)),
              high = attn_high(a, t.end, (first + n - 1) / group + 1);
    const int from = max((t.first + split) * PER, low / KV_PAGE),
              end = min((t.first + split + 1) * PER, (high + KV_PAGE - 1) / KV_PAGE);
    if (decoded) prefetch_tiles(a, t.page, kv_head, from, end, high);
    await_inputs();
    if (!decoded || from >= end) return;

    T *mine = (T *)(raw + Shared<D, T>::Q) + warp * 2 * S::ELEMENTS;
    auto load = [&](int tile) {
        if (tile < end) {
            const int chunks = (a.d_head + S::CHUNK - 1) / S::CHUNK;
            int64_t row = a.page[t.page + tile] + warp * KEYS;
            int l = low - tile * KV_PAGE - warp * KEYS, h = high - tile * KV_PAGE - warp * KEYS;
            T *to = mine + tile % 2 * S::ELEMENTS;
            mma_copy<T, S::CHUNKS, S::K_PITCH, KEYS, 32>(
                to, (const T *)a.k.p + row * a.k.ld + (int64_t)kv_head * a.d_head, a.k.ld, l, h, chunks, lane);
            to += KEYS * S::K_PITCH;
            mma_copy<T, S::CHUNKS, S::V_PITCH, KEYS, 32>(
                to, (const T *)a.v.p + row * a.v.ld + (int64_t)kv_head * a.d_head, a.v.ld, l, h, chunks, lane);
        }
        cp_async_commit();
    };
    load(from);
    load(from + 1);
    load_pairs<D>(sq, a, t.row, kv_head, first, n);
    sync_block();
    uint32_t q[D / 16][4];
    UNROLL for (int i = 0; i < D / 16; i++) ldmatrix_x4(q[i], sq + i * 16 + mma_rows_lane<D>());

    Sums<D> r = {};
    r.top[0] = r.top[1] = -INFINITY;
    for (int tile = from; tile < end; tile++) {
        cp_async_wait<1>();
        sync_warp();
        const T *k = mine + tile % 2 * S::ELEMENTS;
        int limit[2];
        UNROLL for (int h = 0; h < 2; h++) limit[h] =
            t.end + (a.causal ? (first + lane / 4 + h * 8) / group : 0) - tile * KV_PAGE - warp * KEYS;
        visit<D, T>(r, q, k, k + KEYS * S::K_PITCH, limit, a.window, a.scale * ATTN_LOG2E);
        sync_warp();
        load(tile + 2);
    }
    cp_async_wait<0>();
    sync_block();
    finish<D>(a, t, r, (float *)(raw + Shared<D, T>::Q), seq, split, kv_head, first, n);
}

/* -- in the order of attn_mma.cu
 * ----------------------------------------------------------------------------------------- */

template <int D> struct Exact {
    enum { DEEP = 3, STAGE = 2 * KV_PAGE * (D + 8), P_PITCH = KV_PAGE + 8, SHARE = (D / 16 + WARPS - 1) / WARPS };
    /* Elements: queries, stages, probabilities. Then floats: maxima of each warp; sums of pairs of probabilities. */
    enum { HALVES = PAIRS * (D + 8) + DEEP * STAGE + PAIRS * P_PITCH, FLOATS = WARPS * PAIRS + WARPS * 32 * 4 };
    enum { BYTES = HALVES * 2 + FLOATS * 4 };
};

/* Block x: sequence; y: KV head and 16 of its (query, head) pairs. */
template <int D> __global__ void __launch_bounds__(THREADS, 2) attn_mma_exact(AttnFwd a) {
    typedef Exact<D> E;
    typedef MmaTile<D> T;
    SHARED_DYNAMIC(raw);
    release_next();
    bf16_t *sq = (bf16_t *)raw, *stage = sq + PAIRS * T::PITCH, *sp = stage + E::DEEP * E::STAGE;
    float *most = (float *)(sq + E::HALVES), *pairs = most + WARPS * PAIRS;
    const int seq = (int)blockIdx.x, warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32,
              group = a.n_head / a.n_kv;
    const int tiles = (a.n_row + PAIRS - 1) / PAIRS, kv_head = (int)blockIdx.y / tiles,
              first = (int)blockIdx.y % tiles * PAIRS;
    const AttnDecode t = attn_sequence(a, seq, KV_PAGE);
    const int n = min(t.n * group - first, (int)PAIRS);
    const bool decoded = t.n <= ATTN_FEW && n > 0;
    const int low = attn_low(a, t.end + (a.causal ? first / group : 0)),
              high = attn_high(a, t.end, (first + n - 1) / group + 1);
    const int from = low / KV_PAGE, end = (high + KV_PAGE - 1) / KV_PAGE, chunks = (a.d_head + 7) / 8;
    if (decoded) prefetch_tiles(a, t.page, kv_head, from, end, high);
    await_inputs();
    if (!decoded) return;

    auto load = [&](int tile) {
        if (tile < end) {
            const int64_t row = a.page[t.page + tile], col = (int64_t)kv_head * a.d_head;
            bf16_t *to = stage + tile % E::DEEP * E::STAGE;
            int l = low - tile * KV_PAGE, h = high - tile * KV_PAGE;
            mma_fetch<D, KV_PAGE, THREADS>(to, (const bf16_t *)a.k.p + row * a.k.ld + col, a.k.ld, l, h, chunks);
            mma_fetch<D, KV_PAGE, THREADS>(to + E::STAGE / 2, (const bf16_t *)a.v.p + row * a.v.ld + col, a.v.ld, l, h,
                                           chunks);
        }
        cp_async_commit();
    };
    load(from);
    load(from + 1);
    load_pairs<D>(sq, a, t.row, kv_head, first, n);
    sync_block();
    uint32_t q[D / 16][4];
    UNROLL for (int i = 0; i < D / 16; i++) ldmatrix_x4(q[i], sq + i * 16 + mma_rows_lane<D>());
    const bf16_t *at_p = sp + lane % 16 * E::P_PITCH + lane / 16 * 8;

    float o[E::SHARE][2][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    const float scale = a.scale * ATTN_LOG2E;
    for (int tile = from; tile < end; tile++) {
        cp_async_wait<1>();
        sync_block();
        load(tile + 2);
        const bf16_t *k = stage + tile % E::DEEP * E::STAGE, *v = k + E::STAGE / 2;
        float s[1][2][4] = {}, next[2], carry[2];
        const uint32_t(*const held)[D / 16][4] = (const uint32_t(*)[D / 16][4]) q;
        mma_scores_held<D, 1, 16>(s, held, k + warp * 16 * T::PITCH + mma_cols_lane<D>());
        UNROLL for (int h = 0; h < 2; h++) {
            const int limit = t.end + (a.causal ? (first + lane / 4 + h * 8) / group : 0) - tile * KV_PAGE - warp * 16;
            next[h] = -INFINITY;
            UNROLL for (int i = 0; i < 2; i++) UNROLL for (int e = 0; e < 2; e++) {
                int j = i * 8 + lane % 4 * 2 + e;
                if (j >= limit || j < limit - a.window) s[0][i][2 * h + e] = -INFINITY;
                next[h] = fmaxf(next[h], s[0][i][2 * h + e]);
            }
            next[h] = fmaxf(next[h], shfl_xor(next[h], 1));
            next[h] = fmaxf(next[h], shfl_xor(next[h], 2));
            if (lane % 4 == 0) most[warp * PAIRS + h * 8 + lane / 4] = next[h];
        }
        sync_block();
        UNROLL for (int h = 0; h < 2; h++) {
            float all = top[h];
            UNROLL for (int w = 0; w < WARPS; w++) all = fmaxf(all, most[w * PAIRS + h * 8 + lane / 4]);
            float base = all == -INFINITY ? 0 : all, shift = base * scale;
            carry[h] = exp2_approx((top[h] - base) * scale);
            top[h] = all;
            UNROLL for (int i = 0; i < 2; i++) {
                float x = exp2_approx(fmaf(s[0][i][2 * h], scale, -shift));
                float y = exp2_approx(fmaf(s[0][i][2 * h + 1], scale, -shift));
                pairs[((warp * 2 + i) * 2 + h) * 32 + lane] = x + y;
                *(uint32_t *)(sp + (h * 8 + lane / 4) * E::P_PITCH + warp * 16 + i * 8 + lane % 4 * 2) =
                    pack_bf16(x, y);
            }
        }
        sync_block();
        UNROLL for (int h = 0; h < 2; h++) {
            float part[2] = {};
            UNROLL for (int i = 0; i < KV_PAGE / 8; i++) part[i % 2] += pairs[(i * 2 + h) * 32 + lane];
            sum[h] = fmaf(sum[h], carry[h], part[0] + part[1]);
        }
        UNROLL for (int i = 0; i < E::SHARE; i++) UNROLL for (int j = 0; j < 2; j++) UNROLL for (int e = 0; e < 4; e++)
            o[i][j][e] *= carry[e / 2];
        UNROLL for (int i = 0; i < KV_PAGE / 16; i++) {
            uint32_t p[4], y[4];
            ldmatrix_x4(p, at_p + i * 16);
            UNROLL for (int c = 0; c < E::SHARE; c++) {
                if (c * WARPS + warp >= D / 16) break;
                ldmatrix_x4_t(y, v + i * 16 * T::PITCH + (c * WARPS + warp) * 16 + mma_sums_lane<D>());
                mma_bf16(o[c][0], p, y), mma_bf16(o[c][1], p, y + 2);
            }
        }
    }
    UNROLL for (int h = 0; h < 2; h++) {
        const int r = h * 8 + lane / 4, query = (first + r) / group, head = kv_head * group + (first + r) % group;
        float all = sum[h];
        all += shfl_xor(all, 1);
        all += shfl_xor(all, 2);
        if (r >= n) continue;
        float share = 1 / all;
        UNROLL for (int c = 0; c < E::SHARE; c++) UNROLL for (int j = 0; j < 2; j++) {
            int col = (c * WARPS + warp) * 16 + j * 8 + lane % 4 * 2;
            int64_t at = (int64_t)(t.row + query) * a.o.ld + (int64_t)head * a.d_head + col;
            attn_store2(a.o, at, o[c][j][2 * h] * share, o[c][j][2 * h + 1] * share, a.d_head - col);
        }
        if (a.lse && warp == 0 && lane % 4 == 0)
            a.lse[(t.row + query) * a.lse_ld + head] = fmaf(top[h], a.scale, logf(all));
    }
}

template <int D> void exact(Backend *be, const AttnFwd &a, int n_seq) {
    dim3 grid((unsigned)n_seq, (unsigned)(a.n_kv * ((a.n_row + PAIRS - 1) / PAIRS)));
    LAUNCH_EARLY(be, attn_mma_exact<D>, grid, THREADS, (size_t)(Exact<D>::BYTES), a);
}

template <int D, typename T, int BLOCKS> void launch(Backend *be, const AttnFwd &a, int n_seq) {
    dim3 grid((unsigned)(n_seq * a.n_split), (unsigned)(a.n_kv * ((a.n_row + PAIRS - 1) / PAIRS)));
    LAUNCH_EARLY(be, (attn_mma_split<D, T, BLOCKS>), grid, THREADS, (size_t)(Shared<D, T>::BYTES), a);
}

template <typename T, int BLOCKS> void pick(Backend *be, const AttnFwd &a, int n_seq) {
    if (a.d_head <= 32)
        launch<32, T, BLOCKS>(be, a, n_seq);
    else if (a.d_head <= 64)
        launch<64, T, BLOCKS>(be, a, n_seq);
    else if (a.d_head <= 80)
        launch<80, T, BLOCKS>(be, a, n_seq);
    else if (a.d_head <= 96)
        launch<96, T, BLOCKS>(be, a, n_seq);
    else
        launch<128, T, BLOCKS>(be, a, n_seq);
}

} // namespace

size_t attn_mma_decode_shared(bool half) {
    return half ? (size_t)Shared<128, bf16_t>::BYTES : (size_t)Shared<128, float>::BYTES;
}

size_t attn_mma_shared(int d_head) {
    if (d_head <= 64) return Exact<64>::BYTES;
    return d_head <= 96 ? (size_t)Exact<96>::BYTES : (size_t)Exact<128>::BYTES;
}

void attn_mma_decode(Backend *be, AttnFwd a, int n_seq) {
    if (a.k.half)
        pick<bf16_t, 3>(be, a, n_seq);
    else
        pick<float, 1>(be, a, n_seq);
    if (a.n_split == 1) return;
    LAUNCH_EARLY(be, (attn_combine<ATTN_MMA_SPLIT, true>), dim3((unsigned)(n_seq * a.n_row), (unsigned)a.n_kv), 128, 0,
                 a);
}

void attn_mma_decode_exact(Backend *be, AttnFwd a, int n_seq) {
    if (a.d_head <= 32)
        exact<32>(be, a, n_seq);
    else if (a.d_head <= 64)
        exact<64>(be, a, n_seq);
    else if (a.d_head <= 80)
        exact<80>(be, a, n_seq);
    else if (a.d_head <= 96)
        exact<96>(be, a, n_seq);
    else
        exact<128>(be, a, n_seq);
}
