/* tokenizer_parts.c — the components of a tokenizer.json: normalizer, pre_tokenizer, post_processor, decoder.
 *
 * A tokenizer that does almost what the file says is worse than none: ids shift and nothing looks broken. So every
 * type, key and value that is not carried out exactly is refused by name. Sequences are unrolled; the components
 * themselves are kept as they were, for writing. */
#include "text/text_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 8, MAX_TEXT = 1024 };

#define REFUSE(err, ...) error_set(err, ERR_FORMAT, __VA_ARGS__)

bool json_absent(const Json *j) { return !j || json_kind(j) == JSON_NIL; }

bool json_flag(const Json *j, bool value) {
    return j && (json_kind(j) == JSON_YES || json_kind(j) == JSON_NO) && json_bool(j, false) == value;
}

bool only_keys(const Json *obj, const char *where, const char *const *known, Error *err) {
    if (!obj || json_kind(obj) != JSON_OBJ) return REFUSE(err, "%s: expected an object", where);
    for (int i = 0; i < json_len(obj); i++) {
        const Json *value;
        const char *key = json_key_at(obj, i, &value);
        int k = 0;
        while (known[k] && strcmp(known[k], key) != 0) k++;
        if (!known[k]) return REFUSE(err, "%s: unknown key '%.100s'", where, key);
    }
    return true;
}

static const char *type_of(const Json *j) {
    const char *type = j ? json_str(json_get(j, "type"), NULL) : NULL;
    return type ? type : "(no type)";
}

/* ---- values ---- */

static bool need_flag(bool *out, const Json *j, const char *key, const char *where, Error *err) {
    const Json *v = json_get(j, key);
    *out = json_flag(v, true);
    return *out || json_flag(v, false) || REFUSE(err, "%s: expected true or false at '%s'", where, key);
}

static bool flag_or(bool *out, const Json *j, const char *key, bool otherwise, const char *where, Error *err) {
    *out = otherwise;
    return json_absent(json_get(j, key)) || need_flag(out, j, key, where, err);
}

static bool need_text(Str *out, const Json *j, const char *key, const char *where, Error *err) {
    size_t n;
    const char *s = json_str(json_get(j, key), &n);
    if (!s) return REFUSE(err, "%s: expected a string at '%s'", where, key);
    if (n > MAX_TEXT) return REFUSE(err, "%s: '%s' of %zu bytes, at most %d", where, key, n, MAX_TEXT);
    str_putn(out, s, n);
    return true;
}

static bool need_char(uint32_t *c, const Json *j, const char *key, const char *where, Error *err) {
    size_t n, len = 0;
    const char *s = json_str(json_get(j, key), &n);
    if (s && n > 0) *c = utf8_at(s, &len);
    return (s && n > 0 && len == n) || REFUSE(err, "%s: expected one character at '%s'", where, key);
}

static bool need_count(int *out, const Json *j, const char *key, int least, const char *where, Error *err) {
    const Json *v = json_get(j, key);
    int64_t n = v && json_kind(v) == JSON_INT ? json_int(v, -1) : -1;
    *out = (int)n;
    return (n >= least && n <= 1 << 20) || REFUSE(err, "%s: expected a number from %d on at '%s'", where, least, key);
}

static bool need_finder(Finder *f, const Json *j, const char *where, Error *err) {
    static const char *const known[] = {"Regex", "String", NULL};
    const Json *pattern = json_get(j, "pattern");
    Str path = {0};
    str_printf(&path, "%s.pattern", where);
    bool ok = only_keys(pattern, str_get(&path), known, err);
    str_release(&path);
    if (!ok) return false;
    size_t n;
    const char *regex = json_str(json_get(pattern, "Regex"), &n);
    if (regex) return splitter_open(&f->regex, regex, n, err) || error_wrap(err, "%s", where);
    const char *literal = json_str(json_get(pattern, "String"), &n);
    if (!literal || n == 0)
        return REFUSE(err, "%s: expected a string at 'Regex', or one that is not empty at 'String'", where);
    f->literal = mem_str(literal);
    f->n = n;
    return true;
}

