/* jinja_scope.c — which variable a name means. Follows the reference's compiler, which turns a template into functions
 * with local variables:
 *
 *   frames    for, macro, call, generation, filter, with and set blocks open one; if does not. A frame first loads what
 * it uses: from the context (RESOLVE), from an outer frame it is about to overwrite (ALIAS), or nothing (UNDEFINED: it
 * is set here before it is read). So "set" in a loop does not leak and starts anew in every turn. functions macro, call
 * and generation bodies, recursive loops and loop conditions are closures: they see the variables of the frames around
 * their definition as they are when called.
 *
 * A variable is a slot of its function, found by (level of its frame, name): frames beside one another share it. */
#include "text/jinja_int.h"

#include <stdio.h>
#include <string.h>

typedef struct Func Func;
struct Func {
    Func *up;
    struct Slot {
        int level;
        const JStr *name;
    } * slot;
    int n, cap;
};

typedef struct Sym Sym;
typedef struct {
    const JStr *name;
    LoadKind kind;
    const Sym *outer;
} SymLoad;
struct Sym {
    Sym *parent;
    int level;
    Func *func;
    const JStr **ref, **store;
    SymLoad *load;
    int n_ref, n_store, n_load;
};

typedef struct {
    Sym *sym;
    bool toplevel, soft, in_loop;
} Frame;
typedef struct {
    Jx *x;
} Scope;

static bool same_name(const JStr *a, const JStr *b) { return a->n == b->n && memcmp(a->s, b->s, a->n) == 0; }
static bool is_word(const JStr *a, const char *word) { return a->n == strlen(word) && memcmp(a->s, word, a->n) == 0; }

/* Arrays that grow by one; capacity is the next power of two. */
static void *grown(Jx *x, void *array, int n, size_t size) {
    if (n > 0 && (n & (n - 1)) != 0) return array;
    void *more = heap_alloc(&x->heap, (size_t)(n ? 2 * n : 1) * size);
    if (n) memcpy(more, array, (size_t)n * size);
    return more;
}

static int slot_of(Scope *s, Func *f, int level, const JStr *name) {
    for (int i = 0; i < f->n; i++)
        if (f->slot[i].level == level && same_name(f->slot[i].name, name)) return i;
    f->slot = grown(s->x, f->slot, f->n, sizeof *f->slot);
    f->slot[f->n] = (struct Slot){level, name};
    return f->n++;
}

/* ---- a frame's symbols ---- */

static Sym *sym_new(Scope *s, Sym *parent, Func *func) {
    Sym *sym = heap_alloc(&s->x->heap, sizeof *sym);
    *sym = (Sym){.parent = parent, .level = parent ? parent->level + 1 : 0, .func = func};
    return sym;
}

static bool has_name(const JStr *const *list, int n, const JStr *name) {
    for (int i = 0; i < n; i++)
        if (same_name(list[i], name)) return true;
    return false;
}

static const Sym *find_ref(const Sym *sym, const JStr *name) {
    for (; sym; sym = sym->parent)
        if (has_name(sym->ref, sym->n_ref, name)) return sym;
    return NULL;
}

static void add_ref(Scope *s, Sym *sym, const JStr *name) {
    if (has_name(sym->ref, sym->n_ref, name)) return;
    sym->ref = grown(s->x, sym->ref, sym->n_ref, sizeof *sym->ref);
    sym->ref[sym->n_ref++] = name;
}

static void add_store(Scope *s, Sym *sym, const JStr *name) {
    if (has_name(sym->store, sym->n_store, name)) return;
    sym->store = grown(s->x, sym->store, sym->n_store, sizeof *sym->store);
    sym->store[sym->n_store++] = name;
}

static void set_load(Scope *s, Sym *sym, const JStr *name, LoadKind kind, const Sym *outer) {
    for (int i = 0; i < sym->n_load; i++) {
        if (!same_name(sym->load[i].name, name)) continue;
        sym->load[i] = (SymLoad){name, kind, outer};
        return;
    }
    sym->load = grown(s->x, sym->load, sym->n_load, sizeof *sym->load);
    sym->load[sym->n_load++] = (SymLoad){name, kind, outer};
}

