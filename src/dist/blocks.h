/* dist/blocks.h — the parameters of an optimizer as one sequence of blocks: what a gradient norm is summed over and where work on
 * parameters may be cut between ranks.
 *
 * A block is whole rows of one tensor (whole panels, where it lies in panels): about a quarter of it, but at least BLOCK_MIN elements
 * where the tensor has as many; what is left behind the last whole block belongs to it. So blocks follow from shapes alone, and a
 * norm that adds their sums in order has the same bits however many ranks computed them. */
#ifndef DIKAST_DIST_BLOCKS_H
#define DIKAST_DIST_BLOCKS_H

#include "dist/comm.h"
#include "tensor/backend.h"

enum { BLOCK_MIN = 65536, BLOCK_PARTS = 4 };

typedef struct { int tensor; int64_t row, n_row; } Block;
typedef struct {
    Block *at;
    int n, n_rank;
    int *cut;           /* (n_rank+1) rank r owns blocks [cut[r], cut[r+1]): about equal numbers of elements */
    int64_t n_elem;     /* stored ones: panels count whole */
} Blocks;

void blocks_make(Blocks *b, const Tensor *t, int n_tensor, int n_rank);
void blocks_release(Blocks *b);
Tensor block_of(const Tensor *t, Block b);              /* of any tensors with the shapes and layout of those */
int64_t block_elements(const Tensor *t, Block b);       /* stored ones */
int64_t blocks_elements(const Blocks *b, const Tensor *t, int rank);    /* of what that rank owns */
/* Rows of tensor i that rank owns: one run, maybe empty. */
void blocks_rows(const Blocks *b, int tensor, int rank, int64_t *row, int64_t *n_row);

/* Every rank hands its own blocks of t round: afterwards all have all. dtype: of t, one for all blocks of a call's piece, sent as
 * it is. Pieces of at most BLOCKS_PIECE bytes a rank. A dry backend's room is taken and given back, and nothing sent. */
enum { BLOCKS_PIECE = 16 << 20 };
void blocks_gather(const Blocks *b, Comm *c, Backend *be, const Tensor *t, const char *site);
/* Bits of a block's storage, host side; BF16 as BF16. Returns bytes. */
size_t block_get(Backend *be, void *out, Tensor block);
size_t block_set(Backend *be, Tensor block, const void *in);

#endif
