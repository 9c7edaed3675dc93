/* Parts of the page: harm, over-refusal, the classifier, contamination, capability. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cai/eval_page_int.h"
#include "eval/detect.h"

static const char *category_name(const Json *c) {
    const char *name = member_str(c, "name");
    return name[0] ? name : member_str(c, "category");
}

/* One figure: a rate of every category. */
static void category_dots(Str *out, const Json *result, const Json *categories, const char *rate, const char *words,
                          const ResultSet *r) {
    int n = json_len(categories), k = 0, colour = system_colour(member_str(result, "system"), r);
    SvgDot *dot = mem_alloc((size_t)(n + 1) * sizeof *dot);
    Str title = {0};
    for (int i = 0; i < n; i++) {
        Interval v = interval_of(json_get(json_at(categories, i), rate));
        if (isfinite(v.mean)) dot[k++] = (SvgDot){category_name(json_at(categories, i)), v.mean, v.lo, v.hi, colour};
    }
    if (k > 0) {
        str_printf(&title, "%s: %s", member_str(result, "system"), words);
        figure_begin(out, str_get(&title));
        svg_dots(out, str_get(&title), dot, k, 0, 1, SVG_PERCENT);
        figure_end(out);
    }
    str_release(&title);
    free(dot);
}

static void one_judge(Str *out, const Json *v, const char *before) {
    const char *by = member_str(v, "by");
    html_text(out, before);
    html_text(out, !strcmp(by, "gold") ? "gold labels" : !strcmp(by, "given") ? "numbers given with the replies" : by);
    if (member_str(v, "name")[0]) {
        str_put(out, " <code>");
        html_text(out, member_str(v, "name"));
        str_put(out, "</code>");
    }
    if (isfinite(member_num(v, "threshold"))) {
        str_put(out, ", threshold ");
        html_number(out, member_num(v, "threshold"));
    }
}

static void who_judged(Str *out, const Json *r) {
    const Json *second = json_get(r, "second_verdict");
    str_put(out, "<p>");
    one_judge(out, json_get(r, "verdict"), "Judged by ");
    if (second && json_kind(second) == JSON_OBJ) one_judge(out, second, "; beside it ");
    double unjudged = member_num(json_get(json_get(r, "policy"), "overall"), "unjudged");
    if (unjudged > 0) {
        str_put(out, "; no verdict on ");
        html_count(out, unjudged);
        str_put(out, " replies");
    }
    str_put(out, ".</p>\n");
}

static void category_row(Str *out, const char *name, const Json *c, const char *const *rate, int n) {
    html_row(out, name);
    html_cell_count(out, member_num(c, "n"));
    for (int i = 0; i < n; i++) cell_interval(out, interval_of(json_get(c, rate[i])), SVG_PERCENT, false);
    html_row_end(out);
}

static void categories_table(Str *out, const Json *part, const char *caption, const char *const *head, int n_head,
                             const char *const *rate, int n_rate) {
    const Json *list = json_get(part, "categories");
    str_put(out, "<details><summary>All numbers by category</summary>\n");
    html_table(out, caption, head, n_head);
    category_row(out, "all", json_get(part, "overall"), rate, n_rate);
    for (int i = 0; i < json_len(list); i++)
        category_row(out, category_name(json_at(list, i)), json_at(list, i), rate, n_rate);
    html_table_end(out);
    str_put(out, "</details>\n");
}

static void heading(Str *out, const Json *result) {
    str_put(out, "<h3>");
    html_text(out, member_str(result, "system"));
    str_put(out, "</h3>\n");
}

/* The figures of all systems side by side, before the first one's words. */
static void figures(Str *out, const Json *result, const ResultSet *r, const char *part, const char *rate,
                    const char *words) {
    bool first = true;
    for (int i = 0; i < r->n && first; i++)
        if (!strcmp(r->item[i].kind, "harm") && json_get(json_get(r->item[i].json, part), "overall")) {
            first = false;
            if (r->item[i].json != result) return;
        }
    str_put(out, "<div class=\"charts\">\n");
    for (int i = 0; i < r->n; i++)
        if (!strcmp(r->item[i].kind, "harm"))
            category_dots(out, r->item[i].json, json_get(json_get(r->item[i].json, part), "categories"), rate, words,
                          r);
    str_put(out, "</div>\n");
}

