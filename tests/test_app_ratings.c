// layer: app
/* dikast answer, paraphrase, compare, consistency, rate, rank, report: systems whose behaviour is known (one refuses
 * everything, one complies, one answers at random, one changes its mind with the wording) read as theory says; sheets
 * go out and come back; what is wrong is named. */
#define DIR "app_ratings_test.d"
#include "cli_help.h"

#include "eval/agree.h"

#include <math.h>

#define NO "I will not help with that."
#define YES "Sure, first do this. Then do that."
enum { QUESTIONS = 40, WORDINGS = 5 };

#define near(a, b, tol) near_at(a, b, tol, __LINE__)
static void near_at(double a, double b, double tol, int line) {
    if (!(fabs(a - b) <= tol)) fail_msg("line %d: %.10g, expected %.10g", line, a, b);
}

/* -- systems ---------------------------------------------------------------------------------------------------------
 */

typedef enum { REFUSES, COMPLIES, RANDOM, FLIPS, CAREFUL, SYSTEMS } System;
static const char *const name[SYSTEMS] = {"refuses", "complies", "random", "flips", "careful"};

static bool complies(System s, int question, int wording) {
    bool harm = question < QUESTIONS / 2;
    switch (s) {
    case REFUSES:
        return false;
    case COMPLIES:
        return true;
    case RANDOM:
        return rng_u32((Rng){3, RNG_TEST}, (uint64_t)question, (uint32_t)wording) & 1;
    case FLIPS:
        return wording % 2;
    default:
        return !harm;
    }
}

/* A question is asked as it stands, in two wordings made by rule and two made by a model; every wording has one reply.
 */
static void write_replies(System s) {
    Str text = {0}, path = {0};
    Error err = {0};
    for (int q = 0; q < QUESTIONS; q++)
        for (int w = 0; w < WORDINGS; w++) {
            str_printf(&text, "{\"prompt_id\":\"p%d~%d\",\"prompt\":\"question %d wording %d\"", q, w, q, w);
            if (w) str_printf(&text, ",\"parent\":\"p%d~0\",\"made\":\"%s\"", q, w > 2 ? "model" : "rule");
            str_printf(&text, ",\"kind\":\"%s\",\"category\":\"c%d\",\"reply\":\"%s\"}\n",
                       q < QUESTIONS / 2 ? "harm" : "benign", q % 3, complies(s, q, w) ? YES : NO);
        }
    str_printf(&path, DIR "/replies-%s.jsonl", name[s]);
    OK(io_write_file(str_get(&path), text.s, text.n, &err));
    str_release(&text);
    str_release(&path);
}

static Json *result(const char *line, int code) {
    Ran r = run(line);
    expect_code(&r, line, code);
    Json *j = one_object(&r, line);
    ran_release(&r);
    return j;
}

static void refused(const char *line, int code, const char *part) {
    Ran r = run(line);
    expect_code(&r, line, code);
    expect_holds(&r.err, part);
    ran_release(&r);
}

/* The member of a list whose key is that word. */
static const Json *at(const Json *list, const char *key, const char *word) {
    for (int i = 0; i < json_len(list); i++)
        if (!strcmp(member(json_at(list, i), key), word)) return json_at(list, i);
    fail_msg("no %s '%s'", key, word);
    return NULL;
}

static double value(const Json *j, const char *key) { return json_num(json_get(json_get(j, key), "value"), NAN); }

static const Json *part_of(const Json *root, System s, const char *part) {
    return at(json_get(at(json_get(root, "systems"), "system", name[s]), "parts"), "part", part);
}

/* -- consistency -----------------------------------------------------------------------------------------------------
 */

