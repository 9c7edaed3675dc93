#include "serve/alerts.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"

#define AT(field) offsetof(AlertLimits, field)
// clang-format off
const CfgKey alert_keys[] = {
    {"alerts.loss_z",        CFG_FLOAT, CFG_RUNTIME, AT(loss_z),        "6",   0, 1e6, "loss above its median, in deviations (median/MAD of 128 steps)"},
    {"alerts.grad_norm",     CFG_FLOAT, CFG_RUNTIME, AT(grad_norm),     "10",  0, 1e6, "gradient norm in medians, three steps in a row"},
    {"alerts.kl",            CFG_FLOAT, CFG_RUNTIME, AT(kl),            "10",  0, 1e6, "KL to the SFT model, nats per reply"},
    {"alerts.entropy",       CFG_FLOAT, CFG_RUNTIME, AT(entropy),       "0.1", 0, 1,   "share of the first updates' entropy that is left"},
    {"alerts.clip_fraction", CFG_FLOAT, CFG_RUNTIME, AT(clip_fraction), "0.4", 0, 1,   "share of tokens whose ratio is clipped"},
    {"alerts.throughput",    CFG_FLOAT, CFG_RUNTIME, AT(throughput),    "0.8", 0, 1,   "tokens/s of 16 steps as a share of the median of 128"},
    {"alerts.wait",          CFG_FLOAT, CFG_RUNTIME, AT(wait),          "0.02", 0, 1,  "share of time spent waiting for data, 16 steps"},
    {"alerts.stall_s",       CFG_FLOAT, CFG_RUNTIME, AT(stall_s),       "600", 0, 1e9, "seconds without a step of a running stage"},
    {"alerts.checkpoint_s",  CFG_FLOAT, CFG_RUNTIME, AT(checkpoint_s),  "600", 0, 1e9, "age of the newest saved state, seconds"},
    {"alerts.disk",          CFG_FLOAT, CFG_RUNTIME, AT(disk),          "2",   0, 1e6, "free space in sizes of the saved state"},
};
// clang-format on
const int alert_key_count = COUNT_OF(alert_keys);
#undef AT

static const double calm = 1e-3; /* of a loss that does not move, its deviation counts as this share of it */
enum { WINDOW = 128, ENOUGH = 32, FIRST = 8, ROW = 3, RECENT = 16 };
typedef struct {
    double v[WINDOW];
    int64_t n; /* ever */
} Window;

typedef enum { NON_FINITE, LOSS, GRAD_NORM, KL, ENTROPY, CLIP, SLOW, WAIT, STALL, CHECKPOINT, DISK, RULE_COUNT } Rule;
static const char *const rule_name[RULE_COUNT] = {"non_finite", "loss",          "grad_norm",  "kl",
                                                  "entropy",    "clip_fraction", "throughput", "wait",
                                                  "stall",      "checkpoint",    "disk"};

struct Alerts {
    AlertLimits limit;
    AlertFn *fn;
    void *ud;
    Window loss, norm, speed, wait, entropy;
    int norm_in_row;
    bool on[RULE_COUNT];
    int64_t step;
};

Alerts *alerts_new(const AlertLimits *limits, AlertFn *fn, void *ud) {
    Alerts *a = mem_alloc(sizeof *a);
    memset(a, 0, sizeof *a);
    a->limit = *limits;
    a->fn = fn;
    a->ud = ud;
    return a;
}

void alerts_free(Alerts *a) { free(a); }

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int count(const Window *w) { return w->n < WINDOW ? (int)w->n : WINDOW; }

