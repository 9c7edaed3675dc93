// layer: cai
// cost: 25
/* The run store: what is reused, what is redone, and that neither company nor interruption shows in the bytes. */
#include "cai_help.h"

#include <sys/stat.h>
#include <sys/wait.h>

static char root[256], shared[280], alone[280];

/* Stages computed, as "rl eval"; the rest were there. */
static void computed(Str *out, const PipelineResult *r) {
    str_clear(out);
    for (int i = 0; i < r->n_stage; i++)
        if (r->stage[i].applies && !r->stage[i].cached && help_exists(r->stage[i].dir, "DONE"))
            str_printf(out, "%s%s", out->n ? " " : "", r->stage[i].name);
}

static void run(PipelineResult *r, const char *out, const char *name, const char *only, const char *const *more) {
    char set_out[300], set_name[100];
    const char *set[16] = {set_out, set_name};
    int n = 2;
    RunConfig c;
    Error err = {0};
    snprintf(set_out, sizeof set_out, "run.out=%s", out);
    snprintf(set_name, sizeof set_name, "run.name=%s", name);
    while (more && *more) set[n++] = *more++;
    help_config(&c, TINY, set);
    if (!pipeline_run(r, &c, TINY, only, NULL, NULL, &err)) fail_msg("%s", err.msg);
    run_config_release(&c);
}

/* First, while this process has not made a thread yet. */
static void two_processes_share_a_store(void **state) {
    (void)state;
    pid_t child[2];
    for (int i = 0; i < 2; i++) {
        child[i] = fork();
        assert_true(child[i] >= 0);
        if (child[i] == 0) {
            char set_out[300], set_name[32];
            snprintf(set_out, sizeof set_out, "run.out=%s", shared);
            snprintf(set_name, sizeof set_name, "run.name=run%d", i);
            const char *set[] = {set_out, set_name, "run.threads=2"};
            RunConfig c;
            PipelineResult r;
            Str report = {0};
            Error err = {0};
            bool ok =
                run_config_load(&c, TINY, set, 3, &report, &err) && pipeline_run(&r, &c, TINY, NULL, NULL, NULL, &err);
            if (!ok) fprintf(stderr, "%s\n", err.msg);
            int n = 0;
            for (int k = 0; ok && k < r.n_stage; k++) n += r.stage[k].applies && !r.stage[k].cached;
            _exit(ok ? n : 100);
        }
    }
    int all = 0;
    for (int i = 0; i < 2; i++) {
        int status;
        assert_int_equal(waitpid(child[i], &status, 0), child[i]);
        assert_true(WIFEXITED(status));
        assert_int_not_equal(WEXITSTATUS(status), 100);
        all += WEXITSTATUS(status);
    }
    assert_int_equal(all, 12); /* each result was computed by one of the two */
    char **name, *a, *b;
    int n;
    Str store = {0};
    Error err = {0};
    str_printf(&store, "%s/store", shared);
    assert_ok(io_list_dir(&name, &n, str_get(&store), &err), err);
    assert_int_equal(n, 12);
    io_free_list(name, n);
    str_printf(&store, "/../runs/run0");
    a = help_read(str_get(&store), "report.json");
    str_printf(&store, "/../run1");
    b = help_read(str_get(&store), "report.json");
    assert_string_equal(a, b);
    free(a);
    free(b);
    str_release(&store);
}

static void again_is_free(void **state) {
    (void)state;
    PipelineResult r;
    Str what = {0};
    run(&r, shared, "again", NULL, NULL);
    computed(&what, &r);
    assert_string_equal(str_get(&what), "");
    assert_true(r.seconds < 1);
    char *status = help_read(r.run_dir, "STATUS");
    assert_string_equal(status, "done\n");
    free(status);
    assert_true(help_exists(r.run_dir, "report.html") && help_exists(r.run_dir, "stages.json"));
    str_release(&what);
}

