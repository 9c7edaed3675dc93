#include "eval/likelihood.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/pytext.h"

enum { CHUNK = 4096, TILE = 32 }; /* requests scored together; encoded by one thread */

/* A sequence to score: ids, of which the first n_ctx are given. */
typedef struct {
    TokBuf ids;
    int n_ctx, n_cut;
    int64_t owner;
    float *logprob;
    bool greedy;
} Window;

typedef struct {
    const LikelihoodModel *m;
    LikelihoodRequest *r; /* of this chunk */
    int64_t n;
    Encoder **encoder; /* one per thread */
    Str prefix;        /* the prefix token's spelling */
    Window *window;    /* (n) of pairs */
    Window *rolling;   /* (n_rolling) */
    int64_t n_rolling, cap_rolling;
} Chunk;

/* -- encoding -------------------------------------------------------------------------------------------------------
 */

static void encode(const Chunk *c, int thread, const char *s, size_t n, bool around, TokBuf *out) {
    if (c->prefix.n > 0 && n >= c->prefix.n && !memcmp(s, c->prefix.s, c->prefix.n)) around = false;
    encoder_encode_opts(c->encoder[thread], s, n, &(EncodeOpts){.special = true, .around = around}, out, NULL);
}

/* The last max_seq + 1 ids. */
static void cut_left(const Chunk *c, Window *w) {
    int most = c->m->max_seq + 1;
    if (w->ids.n <= most) return;
    w->n_cut = w->ids.n - most;
    memmove(w->ids.id, w->ids.id + w->n_cut, (size_t)most * sizeof *w->ids.id);
    w->ids.n = most;
    w->n_ctx -= w->n_cut;
}

static void encode_pair(const Chunk *c, int thread, int64_t i, Str *text, TokBuf *alone) {
    const LikelihoodRequest *r = &c->r[i];
    Window *w = &c->window[i];
    size_t n_ctx = strlen(r->ctx);
    w->owner = i;
    if (n_ctx == 0) {
        TokBuf k = {0};
        encoder_encode_opts(c->encoder[thread], r->cont, strlen(r->cont), &(EncodeOpts){.special = true}, &k, NULL);
        if (c->m->prefix >= 0 && (k.n == 0 || k.id[0] != c->m->prefix)) tokbuf_put(&w->ids, c->m->prefix);
        tokbuf_putn(&w->ids, k.id, k.n);
        w->n_ctx = c->m->prefix >= 0;
        tokbuf_release(&k);
    } else {
        size_t kept = py_rstrip(r->ctx, n_ctx);
        str_clear(text);
        str_putn(text, r->ctx, n_ctx);
        str_put(text, r->cont);
        encode(c, thread, text->s, text->n, true, &w->ids);
        if (i == 0 || i % TILE == 0 || c->r[i - 1].ctx != r->ctx) {
            alone->n = 0;
            encode(c, thread, r->ctx, kept, true, alone);
        }
        /* The ids of the context alone, then what the whole has behind as many. */
        w->n_ctx = alone->n;
        int both = w->ids.n < alone->n ? w->ids.n : alone->n;
        memcpy(w->ids.id, alone->id, (size_t)both * sizeof *alone->id);
        if (w->ids.n < alone->n) w->ids.n = 0; /* nothing is left: an error, see check_windows */
    }
    if (w->ids.n - w->n_ctx <= c->m->max_seq) cut_left(c, w);
}

static void encode_tile(void *ud, int64_t tile, int thread) {
    const Chunk *c = ud;
    Str text = {0};
    TokBuf alone = {0};
    int64_t end = (tile + 1) * TILE < c->n ? (tile + 1) * TILE : c->n;
    for (int64_t i = tile * TILE; i < end; i++)
        if (c->r[i].cont) encode_pair(c, thread, i, &text, &alone);
    str_release(&text);
    tokbuf_release(&alone);
}

static void add_window(Chunk *c, int64_t owner, const int32_t *ids, int n, int n_ctx) {
    if (c->n_rolling == c->cap_rolling) {
        c->cap_rolling = c->cap_rolling ? 2 * c->cap_rolling : 64;
        c->rolling = mem_grow(c->rolling, (size_t)c->cap_rolling * sizeof *c->rolling);
    }
    Window *w = &c->rolling[c->n_rolling++];
    *w = (Window){.owner = owner, .n_ctx = n_ctx};
    tokbuf_putn(&w->ids, ids, n);
}

static void roll(Chunk *c, int64_t i) {
    TokBuf t = {0};
    int max = c->m->max_seq;
    tokbuf_put(&t, c->m->prefix);
    encode(c, 0, c->r[i].ctx, strlen(c->r[i].ctx), true, &t);
    int n = t.n - 1, done = n < max ? n : max; /* t.id[1 + k] is the k-th id to predict */
    if (n > 0) add_window(c, i, t.id, done + 1, 1);
    while (done < n) {
        int more = n - done < max ? n - done : max;
        done += more;
        add_window(c, i, t.id + done - max, max + 1, max + 1 - more);
    }
    tokbuf_release(&t);
}

