#include "tensor/cuda/matmul.h"

#include "tensor/cuda/driver.h"
#include "tensor/cuda/few.h"

#include <stdlib.h>
#include <string.h>

typedef enum { FORM_FWD, FORM_DX, FORM_DW } Form;

typedef struct {                    /* all that a plan depends on; compared as bytes */
    int64_t m, n, k, lda, ldb, ldd; /* D is m x n, the sum is over k; leading dimensions as cuBLASLt sees them */
    int32_t form, in, out;          /* in, out: cudaDataType_t of A and B, of D */
    int32_t bias, align;            /* bytes that every address and stride is a multiple of, at most 16 */
} Key;

typedef struct {
    Key key;
    void *desc, *la, *lb, *ld;
    CudaAlgo algo;
    size_t workspace;
    bool found; /* false: the library has no algorithm for it */
} Plan;

enum { PLANS = 512, PROBES = 8 };                       /* a table of sets: a shape lives in one of PROBES places */
static const size_t workspace_bytes = (size_t)64 << 20; /* Hopper's large tiles ask for 32 MiB */

struct CudaMatmul {
    CudaLt lt;
    void *handle, *pref, *workspace;
    Plan plan[PLANS];
    unsigned next; /* which of a full set goes */
    CudaMatmulStats stats;
};

static void lt_ok(const CudaMatmul *m, int status, const char *call) {
    CHECK(status == 0, "%s: %s", call, m->lt.status_name ? m->lt.status_name(status) : "cuBLASLt failed");
}

bool cuda_matmul_open(Backend *be, Error *err) {
    const CudaDriver *drv = cuda_impl(be)->drv;
    if (!drv->lt_open) return true; /* a driver without the library at all: the emulated one */
    CudaMatmul *m = mem_alloc(sizeof *m);
    if (!drv->lt_open(&m->lt, err)) {
        free(m);
        return false;
    }
    int code = drv->get(&m->workspace, workspace_bytes);
    if (code != 0) {
        drv->lt_close(&m->lt);
        free(m);
        return cuda_error(drv, code, "cuBLASLt's workspace", err);
    }
    lt_ok(m, m->lt.create(&m->handle), "cublasLtCreate");
    lt_ok(m, m->lt.pref_create(&m->pref), "cublasLtMatmulPreferenceCreate");
    lt_ok(m, m->lt.pref_set(m->pref, LT_PREF_WORKSPACE, &workspace_bytes, sizeof workspace_bytes), "workspace");
    /* none | through the workspace in the sum's type | in D's type; not in place (1), which adds in any order */
    uint32_t schemes = 2 | 4;
    lt_ok(m, m->lt.pref_set(m->pref, LT_PREF_REDUCTION_SCHEMES, &schemes, sizeof schemes), "reduction schemes");
    cuda_impl(be)->matmul = m;
    return true;
}

static void plan_release(CudaMatmul *m, Plan *p) {
    if (p->desc) m->lt.desc_destroy(p->desc);
    if (p->la) m->lt.layout_destroy(p->la);
    if (p->lb) m->lt.layout_destroy(p->lb);
    if (p->ld) m->lt.layout_destroy(p->ld);
    memset(p, 0, sizeof *p);
}

void cuda_matmul_close(Backend *be) {
    CudaMatmul *m = cuda_impl(be)->matmul;
    if (!m) return;
    const CudaDriver *drv = cuda_impl(be)->drv;
    for (int i = 0; i < PLANS; i++) plan_release(m, &m->plan[i]);
    m->lt.pref_destroy(m->pref);
    m->lt.destroy(m->handle);
    drv->put(m->workspace);
    drv->lt_close(&m->lt);
    free(m);
    cuda_impl(be)->matmul = NULL;
}

CudaMatmulStats cuda_matmul_stats(const Backend *be) {
    const CudaMatmul *m = ((const CudaImpl *)be->impl)->matmul;
    return m ? m->stats : (CudaMatmulStats){0};
}

/* Ragged batches differ in N by a little every time; the choice of an algorithm need not. */
static int64_t rounded(int64_t n) { return n <= 64 ? n : n <= 1024 ? (n + 63) / 64 * 64 : (n + 511) / 512 * 512; }

