// layer: dist
/* The planner against published figures: memory to the digit, FLOPs, time on runs its constants were not fitted to. */
#include "dist/plan.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define GIB 1073741824.0

/* -- arXiv 2205.05198: configurations, figure 1 (GiB), figure 7 (% of keeping all), table 5 (s, %) */

typedef struct {
    PlanModel m;
    int tp, pp, v, gpus, batch, micro;
    double state, all, seqsel;         /* figure 1 */
    double pct[4];                     /* figure 7: seq, sel, seqsel, full */
    double full_s, seqsel_s, mfu, hfu; /* table 5 */
} Seqsel;

enum { SEQ = 2048 };
#define GPT(name, L, h, a)                                                                                             \
    { name, L, h, a, a, 4 * (h), 51200, false, true }
// clang-format off
static const Seqsel seqsel[] = {
    {GPT("22B",   48,  6144,  64), 8,  1, 1,   8,   4, 4, 45.5625,      59.25,       9.5625,       {66.84, 49.42, 16.18, 7.64},  1.42,  1.10, 41.5, 43.7},
    {GPT("175B",  96, 12288,  96), 8,  8, 3,  64,  64, 1, 45.5625,      66.84375,    12.3515625,   {62.04, 56.53, 18.49, 8.71}, 18.13, 13.75, 51.4, 52.8},
    {GPT("530B", 105, 20480, 128), 8, 35, 3, 280, 280, 1, 31.640625,    114.0234375, 23.076171875, {58.31, 62.04, 20.27, 9.42}, 49.05, 37.83, 56.0, 57.0},
    {GPT("1T",   128, 25600, 160), 8, 64, 1, 512, 512, 1, 32.958984375, 131.25,      26.5625,      {58.31, 62.04, 20.27, 9.42}, 94.42, 71.49, 56.3, 57.0},
};
// clang-format on

static PlanLayout paper_layout(const Seqsel *s, PlanKeep keep, bool sp) {
    return (PlanLayout){.tp = s->tp, .pp = s->pp, .dp = 1, .v = s->v, .micro = s->micro, .keep = keep, .sp = sp};
}

static void test_memory_is_the_papers(void **state) {
    (void)state;
    for (int i = 0; i < COUNT_OF(seqsel); i++) {
        const Seqsel *s = &seqsel[i];
        PlanLayout all = paper_layout(s, PLAN_KEEP_ALL, false), best = paper_layout(s, PLAN_KEEP_NO_SCORES, true);
        PlanMemory a = plan_memory(&s->m, &all, SEQ, s->batch, true),
                   b = plan_memory(&s->m, &best, SEQ, s->batch, true);
        assert_true(a.state / GIB == s->state); /* to the digit */
        assert_true(a.acts / GIB == s->all);
        assert_true(b.acts / GIB == s->seqsel);
        assert_true(a.work == 0);
        const PlanLayout l[4] = {paper_layout(s, PLAN_KEEP_ALL, true), paper_layout(s, PLAN_KEEP_NO_SCORES, false),
                                 best, paper_layout(s, PLAN_KEEP_INPUT, false)};
        for (int k = 0; k < 4; k++) {
            double pct = 100 * plan_acts_layer(&s->m, &l[k], SEQ, true) / plan_acts_layer(&s->m, &all, SEQ, true);
            assert_true(fabs(pct - s->pct[k]) < 0.15);
        }
    }
}

/* One rank holds everything: 18 bytes a parameter, both tables; of two stages the fuller one holds one table. */
static void test_state_counts_tables(void **state) {
    (void)state;
    const PlanModel *m = plan_model_find("7b");
    PlanLayout one = {.tp = 1, .pp = 1, .dp = 1, .v = 1, .micro = 1, .keep = PLAN_KEEP_INPUT, .flash = true}, two = one;
    two.pp = 2;
    double tables = 2.0 * (double)m->vocab * (double)m->width, blocks = plan_params(m) - tables;
    assert_true(fabs(plan_memory(m, &one, 2048, 8, false).state - 18 * plan_params(m)) < 1);
    assert_true(fabs(plan_memory(m, &two, 2048, 8, false).state - 18 * (blocks / 2 + tables / 2)) < 1);
    assert_true(fabs(plan_params(m) / 6738411520.0 - 1) < 1e-4); /* Llama 2 7B, whose norms are left out here */
}

