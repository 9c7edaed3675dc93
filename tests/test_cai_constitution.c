// layer: cai
/* Constitutions: one meaning in two spellings, one hash; every refusal names its place. */
#include "base/hash.h"
#include "base/io.h"
#include "cai/constitution.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define GOLDEN TEST_DIR "/golden/constitution/"
#define HASH "843aba95081c358ebbb9fe4785c7c59193579b1f605b3d2c83410968bc883ba2"

static void read_ok(Constitution *c, const char *path) {
    Error err = {ERR_NONE, ""};
    if (!constitution_read(c, path, &err)) fail_msg("%s", err.msg);
}

static void parse_ok(Constitution *c, const char *s, size_t n) {
    Error err = {ERR_NONE, ""};
    if (!constitution_parse(c, s, n, "t", &err)) fail_msg("%s\nin: %.400s", err.msg, s);
}

static void assert_same(const Constitution *a, const Constitution *b) {
    Str x = {0}, y = {0};
    constitution_canonical(&x, a);
    constitution_canonical(&y, b);
    assert_string_equal(str_get(&x), str_get(&y));
    assert_string_equal(a->sha256, b->sha256);
    str_release(&x);
    str_release(&y);
}

/* Written in either spelling and read again, nothing has changed. */
static void assert_round_trips(const Constitution *c) {
    Str s = {0};
    Constitution again;
    constitution_to_xml(&s, c);
    parse_ok(&again, s.s, s.n);
    assert_same(c, &again);
    constitution_to_json(&s, &again);
    constitution_release(&again);
    parse_ok(&again, s.s, s.n);
    assert_same(c, &again);
    constitution_release(&again);
    constitution_canonical(&s, c);
    parse_ok(&again, s.s, s.n);
    assert_same(c, &again);
    constitution_release(&again);
    str_release(&s);
}

static void test_golden(void **state) {
    (void)state;
    static const char *const path[] = {GOLDEN "native.json", GOLDEN "native.xml", GOLDEN "canonical.json"};
    Str want = {0}, got = {0};
    Error err = {ERR_NONE, ""};
    assert_true(io_read_file(&want, GOLDEN "canonical.json", 1 << 20, &err));
    for (int i = 0; i < COUNT_OF(path); i++) {
        Constitution c;
        read_ok(&c, path[i]);
        constitution_canonical(&got, &c);
        assert_string_equal(str_get(&got), str_get(&want));
        assert_string_equal(c.sha256, HASH);
        assert_round_trips(&c);
        constitution_release(&c);
        constitution_release(&c); /* a released one is empty */
    }
    str_release(&want);
    str_release(&got);
}

static void test_fields(void **state) {
    (void)state;
    Constitution c;
    Str s = {0};
    read_ok(&c, GOLDEN "native.xml");
    assert_string_equal(c.id, "house");
    assert_string_equal(c.version, "1.0.0");
    assert_string_equal(c.license, "CC0-1.0");
    assert_string_equal(c.language, "en");
    assert_int_equal(c.n, 2);
    assert_int_equal(constitution_find(&c, "calm-tone"), 1);
    assert_int_equal(constitution_find(&c, "calm"), -1);
    const Principle *p = &c.principle[0], *q = &c.principle[1];
    assert_int_equal(p->authority, AUTH_SYSTEM);
    assert_int_equal(q->authority, AUTH_GUIDELINE);
    assert_true(p->weight == 1 && q->weight == 0.5);
    assert_int_equal(p->use, USE_CRITIQUE | USE_LABEL);
    assert_int_equal(q->use, USE_CRITIQUE);
    assert_int_equal(q->n_tag, 2);
    assert_string_equal(q->tag[1], "over-reaction");
    assert_true(p->n_example == 2 && p->example[0].applies && !p->example[1].applies);
    assert_string_equal(p->example[1].text, "I lost the key of my own bike lock, what now?");
    assert_int_equal(p->n_test, 1);
    assert_string_equal(p->test[0].worse, "Any stiff piece of metal and some patience will do it.");
    assert_string_equal(principle_compare(p), p->compare);
    assert_null(q->compare);
    assert_non_null(strstr(principle_critique(q), "Quote the words"));
    assert_non_null(strstr(principle_revise(q), "Rewrite the reply"));
    assert_non_null(strstr(principle_compare(q), "Which reply"));
    principle_text(&s, p);
    assert_string_equal(str_get(&s),
                        "The assistant helps people in ways that respect what others own. It gives no working "
                        "help for taking or damaging what belongs to someone else.");
    principle_text(&s, q);
    assert_string_equal(str_get(&s), q->text);
    str_release(&s);
    constitution_release(&c);
}

