#include "train/pipe.h"

#include <stdlib.h>
#include <string.h>

#include "dist/agree.h"
#include "dist/blocks.h"

/* -- the order ------------------------------------------------------------------------------------------------------
 *
 * A stage hands a forward's output on only after it took the gradient that the next stage sends before it asks for that
 * output: so of two neighbours one always listens. The head's gradient goes before the gradients of the backward that
 * the last stage is at, and comes before those of the backward that the first is about to make: neither end then has
 * sent anything that the stages between could be stuck with. */

typedef struct {
    PipeStep *out;
    int64_t n;
    int stage, last, lag;
    bool tied;
} Order;

static void put(Order *o, PipeOp op, int64_t i) { o->out[o->n++] = (PipeStep){op, i}; }

static void put_forward(Order *o, int64_t i) {
    if (o->stage > 0) put(o, PIPE_RECV_X, i);
    put(o, PIPE_FORWARD, i);
}

static void put_backward(Order *o, int64_t i) {
    put(o, PIPE_BACKWARD, i);
    if (o->tied && o->stage == o->last && i >= o->lag) put(o, PIPE_SEND_HEAD, i - o->lag);
    if (o->stage > 0) put(o, PIPE_SEND_DX, i);
}

static void put_gradient(Order *o, int64_t i) {
    if (o->tied && o->stage == 0) put(o, PIPE_RECV_HEAD, i);
    if (o->stage < o->last) put(o, PIPE_RECV_DX, i);
}

int64_t pipe_schedule(PipeStep *out, int stage, int n_stage, int64_t n, bool tied) {
    Order o = {out, 0, stage, n_stage - 1, pipe_lag(n_stage), tied};
    int64_t warm = n_stage - stage - 1 < n ? n_stage - stage - 1 : n;
    for (int64_t i = 0; i < warm; i++) {
        put_forward(&o, i);
        put(&o, PIPE_SEND_X, i);
    }
    for (int64_t i = 0; i < n; i++) {
        bool more = warm + i < n;
        if (more) put_forward(&o, warm + i);
        put_gradient(&o, i);
        if (more && stage < o.last) put(&o, PIPE_SEND_X, warm + i);
        put_backward(&o, i);
    }
    for (int64_t i = n > o.lag ? n - o.lag : 0; tied && stage == o.last && i < n; i++) put(&o, PIPE_SEND_HEAD, i);
    return o.n;
}

/* -- copies of batches ----------------------------------------------------------------------------------------------
 */

typedef struct { /* one that outlives the objective's arrays */
    Batch b;
    int32_t *mem;
    unsigned lanes, trained;
} Held;

static const int32_t *keep(int32_t **at, const int32_t *from, int64_t n) {
    if (!from) return NULL;
    int32_t *to = *at;
    memcpy(to, from, (size_t)n * sizeof *to);
    *at += n;
    return to;
}

static void hold(Held *h, const Batch *b) {
    const AttnSeqs *s = &b->seqs;
    int64_t n_page = (int64_t)s->n_seq * s->max_page;
    int64_t n = 3 * (int64_t)b->n_tok + 2 * (int64_t)s->n_seq + 1 + n_page + b->n_row + (b->seen ? b->n_seen : 0);
    int32_t *at = h->mem = mem_alloc((size_t)n * sizeof *h->mem);
    h->b = *b;
    h->b.tok = keep(&at, b->tok, b->n_tok);
    h->b.pos = keep(&at, b->pos, b->n_tok);
    h->b.row = keep(&at, b->row, b->n_row);
    h->b.seqs.q_off = keep(&at, s->q_off, s->n_seq + 1);
    h->b.seqs.kv_len = keep(&at, s->kv_len, s->n_seq);
    h->b.seqs.kv_page = keep(&at, s->kv_page, n_page);
    h->b.seen = keep(&at, b->seen, b->n_seen);
    h->b.home = keep(&at, b->home, b->n_tok);
}

/* -- life -----------------------------------------------------------------------------------------------------------
 */

typedef struct {
    Net net;
    Acts **acts;       /* (n_slot) */
    HostRoom head;     /* (lag + 1) gradients of a tied head that wait to be sent; empty: none */
    size_t head_bytes; /* of each */
} Lane;

struct Pipe {
    const Mesh *mesh;
    Backend *be;
    Lane lane[PIPE_LANES];
    int n_lane, stage, last, n_slot, n_queue;
    bool tied;
    HostRoom buf; /* what is sent or received */
    Held *held;
    PipeRun run;
    PipeStep *step;
};

static bool ties(const Lane *l) { return l->net.head->tied; }

