// layer: app
/* From an empty folder: a recipe, a run, its name, what is stored and what may go; completion, pages for man, schema.
 * Lines are given to a shell, as a person would; the program's folder stands in PATH. */
#include "cai_help.h"

#include <signal.h>
#include <time.h>

#include "app/command.h"
#include "app/complete.h"
#include "app/recipes.h"
#include "base/json.h"
#include "cai/run_config.h"

static char root[256];

typedef struct {
    int code;
    Str out, err;
} Ran;

static pid_t shell(const char *line) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child > 0) return child;
    char path[4096];
    const char *before = getenv("PATH");
    snprintf(path, sizeof path, BUILD_DIR ":%s", before ? before : "/bin:/usr/bin");
    setenv("PATH", path, 1);
    if (chdir(root) || !freopen("said", "w", stderr) || !freopen("printed", "w", stdout)) _exit(126);
    execl("/bin/sh", "sh", "-c", line, (char *)NULL);
    _exit(127);
}

static Ran sh(const char *line) {
    Ran r = {.code = help_wait(shell(line))};
    r.out.s = help_read(root, "printed");
    r.err.s = help_read(root, "said");
    r.out.n = strlen(r.out.s);
    r.err.n = strlen(r.err.s);
    return r;
}

static void ran_release(Ran *r) {
    str_release(&r->out);
    str_release(&r->err);
}

/* What is to be printed or said, or, after a '!', not. */
static void check_text(const char *line, const char *text, const char *want) {
    bool no = want[0] == '!';
    if (!strstr(text, want + no) == !no)
        fail_msg("%s: %s '%s' in: %s", line, no ? "unexpected" : "expected", want + no, text);
}

/* out "": nothing is printed. */
static void expect(const char *line, int code, const char *out, const char *err) {
    Ran r = sh(line);
    if (r.code != code) fail_msg("%s: code %d, expected %d: %s", line, r.code, code, str_get(&r.err));
    if (out && !*out && r.out.n) fail_msg("%s: printed %s", line, str_get(&r.out));
    if (out) check_text(line, str_get(&r.out), out);
    if (err) check_text(line, str_get(&r.err), err);
    ran_release(&r);
}

static Json *json_of(const char *line) {
    Json *j = NULL;
    Error err = {0};
    Ran r = sh(line);
    if (r.code) fail_msg("%s: code %d: %s", line, r.code, str_get(&r.err));
    assert_ok(json_parse(&j, r.out.s, r.out.n, 0, line, 1, &err), err);
    ran_release(&r);
    return j;
}

static const char *member(const Json *j, const char *key) {
    const char *s = json_str(json_get(j, key), NULL);
    return s ? s : "(absent)";
}

/* The member of an array whose "name" begins so. */
static const Json *named(const Json *list, const char *name) {
    for (int i = 0; i < json_len(list); i++)
        if (!strncmp(member(json_at(list, i), "name"), name, strlen(name))) return json_at(list, i);
    return NULL;
}

/* -- init */

static void recipes_are_written(void **state) {
    (void)state;
    expect("dikast init", 0, "quickstart ", "conf/NAME.yaml");
    expect("dikast init quikstart", 2, NULL, "did you mean 'quickstart'");
    for (int i = 0; recipes[i].name; i++) {
        char line[200], file[100];
        snprintf(line, sizeof line, "rm -rf conf; dikast init %s", recipes[i].name);
        snprintf(file, sizeof file, "conf/%s", recipes[i].file[0]);
        expect(line, 0, file, "dikast run conf/");
        expect(strchr(line, ';') + 2, 0, "", "there already");
        char *ours = help_read(TEST_DIR "/..", file), *theirs = help_read(root, file);
        assert_string_equal(ours, theirs);
        free(ours);
        free(theirs);
        snprintf(line, sizeof line, "dikast config %s", file);
        expect(line, 0, "run:", NULL);
    }
    expect("dikast init real", 0, "", "data.dir=FOLDER");
    expect("echo mine > conf/real.yaml; dikast init real", 2, "!conf", "conf/real.yaml is there already");
    expect("rm conf/constitution.json; dikast init real; ls conf; cat conf/real.yaml", 0, "mine",
           "nothing was written");
    expect("rm conf/real.yaml; test ! -e conf/constitution.json && dikast init real", 0, "conf/constitution.json",
           NULL);
    expect("mkdir none && chmod 500 none && cd none && { test -w . || dikast init tiny; rc=$?; test -w . || exit $rc; "
           "exit 4; }",
           4, "!conf", NULL);
    expect("dikast init tiny -q && dikast init tiny --json", 0, "\"written\":false", NULL);
}

