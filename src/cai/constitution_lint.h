/* cai/constitution_lint.h — what is wrong with a constitution that can be read. What cannot be read is an error of the
 * readers: unknown fields, ids (form, duplicates), empty texts, weights outside (0, 10], authorities, uses.
 *
 * Texts are compared as words (cai/words.h: lower case, no punctuation); J is the Jaccard index of two texts' sets of
 * words.
 *
 *   code               severity  found when
 *   near-duplicate     warning   two principles' texts (with avoid) have J >= 0.8
 *   few-examples       warning   fewer than 5 examples that apply, or 3 that look alike and do not
 *   no-test            warning   no test
 *   no-category        warning   no tag: it belongs to no category (the first tag is the category)
 *   duplicate-example  warning   two examples of one principle, both applying or both not, have J >= 0.8
 *   long-text          warning   text, avoid and both requests together have more than max_words words: every prompt carries them
 *   empty-category     error     a category that was asked for is no principle's tag or id
 *   example-both-ways  error     one example applies and does not apply to the same principle (the same words)
 *   test-same          error     better and worse of a test are the same words
 *   opposite-texts     error *   two directives (text or avoid, also of one principle) are the same words, J >= 0.9, but for negations
 *                                ("no", "not", "never", "without", ..) and opposites ("longer", "shorter"; "allow", "forbid"; ..), of which
 *                                one has an even, one an odd number; "always", "must", "should" and the like do not count
 *   opposite-tests     error *   for one prompt, what one test calls better another calls worse (the same words)
 *   * a warning where authorities differ: then the higher one decides.
 *
 * Contradictions in meaning between different words are not seen here: constitution_test.h finds them with a model. One
 * example may apply to one principle and not to another: that is what examples are for. */
#ifndef DIKAST_CAI_CONSTITUTION_LINT_H
#define DIKAST_CAI_CONSTITUTION_LINT_H

#include "cai/constitution.h"

enum { LINT_MIN_POSITIVE = 5, LINT_MIN_NEAR_MISS = 3, LINT_MAX_WORDS = 120 };

typedef struct {
    const char *code, *text; /* code: static */
    bool error;
    int principle, other; /* indices; -1: none */
    const char *key;      /* the field it is about, NULL: none */
} Finding;
typedef struct {
    Finding *finding;
    int n, cap, n_error;
    Heap heap;
} Lint;
typedef struct {
    const char *const *category; /* names that must each be a tag or an id */
    int n_category;
    int max_words; /* 0: LINT_MAX_WORDS */
} LintOptions;

/* In the order of the principles. *out is zeroed first. */
void constitution_lint(Lint *out, const Constitution *c, const LintOptions *o);
void lint_release(Lint *l);

#endif
