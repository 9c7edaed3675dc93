/* tokenizer_json.c — reading and writing Hugging Face's tokenizer.json.
 *
 * A tokenizer that does almost what the file says is worse than none: ids shift and nothing looks broken. So every key
 * and every component we do not carry out exactly is refused by name, and so is what would keep a byte string from
 * coming back: normalizers, added prefix spaces, missing byte tokens, special tokens that merging could reach. */
#include "text/text_int.h"

#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_VOCAB = 1 << 22 };

typedef struct {
    Tokenizer *t;
    const Json *root, *model, *vocab;
    const char **key; /* (n_vocab) spelling in model.vocab; NULL: none */
    bool *produced;   /* (n_vocab) a byte or the result of a merge */
    Error *err;
} Reader;

#define REFUSE(r, ...) error_set((r)->err, ERR_FORMAT, __VA_ARGS__)

static bool is_null(const Json *j) { return !j || json_kind(j) == JSON_NIL; }

static bool is_flag(const Json *j, bool value) {
    return j && (json_kind(j) == JSON_YES || json_kind(j) == JSON_NO) && json_bool(j, false) == value;
}

/* obj's keys are all in known (NULL-terminated). */
static bool only_keys(Reader *r, const Json *obj, const char *where, const char *const *known) {
    if (!obj || json_kind(obj) != JSON_OBJ) return REFUSE(r, "%s: expected an object", where);
    for (int i = 0; i < json_len(obj); i++) {
        const Json *value;
        const char *key = json_key_at(obj, i, &value);
        int k = 0;
        while (known[k] && strcmp(known[k], key) != 0) k++;
        if (!known[k]) return REFUSE(r, "%s: unknown key '%.100s'", where, key);
    }
    return true;
}

static const char *type_of(const Json *j) {
    const char *type = j ? json_str(json_get(j, "type"), NULL) : NULL;
    return type ? type : "(no type)";
}

/* ---- components ---- */

static bool byte_level(Reader *r, const Json *j, const char *where, bool use_regex) {
    static const char *const known[] = {"type", "add_prefix_space", "trim_offsets", "use_regex", NULL};
    if (!only_keys(r, j, where, known)) return false;
    if (!is_flag(json_get(j, "add_prefix_space"), false))
        return REFUSE(r, "%s: add_prefix_space must be false: text would not come back byte for byte", where);
    const Json *regex = json_get(j, "use_regex");
    if (!(use_regex && is_null(regex)) && !is_flag(regex, use_regex))
        return REFUSE(r, "%s: use_regex must be %s here", where, use_regex ? "true" : "false");
    return true;
}

static bool read_split(Reader *r, const Json *j) {
    static const char *const known[] = {"type", "pattern", "behavior", "invert", NULL};
    static const char *const known_pattern[] = {"Regex", NULL};
    const char *where = "pre_tokenizer.pretokenizers[0]";
    const char *behavior = json_str(json_get(j, "behavior"), NULL);
    size_t n;
    if (!only_keys(r, j, where, known)) return false;
    if (!only_keys(r, json_get(j, "pattern"), "pre_tokenizer.pretokenizers[0].pattern", known_pattern)) return false;
    if (!behavior || strcmp(behavior, "Isolated") != 0)
        return REFUSE(r, "%s: behavior '%.40s' is not supported, expected 'Isolated'", where, behavior ? behavior : "");
    if (!is_flag(json_get(j, "invert"), false)) return REFUSE(r, "%s: invert must be false", where);
    const char *pattern = json_str(json_get(json_get(j, "pattern"), "Regex"), &n);
    if (!pattern) return REFUSE(r, "%s: expected a string at 'Regex'", where);
    return splitter_open(&r->t->split, pattern, n, r->err) || error_wrap(r->err, "%s", where);
}