/* -- scoring --------------------------------------------------------------------------------------------------------
 */

static bool check_window(const Chunk *c, const Window *w, Error *err) {
    int n = w->ids.n - w->n_ctx;
    if (w->n_ctx < 1)
        return error_set(err, ERR_FORMAT,
                         "the context is empty, and the tokenizer has neither a BOS nor an EOS token to begin with");
    if (n < 1)
        return error_set(err, ERR_FORMAT, "no token of its own is left for the continuation '%.40s'",
                         c->r[w->owner].cont);
    return n <= c->m->max_seq ||
           error_set(err, ERR_FORMAT, "the continuation has %d tokens, the model's context holds %d", n, c->m->max_seq);
}

static bool score(const Chunk *c, Window *w, int64_t n, int64_t at, int64_t *bad, Error *err) {
    size_t cells = 0, size = (size_t)(n > 0 ? n : 1);
    for (int64_t i = 0; i < n; i++) {
        *bad = at + w[i].owner;
        if (!check_window(c, &w[i], err)) return false;
        cells += (size_t)(w[i].ids.n - w[i].n_ctx);
    }
    Tokens *prefix = mem_alloc(size * sizeof *prefix), *text = mem_alloc(size * sizeof *text);
    float **each = mem_alloc(size * sizeof *each), *all = mem_alloc((cells + 1) * sizeof *all);
    bool *greedy = mem_alloc(size * sizeof *greedy);
    cells = 0;
    for (int64_t i = 0; i < n; i++) {
        prefix[i] = (Tokens){w[i].ids.id, w[i].n_ctx};
        text[i] = (Tokens){w[i].ids.id + w[i].n_ctx, w[i].ids.n - w[i].n_ctx};
        each[i] = all + cells;
        cells += (size_t)text[i].n;
    }
    *bad = -1;
    bool ok = engine_score_greedy(c->m->engine, prefix, text, (int)n, each, greedy, err);
    for (int64_t i = 0; ok && i < n; i++) {
        LikelihoodRequest *r = &c->r[w[i].owner];
        for (int k = 0; k < text[i].n; k++) r->ll += (double)each[i][k];
        r->greedy = r->cont && greedy[i];
        r->n_cut = w[i].n_cut;
        if (isnan(r->ll))
            ok = error_set(err, ERR_DIVERGED,
                           "request %lld: its log-likelihood is not a number: are the model's weights finite?",
                           (long long)(at + w[i].owner));
    }
    free(prefix);
    free(text);
    free(each);
    free(all);
    free(greedy);
    return ok;
}

/* Pairs keep their places; those of rolling requests are empty and left out. */
static bool run_chunk(Chunk *c, int64_t at, int64_t *bad, Error *err) {
    c->window = mem_alloc((size_t)c->n * sizeof *c->window);
    pool_for(c->m->pool, (c->n + TILE - 1) / TILE, encode_tile, c);
    int64_t n_pair = 0;
    bool ok = true;
    for (int64_t i = 0; i < c->n; i++) {
        c->r[i].ll = 0;
        if (c->r[i].cont) {
            c->window[n_pair++] = c->window[i];
            continue;
        }
        if (ok && c->m->prefix < 0) {
            *bad = at + i;
            ok = error_set(err, ERR_FORMAT, "a text needs a BOS or EOS token to begin with");
        }
        if (ok) roll(c, i);
    }
    ok = ok && score(c, c->window, n_pair, at, bad, err) && score(c, c->rolling, c->n_rolling, at, bad, err);
    for (int64_t i = 0; i < n_pair; i++) tokbuf_release(&c->window[i].ids);
    for (int64_t i = 0; i < c->n_rolling; i++) tokbuf_release(&c->rolling[i].ids);
    free(c->window);
    free(c->rolling);
    return ok;
}

bool likelihood(const LikelihoodModel *m, LikelihoodRequest *r, int64_t n, int64_t *bad, Log *log, Error *err) {
    int threads = pool_threads(m->pool);
    Encoder **encoder = mem_alloc((size_t)threads * sizeof *encoder);
    for (int i = 0; i < threads; i++) encoder[i] = encoder_open(m->tok);
    Str prefix = {0};
    if (m->prefix >= 0) tokenizer_spelling(m->tok, m->prefix, &prefix);
    bool ok = true;
    for (int64_t at = 0; ok && at < n; at += CHUNK) {
        Chunk c = {.m = m, .r = r + at, .n = n - at < CHUNK ? n - at : CHUNK, .encoder = encoder, .prefix = prefix};
        ok = run_chunk(&c, at, bad, err);
        log_progress(log, at + c.n, n, (double)(at + c.n), "requests", "scored");
    }
    log_progress_end(log);
    for (int i = 0; i < threads; i++) encoder_close(encoder[i]);
    free(encoder);
    str_release(&prefix);
    return ok;
}
