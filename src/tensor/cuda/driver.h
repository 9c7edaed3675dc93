/* tensor/cuda/driver.h — everything outside our own code that the cuda backend's host side calls, as one table: the CUDA
 * runtime (linked statically, so that a CUDA build starts on a machine without a driver), cuBLASLt and NVML (opened at run
 * time). driver.c holds the real one; tests put a fake or an emulated one in its place. No CUDA header is needed here:
 * handles are void *, numbers that a library gives meaning to are named below and compared with its header in driver.c.
 *
 * Runtime calls return 0 or an error code that error_name and error_text explain. Setup turns it into an Error, everything
 * after setup into a CHECK (cuda_ok). */
#ifndef DIKAST_TENSOR_CUDA_DRIVER_H
#define DIKAST_TENSOR_CUDA_DRIVER_H

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    char name[256];
    int major, minor;               /* compute capability */
    int n_sm, warp;                 /* multiprocessors; threads of a warp */
    size_t shared_max, total_bytes; /* shared memory a block may ask for; device memory */
    size_t l2_bytes;
    char pci[32];                   /* bus address, as NVML wants it */
} CudaDevice;

typedef enum { CUDA_TO_DEVICE, CUDA_TO_HOST, CUDA_ON_DEVICE } CudaWay;

/* -- cuBLASLt: names and order of arguments are the library's; see its documentation ---------------------------------- */
typedef struct { uint64_t data[8]; } CudaAlgo;                          /* cublasLtMatmulAlgo_t */
typedef struct { CudaAlgo algo; size_t workspace; int state; float waves; int reserved[4]; } CudaHeuristic;

enum {
    CUDA_R_F32 = 0, CUDA_R_F64 = 1, CUDA_R_I8 = 3, CUDA_R_I32 = 10, CUDA_R_BF16 = 14,               /* cudaDataType_t */
    LT_COMPUTE_F32 = 68, LT_COMPUTE_F32_PEDANTIC = 69,                                              /* cublasComputeType_t */
    LT_OP_N = 0, LT_OP_T = 1,                                                                       /* cublasOperation_t */
    LT_LAYOUT_TYPE = 0, LT_LAYOUT_ORDER = 1, LT_LAYOUT_ROWS = 2, LT_LAYOUT_COLS = 3, LT_LAYOUT_LD = 4,
    LT_DESC_POINTER_MODE = 2, LT_DESC_TRANSA = 3, LT_DESC_TRANSB = 4, LT_DESC_EPILOGUE = 7,
    LT_DESC_BIAS_POINTER = 8, LT_DESC_SM_COUNT_TARGET = 15, LT_DESC_BIAS_DATA_TYPE = 26,
    LT_EPILOGUE_DEFAULT = 1, LT_EPILOGUE_BIAS = 4, LT_EPILOGUE_BGRADA = 256, LT_EPILOGUE_BGRADB = 512,
    LT_PREF_SEARCH_MODE = 0, LT_PREF_WORKSPACE = 1, LT_PREF_REDUCTION_SCHEMES = 3,
    LT_PREF_ALIGN_A = 5, LT_PREF_ALIGN_B = 6, LT_PREF_ALIGN_C = 7, LT_PREF_ALIGN_D = 8,
    LT_CONFIG_ID = 0, LT_CONFIG_TILE = 1, LT_CONFIG_SPLIT_K = 2, LT_CONFIG_REDUCTION_SCHEME = 3     /* AlgoConfig */
};

typedef struct {
    void *lib;                                  /* NULL: not open */
    size_t (*version)(void);                    /* 130100: 13.1.0 */
    const char *(*status_name)(int status);
    int (*create)(void **handle);
    int (*destroy)(void *handle);
    int (*matmul)(void *handle, void *desc, const void *alpha, const void *a, void *la, const void *b, void *lb,
                  const void *beta, const void *c, void *lc, void *d, void *ld, const CudaAlgo *algo, void *workspace,
                  size_t workspace_bytes, void *stream);
    int (*desc_create)(void **desc, int compute, int scale_type);
    int (*desc_set)(void *desc, int attribute, const void *value, size_t bytes);
    int (*desc_destroy)(void *desc);
    int (*layout_create)(void **layout, int type, uint64_t rows, uint64_t cols, int64_t ld);
    int (*layout_set)(void *layout, int attribute, const void *value, size_t bytes);
    int (*layout_destroy)(void *layout);
    int (*pref_create)(void **pref);
    int (*pref_set)(void *pref, int attribute, const void *value, size_t bytes);
    int (*pref_destroy)(void *pref);
    int (*heuristics)(void *handle, void *desc, void *la, void *lb, void *lc, void *ld, void *pref, int want,
                      CudaHeuristic *out, int *n);
    int (*algo_check)(void *handle, void *desc, void *la, void *lb, void *lc, void *ld, const CudaAlgo *algo,
                      CudaHeuristic *out);
    int (*algo_get)(const CudaAlgo *algo, int attribute, void *value, size_t bytes, size_t *written);
    int (*algo_set)(CudaAlgo *algo, int attribute, const void *value, size_t bytes);
} CudaLt;

