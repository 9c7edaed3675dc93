/* text/jinja_int.h — what the interpreter's files share; nobody outside src/text/jinja_*.c includes it.
 *
 *   source ── jinja_lex.c ── tokens ── jinja_parse.c, jinja_parse_expr.c ── nodes ── jinja_scope.c ── names are slots
 *   nodes + data ── jinja_exec.c (statements), jinja_eval.c (expressions) ── text
 *   values: jinja_value.c (kinds, equality), jinja_dict.c, jinja_iter.c, jinja_print.c (str, repr, tojson), jinja_num.c, jinja_big.c
 *   library: jinja_call.c (binding, globals, methods of lists and maps), jinja_str.c (methods of text), jinja_format.c
 *            (% and format), jinja_filter*.c, jinja_layout.c, jinja_test.c, jinja_char.c (case, classes of characters)
 *
 * Failing is sticky: jx_fail records the first error and everything after it is cheap and harmless; every value a function
 * returns is a valid one, and loops look at x->failed. So no path needs cleaning up: values live in x->heap and die
 * together. */
#ifndef DIKAST_TEXT_JINJA_INT_H
#define DIKAST_TEXT_JINJA_INT_H

#include "base/arena.h"
#include "text/jinja.h"

/* ---- values ---- */
typedef enum {
    J_MISSING,      /* a slot never set, an argument not given; no template sees it */
    J_UNDEF, J_NONE, J_BOOL, J_INT, J_BIG, J_FLOAT, J_STR, J_LIST, J_TUPLE, J_DICT, J_VIEW, J_RANGE, J_ITER, J_SLICE,
    J_NAMESPACE, J_LOOP, J_MACRO, J_METHOD, J_FUNC, J_CYCLER, J_JOINER,
    J_SELF, J_BLOCK /* the template itself, and a block of it to call */
} JKind;

typedef struct JVal JVal;
typedef struct { const char *s; size_t n, n_char; bool markup; } JStr;      /* UTF-8 (surrogates allowed); never changed */
typedef struct { JVal *item; size_t n, cap; bool group; } JList;            /* lists and tuples; group: of groupby */
typedef struct { JVal *key, *value; size_t n, cap; uint32_t *slot; size_t mask; } JDict;
typedef struct { int n; bool negative; uint32_t d[]; } JBig;                /* digits of 1e9, least first; |v| >= 2^63 */
typedef struct { int64_t start, stop, step, n; } JRange;
typedef enum { VIEW_KEYS, VIEW_VALUES, VIEW_ITEMS } JViewKind;
typedef struct { JViewKind kind; const JDict *dict; } JView;
typedef struct { const JStr *name; JKind of; const char *why; bool element; } JUndef;
typedef struct JIter JIter;
typedef struct JLoop JLoop;
typedef struct JMacro JMacro;
typedef struct JMethod JMethod;
typedef struct { JList *items; size_t at; } JCycler;
typedef struct { const JStr *sep; bool used; } JJoiner;

struct JVal {
    JKind kind;
    union {
        bool b;
        int64_t i;
        double f;
        const JUndef *undef;
        const JBig *big;
        const JStr *str;
        JList *list;
        JDict *dict;        /* and of J_NAMESPACE */
        const JView *view;
        const JRange *range;
        JIter *iter;
        const JVal *slice;  /* [3]: start, stop, step */
        JLoop *loop;
        const JMacro *macro;
        const JMethod *method;
        int func;           /* JFunc */
        JCycler *cycler;
        JJoiner *joiner;
        const struct Node *block;
    } u;
};

