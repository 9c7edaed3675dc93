/* tensor/cuda/elem.cu — elements that do not meet: copies, casts, sums of two, positions, activations; and quantize. */
#include "tensor/cuda/formulas.h"
#include "tensor/cuda/map.h"

#include <math.h>

/* -- copies: bytes, in the largest unit that addresses, strides and widths are multiples of
 * ---------------------------- */

namespace {

struct CopyArgs {
    void *y;
    const void *x; /* NULL: zeros are written */
    int64_t ld_y, ld_x, n;
    unsigned per_row; /* units; 0: all is one row */
};

template <class Unit> __global__ void __launch_bounds__(MAP_THREADS) copy_kernel(CopyArgs a) {
    enum { U = 4 };
    Unit v[U] = {};
    int64_t first = (int64_t)blockIdx.x * (U * MAP_THREADS) + threadIdx.x, row[U], col[U];
    UNROLL for (int u = 0; u < U; u++) {
        int64_t i = first + u * MAP_THREADS;
        row[u] = 0, col[u] = i;
        if (a.per_row) row[u] = (unsigned)i / a.per_row, col[u] = (unsigned)i % a.per_row;
        if (a.x && i < a.n) v[u] = ((const Unit *)a.x)[row[u] * a.ld_x + col[u]];
    }
    UNROLL for (int u = 0; u < U; u++) if (first + u * MAP_THREADS < a.n)((Unit *)a.y)[row[u] * a.ld_y + col[u]] = v[u];
}

template <class Unit> void copy_units(Backend *be, CopyArgs a, int64_t rows, size_t row_bytes) {
    int64_t size = sizeof(Unit), per_row = (int64_t)row_bytes / size;
    a.n = rows * per_row, a.per_row = rows > 1 ? (unsigned)per_row : 0;
    a.ld_y /= size, a.ld_x /= size;
    CHECK(rows == 1 || a.n < INT32_MAX, "copy: %lld rows of %zu bytes with gaps", (long long)rows, row_bytes);
    unsigned grid = (unsigned)div_up(a.n, 4 * MAP_THREADS);
    LAUNCH(be, copy_kernel<Unit>, grid, MAP_THREADS, 0, a);
}

/* x empty: zeros. */
void copy_bytes(Backend *be, Tensor y, Tensor x) {
    if (tensor_empty(y)) return;
    int64_t size = (int64_t)dtype_bytes(y.dtype), rows = y.rows, width = y.cols * size;
    CopyArgs a = {y.data, x.data, y.ld * size, x.ld * size, 0, 0};
    if (rows == 1 || (a.ld_y == width && (!x.data || a.ld_x == width))) {
        width *= rows, rows = 1;
        a.ld_y = a.ld_x = 0;
    }
    uintptr_t all = (uintptr_t)a.y | (uintptr_t)a.x | (uintptr_t)width | (uintptr_t)a.ld_y | (uintptr_t)a.ld_x;
    if (all % 16 == 0)
        copy_units<uint4>(be, a, rows, (size_t)width);
    else if (all % 4 == 0)
        copy_units<uint32_t>(be, a, rows, (size_t)width);
    else if (all % 2 == 0)
        copy_units<uint16_t>(be, a, rows, (size_t)width);
    else
        copy_units<uint8_t>(be, a, rows, (size_t)width);
}

void check_plain(const char *op, const char *what, Tensor t) {
    if (tensor_empty(t)) return;
    CHECK(t.data && t.ld >= t.cols && !t.panels, "%s: %s has data %s, ld %lld%s", op, what, t.data ? "set" : "NULL",
          (long long)t.ld, t.panels ? ", panels" : "");
}

} // namespace

extern "C" void cuda_zero(Backend *be, Tensor y) {
    check_plain("zero", "y", y);
    copy_bytes(be, y, (Tensor){});
}

extern "C" void cuda_copy(Backend *be, Tensor y, Tensor x) {
    CHECK(tensor_same_shape(x, y) && x.dtype == y.dtype, "copy: x and y differ in shape or dtype");
    check_plain("copy", "y", y);
    check_plain("copy", "x", x);
    copy_bytes(be, y, x);
}