static void define(Scope *s, Sym *sym, const JStr *name, LoadKind kind, const Sym *outer) {
    add_ref(s, sym, name);
    set_load(s, sym, name, kind, outer);
}

static void sym_load(Scope *s, Sym *sym, const JStr *name) {
    if (!find_ref(sym, name)) define(s, sym, name, LOAD_RESOLVE, NULL);
}

static void sym_param(Scope *s, Sym *sym, const JStr *name) {
    add_store(s, sym, name);
    define(s, sym, name, LOAD_PARAM, NULL);
}

static void sym_store(Scope *s, Sym *sym, const JStr *name) {
    add_store(s, sym, name);
    if (has_name(sym->ref, sym->n_ref, name)) return;
    const Sym *outer = find_ref(sym->parent, name);
    define(s, sym, name, outer ? LOAD_ALIAS : LOAD_UNDEFINED, outer);
}

static Sym *sym_copy(Scope *s, const Sym *of) {
    Sym *sym = sym_new(s, of->parent, of->func);
    for (int i = 0; i < of->n_ref; i++) add_ref(s, sym, of->ref[i]);
    for (int i = 0; i < of->n_store; i++) add_store(s, sym, of->store[i]);
    for (int i = 0; i < of->n_load; i++) set_load(s, sym, of->load[i].name, of->load[i].kind, of->load[i].outer);
    return sym;
}

/* What an if's branches set may or may not be set after it: so it begins with what it is outside. */
static void sym_merge(Scope *s, Sym *sym, Sym *const branch[3]) {
    const JStr **fresh = NULL;
    int n = 0;
    for (int b = 0; b < 3; b++) {
        for (int i = 0; i < branch[b]->n_store; i++) {
            const JStr *name = branch[b]->store[i];
            if (has_name(sym->store, sym->n_store, name) || has_name(fresh, n, name)) continue;
            fresh = grown(s->x, fresh, n, sizeof *fresh);
            fresh[n++] = name;
        }
    }
    for (int b = 0; b < 3; b++) {
        const Sym *from = branch[b];
        for (int i = 0; i < from->n_ref; i++) add_ref(s, sym, from->ref[i]);
        for (int i = 0; i < from->n_load; i++)
            set_load(s, sym, from->load[i].name, from->load[i].kind, from->load[i].outer);
        for (int i = 0; i < from->n_store; i++) add_store(s, sym, from->store[i]);
    }
    for (int i = 0; i < n; i++) {
        const Sym *outer = find_ref(sym->parent, fresh[i]);
        set_load(s, sym, fresh[i], outer ? LOAD_ALIAS : LOAD_RESOLVE, outer);
    }
}

/* ---- walking ---- */

typedef void VisitFn(Scope *s, void *ud, Node *n);

static void visit_list(Scope *s, const Nodes *l, VisitFn *fn, void *ud) {
    for (int i = 0; i < l->n && !s->x->failed; i++) fn(s, ud, l->item[i]);
}

static void visit_one(Scope *s, Node *n, VisitFn *fn, void *ud) {
    if (n) fn(s, ud, n);
}

static void visit_args(Scope *s, const CallArgs *c, VisitFn *fn, void *ud) {
    if (!c) return;
    visit_list(s, &c->pos, fn, ud);
    for (int i = 0; i < c->n_kw; i++) fn(s, ud, c->kw[i].value);
    visit_one(s, c->star, fn, ud);
    visit_one(s, c->star_star, fn, ud);
}

