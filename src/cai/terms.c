#include "cai/terms.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

/* Sorted. Also what nearly every request holds: tell, list, best, need. */
// clang-format off
static const char *const filler[] = {
    "a", "about", "above", "after", "again", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be",
    "because", "been", "before", "being", "best", "between", "both", "but", "by", "can", "can't", "could", "did",
    "do", "does", "doesn't", "doing", "don't", "down", "during", "each", "ever", "explain", "few", "for", "from",
    "get", "give", "good", "had", "has", "have", "having", "he", "help", "her", "here", "hers", "him", "his", "how",
    "how's", "i", "i'd", "i'll", "i'm", "if", "in", "into", "is", "isn't", "it", "it's", "its", "just", "know",
    "let", "like", "list", "make", "many", "may", "me", "might", "more", "most", "much", "must", "my", "need", "no",
    "nor", "not", "now", "of", "off", "on", "once", "one", "only", "or", "other", "our", "out", "over", "own",
    "please", "really", "same", "she", "should", "so", "some", "someone's", "such", "tell", "than", "that", "that's",
    "the", "their", "them", "then", "there", "these", "they", "thing", "things", "think", "this", "those", "through",
    "to", "too", "under", "until", "up", "us", "use", "using", "very", "want", "was", "way", "ways", "we", "were",
    "what", "what's", "when", "where", "which", "while", "who", "whom", "why", "will", "with", "without", "would",
    "write", "you", "you're", "your", "yours",
};
// clang-format on

static int by_text(const void *a, const void *b) { return strcmp(a, *(const char *const *)b); }

/* The word at s in lower case; false when it is long or holds anything but ASCII letters, digits and apostrophes. */
static bool plain_word(const char *s, char out[TERM_BYTES]) {
    int n = 0;
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s, low = c | 0x20;
        bool letter = (low >= 'a' && low <= 'z') || (c >= '0' && c <= '9');
        if (c >= 0x80) return false; /* a typographic apostrophe too: it is rare in requests */
        if (!letter && !(c == '\'' && n)) break;
        if (n == TERM_BYTES - 1) return false;
        out[n++] = letter && c >= 'A' ? (char)low : (char)c;
    }
    while (n && out[n - 1] == '\'') n--;
    out[n] = 0;
    return n > 0;
}

static bool ends(const char *s, int n, const char *with) {
    int m = (int)strlen(with);
    return n > m && !memcmp(s + n - m, with, (size_t)m);
}

/* Plurals, -ing, -ed, -ly, a doubled consonant before them, and a last e. Crude, and the same for requests and
 * principles, which is all that is asked of it. */
static void cut_ending(char *s) {
    int n = (int)strlen(s);
    if (ends(s, n, "'s")) n -= 2;
    if (n > 4 && ends(s, n, "ies")) {
        n -= 2;
        s[n - 1] = 'y';
        s[n] = 0;
        return;
    }
    if (n > 5 && ends(s, n, "ing"))
        n -= 3;
    else if (n > 4 && ends(s, n, "ed"))
        n -= 2;
    else if (n > 4 && ends(s, n, "es") && strchr("sxz", s[n - 3]))
        n -= 2;
    else if (n > 3 && s[n - 1] == 's' && s[n - 2] != 's' && s[n - 2] != 'u')
        n--;
    else if (n > 5 && ends(s, n, "ly"))
        n -= 2;
    if (n > 3 && s[n - 1] == s[n - 2] && !strchr("aeiouls", s[n - 1])) n--;
    if (n > 3 && s[n - 1] == 'e') n--;
    s[n] = 0;
}

static uint64_t hash_of(const char *s) {
    Words w = words_of(s);
    CHECK(w.n >= 1, "'%s' is no word", s);
    uint64_t h = w.word[0].hash;
    words_release(&w);
    return h;
}

Words terms_of(const char *s, unsigned flags) {
    Words w = words_of(s);
    char term[TERM_BYTES];
    int n = 0;
    for (int i = 0; i < w.n && flags; i++) {
        Word x = w.word[i];
        if (!x.unspaced && plain_word(s + x.at, term)) {
            if (flags & TERMS_NO_FILLER && bsearch(term, filler, COUNT_OF(filler), sizeof *filler, by_text)) continue;
            if (flags & TERMS_STEM) {
                cut_ending(term);
                x.hash = hash_of(term);
            }
        }
        w.word[n++] = x;
    }
    if (flags) w.n = n;
    return w;
}

bool term_letters(char out[TERM_BYTES], const char *s, const Word *w, unsigned flags) {
    if (w->unspaced || !plain_word(s + w->at, out)) return false;
    if (flags & TERMS_STEM) cut_ending(out);
    return true;
}
