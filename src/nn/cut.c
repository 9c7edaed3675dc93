#include "nn/cut.h"

#include <stdlib.h>

static void grow(int32_t **p, int *cap, int64_t n) {
    if (n <= *cap) return;
    CHECK(n <= INT32_MAX / 2, "%lld entries of a divided batch", (long long)n);
    *cap = n > 2 * (int64_t)*cap ? (int)n : 2 * *cap;
    *p = mem_grow(*p, (size_t)*cap * sizeof(int32_t));
}

/* Several arrays of one capacity. */
static void grow_all(int32_t **const *array, int n_array, int *cap, int64_t n) {
    int before = *cap;
    for (int i = 0; i < n_array; i++) {
        *cap = before;
        grow(array[i], cap, n);
    }
}

/* -- who gets what */

static void put_run(CutBuf *b, int *n, int64_t first, int64_t count) {
    if (count <= 0) return;
    if (*n >= b->cap_run) {
        b->cap_run = 2 * b->cap_run + 64;
        b->run = mem_grow(b->run, (size_t)b->cap_run * sizeof *b->run);
    }
    b->run[(*n)++] = (CutRun){(int32_t)first, (int32_t)count};
}

/* Rows [a, b) of 0, n-1, 1, n-2, ..: some from the front, some from the back; the last ones meet in the middle. */
static void put_fold(CutBuf *buf, int *n_run, int64_t begin, int64_t n, int64_t a, int64_t b) {
    int64_t front = (a + 1) / 2, front_end = (b + 1) / 2, back = n - b / 2, back_end = n - a / 2;
    if (front_end == back) front_end = back = back_end;
    put_run(buf, n_run, begin + front, front_end - front);
    put_run(buf, n_run, begin + back, back_end - back);
}

/* Where rank q's rows begin in a sequence's fold, when the first of what is left over goes to rank `next`. */
static int64_t fold_at(int64_t n, int q, int n_rank, int next) {
    int64_t left = n % n_rank, extra = 0;
    for (int i = 0; i < q; i++) extra += (i - next + n_rank) % n_rank < left;
    return n / n_rank * q + extra;
}

static void deal(CutBuf *b, const Batch *w, int n_rank) {
    const AttnSeqs *s = &w->seqs;
    int n_run = 0;
    for (int q = 0; q < n_rank; q++) {
        int next = 0;
        b->run_off[q] = n_run;
        b->n_row[q] = 0;
        for (int i = 0; i < s->n_seq; i++) {
            int64_t n = s->q_off[i + 1] - s->q_off[i];
            int64_t from = fold_at(n, q, n_rank, next), to = fold_at(n, q + 1, n_rank, next);
            put_fold(b, &n_run, s->q_off[i], n, from, to);
            b->n_row[q] += (int32_t)(to - from);
            next = (int)((next + n) % n_rank);
        }
        b->run_off[q + 1] = n_run;
        for (int r = b->run_off[q]; r < n_run; r++)
            for (int k = 0; k < b->run[r].n; k++) b->owner[b->run[r].first + k] = q;
    }
}

static void deal_chosen(CutBuf *b, const Batch *w, int n_rank) {
    for (int q = 0; q <= n_rank; q++) b->pick_off[q] = 0;
    for (int i = 0; i < w->n_row; i++) b->pick_off[b->owner[w->row[i]] + 1]++;
    for (int q = 0; q < n_rank; q++) b->pick_off[q + 1] += b->pick_off[q];
    for (int i = 0; i < w->n_row; i++) b->pick[b->pick_off[b->owner[w->row[i]]]++] = i;
    for (int q = n_rank; q > 0; q--) b->pick_off[q] = b->pick_off[q - 1];
    b->pick_off[0] = 0;
}

/* -- this rank's batch */

