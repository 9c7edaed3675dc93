/* jinja_lex.c — a template's text as tokens. White space is settled here:
 *
 *   {%- ... -%}   takes all of it on that side          {%+  keeps the blanks before the tag, +%} the newline behind it
 *   {% ... %}     alone at the start of a line takes the blanks before it (lstrip_blocks), and one newline after
 *                 (trim_blocks); so do comments, not {{ }}
 *
 * CRLF and CR are LF; one newline at the end of the template goes. */
#include "text/jinja_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    Jx *x;
    const char *s;
    size_t n, at;
    int line;
    Token *tok;
    int n_tok, cap;
    Str open; /* brackets not yet closed inside this tag, as their closers */
} Lex;

static bool lex_fail(Lex *l, const char *text) {
    jx_fail_class(l->x, JINJA_SYNTAX, l->line, text, strlen(text));
    return false;
}

static void emit(Lex *l, TokenType type, JVal value, int line) {
    if (l->n_tok == l->cap) {
        int cap = l->cap ? l->cap * 2 : 64;
        Token *t = heap_alloc(&l->x->heap, (size_t)cap * sizeof *t);
        if (l->n_tok) memcpy(t, l->tok, (size_t)l->n_tok * sizeof *t);
        l->tok = t;
        l->cap = cap;
    }
    l->tok[l->n_tok++] = (Token){type, line, value.kind == J_STR ? value.u.str : NULL, value};
}

static bool at_text(const Lex *l, size_t at, const char *text) {
    size_t n = strlen(text);
    return at + n <= l->n && memcmp(l->s + at, text, n) == 0;
}

static size_t skip_space(const Lex *l, size_t at) {
    size_t len;
    while (at < l->n && j_is_space(j_char(l->s + at, l->n - at, &len))) at += len;
    return at;
}

static void go(Lex *l, size_t to) {
    for (; l->at < to; l->at++) l->line += l->s[l->at] == '\n';
}

/* The end of a tag at `at`: "%}", "-%}", "+%}" of `close`; returns where the tag's reach ends, 0: no end here. */
static size_t tag_end(const Lex *l, size_t at, const char *close, bool plus, bool trim) {
    if (l->s[at] == '-' && at_text(l, at + 1, close)) return skip_space(l, at + 3);
    if (plus && l->s[at] == '+' && at_text(l, at + 1, close)) return at + 3;
    if (!at_text(l, at, close)) return 0;
    return at + 2 + (trim && at + 2 < l->n && l->s[at + 2] == '\n');
}

/* "{%" sign? blanks word blanks "%}": what raw and endraw look like. Returns the end, 0: it is none. */
static size_t word_tag(const Lex *l, size_t at, const char *word, bool trim, char *sign) {
    if (!at_text(l, at, "{%")) return 0;
    at += 2;
    *sign = at < l->n && (l->s[at] == '-' || l->s[at] == '+') ? l->s[at++] : 0;
    at = skip_space(l, at);
    if (!at_text(l, at, word)) return 0;
    at = skip_space(l, at + strlen(word));
    return at < l->n ? tag_end(l, at, "%}", trim, trim) : 0;
}

/* Text up to a tag at `end`, without what the tag takes. */
static void emit_data(Lex *l, size_t end, char sign, bool variable) {
    size_t from = l->at, to = end;
    if (sign == '-') {
        while (to > from) {
            size_t k = to - 1, len;
            while (k > from && ((unsigned char)l->s[k] & 0xC0) == 0x80) k--;
            if (!j_is_space(j_char(l->s + k, to - k, &len))) break;
            to = k;
        }
    } else if (sign != '+' && !variable) {
        size_t line = to;
        while (line > from && l->s[line - 1] != '\n') line--;
        bool starts = line > from || from == 0 || l->s[from - 1] == '\n';
        if (starts && skip_space(l, line) >= to) to = line;
    }
    if (to > from) emit(l, T_DATA, j_str(jx_str_own(l->x, l->s + from, to - from)), l->line);
    go(l, end);
}

static bool lex_raw(Lex *l) {
    char sign = 0;
    for (size_t at = l->at; at < l->n; at++) {
        size_t end = word_tag(l, at, "endraw", true, &sign);
        if (!end) continue;
        emit_data(l, at, sign, false);
        go(l, end);
        return true;
    }
    return l->at >= l->n || lex_fail(l, "Missing end of raw directive");
}

