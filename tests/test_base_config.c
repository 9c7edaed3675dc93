// layer: base
/* Configuration: precedence, every type, the golden report of a file with every kind of mistake, YAML's traps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/config.h"
#include "base/io.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIR "config_test.d"

typedef struct {
    struct {
        char *name;
        int64_t seed, threads;
    } run;
    struct {
        double lr, clip, beta;
        int64_t n_epoch, max_new;
        bool whiten;
        int dtype;
        CfgList gates;
    } rl;
} Conf;

// clang-format off
#define AT(field) offsetof(Conf, field)
static const CfgKey keys[] = {
    {"run.name",    CFG_STR,   CFG_RUNTIME, AT(run.name),    "run",       0, 0,         "name of the run"},
    {"run.seed",    CFG_INT,   CFG_RESULT,  AT(run.seed),    "1",         0, INFINITY,  "seed of everything"},
    {"run.threads", CFG_INT,   CFG_RUNTIME, AT(run.threads), "0",         0, 1024,      "compute threads; 0: all CPUs"},
    {"rl.lr",       CFG_FLOAT, CFG_RESULT,  AT(rl.lr),       "1e-6",      0, 1,         "peak learning rate, AdamW"},
    {"rl.clip",     CFG_FLOAT, CFG_RESULT,  AT(rl.clip),     "0.2",       0, 1,         "ratio clip"},
    {"rl.beta",     CFG_FLOAT, CFG_RESULT,  AT(rl.beta),     "0.1",       0, 0,         "weight of the KL"},
    {"rl.n_epoch",  CFG_INT,   CFG_RESULT,  AT(rl.n_epoch),  "4",         1, 100,       "epochs per rollout"},
    {"rl.max_new",  CFG_INT,   CFG_RESULT,  AT(rl.max_new),  "128",       1, 1e9,       "longest answer, tokens"},
    {"rl.whiten",   CFG_BOOL,  CFG_RESULT,  AT(rl.whiten),   "true",      0, 0,         "normalise advantages"},
    {"rl.dtype",    CFG_ENUM,  CFG_RESULT,  AT(rl.dtype),    "fp32|bf16", 0, 0,         "type of activations"},
    {"rl.gates",    CFG_LIST,  CFG_RESULT,  AT(rl.gates),    "a>1,b<2",   0, 0,         "bounds that end the run"},
};
// clang-format on

static int setup(void **state) {
    (void)state;
    Error err = {0};
    return io_make_dirs(DIR, &err) ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    Error err = {0};
    return io_remove_tree(DIR, &err) ? 0 : -1;
}

static void put(const char *name, const char *text) {
    Error err = {0};
    char path[200];
    snprintf(path, sizeof path, DIR "/%s", name);
    assert_true(io_write_file(path, text, strlen(text), &err));
}

/* Loads text (and overrides); returns whether it was accepted. The report stays in `report`. */
static bool load(Conf *c, Str *report, const char *text, const char *const *set, int n_set) {
    Error err = {0};
    *c = (Conf){0};
    if (text) put("c.yaml", text);
    bool ok = config_load(c, keys, COUNT_OF(keys), text ? DIR "/c.yaml" : NULL, set, n_set, report, &err);
    assert_int_equal(err.code, ok ? ERR_NONE : ERR_CONFIG);
    if (ok) assert_string_equal(str_get(report), "");
    return ok;
}

static void drop(Conf *c) { config_release(c, keys, COUNT_OF(keys)); }

static void test_defaults(void **state) {
    (void)state;
    Conf c;
    Str r = {0};
    assert_true(load(&c, &r, NULL, NULL, 0));
    assert_string_equal(c.run.name, "run");
    assert_int_equal(c.rl.n_epoch, 4);
    assert_true(c.rl.whiten && c.rl.dtype == 0 && c.rl.lr == 1e-6);
    assert_int_equal(c.rl.gates.n, 2);
    assert_string_equal(c.rl.gates.item[1], "b<2");
    drop(&c);
    assert_true(load(&c, &r, "", NULL, 0));
    drop(&c);
    assert_true(load(&c, &r, "# nothing\nrl:\n", NULL, 0));
    drop(&c);
    str_release(&r);
}

