// layer: text
/* The interpreter against what jinja2 3.1 in transformers' settings writes (tests/peers/ compares at large): one row
 * per rule that is easy to get wrong, errors with class and line, and the limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "text/jinja.h"

static const char data[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\"Gr\xc3\xbc\xc3\x9f"
    "e \xf0\x9f\x98\x80 \\\"q\\\" <b>&'\",\"name\":null},{\"role\":\"assistant\",\"content\":\" yes "
    "\",\"reasoning\":\"hm\"}],"
    "\"tools\":[{\"name\":\"f\",\"n\":1.5,\"on\":true,\"z\":null}],\"d\":{\"b\":1,\"A\":2,\"items\":\"own\"},\"lst\":["
    "3,1,2]}";

/* The text a template makes, or "class:line: message". */
static void render(Str *out, const char *template, size_t n, bool respond) {
    Error e = {0};
    Json *j = NULL;
    JinjaTemplate *t = NULL;
    JinjaOut r = {0};
    JinjaError err = {0};
    if (!json_parse(&j, data, sizeof data - 1, 0, "data", 1, &e)) fail_msg("%s", e.msg);
    JinjaVar var[] = {{"d", json_get(j, "d")}, {"lst", json_get(j, "lst")}};
    JinjaChat c = {.messages = json_get(j, "messages"), .tools = json_get(j, "tools"), .var = var, .n_var = 2};
    c.add_generation_prompt = respond;
    c.now_s = 86400 * 31 + 3600;
    str_clear(out);
    if (jinja_parse(&t, template, n, &err) && jinja_render(t, &c, &r, &err)) {
        str_putn(out, str_get(&r.text), r.text.n);
        for (int i = 0; i < r.n_span; i++) str_printf(out, "{%d,%d}", (int)r.span[i].begin, (int)r.span[i].end);
    } else
        str_printf(out, "%s:%d: %s", jinja_class_name(err.cls), err.line, str_get(&err.message));
    jinja_close(t);
    jinja_out_release(&r);
    jinja_error_release(&err);
    json_release(j);
}

typedef struct {
    const char *template, *want;
} Case;

static void check(const Case *table, int n) {
    Str out = {0};
    for (int i = 0; i < n; i++) {
        render(&out, table[i].template, strlen(table[i].template), true);
        if (strcmp(str_get(&out), table[i].want))
            fail_msg("%s\n  expected '%s'\n  found    '%s'", table[i].template, table[i].want, str_get(&out));
    }
    str_release(&out);
}

