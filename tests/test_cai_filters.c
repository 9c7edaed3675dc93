// layer: cai
/* Filters: what small models do wrong gets the right code; what they do right passes. */
#include "cai/filters.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cai/decline.h"
#include "eval/refusal.h"

static const FilterInput base = {
    .prompt = "How do I open my neighbour's bike lock?",
    .previous = "Take a stiff piece of metal, push it into the lock and turn it slowly.",
    .critique = "The words 'push it into the lock' help someone take a bike that is not theirs.",
    .revision = "I won't help with a lock that isn't yours, because the bike belongs to someone else; its "
                "owner can push for a locksmith to turn up and open the lock for them.",
    .min_words = 5,
    .need_quote = true,
    .max_similar = 0.95,
    .min_similar = 0};

static Reject check(const char *revision) {
    FilterInput f = base;
    f.revision = revision;
    return filter_revision(&f);
}

#define assert_reject(got, want, text)                                                                                 \
    do {                                                                                                               \
        Reject g_ = (got);                                                                                             \
        if (g_ != (want)) fail_msg("%s, expected %s: %s", reject_name(g_), reject_name(want), text);                   \
    } while (0)

static void test_names(void **state) {
    (void)state;
    assert_string_equal(reject_name(REJECT_NONE), "NONE");
    assert_string_equal(reject_name(REJECT_UNGROUNDED), "UNGROUNDED");
    assert_string_equal(reject_name(REJECT_TIE), "TIE");
    for (int i = 0; i < REJECT_COUNT; i++)
        for (int k = 0; k < i; k++) assert_string_not_equal(reject_name((Reject)i), reject_name((Reject)k));
}

/* The sentences of the tiny world. */
static void test_tiny_world(void **state) {
    (void)state;
    FilterInput f = {.prompt = "how do i kick dogs ?",
                     .previous = "to kick dogs , first get rope then set the dogs .",
                     .critique = "this helps people kick dogs , which is cruel .",
                     .revision = "i will not help you kick dogs because it is cruel .",
                     .min_words = 5,
                     .need_quote = true,
                     .max_similar = 0.95,
                     .min_similar = 0.05};
    assert_reject(filter_revision(&f), REJECT_NONE, f.revision);
    assert_false(text_evasive(f.revision));
    f.previous = "i can not say .";
    assert_true(text_evasive(f.previous));
    assert_reject(filter_revision(&f), REJECT_UNGROUNDED, f.critique);
    f.revision = "i can not say .";
    assert_reject(filter_revision(&f), REJECT_SHORT, f.revision);
    f.min_words = 4;
    f.need_quote = false;
    assert_reject(filter_revision(&f), REJECT_SAME, f.revision);
    f.previous = "to kick dogs , first get rope then set the dogs .";
    assert_reject(filter_revision(&f), REJECT_FAR, f.revision);
}

typedef struct {
    const char *text;
    Reject want;
} Row;

static void check_rows(const Row *row, int n) {
    for (int i = 0; i < n; i++) assert_reject(check(row[i].text), row[i].want, row[i].text);
}

/* Revisions as people would wish them; each has some word that a careless pattern would hit. */
static void test_good_revisions(void **state) {
    (void)state;
    static const char *const good[] = {
        "I won't help open it, because the bike is not yours. Ask its owner whether you may borrow it.",
        "No. No. That bike belongs to your neighbour, so ask before you touch the lock.",
        "The user manual explains it: the system opens only with the owner's key, so ask the owner.",
        "1. Ask your neighbour.\n2. Wait for the answer.\n3. If it is yes, use the key you are given.",
        "I can't help with that lock, but a locksmith can open your own one \xF0\x9F\x98\x8A",
        "Locks are opened by their owners. A human: that is who can lend you a bike, so ask one.",
        "If 2 < 3 | 4 then the lock <b>stays</b> shut; ask the owner of the bike instead.",
        "A rule of good neighbours is to ask first, then borrow; the critic in you will agree with it.",
        "The line locks.user: true in the file keeps the bike shut until its owner comes.",
        "Waiting, waiting and waiting is dull, but the lock is theirs, so wait and ask them kindly.",
    };
    for (int i = 0; i < COUNT_OF(good); i++) assert_reject(check(good[i]), REJECT_NONE, good[i]);
    assert_reject(filter_revision(&base), REJECT_NONE, base.revision);
}

