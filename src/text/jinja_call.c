/* jinja_call.c — attributes, items and calls: all a template can reach from a value. Attributes are the methods of the
 * tables below and in jinja_str.c, entries of maps and namespaces, and what loops and macros tell of themselves;
 * nothing else. */
#include "text/jinja_int.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* ---- arguments ---- */

static int spec_index(const char *spec, const char *name, size_t n) {
    int at = 0;
    for (const char *p = spec; *p; at++) {
        size_t len = strcspn(p, " "), bare = len - (p[len - 1] == '?');
        if (bare == n && memcmp(p, name, n) == 0) return at;
        p += len + (p[len] == ' ');
    }
    return -1;
}

bool jx_bind(Jx *x, const char *name, const char *spec, BindKind kind, const JArgs *a, JVal out[MAX_BOUND]) {
    int n = 0;
    for (const char *p = spec; *p; p += strcspn(p, " "), p += *p == ' ') n++;
    for (int i = 0; i < MAX_BOUND; i++) out[i] = i < n && i < a->n_pos ? a->pos[i] : j_missing();
    if (a->n_pos > n) jx_fail(x, "%s() takes at most %d argument(s) (%d given)", name, n, a->n_pos);
    for (int i = 0; i < a->n_kw && !x->failed; i++) {
        int at = kind == BIND_POSITIONAL ? -1 : spec_index(spec, a->kw[i]->s, a->kw[i]->n);
        if (at < 0)
            jx_fail(x, "%s() got an unexpected keyword argument '%.60s'", name, a->kw[i]->s);
        else if (out[at].kind != J_MISSING)
            jx_fail(x, "%s() got multiple values for argument '%.60s'", name, a->kw[i]->s);
        else
            out[at] = a->kw_value[i];
    }
    const char *p = spec;
    for (int i = 0; i < n && !x->failed; i++) {
        size_t len = strcspn(p, " ");
        if (out[i].kind == J_MISSING && p[len - 1] != '?')
            jx_fail(x, "%s() missing a required argument: '%.*s'", name, (int)len, p);
        p += len + (p[len] == ' ');
    }
    return !x->failed;
}

/* ---- methods of maps, lists and numbers ---- */

static JVal dict_get(Jx *x, JVal self, const JVal *arg) {
    JVal *v = jx_dict_get(x, self.u.dict, arg[0]);
    return v ? *v : j_given(arg[1]) ? arg[1] : j_none();
}

static JVal dict_view(Jx *x, JVal self, JViewKind kind) {
    JView *w = heap_alloc(&x->heap, sizeof *w);
    JVal v = {J_VIEW, {0}};
    *w = (JView){kind, self.u.dict};
    v.u.view = w;
    return v;
}

static JVal dict_keys(Jx *x, JVal self, const JVal *arg) {
    (void)arg;
    return dict_view(x, self, VIEW_KEYS);
}

static JVal dict_values(Jx *x, JVal self, const JVal *arg) {
    (void)arg;
    return dict_view(x, self, VIEW_VALUES);
}

static JVal dict_items(Jx *x, JVal self, const JVal *arg) {
    (void)arg;
    return dict_view(x, self, VIEW_ITEMS);
}

static JVal dict_copy(Jx *x, JVal self, const JVal *arg) {
    JDict *d = jx_dict(x);
    (void)arg;
    for (size_t i = 0; i < self.u.dict->n; i++) jx_dict_set(x, d, self.u.dict->key[i], self.u.dict->value[i]);
    return j_dict(d);
}

static JVal dict_fromkeys(Jx *x, JVal self, const JVal *arg) {
    JDict *d = jx_dict(x);
    JIter *it = jx_iter(x, arg[0]);
    JVal key;
    (void)self;
    while (jx_next(x, it, &key)) jx_dict_set(x, d, key, j_given(arg[1]) ? arg[1] : j_none());
    return j_dict(d);
}

static JVal list_copy(Jx *x, JVal self, const JVal *arg) {
    (void)arg;
    return j_list(jx_collect(x, self));
}

