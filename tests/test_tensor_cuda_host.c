// layer: tensor
// gpu: yes
/* The cuda backend's host side against a driver table that is a fake: it counts, fails the k-th call, and does nothing
 * of what is queued before somebody waits for it, so that memory which is overwritten too early shows. No kernel runs.
 */
#include "tensor/backend_int.h"
#include "tensor/cuda/cuda.h"
#include "tensor/cuda/index.h"

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

/* -- opening ----------------------------------------------------------------------------------------------------------
 */

static void test_open(void **state) {
    (void)state;
    Backend be;
    must_open(&be);
    assert_int_equal(be.real, DTYPE_F32);
    assert_true(!be.panels && be.attn_half);
    assert_string_equal(backend_cuda.isa(&be), "sm_90");
    for (size_t i = 0; i < sizeof(BackendOps) / sizeof(void *); i++) { /* every entry is there */
        void *entry;
        memcpy(&entry, (const char *)be.op + i * sizeof entry, sizeof entry);
        assert_non_null(entry);
    }
    close_fake(&be);
}

static void test_open_refuses(void **state) {
    (void)state;
    Backend be;
    Error err;
    fake_reset();
    fake.driver = 0;
    assert_false(open_fake(&be, 0, NULL, &err));
    SAYS(err.msg, "no NVIDIA driver", "13.0", "dikast doctor");
    fake_reset();
    fake.count_code = OLD_DRIVER;
    assert_false(open_fake(&be, 0, NULL, &err));
    SAYS(err.msg, "cudaGetDeviceCount", "it went wrong", "older than this build");
    fake_reset();
    fake.n_device = 0;
    assert_false(open_fake(&be, -1, NULL, &err));
    SAYS(err.msg, "no GPU", "CUDA_VISIBLE_DEVICES");
    fake_reset();
    assert_false(open_fake(&be, 2, NULL, &err));
    assert_int_equal(err.code, ERR_CONFIG);
    SAYS(err.msg, "GPU 2", "0 to 1");
    fake_reset();
    fake.major = 7, fake.minor = 5;
    assert_false(open_fake(&be, 1, NULL, &err));
    SAYS(err.msg, "Fake 1", "7.5", "8.0");
    fake_reset();
    assert_false(open_fake(&be, 0, "avx2", &err));
    SAYS(err.msg, "avx2", "sm_90");
    assert_true(open_fake(&be, 0, "sm_90", &err));
    close_fake(&be);
}

/* Whichever call fails while opening: a clean error, nothing kept. */
static void test_open_faults(void **state) {
    (void)state;
    int n_failed = 0;
    for (int k = 1; k < 100; k++) {
        Backend be;
        Error err;
        fake_reset();
        fake.fail_at = k;
        fake.fail_code = k % 2 ? FAULT : NO_MEMORY;
        if (open_fake(&be, 0, NULL, &err)) {
            close_fake(&be);
            break;
        }
        n_failed++;
        SAYS(err.msg, k % 2 ? "it went wrong (fakeError)" : "out of memory (fakeNoMemory)");
        assert_int_equal(err.code, k % 2 ? ERR_IO : ERR_MEMORY);
        assert_int_equal(fake.n_block + fake.n_event + fake.n_stream, 0);
    }
    assert_in_range(n_failed, 8, 60);
}

/* -- memory
 * ------------------------------------------------------------------------------------------------------------ */

static void test_memory(void **state) {
    (void)state;
    Backend be;
    Error err = {0};
    Arena a;
    must_open(&be);
    size_t used = fake.used;
    assert_true(arena_init(&a, "weights", be.mem, 1 << 20, &err));
    assert_int_equal(fake.used - used, 1 << 20);
    do_all();
    const unsigned char *fresh = a.base;
    assert_true(fresh[0] == 0xFF && fresh[(1 << 20) - 1] == 0xFF); /* NaN */
    arena_release(&a);
    assert_false(arena_init(&a, "activations", be.mem, (size_t)150 << 20, &err));
    assert_int_equal(err.code, ERR_MEMORY);
    char left[64];
    snprintf(left, sizeof left, "%.1f MB of %.1f left", (double)(fake.total - fake.used) / 1e6,
             (double)fake.total / 1e6);
    SAYS(err.msg, "activations", "157.3 MB", "GPU 0", left, "micro_tokens");
    assert_int_equal(fake.used, used);
    close_fake(&be);
}

static void ask_too_much(Backend *be) { cuda_scratch(be, (size_t)1 << 40); }

static void launch_badly(Backend *be) {
    fake.last = FAULT;
    cuda_launched(be, "my_kernel<float>");
}