static void layout(const CudaMatmul *m, void **out, int type, int64_t rows, int64_t cols, int64_t ld) {
    lt_ok(m, m->lt.layout_create(out, type, (uint64_t)rows, (uint64_t)cols, ld), "cublasLtMatrixLayoutCreate");
}

/* Layouts of A, B and D for sizes (dm, dn, dk). */
static void layouts(const CudaMatmul *m, Plan *p, int64_t dm, int64_t dn, int64_t dk) {
    const Key *k = &p->key;
    bool ta = k->form == FORM_FWD, tb = k->form == FORM_DW;
    layout(m, &p->la, k->in, ta ? dk : dm, ta ? dm : dk, k->lda);
    layout(m, &p->lb, k->in, tb ? dn : dk, tb ? dk : dn, k->ldb);
    layout(m, &p->ld, k->out, dm, dn, k->ldd);
}

static void find_algo(CudaMatmul *m, Plan *p) {
    const Key *k = &p->key;
    static const int side[] = {LT_PREF_ALIGN_A, LT_PREF_ALIGN_B, LT_PREF_ALIGN_C, LT_PREF_ALIGN_D};
    uint32_t align = (uint32_t)k->align;
    for (int i = 0; i < COUNT_OF(side); i++)
        lt_ok(m, m->lt.pref_set(m->pref, side[i], &align, sizeof align), "alignment");
    CudaHeuristic h = {0};
    int n = 0;
    int status = m->lt.heuristics(m->handle, p->desc, p->la, p->lb, p->ld, p->ld, m->pref, 1, &h, &n);
    p->found = status == 0 && n > 0 && h.state == 0;
    p->algo = h.algo;
    p->workspace = h.workspace;
}

static void plan_make(CudaMatmul *m, Plan *p, const Key *key, const void *bias) {
    p->key = *key;
    lt_ok(m, m->lt.desc_create(&p->desc, LT_COMPUTE_F32, CUDA_R_F32), "cublasLtMatmulDescCreate");
    int32_t op[2] = {key->form == FORM_FWD ? LT_OP_T : LT_OP_N, key->form == FORM_DW ? LT_OP_T : LT_OP_N};
    lt_ok(m, m->lt.desc_set(p->desc, LT_DESC_TRANSA, &op[0], sizeof op[0]), "transposition");
    lt_ok(m, m->lt.desc_set(p->desc, LT_DESC_TRANSB, &op[1], sizeof op[1]), "transposition");
    if (key->bias) {
        int32_t epilogue = LT_EPILOGUE_BIAS, type = CUDA_R_F32;
        lt_ok(m, m->lt.desc_set(p->desc, LT_DESC_EPILOGUE, &epilogue, sizeof epilogue), "epilogue");
        lt_ok(m, m->lt.desc_set(p->desc, LT_DESC_BIAS_DATA_TYPE, &type, sizeof type), "type of the bias");
        lt_ok(m, m->lt.desc_set(p->desc, LT_DESC_BIAS_POINTER, &bias, sizeof bias), "bias");
    }
    bool dw = key->form == FORM_DW; /* there N is what is summed over */
    Plan ask = {.key = *key, .desc = p->desc};
    layouts(m, &ask, key->m, dw ? key->n : rounded(key->n), dw ? rounded(key->k) : key->k);
    find_algo(m, &ask);
    p->found = ask.found, p->algo = ask.algo, p->workspace = ask.workspace;
    ask.desc = NULL;
    plan_release(m, &ask);
    layouts(m, p, key->m, key->n, key->k);
    if (!p->found) find_algo(m, p);
    m->stats.n_plan++;
}

static uint64_t key_hash(const Key *key) { /* FNV-1a over words */
    uint64_t word[sizeof *key / 8 + 1] = {0}, h = 1469598103934665603u;
    memcpy(word, key, sizeof *key);
    for (int i = 0; i < COUNT_OF(word); i++) h = (h ^ word[i]) * 1099511628211u;
    return h ^ h >> 29;
}

static Plan *plan_of(CudaMatmul *m, const Key *key, const void *bias) {
    Plan *set = m->plan + key_hash(key) % (PLANS / PROBES) * PROBES, *p = NULL;
    for (int i = 0; i < PROBES; i++) {
        if (!set[i].desc && !p) p = &set[i];
        if (set[i].desc && memcmp(&set[i].key, key, sizeof *key) == 0) return &set[i];
    }
    if (!p) p = &set[m->next++ % PROBES];
    plan_release(m, p);
    plan_make(m, p, key, bias);
    return p;
}

