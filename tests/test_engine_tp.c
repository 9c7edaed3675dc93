// layer: engine
/* Generation and scoring by ranks that share a model: what one rank says, to rounding, the same on all of them;
 * decoding is the forward pass, to the bit; what is sent is what the formulas say. */
#include "tp_help.h"

#include "engine/lead.h"

enum { N = 12, MAX_NEW = 20, N_OPTION = 3 };

typedef struct { /* everything an engine says */
    GenResult text[N];
    float score[N][MAX_NEW], pages[N][MAX_NEW], options[N * N_OPTION], logits[TP_VOCAB], last[N], every[N][40],
        embed[N * 32];
    bool greedy[N];
} Said;

typedef struct {
    const char *backend;
    Family family;
    bool tied;
    int tp;
    DType weights;
    Said want;
    size_t page_bytes;
    pthread_mutex_t lock;
    Said first; /* what the first rank to come said */
    int n_said;
    Stop *stop;
} Case;

typedef struct {
    Pool *pool;
    Backend *be;
    Model m;
    Head lm, score;
} Nets;

static void louder(void *ud, int index, const ParamInfo *p) {
    Backend *be = ud;
    (void)index;
    if (p->init != INIT_NORMAL && p->init != INIT_RESID) return;
    double *x = mem_alloc((size_t)tensor_count(p->w) * sizeof *x);
    tensor_get(be, x, p->w);
    for (int64_t i = 0; i < tensor_count(p->w); i++) x[i] *= 6;
    tensor_set(be, p->w, x);
    free(x);
}

static bool nets_open(Nets *n, const Case *c, const Mesh *mesh, Error *err) {
    ModelConfig cfg = tp_config(c->family, c->tied);
    bool half = !strcmp(c->backend, "bf16");
    *n = (Nets){0};
    bool ok = pool_open(&n->pool, 2, err) && backend_open(&n->be, half ? "cpu" : c->backend, n->pool, NULL, err) &&
              (!half || backend_set_dtype(n->be, DTYPE_BF16, err)) &&
              model_init_on(&n->m, n->be, &cfg, mesh, TP_SEED, false, err) &&
              head_init(&n->lm, &n->m, HEAD_LM, cfg.n_vocab, TP_SEED, false, err) &&
              head_init(&n->score, &n->m, HEAD_SCORE, 1, TP_SEED, false, err);
    if (!ok) return false;
    tp_shake((Net){&n->m, &n->lm, NULL});
    net_visit((Net){&n->m, &n->lm, NULL}, louder, n->be);
    return true;
}

static void nets_close(Nets *n) {
    head_release(&n->score);
    head_release(&n->lm);
    model_release(&n->m);
    backend_close(n->be);
    pool_close(n->pool);
}

static Net lm_of(Nets *n) { return (Net){&n->m, &n->lm, NULL}; }
static Net score_of(Nets *n) { return (Net){&n->m, &n->score, NULL}; }

/* -- what is asked */

typedef struct {
    int32_t tok[N][96];
    Tokens prompt[N];
    uint8_t ban[TP_VOCAB];
} Asked;

static void fill(Asked *a) {
    Rng rng = {11, RNG_TEST};
    for (int i = 0; i < N; i++) {
        int n = i % 3 == 0 ? 90 : 3 + 2 * i; /* the long ones begin alike, and share a page */
        for (int k = 0; k < n; k++)
            a->tok[i][k] = (int32_t)rng_below(rng, (uint64_t)(i % 3 ? i : 0), (uint32_t)k, TP_VOCAB);
        a->prompt[i] = (Tokens){a->tok[i], n};
    }
    for (int k = 0; k < TP_VOCAB; k++) a->ban[k] = k % 5 == 0;
}

