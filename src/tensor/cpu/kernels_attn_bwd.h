/* tensor/cpu/kernels_attn_bwd.h — attention, backward.
 *
 * p is computed again from lse; delta_i = do_i . o_i replaces the sum over keys of p_ij dp_ij (Dao et al. 2022, eq. 4).
 * The pairs (query block, key block) of a sequence pass diagonal by diagonal: on one diagonal no two pairs share a row
 * of dq or of dk and dv, so they are tasks of one region, and every sum grows in the order of the diagonals whoever
 * computes it. One long sequence occupies all threads, and nothing but the blocks of a task is kept.
 *
 * Where a sequence's queries are a part (attn_part_bwd) its blocks of queries begin anywhere among its keys: those of one
 * diagonal still share no row. Pieces of one sequence take turns. */
#ifndef DIKAST_TENSOR_CPU_KERNELS_ATTN_BWD_H
#define DIKAST_TENSOR_CPU_KERNELS_ATTN_BWD_H

/* Tiles in a block each way, fewer for wide heads: what a task packs should stay in L2. */
enum { GRAD_TILES = 4 };

/* Of a task: blocks of keys and of queries (one head at a time), in tiles of KV_PAGE rows. */
typedef struct {
    float *kt, *vt;      /* tiles of (D, 64) */
    float *k, *dk, *dv;  /* (block, width); k scaled */
    float *q, *d_o, *dq; /* (block, width); q scaled */
    float *p, *ds;       /* (64, 64), of one tile each way */
} AttnGrad;

static int64_t attn_bwd_scratch(const Attn *a) { return 8 * a->block * a->width + 2 * KV_PAGE * KV_PAGE; }

static AttnGrad attn_grad(const Attn *a, float *at) {
    int64_t size = a->block * a->width;
    AttnGrad g = {.kt = at, .vt = at + size, .k = at + 2 * size, .dk = at + 3 * size, .dv = at + 4 * size};
    g.q = at + 5 * size;
    g.d_o = at + 6 * size;
    g.dq = at + 7 * size;
    g.p = at + 8 * size;
    g.ds = g.p + KV_PAGE * KV_PAGE;
    return g;
}

/* dst = scale * src, as pack_rows */
static void pack_scaled(float *dst, int64_t ldd, const float *src, int64_t lds, int64_t rows, int64_t cols,
                        float scale) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j += 16) {
            __builtin_prefetch(src + (i + 12) * lds + j);
            v16_store(dst + i * ldd + j, v16_mul(v16_get(src + i * lds + j, cols - j), v16_set1(scale)));
        }
}

/* p and ds of one row from scores and dp; what it does not see becomes 0. */
INLINE void soften_bwd(float *s, float *dp, int64_t low, int64_t high, float lse, float delta) {
    v16 l = v16_set1(lse), de = v16_set1(delta);
    bool whole = low <= 0 && high >= KV_PAGE;
#pragma GCC unroll 4
    for (int64_t j = 0; j < KV_PAGE; j += 16) {
        v16 p = v16_exp(v16_sub(v16_load(s + j), l));
        v16 ds = v16_mul(p, v16_sub(v16_load(dp + j), de));
        if (!whole) {
            p = band_select(p, v16_zero(), j, low, high);
            ds = band_select(ds, v16_zero(), j, low, high);
        }
        v16_store(s + j, p);
        v16_store(dp + j, ds);
    }
}

/* dst rows (n, D) = or += src (n, width) */
static void put_rows(const Attn *a, Tensor t, int64_t row, int64_t col, const float *src, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float *dst = f32_row(t, row + i) + col;
        for (int64_t j = 0; j < a->d; j += 16) {
            __builtin_prefetch(dst + 12 * t.ld + j, 1);
            v16 x = v16_load(src + i * a->width + j);
            v16_put(dst + j, a->add ? v16_add(v16_get(dst + j, a->d - j), x) : x, a->d - j);
        }
    }
}

/* Tile at `query` of the block's n_query rows, of head h and from row on, against the tile at `key` of its n_key keys.
 * Row r sees keys [low + r*step, high + r*step) of it. */
