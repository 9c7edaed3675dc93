#include "cai/import_text.h"

#include <string.h>

#include "base/io.h"
#include "base/json.h"
#include "cai/add_sentinels.h"
#include "cai/hf_folder.h"

enum { MAX_TOKENIZER = 256 << 20 };

/* Where what is not said in tokenizer_config.json may stand as an id, in this order. */
static const char *const model_file[] = {"generation_config.json", "config.json"};
static const char *const text_file[] = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"};

static void join(Str *out, const char *dir, const char *file) {
    str_clear(out);
    str_printf(out, "%s/%s", dir, file);
}

void import_text_files(const char *from, void (*add)(void *ud, const char *file), void *ud) {
    Str path = {0};
    if (!io_is_dir(from)) {
        add(ud, "");
        return;
    }
    add(ud, text_file[0]);
    for (int i = 0; i < 2 * (COUNT_OF(text_file) - 1); i++) {
        const char *file = i < COUNT_OF(text_file) - 1 ? text_file[i + 1] : model_file[i - COUNT_OF(text_file) + 1];
        join(&path, from, file);
        if (io_exists(path.s)) add(ud, file);
    }
    str_release(&path);
}

/* ---- headings: a folder that chat_open reads ---- */

typedef struct {
    const char *from, *to;
    Tokenizer *tok;
    Str json;     /* tokenizer.json */
    Json *config; /* tokenizer_config.json, or NULL */
    Str token[3]; /* bos, eos, pad as they are spelled; empty: none */
    bool has_template;
} Import;

enum { TOKEN_BOS, TOKEN_EOS, TOKEN_PAD };
static const char *const token_key[] = {"bos_token", "eos_token", "pad_token"};

static const char *spelled(const Json *config, const char *key) {
    const Json *entry = json_get(config, key), *content = json_get(entry, "content");
    return json_str(content ? content : entry, NULL);
}

/* The special token whose id the model's files name: "eos_token_id": 2 or [2, 3]. */
static bool token_by_id(Import *im, int which, Error *err) {
    Str path = {0}, key = {0};
    bool ok = true;
    str_printf(&key, "%s_id", token_key[which]);
    for (int i = 0; i < COUNT_OF(model_file) && ok && im->token[which].n == 0; i++) {
        Json *root = NULL;
        join(&path, im->from, model_file[i]);
        if (!io_exists(path.s)) continue;
        ok = json_read_file(&root, path.s, JSON_INT_AS_REAL, err);
        const Json *v = ok ? json_get(root, key.s) : NULL;
        int64_t id = json_int(json_len(v) > 0 ? json_at(v, 0) : v, -1);
        int32_t one = (int32_t)id;
        if (id >= 0 && id < tokenizer_n_vocab(im->tok) && tokenizer_is_special(im->tok, one))
            tokenizer_decode(im->tok, &one, 1, true, &im->token[which]);
        json_release(root);
    }
    str_release(&path);
    str_release(&key);
    return ok;
}

static bool same(const Str *a, const Str *b) { return a->n == b->n && memcmp(str_get(a), str_get(b), a->n) == 0; }

static bool find_tokens(Import *im, Error *err) {
    for (int k = 0; k < COUNT_OF(token_key); k++) {
        const char *s = im->config ? spelled(im->config, token_key[k]) : NULL;
        if (s)
            str_put(&im->token[k], s);
        else if (!token_by_id(im, k, err))
            return false;
    }
    if (im->token[TOKEN_EOS].n == 0)
        return error_set(err, ERR_FORMAT,
                         "%s: which token ends a reply? 'eos_token' of tokenizer_config.json or 'eos_token_id' of "
                         "config.json must name a special token of the tokenizer",
                         im->from);
    const char *pad = im->token[TOKEN_PAD].n ? str_get(&im->token[TOKEN_PAD]) : NULL;
    if (pad && tokenizer_special(im->tok, pad) >= 0 && !same(&im->token[TOKEN_PAD], &im->token[TOKEN_EOS]) &&
        !same(&im->token[TOKEN_PAD], &im->token[TOKEN_BOS]))
        return true;
    int n_new;
    str_clear(&im->token[TOKEN_PAD]);
    str_put(&im->token[TOKEN_PAD], sentinel_spelling(SENT_MASK));
    return add_sentinels(&im->json, 1u << SENT_MASK, &n_new, im->from, err);
}