static bool read_pre_tokenizer(Reader *r) {
    static const char *const known[] = {"type", "pretokenizers", NULL};
    const Json *j = json_get(r->root, "pre_tokenizer");
    if (is_null(j)) return REFUSE(r, "pre_tokenizer: none; expected ByteLevel or Sequence[Split, ByteLevel]");
    if (strcmp(type_of(j), "ByteLevel") == 0) {
        const char *gpt2 = split_pattern[SPLIT_GPT2];
        return byte_level(r, j, "pre_tokenizer", true) && splitter_open(&r->t->split, gpt2, strlen(gpt2), r->err);
    }
    if (strcmp(type_of(j), "Sequence") != 0)
        return REFUSE(r, "pre_tokenizer: '%.60s' is not supported, expected ByteLevel or Sequence[Split, ByteLevel]",
                      type_of(j));
    const Json *list = json_get(j, "pretokenizers");
    if (!only_keys(r, j, "pre_tokenizer", known)) return false;
    int n = list && json_kind(list) == JSON_ARR ? json_len(list) : 0;
    const char *first = n > 0 ? type_of(json_at(list, 0)) : "nothing",
               *second = n > 1 ? type_of(json_at(list, 1)) : "nothing";
    if (n != 2 || strcmp(first, "Split") != 0 || strcmp(second, "ByteLevel") != 0)
        return REFUSE(r,
                      "pre_tokenizer: Sequence of %d starting with '%.60s', '%.60s' is not supported, expected [Split, "
                      "ByteLevel]",
                      n, first, second);
    return read_split(r, json_at(list, 0)) && byte_level(r, json_at(list, 1), "pre_tokenizer.pretokenizers[1]", false);
}

/* Post-processors add special tokens around a text or trim offsets; neither touches the ids text itself gives. */
static bool read_post_processor(Reader *r, const Json *j, int depth) {
    if (is_null(j)) return true;
    const char *type = type_of(j);
    if (strcmp(type, "ByteLevel") == 0 || strcmp(type, "TemplateProcessing") == 0) return true;
    const Json *list = json_get(j, "processors");
    if (strcmp(type, "Sequence") != 0 || depth > 2 || !list)
        return REFUSE(r, "post_processor: '%.60s' is not supported", type);
    for (int i = 0; i < json_len(list); i++)
        if (!read_post_processor(r, json_at(list, i), depth + 1)) return false;
    return true;
}

static bool read_components(Reader *r) {
    static const char *const known[] = {"version",       "truncation",     "padding", "added_tokens", "normalizer",
                                        "pre_tokenizer", "post_processor", "decoder", "model",        NULL};
    if (!only_keys(r, r->root, "top level", known)) return false;
    const Json *version = json_get(r->root, "version");
    const char *text = version ? json_str(version, NULL) : "1.0";
    if (!text || strcmp(text, "1.0") != 0) return REFUSE(r, "version: '%.20s', expected '1.0'", text ? text : "");
    const Json *truncation = json_get(r->root, "truncation"), *padding = json_get(r->root, "padding");
    if (!is_null(truncation)) return REFUSE(r, "truncation is not supported: set it to null");
    if (!is_null(padding)) return REFUSE(r, "padding is not supported: set it to null");
    const Json *normalizer = json_get(r->root, "normalizer"), *decoder = json_get(r->root, "decoder");
    if (!is_null(normalizer))
        return REFUSE(r, "normalizer: '%.60s' is not supported: text would not come back byte for byte",
                      type_of(normalizer));
    if (is_null(decoder) || strcmp(type_of(decoder), "ByteLevel") != 0)
        return REFUSE(r, "decoder: '%.60s' is not supported, expected ByteLevel",
                      is_null(decoder) ? "none" : type_of(decoder));
    return read_pre_tokenizer(r) && read_post_processor(r, json_get(r->root, "post_processor"), 0);
}

/* ---- model ---- */

static bool empty(const Json *j) { /* null, absent or "" */
    const char *s = is_null(j) ? "" : json_str(j, NULL);
    return s && !*s;
}

