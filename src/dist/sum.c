#include "dist/sum.h"

#include <stdlib.h>
#include <string.h>

static void add(void *to, const void *from, int64_t n, DType dtype) {
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

void sum_ranks(Comm *c, void *x, void *spare, int64_t n, DType dtype, const char *site) {
    int size = comm_size(c), me = comm_rank(c);
    if (size == 1 || n == 0) return;
    CHECK(dtype == DTYPE_F32 || dtype == DTYPE_F64, "a sum of %s", dtype_name(dtype));
    int64_t *part = mem_alloc(2 * (size_t)size * sizeof *part), *mine = part + size;
    for (int q = 0; q < size; q++) part[q] = n * (q + 1) / size - n * q / size;
    for (int q = 0; q < size; q++) mine[q] = part[me];
    size_t step = (size_t)part[me] * dtype_bytes(dtype);
    comm_all_to_all(c, spare, mine, x, part, dtype, site);
    for (int q = 1; q < size; q++) add(spare, (unsigned char *)spare + (size_t)q * step, part[me], dtype);
    comm_all_gather(c, x, spare, part, dtype, site);
    free(part);
}
