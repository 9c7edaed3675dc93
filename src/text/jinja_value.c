/* jinja_value.c — values: text, lists; equality, order and truth as Python has them. */
#include "text/jinja_int.h"

#include <math.h>
#include <string.h>

/* ---- text ---- */

uint32_t j_char(const char *s, size_t n, size_t *len) {
    const unsigned char *p = (const unsigned char *)s;
    uint32_t c = p[0];
    size_t more = c < 0xC0 ? 0 : c < 0xE0 ? 1 : c < 0xF0 ? 2 : 3;
    *len = 1;
    if (more == 0 || more >= n) return c;
    c &= 0x3Fu >> more;
    for (size_t i = 1; i <= more; i++) {
        if ((p[i] & 0xC0) != 0x80) return p[0];
        c = c << 6 | (p[i] & 0x3Fu);
    }
    *len = more + 1;
    return c;
}

size_t j_put_char(char out[4], uint32_t c) {
    size_t more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const unsigned char lead[] = {0, 0xC0, 0xE0, 0xF0};
    for (size_t i = more; i > 0; i--) {
        out[i] = (char)(0x80 | (c & 0x3F));
        c >>= 6;
    }
    out[0] = (char)(lead[more] | c);
    return more + 1;
}

void j_str_char(Str *out, uint32_t c) {
    char buf[4];
    str_putn(out, buf, j_put_char(buf, c));
}

size_t j_count(const char *s, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)s[i] & 0xC0) != 0x80;
    return count;
}

size_t j_offset(const JStr *s, size_t at) {
    if (s->n == s->n_char) return at;
    size_t i = 0;
    while (at > 0) {
        i++;
        while (i < s->n && ((unsigned char)s->s[i] & 0xC0) == 0x80) i++;
        at--;
    }
    return i;
}

const JStr *jx_str_own(Jx *x, const char *s, size_t n) {
    JStr *str = heap_alloc(&x->heap, sizeof *str);
    *str = (JStr){s, n, j_count(s, n), false};
    jx_step(x, (int64_t)(n / 1024));
    return str;
}

JVal jx_str(Jx *x, const char *s, size_t n) {
    if (!jx_step(x, (int64_t)(n / 64))) n = 0;
    return j_str(jx_str_own(x, heap_strn(&x->heap, n ? s : "", n), n));
}

JVal jx_strz(Jx *x, const char *s) { return jx_str(x, s, strlen(s)); }

JVal jx_take(Jx *x, Str *s) {
    JVal v = jx_str(x, str_get(s), s->n);
    str_release(s);
    return v;
}

JVal jx_markup(Jx *x, JVal str, bool markup) {
    if (str.kind != J_STR || str.u.str->markup == markup) return str;
    JStr *s = heap_alloc(&x->heap, sizeof *s);
    *s = *str.u.str;
    s->markup = markup;
    return j_str(s);
}

/* ---- undefined ---- */

JVal jx_undef(Jx *x, const JStr *name, JKind of) {
    JUndef *u = heap_alloc(&x->heap, sizeof *u);
    *u = (JUndef){.name = name, .of = of};
    JVal v = {J_UNDEF, {0}};
    v.u.undef = u;
    return v;
}

JVal jx_undef_why(Jx *x, const char *why) {
    JVal v = jx_undef(x, NULL, J_MISSING);
    ((JUndef *)v.u.undef)->why = why;
    return v;
}

JVal jx_undef_error(Jx *x, JVal undef) {
    const JUndef *u = undef.u.undef;
    if (u->why) return jx_fail(x, "%s", u->why);
    if (!u->name) return jx_fail(x, "a value is undefined");
    int n = u->name->n < 80 ? (int)u->name->n : 80;
    if (u->of == J_MISSING) return jx_fail(x, "'%.*s' is undefined", n, u->name->s);
    JVal of = {u->of, {0}};
    return jx_fail(x, "'%s' has no %s '%.*s'", j_type(of), u->element ? "element" : "attribute", n, u->name->s);
}

/* ---- lists ---- */

