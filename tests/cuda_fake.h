/* tests/cuda_fake.h — a CUDA driver that is a table of functions and does nothing of what is queued before somebody waits for it, so
 * that memory which is overwritten too early shows. It counts, and fails the k-th call. For test_tensor_cuda_host.c. */
#ifndef DIKAST_TESTS_CUDA_FAKE_H
#define DIKAST_TESTS_CUDA_FAKE_H

#include "tensor/backend_int.h"
#include "tensor/cuda/cuda.h"
#include "tensor/cuda/index.h"
#include "tensor/cuda/replay.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* -- the fake --------------------------------------------------------------------------------------------------------
 */

enum { NO_MEMORY = 2, BAD = 1, OLD_DRIVER = 35, NO_DEVICE = 100, FAULT = 700, QUEUE = 1 << 16, BLOCKS = 256 };

typedef struct {
    enum { COPY, FILL, EVENT } kind;
    unsigned char *to;
    const unsigned char *from;
    size_t to_pitch, from_pitch, width, rows;
    int byte;
    void *event;
} Queued;

typedef struct {
    unsigned char *p;
    size_t bytes;
    bool pinned;
} Block;

static struct {
    int call, fail_at, fail_code; /* calls made; the one that fails, from 1; 0: none */
    int driver, runtime, n_device, major, minor, count_code, nvml, lt;
    size_t total, used;
    Block block[BLOCKS];
    int n_block, n_event, n_stream, n_wait, n_copy, pending;
    Queued queue[QUEUE];
    int head, tail;
    int last;
    char asked_pci[32];
    int n_graph, n_launch, bad_graphs; /* bad_graphs: captures that come to nothing */
    bool capturing;
} fake;

static int called(void) { return ++fake.call == fake.fail_at ? fake.fail_code : 0; }

static void do_one(void) {
    Queued *q = &fake.queue[fake.head++ % QUEUE];
    for (size_t i = 0; q->kind == COPY && i < q->rows; i++)
        memcpy(q->to + i * q->to_pitch, q->from + i * q->from_pitch, q->width);
    if (q->kind == FILL) memset(q->to, q->byte, q->width);
}

static void do_all(void) {
    while (fake.head < fake.tail) do_one();
}

static void enqueue(Queued q) {
    assert_true(fake.tail - fake.head < QUEUE);
    fake.queue[fake.tail++ % QUEUE] = q;
}

static const Block *block_of(const void *p, size_t bytes) {
    const unsigned char *at = p;
    for (int i = 0; i < fake.n_block; i++)
        if (at >= fake.block[i].p && at + bytes <= fake.block[i].p + fake.block[i].bytes) return &fake.block[i];
    return NULL;
}

static const char *error_name(int code) { return code == NO_MEMORY ? "fakeNoMemory" : "fakeError"; }
static const char *error_text(int code) { return code == NO_MEMORY ? "out of memory" : "it went wrong"; }

static int last_error(void) {
    int code = fake.last;
    fake.last = 0;
    return code;
}

static int versions(int *driver, int *runtime) {
    *driver = fake.driver, *runtime = fake.runtime;
    return called();
}

static int device_count(int *n) {
    *n = fake.n_device;
    int code = called();
    return fake.count_code ? fake.count_code : code;
}

static int device_set(int d) { return d < fake.n_device ? called() : BAD; }

static int device_info(CudaDevice *out, int d) {
    *out = (CudaDevice){.major = fake.major, .minor = fake.minor, .n_sm = 4, .warp = 32, .shared_max = 1 << 17};
    snprintf(out->name, sizeof out->name, "Fake %d", d);
    snprintf(out->pci, sizeof out->pci, "0000:%02d:00.0", d);
    return called();
}

static int memory(size_t *left, size_t *total) {
    *total = fake.total, *left = fake.total - fake.used;
    return called();
}

