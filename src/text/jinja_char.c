/* jinja_char.c — classes and case of characters as Python's str has them: utf8proc's properties, and the mappings to
 * several characters (Unicode's SpecialCasing) that it leaves out. */
#include "text/jinja_int.h"

#include <string.h>
#include <utf8proc.h>

/* Upper and, where it differs from the one character utf8proc gives, title case. In order. */
// clang-format off
static const struct { uint32_t c; const char *upper, *title; } special[] = {
    {0x00DF, "SS", "Ss"}, {0x0149, "ʼN", "ʼN"}, {0x01F0, "J̌", "J̌"}, {0x0390, "Ϊ́", "Ϊ́"}, {0x03B0, "Ϋ́", "Ϋ́"},
    {0x0587, "ԵՒ", "Եւ"}, {0x1E96, "H̱", "H̱"}, {0x1E97, "T̈", "T̈"}, {0x1E98, "W̊", "W̊"}, {0x1E99, "Y̊", "Y̊"},
    {0x1E9A, "Aʾ", "Aʾ"}, {0x1F50, "Υ̓", "Υ̓"}, {0x1F52, "Υ̓̀", "Υ̓̀"}, {0x1F54, "Υ̓́", "Υ̓́"},
    {0x1F56, "Υ̓͂", "Υ̓͂"}, {0x1F80, "ἈΙ", NULL}, {0x1F81, "ἉΙ", NULL}, {0x1F82, "ἊΙ", NULL}, {0x1F83, "ἋΙ", NULL},
    {0x1F84, "ἌΙ", NULL}, {0x1F85, "ἍΙ", NULL}, {0x1F86, "ἎΙ", NULL}, {0x1F87, "ἏΙ", NULL}, {0x1F88, "ἈΙ", NULL},
    {0x1F89, "ἉΙ", NULL}, {0x1F8A, "ἊΙ", NULL}, {0x1F8B, "ἋΙ", NULL}, {0x1F8C, "ἌΙ", NULL}, {0x1F8D, "ἍΙ", NULL},
    {0x1F8E, "ἎΙ", NULL}, {0x1F8F, "ἏΙ", NULL}, {0x1F90, "ἨΙ", NULL}, {0x1F91, "ἩΙ", NULL}, {0x1F92, "ἪΙ", NULL},
    {0x1F93, "ἫΙ", NULL}, {0x1F94, "ἬΙ", NULL}, {0x1F95, "ἭΙ", NULL}, {0x1F96, "ἮΙ", NULL}, {0x1F97, "ἯΙ", NULL},
    {0x1F98, "ἨΙ", NULL}, {0x1F99, "ἩΙ", NULL}, {0x1F9A, "ἪΙ", NULL}, {0x1F9B, "ἫΙ", NULL}, {0x1F9C, "ἬΙ", NULL},
    {0x1F9D, "ἭΙ", NULL}, {0x1F9E, "ἮΙ", NULL}, {0x1F9F, "ἯΙ", NULL}, {0x1FA0, "ὨΙ", NULL}, {0x1FA1, "ὩΙ", NULL},
    {0x1FA2, "ὪΙ", NULL}, {0x1FA3, "ὫΙ", NULL}, {0x1FA4, "ὬΙ", NULL}, {0x1FA5, "ὭΙ", NULL}, {0x1FA6, "ὮΙ", NULL},
    {0x1FA7, "ὯΙ", NULL}, {0x1FA8, "ὨΙ", NULL}, {0x1FA9, "ὩΙ", NULL}, {0x1FAA, "ὪΙ", NULL}, {0x1FAB, "ὫΙ", NULL},
    {0x1FAC, "ὬΙ", NULL}, {0x1FAD, "ὭΙ", NULL}, {0x1FAE, "ὮΙ", NULL}, {0x1FAF, "ὯΙ", NULL}, {0x1FB2, "ᾺΙ", "Ὰͅ"},
    {0x1FB3, "ΑΙ", NULL}, {0x1FB4, "ΆΙ", "Άͅ"}, {0x1FB6, "Α͂", "Α͂"}, {0x1FB7, "Α͂Ι", "ᾼ͂"}, {0x1FBC, "ΑΙ", NULL},
    {0x1FC2, "ῊΙ", "Ὴͅ"}, {0x1FC3, "ΗΙ", NULL}, {0x1FC4, "ΉΙ", "Ήͅ"}, {0x1FC6, "Η͂", "Η͂"}, {0x1FC7, "Η͂Ι", "ῌ͂"},
    {0x1FCC, "ΗΙ", NULL}, {0x1FD2, "Ϊ̀", "Ϊ̀"}, {0x1FD3, "Ϊ́", "Ϊ́"}, {0x1FD6, "Ι͂", "Ι͂"},
    {0x1FD7, "Ϊ͂", "Ϊ͂"}, {0x1FE2, "Ϋ̀", "Ϋ̀"}, {0x1FE3, "Ϋ́", "Ϋ́"}, {0x1FE4, "Ρ̓", "Ρ̓"},
    {0x1FE6, "Υ͂", "Υ͂"}, {0x1FE7, "Ϋ͂", "Ϋ͂"}, {0x1FF2, "ῺΙ", "Ὼͅ"}, {0x1FF3, "ΩΙ", NULL}, {0x1FF4, "ΏΙ", "Ώͅ"},
    {0x1FF6, "Ω͂", "Ω͂"}, {0x1FF7, "Ω͂Ι", "ῼ͂"}, {0x1FFC, "ΩΙ", NULL}, {0xFB00, "FF", "Ff"}, {0xFB01, "FI", "Fi"},
    {0xFB02, "FL", "Fl"}, {0xFB03, "FFI", "Ffi"}, {0xFB04, "FFL", "Ffl"}, {0xFB05, "ST", "St"}, {0xFB06, "ST", "St"},
    {0xFB13, "ՄՆ", "Մն"}, {0xFB14, "ՄԵ", "Մե"}, {0xFB15, "ՄԻ", "Մի"}, {0xFB16, "ՎՆ", "Վն"}, {0xFB17, "ՄԽ", "Մխ"},
};
static const struct { uint32_t from, to; } digits_beyond_decimal[] = {
    {0xB2, 0xB3}, {0xB9, 0xB9}, {0x1369, 0x1371}, {0x19DA, 0x19DA}, {0x2070, 0x2070}, {0x2074, 0x2079}, {0x2080, 0x2089},
    {0x2460, 0x2468}, {0x2474, 0x247C}, {0x2488, 0x2490}, {0x24EA, 0x24EA}, {0x24F5, 0x24FD}, {0x24FF, 0x24FF},
    {0x2776, 0x277E}, {0x2780, 0x2788}, {0x278A, 0x2792}, {0x10A40, 0x10A43}, {0x10E60, 0x10E68}, {0x11052, 0x1105A},
    {0x1F100, 0x1F10A}};