static inline JVal j_missing(void) { JVal v = {J_MISSING, {0}}; return v; }
static inline JVal j_none(void) { JVal v = {J_NONE, {0}}; return v; }
static inline JVal j_bool(bool b) { JVal v; v.kind = J_BOOL; v.u.i = 0; v.u.b = b; return v; }
static inline JVal j_int(int64_t i) { JVal v; v.kind = J_INT; v.u.i = i; return v; }
static inline JVal j_float(double f) { JVal v; v.kind = J_FLOAT; v.u.f = f; return v; }
static inline JVal j_str(const JStr *s) { JVal v; v.kind = J_STR; v.u.str = s; return v; }
static inline JVal j_list(JList *l) { JVal v; v.kind = J_LIST; v.u.list = l; return v; }
static inline JVal j_tuple(JList *l) { JVal v; v.kind = J_TUPLE; v.u.list = l; return v; }
static inline JVal j_dict(JDict *d) { JVal v; v.kind = J_DICT; v.u.dict = d; return v; }
static inline JVal j_iter(JIter *i) { JVal v; v.kind = J_ITER; v.u.iter = i; return v; }
static inline bool j_given(JVal v) { return v.kind != J_MISSING; }
static inline bool j_is(JVal v, JKind k) { return v.kind == k; }
static inline bool j_is_seq(JVal v) { return v.kind == J_LIST || v.kind == J_TUPLE; }

/* ---- nodes ---- */
typedef enum {
    /* expressions */
    N_CONST, N_NAME, N_TUPLE, N_LIST, N_DICT /* key, value, key ... */, N_COND /* a if b else c */, N_OR, N_AND, N_NOT, N_NEG,
    N_POS, N_ADD, N_SUB, N_MUL, N_DIV, N_FLOORDIV, N_MOD, N_POW, N_CONCAT, N_COMPARE /* item[0] op[0] item[1] ... */,
    N_ATTR /* a.name */, N_ITEM /* a[b] */, N_SLICE /* a:b:c */, N_CALL /* a(...) */, N_FILTER /* a|name(...) */,
    N_TEST /* a is name(...) */, N_NSREF /* name.attr, a target */,
    /* statements */
    N_OUTPUT, N_DATA, N_FOR, N_IF, N_SET, N_SET_BLOCK, N_MACRO, N_CALL_BLOCK, N_GENERATION, N_FILTER_BLOCK, N_WITH, N_SCOPE,
    N_BLOCK, N_BREAK, N_CONTINUE, N_REFUSED /* parsed, an error when reached */
} NodeKind;
typedef enum { OP_EQ, OP_NE, OP_LT, OP_LE, OP_GT, OP_GE, OP_IN, OP_NOT_IN } CompareOp;

typedef struct Node Node;
typedef struct { Node **item; int n, cap; } Nodes;
typedef struct { const JStr *name; Node *value; } Keyword;
typedef struct { Nodes pos; Keyword *kw; int n_kw, cap_kw; Node *star, *star_star; } CallArgs;

typedef struct { int hops, slot; } Ref;         /* hops: functions outwards */
typedef enum { LOAD_PARAM, LOAD_RESOLVE, LOAD_ALIAS, LOAD_UNDEFINED } LoadKind;
typedef struct { LoadKind kind; int slot; const JStr *name; Ref from; } Load;
typedef struct { Load *load; int n; } Loads;    /* what entering a frame does to its slots */

struct Node {
    NodeKind kind;
    int line;
    int depth;              /* of the expression below */
    const JStr *name;       /* names, attributes, filters, tests, macros, blocks; REFUSED: what */
    JVal value;             /* CONST, DATA */
    Node *a, *b, *c;
    Nodes item;             /* parts of TUPLE LIST DICT CONCAT COMPARE OUTPUT; targets of WITH; parameters of MACRO */
    Nodes body, other;      /* statements; other: else of FOR, branches of IF, values of WITH, defaults of MACRO */
    unsigned char *op;      /* COMPARE: CompareOp */
    CallArgs *args;         /* CALL FILTER TEST */
    bool store;             /* NAME: is a target; TUPLE likewise */
    bool param;             /* NAME: declared as a parameter */
    bool recursive, extended;   /* FOR: marked so; its loop variable is used. Root, BLOCK: extended when self is used */
    bool exported;          /* SET, MACRO ...: at top level, blocks see it */
    bool takes_caller, takes_kwargs, takes_varargs;     /* MACRO, CALL_BLOCK */
    /* filled by jinja_scope.c */
    int n_slot;             /* of the function this node is, 0: none of its own */
    Ref ref;                /* NAME, NSREF; MACRO: where it is put; FOR: its loop; root, BLOCK: self */
    Ref caller_ref, kwargs_ref, varargs_ref;
    Loads loads, else_loads, test_loads;
    Node *test_target;      /* FOR with a condition: the target once more, in the function of the condition */
    int test_slots;
    int test_index;         /* FILTER, TEST: row of the table, -1: no such name (an error when reached) */
};

