#include "cai/words.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum { PHRASE_WORDS = 12 };
static const uint64_t FNV_START = 0xCBF29CE484222325u, FNV_PRIME = 0x100000001B3u;

uint32_t utf8_next(const char **p) {
    const unsigned char *s = (const unsigned char *)*p;
    int more = s[0] >= 0xF0 ? 3 : s[0] >= 0xE0 ? 2 : s[0] >= 0xC0 ? 1 : 0;
    uint32_t c = more == 3 ? s[0] & 0x07u : more == 2 ? s[0] & 0x0Fu : more == 1 ? s[0] & 0x1Fu : s[0];
    for (int i = 1; i <= more; i++) {
        if ((s[i] & 0xC0) != 0x80) {
            *p += 1;
            return s[0];
        }
        c = c << 6 | (s[i] & 0x3Fu);
    }
    *p += s[0] ? 1 + more : 0;
    return c;
}

static bool within(uint32_t c, uint32_t lo, uint32_t hi) { return c >= lo && c <= hi; }

static bool is_unspaced(uint32_t c) {
    return within(c, 0x0E00, 0x0EFF) || within(c, 0x1000, 0x109F) || within(c, 0x1780, 0x17FF) ||
           within(c, 0x3040, 0x30FF) || within(c, 0x3400, 0x9FFF) || within(c, 0xF900, 0xFAFF) ||
           within(c, 0x20000, 0x3FFFF);
}

static bool is_letter(uint32_t c) {
    if (c < 0x80) return within(c | 0x20, 'a', 'z') || within(c, '0', '9');
    bool mark = within(c, 0x80, 0xBF) && c != 0xAA && c != 0xB5 && c != 0xBA;
    return !mark && c != 0xD7 && c != 0xF7 && !within(c, 0x2000, 0x2BFF) && !within(c, 0x3000, 0x303F) &&
           !within(c, 0xFE00, 0xFE0F) && !within(c, 0xFF00, 0xFF20) && !within(c, 0x1F000, 0x1FAFF);
}

/* Next word from *p on; false at the end of the text. */
static bool next_word(const char *s, const char **p, Word *w) {
    const char *start, *after;
    uint32_t c;
    do {
        start = *p;
        c = utf8_next(p);
        if (!c) return false;
    } while (!is_letter(c));
    *w = (Word){FNV_START, (uint32_t)(start - s), is_unspaced(c)};
    for (;;) {
        if (within(c, 'A', 'Z')) c += 'a' - 'A';
        w->hash = (w->hash ^ c) * FNV_PRIME;
        if (w->unspaced) return true;
        after = *p;
        c = utf8_next(&after);
        if (c == '\'' || c == 0x2019) {
            const char *peek = after;
            uint32_t follows = utf8_next(&peek);
            if (!is_letter(follows) || is_unspaced(follows)) return true;
            c = '\'';
        } else if (!is_letter(c) || is_unspaced(c))
            return true;
        *p = after;
    }
}

Words words_of(const char *s) {
    Words out = {0};
    int cap = 0;
    Word w;
    for (const char *p = s ? s : ""; next_word(s, &p, &w);) {
        if (out.n == cap) {
            cap = cap ? 2 * cap : 64;
            out.word = mem_grow(out.word, (size_t)cap * sizeof *out.word);
        }
        out.word[out.n++] = w;
    }
    return out;
}

void words_release(Words *w) {
    free(w->word);
    *w = (Words){0};
}

uint64_t words_gram(const Words *w, int at, int n) {
    uint64_t h = FNV_START;
    for (int i = 0; i < n; i++) {
        h = (h ^ w->word[at + i].hash) * FNV_PRIME;
        h ^= h >> 29; /* the product alone never carries downwards */
    }
    return h;
}

int words_find(const Words *w, const char *phrase) {
    Word want[PHRASE_WORDS];
    int n = 0;
    for (const char *p = phrase; next_word(phrase, &p, &want[n]);) {
        n++;
        CHECK(n < PHRASE_WORDS, "a phrase of %d words or more: '%s'", PHRASE_WORDS, phrase);
    }
    for (int i = 0; i + n <= w->n; i++) {
        int same = 0;
        while (same < n && w->word[i + same].hash == want[same].hash) same++;
        if (same == n) return i;
    }
    return -1;
}