/* The children of a node in the reference's order of fields; it decides which use of a name comes first. */
static void visit_children(Scope *s, Node *n, VisitFn *fn, void *ud) {
    switch (n->kind) {
    case N_FOR:
        visit_one(s, n->a, fn, ud);
        visit_one(s, n->b, fn, ud);
        visit_list(s, &n->body, fn, ud);
        visit_list(s, &n->other, fn, ud);
        visit_one(s, n->c, fn, ud);
        break;
    case N_IF:
        visit_one(s, n->a, fn, ud);
        visit_list(s, &n->body, fn, ud);
        visit_list(s, &n->item, fn, ud);
        visit_list(s, &n->other, fn, ud);
        break;
    case N_COND:
        visit_one(s, n->b, fn, ud);
        visit_one(s, n->a, fn, ud);
        visit_one(s, n->c, fn, ud);
        break;
    case N_FILTER_BLOCK:
        visit_list(s, &n->body, fn, ud);
        visit_one(s, n->b, fn, ud);
        break;
    default: /* call; target, value or filter; operands; parameters or targets, defaults or values; body */
        visit_one(s, n->a, fn, ud);
        visit_one(s, n->b, fn, ud);
        visit_one(s, n->c, fn, ud);
        visit_list(s, &n->item, fn, ud);
        visit_list(s, &n->other, fn, ud);
        visit_list(s, &n->body, fn, ud);
        visit_args(s, n->args, fn, ud);
    }
}

/* Is `name` read in these nodes before it is set there? */
typedef struct {
    const char *name;
    bool read, set;
} Uses;

static void uses_visit(Scope *s, void *ud, Node *n) {
    Uses *u = ud;
    if (u->read || u->set || n->kind == N_BLOCK) return;
    if (n->kind == N_NAME && is_word(n->name, u->name)) {
        u->read = !n->store && !n->param;
        u->set = !u->read;
    } else
        visit_children(s, n, uses_visit, ud);
}

static bool uses(Scope *s, const Nodes *body, const char *name) {
    Uses u = {name, false, false};
    visit_list(s, body, uses_visit, &u);
    return u.read;
}

static void loop_set_visit(Scope *s, void *ud, Node *n) {
    if (n->kind == N_NAME && n->store && is_word(n->name, "loop") && !s->x->failed) {
        static const char text[] = "Can't assign to special loop variable in for-loop target";
        jx_fail_class(s->x, JINJA_SYNTAX, n->line, text, strlen(text));
    }
    visit_children(s, n, loop_set_visit, ud);
}

/* ---- finding a frame's symbols ---- */

static void analyze(Scope *s, void *ud, Node *n);

static Sym *analyze_branch(Scope *s, const Sym *sym, const Nodes *nodes) {
    Sym *copy = sym_copy(s, sym);
    visit_list(s, nodes, analyze, copy);
    return copy;
}

static void analyze_params(Scope *s, void *ud, Node *n) {
    if (n->kind == N_NAME)
        sym_param(s, ud, n->name);
    else
        visit_children(s, n, analyze_params, ud);
}

/* One node as the frame sees it; what opens a frame of its own is looked at only from outside. */
static void analyze(Scope *s, void *ud, Node *n) {
    Sym *sym = ud;
    switch (n->kind) {
    case N_NAME:
        if (n->param)
            sym_param(s, sym, n->name);
        else if (n->store)
            sym_store(s, sym, n->name);
        else
            sym_load(s, sym, n->name);
        break;
    case N_NSREF:
        sym_load(s, sym, n->name);
        break;
    case N_IF: {
        analyze(s, sym, n->a);
        Sym *branch[3];
        branch[0] = analyze_branch(s, sym, &n->body);
        branch[1] = analyze_branch(s, sym, &n->item);
        branch[2] = analyze_branch(s, sym, &n->other);
        sym_merge(s, sym, branch);
        break;
    }
    case N_MACRO:
        sym_store(s, sym, n->name);
        break;
    case N_SET:
        analyze(s, sym, n->b);
        analyze(s, sym, n->a);
        break;
    case N_SET_BLOCK:
        analyze(s, sym, n->a);
        break;
    case N_FOR:
    case N_FILTER_BLOCK:
        analyze(s, sym, n->b);
        break;
    case N_CALL_BLOCK:
        analyze(s, sym, n->a);
        break;
    case N_WITH:
        visit_list(s, &n->other, analyze, sym);
        break;
    case N_GENERATION:
    case N_SCOPE:
    case N_BLOCK:
    case N_REFUSED:
        break;
    default:
        visit_children(s, n, analyze, sym);
    }
}