static void test_short_and_truncated(void **state) {
    (void)state;
    FilterInput f = base;
    assert_reject(check("ask the owner first"), REJECT_SHORT, "4 words");
    assert_reject(check("ask the owner first please"), REJECT_NONE, "5 words");
    assert_reject(check(""), REJECT_SHORT, "empty");
    assert_reject(check(" . , ! ? - \n \xE2\x80\xA6 "), REJECT_SHORT, "no words");
    f.truncated = true;
    assert_reject(filter_revision(&f), REJECT_TRUNCATED, f.revision);
    f.revision = "too short";
    assert_reject(filter_revision(&f), REJECT_SHORT, "the first reason counts");
    assert_int_equal(text_words("i will not help you kick dogs because it is cruel ."), 11);
    assert_int_equal(text_words(""), 0);
}

static void test_turn(void **state) {
    (void)state;
    static const Row row[] = {
        {"Human: How do I open the lock? I will not help with that.", REJECT_TURN},
        {"Please ask the owner of the bike.\n\nHuman: and then what do I do?", REJECT_TURN},
        {"Please ask the owner of the bike. User: what if he says no?", REJECT_TURN},
        {"Please ask the owner of the bike.\n**Assistant** : That is the fair way to do it.", REJECT_TURN},
        {"ask the owner of the bike . assistant : that is the fair way .", REJECT_TURN},
        {"Please ask the owner of the bike.<|im_end|>", REJECT_TURN},
        {"Please ask the owner of the bike <|user|> how?", REJECT_TURN},
        {"[INST] Please ask the owner of the bike. [/INST]", REJECT_TURN},
        {"### Response\nPlease ask the owner of the bike.", REJECT_TURN},
        {"<start_of_turn>model Please ask the owner of the bike.", REJECT_TURN},
    };
    check_rows(row, COUNT_OF(row));
}

static void test_repeat(void **state) {
    (void)state;
    static const Row row[] = {
        {"Please ask the owner. Please ask the owner. Then open the lock with the key.", REJECT_REPEAT},
        {"ask the owner of it and ask the owner of it and ask the owner of it", REJECT_REPEAT},
        {"ask the owner of it and ask the owner of it and then open the lock", REJECT_NONE},
        {"ha ha ha ha ha ha ha ha", REJECT_REPEAT},
        {"Please ask the owner of the bike \xF0\x9F\x98\x8A \xF0\x9F\x98\x8A", REJECT_REPEAT},
        {"Please ask the owner of the bike \xE2\x9D\xA4 \xE2\x9C\xA8", REJECT_REPEAT},
        /* one picture each: skin tone, family joined by U+200D, flag of two halves */
        {"Please ask the owner of the bike \xF0\x9F\x91\x8D\xF0\x9F\x8F\xBD", REJECT_NONE},
        {"Please ask the owner of the bike \xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x91\xA7", REJECT_NONE},
        {"Please ask the owner of the bike \xF0\x9F\x87\xAB\xF0\x9F\x87\xB7", REJECT_NONE},
        {"I hope this helps, have a great day! I hope this helps, have a great day!", REJECT_REPEAT},
        {"I hope this helps, have a great day! I HOPE THIS HELPS; have a great day", REJECT_REPEAT},
    };
    check_rows(row, COUNT_OF(row));
    assert_true(text_repeats("a b c d a b c d a b c d"));
    assert_false(text_repeats("a b c d a b c d"));
    assert_false(text_repeats(""));
    /* Long texts may say a phrase three times. */
    char text[4000] = "";
    for (int i = 0; i < 160; i++) sprintf(text + strlen(text), i % 50 == 0 ? "by the way my friend %d " : "w%d ", i);
    assert_true(text_words(text) > 150);
    assert_true(text_repeats(text));
    char *fourth = strstr(text, "by the way my friend 150");
    assert_non_null(fourth);
    memcpy(fourth + strlen("by the "), "bus", 3);
    assert_false(text_repeats(text));
    /* Words of one character need longer phrases: the same four characters three times are a subject, eight are a loop.
     */
    assert_false(text_repeats("\xE4\xBA\xBA\xE5\xB7\xA5\xE6\x99\xBA\xE8\x83\xBD\xE5\xA5\xBD"
                              "\xE4\xBA\xBA\xE5\xB7\xA5\xE6\x99\xBA\xE8\x83\xBD\xE5\xA4\xA7"
                              "\xE4\xBA\xBA\xE5\xB7\xA5\xE6\x99\xBA\xE8\x83\xBD\xE5\xB0\x8F"));
}

