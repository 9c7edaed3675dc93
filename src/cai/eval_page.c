/* The page of evaluation results: verdict first, then what stands behind it, then what it does not show. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cai/eval_page_int.h"

static void put_bound(Str *out, double v, SvgUnit unit) {
    if (unit == SVG_PERCENT)
        html_textf(out, "%.1f", 100 * v + 0.0);
    else
        svg_value(out, v, unit);
}

void cell_interval(Str *out, Interval v, SvgUnit unit, bool strong) {
    str_put(out, strong ? "<td class=\"n\"><strong>" : "<td class=\"n\">");
    svg_value(out, v.mean, unit);
    if (strong) str_put(out, "</strong>");
    if (isfinite(v.lo) && isfinite(v.hi)) {
        str_put(out, "<small>");
        put_bound(out, v.lo, unit);
        str_put(out, " to ");
        put_bound(out, v.hi, unit);
        str_put(out, "</small>");
    }
    str_put(out, "</td>");
}

void figure_begin(Str *out, const char *title) {
    str_put(out, "<figure><figcaption>");
    html_text(out, title);
    str_put(out, "</figcaption>\n");
}

void figure_end(Str *out) { str_put(out, "</figure>\n"); }

/* -- the verdict -----------------------------------------------------------------------------------------------------
 */

static void headline(Str *out, const GateResult *gate, int n) {
    int missed = 0;
    for (int i = 0; i < n; i++) missed += !gate[i].ok;
    str_put(out, "<h1>");
    if (n == 0)
        str_put(out, "Evaluated; no conditions were set");
    else if (missed)
        str_printf(out, "<span class=\"bad\">✗ %d of %d conditions missed</span>", missed, n);
    else
        str_printf(out, "<span class=\"good\">✓ %s %d %s met</span>", n == 1 ? "The" : "All", n,
                   n == 1 ? "condition" : "conditions");
    str_put(out, "</h1>\n");
    if (missed) str_put(out, "<ul class=\"notice\">\n");
    for (int i = 0; i < n; i++) {
        if (gate[i].ok) continue;
        str_put(out, "<li><code>");
        html_text(out, gate[i].text);
        str_put(out, "</code>: found ");
        html_number(out, gate[i].value);
        str_put(out, ", bound ");
        html_number(out, gate[i].bound);
        str_put(out, "</li>\n");
    }
    if (missed) str_put(out, "</ul>\n");
}

static Interval whole(Interval v) { return (Interval){round(v.mean), round(v.lo), round(v.hi), v.n}; }

static void verdict_table(Str *out, const Systems *s) {
    static const char *const head[] = {"System", "#Harmful replies ↓",   "#Over-refusal ↓", "#Rating ↑",
                                       "#Elo ↑", "#Elo, equal length ↑", "#Same verdict ↑"};
    html_table(out,
               "Each system; below each value its 95 % interval. ↓ lower is better, ↑ higher is better, – not measured",
               head, COUNT_OF(head));
    for (int i = 0; i < s->n; i++) {
        const SystemView *v = &s->item[i];
        html_row(out, v->name);
        cell_interval(out, v->harm, SVG_PERCENT, v->front);
        cell_interval(out, v->over_refusal, SVG_PERCENT, false);
        cell_interval(out, v->rating, SVG_NUMBER, false);
        cell_interval(out, whole(v->elo), SVG_NUMBER, false);
        cell_interval(out, whole(v->elo_length), SVG_NUMBER, false);
        cell_interval(out, v->unanimous, SVG_PERCENT, false);
        html_row_end(out);
    }
    html_table_end(out);
}

/* "rl against helpful: harm fell by 40.0 points" of every pair with the first system, where the test is clear after
 * correction. */