/* Every kind of rule in turn; a function of the place alone. */
static void rules(void *ud, uint64_t id, const int32_t *text, int n, GenRule *rule) {
    static const int32_t two[] = {4, 19};
    const Asked *a = ud;
    (void)text;
    switch ((n + (int)id) % 4) {
    case 0:
        rule->force = (int32_t)((id + (uint64_t)n) % TP_VOCAB);
        break;
    case 1:
        rule->allow = two, rule->n_allow = 2;
        break;
    case 2:
        rule->ban = a->ban;
        break;
    default:
        break;
    }
}

static void requests(GenRequest *req, Asked *a) {
    static const int32_t end[] = {7};
    for (int i = 0; i < N; i++) {
        SampleParams p = {.temperature = 1, .top_p = 1, .repetition = 1, .max_new = MAX_NEW - i % 4};
        p.rng = (Rng){3, RNG_SAMPLE};
        if (i % 6 == 1) p.temperature = 0;
        if (i % 6 == 2) p.temperature = 0.7, p.top_k = 9;
        if (i % 6 == 3) p.top_p = 0.8, p.repetition = 1.3;
        if (i % 6 == 4) p.min_p = 0.05, p.stop = end, p.n_stop = 1;
        if (i % 6 == 5) p.hook = rules, p.hook_ud = a;
        req[i] = (GenRequest){(uint64_t)i + 40, a->prompt[i], p};
    }
}

static bool ask(Said *s, Net lm, Net score_net, const Case *c, Error *err) {
    Asked *a = mem_alloc(sizeof *a);
    GenRequest req[N];
    Engine *e = NULL, *plain = NULL, *judge = NULL;
    EngineConfig small = {.max_batch_tok = 70, .max_slots = 5, .share_prefix = true, .weights = c->weights};
    fill(a);
    requests(req, a);
    *s = (Said){0};
    float *score[N], *pages[N], *every[N];
    Tokens text[N], seq[N];
    static const int32_t option[N_OPTION] = {2, 11, 22};
    bool ok = engine_open(&e, lm, &small, err) && engine_open(&plain, lm, &(EngineConfig){.share_prefix = true}, err) &&
              engine_open(&judge, score_net, &(EngineConfig){0}, err) &&
              engine_generate(e, req, N, s->text, NULL, NULL, err);
    for (int i = 0; ok && i < N; i++) {
        text[i] = (Tokens){s->text[i].text, s->text[i].n};
        score[i] = s->score[i], pages[i] = s->pages[i], every[i] = s->every[i];
        seq[i] = (Tokens){a->tok[i], a->prompt[i].n < 40 ? a->prompt[i].n : 40};
    }
    ok = ok && engine_score(plain, a->prompt, text, N, 1, score, err) &&
         engine_score_greedy(plain, a->prompt, text, N, pages, s->greedy, err) &&
         engine_options(plain, a->prompt, N, option, N_OPTION, s->options, err) &&
         engine_logits(plain, a->prompt[1], s->logits, err) && engine_score_last(judge, seq, N, s->last, err) &&
         engine_score_all(judge, seq, N, every, err) && engine_embed(plain, seq, N, s->embed, err);
    engine_close(e);
    engine_close(plain);
    engine_close(judge);
    free(a);
    return ok;
}

static void forget(Said *s) { engine_free_results(s->text, N); }

/* -- how equal */

typedef struct {
    int n, other; /* numbers; those of other bits */
    double far;   /* the largest distance, relative to 1 or more */
} Apart;

static void apart(Apart *a, const float *x, const float *y, int n) {
    for (int i = 0; i < n; i++) {
        double d = fabs((double)x[i] - (double)y[i]) / fmax(1, fabs((double)y[i]));
        a->n++;
        a->other += memcmp(&x[i], &y[i], sizeof *x) != 0;
        if (!(d <= a->far) && !(isnan(x[i]) && isnan(y[i]))) a->far = isnan(d) ? INFINITY : d;
    }
}

