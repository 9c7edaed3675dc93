#include "dist/blocks.h"

#include <stdlib.h>
#include <string.h>

static Tensor rows_of(Tensor t, int64_t row, int64_t n) { return tensor_storage(tensor_rows(t, row, n)); }

Tensor block_of(const Tensor *t, Block b) { return tensor_rows(t[b.tensor], b.row, b.n_row); }

int64_t block_elements(const Tensor *t, Block b) { return tensor_count(rows_of(t[b.tensor], b.row, b.n_row)); }

int64_t blocks_elements(const Blocks *b, const Tensor *t, int rank) {
    int64_t n = 0;
    for (int i = b->cut[rank]; i < b->cut[rank + 1]; i++) n += block_elements(t, b->at[i]);
    return n;
}

/* Rows of an ordinary block of t. */
static int64_t block_rows(Tensor t) {
    Tensor stored = tensor_storage(t);
    int64_t part = tensor_count(stored) / BLOCK_PARTS, least = part > BLOCK_MIN ? part : BLOCK_MIN;
    int64_t n = (least + stored.cols - 1) / stored.cols;
    return t.panels ? n * PANEL_ROWS : n;
}

static int count_blocks(Tensor t) {
    int64_t n = tensor_empty(t) ? 0 : t.rows / block_rows(t);
    return tensor_empty(t) ? 0 : n < 1 ? 1 : (int)n;
}

/* Rank r's share ends with the block that reaches r + 1 parts of the whole. */
static void cut_blocks(Blocks *b, const Tensor *t) {
    int64_t done = 0;
    int at = 0;
    b->cut = mem_alloc((size_t)(b->n_rank + 1) * sizeof *b->cut);
    for (int r = 0; r < b->n_rank; r++) {
        int64_t until = b->n_elem * (r + 1) / b->n_rank;
        while (at < b->n && done < until) done += block_elements(t, b->at[at++]);
        b->cut[r + 1] = at;
    }
    CHECK(at == b->n, "%d of %d blocks are nobody's", b->n - at, b->n);
}

void blocks_make(Blocks *b, const Tensor *t, int n_tensor, int n_rank) {
    *b = (Blocks){.n_rank = n_rank};
    for (int i = 0; i < n_tensor; i++) b->n += count_blocks(t[i]);
    b->at = mem_alloc((size_t)(b->n + 1) * sizeof *b->at);
    int at = 0;
    for (int i = 0; i < n_tensor; i++) {
        int n = count_blocks(t[i]);
        int64_t step = n > 0 ? block_rows(t[i]) : 0;
        for (int k = 0; k < n; k++) {
            int64_t row = k * step;
            b->at[at] = (Block){i, row, k + 1 < n ? step : t[i].rows - row};
            b->n_elem += block_elements(t, b->at[at++]);
        }
    }
    cut_blocks(b, t);
}

void blocks_release(Blocks *b) {
    free(b->at);
    free(b->cut);
    *b = (Blocks){0};
}

void blocks_rows(const Blocks *b, int tensor, int rank, int64_t *row, int64_t *n_row) {
    *row = *n_row = 0;
    for (int i = b->cut[rank]; i < b->cut[rank + 1]; i++) {
        if (b->at[i].tensor != tensor) continue;
        if (*n_row == 0) *row = b->at[i].row;
        *n_row += b->at[i].n_row;
    }
}

/* -- bits of a block */

size_t block_get(Backend *be, void *out, Tensor block) {
    tensor_get_raw(be, out, block);
    return tensor_raw_bytes(block);
}

size_t block_set(Backend *be, Tensor block, const void *in) {
    tensor_set_rows(be, tensor_storage(block), in);
    return tensor_raw_bytes(block);
}

/* -- handing round */

static int64_t block_bytes(const Tensor *t, Block b) {
    return block_elements(t, b) * (int64_t)dtype_bytes(t[b.tensor].dtype);
}

/* The piece of blocks that begins at `from`, before `end`: its end and its bytes. */
static int piece_end(const Blocks *b, const Tensor *t, int from, int end, int64_t *bytes) {
    int to = from;
    *bytes = 0;
    while (to < end) {
        int64_t n = block_bytes(t, b->at[to]);
        if (to > from && *bytes + n > BLOCKS_PIECE) break;
        *bytes += n;
        to++;
    }
    return to;
}

typedef struct {    /* a piece of every rank's blocks, travelling together */
    int *from, *to; /* (size) */
    int64_t *bytes, total;
} Round;

static void round_open(Round *r, const Blocks *b, int size) {
    *r = (Round){.from = mem_alloc((size_t)size * sizeof *r->from), .to = mem_alloc((size_t)size * sizeof *r->to)};
    r->bytes = mem_alloc((size_t)size * sizeof *r->bytes);
    memcpy(r->to, b->cut, (size_t)size * sizeof *r->to);
}

static void round_close(Round *r) {
    free(r->from);
    free(r->to);
    free(r->bytes);
}

/* false: there is none any more. */
static bool round_next(Round *r, const Blocks *b, const Tensor *t, int size) {
    r->total = 0;
    memcpy(r->from, r->to, (size_t)size * sizeof *r->from);
    for (int q = 0; q < size; q++) {
        r->to[q] = piece_end(b, t, r->from[q], b->cut[q + 1], &r->bytes[q]);
        r->total += r->bytes[q];
    }
    return r->total > 0;
}

/* Of the largest piece: this rank's, then everybody's. */
static size_t gather_room(const Blocks *b, const Tensor *t, int size, int me, size_t *own) {
    Round r;
    size_t all = 0;
    *own = 0;
    round_open(&r, b, size);
    while (round_next(&r, b, t, size)) {
        if ((size_t)r.bytes[me] > *own) *own = (size_t)r.bytes[me];
        if ((size_t)r.total > all) all = (size_t)r.total;
    }
    round_close(&r);
    return *own + all;
}

static void gather_round(const Round *r, const Blocks *b, Comm *c, Backend *be, const Tensor *t, unsigned char *in,
                         unsigned char *out, const char *site) {
    int me = comm_rank(c);
    size_t at = 0;
    Error ignore;
    for (int i = r->from[me]; i < r->to[me]; i++) at += block_get(be, in + at, block_of(t, b->at[i]));
    comm_all_gather(c, out, in, r->bytes, DTYPE_I8, site);
    at = 0;
    for (int q = 0; q < comm_size(c) && comm_ok(c, &ignore); q++) {
        if (q == me) at += (size_t)r->bytes[q];
        for (int i = r->from[q]; i < r->to[q] && q != me; i++) at += block_set(be, block_of(t, b->at[i]), out + at);
    }
}

void blocks_gather(const Blocks *b, Comm *c, Backend *be, const Tensor *t, const char *site) {
    int size = comm_size(c);
    HostRoom room = {0};
    Round r;
    Error ignore;
    size_t own;
    if (size == 1) return;
    host_room(be, &room, gather_room(b, t, size, comm_rank(c), &own) + 1);
    round_open(&r, b, size);
    while (!be->dry && round_next(&r, b, t, size) && comm_ok(c, &ignore))
        gather_round(&r, b, c, be, t, room.at, room.at + own, site);
    round_close(&r);
    host_room_release(be, &room);
}
