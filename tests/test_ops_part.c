// layer: tensor
// gpu: yes
/* Distributions of which each part of the columns is elsewhere, attention of which each part of the queries is: what
 * the parts say, put together, is what ref says of the whole. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tensor/backend.h"

enum { ROWS = 37, COLS = 404, SEED = 11 };

typedef struct {
    Backend *be;
    Pool *pool;
    DType real;
    Arena mem;
} Opened;

static bool opened(Opened *o, const char *backend, const char *isa, int threads) {
    Error err = {0};
    *o = (Opened){.be = NULL};
    if (!pool_open(&o->pool, threads, &err)) fail_msg("%s", err.msg);
    if (backend_open(&o->be, backend, o->pool, isa, &err)) {
        o->real = o->be->real;
        if (!arena_init(&o->mem, "matrices", o->be->mem, (size_t)4 << 20, &err)) fail_msg("%s", err.msg);
        return true;
    }
    pool_close(o->pool);
    return false;
}

static void closed(Opened *o) {
    arena_release(&o->mem);
    backend_close(o->be);
    pool_close(o->pool);
}

typedef struct {
    double logits[ROWS * COLS], lp[ROWS], ent[ROWS], dlp[ROWS];
    int32_t target[ROWS];
} Values;

static Tensor host(const Opened *o, int64_t rows, int64_t cols) {
    void *data = mem_alloc((size_t)(rows * cols) * dtype_bytes(o->real));
    return tensor_over(data, o->real, rows, cols);
}

static Tensor matrix(Opened *o, int64_t rows, int64_t cols) { return tensor_place(&o->mem, o->real, rows, cols); }

static void draw(Values *v, double spread) {
    for (int i = 0; i < ROWS * COLS; i++)
        v->logits[i] = (float)(spread * rng_normal((Rng){SEED, RNG_TEST}, (uint64_t)i, 0));
    for (int i = 0; i < ROWS; i++) {
        v->target[i] = (int32_t)rng_below((Rng){SEED, RNG_TEST}, (uint64_t)i, 1, COLS);
        v->dlp[i] = i % 5 == 4 ? 0 : (float)rng_normal((Rng){SEED, RNG_TEST}, (uint64_t)i, 2);
    }
    for (int j = 0; j < COLS; j++) v->logits[4 * COLS + j] = NAN; /* a row without weight */
    for (int j = 0; j < 3; j++) v->logits[j] = j == 1 ? 80 : -80; /* one word is certain: */
    v->target[0] = 1;
}

static void whole(Values *v, Opened *o, float temp) {
    Tensor x = matrix(o, ROWS, COLS), lp = matrix(o, ROWS, 1), ent = matrix(o, ROWS, 1), d = matrix(o, ROWS, 1);
    tensor_set(o->be, x, v->logits);
    tensor_set(o->be, d, v->dlp);
    o->be->op->logprob_fwd(o->be, lp, ent, x, v->target, temp);
    tensor_get(o->be, v->lp, lp);
    tensor_get(o->be, v->ent, ent);
    o->be->op->logprob_bwd(o->be, x, v->target, d, temp);
    tensor_get(o->be, v->logits, x);
}

/* The same by n parts, each over its own columns. */
static void parts(Values *v, Opened *o, int n, float temp) {
    Tensor x = matrix(o, ROWS, COLS), d = matrix(o, ROWS, 1), stat = matrix(o, ROWS, 4), w = matrix(o, ROWS, 3);
    double *said = mem_alloc((size_t)n * ROWS * 4 * sizeof *said), all[ROWS * 3];
    int32_t *own = mem_alloc((size_t)n * ROWS * sizeof *own);
    tensor_set(o->be, x, v->logits);
    tensor_set(o->be, d, v->dlp);
    for (int q = 0; q < n; q++) {
        int from = COLS * q / n, to = COLS * (q + 1) / n;
        for (int i = 0; i < ROWS; i++)
            own[q * ROWS + i] = v->target[i] >= from && v->target[i] < to ? v->target[i] - from : -1;
        o->be->op->logprob_part_fwd(o->be, stat, tensor_cols(x, from, to - from), own + q * ROWS, temp);
        tensor_get(o->be, said + q * ROWS * 4, stat);
    }
    double elsewhere[ROWS];
    for (int q = 0; q < n; q++) {
        for (int i = 0; i < ROWS; i++) {
            double top = -INFINITY, sum = 0, moment = 0, z = 0;
            elsewhere[i] = 0;
            for (int p = 0; p < n; p++) top = fmax(top, said[(p * ROWS + i) * 4]);
            for (int p = 0; p < n; p++) {
                const double *s = said + (p * ROWS + i) * 4;
                double by = exp(s[0] - top);
                sum += by * s[1], z += s[3], moment += by * (s[2] + (s[0] - top) * s[1]);
                if (p != q) elsewhere[i] += by * s[1];
            }
            v->lp[i] = z - top - log(sum), v->ent[i] = log(sum) - moment / sum;
            all[i * 3] = top, all[i * 3 + 1] = sum, all[i * 3 + 2] = elsewhere[i];
        }
        int from = COLS * q / n, to = COLS * (q + 1) / n;
        tensor_set(o->be, w, all);
        o->be->op->logprob_part_bwd(o->be, tensor_cols(x, from, to - from), own + q * ROWS, w, d, temp);
    }
    tensor_get(o->be, v->logits, x);
    free(said), free(own);
}

