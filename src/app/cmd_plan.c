/* dikast plan: what training on a cluster costs, by the formulas of dist/plan.h; nothing is run or written. */
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/plan_conf.h"
#include "base/config.h"
#include "dist/plan.h"
#include "nn/model.h"

static const Flag flags[] = {
    {"--gpus", "NxKIND", "how many of which: 64xH100; kinds: A100, H100, H200, or the one --hardware describes"},
    {"--hardware", "FILE", "YAML of one kind of GPU, section gpu: a kind that is not listed, or one with other rates"},
    {"--model", "NAME", "124m, 1b, 7b, 8b, 13b, 70b, 405b, or a folder with config.json"},
    {"--seq", "N", "tokens of a sequence: 4096 or 4k (default 4096)"},
    {"--batch", "N", "sequences of an optimizer step (default: about 4 M tokens)"},
    {"--tokens", "N", "tokens to train on: 200B"},
    {"--top", "N", "layouts to show (default 8)"},
    {"--max-tp", "N", "at most so many ranks share a layer (default: a node's GPUs)"},
    {"--max-pp", "N", "at most so many stages"},
    {"--cp", "N", "ranks that divide the tokens of each sequence: context parallel (default 1)"},
    {"--interleave", NULL,
     "also pipelines whose stages have several groups of layers (v): others' way, dist.pp has one"},
    {"--no-recompute", NULL, "only layouts that keep every activation"},
    {"--ppo", NULL, "four models on the same GPUs: policy and value trained, reference and preference model frozen"},
    {"--scaling", NULL, "the best layout of fewer GPUs too, and how well more of them are used"},
    {"--stall", "S", "seconds that saving a checkpoint stops training (default 2)"},
    {"--restart", "S", "seconds from a failure to training again (default 300)"},
    {"--failures", "N", "per 1000 nodes and day (default 6.5)"},
    {0}};

#define GIB 1073741824.0

typedef struct {
    PlanGpu gpu;
    PlanModel model;
    PlanAsk ask;
    double tokens, stall, restart, failures;
    int64_t top;
} Plan;

/* -- what is asked
 * ----------------------------------------------------------------------------------------------------- */

typedef struct {
    char *name;
    double peak, memory_gib, bandwidth, link, net, gemm, elem, link_share, overlap, reserve_gib, price;
    int64_t per_node;
} Hardware;

#define AT(field) offsetof(Hardware, field)
// clang-format off
static const CfgKey hardware_keys[] = {
    {"gpu.name",        CFG_STR,   CFG_RESULT, AT(name),        "",     0, 0,           "what --gpus calls it"},
    {"gpu.peak",        CFG_FLOAT, CFG_RESULT, AT(peak),        "0",    0, 1e18,      "FLOP/s of 16-bit products without sparsity"},
    {"gpu.memory_gib",  CFG_FLOAT, CFG_RESULT, AT(memory_gib),  "0",    0, 1e5,       "memory, GiB"},
    {"gpu.bandwidth",   CFG_FLOAT, CFG_RESULT, AT(bandwidth),   "0",    0, 1e15,      "of memory, bytes/s"},
    {"gpu.link",        CFG_FLOAT, CFG_RESULT, AT(link),        "0",    0, 1e15,      "to GPUs of the same node, bytes/s and direction"},
    {"gpu.net",         CFG_FLOAT, CFG_RESULT, AT(net),         "0",    0, 1e15,      "to other nodes, bytes/s and direction, per GPU"},
    {"gpu.per_node",    CFG_INT,   CFG_RESULT, AT(per_node),    "8",    1, 1024,        "GPUs of a node"},
    {"gpu.gemm",        CFG_FLOAT, CFG_RESULT, AT(gemm),        "0.62", 0.01, 1,        "share of the peak that products reach"},
    {"gpu.elem",        CFG_FLOAT, CFG_RESULT, AT(elem),        "32",   0, 1000,        "times a layer's residual stream passes through memory, forward"},
    {"gpu.link_share",  CFG_FLOAT, CFG_RESULT, AT(link_share),  "0.8",  0.01, 1,        "share of the link that sums over tp reach"},
    {"gpu.overlap",     CFG_FLOAT, CFG_RESULT, AT(overlap),     "0.8",  0, 1,           "share of the sums over dp that hides behind backward"},
    {"gpu.reserve_gib", CFG_FLOAT, CFG_RESULT, AT(reserve_gib), "4",    0, 1e4,         "GiB that are not the program's"},
    {"gpu.price",       CFG_FLOAT, CFG_RESULT, AT(price),       "0",    0, 1e6,         "of an hour of one GPU; 0: unknown"},
};
// clang-format on
#undef AT

