/* app/export_gguf.c — a model folder as one GGUF file: the vocabulary's pairs from tokenizer.json, the rest by
 * nn/gguf_model.c.
 *
 * The name of the pre-tokenizer goes with the exact text of its pattern: under another name the file loads and splits
 * text differently, so a pattern without a known name is refused unless the name is given. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/export.h"
#include "base/io.h"
#include "cai/hf_folder.h"
#include "nn/gguf_model.h"

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE };

typedef struct {
    const char *s; /* NULL: no such token */
    size_t n;
    int32_t type;
} VocabEntry;

typedef struct {
    Json *root;
    VocabEntry *entry; /* (n) */
    int n;
    bool sentencepiece, add_bos, prefix_space;
    const char *pre; /* name of the pre-tokenizer */
} Vocab;

/* -- tokenizer.json ------------------------------------------------------------------------------------------------ */

static bool is_type(const Json *node, const char *type) {
    const char *s = json_str(json_get(node, "type"), NULL);
    return s && strcmp(s, type) == 0;
}

/* The steps of a component that may be a Sequence of them, under `list`. */
static int steps_of(const Json *node, const char *list, const Json **step, int max) {
    if (!node || json_kind(node) != JSON_OBJ) return 0;
    if (!is_type(node, "Sequence")) {
        step[0] = node;
        return 1;
    }
    const Json *all = json_get(node, list);
    int n = json_len(all) < max ? json_len(all) : max;
    for (int i = 0; i < n; i++) step[i] = json_at(all, i);
    return n;
}

#define LLAMA_PATTERN(count)                                                                                           \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" count                                          \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
static const struct {
    const char *pattern, *name;
} patterns[] = {
    {LLAMA_PATTERN("{1,3}"), "llama-bpe"},
    {LLAMA_PATTERN(""), "qwen2"},
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", "gpt-2"},
    {"'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", "gpt-2"},
};

static const char *pattern_name(const Json *split) {
    const Json *pattern = json_get(split, "pattern");
    const char *s = json_str(json_get(pattern, "Regex"), NULL);
    for (int i = 0; s && i < COUNT_OF(patterns); i++)
        if (strcmp(s, patterns[i].pattern) == 0) return patterns[i].name;
    return NULL;
}

static const char *pre_name(const Json *pre_tokenizer) {
    const Json *step[4];
    int n = steps_of(pre_tokenizer, "pretokenizers", step, COUNT_OF(step));
    bool own_split = n > 0 && is_type(step[n - 1], "ByteLevel") && json_bool(json_get(step[n - 1], "use_regex"), true);
    if (n == 1 && own_split) return "gpt-2";
    if (n == 2 && own_split && is_type(step[0], "Digits") && json_bool(json_get(step[0], "individual_digits"), false))
        return "smollm";
    if (n == 2 && !own_split && is_type(step[0], "Split")) return pattern_name(step[0]);
    return NULL;
}

/* Does the template put this token in front? */
static bool begins_with(const Json *post, const char *token) {
    const Json *step[4];
    int n = steps_of(post, "processors", step, COUNT_OF(step));
    for (int i = 0; i < n; i++) {
        const Json *special = json_get(json_at(json_get(step[i], "single"), 0), "SpecialToken");
        const char *id = json_str(json_get(special, "id"), NULL);
        if (id && token && strcmp(id, token) == 0) return true;
    }
    return false;
}

static bool add_entry(Vocab *v, const char *s, size_t n, const Json *id_node, int32_t type, Error *err) {
    int64_t id = json_int(id_node, -1);
    if (id < 0 || id >= v->n)
        return error_set(err, ERR_FORMAT, "token '%.60s' has id %lld, the model's vocabulary is 0..%d", s,
                         (long long)id, v->n - 1);
    v->entry[id] = (VocabEntry){s, n, type};
    return true;
}

static bool is_byte_token(const char *s, size_t n) { return n == 6 && memcmp(s, "<0x", 3) == 0 && s[5] == '>'; }

