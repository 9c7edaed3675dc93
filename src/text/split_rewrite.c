/* split_rewrite.c — patterns made for Oniguruma with Unicode 16, for PCRE2 10.42, which knows Unicode 14.
 *
 *   - \s is \p{White_Space}: PCRE2 would take U+180E, too;
 *   - \w, \d and \b, whose classes differ, are spelled out, and so is a set in a class: [a[bc]] is [abc];
 *   - {1,3}+ repeats, and is not possessive: it is {1,};
 *   - each pattern has two forms. The wide one adds to \p{L}, \p{N}, \p{Lu}, \p{Han} and the like the code points that
 *     became letters, numbers and so on since;
 *   - what the two read differently and we know of no tokenizer to use (&& in a class, [:alpha:], \h, (?m)) is refused.
 */
#include "text/text_int.h"

#include <string.h>

// clang-format off
/* Assigned in Unicode 15 and 16, so in none of PCRE2 10.42's classes; with the general category they got. (One code
 * point, U+1171E, moved from Mn to Mc, which cannot be expressed; it is in M for both.) */
static const struct { uint32_t first, last; char category[3]; } drift[] = {
    {0x00897, 0x00897, "Mn"}, {0x00CF3, 0x00CF3, "Mc"}, {0x00ECE, 0x00ECE, "Mn"}, {0x01B4E, 0x01B4F, "Po"},
    {0x01B7F, 0x01B7F, "Po"}, {0x01C89, 0x01C89, "Lu"}, {0x01C8A, 0x01C8A, "Ll"}, {0x02427, 0x02429, "So"},
    {0x02FFC, 0x02FFF, "So"}, {0x031E4, 0x031E5, "So"}, {0x031EF, 0x031EF, "So"}, {0x0A7CB, 0x0A7CC, "Lu"},
    {0x0A7CD, 0x0A7CD, "Ll"}, {0x0A7DA, 0x0A7DA, "Lu"}, {0x0A7DB, 0x0A7DB, "Ll"}, {0x0A7DC, 0x0A7DC, "Lu"},
    {0x105C0, 0x105F3, "Lo"}, {0x10D40, 0x10D49, "Nd"}, {0x10D4A, 0x10D4D, "Lo"}, {0x10D4E, 0x10D4E, "Lm"},
    {0x10D4F, 0x10D4F, "Lo"}, {0x10D50, 0x10D65, "Lu"}, {0x10D69, 0x10D6D, "Mn"}, {0x10D6E, 0x10D6E, "Pd"},
    {0x10D6F, 0x10D6F, "Lm"}, {0x10D70, 0x10D85, "Ll"}, {0x10D8E, 0x10D8F, "Sm"}, {0x10EC2, 0x10EC4, "Lo"},
    {0x10EFC, 0x10EFF, "Mn"}, {0x1123F, 0x11240, "Lo"}, {0x11241, 0x11241, "Mn"}, {0x11380, 0x11389, "Lo"},
    {0x1138B, 0x1138B, "Lo"}, {0x1138E, 0x1138E, "Lo"}, {0x11390, 0x113B5, "Lo"}, {0x113B7, 0x113B7, "Lo"},
    {0x113B8, 0x113BA, "Mc"}, {0x113BB, 0x113C0, "Mn"}, {0x113C2, 0x113C2, "Mc"}, {0x113C5, 0x113C5, "Mc"},
    {0x113C7, 0x113CA, "Mc"}, {0x113CC, 0x113CD, "Mc"}, {0x113CE, 0x113CE, "Mn"}, {0x113CF, 0x113CF, "Mc"},
    {0x113D0, 0x113D0, "Mn"}, {0x113D1, 0x113D1, "Lo"}, {0x113D2, 0x113D2, "Mn"}, {0x113D3, 0x113D3, "Lo"},
    {0x113D4, 0x113D5, "Po"}, {0x113D7, 0x113D8, "Po"}, {0x113E1, 0x113E2, "Mn"}, {0x116D0, 0x116E3, "Nd"},
    {0x11B00, 0x11B09, "Po"}, {0x11BC0, 0x11BE0, "Lo"}, {0x11BE1, 0x11BE1, "Po"}, {0x11BF0, 0x11BF9, "Nd"},
    {0x11F00, 0x11F01, "Mn"}, {0x11F02, 0x11F02, "Lo"}, {0x11F03, 0x11F03, "Mc"}, {0x11F04, 0x11F10, "Lo"},
    {0x11F12, 0x11F33, "Lo"}, {0x11F34, 0x11F35, "Mc"}, {0x11F36, 0x11F3A, "Mn"}, {0x11F3E, 0x11F3F, "Mc"},
    {0x11F40, 0x11F40, "Mn"}, {0x11F41, 0x11F41, "Mc"}, {0x11F42, 0x11F42, "Mn"}, {0x11F43, 0x11F4F, "Po"},
    {0x11F50, 0x11F59, "Nd"}, {0x11F5A, 0x11F5A, "Mn"}, {0x1342F, 0x1342F, "Lo"}, {0x13439, 0x1343F, "Cf"},
    {0x13440, 0x13440, "Mn"}, {0x13441, 0x13446, "Lo"}, {0x13447, 0x13455, "Mn"}, {0x13460, 0x143FA, "Lo"},
    {0x16100, 0x1611D, "Lo"}, {0x1611E, 0x16129, "Mn"}, {0x1612A, 0x1612C, "Mc"}, {0x1612D, 0x1612F, "Mn"},
    {0x16130, 0x16139, "Nd"}, {0x16D40, 0x16D42, "Lm"}, {0x16D43, 0x16D6A, "Lo"}, {0x16D6B, 0x16D6C, "Lm"},
    {0x16D6D, 0x16D6F, "Po"}, {0x16D70, 0x16D79, "Nd"}, {0x18CFF, 0x18CFF, "Lo"}, {0x1B132, 0x1B132, "Lo"},
    {0x1B155, 0x1B155, "Lo"}, {0x1CC00, 0x1CCEF, "So"}, {0x1CCF0, 0x1CCF9, "Nd"}, {0x1CD00, 0x1CEB3, "So"},
    {0x1D2C0, 0x1D2D3, "No"}, {0x1DF25, 0x1DF2A, "Ll"}, {0x1E030, 0x1E06D, "Lm"}, {0x1E08F, 0x1E08F, "Mn"},
    {0x1E4D0, 0x1E4EA, "Lo"}, {0x1E4EB, 0x1E4EB, "Lm"}, {0x1E4EC, 0x1E4EF, "Mn"}, {0x1E4F0, 0x1E4F9, "Nd"},
    {0x1E5D0, 0x1E5ED, "Lo"}, {0x1E5EE, 0x1E5EF, "Mn"}, {0x1E5F0, 0x1E5F0, "Lo"}, {0x1E5F1, 0x1E5FA, "Nd"},
    {0x1E5FF, 0x1E5FF, "Po"}, {0x1F6DC, 0x1F6DC, "So"}, {0x1F774, 0x1F776, "So"}, {0x1F77B, 0x1F77F, "So"},
    {0x1F7D9, 0x1F7D9, "So"}, {0x1F8B2, 0x1F8BB, "So"}, {0x1F8C0, 0x1F8C1, "So"}, {0x1FA75, 0x1FA77, "So"},
    {0x1FA87, 0x1FA89, "So"}, {0x1FA8F, 0x1FA8F, "So"}, {0x1FAAD, 0x1FAAF, "So"}, {0x1FABB, 0x1FABF, "So"},
    {0x1FAC6, 0x1FAC6, "So"}, {0x1FACE, 0x1FACF, "So"}, {0x1FADA, 0x1FADC, "So"}, {0x1FADF, 0x1FADF, "So"},
    {0x1FAE8, 0x1FAE9, "So"}, {0x1FAF7, 0x1FAF8, "So"}, {0x1FBCB, 0x1FBEF, "So"}, {0x2B739, 0x2B739, "Lo"},
    {0x2EBF0, 0x2EE5D, "Lo"}, {0x31350, 0x323AF, "Lo"},
};