struct JinjaTemplate {
    Heap heap;
    Node *root;             /* body: statements */
    Nodes block;            /* named blocks */
    bool generation;
};

/* ---- the interpreter's state ---- */
typedef struct Env { struct Env *up; JVal slot[]; } Env;    /* variables of one activation of a function */

typedef struct {
    Heap heap;
    JinjaError *err;
    bool failed;
    int line;
    int64_t fuel;
    int depth, calls;       /* C recursion; macros */
    size_t made;            /* bytes written to all outputs */
    Str *out;               /* where output goes now */
    Str root;
    size_t root_chars;      /* code points of root[0..root_counted) */
    size_t root_counted;
    JDict *vars;            /* set at top level */
    JDict *context;         /* given variables and globals */
    JinjaOut *result;
    const Nodes *block;
    int cap_span;
    int64_t now_s;
    Env *env;
    bool stop_break, stop_continue;
} Jx;

enum { MAX_DEPTH = 2000, MAX_NEST = 400 /* of expressions and of values */, MAX_STATEMENTS = 100 };

JVal jx_fail(Jx *x, const char *fmt, ...) FORMAT(2, 3);     /* class runtime; returns undefined */
JVal jx_fail_class(Jx *x, JinjaClass cls, int line, const char *text, size_t n);
bool jx_step(Jx *x, int64_t cost);                          /* false: out of steps, or failed before */
bool jx_enter(Jx *x);                                       /* one level of C recursion; when true, undone by jx_leave */
static inline void jx_leave(Jx *x) { x->depth--; }

/* ---- jinja_value.c ---- */
const JStr *jx_str_own(Jx *x, const char *s, size_t n);     /* points into s, which must live as long as the heap */
JVal jx_str(Jx *x, const char *s, size_t n);                /* copies */
JVal jx_strz(Jx *x, const char *s);
JVal jx_take(Jx *x, Str *s);                                /* copies and releases */
JVal jx_markup(Jx *x, JVal str, bool markup);               /* the same text */
JVal jx_undef(Jx *x, const JStr *name, JKind of);           /* of J_MISSING: a variable */
JVal jx_undef_why(Jx *x, const char *why);
JVal jx_undef_error(Jx *x, JVal undef);                     /* fails with what an undefined value says of itself */
JList *jx_list(Jx *x, size_t cap);
void jx_add(Jx *x, JList *l, JVal v);
bool j_truth(JVal v);
const char *j_type(JVal v);                                 /* Python's name of the type */
bool jx_equal(Jx *x, JVal a, JVal b);
int jx_order(Jx *x, JVal a, JVal b);                        /* <0 0 >0; fails where Python has no order; 2: not a number */
bool j_same(JVal a, JVal b);                                /* "is" */
bool jx_len(Jx *x, JVal v, int64_t *n);                     /* fails when it has none */
bool j_has_len(JVal v);
bool jx_contains(Jx *x, JVal seq, JVal v);
JVal jx_from_json(Jx *x, const Json *j);
JVal jx_slice(Jx *x, JVal v, const JVal part[3]);

/* ---- jinja_dict.c ---- */
JDict *jx_dict(Jx *x);
void jx_dict_set(Jx *x, JDict *d, JVal key, JVal value);    /* fails on unhashable keys */
JVal *jx_dict_get(Jx *x, const JDict *d, JVal key);         /* NULL: absent; fails on unhashable keys */
JVal *jx_dict_find(Jx *x, const JDict *d, const char *key);
bool j_hashable(JVal v);

