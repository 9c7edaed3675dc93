/* base/config_yaml.c — YAML text to dotted keys; the only file that knows libfyaml.
 *
 * Events, not documents: an alias, an anchor, a tag and a second document are then things we see and refuse. (Loaded as
 * a document without resolving, an alias reads as a plain string with its name; resolved, nine lines of aliases take
 * gigabytes; and documents after the first are dropped in silence.) The text always comes from memory: from a pipe the
 * library crashes. Its messages are collected and printed in our own form, with the file's name. */
#include "base/config_int.h"

#include <libfyaml.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 64, MAX_BYTES = 4 << 20 };

typedef struct {
    bool is_map;
    size_t prefix_n; /* length of the dotted prefix in front of this mapping's keys */
} Level;

typedef struct {
    const ConfigSource *src;
    ConfigReport *report;
    Heap *heap;
    ConfigEntry *entry; /* [n], grown by mem_grow, copied to the heap at the end */
    int n, cap;
    Level level[MAX_DEPTH];
    int depth, skip, n_document; /* skip: open collections of a subtree that an error has made void */
    Str path;                    /* dotted prefix */
    char *key;                   /* the key whose value comes next; NULL: a key comes next */
    ConfigPlace key_at;
    ConfigEntry *list; /* the entry whose items are being read */
    bool drop;         /* the key that waits is void: so is its value */
    bool give_up;
} Reader;

static ConfigPlace place_of(struct fy_event *e) {
    const struct fy_mark *a = fy_event_start_mark(e), *b = fy_event_end_mark(e);
    if (!a) return (ConfigPlace){.line = 1, .col = 1, .width = 1};
    bool alias = e->type == FYET_ALIAS && a->column > 0; /* its mark stands behind the star */
    int width = b && b->line == a->line && b->column > a->column ? b->column - a->column : 1;
    return (ConfigPlace){.line = a->line + 1, .col = a->column + 1 - alias, .width = width + alias};
}

static void refuse(Reader *r, struct fy_event *e, const char *what) {
    config_report(r->report, r->src, place_of(e), "%s", what);
}

static ConfigEntry *add_entry(Reader *r, const char *key, ConfigPlace at) {
    if (r->n == r->cap) {
        r->cap = r->cap ? r->cap * 2 : 32;
        r->entry = mem_grow(r->entry, (size_t)r->cap * sizeof *r->entry);
    }
    r->entry[r->n] = (ConfigEntry){.key = key, .at = at};
    return &r->entry[r->n++];
}

static ConfigScalar scalar_of(Reader *r, struct fy_event *e) {
    ConfigScalar v = {.s = "", .at = place_of(e)};
    struct fy_token *t = e->scalar.value;
    size_t n = 0;
    const char *s = t ? fy_token_get_text(t, &n) : NULL;
    if (!s) return v;
    if (memchr(s, 0, n)) refuse(r, e, "a NUL byte cannot be part of a value");
    v.s = heap_strn(r->heap, s, n);
    enum fy_scalar_style style = fy_token_scalar_style(t);
    v.quoted = style != FYSS_PLAIN;
    if ((style == FYSS_SINGLE_QUOTED || style == FYSS_DOUBLE_QUOTED) && v.at.col > 1) {
        v.at.col--; /* the library's marks stand inside the quotes */
        v.at.width += 2;
    }
    return v;
}

/* Anchors and tags of any node. True when there is nothing to complain about. */
static bool plain_node(Reader *r, struct fy_event *e, const struct fy_token *anchor, const struct fy_token *tag) {
    if (anchor) refuse(r, e, "anchors are not supported (use 'extends: other.yaml' to share values)");
    if (tag) refuse(r, e, "tags are not supported (a value's type follows from its key)");
    return !anchor && !tag;
}

/* Remembers a key, joined to its mapping's prefix; the value comes with the next event. */
static void take_key(Reader *r, struct fy_event *e) {
    ConfigScalar k = scalar_of(r, e);
    if (strcmp(k.s, "<<") == 0 && !k.quoted) {
        refuse(r, e, "merge keys are not supported (use 'extends: other.yaml' to share values)");
        r->drop = true;
    }
    r->key = r->path.n ? heap_printf(r->heap, "%s.%s", r->path.s, k.s) : heap_printf(r->heap, "%s", k.s);
    r->key_at = k.at;
}

