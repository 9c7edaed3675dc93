#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/constitution_tests.h"
#include "cai/select_eval.h"
#include "cai/select_model.h"
#include "cai/stage_util.h"

/* -- figures ------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    unsigned parts;
    bool learns;
} variant[] = {{"selector", PARTS_ALL, true},
               {"words alone (bm25)", PARTS_WORDS, false},
               {"without requests", PARTS_ALL, false},
               {"without texts", PARTS_ALL & ~(PART_TEXT | PART_AVOID), true},
               {"without tags", PARTS_ALL & ~PART_TAGS, true},
               {"without examples", PARTS_ALL & ~(PART_EXAMPLES | PART_NEAR), true},
               {"without avoid", PARTS_ALL & ~PART_AVOID, true},
               {"without near misses", PARTS_ALL & ~PART_NEAR, true},
               {"without letters", PARTS_ALL & ~PART_ALIKE, true},
               {"with whole words", PARTS_ALL & ~PART_STEM, true},
               {"with filler words", PARTS_ALL & ~PART_NO_FILLER, true}};
/* Of a model, beside the text. */
static const struct {
    const char *name;
    ScoreKind kind;
} asked[] = {{"+ embedding", SCORE_EMBEDDING}, {"+ log-odds", SCORE_ODDS}, {"fusion", SCORE_FUSION}};
enum { N_VARIANT = COUNT_OF(variant), N_ASKED = COUNT_OF(asked), N_ROW = N_VARIANT + N_ASKED + 3, CANDIDATES = 8 };

typedef struct {
    const char *name;
    SelectScore score;
} Figure;

static void print_figures(const Figure *f, int n, const SelectCases *test, const SelectCases *train) {
    printf("%d requests, %d left out (their category names no principle, or several)\n", test->n, test->n_left_out);
    if (train->n) printf("naive Bayes learned from %d other requests\n", train->n);
    printf("\n%-24s  %7s  %7s  %s\n", "", "top-1", "top-3", "entropy of first picks, nats");
    for (int i = 0; i < n; i++)
        printf("%-24s  %5.1f %%  %5.1f %%  %.2f\n", f[i].name, 100 * f[i].score.top1, 100 * f[i].score.top3,
               f[i].score.entropy);
}

