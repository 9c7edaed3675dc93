/* Foreign JSON shapes; markdown is in constitution_markdown.c. Every entry becomes a principle of a Builder, so the
 * checks are those of our own readers. */
#include "cai/constitution_import.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cai/constitution_int.h"

void import_release(Import *im) {
    str_release(&im->note);
    str_release(&im->exemplar);
    *im = (Import){0};
}

/* -- shared with markdown ------------------------------------------------------------------------------------------ */

void import_note(Importer *w, const char *who, const char *what) { str_printf(&w->im->note, "%s: %s\n", who, what); }

static bool id_taken(const Importer *w, const char *id) {
    for (int i = 0; i < w->b->n; i++)
        if (w->b->principle[i].id && !strcmp(w->b->principle[i].id, id)) return true;
    return false;
}

/* [a-z][a-z0-9-]{1,31} from any text; made unique by a number. */
const char *import_id(Importer *w, const char *s, const char *otherwise) {
    char id[33];
    int n = 0;
    for (; *s && n < 32; s++) {
        int ch = tolower((unsigned char)*s);
        bool word = (ch >= 'a' && ch <= 'z') || (n && ch >= '0' && ch <= '9');
        if (word)
            id[n++] = (char)ch;
        else if (n && id[n - 1] != '-')
            id[n++] = '-';
    }
    while (n && id[n - 1] == '-') n--;
    id[n] = 0;
    Str text = {0};
    str_put(&text, n < 2 ? otherwise : id);
    for (int k = 2; id_taken(w, str_get(&text)); k++) {
        Str tail = {0};
        str_printf(&tail, "-%d", k);
        str_clear(&text);
        str_printf(&text, "%.*s%s", (int)(32 - tail.n), n < 2 ? otherwise : id, str_get(&tail));
        str_release(&tail);
    }
    const char *out = heap_strn(&w->b->out->heap, text.s, text.n);
    str_release(&text);
    return out;
}

bool import_fail(Importer *w, const char *what) {
    if (w->who) return error_set(w->b->err, ERR_FORMAT, "%s: entry %d ('%.60s'): %s", w->b->name, w->at, w->who, what);
    return error_set(w->b->err, ERR_FORMAT, "%s: entry %d: %s", w->b->name, w->at, what);
}

bool import_clean(Importer *w, const char **out, const char *s, size_t n) {
    Fault f;
    *out = builder_text(w->b, s, n, &f);
    return *out || import_fail(w, f.what);
}

bool import_check(Importer *w) {
    Fault f;
    return builder_check_principle(w->b, &f) || import_fail(w, f.what);
}

/* -- JSON ---------------------------------------------------------------------------------------------------------- */

static bool member(Importer *w, const Json *obj, const char *key, bool required, const char **out) {
    size_t n;
    char what[120];
    const Json *j = json_get(obj, key);
    *out = NULL;
    if (!j && !required) return true;
    const char *s = json_str(j, &n);
    snprintf(what, sizeof what, "expected a text at '%.40s'", key);
    if (!s) return import_fail(w, what);
    if (!import_clean(w, out, s, n)) return false;
    snprintf(what, sizeof what, "'%.40s' is empty", key);
    return (*out)[0] || import_fail(w, what);
}

/* s without the heading before it and the one after it, both of which may be missing. */
static bool strip(Importer *w, const char **out, const char *s, size_t n, const char *head, const char *tail) {
    while (n && isspace((unsigned char)s[0])) s++, n--;
    while (n && isspace((unsigned char)s[n - 1])) n--;
    size_t h = strlen(head), t = strlen(tail);
    if (n >= h && !memcmp(s, head, h)) s += h, n -= h;
    if (n >= t && !memcmp(s + n - t, tail, t)) n -= t;
    if (!import_clean(w, out, s, n)) return false;
    return (*out)[0] || import_fail(w, "nothing is left without its headings");
}

