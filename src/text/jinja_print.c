/* jinja_print.c — values as text: str() and repr() of Python, json.dumps. */
#include "text/jinja_int.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- repr ---- */

/* Single quotes, unless the text holds some and no double ones. */
static void put_quoted(Str *out, const JStr *s) {
    bool single = memchr(s->s, '\'', s->n) != NULL, twice = memchr(s->s, '"', s->n) != NULL;
    char quote = single && !twice ? '"' : '\'';
    size_t len;
    str_putc(out, quote);
    for (size_t i = 0; i < s->n; i += len) {
        uint32_t c = j_char(s->s + i, s->n - i, &len);
        if (c == (uint32_t)quote || c == '\\')
            str_printf(out, "\\%c", (char)c);
        else if (c == '\n' || c == '\r' || c == '\t')
            str_put(out, c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t");
        else if (j_is_printable(c))
            str_putn(out, s->s + i, len);
        else
            str_printf(out, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
    }
    str_putc(out, quote);
}

static void put_items(Jx *x, Str *out, const JList *l, const char *open, const char *close) {
    str_put(out, open);
    for (size_t i = 0; i < l->n && !x->failed; i++) {
        if (i > 0) str_put(out, ", ");
        jx_put_repr(x, out, l->item[i]);
    }
    str_put(out, close);
}

static void put_entries(Jx *x, Str *out, const JDict *d) {
    str_putc(out, '{');
    for (size_t i = 0; i < d->n && !x->failed; i++) {
        if (i > 0) str_put(out, ", ");
        jx_put_repr(x, out, d->key[i]);
        str_put(out, ": ");
        jx_put_repr(x, out, d->value[i]);
    }
    str_putc(out, '}');
}

static void put_view(Jx *x, Str *out, JVal v) {
    JList *l = jx_collect(x, v);
    str_put(out, j_type(v));
    put_items(x, out, l, "([", "])");
}

static void put_range(Str *out, const JRange *r) {
    str_printf(out, "range(%lld, %lld", (long long)r->start, (long long)r->stop);
    if (r->step != 1) str_printf(out, ", %lld", (long long)r->step);
    str_putc(out, ')');
}

static void put_compound(Jx *x, Str *out, JVal v) {
    if (!jx_enter(x)) return;
    switch (v.kind) {
    case J_LIST:
        put_items(x, out, v.u.list, "[", "]");
        break;
    case J_TUPLE:
        put_items(x, out, v.u.list, "(", v.u.list->n == 1 ? ",)" : ")");
        break;
    case J_DICT:
        put_entries(x, out, v.u.dict);
        break;
    case J_NAMESPACE:
        str_put(out, "<Namespace ");
        put_entries(x, out, v.u.dict);
        str_putc(out, '>');
        break;
    case J_SLICE:
        str_put(out, "slice(");
        for (int i = 0; i < 3; i++) {
            jx_put_repr(x, out, v.u.slice[i]);
            str_put(out, i < 2 ? ", " : ")");
        }
        break;
    default:
        put_view(x, out, v);
    }
    jx_leave(x);
}

static void put_macro(Str *out, const JMacro *m) {
    const JStr *name = j_macro_name(m);
    str_put(out, "<Macro ");
    if (name)
        put_quoted(out, name);
    else
        str_put(out, "anonymous");
    str_putc(out, '>');
}

void jx_put_repr(Jx *x, Str *out, JVal v) {
    char num[32];
    if (out->n > JINJA_MAX_OUTPUT) jx_fail(x, "a text of more than %d bytes", JINJA_MAX_OUTPUT);
    if (!jx_step(x, 1)) return;
    switch (v.kind) {
    case J_MISSING:
    case J_UNDEF:
        str_put(out, "Undefined");
        break;
    case J_NONE:
        str_put(out, "None");
        break;
    case J_BOOL:
        str_put(out, v.u.b ? "True" : "False");
        break;
    case J_INT:
    case J_BIG:
        jx_put_int(x, out, v, 10);
        break;
    case J_FLOAT:
        json_format_num(num, v.u.f);
        str_put(out, num);
        break;
    case J_STR:
        if (v.u.str->markup) str_put(out, "Markup(");
        put_quoted(out, v.u.str);
        if (v.u.str->markup) str_putc(out, ')');
        break;
    case J_RANGE:
        put_range(out, v.u.range);
        break;
    case J_LOOP:
        jx_put_loop(x, out, v.u.loop);
        break;
    case J_MACRO:
        put_macro(out, v.u.macro);
        break;
    case J_METHOD:
        str_printf(out, "<built-in method %s of %s object>", v.u.method->row->name, j_type(v.u.method->self));
        break;
    case J_FUNC:
        str_printf(out, "<function %s>", j_func_name(v.u.func));
        break;
    case J_SELF:
        str_put(out, "<TemplateReference None>");
        break;
    case J_BLOCK:
    case J_ITER: /* Python would show an address */
    case J_CYCLER:
    case J_JOINER:
        str_printf(out, "<%s object>", j_type(v));
        break;
    default:
        put_compound(x, out, v);
    }
}

void jx_put(Jx *x, Str *out, JVal v) {
    if (v.kind == J_STR) {
        if (jx_step(x, (int64_t)(v.u.str->n / 64))) str_putn(out, v.u.str->s, v.u.str->n);
    } else if (v.kind != J_UNDEF)
        jx_put_repr(x, out, v);
}

JVal jx_text(Jx *x, JVal v) {
    if (v.kind == J_STR) return v;
    Str out = {0};
    jx_put(x, &out, v);
    return jx_take(x, &out);
}

/* ---- JSON ---- */

static void put_json_string(Str *out, const JStr *s, bool ascii) {
    size_t len;
    str_putc(out, '"');
    for (size_t i = 0; i < s->n; i += len) {
        uint32_t c = j_char(s->s + i, s->n - i, &len);
        static const char *const named[] = {
            ['\b'] = "\\b", ['\t'] = "\\t", ['\n'] = "\\n", ['\f'] = "\\f", ['\r'] = "\\r"};
        if (c == '"' || c == '\\')
            str_printf(out, "\\%c", (char)c);
        else if (c < (uint32_t)COUNT_OF(named) && named[c])
            str_put(out, named[c]);
        else if (c < 0x20)
            str_printf(out, "\\u%04x", c);
        else if (c < 0x7F || !ascii)
            str_putn(out, s->s + i, len);
        else if (c < 0x10000)
            str_printf(out, "\\u%04x", c);
        else
            str_printf(out, "\\u%04x\\u%04x", 0xD800 + ((c - 0x10000) >> 10), 0xDC00 + (c & 0x3FF));
    }
    str_putc(out, '"');
}

static void json_line(Str *out, const JsonStyle *style, int depth) {
    if (!style->pretty) return;
    str_putc(out, '\n');
    for (int i = 0; i < depth; i++) str_putn(out, style->indent->s, style->indent->n);
}

static void put_json(Jx *x, Str *out, JVal v, const JsonStyle *style, int depth);

static void put_json_number(Jx *x, Str *out, JVal v) {
    char num[32];
    if (v.kind != J_FLOAT)
        jx_put_int(x, out, v, 10);
    else if (isfinite(v.u.f)) {
        json_format_num(num, v.u.f);
        str_put(out, num);
    } else
        str_put(out, isnan(v.u.f) ? "NaN" : v.u.f > 0 ? "Infinity" : "-Infinity");
}

static void put_json_key(Jx *x, Str *out, JVal key, bool ascii) {
    if (key.kind == J_STR) {
        put_json_string(out, key.u.str, ascii);
        return;
    }
    if (key.kind != J_NONE && !j_number(key)) {
        jx_fail(x, "keys must be str, int, float, bool or None, not %s", j_type(key));
        return;
    }
    str_putc(out, '"');
    if (key.kind == J_NONE)
        str_put(out, "null");
    else if (key.kind == J_BOOL)
        str_put(out, key.u.b ? "true" : "false");
    else
        put_json_number(x, out, key);
    str_putc(out, '"');
}

/* The order of keys: as written, or sorted (an insertion sort keeps it simple; maps of templates are small). */
static size_t *key_order(Jx *x, const JDict *d, bool sorted) {
    size_t *order = heap_alloc(&x->heap, (d->n + 1) * sizeof *order);
    for (size_t i = 0; i < d->n; i++) {
        size_t at = i;
        while (sorted && at > 0 && !x->failed && jx_step(x, 1) && jx_order(x, d->key[i], d->key[order[at - 1]]) < 0) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = i;
    }
    return order;
}

static void put_json_dict(Jx *x, Str *out, const JDict *d, const JsonStyle *style, int depth) {
    size_t *order = key_order(x, d, style->sort);
    str_putc(out, '{');
    for (size_t i = 0; i < d->n && !x->failed; i++) {
        if (i > 0) str_putn(out, style->item->s, style->item->n);
        json_line(out, style, depth + 1);
        put_json_key(x, out, d->key[order[i]], style->ascii);
        str_putn(out, style->colon->s, style->colon->n);
        put_json(x, out, d->value[order[i]], style, depth + 1);
    }
    if (d->n > 0) json_line(out, style, depth);
    str_putc(out, '}');
}

static void put_json_list(Jx *x, Str *out, const JList *l, const JsonStyle *style, int depth) {
    str_putc(out, '[');
    for (size_t i = 0; i < l->n && !x->failed; i++) {
        if (i > 0) str_putn(out, style->item->s, style->item->n);
        json_line(out, style, depth + 1);
        put_json(x, out, l->item[i], style, depth + 1);
    }
    if (l->n > 0) json_line(out, style, depth);
    str_putc(out, ']');
}

static void put_json(Jx *x, Str *out, JVal v, const JsonStyle *style, int depth) {
    if (out->n > JINJA_MAX_OUTPUT) jx_fail(x, "a text of more than %d bytes", JINJA_MAX_OUTPUT);
    if (!jx_step(x, 1 + depth) || !jx_enter(x)) return;
    switch (v.kind) {
    case J_NONE:
        str_put(out, "null");
        break;
    case J_BOOL:
        str_put(out, v.u.b ? "true" : "false");
        break;
    case J_INT:
    case J_BIG:
    case J_FLOAT:
        put_json_number(x, out, v);
        break;
    case J_STR:
        jx_step(x, (int64_t)(v.u.str->n / 64));
        put_json_string(out, v.u.str, style->ascii);
        break;
    case J_LIST:
    case J_TUPLE:
        put_json_list(x, out, v.u.list, style, depth);
        break;
    case J_DICT:
        put_json_dict(x, out, v.u.dict, style, depth);
        break;
    default:
        jx_fail(x, "Object of type %s is not JSON serializable", j_type(v));
    }
    jx_leave(x);
}

void jx_put_json(Jx *x, Str *out, JVal v, const JsonStyle *style) { put_json(x, out, v, style, 0); }

/* ---- HTML ---- */

void jx_put_escaped(Str *out, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        switch (s[i]) {
        case '&':
            str_put(out, "&amp;");
            break;
        case '<':
            str_put(out, "&lt;");
            break;
        case '>':
            str_put(out, "&gt;");
            break;
        case '\'':
            str_put(out, "&#39;");
            break;
        case '"':
            str_put(out, "&#34;");
            break;
        default:
            str_putc(out, s[i]);
        }
    }
}

JVal jx_escape(Jx *x, JVal v) {
    if (v.kind == J_STR && v.u.str->markup) return v;
    JVal text = jx_text(x, v);
    Str out = {0};
    jx_put_escaped(&out, text.u.str->s, text.u.str->n);
    return jx_markup(x, jx_take(x, &out), true);
}
