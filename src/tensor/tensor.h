/* tensor/tensor.h — a matrix view. Row-major; row i starts at data + i*ld elements, ld >= cols, so one head's columns and
 * one sequence's rows are views too. Owns nothing; passed by value. An empty Tensor (data NULL, rows 0) means "absent".
 *
 * Weight matrices of products may lie in panels instead (a backend says so, backend.h): PANEL_ROWS rows side by side, so
 * that a product reads a panel from its beginning to its end, at memory speed, with nothing to pack:
 *
 *      element (i, j) at ((i / PANEL_ROWS) * ld + j) * PANEL_ROWS + i % PANEL_ROWS;  rows behind the last are 0
 *      BF16: pairs of columns side by side, (i, j) at ((i / PANEL_ROWS) * ld + j - j % 2) * PANEL_ROWS
 *            + 2 * (i % PANEL_ROWS) + j % 2;  ld even, a column behind an odd last one is 0
 *
 * Such a tensor is seen as a matrix by linear_*, embed_*, tensor_get and tensor_set; for what works element by element it
 * is its storage, and tensors of one layout and shape agree on that. Views start at a multiple of PANEL_ROWS rows. */
#ifndef DIKAST_TENSOR_TENSOR_H
#define DIKAST_TENSOR_TENSOR_H

#include "base/arena.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { DTYPE_F32, DTYPE_F64, DTYPE_I32, DTYPE_BF16, DTYPE_I8, DTYPE_COUNT } DType;

enum { PANEL_ROWS = 16 };

typedef struct {
    void *data;
    int64_t rows, cols, ld;
    DType dtype;
    bool panels;
} Tensor;

size_t dtype_bytes(DType t);
const char *dtype_name(DType t);                                            /* safetensors' names: "F32" */
Tensor tensor_place(Arena *a, DType dtype, int64_t rows, int64_t cols);     /* ld = cols; contents undefined */
Tensor tensor_rows(Tensor t, int64_t first, int64_t count);
Tensor tensor_cols(Tensor t, int64_t first, int64_t count);
Tensor tensor_over(void *data, DType dtype, int64_t rows, int64_t cols);    /* view of contiguous memory */
/* A weight matrix, in panels or not; contents undefined. */
Tensor tensor_place_weight(Arena *a, DType dtype, int64_t rows, int64_t cols, bool panels);
/* What lies in memory, row-major: of panels one panel a row, of other tensors themselves. */
Tensor tensor_storage(Tensor t);
Tensor tensor_narrow(Tensor t);     /* BF16 over the rows of F32 t, each in the first half of its own memory */
static inline int64_t tensor_at(Tensor t, int64_t i, int64_t j) {   /* of element (i, j), in elements from data */
    if (!t.panels) return i * t.ld + j;
    if (t.dtype == DTYPE_BF16) return (i / PANEL_ROWS * t.ld + j - j % 2) * PANEL_ROWS + i % PANEL_ROWS * 2 + j % 2;
    return (i / PANEL_ROWS * t.ld + j) * PANEL_ROWS + i % PANEL_ROWS;
}
static inline bool tensor_empty(Tensor t) { return t.rows == 0 || t.cols == 0; }
static inline int64_t tensor_count(Tensor t) { return t.rows * t.cols; }
bool tensor_same_shape(Tensor a, Tensor b);

#ifdef __cplusplus
}
#endif

#endif
