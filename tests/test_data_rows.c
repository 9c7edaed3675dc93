// layer: data
/* Rows of every shape, every way in which they can be wrong, files of odd kinds, duplicates. */
#include "base/io.h"
#include "base/rng.h"
#include "data/rows.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* A row as one line of text: prompt turns "S:.. U:.. A:..", then the fields that are set. */
static void show(Str *out, const Row *r, RowKind kind) {
    for (int i = 0; i < r->prompt.n; i++)
        str_printf(out, "%c:%s|", "SUA"[r->prompt.msg[i].role], r -> prompt.msg[i].text);
    if (r->a) str_printf(out, " a=%s", r->a);
    if (r->b) str_printf(out, " b=%s", r->b);
    if (r->principle) str_printf(out, " p=%s", r->principle);
    if (r->critique) str_printf(out, " c=%s", r->critique);
    if (kind == ROW_LABELLED || kind == ROW_FORMAT || kind == ROW_CHOICE) str_printf(out, " label=%d", r->label);
    for (int i = 0; i < r->n_list; i++) str_printf(out, " [%s]", r->list[i]);
}

typedef struct {
    RowKind kind;
    const char *line, *want; /* what show() gives; "skip: reason"; "error: part of the message" */
} Case;

// clang-format off
static const Case cases[] = {
    {ROW_INSTRUCTION, "{'prompt':'Hi.','response':'Hello.'}", "U:Hi.| a=Hello."},
    {ROW_INSTRUCTION, "{'prompt':'The sky is','completion':' blue.'}", "U:The sky is| a= blue."},
    {ROW_INSTRUCTION, "{'prompt':[{'role':'user','content':'Hi.'}],'completion':[{'role':'assistant','content':'Hello.'}]}", "U:Hi.| a=Hello."},
    {ROW_INSTRUCTION, "{'messages':[{'role':'system','content':'Be brief.'},{'role':'user','content':'Hi.'},{'role':'assistant','content':'Hello.'}]}",
     "S:Be brief.|U:Hi.| a=Hello."},
    {ROW_INSTRUCTION, "{'system':'Be kind.','conversations':[{'from':'human','value':'Hi.'},{'from':'gpt','value':'Hello.'}]}", "S:Be kind.|U:Hi.| a=Hello."},
    {ROW_INSTRUCTION, "{'turns':['a','b','c','d']}", "U:a|A:b|U:c| a=d"},
    {ROW_INSTRUCTION, "{'turns':['a','b','c']}", "skip: last turn is not from the assistant"},
    {ROW_INSTRUCTION, "{'turns':['a',' ','c','d']}", "skip: empty reply"},
    {ROW_INSTRUCTION, "{'instruction':'Translate.','input':'Hund','output':'dog','system':'You translate.','history':[['Katze?','cat']]}",
     "S:You translate.|U:Katze?|A:cat|U:Translate.\nHund| a=dog"},
    {ROW_INSTRUCTION, "{'instruction':'Say hi.','input':'','output':'hi'}", "U:Say hi.| a=hi"},
    {ROW_INSTRUCTION, "{'instruction':'Say hi.','output':5}", "error: output must be a string"},
    {ROW_INSTRUCTION, "{'instruction':'Say hi.','input':5,'output':'x'}", "error: input must be a string"},
    {ROW_INSTRUCTION, "{'instruction':'x','output':'y','history':[['a']]}", "error: history must be a list"},
    {ROW_INSTRUCTION, "{'messages':[{'role':'user','content':[{'type':'text','text':'a'},{'type':'text','text':'b'}]},{'role':'assistant','content':'c'}]}", "U:ab| a=c"},
    {ROW_INSTRUCTION, "{'messages':[{'role':'user','content':[{'type':'image'}]},{'role':'assistant','content':'c'}]}", "error: only text parts"},
    {ROW_INSTRUCTION, "{'messages':[{'role':'critic','content':'x'}]}", "error: unknown role: critic"},
    {ROW_INSTRUCTION, "{'messages':[{'role':'user','content':'a'}]}", "skip: no assistant turn to learn from"},
    {ROW_INSTRUCTION, "{'messages':[{'role':'assistant','content':'a'}]}", "skip: dialogue starts with the assistant"},
    {ROW_INSTRUCTION, "{'messages':[{'role':'user'},{'role':'assistant','content':'c'}]}", "error: content missing"},
    {ROW_INSTRUCTION, "{'messages':[{'content':'c'}]}", "error: entry 1 has no role"},
    {ROW_INSTRUCTION, "{'messages':5}", "error: messages must be a string or a list"},
    {ROW_INSTRUCTION, "{'messages':[{'role':'user','content':'a'},{'role':'system','content':'s'}]}", "error: a system message must come first"},
    {ROW_INSTRUCTION, "{'question':'a','answer':'b'}", "error: unknown columns: question, answer; map them in the data section (data.columns); a row of kind instruction has: input_ids | "},
    {ROW_INSTRUCTION, "{'prompt':'a','response':' '}", "skip: empty reply"},
    {ROW_INSTRUCTION, "{'prompt':' ','response':'b'}", "skip: empty prompt"},
    {ROW_INSTRUCTION, "{'prompt':'Human: one\\n\\nAssistant: two\\nHuman: 2\\n\\nHuman: three','response':'four'}", "U:one|A:two\nHuman: 2|U:three| a=four"},
    {ROW_INSTRUCTION, "{'prompt':'Human: is what I am','response':'four'}", "U:Human: is what I am| a=four"},
    {ROW_INSTRUCTION, "{'prompt':5,'response':'b'}", "error: prompt must be a string or a list of messages"},
    {ROW_INSTRUCTION, "{'prompt':'a','response':'b','id':[1]}", "error: id must be"},
    {ROW_INSTRUCTION, "{'prompt':'a','response':'b','category':1}", "error: category must be a string"},
    {ROW_INSTRUCTION, "{'prompt':'a','response':'b','weight':-1}", "error: weight must"},
    {ROW_INSTRUCTION, "{'prompt':'a','response':'b','weight':'x'}", "error: weight must"},
    {ROW_INSTRUCTION, "['prompt']", "error: expected an object"},
    {ROW_INSTRUCTION, "{'prompt':'a\\u0000b','response':'b'}", "skip: NUL character in text"},
    {ROW_INSTRUCTION, "{'prompt':'\xff','response':'b'}", "error: f.jsonl:7"},
    {ROW_INSTRUCTION, "{'prompt':'a','prompt':'b','response':'b'}", "error: f.jsonl:7"},
    {ROW_INSTRUCTION, "{'prompt':'a','response':'b'", "error: f.jsonl:7"},
    {ROW_PREFERENCE, "{'prompt':'q','chosen':'x','rejected':'y'}", "U:q| a=x b=y"},
    {ROW_PREFERENCE, "{'prompt':[{'role':'user','content':'q'}],'chosen':[{'role':'assistant','content':'x'}],'rejected':[{'role':'assistant','content':'y'}]}", "U:q| a=x b=y"},
    {ROW_PREFERENCE, "{'chosen':[{'role':'user','content':'q'},{'role':'assistant','content':'x'}],'rejected':[{'role':'user','content':'q'},{'role':'assistant','content':'y'}]}", "U:q| a=x b=y"},
    {ROW_PREFERENCE, "{'prompt':'q','chosen':[{'role':'user','content':'q'},{'role':'assistant','content':'x'}],'rejected':[{'role':'user','content':'q'},{'role':'assistant','content':'y'}]}", "U:q| a=x b=y"},
    {ROW_PREFERENCE, "{'chosen':'\\n\\nHuman: May I lie?\\n\\nAssistant: No.\\n\\nHuman: Why?\\n\\nAssistant: It breaks trust.','rejected':'\\n\\nHuman: May I lie?\\n\\nAssistant: No.\\n\\nHuman: Why?\\n\\nAssistant: It is bad.'}",
     "U:May I lie?|A:No.|U:Why?| a=It breaks trust. b=It is bad."},
    {ROW_PREFERENCE, "{'chosen':'\\n\\nHuman: Say Human: twice\\n\\nAssistant: Human: Human:','rejected':'\\n\\nHuman: Say Human: twice\\n\\nAssistant: No.'}", "U:Say Human: twice| a=Human: Human: b=No."},
    {ROW_PREFERENCE, "{'chosen':'\\n\\nHuman: Hi\\n\\nHuman: Anyone?\\n\\nAssistant: Yes.','rejected':'\\n\\nHuman: Hi\\n\\nHuman: Anyone?\\n\\nAssistant: No.'}", "U:Hi\n\nAnyone?| a=Yes. b=No."},
    {ROW_PREFERENCE, "{'prompt':'Human: a\\n\\nAssistant: b\\n\\nHuman: c\\n\\nAssistant:','chosen':'x','rejected':'y'}", "U:a|A:b|U:c| a=x b=y"},
    {ROW_PREFERENCE, "{'prompt':'Human: a\\n\\nAssistant:','chosen':'Human: I think\\n\\nAssistant: so','rejected':'y'}", "U:a| a=Human: I think\n\nAssistant: so b=y"},
    {ROW_PREFERENCE, "{'chosen':'\\n\\nHuman: One\\n\\nAssistant: x','rejected':'\\n\\nHuman: Two\\n\\nAssistant: y'}", "skip: prompts differ"},
    {ROW_PREFERENCE, "{'chosen':'\\n\\nHuman: Hi','rejected':'\\n\\nHuman: Hi\\n\\nAssistant: y'}", "skip: last turn is not from the assistant"},
    {ROW_PREFERENCE, "{'chosen':'\\n\\nHuman: Hi\\n\\nAssistant:','rejected':'\\n\\nHuman: Hi\\n\\nAssistant: y'}", "skip: empty reply"},
    {ROW_PREFERENCE, "{'chosen':'\\n\\nHuman: a\\n\\nAssistant: b\\n\\nHuman: c\\n\\nAssistant: ','rejected':'\\n\\nHuman: a\\n\\nAssistant: b\\n\\nHuman: c\\n\\nAssistant: y'}", "skip: empty reply"},
    {ROW_PREFERENCE, "{'chosen':'x','rejected':'y'}", "error: is not a transcript"},
    {ROW_PREFERENCE, "{'prompt':'q','chosen':'x'}", "error: 'rejected' is missing"},
    {ROW_PREFERENCE, "{'prompt':'q','chosen':'x','rejected':'x'}", "skip: chosen and rejected are equal"},
    {ROW_PREFERENCE, "{'prompt':'q','chosen':'','rejected':'x'}", "skip: empty reply"},
    {ROW_PREFERENCE, "{'prompt':'q','chosen':3,'rejected':'x'}", "error: chosen must be a string or a list"},
    {ROW_PROMPT, "{'prompt':'q'}", "U:q|"},
    {ROW_PROMPT, "{'prompt':[{'role':'user','content':'q'}]}", "U:q|"},
    {ROW_PROMPT, "{'turns':['first','second']}", "U:first|"},
    {ROW_PROMPT, "{'turns':[]}", "error: turns has 0 entries"},
    {ROW_PROMPT, "{'turns':[5]}", "error: entry 1 is none"},
    {ROW_PROMPT, "{'text':'x'}", "error: unknown columns: text; map them in the data section (data.columns); a row of kind prompt has: template, slots | prompt | messages | turns"},
    {ROW_PROMPT, "{'prompt':'\\n\\nHuman: a\\n\\nAssistant: b'}", "skip: prompt ends with the assistant"},
    {ROW_PROMPT, "{'template':'a {x} b','slots':{'x':['1']}}", "U:a 1 b|"},
    {ROW_PROMPT, "{'template':'a {x} b','slots':{'y':['1']}}", "error: template names {x}, which slots lacks"},
    {ROW_PROMPT, "{'template':'a {x} b','slots':{'x':['1'],'y':['1']}}", "error: does not use (number 2)"},
    {ROW_PROMPT, "{'template':'a {x b','slots':{'x':['1']}}", "error: a brace without its partner"},
    {ROW_PROMPT, "{'template':'a x} b','slots':{'x':['1']}}", "error: a brace without its partner"},
    {ROW_PROMPT, "{'template':'a {x}','slots':{'x':[1]}}", "error: slot 'x' must be a list of strings"},
    {ROW_PROMPT, "{'template':'a {x}','slots':{'x':[]}}", "error: slot 'x' must be a list of strings"},
    {ROW_PROMPT, "{'template':'a {x}'}", "error: 'slots' is missing; the row has: template"},
    {ROW_PROMPT, "{'template':5,'slots':{}}", "error: template must be a string"},
    {ROW_LABELLED, "{'prompt':'q','response':'r','harmful':1}", "U:q| a=r label=1"},
    {ROW_LABELLED, "{'prompt':'q','response':'','harmful':false}", "U:q| a= label=0"},
    {ROW_LABELLED, "{'prompt':'q','response':'r','harmful':2}", "error: harmful must be 0 or 1"},
    {ROW_LABELLED, "{'prompt':'q','response':'r','harmful':-1}", "error: harmful must be 0 or 1"},
    {ROW_LABELLED, "{'prompt':'q','response':'r'}", "error: 'harmful' is missing; the row has: prompt, response"},
    {ROW_TEXT, "{'text':'Plain text.'}", " a=Plain text."},
    {ROW_TEXT, "{'text':5}", "error: text must be a string"},
    {ROW_TEXT, "{'text':'\\n '}", "skip: empty text"},
    {ROW_FORMAT, "{'kind':'critique','prompt':'q','response':'r','principle':'p','critique':'c','revision':'v'}", "U:q| a=r b=v p=p c=c label=-1"},
    {ROW_FORMAT, "{'kind':'critique','prompt':'q','response':'r','principle':'p','critique':'c'}", "U:q| a=r p=p c=c label=-1"},
    {ROW_FORMAT, "{'kind':'critique','prompt':'q','response':'r','principle':'p'}", "error: 'critique' is missing"},
    {ROW_FORMAT, "{'kind':'judge','prompt':'q','a':'x','b':'y','principle':'p','answer':'second'}", "U:q| a=x b=y p=p label=1"},
    {ROW_FORMAT, "{'kind':'judge','prompt':'q','a':'x','b':'y','principle':'p','answer':'third'}", "error: answer is 'third'"},
    {ROW_FORMAT, "{'prompt':'q','a':'x','b':'y','principle':'p','better':-1}", "U:q| a=x b=y p=p label=-1"},
    {ROW_FORMAT, "{'prompt':'q','a':'x','b':'y','principle':'p','better':0}", "U:q| a=x b=y p=p label=0"},
    {ROW_FORMAT, "{'prompt':'q','a':'x','b':'y','principle':'p','better':2}", "error: better must be -1, 0 or 1"},
    {ROW_FORMAT, "{'kind':'other','principle':'p'}", "error: kind is 'other'"},
    {ROW_FORMAT, "{'prompt':'q'}", "error: 'a' is missing; the row has: prompt"},
    {ROW_CHOICE, "{'task':'t','prompt':'q','choices':['x','y'],'gold':1}", "U:q| label=1 [x] [y]"},
    {ROW_CHOICE, "{'task':'t','prompt':'q','choices':['x'],'gold':0}", "error: choices has 1 entries"},
    {ROW_CHOICE, "{'task':'t','prompt':'q','choices':['x','y'],'gold':2}", "error: gold must be an index"},
    {ROW_CHOICE, "{'task':'t','prompt':'q','choices':'xy','gold':2}", "error: choices must be a list of strings"},
    {ROW_CHOICE, "{'task':'t','context_options':['x','y'],'continuation':'z','gold':0}", "skip: choice of contexts"},
    {ROW_PARAPHRASE, "{'prompts':['a','b','c']}", " [a] [b] [c]"},
    {ROW_PARAPHRASE, "{'prompts':['a']}", "error: prompts has 1 entries, expected at least 2"},
};
// clang-format on

