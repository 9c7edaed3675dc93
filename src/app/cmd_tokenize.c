/* dikast tokenize: text to ids and back. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/open.h"
#include "base/io.h"

static const Flag flags[] = {
    {"--ids", NULL, "ids in decimal, one line (default)"},
    {"--pieces", NULL, "one line a token: id, tab, the bytes it stands for as a JSON string"},
    {"--count", NULL, "the number of tokens"},
    {"--jsonl", NULL,
     "JSON lines in and out: {\"text\": ...} to ids, offsets, pieces; with --decode {\"ids\": [...]} to text"},
    {"--decode", NULL, "the other way: FILE holds ids, text comes out"},
    {"--binary", NULL, "ids as little-endian int32, written or (with --decode) read"},
    {"--special", NULL, "text that spells a special token becomes it"},
    {"--around", NULL, "with what the tokenizer puts around a text (BOS, EOS)"},
    {0}};

enum { MAX_LINE = 64 << 20 };

typedef struct {
    bool pieces, count, lines, decode, binary, json;
} Want;

typedef struct {
    const Tokenizer *t;
    Encoder *enc;
    EncodeOpts how;
    Want want;
    TokBuf ids;
    SpanBuf spans;
} Job;

static bool encode(Job *job, const char *s, size_t n, Error *err) {
    size_t most = tokenizer_most_bytes(job->t);
    if (n > most) return error_set(err, ERR_FORMAT, "%zu bytes of text, at most %zu at once", n, most);
    job->ids.n = job->spans.n = 0;
    bool places = job->want.json || job->want.lines;
    encoder_encode_opts(job->enc, s, n, &job->how, &job->ids, places ? &job->spans : NULL);
    return true;
}

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

/* What id i adds to the decoded text; half a character is U+FFFD in JSON. */
static void put_piece(JsonOut *j, const Tokenizer *t, const TokBuf *ids, int i) {
    Str piece = {0};
    tokenizer_decode_more(t, ids->id, i, i + 1, true, &piece);
    json_out_strn(j, NULL, str_get(&piece), piece.n);
    str_release(&piece);
}

static void put_pieces(Str *out, const Tokenizer *t, const TokBuf *ids) {
    for (int i = 0; i < ids->n; i++) {
        JsonOut j;
        str_printf(out, "%d\t", (int)ids->id[i]);
        json_out_init(&j, out, 0);
        put_piece(&j, t, ids, i);
        str_putc(out, '\n');
    }
}

/* ids, and of a text that was encoded: which bytes of it each stands for, and those as text. */
static void put_tokens(JsonOut *j, const Job *job) {
    json_out_arr(j, "ids");
    for (int i = 0; i < job->ids.n; i++) json_out_int(j, NULL, job->ids.id[i]);
    json_out_arr_end(j);
    if (!job->want.decode) {
        json_out_arr(j, "offsets");
        for (int i = 0; i < job->spans.n; i++) {
            json_out_arr(j, NULL);
            json_out_int(j, NULL, job->spans.at[i].from);
            json_out_int(j, NULL, job->spans.at[i].to);
            json_out_arr_end(j);
        }
        json_out_arr_end(j);
    }
    json_out_arr(j, "pieces");
    for (int i = 0; i < job->ids.n; i++) put_piece(j, job->t, &job->ids, i);
    json_out_arr_end(j);
}

static void put_json(Str *out, const Job *job, const Str *text) {
    JsonOut j;
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-tokenize/1");
    json_out_int(&j, "bytes", (int64_t)text->n);
    json_out_int(&j, "tokens", job->ids.n);
    json_out_int(&j, "vocabulary", tokenizer_n_vocab(job->t));
    put_tokens(&j, job);
    if (job->want.decode) json_out_strn(&j, "text", str_get(text), text->n);
    json_out_obj_end(&j);
}

static void write_ids(const Job *job, const Str *text) {
    Str out = {0};
    const Want *w = &job->want;
    if (w->binary) {
        put_binary(&out, &job->ids);
        fwrite(str_get(&out), 1, out.n, stdout);
        str_release(&out);
        return;
    }
    if (w->json)
        put_json(&out, job, text);
    else if (w->count)
        str_printf(&out, "%d", job->ids.n);
    else if (w->pieces)
        put_pieces(&out, job->t, &job->ids);
    else
        for (int i = 0; i < job->ids.n; i++) str_printf(&out, "%s%d", i ? " " : "", (int)job->ids.id[i]);
    print_text(&out);
}

static void write_text(const Job *job) {
    Str text = {0}, out = {0};
    tokenizer_decode(job->t, job->ids.id, job->ids.n, true, &text);
    if (!job->want.json) {
        fwrite(str_get(&text), 1, text.n, stdout); /* byte for byte: no newline of ours */
        str_release(&text);
        return;
    }
    put_json(&out, job, &text);
    print_text(&out);
    str_release(&text);
}

/* ---- JSON lines ---- */

static bool row_ids(Job *job, const Json *row, Error *err) {
    const Json *ids = json_get(row, "ids");
    job->ids.n = 0;
    if (!ids || json_kind(ids) != JSON_ARR) return error_set(err, ERR_FORMAT, "expected an array at 'ids'");
    for (int i = 0; i < json_len(ids); i++) {
        const Json *id = json_at(ids, i);
        if (json_kind(id) != JSON_INT) return error_set(err, ERR_FORMAT, "expected numbers at 'ids'");
        if (!put_id(&job->ids, json_int(id, -1), job->t, err)) return false;
    }
    return true;
}

