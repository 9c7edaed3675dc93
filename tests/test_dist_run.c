// layer: cai
// label: slow
// cost: 40
/* A whole run by ranks as threads: keys, and the SHA-256 of every trained model, are those of one rank; what cannot be
 * is refused before anything is computed. */
#include "cai_help.h"

#include "cai/ranks.h"
#include "dist/comm_nccl.h"

static char root[256];

static int setup(void **state) {
    (void)state;
    help_scratch(root, "ranks");
    return 0;
}

static int teardown(void **state) {
    (void)state;
    help_remove(root);
    return 0;
}

static const char *const trained[] = {"pretrain", "helpful", "sl", "pm", "rl"};

/* micro-batches small enough that a step has several; 6 and 5 are no powers of two. */
static const char *const small[] = {"pretrain.batch_tokens=768", "pretrain.micro_tokens=128",
                                    "pretrain.steps=20",         "helpful.micro_tokens=128",
                                    "helpful.steps=20",          "sl.micro_tokens=104",
                                    "pm.micro_tokens=128",       "rl.micro_tokens=96",
                                    "model.max_seq=96",          "rl.kl_stop=0"};

static bool run_to(PipelineResult *r, const char *out, const char *only, const char *const *more, Error *err) {
    const char *set[24];
    char dir[300];
    int n = 0;
    RunConfig cfg;
    snprintf(dir, sizeof dir, "run.out=%s/%s", root, out);
    set[n++] = dir;
    for (int i = 0; i < COUNT_OF(small); i++) set[n++] = small[i];
    for (; *more; more++) set[n++] = *more;
    set[n] = NULL;
    help_config(&cfg, TINY, set);
    bool ok = pipeline_run(r, &cfg, TINY, only, NULL, NULL, err);
    run_config_release(&cfg);
    return ok;
}

static bool run(PipelineResult *r, const char *out, const char *const *more, Error *err) {
    return run_to(r, out, "rl", more, err);
}

enum { SETS = 7 };

/* how[0] is one rank; all others end with the same models, numbers and samples. */
static void all_equal(const char *name, const char *const (*how)[SETS], int n) {
    PipelineResult *r = mem_alloc((size_t)n * sizeof *r);
    for (int k = 0; k < n; k++) {
        char out[32];
        Error err = {0};
        snprintf(out, sizeof out, "%s%d", name, k);
        assert_ok(run(&r[k], out, how[k], &err), err);
        for (int i = 0; i < COUNT_OF(trained); i++) {
            char want[65], got[65];
            const StageResult *a = help_stage(&r[0], trained[i]), *b = help_stage(&r[k], trained[i]);
            assert_string_equal(a->key, b->key);
            help_sha(want, a->dir, "model/model.safetensors");
            help_sha(got, b->dir, "model/model.safetensors");
            if (strcmp(want, got)) fail_msg("stage %s differs with %s", trained[i], how[k][0]);
            help_sha(want, a->dir, "summary.json");
            help_sha(got, b->dir, "summary.json");
            assert_string_equal(want, got);
        }
        char want[65], got[65];
        help_sha(want, help_stage(&r[0], "rl")->dir, "samples.jsonl");
        help_sha(got, help_stage(&r[k], "rl")->dir, "samples.jsonl");
        assert_string_equal(want, got);
    }
    free(r);
}

static void test_equal(void **state) {
    (void)state;
    static const char *const how[][SETS] = {
        {NULL}, {"dist.ranks=2", "dist.zero=1", NULL}, {"dist.ranks=4", "dist.zero=2", "dist.overlap=true", NULL}};
    all_equal("out", how, COUNT_OF(how));
}

/* Two layers in the first stage, one in the second. */
static void test_stages(void **state) {
    (void)state;
    static const char *const how[][SETS] = {
        {"model.n_layer=3", NULL},
        {"model.n_layer=3", "dist.ranks=2", "dist.pp=2", NULL},
        {"model.n_layer=3", "dist.ranks=4", "dist.pp=2", "dist.zero=2", "dist.overlap=true", NULL},
    };
    all_equal("stages", how, COUNT_OF(how));
}

/* What rank 0 generates and scores for itself, with the ranks of its group behind it. */
static void led_equal(const char *name, const char *const (*how)[SETS], int n) {
    static const char *const led[] = {"revise", "pairs", "label", "eval"};
    PipelineResult *r = mem_alloc((size_t)n * sizeof *r);
    for (int k = 0; k < n; k++) {
        char out[32], want[65], got[65];
        Error err = {0};
        snprintf(out, sizeof out, "%s%d", name, k);
        assert_ok(run_to(&r[k], out, "eval", how[k], &err), err);
        for (int i = 0; i < COUNT_OF(led); i++) {
            const StageResult *a = help_stage(&r[0], led[i]), *b = help_stage(&r[k], led[i]);
            assert_string_equal(a->key, b->key);
            help_sha(want, a->dir, "summary.json");
            help_sha(got, b->dir, "summary.json");
            if (strcmp(want, got)) fail_msg("stage %s differs with %s", led[i], how[k][0]);
        }
    }
    free(r);
}