static void figures_json(const Args *a, const Constitution *c, const Figure *f, int n, const SelectCases *test,
                         const SelectCases *train) {
    Str s = {0};
    JsonOut j;
    json_out_init(&j, &s, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-constitution-select/1");
    json_out_str(&j, "file", a->arg[1]);
    json_out_str(&j, "sha256", c->sha256);
    json_out_int(&j, "requests", test->n);
    json_out_int(&j, "left_out", test->n_left_out);
    json_out_int(&j, "fitted", train->n);
    json_out_arr(&j, "results");
    for (int i = 0; i < n; i++) {
        json_out_obj(&j, NULL);
        json_out_str(&j, "name", f[i].name);
        json_out_num(&j, "top1", f[i].score.top1);
        json_out_num(&j, "top3", f[i].score.top3);
        json_out_num(&j, "entropy", f[i].score.entropy);
        json_out_obj_end(&j);
    }
    json_out_arr_end(&j);
    json_out_obj_end(&j);
    print_text(&s);
}

static bool ask_model(SelectModel *m, const Selector *s, const SelectCases *test, Figure *f, int *n, Error *err) {
    SelectQuery *q = mem_alloc((size_t)(test->n + 1) * sizeof *q);
    double(*score)[64] = mem_alloc((size_t)(test->n + 1) * sizeof *score);
    bool ok = true;
    for (int i = 0; i < test->n; i++) q[i] = (SelectQuery){test->at[i].prompt, ""};
    for (int k = 0; k < N_ASKED && ok; k++) {
        ok = select_model_scores(m, asked[k].kind, q, test->n, score, err);
        if (ok) f[(*n)++] = (Figure){asked[k].name, select_score_by(s, (const double(*)[64])score, test)};
    }
    free(q);
    free(score);
    return ok;
}

/* Scores by --model, an LM whose vocabulary has the sentinels. */
static bool model_figures(const Args *a, const Constitution *c, const Selector *s, const SelectCases *test, Figure *f,
                          int *n, Error *err) {
    OpenModel m = {0};
    SelectModel *by = NULL;
    Args with = *a;
    with.arg[0] = args_flag(a, &command_constitution, "--model");
    if (!open_model(&m, &with, &command_constitution, err)) return false;
    bool ok = open_model_need(&m, HEAD_LM, err);
    if (ok && !m.has_chat) {
        *err = m.no_chat;
        ok = false;
    }
    if (ok && m.chat.id[SENT_YES] < 0)
        ok = error_set(err, ERR_FORMAT, "%s: the tokenizer has no %s, so the model has no log-odds of principles",
                       str_get(&m.dir), sentinel_spelling(SENT_YES));
    ok = ok && select_model_open(&by, m.engine, &m.chat, c, s, m.model.cfg.max_seq, CANDIDATES, err) &&
         ask_model(by, s, test, f, n, err);
    select_model_close(by);
    open_model_close(&m);
    return ok;
}

/* Words learn from the requests that are ranked, unless --learn names others. */
static bool learn(Selector *s, const Args *a, Error *err) {
    const Command *self = &command_constitution;
    const char *from = args_flag(a, self, "--learn");
    return select_learn(s, a->arg[2], from ? from : args_flag(a, self, "--sources"), err);
}

static bool text_figures(const Args *a, const Constitution *c, Selector *s, const SelectCases *test, Figure *f, int *n,
                         Error *err) {
    for (int i = 0; i < N_VARIANT; i++) {
        selector_parts(s, c, variant[i].parts);
        if (variant[i].learns && !learn(s, a, err)) return false;
        f[(*n)++] = (Figure){variant[i].name, select_score(s, test)};
    }
    selector_parts(s, c, PARTS_ALL);
    return learn(s, a, err);
}

static bool read_cases(SelectCases *test, SelectCases *train, const Args *a, const Constitution *c, Error *err) {
    const Command *self = &command_constitution;
    const char *file = a->arg[2], *fit = args_flag(a, self, "--fit");
    if (!select_cases_read(test, c, file, args_flag(a, self, "--sources"), err) ||
        (fit && !select_cases_read(train, c, file, fit, err)))
        return false;
    if (!test->n)
        return error_set(
            err, ERR_FORMAT,
            "%s: no row has a 'category' that names one principle by its id or a tag; --top N ranks rows without",
            file);
    return !fit || train->n || error_set(err, ERR_FORMAT, "%s: no row to learn from in '%s'", file, fit);
}

static bool figures(const Args *a, const Constitution *c, Selector *s, Error *err) {
    SelectCases test = {0}, train = {0};
    Figure f[N_ROW];
    int n = 0;
    bool ok = read_cases(&test, &train, a, c, err) && text_figures(a, c, s, &test, f, &n, err) &&
              (!args_flag(a, &command_constitution, "--model") || model_figures(a, c, s, &test, f, &n, err));
    if (ok) {
        if (train.n) f[n++] = (Figure){"naive Bayes", select_bayes(c, &train, &test)};
        f[n++] = (Figure){"commonest", select_majority(c, &test)};
        f[n++] = (Figure){"random", select_random(c, &test)};
        if (a->json)
            figures_json(a, c, f, n, &test, &train);
        else
            print_figures(f, n, &test, &train);
    }
    select_cases_release(&test);
    select_cases_release(&train);
    return ok;
}

/* -- rankings ------------------------------------------------------------------------------------------------------ */

typedef struct {
    const Constitution *c;
    const Selector *s;
    int top;
    Str line;
} Ranking;

static bool rank_row(void *ud, const Json *row, int line, Error *err) {
    Ranking *r = ud;
    const char *prompt, *id = json_str(json_get(row, "id"), NULL);
    int rank[64];
    double score[64];
    JsonOut j;
    (void)line; /* the caller names it */
    if (!json_need_str(row, "prompt", &prompt, NULL, err)) return false;
    int n = selector_rank(r->s, prompt, rank, score);
    str_clear(&r->line);
    json_out_init(&j, &r->line, 0);
    json_out_obj(&j, NULL);
    if (id) json_out_str(&j, "id", id);
    json_out_str(&j, "prompt", prompt);
    json_out_arr(&j, "principles");
    for (int i = 0; i < n && i < r->top; i++) {
        json_out_obj(&j, NULL);
        json_out_str(&j, "id", r->c->principle[rank[i]].id);
        json_out_num(&j, "score", score[i]);
        json_out_obj_end(&j);
    }
    json_out_arr_end(&j);
    json_out_obj_end(&j);
    str_putc(&r->line, '\n');
    fwrite(r->line.s, 1, r->line.n, stdout);
    return true;
}

bool constitution_select(const Args *a, Error *err) {
    const Command *self = &command_constitution;
    int64_t top;
    Constitution c = {0};
    Selector *s = NULL;
    if (a->n_arg < 3)
        return error_set(err, ERR_CONFIG, "constitution select needs FILE and ROWS: JSON lines with a 'prompt'");
    bool ok = args_int(a, self, "--top", 0, 1, 64, &top, err) && constitution_read(&c, a->arg[1], err) &&
              selector_open(&s, &c, USE_CRITIQUE | USE_LABEL, SELECT_TOP1, 0, (Rng){0, RNG_PRINCIPLE}, err);
    if (ok && top && (args_flag(a, self, "--sources") || args_flag(a, self, "--fit") || args_flag(a, self, "--model")))
        ok = error_set(err, ERR_CONFIG,
                       "--top ranks every row by its words; it takes none of --sources, --fit, --model");
    else if (ok && top) {
        Ranking r = {.c = &c, .s = s, .top = (int)top};
        selector_parts(s, &c, PARTS_ALL);
        ok = learn(s, a, err) && jsonl_each(".", a->arg[2], rank_row, &r, err);
        str_release(&r.line);
    } else if (ok)
        ok = figures(a, &c, s, err);
    selector_close(s);
    constitution_release(&c);
    return ok;
}
