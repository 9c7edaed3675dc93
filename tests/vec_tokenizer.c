/* vec_tokenizer.c — the tokenizer's requests of the vector adapter. */
#include "vec_tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "text/text_int.h"

enum { MOST_OPEN = 32 };
static struct {
    char *path;
    Tokenizer *tok;
    Encoder *enc;
} open_tok[MOST_OPEN];
static int n_open;

void vec_tokenizer_close(void) {
    for (int i = 0; i < n_open; i++) {
        encoder_close(open_tok[i].enc);
        tokenizer_close(open_tok[i].tok);
        free(open_tok[i].path);
    }
    n_open = 0;
}

static void answer_error(Str *answer, const char *msg) {
    JsonOut j;
    json_out_init(&j, answer, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "error", msg);
    json_out_obj_end(&j);
}

/* NULL: answered with an error. */
static Encoder *encoder_of(const Json *request, Str *answer) {
    const char *path = json_str(json_get(request, "tokenizer"), NULL);
    for (int i = 0; path && i < n_open; i++)
        if (strcmp(open_tok[i].path, path) == 0) return open_tok[i].enc;
    Error err = {0};
    Tokenizer *t;
    if (!path || !tokenizer_open(&t, path, &err)) {
        answer_error(answer, path ? err.msg : "no 'tokenizer'");
        return NULL;
    }
    if (n_open == MOST_OPEN) vec_tokenizer_close();
    open_tok[n_open].path = mem_str(path);
    open_tok[n_open].tok = t;
    return open_tok[n_open++].enc = encoder_open(t);
}

static bool asked(const Json *request, const char *key) { return json_bool(json_get(request, key), false); }

void vec_encode(const Json *request, Str *answer) {
    size_t n = 0;
    const char *text = json_str(json_get(request, "text"), &n);
    Encoder *e = encoder_of(request, answer);
    if (!e) return;
    TokBuf ids = {0};
    SpanBuf spans = {0};
    Str back = {0};
    bool offsets = asked(request, "offsets");
    EncodeOpts o = {.special = !asked(request, "plain"), .around = asked(request, "around")};
    encoder_encode_opts(e, text ? text : "", n, &o, &ids, offsets ? &spans : NULL);
    tokenizer_decode(encoder_tokenizer(e), ids.id, ids.n, true, &back);
    JsonOut j;
    json_out_init(&j, answer, 0);
    json_out_obj(&j, NULL);
    json_out_arr(&j, "ids");
    for (int i = 0; i < ids.n; i++) json_out_int(&j, NULL, ids.id[i]);
    json_out_arr_end(&j);
    json_out_strn(&j, "decoded", str_get(&back), back.n);
    if (offsets) json_out_arr(&j, "offsets");
    for (int i = 0; i < spans.n; i++) {
        json_out_arr(&j, NULL);
        json_out_int(&j, NULL, spans.at[i].from);
        json_out_int(&j, NULL, spans.at[i].to);
        json_out_arr_end(&j);
    }
    if (offsets) json_out_arr_end(&j);
    json_out_obj_end(&j);
    tokbuf_release(&ids);
    spanbuf_release(&spans);
    str_release(&back);
}

void vec_pretoken(const Json *request, Str *answer) {
    static const struct {
        const char *name, *pattern;
    } known[] = {{"gpt2", SPLIT_TEXT_GPT2}, {"llama3", SPLIT_TEXT_LLAMA("{1,3}")}, {"qwen2", SPLIT_TEXT_LLAMA("")}};
    const char *name = json_str(json_get(request, "pattern"), NULL), *pattern = name;
    for (int i = 0; name && i < COUNT_OF(known); i++)
        if (strcmp(name, known[i].name) == 0) pattern = known[i].pattern;
    size_t n = 0, len[PIECES];
    const char *text = json_str(json_get(request, "text"), &n), *first;
    Error err = {0};
    Splitter *split;
    if (!pattern || !text || !splitter_open(&split, pattern, strlen(pattern), &err)) {
        answer_error(answer, err.code ? err.msg : "no 'pattern' or no 'text'");
        return;
    }
    PieceWalk walk;
    JsonOut j;
    json_out_init(&j, answer, 0);
    json_out_obj(&j, NULL);
    json_out_arr(&j, "pieces");
    pieces_open(&walk, split);
    pieces_text(&walk, text, n);
    for (int k; (k = pieces_next(&walk, &first, len)) > 0;)
        for (int i = 0; i < k; i++) json_out_int(&j, NULL, (int64_t)len[i]);
    json_out_arr_end(&j);
    json_out_obj_end(&j);
    pieces_close(&walk);
    splitter_close(split);
}

void vec_decode(const Json *request, Str *answer) {
    const Json *list = json_get(request, "ids");
    Encoder *e = encoder_of(request, answer);
    if (!e) return;
    const Tokenizer *t = encoder_tokenizer(e);
    TokBuf ids = {0};
    Str text = {0}, hex = {0};
    bool keep = !asked(request, "skip_special");
    for (int i = 0; i < json_len(list); i++) tokbuf_put(&ids, (int32_t)json_int(json_at(list, i), -1));
    if (asked(request, "parts"))
        for (int i = 0; i < ids.n; i++) tokenizer_decode_more(t, ids.id, i, i + 1, keep, &text);
    else
        tokenizer_decode(t, ids.id, ids.n, keep, &text);
    for (size_t i = 0; i < text.n; i++) str_printf(&hex, "%02x", (unsigned char)text.s[i]);
    JsonOut j;
    json_out_init(&j, answer, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "hex", str_get(&hex));
    json_out_obj_end(&j);
    tokbuf_release(&ids);
    str_release(&text);
    str_release(&hex);
}

void vec_rewrite(const Json *request, Str *answer) {
    const char *to = json_str(json_get(request, "to"), NULL);
    Encoder *e = encoder_of(request, answer);
    if (!e) return;
    Str json = {0};
    Error err = {0};
    tokenizer_write(encoder_tokenizer(e), &json);
    if (to && io_write_file(to, json.s, json.n, &err))
        str_put(answer, "{\"ok\":true}");
    else
        answer_error(answer, to ? err.msg : "no 'to'");
    str_release(&json);
}
