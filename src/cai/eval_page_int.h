/* cai/eval_page_int.h — between the files that write the page of evaluation results. */
#ifndef DIKAST_CAI_EVAL_PAGE_INT_H
#define DIKAST_CAI_EVAL_PAGE_INT_H

#include "cai/eval_page.h"
#include "eval/html.h"
#include "eval/svg.h"

const char *member_str(const Json *j, const char *key);             /* "" when absent */
double member_num(const Json *j, const char *key);                  /* NaN */
Interval interval_of(const Json *estimate);                         /* {"value", "lo", "hi"} */
void cell_interval(Str *out, Interval v, SvgUnit unit, bool strong);
void figure_begin(Str *out, const char *title);
void figure_end(Str *out);
int system_colour(const char *name, const ResultSet *r);            /* 0..4, by order of first appearance */

/* One result as a part of its section. */
typedef void ResultPart(Str *out, const Json *result, const ResultSet *r);
ResultPart part_harm, part_over_refusal, part_rating, part_ranking, part_comparison, part_consistency, part_classifier,
    part_judges, part_contamination, part_capability, part_examples;
void system_picture(Str *out, const Systems *s);                    /* the plane of harm and help */

#endif
