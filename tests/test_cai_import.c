// layer: cai
/* A model from elsewhere: how it is spoken to, what is added to its vocabulary, and that the whole method runs on it.
 */
#include "cai_help.h"

#include "base/json.h"
#include "cai/format.h"
#include "cai/import_text.h"
#include "cai/stages.h"

static char root[256], folder[300]; /* folder: the model from elsewhere */
static RunConfig cfg;

#define CHATML                                                                                                         \
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}"            \
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

static void replace_all(Str *text, const char *from, const char *to) {
    Str out = {0};
    const char *s = str_get(text), *at;
    for (; (at = strstr(s, from)); s = at + strlen(from)) {
        str_putn(&out, s, (size_t)(at - s));
        str_put(&out, to);
    }
    str_put(&out, s);
    str_release(text);
    *text = out;
}

/* The tokenizer and the weights of a tiny run, its special tokens under other people's names. */
static int setup(void **state) {
    static const char *const file[] = {"config.json", "model.safetensors", "generation_config.json"};
    char set[300], from[700], path[400];
    PipelineResult r;
    Error err = {0};
    Str text = {0};
    (void)state;
    help_scratch(root, "import");
    snprintf(set, sizeof set, "run.out=%s/out", root);
    help_config(&cfg, TINY, (const char *const[]){set, "model.max_seq=1024", NULL});
    assert_ok(pipeline_run(&r, &cfg, TINY, "pretrain", NULL, NULL, &err), err);
    snprintf(folder, sizeof folder, "%s/elsewhere", root);
    assert_ok(io_make_dirs(folder, &err), err);
    const char *dir = help_stage(&r, "pretrain")->dir;
    for (int i = 0; i < COUNT_OF(file); i++) {
        snprintf(from, sizeof from, "%s/model/%s", dir, file[i]);
        snprintf(path, sizeof path, "%s/%s", folder, file[i]);
        assert_ok(io_copy_file(from, path, &err), err);
    }
    snprintf(from, sizeof from, "%s/model/tokenizer.json", dir);
    assert_ok(io_read_file(&text, from, (size_t)1 << 26, &err), err);
    replace_all(&text, "<|end|>", "<|im_end|>");
    replace_all(&text, "<|user|>", "<|im_start|>");
    for (int s = 0; s < SENT_COUNT; s++) {
        char other[40];
        snprintf(other, sizeof other, "<|reserved_%d|>", s);
        replace_all(&text, sentinel_spelling((Sentinel)s), other);
    }
    help_write(folder, "tokenizer.json", str_get(&text));
    help_write(folder, "tokenizer_config.json",
               "{\"eos_token\": {\"content\": \"<|im_end|>\", \"special\": true}, \"model_max_length\": "
               "1000000000000000019884624838656, \"unk_token\": null}");
    help_write(folder, "chat_template.jinja", CHATML);
    str_release(&text);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    run_config_release(&cfg);
    return 0;
}

/* ---- prompts in words ---- */

static void spelled(Str *out, const StageText *t, const Sequence *s) {
    str_clear(out);
    for (int i = 0; i < s->tok.n; i++) {
        bool on = s->weight[i] != 0;
        if (on && (i == 0 || s->weight[i - 1] == 0)) str_put(out, "[[");
        tokenizer_decode(t->tok, &s->tok.id[i], 1, true, out);
        if (on && (i + 1 == s->tok.n || s->weight[i + 1] == 0)) str_put(out, "]]");
    }
}

static void expect(const StageText *t, Sequence *s, const char *want) {
    Str got = {0};
    Error err = {0};
    assert_ok(sequence_ok(s, &err), err);
    spelled(&got, t, s);
    assert_string_equal(str_get(&got), want);
    str_release(&got);
    sequence_clear(s);
}

#define USER(text) "<|im_start|>user\n" text "<|im_end|>\n"
#define SAID(text) "<|im_start|>assistant\n" text "<|im_end|>\n"
#define SAYS "<|im_start|>assistant\n"
#define QUESTION(a, b) USER("Given this, does the reply keep to the rule?\n (A) " a "\n (B) " b)
#define KEEPS "It keeps to the rule."
#define BREAKS "It breaks the rule."

