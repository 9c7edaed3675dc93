/* The self-test of `dikast doctor`: a wrong instruction set, a broken library or faulty memory show here in a second
 * instead of in a run's results. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/doctor.h"
#include "nn/optim.h"
#include "train/batch.h"

static const char rebuild[] = "build again from clean sources; if it stays, tell us the processor and this line";

/* -- operations against the reference ---------------------------------------------------------------------------- */

enum { N = 70, C = 96, HEAD = 32, OUTS = 4 }; /* rows over one key page; three heads */

typedef struct {
    Tensor x, w, norm, y, rms, rstd, att, lse, dx, dw;
} Ops;

static void ops_place(Ops *o, Arena *a, Backend *be) {
    DType real = be->real;
    o->x = tensor_place(a, real, N, C);
    o->w = tensor_place_weight(a, be->real, C, C, be->panels);
    o->norm = tensor_place(a, real, 1, C);
    o->y = tensor_place(a, real, N, C);
    o->rms = tensor_place(a, real, N, C);
    o->rstd = tensor_place(a, real, N, 1);
    o->att = tensor_place(a, real, N, C);
    o->lse = tensor_place(a, real, N, C / HEAD);
    o->dx = tensor_place(a, real, N, C);
    o->dw = tensor_place_weight(a, be->real, C, C, be->panels);
}

static void fill(Backend *be, Tensor t, uint64_t item) {
    double v[N * C > C * C ? N * C : C * C];
    for (int64_t i = 0; i < tensor_count(t); i++) v[i] = rng_normal((Rng){1, RNG_TEST}, item, (uint32_t)i);
    tensor_set(be, t, v);
}

/* Linear forward and backward, norm and attention of one backend; outputs as doubles, one after another. */
static bool ops_run(double *out, Backend *be, Error *err) {
    Arena measure, mem;
    Ops o;
    arena_init_measure(&measure, "self-test");
    ops_place(&o, &measure, be);
    if (!arena_init(&mem, "self-test", be->mem, measure.used, err)) return false;
    ops_place(&o, &mem, be);
    fill(be, o.x, 0);
    fill(be, o.w, 1);
    fill(be, o.norm, 2);
    int32_t q_off[] = {0, N}, kv_len[] = {N}, page[] = {0, KV_PAGE};
    be->op->linear_fwd(be, &(LinearOut){.y = o.y, .w = o.w}, 1, o.x, false);
    be->op->rmsnorm_fwd(be, o.rms, o.rstd, o.x, o.norm, 1e-5f);
    be->op->attn_fwd(be, o.att, o.lse, o.x, o.rms, o.y, (AttnSeqs){1, 2, q_off, kv_len, page, true, 0}, HEAD);
    be->op->zero(be, o.dw);
    be->op->linear_bwd(be, o.dx, &(LinearGrad){.dy = o.y, .w = o.w, .dw_acc = o.dw}, 1, o.x, false);
    const Tensor all[OUTS + 1] = {o.y, o.rms, o.att, o.dx, o.dw};
    for (int i = 0; i <= OUTS; i++) {
        tensor_get(be, out, all[i]);
        out += tensor_count(all[i]);
    }
    arena_release(&mem);
    return true;
}

static void check_ops(Doctor *d, const double *want, Backend *be, const char *isa) {
    enum { TOTAL = OUTS * N * C + C * C };
    static const char *const name[] = {"linear", "rmsnorm", "attention", "linear backward", "weight gradient"};
    Error err = {0};
    double *got = mem_alloc(TOTAL * sizeof *got), worst = 0;
    int at = 0;
    bool ok = ops_run(got, be, &err);
    for (int i = 0, from = 0; ok && i <= OUTS; i++) {
        int n = i < OUTS ? N * C : C * C;
        double diff = 0, norm = 0;
        for (int k = from; k < from + n; k++) {
            diff += (got[k] - want[k]) * (got[k] - want[k]);
            norm += want[k] * want[k];
        }
        double rel = sqrt(diff / norm);
        if (!(rel <= worst)) worst = rel, at = i;
        from += n;
    }
    char label[32];
    snprintf(label, sizeof label, "ops %s", isa);
    if (ok)
        doctor_say(d, worst < 1e-5 ? CHECK_OK : CHECK_FAIL, label, rebuild, "within %.1e of the F64 reference (%s)",
                   worst, name[at]);
    else
        doctor_say(d, CHECK_FAIL, label, "free memory", "%s", err.msg);
    free(got);
}