/* -- casts
 * ------------------------------------------------------------------------------------------------------------- */

namespace {

struct Same {
    __device__ void operator()(float *y, const float *x) const { y[0] = x[0]; }
};

enum { NARROW_THREADS = 256 };

/* y is the BF16 view of x's own rows. A block has a row, step by step from the front: what a step writes is the memory
 * of elements that this and earlier steps have read. Not wide: single elements, side by side over the threads. */
template <bool WIDE> __global__ void __launch_bounds__(NARROW_THREADS) narrow_kernel(Mat y, Mat x, int64_t cols) {
    const float *from = (const float *)x.data + blockIdx.x * x.ld;
    bf16_t *to = (bf16_t *)y.data + blockIdx.x * y.ld;
    enum { STEP = WIDE ? 1 : NARROW_THREADS }; /* between elements of a thread */
    for (int64_t base = 0; base < cols; base += 8 * NARROW_THREADS) {
        int64_t at = base + (WIDE ? 8 : 1) * threadIdx.x;
        float v[8];
        if (WIDE) row_get<8>(v, from + at, true, cols - at);
        UNROLL for (int q = 0; q < 8; q++) if (!WIDE && at + q * STEP < cols) v[q] = from[at + q * STEP];
        sync_block();
        if (WIDE) row_put<8>(to + at, v, true, cols - at);
        UNROLL for (int q = 0; q < 8; q++) if (!WIDE && at + q * STEP < cols) store(to + at + q * STEP, v[q]);
    }
}

} // namespace

extern "C" void cuda_cast(Backend *be, Tensor y, Tensor x) {
    cuda_check("cast", "x", x, y.rows, y.cols, CUDA_ANY);
    cuda_check("cast", "y", y, y.rows, y.cols, CUDA_ANY);
    if (tensor_empty(y)) return;
    if (y.dtype == x.dtype) {
        copy_bytes(be, y, x);
    } else if (y.data == x.data) {
        CHECK(y.dtype == DTYPE_BF16 && y.ld == 2 * x.ld, "cast: y and x share memory, but y is not tensor_narrow(x)");
        Mat to = mat_of(y, 8), from = mat_of(x, 8);
        if (to.wide && from.wide)
            LAUNCH(be, narrow_kernel<true>, (unsigned)y.rows, NARROW_THREADS, 0, to, from, y.cols);
        else
            LAUNCH(be, narrow_kernel<false>, (unsigned)y.rows, NARROW_THREADS, 0, to, from, y.cols);
    } else {
        map<1, 1>(be, {y}, {x}, Same());
    }
}

/* -- sums and products
 * ------------------------------------------------------------------------------------------------- */

namespace {

struct Add {
    __device__ void operator()(float *y, const float *x) const { y[0] = x[0] + x[1]; }
};

struct Scale {
    float a;
    __device__ void operator()(float *y, const float *x) const { y[0] = a * x[0]; }
};

} // namespace

extern "C" void cuda_add(Backend *be, Tensor y, Tensor a, Tensor b) {
    cuda_check("add", "y", y, y.rows, y.cols, CUDA_ANY);
    cuda_check("add", "a", a, y.rows, y.cols, CUDA_ANY);
    cuda_check("add", "b", b, y.rows, y.cols, CUDA_ANY);
    map<1, 2>(be, {y}, {a, b}, Add());
}

extern "C" void cuda_add_bias(Backend *be, Tensor y, Tensor x, Tensor b) {
    cuda_check("add_bias", "y", y, y.rows, y.cols, CUDA_ANY);
    cuda_check("add_bias", "x", x, y.rows, y.cols, CUDA_ANY);
    cuda_check("add_bias", "b", b, 1, y.cols, CUDA_REAL);
    map<1, 2>(be, {y}, {x, b}, Add());
}

