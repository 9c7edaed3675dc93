/* The JSON spelling. jansson checks the syntax but keeps no positions, so when something is wrong with the meaning, the
 * place is found by walking the (valid) text again: from the top object along the lists of a Place. */
#include <string.h>

#include "base/json.h"
#include "cai/constitution_int.h"

typedef struct {
    const char *s;
    size_t n, at;
    int line, column;
} Scan;

static char scan_next(Scan *p) {
    char c = p->s[p->at++];
    if (c == '\n')
        p->line++, p->column = 1;
    else
        p->column += ((unsigned char)c & 0xC0) != 0x80;
    return c;
}

static void skip_space(Scan *p) {
    while (p->at < p->n && strchr(" \t\r\n,:", p->s[p->at])) scan_next(p);
}

static void skip_string(Scan *p) {
    scan_next(p);
    while (p->at < p->n) {
        char c = scan_next(p);
        if (c == '\\' && p->at < p->n)
            scan_next(p);
        else if (c == '"')
            break;
    }
}

static void skip_value(Scan *p) {
    int depth = 0;
    skip_space(p);
    do {
        if (p->at >= p->n) return;
        char c = p->s[p->at];
        if (c == '"')
            skip_string(p);
        else if (c == '{' || c == '[')
            depth++, scan_next(p);
        else if (c == '}' || c == ']')
            depth--, scan_next(p);
        else if (depth == 0)
            while (p->at < p->n && !strchr(",]} \t\r\n", p->s[p->at])) scan_next(p);
        else
            scan_next(p);
    } while (depth > 0);
}

/* From an object to one of its keys; false, and *p unmoved, when it is not spelt there (or spelt with escapes). */
static bool find_key(Scan *p, const char *key) {
    Scan at = *p;
    if (at.at >= at.n || at.s[at.at] != '{') return false;
    scan_next(&at);
    for (skip_space(&at); at.at < at.n && at.s[at.at] == '"'; skip_space(&at)) {
        Scan start = at;
        skip_string(&at);
        size_t len = at.at - start.at - 2;
        if (len == strlen(key) && !strncmp(at.s + start.at + 1, key, len)) {
            *p = start;
            return true;
        }
        skip_value(&at);
    }
    return false;
}

/* An object of the text: the top one, or number index of the list 'key' in the object above. */
typedef struct Place {
    Builder *b;
    const char *s;
    size_t n;
    const struct Place *up;
    const char *key;
    int index;
} Place;

static Place place_in(const Place *up, const char *key, int index) {
    return (Place){up->b, up->s, up->n, up, key, index};
}

static void go(Scan *p, const Place *to) {
    if (!to->up) {
        skip_space(p);
        return;
    }
    go(p, to->up);
    if (!find_key(p, to->key)) return;
    skip_string(p);
    skip_space(p);
    scan_next(p);
    for (int i = 0; i < to->index; i++) skip_value(p);
    skip_space(p);
}

/* At the key, or at the object when key is NULL or not there. */
static bool fail_at(const Place *w, const char *key, const char *what) {
    Scan p = {w->s, w->n, 0, 1, 1};
    go(&p, w);
    if (key) find_key(&p, key);
    return builder_fail(w->b, p.line, p.column, what);
}

static bool check_keys(const Place *w, const Json *obj, const char *const *known, const char *in) {
    for (int i = 0; i < json_len(obj); i++) {
        const Json *v;
        Fault f;
        const char *key = json_key_at(obj, i, &v);
        bool found = false;
        for (int k = 0; known[k]; k++) found = found || !strcmp(key, known[k]);
        if (!found) {
            fault_unknown(&f, "field", key, in, known);
            return fail_at(w, key, f.what);
        }
    }
    return true;
}

typedef enum { OPTIONAL = 0, REQUIRED = 1, MAY_BE_EMPTY = 2 } MemberFlags; /* an empty request means "no words" */

