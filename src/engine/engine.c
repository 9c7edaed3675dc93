/* engine/engine.c — life of an engine and the pass that generation and scoring share. */
#include "engine/engine_int.h"

#include <stdlib.h>
#include <string.h>

enum { BATCH_TOK = 256, SLOTS = 64, SLICE_MIN = 32 };
static const int64_t slice_values = 1 << 19; /* of a slice of logits: it should stay in a cache */
static const size_t kv_bytes_default = (size_t)256 << 20;

static int ceil_div(int a, int b) { return (a + b - 1) / b; }

/* Missing settings. The cache is as large as the slots could ever use, up to a bound, but holds one full context. */
static EngineConfig resolve(const EngineConfig *c, const Model *model) {
    const ModelConfig *m = &model->cfg;
    EngineConfig r = *c;
    int pass_tok = model->be->pass_tok;
    if (r.max_batch_tok <= 0) r.max_batch_tok = pass_tok > 0 ? pass_tok : BATCH_TOK;
    if (r.max_slots <= 0) r.max_slots = SLOTS;
    if (r.max_slots > r.max_batch_tok) r.max_slots = r.max_batch_tok;
    if (r.kv_bytes == 0) {
        size_t context = (size_t)ceil_div(m->max_seq, KV_PAGE) * kv_page_bytes(model);
        size_t all = (size_t)r.max_slots * context;
        size_t bound = model->be->cache_bytes > 0 ? model->be->cache_bytes : kv_bytes_default;
        r.kv_bytes = all < bound ? all : bound;
        if (r.kv_bytes < context) r.kv_bytes = context;
    }
    return r;
}

static void place_head(Engine *e, Arena *a) {
    e->out = tensor_place(a, e->be->real, e->n_slice, e->net.head->n_out);
    e->value = tensor_place(a, e->be->real, e->n_slice, 1);
}

bool engine_open(Engine **out, Net net, const EngineConfig *c, Error *err) {
    const ModelConfig *m = &net.trunk->cfg;
    *out = NULL;
    CHECK(!model_is_stage(net.trunk), "an engine over a stage of a pipeline");
    CHECK(net.head->kind != HEAD_LM || net.head->n_out == m->n_vocab,
          "a language model head of %d outputs, vocabulary %d", net.head->n_out, m->n_vocab);
    Engine *e = mem_alloc(sizeof *e);
    e->net = net;
    e->be = net.trunk->be;
    e->cfg = resolve(c, net.trunk);
    e->n_out = head_divided(net) ? net.trunk->whole.n_vocab : net.head->n_out;
    e->max_page = ceil_div(m->max_seq, KV_PAGE);
    bool wide = e->be->slice_values > 0;
    int64_t slice = (wide ? e->be->slice_values : slice_values) / e->n_out, most = wide ? SLICE_WIDE : SLICE_ROWS;
    e->n_slice = (int)(slice < SLICE_MIN ? SLICE_MIN : slice > most ? most : slice);
    Arena measure;
    arena_init_measure(&measure, "engine");
    place_head(e, &measure);
    if (!arena_init(&e->head_mem, "engine", e->be->mem, measure.used, err)) {
        free(e);
        return error_wrap(err, "engine");
    }
    place_head(e, &e->head_mem);
    e->host = mem_alloc((size_t)e->n_slice * (size_t)e->n_out * sizeof *e->host);
    e->target = mem_alloc((size_t)e->n_slice * sizeof *e->target);
    e->column = mem_alloc((size_t)e->n_slice * sizeof *e->column);
    e->draw.temp = mem_alloc((size_t)e->n_slice * sizeof *e->draw.temp);
    e->draw.u = mem_alloc((size_t)e->n_slice * sizeof *e->draw.u);
    e->draw.token = mem_alloc((size_t)e->n_slice * sizeof *e->draw.token);
    share_open(e);
    if (!lead_engine_open(e, c, err)) {
        engine_close(e);
        return false;
    }
    *out = e;
    return true;
}

void engine_close(Engine *e) {
    if (!e) return;
    lead_engine_close(e);
    gen_release(e);
    share_release(e);
    acts_close(e->acts);
    arena_release(&e->head_mem);
    int32_t *const array[] = {e->tok,    e->pos,     e->kv_row, e->row,  e->row_owner, e->q_off,
                              e->kv_len, e->kv_page, e->target, e->seen, e->home};
    for (int i = 0; i < COUNT_OF(array); i++) free(array[i]);
    free(e->host);
    free(e->column);
    free(e->draw.temp);
    free(e->draw.u);
    free(e->draw.token);
    free(e);
}

bool engine_rehearse(Engine *e, bool generates, Error *err) {
    return engine_reserve(e, e->cfg.max_batch_tok, err) && (!generates || gen_open_cache(e, err));
}

EngineStats engine_stats(const Engine *e) { return e->stats; }

int engine_width(const Engine *e) { return e->net.trunk->cfg.d_model; }

