/* tensor/cuda/emu/emu.cc — threads of a block as fibers on one CPU thread: enough of a GPU to run every kernel in
 * tests.
 *
 * Fibers are entered once by makecontext and then switched by _setjmp and _longjmp, which leave the signal mask alone.
 * Between two turns of a fiber nobody else runs, so shared memory is plain memory and races do not show: what this
 * proves is indexing, barriers and arithmetic. */
#include "emu.h"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <ucontext.h>
#include <vector>

/* tests/emu/driver_emu.c: lets kernels touch device memory, which the host may not. */
extern "C" void emu_device_memory(bool open);
/* While it is open: kernels may not write to it. */
extern "C" void emu_device_memory_frozen(bool frozen);

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace {

enum Wait { RUN, BARRIER, WARP, POLL, ENDED };
constexpr size_t STACK = 128 * 1024;
constexpr int LANES = 32, SLOT = 64;

struct Fiber {
    std::unique_ptr<unsigned char[]> stack{new unsigned char[STACK]};
    std::vector<EmuCopy> copies; /* asynchronous ones that have not landed */
    std::vector<size_t> groups;  /* how many of them each committed group has, oldest first */
    size_t loose;                /* how many belong to no group yet */
    ucontext_t first;
    jmp_buf at;
    bool started, awaited;
    Wait wait;
    const std::function<bool()> *ready; /* POLL: goes on when this holds */
    int parity;                         /* which of the warp's two buffers its next collective uses */
    dim3 idx;
};

struct Warp {
    alignas(16) unsigned char buffer[2][LANES * SLOT];
    int arrived[2];
};

std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Warp> warps;
std::vector<unsigned char> shared_memory;
const std::function<void()> *body_now;
const char *kernel_now;
int now, n_thread, n_ended, n_barrier;
bool early_now, frozen;
unsigned n_copy;
jmp_buf scheduler;

[[noreturn]] void fail(const char *what) { emu_fail(what); }

void fiber_main() {
    (*body_now)();
    Fiber &f = *fibers[(size_t)now];
    if (early_now && !f.awaited) fail("launched early, but a thread never waited for its inputs");
    f.wait = ENDED;
    n_ended++;
    _longjmp(scheduler, 1);
}

void turn(int i) {
    Fiber &f = *fibers[(size_t)i];
    now = i;
    threadIdx = f.idx;
    if (_setjmp(scheduler) != 0) return;
    if (f.started) _longjmp(f.at, 1);
    f.started = true;
    getcontext(&f.first);
    f.first.uc_stack.ss_sp = f.stack.get();
    f.first.uc_stack.ss_size = STACK;
    f.first.uc_link = nullptr;
    makecontext(&f.first, fiber_main, 0);
    setcontext(&f.first);
}

void yield() {
    Fiber &f = *fibers[(size_t)now];
    if (_setjmp(f.at) == 0) _longjmp(scheduler, 1);
}

void run_block() {
    n_ended = n_barrier = 0;
    emu_block_begin(n_thread);
    int n_warp = (n_thread + LANES - 1) / LANES;
    for (int w = 0; w < n_warp; w++) warps[(size_t)w].arrived[0] = warps[(size_t)w].arrived[1] = 0;
    for (int i = 0; i < n_thread; i++) {
        Fiber &f = *fibers[(size_t)i];
        f.started = f.awaited = false, f.wait = RUN, f.parity = 0, f.loose = 0;
        f.copies.clear(), f.groups.clear();
        f.idx = dim3((unsigned)i % blockDim.x, (unsigned)i / blockDim.x % blockDim.y,
                     (unsigned)i / blockDim.x / blockDim.y);
    }
    for (bool back = false; n_ended < n_thread; back = !back) { /* first to last, last to first, ... */
        bool moved = false;
        for (int i = 0; i < n_thread; i++) {
            int who = back ? n_thread - 1 - i : i;
            Fiber &f = *fibers[(size_t)who];
            if (f.wait == POLL && (*f.ready)()) f.wait = RUN;
            if (f.wait != RUN) continue;
            moved = true;
            turn(who);
        }
        if (n_barrier > 0 && n_barrier + n_ended == n_thread) {
            if (n_ended > 0) fail("a barrier that ended threads never reach");
            n_barrier = 0;
            for (int i = 0; i < n_thread; i++) fibers[(size_t)i]->wait = RUN;
            moved = true;
        }
        if (!moved && !emu_land()) fail("deadlock: a lane missed a warp collective, or a thread a barrier");
    }
    emu_block_end();
}

} // namespace

