/* jinja_parse_expr.c — expressions, from the loosest binding to the tightest:
 *
 *   a if b else c    or    and    not    == != < > <= >= in, not in    + -    ~    * / // %    **    unary - +
 *   then what follows a value: .name [item] (call) |filter "is test"
 *
 * Note what is not Python's: ~ binds tighter than +, unary minus tighter than **, which is left-associative. */
#include "text/jinja_int.h"

#include <string.h>

/* Depth is bounded while reading, so nothing that walks expressions later can run out of stack. */
static bool nest(Parser *p) {
    if (p->x->failed) return false;
    if (p->nest >= MAX_NEST) {
        parse_fail(p, tok(p)->line, "expressions nested deeper than %d", MAX_NEST);
        return false;
    }
    p->nest++;
    return true;
}

static void deepen(Parser *p, Node *n, const Node *child) {
    if (child && child->depth >= n->depth) n->depth = child->depth + 1;
    if (n->depth > MAX_NEST && !p->x->failed) parse_fail(p, n->line, "an expression deeper than %d", MAX_NEST);
}

static Node *node_of(Parser *p, NodeKind kind, int line, Node *a, Node *b) {
    Node *n = node_new(p, kind, line);
    n->a = a;
    n->b = b;
    deepen(p, n, a);
    deepen(p, n, b);
    return n;
}

static void part_add(Parser *p, Node *n, Node *part) {
    nodes_add(p, &n->item, part);
    deepen(p, n, part);
}

static Node *constant(Parser *p, JVal v, int line) {
    Node *n = node_new(p, N_CONST, line);
    n->value = v;
    return n;
}

/* ---- values ---- */

static bool tuple_end(const Parser *p, const TupleRules *r) {
    TokenType t = tok(p)->type;
    return t == T_VAR_END || t == T_BLOCK_END || t == T_RPAREN || (r->end && tok_is(tok(p), r->end));
}

static Node *parse_primary(Parser *p, bool namespaces);

Node *parse_tuple(Parser *p, TupleRules r) {
    int line = tok(p)->line;
    Node *n = node_new(p, N_TUPLE, line), *only = NULL;
    bool comma = false;
    while (!p->x->failed) {
        if (n->item.n > 0) parse_expect(p, T_COMMA);
        if (tuple_end(p, &r)) break;
        only = r.simple ? parse_primary(p, r.namespaces) : parse_expression(p, !r.no_cond);
        part_add(p, n, only);
        if (tok(p)->type != T_COMMA) break;
        comma = true;
    }
    if (comma || p->x->failed) return n;
    if (only) return only;
    if (!r.parenthesised) parse_fail(p, tok(p)->line, "Expected an expression, got '%s'", token_words(tok(p)->type));
    return n;
}

static Node *parse_list(Parser *p) {
    Node *n = node_new(p, N_LIST, parse_expect(p, T_LBRACKET)->line);
    while (!p->x->failed && tok(p)->type != T_RBRACKET) {
        if (n->item.n > 0) parse_expect(p, T_COMMA);
        if (tok(p)->type == T_RBRACKET) break;
        part_add(p, n, parse_expression(p, true));
    }
    parse_expect(p, T_RBRACKET);
    return n;
}

static Node *parse_dict(Parser *p) {
    Node *n = node_new(p, N_DICT, parse_expect(p, T_LBRACE)->line);
    while (!p->x->failed && tok(p)->type != T_RBRACE) {
        if (n->item.n > 0) parse_expect(p, T_COMMA);
        if (tok(p)->type == T_RBRACE) break;
        part_add(p, n, parse_expression(p, true));
        parse_expect(p, T_COLON);
        part_add(p, n, parse_expression(p, true));
    }
    parse_expect(p, T_RBRACE);
    return n;
}

static Node *parse_strings(Parser *p) {
    const Token *t = parse_next(p);
    if (tok(p)->type != T_STRING) return constant(p, t->value, t->line);
    Str text = {0};
    str_putn(&text, t->text->s, t->text->n);
    while (tok(p)->type == T_STRING) {
        const Token *more = parse_next(p);
        str_putn(&text, more->text->s, more->text->n);
    }
    return constant(p, jx_take(p->x, &text), t->line);
}

