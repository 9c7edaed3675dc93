// layer: text
/* tokenizer_parse on any bytes: a clean error that says something, or a tokenizer that reads every text, gives an exact
 * one back, and is the same tokenizer once written and read again. */
#include <string.h>

#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char text[] =
    "The gate,  12345 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\xff\xe7\x8c\xab <|end|> don't"
    " \xe2\x96\x81 e\xcc\x81\xcc\xa3 \xef\xac\x81 \xc4\xb0 <s>abc</s>[KEEP] \xe1\x84\x80\xe1\x85\xa1\xed\xa0\x80";

static void check_spans(const SpanBuf *spans, const TokBuf *ids) {
    CHECK(spans->n == ids->n, "%d spans, %d ids", spans->n, ids->n);
    for (int i = 0; i < spans->n; i++)
        CHECK(spans->at[i].from <= spans->at[i].to && spans->at[i].to <= sizeof text, "span %d is %u to %u", i,
              (unsigned)spans->at[i].from, (unsigned)spans->at[i].to);
}

static void encode(const Tokenizer *t, const EncodeOpts *how, TokBuf *ids, bool places) {
    Encoder *e = encoder_open(t);
    SpanBuf spans = {0};
    ids->n = 0;
    encoder_encode_opts(e, text, sizeof text, how, ids, places ? &spans : NULL); /* the final NUL too */
    if (places) check_spans(&spans, ids);
    spanbuf_release(&spans);
    encoder_close(e);
}

static void same_ids(const TokBuf *a, const TokBuf *b, const char *what) {
    CHECK(a->n == b->n && (a->n == 0 || memcmp(a->id, b->id, (size_t)a->n * sizeof *a->id) == 0), "ids differ %s",
          what);
}

static void rewrite(const Tokenizer *t, const TokBuf *ids, const EncodeOpts *how) {
    Str json = {0}, again = {0};
    Error err = {0};
    Tokenizer *copy;
    TokBuf other = {0};
    tokenizer_write(t, &json);
    CHECK(tokenizer_parse(&copy, json.s, json.n, "rewritten", &err), "%s", err.msg);
    encode(copy, how, &other, false);
    same_ids(ids, &other, "once rewritten");
    tokenizer_write(copy, &again);
    CHECK(json.n == again.n && memcmp(json.s, again.s, json.n) == 0, "written differently the second time");
    tokenizer_close(copy);
    tokbuf_release(&other);
    str_release(&json);
    str_release(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Error err = {0};
    Tokenizer *t;
    if (!tokenizer_parse(&t, (const char *)data, size, "fuzz", &err)) {
        CHECK(err.code == ERR_FORMAT && strncmp(err.msg, "fuzz", 4) == 0, "error %d '%s'", err.code, err.msg);
        return 0;
    }
    TokBuf ids = {0}, again = {0};
    Str back = {0}, parts = {0};
    const ByteSpan plain = {0, 40};
    EncodeOpts how[] = {{.special = true, .around = true}, {.special = true, .plain = &plain, .n_plain = 1}, {0}};
    for (int k = 0; k < 3; k++) {
        encode(t, &how[k], &ids, false);
        encode(t, &how[k], &again, true);
        same_ids(&ids, &again, "when asked where they are");
        if (k == 0) rewrite(t, &ids, &how[0]);
    }
    for (int i = 0; i < ids.n; i++) {
        CHECK(ids.id[i] >= 0 && ids.id[i] < tokenizer_n_vocab(t), "id %d", ids.id[i]);
        CHECK(!tokenizer_is_special(t, ids.id[i]) || tokenizer_role(t, ids.id[i]) == ROLE_TOKEN_UNKNOWN,
              "text became special id %d", ids.id[i]);
    }
    tokenizer_decode(t, ids.id, ids.n, false, &back);
    for (int i = 0; i < ids.n; i++) tokenizer_decode_more(t, ids.id, i, i + 1, false, &parts);
    if (tokenizer_is_exact(t)) {
        CHECK(back.n == sizeof text && memcmp(back.s, text, sizeof text) == 0, "came back as '%s'", str_get(&back));
        CHECK(parts.n == back.n && memcmp(parts.s, back.s, back.n) == 0, "in parts as '%s'", str_get(&parts));
    }
    tokbuf_release(&ids);
    tokbuf_release(&again);
    str_release(&back);
    str_release(&parts);
    tokenizer_close(t);
    return 0;
}
