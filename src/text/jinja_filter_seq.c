/* jinja_filter_seq.c — filters of lists and maps. map, select, reject, unique and items give generators: nothing
 * happens before somebody walks over them, and only one can. */
#include "text/jinja_int.h"

#include <string.h>

/* ---- attributes by path: "a", "a.b", "items.0", 0 ---- */

JVal jx_attr_path(Jx *x, JVal v, JVal path, JVal otherwise) {
    if (path.kind == J_NONE || path.kind == J_MISSING) return v;
    if (path.kind != J_STR) {
        v = jx_getitem(x, v, path);
        return j_given(otherwise) && v.kind == J_UNDEF ? otherwise : v;
    }
    JVal parts = jx_split(x, path, jx_strz(x, "."), -1, false);
    for (size_t i = 0; !x->failed && i < parts.u.list->n; i++) {
        JVal key = parts.u.list->item[i], number;
        bool digits = j_truth(j_str_method("isdigit")->fn(x, key, NULL));
        if (digits) {
            number = jx_parse_int(x, key.u.str->s, key.u.str->n, 10, &digits);
            if (digits) key = number;
        }
        v = jx_getitem(x, v, key);
        if (j_given(otherwise) && v.kind == J_UNDEF) v = otherwise;
    }
    return v;
}

static JVal ignore_case(Jx *x, JVal v, bool sensitive) {
    return v.kind == J_STR && !sensitive ? jx_case(x, v, CASE_LOWER) : v;
}

static bool flag(JVal v) { return j_given(v) && j_truth(v); }

/* reverse= of Python's sorted(): a whole number, not just anything. */
static bool backwards(Jx *x, JVal v) {
    int64_t i = 0;
    return j_given(v) && jx_int(x, v, &i, "reverse") && i != 0;
}

/* ---- simple ones ---- */

static JVal filter_length(Jx *x, JVal v, const JVal *arg) {
    int64_t n;
    (void)arg;
    return jx_len(x, v, &n) ? j_int(n) : j_none();
}

static JVal filter_default(Jx *x, JVal v, const JVal *arg) {
    if (v.kind != J_UNDEF && !(flag(arg[1]) && !j_truth(v))) return v;
    return j_given(arg[0]) ? arg[0] : jx_strz(x, "");
}

static JVal filter_list(Jx *x, JVal v, const JVal *arg) { return (void)arg, j_list(jx_collect(x, v)); }

static JVal filter_first(Jx *x, JVal v, const JVal *arg) {
    JVal first;
    (void)arg;
    if (!j_iterable(v)) return jx_fail(x, "'%s' object is not iterable", j_type(v));
    return jx_next(x, jx_iter(x, v), &first) ? first : jx_undef_why(x, "No first item, sequence was empty.");
}

static JVal filter_last(Jx *x, JVal v, const JVal *arg) {
    JVal last;
    (void)arg;
    if (v.kind == J_UNDEF) return jx_undef_why(x, "No last item, sequence was empty.");
    JIter *it = jx_iter_reversed(x, v);
    if (!it) return jx_fail(x, "'%s' object is not reversible", j_type(v));
    return jx_next(x, it, &last) ? last : jx_undef_why(x, "No last item, sequence was empty.");
}

static JVal filter_reverse(Jx *x, JVal v, const JVal *arg) {
    JVal back[3] = {j_none(), j_none(), j_int(-1)};
    (void)arg;
    if (v.kind == J_STR) return jx_slice(x, v, back);
    if (v.kind == J_UNDEF) return j_iter(jx_iter(x, v));
    JIter *it = jx_iter_reversed(x, v);
    if (it) return j_iter(it);
    if (!j_iterable(v)) return jx_fail(x, "argument must be iterable");
    return jx_slice(x, j_list(jx_collect(x, v)), back);
}

static JVal filter_attr(Jx *x, JVal v, const JVal *arg) {
    bool known;
    if (v.kind == J_UNDEF) return jx_undef_error(x, v);
    if (arg[0].kind != J_STR) return jx_fail(x, "attribute name must be string, not '%s'", j_type(arg[0]));
    JVal name = jx_str(x, arg[0].u.str->s, arg[0].u.str->n), found = jx_attribute(x, v, name.u.str, &known);
    return known ? found : jx_undef(x, name.u.str, v.kind);
}

