/* dikast bench: speed of training, generation, tokenizing, loading, matrix products, PPO and GRPO on random weights. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "app/bench.h"
#include "base/rng.h"
#include "cai/manifest.h"

static const Flag flags[] = {
    {"--model", "SIZE", "a: GPT-2 124M, Llama-like b: 12M, c: 4M, d: 1.1B, e: 110M (default b; ppo, grpo: c)"},
    MACHINE_FLAGS,
    {"--dtype", "DTYPE", "of weights and activations: fp32 (default) or bf16"},
    {"--steps", "N", "train: timed steps (default 5)"},
    {"--warmup", "N", "train: untimed steps (default 2)"},
    {"--batch", "N", "train, load: sequences a step (default 4 for a, 8 for d, else 16); generate: only this batch"},
    {"--seq", "N",
     "train, load: tokens a sequence (default 256; d: 2048, e: 1024); generate: tokens a prompt (default 16)"},
    {"--keep", "PLAN",
     "train: activations kept for the backward: all, inputs (blocks are run again), or as runs choose (default)"},
    {"--lora", "R", "train: adapters of rank R on every matrix of the layers, the model frozen (default: all weights)"},
    {"--weights", "DTYPE",
     "generate, ppo, grpo: tokens drawn from a rounded copy of the matrices: bf16 or int8 (default: the model's own)"},
    {"--dir", "DIR",
     "generate: a model folder of this size; also times the way to its first token; open: the folder; ckpt: where to "
     "write"},
    {"--shared", "N",
     "generate: only prompts that begin with N common tokens, computed once and for each (default batch 64)"},
    {"--reps", "N", "generate, tokenize, load, open, ckpt: repetitions (default 3)"},
    {"--m", "LIST", "gemm: rows (default 1,8,32,64,512; dx and dw from 64 on)"},
    {"--ops", "LIST", "gemm: of qkv,proj,ff1,ff2,head (default all)"},
    {"--cold", NULL, "gemm: walk through 256 MB of weights, as decoding does"},
    {"--ms", "MS", "gemm, kernels: least time of a case (default 30)"},
    {"--peak", "GFLOPS", "of the machine with these threads, for the field mfu"},
    {"--file", "FILE", "tokenize: the text; load: rows (.jsonl, .txt, .gz, .zst)"},
    {"--tokenizer", "PATH", "tokenize, load: a tokenizer.json; else one is trained on the text"},
    {"--vocab", "N", "tokenize, load: size of the trained vocabulary (default 4096)"},
    {"--mb", "MB", "tokenize: bytes of the text that are used (default 10)"},
    {"--trainer-tok-s", "N", "load: tokens a second of the trainer that takes the packs (default 100000)"},
    {"--seqs", "N", "ppo, grpo: replies an iteration (default 32)"},
    {"--plen", "N", "ppo, grpo: prompt tokens (default 32)"},
    {"--new", "N", "ppo, grpo: tokens of a reply (default 64)"},
    {"--epochs", "N", "ppo, grpo: passes over the replies (default 4)"},
    {"--minibatch", "N", "ppo, grpo: replies an optimizer step (default: all of them)"},
    {"--group", "N", "grpo: replies a prompt (default 8)"},
    {"--pass", "N", "ppo, grpo: tokens a forward pass (default 1024)"},
    {"--iters", "N", "ppo, grpo: timed iterations; one more is run first (default 3)"},
    {0}};
_Static_assert(COUNT_OF(flags) <= MAX_FLAGS + 1, "more flags than Args holds");

static const BenchSize sizes[] = {
    {"a",
     {.family = FAMILY_GPT2,
      .n_layer = 12,
      .n_head = 12,
      .n_kv_head = 12,
      .d_model = 768,
      .d_head = 64,
      .d_ff = 3072,
      .n_vocab = 50257,
      .max_seq = 1024,
      .norm = NORM_LAYER,
      .pos = POS_LEARNED,
      .mlp = MLP_GELU,
      .gelu = GELU_TANH,
      .qkv_bias = true,
      .out_bias = true,
      .mlp_bias = true,
      .tied = true,
      .norm_eps = 1e-5,
      .eos_id = -1},
     4,
     256},
    {"b",
     {.family = FAMILY_LLAMA,
      .n_layer = 6,
      .n_head = 6,
      .n_kv_head = 6,
      .d_model = 384,
      .d_head = 64,
      .d_ff = 1024,
      .n_vocab = 4096,
      .max_seq = 1024,
      .norm = NORM_RMS,
      .pos = POS_ROPE,
      .mlp = MLP_SWIGLU,
      .tied = true,
      .rope_theta = 10000,
      .norm_eps = 1e-5,
      .eos_id = -1},
     16,
     256},
    {"c",
     {.family = FAMILY_LLAMA,
      .n_layer = 4,
      .n_head = 4,
      .n_kv_head = 4,
      .d_model = 256,
      .d_head = 64,
      .d_ff = 704,
      .n_vocab = 2048,
      .max_seq = 1024,
      .norm = NORM_RMS,
      .pos = POS_ROPE,
      .mlp = MLP_SWIGLU,
      .tied = true,
      .rope_theta = 10000,
      .norm_eps = 1e-5,
      .eos_id = -1},
     16,
     256},
    {"d",
     {.family = FAMILY_LLAMA,
      .n_layer = 16,
      .n_head = 16,
      .n_kv_head = 8,
      .d_model = 2048,
      .d_head = 128,
      .d_ff = 8192,
      .n_vocab = 32768,
      .max_seq = 2048,
      .norm = NORM_RMS,
      .pos = POS_ROPE,
      .mlp = MLP_SWIGLU,
      .tied = true,
      .rope_theta = 500000,
      .norm_eps = 1e-5,
      .eos_id = -1},
     8,
     2048},
    {"e",
     {.family = FAMILY_LLAMA,
      .n_layer = 12,
      .n_head = 12,
      .n_kv_head = 12,
      .d_model = 768,
      .d_head = 64,
      .d_ff = 2048,
      .n_vocab = 32768,
      .max_seq = 2048,
      .norm = NORM_RMS,
      .pos = POS_ROPE,
      .mlp = MLP_SWIGLU,
      .tied = true,
      .rope_theta = 10000,
      .norm_eps = 1e-5,
      .eos_id = -1},
     16,
     1024},
};

const BenchSize *bench_size(const char *name, Error *err) {
    for (int i = 0; i < COUNT_OF(sizes); i++)
        if (!strcmp(sizes[i].name, name)) return &sizes[i];
    error_set(err, ERR_CONFIG, "--model must be a, b, c, d or e, found '%s'", name);
    return NULL;
}

ModelConfig bench_config(const BenchSize *size, int64_t positions) {
    ModelConfig c = size->cfg;
    if (positions > c.max_seq) c.max_seq = (int)positions;
    return c;
}

/* -- clocks ------------------------------------------------------------------------------------------------------ */

