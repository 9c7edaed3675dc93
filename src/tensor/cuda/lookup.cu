/* tensor/cuda/lookup.cu — rows by index.
 *
 * Sums into rows that repeat: the host sorts the indices (they are its own), rows together and in ascending order
 * within each, and cuts a row's list into parts of at most PART. A block adds up a part for a stretch of columns; a row
 * of one part gets it at once, others through scratch, part by part in order. Nothing depends on which block came
 * first. */
#include "tensor/cuda/rows.h"

#include <stdlib.h>

namespace {

enum { GATHER_THREADS = 256, ADD_THREADS = 128, PART = 64 };

/* -- one row for one
 * --------------------------------------------------------------------------------------------------- */

struct MoveArgs {
    void *y;
    const void *x;
    const int32_t *to, *from; /* rows of y and x, or NULL: the same */
    int64_t ld_y, ld_x;
    unsigned n, per_row; /* units */
};

template <class Unit> __global__ void __launch_bounds__(GATHER_THREADS) move_kernel(MoveArgs a) {
    enum { U = 4 };
    release_next();
    await_inputs();
    Unit v[U];
    unsigned first = blockIdx.x * (U * GATHER_THREADS) + threadIdx.x, row[U], col[U];
    UNROLL for (int u = 0; u < U; u++) {
        unsigned i = first + u * GATHER_THREADS;
        row[u] = i / a.per_row, col[u] = i - row[u] * a.per_row;
        if (i >= a.n) continue;
        v[u] = ((const Unit *)a.x)[(a.from ? a.from[row[u]] : (int64_t)row[u]) * a.ld_x + col[u]];
        if (a.to) row[u] = (unsigned)a.to[row[u]];
    }
    UNROLL for (int u = 0; u < U; u++) if (first + u * GATHER_THREADS < a.n)((Unit *)a.y)[row[u] * a.ld_y + col[u]] =
        v[u];
}

template <class Unit> void move_units(Backend *be, MoveArgs a, int64_t rows, int64_t row_bytes) {
    int64_t size = sizeof(Unit);
    a.per_row = (unsigned)(row_bytes / size), a.ld_y /= size, a.ld_x /= size;
    CHECK(rows * (row_bytes / size) < INT32_MAX, "moving %lld rows of %lld bytes", (long long)rows,
          (long long)row_bytes);
    a.n = (unsigned)rows * a.per_row;
    LAUNCH_EARLY(be, move_kernel<Unit>, (unsigned)div_up(a.n, 4 * GATHER_THREADS), GATHER_THREADS, 0, a);
}

/* y[to[i]] = x[from[i]] for `rows` rows, of one dtype. */
void move_rows(Backend *be, Tensor y, Tensor x, const int32_t *to, const int32_t *from, int64_t rows) {
    int64_t size = (int64_t)dtype_bytes(y.dtype), width = y.cols * size;
    MoveArgs a = {y.data, x.data, to, from, y.ld * size, x.ld * size, 0, 0};
    uintptr_t all = (uintptr_t)a.y | (uintptr_t)a.x | (uintptr_t)width;
    if (y.rows > 1) all |= (uintptr_t)a.ld_y;
    if (x.rows > 1) all |= (uintptr_t)a.ld_x;
    if (all % 16 == 0)
        move_units<uint4>(be, a, rows, width);
    else if (all % 4 == 0)
        move_units<uint32_t>(be, a, rows, width);
    else
        move_units<uint16_t>(be, a, rows, width);
}

/* y[i] = (ADD ? y[i] : 0) + w[idx[i]], where y and w differ in dtype or are added */
template <bool ADD>
__global__ void __launch_bounds__(GATHER_THREADS)
    embed_kernel(Mat y, Mat w, const int32_t *idx, int64_t n, unsigned per_row, int64_t cols) {
    enum { U = 4 };
    release_next();
    await_inputs();
    float v[U][4], old[U][4];
    int64_t first = (int64_t)blockIdx.x * (U * GATHER_THREADS) + threadIdx.x, row[U], col[U];
    UNROLL for (int u = 0; u < U; u++) {
        int64_t i = first + u * GATHER_THREADS;
        row[u] = (unsigned)i / per_row, col[u] = (int64_t)((unsigned)i % per_row) * 4;
        if (i >= n) continue;
        mat_get<KIND_ANY, 4>(v[u], w, idx[row[u]] * w.ld + col[u], cols - col[u]);
        if (ADD) mat_get<KIND_ANY, 4>(old[u], y, row[u] * y.ld + col[u], cols - col[u]);
    }
    UNROLL for (int u = 0; u < U; u++) {
        if (first + u * GATHER_THREADS >= n) continue;
        UNROLL for (int q = 0; q < 4; q++) v[u][q] = ADD ? old[u][q] + v[u][q] : v[u][q];
        mat_put<KIND_ANY, 4>(y, row[u] * y.ld + col[u], v[u], cols - col[u]);
    }
}

/* -- sums into rows
 * ---------------------------------------------------------------------------------------------------- */

/* begin: (n_part + 1) into order; to: (n_part) a row of y, or -1 - slot; hot_first: (n_hot + 1) slots of row hot_row */
struct AddArgs {
    Mat y, x, slot; /* slot: (slots, cols) */
    const int32_t *order, *begin, *to, *hot_row, *hot_first;
    int64_t cols;
};

/* Adds the rows of x that order[at .. end) names; NULL: rows at .. end themselves. */
template <int U>
__device__ __forceinline__ void list_sum(float *sum, const Mat &x, const int32_t *order, int at, int end, int64_t col,
                                         int64_t cols) {
    for (; at < end; at += U) {
        float v[U][4];
        UNROLL for (int u = 0; u < U; u++) if (at + u < end)
            mat_get<KIND_ANY, 4>(v[u], x, (order ? order[at + u] : at + u) * x.ld + col, cols - col);
        UNROLL for (int u = 0; u < U; u++) UNROLL for (int q = 0; q < 4; q++) if (at + u < end) sum[q] += v[u][q];
    }
}

__global__ void __launch_bounds__(ADD_THREADS) add_parts_kernel(AddArgs a) {
    int64_t col = 4 * ((int64_t)blockIdx.y * ADD_THREADS + threadIdx.x), left = a.cols - col;
    if (left <= 0) return;
    int to = a.to[blockIdx.x];
    float sum[4] = {0, 0, 0, 0}, old[4];
    if (to >= 0) mat_get<KIND_ANY, 4>(old, a.y, to * a.y.ld + col, left);
    list_sum<4>(sum, a.x, a.order, a.begin[blockIdx.x], a.begin[blockIdx.x + 1], col, a.cols);
    UNROLL for (int q = 0; q < 4; q++) if (to >= 0) sum[q] += old[q];
    if (to >= 0)
        mat_put<KIND_ANY, 4>(a.y, to * a.y.ld + col, sum, left);
    else
        mat_put<KIND_ANY, 4>(a.slot, (-1 - to) * a.slot.ld + col, sum, left);
}

__global__ void __launch_bounds__(ADD_THREADS) add_slots_kernel(AddArgs a) {
    int64_t col = 4 * ((int64_t)blockIdx.y * ADD_THREADS + threadIdx.x), left = a.cols - col;
    if (left <= 0) return;
    int64_t to = a.hot_row[blockIdx.x] * a.y.ld + col;
    float sum[4] = {0, 0, 0, 0}, old[4];
    mat_get<KIND_ANY, 4>(old, a.y, to, left);
    list_sum<8>(sum, a.slot, NULL, a.hot_first[blockIdx.x], a.hot_first[blockIdx.x + 1], col, a.cols);
    UNROLL for (int q = 0; q < 4; q++) sum[q] += old[q];
    mat_put<KIND_ANY, 4>(a.y, to, sum, left);
}

/* -- host side
 * --------------------------------------------------------------------------------------------------------- */

/* What a sum into rows needs, in one array: order, begin, to, hot_row, hot_first. */
struct Plan {
    int32_t *all;
    int64_t n, n_part, n_hot, n_slot;
};

int64_t plan_begin(const Plan *p) { return p->n; }
int64_t plan_to(const Plan *p) { return plan_begin(p) + p->n_part + 1; }
int64_t plan_hot_row(const Plan *p) { return plan_to(p) + p->n_part; }
int64_t plan_hot_first(const Plan *p) { return plan_hot_row(p) + p->n_hot; }
int64_t plan_end(const Plan *p) { return plan_hot_first(p) + p->n_hot + 1; }

/* Numbers of rows by ascending row, equal ones in their order: by counting, where there are not many more rows than
 * numbers, else a radix sort, least digit first. order, spare: (n) */
void count_rows(int32_t *order, const int32_t *row, int64_t n, int64_t limit) {
    int32_t *at = (int32_t *)mem_alloc((size_t)(limit + 1) * sizeof *at), sum = 0;
    for (int64_t i = 0; i < n; i++) at[row[i]]++;
    for (int64_t r = 0; r < limit; r++) {
        int32_t here = at[r];
        at[r] = sum, sum += here;
    }
    for (int64_t i = 0; i < n; i++) order[at[row[i]]++] = (int32_t)i;
    free(at);
}

void sort_rows(int32_t *order, int32_t *spare, const int32_t *row, int64_t n, int64_t limit) {
    enum { BITS = 11, DIGITS = 1 << BITS, FEW_ROWS_EACH = 8 };
    if (limit <= FEW_ROWS_EACH * n) {
        count_rows(order, row, n, limit);
        return;
    }
    for (int64_t i = 0; i < n; i++) order[i] = (int32_t)i;
    for (int shift = 0; shift < 31 && (limit - 1) >> shift > 0; shift += BITS) {
        int64_t at[DIGITS + 1] = {0};
        for (int64_t i = 0; i < n; i++) at[((row[order[i]] >> shift) & (DIGITS - 1)) + 1]++;
        for (int d = 0; d < DIGITS; d++) at[d + 1] += at[d];
        for (int64_t i = 0; i < n; i++) spare[at[(row[order[i]] >> shift) & (DIGITS - 1)]++] = order[i];
        memcpy(order, spare, (size_t)n * sizeof *order);
    }
}

/* End of the list of the row that order[i] belongs to. */
int64_t list_end(const int32_t *order, const int32_t *row, int64_t n, int64_t i) {
    int64_t end = i + 1;
    while (end < n && row[order[end]] == row[order[i]]) end++;
    return end;
}

void plan_make(Plan *p, const int32_t *row, int64_t n, int64_t limit) {
    *p = (Plan){};
    p->n = n;
    p->all = (int32_t *)mem_alloc((size_t)(5 * n + 2) * sizeof *p->all);
    int32_t *order = p->all;
    sort_rows(order, order + n, row, n, limit);
    for (int64_t i = 0, end; i < n; i = end) {
        end = list_end(order, row, n, i);
        int64_t parts = div_up(end - i, PART);
        p->n_part += parts;
        if (parts > 1) p->n_hot++, p->n_slot += parts;
    }
    int32_t *begin = order + plan_begin(p), *to = order + plan_to(p), *hot_row = order + plan_hot_row(p);
    int32_t *hot_first = order + plan_hot_first(p), part = 0, hot = 0, slot = 0;
    for (int64_t i = 0, end; i < n; i = end) {
        end = list_end(order, row, n, i);
        bool single = end - i <= PART;
        if (!single) hot_row[hot] = row[order[i]], hot_first[hot++] = slot;
        for (int64_t k = i; k < end; k += PART, part++) {
            begin[part] = (int32_t)k;
            to[part] = single ? row[order[i]] : -1 - slot++;
        }
    }
    begin[part] = (int32_t)n;
    hot_first[hot] = slot;
}

void add_rows(Backend *be, Tensor y, Tensor x, const int32_t *row) {
    Plan p;
    plan_make(&p, row, x.rows, y.rows);
    AddArgs a = {};
    a.y = mat_of(y, 4), a.x = mat_of(x, 4), a.cols = x.cols;
    void *slot = cuda_scratch(be, (size_t)(p.n_slot * x.cols) * sizeof(float));
    a.slot = mat_of(tensor_over(slot, DTYPE_F32, p.n_slot, x.cols), 4);
    const int32_t *all = cuda_index(be, p.all, plan_end(&p));
    a.order = all, a.begin = all + plan_begin(&p), a.to = all + plan_to(&p);
    a.hot_row = all + plan_hot_row(&p), a.hot_first = all + plan_hot_first(&p);
    unsigned stretches = (unsigned)div_up(x.cols, 4 * ADD_THREADS);
    LAUNCH(be, add_parts_kernel, dim3((unsigned)p.n_part, stretches), ADD_THREADS, 0, a);
    if (p.n_hot > 0) LAUNCH(be, add_slots_kernel, dim3((unsigned)p.n_hot, stretches), ADD_THREADS, 0, a);
    free(p.all);
}

void check_moved(const char *op, Tensor y, Tensor x) {
    cuda_check(op, "x", x, x.rows, y.cols, CUDA_ANY);
    cuda_check(op, "y", y, y.rows, x.cols, CUDA_ANY);
    CHECK(x.dtype == y.dtype, "%s: x is %s, y is %s", op, dtype_name(x.dtype), dtype_name(y.dtype));
}

} // namespace