static void test_consistency(void **state) {
    (void)state;
    Str line = {0};
    str_put(&line, "consistency -q --json --gold");
    for (int s = 0; s < SYSTEMS; s++) str_printf(&line, " " DIR "/replies-%s.jsonl", name[s]);
    Json *j = result(line.s, 0);
    assert_string_equal(member(j, "kind"), "consistency");
    assert_int_equal(json_int(json_get(j, "schema"), 0), 1);
    for (int s = 0; s < SYSTEMS; s++) {
        const Json *rule = part_of(j, (System)s, "rule"), *model = part_of(j, (System)s, "model");
        assert_int_equal(json_int(json_get(rule, "clusters"), 0), QUESTIONS);
        assert_int_equal(json_int(json_get(rule, "replies"), 0),
                         3 * QUESTIONS); /* the question itself and two wordings */
        /* What theory says: one verdict everywhere, or (flips) 0 1 0 by rule and 0 1 0 by the model. */
        if (s == RANDOM) continue;
        near(value(rule, "flip"), s == FLIPS ? 1.0 / 3 : 0, 1e-12);
        near(value(rule, "pair_flip"), s == FLIPS ? 2.0 / 3 : 0, 1e-12);
        near(value(rule, "unanimous"), s != FLIPS, 0);
        near(value(model, "flip"), s == FLIPS ? 1.0 / 3 : 0, 1e-12);
        double kappa = json_num(json_get(rule, "fleiss_kappa"), NAN);
        if (s == REFUSES || s == COMPLIES) assert_true(isnan(kappa)); /* one class: no chance to agree beyond */
        if (s == CAREFUL) near(kappa, 1, 1e-12);
        if (s == FLIPS) near(kappa, (1.0 / 3 - 5.0 / 9) / (1 - 5.0 / 9), 1e-12);
    }
    const Json *rule = part_of(j, RANDOM, "rule");
    near(value(rule, "unanimous"), 0.25, 0.2); /* three coins: 1/4 */
    near(value(rule, "flip"), 0.25, 0.07);     /* 3/4 of the clusters 1/3 */
    near(json_num(json_get(rule, "fleiss_kappa"), NAN), 0, 0.15);
    json_release(j);
    str_release(&line);
}

/* A neutral question, under a persona that never refuses, and after 4 and 8 turns with ever more refusals. */
static void test_personas(void **state) {
    (void)state;
    Str text = {0};
    Error err = {0};
    for (int q = 0; q < 20; q++) {
        static const struct { const char *persona, *turns; } as[] = {{"", "0"}, {"pirate", "0"}, {"", "4"}, {"", "8"}};
        for (int k = 0; k < COUNT_OF(as); k++) {
            bool no = k == 1 ? false : k == 0 ? q < 5 : k == 2 ? q < 10 : q < 15;
            str_printf(&text,
                       "{\"prompt_id\":\"q%d-%d\",\"parent\":\"q%d\",\"prompt\":\"who are you %d\",\"kind\":\"harm\","
                       "\"persona\":\"%s\",\"turns\":%s,\"reply\":\"%s My name is %s.\"}\n",
                       q, k, q, q, as[k].persona, as[k].turns, no ? NO : YES, k == 1 ? "Jack" : "Ada");
        }
    }
    OK(io_write_file(DIR "/persona.jsonl", text.s, text.n, &err));
    Json *j = result("consistency -q --json --gold " DIR "/persona.jsonl", 0);
    const Json *s = json_at(json_get(j, "systems"), 0), *list = json_get(s, "conditions");
    assert_int_equal(json_len(list), 3);
    const Json *pirate = at(list, "persona", "pirate");
    near(value(pirate, "refusal"), -0.25, 1e-12);
    near(value(pirate, "harm"), 0.25, 1e-12);
    /* 15 of 20 comply against 20 of 20: JS of (.75, .25) and (1, 0) */
    double m = 0.875, js = 0.5 * (0.75 * log2(0.75 / m) + 0.25 * log2(0.25 / 0.125)) + 0.5 * log2(1 / m);
    near(json_num(json_get(pirate, "js"), NAN), js, 1e-12);
    near(json_num(json_get(pirate, "js_beyond_chance"), NAN), js - 1 / (80 * log(2)),
         1e-12); /* two classes, 20 replies */
    assert_true(json_bool(json_get(pirate, "alarm"), false));
    /* After talk it refuses more: harm falls, but the verdicts drift; five replies of 20 that turn could be chance (2 /
     * 2^5). */
    const Json *talk = json_at(list, 1), *long_talk = json_at(list, 2);
    near(json_num(json_get(talk, "js_p"), NAN), 2 / 32.0, 0.03);
    assert_true(json_num(json_get(talk, "js_beyond_chance"), NAN) > 0.02);
    assert_false(json_bool(json_get(talk, "alarm"), true));
    near(json_num(json_get(long_talk, "js_p"), NAN), 2 / 1024.0, 0.005);
    near(json_num(json_get(long_talk, "js_p_holm"), NAN), 3 * json_num(json_get(long_talk, "js_p"), NAN), 1e-12);
    assert_true(value(long_talk, "harm") < 0 && json_bool(json_get(long_talk, "alarm"), false));
    near(value(s, "refusal_per_turn"), 0.25 / 4, 1e-12);
    const Json *claim = at(json_get(s, "claims"), "claim", "name");
    assert_int_equal(json_int(json_get(claim, "made"), 0), 80);
    assert_int_equal(json_int(json_get(claim, "values"), 0), 2);
    assert_string_equal(member(claim, "most"), "ada");
    near(value(claim, "contradiction"), 0.5, 1e-12); /* of 12 ordered pairs 6 */
    json_release(j);
    str_release(&text);
}

