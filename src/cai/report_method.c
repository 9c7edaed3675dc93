/* The method's own quality: were revisions accepted, can the judge judge, does the preference model agree with labels
 * it did not see. A good end result with a bad judge in the middle is luck. And the constitution all of it refers to.
 */
#include "cai/report_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cai/filters.h"

/* -- critique and revision ----------------------------------------------------------------------------------------- */
// clang-format off
static const struct { Reject code; const char *words; } reason[] = {
    {REJECT_CONTEXT,    "no room left in the context"},
    {REJECT_SHORT,      "too short"},
    {REJECT_TRUNCATED,  "cut at the length limit"},
    {REJECT_TURN,       "wrote another speaker's turn"},
    {REJECT_REPEAT,     "repeats itself"},
    {REJECT_META,       "talks about the revision"},
    {REJECT_LEAK,       "copied from an example"},
    {REJECT_LANG,       "another language"},
    {REJECT_UNGROUNDED, "critique quotes nothing"},
    {REJECT_SAME,       "hardly changed"},
    {REJECT_FAR,        "nothing in common with the reply"},
    {REJECT_WORSE,      "judged worse"},
    {REJECT_FLIP,       "judge undecided about the order"},
    {REJECT_EVASIVE,    "stock refusal without a reason"},
    {REJECT_DUP,        "duplicate"},
    {REJECT_CONTAM,     "overlaps an evaluation prompt"},
    {REJECT_TIE,        "judged equal"},
};
// clang-format on

static void revise_charts(Page *p) {
    static const struct {
        const char *key, *label;
        int colour;
    } outcome[] = {{"kept", "kept: no principle violated", 0},
                   {"revised", "revised and accepted", 2},
                   {"rejected", "rejected by a filter", 4}};
    SvgBar bar[REJECT_COUNT + COUNT_OF(outcome)];
    char label[REJECT_COUNT][64];
    int n = 0;
    for (int i = 0; i < COUNT_OF(outcome); i++)
        bar[n++] = (SvgBar){outcome[i].label, page_metric(p, "revise.%s", outcome[i].key), outcome[i].colour};
    str_put(p->out, "<div class=\"charts\">\n");
    page_figure(p, "Outcome of critique and revision, dialogues");
    svg_bars(p->out, "Outcome of critique and revision, dialogues", bar, n);
    page_figure_end(p);
    n = 0;
    for (int i = 0; i < COUNT_OF(reason); i++) {
        double v = page_metric(p, "revise.reject.%s", reject_name(reason[i].code));
        if (!isfinite(v)) continue;
        snprintf(label[n], sizeof label[n], "%s: %s", reject_name(reason[i].code), reason[i].words);
        bar[n] = (SvgBar){label[n], v, 4};
        n++;
    }
    if (n > 0) {
        page_figure(p, "Rejected, by reason");
        svg_bars(p->out, "Rejected dialogues by reason", bar, n);
        page_figure_end(p);
    }
    str_put(p->out, "</div>\n");
}

typedef struct {
    Page *p;
    int shown;
} Examples;
enum { EXAMPLES = 3 };

static const char *text_of(const Json *row, const char *key) {
    const char *s = json_str(json_get(row, key), NULL);
    return s ? s : "";
}

static void said(Page *p, const char *who, const char *what) {
    str_printf(p->out, "<p class=\"who\">%s</p><p class=\"said\">", who);
    html_text(p->out, what);
    str_put(p->out, "</p>");
}

