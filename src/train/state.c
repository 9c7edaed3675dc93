#include "train/state.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/build.h"
#include "base/hash.h"
#include "dist/agree.h"
#include "nn/lora.h"
#include "nn/regroup.h"

struct State {
    CkptWriter *writer;
    Ckpt *found; /* between state_find and state_load */
    Str dir;
    StateConfig c;
    const Mesh *mesh;
    Log *log;
    int64_t handed; /* step of the save that was handed to the writer last */
    int64_t told;   /* saves whose success was told */
};

/* -- life */

/* Earlier versions kept one folder with files of other names. Their states are not read: the stage begins again. */
static bool refuse_old(const char *dir, Error *err) {
    static const char *const old[] = {"state/state.json", "state.old/state.json"};
    Str path = {0};
    bool found = false;
    for (int i = 0; i < COUNT_OF(old) && !found; i++) {
        str_clear(&path);
        str_printf(&path, "%s/%s", dir, old[i]);
        found = io_exists(path.s);
    }
    if (found)
        error_set(err, ERR_STATE,
                  "%s: a state of an earlier version, whose format is not read any more; remove the folder it is in "
                  "to begin this stage again, or finish the run with that version",
                  path.s);
    str_release(&path);
    return !found;
}

static const char *base_name(const char *dir) {
    const char *slash = strrchr(dir, '/');
    return slash ? slash + 1 : dir;
}

static Comm *world_of(const State *s) { return s->mesh ? s->mesh->world : NULL; }

static bool all_well(const State *s, const Error *mine, Error *err) {
    return agree(world_of(s), mine, NULL, 0, NULL, err);
}

static bool open_writer(State *s, const char *run, Error *err) {
    const char *attempt = getenv("DIKAST_ATTEMPT");
    CkptConfig config = {.dir = s->dir.s, .run = run, .wait = s->c.wait, .keep = s->c.keep, .log = s->log};
    config.rank = s->c.rank, config.n_ranks = s->c.n_ranks;
    config.keep_every = s->c.keep_every, config.keep_best = s->c.keep_best;
    config.attempt = attempt ? abs(atoi(attempt)) : 0;
    return ckpt_writer_open(&s->writer, &config, err);
}

bool state_open(State **out, const char *dir, const StateConfig *c, const Mesh *mesh, Log *log, Error *err) {
    State *s = mem_alloc(sizeof *s);
    Error mine = {0};
    s->c = *c, s->mesh = mesh, s->log = log;
    if (mesh) s->c.rank = comm_rank(mesh->world), s->c.n_ranks = comm_size(mesh->world);
    if (s->c.n_ranks < 1) s->c.n_ranks = 1;
    str_printf(&s->dir, "%s/state", dir);
    *out = NULL;
    if (refuse_old(dir, &mine)) open_writer(s, base_name(dir), &mine);
    if (!all_well(s, &mine, err)) {
        state_close(s);
        return false;
    }
    *out = s;
    return true;
}

void state_close(State *s) {
    if (!s) return;
    if (s->writer) ckpt_writer_close(s->writer);
    ckpt_close(s->found);
    str_release(&s->dir);
    free(s);
}

/* One save is under way at a time: when there is one more on disk, it is the one handed over last. Rank 0's alone is
 * the whole. */
static void tell(State *s) {
    int64_t saved = ckpt_stats(s->writer).saved;
    if (saved > s->told && s->c.rank == 0) pulse_commit(log_pulse(s->log), s->handed);
    if (saved > s->told) pulse_kept(log_pulse(s->log));
    s->told = saved;
}

bool state_busy(State *s) {
    bool busy = ckpt_busy(s->writer);
    tell(s);
    return busy;
}

bool state_settle(State *s, Error *err) {
    Error mine = {0};
    ckpt_wait(s->writer, &mine);
    tell(s);
    return all_well(s, &mine, err);
}

CkptStats state_stats(State *s) { return ckpt_stats(s->writer); }

/* -- pieces */

typedef struct {
    const StateView *v;
    const char *net;
    Heap heap;
    CkptPiece *piece;
    bool *share; /* of each: of a tensor that tensor-parallel ranks divide; else all of them have it */
    int n, cap;
} Pieces;

/* box: of the whole tensor's, where t lies; its name and t are filled in here. */
static void add(Pieces *p, const char *net, const char *name, CkptKind kind, Tensor t, CkptPiece box, bool share) {
    if (p->n == p->cap) {
        p->cap = p->cap ? 2 * p->cap : 128;
        p->piece = mem_grow(p->piece, (size_t)p->cap * sizeof *p->piece);
        p->share = mem_grow(p->share, (size_t)p->cap * sizeof *p->share);
    }
    const char *full = heap_printf(&p->heap, "%s.%s", net, name);
    box.name = full, box.kind = kind, box.t = t;
    p->share[p->n] = share;
    p->piece[p->n++] = box;
}