/* One more run of rows, as a sequence of queries; seq: of the whole. */
static void put_queries(CutBuf *b, const Batch *w, int seq, CutRun r) {
    const AttnSeqs *s = &w->seqs;
    Batch *m = &b->mine;
    int at = m->seqs.n_seq++, begin = s->q_off[seq];
    for (int k = 0; k < r.n; k++, m->n_tok++) {
        b->tok[m->n_tok] = w->tok[r.first + k];
        b->pos[m->n_tok] = w->pos[r.first + k];
    }
    b->q_off[at + 1] = m->n_tok;
    b->kv_len[at] = s->causal ? r.first + r.n - begin : s->kv_len[seq];
    for (int p = 0; p < s->max_page; p++) b->kv_page[at * s->max_page + p] = s->kv_page[seq * s->max_page + p];
}

static void fill_mine(CutBuf *b, const Batch *w, int rank) {
    const AttnSeqs *s = &w->seqs;
    static const CutRun nobodys = {0, 1};
    const CutRun *run = b->run + b->run_off[rank];
    int n_run = b->run_off[rank + 1] - b->run_off[rank], seq = 0;
    int32_t n_own = b->n_row[rank] > 0 ? b->n_row[rank] : 1;
    grow_all((int32_t **const[]){&b->tok, &b->pos, &b->row}, 3, &b->cap_own, n_own);
    grow_all((int32_t **const[]){&b->q_off, &b->kv_len}, 2, &b->cap_seq, n_run + 2);
    grow(&b->kv_page, &b->cap_page, (int64_t)(n_run + 1) * s->max_page);
    b->mine = (Batch){.tok = b->tok, .pos = b->pos, .row = b->row, .drop = w->drop};
    b->mine.seqs = (AttnSeqs){0, s->max_page, b->q_off, b->kv_len, b->kv_page, s->causal, s->window};
    b->q_off[0] = 0;
    for (int i = 0; i < n_run; i++) {
        while (run[i].first >= s->q_off[seq + 1]) seq++;
        put_queries(b, w, seq, run[i]);
    }
    while (n_run == 0 && s->q_off[seq] == s->q_off[seq + 1]) seq++;
    if (n_run == 0) put_queries(b, w, seq, nobodys);
    for (int i = 0, at = 0, r = 0; i < w->n_row && r < n_run; i++) {
        if (b->owner[w->row[i]] != rank) continue;
        while (w->row[i] >= run[r].first + run[r].n) at += run[r++].n;
        b->row[b->mine.n_row++] = at + w->row[i] - run[r].first;
    }
    if (b->mine.n_row == 0 && w->n_row > 0) b->row[b->mine.n_row++] = 0;
}

void cut_batch(CutBuf *b, const Batch *w, int rank, int n_rank) {
    const AttnSeqs *s = &w->seqs;
    CHECK(!w->kv_row && !w->seen && w->n_tok > 0, "only whole sequences without a cache are divided");
    CHECK(s->q_off[0] == 0 && s->q_off[s->n_seq] == w->n_tok, "sequences do not cover the batch");
    grow_all((int32_t **const[]){&b->run_off, &b->n_row, &b->pick_off}, 3, &b->cap_rank, n_rank + 1);
    grow_all((int32_t **const[]){&b->pick, &b->owner}, 2, &b->cap_all, w->n_tok);
    deal(b, w, n_rank);
    deal_chosen(b, w, n_rank);
    fill_mine(b, w, rank);
    b->cut = (Cut){rank, n_rank, w->n_tok, b->run, b->run_off, b->n_row, b->pick, b->pick_off};
}

void cut_release(CutBuf *b) {
    int32_t *const array[] = {b->run_off, b->n_row, b->pick,  b->pick_off, b->owner,  b->tok,
                              b->pos,     b->row,   b->q_off, b->kv_len,   b->kv_page};
    for (int i = 0; i < COUNT_OF(array); i++) free(array[i]);
    free(b->run);
    *b = (CutBuf){0};
}