/* A preference model of one layer begins as a share of a whole one of two. Bits follow from dist.tp alone. */
static void test_shares(void **state) {
    (void)state;
    static const char *const how[][SETS] = {
        {"model.n_layer=2", "dist.ranks=2", "dist.tp=2", NULL},
        {"model.n_layer=2", "dist.ranks=4", "dist.tp=2", "dist.zero=2", "dist.overlap=true", NULL},
    };
    static const char *const staged[][SETS] = {
        {"model.n_layer=2", "pm.n_layer=2", "dist.ranks=2", "dist.tp=2", NULL},
        {"model.n_layer=2", "pm.n_layer=2", "dist.ranks=4", "dist.tp=2", "dist.pp=2", NULL},
    };
    all_equal("shares", how, COUNT_OF(how));
    led_equal("shares", how, COUNT_OF(how));
    all_equal("cube", staged, COUNT_OF(staged));
}

/* Ranks that divide rows: bits follow from dist.cp alone, of every stage and of PPO and GRPO, whose first ratios the
 * doctor wants to be exactly 1. */
static void test_rows(void **state) {
    (void)state;
    static const char *const how[][SETS] = {
        {"model.n_layer=2", "pm.n_layer=2", "dist.ranks=2", "dist.cp=2", NULL},
        {"model.n_layer=2", "pm.n_layer=2", "dist.ranks=4", "dist.cp=2", "dist.pp=2", "dist.zero=true", NULL},
    };
    static const char *const grpo[][SETS] = {
        {"rl.method=grpo", "dist.ranks=2", "dist.cp=2", NULL},
        {"rl.method=grpo", "dist.ranks=4", "dist.cp=2", "dist.zero=2", NULL},
    };
    all_equal("rows", how, COUNT_OF(how));
    all_equal("group", grpo, COUNT_OF(grpo));
}

/* A model that is imported is read in parts, or cut into them when its vocabulary has grown. */
static void test_stages_import(void **state) {
    (void)state;
    PipelineResult *r = mem_alloc(5 * sizeof *r);
    char path[700], want[65], got[65];
    Error err = {0};
    assert_ok(run_to(&r[0], "import0", "pretrain", (const char *const[]){"model.n_layer=3", NULL}, &err), err);
    snprintf(path, sizeof path, "model.path=%s/model", help_stage(&r[0], "pretrain")->dir);
    const char *const how[][5] = {{path, NULL},
                                  {path, "dist.ranks=2", "dist.pp=2", NULL},
                                  {path, "dist.ranks=2", "dist.tp=2", NULL},
                                  {path, "dist.ranks=4", "dist.tp=2", "dist.pp=2", NULL}};
    for (int k = 0; k < COUNT_OF(how); k++) {
        char out[16];
        snprintf(out, sizeof out, "import%d", k + 1);
        assert_ok(run_to(&r[k + 1], out, "pretrain", how[k], &err), err);
    }
    for (int k = 1; k < COUNT_OF(how); k += 2) { /* of one tp each */
        help_sha(want, help_stage(&r[k], "pretrain")->dir, "model/model.safetensors");
        help_sha(got, help_stage(&r[k + 1], "pretrain")->dir, "model/model.safetensors");
        assert_string_equal(want, got);
    }
    assert_false(
        run_to(&r[2], "import9", "pretrain", (const char *const[]){path, "dist.ranks=4", "dist.pp=4", NULL}, &err));
    assert_non_null(strstr(err.msg, "dist.pp 4: this model has 3 layers"));
    free(r);
}