static bool add_example(void *ud, const Json *row, int number, Error *err) {
    Examples *e = ud;
    (void)number, (void)err;
    if (e->shown == EXAMPLES || strcmp(text_of(row, "outcome"), "revised")) return true;
    if (e->shown++ == 0)
        str_printf(e->p->out, "<details><summary>The first %d accepted revisions – may hold harmful text</summary>\n",
                   EXAMPLES);
    str_put(e->p->out, "<div class=\"pair\"><h4>");
    html_text(e->p->out, text_of(row, "prompt"));
    str_put(e->p->out, "</h4>");
    said(e->p, "First reply", text_of(row, "reply"));
    const Json *rounds = json_get(row, "rounds");
    for (int i = 0; i < json_len(rounds); i++) {
        const Json *q = json_at(rounds, i);
        Str who = {0};
        str_put(&who, "Critique under ‘");
        html_text(&who, text_of(q, "principle"));
        str_put(&who, json_bool(json_get(q, "violates"), false) ? "’: violated" : "’: not violated");
        said(e->p, str_get(&who), text_of(q, "critique"));
        str_release(&who);
    }
    said(e->p, "After revision", text_of(row, "final"));
    str_put(e->p->out, "</div>\n");
    return true;
}

static bool revise(Page *p, Error *err) {
    const StageResult *stage = page_stage(p, "revise");
    if (!stage) return true;
    str_put(p->out, "<h3>Critique and revision</h3>\n<p>");
    html_count(p->out, page_metric(p, "revise.dialogues"));
    str_put(p->out, " dialogues, ");
    html_count(p->out, page_metric(p, "revise.rounds"));
    str_put(p->out, " critiques; ");
    html_percent(p->out, page_metric(p, "revise.violates_share"));
    str_put(p->out,
            " of the critiques found a violation. The structure of critique and revision is forced, so every output "
            "parses; what can fail is its content, and that is what the filters reject.</p>\n");
    revise_charts(p);
    Str path = {0};
    Examples e = {p, 0};
    bool ok =
        !page_file(&path, stage, "revisions.jsonl") || jsonl_each(stage->dir, "revisions.jsonl", add_example, &e, err);
    if (e.shown) str_put(p->out, "</details>\n");
    str_release(&path);
    return ok;
}

/* -- judge --------------------------------------------------------------------------------------------------------- */
static void judge_row(Page *p, const char *what, Interval v, SvgUnit unit, const char *good) {
    if (!isfinite(v.mean)) return;
    html_row(p->out, what);
    page_cell_interval(p, v, unit, false);
    html_cell(p->out, good);
    html_row_end(p->out);
}

static void judge(Page *p) {
    if (!page_stage(p, "label")) return;
    static const char *const head[] = {"Check", "#Value", "What is good"};
    double pairs = page_metric(p, "label.pairs");
    bool remote = isfinite(page_metric(p, "label.remote.answers"));
    str_put(p->out, "<h3>The judge</h3>\n<p>The feedback model is ");
    if (remote) {
        str_put(p->out, "a service’s, <code>");
        html_text(p->out, p->cfg->judge.model);
        str_put(p->out, "</code>");
    } else
        str_put(p->out, "this run’s own helpful model, frozen");
    str_put(p->out, ". It reads every pair in both orders and answers in log-odds; labels stay soft. Of ");
    html_count(p->out, pairs);
    str_put(p->out, " pairs ");
    html_count(p->out, page_metric(p, "label.decided"));
    str_put(p->out, " have a clear label and ");
    html_count(p->out, page_metric(p, "label.ties"));
    str_put(p->out, " were left out as ties.");
    if (remote) {
        str_put(p->out, " It gave ");
        html_count(p->out, page_metric(p, "label.remote.answers"));
        str_put(p->out, " answers for ");
        html_count(p->out, page_metric(p, "label.remote.tokens_in") + page_metric(p, "label.remote.tokens_out"));
        str_printf(p->out,
                   " tokens (%.4g USD at the prices given); questions refused: ", page_metric(p, "label.remote.usd"));
        html_count(p->out, page_metric(p, "label.remote.refused"));
        str_put(p->out, ", without a readable answer: ");
        html_count(p->out, page_metric(p, "label.remote.unreadable"));
        str_put(p->out, ".");
    }
    str_put(p->out, "</p>\n");
    Str caption = {0};
    str_put(&caption, "The judge against pairs with a known answer");
    if (isfinite(page_metric(p, "label.judge.n"))) {
        str_put(&caption, ", n = ");
        html_count(&caption, page_metric(p, "label.judge.n"));
    }
    html_table(p->out, str_get(&caption), head, COUNT_OF(head));
    str_release(&caption);
    judge_row(p, "Accuracy", page_interval(p, "label.judge.accuracy"), SVG_PERCENT, "near 100 %; a coin gives 50 %");
    judge_row(p, "Confidence where neither reply is better", page_interval(p, "label.judge.tie_confidence"),
              SVG_PERCENT, "near 50 %");
    judge_row(p, "Calibration error (ECE)", page_interval(p, "label.judge.ece"), SVG_NUMBER, "near 0");
    judge_row(p, "Brier score", page_interval(p, "label.judge.brier"), SVG_NUMBER, "near 0; 0.25 is a coin");
    judge_row(p, "Clear labels that flip with the order", page_interval(p, "label.flip_rate"), SVG_PERCENT, "near 0 %");
    judge_row(p, "First place preferred", page_interval(p, "label.first_slot"), SVG_PERCENT,
              "near 50 %; both orders are averaged");
    judge_row(p, "Correlation of the label with length", page_interval(p, "label.length_corr"), SVG_NUMBER, "near 0");
    html_table_end(p->out);
}

