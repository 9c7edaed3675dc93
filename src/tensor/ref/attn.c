/* tensor/ref/attn.c — attention over packed sequences and paged keys.
 *
 * Forward. One query row of one head sees keys from..end-1 of its sequence, from being 0 without a window. They are
 * visited in tiles of KV_PAGE positions counted from position 0, never from the query or the batch, with the running
 * maximum and sum of Milakov & Gimelshein 2018 (the online softmax of Dao 2023):
 *
 *      for each tile:  m' = max(m, max s_j);  c = exp(m - m')
 *                      l = c l + sum exp(s_j - m');  a = c a + sum exp(s_j - m') v_j;  m = m'
 *      o = a / l;  lse = m + log l
 *
 * A tile's boundaries are the page's, so where its rows lie in memory and how many queries came along change no
 * operation: decoding one token at a time and a whole prompt give equal bits, and so does any page layout. A tile that
 * is cut short (causal, or by a window) is only shorter; a masked key is never read, so it may hold NaN.
 *
 * Backward. No (T,T) matrix: p_ij = exp(s_ij - lse_i) is computed again, and with delta_i = sum_d do_id o_id
 *
 *      dv_j += p_ij do_i;  ds_ij = p_ij (do_i . v_j - delta_i);  dq_i += c ds_ij k_j;  dk_j += c ds_ij q_i,  c =
 * 1/sqrt(D)
 *
 * delta replaces the sum over keys of p_ij dp_ij (Dao et al. 2022, eq. 4). */
#include "tensor/ref/ref.h"

#include <math.h>

static double dot(const double *a, const double *b, int n) {
    double sum = 0;
    for (int d = 0; d < n; d++) sum += a[d] * b[d];
    return sum;
}

/* Query row i of the n of sequence s sees positions [keys_from, keys_end). */
static int keys_end(AttnSeqs s, int seq, int i) {
    int n = s.q_off[seq + 1] - s.q_off[seq];
    return s.causal ? s.kv_len[seq] - n + i + 1 : s.kv_len[seq];
}

static int keys_from(AttnSeqs s, int seq, int i) {
    int end = keys_end(s, seq, i);
    return s.window > 0 && s.window < end ? end - s.window : 0;
}

/* Where page p of a sequence begins. */
static int32_t key_rows(AttnSeqs s, int seq, int p) { return s.kv_page[(int64_t)seq * s.max_page + p]; }

static const double *key_row(Tensor t, AttnSeqs s, int seq, int pos) {
    return ref_row(t, key_rows(s, seq, pos / KV_PAGE) + pos % KV_PAGE);
}

static void check_seqs(const char *op, Tensor q, Tensor k, AttnSeqs s, int d_head) {
    CHECK(d_head > 0 && q.cols % d_head == 0 && k.cols % d_head == 0 && k.cols > 0 && q.cols % k.cols == 0,
          "%s: q has %lld columns, k %lld, d_head %d", op, (long long)q.cols, (long long)k.cols, d_head);
    CHECK(s.window == 0 || (s.window > 0 && s.causal), "%s: window %d, expected 0 or, when causal, more", op, s.window);
    for (int i = 0; i < s.n_seq; i++) {
        int n = s.q_off[i + 1] - s.q_off[i], len = s.kv_len[i];
        CHECK(s.q_off[i] >= 0 && n >= 0 && s.q_off[i + 1] <= q.rows, "%s: sequence %d has rows [%d, %d) of %lld", op, i,
              (int)s.q_off[i], (int)s.q_off[i + 1], (long long)q.rows);
        if (n == 0) continue;
        CHECK(len >= 1 && (len >= n || !s.causal), "%s: sequence %d has %d queries, %d keys", op, i, n, len);
        CHECK(len <= (int64_t)s.max_page * KV_PAGE, "%s: sequence %d has %d keys, %d pages", op, i, len, s.max_page);
        for (int p = 0; p * KV_PAGE < len; p++) {
            int64_t first = s.kv_page[(int64_t)i * s.max_page + p],
                    last = first + (len - p * KV_PAGE < KV_PAGE ? len - p * KV_PAGE : KV_PAGE);
            CHECK(first >= 0 && last <= k.rows, "%s: sequence %d page %d is rows [%lld, %lld) of %lld", op, i, p,
                  (long long)first, (long long)last, (long long)k.rows);
        }
    }
}