/* -- a run's name. Only the first stages: they take a moment. */

#define RUN "dikast run conf/tiny.yaml --only prompts world.sft_rows=300"

static void another_configuration_is_refused(void **state) {
    (void)state;
    expect(RUN, 0, NULL, NULL);
    expect("sed -n 's/.*\"state\": //p' out/runs/tiny/stages.json | sort | uniq -c", 0, "2 \"done\"", NULL);
    expect(RUN, 0, NULL, "!done in");
    expect(RUN " run.threads=1 eval.gates=[]", 0, NULL, NULL); /* nothing that could change results */
    char *before = help_read(root, "out/runs/tiny/resolved.yaml");
    expect(RUN " rl.beta=0.3", 2, NULL, "rl.beta 0.2 -> 0.3");
    expect(RUN " rl.beta=0.3", 2, NULL, "--name NAME");
    expect("dikast stage prompts conf/tiny.yaml world.sft_rows=300 rl.beta=0.3", 2, NULL, "--replace");
    expect("dikast launch -- run conf/tiny.yaml --only prompts", 2, NULL, "world.sft_rows 300 -> 1500");
    char *after = help_read(root, "out/runs/tiny/resolved.yaml");
    assert_string_equal(before, after);
    free(before);
    free(after);
    expect(RUN " rl.beta=0.3 --name other", 0, NULL, NULL);
    expect("ls out/runs", 0, "other\ntiny", NULL);
    expect(RUN " rl.beta=0.3 --replace", 0, NULL, NULL);
    expect(RUN, 2, NULL, "rl.beta 0.3 -> 0.2");
    /* What failed is in nobody's way, and says so; what was killed can go on. */
    expect("echo 'running: world' > out/runs/tiny/STATUS; " RUN, 2, NULL, "rl.beta");
    expect("echo 'failed: world: no space' > out/runs/tiny/STATUS; " RUN " -v", 0, NULL,
           "changed since: rl.beta 0.3 -> 0.2");
    /* A key that an older version did not know is no difference. */
    expect("sed -i '/beta:/d' out/runs/tiny/resolved.yaml; " RUN " rl.beta=0.4", 0, NULL, NULL);
    expect(RUN " --replace", 0, NULL, NULL);
}

/* -- ls */