static bool need_behavior(CutBehavior *out, const Json *j, const char *where, Error *err) {
    static const char *const name[] = {[CUT_REMOVED] = "Removed",
                                       [CUT_ISOLATED] = "Isolated",
                                       [CUT_WITH_PREVIOUS] = "MergedWithPrevious",
                                       [CUT_WITH_NEXT] = "MergedWithNext",
                                       [CUT_CONTIGUOUS] = "Contiguous"};
    const char *s = json_str(json_get(j, "behavior"), NULL);
    for (int i = 0; s && i < COUNT_OF(name); i++)
        if (strcmp(name[i], s) == 0) return *out = (CutBehavior)i, true;
    return REFUSE(
        err, "%s: behavior '%.40s' is not one of Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous",
        where, s ? s : "");
}

/* Metaspace of today, and of the versions that had add_prefix_space. */
static bool read_metaspace(const Json *j, uint32_t *c, PrefixScheme *scheme, bool *split, const char *where,
                           Error *err) {
    static const char *const known[] = {"type",    "replacement", "prepend_scheme", "split", "add_prefix_space",
                                        "str_rep", NULL};
    static const char *const name[] = {[PREFIX_NEVER] = "never", [PREFIX_FIRST] = "first", [PREFIX_ALWAYS] = "always"};
    if (!only_keys(j, where, known, err) || !need_char(c, j, "replacement", where, err)) return false;
    if (!flag_or(split, j, "split", true, where, err)) return false;
    const Json *v = json_get(j, "prepend_scheme");
    const char *s = json_absent(v) ? "always" : json_str(v, NULL);
    int i = 0;
    while (i < COUNT_OF(name) && (!s || strcmp(name[i], s) != 0)) i++;
    if (i == COUNT_OF(name))
        return REFUSE(err, "%s: prepend_scheme '%.40s' is not one of first, never, always", where, s ? s : "");
    *scheme = (PrefixScheme)i;
    if (json_flag(json_get(j, "add_prefix_space"), false) && *scheme != PREFIX_NEVER)
        return REFUSE(err, "%s: add_prefix_space is false, but prepend_scheme is '%s'", where, s);
    return true;
}

static const char *const byte_level_keys[] = {"type", "add_prefix_space", "trim_offsets", "use_regex", NULL};

/* ---- walking a component ---- */

typedef bool ReadStep(Tokenizer *t, const Json *j, const char *where, Error *err);
typedef struct {
    const char *name, *list; /* "pre_tokenizer"; what a Sequence calls its parts */
    ReadStep *read;
} PartInfo;

static bool walk(Tokenizer *t, const PartInfo *part, const Json *j, const char *where, int depth, Error *err) {
    const char *known[] = {"type", part->list, NULL};
    if (json_kind(j) != JSON_OBJ) return REFUSE(err, "%s: expected an object", where);
    if (strcmp(type_of(j), "Sequence") != 0) return part->read(t, j, where, err);
    const Json *list = json_get(j, part->list);
    if (!only_keys(j, where, known, err)) return false;
    if (!list || json_kind(list) != JSON_ARR) return REFUSE(err, "%s: expected an array at '%s'", where, part->list);
    if (depth == MAX_DEPTH) return REFUSE(err, "%s: Sequences in each other, deeper than %d", where, MAX_DEPTH);
    Str path = {0};
    bool ok = true;
    for (int i = 0; ok && i < json_len(list); i++) {
        str_clear(&path);
        str_printf(&path, "%.200s.%s[%d]", where, part->list, i);
        ok = walk(t, part, json_at(list, i), path.s, depth + 1, err);
    }
    str_release(&path);
    return ok;
}

