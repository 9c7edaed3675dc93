#include "dist/rowshare.h"

#include <stdlib.h>

void rowshare_place(RowShare *w, Arena *mem, Backend *be, int t, int64_t n, int64_t cols) {
    *w = (RowShare){.be = be, .spare = tensor_place(mem, be->real, t * rowshare_most(n, t), cols)};
}

/* Can the group read and write where the backend's tensors live? */
static bool reaches(const RowShare *w) { return backend_on_host(w->be) || comm_reaches(w->c); }

void rowshare_open(RowShare *w, Comm *c) {
    w->c = c;
    size_t t = (size_t)comm_size(w->c), bytes = tensor_raw_bytes(w->spare);
    w->sent = mem_alloc(2 * t * sizeof *w->sent);
    w->comes = w->sent + t;
    if (reaches(w)) return;
    host_room(w->be, &w->room, 2 * bytes);
    w->in = w->room.at;
    w->out = w->in + bytes;
}

void rowshare_release(RowShare *w) {
    host_room_release(w->be, &w->room);
    free(w->sent);
    *w = (RowShare){0};
}

void rowshare_cut(int64_t *cut, int64_t n, int t) {
    for (int r = 0; r <= t; r++) cut[r] = rowshare_begin(n, r, t);
}

Tensor rowshare_spare(const RowShare *w, DType dtype, int64_t n) {
    CHECK(n <= w->spare.rows, "%lld rows in room for %lld", (long long)n, (long long)w->spare.rows);
    return tensor_over(w->spare.data, dtype, n, w->spare.cols);
}

static void check_whole(const RowShare *w, Tensor t, int64_t n) {
    CHECK(t.rows == n && t.cols == w->spare.cols && t.ld == t.cols && n <= w->spare.rows,
          "%lld x %lld of %lld rows, room for %lld x %lld", (long long)t.rows, (long long)t.cols, (long long)n,
          (long long)w->spare.rows, (long long)w->spare.cols);
}

/* Where the group reads t from. */
static const void *source(RowShare *w, Tensor t) {
    if (!w->in) {
        backend_wait(w->be);
        return t.data;
    }
    if (!tensor_empty(t)) tensor_get_raw(w->be, w->in, t);
    return w->in;
}

static void arrived(RowShare *w, Tensor t) {
    Error ignore;
    if (w->out && !tensor_empty(t) && comm_ok(w->c, &ignore)) tensor_set_rows(w->be, t, w->out);
}

Tensor rowshare_sum(RowShare *w, Tensor t, const int64_t *cut, const char *site) {
    int size = comm_size(w->c), me = comm_rank(w->c);
    int64_t own = cut[me + 1] - cut[me];
    check_whole(w, t, cut[size]);
    CHECK(t.dtype == w->be->real, "a sum of %s", dtype_name(t.dtype));
    for (int q = 0; q < size; q++) w->sent[q] = (cut[q + 1] - cut[q]) * t.cols, w->comes[q] = own * t.cols;
    Tensor all = rowshare_spare(w, t.dtype, own * size), sum = tensor_rows(all, 0, own);
    comm_all_to_all(w->c, w->out ? (void *)w->out : all.data, w->comes, source(w, t), w->sent, t.dtype, site);
    arrived(w, all);
    for (int q = 1; q < size && own > 0; q++) w->be->op->add(w->be, sum, sum, tensor_rows(all, q * own, own));
    return sum;
}

void rowshare_gather(RowShare *w, Tensor all, Tensor own, const int64_t *cut, const char *site) {
    int size = comm_size(w->c), me = comm_rank(w->c);
    check_whole(w, all, cut[size]);
    CHECK(own.rows == cut[me + 1] - cut[me] && own.ld == own.cols && own.dtype == all.dtype,
          "%lld rows of %s, not %lld", (long long)own.rows, dtype_name(own.dtype), (long long)(cut[me + 1] - cut[me]));
    for (int q = 0; q < size; q++) w->comes[q] = (cut[q + 1] - cut[q]) * all.cols;
    comm_all_gather(w->c, w->out ? (void *)w->out : all.data, source(w, own), w->comes, all.dtype, site);
    arrived(w, all);
}
