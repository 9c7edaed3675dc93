// layer: text
/* Dialogues by a template: the native one gives the native ids and weights, whatever the texts; foreign ones their own;
 * masks from {% generation %} blocks or from growing prefixes; folders. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/io.h"
#include "base/rng.h"
#include "text/chat.h"

typedef struct {
    Tokenizer *tok;
    Chat native;
} Fixture;

static int setup(void **state) {
    Error err = {0};
    Fixture *f = calloc(1, sizeof *f);
    *state = f;
    if (tokenizer_open(&f->tok, TEST_DIR "/golden/text_llama3.json", &err) && chat_init(&f->native, f->tok, &err))
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

static void open_text(Chat *c, const Fixture *f, const char *source) {
    Error err = {0};
    if (!chat_open_template(c, f->tok, source, strlen(source), NULL, "here", CHAT_FIXED_DAY, &err))
        fail_msg("%s", err.msg);
}

static void assert_same(const Sequence *a, const Sequence *b) {
    Error err = {0};
    if (!sequence_ok(a, &err) || !sequence_ok(b, &err)) fail_msg("%s", err.msg);
    assert_int_equal(a->tok.n, b->tok.n);
    for (int i = 0; i < a->tok.n; i++)
        if (a->tok.id[i] != b->tok.id[i] || a->weight[i] != b->weight[i])
            fail_msg("at %d: id %d weight %g, natively %d %g", i, a->tok.id[i], (double)a->weight[i], b->tok.id[i],
                     (double)b->weight[i]);
}

/* Texts of everything that could tell the two ways apart: white space at the ends, sentinels spelled out and in halves,
 * what Jinja reads, the marks themselves, newlines, other scripts, nothing at all. */
static void random_text(Str *out, Rng r, uint64_t item) {
    static const char *const piece[] = {"the gate",
                                        " ",
                                        "\n",
                                        "\r\n",
                                        "<|end|>",
                                        "<|user|>",
                                        "<|",
                                        "|>",
                                        "<|assis",
                                        "tant|>",
                                        "{{ x }}",
                                        "{% if %}",
                                        "{#",
                                        "\xEF\xB7\x90",
                                        "\xEF\xB7\x91",
                                        "\xE7\x8C\xAB",
                                        "\xF0\x9F\x98\x80",
                                        "don't",
                                        "12345",
                                        "\t",
                                        "\"q\"",
                                        "\\",
                                        "'",
                                        "e\xCC\x81",
                                        "<|endoftext|>",
                                        "",
                                        "\xC2\xA0",
                                        "a"};
    int n = (int)(rng_u32(r, item, 0) % 8);
    str_clear(out);
    for (int i = 0; i < n; i++) str_put(out, piece[rng_u32(r, item, (uint32_t)i + 1) % COUNT_OF(piece)]);
}

static void test_native_equality(void **state) {
    const Fixture *f = *state;
    Chat c;
    Sequence a = {0}, b = {0};
    Str text[6] = {{0}};
    Rng r = {7, RNG_SAMPLE};
    open_text(&c, f, chat_native_template());
    for (uint64_t k = 0; k < 3000; k++) {
        Message msg[6];
        int n = (int)(rng_u32(r, k, 1000) % 7);
        for (int i = 0; i < n; i++) {
            random_text(&text[i], r, k * 8 + (uint64_t)i + 1);
            msg[i] = (Message){(Role)(rng_u32(r, k, 1001 + (uint32_t)i) % 3), str_get(&text[i])};
        }
        Dialogue d = {msg, n};
        float weight = k % 3 == 0 ? 0 : 0.5f;
        sequence_clear(&a), sequence_clear(&b);
        chat_dialogue(&a, &c, d, weight);
        chat_dialogue(&b, &f->native, d, weight);
        /* A mark in a text is dropped by the template's way: it stands for nothing. */
        bool marks = false;
        for (int i = 0; i < n; i++)
            marks = marks || strstr(msg[i].text, "\xEF\xB7\x90") || strstr(msg[i].text, "\xEF\xB7\x91");
        if (!marks) assert_same(&a, &b);
        sequence_clear(&a), sequence_clear(&b);
        chat_respond(&a, &c, d);
        chat_respond(&b, &f->native, d);
        chat_reply(&a, &c, "yes", 1, true);
        chat_reply(&b, &f->native, "yes", 1, true);
        if (!marks) assert_same(&a, &b);
        chat_judge_prompt(&a, &c, d, "a", "b", "Which?");
        chat_judge_prompt(&b, &f->native, d, "a", "b", "Which?");
        if (!marks) assert_same(&a, &b);
    }
    for (int i = 0; i < 6; i++) str_release(&text[i]);
    sequence_release(&a), sequence_release(&b);
    chat_close(&c);
}

