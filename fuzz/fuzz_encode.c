// layer: text
/* Any bytes through a tokenizer trained on them (first byte: which pattern, how many merges): they come back, no id is
 * special, and a text alone has the ids it has after itself in one call's memory of pieces. */
#include <string.h>

#include "text/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    const char *s;
    size_t n;
} Once;

static const char *once(void *ud, size_t *n) {
    Once *o = ud;
    const char *s = o->s;
    *n = o->n;
    o->s = NULL;
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    const char *special[] = {"<|end|>", "the", sentinel_spelling(SENT_MASK)};
    const char *text = (const char *)data + 1;
    size_t n = size - 1;
    BpeTrainParams p = {259 + 2 * (data[0] >> 2), data[0] & 1 ? SPLIT_LLAMA3 : SPLIT_GPT2, special, 3,
                        data[0] >> 1 & 1};
    Once texts = {text, n};
    Error err = {0};
    Str json = {0}, back = {0};
    Tokenizer *t;
    TokBuf ids = {0}, again = {0};
    CHECK(bpe_train(&json, &p, once, &texts, &err), "%s", err.msg);
    CHECK(tokenizer_parse(&t, json.s, json.n, "trained", &err), "%s", err.msg);
    CHECK(tokenizer_n_vocab(t) <= p.n_vocab, "%d tokens", tokenizer_n_vocab(t));
    tokenizer_encode(t, text, n, &ids);
    for (int i = 0; i < ids.n; i++) CHECK(ids.id[i] >= 3 && ids.id[i] < tokenizer_n_vocab(t), "id %d", ids.id[i]);
    tokenizer_decode(t, ids.id, ids.n, false, &back);
    CHECK(back.n == n && memcmp(back.s, text, n) == 0, "%zu bytes came back as %zu", n, back.n);
    /* Separated by an invalid byte, which nothing merges across, the copies are encoded each as if alone. */
    Str many = {0};
    while (many.n < 1100) {
        str_putn(&many, text, n);
        str_putc(&many, (char)0xFF);
    }
    tokenizer_encode(t, many.s, many.n, &again);
    CHECK(again.n > ids.n && memcmp(again.id, ids.id, (size_t)ids.n * sizeof *ids.id) == 0, "ids differ in company");
    CHECK(again.n == (int)(many.n / (n + 1)) * (ids.n + 1), "copies differ");
    str_release(&json);
    str_release(&back);
    str_release(&many);
    tokbuf_release(&ids);
    tokbuf_release(&again);
    tokenizer_close(t);
    return 0;
}
