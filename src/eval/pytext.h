/* eval/pytext.h — what Python's str methods make of UTF-8 text, where published benchmarks are defined by them. */
#ifndef DIKAST_EVAL_PYTEXT_H
#define DIKAST_EVAL_PYTEXT_H

#include "base/str.h"

size_t py_rstrip(const char *s, size_t n);              /* length without white space at the end */
void py_strip(const char **s, size_t *n);
int64_t py_len(const char *s, size_t n);                /* code points */
int64_t py_words(const char *s, size_t n);              /* len(re.split(r"\s+", s)): space at an end adds an empty piece */
/* WikiHow texts as HellaSwag's readers clean them: strip, " [title]" to ". ", bracketed stretches of a line deleted, pairs of
 * blanks to one. */
void py_clean_wikihow(Str *out, const char *s, size_t n);

#endif
