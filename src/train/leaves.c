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

typedef struct { /* one whose backward tells what is final */
    Model *trunk;
    int turn0;
    int heard; /* turns of this leaf */
} LeafNet;

struct Leaves {
    const Mesh *mesh;
    Backend *be;
    const Tensor *grad;
    int n_grad;
    int zero;
    TreeSum *tree; /* NULL: a running sum */
    int64_t n, next;
    TreeRun run;
    Error fate; /* of leaves_begin */
    LeafNet *net;
    int n_net;
    Metrics *metrics;
    Str record; /* this rank's leaves */
    LeafHealth health;
};

static Comm *dp_of(const Leaves *l) { return l->mesh ? l->mesh->dp : NULL; }
static Comm *world_of(const Leaves *l) { return l->mesh ? l->mesh->world : NULL; }

/* -- what is final when */

static void heard(void *ud, const Model *trunk, int turn) {
    Leaves *l = ud;
    for (int i = 0; i < l->n_net; i++) {
        LeafNet *n = &l->net[i];
        if (n->trunk != trunk) continue;
        CHECK(turn >= n->heard, "a second backward within one leaf: turn %d after %d", turn, n->heard);
        n->heard = turn + 1;
        tree_final(l->tree, n->turn0, n->turn0 + turn + 1);
    }
}

/* Turns of one net follow those of the nets before it. A trunk that two nets train is never listened to: its gradients
 * are final when the leaf is. Under cp nothing is listened to: there ranks already exchange keys
 * between layers. */
static int take_turns(Leaves *l, const Optim *o, int *turn) {
    int n_net, n_turn = 0;
    const Net *net = optim_nets(o, &n_net);
    int *begin = mem_alloc((size_t)(n_net + 1) * sizeof *begin);
    l->net = mem_alloc((size_t)n_net * sizeof *l->net);
    for (int i = 0; i < n_net; i++) {
        bool alone = true;
        for (int k = 0; k < n_net; k++) alone = alone && (k == i || net[k].trunk != net[i].trunk);
        begin[i] = n_turn;
        n_turn += net_turns(net[i]);
        if (alone) l->net[l->n_net++] = (LeafNet){net[i].trunk, begin[i], 0};
    }
    for (int i = 0; i < l->n_grad; i++) {
        int at = optim_net_of(o, i);
        turn[i] = begin[at] + net_turn_of(net[at], l->grad[i]);
    }
    free(begin);
    return n_turn;
}

static void listen(const Leaves *l, bool on) {
    for (int i = 0; i < l->n_net; i++)
        l->net[i].trunk->listen = on ? (GradListener){heard, (void *)l} : (GradListener){NULL, NULL};
}

void leaves_open(Leaves **out, Optim *o, const LeavesConfig *c) {
    Leaves *l = mem_alloc(sizeof *l);
    *l = (Leaves){.mesh = c->mesh, .be = optim_backend(o), .zero = optim_zero(o), .metrics = metrics_new()};
    CHECK(!c->running || comm_size(dp_of(l)) == 1, "a running sum over %d ranks", comm_size(dp_of(l)));
    l->grad = optim_grads(o, &l->n_grad);
    l->health.seconds = mem_alloc(3 * (size_t)comm_size(world_of(l)) * sizeof(double));
    TreeConfig tc = {.scatter = l->zero == 2, .parts = c->mesh ? c->mesh->size.cp : 1};
    int *turn = mem_alloc((size_t)(l->n_grad + 1) * sizeof *turn);
    if (c->overlap && comm_size(dp_of(l)) > 1 && c->mesh->size.cp == 1) {
        tc.n_turn = take_turns(l, o, turn);
        tc.turn = turn;
    }
    if (!c->running) tree_open(&l->tree, l->be, l->grad, l->n_grad, optim_blocks(o), dp_of(l), &tc);
    free(turn);
    *out = l;
}

void leaves_close(Leaves *l) {
    if (!l) return;
    listen(l, false);
    free(l->net);
    tree_close(l->tree);
    metrics_free(l->metrics);
    str_release(&l->record);
    free(l->health.seconds);
    free(l);
}

static void next_leaf(Leaves *l) {
    for (int i = 0; i < l->n_net; i++) l->net[i].heard = 0;
}

void leaves_begin(Leaves *l, int64_t n) {
    CHECK(n > 0, "a step of %lld micro-batches", (long long)n);
    l->n = n;
    l->next = 0;
    l->run = (TreeRun){0, 1, n};
    l->fate = (Error){0};
    next_leaf(l);
    str_clear(&l->record);
    metrics_clear(l->metrics);
    if (!l->tree) return;
    int64_t parts = l->mesh ? l->mesh->size.cp : 1;
    tree_begin(l->tree, n * parts, &l->fate);
    l->run = tree_leaves(l->tree);
    if (parts > 1) l->run.first -= l->mesh->at.cp * n; /* of the part that this rank has */
    listen(l, true);
}

