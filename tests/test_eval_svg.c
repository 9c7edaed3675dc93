// layer: eval
/* Pieces of the report page: numbers and text as markup, charts as SVG. */
#include "base/rng.h"
#include "eval/html.h"
#include "eval/svg.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <expat.h>

static void well_formed(const Str *s) {
    XML_Parser p = XML_ParserCreate("UTF-8");
    if (!XML_Parse(p, str_get(s), (int)s->n, 1))
        fail_msg("%s at %d:%d in %.3000s", XML_ErrorString(XML_GetErrorCode(p)), (int)XML_GetCurrentLineNumber(p),
                 (int)XML_GetCurrentColumnNumber(p), str_get(s));
    XML_ParserFree(p);
}

static int count(const char *s, const char *what) {
    int n = 0;
    for (; (s = strstr(s, what)); s += strlen(what)) n++;
    return n;
}

/* Every coordinate of the drawing lies inside 340 x height; x and y by the name of the attribute. */
static void inside(const char *svg) {
    static const char *const name[] = {" x=\"",  " cx=\"", " x1=\"", " x2=\"",   " y=\"",
                                       " cy=\"", " y1=\"", " y2=\"", " width=\""};
    double height;
    assert_int_equal(sscanf(strstr(svg, "viewBox"), "viewBox=\"0 0 340 %lf", &height), 1);
    for (int k = 0; k < COUNT_OF(name); k++) {
        bool down = strchr(name[k], 'y') != NULL;
        for (const char *s = svg; (s = strstr(s, name[k])); s++) {
            double v = strtod(s + strlen(name[k]), NULL);
            if (!(v >= 0 && v <= (down ? height : 340))) fail_msg("%s%g of height %g", name[k], v, height);
        }
    }
    for (const char *s = svg; (s = strstr(s, " d=\"")); s++) {
        for (const char *d = s + 4; *d != '"';) {
            if (*d == 'Z') break;
            char *end;
            assert_true(*d == 'M' || *d == 'L');
            double x = strtod(d + 1, &end), y = strtod(end, &end);
            if (!(x >= 0 && x <= 340 && y >= 0 && y <= height)) fail_msg("path at %g %g of height %g", x, y, height);
            d = end;
        }
    }
}

static void check_svg(Str *s) {
    well_formed(s);
    inside(str_get(s));
    assert_int_equal(count(str_get(s), "<title>"), 1);
    assert_int_equal(count(str_get(s), "<desc>"), 1);
    assert_null(strstr(str_get(s), "nan"));
    assert_null(strstr(str_get(s), "inf"));
    assert_null(strstr(str_get(s), "\"-"));
}

/* -- html ---------------------------------------------------------------------------------------------------------- */
static void expect(void (*put)(Str *, double), double v, const char *want) {
    Str s = {0};
    put(&s, v);
    assert_string_equal(str_get(&s), want);
    str_release(&s);
}

static void test_numbers(void **state) {
    (void)state;
    expect(html_percent, 0.475, "47.5\u00a0%");
    expect(html_percent, -0.0001, "0.0\u00a0%");
    expect(html_percent, -0.31, "−31.0\u00a0%");
    expect(html_percent, NAN, "–");
    expect(html_percent, INFINITY, "–");
    expect(html_count, 446496, "446,496");
    expect(html_count, 1e6, "1,000,000");
    expect(html_count, 999, "999");
    expect(html_count, -1234, "−1,234");
    expect(html_count, -0.2, "0");
    expect(html_count, NAN, "–");
    expect(html_number, 0.012345, "0.0123");
    expect(html_number, 1.3492, "1.349");
    expect(html_number, 12345.6, "12,346");
    expect(html_number, -2.5e-7, "−2.5e-07");
    expect(html_number, -0.0, "0");
    expect(html_number, NAN, "–");
    Str s = {0};
    html_signed(&s, 3.14, 1);
    html_signed(&s, -41.55, 1);
    html_signed(&s, -0.01, 1);
    html_signed(&s, 0.01, 1);
    html_signed(&s, NAN, 1);
    assert_string_equal(str_get(&s), "+3.1−41.50.00.0–");
    str_release(&s);
}