static bool labelled(Importer *w, const Json *obj, const char *label) {
    size_t n;
    Principle *p = builder_principle(w->b);
    p->id = import_id(w, label, "pair");
    const Json *prompt = json_get(obj, "prompt");
    if (prompt && json_kind(prompt) == JSON_ARR) {
        if (json_len(prompt) > 1) import_note(w, p->id, "only the first of its critique requests was imported");
        prompt = json_at(prompt, 0);
    }
    const char *s = prompt ? json_str(prompt, &n) : NULL;
    if (!s) return import_fail(w, "expected a text, or a list of texts, at 'prompt'");
    if (!strip(w, &p->critique, s, n, "CritiqueRequest:", "Critique:")) return false;
    s = json_str(json_get(obj, "edit_request"), &n);
    if (!s) return import_fail(w, "expected a text at 'edit_request'");
    if (!strip(w, &p->revise, s, n, "RevisionRequest:", "Revision:")) return false;
    p->text = p->critique;
    p->use = USE_CRITIQUE;
    import_note(w, p->id, "text taken from the critique request");
    return import_check(w);
}

static bool choice(Importer *w, const Json *item) {
    static const char TAIL[] = "Options:";
    size_t n;
    char otherwise[24];
    const char *s = json_str(item, &n);
    if (!s) return import_fail(w, "expected a text");
    while (n && isspace((unsigned char)s[n - 1])) n--;
    bool options = n >= sizeof TAIL - 1 && !memcmp(s + n - (sizeof TAIL - 1), TAIL, sizeof TAIL - 1);
    Principle *p = builder_principle(w->b);
    snprintf(otherwise, sizeof otherwise, "%s-%d", options ? "choice" : "rule", w->at);
    p->id = import_id(w, "", otherwise);
    if (!strip(w, &p->text, s, n, "", options ? TAIL : "")) return false;
    if (!strncmp(p->text, "Human:", 6)) return import_fail(w, "a dialogue; example chats are no principles");
    if (options) {
        p->compare = p->text;
        p->use = USE_LABEL;
        import_note(w, p->id, "text taken from the choice");
    }
    return import_check(w);
}

static bool critic(Importer *w, const Json *obj) {
    char otherwise[24];
    Principle *p = builder_principle(w->b);
    snprintf(otherwise, sizeof otherwise, "pair-%d", w->at);
    p->id = import_id(w, "", otherwise);
    if (!member(w, obj, "critic", true, &p->critique) || !member(w, obj, "revision", true, &p->revise)) return false;
    p->text = p->critique;
    p->use = USE_CRITIQUE;
    import_note(w, p->id, "text taken from the critique request");
    return import_check(w);
}

static bool definition(Importer *w, const Json *obj) {
    const char *name;
    char otherwise[24];
    Principle *p = builder_principle(w->b);
    snprintf(otherwise, sizeof otherwise, "dimension-%d", w->at);
    if (!member(w, obj, "dimension", true, &name) || !member(w, obj, "definition", true, &p->text)) return false;
    p->id = import_id(w, name, otherwise);
    const Json *weight = json_get(obj, "weight");
    if (weight && json_kind(weight) != JSON_INT && json_kind(weight) != JSON_REAL)
        return import_fail(w, "'weight' must be a number");
    if (weight) p->weight = json_num(weight, 1);
    if (json_get(obj, "negative_definition"))
        import_note(w, p->id, "negative_definition is an inverted principle, not imported");
    return import_check(w);
}

static bool named(Importer *w, const Json *obj, const char *name) {
    char otherwise[24];
    Principle *p = builder_principle(w->b);
    snprintf(otherwise, sizeof otherwise, "principle-%d", w->at);
    if (!name && !member(w, obj, "name", false, &name)) return false;
    p->id = import_id(w, name ? name : "", otherwise);
    if (!member(w, obj, "critique_request", true, &p->critique) ||
        !member(w, obj, "revision_request", true, &p->revise))
        return false;
    p->text = p->critique;
    p->use = USE_CRITIQUE;
    import_note(w, p->id, "text taken from the critique request");
    return import_check(w);
}

