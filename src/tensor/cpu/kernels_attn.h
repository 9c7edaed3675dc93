/* tensor/cpu/kernels_attn.h — attention.
 *
 * Forward. A task is one sequence, one KV head and up to QUERIES query rows, for all query heads of the group. It walks
 * over the key tiles of KV_PAGE positions, counted from position 0, with the online softmax:
 *
 *      s = q k^T / sqrt D;  m' = max(m, max s);  c = e^(m - m');  l = c l + sum e^(s - m');  o = c o + e^(s - m') v
 *
 * K is packed transposed (D, 64) and V padded (64, D) once per tile for all rows of the task; both products are the
 * chain form of kernels_gemm.h, so a row's bits do not know its neighbours: one query decoding and a whole prompt
 * agree. A key a row does not see enters none of its sums, not even times 0: on the diagonal a group of rows takes the
 * keys that all of them see together, and the few others row by row. Hence unused cache rows may hold NaN.
 *
 * Backward. A task is one sequence and one KV head; dk and dv of a tile stay in its scratch while the query tiles of
 * all heads pass, dq grows in place, tile by tile in order. p is computed again from lse; delta_i = do_i . o_i replaces
 * the sum over keys of p_ij dp_ij (Dao et al. 2022, eq. 4). */
#ifndef DIKAST_TENSOR_CPU_KERNELS_ATTN_H
#define DIKAST_TENSOR_CPU_KERNELS_ATTN_H

enum { QUERIES = 64 };

typedef struct {
    int32_t seq, first; /* first query row of the task, within its sequence */
} AttnTask;

typedef struct {
    Backend *be;
    Tensor o, lse, q, k, v;
    Tensor dq, dk, dv, d_o;
    AttnSeqs s;
    int64_t d, width; /* d_head; padded to whole vectors */
    int64_t n_kv, group, longest;
    float scale;
    const AttnTask *task;
} Attn;

static void check_seqs(const char *op, const Attn *a) {
    AttnSeqs s = a->s;
    for (int i = 0; i < s.n_seq; i++) {
        int n = s.q_off[i + 1] - s.q_off[i], len = s.kv_len[i];
        CHECK(s.q_off[i] >= 0 && n >= 0 && s.q_off[i + 1] <= a->q.rows, "%s: sequence %d has rows [%d, %d) of %lld", op,
              i, (int)s.q_off[i], (int)s.q_off[i + 1], (long long)a->q.rows);
        if (n == 0) continue;
        CHECK(len >= 1 && (len >= n || !s.causal), "%s: sequence %d has %d queries, %d keys", op, i, n, len);
        CHECK(len <= (int64_t)s.max_page * KV_PAGE, "%s: sequence %d has %d keys, %d pages", op, i, len, s.max_page);
        for (int p = 0; p * KV_PAGE < len; p++) {
            int64_t first = s.kv_page[(int64_t)i * s.max_page + p], last = first + least(len - p * KV_PAGE, KV_PAGE);
            CHECK(first >= 0 && last <= a->k.rows, "%s: sequence %d page %d is rows [%lld, %lld) of %lld", op, i, p,
                  (long long)first, (long long)last, (long long)a->k.rows);
        }
    }
}

static Attn attn_open(const char *op, Backend *be, Tensor q, Tensor k, Tensor v, AttnSeqs s, int d_head) {
    cpu_check(op, "q", q, q.rows, q.cols);
    cpu_check(op, "k", k, k.rows, k.cols);
    cpu_check(op, "v", v, k.rows, k.cols);
    CHECK(d_head > 0 && q.cols % d_head == 0 && k.cols % d_head == 0 && k.cols > 0 && q.cols % k.cols == 0,
          "%s: q has %lld columns, k %lld, d_head %d", op, (long long)q.cols, (long long)k.cols, d_head);
    Attn a = {.be = be, .q = q, .k = k, .v = v, .s = s, .d = d_head};
    a.width = ceil_div(d_head, 16) * 16;
    a.n_kv = k.cols / d_head;
    a.group = q.cols / k.cols;
    a.scale = (float)(1.0 / sqrt((double)d_head));
    check_seqs(op, &a);
    return a;
}

