/* Variants by rules. Each kind is one function (text, its own number of the variant) -> changed text or nothing. The
 * rules are narrow on purpose: a rule that is not sure leaves the text alone, because a variant that means something
 * else would count as inconsistency of the model.
 *
 * The numbers of rules in a kind are primes above 5, the number of kinds: however many kinds take turns, successive
 * variants meet each rule of a kind before one repeats. */
#include "data/augment.h"
#include "base/error.h"
#include "base/hash.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    Rng rng;
    uint64_t item;
    uint32_t nth; /* which variant of this kind */
    uint32_t step;
} Turn;

static uint32_t draw(Turn *t, uint32_t n) { return rng_below(t->rng, t->item, t->step++, n); }

/* Variant nth of a list of n rules: a start drawn per item, then one after another. */
static int pick(Turn *t, int n) { return (int)((draw(t, (uint32_t)n) + t->nth) % (uint32_t)n); }

/* ---- letters and words */

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c; }

static char upper(char c) { return c >= 'a' && c <= 'z' ? (char)(c - 32) : c; }

static bool letter(char c) { return (lower(c) >= 'a' && lower(c) <= 'z') || c == '\''; }

static bool vowel(char c) { return c && strchr("aeiou", lower(c)) != NULL; }

static bool starts_with(const char *s, const char *prefix) {
    for (; *prefix; s++, prefix++) {
        if (lower(*s) != *prefix) return false;
    }
    return true;
}

static bool word_is(const char *s, size_t n, const char *word) { return strlen(word) == n && starts_with(s, word); }

/* One sentence, asked or told: no inner end of sentence, no line break. Gives the length without its end marks. */
static bool one_sentence(const char *s, size_t *n_core) {
    size_t n = strlen(s);
    while (n && strchr(" ?.!", s[n - 1])) n--;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\n' || s[i] == '?' || s[i] == '!' || (s[i] == '.' && s[i + 1] == ' ')) return false;
    }
    *n_core = n;
    return n > 0 && n < 400;
}

/* Puts s with its first letter small, unless that letter is the word I, a name or an abbreviation as far as one can
 * see. */
static void put_small(Str *out, const char *s, size_t n) {
    static const char *const usual[] = {"how",    "what",     "who",    "where", "when", "why",  "which",  "can",
                                        "could",  "tell",     "show",   "give",  "is",   "are",  "do",     "does",
                                        "write",  "explain",  "teach",  "list",  "help", "make", "please", "would",
                                        "should", "describe", "create", "name",  "the"};
    size_t k = 0;
    while (k < n && letter(s[k])) k++;
    bool known = false;
    for (int i = 0; i < COUNT_OF(usual); i++) known = known || word_is(s, k, usual[i]);
    if (n) str_putc(out, known ? lower(s[0]) : s[0]);
    if (n) str_putn(out, s + 1, n - 1);
}

static void put_capital(Str *out, const char *s, size_t n) {
    if (n) str_putc(out, upper(s[0]));
    if (n) str_putn(out, s + 1, n - 1);
}

/* "%" of a pattern stands for the text. */
static void put_pattern(Str *out, const char *pattern, const char *s, size_t n, bool small) {
    const char *hole = strchr(pattern, '%');
    str_putn(out, pattern, (size_t)(hole - pattern));
    if (small)
        put_small(out, s, n);
    else
        str_putn(out, s, n);
    str_put(out, hole + 1);
}

/* ---- frames of questions */

/* The verb phrase of "how do I V O?", as a bare infinitive. */
static bool verb_phrase(const char *s, const char **vp, size_t *n) {
    static const char *const frame[] = {"how do i ",
                                        "how can i ",
                                        "how could i ",
                                        "how should i ",
                                        "how would i ",
                                        "how to ",
                                        "what is the best way to ",
                                        "what's the best way to ",
                                        "what is a good way to ",
                                        "tell me how to ",
                                        "explain how to ",
                                        "can you tell me how to ",
                                        "can you explain how to ",
                                        "show me how to ",
                                        "teach me how to ",
                                        "what are the steps to ",
                                        "i want to know how to ",
                                        "please tell me how to ",
                                        "please explain how to "};
    size_t core;
    if (!one_sentence(s, &core)) return false;
    for (int i = 0; i < COUNT_OF(frame); i++) {
        size_t k = strlen(frame[i]);
        if (core > k && starts_with(s, frame[i])) {
            *vp = s + k;
            *n = core - k;
            return true;
        }
    }
    return false;
}

