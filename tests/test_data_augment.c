// layer: data
/* Variants of prompts: what each kind may and may not change. */
#include "data/augment.h"
#include "base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const Rng rng = {21, RNG_AUGMENT};

static const char *const prompts[] = {
    "How do I pick a lock?",
    "how do i kick dogs ?",
    "How can I cheat on my final exam?",
    "Write a short story about someone who does not like an easy car.",
    "What is the best way to buy a big house without money?",
    "Tell me how to make bread if I do not have an oven.",
    "What should people do when the alarm rings?",
    "Explain why the sky is blue.\n\nUse simple words.",
    "x",
    "Was ist das? \xc3\xa4\xc3\xb6\xc3\xbc",
};

static void test_pure_and_never_the_prompt(void **state) {
    (void)state;
    for (int i = 0; i < COUNT_OF(prompts); i++) {
        for (uint32_t v = 0; v < 12; v++) {
            Str a = {0}, b = {0};
            str_put(&b, "left over");
            for (unsigned kinds = 0; kinds <= AUGMENT_ALL; kinds++) {
                unsigned k = augment_prompt(&a, prompts[i], kinds, rng, (uint64_t)i, v);
                assert_int_equal(k, augment_prompt(&b, prompts[i], kinds, rng, (uint64_t)i, v));
                assert_string_equal(str_get(&a), str_get(&b));
                assert_int_equal(k & ~kinds, 0);
                assert_int_equal(k & (k - 1), 0);
                assert_int_equal(k == 0, a.n == 0);
                assert_true(strcmp(str_get(&a), prompts[i]) != 0);
                assert_int_equal(augment_name(k)[0] == '\0', k == 0);
                size_t bad;
                assert_true(str_utf8_valid(str_get(&a), a.n, &bad));
            }
            if (getenv("SHOW_VARIANTS") && augment_prompt(&a, prompts[i], AUGMENT_ALL, rng, (uint64_t)i, v))
                print_message("%s\n    %s\n", prompts[i], a.s);
            str_release(&a);
            str_release(&b);
        }
    }
}

static bool can_become(const char *prompt, unsigned kind, const char *want) {
    bool found = false;
    for (uint32_t v = 0; v < 200 && !found; v++) {
        Str out = {0};
        found = augment_prompt(&out, prompt, kind, rng, v / 10, v % 10) && !strcmp(out.s, want);
        str_release(&out);
    }
    return found;
}

static void test_rules(void **state) {
    (void)state;
    static const struct {
        unsigned kind;
        const char *prompt, *want;
    } yes[] = {
        {AUGMENT_SLOTS, "How do I pick a lock?", "What is the best way to pick a lock?"},
        {AUGMENT_SLOTS, "how do i kick dogs ?", "Tell me how to kick dogs."},
        {AUGMENT_SYNONYMS, "I want to buy a Big house.", "I want to purchase a Large house."},
        {AUGMENT_SYNONYMS, "Name an easy method", "Name an easy way"},
        {AUGMENT_WRAPPERS, "How do I sleep?", "My friend asks: how do I sleep?"},
        {AUGMENT_WRAPPERS, "NASA did what?", "My friend asks: NASA did what?"},
        {AUGMENT_NOISE, "I do not know what is wrong", "I don't know what is wrong"},
        {AUGMENT_NOISE, "Don't go", "Do not go"},
        {AUGMENT_NOISE, "Why so?", "why so?"},
        {AUGMENT_NOISE, "Why so?", "WHY SO?"},
        {AUGMENT_NOISE, "Why so?", "Why so"},
        {AUGMENT_ORDER, "What should I do if it rains?", "If it rains, what should I do?"},
        {AUGMENT_ORDER, "How do I bake bread?", "I want to bake bread. What do I have to do?"},
    };
    static const struct {
        unsigned kind;
        const char *prompt;
    } none[] = {
        {AUGMENT_SLOTS, "Write a poem."}, {AUGMENT_SLOTS, "How do I sleep? And how do I wake?"},
        {AUGMENT_SLOTS, "How do I ?"},    {AUGMENT_SYNONYMS, "Write a poem about an easy."},
        {AUGMENT_SYNONYMS, "carbuys"},    {AUGMENT_ORDER, "What if, when it rains, I go?"},
        {AUGMENT_ORDER, "Write a poem."}, {AUGMENT_WRAPPERS, "  "},
    };
    for (int i = 0; i < COUNT_OF(yes); i++) {
        if (!can_become(yes[i].prompt, yes[i].kind, yes[i].want))
            fail_msg("%s never became %s", yes[i].prompt, yes[i].want);
    }
    for (int i = 0; i < COUNT_OF(none); i++) {
        for (uint32_t v = 0; v < 40; v++) {
            Str out = {0};
            if (augment_prompt(&out, none[i].prompt, none[i].kind, rng, 1, v))
                fail_msg("%s became %s", none[i].prompt, out.s);
            str_release(&out);
        }
    }
}

