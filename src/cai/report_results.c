/* Harm, help, over-refusal, consistency: each model's numbers and the differences between models on the same prompts.
 */
#include "cai/report_int.h"

#include <math.h>
#include <string.h>

// clang-format off
const PageMetric page_metrics[] = {
    {"harm",              "Harmful replies to harmful requests",                 SVG_PERCENT, -1, true},
    {"harm.named",        "Harmful replies where a principle applies",           SVG_PERCENT, -1, true},
    {"harm.named.unseen", "… and about things no demonstration named", SVG_PERCENT, -1, true},
    {"harm.unnamed",      "Harmful replies where no principle applies",          SVG_PERCENT, -1, true},
    {"refusal.harm",      "Harmful requests refused",                            SVG_PERCENT,  1, false},
    {"reason.named",      "Refusals with a reason where a principle applies",    SVG_PERCENT,  1, false},
    {"evade.named",       "Evasive replies where a principle applies",           SVG_PERCENT, -1, false},
    {"benign",            "Harmless requests answered",                          SVG_PERCENT,  1, false},
    {"lookalike",         "Harmless requests that look harmful, answered",       SVG_PERCENT,  1, false},
    {"refusal.benign",    "Harmless requests refused (over-refusal)",            SVG_PERCENT, -1, false},
    {"consistency",       "Same verdict for paraphrases and repeated samples",   SVG_PERCENT,  1, false},
    {"ended",             "Replies that end by themselves",                      SVG_PERCENT,  1, false},
    {"length",            "Length of replies, tokens",                           SVG_NUMBER,   0, false},
    {"pm_score",          "Score by the preference model, its own units",        SVG_NUMBER,   0, false},
    {"ppl",               "Perplexity of reference replies",                     SVG_NUMBER,  -1, false},
    {"choice.acc",        "Multiple choice, right",                              SVG_PERCENT,  1, false},
    {"choice.acc_norm",   "Multiple choice, right by log-prob per byte",         SVG_PERCENT,  1, false},
};
// clang-format on
const int page_metric_count = COUNT_OF(page_metrics);

static bool measured(const Page *p, const PageMetric *m) {
    if (m->harm && !p->harm_measured) return false;
    for (int i = 0; i < PAGE_MODELS; i++)
        if (isfinite(page_metric(p, "eval.%s.%s", page_model[i].id, m->name))) return true;
    return false;
}

static void table(Page *p) {
    const char *head[1 + PAGE_MODELS] = {"Measure"};
    int n = 1;
    for (int i = 0; i < PAGE_MODELS; i++)
        if (page_has_model(p, i)) head[n++] = page_model[i].head;
    html_table(p->out,
               "Each model on the same held-out prompts; below each value its 95 % interval. ↓ lower is better, ↑ "
               "higher is better",
               head, n);
    for (int k = 0; k < page_metric_count; k++) {
        const PageMetric *m = &page_metrics[k];
        if (!measured(p, m)) continue;
        Str words = {0};
        str_printf(&words, "%s%s", m->words, m->better < 0 ? " ↓" : m->better > 0 ? " ↑" : "");
        html_row(p->out, str_get(&words));
        str_release(&words);
        for (int i = 0; i < PAGE_MODELS; i++)
            if (page_has_model(p, i))
                page_cell_interval(p, page_interval(p, "eval.%s.%s", page_model[i].id, m->name), m->unit, false);
        html_row_end(p->out);
    }
    html_table_end(p->out);
}

static void chart(Page *p, const char *metric) {
    const PageMetric *m = page_metrics;
    while (strcmp(m->name, metric)) m++;
    if (!measured(p, m)) return;
    SvgDot dot[PAGE_MODELS];
    int n = 0;
    for (int i = 0; i < PAGE_MODELS; i++) {
        Interval v = page_interval(p, "eval.%s.%s", page_model[i].id, metric);
        if (page_has_model(p, i)) dot[n++] = (SvgDot){page_model[i].name, v.mean, v.lo, v.hi, page_model[i].colour};
    }
    Str title = {0};
    str_printf(&title, "%s %s", m->words, m->better < 0 ? "↓" : "↑");
    page_figure(p, str_get(&title));
    svg_dots(p->out, str_get(&title), dot, n, 0, 1, SVG_PERCENT);
    page_figure_end(p);
    str_release(&title);
}

/* -- differences --------------------------------------------------------------------------------------------------- */
static const struct {
    int a, b;
    const char *name;
} step[] = {{0, 1, "#Helpful only → SL-CAI"}, {1, 2, "#SL-CAI → RL-CAI"}, {0, 2, "#Helpful only → RL-CAI"}};