static void test_values(void **state) {
    (void)state;
    Conf c;
    Str r = {0};
    assert_true(load(&c, &r,
                     "\xEF\xBB\xBFrun: {name: \"12\", seed: 1_000_000}\nrl.lr: 3e-4\nrl:\n  clip: 1\n  beta: -.5\n"
                     "  max_new: 64k\n  n_epoch: 0x10\n",
                     NULL, 0) == false); /* hexadecimal is not decimal */
    assert_true(load(&c, &r,
                     "\xEF\xBB\xBFrun: {name: \"12\", seed: 1_000_000}\nrl.lr: 3e-4\nrl:\n  clip: 1\n  beta: -.5\n"
                     "  max_new: 64k\n  whiten: false\n  dtype: bf16\n  gates:\n  - x\n  - \"y, z\"\n",
                     NULL, 0));
    assert_string_equal(c.run.name, "12");
    assert_int_equal(c.run.seed, 1000000);
    assert_true(c.rl.lr == 3e-4 && c.rl.clip == 1 && c.rl.beta == -0.5 && !c.rl.whiten && c.rl.dtype == 1);
    assert_int_equal(c.rl.max_new, 64000);
    assert_int_equal(c.rl.gates.n, 2);
    assert_string_equal(c.rl.gates.item[1], "y, z");
    drop(&c);
    static const struct {
        const char *text;
        int64_t v; /* -1: refused */
    } number[] = {
        {"7", 7},
        {"+7", 7},
        {"0", 0},
        {"2ki", 2048},
        {"3M", 3000000},
        {"1Gi", 1 << 30},
        {"1_0", 10},
        {"-7", -1},
        {"010", -1},
        {"1__0", -1},
        {"_1", -1},
        {"1_", -1},
        {"1e3", -1},
        {"1.0", -1},
        {"0x10", -1},
        {"9223372036854775808", -1},
        {"9223372036854775807k", -1},
        {"1 k", -1},
        {"k", -1},
        {"", -1},
        {"\"7\"", -1},
        {"seven", -1},
        {"[7]", -1},
        {"~", -1},
        {"1K", -1},
    };
    for (int i = 0; i < COUNT_OF(number); i++) {
        char text[80];
        snprintf(text, sizeof text, "run.seed: %s\n", number[i].text);
        bool ok = load(&c, &r, text, NULL, 0);
        if (ok != (number[i].v >= 0)) fail_msg("seed: %s", number[i].text);
        if (ok) assert_int_equal(c.run.seed, number[i].v);
        if (ok) drop(&c);
    }
    static const char *const not_float[] = {"nan", ".inf", "inf", "1e999", "0x1p3", "1e", "--1", ".", "1,5", "true"};
    for (int i = 0; i < COUNT_OF(not_float); i++) {
        char text[80];
        snprintf(text, sizeof text, "rl.beta: %s\n", not_float[i]);
        if (load(&c, &r, text, NULL, 0)) fail_msg("accepted beta: %s", not_float[i]);
    }
    static const char *const not_bool[] = {"on", "off", "yes", "no", "True", "1", "\"true\"", "", "y"};
    for (int i = 0; i < COUNT_OF(not_bool); i++) {
        char text[80];
        snprintf(text, sizeof text, "rl.whiten: %s\n", not_bool[i]);
        if (load(&c, &r, text, NULL, 0)) fail_msg("accepted whiten: %s", not_bool[i]);
    }
    str_release(&r);
}