static bool read_model(Reader *r) {
    static const char *const known[] = {"type",          "dropout",       "unk_token", "continuing_subword_prefix",
                                        "vocab",         "merges",        "fuse_unk",  "end_of_word_suffix",
                                        "byte_fallback", "ignore_merges", NULL};
    r->model = json_get(r->root, "model");
    if (is_null(r->model)) return REFUSE(r, "model: none; expected BPE");
    const Json *type = json_get(r->model, "type"), *dropout = json_get(r->model, "dropout");
    if (type && strcmp(type_of(r->model), "BPE") != 0)
        return REFUSE(r, "model: '%.60s' is not supported, expected BPE", type_of(r->model));
    if (!only_keys(r, r->model, "model", known)) return false;
    if (!is_null(dropout) && json_num(dropout, 1) != 0) return REFUSE(r, "model.dropout is not supported");
    if (!empty(json_get(r->model, "continuing_subword_prefix")))
        return REFUSE(r, "model.continuing_subword_prefix is not supported");
    if (!empty(json_get(r->model, "end_of_word_suffix"))) return REFUSE(r, "model.end_of_word_suffix is not supported");
    const Json *fallback = json_get(r->model, "byte_fallback"), *ignore = json_get(r->model, "ignore_merges");
    if (!is_null(fallback) && !is_flag(fallback, false))
        return REFUSE(r, "model.byte_fallback is not supported: a byte-level vocabulary needs none");
    if (!is_null(ignore) && !is_flag(ignore, true) && !is_flag(ignore, false))
        return REFUSE(r, "model.ignore_merges: expected true or false");
    r->t->ignore_merges = is_flag(ignore, true);
    r->vocab = json_get(r->model, "vocab");
    if (!r->vocab || json_kind(r->vocab) != JSON_OBJ) return REFUSE(r, "model.vocab: expected an object");
    return true;
}

static bool checked_id(Reader *r, int64_t *id, const Json *j, const char *where, const char *spelling) {
    if (!j || json_kind(j) != JSON_INT || json_int(j, -1) < 0 || json_int(j, -1) >= MAX_VOCAB)
        return REFUSE(r, "%s: '%.60s': expected an id from 0 to %d", where, spelling, MAX_VOCAB - 1);
    *id = json_int(j, -1);
    return true;
}

/* The largest id anywhere sizes the tables. */
static bool read_sizes(Reader *r) {
    const Json *added = json_get(r->root, "added_tokens"), *j;
    int64_t id, most = -1;
    if (!is_null(added) && json_kind(added) != JSON_ARR) return REFUSE(r, "added_tokens: expected an array");
    for (int i = 0; i < json_len(r->vocab); i++) {
        const char *key = json_key_at(r->vocab, i, &j);
        if (!checked_id(r, &id, j, "model.vocab", key)) return false;
        most = id > most ? id : most;
    }
    for (int i = 0; !is_null(added) && i < json_len(added); i++) {
        if (!checked_id(r, &id, json_get(json_at(added, i), "id"), "added_tokens", "id")) return false;
        most = id > most ? id : most;
    }
    Tokenizer *t = r->t;
    t->n_vocab = (int)(most + 1);
    size_t n = (size_t)t->n_vocab + 1;
    t->kind = mem_alloc(n);
    t->start = mem_alloc(n * sizeof *t->start);
    t->len = mem_alloc(n * sizeof *t->len);
    r->key = mem_alloc(n * sizeof *r->key);
    r->produced = mem_alloc(n);
    return true;
}