static void one_thread_equals_two(void **state) {
    (void)state;
    PipelineResult one, two;
    char a[65], b[65];
    run(&two, shared, "two", NULL, (const char *const[]){"run.threads=2", NULL});
    run(&one, alone, "one", NULL, (const char *const[]){"run.threads=1", NULL});
    static const char *const file[][2] = {
        {"tokenizer", "tokenizer.json"},   {"prompts", "prompts.jsonl"},     {"pretrain", "model/model.safetensors"},
        {"revise", "revisions.jsonl"},     {"label", "labels.jsonl"},        {"pm", "model/model.safetensors"},
        {"rl", "model/model.safetensors"}, {"eval", "replies-rl.jsonl"},     {"rl", "samples.jsonl"},
        {"eval", "summary.json"},          {"helpful", "model/config.json"}, {"sl", "ledger.json"}};
    for (int i = 0; i < COUNT_OF(file); i++) {
        help_sha(a, help_stage(&one, file[i][0])->dir, file[i][1]);
        help_sha(b, help_stage(&two, file[i][0])->dir, file[i][1]);
        if (strcmp(a, b)) fail_msg("%s/%s differs", file[i][0], file[i][1]);
    }
    char *x = help_read(one.run_dir, "report.json"), *y = help_read(two.run_dir, "report.json");
    assert_string_equal(x, y);
    free(x);
    free(y);
}

/* Which keys change when one value does, without running anything. */
static void keys_change_where_they_must(void **state) {
    (void)state;
    static const struct {
        const char *set, *changed;
    } row[] = {
        {"run.threads=1", ""},
        {"run.name=other", ""},
        {"run.state_s=1", ""},
        {"rl.recompute=true", ""},
        {"eval.gates=[\"rl.kl <= 9\"]", ""},
        {"data.choice=[" TINY "]", "eval"},
        {"eval.limit=11", "eval"},
        {"rl.lr=1e-5", "rl eval"},
        {"rl.schedule=cosine", "rl eval"},
        {"pm.holdout=0.2", "pm rl eval"},
        {"label.clamp=5", "label pm rl eval"},
        {"judge.remote.model=m", ""}, /* nobody asks it */
        {"judge.kind=remote", "label pm rl eval"},
        {"label.gates=[\"label.ties <= 9\"]", "label pm rl eval"},
        {"pairs.max_new=15", "pairs label pm rl eval"},
        {"sl.lr=1e-4", "sl pairs label pm rl eval"},
        {"revise.rounds=1", "revise sl pairs label pm rl eval"},
        {"constitution.only=[animals]", "revise sl pairs label pm rl eval"},
        {"helpful.lr=1e-4", "helpful revise sl pairs label pm rl eval"},
        {"pretrain.lr=1e-4", "pretrain helpful revise sl pairs label pm rl eval"},
        {"prompts.limit=20", "prompts revise sl pairs label pm rl eval"},
        {"tokenizer.vocab=600", "tokenizer pretrain helpful revise sl pairs label pm rl eval"},
        {"world.seed=2", "world tokenizer prompts pretrain helpful revise sl pairs label pm rl eval"},
        {"run.dtype=bf16", "world tokenizer prompts pretrain helpful revise sl pairs label pm rl eval"},
        {"run.seed=1", "world tokenizer prompts pretrain helpful revise sl pairs label pm rl eval"},
    };
    RunConfig c;
    PipelineResult base, other;
    Error err = {0};
    Str what = {0};
    help_config(&c, TINY, (const char *const[]){NULL});
    assert_ok(pipeline_keys(&base, &c, TINY, &err), err);
    run_config_release(&c);
    for (int i = 0; i < COUNT_OF(row); i++) {
        help_config(&c, TINY, (const char *const[]){row[i].set, NULL});
        assert_ok(pipeline_keys(&other, &c, TINY, &err), err);
        run_config_release(&c);
        str_clear(&what);
        for (int k = 0; k < base.n_stage; k++) {
            assert_int_equal(base.stage[k].applies, other.stage[k].applies);
            if (strcmp(base.stage[k].key, other.stage[k].key))
                str_printf(&what, "%s%s", what.n ? " " : "", base.stage[k].name);
        }
        if (strcmp(str_get(&what), row[i].changed))
            fail_msg("%s changes '%s', expected '%s'", row[i].set, str_get(&what), row[i].changed);
    }
    str_release(&what);
}