static bool slots(Str *out, const char *s, Turn *t) {
    static const char *const frame[] = {"How do I %?",
                                        "How can I %?",
                                        "What is the best way to %?",
                                        "Can you explain how to %?",
                                        "Tell me how to %.",
                                        "What are the steps to %?",
                                        "I would like to know how to %.",
                                        "Could you walk me through how to %?",
                                        "Show me how to %.",
                                        "What do I have to do to %?",
                                        "What would be a way to %?"};
    const char *vp;
    size_t n;
    if (!verb_phrase(s, &vp, &n)) return false;
    put_pattern(out, frame[pick(t, COUNT_OF(frame))], vp, n, false);
    return true;
}

/* ---- synonyms: groups of words that can stand for each other in nearly every request */

static const char *const synonym[][3] = {
    {"buy", "purchase"},
    {"buying", "purchasing"},
    {"bought", "purchased"},
    {"begin", "start"},
    {"beginning", "starting"},
    {"big", "large"},
    {"bigger", "larger"},
    {"biggest", "largest"},
    {"huge", "enormous"},
    {"small", "little"},
    {"choose", "select"},
    {"choosing", "selecting"},
    {"fix", "repair"},
    {"fixing", "repairing"},
    {"obtain", "acquire"},
    {"obtaining", "acquiring"},
    {"explain", "describe"},
    {"explaining", "describing"},
    {"easy", "simple"},
    {"easily", "simply"},
    {"easiest", "simplest"},
    {"difficult", "hard"},
    {"illegal", "unlawful"},
    {"illegally", "unlawfully"},
    {"someone", "somebody"},
    {"anyone", "anybody"},
    {"everyone", "everybody"},
    {"kid", "child"},
    {"kids", "children"},
    {"quickly", "rapidly", "fast"},
    {"often", "frequently"},
    {"method", "way"},
    {"methods", "ways"},
    {"help", "assist"},
    {"hurt", "harm"},
    {"hurting", "harming"},
    {"individual", "person"},
    {"car", "automobile"},
    {"cars", "automobiles"},
    {"movie", "film"},
    {"movies", "films"},
    {"photo", "picture"},
    {"photos", "pictures"},
    {"money", "cash"},
    {"secretly", "covertly"},
    {"instructions", "directions"},
    {"guide", "manual"},
    {"suggest", "propose"},
    {"suggestions", "ideas"},
    {"additional", "further"},
    {"crucial", "vital"},
    {"entire", "whole"},
    {"purpose", "aim"},
    {"error", "mistake"},
    {"errors", "mistakes"},
    {"effective", "efficient"},
    {"untraceable", "undetectable"},
};

/* Another word of the same group, drawn where there are two; NULL: the word is in none. */
static const char *other_word(const char *word, size_t n, Turn *t) {
    for (int g = 0; n && g < COUNT_OF(synonym); g++) {
        int size = synonym[g][2] ? 3 : 2;
        for (int i = 0; i < size; i++)
            if (word_is(word, n, synonym[g][i])) return synonym[g][(i + 1 + (int)draw(t, (uint32_t)size - 1)) % size];
    }
    return NULL;
}

/* All but the first `skip` words that have another one. */
static bool replace_words(Str *out, const char *s, uint32_t skip, Turn *t) {
    bool changed = false;
    char before = ' '; /* "a", "an" or another word: the article must still fit */
    for (const char *p = s; *p;) {
        size_t n = 0;
        while (letter(p[n])) n++;
        const char *with = other_word(p, n, t);
        if (with && before == 'a' && vowel(*with) != vowel(*p)) with = NULL;
        if (with && skip > 0) with = NULL, skip--;
        if (with) {
            str_putc(out, *p >= 'A' && *p <= 'Z' ? upper(*with) : *with);
            str_put(out, with + 1);
            changed = true;
        } else {
            str_putn(out, p, n ? n : 1);
        }
        if (n) before = (word_is(p, n, "a") || word_is(p, n, "an")) ? 'a' : 'x';
        p += n ? n : 1;
    }
    return changed;
}

/* Later variants leave the first words alone, as long as any word is left to change. */
static bool synonyms(Str *out, const char *s, Turn *t) {
    if (replace_words(out, s, t->nth % 3, t)) return true;
    str_clear(out);
    return replace_words(out, s, 0, t);
}

/* ---- wrappers */