/* ---- resolving ---- */

static bool resolve_ref(Scope *s, const Frame *f, const JStr *name, int line, Ref *ref) {
    const Sym *owner = find_ref(f->sym, name);
    if (!owner) { /* the filter of a set block does not declare its names: the reference stumbles here too */
        char text[120];
        int n = snprintf(text, sizeof text, "'%.60s' is not known in the filter of a set block", name->s);
        jx_fail_class(s->x, JINJA_RUNTIME, line, text, (size_t)n);
        return false;
    }
    ref->hops = 0;
    for (const Func *at = f->sym->func; at && at != owner->func; at = at->up) ref->hops++;
    ref->slot = slot_of(s, owner->func, owner->level, name);
    return true;
}

static void frame_loads(Scope *s, const Sym *sym, Loads *out) {
    out->load = heap_alloc(&s->x->heap, (size_t)(sym->n_load + 1) * sizeof *out->load);
    out->n = 0;
    for (int i = 0; i < sym->n_load; i++) {
        const SymLoad *l = &sym->load[i];
        Load load = {l->kind, slot_of(s, sym->func, sym->level, l->name), l->name, {0, 0}};
        if (l->kind == LOAD_ALIAS) {
            for (const Func *at = sym->func; at && at != l->outer->func; at = at->up) load.from.hops++;
            load.from.slot = slot_of(s, l->outer->func, l->outer->level, l->name);
        }
        out->load[out->n++] = load;
    }
}

static void resolve_body(Scope *s, const Nodes *body, Frame f);
static void resolve_top(Scope *s, Node *n, bool toplevel);

/* Names of filters and tests are checked here, but for those that an if may keep from being reached. */
static void check_name(Scope *s, const Frame *f, Node *n) {
    bool filter = n->kind == N_FILTER;
    n->test_index = filter ? j_find_filter(n->name) : j_find_test(n->name);
    if (n->test_index >= 0 || f->soft || s->x->failed) return;
    char text[120];
    int len = snprintf(text, sizeof text, "No %s named '%.60s'.", filter ? "filter" : "test", n->name->s);
    jx_fail_class(s->x, JINJA_SYNTAX, n->line, text, (size_t)len);
}

static void resolve_expr(Scope *s, void *ud, Node *n) {
    Frame f = *(const Frame *)ud;
    if (n->kind == N_COND) f.soft = true;
    if (n->kind == N_FILTER || n->kind == N_TEST) check_name(s, &f, n);
    if (n->kind == N_NAME || n->kind == N_NSREF)
        resolve_ref(s, &f, n->name, n->line, &n->ref);
    else
        visit_children(s, n, resolve_expr, &f);
}

static Frame inner(Scope *s, const Frame *f, Func *func) {
    return (Frame){sym_new(s, f->sym, func ? func : f->sym->func), false, false, func ? false : f->in_loop};
}

static Func *func_new(Scope *s, Func *up) {
    Func *f = heap_alloc(&s->x->heap, sizeof *f);
    f->up = up;
    return f;
}