static char *with_quotes(const char *s) { /* ' -> " : the table stays readable; \u0027 is not needed */
    char *out = strdup(s);
    for (char *p = out; *p; p++) {
        if (*p == '\'') *p = '"';
    }
    return out;
}

static void test_shapes(void **state) {
    (void)state;
    int n_bad = 0;
    for (int i = 0; i < COUNT_OF(cases); i++) {
        const Case *c = &cases[i];
        char *line = with_quotes(c->line);
        Rows r = {0};
        Error err = {ERR_NONE, ""};
        Str got = {0};
        if (!rows_parse_line(&r, line, strlen(line), c->kind, "f.jsonl", 7, &err)) {
            assert_int_equal(err.code, ERR_FORMAT);
            assert_int_equal(strncmp(err.msg, "f.jsonl:7:", 10), 0);
            str_printf(&got, "error: %s", err.msg);
        } else if (r.n_skip) {
            assert_int_equal(r.n, 0);
            assert_int_equal(r.skip[0].n, 1);
            str_printf(&got, "skip: %s", r.skip[0].reason);
        } else {
            show(&got, &r.row[0], c->kind);
        }
        bool same = strncmp(c->want, "error: ", 7) == 0 ? !strncmp(got.s, "error: ", 7) && strstr(got.s, c->want + 7)
                                                        : !strcmp(got.s, c->want);
        if (!same) print_error("case %d: %s\n  got  %s\n  want %s\n", i, line, got.s, c->want);
        n_bad += !same;
        str_release(&got);
        rows_release(&r);
        free(line);
    }
    assert_int_equal(n_bad, 0);
}

