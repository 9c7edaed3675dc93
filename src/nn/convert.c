#include "nn/convert.h"

#include <math.h>
#include <string.h>

#include "base/error.h"

static const struct {
    const char *name;
    size_t bytes;
} elements[ELEM_COUNT] = {
#define X(name, bytes) {#name, bytes},
    ELEMENTS(X)
#undef X
};

Element element_of(const char *dtype) {
    int e = 0;
    while (e < ELEM_COUNT && strcmp(elements[e].name, dtype) != 0) e++;
    return (Element)e;
}

const char *element_name(Element e) { return elements[e].name; }

size_t element_bytes(Element e) { return elements[e].bytes; }

static uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Exponent and fraction go where a float has them and the difference of the two biases is multiplied in, which is exact
 * for subnormal halves too; infinities and NaN get the largest exponent. */
static float half_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13;
    float f = float_of(rest) * 0x1p112f;
    uint32_t u = bits_of(f) | (rest >= 0x0f800000u ? 0x7f800000u : 0);
    return float_of(u | sign);
}

static uint16_t float_half(float f) {
    uint32_t u = bits_of(f), sign = u >> 16 & 0x8000;
    u &= 0x7fffffff;
    if (u > 0x7f800000u) return (uint16_t)(sign | 0x7e00);
    if (u >= 0x477ff000u) return (uint16_t)(sign | 0x7c00); /* 65520 and more */
    if (u < 0x38800000u) {                                  /* below 2^-14: as a sum that rounds at 2^-24 */
        float g = float_of(u) + 0.5f;
        return (uint16_t)(sign | (bits_of(g) - 0x3f000000u));
    }
    return (uint16_t)(sign | (u - 0x38000000u + 0xfff + (u >> 13 & 1)) >> 13);
}

static uint16_t float_bf16(float f) {
    uint32_t u = bits_of(f);
    if ((u & 0x7fffffff) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

#define LOAD_AS(type, value)                                                                                           \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
        type v;                                                                                                        \
        memcpy(&v, in + i * (int64_t)sizeof v, sizeof v);                                                              \
        out[i] = value;                                                                                                \
    }                                                                                                                  \
    break

void element_load(float *out, const unsigned char *in, Element e, int64_t n) {
    switch (e) {
    case ELEM_F32:
        memcpy(out, in, (size_t)n * sizeof *out);
        break;
    case ELEM_BF16:
        LOAD_AS(uint16_t, float_of((uint32_t)v << 16));
    case ELEM_F16:
        LOAD_AS(uint16_t, half_float(v));
    case ELEM_F64:
        LOAD_AS(double, (float)v);
    case ELEM_I64:
        LOAD_AS(int64_t, (float)v);
    case ELEM_U64:
        LOAD_AS(uint64_t, (float)v);
    case ELEM_I32:
        LOAD_AS(int32_t, (float)v);
    case ELEM_U32:
        LOAD_AS(uint32_t, (float)v);
    case ELEM_I16:
        LOAD_AS(int16_t, (float)v);
    case ELEM_U16:
        LOAD_AS(uint16_t, (float)v);
    case ELEM_I8:
        LOAD_AS(int8_t, (float)v);
    case ELEM_U8:
        LOAD_AS(uint8_t, (float)v);
    case ELEM_BOOL:
        LOAD_AS(uint8_t, (float)(v != 0));
    case ELEM_COUNT:
        CHECK(false, "no element");
    }
}

int64_t element_store(unsigned char *out, const float *x, Element e, int64_t n) {
    int64_t lost = 0;
    if (e == ELEM_F32) {
        memcpy(out, x, (size_t)n * sizeof *x);
        return 0;
    }
    CHECK(e == ELEM_BF16 || e == ELEM_F16, "%s is not written", element_name(e));
    uint16_t infinite = e == ELEM_F16 ? 0x7c00 : 0x7f80;
    for (int64_t i = 0; i < n; i++) {
        uint16_t h = e == ELEM_F16 ? float_half(x[i]) : float_bf16(x[i]);
        lost += (h & 0x7fff) == infinite && isfinite(x[i]);
        memcpy(out + 2 * i, &h, sizeof h);
    }
    return lost;
}

void count_nonfinite(int64_t *n_nan, int64_t *n_inf, const float *x, int64_t n) {
    uint32_t any = 0; /* as one maximum: a loop without branches */
    for (int64_t i = 0; i < n; i++) {
        uint32_t u = bits_of(x[i]) & 0x7fffffff;
        any = u > any ? u : any;
    }
    *n_nan = *n_inf = 0;
    if (any < 0x7f800000u) return;
    for (int64_t i = 0; i < n; i++) {
        *n_nan += isnan(x[i]) != 0;
        *n_inf += isinf(x[i]) != 0;
    }
}

void count_nonfinite_bf16(int64_t *n_nan, int64_t *n_inf, const unsigned char *in, int64_t n) {
    int16_t any = 0;
    for (int64_t i = 0; i < n; i++) {
        int16_t v;
        memcpy(&v, in + 2 * i, sizeof v);
        v &= 0x7fff;
        any = v > any ? v : any;
    }
    if (any < 0x7f80) return;
    for (int64_t i = 0; i < n; i++) {
        uint16_t v;
        memcpy(&v, in + 2 * i, sizeof v);
        *n_nan += (v & 0x7fff) > 0x7f80;
        *n_inf += (v & 0x7fff) == 0x7f80;
    }
}
