/* tensor/cpu/kernels_attn_tile.h — attention's pieces over one tile of KV_PAGE keys: who sees what, scores, values.
 *
 * A group of up to TILE_ROWS rows sees a band of the tile's keys, row r those of [low + r*step, high + r*step):
 *
 *                 low            keys ->             high
 *      row 0       x  x  x  x  x  x  x  x  x  x  x  x
 *      row 1          x  x  x  x  x  x  x  x  x  x  x  x           (step 1: positions one after another; low moves
 *      row 2             x  x  x  x  x  x  x  x  x  x  x  x         only under a window)
 *                  head      all rows together       tail
 *
 * Every score and every output is one chain of fused multiply-adds, over d or over keys ascending, and a key enters no
 * sum of a row that does not see it, not even times 0. So a row's bits do not know its neighbours. */
#ifndef DIKAST_TENSOR_CPU_KERNELS_ATTN_TILE_H
#define DIKAST_TENSOR_CPU_KERNELS_ATTN_TILE_H

typedef struct {
    int32_t seq, query, key; /* first query row and first key of the task, within its sequence */
    int32_t kv_head, n_head; /* KV heads [kv_head, kv_head + n_head) */
} AttnTask;

typedef struct {
    Backend *be;
    Tensor o, lse, q, k, v;
    Tensor dq, dk, dv, d_o, delta;
    AttnSeqs s;
    int64_t d, width; /* d_head; padded to whole vectors */
    int64_t n_kv, group, window, block; /* block: rows of a task at most */
    bool add;
    float scale;
    const AttnTask *task;
    int64_t n_task;
} Attn;

static void check_seqs(const char *op, const Attn *a) {
    AttnSeqs s = a->s;
    CHECK(s.window == 0 || (s.window > 0 && s.causal), "%s: window %d, expected 0 or, when causal, more", op, s.window);
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
    a.window = s.window ? s.window : INT32_MAX;
    a.scale = (float)(1.0 / sqrt((double)d_head));
    check_seqs(op, &a);
    return a;
}

/* Of n products of 2 D flops per pair of a query and a key that it sees; a lone query (decoding) waits for its keys and
 * values, which is worth about eight operations a byte. */
static double attn_work(const Attn *a, double n) {
    double pairs = 0, cold = 0;
    for (int i = 0; i < a->s.n_seq; i++) {
        double len = (double)least(a->s.kv_len[i], a->window);
        int32_t rows = a->s.q_off[i + 1] - a->s.q_off[i];
        pairs += (double)rows * len;
        if (rows == 1) cold += len;
    }
    return 2.0 * n * pairs * (double)a->q.cols + 64.0 * cold * (double)a->k.cols;
}

static int64_t key_rows(AttnSeqs s, int seq, int64_t tile) { return s.kv_page[(int64_t)seq * s.max_page + tile]; }

INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* dst (D, 64) = transposed n rows of x from column col; whole groups of 16 keys, the last padded with 0 */
static void pack_keys(const Attn *a, float *dst, Tensor x, int64_t row, int64_t col, int64_t n) {
    for (int64_t j = 0; j < n; j += 16)
        pack_transposed(dst + j, KV_PAGE, f32_row(x, row + j) + col, x.ld, least(n - j, 16), a->d);
}

/* -- softmax --------------------------------------------------------------------------------------------------------
 */

enum { TILE_KEYS = KV_PAGE / 16 };

/* Lanes [low, high) of the vector at key j from x, the others from other. */
INLINE v16 band_select(v16 x, v16 other, int64_t j, int64_t low, int64_t high) {
    if (high < j + 16) x = v16_select_n(x, other, (int)most(high - j, 0));
    if (low > j) x = v16_select_n(other, x, (int)least(low - j, 16));
    return x;
}

/* The greatest score of a row; what it does not see becomes -inf. */
INLINE float row_top(float *s, int64_t low, int64_t high) {
    v16 t[TILE_KEYS];
    bool whole = low <= 0 && high >= KV_PAGE;
#pragma GCC unroll 4
    for (int u = 0; u < TILE_KEYS; u++) {
        t[u] = v16_load(s + 16 * u);
        if (whole) continue;
        t[u] = band_select(t[u], v16_set1(-INFINITY), 16 * u, low, high);
        v16_store(s + 16 * u, t[u]);
    }
    return v16_top(v16_max(v16_max(t[0], t[1]), v16_max(t[2], t[3])));
}