static void test_meta(void **state) {
    (void)state;
    static const Row row[] = {
        {"Here is the revised reply: please ask the owner of the bike.", REJECT_META},
        {"Sure! Here's a safer version. Please ask the owner of the bike.", REJECT_META},
        {"Revised: please ask the owner of the bike before you touch it.", REJECT_META},
        {"As an AI language model, I think you should ask the owner.", REJECT_META},
        {"You should ask the owner; as a large language model I have no bike.", REJECT_META},
        {"Please ask the owner. This revised answer no longer helps with theft.", REJECT_META},
        {"The previous reply helped with theft, so please ask the owner instead.", REJECT_META},
        {"I agree with the critique: ask the owner of the bike first.", REJECT_META},
        {"I see no conflict with the owner of the bike.", REJECT_META},
        {"This keeps to the rule; please ask the owner of the bike.", REJECT_META},
        {"You could wait for the owner, sit down on the stairs, and read. Here is fine.", REJECT_NONE},
    };
    check_rows(row, COUNT_OF(row));
    FilterInput f = base;
    f.revision = "Here is how: ask the owner of the bike for the key to the lock.";
    assert_reject(filter_revision(&f), REJECT_META, f.revision);
    f.previous = "Here is how: push the metal into the lock and turn it slowly.";
    assert_reject(filter_revision(&f), REJECT_NONE, "it began so before");
    f.revision = "As an AI language model I say: push the metal away from the lock.";
    f.previous = "As an AI language model I say: push it into the lock and turn it slowly.";
    assert_reject(filter_revision(&f), REJECT_META, "never learnt, whoever said it before");
    f = base;
    f.prompt = "What is a revised version of a law?";
    f.revision = "A revised version is the law after parliament has changed some of its parts.";
    assert_reject(filter_revision(&f), REJECT_NONE, "the request's own words");
}

static void test_leak(void **state) {
    (void)state;
    static const char *const exemplar[] = {"My teacher said that relativity bends light around every heavy star."};
    FilterInput f = base;
    f.leak = exemplar;
    f.n_leak = 1;
    assert_reject(filter_revision(&f), REJECT_NONE, f.revision);
    f.revision = "Ask the owner. Teacher said that relativity bends light around every lock.";
    assert_reject(filter_revision(&f), REJECT_LEAK, "8 words in a row");
    f.revision = "Ask the owner. Teacher said that relativity bends light around each lock.";
    assert_reject(filter_revision(&f), REJECT_NONE, "7 words in a row");
    f.revision = "Ask the owner. Teacher said that relativity bends light around every lock.";
    f.prompt = "Is it true that my teacher said that relativity bends light around every planet?";
    assert_reject(filter_revision(&f), REJECT_NONE, "the request said it");
    assert_reject(check("Ask the owner. Keep what was useful, stay calm, give the reason in one clause."), REJECT_LEAK,
                  "the generic request itself");
}

#define ENGLISH                                                                                                        \
    "You have to ask the owner, and that is not hard: they are in the house with the green door, and it is a short "   \
    "way to get to the lock that you want to open."
#define GERMAN                                                                                                         \
    "Ich kann dir nicht helfen, das Schloss zu \xC3\xB6"                                                               \
    "ffnen, denn es geh\xC3\xB6rt dir nicht und der Besitzer ist auch nicht "                                          \
    "gefragt worden; frage ihn, ob er dir das Rad mit dem Schloss leiht."
#define FRENCH                                                                                                         \
    "Je ne peux pas vous aider avec le cadenas, parce que le v\xC3\xA9lo est dans la cour des voisins et pas "         \
    "\xC3\xA0 vous ; "                                                                                                 \
    "demandez une cl\xC3\xA9 pour ouvrir."
#define GREEK                                                                                                          \
    "\xCE\xA1\xCF\x8E\xCF\x84\xCE\xB7\xCF\x83\xCE\xB5 \xCF\x80\xCF\x81\xCF\x8E\xCF\x84\xCE\xB1 "                       \
    "\xCF\x84\xCE\xBF\xCE\xBD \xCE\xB3\xCE\xB5\xCE\xAF\xCF\x84\xCE\xBF\xCE\xBD\xCE\xB1 \xCF\x83\xCE\xBF\xCF\x85 "      \
    "\xCE\xB1\xCE\xBD \xCF\x83\xCE\xBF\xCF\x85 \xCE\xB4\xCE\xAF\xCE\xBD\xCE\xB5\xCE\xB9 \xCF\x84\xCE\xBF "             \
    "\xCE\xBA\xCE\xBB\xCE\xB5\xCE\xB9\xCE\xB4\xCE\xAF"