static bool read_hardware(PlanGpu *g, const char *path, Error *err) {
    Hardware h = {0};
    Str report = {0};
    bool ok = config_load(&h, hardware_keys, COUNT_OF(hardware_keys), path, NULL, 0, &report, err);
    if (!ok) fputs(str_get(&report), stderr);
    str_release(&report);
    if (!ok) return false;
    const struct {
        const char *key;
        double value;
    } needed[] = {
        {"peak", h.peak}, {"memory_gib", h.memory_gib}, {"bandwidth", h.bandwidth}, {"link", h.link}, {"net", h.net}};
    for (int i = 0; ok && i < COUNT_OF(needed); i++)
        if (needed[i].value == 0) ok = error_set(err, ERR_CONFIG, "%s: gpu.%s is missing or 0", path, needed[i].key);
    if (ok && h.memory_gib <= h.reserve_gib)
        ok = error_set(err, ERR_CONFIG, "%s: gpu.memory_gib %g leaves nothing beside gpu.reserve_gib %g", path,
                       h.memory_gib, h.reserve_gib);
    if (ok && (!h.name[0] || strlen(h.name) >= sizeof g->name))
        ok = error_set(err, ERR_CONFIG, "%s: gpu.name needs 1 to %d bytes", path, (int)sizeof g->name - 1);
    *g =
        (PlanGpu){"",     h.peak,       h.memory_gib * GIB, h.bandwidth,         h.link, h.net, (int)h.per_node, h.gemm,
                  h.elem, h.link_share, h.overlap,          h.reserve_gib * GIB, h.price};
    if (ok) strcpy(g->name, h.name);
    config_release(&h, hardware_keys, COUNT_OF(hardware_keys));
    return ok;
}

enum { LONGEST = 1 << 30 }; /* tokens of a sequence */

/* "200B", "4k": with a unit of tokens (1000s), or of lengths (k = 1024). */
static bool amount(double *out, const char *flag, const char *s, double kilo, Error *err) {
    char *end;
    double v = strtod(s, &end);
    static const char unit[] = "kMBT";
    const char *u = *end && !end[1] ? strchr(unit, *end) : NULL;
    if (end == s || (*end && !u) || !(v > 0) || !isfinite(v))
        return error_set(err, ERR_CONFIG, "%s must be a number with k, M, B or T behind it or none, found '%s'", flag,
                         s);
    *out = u ? v * pow(kilo, (double)(u - unit) + 1) : v;
    return true;
}

static bool read_gpus(Plan *p, const char *s, const char *hardware, Error *err) {
    char *end;
    errno = 0;
    long n = strtol(s, &end, 10);
    if (end == s || *end != 'x' || errno || n < 1 || n > 1000000)
        return error_set(err, ERR_CONFIG,
                         "--gpus must be a count of 1 to 1000000, 'x' and a kind, as 64xH100; found '%s'", s);
    p->ask.gpus = (int)n;
    if (hardware && !read_hardware(&p->gpu, hardware, err)) return false;
    const PlanGpu *known = hardware && !strcmp(p->gpu.name, end + 1) ? &p->gpu : plan_gpu_find(end + 1);
    if (!known) {
        Str names = {0};
        for (int i = 0; plan_gpu(i); i++) str_printf(&names, "%s%s", i ? ", " : "", plan_gpu(i)->name);
        if (hardware) str_printf(&names, ", %s", p->gpu.name);
        error_set(err, ERR_CONFIG, "GPU '%s' is unknown; known are %s; --hardware FILE describes another", end + 1,
                  str_get(&names));
        str_release(&names);
        return false;
    }
    if (known != &p->gpu) p->gpu = *known;
    return true;
}

static bool read_model(PlanModel *out, const char *name, Error *err) {
    const PlanModel *known = plan_model_find(name);
    ModelConfig c;
    if (known) {
        *out = *known;
        return true;
    }
    if (!model_config_read(&c, name, err)) return error_wrap(err, "--model: neither a known shape nor a model folder");
    *out = (PlanModel){"", c.n_layer, c.d_model, c.n_head, c.n_kv_head, c.d_ff, c.n_vocab, c.mlp == MLP_SWIGLU, c.tied};
    const char *last = strrchr(name, '/');
    snprintf(out->name, sizeof out->name, "%s", last && last[1] ? last + 1 : name);
    return true;
}

