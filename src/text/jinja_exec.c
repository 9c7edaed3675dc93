/* jinja_exec.c — statements, and the rendering of a whole template. */
#include "text/jinja_int.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct JMacro {
    const Node *node;
    Env *env;
    const JStr *name;
};

struct JLoop {
    const Node *node; /* of a recursive loop */
    Env *env;         /* where that was defined */
    JIter *iter;
    JVal iterable, before, current, after, changed;
    int64_t index0, length, depth0; /* length -1: not asked for yet */
};

/* ---- failing, counting ---- */

JVal jx_fail_class(Jx *x, JinjaClass cls, int line, const char *text, size_t n) {
    if (!x->failed) {
        x->failed = true;
        x->err->cls = cls;
        x->err->line = line;
        str_clear(&x->err->message);
        str_putn(&x->err->message, text, n);
    }
    return j_none();
}

JVal jx_fail(Jx *x, const char *fmt, ...) {
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return jx_fail_class(x, JINJA_RUNTIME, x->line, text, strlen(text));
}

bool jx_step(Jx *x, int64_t cost) {
    x->fuel -= cost;
    if (x->fuel < 0) jx_fail(x, "the template takes more than %d steps", JINJA_MAX_STEPS);
    return !x->failed;
}

bool jx_enter(Jx *x) {
    if (x->depth >= MAX_DEPTH) jx_fail(x, "nested too deeply");
    if (x->failed) return false;
    x->depth++;
    return true;
}

/* ---- variables ---- */

static JVal *slot_at(Env *e, Ref r) {
    for (int i = 0; i < r.hops; i++) e = e->up;
    return &e->slot[r.slot];
}

static Env *env_new(Jx *x, Env *up, int n_slot) {
    Env *e = heap_alloc(&x->heap, sizeof *e + (size_t)n_slot * sizeof(JVal));
    e->up = up;
    return e;
}

static JVal resolve(Jx *x, const JStr *name) {
    JVal *v = jx_dict_get(x, x->vars, j_str(name));
    if (!v) v = jx_dict_get(x, x->context, j_str(name));
    return v ? *v : j_missing();
}

void jx_load(Jx *x, const Loads *l) {
    for (int i = 0; i < l->n; i++) {
        const Load *load = &l->load[i];
        if (load->kind == LOAD_PARAM) continue;
        JVal v = load->kind == LOAD_RESOLVE ? resolve(x, load->name)
                 : load->kind == LOAD_ALIAS ? *slot_at(x->env, load->from)
                                            : j_missing();
        x->env->slot[load->slot] = v;
    }
}

void jx_unload(Jx *x, const Loads *l) {
    for (int i = 0; i < l->n; i++) x->env->slot[l->load[i].slot] = j_missing();
}

static void export(Jx *x, const Node *target) {
    for (int i = 0; i < target->item.n; i++) export(x, target->item.item[i]);
    if (target->kind == N_NAME && !x->failed)
        jx_dict_set(x, x->vars, j_str(target->name), *slot_at(x->env, target->ref));
}

/* ---- output ---- */

void jx_write(Jx *x, JVal v) {
    jx_put(x, x->out, v);
    if (x->out->n > JINJA_MAX_OUTPUT) jx_fail(x, "the text grows beyond %d bytes", JINJA_MAX_OUTPUT);
}

/* What a filter or call block makes: the reference takes texts only here. */
static void write_text(Jx *x, JVal v) {
    if (x->failed) return;
    if (v.kind == J_STR)
        jx_write(x, v);
    else
        jx_fail(x, "expected str instance, %s found", j_type(v));
}

/* What body writes, as a text. */
static JVal captured(Jx *x, const Nodes *body) {
    Str text = {0}, *outer = x->out;
    x->out = &text;
    jx_exec(x, body);
    x->out = outer;
    return jx_take(x, &text);
}

/* ---- loops ---- */

static bool loop_peek(Jx *x, JLoop *l) {
    if (l->after.kind == J_MISSING) {
        JVal v;
        if (jx_next(x, l->iter, &v)) l->after = v;
    }
    return l->after.kind != J_MISSING;
}

static bool loop_step(Jx *x, JLoop *l, JVal *item) {
    if (!loop_peek(x, l)) return false;
    *item = l->after;
    l->after = j_missing();
    l->index0++;
    l->before = l->current;
    l->current = *item;
    return true;
}

