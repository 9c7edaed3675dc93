/* cai/eval_page.h — the page made of evaluation results, whoever wrote them (docs/formats.md, "Evaluation results"): read in two
 * minutes by somebody who has to decide whether a model may ship. One file: inline CSS and SVG, no script, no network, light and
 * dark. Whatever a result holds is escaped; texts that may be harmful are blurred until clicked. */
#ifndef DIKAST_CAI_EVAL_PAGE_H
#define DIKAST_CAI_EVAL_PAGE_H

#include "cai/eval_results.h"

enum { PAGE_RESULTS = 64, PAGE_SYSTEMS = 32 };
typedef struct {
    Json *json;
    char *file;
    const char *kind;           /* result_kind */
    Hash hash;                  /* of the file */
    bool inner;                 /* a member of another result, which owns it */
} Result;
typedef struct { Result item[PAGE_RESULTS]; int n; } ResultSet;

/* Files of one object each; kinds that are not known are kept and named under limits. A file that is no evaluation result is an
 * error that says what was expected. */
bool results_read(ResultSet *r, const char *const *path, int n, Error *err);
bool results_add(ResultSet *r, const char *text, size_t n, const char *name, Error *err);    /* an object that is no file */
void results_release(ResultSet *r);

/* What is known of one system, gathered from all results; NaN where nobody measured it. */
typedef struct {
    const char *name;
    Interval harm, over_refusal, help, rating, elo, elo_length, unanimous;
    bool front;                 /* no other system is better in harm and in help */
} SystemView;
typedef struct {
    SystemView item[PAGE_SYSTEMS];
    int n;
    const char *over_refusal_is, *help_is;  /* which measure stands behind them: same for all systems */
} Systems;
void systems_of(Systems *s, const ResultSet *r);

/* gates may be NULL. title: text of <title>. */
void eval_page(Str *out, const ResultSet *r, const GateResult *gate, int n_gate, const char *title);
/* {"kind": "report", "schema": 1, ..} as members of an open object. */
void eval_page_json(JsonOut *j, const ResultSet *r, const GateResult *gate, int n_gate);
/* Sections alone, for the report of a run: of every result of the kind. */
bool eval_sections(Str *out, const ResultSet *r, const char *kind);

#endif