static int lt_type(DType t) { return t == DTYPE_BF16 ? CUDA_R_BF16 : CUDA_R_F32; }

static int align_of(int64_t bits) { return bits % 16 == 0 ? 16 : bits % 8 == 0 ? 8 : bits % 4 == 0 ? 4 : 2; }

static int64_t address_bits(Tensor t) {
    return (int64_t)(uintptr_t)t.data | (t.rows > 1 ? t.ld * (int64_t)dtype_bytes(t.dtype) : 0);
}

/* d = (add ? from : 0) + the form's product of a and b; from: d itself, or of its shape, dtype and ld; bias for
 * FORM_FWD only. False: no algorithm, nothing done. */
static bool product_from(Backend *be, Form form, Tensor d, Tensor from, Tensor a, Tensor b, Tensor bias, bool add) {
    CudaImpl *c = cuda_impl(be);
    CudaMatmul *m = c->matmul;
    if (!m || a.dtype != b.dtype || (a.dtype != DTYPE_F32 && a.dtype != DTYPE_BF16)) return false;
    Key key;
    memset(&key, 0, sizeof key);
    key.m = d.cols, key.n = d.rows, key.k = form == FORM_FWD ? a.cols : form == FORM_DX ? a.rows : b.rows;
    key.lda = a.ld, key.ldb = b.ld, key.ldd = d.ld;
    key.form = form, key.in = lt_type(a.dtype), key.out = lt_type(d.dtype);
    key.bias = !tensor_empty(bias);
    key.align = align_of(address_bits(a) | address_bits(b) | address_bits(d));
    Plan *p = plan_of(m, &key, bias.data);
    if (!p->found) return false;
    if (key.bias) lt_ok(m, m->lt.desc_set(p->desc, LT_DESC_BIAS_POINTER, &bias.data, sizeof bias.data), "bias");
    float one = 1, beta = add ? 1 : 0;
    int status = m->lt.matmul(m->handle, p->desc, &one, a.data, p->la, b.data, p->lb, &beta, from.data, p->ld, d.data,
                              p->ld, &p->algo, m->workspace, workspace_bytes, c->stream);
    if (status != 0) { /* chosen for the rounded shape, refused for this one */
        find_algo(m, p);
        if (!p->found) return false;
        status = m->lt.matmul(m->handle, p->desc, &one, a.data, p->la, b.data, p->lb, &beta, from.data, p->ld, d.data,
                              p->ld, &p->algo, m->workspace, workspace_bytes, c->stream);
    }
    lt_ok(m, status, "cublasLtMatmul");
    m->stats.n_call++;
    return true;
}

static bool product(Backend *be, Form form, Tensor d, Tensor a, Tensor b, Tensor bias, bool add) {
    return product_from(be, form, d, d, a, b, bias, add);
}

static void count_own(Backend *be) {
    if (cuda_impl(be)->matmul) cuda_impl(be)->matmul->stats.n_own++;
}

static void forward_one(Backend *be, LinearOut o, Tensor x, bool add) {
    if (tensor_empty(o.scale) && product(be, FORM_FWD, o.y, o.w, x, o.bias, add)) return;
    count_own(be);
    cuda_own_fwd(be, &o, 1, x, add);
}

void cuda_linear_fwd(Backend *be, const LinearOut *out, int n, Tensor x, bool add) {
    CHECK(n >= 1 && n <= LINEAR_MAX, "linear_fwd: %d products", n);
    for (int i = 0; i < n; i++) {
        LinearOut o = out[i];
        CHECK(!add || o.y.dtype == DTYPE_F32, "linear_fwd: adding to %s", dtype_name(o.y.dtype));
        cuda_check("linear_fwd", "y", o.y, x.rows, o.w.rows, CUDA_ANY_OPT);
        CHECK(o.w.cols == x.cols, "linear_fwd: w has %lld columns, x %lld", (long long)o.w.cols, (long long)x.cols);
        if (!tensor_empty(o.bias)) cuda_check("linear_fwd", "bias", o.bias, 1, o.w.rows, CUDA_REAL);
        if (!tensor_empty(o.scale)) cuda_check("linear_fwd", "scale", o.scale, 1, o.w.rows, CUDA_REAL);
    }
    if (x.rows == 0) return;
    if (cuda_impl(be)->exact) {
        count_own(be);
        cuda_own_fwd(be, out, n, x, add);
    } else if (x.dtype == DTYPE_BF16 && cuda_few_fwd(be, out, n, x, add))
        count_own(be);
    else
        for (int i = 0; i < n; i++) forward_one(be, out[i], x, add);
}

