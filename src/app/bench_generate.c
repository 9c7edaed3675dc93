/* Generation: greedy, no early end, every sequence as long as the case says. */
#include <stdio.h>
#include <stdlib.h>
#include <math.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "app/bench.h"

enum { PREFILL = 512, PROMPT = 16, NEW = 128, SHARED_BATCH = 64 };

typedef struct {
    Bench *b;
    Model m;
    Head h;
    Net net;
    Engine *e;
    uint32_t drawn; /* prompts made so far: no two are alike, so none finds another's pages */
} Gen;

/* common: so many tokens are those of every prompt. */
static bool generate_by(Gen *g, Engine *e, int n_seq, int n_prompt, int common, int n_new, double *seconds,
                        Error *err) {
    GenRequest *req = mem_alloc((size_t)n_seq * sizeof *req);
    GenResult *res = mem_alloc((size_t)n_seq * sizeof *res);
    int32_t *tok = mem_alloc((size_t)n_seq * (size_t)n_prompt * sizeof *tok);
    g->drawn++;
    for (int i = 0; i < n_seq * n_prompt; i++)
        tok[i] = (int32_t)rng_below((Rng){0, RNG_TEST}, (uint64_t)(i % n_prompt < common ? i % n_prompt : i), g->drawn,
                                    (uint32_t)g->m.cfg.n_vocab);
    for (int i = 0; i < n_seq; i++) {
        req[i] = (GenRequest){.id = (uint64_t)i, .prompt = {tok + (size_t)i * (size_t)n_prompt, n_prompt}};
        req[i].sample = (SampleParams){.top_p = 1, .repetition = 1, .max_new = n_new};
    }
    double start = now_s();
    bool ok = engine_generate(e, req, n_seq, res, NULL, NULL, err);
    *seconds = now_s() - start;
    for (int i = 0; ok && i < n_seq; i++) CHECK(res[i].n == n_new, "%d tokens of %d", res[i].n, n_new);
    if (ok) engine_free_results(res, n_seq);
    free(tok);
    free(res);
    free(req);
    return ok;
}

static bool generate(Gen *g, int n_seq, int n_prompt, int n_new, double *seconds, Error *err) {
    return generate_by(g, g->e, n_seq, n_prompt, 0, n_new, seconds, err);
}

static bool repeat(Gen *g, double *v, int reps, int n_seq, int n_prompt, int n_new, Error *err) {
    for (int i = 0; i < reps; i++)
        if (!generate(g, n_seq, n_prompt, n_new, &v[i], err)) return false;
    return true;
}

/* n_new 1: the prompt and one token. */
static bool one_case(Gen *g, int n_seq, int n_prompt, int n_new, Error *err) {
    int reps = (int)g->b->reps;
    double one[3], *v = mem_alloc((size_t)reps * sizeof *v);
    bool decode = n_new > 1;
    bool ok = repeat(g, one, decode ? 3 : 1, n_seq, n_prompt, 1, err); /* warms up, too */
    Meter meter = meter_start();
    double cpu = own_cpu_s();
    ok = ok && repeat(g, v, reps, n_seq, n_prompt, n_new, err);
    cpu = own_cpu_s() - cpu;
    if (ok) {
        char name[64];
        double tok = decode ? n_seq * n_new : n_prompt, med = median_of(v, reps);
        if (decode)
            snprintf(name, sizeof name, "decode/%s/x%d/%d+%d", g->b->size->name, n_seq, n_prompt, n_new);
        else
            snprintf(name, sizeof name, "prefill/%s/%d", g->b->size->name, n_prompt);
        double step = decode ? n_seq * (n_new - 1) / (med - median_of(one, 3)) : 0;
        Case c;
        case_begin(&c, g->b, "gen", name, pool_threads(g->b->machine.pool));
        json_out_str(&c.j, "dtype", g->b->dtype_name);
        if (decode) json_out_int(&c.j, "batch", n_seq);
        json_out_num(&c.j, "tok_s", rounded(tok / med, 1));
        json_out_num(&c.j, "tok_s_best", rounded(tok / v[0], 1));
        json_out_num(&c.j, "tok_cpu_s", rounded(tok * reps / cpu, 1));
        if (decode) json_out_num(&c.j, "step_tok_s", rounded(step, 1));
        json_out_int(&c.j, "reps", reps);
        case_end(&c, meter, "%.0f tok/s  %.0f tok per CPU second", tok / med, tok * reps / cpu);
    }
    free(v);
    return ok;
}