/* ---- generators ---- */

typedef struct {
    JIter *source;
    JVal attribute, otherwise, name;
    JArgs args;
    bool by_attribute, keep;
    JVal value;
} Stage;

static JArgs copy_args(Jx *x, const JArgs *a, int from) {
    JArgs c = *a;
    int n = a->n_pos > from ? a->n_pos - from : 0;
    c.pos = heap_alloc(&x->heap, (size_t)(n + 1) * sizeof *c.pos);
    c.n_pos = n;
    for (int i = 0; i < n; i++) c.pos[i] = a->pos[from + i];
    return c;
}

/* Nothing is looked at, not even whether it can be walked, before the first item is asked for. */
static bool start(Jx *x, Stage *s) {
    if (!s->source) {
        if (!j_truth(s->value)) return false;
        s->source = jx_iter(x, s->value);
    }
    return !x->failed;
}

static bool map_next(Jx *x, void *ud, JVal *v) {
    Stage *s = ud;
    JVal item;
    if (!start(x, s)) return false;
    if (!s->by_attribute && !j_given(s->name)) {
        jx_fail(x, "map requires a filter argument");
        return false;
    }
    if (!jx_next(x, s->source, &item)) return false;
    *v = s->by_attribute ? jx_attr_path(x, item, s->attribute, s->otherwise)
                         : jx_filter_named(x, s->name, item, &s->args);
    return true;
}

static JVal filter_map(Jx *x, JVal v, const JArgs *a) {
    Stage *s = heap_alloc(&x->heap, sizeof *s);
    *s = (Stage){.value = v, .name = a->n_pos ? a->pos[0] : j_missing(), .otherwise = j_missing()};
    if (a->n_pos)
        s->args = copy_args(x, a, 1);
    else
        for (int i = 0; i < a->n_kw; i++) {
            if (strcmp(a->kw[i]->s, "attribute") == 0)
                s->by_attribute = true, s->attribute = a->kw_value[i];
            else if (strcmp(a->kw[i]->s, "default") == 0)
                s->otherwise = a->kw_value[i].kind == J_NONE ? j_missing() : a->kw_value[i];
            else
                return jx_fail(x, "Unexpected keyword argument '%.60s'", a->kw[i]->s);
        }
    return j_iter(jx_iter_fn(x, map_next, s, "generator"));
}

static bool select_next(Jx *x, void *ud, JVal *v) {
    Stage *s = ud;
    if (!start(x, s)) return false;
    if (s->by_attribute && !j_given(s->attribute)) {
        jx_fail(x, "Missing parameter for attribute name");
        return false;
    }
    while (jx_next(x, s->source, v)) {
        JVal of = s->by_attribute ? jx_attr_path(x, *v, s->attribute, j_missing()) : *v;
        bool holds = !x->failed && (j_given(s->name) ? jx_test_named(x, s->name, of, &s->args) : j_truth(of));
        if (x->failed) return false;
        if (holds == s->keep) return true;
    }
    return false;
}

static JVal selecting(Jx *x, JVal v, const JArgs *a, bool keep, bool by_attribute) {
    Stage *s = heap_alloc(&x->heap, sizeof *s);
    int off = by_attribute;
    *s = (Stage){.value = v, .keep = keep, .by_attribute = by_attribute};
    s->attribute = by_attribute && a->n_pos ? a->pos[0] : j_missing();
    s->name = a->n_pos > off ? a->pos[off] : j_missing();
    s->args = copy_args(x, a, off + 1);
    return j_iter(jx_iter_fn(x, select_next, s, "generator"));
}

static JVal filter_select(Jx *x, JVal v, const JArgs *a) { return selecting(x, v, a, true, false); }
static JVal filter_reject(Jx *x, JVal v, const JArgs *a) { return selecting(x, v, a, false, false); }
static JVal filter_selectattr(Jx *x, JVal v, const JArgs *a) { return selecting(x, v, a, true, true); }
static JVal filter_rejectattr(Jx *x, JVal v, const JArgs *a) { return selecting(x, v, a, false, true); }

typedef struct {
    JVal value;
    size_t at;
} Items;