static const Message turns[] = {{ROLE_SYSTEM, "be kind"},
                                {ROLE_USER, "hi <|end|>"},
                                {ROLE_ASSISTANT, "the gate"},
                                {ROLE_USER, "more?"},
                                {ROLE_ASSISTANT, "no"}};

/* Ids as text, specials by their spelling in brackets, weighed tokens between underscores. */
static void spell(Str *out, const Fixture *f, const Sequence *s) {
    str_clear(out);
    for (int i = 0; i < s->tok.n; i++) {
        bool special = tokenizer_is_special(f->tok, s->tok.id[i]), on = s->weight[i] != 0;
        if (on && (i == 0 || s->weight[i - 1] == 0)) str_putc(out, '_');
        if (special) str_putc(out, '[');
        tokenizer_decode(f->tok, &s->tok.id[i], 1, true, out);
        if (special) str_putc(out, ']');
        if (on && (i + 1 == s->tok.n || s->weight[i + 1] == 0)) str_putc(out, '_');
    }
}

static void assert_dialogue(const Fixture *f, const char *source, int n, const char *want) {
    Chat c;
    Sequence s = {0};
    Str text = {0};
    Error err = {0};
    open_text(&c, f, source);
    chat_dialogue(&s, &c, (Dialogue){turns, n}, 1);
    if (sequence_ok(&s, &err))
        spell(&text, f, &s);
    else
        str_put(&text, err.msg);
    if (!strstr(str_get(&text), want) || (sequence_ok(&s, &err) && strcmp(text.s, want)))
        fail_msg("%s\n  expected '%s'\n  found    '%s'", source, want, str_get(&text));
    str_release(&text);
    sequence_release(&s);
    chat_close(&c);
}

#define LOOP "{% for m in messages %}"
static void test_masks(void **state) {
    const Fixture *f = *state;
    assert_dialogue(f,
                    LOOP "{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration "
                         "%}{% else %}{{ m.content }}{% endif %}{{ '\\n' }}{% endfor %}",
                    4, "system: be kind\nuser: hi <|end|>\nassistant:_ the gate_\nuser: more?\n");
    /* nested blocks, spans that begin inside a token, special tokens of the template's own */
    assert_dialogue(f, "<|user|>{% generation %}a{% generation %}b{% endgeneration %}<|end|>{% endgeneration %}c", 1,
                    "[<|user|>]_ab[<|end|>]_c");
    /* no blocks: growing prefixes */
    assert_dialogue(
        f, LOOP "{{ m.role }}:{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}", 5,
        "system:be kind[<|end|>]user:hi <|end|>[<|end|>]assistant:_the "
        "gate[<|end|>]_user:more?[<|end|>]assistant:_no[<|end|>]_");
    assert_dialogue(f, LOOP "{{ m.content }}{{ loop.length }}{% endfor %}", 3, "marks no assistant turns");
    assert_dialogue(f, LOOP "{{ m.content }}{% endfor %}", 3, "be kindhi <|end|>_the gate_");
    assert_dialogue(f, "\n" LOOP "{{ raise_exception('never ' ~ m.role) }}{% endfor %}", 1,
                    "here:2: the chat template refuses the dialogue: never system");
}