JList *jx_list(Jx *x, size_t cap) {
    JList *l = heap_alloc(&x->heap, sizeof *l);
    l->cap = cap;
    l->item = cap ? heap_alloc(&x->heap, cap * sizeof *l->item) : NULL;
    return l;
}

void jx_add(Jx *x, JList *l, JVal v) {
    if (!jx_step(x, 1)) return;
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 4;
        JVal *item = heap_alloc(&x->heap, cap * sizeof *item);
        if (l->n) memcpy(item, l->item, l->n * sizeof *item);
        l->item = item;
        l->cap = cap;
    }
    l->item[l->n++] = v;
}

/* ---- truth, equality, order ---- */

bool j_has_len(JVal v) {
    switch (v.kind) {
    case J_UNDEF:
    case J_STR:
    case J_LIST:
    case J_TUPLE:
    case J_DICT:
    case J_VIEW:
    case J_RANGE:
    case J_LOOP:
        return true;
    default:
        return false;
    }
}

bool jx_len(Jx *x, JVal v, int64_t *n) {
    *n = 0;
    switch (v.kind) {
    case J_UNDEF:
        return true;
    case J_STR:
        *n = (int64_t)v.u.str->n_char;
        return true;
    case J_LIST:
    case J_TUPLE:
        *n = (int64_t)v.u.list->n;
        return true;
    case J_DICT:
        *n = (int64_t)v.u.dict->n;
        return true;
    case J_VIEW:
        *n = (int64_t)v.u.view->dict->n;
        return true;
    case J_RANGE:
        *n = v.u.range->n;
        return true;
    case J_LOOP:
        return jx_loop_len(x, v.u.loop, n);
    default:
        jx_fail(x, "object of type '%s' has no len()", j_type(v));
        return false;
    }
}

bool j_truth(JVal v) {
    switch (v.kind) {
    case J_MISSING:
    case J_UNDEF:
    case J_NONE:
        return false;
    case J_BOOL:
        return v.u.b;
    case J_INT:
        return v.u.i != 0;
    case J_FLOAT:
        return v.u.f != 0;
    case J_STR:
        return v.u.str->n > 0;
    case J_LIST:
    case J_TUPLE:
        return v.u.list->n > 0;
    case J_DICT:
        return v.u.dict->n > 0;
    case J_VIEW:
        return v.u.view->dict->n > 0;
    case J_RANGE:
        return v.u.range->n > 0;
    default:
        return true;
    }
}

const char *j_type(JVal v) {
    static const char *const view[] = {"dict_keys", "dict_values", "dict_items"};
    static const char *const name[] = {
        [J_MISSING] = "missing",
        [J_UNDEF] = "Undefined",
        [J_NONE] = "NoneType",
        [J_BOOL] = "bool",
        [J_INT] = "int",
        [J_BIG] = "int",
        [J_FLOAT] = "float",
        [J_STR] = "str",
        [J_LIST] = "list",
        [J_TUPLE] = "tuple",
        [J_DICT] = "dict",
        [J_VIEW] = "dict_items",
        [J_RANGE] = "range",
        [J_ITER] = "generator",
        [J_SLICE] = "slice",
        [J_LOOP] = "LoopContext",
        [J_MACRO] = "Macro",
        [J_NAMESPACE] = "TemplateNamespace",
        [J_METHOD] = "method",
        [J_FUNC] = "function",
        [J_CYCLER] = "Cycler",
        [J_JOINER] = "Joiner",
        [J_SELF] = "TemplateReference",
        [J_BLOCK] = "BlockReference",
    };
    if (v.kind == J_VIEW && v.u.view) return view[v.u.view->kind];
    if (v.kind == J_ITER && v.u.iter) return j_iter_type(v.u.iter);
    if (v.kind == J_STR && v.u.str && v.u.str->markup) return "Markup";
    return name[v.kind];
}

static bool equal_lists(Jx *x, const JList *a, const JList *b) {
    if (a->n != b->n || !jx_enter(x)) return false;
    bool equal = true;
    for (size_t i = 0; equal && i < a->n; i++) equal = jx_equal(x, a->item[i], b->item[i]);
    jx_leave(x);
    return equal;
}

