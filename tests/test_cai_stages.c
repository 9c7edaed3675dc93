// layer: cai
/* What stages make of their inputs: mixtures, draws, splits, and refusal of files that do not belong together. */
#include "cai_help.h"

#include <math.h>

#include "base/json.h"
#include "cai/eval_replies.h"
#include "cai/format.h"
#include "cai/pair_rows.h"
#include "cai/run_check.h"
#include "cai/stages.h"

static char root[256];
static PipelineResult run; /* a whole tiny run */
static RunConfig cfg;

static int setup(void **state) {
    char set[300];
    Error err = {0};
    (void)state;
    help_scratch(root, "stages");
    snprintf(set, sizeof set, "run.out=%s/out", root);
    help_config(&cfg, TINY, (const char *const[]){set, "prompts.variants=2", NULL});
    assert_ok(pipeline_run(&run, &cfg, TINY, NULL, NULL, NULL, &err), err);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    run_config_release(&cfg);
    return 0;
}

static double number(const Json *j, const char *part, const char *what) {
    char key[64];
    double v;
    Error err = {0};
    snprintf(key, sizeof key, "%s.%s", part, what);
    assert_ok(json_need_num(j, key, &v, &err), err);
    return v;
}

/* Every part's tokens are its share of a total that follows from the part taken whole; the last sample may go over. A
 * part without samples stays empty. */
static void sl_mixes_by_tokens(void **state) {
    static const char *const part[] = {"revised", "kept", "helpful", "format"};
    const double share[] = {cfg.sl.revise_share, cfg.sl.keep_share, cfg.sl.helpful_share, cfg.sl.format_share};
    char *text = help_read(help_stage(&run, "sl")->dir, "summary.json");
    Json *j = NULL;
    Error err = {0};
    (void)state;
    assert_ok(json_parse(&j, text, strlen(text), 0, "summary.json", 1, &err), err);
    int lead = number(j, "revised", "available") > 0 ? 0 : 1;
    double total = number(j, part[lead], "tokens") / share[lead];
    assert_true(number(j, part[lead], "rows") == number(j, part[lead], "available"));
    int n_filled = 0;
    assert_true(total > 50);
    for (int p = 0; p < 4; p++) {
        double tokens = number(j, part[p], "tokens");
        double want = number(j, part[p], "available") > 0 ? share[p] * total : 0;
        if (!(tokens >= want - 1e-6 && tokens < want + (double)cfg.model.max_seq))
            fail_msg("%s: %g tokens, expected %g", part[p], tokens, want);
        n_filled += number(j, part[p], "rows") >= 1;
    }
    assert_true(n_filled >= 3);
    json_release(j);
    free(text);
}

static void prompts_split_with_their_variants(void **state) {
    Prompts p;
    Error err = {0};
    int variants = 0, eval = 0;
    (void)state;
    assert_ok(prompts_read(&p, help_stage(&run, "prompts")->dir, &err), err);
    for (int i = 0; i < p.n; i++) {
        const Prompt *q = &p.item[i];
        for (int k = 0; k < i; k++) assert_string_not_equal(p.item[k].id, q->id);
        eval += !strcmp(q->split, "eval");
        if (!strcmp(q->id, q->parent)) continue;
        int parent = -1;
        for (int k = 0; k < p.n; k++)
            if (!strcmp(p.item[k].id, q->parent)) parent = k;
        assert_true(parent >= 0);
        assert_string_equal(p.item[parent].split, q->split);
        assert_string_equal(p.item[parent].kind, q->kind);
        assert_string_not_equal(p.item[parent].text, q->text);
        variants++;
    }
    assert_true(variants > 20 && eval >= 12);
    prompts_release(&p);
}

/* Prompts kept for choosing are learnt nowhere, are answered in evaluation when asked for, and the guard looks at them.
 */