static bool compare(Apart *a, const Said *x, const Said *y) {
    for (int i = 0; i < N; i++) {
        const GenResult *p = &x->text[i], *q = &y->text[i];
        if (p->n != q->n || p->why != q->why || p->n_forced != q->n_forced || p->id != q->id ||
            memcmp(p->text, q->text, (size_t)p->n * sizeof *p->text) || x->greedy[i] != y->greedy[i])
            return false;
        apart(a, p->logprob, q->logprob, p->n);
        apart(a, &p->odds, &q->odds, 1);
        apart(a, x->score[i], y->score[i], p->n);
        apart(a, x->pages[i], y->pages[i], p->n);
        apart(a, x->every[i], y->every[i], COUNT_OF(x->every[i]));
    }
    apart(a, x->options, y->options, COUNT_OF(x->options));
    apart(a, x->logits, y->logits, TP_VOCAB);
    apart(a, x->last, y->last, N);
    apart(a, x->embed, y->embed, COUNT_OF(x->embed));
    return true;
}

/* A cache, pieces and company against one pass over all of it: at temperature 1 the same bits, unless the weights are
 * others. */
static bool decodes_as_forward(const Said *s) {
    for (int i = 0; i < N; i++) {
        if (i % 6 != 2 && memcmp(s->text[i].logprob, s->score[i], (size_t)s->text[i].n * sizeof(float))) return false;
        if (memcmp(s->score[i], s->pages[i], (size_t)s->text[i].n * sizeof(float))) return false;
        if (i % 6 == 1 && !s->greedy[i]) return false;
    }
    return true;
}

static void rank_asks(Rank *r) {
    Case *c = r->ud;
    Error err = {0};
    Mesh mesh;
    Nets nets;
    Said *s = mem_alloc(sizeof *s);
    bool ok = mesh_open(&mesh, r->world, NULL, c->tp, 1, 1, &err) && nets_open(&nets, c, &mesh, &err) &&
              ask(s, lm_of(&nets), score_of(&nets), c, &err);
    if (!ok) snprintf(r->wrong, sizeof r->wrong, "rank %d: %.300s", r->rank, err.msg);
    expect(r, c->weights != DTYPE_F32 || decodes_as_forward(s));
    expect(r, kv_page_bytes(&nets.m) * (size_t)c->tp == c->page_bytes);
    pthread_mutex_lock(&c->lock);
    if (c->n_said++ == 0) {
        c->first = *s;
    } else {
        Apart a = {0};
        expect(r, compare(&a, s, &c->first) && a.other == 0);
        forget(s);
    }
    pthread_mutex_unlock(&c->lock);
    nets_close(&nets);
    free(s);
}

static void check_case(Case c) {
    Error err = {0};
    Nets nets;
    Apart a = {0};
    pthread_mutex_init(&c.lock, NULL);
    if (!nets_open(&nets, &c, NULL, &err) || !ask(&c.want, lm_of(&nets), score_of(&nets), &c, &err))
        fail_msg("%s", err.msg);
    c.page_bytes = kv_page_bytes(&nets.m);
    nets_close(&nets);
    with_ranks(c.tp, rank_asks, &c);
    assert_true(compare(&a, &c.first, &c.want));
    print_message("  %s family %d tied %d tp %d: %.1e, %d of %d floats have other bits\n", c.backend, c.family, c.tied,
                  c.tp, a.far, a.other, a.n);
    if (!strcmp(c.backend, "ref"))
        assert_true(a.far < 1e-6 && a.other * 200 < a.n); /* F64 until it is a float: 1e-10 apart would be 1 in 100 */
    else
        assert_true(a.far < 1e-6);
    forget(&c.first);
    forget(&c.want);
    pthread_mutex_destroy(&c.lock);
}

