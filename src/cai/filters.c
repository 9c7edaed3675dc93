/* Typed rejects for revisions. Each looks for one way in which small models fail: preambles ("Here is the revised
 * reply"), loops, the next turn written along, a critique of nothing. Patterns, never length: a length rule elsewhere
 * threw away half of the good rows. Words and phrases are compared by hash (cai/words.h), so case and punctuation do
 * not matter.
 *
 * What the person or the reply under revision already said is not held against the revision where it can be innocent: a
 * request about "revised tax rules" may be answered in these words. */
#include "cai/filters.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cai/constitution.h"
#include "cai/words.h"

// clang-format off
static const char *const reject_names[] = {
#define X(name) #name,
    REJECTS(X)
#undef X
};
// clang-format on

const char *reject_name(Reject r) {
    CHECK(r >= 0 && r < REJECT_COUNT, "reject %d", (int)r);
    return reject_names[r];
}

int text_words(const char *s) {
    Words w = words_of(s);
    int n = w.n;
    words_release(&w);
    return n;
}

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Sorted hashes of all n-grams; NULL when there is none. */
static uint64_t *grams(const Words *w, int n, int *count) {
    *count = w->n >= n ? w->n - n + 1 : 0;
    if (!*count) return NULL;
    uint64_t *g = mem_alloc((size_t)*count * sizeof *g);
    for (int i = 0; i < *count; i++) g[i] = words_gram(w, i, n);
    qsort(g, (size_t)*count, sizeof *g, by_value);
    return g;
}

static bool has(const uint64_t *sorted, int n, uint64_t v) {
    return n && bsearch(&v, sorted, (size_t)n, sizeof v, by_value);
}

static bool words_equal(const Words *a, const Words *b) {
    if (a->n != b->n) return false;
    for (int i = 0; i < a->n; i++)
        if (a->word[i].hash != b->word[i].hash) return false;
    return true;
}

static double similarity(const Words *a, const Words *b) {
    if (words_equal(a, b)) return 1;
    int na, nb, shared = 0;
    uint64_t *x = grams(a, 2, &na), *y = grams(b, 2, &nb);
    for (int i = 0, k = 0; i < na && k < nb;) {
        if (x[i] == y[k])
            shared++, i++, k++;
        else if (x[i] < y[k])
            i++;
        else
            k++;
    }
    free(x);
    free(y);
    return na + nb ? 2.0 * shared / (na + nb) : 0;
}

double text_similarity(const char *a, const char *b) {
    Words x = words_of(a), y = words_of(b);
    double out = similarity(&x, &y);
    words_release(&x);
    words_release(&y);
    return out;
}

/* -- REPEAT ---------------------------------------------------------------------------------------------------------
 */
static int most_repeated(const Words *w, int n) {
    int count, most = 0;
    uint64_t *g = grams(w, n, &count);
    for (int i = 0, run = 0; i < count; i++) {
        run = i && g[i] == g[i - 1] ? run + 1 : 1;
        if (run > most) most = run;
    }
    free(g);
    return most;
}

static bool is_unspaced_text(const Words *w) {
    int n = 0;
    for (int i = 0; i < w->n; i++) n += w->word[i].unspaced;
    return 2 * n > w->n;
}

static bool ends_sentence(uint32_t c) {
    return c == '.' || c == '!' || c == '?' || c == '\n' || c == 0x3002 || c == 0xFF01 || c == 0xFF1F;
}

/* Short sentences ("No.", "1.") may come back; from SENTENCE words on they may not. */
enum { SENTENCE = 4 };
static bool sentence_repeats(const char *s, const Words *w) {
    uint64_t *seen = mem_alloc((size_t)(w->n / SENTENCE + 1) * sizeof *seen);
    int n = 0, first = 0;
    bool found = false;
    for (const char *p = s; *p && !found;) {
        uint32_t c = utf8_next(&p);
        if (!ends_sentence(c) && *p) continue;
        int end = first;
        while (end < w->n && w->word[end].at < (uint32_t)(p - s)) end++;
        int need = is_unspaced_text(w) ? 2 * SENTENCE : SENTENCE;
        if (end - first >= need) {
            uint64_t h = words_gram(w, first, end - first);
            for (int i = 0; i < n; i++) found = found || seen[i] == h;
            seen[n++] = h;
        }
        first = end;
    }
    free(seen);
    return found;
}