static void put(const char *path, const void *s, size_t n) {
    Error err = {ERR_NONE, ""};
    if (!io_write_file(path, s, n, &err)) fail_msg("%s", err.msg);
}

static void test_common_fields(void **state) {
    (void)state;
    static const char text[] =
        "\xef\xbb\xbf{\"prompt\":\"a\",\"id\":\"x\",\"category\":\"c\",\"source\":\"s\",\"weight\":0.5}\r\n"
        "\n"
        "{\"prompt\":\"b\",\"id\":17}\n"
        "{\"prompt\":\"c\",\"id\":null,\"category\":null}";
    Rows r = {0};
    Error err = {ERR_NONE, ""};
    put("t.rows.red.jsonl", text, sizeof text - 1);
    assert_true(rows_read(&r, "t.rows.red.jsonl", ROW_PROMPT, &err));
    assert_int_equal(r.n, 3);
    assert_string_equal(r.row[0].id, "x");
    assert_string_equal(r.row[0].category, "c");
    assert_string_equal(r.row[0].source, "s");
    assert_true(r.row[0].weight == 0.5);
    assert_string_equal(r.row[1].id, "17");
    assert_int_equal(r.row[1].line, 3);
    assert_string_equal(r.row[1].category, "");
    assert_true(r.row[1].weight == 1);
    assert_string_equal(r.row[2].id, "t.rows.red-4");
    assert_string_equal(dialogue_last_user(r.row[2].prompt), "c");
    rows_release(&r);
    unlink("t.rows.red.jsonl");
}

