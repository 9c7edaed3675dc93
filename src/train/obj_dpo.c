#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "train/batch.h"
#include "train/obj.h"

/* A pair's loss depends on the sums of its log-probs, so rows are looked at before they are given gradients. Both sides
 * of a pair are neighbours in one pack. The reference never changes: its sums are computed once, before training. */

struct ObjDpo {
    const SampleSet *s;
    const double *ref; /* (samples) */
    DpoConfig c;
    Loader *loader;
    BatchBuf buf;
    LogpBuf logp;
    int32_t *target; /* (R) */
    int32_t *of;     /* (R) sequence of the pack */
    int64_t *sample; /* (S) */
    double *sum;     /* (S) log-probs of the reply under the policy */
    int *n_row;      /* (S) */
    bool *counted;   /* (S) the pair's loss is in: asked on its first side */
    int max_seq;
    bool looks_first; /* this micro-batch is the first and policy = reference */
    double gap;       /* largest |D| of it */
};

static bool dpo_micro(void *self, int64_t number, Batch *b, Error *err) {
    ObjDpo *o = self;
    if (!obj_dpo_check(o, err)) return false;
    const Pack *p = loader_pack(o->loader, number);
    batch_from_pack(&o->buf, b, p, true);
    CHECK(p->n_seq <= o->max_seq, "%d sequences in a pack", p->n_seq);
    for (int s = 0; s < p->n_seq; s++) {
        o->sample[s] = p->sample[s];
        o->sum[s] = 0;
        o->n_row[s] = 0;
        o->counted[s] = false;
        for (int i = p->seq_off[s]; i < p->seq_off[s + 1] - 1; i++) {
            if (p->weight[i] == 0) continue;
            o->buf.row[b->n_row] = i;
            o->target[b->n_row] = p->tok[i + 1];
            o->of[b->n_row++] = s;
            o->n_row[s]++;
        }
    }
    for (int s = 0; s < p->n_seq; s += 2)
        if (s + 1 == p->n_seq || p->sample[s] % 2 != 0 || p->sample[s + 1] != p->sample[s] + 1)
            return error_set(err, ERR_STATE, "pack %" PRId64 ": the sides of a preference pair are not neighbours",
                             number);
    o->looks_first = o->c.equal && number == 0;
    return true;
}

static void dpo_look(void *self, Backend *be, const Batch *b, int first, Tensor out) {
    ObjDpo *o = self;
    (void)b;
    logp_forward(&o->logp, be, out, o->target + first, 1, false);
    for (int i = 0; i < out.rows; i++) o->sum[o->of[first + i]] += (float)o->logp.lp[i]; /* as the engine's */
}

/* Log-ratio of sequence s to the reference: of the whole reply, or its mean. */
static double log_ratio(const ObjDpo *o, int s) {
    double x = o->sum[s] - o->ref[o->sample[s]];
    return o->c.average ? x / o->n_row[s] : x;
}

static void add_metrics(Metrics *m, double beta, double d, double a, double b, double q, double w) {
    bool first = q > 0.5;
    metrics_add(m, "accuracy", first ? d > 0 : d < 0, q == 0.5 ? 0 : w);
    metrics_add(m, "margin", beta * (first ? d : -d), q == 0.5 ? 0 : w);
    metrics_add(m, "chosen_reward", beta * (first ? a : b), w);
    metrics_add(m, "rejected_reward", beta * (first ? b : a), w);
}

static double dpo_rows(void *self, Backend *be, const Batch *b, int first, Tensor out, double *weight, Metrics *m) {
    ObjDpo *o = self;
    double loss = 0;
    (void)b;
    logp_forward(&o->logp, be, out, o->target + first, 1, false);
    for (int i = 0; i < out.rows; i++) {
        int s = o->of[first + i], pair = s - s % 2;
        double a = log_ratio(o, pair), c = log_ratio(o, pair + 1), slope;
        int64_t sample = o->sample[pair];
        double w = o->s->sample_weight[sample], q = o->s->target[sample];
        double l = dpo_loss(&slope, a - c, q, o->c.rule);
        o->logp.dlp[i] = w == 0 ? 0 : w * (s == pair ? slope : -slope) / (o->c.average ? o->n_row[s] : 1);
        if (o->looks_first && !(fabs(a - c) <= o->gap)) o->gap = isfinite(a - c) ? fabs(a - c) : INFINITY;
        if (o->counted[pair] || w == 0) continue;
        o->counted[pair] = true;
        loss += w * l;
        *weight += w;
        add_metrics(m, o->c.rule.beta, a - c, a, c, q, w);
    }
    logp_backward(&o->logp, be, out, o->target + first, 1);
    return loss;
}

int64_t obj_dpo_packs(ObjDpo *o, int64_t epoch) { return loader_packs_in_epoch(o->loader, epoch); }
static double dpo_wait_s(void *self) { return loader_wait_s(((ObjDpo *)self)->loader); }

bool obj_dpo_check(const ObjDpo *o, Error *err) {
    if (o->gap == 0) return true;
    return error_set(
        err, ERR_STATE,
        "dpo: policy and reference hold equal weights, yet the log-ratios of a pair differ by %.9g in the "
        "first micro-batch (expected 0, loss ln 2). Likely causes: policy and reference count other tokens "
        "as the reply's; one of them is read one row off; chosen and rejected are swapped for one of them",
        o->gap);
}