/* In place to e^(s scale - top); returns the sum. */
INLINE float row_exp(float *s, v16 scale, float top) {
    v16 t[TILE_KEYS], m = v16_set1(-top);
#pragma GCC unroll 4
    for (int u = 0; u < TILE_KEYS; u++) {
        t[u] = v16_exp_below(v16_fma(v16_load(s + 16 * u), scale, m));
        v16_store(s + 16 * u, t[u]);
    }
    return v16_sum(v16_add(v16_add(t[0], t[1]), v16_add(t[2], t[3])));
}

/* Scores of n <= 16 rows to probabilities under the new running maximum; top and sum advance, what was summed under the
 * old maximum is scaled by c, all rows' c at once. */
static void soften(float *s, int64_t n, int64_t low, int64_t high, int64_t step, float scale, float *top, float *sum,
                   float *acc, int64_t w) {
    float next[16] = {0}, carry[16];
    for (int64_t i = 0; i < n; i++) {
        float m = row_top(s + i * KV_PAGE, low + i * step, high + i * step) * scale;
        next[i] = top[i] > m ? top[i] : m;
    }
    v16_store(carry, v16_exp_below(v16_sub(v16_load_n(top, (int)n), v16_load(next))));
    for (int64_t i = 0; i < n; i++) {
        sum[i] = fmaf(sum[i], carry[i], row_exp(s + i * KV_PAGE, v16_set1(scale), next[i]));
        top[i] = next[i];
        if (carry[i] == 1.0f) continue;
        for (int64_t j = 0; j < w; j += 16)
            v16_store(acc + i * w + j, v16_mul(v16_load(acc + i * w + j), v16_set1(carry[i])));
    }
}

/* -- values ---------------------------------------------------------------------------------------------------------
 */

/* The keys of a group's band in one tile, as three runs: head, whole, tail. Key t of the head (counted from low) is
 * seen by rows r <= t, key t of the tail by rows r > t. A group has at most `window` rows, so the runs do not overlap. */
typedef struct {
    int64_t begin, head, head_end, whole, tail; /* begin: first key; head..head_end: range of t; then two counts */
} Band;

static Band band_of(int64_t n, int64_t low, int64_t high, int64_t step) {
    if (step == 0) n = 1;
    Band b = {.begin = most(low, 0), .head = most(-low, 0)};
    b.head_end = most(b.head, least(n - 1, KV_PAGE - low));
    int64_t from = least(most(low + n - 1, 0), KV_PAGE), end = least(high, KV_PAGE);
    b.whole = most(end - from, 0);
    b.tail = least(n - 1, KV_PAGE - end);
    return b;
}

typedef void BandFn(Band k, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc);

/* c += a b over a band; a and b begin at its first key. */
INLINE void micro_band(int mr, int nv, Band k, const float *a, int64_t lda, const float *b, int64_t ldb, float *c,
                       int64_t ldc) {
    v16 acc[TILE_ROWS][TILE_VECS], bv[TILE_VECS];
#pragma GCC unroll 8
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) acc[r][v] = v16_load(c + r * ldc + 16 * v);
#define KEY_FOR(from, end)                                                                                             \
    _Pragma("GCC unroll 4") for (int v = 0; v < nv; v++) bv[v] = v16_load(b + 16 * v);                                 \
    _Pragma("GCC unroll 8") for (int r = from; r < end; r++) {                                                         \
        v16 av = v16_set1(a[r * lda]);                                                                                 \
        _Pragma("GCC unroll 4") for (int v = 0; v < nv; v++) acc[r][v] = v16_fma(av, bv[v], acc[r][v]);                \
    }                                                                                                                  \
    a++, b += ldb;
#pragma GCC unroll 8
    for (int t = 0; t < mr - 1; t++) {
        if (t < k.head || t >= k.head_end) continue;
        KEY_FOR(0, t + 1)
    }
    for (int64_t i = 0; i < k.whole; i++) {
        KEY_FOR(0, mr)
    }
#pragma GCC unroll 8
    for (int t = 0; t < mr - 1; t++) {
        if (t >= k.tail) break;
        KEY_FOR(t + 1, mr)
    }
#undef KEY_FOR
#pragma GCC unroll 8
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) v16_store(c + r * ldc + 16 * v, acc[r][v]);
}

