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

/* Room for more samples with more tokens in all. */
static void grow(SampleSet *s, int64_t more, int64_t more_tok) {
    if (s->n + more > s->cap) {
        s->cap = s->n + more > 2 * s->cap ? s->n + more : 2 * s->cap;
        if (s->cap < 256) s->cap = 256;
        size_t cap = (size_t)s->cap;
        s->off = mem_grow(s->off, sizeof *s->off * (cap + 1));
        s->id = mem_grow(s->id, sizeof *s->id * cap);
        s->target = mem_grow(s->target, sizeof *s->target * cap);
        s->sample_weight = mem_grow(s->sample_weight, sizeof *s->sample_weight * cap);
    }
    int64_t need = s->off[s->n] + more_tok;
    if (need > s->cap_tok) {
        s->cap_tok = need > 2 * s->cap_tok ? need : 2 * s->cap_tok;
        s->tok = mem_grow(s->tok, sizeof *s->tok * (size_t)s->cap_tok);
        s->weight = mem_grow(s->weight, sizeof *s->weight * (size_t)s->cap_tok);
    }
}

void samples_add(SampleSet *s, const int32_t *tok, const float *weight, int n, uint64_t id, float target,
                 float sample_weight) {
    CHECK(n > 0, "samples: an empty sample, id %llu", (unsigned long long)id);
    grow(s, 1, n);
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

void samples_add_ids(SampleSet *s, const int32_t *tok, const float *weight, int n, uint64_t id, int max_len,
                     Ledger *l) {
    CHECK(max_len >= 2, "samples of %d tokens hold nothing to predict", max_len);
    int learned = 0;
    for (int i = 1; i < n; i++) learned += weight[i] != 0;
    if (l) {
        ledger_in(l, 1, n);
        ledger_add(l, LEDGER_TRAINED, NULL, 1, learned);
        ledger_add(l, LEDGER_MASKED, NULL, 0, n - learned);
    }
    for (int at = 0; at == 0 || at < n - 1; at += max_len - 1) {
        int k = n - at < max_len ? n - at : max_len;
        samples_add(s, tok + at, weight + at, k, id, 0, 1);
    }
}

/* ---- texts: a document becomes the stream  <|endoftext|> its tokens <|endoftext|>,  cut into samples that overlap by
 * one token. So every token of the document, and its end, is predicted exactly once, each from all that the length
 * allows. */

enum { TILE_DOCS = 32, BATCH_DOCS = 8192 }; /* documents whose tokens are in memory twice */

typedef struct {
    SampleSet *set;
    const TextsEncoder *enc;
    TextAt *text;
    void *ud;
    int64_t first, n_text; /* the batch */
    int32_t mark;
    int max_len;
    int64_t *sample; /* (n_text+1) where each document's samples begin */
    int64_t *tok;    /* (n_text+1) and its tokens */
} TextJob;

static const char *text_of_batch(void *ud, int64_t i, size_t *n) {
    TextJob *job = ud;
    return job->text(job->ud, job->first + i, n);
}

/* Writes the samples of document i of the batch where they belong. */
static void put_document(const TextJob *job, int64_t i) {
    SampleSet *set = job->set;
    int64_t sample = job->sample[i], to = job->tok[i];
    int n, step = job->max_len - 1;
    const int32_t *tok = texts_ids(job->enc, i, &n);
    for (int at = 0; sample < job->sample[i + 1];
         at += step, sample++) { /* at: in the stream, where tok[k] is at k + 1 */
        int end = n + 2 - at < job->max_len ? n + 2 : at + job->max_len, last = end < n + 1 ? end : n + 1;
        int32_t *out = set->tok + to;
        if (at == 0) *out++ = job->mark;
        for (int k = at == 0 ? 1 : at; k < last; k++) *out++ = tok[k - 1];
        if (end == n + 2) *out = job->mark;
        for (int k = 0; k < end - at; k++) set->weight[to + k] = 1;
        set->weight[to] = 0;
        set->id[sample] = (uint64_t)(job->first + i);
        set->target[sample] = 0;
        set->sample_weight[sample] = 1;
        to += end - at;
        set->off[sample + 1] = to;
    }
}

static void put_tile(void *ud, int64_t tile, int thread) {
    const TextJob *job = ud;
    (void)thread;
    for (int64_t i = tile * TILE_DOCS; i < (tile + 1) * TILE_DOCS && i < job->n_text; i++) put_document(job, i);
}

/* Where each document of the batch goes; the ledger's entries. */
static void place_documents(TextJob *job, Ledger *l) {
    SampleSet *set = job->set;
    job->sample[0] = set->n;
    job->tok[0] = set->off[set->n];
    for (int64_t i = 0; i < job->n_text; i++) {
        int n;
        texts_ids(job->enc, i, &n);
        int64_t n_sample = n == 0 ? 0 : (n + 1 + job->max_len - 2) / (job->max_len - 1);
        job->sample[i + 1] = job->sample[i] + n_sample;
        job->tok[i + 1] = job->tok[i] + (n == 0 ? 0 : n + 1 + n_sample);
        if (!l) continue;
        ledger_in(l, 1, n + 1);
        if (n == 0)
            ledger_add(l, LEDGER_DROPPED, "empty text", 1, 1);
        else
            ledger_add(l, LEDGER_TRAINED, NULL, 1, n + 1);
    }
    grow(set, job->sample[job->n_text] - set->n, job->tok[job->n_text] - set->off[set->n]);
}

void samples_add_texts(SampleSet *s, const Chat *c, TextAt *text, void *ud, int64_t n_text, int max_len, int n_thread,
                       Ledger *l) {
    CHECK(max_len >= 2, "samples of %d tokens hold nothing to predict", max_len);
    Error err = {ERR_NONE, ""};
    Pool *pool;
    CHECK(pool_open(&pool, n_thread, &err), "%s", err.msg);
    TextsEncoder *enc = texts_encoder_open(c->tok, pool);
    TextJob job = {.set = s, .enc = enc, .text = text, .ud = ud, .mark = c->document, .max_len = max_len};
    job.sample = mem_alloc(sizeof *job.sample * (BATCH_DOCS + 1));
    job.tok = mem_alloc(sizeof *job.tok * (BATCH_DOCS + 1));
    for (job.first = 0; job.first < n_text; job.first += BATCH_DOCS) {
        job.n_text = n_text - job.first < BATCH_DOCS ? n_text - job.first : BATCH_DOCS;
        texts_encode(enc, text_of_batch, &job, job.n_text);
        place_documents(&job, l);
        pool_for(pool, (job.n_text + TILE_DOCS - 1) / TILE_DOCS, put_tile, &job);
        s->n = job.sample[job.n_text];
    }
    texts_encoder_close(enc);
    free(job.sample), free(job.tok);
    pool_close(pool);
}
