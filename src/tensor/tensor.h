/* tensor/tensor.h — a matrix view. Row-major; row i starts at data + i*ld elements, ld >= cols, so one head's columns and
 * one sequence's rows are views too. Owns nothing; passed by value. An empty Tensor (data NULL, rows 0) means "absent". */
#ifndef DIKAST_TENSOR_TENSOR_H
#define DIKAST_TENSOR_TENSOR_H

#include "base/arena.h"

typedef enum { DTYPE_F32, DTYPE_F64, DTYPE_I32, DTYPE_COUNT } DType;

typedef struct {
    void *data;
    int64_t rows, cols, ld;
    DType dtype;
} Tensor;

size_t dtype_bytes(DType t);
const char *dtype_name(DType t);                                            /* safetensors' names: "F32" */
Tensor tensor_place(Arena *a, DType dtype, int64_t rows, int64_t cols);     /* ld = cols; contents undefined */
Tensor tensor_rows(Tensor t, int64_t first, int64_t count);
Tensor tensor_cols(Tensor t, int64_t first, int64_t count);
Tensor tensor_over(void *data, DType dtype, int64_t rows, int64_t cols);    /* view of contiguous memory */
static inline bool tensor_empty(Tensor t) { return t.rows == 0 || t.cols == 0; }
static inline int64_t tensor_count(Tensor t) { return t.rows * t.cols; }
bool tensor_same_shape(Tensor a, Tensor b);

#endif