static Node *parse_name(Parser *p, bool namespaces) {
    const Token *t = parse_next(p);
    if (tok_is(t, "true") || tok_is(t, "True")) return constant(p, j_bool(true), t->line);
    if (tok_is(t, "false") || tok_is(t, "False")) return constant(p, j_bool(false), t->line);
    if (tok_is(t, "none") || tok_is(t, "None")) return constant(p, j_none(), t->line);
    bool of = namespaces && parse_skip(p, T_DOT);
    Node *n = node_new(p, of ? N_NSREF : N_NAME, t->line);
    n->name = t->text;
    if (of) {
        const Token *attr = parse_expect(p, T_NAME);
        if (!p->x->failed) n->value = attr->value;
    }
    return n;
}

static Node *parse_primary(Parser *p, bool namespaces) {
    const Token *t = tok(p);
    Node *n = NULL;
    if (!nest(p)) return node_new(p, N_CONST, t->line);
    switch (t->type) {
    case T_NAME:
        n = parse_name(p, namespaces);
        break;
    case T_STRING:
        n = parse_strings(p);
        break;
    case T_INTEGER:
    case T_FLOAT:
        n = constant(p, parse_next(p)->value, t->line);
        break;
    case T_LPAREN:
        parse_next(p);
        n = parse_tuple(p, (TupleRules){.parenthesised = true});
        parse_expect(p, T_RPAREN);
        break;
    case T_LBRACKET:
        n = parse_list(p);
        break;
    case T_LBRACE:
        n = parse_dict(p);
        break;
    default:
        parse_fail(p, t->line, "unexpected '%s'", token_words(t->type));
        n = node_new(p, N_CONST, t->line);
    }
    p->nest--;
    return n;
}

/* ---- what follows a value ---- */

static void add_keyword(Parser *p, CallArgs *c, const JStr *name, Node *value) {
    if (c->n_kw == c->cap_kw) {
        int cap = c->cap_kw ? c->cap_kw * 2 : 4;
        Keyword *kw = heap_alloc(&p->x->heap, (size_t)cap * sizeof *kw);
        if (c->n_kw) memcpy(kw, c->kw, (size_t)c->n_kw * sizeof *kw);
        c->kw = kw;
        c->cap_kw = cap;
    }
    c->kw[c->n_kw++] = (Keyword){name, value};
}

static CallArgs *parse_args(Parser *p, Node *of) {
    CallArgs *c = heap_alloc(&p->x->heap, sizeof *c);
    int line = parse_expect(p, T_LPAREN)->line;
    bool comma = false, ok = true;
    while (!p->x->failed && ok && tok(p)->type != T_RPAREN) {
        if (comma) {
            parse_expect(p, T_COMMA);
            if (tok(p)->type == T_RPAREN) break;
        }
        comma = true;
        if (parse_skip(p, T_MUL)) {
            ok = !c->star && !c->star_star;
            deepen(p, of, c->star = parse_expression(p, true));
        } else if (parse_skip(p, T_POW)) {
            ok = !c->star_star;
            deepen(p, of, c->star_star = parse_expression(p, true));
        } else if (tok(p)->type == T_NAME && p->tok[p->at + 1].type == T_ASSIGN) {
            ok = !c->star_star;
            const JStr *name = parse_next(p)->text;
            for (int i = 0; i < c->n_kw; i++)
                if (c->kw[i].name->n == name->n && memcmp(c->kw[i].name->s, name->s, name->n) == 0)
                    parse_fail(p, line, "keyword argument repeated: %.60s", name->s);
            parse_next(p);
            Node *value = parse_expression(p, true);
            add_keyword(p, c, name, value);
            deepen(p, of, value);
        } else {
            ok = !c->star && !c->star_star && c->n_kw == 0;
            Node *value = parse_expression(p, true);
            nodes_add(p, &c->pos, value);
            deepen(p, of, value);
        }
    }
    if (!ok && !p->x->failed) parse_fail(p, line, "invalid syntax for function call expression");
    parse_expect(p, T_RPAREN);
    return c;
}

