/* tensor/cuda/formulas.h — formulas of elementwise ops (elem.cu) that products apply to their own sums as well (few.cu): to the
 * same bits. For .cu files. */
#ifndef DIKAST_TENSOR_CUDA_FORMULAS_H
#define DIKAST_TENSOR_CUDA_FORMULAS_H

#include "tensor/cuda/launch.h"

/* The angle is a double; what is left of it after quarter turns are taken off fits a float. Taylor's series to the last
 * bit of a float on [-pi/4, pi/4]. */
__device__ __forceinline__ void sine_cosine(double a, float *s, float *c) {
    double k = rint(a * 0.63661977236758134308); /* 2/pi */
    double left = fma(-k, 1.57079632679489655800, a);
    left = fma(-k, 6.12323399573676603587e-17, left); /* pi/2 behind the double */
    int turn = (int)((long long)k & 3);
    float x = (float)left, z = x * x;
    float sine = fmaf(z, fmaf(z, fmaf(z, 2.75573192e-6f, -1.98412698e-4f), 8.33333333e-3f), -1.66666667e-1f);
    sine = fmaf(x * z, sine, x);
    float cosine = fmaf(z, fmaf(z, fmaf(z, -2.75573192e-7f, 2.48015873e-5f), -1.38888889e-3f), 4.16666667e-2f);
    cosine = fmaf(z * z, cosine, fmaf(-0.5f, z, 1.0f));
    *s = turn & 1 ? cosine : sine;
    *c = turn & 1 ? sine : cosine;
    if (turn & 2) *s = -*s;
    if ((turn + 1) & 2) *c = -*c;
}

/* (a, b) turned by the angle of that sine and cosine. */
__device__ __forceinline__ void turn_pair(float *a, float *b, float s, float c) {
    float x = *a, y = *b;
    *a = fmaf(x, c, -(y * s));
    *b = fmaf(y, c, x * s);
}

__device__ __forceinline__ float sigmoid(float x) { return rcp_approx(1.0f + expf(-x)); }

__device__ __forceinline__ float swiglu(float gate, float up) { return gate * sigmoid(gate) * up; }

#endif