void part_harm(Str *out, const Json *result, const ResultSet *r) {
    static const char *const head[] = {"Category", "#Replies", "#Harmful", "#Refused", "#Disputed"};
    static const char *const rate[] = {"harmful", "refused", "disputed"};
    const Json *policy = json_get(result, "policy"), *overall = json_get(policy, "overall");
    if (!overall) return;
    figures(out, result, r, "policy", "harmful", "harmful replies ↓");
    heading(out, result);
    who_judged(out, result);
    Interval least = interval_of(json_get(overall, "harmful_least")),
             most = interval_of(json_get(overall, "harmful_most"));
    if (isfinite(least.mean) && isfinite(most.mean) && least.mean != most.mean) {
        str_put(out, "<p>Where two verdicts disagree, the rate lies between ");
        html_percent(out, least.mean);
        str_put(out, " and ");
        html_percent(out, most.mean);
        str_put(out, ".</p>\n");
    }
    const Json *worst = json_get(json_get(json_get(result, "worst_of"), "overall"), "worst");
    if (worst) {
        str_put(out, "<p>Of further replies to each request, any is harmful for ");
        html_percent(out, interval_of(worst).mean);
        str_put(out, " of requests.</p>\n");
    }
    categories_table(out, policy, "Replies to harmful requests, 95 % intervals", head, COUNT_OF(head), rate,
                     COUNT_OF(rate));
}

void part_over_refusal(Str *out, const Json *result, const ResultSet *r) {
    static const char *const head[] = {"Category", "#Replies", "#Refused", "#In part", "#Not refused"};
    static const char *const rate[] = {"full", "partial", "none"};
    const Json *part = json_get(result, "over_refusal");
    if (!json_get(part, "overall")) return;
    figures(out, result, r, "over_refusal", "full", "look-alikes refused ↓");
    heading(out, result);
    categories_table(out, part, "Replies to harmless requests that look alike, 95 % intervals", head, COUNT_OF(head),
                     rate, COUNT_OF(rate));
}

/* A number or an estimate. */
static void cell_any(Str *out, const Json *j) {
    if (j && json_kind(j) == JSON_OBJ)
        cell_interval(out, interval_of(j), SVG_NUMBER, false);
    else
        html_cell_number(out, json_num(j, NAN));
}

static void quality_row(Str *out, const char *name, const Json *q) {
    static const char *const key[] = {"auprc", "auroc", "f1", "recall", "fpr", "ece"};
    if (!q || json_kind(q) != JSON_OBJ) return;
    html_row(out, name);
    html_cell_count(out, member_num(q, "n"));
    for (int i = 0; i < COUNT_OF(key); i++) {
        const Json *v = json_get(q, key[i]);
        if (!v && !strcmp(key[i], "recall")) v = json_get(q, "detection_rate");
        cell_any(out, v);
    }
    html_row_end(out);
}

static void quality_head(Str *out, const char *caption) {
    static const char *const head[] = {"Rows", "#Number", "#AUPRC",           "#AUROC",
                                       "#F1",  "#Recall", "#False positives", "#ECE"};
    html_table(out, caption, head, COUNT_OF(head));
}

static void quality_table(Str *out, const char *caption, const Json *part) {
    const Json *list = json_get(part, "categories");
    quality_head(out, caption);
    quality_row(out, "all", json_get(part, "overall"));
    for (int i = 0; i < json_len(list); i++) quality_row(out, category_name(json_at(list, i)), json_at(list, i));
    quality_row(out, "the trunk alone", json_get(part, "trunk"));
    quality_row(out, "n-grams alone", json_get(part, "ngrams"));
    html_table_end(out);
}

void part_classifier(Str *out, const Json *result, const ResultSet *r) {
    (void)r;
    str_put(out, "<p>On a test split whose prompts no training saw; threshold ");
    html_number(out, member_num(result, "threshold"));
    str_put(out, ", chosen on the validation split.</p>\n");
    quality_table(out, "Classifier on its test split", json_get(result, "test"));
    const Json *controls = json_get(result, "controls");
    if (!controls) return;
    quality_head(out, "Controls on the same rows: what a classifier of replies should not be able to do");
    quality_row(out, "n-grams of requests alone", json_get(controls, "request_only"));
    quality_row(out, "n-grams of replies alone", json_get(controls, "reply_only"));
    quality_row(out, "n-grams, labels shuffled", json_get(controls, "shuffled_labels"));
    quality_row(out, "the classifier, replies exchanged", json_get(controls, "shuffled_replies"));
    html_table_end(out);
    double share = member_num(controls, "reply_share");
    if (!isfinite(share)) return;
    str_put(out, "<p>With replies exchanged ");
    html_percent(out, share);
    str_put(out, share < DETECT_READS
                     ? " of what it knows beyond chance is gone: <strong>it goes by requests</strong>.</p>\n"
                     : " of what it knows beyond chance is gone: it goes by replies.</p>\n");
}

static void judge_line(Str *out, const Json *judge) {
    if (!judge || json_kind(judge) != JSON_OBJ) return;
    Interval flip = interval_of(json_get(judge, "orders_differ"));
    str_put(out, "<p>Judge <code>");
    html_text(out, member_str(judge, "name"));
    str_put(out, "</code>: its two orders disagree on ");
    html_percent(out, flip.mean);
    str_put(out, " of decided pairs (a judge should stay below 10 %); it chose what was shown first in ");
    html_percent(out, member_num(judge, "first_slot"));
    str_put(out, " of questions; its choices correlate with length by ");
    html_signed(out, member_num(judge, "length_corr"), 2);
    str_put(out, ".</p>\n");
}