static void attend_bwd(const Attn *a, const AttnGrad *g, int64_t row, int64_t h, int64_t query, int64_t n, int64_t key,
                       int64_t n_key, int64_t low, int64_t high) {
    int64_t w = a->width, vecs = w / 16, step = a->s.causal;
    const float *q = g->q + query * w, *d_o = g->d_o + query * w, *k = g->k + key * w;
    const float *kt = g->kt + key * w, *vt = g->vt + key * w;
    for (int64_t r = 0; r < n; r += TILE_ROWS) {
        int64_t mr = least(n - r, TILE_ROWS), at = r * KV_PAGE;
        int64_t from = least(most(low + r * step, 0), n_key);
        int64_t end = most(least(high + (r + mr - 1) * step, n_key), from);
        int64_t v0 = from / 16, nv = ceil_div(end, 16) - v0;
        gemm_rows(mr, nv, a->d, q + r * w, w, kt + v0 * 16, KV_PAGE, g->p + at + v0 * 16, KV_PAGE, false);
        gemm_rows(mr, nv, a->d, d_o + r * w, w, vt + v0 * 16, KV_PAGE, g->ds + at + v0 * 16, KV_PAGE, false);
        for (int64_t i = r; i < r + mr; i++)
            soften_bwd(g->p + i * KV_PAGE, g->ds + i * KV_PAGE, low + i * step, least(high + i * step, n_key),
                       f32_row(a->lse, row + query + i)[h], f32_row(a->delta, row + query + i)[h]);
        gemm_rows(mr, vecs, end - from, g->ds + at + from, KV_PAGE, k + from * w, w, g->dq + (query + r) * w, w, true);
    }
    for (int64_t j = 0; j < n_key; j += TILE_ROWS) {
        /* Rows before `from` are too early for these keys, rows from `end` on have them behind their window. */
        int64_t mr = least(n_key - j, TILE_ROWS), from = 0, end = n;
        if (step) from = least(most(j - high + 1, 0), n), end = most(least(j + mr - low, n), from);
        const float *p = g->p + from * KV_PAGE + j, *ds = g->ds + from * KV_PAGE + j;
        gemm_cols(mr, vecs, end - from, p, KV_PAGE, d_o + from * w, w, g->dv + (key + j) * w, w, true);
        gemm_cols(mr, vecs, end - from, ds, KV_PAGE, q + from * w, w, g->dk + (key + j) * w, w, true);
    }
}

/* Position of a sequence's first query; where nothing is masked nobody asks. */
static int64_t queries_from(const Attn *a, int seq) {
    return a->s.causal ? a->s.kv_len[seq] - (a->s.q_off[seq + 1] - a->s.q_off[seq]) : 0;
}

/* The tiles of a query block (first row `query` of the sequence) and a key block that see each other. */
static void attend_blocks(const Attn *a, const AttnGrad *g, const AttnTask *t, int64_t n_query, int64_t n_key,
                          int64_t h) {
    int64_t row = a->s.q_off[t->seq] + t->query, at = t->query + queries_from(a, t->seq);
    for (int64_t j = 0; j < n_key; j += KV_PAGE)
        for (int64_t i = 0; i < n_query; i += KV_PAGE) {
            int64_t n = least(n_query - i, KV_PAGE), m = least(n_key - j, KV_PAGE);
            int64_t high = a->s.causal ? at + i + 1 - (t->key + j) : KV_PAGE, low = high - a->window;
            if (high + n - 1 > 0 && low < m) attend_bwd(a, g, row, h, i, n, j, m, low, high);
        }
}

static void attn_bwd_task(void *ud, int64_t index, int thread) {
    const Attn *a = ud;
    const AttnTask *t = &a->task[index];
    int64_t begin = a->s.q_off[t->seq], n = a->s.q_off[t->seq + 1] - begin, w = a->width, col = t->kv_head * a->d;
    int64_t n_key = least(a->s.kv_len[t->seq] - t->key, a->block), n_query = least(n - t->query, a->block);
    int64_t key = key_rows(a->s, t->seq, 0) + t->key;
    AttnGrad g = attn_grad(a, cpu_scratch_of(a->be, thread));
    for (int64_t j = 0; j < n_key; j += KV_PAGE) {
        pack_keys(a, g.kt + j * w, a->k, key + j, col, least(n_key - j, KV_PAGE));
        pack_keys(a, g.vt + j * w, a->v, key + j, col, least(n_key - j, KV_PAGE));
    }
    pack_scaled(g.k, w, f32_row(a->k, key) + col, a->k.ld, n_key, a->d, a->scale);
    memset(g.dk, 0, (size_t)(n_key * w) * sizeof(float));
    memset(g.dv, 0, (size_t)(n_key * w) * sizeof(float));
    for (int64_t h = t->kv_head * a->group; h < (t->kv_head + 1) * a->group; h++) {
        pack_scaled(g.q, w, f32_row(a->q, begin + t->query) + h * a->d, a->q.ld, n_query, a->d, a->scale);
        pack_rows(g.d_o, w, f32_row(a->d_o, begin + t->query) + h * a->d, a->d_o.ld, n_query, a->d);
        memset(g.dq, 0, (size_t)(n_query * w) * sizeof(float));
        attend_blocks(a, &g, t, n_query, n_key, h);
        put_rows(a, a->dq, begin + t->query, h * a->d, g.dq, n_query);
    }
    put_rows(a, a->dk, key, col, g.dk, n_key);
    put_rows(a, a->dv, key, col, g.dv, n_key);
}