extern "C" void cuda_scale(Backend *be, Tensor x, double a) {
    cuda_check("scale", "x", x, x.rows, x.cols, CUDA_REAL);
    map<1, 1>(be, {x}, {x}, Scale{(float)a});
}

/* -- dropout
 * ----------------------------------------------------------------------------------------------------------- */

namespace {

struct DropArgs {
    Mat y, x;
    int64_t n, cols, per_row; /* blocks of random numbers: all of them, and of a row */
    uint64_t row;
    uint32_t key[2], drop;
    float scale;
};

enum { DROP_THREADS = 256, DROP_BLOCK = 8 }; /* numbers of one block of Philox */

/* base/rng.c's, for a GPU. */
__device__ __forceinline__ void philox(uint32_t *c, uint32_t k0, uint32_t k1) {
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c[0], p1 = (uint64_t)0xCD9E8D57u * c[2];
        uint32_t c1 = c[1], c3 = c[3];
        c[0] = (uint32_t)(p1 >> 32) ^ c1 ^ k0, c[1] = (uint32_t)p1;
        c[2] = (uint32_t)(p0 >> 32) ^ c3 ^ k1, c[3] = (uint32_t)p0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
}

__global__ void __launch_bounds__(DROP_THREADS) dropout_kernel(DropArgs a) {
    int64_t block = (int64_t)blockIdx.x * DROP_THREADS + threadIdx.x;
    if (block >= a.n) return;
    int64_t i = block / a.per_row, k = block % a.per_row;
    uint64_t item = a.row + (uint64_t)i;
    uint32_t c[4] = {(uint32_t)item, (uint32_t)(item >> 32), (uint32_t)k, 0};
    philox(c, a.key[0], a.key[1]);
    for (int q = 0; q < DROP_BLOCK && k * DROP_BLOCK + q < a.cols; q++) {
        int64_t j = k * DROP_BLOCK + q;
        bool falls = (c[q / 2] >> (q % 2 ? 16 : 0) & 0xffff) < a.drop;
        float v[1];
        mat_get<KIND_ANY, 1>(v, a.x, i * a.x.ld + j, 1);
        v[0] = falls ? 0.0f : v[0] * a.scale;
        mat_put<KIND_ANY, 1>(a.y, i * a.y.ld + j, v, 1);
    }
}

} // namespace

extern "C" void cuda_dropout(Backend *be, Tensor y, Tensor x, Dropout d) {
    cuda_check("dropout", "y", y, y.rows, y.cols, CUDA_ANY);
    cuda_check("dropout", "x", x, y.rows, y.cols, CUDA_ANY);
    CHECK(d.drop < 1 << 16 && x.dtype == y.dtype, "dropout: %u of 65536, from %s to %s", d.drop, dtype_name(x.dtype),
          dtype_name(y.dtype));
    if (tensor_empty(y)) return;
    DropArgs a;
    a.y = mat_of(y, 1), a.x = mat_of(x, 1);
    a.cols = y.cols, a.per_row = div_up(y.cols, DROP_BLOCK), a.n = y.rows * a.per_row;
    a.row = d.row, a.drop = d.drop, a.scale = (float)(65536.0 / (65536 - d.drop));
    a.key[0] = (uint32_t)d.rng.seed, a.key[1] = (uint32_t)(d.rng.seed >> 32) ^ d.rng.stream;
    LAUNCH(be, dropout_kernel, (unsigned)div_up(a.n, DROP_THREADS), DROP_THREADS, 0, a);
}

/* -- 8-bit weights
 * ----------------------------------------------------------------------------------------------------- */

