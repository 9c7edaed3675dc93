#include "tensor/backend_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const BackendProvider *find(const char *name, size_t n) {
    for (const BackendProvider *const *p = backend_providers; *p; p++)
        if (strlen((*p)->name) == n && memcmp((*p)->name, name, n) == 0) return *p;
    return NULL;
}

static const BackendProvider *provider(const Backend *be) { return find(be->op->name, strlen(be->op->name)); }

void backend_names(char *out, size_t n, const char *sep) {
    size_t at = 0;
    *out = 0;
    for (const BackendProvider *const *p = backend_providers; *p && at < n; p++)
        if (!(*p)->absent) at += (size_t)snprintf(out + at, n - at, "%s%s", at ? sep : "", (*p)->name);
}

/* "cuda:1": the name's length, and the number; -1 without one. */
static bool split_name(const char *name, size_t *n, int *device) {
    const char *colon = strchr(name, ':');
    *n = colon ? (size_t)(colon - name) : strlen(name);
    *device = -1;
    if (!colon) return true;
    char *end;
    long v = strtol(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end || v > 1023) return false;
    *device = (int)v;
    return true;
}

bool backend_open(Backend **out, const char *name, Pool *pool, const char *isa, Error *err) {
    *out = NULL;
    size_t n;
    int device;
    char known[64];
    backend_names(known, sizeof known, " or ");
    bool split = split_name(name, &n, &device);
    const BackendProvider *p = find(name, n);
    if (!p) return error_set(err, ERR_CONFIG, "unknown backend '%s', expected %s", name, known);
    if (!split || (device >= 0 && !p->copy_in))
        return error_set(err, ERR_CONFIG, "backend '%s': expected %s%s", name, p->name,
                         p->copy_in ? " or, for another device than the first, its number: cuda:1" : "");
    if (p->absent) return error_set(err, ERR_CONFIG, "backend %s: %s", p->name, p->absent);
    Backend *be = mem_alloc(sizeof *be);
    be->mem = be->host = mem_source_host();
    be->pool = pool;
    if (!p->open(be, device, isa, err)) {
        free(be);
        return error_wrap(err, "backend %s", name);
    }
    be->dtype = be->real;
    CHECK(provider(be) == p, "backend '%s' calls itself '%s'", name, be->op->name);
    *out = be;
    return true;
}

bool backend_set_dtype(Backend *be, DType dtype, Error *err) {
    if (dtype != be->real && (dtype != DTYPE_BF16 || be->real != DTYPE_F32))
        return error_set(err, ERR_CONFIG, "backend %s: dtype %s is not supported, it computes in %s", be->op->name,
                         dtype_name(dtype), dtype_name(be->real));
    be->dtype = dtype;
    void (*set)(Backend *) = provider(be)->set_dtype;
    if (set) set(be);
    return true;
}

void backend_close(Backend *be) {
    if (!be) return;
    provider(be)->close(be);
    free(be);
}

bool backend_on_host(const Backend *be) { return !provider(be)->copy_in; }

void host_room(Backend *be, HostRoom *r, size_t bytes) {
    if (bytes <= r->bytes) return;
    host_room_release(be, r);
    r->at = be->host.get(be->host.ud, bytes);
    CHECK(r->at != NULL, "out of memory: %zu bytes for what ranks send each other", bytes);
    r->bytes = bytes;
}

void host_room_release(Backend *be, HostRoom *r) {
    if (r->at) be->host.put(be->host.ud, r->at, r->bytes);
    *r = (HostRoom){0};
}

const char *backend_isa(const Backend *be) { return provider(be)->isa(be); }

const char *backend_bits(const char *name, const char *isa, DType dtype) {
    size_t n;
    int device;
    split_name(name, &n, &device);
    const BackendProvider *p = find(name, n);
    return p && !p->absent && p->bits ? p->bits(isa, dtype) : "";
}

double backend_spin(Backend *be) {
    double (*spin)(Backend *) = provider(be)->spin;
    return spin ? spin(be) : 0;
}