bool jx_loop_len(Jx *x, JLoop *l, int64_t *n) {
    if (l->length < 0) {
        if (j_has_len(l->iterable))
            jx_len(x, l->iterable, &l->length);
        else {
            JList *rest = jx_collect(x, j_iter(l->iter));
            l->iter = jx_iter(x, j_list(rest));
            l->length = (int64_t)rest->n + l->index0 + 1 + (l->after.kind != J_MISSING);
        }
    }
    *n = l->length;
    return !x->failed;
}

bool jx_loop_next(Jx *x, JLoop *l, JVal *item) {
    JList *pair = jx_list(x, 2);
    JVal v, self = {J_LOOP, {0}};
    if (!loop_step(x, l, &v)) return false;
    self.u.loop = l;
    jx_add(x, pair, v);
    jx_add(x, pair, self);
    *item = j_tuple(pair);
    return true;
}

JVal jx_loop_attr(Jx *x, JLoop *l, const char *name, bool *known) {
    int64_t n;
    *known = true;
    if (strcmp(name, "index") == 0) return j_int(l->index0 + 1);
    if (strcmp(name, "index0") == 0) return j_int(l->index0);
    if (strcmp(name, "first") == 0) return j_bool(l->index0 == 0);
    if (strcmp(name, "last") == 0) return j_bool(!loop_peek(x, l));
    if (strcmp(name, "depth") == 0) return j_int(l->depth0 + 1);
    if (strcmp(name, "depth0") == 0) return j_int(l->depth0);
    if (strcmp(name, "previtem") == 0) return l->index0 == 0 ? jx_undef_why(x, "there is no previous item") : l->before;
    if (strcmp(name, "nextitem") == 0) return loop_peek(x, l) ? l->after : jx_undef_why(x, "there is no next item");
    if (strcmp(name, "length") == 0) return jx_loop_len(x, l, &n) ? j_int(n) : j_none();
    if (strcmp(name, "revindex") == 0) return jx_loop_len(x, l, &n) ? j_int(n - l->index0) : j_none();
    if (strcmp(name, "revindex0") == 0) return jx_loop_len(x, l, &n) ? j_int(n - l->index0 - 1) : j_none();
    *known = false;
    return j_none();
}

JVal jx_loop_method(Jx *x, JLoop *l, bool changed, const JArgs *a) {
    if (a->n_kw) return jx_fail(x, "got an unexpected keyword argument '%.60s'", a->kw[0]->s);
    if (!changed) {
        if (a->n_pos == 0) return jx_fail(x, "no items for cycling given");
        return a->pos[l->index0 % a->n_pos];
    }
    JList *value = jx_list(x, (size_t)a->n_pos);
    for (int i = 0; i < a->n_pos; i++) jx_add(x, value, a->pos[i]);
    if (l->changed.kind != J_MISSING && jx_equal(x, l->changed, j_tuple(value))) return j_bool(false);
    l->changed = j_tuple(value);
    return j_bool(true);
}

void jx_put_loop(Jx *x, Str *out, JLoop *l) {
    int64_t n;
    if (jx_loop_len(x, l, &n)) str_printf(out, "<LoopContext %lld/%lld>", (long long)l->index0 + 1, (long long)n);
}

/* for ... if: a generator with variables of its own. */
typedef struct {
    const Node *node;
    Env *env;
    JIter *iter;
    bool loaded;
} Condition;

/* What the generator hands on: its variables, so a tuple where there are several. */
static JVal target_value(Jx *x, const Node *target) {
    if (target->kind == N_NAME) return *slot_at(x->env, target->ref);
    JList *l = jx_list(x, (size_t)target->item.n);
    for (int i = 0; i < target->item.n; i++) jx_add(x, l, target_value(x, target->item.item[i]));
    return j_tuple(l);
}

static bool next_that_holds(Jx *x, void *ud, JVal *v) {
    Condition *c = ud;
    Env *outer = x->env;
    bool found = false;
    x->env = c->env;
    if (!c->loaded) jx_load(x, &c->node->test_loads);
    c->loaded = true;
    while (!found && !x->failed && jx_next(x, c->iter, v)) {
        jx_assign(x, c->node->test_target, *v);
        found = !x->failed && j_truth(jx_eval(x, c->node->c)) && !x->failed;
        if (found) *v = target_value(x, c->node->test_target);
    }
    x->env = outer;
    return found;
}