static void test_equal(void **state) {
    (void)state;
    static const Case row[] = {
        {.backend = "ref", .family = FAMILY_LLAMA, .tied = false, .tp = 2},
        {.backend = "ref", .family = FAMILY_GPT2, .tied = true, .tp = 4},
        {.backend = "ref", .family = FAMILY_QWEN3, .tied = false, .tp = 4},
        {.backend = "ref", .family = FAMILY_QWEN2, .tied = true, .tp = 2},
        {.backend = "cpu", .family = FAMILY_LLAMA, .tied = true, .tp = 4},
        {.backend = "cpu", .family = FAMILY_QWEN3, .tied = true, .tp = 2},
        {.backend = "cpu", .family = FAMILY_GPT2, .tied = false, .tp = 2},
    };
    for (int i = 0; i < COUNT_OF(row); i++) check_case(row[i]);
}

/* -- rank 0 asks alone, over folders, with rules of its own; the others follow */

static const char folder[] = BUILD_DIR "/scratch/engine_tp";

static void rank_leads(Rank *r) {
    Case *c = r->ud;
    Error err = {0};
    const Error none = {0};
    Mesh mesh;
    Pool *pool;
    Backend *be;
    Model m[2];
    Head h[2];
    bool ok = mesh_open(&mesh, r->world, NULL, c->tp, 1, 1, &err) && pool_open(&pool, 1, &err) &&
              backend_open(&be, c->backend, pool, NULL, &err);
    Mesh share = mesh_share(&mesh);
    expect(r, ok);
    if (r->rank > 0) {
        ok = lead_follow(&share, be, &none, 60, "idle", &err);
        expect(r, ok);
    } else {
        Lead *l = lead_begin(&share, "idle");
        Str lm = {0}, score = {0};
        Error lost = {0};
        str_printf(&lm, "%s/lm", folder);
        str_printf(&score, "%s/score", folder);
        ok = !lead_net_open(l, &m[0], &h[0], be, "/nowhere", HEAD_LM, &lost) && strstr(lost.msg, "nowhere");
        expect(r, ok); /* and all have heard of it */
        ok = lead_net_open(l, &m[0], &h[0], be, lm.s, HEAD_LM, &err) &&
             lead_net_open(l, &m[1], &h[1], be, score.s, HEAD_SCORE, &err);
        expect(r, ok);
        ok = ask(&c->first, (Net){&m[0], &h[0], NULL}, (Net){&m[1], &h[1], NULL}, c, &err);
        if (!ok) snprintf(r->wrong, sizeof r->wrong, "rank 0: %.300s", err.msg);
        for (int i = 0; i < 2; i++) {
            lead_net_close(&m[i]);
            head_release(&h[i]);
            model_release(&m[i]);
        }
        lead_end(l);
        str_release(&lm);
        str_release(&score);
    }
    backend_close(be);
    pool_close(pool);
}

static void save_both(const Case *c) {
    Error err = {0};
    Nets nets;
    Str dir = {0};
    if (!nets_open(&nets, c, NULL, &err)) fail_msg("%s", err.msg);
    str_printf(&dir, "%s/lm", folder);
    if (!io_remove_tree(folder, &err) || !io_make_dirs(dir.s, &err) || !net_save(lm_of(&nets), dir.s, &err))
        fail_msg("%s", err.msg);
    str_clear(&dir);
    str_printf(&dir, "%s/score", folder);
    if (!net_save(score_of(&nets), dir.s, &err)) fail_msg("%s", err.msg);
    str_release(&dir);
    nets_close(&nets);
}

static void test_lead(void **state) {
    (void)state;
    static const Case row[] = {{.backend = "ref", .family = FAMILY_LLAMA, .tied = false, .tp = 2},
                               {.backend = "ref", .family = FAMILY_GPT2, .tied = true, .tp = 4}};
    for (int i = 0; i < COUNT_OF(row); i++) {
        Case c = row[i], one = row[i];
        Apart a = {0};
        save_both(&c);
        one.tp = 1;
        with_ranks(1, rank_leads, &one);
        with_ranks(c.tp, rank_leads, &c);
        assert_true(compare(&a, &c.first, &one.first));
        assert_true(a.far < 1e-6 && a.other * 200 < a.n);
        assert_true(decodes_as_forward(&c.first));
        forget(&c.first);
        forget(&one.first);
    }
}

