/* tensor/cuda/attn.cu — attn_fwd and attn_bwd: what they are is in ref/attn.c, how in attn_int.h's files.
 *
 * In F32 mode everything is F32 arithmetic. In BF16 mode tensor cores take heads of up to 128 columns; what they read
 * has to be BF16 in whole 16-byte chunks, so tensors that are not are first rounded into scratch memory: key tiles are
 * read once for every query tile, and reading them at half the size pays for it. Decoding reads its keys once, and
 * reads them as they are. */
#include "tensor/cuda/attn_dev.h"

#include <stdlib.h>

namespace {

/* -- rounding
 * ---------------------------------------------------------------------------------------------------------- */

struct Move {
    int32_t from, to, n;
}; /* rows */

struct Rounded {
    AttnMat from;
    bf16_t *to;
    int n_head;
};
struct Round {
    Rounded x, y, z;
    int d_head;
    const Move *move;
};

/* Block x: a move; y: which matrix. Heads are padded with zeros to whole chunks of 8. */
__global__ void __launch_bounds__(256) attn_round(Round a) {
    const Move mv = a.move[blockIdx.x];
    Rounded m = a.x;
    if (blockIdx.y == 1) m = a.y;
    if (blockIdx.y == 2) m = a.z;
    const int chunks = (a.d_head + 7) / 8, per_row = m.n_head * chunks;
    for (int i = (int)threadIdx.x; i < mv.n * per_row; i += 256) {
        int r = i / per_row, c = i % per_row, head = c / chunks, col = c % chunks * 8;
        uint4 x = attn_load8(m.from, (mv.from + r) * m.from.ld + head * a.d_head + col, a.d_head - col);
        *(uint4 *)(m.to + ((int64_t)(mv.to + r) * per_row + c) * 8) = x;
    }
}

struct Delta {
    AttnMat o, d_o;
    bf16_t *half; /* (N, H, d_head in whole chunks): d_o rounded; NULL: not wanted */
    const float *lse;
    float *lse_out, *delta;
    int64_t lse_ld, n;
    int n_head, d_head;
    float unit;
};

/* delta = rowsum(d_o * o); lse in the kernels' units and order. Eight threads a (row, head). */
__global__ void __launch_bounds__(256) attn_delta(Delta a) {
    const int64_t at = (int64_t)blockIdx.x * 32 + threadIdx.x / 8, row = at / a.n_head;
    const int head = (int)(at % a.n_head), part = (int)threadIdx.x % 8, chunks = (a.d_head + 7) / 8;
    float sum = 0;
    for (int c = part; row < a.n && c < chunks; c += 8) {
        int64_t col = (int64_t)head * a.d_head + c * 8;
        for (int i = 0; i < 8; i += 4) {
            float4 x = attn_load4(a.o, row * a.o.ld + col + i, a.d_head - c * 8 - i);
            float4 y = attn_load4(a.d_o, row * a.d_o.ld + col + i, a.d_head - c * 8 - i);
            sum = fmaf(x.w, y.w, fmaf(x.z, y.z, fmaf(x.y, y.y, fmaf(x.x, y.x, sum))));
        }
        if (a.half)
            *(uint4 *)(a.half + (at * chunks + c) * 8) = attn_load8(a.d_o, row * a.d_o.ld + col, a.d_head - c * 8);
    }
    for (int lanes = 4; lanes > 0; lanes /= 2) sum += shfl_xor(sum, lanes);
    if (row >= a.n || part != 0) return;
    a.delta[head * a.n + row] = sum;
    a.lse_out[head * a.n + row] = a.lse[row * a.lse_ld + head] * a.unit;
}

/* -- arguments
 * --------------------------------------------------------------------------------------------------------- */

AttnMat matrix(Tensor t, int d_head) {
    size_t size = dtype_bytes(t.dtype);
    AttnMat m = {t.data, t.ld, t.dtype == DTYPE_BF16, false};
    m.vec = (uintptr_t)t.data % 16 == 0 && (t.rows <= 1 || t.ld * (int64_t)size % 16 == 0) && d_head * size % 16 == 0;
    return m;
}

bool on_tensor_cores(Backend *be, int d_head) {
    if (be->dtype != DTYPE_BF16 || d_head > ATTN_MMA_HEAD) return false;
    return attn_mma_shared(d_head) <= cuda_impl(be)->shared_max;
}

static_assert((int)ATTN_WGMMA_ROWS == (int)ATTN_MMA_ROWS, "one list of tiles for both");

/* By products of warp groups, which attn_check.c has found right here? */
bool on_hopper(Backend *be, int d_head) {
    const CudaImpl *c = cuda_impl(be);
    return c->hopper && c->checked && on_tensor_cores(be, d_head) && (d_head == 64 || d_head == 128);
}

int queries(AttnSeqs s, int seq) { return s.q_off[seq + 1] - s.q_off[seq]; }
int pages(AttnSeqs s, int seq) { return (s.kv_len[seq] + KV_PAGE - 1) / KV_PAGE; }

void check_seqs(const char *op, Tensor q, Tensor k, AttnSeqs s, int d_head) {
    CHECK(d_head > 0 && q.cols % d_head == 0 && k.cols % d_head == 0 && k.cols > 0 && q.cols % k.cols == 0,
          "%s: q has %lld columns, k %lld, d_head %d", op, (long long)q.cols, (long long)k.cols, d_head);
    CHECK(s.window == 0 || (s.window > 0 && s.causal), "%s: window %d, expected 0 or, when causal, more", op, s.window);
    CHECK(q.rows < INT32_MAX / 2 && k.rows < INT32_MAX / 2, "%s: %lld queries, %lld keys", op, (long long)q.rows,
          (long long)k.rows);
    for (int i = 0; i < s.n_seq; i++) {
        int n = queries(s, i), len = s.kv_len[i];
        CHECK(s.q_off[i] >= 0 && n >= 0 && s.q_off[i + 1] <= q.rows, "%s: sequence %d has rows [%d, %d) of %lld", op, i,
              (int)s.q_off[i], (int)s.q_off[i + 1], (long long)q.rows);
        if (n == 0) continue;
        CHECK(len >= 1 && (len >= n || !s.causal), "%s: sequence %d has %d queries, %d keys", op, i, n, len);
        CHECK(len <= (int64_t)s.max_page * KV_PAGE, "%s: sequence %d has %d keys, %d pages", op, i, len, s.max_page);
        for (int p = 0; p < pages(s, i); p++) {
            int64_t first = s.kv_page[(int64_t)i * s.max_page + p],
                    last = first + (len - p * KV_PAGE < KV_PAGE ? len - p * KV_PAGE : KV_PAGE);
            CHECK(first >= 0 && last <= k.rows, "%s: sequence %d page %d is rows [%lld, %lld) of %lld", op, i, p,
                  (long long)first, (long long)last, (long long)k.rows);
        }
    }
}

enum { NO_WINDOW = 1 << 30 };

/* -- lists
 * ------------------------------------------------------------------------------------------------------------- */

/* Reorders n records of four numbers, those with most work first, equals as they were. Returns the device's copy. */
const int32_t *heaviest_first(Backend *be, const int32_t *record, const int32_t *work, int n) {
    int most = 0;
    for (int i = 0; i < n; i++) most = work[i] > most ? work[i] : most;
    int32_t *count = (int32_t *)mem_alloc(((size_t)most + 2) * sizeof *count);
    int32_t *sorted = (int32_t *)mem_alloc((size_t)n * 4 * sizeof *sorted);
    for (int i = 0; i < n; i++) count[most - work[i] + 1]++;
    for (int i = 0; i < most; i++) count[i + 1] += count[i];
    for (int i = 0; i < n; i++)
        for (int at = count[most - work[i]]++, c = 0; c < 4; c++) sorted[at * 4 + c] = record[i * 4 + c];
    const int32_t *device = cuda_index(be, sorted, (int64_t)n * 4);
    free(sorted);
    free(count);
    return device;
}

/* Query tiles of the sequences that are not decoded. work: visited key tiles. */
const AttnTile *prompt_tiles(Backend *be, AttnSeqs s, int few, int rows, int *n_tile) {
    int64_t n = 0, at = 0;
    for (int i = 0; i < s.n_seq; i++) n += queries(s, i) > few ? (queries(s, i) + rows - 1) / rows : 0;
    AttnTile *tile = (AttnTile *)mem_alloc((size_t)(n + 1) * sizeof *tile);
    int32_t *work = (int32_t *)mem_alloc((size_t)(n + 1) * sizeof *work);
    for (int i = 0; i < s.n_seq; i++)
        for (int r = 0; r < queries(s, i) && queries(s, i) > few; r += rows, at++) {
            int left = queries(s, i) - r, n_row = left < rows ? left : rows;
            int end = s.causal ? s.kv_len[i] - left + 1 : s.kv_len[i];
            tile[at] = AttnTile{s.q_off[i] + r, n_row, end, i * s.max_page};
            int low = s.window > 0 && end > s.window ? end - s.window : 0, high = end + (s.causal ? n_row - 1 : 0);
            work[at] = (high - low) / KV_PAGE;
        }
    *n_tile = (int)n;
    const int32_t *list = n ? heaviest_first(be, &tile[0].row, work, (int)n) : NULL;
    free(work);
    free(tile);
    return (const AttnTile *)list;
}

/* Tiles of `rows` rows of sequences in training layout; keys: of keys, else of queries. work: visited rows on the other
 * side. */
const AttnSpan *spans(Backend *be, AttnSeqs s, int rows, bool keys, int *n_span) {
    int64_t n = 0, at = 0;
    for (int i = 0; i < s.n_seq; i++) n += (queries(s, i) + rows - 1) / rows;
    AttnSpan *span = (AttnSpan *)mem_alloc((size_t)(n + 1) * sizeof *span);
    int32_t *work = (int32_t *)mem_alloc((size_t)(n + 1) * sizeof *work);
    for (int i = 0; i < s.n_seq; i++)
        for (int first = 0, len = queries(s, i); first < len; first += rows, at++) {
            int last = first + rows < len ? first + rows : len, window = s.window > 0 ? s.window : NO_WINDOW;
            int to = len - first < window ? len : last + window < len ? last + window : len;
            int from = last > window ? last - window : 0;
            span[at] = AttnSpan{s.q_off[i], len, first, 0};
            work[at] = (!s.causal ? len : keys ? to - first : last - from) / KV_PAGE;
        }
    *n_span = (int)n;
    const int32_t *list = n ? heaviest_first(be, &span[0].begin, work, (int)n) : NULL;
    free(work);
    free(span);
    return (const AttnSpan *)list;
}

/* -- forward
 * ----------------------------------------------------------------------------------------------------------- */

size_t chunked(int64_t rows, int64_t heads, int d_head) {
    return (size_t)(rows * heads * ((d_head + 7) / 8) * 16 + 255) / 256 * 256;
}

/* K and V of the sequences that are not decoded, page after page, as BF16 chunks at `to`. */
void round_pages(Backend *be, AttnFwd *a, AttnSeqs s, int few, unsigned char *to, size_t bytes) {
    int64_t n = 0, n_page = (int64_t)s.n_seq * s.max_page;
    int32_t row = 0, *page = (int32_t *)mem_alloc((size_t)(n_page + 1) * sizeof *page);
    Move *move = (Move *)mem_alloc((size_t)(n_page + 1) * sizeof *move);
    for (int i = 0; i < s.n_seq; i++)
        for (int p = 0; p < pages(s, i) && queries(s, i) > few; p++) {
            int64_t at = (int64_t)i * s.max_page + p;
            int left = s.kv_len[i] - p * KV_PAGE, rows = left < KV_PAGE ? left : KV_PAGE;
            move[n++] = Move{s.kv_page[at], row, rows};
            page[at] = row;
            row += rows;
        }
    Round r = {{a->k, (bf16_t *)to, a->n_kv},
               {a->v, (bf16_t *)(to + bytes), a->n_kv},
               {},
               a->d_head,
               (const Move *)cuda_index(be, &move[0].from, n * 3)};
    a->page = cuda_index(be, page, n_page);
    LAUNCH(be, attn_round, dim3((unsigned)n, 2), 256, 0, r);
    int64_t ld = (int64_t)a->n_kv * ((a->d_head + 7) / 8) * 8;
    a->k = AttnMat{r.x.to, ld, true, true};
    a->v = AttnMat{r.y.to, ld, true, true};
    free(move);
    free(page);
}

static_assert(DECODE_STEP == ATTN_MMA_SPLIT && ATTN_SIMT_SPLIT % ATTN_MMA_SPLIT == 0, "see DECODE_STEP");

/* Splits of keys, and pairs of query and head of the group, that the decoded sequences need at most: with one query
 * each, a function of the longest reach in DECODE_STEPs, so that a recorded launch fits all passes of that step. */
void measure_decode(AttnFwd *a, AttnSeqs s, int few, int split) {
    int most = 0;
    a->n_split = 0;
    for (int i = 0; i < s.n_seq; i++) {
        int n = queries(s, i), len = s.kv_len[i];
        if (n == 0 || n > few) continue;
        int count = (len + split - 1) / split, seen = s.window > 0 ? (s.window + n - 2) / split + 2 : count;
        if (seen < count) count = seen;
        a->n_split = count > a->n_split ? count : a->n_split;
        most = n > most ? n : most;
    }
    a->n_row = most * (a->n_head / a->n_kv);
}

/* All on the stream: the decoding kernels are through with the scratch memory before rounding fills it again. */
void forward(Backend *be, AttnFwd a, AttnSeqs s, bool mma) {
    bool decode = false, prompt = false, as_is = a.k.half && a.k.vec && a.v.half && a.v.vec;
    bool exact = mma && cuda_impl(be)->exact; /* F32 arithmetic is so anyway */
    const int few = exact && !as_is ? 0 : (int)ATTN_FEW;
    int64_t rows = 0;
    for (int i = 0; i < s.n_seq; i++) {
        decode = decode || (queries(s, i) > 0 && queries(s, i) <= few);
        prompt = prompt || queries(s, i) > few;
        rows += queries(s, i) > few ? s.kv_len[i] : 0;
    }
    bool streams = mma && a.k.vec && a.v.vec && a.k.half == a.v.half &&
                   attn_mma_decode_shared(a.k.half) <= cuda_impl(be)->shared_max;
    int split = streams ? (int)ATTN_MMA_SPLIT : (int)ATTN_SIMT_SPLIT;
    measure_decode(&a, s, few, split);
    int64_t parts = (int64_t)s.n_seq * a.n_split * a.n_kv * a.n_row;
    size_t part_bytes = (size_t)parts * (size_t)(a.d_head + 2) * sizeof(float),
           kv_bytes = chunked(rows, a.n_kv, a.d_head);
    size_t round_bytes = mma && !as_is ? 2 * kv_bytes : 0;
    unsigned char *scratch = (unsigned char *)cuda_scratch(be, part_bytes > round_bytes ? part_bytes : round_bytes);
    const int32_t *page = cuda_index(be, s.kv_page, (int64_t)s.n_seq * s.max_page);
    if (decode) {
        AttnFwd d = a;
        d.part = (float *)scratch;
        d.stat = d.part + parts * a.d_head;
        d.q_off = cuda_index(be, s.q_off, s.n_seq + 1);
        d.kv_len = cuda_index(be, s.kv_len, s.n_seq);
        d.page = page;
        if (exact)
            attn_mma_decode_exact(be, d, s.n_seq);
        else if (streams)
            attn_mma_decode(be, d, s.n_seq);
        else
            attn_simt_decode(be, d, s.n_seq);
    }
    if (!prompt) return;
    int n_tile;
    a.tile = prompt_tiles(be, s, few, mma ? (int)ATTN_MMA_ROWS : (int)ATTN_SIMT_ROWS, &n_tile);
    a.page = page;
    if (mma && !as_is) round_pages(be, &a, s, few, scratch, kv_bytes);
    if (mma && !exact && a.q.half && a.q.vec && on_hopper(be, a.d_head))
        attn_wgmma_fwd(be, a, n_tile);
    else if (mma)
        attn_mma_fwd(be, a, n_tile);
    else
        attn_simt_fwd(be, a, n_tile);
}

} // namespace