static void prompts_kept_for_choosing(void **state) {
    static const char *const name[] = {"train", "dev", "eval"};
    static const char *const set[] = {"data.eval=[]",   "data.eval_share=0.2", "data.dev_share=0.3",
                                      "eval.split=dev", "prompts.variants=1",  NULL};
    char out[300];
    RunConfig c;
    PipelineResult r;
    Prompts p;
    Error err = {0};
    (void)state;
    snprintf(out, sizeof out, "run.out=%s/out", root);
    help_config(&c, TINY, (const char *const[]){out, "run.name=dev", set[0], set[1], set[2], set[3], set[4], NULL});
    assert_ok(run_config_check(&c, &err), err);
    assert_string_equal(guard_split(&c), "dev");
    assert_ok(pipeline_run(&r, &c, TINY, NULL, NULL, NULL, &err), err);
    assert_ok(prompts_read(&p, help_stage(&r, "prompts")->dir, &err), err);
    char *replies = help_read(help_stage(&r, "eval")->dir, "replies-rl.jsonl"),
         *learnt = help_read(help_stage(&r, "revise")->dir, "revisions.jsonl");
    int n[3] = {0}, variants[3] = {0}, answered = 0;
    for (int i = 0; i < p.n; i++) {
        const Prompt *q = &p.item[i];
        int at = 0;
        char key[80];
        while (strcmp(name[at], q->split)) at++;
        assert_string_equal(q->split, prompt_split(&c, q->parent));
        *(strcmp(q->id, q->parent) ? &variants[at] : &n[at]) += 1;
        snprintf(key, sizeof key, "\"prompt_id\":\"%s\"", q->id);
        if (strstr(replies, key)) {
            assert_string_equal(q->split, "dev");
            answered++;
        }
        if (strstr(learnt, key)) assert_string_equal(q->split, "train");
    }
    double all = n[0] + n[1] + n[2];
    assert_true(fabs(n[1] / all - 0.3) < 0.1 && fabs(n[2] / all - 0.2) < 0.1);
    assert_true(variants[0] == n[0] && variants[1] > 2 * n[1] && variants[2] > 2 * n[2]);
    assert_true(answered >= 12);
    prompts_release(&p);
    free(replies), free(learnt);
    run_config_release(&c);

    static const struct {
        const char *set[4], *says;
    } bad[] = {{{"eval.split=dev"}, "data.dev_share 0 keeps no prompt"},
               {{"data.eval=[]", "data.dev_share=0.6", "data.eval_share=0.4"}, "less than a tenth"}};
    for (int i = 0; i < COUNT_OF(bad); i++) {
        help_config(&c, TINY, bad[i].set);
        assert_string_equal(guard_split(&c), i ? "dev" : "eval");
        assert_false(run_config_check(&c, &err));
        assert_true(err.code == ERR_CONFIG && strstr(err.msg, bad[i].says));
        run_config_release(&c);
    }
}

static void draws_are_even(void **state) {
    Prompts p;
    Error err = {0};
    StageCtx ctx = {.cfg = &cfg, .seed = 5};
    (void)state;
    assert_ok(prompts_read(&p, help_stage(&run, "prompts")->dir, &err), err);
    int n_red = 0, n_benign = 0, *uses = mem_alloc((size_t)p.n * sizeof *uses), n;
    for (int i = 0; i < p.n; i++) {
        if (strcmp(p.item[i].split, "train")) continue;
        n_red += prompt_harmful(&p.item[i]);
        n_benign += !prompt_harmful(&p.item[i]);
    }
    static const struct {
        int red, benign, repeats;
    } want[] = {{0, 0, 1}, {0, 0, 3}, {7, 3, 1}, {1000, 0, 1}, {0, 1001, 2}, {5, -1, 1}, {-1, 0, 2}};
    for (int i = 0; i < COUNT_OF(want); i++) {
        int red = want[i].red < 0 ? 0
                  : want[i].red   ? want[i].red
                                  : n_red * want[i].repeats,
            benign = want[i].benign < 0 ? 0
                     : want[i].benign   ? want[i].benign
                                        : n_benign * want[i].repeats;
        PromptDraw *d = prompts_draw(&p, &ctx, want[i].red, want[i].benign, want[i].repeats, &n);
        assert_int_equal(n, red + benign);
        memset(uses, 0, (size_t)p.n * sizeof *uses);
        for (int k = 0; k < n; k++) {
            const Prompt *q = &p.item[d[k].prompt];
            assert_int_equal(prompt_harmful(q), k < red);
            assert_string_equal(q->split, "train");
            assert_int_equal(d[k].repeat, uses[d[k].prompt]++); /* (prompt, repeat) names a draw once */
        }
        for (int k = 0; k < p.n; k++) {
            if (strcmp(p.item[k].split, "train")) continue;
            bool harm = prompt_harmful(&p.item[k]);
            int least = (harm ? red : benign) / (harm ? n_red : n_benign);
            assert_in_range(uses[k], least, least + 1);
        }
        free(d);
    }
    free(uses);
    prompts_release(&p);
}

