/* tensor/cuda/driver.c — the real table. The runtime is linked statically and finds the driver itself; cuBLASLt, NVML,
 * NCCL and cuDNN are opened by name. */
#include "tensor/cuda/driver.h"

#include <cublasLt.h>
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- the numbers that driver.h repeats -------------------------------------------------------------------------------
 */

#define SAME(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #ours " is not " #theirs)
SAME(CUDA_R_F32, CUDA_R_32F);
SAME(CUDA_R_F64, CUDA_R_64F);
SAME(CUDA_R_I8, CUDA_R_8I);
SAME(CUDA_R_I32, CUDA_R_32I);
SAME(CUDA_R_BF16, CUDA_R_16BF);
SAME(LT_COMPUTE_F32, CUBLAS_COMPUTE_32F);
SAME(LT_COMPUTE_F32_PEDANTIC, CUBLAS_COMPUTE_32F_PEDANTIC);
SAME(LT_OP_N, CUBLAS_OP_N);
SAME(LT_OP_T, CUBLAS_OP_T);
SAME(LT_LAYOUT_TYPE, CUBLASLT_MATRIX_LAYOUT_TYPE);
SAME(LT_LAYOUT_ORDER, CUBLASLT_MATRIX_LAYOUT_ORDER);
SAME(LT_LAYOUT_ROWS, CUBLASLT_MATRIX_LAYOUT_ROWS);
SAME(LT_LAYOUT_COLS, CUBLASLT_MATRIX_LAYOUT_COLS);
SAME(LT_LAYOUT_LD, CUBLASLT_MATRIX_LAYOUT_LD);
SAME(LT_DESC_POINTER_MODE, CUBLASLT_MATMUL_DESC_POINTER_MODE);
SAME(LT_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(LT_DESC_TRANSB, CUBLASLT_MATMUL_DESC_TRANSB);
SAME(LT_DESC_EPILOGUE, CUBLASLT_MATMUL_DESC_EPILOGUE);
SAME(LT_DESC_BIAS_POINTER, CUBLASLT_MATMUL_DESC_BIAS_POINTER);
SAME(LT_DESC_SM_COUNT_TARGET, CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET);
SAME(LT_DESC_BIAS_DATA_TYPE, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE);
SAME(LT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_DEFAULT);
SAME(LT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_BIAS);
SAME(LT_EPILOGUE_BGRADA, CUBLASLT_EPILOGUE_BGRADA);
SAME(LT_EPILOGUE_BGRADB, CUBLASLT_EPILOGUE_BGRADB);
SAME(LT_PREF_SEARCH_MODE, CUBLASLT_MATMUL_PREF_SEARCH_MODE);
SAME(LT_PREF_WORKSPACE, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(LT_PREF_REDUCTION_SCHEMES, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
SAME(LT_PREF_ALIGN_A, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
SAME(LT_PREF_ALIGN_B, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
SAME(LT_PREF_ALIGN_C, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
SAME(LT_PREF_ALIGN_D, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
SAME(LT_CONFIG_ID, CUBLASLT_ALGO_CONFIG_ID);
SAME(LT_CONFIG_TILE, CUBLASLT_ALGO_CONFIG_TILE_ID);
SAME(LT_CONFIG_SPLIT_K, CUBLASLT_ALGO_CONFIG_SPLITK_NUM);
SAME(LT_CONFIG_REDUCTION_SCHEME, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME);
SAME(sizeof(CudaAlgo), sizeof(cublasLtMatmulAlgo_t));
SAME(sizeof(CudaHeuristic), sizeof(cublasLtMatmulHeuristicResult_t));
SAME(offsetof(CudaHeuristic, workspace), offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
SAME(offsetof(CudaHeuristic, state), offsetof(cublasLtMatmulHeuristicResult_t, state));
SAME(offsetof(CudaHeuristic, waves), offsetof(cublasLtMatmulHeuristicResult_t, wavesCount));

/* -- runtime ----------------------------------------------------------------------------------------------------------
 */

static const char *rt_error_name(int code) { return cudaGetErrorName((cudaError_t)code); }
static const char *rt_error_text(int code) { return cudaGetErrorString((cudaError_t)code); }
static int rt_last_error(void) { return (int)cudaGetLastError(); }

static int rt_versions(int *driver, int *runtime) {
    int code = (int)cudaDriverGetVersion(driver);
    return code ? code : (int)cudaRuntimeGetVersion(runtime);
}

static int rt_device_count(int *n) { return (int)cudaGetDeviceCount(n); }
static int rt_device_set(int device) { return (int)cudaSetDevice(device); }

static int rt_device_info(CudaDevice *out, int device) {
    struct cudaDeviceProp p;
    int code = (int)cudaGetDeviceProperties(&p, device);
    if (code != 0) return code;
    *out = (CudaDevice){.major = p.major,
                        .minor = p.minor,
                        .n_sm = p.multiProcessorCount,
                        .warp = p.warpSize,
                        .shared_max = p.sharedMemPerBlockOptin,
                        .total_bytes = p.totalGlobalMem,
                        .l2_bytes = p.l2CacheSize > 0 ? (size_t)p.l2CacheSize : 0};
    snprintf(out->name, sizeof out->name, "%s", p.name);
    return (int)cudaDeviceGetPCIBusId(out->pci, sizeof out->pci, device);
}

static int rt_memory(size_t *left, size_t *total) { return (int)cudaMemGetInfo(left, total); }
static int rt_get(void **p, size_t bytes) { return (int)cudaMalloc(p, bytes); }
static int rt_put(void *p) { return (int)cudaFree(p); }
static int rt_host_get(void **p, size_t bytes) { return (int)cudaHostAlloc(p, bytes, cudaHostAllocPortable); }
static int rt_host_put(void *p) { return (int)cudaFreeHost(p); }

static enum cudaMemcpyKind kind_of(CudaWay way) {
    static const enum cudaMemcpyKind kind[] = {
        [CUDA_TO_DEVICE] = cudaMemcpyHostToDevice,
        [CUDA_TO_HOST] = cudaMemcpyDeviceToHost,
        [CUDA_ON_DEVICE] = cudaMemcpyDeviceToDevice,
    };
    return kind[way];
}

static int rt_copy(void *to, const void *from, size_t bytes, CudaWay way, void *stream) {
    return (int)cudaMemcpyAsync(to, from, bytes, kind_of(way), stream);
}

/* One long row where nothing lies between rows: pitches of cudaMemcpy2D are limited, and one copy is faster. */
static int rt_copy_rows(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t rows,
                        CudaWay way, void *stream) {
    if (rows == 1 || (to_pitch == width && from_pitch == width)) return rt_copy(to, from, width * rows, way, stream);
    return (int)cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, width, rows, kind_of(way), stream);
}

static int rt_fill(void *p, int byte, size_t bytes, void *stream) {
    return (int)cudaMemsetAsync(p, byte, bytes, stream);
}

static int rt_stream_open(void **stream) {
    cudaStream_t s = NULL;
    int code = (int)cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    *stream = s;
    return code;
}

static int rt_stream_close(void *stream) { return (int)cudaStreamDestroy(stream); }
static int rt_sync(void *stream) { return (int)cudaStreamSynchronize(stream); }

static int rt_event_open(void **event, bool timing) {
    cudaEvent_t e = NULL;
    int code = (int)cudaEventCreateWithFlags(&e, timing ? cudaEventDefault : cudaEventDisableTiming);
    *event = e;
    return code;
}

static int rt_event_close(void *event) { return (int)cudaEventDestroy(event); }
static int rt_event_record(void *event, void *stream) { return (int)cudaEventRecord(event, stream); }
static int rt_event_sync(void *event) { return (int)cudaEventSynchronize(event); }
static int rt_event_ms(float *ms, void *from, void *to) { return (int)cudaEventElapsedTime(ms, from, to); }

static int rt_capture_begin(void *stream) {
    return (int)cudaStreamBeginCapture((cudaStream_t)stream, cudaStreamCaptureModeRelaxed);
}

static int rt_capture_end(void *stream, void **graph) {
    cudaGraph_t ops = NULL;
    int code = (int)cudaStreamEndCapture((cudaStream_t)stream, &ops);
    if (code == 0) code = (int)cudaGraphInstantiate((cudaGraphExec_t *)graph, ops, 0);
    if (ops) cudaGraphDestroy(ops);
    return code;
}

static int rt_graph_launch(void *graph, void *stream) {
    return (int)cudaGraphLaunch((cudaGraphExec_t)graph, (cudaStream_t)stream);
}

static int rt_graph_close(void *graph) { return (int)cudaGraphExecDestroy((cudaGraphExec_t)graph); }

/* -- libraries that only some machines have
 * ----------------------------------------------------------------------------- */

typedef struct {
    const char *name;    /* as doctor calls it */
    const char *file[3]; /* newest first, NULL behind the last */
    const char *get;     /* how to get it */
} Library;

static const Library cublas_lt = {
    "cuBLASLt",
    {"libcublasLt.so.13", "libcublasLt.so.12", NULL},
    "install the CUDA toolkit's cuBLAS (Debian, Ubuntu: libcublas-13-0 of NVIDIA's repository)"};
static const Library nvml_library = {"NVML", {"libnvidia-ml.so.1", NULL, NULL}, "it comes with the NVIDIA driver"};
static const Library others[] = {
    {"nccl", {"libnccl.so.2", NULL, NULL}, "needed for several GPUs: install libnccl2 of NVIDIA's repository"},
    {"cudnn", {"libcudnn.so.9", NULL, NULL}, "optional: install libcudnn9-cuda-13 of NVIDIA's repository"},
};

/* Where the dynamic linker looks, then where toolkits are put without telling it. */
static void *library_open(const Library *l, Error *err) {
    static const char *const folder[] = {"/usr/local/cuda/lib64", "/usr/lib/x86_64-linux-gnu",
                                         "/usr/lib/aarch64-linux-gnu"};
    for (int i = 0; l->file[i]; i++) {
        void *lib = dlopen(l->file[i], RTLD_NOW | RTLD_LOCAL);
        for (int f = 0; f < COUNT_OF(folder) && !lib; f++) {
            char path[128];
            snprintf(path, sizeof path, "%s/%s", folder[f], l->file[i]);
            lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        }
        if (lib) return lib;
    }
    error_set(err, ERR_IO, "%s: neither %s%s%s is here; %s", l->name, l->file[0], l->file[1] ? " nor " : "",
              l->file[1] ? l->file[1] : "", l->get);
    if (!l->file[1]) error_set(err, ERR_IO, "%s: %s is not here; %s", l->name, l->file[0], l->get);
    return NULL;
}

typedef struct {
    const char *symbol;
    size_t at; /* of the function pointer in the table it goes to */
} Symbol;

static bool symbols(void *table, void *lib, const Library *l, const Symbol *s, int n, Error *err) {
    for (int i = 0; i < n; i++) {
        void *p = dlsym(lib, s[i].symbol);
        if (!p)
            return error_set(err, ERR_IO, "%s: the library here has no %s: it is too old; %s", l->name, s[i].symbol,
                             l->get);
        memcpy((unsigned char *)table + s[i].at, &p, sizeof p);
    }
    return true;
}

static bool lt_open(CudaLt *out, Error *err) {
    static const Symbol all[] = {
        {"cublasLtGetVersion", offsetof(CudaLt, version)},
        {"cublasLtGetStatusName", offsetof(CudaLt, status_name)},
        {"cublasLtCreate", offsetof(CudaLt, create)},
        {"cublasLtDestroy", offsetof(CudaLt, destroy)},
        {"cublasLtMatmul", offsetof(CudaLt, matmul)},
        {"cublasLtMatmulDescCreate", offsetof(CudaLt, desc_create)},
        {"cublasLtMatmulDescSetAttribute", offsetof(CudaLt, desc_set)},
        {"cublasLtMatmulDescDestroy", offsetof(CudaLt, desc_destroy)},
        {"cublasLtMatrixLayoutCreate", offsetof(CudaLt, layout_create)},
        {"cublasLtMatrixLayoutSetAttribute", offsetof(CudaLt, layout_set)},
        {"cublasLtMatrixLayoutDestroy", offsetof(CudaLt, layout_destroy)},
        {"cublasLtMatmulPreferenceCreate", offsetof(CudaLt, pref_create)},
        {"cublasLtMatmulPreferenceSetAttribute", offsetof(CudaLt, pref_set)},
        {"cublasLtMatmulPreferenceDestroy", offsetof(CudaLt, pref_destroy)},
        {"cublasLtMatmulAlgoGetHeuristic", offsetof(CudaLt, heuristics)},
        {"cublasLtMatmulAlgoCheck", offsetof(CudaLt, algo_check)},
        {"cublasLtMatmulAlgoConfigGetAttribute", offsetof(CudaLt, algo_get)},
        {"cublasLtMatmulAlgoConfigSetAttribute", offsetof(CudaLt, algo_set)},
    };
    *out = (CudaLt){0};
    void *lib = library_open(&cublas_lt, err);
    if (!lib) return false;
    if (!symbols(out, lib, &cublas_lt, all, COUNT_OF(all), err)) {
        dlclose(lib);
        return false;
    }
    out->lib = lib;
    return true;
}

static void lt_close(CudaLt *lt) {
    if (lt->lib) dlclose(lt->lib);
    *lt = (CudaLt){0};
}

static bool library(const char *name, char *version, size_t n, Error *err) {
    for (int i = 0; i < COUNT_OF(others); i++) {
        if (strcmp(others[i].name, name) != 0) continue;
        void *lib = library_open(&others[i], err);
        if (!lib) return false;
        int (*nccl)(int *) = NULL;
        size_t (*cudnn)(void) = NULL;
        void *p = dlsym(lib, "ncclGetVersion"), *q = dlsym(lib, "cudnnGetVersion");
        memcpy(&nccl, &p, sizeof p);
        memcpy(&cudnn, &q, sizeof q);
        int v = 0;
        if (cudnn) v = (int)cudnn();
        if (nccl && nccl(&v) != 0) v = 0;
        snprintf(version, n, "%d.%d.%d", v / 10000, v / 100 % 100, v % 100);
        dlclose(lib);
        return true;
    }
    return error_set(err, ERR_CONFIG, "no library is called '%s' here", name);
}

/* -- NVML: its header comes with few machines; these are its structures and numbers
 * ------------------------------------- */

typedef struct {
    unsigned gpu, memory; /* percent */
} NvmlUtilization;

typedef struct {
    unsigned long long total, left, used;
} NvmlMemory;

enum { NVML_CLOCK_SM = 1, NVML_CLOCK_MEM = 2, NVML_TEMPERATURE_GPU = 0 };

typedef struct {
    void *lib;
    int (*init)(void);
    int (*shutdown)(void);
    const char *(*text)(int code);
    int (*version)(char *out, unsigned n);
    int (*by_pci)(const char *pci, void **device);
    int (*utilization)(void *device, NvmlUtilization *out);
    int (*memory)(void *device, NvmlMemory *out);
    int (*power)(void *device, unsigned *milliwatts);
    int (*power_max)(void *device, unsigned *milliwatts);
    int (*temperature)(void *device, int sensor, unsigned *celsius);
    int (*clock)(void *device, int which, unsigned *mhz);
} Nvml;

static void nvml_close(void *nvml) {
    Nvml *m = nvml;
    if (!m) return;
    m->shutdown();
    dlclose(m->lib);
    free(m);
}

static bool nvml_open(void **out, Error *err) {
    static const Symbol all[] = {
        {"nvmlInit_v2", offsetof(Nvml, init)},
        {"nvmlShutdown", offsetof(Nvml, shutdown)},
        {"nvmlErrorString", offsetof(Nvml, text)},
        {"nvmlSystemGetDriverVersion", offsetof(Nvml, version)},
        {"nvmlDeviceGetHandleByPciBusId_v2", offsetof(Nvml, by_pci)},
        {"nvmlDeviceGetUtilizationRates", offsetof(Nvml, utilization)},
        {"nvmlDeviceGetMemoryInfo", offsetof(Nvml, memory)},
        {"nvmlDeviceGetPowerUsage", offsetof(Nvml, power)},
        {"nvmlDeviceGetEnforcedPowerLimit", offsetof(Nvml, power_max)},
        {"nvmlDeviceGetTemperature", offsetof(Nvml, temperature)},
        {"nvmlDeviceGetClockInfo", offsetof(Nvml, clock)},
    };
    *out = NULL;
    void *lib = library_open(&nvml_library, err);
    if (!lib) return false;
    Nvml *m = mem_alloc(sizeof *m);
    m->lib = lib;
    bool ok = symbols(m, lib, &nvml_library, all, COUNT_OF(all), err);
    int code = ok ? m->init() : 0;
    if (code != 0) ok = error_set(err, ERR_IO, "NVML: %s", m->text(code));
    if (ok) {
        *out = m;
        return true;
    }
    dlclose(lib);
    free(m);
    return false;
}

static bool nvml_state(void *nvml, const char *pci, CudaState *out, Error *err) {
    const Nvml *m = nvml;
    *out = (CudaState){-1, -1, -1, -1, -1, -1, -1, -1, -1};
    void *d = NULL;
    int code = m->by_pci(pci, &d);
    if (code != 0) return error_set(err, ERR_IO, "NVML: device %s: %s", pci, m->text(code));
    NvmlUtilization u;
    NvmlMemory memory;
    unsigned v;
    if (m->utilization(d, &u) == 0) out->gpu = u.gpu / 100.0, out->memory = u.memory / 100.0;
    if (m->memory(d, &memory) == 0) out->used_bytes = (double)memory.used, out->total_bytes = (double)memory.total;
    if (m->power(d, &v) == 0) out->watts = v / 1000.0;
    if (m->power_max(d, &v) == 0) out->watts_max = v / 1000.0;
    if (m->temperature(d, NVML_TEMPERATURE_GPU, &v) == 0) out->celsius = v;
    if (m->clock(d, NVML_CLOCK_SM, &v) == 0) out->sm_mhz = v;
    if (m->clock(d, NVML_CLOCK_MEM, &v) == 0) out->mem_mhz = v;
    return true;
}

static bool nvml_driver(void *nvml, char *version, size_t n) {
    return ((const Nvml *)nvml)->version(version, (unsigned)n) == 0;
}

const CudaDriver *cuda_driver(void) {
    static const CudaDriver table = {
        .error_name = rt_error_name,
        .error_text = rt_error_text,
        .last_error = rt_last_error,
        .versions = rt_versions,
        .device_count = rt_device_count,
        .device_set = rt_device_set,
        .device_info = rt_device_info,
        .memory = rt_memory,
        .get = rt_get,
        .put = rt_put,
        .host_get = rt_host_get,
        .host_put = rt_host_put,
        .copy = rt_copy,
        .copy_rows = rt_copy_rows,
        .fill = rt_fill,
        .stream_open = rt_stream_open,
        .stream_close = rt_stream_close,
        .sync = rt_sync,
        .event_open = rt_event_open,
        .event_close = rt_event_close,
        .event_record = rt_event_record,
        .event_sync = rt_event_sync,
        .event_ms = rt_event_ms,
        .capture_begin = rt_capture_begin,
        .capture_end = rt_capture_end,
        .graph_launch = rt_graph_launch,
        .graph_close = rt_graph_close,
        .lt_open = lt_open,
        .lt_close = lt_close,
        .nvml_open = nvml_open,
        .nvml_close = nvml_close,
        .nvml_state = nvml_state,
        .nvml_driver = nvml_driver,
        .library = library,
    };
    return &table;
}