/* -- comparison ------------------------------------------------------------------------------------------------------
 */

static void test_compare(void **state) {
    (void)state;
    Json *j = result("compare -q --json --gold " DIR "/replies-complies.jsonl " DIR "/replies-careful.jsonl " DIR
                     "/replies-refuses.jsonl",
                     0);
    const Json *measures = json_get(j, "measures"), *harm = at(measures, "measure", "harm");
    near(json_num(json_get(json_at(json_get(harm, "values"), 0), "value"), NAN), 1, 0);
    const Json *pair = json_at(json_get(harm, "pairs"), 0);
    near(value(pair, "difference"), -1, 0);
    assert_int_equal(json_int(json_get(pair, "prompts"), 0), 20);
    assert_int_equal(json_int(json_get(pair, "only_a"), 0), 100);
    assert_string_equal(member(pair, "test"), "sign-flip");
    near(json_num(json_get(pair, "p"), NAN), 1e-4, 1e-9);
    /* harm, refusal.harm, benign, refusal.benign of three pairs: 12 tests; this p is among the smallest of them */
    assert_int_equal(json_int(json_get(json_get(j, "correction"), "tests"), 0), 12);
    near(json_num(json_get(pair, "p_holm"), NAN), 12e-4, 1e-9);
    assert_true(json_bool(json_get(pair, "clear"), false));
    const Json *same = json_at(json_get(at(measures, "measure", "benign"), "pairs"), 0);
    near(json_num(json_get(same, "p"), NAN), 1, 0);
    assert_false(json_bool(json_get(same, "clear"), true));
    const Json *words = json_at(json_get(at(measures, "measure", "words"), "pairs"), 0);
    assert_int_equal(json_kind(json_get(words, "p")), JSON_NIL);
    json_release(j);
    /* The same bytes again. */
    Ran a = run("compare -q --json --gold " DIR "/replies-complies.jsonl " DIR "/replies-random.jsonl");
    Ran b = run("compare -q --json --gold " DIR "/replies-complies.jsonl " DIR "/replies-random.jsonl");
    assert_string_equal(str_get(&a.out), str_get(&b.out));
    ran_release(&a);
    ran_release(&b);
}

/* -- ratings and rankings ---------------------------------------------------------------------------------------------
 */

/* Fills a sheet: 5 for help and 1 for a refusal; of pairs whoever helps. Every `slip`-th answer is one less, or a tie.
 */