static bool null_word(const ConfigScalar *v) {
    if (v->quoted) return false;
    return v->s[0] == 0 || strcmp(v->s, "~") == 0 || strcmp(v->s, "null") == 0;
}

static bool wants_key(const Reader *r) { return r->depth > 0 && r->level[r->depth - 1].is_map && !r->key; }

static void add_item(Reader *r, struct fy_event *e) {
    ConfigEntry *list = r->list;
    if ((list->n_item & (list->n_item - 1)) == 0) { /* room doubles at powers of two */
        ConfigScalar *item = heap_alloc(r->heap, (size_t)(list->n_item ? list->n_item * 2 : 1) * sizeof *item);
        if (list->n_item) memcpy(item, list->item, (size_t)list->n_item * sizeof *item);
        list->item = item;
    }
    list->item[list->n_item++] = scalar_of(r, e);
}

static void on_scalar(Reader *r, struct fy_event *e) {
    if (r->skip) return;
    bool ok = plain_node(r, e, e->scalar.anchor, e->scalar.tag);
    if (wants_key(r)) {
        take_key(r, e);
        if (!ok) r->drop = true;
    } else if (r->list) {
        if (ok) add_item(r, e);
    } else {
        if (ok && !r->drop) {
            ConfigScalar v = scalar_of(r, e);
            ConfigEntry *entry = add_entry(r, r->key ? r->key : "", r->key ? r->key_at : v.at);
            entry->value = v;
            entry->is_null = null_word(&v);
        }
        r->key = NULL;
        r->drop = false;
    }
}

/* Returns false when the collection that begins here is skipped. */
static bool enter(Reader *r, struct fy_event *e, bool plain) {
    if (r->skip) {
        r->skip++;
        return false;
    }
    if (wants_key(r)) { /* pairs cannot be told apart from here on */
        refuse(r, e, "a key must be a plain word");
        r->give_up = true;
        return false;
    }
    if (r->list) {
        bool map = e->type == FYET_MAPPING_START;
        refuse(r, e, map ? "a list holds plain values, not keys" : "a list inside a list is not supported");
    }
    if (!plain || r->list || r->drop || r->depth == MAX_DEPTH) {
        r->skip = 1;
        return false;
    }
    return true;
}

static void on_mapping(Reader *r, struct fy_event *e) {
    bool plain = r->skip || plain_node(r, e, e->mapping_start.anchor, e->mapping_start.tag);
    if (!enter(r, e, plain)) return;
    r->level[r->depth++] = (Level){.is_map = true, .prefix_n = r->path.n};
    if (r->key) {
        str_clear(&r->path);
        str_put(&r->path, r->key);
    }
    r->key = NULL;
}

static void on_sequence(Reader *r, struct fy_event *e) {
    bool plain = r->skip || plain_node(r, e, e->sequence_start.anchor, e->sequence_start.tag);
    if (!enter(r, e, plain)) return;
    r->level[r->depth++] = (Level){.is_map = false, .prefix_n = r->path.n};
    r->list = add_entry(r, r->key ? r->key : "", r->key ? r->key_at : place_of(e));
    r->list->is_list = true;
    r->list->value.at = place_of(e);
    r->key = NULL;
}

static void on_alias(Reader *r, struct fy_event *e) {
    if (r->skip) return;
    if (!r->drop) refuse(r, e, "aliases are not supported (use 'extends: other.yaml' to share values)");
    if (r->list) return;
    bool is_key = wants_key(r);
    r->key = is_key ? heap_printf(r->heap, "*") : NULL;
    r->drop = is_key;
}

static void on_end(Reader *r) {
    if (r->skip) {
        r->skip--;
        if (r->skip == 0 && !r->list) {
            r->key = NULL;
            r->drop = false;
        }
        return;
    }
    if (r->depth == 0) return;
    Level l = r->level[--r->depth];
    if (!l.is_map) r->list = NULL;
    if (l.prefix_n < r->path.n) {
        r->path.n = l.prefix_n;
        r->path.s[l.prefix_n] = 0;
    }
}