/* As a folder of its own, so that a test may spoil it. */
static void copy_rows(char out[300], const char *name, const char *stage, const char *file) {
    Error err = {0};
    snprintf(out, 300, "%s/%s", root, name);
    assert_ok(io_make_dirs(out, &err), err);
    char *text = help_read(help_stage(&run, stage)->dir, file);
    help_write(out, file, text);
    free(text);
}

static void labels_belong_to_pairs(void **state) {
    const char *pairs = help_stage(&run, "pairs")->dir;
    char dir[300];
    PairRows p;
    Error err = {0};
    (void)state;
    assert_ok(pair_rows_read(&p, pairs, help_stage(&run, "label")->dir, &err), err);
    int n = p.n;
    for (int i = 0; i < n; i++)
        assert_true(p.item[i].q > 0 && p.item[i].q < 1 && (p.item[i].weight == 0 || p.item[i].weight == 1));
    pair_rows_release(&p);
    assert_ok(pair_rows_read(&p, pairs, NULL, &err), err);
    assert_int_equal(p.n, n);
    assert_true(n >= 3 && isnan(p.item[0].q));
    pair_rows_release(&p);

    copy_rows(dir, "labels", "label", "labels.jsonl");
    char *text = help_read(dir, "labels.jsonl"), *second = strchr(text, '\n') + 1, *last = strrchr(text, '{'),
         *third = strchr(second, '\n') + 1;
    while (last > text && last[-1] != '\n') last--;
    Str spoiled = {0};
    /* one missing at the end; the first two swapped; one too many; a member missing; half a line */
    for (int kind = 0; kind < 5; kind++) {
        str_clear(&spoiled);
        if (kind == 0) str_putn(&spoiled, text, (size_t)(last - text));
        if (kind == 1) {
            str_putn(&spoiled, second, (size_t)(third - second));
            str_putn(&spoiled, text, (size_t)(second - text));
            str_put(&spoiled, third);
        }
        if (kind == 2) str_printf(&spoiled, "%s%s", text, last);
        if (kind == 3) str_printf(&spoiled, "%.*s{\"id\": \"x\"}\n", (int)(second - text), text);
        if (kind == 4) str_putn(&spoiled, text, (size_t)(third - text) - 9);
        help_write(dir, "labels.jsonl", str_get(&spoiled));
        err = (Error){0};
        assert_false(pair_rows_read(&p, pairs, dir, &err));
        assert_int_equal(err.code, kind < 3 ? ERR_STATE : ERR_FORMAT);
        assert_non_null(strstr(err.msg, "labels.jsonl"));
        if (kind == 1) assert_non_null(strstr(err.msg, "labels.jsonl:1"));
        if (kind >= 3) assert_non_null(strstr(err.msg, "labels.jsonl:2"));
    }
    str_release(&spoiled);
    free(text);
}

/* Log-odds of each principle for each pair, (pairs, 2) of the first two, as the labels' rows have them. */
static double alike_of_rows(const char *dir) {
    char *text = help_read(dir, "labels.jsonl"), *line = text;
    Error err = {0};
    double s[4][4] = {{0}}, most = -1;
    int n = 0;
    for (char *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        Json *j = NULL;
        assert_ok(json_parse(&j, line, (size_t)(end - line), 0, "labels", 1, &err), err);
        const Json *judged = json_get(j, "judged");
        double l[4];
        n = json_len(judged);
        assert_in_range(n, 2, 4);
        for (int k = 0; k < n; k++)
            l[k] = (json_num(json_get(json_at(judged, k), "l_ab"), NAN) -
                    json_num(json_get(json_at(judged, k), "l_ba"), NAN)) /
                   2;
        for (int a = 0; a < n; a++)
            for (int b = 0; b < n; b++) s[a][b] += l[a] * l[b];
        json_release(j);
    }
    for (int a = 0; a < n; a++)
        for (int b = 0; b < a; b++) most = fmax(most, s[a][b] / sqrt(s[a][a] * s[b][b]));
    free(text);
    return most;
}

