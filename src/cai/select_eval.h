/* cai/select_eval.h — how well the selector finds the principle of a request, on rows {"prompt", "category", "source"}.
 *
 * A row's category names a principle when, in lower case and with '-' for everything between letters and digits, it is the
 * principle's id or one of its tags ("Drug_abuse, weapons" = "drug-abuse-weapons"). Rows whose category names none, or more
 * than one, are left out and counted.
 *
 * Beside it stands multinomial naive Bayes (Laplace 1, class priors, whole words), which learns from rows of other sources: the
 * split is by source. */
#ifndef DIKAST_CAI_SELECT_EVAL_H
#define DIKAST_CAI_SELECT_EVAL_H

#include "cai/constitution.h"

typedef struct {
    const char *prompt, *source;
    int principle;
} SelectCase;
typedef struct {
    SelectCase *at;
    int n, cap, n_left_out;
    Heap heap;
} SelectCases;

/* source: keep rows of these only, comma-separated; NULL: all. */
bool select_cases_read(SelectCases *s, const Constitution *c, const char *path, const char *source, Error *err);
void select_cases_release(SelectCases *s);

typedef struct {
    double top1, top3;      /* share of rows whose principle is the first, or among the first three */
    double entropy;         /* of the first picks over principles, nats: 0 when one is always picked */
} SelectScore;
SelectScore select_score(const Selector *s, const SelectCases *test);
/* The same by scores (test->n, 64) of a model (cai/select_model.h). */
SelectScore select_score_by(const Selector *s, const double (*score)[64], const SelectCases *test);
/* Makes s learn words from the prompts of a file, whatever their categories (selector_learn). */
bool select_learn(Selector *s, const char *path, const char *source, Error *err);
SelectScore select_random(const Constitution *c, const SelectCases *test);      /* an even draw, exactly */
SelectScore select_majority(const Constitution *c, const SelectCases *test);    /* always the commonest ones of the test */
SelectScore select_bayes(const Constitution *c, const SelectCases *train, const SelectCases *test);

#endif
