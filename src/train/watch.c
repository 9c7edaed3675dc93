#include "train/watch.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/crash.h"
#include "base/json.h"
#include "dist/health.h"

enum { BUCKET = 1 << 22, MAX_CORRUPT = 8, SLOW_STEPS = 3 };
static const double least_s = 5e-3; /* shorter passes are noise */
static const double nap_s = 0.02;   /* of train.slow, at least */
static const double abort_s = 30;   /* a supervisor ends this process within */

struct Watch {
    WatchConfig c;
    Pulse *pulse;
    int64_t worked_ns;        /* at the last leaf */
    int64_t spoilt, left_out; /* steps that a test has hit */
    Pace *pace;               /* (world) seconds a token */
    double *score;
    int *slow; /* (world) judgements in a row */
};

static Comm *world_of(const Watch *w) { return w->c.mesh ? w->c.mesh->world : NULL; }

Watch *watch_new(const WatchConfig *c) {
    Watch *w = mem_alloc(sizeof *w);
    *w = (Watch){.c = *c, .pulse = log_pulse(c->log), .spoilt = -1, .left_out = -1};
    size_t n = (size_t)comm_size(world_of(w));
    w->pace = mem_alloc(n * sizeof *w->pace);
    w->score = mem_alloc(n * sizeof *w->score);
    w->slow = mem_alloc(n * sizeof *w->slow);
    w->worked_ns = pulse_work_ns(w->pulse);
    return w;
}

void watch_free(Watch *w) {
    if (!w) return;
    free(w->pace);
    free(w->score);
    free(w->slow);
    free(w);
}

static void nap(double s) { nanosleep(&(struct timespec){(time_t)s, (long)(1e9 * (s - (double)(time_t)s))}, NULL); }

/* -- micro-batches */

void watch_leaf(Watch *w, int64_t step, int64_t number, LeafSum *s) {
    int rank = comm_rank(world_of(w));
    s->number = number;
    if (crash_here("train.slow", rank, step)) nap(fmax(nap_s, 2e-9 * (double)(pulse_work_ns(w->pulse) - w->worked_ns)));
    if (w->spoilt != step && crash_here("train.nan", rank, step)) {
        w->spoilt = step;
        s->loss = NAN;
    }
    int64_t now = pulse_work_ns(w->pulse);
    s->seconds = 1e-9 * (double)(now - w->worked_ns);
    w->worked_ns = now;
    if (!isfinite(s->loss)) pulse_nonfinite(w->pulse);
}

static void say(const Watch *w, const char *event, const char *text) {
    if (!mesh_leads(w->c.mesh)) return;
    log_warn(w->c.log, "%s", text);
    log_event(w->c.log, event, "%s", text);
}

static void name_bad(const Watch *w, int64_t step, const LeafHealth *h) {
    char text[400];
    if (h->n_bad == 0) return;
    snprintf(text, sizeof text,
             "step %" PRId64 ": the loss of micro-batch %" PRId64 " on rank %d is not finite (%" PRId64 " of %" PRId64
             " micro-batches): the step is skipped on all ranks. Likely causes: the learning rate is too high or its "
             "warm-up "
             "too short; gradient clipping is off; the data or the weights it started from hold non-finite values",
             step, h->bad, h->bad_rank, h->n_bad, h->n);
    say(w, "non_finite", text);
}

static void name_slow(Watch *w, int64_t step, const LeafHealth *h, int n) {
    char text[240];
    for (int r = 0; r < n; r++)
        if (h->tokens[r] > 0) pace_add(&w->pace[r], h->seconds[r] / h->tokens[r]);
    pace_scores(w->score, w->pace, n);
    for (int r = 0; r < n; r++) {
        double mine = pace_median(&w->pace[r]), leaf_s = h->leaves[r] > 0 ? mine * h->tokens[r] / h->leaves[r] : 0;
        w->slow[r] = w->score[r] < HEALTH_SLOW && leaf_s >= least_s ? w->slow[r] + 1 : 0;
        if (w->slow[r] != SLOW_STEPS) continue;
        snprintf(text, sizeof text,
                 "step %" PRId64
                 ": rank %d is a straggler: %.3g us a token, the fastest rank's %.3g (score %.2f, alert "
                 "below %.2f)",
                 step, r, 1e6 * mine, 1e6 * w->score[r] * mine, w->score[r], HEALTH_SLOW);
        say(w, "straggler", text);
    }
}

bool watch_step(Watch *w, int64_t step, const Leaves *l) {
    const LeafHealth *h = leaves_health(l);
    int n = comm_size(world_of(w));
    name_bad(w, step, h);
    if (n > 1) name_slow(w, step, h, n);
    bool told = w->left_out != step && crash_here("train.skip", comm_rank(world_of(w)), step);
    if (told) w->left_out = step;
    return told;
}

/* -- weights */

typedef struct {
    Backend *be;
    BucketHash hash;
    size_t bytes;
    void *raw;
    size_t cap;
    bool flipped;
} Bits;

static void count_bytes(void *ud, int index, const ParamInfo *p) {
    Bits *b = ud;
    (void)index;
    size_t n = tensor_raw_bytes(p->w);
    b->bytes += n;
    if (n > b->cap) b->cap = n;
}

static void hash_bits(void *ud, int index, const ParamInfo *p) {
    Bits *b = ud;
    (void)index;
    tensor_get_raw(b->be, b->raw, p->w);
    bucket_hash_add(&b->hash, b->raw, tensor_raw_bytes(p->w));
}