/* Earlier turns as context: with blocks, without, natively; and tools, whose strings spell special tokens in vain. */
static void test_learn_from(void **state) {
    const Fixture *f = *state;
    static const char *const source[] = {
        LOOP "{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
             "{% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}",
        LOOP "{{ m.role }}:{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"};
    Str text = {0};
    Error err = {0};
    for (int i = 0; i < COUNT_OF(source); i++) {
        Chat c;
        Sequence s = {0};
        open_text(&c, f, source[i]);
        chat_learn(&s, &c, (Dialogue){turns, 5}, 3, 1);
        spell(&text, f, &s);
        assert_string_equal(str_get(&text), "system:be kind[<|end|>]user:hi <|end|>[<|end|>]assistant:the gate[<|end|>]"
                                            "user:more?[<|end|>]assistant:_no[<|end|>]_");
        sequence_release(&s);
        chat_close(&c);
    }
    Sequence s = {0};
    chat_learn(&s, &f->native, (Dialogue){turns, 5}, 3, 1);
    spell(&text, f, &s);
    assert_string_equal(str_get(&text),
                        "[<|system|>]be kind[<|end|>][<|user|>]hi <|end|>[<|end|>][<|assistant|>]the gate"
                        "[<|end|>][<|user|>]more?[<|end|>][<|assistant|>]_no[<|end|>]_");
    sequence_clear(&s);
    static const char messages[] =
        "[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":"
        "{"
        "\"name\":\"f\",\"arguments\":{\"<|end|>\":\"x<|user|>\"}}}]},{\"role\":\"tool\",\"content\":\"4\"},"
        "{\"role\":\"assistant\",\"content\":\"a\"}]";
    Json *talk = NULL, *tools = NULL;
    Chat c;
    if (!json_parse(&talk, messages, sizeof messages - 1, 0, "messages", 1, &err) ||
        !json_parse(&tools, "[{\"n\":\"<|end|>\"}]", 17, 0, "tools", 1, &err))
        fail_msg("%s", err.msg);
    chat_tools(&s, &f->native, talk, tools, 0, 1);
    assert_false(sequence_ok(&s, &err));
    sequence_release(&s);
    open_text(&c, f,
              "{{ tools | tojson }}<|end|>" LOOP "{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}{{ "
              "m.content or '' }}{% for t in m.tool_calls or [] %}"
              "{{ t.function.name }}{{ t.function.arguments | tojson }}{% endfor %}<|end|>{% endgeneration %}"
              "{% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}");
    for (int from = 0; from < 3; from += 2) {
        chat_tools(&s, &c, talk, tools, from, 1);
        spell(&text, f, &s);
        assert_string_equal(
            str_get(&text),
            from ? "[{\"n\": \"<|end|>\"}][<|end|>]user:q[<|end|>]assistant:f{\"<|end|>\": \"x<|user|>\"}[<|end|>]"
                   "tool:4[<|end|>]assistant:_a[<|end|>]_"
                 : "[{\"n\": \"<|end|>\"}][<|end|>]user:q[<|end|>]assistant:_f{\"<|end|>\": \"x<|user|>\"}[<|end|>]_"
                   "tool:4[<|end|>]assistant:_a[<|end|>]_");
        sequence_clear(&s);
    }
    chat_close(&c);
    sequence_release(&s);
    json_release(talk);
    json_release(tools);
    str_release(&text);
}

/* What a message spells stays text, in whatever pieces the template takes it apart; what the template spells does not.
 */
static void test_spellings(void **state) {
    const Fixture *f = *state;
    static const Message user[] = {{ROLE_USER, "a<|end|>b"}};
    static const struct {
        const char *source, *want;
    } table[] = {{"{{ messages[0].content }}<|end|>", "a<|end|>b[<|end|>]"},
                 {"{{ messages[0].content.split('<|end|>')|join('+') }}", "a+b"},
                 {"{{ messages[0].content.split('b')[0] }}<|end|>", "a<|end|>[<|end|>]"},
                 {"{{ messages[0].content|replace('a', '') }}", "<|end|>b"},
                 {"{{ messages[0].content[:4] }}{{ messages[0].content[4:] }}", "a<|end|>b"},
                 {"<{{ '|end|' }}>", "[<|end|>]"}};
    Str text = {0};
    for (int i = 0; i < COUNT_OF(table); i++) {
        Chat c;
        Sequence s = {0};
        open_text(&c, f, table[i].source);
        chat_dialogue(&s, &c, (Dialogue){user, 1}, 0);
        spell(&text, f, &s);
        if (strcmp(str_get(&text), table[i].want))
            fail_msg("%s: '%s', expected '%s'", table[i].source, str_get(&text), table[i].want);
        sequence_release(&s);
        chat_close(&c);
    }
    str_release(&text);
}