static double apart(const double *a, const double *b, int n, double floor) {
    double most = 0;
    for (int i = 0; i < n; i++) {
        if (isnan(a[i]) && isnan(b[i])) continue;
        double far = fabs(a[i] - b[i]) / fmax(floor, fabs(b[i]));
        if (!(far <= most)) most = isnan(far) ? INFINITY : far;
    }
    return most;
}

static void test_parts(void **state) {
    (void)state;
    static const char *const way[][2] = {{"ref", NULL},     {"cpu", "scalar"}, {"cpu", "avx2"},
                                         {"cpu", "avx512"}, {"cuda", NULL},    {"cuda", "exact"}};
    Values *want = mem_alloc(sizeof *want), *got = mem_alloc(sizeof *got);
    int n_opened = 0;
    for (int k = 0; k < COUNT_OF(way); k++)
        for (int t = 0; t < 2; t++)
            for (int n = 1; n <= 5; n++) {
                Opened ref, be;
                float temp = t ? 0.7f : 1;
                assert_true(opened(&ref, "ref", NULL, 1));
                if (!opened(&be, way[k][0], way[k][1], 1 + n % 2)) {
                    closed(&ref);
                    continue;
                }
                n_opened++;
                draw(want, 3), draw(got, 3);
                whole(want, &ref, temp), parts(got, &be, n, temp);
                bool exact = k == 0, gpu = !strcmp(way[k][0], "cuda");
                assert_true(apart(got->lp, want->lp, ROWS, 1) < (exact ? 1e-14 : gpu ? 2e-6 : 1e-6));
                assert_true(apart(got->ent, want->ent, ROWS, 1) < (exact ? 1e-13 : gpu ? 1e-5 : 3e-6));
                assert_true(apart(got->logits, want->logits, ROWS * COLS, 1e-6) < (exact ? 1e-9 : 2e-5));
                for (int j = 0; j < COLS; j++) assert_true(got->logits[4 * COLS + j] == 0);
                closed(&ref), closed(&be);
            }
    assert_true(n_opened >= 20); /* ref and scalar are everywhere */
    free(want), free(got);
}

/* Bits do not depend on threads; the gradient of a word that is all but certain keeps its digits. */
static void test_bits(void **state) {
    (void)state;
    Opened a, b;
    Values *x = mem_alloc(sizeof *x), *y = mem_alloc(sizeof *y);
    assert_true(opened(&a, "cpu", NULL, 1) && opened(&b, "cpu", NULL, 3));
    draw(x, 2), draw(y, 2);
    x->logits[1] = y->logits[1] = 40;
    parts(x, &a, 3, 1), parts(y, &b, 3, 1);
    assert_memory_equal(x->lp, y->lp, sizeof x->lp);
    assert_memory_equal(x->logits, y->logits, sizeof x->logits);
    double others = 0;
    for (int j = 0; j < COLS; j++) others += j == 1 ? 0 : x->logits[j];
    assert_true(x->logits[1] != 0 && fabs(x->logits[1] / -others - 1) < 1e-5);
    closed(&a), closed(&b);
    free(x), free(y);
}

/* -- attention of which each part of the queries is elsewhere */

enum { HEADS = 4, KV = 2, WIDTH = 20, SEQS = 4, TOK = 700 };