/* A judge behind HTTP is part of what its answers are; how patiently it is asked is not. */
static void remote_judge_keys(void **state) {
    (void)state;
    static const struct {
        const char *set, *changed;
    } row[] = {{"judge.remote.timeout_s=3", ""},     {"judge.remote.key_env=K", ""},
               {"judge.remote.max_usd=3", ""},       {"judge.remote.cache=c", ""},
               {"judge.remote.model=m2", "label "},  {"judge.remote.url=https://b", "label "},
               {"judge.remote.votes=3", "label "},   {"eval.judge=true", "eval "},
               {"revise.gate=true", "revise label "}};
    RunConfig c;
    PipelineResult base, other;
    Error err = {0};
    help_config(&c, TINY, (const char *const[]){"judge.kind=remote", "judge.remote.url=https://a", NULL});
    assert_ok(pipeline_keys(&base, &c, TINY, &err), err);
    run_config_release(&c);
    for (int i = 0; i < COUNT_OF(row); i++) {
        static const char *const watched[] = {"revise", "label", "eval"};
        char what[64] = "";
        help_config(&c, TINY,
                    (const char *const[]){"judge.kind=remote", "judge.remote.url=https://a", row[i].set, NULL});
        assert_ok(pipeline_keys(&other, &c, TINY, &err), err);
        run_config_release(&c);
        bool label = strcmp(help_stage(&base, "label")->key, help_stage(&other, "label")->key) != 0;
        for (int k = 0; k < COUNT_OF(watched); k++) {
            if (k == 2 && label) continue; /* eval needs what comes of labels */
            if (strcmp(help_stage(&base, watched[k])->key, help_stage(&other, watched[k])->key)) {
                strcat(what, watched[k]);
                strcat(what, " ");
            }
        }
        if (strcmp(what, row[i].changed)) fail_msg("%s changes '%s', expected '%s'", row[i].set, what, row[i].changed);
    }
}

static void only_dependents_run_again(void **state) {
    (void)state;
    PipelineResult r;
    Str what = {0};
    run(&r, shared, "lr", NULL, (const char *const[]){"rl.lr=1e-5", NULL});
    computed(&what, &r);
    assert_string_equal(str_get(&what), "rl eval");
    str_release(&what);
}

/* A principle reworded in a file of one's own: what went before it is reused. */
static void one_principle_changes(void **state) {
    (void)state;
    PipelineResult r;
    Str what = {0}, path = {0}, set = {0};
    RunConfig c;
    Error err = {0};
    help_config(&c, TINY, (const char *const[]){NULL});
    assert_ok(pipeline_keys(&r, &c, TINY, &err), err);
    run_config_release(&c);
    run(&r, shared, "two", "world", NULL);
    char *text = help_read(help_stage(&r, "world")->dir, "constitution.json"), *at = strstr(text, "\"text\"");
    assert_non_null(at);
    help_write(root, "mine.json", text);
    str_printf(&set, "constitution.path=%s/mine.json", root);
    const char *const mine[] = {str_get(&set), "rl.steps=1", NULL};
    run(&r, shared, "mine", NULL, mine);
    computed(&what, &r);
    assert_string_equal(str_get(&what), "revise sl pairs label pm rl eval");
    run(&r, shared, "mine", NULL, mine);
    computed(&what, &r);
    assert_string_equal(str_get(&what), "");
    at = strchr(strchr(at, ':'), '"') + 1;
    *at = *at == 'x' ? 'y' : 'x';
    help_write(root, "mine.json", text);
    run(&r, shared, "mine", "label", mine);
    computed(&what, &r);
    assert_string_equal(str_get(&what), "revise sl pairs label");
    free(text);
    str_release(&what);
    str_release(&path);
    str_release(&set);
}