namespace {

enum { QUANTIZE_THREADS = 256 };

/* A block has a row; the second reading finds it in a cache. */
__global__ void __launch_bounds__(QUANTIZE_THREADS)
    quantize_kernel(int8_t *y, int64_t ld_y, bool wide_y, float *scale, Mat x, int64_t cols) {
    __shared__ float at[QUANTIZE_THREADS / 32];
    const float *row = (const float *)x.data + blockIdx.x * x.ld;
    y += blockIdx.x * ld_y;
    float top = 0, v[4];
    for (int64_t col = 4 * threadIdx.x; col < cols; col += 4 * QUANTIZE_THREADS) {
        row_get<4>(v, row + col, x.wide, cols - col);
        UNROLL for (int q = 0; q < 4; q++) top = fmaxf(top, fabsf(v[q]));
    }
    top = block_max(top, at, QUANTIZE_THREADS / 32);
    float unit = top > 0 ? top / 127.0f : 1.0f;
    if (threadIdx.x == 0) scale[blockIdx.x] = unit;
    for (int64_t col = 4 * threadIdx.x; col < cols; col += 4 * QUANTIZE_THREADS) {
        row_get<4>(v, row + col, x.wide, cols - col);
        uint32_t four = 0;
        UNROLL for (int q = 0; q < 4; q++) four |= ((uint32_t)__float2int_rn(v[q] / unit) & 0xff) << (8 * q);
        if (wide_y && cols - col >= 4) {
            *(uint32_t *)(y + col) = four;
            continue;
        }
        UNROLL for (int q = 0; q < 4; q++) if (col + q < cols) y[col + q] = (int8_t)(four >> (8 * q));
    }
}

} // namespace

extern "C" void cuda_quantize(Backend *be, Tensor y, Tensor scale, Tensor x) {
    cuda_check("quantize", "x", x, y.rows, y.cols, CUDA_REAL);
    cuda_check("quantize", "scale", scale, 1, y.rows, CUDA_REAL);
    CHECK(y.dtype == DTYPE_I8, "quantize: y is %s, expected I8", dtype_name(y.dtype));
    check_plain("quantize", "y", y);
    if (tensor_empty(y)) return;
    LAUNCH(be, quantize_kernel, (unsigned)y.rows, QUANTIZE_THREADS, 0, (int8_t *)y.data, y.ld,
           rows_aligned(y.data, y.rows, y.ld, 1, 4), (float *)scale.data, mat_of(x, 4), y.cols);
}

/* -- positions
 * --------------------------------------------------------------------------------------------------------- */

namespace {

enum { ROPE_THREADS = 256 };

struct RopeArgs {
    void *x;
    int64_t ld, n;
    const int32_t *pos;
    const double *freq;
    int half, n_head, n_group, n_piece; /* groups of heads a row, pieces of half a head */
    float sign;                         /* of the sine */
};

/* A thread has N angles of a row and turns them in HEADS heads. */
template <typename T, int N, int HEADS> __global__ void __launch_bounds__(ROPE_THREADS) rope_kernel(RopeArgs r) {
    unsigned i = blockIdx.x * ROPE_THREADS + threadIdx.x, rest = i / (unsigned)r.n_piece;
    if (i >= r.n) return;
    int j = (int)(i - rest * (unsigned)r.n_piece) * N;
    int64_t row = rest / (unsigned)r.n_group;
    int head = (int)(rest % (unsigned)r.n_group) * HEADS;
    T *x = (T *)r.x + row * r.ld + (int64_t)head * 2 * r.half + j;
    float a[HEADS][N], b[HEADS][N], s[N], c[N];
    UNROLL for (int h = 0; h < HEADS; h++) if (head + h < r.n_head) {
        row_get<N>(a[h], x + (int64_t)h * 2 * r.half, N > 1, N);
        row_get<N>(b[h], x + (int64_t)h * 2 * r.half + r.half, N > 1, N);
    }
    double pos = (double)r.pos[row];
    UNROLL for (int q = 0; q < N; q++) {
        sine_cosine(pos * r.freq[j + q], &s[q], &c[q]);
        s[q] *= r.sign;
    }
    UNROLL for (int h = 0; h < HEADS; h++) if (head + h < r.n_head) {
        float y1[N], y2[N];
        UNROLL for (int q = 0; q < N; q++) {
            y1[q] = a[h][q], y2[q] = b[h][q];
            turn_pair(&y1[q], &y2[q], s[q], c[q]);
        }
        row_put<N>(x + (int64_t)h * 2 * r.half, y1, N > 1, N);
        row_put<N>(x + (int64_t)h * 2 * r.half + r.half, y2, N > 1, N);
    }
}

template <typename T, int N, int HEADS> void rope_launch(Backend *be, RopeArgs r, int64_t rows) {
    r.n_group = (int)div_up(r.n_head, HEADS);
    r.n_piece = r.half / N;
    r.n = rows * r.n_group * r.n_piece;
    CHECK(r.n < INT32_MAX, "rope: %lld rows of %d heads", (long long)rows, r.n_head);
    LAUNCH(be, (rope_kernel<T, N, HEADS>), (unsigned)div_up(r.n, ROPE_THREADS), ROPE_THREADS, 0, r);
}

} // namespace

