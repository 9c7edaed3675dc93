#include "train/objective.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A few dozen names at most, so a list searched from the front. Order of first use, which is deterministic, is the
 * order of the fields in metrics.jsonl. */
typedef struct {
    char name[METRIC_NAME];
    double sum, weight;
} Metric;

struct Metrics {
    Metric *at;
    int n, cap;
};

Metrics *metrics_new(void) { return mem_alloc(sizeof(Metrics)); }

void metrics_free(Metrics *m) {
    if (!m) return;
    free(m->at);
    free(m);
}

static int find(const Metrics *m, const char *name) {
    for (int i = 0; i < m->n; i++)
        if (!strcmp(m->at[i].name, name)) return i;
    return -1;
}

void metrics_add_sum(Metrics *m, const char *name, double sum, double weight) {
    if (!m) return;
    int i = find(m, name);
    if (i < 0) {
        CHECK(strlen(name) < METRIC_NAME, "metric name '%s' is too long", name);
        if (m->n == m->cap) {
            m->cap = m->cap ? 2 * m->cap : 16;
            m->at = mem_grow(m->at, (size_t)m->cap * sizeof(Metric));
        }
        i = m->n++;
        m->at[i] = (Metric){.sum = 0};
        snprintf(m->at[i].name, METRIC_NAME, "%s", name);
    }
    /* What has no weight must leave no trace, and 0 + -0 would. */
    if (weight == 0) return;
    m->at[i].sum += sum;
    m->at[i].weight += weight;
}

void metrics_add(Metrics *m, const char *name, double value, double weight) {
    /* 0 * NaN is NaN. */
    metrics_add_sum(m, name, weight == 0 ? 0 : value * weight, weight);
}

const char *metrics_sum_at(const Metrics *m, int i, double *sum, double *weight) {
    CHECK(i >= 0 && i < m->n, "metric %d of %d", i, m->n);
    *sum = m->at[i].sum;
    *weight = m->at[i].weight;
    return m->at[i].name;
}

double metrics_mean(const Metrics *m, const char *name) {
    int i = find(m, name);
    return i < 0 || m->at[i].weight == 0 ? NAN : m->at[i].sum / m->at[i].weight;
}

int metrics_count(const Metrics *m) { return m->n; }

const char *metrics_at(const Metrics *m, int i, double *mean, double *weight) {
    CHECK(i >= 0 && i < m->n, "metric %d of %d", i, m->n);
    *weight = m->at[i].weight;
    *mean = m->at[i].weight == 0 ? NAN : m->at[i].sum / m->at[i].weight;
    return m->at[i].name;
}

void metrics_clear(Metrics *m) { m->n = 0; }