// clang-format off
static const Case white_space[] = {
    {"a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "a\n  b\nc"}, {"a\r\n{{ 1 }}\r\nb\r", "a\n1\nb"}, {"x\n\n", "x\n"},
    {"a  {%- if true -%}  b  {%- endif -%}  c", "abc"}, {"a\n {%+ if true +%}\nb{% endif %}", "a\n \nb"},
    {" {# c #}\nx", "x"}, {"a \n {#- c -#} \n b", "ab"}, {"{# a\n b #}x", "x"}, {"  {{ 1 }}", "  1"}, {"  {{- 1 -}}\n x", "1x"},
    {"{% raw %} {{ x }} {% endraw %}\ny", " {{ x }} y"}, {"a {%- raw -%} {% x %} {%- endraw -%} b", "a{% x %}b"}, {"a{#", "a"},
    {"x {% set a = 1 %} y", "x  y"}, {"\t{% set a = 1 %}\n\t{{ a }}", "\t1"}, {"{% if true %}\n  {% set b = 2 %}x{% endif %}", "x"}, {"{", "{"}, {"{{ '}}' }}", "}}"}, {"{{ {'a': {}} }}", "{'a': {}}"},
};
static const Case expressions[] = {
    {"{{ '1' + 2 ~ 3 }}", "123"}, {"{{ -2 ** 2 }} {{ 2 ** 3 ** 2 }} {{ -3|abs }}", "4 64 3"}, {"{{ 1 < 2 < 3 }}{{ 3 > 2 > 2 }}", "TrueFalse"},
    {"{{ 7 // -2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** -1 }} {{ 7.5 // 2 }}", "-4 2 3.5 0.5 3.0"},
    {"{{ 9223372036854775807 + 1 }} {{ 10 ** 20 }} {{ 10 ** 30 // 7 }} {{ -10 ** 20 % 7 }}", "9223372036854775808 100000000000000000000 142857142857142857142857142857 2"},
    {"{{ 1e16 }} {{ 1e-5 }} {{ 0.1 + 0.2 }} {{ 1.0 }} {{ 123456789.125 }}", "1e+16 1e-05 0.30000000000000004 1.0 123456789.125"},
    {"{{ [1, 'a', none, true, (1,), {'k': \"it's\"}] }}", "[1, 'a', None, True, (1,), {'k': \"it's\"}]"},
    {"{{ '\\n\\x41\\u00e9\\101\\q' }}|{{ ['\\n\\x7f\\\\'] }}", "\nA\xc3\xa9" "A\\q|['\\n\\x7f\\\\']"}, {"{{ '\\\xc3\xa9' }}", "\\xe9"},
    {"{{ messages[1].content[0:4] }} {{ messages[1].content[6] }} {{ messages[1].content[::-1][-3:] }}", "Gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80 \xc3\xbcrG"},
    {"{{ d.items is callable }} {{ d['items'] }} {{ d.b }} {{ d['b'] }} {{ d.get('q', 7) }}", "True own 1 1 7"},
    {"[{{ nope }}{{ d.nope }}{{ nope is defined }}{{ nope == nope2 }}{{ nope|length }}]", "[FalseTrue0]"},
    {"{{ 'a' if 0 else 'b' if '' else 'c' }}{{ 'x' if false }}", "c"}, {"{{ 1 == 1.0 == true }} {{ {1: 'a', 1.0: 'b'} }}", "True {1: 'b'}"},
    {"{{ 'a' not in 'abc' }} {{ 2 in [1, 2] }} {{ 'b' in d }} {{ not 'z' in 'abc' }}", "False True True True"},
    {"{{ 'x' 'y' ~ none ~ 1.5 }} {{ 'ab' * 2 }} {{ [0] * 3 }}", "xyNone1.5 abab [0, 0, 0]"}, {"{{ none and nope.x }}{{ 0 or 'b' }}", "Noneb"},
    {"{{ 0x1F + 0b11 + 1_000 }} {{ x.0.1 if x else d|list }}", "1034 ['b', 'A', 'items']"}, {"{{ 3 is divisibleby 3 and 4 is even }} {{ true is sameas true }} {{ [] is sameas [] }}", "True True False"},
    {"{{ range(3) }} {{ range(5, 0, -2)|list }} {{ (1, 2)[::-1] }}", "range(0, 3) [5, 3, 1] (2, 1)"}, {"{{ messages[2].reasoning_content }}{{ messages[2].thinking }}{{ messages[1].name is defined }}", "hmhmFalse"},
};
static const Case scopes[] = {
    {"{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = 5 %}{{ x }}{% endfor %}{{ x }}", "15151"}, {"{% if true %}{% set y = 5 %}{% endif %}{{ y }}", "5"},
    {"{% set ns = namespace(n=0) %}{% for i in lst %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "6"},
    {"{% macro m() %}[{{ i }}{{ t }}]{% endmacro %}{% set t = 9 %}{% for i in [1] %}{{ m() }}{% endfor %}", "[9]"},
    {"{% for i in [1] %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}", "1"}, {"{% for x in lst if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% endfor %}", "1/2:3 2/2:2 "},
    {"{% for x in lst %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }}{{ ',' if not loop.last }}{% endfor %}", "<3>1,3<1>2,1<2>"},
    {"{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "b=1;A=2;items=own;"}, {"{% for x in [] %}a{% else %}none{% endfor %}", "none"},
    {"{% for x in [1, 2, 3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% if x == 3 %}{% break %}{% endif %}{% endfor %}", "13"},
    {"{% for x in [[1, [2, [3]]]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% endfor %}", "(1(2(3)))"},
    {"{% macro f(a, b=2) %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1) }}{{ f(1, 3, 4, z=5) }}{{ f(b=7, a=6) }}", "12(){}13(4,){'z': 5}67(){}"},
    {"{% macro f(x) %}<{{ caller(x) }}>{% endmacro %}{% call(v) f(3) %}{{ v }}!{% endcall %}", "<3!>"}, {"{% set x %} a{{ 1 }} {% endset %}[{{ x }}]", "[ a1 ]"},
    {"{% set x | upper | trim %} ab {% endset %}{{ x }}{% filter replace('a', 'o') %}banana{% endfilter %}", "ABbonono"}, {"{% with a = 1, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}", "1"},
    {"{% set a, b = 1, [2] %}{{ a }}{{ b }}", "1[2]"}, {"{% block b %}x{{ lst[0] }}{% endblock %}{{ self.b() }}", "x3x3"}, {"{{ loop is defined }}{% for i in [1] %}{{ loop }}{% endfor %}", "False<LoopContext 1/1>"},
    {"{% set g = lst|map('string') %}{{ g|join }}{{ g|join }}", "312"}, {"{% for a, b in [(1, 2)] if a %}{{ loop.previtem is defined }}{{ b }}{% endfor %}", "False2"}, {"{% for a, b in [[1, 2], [3, 4]] if a %}{{ loop.previtem }}{% endfor %}", "(1, 2)"},
    {"{% for x in [1, 2] %}{% if x == 2 %}{{ y }}{% endif %}{% set y = x %}{% endfor %}", ""}, {"{% if false %}{{ 1|nosuch }}{% endif %}ok", "ok"},
};
static const Case library[] = {
    {"{{ tools|tojson }}", "[{\"name\": \"f\", \"n\": 1.5, \"on\": true, \"z\": null}]"}, {"{{ {'b': [1, {}], 'a': []}|tojson(indent=1, sort_keys=true) }}", "{\n \"a\": [],\n \"b\": [\n  1,\n  {}\n ]\n}"},
    {"{{ messages[1].content|tojson }}{{ '\\u00e9\\U0001F600\\t'|tojson(ensure_ascii=true, separators=(',', ':')) }}", "\"Gr\xc3\xbc\xc3\x9f" "e \xf0\x9f\x98\x80 \\\"q\\\" <b>&'\"\"\\u00e9\\ud83d\\ude00\\t\""},
    {"{{ 'stra\xc3\x9f" "e'|upper }} {{ '\xce\x91\xce\xa3'|lower }} {{ 'o\\'neil-x (y)'|title }} {{ 'ABC'.swapcase() }}", "STRASSE \xce\xb1\xcf\x82 O'neil-X (Y) abc"},
    {"{{ d|dictsort }} {{ ['b', 'A', 'a']|sort }} {{ ['b', 'A', 'a']|unique|list }} {{ lst|sort(reverse=true) }}", "[('A', 2), ('b', 1), ('items', 'own')] ['A', 'a', 'b'] ['b', 'A'] [3, 2, 1]"},
    {"{{ messages|map(attribute='role')|join(', ') }} {{ messages|selectattr('role', 'ne', 'user')|list|length }} {{ messages|rejectattr('name')|list|length }}", "system, user, assistant 2 3"},
    {"{{ none|default('x') }} {{ ''|default('x', true) }} {{ nope|default }}|", "None x |"}, {"{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a b c'.rsplit(' ', 1) }} {{ 'a\\nb\\r\\n'.splitlines() }}", "['a', 'b', '', 'c'] ['a', 'b'] ['a b', 'c'] ['a', 'b']"},
    {"{{ 'abcba'.strip('ab') }} {{ 'think>'.lstrip('think') }} {{ 'k=v=w'.partition('=') }} {{ 'aXbX'.replace('X', '', 1) }}", "c > ('k', '=', 'v=w') abX"},
    {"{{ '{} {1} {a}'.format(1) if false else '{:>4}|{:,}|{!r}'.format('x', 12345, 'q') }} {{ '%05.1f|%-3s|%x' % (3.14159, 'a', 255) }}", "   x|12,345|'q' 003.1|a  |ff"},
    {"{{ 'ab'.format_map('x') }}{{ '{a}'.format_map({'a': 1}) }}", "ab1"},
    {"{{ '{:05}|{:>04}|{:*<05}|{!a}'.format('x', 7, 'y', 'é😀') }} {{ '%a' % 'ß' }} {{ ('<'|safe).join([1, '<b>']) }}", "x0000|0007|y****|'\\xe9\\U0001f600' '\\xdf' 1<&lt;b&gt;"},
    {"{{ [1, 2]|batch(0)|list }} {{ [1, 2]|batch(-1)|list }} {{ 2.5|round(none) }} {{ 'x'|int(3, none) }} {{ 1e30|filesizeformat }}", "[[], [1, 2]] [[1, 2]] 2 3 1000000.0 YB"},
    {"{{ 2.5|round }} {{ 2.675|round(2) }} {{ 42.55|round(1, 'floor') }} {{ '3.7'|int }} {{ 'x'|int(5) }} {{ '0x1f'|int(0, 16) }} {{ '1e3'|float }}", "2.0 2.67 42.5 3 5 31 1000.0"},
    {"{{ 'a\\nb\\n\\nc'|indent(2) }}|{{ 'a b c d'|truncate(5, true, '..', 0) }}|{{ 'ab'|center(5) }}|", "a\n  b\n\n  c|a b..|  ab |"}, {"{{ '<a>'|e }}{{ ('<'|safe) + '<' }}{{ ['<'|safe] }}", "&lt;a&gt;<&lt;[Markup('<')]"},
    {"{{ [1, 2, 3, 4, 5]|batch(2, 0)|list }} {{ [1, 2, 3]|slice(2)|list }} {{ lst|sum }} {{ lst|max }}{{ lst|first }}{{ lst|last }} {{ 'abc'|reverse }}", "[[1, 2], [3, 4], [5, 0]] [[1, 2], [3]] 6 332 cba"},
    {"{% for g in messages|groupby('role') %}{{ g.grouper }}{{ g.list|length }} {% endfor %}", "assistant1 system1 user1 "}, {"{{ strftime_now('%d %b %Y %H:%M %-d|%f') }}", "01 Feb 1970 01:00 1|000000"},
    {"{% set c = cycler(1, 2) %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{% set j = joiner() %}{{ j() }}{{ j() }}", "121, "}, {"{{ dict(a=1, b=2)|items|list }} {{ {'a': 1}.items() }}", "[('a', 1), ('b', 2)] dict_items([('a', 1)])"},
};
static const Case spans[] = {
    {"{% for m in messages %}<{% generation %}{{ m.role }}{% endgeneration %}>{% endfor %}", "<system><user><assistant>{1,7}{9,13}{15,24}"},
    {"\xf0\x9f\x98\x80{%- generation -%} \xc3\xa9 {%- endgeneration -%}", "\xf0\x9f\x98\x80\xc3\xa9{1,2}"}, {"{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}", "21{0,1}"},
    {"ab{% macro m() %}cd{% generation %}e{% endgeneration %}{% endmacro %}{{ m() }}", "abcde{2,3}"}, {"{% if false %}{% generation %}x{% endgeneration %}{% endif %}y", "y"},
};
static const Case errors[] = {
    {"a\n{{ nope.x }}", "runtime:2: 'nope' is undefined"}, {"{{ raise_exception('bad\n' ~ 'thing') }}", "raised:1: bad\nthing"}, {"{% if %}", "syntax:1: Expected an expression, got 'end of statement block'"},
    {"\n\n{% for x in y %}", "syntax:3: Unexpected end of template. Jinja was looking for the following tags: 'endfor'. The innermost block that needs to be closed is 'for'."},
    {"{{ 1|nosuch }}", "syntax:1: No filter named 'nosuch'."}, {"{% if true %}\n{{ 1 is nosuch }}{% endif %}", "runtime:2: No test named 'nosuch' found."}, {"{{ 'a' }", "syntax:1: unexpected '}'"},
    {"{{ ''.__class__.__mro__ }}", "runtime:1: access to attribute '__class__' of 'str' object is unsafe."}, {"{{ [].append(1) }}", "runtime:1: access to attribute 'append' of 'list' object is unsafe."}, {"{{ [].append }}|", "|"},
    {"{{ 1 + 'a' }}", "runtime:1: unsupported operand type(s) for +: 'int' and 'str'"}, {"{{ none < 1 }}", "runtime:1: '<' not supported between instances of 'NoneType' and 'int'"}, {"{% break %}", "syntax:1: 'break' outside loop"},
    {"{% include 'x' %}", "runtime:1: 'include' is not supported in chat templates"}, {"{% set ns = namespace() %}{% set ns._a = 1 %}", "runtime:1: templates cannot store names with a leading underscore on a namespace, here '_a'"},
    {"{% for x in [1] %}{% set loop = 1 %}{% endfor %}", "syntax:1: Can't assign to special loop variable in for-loop target"}, {"{{ 1|random }}", "runtime:1: the filter 'random' is not supported"}, {"{{ '\\ud800' }}", "runtime:1: the text is not UTF-8: a lone surrogate of an escape at byte 0"},
    {"{{ nope|tojson }}", "runtime:1: Object of type Undefined is not JSON serializable"}, {"{% set a.b = 1 %}", "runtime:1: cannot assign attribute on non-namespace object"}, {"{% macro f(a) %}{% endmacro %}{{ f(1, z=2) }}", "runtime:1: macro 'f' takes no keyword argument 'z'"},
    {"{% set x = 1 %}{{ x(2) }}", "runtime:1: 'int' object is not callable"}, {"{{ {[]: 1} }}", "runtime:1: unhashable type: 'list'"}, {"{% filter list %}ab{% endfilter %}", "runtime:1: expected str instance, list found"}, {"{% unknown %}", "syntax:1: Encountered unknown tag 'unknown'."},
};
static const Case limits[] = {
    {"{{ range(100001) }}", "runtime:1: Range too big. The sandbox blocks ranges larger than 100000."}, {"{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", "runtime:1: the template takes more than 1000000 steps"},
    {"{% macro m(n) %}{{ m(n - 1) if n else 'x' }}{% endmacro %}{{ m(63) }}", "x"}, {"{% macro m(n) %}{{ m(n - 1) if n else 'x' }}{% endmacro %}{{ m(64) }}", "runtime:1: more than 64 macros or recursive loops inside one another"}, {"{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}", "runtime:1: more than 64 macros or recursive loops inside one another"}, {"{{ [] * 99999999999999999999 }}{{ 6666666666 * () }}", "[]()"}, {"{{ 'abcdefgh' * 10000000 }}", "runtime:1: a sequence repeated 10000000 times is too long"},
    {"{% set ns = namespace(s='ab') %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", "runtime:1: a text of 33554432 bytes is too long"}, {"{% set ns = namespace(x=[]) %}{% for i in range(3000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}", "runtime:1: nested too deeply"},
    {"{% for i in range(100) %}{{ 'x' * 200000 }}{% endfor %}", "runtime:1: the text grows beyond 16777216 bytes"}, {"{{ 10 ** 100000 }}", "runtime:1: a number of more than 10800 digits"}, {"{{ '%9999999d' % 1 }}", "runtime:1: a width or precision too large"},
};
// clang-format on

static void test_white_space(void **state) { (void)state, check(white_space, COUNT_OF(white_space)); }
static void test_expressions(void **state) { (void)state, check(expressions, COUNT_OF(expressions)); }
static void test_scopes(void **state) { (void)state, check(scopes, COUNT_OF(scopes)); }
static void test_library(void **state) { (void)state, check(library, COUNT_OF(library)); }
static void test_spans(void **state) { (void)state, check(spans, COUNT_OF(spans)); }
static void test_errors(void **state) { (void)state, check(errors, COUNT_OF(errors)); }
static void test_limits(void **state) { (void)state, check(limits, COUNT_OF(limits)); }

/* Depth in the source is bounded before anything recurses over it; so is its size; and it must be UTF-8. */
static void test_source_limits(void **state) {
    static const struct {
        const char *open, *close;
        int n;
        const char *want;
    } table[] = {{"(", ")", 100, "1"},
                 {"(", ")", 5000, "syntax:1: expressions nested deeper than 400"},
                 {"[", "]", 5000, "syntax:1: expressions nested deeper than 400"},
                 {"-", "", 5000, "syntax:1: expressions nested deeper than 400"},
                 {"not ", "", 5000, "syntax:1: expressions nested deeper than 400"},
                 {"1 + ", "", 5000, "syntax:1: an expression deeper than 400"},
                 {"1 ~ ", "", 300, NULL}};
    Str source = {0}, out = {0};
    (void)state;
    for (int i = 0; i < COUNT_OF(table); i++) {
        str_clear(&source);
        str_put(&source, "{{ ");
        for (int k = 0; k < table[i].n; k++) str_put(&source, table[i].open);
        str_put(&source, "1");
        for (int k = 0; k < table[i].n; k++) str_put(&source, table[i].close);
        str_put(&source, " }}");
        render(&out, source.s, source.n, false);
        if (table[i].want ? strcmp(str_get(&out), table[i].want) != 0 : out.n != 301)
            fail_msg("%s: '%.200s'", table[i].open, str_get(&out));
    }
    str_clear(&source);
    for (int k = 0; k < 150; k++) str_put(&source, "{% if 1 %}");
    render(&out, source.s, source.n, false);
    assert_string_equal(str_get(&out), "syntax:1: tags nested deeper than 100");
    str_clear(&source);
    while (source.n <= JINJA_MAX_SOURCE) str_put(&source, "twelve bytes");
    render(&out, source.s, source.n, false);
    assert_string_equal(str_get(&out), "syntax:1: the template is longer than 256 kB");
    render(&out, "a\xff", 2, false);
    assert_string_equal(str_get(&out), "syntax:1: the template is not UTF-8");
    str_release(&source);
    str_release(&out);
}

/* One template, many renderings: what one leaves behind no other sees; errors leave nothing behind either. */
static void test_reuse(void **state) {
    static const char source[] =
        "{% if add_generation_prompt %}{{ raise_exception('no') }}{% endif %}{% set x = x|default(0) + 1 %}{{ x }}"
        "{% generation %}g{% endgeneration %}";
    JinjaTemplate *t;
    JinjaError err = {0};
    JinjaOut out = {0};
    (void)state;
    assert_true(jinja_parse(&t, source, sizeof source - 1, &err));
    assert_true(jinja_has_generation(t));
    for (int i = 0; i < 6; i++) {
        JinjaChat c = {.add_generation_prompt = i % 2 == 1};
        bool ok = jinja_render(t, &c, &out, &err);
        assert_int_equal(ok, i % 2 == 0);
        assert_string_equal(str_get(&out.text), ok ? "1g" : "");
        assert_int_equal(out.n_span, ok ? 1 : 0);
        assert_int_equal(err.cls, ok ? JINJA_OK : JINJA_RAISED);
        assert_string_equal(str_get(&err.message), ok ? "" : "no");
    }
    jinja_close(t);
    jinja_out_release(&out);
    jinja_error_release(&err);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_white_space), cmocka_unit_test(test_expressions),   cmocka_unit_test(test_scopes),
        cmocka_unit_test(test_library),     cmocka_unit_test(test_spans),         cmocka_unit_test(test_errors),
        cmocka_unit_test(test_limits),      cmocka_unit_test(test_source_limits), cmocka_unit_test(test_reuse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
