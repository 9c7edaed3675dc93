/* jinja.c — templates from outside: parsing, and rendering one over a conversation. */
#include "text/jinja_int.h"

#include <stdlib.h>
#include <string.h>

const char *jinja_class_name(JinjaClass c) {
    static const char *const name[] = {"ok", "syntax", "runtime", "raised"};
    return name[c];
}

void jinja_error_release(JinjaError *e) {
    str_release(&e->message);
    *e = (JinjaError){0};
}

static void error_clear(JinjaError *e) {
    str_clear(&e->message);
    e->cls = JINJA_OK;
    e->line = 0;
}

bool jinja_parse(JinjaTemplate **out, const char *source, size_t n, JinjaError *err) {
    Jx x = {.err = err, .fuel = INT64_MAX / 2};
    JinjaTemplate *t = mem_alloc(sizeof *t);
    error_clear(err);
    *out = NULL;
    if (n > JINJA_MAX_SOURCE) jx_fail_class(&x, JINJA_SYNTAX, 1, "the template is longer than 256 kB", 34);
    Parser p = {.x = &x};
    if (!x.failed) p.tok = jinja_lex(&x, source, n, &p.n);
    if (!x.failed) {
        t->root = parse_template(&p);
        t->generation = p.generation;
    }
    if (!x.failed) scope_resolve(&x, t->root, &t->block);
    t->heap = x.heap;
    if (!x.failed) {
        *out = t;
        return true;
    }
    jinja_close(t);
    return false;
}

void jinja_close(JinjaTemplate *t) {
    if (!t) return;
    heap_release(&t->heap);
    free(t);
}

bool jinja_has_generation(const JinjaTemplate *t) { return t->generation; }

void jinja_out_release(JinjaOut *o) {
    str_release(&o->text);
    free(o->span);
    *o = (JinjaOut){0};
}

/* ---- what a conversation becomes before a template sees it ---- */

/* Reasoning is known by three names; a message that has it under one gets it as reasoning_content and thinking. */
static JDict *with_reasoning(Jx *x, JDict *m) {
    static const char *const name[] = {"reasoning_content", "thinking", "reasoning"};
    JVal *found = NULL;
    for (int i = 0; i < COUNT_OF(name) && !found; i++) {
        found = jx_dict_find(x, m, name[i]);
        if (found && found->kind == J_NONE) found = NULL;
    }
    if (!found) return m;
    JDict *d = jx_dict(x);
    JVal reasoning = *found;
    jx_dict_set(x, d, jx_strz(x, "thinking"), reasoning);
    for (size_t i = 0; i < m->n; i++) jx_dict_set(x, d, m->key[i], m->value[i]);
    jx_dict_set(x, d, jx_strz(x, "reasoning_content"), reasoning);
    return d;
}

static JVal message_value(Jx *x, const Json *j, bool keep_nulls) {
    JVal v = jx_from_json(x, j);
    if (x->failed) return v;
    if (v.kind != J_DICT) return jx_fail(x, "a message must be an object, not %s", j_type(v));
    JDict *m = v.u.dict;
    if (!keep_nulls) {
        m = jx_dict(x);
        for (size_t i = 0; i < v.u.dict->n; i++)
            if (v.u.dict->value[i].kind != J_NONE) jx_dict_set(x, m, v.u.dict->key[i], v.u.dict->value[i]);
    }
    return j_dict(with_reasoning(x, m));
}

static void set(Jx *x, const char *name, JVal v) { jx_dict_set(x, x->context, jx_strz(x, name), v); }

static void fill_context(Jx *x, const JinjaChat *c) {
    JList *messages = jx_list(x, 0);
    for (int f = 0; f < FUNC_COUNT; f++) {
        JVal v = {J_FUNC, {0}};
        v.u.i = 0;
        v.u.func = f;
        set(x, j_func_name(f), v);
    }
    for (int i = 0; i < json_len(c->messages) && !x->failed; i++)
        jx_add(x, messages, message_value(x, json_at(c->messages, i), c->keep_nulls));
    set(x, "messages", j_list(messages));
    set(x, "tools", jx_from_json(x, c->tools));
    set(x, "documents", jx_from_json(x, c->documents));
    set(x, "add_generation_prompt", j_bool(c->add_generation_prompt));
    for (int i = 0; i < c->n_var; i++) set(x, c->var[i].name, jx_from_json(x, c->var[i].value));
}

bool jinja_render(const JinjaTemplate *t, const JinjaChat *chat, JinjaOut *out, JinjaError *err) {
    Jx x = {.err = err, .fuel = INT64_MAX / 2, .now_s = chat->now_s, .result = out, .block = &t->block};
    size_t bad;
    error_clear(err);
    str_clear(&out->text);
    out->n_span = 0;
    free(out->span);
    out->span = NULL;
    x.out = &x.root;
    x.vars = jx_dict(&x);
    x.context = jx_dict(&x);
    fill_context(&x, chat);
    x.fuel = JINJA_MAX_STEPS; /* the size of the data is not the template's doing */
    jx_enter_top(&x, t->root);
    if (!x.failed && !str_utf8_valid(str_get(&x.root), x.root.n, &bad))
        jx_fail(&x, "the text is not UTF-8: a lone surrogate of an escape at byte %zu", bad);
    heap_release(&x.heap);
    if (x.failed) {
        str_release(&x.root);
        out->n_span = 0;
        return false;
    }
    str_release(&out->text);
    out->text = x.root;
    return true;
}
