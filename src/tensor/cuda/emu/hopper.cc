/* tensor/cuda/emu/hopper.cc — barriers in shared memory and products of warp groups (tensor/cuda/hopper.h) on a CPU.
 *
 * Whatever may happen at any time happens at one of the two ends, by the coin of emu.cc: copies that arrive at a
 * barrier land at once or when nobody else can go on; products read their operands when the last thread has issued them
 * or when the first one waits. Accumulators are NaN from issue to wait. So a missing wait, a slot that is given back
 * too early and a descriptor that points elsewhere all show in results. */
#include "emu.h"
#include "tensor/cuda/hopper.h"

#include <deque>

namespace {

constexpr int GROUP = 128; /* threads of a warp group */

struct Barrier { /* what a Bar holds */
    uint16_t count, left;
    uint32_t phase;
};
static_assert(sizeof(Barrier) == sizeof(Bar), "");

struct Landing {
    std::vector<EmuCopy> copies;
    Bar *bar;
};

struct Product {
    int n, arrived;
    bool add, rows, done;
    uint64_t desc_a, desc_b;
    float *d[GROUP];
    const uint32_t *a[GROUP];
    size_t before[GROUP];     /* the product under way that d comes from, +1; 0: from d as it was, */
    std::vector<float> value; /* which lies here until the result does; (GROUP, n / 2) */
};

struct Thread {
    size_t issued, waited;       /* products */
    std::vector<size_t> batches; /* ends of those under way */
    bool fenced, stale;          /* stale: copies have been waited for, async_fence is missing */
};

struct Group {
    std::deque<Product> product; /* from number `first` on */
    size_t first, done;
    int regs; /* of a thread */
};

std::vector<Thread> threads;
std::vector<Group> groups;
std::deque<Landing> landings;
uint64_t broken; /* what is wrong in every descriptor */
struct Half {
    int count;
    unsigned phase;
} halves[16];

Thread &me() { return threads[(size_t)emu_thread()]; }
Group &my_group() { return groups[(size_t)(emu_thread() / GROUP)]; }

Barrier get(const Bar *b) {
    Barrier x;
    memcpy(&x, b, sizeof x);
    return x;
}

void arrive(Bar *b) {
    Barrier x = get(b);
    if (x.count == 0 || x.left == 0) emu_fail("an arrival at a barrier that was not initialized");
    if (--x.left == 0) x.left = x.count, x.phase++;
    memcpy(b, &x, sizeof x);
}

void land(const Landing &l) {
    for (const EmuCopy &c : l.copies) memcpy(c.to, c.from, c.bytes);
    arrive(l.bar);
}

float element(uint64_t at) {
    at ^= at >> 7 << 4 & 0x70; /* 128-byte swizzle: bits 4 to 6 with bits 7 to 9 */
    if (at < 1024 || at + 2 > 1024 + emu_shared_bytes()) emu_fail("wgmma: a matrix outside of shared memory");
    bf16_t x;
    memcpy(&x, emu_shared() + (at - 1024), 2);
    return to_f32(x);
}

/* Element (i, k) of an operand, i along its rows or columns, k along the sum; PTX ISA, "Strides" of matrix descriptors.
 */
float operand(uint64_t desc, bool rows, int i, int k) {
    const uint64_t at = (desc & 0x3fff) << 4, leading = (desc >> 16 & 0x3fff) << 4, stride = (desc >> 32 & 0x3fff) << 4;
    if (desc >> 62 != 1 || (desc >> 49 & 7) != 0) emu_fail("wgmma: a descriptor of another kind than 128-byte swizzle");
    const uint64_t u = (uint64_t)i, v = (uint64_t)k;
    if (rows) return element(at + u % 64 * 2 + u / 64 * leading + v % 8 * 128 + v / 8 * stride);
    return element(at + u % 8 * 128 + u / 8 * stride + v * 2);
}

void compute(Group &g, Product &p) {
    static float a[64][16], b[16][256], sum[64][256];
    const int n = p.n;
    for (int r = 0; r < 64; r++)
        for (int k = 0; k < 16; k++) {
            int thread = r / 16 * 32 + r % 8 * 4 + k % 8 / 2;
            if (!p.a[0]) {
                a[r][k] = operand(p.desc_a, false, r, k);
                continue;
            }
            uint32_t two = p.a[thread][r % 16 / 8 + k / 8 * 2];
            a[r][k] = __uint_as_float(k % 2 ? two & 0xffff0000u : two << 16);
        }
    for (int k = 0; k < 16; k++)
        for (int c = 0; c < n; c++) b[k][c] = operand(p.desc_b, p.rows, c, k);
    for (int r = 0; r < 64; r++) {
        memset(sum[r], 0, sizeof sum[r]);
        for (int k = 0; k < 16; k++)
            for (int c = 0; c < n; c++) sum[r][c] += a[r][k] * b[k][c];
    }
    for (int t = 0; t < GROUP; t++)
        for (int j = 0; j < n / 2; j++) {
            const int r = t / 32 * 16 + t % 32 / 4 + j % 4 / 2 * 8, c = j / 4 * 8 + t % 4 * 2 + j % 2;
            float *d = &p.value[(size_t)(t * (n / 2) + j)];
            if (p.add && p.before[t]) *d = g.product[p.before[t] - 1 - g.first].value[(size_t)(t * (n / 2) + j)];
            *d = (p.add ? *d : 0) + sum[r][c];
        }
    p.done = true;
}

void compute_until(Group &g, size_t end) {
    for (; g.done < end; g.done++) compute(g, g.product[g.done - g.first]);
}

/* Products that every thread has waited for and no later one adds to. */
void forget(Group &g, int first_thread) {
    size_t least = g.first + g.product.size();
    for (int t = 0; t < GROUP; t++) {
        least = min(least, threads[(size_t)(first_thread + t)].waited);
        for (const Product &p : g.product)
            if (!p.done && p.before[t]) least = min(least, p.before[t] - 1);
    }
    for (; g.first < least && g.product.front().done; g.first++) g.product.pop_front();
}

} // namespace