static bool read_args(Plan *p, const Args *a, Error *err) {
    const Command *c = &command_plan;
    const char *gpus = args_flag(a, c, "--gpus"), *model = args_flag(a, c, "--model"), *seq = args_flag(a, c, "--seq");
    const char *tokens = args_flag(a, c, "--tokens");
    double length = 4096;
    int64_t tp, pp, cp;
    if (!gpus || !model)
        return error_set(
            err, ERR_CONFIG,
            "what is to be planned? A run, as in 'dikast plan conf/real.yaml', or a cluster, as in 'dikast "
            "plan --gpus 64xH100 --model 7b'");
    if (!read_gpus(p, gpus, args_flag(a, c, "--hardware"), err) || !read_model(&p->model, model, err)) return false;
    if (seq && !amount(&length, "--seq", seq, 1024, err)) return false;
    if (length < 1 || length > LONGEST || length != floor(length))
        return error_set(err, ERR_CONFIG, "--seq must be a whole number from 1 to %d, found '%s'", LONGEST, seq);
    if (tokens && !amount(&p->tokens, "--tokens", tokens, 1000, err)) return false;
    p->ask.gpu = &p->gpu;
    p->ask.model = &p->model;
    p->ask.seq = (int64_t)length;
    p->ask.recompute = !args_flag(a, c, "--no-recompute");
    p->ask.interleave = args_flag(a, c, "--interleave") != NULL;
    p->ask.trained = args_flag(a, c, "--ppo") ? 2 : 1;
    p->ask.frozen = p->ask.trained == 2 ? 2 : 0;
    /* A multiple of the GPUs, so that every dp divides it. */
    int64_t about = (int64_t)((4 << 20) / length / p->ask.gpus + 0.5) * p->ask.gpus;
    bool ok = args_int(a, c, "--batch", about > 0 ? about : p->ask.gpus, 1, 1 << 30, &p->ask.batch, err) &&
              args_int(a, c, "--top", 8, 1, 64, &p->top, err) && args_int(a, c, "--max-tp", 0, 1, 1024, &tp, err) &&
              args_int(a, c, "--max-pp", 0, 1, 1024, &pp, err) && args_int(a, c, "--cp", 1, 1, 1024, &cp, err) &&
              args_num(a, c, "--stall", 2, 1e-6, 1e6, &p->stall, err) &&
              args_num(a, c, "--restart", 300, 0, 1e6, &p->restart, err) &&
              args_num(a, c, "--failures", 6.5, 1e-6, 1e6, &p->failures, err);
    if (!ok) return false;
    p->ask.max_tp = (int)tp;
    p->ask.max_pp = (int)pp;
    p->ask.cp = (int)cp;
    return p->ask.gpus % cp == 0 ||
           error_set(err, ERR_CONFIG, "--cp %lld does not divide %d GPUs", (long long)cp, p->ask.gpus);
}

/* -- what it costs
 * ----------------------------------------------------------------------------------------------------- */

typedef struct {
    double tok_s, bytes, days, failures, cost;
    PlanFaults faults;
} Cost;

static Cost cost_of(const Plan *p, const PlanAsk *ask, const PlanRow *r) {
    double nodes = ceil((double)ask->gpus / p->gpu.per_node);
    Cost c = {.tok_s = (double)ask->batch * (double)ask->seq / r->step.seconds,
              .bytes = r->memory.state + r->memory.acts + r->memory.work + r->memory.sums,
              .faults = plan_faults(nodes, p->failures, p->stall, p->restart)};
    c.days = c.faults.efficiency > 0 ? p->tokens / c.tok_s / 86400 / c.faults.efficiency : INFINITY;
    c.failures = c.days * 86400 / c.faults.mttf;
    c.cost = c.days * 24 * ask->gpus * p->gpu.price;
    return c;
}

static const char *keep_name(PlanKeep k) { return k == PLAN_KEEP_INPUT ? "full" : "none"; }