static bool read_vocab(Reader *r) {
    Tokenizer *t = r->t;
    memset(t->byte_id, -1, sizeof t->byte_id);
    for (int i = 0; i < json_len(r->vocab); i++) {
        const Json *j;
        const char *key = json_key_at(r->vocab, i, &j);
        int32_t id = (int32_t)json_int(j, -1);
        if (t->kind[id] != TOKEN_ABSENT)
            return REFUSE(r, "model.vocab: '%.60s' and '%.60s' share id %d", r->key[id], key, id);
        size_t n = strlen(key);
        t->start[id] = (uint32_t)t->bytes.n;
        t->kind[id] = alphabet_read(&t->bytes, key, n) ? TOKEN_PLAIN : TOKEN_RAW;
        if (t->kind[id] == TOKEN_RAW)
            str_putn(&t->bytes, key, n);
        else if (t->bytes.n == t->start[id] + 1) {
            t->byte_id[(unsigned char)t->bytes.s[t->start[id]]] = id;
            r->produced[id] = true;
        }
        t->len[id] = (uint32_t)t->bytes.n - t->start[id];
        r->key[id] = key;
    }
    for (int b = 0; b < 256; b++) {
        Str spelled = {0};
        if (t->byte_id[b] >= 0) continue;
        alphabet_put(&spelled, &(char){(char)b}, 1);
        REFUSE(r, "model.vocab: no token '%s' for byte 0x%02x: text would not come back byte for byte",
               str_get(&spelled), b);
        str_release(&spelled);
        return false;
    }
    return true;
}

/* Both spellings of a merge: ["a", "b"] and "a b". left and right point into *hold or the JSON. */
static bool merge_parts(Reader *r, const Json *j, int rank, Str *left, Str *right) {
    str_clear(left);
    str_clear(right);
    const char *s = json_str(j, NULL);
    if (s) {
        const char *space = strchr(s, ' ');
        if (!space || strchr(space + 1, ' '))
            return REFUSE(r, "model.merges[%d]: '%.60s': expected two tokens", rank, s);
        str_putn(left, s, (size_t)(space - s));
        str_put(right, space + 1);
        return true;
    }
    const char *a = json_str(json_at(j, 0), NULL), *b = json_str(json_at(j, 1), NULL);
    if (json_kind(j) != JSON_ARR || json_len(j) != 2 || !a || !b)
        return REFUSE(r, "model.merges[%d]: expected two tokens", rank);
    str_put(left, a);
    str_put(right, b);
    return true;
}

static bool read_merge(Reader *r, const Json *j, int rank, Str *left, Str *right) {
    if (!merge_parts(r, j, rank, left, right)) return false;
    int64_t a = json_int(json_get(r->vocab, str_get(left)), -1), b = json_int(json_get(r->vocab, str_get(right)), -1);
    if (a < 0 || b < 0)
        return REFUSE(r, "model.merges[%d]: '%.60s' is not in model.vocab", rank, str_get(a < 0 ? left : right));
    str_putn(left, right->s, right->n);
    int64_t id = json_int(json_get(r->vocab, str_get(left)), -1);
    if (id < 0) return REFUSE(r, "model.merges[%d]: its result '%.60s' is not in model.vocab", rank, str_get(left));
    str_clear(right);
    if (!alphabet_read(right, left->s, left->n) || r->t->len[a] == 0 || r->t->len[b] == 0)
        return REFUSE(r, "model.merges[%d]: '%.60s' is not made of byte characters", rank, str_get(left));
    merge_map_put(&r->t->merge, (int32_t)a, (int32_t)b, rank, (int32_t)id);
    r->produced[id] = true;
    return true;
}

static bool read_merges(Reader *r) {
    const Json *merges = json_get(r->model, "merges");
    if (!merges || json_kind(merges) != JSON_ARR) return REFUSE(r, "model.merges: expected an array");
    if (json_len(merges) > MERGE_RANKS - 1) return REFUSE(r, "model.merges: more than %d", MERGE_RANKS - 1);
    Str left = {0}, right = {0};
    bool ok = true;
    merge_map_init(&r->t->merge, json_len(merges));
    for (int i = 0; ok && i < json_len(merges); i++) ok = read_merge(r, json_at(merges, i), i, &left, &right);
    str_release(&left);
    str_release(&right);
    return ok;
}

/* ---- added tokens ---- */

