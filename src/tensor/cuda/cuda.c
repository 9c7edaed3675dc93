/* tensor/cuda/cuda.c — the backend's life and memory, its op table, what ops share. */
#include "tensor/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/backend_int.h"
#include "tensor/cuda/index.h"
#include "tensor/cuda/replay.h"

static const BackendOps ops = {
    .name = "cuda",
    .zero = cuda_zero,
    .copy = cuda_copy,
    .cast = cuda_cast,
    .add = cuda_add,
    .add_bias = cuda_add_bias,
    .quantize = cuda_quantize,
    .sumsq = cuda_sumsq,
    .sumsq_all = cuda_sumsq_all,
    .all_finite = cuda_all_finite,
    .embed_fwd = cuda_embed_fwd,
    .embed_bwd = cuda_embed_bwd,
    .gather_rows = cuda_gather_rows,
    .scatter_rows = cuda_scatter_rows,
    .scatter_add_rows = cuda_scatter_add_rows,
    .linear_fwd = cuda_linear_fwd,
    .linear_from = cuda_linear_from,
    .norm_qkv = cuda_norm_qkv,
    .norm_swiglu = cuda_norm_swiglu,
    .linear_bwd = cuda_linear_bwd,
    .rmsnorm_fwd = cuda_rmsnorm_fwd,
    .rmsnorm_bwd = cuda_rmsnorm_bwd,
    .layernorm_fwd = cuda_layernorm_fwd,
    .layernorm_bwd = cuda_layernorm_bwd,
    .rope = cuda_rope,
    .rope_kv = cuda_rope_kv,
    .swiglu_fwd = cuda_swiglu_fwd,
    .swiglu_bwd = cuda_swiglu_bwd,
    .gelu_fwd = cuda_gelu_fwd,
    .gelu_bwd = cuda_gelu_bwd,
    .attn_fwd = cuda_attn_fwd,
    .attn_bwd = cuda_attn_bwd,
    .logprob_fwd = cuda_logprob_fwd,
    .logprob_bwd = cuda_logprob_bwd,
    .logprob_part_fwd = cuda_logprob_part_fwd,
    .logprob_part_bwd = cuda_logprob_part_bwd,
    .draw = cuda_draw,
    .adamw = cuda_adamw,
    .update = cuda_update,
    .scale = cuda_scale,
    .dropout = cuda_dropout,
};

_Static_assert(sizeof(BackendOps) == 42 * sizeof(void *), "cuda lacks an op of backend.h");

/* The host side's share of pinned memory: results of ops, then two halves that tensors are staged through. */
enum { RESULT_BYTES = 64 << 10, HALF_BYTES = 8 << 20, INDEX_PINNED = 4 << 20, INDEX_RING = 64 << 20 };
enum { SLICE_VALUES = 1 << 27, PASS_TOK = 8192 }; /* logits of half a gigabyte; rows that fill every multiprocessor */
enum { NO_DEVICE = 100 };                         /* the runtime's code */
enum { CACHE_SHARE = 8 };                         /* of the memory, for keys and values */
enum { LEAST_MAJOR = 8 };                         /* compute capability 8.0: BF16 tensor cores */

/* -- errors -------------------------------------------------------------------------------------------------------- */

/* What an error code of the runtime asks for. */
static const char *cure(int code) {
    static const struct {
        int code;
        const char *text;
    } all[] = {
        {2, "; lower the stage's micro_tokens or the model's size"},
        {35, "; the NVIDIA driver is older than this build: install a newer one"},
        {46, "; another process holds the GPU alone (compute mode): stop it or take another GPU"},
        {100, "; is the GPU visible? see nvidia-smi and CUDA_VISIBLE_DEVICES"},
        {101, "; see nvidia-smi for the numbers there are"},
        {209, "; this build has no code for this GPU: configure with its CMAKE_CUDA_ARCHITECTURES"},
        {214, "; the GPU's memory has an uncorrectable error: see nvidia-smi -q -d ECC"},
        {700, "; a kernel left its memory: run the same command under compute-sanitizer and report what it says"},
        {802, "; the GPU's fabric is not up: is nvidia-fabricmanager running?"},
    };
    for (int i = 0; i < COUNT_OF(all); i++)
        if (all[i].code == code) return all[i].text;
    return "";
}

bool cuda_error(const CudaDriver *drv, int code, const char *call, Error *err) {
    return error_set(err, code == 2 ? ERR_MEMORY : ERR_IO, "%s: %s (%s)%s", call, drv->error_text(code),
                     drv->error_name(code), cure(code));
}