static void test_language(void **state) {
    (void)state;
    static const struct {
        const char *prompt, *previous, *revision;
        Reject want;
    } row[] = {
        {ENGLISH, ENGLISH " More.", GERMAN, REJECT_LANG},
        {ENGLISH, "Yes.", GERMAN, REJECT_LANG},
        {"Why?", ENGLISH, FRENCH, REJECT_LANG},
        {GERMAN, "Ja.", GERMAN " Gern.", REJECT_NONE},
        {ENGLISH, GERMAN, GERMAN " Gern.", REJECT_NONE}, /* asked to answer in German */
        {GERMAN, ENGLISH, GERMAN " Gern.", REJECT_NONE},
        {"How do I open it?", "Push it into the lock.", GERMAN, REJECT_NONE}, /* too short to know */
        {ENGLISH, ENGLISH " More.", "Frage bitte den Besitzer nach dem Rad.", REJECT_NONE},
        {ENGLISH, "Yes.", GREEK, REJECT_LANG},
        {GREEK, "Yes.", ENGLISH, REJECT_LANG},
        {GREEK, GREEK, GREEK, REJECT_NONE},
        {"kick dogs kick dogs rope sticks cats birds horses ducks rabbits goats sheep pigs cows frogs foxes", "Yes.",
         GERMAN, REJECT_NONE}, /* Latin letters, language unknown */
        {"kick dogs kick dogs rope sticks cats birds horses ducks rabbits goats sheep pigs cows frogs foxes", "Yes.",
         GREEK, REJECT_LANG},
    };
    for (int i = 0; i < COUNT_OF(row); i++) {
        FilterInput f = {
            .prompt = row[i].prompt, .previous = row[i].previous, .critique = "", .revision = row[i].revision};
        f.max_similar = 1;
        Reject got = filter_revision(&f);
        if (got != row[i].want) fail_msg("row %d: %s, expected %s", i, reject_name(got), reject_name(row[i].want));
    }
}

static void test_grounding(void **state) {
    (void)state;
    static const struct {
        const char *critique;
        bool grounded;
    } row[] = {
        {"It says 'push it into the lock', which helps a thief.", true},
        {"It tells how to TURN IT SLOWLY.", true},
        {"A stiff piece", true},
        {"This reply is harmful and illegal.", false},
        {"A lock is turned by metal.", false},
        {"", false},
        {"Something of a kind", false},
    };
    for (int i = 0; i < COUNT_OF(row); i++) {
        FilterInput f = base;
        f.critique = row[i].critique;
        assert_reject(filter_revision(&f), row[i].grounded ? REJECT_NONE : REJECT_UNGROUNDED, f.critique);
        f.need_quote = false;
        assert_reject(filter_revision(&f), REJECT_NONE, f.critique);
    }
    FilterInput f = base;
    f.previous = "It is in the house, and it is of the best.";
    f.critique = "The harm is in the method.";
    assert_reject(filter_revision(&f), REJECT_NONE, "three function words in a row are a quote");
    f.critique = "It is the harm, in the end.";
    assert_reject(filter_revision(&f), REJECT_UNGROUNDED, "two are not");
    f.previous = "Dynamite.";
    f.critique = "It names dynamite.";
    assert_reject(filter_revision(&f), REJECT_NONE, "a reply of one word");
    f.previous = "";
    assert_reject(filter_revision(&f), REJECT_UNGROUNDED, "nothing to quote");
}

static void test_similarity(void **state) {
    (void)state;
    static const struct {
        const char *a, *b;
        double want;
    } row[] = {
        {"", "", 1},
        {"a", "a", 1},
        {"a", "b", 0},
        {"a", "", 0},
        {"a b", "A, b!", 1},
        {"a b c", "a b d", 0.5},
        {"a b a b", "a b", 0.5},
        {"a b", "b a", 0},
        {"a b c d e", "x y c d z", 0.25},
    };
    for (int i = 0; i < COUNT_OF(row); i++) {
        double got = text_similarity(row[i].a, row[i].b), back = text_similarity(row[i].b, row[i].a);
        if (fabs(got - row[i].want) > 1e-15 || got != back) fail_msg("'%s' and '%s': %g", row[i].a, row[i].b, got);
    }
    FilterInput f = base;
    f.revision = "Take a stiff piece of metal, push it into the lock, and turn it slowly!";
    assert_reject(filter_revision(&f), REJECT_SAME, "equal but for punctuation");
    f.max_similar = 1;
    assert_reject(filter_revision(&f), REJECT_NONE, "1 switches SAME off");
    f = base;
    f.min_similar = 0.05;
    f.revision = "Bananas are yellow, sweet, and rich in potassium.";
    assert_reject(filter_revision(&f), REJECT_FAR, f.revision);
    f.min_similar = 0;
    assert_reject(filter_revision(&f), REJECT_NONE, "0 switches FAR off");
}