static double attn_flops(const Attn *a) {
    double pairs = 0;
    for (int i = 0; i < a->s.n_seq; i++) pairs += (double)(a->s.q_off[i + 1] - a->s.q_off[i]) * (double)a->s.kv_len[i];
    return 4.0 * pairs * (double)a->q.cols;
}

static int64_t key_rows(AttnSeqs s, int seq, int64_t tile) { return s.kv_page[(int64_t)seq * s.max_page + tile]; }

/* dst (D, 64) = transposed n rows of x from column col; whole groups of 16 keys, the last padded with 0 */
static void pack_keys(const Attn *a, float *dst, Tensor x, int64_t row, int64_t col, int64_t n) {
    for (int64_t j = 0; j < n; j += 16)
        pack_transposed(dst + j, KV_PAGE, f32_row(x, row + j) + col, x.ld, least(n - j, 16), a->d);
}

/* -- forward --------------------------------------------------------------------------------------------------------
 */

/* Rows that share K and V: queries of one head, or, when there is one query, the heads of the group. */
typedef struct {
    int64_t n;
    const float *q;
    float *o, *lse;
    int64_t q_ld, o_ld, lse_ld;
    int64_t seen, seen_step; /* keys row 0 sees; more for each further row */
    float *acc, *top, *sum;  /* (n, width), (n), (n) */
} AttnRows;

/* One row of scores, scaled, -inf where not seen; returns the greatest. */
INLINE float scale_row(float *s, int64_t seen, v16 scale) {
    v16 t[KV_PAGE / 16];
#pragma GCC unroll 4
    for (int u = 0; u < KV_PAGE / 16; u++) {
        t[u] = v16_mul(v16_load(s + 16 * u), scale);
        if (seen < 16 * (u + 1)) t[u] = v16_select_n(t[u], v16_set1(-INFINITY), seen > 16 * u ? (int)seen - 16 * u : 0);
        v16_store(s + 16 * u, t[u]);
    }
    return v16_top(v16_max(v16_max(t[0], t[1]), v16_max(t[2], t[3])));
}

/* In place to e^(s - top); returns the sum. */
INLINE float exp_row(float *s, float top) {
    v16 t[KV_PAGE / 16], m = v16_set1(top);
#pragma GCC unroll 4
    for (int u = 0; u < KV_PAGE / 16; u++) {
        t[u] = v16_exp(v16_sub(v16_load(s + 16 * u), m));
        v16_store(s + 16 * u, t[u]);
    }
    return v16_sum(v16_add(v16_add(t[0], t[1]), v16_add(t[2], t[3])));
}

/* Scores of n <= 16 rows to probabilities under the new running maximum; top and sum advance, what was summed under the
 * old maximum is scaled by c, all rows' c at once. */
static void soften(float *s, int64_t n, int64_t seen, int64_t step, float scale, float *top, float *sum, float *acc,
                   int64_t w) {
    float next[16] = {0}, carry[16];
    for (int64_t i = 0; i < n; i++) {
        float m = scale_row(s + i * KV_PAGE, least(seen + i * step, KV_PAGE), v16_set1(scale));
        next[i] = top[i] > m ? top[i] : m;
    }
    v16_store(carry, v16_exp(v16_sub(v16_load_n(top, (int)n), v16_load(next))));
    for (int64_t i = 0; i < n; i++) {
        sum[i] = fmaf(sum[i], carry[i], exp_row(s + i * KV_PAGE, next[i]));
        top[i] = next[i];
        if (carry[i] == 1.0f) continue;
        for (int64_t j = 0; j < w; j += 16)
            v16_store(acc + i * w + j, v16_mul(v16_load(acc + i * w + j), v16_set1(carry[i])));
    }
}