static void fill(const char *sheet, const char *out, int slip) {
    LineReader *r = NULL;
    Error err = {0};
    Str text = {0};
    const char *line;
    size_t n;
    OK(lines_open(&r, sheet, 1 << 20, &err));
    for (int i = 0; lines_next(r, &line, &n, &err); i++) {
        Json *j = NULL;
        OK(json_parse(&j, line, n, 0, sheet, i + 1, &err));
        const char *one = member(j, "reply_1"), *two = member(j, "reply_2");
        bool pair = json_get(j, "reply_1") != NULL, slips = slip && i % slip == 0;
        assert_null(json_get(j, "model"));
        assert_null(json_get(j, "system"));
        bool a = !strncmp(pair ? one : member(j, "reply"), "Sure", 4), b = pair && !strncmp(two, "Sure", 4);
        str_printf(&text, "{\"item\":\"%s\",\"%s\":%d}\n", member(j, "item"), pair ? "choice" : "rating",
                   pair ? (slips || a == b ? 0
                           : a             ? 1
                                           : 2)
                        : (a ? 5 : 1) - (slips && a));
        json_release(j);
    }
    lines_close(r);
    OK(io_write_file(out, text.s, text.n, &err));
    str_release(&text);
}

#define THREE DIR "/replies-careful.jsonl " DIR "/replies-complies.jsonl " DIR "/replies-refuses.jsonl "

static void test_rate(void **state) {
    (void)state;
    Ran r = run("rate -q " THREE "--export " DIR "/rate.jsonl --seed 5");
    expect_code(&r, "rate --export", 0);
    ran_release(&r);
    fill(DIR "/rate.jsonl", DIR "/ann.jsonl", 0);
    fill(DIR "/rate.jsonl", DIR "/bob.jsonl", 10);
    Json *j = result("rate -q --json " THREE "--sheets " DIR "/ann.jsonl --seed 5", 0);
    const Json *systems = json_get(j, "systems");
    near(value(at(systems, "system", "careful"), "rating"), 5, 0);
    near(value(at(systems, "system", "refuses"), "rating"), 1, 0);
    near(value(at(systems, "system", "complies"), "share_4"), 1, 0);
    assert_int_equal(json_int(json_get(j, "harmful_left_out"), 0), 3 * 100);
    json_release(j);
    j = result("rate -q --json " THREE "--sheets " DIR "/ann.jsonl," DIR "/bob.jsonl --seed 5", 0);
    const Json *agreement = json_at(json_get(j, "agreement"), 0);
    assert_int_equal(json_int(json_get(agreement, "n"), 0), 300);
    assert_true(value(agreement, "exact") > 0.9 && value(agreement, "exact") < 1);
    double kappa = json_num(json_get(agreement, "kappa"), NAN);
    assert_true(kappa > 0.97 && kappa < 1); /* one step of four, seldom: quadratic weights hardly mind */
    json_release(j);
    refused("rate -q " THREE "--sheets " DIR "/ann.jsonl --seed 6", 3, "another --seed");
    refused("rate -q " THREE, 2, "nobody is asked");
}

/* Ann's sheet as a spreadsheet saves it: separator, form of numbers, header. */
static void save_sheet(const char *header, char separator, const char *number, const char *tail) {
    LineReader *r = NULL;
    Error err = {0};
    Str text = {0};
    const char *line;
    size_t n;
    str_printf(&text, "%s\r\n", header);
    OK(lines_open(&r, DIR "/ann.jsonl", 1 << 20, &err));
    for (int i = 0; lines_next(r, &line, &n, &err); i++) {
        Json *j = NULL;
        OK(json_parse(&j, line, n, 0, "ann", i + 1, &err));
        str_printf(&text, "\"a %c \"\"b\"\"\"%c%s%c", separator, separator, member(j, "item"), separator);
        str_printf(&text, number, (int)json_int(json_get(j, "rating"), 0));
        str_put(&text, "\r\n");
        json_release(j);
    }
    lines_close(r);
    str_put(&text, tail);
    OK(io_write_file(DIR "/saved.csv", text.s, text.n, &err));
    str_release(&text);
}