static Interval difference(const Page *p, int s, const char *metric) {
    return page_interval(p, "eval.delta.%s-%s.%s", page_model[step[s].a].id, page_model[step[s].b].id, metric);
}

static bool any_difference(const Page *p, const PageMetric *m) {
    if (m->harm && !p->harm_measured) return false;
    for (int s = 0; s < COUNT_OF(step); s++)
        if (isfinite(difference(p, s, m->name).mean)) return true;
    return false;
}

static void difference_charts(Page *p) {
    static const char *const metric[] = {"harm.named", "harm.unnamed", "harm", "benign", "lookalike", "refusal.benign"};
    static const char *const words[] = {
        "Harmful, a principle applies", "Harmful, no principle applies", "Harmful replies",
        "Harmless requests answered",   "Look-alikes answered",          "Harmless requests refused"};
    bool named = isfinite(difference(p, 0, "harm.named").mean);
    str_put(p->out, "<div class=\"charts\">\n");
    for (int s = 0; s < COUNT_OF(step); s++) {
        SvgDot dot[COUNT_OF(metric)];
        int n = 0;
        for (int k = 0; k < COUNT_OF(metric); k++) {
            Interval d = difference(p, s, metric[k]);
            bool harm = !strncmp(metric[k], "harm", 4);
            if (!isfinite(d.mean) || (harm && !p->harm_measured) || (named && !strcmp(metric[k], "harm"))) continue;
            dot[n++] = (SvgDot){words[k], d.mean, d.lo, d.hi, page_model[step[s].b].colour};
        }
        if (n == 0) continue;
        page_figure(p, step[s].name + 1);
        svg_dots(p->out, step[s].name + 1, dot, n, -1, 1, SVG_POINTS);
        page_figure_end(p);
    }
    str_put(p->out, "</div>\n");
}

static void differences(Page *p) {
    bool any = false;
    for (int k = 0; k < page_metric_count; k++) any = any || any_difference(p, &page_metrics[k]);
    if (!any) return;
    str_put(p->out,
            "<h3>Differences, prompt by prompt</h3>\n<p>The models answer the same prompts under the same random "
            "numbers, so "
            "their differences are known better than the numbers themselves. Shares differ in percentage points; "
            "<strong>bold</strong>: the 95\xc2\xa0% interval excludes zero.</p>\n");
    difference_charts(p);
    const char *head[1 + COUNT_OF(step)] = {"Measure"};
    for (int s = 0; s < COUNT_OF(step); s++) head[1 + s] = step[s].name;
    html_table(p->out, "Paired differences with 95 % intervals", head, COUNT_OF(head));
    for (int k = 0; k < page_metric_count; k++) {
        const PageMetric *m = &page_metrics[k];
        if (!any_difference(p, m)) continue;
        html_row(p->out, m->words);
        for (int s = 0; s < COUNT_OF(step); s++) {
            Interval d = difference(p, s, m->name);
            page_cell_interval(p, d, m->unit == SVG_PERCENT ? SVG_POINTS : SVG_NUMBER, page_clear(d));
        }
        html_row_end(p->out);
    }
    html_table_end(p->out);
}

void report_results(Page *p) {
    page_section(p, "results", "Results");
    bool any = false;
    for (int i = 0; i < PAGE_MODELS; i++) any = any || page_has_model(p, i);
    if (!any) {
        str_put(p->out, "<p>The run has no evaluation.</p>\n");
        page_section_end(p);
        return;
    }
    str_put(p->out, p->world ? "<p>Judged by the tiny world’s exact rule, a program that no training stage uses. "
                               "‘Answered’ means answered rightly, with the right tool.</p>\n"
                    : p->harm_measured
                        ? "<p>Harm: judged by a classifier trained on labelled replies that no other stage uses. "
                          "Refusals: recognised by their opening words; ‘answered’ means not refused, "
                          "which is not yet helpful.</p>\n"
                        : "<p>Harm was not measured. Refusals: recognised by their opening words; "
                          "‘answered’ means not refused, which is not yet helpful.</p>\n");
    str_put(p->out, "<div class=\"charts\">\n");
    static const char *const shown[] = {"harm",      "harm.named",     "harm.unnamed", "benign",
                                        "lookalike", "refusal.benign", "consistency"};
    for (int i = 0; i < COUNT_OF(shown); i++) chart(p, shown[i]);
    str_put(p->out, "</div>\n");
    table(p);
    differences(p);
    page_section_end(p);
}
