#include "dist/mesh.h"

Layout layout_at(Layout size, int rank) {
    Layout at;
    at.tp = rank % size.tp, rank /= size.tp;
    at.cp = rank % size.cp, rank /= size.cp;
    at.pp = rank % size.pp, rank /= size.pp;
    at.dp = rank;
    return at;
}

int layout_rank(Layout size, Layout at) { return at.tp + size.tp * (at.cp + size.cp * (at.pp + size.pp * at.dp)); }

/* The ranks that differ from this one in one digit have the same number once that digit is 0. */
static bool split(Comm **out, const Mesh *m, Comm *data, const char *name, int which, Error *err) {
    Layout base = m->at;
    int *digit[] = {&base.tp, &base.cp, &base.pp};
    const int key = *digit[which];
    *digit[which] = 0;
    return comm_split(out, data, name, layout_rank(m->size, base), key, err);
}

/* Those with the same weights. */
static bool split_equals(Mesh *m, Comm *data, Error *err) {
    Layout base = m->at;
    base.cp = base.dp = 0;
    return comm_split(&m->dp, data, "dp", layout_rank(m->size, base), layout_equal(m->size, m->at), err);
}

/* Stages in the middle are groups of one. */
static bool split_ends(Mesh *m, Comm *data, Error *err) {
    Layout base = m->at;
    bool end = m->at.pp == 0 || m->at.pp + 1 == m->size.pp;
    if (end) base.pp = 0;
    return m->size.pp == 1 || comm_split(&m->ends, data, "ends", layout_rank(m->size, base), m->at.pp, err);
}

static bool split_model(Mesh *m, Comm *data, Error *err) {
    if (m->size.tp * m->size.cp * m->size.pp == 1) return true;
    return comm_split(&m->model, data, "model", m->at.dp, comm_rank(m->world), err);
}

bool mesh_open(Mesh *m, Comm *world, Comm *data, int tp, int cp, int pp, Error *err) {
    int n = comm_size(world), one = tp * cp * pp;
    *m = (Mesh){0};
    if (tp < 1 || cp < 1 || pp < 1 || n % one)
        return error_set(err, ERR_CONFIG, "%d ranks are no multiple of tp %d x cp %d x pp %d", n, tp, cp, pp);
    m->size = (Layout){tp, cp, pp, n / one};
    m->at = layout_at(m->size, comm_rank(world));
    m->world = n > 1 ? world : NULL;
    m->data = n > 1 ? data : NULL;
    if (!data) data = m->world;
    return split(&m->tp, m, data, "tp", 0, err) && split(&m->cp, m, data, "cp", 1, err) &&
           split(&m->pp, m, data, "pp", 2, err) && split_equals(m, data, err) && split_ends(m, data, err) &&
           split_model(m, data, err);
}
