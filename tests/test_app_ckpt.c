// layer: app
/* dikast ckpt on the states that a run of the tiny world leaves: listed, verified, cut anew, exported; damage is exit
 * status 3. */
#include "cai_help.h"

#include "base/json.h"
#include "nn/safetensors.h"

static char root[256], stage[700];

/* Exit code of `dikast LINE` in the scratch folder; *out gets what it printed, errors too. */
static int dikast(Str *out, const char *line) {
    char command[2000], chunk[4096];
    snprintf(command, sizeof command, "cd '%s' && '%s/dikast' %s 2>&1", root, BUILD_DIR, line);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    str_clear(out);
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, f)) > 0;) str_putn(out, chunk, n);
    int status = pclose(f);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void expect(const char *line, int code, const char *part) {
    Str out = {0};
    int is = dikast(&out, line);
    if (is != code) fail_msg("dikast %s: code %d, expected %d: %s", line, is, code, str_get(&out));
    if (part && !strstr(str_get(&out), part)) fail_msg("dikast %s: '%s' is not in: %s", line, part, str_get(&out));
    str_release(&out);
}

static int setup(void **state) {
    char **name;
    int n;
    char line[600], store[400];
    Error err = {0};
    (void)state;
    help_scratch(root, "app_ckpt");
    snprintf(line, sizeof line,
             "run %s -q --only pretrain pretrain.steps=13 ckpt.every=4 ckpt.keep=1 ckpt.keep_every=4", TINY);
    expect(line, 0, NULL);
    snprintf(store, sizeof store, "%s/out/store", root);
    assert_ok(io_list_dir(&name, &n, store, &err), err);
    for (int i = 0; i < n; i++)
        if (!strncmp(name[i], "pretrain-", 9)) snprintf(stage, sizeof stage, "%s/%s", store, name[i]);
    io_free_list(name, n);
    return stage[0] ? 0 : -1;
}

static void listed(void **state) {
    char line[900];
    Str out = {0};
    Json *j;
    Error err = {0};
    (void)state;
    snprintf(line, sizeof line, "ckpt ls %s --json", stage);
    assert_int_equal(dikast(&out, line), 0);
    assert_ok(json_parse(&j, out.s, out.n, 0, "ls", 1, &err), err);
    const Json *list = json_get(j, "checkpoints");
    assert_int_equal(json_len(list), 3); /* 12, 8, 4: the stage is done, what was asked for stays */
    for (int i = 0; i < 3; i++) {
        const Json *c = json_at(list, i);
        assert_int_equal(json_int(json_get(c, "step"), -1), 12 - 4 * i);
        assert_int_equal(json_int(json_get(json_get(c, "progress"), "step"), -1), 12 - 4 * i);
        assert_string_equal(json_str(json_get(c, "state"), NULL), "read back");
        assert_string_equal(json_str(json_at(json_get(c, "nets"), 0), NULL), "net");
        assert_non_null(strstr(stage, json_str(json_get(c, "run"), NULL)));
    }
    json_release(j);
    str_release(&out);
    snprintf(line, sizeof line, "ckpt ls %s/state/step-00000008", stage);
    expect(line, 0, "step 8  1 files");
    snprintf(line, sizeof line, "ckpt verify %s/state", stage);
    expect(line, 0, "whole");
    expect("ckpt ls nowhere", 4, "nowhere: no such folder");
    expect("ckpt ls .", 2, "holds no saved state");
    expect("ckpt rm x", 2, "expected ls, verify, reshard or export");
    expect("ckpt reshard x", 2, "usage: dikast ckpt reshard DIR OUT");
}

/* The parameter as bytes, of a file. */
static void tensor(Str *out, const char *path, const char *name) {
    StFile f;
    Error err = {0};
    assert_ok(st_open(&f, path, &err), err);
    const StEntry *e = st_find(&f, name);
    if (!e) fail_msg("%s: no tensor '%s'", path, name);
    str_clear(out);
    str_putn(out, e->data, e->bytes);
    st_close(&f);
}

static void resharded_and_exported(void **state) {
    char line[1500], path[900];
    Str a = {0}, b = {0};
    static const char *const names[] = {"model.norm.weight", "model.embed_tokens.weight",
                                        "model.layers.0.mlp.down_proj.weight"};
    (void)state;
    snprintf(line, sizeof line, "ckpt reshard %s cut/step-00000012 --shards 3 --dim columns", stage);
    expect(line, 0, NULL);
    expect("ckpt verify cut/step-00000012", 0, "3 files");
    expect(line, 2, "is there already");
    snprintf(line, sizeof line, "ckpt export %s model --tokenizer %s/model", stage, stage);
    expect(line, 0, NULL);
    expect("ckpt export cut model-cut", 0, NULL);
    for (int i = 0; i < COUNT_OF(names); i++) {
        char key[100];
        snprintf(key, sizeof key, "param/net.%s", names[i]);
        snprintf(path, sizeof path, "%s/state/step-00000012/shard-00000-of-00001.safetensors", stage);
        tensor(&a, path, key);
        for (int k = 0; k < 2; k++) {
            snprintf(path, sizeof path, "%s/%s/model.safetensors", root, k ? "model-cut" : "model");
            tensor(&b, path, names[i]);
            assert_true(a.n == b.n && !memcmp(a.s, b.s, a.n));
        }
    }
    expect("generate model --prompt the --max-new 3", 0, NULL); /* a model like any other */
    snprintf(line, sizeof line, "ckpt export %s other --net policy", stage);
    expect(line, 2, "--net policy: the state holds net");
    str_release(&a);
    str_release(&b);
}

static void damaged(void **state) {
    char line[900], path[900];
    (void)state;
    snprintf(path, sizeof path, "%s/state/step-00000008/shard-00000-of-00001.safetensors", stage);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, 5000, SEEK_SET), 0);
    int byte = fgetc(f);
    assert_int_equal(fseek(f, 5000, SEEK_SET), 0);
    fputc(byte ^ 1, f);
    fclose(f);
    snprintf(line, sizeof line, "ckpt verify %s", stage);
    expect(line, 3, "1 of 3 are damaged");
    snprintf(line, sizeof line, "ckpt export %s/state/step-00000008 none", stage);
    expect(line, 3, "block 0");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(listed), cmocka_unit_test(resharded_and_exported),
                                       cmocka_unit_test(damaged)};
    int failed = cmocka_run_group_tests(tests, setup, NULL);
    if (!failed) help_remove(root);
    return failed;
}