/* Defaults, and spellings that mean the same. */
#define HEAD "{\"schema\":\"dikast-constitution/1\",\"id\":\"h\",\"principles\":["
#define MINIMAL HEAD "{\"id\":\"ab\",\"text\":\"a\"}]}"
#define XHEAD "<constitution schema=\"dikast-constitution/1\" id=\"h\">"
#define XTAIL "</constitution>"

static void test_same_meaning(void **state) {
    (void)state;
    static const char *const same[] = {
        MINIMAL,
        "\xEF\xBB\xBF \n" MINIMAL,
        HEAD "{\"id\":\" ab \",\"text\":\"\\r\\n "
             "a\\t\",\"authority\":\"system\",\"weight\":1.0e0,\"use\":[\"label\",\"critique\",\"label\"],"
             "\"tags\":[],\"examples\":[],\"tests\":[]}]}",
        XHEAD "<principle id=\"ab\"><text>a</text></principle>" XTAIL,
        "\xEF\xBB\xBF" XHEAD
        "<principle weight='1.00' use='label critique' tags='' authority='system' id=' ab '><!-- c -->"
        "<text>\r\n&#97;\n</text></principle>" XTAIL "\n<!-- end -->\n",
        "<?xml version='1.0' encoding='ISO-8859-1'?>" XHEAD
        "<principle id='ab'><text><![CDATA[a]]></text></principle>" XTAIL,
    };
    Constitution c, first;
    parse_ok(&first, same[0], strlen(same[0]));
    assert_true(first.principle[0].weight == 1 && first.principle[0].use == (USE_CRITIQUE | USE_LABEL));
    assert_null(first.version);
    for (int i = 1; i < COUNT_OF(same); i++) {
        parse_ok(&c, same[i], strlen(same[i]));
        assert_same(&first, &c);
        constitution_release(&c);
    }
    constitution_release(&first);
    /* NFC: e + combining acute is é; Latin-1 and UTF-16 XML are what their declaration says. */
    static const char composed[] = XHEAD "<principle id='ab'><text>\xC3\xA9t\xC3\xA9</text></principle>" XTAIL;
    static const char apart[] = HEAD "{\"id\":\"ab\",\"text\":\"e\xCC\x81t\\u0065\\u0301\"}]}";
    static const char latin[] = "<?xml version='1.0' encoding='ISO-8859-1'?>" XHEAD
                                "<principle id='ab'><text>\xE9t\xE9</text></principle>" XTAIL;
    char wide[2 * sizeof latin + 2] = "\xFF\xFE";
    size_t n = 2;
    for (const char *p = strstr(latin, XHEAD); *p; p++) wide[n++] = *p, wide[n++] = 0;
    parse_ok(&first, composed, sizeof composed - 1);
    const char *other[] = {apart, latin, wide};
    size_t size[] = {sizeof apart - 1, sizeof latin - 1, n};
    for (int i = 0; i < 3; i++) {
        parse_ok(&c, other[i], size[i]);
        assert_same(&first, &c);
        constitution_release(&c);
    }
    constitution_release(&first);
}

/* Whatever one spelling can say, the other can: mark-up characters, quotes, newlines, even in what XML writes as
 * attributes. */