static bool read_added_token(Reader *r, const Json *j, int index) {
    static const char *const known[] = {"id",     "content",    "single_word", "lstrip",
                                        "rstrip", "normalized", "special",     NULL};
    Tokenizer *t = r->t;
    char where[40];
    snprintf(where, sizeof where, "added_tokens[%d]", index);
    size_t n;
    const char *content = json_str(json_get(j, "content"), &n);
    if (!only_keys(r, j, where, known)) return false;
    if (!content || n == 0) return REFUSE(r, "%s: expected a non-empty string at 'content'", where);
    int32_t id = (int32_t)json_int(json_get(j, "id"), -1);
    int64_t in_vocab = json_int(json_get(r->vocab, content), -1);
    if (in_vocab >= 0 && in_vocab != id)
        return REFUSE(r, "%s: '%.60s' has id %d, but %d in model.vocab", where, content, id, (int)in_vocab);
    if (in_vocab < 0 && t->kind[id] != TOKEN_ABSENT)
        return REFUSE(r, "%s: '%.60s' has id %d, which is another token's", where, content, id);
    if (t->kind[id] >= TOKEN_ADDED) return REFUSE(r, "%s: '%.60s' is listed twice", where, content);
    const Json *flag = json_get(j, "special");
    bool special = is_flag(flag, true);
    if (!special && !is_flag(flag, false)) return REFUSE(r, "%s: expected true or false at 'special'", where);
    if (special && r->produced[id])
        return REFUSE(r, "%s: '%.60s' is special, but merging plain text leads to it too", where, content);
    /* Of a special token only its id is used: text is not searched for it, so how it would match does not matter. */
    for (int k = 2; !special && k < 5; k++)
        if (json_bool(json_get(j, known[k]), false))
            return REFUSE(r, "%s: '%.60s': %s is not supported for a token that is not special", where, content,
                          known[k]);
    t->kind[id] = special ? TOKEN_SPECIAL : TOKEN_ADDED;
    t->start[id] = (uint32_t)t->bytes.n;
    t->len[id] = (uint32_t)n;
    str_putn(&t->bytes, content, n);
    if (!special)
        t->added[t->n_added++] = (AddedToken){NULL, (uint32_t)n, id, json_bool(json_get(j, "normalized"), true)};
    return true;
}

static int by_length(const void *a, const void *b) {
    const AddedToken *x = a, *y = b;
    return x->n != y->n ? (x->n < y->n) - (x->n > y->n) : (x->id > y->id) - (x->id < y->id);
}

static bool read_added(Reader *r) {
    const Json *list = json_get(r->root, "added_tokens");
    Tokenizer *t = r->t;
    int n = is_null(list) ? 0 : json_len(list);
    t->added = mem_alloc(((size_t)n + 1) * sizeof *t->added);
    for (int i = 0; i < n; i++)
        if (!read_added_token(r, json_at(list, i), i)) return false;
    str_putn(&t->bytes, (const char[TOKEN_PAD]){0},
             TOKEN_PAD); /* here the bytes are complete and stay where they are */
    for (int id = 0; id < t->n_vocab; id++)
        if (t->len[id] > t->most_len) t->most_len = t->len[id];
    for (int i = 0; i < t->n_added; i++) {
        t->added[i].s = t->bytes.s + t->start[t->added[i].id];
        t->added_first[(unsigned char)t->added[i].s[0]] = true;
    }
    if (t->n_added > 1) qsort(t->added, (size_t)t->n_added, sizeof *t->added, by_length);
    return true;
}

bool tokenizer_parse(Tokenizer **out, const char *json, size_t n, const char *name, Error *err) {
    Json *root;
    if (!json_parse(&root, json, n, 0, name, 1, err)) return false;
    Reader r = {.t = mem_alloc(sizeof(Tokenizer)), .root = root, .err = err};
    bool ok =
        read_components(&r) && read_model(&r) && read_sizes(&r) && read_vocab(&r) && read_merges(&r) && read_added(&r);
    if (ok && r.t->ignore_merges) whole_build(r.t);
    free(r.key);
    free(r.produced);
    json_release(root);
    if (!ok) {
        tokenizer_close(r.t);
        return error_wrap(err, "%s", name);
    }
    *out = r.t;
    return true;
}