static bool open_lane(Pipe *p, Lane *l, const PipeLane *from, int max_tok, int max_row, Keep how, Error *err) {
    l->net = from->net;
    l->acts = mem_alloc((size_t)p->n_slot * sizeof *l->acts);
    for (int i = 0; i < p->n_slot; i++) {
        bool ok = i == 0 ? acts_open(&l->acts[0], l->net.trunk, max_tok, max_row, how, err)
                         : acts_open_beside(&l->acts[i], l->net.trunk, l->acts[0], err);
        if (!ok || (from->max_seen > 0 && !acts_share(l->acts[i], from->max_seen, err))) return false;
    }
    if (!ties(l)) return true;
    p->tied = true;
    if (!l->net.head->copy) return true;
    l->head_bytes = tensor_raw_bytes(l->net.head->dw);
    host_room(p->be, &l->head, (size_t)p->n_queue * l->head_bytes);
    return true;
}

bool pipe_open(Pipe **out, const PipeLane *lane, int n_lane, const Mesh *mesh, int max_tok, int max_row, Keep how,
               Error *err) {
    Pipe *p = mem_alloc(sizeof *p);
    *out = NULL;
    CHECK(n_lane >= 1 && n_lane <= PIPE_LANES && mesh->size.pp > 1, "%d nets through %d stages", n_lane, mesh->size.pp);
    p->mesh = mesh, p->be = lane[0].net.trunk->be;
    p->stage = mesh->at.pp, p->last = mesh->size.pp - 1, p->n_slot = mesh->size.pp - mesh->at.pp;
    p->n_queue = pipe_lag(mesh->size.pp) + 1;
    p->n_lane = n_lane;
    bool ok = true;
    for (int k = 0; k < n_lane && ok; k++) ok = open_lane(p, &p->lane[k], &lane[k], max_tok, max_row, how, err);
    size_t most = 0;
    for (int k = 0; k < n_lane; k++) {
        const Model *m = lane[k].net.trunk;
        size_t wte = ties(&p->lane[k]) && m->part.first ? tensor_raw_bytes(m->dw.wte) : 0;
        size_t x = (size_t)max_tok * (size_t)m->cfg.d_model * dtype_bytes(p->be->real);
        most = wte > most ? wte : most, most = x > most ? x : most;
    }
    host_room(p->be, &p->buf, most);
    if (!ok) {
        pipe_close(p);
        return false;
    }
    *out = p;
    return true;
}

static void let_go(Pipe *p) {
    for (int64_t i = 0; i < p->run.n; i++) free(p->held[i].mem);
    free(p->held);
    free(p->step);
    p->held = NULL;
    p->step = NULL;
    p->run.n = 0;
}

void pipe_close(Pipe *p) {
    if (!p) return;
    let_go(p);
    for (int k = 0; k < p->n_lane; k++) {
        Lane *l = &p->lane[k];
        for (int i = p->n_slot; l->acts && i-- > 0;) acts_close(l->acts[i]);
        host_room_release(p->be, &l->head);
        free(l->acts);
    }
    host_room_release(p->be, &p->buf);
    free(p);
}

/* -- passes ---------------------------------------------------------------------------------------------------------
 */

static int64_t number_of(const Pipe *p, int64_t i) { return p->run.first + i * p->run.step; }

static bool read_all(Pipe *p, const PipeWork *w, Error *err) {
    for (int64_t i = 0; i < p->run.n; i++) {
        Batch b;
        Held *h = &p->held[i];
        if (!w->batch(w->ud, number_of(p, i), &b, &h->lanes, &h->trained, err)) return false;
        if (b.n_row == 0) h->lanes = 0; /* nothing in it is trained */
        h->trained &= h->lanes;
        hold(h, &b);
    }
    return true;
}

bool pipe_fill(Pipe *p, const PipeWork *w, PipeRun run, const Error *mine, Error *err) {
    Error fate = *mine;
    let_go(p);
    p->held = mem_alloc((size_t)(run.n + 1) * sizeof *p->held);
    p->step = mem_alloc((size_t)(8 * run.n + 1) * sizeof *p->step);
    p->run = run;
    if (fate.code == ERR_NONE) read_all(p, w, &fate);
    return agree(p->mesh->world, &fate, NULL, 0, NULL, err);
}

typedef struct {
    Pipe *p;
    const PipeWork *w;
    Error *err;
    bool broken; /* nothing is computed any more, but the others get what they wait for */
} Run;

static Acts *acts_of(const Pipe *p, int lane, int64_t i) { return p->lane[lane].acts[i % p->n_slot]; }

static void send_tensor(Pipe *p, Comm *c, Tensor t, int peer, const char *site) {
    block_get(p->be, p->buf.at, t);
    comm_send(c, p->buf.at, tensor_count(tensor_storage(t)), t.dtype, peer, site);
}

static void recv_tensor(Pipe *p, Comm *c, Tensor t, int peer, const char *site) {
    Error ignore;
    comm_recv(c, p->buf.at, tensor_count(tensor_storage(t)), t.dtype, peer, site);
    if (comm_ok(c, &ignore)) block_set(p->be, t, p->buf.at);
}