/* -- two steps of training --------------------------------------------------------------------------------------- */

enum { STEPS = 2, LEN = 40, VOCAB = 64 };

typedef struct {
    Net net;
    Acts *acts;
    Optim *optim;
    Arena mem;
    Tensor slice;
    LogpBuf logp;
    BatchBuf buf;
} Lesson;

static double lesson_step(Lesson *l, const Batch *b, const int32_t *target) {
    Backend *be = l->net.trunk->be;
    double loss = 0;
    net_forward(l->net, l->acts, b, NULL);
    head_forward(l->net, l->acts, 0, l->slice);
    logp_forward(&l->logp, be, l->slice, target, 1, false);
    for (int i = 0; i < LEN; i++) {
        loss -= l->logp.lp[i];
        l->logp.dlp[i] = -1;
    }
    logp_backward(&l->logp, be, l->slice, target, 1);
    head_backward(l->net, l->acts, 0, l->slice);
    net_backward(l->net, l->acts, b);
    optim_step(l->optim, 1, 1.0 / LEN);
    return loss / LEN;
}

static bool lesson(double loss[STEPS + 1], Backend *be, Error *err) {
    ModelConfig c = {.family = FAMILY_LLAMA,
                     .n_layer = 2,
                     .n_head = 4,
                     .n_kv_head = 2,
                     .d_model = 32,
                     .d_head = 8,
                     .d_ff = 48,
                     .n_vocab = VOCAB,
                     .max_seq = 64,
                     .norm = NORM_RMS,
                     .pos = POS_ROPE,
                     .mlp = MLP_SWIGLU,
                     .tied = true,
                     .rope_theta = 10000,
                     .norm_eps = 1e-5,
                     .eos_id = -1};
    OptimConfig o = {.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1};
    int32_t tok[LEN + 1], seq_off[] = {0, LEN};
    Lesson l = {0};
    Model m;
    Head h;
    Batch b;
    for (int i = 0; i <= LEN; i++) tok[i] = (int32_t)rng_below((Rng){2, RNG_TEST}, (uint64_t)i, 0, VOCAB);
    if (!model_init(&m, be, &c, 3, true, err)) return false;
    l.net.trunk = &m;
    bool ok = head_init(&h, &m, HEAD_LM, VOCAB, 3, true, err);
    if (ok) l.net.head = &h;
    Arena measure;
    arena_init_measure(&measure, "logits");
    tensor_place(&measure, be->real, LEN, VOCAB);
    ok = ok && acts_open(&l.acts, &m, LEN, LEN, KEEP_ALL, err) && optim_open(&l.optim, &l.net, NULL, 1, &o, err) &&
         arena_init(&l.mem, "logits", be->mem, measure.used, err);
    if (ok) {
        l.slice = tensor_place(&l.mem, be->real, LEN, VOCAB);
        batch_layout(&l.buf, &b, tok, LEN, seq_off, 1, true);
        for (int i = 0; i < LEN; i++) l.buf.row[i] = i;
        b.n_row = LEN;
        net_zero_grads(l.net);
        for (int i = 0; i <= STEPS; i++) loss[i] = lesson_step(&l, &b, tok + 1);
    }
    acts_close(l.acts);
    optim_close(l.optim);
    arena_release(&l.mem);
    logp_release(&l.logp);
    batch_release(&l.buf);
    if (l.net.head) head_release(&h);
    model_release(&m);
    return ok;
}

/* Losses before, after one and after two updates, as the F64 reference gives them. */
static const double known_loss[STEPS + 1] = {4.188797159, 3.866197764, 3.802850965};

static double from_known(const double got[STEPS + 1]) {
    double worst = 0;
    for (int i = 0; i <= STEPS; i++) {
        double diff = fabs(got[i] - known_loss[i]);
        if (!(diff <= worst)) worst = diff;
    }
    return worst;
}

static void check_training(Doctor *d) {
    double got[STEPS + 1], alone[STEPS + 1];
    Error err = {0};
    Pool *one = NULL;
    Backend *be = NULL;
    bool ok = lesson(got, d->machine.be, &err) && pool_open(&one, 1, &err) &&
              backend_open(&be, "cpu", one, backend_isa(d->machine.be), &err) && lesson(alone, be, &err);
    if (be) backend_close(be);
    if (one) pool_close(one);
    if (!ok) {
        doctor_say(d, CHECK_FAIL, "training", "free memory", "%s", err.msg);
        return;
    }
    double worst = from_known(got);
    bool same = !memcmp(got, alone, sizeof got);
    doctor_say(d, worst < 1e-5 && same ? CHECK_OK : CHECK_FAIL, "training", rebuild,
               "loss %.6f, after two steps %.6f, within %.1e of the reference; %d threads and one give %s bits", got[0],
               got[STEPS], worst, pool_threads(d->machine.pool), same ? "equal" : "DIFFERENT");
}

