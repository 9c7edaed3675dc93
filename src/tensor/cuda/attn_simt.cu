/* tensor/cuda/attn_simt.cu — attention in F32, forward.
 *
 * As ref/attn.c: keys in tiles of KV_PAGE positions from position 0, online softmax. Every ATTN_SIMT_SPLIT keys the
 * sums begin anew, and the parts are added in order with the same rule; a long prompt does so in registers, decoding in
 * a second kernel, because there each part is a block of its own. The order of every sum depends on positions alone, so
 * one query alone, a few and a whole prompt give equal bits, as do any page layout and any company. (Products and sums
 * that a compiler could join into one rounding are written as fmaf or kept apart by it.)
 *
 * A key that no row of the tile sees is never read. */
#include "tensor/cuda/attn_simt.h"

namespace {

/* What a block works on: rows [first, first + n) of (query, head) pairs in that order. */
struct Block {
    float *q, *kv, *p;
    int row, heads, first, n; /* row of q of query 0; heads per query */
    int head, kv_head, col;   /* of the first row; col: first output column */
    int page, end, low, high; /* end: of query 0; low, high: what the rows see between them */
};

template <int RM, int DP> struct Rows {
    float acc[RM][DP / 16], top[RM], sum[RM]; /* top: of q k^T, before the scale */
};

template <int RM, int DP> __device__ __forceinline__ void clear(Rows<RM, DP> &r) {
    UNROLL for (int i = 0; i < RM; i++) {
        UNROLL for (int c = 0; c < DP / 16; c++) r.acc[i][c] = 0;
        r.top[i] = -INFINITY, r.sum[i] = 0;
    }
}

template <int RM, int DP> __device__ __forceinline__ void load_q(const AttnFwd &a, const Block &b, int col) {
    for (int i = (int)threadIdx.x; i < 16 * RM * (DP / 4); i += SIMT_THREADS) {
        int r = i / (DP / 4), c = i % (DP / 4) * 4, query = (b.first + r) / b.heads, head = (b.first + r) % b.heads;
        float4 x = make_float4(0, 0, 0, 0);
        if (r < b.n)
            x = attn_load4(a.q, (int64_t)(b.row + query) * a.q.ld + (int64_t)(b.head + head) * a.d_head + col + c,
                           a.d_head - col - c);
        *(float4 *)(b.q + r * (DP + 4) + c) = x;
    }
}

/* Scores of one tile to probabilities in b.p; limit: keys of the tile that row i sees end here. */
template <int RM, int DP>
__device__ __forceinline__ void soften(const AttnFwd &a, const Block &b, float s[RM][4], const int limit[RM],
                                       Rows<RM, DP> &r, float carry[RM]) {
    int tx = simt_tx(), ty = simt_ty();
    UNROLL for (int i = 0; i < RM; i++) {
        float top = -INFINITY;
        UNROLL for (int c = 0; c < 4; c++) {
            int j = tx + 16 * c;
            if (j >= limit[i] || j < limit[i] - a.window) s[i][c] = -INFINITY;
            top = fmaxf(top, s[i][c]);
        }
        for (int lanes = 8; lanes > 0; lanes /= 2) top = fmaxf(top, shfl_xor(top, lanes));
        top = fmaxf(top, r.top[i]);
        float base = top == -INFINITY ? 0 : top, scaled = base * a.scale;
        carry[i] = expf((r.top[i] - base) * a.scale);
        r.top[i] = top;
        UNROLL for (int c = 0; c < 4; c++) b.p[(ty * RM + i) * SIMT_P_PITCH + tx + 16 * c] =
            expf(fmaf(s[i][c], a.scale, -scaled));
    }
}

/* Key tiles [from, end), which begin no earlier than r's. */
template <int RM, int DP>
__device__ __forceinline__ void visit(const AttnFwd &a, const Block &b, int from, int end, Rows<RM, DP> &r) {
    int limit[RM];
    UNROLL for (int i = 0; i < RM; i++) limit[i] =
        b.end + (a.causal ? (b.first + simt_ty() * RM + i) / b.heads : 0) - from * KV_PAGE;
    for (int tile = from; tile < end; tile++) {
        int64_t row = a.page[b.page + tile];
        int low = b.low - tile * KV_PAGE, high = b.high - tile * KV_PAGE;
        float s[RM][4] = {}, carry[RM], sum[RM] = {};
        for (int col = 0; col < a.d_head; col += DP) {
            sync_block();
            if (a.d_head > DP || tile == from) load_q<RM, DP>(a, b, col);
            simt_rows<DP>(b.kv, a.k, row, b.kv_head, a.d_head, col, low, high);
            sync_block();
            simt_dot<RM, DP>(s, b.q, b.kv);
        }
        soften<RM, DP>(a, b, s, limit, r, carry);
        sync_block();
        simt_rows<DP>(b.kv, a.v, row, b.kv_head, a.d_head, b.col, low, high);
        sync_block();
        UNROLL for (int i = 0; i < RM; i++) UNROLL for (int c = 0; c < DP / 16; c++) r.acc[i][c] *= carry[i];
        simt_add<RM, DP>(r.acc, sum, b.p, b.kv);
        UNROLL for (int i = 0; i < RM; i++) r.sum[i] = fmaf(r.sum[i], carry[i], sum[i]), limit[i] -= KV_PAGE;
    }
}

template <int RM, int DP> __device__ __forceinline__ void place(Block &b, unsigned char *raw) {
    b.q = (float *)raw;
    b.kv = b.q + 16 * RM * (DP + 4);
    b.p = b.kv + 64 * (DP + 4);
}
template <int RM, int DP> size_t shared_bytes(void) {
    return (size_t)((16 * RM + 64) * (DP + 4) + 16 * RM * SIMT_P_PITCH) * sizeof(float);
}

template <int DP> __global__ void __launch_bounds__(SIMT_THREADS) attn_simt_prompt(AttnFwd a) {
    enum { RM = ATTN_SIMT_ROWS / 16 };
    SHARED_DYNAMIC(raw);
    const AttnTile t = a.tile[blockIdx.x / (unsigned)a.n_head];
    Block b;
    place<RM, DP>(b, raw);
    b.row = t.row, b.n = t.n, b.page = t.page, b.end = t.end, b.heads = 1, b.first = 0;
    b.head = (int)(blockIdx.x % (unsigned)a.n_head), b.kv_head = b.head / (a.n_head / a.n_kv),
    b.col = (int)blockIdx.z * DP;
    b.low = attn_low(a, t.end), b.high = attn_high(a, t.end, t.n);
    const int per = ATTN_SIMT_SPLIT / KV_PAGE, last = (b.high + KV_PAGE - 1) / KV_PAGE;
    Rows<RM, DP> all, part;
    clear(all);
    for (int tile = b.low / KV_PAGE; tile < last; tile = (tile / per + 1) * per) {
        clear(part);
        visit<RM, DP>(a, b, tile, min((tile / per + 1) * per, last), part);
        UNROLL for (int i = 0; i < RM; i++) {
            float x, y;
            all.top[i] = attn_weigh<false>(all.top[i], part.top[i], a.scale, &x, &y);
            all.sum[i] = fmaf(part.sum[i], y, all.sum[i] * x);
            UNROLL for (int c = 0; c < DP / 16; c++) all.acc[i][c] = fmaf(part.acc[i][c], y, all.acc[i][c] * x);
        }
    }
    UNROLL for (int i = 0; i < RM; i++) {
        int r = simt_ty() * RM + i;
        if (r >= t.n) continue;
        UNROLL for (int c = 0; c < DP / 16; c++) all.acc[i][c] /= all.sum[i];
        simt_store<RM, DP>(a.o, (int64_t)(t.row + r) * a.o.ld + (int64_t)b.head * a.d_head, all.acc[i], 1, b.col,
                           a.d_head);
        if (a.lse && b.col == 0 && simt_tx() == 0)
            a.lse[(t.row + r) * a.lse_ld + b.head] = fmaf(all.top[i], a.scale, logf(all.sum[i]));
    }
}

/* Block x: sequence and split; y: KV head and 16 of its (query, head) pairs. */
template <int DP> __global__ void __launch_bounds__(SIMT_THREADS) attn_simt_split(AttnFwd a) {
    SHARED_DYNAMIC(raw);
    const int per = ATTN_SIMT_SPLIT / KV_PAGE, seq = (int)blockIdx.x / a.n_split, split = (int)blockIdx.x % a.n_split;
    const int group = a.n_head / a.n_kv, tiles = (a.n_row + 15) / 16;
    const AttnDecode t = attn_sequence(a, seq, ATTN_SIMT_SPLIT);
    Block b;
    place<1, DP>(b, raw);
    b.row = t.row, b.page = t.page, b.end = t.end, b.heads = group, b.first = (int)blockIdx.y % tiles * 16;
    b.n = min(t.n * group - b.first, 16);
    b.kv_head = (int)blockIdx.y / tiles, b.head = b.kv_head * group, b.col = (int)blockIdx.z * DP;
    if (t.n > ATTN_FEW || b.n <= 0) return;
    b.low = attn_low(a, t.end + (a.causal ? b.first / group : 0));
    b.high = attn_high(a, t.end, (b.first + b.n - 1) / group + 1);
    const int from = max((t.first + split) * per, b.low / KV_PAGE);
    const int end = min((t.first + split + 1) * per, (b.high + KV_PAGE - 1) / KV_PAGE);
    if (from >= end) return;
    Rows<1, DP> r;
    clear(r);
    visit<1, DP>(a, b, from, end, r);
    if (simt_ty() >= b.n) return;
    int64_t at = attn_part(a, seq, split, b.kv_head, b.first + simt_ty());
    AttnMat part = {a.part, 0, false, a.d_head % 2 == 0};
    simt_store<1, DP>(part, at * a.d_head, r.acc[0], 1, b.col, a.d_head);
    if (b.col == 0 && simt_tx() == 0) a.stat[2 * at] = r.top[0], a.stat[2 * at + 1] = r.sum[0];
}

template <int DP> void prompt(Backend *be, const AttnFwd &a, int n_tile) {
    dim3 grid((unsigned)(n_tile * a.n_head), 1, (unsigned)((a.d_head + DP - 1) / DP));
    LAUNCH(be, (attn_simt_prompt<DP>), grid, SIMT_THREADS, (shared_bytes<ATTN_SIMT_ROWS / 16, DP>()), a);
}

template <int DP> void split(Backend *be, const AttnFwd &a, int n_seq) {
    dim3 grid((unsigned)(n_seq * a.n_split), (unsigned)(a.n_kv * ((a.n_row + 15) / 16)),
              (unsigned)((a.d_head + DP - 1) / DP));
    LAUNCH(be, (attn_simt_split<DP>), grid, SIMT_THREADS, (shared_bytes<1, DP>()), a);
}

} // namespace

void attn_simt_fwd(Backend *be, AttnFwd a, int n_tile) {
    if (a.d_head <= 32)
        prompt<32>(be, a, n_tile);
    else if (a.d_head <= 64)
        prompt<64>(be, a, n_tile);
    else
        prompt<128>(be, a, n_tile);
}

void attn_simt_decode(Backend *be, AttnFwd a, int n_seq) {
    if (a.d_head <= 32)
        split<32>(be, a, n_seq);
    else if (a.d_head <= 64)
        split<64>(be, a, n_seq);
    else
        split<128>(be, a, n_seq);
    LAUNCH(be, (attn_combine<ATTN_SIMT_SPLIT, false>), dim3((unsigned)(n_seq * a.n_row), (unsigned)a.n_kv), 128, 0, a);
}
