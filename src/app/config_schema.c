#include "app/config_schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

static void put_range(JsonOut *j, const CfgKey *k) {
    if (k->min == k->max) return;
    if (k->min > -1e300) json_out_num(j, "minimum", k->min);
    if (k->max < 1e300) json_out_num(j, "maximum", k->max);
}

/* 64k and 1e-4 are numbers here and texts to other readers of YAML. */
static void put_number(JsonOut *j, const CfgKey *k) {
    json_out_arr(j, "anyOf");
    json_out_obj(j, NULL);
    json_out_str(j, "type", k->type == CFG_INT ? "integer" : "number");
    put_range(j, k);
    json_out_obj_end(j);
    json_out_obj(j, NULL);
    json_out_str(j, "type", "string");
    json_out_str(j, "pattern",
                 k->type == CFG_INT ? "^[-+]?[0-9][0-9_]*(k|M|G|ki|Mi|Gi)?$"
                                    : "^[-+]?[0-9._]+([eE][-+]?[0-9]+|k|M|G|ki|Mi|Gi)?$");
    json_out_obj_end(j);
    json_out_arr_end(j);
}

static bool next_choice(const char **at, char out[64]) {
    if (!**at) return false;
    size_t n = strcspn(*at, "|");
    snprintf(out, 64, "%.*s", (int)n, *at);
    *at += n + ((*at)[n] == '|');
    return true;
}

/* A word that other readers take for a boolean or a number is that too. */
static void put_choices(JsonOut *j, const CfgKey *k) {
    char word[64], *end;
    json_out_arr(j, "enum");
    for (const char *at = k->def; next_choice(&at, word);) {
        json_out_str(j, NULL, word);
        long long whole = strtoll(word, &end, 10);
        if (!*end) json_out_int(j, NULL, whole);
        if (!strcmp(word, "true") || !strcmp(word, "false")) json_out_bool(j, NULL, word[0] == 't');
    }
    json_out_arr_end(j);
}

static void put_default(JsonOut *j, const CfgKey *k) {
    char first[64];
    const char *at = k->def;
    switch (k->type) {
    case CFG_BOOL:
        json_out_bool(j, "default", k->def[0] == 't');
        break;
    case CFG_INT:
        json_out_int(j, "default", strtoll(k->def, NULL, 10));
        break;
    case CFG_FLOAT:
        json_out_num(j, "default", strtod(k->def, NULL));
        break;
    case CFG_STR:
        json_out_str(j, "default", k->def);
        break;
    case CFG_ENUM:
        if (next_choice(&at, first)) json_out_str(j, "default", first);
        break;
    case CFG_LIST:
        json_out_arr(j, "default");
        for (; *at; at += *at == ',') {
            size_t n = strcspn(at, ",");
            json_out_strn(j, NULL, at, n);
            at += n;
        }
        json_out_arr_end(j);
        break;
    }
}

static void put_key(JsonOut *j, const char *name, const CfgKey *k) {
    json_out_obj(j, name);
    json_out_str(j, "description", k->help);
    switch (k->type) {
    case CFG_BOOL:
        json_out_str(j, "type", "boolean");
        break;
    case CFG_INT:
    case CFG_FLOAT:
        put_number(j, k);
        break;
    case CFG_STR:
        break; /* whatever is written there is a text */
    case CFG_ENUM:
        put_choices(j, k);
        break;
    case CFG_LIST:
        json_out_str(j, "type", "array");
        break;
    }
    put_default(j, k);
    json_out_obj_end(j);
}

/* Keys below prefix ("" or "rl."), nested as a file nests them; a dotted key may stand anywhere and is not looked into.
 */
static void put_section(JsonOut *j, const CfgKey *key, int n_key, const char *prefix) {
    size_t lead = strlen(prefix);
    json_out_str(j, "type", "object");
    json_out_obj(j, "properties");
    if (!lead) {
        json_out_obj(j, "extends");
        json_out_str(j, "description", "a file that is read first");
        json_out_str(j, "type", "string");
        json_out_obj_end(j);
    }
    for (int i = 0; i < n_key; i++) {
        if (strncmp(key[i].name, prefix, lead) != 0) continue;
        const char *rest = key[i].name + lead;
        size_t n = strcspn(rest, ".");
        char part[64], below[128];
        bool seen = false;
        snprintf(part, sizeof part, "%.*s", (int)n, rest);
        snprintf(below, sizeof below, "%s%s.", prefix, part);
        if (!rest[n]) {
            put_key(j, part, &key[i]);
            continue;
        }
        for (int k = 0; k < i && !seen; k++) seen = !strncmp(key[k].name, below, strlen(below));
        if (seen) continue;
        json_out_obj(j, part);
        put_section(j, key, n_key, below);
        json_out_obj_end(j);
    }
    json_out_obj_end(j);
    json_out_obj(j, "patternProperties");
    json_out_obj(j, "[.]");
    json_out_obj_end(j);
    json_out_obj_end(j);
    json_out_bool(j, "additionalProperties", false);
}

void config_schema(Str *out, const CfgKey *key, int n_key) {
    JsonOut j;
    json_out_init(&j, out, 1);
    json_out_obj(&j, NULL);
    json_out_str(&j, "$schema", "https://json-schema.org/draft/2020-12/schema");
    json_out_str(&j, "title", "dikast configuration");
    put_section(&j, key, n_key, "");
    json_out_obj_end(&j);
}
