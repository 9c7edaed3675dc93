#include "train/batch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WHOLE = 3 }; /* of a row: logprob_part_bwd's whole */
enum { STEP = 64 }; /* rows: what is taken does not follow from how many a batch happens to choose */

static void place(LogpBuf *buf, Arena *a, Backend *be, int n) {
    buf->t_lp = tensor_place(a, be->real, n, 1);
    buf->t_ent = tensor_place(a, be->real, n, 1);
    buf->t_dlp = tensor_place(a, be->real, n, 1);
    if (buf->parts.group) buf->t_whole = tensor_place(a, be->real, n, WHOLE);
}

static void drop_rows(LogpBuf *buf) {
    arena_release(&buf->mem);
    free(buf->lp);
    free(buf->whole);
    *buf = (LogpBuf){.parts = buf->parts, .rows = buf->rows};
}

void logp_reserve(LogpBuf *buf, Backend *be, int n) {
    if (n <= buf->cap) return;
    n = (n + STEP - 1) / STEP * STEP;
    drop_rows(buf);
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
    if (!buf->parts.group) return;
    buf->whole = mem_alloc(WHOLE * (size_t)n * sizeof(double));
    row_parts_reserve(&buf->parts, be, n);
}

void logp_of(LogpBuf *buf, Net net) {
    Comm *was = buf->parts.group;
    row_parts_of(&buf->parts, net);
    if (was != buf->parts.group) drop_rows(buf);
}

/* -- outputs that are divided over ranks */

static void forward_parts(LogpBuf *buf, Backend *be, Tensor logits, const int32_t *target, float temp, bool entropy) {
    RowParts *p = &buf->parts;
    int n = (int)logits.rows;
    row_parts_say(p, be, 0, logits, target, temp, entropy);
    row_parts_tell(p, n, entropy, "log-probs");
    for (int i = 0; i < n; i++) {
        RowSum r = row_parts_sum(p, i, n, entropy);
        buf->lp[i] = r.target - r.top - log(r.sum);
        if (entropy) buf->ent[i] = log(r.sum) - r.moment / r.sum;
        buf->whole[i * WHOLE] = r.top;
        buf->whole[i * WHOLE + 1] = r.sum;
        buf->whole[i * WHOLE + 2] = row_parts_elsewhere(p, i, n, entropy, r.top);
    }
    tensor_set(be, tensor_rows(buf->t_whole, 0, n), buf->whole);
}

/* -- rows */

void logp_rows(LogpBuf *buf, LogpRows *rows) { buf->rows = rows; }

static void read_rows(LogpBuf *buf, int n, bool entropy) {
    const LogpRows *r = buf->rows;
    CHECK(!entropy || r->width == 2, "entropy of rows that nobody asked for");
    for (int i = 0; i < n; i++) {
        buf->lp[i] = r->said[(r->at + i) * r->width];
        if (entropy) buf->ent[i] = r->said[(r->at + i) * r->width + 1];
    }
}

void logp_forward(LogpBuf *buf, Backend *be, Tensor logits, const int32_t *target, float temp, bool entropy) {
    int n = (int)logits.rows;
    logp_reserve(buf, be, n);
    if (buf->rows) {
        read_rows(buf, n, entropy);
        return;
    }
    if (buf->parts.group) {
        forward_parts(buf, be, logits, target, temp, entropy);
        return;
    }
    Tensor lp = tensor_rows(buf->t_lp, 0, n), ent = entropy ? tensor_rows(buf->t_ent, 0, n) : (Tensor){0};
    be->op->logprob_fwd(be, lp, ent, logits, target, temp);
    tensor_get(be, buf->lp, lp);
    if (entropy) tensor_get(be, buf->ent, ent);
}

void logp_backward(LogpBuf *buf, Backend *be, Tensor logits, const int32_t *target, float temp) {
    if (buf->rows) {
        memcpy(buf->rows->dlp + buf->rows->at, buf->dlp, (size_t)logits.rows * sizeof *buf->dlp);
        return;
    }
    Tensor dlp = tensor_rows(buf->t_dlp, 0, logits.rows);
    tensor_set(be, dlp, buf->dlp);
    if (buf->parts.group)
        be->op->logprob_part_bwd(be, logits, buf->parts.target, tensor_rows(buf->t_whole, 0, logits.rows), dlp, temp);
    else
        be->op->logprob_bwd(be, logits, target, dlp, temp);
}

void logp_release(LogpBuf *buf) {
    drop_rows(buf);
    row_parts_release(&buf->parts);
}