static bool trait(Importer *w, const Json *obj) {
    static const char *const key[] = {"questions", "additional_questions"};
    char otherwise[24];
    Principle *p = builder_principle(w->b);
    snprintf(otherwise, sizeof otherwise, "trait-%d", w->at);
    p->id = import_id(w, "", otherwise);
    if (!member(w, obj, "trait", true, &p->text)) return false;
    int n = 0;
    for (int k = 0; k < COUNT_OF(key); k++) {
        const Json *list = json_get(obj, key[k]);
        if (list && json_kind(list) != JSON_ARR) return import_fail(w, "the questions must be a list of texts");
        n += list ? json_len(list) : 0;
    }
    PrincipleExample *e = heap_alloc(&w->b->out->heap, (size_t)(n + 1) * sizeof *e);
    for (int k = 0; k < COUNT_OF(key); k++) {
        const Json *list = json_get(obj, key[k]);
        for (int i = 0; list && i < json_len(list); i++) {
            size_t len;
            const char *s = json_str(json_at(list, i), &len);
            if (!s || !len) return import_fail(w, "the questions must be a list of texts");
            e[p->n_example].applies = true;
            if (!import_clean(w, &e[p->n_example].text, s, len)) return false;
            if (!e[p->n_example++].text[0]) return import_fail(w, "a question is empty");
        }
    }
    p->example = e;
    if (!strncmp(p->text, "I ", 2)) import_note(w, p->id, "first person kept");
    return import_check(w);
}

static bool one_of_list(Importer *w, const Json *x) {
    if (json_kind(x) == JSON_STR) return choice(w, x);
    if (json_kind(x) != JSON_OBJ) return import_fail(w, "expected a text or an object");
    if (json_get(x, "critique_request")) return named(w, x, NULL);
    if (json_get(x, "dimension")) return definition(w, x);
    if (json_get(x, "critic")) return critic(w, x);
    if (json_get(x, "trait")) return trait(w, x);
    return import_fail(
        w, "an object of no shape that is known: expected 'critique_request', 'critic', 'dimension' or 'trait'");
}

static bool list(Importer *w, const Json *arr) {
    bool ok = json_kind(arr) == JSON_ARR || import_fail(w, "expected a list of principles");
    for (int i = 0; ok && i < json_len(arr); i++) {
        w->at = i + 1;
        w->who = NULL;
        ok = one_of_list(w, json_at(arr, i));
    }
    return ok;
}

static void exemplars(Importer *w, const Json *chats) {
    for (int i = 0; chats && json_kind(chats) == JSON_ARR && i < json_len(chats); i++) {
        JsonOut j;
        Str line = {0};
        json_out_init(&j, &line, 0);
        json_out_obj(&j, NULL);
        json_out_node(&j, "messages", json_at(chats, i));
        json_out_obj_end(&j);
        str_printf(&w->im->exemplar, "%s\n", str_get(&line));
        str_release(&line);
        w->im->n_exemplar++;
    }
    if (w->im->n_exemplar) import_note(w, "system_chat", "exemplars, kept apart from the principles");
}

static bool by_label(Importer *w, const Json *root) {
    bool ok = json_len(root) > 0 || import_fail(w, "the object is empty; expected principles");
    for (int i = 0; ok && i < json_len(root); i++) {
        const Json *value;
        const char *label = json_key_at(root, i, &value);
        w->at = i + 1;
        w->who = label;
        if (json_kind(value) == JSON_OBJ && json_get(value, "edit_request"))
            ok = labelled(w, value, label);
        else if (json_kind(value) == JSON_OBJ && json_get(value, "critique_request"))
            ok = named(w, value, label);
        else
            ok = import_fail(w, "of no shape that is known: expected {prompt, edit_request} or {critique_request, "
                                "revision_request}; our own files say \"schema\"");
    }
    return ok;
}

static bool json_shape(Importer *w, const Json *root) {
    if (json_kind(root) == JSON_ARR) {
        w->im->shape = "list";
        return list(w, root);
    }
    if (json_get(root, "constitutions")) {
        w->im->shape = "critic and revision";
        exemplars(w, json_get(root, "system_chat"));
        return list(w, json_get(root, "constitutions"));
    }
    if (json_get(root, "constitutional_principles")) {
        w->im->shape = "constitutional_principles";
        return list(w, json_get(root, "constitutional_principles"));
    }
    w->im->shape = "labelled pairs";
    return by_label(w, root);
}

