/* Byte-level BPE: documents are the text cut every 2000 characters. Every repetition starts with a new encoder, so that
 * a text is not measured that it remembers; training uses one thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/bench.h"
#include "base/io.h"

enum { DOC_CHARS = 2000, TILE_DOCS = 32 };

typedef struct {
    Bench *b;
    Str text;
    size_t *off; /* (n+1) */
    int n, next;
    double mb;
    Tokenizer *tok;
    TokBuf ids;
    int *first; /* (n+1) of each document in ids */
    Str *back;  /* (tiles) decoded */
} Texts;

typedef struct {
    double *s, *cpu; /* (reps) seconds and CPU seconds */
    double start, cpu_start;
    int n;
    Meter meter;
} Times;

static void times_open(Times *t, int64_t reps) {
    *t = (Times){.meter = meter_start()};
    t->s = mem_alloc((size_t)reps * sizeof *t->s);
    t->cpu = mem_alloc((size_t)reps * sizeof *t->cpu);
}

static void times_start(Times *t) {
    t->start = now_s();
    t->cpu_start = own_cpu_s();
}

static void times_stop(Times *t) {
    t->s[t->n] = now_s() - t->start;
    t->cpu[t->n++] = own_cpu_s() - t->cpu_start;
}

static void cut(Texts *t) {
    size_t at = 0, max = (size_t)(t->b->mb * 1e6);
    if (t->text.n > max) {
        while (max > 0 && ((unsigned char)t->text.s[max] & 0xC0) == 0x80) max--;
        t->text.s[t->text.n = max] = 0;
    }
    t->off = mem_alloc((t->text.n / DOC_CHARS + 2) * sizeof *t->off);
    while (at < t->text.n) {
        for (int chars = 0; at < t->text.n; at++) {
            bool begins = ((unsigned char)t->text.s[at] & 0xC0) != 0x80;
            if (begins && chars++ == DOC_CHARS) break;
        }
        t->off[++t->n] = at;
    }
    t->first = mem_alloc((size_t)(t->n + 1) * sizeof *t->first);
    t->mb = (double)t->text.n / 1e6;
}

static const char *next_doc(void *ud, size_t *n) {
    Texts *t = ud;
    if (t->next == t->n) return NULL;
    const char *s = t->text.s + t->off[t->next];
    *n = t->off[t->next + 1] - t->off[t->next];
    t->next++;
    return s;
}

static int n_tiles(const Texts *t) { return (t->n + TILE_DOCS - 1) / TILE_DOCS; }

/* One line; the times are used up. */
static void emit(Texts *t, const char *what, Times *v, bool train) {
    double med = median_of(v->s, v->n), cpu = median_of(v->cpu, v->n), best = v->s[0];
    char name[64];
    snprintf(name, sizeof name, "%s/%d", what, tokenizer_n_vocab(t->tok));
    Case c;
    case_begin(&c, t->b, "tok", name, train ? 1 : pool_threads(t->b->machine.pool));
    json_out_num(&c.j, "mb", rounded(t->mb, 2));
    json_out_int(&c.j, "vocab", tokenizer_n_vocab(t->tok));
    json_out_int(&c.j, "bytes", (int64_t)t->text.n);
    if (train) {
        json_out_num(&c.j, "train_s", rounded(med, 3));
        json_out_num(&c.j, "train_s_best", rounded(best, 3));
    } else {
        json_out_num(&c.j, "mb_s", rounded(t->mb / med, 2));
        json_out_num(&c.j, "mb_s_best", rounded(t->mb / best, 2));
        json_out_num(&c.j, "mb_cpu_s", rounded(t->mb / cpu, 2));
        json_out_int(&c.j, "tokens", t->ids.n);
    }
    json_out_int(&c.j, "reps", v->n);
    if (train)
        case_end(&c, v->meter, "%.3f s", med);
    else
        case_end(&c, v->meter, "%.1f MB/s  %.1f MB in %d tokens", t->mb / med, t->mb, t->ids.n);
    free(v->s);
    free(v->cpu);
}