static const uint32_t numeric_ideographs[] = {
    0x3405, 0x3483, 0x382A, 0x3B4D, 0x4E00, 0x4E03, 0x4E07, 0x4E09, 0x4E5D, 0x4E8C, 0x4E94, 0x4E96, 0x4EBF, 0x4EC0, 0x4EDF,
    0x4EE8, 0x4F0D, 0x4F70, 0x5104, 0x5146, 0x5169, 0x516B, 0x516D, 0x5341, 0x5343, 0x5344, 0x5345, 0x534C, 0x53C1, 0x53C2,
    0x53C3, 0x53C4, 0x56DB, 0x58F1, 0x58F9, 0x5E7A, 0x5EFE, 0x5EFF, 0x5F0C, 0x5F0D, 0x5F0E, 0x5F10, 0x62FE, 0x634C, 0x67D2,
    0x6F06, 0x7396, 0x767E, 0x8086, 0x842C, 0x8CAE, 0x8CB3, 0x8D30, 0x9621, 0x9646, 0x964C, 0x9678, 0x96F6, 0xF96B, 0xF973,
    0xF978, 0xF9B2, 0xF9D1, 0xF9D3, 0xF9FD, 0x20001, 0x20064, 0x200E2, 0x20121, 0x2092A, 0x20983, 0x2098C, 0x2099C, 0x20AEA,
    0x20AFD, 0x20B19, 0x22390, 0x22998, 0x23B1B, 0x2626D, 0x2F890};