extern "C" void cuda_embed_fwd(Backend *be, Tensor y, Tensor w, const int32_t *idx, bool add) {
    cuda_check("embed_fwd", "y", y, y.rows, y.cols, CUDA_ANY);
    cuda_check("embed_fwd", "w", w, w.rows, y.cols, CUDA_ANY);
    check_index("embed_fwd", idx, y.rows, w.rows);
    if (tensor_empty(y)) return;
    const int32_t *at = cuda_index(be, idx, y.rows);
    if (!add && y.dtype == w.dtype) {
        move_rows(be, y, w, NULL, at, y.rows);
        return;
    }
    int64_t per_row = div_up(y.cols, 4), n = y.rows * per_row;
    CHECK(n < INT32_MAX, "embed_fwd: %lld rows of %lld columns", (long long)y.rows, (long long)y.cols);
    unsigned grid = (unsigned)div_up(n, 4 * GATHER_THREADS);
    Mat to = mat_of(y, 4), from = mat_of(w, 4);
    if (add)
        LAUNCH_EARLY(be, embed_kernel<true>, grid, GATHER_THREADS, 0, to, from, at, n, (unsigned)per_row, y.cols);
    else
        LAUNCH_EARLY(be, embed_kernel<false>, grid, GATHER_THREADS, 0, to, from, at, n, (unsigned)per_row, y.cols);
}

