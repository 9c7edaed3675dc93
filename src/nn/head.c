/* nn/head.c — the last product, on slices of the chosen rows, so that (R, V) logits never exist at once. A row's
 * outputs do not depend on the slice it is in; the order in which slices add to the head's gradient is the caller's. */
#include "nn/nn_int.h"

static void check_slice(Net n, const Acts *a, int first, Tensor out) {
    CHECK(n.head, "a net without a head");
    CHECK(out.cols == n.head->n_out, "%lld columns for %d outputs", (long long)out.cols, n.head->n_out);
    CHECK(first >= 0 && first + out.rows <= a->n_row, "rows %d..%lld of %d", first, (long long)(first + out.rows),
          a->n_row);
}

void head_forward(Net n, const Acts *a, int first, Tensor out) {
    Backend *be = n.trunk->be;
    check_slice(n, a, first, out);
    LinearOut o = {.y = out, .w = net_head_weight(n), .scale = n.head->scale};
    be->op->linear_fwd(be, &o, 1, tensor_rows(a->h, first, out.rows), false);
}

void head_backward(Net n, Acts *a, int first, Tensor dout) {
    Backend *be = n.trunk->be;
    check_slice(n, a, first, dout);
    Tensor h = tensor_rows(a->h, first, dout.rows), dh = tensor_rows(acts_dhidden(a), first, dout.rows);
    if (n.trunk->dtype != be->real) {
        Tensor half = tensor_narrow(dout);
        be->op->cast(be, half, dout);
        dout = half;
    }
    LinearGrad g = {.dy = dout, .w = net_head_weight(n), .dw_acc = n.head->dw};
    be->op->linear_bwd(be, dh, &g, 1, h, true);
}
