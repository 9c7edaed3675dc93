/* tensor/cpu/kernels_attn.h — attention, forward.
 *
 * A task is one sequence, one KV head and a block of query rows, for all query heads of the group; or one query with
 * several KV heads, whose rows lie side by side in memory. It walks over the key tiles of KV_PAGE positions that any of
 * its rows sees, counted from position 0, with the online softmax:
 *
 *      s = q k^T / sqrt D;  m' = max(m, max s);  c = e^(m - m');  l = c l + sum e^(s - m');  o = c o + e^(s - m') v
 *
 * K is packed transposed (D, 64) and V padded (64, D) once per tile for all rows of the task; one query alone reads
 * both in place. All sums are chains in one order (kernels_attn_tile.h), so one query decoding and a whole prompt
 * agree. Unused cache rows may hold NaN. */
#ifndef DIKAST_TENSOR_CPU_KERNELS_ATTN_H
#define DIKAST_TENSOR_CPU_KERNELS_ATTN_H

/* Rows, of all heads, that share one packing of K and V; tasks that a pass should have before one takes more heads. */
enum { SHARING = 256, DECODE_TASKS = 16 };

/* Rows that share K and V: queries of one head, or, when there is one query, the heads of the group. */
typedef struct {
    int64_t n;
    const float *q;
    float *o, *lse;
    int64_t q_ld, o_ld, lse_ld;
    int64_t low, high, step; /* row 0 sees keys [low, high), further rows are step behind; low may be negative */
    float *acc, *top, *sum;  /* (n, width), (n), (n) */
} AttnRows;

/* Query head h of the group, or all of them when the task has one query row. */
static AttnRows attn_rows(const Attn *a, const AttnTask *t, int64_t n, int64_t head, bool heads) {
    int64_t row = a->s.q_off[t->seq] + t->query, n_query = a->s.q_off[t->seq + 1] - a->s.q_off[t->seq];
    AttnRows b = {.n = heads ? a->group : n, .q = f32_row(a->q, row) + head * a->d};
    b.o = f32_row(a->o, row) + head * a->d;
    b.lse = tensor_empty(a->lse) ? NULL : f32_row(a->lse, row) + head;
    b.q_ld = heads ? a->d : a->q.ld;
    b.o_ld = heads ? a->d : a->o.ld;
    b.lse_ld = heads ? 1 : a->lse.ld;
    b.high = a->s.causal ? a->s.kv_len[t->seq] - n_query + t->query + 1 : a->s.kv_len[t->seq];
    b.low = b.high - a->window;
    b.step = a->s.causal && !heads;
    return b;
}

/* Where a task's tile lies: packed, or, for one query, in place. */
typedef struct {
    bool packed;
    const float *k, *v; /* packed: (D, 64), (64, width); in place: the head's columns of the tile's first row */
    float *s, *part;    /* (TILE_ROWS, 64) scores; (16, D) */
    Fetch next_k, next_v;
    int64_t lines; /* packed: of each, called for with every group of rows */
} KeyTile;

/* n rows from r; low, high: of row r, within the tile; every row sees at least one of its keys. */
static void attend_group(const Attn *a, const AttnRows *b, int64_t r, int64_t n, int64_t low, int64_t high,
                         KeyTile *t) {
    int64_t w = a->width, from = most(low, 0), end = least(high + (n - 1) * b->step, KV_PAGE), vec = from / 16;
    const float *q = b->q + r * b->q_ld;
    float *acc = b->acc + r * w;
    if (t->packed)
        gemm_rows(n, ceil_div(end, 16) - vec, a->d, q, b->q_ld, t->k + vec * 16, KV_PAGE, t->s + vec * 16, KV_PAGE,
                  false);
    else
        keys_in_place(a, n, q, b->q_ld, t->k, from, end, t->s, t->part, &t->next_k);
    soften(t->s, n, low, high, b->step, a->scale, b->top + r, b->sum + r, acc, w);
    if (t->packed) {
        add_values(n, low, high, b->step, t->s, t->v, w, acc, w);
        fetch_lines(&t->next_k, t->lines);
        fetch_lines(&t->next_v, t->lines);
    } else
        values_in_place(a, n, from, end, t->s, t->v, acc, &t->next_v);
}

