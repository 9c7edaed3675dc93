/* base/json_out.c — the emitter. */
#include "base/json_int.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void json_out_init(JsonOut *j, Str *out, int indent) { *j = (JsonOut){.out = out, .indent = indent}; }

static void new_line(JsonOut *j) {
    str_putc(j->out, '\n');
    for (int i = 0; i < j->depth * j->indent; i++) str_putc(j->out, ' ');
}

/* Bytes that are not UTF-8 become U+FFFD: what we write must be readable by every JSON reader, ours included. */
static void put_string(Str *out, const char *s, size_t n) {
    str_putc(out, '"');
    while (n > 0) {
        size_t good = n;
        bool valid = str_utf8_valid(s, n, &good);
        size_t from = 0;
        for (size_t i = 0; i < good; i++) {
            unsigned char c = (unsigned char)s[i];
            if (c >= 0x20 && c != '"' && c != '\\') continue;
            str_putn(out, s + from, i - from);
            from = i + 1;
            switch (c) {
            case '"':
                str_put(out, "\\\"");
                break;
            case '\\':
                str_put(out, "\\\\");
                break;
            case '\b':
                str_put(out, "\\b");
                break;
            case '\f':
                str_put(out, "\\f");
                break;
            case '\n':
                str_put(out, "\\n");
                break;
            case '\r':
                str_put(out, "\\r");
                break;
            case '\t':
                str_put(out, "\\t");
                break;
            default:
                str_printf(out, "\\u%04x", c);
            }
        }
        str_putn(out, s + from, good - from);
        if (valid) break;
        str_put(out, "\xEF\xBF\xBD");
        s += good + 1;
        n -= good + 1;
    }
    str_putc(out, '"');
}

static void put_key(JsonOut *j, const char *key) {
    put_string(j->out, key, strlen(key));
    str_put(j->out, j->indent ? ": " : ":");
}

static void put_num(Str *out, double v) {
    char buf[32];
    json_format_num(buf, v);
    str_put(out, isfinite(v) ? buf : "null");
}

/* Comma, line break, key: everything before a value. */
static void lead(JsonOut *j, const char *key) {
    if (j->depth > 0) {
        if (j->need_comma[j->depth]) str_putc(j->out, ',');
        j->need_comma[j->depth] = true;
        if (j->indent) new_line(j);
    }
    if (key) put_key(j, key);
}

static void open_level(JsonOut *j, const char *key, char c) {
    lead(j, key);
    str_putc(j->out, c);
    j->depth++;
    CHECK(j->depth < COUNT_OF(j->need_comma), "JSON nested deeper than %d", COUNT_OF(j->need_comma) - 1);
    j->need_comma[j->depth] = false;
}

static void close_level(JsonOut *j, char c) {
    CHECK(j->depth > 0, "JSON: end without begin");
    bool any = j->need_comma[j->depth];
    j->depth--;
    if (any && j->indent) new_line(j);
    str_putc(j->out, c);
}

void json_out_obj(JsonOut *j, const char *key) { open_level(j, key, '{'); }
void json_out_obj_end(JsonOut *j) { close_level(j, '}'); }
void json_out_arr(JsonOut *j, const char *key) { open_level(j, key, '['); }
void json_out_arr_end(JsonOut *j) { close_level(j, ']'); }

void json_out_strn(JsonOut *j, const char *key, const char *s, size_t n) {
    lead(j, key);
    put_string(j->out, s, n);
}

static void put_word(JsonOut *j, const char *key, const char *word) {
    lead(j, key);
    str_put(j->out, word);
}

void json_out_str(JsonOut *j, const char *key, const char *s) {
    if (s)
        json_out_strn(j, key, s, strlen(s));
    else
        put_word(j, key, "null");
}

void json_out_num(JsonOut *j, const char *key, double v) {
    lead(j, key);
    put_num(j->out, v);
}

void json_out_int(JsonOut *j, const char *key, int64_t v) {
    lead(j, key);
    str_printf(j->out, "%lld", (long long)v);
}

void json_out_bool(JsonOut *j, const char *key, bool v) { put_word(j, key, v ? "true" : "false"); }

/* Not by way of open_level: a parsed tree may be deeper than what we write ourselves. */
static void put_node(JsonOut *j, const Json *node) {
    switch (node->kind) {
    case JSON_OBJ:
    case JSON_ARR: {
        bool object = node->kind == JSON_OBJ;
        str_putc(j->out, object ? '{' : '[');
        j->depth++;
        for (size_t i = 0; i < node->n; i++) {
            if (i > 0) str_putc(j->out, ',');
            if (j->indent) new_line(j);
            if (object) put_key(j, node->u.members->key[i]);
            put_node(j, object ? &node->u.members->value[i] : &node->u.item[i]);
        }
        j->depth--;
        if (node->n > 0 && j->indent) new_line(j);
        str_putc(j->out, object ? '}' : ']');
        break;
    }
    case JSON_STR:
        put_string(j->out, node->u.s, node->n);
        break;
    case JSON_INT:
        str_printf(j->out, "%lld", (long long)node->u.i);
        break;
    case JSON_REAL:
        put_num(j->out, node->u.r);
        break;
    case JSON_YES:
        str_put(j->out, "true");
        break;
    case JSON_NO:
        str_put(j->out, "false");
        break;
    case JSON_NIL:
        str_put(j->out, "null");
        break;
    }
}

void json_out_node(JsonOut *j, const char *key, const Json *node) {
    lead(j, key);
    if (node)
        put_node(j, node);
    else
        str_put(j->out, "null");
}

/* The fewest digits that read back equal, as %.*e. Any decimal of up to 15 digits survives the way through a normal
 * double, so 15 digits without their trailing zeros are the answer whenever 15 are enough. */
static void shortest_digits(char buf[32], double v) {
    int first = fabs(v) >= DBL_MIN || v == 0 ? 14 : 0;
    for (int p = first; p <= 16; p++) {
        snprintf(buf, 32, "%.*e", p, v);
        if (strtod(buf, NULL) == v) return;
    }
}

void json_format_num(char buf[32], double v) {
    if (!isfinite(v)) {
        snprintf(buf, 32, "%s", isnan(v) ? "nan" : v < 0 ? "-inf" : "inf");
        return;
    }
    char e[32], digit[20];
    shortest_digits(e, v);
    bool negative = e[0] == '-';
    int n = 0;
    const char *c = e + negative;
    for (; *c && *c != 'e'; c++) {
        if (*c != '.') digit[n++] = *c;
    }
    int exponent = atoi(c + 1);
    while (n > 1 && digit[n - 1] == '0') n--;
    digit[n] = 0;
    /* At most sign + 17 digits + point + zeros or exponent: 25 characters. */
    char *o = buf;
    if (negative) *o++ = '-';
    bool scientific = exponent < -4 || exponent >= 16;
    int point = scientific ? 1 : exponent + 1; /* digits in front of the point */
    if (point <= 0) {
        *o++ = '0';
        *o++ = '.';
        for (; point < 0; point++) *o++ = '0';
        point = -1;
    }
    for (int i = 0; i < n || i < point; i++) {
        if (i == point) *o++ = '.';
        *o++ = i < n ? digit[i] : '0';
    }
    if (!scientific && point >= n) {
        *o++ = '.';
        *o++ = '0';
    }
    *o = 0;
    if (scientific) snprintf(o, (size_t)(buf + 32 - o), "e%+03d", exponent);
}