static void move_x(Run *r, int lane, int64_t i, const Batch *b, bool in) {
    Pipe *p = r->p;
    Acts *a = acts_of(p, lane, i);
    if (in) {
        recv_tensor(p, p->mesh->pp, acts_input(a, acts_own(a, b)->n_tok), p->stage - 1, "pipe.x");
        return;
    }
    send_tensor(p, p->mesh->pp, acts_output(a, acts_own(a, b)->n_tok), p->stage + 1,
                "pipe.x"); /* of a broken run: whatever is there */
}

static void move_dx(Run *r, int lane, int64_t i, const Batch *b, bool in) {
    Pipe *p = r->p;
    Acts *a = acts_of(p, lane, i);
    Tensor dx = acts_gradient(a, acts_own(a, b)->n_tok);
    if (in)
        recv_tensor(p, p->mesh->pp, dx, p->stage + 1, "pipe.dx");
    else
        send_tensor(p, p->mesh->pp, dx, p->stage - 1, "pipe.dx");
}

static unsigned char *waiting(const Pipe *p, const Lane *l, int64_t i) {
    return l->head.at + (size_t)(i % p->n_queue) * l->head_bytes;
}

/* The first stage's sum begins with what comes. */
static void move_head(Run *r, int lane, int64_t i, bool in) {
    Pipe *p = r->p;
    Lane *l = &p->lane[lane];
    if (!ties(l)) return;
    if (in) {
        recv_tensor(p, p->mesh->ends, l->net.trunk->dw.wte, 1, "pipe.head");
        return;
    }
    Tensor dw = tensor_storage(l->net.head->dw);
    comm_send(p->mesh->ends, waiting(p, l, i), tensor_count(dw), dw.dtype, 0, "pipe.head");
}

static bool forward(Run *r, int64_t i, const Held *h) {
    Pipe *p = r->p;
    bool last = p->stage == p->last;
    if (last) {
        Batch again; /* what the losses need beside it is the objective's */
        unsigned lanes, trained;
        if (!r->w->batch(r->w->ud, number_of(p, i), &again, &lanes, &trained, r->err)) return false;
    }
    for (int k = 0; k < p->n_lane; k++) {
        if (!(h->lanes >> k & 1)) continue;
        pulse_section(r->w->pulse, SECTION_FWD);
        net_forward(p->lane[k].net, acts_of(p, k, i), &h->b, NULL);
        bool train = h->trained >> k & 1;
        if (last && !r->w->loss(r->w->ud, number_of(p, i), k, acts_of(p, k, i), &h->b, train, r->err)) return false;
    }
    return true;
}

/* The gradient of a tied head waits for its turn, and makes room for the next one's. */
static void take_head(Pipe *p, Lane *l, int64_t i) {
    if (!l->head.at) return;
    Tensor dw = l->net.head->dw;
    block_get(p->be, waiting(p, l, i), dw);
    p->be->op->zero(p->be, dw);
}

static bool backward(Run *r, int64_t i, const Held *h) {
    Pipe *p = r->p;
    for (int k = 0; k < p->n_lane; k++) {
        if (!(h->trained >> k & 1)) continue;
        pulse_section(r->w->pulse, SECTION_BWD);
        net_backward(p->lane[k].net, acts_of(p, k, i), &h->b);
        take_head(p, &p->lane[k], i);
    }
    return r->w->done(r->w->ud, number_of(p, i), r->err);
}

static void move(Run *r, PipeStep s, const Held *h) {
    for (int k = 0; k < r->p->n_lane; k++) {
        bool here = h->lanes >> k & 1, back = h->trained >> k & 1;
        if (here && (s.op == PIPE_RECV_X || s.op == PIPE_SEND_X)) move_x(r, k, s.i, &h->b, s.op == PIPE_RECV_X);
        if (back && (s.op == PIPE_RECV_DX || s.op == PIPE_SEND_DX)) move_dx(r, k, s.i, &h->b, s.op == PIPE_RECV_DX);
        if (back && (s.op == PIPE_RECV_HEAD || s.op == PIPE_SEND_HEAD)) move_head(r, k, s.i, s.op == PIPE_RECV_HEAD);
    }
}

bool pipe_run(Pipe *p, const PipeWork *w, Error *err) {
    Run r = {p, w, err, false};
    int64_t n = pipe_schedule(p->step, p->stage, p->last + 1, p->run.n, p->tied);
    for (int64_t k = 0; k < n; k++) {
        PipeStep s = p->step[k];
        const Held *h = &p->held[s.i];
        if (s.op == PIPE_FORWARD || s.op == PIPE_BACKWARD)
            r.broken = r.broken || !(s.op == PIPE_FORWARD ? forward : backward)(&r, s.i, h);
        else
            move(&r, s, h);
        if (r.broken && s.op == PIPE_BACKWARD) w->lost(w->ud);
    }
    Lane *l = p->lane;
    for (int k = 0; k < p->n_lane; k++) /* of a run that broke in between */
        if (l[k].head.at) p->be->op->zero(p->be, l[k].net.head->dw);
    return !r.broken;
}