static bool unsupported(const Json *j, const char *where, Error *err) {
    return REFUSE(err, "%s: '%.60s' is not supported", where, type_of(j));
}

static bool is_type(const Json *j, const char *type) { return strcmp(type_of(j), type) == 0; }

static bool bare(const Json *j, const char *where, Error *err) {
    static const char *const known[] = {"type", NULL};
    return only_keys(j, where, known, err);
}

static bool room(int n, const char *where, Error *err) {
    return n < MAX_STEPS || REFUSE(err, "%s: more than %d steps", where, MAX_STEPS);
}

/* ---- normalizer ---- */

static bool read_form(Tokenizer *t, const Json *j, const char *where, Error *err) {
    static const char *const strip[] = {"type", "strip_left", "strip_right", NULL};
    static const char *const prepend[] = {"type", "prepend", NULL};
    static const char *const replace[] = {"type", "pattern", "content", NULL};
    static const struct {
        const char *type;
        FormKind kind;
    } simple[] = {{"NFC", FORM_NFC},
                  {"NFD", FORM_NFD},
                  {"NFKC", FORM_NFKC},
                  {"NFKD", FORM_NFKD},
                  {"Lowercase", FORM_LOWERCASE},
                  {"StripAccents", FORM_STRIP_ACCENTS},
                  {"Nmt", FORM_NMT},
                  {"ByteLevel", FORM_BYTE_LEVEL}};
    if (!room(t->n_form, where, err)) return false;
    FormStep *f = &t->form[t->n_form++];
    for (int i = 0; i < COUNT_OF(simple); i++)
        if (is_type(j, simple[i].type)) return f->kind = simple[i].kind, bare(j, where, err);
    if (is_type(j, "Strip")) {
        f->kind = FORM_STRIP;
        return only_keys(j, where, strip, err) && need_flag(&f->left, j, "strip_left", where, err) &&
               need_flag(&f->right, j, "strip_right", where, err);
    }
    if (is_type(j, "Prepend")) {
        f->kind = FORM_PREPEND;
        return only_keys(j, where, prepend, err) && need_text(&f->text, j, "prepend", where, err);
    }
    f->kind = FORM_REPLACE;
    if (!is_type(j, "Replace")) return unsupported(j, where, err);
    return only_keys(j, where, replace, err) && need_finder(&f->find, j, where, err) &&
           need_text(&f->text, j, "content", where, err);
}

/* ---- pre_tokenizer ---- */

static bool read_pre_byte_level(Tokenizer *t, PreStep *p, const Json *j, const char *where, Error *err) {
    bool prefix;
    p->kind = PRE_BYTE_LEVEL;
    if (!only_keys(j, where, byte_level_keys, err) || !need_flag(&prefix, j, "add_prefix_space", where, err) ||
        !flag_or(&p->regex, j, "use_regex", true, where, err))
        return false;
    p->prefix = prefix ? PREFIX_ALWAYS : PREFIX_NEVER;
    if (t->byte_level) return REFUSE(err, "%s: a second ByteLevel is not supported", where);
    t->byte_level = true;
    const char *gpt2 = split_pattern[SPLIT_GPT2];
    return !p->regex || splitter_open(&p->find.regex, gpt2, strlen(gpt2), err);
}

static bool read_pre_split(PreStep *p, const Json *j, const char *where, Error *err) {
    static const char *const known[] = {"type", "pattern", "behavior", "invert", NULL};
    p->kind = PRE_SPLIT;
    return only_keys(j, where, known, err) && need_finder(&p->find, j, where, err) &&
           need_behavior(&p->behavior, j, where, err) && need_flag(&p->invert, j, "invert", where, err);
}