/* One row, keeping its "id". */
static bool put_row(JsonOut *j, Job *job, const Json *row, Error *err) {
    const char *s = NULL;
    size_t n = 0;
    Str text = {0};
    bool ok =
        job->want.decode ? row_ids(job, row, err) : json_need_str(row, "text", &s, &n, err) && encode(job, s, n, err);
    if (!ok) return false;
    json_out_obj(j, NULL);
    if (json_get(row, "id")) json_out_node(j, "id", json_get(row, "id"));
    if (job->want.decode) {
        tokenizer_decode(job->t, job->ids.id, job->ids.n, true, &text);
        json_out_strn(j, "text", str_get(&text), text.n);
    } else {
        json_out_int(j, "bytes", (int64_t)n);
        json_out_int(j, "tokens", job->ids.n);
        put_tokens(j, job);
    }
    json_out_obj_end(j);
    str_release(&text);
    return true;
}

static bool run_row(JsonOut *whole, Job *job, const char *line, size_t n, const char *file, int number, Error *err) {
    Json *row;
    Str out = {0};
    JsonOut j;
    if (n == 0) return true;
    if (!json_parse(&row, line, n, JSON_NUL_OK, file, number, err)) return false;
    json_out_init(&j, &out, 0);
    bool ok = put_row(job->want.json ? whole : &j, job, row, err) || error_wrap(err, "%s:%d", file, number);
    if (ok && !job->want.json) print_text(&out);
    str_release(&out);
    json_release(row);
    return ok;
}

static bool run_lines(Job *job, const char *file, Error *err) {
    bool input = !file || !strcmp(file, "-");
    LineReader *r;
    Str all = {0};
    JsonOut j;
    if (!lines_open(&r, input ? "/dev/stdin" : file, MAX_LINE, err)) return false;
    json_out_init(&j, &all, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-tokenize/1");
    json_out_arr(&j, "rows");
    const char *line;
    size_t n;
    bool ok = true;
    while (ok && lines_next(r, &line, &n, err))
        ok = run_row(&j, job, line, n, input ? "standard input" : file, (int)lines_number(r), err);
    ok = ok && err->code == ERR_NONE;
    json_out_arr_end(&j);
    json_out_obj_end(&j);
    if (ok && job->want.json)
        print_text(&all);
    else
        str_release(&all);
    lines_close(r);
    return ok;
}

/* ---- all of it ---- */

static bool run_whole(Job *job, const char *file, Error *err) {
    Str text = {0};
    const Want *w = &job->want;
    bool ok = read_input(&text, file, err);
    if (ok && w->decode)
        ok = w->binary ? read_binary(&job->ids, &text, job->t, err) : read_ids(&job->ids, &text, job->t, err);
    else if (ok)
        ok = encode(job, str_get(&text), text.n, err);
    if (ok && w->decode)
        write_text(job);
    else if (ok)
        write_ids(job, &text);
    str_release(&text);
    return ok;
}

static bool run(const Args *a, Error *err) {
    const Command *self = &command_tokenize;
    bool ids_flag = args_flag(a, self, "--ids");
    Job job = {.how = {.special = args_flag(a, self, "--special"), .around = args_flag(a, self, "--around")}};
    job.want = (Want){args_flag(a, self, "--pieces"), args_flag(a, self, "--count"),  args_flag(a, self, "--jsonl"),
                      args_flag(a, self, "--decode"), args_flag(a, self, "--binary"), a->json};
    const Want *w = &job.want;
    if (ids_flag + w->pieces + w->count + w->decode + (w->json || w->lines) >
            1 + (w->decode && (w->json || w->lines)) ||
        (w->binary && (w->pieces || w->count || w->json || w->lines)))
        return error_set(err, ERR_CONFIG,
                         "choose one of --ids, --pieces, --count, --decode, --binary and --json "
                         "(--decode goes with --binary, --json or --jsonl)");
    if (w->decode && (job.how.special || job.how.around))
        return error_set(err, ERR_CONFIG, "--special and --around say how text is read; --decode writes it");
    Tokenizer *t;
    Str dir = {0};
    str_printf(&dir, "%s/model", a->arg[0]);
    bool stage = io_exists(str_get(&dir)), ok = tokenizer_open(&t, stage ? str_get(&dir) : a->arg[0], err);
    str_release(&dir);
    if (!ok) return false;
    const char *file = a->n_arg > 1 ? a->arg[1] : NULL;
    job.t = t;
    job.enc = encoder_open(t);
    ok = w->lines ? run_lines(&job, file, err) : run_whole(&job, file, err);
    encoder_close(job.enc);
    tokenizer_close(t);
    tokbuf_release(&job.ids);
    spanbuf_release(&job.spans);
    return ok;
}

const Command command_tokenize = {
    .name = "tokenize",
    .usage = "tokenize MODEL|TOKENIZER [FILE|-] [--ids | --pieces | --count | --jsonl] [--decode] [--binary]\n"
             "       [--special] [--around] [--json]",
    .help = "text to token ids, and back\n\n"
            "TOKENIZER is a tokenizer.json or a folder that holds one. FILE - or none: standard input. Text is taken "
            "byte for\n"
            "byte, its last newline too; special tokens come from text only with --special. Offsets are bytes of the "
            "text,\n"
            "[from, to) for each id; a row's \"id\" is kept.",
    .flag = flags,
    .min_arg = 1,
    .max_arg = 2,
    .run = run};