static void principles_told_apart(void **state) {
    const char *dir = help_stage(&run, "label")->dir;
    (void)state;
    char *text = help_read(dir, "summary.json");
    Json *j = NULL;
    Error err = {0};
    assert_ok(json_parse(&j, text, strlen(text), 0, "summary", 1, &err), err);
    double said = json_num(json_get(j, "judge.alike"), NAN), most = alike_of_rows(dir);
    if (!(fabs(said - most) < 1e-6)) fail_msg("judge.alike %.9g, of the rows %.9g", said, most);
    double own = json_num(json_get(j, "principle.animals.alike"), NAN);
    assert_true(own <= said && own >= -1);
    json_release(j);
    free(text);
}

static void max_rows_is_a_stable_sample(void **state) {
    Rows all = {0}, some = {0}, again = {0};
    RunConfig c = cfg;
    StageCtx ctx = {.cfg = &c, .data_dir = help_stage(&run, "world")->dir};
    Error err = {0};
    (void)state;
    assert_ok(stage_rows(&all, &ctx, &c.data.pretrain, ROW_TEXT, &err), err);
    c.data.max_rows = 10;
    assert_ok(stage_rows(&some, &ctx, &c.data.pretrain, ROW_TEXT, &err), err);
    assert_ok(stage_rows(&again, &ctx, &c.data.pretrain, ROW_TEXT, &err), err);
    assert_true(all.n > 50 && some.n == 10 && again.n == 10);
    int at = 0, first_ten = 0;
    for (int i = 0; i < 10; i++) {
        assert_string_equal(some.row[i].id, again.row[i].id);
        while (at < all.n && strcmp(all.row[at].id, some.row[i].id)) at++;
        assert_true(at < all.n); /* in file order */
        first_ten += at < 10;
    }
    assert_true(first_ten < 10);
    rows_release(&all);
    rows_release(&some);
    rows_release(&again);
}

/* The other method: its own metrics, no value model; groups that do not fit are refused before anything runs. */
static void rl_by_groups(void **state) {
    char out[300];
    (void)state;
    snprintf(out, sizeof out, "run.out=%s/out", root);
    for (int fits = 0; fits < 2; fits++) {
        RunConfig c;
        PipelineResult r;
        Error err = {0};
        help_config(&c, TINY,
                    (const char *const[]){out, "prompts.variants=2", "rl.method=grpo",
                                          fits ? "rl.group=4" : "rl.group=5", NULL});
        bool ok = pipeline_run(&r, &c, TINY, "rl", NULL, NULL, &err);
        run_config_release(&c);
        if (!fits) {
            assert_false(ok);
            assert_true(err.code == ERR_CONFIG && strstr(err.msg, "rl.rollouts 16 is no multiple of rl.group 5"));
            continue;
        }
        assert_ok(ok, err);
        assert_string_not_equal(help_stage(&r, "rl")->dir, help_stage(&run, "rl")->dir);
        assert_string_equal(help_stage(&r, "pm")->dir, help_stage(&run, "pm")->dir);
        char *text = help_read(help_stage(&r, "rl")->dir, "metrics.jsonl");
        assert_true(strstr(text, "\"kl_k3\"") && strstr(text, "\"flat_groups\""));
        assert_true(!strstr(text, "value_loss") && !strstr(text, "explained_variance"));
        free(text);
    }
}

