/* The JSON spelling. jansson checks the syntax but keeps no positions, so when something is wrong with the meaning, the
 * place is found by walking the (valid) text again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cai/constitution_int.h"

typedef struct { const char *s; size_t n, at; int line, column; } Scan;

static char scan_next(Scan *p) {
    char c = p->s[p->at++];
    if (c == '\n') p->line++, p->column = 1;
    else p->column++;
    return c;
}

static void skip_space(Scan *p) {
    while (p->at < p->n && strchr(" \t\r\n,:", p->s[p->at])) scan_next(p);
}

static void skip_string(Scan *p) {
    scan_next(p);
    while (p->at < p->n) {
        char c = scan_next(p);
        if (c == '\\' && p->at < p->n) scan_next(p);
        else if (c == '"') break;
    }
}

static void skip_value(Scan *p) {
    int depth = 0;
    skip_space(p);
    do {
        if (p->at >= p->n) return;
        char c = p->s[p->at];
        if (c == '"') skip_string(p);
        else if (c == '{' || c == '[') depth++, scan_next(p);
        else if (c == '}' || c == ']') depth--, scan_next(p);
        else if (depth == 0)
            while (p->at < p->n && !strchr(",]} \t\r\n", p->s[p->at])) scan_next(p);
        else scan_next(p);
    } while (depth > 0);
}

/* In the object at *p: the place of key (or of the object when key is NULL or absent). enter: move to its value. */
static bool find_key(Scan *p, const char *key) {
    Scan at = *p;
    skip_space(&at);
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

/* principle < 0: the top object. */
static void locate(Builder *b, const char *s, size_t n, int principle, const char *key, int *line, int *column) {
    Scan p = {s, n, 0, 1, 1};
    (void)b;
    if (n >= 3 && !memcmp(s, "\xEF\xBB\xBF", 3)) p.at = 3;
    skip_space(&p);
    if (principle >= 0 && find_key(&p, "principles")) {
        skip_string(&p);
        skip_space(&p);
        scan_next(&p);
        for (int i = 0; i < principle; i++) skip_value(&p);
        skip_space(&p);
    }
    if (key) find_key(&p, key);
    *line = p.line;
    *column = p.column;
}

typedef struct { Builder *b; const char *s; size_t n; int principle; } Where;

static bool fail_at(const Where *w, const char *key, const char *what) {
    int line, column;
    locate(w->b, w->s, w->n, w->principle, key, &line, &column);
    return builder_fail(w->b, line, column, what);
}

static bool check_keys(const Where *w, const Json *obj, const char *const *known, const char *kind) {
    for (int i = 0; i < json_len(obj); i++) {
        const Json *v;
        const char *key = json_key_at(obj, i, &v);
        bool found = false;
        for (int k = 0; known[k]; k++) found = found || !strcmp(key, known[k]);
        if (found) continue;
        char what[240];
        const char *near = NULL;
        for (int k = 0; known[k]; k++)
            if (str_distance(key, known[k], 2) <= 2) near = known[k];
        snprintf(what, sizeof what, "unknown field '%.60s' in %s%s%s%s", key, kind, near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
        return fail_at(w, key, what);
    }
    return true;
}

/* required: absent is an error; empty allowed only for requests, where it means "no words". */
static bool member(const Where *w, const Json *obj, const char *key, bool required, bool empty, const char **out) {
    const Json *j = json_get(obj, key);
    size_t n;
    char what[120];
    *out = NULL;
    if (!j) {
        snprintf(what, sizeof what, "missing field '%s'", key);
        return !required || fail_at(w, NULL, what);
    }
    const char *s = json_str(j, &n);
    snprintf(what, sizeof what, "'%s' must be a string", key);
    if (!s) return fail_at(w, key, what);
    int line, column;
    locate(w->b, w->s, w->n, w->principle, key, &line, &column);
    *out = builder_text(w->b, s, n, line, column);
    if (!*out) return false;
    snprintf(what, sizeof what, "'%s' is empty", key);
    return empty || (*out)[0] || fail_at(w, key, what);
}

static bool read_use(const Where *w, const Json *obj, Principle *p) {
    const Json *use = json_get(obj, "use");
    if (!use) return true;
    p->use = 0;
    if (json_kind(use) != JSON_ARR) return fail_at(w, "use", "'use' must be a list of \"critique\" and \"label\"");
    for (int i = 0; i < json_len(use); i++) {
        const char *s = json_str(json_at(use, i), NULL);
        if (s && !strcmp(s, "critique")) p->use |= USE_CRITIQUE;
        else if (s && !strcmp(s, "label")) p->use |= USE_LABEL;
        else return fail_at(w, "use", "'use' holds something other than \"critique\" and \"label\"");
    }
    return true;
}

static bool read_tags(const Where *w, const Json *obj, Principle *p) {
    const Json *tags = json_get(obj, "tags");
    if (!tags) return true;
    if (json_kind(tags) != JSON_ARR) return fail_at(w, "tags", "'tags' must be a list of words");
    const char **tag = heap_alloc(&w->b->out->heap, (size_t)(json_len(tags) + 1) * sizeof *tag);
    for (int i = 0; i < json_len(tags); i++) {
        size_t n;
        const char *s = json_str(json_at(tags, i), &n);
        if (!s || !n || strcspn(s, " \t\r\n") != n) return fail_at(w, "tags", "a tag must be one word without spaces");
        if (!(tag[i] = builder_text(w->b, s, n, 1, 1))) return false;
    }
    p->tag = tag;
    p->n_tag = json_len(tags);
    return true;
}

static bool read_examples(const Where *w, const Json *obj, Principle *p) {
    static const char *const known[] = {"text", "applies", NULL};
    const Json *list = json_get(obj, "examples");
    if (!list) return true;
    if (json_kind(list) != JSON_ARR) return fail_at(w, "examples", "'examples' must be a list");
    PrincipleExample *e = heap_alloc(&w->b->out->heap, (size_t)(json_len(list) + 1) * sizeof *e);
    for (int i = 0; i < json_len(list); i++) {
        const Json *x = json_at(list, i), *applies = json_get(x, "applies");
        if (json_kind(x) != JSON_OBJ) return fail_at(w, "examples", "an example must be {text, applies}");
        if (!check_keys(w, x, known, "an example") || !member(w, x, "text", true, false, &e[i].text)) return false;
        if (!applies || (json_kind(applies) != JSON_YES && json_kind(applies) != JSON_NO))
            return fail_at(w, "examples", "an example needs 'applies': true or false");
        e[i].applies = json_kind(applies) == JSON_YES;
    }
    p->example = e;
    p->n_example = json_len(list);
    return true;
}

static bool read_tests(const Where *w, const Json *obj, Principle *p) {
    static const char *const known[] = {"prompt", "better", "worse", NULL};
    const Json *list = json_get(obj, "tests");
    if (!list) return true;
    if (json_kind(list) != JSON_ARR) return fail_at(w, "tests", "'tests' must be a list");
    PrincipleTest *t = heap_alloc(&w->b->out->heap, (size_t)(json_len(list) + 1) * sizeof *t);
    for (int i = 0; i < json_len(list); i++) {
        const Json *x = json_at(list, i);
        if (json_kind(x) != JSON_OBJ) return fail_at(w, "tests", "a test must be {prompt, better, worse}");
        if (!check_keys(w, x, known, "a test") || !member(w, x, "prompt", true, false, &t[i].prompt) ||
            !member(w, x, "better", true, false, &t[i].better) || !member(w, x, "worse", true, false, &t[i].worse))
            return false;
    }
    p->test = t;
    p->n_test = json_len(list);
    return true;
}

static bool read_principle(const Where *w, const Json *obj) {
    static const char *const known[] = {"id",     "authority", "weight", "use",      "tags",  "text", "avoid",
                                        "critique", "revise",  "compare", "examples", "tests", NULL};
    if (json_kind(obj) != JSON_OBJ) return fail_at(w, NULL, "a principle must be an object");
    Principle *p = builder_principle(w->b);
    const char *authority;
    if (!check_keys(w, obj, known, "a principle") || !member(w, obj, "id", true, false, &p->id) ||
        !member(w, obj, "text", true, false, &p->text) || !member(w, obj, "authority", false, false, &authority) ||
        !member(w, obj, "avoid", false, false, &p->avoid) || !member(w, obj, "critique", false, true, &p->critique) ||
        !member(w, obj, "revise", false, true, &p->revise) || !member(w, obj, "compare", false, true, &p->compare))
        return false;
    if (authority && !builder_authority(&p->authority, authority))
        return fail_at(w, "authority", "'authority' must be one of root, system, developer, user, guideline");
    const Json *weight = json_get(obj, "weight");
    if (weight && json_kind(weight) != JSON_INT && json_kind(weight) != JSON_REAL) return fail_at(w, "weight", "'weight' must be a number");
    p->weight = json_num(weight, 1);
    if (!read_use(w, obj, p) || !read_tags(w, obj, p) || !read_examples(w, obj, p) || !read_tests(w, obj, p)) return false;
    int line, column;
    locate(w->b, w->s, w->n, w->principle, "id", &line, &column);
    return builder_check_principle(w->b, line, column);
}

bool constitution_read_json(Builder *b, const char *s, size_t n) {
    static const char *const known[] = {"schema", "id", "version", "license", "language", "principles", NULL};
    Json *root = NULL;
    if (!json_parse(&root, s, n, 0, b->name, 1, b->err)) return false;
    Where w = {b, s, n, -1};
    Constitution *c = b->out;
    const char *schema;
    bool ok = check_keys(&w, root, known, "the constitution") && member(&w, root, "schema", true, false, &schema);
    if (ok && strcmp(schema, "dikast-constitution/1")) ok = fail_at(&w, "schema", "'schema' must be \"dikast-constitution/1\"");
    ok = ok && member(&w, root, "id", true, false, &c->id) && member(&w, root, "version", false, false, &c->version) &&
         member(&w, root, "license", false, false, &c->license) && member(&w, root, "language", false, false, &c->language);
    const Json *list = json_get(root, "principles");
    if (ok && json_kind(list) != JSON_ARR) ok = fail_at(&w, "principles", "'principles' must be a list");
    for (int i = 0; ok && i < json_len(list); i++) {
        w.principle = i;
        ok = read_principle(&w, json_at(list, i));
    }
    json_release(root);
    return ok;
}