static void delta_task(const void *job, int64_t row, int64_t row_end) {
    const Attn *a = job;
    for (int64_t i = row; i < row_end; i++)
        for (int64_t h = 0; h < a->delta.cols; h++) {
            const float *x = f32_row(a->d_o, i) + h * a->d, *y = f32_row(a->o, i) + h * a->d;
            v16 sum = v16_zero();
            for (int64_t j = 0; j < a->d; j += 16)
                sum = v16_fma(v16_get(x + j, a->d - j), v16_get(y + j, a->d - j), sum);
            f32_row(a->delta, i)[h] = v16_sum(sum);
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

/* Returns the longest sequence. */
static int64_t check_own_rows(const Attn *a) {
    int64_t longest = 0;
    for (int i = 0; i < a->s.n_seq; i++) {
        int64_t begin = a->s.q_off[i], n = a->s.q_off[i + 1] - begin;
        CHECK(n == 0 || a->s.kv_len[i] == n, "attn_bwd: sequence %d has %d keys, expected its own %lld rows", i,
              (int)a->s.kv_len[i], (long long)n);
        for (int64_t p = 0; p * KV_PAGE < n; p++)
            CHECK(key_rows(a->s, i, p) == begin + p * KV_PAGE, "attn_bwd: page %lld of sequence %d is not its own rows",
                  (long long)p, i);
        longest = most(longest, n);
    }
    return longest;
}

/* The pairs of blocks on one diagonal. Without a mask it goes on around the corner. */
static int64_t attn_bwd_tasks(const Attn *a, AttnTask *task, int64_t step) {
    int64_t n = 0;
    for (int i = 0; i < a->s.n_seq; i++) {
        int64_t blocks = ceil_div(a->s.q_off[i + 1] - a->s.q_off[i], a->block);
        for (int64_t j = 0; j < blocks && step < blocks; j++) {
            int64_t q = j + step;
            if (q >= blocks && a->s.causal) break;
            for (int64_t h = 0; h < a->n_kv; h++)
                task[n++] = (AttnTask){i, (int32_t)(q % blocks * a->block), (int32_t)(j * a->block), (int32_t)h, 1};
        }
    }
    return n;
}

/* A sequence whose keys are those of the one before it waits for that one's turn to be over. */
static int turn_of(const Attn *a, int seq) {
    int turn = 0;
    for (int i = seq; i > 0 && a->s.q_off[i - 1] < a->s.q_off[i]; i--, turn++)
        if (key_rows(a->s, i, 0) != key_rows(a->s, i - 1, 0)) break;
    return turn;
}

/* Does a query block see a key block? */
static bool blocks_meet(const Attn *a, int seq, int64_t q, int64_t j) {
    int64_t n = a->s.q_off[seq + 1] - a->s.q_off[seq], from = queries_from(a, seq);
    if (!a->s.causal) return true;
    int64_t first = from + q * a->block, last = from + least(n, (q + 1) * a->block) - 1;
    return last >= j * a->block && first - a->window + 1 < (j + 1) * a->block;
}

/* As attn_bwd_tasks, of the sequences whose turn it is: query block q and key block q + along, along from the last pair
 * that sees anything downwards. *more: a later step has pairs. */
static int64_t attn_part_tasks(const Attn *a, AttnTask *task, int turn, int64_t step, bool *more) {
    int64_t n = 0;
    *more = false;
    for (int i = 0; i < a->s.n_seq; i++) {
        int64_t rows = a->s.q_off[i + 1] - a->s.q_off[i];
        if (rows == 0 || turn_of(a, i) != turn) continue;
        int64_t n_q = ceil_div(rows, a->block), n_k = ceil_div(a->s.kv_len[i], a->block);
        int64_t along = least(n_k - 1, a->s.causal ? (queries_from(a, i) + a->block - 1) / a->block : n_k) - step;
        if (along > -n_q) *more = true;
        for (int64_t q = most(-along, 0); q < n_q && q + along < n_k; q++)
            for (int64_t h = 0; h < a->n_kv && blocks_meet(a, i, q, q + along); h++)
                task[n++] = (AttnTask){i, (int32_t)(q * a->block), (int32_t)((q + along) * a->block), (int32_t)h, 1};
    }
    return n;
}

static void check_grads(const char *op, const Attn *a) {
    cpu_check(op, "dq", a->dq, a->q.rows, a->q.cols);
    cpu_check(op, "do", a->d_o, a->q.rows, a->q.cols);
    cpu_check(op, "o", a->o, a->q.rows, a->q.cols);
    cpu_check(op, "dk", a->dk, a->k.rows, a->k.cols);
    cpu_check(op, "dv", a->dv, a->k.rows, a->k.cols);
    cpu_check(op, "lse", a->lse, a->q.rows, a->q.cols / a->d);
}

/* Room for the tasks of a step; what all of them read. */
static AttnTask *attn_bwd_begin(Attn *a) {
    int64_t n_head = a->q.cols / a->d, most_tasks = 0;
    a->block = KV_PAGE * most(least(GRAD_TILES * 64 / a->width, GRAD_TILES), 1);
    for (int i = 0; i < a->s.n_seq; i++)
        most_tasks += ceil_div(a->s.q_off[i + 1] - a->s.q_off[i], a->block) * a->n_kv;
    size_t n_delta = (size_t)(a->q.rows * n_head);
    float *delta = cpu_scratch_shared(a->be, n_delta * sizeof *delta + (size_t)most_tasks * sizeof *a->task);
    AttnTask *task = (AttnTask *)(void *)(delta + n_delta);
    a->delta = tensor_over(delta, DTYPE_F32, a->q.rows, n_head);
    a->task = task;
    cpu_rows(a->be, a->q.rows, a->q.cols, 1, delta_task, a);
    cpu_scratch_threads(a->be, attn_bwd_scratch(a));
    return task;
}

static void attn_bwd_step(Attn *a, int64_t n) {
    cpu_tiles(a->be, n, 10.0 * (double)(a->block * a->block * a->d * a->group * n), attn_bwd_task, a);
}

static void attn_bwd(Backend *be, Tensor dq, Tensor dk, Tensor dv, Tensor d_o, Tensor o, Tensor lse, Tensor q, Tensor k,
                     Tensor v, AttnSeqs s, int d_head) {
    Attn a = attn_open("attn_bwd", be, q, k, v, s, d_head);
    a.dq = dq, a.dk = dk, a.dv = dv, a.d_o = d_o, a.o = o, a.lse = lse;
    cpu_check("attn_bwd", "k", k, q.rows, k.cols);
    check_grads("attn_bwd", &a);
    int64_t longest = check_own_rows(&a);
    zero_gaps(be, &a);
    AttnTask *task = attn_bwd_begin(&a);
    for (int64_t step = 0; step < ceil_div(longest, a.block); step++) {
        /* The nearest pair of this diagonal is (step - 1) * block + 1 positions apart. */
        if ((step - 1) * a.block + 1 >= a.window) break;
        int64_t n = attn_bwd_tasks(&a, task, step);
        a.add = step > 0;
        attn_bwd_step(&a, n);
    }
}

/* Returns the number of turns. */
static int check_runs(const Attn *a) {
    int turns = 0;
    for (int i = 0; i < a->s.n_seq; i++) {
        if (a->s.q_off[i] == a->s.q_off[i + 1]) continue;
        for (int64_t p = 0; p * KV_PAGE < a->s.kv_len[i]; p++)
            CHECK(key_rows(a->s, i, p) == key_rows(a->s, i, 0) + p * KV_PAGE,
                  "attn_part_bwd: page %lld of sequence %d is not behind the one before it", (long long)p, i);
        turns = (int)most(turns, turn_of(a, i) + 1);
    }
    return turns;
}

static void attn_part_bwd(Backend *be, Tensor dq, Tensor dk, Tensor dv, Tensor d_o, Tensor o, Tensor lse, Tensor q,
                          Tensor k, Tensor v, AttnSeqs s, int d_head) {
    Attn a = attn_open("attn_part_bwd", be, q, k, v, s, d_head);
    a.dq = dq, a.dk = dk, a.dv = dv, a.d_o = d_o, a.o = o, a.lse = lse, a.add = true;
    check_grads("attn_part_bwd", &a);
    int turns = check_runs(&a);
    zero(be, dq);
    zero(be, dk);
    zero(be, dv);
    AttnTask *task = attn_bwd_begin(&a);
    for (int turn = 0; turn < turns; turn++) {
        bool more = true;
        for (int64_t step = 0; more; step++) attn_bwd_step(&a, attn_part_tasks(&a, task, turn, step, &more));
    }
}

#endif