/* -- tokenizer --------------------------------------------------------------------------------------------------- */

static const char *one_text(void *ud, size_t *n) {
    const char **next = ud, *s = *next;
    *next = NULL;
    *n = s ? strlen(s) : 0;
    return s;
}

static void check_tokenizer(Doctor *d) {
    static const char lesson_text[] =
        "the judge reads the rules, then the judge weighs the replies: it's the judges' work.";
    static const char text[] = "the judge's rules\xC3\xA9 \xFF";
    static const int32_t known[] = {258, 268, 269, 263, 85, 76, 261, 128, 103, 221, 188};
    const char *next = lesson_text, *special[] = {"<|endoftext|>"};
    BpeTrainParams p = {.n_vocab = 270, .split = SPLIT_GPT2, .special = special, .n_special = 1};
    Tokenizer *t = NULL;
    TokBuf ids = {0};
    Str json = {0}, back = {0};
    Error err = {0};
    bool ok = bpe_train(&json, &p, one_text, &next, &err) && tokenizer_parse(&t, json.s, json.n, "self-test", &err);
    if (ok) {
        tokenizer_encode(t, text, sizeof text - 1, &ids);
        tokenizer_decode(t, ids.id, ids.n, true, &back);
        bool same = ids.n == COUNT_OF(known) && !memcmp(ids.id, known, sizeof known);
        bool whole = back.n == sizeof text - 1 && !memcmp(back.s, text, back.n);
        doctor_say(d, same && whole ? CHECK_OK : CHECK_FAIL, "tokenizer", rebuild, "%d tokens %s, text %s", ids.n,
                   same ? "as expected" : "NOT as expected", whole ? "comes back byte for byte" : "does NOT come back");
    } else
        doctor_say(d, CHECK_FAIL, "tokenizer", rebuild, "%s", err.msg);
    if (t) tokenizer_close(t);
    tokbuf_release(&ids);
    str_release(&json);
    str_release(&back);
}

/* What the reference makes of the operations; freed by the caller. NULL: said. */
static double *ops_wanted(Doctor *d) {
    Error err = {0};
    Backend *ref = NULL;
    double *want = mem_alloc((OUTS * N * C + C * C) * sizeof *want);
    bool ok = backend_open(&ref, "ref", d->machine.pool, NULL, &err) && ops_run(want, ref, &err);
    if (ref) backend_close(ref);
    if (ok) return want;
    doctor_say(d, CHECK_FAIL, "ops", "free memory", "%s", err.msg);
    free(want);
    return NULL;
}

void doctor_self_device(Doctor *d, Backend *be, const char *device) {
    double *want = ops_wanted(d), got[STEPS + 1], again[STEPS + 1];
    char label[32];
    Error err = {0};
    if (want) check_ops(d, want, be, device);
    free(want);
    snprintf(label, sizeof label, "train %s", device);
    if (!lesson(got, be, &err) || !lesson(again, be, &err)) {
        doctor_say(d, CHECK_FAIL, label, "free the GPU's memory", "%s", err.msg);
        return;
    }
    double worst = from_known(got);
    bool same = !memcmp(got, again, sizeof got);
    doctor_say(d, worst < 1e-5 && same ? CHECK_OK : CHECK_FAIL, label, rebuild,
               "loss %.6f, after two steps %.6f, within %.1e of the reference; run again it gives %s bits", got[0],
               got[STEPS], worst, same ? "equal" : "DIFFERENT");
}

void doctor_self(Doctor *d) {
    static const char *const isa[] = {"scalar", "avx2", "avx512", "amx"};
    Error err = {0};
    double *want = ops_wanted(d);
    for (int i = 0; want && i < COUNT_OF(isa); i++) {
        Backend *be;
        if (!backend_open(&be, "cpu", d->machine.pool, isa[i], &err)) continue; /* this machine lacks it */
        check_ops(d, want, be, isa[i]);
        backend_close(be);
    }
    free(want);
    check_training(d);
    check_tokenizer(d);
}
