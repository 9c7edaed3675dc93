/* tensor/cpu/kernels_linear.h — linear_fwd and linear_bwd: checks, and which kernels by dtype.
 *
 *      x, dy      w          y           kernels
 *      F32        F32        F32         kernels_gemm.h
 *      BF16       BF16       F32, BF16   kernels_half.h or kernels_amx.h; dx F32 or BF16, dw and dbias F32
 *      F32        BF16, I8   F32         kernels_widened.h; forward only
 *
 * Weights lie in panels; under F32 x the forward takes row-major F32 ones too, as model files have them. */
#ifndef DIKAST_TENSOR_CPU_KERNELS_LINEAR_H
#define DIKAST_TENSOR_CPU_KERNELS_LINEAR_H

static bool is_half(Tensor t) { return t.dtype == DTYPE_BF16; }

static void check_out(const LinearOut *o, Tensor x, bool add_y) {
    bool half = is_half(x);
    cpu_check_as("linear_fwd", "y", o->y, x.rows, o->w.rows, is_half(o->y) && half ? DTYPE_BF16 : DTYPE_F32);
    if (o->w.panels || half || o->w.dtype != DTYPE_F32)
        cpu_check_weight("linear_fwd", "w", o->w, o->w.rows, x.cols, half ? DTYPE_BF16 : o->w.dtype);
    else
        cpu_check("linear_fwd", "w", o->w, o->w.rows, x.cols);
    cpu_check_opt("linear_fwd", "bias", o->bias, 1, o->w.rows);
    cpu_check_opt("linear_fwd", "scale", o->scale, 1, o->w.rows);
    CHECK((o->w.dtype == DTYPE_I8) == !tensor_empty(o->scale),
          "linear_fwd: 8-bit weights and their scales come together");
    CHECK(!add_y || !is_half(o->y), "linear_fwd: the old y is added in F32 only");
}

static void forward(Backend *be, const LinearOut *out, int n, Tensor x, bool add_y, Tensor from) {
    Forward f = {be, out, n, x, add_y, from, 0, TILE_VECS};
    double weights = 0;
    bool packs = false;
    CHECK(n > 0 && n <= LINEAR_MAX, "linear_fwd: %d outputs", n);
    cpu_check_as("linear_fwd", "x", x, x.rows, x.cols, is_half(x) ? DTYPE_BF16 : DTYPE_F32);
    for (int i = 0; i < n; i++) {
        check_out(&out[i], x, add_y);
        CHECK(out[i].w.dtype == out[0].w.dtype, "linear_fwd: weights of two dtypes");
        f.per = out[i].w.dtype != x.dtype ? WIDE_PANELS : is_half(x) ? cpu_half(be)->panels(x.rows) : TILE_VECS;
        f.n_group += ceil_div(ceil_div(out[i].w.rows, 16), f.per);
        weights += (double)tensor_count(out[i].w);
        packs = packs || !out[i].w.panels;
    }
    if (packs) cpu_scratch_threads(be, PANEL * x.cols);
    double work = product_work((double)x.rows, weights);
    if (is_half(x))
        cpu_half(be)->forward(be, &f, work);
    else
        cpu_tiles(be, ceil_div(x.rows, CHUNK) * f.n_group, work,
                  out[0].w.dtype == DTYPE_F32 ? forward_task : widened_task, &f);
}

static void linear_fwd(Backend *be, const LinearOut *out, int n, Tensor x, bool add_y) {
    forward(be, out, n, x, add_y, (Tensor){0});
}

static void linear_from(Backend *be, LinearOut out, Tensor from, Tensor x) {
    cpu_check("linear_from", "from", from, out.y.rows, out.y.cols);
    bool direct = x.dtype == DTYPE_F32 && out.w.dtype == DTYPE_F32;
    if (!direct) copy(be, out.y, from);
    forward(be, &out, 1, x, true, direct ? from : (Tensor){0});
}

