/* tests/emu/driver_emu.c — a driver table without a GPU, under the kernels that src/tensor/cuda/emu runs on a CPU.
 *
 * Device memory is one reserved range that the host may touch only in here and while a kernel runs: code that reads or
 * writes a tensor behind the backend's back dies at that line, as it would with a GPU. Everything is done at once, in
 * order; copies are checked against what was allocated. Threads, each with a backend of its own, take turns: one kernel
 * or copy at a time. Recordings are one thread's. */
#include "emu/driver_emu.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { ALIGN = 256, BLOCKS = 4096, OUT_OF_MEMORY = 2, BAD_VALUE = 1 };

typedef struct {
    size_t at, bytes;
} Block;

static struct {
    unsigned char *base;
    size_t cap, high; /* high: end of the highest block */
    Block block[BLOCKS];
    int n, open;
    int64_t n_event;
} device = {.cap = (size_t)4 << 30};

static pthread_mutex_t turn = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static const size_t page = 1 << 21; /* a huge one, where there are: protect has so many fewer to change */

static void protect(int prot) {
    size_t end = (device.high + page - 1) / page * page;
    if (end > 0 && mprotect(device.base, end, prot) != 0) abort();
}

/* A thread's turn lasts as long as memory is open for it. */
void emu_device_memory(bool open) {
    if (open) pthread_mutex_lock(&turn);
    if (open && device.open++ == 0) protect(PROT_READ | PROT_WRITE);
    if (!open && --device.open == 0) protect(PROT_NONE);
    if (!open) pthread_mutex_unlock(&turn);
}

void emu_device_memory_frozen(bool frozen) { protect(frozen ? PROT_READ : PROT_READ | PROT_WRITE); }

bool emu_on_device(const void *p) {
    uintptr_t at = (uintptr_t)p, base = (uintptr_t)device.base;
    return device.base && at >= base && at < base + device.cap;
}

/* Do `bytes` from p on lie inside one block, or all of them outside of device memory? */
static bool whole(const void *p, size_t bytes, bool on_device) {
    if (emu_on_device(p) != on_device) return false;
    if (!on_device) return true;
    size_t at = (size_t)((const unsigned char *)p - device.base);
    for (int i = 0; i < device.n; i++)
        if (at >= device.block[i].at && at + bytes <= device.block[i].at + device.block[i].bytes) return true;
    return false;
}

static const char *error_name(int code) {
    return code == OUT_OF_MEMORY ? "emuOutOfMemory" : code == 0 ? "emuSuccess" : "emuInvalidValue";
}

static const char *error_text(int code) {
    return code == OUT_OF_MEMORY ? "out of memory" : code == 0 ? "no error" : "invalid argument";
}

static int last_error(void) { return 0; }

static int versions(int *driver, int *runtime) {
    *driver = *runtime = 13000;
    return 0;
}

static int device_count(int *n) {
    *n = 1;
    return 0;
}

static int device_set(int i) { return i == 0 ? 0 : BAD_VALUE; }

/* As an H100 but for the few multiprocessors: persistent kernels shall have more work than blocks. */
static int device_info(CudaDevice *out, int i) {
    *out = (CudaDevice){.name = "emulated", .major = 9, .n_sm = 3, .warp = 32, .shared_max = 227 << 10};
    out->total_bytes = device.cap;
    out->l2_bytes = 1 << 20;
    return i == 0 ? 0 : BAD_VALUE;
}

static int memory(size_t *left, size_t *total) {
    pthread_mutex_lock(&turn);
    *total = *left = device.cap;
    for (int i = 0; i < device.n; i++) *left -= device.block[i].bytes;
    pthread_mutex_unlock(&turn);
    return 0;
}

/* Blocks are kept in order; the first gap that is wide enough is taken, one page from the blocks beside it. */
static int take(void **p, size_t bytes) {
    if (!device.base) {
        void *base = mmap(NULL, device.cap + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base == MAP_FAILED) return OUT_OF_MEMORY;
        device.base = (unsigned char *)(((uintptr_t)base + page - 1) / page * page);
        madvise(device.base, device.cap, MADV_HUGEPAGE); /* a refusal costs time */
    }
    *p = NULL;
    size_t at = ALIGN, need = (bytes + ALIGN - 1) / ALIGN * ALIGN + ALIGN;
    int i = 0;
    while (i < device.n && device.block[i].at < at + need) {
        at = device.block[i].at + (device.block[i].bytes + ALIGN - 1) / ALIGN * ALIGN + ALIGN;
        i++;
    }
    if (bytes > device.cap || at + need > device.cap || device.n == BLOCKS) return OUT_OF_MEMORY;
    memmove(&device.block[i + 1], &device.block[i], (size_t)(device.n - i) * sizeof *device.block);
    device.block[i] = (Block){at, bytes};
    device.n++;
    if (at + need > device.high) device.high = at + need;
    *p = device.base + at;
    return 0;
}

