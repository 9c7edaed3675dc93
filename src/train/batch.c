#include "train/batch.h"

#include <stdlib.h>

static void grow(int32_t **p, int *cap, int n) {
    if (n <= *cap) return;
    *cap = n > 2 * *cap ? n : 2 * *cap;
    *p = mem_grow(*p, (size_t)*cap * sizeof(int32_t));
}

void batch_layout(BatchBuf *buf, Batch *b, const int32_t *tok, int n_tok, const int32_t *seq_off, int n_seq,
                  bool causal) {
    int longest = 0;
    for (int s = 0; s < n_seq; s++) {
        int n = seq_off[s + 1] - seq_off[s];
        if (n > longest) longest = n;
    }
    CHECK(n_seq == 0 || (seq_off[0] == 0 && seq_off[n_seq] == n_tok), "sequences cover %d rows of %d",
          n_seq ? seq_off[n_seq] : 0, n_tok);
    int max_page = (longest + KV_PAGE - 1) / KV_PAGE, cap_q = buf->cap_seq; /* both arrays share one capacity */
    grow(&buf->q_off, &cap_q, n_seq + 1);
    grow(&buf->kv_len, &buf->cap_seq, n_seq + 1);
    grow(&buf->kv_page, &buf->cap_page, n_seq * max_page);
    grow(&buf->pos, &buf->cap_pos, n_tok);
    grow(&buf->row, &buf->cap_row, n_tok);
    buf->q_off[0] = 0;
    for (int s = 0; s < n_seq; s++) {
        int first = seq_off[s], n = seq_off[s + 1] - first;
        buf->q_off[s + 1] = seq_off[s + 1];
        buf->kv_len[s] = n;
        /* Pages past the sequence's end are never visited; they name its first row so that no entry is undefined. */
        for (int p = 0; p < max_page; p++) buf->kv_page[s * max_page + p] = first + (p * KV_PAGE < n ? p * KV_PAGE : 0);
        for (int i = 0; i < n; i++) buf->pos[first + i] = i;
    }
    *b = (Batch){.n_tok = n_tok, .tok = tok, .pos = buf->pos, .row = buf->row};
    b->seqs = (AttnSeqs){n_seq, max_page, buf->q_off, buf->kv_len, buf->kv_page, causal, 0};
}

void batch_share(BatchBuf *buf, Batch *b, const int32_t *same) {
    int n = b->n_tok, own = 0;
    if (n > buf->cap_share) {
        buf->cap_share = n > 2 * buf->cap_share ? n : 2 * buf->cap_share;
        int32_t **const array[] = {&buf->tok, &buf->seen, &buf->home};
        for (int k = 0; k < COUNT_OF(array); k++)
            *array[k] = mem_grow(*array[k], (size_t)buf->cap_share * sizeof(int32_t));
    }
    for (int s = 0; s < b->seqs.n_seq; s++) {
        int first = buf->q_off[s];
        CHECK(same[s] >= 0 && same[s] < buf->kv_len[s] && (same[s] == 0 || (s > 0 && same[s] < buf->kv_len[s - 1])),
              "sequence %d of %d tokens shares %d", s, buf->kv_len[s], same[s]);
        for (int i = first; i < buf->q_off[s + 1]; i++) {
            if (i < first + same[s]) {
                buf->seen[i] = buf->seen[buf->q_off[s - 1] + i - first];
                continue;
            }
            buf->tok[own] = b->tok[i];
            buf->pos[own] = buf->pos[i]; /* own <= i: nothing is overwritten before it is read */
            buf->home[own] = i;
            buf->seen[i] = own++;
        }
    }
    b->n_tok = own, b->tok = buf->tok;
    b->n_seen = n, b->seen = buf->seen, b->home = buf->home;
}

void batch_from_pack(BatchBuf *buf, Batch *b, const Pack *p, bool causal) {
    batch_layout(buf, b, p->tok, p->n_tok, p->seq_off, p->n_seq, causal);
}

void batch_release(BatchBuf *buf) {
    free(buf->q_off);
    free(buf->kv_len);
    free(buf->kv_page);
    free(buf->pos);
    free(buf->row);
    free(buf->tok);
    free(buf->seen);
    free(buf->home);
    *buf = (BatchBuf){0};
}

static void logp_place(LogpBuf *buf, Arena *a, Backend *be, int n) {
    buf->t_lp = tensor_place(a, be->real, n, 1);
    buf->t_ent = tensor_place(a, be->real, n, 1);
    buf->t_dlp = tensor_place(a, be->real, n, 1);
}

void logp_reserve(LogpBuf *buf, Backend *be, int n) {
    if (n <= buf->cap) return;
    logp_release(buf);
    Arena measure;
    Error err = {0};
    arena_init_measure(&measure, "log-probs");
    logp_place(buf, &measure, be, n);
    CHECK(arena_init(&buf->mem, "log-probs", be->mem, measure.used, &err), "%s", err.msg);
    logp_place(buf, &buf->mem, be, n);
    buf->lp = mem_alloc(3 * (size_t)n * sizeof(double));
    buf->ent = buf->lp + n;
    buf->dlp = buf->ent + n;
    buf->cap = n;
}

void logp_forward(LogpBuf *buf, Backend *be, Tensor logits, const int32_t *target, float temp, bool entropy) {
    int n = (int)logits.rows;
    logp_reserve(buf, be, n);
    Tensor lp = tensor_rows(buf->t_lp, 0, n), ent = entropy ? tensor_rows(buf->t_ent, 0, n) : (Tensor){0};
    be->op->logprob_fwd(be, lp, ent, logits, target, temp);
    tensor_get(be, buf->lp, lp);
    if (entropy) tensor_get(be, buf->ent, ent);
}

void logp_backward(LogpBuf *buf, Backend *be, Tensor logits, const int32_t *target, float temp) {
    Tensor dlp = tensor_rows(buf->t_dlp, 0, logits.rows);
    tensor_set(be, dlp, buf->dlp);
    be->op->logprob_bwd(be, logits, target, dlp, temp);
}

void logp_release(LogpBuf *buf) {
    arena_release(&buf->mem);
    free(buf->lp);
    *buf = (LogpBuf){0};
}