int64_t leaves_count(const Leaves *l) { return l->run.n; }
int64_t leaves_number(const Leaves *l, int64_t i) { return l->run.first + i * l->run.step; }
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

void leaves_skip(Leaves *l) {
    next_leaf(l);
    metrics_clear(l->metrics);
    if (l->tree) tree_skip(l->tree);
}

bool leaves_add(Leaves *l, LeafSum s, Error *err) {
    CHECK(l->next < l->run.n, "micro-batch %lld is not this rank's", (long long)l->next);
    s.number = leaves_number(l, l->next);
    if (l->fate.code != ERR_NONE) {
        *err = l->fate;
        return false;
    }
    l->next++;
    if (tells(l))
        put_record(l, &s);
    else
        metrics_clear(l->metrics);
    next_leaf(l);
    if (l->tree) tree_push(l->tree);
    return comm_ok(dp_of(l), err);
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

typedef struct {
    const unsigned char *at;
    int64_t number;
    int rank;
} Record;

static int by_number(const void *a, const void *b) {
    const Record *x = a, *y = b;
    return (x->number > y->number) - (x->number < y->number);
}

/* Of all ranks, in order of leaves. */
static Record *sort_records(const Gathered *all, int size, int64_t n_leaf, int64_t *n) {
    Record *r = mem_alloc((size_t)n_leaf * sizeof *r);
    *n = 0;
    for (int q = 0; q < size; q++)
        for (const unsigned char *at = all->data + all->off[q]; at < all->data + all->off[q + 1];) {
            LeafHead head;
            memcpy(&head, at, sizeof head);
            CHECK(*n < n_leaf, "more than %lld micro-batches", (long long)n_leaf);
            r[(*n)++] = (Record){at, head.sum.number, q};
            at += sizeof head + (size_t)head.n_metric * sizeof(Entry);
        }
    qsort(r, (size_t)*n, sizeof *r, by_number);
    return r;
}

static void add_record(const unsigned char *at, LeafSum *total, LeafHealth *h, int rank, Metrics *m) {
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
}

bool leaves_agree(Leaves *l, const Error *mine, LeafSum *total, Metrics *m, Error *err) {
    Gathered all;
    int size = comm_size(world_of(l));
    int64_t n;
    if (l->tree) tree_settle(l->tree);
    if (mine->code == ERR_NONE) mine = &l->fate;
    *total = (LeafSum){0};
    health_clear(&l->health, size);
    if (!agree(world_of(l), mine, l->record.s, (int64_t)l->record.n, &all, err)) {
        leaves_drop(l);
        return false;
    }
    Record *r = sort_records(&all, size, l->n, &n);
    for (int64_t i = 0; i < n; i++) add_record(r[i].at, total, &l->health, r[i].rank, m);
    free(r);
    gathered_release(&all);
    return true;
}

const LeafHealth *leaves_health(const Leaves *l) { return &l->health; }

bool leaves_sum(Leaves *l, Error *err) {
    CHECK(l->next == l->run.n, "%lld micro-batches are missing", (long long)(l->run.n - l->next));
    listen(l, false);
    if (l->tree) tree_finish(l->tree, l->zero == 0);
    return comm_ok(dp_of(l), err);
}

void leaves_put_times(JsonOut *j, const Leaves *l, CommTimes before, double took_s) {
    CommTimes now = mesh_times(l->mesh);
    if (comm_size(world_of(l)) == 1) return;
    json_out_num(j, "t_comm", took_s > 0 ? (now.inside_s - before.inside_s) / took_s : 0);
    json_out_num(j, "t_hidden", took_s > 0 ? (now.hidden_s - before.hidden_s) / took_s : 0);
}

bool leaves_rehearse(Leaves *l, int64_t n, Error *err) {
    leaves_begin(l, n);
    if (l->tree) tree_rehearse(l->tree, l->zero == 0);
    leaves_cancel(l);
    *err = l->fate;
    return l->fate.code == ERR_NONE;
}

static void zero(Leaves *l) {
    for (int i = 0; i < l->n_grad; i++) l->be->op->zero(l->be, l->grad[i]);
}

void leaves_drop(Leaves *l) {
    listen(l, false);
    if (l->tree)
        tree_drop(l->tree);
    else
        zero(l);
}

void leaves_cancel(Leaves *l) {
    listen(l, false);
    if (l->tree)
        tree_cancel(l->tree);
    else
        zero(l);
}