static void test_precedence(void **state) {
    (void)state;
    Conf c;
    Str r = {0};
    assert_true(io_make_dirs(DIR "/sub", &(Error){0}));
    put("sub/base.yaml", "run: {seed: 2, name: base}\nrl: {lr: 0.2, clip: 0.5, n_epoch: 2, gates: [q]}\n");
    setenv("DIKAST_SET_rl__n_epoch", "9", 1);
    setenv("DIKAST_SET_rl__max_new", "9", 1);
    static const char *const set[] = {"rl.max_new=10", "rl.gates=[\"c,d\", e]", "run.name=a=b", "~rl.clip"};
    assert_true(load(&c, &r, "rl.lr: 0.3\nrl.n_epoch: 3\nextends: sub/base.yaml\nrl.clip: 0.7\n", set, COUNT_OF(set)));
    assert_int_equal(c.run.seed, 2);    /* extends over default */
    assert_true(c.rl.lr == 0.3);        /* file over extends, wherever extends stands */
    assert_int_equal(c.rl.n_epoch, 9);  /* environment over file */
    assert_int_equal(c.rl.max_new, 10); /* override over environment */
    assert_true(c.rl.clip == 0.2);      /* reset */
    assert_string_equal(c.run.name, "a=b");
    assert_int_equal(c.rl.gates.n, 2);
    assert_string_equal(c.rl.gates.item[0], "c,d");
    drop(&c);
    unsetenv("DIKAST_SET_rl__n_epoch");
    setenv("DIKAST_SET_rl__max_nwe", "9", 1);
    assert_false(load(&c, &r, NULL, NULL, 0));
    assert_non_null(strstr(r.s, "environment DIKAST_SET_rl__max_nwe: error: unknown key 'rl.max_nwe' (did you mean "
                                "'rl.max_new'?)"));
    unsetenv("DIKAST_SET_rl__max_nwe");
    unsetenv("DIKAST_SET_rl__max_new");

    put("c.yaml", "extends: c.yaml\n");
    assert_false(load(&c, &r, "extends: c.yaml\n", NULL, 0));
    assert_non_null(strstr(r.s, "is it a circle?"));
    assert_false(load(&c, &r, "extends: none.yaml\n", NULL, 0));
    assert_non_null(strstr(r.s, "c.yaml:1:10: error: no such file: " DIR "/none.yaml"));
    static const char *const bare[] = {"rl.gates=x,y"};
    assert_true(load(&c, &r, NULL, bare, 1));
    assert_int_equal(c.rl.gates.n, 2);
    drop(&c);
    static const char *const empty[] = {"rl.gates=[]", "run.name="};
    assert_true(load(&c, &r, NULL, empty, 2));
    assert_int_equal(c.rl.gates.n, 0);
    assert_string_equal(c.run.name, "");
    drop(&c);
    str_release(&r);
}

/* All mistakes of a file in one report: compared to the byte. */
static void test_golden_report(void **state) {
    (void)state;
    Conf c;
    Str r = {0}, want = {0}, text = {0};
    Error err = {0};
    static const char *const set[] = {"rl.lr=fast", "rl.n_epcoh=3", "rl", "~rl.nothing"};
    assert_true(io_read_file(&text, TEST_DIR "/golden/config_mistakes.yaml", 1 << 20, &err));
    assert_false(load(&c, &r, text.s, set, COUNT_OF(set)));
    assert_null(c.run.name); /* nothing is left to release */
    assert_true(io_read_file(&want, TEST_DIR "/golden/config_mistakes.txt", 1 << 20, &err));
    if (strcmp(want.s, r.s) != 0) {
        io_write_file("config_mistakes.got", r.s, r.n, &err);
        assert_string_equal(r.s, want.s);
    }
    str_release(&r), str_release(&want), str_release(&text);
}