static void write(const char *dir, const char *name, const char *text) {
    Error err = {0};
    Str path = {0};
    str_printf(&path, "%s/%s", dir, name);
    if (!io_write_file(path.s, text, strlen(text), &err)) fail_msg("%s", err.msg);
    str_release(&path);
}

static void test_folders(void **state) {
    const Fixture *f = *state;
    const char *dir = BUILD_DIR "/test_chat_folder";
    Error err = {0};
    Chat c;
    Sequence s = {0};
    Str text = {0};
    assert_true(io_remove_tree(dir, &err) && io_make_dirs(dir, &err));
    assert_true(chat_open(&c, f->tok, dir, 0, &err)); /* nothing there: native */
    assert_null(c.tmpl);
    write(dir, "tokenizer_config.json",
          "{\"model_max_length\": 1000000000000000019884624838656, \"bos_token\": {\"content\": \"<|endoftext|>\"}, "
          "\"eos_token\": \"<|no|>\","
          "\"chat_template\": [{\"name\": \"tools\", \"template\": \"x\"}, {\"name\": \"default\", \"template\": \"{{ "
          "bos_token }}{{ messages[0].content }}\"}]}");
    assert_true(chat_open(&c, f->tok, dir, 0, &err));
    assert_non_null(c.tmpl);
    assert_int_equal(c.id[SENT_END], tokenizer_special(f->tok, "<|no|>"));
    chat_respond(&s, &c, (Dialogue){turns, 1});
    chat_reply(&s, &c, "yes", 1, true);
    assert_true(sequence_ok(&s, &err));
    spell(&text, f, &s);
    assert_string_equal(text.s, "[<|endoftext|>]be kind_yes[<|no|>]_");
    chat_close(&c);
    write(dir, "chat_template.jinja", "{{ '{' }}{{ strftime_now('%Y') }}"); /* it wins */
    assert_true(chat_open(&c, f->tok, dir, CHAT_FIXED_DAY, &err));
    sequence_clear(&s);
    chat_respond(&s, &c, (Dialogue){turns, 1});
    spell(&text, f, &s);
    assert_string_equal(text.s, "{2026");
    chat_close(&c);
    write(dir, "chat_template.jinja", "{% for %}");
    assert_false(chat_open(&c, f->tok, dir, 0, &err));
    assert_int_equal(err.code, ERR_FORMAT);
    if (!strstr(err.msg, "chat_template.jinja:1: the chat template cannot be read: ")) fail_msg("%s", err.msg);
    str_clear(&text);
    str_printf(&text, "%s\n", chat_native_template());
    write(dir, "chat_template.jinja", text.s);
    assert_true(chat_open(&c, f->tok, dir, 0, &err)); /* recognised */
    assert_null(c.tmpl);
    write(dir, "chat_template.jinja", "x");
    write(dir, "tokenizer_config.json", "{\"eos_token\": \"</s>\"}");
    assert_false(chat_open(&c, f->tok, dir, 0, &err));
    if (!strstr(err.msg, "which token ends a reply? 'eos_token' of tokenizer_config.json is </s>"))
        fail_msg("%s", err.msg);
    sequence_release(&s);
    str_release(&text);
}

