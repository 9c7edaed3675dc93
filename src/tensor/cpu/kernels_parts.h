/* tensor/cpu/kernels_parts.h — what linear_fwd and linear_bwd have to do, cut into tasks: for products in F32
 * (kernels_gemm.h) and in BF16 (kernels_half.h, kernels_amx.h), which may be compiled for different instruction sets of
 * one width. */
#ifndef DIKAST_TENSOR_CPU_KERNELS_PARTS_H
#define DIKAST_TENSOR_CPU_KERNELS_PARTS_H

enum { PANEL = TILE_VECS * PANEL_ROWS };
_Static_assert(PANEL_ROWS == 16, "a panel is one vector wide");

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* n vectors in groups of at most TILE_VECS, as even as they get: group g of n_group(n) begins at group_at(n, g). */
INLINE int64_t n_group(int64_t n) { return ceil_div(n, TILE_VECS); }
INLINE int64_t group_at(int64_t n, int64_t g) { return n * g / n_group(n); }

/* Panels of all outputs of a forward call, numbered through in groups. */
typedef struct Forward {
    Backend *be;
    const LinearOut *out;
    int n;
    Tensor x;
    bool add;
    Tensor from;     /* F32, one output: with add, what is added; else empty, and it is y */
    int64_t n_group; /* of all outputs */
    int64_t per;     /* panels of a group at most */
} Forward;

/* Rows of one task: a chunk of x stays in L2 while the panels of w pass. A multiple of every TILE_ROWS. */
enum { CHUNK = 384 };

/* A task's rows [*row, *row_end) and panels [*v, *v + *nv) of one output. */
static inline const LinearOut *forward_part(const Forward *f, int64_t task, int64_t *row, int64_t *row_end, int64_t *v,
                                            int64_t *nv) {
    const LinearOut *o = f->out;
    int64_t g = task % f->n_group;
    *row = task / f->n_group * CHUNK;
    *row_end = least(f->x.rows, *row + CHUNK);
    for (; g >= ceil_div(ceil_div(o->w.rows, 16), f->per); o++) g -= ceil_div(ceil_div(o->w.rows, 16), f->per);
    int64_t n_panel = ceil_div(o->w.rows, 16), n = ceil_div(n_panel, f->per);
    *v = n_panel * g / n;
    *nv = n_panel * (g + 1) / n - *v;
    return o;
}

/* Whose columns, and from which row on, a thread's copy of x is: of this part of dw's rows. On a line of its own. */
typedef struct {
    _Alignas(64) int64_t part, row;
} Held;

typedef struct Backward {
    Backend *be;
    const LinearGrad *grad;
    int n;
    Tensor dx, x;
    bool add_dx;
    int64_t n_group;      /* dx: of its columns; dw: of all panels */
    float *panels;        /* F32, dx of many rows: of transposed weights, for all tasks */
    int64_t part, n_part; /* dw: rows of a panel that one task takes; parts of all. F32, dx of few rows: of its columns */
    int64_t n_chunk;      /* F32, dx of few rows: of these */
    /* dw: */
    int64_t row, row_end; /* of this pass */
    Held *held;           /* (threads) */
    /* BF16: */
    uint16_t *packed; /* AMX: transposed weights that all tasks share */
    int64_t depth; /* dx: of a panel of transposed weights, in values */
    int64_t per;      /* AMX: panels of a task at most */
} Backward;

/* A task owns some panels of dw and a part of their rows (columns of x). Tokens pass in blocks of GRAD_BLOCK, in order; a
 * block is summed from zero, then added: that keeps rounding at the size of a block's sum. */
enum { GRAD_BLOCK = 256 };

/* Blocks of x that a thread copies at a time, and columns of them at most, more of fewer rows: half of what an L2 of a megabyte
 * holds. */
enum { PASS_BLOCKS = 2, PART_COLS = 256 };
static inline int64_t pass_rows(const Backward *b) { return least(b->x.rows, PASS_BLOCKS * GRAD_BLOCK); }