static void clear_changes(Str *out, const ResultSet *r) {
    static const struct {
        const char *measure, *words;
    } said[] = {{"harm", "harmful replies"}, {"refusal.benign", "refusals of harmless requests"}};
    bool any = false, compared = false;
    for (int i = 0; i < r->n; i++) {
        const Json *measures = json_get(r->item[i].json, "measures"), *systems = json_get(r->item[i].json, "systems");
        if (strcmp(r->item[i].kind, "comparison")) continue;
        compared = true;
        const char *base = member_str(json_at(systems, 0), "system");
        for (int m = 0; m < json_len(measures); m++)
            for (int k = 0; k < COUNT_OF(said); k++) {
                const Json *pairs = json_get(json_at(measures, m), "pairs");
                double better = member_num(json_at(measures, m), "better");
                if (strcmp(member_str(json_at(measures, m), "measure"), said[k].measure)) continue;
                for (int p = 0; p < json_len(pairs); p++) {
                    const Json *pair = json_at(pairs, p);
                    Interval d = interval_of(json_get(pair, "difference"));
                    if (strcmp(member_str(pair, "a"), base) || !json_bool(json_get(pair, "clear"), false)) continue;
                    if (!any) str_put(out, "<p>Clear on the same prompts (after Holm’s correction):</p>\n<ul>\n");
                    any = true;
                    str_put(out, "<li>");
                    html_text(out, member_str(pair, "b"));
                    str_put(out, " against ");
                    html_text(out, base);
                    str_printf(out, ": %s <strong class=\"%s\">%s by %.1f points</strong></li>\n", said[k].words,
                               d.mean * better > 0 ? "good" : "bad", d.mean < 0 ? "fell" : "rose", 100 * fabs(d.mean));
                }
            }
    }
    if (any)
        str_put(out, "</ul>\n");
    else if (compared)
        str_put(out,
                "<p>On the same prompts no system clearly differs from the first in harm or in refusals of harmless "
                "requests (after Holm’s correction).</p>\n");
}

void system_picture(Str *out, const Systems *s) {
    SvgPoint point[PAGE_SYSTEMS];
    int n = 0;
    for (int i = 0; i < s->n; i++) {
        const SystemView *v = &s->item[i];
        if (isnan(v->harm.mean) || isnan(v->help.mean)) continue;
        point[n++] = (SvgPoint){v->name,    v->harm.mean, v->harm.lo, v->harm.hi, v->help.mean,
                                v->help.lo, v->help.hi,   i % 5,      v->front};
    }
    if (n == 0) {
        str_put(out, "<p>No system has both: harm and help were not measured together.</p>\n");
        return;
    }
    str_put(
        out,
        "<p>Further left is less harmful, further up is more helpful. The broken line joins the systems that no other "
        "beats in both: choosing among those is a matter of what matters more.</p>\n");
    figure_begin(out, "Harm against help");
    svg_plane(out, "Harm against help", "harmful replies", SVG_PERCENT, s->help_is,
              !strcmp(s->help_is, "mean rating, 1 to 5") ? SVG_NUMBER : SVG_PERCENT, point, n);
    figure_end(out);
}

static void gates_table(Str *out, const GateResult *gate, int n) {
    static const char *const head[] = {"Condition", "#Found", "#Bound", "Met"};
    html_table(out, "Conditions that were set before", head, COUNT_OF(head));
    for (int i = 0; i < n; i++) {
        html_row(out, gate[i].text);
        html_cell_number(out, gate[i].value);
        html_cell_number(out, gate[i].bound);
        html_cell(out, gate[i].ok ? "✓ yes" : "✗ no");
        html_row_end(out);
    }
    html_table_end(out);
}

/* -- sections --------------------------------------------------------------------------------------------------------
 */

// clang-format off
static const struct {
    const char *id, *title, *kind;  /* kind NULL: asked of every result */
    ResultPart *part;
} section[] = {
    {"harm",          "Harm",                                   "harm",          part_harm},
    {"over-refusal",  "Over-refusal",                           "harm",          part_over_refusal},
    {"rating",        "Helpfulness, rated",                     "rating",        part_rating},
    {"ranking",       "Ranking",                                "ranking",       part_ranking},
    {"comparison",    "Compared on the same prompts",          "comparison",    part_comparison},
    {"consistency",   "Consistency",                            "consistency",   part_consistency},
    {"judges",        "How good the judges are",                NULL,            part_judges},
    {"classifier",    "Classifier of harm",                     "classifier",    part_classifier},
    {"capability",    "Capability",                             "capability",    part_capability},
    {"contamination", "Contamination",                          "contamination", part_contamination},
    {"examples",      "Examples",                               NULL,            part_examples},
};
// clang-format on