/* ---- characters of a text ---- */
uint32_t j_char(const char *s, size_t n, size_t *len);      /* the first; anything ill-formed is one byte long */
size_t j_put_char(char out[4], uint32_t c);
void j_str_char(Str *out, uint32_t c);
size_t j_count(const char *s, size_t n);
size_t j_offset(const JStr *s, size_t at);                  /* byte offset of code point at <= n_char */
/* jinja_char.c */
bool j_is_space(uint32_t c);
bool j_is_line_end(uint32_t c);
bool j_is_printable(uint32_t c);
bool j_is_letter(uint32_t c), j_is_decimal(uint32_t c), j_is_digit(uint32_t c), j_is_numeric(uint32_t c);
bool j_is_upper(uint32_t c), j_is_lower(uint32_t c), j_is_title(uint32_t c);
bool j_is_word(uint32_t c);                                 /* \w */
bool j_is_name_start(uint32_t c), j_is_name(uint32_t c);    /* of identifiers */
typedef enum { CASE_UPPER, CASE_LOWER, CASE_TITLE, CASE_CAPITAL, CASE_SWAP, CASE_FOLD } CaseKind;
void j_put_case(Str *out, const char *s, size_t n, CaseKind kind);

/* ---- jinja_num.c, jinja_big.c ---- */
JVal jx_arith(Jx *x, NodeKind op, JVal a, JVal b);
JVal jx_negate(Jx *x, JVal v);
JVal jx_abs(Jx *x, JVal v);
bool j_number(JVal v);                                      /* bool, int or float */
bool j_integer(JVal v);                                     /* bool or int */
bool j_float_of(JVal v, double *f);                         /* of any number; false when beyond a double */
int j_number_order(JVal a, JVal b);                         /* of numbers; 2: one is not a number */
bool jx_int(Jx *x, JVal v, int64_t *i, const char *what);   /* an index, a count: fails unless a whole number */
JVal jx_round(Jx *x, JVal v, int digits);
JVal jx_whole(Jx *x, double f);                             /* int(f) */
JVal jx_parse_int(Jx *x, const char *s, size_t n, int base, bool *ok);      /* as int(text, base) */
bool j_parse_float(const char *s, size_t n, double *f);                     /* as float(text) */
void jx_put_int(Jx *x, Str *out, JVal v, int base);         /* base 2, 8, 10, 16 */
JVal big_add(Jx *x, JVal a, JVal b, bool subtract);
JVal big_mul(Jx *x, JVal a, JVal b);
void big_divmod(Jx *x, JVal a, JVal b, JVal *quotient, JVal *rest);         /* floored; b is not 0 */
JVal big_negate(Jx *x, JVal v);
int big_order(JVal a, JVal b);
double big_double(JVal v);
JVal big_from_digits(Jx *x, const char *s, size_t n, int base, bool negative);
void big_put(Jx *x, Str *out, JVal v);

/* ---- jinja_iter.c ---- */
JIter *jx_iter(Jx *x, JVal v);                              /* fails, and is empty, when v cannot be iterated */
bool jx_next(Jx *x, JIter *i, JVal *v);
bool j_iterable(JVal v);
JList *jx_collect(Jx *x, JVal v);                           /* everything it gives, a fresh list */
JIter *jx_iter_reversed(Jx *x, JVal v);                     /* NULL: cannot be, nothing failed */
typedef struct JArgs JArgs;
typedef bool IterFn(Jx *x, void *ud, JVal *v);              /* the next one, or false */
JIter *jx_iter_fn(Jx *x, IterFn *next, void *ud, const char *type);
const char *j_iter_type(const JIter *i);

/* ---- jinja_print.c ---- */
void jx_put(Jx *x, Str *out, JVal v);                       /* as str(v) */
void jx_put_repr(Jx *x, Str *out, JVal v);
JVal jx_text(Jx *x, JVal v);                                /* str(v); text stays itself */
typedef struct { bool ascii, sort, pretty; const JStr *indent, *item, *colon; } JsonStyle;
void jx_put_json(Jx *x, Str *out, JVal v, const JsonStyle *style);
void jx_put_escaped(Str *out, const char *s, size_t n);     /* & < > ' " for HTML */
JVal jx_escape(Jx *x, JVal v);                              /* markup; markup stays itself */