/* n rows from r of one key tile; the first sees `seen` of its keys, all see at least one. */
static void attend_group(const Attn *a, const AttnRows *b, int64_t r, int64_t n, int64_t seen, const float *kt,
                         const float *v, float *s) {
    int64_t w = a->width, last = least(seen + (n - 1) * b->seen_step, KV_PAGE);
    float *acc = b->acc + r * w;
    gemm_rows(n, ceil_div(last, 16), a->d, b->q + r * b->q_ld, b->q_ld, kt, KV_PAGE, s, KV_PAGE, false);
    soften(s, n, seen, b->seen_step, a->scale, b->top + r, b->sum + r, acc, w);
    int64_t all = least(seen, KV_PAGE);
    gemm_rows(n, w / 16, all, s, KV_PAGE, v, w, acc, w, true);
    for (int64_t i = 1; i < n; i++) {
        int64_t more = least(seen + i * b->seen_step, KV_PAGE) - all;
        if (more > 0) gemm_rows(1, w / 16, more, s + i * KV_PAGE + all, KV_PAGE, v + all * w, w, acc + i * w, w, true);
    }
}

static void attend_tile(const Attn *a, const AttnRows *b, int64_t tile, const float *kt, const float *v, float *s) {
    int64_t first = tile * KV_PAGE, r = 0;
    if (b->seen <= first) r = b->seen_step ? first - b->seen + 1 : b->n;
    for (; r < b->n; r += TILE_ROWS)
        attend_group(a, b, r, least(b->n - r, TILE_ROWS), b->seen + r * b->seen_step - first, kt, v, s);
}

static void attn_finish(const Attn *a, const AttnRows *b) {
    for (int64_t i = 0; i < b->n; i++) {
        v16 inv = v16_set1(1.0f / b->sum[i]);
        for (int64_t j = 0; j < a->d; j += 16)
            v16_put(b->o + i * b->o_ld + j, v16_mul(v16_load(b->acc + i * a->width + j), inv), a->d - j);
        if (b->lse) b->lse[i * b->lse_ld] = (float)((double)b->top[i] + cpu_log((double)b->sum[i]));
    }
}

/* Query head h of the group, or all of them when the task has one query row. */
static AttnRows attn_rows(const Attn *a, const AttnTask *t, int64_t n, int64_t head, bool heads) {
    int64_t row = a->s.q_off[t->seq] + t->first, n_query = a->s.q_off[t->seq + 1] - a->s.q_off[t->seq];
    AttnRows b = {.n = heads ? a->group : n, .q = f32_row(a->q, row) + head * a->d};
    b.o = f32_row(a->o, row) + head * a->d;
    b.lse = tensor_empty(a->lse) ? NULL : f32_row(a->lse, row) + head;
    b.q_ld = heads ? a->d : a->q.ld;
    b.o_ld = heads ? a->d : a->o.ld;
    b.lse_ld = heads ? 1 : a->lse.ld;
    b.seen = a->s.causal ? a->s.kv_len[t->seq] - n_query + t->first + 1 : a->s.kv_len[t->seq];
    b.seen_step = a->s.causal && !heads;
    return b;
}

static int64_t attn_fwd_scratch(const Attn *a) {
    return 2 * KV_PAGE * a->width + TILE_ROWS * KV_PAGE + a->group * QUERIES * (a->width + 2);
}