/* The peer's task: bytes and merges, no special tokens. */
static bool train(Texts *t, Error *err) {
    BpeTrainParams p = {.n_vocab = (int)t->b->vocab, .split = SPLIT_GPT2};
    Str json = {0};
    Times times;
    bool ok = true;
    times_open(&times, t->b->reps);
    for (int64_t i = 0; ok && i < t->b->reps; i++) {
        str_clear(&json);
        t->next = 0;
        times_start(&times);
        ok = bpe_train(&json, &p, next_doc, t, err);
        times_stop(&times);
    }
    ok = ok && tokenizer_parse(&t->tok, json.s, json.n, "trained tokenizer", err);
    if (ok)
        emit(t, "bpe-train", &times, true);
    else
        free(times.s), free(times.cpu);
    str_release(&json);
    return ok;
}

static const char *doc_at(void *ud, int64_t i, size_t *n) {
    const Texts *t = ud;
    *n = t->off[i + 1] - t->off[i];
    return t->text.s + t->off[i];
}

static void encode_all(Texts *t) {
    TextsEncoder *e = texts_encoder_open(t->tok, t->b->machine.pool);
    texts_encode(e, doc_at, t, t->n);
    t->ids.n = 0;
    for (int i = 0; i < t->n; i++) {
        int n;
        const int32_t *id = texts_ids(e, i, &n);
        t->first[i] = t->ids.n;
        tokbuf_putn(&t->ids, id, n);
    }
    t->first[t->n] = t->ids.n;
    texts_encoder_close(e);
}

static void decode_tile(void *ud, int64_t tile, int thread) {
    Texts *t = ud;
    Str *out = &t->back[tile];
    (void)thread;
    str_clear(out);
    for (int64_t i = tile * TILE_DOCS; i < (tile + 1) * TILE_DOCS && i < t->n; i++)
        tokenizer_decode(t->tok, t->ids.id + t->first[i], t->first[i + 1] - t->first[i], true, out);
}

static void check_back(const Texts *t) {
    size_t at = 0;
    for (int i = 0; i < n_tiles(t); at += t->back[i++].n)
        CHECK(at + t->back[i].n <= t->text.n && !memcmp(t->back[i].s, t->text.s + at, t->back[i].n),
              "decoding did not give the text back");
    CHECK(at == t->text.n, "decoding did not give the whole text back");
}

static void encode_and_decode(Texts *t) {
    Times times;
    times_open(&times, t->b->reps);
    for (int64_t i = 0; i < t->b->reps; i++) {
        times_start(&times);
        encode_all(t);
        times_stop(&times);
    }
    emit(t, "bpe-encode", &times, false);
    t->back = mem_alloc((size_t)n_tiles(t) * sizeof *t->back);
    times_open(&times, t->b->reps);
    for (int64_t i = 0; i < t->b->reps; i++) {
        times_start(&times);
        pool_for(t->b->machine.pool, n_tiles(t), decode_tile, t);
        times_stop(&times);
    }
    if (tokenizer_is_exact(t->tok)) check_back(t);
    emit(t, "bpe-decode", &times, false);
}

bool bench_tokenize(Bench *b, Error *err) {
    Texts t = {.b = b};
    b->size = NULL; /* no model in these lines */
    bool ok = b->file || error_set(err, ERR_CONFIG, "bench tokenize needs --file FILE");
    ok = ok && io_read_file(&t.text, b->file, (size_t)1 << 33, err);
    ok = ok && (t.text.n > 0 || error_set(err, ERR_FORMAT, "%s: the file is empty", b->file));
    if (ok) cut(&t);
    ok = ok && (b->tokenizer ? tokenizer_open(&t.tok, b->tokenizer, err) : train(&t, err));
    if (ok) encode_and_decode(&t);
    for (int i = 0; t.back && i < n_tiles(&t); i++) str_release(&t.back[i]);
    if (t.tok) tokenizer_close(t.tok);
    tokbuf_release(&t.ids);
    str_release(&t.text);
    free(t.off);
    free(t.first);
    free(t.back);
    return ok;
}