/* -- preference model and classifier ------------------------------------------------------------------------------- */
static const struct {
    const char *key, *words;
} set[] = {{"held_ai", "AI labels, held out"},
           {"held_helpful", "Helpfulness pairs, held out"},
           {"gold", "Gold pairs, never trained on"},
           {"human", "Human harmlessness pairs, never trained on"}};

static void preference(Page *p) {
    if (!page_stage(p, "pm")) return;
    static const char *const head[] = {"Pairs", "#Clear pairs", "#Ranked right", "#‘The longer wins’ would get",
                                       "#Calibration error (ECE)"};
    SvgDot dot[2 * COUNT_OF(set)];
    char label[2 * COUNT_OF(set)][80];
    int n = 0;
    str_put(p->out, "<h3>The preference model</h3>\n<p>Agreement with AI labels says that it learned what the judge "
                    "said; agreement with "
                    "gold or human labels says that this was right. The baseline prefers the longer reply.</p>\n");
    html_table(p->out, "The preference model on pairs it was not trained on, with 95 % intervals", head,
               COUNT_OF(head));
    for (int i = 0; i < COUNT_OF(set); i++) {
        Interval acc = page_interval(p, "pm.%s.accuracy", set[i].key);
        double clear = page_metric(p, "pm.%s.clear", set[i].key),
               longer = page_metric(p, "pm.%s.longer_wins", set[i].key);
        if (!isfinite(clear)) continue;
        html_row(p->out, set[i].words);
        html_cell_count(p->out, clear);
        page_cell_interval(p, acc, SVG_PERCENT, false);
        html_cell_percent(p->out, longer);
        html_cell_number(p->out, page_metric(p, "pm.%s.ece", set[i].key));
        html_row_end(p->out);
        snprintf(label[n], sizeof label[n], "%s", set[i].words);
        dot[n] = (SvgDot){label[n], acc.mean, acc.lo, acc.hi, 3};
        n++;
        snprintf(label[n], sizeof label[n], "… ‘the longer wins’");
        dot[n] = (SvgDot){label[n], longer, NAN, NAN, 0};
        n++;
    }
    html_table_end(p->out);
    if (n == 0) return;
    str_put(p->out, "<div class=\"charts\">\n");
    page_figure(p, "Pairs ranked right, with 95 % intervals");
    svg_dots(p->out, "Preference model: pairs ranked right", dot, n, 0, 1, SVG_PERCENT);
    page_figure_end(p);
    str_put(p->out, "</div>\n");
}