static void attend_tile(const Attn *a, const AttnRows *b, int64_t tile, KeyTile *t) {
    int64_t first = tile * KV_PAGE, r = 0, end = b->n, most_rows = TILE_ROWS;
    if (b->high <= first) r = b->step ? first - b->high + 1 : end;
    if (b->low >= first + KV_PAGE) end = 0;
    if (b->step) {
        end = least(end, first + KV_PAGE - b->low);
        most_rows = least(TILE_ROWS, a->window);
    }
    for (; r < end; r += most_rows)
        attend_group(a, b, r, least(end - r, most_rows), b->low + r * b->step - first, b->high + r * b->step - first,
                     t);
}

static void attn_finish(const Attn *a, const AttnRows *b) {
    for (int64_t i = 0; i < b->n; i++) {
        v16 inv = v16_set1(1.0f / b->sum[i]);
        for (int64_t j = 0; j < a->d; j += 16) __builtin_prefetch(b->o + (i + 12) * b->o_ld + j, 1);
        for (int64_t j = 0; j < a->d; j += 16)
            v16_put(b->o + i * b->o_ld + j, v16_mul(v16_load(b->acc + i * a->width + j), inv), a->d - j);
        if (b->lse) b->lse[i * b->lse_ld] = (float)((double)b->top[i] + cpu_log((double)b->sum[i]));
    }
}

static int64_t attn_fwd_scratch(const Attn *a) {
    int64_t rows = a->group * most(a->block, a->n_kv);
    return 2 * KV_PAGE * a->width + TILE_ROWS * KV_PAGE + rows * (a->width + 2);
}

/* Block number i of a task's rows: a query head, or for one query a KV head. */
static AttnRows task_rows(const Attn *a, const AttnTask *t, int64_t n, int64_t i, float *acc) {
    int64_t per = n == 1 ? a->group : n, all = per * (n == 1 ? t->n_head : a->group), at = i * per;
    AttnRows b = attn_rows(a, t, n, t->kv_head * a->group + (n == 1 ? at : i), n == 1);
    b.acc = acc + at * a->width;
    b.top = acc + all * a->width + at;
    b.sum = b.top + all;
    return b;
}

/* Query rows of a task, and the tiles that they see. */
typedef struct {
    int64_t n, seen, from; /* rows; keys before `seen`, from tile `from` on */
} TaskSpan;

static TaskSpan task_span(const Attn *a, const AttnTask *t) {
    int64_t n_query = a->s.q_off[t->seq + 1] - a->s.q_off[t->seq], len = a->s.kv_len[t->seq];
    TaskSpan p = {.n = least(n_query - t->query, a->block), .seen = len};
    if (!a->s.causal) return p;
    p.seen = len - n_query + t->query + p.n;
    p.from = most(p.seen - p.n + 1 - a->window, 0) / KV_PAGE;
    return p;
}

/* Rows [first, end) of a tile, as a task reads its keys and its values. */
static void fetch_rows(const Attn *a, const AttnTask *t, int64_t tile, int64_t first, int64_t end, Run *k, Run *v) {
    int64_t row = key_rows(a->s, t->seq, tile), col = t->kv_head * a->d, cols = t->n_head * a->d;
    *k = run_of(f32_row(a->k, row) + col, cols, a->k.ld, first, end);
    *v = run_of(f32_row(a->v, row) + col, cols, a->v.ld, first, end);
}

/* What is called for while rows of tile i are read: as many of the task's next tile; then of the first tile of the
 * thread's next task, which nothing else would see coming. */
static void fetch_next(const Attn *a, int64_t index, TaskSpan span, int64_t i, KeyTile *to) {
    const AttnTask *t = &a->task[index];
    int64_t left = span.seen - (i + 1) * KV_PAGE, later = pool_next(a->be->pool, a->n_task, index);
    if (left > 0)
        fetch_rows(a, t, i + 1, 0, least(left, KV_PAGE), &to->next_k.now, &to->next_v.now);
    else
        fetch_rows(a, t, i, 0, 0, &to->next_k.now, &to->next_v.now);
    if (left >= KV_PAGE || later < 0) return;
    TaskSpan s = task_span(a, &a->task[later]);
    int64_t end = least(s.seen - s.from * KV_PAGE, KV_PAGE);
    int64_t first = left <= 0 && i > span.from ? least(-left, end) : 0; /* tile i - 1 has called for those before */
    fetch_rows(a, &a->task[later], s.from, first, end, &to->next_k.then, &to->next_v.then);
}

