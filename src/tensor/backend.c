#include "tensor/backend_int.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *name; /* also the name in its op table: how an open backend finds its row */
    bool (*open)(Backend *be, const char *isa, Error *err);
    void (*close)(Backend *be);
    const char *(*isa)(const Backend *be);
    double (*spin)(Backend *be); /* NULL: cannot */
} Provider;

static const Provider providers[] = {
    {"cpu", backend_cpu_open, backend_cpu_close, backend_cpu_isa, backend_cpu_spin},
    {"ref", backend_ref_open, backend_ref_close, backend_ref_isa, NULL},
};

static const Provider *find(const char *name) {
    for (int i = 0; i < COUNT_OF(providers); i++)
        if (strcmp(providers[i].name, name) == 0) return &providers[i];
    return NULL;
}

bool backend_open(Backend **out, const char *name, Pool *pool, const char *isa, Error *err) {
    *out = NULL;
    const Provider *p = find(name);
    if (!p) return error_set(err, ERR_CONFIG, "unknown backend '%s', expected cpu or ref", name);
    Backend *be = mem_alloc(sizeof *be);
    be->mem = mem_source_host();
    be->pool = pool;
    if (!p->open(be, isa, err)) {
        free(be);
        return error_wrap(err, "backend %s", name);
    }
    be->dtype = be->real;
    CHECK(find(be->op->name) == p, "backend '%s' calls itself '%s'", name, be->op->name);
    *out = be;
    return true;
}

bool backend_set_dtype(Backend *be, DType dtype, Error *err) {
    if (dtype != be->real && (dtype != DTYPE_BF16 || be->real != DTYPE_F32))
        return error_set(err, ERR_CONFIG, "backend %s: dtype %s is not supported, it computes in %s", be->op->name,
                         dtype_name(dtype), dtype_name(be->real));
    be->dtype = dtype;
    return true;
}

void backend_close(Backend *be) {
    if (!be) return;
    find(be->op->name)->close(be);
    free(be);
}

const char *backend_isa(const Backend *be) { return find(be->op->name)->isa(be); }

double backend_spin(Backend *be) {
    double (*spin)(Backend *) = find(be->op->name)->spin;
    return spin ? spin(be) : 0;
}

/* Both backends keep their tensors in host memory, so the way in and out is a loop; a device backend would add a copy
 * to its row of providers[]. */
static float bf16_float(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint16_t float_bf16(float f) { /* to nearest even; a NaN stays one */
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (f != f) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static double load(Tensor t, int64_t at) {
    switch (t.dtype) {
    case DTYPE_F32:
        return ((const float *)t.data)[at];
    case DTYPE_F64:
        return ((const double *)t.data)[at];
    case DTYPE_BF16:
        return bf16_float(((const uint16_t *)t.data)[at]);
    case DTYPE_I8:
        return ((const int8_t *)t.data)[at];
    default:
        return ((const int32_t *)t.data)[at];
    }
}

static void store(Tensor t, int64_t at, double v) {
    switch (t.dtype) {
    case DTYPE_F32:
        ((float *)t.data)[at] = (float)v;
        break;
    case DTYPE_F64:
        ((double *)t.data)[at] = v;
        break;
    case DTYPE_BF16:
        ((uint16_t *)t.data)[at] = float_bf16((float)v);
        break;
    case DTYPE_I8:
        ((int8_t *)t.data)[at] = (int8_t)v;
        break;
    default:
        ((int32_t *)t.data)[at] = (int32_t)v;
    }
}

void tensor_get(Backend *be, double *out, Tensor x) {
    (void)be;
    for (int64_t i = 0; i < x.rows; i++)
        for (int64_t j = 0; j < x.cols; j++) *out++ = load(x, tensor_at(x, i, j));
}

/* A view of whole panels that ends inside one owns that panel to its end. */
static void zero_padding(Tensor y) {
    if (!y.panels) return;
    int64_t cols = tensor_storage(y).cols / PANEL_ROWS, rows = tensor_storage(y).rows * PANEL_ROWS;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = i < y.rows ? y.cols : 0; j < cols; j++) store(y, tensor_at(y, i, j), 0);
}

void tensor_set(Backend *be, Tensor y, const double *in) {
    (void)be;
    for (int64_t i = 0; i < y.rows; i++)
        for (int64_t j = 0; j < y.cols; j++) store(y, tensor_at(y, i, j), *in++);
    zero_padding(y);
}

/* Rows of floats are copied: a sampler fetches its logits so. */
void tensor_get_f32(Backend *be, float *out, Tensor x) {
    (void)be;
    if (x.dtype == DTYPE_F32 && !x.panels) {
        for (int64_t i = 0; i < x.rows; i++, out += x.cols)
            memcpy(out, (const float *)x.data + i * x.ld, (size_t)x.cols * sizeof *out);
        return;
    }
    for (int64_t i = 0; i < x.rows; i++)
        for (int64_t j = 0; j < x.cols; j++) *out++ = (float)load(x, tensor_at(x, i, j));
}

void tensor_get_row(Backend *be, double *out, Tensor x, int64_t i) {
    (void)be;
    for (int64_t j = 0; j < x.cols; j++) *out++ = load(x, tensor_at(x, i, j));
}

void tensor_set_row(Backend *be, Tensor y, int64_t i, const double *in) {
    (void)be;
    for (int64_t j = 0; j < y.cols; j++) store(y, tensor_at(y, i, j), *in++);
}

/* Loading a model is this: a panel of floats stays in the first cache while its rows are written one after another. */
static void set_panels_f32(Tensor y, const float *in) {
    for (int64_t i = 0; i < y.rows; i++, in += y.cols) {
        float *to = (float *)y.data + tensor_at(y, i, 0);
        for (int64_t j = 0; j < y.cols; j++) to[j * PANEL_ROWS] = in[j];
    }
}

void tensor_set_f32(Backend *be, Tensor y, const float *in) {
    (void)be;
    if (y.panels && y.dtype == DTYPE_F32)
        set_panels_f32(y, in);
    else
        for (int64_t i = 0; i < y.rows; i++)
            for (int64_t j = 0; j < y.cols; j++) store(y, tensor_at(y, i, j), (double)*in++);
    zero_padding(y);
}