static bool put_section(Str *out, int k, const ResultSet *r) {
    Str body = {0};
    for (int i = 0; i < r->n; i++)
        if (!section[k].kind || !strcmp(section[k].kind, r->item[i].kind)) section[k].part(&body, r->item[i].json, r);
    bool any = body.n > 0;
    if (any) {
        html_section(out, section[k].id, section[k].title);
        str_putn(out, body.s, body.n);
        str_put(out, "</section>\n");
    }
    str_release(&body);
    return any;
}

bool eval_sections(Str *out, const ResultSet *r, const char *kind) {
    bool any = false;
    for (int k = 0; k < COUNT_OF(section); k++)
        if (section[k].kind && !strcmp(section[k].kind, kind)) any = put_section(out, k, r) || any;
    return any;
}

static bool known_kind(const char *kind) {
    for (int k = 0; k < COUNT_OF(section); k++)
        if (section[k].kind && !strcmp(section[k].kind, kind)) return true;
    return false;
}

static bool has_kind(const ResultSet *r, const char *kind) {
    for (int i = 0; i < r->n; i++)
        if (!strcmp(r->item[i].kind, kind)) return true;
    return false;
}

/* -- limits ----------------------------------------------------------------------------------------------------------
 */

// clang-format off
static const struct { const char *kind, *without; } missing[] = {
    {"harm",          "Harm and over-refusal by category were not measured ('dikast harm')."},
    {"rating",        "Helpfulness was not rated ('dikast rate'): answering is not yet helping."},
    {"ranking",       "Systems were not ranked in pairs ('dikast rank')."},
    {"comparison",    "Systems were not compared on the same prompts ('dikast compare'): intervals that overlap say little."},
    {"consistency",   "Consistency over paraphrases was not measured ('dikast consistency')."},
    {"contamination", "Nobody looked for evaluation items in the training data ('dikast contamination')."},
    {"capability",    "Capability was not measured ('dikast eval'): what the training cost is not shown."},
};
// clang-format on

static bool judged_by_machine_alone(const ResultSet *r) {
    bool machine = false;
    for (int i = 0; i < r->n; i++) {
        const Json *raters = json_get(r->item[i].json, "raters");
        for (int k = 0; k < json_len(raters); k++) {
            if (!json_bool(json_get(json_at(raters, k), "machine"), false)) return false;
            machine = true;
        }
    }
    return machine;
}

typedef void LimitFn(void *ud, const char *text);
static void limits(const ResultSet *r, LimitFn *fn, void *ud) {
    for (int k = 0; k < COUNT_OF(missing); k++)
        if (!has_kind(r, missing[k].kind)) fn(ud, missing[k].without);
    if (judged_by_machine_alone(r))
        fn(ud, "Ratings and choices are a model's alone; no person confirmed them ('dikast rate --export').");
    for (int i = 0; i < r->n; i++) {
        char text[240];
        if (known_kind(r->item[i].kind)) continue;
        snprintf(text, sizeof text, "A result of kind '%.60s' was given that this version does not show: %.80s.",
                 r->item[i].kind, r->item[i].file);
        fn(ud, text);
    }
    fn(ud, "Prompts are a sample of what people ask; rates on others may differ by more than the intervals, which know "
           "only chance.");
    fn(ud,
       "Refusals are recognised by their opening words unless a rule or judge said more: soft refusals are missed.");
}

static void put_limit(void *ud, const char *text) {
    str_put(ud, "<li>");
    html_text(ud, text);
    str_put(ud, "</li>\n");
}

static void json_limit(void *ud, const char *text) { json_out_str(ud, NULL, text); }

static void inputs(Str *out, const ResultSet *r) {
    static const char *const head[] = {"File", "Kind", "XXH3-128"};
    html_table(out, "What this page was made of", head, COUNT_OF(head));
    for (int i = 0; i < r->n; i++) {
        char hex[33];
        hash_hex(hex, r->item[i].hash);
        html_row(out, r->item[i].file);
        html_cell(out, r->item[i].kind);
        str_printf(out, "<td><code>%s</code></td>", hex);
        html_row_end(out);
    }
    html_table_end(out);
}

/* -- the page --------------------------------------------------------------------------------------------------------
 */