/* BertPreTokenizer is two steps: blanks are removed, punctuation stands alone. */
static bool read_pre_bert(Tokenizer *t, PreStep *p, const Json *j, const char *where, Error *err) {
    p->kind = PRE_WHITESPACE_SPLIT;
    p->behavior = CUT_REMOVED;
    if (!bare(j, where, err) || !room(t->n_pre, where, err)) return false;
    t->pre[t->n_pre++] = (PreStep){.kind = PRE_PUNCTUATION, .behavior = CUT_ISOLATED};
    return true;
}

static bool read_pre(Tokenizer *t, const Json *j, const char *where, Error *err) {
    static const char *const digits[] = {"type", "individual_digits", NULL};
    static const char *const punctuation[] = {"type", "behavior", NULL};
    static const char *const delimiter[] = {"type", "delimiter", NULL};
    static const char *const fixed[] = {"type", "length", NULL};
    if (!room(t->n_pre, where, err)) return false;
    PreStep *p = &t->pre[t->n_pre++];
    *p = (PreStep){.behavior = CUT_ISOLATED};
    if (is_type(j, "ByteLevel")) return read_pre_byte_level(t, p, j, where, err);
    if (is_type(j, "Split")) return read_pre_split(p, j, where, err);
    if (is_type(j, "Metaspace")) {
        p->kind = PRE_METASPACE;
        if (t->byte_level) return REFUSE(err, "%s: Metaspace behind ByteLevel is not supported", where);
        return read_metaspace(j, &p->c, &p->prefix, &p->split, where, err);
    }
    if (is_type(j, "Digits")) {
        bool each;
        p->kind = PRE_DIGITS;
        if (!only_keys(j, where, digits, err) || !need_flag(&each, j, "individual_digits", where, err)) return false;
        p->behavior = each ? CUT_ISOLATED : CUT_CONTIGUOUS;
        return true;
    }
    if (is_type(j, "Punctuation")) {
        p->kind = PRE_PUNCTUATION;
        return only_keys(j, where, punctuation, err) &&
               (json_absent(json_get(j, "behavior")) || need_behavior(&p->behavior, j, where, err));
    }
    if (is_type(j, "FixedLength")) {
        p->kind = PRE_FIXED_LENGTH;
        p->length = 5;
        return only_keys(j, where, fixed, err) &&
               (json_absent(json_get(j, "length")) || need_count(&p->length, j, "length", 1, where, err));
    }
    p->behavior = CUT_REMOVED;
    if (is_type(j, "CharDelimiterSplit")) {
        p->kind = PRE_CHAR_DELIMITER;
        return only_keys(j, where, delimiter, err) && need_char(&p->c, j, "delimiter", where, err);
    }
    if (is_type(j, "BertPreTokenizer")) return read_pre_bert(t, p, j, where, err);
    p->kind = is_type(j, "Whitespace") ? PRE_WHITESPACE : PRE_WHITESPACE_SPLIT;
    return is_type(j, "Whitespace") || is_type(j, "WhitespaceSplit") ? bare(j, where, err) : unsupported(j, where, err);
}

/* ---- decoder ---- */

static bool read_decode(Tokenizer *t, const Json *j, const char *where, Error *err) {
    static const char *const strip[] = {"type", "content", "start", "stop", NULL};
    static const char *const replace[] = {"type", "pattern", "content", NULL};
    if (!room(t->n_decode, where, err)) return false;
    DecodeStep *d = &t->decode[t->n_decode++];
    bool ignored;
    PrefixScheme scheme;
    if (is_type(j, "ByteLevel")) {
        d->kind = DECODE_BYTE_LEVEL;
        return only_keys(j, where, byte_level_keys, err);
    }
    if (is_type(j, "Metaspace")) {
        d->kind = DECODE_METASPACE;
        if (!read_metaspace(j, &d->c, &scheme, &ignored, where, err)) return false;
        d->drop_first = scheme != PREFIX_NEVER;
        return true;
    }
    if (is_type(j, "Strip")) {
        d->kind = DECODE_STRIP;
        return only_keys(j, where, strip, err) && need_char(&d->c, j, "content", where, err) &&
               need_count(&d->start, j, "start", 0, where, err) && need_count(&d->stop, j, "stop", 0, where, err);
    }
    d->kind = is_type(j, "Fuse") ? DECODE_FUSE : DECODE_BYTE_FALLBACK;
    if (is_type(j, "Fuse") || is_type(j, "ByteFallback")) return bare(j, where, err);
    d->kind = DECODE_REPLACE;
    if (!is_type(j, "Replace")) return unsupported(j, where, err);
    return only_keys(j, where, replace, err) && need_finder(&d->find, j, where, err) &&
           need_text(&d->text, j, "content", where, err);
}