static void only_what_no_run_uses_goes(void **state) {
    (void)state;
    expect("cd conf && dikast ls", 0, "", "no runs yet");
    expect("dikast ls nowhere", 4, "", "nowhere: no such folder");
    expect("dikast ls conf", 2, "", "neither runs/ nor store/");
    expect("dikast ls --dry-run", 2, "", "goes with --prune");
    expect("dikast run conf/tiny.yaml -q --only world world.sft_rows=200 --name third", 0, NULL, NULL);
    Json *j = json_of("dikast ls --json");
    const Json *runs = json_get(j, "runs"), *stored = json_get(j, "stages");
    assert_int_equal(json_len(runs), 3);
    assert_string_equal(member(named(runs, "tiny"), "state"), "done");
    assert_true(json_num(json_get(named(runs, "tiny"), "bytes"), 0) > 1000);
    if (json_len(stored) != 3)
        fail_msg("%d stages",
                 json_len(stored)); /* two of tiny, the world of third; of stages to come there is no folder */
    const Json *used = json_get(named(stored, "prompts"), "runs");
    assert_int_equal(json_len(used), 2);
    assert_string_equal(json_str(json_at(used, 0), NULL), "other");
    json_release(j);
    expect("dikast ls out/store", 0, "used by", "3 runs; 3 stages");
    expect("touch -d '75 hours ago' out/runs/tiny/STATUS && dikast ls", 0, "done                    3 days 03 h", NULL);
    expect("dikast ls --prune", 0, "", "removed 0 of 3");
    /* Used by what a configuration reads, and by who is at work. */
    expect("rm -r out/runs/third; dikast ls", 0, "no run", "no run uses 1 of them");
    expect("w=$(ls -td out/store/world-* | head -n 1); mkdir out/runs/reads; echo \"data: {dir: $w}\" > "
           "out/runs/reads/resolved.yaml; "
           "dikast ls --prune; rm -r out/runs/reads",
           0, "", "removed 0 of 3");
    IoLock work;
    Error err = {0};
    Ran r = sh("ls -td $PWD/out/store/world-* | head -n 1");
    Str path = {0};
    str_printf(&path, "%.*s/.lock", (int)strcspn(str_get(&r.out), "\n"), str_get(&r.out));
    assert_ok(io_lock(&work, str_get(&path), &err), err);
    assert_true(io_locked(str_get(&path)));
    expect("dikast ls --prune --dry-run", 0, "", "would remove 0 of 3");
    expect("dikast ls --prune", 0, "", "stays: a process works on it");
    io_unlock(&work);
    assert_false(io_locked(str_get(&path)));
    str_release(&path);
    ran_release(&r);
    expect("dikast ls --prune --dry-run; ls out/store | wc -l", 0, "3\n", "would remove 1 of 3");
    expect("dikast ls --prune; ls -A out/store | wc -l", 0, "2\n", "removed 1 of 3");
    expect(RUN, 0, NULL, "!done in");
}

/* Whatever the moment, a stage is there whole or not at all, and the next prune ends what this one began. */
static void killed_while_pruning(void **state) {
    (void)state;
    static const char make[] = "for s in a b c d; do mkdir -p out/store/pm-$s/model; touch out/store/pm-$s/DONE; "
                               "for f in 1 2 3 4 5 6 7 8 9; do echo x > out/store/pm-$s/model/$f; done; done";
    static const char whole[] =
        "for d in out/store/pm-*; do test ! -e $d || test $(ls $d/model $d/DONE | wc -l) -eq 12 || echo broken; done";
    for (int i = 0; i < 6; i++) {
        expect(make, 0, NULL, NULL);
        pid_t child = shell("exec dikast ls --prune");
        nanosleep(&(struct timespec){0, 1500000 * (i + 1)}, NULL);
        kill(child, SIGKILL);
        help_wait(child);
        expect(whole, 0, "!broken", NULL);
    }
    expect("mkdir out/store/.pruned-pm-e; echo x > out/store/.pruned-pm-e/1; dikast ls", 0, "!.pruned", "frees");
    expect("dikast ls --prune; ls -A out/store | wc -l", 0, "2\n", NULL);
}

static void killed_runs_keep_what_they_use(void **state) {
    (void)state;
    pid_t child = shell("exec dikast run conf/tiny.yaml -q world.sft_rows=3000000 --name long");
    for (int i = 0; i < 1000 && !help_exists(root, "out/runs/long/STATUS"); i++)
        nanosleep(&(struct timespec){0, 5000000}, NULL);
    expect("dikast ls", 0, "running in world", NULL);
    expect(RUN " --name long", 2, NULL, "another dikast is working in");
    expect("dikast ls --prune", 0, "", "removed 0 of 3");
    kill(child, SIGKILL);
    help_wait(child);
    expect("dikast ls", 0, "killed in world", NULL);
    expect("dikast ls --prune", 0, "", "removed 0 of 3");
    expect(RUN " --name long", 2, NULL, "holds a run of another configuration");
    /* A run that begins while somebody looks through the store waits, and is not refused. */
    IoLock look;
    Error err = {0};
    Str path = {0};
    str_printf(&path, "%s/out/.lock", root);
    assert_ok(io_lock(&look, str_get(&path), &err), err);
    child = shell("exec " RUN);
    nanosleep(&(struct timespec){0, 200000000}, NULL);
    assert_int_equal(waitpid(child, NULL, WNOHANG), 0);
    io_unlock(&look);
    assert_int_equal(help_wait(child), 0);
    str_release(&path);
}

/* -- completion */