static void attn_fwd_task(void *ud, int64_t index, int thread) {
    const Attn *a = ud;
    const AttnTask *t = &a->task[index / a->n_kv];
    int64_t kv_head = index % a->n_kv, w = a->width, n_query = a->s.q_off[t->seq + 1] - a->s.q_off[t->seq];
    int64_t n = least(n_query - t->first, QUERIES), blocks = n == 1 ? 1 : a->group, col = kv_head * a->d;
    float *kt = cpu_scratch_of(a->be, thread), *v = kt + KV_PAGE * w, *s = v + KV_PAGE * w;
    float *acc = s + TILE_ROWS * KV_PAGE, *top = acc + a->group * QUERIES * w, *sum = top + a->group * QUERIES;
    for (int64_t i = 0; i < a->group * n; i++) top[i] = -INFINITY;
    memset(sum, 0, (size_t)(a->group * n) * sizeof *sum);
    memset(acc, 0, (size_t)(a->group * n * w) * sizeof *acc);
    int64_t len = a->s.kv_len[t->seq], seen = a->s.causal ? len - n_query + t->first + n : len;
    for (int64_t tile = 0; tile * KV_PAGE < seen; tile++) {
        int64_t row = key_rows(a->s, t->seq, tile), n_key = least(seen - tile * KV_PAGE, KV_PAGE);
        pack_keys(a, kt, a->k, row, col, n_key);
        pack_rows(v, w, f32_row(a->v, row) + col, a->v.ld, n_key, a->d);
        for (int64_t g = 0; g < blocks; g++) {
            AttnRows b = attn_rows(a, t, n, kv_head * a->group + g, n == 1);
            b.acc = acc + g * n * w, b.top = top + g * n, b.sum = sum + g * n;
            attend_tile(a, &b, tile, kt, v, s);
        }
    }
    for (int64_t g = 0; g < blocks; g++) {
        AttnRows b = attn_rows(a, t, n, kv_head * a->group + g, n == 1);
        b.acc = acc + g * n * w, b.top = top + g * n, b.sum = sum + g * n;
        attn_finish(a, &b);
    }
}

static void attn_fwd(Backend *be, Tensor o, Tensor lse, Tensor q, Tensor k, Tensor v, AttnSeqs s, int d_head) {
    Attn a = attn_open("attn_fwd", be, q, k, v, s, d_head);
    cpu_check("attn_fwd", "o", o, q.rows, q.cols);
    cpu_check_opt("attn_fwd", "lse", lse, q.rows, q.cols / d_head);
    a.o = o;
    a.lse = lse;
    AttnTask *task = cpu_scratch_shared(be, (size_t)(q.rows + 1) * sizeof *task);
    int64_t n = 0;
    for (int i = 0; i < s.n_seq; i++)
        for (int32_t first = 0; first < s.q_off[i + 1] - s.q_off[i]; first += QUERIES) task[n++] = (AttnTask){i, first};
    a.task = task;
    cpu_scratch_threads(be, attn_fwd_scratch(&a));
    cpu_tiles(be, n * a.n_kv, attn_flops(&a), attn_fwd_task, &a);
}

/* -- backward -------------------------------------------------------------------------------------------------------
 */

typedef struct {
    float *kt, *vt;      /* (D, 64): packed once per key tile */
    float *k, *dk, *dv;  /* (64, width) */
    float *q, *d_o, *dq; /* (64, width): of one query tile and head */
    float *p, *ds;       /* (64, 64) */
    float *delta;        /* (group, longest) */
} AttnGrad;

static int64_t attn_bwd_scratch(const Attn *a) {
    return 8 * KV_PAGE * a->width + 2 * KV_PAGE * KV_PAGE + a->group * a->longest;
}

static AttnGrad attn_grad(const Attn *a, float *at) {
    int64_t tile = KV_PAGE * a->width;
    AttnGrad g = {.kt = at, .vt = at + tile, .k = at + 2 * tile, .dk = at + 3 * tile, .dv = at + 4 * tile};
    g.q = at + 5 * tile;
    g.d_o = at + 6 * tile;
    g.dq = at + 7 * tile;
    g.p = at + 8 * tile;
    g.ds = g.p + KV_PAGE * KV_PAGE;
    g.delta = g.ds + KV_PAGE * KV_PAGE;
    return g;
}