/* What a YAML reader would take and a configuration must not. */
static void test_yaml_traps(void **state) {
    (void)state;
    static const struct {
        const char *text, *part;
    } trap[] = {
        {"run.name: *nope\n", "1:11: error: aliases are not supported"},
        {"run.name: &a x\nrl.dtype: *a\n", "anchors are not supported"},
        {"a: &a {x: 1}\nrl:\n  <<: *a\n", "merge keys are not supported"},
        {"run.seed: !!int \"3\"\n", "tags are not supported"},
        {"run: !foo\n  seed: 3\n", "tags are not supported"},
        {"run.seed: 3\n---\nrun.seed: 4\n", "2:1: error: a second document begins here"},
        {"run.seed: 3\n...\n---\nx: 1\n", "a second document begins here"},
        {"run.seed: 3\nrun.seed: 3\n", "2:1: error: duplicate key 'run.seed' (first on line 1)"},
        {"run: {seed: 3}\nrun.seed: 3\n", "2:1: error: duplicate key 'run.seed' (first on line 1)"},
        {"run:\n  seed: 3\nrl: {}\nrun:\n  seed: 4\n", "5:3: error: duplicate key 'run.seed'"},
        {"rl:\n\tlr: 1\n", ":2:"},
        {"rl: {lr: 1\n", "error: "},
        {"? [a, b]\n: 1\n", "a key must be a plain word"},
        {"? {a: b}\n: 1\n", "a key must be a plain word"},
        {"rl.gates: [[a], b]\n", "a list inside a list"},
        {"rl.gates: [a, {b: c}]\n", "a list holds plain values"},
        {"rl.gates:\n  x: 1\n", "unknown key 'rl.gates.x': 'rl.gates' takes a value, not keys"},
        {"rl: 3\n", "'rl' is a section"},
        {"rl: [1]\n", "'rl' is a section"},
        {"just words\n", "expected 'key: value'"},
        {"- a\n- b\n", "expected 'key: value'"},
        {"run.name:\n", "'run.name' must be a text, found nothing"},
        {"run.name: [a]\n", "'run.name' must be a text, found a list"},
        {"rl.gates: a\n", "'rl.gates' must be a list: [a, b], found \"a\""},
        {"rl.clip: 1.5\n", "'rl.clip' must be a number in 0..1, found \"1.5\""},
        {"run.seed: -1\n", "'run.seed' must be an integer of at least 0, found \"-1\""},
        {"run.name: \"\xFF\"\n", "bad UTF-8"},
        {"learning_rate: 3\n", "(here it is 'rl.lr')"},
        {"name: 3\n", "(did you mean 'run.name'?)"},
        {"rl.num_epochs: 3\n", "unknown key 'rl.num_epochs'"},
        {"rl.kl_coef: 3\n", "(here it is 'rl.beta')"},
        {"rl.max_n: 3\n", "(did you mean 'rl.max_new'?)"},
        {"whiten: true\n", "(did you mean 'rl.whiten'?)"},
        {"zzzzzz: 3\n", "error: unknown key 'zzzzzz'\n"},
        {"\xFF\x01: 1\n", "(near byte 0)\n1 error"}, /* and no such line shown */
    };
    Conf c;
    Str r = {0};
    for (int i = 0; i < COUNT_OF(trap); i++) {
        if (load(&c, &r, trap[i].text, NULL, 0)) fail_msg("accepted: %s", trap[i].text);
        if (!strstr(r.s, trap[i].part)) fail_msg("%s gave\n%s", trap[i].text, r.s);
    }
    /* A bomb of aliases is refused at its first anchor, at once. */
    Str bomb = {0};
    str_put(&bomb, "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for (int i = 1; i < 10; i++) {
        str_printf(&bomb, "a%d: &a%d [*a%d", i, i, i - 1);
        for (int k = 0; k < 9; k++) str_printf(&bomb, ",*a%d", i - 1);
        str_put(&bomb, "]\n");
    }
    assert_false(load(&c, &r, bomb.s, NULL, 0));
    str_clear(&bomb);
    str_put(&bomb, "a: ");
    for (int i = 0; i < 10000; i++) str_putc(&bomb, '[');
    assert_false(load(&c, &r, bomb.s, NULL, 0));
    str_release(&bomb);
    str_release(&r);
}

