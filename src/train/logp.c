#include "train/batch.h"

#include <math.h>
#include <stdlib.h>

enum { SAID = 4, WHOLE = 3 }; /* of a row: logprob_part_fwd's stat, logprob_part_bwd's whole */
enum { STEP = 64 };           /* rows: what is taken does not follow from how many a batch happens to choose */

static void place(LogpBuf *buf, Arena *a, Backend *be, int n) {
    buf->t_lp = tensor_place(a, be->real, n, 1);
    buf->t_ent = tensor_place(a, be->real, n, 1);
    buf->t_dlp = tensor_place(a, be->real, n, 1);
    if (!buf->group) return;
    buf->t_stat = tensor_place(a, be->real, n, SAID);
    buf->t_whole = tensor_place(a, be->real, n, WHOLE);
}

void logp_reserve(LogpBuf *buf, Backend *be, int n) {
    if (n <= buf->cap) return;
    n = (n + STEP - 1) / STEP * STEP;
    Comm *group = buf->group;
    int64_t begin = buf->begin;
    logp_release(buf);
    buf->group = group, buf->begin = begin;
    Arena measure;
    Error err = {0};
    arena_init_measure(&measure, "log-probs");
    place(buf, &measure, be, n);
    CHECK(arena_init(&buf->mem, "log-probs", be->mem, measure.used, &err), "%s", err.msg);
    place(buf, &buf->mem, be, n);
    buf->lp = mem_alloc(3 * (size_t)n * sizeof(double));
    buf->ent = buf->lp + n;
    buf->dlp = buf->ent + n;
    buf->cap = n;
    if (!group) return;
    buf->said = mem_alloc(SAID * (size_t)n * sizeof(double));
    buf->all = mem_alloc(SAID * (size_t)n * (size_t)comm_size(group) * sizeof(double));
    buf->target = mem_alloc((size_t)n * sizeof(int32_t));
}

void logp_of(LogpBuf *buf, Net net) {
    Comm *group = head_divided(net) ? net.trunk->part.tp_group : NULL;
    if (group != buf->group) logp_release(buf);
    buf->group = group;
    buf->begin = head_begin(net);
}

/* -- outputs that are divided over ranks */

/* A row's max and sums by all ranks, in their order: the same bits everywhere. */
typedef struct {
    double top, sum, moment, target;
} RowSum;

static RowSum row_sum(const LogpBuf *buf, int64_t row, int64_t n, int64_t width) {
    RowSum r = {.top = -INFINITY};
    int size = comm_size(buf->group);
    for (int q = 0; q < size; q++) r.top = fmax(r.top, buf->all[(q * n + row) * width]);
    for (int q = 0; q < size; q++) {
        const double *said = buf->all + (q * n + row) * width;
        double by = exp(said[0] - r.top);
        r.sum += by * said[1];
        r.target += said[2];
        if (width == SAID) r.moment += by * (said[3] + (said[0] - r.top) * said[1]);
    }
    return r;
}

static void forward_parts(LogpBuf *buf, Backend *be, Tensor logits, const int32_t *target, float temp, bool entropy) {
    int64_t n = logits.rows, width = entropy ? SAID : SAID - 1, me = comm_rank(buf->group);
    Tensor stat = tensor_rows(buf->t_stat, 0, n);
    for (int64_t i = 0; i < n; i++) {
        int64_t at = target[i] - buf->begin;
        buf->target[i] = at >= 0 && at < logits.cols ? (int32_t)at : -1;
    }
    be->op->logprob_part_fwd(be, stat, logits, buf->target, temp);
    tensor_get(be, buf->said, stat);
    for (int64_t i = 0; i < n; i++) { /* what is told, next to each other: the moment last, if at all */
        const double s[SAID] = {buf->said[i * SAID], buf->said[i * SAID + 1], buf->said[i * SAID + 3],
                                buf->said[i * SAID + 2]};
        for (int64_t k = 0; k < width; k++) buf->said[i * width + k] = s[k];
    }
    int size = comm_size(buf->group);
    int64_t *count = mem_alloc((size_t)size * sizeof *count);
    for (int q = 0; q < size; q++) count[q] = n * width;
    comm_all_gather(buf->group, buf->all, buf->said, count, DTYPE_F64, "log-probs");
    free(count);
    double *whole = buf->said; /* told by now */
    for (int64_t i = 0; i < n; i++) {
        RowSum r = row_sum(buf, i, n, width);
        const double *mine = buf->all + (me * n + i) * width;
        buf->lp[i] = r.target - r.top - log(r.sum);
        if (entropy) buf->ent[i] = log(r.sum) - r.moment / r.sum;
        whole[i * WHOLE] = r.top;
        whole[i * WHOLE + 1] = r.sum;
        whole[i * WHOLE + 2] = 0;
        for (int q = 0; q < size; q++) {
            const double *said = buf->all + (q * n + i) * width;
            if (said != mine) whole[i * WHOLE + 2] += exp(said[0] - r.top) * said[1];
        }
    }
    tensor_set(be, tensor_rows(buf->t_whole, 0, n), whole);
}

/* -- rows */

void logp_forward(LogpBuf *buf, Backend *be, Tensor logits, const int32_t *target, float temp, bool entropy) {
    int n = (int)logits.rows;
    logp_reserve(buf, be, n);
    if (buf->group) {
        forward_parts(buf, be, logits, target, temp, entropy);
        return;
    }
    Tensor lp = tensor_rows(buf->t_lp, 0, n), ent = entropy ? tensor_rows(buf->t_ent, 0, n) : (Tensor){0};
    be->op->logprob_fwd(be, lp, ent, logits, target, temp);
    tensor_get(be, buf->lp, lp);
    if (entropy) tensor_get(be, buf->ent, ent);
}

void logp_backward(LogpBuf *buf, Backend *be, Tensor logits, const int32_t *target, float temp) {
    Tensor dlp = tensor_rows(buf->t_dlp, 0, logits.rows);
    tensor_set(be, dlp, buf->dlp);
    if (buf->group)
        be->op->logprob_part_bwd(be, logits, buf->target, tensor_rows(buf->t_whole, 0, logits.rows), dlp, temp);
    else
        be->op->logprob_bwd(be, logits, target, dlp, temp);
}

void logp_release(LogpBuf *buf) {
    arena_release(&buf->mem);
    free(buf->lp);
    free(buf->said);
    free(buf->all);
    free(buf->target);
    *buf = (LogpBuf){0};
}