static void json_row(JsonOut *j, const Plan *p, const PlanAsk *ask, const PlanRow *r) {
    const PlanLayout *l = &r->layout;
    Cost c = cost_of(p, ask, r);
    json_out_obj(j, NULL);
    json_out_int(j, "gpus", ask->gpus);
    json_out_int(j, "batch", ask->batch);
    json_out_int(j, "tp", l->tp);
    json_out_int(j, "cp", l->cp);
    json_out_int(j, "pp", l->pp);
    json_out_int(j, "dp", l->dp);
    json_out_int(j, "virtual_stages", l->v);
    json_out_int(j, "micro", l->micro);
    json_out_str(j, "recompute", keep_name(l->keep));
    json_out_int(j, "zero", l->zero);
    json_out_num(j, "state_bytes", r->memory.state);
    json_out_num(j, "activation_bytes", r->memory.acts);
    json_out_num(j, "work_bytes", r->memory.work);
    json_out_num(j, "sum_bytes", r->memory.sums);
    json_out_num(j, "step_s", r->step.seconds);
    json_out_num(j, "flops", r->step.flops);
    json_out_num(j, "tokens_s", c.tok_s);
    json_out_num(j, "mfu", r->step.mfu);
    json_out_num(j, "bubble", r->step.bubble);
    json_out_num(j, "tp_share", r->step.tp_share);
    json_out_num(j, "cp_share", r->step.cp_share);
    json_out_num(j, "dp_share", r->step.dp_share);
    json_out_num(j, "checkpoint_interval_s", c.faults.interval);
    json_out_num(j, "efficiency", c.faults.efficiency);
    if (p->tokens > 0) {
        json_out_num(j, "days", c.days);
        json_out_num(j, "interruptions", c.failures);
        if (p->gpu.price > 0) json_out_num(j, "cost", c.cost);
    }
    json_out_obj_end(j);
}

static void text_row(const Plan *p, const PlanAsk *ask, const PlanRow *r) {
    const PlanLayout *l = &r->layout;
    Cost c = cost_of(p, ask, r);
    printf("%3d %3d %5d  %2d %2d %5d  %-9s  %7.1f  %8.3g  %9.4g  %4.1f  %5.1f  %4.1f  %4.1f", l->tp, l->pp, l->dp,
           l->zero, l->v, l->micro, keep_name(l->keep), c.bytes / GIB, r->step.seconds, c.tok_s, 100 * r->step.mfu,
           100 * r->step.bubble, 100 * r->step.tp_share, 100 * r->step.dp_share);
    if (p->tokens > 0) printf("  %7.3g  %6.3g", c.days, c.failures);
    if (p->tokens > 0 && p->gpu.price > 0) printf("  %9.4g", c.cost);
    printf("\n");
}

static void text_head(const Plan *p) {
    printf(" tp  pp    dp  z  v micro  recompute  GiB/GPU    step s   tokens/s  MFU%%  idle%%   tp%%   dp%%");
    if (p->tokens > 0) printf("     days  breaks");
    if (p->tokens > 0 && p->gpu.price > 0) printf("       cost");
    printf("\n");
}

static void say_what(const Plan *p) {
    double params = plan_params(&p->model);
    printf("%s: %.4g parameters, sequences of %lld, %lld a step (%.3g tokens), on %d x %s of %.1f GiB%s\n",
           p->model.name, params, (long long)p->ask.seq, (long long)p->ask.batch,
           (double)p->ask.batch * (double)p->ask.seq, p->ask.gpus, p->gpu.name, p->gpu.memory / GIB,
           p->ask.trained == 2 ? "; two trained and two frozen models" : "");
}

static void say_faults(const Plan *p, const PlanRow *best) {
    Cost c = cost_of(p, &p->ask, best);
    printf("failures: one in %.3g h expected; a checkpoint every %.0f s; %.1f %% of the time trains\n",
           c.faults.mttf / 3600, c.faults.interval, 100 * c.faults.efficiency);
}

/* -- fewer GPUs
 * -------------------------------------------------------------------------------------------------------- */

enum { MAX_SCALE = 24 };
typedef struct {
    PlanAsk ask[MAX_SCALE];
    PlanRow row[MAX_SCALE];
    int n; /* largest first */
} Scale;

/* Halves the GPUs while a layout fits; the batch stays (strong) or is halved as well (weak). */
static void scale_down(Scale *s, const Plan *p, bool weak) {
    PlanRefused refused;
    s->n = 0;
    for (PlanAsk ask = p->ask; s->n < MAX_SCALE; ask.gpus /= 2) {
        if (plan_search(&s->row[s->n], 1, &ask, &refused) == 0) return;
        s->ask[s->n++] = ask;
        if (ask.gpus % 2 != 0 || (weak && ask.batch % 2 != 0)) return;
        if (weak) ask.batch /= 2;
    }
}

/* Tokens a second and GPU, relative to the fewest GPUs. */
static double scale_efficiency(const Scale *s, const Plan *p, int i) {
    double mine = cost_of(p, &s->ask[i], &s->row[i]).tok_s / s->ask[i].gpus;
    return mine / (cost_of(p, &s->ask[s->n - 1], &s->row[s->n - 1]).tok_s / s->ask[s->n - 1].gpus);
}