/* p and ds of one row; what it does not see becomes 0. */
static void soften_bwd(float *s, float *dp, int64_t seen, float scale, float lse, float delta) {
    v16 k = v16_set1(scale), l = v16_set1(lse), de = v16_set1(delta);
    for (int64_t j = 0; j < KV_PAGE; j += 16) {
        v16 p = v16_exp(v16_sub(v16_mul(v16_load(s + j), k), l));
        v16 ds = v16_mul(v16_mul(p, v16_sub(v16_load(dp + j), de)), k);
        if (seen < j + 16) {
            int n = seen > j ? (int)(seen - j) : 0;
            p = v16_select_n(p, v16_zero(), n);
            ds = v16_select_n(ds, v16_zero(), n);
        }
        v16_store(s + j, p);
        v16_store(dp + j, ds);
    }
}

/* Head h, query rows [row, row + n) against the packed key tile of n_key keys. seen: keys of the tile the first row
 * sees; step 1: each further row one more. */
static void attend_bwd(const Attn *a, const AttnGrad *g, int64_t row, int64_t n, int64_t h, const float *delta,
                       int64_t n_key, int64_t seen, int64_t step, bool first) {
    int64_t w = a->width, vecs = w / 16;
    pack_rows(g->q, w, f32_row(a->q, row) + h * a->d, a->q.ld, n, a->d);
    pack_rows(g->d_o, w, f32_row(a->d_o, row) + h * a->d, a->d_o.ld, n, a->d);
    for (int64_t r = 0; r < n; r += TILE_ROWS) {
        int64_t mr = least(n - r, TILE_ROWS), last = least(seen + (r + mr - 1) * step, n_key);
        gemm_rows(mr, ceil_div(last, 16), a->d, g->q + r * w, w, g->kt, KV_PAGE, g->p + r * KV_PAGE, KV_PAGE, false);
        gemm_rows(mr, ceil_div(last, 16), a->d, g->d_o + r * w, w, g->vt, KV_PAGE, g->ds + r * KV_PAGE, KV_PAGE, false);
        for (int64_t i = r; i < r + mr; i++)
            soften_bwd(g->p + i * KV_PAGE, g->ds + i * KV_PAGE, least(seen + i * step, n_key), a->scale,
                       f32_row(a->lse, row + i)[h], delta[i]);
        gemm_rows(mr, vecs, last, g->ds + r * KV_PAGE, KV_PAGE, g->k, w, g->dq + r * w, w, false);
    }
    for (int64_t j = 0; j < n_key; j += TILE_ROWS) {
        /* Rows before this one see none of these keys. */
        int64_t mr = least(n_key - j, TILE_ROWS), from = step && j >= seen ? j - seen + 1 : 0;
        if (from >= n) break;
        gemm_cols(mr, vecs, n - from, g->p + from * KV_PAGE + j, KV_PAGE, g->d_o + from * w, w, g->dv + j * w, w, true);
        gemm_cols(mr, vecs, n - from, g->ds + from * KV_PAGE + j, KV_PAGE, g->q + from * w, w, g->dk + j * w, w, true);
    }
    for (int64_t i = 0; i < n; i++) {
        float *dq = f32_row(a->dq, row + i) + h * a->d;
        for (int64_t j = 0; j < a->d; j += 16) {
            v16 d = v16_load(g->dq + i * w + j);
            v16_put(dq + j, first ? d : v16_add(v16_get(dq + j, a->d - j), d), a->d - j);
        }
    }
}

static void attn_deltas(const Attn *a, const AttnGrad *g, int64_t begin, int64_t n, int64_t head) {
    for (int64_t h = 0; h < a->group; h++)
        for (int64_t i = 0; i < n; i++) {
            const float *x = f32_row(a->d_o, begin + i) + (head + h) * a->d;
            const float *y = f32_row(a->o, begin + i) + (head + h) * a->d;
            v16 sum = v16_zero();
            for (int64_t j = 0; j < a->d; j += 16)
                sum = v16_fma(v16_get(x + j, a->d - j), v16_get(y + j, a->d - j), sum);
            g->delta[h * a->longest + i] = v16_sum(sum);
        }
}

