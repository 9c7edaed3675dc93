/* app/bench.h — what the cases of `dikast bench` share: sizes, clocks, the load of the machine, one line per case.
 * Cases and fields are those of the peers' benchmarks, so lines of both can be compared by name (bench/compare.py). */
#ifndef DIKAST_APP_BENCH_H
#define DIKAST_APP_BENCH_H

#include "app/open.h"
#include "nn/model.h"

typedef struct {
    const char *name; /* "a" */
    ModelConfig cfg;
    int batch, seq; /* of its training case */
} BenchSize;
const BenchSize *bench_size(const char *name, Error *err);
ModelConfig bench_config(const BenchSize *size, int64_t positions); /* max_seq raised to hold that many */

typedef struct {
    const Args *a;
    Machine machine;
    const BenchSize *size;
    const char *isa; /* as asked for; "native" for auto */
    int64_t steps, warmup, batch, seq, reps;
    const char *dtype_name; /* "fp32", "bf16" */
    DType dtype;
    DType weights; /* generate: of a rounded copy, F32: none */
    double peak; /* GFLOP/s, 0: not known */
    int64_t shared;  /* generate: tokens that all prompts begin with; 0: none */
    const char *dir; /* generate: of a model, or NULL */
    Keep keep;
    bool keep_auto;
    int64_t lora; /* train: rank of an adapter beside frozen weights; 0: all weights are trained */
    const char *file, *tokenizer;
    int64_t vocab;
    double mb, trainer_tok_s;
    int64_t seqs, plen, n_new, epochs, minibatch, group, iters, pass; /* ppo, grpo */
    const char *rows, *ops; /* gemm: list of row counts; list of products, NULL for all */
    bool cold;              /* gemm: weights from memory */
    double ms;              /* gemm: least time of a case */
} Bench;

typedef struct {
    double t, busy, own;
} Meter;
Meter meter_start(void);
double meter_other(Meter m); /* share of the whole machine that other processes took since then */
double own_cpu_s(void);      /* CPU seconds of this process, all threads */

/* Seconds of a call of run, which gets the number of the call, over `least` seconds and three repetitions or more. Where calls
 * are queued a repetition is as many of them as take some milliseconds, and then waits. */
typedef struct { double best, mean; int n; } Timing;
Timing bench_time(Backend *be, void (*run)(void *ud, int turn), void *ud, double least);
/* Numbers in [-1, 1) that look random: a product of round ones draws less power, so it may run faster. */
void bench_fill(Backend *be, Tensor t);

double median_of(double *v, int n); /* sorts v */
double rounded(double v, int digits);

/* One line: opened with the fields every case has, closed with those known at its end. Without --json only `say` is
 * printed. */
typedef struct {
    Bench *b;
    Str text;
    JsonOut j;
} Case;
void case_begin(Case *c, Bench *b, const char *bench, const char *name, int threads);
void case_end(Case *c, Meter m, const char *say, ...) FORMAT(3, 4);

bool bench_train(Bench *b, Error *err);
bool bench_generate(Bench *b, Error *err);
bool bench_tokenize(Bench *b, Error *err);
bool bench_load(Bench *b, Error *err);
bool bench_ckpt(Bench *b, Error *err);
bool bench_open(Bench *b, Error *err);
bool bench_gemm(Bench *b, Error *err);
bool bench_kernels(Bench *b, Error *err);
bool bench_ppo(Bench *b, Error *err);
bool bench_grpo(Bench *b, Error *err);

#endif