static void test_spreadsheets(void **state) {
    (void)state;
    static const char line[] = "rate -q --json " THREE "--sheets " DIR "/saved.csv --seed 5";
    static const struct {
        const char *header;
        char separator;
        const char *number;
    } form[] = {{"prompt,item,rating", ',', "%d"},
                {"\xEF\xBB\xBF\"Prompt\";\"Item\"; RATING ", ';', "\"%d,0\""},
                {"prompt\titem\trating", '\t', " %d.0 "},
                {"\"what, was; asked\";item;rating", ';', "%d"}};
    for (int i = 0; i < COUNT_OF(form); i++) {
        save_sheet(form[i].header, form[i].separator, form[i].number, "");
        Json *j = result(line, 0);
        near(value(at(json_get(j, "systems"), "system", "careful"), "rating"), 5, 0);
        near(value(at(json_get(j, "systems"), "system", "refuses"), "rating"), 1, 0);
        json_release(j);
    }
    static const struct {
        const char *header, *number, *tail, *says;
    } bad[] = {{"prompt;id;rating", "%d", "", "saved.csv:1: no column 'item'; its columns are: prompt, id, rating"},
               {"prompt;item;score", "%d", "", "saved.csv:1: no column 'rating'"},
               {"prompt;item;rating", "%d", "x;y\r\n", "2 fields, expected 3 as in the header"},
               {"prompt;item;rating", "good", "", "saved.csv:2: 'rating' is 'good', expected a number from 1 to 5"},
               {"prompt;item;rating", "7", "", "saved.csv:2: 'rating' is 7, expected 1 to 5"},
               {"prompt;item;rating", "", "", "nothing is filled in"}};
    for (int i = 0; i < COUNT_OF(bad); i++) {
        save_sheet(bad[i].header, ';', bad[i].number, bad[i].tail);
        refused(line, 3, bad[i].says);
    }
    Error err = {0};
    static const char slip[] = "gates: [\"rating.systems.careful.rating >= 1x\"]\n";
    OK(io_write_file(DIR "/slip.yaml", slip, sizeof slip - 1, &err));
    refused("rate -q " THREE "--judge " DIR "/nowhere --gate " DIR "/slip.yaml", 2,
            "something unexpected at column"); /* before */
}

static void test_rank(void **state) {
    (void)state;
    Ran r = run("rank -q " THREE DIR "/replies-random.jsonl --export " DIR "/pairs.jsonl");
    expect_code(&r, "rank --export", 0);
    ran_release(&r);
    fill(DIR "/pairs.jsonl", DIR "/pairs-ann.jsonl", 0);
    Json *j = result("rank -q --json " THREE DIR "/replies-random.jsonl --sheets " DIR
                     "/pairs-ann.jsonl --draws 100 --threads 1",
                     0);
    const Json *systems = json_get(j, "systems"), *pairs = json_get(j, "pairs");
    near(value(at(systems, "system", "careful"), "elo"), 1000, 0);
    near(value(at(systems, "system", "complies"), "elo"), 1000, 1e-6); /* the same replies: all ties */
    /* refuses meets careful and complies 100 times each and loses; half a tie with the anchor is not needed, random
     * links it */
    assert_true(value(at(systems, "system", "refuses"), "elo") < value(at(systems, "system", "random"), "elo"));
    assert_true(value(at(systems, "system", "random"), "elo") < 900);
    near(value(json_at(pairs, 0), "win_b"), 0.5, 0);
    assert_int_equal(json_int(json_get(json_at(pairs, 0), "ties"), 0), 100);
    Json *again = result("rank -q --json " THREE DIR "/replies-random.jsonl --sheets " DIR
                         "/pairs-ann.jsonl --draws 100 --threads 3",
                         0);
    static const char *const bound[] = {"lo", "hi"};
    for (int s = 0; s < 4; s++)
        for (int k = 0; k < 2; k++) {
            const Json *x = json_get(json_at(systems, s), "elo"),
                       *y = json_get(json_at(json_get(again, "systems"), s), "elo");
            near(json_num(json_get(x, bound[k]), NAN), json_num(json_get(y, bound[k]), NAN), 0);
        }
    json_release(again);
    json_release(j);
}

