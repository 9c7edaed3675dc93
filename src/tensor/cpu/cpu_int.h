/* tensor/cpu/cpu_int.h — shared by the files of the cpu backend.
 *
 * The kernels are written once (kernels.h and the headers it includes) and compiled once per instruction set into a
 * table of ops; isa.c picks one. What does not depend on the instruction set is here and in cpu.c: scratch memory,
 * tiles, and the few double precision functions that must not come from a libm whose version may change bits. */
#ifndef DIKAST_TENSOR_CPU_CPU_INT_H
#define DIKAST_TENSOR_CPU_CPU_INT_H

#include "tensor/backend.h"

struct Forward;
struct Backward;

extern const BackendOps cpu_ops_scalar, cpu_ops_avx2, cpu_ops_avx512;

typedef float SpinFn(int64_t n); /* n times sixteen multiply-adds */
SpinFn cpu_spin_scalar, cpu_spin_avx2, cpu_spin_avx512; /* of F32 */

/* Products of BF16, which is all that some instruction sets differ in: parts of linear_fwd and linear_bwd, whose jobs
 * (kernels_parts.h) they do. */
typedef struct {
    int64_t (*panels)(int64_t rows); /* of a task of forward, at most */
    void (*forward)(Backend *be, struct Forward *f, double work);
    void (*input_grad)(struct Backward *b, double work);
    void (*weight_grad)(struct Backward *b, double work);
    SpinFn *spin;
} HalfProducts;
extern const HalfProducts cpu_half_scalar, cpu_half_avx2, cpu_half_avx512, cpu_half_avx512_bf16, cpu_half_amx;
const HalfProducts *cpu_half(const Backend *be);

typedef struct {
    const char *name; /* "avx512" */
    const BackendOps *op;
    SpinFn *spin;
    const HalfProducts *half;
    bool (*usable)(void); /* on this CPU under this operating system */
    bool own_half;        /* sums products of BF16 in an order that no other has */
} Isa;
const Isa *isa_choose(const char *want, Error *err); /* NULL or "auto": the widest; NULL on failure */

/* Scratch grows on the calling thread, before a region, to the most any op asked for, and is then reused: after the
 * first step nothing is allocated. Contents do not survive the next call of the same function. 64-byte aligned. */
void cpu_scratch_threads(Backend *be, int64_t n_float); /* n_float for each thread of the pool */
float *cpu_scratch_of(const Backend *be, int thread);   /* this thread's part */
void *cpu_scratch_shared(Backend *be, size_t bytes);    /* one part for all, read-only or split by tile */

/* cos and sin of pos * freq[j] for positions 0 .. n_pos-1 at least, rounded from double: (n, half) each. Kept for later
 * calls with the same freq, which find them filled; further positions are added as they come. */
typedef struct {
    const float *cos, *sin;
} Angles;
Angles cpu_angles(Backend *be, const double *freq, int half, int64_t n_pos);

/* The rectangle [row, row_end) x [col, col_end) of a tensor, as one tile of an elementwise op. */
typedef struct {
    int64_t row, row_end, col, col_end;
} Span;
typedef void SpanFn(const void *job, Span s, int64_t tile);
/* Cuts rows x cols into tiles of about CPU_TILE elements (never by thread count) and runs fn on each; on the caller
 * when there is little to do. Returns the number of tiles; cpu_span_count tells it beforehand. */
enum { CPU_TILE = 16384 };
int64_t cpu_span_count(int64_t rows, int64_t cols);
void cpu_spans(Backend *be, int64_t rows, int64_t cols, SpanFn *fn, const void *job);
/* The same by whole rows, weight: work of one element against a plain load-add-store. */
typedef void RowsFn(const void *job, int64_t row, int64_t row_end);
void cpu_rows(Backend *be, int64_t rows, int64_t cols, int weight, RowsFn *fn, const void *job);
/* n tiles of flops each: on the caller when the whole is below what a hand-over costs. */
void cpu_tiles(Backend *be, int64_t n, double flops, PoolFn *fn, void *job);

static inline const uint16_t *half_row(Tensor t, int64_t i) { return (const uint16_t *)t.data + i * t.ld; }
static inline float *f32_row(Tensor t, int64_t i) { return (float *)t.data + i * t.ld; }
void cpu_check(const char *op, const char *what, Tensor t, int64_t rows, int64_t cols);     /* F32 of this shape */
void cpu_check_opt(const char *op, const char *what, Tensor t, int64_t rows, int64_t cols); /* same, or absent */
void cpu_check_as(const char *op, const char *what, Tensor t, int64_t rows, int64_t cols, DType dtype);
void cpu_check_weight(const char *op, const char *what, Tensor t, int64_t rows, int64_t cols, DType dtype); /* in panels */
void cpu_check_index(const char *op, const int32_t *idx, int64_t n, int64_t limit);

double cpu_log(double x);            /* natural logarithm, x > 0 finite; inf and NaN pass through */
double cpu_pow(double x, int64_t n); /* n >= 0, by squaring */
void cpu_sincos(double x, double *s, double *c);

#endif
