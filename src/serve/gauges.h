/* serve/gauges.h — the newest value of every metric, and the text Prometheus scrapes (exposition format 0.0.4). */
#ifndef DIKAST_SERVE_GAUGES_H
#define DIKAST_SERVE_GAUGES_H

#include "base/str.h"

typedef struct Gauges Gauges;
Gauges *gauges_new(void);
void gauges_free(Gauges *g);
/* Series `name` with one label (its value escaped here), or none when label is NULL. counter: its type in the text. */
void gauges_set(Gauges *g, const char *name, const char *label, const char *of, double value, bool counter);
double gauges_get(const Gauges *g, const char *name, const char *of);   /* NaN when absent */
void gauges_text(const Gauges *g, Str *out);

#endif