void emu_block_begin(int n_thread) {
    threads.assign((size_t)n_thread, Thread{});
    groups.assign((size_t)(n_thread + GROUP - 1) / GROUP, Group{});
    for (Group &g : groups)
        g.regs = 65536 / n_thread / 8 * 8; /* as __launch_bounds__(n_thread, 1) leaves it to the compiler */
    landings.clear();
    for (Half &h : halves) h = Half{};
}

void emu_block_end(void) {
    for (const Thread &t : threads)
        if (t.waited != t.issued) emu_fail("a kernel that ends with products under way");
}

bool emu_land(void) {
    if (landings.empty()) return false;
    Bar *bar = landings.front().bar;
    for (size_t i = 0; i < landings.size();)
        if (landings[i].bar == bar) {
            land(landings[i]);
            landings.erase(landings.begin() + (ptrdiff_t)i);
        } else {
            i++;
        }
    return true;
}

void bar_init(Bar *b, int count) {
    Barrier x = {(uint16_t)count, (uint16_t)count, 0};
    if ((uintptr_t)b % 8) emu_fail("a barrier that is not aligned");
    memcpy(b, &x, sizeof x);
}

void bar_arrive(Bar *b) { arrive(b); }

void bar_wait(Bar *b, unsigned parity) {
    emu_wait_for([&] { return get(b).phase % 2 != parity; });
    me().stale = true;
}

void cp_async_arrive(Bar *b) {
    Landing l = {emu_copies(), b};
    landings.push_back(std::move(l));
}

void async_fence() { me().stale = false; }

/* A block's registers are those it began with: who wants more waits until others have given some. */
void emu_regs(int n, bool more) {
    const int all = 65536 / (int)threads.size() / 8 * 8 * (int)groups.size();
    Group &g = my_group();
    if (n % 8 || n < 24 || n > 256 || (more ? n < g.regs : n > g.regs)) emu_fail("setmaxnreg: number of registers");
    emu_wait_for([&] {
        int others = 0;
        for (const Group &o : groups) others += &o == &g ? 0 : o.regs;
        return others + n <= all;
    });
    g.regs = n;
}

void half_arrive(int id, int n) {
    if (id < 1 || id > 15) emu_fail("barrier number");
    if (++halves[id].count == n) halves[id].count = 0, halves[id].phase++;
}

void half_sync(int id, int n) {
    unsigned phase = halves[id].phase;
    half_arrive(id, n);
    emu_wait_for([&] { return halves[id].phase != phase; });
}

uint32_t shared_at(const void *p) {
    size_t at = (size_t)((const unsigned char *)p - emu_shared());
    if (at >= emu_shared_bytes()) emu_fail("an address outside of shared memory");
    return (uint32_t)at + 1024;
}

extern "C" void emu_break_descriptors(uint64_t bits) { broken = bits; }

void wgmma_fence() { me().fenced = true; }

void wgmma_commit() {
    Thread &t = me();
    t.batches.push_back(t.issued);
}

void emu_wgmma(float *d, int n, const uint32_t *a, uint64_t desc_a, uint64_t desc_b, bool add, bool rows) {
    Thread &t = me();
    Group &g = my_group();
    const int i = emu_thread() % GROUP;
    desc_b ^= broken;
    if (!t.fenced) emu_fail("wgmma: no wgmma_fence since the last wait");
    if (t.stale) emu_fail("wgmma: what copies brought, without async_fence");
    if (t.issued == g.first + g.product.size()) {
        g.product.push_back(Product{});
        Product &p = g.product.back();
        p.n = n, p.add = add, p.rows = rows, p.desc_a = desc_a, p.desc_b = desc_b;
        p.value.resize((size_t)(GROUP * n / 2));
    }
    Product &p = g.product[t.issued - g.first];
    if (p.n != n || p.add != add || p.rows != rows || p.desc_a != desc_a || p.desc_b != desc_b)
        emu_fail("wgmma: other operands than the rest of the warp group");
    p.d[i] = d, p.a[i] = a;
    for (size_t k = t.waited; k < t.issued; k++)
        if (g.product[k - g.first].d[i] == d) p.before[i] = k + 1;
    if (!p.before[i]) memcpy(&p.value[(size_t)(i * n / 2)], d, (size_t)n / 2 * sizeof *d);
    memset(d, 0xFF, (size_t)n / 2 * sizeof *d);
    t.issued++;
    if (++p.arrived == GROUP && emu_coin()) compute_until(g, t.issued);
}

void emu_wgmma_wait(size_t under_way) {
    Thread &t = me();
    Group &g = my_group();
    const int i = emu_thread() % GROUP;
    size_t end = t.waited;
    t.fenced = false; /* registers change from here on */
    while (t.batches.size() > under_way) {
        end = t.batches.front();
        t.batches.erase(t.batches.begin());
    }
    if (end == t.waited) return;
    emu_wait_for([&] { return g.product[end - 1 - g.first].arrived == GROUP; });
    compute_until(g, end);
    for (size_t k = t.waited; k < end; k++) {
        const Product &p = g.product[k - g.first];
        bool last = true;
        for (size_t later = k + 1; later < t.issued; later++) last = last && g.product[later - g.first].d[i] != p.d[i];
        if (last) memcpy(p.d[i], &p.value[(size_t)(i * p.n / 2)], (size_t)p.n / 2 * sizeof(float));
    }
    t.waited = end;
    forget(g, emu_thread() / GROUP * GROUP);
}