static bool equal_dicts(Jx *x, const JDict *a, const JDict *b) {
    if (a->n != b->n || !jx_enter(x)) return false;
    bool equal = true;
    for (size_t i = 0; equal && i < a->n; i++) {
        JVal *other = jx_dict_get(x, b, a->key[i]);
        equal = other && jx_equal(x, a->value[i], *other);
    }
    jx_leave(x);
    return equal;
}

static bool equal_views(Jx *x, const JView *a, const JView *b) {
    if (a->kind == VIEW_VALUES || b->kind != a->kind) return a == b;
    if (a->kind == VIEW_ITEMS) return equal_dicts(x, a->dict, b->dict);
    bool equal = a->dict->n == b->dict->n;
    for (size_t i = 0; equal && i < a->dict->n; i++) equal = jx_dict_get(x, b->dict, a->dict->key[i]) != NULL;
    return equal;
}

static bool equal_ranges(const JRange *a, const JRange *b) {
    if (a->n != b->n) return false;
    return a->n == 0 || (a->start == b->start && (a->n == 1 || a->step == b->step));
}

bool j_same(JVal a, JVal b) {
    if (a.kind != b.kind) return false;
    switch (a.kind) {
    case J_NONE:
    case J_MISSING:
        return true;
    case J_BOOL:
        return a.u.b == b.u.b;
    case J_INT:
    case J_FUNC:
        return a.u.i == b.u.i;
    case J_STR:
        return a.u.str->n == b.u.str->n && memcmp(a.u.str->s, b.u.str->s, a.u.str->n) == 0;
    case J_FLOAT:
        return a.u.f == b.u.f;
    case J_BIG:
        return big_order(a, b) == 0;
    case J_TUPLE:
        return a.u.list == b.u.list || (a.u.list->n == 0 && b.u.list->n == 0);
    default:
        return a.u.list == b.u.list; /* any pointer */
    }
}

bool jx_equal(Jx *x, JVal a, JVal b) {
    if (a.kind == J_STR && b.kind == J_STR)
        return a.u.str->n == b.u.str->n && memcmp(a.u.str->s, b.u.str->s, a.u.str->n) == 0;
    if (j_number(a) && j_number(b)) return j_number_order(a, b) == 0;
    if (a.kind != b.kind || !jx_step(x, 1)) return false;
    switch (a.kind) {
    case J_UNDEF:
        return true;
    case J_LIST:
    case J_TUPLE:
        return a.u.list == b.u.list || equal_lists(x, a.u.list, b.u.list);
    case J_DICT:
        return a.u.dict == b.u.dict || equal_dicts(x, a.u.dict, b.u.dict);
    case J_VIEW:
        return equal_views(x, a.u.view, b.u.view);
    case J_RANGE:
        return equal_ranges(a.u.range, b.u.range);
    case J_METHOD:
        return a.u.method->row == b.u.method->row && j_same(a.u.method->self, b.u.method->self);
    default:
        return j_same(a, b);
    }
}

static int order_text(const JStr *a, const JStr *b) {
    size_t n = a->n < b->n ? a->n : b->n;
    int o = n ? memcmp(a->s, b->s, n) : 0; /* the order of UTF-8 is that of code points */
    return o ? (o > 0) - (o < 0) : (a->n > b->n) - (a->n < b->n);
}

int jx_order(Jx *x, JVal a, JVal b) {
    if (j_number(a) && j_number(b)) return j_number_order(a, b);
    if (a.kind == J_STR && b.kind == J_STR) return order_text(a.u.str, b.u.str);
    if (a.kind == b.kind && j_is_seq(a)) {
        if (!jx_enter(x)) return 0;
        const JList *p = a.u.list, *q = b.u.list;
        size_t i = 0;
        while (i < p->n && i < q->n && !x->failed && jx_equal(x, p->item[i], q->item[i])) i++;
        int o = i < p->n && i < q->n ? jx_order(x, p->item[i], q->item[i]) : (int)(p->n > q->n) - (int)(p->n < q->n);
        jx_leave(x);
        return o;
    }
    if (a.kind == J_UNDEF || b.kind == J_UNDEF)
        jx_undef_error(x, a.kind == J_UNDEF ? a : b);
    else
        jx_fail(x, "'<' not supported between instances of '%s' and '%s'", j_type(a), j_type(b));
    return 0;
}