/* -- NVML: a device's state; a field is negative where the device does not tell ---------------------------------------- */
typedef struct {
    double gpu, memory;                         /* busy share of the last sample period, 0..1 */
    double used_bytes, total_bytes, watts, watts_max, celsius, sm_mhz, mem_mhz;
} CudaState;

typedef struct {
    /* errors */
    const char *(*error_name)(int code);
    const char *(*error_text)(int code);
    int (*last_error)(void);                    /* and forgets it */
    /* devices */
    int (*versions)(int *driver, int *runtime); /* 13000: 13.0; driver 0: none installed */
    int (*device_count)(int *n);
    int (*device_set)(int device);
    int (*device_info)(CudaDevice *out, int device);
    int (*memory)(size_t *left, size_t *total); /* bytes of the device that is set */
    /* memory */
    int (*get)(void **p, size_t bytes);         /* device memory, 256-byte aligned */
    int (*put)(void *p);                        /* waits for what uses it */
    int (*host_get)(void **p, size_t bytes);    /* pinned */
    int (*host_put)(void *p);
    /* queued on stream. A copy between device and pinned memory returns at once; with other host memory the caller must
     * sync before it relies on either side. rows of width bytes, pitch bytes apart */
    int (*copy)(void *to, const void *from, size_t bytes, CudaWay way, void *stream);
    int (*copy_rows)(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t rows, CudaWay way,
                     void *stream);
    int (*fill)(void *p, int byte, size_t bytes, void *stream);
    /* streams and events */
    int (*stream_open)(void **stream);          /* does not wait for the default stream */
    int (*stream_close)(void *stream);
    int (*sync)(void *stream);
    int (*event_open)(void **event, bool timing);
    int (*event_close)(void *event);
    int (*event_record)(void *event, void *stream);
    int (*event_sync)(void *event);
    int (*event_ms)(float *ms, void *from, void *to);   /* both recorded with timing and over */
    /* what is queued on stream between begin and end becomes a graph, and does not run; NULL: cannot */
    int (*capture_begin)(void *stream);
    int (*capture_end)(void *stream, void **graph); /* ready to launch; on failure none, and the stream captures no more */
    int (*graph_launch)(void *graph, void *stream);
    int (*graph_close)(void *graph);
    /* libraries that only some machines have: false says what was looked for and how to get it */
    bool (*lt_open)(CudaLt *out, Error *err);
    void (*lt_close)(CudaLt *lt);
    bool (*nvml_open)(void **out, Error *err);
    void (*nvml_close)(void *nvml);
    bool (*nvml_state)(void *nvml, const char *pci, CudaState *out, Error *err);
    bool (*nvml_driver)(void *nvml, char *version, size_t n);   /* "580.82.07" */
    /* Version of a shared library that doctor asks for ("nccl", "cudnn"); false says how to get it. */
    bool (*library)(const char *name, char *version, size_t n, Error *err);
} CudaDriver;

const CudaDriver *cuda_driver(void);    /* driver.c; in tests driver_emu.c */

/* CHECKs a runtime call's code: names the call, the error and what it may mean. */
#define CUDA_OK(drv, call) cuda_ok((drv), (call), #call, __FILE__, __LINE__)
void cuda_ok(const CudaDriver *drv, int code, const char *call, const char *file, int line);
/* The same as an Error, for setup; always false. */
bool cuda_error(const CudaDriver *drv, int code, const char *call, Error *err);

#ifdef __cplusplus
}
#endif

#endif