static bool write_config(const Import *im, Error *err) {
    Str text = {0}, path = {0};
    JsonOut j;
    json_out_init(&j, &text, 2);
    json_out_obj(&j, NULL);
    for (int i = 0; i < json_len(im->config); i++) {
        const Json *value;
        const char *key = json_key_at(im->config, i, &value);
        bool ours = false;
        for (int k = 0; k < COUNT_OF(token_key); k++) ours = ours || !strcmp(key, token_key[k]);
        if (!ours) json_out_node(&j, key, value);
    }
    if (!im->config) json_out_str(&j, "tokenizer_class", "PreTrainedTokenizerFast");
    if (!im->config) json_out_bool(&j, "clean_up_tokenization_spaces", false);
    for (int k = 0; k < COUNT_OF(token_key); k++)
        if (im->token[k].n > 0) json_out_strn(&j, token_key[k], im->token[k].s, im->token[k].n);
    if (!im->has_template) json_out_str(&j, "chat_template", chat_transcript_template());
    json_out_obj_end(&j);
    str_putc(&text, '\n');
    join(&path, im->to, "tokenizer_config.json");
    bool ok = io_write_file(path.s, text.s, text.n, err);
    str_release(&path);
    str_release(&text);
    return ok;
}

static bool write_template(const Import *im, Error *err) {
    Str from = {0}, to = {0};
    const char *own = chat_transcript_template();
    join(&from, im->from, "chat_template.jinja");
    join(&to, im->to, "chat_template.jinja");
    bool ok = true;
    if (!im->has_template)
        ok = io_write_file(to.s, own, strlen(own), err);
    else if (io_exists(from.s))
        ok = io_copy_file(from.s, to.s, err);
    str_release(&from);
    str_release(&to);
    return ok;
}

static bool write_headings(Import *im, Error *err) {
    Str path = {0};
    bool ok = tokenizer_parse(&im->tok, im->json.s, im->json.n, im->from, err);
    join(&path, im->from, "tokenizer_config.json");
    if (ok && io_exists(path.s)) ok = json_read_file(&im->config, path.s, JSON_INT_AS_REAL, err);
    ok = ok && find_tokens(im, err) && write_config(im, err) && write_template(im, err);
    for (int k = 0; k < COUNT_OF(im->token); k++) str_release(&im->token[k]);
    json_release(im->config);
    if (im->tok) tokenizer_close(im->tok);
    str_release(&path);
    return ok;
}

/* ---- which of the two ---- */

/* A template that is not the native one. */
static bool own_template(bool *has, const char *dir, Error *err) {
    Str text = {0};
    *has = false;
    if (!hf_template_read(&text, dir, err)) return false;
    size_t n = text.n > 0 && text.s[text.n - 1] == '\n' ? text.n - 1 : text.n;
    const char *native = chat_native_template();
    *has = n > 0 && (n != strlen(native) || memcmp(text.s, native, n) != 0);
    str_release(&text);
    return true;
}

static bool choose(bool *headings, Import *im, PromptsMode mode, Error *err) {
    bool there, dir = io_is_dir(im->from);
    *headings = false;
    if (mode == PROMPTS_SENTINELS) return true;
    if (mode == PROMPTS_HEADINGS && !dir)
        return error_set(err, ERR_CONFIG,
                         "model.prompts=headings needs a model folder with its chat template or the token that ends a "
                         "text; %s is no folder",
                         im->from);
    if (dir && !own_template(&im->has_template, im->from, err)) return false;
    if (!sentinels_there(&there, &im->json, im->from, err)) return false;
    if (mode == PROMPTS_HEADINGS && there)
        return error_set(err, ERR_CONFIG,
                         "model.prompts=headings: %s has the method's special tokens already; leave the key out",
                         im->from);
    *headings = mode == PROMPTS_HEADINGS || (im->has_template && !there);
    return true;
}

bool import_text(const char *from, const char *to, PromptsMode mode, Log *log, Error *err) {
    Import im = {.from = from, .to = to};
    Str path = {0};
    bool headings = false;
    int n_new = 0;
    join(&path, from, "tokenizer.json");
    if (!io_is_dir(from)) str_clear(&path), str_put(&path, from);
    bool ok = io_read_file(&im.json, str_get(&path), MAX_TOKENIZER, err) && choose(&headings, &im, mode, err);
    if (ok && headings) {
        ok = write_headings(&im, err);
        if (ok)
            log_info(log, "%s: asked in plain words, by %s", from,
                     im.has_template ? "its chat template" : "transcripts");
    } else if (ok) {
        ok = add_sentinels(&im.json, SENTINELS_ALL, &n_new, str_get(&path), err);
        if (ok && n_new > 0) log_info(log, "%d special tokens of the method added to %s", n_new, str_get(&path));
    }
    join(&path, to, "tokenizer.json");
    ok = ok && io_write_file(path.s, im.json.s, im.json.n, err);
    str_release(&im.json);
    str_release(&path);
    return ok;
}