typedef struct {
    double q[TOK * HEADS * WIDTH], k[TOK * KV * WIDTH], v[TOK * KV * WIDTH], d_o[TOK * HEADS * WIDTH];
    double o[TOK * HEADS * WIDTH], lse[TOK * HEADS], dq[TOK * HEADS * WIDTH], dk[TOK * KV * WIDTH],
        dv[TOK * KV * WIDTH];
} Attended;

static const int32_t seq_off[SEQS + 1] = {0, 1, 131, 632, TOK};
enum { MOST_PAGE = 8, MOST_PIECE = 64 };

typedef struct { /* of one part: its rows, and the runs that they are */
    int32_t row[TOK], q_off[MOST_PIECE + 1], kv_len[MOST_PIECE], page[MOST_PIECE * MOST_PAGE];
    int n_row, n_piece;
} Piece;

/* Runs of some 40 to 100 rows go to the parts in turn, so blocks begin anywhere and several pieces see one sequence. */
static void take_part(Piece *p, int part, int n_part, bool causal) {
    *p = (Piece){.n_row = 0};
    for (int s = 0, turn = 0; s < SEQS; s++)
        for (int at = seq_off[s]; at < seq_off[s + 1]; turn++) {
            int n = 40 + 17 * turn % 61, end = at + n < seq_off[s + 1] ? at + n : seq_off[s + 1];
            if (turn % n_part == part) {
                int i = p->n_piece++;
                for (int r = at; r < end; r++) p->row[p->n_row++] = r;
                p->q_off[i + 1] = p->n_row;
                p->kv_len[i] = (causal ? end : seq_off[s + 1]) - seq_off[s];
                for (int k = 0; k < MOST_PAGE; k++) p->page[i * MOST_PAGE + k] = seq_off[s] + k * KV_PAGE;
            }
            at = end;
        }
}

static Tensor rows_of(const Opened *o, const double *all, const int32_t *row, int n, int64_t cols) {
    Tensor t = host(o, n, cols);
    for (int i = 0; i < n; i++) tensor_set(o->be, tensor_rows(t, i, 1), all + row[i] * cols);
    return t;
}

/* Queries of one part, and what they add to the gradients of keys; NaN before, as nothing is read. */
static void attend_part(Attended *a, const Opened *o, const Piece *p, bool causal, int window) {
    const int64_t n_q = HEADS * WIDTH, n_kv = KV * WIDTH;
    int32_t every[TOK];
    for (int i = 0; i < TOK; i++) every[i] = i;
    const AttnSeqs s = {p->n_piece, MOST_PAGE, p->q_off, p->kv_len, p->page, causal, window};
    Tensor q = rows_of(o, a->q, p->row, p->n_row, n_q), d_o = rows_of(o, a->d_o, p->row, p->n_row, n_q);
    Tensor k = rows_of(o, a->k, every, TOK, n_kv), v = rows_of(o, a->v, every, TOK, n_kv);
    Tensor out = host(o, p->n_row, n_q), lse = host(o, p->n_row, HEADS), dq = host(o, p->n_row, n_q);
    Tensor dk = host(o, TOK, n_kv), dv = host(o, TOK, n_kv);
    double *x = mem_alloc((size_t)TOK * (size_t)n_q * sizeof *x);
    for (int64_t i = 0; i < TOK * n_q; i++) x[i] = NAN;
    tensor_set(o->be, dq, x), tensor_set(o->be, dk, x), tensor_set(o->be, dv, x);
    o->be->op->attn_fwd(o->be, out, lse, q, k, v, s, WIDTH);
    o->be->op->attn_part_bwd(o->be, dq, dk, dv, d_o, out, lse, q, k, v, s, WIDTH);
    for (int i = 0; i < p->n_row; i++) {
        tensor_get(o->be, a->o + p->row[i] * n_q, tensor_rows(out, i, 1));
        tensor_get(o->be, a->lse + p->row[i] * HEADS, tensor_rows(lse, i, 1));
        tensor_get(o->be, a->dq + p->row[i] * n_q, tensor_rows(dq, i, 1));
    }
    tensor_get(o->be, x, dk);
    for (int64_t i = 0; i < TOK * n_kv; i++) a->dk[i] += x[i];
    tensor_get(o->be, x, dv);
    for (int64_t i = 0; i < TOK * n_kv; i++) a->dv[i] += x[i];
    Tensor *all[] = {&q, &d_o, &k, &v, &out, &lse, &dq, &dk, &dv};
    for (int i = 0; i < COUNT_OF(all); i++) free(all[i]->data);
    free(x);
}