static void offered(Str *out, const char *line) {
    char copy[200];
    const char *word[32] = {0};
    int n = 0;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *at = copy; at; n++) {
        word[n] = at;
        at = strchr(at, ' ');
        if (at) *at++ = 0;
    }
    str_clear(out);
    str_putc(out, '\n');
    complete(out, word, n);
}

static void words_are_offered(void **state) {
    (void)state;
    static const struct {
        const char *line, *want[3], *unlike;
    } row[] = {
        {"", {"\nrun\t", "\nhelp\t", "\ninit\t"}, ":files"},
        {"ru", {"\nrun\t"}, "\nreport\t"},
        {"run ", {"\n:files\n"}, "\nrl."},
        {"run conf/a.yaml r", {"\nrun.\t", "\nrl.\t", "\nrevise.\t"}, ":files"},
        {"run a.yaml rl.lr=1 pm", {"\npm.\t"}, "\npm.lr"},
        {"run a.yaml rl.", {"\nrl.beta=\t", "\nrl.guard.every="}, "\npm."},
        {"run a.yaml rl.method=", {"\nrl.method=ppo\t", "\nrl.method=dpo\t"}, "\nppo"},
        {"run a.yaml model.tied=t", {"\nmodel.tied=true\t"}, "false"},
        {"run a.yaml data.dir=co", {"\n:files\n"}, NULL},
        {"run a.yaml rl.lr=", {"\n"}, ":files"},
        {"run a.yaml ~rl.lr", {"\n~rl.lr\t"}, "="},
        {"run a.yaml --only p", {"\nprompts\t", "\npm\t"}, "\nsl\t"},
        {"run a.yaml --only=p", {"\n--only=prompts\t", "\n--only=pm\t"}, "\nprompts"},
        {"run --n", {"\n--name\t"}, "--only"},
        {"run --name x ", {"\n:files\n"}, NULL},
        {"run a.yaml --", {"\n--json\t", "\n--replace\t"}, NULL},
        {"stage ", {"\nworld\t", "\neval\t"}, ":files"},
        {"stage pm ", {"\n:files\n"}, NULL},
        {"data i", {"\ninspect\t"}, "\nshow"},
        {"data inspect ", {"\n:files\n"}, NULL},
        {"data inspect f ", {"\n"}, ":files"},
        {"ckpt ls d ", {"\n"}, ":files"},
        {"ckpt reshard d ", {"\n:files\n"}, NULL},
        {"score m ", {"\n:files\n"}, NULL},
        {"compare a b c ", {"\n:files\n"}, NULL},
        {"export m o --to ", {"\nhf\t", "\ngguf\t", "\nlora\t"}, ":files"},
        {"generate m --device ", {"\ncpu\t", "\ncuda\t"}, ":files"},
        {"launch ", {"\n--\t"}, ":files"},
        {"launch -n 2 -- r", {"\nrun\t", "\nreplay\t"}, NULL},
        {"launch -- run a.yaml run.thr", {"\nrun.threads=\t"}, NULL},
        {"plan ", {"\n:files\n"}, NULL},
        {"config d", {"\ndiff\t"}, "\nschema"},
        {"config diff a ", {"\n:files\n", "\nrl.\t"}, NULL},
        {"init ", {"\ntiny\t", "\nreal\t"}, ":files"},
        {"completion ", {"\nbash\t", "\nzsh\t", "\nfish\t"}, NULL},
        {"help ", {"\nrun\t", "\nrl.\t"}, ":files"},
        {"help rl.bet", {"\nrl.beta\t"}, "="},
        {"nonsense ", {"\n"}, "\t"},
    };
    Str out = {0};
    for (int i = 0; i < COUNT_OF(row); i++) {
        offered(&out, row[i].line);
        for (int k = 0; k < 3 && row[i].want[k]; k++) check_text(row[i].line, str_get(&out), row[i].want[k]);
        if (row[i].unlike && strstr(str_get(&out), row[i].unlike))
            fail_msg("'%s' offers '%s': %s", row[i].line, row[i].unlike, str_get(&out));
    }
    /* Every usage line can be read: something is offered where an argument must stand. */
    for (int i = 0; commands[i]; i++) {
        char line[100];
        snprintf(line, sizeof line, "%s ", commands[i]->name);
        offered(&out, line);
        if (commands[i]->min_arg > 0 && out.n < 2 && strcmp(commands[i]->name, "why"))
            fail_msg("nothing is offered behind '%s'; usage: %s", line, commands[i]->usage);
    }
    str_release(&out);
}

