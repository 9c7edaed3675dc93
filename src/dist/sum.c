#include "dist/sum.h"

#include <stdlib.h>
#include <string.h>

void sum_add(void *to, const void *from, int64_t n, DType dtype) {
    if (dtype == DTYPE_F64) {
        double *a = to;
        const double *b = from;
        for (int64_t i = 0; i < n; i++) a[i] += b[i];
    } else {
        float *a = to;
        const float *b = from;
        for (int64_t i = 0; i < n; i++) a[i] += b[i];
    }
}

void sum_to_owners(Comm *c, void *out, const void *x, const int64_t *part, DType dtype, const char *site) {
    int size = comm_size(c), me = comm_rank(c);
    CHECK(dtype == DTYPE_F32 || dtype == DTYPE_F64, "a sum of %s", dtype_name(dtype));
    int64_t *mine = mem_alloc((size_t)size * sizeof *mine);
    for (int q = 0; q < size; q++) mine[q] = part[me];
    size_t step = (size_t)part[me] * dtype_bytes(dtype);
    comm_all_to_all(c, out, mine, x, part, dtype, site);
    for (int q = 1; q < size; q++) sum_add(out, (unsigned char *)out + (size_t)q * step, part[me], dtype);
    free(mine);
}

void sum_ranks(Comm *c, void *x, void *spare, int64_t n, DType dtype, const char *site) {
    int size = comm_size(c);
    if (size == 1 || n == 0) return;
    int64_t *part = mem_alloc((size_t)size * sizeof *part);
    for (int q = 0; q < size; q++) part[q] = n * (q + 1) / size - n * q / size;
    sum_to_owners(c, spare, x, part, dtype, site);
    comm_all_gather(c, x, spare, part, dtype, site);
    free(part);
}