static void on_event(Reader *r, struct fy_event *e) {
    switch (e->type) {
    case FYET_DOCUMENT_START:
        if (r->n_document++ == 1) refuse(r, e, "a second document begins here; a configuration is one document");
        break;
    case FYET_ALIAS:
        on_alias(r, e);
        break;
    case FYET_SCALAR:
        on_scalar(r, e);
        break;
    case FYET_MAPPING_START:
        on_mapping(r, e);
        break;
    case FYET_SEQUENCE_START:
        on_sequence(r, e);
        break;
    case FYET_MAPPING_END:
    case FYET_SEQUENCE_END:
        on_end(r);
        break;
    default:
        break;
    }
}

static void report_syntax(Reader *r, struct fy_diag *diag) {
    void *at = NULL;
    struct fy_diag_error *d = fy_diag_errors_iterate(diag, &at);
    if (!d) {
        config_report(r->report, r->src, (ConfigPlace){1, 1, 1}, "this is not YAML");
        return;
    }
    /* The first is the cause; what follows it is its echo. */
    ConfigPlace p = {.line = d->line > 0 ? d->line : 1, .col = d->column > 0 ? d->column : 1, .width = 1};
    config_report(r->report, r->src, p, "%s", d->msg ? d->msg : "this is not YAML");
}

static void parse(Reader *r) {
    struct fy_diag_cfg dc = {.level = FYET_ERROR, .module_mask = ~0u};
    struct fy_diag *diag = fy_diag_create(&dc);
    CHECK(diag != NULL, "libfyaml: no memory");
    fy_diag_set_collect_errors(diag, true);
    struct fy_parse_cfg pc = {.flags = FYPCF_QUIET | FYPCF_COLLECT_DIAG | FYPCF_JSON_NONE, .diag = diag};
    struct fy_parser *parser = fy_parser_create(&pc);
    CHECK(parser != NULL, "libfyaml: no memory");
    CHECK(fy_parser_set_string(parser, r->src->text, r->src->n) == 0, "libfyaml: no memory");
    bool ended = false;
    for (;;) {
        struct fy_event *e = fy_parser_parse(parser);
        if (!e) break;
        ended = e->type == FYET_STREAM_END;
        if (r->n_document < 2 || e->type == FYET_DOCUMENT_START) on_event(r, e);
        fy_parser_event_free(parser, e);
        if (ended || r->n_document > 1 || r->give_up) break;
    }
    if (!ended && !r->give_up && r->n_document < 2) {
        report_syntax(r, diag);
        if (r->list) r->n--; /* half a list would only give an echo */
    }
    fy_parser_destroy(parser);
    fy_diag_destroy(diag);
}

void config_yaml_read(ConfigEntry **entry, int *n_entry, Heap *heap, const ConfigSource *src, ConfigReport *report) {
    *entry = NULL;
    *n_entry = 0;
    Reader r = {.src = src, .report = report, .heap = heap};
    size_t bad = 0;
    if (src->n > MAX_BYTES) {
        config_report(report, src, (ConfigPlace){1, 1, 1}, "%zu bytes are too large for a configuration", src->n);
        return;
    }
    if (!str_utf8_valid(src->text, src->n, &bad) || memchr(src->text, 0, src->n)) {
        config_report(report, src, (ConfigPlace){1, 1, 1}, "not a text file: bad UTF-8 or NUL (near byte %zu)", bad);
        return;
    }
    size_t blank = 0;
    while (blank < src->n && strchr(" \t\r\n", src->text[blank])) blank++;
    if (blank == src->n) return; /* an empty file sets nothing */
    parse(&r);
    if (r.n) {
        *entry = heap_alloc(heap, (size_t)r.n * sizeof **entry);
        memcpy(*entry, r.entry, (size_t)r.n * sizeof **entry);
        *n_entry = r.n;
    }
    free(r.entry);
    str_release(&r.path);
}