/* Which tokens those are: special_tokens_map.json says it in folders without "added_tokens_decoder", and wins. */
static void test_token_map(void **state) {
    const Fixture *f = *state;
    const char *dir = BUILD_DIR "/test_chat_map";
    static const char named[] = "\"eos_token\": \"<|no|>\", \"extra_special_tokens\": {\"sound_token\": \"<|yes|>\"}",
                      map[] = "{\"eos_token\": {\"content\": \"<|end|>\", \"lstrip\": false}, "
                              "\"additional_special_tokens\": [\"<|ok|>\"], \"bos_token\": \"<|system|>\"}";
    static const struct {
        const char *config, *want;
        Sentinel end;
    } table[] = {
        {"{%s}", "[<|system|>][<|yes|>]be kind", SENT_END},
        {"{%s, \"bos_token\": \"<|user|>\", \"added_tokens_decoder\": {}}", "[<|user|>][<|yes|>]be kind", SENT_NO},
        {NULL, "[<|system|>]be kind", SENT_END}};
    Error err = {0};
    Str text = {0};
    assert_true(io_remove_tree(dir, &err) && io_make_dirs(dir, &err));
    write(dir, "chat_template.jinja", "{{ bos_token }}{{ sound_token }}{{ messages[0].content }}");
    write(dir, "special_tokens_map.json", map);
    for (int i = 0; i < COUNT_OF(table); i++) {
        Chat c;
        Sequence s = {0};
        Str path = {0};
        str_printf(&path, "%s/tokenizer_config.json", dir);
        assert_true(io_remove_tree(path.s, &err));
        str_clear(&text);
        if (table[i].config) {
            const char *at = strstr(table[i].config, "%s");
            str_putn(&text, table[i].config, (size_t)(at - table[i].config));
            str_printf(&text, "%s%s", named, at + 2);
            write(dir, "tokenizer_config.json", text.s);
        }
        if (!chat_open(&c, f->tok, dir, 0, &err)) fail_msg("%s", err.msg);
        assert_int_equal(c.id[SENT_END], tokenizer_special(f->tok, sentinel_spelling(table[i].end)));
        chat_respond(&s, &c, (Dialogue){turns, 1});
        spell(&text, f, &s);
        assert_string_equal(text.s, table[i].want);
        sequence_release(&s);
        chat_close(&c);
        str_release(&path);
    }
    str_release(&text);
}

static void test_stops(void **state) {
    const Fixture *f = *state;
    Chat c;
    Error err = {0};
    int32_t stop[4];
    assert_true(chat_init(&c, f->tok, &err));
    int end = c.id[SENT_END], eos[] = {7, end, 9};
    assert_int_equal(chat_stops(&c, eos, 0, stop), 1);
    assert_int_equal(stop[0], end);
    assert_int_equal(chat_stops(&c, eos, 3, stop), 3);
    assert_true(stop[0] == end && stop[1] == 7 && stop[2] == 9);
}

/* A failure stays until the sequence is released, and nothing is appended behind it. */
static void test_failures_stay(void **state) {
    const Fixture *f = *state;
    Chat c;
    Sequence s[2];
    Error err = {0};
    memset(s, 0, sizeof s);
    open_text(&c, f, "{% if messages|length > 1 %}{{ raise_exception('one turn only') }}{% endif %}ok");
    chat_respond(&s[1], &c, (Dialogue){turns, 1});
    assert_true(sequences_ok(s, 2, &err));
    int n = s[1].tok.n;
    chat_respond(&s[1], &c, (Dialogue){turns, 2});
    chat_reply(&s[1], &c, "yes", 1, true);
    assert_int_equal(s[1].tok.n, n);
    sequence_clear(&s[1]);
    chat_respond(&s[1], &c, (Dialogue){turns, 1});
    assert_int_equal(s[1].tok.n, 0);
    assert_false(sequences_ok(s, 2, &err));
    assert_string_equal(err.msg, "here:1: the chat template refuses the dialogue: one turn only");
    sequence_release(&s[1]);
    c.id[SENT_JUDGE] = -1; /* a vocabulary without it */
    chat_judge_prompt(&s[0], &c, (Dialogue){turns, 1}, "a", "b", "Which?");
    assert_false(sequence_ok(&s[0], &err));
    if (!strstr(err.msg, "no special token <|judge|>")) fail_msg("%s", err.msg);
    sequence_release(&s[0]);
    chat_close(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_native_equality), cmocka_unit_test(test_masks),      cmocka_unit_test(test_spellings),
        cmocka_unit_test(test_folders),         cmocka_unit_test(test_token_map),  cmocka_unit_test(test_stops),
        cmocka_unit_test(test_failures_stay),   cmocka_unit_test(test_learn_from),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
