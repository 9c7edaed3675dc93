// layer: text
/* Every sequence of the chat formats spelled out, with weights; the critique parser as a table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/io.h"
#include "text/chat.h"

typedef struct {
    Tokenizer *tok;
    Chat chat;
} Fixture;

static int setup(void **state) {
    Error err = {0};
    Fixture *f = calloc(1, sizeof *f);
    *state = f;
    if (tokenizer_open(&f->tok, TEST_DIR "/golden/text_llama3.json", &err) && chat_init(&f->chat, f->tok, &err))
        return 0;
    print_error("%s\n", err.msg);
    return -1;
}

static int teardown(void **state) {
    Fixture *f = *state;
    tokenizer_close(f->tok);
    free(f);
    return 0;
}

/* want: parts, each with its weight in braces. A part that is a sentinel's spelling means its id, any other the ids it
 * has as text of its own; so text that is merged across a sentinel, or a sentinel spelled inside text, shows. */
static void assert_sequence(const Fixture *f, Sequence *s, const char *want) {
    int at = 0;
    for (const char *p = want; *p;) {
        const char *open = strchr(p, '{');
        char part[200], *end;
        size_t n = (size_t)(open - p);
        assert_true(n < sizeof part);
        memcpy(part, p, n);
        part[n] = 0;
        float weight = strtof(open + 1, &end);
        p = end + 1;
        TokBuf ids = {0};
        int32_t id = tokenizer_special(f->tok, part);
        if (id >= 0)
            tokbuf_put(&ids, id);
        else
            tokenizer_encode(f->tok, part, n, &ids);
        for (int i = 0; i < ids.n; i++, at++) {
            if (at >= s->tok.n || s->tok.id[at] != ids.id[i] || s->weight[at] != weight)
                fail_msg("at %d, in '%s': expected %d {%g}, found %d {%g}", at, part, ids.id[i], (double)weight,
                         at < s->tok.n ? s->tok.id[at] : -1, at < s->tok.n ? (double)s->weight[at] : -1);
        }
        tokbuf_release(&ids);
    }
    assert_int_equal(at, s->tok.n);
    assert_true(s->cap_weight >= s->tok.n);
    sequence_clear(s);
    assert_int_equal(s->tok.n, 0);
}

static const Message turns[] = {
    {ROLE_SYSTEM, "be kind"}, {ROLE_USER, "hi <|end|>"}, {ROLE_ASSISTANT, " the gate"}, {ROLE_USER, "more?\n"}};
static const Dialogue whole = {turns, 4}, one = {turns + 1, 1};

#define ONE "<|user|>{0}hi <|end|>{0}<|end|>{0}"

static void test_dialogue(void **state) {
    const Fixture *f = *state;
    Sequence s = {0};
    chat_dialogue(&s, &f->chat, whole, 0.5f);
    assert_sequence(f, &s,
                    "<|system|>{0}be kind{0}<|end|>{0}" ONE "<|assistant|>{0} the gate{0.5}<|end|>{0.5}"
                    "<|user|>{0}more?\n{0}<|end|>{0}");
    chat_respond(&s, &f->chat, whole);
    assert_sequence(f, &s,
                    "<|system|>{0}be kind{0}<|end|>{0}" ONE "<|assistant|>{0} the gate{0}<|end|>{0}"
                    "<|user|>{0}more?\n{0}<|end|>{0}<|assistant|>{0}");
    chat_respond(&s, &f->chat, one);
    chat_reply(&s, &f->chat, "yes", 1, false);
    chat_reply(&s, &f->chat, "", 1, true);
    assert_sequence(f, &s, ONE "<|assistant|>{0}yes{1}<|end|>{1}");
    chat_dialogue(&s, &f->chat, (Dialogue){NULL, 0}, 1);
    assert_sequence(f, &s, "");
    for (int i = 0; i < 500; i++) sequence_put(&s, i, (float)i); /* weights grow with the ids */
    for (int i = 0; i < 500; i++) assert_true(s.tok.id[i] == i && s.weight[i] == (float)i);
    sequence_release(&s);
}