static void say_scaling(const Plan *p, JsonOut *j) {
    static const char *const kind[] = {"strong", "weak"};
    Scale s;
    for (int weak = 0; weak < 2; weak++) {
        scale_down(&s, p, weak);
        if (j) json_out_arr(j, weak ? "weak_scaling" : "strong_scaling");
        if (!j)
            printf("\n%s scaling: %s\n  GPUs   batch  efficiency  ", kind[weak],
                   weak ? "the batch grows with them" : "the same batch");
        if (!j) text_head(p);
        for (int i = s.n - 1; i >= 0; i--) {
            if (j) {
                json_row(j, p, &s.ask[i], &s.row[i]);
                continue;
            }
            printf("%6d  %6lld      %5.1f %%  ", s.ask[i].gpus, (long long)s.ask[i].batch,
                   100 * scale_efficiency(&s, p, i));
            text_row(p, &s.ask[i], &s.row[i]);
        }
        if (j) json_out_arr_end(j);
    }
}

/* ----------------------------------------------------------------------------------------------------------------------
 */

static bool given_conf(const Args *a, Error *err) {
    for (int i = 0; flags[i].name; i++)
        if (a->flag[i])
            return error_set(err, ERR_CONFIG, "%s plans a cluster, %s is a run: one of them", flags[i].name, a->arg[0]);
    return plan_conf(a, err);
}

static bool run(const Args *a, Error *err) {
    Plan p = {0};
    PlanRow rows[64];
    PlanRefused refused;
    if (a->n_arg > 0) return given_conf(a, err);
    if (a->n_set > 0)
        return error_set(err, ERR_CONFIG, "'%s' goes with a configuration: plan CONF key=value", a->set[0]);
    if (!read_args(&p, a, err)) return false;
    int n = plan_search(rows, (int)p.top, &p.ask, &refused);
    if (n == 0) return plan_refusal(&p.ask, &refused, err);
    bool scaling = args_flag(a, &command_plan, "--scaling") != NULL;
    if (a->json) {
        Str text = {0};
        JsonOut j;
        json_out_init(&j, &text, 0);
        json_out_obj(&j, NULL);
        json_out_str(&j, "schema", "dikast-plan/1");
        json_out_str(&j, "model", p.model.name);
        json_out_num(&j, "parameters", plan_params(&p.model));
        json_out_str(&j, "gpu", p.gpu.name);
        json_out_int(&j, "seq", p.ask.seq);
        json_out_int(&j, "tried", refused.tried);
        json_out_int(&j, "did_not_fit", refused.no_fit);
        json_out_arr(&j, "layouts");
        for (int i = 0; i < n; i++) json_row(&j, &p, &p.ask, &rows[i]);
        json_out_arr_end(&j);
        if (scaling) say_scaling(&p, &j);
        json_out_obj_end(&j);
        print_text(&text);
        return true;
    }
    say_what(&p);
    text_head(&p);
    for (int i = 0; i < n; i++) text_row(&p, &p.ask, &rows[i]);
    printf("%lld layouts tried, %lld did not fit; best of each tp, pp shown\n", (long long)refused.tried,
           (long long)refused.no_fit);
    if (p.ask.cp > 1)
        printf("sequences on %d ranks each (cp); keys and values between them: %.1f %% of the first layout's time\n",
               p.ask.cp, 100 * rows[0].step.cp_share);
    say_faults(&p, &rows[0]);
    if (scaling) say_scaling(&p, NULL);
    return true;
}

const Command command_plan = {
    .name = "plan",
    .usage = "plan CONF [key=value ...] | plan --gpus NxKIND --model NAME [--seq N] [--tokens N]",
    .help =
        "what a run will need on this machine, or what training on a cluster would cost\n\n"
        "CONF: checks what 'run CONF' would check, writes nothing, and tells of each stage what is done, and of those "
        "that\n"
        "train steps, tokens, memory of a rank as it will be taken, disk, and the time of products at this machine's "
        "rate.\n"
        "Exit code 4 when a stage does not fit, with the key to turn; 2 and 3 as the run.\n\n"
        "--gpus: layouts that fit, memory, time, failures.\n"
        "Searches tensor (tp), pipeline (pp) and data parallel (dp) layouts with ZeRO-1 or -2, micro-batches and\n"
        "recomputation, in bfloat16 with F32 masters. MFU counts the half of attention that is computed; idle:\n"
        "waiting for the pipeline; tp, dp: exposed sums over them; days and breaks (failures) with --tokens, cost with "
        "a\n"
        "price in --hardware. Formulas, and how far they are from published runs: docs/scale.md.\n"
        "Exit code 4 when nothing fits.",
    .flag = flags,
    .max_arg = 1,
    .takes_set = true,
    .run = run};