/* The body of a macro, call or generation block: a function. */
static void resolve_macro_body(Scope *s, Node *n, const Frame *f) {
    Frame in = inner(s, f, func_new(s, f->sym->func));
    bool named = false; /* a parameter is called caller */
    static const struct {
        const char *name;
        size_t flag, ref;
    } extra[] = {{"caller", offsetof(Node, takes_caller), offsetof(Node, caller_ref)},
                 {"kwargs", offsetof(Node, takes_kwargs), offsetof(Node, kwargs_ref)},
                 {"varargs", offsetof(Node, takes_varargs), offsetof(Node, varargs_ref)}};
    for (int twice = 0; twice < 2; twice++) {
        visit_list(s, &n->item, analyze, in.sym);
        visit_list(s, &n->other, analyze, in.sym);
        visit_list(s, &n->body, analyze, in.sym);
        for (int e = 0; twice == 0 && e < COUNT_OF(extra); e++) {
            const JStr *name = jx_str_own(s->x, extra[e].name, strlen(extra[e].name));
            bool param = false;
            for (int i = 0; i < n->item.n; i++) param = param || same_name(n->item.item[i]->name, name);
            named = named || (e == 0 && param);
            if (!uses(s, &n->body, extra[e].name) || param) continue;
            sym_param(s, in.sym, name);
            *(bool *)((char *)n + extra[e].flag) = true;
            resolve_ref(s, &in, name, n->line, (Ref *)((char *)n + extra[e].ref));
        }
    }
    if (named && uses(s, &n->body, "caller")) { /* then it must have a default */
        for (int i = 0; i < n->item.n - n->other.n && !s->x->failed; i++) {
            static const char text[] = "the special \"caller\" argument must be omitted or be given a default";
            if (is_word(n->item.item[i]->name, "caller"))
                jx_fail_class(s->x, JINJA_SYNTAX, n->line, text, strlen(text));
        }
        n->takes_caller = false;
    }
    visit_list(s, &n->item, resolve_expr, &in);
    visit_list(s, &n->other, resolve_expr, &in);
    resolve_body(s, &n->body, in);
    frame_loads(s, in.sym, &n->loads);
    n->n_slot = in.sym->func->n;
}

static Node *clone_target(Scope *s, const Node *n) {
    Node *c = heap_alloc(&s->x->heap, sizeof *c);
    *c = *n;
    c->item.item = heap_alloc(&s->x->heap, (size_t)(n->item.n + 1) * sizeof(Node *));
    for (int i = 0; i < n->item.n; i++) c->item.item[i] = clone_target(s, n->item.item[i]);
    return c;
}

static void resolve_condition(Scope *s, Node *n, const Frame *f) {
    Frame test = inner(s, f, func_new(s, f->sym->func));
    analyze_params(s, test.sym, n->a);
    analyze(s, test.sym, n->c);
    n->test_target = clone_target(s, n->a);
    resolve_expr(s, &test, n->test_target);
    resolve_expr(s, &test, n->c);
    frame_loads(s, test.sym, &n->test_loads);
    n->test_slots = test.sym->func->n;
}

static void resolve_for(Scope *s, Node *n, Frame *f) {
    loop_set_visit(s, NULL, n);
    Func *func = n->recursive ? func_new(s, f->sym->func) : NULL;
    Frame body = inner(s, f, func), otherwise = body;
    otherwise.sym = sym_new(s, f->sym, body.sym->func);
    body.in_loop = true;
    n->extended = n->recursive || uses(s, &n->body, "loop");
    const JStr *loop = jx_str_own(s->x, "loop", 4);
    if (n->extended) sym_param(s, body.sym, loop);
    analyze_params(s, body.sym, n->a);
    visit_list(s, &n->body, analyze, body.sym);
    if (n->extended) resolve_ref(s, &body, loop, n->line, &n->ref);
    visit_list(s, &n->other, analyze, otherwise.sym);
    if (n->c) resolve_condition(s, n, f);
    resolve_expr(s, f, n->b);
    resolve_expr(s, &body, n->a);
    resolve_body(s, &n->body, body);
    resolve_body(s, &n->other, otherwise);
    frame_loads(s, body.sym, &n->loads);
    frame_loads(s, otherwise.sym, &n->else_loads);
    n->n_slot = func ? func->n : 0;
}

static void resolve_if(Scope *s, Node *n, Frame f) {
    f.soft = true;
    resolve_expr(s, &f, n->a);
    resolve_body(s, &n->body, f);
    for (int i = 0; i < n->item.n; i++) resolve_if(s, n->item.item[i], f);
    resolve_body(s, &n->other, f);
}

/* set x | filter %}...: the body is a frame; the filter's arguments are read in it, but did not declare their names. */
static void resolve_set_block(Scope *s, Node *n, Frame *f) {
    Frame in = inner(s, f, NULL);
    visit_list(s, &n->body, analyze, in.sym);
    resolve_body(s, &n->body, in);
    resolve_expr(s, f, n->a);
    if (n->b) resolve_expr(s, &in, n->b);
    frame_loads(s, in.sym, &n->loads);
}