static int take(void **p, size_t bytes, bool pinned) {
    int code = called();
    if (code == 0 && !pinned && bytes > fake.total - fake.used) code = NO_MEMORY;
    if (code != 0) return code;
    assert_true(fake.n_block < BLOCKS);
    *p = malloc(bytes);
    fake.block[fake.n_block++] = (Block){*p, bytes, pinned};
    if (!pinned) fake.used += bytes;
    return 0;
}

static int give(void *p, bool pinned) {
    do_all();
    for (int i = 0; i < fake.n_block; i++) {
        if (fake.block[i].p != p || fake.block[i].pinned != pinned) continue;
        if (!pinned) fake.used -= fake.block[i].bytes;
        free(p);
        fake.block[i] = fake.block[--fake.n_block];
        return 0;
    }
    return BAD;
}

static int get(void **p, size_t bytes) { return take(p, bytes, false); }
static int put(void *p) { return give(p, false); }
static int host_get(void **p, size_t bytes) { return take(p, bytes, true); }
static int host_put(void *p) { return give(p, true); }

static int copy_rows(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t rows,
                     CudaWay way, void *stream) {
    assert_ptr_equal(stream, &fake);
    const void *device = way == CUDA_TO_HOST ? from : to, *host = way == CUDA_TO_HOST ? to : from;
    size_t pitch = way == CUDA_TO_HOST ? from_pitch : to_pitch;
    const Block *b = block_of(device, (rows - 1) * pitch + width), *h = block_of(host, width);
    if (!b || b->pinned || (h && !h->pinned)) return BAD;
    int code = called();
    if (code != 0) return code;
    fake.n_copy++;
    enqueue((Queued){COPY, to, from, to_pitch, from_pitch, width, rows, 0, NULL});
    if (!h) do_all(); /* pageable memory */
    return 0;
}

static int copy(void *to, const void *from, size_t bytes, CudaWay way, void *stream) {
    return copy_rows(to, bytes, from, bytes, bytes, 1, way, stream);
}

static int fill(void *p, int byte, size_t bytes, void *stream) {
    (void)stream;
    if (!block_of(p, bytes)) return BAD;
    enqueue((Queued){.kind = FILL, .to = p, .byte = byte, .width = bytes});
    return called();
}

static int stream_open(void **stream) {
    int code = called();
    if (code == 0) *stream = &fake, fake.n_stream++;
    return code;
}

static int stream_close(void *stream) {
    assert_ptr_equal(stream, &fake);
    fake.n_stream--;
    return 0;
}

static int sync_all(void *stream) {
    assert_ptr_equal(stream, &fake);
    do_all();
    return called();
}

static int event_open(void **event, bool timing) {
    (void)timing;
    int code = called();
    if (code == 0) *event = malloc(1), fake.n_event++;
    return code;
}

static int event_close(void *event) {
    free(event);
    fake.n_event--;
    return 0;
}

static int event_record(void *event, void *stream) {
    (void)stream;
    enqueue((Queued){.kind = EVENT, .event = event});
    return called();
}

static int event_sync(void *event) {
    int last = -1;
    for (int i = fake.head; i < fake.tail; i++)
        if (fake.queue[i % QUEUE].kind == EVENT && fake.queue[i % QUEUE].event == event) last = i;
    while (fake.head <= last) do_one();
    fake.n_wait++;
    return called();
}

static bool lt_open(CudaLt *out, Error *err) {
    (void)out;
    return error_set(err, ERR_IO, "cuBLASLt: nowhere");
}

static int capture_begin(void *stream) {
    (void)stream;
    assert_false(fake.capturing);
    fake.capturing = true;
    return 0;
}

static int capture_end(void *stream, void **graph) {
    (void)stream;
    assert_true(fake.capturing);
    fake.capturing = false;
    *graph = &fake;
    if (fake.bad_graphs > 0) return fake.bad_graphs--, FAULT;
    fake.n_graph++;
    return 0;
}

static int graph_launch(void *graph, void *stream) {
    (void)stream;
    assert_ptr_equal(graph, &fake);
    fake.n_launch++;
    return 0;
}