bool backend_load(void *be, LoadDevice *out) {
    bool (*load)(Backend *, LoadDevice *) = be ? provider(be)->load : NULL;
    return load && load(be, out);
}

bool backend_queues(const Backend *be) { return provider(be)->wait != NULL; }

void backend_wait(Backend *be) {
    void (*wait)(Backend *) = provider(be)->wait;
    if (wait) wait(be);
}

bool backend_replay_begin(Backend *be, const void *key, size_t n_key, const HostArray *array, int n_array) {
    const BackendProvider *p = provider(be);
    return p->replay_begin && p->replay_begin(be, key, n_key, array, n_array);
}

bool backend_replay_end(Backend *be) {
    bool (*end)(Backend *) = provider(be)->replay_end;
    return !end || end(be);
}

const char *backend_absent(const char *name) {
    const BackendProvider *p = find(name, strlen(name));
    CHECK(p, "no backend is called '%s'", name);
    return p->absent;
}

void backend_probe(const char *name, BackendSay *say, void *ud) {
    const BackendProvider *p = find(name, strlen(name));
    CHECK(p, "no backend is called '%s'", name);
    if (p->probe) p->probe(say, ud);
}

void backend_tell(const Backend *be, BackendSay *say, void *ud) {
    void (*tell)(const Backend *, BackendSay *, void *) = provider(be)->tell;
    if (tell) tell(be, say, ud);
}

/* -- numbers ------------------------------------------------------------------------------------------------------- */

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

/* -- tensors in host memory: rows of the plain array are `stride` numbers apart --------------------------------------
 */

static void get_f64(double *out, int64_t stride, Tensor x) {
    for (int64_t i = 0; i < x.rows; i++)
        for (int64_t j = 0; j < x.cols; j++) out[i * stride + j] = load(x, tensor_at(x, i, j));
}

/* Rows of floats are copied: a sampler fetches its logits so. */
static void get_f32(float *out, int64_t stride, Tensor x) {
    bool plain = x.dtype == DTYPE_F32 && !x.panels;
    for (int64_t i = 0; i < x.rows; i++, out += stride) {
        if (plain) memcpy(out, (const float *)x.data + i * x.ld, (size_t)x.cols * sizeof *out);
        for (int64_t j = 0; j < x.cols && !plain; j++) out[j] = (float)load(x, tensor_at(x, i, j));
    }
}

/* A view of whole panels that ends inside one owns that panel to its end. */
static void zero_padding(Tensor y) {
    if (!y.panels) return;
    int64_t cols = tensor_storage(y).cols / PANEL_ROWS, rows = tensor_storage(y).rows * PANEL_ROWS;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = i < y.rows ? y.cols : 0; j < cols; j++) store(y, tensor_at(y, i, j), 0);
}

static void set_f64(Tensor y, const double *in, int64_t stride) {
    for (int64_t i = 0; i < y.rows; i++)
        for (int64_t j = 0; j < y.cols; j++) store(y, tensor_at(y, i, j), in[i * stride + j]);
    zero_padding(y);
}

/* Loading a model is this. A column of a panel is one line of memory, written once; the rows are sixteen streams. */
static void set_panels_f32(Tensor y, const float *in) {
    for (int64_t p = 0; p < y.rows; p += PANEL_ROWS, in += PANEL_ROWS * y.cols) {
        float *to = (float *)y.data + tensor_at(y, p, 0);
        int64_t n = y.rows - p < PANEL_ROWS ? y.rows - p : PANEL_ROWS;
        for (int64_t j = 0; j < y.cols; j++, to += PANEL_ROWS)
            for (int64_t i = 0; i < n; i++) to[i] = in[i * y.cols + j];
    }
}

static void set_panels_bf16(Tensor y, const float *in) {
    for (int64_t i = 0; i < y.rows; i++, in += y.cols) {
        uint16_t *to = (uint16_t *)y.data + tensor_at(y, i, 0);
        for (int64_t j = 0; j < y.cols; j++) to[(j - j % 2) * PANEL_ROWS + j % 2] = float_bf16(in[j]);
    }
}