static void only_runs_up_to_a_stage(void **state) {
    (void)state;
    PipelineResult r;
    Str what = {0};
    Error err = {0};
    RunConfig c;
    run(&r, alone, "only", "prompts", (const char *const[]){"world.seed=5", NULL});
    computed(&what, &r);
    assert_string_equal(str_get(&what), "world prompts");
    assert_false(help_exists(r.run_dir, "report.json"));
    help_config(&c, TINY, (const char *const[]){NULL});
    assert_false(pipeline_run(&r, &c, TINY, "revised", NULL, NULL, &err));
    assert_int_equal(err.code, ERR_CONFIG);
    assert_non_null(strstr(err.msg, "unknown stage 'revised' (did you mean 'revise'?)"));
    run_config_release(&c);
    str_release(&what);
}

/* No DONE: whatever lies there is not a result, and leaves no trace in the one that replaces it. */
static void half_written_is_redone(void **state) {
    (void)state;
    PipelineResult r;
    Str path = {0}, what = {0};
    char before[65], after[65];
    Error err = {0};
    run(&r, alone, "one", "pm", NULL);
    const char *dir = help_stage(&r, "pm")->dir;
    help_sha(before, dir, "model/model.safetensors");
    static const struct {
        const char *file, *text;
    } junk[] = {{"model/model.safetensors", "half a model"},
                {"metrics.jsonl", "{\"step\": 1, \"lo"},
                {"summary.json", "{"},
                {"ledger.json", ""},
                {"manifest.json.tmp-17-0", "x"},
                {"model/model.safetensors.tmp-17-0", "x"}};
    for (int i = 0; i < COUNT_OF(junk); i++) help_write(dir, junk[i].file, junk[i].text);
    str_printf(&path, "%s/state.new/net", dir);
    assert_ok(io_make_dirs(str_get(&path), &err), err);
    help_write(str_get(&path), "model.safetensors", "half a state");
    str_clear(&path);
    str_printf(&path, "%s/DONE", dir);
    unlink(str_get(&path));
    run(&r, alone, "one", "pm", NULL);
    computed(&what, &r);
    assert_string_equal(str_get(&what), "pm");
    help_sha(after, dir, "model/model.safetensors");
    assert_string_equal(before, after);
    assert_false(help_exists(dir, "manifest.json.tmp-17-0") || help_exists(dir, "model/model.safetensors.tmp-17-0"));
    assert_false(help_exists(dir, "state.new") || help_exists(dir, "state"));
    str_release(&path);
    str_release(&what);
}

