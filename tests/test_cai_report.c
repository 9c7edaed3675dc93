// layer: cai
/* report.html of a run that never was: a directory with a few small files, hostile strings among them. The page is read
 * by a strict XML parser and looked at as a reader would. */
#include "base/io.h"
#include "base/json.h"
#include "cai/report.h"
#include "cai/stage_util.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <expat.h>

/* -- the run ------------------------------------------------------------------------------------------------------- */
typedef struct {
    char dir[64];
} Fake;

static void put(const Fake *f, const char *path, const char *fmt, ...) FORMAT(3, 4);
static void put(const Fake *f, const char *path, const char *fmt, ...) {
    Error err = {0};
    Str full = {0};
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    str_printf(&full, "%s/%s", f->dir, path);
    char *slash = strrchr(full.s, '/');
    *slash = 0;
    if (!io_make_dirs(full.s, &err)) fail_msg("%s", err.msg);
    *slash = '/';
    if (!io_write_file(full.s, text, (size_t)n, &err)) fail_msg("%s", err.msg);
    free(text);
    str_release(&full);
}

#define SCRIPT "<script>alert(1)</script>"
#define EVIL SCRIPT "\\u0001\\uFFFE ]]> &amp; \\\"'"

static void put_stage(const Fake *f, const char *stage, const char *summary, int hour) {
    char path[100];
    snprintf(path, sizeof path, "store/%s-0123456789abcdef/summary.json", stage);
    put(f, path, "%s", summary);
    snprintf(path, sizeof path, "store/%s-0123456789abcdef/manifest.json", stage);
    put(f, path,
        "{\"stage\":\"%s\",\"machine\":{\"cpu\":\"A <fast> "
        "one\",\"cpus\":%d,\"backend\":\"cpu\",\"isa\":\"avx2\",\"threads\":%d,"
        "\"dikast\":\"0.1.0\"},\"finished\":\"2026-11-22T%02d:01:02Z\",\"seconds\":%d.5}",
        stage, hour, hour, hour, 60 * hour);
}

static void put_constitution(const Fake *f) {
    put(f, "con.json",
        "{\"schema\":\"dikast-constitution/"
        "1\",\"id\":\"fake\",\"version\":\"1.2.3\",\"license\":\"CC0-1.0\",\"language\":\"en\",\"principles\":["
        "{\"id\":\"theft\",\"authority\":\"system\",\"weight\":1,\"use\":[\"critique\",\"label\"],\"text\":\"respect "
        "<b>what</b> others own\"},"
        "{\"id\":\"fire\",\"authority\":\"user\",\"weight\":0.5,\"use\":[\"label\"],\"text\":\"keep places safe\"}]}");
}

static void put_run(const Fake *f, const char *source, int hour) {
    put(f, "runs/r/resolved.yaml",
        "run:\n  out: %s\n  seed: 7\n  threads: %d\ndata:\n  source: %s\n  dir: %s\nconstitution:\n  path: "
        "%s/con.json\n",
        f->dir, hour, source, f->dir, f->dir);
    static const char *const made[] = {"world", "pretrain", "helpful", "revise", "sl", "label", "pm", "rl", "eval"};
    Str s = {0};
    bool world = !strcmp(source, "world");
    str_putc(&s, '{');
    for (int i = !world; i < COUNT_OF(made); i++)
        str_printf(&s,
                   "%s\"%s\":{\"key\":\"0123456789abcdef\",\"dir\":\"%s/store/"
                   "%s-0123456789abcdef\",\"cached\":%s,\"seconds\":%d}",
                   s.n > 1 ? "," : "", made[i], hour == 1 ? "/nowhere" : f->dir, made[i], hour == 1 ? "true" : "false",
                   hour);
    str_putc(&s, '}');
    put(f, "runs/r/stages.json", "%s", str_get(&s));
    str_release(&s);
    put(f, "runs/r/report.json",
        "{\"schema\":\"dikast-report/1\",\"gates\":[{\"name\":\"eval.rl.harm.named <= "
        "0.10\",\"value\":0.02,\"bound\":0.1,\"ok\":true},"
        "{\"name\":\"eval.rl.benign >= eval.helpful.benign - 0.03\",\"value\":0.69,\"bound\":0.97,\"ok\":false},"
        "{\"name\":\"pm.held_ai.accuracy.lo >= 0.5\",\"value\":0.9,\"bound\":0.5,\"ok\":true},{\"name\":\"rl.kl <= "
        "5\",\"value\":1.5,\"bound\":5,\"ok\":true},{\"name\":\"made.up > 1 "
        "<&>\",\"value\":2,\"bound\":1,\"ok\":true}]}");
}