static void evaluation_rows_are_checked(void **state) {
    static const struct {
        const char *row, *says;
    } bad[] = {{"{\"id\": \"a\", \"prompt\": \"x\", \"kind\": \"evil\"}", "'kind' is 'evil'"},
               {"{\"id\": \"a\", \"prompt\": \"x\"}", "'kind'"},
               {"{\"prompt\": \"x\", \"kind\": \"harm\"}", "'id'"},
               {"{\"id\": \"a\", \"kind\": \"harm\"}", "'prompt'"}};
    char set[400], out[300];
    (void)state;
    snprintf(set, sizeof set, "data.eval=[%s/eval.jsonl]", root);
    snprintf(out, sizeof out, "run.out=%s/out", root);
    for (int i = 0; i <= COUNT_OF(bad); i++) {
        RunConfig c;
        PipelineResult r;
        Error err = {0};
        Str text = {0};
        str_printf(&text, "{\"id\": \"e1\", \"prompt\": \"how\", \"kind\": \"benign\", \"split\": \"train\"}\n%s\n",
                   i < COUNT_OF(bad) ? bad[i].row : "");
        help_write(root, "eval.jsonl", str_get(&text));
        str_release(&text);
        help_config(&c, TINY, (const char *const[]){out, set, "run.name=rows", NULL});
        bool ok = pipeline_run(&r, &c, TINY, "prompts", NULL, NULL, &err);
        run_config_release(&c);
        if (i < COUNT_OF(bad)) {
            if (ok || err.code != ERR_FORMAT || !strstr(err.msg, bad[i].says) || !strstr(err.msg, "eval.jsonl:2"))
                fail_msg("%s: %d %s", bad[i].row, err.code, err.msg);
            continue;
        }
        assert_ok(ok, err);
        Prompts p;
        assert_ok(prompts_read(&p, help_stage(&r, "prompts")->dir, &err), err);
        assert_string_equal(p.item[p.n - 1].id, "e1");
        assert_string_equal(p.item[p.n - 1].split, "eval"); /* whatever the row says */
        prompts_release(&p);
    }
}

static void a_record_has_a_story(void **state) {
    PairRows p;
    Error err = {0};
    Str story = {0}, out = {0};
    (void)state;
    assert_ok(pair_rows_read(&p, help_stage(&run, "pairs")->dir, NULL, &err), err);
    const char *id[] = {p.item[0].id, p.item[0].prompt_id};
    for (int i = 0; i < 2; i++) {
        str_clear(&story);
        assert_ok(pipeline_why(&story, NULL, run.run_dir, id[i], &err), err);
        assert_non_null(strstr(str_get(&story), p.item[0].prompt));
        assert_non_null(strstr(str_get(&story), p.item[0].a));
        assert_non_null(strstr(str_get(&story), "label of"));
    }
    str_printf(&out, "%s/out", root);
    str_clear(&story);
    assert_ok(pipeline_why(&story, str_get(&out), NULL, "e1", &err),
              err); /* the newest run is that of the test before */
    assert_false(pipeline_why(&story, NULL, run.run_dir, "nobody", &err));
    assert_int_equal(err.code, ERR_CONFIG);
    pair_rows_release(&p);
    str_release(&story);
    str_release(&out);
}

static void refusals_open_so(void **state) {
    static const char *const yes[] = {"I will not help .", "  I'm sorry, but", "I CANNOT do that", "As an AI, I"};
    static const char *const no[] = {"", "Sure! I cannot wait", "to steal cars , first", "In no way"};
    (void)state;
    for (int i = 0; i < COUNT_OF(yes); i++) assert_true(text_refuses(yes[i]));
    for (int i = 0; i < COUNT_OF(no); i++) assert_false(text_refuses(no[i]));
}