static int get(void **p, size_t bytes) {
    pthread_mutex_lock(&turn);
    int rc = take(p, bytes);
    pthread_mutex_unlock(&turn);
    return rc;
}

/* Whole pages of the block go back: the fewer there are the faster protect is. */
static int give(void *p) {
    size_t at = (size_t)((unsigned char *)p - device.base);
    for (int i = 0; i < device.n; i++) {
        if (device.block[i].at != at) continue;
        size_t first = (at + page - 1) / page * page, end = (at + device.block[i].bytes) / page * page;
        if (end > first) madvise(device.base + first, end - first, MADV_DONTNEED);
        device.n--;
        memmove(&device.block[i], &device.block[i + 1], (size_t)(device.n - i) * sizeof *device.block);
        return 0;
    }
    return BAD_VALUE;
}

static int put(void *p) {
    pthread_mutex_lock(&turn);
    int rc = give(p);
    pthread_mutex_unlock(&turn);
    return rc;
}

static int host_get(void **p, size_t bytes) {
    *p = malloc(bytes);
    return *p ? 0 : OUT_OF_MEMORY;
}

static int host_put(void *p) {
    free(p);
    return 0;
}

static int copy_rows(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t rows,
                     CudaWay way, void *stream) {
    (void)stream;
    if (emu_capturing()) return BAD_VALUE; /* no recording has copies */
    if (rows == 0 || width == 0) return 0;
    if (rows > 1 && (to_pitch < width || from_pitch < width)) return BAD_VALUE;
    emu_device_memory(true);
    bool known = whole(to, (rows - 1) * to_pitch + width, way != CUDA_TO_HOST) &&
                 whole(from, (rows - 1) * from_pitch + width, way != CUDA_TO_DEVICE);
    for (size_t i = 0; i < rows && known; i++)
        memmove((unsigned char *)to + i * to_pitch, (const unsigned char *)from + i * from_pitch, width);
    emu_device_memory(false);
    return known ? 0 : BAD_VALUE;
}

static int copy(void *to, const void *from, size_t bytes, CudaWay way, void *stream) {
    return copy_rows(to, bytes, from, bytes, bytes, 1, way, stream);
}

static int fill(void *p, int byte, size_t bytes, void *stream) {
    (void)stream;
    emu_device_memory(true);
    bool known = whole(p, bytes, true);
    if (known) memset(p, byte, bytes);
    emu_device_memory(false);
    return known ? 0 : BAD_VALUE;
}

static int stream_open(void **stream) {
    *stream = &device;
    return 0;
}

static int stream_ok(void *stream) { return stream == &device ? 0 : BAD_VALUE; }

static int capture_begin(void *stream) {
    if (emu_capturing()) return BAD_VALUE;
    emu_capture_begin();
    return stream_ok(stream);
}

static int capture_end(void *stream, void **graph) {
    *graph = emu_capture_end();
    return *graph ? stream_ok(stream) : BAD_VALUE;
}

static int graph_launch(void *graph, void *stream) {
    emu_graph_launch(graph);
    return stream_ok(stream);
}

static int graph_close(void *graph) {
    emu_graph_close(graph);
    return 0;
}

static int event_open(void **event, bool timing) {
    (void)timing;
    *event = malloc(1);
    return *event ? 0 : OUT_OF_MEMORY;
}

static int event_close(void *event) {
    free(event);
    return 0;
}

static int event_record(void *event, void *stream) { return event ? stream_ok(stream) : BAD_VALUE; }
static int event_sync(void *event) { return event ? 0 : BAD_VALUE; }

static int event_ms(float *ms, void *from, void *to) {
    *ms = 0;
    return from && to ? 0 : BAD_VALUE;
}

static bool nvml_open(void **out, Error *err) {
    *out = NULL;
    return error_set(err, ERR_IO, "NVML: there is none for an emulated GPU");
}

static bool library(const char *name, char *version, size_t n, Error *err) {
    (void)version, (void)n;
    return error_set(err, ERR_IO, "%s: there is none for an emulated GPU", name);
}

const CudaDriver *cuda_driver(void) {
    static const CudaDriver table = {
        .error_name = error_name,
        .error_text = error_text,
        .last_error = last_error,
        .versions = versions,
        .device_count = device_count,
        .device_set = device_set,
        .device_info = device_info,
        .memory = memory,
        .get = get,
        .put = put,
        .host_get = host_get,
        .host_put = host_put,
        .copy = copy,
        .copy_rows = copy_rows,
        .fill = fill,
        .stream_open = stream_open,
        .stream_close = stream_ok,
        .sync = stream_ok,
        .event_open = event_open,
        .event_close = event_close,
        .event_record = event_record,
        .event_sync = event_sync,
        .event_ms = event_ms,
        .capture_begin = capture_begin,
        .capture_end = capture_end,
        .graph_launch = graph_launch,
        .graph_close = graph_close,
        .nvml_open = nvml_open,
        .library = library,
    };
    return &table;
}
