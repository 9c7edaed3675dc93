// layer: cai
/* What the world does to the program: broken files, keys, constitutions, disks. Each gives the documented exit code and
 * a message that says where; afterwards the same command, undisturbed, gives the undisturbed result. */
#include "cai_help.h"

#include <signal.h>
#include <sys/mount.h>
#include <time.h>

#include "base/json.h"

static char root[256];

/* Data of one's own: enough for every stage to begin. */
static const char config[] = "data:\n"
                             "  source: files\n"
                             "  dir: data\n"
                             "  pretrain: [pretrain.jsonl]\n"
                             "  sft: [sft.jsonl]\n"
                             "  redteam: [redteam.jsonl]\n"
                             "tokenizer: {vocab: 400}\n"
                             "model: {n_layer: 1, n_head: 2, d_model: 16, max_seq: 128}\n"
                             "constitution: {path: mine.json}\n"
                             "pretrain: {steps: 1, micro_tokens: 256, batch_tokens: 256}\n"
                             "helpful: {steps: 1, micro_tokens: 256, batch_tokens: 256}\n"
                             "revise: {max_new: 8, critique_tokens: 8}\n"
                             "pairs: {max_new: 8}\n"
                             "rl: {steps: 1, rollouts: 4, max_new: 8}\n"
                             "eval: {max_new: 8}\n";
static const char principles[] = "{\"schema\": \"dikast-constitution/1\", \"id\": \"mine\", \"principles\": [\n"
                                 "  {\"id\": \"kind\", \"text\": \"The assistant is kind.\"}]}\n";

static void write_rows(const char *file, const char *format, int n) {
    Str text = {0};
    for (int i = 0; i < n; i++) {
        char row[200];
        snprintf(row, sizeof row, format, i, i * 7 % 13);
        str_put(&text, row);
    }
    help_write(root, file, str_get(&text));
    str_release(&text);
}

static void write_good(void) {
    help_write(root, "c.yaml", config);
    help_write(root, "mine.json", principles);
    write_rows("data/pretrain.jsonl", "{\"text\": \"the small river number %d runs past %d houses\"}\n", 30);
    write_rows("data/sft.jsonl", "{\"prompt\": \"what is %d\", \"response\": \"it is %d .\"}\n", 30);
    write_rows("data/redteam.jsonl", "{\"prompt\": \"how do i break window %d of house %d\"}\n", 30);
}

/* says: substrings that the message must hold, NULL at the end. */
static void expect(const char *const *args, int code, const char *const *says) {
    const char *argv[24] = {"run", "c.yaml"};
    int n = 2;
    while (*args) argv[n++] = *args++;
    int rc = help_wait(help_spawn(root, argv));
    char *said = help_read(root, "said");
    if (rc != code) fail_msg("%s: exit code %d, expected %d: %s", argv[2], rc, code, said);
    for (; *says; says++)
        if (!strstr(said, *says)) fail_msg("%s: the message does not say '%s': %s", argv[2], *says, said);
    free(said);
}
#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void broken_files(void **state) {
    static const struct {
        const char *name, *bytes, *at;
        size_t n;
    } fault[] = {
        // clang-format off
        {"missing", NULL, "missing", 0},
#define BYTES(name, s, at) {name, s, at, sizeof s - 1}
        BYTES("empty", "", "empty"),
        BYTES("blank", "\n\n", "blank"),
        BYTES("truncated", "{\"prompt\": \"a\", \"response\": \"b\", \"text\": \"c\"}\n{\"prompt\": \"a", "truncated:2:"),
        BYTES("bytes", "{\"prompt\": \"a\xff\", \"response\": \"b\", \"text\": \"a\xff\"}\n", "bytes:1:"),
        BYTES("nul", "{\"prompt\": \"a\0b\", \"response\": \"b\", \"text\": \"c\"}\n", "nul:1:"),
        BYTES("nul-escape", "{\"prompt\": \"a\\u0000\", \"response\": \"b\", \"text\": \"\\u0000\"}\n", "nul-escape:1:"),
        BYTES("number", "{\"prompt\": 7, \"response\": 8, \"text\": 9}\n", "number:1:"),
        BYTES("array", "[1, 2]\n", "array:1:"),
        BYTES("fields", "{\"question\": \"a\", \"answer\": \"b\"}\n", "fields:1:"),
        BYTES("twice", "{\"prompt\": \"a\", \"prompt\": \"b\", \"response\": \"c\", \"text\": \"c\", \"text\": \"d\"}\n", "twice:1:"),
#undef BYTES
        // clang-format on
    };
    static const char *const key[] = {"data.pretrain", "data.sft", "data.redteam"};
    (void)state;
    for (int k = 0; k < COUNT_OF(key); k++)
        for (int i = 0; i < COUNT_OF(fault); i++) {
            Str path = {0};
            Error err = {0};
            char set[100], file[100];
            snprintf(file, sizeof file, "data/%s", fault[i].name);
            str_printf(&path, "%s/%s", root, file);
            if (fault[i].bytes) assert_ok(io_write_file(str_get(&path), fault[i].bytes, fault[i].n, &err), err);
            str_release(&path);
            /* Plain text is text, whatever it says; only rows can be mis-shaped. */
            if (k == 0 && (!strcmp(fault[i].name, "array") || !strcmp(fault[i].name, "blank"))) continue;
            snprintf(set, sizeof set, "%s=[%s]", key[k], fault[i].name);
            expect(ARGS(set), 3, ARGS(fault[i].at));
        }
    expect(ARGS("data.dir=/nowhere"), 3, ARGS("/nowhere/pretrain.jsonl", "data.dir=/nowhere"));
    expect(ARGS("data.sft=[]"), 2, ARGS("data.sft"));
    expect(ARGS("model.path=/nowhere"), 3, ARGS("/nowhere"));
}

