/* Sets of tokenised samples. */
#include "base/pool.h"
#include "data/loader.h"

#include <stdlib.h>
#include <string.h>

void samples_init(SampleSet *s, int group) {
    CHECK(group >= 1, "samples: group %d", group);
    memset(s, 0, sizeof *s);
    s->group = group;
    s->off = mem_alloc(sizeof *s->off);
}

static void grow(SampleSet *s, int n) {
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 256;
        size_t cap = (size_t)s->cap;
        s->off = mem_grow(s->off, sizeof *s->off * (cap + 1));
        s->id = mem_grow(s->id, sizeof *s->id * cap);
        s->target = mem_grow(s->target, sizeof *s->target * cap);
        s->sample_weight = mem_grow(s->sample_weight, sizeof *s->sample_weight * cap);
    }
    int64_t need = s->off[s->n] + n;
    if (need > s->cap_tok) {
        s->cap_tok = need > 2 * s->cap_tok ? need : 2 * s->cap_tok;
        s->tok = mem_grow(s->tok, sizeof *s->tok * (size_t)s->cap_tok);
        s->weight = mem_grow(s->weight, sizeof *s->weight * (size_t)s->cap_tok);
    }
}

void samples_add(SampleSet *s, const int32_t *tok, const float *weight, int n, uint64_t id, float target,
                 float sample_weight) {
    CHECK(n > 0, "samples: an empty sample, id %llu", (unsigned long long)id);
    grow(s, n);
    int64_t at = s->off[s->n];
    memcpy(s->tok + at, tok, sizeof *tok * (size_t)n);
    memcpy(s->weight + at, weight, sizeof *weight * (size_t)n);
    s->weight[at] = 0; /* nothing stands before it to predict it from */
    s->id[s->n] = id;
    s->target[s->n] = target;
    s->sample_weight[s->n] = sample_weight;
    s->off[++s->n] = at + n;
}

void samples_release(SampleSet *s) {
    free(s->tok), free(s->weight), free(s->off), free(s->id), free(s->target), free(s->sample_weight);
    memset(s, 0, sizeof *s);
}

/* ---- texts: a document becomes the stream  <|endoftext|> its tokens <|endoftext|>,  cut into samples that overlap by
 * one token. So every token of the document, and its end, is predicted exactly once, each from all that the length
 * allows. */

enum { TILE_DOCS = 32, BATCH_TILES = 256 }; /* documents per tile; tiles in memory at once */

typedef struct {
    const Chat *chat;
    TextAt *text;
    void *ud;
    int64_t first, n_text; /* of this batch */
    TokBuf *tok;           /* (tiles) */
    int *end;              /* (documents of the batch) end of each in its tile's tokens */
} TextJob;

static void encode_tile(void *ud, int64_t tile, int thread) {
    TextJob *job = ud;
    (void)thread;
    TokBuf *out = &job->tok[tile];
    out->n = 0;
    for (int64_t i = tile * TILE_DOCS; i < (tile + 1) * TILE_DOCS && i < job->n_text; i++) {
        size_t n;
        const char *s = job->text(job->ud, job->first + i, &n);
        tokenizer_encode(job->chat->tok, s, n, out);
        job->end[i] = out->n;
    }
}

/* tok: n tokens of one document; *stream and *weight are scratch. */
static void add_document(SampleSet *set, TokBuf *stream, const float *ones, const Chat *c, const int32_t *tok, int n,
                         int64_t id, int max_len) {
    stream->n = 0;
    tokbuf_put(stream, c->id[SENT_ENDOFTEXT]);
    tokbuf_putn(stream, tok, n);
    tokbuf_put(stream, c->id[SENT_ENDOFTEXT]);
    for (int at = 0; at + 1 < stream->n; at += max_len - 1) {
        int len = stream->n - at < max_len ? stream->n - at : max_len;
        samples_add(set, stream->id + at, ones, len, (uint64_t)id, 0, 1);
    }
}

void samples_add_texts(SampleSet *s, const Chat *c, TextAt *text, void *ud, int64_t n_text, int max_len, int n_thread,
                       Ledger *l) {
    CHECK(max_len >= 2, "samples of %d tokens hold nothing to predict", max_len);
    Error err = {ERR_NONE, ""};
    Pool *pool;
    CHECK(pool_open(&pool, n_thread, &err), "%s", err.msg);
    int batch_docs = TILE_DOCS * BATCH_TILES;
    TextJob job = {.chat = c, .text = text, .ud = ud};
    job.tok = mem_alloc(sizeof *job.tok * BATCH_TILES);
    job.end = mem_alloc(sizeof *job.end * (size_t)batch_docs);
    float *ones = mem_alloc(sizeof *ones * (size_t)max_len);
    for (int i = 0; i < max_len; i++) ones[i] = 1;
    TokBuf stream = {0};
    for (job.first = 0; job.first < n_text; job.first += batch_docs) {
        job.n_text = n_text - job.first < batch_docs ? n_text - job.first : batch_docs;
        pool_for(pool, (job.n_text + TILE_DOCS - 1) / TILE_DOCS, encode_tile, &job);
        for (int64_t i = 0; i < job.n_text; i++) {
            const TokBuf *tok = &job.tok[i / TILE_DOCS];
            int from = i % TILE_DOCS ? job.end[i - 1] : 0, n = job.end[i] - from;
            if (l) ledger_in(l, 1, n + 1);
            if (l && n == 0) ledger_add(l, LEDGER_DROPPED, "empty text", 1, 1);
            if (n == 0) continue;
            if (l) ledger_add(l, LEDGER_TRAINED, NULL, 1, n + 1);
            add_document(s, &stream, ones, c, tok->id + from, n, job.first + i, max_len);
        }
    }
    for (int t = 0; t < BATCH_TILES; t++) tokbuf_release(&job.tok[t]);
    tokbuf_release(&stream);
    free(job.tok), free(job.end), free(ones);
    pool_close(pool);
}
