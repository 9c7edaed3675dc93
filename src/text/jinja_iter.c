/* jinja_iter.c — walking over values. Generators (what map, select and their like give) are walked once, lazily, as
 * Python's are: a second walk finds nothing, and a namespace changed meanwhile is seen. */
#include "text/jinja_int.h"

#include <string.h>

typedef enum { ITER_EMPTY, ITER_LIST, ITER_TEXT, ITER_DICT, ITER_RANGE, ITER_LOOP, ITER_FN } IterKind;

struct JIter {
    IterKind kind;
    JVal of;
    int64_t at, n;
    size_t byte;
    bool backwards;
    IterFn *next;
    void *ud;
    const char *type;
};

static JIter *iter_new(Jx *x, IterKind kind, JVal of, const char *type) {
    JIter *i = heap_alloc(&x->heap, sizeof *i);
    i->kind = kind;
    i->of = of;
    i->type = type;
    return i;
}

bool j_iterable(JVal v) { return v.kind == J_ITER || j_has_len(v); }

const char *j_iter_type(const JIter *i) { return i->type; }

JIter *jx_iter(Jx *x, JVal v) {
    JIter *i;
    switch (v.kind) {
    case J_ITER:
        return v.u.iter;
    case J_LIST:
    case J_TUPLE:
        return iter_new(x, ITER_LIST, v, "list_iterator");
    case J_STR:
        return iter_new(x, ITER_TEXT, v, "str_iterator");
    case J_DICT:
    case J_VIEW:
        return iter_new(x, ITER_DICT, v, "dict_keyiterator");
    case J_RANGE:
        return iter_new(x, ITER_RANGE, v, "range_iterator");
    case J_LOOP:
        return iter_new(x, ITER_LOOP, v, "LoopContext");
    case J_UNDEF:
        break;
    default:
        jx_fail(x, "'%s' object is not iterable", j_type(v));
    }
    i = iter_new(x, ITER_EMPTY, v, "generator");
    return i;
}

JIter *jx_iter_fn(Jx *x, IterFn *next, void *ud, const char *type) {
    JIter *i = iter_new(x, ITER_FN, j_none(), type);
    i->next = next;
    i->ud = ud;
    return i;
}

JIter *jx_iter_reversed(Jx *x, JVal v) {
    static const char *const name[] = {[J_LIST] = "list_reverseiterator",
                                       [J_TUPLE] = "reversed",
                                       [J_RANGE] = "range_iterator",
                                       [J_DICT] = "dict_reversekeyiterator",
                                       [J_VIEW] = "dict_reverseitemiterator"};
    JIter *i;
    int64_t n;
    if (v.kind == J_STR) { /* by code point, backwards */
        JVal back[3] = {j_none(), j_none(), j_int(-1)};
        i = iter_new(x, ITER_TEXT, jx_slice(x, v, back), "reversed");
        i->backwards = true;
        return i;
    }
    if (!j_is_seq(v) && v.kind != J_RANGE && v.kind != J_DICT && v.kind != J_VIEW) return NULL;
    i = jx_iter(x, v);
    i->type = name[v.kind];
    i->backwards = true;
    jx_len(x, v, &n);
    i->n = n;
    return i;
}

static JVal dict_item(Jx *x, JVal of, size_t at) {
    const JDict *d = of.kind == J_DICT ? of.u.dict : of.u.view->dict;
    JViewKind kind = of.kind == J_DICT ? VIEW_KEYS : of.u.view->kind;
    if (kind != VIEW_ITEMS) return kind == VIEW_KEYS ? d->key[at] : d->value[at];
    JList *pair = jx_list(x, 2);
    pair->item[0] = d->key[at];
    pair->item[1] = d->value[at];
    pair->n = 2;
    return j_tuple(pair);
}

bool jx_next(Jx *x, JIter *i, JVal *v) {
    int64_t n = 0, at;
    *v = j_none();
    if (!jx_step(x, 1)) return false;
    switch (i->kind) {
    case ITER_EMPTY:
        return false;
    case ITER_FN:
        return i->next(x, i->ud, v) && !x->failed;
    case ITER_LOOP:
        return jx_loop_next(x, i->of.u.loop, v);
    case ITER_TEXT: {
        const JStr *s = i->of.u.str;
        size_t len;
        if (i->byte >= s->n) return false;
        j_char(s->s + i->byte, s->n - i->byte, &len);
        *v = jx_markup(x, j_str(jx_str_own(x, s->s + i->byte, len)), s->markup && i->backwards); /* so in Python */
        i->byte += len;
        return true;
    }
    default:
        break;
    }
    jx_len(x, i->of, &n);
    at = i->at++;
    if (at >= n) return false;
    if (i->backwards) at = n - 1 - at;
    if (i->kind == ITER_LIST)
        *v = i->of.u.list->item[at];
    else if (i->kind == ITER_RANGE)
        *v = j_int(i->of.u.range->start + at * i->of.u.range->step);
    else
        *v = dict_item(x, i->of, (size_t)at);
    return true;
}

JList *jx_collect(Jx *x, JVal v) {
    JIter *i = jx_iter(x, v);
    JList *l = jx_list(x, 0);
    JVal item;
    while (jx_next(x, i, &item)) jx_add(x, l, item);
    return l;
}