/* Scripts, each with what it has got since Unicode 14. */
typedef struct { const char *name; CharRange more[4]; } Script;
static const Script scripts[] = {
    {"Han", {{0x2B739, 0x2B739}, {0x2EBF0, 0x2EE5D}, {0x31350, 0x323AF}}}, {"Hiragana", {{0x1B132, 0x1B132}}},
    {"Katakana", {{0x1B155, 0x1B155}}}, {"Hangul", {{0}}}, {"Latin", {{0xA7CB, 0xA7CD}, {0xA7DA, 0xA7DC}, {0x1DF25, 0x1DF2A}}},
    {"Cyrillic", {{0x1C89, 0x1C8A}, {0x1E030, 0x1E06D}, {0x1E08F, 0x1E08F}}}, {"Greek", {{0}}},
    {"Arabic", {{0x897, 0x897}, {0x10EC2, 0x10EC4}, {0x10EFC, 0x10EFF}}}, {"Hebrew", {{0}}}, {"Thai", {{0}}},
    {"Devanagari", {{0x11B00, 0x11B09}}}, {"Bengali", {{0}}},
};
// clang-format on

bool char_is_drift(uint32_t c) {
    int lo = 0, hi = COUNT_OF(drift);
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (c > drift[mid].last)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < COUNT_OF(drift) && c >= drift[lo].first;
}