static int graph_close(void *graph) {
    assert_ptr_equal(graph, &fake);
    fake.n_graph--;
    return 0;
}

static bool nvml_open(void **out, Error *err) {
    *out = fake.nvml ? &fake : NULL;
    return fake.nvml || error_set(err, ERR_IO, "NVML: nowhere");
}

static void nvml_close(void *nvml) { assert_ptr_equal(nvml, &fake); }

static bool nvml_state(void *nvml, const char *pci, CudaState *out, Error *err) {
    (void)nvml, (void)err;
    snprintf(fake.asked_pci, sizeof fake.asked_pci, "%s", pci);
    *out = (CudaState){.gpu = 0.5,
                       .memory = 0,
                       .used_bytes = 5e9,
                       .watts = 321,
                       .watts_max = 700,
                       .celsius = 44,
                       .sm_mhz = -1,
                       .mem_mhz = -1};
    return true;
}

static bool nvml_driver(void *nvml, char *version, size_t n) {
    (void)nvml;
    snprintf(version, n, "580.1");
    return true;
}

static bool library(const char *name, char *version, size_t n, Error *err) {
    if (strcmp(name, "nccl") != 0) return error_set(err, ERR_IO, "%s: nowhere", name);
    snprintf(version, n, "2.28.9");
    return true;
}

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
    .stream_close = stream_close,
    .sync = sync_all,
    .event_open = event_open,
    .event_close = event_close,
    .event_record = event_record,
    .event_sync = event_sync,
    .capture_begin = capture_begin,
    .capture_end = capture_end,
    .graph_launch = graph_launch,
    .graph_close = graph_close,
    .nvml_open = nvml_open,
    .nvml_close = nvml_close,
    .nvml_state = nvml_state,
    .nvml_driver = nvml_driver,
    .library = library,
};

static void fake_reset(void) {
    assert_int_equal(fake.n_block + fake.n_event + fake.n_stream, 0);
    memset(&fake, 0, sizeof fake);
    fake.driver = fake.runtime = 13000;
    fake.n_device = 2, fake.major = 9;
    fake.total = (size_t)200 << 20;
    fake.fail_code = FAULT;
}

/* A backend over the fake, as backend_open would make it. */
static bool open_fake(Backend *be, int device, const char *isa, Error *err) {
    *be = (Backend){0};
    *err = (Error){0};
    return cuda_open_with(be, &table, device, isa, err);
}

static void must_open(Backend *be) {
    Error err;
    fake_reset();
    if (!open_fake(be, -1, NULL, &err)) fail_msg("%s", err.msg);
}

static void close_fake(Backend *be) {
    backend_cuda.close(be);
    assert_int_equal(fake.n_block, 0);
    assert_int_equal(fake.n_event, 0);
    assert_int_equal(fake.n_stream, 0);
}

static void assert_says(const char *msg, const char *const *want, int n) {
    for (int i = 0; i < n; i++)
        if (!strstr(msg, want[i])) fail_msg("'%s' does not say '%s'", msg, want[i]);
}
#define SAYS(msg, ...)                                                                                                 \
    assert_says((msg), (const char *const[]){__VA_ARGS__}, COUNT_OF(((const char *const[]){__VA_ARGS__})))

/* What a child prints on its way down. */
static void death_of(char out[2000], void (*fn)(Backend *), Backend *be) {
    int fd[2];
    assert_int_equal(pipe(fd), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        signal(SIGABRT, SIG_DFL);
        dup2(fd[1], STDERR_FILENO);
        fn(be);
        _exit(0);
    }
    close(fd[1]);
    ssize_t n = 0, got;
    while ((got = read(fd[0], out + n, (size_t)(1999 - n))) > 0) n += got;
    out[n] = 0;
    close(fd[0]);
    int status = 0;
    waitpid(pid, &status, 0);
    assert_true(WIFSIGNALED(status));
}

#endif
