/* dikast score: how likely continuations are, or what a scoring model says of replies. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/open.h"
#include "base/io.h"

static const Flag flags[] = {
    {"--chat", NULL, "prompt is a user's turn and continuation the reply with its end; else plain text"},
    {"--bos", NULL, "put the model's bos_token_id before every text, also where its tokenizer puts none"},
    MODEL_FLAGS,
    {0}};

enum { ROWS = 256, MAX_LINE = 64 << 20 }; /* rows scored together */

typedef struct {
    int line;
    Sequence prompt, text; /* a scoring model: the whole sequence in prompt */
    double logprob;
    float *each;  /* (text.tok.n) log-prob of every token */
    bool greedy;  /* every token is the likeliest after those before it: greedy decoding writes it */
    float *score; /* (n_out) */
} Item;

typedef struct {
    const Args *a;
    OpenModel m;
    bool chat, bos;
    const char *file;
    Item item[ROWS];
    int n;
    Str out; /* --json: the whole object */
    JsonOut j;
} Score;

/* -- rows in ----------------------------------------------------------------------------------------------------- */

static bool item_fits(const Score *s, const Item *it, Error *err) {
    int n = it->prompt.tok.n + it->text.tok.n, max = s->m.model.cfg.max_seq;
    if (n > max)
        return error_set(err, ERR_FORMAT, "%s:%d: %d tokens, the model's context holds %d", s->file, it->line, n, max);
    if (s->m.head.kind == HEAD_LM && it->text.tok.n == 0)
        return error_set(err, ERR_FORMAT, "%s:%d: the continuation is empty, or one token with the end of the context",
                         s->file, it->line);
    return true;
}

static void put_ids(Sequence *to, const TokBuf *ids, int from, float weight) {
    for (int i = from; i < ids->n; i++) sequence_put(to, ids->id[i], weight);
}

/* As evaluation harnesses cut a pair: white space at the end of the prompt belongs to the continuation, whose ids are
 * what the two together have beyond the prompt's own; what a tokenizer puts around a text (BOS) it puts here. An empty
 * prompt is the token that texts begin with. */
static bool build_pair(Score *s, Item *it, const char *prompt, const char *text, Error *err) {
    size_t n = strlen(prompt), core = n;
    while (core > 0 && strchr(" \t\n\v\f\r", prompt[core - 1])) core--;
    int32_t begin = -1;
    Str both = {0};
    TokBuf whole = {0}, first = {0};
    EncodeOpts around = {.around = core > 0};
    Encoder *e = encoder_open(s->m.tok);
    str_put(&both, prompt);
    str_put(&both, text);
    encoder_encode_opts(e, str_get(&both), both.n, &around, &whole, NULL);
    if (core > 0) encoder_encode_opts(e, prompt, core, &around, &first, NULL);
    bool ok = core > 0 || open_model_begin_empty(&s->m, &begin, err);
    if (core > 0 && s->bos) begin = open_model_begin(&s->m);
    if (begin >= 0 && !(first.n > 0 && first.id[0] == begin)) sequence_put(&it->prompt, begin, 0);
    put_ids(&it->prompt, &first, 0, 0);
    put_ids(&it->text, &whole, first.n, 1);
    encoder_close(e);
    tokbuf_release(&whole);
    tokbuf_release(&first);
    str_release(&both);
    return ok;
}

static bool build_item(Score *s, Item *it, const char *prompt, const char *text, Error *err) {
    bool lm = s->m.head.kind == HEAD_LM;
    Message user = {ROLE_USER, prompt};
    if (lm && !s->chat) {
        if (!build_pair(s, it, prompt, text, err)) return error_wrap(err, "%s:%d", s->file, it->line);
    } else {
        chat_respond(&it->prompt, &s->m.chat, (Dialogue){&user, 1});
        chat_reply(lm ? &it->text : &it->prompt, &s->m.chat, text, 1, true);
        if (!sequence_ok(&it->prompt, err)) return error_wrap(err, "%s:%d", s->file, it->line);
    }
    return item_fits(s, it, err);
}