static bool member(const Place *w, const Json *obj, const char *key, MemberFlags flags, const char **out) {
    const Json *j = json_get(obj, key);
    size_t n;
    Fault f;
    *out = NULL;
    if (!j) {
        if (!(flags & REQUIRED)) return true;
        fault_set(&f, NULL, "missing field '%s'", key);
        return fail_at(w, NULL, f.what);
    }
    const char *s = json_str(j, &n);
    if (!s) {
        fault_set(&f, NULL, "'%s' must be a string", key);
        return fail_at(w, key, f.what);
    }
    *out = builder_text(w->b, s, n, &f);
    if (!*out) return fail_at(w, key, f.what);
    if ((*out)[0] || flags & MAY_BE_EMPTY) return true;
    fault_set(&f, NULL, "'%s' is empty", key);
    return fail_at(w, key, f.what);
}

static bool read_use(const Place *w, const Json *obj, Principle *p) {
    const Json *use = json_get(obj, "use");
    if (!use) return true;
    p->use = 0;
    if (json_kind(use) != JSON_ARR) return fail_at(w, "use", "'use' must be a list of \"critique\" and \"label\"");
    for (int i = 0; i < json_len(use); i++) {
        const char *s = json_str(json_at(use, i), NULL);
        if (s && !strcmp(s, "critique"))
            p->use |= USE_CRITIQUE;
        else if (s && !strcmp(s, "label"))
            p->use |= USE_LABEL;
        else
            return fail_at(w, "use", "'use' holds something other than \"critique\" and \"label\"");
    }
    return true;
}

static bool read_tags(const Place *w, const Json *obj, Principle *p) {
    const Json *tags = json_get(obj, "tags");
    if (!tags) return true;
    if (json_kind(tags) != JSON_ARR) return fail_at(w, "tags", "'tags' must be a list of words");
    const char **tag = heap_alloc(&w->b->out->heap, (size_t)(json_len(tags) + 1) * sizeof *tag);
    for (int i = 0; i < json_len(tags); i++) {
        size_t n;
        Fault f;
        const char *s = json_str(json_at(tags, i), &n);
        if (!s || !n || strcspn(s, " \t\r\n") != n) return fail_at(w, "tags", "a tag must be one word without spaces");
        if (!(tag[i] = builder_text(w->b, s, n, &f))) return fail_at(w, "tags", f.what);
    }
    p->tag = tag;
    p->n_tag = json_len(tags);
    return true;
}

static bool read_examples(const Place *w, const Json *obj, Principle *p) {
    static const char *const known[] = {"text", "applies", NULL};
    const Json *list = json_get(obj, "examples");
    if (!list) return true;
    if (json_kind(list) != JSON_ARR) return fail_at(w, "examples", "'examples' must be a list");
    PrincipleExample *e = heap_alloc(&w->b->out->heap, (size_t)(json_len(list) + 1) * sizeof *e);
    for (int i = 0; i < json_len(list); i++) {
        const Json *x = json_at(list, i), *applies = json_get(x, "applies");
        Place at = place_in(w, "examples", i);
        if (json_kind(x) != JSON_OBJ) return fail_at(&at, NULL, "an example must be {text, applies}");
        if (!check_keys(&at, x, known, "an example") || !member(&at, x, "text", REQUIRED, &e[i].text)) return false;
        if (!applies || (json_kind(applies) != JSON_YES && json_kind(applies) != JSON_NO))
            return fail_at(&at, "applies", "an example needs 'applies': true or false");
        e[i].applies = json_kind(applies) == JSON_YES;
    }
    p->example = e;
    p->n_example = json_len(list);
    return true;
}