static double median_of(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static double median(const Window *w) {
    double v[WINDOW];
    memcpy(v, w->v, sizeof v);
    return median_of(v, count(w));
}

/* 1.4826 MAD: the standard deviation, were the values normal. */
static double deviation(const Window *w, double mid) {
    double v[WINDOW];
    for (int i = 0; i < count(w); i++) v[i] = fabs(w->v[i] - mid);
    return 1.4826 * median_of(v, count(w));
}

/* The newest RECENT values into v. */
static int recent(const Window *w, double v[RECENT]) {
    int n = w->n < RECENT ? (int)w->n : RECENT;
    for (int i = 0; i < n; i++) v[i] = w->v[(w->n - n + i) % WINDOW];
    return n;
}

static void push(Window *w, double v) { w->v[w->n++ % WINDOW] = v; }

static void judge(Alerts *a, Rule r, bool holds, double value, double limit, const char *why) {
    bool begins = holds && !a->on[r];
    a->on[r] = holds;
    if (!begins) return;
    Alert alert = {.name = rule_name[r], .step = a->step, .value = value, .limit = limit};
    snprintf(alert.text, sizeof alert.text, "%s", why);
    a->fn(a->ud, &alert);
}

/* A number, NaN when it was not finite (null), and whether the row has it. */
static bool field(const Json *row, const char *name, double *v) {
    const Json *j = json_get(row, name);
    if (!j) return false;
    *v = json_num(j, NAN);
    return true;
}

static void look_at_loss(Alerts *a, const Json *row) {
    double loss = 0, norm = 0, skipped = 0;
    bool has_loss = field(row, "loss", &loss), has_norm = field(row, "grad_norm", &norm);
    const Json *skip = json_get(row, "skipped");
    if (skip) skipped = json_kind(skip) == JSON_YES ? 1 : json_num(skip, 0);
    bool broken = skipped > 0 || (has_loss && isnan(loss)) || (has_norm && isnan(norm));
    judge(a, NON_FINITE, broken, skipped, 0,
          "loss or gradient not finite, the step was skipped: learning rate, warm-up, clipping, data");
    if (has_loss && isfinite(loss)) {
        double mid = count(&a->loss) >= ENOUGH ? median(&a->loss) : 0;
        double dev = count(&a->loss) >= ENOUGH ? fmax(deviation(&a->loss, mid), calm * fabs(mid)) : 0;
        double z = dev > 0 ? (loss - mid) / dev : 0;
        judge(a, LOSS, a->limit.loss_z > 0 && z > a->limit.loss_z, z, a->limit.loss_z,
              "the loss jumped: a bad stretch of data, or a learning rate too high");
        push(&a->loss, loss);
    }
    if (has_norm && isfinite(norm)) {
        double mid = count(&a->norm) >= ENOUGH ? median(&a->norm) : INFINITY;
        a->norm_in_row = a->limit.grad_norm > 0 && norm > a->limit.grad_norm * mid ? a->norm_in_row + 1 : 0;
        judge(a, GRAD_NORM, a->norm_in_row >= ROW, mid > 0 ? norm / mid : 0, a->limit.grad_norm,
              "gradients many times their usual size, three steps in a row: training may diverge");
        push(&a->norm, norm);
    }
}

static void look_at_rl(Alerts *a, const Json *row) {
    double v;
    if (field(row, "kl", &v))
        judge(a, KL, a->limit.kl > 0 && v > a->limit.kl, v, a->limit.kl,
              "the policy is far from the SFT model: the preference model may be being gamed; raise rl.beta");
    if (field(row, "entropy", &v) && isfinite(v)) {
        double first = a->entropy.n >= FIRST ? median(&a->entropy) : 0;
        judge(a, ENTROPY, a->limit.entropy > 0 && a->entropy.n >= FIRST && v < a->limit.entropy * first, v,
              a->limit.entropy * first,
              "entropy collapsed: replies are becoming one reply; raise rl.beta, lower rl.lr");
        if (a->entropy.n < FIRST) push(&a->entropy, v);
    }
    if (field(row, "clipfrac", &v))
        judge(a, CLIP, a->limit.clip_fraction > 0 && v > a->limit.clip_fraction, v, a->limit.clip_fraction,
              "most updates are clipped: fewer epochs or a lower learning rate");
}

/* Of 16 steps: a single slow one is normal, and so is the first wait of a stage. */
static void look_at_speed(Alerts *a, const Json *row) {
    double v, last[RECENT];
    if (field(row, "t_tok_s", &v) && isfinite(v)) {
        push(&a->speed, v);
        bool enough = count(&a->speed) >= ENOUGH;
        double mid = median(&a->speed), now = median_of(last, recent(&a->speed, last));
        judge(a, SLOW, enough && now<a->limit.throughput * mid, mid> 0 ? now / mid : 0, a->limit.throughput,
              "slower than usual for 16 steps: another program on this machine, heat, a slow disk");
    }
    if (field(row, "t_wait", &v) && isfinite(v)) {
        double sum = 0;
        push(&a->wait, v);
        int n = recent(&a->wait, last);
        for (int i = 0; i < n; i++) sum += last[i] / n;
        judge(a, WAIT, a->limit.wait > 0 && a->wait.n >= 2 * RECENT && sum > a->limit.wait, sum, a->limit.wait,
              "training waits for data: a slow disk, or too little tokenised ahead");
    }
}

void alerts_row(Alerts *a, const Json *row) {
    a->step = json_int(json_get(row, "step"), a->step);
    look_at_loss(a, row);
    look_at_rl(a, row);
    look_at_speed(a, row);
}

void alerts_clock(Alerts *a, const AlertClock *c) {
    const AlertLimits *l = &a->limit;
    judge(a, STALL, l->stall_s > 0 && c->since_step > l->stall_s, c->since_step, l->stall_s,
          "no step for a long time: hung, stopped or starved");
    judge(a, CHECKPOINT, l->checkpoint_s > 0 && c->since_state > l->checkpoint_s, c->since_state, l->checkpoint_s,
          "the newest saved state is old: a failure now would lose that much work; see run.state_s and the disk");
    bool known = c->disk_free >= 0 && c->state_bytes > 0;
    judge(a, DISK, l->disk > 0 && known && c->disk_free < l->disk * c->state_bytes, c->disk_free,
          l->disk * c->state_bytes, "the disk has too little room for the next saved states");
}