static void test_from_a_pipe(void **state) {
    (void)state;
    Conf c = {0};
    Str r = {0};
    Error err = {0};
    assert_int_equal(mkfifo(DIR "/fifo", 0600), 0);
    pid_t pid = fork();
    if (pid == 0) {
        FILE *f = fopen(DIR "/fifo", "w");
        if (f) fputs("rl: {lr: 0.5}\n", f), fclose(f);
        _exit(0);
    }
    assert_true(config_load(&c, keys, COUNT_OF(keys), DIR "/fifo", NULL, 0, &r, &err));
    assert_true(c.rl.lr == 0.5);
    drop(&c);
    assert_false(config_load(&c, keys, COUNT_OF(keys), DIR "/none", NULL, 0, &r, &err));
    assert_non_null(strstr(r.s, DIR "/none: error: cannot open: No such file"));
    str_release(&r);
}

static void test_dump_reads_back(void **state) {
    (void)state;
    Conf c, d;
    Str r = {0}, a = {0}, b = {0};
    static const char *const name[] = {"run.name=x: [y] #\"z\"\n\t\xC3\xA9 true",
                                       "run.name=true",
                                       "run.name=12",
                                       "run.name=~",
                                       "run.name= ",
                                       "run.name=null",
                                       "run.name=-",
                                       "run.name='it'"};
    for (int i = 0; i < COUNT_OF(name); i++) {
        const char *set[] = {name[i], "rl.lr=0.1", "rl.gates=[\"a, b\", \"true\", \"\"]", "rl.dtype=bf16"};
        assert_true(load(&c, &r, NULL, set, COUNT_OF(set)));
        str_clear(&a), str_clear(&b);
        config_dump(&a, &c, keys, COUNT_OF(keys));
        if (!load(&d, &r, a.s, NULL, 0)) fail_msg("%s\n%s", a.s, r.s);
        config_dump(&b, &d, keys, COUNT_OF(keys));
        assert_string_equal(a.s, b.s);
        assert_string_equal(c.run.name, d.run.name);
        drop(&c), drop(&d);
    }
    str_release(&r), str_release(&a), str_release(&b);
}

static Hash hash_of(const Conf *c, const char *prefix) {
    Hasher *h = hasher_new();
    config_hash_into(h, c, keys, COUNT_OF(keys), &prefix, 1);
    return hasher_finish(h);
}

static void test_hash_and_help(void **state) {
    (void)state;
    Conf c, d;
    Str r = {0}, s = {0};
    assert_true(load(&c, &r, NULL, NULL, 0));
    static const char *const runtime[] = {"run.threads=3", "run.name=other"}, *const result[] = {"rl.lr=2e-6"};
    assert_true(load(&d, &r, NULL, runtime, 2));
    assert_true(hash_equal(hash_of(&c, "run."), hash_of(&d, "run.")));
    drop(&d);
    assert_true(load(&d, &r, NULL, result, 1));
    assert_false(hash_equal(hash_of(&c, "rl."), hash_of(&d, "rl.")));
    assert_true(hash_equal(hash_of(&c, "run."), hash_of(&d, "run.")));
    drop(&d);
    config_value(&s, &c, &keys[3]);
    assert_string_equal(s.s, "1e-06");
    str_clear(&s);
    config_help(&s, keys, COUNT_OF(keys), "rl.dtype");
    assert_string_equal(s.s, "rl.dtype                   = fp32         fp32|bf16\n    type of activations\n");
    drop(&c);
    str_release(&r), str_release(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_defaults, setup, teardown),
        cmocka_unit_test_setup_teardown(test_values, setup, teardown),
        cmocka_unit_test_setup_teardown(test_precedence, setup, teardown),
        cmocka_unit_test_setup_teardown(test_golden_report, setup, teardown),
        cmocka_unit_test_setup_teardown(test_yaml_traps, setup, teardown),
        cmocka_unit_test_setup_teardown(test_from_a_pipe, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dump_reads_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hash_and_help, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
