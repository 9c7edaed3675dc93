#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cai/eval_results.h"

const char *result_kind(const Json *result) {
    const char *kind = json_str(json_get(result, "kind"), NULL), *schema = json_str(json_get(result, "schema"), NULL);
    if (kind && json_int(json_get(result, "schema"), 0) == 1) return kind;
    return schema && !strcmp(schema, "dikast-eval/1") ? "capability" : NULL;
}

/* What is left of the path when it begins with the word, whole; NULL when it does not. Words may hold dots. */
static const char *behind(const char *path, const char *word, size_t n) {
    if (!n || strncmp(path, word, n) != 0 || (path[n] && path[n] != '.')) return NULL;
    return path[n] ? path + n + 1 : path + n;
}

static double value_of(const Json *j) {
    if (json_kind(j) == JSON_OBJ) j = json_get(j, "value");
    if (!j) return NAN;
    JsonKind k = json_kind(j);
    return k == JSON_YES ? 1 : k == JSON_NO ? 0 : json_num(j, NAN);
}

static double look(const Json *j, const char *path) {
    static const char *const name[] = {"system", "measure", "part", "category", "feature",
                                       "claim",  "task",    "set",  "label",    "rater"};
    if (!path[0]) return value_of(j);
    double v = NAN;
    if (json_kind(j) == JSON_OBJ)
        for (int i = 0; i < json_len(j) && isnan(v); i++) {
            const Json *value;
            const char *key = json_key_at(j, i, &value), *rest = behind(path, key, strlen(key));
            if (rest) v = look(value, rest);
        }
    if (json_kind(j) != JSON_ARR) return v;
    for (int i = 0; i < json_len(j) && isnan(v); i++)
        for (int k = 0; k < COUNT_OF(name) && isnan(v); k++) {
            size_t n = 0;
            const char *word = json_str(json_get(json_at(j, i), name[k]), &n);
            const char *rest = word ? behind(path, word, n) : NULL;
            if (rest) v = look(json_at(j, i), rest);
        }
    char *end;
    long at = strtol(path, &end, 10);
    if (isnan(v) && end > path && (!*end || *end == '.') && at >= 0 && at < json_len(j))
        v = look(json_at(j, (int)at), *end ? end + 1 : end);
    return v;
}

double result_metric(const Json *result, const char *path) {
    const char *kind = result_kind(result), *rest = kind ? behind(path, kind, strlen(kind)) : NULL;
    size_t n = 0;
    const char *system = json_str(json_get(result, "system"), &n),
               *own = rest && system ? behind(rest, system, n) : NULL;
    double v = own ? look(result, own) : NAN;
    return isnan(v) && rest ? look(result, rest) : v;
}