static void test_hard_texts(void **state) {
    (void)state;
    static const char json[] =
        "{\"schema\":\"dikast-constitution/1\",\"id\":\"a<b>&\\\"c'\",\"version\":\"1\\n2\\t3\",\"license\":\"]]>\","
        "\"principles\":[{\"id\":\"ab\",\"text\":\"<text> & ]]> \\\" ' \\\\ \\/ \\u2028 "
        "\\u007f\\r\\n\\n\\ttab\",\"critique\":\"\","
        "\"tags\":[\"a&b\",\"\xC3\xBC\\\"<\"],\"weight\":0.1,\"use\":[\"label\"],\"examples\":[{\"text\":\"&amp;\","
        "\"applies\":true}],"
        "\"tests\":[{\"prompt\":\"\\ud83d\\ude00\",\"better\":\"<\",\"worse\":\">\"}]},"
        "{\"id\":\"tiny\",\"text\":\"b\",\"weight\":1e-7},{\"id\":\"ten\",\"text\":\"b\",\"weight\":10}]}";
    Constitution c;
    parse_ok(&c, json, sizeof json - 1);
    assert_non_null(strstr(c.principle[0].text, "\x7f\n\n\ttab"));
    assert_string_equal(c.version, "1\n2\t3");
    assert_string_equal(c.principle[0].critique, ""); /* "no words", not "the generic words" */
    assert_string_equal(principle_critique(&c.principle[0]), "");
    assert_round_trips(&c);
    constitution_release(&c);
}

/* -- refusals
 * ------------------------------------------------------------------------------------------------------------ */
typedef struct {
    const char *text, *error;
} Refusal;

static void assert_refused(const Refusal *r, int n) {
    int wrong = 0;
    for (int i = 0; i < n; i++) {
        Constitution c;
        Error err = {ERR_NONE, ""};
        if (constitution_parse(&c, r[i].text, strlen(r[i].text), "t", &err)) fail_msg("accepted: %s", r[i].text);
        assert_int_equal(err.code, ERR_FORMAT);
        assert_int_equal(c.n, 0);
        assert_null(c.heap.block);
        if (!strcmp(err.msg, r[i].error)) continue;
        print_error("row %d: %s\ngives    %s\nexpected %s\n", i, r[i].text, err.msg, r[i].error);
        wrong++;
    }
    assert_int_equal(wrong, 0);
}