static void attn_bwd_task(void *ud, int64_t index, int thread) {
    const Attn *a = ud;
    int64_t seq = index / a->n_kv, kv_head = index % a->n_kv, col = kv_head * a->d, w = a->width;
    int64_t begin = a->s.q_off[seq], n = a->s.q_off[seq + 1] - begin;
    AttnGrad g = attn_grad(a, cpu_scratch_of(a->be, thread));
    attn_deltas(a, &g, begin, n, kv_head * a->group);
    for (int64_t first = 0; first < n; first += KV_PAGE) {
        int64_t n_key = least(n - first, KV_PAGE);
        pack_keys(a, g.kt, a->k, begin + first, col, n_key);
        pack_keys(a, g.vt, a->v, begin + first, col, n_key);
        pack_rows(g.k, w, f32_row(a->k, begin + first) + col, a->k.ld, n_key, a->d);
        memset(g.dk, 0, (size_t)(KV_PAGE * w) * sizeof(float));
        memset(g.dv, 0, (size_t)(KV_PAGE * w) * sizeof(float));
        for (int64_t q = a->s.causal ? first : 0; q < n; q += KV_PAGE)
            for (int64_t h = 0; h < a->group; h++) {
                bool diagonal = a->s.causal && q == first;
                attend_bwd(a, &g, begin + q, least(n - q, KV_PAGE), kv_head * a->group + h,
                           g.delta + h * a->longest + q, n_key, diagonal ? 1 : KV_PAGE, diagonal, first == 0);
            }
        for (int64_t i = 0; i < n_key; i++)
            for (int64_t j = 0; j < a->d; j += 16) {
                v16_put(f32_row(a->dk, begin + first + i) + col + j, v16_load(g.dk + i * w + j), a->d - j);
                v16_put(f32_row(a->dv, begin + first + i) + col + j, v16_load(g.dv + i * w + j), a->d - j);
            }
    }
}

/* A row that belongs to no sequence has gradient 0. */
static void zero_gaps(Backend *be, const Attn *a) {
    int64_t covered = 0;
    for (int i = 0; i < a->s.n_seq; i++) covered += a->s.q_off[i + 1] - a->s.q_off[i];
    if (covered == a->q.rows) return;
    zero(be, a->dq);
    zero(be, a->dk);
    zero(be, a->dv);
}

static void attn_bwd(Backend *be, Tensor dq, Tensor dk, Tensor dv, Tensor d_o, Tensor o, Tensor lse, Tensor q, Tensor k,
                     Tensor v, AttnSeqs s, int d_head) {
    Attn a = attn_open("attn_bwd", be, q, k, v, s, d_head);
    cpu_check("attn_bwd", "dq", dq, q.rows, q.cols);
    cpu_check("attn_bwd", "do", d_o, q.rows, q.cols);
    cpu_check("attn_bwd", "o", o, q.rows, q.cols);
    cpu_check("attn_bwd", "k", k, q.rows, k.cols);
    cpu_check("attn_bwd", "dk", dk, q.rows, k.cols);
    cpu_check("attn_bwd", "dv", dv, q.rows, k.cols);
    cpu_check("attn_bwd", "lse", lse, q.rows, q.cols / d_head);
    a.dq = dq, a.dk = dk, a.dv = dv, a.d_o = d_o, a.o = o, a.lse = lse;
    for (int i = 0; i < s.n_seq; i++) {
        int64_t begin = s.q_off[i], n = s.q_off[i + 1] - begin;
        CHECK(n == 0 || s.kv_len[i] == n, "attn_bwd: sequence %d has %d keys, expected its own %lld rows", i,
              (int)s.kv_len[i], (long long)n);
        for (int64_t p = 0; p * KV_PAGE < n; p++)
            CHECK(key_rows(s, i, p) == begin + p * KV_PAGE, "attn_bwd: page %lld of sequence %d is not its own rows",
                  (long long)p, i);
        a.longest = n > a.longest ? n : a.longest;
    }
    zero_gaps(be, &a);
    cpu_scratch_threads(be, attn_bwd_scratch(&a));
    cpu_tiles(be, s.n_seq * a.n_kv, 2.5 * attn_flops(&a), attn_bwd_task, &a);
}

#endif