static bool read_item(Score *s, const char *line, size_t n, int number, Error *err) {
    Json *j = NULL;
    const char *prompt, *text;
    Item *it = &s->item[s->n];
    if (!json_parse(&j, line, n, 0, s->file, number, err)) return false;
    it->line = number;
    sequence_clear(&it->prompt);
    sequence_clear(&it->text);
    const char *key = s->m.head.kind == HEAD_LM ? "continuation" : "response";
    const char *first = json_get(j, "context") ? "context" : "prompt";
    bool ok = json_need_str(j, first, &prompt, NULL, err) && json_need_str(j, key, &text, NULL, err);
    if (!ok) error_wrap(err, "%s:%d", s->file, number);
    ok = ok && build_item(s, it, prompt, text, err);
    json_release(j);
    if (ok) s->n++;
    return ok;
}

/* -- scoring ----------------------------------------------------------------------------------------------------- */

static bool score_logprob(Score *s, Error *err) {
    Tokens prefix[ROWS], text[ROWS];
    float *each[ROWS], *all;
    bool greedy[ROWS];
    size_t total = 0;
    for (int i = 0; i < s->n; i++) total += (size_t)s->item[i].text.tok.n;
    all = mem_alloc(total * sizeof *all);
    total = 0;
    for (int i = 0; i < s->n; i++) {
        Item *it = &s->item[i];
        prefix[i] = (Tokens){it->prompt.tok.id, it->prompt.tok.n};
        text[i] = (Tokens){it->text.tok.id, it->text.tok.n};
        each[i] = all + total;
        total += (size_t)text[i].n;
    }
    bool ok = engine_score_greedy(s->m.engine, prefix, text, s->n, each, greedy, err);
    for (int i = 0; ok && i < s->n; i++) {
        Item *it = &s->item[i];
        it->logprob = 0;
        it->greedy = greedy[i];
        it->each = mem_grow(it->each, (size_t)text[i].n * sizeof *it->each);
        memcpy(it->each, each[i], (size_t)text[i].n * sizeof *it->each);
        for (int k = 0; k < text[i].n; k++) it->logprob += (double)each[i][k];
    }
    free(all);
    return ok;
}

static bool score_last(Score *s, Error *err) {
    Tokens seq[ROWS];
    int width = s->m.head.n_out;
    float *out = mem_alloc((size_t)s->n * (size_t)width * sizeof *out);
    for (int i = 0; i < s->n; i++) seq[i] = (Tokens){s->item[i].prompt.tok.id, s->item[i].prompt.tok.n};
    bool ok = engine_score_last(s->m.engine, seq, s->n, out, err);
    for (int i = 0; ok && i < s->n; i++) {
        s->item[i].score = mem_grow(s->item[i].score, (size_t)width * sizeof *out);
        memcpy(s->item[i].score, out + (size_t)i * (size_t)width, (size_t)width * sizeof *out);
    }
    free(out);
    return ok;
}

/* -- rows out ---------------------------------------------------------------------------------------------------- */

static void put_tokens(JsonOut *j, const Item *it) {
    json_out_arr(j, "ids");
    for (int k = 0; k < it->text.tok.n; k++) json_out_int(j, NULL, it->text.tok.id[k]);
    json_out_arr_end(j);
    json_out_arr(j, "logprobs");
    for (int k = 0; k < it->text.tok.n; k++) json_out_num(j, NULL, (double)it->each[k]);
    json_out_arr_end(j);
}

static void put_item(JsonOut *j, const Score *s, const Item *it) {
    json_out_obj(j, NULL);
    json_out_int(j, "line", it->line);
    if (s->m.head.kind == HEAD_LM) {
        json_out_num(j, "logprob", it->logprob);
        json_out_int(j, "tokens", it->text.tok.n);
        json_out_bool(j, "greedy", it->greedy);
        if (s->a->json) put_tokens(j, it);
    } else if (s->m.head.n_out == 1) {
        json_out_num(j, "score", (double)it->score[0]);
        json_out_int(j, "tokens", it->prompt.tok.n);
    } else {
        json_out_arr(j, "score");
        for (int k = 0; k < s->m.head.n_out; k++) json_out_num(j, NULL, (double)it->score[k]);
        json_out_arr_end(j);
        json_out_int(j, "tokens", it->prompt.tok.n);
    }
    json_out_obj_end(j);
}