static bool read_entries(Vocab *v, const Json *model, Error *err) {
    const Json *vocab = json_get(model, "vocab"), *added = json_get(v->root, "added_tokens"), *id;
    const char *unk = json_str(json_get(model, "unk_token"), NULL);
    for (int i = 0; i < json_len(vocab); i++) {
        const char *s = json_key_at(vocab, i, &id);
        size_t n = strlen(s);
        bool byte = v->sentencepiece && is_byte_token(s, n);
        if (!add_entry(v, s, n, id, byte ? TYPE_BYTE : TYPE_NORMAL, err)) return false;
    }
    for (int i = 0; i < json_len(added); i++) {
        const Json *t = json_at(added, i);
        size_t n;
        const char *s = json_str(json_get(t, "content"), &n);
        bool special = json_bool(json_get(t, "special"), false);
        int32_t type = special ? TYPE_CONTROL : TYPE_USER;
        if (!s) return error_set(err, ERR_FORMAT, "'added_tokens[%d].content' is missing", i);
        if (v->sentencepiece && unk && strcmp(s, unk) == 0) type = TYPE_UNKNOWN;
        if (!add_entry(v, s, n, json_get(t, "id"), type, err)) return false;
    }
    for (int i = 0; v->sentencepiece && unk && i < v->n; i++)
        if (v->entry[i].s && strcmp(v->entry[i].s, unk) == 0) v->entry[i].type = TYPE_UNKNOWN;
    return true;
}

static bool adds_prefix_space(const Json *root) {
    const Json *pre[4], *norm[4];
    int n_pre = steps_of(json_get(root, "pre_tokenizer"), "pretokenizers", pre, COUNT_OF(pre));
    int n_norm = steps_of(json_get(root, "normalizer"), "normalizers", norm, COUNT_OF(norm));
    for (int i = 0; i < n_pre; i++) {
        const char *scheme = json_str(json_get(pre[i], "prepend_scheme"), NULL);
        if (is_type(pre[i], "Metaspace")) return !scheme || strcmp(scheme, "never") != 0;
    }
    for (int i = 0; i < n_norm; i++)
        if (is_type(norm[i], "Prepend")) return true;
    return false;
}

static bool has_normalizer(const Json *root, const char *type) {
    const Json *step[8];
    int n = steps_of(json_get(root, "normalizer"), "normalizers", step, COUNT_OF(step));
    for (int i = 0; i < n; i++)
        if (is_type(step[i], type)) return true;
    return false;
}

static void vocab_release(Vocab *v) {
    free(v->entry);
    json_release(v->root);
    *v = (Vocab){0};
}

static bool vocab_read(Vocab *v, const OpenModel *m, const char *pre, Log *log, Error *err) {
    Str path = {0};
    *v = (Vocab){.n = m->model.cfg.n_vocab};
    str_printf(&path, "%s/tokenizer.json", str_get(&m->dir));
    bool ok = json_read_file(&v->root, path.s, JSON_INT_AS_REAL, err);
    const Json *model = ok ? json_get(v->root, "model") : NULL;
    if (ok && !json_get(model, "merges")) ok = error_set(err, ERR_FORMAT, "%s: only BPE models go into GGUF", path.s);
    if (ok) {
        v->entry = mem_alloc((size_t)v->n * sizeof *v->entry);
        v->sentencepiece = json_bool(json_get(model, "byte_fallback"), false);
        v->prefix_space = adds_prefix_space(v->root);
        v->pre = pre ? pre : pre_name(json_get(v->root, "pre_tokenizer"));
        if (!v->sentencepiece && !v->pre)
            ok = error_set(err, ERR_FORMAT,
                           "%s: the pre-tokenizer is none that has a known name in GGUF (llama-bpe, qwen2, gpt-2, "
                           "smollm): give the name that belongs to it as --pre NAME",
                           path.s);
        ok = ok && (read_entries(v, model, err) || error_wrap(err, "%s", path.s));
    }
    if (ok && has_normalizer(v->root, "NFC"))
        log_warn(log, "%s: programs that read GGUF do not normalise text: text that is not NFC gets other ids", path.s);
    int bos = m->model.tokens.bos;
    if (ok && bos >= 0) v->add_bos = begins_with(json_get(v->root, "post_processor"), v->entry[bos].s);
    str_release(&path);
    if (!ok) vocab_release(v);
    return ok;
}