extern "C" void cuda_gather_rows(Backend *be, Tensor y, Tensor x, const int32_t *row) {
    check_moved("gather_rows", y, x);
    check_index("gather_rows", row, y.rows, x.rows);
    if (!tensor_empty(y)) move_rows(be, y, x, NULL, cuda_index(be, row, y.rows), y.rows);
}

extern "C" void cuda_scatter_rows(Backend *be, Tensor y, Tensor x, const int32_t *row) {
    check_moved("scatter_rows", y, x);
    check_index("scatter_rows", row, x.rows, y.rows);
    if (!tensor_empty(x)) move_rows(be, y, x, cuda_index(be, row, x.rows), NULL, x.rows);
}

extern "C" void cuda_scatter_add_rows(Backend *be, Tensor y_acc, Tensor x, const int32_t *row) {
    cuda_check("scatter_add_rows", "x", x, x.rows, y_acc.cols, CUDA_ANY);
    cuda_check("scatter_add_rows", "y", y_acc, y_acc.rows, x.cols, CUDA_ANY);
    check_index("scatter_add_rows", row, x.rows, y_acc.rows);
    if (!tensor_empty(x)) add_rows(be, y_acc, x, row);
}

extern "C" void cuda_embed_bwd(Backend *be, Tensor dw_acc, Tensor dy, const int32_t *idx) {
    cuda_check("embed_bwd", "dw", dw_acc, dw_acc.rows, dy.cols, CUDA_REAL);
    cuda_check("embed_bwd", "dy", dy, dy.rows, dw_acc.cols, CUDA_ANY);
    check_index("embed_bwd", idx, dy.rows, dw_acc.rows);
    if (!tensor_empty(dy)) add_rows(be, dw_acc, dy, idx);
}