static void test_escaping(void **state) {
    (void)state;
    static const struct {
        const char *in, *out;
    } row[] = {{"<script>alert('x')&\"", "&lt;script&gt;alert(&#39;x&#39;)&amp;&quot;"},
               {"a\tb\nc", "a\tb\nc"},
               {"\x01\x1b[0m\x7f", "\xef\xbf\xbd\xef\xbf\xbd[0m\xef\xbf\xbd"},
               {"na\xc3\xafve \xe2\x82\xac \xf0\x9f\x98\x80", "na\xc3\xafve \xe2\x82\xac \xf0\x9f\x98\x80"},
               {"cut \xe2\x82", "cut \xef\xbf\xbd\xef\xbf\xbd"},
               {"\xc0\xbc", "\xef\xbf\xbd\xef\xbf\xbd"},                 /* overlong '<' */
               {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* a surrogate */
               {"\xef\xbf\xbe", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* U+FFFE is no character of XML */
               {"\xc2\x85", "\xef\xbf\xbd\xef\xbf\xbd"},                 /* a C1 control */
               {"\xe2\x80\xae"
                "evil",
                "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
                "evil"}, /* right-to-left override */
               {NULL, ""}};
    for (int i = 0; i < COUNT_OF(row); i++) {
        Str s = {0};
        html_text(&s, row[i].in);
        assert_string_equal(str_get(&s), row[i].out);
        str_release(&s);
    }
    Str s = {0};
    html_textf(&s, "%d<%s", 3, "&");
    assert_string_equal(str_get(&s), "3&lt;&amp;");
    str_release(&s);
}

/* Any bytes at all stay text: the page parses and holds one element. */
static void test_any_bytes(void **state) {
    (void)state;
    Rng rng = {20260101, 1};
    printf("seed %llu\n", (unsigned long long)rng.seed);
    for (uint32_t round = 0; round < 300; round++) {
        char bytes[65];
        for (uint32_t i = 0; i < 64; i++) bytes[i] = (char)(1 + rng_below(rng, round, i, 255));
        bytes[64] = 0;
        Str s = {0};
        str_put(&s, "<p title=\"");
        html_text(&s, bytes);
        str_put(&s, "\">");
        html_text(&s, bytes);
        str_put(&s, "</p>");
        well_formed(&s);
        assert_int_equal(count(str_get(&s), "<"), 2);
        str_release(&s);
    }
}

static void test_table(void **state) {
    (void)state;
    static const char *const head[] = {"What", "#How many"};
    Str s = {0};
    html_table(&s, "A & B", head, 2);
    html_row(&s, "<x>");
    html_cell_count(&s, 12345);
    html_row_end(&s);
    html_table_end(&s);
    well_formed(&s);
    assert_non_null(strstr(str_get(&s), "<caption>A &amp; B</caption>"));
    assert_non_null(strstr(str_get(&s), "<th scope=\"col\" class=\"n\">How many</th>"));
    assert_non_null(strstr(str_get(&s), "<th scope=\"row\">&lt;x&gt;</th><td class=\"n\">12,345</td>"));
    str_release(&s);
}

/* -- svg ----------------------------------------------------------------------------------------------------------- */
static void test_ticks(void **state) {
    (void)state;
    double t[11];
    assert_int_equal(svg_ticks(t, 0, 1, 6), 6);
    assert_float_equal(t[1], 0.2, 1e-12);
    assert_int_equal(svg_ticks(t, -1, 1, 6), 5);
    assert_float_equal(t[2], 0, 0);
    assert_int_equal(svg_ticks(t, 1, 1546, 6), 3);
    assert_float_equal(t[0], 500, 1e-9);
    assert_int_equal(svg_ticks(t, 1, 1, 6), 0);
    assert_int_equal(svg_ticks(t, NAN, 1, 6), 0);
    assert_int_equal(svg_ticks(t, 0, INFINITY, 6), 0);
    for (uint32_t i = 0; i < 2000; i++) {
        Rng rng = {7, 1};
        double lo = (rng_uniform(rng, i, 0) - 0.5) * pow(10, 12 * rng_uniform(rng, i, 1) - 6);
        double hi = lo + pow(10, 12 * rng_uniform(rng, i, 2) - 6);
        int most = 2 + (int)rng_below(rng, i, 3, 10), n = svg_ticks(t, lo, hi, most);
        assert_in_range(n, 0, most);
        for (int k = 0; k < n; k++) assert_true(t[k] >= lo - 1e-6 * (hi - lo) && t[k] <= hi + 1e-6 * (hi - lo));
    }
}

static void test_buckets(void **state) {
    (void)state;
    enum { N = 1000 };
    double x[N], y[N];
    SvgBucket b[SVG_POINTS_MAX];
    for (int i = 0; i < N; i++) x[i] = i, y[i] = i % 2 ? 3 : 1;
    x[0] = NAN, y[1] = NAN, y[2] = INFINITY;
    int n = svg_buckets(b, SVG_POINTS_MAX, x, y, N);
    assert_int_equal(n, SVG_POINTS_MAX);
    for (int i = 0; i < n; i++) {
        assert_true(i == 0 || b[i].x > b[i - 1].x);
        assert_true(b[i].min == 1 && b[i].max == 3 && b[i].mean > 1.5 && b[i].mean < 2.5);
    }
    assert_int_equal(svg_buckets(b, SVG_POINTS_MAX, x + 3, y + 3, 5), 5);
    assert_float_equal(b[4].x, 7, 0);
    assert_float_equal(b[4].mean, 3, 0);
    assert_int_equal(svg_buckets(b, SVG_POINTS_MAX, x, y, 3), 0);
    assert_int_equal(svg_buckets(b, SVG_POINTS_MAX, x, y, 0), 0);
}

static void test_curves(void **state) {
    (void)state;
    enum { N = 5000 };
    static double x[N], y[N];
    static const struct {
        const char *name;
        int n;
        double a, b;
    } kind[] = {{"long", N, 1, 0.001},
                {"empty", 0, 0, 0},
                {"one point", 1, 3, 0},
                {"constant", 50, 2, 0},
                {"zero", 50, 0, 0},
                {"huge", 50, 1e300, 1e299},
                {"falling by orders", 200, 1000, 0},
                {"tiny", 50, 1e-300, 0},
                {"wider than a double", 50, -1.7e308, 0.29e308}};
    for (int k = 0; k < COUNT_OF(kind); k++) {
        for (int i = 0; i < kind[k].n; i++) {
            x[i] = i + 1;
            y[i] = kind[k].a / (k == 6 ? i + 1 : 1) + kind[k].b * (i % 7);
        }
        Str s = {0}, again = {0};
        svg_curve(&s, kind[k].name, "step", x, y, kind[k].n, 2);
        svg_curve(&again, kind[k].name, "step", x, y, kind[k].n, 2);
        assert_string_equal(str_get(&s), str_get(&again));
        check_svg(&s);
        assert_true(s.n < 12000);
        assert_int_equal(count(str_get(&s), "logarithmic"), k == 6);
        assert_int_equal(count(str_get(&s), "class=\"band"), k == 0 || k == 6);
        assert_int_equal(count(str_get(&s), "no data"), k == 1);
        assert_int_equal(count(str_get(&s), "<circle"), k == 2);
        str_release(&s);
        str_release(&again);
    }
    for (int i = 0; i < 100; i++) x[i] = i, y[i] = i % 3 ? NAN : i;
    Str s = {0};
    svg_curve(&s, "<title> & more", "step", x, y, 100, 99);
    check_svg(&s);
    assert_non_null(strstr(str_get(&s), "34 points, 66 not finite"));
    assert_non_null(strstr(str_get(&s), "&lt;title&gt; &amp; more"));
    str_clear(&s);
    for (int i = 0; i < 100; i++) y[i] = NAN;
    svg_curve(&s, "all NaN", "step", x, y, 100, 0);
    check_svg(&s);
    assert_non_null(strstr(str_get(&s), "no data"));
    str_release(&s);
}

static void test_dots(void **state) {
    (void)state;
    const SvgDot dot[] = {{"SL & <RL>", 0.25, 0.2, 0.3, 1},
                          {"no interval", 0.5, NAN, NAN, 2},
                          {"not measured", NAN, NAN, NAN, 3},
                          {"outside", 7, -5, 1e9, -4}};
    Str s = {0};
    svg_dots(&s, "Harm", dot, COUNT_OF(dot), 0, 1, SVG_PERCENT);
    check_svg(&s);
    assert_int_equal(count(str_get(&s), "<circle"), 3);
    assert_non_null(strstr(str_get(&s), "SL &amp; &lt;RL&gt;: 25.0\u00a0% (20.0\u00a0% to 30.0\u00a0%)"));
    assert_non_null(strstr(str_get(&s), "not measured: –"));
    /* A quarter of the way from 10 to 330. */
    assert_non_null(strstr(str_get(&s), "<circle cx=\"90.0\""));
    assert_non_null(strstr(str_get(&s), "<line x1=\"74.0\" y1=\"27.0\" x2=\"106.0\" y2=\"27.0\" class=\"bar s1\"/>"));
    str_clear(&s);
    svg_dots(&s, "Difference", dot, 1, -1, 1, SVG_POINTS);
    check_svg(&s);
    assert_non_null(strstr(str_get(&s), "+25.0 (+20.0 to +30.0)"));
    assert_int_equal(count(str_get(&s), "class=\"axis\""), 1);
    str_clear(&s);
    svg_dots(&s, "nothing", NULL, 0, NAN, NAN, SVG_NUMBER);
    check_svg(&s);
    str_release(&s);
}

static void test_bars(void **state) {
    (void)state;
    const SvgBar bar[] = {{"a", 50, 0}, {"b", 200, 2}, {"c", NAN, 4}, {"d", -3, 9}};
    Str s = {0};
    svg_bars(&s, "Outcome", bar, COUNT_OF(bar));
    check_svg(&s);
    assert_non_null(strstr(str_get(&s), "a: 50; b: 200; c: –; d: −3."));
    assert_non_null(strstr(str_get(&s), "width=\"80.0\"")); /* 50 of 200, of 320 */
    assert_non_null(strstr(str_get(&s), "width=\"320.0\""));
    assert_int_equal(count(str_get(&s), "width=\"0.0\""), 2);
    str_clear(&s);
    svg_bars(&s, "none", NULL, 0);
    check_svg(&s);
    str_release(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers), cmocka_unit_test(test_escaping), cmocka_unit_test(test_any_bytes),
        cmocka_unit_test(test_table),   cmocka_unit_test(test_ticks),    cmocka_unit_test(test_buckets),
        cmocka_unit_test(test_curves),  cmocka_unit_test(test_dots),     cmocka_unit_test(test_bars),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