/* -- pairs --------------------------------------------------------------------------------------------------------- */

#define TOKENIZER_KEY "tokenizer.ggml."

static void put_tokens(GgufOut *g, const Vocab *v) {
    char unused[32];
    gguf_put_array(g, TOKENIZER_KEY "tokens", GGUF_STR, (uint64_t)v->n);
    for (int i = 0; i < v->n; i++) {
        snprintf(unused, sizeof unused, "[unused%d]", i);
        const VocabEntry *e = &v->entry[i];
        gguf_item_put_str(g, e->s ? e->s : unused, e->s ? e->n : strlen(unused));
    }
    gguf_put_array(g, TOKENIZER_KEY "token_type", GGUF_I32, (uint64_t)v->n);
    for (int i = 0; i < v->n; i++) gguf_item_put_i32(g, v->entry[i].s ? v->entry[i].type : TYPE_UNUSED);
}

static bool put_merges(GgufOut *g, const Json *merges, Error *err) {
    Str pair = {0};
    bool ok = true;
    gguf_put_array(g, TOKENIZER_KEY "merges", GGUF_STR, (uint64_t)json_len(merges));
    for (int i = 0; i < json_len(merges) && ok; i++) {
        const Json *m = json_at(merges, i);
        const char *one = json_str(m, NULL), *a = json_str(json_at(m, 0), NULL), *b = json_str(json_at(m, 1), NULL);
        str_clear(&pair);
        if (one)
            str_put(&pair, one);
        else if (a && b)
            str_printf(&pair, "%s %s", a, b);
        else
            ok = error_set(err, ERR_FORMAT, "tokenizer.json: merge %d is neither a string nor a pair", i);
        gguf_item_put_str(g, str_get(&pair), pair.n);
    }
    str_release(&pair);
    return ok;
}

static void put_id(GgufOut *g, const char *key, int id) {
    if (id >= 0) gguf_put_u32(g, key, (uint32_t)id);
}

static bool put_vocab(GgufOut *g, const Vocab *v, const ModelTokens *t, Error *err) {
    const char *model = v->sentencepiece ? "llama" : "gpt2";
    gguf_put_str(g, TOKENIZER_KEY "model", model, strlen(model));
    if (v->sentencepiece) {
        gguf_put_bool(g, TOKENIZER_KEY "add_space_prefix", v->prefix_space);
        gguf_put_array(g, TOKENIZER_KEY "scores", GGUF_F32, (uint64_t)v->n);
        for (int i = 0; i < v->n; i++) gguf_item_put_f32(g, (float)-i);
        for (int i = 0; i < v->n; i++)
            if (v->entry[i].s && v->entry[i].type == TYPE_UNKNOWN) put_id(g, TOKENIZER_KEY "unknown_token_id", i);
    } else {
        gguf_put_str(g, TOKENIZER_KEY "pre", v->pre, strlen(v->pre));
        if (!put_merges(g, json_get(json_get(v->root, "model"), "merges"), err)) return false;
    }
    put_tokens(g, v);
    put_id(g, TOKENIZER_KEY "bos_token_id", t->bos);
    put_id(g, TOKENIZER_KEY "eos_token_id", t->n_eos > 0 ? t->eos[0] : -1);
    put_id(g, TOKENIZER_KEY "padding_token_id", t->pad);
    gguf_put_bool(g, TOKENIZER_KEY "add_bos_token", v->add_bos);
    return true;
}

static bool put_template(GgufOut *g, const char *dir, Error *err) {
    Str text = {0};
    bool ok = hf_template_read(&text, dir, err);
    if (ok && text.n > 0) gguf_put_str(g, "tokenizer.chat_template", text.s, text.n);
    str_release(&text);
    return ok;
}