/* A property in braces behind "\p" or "\P": the length of "{Lu}", 0 if it is none of those whose members we know. */
static size_t class_name(const char *p, size_t n) {
    static const char *const category[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N", "Nd",
                                           "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S", "Sm",
                                           "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "Cc", "Cf", "Co"};
    for (int i = 0; i < COUNT_OF(category) + COUNT_OF(scripts); i++) {
        const char *name = i < COUNT_OF(category) ? category[i] : scripts[i - COUNT_OF(category)].name;
        size_t len = strlen(name);
        if (n >= len + 2 && p[0] == '{' && memcmp(p + 1, name, len) == 0 && p[len + 1] == '}') return len + 2;
    }
    return 0;
}

static const Script *script_of(const char *name, size_t len) {
    for (int i = 0; i < COUNT_OF(scripts); i++)
        if (strlen(scripts[i].name) == len - 2 && memcmp(scripts[i].name, name + 1, len - 2) == 0) return &scripts[i];
    return NULL;
}

/* What the class has got since. */
static void put_drift(Str *out, const char *name, size_t len) {
    const Script *script = script_of(name, len);
    for (int i = 0; script && i < COUNT_OF(script->more) && script->more[i].first; i++)
        str_printf(out, "\\x{%X}-\\x{%X}", script->more[i].first, script->more[i].last);
    for (int i = 0; !script && i < COUNT_OF(drift); i++)
        if (drift[i].category[0] == name[1] && (len == 3 || drift[i].category[1] == name[2]))
            str_printf(out, "\\x{%X}-\\x{%X}", drift[i].first, drift[i].last);
}

/* "{Lu}" as PCRE2 has it: of a script, \p{Han} would have what other scripts share, too. */
static void put_name(Str *out, const char *name, size_t len) {
    str_put(out, script_of(name, len) ? "{sc:" : "{");
    str_putn(out, name + 1, len - 1);
}

static void put_class(Str *out, const char *name, bool wide) {
    str_printf(out, "\\p%s", name);
    if (wide) put_drift(out, name, strlen(name));
}

/* What \w matches there: letters, marks, digits, connectors, what is alphabetic otherwise; of Latin-1 the other digits,
 * too, unless it stands in a bracket class. */
static void put_word(Str *out, bool in_class, bool wide) {
    static const char *const name[] = {"{L}", "{M}", "{Nd}", "{Nl}", "{Pc}"};
    for (int i = 0; i < COUNT_OF(name); i++) put_class(out, name[i], wide);
    if (!in_class) str_put(out, "\\xB2\\xB3\\xB9\\xBC-\\xBE");
    str_put(out, "\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}"
                 "\\x{1F170}-\\x{1F189}");
}

/* A place with a word character on one side only (\b), or on both or neither (\B). */
static void put_boundary(Str *out, bool inside, bool wide) {
    Str w = {0};
    put_word(&w, false, wide);
    str_printf(out, "(?:(?<=[%s])(?%c[%s])|(?<![%s])(?%c[%s]))", w.s, inside ? '=' : '!', w.s, w.s, inside ? '!' : '=',
               w.s);
    str_release(&w);
}

/* \s \S \w \W \d \D \b \B: spelled out; false: it is another one. */
static bool rewrite_letter(Str *out, char letter, bool in_class, bool wide) {
    if (letter == 's' || letter == 'S') {
        str_put(out, letter == 's' ? "\\p{White_Space}" : "\\P{White_Space}");
        return true;
    }
    if ((letter == 'b' || letter == 'B') && !in_class) {
        put_boundary(out, letter == 'B', wide);
        return true;
    }
    bool negated = letter == 'W' || letter == 'D';
    if (!strchr("wWdD", letter) || (negated && in_class)) return false;
    if (!in_class) str_put(out, negated ? "[^" : "[");
    if (letter == 'w' || letter == 'W')
        put_word(out, in_class, wide);
    else
        put_class(out, "{Nd}", wide);
    if (!in_class) str_putc(out, ']');
    return true;
}

/* One escape at p[0] == '\\'; returns its length. A negated class inside brackets cannot be narrowed by PCRE2's syntax
 * and stays as it is: such patterns split the new code points as Unicode 14 does. */
static size_t rewrite_escape(Str *out, const char *p, size_t n, bool in_class, bool wide) {
    if (n >= 2 && rewrite_letter(out, p[1], in_class, wide)) return 2;
    bool negated = n >= 2 && p[1] == 'P';
    size_t used = n >= 3 && (p[1] == 'p' || negated) ? class_name(p + 2, n - 2) : 0;
    if (used == 0) {
        size_t len = n < 2 ? n : 2;
        str_putn(out, p, len);
        return len;
    }
    bool list = wide && !in_class, keep = negated && !list; /* "\P" stays */
    if (list) str_put(out, negated ? "[^" : "[");
    str_put(out, keep ? "\\P" : "\\p");
    put_name(out, p + 2, used);
    if (wide && !keep) put_drift(out, p + 2, used);
    if (list) str_putc(out, ']');
    return 2 + used;
}

/* Syntax that PCRE2 would take for something else than Ruby's, which tokenizers' patterns are in. */
static bool same_meaning(const char *p, size_t n, size_t i, bool in_class, Error *err) {
    if (p[i] == '\\' && i + 1 < n) {
        bool property = strchr("pP", p[i + 1]) != NULL;
        if (strchr("hHvVQEX", p[i + 1]) || (property && class_name(p + i + 2, n - i - 2) == 0) ||
            (in_class && strchr("WD", p[i + 1])))
            return error_set(err, ERR_FORMAT, "pattern: '%.*s' at byte %zu means other things to other engines",
                             (int)(property && n - i > 12 ? 12
                                   : property             ? n - i
                                                          : 2),
                             p + i, i);
    } else if (in_class && p[i] == '[' && i + 1 < n) {
        if (p[i + 1] == ':')
            return error_set(err, ERR_FORMAT, "pattern: '[:' at byte %zu means other things to other engines", i);
        if (p[i + 1] == '^' || p[i + 1] == ']' || p[i - 1] == '-')
            return error_set(err, ERR_FORMAT, "pattern: a set inside a bracket class at byte %zu is not supported", i);
    } else if (in_class && i + 1 < n && p[i] == '&' && p[i + 1] == '&')
        return error_set(err, ERR_FORMAT, "pattern: an intersection in a bracket class at byte %zu is not supported",
                         i);
    else if (!in_class && i + 2 < n && p[i] == '(' && p[i + 1] == '?') {
        size_t flag = i + 2;
        while (flag < n && (p[flag] == 'i' || p[flag] == 'x' || p[flag] == '-')) flag++;
        if (flag < n && p[flag] >= 'a' && p[flag] <= 'z')
            return error_set(err, ERR_FORMAT, "pattern: option '%c' at byte %zu means other things to other engines",
                             p[flag], flag);
    }
    return true;
}

/* An interval at p[0] == '{', outside a class: its length, 0: these braces are none. In Ruby's syntax a + behind it
 * repeats it, which PCRE2 would read as "possessively", so that {1,3}+ is {1,}; where that is not so simple it is
 * refused. */
static size_t rewrite_interval(Str *out, const char *p, size_t n, bool *ok, Error *err) {
    size_t i = 1, first = 0, digits = 0, comma = 0;
    for (; i < n && ((p[i] >= '0' && p[i] <= '9') || (p[i] == ',' && !comma)); i++) {
        if (p[i] == ',') comma = i;
        if (!comma && digits++ < 6) first = 10 * first + (size_t)(p[i] - '0');
    }
    if (i == n || p[i] != '}' || i == 1 || (digits == 0 && i == 2)) return 0;
    char next = i + 1 < n ? p[i + 1] : 0;
    *ok = digits > 0 && (next != '+' || (comma && first <= 1)) && (next != '?' || comma);
    if (!*ok) error_set(err, ERR_FORMAT, "pattern: '%.*s' means other things to other engines", (int)(i + 2), p);
    if (next == '+')
        str_printf(out, "{%zu,}", first);
    else
        str_putn(out, p, i + 1);
    return i + 1 + (next == '+');
}

bool pattern_rewrite(Str *out, const char *p, size_t n, bool wide, Error *err) {
    int depth = 0;       /* of brackets; the inner ones of a class are left out */
    size_t class_at = 0; /* where a ']' would still be a literal */
    for (size_t i = 0; i < n;) {
        if (!same_meaning(p, n, i, depth > 0, err)) return false;
        if (p[i] == '\\') {
            i += rewrite_escape(out, p + i, n - i, depth > 0, wide);
            continue;
        }
        if (depth == 0 && p[i] == '{') {
            bool ok = true;
            size_t len = rewrite_interval(out, p + i, n - i, &ok, err);
            if (!ok) return false;
            i += len;
            if (len > 0) continue;
        }
        bool opens = p[i] == '[', closes = p[i] == ']' && depth > 0 && i > class_at;
        if (opens && depth == 0) class_at = i + 1 < n && p[i + 1] == '^' ? i + 2 : i + 1;
        depth += opens - closes;
        if (opens ? depth == 1 : !closes || depth == 0) str_putc(out, p[i]);
        i++;
    }
    return true;
}