static void set_f32(Tensor y, const float *in, int64_t stride) {
    if (y.panels && y.dtype == DTYPE_F32)
        set_panels_f32(y, in);
    else if (y.panels && y.dtype == DTYPE_BF16)
        set_panels_bf16(y, in);
    else if (y.dtype == DTYPE_F32)
        for (int64_t i = 0; i < y.rows; i++)
            memcpy((float *)y.data + i * y.ld, in + i * stride, (size_t)y.cols * sizeof *in);
    else
        for (int64_t i = 0; i < y.rows; i++)
            for (int64_t j = 0; j < y.cols; j++) store(y, tensor_at(y, i, j), (double)in[i * stride + j]);
    zero_padding(y);
}

/* -- tensors elsewhere: piece by piece through the backend's stage ------------------------------------------------- */

typedef struct {
    const BackendProvider *p;
    Tensor t;             /* all of it */
    int64_t row, col;     /* where the piece begins */
    int64_t n_row, n_col; /* of a piece, at most */
    int half;
} Pieces;

static Pieces pieces_of(const BackendProvider *p, Backend *be, Tensor t) {
    CHECK(!t.panels, "panels outside host memory");
    size_t bytes;
    p->stage(be, 0, &bytes);
    int64_t n = (int64_t)(bytes / dtype_bytes(t.dtype)), n_col = t.cols < n ? t.cols : n;
    return (Pieces){.p = p, .t = t, .n_col = n_col, .n_row = n / n_col};
}

/* The next piece where it lives, and room for it on the host; false at the end. */
static bool next_piece(Pieces *s, Backend *be, Tensor *there, Tensor *here, int64_t *at) {
    if (s->row >= s->t.rows) return false;
    int64_t rows = s->t.rows - s->row < s->n_row ? s->t.rows - s->row : s->n_row;
    int64_t cols = s->t.cols - s->col < s->n_col ? s->t.cols - s->col : s->n_col;
    size_t bytes;
    *there = tensor_cols(tensor_rows(s->t, s->row, rows), s->col, cols);
    *here = tensor_over(s->p->stage(be, s->half, &bytes), s->t.dtype, rows, cols);
    *at = s->row * s->t.cols + s->col;
    s->half = !s->half;
    s->col += cols;
    if (s->col == s->t.cols) s->col = 0, s->row += rows;
    return true;
}

static void piece_in(const BackendProvider *p, Backend *be, Tensor there, Tensor here) {
    size_t size = dtype_bytes(here.dtype);
    p->copy_in(be, there.data, (size_t)there.ld * size, here.data, (size_t)here.ld * size, (size_t)here.cols * size,
               (size_t)here.rows);
}

static void piece_out(const BackendProvider *p, Backend *be, Tensor here, Tensor there) {
    size_t size = dtype_bytes(here.dtype);
    p->copy_out(be, here.data, (size_t)here.ld * size, there.data, (size_t)there.ld * size, (size_t)here.cols * size,
                (size_t)here.rows);
}

/* The backend's row, when t is not in host memory. */
static const BackendProvider *elsewhere(const Backend *be, Tensor t) {
    const BackendProvider *p = be && !tensor_empty(t) ? provider(be) : NULL;
    return p && p->copy_in ? p : NULL;
}

static bool is_dry(const Backend *be) { return be && be->dry; }

void tensor_get(Backend *be, double *out, Tensor x) {
    if (is_dry(be)) return;
    const BackendProvider *p = elsewhere(be, x);
    if (!p) {
        get_f64(out, x.cols, x);
        return;
    }
    Pieces s = pieces_of(p, be, x);
    Tensor there, here;
    for (int64_t at; next_piece(&s, be, &there, &here, &at);) {
        piece_out(p, be, here, there);
        get_f64(out + at, x.cols, here);
    }
}

void tensor_set(Backend *be, Tensor y, const double *in) {
    if (is_dry(be)) return;
    const BackendProvider *p = elsewhere(be, y);
    if (!p) {
        set_f64(y, in, y.cols);
        return;
    }
    Pieces s = pieces_of(p, be, y);
    Tensor there, here;
    for (int64_t at; next_piece(&s, be, &there, &here, &at);) {
        set_f64(here, in + at, y.cols);
        piece_in(p, be, there, here);
    }
}