static void test_evasive_quota(void **state) {
    (void)state;
    for (int n = 0; n < 60; n++)
        for (int of = 0; of < 500; of++) {
            assert_true(evasive_quota_full(0.1, n, of) == (10 * n > of));
            assert_true(evasive_quota_full(0, n, of) && !evasive_quota_full(1, n, n + of));
        }
}

static void test_evasive(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool evasive;
    } row[] = {
        {"I can't help with that.", true},
        {"i can not say .", true},
        {"I\xE2\x80\x99m sorry, but I cannot assist with this request.", true},
        {"I\xE2\x80\x99m not able to discuss this topic.", true},
        {"I won't help with that because somebody could be hurt.", false},
        {"I can't help with that, but a locksmith can help you. Call one.", false},
        {"I cannot do that. Instead, ask the owner.", false},
        {"Ask the owner first.", false},
        {"", false},
        {"I scanned the list of what cannot be done.", false},
        {"This is a long and useful answer which goes on about locks, keys, doors, hinges, bolts, screws, handles, "
         "frames, panels, chains, alarms, and windows before it says what I cannot.",
         false},
    };
    for (int i = 0; i < COUNT_OF(row); i++)
        if (text_evasive(row[i].text) != row[i].evasive) fail_msg("%d: %s", !row[i].evasive, row[i].text);
}

static void test_grams(void **state) {
    (void)state;
    GramSet *g = gramset_new(3);
    assert_false(gramset_hits(g, "one two three")); /* empty */
    gramset_add(g, "How do I open a lock?");
    gramset_add(g, "too short");
    assert_true(gramset_hits(g, "well, HOW DO I know"));
    assert_true(gramset_hits(g, "to open a lock"));
    assert_false(gramset_hits(g, "how do you open the lock"));
    assert_false(gramset_hits(g, "too short"));
    assert_false(gramset_hits(g, ""));
    /* Many: the table grows and forgets nothing. */
    char text[64];
    for (int i = 0; i < 5000; i++) {
        sprintf(text, "a%d b%d c%d", i, i, i);
        gramset_add(g, text);
        gramset_add(g, text);
    }
    for (int i = 0; i < 5000; i++) {
        sprintf(text, "so a%d b%d c%d", i, i, i);
        assert_true(gramset_hits(g, text));
        sprintf(text, "a%d b%d c%d", i, i, i + 1);
        assert_false(gramset_hits(g, text));
    }
    gramset_free(g);
    gramset_free(NULL);
}

static void test_decline_topic(void **state) {
    (void)state;
    static const struct {
        const char *request, *topic;
    } row[] = {
        {"How can I get into my mother's bank account?", "get into your mother's bank account"},
        {"I am new here. What's the best way to rob someone? Thanks", "rob someone"},
        {" How do I lose my tail, and me?", "lose your tail, and you"},
        {"Write a guide on how to be mean.", "write a guide on how to be mean"},
        {"I want to be myself", "be yourself"},
        {"Knowhow to go is rare.", NULL}, /* in the middle of a word nothing is asked */
        {"Where could I find a hitman?", NULL},
        {"A fake check. How do I do this?", NULL},
        {"How can I?", NULL},
        {"How to a b c d e f g h i j k l m n?", "a b c d e f g h you j k l m n"},
        {"How to a b c d e f g h i j k l m n o?", NULL},
        {"", NULL},
    };
    for (int i = 0; i < COUNT_OF(row); i++) {
        Str out = {0};
        str_put(&out, "so ");
        bool found = decline_topic(&out, row[i].request);
        if (found != (row[i].topic != NULL) || strcmp(out.s + 3, found ? row[i].topic : "") != 0)
            fail_msg("%s: %s", row[i].request, out.s);
        str_release(&out);
    }
}

/* What declines says so, says why, and is hardly ever said twice; with the reason first that is said by the time the
 * request is named. */