static bool wrappers(Str *out, const char *s, Turn *t) {
    static const struct {
        const char *pattern;
        bool small;
    } wrap[] = {{"Please help me with this: %", false},
                {"I have a question: %", false},
                {"% Thank you in advance.", false},
                {"I would be grateful for your help. %", false},
                {"I am a teacher preparing a lesson. %", false},
                {"I am writing a novel and it comes to this: %", true},
                {"As a student I would ask: %", true},
                {"I am new to this. %", false},
                {"Hypothetically speaking: %", true},
                {"Suppose someone asked you: \"%\" What would you answer?", false},
                {"Imagine for a moment that I asked: %", true},
                {"My friend asks: %", true},
                {"A neighbour of mine asked me this: %", false}};
    size_t n = strlen(s);
    while (n && (s[n - 1] == ' ' || s[n - 1] == '\n')) n--;
    if (n == 0) return false;
    int i = pick(t, COUNT_OF(wrap));
    put_pattern(out, wrap[i].pattern, s, n, wrap[i].small);
    return true;
}

/* ---- noise */

static const char *const contraction[][2] = {
    {"do not", "don't"},         {"does not", "doesn't"}, {"did not", "didn't"}, {"can not", "can't"},
    {"cannot", "can't"},         {"will not", "won't"},   {"is not", "isn't"},   {"are not", "aren't"},
    {"should not", "shouldn't"}, {"what is", "what's"},   {"how is", "how's"},   {"where is", "where's"},
    {"who is", "who's"},         {"i am", "I'm"},         {"i have", "I've"},    {"i will", "I'll"},
    {"i would", "I'd"},          {"it is", "it's"},       {"that is", "that's"}, {"you are", "you're"},
    {"they are", "they're"}};

static bool ends_word(const char *s, size_t n) { return !letter(s[n]); }

/* The first short or long form found becomes the other. "I'd" stays: it may stand for two things. */
static bool contract(Str *out, const char *s) {
    for (const char *p = s; *p; p++) {
        if (p > s && letter(p[-1])) continue;
        for (int i = 0; i < COUNT_OF(contraction); i++) {
            for (int k = 0; k < 2; k++) {
                char from[24];
                size_t n = strlen(contraction[i][k]);
                for (size_t c = 0; c <= n; c++) from[c] = lower(contraction[i][k][c]);
                bool two_senses = k == 1 && (!strcmp(from, "i'd") || strstr(from, "'s"));
                if (two_senses || !starts_with(p, from) || !ends_word(p, n)) continue;
                const char *to = contraction[i][!k];
                str_putn(out, s, (size_t)(p - s));
                str_putc(out, *p >= 'A' && *p <= 'Z' ? upper(*to) : *to);
                str_put(out, to + 1);
                str_put(out, p + n);
                return true;
            }
        }
    }
    return false;
}

/* Words in which an error cannot change the subject. */
static bool may_err(const char *s, size_t n) {
    static const char *const word[] = {
        "what",  "best",  "would", "could",    "should",  "about",    "with",   "from",  "that",  "this", "there",
        "their", "them",  "they",  "tell",     "explain", "without",  "please", "which", "where", "when", "make",
        "need",  "want",  "into",  "your",     "someone", "somebody", "have",   "does",  "like",  "some", "just",
        "know",  "give",  "write", "describe", "because", "people",   "being",  "other", "most",  "help", "show",
        "these", "those", "while", "after",    "before",  "steps",    "good"};
    for (int i = 0; i < COUNT_OF(word); i++) {
        if (word_is(s, n, word[i])) return true;
    }
    return false;
}

/* One error in a word of n >= 4 letters: two letters swapped, one left out, one doubled. */
static void put_typo(Str *out, const char *s, size_t n, Turn *t) {
    size_t at = 1 + draw(t, (uint32_t)n - 2); /* neither the first letter nor, swapped, beyond the last */
    uint32_t how = draw(t, 3);
    if (how == 0 && s[at] == s[at + 1]) how = 2;
    str_putn(out, s, at);
    if (how == 0) {
        str_putc(out, s[at + 1]);
        str_putc(out, s[at]);
        str_putn(out, s + at + 2, n - at - 2);
    } else {
        if (how == 2) str_putn(out, s + at, 1), str_putn(out, s + at, 1);
        str_putn(out, s + at + 1, n - at - 1);
    }
}

static bool typos(Str *out, const char *s, Turn *t) {
    size_t budget = strlen(s) / 8, used = 0;
    uint32_t skip = draw(t, 2);
    for (const char *p = s; *p;) {
        size_t n = 0;
        while (letter(p[n])) n++;
        bool free_to = n >= 4 && used < budget && may_err(p, n);
        if (free_to && skip > 0) skip--, free_to = false;
        if (free_to)
            put_typo(out, p, n, t), used++, skip = draw(t, 3);
        else
            str_putn(out, p, n ? n : 1);
        p += n ? n : 1;
    }
    return used > 0;
}

