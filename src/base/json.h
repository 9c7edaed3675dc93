/* base/json.h — strict JSON in (a quick reader; jansson where that does not vouch for the text), our own emitter out. Hides jansson.
 *
 * Reading: duplicates, NaN, integers beyond int64, invalid UTF-8 and trailing text are errors with line and column. Strings
 * may hold NUL (length is given) only when asked for. Writing: compact, numbers in the shortest form that reads back equal
 * (laid out as Python's repr), strings escaped minimally, key order as written. */
#ifndef DIKAST_BASE_JSON_H
#define DIKAST_BASE_JSON_H

#include "base/error.h"
#include "base/str.h"

typedef struct Json Json;       /* a node; borrowed from its root */
typedef enum { JSON_OBJ, JSON_ARR, JSON_STR, JSON_INT, JSON_REAL, JSON_YES, JSON_NO, JSON_NIL } JsonKind;

enum { JSON_INT_AS_REAL = 1, JSON_NUL_OK = 2 };
/* Parses s[0..n); name and first_line are for messages ("data.jsonl:17: ..."). The root is released by json_release. */
bool json_parse(Json **out, const char *s, size_t n, int flags, const char *name, int first_line, Error *err);
bool json_read_file(Json **out, const char *path, int flags, Error *err);
void json_release(Json *root);

JsonKind json_kind(const Json *j);
const Json *json_get(const Json *obj, const char *key);             /* NULL if absent or not an object */
int json_len(const Json *j);                                        /* array or object entries */
const Json *json_at(const Json *arr, int i);
const char *json_key_at(const Json *obj, int i, const Json **value);/* i-th entry in file order; O(1) */
const char *json_str(const Json *j, size_t *n);                     /* NULL when not a string; n may be NULL */
double json_num(const Json *j, double otherwise);
int64_t json_int(const Json *j, int64_t otherwise);
bool json_bool(const Json *j, bool otherwise);

/* Values built without text, for rows of other containers: what comes out is what json_parse gives for the same value. Nested
 * like JsonOut; a value at the outermost level is a root, which json_build_take hands out and json_build_clear takes back with
 * all others. Keys are borrowed (json_build_copy makes one that lives with the values); strings are copied, are UTF-8 and may
 * hold NUL; a number that is not finite becomes null. json_build_obj_end: false when the object has a key twice. */
typedef struct JsonBuild JsonBuild;
JsonBuild *json_build_new(void);
void json_build_free(JsonBuild *b);
void json_build_clear(JsonBuild *b);
size_t json_build_bytes(const JsonBuild *b);                        /* held by values since the last clear */
const char *json_build_copy(JsonBuild *b, const char *s, size_t n);
void json_build_obj(JsonBuild *b, const char *key);
bool json_build_obj_end(JsonBuild *b);
void json_build_arr(JsonBuild *b, const char *key);
void json_build_arr_end(JsonBuild *b);
void json_build_strn(JsonBuild *b, const char *key, const char *s, size_t n);
void json_build_num(JsonBuild *b, const char *key, double v);
void json_build_int(JsonBuild *b, const char *key, int64_t v);
void json_build_bool(JsonBuild *b, const char *key, bool v);
void json_build_null(JsonBuild *b, const char *key);
void json_build_share(JsonBuild *b, const char *key, const Json *node);     /* its root lives on as long */
const Json *json_build_take(JsonBuild *b);                          /* the root just finished */

/* Typed members with errors that name the key: "expected a string at 'prompt', found a number". */
bool json_need_str(const Json *obj, const char *key, const char **s, size_t *n, Error *err);
bool json_need_num(const Json *obj, const char *key, double *v, Error *err);

/* Emitter: begin/end nest, commas are placed by the emitter. key is NULL inside arrays and at the root. */
typedef struct { Str *out; int depth; bool need_comma[64]; int indent; /* 0: compact */ } JsonOut;
void json_out_init(JsonOut *j, Str *out, int indent);
void json_out_obj(JsonOut *j, const char *key);
void json_out_obj_end(JsonOut *j);
void json_out_arr(JsonOut *j, const char *key);
void json_out_arr_end(JsonOut *j);
void json_out_str(JsonOut *j, const char *key, const char *s);      /* NULL writes null */
void json_out_strn(JsonOut *j, const char *key, const char *s, size_t n);
void json_out_num(JsonOut *j, const char *key, double v);           /* non-finite: null */
void json_out_int(JsonOut *j, const char *key, int64_t v);
void json_out_bool(JsonOut *j, const char *key, bool v);
void json_out_node(JsonOut *j, const char *key, const Json *node);  /* a parsed node, copied */
void json_format_num(char buf[32], double v);

#endif