void cuda_attn_fwd(Backend *be, Tensor o, Tensor lse, Tensor q, Tensor k, Tensor v, AttnSeqs s, int d_head) {
    cuda_check("attn_fwd", "o", o, q.rows, q.cols, CUDA_ANY);
    cuda_check("attn_fwd", "q", q, q.rows, q.cols, CUDA_ANY);
    cuda_check("attn_fwd", "k", k, k.rows, k.cols, CUDA_ANY);
    cuda_check("attn_fwd", "v", v, k.rows, k.cols, CUDA_ANY);
    if (q.rows == 0) return;
    check_seqs("attn_fwd", q, k, s, d_head);
    cuda_check("attn_fwd", "lse", lse, q.rows, q.cols / d_head, CUDA_REAL_OPT);
    AttnFwd a = {};
    a.q = matrix(q, d_head), a.k = matrix(k, d_head), a.v = matrix(v, d_head), a.o = matrix(o, d_head);
    a.lse = tensor_empty(lse) ? NULL : (float *)lse.data;
    a.lse_ld = lse.ld;
    a.max_page = s.max_page;
    a.n_head = (int)(q.cols / d_head), a.n_kv = (int)(k.cols / d_head), a.d_head = d_head;
    a.window = s.window > 0 ? s.window : NO_WINDOW;
    a.causal = s.causal;
    a.scale = (float)(1 / sqrt((double)d_head));
    forward(be, a, s, on_tensor_cores(be, d_head));
}

