// layer: app
/* dikast data, as a process: what it says about files good and bad, what is learned and what is not, colours. */
#include "base/io.h"
#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define FOLDER TEST_DIR "/golden/parquet/"
#define TOKENIZER TEST_DIR "/golden/text_gpt2.json"

/* stdout of "dikast data WORDS", or with both: stderr too; the exit status. */
static int run(Str *out, const char *before, const char *words, bool both) {
    char line[1024], buf[4096];
    snprintf(line, sizeof line, "%s " BUILD_DIR "/dikast data %s %s", before, words, both ? "2>&1" : "2>/dev/null");
    FILE *p = popen(line, "r");
    assert_non_null(p);
    str_clear(out);
    for (size_t n; (n = fread(buf, 1, sizeof buf, p)) > 0;) str_putn(out, buf, n);
    int status = pclose(p);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void expect(const char *words, int code, const char *const *part, int n) {
    Str out = {0};
    int got = run(&out, "", words, true);
    if (got != code) fail_msg("%s: status %d, expected %d: %s", words, got, code, str_get(&out));
    for (int i = 0; i < n; i++)
        if (!strstr(str_get(&out), part[i])) fail_msg("%s: '%s' is not in: %s", words, part[i], str_get(&out));
    str_release(&out);
}

static void put_file(const char *path, const char *text) {
    Error err = {0};
    if (!io_write_file(path, text, strlen(text), &err)) fail_msg("%s", err.msg);
}

/* A folder with a template of its own: its dialogues, and the mask that follows from it. */
static void test_template(void **state) {
    (void)state;
    static const char *const part[] = {
        "\n    <|system|>Q:hi<|end|>A:[[yes<|end|>]]Q:more<|end|>A:[[no<|end|>]]\n",
    };
    Error err = {0};
    if (!io_make_dirs("t_command.model", &err) || !io_copy_file(TOKENIZER, "t_command.model/tokenizer.json", &err))
        fail_msg("%s", err.msg);
    put_file("t_command.model/tokenizer_config.json", "{\"eos_token\": \"<|end|>\", \"bos_token\": \"<|system|>\"}");
    put_file(
        "t_command.model/chat_template.jinja",
        "{{ bos_token }}{% for m in messages %}{{ 'A:' if m.role == 'assistant' else 'Q:' }}{{ m.content + eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}A:{% endif %}\n");
    put_file("t_command.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}, {\"role\": \"assistant\", "
                                "\"content\": \"yes\"}, {\"role\": \"user\", \"content\": \"more\"}, {\"role\": "
                                "\"assistant\", \"content\": \"no\"}]}\n");
    expect("inspect t_command.jsonl --tokenizer t_command.model", 0, part, COUNT_OF(part));
}

static void test_inspect(void **state) {
    (void)state;
    static const char *const part[] = {
        "messages_v2_zstd.parquet: parquet, zstd, 1 row group",
        "rows               12  ",
        "instruction: messages\n",
        "columns    messages, tags (not used)\n",
        "what is learned stands in [[ ]]",
        "\n    <|user|>",
        "<|end|><|assistant|>[[",
        "<|end|>]]\n",
    };
    static const char *const pref[] = {"preference: prompt, chosen, rejected (plain text)",
                                       "margin 0.",
                                       "  chosen, ",
                                       "  rejected, ",
                                       " tokens:\n",
                                       " yes<|end|>]]",
                                       " no<|end|>]]",
                                       "\ntokens "};
    expect("inspect " FOLDER "messages_v2_zstd.parquet", 0, part, COUNT_OF(part));
    expect("inspect " FOLDER "pref_delta.parquet --tokenizer " TOKENIZER " --rows 4", 0, pref, COUNT_OF(pref));
}

/* The ids and weights are those of the stage's own serializer. */
static void test_json(void **state) {
    (void)state;
    Str out = {0};
    Json *j;
    Error err = {0};
    put_file("t_command.jsonl", "{\"prompt\":\"a\",\"response\":\"b\"}\n"
                                "{\"prompt\":\"a\",\"response\":\" \"}\n"
                                "{\"question\":\"a\",\"chosen\":\"x\"}\n");
    assert_int_equal(run(&out, "", "inspect t_command.jsonl --json --tokenizer " TOKENIZER, false), 3);
    if (!json_parse(&j, out.s, out.n, 0, "inspect", 1, &err)) fail_msg("%s: %s", err.msg, out.s);
    assert_string_equal(json_str(json_get(j, "schema"), NULL), "dikast-data-inspect/1");
    assert_string_equal(json_str(json_get(j, "container"), NULL), "jsonl");
    assert_int_equal(json_int(json_get(j, "rows"), 0), 3);
    assert_int_equal(json_int(json_get(j, "usable"), 0), 1);
    assert_int_equal(json_int(json_get(j, "left_out"), 0), 1);
    assert_int_equal(json_int(json_get(j, "malformed"), 0), 1);
    assert_int_equal(json_int(json_get(j, "code"), 0), 3);
    const Json *why = json_at(json_get(j, "reasons_left_out"), 0), *bad = json_at(json_get(j, "reasons_malformed"), 0);
    assert_string_equal(json_str(json_get(why, "reason"), NULL), "empty reply");
    assert_non_null(strstr(json_str(json_get(bad, "reason"), NULL), "'rejected' is missing"));
    const Json *first = json_at(json_get(j, "first"), 0), *s = json_at(json_get(first, "sequences"), 0);
    static const int ids[] = {2, 83, 4, 3, 84, 4},
                     learned[] = {0, 0, 0, 0, 1, 1}; /* <|user|> a <|end|> <|assistant|> b <|end|> */
    assert_int_equal(json_len(json_get(s, "ids")), COUNT_OF(ids));
    for (int i = 0; i < COUNT_OF(ids); i++) {
        assert_int_equal(json_int(json_at(json_get(s, "ids"), i), -1), ids[i]);
        assert_int_equal(json_int(json_at(json_get(s, "learned"), i), -1), learned[i]);
    }
    const Json *tokens = json_get(json_get(j, "lengths"), "tokens");
    assert_int_equal(json_int(json_get(tokens, "median"), 0), COUNT_OF(ids));
    json_release(j);
    assert_int_equal(run(&out, "", "inspect absent.jsonl --json", false), 4);
    if (!json_parse(&j, out.s, out.n, 0, "inspect", 1, &err)) fail_msg("%s: %s", err.msg, out.s);
    assert_int_equal(json_int(json_get(j, "code"), 0), 4);
    json_release(j);
    unlink("t_command.jsonl");
    str_release(&out);
}

static void test_colours(void **state) {
    (void)state;
    Str out = {0};
    assert_int_equal(run(&out, "CLICOLOR_FORCE=1", "inspect " FOLDER "messages_snappy.parquet", false), 0);
    assert_non_null(strstr(out.s, "\033[32m"));
    assert_null(strstr(out.s, "[["));
    assert_int_equal(run(&out, "env -u CLICOLOR_FORCE NO_COLOR=1", "inspect " FOLDER "messages_snappy.parquet", false),
                     0);
    assert_null(strchr(out.s, '\033'));
    put_file("t_command.jsonl",
             "{\"prompt\":\"a\\u001b[2Jb\\u009bc\",\"response\":\"x\\ny\"}\n"); /* none that rows bring */
    assert_int_equal(run(&out, "", "inspect t_command.jsonl", false), 0);
    assert_null(strchr(out.s, '\033'));
    assert_null(strstr(out.s, "\xc2\x9b"));
    assert_non_null(strstr(out.s, "a?[2Jb?c"));
    unlink("t_command.jsonl");
    str_release(&out);
}

static void test_show(void **state) {
    (void)state;
    Str out = {0}, compact = {0};
    assert_int_equal(run(&out, "", "show " FOLDER "nulls.parquet", false), 0);
    assert_int_equal(run(&compact, "", "show " FOLDER "nulls.jsonl", false), 0);
    assert_string_equal(out.s, compact.s);
    put_file("t_command.csv", "question,answer\nq,\"a\nb\"\nr,s\n");
    assert_int_equal(run(&out, "", "show t_command.csv --columns prompt:question,completion:answer --rows 1", false),
                     0);
    assert_string_equal(out.s, "{\"prompt\":\"q\",\"completion\":\"a\\nb\"}\n");
    static const char *const mapped[] = {"columns    question as prompt, answer as completion\n",
                                         "instruction: prompt, completion (plain text)"};
    static const char *const plain[] = {
        "malformed           2  unknown columns: question, answer; map them in the data section",
        "2 of 2 rows are malformed; the first: t_command.csv:2: unknown columns"};
    expect("inspect t_command.csv --columns prompt:question,completion:answer", 0, mapped, COUNT_OF(mapped));
    expect("inspect t_command.csv", 3, plain, COUNT_OF(plain));
    unlink("t_command.csv");
    str_release(&out), str_release(&compact);
}

static void test_mistakes(void **state) {
    (void)state;
    static const struct {
        const char *words, *part;
        int code;
    } c[] = {
        {"look x", "'look' is neither inspect nor show", 2},
        {"inspect x --kind sft", "--kind: no rows are called 'sft'", 2},
        {"inspect x --columns promt:y", "did you mean 'prompt'?", 2},
        {"inspect x --rows -1", "--rows must lie in", 2},
        {"inspect " FOLDER "bad_codec.parquet", "unsupported codec BROTLI", 3},
        {"inspect " FOLDER "bad_endless_row.parquet", "the row holds more than", 3},
        {"show " FOLDER "bad_shapes.parquet", "its levels do not fit", 3},
        {"inspect " FOLDER "pref_delta.parquet --kind labelled", "'response' is missing", 3},
        {"inspect /dev/null", "no rows: the file is empty", 3},
    };
    for (int i = 0; i < COUNT_OF(c); i++) expect(c[i].words, c[i].code, &c[i].part, 1);
}

/* ---- and the stages that read such files */

#define SMALL                                                                                                          \
    " tokenizer.import=" TOKENIZER " model.n_layer=1 model.d_model=16 model.n_head=2 model.max_seq=32 "                \
    "revise.critique_tokens=4 revise.max_new=2 pairs.max_new=2 rl.max_new=2 eval.max_new=2 pretrain.steps=2 "          \
    "pretrain.micro_tokens=64 pretrain.batch_tokens=64 "

/* Runs a stage over the files of t_stage.d; its ledger, without white space, into *ledger. */
static int run_stage(Str *ledger, const char *stage, const char *keys, const char *complaint) {
    char line[4096], buf[4096];
    Error err = {0};
    snprintf(line, sizeof line,
             BUILD_DIR "/dikast stage %s t_stage.d/c.yaml data.dir=t_stage.d run.out=t_stage.d/out -q %s 2>&1; s=$?; "
                       "cat t_stage.d/out/store/%s-*/ledger.json 2>/dev/null | tr -d ' \n'; exit $s",
             stage, keys, stage);
    FILE *p = popen(line, "r");
    assert_non_null(p);
    str_clear(ledger);
    for (size_t n; (n = fread(buf, 1, sizeof buf, p)) > 0;) str_putn(ledger, buf, n);
    int status = pclose(p);
    if (complaint && !strstr(str_get(ledger), complaint)) fail_msg("'%s' is not in: %s", complaint, str_get(ledger));
    assert_true(io_remove_tree("t_stage.d/out", &err));
    return WEXITSTATUS(status);
}

/* A CSV whose column has another name, messages in Parquet, rows that were tokenised before; what is left out stands in
 * the ledger. */
static void test_stages(void **state) {
    (void)state;
    Str ledger = {0};
    Error err = {0};
    assert_true(io_make_dirs("t_stage.d", &err));
    put_file("t_stage.d/c.yaml", "data:\n  source: files\n");
    put_file("t_stage.d/p.csv",
             "body\n\"some words of text, some more words\"\n\" \n\"\nand words of other texts and more words\n");
    assert_int_equal(run_stage(&ledger, "tokenizer",
                               "data.pretrain=p.csv data.sft=" FOLDER
                               "messages_snappy.parquet data.columns=text:body tokenizer.vocab=300",
                               "{\"bin\":\"dropped\",\"reason\":\"emptytext\",\"samples\":1,\"tokens\":0}"),
                     0);
    if (!strstr(ledger.s, "\"reason\":\"lastturnisnotfromtheassistant\"")) fail_msg("%s", ledger.s);
    assert_int_equal(run_stage(&ledger, "tokenizer", "data.pretrain=p.csv data.sft=p.csv tokenizer.vocab=300",
                               "p.csv:2: unknown columns: body; map them"),
                     3);
    assert_int_equal(run_stage(&ledger, "tokenizer", "data.columns=txt:body",
                               "data.columns: 'txt:body': no column is called 'txt' (did you mean 'text'?)"),
                     2);
    put_file("t_stage.d/t.jsonl", "{\"input_ids\":[20,21,22,23,24],\"labels\":[-100,21,-100,23,24]}\n"
                                  "{\"input_ids\":[30,31,32,33,34,35,36,37,38,39,40,41,42,43,44,45,46,47,48,49,50,51,"
                                  "52,53,54,55,56,57,58,59,60,61,62]}\n"
                                  "{\"input_ids\":[5]}\n");
    assert_int_equal(run_stage(&ledger, "pretrain", "data.pretrain=t.jsonl" SMALL,
                               "{\"in\":{\"samples\":3,\"tokens\":38},\"bins\":[{\"bin\":\"trained\",\"samples\":2,"
                               "\"tokens\":35},{\"bin\":\"masked\",\"samples\":0,\"tokens\":3},"
                               "{\"bin\":\"dropped\",\"reason\":\"notokentolearn\",\"samples\":1,\"tokens\":0}]}"),
                     0);
    put_file("t_stage.d/t.jsonl", "{\"input_ids\":[20,999]}\n");
    assert_int_equal(run_stage(&ledger, "pretrain", "data.pretrain=t.jsonl" SMALL,
                               "row t-1: token id 999, the tokenizer has 0..419"),
                     3);
    /* Replies of one letter: of two turns both are learned, with their ends, or the last; native dialogues have no
     * tools. */
    put_file("t_stage.d/p.jsonl", "{\"text\":\"some words\"}\n");
    put_file(
        "t_stage.d/s.jsonl",
        "{\"id\":\"a\",\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"a\"},"
        "{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"b\"}]}\n"
        "{\"id\":\"b\",\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"a\"}],"
        "\"tools\":[{}]}\n");
    static const char *const turns[2][2] = {
        {"",
         "\"bins\":[{\"bin\":\"trained\",\"samples\":1,\"tokens\":4},{\"bin\":\"masked\",\"samples\":0,\"tokens\":8}"},
        {"data.sft_turns=last", "\"bins\":[{\"bin\":\"trained\",\"samples\":1,\"tokens\":2},{\"bin\":\"masked\","
                                "\"samples\":0,\"tokens\":10}"}};
    for (int i = 0; i < 2; i++) {
        char keys[1000];
        snprintf(keys, sizeof keys,
                 "data.pretrain=p.jsonl data.sft=s.jsonl data.max_lost=1 helpful.steps=1 " SMALL "%s", turns[i][0]);
        assert_int_equal(run_stage(&ledger, "helpful", keys, turns[i][1]), 0);
        if (!strstr(
                ledger.s,
                "\"bin\":\"dropped\",\"reason\":\"tools,whichonlyachattemplateofthemodel'sownwrites\",\"samples\":1"))
            fail_msg("%s", ledger.s);
    }
    assert_true(io_remove_tree("t_stage.d", &err));
    str_release(&ledger);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_inspect), cmocka_unit_test(test_template),
                                       cmocka_unit_test(test_json),    cmocka_unit_test(test_colours),
                                       cmocka_unit_test(test_show),    cmocka_unit_test(test_mistakes),
                                       cmocka_unit_test(test_stages)};
    return cmocka_run_group_tests_name("data command", tests, NULL, NULL);
}