static bool items_next(Jx *x, void *ud, JVal *v) {
    Items *i = ud;
    if (i->value.kind == J_UNDEF) return false;
    if (i->value.kind != J_DICT) {
        jx_fail(x, "Can only get item pairs from a mapping.");
        return false;
    }
    const JDict *d = i->value.u.dict;
    if (i->at >= d->n) return false;
    JList *pair = jx_list(x, 2);
    jx_add(x, pair, d->key[i->at]);
    jx_add(x, pair, d->value[i->at++]);
    *v = j_tuple(pair);
    return true;
}

static JVal filter_items(Jx *x, JVal v, const JVal *arg) {
    Items *i = heap_alloc(&x->heap, sizeof *i);
    (void)arg;
    i->value = v;
    return j_iter(jx_iter_fn(x, items_next, i, "generator"));
}

typedef struct {
    JVal value, attribute;
    JIter *source;
    bool sensitive;
    JDict *seen;
} Unique;

static bool unique_next(Jx *x, void *ud, JVal *v) {
    Unique *u = ud;
    if (!u->source) u->source = jx_iter(x, u->value);
    while (jx_next(x, u->source, v)) {
        JVal key = ignore_case(x, jx_attr_path(x, *v, u->attribute, j_missing()), u->sensitive);
        if (x->failed || jx_dict_get(x, u->seen, key)) continue;
        jx_dict_set(x, u->seen, key, j_none());
        return !x->failed;
    }
    return false;
}

static JVal filter_unique(Jx *x, JVal v, const JVal *arg) {
    Unique *u = heap_alloc(&x->heap, sizeof *u);
    *u = (Unique){.value = v, .attribute = arg[1], .sensitive = flag(arg[0]), .seen = jx_dict(x)};
    return j_iter(jx_iter_fn(x, unique_next, u, "generator"));
}

/* ---- order ---- */

typedef struct {
    JVal key, value;
} Keyed;

/* Merge sort: stable, and every comparison is one Python might make. reverse keeps equal ones in their order too. */
static void sort_keyed(Jx *x, Keyed *k, Keyed *tmp, size_t n, bool reverse) {
    if (n < 2 || x->failed) return;
    size_t half = n / 2, a = 0, b = half, o = 0;
    sort_keyed(x, k, tmp, half, reverse);
    sort_keyed(x, k + half, tmp, n - half, reverse);
    while (a < half && b < n && jx_step(x, 1)) {
        int order = reverse ? jx_order(x, k[a].key, k[b].key) : jx_order(x, k[b].key, k[a].key);
        tmp[o++] = order < 0 ? k[b++] : k[a++];
    }
    while (a < half) tmp[o++] = k[a++];
    while (b < n) tmp[o++] = k[b++];
    memcpy(k, tmp, n * sizeof *k);
}

static JList *sorted(Jx *x, Keyed *k, size_t n, bool reverse) {
    JList *l = jx_list(x, n);
    Keyed *tmp = heap_alloc(&x->heap, (n + 1) * sizeof *tmp);
    sort_keyed(x, k, tmp, n, reverse);
    for (size_t i = 0; i < n; i++) jx_add(x, l, k[i].value);
    return l;
}

/* Keys by attributes "a,b.c": a list of values each. */
static JVal sort_key(Jx *x, JVal v, JVal attribute, bool sensitive) {
    JList *key = jx_list(x, 1);
    if (attribute.kind != J_STR) {
        jx_add(x, key, ignore_case(x, jx_attr_path(x, v, attribute, j_missing()), sensitive));
        return j_list(key);
    }
    JVal parts = jx_split(x, attribute, jx_strz(x, ","), -1, false);
    for (size_t i = 0; !x->failed && i < parts.u.list->n; i++)
        jx_add(x, key, ignore_case(x, jx_attr_path(x, v, parts.u.list->item[i], j_missing()), sensitive));
    return j_list(key);
}

static JVal filter_sort(Jx *x, JVal v, const JVal *arg) {
    JList *l = jx_collect(x, v);
    Keyed *k = heap_alloc(&x->heap, (l->n + 1) * sizeof *k);
    for (size_t i = 0; i < l->n && !x->failed; i++)
        k[i] = (Keyed){sort_key(x, l->item[i], arg[2], flag(arg[1])), l->item[i]};
    return x->failed ? j_none() : j_list(sorted(x, k, l->n, backwards(x, arg[0])));
}