void cuda_ok(const CudaDriver *drv, int code, const char *call, const char *file, int line) {
    if (code == 0) return;
    Error err = {0};
    cuda_error(drv, code, call, &err);
    check_failed(file, line, "a call of the CUDA runtime", "%s", err.msg);
}

void cuda_launched(Backend *be, const char *kernel) {
    const CudaDriver *drv = cuda_impl(be)->drv;
    cuda_ok(drv, drv->last_error(), kernel, __FILE__, __LINE__);
}

/* -- checks -------------------------------------------------------------------------------------------------------- */

void cuda_check(const char *op, const char *what, Tensor t, int64_t rows, int64_t cols, CudaNeed need) {
    if ((need == CUDA_REAL_OPT || need == CUDA_ANY_OPT) && tensor_empty(t)) return;
    CHECK(t.rows == rows && t.cols == cols, "%s: %s is (%lld, %lld), expected (%lld, %lld)", op, what,
          (long long)t.rows, (long long)t.cols, (long long)rows, (long long)cols);
    if (tensor_empty(t)) return;
    bool any = need == CUDA_ANY || need == CUDA_ANY_OPT;
    CHECK(t.dtype == DTYPE_F32 || (any && t.dtype == DTYPE_BF16), "%s: %s is %s, expected F32%s", op, what,
          dtype_name(t.dtype), any ? " or BF16" : "");
    CHECK(t.data && t.ld >= t.cols, "%s: %s has data %s, ld %lld", op, what, t.data ? "set" : "NULL", (long long)t.ld);
    CHECK(!t.panels, "%s: %s is in panels", op, what);
}

/* -- memory -------------------------------------------------------------------------------------------------------- */

/* Fresh memory is NaN, so that what is read before it is written shows, and shows every time. */
static void *memory_get(void *ud, size_t bytes) {
    CudaImpl *c = ud;
    void *p = NULL;
    if (c->drv->get(&p, bytes) != 0) {
        c->drv->last_error();
        return NULL;
    }
    CUDA_OK(c->drv, c->drv->fill(p, 0xFF, bytes, c->stream));
    return p;
}

static void memory_put(void *ud, void *p, size_t bytes) {
    (void)bytes;
    CudaImpl *c = ud;
    CUDA_OK(c->drv, c->drv->sync(c->stream));
    CUDA_OK(c->drv, c->drv->put(p));
}

static void memory_left(void *ud, char *out, size_t n) {
    const CudaImpl *c = ud;
    size_t left = 0, total = 0;
    c->drv->memory(&left, &total);
    snprintf(out, n, " on GPU %d, which has %.1f MB of %.1f left", c->device, (double)left / 1e6, (double)total / 1e6);
}

void *cuda_scratch(Backend *be, size_t bytes) {
    enum { STEP = 1 << 20 };
    CudaImpl *c = cuda_impl(be);
    if (bytes <= c->scratch_bytes) return c->scratch;
    size_t want = (bytes + bytes / 4 + STEP - 1) / STEP * STEP;
    if (c->scratch) memory_put(c, c->scratch, c->scratch_bytes);
    c->scratch_bytes = 0;
    c->scratch = memory_get(c, want);
    char left[128];
    if (!c->scratch) memory_left(c, left, sizeof left);
    CHECK(c->scratch, "cuda: no %.1f MB of scratch%s; lower the stage's micro_tokens", (double)want / 1e6, left);
    c->scratch_bytes = want;
    return c->scratch;
}

/* A recording's arrays have copies of their own. */
const void *cuda_bytes(Backend *be, const void *host, size_t bytes) {
    const void *at = cuda_replay_array(be, host, bytes);
    return at ? at : cuda_index_get(cuda_impl(be)->index, host, bytes);
}

const int32_t *cuda_index(Backend *be, const int32_t *host, int64_t n) {
    return cuda_bytes(be, host, (size_t)n * sizeof *host);
}

const double *cuda_doubles(Backend *be, const double *host, int64_t n) {
    return cuda_bytes(be, host, (size_t)n * sizeof *host);
}

void cuda_fetch(Backend *be, void *host, const void *device, size_t bytes) {
    CudaImpl *c = cuda_impl(be);
    const CudaDriver *drv = c->drv;
    for (size_t at = 0; at < bytes; at += RESULT_BYTES) {
        size_t n = bytes - at < RESULT_BYTES ? bytes - at : RESULT_BYTES;
        CUDA_OK(drv, drv->copy(c->pinned, (const unsigned char *)device + at, n, CUDA_TO_HOST, c->stream));
        CUDA_OK(drv, drv->sync(c->stream));
        memcpy((unsigned char *)host + at, c->pinned, n);
    }
}

