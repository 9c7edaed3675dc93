#include "nn/regroup.h"

#include <stdlib.h>
#include <string.h>

#include "dist/agree.h"
#include "dist/blocks.h"
#include "nn/nn_int.h"
#include "nn/reshard.h"

typedef struct { /* a parameter's part, as it is told to the others */
    int64_t order, row, col, rows, cols;
} Piece;

typedef struct {
    Tensor to;      /* the whole's */
    Tensor own;     /* this rank's part of it; empty: it sends none */
    int64_t *bytes; /* (ranks) that each sends */
    int n_have;     /* boxes, in order of ranks, */
    size_t *at;     /* (n_have) and where each begins in what is gathered */
    ReshardCopy *copy;
    int n_copy;
} Plan;

struct Regroup {
    Net part;
    Comm *c;
    Model m;
    Head h;
    Plan *plan;
    int n_plan;
    uint64_t version; /* of the parts the whole was made of; 0: none */
};

/* -- what everybody has */

typedef struct {
    Str pieces;
    Tensor *w; /* of each */
    int n;
} Own;

static void list_own(void *ud, int index, const ParamInfo *p) {
    Own *o = ud;
    Piece piece = {p->order, p->row, p->col, p->w.rows, p->w.cols};
    o->w = mem_grow(o->w, (size_t)(index + 1) * sizeof *o->w);
    o->w[index] = p->w;
    o->n = index + 1;
    str_putn(&o->pieces, &piece, sizeof piece);
}

typedef struct {
    const Gathered *all;
    const Mesh *mesh;
    const Own *own;
    Plan *plan;
    int n;
    Error *err;
    bool ok;
} PlanJob;

static bool same_box(const Box *a, const Box *b) {
    return !memcmp(a->at, b->at, 2 * sizeof *a->at) && !memcmp(a->len, b->len, 2 * sizeof *a->len);
}

/* The boxes of one tensor: of equal ones the first rank's. */
static void plan_one(void *ud, int index, const ParamInfo *whole) {
    PlanJob *job = ud;
    Plan *p = &job->plan[index];
    size_t size = dtype_bytes(whole->w.dtype), at = 0;
    int n_rank = comm_size(job->mesh->model); /* neighbours in the world: dp is the outermost digit */
    Box *have = mem_alloc((size_t)n_rank * sizeof *have);
    *p = (Plan){.to = whole->w, .bytes = mem_alloc((size_t)n_rank * sizeof *p->bytes)};
    p->at = mem_alloc((size_t)n_rank * sizeof *p->at);
    for (int me = 0; me < n_rank; me++) {
        int r = job->mesh->at.dp * n_rank + me;
        const Piece *piece = (const Piece *)(const void *)(job->all->data + job->all->off[r]);
        int n = (int)((job->all->off[r + 1] - job->all->off[r]) / (int64_t)sizeof *piece);
        for (int i = 0; i < n; i++) {
            Box b = {2, {piece[i].row, piece[i].col}, {piece[i].rows, piece[i].cols}};
            bool known = piece[i].order != whole->order;
            for (int k = 0; k < p->n_have && !known; k++) known = same_box(&have[k], &b);
            if (known) continue;
            have[p->n_have] = b;
            p->at[p->n_have++] = at;
            p->bytes[me] = box_volume(&b) * (int64_t)size;
            at += (size_t)p->bytes[me];
            if (me == comm_rank(job->mesh->model)) p->own = job->own->w[i];
        }
    }
    Box want = {2, {0, 0}, {whole->w.rows, whole->w.cols}};
    if (job->ok && !reshard_plan(&p->copy, &p->n_copy, &want, have, p->n_have, job->err))
        job->ok = error_wrap(job->err, "tensor '%s' of several ranks", whole->name);
    free(have);
    job->n = index + 1;
}

static bool make_plans(Regroup *r, const Mesh *mesh, const Gathered *all, const Own *own, Error *err) {
    Net whole = regroup_net(r);
    int n = net_visit(whole, NULL, NULL);
    r->plan = mem_alloc((size_t)(n + 1) * sizeof *r->plan);
    PlanJob job = {.all = all, .mesh = mesh, .own = own, .plan = r->plan, .err = err, .ok = true};
    net_visit(whole, plan_one, &job);
    r->n_plan = job.n;
    return job.ok;
}

