#include "train/obj.h"

#include <stdlib.h>

#include "train/batch.h"

/* Next token: row i of the pack predicts token i+1. Masked token: row i predicts what stood there before the mask.
 * Either way the head reads only the rows that carry loss weight, so a prompt costs no logits, and the loss weight of a
 * row is the token's times its sample's. */

typedef struct { /* Masked tokens only; rate 0: next token */
    double rate;
    int32_t mask_id, first_random, n_vocab;
    Rng rng;
} MaskRule;

struct ObjLm {
    const SampleSet *s;
    Loader *loader;
    BatchBuf buf;
    LogpBuf logp;
    MaskRule mask;
    int32_t *target; /* (R) */
    double *weight;  /* (R) */
    double total, scale;
    int32_t *masked; /* (N) tokens after masking */
};

static void choose(ObjLm *o, Batch *b, int row, int32_t target, double weight) {
    o->buf.row[b->n_row] = row;
    o->target[b->n_row] = target;
    o->weight[b->n_row] = weight;
    o->total += weight;
    b->n_row++;
}

static void choose_next(ObjLm *o, Batch *b, const Pack *p) {
    for (int s = 0; s < p->n_seq; s++)
        for (int i = p->seq_off[s]; i < p->seq_off[s + 1] - 1; i++) {
            double w = (double)p->weight[i] * o->s->sample_weight[p->sample[s]];
            if (w != 0) choose(o, b, i, p->tok[i + 1], w);
        }
}

/* One Philox block per token: word 0 decides whether it is a target, word 1 what becomes of it, word 2 the random id.
 * The first token of a sample is never one, as it is never one of the next-token loss. */
static void choose_masked(ObjLm *o, Batch *b, const Pack *p, int64_t number) {
    const MaskRule *m = &o->mask;
    for (int i = 0; i < p->n_tok; i++) o->masked[i] = p->tok[i];
    b->tok = o->masked;
    for (int s = 0; s < p->n_seq; s++)
        for (int i = p->seq_off[s] + 1; i < p->seq_off[s + 1]; i++) {
            double w = (double)p->weight[i - 1] * o->s->sample_weight[p->sample[s]];
            uint32_t u[4];
            rng_block(u, m->rng, (uint64_t)number, (uint32_t)i);
            if (w == 0 || u[0] * 0x1p-32 >= m->rate) continue;
            choose(o, b, i, p->tok[i], w);
            double kind = u[1] * 0x1p-32;
            uint32_t span = (uint32_t)(m->n_vocab - m->first_random);
            if (kind < 0.8)
                o->masked[i] = m->mask_id;
            else if (kind < 0.9)
                o->masked[i] = m->first_random + (int32_t)(((uint64_t)u[2] * span) >> 32);
        }
}

static bool lm_micro(void *self, int64_t number, Batch *b, Error *err) {
    ObjLm *o = self;
    (void)err;
    const Pack *p = loader_pack(o->loader, number);
    batch_from_pack(&o->buf, b, p, o->mask.rate == 0);
    o->total = 0;
    if (o->mask.rate > 0)
        choose_masked(o, b, p, number);
    else
        choose_next(o, b, p);
    return true;
}

static double lm_loss(void *self, Backend *be, const Batch *b, int first, Tensor out, double *weight, Metrics *m) {
    ObjLm *o = self;
    (void)b, (void)m;
    int n = (int)out.rows;
    logp_forward(&o->logp, be, out, o->target + first, 1, false);
    double loss = 0, total = 0;
    for (int i = 0; i < n; i++) {
        double w = o->weight[first + i];
        loss -= w * o->logp.lp[i];
        total += w;
        o->logp.dlp[i] = -w * o->scale;
    }
    logp_backward(&o->logp, be, out, o->target + first, 1);
    *weight += total;
    return loss * o->scale;
}

static double lm_wait_s(void *self) { return loader_wait_s(((ObjLm *)self)->loader); }
double obj_lm_weight(const ObjLm *o) { return o->total; }
void obj_lm_scale(ObjLm *o, double by) { o->scale = by; }
int64_t obj_lm_packs(ObjLm *o, int64_t epoch) { return loader_packs_in_epoch(o->loader, epoch); }

static bool lm_open(ObjLm **out, Objective *obj, const char *name, const SampleSet *s, int max_tok, uint64_t seed,
                    MaskRule mask, Error *err) {
    *out = NULL;
    ObjLm *o = mem_alloc(sizeof *o);
    o->s = s;
    o->mask = mask;
    o->scale = 1;
    if (!loader_open(&o->loader, s, max_tok, seed, err)) {
        free(o);
        return false;
    }
    o->target = mem_alloc((size_t)max_tok * sizeof(int32_t));
    o->weight = mem_alloc((size_t)max_tok * sizeof(double));
    o->masked = mem_alloc((size_t)max_tok * sizeof(int32_t));
    *obj =
        (Objective){.name = name, .row_group = 1, .micro = lm_micro, .loss = lm_loss, .self = o, .wait_s = lm_wait_s};
    obj->max_tok = obj->max_row = max_tok;
    obj->logp = &o->logp, obj->target = o->target, obj->temp = 1, obj->linear = true;
    *out = o;
    return true;
}

bool obj_lm_open(ObjLm **out, Objective *obj, const SampleSet *s, int max_tok, uint64_t seed, Error *err) {
    return lm_open(out, obj, "next token", s, max_tok, seed, (MaskRule){0}, err);
}

bool obj_mlm_open(ObjLm **out, Objective *obj, const SampleSet *s, int max_tok, uint64_t seed, int32_t mask_id,
                  int32_t first_random, int n_vocab, double rate, Error *err) {
    *out = NULL;
    if (!(rate > 0 && rate <= 1))
        return error_set(err, ERR_CONFIG, "masked-token objective: share of masked tokens %g, expected 0 < share <= 1",
                         rate);
    if (mask_id < 0 || mask_id >= n_vocab || first_random < 0 || first_random >= n_vocab)
        return error_set(err, ERR_CONFIG, "masked-token objective: mask id %d and first random id %d must lie in 0..%d",
                         mask_id, first_random, n_vocab - 1);
    MaskRule mask = {rate, mask_id, first_random, n_vocab, {seed, RNG_MASK}};
    return lm_open(out, obj, "masked token", s, max_tok, seed, mask, err);
}

void obj_lm_close(ObjLm *o) {
    if (!o) return;
    loader_close(o->loader);
    batch_release(&o->buf);
    logp_release(&o->logp);
    free(o->target);
    free(o->weight);
    free(o->masked);
    free(o);
}