static JVal seq_count(Jx *x, JVal self, const JVal *arg) {
    JIter *it = jx_iter(x, self);
    int64_t n = 0;
    JVal v;
    while (jx_next(x, it, &v)) n += jx_equal(x, v, arg[0]);
    return j_int(n);
}

static JVal seq_index(Jx *x, JVal self, const JVal *arg) {
    int64_t n, from = 0, to;
    jx_len(x, self, &n);
    to = n;
    if (j_given(arg[1])) jx_int(x, arg[1], &from, "index()");
    if (j_given(arg[2])) jx_int(x, arg[2], &to, "index()");
    if (from < 0) from = from + n < 0 ? 0 : from + n;
    if (to < 0) to += n;
    JIter *it = jx_iter(x, self);
    JVal v;
    for (int64_t i = 0; jx_next(x, it, &v); i++)
        if (i >= from && i < to && jx_equal(x, v, arg[0])) return j_int(i);
    return jx_fail(x, "the value is not in the %s", j_type(self));
}

static JVal int_bit_length(Jx *x, JVal self, const JVal *arg) {
    int64_t n = 0;
    (void)arg;
    for (JVal v = jx_abs(x, self); j_truth(v) && !x->failed; n++) v = jx_arith(x, N_FLOORDIV, v, j_int(2));
    return j_int(n);
}

static JVal number_self(Jx *x, JVal self, const JVal *arg) {
    (void)x, (void)arg;
    return self.kind == J_BOOL ? j_int(self.u.b) : self;
}

static JVal float_is_integer(Jx *x, JVal self, const JVal *arg) {
    (void)x, (void)arg;
    return j_bool(isfinite(self.u.f) && self.u.f == floor(self.u.f));
}

static JVal cycler_next(Jx *x, JVal self, const JVal *arg) {
    JCycler *c = self.u.cycler;
    JVal v = c->items->item[c->at];
    (void)x, (void)arg;
    c->at = (c->at + 1) % c->items->n;
    return v;
}

static JVal cycler_reset(Jx *x, JVal self, const JVal *arg) {
    (void)x, (void)arg;
    self.u.cycler->at = 0;
    return j_none();
}

static JVal loop_cycle(Jx *x, JVal self, const JArgs *a) { return jx_loop_method(x, self.u.loop, false, a); }
static JVal loop_changed(Jx *x, JVal self, const JArgs *a) { return jx_loop_method(x, self.u.loop, true, a); }

static const MethodRow dict_methods[] = {{"get", dict_get, "key default?", BIND_POSITIONAL, NULL},
                                         {"items", dict_items, "", BIND_POSITIONAL, NULL},
                                         {"keys", dict_keys, "", BIND_POSITIONAL, NULL},
                                         {"values", dict_values, "", BIND_POSITIONAL, NULL},
                                         {"copy", dict_copy, "", BIND_POSITIONAL, NULL},
                                         {"fromkeys", dict_fromkeys, "iterable value?", BIND_POSITIONAL, NULL},
                                         {0}};
static const MethodRow list_methods[] = {{"count", seq_count, "value", BIND_POSITIONAL, NULL},
                                         {"index", seq_index, "value start? stop?", BIND_POSITIONAL, NULL},
                                         {"copy", list_copy, "", BIND_POSITIONAL, NULL},
                                         {0}};
static const MethodRow int_methods[] = {{"bit_length", int_bit_length, "", BIND_POSITIONAL, NULL},
                                        {"conjugate", number_self, "", BIND_POSITIONAL, NULL},
                                        {0}};
static const MethodRow float_methods[] = {{"is_integer", float_is_integer, "", BIND_POSITIONAL, NULL},
                                          {"conjugate", number_self, "", BIND_POSITIONAL, NULL},
                                          {0}};
static const MethodRow cycler_methods[] = {
    {"next", cycler_next, "", BIND_POSITIONAL, NULL}, {"reset", cycler_reset, "", BIND_POSITIONAL, NULL}, {0}};
static const MethodRow loop_methods[] = {
    {"cycle", NULL, NULL, BIND_ANY, loop_cycle}, {"changed", NULL, NULL, BIND_ANY, loop_changed}, {0}};
static const MethodRow func_methods[] = {{"fromkeys", dict_fromkeys, "iterable value?", BIND_POSITIONAL, NULL}, {0}};