static void expect_read_error(const void *text, size_t n, RowKind kind, const char *part) {
    Rows r = {0};
    Error err = {ERR_NONE, ""};
    put("t.rows.bad", text, n);
    assert_false(rows_read(&r, "t.rows.bad", kind, &err));
    if (!strstr(err.msg, part)) fail_msg("got '%s', wanted '%s'", err.msg, part);
    assert_int_equal(r.n, 0);
    rows_release(&r);
    unlink("t.rows.bad");
}

static void test_bad_files(void **state) {
    (void)state;
    expect_read_error("", 0, ROW_PROMPT, "t.rows.bad: no rows");
    expect_read_error("\n\n", 2, ROW_PROMPT, "t.rows.bad: no rows");
    expect_read_error("", 0, ROW_TEXT, "t.rows.bad: no rows");
    expect_read_error("{\"prompt\":\"a\"}\n{\"prompt\":", 25, ROW_PROMPT, "t.rows.bad:2");
    expect_read_error("{\"prompt\":\"a\"}\n{\"prompt\":\"\0\"}", 29, ROW_PROMPT, "t.rows.bad:2");
    expect_read_error("plain \0 text", 12, ROW_TEXT, "t.rows.bad:1: a NUL byte");
    expect_read_error("plain\ntext \xc3(", 13, ROW_TEXT, "t.rows.bad:2: byte 6");
    expect_read_error("{\"prompt\":\"a\",\"response\":\"\"}\n", 29, ROW_INSTRUCTION,
                      "none of its 1 rows is usable (empty reply)");
    Rows r = {0};
    Error err = {ERR_NONE, ""};
    assert_false(rows_read(&r, "t.rows.absent", ROW_PROMPT, &err));
    assert_int_equal(err.code, ERR_IO);
    rows_release(&r);
}