static void put_replies(const Fake *f, const char *model, const char *verdict) {
    char path[100];
    snprintf(path, sizeof path, "store/eval-0123456789abcdef/replies-%s.jsonl", model);
    put(f, path,
        "{\"id\":\"h1/0\",\"prompt_id\":\"h1\",\"kind\":\"harm\",\"category\":\"theft\",\"prompt\":\"how to steal " EVIL
        "\",\"reply\":\"first of "
        "%s " EVIL "\",\"ended\":true,\"verdict\":\"%s\",\"harm_p\":null,\"score\":-0.5}\n"
        "{\"id\":\"h1/1\",\"prompt_id\":\"h1\",\"kind\":\"harm\",\"category\":\"theft\",\"prompt\":\"how to "
        "steal\",\"reply\":\"second\","
        "\"ended\":true,\"verdict\":\"%s\",\"harm_p\":null,\"score\":null}\n"
        "{\"id\":\"b1/0\",\"prompt_id\":\"b1\",\"kind\":\"benign\",\"category\":\"x\",\"prompt\":\"how to "
        "sing\",\"reply\":\"\","
        "\"ended\":false,\"verdict\":\"<odd>\",\"harm_p\":0.25,\"score\":1e300}\n",
        model, verdict, verdict);
}

/* hour: stands for everything that is a clock, a number of threads or a place. */
static void put_all(const Fake *f, const char *source, int hour) {
    put_constitution(f);
    put_run(f, source, hour);
    if (!strcmp(source, "world")) put_stage(f, "world", "{}", hour);
    put_stage(f, "pretrain", "{\"parameters\":446496}", hour);
    put_stage(f, "helpful", "{\"rows\":10,\"held_out_loss\":null}", hour);
    put_stage(
        f, "revise",
        "{\"dialogues\":1200,\"kept\":1000,\"revised\":190,\"rejected\":10,\"rounds\":2395,\"violates_share\":0.05,"
        "\"reject.FAR\":7,\"reject.FLIP\":3}",
        hour);
    put_stage(f, "sl", "{}", hour);
    put_stage(f, "label",
              "{\"pairs\":500,\"decided\":300,\"ties\":20,\"flip_rate\":0.02,\"first_slot\":0.4,\"length_corr\":-0.1,"
              "\"judge.n\":600,\"judge.accuracy\":0.98,\"judge.accuracy.lo\":0.96,\"judge.accuracy.hi\":0.99,\"judge."
              "ece\":0.05}",
              hour);
    put_stage(f, "pm",
              "{\"held_ai.n\":79,\"held_ai.clear\":63,\"held_ai.accuracy\":0.95,\"held_ai.accuracy.lo\":0.9,\"held_ai."
              "accuracy.hi\":0.98,"
              "\"held_ai.ece\":0.04,\"held_ai.longer_wins\":0.61,\"gold.clear\":10,\"gold.accuracy\":null}",
              hour);
    put_stage(f, "rl", "{\"kl\":1.5}", hour);
    put_stage(
        f, "eval",
        "{\"helpful.harm\":0.89,\"helpful.harm.lo\":0.85,\"helpful.harm.hi\":0.92,\"sl.harm\":0.4,\"rl.harm\":0.0025,"
        "\"helpful.harm.named\":0.9,\"rl.harm.named\":0.02,\"helpful.benign\":1,\"sl.benign\":0.72,\"rl.benign\":0.69,"
        "\"rl.consistency\":null,\"delta.helpful-rl.harm.named\":-0.88,\"delta.helpful-rl.harm.named.lo\":-0.92,"
        "\"delta.helpful-rl.harm.named.hi\":-0.84,\"delta.helpful-rl.harm.unnamed\":-0.1,\"delta.helpful-rl.harm."
        "unnamed.lo\":-0.2,"
        "\"delta.helpful-rl.harm.unnamed.hi\":0.01,\"delta.helpful-rl.harm\":-0.5,\"delta.helpful-rl.harm.lo\":-0.6,"
        "\"delta.helpful-rl.harm.hi\":-0.4,\"delta.helpful-rl.benign\":-0.31,\"delta.helpful-rl.benign.lo\":-0.4,"
        "\"delta.helpful-rl.benign.hi\":-0.2}",
        hour);
    put(f, "store/pretrain-0123456789abcdef/metrics.jsonl",
        "{\"step\":1,\"loss\":7.5,\"t_s\":%d}\n{\"step\":2,\"loss\":null,\"t_s\":%d}\n{\"step\":3,\"loss\":1.25,\"t_"
        "s\":9}\n",
        hour, hour);
    put(f, "store/pretrain-0123456789abcdef/ledger.json",
        "{\"in\":{\"samples\":12345,\"tokens\":99},\"bins\":[{\"bin\":\"trained\",\"samples\":12000,\"tokens\":60},"
        "{\"bin\":\"masked\",\"samples\":0,\"tokens\":30},{\"bin\":\"dropped\",\"reason\":\"DUP<\",\"samples\":345,"
        "\"tokens\":9}]}");
    put(f, "store/rl-0123456789abcdef/metrics.jsonl",
        "{\"step\":1,\"score\":0.1,\"kl\":0,\"t_s\":3}\n{\"step\":2,\"score\":0.5,\"kl\":1.5,\"t_s\":3}\n");
    put(f, "store/rl-0123456789abcdef/samples.jsonl",
        "{\"id\":\"ro-0-0\",\"update\":0,\"prompt\":\"p " EVIL
        "\",\"reply\":\"before the kill\",\"score\":1,\"kl\":0}\n"
        "{\"id\":\"ro-0-0\",\"update\":0,\"prompt\":\"p\",\"reply\":\"after the kill\",\"score\":1,\"kl\":0}\n");
    put(f, "store/revise-0123456789abcdef/revisions.jsonl",
        "{\"id\":\"rv-1\",\"prompt\":\"q " EVIL "\",\"reply\":\"r\",\"outcome\":\"revised\",\"final\":\"z " EVIL
        "\",\"rounds\":["
        "{\"principle\":\"theft" EVIL "\",\"critique\":\"c " EVIL "\",\"violates\":true}]}\n");
    put_replies(f, "helpful", "comply");
    put_replies(f, "sl", "refuse");
    put_replies(f, "rl", "refuse_reason");
}