static void add_param(void *ud, int index, const ParamInfo *info) {
    Pieces *p = ud;
    (void)index;
    CkptPiece box = {.rows = info->rows, .cols = info->cols, .row = info->row, .col = info->col};
    add(p, p->net, info->name, CKPT_PARAM, info->w, box, param_divided(info));
}

static void add_moment(void *ud, const OptimPiece *o) {
    static const CkptKind kinds[] = {[OPTIM_M] = CKPT_M, [OPTIM_V] = CKPT_V, [OPTIM_MASTER] = CKPT_MASTER};
    Pieces *p = ud;
    CkptPiece box = {.rows = o->rows, .cols = o->cols, .row = o->row, .col = o->col};
    add(p, p->v->optim_net[o->net], o->name, kinds[o->kind], o->t, box, o->share);
}

static Pieces pieces_of(const StateView *v) {
    Pieces p = {.v = v};
    for (int i = 0; i < v->n_net; i++) {
        p.net = v->net[i].name;
        net_visit_own(v->net[i].net, add_param, &p);
    }
    optim_visit(v->optim, add_moment, &p);
    return p;
}

/* What several ranks have is written by one of them, the one with the least so far; all come to the same answer. Of
 * parts of a model these are its data-parallel replicas; of the tensor-parallel ranks each writes its share, and the
 * first one what is not divided. What is divided by ZeRO is written by those who have it. */
static void keep_own(Pieces *p, const State *s) {
    const Mesh *m = s->mesh;
    int rank = m ? comm_rank(m->dp) : s->c.rank, n_ranks = m ? comm_size(m->dp) : s->c.n_ranks;
    bool divided = optim_shards(p->v->optim);
    size_t *bytes = mem_alloc((size_t)n_ranks * sizeof *bytes);
    int n = 0;
    for (int i = 0; i < p->n; i++) {
        if (p->share[i] || !m || m->at.tp == 0) p->piece[n++] = p->piece[i];
    }
    p->n = n;
    n = 0;
    for (int i = 0; i < p->n; i++) {
        const CkptPiece *q = &p->piece[i];
        bool shared = q->kind == CKPT_PARAM || !divided;
        int writer = 0;
        for (int r = 1; r < n_ranks; r++)
            if (bytes[r] < bytes[writer]) writer = r;
        if (shared) bytes[writer] += tensor_raw_bytes(q->t);
        if (!shared || writer == rank) p->piece[n++] = *q;
    }
    p->n = n;
    free(bytes);
}

static void pieces_release(Pieces *p) {
    heap_release(&p->heap);
    free(p->piece);
    free(p->share);
}

/* -- sections */

static void put_progress(Str *out, const StateView *v, StatePut *put, void *ud) {
    JsonOut j;
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    json_out_int(&j, "updates", optim_updates(v->optim));
    json_out_int(&j, "metrics_bytes", v->metrics ? appender_size(v->metrics) : 0);
    put(ud, &j);
    json_out_obj_end(&j);
}

static void put_rng(Str *out, uint64_t seed) {
    JsonOut j;
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, seed);
    json_out_str(&j, "seed", text); /* may be larger than JSON's integers */
    json_out_str(&j, "keys", "philox4x32-10/1");
    json_out_obj_end(&j);
}

static void put_schedule(Str *out, const StateView *v) {
    JsonOut j;
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    json_out_num(&j, "lr_factor", schedule_factor(v->schedule, v->step));
    json_out_num(&j, "lr_peak", v->lr);
    json_out_int(&j, "total", v->schedule->total);
    json_out_obj_end(&j);
}

static void put_env(Str *out, const Backend *be) {
    JsonOut j;
    char host[256] = "", build[BUILD_ID_MAX];
    build_id(build);
    gethostname(host, sizeof host - 1);
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "dikast", DIKAST_VERSION);
    json_out_str(&j, "build", build);
    json_out_str(&j, "compiler", __VERSION__);
    json_out_str(&j, "backend", be->op->name);
    json_out_str(&j, "isa", backend_isa(be));
    json_out_str(&j, "dtype", dtype_name(be->dtype));
    json_out_str(&j, "host", host);
    json_out_obj_end(&j);
}

static void put_layout(Str *out, const State *s, int zero) {
    JsonOut j;
    const Layout one = {1, 1, 1, s->c.n_ranks}, size = s->mesh ? s->mesh->size : one;
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    json_out_int(&j, "world", s->c.n_ranks);
    json_out_int(&j, "tp", size.tp);
    json_out_int(&j, "cp", size.cp);
    json_out_int(&j, "pp", size.pp);
    json_out_int(&j, "dp", size.dp);
    json_out_int(&j, "zero", zero);
    json_out_str(&j, "order", "tp cp pp dp");
    json_out_obj_end(&j);
}