/* HFU counts scores again, so s/6h becomes s/3h in the paper's formula. */
static void test_flops_are_the_papers(void **state) {
    (void)state;
    for (int i = 0; i < COUNT_OF(seqsel); i++) {
        const Seqsel *s = &seqsel[i];
        double peak = 312e12 * s->gpus * s->seqsel_s, flops = plan_flops(&s->m, s->batch, SEQ, false);
        double again = 3 * (double)s->batch * SEQ * (double)s->m.layers * 4 * SEQ * (double)s->m.width;
        assert_true(fabs(100 * flops / peak - s->mfu) < 0.2);
        assert_true(fabs(100 * (flops + again) / peak - s->hfu) < 0.2);
    }
}

/* -- time. Constants are fitted on one table and tested on another, on the grid that docs/scale.md states. */

typedef struct {
    double mean, max;
    int n;
} Errors;

static void add_error(Errors *e, double model, double published) {
    double x = fabs(model / published - 1);
    e->mean = (e->mean * e->n + x) / (e->n + 1);
    e->n++;
    if (x > e->max) e->max = x;
}

static void table5(Errors *e, const PlanGpu *g) {
    for (int i = 0; i < COUNT_OF(seqsel); i++) {
        const Seqsel *s = &seqsel[i];
        PlanLayout full = paper_layout(s, PLAN_KEEP_INPUT, false), sel = paper_layout(s, PLAN_KEEP_NO_SCORES, true);
        add_error(e, plan_step(g, &s->m, &full, SEQ, s->batch).seconds, s->full_s);
        add_error(e, plan_step(g, &s->m, &sel, SEQ, s->batch).seconds, s->seqsel_s);
    }
}

/* arXiv 2104.04473 table 1: heads, width, layers, model parallel, GPUs, batch, TFLOP/s. Micro-batch and interleaving
 * are not published: 4 sequences without a pipeline, else 1; two groups of layers a stage where they divide. */
static const int table2021[][7] = {
    {24, 2304, 24, 1, 32, 512, 137},         {32, 3072, 30, 2, 64, 512, 138},
    {32, 4096, 36, 4, 128, 512, 142},        {48, 6144, 40, 8, 256, 1024, 135},
    {64, 8192, 48, 16, 512, 1536, 138},      {80, 10240, 60, 32, 1024, 1792, 140},
    {96, 12288, 80, 64, 1536, 2304, 148},    {128, 16384, 96, 128, 1920, 2160, 155},
    {128, 20480, 105, 280, 2520, 2520, 163}, {160, 25600, 128, 512, 3072, 3072, 163},
};

static void weak2021(Errors *e, const PlanGpu *g) {
    for (int i = 0; i < COUNT_OF(table2021); i++) {
        const int *r = table2021[i];
        PlanModel m = GPT("", r[2], r[1], r[0]);
        int tp = r[3] < 8 ? r[3] : 8, pp = r[3] / tp;
        PlanLayout l = {
            .tp = tp, .pp = pp, .dp = r[4] / r[3], .v = 1, .micro = pp == 1 ? 4 : 1, .keep = PLAN_KEEP_INPUT};
        if (pp > 1 && r[2] / pp % 2 == 0) l.v = 2;
        double L = r[2], h = r[1]; /* the paper's FLOPs: full recomputation counted */
        double flops = 96 * r[5] * (double)SEQ * L * h * h * (1 + SEQ / (6 * h) + 51200 / (16 * L * h));
        add_error(e, flops / r[4] / plan_step(g, &m, &l, SEQ, r[5]).seconds / 1e12, r[6]);
    }
}

/* Megatron-LM r0.8.0, images/model_table.png: heads, width, layers, tp, pp, GPUs, batch, TFLOP/s; dp 48, 4096 tokens.
 * The 1.7 B row is left out: it is launch bound, which no formula here knows. */
static const double hopper[][8] = {
    {32, 4096, 30, 2, 1, 96, 192, 465.9},      {48, 6144, 32, 4, 1, 192, 192, 489.1},
    {56, 7168, 48, 8, 1, 384, 192, 459.6},     {64, 8192, 84, 8, 2, 768, 384, 419.7},
    {80, 10240, 92, 8, 4, 1536, 768, 420.5},   {96, 12288, 96, 8, 6, 2304, 1152, 432.8},
    {128, 16384, 96, 8, 8, 3072, 1536, 474.4}, {144, 18432, 112, 8, 16, 6144, 3072, 459.9},
};

static PlanLayout modern(int tp, int pp, int dp, int v) {
    return (PlanLayout){tp, pp, dp, v, 1, PLAN_KEEP_NO_SCORES, .sp = true, .flash = true, .causal = true, .zero = 1};
}