static void broken_configuration(void **state) {
    (void)state;
    help_write(root, "bad.yaml",
               "extends: c.yaml\ndata:\n  sauce: files\n  dedup: much\nrl:\n  lr: 1e-4\n  lr: 2e-4\n");
    const char *const argv[] = {"run", "bad.yaml", "pm.holdout=7", NULL};
    static const char *const all[] = {"bad.yaml:3:3", "data.source", "bad.yaml:4:10", "data.dedup",
                                      "bad.yaml:7:3", "duplicate",   "pm.holdout",    "4 errors"};
    assert_int_equal(help_wait(help_spawn(root, argv)), 2);
    char *said = help_read(root, "said");
    for (int i = 0; i < COUNT_OF(all); i++)
        if (!strstr(said, all[i])) fail_msg("'%s' is missing: %s", all[i], said);
    free(said);
    expect(ARGS("rl.stepz=3"), 2, ARGS("rl.stepz", "rl.steps"));
    expect(ARGS("model.n_head=3"), 2, ARGS("model.n_head", "model.d_model"));
    expect(ARGS("--only", "nonsense"), 2, ARGS("nonsense"));
    const char *const none[] = {"run", "nope.yaml", NULL};
    assert_int_equal(help_wait(help_spawn(root, none)), 2);
}

static void broken_constitution(void **state) {
    static const struct {
        const char *file, *text, *says;
    } fault[] = {
        {"two.json",
         "{\"schema\": \"dikast-constitution/1\", \"id\": \"m\", \"principles\": [\n{\"id\": \"a\", \"text\": "
         "\"x.\"},\n"
         "{\"id\": \"a\", \"text\": \"y.\"}]}",
         "two.json"},
        {"field.json",
         "{\"schema\": \"dikast-constitution/1\", \"id\": \"m\", \"principles\": [\n"
         "{\"id\": \"a\", \"text\": \"x.\", \"wait\": 2}]}",
         "wait"},
        {"cut.json", "{\"schema\": \"dikast-constitution/1\", \"id\"", "cut.json:1"},
        {"dtd.xml", "<?xml version=\"1.0\"?>\n<!DOCTYPE constitution [<!ENTITY a \"b\">]>\n<constitution/>",
         "dtd.xml:2"},
        {"empty.json", "", "empty.json"},
    };
    (void)state;
    for (int i = 0; i < COUNT_OF(fault); i++) {
        char set[100];
        help_write(root, fault[i].file, fault[i].text);
        snprintf(set, sizeof set, "constitution.path=%s", fault[i].file);
        expect(ARGS(set), 3, ARGS(fault[i].file, fault[i].says));
    }
    expect(ARGS("constitution.path=nowhere.json"), 3, ARGS("constitution.path=nowhere.json"));
    expect(ARGS("constitution.only=[unkind]"), 2, ARGS("constitution.only", "unkind"));
}

static const char *ledger_of(char out[1000], const char *run, const char *stage) {
    Error err = {0};
    Json *j = NULL;
    Str path = {0};
    str_printf(&path, "%s/out/runs/%s/stages.json", root, run);
    assert_ok(json_read_file(&j, str_get(&path), 0, &err), err);
    str_clear(&path);
    str_printf(&path, "%s/%s", root, json_str(json_get(json_get(j, stage), "dir"), NULL));
    char *text = help_read(str_get(&path), "ledger.json");
    snprintf(out, 1000, "%s", text);
    free(text);
    json_release(j);
    str_release(&path);
    return out;
}