static void grow(int32_t **p, int n) { *p = mem_grow(*p, (size_t)n * sizeof **p); }

bool engine_reserve(Engine *e, int n_tok, Error *err) {
    if (n_tok <= e->cap_tok) return true;
    int cap = 64;
    while (cap < n_tok && cap < e->cfg.max_batch_tok) cap *= 2;
    if (cap > e->cfg.max_batch_tok) cap = e->cfg.max_batch_tok;
    if (cap < n_tok) cap = n_tok;
    acts_close(e->acts);
    e->acts = NULL;
    e->cap_tok = 0;
    if (!acts_open(&e->acts, e->net.trunk, cap, cap, KEEP_NONE, err))
        return error_wrap(err, "engine: passes of %d tokens", cap);
    grow(&e->tok, cap);
    grow(&e->pos, cap);
    grow(&e->kv_row, cap);
    grow(&e->row, cap);
    grow(&e->row_owner, cap);
    grow(&e->q_off, cap + 1);
    grow(&e->kv_len, cap);
    grow(&e->home, cap);
    e->cap_tok = cap;
    return true;
}

bool engine_reserve_seen(Engine *e, int n, Error *err) {
    if (n > e->cap_seen) {
        grow(&e->seen, n);
        e->cap_seen = n;
    }
    return acts_share(e->acts, e->cap_seen, err);
}

void engine_reserve_kv_page(Engine *e, size_t n) {
    if (n <= e->cap_kv_page) return;
    e->kv_page = mem_grow(e->kv_page, n * sizeof *e->kv_page);
    e->cap_kv_page = n;
}

void pass_begin(Engine *e) {
    memset(&e->b, 0, sizeof e->b);
    e->b.seqs.causal = true;
    e->q_off[0] = 0;
}

void pass_forward(Engine *e, KvCache *kv) {
    Batch *b = &e->b;
    CHECK(b->n_tok <= e->cap_tok && b->n_row <= b->n_tok, "a pass of %d tokens, %d rows; room for %d", b->n_tok,
          b->n_row, e->cap_tok);
    b->tok = e->tok;
    b->pos = e->pos;
    b->kv_row = kv ? e->kv_row : NULL;
    b->row = e->row;
    b->seqs.q_off = e->q_off;
    b->seqs.kv_len = e->kv_len;
    b->seqs.kv_page = e->kv_page;
    net_forward(e->now, e->acts, b, kv);
    e->stats.n_pass++;
}

Tensor pass_head(Engine *e, int first, int n) {
    Tensor out = tensor_rows(e->out, 0, n);
    head_forward(e->now, e->acts, first, out);
    return out;
}

void pass_logprob(Engine *e, int first, int n, float temp, float *out) {
    if (e->share.divided) {
        row_parts_say(&e->share.parts, e->be, 0, tensor_rows(e->out, first, n), e->target + first, temp, false);
        share_logprob(e, n, out);
        return;
    }
    Tensor value = tensor_rows(e->value, first, n), none = {0};
    e->be->op->logprob_fwd(e->be, value, none, tensor_rows(e->out, first, n), e->target + first, temp);
    tensor_get_f32(e->be, out, value);
}

static void best_tile(void *ud, int64_t tile, int thread) {
    Engine *e = ud;
    (void)thread;
    float *z = e->host + (size_t)tile * (size_t)e->n_out;
    tensor_get_f32(e->be, z, tensor_rows(e->out, tile, 1));
    int best = 0;
    for (int k = 1; k < e->share.n_here; k++)
        if (z[k] > z[best]) best = k;
    e->draw.token[tile] = z[best] == z[best] ? best : -1;
    e->column[tile] = z[best];
}

/* Temperature 0 draws the likeliest, the lowest index among equals. */
void pass_best(Engine *e, int n) {
    if (!e->be->op->draw || e->share.divided) {
        pool_for(e->be->pool, n, best_tile, e);
        if (e->share.divided) share_best(e, n, e->column);
        return;
    }
    for (int i = 0; i < n; i++) e->draw.temp[i] = 0.0f, e->draw.u[i] = 0.0;
    e->be->op->draw(e->be, e->draw.token, NULL, tensor_rows(e->out, 0, n), e->draw.temp, e->draw.u);
}

bool engine_check_tokens(const Engine *e, const char *what, int i, Tokens t, Error *err) {
    const ModelConfig *m = &e->net.trunk->cfg;
    int n_vocab = e->net.trunk->whole.n_vocab;
    if (t.n > m->max_seq) {
        return error_set(err, ERR_FORMAT, "%s %d has %d tokens, the model's context holds %d", what, i, t.n,
                         m->max_seq);
    }
    for (int j = 0; j < t.n; j++) {
        if (t.tok[j] >= 0 && t.tok[j] < n_vocab) continue;
        return error_set(err, ERR_FORMAT,
                         "%s %d: token %d is %d, expected 0..%d; does the tokenizer belong to this model?", what, i, j,
                         t.tok[j], n_vocab - 1);
    }
    return true;
}