static Node *parse_slice_part(Parser *p) {
    TokenType t = tok(p)->type;
    return t == T_COLON || t == T_RBRACKET || t == T_COMMA ? NULL : parse_expression(p, true);
}

static Node *parse_subscript_part(Parser *p) {
    int line = tok(p)->line;
    Node *first = tok(p)->type == T_COLON ? NULL : parse_expression(p, true);
    if (tok(p)->type != T_COLON) return first ? first : node_new(p, N_CONST, line);
    parse_next(p);
    Node *n = node_of(p, N_SLICE, line, first, NULL);
    deepen(p, n, n->b = parse_slice_part(p));
    if (parse_skip(p, T_COLON)) deepen(p, n, n->c = parse_slice_part(p));
    return n;
}

static Node *parse_subscript(Parser *p, Node *of) {
    const Token *t = parse_next(p);
    if (t->type == T_DOT) {
        const Token *name = parse_next(p);
        if (name->type == T_NAME) {
            Node *n = node_of(p, N_ATTR, t->line, of, NULL);
            n->name = name->text;
            return n;
        }
        if (name->type != T_INTEGER) parse_fail(p, name->line, "expected name or number");
        return node_of(p, N_ITEM, t->line, of, constant(p, name->value, name->line));
    }
    Node *parts = node_new(p, N_TUPLE, t->line);
    while (!p->x->failed && tok(p)->type != T_RBRACKET) {
        if (parts->item.n > 0) parse_expect(p, T_COMMA);
        part_add(p, parts, parse_subscript_part(p));
    }
    parse_expect(p, T_RBRACKET);
    return node_of(p, N_ITEM, t->line, of, parts->item.n == 1 ? parts->item.item[0] : parts);
}

static Node *parse_call(Parser *p, Node *of) {
    Node *n = node_of(p, N_CALL, tok(p)->line, of, NULL);
    n->args = parse_args(p, n);
    return n;
}

static Node *parse_postfix(Parser *p, Node *n) {
    while (!p->x->failed) {
        TokenType t = tok(p)->type;
        if (t == T_DOT || t == T_LBRACKET)
            n = parse_subscript(p, n);
        else if (t == T_LPAREN)
            n = parse_call(p, n);
        else
            break;
    }
    return n;
}

/* a, a.b, a.b.c after "|" or "is"; names with points name nothing we know. */
static const JStr *parse_dotted(Parser *p) {
    const Token *t = parse_expect(p, T_NAME);
    if (p->x->failed || tok(p)->type != T_DOT) return t->text;
    Str name = {0};
    str_putn(&name, t->text->s, t->text->n);
    while (!p->x->failed && parse_skip(p, T_DOT)) {
        t = parse_expect(p, T_NAME);
        if (p->x->failed) break;
        str_putc(&name, '.');
        str_putn(&name, t->text->s, t->text->n);
    }
    return jx_take(p->x, &name).u.str;
}

Node *parse_filters(Parser *p, Node *on, bool inline_first) {
    while (!p->x->failed && (inline_first || tok(p)->type == T_PIPE)) {
        if (!inline_first) parse_next(p);
        inline_first = false;
        Node *n = node_of(p, N_FILTER, tok(p)->line, on, NULL);
        n->name = parse_dotted(p);
        if (tok(p)->type == T_LPAREN)
            n->args = parse_args(p, n);
        else
            n->args = heap_alloc(&p->x->heap, sizeof *n->args);
        on = n;
    }
    return on;
}

static bool starts_argument(const Parser *p) {
    const Token *t = tok(p);
    switch (t->type) {
    case T_NAME:
        return !tok_is(t, "else") && !tok_is(t, "or") && !tok_is(t, "and");
    case T_STRING:
    case T_INTEGER:
    case T_FLOAT:
    case T_LBRACKET:
    case T_LBRACE:
        return true;
    default:
        return false;
    }
}