/* A low bit of the first weight. */
static void flip_bit(void *ud, int index, const ParamInfo *p) {
    Bits *b = ud;
    (void)index;
    if (b->flipped || tensor_empty(p->w)) return;
    double *row = mem_alloc((size_t)p->w.cols * sizeof *row);
    tensor_get_row(b->be, row, p->w, 0);
    row[0] = row[0] == 0 ? 1e-3 : row[0] * (1 + 0x1p-7);
    tensor_set_row(b->be, p->w, 0, row);
    b->flipped = true;
    free(row);
}

static void visit(const Watch *w, ParamVisitor *fn, Bits *b) {
    for (int i = 0; i < w->c.n_net; i++) {
        b->be = w->c.net[i].trunk->be;
        net_visit_own(w->c.net[i], fn, b);
    }
}

/* Hashes of this rank's weights; *n of them. */
static Hash *hash_weights(const Watch *w, int *n) {
    Bits b = {0};
    visit(w, count_bytes, &b);
    int cap = (int)(b.bytes / BUCKET) + 1;
    Hash *out = mem_alloc((size_t)cap * sizeof *out);
    b.raw = mem_alloc(b.cap + 1);
    bucket_hash_begin(&b.hash, out, cap, BUCKET);
    visit(w, hash_bits, &b);
    *n = bucket_hash_end(&b.hash);
    free(b.raw);
    return out;
}

/* Those that hold the weights of one place: at.cp and at.dp are 0. Ranks are named as the world numbers them. */
static int compare_group(Corrupt bad[MAX_CORRUPT], const Gathered *all, Layout size, Layout at) {
    int n_bucket = 0;
    Hash *hash = NULL;
    int n_equal = size.cp * size.dp;
    for (int d = 0; d < n_equal; d++) {
        int r = layout_rank(size, (Layout){at.tp, d / size.dp, at.pp, d % size.dp});
        int64_t bytes = all->off[r + 1] - all->off[r];
        if (d == 0) n_bucket = (int)(bytes / (int64_t)sizeof *hash);
        CHECK(bytes == n_bucket * (int64_t)sizeof *hash, "replicas of %d buckets and of %lld bytes of hashes", n_bucket,
              (long long)bytes);
        if (d == 0) hash = mem_alloc(((size_t)n_equal * (size_t)n_bucket + 1) * sizeof *hash);
        memcpy(hash + (int64_t)d * n_bucket, all->data + all->off[r], (size_t)bytes);
    }
    int n = replicas_compare(bad, MAX_CORRUPT, hash, n_equal, n_bucket);
    for (int i = 0; i < n && i < MAX_CORRUPT; i++)
        bad[i].rank = layout_rank(size, (Layout){at.tp, bad[i].rank / size.dp, at.pp, bad[i].rank % size.dp});
    free(hash);
    return n;
}

static int compare_all(Corrupt bad[MAX_CORRUPT], const Gathered *all, Layout size) {
    Layout at = {0};
    for (at.pp = 0; at.pp < size.pp; at.pp++)
        for (at.tp = 0; at.tp < size.tp; at.tp++) {
            int n = compare_group(bad, all, size, at);
            if (n > 0) return n;
        }
    return 0;
}

static void describe(char text[400], const Corrupt *bad, int n, int64_t step) {
    if (bad->tie)
        snprintf(text, 400,
                 "step %" PRId64 ": the replicas' weights differ, from bucket %d (of 4 MiB) on, and no majority holds "
                 "the same: rank %d or another one has changed by something that was not training",
                 step, bad->bucket, bad->rank);
    else
        snprintf(text, 400,
                 "step %" PRId64 ": the weights of rank %d differ from the other replicas' in bucket %d (of 4 MiB; %d "
                 "difference%s in all): memory or a device of that rank has changed them",
                 step, bad->rank, bad->bucket, n, n > 1 ? "s" : "");
}

/* The supervisor ends everybody; who returned before would look like the fault. */
static void tell_and_wait(Watch *w, const Corrupt *bad, const char *text) {
    Str line = {0};
    JsonOut j;
    json_out_init(&j, &line, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "event", "corrupt");
    json_out_int(&j, "rank", bad->rank);
    json_out_str(&j, "msg", text);
    json_out_obj_end(&j);
    if (mesh_leads(w->c.mesh)) pulse_tell(w->pulse, str_get(&line));
    str_release(&line);
    for (double end = now_s() + abort_s; pulse_supervised(w->pulse) && now_s() < end;) nap(nap_s);
}

bool watch_weights(Watch *w, int64_t step, bool save, Error *err) {
    const Mesh *m = w->c.mesh;
    Bits bits = {0};
    if (crash_here("train.flip", comm_rank(world_of(w)), step)) visit(w, flip_bit, &bits);
    if (!m || m->size.dp * m->size.cp < 2 || w->c.every <= 0 || (!save && step % w->c.every != 0)) return true;
    Error mine = {0};
    Gathered all;
    int n;
    Hash *hash = hash_weights(w, &n);
    bool ok = agree(m->world, &mine, hash, n * (int64_t)sizeof *hash, &all, err);
    free(hash);
    if (!ok) return false;
    Corrupt bad[MAX_CORRUPT];
    int n_bad = compare_all(bad, &all, m->size);
    gathered_release(&all);
    if (n_bad == 0) return true;
    char text[400];
    describe(text, bad, n_bad, step);
    say(w, "corrupt", text);
    tell_and_wait(w, bad, text);
    return error_set(
        err, ERR_STATE,
        "%.380s. Nothing newer than the last checkpoint can be trusted: run again to go on from there, without that "
        "rank's machine if it happens again",
        text);
}
