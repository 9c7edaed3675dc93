/* split_known.c — the patterns of GPT-2, Llama 3 and Qwen 2, read by hand.
 *
 * Each alternative of these patterns begins with a test of one or two characters and then takes a run of one class, so
 * a piece is found by looking at its first characters and running; no alternative is tried in vain. At every position
 * one of them matches, hence there are no gaps. Runs of ASCII letters go eight bytes at a time. What PCRE2 gives for
 * the same pattern is the definition: a test compares the two. */
#include "text/text_int.h"

#include <string.h>

typedef unsigned char Byte;

/* p lies in well-formed UTF-8. */
static inline CharClass class_at(const CharTable *t, const Byte *p, int *len) {
    if (p[0] < 0x80) return *len = 1, (CharClass)t->near[p[0]];
    if (p[0] < 0xE0) return *len = 2, (CharClass)t->near[(p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu)];
    if (p[0] < 0xF0) return *len = 3, (CharClass)t->near[(p[0] & 0xFu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu)];
    *len = 4;
    return char_class_far((p[0] & 7u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu));
}

static inline const Byte *run_end(const CharTable *t, const Byte *p, const Byte *end, CharClass class) {
    int len;
    while (p < end && class_at(t, p, &len) == class) p += len;
    return p;
}

/* Bit 7 of every byte that is not an ASCII letter. Bytes are lowered and compared by adding what carries into bit 7. */
static inline uint64_t not_letters(uint64_t eight) {
    const uint64_t ones = 0x0101010101010101u;
    uint64_t low = (eight | 0x20 * ones) & 0x7F * ones;
    uint64_t from_a = low + (0x80 - 'a') * ones, past_z = low + (0x80 - 'z' - 1) * ones;
    return ~(from_a & ~past_z & ~eight) & 0x80 * ones;
}

static inline const Byte *letters_end(const CharTable *t, const Byte *p, const Byte *end) {
    while (end - p >= 8) {
        uint64_t eight;
        memcpy(&eight, p, 8);
        uint64_t other = not_letters(eight);
        if (other) {
            p += __builtin_ctzll(other) / 8;
            return *p < 0x80 ? p : run_end(t, p, end, CHAR_LETTER);
        }
        p += 8;
    }
    return run_end(t, p, end, CHAR_LETTER);
}

/* \s+(?!\S)|\s+ : a run of blanks without its last one, which belongs to what follows, unless nothing does. */
static inline const Byte *blanks_end(const CharTable *t, const Byte *p, const Byte *end) {
    const Byte *last = p, *e = p;
    for (int len; e < end && class_at(t, e, &len) == CHAR_BLANK; e += len) last = e;
    return e == end || last == p ? e : last;
}

/* Length of 's 't 're 've 'm 'll 'd at p[0] == '\''; 0: none. any_case: capitals too, and U+017F, which folds to s. */
static inline int contraction(const Byte *p, const Byte *end, bool any_case) {
    if (end - p < 2) return 0;
    int fold = any_case ? 0x20 : 0, a = p[1] | fold, b = end - p > 2 ? p[2] | fold : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l')) return 3;
    return any_case && p[1] == 0xC5 && p[2] == 0xBF ? 3 : 0;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static inline const Byte *gpt2_end(const CharTable *t, const Byte *p, const Byte *end) {
    const Byte *q = p + (*p == ' ' && end - p > 1);
    int len = *p == '\'' ? contraction(p, end, false) : 0;
    if (len > 0) return p + len;
    CharClass class = class_at(t, q, &len);
    if (class == CHAR_LETTER) return letters_end(t, q + len, end);
    return class == CHAR_BLANK ? blanks_end(t, p, end) : run_end(t, q + len, end, class);
}

static inline bool is_newline(Byte c) { return c == '\r' || c == '\n'; }

/* \s*[\r\n]+|\s+(?!\S)|\s+ : to the last line break of a run of blanks; without one as above. */
static inline const Byte *lines_end(const CharTable *t, const Byte *p, const Byte *end) {
    const Byte *line = NULL, *e = p;
    for (int len; e < end && class_at(t, e, &len) == CHAR_BLANK; e += len)
        if (is_newline(*e)) line = e + 1;
    return line ? line : blanks_end(t, p, end);
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*
 * |\s*[\r\n]+|\s+(?!\S)|\s+ */
static inline const Byte *llama3_end(const CharTable *t, const Byte *p, const Byte *end, int digits) {
    int len = *p == '\'' ? contraction(p, end, true) : 0, next_len;
    if (len > 0) return p + len;
    CharClass class = class_at(t, p, &len);
    if (class == CHAR_LETTER) return letters_end(t, p + len, end);
    if (class == CHAR_NUMBER) {
        const Byte *e = p + len;
        while (--digits > 0 && e < end && class_at(t, e, &len) == CHAR_NUMBER) e += len;
        return e;
    }
    const Byte *q = p + len;
    CharClass next = q < end ? class_at(t, q, &next_len) : CHAR_BLANK;
    if (next == CHAR_LETTER && !is_newline(*p)) return letters_end(t, q + next_len, end);
    if (class == CHAR_BLANK && !(*p == ' ' && next == CHAR_OTHER)) return lines_end(t, p, end);
    q = run_end(t, q, end, CHAR_OTHER);
    while (q < end && is_newline(*q)) q++;
    return q;
}

SplitKnown split_known(const char *pattern, size_t n) {
    static const char *const text[] = {[SPLIT_BY_GPT2] = SPLIT_TEXT_GPT2,
                                       [SPLIT_BY_LLAMA3] = SPLIT_TEXT_LLAMA("{1,3}"),
                                       [SPLIT_BY_QWEN2] = SPLIT_TEXT_LLAMA("")};
    for (int i = SPLIT_BY_GPT2; i < COUNT_OF(text); i++)
        if (strlen(text[i]) == n && memcmp(text[i], pattern, n) == 0) return (SplitKnown)i;
    return SPLIT_BY_REGEX;
}

int split_known_pieces(const CharTable *t, SplitKnown known, const char *s, size_t n, size_t *len, int max) {
    const Byte *p = (const Byte *)s, *end = p + n, *e;
    int k = 0;
    switch (known) {
    case SPLIT_BY_GPT2:
        for (; k < max && p < end; k++, p = e) len[k] = (size_t)((e = gpt2_end(t, p, end)) - p);
        break;
    case SPLIT_BY_LLAMA3:
        for (; k < max && p < end; k++, p = e) len[k] = (size_t)((e = llama3_end(t, p, end, 3)) - p);
        break;
    case SPLIT_BY_QWEN2:
        for (; k < max && p < end; k++, p = e) len[k] = (size_t)((e = llama3_end(t, p, end, 1)) - p);
        break;
    case SPLIT_BY_REGEX:
        break;
    }
    return k;
}