/* Wrong before anything is computed: nothing may exist afterwards but the run directory. */
static void mistakes_are_found_first(void **state) {
    (void)state;
    static const struct {
        const char *set;
        ErrorCode code;
        const char *says;
    } row[] = {
        {"eval.gates=[\"rl.kl < = 3\"]", ERR_CONFIG, "rl.kl < = 3"},
        {"eval.gates=[\"lr.kl <= 3\"]", ERR_CONFIG, "lr.kl"},
        {"eval.base=nobody", ERR_CONFIG, "nobody"},
        {"pm.n_layer=9", ERR_CONFIG, "pm.n_layer"},
        {"rl.max_new=128", ERR_CONFIG, "rl.max_new"},
        {"revise.critique_tokens=120", ERR_CONFIG, "revise.critique_tokens"},
        {"run.name=../up", ERR_CONFIG, "../up"},
        {"lora.stages=[sl,pretrain]", ERR_CONFIG, "pre-training is of all weights"},
        {"lora.stages=[dpo2]", ERR_CONFIG, "'dpo2' trains no adapter"},
        {"data.pm_gold=[/nowhere.jsonl]", ERR_FORMAT, "/nowhere.jsonl"},
        {"eval.gold=/nowhere", ERR_CONFIG, "eval: the tiny world's gold program is not at /nowhere"},
    };
    char fresh[280], set_out[300];
    snprintf(fresh, sizeof fresh, "%s/fresh", root);
    snprintf(set_out, sizeof set_out, "run.out=%s", fresh);
    for (int i = 0; i < COUNT_OF(row); i++) {
        RunConfig c;
        PipelineResult r;
        Error err = {0};
        help_config(&c, TINY, (const char *const[]){set_out, row[i].set, NULL});
        assert_false(pipeline_run(&r, &c, TINY, NULL, NULL, NULL, &err));
        if (err.code != row[i].code || !strstr(err.msg, row[i].says))
            fail_msg("%s: code %d, %s", row[i].set, err.code, err.msg);
        assert_false(help_exists(fresh, "store"));
        assert_false(help_exists(fresh, "runs")); /* nor is an earlier run's record touched */
        run_config_release(&c);
    }
    const char *const half_ref[] = {set_out, "run.backend=ref", "run.dtype=bf16", NULL};
    RunConfig half;
    PipelineResult none;
    Error why = {0};
    help_config(&half, TINY, half_ref);
    assert_false(pipeline_run(&none, &half, TINY, NULL, NULL, NULL, &why));
    assert_int_equal(why.code, ERR_CONFIG);
    assert_non_null(strstr(why.msg, "run.dtype: backend ref"));
    assert_false(help_exists(help_stage(&none, "world")->dir, "."));
    run_config_release(&half);
    /* The generated constitution is there only after the world: a misspelt principle is still found before training. */
    RunConfig c;
    PipelineResult r;
    Error err = {0};
    help_config(&c, TINY, (const char *const[]){set_out, "constitution.only=[thievery]", NULL});
    assert_false(pipeline_run(&r, &c, TINY, NULL, NULL, NULL, &err));
    assert_int_equal(err.code, ERR_CONFIG);
    assert_non_null(strstr(err.msg, "thievery"));
    assert_false(help_exists(help_stage(&r, "tokenizer")->dir, "."));
    run_config_release(&c);
}

/* -- BF16, adapters
 * ------------------------------------------------------------------------------------------------------------
 */

typedef struct {
    Stop *stop;
    const char *dir; /* of the stage to be stopped */
} Interruption;

/* Called before every system call; never fails one. Stops a stage once its first step is written down. */
static int stop_after_first_step(void *ud, const char *what) {
    Interruption *x = ud;
    struct stat s;
    char path[800];
    (void)what;
    snprintf(path, sizeof path, "%s/metrics.jsonl", x->dir);
    if (stat(path, &s) == 0 && s.st_size > 0) stop_request(x->stop);
    return 0;
}

typedef struct {
    const char *name, *more[4], *stops[2]; /* configuration; stages that are stopped */
    const char *holds, *file;              /* what is in that file of all trained models */
} Resumed;

static void stop_in(const char *stage, const Resumed *c, const char *set_out) {
    RunConfig cfg;
    PipelineResult r;
    Interruption x = {0};
    Error err = {0};
    char dir[sizeof r.stage[0].dir], set_name[64];
    snprintf(set_name, sizeof set_name, "run.name=%s", c->name);
    help_config(&cfg, TINY, (const char *const[]){set_out, set_name, c->more[0], c->more[1], c->more[2], NULL});
    assert_ok(pipeline_keys(&r, &cfg, TINY, &err), err);
    snprintf(dir, sizeof dir, "%s", help_stage(&r, stage)->dir);
    x.dir = dir;
    assert_ok(stop_open(&x.stop, &err), err);
    io_set_fault_hook(stop_after_first_step, &x);
    bool ok = pipeline_run(&r, &cfg, TINY, NULL, NULL, x.stop, &err);
    io_set_fault_hook(NULL, NULL);
    assert_false(ok);
    assert_int_equal(err.code, ERR_STOPPED);
    assert_true(help_exists(dir, "state") && !help_exists(dir, "DONE"));
    stop_close(x.stop);
    run_config_release(&cfg);
}