static void core_h100(Errors *e, const PlanGpu *g) {
    for (int i = 0; i < COUNT_OF(hopper); i++) {
        const double *r = hopper[i];
        PlanModel m = GPT("", (int64_t)r[2], (int64_t)r[1], (int64_t)r[0]);
        m.vocab = 131072;
        int pp = (int)r[4], per = (int)r[2] / pp, v = 1;
        for (int q = 1; pp > 1 && q <= per; q++)
            if (per % q == 0) v = q; /* the greatest divisor of a stage's layers, at most 7 below */
        if (v > 7) v = 7;
        while ((int)r[2] % pp != 0 || per % v != 0) v--;
        PlanLayout l = modern((int)r[3], pp, 48, v);
        double flops = plan_flops(&m, r[6], 4096, false); /* they count the whole square, and compute half */
        add_error(e, flops / r[5] / plan_step(g, &m, &l, 4096, (int64_t)r[6]).seconds / 1e12, r[7]);
    }
}

/* arXiv 2407.21783 table 4, the rows without context parallelism. */
static void llama3(Errors *e, const PlanGpu *g) {
    const PlanModel *m = plan_model_find("405b");
    PlanLayout a = modern(8, 16, 64, 8), b = modern(8, 16, 128, 8);
    add_error(e, plan_step(g, m, &a, 8192, 32 * 64).mfu * g->peak / 1e12, 430);
    add_error(e, plan_step(g, m, &b, 8192, 16 * 128).mfu * g->peak / 1e12, 400);
}

typedef void Table(Errors *e, const PlanGpu *g);

static PlanGpu fit(const char *name, Table *a, Table *b) {
    PlanGpu best = *plan_gpu_find(name), g = best;
    double least = INFINITY;
    for (int e = 56; e < 96; e += 2)
        for (int k = 8; k <= 32; k += 4)
            for (int n = 3; n < 9; n++) {
                Errors sum = {0};
                g.gemm = e / 100.0;
                g.elem = k;
                g.link_share = n / 10.0;
                g.overlap = strcmp(name, "A100") ? 0.8 : 0;
                a(&sum, &g);
                if (b) b(&sum, &g);
                if (sum.mean >= least) continue;
                least = sum.mean;
                best = g;
            }
    return best;
}

static void report(const char *what, const PlanGpu *g, Errors e) {
    print_message("%-52s mean %.1f %%, max %.1f %% of %d (gemm %.2f, elem %g, link %.1f)\n", what, 100 * e.mean,
                  100 * e.max, e.n, g->gemm, g->elem, g->link_share);
}

static void test_time_out_of_sample(void **state) {
    (void)state;
    const struct {
        const char *gpu, *what;
        Table *on, *tested;
        double mean, max;
    } c[] = {
        {"A100", "fitted on 2205.05198, tested on 2104.04473", table5, weak2021, 0.065, 0.13},
        {"A100", "fitted on 2104.04473, tested on 2205.05198", weak2021, table5, 0.06, 0.12},
        {"H100", "fitted on Megatron-core, tested on Llama 3 405B", core_h100, llama3, 0.04, 0.05},
    };
    for (int i = 0; i < COUNT_OF(c); i++) {
        Errors e = {0};
        PlanGpu g = fit(c[i].gpu, c[i].on, NULL);
        c[i].tested(&e, &g);
        report(c[i].what, &g, e);
        assert_true(e.mean <= c[i].mean && e.max <= c[i].max);
    }
}

/* The table of GPUs holds what the fits give. */
static void test_constants_are_the_fits(void **state) {
    (void)state;
    PlanGpu a = fit("A100", table5, weak2021), h = fit("H100", core_h100, NULL);
    const PlanGpu *ta = plan_gpu_find("A100"), *th = plan_gpu_find("H100");
    assert_true(fabs(a.gemm - ta->gemm) < 1e-9 && a.elem == ta->elem && fabs(a.link_share - ta->link_share) < 1e-9);
    assert_true(fabs(h.gemm - th->gemm) < 1e-9 && h.elem == th->elem && fabs(h.link_share - th->link_share) < 1e-9);
    assert_true(ta->peak == 312e12 && th->peak == 989e12);
}

/* -- failures: the note's figures for 8 GPUs a node, 300 s to be running again */
static void test_checkpoint_interval(void **state) {
    (void)state;
    const double want[][4] = {{1024, 2, 645, 0.991},  {1024, 20, 2038, 0.977}, {1024, 60, 3530, 0.963},
                              {16384, 2, 161, 0.929}, {16384, 20, 510, 0.875}, {16384, 60, 883, 0.818}};
    for (int i = 0; i < COUNT_OF(want); i++) {
        PlanFaults f = plan_faults(want[i][0] / 8, 6.5, want[i][1], 300);
        assert_true(fabs(f.interval - want[i][2]) < 1.0);
        assert_true(fabs(f.efficiency - want[i][3]) < 0.0006);
    }
}

