/* tokenizer_json.c — reading Hugging Face's tokenizer.json: the vocabulary, the merges, the added tokens.
 *
 * What cannot be carried out exactly is refused by name (see tokenizer_parts.c for the components). `truncation` and
 * `padding` are left alone: they shape batches, and who loads such a file with transformers has them switched off.
 *
 * Of a special token that merging leads to we keep the two parts: text that spells it becomes those (bpe.c). Only where
 * a special token is a single byte or character nothing can be done; such a file is refused. */
#include "text/text_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_VOCAB = 1 << 22, MAX_CUT_NOT = 64 };

typedef struct {
    Tokenizer *t;
    const Json *root, *model, *vocab, *added, *merges;
    const char **key;       /* (n_vocab) spelling in model.vocab; NULL: none */
    unsigned char *special; /* (n_vocab) by added_tokens; 2: its parts are known */
    Error *err;
} Reader;

#define REFUSE(r, ...) error_set((r)->err, ERR_FORMAT, __VA_ARGS__)

/* ---- top level and model ---- */

static bool read_top(Reader *r) {
    static const char *const known[] = {"version",       "truncation",     "padding", "added_tokens", "normalizer",
                                        "pre_tokenizer", "post_processor", "decoder", "model",        NULL};
    if (!only_keys(r->root, "top level", known, r->err)) return false;
    const Json *version = json_get(r->root, "version");
    const char *text = version ? json_str(version, NULL) : "1.0";
    if (!text || strcmp(text, "1.0") != 0) return REFUSE(r, "version: '%.20s', expected '1.0'", text ? text : "");
    for (int i = 1; i <= 2; i++) {
        const Json *j = json_get(r->root, known[i]);
        if (!json_absent(j) && json_kind(j) != JSON_OBJ) return REFUSE(r, "%s: expected an object or null", known[i]);
    }
    r->added = json_get(r->root, "added_tokens");
    if (json_absent(r->added)) r->added = NULL;
    if (r->added && json_kind(r->added) != JSON_ARR) return REFUSE(r, "added_tokens: expected an array");
    return parts_read(r->t, r->root, r->err);
}

static bool empty(const Json *j) { /* null, absent or "" */
    const char *s = json_absent(j) ? "" : json_str(j, NULL);
    return s && !*s;
}

static bool model_flag(Reader *r, bool *out, const char *key) {
    const Json *j = json_get(r->model, key);
    *out = json_flag(j, true);
    return *out || json_absent(j) || json_flag(j, false) || REFUSE(r, "model.%s: expected true or false", key);
}