/* Whole sequences, by the op that knows no parts. */
static void attend_whole(Attended *a, const Opened *o, bool causal, int window) {
    const int64_t n_q = HEADS * WIDTH, n_kv = KV * WIDTH;
    int32_t every[TOK], len[SEQS], page[SEQS * MOST_PAGE];
    for (int i = 0; i < TOK; i++) every[i] = i;
    for (int s = 0; s < SEQS; s++) {
        len[s] = seq_off[s + 1] - seq_off[s];
        for (int k = 0; k < MOST_PAGE; k++) page[s * MOST_PAGE + k] = seq_off[s] + k * KV_PAGE;
    }
    const AttnSeqs s = {SEQS, MOST_PAGE, seq_off, len, page, causal, window};
    Tensor q = rows_of(o, a->q, every, TOK, n_q), d_o = rows_of(o, a->d_o, every, TOK, n_q);
    Tensor k = rows_of(o, a->k, every, TOK, n_kv), v = rows_of(o, a->v, every, TOK, n_kv);
    Tensor out = host(o, TOK, n_q), lse = host(o, TOK, HEADS), dq = host(o, TOK, n_q);
    Tensor dk = host(o, TOK, n_kv), dv = host(o, TOK, n_kv);
    o->be->op->attn_fwd(o->be, out, lse, q, k, v, s, WIDTH);
    o->be->op->attn_bwd(o->be, dq, dk, dv, d_o, out, lse, q, k, v, s, WIDTH);
    tensor_get(o->be, a->o, out), tensor_get(o->be, a->lse, lse), tensor_get(o->be, a->dq, dq);
    tensor_get(o->be, a->dk, dk), tensor_get(o->be, a->dv, dv);
    Tensor *all[] = {&q, &d_o, &k, &v, &out, &lse, &dq, &dk, &dv};
    for (int i = 0; i < COUNT_OF(all); i++) free(all[i]->data);
}

static double far_apart(const double *a, const double *b, int64_t n) {
    double off = 0, all = 0;
    for (int64_t i = 0; i < n; i++) off += (a[i] - b[i]) * (a[i] - b[i]), all += b[i] * b[i];
    return isfinite(off) ? sqrt(off / all) : INFINITY;
}

static void check_attended(const Opened *be, const Opened *ref, int n_part, bool causal, int window) {
    const int64_t n_q = TOK * HEADS * WIDTH, n_kv = TOK * KV * WIDTH;
    Attended *want = mem_alloc(sizeof *want), *got = mem_alloc(sizeof *got), *own = mem_alloc(sizeof *own);
    double *in[] = {want->q, want->d_o, want->k, want->v};
    for (int t = 0; t < 4; t++)
        for (int64_t i = 0; i < (t < 2 ? n_q : n_kv); i++)
            in[t][i] = (float)rng_normal((Rng){SEED, RNG_TEST}, (uint64_t)i, 10 + (uint32_t)t);
    *got = *own = *want;
    attend_whole(want, ref, causal, window);
    attend_whole(own, be, causal, window);
    Piece *p = mem_alloc(sizeof *p);
    for (int i = 0; i < n_part; i++) {
        take_part(p, i, n_part, causal);
        attend_part(got, be, p, causal, window);
    }
    assert_memory_equal(got->o, own->o, sizeof got->o); /* a row does not know who is beside it */
    assert_memory_equal(got->lse, own->lse, sizeof got->lse);
    double bound = be->real == DTYPE_F64 ? 1e-13 : 1e-5;
    assert_true(far_apart(got->dq, want->dq, n_q) < bound);
    assert_true(far_apart(got->dk, want->dk, n_kv) < bound);
    assert_true(far_apart(got->dv, want->dv, n_kv) < bound);
    free(want), free(got), free(own), free(p);
}

static void test_attention(void **state) {
    (void)state;
    static const char *const isa[] = {NULL, "scalar", "avx2", "avx512"};
    static const struct {
        int n_part, window;
        bool causal;
    } row[] = {{1, 0, true}, {3, 0, true}, {2, 0, false}, {4, 70, true}};
    Opened ref, be;
    assert_true(opened(&ref, "ref", NULL, 1));
    for (int k = 0; k < COUNT_OF(isa); k++) {
        if (!opened(&be, k ? "cpu" : "ref", isa[k], 1 + k % 2)) continue;
        for (int i = 0; i < COUNT_OF(row); i++) check_attended(&be, &ref, row[i].n_part, row[i].causal, row[i].window);
        closed(&be);
    }
    closed(&ref);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