bool regroup_open(Regroup **out, Net part, const Mesh *mesh, Error *err) {
    Regroup *r = mem_alloc(sizeof *r);
    Model *m = part.trunk;
    Error mine = {0};
    Own own = {0};
    Gathered all = {0};
    *out = NULL;
    CHECK(!part.adapter, "parts of a model with an adapter");
    r->part = part, r->c = mesh->model;
    if (model_alloc(&r->m, m->be, &m->whole, false, &mine)) {
        r->m.tokens = m->tokens;
        bool lm = part.head->kind == HEAD_LM;
        head_params_open(&r->h, &r->m, part.head->kind, lm ? m->whole.n_vocab : part.head->n_out, false, &mine);
    }
    net_visit(part, list_own, &own);
    bool ok = agree(mesh->world, &mine, own.pieces.s, (int64_t)own.pieces.n, &all, err) &&
              make_plans(r, mesh, &all, &own, err);
    gathered_release(&all);
    str_release(&own.pieces);
    free(own.w);
    if (!ok) {
        regroup_close(r);
        return false;
    }
    *out = r;
    return true;
}

Net regroup_net(Regroup *r) { return (Net){&r->m, &r->h, NULL}; }

static void close_plans(Regroup *r) {
    for (int i = 0; i < r->n_plan; i++) {
        free(r->plan[i].bytes);
        free(r->plan[i].at);
        free(r->plan[i].copy);
    }
    free(r->plan);
}

void regroup_close(Regroup *r) {
    if (!r) return;
    close_plans(r);
    head_release(&r->h);
    model_release(&r->m);
    free(r);
}

void regroup_take(Regroup *r, Model *m, Head *h) {
    close_plans(r);
    *m = r->m;
    *h = r->h;
    free(r);
}

/* -- bringing them together */

/* Row-major, in its own dtype. */
static void *rows_of(Backend *be, Tensor t) {
    void *raw = mem_alloc(tensor_raw_bytes(t) + 1), *rows = mem_alloc((size_t)tensor_count(t) * dtype_bytes(t.dtype));
    tensor_get_raw(be, raw, t);
    tensor_raw_rows(rows, raw, t);
    free(raw);
    return rows;
}

static void gather_one(Regroup *r, const Plan *p) {
    Backend *be = r->m.be;
    size_t size = dtype_bytes(p->to.dtype), bytes = (size_t)tensor_count(p->to) * size;
    void *in = tensor_empty(p->own) ? NULL : rows_of(be, p->own);
    unsigned char *all = mem_alloc(bytes), *host = mem_alloc(bytes), none = 0;
    Error ignore;
    comm_all_gather(r->c, all, in ? in : &none, p->bytes, DTYPE_I8, "regroup");
    if (comm_ok(r->c, &ignore)) {
        for (int i = 0; i < p->n_copy; i++) reshard_copy(host, all + p->at[p->copy[i].have], &p->copy[i], size);
        tensor_set_rows(be, p->to, host);
    }
    free(in);
    free(all);
    free(host);
}

bool regroup_refresh(Regroup *r, Error *err) {
    if (r->version == r->part.trunk->version) return true;
    for (int i = 0; i < r->n_plan; i++) gather_one(r, &r->plan[i]);
    if (!comm_ok(r->c, err)) return false;
    r->version = r->m.version = r->part.trunk->version;
    return true;
}

/* -- a tied embedding */

void net_share_tied(Net n, const Mesh *mesh) {
    enum { PIECE = 1 << 22 }; /* bytes, about */
    if (!mesh || !mesh->ends || !n.head || !n.head->tied || model_is_whole(n.trunk)) return;
    Backend *be = n.trunk->be;
    Comm *ends = mesh->ends;
    Tensor all = tensor_storage(n.head->copy ? n.head->w : n.trunk->w.wte);
    int64_t step = PIECE / (all.cols * (int64_t)dtype_bytes(all.dtype)) + 1;
    void *buf = mem_alloc((size_t)(step * all.cols) * dtype_bytes(all.dtype));
    for (int64_t r = 0; r < all.rows; r += step) {
        Tensor part = tensor_rows(all, r, all.rows - r < step ? all.rows - r : step);
        if (!n.head->copy) {
            block_get(be, buf, part);
            comm_send(ends, buf, tensor_count(part), all.dtype, 1, "tied.weights");
        } else {
            comm_recv(ends, buf, tensor_count(part), all.dtype, 0, "tied.weights");
            block_set(be, part, buf);
        }
    }
    free(buf);
}
