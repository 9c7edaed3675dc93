/* report.html: one page that is read in two minutes, in the order of the questions a reader has: did it work, how sure
 * is that, what do replies look like, was the method sound on its way, what was done exactly, what does it not show. */
#include "cai/report_int.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"

const PageModel page_model[PAGE_MODELS] = {{"helpful", "Helpful only", "#Helpful only", 0},
                                           {"sl", "SL-CAI", "#SL-CAI", 1},
                                           {"rl", "RL-CAI", "#RL-CAI", 2},
                                           {"best_of", "Best of n", "#Best of n", 3}};

const StageResult *page_stage(const Page *p, const char *name) {
    for (int i = 0; i < p->run->n_stage; i++) {
        const StageResult *s = &p->run->stage[i];
        if (!strcmp(s->name, name)) return s->applies && s->dir[0] && io_is_dir(s->dir) ? s : NULL;
    }
    return NULL;
}

bool page_file(Str *path, const StageResult *s, const char *file) {
    path_join(path, s->dir, file);
    return io_exists(str_get(path));
}

double page_metric(const Page *p, const char *fmt, ...) {
    char name[160];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    return run_metric(p->m, name);
}

Interval page_interval(const Page *p, const char *fmt, ...) {
    char name[160];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    return (Interval){page_metric(p, "%s", name), page_metric(p, "%s.lo", name), page_metric(p, "%s.hi", name), 0};
}

/* A difference of exactly 0 is none, wherever an interval for rates of 0 begins. */
bool page_clear(Interval v) { return isfinite(v.mean) && v.mean != 0 && (v.lo > 0 || v.hi < 0); }

bool page_has_model(const Page *p, int model) {
    char prefix[40];
    snprintf(prefix, sizeof prefix, "eval.%s.", page_model[model].id);
    for (int i = 0; i < p->m->n; i++)
        if (!strncmp(p->m->item[i].name, prefix, strlen(prefix))) return true;
    return false;
}

void page_section(Page *p, const char *id, const char *title) {
    str_printf(p->out, "<section aria-labelledby=\"%s\">\n<h2 id=\"%s\">", id, id);
    html_text(p->out, title);
    str_put(p->out, "</h2>\n");
}

void page_section_end(Page *p) { str_put(p->out, "</section>\n"); }

void page_figure(Page *p, const char *title) {
    str_put(p->out, "<figure><figcaption>");
    html_text(p->out, title);
    str_put(p->out, "</figcaption>\n");
}

void page_figure_end(Page *p) { str_put(p->out, "</figure>\n"); }

void page_cell_interval(Page *p, Interval v, SvgUnit unit, bool strong) {
    str_put(p->out, strong ? "<td class=\"n\"><strong>" : "<td class=\"n\">");
    svg_value(p->out, v.mean, unit);
    if (strong) str_put(p->out, "</strong>");
    if (isfinite(v.lo) && isfinite(v.hi)) {
        /* The unit once, behind the value. */
        double scale = unit == SVG_NUMBER ? 1 : 100;
        str_put(p->out, "<small>");
        if (unit == SVG_POINTS)
            html_signed(p->out, scale * v.lo, 1);
        else if (unit == SVG_PERCENT)
            html_textf(p->out, "%.1f", scale * v.lo);
        else
            html_number(p->out, v.lo);
        str_put(p->out, " to ");
        if (unit == SVG_POINTS)
            html_signed(p->out, scale * v.hi, 1);
        else if (unit == SVG_PERCENT)
            html_textf(p->out, "%.1f", scale * v.hi);
        else
            html_number(p->out, v.hi);
        str_put(p->out, "</small>");
    }
    str_put(p->out, "</td>");
}

static void contents(Page *p) {
    static const struct {
        const char *id, *title;
    } part[] = {{"results", "Results"},
                {"comparison", "Compared"},
                {"consistency", "Consistency"},
                {"gates", "Gates"},
                {"samples", "Samples"},
                {"method", "Method"},
                {"curves", "Curves"},
                {"constitution", "Constitution"},
                {"ledger", "Ledger"},
                {"machine", "Run"},
                {"limits", "Limits"}};
    str_put(p->out, "<nav aria-label=\"Contents\"><ul>");
    for (int i = 0; i < COUNT_OF(part); i++) {
        bool compared = !strcmp(part[i].id, "comparison") || !strcmp(part[i].id, "consistency"), there = !compared;
        for (int k = 0; k < p->compared.n; k++) there = there || !strcmp(p->compared.item[k].kind, part[i].id);
        if (there) str_printf(p->out, "<li><a href=\"#%s\">%s</a></li>", part[i].id, part[i].title);
    }
    str_put(p->out, "</ul></nav>\n<main>\n");
}

static bool write_page(Page *p, Error *err) {
    char title[64];
    snprintf(title, sizeof title, "dikast report, seed %lld", (long long)p->cfg->run.seed);
    html_begin(p->out, title);
    report_verdict(p);
    contents(p);
    report_results(p);
    eval_sections(p->out, &p->compared, "comparison");
    eval_sections(p->out, &p->compared, "consistency");
    if (p->not_compared.code) {
        str_put(p->out, "<p class=\"dim\">The models could not be compared prompt by prompt: ");
        html_text(p->out, p->not_compared.msg);
        str_put(p->out, "</p>\n");
    }
    report_gates(p);
    bool ok = report_samples(p, err) && report_method(p, err) && report_curves(p, err);
    if (!ok) return false;
    report_constitution(p);
    ok = report_ledger(p, err) && report_machine(p, err);
    if (!ok) return false;
    report_limits(p);
    str_put(p->out, "</main>\n<footer><p class=\"dim\">dikast " DIKAST_VERSION
                    ". The same numbers for programs: report.json, beside this file.</p></footer>\n</body></html>\n");
    return true;
}

/* Where data files lie, as for the stages: the world stage's output, or data.dir. */
static void read_constitution(Page *p) {
    const StageResult *world = page_stage(p, "world");
    Error ignore = {0};
    p->has_con = stage_constitution(&p->con, p->cfg, p->world ? (world ? world->dir : "") : p->cfg->data.dir, &ignore);
}

bool report_html(const PipelineResult *run, const RunConfig *cfg, const RunMetrics *m, const char *dir, Error *err) {
    Str text = {0}, path = {0};
    Page p = {.out = &text, .run = run, .cfg = cfg, .m = m, .world = cfg->data.source == 1};
    p.clocks = getenv("SOURCE_DATE_EPOCH") == NULL;
    p.harm_measured = p.world || page_stage(&p, "classifier");
    read_constitution(&p);
    if (!run_compared(&p.compared, run, cfg, m, &p.not_compared)) CHECK(p.compared.n == 0, "results of a failure");
    bool ok = write_page(&p, err);
    path_join(&path, dir, "report.html");
    if (!ok)
        error_wrap(err, "%s", str_get(&path));
    else
        ok = io_write_file(str_get(&path), text.s, text.n, err);
    if (p.has_con) constitution_release(&p.con);
    results_release(&p.compared);
    str_release(&text);
    str_release(&path);
    return ok;
}
