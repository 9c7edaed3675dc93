/* base/config.c — the schema table at work: where values come from and what they may be.
 *
 * Sources are applied in the order of their precedence, each value overwriting the one before: defaults, then for a
 * file first what it extends, then itself, then the environment, then overrides. Every value of every source is
 * checked, also one that a later source replaces: a mistake is a mistake. */
#include "base/config.h"

#include "base/config_int.h"
#include "base/io.h"
#include "base/json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h> /* environ */

enum { MAX_EXTENDS = 8 };

typedef struct {
    void *cfg;
    CfgTable keys;
    Heap heap; /* texts and entries of this load */
    ConfigReport report;
    int n_source;
    Str *origin; /* of each key's value; NULL: nobody asks */
} Loader;

/* ---- values ---- */

static void *field(const Loader *l, const CfgKey *k) { return (char *)l->cfg + k->offset; }

/* Copies s without the _ between digits; false when one stands elsewhere or the text is too long for a number. */
static bool strip_underscores(char out[64], const char *s) {
    size_t n = 0;
    for (size_t i = 0; s[i]; i++) {
        if (s[i] == '_') {
            bool between = i > 0 && s[i - 1] >= '0' && s[i - 1] <= '9' && s[i + 1] >= '0' && s[i + 1] <= '9';
            if (!between) return false;
            continue;
        }
        if (n + 1 >= 64) return false;
        out[n++] = s[i];
    }
    out[n] = 0;
    return n > 0;
}

/* Decimal digits with an optional sign; 010 is refused, because readers disagree whether it is 8 or 10. */
static bool parse_int(int64_t *v, const char *text) {
    // clang-format off
    static const struct { const char *suffix; int64_t scale; } unit[] = {
        {"", 1}, {"k", 1000}, {"M", 1000000}, {"G", 1000000000}, {"ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30},
    };
    // clang-format on
    char s[64];
    if (!strip_underscores(s, text)) return false;
    const char *digits = s + (s[0] == '-' || s[0] == '+');
    size_t n = strspn(digits, "0123456789");
    if (n == 0 || (n > 1 && digits[0] == '0')) return false;
    errno = 0;
    long long base = strtoll(s, NULL, 10);
    if (errno) return false;
    for (int i = 0; i < COUNT_OF(unit); i++) {
        int64_t whole;
        if (strcmp(digits + n, unit[i].suffix) == 0) {
            bool fits = !__builtin_mul_overflow((int64_t)base, unit[i].scale, &whole);
            if (fits) *v = whole;
            return fits;
        }
    }
    return false;
}

/* Decimal, no inf, nan or hexadecimal; whole numbers may have the suffixes of integers. */
static bool parse_float(double *v, const char *text) {
    int64_t whole;
    if (parse_int(&whole, text)) {
        *v = (double)whole;
        return true;
    }
    char s[64], *end;
    if (!strip_underscores(s, text) || strspn(s, "0123456789+-.eE") != strlen(s)) return false;
    if (!strpbrk(s, "0123456789")) return false;
    *v = strtod(s, &end);
    return *end == 0 && isfinite(*v);
}

/* " in 0..1", " of at least 1"; empty when the key has no bounds. */
static void range_words(char out[96], const CfgKey *k) {
    out[0] = 0;
    bool low = k->min > -1e300, high = k->max < 1e300;
    if (k->min == k->max) return;
    if (low && high)
        snprintf(out, 96, " in %.15g..%.15g", k->min, k->max);
    else if (low)
        snprintf(out, 96, " of at least %.15g", k->min);
    else if (high)
        snprintf(out, 96, " of at most %.15g", k->max);
}

static bool in_range(const CfgKey *k, double v) { return k->min == k->max || (v >= k->min && v <= k->max); }

static int enum_index(const char *def, const char *s) {
    size_t n = strlen(s);
    for (int i = 0;; i++) {
        size_t len = strcspn(def, "|");
        if (len == n && strncmp(def, s, n) == 0) return i;
        if (!def[len]) return -1;
        def += len + 1;
    }
}

/* The name of the enum that s may be a slip of; "" when none is near. */
static void near_enum(char out[64], const char *def, const char *s) {
    out[0] = 0;
    for (int best = 3; *def; def += strcspn(def, "|") + (def[strcspn(def, "|")] == '|')) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(def, "|"), def);
        int d = str_distance(s, name, 2);
        if (d < best) {
            best = d;
            snprintf(out, 64, "%s", name);
        }
    }
}