/* Lines of JSON: the first line alone is an object with a trait. */
static bool is_lines(const char *s, size_t n) {
    Json *j = NULL;
    Error err = {0};
    const char *end = memchr(s, '\n', n);
    if (!json_parse(&j, s, end ? (size_t)(end - s) : n, 0, "", 1, &err)) return false;
    bool is = json_kind(j) == JSON_OBJ && json_get(j, "trait");
    json_release(j);
    return is;
}

static bool lines(Importer *w, const char *s, size_t n) {
    bool ok = true;
    w->im->shape = "traits";
    w->at = 0;
    for (int line = 1; ok && n; line++) {
        const char *end = memchr(s, '\n', n);
        size_t len = end ? (size_t)(end - s) : n, step = end ? len + 1 : len;
        Json *j = NULL;
        size_t blank = 0;
        while (blank < len && strchr(" \t\r", s[blank])) blank++;
        if (blank < len) {
            w->at++;
            w->who = NULL;
            ok = json_parse(&j, s, len, 0, w->b->name, line, w->b->err) && one_of_list(w, j);
            json_release(j);
        }
        s += step, n -= step;
    }
    return ok;
}

/* -- by content ---------------------------------------------------------------------------------------------------- */

static bool foreign_json(Importer *w, const char *s, size_t n, bool *native) {
    Json *root = NULL;
    if (is_lines(s, n)) return lines(w, s, n);
    if (!json_parse(&root, s, n, 0, w->b->name, 1, w->b->err)) return false;
    *native = json_kind(root) == JSON_OBJ && (json_get(root, "schema") || json_get(root, "principles"));
    bool ok = *native || json_shape(w, root);
    json_release(root);
    return ok;
}

static bool foreign(Importer *w, const char *s, size_t n, bool *native) {
    if (n > CONSTITUTION_MAX_BYTES) return builder_fail(w->b, 1, 1, "larger than 16 MiB; expected a constitution");
    size_t at = n >= 3 && !memcmp(s, "\xEF\xBB\xBF", 3) ? 3 : 0;
    while (at < n && s[at] && strchr(" \t\r\n", s[at])) at++;
    *native = at == n || s[at] == '<' || memchr(s, 0, n) ||
              (unsigned char)s[at] >= 0xFE; /* or its reader says what is wrong */
    if (*native) return true;
    if (s[at] == '{' || s[at] == '[') return foreign_json(w, s + at, n - at, native);
    w->im->shape = "markdown";
    return import_markdown(w, s + at, n - at);
}

static void id_from_name(Importer *w, const char *name, const char *id) {
    const char *slash = strrchr(name, '/'), *stem = slash ? slash + 1 : name, *dot = strrchr(stem, '.');
    char buf[64];
    snprintf(buf, sizeof buf, "%.*s", (int)(dot && dot - stem < 60 ? dot - stem : 60), stem);
    w->b->out->id = id ? heap_strn(&w->b->out->heap, id, strlen(id)) : import_id(w, buf, "imported");
}

static bool no_principle(const char *name, Error *err) {
    return error_set(
        err, ERR_FORMAT,
        "%s: no principle in it; expected a constitution in JSON or XML, or a published list of principles: "
        "JSON of critique and revision requests, choices, definitions or traits, or markdown with "
        "'## Title {#id authority=level}' above each (docs/formats.md)",
        name);
}

bool constitution_import(Constitution *c, Import *im, const char *s, size_t n, const char *name, const char *id,
                         Error *err) {
    *c = (Constitution){0};
    *im = (Import){.shape = "native"};
    Builder b = {.out = c, .name = name, .err = err};
    Importer w = {.b = &b, .im = im, .at = 1};
    bool native = false;
    bool ok = foreign(&w, s, n, &native);
    if (ok && !native) {
        id_from_name(&w, name, id);
        ok = b.n ? builder_finish(&b) : no_principle(name, err);
    }
    free(b.principle);
    if (!ok || native) constitution_release(c);
    return ok && (!native || constitution_parse(c, s, n, name, err));
}
