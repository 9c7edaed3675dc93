/* Gates: <metric> <op> <term> {+|- <term>}, term: number | metric | number * metric. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/stats.h"

typedef struct {
    const char *at, *expr;
    double (*metric)(void *ud, const char *name);
    void *ud;
    Error *err;
} Parser;

static void space(Parser *p) {
    while (isspace((unsigned char)*p->at)) p->at++;
}

static bool fail(Parser *p, const char *what) {
    return error_set(p->err, ERR_CONFIG, "gate '%s': %s at column %d; expected 'metric <= number or metric [+- ...]'",
                     p->expr, what, (int)(p->at - p->expr) + 1);
}

static bool name_char(char c) { return isalnum((unsigned char)c) || c == '.' || c == '_' || c == '-'; }

static bool read_metric(Parser *p, double *out) {
    char name[128];
    size_t n = 0;
    const char *start = p->at;
    while (name_char(*p->at) && n < sizeof name - 1) name[n++] = *p->at++;
    name[n] = 0;
    *out = p->metric(p->ud, name);
    if (!isnan(*out)) return true;
    p->at = start;
    return error_set(p->err, ERR_CONFIG,
                     "gate '%s': nothing reports a metric '%s'; summary.json of each stage, or the results of an "
                     "evaluation, list them",
                     p->expr, name);
}

static bool term(Parser *p, double *out) {
    space(p);
    if (isalpha((unsigned char)*p->at)) return read_metric(p, out);
    char *end;
    size_t plain = strspn(p->at, "0123456789.eE+-"); /* strtod reads hexadecimal, inf and nan too */
    *out = strtod(p->at, &end);
    if (end == p->at || (size_t)(end - p->at) > plain || !isfinite(*out)) return fail(p, "no number and no metric");
    p->at = end;
    space(p);
    if (*p->at != '*') return true;
    double v;
    p->at++;
    space(p);
    if (!isalpha((unsigned char)*p->at)) return fail(p, "no metric after '*'");
    if (!read_metric(p, &v)) return false;
    *out *= v;
    return true;
}

bool gate_eval(GateResult *out, const char *expr, double (*metric)(void *ud, const char *name), void *ud, Error *err) {
    Parser p = {expr, expr, metric, ud, err};
    *out = (GateResult){0};
    snprintf(out->text, sizeof out->text, "%s", expr);
    space(&p);
    if (!isalpha((unsigned char)*p.at)) return fail(&p, "no metric in front");
    if (!read_metric(&p, &out->value)) return false;
    space(&p);
    char op = *p.at;
    if (op != '<' && op != '>') return fail(&p, "no comparison");
    bool equal = *++p.at == '=';
    p.at += equal;
    if (!term(&p, &out->bound)) return false;
    for (space(&p); *p.at; space(&p)) {
        double v, sign = *p.at == '+' ? 1 : *p.at == '-' ? -1 : 0;
        if (sign == 0) return fail(&p, "something unexpected");
        p.at++;
        if (!term(&p, &v)) return false;
        out->bound += sign * v;
    }
    out->ok = op == '<' ? out->value < out->bound : out->value > out->bound;
    if (equal && out->value == out->bound) out->ok = true;
    return true;
}

static double any_metric(void *ud, const char *name) {
    (void)ud, (void)name;
    return 1;
}

bool gate_readable(const char *expr, Error *err) {
    GateResult ignored;
    return gate_eval(&ignored, expr, any_metric, NULL, err);
}
