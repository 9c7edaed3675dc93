#include "tensor/cuda/cuda.h"

#include <stdarg.h>
#include <stdio.h>

typedef struct {
    const CudaDriver *drv;
    BackendSay *say;
    void *ud;
} Probe;

enum { FINE, WARNING, FAILURE };

static void say(const Probe *p, int state, const char *what, const char *fix, const char *fmt, ...) FORMAT(5, 6);
static void say(const Probe *p, int state, const char *what, const char *fix, const char *fmt, ...) {
    char value[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(value, sizeof value, fmt, ap);
    va_end(ap);
    p->say(p->ud, state, what, fix, value);
}

/* What NVML knows of a device, behind the line about it. */
static void sensors(char *out, size_t n, const Probe *p, void *nvml, const char *pci) {
    CudaState s;
    Error err = {0};
    *out = 0;
    if (!nvml || !p->drv->nvml_state(nvml, pci, &s, &err)) return;
    size_t at = 0;
    if (s.celsius >= 0) at += (size_t)snprintf(out + at, n - at, ", %.0f C", s.celsius);
    if (s.watts >= 0) at += (size_t)snprintf(out + at, n - at, ", %.0f of %.0f W", s.watts, s.watts_max);
    if (s.sm_mhz >= 0) at += (size_t)snprintf(out + at, n - at, ", %.0f MHz", s.sm_mhz);
    if (s.gpu >= 0) snprintf(out + at, n - at, ", %.0f %% busy", 100 * s.gpu);
}

static void one_device(const Probe *p, int device, void *nvml) {
    const CudaDriver *drv = p->drv;
    CudaDevice d;
    size_t left = 0, total = 0;
    char name[16], more[128];
    Error err = {0};
    snprintf(name, sizeof name, "cuda:%d", device);
    int code = drv->device_set(device);
    if (code == 0) code = drv->device_info(&d, device);
    if (code == 0) code = drv->memory(&left, &total);
    if (code != 0) {
        cuda_error(drv, code, "this GPU cannot be used", &err);
        say(p, FAILURE, name, "free it or take another one", "%s", err.msg);
        return;
    }
    sensors(more, sizeof more, p, nvml, d.pci);
    bool old = d.major < 8, full = left < total / 2;
    say(p,
        old    ? FAILURE
        : full ? WARNING
               : FINE,
        name,
        old ? "a GPU of compute capability 8.0 (Ampere) or newer is needed"
            : "other processes use its memory: see nvidia-smi",
        "%s, compute capability %d.%d, %d multiprocessors, %.1f GiB of %.1f left%s", d.name, d.major, d.minor, d.n_sm,
        (double)left / (1 << 30), (double)total / (1 << 30), more);
}

static void devices(const Probe *p, void *nvml) {
    int driver = 0, runtime = 0, n = 0, code = p->drv->versions(&driver, &runtime);
    char name[80] = "";
    if (nvml && p->drv->nvml_driver(nvml, name, sizeof name)) driver = driver ? driver : 1;
    if (code != 0 || driver == 0) {
        say(p, WARNING, "gpu", "install the NVIDIA driver, or use --device cpu",
            "no NVIDIA driver here; this build has code for CUDA %d.%d", runtime / 1000, runtime % 1000 / 10);
        return;
    }
    say(p, driver / 1000 < runtime / 1000 ? FAILURE : FINE, "driver", "install a newer NVIDIA driver",
        "%s%sCUDA %d.%d; this build was made with %d.%d", name, *name ? ", for " : "for ", driver / 1000,
        driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    code = p->drv->device_count(&n);
    if (code != 0 || n == 0) {
        Error err = {0};
        cuda_error(p->drv, code ? code : 100, "no GPU can be used", &err);
        say(p, WARNING, "gpu", "see nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu", "%s", err.msg);
    }
    for (int i = 0; i < n && code == 0; i++) one_device(p, i, nvml);
}

static void libraries(const Probe *p, bool has_nvml, const Error *no_nvml) {
    static const char *const optional[] = {"nccl", "cudnn"};
    Error err = {0};
    CudaLt lt;
    if (p->drv->lt_open(&lt, &err)) {
        size_t v = lt.version();
        say(p, FINE, "cublaslt", NULL, "%zu.%zu.%zu", v / 10000, v / 100 % 100, v % 100);
        p->drv->lt_close(&lt);
    } else
        say(p, WARNING, "cublaslt", "without it a GPU cannot be used", "%s", err.msg);
    say(p, has_nvml ? FINE : WARNING, "nvml", "without it metrics lack the GPU's load, power and temperature", "%s",
        has_nvml ? "is there" : no_nvml->msg);
    for (int i = 0; i < COUNT_OF(optional); i++) {
        char version[32];
        bool there = p->drv->library(optional[i], version, sizeof version, &err);
        say(p, FINE, optional[i], NULL, "%s", there ? version : err.msg);
    }
}

void cuda_probe(const CudaDriver *drv, BackendSay *say_to, void *ud) {
    Probe p = {drv, say_to, ud};
    void *nvml = NULL;
    Error no_nvml = {0};
    bool has_nvml = drv->nvml_open(&nvml, &no_nvml);
    devices(&p, nvml);
    libraries(&p, has_nvml, &no_nvml);
    if (nvml) drv->nvml_close(nvml);
}