/* ---- post_processor ---- */

static void grow_ids(int32_t **list, int *n, const Json *ids) {
    int more = json_len(ids);
    *list = mem_grow(*list, ((size_t)*n + (size_t)more + 1) * sizeof **list);
    for (int i = 0; i < more; i++) (*list)[*n + i] = (int32_t)json_int(json_at(ids, i), -1);
    *n += more;
}

/* The ids that a template's special token stands for. */
static const Json *template_ids(const Json *special, const Json *name, const char *where, Error *err) {
    const char *s = json_str(name, NULL);
    const Json *ids = s ? json_get(json_get(special, s), "ids") : NULL;
    if (!ids || json_kind(ids) != JSON_ARR || json_len(ids) > 64) {
        REFUSE(err, "%s: special_tokens has no ids for '%.60s'", where, s ? s : "");
        return NULL;
    }
    for (int i = 0; i < json_len(ids); i++)
        if (json_kind(json_at(ids, i)) != JSON_INT || json_int(json_at(ids, i), -1) < 0) {
            REFUSE(err, "%s: special_tokens: '%.60s': expected ids", where, s);
            return NULL;
        }
    return ids;
}

static bool read_template(Tokenizer *t, const Json *j, const char *where, Error *err) {
    static const char *const known[] = {"type", "single", "pair", "special_tokens", NULL};
    const Json *single = json_get(j, "single"), *special = json_get(j, "special_tokens");
    if (!only_keys(j, where, known, err)) return false;
    if (!single || json_kind(single) != JSON_ARR || json_len(single) > 64)
        return REFUSE(err, "%s: expected an array at 'single'", where);
    if (t->n_before + t->n_after > 0) return REFUSE(err, "%s: a second TemplateProcessing is not supported", where);
    int text = -1;
    for (int i = 0; i < json_len(single); i++) {
        const Json *piece = json_at(single, i), *name = json_get(json_get(piece, "SpecialToken"), "id");
        const char *id = json_str(json_get(json_get(piece, "Sequence"), "id"), NULL);
        if (!name && (!id || strcmp(id, "A") != 0 || text >= 0))
            return REFUSE(err, "%s: single[%d]: expected a SpecialToken or, once, Sequence A", where, i);
        if (!name) {
            text = i;
            continue;
        }
        const Json *ids = template_ids(special, name, where, err);
        if (!ids) return false;
        if (text < 0)
            grow_ids(&t->before, &t->n_before, ids);
        else
            grow_ids(&t->after, &t->n_after, ids);
    }
    if (text < 0) return REFUSE(err, "%s: single does not hold Sequence A", where);
    return true;
}

static bool read_post(Tokenizer *t, const Json *j, const char *where, Error *err) {
    if (is_type(j, "ByteLevel")) return only_keys(j, where, byte_level_keys, err); /* trims offsets; ours are whole */
    return is_type(j, "TemplateProcessing") ? read_template(t, j, where, err) : unsupported(j, where, err);
}

/* ---- all of them ---- */