static JVal filter_dictsort(Jx *x, JVal v, const JVal *arg) {
    bool by_value = false;
    if (v.kind == J_UNDEF) return jx_undef_error(x, v);
    if (j_given(arg[1])) {
        JVal by = jx_text(x, arg[1]);
        by_value = strcmp(by.u.str->s, "value") == 0;
        if (!by_value && strcmp(by.u.str->s, "key"))
            return jx_fail(x, "You can only sort by either \"key\" or \"value\"");
    }
    if (v.kind != J_DICT) return jx_fail(x, "'%s' object has no attribute 'items'", j_type(v));
    const JDict *d = v.u.dict;
    Keyed *k = heap_alloc(&x->heap, (d->n + 1) * sizeof *k);
    for (size_t i = 0; i < d->n; i++) {
        JList *pair = jx_list(x, 2);
        jx_add(x, pair, d->key[i]);
        jx_add(x, pair, d->value[i]);
        k[i] = (Keyed){ignore_case(x, by_value ? d->value[i] : d->key[i], flag(arg[0])), j_tuple(pair)};
    }
    return j_list(sorted(x, k, d->n, backwards(x, arg[2])));
}

static JVal filter_groupby(Jx *x, JVal v, const JVal *arg) {
    JVal attribute = arg[0], otherwise = j_given(arg[1]) && arg[1].kind != J_NONE ? arg[1] : j_missing();
    bool sensitive = flag(arg[2]);
    JList *l = jx_collect(x, v), *groups = jx_list(x, 0), *items = NULL;
    Keyed *k = heap_alloc(&x->heap, (l->n + 1) * sizeof *k);
    JVal last = j_missing();
    for (size_t i = 0; i < l->n && !x->failed; i++)
        k[i] = (Keyed){ignore_case(x, jx_attr_path(x, l->item[i], attribute, otherwise), sensitive), l->item[i]};
    if (x->failed) return j_none();
    l = sorted(x, k, l->n, false);
    for (size_t i = 0; i < l->n && !x->failed; i++) {
        if (!items || !jx_equal(x, last, k[i].key)) {
            JList *group = jx_list(x, 2);
            items = jx_list(x, 0);
            group->group = true;
            jx_add(x, group, sensitive ? k[i].key : jx_attr_path(x, l->item[i], attribute, otherwise));
            jx_add(x, group, j_list(items));
            jx_add(x, groups, j_tuple(group));
            last = k[i].key;
        }
        jx_add(x, items, l->item[i]);
    }
    return j_list(groups);
}

static JVal extreme(Jx *x, JVal v, const JVal *arg, bool max) {
    JIter *it = jx_iter(x, v);
    JVal best, item, key;
    if (!jx_next(x, it, &best)) return jx_undef_why(x, "No aggregated item, sequence was empty.");
    JVal best_key = ignore_case(x, jx_attr_path(x, best, arg[1], j_missing()), flag(arg[0]));
    while (jx_next(x, it, &item)) {
        key = ignore_case(x, jx_attr_path(x, item, arg[1], j_missing()), flag(arg[0]));
        int order = max ? jx_order(x, best_key, key) : jx_order(x, key, best_key);
        if (order >= 0 || x->failed) continue;
        best = item;
        best_key = key;
    }
    return best;
}

static JVal filter_min(Jx *x, JVal v, const JVal *arg) { return extreme(x, v, arg, false); }
static JVal filter_max(Jx *x, JVal v, const JVal *arg) { return extreme(x, v, arg, true); }

/* ---- together and apart ---- */

static JVal filter_join(Jx *x, JVal v, const JVal *arg) {
    JVal sep = j_given(arg[0]) ? jx_markup(x, jx_text(x, arg[0]), false) : jx_strz(x, "");
    if (!j_given(arg[1]) || arg[1].kind == J_NONE) return jx_join(x, sep, v, false);
    JList *l = jx_list(x, 0);
    JIter *it = jx_iter(x, v);
    JVal item;
    while (jx_next(x, it, &item)) jx_add(x, l, jx_attr_path(x, item, arg[1], j_missing()));
    return jx_join(x, sep, j_list(l), false);
}