void tensor_get_f32(Backend *be, float *out, Tensor x) {
    if (is_dry(be)) return;
    const BackendProvider *p = elsewhere(be, x);
    if (!p) {
        get_f32(out, x.cols, x);
        return;
    }
    if (x.dtype == DTYPE_F32) { /* nothing to convert: straight to the caller */
        piece_out(p, be, tensor_over(out, DTYPE_F32, x.rows, x.cols), x);
        return;
    }
    Pieces s = pieces_of(p, be, x);
    Tensor there, here;
    for (int64_t at; next_piece(&s, be, &there, &here, &at);) {
        piece_out(p, be, here, there);
        get_f32(out + at, x.cols, here);
    }
}

void tensor_set_f32(Backend *be, Tensor y, const float *in) {
    if (is_dry(be)) return;
    const BackendProvider *p = elsewhere(be, y);
    if (!p) {
        set_f32(y, in, y.cols);
        return;
    }
    Pieces s = pieces_of(p, be, y);
    Tensor there, here;
    for (int64_t at; next_piece(&s, be, &there, &here, &at);) {
        set_f32(here, in + at, y.cols);
        piece_in(p, be, there, here);
    }
}

/* Of panels of floats, a column of a panel is one piece of memory, here as there. */
void tensor_set_columns_f32(Tensor y, const float *in) {
    int64_t whole = y.panels && y.dtype == DTYPE_F32 ? y.rows - y.rows % PANEL_ROWS : 0;
    for (int64_t j = 0; j < y.cols; j++, in += y.rows) {
        for (int64_t i = 0; i < whole; i += PANEL_ROWS)
            memcpy((float *)y.data + tensor_at(y, i, j), in + i, PANEL_ROWS * sizeof *in);
        for (int64_t i = whole; i < y.rows; i++) store(y, tensor_at(y, i, j), (double)in[i]);
    }
    zero_padding(y);
}

/* The two values of a pair lie side by side in a row as in a panel: words, placed as floats are in panels of F32. */
void tensor_set_bf16(Tensor y, const unsigned char *in) {
    CHECK(y.panels && y.dtype == DTYPE_BF16, "no panels of BF16");
    size_t row = (size_t)y.cols * sizeof(uint16_t);
    for (int64_t p = 0; p < y.rows; p += PANEL_ROWS, in += PANEL_ROWS * row) {
        uint16_t *to = (uint16_t *)y.data + tensor_at(y, p, 0);
        int64_t n = y.rows - p < PANEL_ROWS ? y.rows - p : PANEL_ROWS;
        for (int64_t j = 0; j < y.cols; j += 2, to += 2 * PANEL_ROWS) {
            const unsigned char *from = in + (size_t)j * sizeof *to;
            bool whole = j + 1 < y.cols;
            for (int64_t i = 0; i < n && whole; i++) memcpy(to + 2 * i, from + (size_t)i * row, 2 * sizeof *to);
            for (int64_t i = 0; i < n && !whole; i++) memcpy(to + 2 * i, from + (size_t)i * row, sizeof *to);
        }
    }
    zero_padding(y);
}

size_t tensor_raw_bytes(Tensor x) {
    Tensor s = tensor_storage(x);
    return (size_t)tensor_count(s) * dtype_bytes(s.dtype);
}

void tensor_get_raw(Backend *be, void *out, Tensor x) {
    if (is_dry(be)) return;
    Tensor from = tensor_storage(x), to = tensor_over(out, from.dtype, from.rows, from.cols);
    const BackendProvider *p = elsewhere(be, x);
    size_t row = (size_t)from.cols * dtype_bytes(from.dtype);
    if (p)
        piece_out(p, be, to, from);
    else if (from.ld == from.cols)
        memcpy(out, from.data, (size_t)from.rows * row);
    else
        for (int64_t i = 0; i < from.rows; i++)
            memcpy((char *)out + (size_t)i * row,
                   (const char *)from.data + (size_t)(i * from.ld) * dtype_bytes(from.dtype), row);
}