void emu_fail(const char *what) {
    fprintf(stderr, "emulated kernel %s: %s (thread %d of %d)\n", kernel_now, what, now, n_thread);
    abort();
}

int emu_thread(void) { return now; }
int emu_lane(void) { return now % LANES; }
unsigned char *emu_shared(void) { return (unsigned char *)(((uintptr_t)shared_memory.data() + 1023) / 1024 * 1024); }
size_t emu_shared_bytes(void) { return shared_memory.size() - 1024; }

void emu_wait_for(const std::function<bool()> &ready) {
    Fiber &f = *fibers[(size_t)now];
    if (ready()) return;
    f.ready = &ready;
    f.wait = POLL;
    yield();
}

void emu_barrier(void) {
    fibers[(size_t)now]->wait = BARRIER;
    n_barrier++;
    yield();
}

const unsigned char *emu_exchange(const void *mine, size_t bytes) {
    if (bytes > SLOT) fail("a collective of more than 64 bytes");
    Fiber &f = *fibers[(size_t)now];
    int w = now / LANES, p = f.parity, first = w * LANES;
    if (first + LANES > n_thread) fail("a collective in a warp that is not full");
    Warp &warp = warps[(size_t)w];
    memcpy(warp.buffer[p] + now % LANES * SLOT, mine, bytes);
    f.parity = !p;
    if (++warp.arrived[p] < LANES) {
        f.wait = WARP;
        yield();
    } else {
        warp.arrived[p] = 0;
        for (int i = first; i < first + LANES; i++)
            if (fibers[(size_t)i]->wait == WARP) fibers[(size_t)i]->wait = RUN;
    }
    return warp.buffer[p];
}

/* A copy lands at once or when it is waited for, by turns, so that either mistake shows: reading too early, and copying
 * over what is still read. */
void emu_copy(void *to, const void *from, size_t bytes, bool valid) {
    static const unsigned char zeros[16] = {};
    Fiber &f = *fibers[(size_t)now];
    if ((uintptr_t)to % bytes || (valid && (uintptr_t)from % bytes))
        fail("a copy from or to an address that is not aligned");
    if (emu_coin()) {
        memcpy(to, valid ? from : zeros, bytes);
    } else {
        f.copies.push_back({to, valid ? from : zeros, bytes});
        f.loose++;
    }
}

bool emu_coin(void) {
    n_copy = n_copy * 1664525u + 1013904223u;
    return n_copy >> 31;
}

std::vector<EmuCopy> emu_copies(void) {
    Fiber &f = *fibers[(size_t)now];
    f.loose = 0;
    f.groups.clear();
    return std::move(f.copies);
}

void emu_copy_commit(void) {
    Fiber &f = *fibers[(size_t)now];
    f.groups.push_back(f.loose);
    f.loose = 0;
}

void emu_copy_wait(size_t under_way) {
    Fiber &f = *fibers[(size_t)now];
    while (f.groups.size() > under_way) {
        size_t n = f.groups.front();
        for (size_t i = 0; i < n; i++) memcpy(f.copies[i].to, f.copies[i].from, f.copies[i].bytes);
        f.copies.erase(f.copies.begin(), f.copies.begin() + (ptrdiff_t)n);
        f.groups.erase(f.groups.begin());
    }
}

void await_inputs() {
    fibers[(size_t)now]->awaited = true;
    if (frozen) emu_device_memory_frozen(frozen = false);
}

