/* jinja_parse.c — statements. Recursive descent in the reference's order, so that what is a syntax error there is one
 * here. */
#include "text/jinja_int.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

JVal parse_fail(Parser *p, int line, const char *fmt, ...) {
    char text[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    jx_fail_class(p->x, JINJA_SYNTAX, line, text, strlen(text));
    p->at = p->n - 1; /* nothing more to read: every loop ends */
    return j_none();
}

Node *node_new(Parser *p, NodeKind kind, int line) {
    Node *n = heap_alloc(&p->x->heap, sizeof *n);
    n->kind = kind;
    n->line = line;
    n->depth = 1;
    n->test_index = -1;
    return n;
}

void nodes_add(Parser *p, Nodes *l, Node *n) {
    if (l->n == l->cap) {
        int cap = l->cap ? l->cap * 2 : 4;
        Node **item = heap_alloc(&p->x->heap, (size_t)cap * sizeof(Node *));
        if (l->n) memcpy(item, l->item, (size_t)l->n * sizeof(Node *));
        l->item = item;
        l->cap = cap;
    }
    l->item[l->n++] = n;
}

bool tok_is(const Token *t, const char *word) {
    return t->type == T_NAME && t->text->n == strlen(word) && memcmp(t->text->s, word, t->text->n) == 0;
}

const Token *parse_next(Parser *p) {
    const Token *t = tok(p);
    if (p->at + 1 < p->n) p->at++;
    return t;
}

static void words_of(char *out, size_t n, const Token *t) {
    if (t->type == T_NAME)
        snprintf(out, n, "%.*s", t->text->n < 60 ? (int)t->text->n : 60, t->text->s);
    else
        snprintf(out, n, "%s", token_words(t->type));
}

const Token *parse_expect(Parser *p, TokenType type) {
    char found[80];
    const Token *t = tok(p);
    if (t->type == type) return parse_next(p);
    words_of(found, sizeof found, t);
    if (t->type == T_EOF)
        parse_fail(p, t->line, "unexpected end of template, expected '%s'", token_words(type));
    else
        parse_fail(p, t->line, "expected token '%s', got '%s'", token_words(type), found);
    return t;
}

bool parse_skip(Parser *p, TokenType type) {
    if (tok(p)->type != type) return false;
    parse_next(p);
    return true;
}

bool parse_skip_word(Parser *p, const char *word) {
    if (!tok_is(tok(p), word)) return false;
    parse_next(p);
    return true;
}

static void expect_word(Parser *p, const char *word) {
    char found[80];
    if (parse_skip_word(p, word)) return;
    words_of(found, sizeof found, tok(p));
    parse_fail(p, tok(p)->line, "expected token '%s', got '%s'", word, found);
}

/* ---- bodies ---- */

static void parse_statement(Parser *p, Nodes *body);

static bool at_end_word(const Parser *p, const char *const *end) {
    for (; end && *end; end++)
        if (tok_is(tok(p), *end)) return true;
    return false;
}

/* Up to a tag whose word is one of end, which becomes the current token. NULL: to the end of the template. */
static void parse_body(Parser *p, Nodes *body, const char *const *end) {
    Node *output = NULL;
    while (tok(p)->type != T_EOF && !p->x->failed) {
        const Token *t = parse_next(p);
        if (t->type == T_BLOCK_BEGIN) {
            output = NULL;
            if (at_end_word(p, end)) return;
            parse_statement(p, body);
            if (!p->x->failed) parse_expect(p, T_BLOCK_END);
            continue;
        }
        if (!output) nodes_add(p, body, output = node_new(p, N_OUTPUT, t->line));
        if (t->type == T_DATA) {
            Node *data = node_new(p, N_DATA, t->line);
            data->value = t->value;
            nodes_add(p, &output->item, data);
        } else {
            nodes_add(p, &output->item, parse_tuple(p, (TupleRules){0}));
            if (!p->x->failed) parse_expect(p, T_VAR_END);
        }
    }
}

static const char *innermost(const Parser *p) { return p->statements > 0 ? p->tag[p->statements - 1] : ""; }

/* What follows a tag's head: ":"? end of tag, statements, the tag's end word (current; dropped when drop is set). */
static void parse_statements(Parser *p, Nodes *body, const char *const *end, bool drop) {
    parse_skip(p, T_COLON);
    parse_expect(p, T_BLOCK_END);
    if (!p->x->failed) parse_body(p, body, end);
    if (p->x->failed) return;
    if (tok(p)->type == T_EOF)
        parse_fail(
            p, tok(p)->line,
            "Unexpected end of template. Jinja was looking for the following tags: '%s'. The innermost block that "
            "needs to be closed is '%s'.",
            end[0], innermost(p));
    else if (drop)
        parse_next(p);
}

/* ---- tags ---- */

static Node *parse_set(Parser *p, int line) {
    static const char *const end[] = {"endset", NULL};
    Node *target = parse_target(p, NULL, true);
    bool assign = parse_skip(p, T_ASSIGN);
    Node *n = node_new(p, assign ? N_SET : N_SET_BLOCK, line);
    n->a = target;
    if (assign)
        n->b = parse_tuple(p, (TupleRules){0});
    else {
        n->b = parse_filters(p, NULL, false);
        parse_statements(p, &n->body, end, true);
    }
    return n;
}

static Node *parse_for(Parser *p, int line) {
    static const char *const end[] = {"endfor", "else", NULL}, *const end_else[] = {"endfor", NULL};
    Node *n = node_new(p, N_FOR, line);
    n->a = parse_target(p, "in", false);
    expect_word(p, "in");
    n->b = parse_tuple(p, (TupleRules){.no_cond = true, .end = "recursive"});
    if (parse_skip_word(p, "if")) n->c = parse_expression(p, true);
    n->recursive = parse_skip_word(p, "recursive");
    parse_statements(p, &n->body, end, false);
    if (!p->x->failed && tok_is(parse_next(p), "else")) parse_statements(p, &n->other, end_else, true);
    return n;
}

/* N_IF: a condition, body; other: else branch, whose only statement is the next elif as N_IF with exported unset. To
 * keep the reference's scoping, elifs are a list: item. */
static Node *parse_if(Parser *p, int line) {
    static const char *const end[] = {"elif", "else", "endif", NULL}, *const end_else[] = {"endif", NULL};
    Node *result = node_new(p, N_IF, line), *n = result;
    while (!p->x->failed) {
        n->a = parse_tuple(p, (TupleRules){.no_cond = true});
        parse_statements(p, &n->body, end, false);
        if (p->x->failed) break;
        const Token *t = parse_next(p);
        if (tok_is(t, "elif")) {
            n = node_new(p, N_IF, tok(p)->line);
            nodes_add(p, &result->item, n);
            continue;
        }
        if (tok_is(t, "else")) parse_statements(p, &result->other, end_else, true);
        break;
    }
    return result;
}

static void parse_signature(Parser *p, Node *n) {
    parse_expect(p, T_LPAREN);
    while (!p->x->failed && tok(p)->type != T_RPAREN) {
        if (n->item.n > 0) parse_expect(p, T_COMMA);
        Node *arg = parse_name_target(p);
        arg->param = true;
        arg->store = false;
        for (int i = 0; i < n->item.n && !p->x->failed; i++)
            if (n->item.item[i]->name->n == arg->name->n &&
                memcmp(n->item.item[i]->name->s, arg->name->s, arg->name->n) == 0)
                parse_fail(p, arg->line, "duplicate argument '%.60s' in a definition", arg->name->s);
        if (parse_skip(p, T_ASSIGN))
            nodes_add(p, &n->other, parse_expression(p, true));
        else if (n->other.n > 0)
            parse_fail(p, tok(p)->line, "non-default argument follows default argument");
        nodes_add(p, &n->item, arg);
    }
    parse_expect(p, T_RPAREN);
}

static Node *parse_macro(Parser *p, int line) {
    static const char *const end[] = {"endmacro", NULL};
    Node *n = node_new(p, N_MACRO, line);
    n->name = parse_name_target(p)->name;
    parse_signature(p, n);
    parse_statements(p, &n->body, end, true);
    return n;
}

static Node *parse_call_block(Parser *p, int line) {
    static const char *const end[] = {"endcall", NULL};
    Node *n = node_new(p, N_CALL_BLOCK, line);
    if (tok(p)->type == T_LPAREN) parse_signature(p, n);
    n->a = parse_expression(p, true);
    if (!p->x->failed && n->a->kind != N_CALL) parse_fail(p, line, "expected call");
    parse_statements(p, &n->body, end, true);
    return n;
}

static Node *parse_generation(Parser *p, int line) {
    static const char *const end[] = {"endgeneration", NULL};
    Node *n = node_new(p, N_GENERATION, line);
    p->generation = true;
    parse_statements(p, &n->body, end, true);
    return n;
}

static Node *parse_filter_block(Parser *p, int line) {
    static const char *const end[] = {"endfilter", NULL};
    Node *n = node_new(p, N_FILTER_BLOCK, line);
    n->b = parse_filters(p, NULL, true);
    parse_statements(p, &n->body, end, true);
    return n;
}

static void set_params(Node *target) {
    target->param = true;
    target->store = false;
    for (int i = 0; i < target->item.n; i++) set_params(target->item.item[i]);
}

static Node *parse_with(Parser *p, int line) {
    static const char *const end[] = {"endwith", NULL};
    Node *n = node_new(p, N_WITH, line);
    while (!p->x->failed && tok(p)->type != T_BLOCK_END) {
        if (n->item.n > 0) parse_expect(p, T_COMMA);
        Node *target = parse_target(p, NULL, false);
        set_params(target);
        nodes_add(p, &n->item, target);
        parse_expect(p, T_ASSIGN);
        nodes_add(p, &n->other, parse_expression(p, true));
    }
    parse_statements(p, &n->body, end, true);
    return n;
}

static Node *parse_print(Parser *p, int line) {
    Node *n = node_new(p, N_OUTPUT, line);
    while (!p->x->failed && tok(p)->type != T_BLOCK_END) {
        if (n->item.n > 0) parse_expect(p, T_COMMA);
        nodes_add(p, &n->item, parse_expression(p, true));
    }
    return n;
}

static Node *refused(Parser *p, int line, const char *what) {
    Node *n = node_new(p, N_REFUSED, line);
    n->name = jx_str_own(p->x, what, strlen(what));
    return n;
}

/* autoescape false is what holds anyway; anything else is refused when reached. */
static Node *parse_autoescape(Parser *p, int line) {
    static const char *const end[] = {"endautoescape", NULL};
    Node *n = node_new(p, N_SCOPE, line), *on = parse_expression(p, true);
    parse_statements(p, &n->body, end, true);
    bool off = !p->x->failed && on->kind == N_CONST && !j_truth(on->value);
    return off || p->x->failed ? n : refused(p, line, "autoescape");
}

static Node *parse_block(Parser *p, int line) {
    static const char *const end[] = {"endblock", NULL};
    Node *n = node_new(p, N_BLOCK, line);
    const Token *name = parse_expect(p, T_NAME);
    if (p->x->failed) return n;
    n->name = name->text;
    bool scoped = parse_skip_word(p, "scoped"), required = parse_skip_word(p, "required");
    if (tok(p)->type == T_SUB) parse_fail(p, tok(p)->line, "Block names may not contain hyphens");
    parse_statements(p, &n->body, end, true);
    if (!p->x->failed && tok(p)->type == T_NAME && tok(p)->text->n == n->name->n &&
        memcmp(tok(p)->text->s, n->name->s, n->name->n) == 0)
        parse_next(p);
    return required ? refused(p, line, "a required block") : scoped ? refused(p, line, "a scoped block") : n;
}

/* include, import, from, extends: one template is all there is. Their syntax is checked, running them is an error. */
static Node *parse_other_template(Parser *p, int line, const char *tag) {
    parse_expression(p, true);
    if (strcmp(tag, "import") == 0) {
        expect_word(p, "as");
        parse_name_target(p);
    } else if (strcmp(tag, "from") == 0) {
        expect_word(p, "import");
        do {
            parse_name_target(p);
            if (parse_skip_word(p, "as")) parse_name_target(p);
        } while (!p->x->failed && parse_skip(p, T_COMMA));
    } else if (strcmp(tag, "include") == 0 && tok_is(tok(p), "ignore"))
        parse_next(p), expect_word(p, "missing");
    if (tok_is(tok(p), "with") || tok_is(tok(p), "without")) parse_next(p), expect_word(p, "context");
    return refused(p, line, tag);
}

static Node *parse_break(Parser *p, int line) { return node_new(p, N_BREAK, line); }
static Node *parse_continue(Parser *p, int line) { return node_new(p, N_CONTINUE, line); }
static Node *parse_include(Parser *p, int line) { return parse_other_template(p, line, "include"); }
static Node *parse_import(Parser *p, int line) { return parse_other_template(p, line, "import"); }
static Node *parse_from(Parser *p, int line) { return parse_other_template(p, line, "from"); }
static Node *parse_extends(Parser *p, int line) { return parse_other_template(p, line, "extends"); }

static const struct {
    const char *word;
    Node *(*parse)(Parser *p, int line);
} tags[] = {{"for", parse_for},
            {"if", parse_if},
            {"set", parse_set},
            {"macro", parse_macro},
            {"call", parse_call_block},
            {"generation", parse_generation},
            {"filter", parse_filter_block},
            {"with", parse_with},
            {"print", parse_print},
            {"break", parse_break},
            {"continue", parse_continue},
            {"block", parse_block},
            {"autoescape", parse_autoescape},
            {"include", parse_include},
            {"import", parse_import},
            {"from", parse_from},
            {"extends", parse_extends}};

static void parse_statement(Parser *p, Nodes *body) {
    const Token *t = tok(p);
    if (t->type != T_NAME) {
        parse_fail(p, t->line, "tag name expected");
        return;
    }
    if (p->statements == MAX_STATEMENTS) {
        parse_fail(p, t->line, "tags nested deeper than %d", MAX_STATEMENTS);
        return;
    }
    for (int i = 0; i < COUNT_OF(tags); i++) {
        if (!tok_is(t, tags[i].word)) continue;
        p->tag[p->statements++] = tags[i].word;
        parse_next(p);
        Node *n = tags[i].parse(p, t->line);
        nodes_add(p, body, n);
        p->statements--;
        return;
    }
    char found[80];
    words_of(found, sizeof found, t);
    parse_fail(p, t->line, "Encountered unknown tag '%s'.%s%s%s", found,
               p->statements ? " The innermost block that needs to be closed is '" : "", innermost(p),
               p->statements ? "'." : "");
}

Node *parse_template(Parser *p) {
    Node *root = node_new(p, N_SCOPE, 1);
    parse_body(p, &root->body, NULL);
    return root;
}