extern "C" void cuda_rope(Backend *be, Tensor x, const int32_t *pos, const double *freq, int d_head, bool inverse) {
    cuda_check("rope", "x", x, x.rows, x.cols, CUDA_ANY);
    CHECK(d_head > 0 && d_head % 2 == 0 && x.cols % d_head == 0, "rope: %lld columns, d_head %d", (long long)x.cols,
          d_head);
    if (tensor_empty(x)) return;
    RopeArgs r = {};
    r.x = x.data, r.ld = x.ld, r.half = d_head / 2, r.n_head = (int)(x.cols / d_head), r.sign = inverse ? -1.0f : 1.0f;
    r.pos = cuda_index(be, pos, x.rows);
    r.freq = cuda_doubles(be, freq, r.half);
    bool half = x.dtype == DTYPE_BF16, wide = rows_aligned(x.data, x.rows, x.ld, dtype_bytes(x.dtype), 16);
    wide = wide && r.half % (half ? 8 : 4) == 0;
    if (half && wide)
        rope_launch<bf16_t, 8, 2>(be, r, x.rows);
    else if (half)
        rope_launch<bf16_t, 1, 2>(be, r, x.rows);
    else if (wide)
        rope_launch<float, 4, 4>(be, r, x.rows);
    else
        rope_launch<float, 1, 4>(be, r, x.rows);
}

namespace {

/* Rotation of q and k and the way of k and v into the cache, for decoding: one launch for four. */
struct RopeKv {
    RopeArgs q, k; /* n of both: threads */
    void *v, *kc, *vc;
    int64_t ld_v, ld_kc, ld_vc, n_v; /* n_v: threads that copy */
    const int32_t *kv_row;
};

/* Thread i of r.n: one piece of both halves of one head; to: a second place for the result, or NULL. */
template <typename T, int N>
__device__ __forceinline__ void rotate_piece(const RopeArgs &r, int64_t i, T *to, int64_t ld_to,
                                             const int32_t *to_row) {
    int j = (int)(i % r.n_piece) * N, head = (int)(i / r.n_piece % r.n_head);
    int64_t row = i / r.n_piece / r.n_head, at = (int64_t)head * 2 * r.half + j;
    T *x = (T *)r.x + row * r.ld + at;
    float a[N], b[N], y1[N], y2[N];
    row_get<N>(a, x, N > 1, N);
    row_get<N>(b, x + r.half, N > 1, N);
    double pos = (double)r.pos[row];
    UNROLL for (int q = 0; q < N; q++) {
        float s, c;
        sine_cosine(pos * r.freq[j + q], &s, &c);
        y1[q] = a[q], y2[q] = b[q];
        turn_pair(&y1[q], &y2[q], s, c);
    }
    row_put<N>(x, y1, N > 1, N);
    row_put<N>(x + r.half, y2, N > 1, N);
    if (!to) return;
    to += to_row[row] * ld_to + at;
    row_put<N>(to, y1, N > 1, N);
    row_put<N>(to + r.half, y2, N > 1, N);
}

template <typename T, int N> __global__ void __launch_bounds__(ROPE_THREADS) rope_kv_kernel(RopeKv a) {
    release_next();
    await_inputs();
    int64_t i = (int64_t)blockIdx.x * ROPE_THREADS + threadIdx.x;
    if (i < a.q.n) {
        rotate_piece<T, N>(a.q, i, (T *)NULL, 0, NULL);
        return;
    }
    i -= a.q.n;
    if (i < a.k.n) {
        rotate_piece<T, N>(a.k, i, (T *)a.kc, a.ld_kc, a.kv_row);
        return;
    }
    i -= a.k.n;
    if (i >= a.n_v) return;
    int64_t per_row = (int64_t)a.k.n_head * 2 * a.k.n_piece, row = i / per_row, col = i % per_row * N;
    float x[N];
    row_get<N>(x, (const T *)a.v + row * a.ld_v + col, N > 1, N);
    row_put<N>((T *)a.vc + a.kv_row[row] * a.ld_vc + col, x, N > 1, N);
}

RopeArgs rope_args(Backend *be, Tensor x, const int32_t *pos, const double *freq, int d_head, int n) {
    RopeArgs r = {};
    r.x = x.data, r.ld = x.ld, r.half = d_head / 2, r.n_head = (int)(x.cols / d_head), r.sign = 1.0f;
    r.pos = cuda_index(be, pos, x.rows);
    r.freq = cuda_doubles(be, freq, r.half);
    r.n_piece = r.half / n;
    r.n = x.rows * r.n_head * r.n_piece;
    return r;
}

template <typename T, int N> void rope_kv_launch(Backend *be, RopeKv a) {
    LAUNCH_EARLY(be, (rope_kv_kernel<T, N>), (unsigned)div_up(a.q.n + a.k.n + a.n_v, ROPE_THREADS), ROPE_THREADS, 0, a);
}

} // namespace