/* What the key takes, for messages: "a number in 0..1", "one of fp32, bf16". */
static void expected_words(Str *out, const CfgKey *k) {
    char range[96];
    range_words(range, k);
    switch (k->type) {
    case CFG_BOOL:
        str_put(out, "true or false");
        break;
    case CFG_INT:
        str_printf(out, "an integer%s", range);
        break;
    case CFG_FLOAT:
        str_printf(out, "a number%s", range);
        break;
    case CFG_STR:
        str_put(out, "a text");
        break;
    case CFG_LIST:
        str_put(out, "a list: [a, b]");
        break;
    case CFG_ENUM:
        str_put(out, "one of ");
        for (const char *c = k->def; *c; c++) {
            if (*c == '|')
                str_put(out, ", ");
            else
                str_putc(out, *c);
        }
    }
}

static void set_str(char **f, const char *s) {
    char *copy = mem_str(s);
    free(*f);
    *f = copy;
}

static void list_release(CfgList *list) {
    for (int i = 0; i < list->n; i++) free(list->item[i]);
    free(list->item);
    *list = (CfgList){0};
}

static void list_add(CfgList *list, const char *s, size_t n) {
    list->item = mem_grow(list->item, (size_t)(list->n + 1) * sizeof *list->item);
    char *copy = mem_alloc(n + 1);
    memcpy(copy, s, n);
    list->item[list->n++] = copy;
}

/* "a,b" as in defaults and bare overrides. */
static void list_split(CfgList *list, const char *s) {
    list_release(list);
    for (; *s; s += s[strcspn(s, ",")] == ',' ? strcspn(s, ",") + 1 : strcspn(s, ","))
        list_add(list, s, strcspn(s, ","));
}

/* Sets the field from one scalar; false, and the field untouched, when it does not fit. */
static bool set_scalar(const Loader *l, const CfgKey *k, const ConfigScalar *v) {
    void *f = field(l, k);
    int64_t i;
    double d;
    switch (k->type) {
    case CFG_BOOL: {
        bool yes = strcmp(v->s, "true") == 0;
        if (v->quoted || (!yes && strcmp(v->s, "false") != 0)) return false;
        *(bool *)f = yes;
        return true;
    }
    case CFG_INT:
        if (v->quoted || !parse_int(&i, v->s) || !in_range(k, (double)i)) return false;
        *(int64_t *)f = i;
        return true;
    case CFG_FLOAT:
        if (v->quoted || !parse_float(&d, v->s) || !in_range(k, d)) return false;
        *(double *)f = d;
        return true;
    case CFG_STR:
        set_str(f, v->s);
        return true;
    case CFG_ENUM: {
        int index = enum_index(k->def, v->s);
        if (index >= 0) *(int *)f = index;
        return index >= 0;
    }
    case CFG_LIST:
        return false;
    }
    return false;
}

static void set_default(const Loader *l, const CfgKey *k) {
    if (k->type == CFG_LIST) {
        list_split(field(l, k), k->def);
        return;
    }
    ConfigScalar v = {.s = k->def};
    char first[64];
    if (k->type == CFG_ENUM) {
        snprintf(first, sizeof first, "%.*s", (int)strcspn(k->def, "|"), k->def);
        v.s = first;
    }
    CHECK(set_scalar(l, k, &v), "the default of '%s' does not fit: '%s'", k->name, k->def);
}

static void bad_value(Loader *l, const ConfigSource *src, const ConfigEntry *e, const CfgKey *k) {
    Str want = {0};
    expected_words(&want, k);
    config_note_section(&l->report, l->keys, k->name);
    const ConfigScalar *v = &e->value;
    const char *hint = "";
    if (e->is_list) {
        config_report(&l->report, src, v->at, "'%s' must be %s, found a list", k->name, want.s);
    } else if (e->is_null) {
        config_report(&l->report, src, v->at, "'%s' must be %s, found nothing", k->name, want.s);
    } else {
        if (v->quoted && k->type != CFG_ENUM && k->type != CFG_LIST) hint = " (a quoted value is a text)";
        bool octal = v->s[0] == '0' && v->s[1] >= '0' && v->s[1] <= '9';
        if (!v->quoted && k->type == CFG_INT && octal) hint = " (write it without the leading 0)";
        const char *yes[] = {"yes", "no", "on", "off", "True", "False", "TRUE", "FALSE", "1", "0"};
        for (int i = 0; i < COUNT_OF(yes) && k->type == CFG_BOOL && !v->quoted; i++) {
            if (strcmp(v->s, yes[i]) == 0) hint = i % 2 ? " (write false)" : " (write true)";
        }
        char near[64] = "", guess[100] = "";
        if (k->type == CFG_ENUM) near_enum(near, k->def, v->s);
        if (near[0]) snprintf(guess, sizeof guess, " (did you mean '%s'?)", near);
        config_report(&l->report, src, v->at, "'%s' must be %s, found \"%s\"%s%s", k->name, want.s, v->s, hint, guess);
    }
    str_release(&want);
}