/* Pictures, counted as people see them: skin tones, joined sequences and flag halves do not count again. */
static int count_emoji(const char *s) {
    int n = 0;
    bool joined = false, flag_open = false;
    for (uint32_t c; (c = utf8_next(&s)) != 0;) {
        bool flag = c >= 0x1F1E6 && c <= 0x1F1FF, tone = c >= 0x1F3FB && c <= 0x1F3FF;
        bool picture =
            ((c >= 0x1F300 && c <= 0x1FAFF) || (c >= 0x2600 && c <= 0x26FF) || c == 0x2728 || c == 0x2764) && !tone;
        if ((picture && !joined) || (flag && !flag_open)) n++;
        flag_open = flag && !flag_open;
        joined = c == 0x200D;
    }
    return n;
}

static bool repeats(const char *s, const Words *w) {
    /* A word of an unspaced script is often several characters, so a phrase needs more of them. */
    int allowed = w->n > 150 ? 3 : 2, n = is_unspaced_text(w) ? 8 : 4;
    return most_repeated(w, n) > allowed || sentence_repeats(s, w) || count_emoji(s) > 1;
}

bool text_repeats(const char *s) {
    Words w = words_of(s);
    bool out = repeats(s, &w);
    words_release(&w);
    return out;
}

/* -- TURN -----------------------------------------------------------------------------------------------------------
 */
static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c; }

/* "Human:", "**User** :" - dressed as people and models dress a speaker's name. */
static bool speaker_at(const char *s) {
    static const char *const role[] = {"human", "assistant", "user", "system", "ai assistant"};
    s += strspn(s, " \t*#_>");
    for (int i = 0; i < COUNT_OF(role); i++) {
        size_t n = 0;
        while (role[i][n] && lower(s[n]) == role[i][n]) n++;
        if (!role[i][n] && s[n + strspn(s + n, " \t*_")] == ':') return true;
    }
    return false;
}