/* ---- members ---- */

static bool view_contains(Jx *x, const JView *w, JVal v) {
    if (w->kind == VIEW_KEYS) return jx_dict_get(x, w->dict, v) != NULL;
    if (w->kind == VIEW_ITEMS) {
        if (v.kind != J_TUPLE || v.u.list->n != 2) return false;
        JVal *value = jx_dict_get(x, w->dict, v.u.list->item[0]);
        return value && jx_equal(x, *value, v.u.list->item[1]);
    }
    for (size_t i = 0; i < w->dict->n; i++)
        if (jx_equal(x, w->dict->value[i], v)) return true;
    return false;
}

static bool range_contains(Jx *x, const JRange *r, JVal v) {
    double f;
    (void)x;
    if (!j_number(v) || !j_float_of(v, &f) || f != floor(f)) return false;
    if (r->n == 0 || fabs(f) > 1e15) return false;
    int64_t i = (int64_t)f - r->start;
    return i % r->step == 0 && i / r->step >= 0 && i / r->step < r->n;
}

bool jx_contains(Jx *x, JVal seq, JVal v) {
    switch (seq.kind) {
    case J_STR:
        if (v.kind != J_STR) {
            jx_fail(x, "'in <string>' requires string as left operand, not %s", j_type(v));
            return false;
        }
        jx_step(x, (int64_t)(seq.u.str->n / 1024));
        return v.u.str->n == 0 || memmem(seq.u.str->s, seq.u.str->n, v.u.str->s, v.u.str->n) != NULL;
    case J_DICT:
        return jx_dict_get(x, seq.u.dict, v) != NULL;
    case J_VIEW:
        return view_contains(x, seq.u.view, v);
    case J_RANGE:
        return range_contains(x, seq.u.range, v);
    default:
        break;
    }
    if (!j_iterable(seq)) {
        jx_fail(x, "argument of type '%s' is not iterable", j_type(seq));
        return false;
    }
    JIter *it = jx_iter(x, seq);
    JVal item;
    while (jx_next(x, it, &item))
        if (jx_equal(x, item, v)) return true;
    return false;
}

/* ---- slices ---- */

static bool slice_bound(Jx *x, JVal v, int64_t *out) {
    if (v.kind == J_BIG) {
        *out = v.u.big->negative ? INT64_MIN / 4 : INT64_MAX / 4;
        return true;
    }
    if (!j_integer(v)) {
        jx_fail(x, "slice indices must be integers or None or have an __index__ method");
        return false;
    }
    int64_t i = v.kind == J_BOOL ? v.u.b : v.u.i;
    *out = i > INT64_MAX / 4 ? INT64_MAX / 4 : i < INT64_MIN / 4 ? INT64_MIN / 4 : i;
    return true;
}

static int64_t slice_clip(int64_t at, int64_t n, bool backwards) {
    if (at < 0) at += n;
    int64_t low = backwards ? -1 : 0, high = backwards ? n - 1 : n;
    return at < low ? low : at > high ? high : at;
}

/* Which of n elements a slice takes: count of them, from first, step apart. */
static bool slice_range(Jx *x, const JVal part[3], int64_t n, JRange *r) {
    int64_t step = 1, start, stop;
    if (part[2].kind != J_NONE && !slice_bound(x, part[2], &step)) return false;
    if (step == 0) {
        jx_fail(x, "slice step cannot be zero");
        return false;
    }
    bool backwards = step < 0;
    if (part[0].kind == J_NONE)
        start = backwards ? n - 1 : 0;
    else if (slice_bound(x, part[0], &start))
        start = slice_clip(start, n, backwards);
    else
        return false;
    if (part[1].kind == J_NONE)
        stop = backwards ? -1 : n;
    else if (slice_bound(x, part[1], &stop))
        stop = slice_clip(stop, n, backwards);
    else
        return false;
    int64_t way = backwards ? start - stop : stop - start, size = backwards ? -step : step;
    *r = (JRange){start, stop, step, way > 0 ? (way - 1) / size + 1 : 0};
    return true;
}