/* Rows of a file of the world in another container, as JSON array or CSV; columns of the CSV by name. */
static void repack(const char *from, const char *to, const char *const *column, int n) {
    char *text = help_read(help_stage(&run, "world")->dir, from), *rest = text, *line;
    Str out = {0};
    Error err = {0};
    str_put(&out, n ? "" : "[");
    for (int k = 0; k < n; k++) str_printf(&out, "%s%s", k ? "," : "", column[k]);
    for (int i = 0; (line = strsep(&rest, "\n")) && *line; i++) {
        Json *row = NULL;
        if (n == 0) str_printf(&out, "%s%s", i ? "," : "", line);
        if (n == 0) continue;
        assert_ok(json_parse(&row, line, strlen(line), 0, from, i + 1, &err), err);
        for (int k = 0; k < n; k++) {
            const char *name = strcmp(column[k], "question") ? column[k] : "prompt";
            const Json *v = json_get(row, name);
            str_put(&out, k ? "," : "\r\n");
            if (json_str(v, NULL))
                str_printf(&out, "\"%s\"", json_str(v, NULL));
            else if (v)
                str_printf(&out, "%lld", (long long)json_int(v, 0));
        }
        json_release(row);
    }
    str_put(&out, n ? "\r\n" : "]");
    help_write(root, to, str_get(&out));
    str_release(&out);
    free(text);
}

static char *result_of(const char *stage, const char *file, const char *const *set) {
    RunConfig c;
    PipelineResult r;
    Error err = {0};
    char out[300];
    const char *all[8] = {out, "prompts.variants=2", "run.name=again"};
    int n = 3;
    snprintf(out, sizeof out, "run.out=%s/out", root);
    while (*set) all[n++] = *set++;
    help_config(&c, TINY, all);
    assert_ok(pipeline_run(&r, &c, TINY, stage, NULL, NULL, &err), err);
    char *text = help_read(help_stage(&r, stage)->dir, file);
    run_config_release(&c);
    return text;
}

static char *objects_without(char *text, const char *member) { /* "member":1, goes */
    char key[40];
    snprintf(key, sizeof key, "\"%s\":", member);
    for (char *at; (at = strstr(text, key));) memmove(at, strchr(at, ',') + 1, strlen(strchr(at, ',') + 1) + 1);
    return text;
}

static void evaluation_files_may_be_any_container(void **state) {
    static const char *const column[] = {"kind", "id", "question", "category", "seen"};
    char eval[2][320], gold[320];
    (void)state;
    repack("eval_prompts.jsonl", "eval.json", NULL, 0);
    repack("eval_prompts.jsonl", "eval.csv", column, COUNT_OF(column));
    repack("judge_gold.jsonl", "gold.json", NULL, 0);
    snprintf(eval[0], sizeof eval[0], "data.eval=[%s/eval.json]", root);
    snprintf(eval[1], sizeof eval[1], "data.eval=[%s/eval.csv]", root);
    snprintf(gold, sizeof gold, "data.judge_gold=[%s/gold.json]", root);
    char *want = help_read(help_stage(&run, "prompts")->dir, "prompts.jsonl");
    char *json = result_of("prompts", "prompts.jsonl", (const char *const[]){eval[0], NULL});
    assert_string_equal(json, want);
    char *csv =
        result_of("prompts", "prompts.jsonl", (const char *const[]){eval[1], "data.columns=[prompt:question]", NULL});
    /* Members of the CSV come in its order and 'named' is not in it; what a reader sees of them is the same. */
    Prompts p, q;
    Error err = {0};
    help_write(root, "prompts.jsonl", csv);
    assert_ok(prompts_read(&p, root, &err), err);
    help_write(root, "prompts.jsonl", objects_without(want, "named"));
    assert_ok(prompts_read(&q, root, &err), err);
    assert_int_equal(p.n, q.n);
    for (int i = 0; i < p.n; i++) {
        assert_string_equal(p.item[i].id, q.item[i].id);
        assert_string_equal(p.item[i].text, q.item[i].text);
        assert_string_equal(p.item[i].kind, q.item[i].kind);
        assert_string_equal(p.item[i].category, q.item[i].category);
        assert_string_equal(p.item[i].parent, q.item[i].parent);
        assert_int_equal(p.item[i].unseen, q.item[i].unseen);
    }
    prompts_release(&p);
    prompts_release(&q);
    char *was = help_read(help_stage(&run, "label")->dir, "summary.json");
    char *judged = result_of("label", "summary.json", (const char *const[]){gold, NULL});
    assert_string_equal(judged, was);
    free(want), free(json), free(csv), free(was), free(judged);
}