static void test_plain_text(void **state) {
    (void)state;
    static const char marked[] =
        "One.\n\nStill one.\n<|endoftext|>\nTwo <|endoftext|> too.\n<|endoftext|>\n\n<|endoftext|>\nThree.";
    Rows r = {0};
    Error err = {ERR_NONE, ""};
    put("t.rows.txt", marked, sizeof marked - 1);
    assert_true(rows_read(&r, "t.rows.txt", ROW_TEXT, &err));
    assert_int_equal(r.n, 3);
    assert_string_equal(r.row[0].a, "One.\n\nStill one.");
    assert_string_equal(r.row[1].a, "Two <|endoftext|> too.");
    assert_string_equal(r.row[2].a, "Three.");
    assert_int_equal(r.row[1].line, 5);
    rows_release(&r);

    Str text = {0};
    for (int i = 0; i < 400; i++) str_printf(&text, "Paragraph %d is as long as this line is, more or less.\n\n", i);
    put("t.rows.txt", text.s, text.n);
    assert_true(rows_read(&r, "t.rows.txt", ROW_TEXT, &err));
    assert_true(r.n > 3);
    size_t total = 0;
    for (int i = 0; i < r.n; i++) {
        size_t n = strlen(r.row[i].a);
        assert_true(n <= ROWS_DOC_BYTES + 200);
        assert_int_equal(strncmp(r.row[i].a, "Paragraph ", 10), 0);
        total += n + 2; /* the blank line between documents */
    }
    assert_int_equal(total, text.n);
    assert_int_equal(r.n_bytes, text.n);
    str_release(&text);
    rows_release(&r);
    unlink("t.rows.txt");
}

