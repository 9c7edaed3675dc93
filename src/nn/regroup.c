#include "nn/regroup.h"

#include <stdlib.h>
#include <string.h>

#include "dist/agree.h"
#include "dist/blocks.h"
#include "nn/nn_int.h"
#include "nn/reshard.h"

/* -- what everybody has */

typedef struct { /* a parameter's part, as it is told to the others */
    int64_t order, row, col, rows, cols;
    int64_t whole_rows, whole_cols;
} Piece;

typedef struct {
    Str pieces;
    Tensor *w; /* of each */
    int n;
} Own;

static void list_own(void *ud, int index, const ParamInfo *p) {
    Own *o = ud;
    Piece piece = {p->order, p->row, p->col, p->w.rows, p->w.cols, p->rows, p->cols};
    o->w = mem_grow(o->w, (size_t)(index + 1) * sizeof *o->w);
    o->w[index] = p->w;
    o->n = index + 1;
    str_putn(&o->pieces, &piece, sizeof piece);
}

static void own_release(Own *o) {
    str_release(&o->pieces);
    free(o->w);
}

/* -- the plan of one tensor */

typedef struct {
    Tensor to;      /* where it is wanted; of a NetGather nowhere */
    Tensor own;     /* this rank's part of it; empty: it sends none */
    int64_t *bytes; /* (ranks) that each sends */
    int n_have;     /* boxes, in order of ranks, */
    size_t *at;     /* (n_have) and where each begins in what is gathered */
    ReshardCopy *copy;
    int n_copy;
} Plan;

static void plan_release(Plan *p) {
    free(p->bytes);
    free(p->at);
    free(p->copy);
}

static bool same_box(const Box *a, const Box *b) {
    return !memcmp(a->at, b->at, 2 * sizeof *a->at) && !memcmp(a->len, b->len, 2 * sizeof *a->len);
}

typedef struct {
    const Gathered *all; /* pieces by rank of a group, */
    const int *rank;     /* (n_rank) of which these take part, */
    int n_rank, me;      /* and this one's number among them */
    const Own *own;
    size_t size; /* of an element as it travels; 0: its own */
} Pieces;

static const Piece *pieces_of(const Pieces *p, int i, int *n) {
    int r = p->rank[i];
    *n = (int)((p->all->off[r + 1] - p->all->off[r]) / (int64_t)sizeof(Piece));
    return (const Piece *)(const void *)(p->all->data + p->all->off[r]);
}

/* The boxes of one tensor: of equal ones the first rank's. */
static bool plan_make(Plan *p, const Pieces *from, int64_t order, const Box *want, Tensor to, Error *err) {
    size_t size = from->size ? from->size : dtype_bytes(to.dtype), at = 0;
    Box *have = mem_alloc((size_t)from->n_rank * sizeof *have);
    *p = (Plan){.to = to, .bytes = mem_alloc((size_t)from->n_rank * sizeof *p->bytes)};
    p->at = mem_alloc((size_t)from->n_rank * sizeof *p->at);
    for (int me = 0; me < from->n_rank; me++) {
        int n;
        const Piece *piece = pieces_of(from, me, &n);
        for (int i = 0; i < n; i++) {
            Box b = {2, {piece[i].row, piece[i].col}, {piece[i].rows, piece[i].cols}};
            bool known = piece[i].order != order;
            for (int k = 0; k < p->n_have && !known; k++) known = same_box(&have[k], &b);
            if (known) continue;
            have[p->n_have] = b;
            p->at[p->n_have++] = at;
            p->bytes[me] = box_volume(&b) * (int64_t)size;
            at += (size_t)p->bytes[me];
            if (me == from->me) p->own = from->own->w[i];
        }
    }
    bool ok = reshard_plan(&p->copy, &p->n_copy, want, have, p->n_have, err);
    free(have);
    return ok;
}

/* -- a net of all layers, or all of it */

struct Regroup {
    Net part;
    Comm *c;
    Model m;
    Head h;
    Plan *plan;
    int n_plan;
    uint64_t version; /* of the parts it was made of; 0: none */
};

typedef struct {
    const Pieces *pieces;
    Regroup *r;
    Error *err;
    bool ok;
} PlanJob;

static void plan_one(void *ud, int index, const ParamInfo *p) {
    PlanJob *job = ud;
    Box want = {2, {p->row, p->col}, {p->w.rows, p->w.cols}};
    Error mine = {0};
    job->r->n_plan = index + 1;
    if (!plan_make(&job->r->plan[index], job->pieces, p->order, &want, p->w, &mine) && job->ok) {
        *job->err = mine;
        job->ok = error_wrap(job->err, "tensor '%s' of several ranks", p->name);
    }
}

/* World ranks of the group that mesh->model or mesh->pp is; this one's number in it. */
static int group_ranks(int *rank, int *me, const Mesh *mesh, bool whole) {
    int n_model = mesh->size.tp * mesh->size.cp * mesh->size.pp, n = 0;
    *me = comm_rank(whole ? mesh->model : mesh->pp);
    for (int i = 0; i < (whole ? n_model : mesh->size.pp); i++) {
        Layout at = mesh->at;
        at.pp = i;
        rank[n++] = whole ? mesh->at.dp * n_model + i : layout_rank(mesh->size, at);
    }
    return n;
}