static JVal slice_text(Jx *x, const JStr *s, const JRange *r) {
    if (r->step == 1 || r->n == 0) {
        size_t from = r->n ? j_offset(s, (size_t)r->start) : 0;
        const char *end = s->s + from;
        JStr rest = {end, s->n - from, s->n_char - (r->n ? (size_t)r->start : 0), false};
        return jx_markup(x, j_str(jx_str_own(x, end, r->n ? j_offset(&rest, (size_t)r->n) : 0)), s->markup);
    }
    Str out = {0};
    size_t *at = s->n == s->n_char ? NULL : heap_alloc(&x->heap, (s->n_char + 1) * sizeof *at);
    if (at) {
        size_t k = 0;
        for (size_t i = 0; i < s->n; i++)
            if (((unsigned char)s->s[i] & 0xC0) != 0x80) at[k++] = i;
        at[k] = s->n;
    }
    for (int64_t i = 0, c = r->start; i < r->n; i++, c += r->step) {
        size_t from = at ? at[c] : (size_t)c, to = at ? at[c + 1] : (size_t)c + 1;
        str_putn(&out, s->s + from, to - from);
    }
    return jx_markup(x, jx_take(x, &out), s->markup);
}

JVal jx_slice(Jx *x, JVal v, const JVal part[3]) {
    JRange r;
    if (v.kind == J_UNDEF) return jx_undef_error(x, v);
    if (v.kind == J_DICT) return jx_fail(x, "unhashable type: 'slice'");
    if (v.kind != J_STR && !j_is_seq(v) && v.kind != J_RANGE)
        return jx_fail(x, "'%s' object is not subscriptable", j_type(v));
    int64_t n;
    if (!jx_len(x, v, &n) || !slice_range(x, part, n, &r)) return j_none();
    if (v.kind == J_STR) return slice_text(x, v.u.str, &r);
    if (v.kind == J_RANGE) {
        JRange *of = heap_alloc(&x->heap, sizeof *of);
        const JRange *s = v.u.range;
        *of = (JRange){s->start + r.start * s->step, s->start + r.stop * s->step, s->step * r.step, r.n};
        v.u.range = of;
        return v;
    }
    JList *l = jx_list(x, (size_t)r.n);
    for (int64_t i = 0, at = r.start; i < r.n; i++, at += r.step) jx_add(x, l, v.u.list->item[at]);
    return v.kind == J_LIST ? j_list(l) : j_tuple(l);
}

/* ---- data ---- */

static JVal from_json(Jx *x, const Json *j, int depth) {
    size_t n;
    if (depth > MAX_NEST) return jx_fail(x, "data nested deeper than %d", MAX_NEST);
    switch (json_kind(j)) {
    case JSON_OBJ: {
        JDict *d = jx_dict(x);
        for (int i = 0; i < json_len(j) && !x->failed; i++) {
            const Json *value;
            const char *key = json_key_at(j, i, &value);
            jx_dict_set(x, d, jx_strz(x, key), from_json(x, value, depth + 1));
        }
        return j_dict(d);
    }
    case JSON_ARR: {
        JList *l = jx_list(x, (size_t)json_len(j));
        for (int i = 0; i < json_len(j) && !x->failed; i++) jx_add(x, l, from_json(x, json_at(j, i), depth + 1));
        return j_list(l);
    }
    case JSON_STR: {
        const char *s = json_str(j, &n);
        return j_str(jx_str_own(x, s, n)); /* the data outlives the rendering */
    }
    case JSON_INT:
        return j_int(json_int(j, 0));
    case JSON_REAL:
        return j_float(json_num(j, 0));
    case JSON_YES:
        return j_bool(true);
    case JSON_NO:
        return j_bool(false);
    case JSON_NIL:
        break;
    }
    return j_none();
}

JVal jx_from_json(Jx *x, const Json *j) { return j ? from_json(x, j, 0) : j_none(); }