static bool read_model(Reader *r) {
    static const char *const known[] = {"type",          "dropout",       "unk_token", "continuing_subword_prefix",
                                        "vocab",         "merges",        "fuse_unk",  "end_of_word_suffix",
                                        "byte_fallback", "ignore_merges", NULL};
    r->model = json_get(r->root, "model");
    if (json_absent(r->model)) return REFUSE(r, "model: none; expected BPE");
    const Json *type = json_get(r->model, "type"), *dropout = json_get(r->model, "dropout");
    const char *name = type ? json_str(type, NULL) : "BPE";
    if (!name || strcmp(name, "BPE") != 0)
        return REFUSE(r, "model: '%.60s' is not supported, expected BPE", name ? name : "(no type)");
    if (!only_keys(r->model, "model", known, r->err)) return false;
    if (!json_absent(dropout) && json_num(dropout, 1) != 0) return REFUSE(r, "model.dropout is not supported");
    if (!empty(json_get(r->model, "continuing_subword_prefix")))
        return REFUSE(r, "model.continuing_subword_prefix is not supported");
    if (!empty(json_get(r->model, "end_of_word_suffix"))) return REFUSE(r, "model.end_of_word_suffix is not supported");
    if (!model_flag(r, &r->t->byte_fallback, "byte_fallback") || !model_flag(r, &r->t->fuse_unk, "fuse_unk") ||
        !model_flag(r, &r->t->ignore_merges, "ignore_merges"))
        return false;
    r->vocab = json_get(r->model, "vocab");
    r->merges = json_get(r->model, "merges");
    if (!r->vocab || json_kind(r->vocab) != JSON_OBJ) return REFUSE(r, "model.vocab: expected an object");
    if (!r->merges || json_kind(r->merges) != JSON_ARR) return REFUSE(r, "model.merges: expected an array");
    if (json_len(r->merges) > MERGE_RANKS - 1) return REFUSE(r, "model.merges: more than %d", MERGE_RANKS - 1);
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
    const Json *j;
    int64_t id, most = -1;
    for (int i = 0; i < json_len(r->vocab); i++) {
        const char *key = json_key_at(r->vocab, i, &j);
        if (!checked_id(r, &id, j, "model.vocab", key)) return false;
        most = id > most ? id : most;
    }
    for (int i = 0; r->added && i < json_len(r->added); i++) {
        if (!checked_id(r, &id, json_get(json_at(r->added, i), "id"), "added_tokens", "id")) return false;
        most = id > most ? id : most;
    }
    Tokenizer *t = r->t;
    t->n_vocab = (int)(most + 1);
    size_t n = (size_t)t->n_vocab + 1;
    t->kind = mem_alloc(n);
    t->start = mem_alloc(n * sizeof *t->start);
    t->len = mem_alloc(n * sizeof *t->len);
    t->vocab_start = t->start;
    t->vocab_len = t->len;
    r->key = mem_alloc(n * sizeof *r->key);
    r->special = mem_alloc(n);
    for (int i = 0; i < t->n_before + t->n_after; i++) {
        int32_t around = i < t->n_before ? t->before[i] : t->after[i - t->n_before];
        if (around >= t->n_vocab)
            return REFUSE(r, "post_processor: id %d, the largest is %d", (int)around, t->n_vocab - 1);
    }
    return true;
}

/* ---- vocabulary ---- */

static int64_t vocab_id(const Reader *r, const char *spelling) { return json_int(json_get(r->vocab, spelling), -1); }

static void read_symbols(Reader *r) {
    Tokenizer *t = r->t;
    t->all_bytes = t->byte_level;
    for (int b = 0; b < 256; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        t->fallback[b] = (int32_t)vocab_id(r, name);
        if (!t->byte_level) t->byte_id[b] = b < 128 && b > 0 ? (int32_t)vocab_id(r, (char[]){(char)b, 0}) : -1;
        t->all_bytes &= t->byte_id[b] >= 0;
    }
}

/* Every byte has its <0xNN>. */
static bool falls_back(const Tokenizer *t) {
    bool all = t->byte_fallback;
    for (int b = 0; b < 256; b++) all &= t->fallback[b] >= 0;
    return all;
}

static bool read_unk(Reader *r) {
    const Json *j = json_get(r->model, "unk_token");
    const char *s = json_absent(j) ? NULL : json_str(j, NULL);
    bool needed = !r->t->all_bytes && !falls_back(r->t);
    r->t->unk = s ? (int32_t)vocab_id(r, s) : -1;
    if (!json_absent(j) && !s) return REFUSE(r, "model.unk_token: expected a string or null");
    return !s || r->t->unk >= 0 || !needed || REFUSE(r, "model.unk_token: '%.60s' is not in model.vocab", s);
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
        t->kind[id] = !t->byte_level || alphabet_read(&t->bytes, key, n) ? TOKEN_PLAIN : TOKEN_RAW;
        if (!t->byte_level || t->kind[id] == TOKEN_RAW)
            str_putn(&t->bytes, key, n);
        else if (t->bytes.n == t->start[id] + 1)
            t->byte_id[(unsigned char)t->bytes.s[t->start[id]]] = id;
        t->len[id] = (uint32_t)t->bytes.n - t->start[id];
        r->key[id] = key;
    }
    str_putn(&t->bytes, (const char[TOKEN_PAD]){0}, TOKEN_PAD);
    read_symbols(r);
    if (t->ignore_merges || !t->byte_level) whole_build(t);
    return read_unk(r);
}

/* ---- merges ---- */

/* Both spellings of a merge: ["a", "b"] and "a b". */
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

typedef struct {
    int32_t left, right, id;
} Merge;