static bool make_plans(Regroup *r, const Mesh *mesh, bool whole, const Gathered *all, const Own *own, Error *err) {
    int n = net_visit(regroup_net(r), NULL, NULL);
    int *rank = mem_alloc((size_t)comm_size(mesh->world) * sizeof *rank);
    Pieces pieces = {.all = all, .rank = rank, .own = own};
    pieces.n_rank = group_ranks(rank, &pieces.me, mesh, whole);
    r->plan = mem_alloc((size_t)(n + 1) * sizeof *r->plan);
    PlanJob job = {&pieces, r, err, true};
    net_visit(regroup_net(r), plan_one, &job);
    free(rank);
    return job.ok;
}

bool regroup_open(Regroup **out, Net part, const Mesh *mesh, bool whole, Error *err) {
    Regroup *r = mem_alloc(sizeof *r);
    Model *m = part.trunk;
    Mesh share = mesh_share(mesh);
    Error mine = {0};
    Own own = {0};
    Gathered all = {0};
    *out = NULL;
    CHECK(!part.adapter, "parts of a model with an adapter");
    r->part = part, r->c = whole ? mesh->model : mesh->pp;
    if (model_alloc_on(&r->m, m->be, &m->whole, whole ? NULL : &share, false, &mine)) {
        r->m.tokens = m->tokens;
        bool lm = part.head->kind == HEAD_LM;
        head_params_open(&r->h, &r->m, part.head->kind, lm ? r->m.cfg.n_vocab : part.head->n_out, false, &mine);
    }
    if (!m->be->dry) net_visit(part, list_own, &own);
    bool ok = m->be->dry ? mine.code == ERR_NONE
                         : agree(mesh->world, &mine, own.pieces.s, (int64_t)own.pieces.n, &all, err) &&
                               make_plans(r, mesh, whole, &all, &own, err);
    if (m->be->dry) *err = mine;
    gathered_release(&all);
    own_release(&own);
    if (!ok) {
        regroup_close(r);
        return false;
    }
    *out = r;
    return true;
}

Net regroup_net(Regroup *r) { return (Net){&r->m, &r->h, NULL}; }

static void close_plans(Regroup *r) {
    for (int i = 0; i < r->n_plan; i++) plan_release(&r->plan[i]);
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
    size_t size = dtype_bytes(p->to.dtype), all_bytes = 1;
    void *in = tensor_empty(p->own) ? NULL : rows_of(be, p->own);
    for (int i = 0; i < comm_size(r->c); i++) all_bytes += (size_t)p->bytes[i];
    unsigned char *all = mem_alloc(all_bytes), *host = mem_alloc((size_t)tensor_count(p->to) * size), none = 0;
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
    if (r->version == r->part.trunk->version || r->m.be->dry) return true;
    for (int i = 0; i < r->n_plan; i++) gather_one(r, &r->plan[i]);
    if (!comm_ok(r->c, err)) return false;
    r->version = r->m.version = r->part.trunk->version;
    return true;
}

/* -- one tensor at a time */

struct NetGather {
    Backend *be;
    Comm *c;
    Own own;
    Gathered all;
    int *rank;
};

bool net_gather_open(NetGather **out, Net part, const Mesh *mesh, Error *err) {
    NetGather *g = mem_alloc(sizeof *g);
    Error none = {0};
    *g = (NetGather){.be = part.trunk->be, .c = mesh->model};
    *out = NULL;
    CHECK(!part.adapter, "parts of a model with an adapter");
    net_visit(part, list_own, &g->own);
    if (!agree(g->c, &none, g->own.pieces.s, (int64_t)g->own.pieces.n, &g->all, err)) {
        net_gather_close(g);
        return false;
    }
    g->rank = mem_alloc((size_t)comm_size(g->c) * sizeof *g->rank);
    for (int i = 0; i < comm_size(g->c); i++) g->rank[i] = i;
    *out = g;
    return true;
}

void net_gather_close(NetGather *g) {
    if (!g) return;
    own_release(&g->own);
    gathered_release(&g->all);
    free(g->rank);
    free(g);
}

static Box whole_box(const Pieces *p, int64_t order) {
    for (int i = 0; i < p->n_rank; i++) {
        int n;
        const Piece *piece = pieces_of(p, i, &n);
        for (int k = 0; k < n; k++)
            if (piece[k].order == order) return (Box){2, {0, 0}, {piece[k].whole_rows, piece[k].whole_cols}};
    }
    CHECK(false, "no rank has tensor %lld", (long long)order);
    return (Box){0};
}

void net_gather(NetGather *g, int64_t order, float *out) {
    int size = comm_size(g->c), me = comm_rank(g->c);
    Pieces pieces = {&g->all, g->rank, size, me, &g->own, sizeof *out};
    Box want = whole_box(&pieces, order);
    Plan p;
    Error err = {0};
    CHECK(plan_make(&p, &pieces, order, &want, (Tensor){0}, &err), "tensor %lld: %s", (long long)order, err.msg);
    int64_t *count = mem_alloc(2 * (size_t)size * sizeof *count), *recv = count + size, n_all = 0;
    for (int i = 0; i < size && me == 0; i++) n_all += recv[i] = p.bytes[i];
    count[0] = p.bytes[me];
    float *in = mem_alloc((size_t)p.bytes[me] + 1);
    unsigned char *all = mem_alloc((size_t)n_all + 1);
    if (!tensor_empty(p.own)) tensor_get_f32(g->be, in, p.own);
    comm_all_to_all(g->c, all, recv, in, count, DTYPE_I8, "gather");
    bool there = me == 0 && comm_ok(g->c, &err);
    for (int i = 0; i < p.n_copy && there; i++) reshard_copy(out, all + p.at[p.copy[i].have], &p.copy[i], sizeof *out);
    free(count);
    free(in);
    free(all);
    plan_release(&p);
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
