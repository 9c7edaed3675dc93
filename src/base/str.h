/* base/str.h — a growable byte string; zeroed is valid and empty; s is NUL-terminated whenever s is not NULL. */
#ifndef DIKAST_BASE_STR_H
#define DIKAST_BASE_STR_H

#include "base/compiler.h"

typedef struct { char *s; size_t n, cap; } Str;

void str_put(Str *b, const char *s);
void str_putn(Str *b, const void *s, size_t n);
void str_putc(Str *b, char c);
void str_printf(Str *b, const char *fmt, ...) FORMAT(2, 3);
void str_clear(Str *b);             /* keeps the memory */
void str_release(Str *b);
char *str_detach(Str *b);           /* caller frees; never NULL */
const char *str_get(const Str *b);  /* "" when empty */

/* Damerau-Levenshtein distance, for "did you mean"; stops counting at limit + 1. */
int str_distance(const char *a, const char *b, int limit);
bool str_utf8_valid(const char *s, size_t n, size_t *bad_at);

#endif
