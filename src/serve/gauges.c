#include "serve/gauges.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/json.h"

typedef struct {
    char name[96], label[24], of[96];
    double value;
    bool counter;
} Series;

struct Gauges {
    Series *s;
    int n, cap;
};

Gauges *gauges_new(void) {
    Gauges *g = mem_alloc(sizeof *g);
    *g = (Gauges){0};
    return g;
}

void gauges_free(Gauges *g) {
    if (!g) return;
    free(g->s);
    free(g);
}

static int order(const Series *s, const char *name, const char *of) {
    int d = strcmp(s->name, name);
    return d ? d : strcmp(s->of, of);
}

/* Where it is, or would be: sorted, so that lines of one metric stand together. */
static int place(const Gauges *g, const char *name, const char *of) {
    int lo = 0, hi = g->n;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (order(&g->s[mid], name, of) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void clean_name(char out[96], const char *name) {
    size_t n = 0;
    for (; name[n] && n < 95; n++) {
        char c = name[n];
        bool fine = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9' && n > 0) || c == '_';
        out[n] = fine ? c : '_';
    }
    out[n] = 0;
}

void gauges_set(Gauges *g, const char *name, const char *label, const char *of, double value, bool counter) {
    Series s = {.value = value, .counter = counter};
    clean_name(s.name, name);
    if (label) strncpy(s.label, label, sizeof s.label - 1);
    if (label) strncpy(s.of, of, sizeof s.of - 1);
    int at = place(g, s.name, s.of);
    if (at < g->n && order(&g->s[at], s.name, s.of) == 0) {
        g->s[at].value = value;
        return;
    }
    if (g->n == g->cap) {
        g->cap = g->cap ? 2 * g->cap : 64;
        g->s = mem_grow(g->s, (size_t)g->cap * sizeof *g->s);
    }
    memmove(g->s + at + 1, g->s + at, (size_t)(g->n - at) * sizeof *g->s);
    g->s[at] = s;
    g->n++;
}

double gauges_get(const Gauges *g, const char *name, const char *of) {
    int at = place(g, name, of ? of : "");
    return at < g->n && order(&g->s[at], name, of ? of : "") == 0 ? g->s[at].value : NAN;
}

static void put_escaped(Str *out, const char *s) {
    for (; *s; s++) {
        if (*s == '\n')
            str_put(out, "\\n");
        else if (*s == '"' || *s == '\\')
            str_printf(out, "\\%c", *s);
        else
            str_putc(out, *s);
    }
}

void gauges_text(const Gauges *g, Str *out) {
    char number[32];
    for (int i = 0; i < g->n; i++) {
        const Series *s = &g->s[i];
        if (i == 0 || strcmp(g->s[i - 1].name, s->name))
            str_printf(out, "# TYPE %s %s\n", s->name, s->counter ? "counter" : "gauge");
        str_put(out, s->name);
        if (s->label[0]) {
            str_printf(out, "{%s=\"", s->label);
            put_escaped(out, s->of);
            str_put(out, "\"}");
        }
        json_format_num(number, s->value);
        str_printf(out, " %s\n",
                   isfinite(s->value) ? number
                   : isnan(s->value)  ? "NaN"
                   : s->value > 0     ? "+Inf"
                                      : "-Inf");
    }
}
