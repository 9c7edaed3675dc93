#include "train/leaves.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "dist/tree.h"

/* A leaf as it travels: LeafSum, number of metrics, then each metric's name, sum and weight. */
typedef struct {
    LeafSum sum;
    int64_t n_metric;
} LeafHead;
typedef struct {
    char name[METRIC_NAME];
    double sum, weight;
} Entry;

struct Leaves {
    const Mesh *mesh;
    Backend *be;
    const Tensor *grad;
    int n_grad;
    bool shard;
    TreeSum *tree; /* NULL: a running sum */
    int64_t n, first, end, next;
    Metrics *metrics;
    Str record; /* this rank's leaves */
    LeafHealth health;
};

static Comm *dp_of(const Leaves *l) { return l->mesh ? l->mesh->dp : NULL; }
static Comm *world_of(const Leaves *l) { return l->mesh ? l->mesh->world : NULL; }

void leaves_open(Leaves **out, Optim *o, const Mesh *mesh, bool running) {
    Leaves *l = mem_alloc(sizeof *l);
    *l = (Leaves){.mesh = mesh, .be = optim_backend(o), .shard = optim_shards(o), .metrics = metrics_new()};
    CHECK(!running || comm_size(dp_of(l)) == 1, "a running sum over %d ranks", comm_size(dp_of(l)));
    l->grad = optim_grads(o, &l->n_grad);
    l->health.seconds = mem_alloc(3 * (size_t)comm_size(world_of(l)) * sizeof(double));
    if (!running) tree_open(&l->tree, l->be, l->grad, l->n_grad, optim_blocks(o), dp_of(l));
    *out = l;
}

void leaves_close(Leaves *l) {
    if (!l) return;
    tree_close(l->tree);
    metrics_free(l->metrics);
    str_release(&l->record);
    free(l->health.seconds);
    free(l);
}

void leaves_begin(Leaves *l, int64_t n) {
    CHECK(n > 0, "a step of %lld micro-batches", (long long)n);
    l->n = n;
    tree_range(n, l->mesh ? l->mesh->at.dp : 0, l->mesh ? l->mesh->size.dp : 1, &l->first, &l->end);
    l->next = l->first;
    str_clear(&l->record);
    metrics_clear(l->metrics);
    if (l->tree) tree_begin(l->tree, n * (l->mesh ? l->mesh->size.cp : 1));
}

int64_t leaves_first(const Leaves *l) { return l->first; }
int64_t leaves_end(const Leaves *l) { return l->end; }
Metrics *leaves_metrics(Leaves *l) { return l->metrics; }

static void put_record(Leaves *l, const LeafSum *s) {
    LeafHead head = {*s, metrics_count(l->metrics)};
    str_putn(&l->record, &head, sizeof head);
    for (int i = 0; i < head.n_metric; i++) {
        Entry e = {.sum = 0};
        const char *name = metrics_sum_at(l->metrics, i, &e.sum, &e.weight);
        memcpy(e.name, name, strlen(name));
        str_putn(&l->record, &e, sizeof e);
    }
    metrics_clear(l->metrics);
}

/* Of the ranks that hold parts of one model the one that has the losses. */
static bool tells(const Leaves *l) {
    const Mesh *m = l->mesh;
    return !m || (m->at.pp + 1 == m->size.pp && m->at.tp == 0 && m->at.cp == 0);
}

bool leaves_add(Leaves *l, LeafSum s, Error *err) {
    CHECK(l->next < l->end, "micro-batch %lld is not this rank's", (long long)l->next);
    l->next++;
    if (tells(l))
        put_record(l, &s);
    else
        metrics_clear(l->metrics);
    return !l->tree || tree_push(l->tree, err);
}

static void health_clear(LeafHealth *h, int n_rank) {
    double *v = h->seconds;
    *h = (LeafHealth){.seconds = v, .tokens = v + n_rank, .leaves = v + 2 * n_rank};
    memset(v, 0, 3 * (size_t)n_rank * sizeof *v);
}

static void health_add(LeafHealth *h, int rank, const LeafSum *s) {
    h->n++;
    h->seconds[rank] += s->seconds;
    h->tokens[rank] += s->tokens;
    h->leaves[rank]++;
    if (isfinite(s->loss)) return;
    if (h->n_bad++ == 0) h->bad = s->number, h->bad_rank = rank;
}

/* The leaves of one rank after those of the ranks before it: so all are added in their order. */
static const unsigned char *add_record(const unsigned char *at, LeafSum *total, LeafHealth *h, int rank, Metrics *m) {
    LeafHead head;
    memcpy(&head, at, sizeof head);
    at += sizeof head;
    health_add(h, rank, &head.sum);
    total->loss += head.sum.loss;
    total->weight += head.sum.weight;
    total->tokens += head.sum.tokens;
    total->rows += head.sum.rows;
    total->sequences += head.sum.sequences;
    total->trace.inputs += head.sum.trace.inputs;
    total->trace.losses += head.sum.trace.losses;
    for (int64_t i = 0; i < head.n_metric; i++, at += sizeof(Entry)) {
        Entry e;
        memcpy(&e, at, sizeof e);
        metrics_add_sum(m, e.name, e.sum, e.weight);
    }
    return at;
}

bool leaves_agree(Leaves *l, const Error *mine, LeafSum *total, Metrics *m, Error *err) {
    Gathered all;
    int size = comm_size(world_of(l));
    *total = (LeafSum){0};
    health_clear(&l->health, size);
    if (!agree(world_of(l), mine, l->record.s, (int64_t)l->record.n, &all, err)) {
        leaves_drop(l);
        return false;
    }
    for (int r = 0; r < size; r++)
        for (const unsigned char *at = all.data + all.off[r]; at < all.data + all.off[r + 1];)
            at = add_record(at, total, &l->health, r, m);
    gathered_release(&all);
    return true;
}

const LeafHealth *leaves_health(const Leaves *l) { return &l->health; }

bool leaves_sum(Leaves *l, Error *err) {
    CHECK(l->next == l->end, "%lld micro-batches are missing", (long long)(l->end - l->next));
    if (l->tree) tree_finish(l->tree, !l->shard);
    return comm_ok(dp_of(l), err);
}

bool leaves_rehearse(Leaves *l, int64_t n, Error *err) {
    bool ok = true;
    leaves_begin(l, n);
    for (int64_t i = l->first; ok && i < l->end; i++) ok = leaves_add(l, (LeafSum){.number = i}, err);
    leaves_drop(l);
    return ok;
}

void leaves_drop(Leaves *l) {
    if (l->tree) {
        tree_drop(l->tree);
        return;
    }
    for (int i = 0; i < l->n_grad; i++) l->be->op->zero(l->be, l->grad[i]);
}