static void contents(Str *out, const Str *body) {
    str_put(out, "<nav aria-label=\"Contents\"><ul>");
    str_put(out, "<li><a href=\"#plane\">Harm against help</a></li>");
    for (int k = 0; k < COUNT_OF(section); k++) {
        char id[48];
        snprintf(id, sizeof id, "<h2 id=\"%s\">", section[k].id);
        if (strstr(str_get(body), id))
            str_printf(out, "<li><a href=\"#%s\">%s</a></li>", section[k].id, section[k].title);
    }
    str_put(out, "<li><a href=\"#limits\">Limits</a></li></ul></nav>\n<main>\n");
}

void eval_page(Str *out, const ResultSet *r, const GateResult *gate, int n_gate, const char *title) {
    Systems s;
    Str body = {0};
    systems_of(&s, r);
    for (int k = 0; k < COUNT_OF(section); k++) put_section(&body, k, r);
    html_begin(out, title);
    str_put(out, "<header>\n<p class=\"kicker\">");
    html_text(out, title);
    str_put(out, "</p>\n");
    headline(out, gate, n_gate);
    if (s.n) verdict_table(out, &s);
    if (s.n) {
        str_put(out, "<p class=\"dim\">Over-refusal: ");
        html_text(out, s.over_refusal_is);
        str_put(out, ". Same verdict: share of questions whose wordings all get the same. <strong>Bold</strong>: no "
                     "other system is "
                     "better in harm and help.</p>\n");
    }
    clear_changes(out, r);
    if (n_gate) gates_table(out, gate, n_gate);
    str_put(out, "</header>\n");
    contents(out, &body);
    html_section(out, "plane", "Harm against help");
    system_picture(out, &s);
    str_put(out, "</section>\n");
    str_putn(out, str_get(&body), body.n);
    html_section(out, "limits", "Limits");
    str_put(out, "<ul>\n");
    limits(r, put_limit, out);
    str_put(out, "</ul>\n");
    inputs(out, r);
    str_put(out,
            "</section>\n</main>\n<footer><p class=\"dim\">dikast " DIKAST_VERSION "</p></footer>\n</body></html>\n");
    str_release(&body);
}

static void put_interval(JsonOut *j, const char *key, Interval v) {
    json_out_obj(j, key);
    json_out_num(j, "value", v.mean);
    json_out_num(j, "lo", v.lo);
    json_out_num(j, "hi", v.hi);
    json_out_obj_end(j);
}

static void systems_json(JsonOut *j, const Systems *s) {
    json_out_arr(j, "systems");
    for (int i = 0; i < s->n; i++) {
        const SystemView *v = &s->item[i];
        json_out_obj(j, NULL);
        json_out_str(j, "system", v->name);
        put_interval(j, "harm", v->harm);
        put_interval(j, "over_refusal", v->over_refusal);
        put_interval(j, "help", v->help);
        put_interval(j, "rating", v->rating);
        put_interval(j, "elo", v->elo);
        put_interval(j, "elo_length", v->elo_length);
        put_interval(j, "unanimous", v->unanimous);
        json_out_bool(j, "front", v->front);
        json_out_obj_end(j);
    }
    json_out_arr_end(j);
}

void eval_page_json(JsonOut *j, const ResultSet *r, const GateResult *gate, int n_gate) {
    Systems s;
    systems_of(&s, r);
    json_out_str(j, "kind", "report");
    json_out_int(j, "schema", 1);
    json_out_str(j, "over_refusal_is", s.over_refusal_is);
    json_out_str(j, "help_is", s.help_is);
    systems_json(j, &s);
    json_out_arr(j, "gates");
    for (int i = 0; i < n_gate; i++) {
        json_out_obj(j, NULL);
        json_out_str(j, "gate", gate[i].text);
        json_out_num(j, "value", gate[i].value);
        json_out_num(j, "bound", gate[i].bound);
        json_out_bool(j, "ok", gate[i].ok);
        json_out_obj_end(j);
    }
    json_out_arr_end(j);
    json_out_arr(j, "limits");
    limits(r, json_limit, j);
    json_out_arr_end(j);
    json_out_arr(j, "results");
    for (int i = 0; i < r->n; i++) {
        char hex[33];
        hash_hex(hex, r->item[i].hash);
        json_out_obj(j, NULL);
        json_out_str(j, "kind", r->item[i].kind);
        json_out_str(j, "file", r->item[i].file);
        json_out_str(j, "hash", hex);
        json_out_obj_end(j);
    }
    json_out_arr_end(j);
}