static void note_origin(Loader *l, const CfgKey *k, const ConfigSource *src, int line) {
    if (!l->origin) return;
    Str *o = &l->origin[k - l->keys.key];
    str_clear(o);
    str_put(o, src->path);
    if (src->text) str_printf(o, ":%d", line);
    for (char *c = o->s; *c; c++)
        if (*c == '\n') *c = ' '; /* of an override: it becomes a comment */
}

static void apply_entry(Loader *l, const ConfigSource *src, const ConfigEntry *e) {
    const CfgKey *k = config_find(l->keys, e->key);
    if (!k) {
        if (e->is_null && config_is_section(l->keys, e->key)) return; /* a section whose keys are all commented out */
        config_unknown_key(&l->report, l->keys, src, e->at, e->key);
        return;
    }
    if (e->is_list && k->type == CFG_LIST) {
        CfgList *list = field(l, k);
        list_release(list);
        for (int i = 0; i < e->n_item; i++) list_add(list, e->item[i].s, strlen(e->item[i].s));
    } else if (e->is_list || e->is_null || !set_scalar(l, k, &e->value)) {
        bad_value(l, src, e, k);
        return;
    }
    note_origin(l, k, src, e->at.line);
}

/* ---- sources ---- */

static void load_file(Loader *l, const char *path, int depth);

/* False: not the extends key. */
static bool is_extends(const ConfigEntry *e) { return strcmp(e->key, "extends") == 0; }

static void load_extended(Loader *l, const ConfigSource *src, const ConfigEntry *e, int depth) {
    if (e->is_list || e->is_null || !e->value.s[0]) {
        config_report(&l->report, src, e->value.at, "'extends' must be the path of one file");
        return;
    }
    if (depth == MAX_EXTENDS) {
        config_report(&l->report, src, e->value.at, "'extends' is nested deeper than %d files: is it a circle?",
                      MAX_EXTENDS);
        return;
    }
    const char *name = e->value.s, *slash = strrchr(src->path, '/');
    if (name[0] != '/' && slash) name = heap_printf(&l->heap, "%.*s/%s", (int)(slash - src->path), src->path, name);
    if (!io_exists(name)) {
        config_report(&l->report, src, e->value.at, "no such file: %s", name);
        return;
    }
    load_file(l, name, depth + 1);
}

static void report_duplicates(Loader *l, const ConfigSource *src, const ConfigEntry *e, int n) {
    for (int i = 1; i < n; i++) {
        for (int j = 0; j < i; j++) {
            if (strcmp(e[i].key, e[j].key) != 0) continue;
            config_note_section(&l->report, l->keys, e[i].key);
            config_report(&l->report, src, e[i].at, "duplicate key '%s' (first on line %d)", e[i].key, e[j].at.line);
            break;
        }
    }
}

static void load_file(Loader *l, const char *path, int depth) {
    Str text = {0};
    Error err = {0};
    if (!io_read_file(&text, path, (size_t)4 << 20, &err)) {
        size_t lead = strlen(path) + 2; /* "path: cannot open ...": the report says the path itself */
        bool has = strncmp(err.msg, path, strlen(path)) == 0;
        ConfigSource none = {.path = path, .order = l->n_source++};
        config_report(&l->report, &none, (ConfigPlace){0}, "%s", has ? err.msg + lead : err.msg);
        str_release(&text);
        return;
    }
    ConfigSource src = {.path = path, .text = str_get(&text), .n = text.n, .order = l->n_source++};
    ConfigEntry *e;
    int n;
    config_yaml_read(&e, &n, &l->heap, &src, &l->report);
    report_duplicates(l, &src, e, n);
    for (int i = 0; i < n; i++) {
        if (is_extends(&e[i])) load_extended(l, &src, &e[i], depth);
    }
    for (int i = 0; i < n; i++) {
        if (is_extends(&e[i])) continue;
        if (e[i].key[0] == 0)
            config_report(&l->report, &src, e[i].at, "expected 'key: value', found a lone value");
        else
            apply_entry(l, &src, &e[i]);
    }
    str_release(&text);
}