/* -- one rank is asked to stop; all do, after the same pass */

static void rank_stops(Rank *r) {
    Case *c = r->ud;
    Error err = {0};
    Mesh mesh;
    Nets nets;
    Engine *e = NULL;
    Asked *a = mem_alloc(sizeof *a);
    GenRequest req[N];
    GenResult res[N];
    fill(a);
    requests(req, a);
    bool ok = mesh_open(&mesh, r->world, NULL, c->tp, 1, 1, &err) && nets_open(&nets, c, &mesh, &err) &&
              engine_open(&e, (Net){&nets.m, &nets.lm, NULL}, &(EngineConfig){.max_slots = 2}, &err);
    expect(r, ok);
    ok = engine_generate(e, req, N, res, NULL, r->rank == 1 ? c->stop : NULL, &err);
    bool said = err.code == ERR_STOPPED && strstr(err.msg, "0 of 12");
    expect(r, !ok && said);
    ok = engine_generate(e, req, 2, res, NULL, NULL, &err); /* and the engine is none the worse for it */
    expect(r, ok && res[0].n > 0);
    engine_free_results(res, 2);
    engine_close(e);
    nets_close(&nets);
    free(a);
}

static void test_stop(void **state) {
    (void)state;
    Error err = {0};
    Case c = {.backend = "cpu", .family = FAMILY_LLAMA, .tp = 2};
    if (!stop_open(&c.stop, &err)) fail_msg("%s", err.msg);
    stop_request(c.stop);
    with_ranks(2, rank_stops, &c);
    stop_close(c.stop);
}

/* -- what is sent: one pass over prompts of equal length, a token for each; beside what the pass itself sends */

enum { PROMPTS = 5, LENGTH = 6 };

/* The pass alone: what it sends is nn's business (test_train_tp). */
static bool forward_alone(Nets *nets, const Asked *a, Error *err) {
    int32_t tok[PROMPTS * LENGTH], pos[PROMPTS * LENGTH], row[PROMPTS], q_off[PROMPTS + 1], kv_len[PROMPTS],
        page[PROMPTS];
    Acts *acts;
    for (int i = 0; i <= PROMPTS; i++) q_off[i] = i * LENGTH;
    for (int i = 0; i < PROMPTS; i++) {
        for (int k = 0; k < LENGTH; k++) tok[i * LENGTH + k] = a->tok[i][k], pos[i * LENGTH + k] = k;
        row[i] = (i + 1) * LENGTH - 1, kv_len[i] = LENGTH, page[i] = i * LENGTH;
    }
    Batch b = {.n_tok = PROMPTS * LENGTH, .tok = tok, .pos = pos, .n_row = PROMPTS, .row = row};
    b.seqs = (AttnSeqs){.n_seq = PROMPTS, .max_page = 1, .q_off = q_off, .kv_len = kv_len, .kv_page = page};
    b.seqs.causal = true;
    if (!acts_open(&acts, &nets->m, b.n_tok, b.n_row, KEEP_NONE, err)) return false;
    net_forward(lm_of(nets), acts, &b, NULL);
    acts_close(acts);
    return true;
}

static int64_t begin(int64_t n, int r, int t) { return n * r / t; }