/* Numbers the panels of all dw through in groups and cuts their rows into parts of whole units: so many that each thread can have
 * parts of its own, as long as what a task packs of dy still serves rows enough. */
static inline void count_weight_parts(Backward *b, int64_t unit) {
    int n_thread = pool_threads(b->be->pool);
    b->n_group = 0;
    for (int i = 0; i < b->n; i++)
        if (!tensor_empty(b->grad[i].dw_acc)) b->n_group += n_group(ceil_div(b->grad[i].dw_acc.rows, 16));
    b->n_part = ceil_div(b->x.cols * pass_rows(b), PART_COLS * PASS_BLOCKS * GRAD_BLOCK);
    while (b->n_part % n_thread && b->x.cols / b->n_part > 128) b->n_part++;
    b->part = ceil_div(ceil_div(b->x.cols, b->n_part), unit) * unit;
    b->n_part = ceil_div(b->x.cols, b->part);
}

/* A task's panels [*v, *v + *nv) and their rows [*first, *end) of one dw. Tasks of one part are neighbours. */
static inline const LinearGrad *weight_grad_part(const Backward *b, int64_t task, int64_t *v, int64_t *nv, int64_t *first,
                                          int64_t *end) {
    const LinearGrad *o = b->grad;
    int64_t g = task % b->n_group;
    *first = task / b->n_group * b->part;
    *end = least(b->x.cols, *first + b->part);
    for (; tensor_empty(o->dw_acc) || g >= n_group(ceil_div(o->dw_acc.rows, 16)); o++)
        if (!tensor_empty(o->dw_acc)) g -= n_group(ceil_div(o->dw_acc.rows, 16));
    int64_t n_panel = ceil_div(o->dw_acc.rows, 16);
    *v = group_at(n_panel, g);
    *nv = group_at(n_panel, g + 1) - *v;
    return o;
}

/* A thread's copy of x, of one part's columns and one pass' rows: blocks of GRAD_BLOCK rows, or all, in each TILE_ROWS columns
 * side by side, (strip_rows, TILE_ROWS). Each thread makes its own, behind its panels of dy: to read lines that another one has written
 * takes longer than to copy them (bench/README.md). */
static inline int64_t strip_rows(const Backward *b) { return least(b->x.rows, GRAD_BLOCK); }
static inline int64_t strips_size(const Backward *b) { return ceil_div(b->part, TILE_ROWS) * TILE_ROWS * strip_rows(b); }
static inline float *strips_of(const Backward *b, int thread) { return cpu_scratch_of(b->be, thread) + PANEL * GRAD_BLOCK; }

/* Has the thread this pass' rows of the part? It is going to. */
static inline bool holds(const Backward *b, int thread, int64_t part) {
    Held *h = &b->held[thread], now = {.part = part, .row = b->row};
    bool has = h->part == now.part && h->row == now.row;
    *h = now;
    return has;
}

/* fn for all parts of all dw, PASS_BLOCKS blocks of x at a time. */
static inline void weight_grad_passes(Backward *b, double work, PoolFn *fn) {
    int64_t rows = b->x.rows, n_thread = pool_threads(b->be->pool);
    cpu_scratch_threads(b->be, PANEL * GRAD_BLOCK + least(ceil_div(rows, GRAD_BLOCK), PASS_BLOCKS) * strips_size(b));
    b->held = cpu_scratch_shared(b->be, (size_t)n_thread * sizeof *b->held);
    for (int64_t i = 0; i < n_thread; i++) b->held[i].row = -1;
    for (b->row = 0; b->row < rows; b->row = b->row_end) {
        b->row_end = least(rows, b->row + PASS_BLOCKS * GRAD_BLOCK);
        cpu_tiles(b->be, b->n_group * b->n_part, work * (double)(b->row_end - b->row) / (double)rows, fn, b);
    }
}

#endif
