/* dikast paraphrase: clusters of prompts on which consistency is measured. */
#include <stdlib.h>
#include <string.h>

#include "app/open.h"
#include "base/io.h"
#include "cai/questions.h"

static const Flag flags[] = {
    {"--out", "FILE", "where the rows go (default: standard output)"},
    {"--n", "N", "paraphrases of each prompt by rule, and as many by the model (default 4)"},
    {"--model", "DIR", "a model that makes paraphrases too"},
    {"--personas", NULL, "each prompt under five system messages, too"},
    {"--turns", "LIST", "each prompt after so many harmless turns, too, such as 4,8 (at most 8)"},
    {"--seed", "N", "every draw follows from it (default 0)"},
    MODEL_FLAGS,
    {0}};

static bool read_turns(int *turns, int *n, const char *list, Error *err) {
    *n = 0;
    for (const char *s = list; s && *s;) {
        char *end;
        long t = strtol(s, &end, 10);
        if (end == s || (*end && *end != ',') || t < 0 || t > FILLER_TURNS || *n >= FILLER_TURNS)
            return error_set(err, ERR_CONFIG, "--turns must be a list of numbers in 0..%d, found '%s'", FILLER_TURNS,
                             list);
        turns[(*n)++] = (int)t;
        s = *end ? end + 1 : end;
    }
    return true;
}

static bool by_model(Questions *q, int n, int per, uint64_t seed, const Args *a, int *made, Error *err) {
    const char *model = args_flag(a, &command_paraphrase, "--model");
    OpenModel m;
    Args with = *a;
    *made = 0;
    if (!model) return true;
    with.arg[0] = model;
    if (!open_model(&m, &with, &command_paraphrase, err)) return false;
    bool ok = open_model_need(&m, HEAD_LM, err);
    if (ok && !m.has_chat) {
        *err = m.no_chat;
        ok = false;
    }
    ok = ok && questions_by_model(q, n, per, m.engine, &m.chat, m.tok, seed, a->log, made, err);
    open_model_close(&m);
    return ok;
}

static void put_rows(Str *out, const Questions *q) {
    for (int i = 0; i < q->n; i++) {
        JsonOut j;
        json_out_init(&j, out, 0);
        json_out_obj(&j, NULL);
        question_json(&j, &q->item[i]);
        json_out_obj_end(&j);
        str_putc(out, '\n');
    }
}

static void put_counts(const Args *a, int n, int ruled, int made, int rows) {
    Str text = {0};
    JsonOut j;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "kind", "paraphrases");
    json_out_int(&j, "schema", 1);
    json_out_str(&j, "out", args_flag(a, &command_paraphrase, "--out"));
    json_out_int(&j, "prompts", n);
    json_out_int(&j, "by_rule", ruled);
    json_out_int(&j, "by_model", made);
    json_out_int(&j, "rows", rows);
    json_out_obj_end(&j);
    print_text(&text);
}

static bool run(const Args *a, Error *err) {
    const Command *self = &command_paraphrase;
    const char *file = args_flag(a, self, "--out");
    int64_t per, seed;
    int turns[FILLER_TURNS], n_turns, made = 0, ruled = 0;
    Questions q = {0};
    Str text = {0};
    if (!args_int(a, self, "--n", 4, 0, 1000, &per, err) || !args_int(a, self, "--seed", 0, 0, INT64_MAX, &seed, err) ||
        !read_turns(turns, &n_turns, args_flag(a, self, "--turns"), err))
        return false;
    if (a->json && !file) return error_set(err, ERR_CONFIG, "with --json the rows need a file: --out FILE");
    if (!questions_read(&q, a->arg[0], err)) return false;
    int n = q.n;
    ruled = questions_by_rule(&q, n, (int)per, (Rng){(uint64_t)seed, RNG_AUGMENT});
    bool ok = by_model(&q, n, (int)per, (uint64_t)seed, a, &made, err);
    if (ok && (n_turns || args_flag(a, self, "--personas"))) questions_personas(&q, n, turns, n_turns);
    put_rows(&text, &q);
    if (ok && file) ok = io_write_file(file, text.s, text.n, err);
    if (ok) log_info(a->log, "%d prompts, %d paraphrases by rule, %d by the model, %d rows", n, ruled, made, q.n);
    if (ok && a->json)
        put_counts(a, n, ruled, made, q.n);
    else if (ok && !file)
        print_text(&text);
    str_release(&text);
    questions_release(&q);
    return ok;
}

const Command command_paraphrase = {
    .name = "paraphrase",
    .usage = "paraphrase PROMPTS [--out FILE] [--n N] [--model DIR] [--personas] [--turns LIST]",
    .help =
        "clusters of prompts that ask the same, for 'dikast consistency'\n\n"
        "PROMPTS: rows {id, prompt or messages, kind, category}. They come first, then variants with 'parent' and "
        "'made':\n"
        "by rule (wording, synonyms, politeness, typing errors, order; English) or by a model, whose drafts must keep\n"
        "length and content words. 'dikast answer' asks a model.",
    .flag = flags,
    .min_arg = 1,
    .max_arg = 1,
    .run = run};
