/* dikast logits: what comes out of the head, number by number, to hold against another program's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/forward.h"
#include "app/open.h"
#include "base/io.h"
#include "nn/safetensors.h"

static const Flag flags[] = {
    {"--all", NULL, "after every token, not the last one alone"},
    {"--greedy", "N", "also the N likeliest next tokens, one after another"},
    {"--out", "FILE", "write FILE.safetensors or FILE.npy (F32) instead of printing; .npy: of one row"},
    MODEL_FLAGS,
    {0}};

enum { MAX_LINE = 64 << 20 };

typedef struct {
    float *out; /* (n, width) */
    int first, n, width;
} Rows;

typedef struct {
    const Args *a;
    OpenModel m;
    bool all;
    int64_t greedy;
    const char *file, *save;
    Str text; /* --json */
    JsonOut j;
    TokBuf ids;
    Heap names;
    StOut *saved; /* --out: their data are ours */
    int n_saved;
} Logits;

static bool keep_rows(void *ud, int first, int n, const float *out, Error *err) {
    Rows *r = ud;
    size_t width = (size_t)r->width;
    (void)err;
    memcpy(r->out + (size_t)(first - r->first) * width, out, (size_t)n * width * sizeof *out);
    return true;
}

/* -- rows in ------------------------------------------------------------------------------------------------------ */

static bool read_ids(Logits *s, const Json *row, Error *err) {
    const Json *ids = json_get(row, "ids");
    size_t n;
    const char *text = json_str(json_get(row, "text"), &n);
    s->ids.n = 0;
    if (text) {
        if (!s->m.tok) return error_set(err, ERR_FORMAT, "'text' needs the model's tokenizer.json: give 'ids'");
        tokenizer_encode(s->m.tok, text, n, &s->ids);
        return true;
    }
    if (!ids || json_kind(ids) != JSON_ARR)
        return error_set(err, ERR_FORMAT, "expected a list of token ids at 'ids', or a string at 'text'");
    for (int i = 0; i < json_len(ids); i++) {
        int64_t id = json_int(json_at(ids, i), -1);
        if (id < 0 || id > INT32_MAX) return error_set(err, ERR_FORMAT, "'ids[%d]' is no token id", i);
        tokbuf_put(&s->ids, (int32_t)id);
    }
    return true;
}

/* -- rows out ----------------------------------------------------------------------------------------------------- */

static void put_floats(JsonOut *j, const char *key, const float *x, int n) {
    json_out_arr(j, key);
    for (int i = 0; i < n; i++) json_out_num(j, NULL, (double)x[i]);
    json_out_arr_end(j);
}

static void put_ids(JsonOut *j, const char *key, const int32_t *id, int n) {
    json_out_arr(j, key);
    for (int i = 0; i < n; i++) json_out_int(j, NULL, id[i]);
    json_out_arr_end(j);
}

static bool put_greedy(Logits *s, JsonOut *j, Error *err) {
    GenRequest req = {.prompt = {s->ids.id, s->ids.n},
                      .sample = {.top_p = 1, .repetition = 1, .max_new = (int)s->greedy}};
    GenResult res;
    if (!engine_generate(s->m.engine, &req, 1, &res, NULL, NULL, err)) return false;
    put_ids(j, "greedy", res.text, res.n);
    put_floats(j, "logprobs", res.logprob, res.n);
    engine_free_results(&res, 1);
    return true;
}

static bool put_row(Logits *s, JsonOut *j, const Rows *r, Error *err) {
    int width = s->m.head.n_out;
    const char *key = s->m.head.kind == HEAD_LM ? "logits" : width == 1 ? "reward" : "scores";
    bool ok = true;
    json_out_obj(j, NULL);
    put_ids(j, "ids", s->ids.id, s->ids.n);
    if (s->all) {
        json_out_arr(j, key);
        for (int i = 0; i < r->n; i++) put_floats(j, NULL, r->out + (size_t)i * (size_t)width, width);
        json_out_arr_end(j);
    } else {
        json_out_int(j, "position", r->first);
        if (s->m.head.kind == HEAD_SCORE && width == 1)
            json_out_num(j, key, (double)r->out[0]);
        else
            put_floats(j, key, r->out, width);
    }
    if (s->greedy > 0) ok = put_greedy(s, j, err);
    json_out_obj_end(j);
    return ok;
}

static void save_row(Logits *s, Rows *r) {
    s->saved = mem_grow(s->saved, (size_t)(s->n_saved + 1) * sizeof *s->saved);
    StOut *o = &s->saved[s->n_saved];
    *o = (StOut){.name = heap_printf(&s->names, "logits.%d", s->n_saved), .dtype = "F32", .n_dim = 2, .data = r->out};
    o->dim[0] = r->n, o->dim[1] = s->m.head.n_out;
    o->bytes = (size_t)r->n * (size_t)s->m.head.n_out * sizeof *r->out;
    s->n_saved++;
    r->out = NULL;
}