static void test_scratch(void **state) {
    (void)state;
    Backend be;
    char text[2000];
    must_open(&be);
    size_t used = fake.used;
    void *p = cuda_scratch(&be, 1000);
    assert_non_null(p);
    size_t first = fake.used - used;
    assert_ptr_equal(cuda_scratch(&be, 1000), p);
    assert_int_equal(fake.used - used, first);
    assert_non_null(cuda_scratch(&be, 3 << 20));
    assert_in_range(fake.used - used, 3 << 20, 5 << 20);
    assert_int_equal(cuda_impl(&be)->scratch_bytes, fake.used - used);
    death_of(text, ask_too_much, &be);
    SAYS(text, "scratch", "on GPU 0", "micro_tokens");
    death_of(text, launch_badly, &be);
    SAYS(text, "my_kernel<float>", "it went wrong", "compute-sanitizer");
    cuda_launched(&be, "fine");
    close_fake(&be);
}

/* Through the stage in pieces, with gaps between rows; the host array changes the moment the call returns. */
static void test_staging(void **state) {
    (void)state;
    enum { ROWS = 5000, COLS = 1200, LD = COLS + 3 };
    Backend be;
    must_open(&be);
    size_t bytes = (size_t)ROWS * LD * sizeof(float);
    float *x = malloc(bytes), *y = malloc(bytes), *device = be.mem.get(be.mem.ud, bytes);
    Tensor t = {device, ROWS, COLS, LD, DTYPE_F32, false};
    for (int i = 0; i < ROWS * COLS; i++) x[i] = (float)(i % 65521);
    int before = fake.n_copy;
    tensor_set_f32(&be, t, x);
    assert_true(fake.n_copy - before >= 3 &&
                fake.n_wait >= 1); /* pieces; a half is awaited before it is filled again */
    memset(x, 0, bytes);
    tensor_get_f32(&be, y, t);
    for (int i = 0; i < ROWS * COLS; i++)
        if (y[i] != (float)(i % 65521)) fail_msg("element %d is %g", i, (double)y[i]);
    for (int i = 0; i < ROWS; i++)
        for (int j = COLS; j < LD; j++) assert_true(((unsigned char *)(device + i * LD + j))[3] == 0xFF);
    before = fake.n_copy;
    tensor_get_f32(&be, y, t);
    assert_int_equal(fake.n_copy - before, 1); /* floats go straight to the caller */
    Tensor half = {device, ROWS, COLS, LD, DTYPE_BF16, false};
    double *d = malloc((size_t)ROWS * COLS * sizeof *d);
    for (int i = 0; i < ROWS * COLS; i++) d[i] = i % 127;
    tensor_set(&be, half, d);
    for (int i = 0; i < ROWS * COLS; i++) d[i] = -1;
    tensor_get(&be, d, half);
    for (int i = 0; i < ROWS * COLS; i++) assert_true(d[i] == i % 127);
    be.mem.put(be.mem.ud, device, bytes);
    free(x), free(y), free(d);
    close_fake(&be);
}

static void test_fetch(void **state) {
    (void)state;
    enum { N = 300000 };
    Backend be;
    must_open(&be);
    unsigned char *device = be.mem.get(be.mem.ud, N), *host = malloc(N);
    do_all();
    for (int i = 0; i < N; i++) device[i] = (unsigned char)(i % 251);
    cuda_fetch(&be, host, device, N);
    assert_memory_equal(host, device, N);
    be.mem.put(be.mem.ud, device, N);
    free(host);
    close_fake(&be);
}

/* -- index arrays
 * ------------------------------------------------------------------------------------------------------- */

enum { RING = 1 << 20, PINNED = 1 << 14, SMALL_MOST = RING / INDEX_SMALL / 4 };

static CudaIndex *index_of_fake(void) {
    CudaIndex *ix = NULL;
    Error err = {0};
    fake_reset();
    if (!cuda_index_open(&ix, &table, &fake, RING, PINNED, &err)) fail_msg("%s", err.msg);
    return ix;
}

static void index_closed(CudaIndex *ix) {
    do_all();
    cuda_index_close(ix);
    assert_int_equal(fake.n_block + fake.n_event, 0);
}

static void test_index_hits(void **state) {
    (void)state;
    CudaIndex *ix = index_of_fake();
    int32_t a[100] = {1, 2, 3}, b[100] = {1, 2, 3}, c[100] = {1, 2, 4};
    const void *pa = cuda_index_get(ix, a, sizeof a);
    assert_ptr_equal(cuda_index_get(ix, b, sizeof b), pa); /* by content */
    assert_ptr_not_equal(cuda_index_get(ix, c, sizeof c), pa);
    assert_ptr_not_equal(cuda_index_get(ix, a, sizeof a - 4), pa); /* length too */
    a[99] = 7;                                                     /* the caller's array is his again */
    assert_ptr_not_equal(cuda_index_get(ix, a, sizeof a), pa);
    do_all();
    assert_memory_equal(pa, b, sizeof b);
    CudaIndexStats s = cuda_index_stats(ix);
    assert_int_equal(s.asked, 5);
    assert_int_equal(s.sent, 4);
    assert_int_equal((uintptr_t)pa % 256, (uintptr_t)cuda_index_get(ix, c, sizeof c) % 256);
    index_closed(ix);
}