/* ---- jinja_call.c ---- */
struct JArgs { JVal *pos; int n_pos; const JStr **kw; JVal *kw_value; int n_kw; };
typedef JVal BoundFn(Jx *x, JVal self, const JVal *arg);
enum { MAX_BOUND = 8 };
typedef enum { BIND_ANY, BIND_POSITIONAL } BindKind;
/* Arguments by "old new count?" (a question mark: may be left out, then missing). False: failed as Python's call would. */
bool jx_bind(Jx *x, const char *name, const char *spec, BindKind kind, const JArgs *a, JVal out[MAX_BOUND]);
JVal jx_call(Jx *x, JVal callee, const JArgs *a);
JVal jx_getattr(Jx *x, JVal obj, const JStr *name);
JVal jx_getitem(Jx *x, JVal obj, JVal key);
JVal jx_attribute(Jx *x, JVal obj, const JStr *name, bool *known);  /* never an item */
bool j_callable(JVal v);
typedef struct { const char *name; BoundFn *fn; const char *spec; BindKind kind; JVal (*raw)(Jx *x, JVal self, const JArgs *a); } MethodRow;
struct JMethod { const MethodRow *row; JVal self; };
const MethodRow *j_str_method(const char *name);
typedef enum { FUNC_RANGE, FUNC_DICT, FUNC_NAMESPACE, FUNC_CYCLER, FUNC_JOINER, FUNC_LIPSUM, FUNC_RAISE, FUNC_STRFTIME, FUNC_COUNT } JFunc;
const char *j_func_name(int f);
JVal jx_call_macro(Jx *x, const JMacro *m, const JArgs *a);         /* jinja_exec.c */
JVal jx_call_loop(Jx *x, JLoop *l, JVal items);                     /* jinja_exec.c: loop(items) */
JVal jx_loop_attr(Jx *x, JLoop *l, const char *name, bool *known);  /* jinja_exec.c */
JVal jx_macro_attr(Jx *x, const JMacro *m, const char *name, bool *known);
JVal jx_call_block(Jx *x, const Node *block);                       /* self.block() */
void jx_put_loop(Jx *x, Str *out, JLoop *l);
const JStr *j_macro_name(const JMacro *m);
bool jx_loop_len(Jx *x, JLoop *l, int64_t *n);
bool jx_loop_next(Jx *x, JLoop *l, JVal *item);
JVal jx_loop_method(Jx *x, JLoop *l, bool changed, const JArgs *a); /* cycle, changed */

/* ---- jinja_format.c ---- */
JVal jx_percent(Jx *x, JVal format, JVal value);            /* text % value */
JVal jx_format(Jx *x, JVal self, const JArgs *a);           /* text.format(...) */
JVal jx_format_map(Jx *x, JVal self, const JArgs *a);

/* ---- jinja_filter.c, jinja_filter_seq.c, jinja_test.c ---- */
typedef struct { const char *name; BoundFn *fn; const char *spec; JVal (*raw)(Jx *x, JVal self, const JArgs *a); } FilterRow;
extern const FilterRow filters_text[], filters_seq[];       /* end with an empty row */
int j_find_filter(const JStr *name);                        /* -1: none */
JVal jx_filter(Jx *x, int row, JVal v, const JArgs *a);
JVal jx_filter_named(Jx *x, JVal name, JVal v, const JArgs *a);     /* fails when there is none */
int j_find_test(const JStr *name);
bool jx_test(Jx *x, int row, JVal v, const JArgs *a);
bool jx_test_named(Jx *x, JVal name, JVal v, const JArgs *a);
JVal jx_attr_path(Jx *x, JVal v, JVal path, JVal otherwise);        /* "a.b.0"; otherwise: missing, or instead of undefined */