static void run_for(Jx *x, const Node *n, JVal items, Env *defined, int64_t depth0) {
    JLoop *l = heap_alloc(&x->heap, sizeof *l);
    JVal item, self = {J_LOOP, {0}};
    *l = (JLoop){.node = n->recursive ? n : NULL,
                 .env = defined,
                 .iterable = items,
                 .index0 = -1,
                 .length = -1,
                 .depth0 = depth0};
    self.u.loop = l;
    l->iter = jx_iter(x, items);
    if (n->c && !x->failed) {
        Condition *c = heap_alloc(&x->heap, sizeof *c);
        *c = (Condition){n, env_new(x, defined, n->test_slots), l->iter, false};
        l->iter = jx_iter_fn(x, next_that_holds, c, "generator");
        l->iterable = j_iter(l->iter);
    }
    bool empty = true;
    while (!x->failed && loop_step(x, l, &item)) {
        if (n->a->kind == N_NAME)
            *slot_at(x->env, n->a->ref) = item;
        else
            jx_assign(x, n->a, item);
        if (n->extended) *slot_at(x->env, n->ref) = self;
        jx_load(x, &n->loads);
        jx_exec(x, &n->body);
        bool leave = x->stop_break;
        if (!x->stop_break && !x->stop_continue) empty = false;
        x->stop_break = x->stop_continue = false;
        if (leave) break;
    }
    jx_unload(x, &n->loads);
    if (!empty || x->failed || n->other.n == 0) return;
    jx_load(x, &n->else_loads);
    jx_exec(x, &n->other);
    jx_unload(x, &n->else_loads);
}

static bool call_begin(Jx *x) {
    if (x->calls >= JINJA_MAX_CALLS)
        jx_fail(x, "more than %d macros or recursive loops inside one another", JINJA_MAX_CALLS);
    if (x->failed || !jx_enter(x)) return false;
    x->calls++;
    return true;
}

static void call_end(Jx *x) {
    x->calls--;
    jx_leave(x);
}

static JVal recursive_loop(Jx *x, const Node *n, JVal items, Env *defined, int64_t depth0) {
    Str text = {0}, *out = x->out;
    Env *outer = x->env;
    if (!call_begin(x)) return j_none();
    x->env = env_new(x, defined, n->n_slot);
    x->out = &text;
    run_for(x, n, items, defined, depth0);
    x->out = out;
    x->env = outer;
    call_end(x);
    return jx_take(x, &text);
}

JVal jx_call_loop(Jx *x, JLoop *l, JVal items) {
    if (!l->node) return jx_fail(x, "The loop must have the 'recursive' marker to be called recursively.");
    return recursive_loop(x, l->node, items, l->env, l->depth0 + 1);
}

static void exec_for(Jx *x, const Node *n) {
    JVal items = jx_eval(x, n->b);
    if (x->failed) return;
    if (n->recursive)
        jx_write(x, recursive_loop(x, n, items, x->env, 0));
    else
        run_for(x, n, items, x->env, 0);
}

/* ---- macros ---- */

static bool take_keyword(const JArgs *a, bool *used, const char *name, JVal *v) {
    for (int i = 0; i < a->n_kw; i++) {
        if (used[i] || strlen(name) != a->kw[i]->n || memcmp(a->kw[i]->s, name, a->kw[i]->n)) continue;
        used[i] = true;
        *v = a->kw_value[i];
        return true;
    }
    return false;
}

/* What is left of the arguments once the parameters have theirs. */
static void macro_rest(Jx *x, const JMacro *m, const JArgs *a, bool *used, Env *env) {
    const Node *n = m->node;
    const char *name = m->name ? m->name->s : "caller";
    JDict *kwargs = jx_dict(x);
    JVal caller;
    if (n->takes_caller) {
        if (!take_keyword(a, used, "caller", &caller) || caller.kind == J_NONE)
            caller = jx_undef_why(x, "No caller defined");
        *slot_at(env, n->caller_ref) = caller;
    }
    for (int i = 0; i < a->n_kw; i++)
        if (!used[i]) jx_dict_set(x, kwargs, j_str(a->kw[i]), a->kw_value[i]);
    if (n->takes_kwargs)
        *slot_at(env, n->kwargs_ref) = j_dict(kwargs);
    else if (kwargs->n)
        jx_fail(x, "macro '%.60s' takes no keyword argument '%.60s'", name, kwargs->key[0].u.str->s);
    if (n->takes_varargs) {
        JList *rest = jx_list(x, 0);
        for (int i = n->item.n; i < a->n_pos; i++) jx_add(x, rest, a->pos[i]);
        *slot_at(env, n->varargs_ref) = j_tuple(rest);
    } else if (a->n_pos > n->item.n)
        jx_fail(x, "macro '%.60s' takes not more than %d argument(s)", name, n->item.n);
}

