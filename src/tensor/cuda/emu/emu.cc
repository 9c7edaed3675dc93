/* tensor/cuda/emu/emu.cc — threads of a block as fibers on one CPU thread: enough of a GPU to run every kernel in
 * tests.
 *
 * A fiber runs one thread of one block after another; a switch is the stack and the registers that a call keeps,
 * without the system. Between two turns of a fiber nobody else runs, so shared memory is plain memory and races do not
 * show: what this proves is indexing, barriers and arithmetic. */
#include "emu.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

/* tests/emu/driver_emu.c: lets kernels touch device memory, which the host may not. */
extern "C" void emu_device_memory(bool open);
/* While it is open: kernels may not write to it. */
extern "C" void emu_device_memory_frozen(bool frozen);

/* Leaves the caller's stack in *from and goes on where `to` was left. */
extern "C" void emu_switch(void **from, void *to);
asm(".text\n"
    ".hidden emu_switch\n"
    ".globl emu_switch\n"
    ".type emu_switch, @function\n"
    "emu_switch:\n"
    "push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
    "mov %rsp, (%rdi)\n"
    "mov %rsi, %rsp\n"
    "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n"
    "ret\n"
    ".size emu_switch, . - emu_switch\n");

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
    void *at = nullptr;          /* its stack when it is not its turn; NULL: it never ran */
    bool awaited;
    Wait wait;
    const std::function<bool()> *ready; /* POLL: goes on when this holds */
    int parity;                         /* which of the warp's two buffers its next collective uses */
    dim3 idx;
};

struct Warp {
    alignas(16) unsigned char buffer[2][LANES * SLOT];
    int arrived[2];
    bool met[2]; /* what all lanes get lies in the buffer */
};

std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Warp> warps;
std::vector<unsigned char> shared_memory;
const std::function<void()> *body_now;
const char *kernel_now;
int now, n_thread, n_ended, n_barrier;
bool early_now, frozen;
unsigned n_copy;
void *scheduler; /* run_block's stack during a turn */

[[noreturn]] void fail(const char *what) { emu_fail(what); }

void yield() { emu_switch(&fibers[(size_t)now]->at, scheduler); }

void fiber_main() {
    for (;;) {
        (*body_now)();
        Fiber &f = *fibers[(size_t)now];
        if (early_now && !f.awaited) fail("launched early, but a thread never waited for its inputs");
        f.wait = ENDED;
        n_ended++;
        yield();
    }
}

/* Tops apart, so that the stacks of a block do not share a few lines of the cache.
 * As if somebody had called fiber_main, and it emu_switch: a return address that nobody returns to, which leaves the
 * stack aligned as after a call, fiber_main, six registers. */
void *new_stack(Fiber &f, int i) {
    void **top = (void **)(((uintptr_t)f.stack.get() + STACK - (size_t)(i % 64 * 320)) / 16 * 16);
    *--top = nullptr;
    *--top = (void *)fiber_main;
    for (int i = 0; i < 6; i++) *--top = nullptr;
    return top;
}

void turn(int i) {
    Fiber &f = *fibers[(size_t)i];
    now = i;
    threadIdx = f.idx;
    if (!f.at) f.at = new_stack(f, i);
    emu_switch(&scheduler, f.at);
}

void run_block() {
    n_ended = n_barrier = 0;
    emu_block_begin(n_thread);
    int n_warp = (n_thread + LANES - 1) / LANES;
    for (int w = 0; w < n_warp; w++) warps[(size_t)w].arrived[0] = warps[(size_t)w].arrived[1] = 0;
    for (int i = 0; i < n_thread; i++) {
        Fiber &f = *fibers[(size_t)i];
        f.awaited = false, f.wait = RUN, f.parity = 0, f.loose = 0;
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

/* What all lanes of the warp gave, SLOT bytes each, after make(it) once: when the last lane comes, or, `late`, when
 * others have had their turn before the first lane goes on. */
template <typename Make> static const unsigned char *meet(const void *mine, size_t bytes, bool late, Make make) {
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
        warp.arrived[p] = 0, warp.met[p] = false;
        for (int i = first; i < first + LANES; i++)
            if (fibers[(size_t)i]->wait == WARP) fibers[(size_t)i]->wait = RUN;
        if (late) yield();
    }
    if (!warp.met[p]) make(warp.buffer[p]);
    warp.met[p] = true;
    return warp.buffer[p];
}

const unsigned char *emu_exchange(const void *mine, size_t bytes) {
    return meet(mine, bytes, false, [](unsigned char *) {});
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

/* The sums of all lanes in the places of their operands: k ascending from zero. */
static void multiply(unsigned char *all) {
    float a[16][16], b[16][8], sum[16][8] = {};
    for (int l = 0; l < LANES; l++) {
        uint32_t reg[6];
        memcpy(reg, all + l * SLOT, sizeof reg);
        for (int i = 0; i < 6; i++) {
            float lo = __uint_as_float(reg[i] << 16), hi = __uint_as_float(reg[i] & 0xffff0000u);
            int g = l / 4, k = l % 4 * 2;
            if (i < 4)
                a[g + i % 2 * 8][k + i / 2 * 8] = lo, a[g + i % 2 * 8][k + i / 2 * 8 + 1] = hi;
            else
                b[k + (i - 4) * 8][g] = lo, b[k + (i - 4) * 8 + 1][g] = hi;
        }
    }
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int col = 0; col < 8; col++) sum[row][col] += a[row][k] * b[k][col];
    for (int l = 0; l < LANES; l++) {
        memcpy(all + l * SLOT, &sum[l / 4][l % 4 * 2], 2 * sizeof(float));
        memcpy(all + l * SLOT + 2 * sizeof(float), &sum[l / 4 + 8][l % 4 * 2], 2 * sizeof(float));
    }
}

void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    float sum[4];
    memcpy(sum, meet(mine, sizeof mine, false, multiply) + emu_lane() * SLOT, sizeof sum);
    for (int i = 0; i < 4; i++) d[i] += sum[i];
}

/* Rows are read at once or as late as may be, so that either mistake shows: reading what is not there yet, and
 * overwriting what is still read. */
void emu_ldmatrix(uint32_t r[4], const void *row, bool transposed) {
    if ((uintptr_t)row % 16) fail("ldmatrix: a row that is not 16-byte aligned");
    auto load = [transposed](unsigned char *all) {
        uint16_t m[4][8][8];
        for (int l = 0; l < LANES; l++) memcpy(m[l / 8][l % 8], emu_from<const void *>(all, l), sizeof m[0][0]);
        for (int l = 0; l < LANES; l++)
            for (int i = 0; i < 4; i++)
                for (int e = 0; e < 2; e++) {
                    int g = l / 4, t = l % 4 * 2 + e;
                    memcpy(all + l * SLOT + i * 4 + e * 2, transposed ? &m[i][t][g] : &m[i][g][t], 2);
                }
    };
    memcpy(r, meet(&row, sizeof row, emu_coin(), load) + emu_lane() * SLOT, 4 * sizeof *r);
}