/* ---- jinja_layout.c ---- */
JVal jx_wordwrap(Jx *x, JVal v, const JVal *arg);
JVal jx_pprint(Jx *x, JVal v, const JVal *arg);

/* ---- jinja_str.c ---- */
typedef enum { STRIP_LEFT = 1, STRIP_RIGHT = 2, STRIP_BOTH = 3 } StripKind;
JVal jx_strip(Jx *x, JVal text, JVal chars, StripKind kind);        /* chars: missing or None: white space */
JVal jx_replace(Jx *x, JVal text, JVal from, JVal to, int64_t count);
JVal jx_case(Jx *x, JVal text, CaseKind kind);
JVal jx_lines(Jx *x, JVal text, bool keep);
JVal jx_center(Jx *x, JVal text, int64_t width, char fill, int side);
JVal jx_join(Jx *x, JVal sep, JVal items, bool strict);             /* strict: items must be texts */
JVal jx_split(Jx *x, JVal text, JVal sep, int64_t max, bool right);

/* ---- jinja_lex.c ---- */
typedef enum {
    T_EOF, T_DATA, T_BLOCK_BEGIN, T_BLOCK_END, T_VAR_BEGIN, T_VAR_END, T_NAME, T_STRING, T_INTEGER, T_FLOAT,
    T_ADD, T_SUB, T_MUL, T_DIV, T_FLOORDIV, T_MOD, T_POW, T_TILDE, T_LBRACKET, T_RBRACKET, T_LPAREN, T_RPAREN, T_LBRACE,
    T_RBRACE, T_EQ, T_NE, T_GT, T_GE, T_LT, T_LE, T_ASSIGN, T_DOT, T_COLON, T_PIPE, T_COMMA, T_SEMICOLON
} TokenType;
typedef struct { TokenType type; int line; const JStr *text; JVal value; } Token;
/* All tokens of a template, ending with T_EOF; NULL: failed, class syntax. */
Token *jinja_lex(Jx *x, const char *source, size_t n, int *n_token);
const char *token_words(TokenType t);

/* ---- jinja_parse.c, jinja_parse_expr.c, jinja_scope.c ---- */
typedef struct { Jx *x; const Token *tok; int at, n; int nest, statements; const char *tag[MAX_STATEMENTS + 1]; bool generation; } Parser;
Node *parse_template(Parser *p);
Node *node_new(Parser *p, NodeKind kind, int line);
void nodes_add(Parser *p, Nodes *l, Node *n);
JVal parse_fail(Parser *p, int line, const char *fmt, ...) FORMAT(3, 4);
Node *parse_expression(Parser *p, bool with_cond);
typedef struct { bool simple, no_cond, parenthesised, namespaces; const char *end; } TupleRules;
Node *parse_tuple(Parser *p, TupleRules r);
Node *parse_target(Parser *p, const char *end, bool namespaces);
Node *parse_name_target(Parser *p);
Node *parse_filters(Parser *p, Node *on, bool inline_first);
static inline const Token *tok(const Parser *p) { return &p->tok[p->at]; }
const Token *parse_next(Parser *p);                         /* the current one, and goes on */
const Token *parse_expect(Parser *p, TokenType t);
bool parse_skip(Parser *p, TokenType t);
bool tok_is(const Token *t, const char *word);
bool parse_skip_word(Parser *p, const char *word);
bool scope_resolve(Jx *x, Node *root, Nodes *block);        /* block: the named ones. False: failed */

/* ---- jinja_eval.c, jinja_exec.c ---- */
JVal jx_eval(Jx *x, const Node *n);
JVal jx_eval_args(Jx *x, const CallArgs *c, JArgs *out);    /* ok: not failed */
void jx_assign(Jx *x, const Node *target, JVal v);
void jx_exec(Jx *x, const Nodes *body);
void jx_enter_top(Jx *x, const Node *n);                    /* runs the template, or a named block */
void jx_load(Jx *x, const Loads *l);
void jx_unload(Jx *x, const Loads *l);
void jx_write(Jx *x, JVal v);

#endif
