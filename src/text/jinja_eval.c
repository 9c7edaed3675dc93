/* jinja_eval.c — expressions. */
#include "text/jinja_int.h"

#include <math.h>
#include <string.h>

static JVal *slot_at(Jx *x, Ref r) {
    Env *e = x->env;
    for (int i = 0; i < r.hops; i++) e = e->up;
    return &e->slot[r.slot];
}

static JVal eval_sequence(Jx *x, const Node *n) {
    JList *l = jx_list(x, (size_t)n->item.n);
    for (int i = 0; i < n->item.n && !x->failed; i++) jx_add(x, l, jx_eval(x, n->item.item[i]));
    return n->kind == N_LIST ? j_list(l) : j_tuple(l);
}

static JVal eval_dict(Jx *x, const Node *n) {
    JDict *d = jx_dict(x);
    for (int i = 0; i + 1 < n->item.n && !x->failed; i += 2) {
        JVal key = jx_eval(x, n->item.item[i]), value = jx_eval(x, n->item.item[i + 1]);
        if (!x->failed) jx_dict_set(x, d, key, value);
    }
    return j_dict(d);
}

static JVal eval_concat(Jx *x, const Node *n) {
    Str out = {0};
    for (int i = 0; i < n->item.n && !x->failed; i++) {
        jx_put(x, &out, jx_eval(x, n->item.item[i]));
        if (out.n > JINJA_MAX_OUTPUT) jx_fail(x, "a text of more than %d bytes", JINJA_MAX_OUTPUT);
    }
    return jx_take(x, &out);
}

static bool compare(Jx *x, CompareOp op, JVal a, JVal b) {
    int o;
    switch (op) {
    case OP_EQ:
        return jx_equal(x, a, b);
    case OP_NE:
        return !jx_equal(x, a, b);
    case OP_IN:
        return jx_contains(x, b, a);
    case OP_NOT_IN:
        return !jx_contains(x, b, a);
    default:
        break;
    }
    o = jx_order(x, a, b);
    if (o == 2) return false; /* not a number */
    switch (op) {
    case OP_LT:
        return o < 0;
    case OP_LE:
        return o <= 0;
    case OP_GT:
        return o > 0;
    default:
        return o >= 0;
    }
}

static JVal eval_compare(Jx *x, const Node *n) {
    JVal left = jx_eval(x, n->item.item[0]);
    bool holds = true;
    for (int i = 1; i < n->item.n && holds && !x->failed; i++) {
        JVal right = jx_eval(x, n->item.item[i]);
        if (x->failed) break;
        holds = compare(x, (CompareOp)n->op[i - 1], left, right);
        left = right;
    }
    return j_bool(holds);
}

static JVal eval_slice_part(Jx *x, const Node *n) { return n ? jx_eval(x, n) : j_none(); }

static JVal eval_slice(Jx *x, const Node *n) {
    JVal *part = heap_alloc(&x->heap, 3 * sizeof *part), v = {J_SLICE, {0}};
    part[0] = eval_slice_part(x, n->a);
    part[1] = eval_slice_part(x, n->b);
    part[2] = eval_slice_part(x, n->c);
    v.u.slice = part;
    return v;
}

static JVal eval_item(Jx *x, const Node *n) {
    JVal of = jx_eval(x, n->a), key = jx_eval(x, n->b);
    if (x->failed) return j_none();
    return n->b->kind == N_SLICE ? jx_slice(x, of, key.u.slice) : jx_getitem(x, of, key);
}

/* ---- calls ---- */

static void add_keyword(Jx *x, JArgs *a, int *cap, const JStr *name, JVal v) {
    for (int i = 0; i < a->n_kw; i++) {
        if (a->kw[i]->n == name->n && memcmp(a->kw[i]->s, name->s, name->n) == 0) {
            jx_fail(x, "got multiple values for keyword argument '%.60s'", name->s);
            return;
        }
    }
    if (a->n_kw == *cap) {
        int more = *cap ? 2 * *cap : 4;
        const JStr **kw = heap_alloc(&x->heap, (size_t)more * sizeof *kw);
        JVal *value = heap_alloc(&x->heap, (size_t)more * sizeof *value);
        if (a->n_kw) {
            memcpy(kw, a->kw, (size_t)a->n_kw * sizeof *kw);
            memcpy(value, a->kw_value, (size_t)a->n_kw * sizeof *value);
        }
        a->kw = kw;
        a->kw_value = value;
        *cap = more;
    }
    a->kw[a->n_kw] = name;
    a->kw_value[a->n_kw++] = v;
}

JVal jx_eval_args(Jx *x, const CallArgs *c, JArgs *out) {
    JList *pos = jx_list(x, (size_t)c->pos.n);
    int cap = 0;
    *out = (JArgs){0};
    for (int i = 0; i < c->pos.n && !x->failed; i++) jx_add(x, pos, jx_eval(x, c->pos.item[i]));
    if (c->star && !x->failed) {
        JVal v = jx_eval(x, c->star), item;
        JIter *it = x->failed ? NULL : jx_iter(x, v);
        while (it && jx_next(x, it, &item)) jx_add(x, pos, item);
    }
    for (int i = 0; i < c->n_kw && !x->failed; i++)
        add_keyword(x, out, &cap, c->kw[i].name, jx_eval(x, c->kw[i].value));
    if (c->star_star && !x->failed) {
        JVal v = jx_eval(x, c->star_star);
        if (!x->failed && v.kind != J_DICT) jx_fail(x, "argument after ** must be a mapping, not %s", j_type(v));
        for (size_t i = 0; !x->failed && i < v.u.dict->n; i++) {
            if (v.u.dict->key[i].kind != J_STR)
                jx_fail(x, "keywords must be strings");
            else
                add_keyword(x, out, &cap, v.u.dict->key[i].u.str, v.u.dict->value[i]);
        }
    }
    out->pos = pos->item;
    out->n_pos = (int)pos->n;
    return j_none();
}