static void test_critique(void **state) {
    const Fixture *f = *state;
    Sequence s = {0};
    chat_critique_prompt(&s, &f->chat, one, "I did", "Be honest.", "What is wrong?", "Mend it.");
    assert_sequence(f, &s,
                    ONE "<|assistant|>{0}I did{0}<|end|>{0}<|principle|>{0}Be honest. What is wrong? Mend it.{0}"
                        "<|critique|>{0}");
    chat_critique_prompt(&s, &f->chat, one, "I did", "Be honest.", "", "Mend it."); /* an empty part adds no space */
    assert_sequence(f, &s,
                    ONE "<|assistant|>{0}I did{0}<|end|>{0}<|principle|>{0}Be honest. Mend it.{0}<|critique|>{0}");
    chat_critique_answer(&s, &f->chat, "It lies.", "I did not", 1);
    assert_sequence(f, &s, "It lies.{1}<|verdict|>{1}<|violates|>{1}<|revision|>{1}I did not{1}<|end|>{1}");
    chat_critique_answer(&s, &f->chat, "Nothing.", NULL, 2);
    assert_sequence(f, &s, "Nothing.{2}<|verdict|>{2}<|ok|>{2}<|end|>{2}");
    sequence_release(&s);
}

static void test_judge_and_applies(void **state) {
    const Fixture *f = *state;
    Sequence s = {0};
    chat_judge_prompt(&s, &f->chat, one, "a reply", "b<|option|>", "Which?");
    assert_sequence(f, &s,
                    ONE
                    "<|option|>{0}a reply{0}<|end|>{0}<|option|>{0}b<|option|>{0}<|end|>{0}<|principle|>{0}Which?{0}"
                    "<|judge|>{0}");
    chat_applies_prompt(&s, &f->chat, one, "I did", "Be honest.");
    assert_sequence(f, &s, ONE "<|assistant|>{0}I did{0}<|end|>{0}<|principle|>{0}Be honest.{0}<|applies|>{0}");
    sequence_release(&s);
}

static void test_critique_parse(void **state) {
    const Fixture *f = *state;
    enum { X = SENT_COUNT }; /* an ordinary token, at positions below told apart by nothing */
    static const struct {
        int part[9], n;
        bool ok;
        CritiqueParse want;
    } table[] = {
        {{X, X, SENT_VERDICT, SENT_OK}, 4, true, {0, 2, false, 0, 0, false}},
        {{X, X, SENT_VERDICT, SENT_OK, SENT_END}, 5, true, {0, 2, false, 0, 0, false}},
        {{SENT_VERDICT, SENT_OK}, 2, true, {0, 0, false, 0, 0, false}},
        {{X, SENT_VERDICT, SENT_VIOLATES, SENT_REVISION, X, X, X, SENT_END}, 8, true, {0, 1, true, 4, 3, false}},
        {{X, SENT_VERDICT, SENT_VIOLATES, SENT_REVISION, X, X}, 6, true, {0, 1, true, 4, 2, true}},
        {{X, SENT_VERDICT, SENT_VIOLATES, SENT_REVISION, SENT_END}, 5, true, {0, 1, true, 4, 0, false}},
        {{X, SENT_VERDICT, SENT_VIOLATES, SENT_REVISION}, 4, true, {0, 1, true, 4, 0, true}},
        {{0}, 0, false, {0}},
        {{X, X}, 2, false, {0}},
        {{X, SENT_VERDICT}, 2, false, {0}},
        {{X, SENT_END}, 2, false, {0}},
        {{X, SENT_VERDICT, X}, 3, false, {0}},
        {{X, SENT_VERDICT, SENT_YES}, 3, false, {0}},
        {{X, SENT_VERDICT, SENT_OK, X}, 4, false, {0}},
        {{X, SENT_VERDICT, SENT_OK, SENT_END, X}, 5, false, {0}},
        {{X, SENT_VERDICT, SENT_VIOLATES}, 3, false, {0}},
        {{X, SENT_VERDICT, SENT_VIOLATES, X, SENT_END}, 5, false, {0}},
        {{X, SENT_USER, X, SENT_VERDICT, SENT_OK}, 5, false, {0}},
        {{X, SENT_VERDICT, SENT_VIOLATES, SENT_REVISION, X, SENT_USER}, 6, false, {0}},
        {{X, SENT_VERDICT, SENT_VIOLATES, SENT_REVISION, X, SENT_END, X}, 7, false, {0}},
    };
    for (int i = 0; i < COUNT_OF(table); i++) {
        int32_t id[9];
        CritiqueParse got;
        for (int k = 0; k < table[i].n; k++) id[k] = table[i].part[k] == X ? 300 + k : f->chat.id[table[i].part[k]];
        if (chat_critique_parse(&f->chat, id, table[i].n, &got) != table[i].ok) fail_msg("row %d", i);
        if (!table[i].ok) continue;
        const CritiqueParse *w = &table[i].want;
        if (got.critique != w->critique || got.n_critique != w->n_critique || got.violates != w->violates ||
            got.n_revision != w->n_revision || got.truncated != w->truncated ||
            (w->violates && got.revision != w->revision))
            fail_msg("row %d: critique %d+%d, revision %d+%d, violates %d, truncated %d", i, got.critique,
                     got.n_critique, got.revision, got.n_revision, got.violates, got.truncated);
    }
}