static bool flush_items(Score *s, Error *err) {
    if (s->n == 0) return true;
    bool ok = s->m.head.kind == HEAD_LM ? score_logprob(s, err) : score_last(s, err);
    for (int i = 0; ok && i < s->n; i++) {
        if (s->a->json) {
            put_item(&s->j, s, &s->item[i]);
            continue;
        }
        Str line = {0};
        JsonOut j;
        json_out_init(&j, &line, 0);
        put_item(&j, s, &s->item[i]);
        print_text(&line);
    }
    s->n = 0;
    return ok;
}

static bool score_lines(Score *s, Error *err) {
    const char *path = s->a->n_arg > 1 && strcmp(s->a->arg[1], "-") ? s->a->arg[1] : "/dev/stdin";
    s->file = s->a->n_arg > 1 && strcmp(s->a->arg[1], "-") ? path : "standard input";
    LineReader *r = NULL;
    const char *line;
    size_t n;
    if (!lines_open(&r, path, MAX_LINE, err)) return false;
    bool ok = true;
    while (ok && lines_next(r, &line, &n, err)) {
        if (strspn(line, " \t\r") == n) continue;
        ok = read_item(s, line, n, (int)lines_number(r), err) && (s->n < ROWS || flush_items(s, err));
    }
    lines_close(r);
    return ok && err->code == ERR_NONE && flush_items(s, err);
}

static bool run(const Args *a, Error *err) {
    Score *s = mem_alloc(sizeof *s);
    s->a = a;
    s->chat = args_flag(a, &command_score, "--chat");
    s->bos = args_flag(a, &command_score, "--bos");
    bool ok = open_model(&s->m, a, &command_score, err);
    if (ok && !s->m.has_chat && (s->chat || s->m.head.kind == HEAD_SCORE)) {
        *err = s->m.no_chat;
        ok = error_wrap(err, "%s: no dialogue with this model", str_get(&s->m.dir));
    }
    s->m.chat.tok = s->m.tok; /* plain text needs no special tokens */
    if (a->json) {
        json_out_init(&s->j, &s->out, 0);
        json_out_obj(&s->j, NULL);
        json_out_str(&s->j, "schema", "dikast-score/1");
        json_out_arr(&s->j, "rows");
    }
    ok = ok && score_lines(s, err);
    if (ok && a->json) {
        json_out_arr_end(&s->j);
        json_out_obj_end(&s->j);
        print_text(&s->out);
    }
    for (int i = 0; i < ROWS; i++) {
        sequence_release(&s->item[i].prompt);
        sequence_release(&s->item[i].text);
        free(s->item[i].score);
        free(s->item[i].each);
    }
    str_release(&s->out);
    open_model_close(&s->m);
    free(s);
    return ok;
}

const Command command_score = {
    .name = "score",
    .usage = "score MODEL [FILE|-] [--chat] [--bos] [--json]",
    .help =
        "log-probabilities of continuations, or a scoring model's scores\n\n"
        "FILE: JSONL rows {prompt, continuation}, or context for prompt; plain, gzip or zstd; - or none: standard "
        "input. A row\n"
        "out per row in: {line, logprob, tokens, greedy}: the sum over the continuation, and whether greedy decoding "
        "would\n"
        "write it; with --json also ids and logprobs, token by token. A scoring model (preference model, classifier) "
        "reads\n"
        "{prompt, response} and gives {line, score, tokens}. A pair is cut as evaluation harnesses do: ids of both "
        "together "
        "beyond\n"
        "those of the prompt, white space at the prompt's end to the continuation, BOS where the tokenizer puts one.",
    .flag = flags,
    .min_arg = 1,
    .max_arg = 2,
    .run = run};