static void resolve_inner(Scope *s, Node *n, Frame *f) {
    Frame in = inner(s, f, NULL);
    if (n->kind == N_WITH) visit_list(s, &n->item, analyze, in.sym);
    visit_list(s, &n->body, analyze, in.sym);
    if (n->kind == N_FILTER_BLOCK) analyze(s, in.sym, n->b);
    visit_list(s, &n->item, resolve_expr, &in);
    visit_list(s, &n->other, resolve_expr, f);
    resolve_body(s, &n->body, in);
    if (n->kind == N_FILTER_BLOCK) resolve_expr(s, &in, n->b);
    frame_loads(s, in.sym, &n->loads);
}

static void resolve_statement(Scope *s, Node *n, Frame f) {
    n->exported = f.toplevel;
    switch (n->kind) {
    case N_OUTPUT:
        visit_list(s, &n->item, resolve_expr, &f);
        break;
    case N_IF:
        resolve_if(s, n, f);
        break;
    case N_FOR:
        resolve_for(s, n, &f);
        break;
    case N_SET:
        resolve_expr(s, &f, n->b);
        resolve_expr(s, &f, n->a);
        break;
    case N_SET_BLOCK:
        resolve_set_block(s, n, &f);
        break;
    case N_MACRO:
        resolve_macro_body(s, n, &f);
        resolve_ref(s, &f, n->name, n->line, &n->ref);
        break;
    case N_CALL_BLOCK:
        resolve_macro_body(s, n, &f);
        resolve_expr(s, &f, n->a);
        break;
    case N_GENERATION:
        resolve_macro_body(s, n, &f);
        break;
    case N_FILTER_BLOCK:
    case N_WITH:
    case N_SCOPE:
        resolve_inner(s, n, &f);
        break;
    case N_BLOCK:
        resolve_top(s, n, false); /* a function of its own that knows the context only */
        break;
    case N_BREAK:
    case N_CONTINUE:
        if (!f.in_loop && !s->x->failed) {
            const char *text = n->kind == N_BREAK ? "'break' outside loop" : "'continue' not properly in loop";
            jx_fail_class(s->x, JINJA_SYNTAX, n->line, text, strlen(text));
        }
        break;
    default:
        break;
    }
}

static void resolve_body(Scope *s, const Nodes *body, Frame f) {
    for (int i = 0; i < body->n && !s->x->failed; i++) resolve_statement(s, body->item[i], f);
}

static void block_visit(Scope *s, void *ud, Node *n) {
    Nodes *b = ud;
    if (n->kind == N_BLOCK) {
        for (int i = 0; i < b->n && !s->x->failed; i++) {
            if (!same_name(b->item[i]->name, n->name)) continue;
            char text[100];
            int len = snprintf(text, sizeof text, "block '%.60s' defined twice", n->name->s);
            jx_fail_class(s->x, JINJA_SYNTAX, n->line, text, (size_t)len);
        }
        b->item = grown(s->x, b->item, b->n, sizeof(Node *));
        b->item[b->n++] = n;
    }
    visit_children(s, n, block_visit, ud);
}

/* The variables of the template, or of a named block. */
static void resolve_top(Scope *s, Node *n, bool toplevel) {
    Frame f = {sym_new(s, NULL, func_new(s, NULL)), toplevel, false, false};
    n->extended = uses(s, &n->body, "self");
    const JStr *self = jx_str_own(s->x, "self", 4);
    if (n->extended) sym_param(s, f.sym, self);
    visit_list(s, &n->body, analyze, f.sym);
    if (n->extended) resolve_ref(s, &f, self, n->line, &n->ref);
    resolve_body(s, &n->body, f);
    frame_loads(s, f.sym, &n->loads);
    n->n_slot = f.sym->func->n;
}

bool scope_resolve(Jx *x, Node *root, Nodes *block) {
    Scope s = {x};
    block_visit(&s, block, root);
    resolve_top(&s, root, true);
    return !x->failed;
}
