/* tensor/cpu/cpu.c — what the kernels of all instruction sets share. */
#include "tensor/cpu/cpu_int.h"

#include "tensor/backend_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* -- scratch --------------------------------------------------------------------------------------------------------
 */

typedef struct {
    unsigned char *p;
    size_t bytes;
} Buffer;

typedef struct {
    double *freq; /* (half) */
    int half;
    int64_t n_pos;
    Buffer table; /* cos (n_pos, half), then sin */
} AngleTable;

/* Nets of one run differ in their frequencies at most between policy and preference model. */
enum { ANGLE_TABLES = 4 };

typedef struct {
    const Isa *isa;
    Buffer threads, shared;
    size_t thread_bytes;
    AngleTable angles[ANGLE_TABLES];
    int next_table; /* the one to replace */
} Cpu;

static void buffer_need(Backend *be, Buffer *b, size_t bytes) {
    if (bytes <= b->bytes) return;
    if (b->p) be->mem.put(be->mem.ud, b->p, b->bytes);
    b->p = be->mem.get(be->mem.ud, bytes);
    CHECK(b->p, "cpu: no memory for %zu bytes of scratch", bytes);
    b->bytes = bytes;
}

/* Parts start on their own pages: two threads never share a line. */
void cpu_scratch_threads(Backend *be, int64_t n_float) {
    Cpu *cpu = be->impl;
    size_t bytes = ((size_t)n_float * sizeof(float) + 4095) / 4096 * 4096;
    if (bytes <= cpu->thread_bytes) return;
    cpu->thread_bytes = bytes;
    buffer_need(be, &cpu->threads, bytes * (size_t)pool_threads(be->pool));
}

float *cpu_scratch_of(const Backend *be, int thread) {
    const Cpu *cpu = be->impl;
    return (float *)(void *)(cpu->threads.p + (size_t)thread * cpu->thread_bytes);
}

void *cpu_scratch_shared(Backend *be, size_t bytes) {
    Cpu *cpu = be->impl;
    buffer_need(be, &cpu->shared, bytes);
    return cpu->shared.p;
}

const HalfProducts *cpu_half(const Backend *be) { return ((const Cpu *)be->impl)->isa->half; }

/* -- tiles ----------------------------------------------------------------------------------------------------------
 */

/* A region costs a microsecond or two, some more where a worker sleeps: as much as this many plain operations on what
 * the other threads have just written. */
static const double least_flops = 3e5;

void cpu_tiles(Backend *be, int64_t n, double flops, PoolFn *fn, void *job) {
    if (n > 1 && flops >= least_flops) {
        pool_for(be->pool, n, fn, job);
        return;
    }
    for (int64_t i = 0; i < n; i++) fn(job, i, 0);
}

typedef struct {
    int64_t rows, cols, step, n_across;
    SpanFn *fn;
    const void *job;
} Spans;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Wide rows are cut across, narrow ones gathered. */
static Spans spans_of(int64_t rows, int64_t cols) {
    int64_t step = cols >= CPU_TILE ? 1 : CPU_TILE / (cols > 0 ? cols : 1);
    return (Spans){.rows = rows, .cols = cols, .step = step, .n_across = cols > 0 ? ceil_div(cols, CPU_TILE) : 0};
}

int64_t cpu_span_count(int64_t rows, int64_t cols) {
    Spans s = spans_of(rows, cols);
    return ceil_div(rows, s.step) * s.n_across;
}

static void span_task(void *ud, int64_t tile, int thread) {
    (void)thread;
    const Spans *s = ud;
    int64_t row = tile / s->n_across * s->step, col = tile % s->n_across * CPU_TILE;
    s->fn(s->job, (Span){row, least(row + s->step, s->rows), col, least(col + CPU_TILE, s->cols)}, tile);
}

void cpu_spans(Backend *be, int64_t rows, int64_t cols, SpanFn *fn, const void *job) {
    Spans s = spans_of(rows, cols);
    s.fn = fn;
    s.job = job;
    cpu_tiles(be, cpu_span_count(rows, cols), 16.0 * (double)rows * (double)cols, span_task, &s);
}

typedef struct {
    int64_t rows, step;
    RowsFn *fn;
    const void *job;
} Rows;

static void rows_task(void *ud, int64_t tile, int thread) {
    (void)thread;
    const Rows *r = ud;
    r->fn(r->job, tile * r->step, least((tile + 1) * r->step, r->rows));
}

/* So that few rows (decoding) are shared, too. */
enum { LEAST_TILES = 16 };

void cpu_rows(Backend *be, int64_t rows, int64_t cols, int weight, RowsFn *fn, const void *job) {
    int64_t step = least(CPU_TILE / (cols > 0 ? cols : 1) / weight, ceil_div(rows, LEAST_TILES));
    Rows r = {rows, step < 1 ? 1 : step, fn, job};
    cpu_tiles(be, ceil_div(rows, r.step), 16.0 * (double)rows * (double)cols * weight, rows_task, &r);
}