/* One query row, one head: o (D) and the return value lse. col: first column of its KV head. */
static double attend(double *o, const double *q, Tensor k, Tensor v, AttnSeqs s, int seq, int from, int end,
                     int64_t col, int d_head) {
    double top = -INFINITY, sum = 0, score[KV_PAGE];
    for (int d = 0; d < d_head; d++) o[d] = 0;
    for (int first = from / KV_PAGE * KV_PAGE; first < end; first += KV_PAGE) {
        int n = end - first < KV_PAGE ? end - first : KV_PAGE, low = from > first ? from - first : 0;
        double next = top;
        for (int j = low; j < n; j++) {
            score[j] = dot(q, key_row(k, s, seq, first + j) + col, d_head) / sqrt(d_head);
            next = fmax(next, score[j]);
        }
        double carry = exp(top - next);
        top = next;
        sum *= carry;
        for (int d = 0; d < d_head; d++) o[d] *= carry;
        for (int j = low; j < n; j++) {
            double p = exp(score[j] - top);
            const double *vj = key_row(v, s, seq, first + j) + col;
            sum += p;
            for (int d = 0; d < d_head; d++) o[d] += p * vj[d];
        }
    }
    for (int d = 0; d < d_head; d++) o[d] /= sum;
    return top + log(sum);
}

void ref_attn_fwd(Backend *be, Tensor o, Tensor lse, Tensor q, Tensor k, Tensor v, AttnSeqs s, int d_head) {
    (void)be;
    ref_check("attn_fwd", "o", o, q.rows, q.cols);
    ref_check("attn_fwd", "q", q, q.rows, q.cols);
    ref_check("attn_fwd", "k", k, k.rows, k.cols);
    ref_check("attn_fwd", "v", v, k.rows, k.cols);
    check_seqs("attn_fwd", q, k, s, d_head);
    int64_t n_head = q.cols / d_head, group = q.cols / k.cols;
    ref_check_opt("attn_fwd", "lse", lse, q.rows, n_head);
    for (int seq = 0; seq < s.n_seq; seq++)
        for (int64_t i = s.q_off[seq]; i < s.q_off[seq + 1]; i++)
            for (int64_t h = 0; h < n_head; h++) {
                int at = (int)(i - s.q_off[seq]);
                double l = attend(ref_row(o, i) + h * d_head, ref_row(q, i) + h * d_head, k, v, s, seq,
                                  keys_from(s, seq, at), keys_end(s, seq, at), h / group * d_head, d_head);
                if (!tensor_empty(lse)) ref_row(lse, i)[h] = l;
            }
}

typedef struct {
    Tensor dq, dk, dv, d_o, o, lse, q, k, v;
} Grads;

/* Query row i (of the batch) against key rows [from, end), query head h, KV columns col. */
static void attend_bwd(const Grads *g, int64_t i, int64_t from, int64_t end, int64_t h, int64_t col, int d_head) {
    const double *q = ref_row(g->q, i) + h * d_head, *d_o = ref_row(g->d_o, i) + h * d_head;
    double *dq = ref_row(g->dq, i) + h * d_head;
    double c = 1 / sqrt(d_head), lse = ref_row(g->lse, i)[h], delta = dot(d_o, ref_row(g->o, i) + h * d_head, d_head);
    for (int64_t j = from; j < end; j++) {
        const double *kj = ref_row(g->k, j) + col, *vj = ref_row(g->v, j) + col;
        double p = exp(dot(q, kj, d_head) * c - lse), ds = p * (dot(d_o, vj, d_head) - delta);
        for (int d = 0; d < d_head; d++) {
            dq[d] += c * ds * kj[d];
            ref_row(g->dk, j)[col + d] += c * ds * q[d];
            ref_row(g->dv, j)[col + d] += p * d_o[d];
        }
    }
}