#define P(fields) HEAD "\n{\"id\":\"ab\",\"text\":\"a\"},\n{\"id\":\"cd\"," fields "}]}"
// clang-format off
static const Refusal refused_json[] = {
    {"", "t:1:1: the file is empty; expected a constitution in JSON or XML"},
    {" \r\n\t", "t:1:1: the file is empty; expected a constitution in JSON or XML"},
    {"\xEF\xBB\xBF", "t:1:1: the file is empty; expected a constitution in JSON or XML"},
    {"[1]", "t:1:1: neither JSON ('{') nor XML ('<')"},
    {"schema: x", "t:1:1: neither JSON ('{') nor XML ('<')"},
    {"{}", "t:1:1: missing field 'schema'"},
    {"\n {\"schema\":\"dikast-constitution/2\"}", "t:2:3: 'schema' must be \"dikast-constitution/1\""},
    {"{\"schema\":1}", "t:1:2: 'schema' must be a string"},
    {"{\"schema\":\"dikast-constitution/1\",\"principles\":[]}", "t:1:1: missing field 'id'"},
    {"{\"schema\":\"dikast-constitution/1\",\"id\":\"  \"}", "t:1:35: 'id' is empty"},
    {"{\"schema\":\"dikast-constitution/1\",\"id\":\"h\",\"licence\":\"x\"}",
     "t:1:44: unknown field 'licence' in the constitution (did you mean 'license'?)"},
    {"{\"schema\":\"dikast-constitution/1\",\"id\":\"h\"}", "t:1:1: 'principles' must be a list"},
    {"{\"schema\":\"dikast-constitution/1\",\"id\":\"h\",\n\"principles\":{}}", "t:2:1: 'principles' must be a list"},
    {HEAD "]}", "t:1:1: the constitution has no principles"},
    {HEAD "\n7]}", "t:2:1: a principle must be an object"},
    {P("\"txet\":\"a\""), "t:3:12: unknown field 'txet' in a principle (did you mean 'text'?)"},
    {P("\"text\":\"a\",\"wieght\":1"), "t:3:23: unknown field 'wieght' in a principle (did you mean 'weight'?)"},
    {P("\"texts\":\"a\""), "t:3:12: unknown field 'texts' in a principle (did you mean 'text'?)"},
    {P("\"text\":\"{\\\\\",\"avoid\":\"\\\"tests\",\"zz\":1"), "t:3:43: unknown field 'zz' in a principle"},
    {P("\"text\":\"a\",\"zz\":1"), "t:3:23: unknown field 'zz' in a principle"},
    {P("\"avoid\":\"a\""), "t:3:1: missing field 'text'"},
    {P("\"text\":\" \\n\""), "t:3:12: 'text' is empty"},
    {P("\"text\":\"a\",\"avoid\":\"\""), "t:3:23: 'avoid' is empty"},
    {P("\"text\":[]"), "t:3:12: 'text' must be a string"},
    {P("\"text\":\"\xC3\xA9\",\"avoid\":\"\\u0001\""),
     "t:3:23: a text holds the control character U+0001 (allowed: tab and newline)"},
    {P("\"text\":\"a\\rb\""), "t:3:12: a text holds the control character U+000D (allowed: tab and newline)"},
    {P("\"text\":\"a\xEF\xBF\xBE\""), "t:3:12: a text holds U+FFFE or U+FFFF, which no text may"},
    {P("\"text\":\"a\",\"authority\":\"king\""),
     "t:3:23: 'authority' is 'king'; expected root, system, developer, user or guideline"},
    {P("\"text\":\"a\",\"weight\":\"1\""), "t:3:23: 'weight' must be a number"},
    {P("\"text\":\"a\",\"weight\":0"), "t:3:23: principle 'cd': weight 0 is not in (0, 10]"},
    {P("\"text\":\"a\",\"weight\":-1"), "t:3:23: principle 'cd': weight -1 is not in (0, 10]"},
    {P("\"text\":\"a\",\"weight\":10.5"), "t:3:23: principle 'cd': weight 10.5 is not in (0, 10]"},
    {P("\"text\":\"a\",\"use\":[]"), "t:3:23: principle 'cd': use names neither critique nor label"},
    {P("\"text\":\"a\",\"use\":\"label\""), "t:3:23: 'use' must be a list of \"critique\" and \"label\""},
    {P("\"text\":\"a\",\"use\":[\"labels\"]"), "t:3:23: 'use' holds something other than \"critique\" and \"label\""},
    {P("\"text\":\"a\",\"tags\":[\"a b\"]"), "t:3:23: a tag must be one word without spaces"},
    {P("\"text\":\"a\",\"tags\":[\"\"]"), "t:3:23: a tag must be one word without spaces"},
    {P("\"text\":\"a\",\"tags\":\"a\""), "t:3:23: 'tags' must be a list of words"},
    {P("\"text\":\"a\",\"examples\":{}"), "t:3:23: 'examples' must be a list"},
    {P("\"text\":\"a\",\"examples\":[\"b\"]"), "t:3:35: an example must be {text, applies}"},
    {P("\"text\":\"a\",\"examples\":[\n{\"text\":\"b\"}]"), "t:4:1: an example needs 'applies': true or false"},
    {P("\"text\":\"a\",\"examples\":[\n{\"text\":\"b\",\"applies\":1}]"),
     "t:4:13: an example needs 'applies': true or false"},
    {P("\"text\":\"a\",\"examples\":[{\"text\":\"b\",\"applies\":true},\n {\"text\":\"\",\"applies\":true}]"),
     "t:4:3: 'text' is empty"},
    {P("\"text\":\"a\",\"examples\":[\n{\"text\":\"b\",\"aplies\":true}]"),
     "t:4:13: unknown field 'aplies' in an example (did you mean 'applies'?)"},
    {P("\"text\":\"a\",\"tests\":[\n{\"prompt\":\"b\",\"better\":\"c\"}]"), "t:4:1: missing field 'worse'"},
    {P("\"text\":\"a\",\"tests\":[\n{\"prompt\":\"b\",\"best\":\"c\"}]"), "t:4:15: unknown field 'best' in a test"},
    {P("\"text\":\"a\",\"tests\":[3]"), "t:3:32: a test must be {prompt, better, worse}"},
    {HEAD "{\"id\":\"a\",\"text\":\"a\"}]}", "t:1:59: id 'a' does not match [a-z][a-z0-9-]{1,31}"},
    {HEAD "{\"text\":\"a\",\"id\":\"Ab\"}]}", "t:1:70: id 'Ab' does not match [a-z][a-z0-9-]{1,31}"},
    {HEAD "{\"text\":\"a\",\"id\":\"a23456789012345678901234567890123\"}]}",
     "t:1:70: id 'a23456789012345678901234567890123' does not match [a-z][a-z0-9-]{1,31}"},
    {HEAD "{\"id\":\"ab\",\"text\":\"a\"},\n {\"id\":\"ab\",\"text\":\"b\"}]}", "t:2:3: duplicate id 'ab'"},
};