/* -- search */

static PlanAsk ask_of(const char *gpu, const char *model, int gpus, int64_t seq, int64_t batch) {
    return (PlanAsk){plan_gpu_find(gpu), plan_model_find(model), gpus, seq, batch, 0, 0, true, 1, 0, 0, false};
}

static void test_search_finds_what_fits(void **state) {
    (void)state;
    PlanAsk ask = ask_of("H100", "7b", 64, 4096, 512);
    PlanRow rows[8];
    PlanRefused refused;
    int n = plan_search(rows, 8, &ask, &refused);
    assert_true(n >= 3 && refused.tried > 10);
    for (int i = 0; i < n; i++) {
        const PlanLayout *l = &rows[i].layout;
        PlanMemory m = plan_memory(ask.model, l, ask.seq, ask.batch, false);
        PlanStep s = plan_step(ask.gpu, ask.model, l, ask.seq, ask.batch);
        assert_int_equal(l->tp * l->pp * l->dp, 64);
        assert_true(m.state + m.acts + m.work + m.sums <= ask.gpu->memory - ask.gpu->reserve);
        assert_true(s.seconds == rows[i].step.seconds && m.state == rows[i].memory.state);
        assert_true(i == 0 || rows[i - 1].step.seconds <= s.seconds);
        assert_true(s.bubble >= 0 && s.bubble + s.tp_share + s.dp_share < 1);
        for (int k = 0; k < i; k++) assert_true(rows[k].layout.tp != l->tp || rows[k].layout.pp != l->pp);
    }
    int two = plan_search(rows, 2, &ask, &refused);
    assert_int_equal(two, 2);
    PlanAsk ppo = ask;
    ppo.trained = ppo.frozen = 2;
    assert_true(plan_search(rows, 1, &ppo, &refused) == 1);
    PlanMemory one = plan_memory(ppo.model, &rows[0].layout, ppo.seq, ppo.batch, false);
    double weights = 2 * plan_params(ppo.model) / (rows[0].layout.tp * rows[0].layout.pp);
    assert_true(rows[0].memory.state == 2 * one.state + 2 * weights);
}

/* Of 6 GPUs a node four do not share layers: every other run of four would reach into the next node. One group of
 * layers a stage, unless asked for more. */
static void test_search_keeps_to_what_can_be(void **state) {
    (void)state;
    PlanGpu six = *plan_gpu_find("H100");
    PlanAsk ask = ask_of("H100", "70b", 96, 4096, 960);
    PlanRow rows[16];
    PlanRefused refused;
    six.per_node = 6;
    ask.gpu = &six;
    int n = plan_search(rows, 16, &ask, &refused), several = 0;
    assert_true(n > 0);
    for (int i = 0; i < n; i++) assert_true(rows[i].layout.tp <= 2 && rows[i].layout.v == 1);
    six.per_node = 8;
    ask.interleave = true;
    n = plan_search(rows, 16, &ask, &refused);
    for (int i = 0; i < n; i++) several += rows[i].layout.v > 1;
    assert_true(n > 0 && several > 0);
}

static void test_search_refuses_with_reasons(void **state) {
    (void)state;
    PlanRow rows[4];
    PlanRefused refused;
    Error err = {0};
    PlanAsk big = ask_of("A100", "405b", 8, 8192, 64);
    assert_int_equal(plan_search(rows, 4, &big, &refused), 0);
    assert_true(refused.no_fit > 0 && refused.least > 400 * GIB);
    assert_false(plan_refusal(&big, &refused, &err));
    assert_int_equal(err.code, ERR_MEMORY);
    assert_non_null(strstr(err.msg, "405b"));
    assert_non_null(strstr(err.msg, "more GPUs"));
    PlanAsk odd = ask_of("H100", "124m", 64, 4096, 7);
    assert_int_equal(plan_search(rows, 4, &odd, &refused), 0);
    assert_false(plan_refusal(&odd, &refused, &err));
    assert_int_equal(err.code, ERR_CONFIG);
}