#define BAND(mr, nv)                                                                                                   \
    static void micro_band_##mr##_##nv(Band k, const float *a, int64_t lda, const float *b, int64_t ldb, float *c,     \
                                       int64_t ldc) {                                                                  \
        micro_band(mr, nv, k, a, lda, b, ldb, c, ldc);                                                                 \
    }
MICRO_TILES(BAND)
#define BAND_ENTRY(mr, nv) [mr - 1][nv - 1] = micro_band_##mr##_##nv,
static BandFn *const band_table[TILE_ROWS][TILE_VECS] = {MICRO_TILES(BAND_ENTRY)};

/* acc (n, w) += s v over each row's own keys; v (64, ldv) begins at key 0 of the tile. */
static void add_values(int64_t n, int64_t low, int64_t high, int64_t step, const float *s, const float *v, int64_t ldv,
                       float *acc, int64_t w) {
    Band b = band_of(n, low, high, step);
    s += b.begin, v += b.begin * ldv;
    if (b.head == b.head_end && b.tail == 0) {
        gemm_rows(n, w / 16, b.whole, s, KV_PAGE, v, ldv, acc, w, true);
        return;
    }
    for (int64_t j = 0, nv; j < w / 16; j += nv) {
        nv = next_vecs(w / 16 - j);
        band_table[n - 1][nv - 1](b, s, KV_PAGE, v + 16 * j, ldv, acc + 16 * j, w);
    }
}

/* -- one query ------------------------------------------------------------------------------------------------------
 *
 * A panel of keys would serve one query's heads only, so packing it would cost more than the product. Keys and values
 * are read in place: sixteen keys are transposed in registers, four d at a time, and multiplied at once. The chains are
 * the same. D is a multiple of 16 here.
 *
 * Reading them is the cost. Heads take turns with columns of the same rows, which hardware prefetch does not see
 * through (10 GB/s of memory where 28 can be had), so with every line that is used one is called for that is KV_PAGE
 * rows further on, in the order of memory (19 GB/s; called for in bursts: 10). Those rows end: after a sequence's last
 * comes the first of the sequence that the thread takes next. */
typedef struct {
    const float *at, *end; /* the next line; the end of its row's columns */
    int64_t cols, ld, rows; /* rows: left, that of the next line included */
} Run;
typedef struct {
    Run now, then; /* now of no rows: one line that is there already, then `then` */
} Fetch;

/* Columns [0, cols) of rows [first, end) of x. */
static Run run_of(const float *x, int64_t cols, int64_t ld, int64_t first, int64_t end) {
    const float *at = x + first * ld;
    return (Run){at, at + cols, cols, ld, most(end - first, 0)};
}

INLINE void fetch_line(Fetch *f) {
    __builtin_prefetch(f->now.at, 0, 2);
    f->now.at += 16;
    if (f->now.at < f->now.end) return;
    if (f->now.rows > 1) {
        f->now.rows--;
        f->now.end += f->now.ld;
        f->now.at = f->now.end - f->now.cols;
    } else if (f->then.rows > 0) {
        f->now = f->then;
        f->then.rows = 0;
    } else {
        f->now.at -= 16; /* nothing more to call for */
    }
}

static void fetch_lines(Fetch *f, int64_t n) {
    for (int64_t i = 0; i < n; i++) fetch_line(f);
}

typedef void KeysFn(int64_t d, const float *q, int64_t q_ld, const float *k, int64_t ldk, float *s, Fetch *next);