extern "C" void cuda_rope_kv(Backend *be, Tensor q, Tensor k, Tensor v, Tensor kc, Tensor vc, const int32_t *kv_row,
                             const int32_t *pos, const double *freq, int d_head) {
    const Tensor all[] = {q, k, v, kc, vc};
    bool half = q.dtype == DTYPE_BF16, wide = d_head / 2 % (half ? 8 : 4) == 0;
    for (int i = 0; i < COUNT_OF(all); i++) {
        CHECK(all[i].dtype == q.dtype && all[i].cols == (i ? k.cols : q.cols) && (i > 2 || all[i].rows == q.rows),
              "rope_kv: tensor %d is %s (%lld, %lld)", i, dtype_name(all[i].dtype), (long long)all[i].rows,
              (long long)all[i].cols);
        wide = wide && rows_aligned(all[i].data, all[i].rows, all[i].ld, dtype_bytes(q.dtype), 16);
    }
    CHECK(d_head > 0 && d_head % 2 == 0 && q.cols % d_head == 0 && k.cols % d_head == 0, "rope_kv: d_head %d", d_head);
    if (tensor_empty(q)) return;
    int n = !wide ? 1 : half ? 8 : 4;
    RopeKv a = {};
    a.q = rope_args(be, q, pos, freq, d_head, n), a.k = rope_args(be, k, pos, freq, d_head, n);
    a.v = v.data, a.kc = kc.data, a.vc = vc.data, a.ld_v = v.ld, a.ld_kc = kc.ld, a.ld_vc = vc.ld;
    a.n_v = v.rows * v.cols / n;
    a.kv_row = cuda_index(be, kv_row, k.rows);
    if (half && wide)
        rope_kv_launch<bf16_t, 8>(be, a);
    else if (half)
        rope_kv_launch<bf16_t, 1>(be, a);
    else if (wide)
        rope_kv_launch<float, 4>(be, a);
    else
        rope_kv_launch<float, 1>(be, a);
}

/* -- activations
 * ------------------------------------------------------------------------------------------------------- */