/* -- host side of tensors -------------------------------------------------------------------------------------------
 */

static unsigned char *half_of(CudaImpl *c, int half) {
    return (unsigned char *)c->pinned + RESULT_BYTES + (size_t)half * HALF_BYTES;
}

static void *stage(Backend *be, int half, size_t *bytes) {
    CudaImpl *c = cuda_impl(be);
    if (c->half_busy[half]) CUDA_OK(c->drv, c->drv->event_sync(c->half_event[half]));
    c->half_busy[half] = false;
    *bytes = HALF_BYTES;
    return half_of(c, half);
}

static void copy_in(Backend *be, void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                    size_t rows) {
    CudaImpl *c = cuda_impl(be);
    CUDA_OK(c->drv, c->drv->copy_rows(to, to_pitch, from, from_pitch, width, rows, CUDA_TO_DEVICE, c->stream));
    for (int i = 0; i < 2; i++)
        if (from == half_of(c, i)) {
            CUDA_OK(c->drv, c->drv->event_record(c->half_event[i], c->stream));
            c->half_busy[i] = true;
            return;
        }
    CUDA_OK(c->drv, c->drv->sync(c->stream));
}

static void copy_out(Backend *be, void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                     size_t rows) {
    CudaImpl *c = cuda_impl(be);
    CUDA_OK(c->drv, c->drv->copy_rows(to, to_pitch, from, from_pitch, width, rows, CUDA_TO_HOST, c->stream));
    CUDA_OK(c->drv, c->drv->sync(c->stream));
}

/* -- life -----------------------------------------------------------------------------------------------------------
 */

static bool choose_device(CudaImpl *c, const char *isa, Error *err) {
    const CudaDriver *drv = c->drv;
    int driver = 0, runtime = 0, n = 0, code = drv->versions(&driver, &runtime);
    if (code != 0) return cuda_error(drv, code, "cudaDriverGetVersion", err);
    if (driver == 0)
        return error_set(err, ERR_IO,
                         "no NVIDIA driver here: install one for CUDA %d.%d or newer; 'dikast doctor' says more",
                         runtime / 1000, runtime % 1000 / 10);
    if ((code = drv->device_count(&n)) != 0) return cuda_error(drv, code, "cudaGetDeviceCount", err);
    if (n == 0) return cuda_error(drv, NO_DEVICE, "no GPU to be seen", err);
    if (c->device >= n)
        return error_set(err, ERR_CONFIG, "GPU %d: this machine shows %d (0 to %d)", c->device, n, n - 1);
    CudaDevice d;
    if ((code = drv->device_set(c->device)) != 0) return cuda_error(drv, code, "cudaSetDevice", err);
    if ((code = drv->device_info(&d, c->device)) != 0) return cuda_error(drv, code, "cudaGetDeviceProperties", err);
    if (d.major < LEAST_MAJOR)
        return error_set(err, ERR_CONFIG, "GPU %d (%s) has compute capability %d.%d, expected %d.0 or newer", c->device,
                         d.name, d.major, d.minor, LEAST_MAJOR);
    snprintf(c->isa, sizeof c->isa, "sm_%d%d", d.major, d.minor);
    snprintf(c->pci, sizeof c->pci, "%s", d.pci);
    c->exact = isa && strcmp(isa, "exact") == 0;
    c->hopper = strcmp(c->isa, "sm_90") == 0;
    const bool older = c->hopper && isa && strcmp(isa, "sm_80") == 0; /* no kernel that only sm_90 has */
    if (older) c->hopper = false, snprintf(c->isa, sizeof c->isa, "sm_80");
    if (isa && !c->exact && strcmp(isa, "auto") != 0 && strcmp(isa, c->isa) != 0)
        return error_set(err, ERR_CONFIG, "isa '%s': expected auto, exact%s or %s", isa, c->hopper ? ", sm_80" : "",
                         c->isa);
    c->n_sm = d.n_sm;
    c->overlaps = d.major >= 9;
    c->shared_max = d.shared_max;
    return true;
}

