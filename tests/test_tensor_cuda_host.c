// layer: tensor
// gpu: yes
/* The cuda backend's host side over a fake driver (cuda_fake.h): opening, memory, staging, index arrays, recordings,
 * what is told of the machine; every call failing once. No kernel runs. */
#include "cuda_fake.h"

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
        bool of_rows = i * sizeof entry == offsetof(BackendOps, attn_part_bwd); /* refused: cai/run_check.c */
        assert_true(!entry == of_rows);
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

/* A sequence of ops is noted twice, recorded, replayed. Where a driver makes no graph of kernels that overlap the ops
 * are made again, and the next recording does without; where it makes none at all nothing is recorded any more. */
static void test_recordings(void **state) {
    (void)state;
    const int32_t tok[2] = {1, 2};
    const HostArray array = {tok, 2};
    for (int bad = 0; bad < 3; bad++) {
        Backend be;
        must_open(&be);
        CudaImpl *c = be.impl;
        fake.bad_graphs = bad;
        for (int i = 0; i < 8; i++) {
            bool replayed = backend_replay_begin(&be, "key", 3, &array, 1), overlap = c->early;
            assert_int_equal(replayed, bad < 2 && i > 2 + bad);
            if (replayed) continue;
            assert_int_equal(overlap, i == 2);
            assert_int_equal(backend_replay_end(&be), !(i >= 2 && i < 2 + bad));
            assert_false(c->early || fake.capturing);
        }
        CudaReplayStats s = cuda_replay_stats(&be);
        assert_int_equal(s.recorded, bad < 2);
        assert_int_equal(s.replayed, bad < 2 ? 5 - bad : 0);
        assert_int_equal(fake.n_launch, s.recorded + s.replayed);
        close_fake(&be);
        assert_int_equal(fake.n_graph, 0);
    }
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
        cmocka_unit_test(test_recordings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