static void run_kernel(const char *kernel, bool early, dim3 grid, dim3 block, size_t shared,
                       const std::function<void()> &body) {
    emu_device_memory(true); /* this thread's turn: all below is one kernel's */
    kernel_now = kernel;
    body_now = &body;
    early_now = early;
    gridDim = grid, blockDim = block;
    n_thread = (int)(block.x * block.y * block.z);
    if (n_thread < 1 || n_thread > 1024) fail("threads of a block: 1 to 1024");
    if (shared > 227 * 1024) fail("more than 227 KB of shared memory");
    if (grid.y > 65535 || grid.z > 65535 || grid.x == 0 || grid.y == 0 || grid.z == 0) fail("grid");
    while ((int)fibers.size() < n_thread) fibers.emplace_back(new Fiber);
    if ((int)warps.size() < (n_thread + LANES - 1) / LANES) warps.resize((size_t)(n_thread + LANES - 1) / LANES);
    shared_memory.assign(shared + 1024, 0xFF);          /* NaN: nothing may be read before it is written */
    if (early) emu_device_memory_frozen(frozen = true); /* for the first block: it costs a call of the system */
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = dim3(x, y, z);
                run_block();
            }
    emu_device_memory(false);
}

/* -- graphs: what was launched between begin and end, in order -------------------------------------------------------
 */

typedef std::vector<std::function<void()>> Graph;

static Graph *capturing;

void emu_launch(const char *kernel, bool early, dim3 grid, dim3 block, size_t shared,
                const std::function<void()> &body) {
    if (capturing)
        capturing->push_back([=] { run_kernel(kernel, early, grid, block, shared, body); });
    else
        run_kernel(kernel, early, grid, block, shared, body);
}

extern "C" void emu_capture_begin(void) { capturing = new Graph; }
extern "C" bool emu_capturing(void) { return capturing != nullptr; }
extern "C" void *emu_capture_end(void) {
    Graph *g = capturing;
    capturing = nullptr;
    return g;
}
extern "C" void emu_graph_launch(void *graph) {
    for (const std::function<void()> &kernel : *(Graph *)graph) kernel();
}
extern "C" void emu_graph_close(void *graph) { delete (Graph *)graph; }

void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const unsigned char *all = emu_exchange(mine, sizeof mine);
    uint32_t reg[LANES][6];
    for (int l = 0; l < LANES; l++) memcpy(reg[l], all + l * SLOT, sizeof mine);
    int g = emu_lane() / 4, t = emu_lane() % 4;
    auto half = [](uint32_t r, int hi) { return __uint_as_float(hi ? r & 0xffff0000u : r << 16); };
    auto A = [&](int row, int k) { return half(reg[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], k % 2); };
    auto B = [&](int k, int col) { return half(reg[col * 4 + k % 8 / 2][4 + k / 8], k % 2); };
    for (int i = 0; i < 4; i++) {
        int row = g + i / 2 * 8, col = 2 * t + i % 2;
        float sum = 0;
        for (int k = 0; k < 16; k++) sum += A(row, k) * B(k, col);
        d[i] += sum;
    }
}

void emu_ldmatrix(uint32_t r[4], const void *row, bool transposed) {
    if ((uintptr_t)row % 16) fail("ldmatrix: a row that is not 16-byte aligned");
    const unsigned char *all = emu_exchange(&row, sizeof row);
    const void *rows[LANES];
    for (int l = 0; l < LANES; l++) rows[l] = emu_from<const void *>(all, l);
    int g = emu_lane() / 4, t = emu_lane() % 4;
    for (int m = 0; m < 4; m++) {
        uint16_t two[2];
        for (int e = 0; e < 2; e++) {
            int i = transposed ? 2 * t + e : g, j = transposed ? g : 2 * t + e;
            memcpy(&two[e], (const unsigned char *)rows[m * 8 + i] + 2 * j, 2);
        }
        r[m] = two[0] | (uint32_t)two[1] << 16;
    }
    sync_warp(); /* nobody overwrites the rows before all have read */
}