#define X(inner) XHEAD "\n<principle id=\"ab\">" inner "</principle>" XTAIL
static const Refusal refused_xml[] = {
    {"<!DOCTYPE c [<!ENTITY e 'x'>]><constitution/>",
     "t:1:13: a document type (DTD) is not allowed in a constitution; remove it and write entities out"},
    {"<!DOCTYPE c [<!ENTITY e SYSTEM 'file:///etc/hostname'>]>\n<constitution>&e;</constitution>",
     "t:1:13: a document type (DTD) is not allowed in a constitution; remove it and write entities out"},
    {"<?xml version='1.0' encoding='windows-1252'?><constitution/>", "t:1:31: unknown encoding"},
    {"<a><a></a></a>", "t:1:1: unknown element 'a' in the file"},
    {"<constituton/>", "t:1:1: unknown element 'constituton' in the file (did you mean 'constitution'?)"},
    {"<constitution/>", "t:1:1: <constitution> needs schema=\"dikast-constitution/1\""},
    {"<constitution schema='dikast-constitution/1'/>", "t:1:1: the constitution has no id"},
    {"<constitution schema='dikast-constitution/1' id=' '/>", "t:1:1: attribute 'id' is empty"},
    {"<constitution schema='dikast-constitution/1' id='h' version=''/>", "t:1:1: attribute 'version' is empty"},
    {"<constitution schema='dikast-constitution/1' id='h' licence='x'/>",
     "t:1:1: unknown attribute 'licence' in <constitution> (did you mean 'license'?)"},
    {"<constitution schema='dikast-constitution/1' id='h' id='i'/>", "t:1:53: duplicate attribute"},
    {XHEAD XTAIL, "t:1:1: the constitution has no principles"},
    {XHEAD "\nstray" XTAIL, "t:2:1: text outside an element that holds text"},
    {XHEAD "<principle id=\"ab\"", "t:1:53: unclosed token"},
    {XHEAD "<principle id=\"ab\">", "t:1:72: no element found"},
    {XHEAD "<principles/>" XTAIL, "t:1:53: unknown element 'principles' in <constitution> (did you mean 'principle'?)"},
    {XHEAD "\n<principle id='ab' wieght='2'><text>a</text></principle>" XTAIL,
     "t:2:1: unknown attribute 'wieght' in <principle> (did you mean 'weight'?)"},
    {XHEAD "\n<principle id='ab' weight='0x1'><text>a</text></principle>" XTAIL, "t:2:1: 'weight' must be a number"},
    {XHEAD "\n<principle id='ab' weight='1 '><text>a</text></principle>" XTAIL, "t:2:1: 'weight' must be a number"},
    {XHEAD "\n<principle id='ab' weight='1e9'><text>a</text></principle>" XTAIL,
     "t:2:1: principle 'ab': weight 1e+09 is not in (0, 10]"},
    {XHEAD "\n<principle id='ab' use=''><text>a</text></principle>" XTAIL,
     "t:2:1: principle 'ab': use names neither critique nor label"},
    {XHEAD "\n<principle id='ab' use='both'><text>a</text></principle>" XTAIL,
     "t:2:1: 'use' holds something other than critique and label"},
    {XHEAD "\n<principle id='ab' authority='boss'><text>a</text></principle>" XTAIL,
     "t:2:1: 'authority' is 'boss'; expected root, system, developer, user or guideline"},
    {XHEAD "<principle><text>a</text></principle>" XTAIL, "t:1:53: a principle has no id"},
    {X("<txet>a</txet>"), "t:2:20: unknown element 'txet' in <principle> (did you mean 'text'?)"},
    {X("<text>a</text>\n<text>b</text>"), "t:3:1: <text> stands here for the second time"},
    {X("<avoid>a</avoid>"), "t:2:1: principle 'ab' has no text"},
    {X("<text>\n </text>"), "t:2:20: <text> is empty"},
    {X("<text a='b'>a</text>"), "t:2:20: unknown attribute 'a': <text> has none"},
    {X("<text>a<b>c</b></text>"), "t:2:27: unknown element 'b' in a text"},
    {X("<text>&nbsp;</text>"), "t:2:26: undefined entity"},
    {X("<text>&#1;</text>"), "t:2:26: reference to invalid character number"},
    {X("<text>a&#13;b</text>"), "t:2:20: a text holds the control character U+000D (allowed: tab and newline)"},
    {X("<text>a</text><example>b</example>"), "t:2:34: <example> needs applies=\"true\" or \"false\" and nothing else"},
    {X("<text>a</text><example applies='yes'>b</example>"),
     "t:2:34: <example> needs applies=\"true\" or \"false\" and nothing else"},
    {X("<text>a</text><example applies='true'/>"), "t:2:34: <example> is empty"},
    {X("<text>a</text><test><prompt>b</prompt></test>"), "t:2:58: a test needs <prompt>, <better> and <worse>"},
    {X("<text>a</text><test><prompt>b</prompt><prompt>b</prompt></test>"),
     "t:2:58: <prompt> stands here for the second time"},
    {X("<text>a</text><test><wors>b</wors></test>"), "t:2:40: unknown element 'wors' in <test> (did you mean 'worse'?)"},
    {XHEAD "<principle id='ab'><text>a</text></principle>\n<principle id='ab'><text>b</text></principle>" XTAIL,
     "t:2:1: duplicate id 'ab'"},
    {X("<text>a</text>") XHEAD XTAIL, "t:2:61: junk after document element"},
    {XHEAD "</principle>", "t:1:55: mismatched tag"},
};
// clang-format on