double own_cpu_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* CPU seconds spent by everybody on this machine, stolen time included. */
static double busy_s(void) {
    long long t[8] = {0};
    FILE *f = fopen("/proc/stat", "re");
    if (!f) return 0;
    int n =
        fscanf(f, "cpu %lld %lld %lld %lld %lld %lld %lld %lld", t, t + 1, t + 2, t + 3, t + 4, t + 5, t + 6, t + 7);
    fclose(f);
    return n < 8 ? 0 : (double)(t[0] + t[1] + t[2] + t[5] + t[6] + t[7]) / (double)sysconf(_SC_CLK_TCK);
}

Meter meter_start(void) { return (Meter){now_s(), busy_s(), own_cpu_s()}; }

double meter_other(Meter m) {
    double other = busy_s() - m.busy - (own_cpu_s() - m.own), wall = now_s() - m.t;
    return other > 0 && wall > 0 ? other / (wall * (double)sysconf(_SC_NPROCESSORS_ONLN)) : 0;
}

Timing bench_time(Backend *be, void (*run)(void *ud, int turn), void *ud, double least) {
    static const double group_s = 5e-3;
    Timing t = {.best = 1e9};
    run(ud, 0);
    backend_wait(be);
    double begun = now_s();
    run(ud, 1);
    backend_wait(be);
    double once = now_s() - begun, sum = 0;
    int group = !backend_queues(be) || once > group_s ? 1 : once > group_s / 1000 ? (int)(group_s / once) + 1 : 1000;
    for (begun = now_s(); t.n < 3 || now_s() - begun < least; t.n++) {
        double start = now_s();
        for (int i = 0; i < group; i++) run(ud, t.n * group + i);
        backend_wait(be);
        double took = (now_s() - start) / group;
        sum += took;
        if (took < t.best) t.best = took;
    }
    t.mean = sum / t.n;
    return t;
}