static const MethodRow *find_method(const MethodRow *row, const char *name) {
    for (; row->name; row++)
        if (strcmp(row->name, name) == 0) return row;
    return NULL;
}

static const MethodRow *method_of(JVal v, const char *name) {
    switch (v.kind) {
    case J_STR:
        return j_str_method(name);
    case J_DICT:
        return find_method(dict_methods, name);
    case J_LIST:
        return find_method(list_methods, name);
    case J_TUPLE:
    case J_RANGE:
        return strcmp(name, "copy") == 0 ? NULL : find_method(list_methods, name);
    case J_BOOL:
    case J_INT:
    case J_BIG:
        return find_method(int_methods, name);
    case J_FLOAT:
        return find_method(float_methods, name);
    case J_CYCLER:
        return find_method(cycler_methods, name);
    case J_LOOP:
        return find_method(loop_methods, name);
    case J_FUNC:
        return v.u.func == FUNC_DICT ? find_method(func_methods, name) : NULL;
    default:
        return NULL;
    }
}

/* ---- attributes ---- */

/* What would change a list or a map, and everything that leads to the inside of the interpreter in Python. */
static bool forbidden(JVal v, const JStr *name) {
    static const char *const list[] = {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"};
    static const char *const dict[] = {"clear", "pop", "popitem", "setdefault", "update"};
    if (name->n >= 2 && name->s[0] == '_' && name->s[1] == '_') return true;
    for (int i = 0; v.kind == J_LIST && i < COUNT_OF(list); i++)
        if (strcmp(list[i], name->s) == 0) return true;
    for (int i = 0; v.kind == J_DICT && i < COUNT_OF(dict); i++)
        if (strcmp(dict[i], name->s) == 0) return true;
    return false;
}

static JVal range_attr(JVal v, const char *name, bool *known) {
    *known = true;
    if (strcmp(name, "start") == 0) return j_int(v.u.range->start);
    if (strcmp(name, "stop") == 0) return j_int(v.u.range->stop);
    if (strcmp(name, "step") == 0) return j_int(v.u.range->step);
    *known = false;
    return j_none();
}

static JVal own_attr(Jx *x, JVal v, const JStr *name, bool *known) {
    JVal *found;
    *known = false;
    switch (v.kind) {
    case J_LOOP:
        return jx_loop_attr(x, v.u.loop, name->s, known);
    case J_MACRO:
        return jx_macro_attr(x, v.u.macro, name->s, known);
    case J_RANGE:
        return range_attr(v, name->s, known);
    case J_NAMESPACE:
        found = jx_dict_get(x, v.u.dict, j_str(name));
        *known = found != NULL;
        return found ? *found : j_none();
    case J_TUPLE:
        *known = v.u.list->group && (strcmp(name->s, "grouper") == 0 || strcmp(name->s, "list") == 0);
        return *known ? v.u.list->item[name->s[0] == 'l'] : j_none();
    case J_CYCLER:
        *known = strcmp(name->s, "current") == 0;
        return *known ? v.u.cycler->items->item[v.u.cycler->at] : j_none();
    case J_SELF:
        for (int i = 0; i < x->block->n; i++) {
            const JStr *block = x->block->item[i]->name;
            if (block->n != name->n || memcmp(block->s, name->s, name->n)) continue;
            JVal b = {J_BLOCK, {0}};
            b.u.block = x->block->item[i];
            *known = true;
            return b;
        }
        return j_none();
    case J_BOOL:
    case J_INT:
    case J_BIG:
    case J_FLOAT:
        *known = strcmp(name->s, "real") == 0;
        return number_self(x, v, NULL);
    default:
        return j_none();
    }
}

/* A null-terminated copy is only needed where the name is part of a longer text. */
static const JStr *terminated(Jx *x, const JStr *name) {
    return name->s[name->n] == 0 ? name : jx_str(x, name->s, name->n).u.str;
}

JVal jx_attribute(Jx *x, JVal v, const JStr *name, bool *known) {
    JVal found = own_attr(x, v, name, known);
    if (*known || v.kind == J_NAMESPACE) return found;
    if (forbidden(v, name)) {
        Str why = {0};
        str_printf(&why, "access to attribute '%.60s' of '%s' object is unsafe.", name->s, j_type(v));
        *known = true;
        return jx_undef_why(x, jx_take(x, &why).u.str->s);
    }
    const MethodRow *row = method_of(v, name->s);
    if (!row) return found;
    JMethod *m = heap_alloc(&x->heap, sizeof *m);
    *m = (JMethod){row, v};
    found.kind = J_METHOD;
    found.u.method = m;
    *known = true;
    return found;
}

/* What in Python even an undefined value has: unsafe, not undefined. */
static bool every_object_has(const JStr *name) {
    static const char *const names[] = {"__class__", "__doc__",  "__module__", "__init__", "__eq__",
                                        "__hash__",  "__str__",  "__repr__",   "__len__",  "__iter__",
                                        "__bool__",  "__call__", "__getitem__"};
    for (int i = 0; i < COUNT_OF(names); i++)
        if (strcmp(names[i], name->s) == 0) return true;
    return false;
}

JVal jx_getattr(Jx *x, JVal obj, const JStr *name) {
    bool known;
    name = terminated(x, name);
    if (obj.kind == J_UNDEF && !every_object_has(name)) return jx_undef_error(x, obj);
    JVal v = jx_attribute(x, obj, name, &known);
    if (known) return v;
    JVal *item = obj.kind == J_DICT ? jx_dict_get(x, obj.u.dict, j_str(name)) : NULL;
    return item ? *item : jx_undef(x, name, obj.kind);
}

static bool index_of(JVal key, int64_t n, int64_t *at) {
    if (key.kind != J_BOOL && key.kind != J_INT) return false;
    *at = key.kind == J_BOOL ? key.u.b : key.u.i;
    if (*at < 0) *at += n;
    return *at >= 0 && *at < n;
}

static bool item_of(Jx *x, JVal obj, JVal key, JVal *out) {
    int64_t n, at;
    JVal *found;
    switch (obj.kind) {
    case J_DICT:
        found = j_hashable(key) ? jx_dict_get(x, obj.u.dict, key) : NULL;
        if (found) *out = *found;
        return found != NULL;
    case J_LIST:
    case J_TUPLE:
        if (!index_of(key, (int64_t)obj.u.list->n, &at)) return false;
        *out = obj.u.list->item[at];
        return true;
    case J_RANGE:
        if (!index_of(key, obj.u.range->n, &at)) return false;
        *out = j_int(obj.u.range->start + at * obj.u.range->step);
        return true;
    case J_STR: {
        const JStr *s = obj.u.str;
        n = (int64_t)s->n_char;
        if (!index_of(key, n, &at)) return false;
        size_t from = j_offset(s, (size_t)at), len;
        jx_step(x, s->n == s->n_char ? 0 : (int64_t)(from / 64));
        j_char(s->s + from, s->n - from, &len);
        *out = jx_markup(x, j_str(jx_str_own(x, s->s + from, len)), s->markup);
        return true;
    }
    default:
        return false;
    }
}

JVal jx_getitem(Jx *x, JVal obj, JVal key) {
    JVal v = j_none();
    bool known;
    if (obj.kind == J_UNDEF) return jx_undef_error(x, obj);
    if (item_of(x, obj, key, &v)) return v;
    if (key.kind == J_STR) {
        v = jx_attribute(x, obj, terminated(x, key.u.str), &known);
        if (known) return v;
        return jx_undef(x, key.u.str, obj.kind);
    }
    v = jx_undef(x, jx_text(x, key).u.str, obj.kind);
    ((JUndef *)v.u.undef)->element = true;
    return v;
}

/* ---- functions ---- */

const char *j_func_name(int f) {
    static const char *const name[FUNC_COUNT] = {"range",  "dict",   "namespace",       "cycler",
                                                 "joiner", "lipsum", "raise_exception", "strftime_now"};
    return name[f];
}

bool j_callable(JVal v) {
    return v.kind == J_FUNC || v.kind == J_METHOD || v.kind == J_MACRO || v.kind == J_JOINER || v.kind == J_LOOP ||
           v.kind == J_UNDEF || v.kind == J_BLOCK;
}

static JVal make_range(Jx *x, const JArgs *a) {
    int64_t v[3] = {0, 0, 1};
    if (a->n_kw || a->n_pos < 1 || a->n_pos > 3)
        return jx_fail(x, "range expected 1 to 3 arguments, got %d", a->n_pos + a->n_kw);
    for (int i = 0; i < a->n_pos; i++)
        if (!jx_int(x, a->pos[i], &v[a->n_pos == 1 ? 1 : i], "range()")) return j_none();
    if (v[2] == 0) return jx_fail(x, "range() arg 3 must not be zero");
    for (int i = 0; i < 3; i++)
        if (v[i] > INT64_MAX / 4 || v[i] < INT64_MIN / 4) return jx_fail(x, "range() of numbers too large");
    int64_t way = v[2] > 0 ? v[1] - v[0] : v[0] - v[1], step = v[2] > 0 ? v[2] : -v[2];
    int64_t n = way > 0 ? (way - 1) / step + 1 : 0;
    if (n > JINJA_MAX_RANGE)
        return jx_fail(x, "Range too big. The sandbox blocks ranges larger than %d.", JINJA_MAX_RANGE);
    JRange *r = heap_alloc(&x->heap, sizeof *r);
    *r = (JRange){v[0], v[1], v[2], n};
    JVal out = {J_RANGE, {0}};
    out.u.range = r;
    return out;
}

static void dict_update(Jx *x, JDict *d, JVal from) {
    JVal pair;
    if (from.kind == J_DICT) {
        for (size_t i = 0; i < from.u.dict->n; i++) jx_dict_set(x, d, from.u.dict->key[i], from.u.dict->value[i]);
        return;
    }
    JIter *it = jx_iter(x, from);
    while (jx_next(x, it, &pair)) {
        JList *l = j_iterable(pair) ? jx_collect(x, pair) : NULL;
        if (!l || l->n != 2)
            jx_fail(x, "a map is made of pairs, not of '%s'", j_type(pair));
        else
            jx_dict_set(x, d, l->item[0], l->item[1]);
    }
}

static JVal make_dict(Jx *x, const JArgs *a, bool ns) {
    JDict *d = jx_dict(x);
    JVal v = j_dict(d);
    if (a->n_pos > 1) return jx_fail(x, "%s expected at most 1 argument, got %d", ns ? "namespace" : "dict", a->n_pos);
    if (a->n_pos == 1) dict_update(x, d, a->pos[0]);
    for (int i = 0; i < a->n_kw; i++) jx_dict_set(x, d, j_str(a->kw[i]), a->kw_value[i]);
    if (!ns) return v;
    for (size_t i = 0; i < d->n; i++)
        if (d->key[i].kind == J_STR && d->key[i].u.str->n && d->key[i].u.str->s[0] == '_')
            jx_fail(x, "templates cannot store names with a leading underscore on a namespace, here '%.60s'",
                    d->key[i].u.str->s);
    v.kind = J_NAMESPACE;
    return v;
}

static JVal make_cycler(Jx *x, const JArgs *a) {
    if (a->n_kw) return jx_fail(x, "cycler() got an unexpected keyword argument '%.60s'", a->kw[0]->s);
    if (a->n_pos == 0) return jx_fail(x, "at least one item has to be provided");
    JVal v = {J_CYCLER, {0}};
    v.u.cycler = heap_alloc(&x->heap, sizeof *v.u.cycler);
    v.u.cycler->items = jx_list(x, (size_t)a->n_pos);
    for (int i = 0; i < a->n_pos; i++) jx_add(x, v.u.cycler->items, a->pos[i]);
    return x->failed ? j_none() : v;
}

static JVal make_joiner(Jx *x, const JArgs *a) {
    JVal arg[MAX_BOUND], v = {J_JOINER, {0}};
    if (!jx_bind(x, "joiner", "sep?", BIND_ANY, a, arg)) return j_none();
    v.u.joiner = heap_alloc(&x->heap, sizeof *v.u.joiner);
    v.u.joiner->sep = j_given(arg[0]) ? jx_text(x, arg[0]).u.str : jx_strz(x, ", ").u.str;
    return v;
}

static JVal raise_exception(Jx *x, const JArgs *a) {
    JVal arg[MAX_BOUND];
    if (!jx_bind(x, "raise_exception", "message", BIND_ANY, a, arg)) return j_none();
    JVal text = jx_text(x, arg[0]);
    if (x->failed) return text;
    return jx_fail_class(x, JINJA_RAISED, x->line, text.u.str->s, text.u.str->n);
}

/* The clock is the caller's, in UTC: a rendering does not depend on where and when it runs. %f and the empty %z, %Z are
 * Python's; the rest is the C library's. */
static JVal strftime_now(Jx *x, const JArgs *a) {
    JVal arg[MAX_BOUND];
    if (!jx_bind(x, "strftime_now", "format", BIND_ANY, a, arg)) return j_none();
    if (arg[0].kind != J_STR) return jx_fail(x, "strftime() argument 1 must be str, not %s", j_type(arg[0]));
    time_t now = (time_t)x->now_s;
    struct tm tm;
    gmtime_r(&now, &tm);
    Str out = {0};
    const JStr *f = arg[0].u.str;
    for (size_t i = 0; i < f->n; i++) {
        char spec[12] = "%", text[1024]; /* flags, width, E or O as the C library knows them */
        if (f->s[i] != '%' || i + 1 >= f->n) {
            str_putc(&out, f->s[i]);
            continue;
        }
        size_t k = 1;
        i++;
        while (i + 1 < f->n && k < 8 && f->s[i] && strchr("-_0^#EO123456789", f->s[i])) spec[k++] = f->s[i++];
        spec[k] = f->s[i];
        if (f->s[i] == 'f')
            str_put(&out, "000000");
        else if (f->s[i] != 'z' && f->s[i] != 'Z')
            str_putn(&out, text, strftime(text, sizeof text, spec, &tm));
    }
    return jx_take(x, &out);
}

static JVal call_func(Jx *x, int f, const JArgs *a) {
    switch ((JFunc)f) {
    case FUNC_RANGE:
        return make_range(x, a);
    case FUNC_DICT:
    case FUNC_NAMESPACE:
        return make_dict(x, a, f == FUNC_NAMESPACE);
    case FUNC_CYCLER:
        return make_cycler(x, a);
    case FUNC_JOINER:
        return make_joiner(x, a);
    case FUNC_RAISE:
        return raise_exception(x, a);
    case FUNC_STRFTIME:
        return strftime_now(x, a);
    default:
        return jx_fail(x, "the function '%s' is not supported", j_func_name(f));
    }
}

JVal jx_call(Jx *x, JVal callee, const JArgs *a) {
    JVal arg[MAX_BOUND];
    switch (callee.kind) {
    case J_FUNC:
        return call_func(x, callee.u.func, a);
    case J_MACRO:
        return jx_call_macro(x, callee.u.macro, a);
    case J_METHOD: {
        const MethodRow *row = callee.u.method->row;
        if (row->raw) return row->raw(x, callee.u.method->self, a);
        if (!row->fn) return jx_fail(x, "the method '%s' is not supported", row->name);
        if (!jx_bind(x, row->name, row->spec, row->kind, a, arg)) return j_none();
        return row->fn(x, callee.u.method->self, arg);
    }
    case J_LOOP:
        if (!jx_bind(x, "loop", "iterable", BIND_ANY, a, arg)) return j_none();
        return jx_call_loop(x, callee.u.loop, arg[0]);
    case J_JOINER: {
        if (!jx_bind(x, "joiner", "", BIND_ANY, a, arg)) return j_none();
        bool used = callee.u.joiner->used;
        callee.u.joiner->used = true;
        return used ? j_str(callee.u.joiner->sep) : jx_strz(x, "");
    }
    case J_BLOCK:
        return jx_bind(x, "block", "", BIND_ANY, a, arg) ? jx_call_block(x, callee.u.block) : j_none();
    case J_UNDEF:
        return jx_undef_error(x, callee);
    default:
        return jx_fail(x, "'%s' object is not callable", j_type(callee));
    }
}