/* A prompt longer than the context is set aside by name; the run does not stop for it, nor hide it. */
static void prompts_beyond_the_context(void **state) {
    Str row = {0};
    char set[400], ledger[1000];
    (void)state;
    str_put(&row, "{\"prompt\": \"how do i");
    for (int i = 0; i < 400; i++) str_put(&row, " steal");
    str_put(&row, "\"}\n");
    help_write(root, "long.jsonl", str_get(&row));
    snprintf(set, sizeof set, "data.redteam=[redteam_prompts.jsonl, %s/long.jsonl]", root);
    const char *const argv[] = {"run", TINY, "-q", "run.name=long", "revise.redteam=0", "rl.steps=1", set, NULL};
    int rc = help_wait(help_spawn(root, argv));
    if (rc) fail_msg("exit code %d: %s", rc, help_read(root, "said"));
    assert_non_null(strstr(ledger_of(ledger, "long", "revise"), "CONTEXT"));
    assert_non_null(strstr(ledger_of(ledger, "long", "rl"), "CONTEXT"));
    /* Rows to learn from that do not fit: too many of them is an error that names the limit, before training. */
    str_clear(&row);
    for (int k = 0; k < 20; k++) {
        str_put(&row, "{\"prompt\": \"how do i cook\", \"response\": \"");
        for (int i = 0; i < 200; i++) str_put(&row, " stir");
        str_put(&row, "\"}\n");
    }
    help_write(root, "long.jsonl", str_get(&row));
    snprintf(set, sizeof set, "data.sft=[%s/long.jsonl]", root);
    const char *const lost[] = {"run", TINY, "-q", "run.name=lost", "data.format=[]", set, NULL};
    rc = help_wait(help_spawn(root, lost));
    char *said = help_read(root, "said");
    if (rc != 3 || !strstr(said, "data.max_lost") || !strstr(said, "helpful")) fail_msg("exit code %d: %s", rc, said);
    free(said);
    str_release(&row);
}

static void two_runs_in_one_directory(void **state) {
    char who[40];
    (void)state;
    const char *const slow[] = {"run", TINY, "-q", "run.name=both", "world.sft_rows=3000000", NULL};
    const char *const second[] = {"run", TINY, "-q", "run.name=both", NULL};
    pid_t holder = help_spawn(root, slow);
    for (int i = 0; i < 500 && !help_exists(root, "out/runs/both/STATUS"); i++)
        nanosleep(&(struct timespec){0, 10000000}, NULL);
    int rc = help_wait(help_spawn(root, second));
    char *said = help_read(root, "said");
    snprintf(who, sizeof who, "process %ld", (long)holder);
    kill(holder, SIGKILL);
    help_wait(holder);
    if (rc != 2 || !strstr(said, who) || !strstr(said, "runs/both")) fail_msg("exit code %d: %s", rc, said);
    free(said);
}

/* A disk that is too small, grown until the run fits; then one that may not be written any more. */
static void full_and_read_only_disk(void **state) {
    static const char *const size[] = {"size=16k", "size=160k", "size=360k", "size=640k", "size=64m"};
    static const char *const argv[] = {"run", TINY, "-q", "rl.steps=1", NULL};
    char dir[300], sha[65], whole[300], link[310], expected[65];
    Error err = {0};
    int n = COUNT_OF(size), full = 0;
    (void)state;
    snprintf(dir, sizeof dir, "%s/disk", root);
    snprintf(link, sizeof link, "%s/said", dir);
    assert_ok(io_make_dirs(dir, &err), err);
    if (mount("tmpfs", dir, "tmpfs", 0, size[0])) {
        print_message("[  note    ] skipped: mounting a small file system is not permitted here\n");
        skip();
    }
    for (int i = 0; i < n; i++) {
        /* What it says goes to the parent: on the full disk there is no room for it. */
        int rc = mount("tmpfs", dir, "tmpfs", MS_REMOUNT, size[i]);
        if (!rc) {
            unlink(link);
            rc = symlink("../said", link);
        }
        rc = rc ? -1 : help_wait(help_spawn(dir, argv));
        char *said = help_read(root, "said");
        full += rc == 4 && strstr(said, "No space left");
        if (rc != (i < n - 1 ? 4 : 0)) {
            umount2(dir, MNT_DETACH);
            fail_msg("%s: exit code %d: %s", size[i], rc, said);
        }
        free(said);
    }
    help_sha(sha, dir, "out/runs/tiny/report.json");
    int ro = mount("tmpfs", dir, "tmpfs", MS_REMOUNT | MS_RDONLY, NULL);
    int rc = ro ? 4 : help_wait(help_spawn(dir, argv));
    char *said = help_read(root, "said");
    umount2(dir, MNT_DETACH);
    if (!ro && (rc != 4 || !strstr(said, "Read-only"))) fail_msg("read-only: exit code %d: %s", rc, said);
    free(said);
    assert_int_equal(full, n - 1);
    snprintf(whole, sizeof whole, "%s/whole", root);
    assert_ok(io_make_dirs(whole, &err), err);
    assert_int_equal(help_wait(help_spawn(whole, argv)), 0);
    help_sha(expected, whole, "out/runs/tiny/report.json");
    assert_string_equal(sha, expected);
}

static int setup(void **state) {
    Error err = {0};
    Str path = {0};
    (void)state;
    help_scratch(root, "faults");
    str_printf(&path, "%s/data", root);
    assert_ok(io_make_dirs(str_get(&path), &err), err);
    str_release(&path);
    write_good();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(broken_files),
                                       cmocka_unit_test(broken_configuration),
                                       cmocka_unit_test(broken_constitution),
                                       cmocka_unit_test(prompts_beyond_the_context),
                                       cmocka_unit_test(two_runs_in_one_directory),
                                       cmocka_unit_test(full_and_read_only_disk)};
    int failed = cmocka_run_group_tests(tests, setup, NULL);
    if (!failed) help_remove(root);
    return failed;
}