static JVal eval_call(Jx *x, const Node *n) {
    JArgs a;
    JVal callee = jx_eval(x, n->a);
    if (x->failed) return callee;
    jx_eval_args(x, n->args, &a);
    if (x->failed) return j_none();
    x->line = n->line;
    return jx_call(x, callee, &a);
}

static JVal eval_filter_or_test(Jx *x, const Node *n) {
    JArgs a;
    JVal v = jx_eval(x, n->a);
    if (x->failed) return v;
    jx_eval_args(x, n->args, &a);
    if (x->failed) return j_none();
    x->line = n->line;
    if (n->test_index < 0)
        return jx_fail(x, "No %s named '%.60s' found.", n->kind == N_FILTER ? "filter" : "test", n->name->s);
    if (n->kind == N_FILTER) return jx_filter(x, n->test_index, v, &a);
    return j_bool(jx_test(x, n->test_index, v, &a));
}

static JVal eval_operator(Jx *x, const Node *n) {
    JVal a = jx_eval(x, n->a), b;
    if (x->failed) return a;
    switch (n->kind) {
    case N_NOT:
        return j_bool(!j_truth(a));
    case N_NEG:
        return jx_negate(x, a);
    case N_POS:
        if (a.kind == J_UNDEF) return jx_undef_error(x, a);
        if (!j_number(a)) return jx_fail(x, "bad operand type for unary +: '%s'", j_type(a));
        return a.kind == J_BOOL ? j_int(a.u.b) : a;
    case N_OR:
        return j_truth(a) ? a : jx_eval(x, n->b);
    case N_AND:
        return j_truth(a) ? jx_eval(x, n->b) : a;
    default:
        b = jx_eval(x, n->b);
        x->line = n->line;
        return x->failed ? b : jx_arith(x, n->kind, a, b);
    }
}

static JVal eval_cond(Jx *x, const Node *n) {
    JVal test = jx_eval(x, n->b);
    if (x->failed) return test;
    if (j_truth(test)) return jx_eval(x, n->a);
    if (n->c) return jx_eval(x, n->c);
    return jx_undef_why(x, "the inline if-expression evaluated to false and no else section was defined.");
}

static JVal eval_node(Jx *x, const Node *n) {
    JVal v;
    switch (n->kind) {
    case N_CONST:
    case N_DATA:
        return n->value;
    case N_NAME:
        v = *slot_at(x, n->ref);
        return v.kind == J_MISSING ? jx_undef(x, n->name, J_MISSING) : v;
    case N_TUPLE:
    case N_LIST:
        return eval_sequence(x, n);
    case N_DICT:
        return eval_dict(x, n);
    case N_COND:
        return eval_cond(x, n);
    case N_CONCAT:
        return eval_concat(x, n);
    case N_COMPARE:
        return eval_compare(x, n);
    case N_ATTR:
        v = jx_eval(x, n->a);
        x->line = n->line;
        return x->failed ? v : jx_getattr(x, v, n->name);
    case N_ITEM:
        return eval_item(x, n);
    case N_SLICE:
        return eval_slice(x, n);
    case N_CALL:
        return eval_call(x, n);
    case N_FILTER:
    case N_TEST:
        return eval_filter_or_test(x, n);
    default:
        return eval_operator(x, n);
    }
}

JVal jx_eval(Jx *x, const Node *n) {
    if (!jx_step(x, 1)) return j_none();
    if (n->kind == N_CONST || n->kind == N_NAME || n->kind == N_DATA) return eval_node(x, n);
    if (!jx_enter(x)) return j_none();
    x->line = n->line;
    JVal v = eval_node(x, n);
    jx_leave(x);
    return v;
}

/* ---- assignment ---- */

static void unpack(Jx *x, const Node *target, JVal v) {
    JIter *it = jx_iter(x, v);
    JVal item, part[64];
    int n = 0, want = target->item.n;
    if (x->failed) return;
    if (want > COUNT_OF(part)) {
        jx_fail(x, "more than %d targets", COUNT_OF(part));
        return;
    }
    while (n < want && jx_next(x, it, &item)) part[n++] = item;
    if (n < want)
        jx_fail(x, "not enough values to unpack (expected %d, got %d)", want, n);
    else if (jx_next(x, it, &item))
        jx_fail(x, "too many values to unpack (expected %d)", want);
    for (int i = 0; i < want && !x->failed; i++) jx_assign(x, target->item.item[i], part[i]);
}

void jx_assign(Jx *x, const Node *target, JVal v) {
    if (x->failed) return;
    x->line = target->line;
    if (target->kind == N_TUPLE) {
        unpack(x, target, v);
        return;
    }
    JVal *slot = slot_at(x, target->ref);
    if (target->kind == N_NAME)
        *slot = v;
    else if (slot->kind != J_NAMESPACE)
        jx_fail(x, "cannot assign attribute on non-namespace object");
    else if (target->value.u.str->n && target->value.u.str->s[0] == '_')
        jx_fail(x, "templates cannot store names with a leading underscore on a namespace, here '%.60s'",
                target->value.u.str->s);
    else
        jx_dict_set(x, slot->u.dict, target->value, v);
}