static void macro_defaults(Jx *x, const Node *n) {
    int first = n->item.n - n->other.n;
    for (int i = 0; i < n->item.n && !x->failed; i++) {
        JVal *slot = slot_at(x->env, n->item.item[i]->ref);
        if (slot->kind != J_MISSING) continue;
        JVal v = i >= first ? jx_eval(x, n->other.item[i - first]) : jx_undef(x, n->item.item[i]->name, J_MISSING);
        *slot = v;
    }
}

JVal jx_call_macro(Jx *x, const JMacro *m, const JArgs *a) {
    const Node *n = m->node;
    Env *outer = x->env, *env = env_new(x, m->env, n->n_slot);
    bool *used = heap_alloc(&x->heap, (size_t)a->n_kw + 1);
    for (int i = 0; i < n->item.n; i++) {
        JVal *slot = slot_at(env, n->item.item[i]->ref);
        if (i < a->n_pos)
            *slot = a->pos[i];
        else
            take_keyword(a, used, n->item.item[i]->name->s, slot);
    }
    macro_rest(x, m, a, used, env);
    if (x->failed || !call_begin(x)) return j_none();
    x->env = env;
    jx_load(x, &n->loads);
    macro_defaults(x, n);
    JVal text = captured(x, &n->body);
    x->env = outer;
    call_end(x);
    return text;
}

const JStr *j_macro_name(const JMacro *m) { return m->name; }

JVal jx_macro_attr(Jx *x, const JMacro *m, const char *name, bool *known) {
    *known = true;
    if (strcmp(name, "name") == 0) return m->name ? j_str(m->name) : j_none();
    if (strcmp(name, "catch_kwargs") == 0) return j_bool(m->node->takes_kwargs);
    if (strcmp(name, "catch_varargs") == 0) return j_bool(m->node->takes_varargs);
    if (strcmp(name, "caller") == 0) return j_bool(m->node->takes_caller);
    *known = strcmp(name, "arguments") == 0;
    JList *l = jx_list(x, 0);
    for (int i = 0; i < m->node->item.n; i++) jx_add(x, l, j_str(m->node->item.item[i]->name));
    return j_tuple(l);
}

static JVal macro_value(Jx *x, const Node *n) {
    JMacro *m = heap_alloc(&x->heap, sizeof *m);
    JVal v = {J_MACRO, {0}};
    *m = (JMacro){n, x->env, n->kind == N_MACRO ? n->name : NULL};
    v.u.macro = m;
    return v;
}

static void exec_call_block(Jx *x, const Node *n) {
    static const JStr caller = {"caller", 6, 6, false};
    JArgs a;
    JVal callee = jx_eval(x, n->a->a);
    if (!x->failed) jx_eval_args(x, n->a->args, &a);
    if (x->failed) return;
    const JStr **kw = heap_alloc(&x->heap, (size_t)(a.n_kw + 1) * sizeof *kw);
    JVal *value = heap_alloc(&x->heap, (size_t)(a.n_kw + 1) * sizeof *value);
    for (int i = 0; i < a.n_kw; i++) {
        kw[i] = a.kw[i];
        value[i] = a.kw_value[i];
    }
    kw[a.n_kw] = &caller;
    value[a.n_kw++] = macro_value(x, n);
    a.kw = kw;
    a.kw_value = value;
    write_text(x, jx_call(x, callee, &a));
}

/* The span's begin is what has left the template so far: inside a macro or a set block, what came before that. */
static void exec_generation(Jx *x, const Node *n) {
    JVal m = macro_value(x, n), text = jx_call_macro(x, m.u.macro, &(JArgs){0});
    if (x->failed) return;
    JinjaOut *r = x->result;
    x->root_chars += j_count(str_get(&x->root) + x->root_counted, x->root.n - x->root_counted);
    x->root_counted = x->root.n;
    if (r->n_span == x->cap_span) {
        x->cap_span = x->cap_span ? 2 * x->cap_span : 8;
        r->span = mem_grow(r->span, (size_t)x->cap_span * sizeof *r->span);
    }
    int64_t begin = (int64_t)x->root_chars;
    r->span[r->n_span++] = (JinjaSpan){begin, begin + (int64_t)text.u.str->n_char};
    jx_write(x, text);
}

/* ---- the others ---- */

static void exec_set_block(Jx *x, const Node *n) {
    jx_load(x, &n->loads);
    JVal v = captured(x, &n->body);
    if (n->b && !x->failed) { /* the innermost filter's operand is the text */
        const Node *chain[64];
        int depth = 0;
        for (const Node *f = n->b; f && depth < COUNT_OF(chain); f = f->a) chain[depth++] = f;
        while (depth-- > 0 && !x->failed) {
            JArgs a;
            jx_eval_args(x, chain[depth]->args, &a);
            if (!x->failed) v = jx_filter(x, chain[depth]->test_index, v, &a);
        }
    }
    if (n->kind == N_SET_BLOCK)
        jx_assign(x, n->a, v);
    else
        write_text(x, v);
    jx_unload(x, &n->loads);
    if (n->kind == N_SET_BLOCK && n->exported) export(x, n->a);
}

