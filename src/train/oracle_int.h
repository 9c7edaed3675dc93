/* train/oracle_int.h — one case while it runs: readers of its inputs, and what its outputs are held against. The first thing
 * that is wrong with a case is kept in *err; readers then give zeros of the right shape, so functions need not ask. */
#ifndef DIKAST_TRAIN_ORACLE_INT_H
#define DIKAST_TRAIN_ORACLE_INT_H

#include "base/arena.h"
#include "base/json.h"
#include "tensor/backend.h"

typedef struct {
    const Json *in, *out, *block;
    const char *id, *worst;
    Backend *be;
    Error *err;
    bool failed;
    Heap heap;
    int n_row, n_col, n_given;  /* B, T; outputs compared */
    int64_t *off;               /* (B+1) tokens that count, row after row */
    double max_err;
} OracleRun;

void oracle_bad(OracleRun *c, const char *fmt, ...) FORMAT(2, 3);
double *oracle_zeros(OracleRun *c, int64_t n);
/* Parameters of the case. null counts as absent. */
double oracle_num(OracleRun *c, const char *key);
double oracle_num_or(OracleRun *c, const char *key, double otherwise);
double oracle_bound(OracleRun *c, const char *key);     /* above 0; 0 when absent: no such bound */
bool oracle_flag(OracleRun *c, const char *key);
/* Index of the word in a list that NULL ends. */
int oracle_word(OracleRun *c, const char *key, const char *const *words);
bool oracle_has(const OracleRun *c, const char *key);
double *oracle_vec(OracleRun *c, const char *key, int *n);          /* *n 0: any length of at least 1; else that one */
/* (B, T) of the case or of its block, cut to the tokens that count; and one number per row. */
double *oracle_tokens(OracleRun *c, const Json *from, const char *key);
double *oracle_rows(OracleRun *c, const Json *from, const char *key);
/* Either: a row's number stands for each of its tokens. */
double *oracle_tokens_or_rows(OracleRun *c, const char *key);
/* A flat (B*T*V) array of the block; *width: V. Labels: (B*T) ids below width. */
double *oracle_logits(OracleRun *c, int *width);
int32_t *oracle_labels(OracleRun *c, int width);

/* Compares when the case has that output. all: (B, T), every entry; tokens: (n_tok) those that count. */
void oracle_give(OracleRun *c, const char *name, const double *x, int n);
void oracle_give_num(OracleRun *c, const char *name, double x);
void oracle_give_tokens(OracleRun *c, const char *name, const double *x);
void oracle_give_all(OracleRun *c, const char *name, const double *x);

typedef struct {
    const char *name;
    void (*run)(OracleRun *c);
    bool needs_block;
    const char *in, *out;       /* the names that may stand there */
} OracleFunction;
extern const OracleFunction oracle_functions[];     /* NULL name at the end */

#endif