static void attn_fwd_task(void *ud, int64_t index, int thread) {
    const Attn *a = ud;
    const AttnTask *t = &a->task[index];
    TaskSpan span = task_span(a, t);
    int64_t w = a->width, n = span.n, seen = span.seen, blocks = n == 1 ? t->n_head : a->group;
    int64_t rows = n == 1 ? a->group * t->n_head : a->group * n;
    float *kt = cpu_scratch_of(a->be, thread), *v = kt + KV_PAGE * w, *s = v + KV_PAGE * w;
    float *acc = s + TILE_ROWS * KV_PAGE;
    memset(acc, 0, (size_t)(rows * (w + 2)) * sizeof *acc);
    for (int64_t i = 0; i < rows; i++) acc[rows * w + i] = -INFINITY;
    for (int64_t i = span.from; i * KV_PAGE < seen; i++) {
        int64_t row = key_rows(a->s, t->seq, i), n_key = least(seen - i * KV_PAGE, KV_PAGE);
        KeyTile tile = {.packed = n > 1 || a->d % 16, .k = kt, .v = v, .s = s, .part = kt};
        fetch_next(a, index, span, i, &tile);
        int64_t groups = blocks * ceil_div(least(n, seen - i * KV_PAGE), TILE_ROWS);
        tile.lines = ceil_div(KV_PAGE * w / 16, groups);
        for (int64_t g = 0; g < blocks; g++) {
            int64_t col = (t->kv_head + (n == 1 ? g : 0)) * a->d;
            if (!tile.packed) {
                tile.k = f32_row(a->k, row) + col;
                tile.v = f32_row(a->v, row) + col;
            } else if (n == 1 || g == 0) {
                pack_keys(a, kt, a->k, row, col, n_key);
                pack_rows(v, w, f32_row(a->v, row) + col, a->v.ld, n_key, a->d);
            }
            AttnRows b = task_rows(a, t, n, g, acc);
            attend_tile(a, &b, i, &tile);
        }
    }
    for (int64_t g = 0; g < blocks; g++) {
        AttnRows b = task_rows(a, t, n, g, acc);
        attn_finish(a, &b);
    }
}

/* Heads of one query share a task as far as there are tasks enough. Later queries see more: long tasks first. */
static int64_t attn_fwd_tasks(const Attn *a, AttnTask *task) {
    int64_t n = 0, together = most(least(a->s.n_seq * a->n_kv / DECODE_TASKS, a->n_kv), 1);
    for (int i = 0; i < a->s.n_seq; i++) {
        int64_t rows = a->s.q_off[i + 1] - a->s.q_off[i];
        for (int64_t b = ceil_div(rows, a->block); b-- > 0;) {
            int64_t heads = rows - b * a->block == 1 ? together : 1;
            for (int64_t h = 0; h < a->n_kv; h += heads, n++)
                if (task)
                    task[n] = (AttnTask){.seq = i,
                                         .query = (int32_t)(b * a->block),
                                         .kv_head = (int32_t)h,
                                         .n_head = (int32_t)least(heads, a->n_kv - h)};
        }
    }
    return n;
}

static void attn_fwd(Backend *be, Tensor o, Tensor lse, Tensor q, Tensor k, Tensor v, AttnSeqs s, int d_head) {
    Attn a = attn_open("attn_fwd", be, q, k, v, s, d_head);
    cpu_check("attn_fwd", "o", o, q.rows, q.cols);
    cpu_check_opt("attn_fwd", "lse", lse, q.rows, q.cols / d_head);
    a.o = o;
    a.lse = lse;
    a.block = KV_PAGE * most(SHARING / KV_PAGE / a.group, 1);
    int64_t n = a.n_task = attn_fwd_tasks(&a, NULL);
    AttnTask *task = cpu_scratch_shared(be, (size_t)(n + 1) * sizeof *task);
    a.task = task;
    attn_fwd_tasks(&a, task);
    cpu_scratch_threads(be, attn_fwd_scratch(&a));
    cpu_tiles(be, n, attn_work(&a, 2), attn_fwd_task, &a);
}

#endif