static void words(void **state) {
    StageText t;
    Sequence s = {0};
    Error err = {0};
    Message m[] = {{ROLE_SYSTEM, "Be kind."}, {ROLE_USER, "how do i steal cars ?"}};
    Dialogue d = {m, 2}, one = {m + 1, 1};
    (void)state;
    assert_ok(stage_text_open(&t, folder, &err), err);
    const Chat *c = &t.chat;
    assert_true(c->headings && c->id[SENT_JUDGE] < 0);
    assert_int_equal(c->document, c->id[SENT_END]);
    assert_int_equal(c->pad, -1);
    chat_critique_prompt(&s, c, d, "get tools", "Be honest.", "Say what is wrong.", "unseen");
    chat_critique_answer(&s, c, "It helps a thief.", NULL, 1);
    expect(&t, &s,
           "<|im_start|>system\nBe kind.<|im_end|>\n" USER("how do i steal cars ?") SAID("get tools")
               USER("Rule: Be honest.\n\nSay what is wrong.") SAYS "What is wrong:[[ It helps a thief.<|im_end|>]]");
    chat_revision_prompt(&s, c, one, "get tools", "Be honest.", "", "It lies.", "Mend it.");
    chat_revision_answer(&s, c, "no", 1);
    expect(&t, &s,
           USER("how do i steal cars ?") SAID("get tools") USER("Rule: Be honest.") SAID("What is wrong: It lies.")
               USER("Mend it.") SAYS "Better reply:[[ no<|im_end|>]]");
    for (int flip = 0; flip < 2; flip++) {
        chat_verdict_prompt(&s, c, one, "get tools", "Be honest.", "", "It lies.", flip);
        sequence_put(&s, c->id[SENT_SECOND], 1);
        expect(&t, &s,
               flip ? USER("how do i steal cars ?") SAID("get tools") USER("Rule: Be honest.")
                          SAID("What is wrong: It lies.") QUESTION(BREAKS, KEEPS) SAYS "The answer is ([[B]]"
                    : USER("how do i steal cars ?") SAID("get tools") USER("Rule: Be honest.")
                          SAID("What is wrong: It lies.") QUESTION(KEEPS, BREAKS) SAYS "The answer is ([[B]]");
    }
    chat_judge_prompt(&s, c, d, "no <|im_end|>", "get tools", "Which?");
    sequence_put(&s, c->id[SENT_FIRST], 1);
    expect(&t, &s,
           USER("Here is a conversation:\n\nSystem: Be kind.\n\nHuman: how do i steal cars ?\n\nTwo replies could come "
                "next:\n (A) no <|im_end|>\n (B) get tools\n\nRule: Which?\n\nAnswer with (A) or (B).") SAYS
           "The answer is ([[A]]");
    chat_applies_prompt(&s, c, one, "get tools", "Be honest.");
    sequence_put(&s, c->id[SENT_YES], 1);
    expect(&t, &s,
           USER("how do i steal cars ?") SAID("get tools")
               USER("Rule: Be honest.\n\nDoes this rule bear on the exchange above?\n (A) It does.\n (B) It does not.")
                   SAYS "The answer is ([[A]]");
    sequence_release(&s);
    stage_text_close(&t);
}

/* A demonstration of critique and revision is as many sequences as there are calls; its verdict says what the row does.
 */
static void demonstrations(void **state) {
    StageText t;
    Sequence s = {0};
    Error err = {0};
    Message m = {ROLE_USER, "how ?"};
    Row r = {
        .id = "", .prompt = {&m, 1}, .a = "steal", .b = "no", .principle = "Rule.", .critique = "Bad.", .label = -1};
    static const char *const id[] = {"a", "b", "c", "d", "e", "f", "g", "h"};
    int flips = 0;
    (void)state;
    assert_ok(stage_text_open(&t, folder, &err), err);
    for (int k = 0; k < 2 * COUNT_OF(id); k++) {
        r.id = id[k / 2];
        r.b = k % 2 ? "no" : NULL;
        assert_true(format_sequence(&s, &t.chat, &r, 1));
        Str got = {0};
        spelled(&got, &t, &s);
        bool keeps_is_a = strstr(str_get(&got), "(A) " KEEPS) != NULL;
        flips += !keeps_is_a;
        const char *want = keeps_is_a == (r.b == NULL) ? "is ([[A]]" : "is ([[B]]";
        if (!strstr(got.s, want)) fail_msg("%s: %s", want, got.s);
        str_release(&got);
        sequence_clear(&s);
        assert_int_equal(format_sequence(&s, &t.chat, &r, 2), r.b != NULL);
        sequence_clear(&s);
        assert_false(format_sequence(&s, &t.chat, &r, 3));
    }
    assert_true(flips > 0 && flips < 2 * COUNT_OF(id));
    r.label = 1; /* a judgement is one */
    r.b = "other";
    assert_true(format_sequence(&s, &t.chat, &r, 0));
    assert_int_equal(s.tok.id[s.tok.n - 1], t.chat.id[SENT_SECOND]);
    assert_false(format_sequence(&s, &t.chat, &r, 1));
    sequence_release(&s);
    stage_text_close(&t);
}