/* dx: so many rows pay for transposing the weights, of so many values at most: 8 MB, about what the copy of x takes for dw. */
enum { MANY_ROWS = 768, SHARED_PANELS = 1 << 21 };

static void input_grad(Backward *b) {
    double weights = 0;
    int64_t depth = 0;
    bool half = is_half(b->grad[0].dy);
    for (int i = 0; i < b->n; i++) {
        cpu_check_as("linear_bwd", "dx", b->dx, b->grad[i].dy.rows, b->grad[i].w.cols,
                     half && is_half(b->dx) ? DTYPE_BF16 : DTYPE_F32);
        cpu_check_weight("linear_bwd", "w", b->grad[i].w, b->grad[i].dy.cols, b->dx.cols, b->grad[0].dy.dtype);
        weights += (double)tensor_count(b->grad[i].w);
        depth += b->grad[i].w.rows;
    }
    CHECK(!b->add_dx || !is_half(b->dx), "linear_bwd: the old dx is added in F32 only");
    double work = product_work((double)b->dx.rows, weights);
    if (half) {
        cpu_half(b->be)->input_grad(b, work);
        return;
    }
    int64_t n_panel = ceil_div(b->dx.cols, 16);
    if (b->dx.rows < MANY_ROWS || n_panel * depth * 16 > SHARED_PANELS) {
        count_across_parts(b);
        cpu_scratch_threads(b->be, ACROSS_ROWS * (b->depth + b->part));
        cpu_tiles(b->be, b->n_chunk * b->n_part, work, across_task, b);
        return;
    }
    b->n_group = n_group(n_panel);
    b->depth = depth;
    b->panels = cpu_scratch_shared(b->be, (size_t)(n_panel * depth * 16) * sizeof *b->panels);
    cpu_tiles(b->be, n_panel, 8.0 * weights, pack_weights_task, b);
    cpu_tiles(b->be, ceil_div(b->dx.rows, CHUNK) * b->n_group, work, input_grad_task, b);
}

static void weight_grad(Backward *b) {
    double weights = 0;
    for (int i = 0; i < b->n; i++) {
        const LinearGrad *o = &b->grad[i];
        if (tensor_empty(o->dw_acc)) continue;
        cpu_check_weight("linear_bwd", "dw", o->dw_acc, o->dy.cols, b->x.cols, DTYPE_F32);
        cpu_check_as("linear_bwd", "x", b->x, o->dy.rows, b->x.cols, o->dy.dtype);
        weights += (double)tensor_count(o->dw_acc);
    }
    if (weights == 0 || b->x.rows == 0) return;
    double work = product_work((double)b->x.rows, weights);
    if (is_half(b->grad[0].dy)) {
        cpu_half(b->be)->weight_grad(b, work);
        return;
    }
    count_weight_parts(b, TILE_ROWS);
    weight_grad_passes(b, work, weight_grad_task);
}

static void linear_bwd(Backend *be, Tensor dx, const LinearGrad *grad, int n, Tensor x, bool add_dx) {
    Backward b = {.be = be, .grad = grad, .n = n, .dx = dx, .x = x, .add_dx = add_dx};
    CHECK(n > 0 && n <= LINEAR_MAX, "linear_bwd: %d products", n);
    for (int i = 0; i < n; i++)
        cpu_check_as("linear_bwd", "dy", grad[i].dy, grad[0].dy.rows, grad[i].dy.cols,
                     is_half(grad[0].dy) ? DTYPE_BF16 : DTYPE_F32);
    if (!tensor_empty(dx)) input_grad(&b);
    weight_grad(&b);
    for (int i = 0; i < n; i++) {
        if (tensor_empty(grad[i].dbias_acc)) continue;
        cpu_check("linear_bwd", "dbias", grad[i].dbias_acc, 1, grad[i].dy.cols);
        column_sums(be, grad[i].dbias_acc, grad[i].dy);
    }
}

#endif