/* What the writer writes, the parser finds. */
static void test_parse_of_answer(void **state) {
    const Fixture *f = *state;
    Sequence s = {0};
    CritiqueParse p;
    Str text = {0};
    chat_critique_answer(&s, &f->chat, "It says <|ok|>.", "the gate <|end|>", 1);
    assert_true(chat_critique_parse(&f->chat, s.tok.id, s.tok.n, &p));
    assert_true(p.violates && !p.truncated);
    tokenizer_decode(f->tok, s.tok.id + p.critique, p.n_critique, false, &text);
    assert_string_equal(str_get(&text), "It says <|ok|>.");
    str_clear(&text);
    tokenizer_decode(f->tok, s.tok.id + p.revision, p.n_revision, false, &text);
    assert_string_equal(str_get(&text), "the gate <|end|>");
    sequence_clear(&s);
    chat_critique_answer(&s, &f->chat, "Fine", NULL, 1);
    assert_true(chat_critique_parse(&f->chat, s.tok.id, s.tok.n, &p));
    assert_false(p.violates);
    str_release(&text);
    sequence_release(&s);
}

static void test_init_names_missing(void **state) {
    const Fixture *f = *state;
    assert_string_equal(sentinel_spelling(SENT_ENDOFTEXT), "<|endoftext|>");
    assert_string_equal(sentinel_spelling(SENT_MASK), "<|mask|>");
    for (int i = 0; i < SENT_COUNT; i++) assert_int_equal(f->chat.id[i], i);
    Str file = {0};
    Error err = {0};
    Tokenizer *t;
    Chat c;
    assert_true(io_read_file(&file, TEST_DIR "/golden/text_llama3.json", 1 << 20, &err));
    for (int k = 0; k < 2;
         k++) { /* both the list and the vocabulary name it; same length, so it is replaced in place */
        memcpy(strstr(file.s, "<|judge|>"), "<|fudge|>", 9);
        memcpy(strstr(file.s, "<|mask|>"), "<|bask|>", 8);
    }
    if (!tokenizer_parse(&t, file.s, file.n, "x", &err)) fail_msg("%s", err.msg);
    assert_false(chat_init(&c, t, &err));
    assert_int_equal(err.code, ERR_FORMAT);
    if (!strstr(err.msg, "lacks the special tokens <|judge|> <|mask|>;")) fail_msg("%s", err.msg);
    tokenizer_close(t);
    str_release(&file);
}

/* A sequence filled again and again remembers pieces; ids and weights stay those of a new one, with another tokenizer
 * too. */
static void test_sequence_reused(void **state) {
    const Fixture *f = *state;
    Error err = {0};
    Tokenizer *other;
    Chat chat[2] = {f->chat};
    if (!tokenizer_open(&other, TEST_DIR "/golden/text_gpt2.json", &err)) fail_msg("%s", err.msg);
    chat[1] = f->chat;
    chat[1].tok = other;
    Sequence again = {0};
    Str text = {0};
    for (int i = 0; i < 400; i++) {
        Sequence fresh = {0};
        str_clear(&text);
        for (int k = 0; k < 20; k++) str_printf(&text, " the gate%d of %c garden", (i * k) % 37, 'a' + (i + k) % 26);
        sequence_clear(&again);
        const Chat *c = &chat[i / 150 % 2];
        sequence_text(&again, c, text.s, (float)(i % 3));
        sequence_text(&fresh, c, text.s, (float)(i % 3));
        assert_int_equal(again.tok.n, fresh.tok.n);
        assert_memory_equal(again.tok.id, fresh.tok.id, sizeof *fresh.tok.id * (size_t)fresh.tok.n);
        assert_memory_equal(again.weight, fresh.weight, sizeof *fresh.weight * (size_t)fresh.tok.n);
        assert_true((again.encoder != NULL) == (i >= 50) || (i > 20 && i < 50));
        assert_null(fresh.encoder);
        sequence_release(&fresh);
    }
    sequence_release(&again);
    str_release(&text);
    tokenizer_close(other);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dialogue),          cmocka_unit_test(test_critique),
        cmocka_unit_test(test_judge_and_applies), cmocka_unit_test(test_critique_parse),
        cmocka_unit_test(test_parse_of_answer),   cmocka_unit_test(test_init_names_missing),
        cmocka_unit_test(test_sequence_reused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