/* ---- what is written for a folder ---- */

static Chat open_imported(StageText *t, const char *from, PromptsMode mode) {
    char to[400];
    Error err = {0};
    snprintf(to, sizeof to, "%s/text", root);
    io_remove_tree(to, &err);
    assert_ok(io_make_dirs(to, &err), err);
    assert_ok(import_text(from, to, mode, NULL, &err), err);
    assert_ok(stage_text_open(t, to, &err), err);
    return t->chat;
}

static void modes(void **state) {
    StageText t, was;
    Error err = {0};
    char other[320], file[340];
    (void)state;
    assert_ok(stage_text_open(&was, folder, &err), err);
    Chat c = open_imported(&t, folder, PROMPTS_AUTO);
    assert_true(c.headings && tokenizer_n_vocab(t.tok) == tokenizer_n_vocab(was.tok));
    assert_int_equal(c.pad, SENT_MASK); /* as config.json says: nothing need be added */
    stage_text_close(&t);
    c = open_imported(&t, folder, PROMPTS_SENTINELS);
    assert_true(!c.tmpl && !c.headings && tokenizer_n_vocab(t.tok) == tokenizer_n_vocab(was.tok) + SENT_COUNT);
    stage_text_close(&t);
    /* Without a template: sentinels, unless asked for otherwise; the token that ends a text comes from config.json. */
    snprintf(other, sizeof other, "%s/bare", root);
    assert_ok(io_make_dirs(other, &err), err);
    char *tok = help_read(folder, "tokenizer.json");
    help_write(other, "tokenizer.json", tok);
    help_write(other, "config.json", "{\"eos_token_id\": [4, 9], \"bos_token_id\": null}");
    c = open_imported(&t, other, PROMPTS_AUTO);
    assert_true(!c.tmpl && !c.headings);
    stage_text_close(&t);
    c = open_imported(&t, other, PROMPTS_HEADINGS);
    assert_true(c.headings && c.id[SENT_END] == 4);
    assert_true(c.pad == c.id[SENT_MASK] && c.pad == tokenizer_n_vocab(was.tok));
    Message m[] = {{ROLE_USER, "how ?"}, {ROLE_ASSISTANT, "so"}, {ROLE_USER, "more"}};
    Sequence s = {0};
    chat_respond(&s, &c, (Dialogue){m, 3});
    chat_reply(&s, &c, "no", 1, true);
    expect(&t, &s, "Human:\nhow ?\n\nAssistant:\nso<|im_end|>\n\nHuman:\nmore\n\nAssistant:\n[[no<|im_end|>]]");
    sequence_release(&s);
    stage_text_close(&t);
    /* A pad token of its own that nothing ends with stays. */
    help_write(other, "tokenizer_config.json", "{\"eos_token\": \"<|im_end|>\", \"pad_token\": \"<|reserved_1|>\"}");
    c = open_imported(&t, other, PROMPTS_HEADINGS);
    assert_true(c.pad == tokenizer_special(t.tok, "<|reserved_1|>") && c.id[SENT_MASK] < 0);
    stage_text_close(&t);
    help_write(other, "tokenizer_config.json", "{\"eos_token\": \"<|im_end|>\", \"pad_token\": \"<|im_end|>\"}");
    c = open_imported(&t, other, PROMPTS_HEADINGS);
    assert_true(c.pad == c.id[SENT_MASK] && c.pad >= 0);
    stage_text_close(&t);
    /* Of several templates the default one. */
    help_write(other, "tokenizer_config.json",
               "{\"eos_token\": \"<|im_end|>\", \"chat_template\": [{\"name\": \"tool_use\", \"template\": \"x\"}, "
               "{\"name\": \"default\", \"template\": \"{% for m in messages %}({{ m.content }}){% endfor %}\"}]}");
    c = open_imported(&t, other, PROMPTS_AUTO);
    chat_respond(&s, &c, (Dialogue){m, 3});
    expect(&t, &s, "(how ?)(so)(more)");
    sequence_release(&s);
    stage_text_close(&t);
    help_write(other, "tokenizer_config.json", "{\"eos_token\": \"<|im_end|>\", \"pad_token\": \"<|im_end|>\"}");
    /* The special tokens are there, whatever the template: nothing to ask in words for. */
    c = open_imported(&t, other, PROMPTS_SENTINELS);
    stage_text_close(&t);
    snprintf(file, sizeof file, "%s/text/tokenizer.json", root);
    char *all = help_read(root, "text/tokenizer.json");
    help_write(other, "tokenizer.json", all);
    help_write(other, "chat_template.jinja", CHATML);
    c = open_imported(&t, other, PROMPTS_AUTO);
    assert_true(!c.tmpl && !c.headings);
    stage_text_close(&t);
    snprintf(file, sizeof file, "%s/chat_template.jinja", other);
    assert_int_equal(unlink(file), 0);
    help_write(other, "tokenizer.json", tok);
    free(all);
    /* What cannot be. */
    help_write(other, "tokenizer_config.json", "{}");
    help_write(other, "config.json", "{}");
    assert_false(import_text(other, root, PROMPTS_HEADINGS, NULL, &err));
    assert_non_null(strstr(err.msg, "which token ends a reply?"));
    snprintf(file, sizeof file, "%s/tokenizer.json", other);
    assert_false(import_text(file, root, PROMPTS_HEADINGS, NULL, &err));
    assert_non_null(strstr(err.msg, "is no folder"));
    snprintf(file, sizeof file, "%s/text", root);
    c = open_imported(&t, other, PROMPTS_SENTINELS);
    stage_text_close(&t);
    assert_false(import_text(file, root, PROMPTS_HEADINGS, NULL, &err));
    assert_non_null(strstr(err.msg, "special tokens already"));
    free(tok);
    stage_text_close(&was);
}