static void check_grads(const char *op, const Grads *g, AttnSeqs s, int d_head) {
    ref_check(op, "dq", g->dq, g->q.rows, g->q.cols);
    ref_check(op, "do", g->d_o, g->q.rows, g->q.cols);
    ref_check(op, "o", g->o, g->q.rows, g->q.cols);
    ref_check(op, "q", g->q, g->q.rows, g->q.cols);
    ref_check(op, "dk", g->dk, g->k.rows, g->k.cols);
    ref_check(op, "dv", g->dv, g->k.rows, g->k.cols);
    ref_check(op, "k", g->k, g->k.rows, g->k.cols);
    ref_check(op, "v", g->v, g->k.rows, g->k.cols);
    check_seqs(op, g->q, g->k, s, d_head);
    ref_check(op, "lse", g->lse, g->q.rows, g->q.cols / d_head);
    for (int seq = 0; seq < s.n_seq; seq++)
        for (int p = 0; s.q_off[seq] < s.q_off[seq + 1] && p * KV_PAGE < s.kv_len[seq]; p++)
            CHECK(key_rows(s, seq, p) == key_rows(s, seq, 0) + p * KV_PAGE,
                  "%s: page %d of sequence %d is not behind the one before it", op, p, seq);
}

static void backward(Backend *be, const Grads *g, AttnSeqs s, int d_head) {
    int64_t n_head = g->q.cols / d_head, group = g->q.cols / g->k.cols;
    ref_zero(be, g->dq);
    ref_zero(be, g->dk);
    ref_zero(be, g->dv);
    for (int seq = 0; seq < s.n_seq; seq++) {
        int64_t begin = s.q_off[seq], end = s.q_off[seq + 1], first = begin < end ? key_rows(s, seq, 0) : 0;
        for (int64_t i = begin; i < end; i++)
            for (int64_t h = 0; h < n_head; h++)
                attend_bwd(g, i, first + keys_from(s, seq, (int)(i - begin)),
                           first + keys_end(s, seq, (int)(i - begin)), h, h / group * d_head, d_head);
    }
}

void ref_attn_bwd(Backend *be, Tensor dq, Tensor dk, Tensor dv, Tensor d_o, Tensor o, Tensor lse, Tensor q, Tensor k,
                  Tensor v, AttnSeqs s, int d_head) {
    const Grads g = {dq, dk, dv, d_o, o, lse, q, k, v};
    check_grads("attn_bwd", &g, s, d_head);
    ref_check("attn_bwd", "k", k, q.rows, k.cols);
    for (int seq = 0; seq < s.n_seq; seq++) {
        int64_t begin = s.q_off[seq], n = s.q_off[seq + 1] - begin;
        CHECK(n == 0 || s.kv_len[seq] == n, "attn_bwd: sequence %d has %d keys, expected its own %lld rows", seq,
              (int)s.kv_len[seq], (long long)n);
        CHECK(n == 0 || key_rows(s, seq, 0) == begin, "attn_bwd: page 0 of sequence %d is not its own rows", seq);
    }
    backward(be, &g, s, d_head);
}

void ref_attn_part_bwd(Backend *be, Tensor dq, Tensor dk, Tensor dv, Tensor d_o, Tensor o, Tensor lse, Tensor q,
                       Tensor k, Tensor v, AttnSeqs s, int d_head) {
    const Grads g = {dq, dk, dv, d_o, o, lse, q, k, v};
    check_grads("attn_part_bwd", &g, s, d_head);
    backward(be, &g, s, d_head);
}
