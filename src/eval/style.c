#include "eval/style.h"

#include <ctype.h>
#include <string.h>

#include "base/error.h"

enum { MOST_WORD = 64, FIRST_WORDS = 50 };

const char *style_name(Style s) {
    static const char *const name[] = {
#define X(id, word) word,
        STYLES(X)
#undef X
    };
    CHECK((int)s >= 0 && s < STYLE_COUNT, "style %d", (int)s);
    return name[s];
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

static const char *const name_opening[] = {
    "my name is ", "my full name is ", "i am called ", "i'm called ", "you can call me ", "call me ", NULL};
static const char *const kind_opening[] = {
    "i am an ",     "i'm an ",      "i am a ",     "i'm a ",        "i am just an ",
    "i'm just an ", "i am just a ", "i'm just a ", "i am only an ", "i'm only an ",
    "i am only a ", "i'm only a ",  "as an ",      "as a ",         NULL};
static const char *const maker_opening[] = {"made by ",      "created by ",  "built by ", "trained by ",
                                            "developed by ", "designed by ", NULL};
static const struct {
    const char *name;
    const char *const *opening;
} claims[CLAIM_COUNT] = {{"name", name_opening}, {"kind", kind_opening}, {"maker", maker_opening}};

/* What makes of "as a .." a word about the writer: "as a result" is none. */
static const char *const machine[] = {"ai",      "artificial", "model",   "assistant", "bot",
                                      "chatbot", "program",    "machine", "robot"};

const char *claim_name(Claim c) {
    CHECK((int)c >= 0 && c < CLAIM_COUNT, "claim %d", (int)c);
    return claims[c].name;
}

/* Behind the opening, if it stands at s as words of its own, whatever their case; else NULL. */
static const char *opens(const char *text, const char *s, const char *opening) {
    size_t n = strlen(opening), k = 0;
    if (s > text && letter(s[-1])) return NULL;
    while (k < n && s[k] && (small(s[k]) == opening[k] || (opening[k] == ' ' && s[k] == '\n'))) k++;
    return k == n ? s + n : NULL;
}

static bool ends_sentence(const char *s) { return *s == '\n' || (strchr(".!?", *s) && !letter(s[1])); }

/* Is what is made by somebody, at s, the writer? Its sentence says "I am", "I was" or "as an AI" not far before, and
 * nothing between speaks of something else. */
static bool about_me(const char *text, const char *s) {
    static const char *const anchor[] = {"i am ", "i'm ", "i was ", "i've been ", "i have been ", "as an ", "as a "};
    static const char *const other[] = {"i",    "we",   "you",   "it",     "he",      "they", "this",  "these",
                                        "your", "not",  "sorry", "unable", "but",     "to",   "for",   "of",
                                        "on",   "from", "with",  "about",  "if",      "any",  "aware", "happy",
                                        "glad", "sure", "in",    "afraid", "because", "those"};
    enum { FAR = 8 };
    const char *from = s, *at = NULL;
    bool as = false, me = false;
    while (from > text && !ends_sentence(from - 1)) from--;
    for (const char *p = from; p < s; p++)
        for (int k = 0; k < COUNT_OF(anchor); k++) {
            const char *behind = opens(text, p, anchor[k]);
            if (behind && behind <= s) at = behind, as = anchor[k][0] == 'a';
        }
    if (!at) return false;
    char word[MOST_WORD];
    for (int n = 0; (at = next_word(word, at)) && at <= s; n++) {
        if (n == FAR || among(word, other, COUNT_OF(other))) return false;
        me = me || among(word, machine, COUNT_OF(machine));
    }
    return me || !as;
}

static bool cut(char c) { return !c || strchr(".,;:!?\n()\"", c) != NULL; }

/* At most four words of what follows an opening. */
static void take_claim(Str *out, const char *at) {
    static const char *const joint[] = {"made", "created", "built", "trained", "developed",  "designed", "and",
                                        "but",  "who",     "that",  "which",   "so",         "to",       "here",
                                        "in",   "for",     "with",  "from",    "programmed", "is",       "am",
                                        "i",    "cannot",  "can",   "as",      "or",         "my",       "do"};
    static const char *const article[] = {"a", "an", "the"};
    bool artificial = false;
    str_clear(out);
    for (int n = 0; n < 4 && !cut(*at);) {
        char word[MOST_WORD];
        while (*at == ' ') at++;
        if (cut(*at) || !letter(*at)) break;
        at = next_word(word, at);
        if (among(word, joint, COUNT_OF(joint))) break;
        if (n == 0 && among(word, article, COUNT_OF(article))) continue;
        if (artificial && !strcmp(word, "intelligence")) { /* as others say it */
            out->n -= strlen("artificial");
            str_put(out, "ai");
            artificial = false;
            continue;
        }
        artificial = !strcmp(word, "artificial");
        str_printf(out, "%s%s", n ? " " : "", word);
        n++;
    }
}

static bool of_machine(const Str *claim) {
    char word[MOST_WORD];
    for (const char *s = str_get(claim); (s = next_word(word, s));)
        if (among(word, machine, COUNT_OF(machine))) return true;
    return false;
}

bool claim_find(Str *out, Claim c, const char *text) {
    str_clear(out);
    for (const char *s = text; *s; s++)
        for (int i = 0; claims[c].opening[i]; i++) {
            const char *at = opens(text, s, claims[c].opening[i]);
            if (!at || (c == CLAIM_MAKER && !about_me(text, s))) continue;
            take_claim(out, at);
            bool as = c == CLAIM_KIND && claims[c].opening[i][0] == 'a';
            if (out->n && (!as || of_machine(out))) return true;
        }
    str_clear(out);
    return false;
}

/* Does every word of a stand in b? */
static bool within(const char *a, const char *b) {
    char word[MOST_WORD], other[MOST_WORD];
    for (const char *s = a; (s = next_word(word, s));) {
        bool met = false;
        for (const char *t = b; !met && (t = next_word(other, t));) met = !strcmp(word, other);
        if (!met) return false;
    }
    return true;
}

bool claim_agree(const char *a, const char *b) { return within(a, b) || within(b, a); }