static void classifier(Page *p) {
    if (!page_stage(p, "classifier")) return;
    static const char *const head[] = {"Check", "#Value", "What is good"};
    Str caption = {0};
    str_put(&caption, "The classifier on held-out labelled replies, n = ");
    html_count(&caption, page_metric(p, "classifier.n_test"));
    str_put(p->out, "<h3>The harm classifier</h3>\n<p>It measures harm in the results and trains nothing. Its errors "
                    "are errors of the "
                    "harm figures above.</p>\n");
    html_table(p->out, str_get(&caption), head, COUNT_OF(head));
    str_release(&caption);
    judge_row(p, "Harmful replies found (recall)", page_interval(p, "classifier.recall"), SVG_PERCENT, "near 100 %");
    judge_row(p, "Harmless replies flagged", page_interval(p, "classifier.fpr"), SVG_PERCENT, "near 0 %");
    judge_row(p, "AUROC", page_interval(p, "classifier.auroc"), SVG_NUMBER, "near 1; 0.5 is a coin");
    judge_row(p, "F1", page_interval(p, "classifier.f1"), SVG_NUMBER, "near 1");
    judge_row(p, "Calibration error (ECE)", page_interval(p, "classifier.ece"), SVG_NUMBER, "near 0");
    judge_row(p, "Threshold", page_interval(p, "classifier.threshold"), SVG_NUMBER, "chosen on other replies, for F1");
    html_table_end(p->out);
}

bool report_method(Page *p, Error *err) {
    page_section(p, "method", "Quality of the method’s own steps");
    bool ok = revise(p, err);
    judge(p);
    preference(p);
    classifier(p);
    page_section_end(p);
    return ok;
}

/* -- constitution -------------------------------------------------------------------------------------------------- */
static void principle(Page *p, const Principle *q) {
    static const char *const authority[] = {"root", "system", "developer", "user", "guideline"};
    html_row(p->out, q->id);
    str_put(p->out, "<td>");
    html_text(p->out, q->text);
    if (q->avoid && q->avoid[0]) {
        str_put(p->out, " <span class=\"dim\">Avoid: ");
        html_text(p->out, q->avoid);
        str_put(p->out, "</span>");
    }
    str_put(p->out, "</td>");
    html_cell(p->out, q->authority <= AUTH_GUIDELINE ? authority[q->authority] : "");
    html_cell_number(p->out, q->weight);
    html_cell(p->out, q->use == (USE_CRITIQUE | USE_LABEL) ? "critique, labels"
                      : q->use & USE_CRITIQUE              ? "critique"
                      : q->use & USE_LABEL                 ? "labels"
                                                           : "–");
    html_row_end(p->out);
}

void report_constitution(Page *p) {
    static const char *const head[] = {"Principle", "Text", "Authority", "#Weight", "Used for"};
    const Constitution *c = &p->con;
    page_section(p, "constitution", "The constitution in force");
    if (!p->has_con) {
        str_put(p->out, "<p>The constitution <code>");
        html_text(p->out, p->cfg->constitution.path);
        str_put(
            p->out,
            "</code> could not be read when this page was written; the stages’ records name it by its SHA-256.</p>\n");
        page_section_end(p);
        return;
    }
    str_put(p->out, "<p>‘");
    html_text(p->out, c->id);
    str_put(p->out, "’, version ");
    html_text(p->out, c->version);
    str_put(p->out, ". SHA-256 of the whole document in canonical form: <code>");
    html_text(p->out, c->sha256);
    str_put(p->out, "</code>.");
    if (p->cfg->constitution.only.n > 0)
        str_put(p->out, " Only the principles below were in force (<code>constitution.only</code>).");
    str_put(p->out, "</p>\n");
    Str caption = {0};
    str_printf(&caption, "%d %s in force", c->n, c->n == 1 ? "principle" : "principles");
    html_table(p->out, str_get(&caption), head, COUNT_OF(head));
    for (int i = 0; i < c->n; i++) principle(p, &c->principle[i]);
    html_table_end(p->out);
    str_release(&caption);
    page_section_end(p);
}