/* ---- writing ---- */

static void write_byte_level(JsonOut *j, const char *key, bool use_regex) {
    json_out_obj(j, key);
    json_out_str(j, "type", "ByteLevel");
    json_out_bool(j, "add_prefix_space", false);
    json_out_bool(j, "trim_offsets", true);
    json_out_bool(j, "use_regex", use_regex);
    json_out_obj_end(j);
}

static void write_pre_tokenizer(JsonOut *j, SplitPattern split) {
    if (split == SPLIT_GPT2) {
        write_byte_level(j, "pre_tokenizer", true);
        return;
    }
    json_out_obj(j, "pre_tokenizer");
    json_out_str(j, "type", "Sequence");
    json_out_arr(j, "pretokenizers");
    json_out_obj(j, NULL);
    json_out_str(j, "type", "Split");
    json_out_obj(j, "pattern");
    json_out_str(j, "Regex", split_pattern[split]);
    json_out_obj_end(j);
    json_out_str(j, "behavior", "Isolated");
    json_out_bool(j, "invert", false);
    json_out_obj_end(j);
    write_byte_level(j, NULL, false);
    json_out_arr_end(j);
    json_out_obj_end(j);
}

static void write_model(JsonOut *j, const TokenizerSpec *spec) {
    Str merge = {0};
    json_out_obj(j, "model");
    json_out_str(j, "type", "BPE");
    const char *const absent[] = {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < COUNT_OF(absent); i++) json_out_str(j, absent[i], NULL);
    json_out_bool(j, "fuse_unk", false);
    json_out_bool(j, "byte_fallback", false);
    json_out_bool(j, "ignore_merges", false);
    json_out_obj(j, "vocab");
    for (int i = 0; i < spec->n_special; i++) json_out_int(j, spec->special[i], i);
    for (int i = 0; i < spec->n_token; i++) json_out_int(j, spec->token[i], spec->n_special + i);
    json_out_obj_end(j);
    json_out_arr(j, "merges"); /* "a b", which every version reads; the alphabet has no space */
    for (int i = 0; i < spec->n_merge; i++) {
        str_clear(&merge);
        str_put(&merge, spec->token[spec->merge[i][0] - spec->n_special]);
        str_putc(&merge, ' ');
        str_put(&merge, spec->token[spec->merge[i][1] - spec->n_special]);
        json_out_strn(j, NULL, merge.s, merge.n);
    }
    json_out_arr_end(j);
    json_out_obj_end(j);
    str_release(&merge);
}

void tokenizer_spec_write(Str *out, const TokenizerSpec *spec) {
    JsonOut j;
    json_out_init(&j, out, 1);
    json_out_obj(&j, NULL);
    json_out_str(&j, "version", "1.0");
    json_out_str(&j, "truncation", NULL);
    json_out_str(&j, "padding", NULL);
    json_out_arr(&j, "added_tokens");
    for (int i = 0; i < spec->n_special; i++) {
        json_out_obj(&j, NULL);
        json_out_int(&j, "id", i);
        json_out_str(&j, "content", spec->special[i]);
        const char *const off[] = {"single_word", "lstrip", "rstrip", "normalized"};
        for (int k = 0; k < COUNT_OF(off); k++) json_out_bool(&j, off[k], false);
        json_out_bool(&j, "special", true);
        json_out_obj_end(&j);
    }
    json_out_arr_end(&j);
    json_out_str(&j, "normalizer", NULL);
    write_pre_tokenizer(&j, spec->split);
    json_out_str(&j, "post_processor", NULL);
    write_byte_level(&j, "decoder", true);
    write_model(&j, spec);
    json_out_obj_end(&j);
    str_putc(out, '\n');
}