/* -- checks ---------------------------------------------------------------------------------------------------------
 */

static void check(const char *op, const char *what, Tensor t, int64_t rows, int64_t cols, DType dtype, bool panels) {
    CHECK(t.rows == rows && t.cols == cols, "%s: %s is (%lld, %lld), expected (%lld, %lld)", op, what,
          (long long)t.rows, (long long)t.cols, (long long)rows, (long long)cols);
    if (tensor_empty(t)) return;
    CHECK(t.dtype == dtype, "%s: %s is %s, expected %s", op, what, dtype_name(t.dtype), dtype_name(dtype));
    CHECK(t.data && t.ld >= t.cols, "%s: %s has data %s, ld %lld", op, what, t.data ? "set" : "NULL", (long long)t.ld);
    CHECK(t.panels == panels, "%s: %s is %s panels", op, what, t.panels ? "in" : "not in");
}

void cpu_check(const char *op, const char *what, Tensor t, int64_t rows, int64_t cols) {
    check(op, what, t, rows, cols, DTYPE_F32, false);
}

void cpu_check_as(const char *op, const char *what, Tensor t, int64_t rows, int64_t cols, DType dtype) {
    check(op, what, t, rows, cols, dtype, false);
}

void cpu_check_weight(const char *op, const char *what, Tensor t, int64_t rows, int64_t cols, DType dtype) {
    check(op, what, t, rows, cols, dtype, true);
}

void cpu_check_opt(const char *op, const char *what, Tensor t, int64_t rows, int64_t cols) {
    if (!tensor_empty(t)) cpu_check(op, what, t, rows, cols);
}

void cpu_check_index(const char *op, const int32_t *idx, int64_t n, int64_t limit) {
    for (int64_t i = 0; i < n; i++)
        CHECK(idx[i] >= 0 && idx[i] < limit, "%s: index %lld is %d, expected [0, %lld)", op, (long long)i, (int)idx[i],
              (long long)limit);
}

/* -- double precision -----------------------------------------------------------------------------------------------
 */

/* x = m 2^e, m in [sqrt 1/2, sqrt 2); log m = 2 atanh(s), s = (m-1)/(m+1), |s| < 0.172: eleven terms leave 1e-18,
 * summed in pairs so that they need not wait for one another. */
double cpu_log(double x) {
    if (!(x >= 2.2250738585072014e-308) || isinf(x)) {
        if (!(x > 0) || isinf(x)) return x == 0 ? -INFINITY : x < 0 ? NAN : x;
        return cpu_log(x * 18014398509481984.0) - 54 * 6.93147180559945309417e-01; /* subnormal */
    }
    uint64_t bits, one = UINT64_C(1023) << 52;
    memcpy(&bits, &x, sizeof bits);
    int64_t e = (int64_t)(bits >> 52) - 1023;
    bits = (bits & ((UINT64_C(1) << 52) - 1)) | one;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m >= 1.41421356237309505) {
        m *= 0.5;
        e++;
    }
    double s = (m - 1) / (m + 1), z = s * s, z2 = z * z, z4 = z2 * z2;
    double a = (1.0 + z * (1.0 / 3)) + z2 * (1.0 / 5 + z * (1.0 / 7));
    double b = (1.0 / 9 + z * (1.0 / 11)) + z2 * (1.0 / 13 + z * (1.0 / 15));
    double c = (1.0 / 17 + z * (1.0 / 19)) + z2 * (1.0 / 21);
    double sum = a + z4 * (b + z4 * c);
    return (double)e * 6.93147180369123816490e-01 + (2 * s * sum + (double)e * 1.90821492927058770002e-10);
}

double cpu_pow(double x, int64_t n) {
    double r = 1;
    for (; n > 0; n >>= 1, x *= x)
        if (n & 1) r *= x;
    return r;
}

/* x - n pi/2 in three steps (33 + 33 + 53 bits of pi/2: exact for n below 2^20), then Taylor's series to where |r| <=
 * pi/4 leaves less than 1e-17. */
void cpu_sincos(double x, double *s, double *c) {
    double n = rint(x * 6.36619772367581382433e-01);
    double r = x - n * 1.57079632673412561417e+00;
    r -= n * 6.07710050630396597660e-11;
    r -= n * 2.02226624879595063154e-21;
    double r2 = r * r, sn = 0, cs = 0;
    for (int i = 17; i >= 3; i -= 2) sn = (1 - sn) * r2 / (i * (i - 1));
    sn = r * (1 - sn);
    for (int i = 18; i >= 2; i -= 2) cs = (1 - cs) * r2 / (i * (i - 1));
    cs = 1 - cs;
    switch ((int64_t)n & 3) {
    case 0:
        *s = sn, *c = cs;
        break;
    case 1:
        *s = cs, *c = -sn;
        break;
    case 2:
        *s = -sn, *c = -cs;
        break;
    default:
        *s = -cs, *c = sn;
    }
}

