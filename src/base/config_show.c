/* base/config_show.c — values as text: for the dump, for help and for hashes. */
#include "base/config.h"

#include "base/json.h"

#include <stdio.h>
#include <string.h>

static void put_float(Str *out, double v) {
    char buf[32];
    json_format_num(buf, v);
    str_put(out, buf);
}

static void put_enum(Str *out, const char *def, int index) {
    for (; index > 0 && strchr(def, '|'); index--) def = strchr(def, '|') + 1;
    str_putn(out, def, strcspn(def, "|"));
}

/* Double-quoted YAML is a superset of a JSON string; words that need no quotes stay bare, so that dumps read well. */
static void put_yaml(Str *out, const char *s) {
    static const char bare[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./";
    bool letter = (s[0] >= 'a' && s[0] <= 'z') || (s[0] >= 'A' && s[0] <= 'Z') || s[0] == '/' || s[0] == '.';
    if (letter && strspn(s, bare) == strlen(s) && strcmp(s, "null") != 0 && strcmp(s, "...") != 0) {
        str_put(out, s);
        return;
    }
    JsonOut j;
    json_out_init(&j, out, 0);
    json_out_str(&j, NULL, s);
}

static void put_value(Str *out, const void *cfg, const CfgKey *k, bool yaml) {
    const void *f = (const char *)cfg + k->offset;
    switch (k->type) {
    case CFG_BOOL:
        str_put(out, *(const bool *)f ? "true" : "false");
        break;
    case CFG_INT:
        str_printf(out, "%lld", (long long)*(const int64_t *)f);
        break;
    case CFG_FLOAT:
        put_float(out, *(const double *)f);
        break;
    case CFG_ENUM:
        put_enum(out, k->def, *(const int *)f);
        break;
    case CFG_STR: {
        const char *s = *(char *const *)f;
        if (yaml)
            put_yaml(out, s ? s : "");
        else
            str_put(out, s ? s : "");
        break;
    }
    case CFG_LIST: {
        const CfgList *list = f;
        str_putc(out, '[');
        for (int i = 0; i < list->n; i++) {
            if (i > 0) str_put(out, ", ");
            put_yaml(out, list->item[i]);
        }
        str_putc(out, ']');
        break;
    }
    }
}

void config_value(Str *out, const void *cfg, const CfgKey *key) { put_value(out, cfg, key, false); }

void config_hash_into(Hasher *h, const void *cfg, const CfgKey *key, int n_key, const char *const *prefix,
                      int n_prefix) {
    Str v = {0};
    for (int i = 0; i < n_key; i++) {
        bool chosen = false;
        for (int p = 0; p < n_prefix && !chosen; p++) chosen = strncmp(key[i].name, prefix[p], strlen(prefix[p])) == 0;
        if (!chosen || key[i].scope != CFG_RESULT) continue;
        str_clear(&v);
        put_value(&v, cfg, &key[i], true);
        hasher_add_str(h, key[i].name);
        hasher_add_str(h, str_get(&v));
    }
    str_release(&v);
}

static size_t section_len(const char *name) { return strchr(name, '.') ? strcspn(name, ".") : 0; }

static bool same_section(const char *a, const char *b) {
    size_t n = section_len(a);
    return n == section_len(b) && strncmp(a, b, n) == 0;
}

static void end_line(Str *out, const Str *origin) {
    if (origin && origin->n) str_printf(out, "  # %s", origin->s);
    str_putc(out, '\n');
}

void config_dump(Str *out, const void *cfg, const CfgKey *key, int n_key) {
    config_dump_origins(out, cfg, key, n_key, NULL);
}

/* Keys without a section stand first: YAML has no way back to the top. */
void config_dump_origins(Str *out, const void *cfg, const CfgKey *key, int n_key, const Str *origin) {
    for (int i = 0; i < n_key; i++) {
        if (section_len(key[i].name)) continue;
        str_printf(out, "%s: ", key[i].name);
        put_value(out, cfg, &key[i], true);
        end_line(out, origin ? &origin[i] : NULL);
    }
    for (int i = 0; i < n_key; i++) {
        bool first = section_len(key[i].name) > 0;
        for (int j = 0; j < i && first; j++) first = !same_section(key[i].name, key[j].name);
        if (!first) continue;
        str_printf(out, "%.*s:\n", (int)section_len(key[i].name), key[i].name);
        for (int j = i; j < n_key; j++) {
            if (!same_section(key[i].name, key[j].name)) continue;
            str_printf(out, "  %s: ", key[j].name + section_len(key[j].name) + 1);
            put_value(out, cfg, &key[j], true);
            end_line(out, origin ? &origin[j] : NULL);
        }
    }
}

static void put_kind(Str *out, const CfgKey *k) {
    bool low = k->min > -1e300, high = k->max < 1e300, bounded = k->min != k->max;
    switch (k->type) {
    case CFG_BOOL:
        str_put(out, "true|false");
        break;
    case CFG_INT:
        str_put(out, "integer");
        break;
    case CFG_FLOAT:
        str_put(out, "number");
        break;
    case CFG_STR:
        str_put(out, "text");
        break;
    case CFG_ENUM:
        str_put(out, k->def);
        break;
    case CFG_LIST:
        str_put(out, "list");
        break;
    }
    if ((k->type != CFG_INT && k->type != CFG_FLOAT) || !bounded) return;
    if (low && high)
        str_printf(out, " %.15g..%.15g", k->min, k->max);
    else if (low)
        str_printf(out, " >= %.15g", k->min);
    else if (high)
        str_printf(out, " <= %.15g", k->max);
}

/* rl.lr               = 1e-06   number 0..1
 *     peak learning rate, AdamW */
void config_help(Str *out, const CfgKey *key, int n_key, const char *prefix) {
    for (int i = 0; i < n_key; i++) {
        const CfgKey *k = &key[i];
        if (prefix && strncmp(k->name, prefix, strlen(prefix)) != 0) continue;
        int n = k->type == CFG_ENUM ? (int)strcspn(k->def, "|") : (int)strlen(k->def);
        const char *def = n > 0 ? k->def : k->type == CFG_LIST ? "[]" : "\"\"";
        str_printf(out, "%-26s = %-12.*s ", k->name, n > 0 ? n : 2, def);
        put_kind(out, k);
        str_printf(out, "%s\n    %s\n", k->scope == CFG_RUNTIME ? "  (does not change results)" : "", k->help);
    }
}
