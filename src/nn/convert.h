/* nn/convert.h — numbers as files hold them, to and from float. Little-endian, unaligned. */
#ifndef DIKAST_NN_CONVERT_H
#define DIKAST_NN_CONVERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* X(name as in safetensors, bytes) */
#define ELEMENTS(X)                                                                                                    \
    X(F32, 4) X(BF16, 2) X(F16, 2) X(F64, 8) X(I64, 8) X(U64, 8) X(I32, 4) X(U32, 4) X(I16, 2) X(U16, 2) X(I8, 1)     \
    X(U8, 1) X(BOOL, 1)
typedef enum {
#define X(name, bytes) ELEM_##name,
    ELEMENTS(X)
#undef X
    ELEM_COUNT
} Element;

Element element_of(const char *dtype);          /* ELEM_COUNT: none of these */
const char *element_name(Element e);
size_t element_bytes(Element e);
/* out[i] = element i of in, nearest float (F64 and wide integers are rounded). */
void element_load(float *out, const unsigned char *in, Element e, int64_t n);
/* Element i of out = x[i] rounded to nearest even; F32, BF16, F16 only. Returns how many finite x became infinite. */
int64_t element_store(unsigned char *out, const float *x, Element e, int64_t n);
/* How many of x are NaN, and how many infinite. */
void count_nonfinite(int64_t *n_nan, int64_t *n_inf, const float *x, int64_t n);
/* Adds how many of n BF16 values, as a file holds them. */
void count_nonfinite_bf16(int64_t *n_nan, int64_t *n_inf, const unsigned char *in, int64_t n);

#endif