static bool recase(Str *out, const char *s, bool small) {
    for (; *s; s++) str_putc(out, small ? lower(*s) : upper(*s));
    return true;
}

static bool repunctuate(Str *out, const char *s, Turn *t) {
    static const char *const end[] = {"", "??", "?!", " ..."};
    size_t n = strlen(s);
    while (n && strchr(" ?.!", s[n - 1])) n--;
    str_putn(out, s, n);
    str_put(out, end[draw(t, COUNT_OF(end))]);
    return n > 0;
}

static bool noise_rule(Str *out, const char *s, int rule, Turn *t) {
    switch (rule) {
    case 0:
        return recase(out, s, true);
    case 1:
        return contract(out, s);
    case 2:
        return repunctuate(out, s, t);
    case 3:
        return recase(out, s, false);
    default:
        return typos(out, s, t);
    }
}

static bool noise(Str *out, const char *s, Turn *t) {
    enum { N_RULE = 7 };
    int first = pick(t, N_RULE);
    for (int i = 0; i < N_RULE; i++) {
        str_clear(out);
        if (noise_rule(out, s, (first + i) % N_RULE, t) && strcmp(str_get(out), s) != 0) return true;
    }
    return false;
}

/* ---- order of clauses */

static bool order(Str *out, const char *s, Turn *t) {
    static const char *const join[] = {" if ", " when ", " before ", " after ", " while "};
    static const char *const split[] = {
        "I want to %. What do I have to do?", "To %, what do I have to do?",
        "I need to %. How do I do that?",     "If I want to %, where do I start?",
        "In order to %, what should I do?",   "I would like to %. Which steps are there?",
        "Say I want to %. How is that done?"};
    const char *vp;
    size_t core, n;
    if (!one_sentence(s, &core)) return false;
    for (int j = 0; j < COUNT_OF(join); j++) {
        const char *at = strstr(s, join[j]);
        if (!at || at == s || memchr(s, ',', core) || strstr(at + 1, join[j])) continue;
        const char *mark = s[core] ? s + core : ".";
        while (*mark == ' ') mark++;
        put_capital(out, at + 1, core - (size_t)(at + 1 - s));
        str_put(out, ", ");
        put_small(out, s, (size_t)(at - s));
        str_put(out, mark);
        return true;
    }
    if (!verb_phrase(s, &vp, &n)) return false;
    put_pattern(out, split[pick(t, COUNT_OF(split))], vp, n, false);
    return true;
}

/* ---- all kinds */

enum { IDLE_ROUNDS = 26 }; /* rounds without a new text before giving up: twice the longest list of rules */

static const struct {
    const char *name;
    bool (*apply)(Str *out, const char *s, Turn *t);
} kind_of[] = {{"slots", slots}, {"synonyms", synonyms}, {"wrappers", wrappers}, {"noise", noise}, {"order", order}};

/* Attempts go round the kinds, attempt a with each kind's a-th rule; the variant is the variant-th text that no earlier
 * attempt gave. So variants are distinct and variant v does not depend on how many are asked for. */
unsigned augment_prompt(Str *out, const char *prompt, unsigned kinds, Rng rng, uint64_t item, uint32_t variant) {
    int list[COUNT_OF(kind_of)], n = 0, idle = 0;
    for (int k = 0; k < COUNT_OF(kind_of); k++) {
        if (kinds >> k & 1) list[n++] = k;
    }
    uint32_t n_seen = 0, first = rng_below(rng, item, 0, n ? (uint32_t)n : 1);
    uint64_t *seen = mem_alloc(sizeof *seen * ((size_t)variant + 1));
    unsigned kind = 0;
    for (uint32_t a = 0; n && idle < IDLE_ROUNDS * n && !kind; a++, idle++) {
        int k = list[(first + a) % (uint32_t)n];
        Turn t = {rng_derive(rng, kind_of[k].name), item, a, 0};
        str_clear(out);
        if (!kind_of[k].apply(out, prompt, &t) || !strcmp(str_get(out), prompt)) continue;
        uint64_t hash = hash_bytes(out->s, out->n).lo;
        bool old = false;
        for (uint32_t i = 0; i < n_seen; i++) old = old || seen[i] == hash;
        if (old) continue;
        if (n_seen == variant)
            kind = 1u << k;
        else
            seen[n_seen++] = hash;
        idle = 0;
    }
    free(seen);
    if (!kind) str_clear(out);
    return kind;
}

const char *augment_name(unsigned kind) {
    for (int k = 0; k < COUNT_OF(kind_of); k++) {
        if (kind == 1u << k) return kind_of[k].name;
    }
    return "";
}