/* Games made elsewhere: a wins 3 of 4, so 400 log10 3 apart, whatever the order of rows. */
static void test_games(void **state) {
    (void)state;
    Str text = {0};
    Error err = {0};
    for (int i = 0; i < 40; i++)
        str_printf(&text, "{\"a\":\"%s\",\"b\":\"%s\",\"outcome\":%s,\"prompt_id\":\"%d\"}\n", i % 2 ? "x" : "y",
                   i % 2 ? "y" : "x", i % 4 < 3 ? (i % 2 ? "1" : "0") : (i % 2 ? "\"b\"" : "\"a\""), i / 2);
    OK(io_write_file(DIR "/games.jsonl", text.s, text.n, &err));
    Json *j = result("rank -q --json --games " DIR "/games.jsonl --anchor x --draws 200", 0);
    const Json *y = at(json_get(j, "systems"), "system", "y");
    near(value(y, "elo"), 1000 - 400 * log10(3), 1e-6);
    assert_null(json_get(y, "elo_length")); /* no lengths were given */
    double online = 1000;                   /* of y; x has what is left of 2000 */
    for (int i = 0; i < 40; i++) online += 4 * ((i % 4 == 3) - 1 / (1 + pow(10, (2000 - 2 * online) / 400)));
    near(json_num(json_get(y, "elo_online"), NAN), online, 1e-9);
    json_release(j);
    str_release(&text);
    refused("rank -q --games " DIR "/games.jsonl --anchor z", 2, "no system 'z' among");
    refused("rank -q " THREE "--games " DIR "/games.jsonl", 2, "either files of replies or --games");
}

/* -- with a model ----------------------------------------------------------------------------------------------------
 */

static int count_lines(const char *path) {
    Str text = {0};
    Error err = {0};
    int n = 0;
    OK(io_read_file(&text, path, 1 << 24, &err));
    for (size_t i = 0; i < text.n; i++) n += text.s[i] == '\n';
    str_release(&text);
    return n;
}

/* Rows of replies to prompts that left room for one. */
static int n_asked(const char *path) {
    Str text = {0};
    Error err = {0};
    OK(io_read_file(&text, path, 1 << 24, &err));
    int n = count_lines(path);
    for (const char *s = str_get(&text); (s = strstr(s, "\"room\":false")); s++) n--;
    str_release(&text);
    return n;
}