static int first_counted(const SampleSet *s, int64_t i) {
    int64_t k = s->off[i];
    while (k < s->off[i + 1] && s->weight[k] == 0) k++;
    return (int)(k - s->off[i]);
}

bool obj_dpo_reference(double *ref, const SampleSet *s, Net reference, int max_tok, Error *err) {
    enum { TOGETHER = 256 };
    Engine *e = NULL;
    EngineConfig c = {.max_batch_tok = max_tok};
    if (!engine_open(&e, reference, &c, err)) return false;
    bool ok = true;
    for (int64_t from = 0; ok && from < s->n; from += TOGETHER) {
        int n = (int)(s->n - from < TOGETHER ? s->n - from : TOGETHER);
        Tokens prefix[TOGETHER], text[TOGETHER];
        float *lp[TOGETHER];
        int64_t base = s->off[from];
        float *flat = mem_alloc((size_t)(s->off[from + n] - base) * sizeof *flat);
        for (int i = 0; i < n; i++) {
            int64_t at = s->off[from + i];
            int len = (int)(s->off[from + i + 1] - at), head = first_counted(s, from + i);
            prefix[i] = (Tokens){s->tok + at, head};
            text[i] = (Tokens){s->tok + at + head, len - head};
            lp[i] = flat + (at - base);
        }
        ok = engine_score(e, prefix, text, n, 1, lp, err);
        for (int i = 0; ok && i < n; i++) {
            const float *w = s->weight + s->off[from + i] + prefix[i].n;
            ref[from + i] = 0;
            for (int k = 0; k < text[i].n; k++) ref[from + i] += w[k] != 0 ? lp[i][k] : 0;
        }
        free(flat);
    }
    engine_close(e);
    return ok;
}

static bool dpo_check_samples(const SampleSet *s, const DpoConfig *c, Error *err) {
    CHECK(s->group == 2, "dpo objective: samples come in groups of %d, expected pairs", s->group);
    if (!(c->rule.beta > 0))
        return error_set(err, ERR_CONFIG, "dpo.beta is %g, expected a number above 0", c->rule.beta);
    if (!(c->rule.smoothing >= 0 && c->rule.smoothing <= 0.5))
        return error_set(err, ERR_CONFIG, "dpo.label_smoothing is %g, expected 0..0.5", c->rule.smoothing);
    for (int64_t i = 0; i < s->n; i++) {
        int64_t n = s->off[i + 1] - s->off[i];
        if (first_counted(s, i) >= n)
            return error_set(err, ERR_FORMAT,
                             "dpo objective: sample %llu (number %lld, %lld tokens) has no reply: none of "
                             "its tokens has loss weight",
                             (unsigned long long)s->id[i], (long long)i, (long long)n);
        if (i % 2 == 0 && !(s->target[i] >= 0 && s->target[i] <= 1))
            return error_set(err, ERR_FORMAT, "dpo objective: sample %llu has target %g, expected 0..1",
                             (unsigned long long)s->id[i], (double)s->target[i]);
    }
    return true;
}

bool obj_dpo_open(ObjDpo **out, Objective *obj, const SampleSet *s, const double *ref, int max_tok, uint64_t seed,
                  const DpoConfig *c, Error *err) {
    *out = NULL;
    if (!dpo_check_samples(s, c, err)) return false;
    ObjDpo *o = mem_alloc(sizeof *o);
    o->s = s;
    o->ref = ref;
    o->c = *c;
    int64_t shortest = max_tok;
    for (int64_t i = 0; i < s->n; i++)
        if (s->off[i + 1] - s->off[i] < shortest) shortest = s->off[i + 1] - s->off[i];
    o->max_seq = (int)(max_tok / (shortest ? shortest : 1));
    if (!loader_open(&o->loader, s, max_tok, seed, err)) {
        free(o);
        return false;
    }
    o->target = mem_alloc((size_t)max_tok * sizeof *o->target);
    o->of = mem_alloc((size_t)max_tok * sizeof *o->of);
    o->sample = mem_alloc((size_t)o->max_seq * sizeof *o->sample);
    o->sum = mem_alloc((size_t)o->max_seq * sizeof *o->sum);
    o->n_row = mem_alloc((size_t)o->max_seq * sizeof *o->n_row);
    o->counted = mem_alloc((size_t)o->max_seq * sizeof *o->counted);
    *obj =
        (Objective){.name = "dpo", .row_group = 1, .micro = dpo_micro, .loss = dpo_rows, .self = o, .look = dpo_look};
    obj->wait_s = dpo_wait_s;
    obj->max_tok = obj->max_row = max_tok;
    obj->logp = &o->logp, obj->target = o->target, obj->temp = 1;
    *out = o;
    return true;
}

void obj_dpo_close(ObjDpo *o) {
    if (!o) return;
    loader_close(o->loader);
    batch_release(&o->buf);
    logp_release(&o->logp);
    free(o->target);
    free(o->of);
    free(o->sample);
    free(o->sum);
    free(o->n_row);
    free(o->counted);
    free(o);
}