void tensor_raw_rows(void *out, const void *raw, Tensor like) {
    size_t size = dtype_bytes(like.dtype);
    if (!like.panels) {
        memcpy(out, raw, (size_t)tensor_count(like) * size);
        return;
    }
    like.ld = tensor_storage(like).cols / PANEL_ROWS; /* a panel was copied whole, without what lies beside a view */
    for (int64_t i = 0; i < like.rows; i++, out = (char *)out + (size_t)like.cols * size) {
        if (like.dtype == DTYPE_F32) {
            const float *from = (const float *)raw + tensor_at(like, i, 0);
            for (int64_t j = 0; j < like.cols; j++) ((float *)out)[j] = from[j * PANEL_ROWS];
            continue;
        }
        for (int64_t j = 0; j < like.cols; j++)
            memcpy((char *)out + (size_t)j * size, (const char *)raw + (size_t)tensor_at(like, i, j) * size, size);
    }
}

void tensor_set_rows(Backend *be, Tensor y, const void *in) {
    if (is_dry(be)) return;
    if (y.dtype == DTYPE_F32) {
        tensor_set_f32(be, y, in);
    } else if (y.dtype == DTYPE_F64) {
        tensor_set(be, y, in);
    } else {
        float *wide = mem_alloc((size_t)tensor_count(y) * sizeof *wide);
        Tensor from = tensor_over((void *)(uintptr_t)in, y.dtype, y.rows, y.cols);
        get_f32(wide, y.cols, from);
        tensor_set_f32(be, y, wide);
        free(wide);
    }
}

/* Rows of a panel from two columns: n of each, at any address. */
static void set_pair(uint16_t *to, const unsigned char *even, const unsigned char *odd, int64_t n) {
    uint16_t pair[2][PANEL_ROWS] = {0};
    memcpy(pair[0], even, (size_t)n * sizeof **pair);
    if (odd) memcpy(pair[1], odd, (size_t)n * sizeof **pair);
    for (int i = 0; i < PANEL_ROWS; i++) to[2 * i] = pair[0][i], to[2 * i + 1] = pair[1][i];
}

/* Some columns of all panels before the next ones: of a line of the input that holds rows of several panels, each
 * finds its part in near memory. */
void tensor_set_columns_bf16(Tensor y, const unsigned char *in, int64_t ld) {
    CHECK(y.panels && y.dtype == DTYPE_BF16, "no panels of BF16");
    enum { NEAR = 16 };
    const size_t column = (size_t)ld * sizeof(uint16_t);
    for (int64_t first = 0; first < y.cols; first += NEAR) {
        int64_t end = y.cols - first < NEAR ? y.cols : first + NEAR;
        for (int64_t p = 0; p < y.rows; p += PANEL_ROWS) {
            int64_t n = y.rows - p < PANEL_ROWS ? y.rows - p : PANEL_ROWS;
            for (int64_t j = first; j < end; j += 2) {
                const unsigned char *from = in + (size_t)j * column + (size_t)p * sizeof(uint16_t);
                uint16_t *to = (uint16_t *)y.data + tensor_at(y, p, j);
                if (n == PANEL_ROWS && j + 1 < y.cols)
                    set_pair(to, from, from + column, PANEL_ROWS);
                else
                    set_pair(to, from, j + 1 < y.cols ? from + column : NULL, n);
            }
        }
    }
    zero_padding(y);
}

void tensor_get_row(Backend *be, double *out, Tensor x, int64_t i) {
    if (is_dry(be)) return;
    if (elsewhere(be, x))
        tensor_get(be, out, tensor_rows(x, i, 1));
    else
        for (int64_t j = 0; j < x.cols; j++) *out++ = load(x, tensor_at(x, i, j));
}

void tensor_set_row(Backend *be, Tensor y, int64_t i, const double *in) {
    if (is_dry(be)) return;
    if (elsewhere(be, y))
        tensor_set(be, tensor_rows(y, i, 1), in);
    else
        for (int64_t j = 0; j < y.cols; j++) store(y, tensor_at(y, i, j), *in++);
}
