// layer: nn
/* Rows dealt over ranks: every row once, as many for each rank, and of each sequence as many pairs of query and key;
 * chosen rows and positions are the whole's. */
#include "nn_help.h"

#include <math.h>

#include "nn/cut.h"

enum { SEED = 31, MOST = 400, SEQS = 12 };

typedef struct { /* a training batch of packed sequences */
    int32_t tok[MOST], pos[MOST], row[MOST], off[SEQS + 1], len[SEQS], page[SEQS * 8];
    Batch b;
} Pack;

static int below(uint64_t item, uint32_t step, int n) {
    return (int)rng_below((Rng){SEED, RNG_TEST}, item, step, (uint32_t)n);
}

static void fill(Pack *p, const int *len, int n_seq, bool causal, uint64_t item) {
    p->b = (Batch){.tok = p->tok, .pos = p->pos, .row = p->row};
    p->off[0] = 0;
    for (int s = 0; s < n_seq; s++) {
        for (int i = 0; i < len[s]; i++, p->b.n_tok++) {
            p->tok[p->b.n_tok] = below(item, (uint32_t)p->b.n_tok, 1000);
            p->pos[p->b.n_tok] = i;
            if (below(item, 5000 + (uint32_t)p->b.n_tok, 3) == 0) p->row[p->b.n_row++] = p->b.n_tok;
        }
        p->off[s + 1] = p->b.n_tok, p->len[s] = len[s];
        for (int k = 0; k < 8; k++) p->page[s * 8 + k] = p->off[s] + k * KV_PAGE;
    }
    p->b.seqs = (AttnSeqs){n_seq, 8, p->off, p->len, p->page, causal, 0};
}

static int sequence_of(const Pack *p, int row) {
    int s = 0;
    while (row >= p->off[s + 1]) s++;
    return s;
}

/* What rank me's batch says of the rows that the cut gives it. */
static void check_mine(const Pack *p, const CutBuf *c, int me) {
    const Batch *m = &c->mine;
    const Cut *cut = &c->cut;
    const AttnSeqs *s = &m->seqs;
    int at = 0, picked = cut->pick_off[me];
    for (int i = cut->run_off[me]; i < cut->run_off[me + 1]; i++) {
        CutRun r = cut->run[i];
        int piece = i - cut->run_off[me], seq = sequence_of(p, r.first);
        assert_true(r.n > 0 && r.first + r.n <= p->off[seq + 1]);
        assert_true(s->q_off[piece] == at && s->q_off[piece + 1] == at + r.n);
        assert_int_equal(s->kv_len[piece], s->causal ? r.first + r.n - p->off[seq] : p->len[seq]);
        for (int k = 0; k < s->max_page; k++)
            assert_int_equal(s->kv_page[piece * s->max_page + k], p->page[seq * 8 + k]);
        for (int k = 0; k < r.n; k++, at++) {
            assert_true(m->tok[at] == p->tok[r.first + k] && m->pos[at] == p->pos[r.first + k]);
            if (picked < cut->pick_off[me + 1] && p->row[cut->pick[picked]] == r.first + k) {
                assert_int_equal(m->row[picked - cut->pick_off[me]], at);
                picked++;
            }
        }
    }
    assert_int_equal(picked, cut->pick_off[me + 1]);
    assert_int_equal(s->n_seq, at > 0 ? cut->run_off[me + 1] - cut->run_off[me] : 1);
    assert_int_equal(m->n_tok, at > 0 ? at : 1); /* nobody's row where there is none */
    int own = cut->pick_off[me + 1] - cut->pick_off[me];
    assert_int_equal(m->n_row, own > 0 || p->b.n_row == 0 ? own : 1);
}

static void check_cut(const Pack *p, int c) {
    CutBuf buf = {0};
    int owner[MOST], n_all = p->b.n_tok, n_seq = p->b.seqs.n_seq;
    double pairs[SEQS][8] = {{0}};
    for (int i = 0; i < n_all; i++) owner[i] = -1;
    for (int me = 0; me < c; me++) {
        cut_batch(&buf, &p->b, me, c);
        const Cut *cut = &buf.cut;
        int rows = 0, seen[SEQS] = {0};
        for (int i = cut->run_off[me]; i < cut->run_off[me + 1]; i++)
            for (int k = 0; k < cut->run[i].n; k++, rows++) {
                int row = cut->run[i].first + k, s = sequence_of(p, row);
                assert_int_equal(owner[row], -1);
                owner[row] = me;
                pairs[s][me] += row - p->off[s] + 1;
                seen[s] += k == 0;
            }
        for (int s = 0; s < n_seq; s++) assert_true(seen[s] <= 2);
        assert_int_equal(cut->n_row[me], rows);
        assert_true(rows == n_all / c || rows == (n_all + c - 1) / c);
        assert_true(rows <= cut_rows(n_all, c));
        check_mine(p, &buf, me);
    }
    for (int i = 0; i < n_all; i++) assert_true(owner[i] >= 0);
    for (int s = 0; s < n_seq; s++)
        for (int q = 1; q < c; q++) /* a row more or less at either end, and half a row's of where a fold is cut */
            assert_true(fabs(pairs[s][q] - pairs[s][0]) <= 2 * p->len[s] + 2);
    cut_release(&buf);
}

static void test_cut(void **state) {
    (void)state;
    Pack *p = mem_alloc(sizeof *p);
    for (uint64_t item = 0; item < 200; item++) {
        int len[SEQS], n_seq = 1 + below(item, 9000, SEQS), sum = 0;
        for (int s = 0; s < n_seq; s++) {
            int most = item % 3 == 0 ? 4 : (MOST - sum) / (n_seq - s);
            len[s] = below(item, 9100 + (uint32_t)s, most + 1);
            sum += len[s];
        }
        if (sum == 0) len[0] = 1;
        fill(p, len, n_seq, item % 4 != 0, item);
        for (int c = 1; c <= 5; c++) check_cut(p, c);
    }
    free(p);
}

/* Where 2c divides the length: Llama 3's chunks, rank i with i and 2c-1-i. */
static void test_chunks(void **state) {
    (void)state;
    Pack *p = mem_alloc(sizeof *p);
    CutBuf buf = {0};
    const int len[] = {96, 48}, c = 4;
    fill(p, len, 2, true, 0);
    for (int me = 0; me < c; me++) {
        cut_batch(&buf, &p->b, me, c);
        const CutRun *r = buf.cut.run + buf.cut.run_off[me];
        int n = buf.cut.run_off[me + 1] - buf.cut.run_off[me], k = 0;
        assert_int_equal(n, me == c - 1 ? 2 : 4); /* the last rank's two chunks meet */
        for (int s = 0; s < 2; s++) {
            int chunk = len[s] / (2 * c), begin = s ? 96 : 0;
            assert_int_equal(r[k].first, begin + me * chunk);
            if (me == c - 1) {
                assert_int_equal(r[k++].n, 2 * chunk);
                continue;
            }
            assert_int_equal(r[k++].n, chunk);
            assert_int_equal(r[k].first, begin + (2 * c - 1 - me) * chunk);
            assert_int_equal(r[k++].n, chunk);
        }
    }
    cut_release(&buf);
    free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cut), cmocka_unit_test(test_chunks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