/* A value outside a file: texts as they are, but [lists] and "quoted" ones are read as YAML. */
static void apply_text(Loader *l, const char *label, const char *name, const char *value) {
    ConfigSource src = {.path = label, .order = l->n_source++};
    ConfigEntry one = {.key = name, .value = {.s = value}};
    const CfgKey *k = config_find(l->keys, name);
    if (strchr("[\"'", value[0]) && value[0]) {
        ConfigSource text = {.path = label, .text = value, .n = strlen(value), .order = src.order};
        ConfigEntry *e;
        int n, before = l->report.n_error;
        config_yaml_read(&e, &n, &l->heap, &text, &l->report);
        if (l->report.n_error > before) return;
        if (n == 1 && e[0].key[0] == 0) {
            one = e[0];
            one.key = name;
        }
    } else if (k && k->type == CFG_LIST) {
        list_split(field(l, k), value);
        note_origin(l, k, &src, 0);
        return;
    }
    apply_entry(l, &src, &one);
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* DIKAST_SET_rl__lr=3e-6, in the order of the names so that reports do not depend on the shell. */
static void load_environment(Loader *l) {
    static const char lead[] = "DIKAST_SET_";
    int n = 0;
    for (char **v = environ; v && *v; v++) n += strncmp(*v, lead, sizeof lead - 1) == 0;
    const char **var = heap_alloc(&l->heap, (size_t)(n + 1) * sizeof *var);
    n = 0;
    for (char **v = environ; v && *v; v++) {
        if (strncmp(*v, lead, sizeof lead - 1) == 0) var[n++] = *v;
    }
    qsort(var, (size_t)n, sizeof *var, by_text);
    for (int i = 0; i < n; i++) {
        size_t len = strcspn(var[i], "=");
        char *name = heap_strn(&l->heap, var[i] + sizeof lead - 1, len - (sizeof lead - 1));
        char *to = name;
        for (char *from = name; *from;) {
            bool dot = from[0] == '_' && from[1] == '_';
            *to++ = dot ? '.' : *from;
            from += dot ? 2 : 1;
        }
        *to = 0;
        apply_text(l, heap_printf(&l->heap, "environment %.*s", (int)len, var[i]), name,
                   var[i][len] ? var[i] + len + 1 : "");
    }
}

static void apply_override(Loader *l, const char *set) {
    char *label = heap_printf(&l->heap, "override '%s'", set);
    ConfigSource src = {.path = label, .order = l->n_source++};
    if (set[0] == '~') {
        const CfgKey *k = config_find(l->keys, set + 1);
        if (k) {
            set_default(l, k);
            note_origin(l, k, &src, 0);
        } else
            config_unknown_key(&l->report, l->keys, &src, (ConfigPlace){0}, set + 1);
        return;
    }
    const char *equals = strchr(set, '=');
    if (!equals) {
        config_report(&l->report, &src, (ConfigPlace){0}, "expected key=value or ~key");
        return;
    }
    apply_text(l, label, heap_strn(&l->heap, set, (size_t)(equals - set)), equals + 1);
}

bool config_load(void *cfg, const CfgKey *key, int n_key, const char *path, const char *const *set, int n_set,
                 Str *report, Error *err) {
    return config_load_origins(cfg, key, n_key, path, set, n_set, NULL, report, err);
}

bool config_load_origins(void *cfg, const CfgKey *key, int n_key, const char *path, const char *const *set, int n_set,
                         Str *origin, Str *report, Error *err) {
    str_clear(report);
    Loader l = {.cfg = cfg, .keys = {key, n_key}, .origin = origin};
    for (int i = 0; i < n_key; i++) set_default(&l, &key[i]);
    if (path) load_file(&l, path, 0);
    load_environment(&l);
    for (int i = 0; i < n_set; i++) apply_override(&l, set[i]);
    int n = l.report.n_error;
    heap_release(&l.heap);
    config_report_print(&l.report, report);
    if (n == 0) return true;
    config_release(cfg, key, n_key);
    return error_set(err, ERR_CONFIG, "%d error%s in the configuration", n, n == 1 ? "" : "s");
}

void config_release(void *cfg, const CfgKey *key, int n_key) {
    for (int i = 0; i < n_key; i++) {
        void *f = (char *)cfg + key[i].offset;
        if (key[i].type == CFG_STR) {
            free(*(char **)f);
            *(char **)f = NULL;
        } else if (key[i].type == CFG_LIST) {
            list_release(f);
        }
    }
}