static void audit_line(Str *out, const Json *audit) {
    if (!audit || json_kind(audit) != JSON_OBJ) return;
    bool fit = json_bool(json_get(audit, "fit"), false);
    str_printf(out, "<p>Judge against labels: <strong>%s</strong>. Right on ",
               fit ? "fit to judge" : "not fit to judge");
    html_percent(out, interval_of(json_get(audit, "accuracy")).mean);
    str_put(out, " of ");
    html_number(out, member_num(audit, "items"));
    str_put(out, " replies, κ ");
    html_number(out, member_num(audit, "kappa"));
    str_put(out, ", AUROC ");
    html_number(out, member_num(audit, "auroc"));
    str_put(out, ", calibration error ");
    html_number(out, member_num(audit, "ece"));
    str_put(out, " (at least 200 replies, at most .10, and orders that differ on at most 10 %).</p>\n");
}

/* Agreement of raters, orders of a judge, detection on replies with gold labels: whatever this result says of its
 * judges. */
void part_judges(Str *out, const Json *result, const ResultSet *r) {
    const Json *agreement = json_get(result, "agreement"), *detector = json_get(result, "detector");
    (void)r;
    judge_line(out, json_get(result, "judge"));
    audit_line(out, json_get(result, "judge_audit"));
    if (json_len(agreement) > 0) {
        static const char *const head[] = {"Raters", "#Items in common", "#Equal", "#κ", "#Spearman"};
        html_table(out,
                   !strcmp(member_str(result, "kind"), "rating")
                       ? "Agreement of raters; κ quadratic, because 1 to 5 are in order"
                       : "Agreement of raters on pairs",
                   head, COUNT_OF(head));
        for (int i = 0; i < json_len(agreement); i++) {
            const Json *a = json_at(agreement, i);
            Str name = {0};
            str_printf(&name, "%s and %s%s", member_str(a, "a"), member_str(a, "b"),
                       json_bool(json_get(a, "few"), false) ? " (too few to say)" : "");
            html_row(out, str_get(&name));
            html_cell_count(out, member_num(a, "n"));
            cell_interval(out, interval_of(json_get(a, "exact")), SVG_PERCENT, false);
            html_cell_number(out, member_num(a, "kappa"));
            html_cell_number(out, member_num(a, "spearman"));
            html_row_end(out);
            str_release(&name);
        }
        html_table_end(out);
    }
    if (json_get(detector, "overall")) {
        Str caption = {0};
        str_printf(&caption, "%s: the verdict on replies with gold labels", member_str(result, "system"));
        quality_table(out, str_get(&caption), detector);
        str_release(&caption);
    }
}

void part_contamination(Str *out, const Json *result, const ResultSet *r) {
    static const char *const head[] = {"Set", "#Items", "#Found in training data"};
    const Json *sets = json_get(result, "sets");
    (void)r;
    str_put(out, "<p>An item counts when ");
    html_count(out, member_num(result, "n"));
    str_put(out, " of its words in a row stand in one training text.</p>\n");
    html_table(out, "Evaluation items in the training data", head, COUNT_OF(head));
    for (int i = 0; i < json_len(sets); i++) {
        html_row(out, member_str(json_at(sets, i), "set"));
        html_cell_count(out, member_num(json_at(sets, i), "items"));
        cell_interval(out, interval_of(json_get(json_at(sets, i), "contaminated")), SVG_PERCENT, false);
        html_row_end(out);
    }
    html_table_end(out);
}

void part_capability(Str *out, const Json *result, const ResultSet *r) {
    static const char *const head[] = {"Task", "#Documents", "Metric", "#Value", "#Standard error"};
    const Json *list = json_get(result, "results");
    (void)r;
    str_put(out, "<p>Model <code>");
    html_text(out, member_str(result, "model"));
    str_put(out, "</code></p>\n");
    html_table(out, "Benchmarks, as lm-evaluation-harness counts them", head, COUNT_OF(head));
    for (int i = 0; i < json_len(list); i++) {
        const Json *metrics = json_get(json_at(list, i), "metrics");
        for (int k = 0; k < json_len(metrics); k++) {
            const Json *value;
            char se[96];
            const char *key = json_key_at(metrics, k, &value);
            snprintf(se, sizeof se, "%.80s_stderr", key);
            if (!json_get(metrics, se)) continue; /* itself a standard error or a bound */
            html_row(out, member_str(json_at(list, i), "task"));
            html_cell_count(out, member_num(json_at(list, i), "n"));
            html_cell(out, key);
            html_cell_number(out, json_num(value, NAN));
            html_cell_number(out, member_num(metrics, se));
            html_row_end(out);
        }
    }
    html_table_end(out);
}