/* The same prompts with their beginning computed once and for each of them, in turns. */
static bool shared_case(Gen *g, int n_seq, int common, int own, Error *err) {
    int reps = (int)g->b->reps, n_prompt = common + own;
    double *once = mem_alloc((size_t)reps * sizeof *once), *each = mem_alloc((size_t)reps * sizeof *each);
    Engine *sharing = NULL;
    Meter meter = meter_start();
    bool ok = engine_open(&sharing, g->net, &(EngineConfig){.weights = g->b->weights, .share_prefix = true}, err);
    for (int i = -1; ok && i < reps; i++) { /* the first warms up */
        int at = i < 0 ? 0 : i;
        ok = generate_by(g, sharing, n_seq, n_prompt, common, NEW, &once[at], err) &&
             generate_by(g, g->e, n_seq, n_prompt, common, NEW, &each[at], err);
    }
    engine_close(sharing);
    if (ok) {
        char name[64];
        Case c;
        double tok = (double)n_seq * NEW, a = tok / median_of(once, reps), b = tok / median_of(each, reps);
        snprintf(name, sizeof name, "shared/%s/x%d/%d+%d+%d", g->b->size->name, n_seq, common, own, NEW);
        case_begin(&c, g->b, "gen", name, pool_threads(g->b->machine.pool));
        json_out_str(&c.j, "dtype", g->b->dtype_name);
        json_out_int(&c.j, "batch", n_seq);
        json_out_num(&c.j, "tok_s", rounded(a, 1));
        json_out_num(&c.j, "tok_s_apart", rounded(b, 1));
        json_out_num(&c.j, "ratio", rounded(a / b, 3));
        json_out_int(&c.j, "reps", reps);
        case_end(&c, meter, "%.0f tok/s, %.0f without sharing: %.2f times", a, b, a / b);
    }
    free(once);
    free(each);
    return ok;
}

static bool gen_open(Gen *g, Error *err) {
    Backend *be = g->b->machine.be;
    const char *dir = g->b->dir;
    ModelConfig c = bench_config(g->b->size, g->b->seq + NEW + (g->b->shared ? g->b->shared + PROMPT : 0));
    if (!(dir ? model_open_mapped(&g->m, be, dir, err) : model_init(&g->m, be, &c, 0, false, err))) return false;
    g->net.trunk = &g->m;
    int n_vocab = g->m.cfg.n_vocab;
    if (!(dir ? head_open(&g->h, &g->m, HEAD_LM, dir, false, err)
              : head_init(&g->h, &g->m, HEAD_LM, n_vocab, 0, false, err)))
        return false;
    g->net.head = &g->h;
    return engine_open(&g->e, g->net, &(EngineConfig){.weights = g->b->weights}, err);
}

/* Seconds since the process began, in ticks of the kernel's clock, as the peers' programs tell it. */
static double since_start(void) {
    char line[1024];
    FILE *f = fopen("/proc/self/stat", "re");
    size_t n = f ? fread(line, 1, sizeof line - 1, f) : 0;
    if (f) fclose(f);
    line[n] = 0;
    const char *p = strrchr(line, ')');
    for (int i = 0; p && i < 20; i++) p = strchr(p + 1, ' ');
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return p ? (double)t.tv_sec + 1e-9 * (double)t.tv_nsec - atof(p) / (double)sysconf(_SC_CLK_TCK) : NAN;
}

/* From the start of the process to the first token of a model that was read from files. */
static bool first_token(Gen *g, Error *err) {
    double took;
    Meter meter = meter_start();
    if (!generate(g, 1, PROMPT, 1, &took, err)) return false;
    double first = since_start();
    char name[64];
    Case c;
    snprintf(name, sizeof name, "first/%s", g->b->size->name);
    case_begin(&c, g->b, "gen", name, pool_threads(g->b->machine.pool));
    json_out_str(&c.j, "dtype", g->b->dtype_name);
    json_out_num(&c.j, "first_s", rounded(first, 3));
    case_end(&c, meter, "%.3f s from the start of the process", first);
    return true;
}

bool bench_generate(Bench *b, Error *err) {
    Gen g = {.b = b};
    int all[] = {1, 8, 32}, only[] = {(int)b->batch};
    const int *batch = b->batch ? only : all;
    int n = b->batch ? 1 : COUNT_OF(all), prompt = b->seq ? (int)b->seq : PROMPT;
    bool ok = gen_open(&g, err);
    if (ok && b->shared) {
        ok = shared_case(&g, b->batch ? (int)b->batch : SHARED_BATCH, (int)b->shared, prompt, err);
        n = 0;
    }
    ok = ok && (b->shared || !b->dir || first_token(&g, err)) &&
         (b->shared || b->batch || one_case(&g, 1, b->seq ? prompt : PREFILL, 1, err));
    for (int i = 0; ok && i < n; i++) ok = one_case(&g, batch[i], prompt, NEW, err);
    engine_close(g.e);
    if (g.net.head) head_release(&g.h);
    if (g.net.trunk) model_release(&g.m);
    return ok;
}
