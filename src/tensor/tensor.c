#include "tensor/tensor.h"

size_t dtype_bytes(DType t) {
    static const size_t bytes[DTYPE_COUNT] = {[DTYPE_F32] = 4, [DTYPE_F64] = 8, [DTYPE_I32] = 4};
    CHECK(t >= 0 && t < DTYPE_COUNT, "dtype %d", (int)t);
    return bytes[t];
}

const char *dtype_name(DType t) {
    static const char *const name[DTYPE_COUNT] = {[DTYPE_F32] = "F32", [DTYPE_F64] = "F64", [DTYPE_I32] = "I32"};
    CHECK(t >= 0 && t < DTYPE_COUNT, "dtype %d", (int)t);
    return name[t];
}

/* On a measuring arena data is NULL but the shape is real, so the placing code runs the same way twice. */
Tensor tensor_place(Arena *a, DType dtype, int64_t rows, int64_t cols) {
    CHECK(rows >= 0 && cols >= 0, "%s: tensor of %lld x %lld", a->name, (long long)rows, (long long)cols);
    if (rows == 0 || cols == 0) return (Tensor){.dtype = dtype, .cols = cols, .ld = cols};
    CHECK((uint64_t)rows <= SIZE_MAX / dtype_bytes(dtype) / (uint64_t)cols, "%s: tensor of %lld x %lld overflows",
          a->name, (long long)rows, (long long)cols);
    return tensor_over(arena_alloc(a, (size_t)rows * (size_t)cols * dtype_bytes(dtype)), dtype, rows, cols);
}

Tensor tensor_over(void *data, DType dtype, int64_t rows, int64_t cols) {
    return (Tensor){.data = data, .rows = rows, .cols = cols, .ld = cols, .dtype = dtype};
}

static int64_t n_panel(int64_t rows) { return (rows + PANEL_ROWS - 1) / PANEL_ROWS; }

Tensor tensor_place_weight(Arena *a, DType dtype, int64_t rows, int64_t cols, bool panels) {
    if (!panels || rows == 0 || cols == 0) return tensor_place(a, dtype, rows, cols);
    CHECK(rows > 0 && cols > 0 && cols <= INT64_MAX / PANEL_ROWS, "%s: tensor of %lld x %lld", a->name, (long long)rows,
          (long long)cols);
    Tensor t = tensor_place(a, dtype, n_panel(rows), cols * PANEL_ROWS);
    return (Tensor){.data = t.data, .rows = rows, .cols = cols, .ld = cols, .dtype = dtype, .panels = true};
}

Tensor tensor_storage(Tensor t) {
    if (!t.panels) return t;
    t.rows = n_panel(t.rows);
    t.cols *= PANEL_ROWS;
    t.ld *= PANEL_ROWS;
    t.panels = false;
    return t;
}

/* Measured tensors have no address to move. */
static void *offset(Tensor t, int64_t elements) {
    return t.data ? (unsigned char *)t.data + (size_t)elements * dtype_bytes(t.dtype) : NULL;
}

Tensor tensor_rows(Tensor t, int64_t first, int64_t count) {
    CHECK(first >= 0 && count >= 0 && first <= t.rows - count, "rows [%lld, +%lld) of %lld", (long long)first,
          (long long)count, (long long)t.rows);
    CHECK(!t.panels || first % PANEL_ROWS == 0, "row %lld is inside a panel", (long long)first);
    t.data = offset(t, first * t.ld);
    t.rows = count;
    return t;
}

Tensor tensor_cols(Tensor t, int64_t first, int64_t count) {
    CHECK(first >= 0 && count >= 0 && first <= t.cols - count, "columns [%lld, +%lld) of %lld", (long long)first,
          (long long)count, (long long)t.cols);
    t.data = offset(t, t.panels ? first * PANEL_ROWS : first);
    t.cols = count;
    return t;
}

bool tensor_same_shape(Tensor a, Tensor b) { return a.rows == b.rows && a.cols == b.cols; }