static JVal filter_sum(Jx *x, JVal v, const JVal *arg) {
    JVal sum = j_given(arg[1]) ? arg[1] : j_int(0), item;
    JIter *it = jx_iter(x, v);
    if (sum.kind == J_STR) return jx_fail(x, "sum() can't sum strings [use ''.join(seq) instead]");
    while (jx_next(x, it, &item)) {
        if (j_given(arg[0]) && arg[0].kind != J_NONE) item = jx_attr_path(x, item, arg[0], j_missing());
        if (!x->failed) sum = jx_arith(x, N_ADD, sum, item);
    }
    return sum;
}

static JVal once(Jx *x, JList *l) { return j_iter(jx_iter(x, j_list(l))); }

static JVal filter_batch(Jx *x, JVal v, const JVal *arg) {
    int64_t size;
    JList *all = jx_collect(x, v), *out = jx_list(x, 0), *batch = NULL;
    if (!jx_int(x, arg[0], &size, "batch()")) return j_none();
    if (size == 0 && all->n > 0)
        jx_add(x, out, j_list(jx_list(x, 0))); /* full before its first item; the next never is */
    for (size_t i = 0; i < all->n; i++) {
        if (!batch || (int64_t)batch->n == size) jx_add(x, out, j_list(batch = jx_list(x, 0)));
        jx_add(x, batch, all->item[i]);
    }
    if (batch && j_given(arg[1]) && arg[1].kind != J_NONE)
        while ((int64_t)batch->n < size && jx_step(x, 1)) jx_add(x, batch, arg[1]);
    return once(x, out);
}

static JVal filter_slice(Jx *x, JVal v, const JVal *arg) {
    int64_t slices, offset = 0;
    JList *all = jx_collect(x, v), *out = jx_list(x, 0);
    if (!jx_int(x, arg[0], &slices, "slice()")) return j_none();
    if (slices == 0) return jx_fail(x, "integer division or modulo by zero");
    int64_t n = (int64_t)all->n, each = slices > 0 ? n / slices : 0, extra = slices > 0 ? n % slices : 0;
    for (int64_t s = 0; s < slices && jx_step(x, 1); s++) {
        JList *part = jx_list(x, 0);
        int64_t from = offset + s * each;
        if (s < extra) offset++;
        for (int64_t i = from; i < offset + (s + 1) * each; i++) jx_add(x, part, all->item[i]);
        if (j_given(arg[1]) && arg[1].kind != J_NONE && s >= extra) jx_add(x, part, arg[1]);
        jx_add(x, out, j_list(part));
    }
    return once(x, out);
}

// clang-format off
const FilterRow filters_seq[] = {
    {"length", filter_length, "", NULL}, {"count", filter_length, "", NULL},
    {"default", filter_default, "default_value? boolean?", NULL}, {"d", filter_default, "default_value? boolean?", NULL},
    {"join", filter_join, "d? attribute?", NULL}, {"map", NULL, NULL, filter_map}, {"select", NULL, NULL, filter_select},
    {"reject", NULL, NULL, filter_reject}, {"selectattr", NULL, NULL, filter_selectattr},
    {"rejectattr", NULL, NULL, filter_rejectattr}, {"list", filter_list, "", NULL}, {"items", filter_items, "", NULL},
    {"first", filter_first, "", NULL}, {"last", filter_last, "", NULL}, {"reverse", filter_reverse, "", NULL},
    {"dictsort", filter_dictsort, "case_sensitive? by? reverse?", NULL},
    {"sort", filter_sort, "reverse? case_sensitive? attribute?", NULL},
    {"unique", filter_unique, "case_sensitive? attribute?", NULL}, {"min", filter_min, "case_sensitive? attribute?", NULL},
    {"max", filter_max, "case_sensitive? attribute?", NULL}, {"groupby", filter_groupby, "attribute default? case_sensitive?", NULL},
    {"sum", filter_sum, "attribute? start?", NULL}, {"batch", filter_batch, "linecount fill_with?", NULL},
    {"slice", filter_slice, "slices fill_with?", NULL}, {"attr", filter_attr, "name", NULL}, {0}};
// clang-format on
