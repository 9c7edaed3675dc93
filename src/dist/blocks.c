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

void blocks_gather(const Blocks *b, Comm *c, Backend *be, const Tensor *t, const char *site) {
    int size = comm_size(c), me = comm_rank(c);
    if (size == 1) return;
    int *from = mem_alloc((size_t)size * sizeof *from), *to = mem_alloc((size_t)size * sizeof *to);
    int64_t *bytes = mem_alloc((size_t)size * sizeof *bytes);
    unsigned char *in = NULL, *out = NULL;
    Error ignore;
    memcpy(from, b->cut, (size_t)size * sizeof *from);
    for (;;) {
        int64_t total = 0;
        for (int r = 0; r < size; r++) {
            to[r] = piece_end(b, t, from[r], b->cut[r + 1], &bytes[r]);
            total += bytes[r];
        }
        if (total == 0 || !comm_ok(c, &ignore)) break;
        in = mem_grow(in, (size_t)bytes[me] + 1);
        out = mem_grow(out, (size_t)total);
        size_t at = 0;
        for (int i = from[me]; i < to[me]; i++) at += block_get(be, in + at, block_of(t, b->at[i]));
        comm_all_gather(c, out, in, bytes, DTYPE_I8, site);
        at = 0;
        for (int r = 0; r < size && comm_ok(c, &ignore); r++) {
            if (r == me) at += (size_t)bytes[r];
            for (int i = from[r]; i < to[r] && r != me; i++) at += block_set(be, block_of(t, b->at[i]), out + at);
        }
        memcpy(from, to, (size_t)size * sizeof *from);
    }
    free(in);
    free(out);
    free(from);
    free(to);
    free(bytes);
}