/* set ns.a = ...: what ns is matters before the value is looked at. */
static void check_namespaces(Jx *x, const Node *target) {
    for (int i = 0; i < target->item.n; i++) check_namespaces(x, target->item.item[i]);
    if (target->kind == N_NSREF && slot_at(x->env, target->ref)->kind != J_NAMESPACE)
        jx_fail(x, "cannot assign attribute on non-namespace object");
}

static void exec_with(Jx *x, const Node *n) {
    JVal v[64];
    if (n->item.n > COUNT_OF(v)) {
        jx_fail(x, "more than %d variables", COUNT_OF(v));
        return;
    }
    jx_load(x, &n->loads);
    for (int i = 0; i < n->item.n && !x->failed; i++) {
        v[i] = jx_eval(x, n->other.item[i]);
        jx_assign(x, n->item.item[i], v[i]);
    }
    jx_exec(x, &n->body);
    jx_unload(x, &n->loads);
}

static void exec_if(Jx *x, const Node *n) {
    JVal test = jx_eval(x, n->a);
    if (x->failed) return;
    if (j_truth(test)) {
        jx_exec(x, &n->body);
        return;
    }
    for (int i = 0; i < n->item.n && !x->failed; i++) {
        const Node *branch = n->item.item[i];
        test = jx_eval(x, branch->a);
        if (x->failed) return;
        if (!j_truth(test)) continue;
        jx_exec(x, &branch->body);
        return;
    }
    jx_exec(x, &n->other);
}

void jx_enter_top(Jx *x, const Node *n) {
    Env *outer = x->env;
    JVal self = {J_SELF, {0}};
    x->env = env_new(x, NULL, n->n_slot);
    if (n->extended) *slot_at(x->env, n->ref) = self;
    jx_load(x, &n->loads);
    jx_exec(x, &n->body);
    x->env = outer;
}

JVal jx_call_block(Jx *x, const Node *block) {
    Str text = {0}, *out = x->out;
    if (!call_begin(x)) return j_none();
    x->out = &text;
    jx_enter_top(x, block);
    x->out = out;
    call_end(x);
    return jx_take(x, &text);
}

static void exec_output(Jx *x, const Node *n) {
    for (int i = 0; i < n->item.n && !x->failed; i++) {
        JVal v = jx_eval(x, n->item.item[i]);
        if (!x->failed) jx_write(x, v);
    }
}

static void exec_one(Jx *x, const Node *n) {
    x->line = n->line;
    switch (n->kind) {
    case N_OUTPUT:
        exec_output(x, n);
        break;
    case N_FOR:
        exec_for(x, n);
        break;
    case N_IF:
        exec_if(x, n);
        break;
    case N_SET:
        check_namespaces(x, n->a);
        if (x->failed) break;
        jx_assign(x, n->a, jx_eval(x, n->b));
        if (n->exported && !x->failed) export(x, n->a);
        break;
    case N_SET_BLOCK:
    case N_FILTER_BLOCK:
        exec_set_block(x, n);
        break;
    case N_MACRO:
        *slot_at(x->env, n->ref) = macro_value(x, n);
        if (n->exported) jx_dict_set(x, x->vars, j_str(n->name), *slot_at(x->env, n->ref));
        break;
    case N_CALL_BLOCK:
        exec_call_block(x, n);
        break;
    case N_GENERATION:
        exec_generation(x, n);
        break;
    case N_WITH:
        exec_with(x, n);
        break;
    case N_SCOPE:
        jx_load(x, &n->loads);
        jx_exec(x, &n->body);
        jx_unload(x, &n->loads);
        break;
    case N_BLOCK:
        jx_enter_top(x, n);
        break;
    case N_BREAK:
        x->stop_break = true;
        break;
    case N_CONTINUE:
        x->stop_continue = true;
        break;
    default:
        jx_fail(x, "'%s' is not supported in chat templates", n->name->s);
    }
}

void jx_exec(Jx *x, const Nodes *body) {
    for (int i = 0; i < body->n && !x->failed && !x->stop_break && !x->stop_continue; i++) {
        if (!jx_step(x, 1) || !jx_enter(x)) return;
        exec_one(x, body->item[i]);
        jx_leave(x);
    }
}