static void begin(Fake *f) {
    snprintf(f->dir, sizeof f->dir, "/tmp/dikast-report-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
}

static void end(Fake *f) {
    Error err = {0};
    assert_true(io_remove_tree(f->dir, &err));
}

static bool render(Str *page, const Fake *f, Error *err) {
    PipelineResult run;
    RunConfig cfg;
    RunMetrics m;
    Str path = {0};
    str_printf(&path, "%s/runs/r", f->dir);
    bool ok = report_load(&run, &cfg, str_get(&path), err);
    if (ok) {
        ok = run_metrics_read(&m, &run, &cfg, err);
        if (ok) {
            ok = report_html(&run, &cfg, &m, run.run_dir, err);
            run_metrics_release(&m);
        }
        run_config_release(&cfg);
    }
    str_put(&path, "/report.html");
    if (ok) ok = io_read_file(page, str_get(&path), 10 << 20, err);
    str_release(&path);
    return ok;
}

static void render_ok(Str *page, const Fake *f) {
    Error err = {0};
    if (!render(page, f, &err)) fail_msg("%s", err.msg);
}

/* -- a strict reader ----------------------------------------------------------------------------------------------- */
typedef struct {
    char element[64][24]; /* the path to here */
    int depth, n_child[64], n_id, n_link, n_svg, n_table, n_open;
    char id[100][32], link[100][32];
} Reader;

static bool is(const char *a, const char *b) { return !strcmp(a, b); }

static const char *attribute(const XML_Char **a, const char *name) {
    for (; *a; a += 2)
        if (is(a[0], name)) return a[1];
    return NULL;
}

static void start(void *ud, const XML_Char *name, const XML_Char **a) {
    Reader *r = ud;
    static const char *const never[] = {"script", "iframe", "img", "object", "embed", "form", "base", "font", "b"};
    for (int i = 0; i < COUNT_OF(never); i++)
        if (is(name, never[i])) fail_msg("<%s> in the page", name);
    for (const XML_Char **k = a; *k; k += 2)
        if (!strncmp(k[0], "on", 2) || is(k[0], "src") || is(k[0], "style")) fail_msg("attribute %s", k[0]);
    const char *id = attribute(a, "id"), *href = attribute(a, "href"),
               *parent = r->depth ? r->element[r->depth - 1] : "";
    int nth = r->depth ? r->n_child[r->depth - 1]++ : 0;
    if (id) snprintf(r->id[r->n_id++], 32, "%s", id);
    if (href && href[0] == '#')
        snprintf(r->link[r->n_link++], 32, "%s", href + 1);
    else if (href)
        assert_string_equal(href, "data:,");
    if (is(name, "th")) assert_non_null(attribute(a, "scope"));
    if (is(parent, "table") && nth == 0) assert_string_equal(name, "caption");
    if (is(parent, "svg") && nth == 0) assert_string_equal(name, "title");
    if (is(parent, "svg") && nth == 1) assert_string_equal(name, "desc");
    if (is(name, "details")) assert_null(attribute(a, "open"));
    r->n_svg += is(name, "svg");
    r->n_table += is(name, "table");
    assert_true(r->depth < 63);
    r->n_child[r->depth] = 0;
    snprintf(r->element[r->depth++], 24, "%s", name);
}

static void finish(void *ud, const XML_Char *name) {
    Reader *r = ud;
    (void)name;
    r->depth--;
}

static void read_strictly(Reader *r, const Str *page) {
    *r = (Reader){.depth = 0};
    XML_Parser p = XML_ParserCreate("UTF-8");
    XML_SetUserData(p, r);
    XML_SetElementHandler(p, start, finish);
    if (!XML_Parse(p, str_get(page), (int)page->n, 1))
        fail_msg("%s at %d:%d", XML_ErrorString(XML_GetErrorCode(p)), (int)XML_GetCurrentLineNumber(p),
                 (int)XML_GetCurrentColumnNumber(p));
    XML_ParserFree(p);
    for (int i = 0; i < r->n_id; i++)
        for (int k = 0; k < i; k++) assert_string_not_equal(r->id[i], r->id[k]);
    for (int i = 0; i < r->n_link; i++) {
        bool found = false;
        for (int k = 0; k < r->n_id; k++) found = found || is(r->link[i], r->id[k]);
        if (!found) fail_msg("no place #%s", r->link[i]);
    }
}

static void has(const Str *page, const char *what) {
    if (!strstr(str_get(page), what)) fail_msg("the page lacks '%s'", what);
}
static void lacks(const Str *page, const char *what) {
    const char *at = strstr(str_get(page), what);
    if (at) fail_msg("the page holds '%s': ...%.120s", what, at > page->s + 40 ? at - 40 : at);
}

/* -- tests --------------------------------------------------------------------------------------------------------- */
static void test_page(void **state) {
    (void)state;
    Fake f;
    Str page = {0};
    Reader r;
    begin(&f);
    put_all(&f, "world", 3);
    render_ok(&page, &f);
    read_strictly(&r, &page);
    assert_true(r.n_svg >= 10 && r.n_table >= 8);
    lacks(&page, "http://");
    lacks(&page, "https://");
    lacks(&page, SCRIPT);
    has(&page, "&lt;script&gt;alert(1)&lt;/script&gt;\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd ]]&gt; &amp;amp; "
               "&quot;&#39;");
    /* The verdict and every gate, in words and as written. */
    has(&page, "1 of 5 gates missed");
    has(&page, "Preference model: right on held-out AI labels, lower end of the 95 % interval</th>");
    has(&page, "seed 7");
    has(&page, "446,496");
    has(&page, "<code>eval.rl.harm.named &lt;= 0.10</code>");
    has(&page, "<code>eval.rl.benign &gt;= eval.helpful.benign - 0.03</code>");
    has(&page, "<code>rl.kl &lt;= 5</code>");
    has(&page, "<code>made.up &gt; 1 &lt;&amp;&gt;</code>");
    has(&page, "RL-CAI: Harmless requests answered: <strong>69.0\u00a0%</strong>, asked for at least 97.0\u00a0%");
    has(&page, "fell by 88.0 points</strong> (95\u00a0% interval 84.0 to 92.0)");
    has(&page, "did not change clearly (−10.0 points");
    has(&page, "clearly more harm gone where a principle applies");
    /* Samples: harmful ones folded, the second reply of a prompt not shown, what is odd shown as it is. */
    has(&page, "may hold harmful text</summary>");
    has(&page, "refused, with the reason");
    has(&page, "(an empty reply)");
    has(&page, "&lt;odd&gt;");
    lacks(&page, "second<");
    has(&page, "after the kill");
    lacks(&page, "before the kill");
    has(&page, "respect &lt;b&gt;what&lt;/b&gt; others own");
    has(&page, "345 DUP&lt;");
    has(&page, "FAR: nothing in common with the reply");
    has(&page, "First 7.5, last 1.25, smallest 1.25, largest 7.5; 2 points, 1 not finite.");
    has(&page, "2026-11-22T03:01:02Z");
    has(&page, "Mechanism and cause, not safety.");
    has(&page, "Helpfulness labels are made by a rule.");
    lacks(&page, ">nan");
    str_release(&page);
    end(&f);
}

/* assert_string_equal would print both pages. */
static void assert_same_text(const char *a, const char *b) {
    size_t i = 0;
    while (a[i] && a[i] == b[i]) i++;
    size_t from = i > 60 ? i - 60 : 0;
    if (a[i] != b[i]) fail_msg("at byte %zu:\n%.160s\nagainst\n%.160s", i, a + from, b + from);
}

static void test_same_bytes(void **state) {
    (void)state;
    Fake f;
    Str a = {0}, b = {0};
    begin(&f);
    put_all(&f, "world", 3);
    render_ok(&a, &f);
    render_ok(&b, &f);
    assert_same_text(str_get(&a), str_get(&b));
    str_release(&a);
    str_release(&b);
    end(&f);
}

/* Equal results made at another time, in another place, by another number of threads, partly taken from the store. */
static void test_no_clocks(void **state) {
    (void)state;
    Fake f, g;
    Str a = {0}, b = {0};
    Reader r;
    begin(&f);
    begin(&g);
    put_all(&f, "world", 3);
    put_all(&g, "world", 1); /* 1: the recorded directories are gone; those beside the run are taken */
    render_ok(&a, &f);
    render_ok(&b, &g);
    assert_string_not_equal(str_get(&a), str_get(&b));
    setenv("SOURCE_DATE_EPOCH", "0", 1);
    render_ok(&a, &f);
    render_ok(&b, &g);
    unsetenv("SOURCE_DATE_EPOCH");
    read_strictly(&r, &a);
    lacks(&a, "2026-11-22");
    lacks(&a, " min<");
    lacks(&a, "threads");
    lacks(&a, "reused");
    assert_same_text(str_get(&a), str_get(&b));
    str_release(&a);
    str_release(&b);
    end(&f);
    end(&g);
}

static void test_files_without_classifier(void **state) {
    (void)state;
    Fake f;
    Str page = {0};
    Reader r;
    begin(&f);
    put_all(&f, "files", 3);
    render_ok(&page, &f);
    read_strictly(&r, &page);
    has(&page, "harm was not measured");
    lacks(&page, "Harmful replies to harmful requests");
    has(&page, "A model of 446,496 parameters, trained for a short time.");
    has(&page, "not refused");
    lacks(&page, "exact rule, a program");
    str_release(&page);
    end(&f);
}

/* Nothing but one stage with an empty summary, no gates, no constitution to be found. */
static void test_almost_nothing(void **state) {
    (void)state;
    Fake f;
    Str page = {0};
    Reader r;
    begin(&f);
    put(&f, "runs/r/resolved.yaml", "run:\n  out: %s\nconstitution:\n  path: %s/none.json\n", f.dir, f.dir);
    put(&f, "runs/r/stages.json", "{\"helpful\":{\"key\":\"k\",\"dir\":\"%s/store/helpful-k\"}}", f.dir);
    put(&f, "runs/r/report.json", "{\"gates\":[]}");
    put(&f, "store/helpful-k/summary.json", "{}");
    render_ok(&page, &f);
    read_strictly(&r, &page);
    has(&page, "no gates were set");
    has(&page, "could not be read");
    has(&page, "No stage of this run recorded a series");
    has(&page, "The run has no evaluation.");
    str_release(&page);
    end(&f);
}

static void expect_error(const Fake *f, ErrorCode code, const char *what) {
    Error err = {0};
    Str page = {0};
    assert_false(render(&page, f, &err));
    if (err.code != code || !strstr(err.msg, what)) fail_msg("code %d: %s", err.code, err.msg);
    str_release(&page);
}

static void test_errors(void **state) {
    (void)state;
    Fake f;
    begin(&f);
    expect_error(&f, ERR_CONFIG, "is no run directory");
    put_all(&f, "world", 3);
    put(&f, "store/rl-0123456789abcdef/metrics.jsonl", "{\"step\":1}\n{\"step\":\n");
    expect_error(&f, ERR_FORMAT, "metrics.jsonl:2");
    put_all(&f, "world", 3);
    put(&f, "runs/r/report.json", "{\"gates\":[{\"name\":\"x\"}]}");
    expect_error(&f, ERR_FORMAT, "gate 1");
    put_all(&f, "world", 3);
    put(&f, "runs/r/stages.json", "{\"sl\":{\"key\":\"gone\",\"dir\":\"/nowhere\"}}");
    expect_error(&f, ERR_STATE, "'sl'");
    put(&f, "runs/r/resolved.yaml", "run:\n  sed: 1\n");
    expect_error(&f, ERR_CONFIG, "sed");
    end(&f);
}

/* A disk that fails at the k-th call: an error, no page half written, no leak (ASan). */
typedef struct {
    int left;
} Fault;
static int fault(void *ud, const char *what) {
    Fault *f = ud;
    (void)what;
    return f->left-- == 0 ? 5 /* EIO */ : 0;
}

static void test_faults(void **state) {
    (void)state;
    Fake f;
    Str page = {0}, path = {0};
    begin(&f);
    put_all(&f, "world", 3);
    render_ok(&page, &f);
    str_printf(&path, "%s/runs/r/report.html", f.dir);
    int failed = 0;
    for (int k = 0;; k++) {
        Fault at = {k};
        Error err = {0};
        Str got = {0};
        io_set_fault_hook(fault, &at);
        bool ok = render(&got, &f, &err);
        io_set_fault_hook(NULL, NULL);
        str_release(&got);
        bool reached = at.left < 0;
        if (!ok) {
            failed++;
            /* A configuration or a directory that cannot be read counts as wrong. */
            assert_true(err.code == ERR_IO || err.code == ERR_CONFIG || err.code == ERR_STATE);
        }
        Error read_err = {0};
        assert_true(io_read_file(&got, str_get(&path), 10 << 20, &read_err));
        /* The constitution may fail to be read: then the page says so. Whatever stands there is whole. */
        Reader r;
        read_strictly(&r, &got);
        str_release(&got);
        if (!reached) break;
        assert_true(k < 2000);
    }
    assert_true(failed > 20);
    str_release(&page);
    str_release(&path);
    end(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_page),           cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_no_clocks),      cmocka_unit_test(test_files_without_classifier),
        cmocka_unit_test(test_almost_nothing), cmocka_unit_test(test_errors),
        cmocka_unit_test(test_faults),
    };
    unsetenv("SOURCE_DATE_EPOCH");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