namespace {

struct SwigluFwd {
    __device__ void operator()(float *y, const float *x) const { y[0] = swiglu(x[0], x[1]); }
};

struct SwigluBwd { /* of dy, gate, up */
    __device__ void operator()(float *y, const float *x) const {
        float g = x[1], s = sigmoid(g), ds = x[0] * s;
        y[0] = ds * x[2] * fmaf(g, 1.0f - s, 1.0f);
        y[1] = ds * g;
    }
};

/* (1 + tanh z)/2 = sigmoid(2z). Both kinds: y = x phi(x), dy/dx = phi + x phi'. */
template <int KIND> __device__ __forceinline__ float gelu_phi(float x) {
    if (KIND == GELU_ERF) return fmaf(0.5f, erff(x * 0.707106781f), 0.5f);
    return sigmoid(fmaf(x * x * x, 0.0713548163f, x * 1.59576912f));
}

template <int KIND> struct GeluFwd {
    __device__ void operator()(float *y, const float *x) const { y[0] = x[0] * gelu_phi<KIND>(x[0]); }
};

template <int KIND> struct GeluBwd { /* of dy, x */
    __device__ void operator()(float *y, const float *in) const {
        float x = in[1], phi = gelu_phi<KIND>(x), slope;
        if (KIND == GELU_ERF)
            slope = 0.398942280f * expf(-0.5f * (x * x));
        else
            slope = phi * (1.0f - phi) * fmaf(x * x, 0.214064449f, 1.59576912f);
        y[0] = in[0] * fmaf(x, slope, phi);
    }
};

} // namespace

extern "C" void cuda_swiglu_fwd(Backend *be, Tensor y, Tensor gate, Tensor up) {
    cuda_check("swiglu_fwd", "y", y, y.rows, y.cols, CUDA_ANY);
    cuda_check("swiglu_fwd", "gate", gate, y.rows, y.cols, CUDA_ANY);
    cuda_check("swiglu_fwd", "up", up, y.rows, y.cols, CUDA_ANY);
    map<1, 2>(be, {y}, {gate, up}, SwigluFwd());
}

extern "C" void cuda_swiglu_bwd(Backend *be, Tensor dgate, Tensor dup, Tensor dy, Tensor gate, Tensor up) {
    cuda_check("swiglu_bwd", "dgate", dgate, dy.rows, dy.cols, CUDA_ANY);
    cuda_check("swiglu_bwd", "dup", dup, dy.rows, dy.cols, CUDA_ANY);
    cuda_check("swiglu_bwd", "dy", dy, dy.rows, dy.cols, CUDA_ANY);
    cuda_check("swiglu_bwd", "gate", gate, dy.rows, dy.cols, CUDA_ANY);
    cuda_check("swiglu_bwd", "up", up, dy.rows, dy.cols, CUDA_ANY);
    map<2, 3>(be, {dgate, dup}, {dy, gate, up}, SwigluBwd());
}

extern "C" void cuda_gelu_fwd(Backend *be, Tensor y, Tensor x, GeluKind kind) {
    cuda_check("gelu_fwd", "y", y, y.rows, y.cols, CUDA_ANY);
    cuda_check("gelu_fwd", "x", x, y.rows, y.cols, CUDA_ANY);
    if (kind == GELU_ERF)
        map<1, 1>(be, {y}, {x}, GeluFwd<GELU_ERF>());
    else
        map<1, 1>(be, {y}, {x}, GeluFwd<GELU_TANH>());
}

extern "C" void cuda_gelu_bwd(Backend *be, Tensor dx, Tensor dy, Tensor x, GeluKind kind) {
    cuda_check("gelu_bwd", "dx", dx, dy.rows, dy.cols, CUDA_ANY);
    cuda_check("gelu_bwd", "dy", dy, dy.rows, dy.cols, CUDA_ANY);
    cuda_check("gelu_bwd", "x", x, dy.rows, dy.cols, CUDA_ANY);
    if (kind == GELU_ERF)
        map<1, 2>(be, {dx}, {dy, x}, GeluBwd<GELU_ERF>());
    else
        map<1, 2>(be, {dx}, {dy, x}, GeluBwd<GELU_TANH>());
}