namespace {

/* -- backward
 * ---------------------------------------------------------------------------------------------------------- */

void check_training(AttnSeqs s) {
    for (int i = 0; i < s.n_seq; i++) {
        int n = queries(s, i);
        CHECK(n == 0 || s.kv_len[i] == n, "attn_bwd: sequence %d has %d keys, expected its own %d rows", i,
              (int)s.kv_len[i], n);
        for (int p = 0; p * KV_PAGE < n; p++)
            CHECK(s.kv_page[(int64_t)i * s.max_page + p] == s.q_off[i] + p * KV_PAGE,
                  "attn_bwd: page %d of sequence %d is not its own rows", p, i);
    }
}

/* Do the sequences have every row between them? */
bool covered(AttnSeqs s, int64_t rows) { return s.n_seq > 0 && s.q_off[0] == 0 && s.q_off[s.n_seq] == rows; }

/* q, k and v as BF16 chunks at `to`, rows where they were. */
void round_rows(Backend *be, AttnBwd *a, unsigned char *to) {
    size_t q_bytes = chunked(a->n, a->n_head, a->d_head), k_bytes = chunked(a->n, a->n_kv, a->d_head);
    const int STEP = 16;
    int64_t n = (a->n + STEP - 1) / STEP, chunk = (a->d_head + 7) / 8 * 8;
    Move *move = (Move *)mem_alloc((size_t)(n + 1) * sizeof *move);
    for (int64_t i = 0; i < n; i++) {
        int64_t left = a->n - i * STEP;
        move[i] = Move{(int32_t)(i * STEP), (int32_t)(i * STEP), (int32_t)(left < STEP ? left : STEP)};
    }
    Round r = {{a->q, (bf16_t *)to, a->n_head},
               {a->k, (bf16_t *)(to + q_bytes), a->n_kv},
               {a->v, (bf16_t *)(to + q_bytes + k_bytes), a->n_kv},
               a->d_head,
               (const Move *)cuda_index(be, &move[0].from, n * 3)};
    free(move);
    LAUNCH(be, attn_round, dim3((unsigned)n, 3), 256, 0, r);
    a->q = AttnMat{r.x.to, a->n_head * chunk, true, true};
    a->k = AttnMat{r.y.to, a->n_kv * chunk, true, true};
    a->v = AttnMat{r.z.to, a->n_kv * chunk, true, true};
}

void backward(Backend *be, AttnBwd a, AttnMat o, Tensor lse, AttnSeqs s, bool mma) {
    int64_t pairs = a.n * a.n_head;
    size_t stat_bytes = ((size_t)pairs * sizeof(float) + 255) / 256 * 256, q_bytes = chunked(a.n, a.n_head, a.d_head);
    size_t k_bytes = chunked(a.n, a.n_kv, a.d_head);
    bool round = mma && !(a.q.half && a.q.vec && a.k.half && a.k.vec && a.v.half && a.v.vec);
    bool round_do = mma && !(a.d_o.half && a.d_o.vec);
    unsigned char *at = (unsigned char *)cuda_scratch(be, 2 * stat_bytes + (round_do ? q_bytes : 0) +
                                                              (round ? q_bytes + 2 * k_bytes : 0));
    Delta d = {o,   a.d_o,    NULL,     (const float *)lse.data, (float *)at, (float *)(at + stat_bytes), lse.ld,
               a.n, a.n_head, a.d_head, mma ? ATTN_LOG2E : 1};
    at += 2 * stat_bytes;
    if (round_do) d.half = (bf16_t *)at, at += q_bytes;
    LAUNCH(be, attn_delta, (unsigned)((pairs + 31) / 32), 256, 0, d);
    a.lse = d.lse_out, a.delta = d.delta;
    if (round_do) a.d_o = AttnMat{d.half, (int64_t)a.n_head * ((a.d_head + 7) / 8) * 8, true, true};
    if (round) round_rows(be, &a, at);
    int n_key, n_query;
    bool hopper = mma && on_hopper(be, a.d_head);
    int rows = hopper ? (int)ATTN_WGMMA_ROWS
               : mma  ? attn_mma_bwd_rows(a.d_head)
                      : (int)ATTN_SIMT_ROWS,
        query_rows = mma ? (int)ATTN_MMA_ROWS : (int)ATTN_SIMT_ROWS;
    const AttnSpan *key = spans(be, s, rows, true, &n_key), *query = spans(be, s, query_rows, false, &n_query);
    if (n_key == 0) return;
    a.span = key;
    if (hopper)
        attn_wgmma_bwd_keys(be, a, n_key);
    else if (mma)
        attn_mma_bwd_keys(be, a, n_key);
    else
        attn_simt_bwd_keys(be, a, n_key);
    a.span = query;
    if (hopper)
        attn_wgmma_bwd_queries(be, a, n_query);
    else if (mma)
        attn_mma_bwd_queries(be, a, n_query);
    else
        attn_simt_bwd_queries(be, a, n_query);
}

} // namespace