static bool one_row(Logits *s, const Json *row, Error *err) {
    if (!read_ids(s, row, err)) return false;
    Rows r = {.first = s->all || s->ids.n == 0 ? 0 : s->ids.n - 1, .width = s->m.head.n_out};
    r.n = s->ids.n - r.first;
    r.out = mem_alloc((size_t)(r.n + 1) * (size_t)r.width * sizeof *r.out);
    bool ok = forward_sequence(s->m.net, (Tokens){s->ids.id, s->ids.n}, r.first, keep_rows, &r, err);
    if (ok && s->save) {
        save_row(s, &r);
    } else if (ok && s->a->json) {
        ok = put_row(s, &s->j, &r, err);
    } else if (ok) {
        Str line = {0};
        JsonOut j;
        json_out_init(&j, &line, 0);
        ok = put_row(s, &j, &r, err);
        if (ok) print_text(&line);
        str_release(&line);
    }
    free(r.out);
    return ok;
}

/* NumPy's format 1.0: magic, version, length of the header, the header as a Python literal, the numbers. */
static bool write_npy(const Logits *s, Error *err) {
    if (s->n_saved != 1)
        return error_set(err, ERR_CONFIG, "--out %s: one row fits a .npy, found %d: write .safetensors", s->save,
                         s->n_saved);
    const StOut *o = &s->saved[0];
    Str out = {0};
    str_putn(&out, "\x93NUMPY\1\0\0\0", 10);
    str_printf(&out, "{'descr': '<f4', 'fortran_order': False, 'shape': (%lld, %lld), }", (long long)o->dim[0],
               (long long)o->dim[1]);
    while (out.n % 64 != 63) str_putc(&out, ' ');
    str_putc(&out, '\n');
    out.s[8] = (char)((out.n - 10) & 255), out.s[9] = (char)((out.n - 10) >> 8);
    str_putn(&out, o->data, o->bytes);
    bool ok = io_write_file(s->save, out.s, out.n, err);
    str_release(&out);
    return ok;
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n > k && strcmp(s + n - k, end) == 0;
}

static bool all_rows(Logits *s, Error *err) {
    bool given = s->a->n_arg > 1 && strcmp(s->a->arg[1], "-");
    const char *path = given ? s->a->arg[1] : "/dev/stdin", *line;
    s->file = given ? path : "standard input";
    LineReader *r = NULL;
    size_t n;
    if (!lines_open(&r, path, MAX_LINE, err)) return false;
    bool ok = true;
    while (ok && lines_next(r, &line, &n, err)) {
        Json *row = NULL;
        int number = (int)lines_number(r);
        if (strspn(line, " \t\r") == n) continue;
        ok = json_parse(&row, line, n, 0, s->file, number, err);
        if (ok && !one_row(s, row, err)) ok = error_wrap(err, "%s:%d", s->file, number);
        json_release(row);
    }
    lines_close(r);
    return ok && err->code == ERR_NONE;
}

static bool open_all(Logits *s, Error *err) {
    const Command *self = &command_logits;
    s->save = args_flag(s->a, self, "--out");
    s->all = args_flag(s->a, self, "--all") != NULL;
    if (s->save && !ends_with(s->save, ".safetensors") && !ends_with(s->save, ".npy"))
        return error_set(err, ERR_CONFIG, "--out %s: the name must end in .safetensors or .npy", s->save);
    if (!args_int(s->a, self, "--greedy", 0, 1, 1 << 20, &s->greedy, err) || !open_net(&s->m, s->a, self, err))
        return false;
    if (s->greedy > 0 && !open_model_need(&s->m, HEAD_LM, err)) return false;
    return open_text_if_any(&s->m, s->a->log, err);
}

static bool run(const Args *a, Error *err) {
    Logits *s = mem_alloc(sizeof *s);
    s->a = a;
    bool ok = open_all(s, err);
    if (a->json) {
        json_out_init(&s->j, &s->text, 0);
        json_out_obj(&s->j, NULL);
        json_out_str(&s->j, "schema", "dikast-logits/1");
        json_out_arr(&s->j, "rows");
    }
    ok = ok && all_rows(s, err);
    if (ok && s->save)
        ok = ends_with(s->save, ".npy") ? write_npy(s, err) : st_write(s->save, s->saved, s->n_saved, err);
    if (ok && a->json) {
        json_out_arr_end(&s->j);
        json_out_obj_end(&s->j);
        print_text(&s->text);
    }
    for (int i = 0; i < s->n_saved; i++) free((void *)(uintptr_t)s->saved[i].data);
    free(s->saved);
    heap_release(&s->names);
    tokbuf_release(&s->ids);
    str_release(&s->text);
    open_model_close(&s->m);
    free(s);
    return ok;
}

const Command command_logits = {
    .name = "logits",
    .usage = "logits MODEL [FILE|-] [--all] [--greedy N] [--out FILE] [--json]",
    .help =
        "what a model's head gives for token ids, number by number\n\n"
        "FILE: JSONL rows {ids: [..]} or {text}; - or none: standard input. Nothing is put before or behind them. A "
        "row\n"
        "out per row in: {ids, position, logits}; a scoring model: {ids, position, reward} or {.., scores}. With "
        "--all\n"
        "logits holds a list per token. Numbers read back to the same float. The folder needs no tokenizer.json.",
    .flag = flags,
    .min_arg = 1,
    .max_arg = 2,
    .run = run};