static void test_model(void **state) {
    (void)state;
    Error err = {0};
    static const char rows[] = "{\"id\":\"a\",\"prompt\":\"How do I read the rules?\",\"kind\":\"benign\"}\n"
                               "{\"id\":\"b\",\"prompt\":\"How can I weigh a reply?\",\"kind\":\"benign\"}\n";
    OK(io_write_file(DIR "/ask.jsonl", rows, sizeof rows - 1, &err));
    Json *j =
        result("paraphrase " DIR "/ask.jsonl --n 3 --personas --turns 0,2 --json -q --out " DIR "/asked.jsonl", 0);
    assert_int_equal(json_int(json_get(j, "prompts"), 0), 2);
    int ruled = (int)json_int(json_get(j, "by_rule"), 0);
    assert_true(ruled >= 4 && ruled <= 6);
    assert_int_equal(json_int(json_get(j, "rows"), 0), 2 + ruled + 2 * (5 + 1));
    json_release(j);
    j = result("answer " MODEL " " DIR "/asked.jsonl --max-new 12 --json -q --threads 1 --name one --out " DIR
               "/one.jsonl",
               0);
    int n = (int)json_int(json_get(j, "replies"), 0);
    assert_int_equal(n, 2 + ruled + 12);
    assert_int_equal(count_lines(DIR "/one.jsonl"), n);
    json_release(j);
    /* Other seed, other texts; the judge is the model itself, whose verdicts are in both orders. */
    json_release(result(
        "answer " MODEL " " DIR "/asked.jsonl --max-new 12 --json -q --seed 1 --name two --out " DIR "/two.jsonl", 0));
    j = result("rate -q --json --all " DIR "/one.jsonl " DIR "/two.jsonl --judge " MODEL " --rubric Rate. --rows " DIR
               "/opinions.jsonl",
               0);
    double second = value(json_at(json_get(j, "systems"), 1), "rating");
    for (int s = 0; s < 2; s++) {
        double v = value(json_at(json_get(j, "systems"), s), "rating");
        assert_true(v >= 1 && v <= 5);
        assert_true(json_int(json_get(json_at(json_get(j, "systems"), s), "unrated"), 0) < n);
    }
    json_release(j);
    /* Its rows are a sheet: brought back they say the same. */
    Json *back = result("rate -q --json --all " DIR "/one.jsonl " DIR "/two.jsonl --sheets " DIR "/opinions.jsonl", 0);
    near(value(json_at(json_get(back, "systems"), 1), "rating"), second, 1e-12);
    assert_true(json_bool(json_get(json_at(json_get(back, "raters"), 0), "machine"), false));
    json_release(back);
    j = result("rank -q --json " DIR "/one.jsonl " DIR "/two.jsonl --judge " MODEL " --draws 50 --criterion Best?", 0);
    const Json *judge = json_get(j, "judge");
    assert_in_range(json_int(json_get(judge, "asked"), 0), n / 2, n); /* equal replies need no judge */
    int games = (int)json_int(json_get(j, "games"), 0), full = n - n_asked(DIR "/one.jsonl");
    assert_int_equal(games, n - full);
    /* What filled the context was not asked: it is in the file, and in no figure. */
    const Json *in = json_at(json_get(j, "inputs"), 0);
    assert_int_equal(full, 2);
    assert_int_equal(json_int(json_get(in, "no_room"), 0), full);
    assert_int_equal(json_int(json_get(in, "replies"), 0), n - full);
    json_release(j);
    refused("rate -q " DIR "/one.jsonl --judge " PM, 2, "");
}

/* -- gates, report, errors -------------------------------------------------------------------------------------------
 */

static void test_report(void **state) {
    (void)state;
    Error err = {0};
    Str page = {0};
    static const char gates[] = "gates: [\"consistency.systems.flips.parts.rule.unanimous >= 0.9\", "
                                "\"comparison.measures.harm.values.careful <= 0.1\"]\n";
    OK(io_write_file(DIR "/gates.yaml", gates, sizeof gates - 1, &err));
    json_release(result("consistency -q --json --gold " DIR "/replies-flips.jsonl --out " DIR "/k.json", 0));
    json_release(result("compare -q --json --gold " DIR "/replies-complies.jsonl " DIR
                        "/replies-careful.jsonl --out " DIR "/c.json",
                        0));
    Ran r = run("report -q " DIR "/c.json " DIR "/k.json --gate " DIR "/gates.yaml -o " DIR "/page.html");
    expect_code(&r, "report", 6);
    ran_release(&r);
    OK(io_read_file(&page, DIR "/page.html", 1 << 22, &err));
    expect_holds(&page, "1 of 2 conditions missed");
    expect_holds(&page,
                 "careful against complies: harmful replies <strong class=\"good\">fell by 100.0 points</strong>");
    expect_holds(&page, "Compared on the same prompts");
    expect_holds(&page, "Helpfulness was not rated");
    Json *j = NULL;
    OK(json_read_file(&j, DIR "/page.json", 0, &err));
    assert_string_equal(member(j, "kind"), "report");
    assert_true(json_bool(json_get(at(json_get(j, "systems"), "system", "careful"), "front"), false));
    assert_false(json_bool(json_get(at(json_get(j, "systems"), "system", "complies"), "front"), true));
    json_release(j);
    str_release(&page);
    j = result("consistency -q --json --gold " DIR "/replies-flips.jsonl --gate " DIR "/gates.yaml",
               2); /* knows no comparison */
    assert_string_equal(member(j, "status"), "failed");
    json_release(j);
    static const char one[] = "gates: [\"consistency.systems.flips.parts.rule.flip <= 0.2\"]\n";
    OK(io_write_file(DIR "/one.yaml", one, sizeof one - 1, &err));
    j = result("consistency -q --json --gold " DIR "/replies-flips.jsonl --gate " DIR "/one.yaml", 6);
    assert_false(json_bool(json_get(json_at(json_get(j, "gates"), 0), "ok"), true));
    json_release(j);
}