void cuda_attn_bwd(Backend *be, Tensor dq, Tensor dk, Tensor dv, Tensor d_o, Tensor o, Tensor lse, Tensor q, Tensor k,
                   Tensor v, AttnSeqs s, int d_head) {
    cuda_check("attn_bwd", "dq", dq, q.rows, q.cols, CUDA_ANY);
    cuda_check("attn_bwd", "do", d_o, q.rows, q.cols, CUDA_ANY);
    cuda_check("attn_bwd", "o", o, q.rows, q.cols, CUDA_ANY);
    cuda_check("attn_bwd", "q", q, q.rows, q.cols, CUDA_ANY);
    cuda_check("attn_bwd", "dk", dk, q.rows, k.cols, CUDA_ANY);
    cuda_check("attn_bwd", "dv", dv, q.rows, k.cols, CUDA_ANY);
    cuda_check("attn_bwd", "k", k, q.rows, k.cols, CUDA_ANY);
    cuda_check("attn_bwd", "v", v, q.rows, k.cols, CUDA_ANY);
    if (q.rows == 0) return;
    check_seqs("attn_bwd", q, k, s, d_head);
    cuda_check("attn_bwd", "lse", lse, q.rows, q.cols / d_head, CUDA_REAL);
    check_training(s);
    if (!covered(s, q.rows)) cuda_zero(be, dq), cuda_zero(be, dk), cuda_zero(be, dv);
    AttnBwd a = {};
    a.q = matrix(q, d_head), a.k = matrix(k, d_head), a.v = matrix(v, d_head), a.d_o = matrix(d_o, d_head);
    a.dq = matrix(dq, d_head), a.dk = matrix(dk, d_head), a.dv = matrix(dv, d_head);
    a.n = q.rows;
    a.n_head = (int)(q.cols / d_head), a.n_kv = (int)(k.cols / d_head), a.d_head = d_head;
    a.window = s.window > 0 ? s.window : NO_WINDOW;
    a.causal = s.causal;
    a.scale = (float)(1 / sqrt((double)d_head));
    backward(be, a, matrix(o, d_head), lse, s, on_tensor_cores(be, d_head));
}