/* DPO, and GRPO whose passes share rows. */
static void test_stages_methods(void **state) {
    (void)state;
    static const char *const how[][2][SETS] = {
        {{"model.n_layer=2", "rl.method=dpo", NULL},
         {"model.n_layer=2", "rl.method=dpo", "dist.ranks=2", "dist.pp=2", NULL}},
        {{"model.n_layer=2", "rl.method=grpo", "rl.recompute=true", NULL},
         {"model.n_layer=2", "rl.method=grpo", "rl.recompute=true", "dist.ranks=2", "dist.pp=2", NULL}},
    };
    all_equal("dpo", how[0], 2);
    all_equal("grpo", how[1], 2);
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *set[SETS], *says;
        ErrorCode code;
    } row[] = {{{"dist.ranks=2", "dist.tree=false", NULL}, "one rank's: with 2 ranks", ERR_CONFIG},
               {{"dist.ranks=2", "dist.comm=self", NULL}, "dist.comm self is one rank", ERR_CONFIG},
               {{"model.n_layer=2", "dist.ranks=3", "dist.pp=2", NULL},
                "dist.tp 1, dist.cp 1 and dist.pp 2: 3 ranks cannot be divided",
                ERR_CONFIG},
               {{"dist.ranks=4", "dist.pp=4", NULL}, "dist.pp 4 is more than model.n_layer 1", ERR_CONFIG},
               {{"model.n_layer=2", "dist.pp=2", "lora.r=4", "lora.stages=sl", NULL},
                "dist.pp 2 with lora.stages (sl)",
                ERR_CONFIG},
               {{"dist.ranks=3", "dist.tp=3", NULL}, "dist.tp 3 does not divide the model's n_head", ERR_CONFIG},
               {{"dist.ranks=3", "dist.tp=2", NULL},
                "dist.tp 2, dist.cp 1 and dist.pp 1: 3 ranks cannot be divided",
                ERR_CONFIG},
               {{"dist.ranks=2", "dist.tp=2", "lora.r=4", "lora.stages=sl", NULL},
                "dist.tp 2 with lora.stages (sl)",
                ERR_CONFIG},
               {{"dist.ranks=3", "dist.cp=2", NULL},
                "dist.tp 1, dist.cp 2 and dist.pp 1: 3 ranks cannot be divided",
                ERR_CONFIG},
               {{"dist.ranks=2", "dist.cp=2", "run.backend=cuda", NULL}, "dist.cp 2 with run.backend=cuda", ERR_CONFIG},
               {{"dist.ranks=2", "data.pretrain=nowhere.jsonl", "data.source=files", NULL},
                "nowhere.jsonl: no such file",
                ERR_FORMAT}};
    for (int i = 0; i < COUNT_OF(row); i++) {
        PipelineResult r;
        Error err = {0};
        assert_false(run(&r, "refused", row[i].set, &err));
        if (!strstr(err.msg, row[i].says)) fail_msg("'%s' does not say '%s'", err.msg, row[i].says);
    }
}

/* Where NCCL cannot be, who asks for it is told so before anything begins, one rank too. */
static void test_nccl_refused(void **state) {
    (void)state;
    NcclApi api;
    Error why = {0};
    if (nccl_load(&api, &why)) skip();
    for (int n = 1; n <= 2; n++) {
        PipelineResult r;
        Error err = {0};
        const char *const set[] = {"dist.comm=nccl", n == 1 ? "dist.ranks=1" : "dist.ranks=2", NULL};
        assert_false(run(&r, "nccl", set, &err));
        assert_non_null(strstr(err.msg, why.msg));
        assert_non_null(strstr(err.msg, "NCCL"));
    }
}

static void test_environment(void **state) {
    (void)state;
    static const char *const launcher[][2] = {{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
                                              {"PMI_RANK", "PMI_SIZE"},
                                              {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"},
                                              {"RANK", "WORLD_SIZE"}};
    for (int i = 0; i < COUNT_OF(launcher); i++)
        for (int k = 0; k < 2; k++) unsetenv(launcher[i][k]);
    RankPlace p = ranks_environment();
    assert_true(p.rank == 0 && p.size == 1);
    setenv("RANK", "3", 1);
    assert_int_equal(ranks_environment().size, 1);      /* a rank of nothing */
    for (int i = COUNT_OF(launcher) - 1; i >= 0; i--) { /* the first in the list wins */
        char rank[4], size[4];
        snprintf(rank, sizeof rank, "%d", i);
        snprintf(size, sizeof size, "%d", i + 2);
        setenv(launcher[i][0], rank, 1);
        setenv(launcher[i][1], size, 1);
        p = ranks_environment();
        assert_true(p.rank == i && p.size == i + 2);
    }
    setenv("OMPI_COMM_WORLD_RANK", "7", 1); /* not below its size: not believed */
    assert_int_equal(ranks_environment().size, 3);
    for (int i = 0; i < COUNT_OF(launcher); i++)
        for (int k = 0; k < 2; k++) unsetenv(launcher[i][k]);
}

int main(void) {
    if (getenv("TEST_FILTER")) cmocka_set_test_filter(getenv("TEST_FILTER"));
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_environment),   cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_nccl_refused),  cmocka_unit_test(test_equal),
                                       cmocka_unit_test(test_stages),        cmocka_unit_test(test_shares),
                                       cmocka_unit_test(test_rows),          cmocka_unit_test(test_stages_import),
                                       cmocka_unit_test(test_stages_methods)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