static void put_general(GgufOut *g, const OpenModel *m, GgufType type) {
    static const uint32_t file_type[GGUF_TYPE_COUNT] = {
        [GGUF_TYPE_F32] = 0, [GGUF_TYPE_F16] = 1, [GGUF_TYPE_Q8_0] = 7, [GGUF_TYPE_BF16] = 32};
    const char *arch = gguf_architecture(m->model.cfg.family), *dir = str_get(&m->dir);
    const char *slash = strrchr(dir, '/'), *name = slash && slash[1] ? slash + 1 : dir;
    gguf_put_str(g, "general.architecture", arch, strlen(arch));
    gguf_put_str(g, "general.name", name, strlen(name));
    gguf_put_u32(g, "general.file_type", file_type[type]);
    gguf_put_u32(g, "general.quantization_version", 2);
}

bool export_gguf(const OpenModel *m, const char *out, GgufType type, const char *pre, Log *log, Error *err) {
    const ModelConfig *c = &m->model.cfg;
    Vocab v;
    GgufOut g = {0};
    if (m->head.kind != HEAD_LM)
        return error_set(err, ERR_CONFIG, "%s is a scoring model; GGUF files hold language models", str_get(&m->dir));
    if (!gguf_can_hold(c, err) || !vocab_read(&v, m, pre, log, err)) return false;
    if (gguf_context(c) < c->max_seq)
        log_warn(log, "the file's context is %d tokens, not %d: GGUF has no key for this family's window",
                 gguf_context(c), c->max_seq);
    put_general(&g, m, type);
    gguf_put_config(&g, c);
    bool ok = put_vocab(&g, &v, &m->model.tokens, err) && put_template(&g, str_get(&m->dir), err) &&
              gguf_write_model(out, &g, m->net, type, err);
    gguf_out_release(&g);
    vocab_release(&v);
    return ok;
}

/* -- what a file's vocabulary says, against the folder's ------------------------------------------------------------
 */

static bool check_tokens(const GgufFile *f, const Vocab *v, Error *err) {
    const GgufPair *p = gguf_find(f, TOKENIZER_KEY "tokens"), *types = gguf_find(f, TOKENIZER_KEY "token_type");
    if (!p || p->type != GGUF_ARRAY || p->item != GGUF_STR || p->n != (uint64_t)v->n)
        return error_set(err, ERR_FORMAT, "'" TOKENIZER_KEY "tokens' is no list of %d strings", v->n);
    const unsigned char *at = p->value;
    for (int i = 0; i < v->n; i++) {
        GgufStr s = gguf_next_str(&at);
        const VocabEntry *e = &v->entry[i];
        if (e->s && (s.n != e->n || memcmp(s.s, e->s, s.n) != 0))
            return error_set(err, ERR_FORMAT, "token %d is '%.*s', expected '%.60s'", i, s.n < 60 ? (int)s.n : 60, s.s,
                             e->s);
        if (types && types->type == GGUF_ARRAY && gguf_item_int(types, (uint64_t)i) != (e->s ? e->type : TYPE_UNUSED))
            return error_set(err, ERR_FORMAT, "token %d '%.60s' has type %lld", i, e->s ? e->s : "",
                             (long long)gguf_item_int(types, (uint64_t)i));
    }
    return true;
}

bool export_gguf_check(const OpenModel *m, const GgufFile *f, Log *log, Error *err) {
    Vocab v;
    GgufStr pre = {0};
    if (!vocab_read(&v, m, "", log, err)) return false;
    bool ok = check_tokens(f, &v, err);
    const char *expected = pre_name(json_get(v.root, "pre_tokenizer"));
    if (ok && !v.sentencepiece && expected &&
        (!gguf_str(gguf_find(f, TOKENIZER_KEY "pre"), &pre) || pre.n != strlen(expected) ||
         memcmp(pre.s, expected, pre.n) != 0))
        ok = error_set(err, ERR_FORMAT, "'" TOKENIZER_KEY "pre' is '%.*s', expected '%s'", pre.n < 60 ? (int)pre.n : 60,
                       pre.s ? pre.s : "", expected);
    vocab_release(&v);
    return ok;
}