static void choose_way(Tokenizer *t) {
    PreStep *p = t->pre;
    bool regex_only = t->n_pre == 1 && p[0].kind == PRE_BYTE_LEVEL && p[0].regex && p[0].prefix == PREFIX_NEVER;
    bool split = t->n_pre == 2 && p[0].kind == PRE_SPLIT && p[0].find.regex && p[0].behavior == CUT_ISOLATED &&
                 p[1].kind == PRE_BYTE_LEVEL && !p[1].regex && p[1].prefix == PREFIX_NEVER;
    if (regex_only || split) {
        t->split = p[0].find.regex;
        p[0].find.regex = NULL;
    }
    t->short_way = t->split && t->n_form == 0;
    t->decode_bytes = t->byte_level && t->n_decode == 1 && t->decode[0].kind == DECODE_BYTE_LEVEL;
    for (int i = 0; i < t->n_pre; i++)
        t->needs_places |= p[i].kind == PRE_METASPACE && p[i].prefix == PREFIX_FIRST && (t->n_form > 0 || i > 0);
}

/* How many times longer replacing can make a text; a regex can match nothing at every place. */
size_t replace_growth(const Finder *find, const Str *text) { return find->regex ? text->n + 1 : 1 + text->n / find->n; }

static bool check_growth(Tokenizer *t, Error *err) {
    size_t back = 1;
    for (int i = 0; i < t->n_decode && back <= MAX_GROWTH; i++)
        if (t->decode[i].kind == DECODE_REPLACE) back *= replace_growth(&t->decode[i].find, &t->decode[i].text);
    if (back > MAX_GROWTH) return REFUSE(err, "decoder can make a text more than %d times as long", MAX_GROWTH);
    t->growth = 1;
    for (int i = 0; i < t->n_form && t->growth <= MAX_GROWTH; i++) t->growth *= form_growth(&t->form[i]);
    for (int i = 0; i < t->n_pre && t->growth <= MAX_GROWTH; i++)
        t->growth *= t->pre[i].kind == PRE_METASPACE ? 6 : t->pre[i].prefix != PREFIX_NEVER ? 2 : 1;
    return t->growth <= MAX_GROWTH ||
           REFUSE(err, "normalizer and pre_tokenizer can make a text more than %d times as long", MAX_GROWTH);
}

bool parts_read(Tokenizer *t, const Json *root, Error *err) {
    static const PartInfo info[] = {[PART_NORMALIZER] = {"normalizer", "normalizers", read_form},
                                    [PART_PRE_TOKENIZER] = {"pre_tokenizer", "pretokenizers", read_pre},
                                    [PART_POST_PROCESSOR] = {"post_processor", "processors", read_post},
                                    [PART_DECODER] = {"decoder", "decoders", read_decode}};
    t->form = mem_alloc(MAX_STEPS * sizeof *t->form);
    t->pre = mem_alloc(MAX_STEPS * sizeof *t->pre);
    t->decode = mem_alloc(MAX_STEPS * sizeof *t->decode);
    for (int i = 0; i < PART_COUNT; i++) {
        const Json *j = json_get(root, info[i].name);
        if (json_absent(j)) continue;
        if (!walk(t, &info[i], j, info[i].name, 0, err)) return false;
        JsonOut out;
        json_out_init(&out, &t->part[i], 0);
        json_out_node(&out, NULL, j);
    }
    t->has_decoder = t->part[PART_DECODER].n > 0;
    choose_way(t);
    return check_growth(t, err);
}

void parts_release(Tokenizer *t) {
    for (int i = 0; t->form && i < t->n_form; i++) {
        finder_release(&t->form[i].find);
        str_release(&t->form[i].text);
    }
    for (int i = 0; t->pre && i < t->n_pre; i++) finder_release(&t->pre[i].find);
    for (int i = 0; t->decode && i < t->n_decode; i++) {
        finder_release(&t->decode[i].find);
        str_release(&t->decode[i].text);
    }
    for (int i = 0; i < PART_COUNT; i++) str_release(&t->part[i]);
    free(t->form);
    free(t->pre);
    free(t->decode);
    free(t->before);
    free(t->after);
}