/* Thousands of calls of ops that ask for several arrays each, old ones among them: what the queued op reads is what was
 * asked for, though the ring comes round, slots run out and arrays outgrow the ring. */
static void test_index_wraps(void **state) {
    (void)state;
    enum { OPS = 3000, EACH = 4, MOST = 3 * SMALL_MOST };
    CudaIndex *ix = index_of_fake();
    int32_t *host = malloc(MOST * sizeof *host);
    unsigned char *seen[EACH], *want[EACH];
    uint32_t r = 12345;
    for (int e = 0; e < EACH; e++) {
        void *p = NULL;
        host_get(&p, MOST * sizeof *host);
        seen[e] = p;
        want[e] = malloc(MOST * sizeof *host);
    }
    for (int op = 0; op < OPS; op++) {
        size_t bytes[EACH];
        const void *at[EACH];
        for (int e = 0; e < EACH; e++) {
            r = r * 1664525u + 1013904223u;
            int32_t kind = (int32_t)(r >> 16) % 400; /* few enough that some come again, near and far */
            int n = kind % 50 == 49 ? SMALL_MOST + kind * 8 : 1 + kind * 37 % SMALL_MOST;
            for (int i = 0; i < n; i++) host[i] = kind * 1000003 + i;
            bytes[e] = (size_t)n * sizeof *host;
            at[e] = cuda_index_get(ix, host, bytes[e]);
            memcpy(want[e], host, bytes[e]);
            memset(host, 0xEE, bytes[e]);
        }
        for (int e = 0; e < EACH; e++) /* the op: reads them all, after all were asked for */
            assert_int_equal(copy(seen[e], at[e], bytes[e], CUDA_TO_HOST, &fake), 0);
        if (op % 7) continue; /* most ops are still queued when the next ones ask */
        do_all();
        for (int e = 0; e < EACH; e++) assert_memory_equal(seen[e], want[e], bytes[e]);
    }
    CudaIndexStats s = cuda_index_stats(ix);
    assert_int_equal(s.asked, OPS * EACH);
    assert_true(s.sent > INDEX_SLOTS && s.sent < s.asked && s.waited > 100);
    assert_true(s.sent_bytes > 3 * RING);
    for (int e = 0; e < EACH; e++) {
        host_put(seen[e]);
        free(want[e]);
    }
    free(host);
    index_closed(ix);
}

/* The last INDEX_KEEP arrays stay, however many others are sent after a hit. */
static void test_index_keeps(void **state) {
    (void)state;
    CudaIndex *ix = index_of_fake();
    int32_t *a = calloc(SMALL_MOST, sizeof *a);
    for (int round = 0; round < 200; round++) {
        a[0] = -1; /* an old one, asked for again */
        const void *old = cuda_index_get(ix, a, SMALL_MOST * sizeof *a);
        for (int i = 1; i < INDEX_KEEP; i++) {
            a[0] = round * INDEX_KEEP + i;
            const unsigned char *p = cuda_index_get(ix, a, SMALL_MOST * sizeof *a);
            assert_true(p + SMALL_MOST * sizeof *a <= (const unsigned char *)old ||
                        p >= (const unsigned char *)old + SMALL_MOST * sizeof *a);
        }
        do_all();
        assert_int_equal(*(const int32_t *)old, -1);
    }
    assert_int_equal(cuda_index_stats(ix).sent, 200 * (INDEX_KEEP - 1) + 1); /* and was sent once */
    free(a);
    index_closed(ix);
}

static void test_index_faults(void **state) {
    (void)state;
    int n_failed = 0;
    for (int k = 1; k < 20; k++) {
        CudaIndex *ix = NULL;
        Error err = {0};
        fake_reset();
        fake.fail_at = k;
        fake.fail_code = NO_MEMORY;
        if (cuda_index_open(&ix, &table, &fake, RING, PINNED, &err)) {
            index_closed(ix);
            break;
        }
        assert_null(ix);
        SAYS(err.msg, "index arrays", "out of memory");
        assert_int_equal(fake.n_block + fake.n_event, 0);
        n_failed++;
    }
    assert_int_equal(n_failed, 2 + INDEX_PARTS);
}