static void rank_sends(Rank *r) {
    Case *c = r->ud;
    Error err = {0};
    Mesh mesh;
    Nets nets;
    Engine *e = NULL;
    Asked *a = mem_alloc(sizeof *a);
    GenRequest req[PROMPTS];
    GenResult res[PROMPTS];
    int t = c->tp, me = r->rank, row = PROMPTS;
    fill(a);
    for (int i = 0; i < PROMPTS; i++) {
        SampleParams p = {.temperature = 1, .top_p = 1, .repetition = 1, .max_new = 1, .rng = {3, RNG_SAMPLE}};
        req[i] = (GenRequest){(uint64_t)i, {a->tok[i], LENGTH}, p};
    }
    bool ok = mesh_open(&mesh, r->world, NULL, t, 1, 1, &err) && nets_open(&nets, c, &mesh, &err) &&
              engine_open(&e, (Net){&nets.m, &nets.lm, NULL}, &(EngineConfig){0}, &err);
    comm_count_clear(r->world);
    ok = ok && forward_alone(&nets, a, &err);
    CommCount out0 = comm_count(mesh.tp, COMM_ALL_TO_ALL), all0 = comm_count(mesh.tp, COMM_ALL_GATHER);
    comm_count_clear(r->world);
    ok = ok && engine_generate(e, req, PROMPTS, res, NULL, NULL, &err);
    expect(r, ok);
    int64_t to = 0, back = 0, own = begin(row, me + 1, t) - begin(row, me, t);
    to += 4 * (row - own) * nets.m.cfg.n_vocab;            /* logits of others' rows */
    back += (t - 1) * (8 * (own + 1) + 24 * (int64_t)row); /* what was drawn; log-probs */
    back += (t - 1) * 16;                                  /* can all go on? */
    CommCount out = comm_count(mesh.tp, COMM_ALL_TO_ALL), all = comm_count(mesh.tp, COMM_ALL_GATHER);
    expect(r, out0.bytes > 0 && all0.bytes > 0);
    expect(r, out.calls == out0.calls + 1 && out.bytes == out0.bytes + to);
    expect(r, all.calls == all0.calls + 3 && all.bytes == all0.bytes + back);
    engine_free_results(res, PROMPTS);
    engine_close(e);
    nets_close(&nets);
    free(a);
}

static void test_sent(void **state) {
    (void)state;
    for (int t = 2; t <= 4; t *= 2) {
        Case c = {.backend = "cpu", .family = FAMILY_LLAMA, .tp = t};
        with_ranks(t, rank_sends, &c);
    }
}

/* -- weights in fewer bytes: decoding of shares is that of a whole net as rounded, near enough */

static void rank_light(Rank *r) {
    Case *c = r->ud;
    Error err = {0};
    Mesh mesh;
    Nets nets;
    Engine *e = NULL;
    GenResult res[1];
    Asked *a = mem_alloc(sizeof *a);
    fill(a);
    SampleParams p = {.temperature = 0, .top_p = 1, .repetition = 1, .max_new = 8};
    GenRequest req = {1, {a->tok[1], 5}, p};
    bool ok = mesh_open(&mesh, r->world, NULL, c->tp, 1, 1, &err) && nets_open(&nets, c, &mesh, &err) &&
              engine_open(&e, (Net){&nets.m, &nets.lm, NULL}, &(EngineConfig){.weights = c->weights}, &err) &&
              engine_generate(e, &req, 1, res, NULL, NULL, &err);
    expect(r, ok);
    pthread_mutex_lock(&c->lock);
    for (int i = 0; i < res[0].n; i++) c->first.score[0][i] = res[0].logprob[i];
    pthread_mutex_unlock(&c->lock);
    engine_free_results(res, 1);
    engine_close(e);
    nets_close(&nets);
    free(a);
}

static void test_light(void **state) {
    (void)state;
    static const DType weights[] = {DTYPE_BF16, DTYPE_I8};
    for (int i = 0; i < COUNT_OF(weights); i++) {
        Case c = {.backend = "cpu", .family = FAMILY_LLAMA, .tp = 2, .weights = weights[i]}, one = c;
        pthread_mutex_init(&c.lock, NULL);
        pthread_mutex_init(&one.lock, NULL);
        one.tp = 1;
        with_ranks(1, rank_light, &one);
        with_ranks(2, rank_light, &c);
        for (int k = 0; k < 8; k++) assert_true(fabsf(c.first.score[0][k] - one.first.score[0][k]) < 0.2f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_equal), cmocka_unit_test(test_lead),
                                       cmocka_unit_test(test_stop), cmocka_unit_test(test_sent),
                                       cmocka_unit_test(test_light)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
