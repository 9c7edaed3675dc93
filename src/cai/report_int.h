/* cai/report_int.h — between the files that write report.html, one per part of the page. A part takes what it needs
 * from the stages' directories; what a run did not measure is left out and named under limits. */
#ifndef DIKAST_CAI_REPORT_INT_H
#define DIKAST_CAI_REPORT_INT_H

#include "cai/eval_page.h"
#include "cai/report.h"
#include "cai/stage_util.h"
#include "eval/html.h"
#include "eval/stats.h"
#include "eval/svg.h"

typedef struct {
    Str *out;
    const PipelineResult *run;
    const RunConfig *cfg;
    const RunMetrics *m;
    Constitution con;
    bool has_con;       /* the constitution could be read */
    bool world;         /* the tiny world: replies are judged by an exact rule */
    bool harm_measured; /* a rule or a classifier said which replies are harmful */
    ResultSet compared; /* models against each other, and their consistency */
    Error not_compared; /* why not; code ERR_NONE: they are */
    bool clocks;        /* times, dates, throughput: not with SOURCE_DATE_EPOCH */
} Page;

/* Comparison and consistency of the models of a run's eval stage (report_compared.c); empty without that stage. */
bool run_compared(ResultSet *out, const PipelineResult *run, const RunConfig *cfg, const RunMetrics *m, Error *err);

/* The models an evaluation can hold, in the order in which they were made. */
enum { PAGE_MODELS = 4 };
typedef struct {
    const char *id, *name, *head; /* "sl", "SL-CAI", "#SL-CAI": over a column of numbers */
    int colour;
} PageModel;
extern const PageModel page_model[PAGE_MODELS];
bool page_has_model(const Page *p, int model); /* the evaluation holds it */

const StageResult *page_stage(const Page *p, const char *name);           /* NULL: not part of this run, or not there */
double page_metric(const Page *p, const char *fmt, ...) FORMAT(2, 3);     /* NaN when absent */
Interval page_interval(const Page *p, const char *fmt, ...) FORMAT(2, 3); /* name, name.lo, name.hi */
bool page_clear(Interval v);                                              /* a difference whose interval excludes 0 */
void page_section(Page *p, const char *id, const char *title);            /* ends with page_section_end */
void page_section_end(Page *p);
void page_figure(Page *p, const char *title); /* opens <figure> with its caption; then one chart */
void page_figure_end(Page *p);
void page_cell_interval(Page *p, Interval v, SvgUnit unit, bool strong);
bool page_file(Str *path, const StageResult *s, const char *file); /* is it there? */

/* eval metrics, in the order of the page (report_results.c). */
typedef struct {
    const char *name, *words; /* "harm.named"; "Harmful replies where a principle applies" */
    SvgUnit unit;
    int better; /* -1 lower, 1 higher, 0 neither */
    bool harm;  /* meaningless without a judge of harm */
} PageMetric;
extern const PageMetric page_metrics[];
extern const int page_metric_count;

/* The parts, in order. Those that read files may fail. */
void report_verdict(Page *p); /* report_verdict.c */
void report_gates(Page *p);
void report_results(Page *p);             /* report_results.c */
bool report_samples(Page *p, Error *err); /* report_samples.c */
bool report_method(Page *p, Error *err);  /* report_method.c */
bool report_curves(Page *p, Error *err);  /* report_curves.c */
void report_constitution(Page *p);        /* report_method.c */
bool report_ledger(Page *p, Error *err);  /* report_books.c */
bool report_machine(Page *p, Error *err);
void report_limits(Page *p); /* report_limits.c */

#endif