/* A speaker counts where a turn could begin: at the start, on a new line, behind the end of a sentence. */
static bool has_turn(const char *s) {
    static const char *const marker[] = {"[INST]",        "[/INST]",         "<<SYS>>",      "<start_of_turn>",
                                         "<end_of_turn>", "### Instruction", "### Response", "### Input"};
    for (int i = 0; i < COUNT_OF(marker); i++)
        if (strstr(s, marker[i])) return true;
    for (const char *p = strstr(s, "<|"); p; p = strstr(p + 2, "<|")) {
        size_t n = strspn(p + 2, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-");
        if (n && !strncmp(p + 2 + n, "|>", 2)) return true;
    }
    if (speaker_at(s)) return true;
    for (const char *p = s; *p; p++)
        if (strchr(".!?\n", *p) && (p[1] == ' ' || *p == '\n') && speaker_at(p + 1)) return true;
    return false;
}

/* -- META and LEAK --------------------------------------------------------------------------------------------------
 */
enum { OPENING_WORDS = 12, LEAK_WORDS = 8 };

static bool stands_in(const Words *w, const char *phrase) { return words_find(w, phrase) >= 0; }

static bool is_meta(const Words *revision, const Words *prompt, const Words *previous) {
    static const char *const never[] = {"as an ai language model", "as a language model", "as a large language model"};
    static const char *const anywhere[] = {
        "revised reply",      "revised response",   "revised answer",    "revised version",       "rewritten reply",
        "rewritten response", "rewritten answer",   "rewritten version", "previous reply",        "previous response",
        "previous answer",    "original reply",     "original response", "original answer",       "last reply",
        "i have revised",     "i've revised",       "i have rewritten",  "i've rewritten",        "the critique",
        "my critique",        "this critique",      "better reply",      "according to the rule", "rule says",
        "to meet the rule",   "to follow the rule", "what is wrong",     "no conflict with",      "keeps to the rule"};
    static const char *const opening[] = {"here is",  "here's",    "here are", "below is", "revised",
                                          "revision", "rewritten", "critique", "as an ai"};
    for (int i = 0; i < COUNT_OF(never); i++)
        if (stands_in(revision, never[i])) return true;
    for (int i = 0; i < COUNT_OF(anywhere); i++)
        if (stands_in(revision, anywhere[i]) && !stands_in(prompt, anywhere[i]) && !stands_in(previous, anywhere[i]))
            return true;
    for (int i = 0; i < COUNT_OF(opening); i++) {
        int at = words_find(revision, opening[i]);
        if (at >= 0 && at < OPENING_WORDS && !stands_in(prompt, opening[i]) && !stands_in(previous, opening[i]))
            return true;
    }
    return false;
}

static bool shares_gram(const Words *text, const Words *with, int n, const Words *prompt, const Words *previous) {
    int ng, np, nq;
    uint64_t *g = grams(with, n, &ng), *p = grams(prompt, n, &np), *q = grams(previous, n, &nq);
    bool found = false;
    for (int i = 0; ng && i + n <= text->n && !found; i++) {
        uint64_t h = words_gram(text, i, n);
        found = has(g, ng, h) && !has(p, np, h) && !has(q, nq, h);
    }
    free(g);
    free(p);
    free(q);
    return found;
}

/* The generic requests are in every prompt of the method, so they are always looked for. */
static bool leaks(const FilterInput *f, const Words *revision, const Words *prompt, const Words *previous) {
    static const Principle generic = {.id = NULL};
    const char *const request[] = {principle_critique(&generic), principle_revise(&generic),
                                   principle_compare(&generic)};
    bool found = false;
    for (int i = 0; i < COUNT_OF(request) + f->n_leak && !found; i++) {
        Words with = words_of(i < COUNT_OF(request) ? request[i] : f->leak[i - COUNT_OF(request)]);
        found = shares_gram(revision, &with, LEAK_WORDS, prompt, previous);
        words_release(&with);
    }
    return found;
}

/* -- LANG -----------------------------------------------------------------------------------------------------------
 */
typedef enum {
    LANG_UNKNOWN,
    SCRIPT_CYRILLIC,
    SCRIPT_GREEK,
    SCRIPT_ARABIC,
    SCRIPT_HEBREW,
    SCRIPT_INDIC,
    SCRIPT_THAI,
    SCRIPT_HANGUL,
    SCRIPT_HAN,
    SCRIPT_LATIN,
    LANG_FIRST_LATIN
} Language;

static Language script_of(uint32_t c) {
    static const struct {
        uint32_t lo, hi;
        Language script;
    } range[] = {
        {'A', 'Z', SCRIPT_LATIN},      {'a', 'z', SCRIPT_LATIN},        {0xC0, 0x24F, SCRIPT_LATIN},
        {0x370, 0x3FF, SCRIPT_GREEK},  {0x400, 0x52F, SCRIPT_CYRILLIC}, {0x590, 0x5FF, SCRIPT_HEBREW},
        {0x600, 0x77F, SCRIPT_ARABIC}, {0x900, 0xDFF, SCRIPT_INDIC},    {0xE00, 0xEFF, SCRIPT_THAI},
        {0x3040, 0x30FF, SCRIPT_HAN},  {0x3400, 0x9FFF, SCRIPT_HAN},    {0xAC00, 0xD7A3, SCRIPT_HANGUL},
    };
    for (int i = 0; i < COUNT_OF(range); i++)
        if (c >= range[i].lo && c <= range[i].hi) return range[i].script;
    return LANG_UNKNOWN;
}

static bool holds(const Words *w, uint64_t hash) {
    for (int i = 0; i < w->n; i++)
        if (w->word[i].hash == hash) return true;
    return false;
}

static Language latin_language(const Words *w) {
    /* Frequent words that the other languages of the table do not have. */
    static const char *const frequent[] = {
        "the and is you that this with are have not it to",    "und der das nicht ist ich mit ein eine sie auf auch",
        "le les et est vous dans pas pour une des avec je",    "el los las y una por usted pero muy con es está",
        "il che di non gli della sono anche più questo è nel", "os não você uma em isso mas são com do também um",
        "het een niet van ik zijn voor maar ook je dat naar",
    };
    int hit[COUNT_OF(frequent)] = {0}, best = 0, second = 0;
    for (int l = 0; l < COUNT_OF(frequent); l++) {
        Words of = words_of(frequent[l]);
        for (int i = 0; i < w->n; i++) hit[l] += holds(&of, w->word[i].hash);
        words_release(&of);
        if (hit[l] > hit[best]) best = l;
    }
    for (int l = 0; l < COUNT_OF(frequent); l++)
        if (l != best && hit[l] > second) second = hit[l];
    bool clear = hit[best] >= 4 && 8 * hit[best] >= w->n && hit[best] >= 3 * second;
    return clear ? (Language)(LANG_FIRST_LATIN + best) : SCRIPT_LATIN;
}

/* Unknown unless there is enough text of one clear kind; SCRIPT_LATIN: Latin letters, language unclear. */
static Language language_of(const char *s, const Words *w) {
    enum { MIN_LETTERS = 40, MIN_DENSE = 15, MIN_WORDS = 15 };
    int count[SCRIPT_LATIN + 1] = {0}, total = 0, best = SCRIPT_LATIN;
    for (uint32_t c; (c = utf8_next(&s)) != 0;) {
        Language l = script_of(c);
        count[l]++;
        total += l != LANG_UNKNOWN;
    }
    for (int i = 1; i <= SCRIPT_LATIN; i++)
        if (count[i] > count[best]) best = i;
    bool dense = best == SCRIPT_HAN || best == SCRIPT_HANGUL;
    if (total < (dense ? MIN_DENSE : MIN_LETTERS) || 10 * count[best] < 9 * total) return LANG_UNKNOWN;
    return best == SCRIPT_LATIN && w->n >= MIN_WORDS ? latin_language(w) : (Language)best;
}

static bool differ(Language a, Language b) {
    if (a >= SCRIPT_LATIN && b >= SCRIPT_LATIN && (a == SCRIPT_LATIN || b == SCRIPT_LATIN)) return false;
    return a != b;
}

/* Unlike whichever of prompt and previous reply is clear: a reply in French to "say it in French" may stay so. A wrong
 * reject costs more than a missed one, so short or mixed texts pass. */
static bool wrong_language(const FilterInput *f, const Words *prompt, const Words *previous, const Words *revision) {
    Language r = language_of(f->revision, revision), p = language_of(f->prompt, prompt),
             q = language_of(f->previous, previous);
    if (r == LANG_UNKNOWN || (p == LANG_UNKNOWN && q == LANG_UNKNOWN)) return false;
    return (p == LANG_UNKNOWN || differ(r, p)) && (q == LANG_UNKNOWN || differ(r, q));
}

/* -- UNGROUNDED -----------------------------------------------------------------------------------------------------
 */
/* A quote: two consecutive words of the reply, not both function words, or three of any kind. A reply of one word is
 * quoted by that word. */
static bool quotes(const Words *critique, const Words *reply) {
    if (reply->n < 2) return reply->n == 1 && holds(critique, reply->word[0].hash);
    int n2, n3;
    Words filler = words_of("a an and are as at be by for from in is it of on or so that the this to was which with");
    uint64_t *g2 = grams(reply, 2, &n2), *g3 = grams(reply, 3, &n3);
    bool found = false;
    for (int i = 0; i + 2 <= critique->n && !found; i++) {
        bool content = !holds(&filler, critique->word[i].hash) || !holds(&filler, critique->word[i + 1].hash);
        found = (content && has(g2, n2, words_gram(critique, i, 2))) ||
                (i + 3 <= critique->n && has(g3, n3, words_gram(critique, i, 3)));
    }
    free(g2);
    free(g3);
    words_release(&filler);
    return found;
}

/* -- all of them ----------------------------------------------------------------------------------------------------
 */
static Reject first_reject(const FilterInput *f, const Words *prompt, const Words *previous, const Words *critique,
                           const Words *revision) {
    if (revision->n < f->min_words) return REJECT_SHORT;
    if (f->truncated) return REJECT_TRUNCATED;
    if (has_turn(f->revision)) return REJECT_TURN;
    if (repeats(f->revision, revision)) return REJECT_REPEAT;
    if (is_meta(revision, prompt, previous)) return REJECT_META;
    if (leaks(f, revision, prompt, previous)) return REJECT_LEAK;
    if (wrong_language(f, prompt, previous, revision)) return REJECT_LANG;
    if (f->need_quote && !quotes(critique, previous)) return REJECT_UNGROUNDED;
    double alike = similarity(revision, previous);
    if (alike > f->max_similar) return REJECT_SAME;
    if (alike < f->min_similar) return REJECT_FAR;
    return REJECT_NONE;
}

Reject filter_revision(const FilterInput *f) {
    CHECK(f->prompt && f->previous && f->critique && f->revision, "a filter needs all four texts");
    Words prompt = words_of(f->prompt), previous = words_of(f->previous);
    Words critique = words_of(f->critique), revision = words_of(f->revision);
    Reject r = first_reject(f, &prompt, &previous, &critique, &revision);
    words_release(&prompt);
    words_release(&previous);
    words_release(&critique);
    words_release(&revision);
    return r;
}

/* 0.1 of n means n / 10 in whole numbers, not what lies beside it in binary. */
bool evasive_quota_full(double share, int n_evasive, int n_accepted) {
    return share <= 0 || n_evasive > floor(share * n_accepted + 1e-9);
}

/* The refusal must come early; what makes it more than a stock phrase may follow anywhere. */
bool text_evasive(const char *s) {
    enum { EARLY_BYTES = 160 };
    static const char *const refusal[] = {"i can't",
                                          "i cannot",
                                          "i can not",
                                          "i won't",
                                          "i will not",
                                          "i'm sorry",
                                          "i am sorry",
                                          "i'm unable",
                                          "i am unable",
                                          "i'm not able",
                                          "i am not able",
                                          "i must decline",
                                          "i have to decline",
                                          "i'd rather not",
                                          "i refuse",
                                          "can't help with that",
                                          "cannot help with that",
                                          "not comfortable"};
    static const char *const more[] = {
        "because",    "since",        "as it",  "so that",  "which is",  "illegal", "dangerous",
        "harm",       "hurt",         "unsafe", "unfair",   "not yours", "instead", "you could",
        "you can",    "you might",    "try",    "consider", "happy to",  "glad to", "what i can",
        "i can help", "can help you", "if you", "contact",  "reach out", "call",    "here is",
        "here are",   "how about",    "let's",  "a better", "a safe",    "a safer"};
    Words w = words_of(s);
    bool refuses = false, says_more = false;
    for (int i = 0; i < COUNT_OF(refusal) && !refuses; i++) {
        int at = words_find(&w, refusal[i]);
        refuses = at >= 0 && w.word[at].at < EARLY_BYTES;
    }
    for (int i = 0; i < COUNT_OF(more) && refuses && !says_more; i++) says_more = words_find(&w, more[i]) >= 0;
    words_release(&w);
    return refuses && !says_more;
}

/* -- n-gram sets ----------------------------------------------------------------------------------------------------
 */
struct GramSet {
    int n_gram;
    uint64_t *slot; /* open addressing, 0 is free; a gram of hash 0 is stored as 1 */
    size_t n, cap;  /* cap: a power of two */
};

GramSet *gramset_new(int n_gram) {
    CHECK(n_gram > 0, "n-grams of %d words", n_gram);
    GramSet *g = mem_alloc(sizeof *g);
    g->n_gram = n_gram;
    return g;
}

/* Where v is or would be. */
static size_t slot_of(const GramSet *g, uint64_t v) {
    size_t at = (size_t)(v ^ v >> 32) & (g->cap - 1);
    while (g->slot[at] && g->slot[at] != v) at = (at + 1) & (g->cap - 1);
    return at;
}

static void put_gram(GramSet *g, uint64_t v) {
    if (2 * (g->n + 1) > g->cap) {
        GramSet old = *g;
        g->cap = old.cap ? 2 * old.cap : 1024;
        g->slot = mem_alloc(g->cap * sizeof *g->slot);
        for (size_t i = 0; i < old.cap; i++)
            if (old.slot[i]) g->slot[slot_of(g, old.slot[i])] = old.slot[i];
        free(old.slot);
    }
    size_t at = slot_of(g, v);
    g->n += !g->slot[at];
    g->slot[at] = v;
}

void gramset_add(GramSet *g, const char *text) {
    Words w = words_of(text);
    for (int i = 0; i + g->n_gram <= w.n; i++) {
        uint64_t v = words_gram(&w, i, g->n_gram);
        put_gram(g, v ? v : 1);
    }
    words_release(&w);
}

bool gramset_hits(const GramSet *g, const char *text) {
    bool found = false;
    Words w = words_of(text);
    for (int i = 0; g->cap && i + g->n_gram <= w.n && !found; i++) {
        uint64_t v = words_gram(&w, i, g->n_gram);
        found = g->slot[slot_of(g, v ? v : 1)] != 0;
    }
    words_release(&w);
    return found;
}

void gramset_free(GramSet *g) {
    if (g) free(g->slot);
    free(g);
}