/* -- angles ---------------------------------------------------------------------------------------------------------
 */

typedef struct {
    const double *freq;
    int half;
    float *cos, *sin;
} AngleJob;

static void angles_rows(const void *job, int64_t row, int64_t row_end) {
    const AngleJob *a = job;
    for (int64_t i = row; i < row_end; i++)
        for (int j = 0; j < a->half; j++) {
            double s, c;
            cpu_sincos((double)i * a->freq[j], &s, &c);
            a->cos[i * a->half + j] = (float)c;
            a->sin[i * a->half + j] = (float)s;
        }
}

static AngleTable *angle_table(Cpu *cpu, const double *freq, int half) {
    size_t bytes = (size_t)half * sizeof *freq;
    for (int i = 0; i < ANGLE_TABLES; i++) {
        AngleTable *t = &cpu->angles[i];
        if (t->half == half && memcmp(t->freq, freq, bytes) == 0) return t;
    }
    AngleTable *t = &cpu->angles[cpu->next_table];
    cpu->next_table = (cpu->next_table + 1) % ANGLE_TABLES;
    free(t->freq);
    t->freq = mem_alloc(bytes);
    memcpy(t->freq, freq, bytes);
    t->half = half;
    t->n_pos = 0;
    return t;
}

Angles cpu_angles(Backend *be, const double *freq, int half, int64_t n_pos) {
    AngleTable *t = angle_table(be->impl, freq, half);
    if (n_pos > t->n_pos) {
        /* Twice as far at least: decoding asks for one position more each time. */
        int64_t n = n_pos > 2 * t->n_pos ? (n_pos + 255) / 256 * 256 : 2 * t->n_pos;
        buffer_need(be, &t->table, (size_t)(2 * n * half) * sizeof(float));
        float *table = (float *)(void *)t->table.p;
        AngleJob job = {freq, half, table, table + n * half};
        cpu_rows(be, n, half, 16, angles_rows, &job);
        t->n_pos = n;
    }
    const float *table = (const float *)(const void *)t->table.p;
    return (Angles){table, table + t->n_pos * half};
}

/* -- life -----------------------------------------------------------------------------------------------------------
 */

static bool cpu_open(Backend *be, int device, const char *isa, Error *err) {
    (void)device;
    CHECK(be->pool, "cpu: no thread pool");
    const Isa *chosen = isa_choose(isa, err);
    if (!chosen) return false;
    Cpu *cpu = mem_alloc(sizeof *cpu);
    cpu->isa = chosen;
    be->op = chosen->op;
    be->real = DTYPE_F32;
    be->exact = true;
    be->recompute_cheap = true;
    be->panels = true;
    be->impl = cpu;
    return true;
}

static void cpu_close(Backend *be) {
    Cpu *cpu = be->impl;
    if (cpu->threads.p) be->mem.put(be->mem.ud, cpu->threads.p, cpu->threads.bytes);
    if (cpu->shared.p) be->mem.put(be->mem.ud, cpu->shared.p, cpu->shared.bytes);
    for (int i = 0; i < ANGLE_TABLES; i++) {
        AngleTable *t = &cpu->angles[i];
        if (t->table.p) be->mem.put(be->mem.ud, t->table.p, t->table.bytes);
        free(t->freq);
    }
    free(cpu);
}

enum { SPIN_STEPS = 1 << 20, SPIN_TILES = 16 };

typedef struct {
    SpinFn *spin;
    volatile float sum[SPIN_TILES];
} Spin;

static void spin_task(void *ud, int64_t tile, int thread) {
    (void)thread;
    Spin *s = ud;
    s->sum[tile] = s->spin(SPIN_STEPS);
}

static double cpu_spin(Backend *be) {
    const Isa *isa = ((const Cpu *)be->impl)->isa;
    Spin s = {.spin = be->dtype == DTYPE_BF16 ? isa->half->spin : isa->spin};
    pool_for(be->pool, SPIN_TILES, spin_task, &s);
    return 32.0 * SPIN_STEPS * SPIN_TILES;
}

static const char *cpu_isa(const Backend *be) {
    const Cpu *cpu = be->impl;
    return cpu->isa->name;
}

static const char *cpu_bits(const char *isa, DType dtype) {
    Error err = {0};
    const Isa *i = isa_choose(isa, &err); /* one that is not there fails when it is opened */
    return i && i->own_half && dtype == DTYPE_BF16 ? i->name : "";
}

const BackendProvider backend_cpu = {
    .name = "cpu", .open = cpu_open, .close = cpu_close, .isa = cpu_isa, .spin = cpu_spin, .bits = cpu_bits};