/* -- pages, schema, differences */

static int count_leaves(const Json *section) {
    const Json *properties = json_get(section, "properties"), *value;
    int n = 0;
    if (!properties) return 1;
    for (int i = 0; i < json_len(properties); i++) {
        if (!strcmp(json_key_at(properties, i, &value), "extends")) continue;
        n += count_leaves(value);
    }
    return n;
}

static void tables_become_pages(void **state) {
    (void)state;
    expect("dikast help --man", 0, ".SH EXIT STATUS", NULL);
    expect("dikast help run --man", 0, "\\fB\\-\\-only\\fR \\fISTAGE\\fR", NULL);
    expect("for c in $(dikast help --commands); do dikast help $c --man; done | grep -c '^.TH'", 0, NULL, NULL);
    expect("command -v groff >/dev/null || exit 0; for c in $(dikast help --commands) ''; do dikast help $c --man | "
           "groff -man -ww -Tutf8 >/dev/null; done",
           0, NULL, "!warning");
    expect("dikast help run nonsense", 2, "", "unexpected argument 'nonsense'");
    Json *j = json_of("dikast config schema");
    assert_int_equal(count_leaves(j), run_key_count);
    const Json *beta = json_get(json_get(json_get(json_get(j, "properties"), "rl"), "properties"), "beta");
    assert_true(json_num(json_get(beta, "default"), 0) == 0.05);
    assert_true(json_num(json_get(json_at(json_get(beta, "anyOf"), 0), "maximum"), 0) == 100);
    json_release(j);
    expect("dikast config diff conf/quickstart.yaml rl.beta=0.3 run.threads=1", 0,
           "run.threads: 0 -> 1  (runtime)\nrl.beta: 0.2 -> 0.3  (result)\n", NULL);
    expect("dikast config diff conf/quickstart.yaml conf/tiny.yaml --json", 0,
           "{\"key\":\"model.d_model\",\"a\":\"96\",\"b\":\"32\"", NULL);
    expect("dikast config diff conf/tiny.yaml conf/tiny.yaml", 0, "", "same value");
    expect("dikast config diff conf/tiny.yaml", 2, "", "config diff A B");
    expect("dikast config conf/tiny.yaml > plain && dikast config show conf/tiny.yaml > shown && sed 's/  #.*//' shown "
           "| cmp - plain",
           0, NULL, NULL);
    expect("DIKAST_SET_rl__clip=2 dikast config show conf/tiny.yaml rl.lr=1e-5 ~rl.steps", 0,
           "\n  d_model: 32  # conf/tiny.yaml:20\n", NULL);
    expect("DIKAST_SET_rl__clip=2 dikast config show conf/tiny.yaml rl.lr=1e-5 ~rl.steps 'data.sft=[a.jsonl]'", 0,
           "\n  lr: 1e-05  # override 'rl.lr=1e-5'\n", NULL);
    expect("DIKAST_SET_rl__clip=2 dikast config show conf/tiny.yaml ~rl.steps data.sft=a.jsonl", 0,
           "\n  clip: 2.0  # environment DIKAST_SET_rl__clip\n", NULL);
    expect("dikast config show conf/tiny.yaml", 0, "\n  n_head: 2  # conf/tiny.yaml:19\n", NULL);
    expect("dikast config show", 0, "!#", NULL);
}

static int setup(void **state) {
    (void)state;
    help_scratch(root, "ls");
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(recipes_are_written),
                                       cmocka_unit_test(another_configuration_is_refused),
                                       cmocka_unit_test(only_what_no_run_uses_goes),
                                       cmocka_unit_test(killed_while_pruning),
                                       cmocka_unit_test(killed_runs_keep_what_they_use),
                                       cmocka_unit_test(words_are_offered),
                                       cmocka_unit_test(tables_become_pages)};
    int failed = cmocka_run_group_tests(tests, setup, NULL);
    if (!failed) help_remove(root);
    return failed;
}