static void add(Rows *r, RowKind kind, const char *line) {
    Error err = {ERR_NONE, ""};
    char *s = with_quotes(line);
    if (!rows_parse_line(r, s, strlen(s), kind, "f", r->n + 1, &err)) fail_msg("%s", err.msg);
    free(s);
}

static void test_template(void **state) {
    (void)state;
    static const char *const want[] = {"1 cut hay 1", "1 cut oats 1", "1 sow hay 1", "1 sow oats 1", "2 cut hay 2"};
    Rows r = {0};
    add(&r, ROW_PROMPT,
        "{'id':'t','category':'c','template':'{n} {v} {o} "
        "{n}','slots':{'n':['1','2'],'v':['cut','sow'],'o':['hay','oats']}}");
    assert_int_equal(r.n, 8);
    for (int i = 0; i < COUNT_OF(want); i++) assert_string_equal(dialogue_last_user(r.row[i].prompt), want[i]);
    assert_string_equal(r.row[0].id, "t-1");
    assert_string_equal(r.row[7].id, "t-8");
    assert_string_equal(r.row[7].category, "c");
    rows_release(&r);
}

static void test_dedup(void **state) {
    (void)state;
    Rows r = {0};
    const char *why[8];
    add(&r, ROW_PREFERENCE, "{'id':'x','prompt':'Q one','chosen':'a b','rejected':'c'}");
    add(&r, ROW_PREFERENCE, "{'id':'x','prompt':' q  ONE ','chosen':'A\\nb','rejected':'c'}"); /* the same folded */
    add(&r, ROW_PREFERENCE, "{'id':'x','prompt':'Q one','chosen':'a','rejected':'b c'}");      /* other fields */
    add(&r, ROW_PREFERENCE, "{'id':'x','prompt':'Q one','chosen':'c','rejected':'a b'}");
    assert_int_equal(rows_dedup(&r, 2, why), 1);
    assert_int_equal(r.n, 3);
    assert_null(why[0]);
    assert_string_equal(why[1], "DUP");
    assert_null(why[2]);
    assert_string_equal(r.row[0].id, "x");
    assert_string_equal(r.row[1].id, "x-2");
    assert_string_equal(r.row[2].id, "x-3");
    rows_release(&r);
}