static bool put_nets(Str *out, const StateView *v, Error *err) {
    JsonOut j;
    bool ok = true;
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    for (int i = 0; i < v->n_net && ok; i++) ok = net_describe(&j, v->net[i].name, v->net[i].net, err);
    json_out_obj_end(&j);
    return ok;
}

/* -- saving */

static bool save(State *s, const StateView *v, StatePut *put, void *ud, Error *err) {
    Str text[CKPT_SECTIONS] = {0};
    Backend *be = v->net[0].net.trunk->be;
    put_layout(&text[CKPT_LAYOUT], s, optim_zero(v->optim));
    put_progress(&text[CKPT_PROGRESS], v, put, ud);
    put_rng(&text[CKPT_RNG], s->c.seed);
    put_schedule(&text[CKPT_SCHEDULE], v);
    put_env(&text[CKPT_ENV], be);
    bool ok = put_nets(&text[CKPT_NETS], v, err);
    if (ok) {
        Pieces p = pieces_of(v);
        keep_own(&p, s);
        CkptState state = {.step = v->step, .piece = p.piece, .n_piece = p.n, .metric = v->metric, .first = v->metrics};
        for (int k = 0; k < CKPT_SECTIONS; k++) state.section[k] = text[k].s;
        ok = ckpt_save(s->writer, be, &state, err);
        pieces_release(&p);
    }
    for (int k = 0; k < CKPT_SECTIONS; k++) str_release(&text[k]);
    return ok;
}

/* One rank that may not save is enough: what the others wrote would lack its part. */
static bool may_save(const State *s, Error *err) {
    Error mine = {0};
    if (!pulse_leased(log_pulse(s->log)))
        error_set(&mine, ERR_STOPPED,
                  "nothing was saved: the supervisor was not heard for too long, and may have "
                  "started another process in this one's place");
    return all_well(s, &mine, err);
}

static bool hand_over(State *s, const StateView *v, StatePut *put, void *ud, Error *err) {
    pulse_section(log_pulse(s->log), SECTION_CKPT);
    Error ignore; /* of the save before, which the writer has said */
    ckpt_wait(s->writer, &ignore);
    tell(s);
    pulse_mark(log_pulse(s->log));
    s->handed = v->step;
    bool ok = save(s, v, put, ud, err);
    tell(s);
    return ok;
}

bool state_save(State *s, const StateView *v, StatePut *put, void *ud, Error *err) {
    Error why = {0};
    if (!may_save(s, err)) return false;
    if (!hand_over(s, v, put, ud, &why)) log_warn(s->log, "training goes on without a newer saved state: %s", why.msg);
    return true;
}

bool state_save_last(State *s, const StateView *v, StatePut *put, void *ud, Error *err) {
    Error mine = {0};
    if (!may_save(s, err)) return false;
    hand_over(s, v, put, ud, &mine);
    return all_well(s, &mine, err) && state_settle(s, err);
}

/* -- resuming */

static bool find_newest(State *s, Error *err) {
    char *own = mem_str(s->dir.s); /* .../run/state */
    own[s->dir.n - strlen("/state")] = 0;
    bool ok = ckpt_newest(&s->found, s->dir.s, base_name(own), s->log, err);
    free(own);
    return ok;
}

static bool find_at(State *s, int64_t step, Error *err) {
    Str path = {0};
    str_printf(&path, "%s/step-%08" PRId64, s->dir.s, step);
    bool ok = ckpt_open(&s->found, path.s, err);
    str_release(&path);
    return ok;
}

int64_t state_found(const State *s) { return s->found ? ckpt_manifest(s->found)->step : -1; }

/* Rank 0 looks, for looking puts aside what is damaged; the others take the one it found. */
bool state_find(State *s, const Json **progress, Error *err) {
    Error mine = {0};
    Gathered all;
    *progress = NULL;
    if (mesh_leads(s->mesh)) find_newest(s, &mine);
    int64_t step = state_found(s);
    if (!agree(world_of(s), &mine, &step, (int64_t)sizeof step, &all, err)) return false;
    memcpy(&step, all.data, sizeof step); /* rank 0's */
    gathered_release(&all);
    if (!mesh_leads(s->mesh) && step >= 0) find_at(s, step, &mine);
    if (!all_well(s, &mine, err)) return false;
    if (!s->found) return true;
    *progress = ckpt_manifest(s->found)->section[CKPT_PROGRESS];
    ckpt_resumed(s->writer, step);
    return true;
}

