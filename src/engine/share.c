/* engine/share.c — an engine over a share of a model (tensor parallel): the ranks of its group make the same calls with
 * the same requests, so they build the same passes; each has the keys and values of its heads. Sums inside a pass are
 * nn/tp.c's.
 *
 * Of logits a rank has the columns of its vocabulary rows. Rows of a slice are dealt over the ranks: each gets the
 * other columns of its rows (all_to_all), draws, and tells what it drew (all_gather). So logits travel once, the draws
 * are divided, and a token is a function of (seed, request, position) and equal everywhere. Log-probs are those of
 * nn/row_parts.h, as training computes them. */
#include "engine/engine_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "dist/agree.h"

typedef struct { /* of one row, and what goes with a request to stop at the end of a rank's rows: the same type */
    int32_t token;
    float odds;
} Drawn;
enum { DRAWN = sizeof(Drawn) / sizeof(int32_t) };

/* Where the rows begin that a rank draws. */
static int begin_of(const Share *s, int n, int rank) {
    if (s->led) return rank > 0 ? n : 0;
    return (int)((int64_t)n * rank / comm_size(s->group));
}
static int64_t columns_begin(const Engine *e, int rank) { return (int64_t)e->n_out * rank / comm_size(e->share.group); }

void share_open(Engine *e) {
    Share *s = &e->share;
    const Net net = e->net;
    s->n_here = net.head->n_out;
    if (net.trunk->part.tp_n == 1) return;
    s->group = net.trunk->part.tp_group;
    s->divided = head_divided(net);
    s->led = net.trunk->part.lead != NULL;
    size_t t = (size_t)comm_size(s->group), rows = (size_t)e->n_slice;
    s->count = mem_alloc(2 * t * sizeof *s->count);
    if (!s->divided) return;
    s->out = mem_alloc(rows * (size_t)s->n_here * sizeof *s->out);
    s->in = mem_alloc((s->led ? rows : (rows + t - 1) / t) * (size_t)e->n_out * sizeof *s->in);
    s->said = mem_alloc((rows + 1) * sizeof(Drawn));
    s->all = mem_alloc((rows + t) * sizeof(Drawn));
    row_parts_of(&s->parts, net);
    row_parts_reserve(&s->parts, e->be, e->n_slice);
}

void share_release(Engine *e) {
    Share *s = &e->share;
    free(s->count);
    free(s->out);
    free(s->in);
    free(s->said);
    free(s->all);
    row_parts_release(&s->parts);
    *s = (Share){0};
}

bool share_agree(const Engine *e, bool ok, Error *err) {
    if (!e->share.group) return ok;
    Error mine = {0};
    if (!ok) mine = *err;
    return agree(e->share.group, &mine, NULL, 0, NULL, err);
}

bool share_ok(const Engine *e, Error *err) { return comm_ok(e->share.group, err); }

void share_rows(Engine *e, int n) {
    Share *s = &e->share;
    s->first = 0, s->end = n;
    if (!s->divided) return;
    int size = comm_size(s->group), me = comm_rank(s->group);
    int64_t *send = s->count, *recv = s->count + size;
    s->first = begin_of(s, n, me), s->end = begin_of(s, n, me + 1);
    for (int q = 0; q < size; q++) {
        send[q] = (int64_t)(begin_of(s, n, q + 1) - begin_of(s, n, q)) * s->n_here;
        recv[q] = (s->end - s->first) * (columns_begin(e, q + 1) - columns_begin(e, q));
    }
    tensor_get_f32(e->be, s->out, tensor_rows(e->out, 0, n));
    comm_all_to_all(s->group, s->in, recv, s->out, send, DTYPE_F32, "logits");
    const float *from = s->in;
    for (int q = 0; q < size; q++) {
        int64_t begin = columns_begin(e, q), width = columns_begin(e, q + 1) - begin;
        for (int i = s->first; i < s->end; i++, from += width)
            memcpy(e->host + (size_t)i * (size_t)e->n_out + begin, from, (size_t)width * sizeof *from);
    }
}

bool share_tell(Engine *e, int n, float *odds, bool stop, Error *err) {
    Share *s = &e->share;
    if (!s->divided) return true;
    int size = comm_size(s->group);
    Drawn *said = s->said, *all = s->all;
    for (int i = s->first; i < s->end; i++) said[i - s->first] = (Drawn){e->target[i], odds[i]};
    said[s->end - s->first] = (Drawn){stop, 0};
    for (int q = 0; q < size; q++) s->count[q] = DRAWN * (begin_of(s, n, q + 1) - begin_of(s, n, q) + 1);
    comm_all_gather(s->group, all, said, s->count, DTYPE_I32, "drawn");
    if (!comm_ok(s->group, err)) return false;
    for (int q = 0; q < size; q++, all++) {
        for (int i = begin_of(s, n, q); i < begin_of(s, n, q + 1); i++, all++)
            e->target[i] = all->token, odds[i] = all->odds;
        if (all->token) s->stopped = true;
    }
    return true;
}

/* -- scoring */

void share_outputs(Engine *e, int n) {
    Share *s = &e->share;
    int size = comm_size(s->group);
    float *all = mem_alloc((size_t)n * (size_t)e->n_out * sizeof *all);
    tensor_get_f32(e->be, s->out, tensor_rows(e->out, 0, n));
    for (int q = 0; q < size; q++) s->count[q] = n * (columns_begin(e, q + 1) - columns_begin(e, q));
    comm_all_gather(s->group, all, s->out, s->count, DTYPE_F32, "outputs");
    const float *from = all;
    for (int q = 0; q < size; q++) {
        int64_t begin = columns_begin(e, q), width = columns_begin(e, q + 1) - begin;
        for (int i = 0; i < n; i++, from += width)
            memcpy(e->host + (size_t)i * (size_t)e->n_out + begin, from, (size_t)width * sizeof *from);
    }
    free(all);
}

/* Columns ascend with ranks, so the first of equals has the lowest id. */
void share_best(Engine *e, int n, const float *value) {
    Share *s = &e->share;
    int size = comm_size(s->group);
    Drawn *own = mem_alloc((size_t)n * (size_t)(size + 1) * sizeof *own), *all = own + n;
    int32_t begin = (int32_t)s->parts.begin;
    for (int i = 0; i < n; i++) own[i] = (Drawn){e->draw.token[i] < 0 ? -1 : begin + e->draw.token[i], value[i]};
    for (int q = 0; q < size; q++) s->count[q] = (int64_t)n * DRAWN;
    comm_all_gather(s->group, all, own, s->count, DTYPE_I32, "likeliest");
    for (int i = 0; i < n; i++) {
        Drawn best = all[i];
        for (int q = 1; q < size; q++)
            if (best.token < 0 || all[q * n + i].token < 0)
                best.token = -1;
            else if (all[q * n + i].odds > best.odds)
                best = all[q * n + i];
        e->draw.token[i] = best.token;
    }
    free(own);
}

void share_logprob(Engine *e, int n, float *out) {
    RowParts *p = &e->share.parts;
    row_parts_tell(p, n, false, "log-probs");
    for (int i = 0; i < n; i++) {
        RowSum r = row_parts_sum(p, i, n, false);
        out[i] = (float)(r.target - r.top - log(r.sum));
    }
}