/* Gradients that wait: log2(M/d) sums, a d-th of each under ZeRO-2, which sends one for every micro-batch. */
static void test_gradient_sums(void **state) {
    (void)state;
    const PlanGpu *g = plan_gpu_find("H100");
    const PlanModel *m = plan_model_find("7b");
    PlanLayout one = modern(1, 1, 8, 1), two = one;
    two.zero = 2;
    double params = plan_params(m);
    for (int levels = 0; levels <= 5; levels++) {
        int64_t batch = (int64_t)8 << levels;
        PlanMemory a = plan_memory(m, &one, 4096, batch, false), b = plan_memory(m, &two, 4096, batch, false);
        assert_true(fabs(a.sums - 4.0 * levels * params) <= 1e-9 * params &&
                    fabs(b.sums - a.sums / 8) <= 1e-9 * params);
        assert_true(a.state == b.state && plan_memory(m, &one, 4096, batch, true).sums == 0);
        double more = plan_step(g, m, &two, 4096, batch).seconds - plan_step(g, m, &one, 4096, batch).seconds;
        assert_true(levels == 0 ? more == 0 : more > 0);
    }
}

/* More replicas of the same layout: the step is shorter by what the sum over them leaves. */
static void test_scaling_shapes(void **state) {
    (void)state;
    const PlanGpu *g = plan_gpu_find("H100");
    const PlanModel *m = plan_model_find("70b");
    PlanLayout a = modern(8, 8, 4, 1), b = modern(8, 8, 8, 1);
    double weak = plan_step(g, m, &b, 8192, 1024).seconds / plan_step(g, m, &a, 8192, 512).seconds;
    double strong = plan_step(g, m, &b, 8192, 512).seconds / plan_step(g, m, &a, 8192, 512).seconds;
    assert_true(weak > 1 && weak < 1.01);
    assert_true(strong > 0.5 && strong < 0.6);
    PlanLayout v = b;
    v.v = 5;
    assert_true(plan_step(g, m, &v, 8192, 512).bubble < plan_step(g, m, &b, 8192, 512).bubble);
}

/* Ranks that divide sequences: each keeps its tokens, and keys and values of all with their gradients for one layer;
 * gathers twice, and sends gradients back once. */
static void test_context(void **state) {
    (void)state;
    const PlanModel *m = plan_model_find("8b");
    const PlanGpu *g = plan_gpu_find("H100");
    PlanLayout one = {
        .tp = 4, .pp = 2, .dp = 4, .v = 1, .micro = 1, .sp = true, .flash = true, .causal = true, .zero = true};
    one.keep = PLAN_KEEP_NO_SCORES;
    PlanLayout four = one;
    four.cp = 4, four.dp = 1;
    const int64_t seq = 131072, batch = 16;
    double keys =
        2 * 2.0 * (double)seq * 128 * (double)m->kv_heads / 4; /* k and v of a layer, this rank's heads, 16-bit */
    assert_true(fabs(plan_acts_layer(m, &four, seq, false) * 4 / plan_acts_layer(m, &one, seq, false) - 1) < 1e-12);
    PlanMemory a = plan_memory(m, &one, seq, batch, false), b = plan_memory(m, &four, seq, batch, false);
    assert_true(a.state == b.state); /* ZeRO over cp and dp alike */
    assert_true(fabs(b.acts * 4 / a.acts - 1) < 1e-12);
    assert_true(fabs(b.work - a.work - 2 * keys) < 1);
    assert_true(plan_keys_sent(m, &one, seq) == 0 &&
                fabs(plan_keys_sent(m, &four, seq) / (3 * keys * 3 / 4) - 1) < 1e-12);
    PlanStep x = plan_step(g, m, &one, seq, batch), y = plan_step(g, m, &four, seq, batch);
    assert_true(x.cp_share == 0 && y.cp_share > 0 && y.cp_share < 0.2);
    assert_true(x.flops == y.flops && y.mfu < g->gemm);
    PlanAsk ask = {.gpu = g, .model = m, .gpus = 16, .seq = 163840, .batch = 4, .max_tp = 4, .max_pp = 1, .trained = 1};
    PlanRow row[8];
    PlanRefused refused;
    assert_int_equal(plan_search(row, 8, &ask, &refused), 0); /* too long for a rank, unless it is divided */
    ask.cp = 4;
    int n = plan_search(row, 8, &ask, &refused);
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        const PlanLayout *l = &row[i].layout;
        assert_true(l->cp == 4 && l->tp * l->pp * l->dp * l->cp == 16);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_is_the_papers),
        cmocka_unit_test(test_state_counts_tables),
        cmocka_unit_test(test_flops_are_the_papers),
        cmocka_unit_test(test_time_out_of_sample),
        cmocka_unit_test(test_constants_are_the_fits),
        cmocka_unit_test(test_checkpoint_interval),
        cmocka_unit_test(test_search_keeps_to_what_can_be),
        cmocka_unit_test(test_search_finds_what_fits),
        cmocka_unit_test(test_search_refuses_with_reasons),
        cmocka_unit_test(test_gradient_sums),
        cmocka_unit_test(test_scaling_shapes),
        cmocka_unit_test(test_context),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