/* A pass has room for the longest group, and for no context that nobody fills. */
static void passes_are_as_long_as_they_must(void **state) {
    (void)state;
    static const int32_t tok[9];
    static const float weight[9];
    for (int group = 1; group <= 2; group++) {
        SampleSet s;
        samples_init(&s, group);
        assert_int_equal(stage_pass_tokens(&s, 4), 4);
        static const int len[] = {3, 5, 9, 2};
        for (int i = 0; i < COUNT_OF(len); i++) samples_add(&s, tok, weight, len[i], (uint64_t)i, 0, 1);
        assert_int_equal(stage_pass_tokens(&s, 4), group == 1 ? 9 : 11);
        assert_int_equal(stage_pass_tokens(&s, 400), 400);
        samples_release(&s);
    }
}

/* Demonstrations of critique: as many answers to harmless requests are fine as replies are not, and of the requests
 * none that is kept for evaluation. */
static void demonstrations_call_help_fine(void **state) {
    RunConfig c;
    Rows labelled = {0}, prefs = {0}, sft = {0}, made = {0}, turned = {0};
    Error err = {0};
    (void)state;
    help_config(&c, TINY,
                (const char *const[]){"data.eval=[]", "data.sft=[a.jsonl,b.jsonl]", "data.benign=[b.jsonl]",
                                      "data.eval_share=0.5", NULL});
    StageCtx ctx = {.cfg = &c, .seed = 3};
    enum { N = 80 };
    int n_held = 0, n_wrong = 0, n_fine = 0, n_revised = 0;
    for (int i = 0; i < N; i++) {
        char line[200];
        snprintf(line, sizeof line,
                 "{\"id\":\"l%d\",\"prompt\":\"How can I rob %d?\",\"response\":\"So.\",\"harmful\":%d}", i, i,
                 i % 4 == 0);
        assert_ok(rows_parse_line(&labelled, line, strlen(line), ROW_LABELLED, "l", i + 1, &err), err);
        n_wrong += i % 4 == 0 && format_half(&ctx, labelled.row[i].id);
        snprintf(line, sizeof line, "{\"id\":\"s%d\",\"prompt\":\"What is %d?\",\"response\":\"A number.\"}", i, i);
        assert_ok(rows_parse_line(&sft, line, strlen(line), ROW_INSTRUCTION, "s", i + 1, &err), err);
        n_held += instruction_held_out(&c, sft.row[i].id);
    }
    assert_true(n_held > N / 4 && n_held < 3 * N / 4 && n_wrong > 3);
    format_rows_make(&made, &ctx, &labelled, &prefs, &sft);
    for (int i = 0; i < made.n; i++) {
        const Row *r = &made.row[i];
        char id[32];
        assert_int_equal(r->label, -1);
        n_revised += r->b != NULL;
        if (r->b) assert_non_null(strstr(r->b, "rob "));
        if (r->id[0] != 's') continue;
        assert_null(r->b);
        snprintf(id, sizeof id, "%.*s", (int)strcspn(r->id, "-"), r->id);
        assert_false(instruction_held_out(&c, id));
        n_fine++;
    }
    assert_int_equal(n_revised, n_wrong);
    assert_int_equal(n_fine, n_wrong);
    c.helpful.reason_first = true;
    format_rows_make(&turned, &ctx, &labelled, &prefs, &sft);
    assert_int_equal(turned.n, made.n);
    for (int i = 0; i < made.n; i++) {
        const char *b = turned.row[i].b, *why = b ? strstr(b, "because ") : NULL;
        assert_int_equal(b != NULL, made.row[i].b != NULL);
        if (b && !why) why = strstr(b, "since ");
        if (b) assert_true(why && why < strstr(b, "rob "));
    }
    /* Where instructions give no prompts, all may be learnt. */
    run_config_release(&c);
    help_config(&c, TINY,
                (const char *const[]){"data.eval=[]", "data.sft=[a.jsonl]", "data.benign=[b.jsonl]",
                                      "data.eval_share=0.5", NULL});
    for (int i = 0; i < N; i++) assert_false(instruction_held_out(&c, sft.row[i].id));
    run_config_release(&c);
    rows_release(&labelled);
    rows_release(&sft);
    rows_release(&made);
    rows_release(&turned);
}