static bool read_merge(Reader *r, Merge *m, const Json *j, int rank, Str *left, Str *right) {
    if (!merge_parts(r, j, rank, left, right)) return false;
    int64_t a = vocab_id(r, str_get(left)), b = vocab_id(r, str_get(right));
    if (a < 0 || b < 0)
        return REFUSE(r, "model.merges[%d]: '%.60s' is not in model.vocab", rank, str_get(a < 0 ? left : right));
    str_putn(left, right->s, right->n);
    int64_t id = vocab_id(r, str_get(left));
    if (id < 0) return REFUSE(r, "model.merges[%d]: its result '%.60s' is not in model.vocab", rank, str_get(left));
    const Tokenizer *t = r->t;
    if (t->kind[id] == TOKEN_RAW || t->len[a] == 0 || t->len[b] == 0)
        return REFUSE(r, "model.merges[%d]: '%.60s' is not made of tokens of byte characters", rank, str_get(left));
    *m = (Merge){(int32_t)a, (int32_t)b, (int32_t)id};
    return true;
}

/* No merge leads across the beginning of U+2581 behind a character that is not in *cut_not. False: too many such
 * characters, or spellings do not say what text they stand for. */
static bool cut_before_space(Reader *r, const Merge *m) {
    static const char space[] = "\xE2\x96\x81";
    Tokenizer *t = r->t;
    int32_t part[] = {m->left, m->right};
    for (int k = 0; k < 2; k++) {
        const char *s = t->bytes.s + t->start[part[k]];
        if (part[k] == t->unk || fallback_byte(s, t->len[part[k]]) >= 0) return false;
    }
    const char *s = t->bytes.s + t->start[m->id];
    size_t n = t->len[m->id], len;
    for (size_t i = 1; i + 3 <= n; i++) {
        if (memcmp(s + i, space, 3) != 0) continue;
        uint32_t c = utf8_at(s + utf8_before(s, i), &len);
        int known = c == 0x2581;
        for (int k = 0; k < t->n_cut_not && !known; k++) known = t->cut_not[k] == c;
        if (known) continue;
        if (t->n_cut_not == MAX_CUT_NOT) return false;
        t->cut_not[t->n_cut_not++] = c;
    }
    return true;
}

static int map_entries(const MergeMap *m) {
    int n = 0;
    for (uint64_t i = 0; i <= m->mask; i++) n += m->slot[i].key != UINT64_MAX;
    return n;
}

static void keep_parts(Reader *r, const Merge *m) {
    Tokenizer *t = r->t;
    if (r->special[m->id] != 1) return;
    r->special[m->id] = 2;
    t->parts = mem_grow(t->parts, ((size_t)t->n_parts + 1) * sizeof *t->parts);
    t->parts[t->n_parts++] = (struct SpecialParts){m->id, m->left, m->right};
}

static int by_part_id(const void *a, const void *b) {
    int32_t x = ((const struct SpecialParts *)a)->id, y = ((const struct SpecialParts *)b)->id;
    return (x > y) - (x < y);
}

static bool read_merges(Reader *r) {
    Tokenizer *t = r->t;
    Str left = {0}, right = {0};
    int n = t->n_rank = json_len(r->merges);
    Merge merge = {0};
    bool ok = true;
    merge_map_init(&t->merge, n);
    t->cut_not = mem_alloc(MAX_CUT_NOT * sizeof *t->cut_not);
    bool loses = t->unk < 0 && !falls_back(t); /* characters, which brings others together */
    t->cut_space = !t->byte_level && !t->ignore_merges && !loses && whole_find(t, "\xE2\x96\x81", 3) >= 0;
    for (int i = 0; ok && i < n; i++) {
        ok = read_merge(r, &merge, json_at(r->merges, i), i, &left, &right);
        if (!ok) break;
        merge_map_put(&t->merge, merge.left, merge.right, i, merge.id);
        keep_parts(r, &merge);
        t->cut_space = t->cut_space && cut_before_space(r, &merge);
    }
    if (ok) t->n_merge = map_entries(&t->merge);
    if (t->n_parts > 1) qsort(t->parts, (size_t)t->n_parts, sizeof *t->parts, by_part_id);
    str_release(&left);
    str_release(&right);
    return ok;
}

/* ---- added tokens ---- */

