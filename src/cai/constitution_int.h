/* cai/constitution_int.h — shared by the two readers of constitutions. Texts go to the constitution's heap. Checks name
 * what is wrong; only the reader knows where it stands. */
#ifndef DIKAST_CAI_CONSTITUTION_INT_H
#define DIKAST_CAI_CONSTITUTION_INT_H

#include "cai/constitution.h"
#include "cai/constitution_import.h"

enum { CONSTITUTION_MAX_BYTES = 16 << 20, CONSTITUTION_MAX_PRINCIPLES = 64 }; /* chains keep a bitmask of principles */

typedef struct {
    Constitution *out;
    Principle *principle;
    int n, cap;
    const char *name;
    Error *err;
} Builder;

typedef struct {
    char what[240];
    const char *key; /* the field of a principle it is about; NULL: the principle itself */
} Fault;

bool builder_fail(Builder *b, int line, int column, const char *what);        /* "name:line:col: what"; returns false */
bool fault_set(Fault *f, const char *key, const char *fmt, ...) FORMAT(3, 4); /* returns false */
/* "unknown field 'txet' in a principle (did you mean 'text'?)"; known ends in NULL. */
bool fault_unknown(Fault *f, const char *sort, const char *name, const char *in, const char *const *known);
const char *builder_text(Builder *b, const char *s, size_t n, Fault *f); /* cleaned copy; NULL: f says why */
bool builder_authority(Authority *out, const char *s, Fault *f);
Principle *builder_principle(Builder *b);           /* a new one with the defaults */
bool builder_check_principle(Builder *b, Fault *f); /* the last one */
bool builder_finish(Builder *b);
bool constitution_read_json(Builder *b, const char *s, size_t n);
bool constitution_read_xml(Builder *b, const char *s, size_t n);

/* Reading a foreign shape: what the entries share. at: entry, or line of markdown; who: its name, NULL before it is
 * known. */
typedef struct {
    Builder *b;
    Import *im;
    int at;
    const char *who;
} Importer;
void import_note(Importer *w, const char *who, const char *what);
const char *import_id(Importer *w, const char *s, const char *otherwise); /* a valid, unused id made of s */
bool import_fail(Importer *w, const char *what);
bool import_clean(Importer *w, const char **out, const char *s, size_t n); /* cleaned copy in the constitution's heap */
bool import_check(Importer *w);                                           /* the last principle */
bool import_markdown(Importer *w, const char *s, size_t n);

#endif