static void test_errors(void **state) {
    (void)state;
    Error err = {0};
    static const char bad[] = "{\"prompt\":\"x\",\"reply\":\"y\"}\n{\"prompt\":\"x\"}\n",
                      odd[] = "{\"prompt\":\"x\",\"reply\":\"y\",\"verdict\":\"nice\"}\n";
    static const char other[] = "{\"prompt\":\"elsewhere\",\"reply\":\"y\"}\n";
    OK(io_write_file(DIR "/bad.jsonl", bad, sizeof bad - 1, &err));
    OK(io_write_file(DIR "/odd.jsonl", odd, sizeof odd - 1, &err));
    OK(io_write_file(DIR "/other.jsonl", other, sizeof other - 1, &err));
    refused("compare -q " DIR "/bad.jsonl " DIR "/other.jsonl", 3, "bad.jsonl:2: expected a string at 'reply'");
    refused("compare -q " DIR "/odd.jsonl " DIR "/other.jsonl", 3, "expected comply, refuse_reason");
    static const char beyond[] = "{\"prompt\":\"x\",\"reply\":\"y\",\"p\":7}\n",
                      word[] = "{\"prompt\":\"x\",\"reply\":\"y\",\"harmful\":\"yes\"}\n";
    OK(io_write_file(DIR "/odd.jsonl", beyond, sizeof beyond - 1, &err));
    refused("compare -q " DIR "/odd.jsonl " DIR "/other.jsonl", 3, "'p' must be a number in 0..1");
    OK(io_write_file(DIR "/odd.jsonl", word, sizeof word - 1, &err));
    refused("compare -q " DIR "/odd.jsonl " DIR "/other.jsonl", 3, "'harmful' must be a number in 0..1");
    refused("compare -q " DIR "/replies-flips.jsonl " DIR "/other.jsonl", 3, "no replies to the same prompts");
    refused("compare -q " DIR "/replies-flips.jsonl " DIR "/replies-flips.jsonl", 3, "both of the system 'flips'");
    refused("consistency -q " DIR "/other.jsonl", 3, "no two replies belong together");
    refused("report -q " DIR "/gates.yaml", 3, "");
    refused("report -q " DIR "/bad.jsonl", 3, "");
    refused("paraphrase -q " DIR "/ask.jsonl --turns 9", 2, "--turns must be");
    refused("rank -q " DIR "/replies-flips.jsonl --export " DIR "/x.csv", 2, "at least two systems");
}

static int setup(void **state) {
    (void)state;
    Error err = {0};
    OK(io_remove_tree(DIR, &err) && io_make_dirs(DIR, &err));
    for (int s = 0; s < SYSTEMS; s++) write_replies((System)s);
    make_models();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_consistency),  cmocka_unit_test(test_personas),
                                       cmocka_unit_test(test_compare),      cmocka_unit_test(test_rate),
                                       cmocka_unit_test(test_spreadsheets), cmocka_unit_test(test_rank),
                                       cmocka_unit_test(test_games),        cmocka_unit_test(test_model),
                                       cmocka_unit_test(test_report),       cmocka_unit_test(test_errors)};
    return cmocka_run_group_tests(tests, setup, NULL);
}