INLINE void micro_keys(int mr, int64_t d, const float *q, int64_t q_ld, const float *k, int64_t ldk, float *s,
                       Fetch *next) {
    v16 acc[TILE_ROWS];
    Fetch f = *next;
#pragma GCC unroll 8
    for (int r = 0; r < mr; r++) acc[r] = v16_zero();
    for (int64_t i = 0; i < d; i += 4) {
        v16 t[4];
        v16_load_columns(t, k + i, ldk);
#pragma GCC unroll 4
        for (int u = 0; u < 4; u++) {
            fetch_line(&f);
#pragma GCC unroll 8
            for (int r = 0; r < mr; r++) acc[r] = v16_fma(v16_set1(q[r * q_ld + i + u]), t[u], acc[r]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < mr; r++) v16_store(s + r * KV_PAGE, acc[r]);
    *next = f;
}

typedef void ValuesFn(int64_t n_key, const float *s, const float *v, int64_t ldv, float *c, int64_t ldc, Fetch *next);

enum { WIDE = 4 }; /* vectors of one row at once: as many chains as an FMA takes cycles */

INLINE void micro_values(int mr, int nv, int64_t n_key, const float *s, const float *v, int64_t ldv, float *c,
                         int64_t ldc, Fetch *next) {
    v16 acc[TILE_ROWS][WIDE];
    Fetch f = *next;
#pragma GCC unroll 8
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 4
        for (int u = 0; u < nv; u++) acc[r][u] = v16_load(c + r * ldc + 16 * u);
    for (int64_t i = 0; i < n_key; i++) {
#pragma GCC unroll 4
        for (int u = 0; u < nv; u++) {
            fetch_line(&f);
            v16 x = v16_load(v + i * ldv + 16 * u);
#pragma GCC unroll 8
            for (int r = 0; r < mr; r++) acc[r][u] = v16_fma(v16_set1(s[r * KV_PAGE + i]), x, acc[r][u]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 4
        for (int u = 0; u < nv; u++) v16_store(c + r * ldc + 16 * u, acc[r][u]);
    *next = f;
}

#define ONE_QUERY(mr, nv)                                                                                              \
    static void micro_values_##mr##_##nv(int64_t n, const float *s, const float *v, int64_t ldv, float *c,             \
                                         int64_t ldc, Fetch *next) {                                                   \
        micro_values(mr, nv, n, s, v, ldv, c, ldc, next);                                                              \
    }                                                                                                                  \
    ONE_QUERY_##nv(mr)
#define ONE_QUERY_1(mr)                                                                                                \
    static void micro_keys_##mr(int64_t d, const float *q, int64_t q_ld, const float *k, int64_t ldk, float *s,        \
                                Fetch *next) {                                                                         \
        micro_keys(mr, d, q, q_ld, k, ldk, s, next);                                                                   \
    }
#define ONE_QUERY_2(mr)
#define ONE_QUERY_3(mr)
MICRO_TILES(ONE_QUERY)
static void micro_values_wide(int64_t n, const float *s, const float *v, int64_t ldv, float *c, int64_t ldc,
                              Fetch *next) {
    micro_values(1, WIDE, n, s, v, ldv, c, ldc, next);
}

#define KEYS_ENTRY(mr, nv) KEYS_ENTRY_##nv(mr)
#define KEYS_ENTRY_1(mr) [mr - 1] = micro_keys_##mr,
#define KEYS_ENTRY_2(mr)
#define KEYS_ENTRY_3(mr)
#define VALUES_ENTRY(mr, nv) [mr - 1][nv - 1] = micro_values_##mr##_##nv,
static KeysFn *const keys_table[TILE_ROWS] = {MICRO_TILES(KEYS_ENTRY)};
static ValuesFn *const values_table[TILE_ROWS][TILE_VECS] = {MICRO_TILES(VALUES_ENTRY)};

/* s (n, 64) = scores of keys [low, high) of a tile whose first key is at k; n heads of one query. part: (16, D), where a
 * broken vector of keys is made a whole one: lanes that nobody sees hold whatever was there. */
static void keys_in_place(const Attn *a, int64_t n, const float *q, int64_t q_ld, const float *k, int64_t low,
                          int64_t high, float *s, float *part, Fetch *next) {
    for (int64_t j = low / 16 * 16; j < high; j += 16) {
        if (j + 16 <= high) {
            keys_table[n - 1](a->d, q, q_ld, k + j * a->k.ld, a->k.ld, s + j, next);
            continue;
        }
        for (int64_t i = j; i < high; i++)
            memcpy(part + (i - j) * a->d, k + i * a->k.ld, (size_t)a->d * sizeof *part);
        keys_table[n - 1](a->d, q, q_ld, part, a->d, s + j, next);
    }
}

/* acc (n, D) += s v over keys [low, high) */
static void values_in_place(const Attn *a, int64_t n, int64_t low, int64_t high, const float *s, const float *v,
                            float *acc, Fetch *next) {
    int64_t vecs = a->d / 16;
    v += low * a->v.ld;
    for (int64_t j = 0, nv; j < vecs; j += nv) {
        bool wide = n == 1 && vecs - j >= WIDE;
        nv = wide ? WIDE : next_vecs(vecs - j);
        ValuesFn *fn = wide ? micro_values_wide : values_table[n - 1][nv - 1];
        fn(high - low, s + low, v + 16 * j, a->v.ld, acc + 16 * j, a->d, next);
    }
}

#endif
