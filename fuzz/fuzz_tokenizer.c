// layer: text
/* tokenizer_parse on any bytes: a clean error that says something, or a tokenizer that gives every text back. */
#include <string.h>

#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char text[] =
        "The gate,  12345 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\xff\xe7\x8c\xab <|end|> don't";
    Error err = {0};
    Tokenizer *t;
    if (!tokenizer_parse(&t, (const char *)data, size, "fuzz", &err)) {
        CHECK(err.code == ERR_FORMAT && strncmp(err.msg, "fuzz", 4) == 0, "error %d '%s'", err.code, err.msg);
        return 0;
    }
    TokBuf ids = {0};
    Str back = {0};
    tokenizer_encode(t, text, sizeof text, &ids); /* the final NUL too */
    for (int i = 0; i < ids.n; i++) {
        CHECK(ids.id[i] >= 0 && ids.id[i] < tokenizer_n_vocab(t), "id %d", ids.id[i]);
        CHECK(!tokenizer_is_special(t, ids.id[i]), "text became special id %d", ids.id[i]);
    }
    tokenizer_decode(t, ids.id, ids.n, false, &back);
    CHECK(back.n == sizeof text && memcmp(back.s, text, sizeof text) == 0, "came back as '%s'", str_get(&back));
    tokbuf_release(&ids);
    str_release(&back);
    tokenizer_close(t);
    return 0;
}