static bool lex_comment(Lex *l) {
    for (size_t at = l->at; at < l->n; at++) {
        size_t end = tag_end(l, at, "#}", true, true);
        if (!end) continue;
        go(l, end);
        return true;
    }
    return l->at >= l->n || lex_fail(l, "Missing end of comment tag");
}

/* ---- literals ---- */

static void put_code(Str *out, uint32_t c) { j_str_char(out, c); }

/* A backslash before a character beyond ASCII: Python's unicode-escape sees \xe9, \u65e5 or \U0001f600 there and takes
 * the backslash away from it. */
static size_t unescape_wide(Str *out, const char *s, size_t n) {
    size_t len;
    uint32_t c = j_char(s, n, &len);
    str_printf(out, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
    return len;
}

static bool unescape_hex(Str *out, const char *s, size_t n, size_t digits) {
    uint32_t c = 0;
    if (n < digits) return false;
    for (size_t i = 0; i < digits; i++) {
        int d = s[i] >= '0' && s[i] <= '9'                     ? s[i] - '0'
                : (s[i] | 0x20) >= 'a' && (s[i] | 0x20) <= 'f' ? (s[i] | 0x20) - 'a' + 10
                                                               : -1;
        if (d < 0) return false;
        c = c << 4 | (uint32_t)d;
    }
    if (c > 0x10FFFF) return false;
    put_code(out, c);
    return true;
}

static bool unescape(Lex *l, Str *out, const char *s, size_t n) {
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    for (size_t i = 0; i < n; i++) {
        if (s[i] != '\\') {
            str_putc(out, s[i]);
            continue;
        }
        i++; /* the pattern of strings saw to it that one follows */
        const char *known = s[i] ? strchr(from, s[i]) : NULL;
        if (known)
            str_putc(out, to[known - from]);
        else if (s[i] == '\n')
            continue;
        else if (s[i] >= '0' && s[i] <= '7') {
            uint32_t c = 0;
            size_t k = i;
            while (k < n && k < i + 3 && s[k] >= '0' && s[k] <= '7') c = c * 8 + (uint32_t)(s[k++] - '0');
            put_code(out, c);
            i = k - 1;
        } else if (s[i] == 'x' || s[i] == 'u' || s[i] == 'U') {
            size_t digits = s[i] == 'x' ? 2 : s[i] == 'u' ? 4 : 8;
            if (!unescape_hex(out, s + i + 1, n - i - 1, digits))
                return lex_fail(l, "malformed \\x, \\u or \\U escape");
            i += digits;
        } else if (s[i] == 'N')
            return lex_fail(l, "\\N{...} escapes are not supported");
        else if ((unsigned char)s[i] >= 0x80)
            i += unescape_wide(out, s + i, n - i) - 1;
        else
            str_printf(out, "\\%c", s[i]);
    }
    return true;
}

static bool lex_string(Lex *l, bool *found) {
    char quote = l->s[l->at];
    size_t end = l->at + 1;
    while (end < l->n && l->s[end] != quote) end += l->s[end] == '\\' ? 2 : 1;
    *found = end < l->n;
    if (!*found) return true;
    Str text = {0};
    bool ok = unescape(l, &text, l->s + l->at + 1, end - l->at - 1);
    if (ok) emit(l, T_STRING, jx_str(l->x, str_get(&text), text.n), l->line);
    str_release(&text);
    if (ok) go(l, end + 1);
    return ok;
}

static bool is_digit(const Lex *l, size_t at) { return at < l->n && l->s[at] >= '0' && l->s[at] <= '9'; }

/* Digits with single underscores between them. */
static size_t skip_digits(const Lex *l, size_t at) {
    while (is_digit(l, at)) at += l->s[at + 1] == '_' && is_digit(l, at + 2) ? 2 : 1;
    return at;
}

static size_t float_end(const Lex *l) {
    if (l->at > 0 && l->s[l->at - 1] == '.') return 0; /* x.0.1 is two items */
    size_t at = skip_digits(l, l->at), point = 0;
    if (at < l->n && l->s[at] == '.' && is_digit(l, at + 1)) at = point = skip_digits(l, at + 1);
    if (at < l->n && (l->s[at] | 0x20) == 'e') {
        size_t e = at + 1;
        if (e < l->n && (l->s[e] == '+' || l->s[e] == '-')) e++;
        if (is_digit(l, e)) return skip_digits(l, e);
    }
    return point;
}

static size_t integer_end(const Lex *l) {
    size_t at = l->at;
    int base = l->s[at] == '0' && at + 1 < l->n ? l->s[at + 1] | 0x20 : 0;
    const char *digits = base == 'x' ? "0123456789abcdefABCDEF" : base == 'o' ? "01234567" : base == 'b' ? "01" : NULL;
    if (digits) {
        size_t e = at + 2;
        for (;;) {
            size_t d = e + (e < l->n && l->s[e] == '_');
            if (d >= l->n || !l->s[d] || !strchr(digits, l->s[d])) break;
            e = d + 1;
        }
        if (e > at + 2) return e;
    }
    if (l->s[at] != '0') return skip_digits(l, at);
    at++;
    while (at < l->n && (l->s[at] == '0' || (l->s[at] == '_' && at + 1 < l->n && l->s[at + 1] == '0'))) at++;
    return at;
}

static void lex_number(Lex *l) {
    size_t end = float_end(l);
    TokenType type = end ? T_FLOAT : T_INTEGER;
    if (!end) end = integer_end(l);
    Str text = {0};
    for (size_t i = l->at; i < end; i++)
        if (l->s[i] != '_') str_putc(&text, l->s[i]);
    bool ok;
    JVal v = type == T_FLOAT ? j_float(strtod(text.s, NULL)) : jx_parse_int(l->x, text.s, text.n, 0, &ok);
    str_release(&text);
    emit(l, type, v, l->line);
    go(l, end);
}

static size_t name_end(const Lex *l) {
    size_t at = l->at, len;
    while (at < l->n) {
        uint32_t c = j_char(l->s + at, l->n - at, &len);
        if (!j_is_name(c)) break;
        at += len;
    }
    return at;
}

static bool lex_operator(Lex *l) {
    static const struct {
        const char *text;
        TokenType type;
    } table[] = {{"//", T_FLOORDIV}, {"**", T_POW},   {"==", T_EQ},      {"!=", T_NE},      {">=", T_GE},
                 {"<=", T_LE},       {"+", T_ADD},    {"-", T_SUB},      {"/", T_DIV},      {"*", T_MUL},
                 {"%", T_MOD},       {"~", T_TILDE},  {"[", T_LBRACKET}, {"]", T_RBRACKET}, {"(", T_LPAREN},
                 {")", T_RPAREN},    {"{", T_LBRACE}, {"}", T_RBRACE},   {">", T_GT},       {"<", T_LT},
                 {"=", T_ASSIGN},    {".", T_DOT},    {":", T_COLON},    {"|", T_PIPE},     {",", T_COMMA},
                 {";", T_SEMICOLON}};
    char text[80];
    for (int i = 0; i < COUNT_OF(table); i++) {
        if (!at_text(l, l->at, table[i].text)) continue;
        char c = table[i].text[0];
        if (table[i].type == T_LPAREN || table[i].type == T_LBRACKET || table[i].type == T_LBRACE)
            str_putc(&l->open, c == '(' ? ')' : (char)(c + 2));
        if (table[i].type == T_RPAREN || table[i].type == T_RBRACKET || table[i].type == T_RBRACE) {
            char expected = l->open.n ? l->open.s[l->open.n - 1] : 0;
            snprintf(text, sizeof text, expected ? "unexpected '%c', expected '%c'" : "unexpected '%c'", c, expected);
            if (expected != c) return lex_fail(l, text);
            l->open.n--;
        }
        emit(l, table[i].type, j_none(), l->line);
        go(l, l->at + strlen(table[i].text));
        return true;
    }
    size_t len;
    uint32_t c = j_char(l->s + l->at, l->n - l->at, &len);
    snprintf(text, sizeof text, j_is_printable(c) && c < 0x80 ? "unexpected char '%c'" : "unexpected char U+%04X",
             (int)c);
    return lex_fail(l, text);
}

/* ---- tags ---- */

static bool lex_token(Lex *l) {
    size_t len;
    uint32_t c = j_char(l->s + l->at, l->n - l->at, &len);
    if (c >= '0' && c <= '9') {
        lex_number(l);
        return !l->x->failed;
    }
    if (j_is_name_start(c)) {
        size_t end = name_end(l);
        emit(l, T_NAME, jx_str(l->x, l->s + l->at, end - l->at), l->line);
        go(l, end);
        return true;
    }
    if (c == '\'' || c == '"') {
        bool found;
        if (!lex_string(l, &found) || found) return !l->x->failed;
    }
    return lex_operator(l);
}

static bool lex_inside(Lex *l, bool variable) {
    emit(l, variable ? T_VAR_BEGIN : T_BLOCK_BEGIN, j_none(), l->line);
    l->open.n = 0;
    while (l->at < l->n) {
        size_t end = l->open.n ? 0 : tag_end(l, l->at, variable ? "}}" : "%}", !variable, !variable);
        if (end) {
            emit(l, variable ? T_VAR_END : T_BLOCK_END, j_none(), l->line);
            go(l, end);
            return true;
        }
        size_t to = skip_space(l, l->at);
        if (to > l->at)
            go(l, to);
        else if (!lex_token(l))
            return false;
    }
    return true; /* the parser will miss the end */
}

static bool lex_root(Lex *l) {
    size_t at = l->at, raw = 0;
    char sign = 0, kind = 0;
    for (; at + 1 < l->n; at++) {
        kind = l->s[at] == '{' ? l->s[at + 1] : 0;
        if (kind != '%' && kind != '{' && kind != '#') continue;
        raw = kind == '%' ? word_tag(l, at, "raw", false, &sign) : 0;
        break;
    }
    if (at + 1 >= l->n) {
        if (l->at < l->n) emit(l, T_DATA, j_str(jx_str_own(l->x, l->s + l->at, l->n - l->at)), l->line);
        go(l, l->n);
        return true;
    }
    sign = at + 2 < l->n && (l->s[at + 2] == '-' || l->s[at + 2] == '+') ? l->s[at + 2] : 0;
    emit_data(l, at, sign, kind == '{');
    go(l, raw ? raw : at + 2 + (sign != 0));
    if (raw) return lex_raw(l);
    return kind == '#' ? lex_comment(l) : lex_inside(l, kind == '{');
}

static char *normal_newlines(Jx *x, const char *source, size_t *n) {
    char *s = heap_alloc(&x->heap, *n + 4), *o = s;
    for (size_t i = 0; i < *n; i++) {
        if (source[i] != '\r')
            *o++ = source[i];
        else if (i + 1 >= *n || source[i + 1] != '\n')
            *o++ = '\n';
    }
    if (o > s && o[-1] == '\n') o--;
    *o = 0;
    *n = (size_t)(o - s);
    return s;
}

Token *jinja_lex(Jx *x, const char *source, size_t n, int *n_token) {
    Lex l = {.x = x, .n = n, .line = 1};
    size_t bad = 0;
    *n_token = 0;
    if (!str_utf8_valid(source, n, &bad)) {
        lex_fail(&l, "the template is not UTF-8");
        return NULL;
    }
    l.s = normal_newlines(x, source, &l.n);
    while (l.at < l.n && lex_root(&l)) {}
    emit(&l, T_EOF, j_none(), l.line);
    str_release(&l.open);
    *n_token = l.n_tok;
    return x->failed ? NULL : l.tok;
}

const char *token_words(TokenType t) {
    static const char *const words[] = {
        [T_EOF] = "end of template",
        [T_DATA] = "template data / text",
        [T_BLOCK_BEGIN] = "begin of statement block",
        [T_BLOCK_END] = "end of statement block",
        [T_VAR_BEGIN] = "begin of print statement",
        [T_VAR_END] = "end of print statement",
        [T_NAME] = "name",
        [T_STRING] = "string",
        [T_INTEGER] = "integer",
        [T_FLOAT] = "float",
        [T_ADD] = "+",
        [T_SUB] = "-",
        [T_MUL] = "*",
        [T_DIV] = "/",
        [T_FLOORDIV] = "//",
        [T_MOD] = "%",
        [T_POW] = "**",
        [T_TILDE] = "~",
        [T_LBRACKET] = "[",
        [T_RBRACKET] = "]",
        [T_LPAREN] = "(",
        [T_RPAREN] = ")",
        [T_LBRACE] = "{",
        [T_RBRACE] = "}",
        [T_EQ] = "==",
        [T_NE] = "!=",
        [T_GT] = ">",
        [T_GE] = ">=",
        [T_LT] = "<",
        [T_LE] = "<=",
        [T_ASSIGN] = "=",
        [T_DOT] = ".",
        [T_COLON] = ":",
        [T_PIPE] = "|",
        [T_COMMA] = ",",
        [T_SEMICOLON] = ";",
    };
    return words[t];
}