static void index_without_memory(Backend *be) {
    int32_t *big = calloc(1 << 22, sizeof *big);
    fake.total = fake.used;
    cuda_index(be, big, 1 << 22);
}

static void test_index_of_backend(void **state) {
    (void)state;
    Backend be;
    char text[2000];
    must_open(&be);
    int32_t pos[3] = {4, 5, 6};
    double freq[2] = {1, 0.5};
    const int32_t *p = cuda_index(&be, pos, 3);
    const double *f = cuda_doubles(&be, freq, 2);
    do_all();
    assert_memory_equal(p, pos, sizeof pos);
    assert_memory_equal(f, freq, sizeof freq);
    death_of(text, index_without_memory, &be);
    SAYS(text, "get(", "out of memory", "micro_tokens");
    close_fake(&be);
}

/* -- doctor
 * --------------------------------------------------------------------------------------------------------------- */

typedef struct {
    char text[4000];
    int worst;
} Told;

static void tell(void *ud, int state, const char *what, const char *fix, const char *value) {
    Told *t = ud;
    size_t at = strlen(t->text);
    if (state > t->worst) t->worst = state;
    snprintf(t->text + at, sizeof t->text - at, "%d %s: %s [%s]\n", state, what, value, fix ? fix : "");
}

static const CudaDriver *with_lt(CudaDriver *copy_of) {
    *copy_of = table;
    copy_of->lt_open = lt_open;
    return copy_of;
}

/* What metrics are told of the GPU: from NVML where it is, asked once where it is not. */
static void test_load(void **state) {
    (void)state;
    Backend be = {0};
    Error err = {0};
    LoadDevice d;
    fake_reset();
    fake.nvml = 1;
    assert_true(open_fake(&be, 1, NULL, &err));
    assert_true(backend_load(&be, &d));
    assert_true(d.busy == 0.5 && d.watts == 321 && d.bytes == 5e9 && d.mhz == -1);
    assert_string_equal(fake.asked_pci, "0000:01:00.0");
    close_fake(&be);
    fake_reset();
    assert_true(open_fake(&be, 0, NULL, &err));
    assert_false(backend_load(&be, &d));
    fake.nvml = 1;
    assert_false(backend_load(&be, &d)); /* it is not looked for in every look */
    close_fake(&be);
    assert_false(backend_load(NULL, &d));
    fake_reset();
}

static void test_probe(void **state) {
    (void)state;
    CudaDriver drv;
    Told t = {0};
    fake_reset();
    fake.nvml = 1;
    cuda_probe(with_lt(&drv), tell, &t);
    SAYS(t.text, "0 driver: 580.1, for CUDA 13.0", "0 cuda:0: Fake 0, compute capability 9.0", "0 cuda:1: Fake 1",
         "44 C, 321 of 700 W", "50 % busy", "1 cublaslt: cuBLASLt: nowhere", "0 nccl: 2.28.9",
         "0 cudnn: cudnn: nowhere", "0 nvml: is there");
    fake_reset();
    t = (Told){0};
    fake.driver = 0;
    cuda_probe(with_lt(&drv), tell, &t);
    SAYS(t.text, "1 gpu: no NVIDIA driver here", "--device cpu", "1 nvml: NVML: nowhere");
    assert_int_equal(t.worst, 1);
    fake_reset();
    t = (Told){0};
    fake.driver = 12040;
    fake.count_code = OLD_DRIVER;
    cuda_probe(with_lt(&drv), tell, &t);
    SAYS(t.text, "2 driver: for CUDA 12.4; this build was made with 13.0", "1 gpu:", "older than this build");
    fake_reset();
    t = (Told){0};
    fake.major = 7, fake.minor = 0;
    fake.used = fake.total / 4 * 3;
    cuda_probe(with_lt(&drv), tell, &t);
    SAYS(t.text, "2 cuda:0: Fake 0, compute capability 7.0", "8.0 (Ampere)");
    fake.major = 8;
    t = (Told){0};
    cuda_probe(with_lt(&drv), tell, &t);
    SAYS(t.text, "1 cuda:0", "other processes");
    fake.used = 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),         cmocka_unit_test(test_open_refuses),
        cmocka_unit_test(test_open_faults),  cmocka_unit_test(test_memory),
        cmocka_unit_test(test_scratch),      cmocka_unit_test(test_staging),
        cmocka_unit_test(test_fetch),        cmocka_unit_test(test_index_hits),
        cmocka_unit_test(test_index_wraps),  cmocka_unit_test(test_index_keeps),
        cmocka_unit_test(test_index_faults), cmocka_unit_test(test_index_of_backend),
        cmocka_unit_test(test_load),         cmocka_unit_test(test_probe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
