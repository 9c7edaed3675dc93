/* train/batch.h — from rows of tokens to what a forward pass and a loss need, in the training layout: every sequence's keys
 * and values are its own rows, position p of sequence s being row q_off[s] + p. */
#ifndef DIKAST_TRAIN_BATCH_H
#define DIKAST_TRAIN_BATCH_H

#include "data/loader.h"
#include "nn/row_parts.h"

typedef struct {            /* the arrays a Batch points to; zeroed is valid and empty; grows, never shrinks */
    int32_t *q_off, *kv_len, *kv_page, *pos, *row, *tok, *seen, *home;
    int cap_seq, cap_page, cap_pos, cap_row, cap_share;
} BatchBuf;

/* Fills everything of *b but its chosen rows (n_row 0, row := buf->row with room for n_tok entries). Borrows tok. */
void batch_layout(BatchBuf *buf, Batch *b, const int32_t *tok, int n_tok, const int32_t *seq_off, int n_seq, bool causal);
/* After batch_layout: sequence s begins with the same[s] first tokens of sequence s - 1 (0: nothing in common), whose rows it
 * shares. b is rebuilt over the rows that are left; row i of before is then buf->seen[i]. */
void batch_share(BatchBuf *buf, Batch *b, const int32_t *same);
void batch_from_pack(BatchBuf *buf, Batch *b, const Pack *p, bool causal);
void batch_release(BatchBuf *buf);

/* Log-probs of targets under head rows, and their way back (logp.c). Holds what a slice of rows needs; zeroed is valid and empty;
 * bound to the backend of the first call.
 *
 * Where the net's outputs are divided over ranks (logp_of), logits are this rank's columns of them, targets count through all, and
 * every rank gets the same numbers: each tells three scalars per row (max, sum of exp, the target's logit; four with entropy), in F64,
 * by one all_gather of logp_forward. logp_backward needs no more; it is that of the logp_forward before it. */
typedef struct {            /* of all rows of a micro-batch, whoever has them (head_cut.h) */
    double *said;           /* (R, width): log-prob, and entropy where width is 2 */
    double *dlp;            /* (R) */
    int width, at;          /* at: the row that a slice begins with */
} LogpRows;
typedef struct {
    Arena mem;
    int cap;
    Tensor t_lp, t_ent, t_dlp, t_whole;
    double *lp, *ent, *dlp; /* (rows) host */
    RowParts parts;         /* group NULL: all columns are here */
    double *whole;          /* (rows, 3) of divided outputs */
    LogpRows *rows;         /* not NULL: log-probs come from there, and their gradients go there */
} LogpBuf;
/* Whose outputs the rows are from now on: those who compute the loss of a net say so first. */
void logp_of(LogpBuf *buf, Net net);
/* From now on rows' log-probs are these, whatever the logits; NULL: the logits' again. */
void logp_rows(LogpBuf *buf, LogpRows *rows);
/* Room for passes of n rows, which logp_forward makes when it is needed. */
void logp_reserve(LogpBuf *buf, Backend *be, int n);
/* buf->lp[i], and buf->ent[i] when entropy, of logits row i at temperature temp. */
void logp_forward(LogpBuf *buf, Backend *be, Tensor logits, const int32_t *target, float temp, bool entropy);
/* logits := gradient of the loss, given buf->dlp[i] = d loss / d log-prob of row i. */
void logp_backward(LogpBuf *buf, Backend *be, Tensor logits, const int32_t *target, float temp);
void logp_release(LogpBuf *buf);

#endif