/* Some rows come from here, the others are copies of them. */
void bench_fill(Backend *be, Tensor t) {
    enum { MOST = 1 << 20 };
    if (!t.data) return;
    t = tensor_storage(t);
    int64_t rows = MOST / t.cols < 1 ? 1 : MOST / t.cols;
    if (rows > t.rows) rows = t.rows;
    float *v = mem_alloc((size_t)(rows * t.cols) * sizeof *v);
    for (int64_t i = 0; i < rows * t.cols; i++)
        v[i] = (float)rng_u32((Rng){4, RNG_TEST}, (uint64_t)i, 0) * 0x1p-31f - 1;
    tensor_set_f32(be, tensor_rows(t, 0, rows), v);
    free(v);
    for (int64_t at = rows; at < t.rows; at += rows) {
        if (rows > t.rows - at) rows = t.rows - at;
        be->op->copy(be, tensor_rows(t, at, rows), tensor_rows(t, 0, rows));
    }
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double median_of(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_size);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

double rounded(double v, int digits) {
    double unit = pow(10, digits);
    return round(v * unit) / unit;
}

/* -- lines ------------------------------------------------------------------------------------------------------- */

/* Best of avx2, avx512, avx512+amx, in the peers' words. */
static const char *cpu_isa(void) {
    __builtin_cpu_init();
    bool amx = false;
    char line[8192];
    FILE *f = fopen("/proc/cpuinfo", "re");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "flags", 5)) continue;
        amx = strstr(line, " amx_bf16") != NULL;
        break;
    }
    if (f) fclose(f);
    if (__builtin_cpu_supports("avx512bw")) return amx ? "avx512+amx" : "avx512";
    return __builtin_cpu_supports("avx2") ? "avx2" : "sse2";
}

void case_begin(Case *c, Bench *b, const char *bench, const char *name, int threads) {
    *c = (Case){.b = b};
    json_out_init(&c->j, &c->text, 0);
    json_out_obj(&c->j, NULL);
    json_out_str(&c->j, "bench", bench);
    json_out_str(&c->j, "case", name);
    json_out_str(&c->j, "engine", "dikast");
    json_out_str(&c->j, "version", DIKAST_VERSION);
    if (b->size) json_out_str(&c->j, "model", b->size->name);
    json_out_int(&c->j, "threads", threads);
    json_out_str(&c->j, "isa", b->isa);
    if (!b->a->json) printf("%-24s ", name);
}

void case_end(Case *c, Meter m, const char *say, ...) {
    char cpu[256], when[32];
    struct rusage use;
    time_t now = time(NULL);
    struct tm tm;
    double other = meter_other(m);
    machine_cpu(cpu, sizeof cpu);
    getrusage(RUSAGE_SELF, &use);
    gmtime_r(&now, &tm);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &tm);
    if (c->b->machine.be) json_out_str(&c->j, "kernels", backend_isa(c->b->machine.be));
    json_out_int(&c->j, "rss_mb", use.ru_maxrss / 1024);
    json_out_num(&c->j, "other_cpu", rounded(other, 3));
    json_out_str(&c->j, "cpu", cpu);
    json_out_str(&c->j, "cpu_isa", cpu_isa());
    json_out_int(&c->j, "cpus", sysconf(_SC_NPROCESSORS_ONLN));
    json_out_str(&c->j, "when", when);
    json_out_obj_end(&c->j);
    if (c->b->a->json)
        printf("%s", str_get(&c->text));
    else {
        va_list ap;
        va_start(ap, say);
        vprintf(say, ap);
        va_end(ap);
        if (other >= 0.05) printf("  (others took %.0f %% of the machine)", 100 * other);
    }
    printf("\n");
    fflush(stdout);
    str_release(&c->text);
}