static void test_refusals(void **state) {
    (void)state;
    assert_refused(refused_json, COUNT_OF(refused_json));
    assert_refused(refused_xml, COUNT_OF(refused_xml));
}

/* Syntax is the parsers' to judge; a place must be named all the same, wherever the text is cut or struck by a NUL. */
static void test_broken_anywhere(void **state) {
    (void)state;
    static const char *const path[] = {GOLDEN "native.json", GOLDEN "native.xml"};
    for (int f = 0; f < 2; f++) {
        Str s = {0};
        Error err = {ERR_NONE, ""};
        assert_true(io_read_file(&s, path[f], 1 << 20, &err));
        size_t end = s.n;
        while (strchr(" \n", s.s[end - 1])) end--;
        for (size_t cut = 0; cut < end; cut++) {
            Constitution c;
            err = (Error){ERR_NONE, ""};
            char *copy = mem_alloc(s.n + 1);
            memcpy(copy, s.s, s.n);
            int line, column;
            assert_false(constitution_parse(&c, copy, cut, "t", &err));
            assert_int_equal(err.code, ERR_FORMAT);
            if (sscanf(err.msg, "t:%d:%d: ", &line, &column) != 2) fail_msg("no place (cut %zu): %s", cut, err.msg);
            copy[cut] = 0;
            assert_false(constitution_parse(&c, copy, s.n, "t", &err));
            assert_string_equal(err.msg, "t:1:1: the file holds NUL bytes; expected JSON or XML text");
            free(copy);
        }
        str_release(&s);
    }
}

