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

/* Contrast: text at least 4.5:1, lines of charts at least 3:1, on either background. */
// clang-format off
static const char STYLE[] =
    ":root{color-scheme:light dark;--bg:#fff;--fg:#1a1d21;--dim:#59616b;--line:#d5dae0;--soft:#f3f5f7;"
    "--link:#0b57c5;"
    "--good:#136c34;--bad:#b3261e;--s0:#66707c;--s1:#b45309;--s2:#1d5fd0;--s3:#8424c9;--s4:#b3261e}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#14171b;--fg:#e8eaed;--dim:#a7afb9;--line:#3a414a;"
    "--soft:#1e2329;"
    "--link:#8ab8ff;--good:#6fd08c;--bad:#ff8f86;--s0:#a0a9b4;--s1:#f2a33c;--s2:#6fa8ff;--s3:#cf9bff;"
    "--s4:#ff8f86}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0;background:var(--bg);color:var(--fg);"
    "font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}\n"
    "main,header,nav,footer{max-width:66rem;margin:0 auto;padding:0 1rem}\n"
    "header{padding-top:1.5rem}\n"
    "h1{font-size:1.7rem;line-height:1.2;margin:.2rem 0 .6rem}\n"
    "h2{font-size:1.3rem;margin:2.6rem 0 .6rem;padding-top:.7rem;border-top:1px solid var(--line)}\n"
    "h3{font-size:1.05rem;margin:1.6rem 0 .4rem}\n"
    "p,ul,ol,dl{margin:.5rem 0;max-width:46rem}\n"
    "a{color:var(--link)}\n"
    "nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1rem;padding:0;margin:.8rem 0}\n"
    ".dim,figcaption span,caption{color:var(--dim)}\n"
    ".good{color:var(--good)}\n"
    ".bad{color:var(--bad)}\n"
    ".kicker{color:var(--dim);margin:0}\n"
    ".notice{border-left:4px solid var(--bad);padding:.3rem .8rem;background:var(--soft)}\n"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(14rem,1fr));gap:.8rem;margin:1rem 0}\n"
    ".tile{background:var(--soft);border-radius:.5rem;padding:.7rem .9rem}\n"
    ".tile h3{margin:0 0 .3rem;font-size:.95rem}\n"
    ".tile dl{display:grid;grid-template-columns:1fr auto;margin:0;gap:0 .6rem}\n"
    ".tile dt{color:var(--dim)}\n"
    ".tile dd{margin:0;text-align:right;font-weight:600;font-variant-numeric:tabular-nums}\n"
    ".charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,18.5rem),1fr));gap:1rem 1.4rem;"
    "margin:1rem 0;align-items:end}\n"
    "figure{margin:0;min-width:0}\n"
    "figcaption{font-weight:600;font-size:.95rem}\n"
    "figcaption span{font-weight:400}\n"
    "svg{display:block;width:100%;max-width:27rem;height:auto;"
    "font:12px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}\n"
    "svg text{fill:var(--fg);paint-order:stroke;stroke:var(--bg);stroke-width:4px;stroke-linejoin:round}\n"
    "svg .dim{fill:var(--dim)}\n"
    "svg .strong{font-weight:600}\n"
    ".s0{--c:var(--s0)}.s1{--c:var(--s1)}.s2{--c:var(--s2)}.s3{--c:var(--s3)}.s4{--c:var(--s4)}\n"
    ".grid{stroke:var(--line)}.axis{stroke:var(--dim)}.bar{stroke:var(--c);stroke-width:3;opacity:.55}\n"
    ".dot,.fill{fill:var(--c)}.track{fill:var(--soft)}.band{fill:var(--c);opacity:.22}\n"
    ".curve{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round}\n"
    ".scroll{overflow-x:auto;margin:.8rem 0;position:relative}\n"
    "table{border-collapse:collapse;font-size:.93rem}\n"
    "caption{text-align:left;padding:.2rem 0;font-size:.93rem}\n"
    "th,td{text-align:left;vertical-align:top;padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line)}\n"
    "th{font-weight:600}\n"
    "thead th{vertical-align:bottom}\n"
    "th.n{text-align:right}\n"
    "tbody th{font-weight:400;min-width:8.5rem}\n"
    ".n{text-align:right;font-variant-numeric:tabular-nums}\n"
    ".nw,td.n{white-space:nowrap}\n"
    ".n small{display:block;color:var(--dim);font-size:.82rem}\n"
    "code,pre{font:.87em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}\n"
    "pre{white-space:pre-wrap;background:var(--soft);padding:.8rem;border-radius:.5rem;margin:.5rem 0}\n"
    "details{margin:.8rem 0}\n"
    "summary{cursor:pointer;padding:.25rem 0;font-weight:600}\n"
    ".pair{border:1px solid var(--line);border-radius:.5rem;padding:.6rem .8rem;margin:.7rem 0}\n"
    ".pair h4{margin:0 0 .4rem;font-size:1rem;overflow-wrap:anywhere;white-space:pre-wrap}\n"
    ".sides{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,14rem),1fr));gap:.6rem}\n"
    ".sides p,.said{margin:.1rem 0;white-space:pre-wrap;overflow-wrap:anywhere}\n"
    ".who{font-weight:600;font-size:.9rem;border-left:4px solid var(--c,var(--line));padding-left:.5rem}\n"
    ".who span{font-weight:400;color:var(--dim)}\n"
    "@media(max-width:40rem){tbody th{position:sticky;left:0;background:var(--bg);max-width:9.5rem}}\n"
    "@media print{nav{display:none}h2{break-after:avoid}figure,.pair,tr{break-inside:avoid}}\n";
// clang-format on

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

bool page_clear(Interval v) { return isfinite(v.mean) && (v.lo > 0 || v.hi < 0); }

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

static void put_value(Str *out, double v, SvgUnit unit) {
    if (unit == SVG_PERCENT)
        html_percent(out, v);
    else if (unit == SVG_POINTS)
        html_signed(out, 100 * v, 1);
    else
        html_number(out, v);
}

void page_cell_interval(Page *p, Interval v, SvgUnit unit, bool strong) {
    str_put(p->out, strong ? "<td class=\"n\"><strong>" : "<td class=\"n\">");
    put_value(p->out, v.mean, unit);
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
    } part[] = {{"results", "Results"}, {"gates", "Gates"},   {"samples", "Samples"},
                {"method", "Method"},   {"curves", "Curves"}, {"constitution", "Constitution"},
                {"ledger", "Ledger"},   {"machine", "Run"},   {"limits", "Limits"}};
    str_put(p->out, "<nav aria-label=\"Contents\"><ul>");
    for (int i = 0; i < COUNT_OF(part); i++)
        str_printf(p->out, "<li><a href=\"#%s\">%s</a></li>", part[i].id, part[i].title);
    str_put(p->out, "</ul></nav>\n<main>\n");
}

static bool write_page(Page *p, Error *err) {
    str_put(p->out, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\n"
                    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
                    "<link rel=\"icon\" href=\"data:,\"/>\n<title>dikast report, seed ");
    str_printf(p->out, "%lld</title>\n<style>\n%s</style></head>\n<body>\n", (long long)p->cfg->run.seed, STYLE);
    report_verdict(p);
    contents(p);
    report_results(p);
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
    bool ok = write_page(&p, err);
    path_join(&path, dir, "report.html");
    if (!ok)
        error_wrap(err, "%s", str_get(&path));
    else
        ok = io_write_file(str_get(&path), text.s, text.n, err);
    if (p.has_con) constitution_release(&p.con);
    str_release(&text);
    str_release(&path);
    return ok;
}