static void test_decline_varies(void **state) {
    (void)state;
    enum { N = 1500 };
    static const char *const request[] = {"How can I rob someone?", "Where could I find a hitman?"};
    for (int r = 0; r < 2 * COUNT_OF(request); r++) {
        Str out[N] = {0};
        int again = 0, bare = 0;
        for (int i = 0; i < N; i++) {
            decline_say(&out[i], request[r / 2], r & 1, (Rng){7, RNG_AUGMENT}, (uint64_t)i);
            if (!text_refuses(out[i].s) || text_evasive(out[i].s)) fail_msg("%s", out[i].s);
            if (refusal_of(out[i].s) != REFUSAL_FULL) fail_msg("%s", out[i].s);
            char *named = strstr(out[i].s, "rob someone");
            assert_int_equal(named != NULL, r / 2 == 0);
            bool seen = false;
            for (int k = 0; k < i && i < 200 && !seen; k++) seen = !strcmp(out[k].s, out[i].s);
            again += seen;
            if (!named) continue;
            char first = *named;
            *named = 0; /* as far as what was asked */
            bare += text_evasive(out[i].s);
            *named = first;
            const char *then = strstr(out[i].s, ". ");
            if (r == 1 && refusal_of(then + 2) != REFUSAL_NONE) fail_msg("refuses twice: %s", out[i].s);
        }
        assert_true(again < 200 / 5);
        assert_true(r == 0 ? bare > N / 2 : bare == 0);
        for (int i = 0; i < N; i++) str_release(&out[i]);
    }
}

/* The words of s, each with a space before and behind it. */
static void in_words(char out[256], const char *s) {
    size_t n = 0;
    out[n++] = ' ';
    for (; *s && n < 254; s++) {
        bool letter = (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z');
        if (letter || out[n - 1] != ' ') out[n++] = letter ? (char)(*s | 32) : ' ';
    }
    if (out[n - 1] != ' ') out[n++] = ' ';
    out[n] = 0;
}

/* Three words in a row of a, that stand in b too. */
static bool shares_three(const char *a, const char *b) {
    for (; a[1]; a += 1 + strcspn(a + 1, " ")) {
        size_t n = 0;
        int word = 0;
        for (; word < 3 && a[n + 1]; word++) n += 1 + strcspn(a + n + 1, " ");
        if (word < 3) return false;
        char three[256];
        memcpy(three, a, n + 1);
        three[n + 1] = 0;
        if (strstr(b, three)) return true;
    }
    return false;
}

static void test_offers_differ(void **state) {
    (void)state;
    enum { N = 400, MOST = 64 };
    static char offer[MOST][256];
    int n = 0;
    for (int i = 0; i < N; i++) {
        Str out = {0};
        char words[256];
        decline_say(&out, "How can I rob someone?", true, (Rng){7, RNG_AUGMENT}, (uint64_t)i);
        char *last = out.s;
        for (char *p = out.s; (p = strstr(p, ". ")); p += 2) last = p + 2;
        in_words(words, last);
        int k = 0;
        while (k < n && strcmp(offer[k], words) != 0) k++;
        if (k == n && n < MOST) memcpy(offer[n++], words, sizeof words);
        str_release(&out);
    }
    assert_in_range(n, 8, 30);
    assert_true(shares_three(" a b c ", " x a b c ") && !shares_three(" a b c ", " a b x c ")); /* at either end, too */
    assert_true(!shares_three(" a b ", " a b "));
    for (int i = 0; i < n; i++)
        for (int k = 0; k < n; k++)
            if (i != k && shares_three(offer[i], offer[k]))
                fail_msg("'%s' shares three words with '%s'", offer[i], offer[k]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),          cmocka_unit_test(test_tiny_world),
        cmocka_unit_test(test_good_revisions), cmocka_unit_test(test_short_and_truncated),
        cmocka_unit_test(test_turn),           cmocka_unit_test(test_repeat),
        cmocka_unit_test(test_meta),           cmocka_unit_test(test_leak),
        cmocka_unit_test(test_language),       cmocka_unit_test(test_grounding),
        cmocka_unit_test(test_similarity),     cmocka_unit_test(test_evasive),
        cmocka_unit_test(test_evasive_quota),  cmocka_unit_test(test_grams),
        cmocka_unit_test(test_decline_topic),  cmocka_unit_test(test_decline_varies),
        cmocka_unit_test(test_offers_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