static const struct { uint32_t from, to; } lower_beyond_letters[] = { /* Other_Lowercase */
    {0xAA, 0xAA}, {0xBA, 0xBA}, {0x2B0, 0x2B8}, {0x2C0, 0x2C1}, {0x2E0, 0x2E4}, {0x345, 0x345}, {0x37A, 0x37A},
    {0x1D2C, 0x1D6A}, {0x1D78, 0x1D78}, {0x1D9B, 0x1DBF}, {0x2071, 0x2071}, {0x207F, 0x207F}, {0x2090, 0x209C},
    {0x2170, 0x217F}, {0x24D0, 0x24E9}, {0x2C7C, 0x2C7D}, {0xA69C, 0xA69D}, {0xA770, 0xA770}, {0xA7F8, 0xA7F9},
    {0xAB5C, 0xAB5F}, {0x10780, 0x10780}, {0x10783, 0x10785}, {0x10787, 0x107B0}, {0x107B2, 0x107BA}};
static const struct { uint32_t from, to; } upper_beyond_letters[] = {{0x2160, 0x216F}, {0x24B6, 0x24CF}, {0x1F130, 0x1F149},
    {0x1F150, 0x1F169}, {0x1F170, 0x1F189}};
/* Punctuation that Final_Sigma looks through, beside marks, formats and modifiers. */
static const uint32_t case_ignorable[] = {0x27, 0x2E, 0x3A, 0xB7, 0x387, 0x55F, 0x5F4, 0x2018, 0x2019, 0x2024, 0x2027, 0xFE13,
    0xFE52, 0xFE55, 0xFF07, 0xFF0E, 0xFF1A};
// clang-format on

#define IN_RANGES(table, c) in_ranges(&(table)[0].from, COUNT_OF(table), c)
static bool in_ranges(const uint32_t *pairs, int n, uint32_t c) {
    for (int i = 0; i < n; i++)
        if (c >= pairs[2 * i] && c <= pairs[2 * i + 1]) return true;
    return false;
}

static bool in_list(const uint32_t *list, int n, uint32_t c) {
    for (int i = 0; i < n; i++)
        if (list[i] == c) return true;
    return false;
}

static utf8proc_category_t category(uint32_t c) {
    return c >= 0xD800 && c < 0xE000 ? UTF8PROC_CATEGORY_CS : utf8proc_category((utf8proc_int32_t)c);
}

bool j_is_space(uint32_t c) {
    if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 28 && c <= 32);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