static bool token_flag(Reader *r, bool *out, const Json *j, const char *key, bool otherwise, const char *where) {
    const Json *v = json_get(j, key);
    *out = v ? json_flag(v, true) : otherwise;
    return !v || *out || json_flag(v, false) || REFUSE(r, "%s: expected true or false at '%s'", where, key);
}

/* First the ids of special tokens, which say what merging may lead to. */
static bool read_added_flags(Reader *r) {
    static const char *const known[] = {"id",     "content",    "single_word", "lstrip",
                                        "rstrip", "normalized", "special",     NULL};
    Tokenizer *t = r->t;
    t->n_added = r->added ? json_len(r->added) : 0;
    t->added = mem_alloc(((size_t)t->n_added + 1) * sizeof *t->added);
    for (int i = 0; i < t->n_added; i++) {
        const Json *j = json_at(r->added, i);
        AddedToken *a = &t->added[i];
        char where[40];
        snprintf(where, sizeof where, "added_tokens[%d]", i);
        size_t n;
        const char *content = json_str(json_get(j, "content"), &n);
        if (!only_keys(j, where, known, r->err)) return false;
        if (!content || n == 0) return REFUSE(r, "%s: expected a non-empty string at 'content'", where);
        if (!json_get(j, "special")) return REFUSE(r, "%s: expected true or false at 'special'", where);
        if (!token_flag(r, &a->special, j, "special", false, where) ||
            !token_flag(r, &a->single_word, j, "single_word", false, where) ||
            !token_flag(r, &a->lstrip, j, "lstrip", false, where) ||
            !token_flag(r, &a->rstrip, j, "rstrip", false, where) ||
            !token_flag(r, &a->normalized, j, "normalized", true, where))
            return false;
        a->id = (int32_t)json_int(json_get(j, "id"), -1);
        a->s = content; /* of the JSON, for now */
        a->n = (uint32_t)n;
        r->special[a->id] |= a->special;
    }
    return true;
}

/* Tokens the vocabulary lacks are numbered on from its size by `tokenizers`, whatever the file says; files that were
 * written by it agree. *next: the next such number. */
static bool check_added(Reader *r, const AddedToken *a, int index, int *next) {
    const Tokenizer *t = r->t;
    int64_t in_vocab = vocab_id(r, a->s);
    if (in_vocab >= 0 && in_vocab != a->id)
        return REFUSE(r, "added_tokens[%d]: '%.60s' has id %d, but %d in model.vocab", index, a->s, (int)a->id,
                      (int)in_vocab);
    if (t->kind[a->id] >= TOKEN_ADDED) return REFUSE(r, "added_tokens[%d]: '%.60s' is listed twice", index, a->s);
    if (in_vocab < 0 && t->kind[a->id] != TOKEN_ABSENT)
        return REFUSE(r, "added_tokens[%d]: '%.60s' has id %d, which is another token's", index, a->s, (int)a->id);
    if (in_vocab < 0 && a->id != (*next)++)
        return REFUSE(r, "added_tokens[%d]: '%.60s' has id %d, but loading this file numbers it %d", index, a->s,
                      (int)a->id, *next - 1);
    size_t len;
    utf8_at(a->s, &len);
    bool symbol = in_vocab >= 0 && (t->byte_level ? t->len[a->id] == 1 && t->kind[a->id] == TOKEN_PLAIN : len == a->n);
    for (int b = 0; t->byte_fallback && b < 256; b++) symbol |= t->fallback[b] == a->id;
    if (a->special && symbol && a->id != t->unk)
        return REFUSE(r, "added_tokens[%d]: '%.60s' is special, but plain text leads to it too", index, a->s);
    return true;
}

/* What a token decodes to by table. The vocabulary's spelling stays what pieces are compared with. Letters of Latin-1
 * are bytes of the alphabet, too: such a token does not give its text back, here as in the reference. */