void cuda_linear_from(Backend *be, LinearOut out, Tensor from, Tensor x) {
    cuda_check("linear_from", "from", from, out.y.rows, out.y.cols, CUDA_REAL);
    cuda_check("linear_from", "y", out.y, x.rows, out.w.rows, CUDA_REAL);
    bool direct = x.rows > FEW_ROWS && !cuda_impl(be)->exact && tensor_empty(out.scale) && from.ld == out.y.ld &&
                  address_bits(from) % 16 == address_bits(out.y) % 16;
    if (direct && product_from(be, FORM_FWD, out.y, from, out.w, x, out.bias, true)) return;
    cuda_copy(be, out.y, from);
    cuda_linear_fwd(be, &out, 1, x, true);
}

/* w may be missing where dx is not wanted. */
static void check_grad(const LinearGrad *g, Tensor dx, Tensor x, int64_t rows) {
    int64_t m = g->dy.cols;
    cuda_check("linear_bwd", "dy", g->dy, rows, m, CUDA_ANY);
    if (!tensor_empty(dx)) cuda_check("linear_bwd", "w", g->w, m, dx.cols, CUDA_ANY);
    if (!tensor_empty(g->dw_acc)) {
        cuda_check("linear_bwd", "dw", g->dw_acc, m, x.cols, CUDA_REAL);
        cuda_check("linear_bwd", "x", x, rows, g->dw_acc.cols, CUDA_ANY);
    }
    if (!tensor_empty(g->dbias_acc)) cuda_check("linear_bwd", "dbias", g->dbias_acc, 1, m, CUDA_REAL);
}

/* dx (+)= sum of dy_i w_i. A sum of several in BF16 would be rounded after each: it is made in F32. */
static void input_grad(Backend *be, Tensor dx, const LinearGrad *grad, int n, bool add_dx) {
    const Tensor none = {0};
    Tensor sum = dx;
    if (n > 1 && dx.dtype != DTYPE_F32)
        sum = tensor_over(cuda_scratch(be, (size_t)tensor_count(dx) * sizeof(float)), DTYPE_F32, dx.rows, dx.cols);
    for (int i = 0; i < n; i++) {
        bool add = add_dx || i > 0;
        if (product(be, FORM_DX, sum, grad[i].w, grad[i].dy, none, add)) continue;
        count_own(be);
        cuda_own_dx(be, sum, grad[i].dy, grad[i].w, add);
    }
    if (sum.data != dx.data) cuda_cast(be, dx, sum);
}

void cuda_linear_bwd(Backend *be, Tensor dx, const LinearGrad *grad, int n, Tensor x, bool add_dx) {
    CHECK(n >= 1 && n <= LINEAR_MAX, "linear_bwd: %d products", n);
    int64_t rows = grad[0].dy.rows;
    if (rows == 0) return;
    CHECK(dx.dtype == DTYPE_F32 || tensor_empty(dx) || !add_dx, "linear_bwd: adding to %s", dtype_name(dx.dtype));
    const Tensor none = {0};
    for (int i = 0; i < n; i++) check_grad(&grad[i], dx, x, rows);
    if (!tensor_empty(dx)) input_grad(be, dx, grad, n, add_dx);
    for (int i = 0; i < n; i++) {
        const LinearGrad *g = &grad[i];
        if (!tensor_empty(g->dw_acc) && !product(be, FORM_DW, g->dw_acc, x, g->dy, none, true)) {
            count_own(be);
            cuda_own_dw(be, g->dw_acc, g->dy, x);
        }
        if (!tensor_empty(g->dbias_acc)) cuda_column_sums(be, g->dbias_acc, g->dy);
    }
}