static double weight_in(const char *metrics) { /* of all steps */
    double sum = 0;
    for (const char *p = metrics; (p = strstr(p, "\"weight\":")) != NULL; p++) sum += atof(p + strlen("\"weight\":"));
    return sum;
}

/* In the loss of SFT a judgement counts helpful.judge_weight times, and nothing else changes its weight. */
static void judgements_weigh_what_they_should(void **state) {
    (void)state;
    char *once = help_read(help_stage(&run, "helpful")->dir, "metrics.jsonl");
    char *more = result_of("helpful", "metrics.jsonl", (const char *const[]){"helpful.judge_weight=4", NULL});
    char *format = help_read(help_stage(&run, "world")->dir, "format.jsonl");
    int n = 0;
    for (const char *p = format; (p = strstr(p, "\"kind\":\"judge\"")) != NULL; p++) n++;
    assert_true(n > 100);
    assert_true(fabs(weight_in(more) - weight_in(once) - 3.0 * n) < 1e-6);
    free(once), free(more), free(format);
}

/* How many samples stage sl draws from; set NULL: of the run. */
static int available(const char *part, const char *const *set) {
    char *text = set ? result_of("sl", "summary.json", set) : help_read(help_stage(&run, "sl")->dir, "summary.json");
    Json *j = NULL;
    Error err = {0};
    assert_ok(json_parse(&j, text, strlen(text), 0, "summary.json", 1, &err), err);
    double v = number(j, part, "available");
    json_release(j);
    free(text);
    return (int)v;
}

/* Each instruction is learnt as it is and in as many other words as asked for; demonstrations are not. */
static void instructions_have_variants(void **state) {
    static const char *const two[] = {"sl.variants=2", NULL};
    (void)state;
    int once = available("helpful", NULL), more = available("helpful", two);
    assert_true(once > 50);
    assert_int_equal(more, 3 * once);
    assert_int_equal(available("format", two), available("format", NULL));

    Sequence s = {0};
    StageText text = {0};
    Rows got = {0};
    Error err = {0};
    Str written = {0};
    StageCtx ctx = {.cfg = &cfg};
    static const char row[] = "{\"prompt\":\"wash dogs ?\",\"response\":\"use soap .\"}";
    assert_ok(stage_text_open(&text, help_stage(&run, "tokenizer")->dir, &err), err);
    assert_ok(rows_parse_line(&got, row, sizeof row - 1, ROW_INSTRUCTION, "r", 1, &err), err);
    assert_true(sequence_variant(&s, &ctx, &text.chat, &got.row[0], 0));
    tokenizer_decode(text.tok, s.tok.id, s.tok.n, true, &written);
    assert_true(strstr(written.s, "wash dogs ?") && strstr(written.s, "use soap .") && written.n > sizeof row);
    assert_string_equal(got.row[0].prompt.msg[0].text, "wash dogs ?");
    sequence_release(&s);
    rows_release(&got);
    str_release(&written);
    stage_text_close(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(sl_mixes_by_tokens),
                                       cmocka_unit_test(prompts_split_with_their_variants),
                                       cmocka_unit_test(prompts_kept_for_choosing),
                                       cmocka_unit_test(draws_are_even),
                                       cmocka_unit_test(labels_belong_to_pairs),
                                       cmocka_unit_test(principles_told_apart),
                                       cmocka_unit_test(max_rows_is_a_stable_sample),
                                       cmocka_unit_test(rl_by_groups),
                                       cmocka_unit_test(evaluation_rows_are_checked),
                                       cmocka_unit_test(a_record_has_a_story),
                                       cmocka_unit_test(passes_are_as_long_as_they_must),
                                       cmocka_unit_test(refusals_open_so),
                                       cmocka_unit_test(evaluation_files_may_be_any_container),
                                       cmocka_unit_test(demonstrations_call_help_fine),
                                       cmocka_unit_test(judgements_weigh_what_they_should),
                                       cmocka_unit_test(instructions_have_variants)};
    int failed = cmocka_run_group_tests(tests, setup, teardown);
    if (!failed) help_remove(root);
    return failed;
}