bool j_is_line_end(uint32_t c) {
    return (c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

bool j_is_printable(uint32_t c) {
    if (c < 0x7F) return c >= 0x20;
    switch (category(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
        return false;
    default:
        return true;
    }
}

bool j_is_letter(uint32_t c) {
    if (c < 0x80) return (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
    utf8proc_category_t k = category(c);
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

bool j_is_decimal(uint32_t c) { return c < 0x80 ? c >= '0' && c <= '9' : category(c) == UTF8PROC_CATEGORY_ND; }
bool j_is_digit(uint32_t c) { return j_is_decimal(c) || IN_RANGES(digits_beyond_decimal, c); }
bool j_is_numeric(uint32_t c) {
    utf8proc_category_t k = category(c);
    return (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO) ||
           in_list(numeric_ideographs, COUNT_OF(numeric_ideographs), c);
}
bool j_is_word(uint32_t c) { return c == '_' || j_is_letter(c) || j_is_numeric(c); }
bool j_is_name_start(uint32_t c) {
    return c == '_' || j_is_letter(c) || c == 0x2118 || c == 0x212E || (c == 0x1885 || c == 0x1886) ||
           category(c) == UTF8PROC_CATEGORY_NL;
}
bool j_is_name(uint32_t c) {
    switch (category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return j_is_name_start(c) || c == 0xB7 || c == 0x387 || (c >= 0x1369 && c <= 0x1371) || c == 0x19DA;
    }
}
bool j_is_upper(uint32_t c) {
    if (c < 0x80) return c >= 'A' && c <= 'Z';
    return category(c) == UTF8PROC_CATEGORY_LU || IN_RANGES(upper_beyond_letters, c);
}
bool j_is_lower(uint32_t c) {
    if (c < 0x80) return c >= 'a' && c <= 'z';
    return category(c) == UTF8PROC_CATEGORY_LL || IN_RANGES(lower_beyond_letters, c);
}
bool j_is_title(uint32_t c) { return category(c) == UTF8PROC_CATEGORY_LT; }

/* ---- case ---- */

static bool put_special(Str *out, uint32_t c, bool title) {
    int low = 0, high = COUNT_OF(special);
    while (low < high) {
        int middle = (low + high) / 2;
        if (special[middle].c < c)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == COUNT_OF(special) || special[low].c != c) return false;
    const char *text = title ? special[low].title : special[low].upper;
    if (text) str_put(out, text);
    return text != NULL;
}

static bool cased(uint32_t c) { return j_is_upper(c) || j_is_lower(c) || j_is_title(c); }

static bool ignorable(uint32_t c) {
    switch (category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
        return true;
    default:
        return in_list(case_ignorable, COUNT_OF(case_ignorable), c);
    }
}

/* A capital sigma at s[at], two bytes long, ends a word. */
static bool final_sigma(const char *s, size_t n, size_t at) {
    size_t i = at, len;
    bool before = false;
    while (i > 0) {
        i--;
        while (i > 0 && ((unsigned char)s[i] & 0xC0) == 0x80) i--;
        uint32_t c = j_char(s + i, n - i, &len);
        if (ignorable(c)) continue;
        before = cased(c);
        break;
    }
    for (i = at + 2; before && i < n; i += len) {
        uint32_t c = j_char(s + i, n - i, &len);
        if (!ignorable(c)) return !cased(c);
    }
    return before;
}

static void put_lower(Str *out, uint32_t c, const char *s, size_t n, size_t at) {
    if (c < 0x80)
        str_putc(out, (char)(c >= 'A' && c <= 'Z' ? c | 0x20 : c));
    else if (c == 0x130)
        str_put(out, "i\u0307");
    else if (c == 0x3A3)
        str_put(out, final_sigma(s, n, at) ? "ς" : "σ");
    else
        j_str_char(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c));
}

static void put_upper(Str *out, uint32_t c, bool title) {
    if (c < 0x80)
        str_putc(out, (char)(c >= 'a' && c <= 'z' ? c & ~0x20u : c));
    else if (!put_special(out, c, title))
        j_str_char(out,
                   (uint32_t)(title ? utf8proc_totitle((utf8proc_int32_t)c) : utf8proc_toupper((utf8proc_int32_t)c)));
}

static void put_fold(Str *out, uint32_t c) {
    utf8proc_int32_t buf[8];
    int bound = 0;
    if (c < 0x80) {
        put_lower(out, c, NULL, 0, 0);
        return;
    }
    utf8proc_ssize_t n = c >= 0xD800 && c < 0xE000 ? 0
                                                   : utf8proc_decompose_char((utf8proc_int32_t)c, buf, COUNT_OF(buf),
                                                                             UTF8PROC_CASEFOLD, &bound);
    if (n <= 0 || n > COUNT_OF(buf))
        j_str_char(out, c);
    else
        for (utf8proc_ssize_t i = 0; i < n; i++) j_str_char(out, (uint32_t)buf[i]);
}

void j_put_case(Str *out, const char *s, size_t n, CaseKind kind) {
    bool inside = false; /* a word has begun */
    size_t len;
    for (size_t i = 0; i < n; i += len) {
        uint32_t c = j_char(s + i, n - i, &len);
        switch (kind) {
        case CASE_UPPER:
            put_upper(out, c, false);
            break;
        case CASE_LOWER:
            put_lower(out, c, s, n, i);
            break;
        case CASE_FOLD:
            put_fold(out, c);
            break;
        case CASE_SWAP:
            if (j_is_upper(c))
                put_lower(out, c, s, n, i);
            else if (j_is_lower(c))
                put_upper(out, c, false);
            else
                j_str_char(out, c);
            break;
        case CASE_TITLE:
        case CASE_CAPITAL:
            if (inside)
                put_lower(out, c, s, n, i);
            else
                put_upper(out, c, true);
            inside = kind == CASE_CAPITAL || cased(c);
            break;
        }
    }
}