/* Texts with a known share of common 5-grams; the exact index decides, so none on the wrong side may slip. */
static void test_near_duplicates(void **state) {
    (void)state;
    const uint64_t seed = 11;
    Rng rng = {seed, RNG_TEST};
    print_message("seed %llu\n", (unsigned long long)seed);
    for (int trial = 0; trial < 40; trial++) {
        Rows r = {0};
        Str s = {0};
        int n_word = 200, changed = trial; /* each changed word spoils 5 of 196 shingles in each text */
        for (int side = 0; side < 2; side++) {
            str_clear(&s);
            str_put(&s, "{'text':'");
            for (int i = 0; i < n_word; i++) {
                bool other = side && i < changed * 5 && i % 5 == 0;
                str_printf(&s, "%s%s%u", i ? " " : "", other ? "z" : "w",
                           rng_below(rng, (uint64_t)trial, (uint32_t)i, 1000000));
            }
            str_put(&s, "'}");
            add(&r, ROW_TEXT, s.s);
        }
        /* changed words at 0, 5, 10 ... spoil the shingles that start within 5(changed-1)+1 first positions */
        int spoilt = changed ? 5 * (changed - 1) + 1 : 0, total = n_word - 4, same = total - spoilt;
        double j = (double)same / (double)(2 * total - same);
        int dropped = rows_dedup(&r, 0.8, NULL);
        if (dropped != (j >= 0.8)) fail_msg("trial %d: index %.3f, dropped %d", trial, j, dropped);
        str_release(&s);
        rows_release(&r);
    }
}

/* Real files, where present: every one must read. */
static void test_real_files(void **state) {
    (void)state;
    static const struct {
        const char *name;
        RowKind kind;
        int least;
    } file[] = {{"sft.jsonl", ROW_INSTRUCTION, 1700},
                {"redteam_prompts.jsonl", ROW_PROMPT, 1500},
                {"harm_qa.jsonl", ROW_LABELLED, 1150},
                {"prefs_harmless.jsonl", ROW_PREFERENCE, 1090},
                {"prefs_helpful.jsonl", ROW_PREFERENCE, 870},
                {"helpful_prompts.jsonl", ROW_PROMPT, 51},
                {"mc_eval.jsonl", ROW_CHOICE, 594},
                {"consistency.jsonl", ROW_PARAPHRASE, 300},
                {"pretrain_childrens_books_cc0.txt", ROW_TEXT, 100}};
    static const char dir[] = TEST_DIR "/../../shared/data/quickstart";
    if (!io_is_dir(dir)) skip();
    for (int i = 0; i < COUNT_OF(file); i++) {
        char path[1024];
        Rows r = {0};
        Error err = {ERR_NONE, ""};
        snprintf(path, sizeof path, "%s/%s", dir, file[i].name);
        if (!rows_read(&r, path, file[i].kind, &err)) fail_msg("%s", err.msg);
        int n = r.n, gone = rows_dedup(&r, 0.8, NULL);
        print_message("%s: %d rows, %d skipped (%s), %d duplicates\n", file[i].name, n, r.n_skip,
                      r.skip[0].reason ? r.skip[0].reason : "-", gone);
        assert_true(n >= file[i].least);
        rows_release(&r);
    }
}

/* ---- threads */

enum { MANY = 9000 };