static bool read_tests(const Place *w, const Json *obj, Principle *p) {
    static const char *const known[] = {"prompt", "better", "worse", NULL};
    const Json *list = json_get(obj, "tests");
    if (!list) return true;
    if (json_kind(list) != JSON_ARR) return fail_at(w, "tests", "'tests' must be a list");
    PrincipleTest *t = heap_alloc(&w->b->out->heap, (size_t)(json_len(list) + 1) * sizeof *t);
    for (int i = 0; i < json_len(list); i++) {
        const Json *x = json_at(list, i);
        Place at = place_in(w, "tests", i);
        if (json_kind(x) != JSON_OBJ) return fail_at(&at, NULL, "a test must be {prompt, better, worse}");
        if (!check_keys(&at, x, known, "a test") || !member(&at, x, "prompt", REQUIRED, &t[i].prompt) ||
            !member(&at, x, "better", REQUIRED, &t[i].better) || !member(&at, x, "worse", REQUIRED, &t[i].worse))
            return false;
    }
    p->test = t;
    p->n_test = json_len(list);
    return true;
}

static bool read_principle(const Place *w, const Json *obj) {
    static const char *const known[] = {"id",       "authority", "weight",  "use",      "tags",  "text", "avoid",
                                        "critique", "revise",    "compare", "examples", "tests", NULL};
    Fault f;
    if (json_kind(obj) != JSON_OBJ) return fail_at(w, NULL, "a principle must be an object");
    Principle *p = builder_principle(w->b);
    const char *authority;
    if (!check_keys(w, obj, known, "a principle") || !member(w, obj, "id", REQUIRED, &p->id) ||
        !member(w, obj, "text", REQUIRED, &p->text) || !member(w, obj, "authority", OPTIONAL, &authority) ||
        !member(w, obj, "avoid", OPTIONAL, &p->avoid) || !member(w, obj, "critique", MAY_BE_EMPTY, &p->critique) ||
        !member(w, obj, "revise", MAY_BE_EMPTY, &p->revise) || !member(w, obj, "compare", MAY_BE_EMPTY, &p->compare))
        return false;
    if (authority && !builder_authority(&p->authority, authority, &f)) return fail_at(w, "authority", f.what);
    const Json *weight = json_get(obj, "weight");
    if (weight && json_kind(weight) != JSON_INT && json_kind(weight) != JSON_REAL)
        return fail_at(w, "weight", "'weight' must be a number");
    p->weight = weight ? json_num(weight, 0) : 1;
    if (!read_use(w, obj, p) || !read_tags(w, obj, p) || !read_examples(w, obj, p) || !read_tests(w, obj, p))
        return false;
    return builder_check_principle(w->b, &f) || fail_at(w, f.key, f.what);
}

/* The line each principle begins on, in one walk over text that was found valid. */
static void put_lines(Builder *b, const Place *top) {
    Scan p = {top->s, top->n, 0, 1, 1};
    Place first = place_in(top, "principles", 0);
    go(&p, &first);
    for (int i = 0; i < b->n; i++) {
        skip_space(&p);
        b->principle[i].line = p.line;
        skip_value(&p);
    }
}

bool constitution_read_json(Builder *b, const char *s, size_t n) {
    static const char *const known[] = {"schema", "id", "version", "license", "language", "principles", NULL};
    Json *root = NULL;
    if (!json_parse(&root, s, n, 0, b->name, 1, b->err)) return false;
    Place top = {.b = b, .s = s, .n = n};
    Constitution *c = b->out;
    const char *schema;
    bool ok = check_keys(&top, root, known, "the constitution") && member(&top, root, "schema", REQUIRED, &schema);
    if (ok && strcmp(schema, "dikast-constitution/1"))
        ok = fail_at(&top, "schema", "'schema' must be \"dikast-constitution/1\"");
    ok = ok && member(&top, root, "id", REQUIRED, &c->id) && member(&top, root, "version", OPTIONAL, &c->version) &&
         member(&top, root, "license", OPTIONAL, &c->license) && member(&top, root, "language", OPTIONAL, &c->language);
    const Json *list = json_get(root, "principles");
    if (ok && (!list || json_kind(list) != JSON_ARR)) ok = fail_at(&top, "principles", "'principles' must be a list");
    for (int i = 0; ok && i < json_len(list); i++) {
        Place at = place_in(&top, "principles", i);
        ok = read_principle(&at, json_at(list, i));
    }
    if (ok) put_lines(b, &top);
    json_release(root);
    return ok;
}