/* -- the command ------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    bool (*run)(Bench *b, Error *err);
} kinds[] = {{"train", bench_train}, {"generate", bench_generate}, {"tokenize", bench_tokenize}, {"load", bench_load},
             {"open", bench_open},   {"gemm", bench_gemm},         {"kernels", bench_kernels},   {"ppo", bench_ppo},
             {"grpo", bench_grpo},   {"ckpt", bench_ckpt}};

static bool read_rl_flags(Bench *b, const Args *a, Error *err) {
    const Command *c = &command_bench;
    return args_int(a, c, "--seqs", 32, 2, 4096, &b->seqs, err) &&
           args_int(a, c, "--plen", 32, 1, 4096, &b->plen, err) &&
           args_int(a, c, "--new", 64, 1, 4096, &b->n_new, err) &&
           args_int(a, c, "--epochs", 4, 1, 100, &b->epochs, err) &&
           args_int(a, c, "--minibatch", b->seqs, 1, 4096, &b->minibatch, err) &&
           args_int(a, c, "--pass", 1024, 1, 1 << 20, &b->pass, err) &&
           args_int(a, c, "--group", 8, 2, 4096, &b->group, err) &&
           args_int(a, c, "--iters", 3, 1, 100000, &b->iters, err);
}

static bool read_flags(Bench *b, const Args *a, Error *err) {
    const Command *c = &command_bench;
    const char *model = args_flag(a, c, "--model"), *isa = args_flag(a, c, "--isa");
    b->a = a;
    b->file = args_flag(a, c, "--file");
    b->tokenizer = args_flag(a, c, "--tokenizer");
    b->dtype_name = args_flag(a, c, "--dtype") ? args_flag(a, c, "--dtype") : "fp32";
    b->dtype = !strcmp(b->dtype_name, "bf16") ? DTYPE_BF16 : DTYPE_F32;
    if (b->dtype == DTYPE_F32 && strcmp(b->dtype_name, "fp32"))
        return error_set(err, ERR_CONFIG, "--dtype must be fp32 or bf16, found '%s'", b->dtype_name);
    b->rows = args_flag(a, c, "--m") ? args_flag(a, c, "--m") : "1,8,32,64,512";
    const char *weights = args_flag(a, c, "--weights");
    if (weights && strcmp(weights, "bf16") && strcmp(weights, "int8"))
        return error_set(err, ERR_CONFIG, "--weights must be bf16 or int8, found '%s'", weights);
    b->weights = !weights ? DTYPE_F32 : !strcmp(weights, "bf16") ? DTYPE_BF16 : DTYPE_I8;
    b->dir = args_flag(a, c, "--dir");
    b->ops = args_flag(a, c, "--ops");
    b->cold = args_flag(a, c, "--cold") != NULL;
    b->isa = !isa || !strcmp(isa, "auto") ? "native" : isa;
    const char *keep = args_flag(a, c, "--keep");
    if (keep && strcmp(keep, "all") && strcmp(keep, "inputs"))
        return error_set(err, ERR_CONFIG, "--keep must be all or inputs, found '%s'", keep);
    b->keep = keep && !strcmp(keep, "inputs") ? KEEP_INPUTS : KEEP_ALL;
    b->keep_auto = !keep;
    bool rl = !strcmp(a->arg[0], "ppo") || !strcmp(a->arg[0], "grpo");
    b->size = bench_size(model ? model : rl ? "c" : "b", err);
    return b->size && read_rl_flags(b, a, err) && args_int(a, c, "--lora", 0, 1, 4096, &b->lora, err) &&
           args_int(a, c, "--steps", 5, 1, 1000000, &b->steps, err) &&
           args_int(a, c, "--warmup", 2, 0, 1000000, &b->warmup, err) &&
           args_int(a, c, "--batch", 0, 0, 4096, &b->batch, err) &&
           args_int(a, c, "--seq", 0, 0, 1 << 20, &b->seq, err) &&
           args_int(a, c, "--shared", 0, 0, 1 << 20, &b->shared, err) &&
           args_int(a, c, "--reps", 3, 1, 10000, &b->reps, err) && args_num(a, c, "--peak", 0, 0, 1e9, &b->peak, err) &&
           args_int(a, c, "--vocab", 4096, 275, 1 << 20, &b->vocab, err) &&
           args_num(a, c, "--ms", 30, 0.001, 1e6, &b->ms, err) && args_num(a, c, "--mb", 10, 0.001, 1e4, &b->mb, err) &&
           args_num(a, c, "--trainer-tok-s", 100000, 1, 1e12, &b->trainer_tok_s, err);
}

static bool run(const Args *a, Error *err) {
    Bench b = {0};
    if (!read_flags(&b, a, err)) return false;
    for (int i = 0; i < COUNT_OF(kinds); i++) {
        if (strcmp(kinds[i].name, a->arg[0])) continue;
        bool ok = machine_open(&b.machine, a, &command_bench, err) && backend_set_dtype(b.machine.be, b.dtype, err);
        if (ok && b.machine.be->note) log_warn(a->log, "%s", b.machine.be->note);
        ok = ok && kinds[i].run(&b, err);
        machine_close(&b.machine);
        return ok;
    }
    return error_set(
        err, ERR_CONFIG,
        "no benchmark '%s'; there are train, generate, tokenize, load, open, gemm, kernels, ppo, grpo and ckpt",
        a->arg[0]);
}

const Command command_bench = {
    .name = "bench",
    .usage = "bench train|generate|tokenize|load|open|gemm|kernels|ppo|grpo|ckpt [flags] [--json]",
    .help =
        "speed on this machine\n\n"
        "Random weights and random tokens, one line per case; --json: one object per case. Rates are medians over the\n"
        "repetitions, *_best the best. bench/compare.py runs two commands in turn and gives the ratio.",
    .flag = flags,
    .min_arg = 1,
    .max_arg = 1,
    .run = run};