/* Returns the bytes of its rows. */
static int64_t write_many(const char *path, int bad1, int bad2) {
    Error err = {ERR_NONE, ""};
    Str s = {0};
    for (int i = 1; i <= MANY; i++) {
        if (i == bad1 || i == bad2)
            str_printf(&s, "{\"prompt\":%d}\n", i);
        else if (i % 41 == 0)
            str_put(&s, " \n");
        else if (i % 977 == 976)
            str_printf(&s, "{\"prompt\":\"q %d\",\"response\":\" \"}\n", i);
        else if (i % 977 == 500)
            str_printf(&s, "{\"turns\":[\"a\",\"b\",\"c\"],\"category\":\"%d\"}\n", i);
        else
            str_printf(&s, "{\"prompt\":\"q %d\",\"response\":\"%0*d\",\"weight\":%d}\n", i, 1 + i % 300, i, i % 7);
    }
    if (!io_write_file(path, s.s, s.n, &err)) fail_msg("%s", err.msg);
    int64_t n = (int64_t)s.n - MANY - MANY / 41; /* line feeds, and lines of one blank */
    str_release(&s);
    return n;
}

static void show_all(Str *out, const Rows *r) {
    str_clear(out);
    for (int i = 0; i < r->n; i++) {
        str_printf(out, "%s %d %g ", r->row[i].id, r->row[i].line, r->row[i].weight);
        show(out, &r->row[i], ROW_INSTRUCTION);
        str_putc(out, '\n');
    }
    str_printf(out, "%lld bytes", (long long)r->n_bytes);
    for (int i = 0; i < ROWS_SKIPS && r->skip[i].reason; i++)
        str_printf(out, ", %s %d", r->skip[i].reason, r->skip[i].n);
}

/* Rows, counts, the order of reasons and the first error do not depend on who parsed which line. */
static void test_threads(void **state) {
    (void)state;
    Error err = {ERR_NONE, ""};
    Rows alone = {0};
    Str want = {0}, got = {0};
    int64_t n_bytes = write_many("t_many.jsonl", 0, 0);
    write_many("t_bad.jsonl", 5003, 5020);
    if (!rows_read(&alone, "t_many.jsonl", ROW_INSTRUCTION, &err)) fail_msg("%s", err.msg);
    show_all(&want, &alone);
    assert_true(alone.n > MANY - 300 && alone.n_skip > 15);
    assert_int_equal(alone.n_bytes, n_bytes);
    assert_string_equal(alone.skip[0].reason, "last turn is not from the assistant");
    for (int n_thread = 1; n_thread <= 5; n_thread += 2) {
        Pool *pool;
        Rows rows = {0};
        if (!pool_open(&pool, n_thread, &err)) fail_msg("%s", err.msg);
        for (int again = 0; again < 3; again++) {
            if (!rows_read_pool(&rows, "t_many.jsonl", ROW_INSTRUCTION, NULL, pool, &err)) fail_msg("%s", err.msg);
            show_all(&got, &rows);
            assert_string_equal(got.s, want.s);
            rows_release(&rows);
        }
        if (!rows_read_pool(&rows, "t_many.jsonl", ROW_INSTRUCTION, NULL, pool, &err)) fail_msg("%s", err.msg);
        assert_false(rows_read_pool(&rows, "t_bad.jsonl", ROW_INSTRUCTION, NULL, pool, &err));
        if (!strstr(err.msg, "t_bad.jsonl:5003: ")) fail_msg("%s", err.msg);
        assert_int_equal(rows.n, alone.n);
        rows_release(&rows);
        pool_close(pool);
    }
    assert_false(rows_read(&alone, "t_bad.jsonl", ROW_INSTRUCTION, &err));
    if (!strstr(err.msg, "t_bad.jsonl:5003: ")) fail_msg("%s", err.msg);
    rows_release(&alone);
    str_release(&want);
    str_release(&got);
    unlink("t_many.jsonl");
    unlink("t_bad.jsonl");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),          cmocka_unit_test(test_common_fields), cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_plain_text),      cmocka_unit_test(test_template),      cmocka_unit_test(test_dedup),
        cmocka_unit_test(test_near_duplicates), cmocka_unit_test(test_real_files),    cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
