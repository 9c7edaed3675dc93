#include "app/forward.h"

#include <stdlib.h>

enum { SLICE = 64 };

static bool fits(const ModelConfig *c, Tokens seq, Error *err) {
    if (seq.n < 1 || seq.n > c->max_seq)
        return error_set(err, ERR_FORMAT, "%d tokens, expected 1..%d: the model's context", seq.n, c->max_seq);
    for (int i = 0; i < seq.n; i++)
        if (seq.tok[i] < 0 || seq.tok[i] >= c->n_vocab)
            return error_set(err, ERR_FORMAT, "token %d at position %d is not in the vocabulary of %d", seq.tok[i], i,
                             c->n_vocab);
    return true;
}

static bool run_slices(Net net, const Acts *a, int n, int first, ForwardRows *fn, void *ud, Error *err) {
    Backend *be = net.trunk->be;
    int width = net.head->n_out;
    Arena measure, memory;
    arena_init_measure(&measure, "head outputs");
    tensor_place(&measure, be->real, SLICE, width);
    if (!arena_init(&memory, "head outputs", be->mem, measure.used, err)) return false;
    Tensor slice = tensor_place(&memory, be->real, SLICE, width);
    float *host = mem_alloc((size_t)SLICE * (size_t)width * sizeof *host);
    bool ok = true;
    for (int at = 0; at < n && ok; at += SLICE) {
        Tensor out = tensor_rows(slice, 0, n - at < SLICE ? n - at : SLICE);
        head_forward(net, a, at, out);
        tensor_get_f32(be, host, out);
        ok = fn(ud, first + at, (int)out.rows, host, err);
    }
    free(host);
    arena_release(&memory);
    return ok;
}

bool forward_sequence(Net net, Tokens seq, int first, ForwardRows *fn, void *ud, Error *err) {
    if (!fits(&net.trunk->cfg, seq, err)) return false;
    int n = seq.n, n_row = n - first, n_page = (n + KV_PAGE - 1) / KV_PAGE;
    CHECK(first >= 0 && n_row > 0, "rows from %d of %d", first, n);
    int32_t *pos = mem_alloc((size_t)n * sizeof *pos), *row = mem_alloc((size_t)n_row * sizeof *row);
    int32_t *page = mem_alloc((size_t)n_page * sizeof *page), off[2] = {0, n}, len = n;
    for (int i = 0; i < n; i++) pos[i] = i;
    for (int i = 0; i < n_row; i++) row[i] = first + i;
    for (int i = 0; i < n_page; i++) page[i] = i * KV_PAGE;
    Batch b = {.n_tok = n, .tok = seq.tok, .pos = pos, .n_row = n_row, .row = row};
    b.seqs = (AttnSeqs){.n_seq = 1, .max_page = n_page, .q_off = off, .kv_len = &len, .kv_page = page, .causal = true};
    Acts *a = NULL;
    bool ok = acts_open(&a, net.trunk, n, n_row, KEEP_NONE, err);
    if (ok) {
        net_forward(net, a, &b, NULL);
        ok = run_slices(net, a, n_row, first, fn, ud, err);
    }
    acts_close(a);
    free(pos);
    free(row);
    free(page);
    return ok;
}