static Node *parse_test(Parser *p, Node *on) {
    int line = parse_next(p)->line;
    bool negated = parse_skip_word(p, "not");
    Node *n = node_of(p, N_TEST, line, on, NULL);
    n->name = parse_dotted(p);
    if (tok(p)->type == T_LPAREN)
        n->args = parse_args(p, n);
    else {
        n->args = heap_alloc(&p->x->heap, sizeof *n->args);
        if (!p->x->failed && starts_argument(p)) {
            if (tok_is(tok(p), "is")) parse_fail(p, line, "You cannot chain multiple tests with is");
            Node *arg = parse_postfix(p, parse_primary(p, false));
            nodes_add(p, &n->args->pos, arg);
            deepen(p, n, arg);
        }
    }
    return negated ? node_of(p, N_NOT, line, n, NULL) : n;
}

static Node *parse_filters_and_tests(Parser *p, Node *n) {
    while (!p->x->failed) {
        if (tok(p)->type == T_PIPE)
            n = parse_filters(p, n, false);
        else if (tok_is(tok(p), "is"))
            n = parse_test(p, n);
        else if (tok(p)->type == T_LPAREN)
            n = parse_call(p, n);
        else
            break;
    }
    return n;
}

/* ---- operators ---- */

static Node *parse_unary(Parser *p, bool with_filter) {
    const Token *t = tok(p);
    Node *n;
    if (!nest(p)) return node_new(p, N_CONST, t->line);
    if (t->type == T_SUB || t->type == T_ADD) {
        parse_next(p);
        n = node_of(p, t->type == T_SUB ? N_NEG : N_POS, t->line, parse_unary(p, false), NULL);
    } else
        n = parse_primary(p, false);
    p->nest--;
    n = parse_postfix(p, n);
    return with_filter ? parse_filters_and_tests(p, n) : n;
}

static Node *parse_pow(Parser *p) {
    int line = tok(p)->line;
    Node *left = parse_unary(p, true);
    while (parse_skip(p, T_POW)) {
        left = node_of(p, N_POW, line, left, parse_unary(p, true));
        line = tok(p)->line;
    }
    return left;
}

static Node *parse_math2(Parser *p) {
    static const NodeKind kind[] = {[T_MUL] = N_MUL, [T_DIV] = N_DIV, [T_FLOORDIV] = N_FLOORDIV, [T_MOD] = N_MOD};
    int line = tok(p)->line;
    Node *left = parse_pow(p);
    while (tok(p)->type >= T_MUL && tok(p)->type <= T_MOD) {
        TokenType t = parse_next(p)->type;
        left = node_of(p, kind[t], line, left, parse_pow(p));
        line = tok(p)->line;
    }
    return left;
}

static Node *parse_concat(Parser *p) {
    int line = tok(p)->line;
    Node *first = parse_math2(p);
    if (tok(p)->type != T_TILDE) return first;
    Node *n = node_new(p, N_CONCAT, line);
    part_add(p, n, first);
    while (parse_skip(p, T_TILDE)) part_add(p, n, parse_math2(p));
    return n;
}

static Node *parse_math1(Parser *p) {
    int line = tok(p)->line;
    Node *left = parse_concat(p);
    while (tok(p)->type == T_ADD || tok(p)->type == T_SUB) {
        NodeKind kind = parse_next(p)->type == T_ADD ? N_ADD : N_SUB;
        left = node_of(p, kind, line, left, parse_concat(p));
        line = tok(p)->line;
    }
    return left;
}

static int compare_op(Parser *p) {
    switch (tok(p)->type) {
    case T_EQ:
        return OP_EQ;
    case T_NE:
        return OP_NE;
    case T_LT:
        return OP_LT;
    case T_LE:
        return OP_LE;
    case T_GT:
        return OP_GT;
    case T_GE:
        return OP_GE;
    default:
        break;
    }
    if (tok_is(tok(p), "in")) return OP_IN;
    if (!tok_is(tok(p), "not") || !tok_is(&p->tok[p->at + 1], "in")) return -1;
    parse_next(p);
    return OP_NOT_IN;
}