static void cuda_close(Backend *be) {
    CudaImpl *c = cuda_impl(be);
    const CudaDriver *drv = c->drv;
    if (c->stream) drv->sync(c->stream);
    if (c->nvml) drv->nvml_close(c->nvml);
    cuda_replay_free(c->replay, be);
    cuda_matmul_close(be);
    cuda_index_close(c->index);
    if (c->scratch) drv->put(c->scratch);
    for (int i = 0; i < 2; i++)
        if (c->half_event[i]) drv->event_close(c->half_event[i]);
    if (c->pinned) drv->host_put(c->pinned);
    if (c->stream) drv->stream_close(c->stream);
    free(c);
    be->impl = NULL;
}

static bool open_parts(Backend *be, Error *err) {
    CudaImpl *c = cuda_impl(be);
    const CudaDriver *drv = c->drv;
    int code = drv->stream_open(&c->stream);
    if (code != 0) return cuda_error(drv, code, "cudaStreamCreate", err);
    if ((code = drv->host_get(&c->pinned, RESULT_BYTES + 2 * HALF_BYTES)) != 0)
        return cuda_error(drv, code, "pinned memory for staging", err);
    c->pinned_bytes = RESULT_BYTES;
    for (int i = 0; i < 2; i++)
        if ((code = drv->event_open(&c->half_event[i], false)) != 0)
            return cuda_error(drv, code, "cudaEventCreate", err);
    return cuda_index_open(&c->index, drv, c->stream, INDEX_RING, INDEX_PINNED, err) && cuda_matmul_open(be, err);
}

bool cuda_open_with(Backend *be, const CudaDriver *drv, int device, const char *isa, Error *err) {
    CudaImpl *c = mem_alloc(sizeof *c);
    c->drv = drv;
    c->replay = cuda_replay_new();
    c->device = device < 0 ? 0 : device;
    be->op = &ops;
    be->real = DTYPE_F32;
    be->panels = false;
    be->attn_half = true;
    be->slice_values = SLICE_VALUES;
    be->pass_tok = PASS_TOK;
    be->impl = c;
    be->mem = (MemSource){.get = memory_get, .put = memory_put, .left = memory_left, .ud = c};
    if (choose_device(c, isa, err) && open_parts(be, err)) {
        be->exact = c->exact;
        size_t left = 0, total = 0;
        drv->memory(&left, &total);
        be->cache_bytes = total / CACHE_SHARE;
        return true;
    }
    cuda_close(be);
    return false;
}

static bool cuda_open(Backend *be, int device, const char *isa, Error *err) {
    return cuda_open_with(be, cuda_driver(), device, isa, err);
}

static const char *cuda_isa(const Backend *be) { return ((const CudaImpl *)be->impl)->isa; }

static void set_dtype(Backend *be) {
    if (be->dtype == DTYPE_BF16) cuda_attn_check(be);
}

static void tell(const Backend *be, BackendSay *say, void *ud) {
    const CudaImpl *c = be->impl;
    char value[320];
    snprintf(value, sizeof value, "kernels of %s", c->isa);
    if (c->checked && c->hopper)
        snprintf(value, sizeof value, "kernels for compute capability 9.0, %.1e from the older ones in a small case",
                 c->difference);
    say(ud, be->note ? 1 : 0, "attention", "report it", be->note ? be->note : value);
}

static void probe(BackendSay *say, void *ud) { cuda_probe(cuda_driver(), say, ud); }

/* NVML needs no context and waits for nothing that computes. Where there is none the first question says so for good.
 */
static bool load(Backend *be, LoadDevice *out) {
    CudaImpl *c = cuda_impl(be);
    CudaState s;
    Error err = {0};
    if (!c->asked_nvml && !c->drv->nvml_open(&c->nvml, &err)) c->nvml = NULL;
    c->asked_nvml = true;
    if (!c->nvml || !c->drv->nvml_state(c->nvml, c->pci, &s, &err)) return false;
    *out = (LoadDevice){.busy = s.gpu, .bytes = s.used_bytes, .watts = s.watts, .mhz = s.sm_mhz};
    return true;
}

static void wait_all(Backend *be) { CUDA_OK(cuda_impl(be)->drv, cuda_impl(be)->drv->sync(cuda_impl(be)->stream)); }

const BackendProvider backend_cuda = {.name = "cuda",
                                      .open = cuda_open,
                                      .close = cuda_close,
                                      .isa = cuda_isa,
                                      .probe = probe,
                                      .load = load,
                                      .set_dtype = set_dtype,
                                      .tell = tell,
                                      .replay_begin = cuda_replay_begin,
                                      .replay_end = cuda_replay_end,
                                      .wait = wait_all,
                                      .stage = stage,
                                      .copy_in = copy_in,
                                      .copy_out = copy_out};
