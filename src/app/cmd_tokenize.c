/* dikast tokenize: text to ids and back. */
#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/open.h"
#include "base/io.h"

static const Flag flags[] = {{"--ids", NULL, "ids in decimal, one line (default)"},
                             {"--pieces", NULL, "one line a token: id, tab, the bytes it stands for as a JSON string"},
                             {"--count", NULL, "the number of tokens"},
                             {"--decode", NULL, "the other way: FILE holds ids, text comes out"},
                             {"--binary", NULL, "ids as little-endian int32, written or (with --decode) read"},
                             {0}};

static bool read_input(Str *text, const char *file, Error *err) {
    return file && strcmp(file, "-") ? io_read_file(text, file, SIZE_MAX, err) : read_stdin(text, err);
}

/* ---- ids in ---- */

static bool put_id(TokBuf *ids, long long v, const Tokenizer *t, Error *err) {
    if (v < 0 || v >= tokenizer_n_vocab(t))
        return error_set(err, ERR_FORMAT, "id %d is %lld, the tokenizer has 0..%d", ids->n + 1, v,
                         tokenizer_n_vocab(t) - 1);
    tokbuf_put(ids, (int32_t)v);
    return true;
}

static bool read_ids(TokBuf *ids, const Str *text, const Tokenizer *t, Error *err) {
    for (char *p = text->s, *end; p && *(p += strspn(p, " \t\r\n,[]")); p = end) {
        long long v = strtoll(p, &end, 10);
        if (end == p) return error_set(err, ERR_FORMAT, "expected a number for id %d, found '%.20s'", ids->n + 1, p);
        if (!put_id(ids, v, t, err)) return false;
    }
    return true;
}

static bool read_binary(TokBuf *ids, const Str *text, const Tokenizer *t, Error *err) {
    const unsigned char *p = (const unsigned char *)text->s;
    if (text->n % 4) return error_set(err, ERR_FORMAT, "%zu bytes of ids, expected a multiple of 4", text->n);
    for (size_t i = 0; i < text->n; i += 4) {
        uint32_t v = (uint32_t)p[i] | (uint32_t)p[i + 1] << 8 | (uint32_t)p[i + 2] << 16 | (uint32_t)p[i + 3] << 24;
        if (!put_id(ids, (int32_t)v, t, err)) return false;
    }
    return true;
}

/* ---- ids out ---- */

static void put_binary(Str *out, const TokBuf *ids) {
    for (int i = 0; i < ids->n; i++) {
        uint32_t v = (uint32_t)ids->id[i];
        const char byte[4] = {(char)v, (char)(v >> 8), (char)(v >> 16), (char)(v >> 24)};
        str_putn(out, byte, 4);
    }
}

static void put_piece(JsonOut *j, const char *key, const Tokenizer *t, int32_t id) {
    Str piece = {0};
    tokenizer_decode(t, &id, 1, true, &piece);
    json_out_strn(j, key, str_get(&piece), piece.n);
    str_release(&piece);
}

static void put_pieces(Str *out, const Tokenizer *t, const TokBuf *ids) {
    for (int i = 0; i < ids->n; i++) {
        JsonOut j;
        str_printf(out, "%d\t", (int)ids->id[i]);
        json_out_init(&j, out, 0);
        put_piece(&j, NULL, t, ids->id[i]);
        str_putc(out, '\n');
    }
}

static void put_json(Str *out, const Tokenizer *t, const TokBuf *ids, const Str *text) {
    JsonOut j;
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-tokenize/1");
    json_out_int(&j, "bytes", (int64_t)text->n);
    json_out_int(&j, "tokens", ids->n);
    json_out_int(&j, "vocabulary", tokenizer_n_vocab(t));
    json_out_arr(&j, "ids");
    for (int i = 0; i < ids->n; i++) json_out_int(&j, NULL, ids->id[i]);
    json_out_arr_end(&j);
    json_out_arr(&j, "pieces");
    for (int i = 0; i < ids->n; i++) put_piece(&j, NULL, t, ids->id[i]);
    json_out_arr_end(&j);
    json_out_obj_end(&j);
}

typedef struct {
    bool pieces, count, decode, binary, json;
} Want;

static void write_ids(const Want *w, const Tokenizer *t, const TokBuf *ids, const Str *text) {
    Str out = {0};
    if (w->binary) {
        put_binary(&out, ids);
        fwrite(str_get(&out), 1, out.n, stdout);
        str_release(&out);
        return;
    }
    if (w->json)
        put_json(&out, t, ids, text);
    else if (w->count)
        str_printf(&out, "%d", ids->n);
    else if (w->pieces)
        put_pieces(&out, t, ids);
    else
        for (int i = 0; i < ids->n; i++) str_printf(&out, "%s%d", i ? " " : "", (int)ids->id[i]);
    print_text(&out);
}

static void write_text(const Want *w, const Tokenizer *t, const TokBuf *ids) {
    Str text = {0}, out = {0};
    tokenizer_decode(t, ids->id, ids->n, true, &text);
    if (!w->json) {
        fwrite(str_get(&text), 1, text.n, stdout); /* byte for byte: no newline of ours */
        str_release(&text);
        return;
    }
    put_json(&out, t, ids, &text);
    print_text(&out);
    str_release(&text);
}

static bool run(const Args *a, Error *err) {
    const Command *self = &command_tokenize;
    bool ids_flag = args_flag(a, self, "--ids");
    Want w = {args_flag(a, self, "--pieces"), args_flag(a, self, "--count"), args_flag(a, self, "--decode"),
              args_flag(a, self, "--binary"), a->json};
    if (ids_flag + w.pieces + w.count + w.decode + w.json > 1 + (w.decode && w.json) ||
        (w.binary && (w.pieces || w.count || w.json)))
        return error_set(err, ERR_CONFIG,
                         "choose one of --ids, --pieces, --count, --decode, --binary and --json "
                         "(--decode goes with --binary or --json)");
    Str text = {0};
    TokBuf ids = {0};
    Tokenizer *t = NULL;
    Str dir = {0};
    str_printf(&dir, "%s/model", a->arg[0]);
    bool stage = io_exists(str_get(&dir));
    bool ok = tokenizer_open(&t, stage ? str_get(&dir) : a->arg[0], err) &&
              read_input(&text, a->n_arg > 1 ? a->arg[1] : NULL, err);
    if (ok && w.decode) ok = w.binary ? read_binary(&ids, &text, t, err) : read_ids(&ids, &text, t, err);
    if (ok && !w.decode) {
        ok = text.n < INT_MAX || error_set(err, ERR_FORMAT, "%zu bytes of text, at most 2 GB at once", text.n);
        if (ok) tokenizer_encode(t, str_get(&text), text.n, &ids);
    }
    if (ok && w.decode)
        write_text(&w, t, &ids);
    else if (ok)
        write_ids(&w, t, &ids, &text);
    if (t) tokenizer_close(t);
    tokbuf_release(&ids);
    str_release(&text);
    str_release(&dir);
    return ok;
}

const Command command_tokenize = {
    .name = "tokenize",
    .usage = "tokenize MODEL|TOKENIZER [FILE|-] [--ids | --pieces | --count | --decode] [--binary] [--json]",
    .help = "text to token ids, and back\n\n"
            "TOKENIZER is a tokenizer.json or a folder that holds one. FILE - or none: standard input. Text is taken "
            "byte for\n"
            "byte, its last newline too; special tokens never come from text.",
    .flag = flags,
    .min_arg = 1,
    .max_arg = 2,
    .run = run};