/* Bits are promised on one machine with one build only. */
static void compare_env(State *s, const Backend *be) {
    const Json *env = ckpt_manifest(s->found)->section[CKPT_ENV];
    char build[BUILD_ID_MAX];
    build_id(build);
    const char *const now[][2] = {{"dikast", DIKAST_VERSION}, {"build", build},
                                  {"compiler", __VERSION__},  {"backend", be->op->name},
                                  {"isa", backend_isa(be)},   {"dtype", dtype_name(be->dtype)}};
    for (int i = 0; i < COUNT_OF(now); i++) {
        const char *was = json_str(json_get(env, now[i][0]), NULL);
        if (was && strcmp(was, now[i][1]) != 0)
            log_warn(s->log, "the state was saved with %s %s, this is %s: results may differ in their last bits",
                     now[i][0], was, now[i][1]);
    }
}

static bool load(State *s, const StateView *v, Error *err) {
    Backend *be = v->net[0].net.trunk->be;
    Pieces p = pieces_of(v);
    int64_t updates = json_int(json_get(ckpt_manifest(s->found)->section[CKPT_PROGRESS], "updates"), -1);
    bool ok = updates >= 0 || error_set(err, ERR_FORMAT, "%s: 'progress' has no 'updates'", ckpt_dir(s->found));
    compare_env(s, be);
    /* Of a divided state, and of a part of a model, this rank names its own pieces only. */
    ok = ok && ckpt_load(s->found, be, p.piece, p.n, !optim_shards(v->optim) && !mesh_divides(s->mesh), err);
    if (ok) {
        optim_resume(v->optim, updates);
        for (int i = 0; i < v->n_net; i++) v->net[i].net.trunk->version++;
    }
    pieces_release(&p);
    ckpt_close(s->found);
    s->found = NULL;
    return ok || error_wrap(err, "cannot go on from the saved state; remove the folder %s to begin this stage again",
                            s->dir.s);
}

bool state_load(State *s, const StateView *v, Error *err) {
    Error mine = {0};
    load(s, v, &mine);
    if (!all_well(s, &mine, err)) return false;
    for (int i = 0; i < v->n_net; i++) net_share_tied(v->net[i].net, s->mesh);
    return mesh_ok(s->mesh, err);
}

/* -- folders */

bool state_exists(const char *dir) {
    char **name;
    int n;
    Str path = {0};
    Error ignore;
    str_printf(&path, "%s/state", dir);
    bool there = false;
    if (ckpt_list(&name, &n, path.s, &ignore)) {
        there = n > 0;
        io_free_list(name, n);
    }
    str_clear(&path);
    str_printf(&path, "%s/state/state.json", dir);
    there = there || io_exists(path.s);
    str_release(&path);
    return there;
}

bool state_remove(const char *dir, Error *err) {
    static const char *const names[] = {"state", "guard", "guard.new", /* guard.h */
                                        "state.old", "state.new"};     /* of earlier versions */
    Str path = {0};
    bool ok = true;
    for (int i = 0; ok && i < COUNT_OF(names); i++) {
        str_clear(&path);
        str_printf(&path, "%s/%s", dir, names[i]);
        ok = io_remove_tree(path.s, err);
    }
    str_release(&path);
    return ok;
}

bool state_finish(const char *dir, const StateConfig *c, Error *err) {
    Str path = {0};
    str_printf(&path, "%s/state", dir);
    bool ok = c->keep_every > 0 || c->keep_best ? ckpt_finish(path.s, c->keep_every, c->keep_best, err)
                                                : state_remove(dir, err);
    str_release(&path);
    return ok;
}

/* -- nets beside a state */

bool state_put_net(Net net, const Mesh *mesh, const char *dir, const char *name, Error *err) {
    Str path = {0};
    str_printf(&path, "%s/%s", dir, name);
    bool leads = mesh_leads(mesh), ok = !leads || io_make_dirs(path.s, err);
    if (net.adapter)
        ok = ok && (!leads || adapter_save(net, path.s, err));
    else
        ok = net_save_on(net, mesh, path.s, err) && ok; /* the others come in any case */
    str_release(&path);
    return ok;
}

bool state_get_net(Net net, const Mesh *mesh, const char *dir, const char *name, Error *err) {
    Str path = {0};
    Model m = {0};
    Head h = {0};
    str_printf(&path, "%s/%s", dir, name);
    bool ok = net.adapter ? adapter_load(net, path.s, err)
                          : model_open_on(&m, net.trunk->be, path.s, mesh_divides(mesh) ? mesh : NULL, false, err);
    if (ok && !net.adapter) {
        ok = head_open(&h, &m, net.head->kind, path.s, false, err) && net_copy_weights(net, (Net){&m, &h, NULL}, err);
        head_release(&h);
    }
    model_release(&m);
    str_release(&path);
    return ok || error_wrap(err, "%s/%s", dir, name);
}
