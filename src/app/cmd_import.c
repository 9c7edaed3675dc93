/* dikast import: is a model folder one that we can work with, and what would be done to it? With a second folder it is
 * done: the method's special tokens get ids, embedding and head get rows for them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/export.h"
#include "base/io.h"
#include "cai/add_sentinels.h"
#include "cai/hf_folder.h"

static const Flag flags[] = {{"--seed", "N", "what new rows are drawn from (default 0)"}, MODEL_FLAGS, {0}};

typedef struct {
    OpenModel m;
    Str tokenizer; /* tokenizer.json with the special tokens; empty: the folder has none that we read */
    int n_new, n_vocab;
    Error no_text;
} Import;

static bool read_tokenizer(Import *im, Error *err) {
    Str path = {0};
    Tokenizer *tok = NULL;
    str_printf(&path, "%s/tokenizer.json", str_get(&im->m.dir));
    bool ok = io_read_file(&im->tokenizer, path.s, (size_t)256 << 20, err) &&
              add_sentinels(&im->tokenizer, SENTINELS_ALL, &im->n_new, path.s, err) &&
              tokenizer_parse(&tok, im->tokenizer.s, im->tokenizer.n, path.s, err);
    if (ok) {
        im->n_vocab = tokenizer_n_vocab(tok);
        tokenizer_close(tok);
    } else {
        str_release(&im->tokenizer);
    }
    str_release(&path);
    return ok;
}

static const char *const rope_words[] = {"plain", "linear", "llama3", "yarn"};

static void describe(const Import *im, Str *out) {
    const ModelConfig *c = &im->m.model.cfg;
    char count[16];
    format_count(count, (double)model_config_params(c));
    str_printf(out, "%s: %s, %s parameters: %d layers, width %d, %d heads of %d (%d for keys and values), MLP %d, ",
               str_get(&im->m.dir), im->m.head.kind == HEAD_LM ? "language model" : "scoring model", count, c->n_layer,
               c->d_model, c->n_head, c->d_head, c->n_kv_head, c->d_ff);
    str_printf(out, "context %d, vocabulary %d%s\n", c->max_seq, c->n_vocab, c->tied ? ", tied" : "");
    if (c->pos == POS_ROPE)
        str_printf(out, "rotation: base %g, %s%s\n", c->rope_theta, rope_words[c->rope.kind],
                   c->qk_norm ? "; q and k are normed" : "");
    if (c->window > 0) str_printf(out, "window: %d positions\n", c->window);
    if (im->tokenizer.n == 0)
        str_printf(out, "tokenizer: not usable: %s\n", im->no_text.msg);
    else
        str_printf(out, "tokenizer: %d ids, %d special tokens of the method among them are new%s\n", im->n_vocab,
                   im->n_new, im->n_vocab > c->n_vocab ? "; the embedding grows" : "");
}

static void describe_json(const Import *im, Str *out) {
    const ModelConfig *c = &im->m.model.cfg;
    JsonOut j;
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-import/1");
    json_out_str(&j, "model", str_get(&im->m.dir));
    json_out_str(&j, "head", im->m.head.kind == HEAD_LM ? "lm" : "score");
    json_out_int(&j, "parameters", model_config_params(c));
    json_out_int(&j, "layers", c->n_layer);
    json_out_int(&j, "context", c->max_seq);
    json_out_int(&j, "vocabulary", c->n_vocab);
    json_out_str(&j, "rotation", c->pos == POS_ROPE ? rope_words[c->rope.kind] : NULL);
    json_out_int(&j, "window", c->window);
    json_out_str(&j, "notes", str_get(&im->m.model.note));
    if (im->tokenizer.n > 0) {
        json_out_int(&j, "ids", im->n_vocab);
        json_out_int(&j, "new_ids", im->n_new);
    } else {
        json_out_str(&j, "no_tokenizer", im->no_text.msg);
    }
    json_out_obj_end(&j);
}

static bool write_folder(Import *im, const char *out, int64_t seed, Error *err) {
    OpenModel *m = &im->m;
    if (im->tokenizer.n == 0) {
        *err = im->no_text;
        return error_wrap(err, "nothing written");
    }
    if (im->n_vocab > m->model.cfg.n_vocab && !net_grow_vocab(&m->model, &m->head, im->n_vocab, (uint64_t)seed, err))
        return false;
    open_model_merge(m);
    Str path = {0};
    str_printf(&path, "%s/tokenizer.json", out);
    Tokenizer *tok = NULL;
    bool ok = net_save(m->net, out, err) && io_write_file(path.s, im->tokenizer.s, im->tokenizer.n, err) &&
              tokenizer_open(&tok, out, err);
    Str template = {0};
    if (ok) {
        HfExtras x = {.tok = tok, .tokens = m->model.tokens, .max_seq = m->model.cfg.max_seq};
        ok = hf_template_read(&template, str_get(&m->dir), err);
        x.chat_template =
            template.n > 0 ? template.s : chat_native_template(); /* the tokenizer has its tokens by now */
        ok = ok && hf_extras_write(out, &x, err);
        tokenizer_close(tok);
    }
    str_release(&template);
    str_release(&path);
    return ok;
}

static bool run(const Args *a, Error *err) {
    const Command *self = &command_import;
    Import im = {0};
    Str text = {0};
    int64_t seed;
    if (!args_int(a, self, "--seed", 0, 0, INT64_MAX, &seed, err) || !open_net(&im.m, a, self, err)) return false;
    bool ok = true;
    read_tokenizer(&im, &im.no_text);
    if (a->n_arg > 1 && im.m.head.kind != HEAD_LM) ok = open_model_need(&im.m, HEAD_LM, err);
    if (ok && a->n_arg > 1 && same_folder(str_get(&im.m.dir), a->arg[1]))
        ok = error_set(err, ERR_CONFIG, "%s is the folder to import: name another", a->arg[1]);
    if (a->json)
        describe_json(&im, &text);
    else
        describe(&im, &text);
    ok = ok && (a->n_arg < 2 || write_folder(&im, a->arg[1], seed, err));
    if (ok) print_text(&text);
    str_release(&text);
    str_release(&im.tokenizer);
    open_model_close(&im.m);
    return ok;
}

const Command command_import = {
    .name = "import",
    .usage = "import FOLDER [OUT] [--json]",
    .help =
        "check a model folder from elsewhere, and make it one of ours\n\n"
        "Opens config.json, weights and tokenizer.json strictly and says what they hold. With OUT the method's "
        "special\n"
        "tokens get ids behind the vocabulary, embedding and head get rows for them, and the folder is written. A run "
        "with\n"
        "model.path=FOLDER and model.prompts=sentinels does the same by itself.",
    .flag = flags,
    .min_arg = 1,
    .max_arg = 2,
    .run = run};
