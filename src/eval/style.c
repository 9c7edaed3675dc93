#include "eval/style.h"

#include <ctype.h>
#include <string.h>

#include "base/error.h"

enum { MOST_WORD = 64, FIRST_WORDS = 50 };

const char *style_name(Style s) {
    static const char *const name[] = {
#define X(id, word, what) word,
        STYLES(X)
#undef X
    };
    CHECK((int)s >= 0 && s < STYLE_COUNT, "style %d", (int)s);
    return name[s];
}

const char *style_words(Style s) {
    static const char *const words[] = {
#define X(id, word, what) what,
        STYLES(X)
#undef X
    };
    CHECK((int)s >= 0 && s < STYLE_COUNT, "style %d", (int)s);
    return words[s];
}

static bool letter(char c) { return isalnum((unsigned char)c) || (unsigned char)c >= 0x80; }
static bool inner(char c) { return letter(c) || c == '\'' || c == '-'; }
static char small(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c; }

/* The next word in lower case (cut at MOST_WORD - 1 bytes); NULL at the end. */
static const char *next_word(char word[MOST_WORD], const char *s) {
    size_t n = 0;
    while (*s && !letter(*s)) s++;
    if (!*s) return NULL;
    for (; inner(*s); s++)
        if (n < MOST_WORD - 1) word[n++] = small(*s);
    word[n] = 0;
    return s;
}

static bool among(const char *word, const char *const *list, int n) {
    for (int i = 0; i < n; i++)
        if (!strcmp(word, list[i])) return true;
    return false;
}

static int code_points(const char *s) {
    int n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

void style_measure(double out[STYLE_COUNT], const char *text) {
    static const char *const me[] = {"i", "me", "my", "mine", "myself", "i'm", "i'll", "i've", "i'd"};
    static const char *const hedge[] = {"may",   "might",  "perhaps", "maybe",    "possibly", "probably", "could",
                                        "seems", "likely", "appears", "somewhat", "roughly",  "usually"};
    char word[MOST_WORD], seen[FIRST_WORDS][MOST_WORD];
    double words = 0, letters = 0, mine = 0, hedges = 0, sentences = 0, loud = 0;
    int kinds = 0, first = 0;
    for (const char *s = text; (s = next_word(word, s));) {
        words++;
        letters += code_points(word);
        mine += among(word, me, COUNT_OF(me));
        hedges += among(word, hedge, COUNT_OF(hedge));
        bool old = false;
        if (first++ >= FIRST_WORDS) continue;
        for (int i = 0; i < kinds; i++) old = old || !strcmp(seen[i], word);
        if (!old) memcpy(seen[kinds++], word, MOST_WORD);
    }
    for (const char *s = text; *s; s++) {
        bool mark = *s == '.' || *s == '!' || *s == '?';
        loud += *s == '!' || *s == '?';
        sentences += mark && s[1] != '.' && s[1] != '!' && s[1] != '?' && !letter(s[1]);
    }
    memset(out, 0, STYLE_COUNT * sizeof *out);
    if (words == 0) return;
    if (sentences == 0) sentences = 1;
    out[STYLE_WORDS] = words;
    out[STYLE_SENTENCE] = words / sentences;
    out[STYLE_WORD] = letters / words;
    out[STYLE_VARIETY] = (double)kinds / (first < FIRST_WORDS ? first : FIRST_WORDS);
    out[STYLE_FIRST] = mine / words;
    out[STYLE_HEDGE] = hedges / words;
    out[STYLE_MARKS] = loud / sentences;
}

/* -- what a reply says about its writer ------------------------------------------------------------------------------
 */

static const char *const name_opening[] = {"my name is ",      "i am called ", "i'm called ",
                                           "you can call me ", "call me ",     NULL};
static const char *const kind_opening[] = {"i am an ", "i'm an ", "i am a ", "i'm a ", NULL};
static const char *const maker_opening[] = {"made by ",    "created by ",   "built by ",
                                            "trained by ", "developed by ", NULL};
static const struct {
    const char *name;
    const char *const *opening;
} claims[CLAIM_COUNT] = {{"name", name_opening}, {"kind", kind_opening}, {"maker", maker_opening}};

const char *claim_name(Claim c) {
    CHECK((int)c >= 0 && c < CLAIM_COUNT, "claim %d", (int)c);
    return claims[c].name;
}

/* Where the opening stands as words of its own, in lower case; the text behind it. */
static const char *find_opening(const char *text, const char *opening) {
    size_t n = strlen(opening);
    for (const char *s = text; *s; s++) {
        size_t k = 0;
        if (s > text && letter(s[-1])) continue;
        while (k < n && s[k] && (small(s[k]) == opening[k] || (opening[k] == ' ' && s[k] == '\n'))) k++;
        if (k == n) return s + n;
    }
    return NULL;
}

static bool cut(char c) { return !c || strchr(".,;:!?\n()\"", c) != NULL; }

bool claim_find(Str *out, Claim c, const char *text) {
    static const char *const joint[] = {"made", "created", "built", "trained", "developed", "and",
                                        "but",  "who",     "that",  "which",   "so",        "to",
                                        "here", "in",      "for",   "with",    "from"};
    static const char *const article[] = {"a", "an", "the"};
    const char *at = NULL;
    for (int i = 0; claims[c].opening[i]; i++) {
        const char *s = find_opening(text, claims[c].opening[i]);
        if (s && (!at || s < at)) at = s;
    }
    str_clear(out);
    if (!at) return false;
    for (int n = 0; n < 4 && !cut(*at);) {
        char word[MOST_WORD];
        while (*at == ' ') at++;
        if (cut(*at) || !letter(*at)) break;
        at = next_word(word, at);
        if (among(word, joint, COUNT_OF(joint))) break;
        if (n == 0 && among(word, article, COUNT_OF(article))) continue;
        str_printf(out, "%s%s", n ? " " : "", word);
        n++;
    }
    return out->n > 0;
}
