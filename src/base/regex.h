/* base/regex.h — patterns over short names that a user writes, as PCRE2 reads them (of Python's syntax all that is usual). */
#ifndef DIKAST_BASE_REGEX_H
#define DIKAST_BASE_REGEX_H

#include "base/error.h"

typedef struct Regex Regex;

bool regex_open(Regex **out, const char *pattern, Error *err);
void regex_close(Regex *r);                             /* NULL is fine */
/* Does all of s match, as with Python's re.fullmatch? A pattern that takes more than a million steps does not. */
bool regex_matches(const Regex *r, const char *s);

#endif