/* Stopped in two stages, then let run. Returns how many files were compared. */
static int resumes(const Resumed *c) {
    char set_out[300], sha[2][65];
    PipelineResult whole, r;
    int n = 0;
    run(&whole, alone, c->name, NULL, c->more);
    snprintf(set_out, sizeof set_out, "run.out=%s/%s", root, c->name);
    for (int i = 0; i < COUNT_OF(c->stops); i++) stop_in(c->stops[i], c, set_out);
    run(&r, set_out + strlen("run.out="), c->name, NULL, c->more);
    for (int i = 0; i < r.n_stage; i++) {
        static const char *const files[] = {"model/model.safetensors", "adapter/adapter_model.safetensors"};
        for (int k = 0; k < COUNT_OF(files); k++) {
            if (!help_exists(whole.stage[i].dir, files[k])) continue;
            help_sha(sha[0], whole.stage[i].dir, files[k]);
            help_sha(sha[1], r.stage[i].dir, files[k]);
            if (strcmp(sha[0], sha[1]))
                fail_msg("%s: another %s than the undisturbed run's", r.stage[i].name, files[k]);
            if (strcmp(files[k], c->file)) continue;
            char *weights = help_read(r.stage[i].dir, files[k]);
            assert_non_null(strstr(weights + 8, c->holds)); /* behind the header's length */
            free(weights);
            n++;
        }
    }
    char *x = help_read(whole.run_dir, "report.json"), *y = help_read(r.run_dir, "report.json");
    assert_string_equal(x, y);
    free(x);
    free(y);
    return n;
}

static void bf16_resumes(void **state) {
    (void)state;
    static const Resumed half = {"half", {"run.dtype=bf16"}, {"pretrain", "rl"}, "\"BF16\"", "model/model.safetensors"};
    assert_true(resumes(&half) >= 5);
}

/* Of sl, pm and rl; rl's preference and value model stand over its own frozen model. */
static void lora_resumes(void **state) {
    (void)state;
    static const Resumed lora = {"lora",
                                 {"lora.r=3", "lora.stages=[sl,pm,rl]", "sl.epochs=4"},
                                 {"sl", "rl"},
                                 "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight",
                                 "adapter/adapter_model.safetensors"};
    assert_int_equal(resumes(&lora), 3);
}

/* No steps and no epochs: what came in goes out. */
static void taken_over(void **state) {
    (void)state;
    PipelineResult first, r;
    char path[800], sha[2][65];
    run(&first, alone, "first", "pretrain", NULL);
    snprintf(path, sizeof path, "model.path=%s/model", help_stage(&first, "pretrain")->dir);
    run(&r, alone, "taken", "pretrain", (const char *const[]){path, "pretrain.epochs=0", NULL});
    const char *dir = help_stage(&r, "pretrain")->dir;
    assert_string_not_equal(dir, help_stage(&first, "pretrain")->dir);
    help_sha(sha[0], help_stage(&first, "pretrain")->dir, "model/model.safetensors");
    help_sha(sha[1], dir, "model/model.safetensors");
    assert_string_equal(sha[0], sha[1]);
    assert_false(help_exists(dir, "metrics.jsonl"));
}

static int setup(void **state) {
    (void)state;
    help_scratch(root, "pipeline");
    snprintf(shared, sizeof shared, "%s/shared", root);
    snprintf(alone, sizeof alone, "%s/alone", root);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(two_processes_share_a_store),
                                       cmocka_unit_test(again_is_free),
                                       cmocka_unit_test(one_thread_equals_two),
                                       cmocka_unit_test(keys_change_where_they_must),
                                       cmocka_unit_test(remote_judge_keys),
                                       cmocka_unit_test(only_dependents_run_again),
                                       cmocka_unit_test(one_principle_changes),
                                       cmocka_unit_test(only_runs_up_to_a_stage),
                                       cmocka_unit_test(half_written_is_redone),
                                       cmocka_unit_test(mistakes_are_found_first),
                                       cmocka_unit_test(bf16_resumes),
                                       cmocka_unit_test(lora_resumes),
                                       cmocka_unit_test(taken_over)};
    int failed = cmocka_run_group_tests(tests, setup, NULL);
    if (!failed) help_remove(root);
    return failed;
}