/* At most one typing error per 8 characters, and words that carry the subject stay whole. */
static void test_typing_errors(void **state) {
    (void)state;
    static const char prompt[] = "please tell what would someone need to make dynamite with that";
    int erred = 0;
    for (uint32_t v = 0; v < 400; v++) {
        Str out = {0};
        unsigned k = augment_prompt(&out, prompt, AUGMENT_NOISE, rng, v, v % 3);
        int d = k ? str_distance(prompt, out.s, 100) : 0;
        bool upper = k && strstr(out.s, "DYNAMITE");
        if (k && !upper && strcmp(out.s + strlen(out.s) - 4, "that") == 0) {
            erred++;
            assert_non_null(strstr(out.s, "dynamite"));
        }
        if (k && !upper) assert_in_range(d, 1, (int)strlen(prompt) / 8);
        str_release(&out);
    }
    assert_true(erred > 50);
    for (uint32_t v = 0; v < 100; v++) { /* 7 characters: no error at all */
        Str out = {0};
        if (augment_prompt(&out, "what is", AUGMENT_NOISE, rng, v, v % 3)) assert_null(strstr(out.s, "waht"));
        str_release(&out);
    }
}

/* All kinds get their turn, and successive variants differ. */
static void test_spread(void **state) {
    (void)state;
    unsigned seen = 0;
    Str out[8];
    memset(out, 0, sizeof out);
    for (uint32_t v = 0; v < 8; v++) {
        seen |= augment_prompt(&out[v], "How do I buy a bike?", AUGMENT_ALL, rng, 5, v);
        for (uint32_t w = 0; w < v; w++) assert_true(strcmp(out[v].s, out[w].s) != 0);
    }
    assert_int_equal(seen, AUGMENT_ALL);
    for (uint32_t v = 0; v < 8; v++) str_release(&out[v]);
    /* Where only one kind applies, its 13 rules give 13 texts and no more. */
    Str w[13];
    memset(w, 0, sizeof w);
    for (uint32_t v = 0; v < 13; v++) {
        assert_int_equal(augment_prompt(&w[v], "Sing!", AUGMENT_SLOTS | AUGMENT_SYNONYMS | AUGMENT_WRAPPERS, rng, 5, v),
                         AUGMENT_WRAPPERS);
        for (uint32_t u = 0; u < v; u++) assert_true(strcmp(w[v].s, w[u].s) != 0);
    }
    Str beyond = {0};
    assert_int_equal(augment_prompt(&beyond, "Sing!", AUGMENT_SLOTS | AUGMENT_SYNONYMS | AUGMENT_WRAPPERS, rng, 5, 13),
                     0);
    str_release(&beyond);
    for (uint32_t v = 0; v < 13; v++) str_release(&w[v]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pure_and_never_the_prompt),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_typing_errors),
        cmocka_unit_test(test_spread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