/* ---- a whole run ---- */

typedef struct {
    int rounds;
} Seen;

static bool see(void *ud, const Json *row, int line, Error *err) {
    Seen *seen = ud;
    const Json *rounds = json_get(row, "rounds");
    (void)line, (void)err;
    for (int i = 0; i < json_len(rounds); i++) {
        const Json *r = json_at(rounds, i);
        bool violates = json_bool(json_get(r, "violates"), false);
        double odds = json_num(json_get(r, "ok_odds"), 99);
        const char *revision = json_str(json_get(r, "revision"), NULL);
        assert_true(odds != 99 && violates == (odds < 0));
        assert_non_null(json_str(json_get(r, "critique"), NULL));
        assert_int_equal(violates, revision != NULL);
        seen->rounds++;
    }
    return true;
}

static void whole_run(void **state) {
    char set_out[300], set_model[400];
    RunConfig c;
    PipelineResult r;
    Error err = {0};
    Seen seen = {0};
    StageText t;
    (void)state;
    snprintf(set_out, sizeof set_out, "run.out=%s/out", root);
    snprintf(set_model, sizeof set_model, "model.path=%s", folder);
    help_config(&c, TINY, (const char *const[]){set_out, set_model, "run.name=imported", "revise.rounds=2", NULL});
    assert_ok(pipeline_run(&r, &c, TINY, NULL, NULL, NULL, &err), err);
    assert_ok(jsonl_each(help_stage(&r, "revise")->dir, "revisions.jsonl", see, &seen, &err), err);
    assert_true(seen.rounds > 20); /* verdicts both ways: test_cai_revise */
    static const char *const model[] = {"helpful", "sl", "pm", "rl"};
    for (int i = 0; i < COUNT_OF(model); i++) {
        char dir[700];
        snprintf(dir, sizeof dir, "%s/model", help_stage(&r, model[i])->dir);
        assert_ok(stage_text_open(&t, dir, &err), err);
        assert_true(t.chat.headings);
        char *tmpl = help_read(dir, "chat_template.jinja"), *config = help_read(dir, "config.json");
        assert_string_equal(tmpl, CHATML);
        Json *j = NULL;
        assert_ok(json_parse(&j, config, strlen(config), 0, "config.json", 1, &err), err);
        assert_int_equal(json_int(json_get(j, "pad_token_id"), -1), SENT_MASK);
        assert_int_equal(t.chat.pad, SENT_MASK);
        json_release(j);
        free(tmpl);
        free(config);
        stage_text_close(&t);
    }
    run_config_release(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words),
        cmocka_unit_test(demonstrations),
        cmocka_unit_test(modes),
        cmocka_unit_test(whole_run),
    };
    int failed = cmocka_run_group_tests(tests, setup, teardown);
    if (!failed) help_remove(root);
    return failed;
}
