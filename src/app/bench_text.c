/* Byte-level BPE, one thread: documents are the text cut every 2000 characters. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/bench.h"
#include "base/io.h"

enum { DOC_CHARS = 2000 };

typedef struct {
    Bench *b;
    Str text;
    size_t *off; /* (n+1) */
    int n, next;
    double mb;
    Tokenizer *tok;
    TokBuf ids;
    int *first; /* (n+1) of each document in ids */
} Texts;

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

static void emit(Texts *t, const char *what, double *v, Meter meter, bool train) {
    int reps = train ? 1 : (int)t->b->reps;
    double med = median_of(v, reps);
    char name[64];
    snprintf(name, sizeof name, "%s/%d", what, tokenizer_n_vocab(t->tok));
    Case c;
    case_begin(&c, t->b, "tok", name, 1);
    json_out_num(&c.j, "mb", rounded(t->mb, 2));
    json_out_int(&c.j, "vocab", tokenizer_n_vocab(t->tok));
    if (train) {
        json_out_num(&c.j, "train_s", rounded(med, 2));
        json_out_int(&c.j, "reps", reps);
        case_end(&c, meter, "%.2f s", med);
        return;
    }
    json_out_num(&c.j, "mb_s", rounded(t->mb / med, 2));
    json_out_num(&c.j, "mb_s_best", rounded(t->mb / v[0], 2));
    json_out_int(&c.j, "tokens", t->ids.n);
    json_out_int(&c.j, "reps", reps);
    case_end(&c, meter, "%.1f MB/s  %.1f MB in %d tokens", t->mb / med, t->mb, t->ids.n);
}

static bool train(Texts *t, Error *err) {
    const char *special[SENT_COUNT];
    Str json = {0};
    for (int i = 0; i < SENT_COUNT; i++) special[i] = sentinel_spelling((Sentinel)i);
    BpeTrainParams p = {.n_vocab = (int)t->b->vocab, .split = SPLIT_GPT2, .special = special, .n_special = SENT_COUNT};
    Meter meter = meter_start();
    double seconds = now_s();
    bool ok = bpe_train(&json, &p, next_doc, t, err);
    seconds = now_s() - seconds;
    ok = ok && tokenizer_parse(&t->tok, json.s, json.n, "trained tokenizer", err);
    if (ok) emit(t, "bpe-train", &seconds, meter, true);
    str_release(&json);
    return ok;
}

static void encode_all(Texts *t) {
    t->ids.n = 0;
    for (int i = 0; i < t->n; i++) {
        t->first[i] = t->ids.n;
        tokenizer_encode(t->tok, t->text.s + t->off[i], t->off[i + 1] - t->off[i], &t->ids);
    }
    t->first[t->n] = t->ids.n;
}

static void decode_all(Texts *t, Str *out) {
    str_clear(out);
    for (int i = 0; i < t->n; i++)
        tokenizer_decode(t->tok, t->ids.id + t->first[i], t->first[i + 1] - t->first[i], true, out);
}

bool bench_tokenize(Bench *b, Error *err) {
    Texts t = {.b = b};
    Str back = {0};
    int reps = (int)b->reps;
    double *v = mem_alloc((size_t)reps * sizeof *v);
    b->size = NULL; /* no model in these lines */
    bool ok = b->file || error_set(err, ERR_CONFIG, "bench tokenize needs --file FILE");
    ok = ok && io_read_file(&t.text, b->file, (size_t)1 << 33, err);
    ok = ok && (t.text.n > 0 || error_set(err, ERR_FORMAT, "%s: the file is empty", b->file));
    if (ok) cut(&t);
    ok = ok && (b->tokenizer ? tokenizer_open(&t.tok, b->tokenizer, err) : train(&t, err));
    if (ok) {
        Meter meter = meter_start();
        for (int i = 0; i < reps; i++) {
            double start = now_s();
            encode_all(&t);
            v[i] = now_s() - start;
        }
        emit(&t, "bpe-encode", v, meter, false);
        meter = meter_start();
        for (int i = 0; i < reps; i++) {
            double start = now_s();
            decode_all(&t, &back);
            v[i] = now_s() - start;
        }
        CHECK(back.n == t.text.n && !memcmp(back.s, t.text.s, back.n), "decoding did not give the text back");
        emit(&t, "bpe-decode", v, meter, false);
    }
    if (t.tok) tokenizer_close(t.tok);
    tokbuf_release(&t.ids);
    str_release(&t.text);
    str_release(&back);
    free(t.off);
    free(t.first);
    free(v);
    return ok;
}