static void put_decoded(Tokenizer *t, const AddedToken *a) {
    Str s = {0};
    if (!t->decode_bytes || !alphabet_read(&s, a->norm, a->n_norm)) str_putn(&s, a->norm, a->n_norm);
    if (a->in_vocab && t->vocab_start == t->start &&
        (s.n != t->len[a->id] || memcmp(t->bytes.s + t->start[a->id], s.s, s.n) != 0)) {
        size_t bytes = ((size_t)t->n_vocab + 1) * sizeof(uint32_t);
        t->vocab_start = memcpy(mem_alloc(bytes), t->start, bytes);
        t->vocab_len = memcpy(mem_alloc(bytes), t->len, bytes);
    }
    bool same = s.n == a->n && memcmp(str_get(&s), a->s, s.n) == 0;
    t->exact &= a->special || (same && !a->lstrip && !a->rstrip);
    t->start[a->id] = (uint32_t)t->bytes.n;
    t->len[a->id] = (uint32_t)s.n;
    str_putn(&t->bytes, str_get(&s), s.n);
    str_release(&s);
}

static int by_id(const void *a, const void *b) {
    int32_t x = ((const AddedToken *)a)->id, y = ((const AddedToken *)b)->id;
    return (x > y) - (x < y);
}

/* Copies the spellings, as given and as normalized, to a place of their own. */
static bool name_added(Reader *r) {
    Tokenizer *t = r->t;
    Normal scratch = {0};
    size_t *at = mem_alloc((2 * (size_t)t->n_added + 1) * sizeof *at);
    bool ok = true;
    for (int i = 0; i < t->n_added; i++) {
        AddedToken *a = &t->added[i];
        View v = {a->s, a->n, NULL, NULL, 0};
        at[2 * i] = t->names.n;
        str_putn(&t->names, a->s, a->n);
        str_putc(&t->names, 0);
        if (a->normalized) v = normalize(t->form, t->n_form, &scratch, v, false);
        ok = ok && (v.n > 0 || REFUSE(r, "added_tokens: '%.60s' is empty once normalized", a->s));
        at[2 * i + 1] = t->names.n;
        a->n_norm = (uint32_t)v.n;
        str_putn(&t->names, v.s, v.n);
        str_putc(&t->names, 0);
    }
    for (int i = 0; i < t->n_added; i++) {
        t->added[i].s = t->names.s + at[2 * i];
        t->added[i].norm = t->names.s + at[2 * i + 1];
    }
    normal_release(&scratch);
    free(at);
    return ok;
}

static bool read_added(Reader *r) {
    Tokenizer *t = r->t;
    if (!name_added(r)) return false;
    if (t->bytes.n >= TOKEN_PAD) t->bytes.n -= TOKEN_PAD;
    int next = json_len(r->vocab);
    t->exact = t->short_way && t->all_bytes && t->decode_bytes;
    for (int i = 0; i < t->n_added; i++) {
        AddedToken *a = &t->added[i];
        if (!check_added(r, a, i, &next)) return false;
        a->in_vocab = t->kind[a->id] != TOKEN_ABSENT;
        t->modes_differ |= a->special && a->in_vocab && t->ignore_merges;
        t->kind[a->id] = a->special ? TOKEN_SPECIAL : TOKEN_ADDED;
        t->n_added_plain += !a->special;
        put_decoded(t, a);
    }
    t->next_id = next;
    if (t->n_added > 1) qsort(t->added, (size_t)t->n_added, sizeof *t->added, by_id);
    t->modes_differ |= t->n_parts > 0;
    str_putn(&t->bytes, (const char[TOKEN_PAD]){0}, TOKEN_PAD); /* here they are complete and stay where they are */
    for (int id = 0; id < t->n_vocab; id++)
        if (t->len[id] > t->most_len) t->most_len = t->len[id];
    return added_tries_build(t, r->err);
}

bool tokenizer_parse(Tokenizer **out, const char *json, size_t n, const char *name, Error *err) {
    Json *root;
    if (!json_parse(&root, json, n, 0, name, 1, err)) return false;
    Reader r = {.t = mem_alloc(sizeof(Tokenizer)), .root = root, .err = err};
    bool ok = read_top(&r) && read_model(&r) && read_sizes(&r) && read_added_flags(&r) && read_vocab(&r) &&
              read_merges(&r) && read_added(&r);
    free(r.key);
    free(r.special);
    json_release(root);
    if (!ok) {
        tokenizer_close(r.t);
        return error_wrap(err, "%s", name);
    }
    *out = r.t;
    return true;
}
