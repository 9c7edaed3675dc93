/* cai/constitution_int.h — shared by the two readers of constitutions. Texts go to the constitution's heap. */
#ifndef DIKAST_CAI_CONSTITUTION_INT_H
#define DIKAST_CAI_CONSTITUTION_INT_H

#include "cai/constitution.h"

typedef struct { Constitution *out; Principle *principle; int n, cap; const char *name; Error *err; } Builder;

bool builder_fail(Builder *b, int line, int column, const char *what);      /* "name:line:col: what"; returns false */
const char *builder_text(Builder *b, const char *s, size_t n, int line, int column);    /* cleaned copy; NULL: error set */
bool builder_authority(Authority *out, const char *s);
Principle *builder_principle(Builder *b);                                   /* a new one with the defaults */
bool builder_check_principle(Builder *b, int line, int column);             /* the last one */
bool builder_finish(Builder *b);
bool constitution_read_json(Builder *b, const char *s, size_t n);
bool constitution_read_xml(Builder *b, const char *s, size_t n);

#endif