static void test_limits(void **state) {
    (void)state;
    Str json = {0}, xml = {0};
    Constitution c;
    Error err = {ERR_NONE, ""};
    for (int n = 64; n <= 65; n++) {
        str_clear(&json), str_clear(&xml);
        str_put(&json, HEAD), str_put(&xml, XHEAD);
        for (int i = 0; i < n; i++) {
            str_printf(&json, "%s{\"id\":\"p%d\",\"text\":\"a\"}", i ? ",\n" : "\n", i);
            str_printf(&xml, "\n<principle id='p%d'><text>a</text></principle>", i);
        }
        str_put(&json, "]}"), str_put(&xml, XTAIL);
        if (n == 64) {
            parse_ok(&c, json.s, json.n);
            assert_int_equal(c.n, 64);
            assert_round_trips(&c);
            constitution_release(&c);
            continue;
        }
        assert_false(constitution_parse(&c, json.s, json.n, "t", &err));
        assert_string_equal(err.msg, "t:66:1: more than 64 principles; split the file");
        assert_false(constitution_parse(&c, xml.s, xml.n, "t", &err));
        assert_string_equal(err.msg, "t:66:1: more than 64 principles; split the file");
    }
    /* Nesting: neither the parser's stack nor ours grows with the input. */
    str_clear(&json), str_clear(&xml);
    str_put(&json, HEAD), str_put(&xml, XHEAD "<principle id='ab'><text>");
    for (int i = 0; i < 200000; i++) str_putc(&json, '['), str_put(&xml, "<text>");
    assert_false(constitution_parse(&c, json.s, json.n, "t", &err));
    assert_int_equal(err.code, ERR_FORMAT);
    assert_false(constitution_parse(&c, xml.s, xml.n, "t", &err));
    assert_string_equal(err.msg, "t:1:78: unknown element 'text' in a text");
    str_release(&json);
    str_release(&xml);
    assert_false(constitution_read(&c, GOLDEN "absent.json", &err));
    assert_int_equal(err.code, ERR_IO);
    assert_non_null(strstr(err.msg, "absent.json"));
}

/* -- the constitution we ship
 * ---------------------------------------------------------------------------------------------- */
static int words(const char *s) {
    int n = 0;
    for (; *s; s += strspn(s, " \n")) n++, s += strcspn(s, " \n");
    return n;
}

static void test_shipped(void **state) {
    (void)state;
    Constitution c, x;
    Str text = {0}, file = {0};
    Error err = {ERR_NONE, ""};
    read_ok(&c, TEST_DIR "/../conf/constitution.json");
    read_ok(&x, TEST_DIR "/../conf/constitution.xml");
    assert_same(&c, &x);
    constitution_to_xml(&text, &c);
    assert_true(io_read_file(&file, TEST_DIR "/../conf/constitution.xml", 1 << 20, &err));
    assert_string_equal(str_get(&text), str_get(&file)); /* generated, never edited */
    assert_string_equal(c.id, "dikast-default");
    assert_string_equal(c.license, "CC0-1.0");
    assert_in_range(c.n, 24, 48);
    for (int i = 0; i < c.n; i++) {
        const Principle *p = &c.principle[i];
        int yes = 0, no = 0;
        for (int k = 0; k < p->n_example; k++) p->example[k].applies ? yes++ : no++;
        if (!p->avoid || !p->critique || !p->revise || !p->compare || !p->n_tag || !p->n_test || yes < 5 || no < 3)
            fail_msg("%s is not complete", p->id);
        principle_text(&text, p);
        if (words(str_get(&text)) > 35) fail_msg("%s: text and avoid have %d words", p->id, words(str_get(&text)));
        const char *request[] = {p->critique, p->revise, p->compare};
        for (int k = 0; k < 3; k++)
            if (words(request[k]) > 20) fail_msg("%s: %d words: %s", p->id, words(request[k]), request[k]);
    }
    str_release(&text);
    str_release(&file);
    constitution_release(&c);
    constitution_release(&x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),     cmocka_unit_test(test_fields),   cmocka_unit_test(test_same_meaning),
        cmocka_unit_test(test_hard_texts), cmocka_unit_test(test_refusals), cmocka_unit_test(test_broken_anywhere),
        cmocka_unit_test(test_limits),     cmocka_unit_test(test_shipped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