static Node *parse_compare(Parser *p) {
    unsigned char ops[256];
    int line = tok(p)->line, op;
    Node *first = parse_math1(p), *n = NULL;
    while (!p->x->failed && (op = compare_op(p)) >= 0) {
        if (!n) {
            n = node_new(p, N_COMPARE, line);
            part_add(p, n, first);
        }
        if (n->item.n == COUNT_OF(ops)) parse_fail(p, line, "more than %d comparisons in a row", COUNT_OF(ops) - 1);
        parse_next(p);
        if (p->x->failed) break;
        ops[n->item.n - 1] = (unsigned char)op;
        part_add(p, n, parse_math1(p));
    }
    if (!n) return first;
    n->op = heap_alloc(&p->x->heap, (size_t)n->item.n);
    memcpy(n->op, ops, (size_t)n->item.n - 1);
    return n;
}

static Node *parse_not(Parser *p) {
    const Token *t = tok(p);
    if (!tok_is(t, "not")) return parse_compare(p);
    if (!nest(p)) return node_new(p, N_CONST, t->line);
    parse_next(p);
    Node *n = node_of(p, N_NOT, t->line, parse_not(p), NULL);
    p->nest--;
    return n;
}

static Node *parse_and(Parser *p) {
    int line = tok(p)->line;
    Node *left = parse_not(p);
    while (parse_skip_word(p, "and")) {
        left = node_of(p, N_AND, line, left, parse_not(p));
        line = tok(p)->line;
    }
    return left;
}

static Node *parse_or(Parser *p) {
    int line = tok(p)->line;
    Node *left = parse_and(p);
    while (parse_skip_word(p, "or")) {
        left = node_of(p, N_OR, line, left, parse_and(p));
        line = tok(p)->line;
    }
    return left;
}

Node *parse_expression(Parser *p, bool with_cond) {
    int line = tok(p)->line;
    if (!nest(p)) return node_new(p, N_CONST, line);
    Node *n = parse_or(p);
    while (with_cond && parse_skip_word(p, "if")) {
        Node *test = parse_or(p), *otherwise = parse_skip_word(p, "else") ? parse_expression(p, true) : NULL;
        n = node_of(p, N_COND, line, n, test);
        deepen(p, n, n->c = otherwise);
        line = tok(p)->line;
    }
    p->nest--;
    return n;
}

/* ---- targets ---- */

static bool make_target(Parser *p, Node *n) {
    static const char *const what[] = {
        [N_CONST] = "const",  [N_LIST] = "list",    [N_DICT] = "dict",    [N_CALL] = "call",
        [N_ATTR] = "getattr", [N_ITEM] = "getitem", [N_FILTER] = "filter"};
    if (n->kind == N_NSREF) return true;
    n->store = n->kind == N_NAME || n->kind == N_TUPLE;
    bool ok = n->store;
    for (int i = 0; i < n->item.n && ok; i++) ok = make_target(p, n->item.item[i]);
    if (!ok && !p->x->failed)
        parse_fail(p, n->line, "can't assign to '%s'",
                   (int)n->kind < COUNT_OF(what) && what[n->kind] ? what[n->kind] : "expression");
    return ok;
}

Node *parse_target(Parser *p, const char *end, bool namespaces) {
    Node *n = parse_tuple(p, (TupleRules){.simple = true, .namespaces = namespaces, .end = end});
    if (!p->x->failed) make_target(p, n);
    return n;
}

Node *parse_name_target(Parser *p) {
    const Token *t = parse_expect(p, T_NAME);
    Node *n = node_new(p, N_NAME, t->line);
    static const char *const word[] = {"true", "false", "none", "True", "False", "None"};
    n->name = t->text ? t->text : jx_str_own(p->x, "", 0);
    for (int i = 0; i < COUNT_OF(word); i++)
        if (tok_is(t, word[i])) parse_fail(p, t->line, "can't assign to 'name'");
    n->store = true;
    return n;
}
