// layer: app
/* Models in and out on the command line: logits, import, export in both forms, verify-export. */
#define DIR "app_export_test.d"
#include "cli_help.h"

#include <math.h>

#include "nn/lora.h"
#include "nn/safetensors.h"

#define OUT DIR "/out"

static int setup(void **state) {
    (void)state;
    Error err = {0};
    OK(io_remove_tree(DIR, &err) && io_make_dirs(DIR, &err));
    make_models();
    return 0;
}

static int teardown(void **state) {
    (void)state;
    Error err = {0};
    return io_remove_tree(DIR, &err) ? 0 : -1;
}

static void succeeds(const char *line) {
    Ran r = run(line);
    expect_code(&r, line, 0);
    ran_release(&r);
}

static void fails(const char *line, int code, const char *message) {
    Ran r = run(line);
    expect_code(&r, line, code);
    expect_holds(&r.err, message);
    ran_release(&r);
}

/* One row of `dikast logits` as an object; the caller releases it. */
static Json *logits_of(const char *line, const char *ids) {
    Json *j = NULL;
    Error err = {0};
    Ran r = run_in(line, ids, strlen(ids));
    expect_code(&r, line, 0);
    OK(json_parse(&j, r.out.s, r.out.n, 0, line, 1, &err));
    ran_release(&r);
    return j;
}

static void same_logits(const char *folder, const Json *want, const char *ids, double bound) {
    char line[512];
    snprintf(line, sizeof line, "logits %s --all", folder);
    Json *got = logits_of(line, ids);
    for (int i = 0; i < json_len(json_get(want, "logits")); i++) {
        const Json *x = json_at(json_get(want, "logits"), i), *y = json_at(json_get(got, "logits"), i);
        assert_int_equal(json_len(x), json_len(y));
        for (int k = 0; k < json_len(x); k++)
            assert_true(fabs(json_num(json_at(x, k), 0) - json_num(json_at(y, k), 9)) <= bound);
    }
    json_release(got);
}

static const char ids[] = "{\"ids\":[3,100,7,250,20,61]}\n";

static void test_logits(void **state) {
    (void)state;
    Error err = {0};
    Json *all = logits_of("logits " MODEL " --all", ids), *last = logits_of("logits " MODEL " --greedy 5", ids);
    const Json *rows = json_get(all, "logits"), *row = json_get(last, "logits");
    assert_int_equal(json_len(rows), 6);
    assert_int_equal(json_int(json_get(last, "position"), 0), 5);
    int best = 0, n = json_len(row);
    for (int k = 0; k < n; k++) {
        double v = json_num(json_at(row, k), NAN);
        assert_true(v == json_num(json_at(json_at(rows, 5), k), NAN)); /* alone or among all: the same bits */
        if (v > json_num(json_at(row, best), NAN)) best = k;
    }
    double sum = 0, most = json_num(json_at(row, best), 0);
    for (int k = 0; k < n; k++) sum += exp(json_num(json_at(row, k), 0) - most);
    assert_int_equal(json_len(json_get(last, "greedy")), 5);
    assert_int_equal(json_int(json_at(json_get(last, "greedy"), 0), -1), best);
    assert_true(fabs(json_num(json_at(json_get(last, "logprobs"), 0), 0) + log(sum)) < 1e-5);

    Ran r = run_in("logits " MODEL " --all --out " OUT ".npy", ids, sizeof ids - 1);
    expect_code(&r, "logits --out .npy", 0);
    ran_release(&r);
    Str npy = {0};
    OK(io_read_file(&npy, OUT ".npy", 1 << 20, &err));
    assert_memory_equal(npy.s, "\x93NUMPY\1\0", 8);
    assert_non_null(strstr(npy.s + 10, "'shape': (6, 287)"));
    size_t header = 10 + (size_t)(unsigned char)npy.s[8] + 256 * (size_t)(unsigned char)npy.s[9];
    assert_int_equal(header % 64, 0);
    assert_int_equal(npy.n, header + (size_t)6 * 287 * 4);
    float f;
    memcpy(&f, npy.s + header + (5 * 287 + 11) * sizeof f, sizeof f);
    assert_true((double)f == json_num(json_at(row, 11), 0));
    str_release(&npy);

    char two[2 * sizeof ids];
    snprintf(two, sizeof two, "%s%s", ids, "{\"text\":\"the judge\"}\n");
    r = run_in("logits " MODEL " --all --out " OUT ".safetensors", two, strlen(two));
    expect_code(&r, "logits --out .safetensors", 0);
    ran_release(&r);
    StFile st;
    OK(st_open(&st, OUT ".safetensors", &err));
    const StEntry *e = st_find(&st, "logits.0");
    assert_true(st.n == 2 && e && e->dim[0] == 6 && e->dim[1] == n && st_find(&st, "logits.1")->dim[0] < 9);
    memcpy(&f, e->data + (5 * 287 + 11) * sizeof f, sizeof f);
    assert_true((double)f == json_num(json_at(row, 11), 0));
    st_close(&st);
    json_release(all);
    json_release(last);

    Json *reward = logits_of("logits " PM, ids);
    assert_true(isfinite(json_num(json_get(reward, "reward"), NAN)) && !json_get(reward, "logits"));
    json_release(reward);
    static const struct {
        const char *row, *message;
    } bad[] = {{"{\"ids\":[287]}", "token 287 at position 0 is not in the vocabulary of 287"},
               {"{\"ids\":[]}", "0 tokens, expected 1..128"},
               {"{\"ids\":[-1]}", "'ids[0]' is no token id"},
               {"{\"id\":[1]}", "expected a list of token ids at 'ids'"}};
    for (int i = 0; i < COUNT_OF(bad); i++) {
        r = run_in("logits " MODEL, bad[i].row, strlen(bad[i].row));
        expect_code(&r, bad[i].row, 3);
        expect_holds(&r.err, bad[i].message);
        expect_holds(&r.err, "standard input:1");
        ran_release(&r);
    }
}

static void test_export_hf(void **state) {
    (void)state;
    Error err = {0};
    Json *want = logits_of("logits " MODEL " --all", ids);
    succeeds("export " MODEL " " OUT "_hf --to hf");
    same_logits(OUT "_hf", want, ids, 0);
    static const char *const files[] = {"tokenizer.json", "tokenizer_config.json", "generation_config.json"};
    for (int i = 0; i < COUNT_OF(files); i++) {
        char path[256];
        snprintf(path, sizeof path, OUT "_hf/%s", files[i]);
        assert_true(io_exists(path));
    }
    Json *config = NULL;
    OK(json_read_file(&config, OUT "_hf/tokenizer_config.json", 0, &err));
    assert_string_equal(member(config, "tokenizer_class"), "PreTrainedTokenizerFast");
    assert_string_equal(member(config, "eos_token"), sentinel_spelling(SENT_ENDOFTEXT));
    Str template = {0}; /* other programs write our dialogues */
    OK(io_read_file(&template, OUT "_hf/chat_template.jinja", 1 << 16, &err));
    assert_string_equal(str_get(&template), chat_native_template());
    assert_string_equal(member(config, "chat_template"), chat_native_template());
    str_release(&template);
    json_release(config);
    succeeds("export " MODEL " " OUT "_hf --to hf --shard 20000");
    assert_false(io_exists(OUT "_hf/model.safetensors"));
    assert_true(io_exists(OUT "_hf/model.safetensors.index.json"));
    same_logits(OUT "_hf", want, ids, 0);
    succeeds("verify-export " MODEL " " OUT "_hf");
    succeeds("export " MODEL " " OUT "_hf --to hf --dtype bf16");
    same_logits(OUT "_hf", want, ids, 3);
    succeeds("verify-export " MODEL " " OUT "_hf");
    succeeds("export " PM " " OUT "_pm --to hf");
    succeeds("verify-export " PM " " OUT "_pm");
    fails("export " MODEL " " MODEL " --to hf", 2, "is the folder to export");
    fails("export " MODEL " " OUT " --to onnx", 2, "expected hf, gguf or lora");
    fails("export " MODEL " " OUT, 2, "--to is missing");
    fails("export " MODEL " " OUT " --to hf --dtype q8_0", 2, "expected f32, bf16 or f16");
    json_release(want);
}

/* One byte of a file changed, found by the bytes before it. */
static void damage(const char *path, size_t from_end, char with) {
    Str s = {0};
    Error err = {0};
    OK(io_read_file(&s, path, 1 << 24, &err));
    s.s[s.n - from_end] = (char)(s.s[s.n - from_end] ^ with);
    OK(io_write_file(path, s.s, s.n, &err));
    str_release(&s);
}

static void test_export_gguf(void **state) {
    (void)state;
    static const char *const types[] = {"f32", "f16", "bf16", "q8_0"};
    static const double cost[] = {1e-12, 0.01, 0.1, 1};
    for (int i = 0; i < COUNT_OF(types); i++) {
        char line[512];
        snprintf(line, sizeof line, "export " MODEL " " OUT ".gguf --to gguf --dtype %s", types[i]);
        succeeds(line);
        Ran r = run("verify-export " MODEL " " OUT ".gguf --json");
        expect_code(&r, "verify-export", 0);
        Json *j = one_object(&r, "verify-export");
        double far = json_num(json_get(j, "source_max"), NAN);
        assert_true(json_num(json_get(j, "max"), NAN) < 1e-6 && json_int(json_get(j, "tokens"), 0) > 100);
        assert_true(far <= cost[i] && (i == 0 || far > cost[i] / 1e4));
        json_release(j);
        ran_release(&r);
    }
    succeeds("export " MODEL " " OUT ".gguf --to gguf");
    damage(OUT ".gguf", 40001, 0x40); /* an exponent bit of a weight */
    fails("verify-export " MODEL " " OUT ".gguf", 6, "parameter 'model.embed_tokens.weight', row 2");
    succeeds("export " MODEL " " OUT ".gguf --to gguf");
    Str s = {0};
    Error err = {0};
    OK(io_read_file(&s, OUT ".gguf", 1 << 24, &err));
    char *at = memmem(s.s, s.n, "<|user|>", 8);
    assert_non_null(at);
    at[2] = 'o';
    OK(io_write_file(OUT ".gguf", s.s, s.n, &err));
    fails("verify-export " MODEL " " OUT ".gguf", 3, "token 2 is '<|oser|>', expected '<|user|>'");
    OK(io_write_file(OUT ".gguf", s.s, s.n / 2, &err));
    fails("verify-export " MODEL " " OUT ".gguf", 3, "truncated");
    succeeds("export " MODEL " " OUT ".gguf --to gguf"); /* half a GGUF file may go, nothing else */
    fails("export " MODEL " " MODEL "/config.json --to gguf", 2, "config.json is there and no GGUF file");
    str_release(&s);
    fails("export " PM " " OUT ".gguf --to gguf", 2, "scoring model");
}

static void test_import(void **state) {
    (void)state;
    Error err = {0};
    Json *want = logits_of("logits " MODEL " --all", ids), *j;
    Ran r = run("import " MODEL " --json");
    expect_code(&r, "import", 0);
    j = one_object(&r, "import");
    assert_int_equal(json_int(json_get(j, "new_ids"), -1), 0);
    assert_int_equal(json_int(json_get(j, "ids"), -1), 287);
    json_release(j);
    ran_release(&r);

    /* a tokenizer that knows only one of the method's tokens, and that one as an ordinary token */
    Str text = {0}, fewer = {0};
    JsonOut out;
    OK(io_make_dirs(OUT "_in", &err));
    OK(io_copy_file(MODEL "/config.json", OUT "_in/config.json", &err));
    OK(io_copy_file(MODEL "/model.safetensors", OUT "_in/model.safetensors", &err));
    OK(io_read_file(&text, MODEL "/tokenizer.json", 1 << 20, &err));
    OK(json_parse(&j, text.s, text.n, 0, "tokenizer.json", 1, &err));
    json_out_init(&out, &fewer, 0);
    json_out_obj(&out, NULL);
    for (int i = 0; i < json_len(j); i++) {
        const Json *value;
        const char *key = json_key_at(j, i, &value);
        if (strcmp(key, "added_tokens") != 0 && strcmp(key, "model") != 0) json_out_node(&out, key, value);
    }
    const Json *model = json_get(j, "model"), *vocab = json_get(model, "vocab"), *id;
    json_out_obj(&out, "model");
    json_out_str(&out, "type", "BPE");
    json_out_obj(&out, "vocab");
    for (int i = 0; i < json_len(vocab); i++) {
        const char *key = json_key_at(vocab, i, &id);
        char other[32]; /* ids have no holes: what is left out is another word in its place */
        snprintf(other, sizeof other, "word%d", i);
        bool keep = key[0] != '<' || strcmp(key, "<|judge|>") == 0 || !key[1];
        json_out_node(&out, keep ? key : other, id);
    }
    json_out_obj_end(&out);
    json_out_node(&out, "merges", json_get(model, "merges"));
    json_out_obj_end(&out);
    json_out_obj_end(&out);
    OK(io_write_file(OUT "_in/tokenizer.json", fewer.s, fewer.n, &err));
    json_release(j);

    r = run("import " OUT "_in " OUT "_own --json");
    expect_code(&r, "import OUT", 0);
    j = one_object(&r, "import OUT");
    assert_int_equal(json_int(json_get(j, "new_ids"), -1), SENT_COUNT - 1);
    assert_int_equal(json_int(json_get(j, "ids"), -1), 287 + SENT_COUNT - 1);
    json_release(j);
    ran_release(&r);
    Tokenizer *tok;
    Chat chat;
    OK(tokenizer_open(&tok, OUT "_own", &err) && chat_init(&chat, tok, &err));
    assert_true(chat.id[SENT_JUDGE] < SENT_COUNT && chat.id[SENT_USER] >= 287);
    tokenizer_close(tok);
    Json *got = logits_of("logits " OUT "_own --all", ids);
    const Json *x = json_at(json_get(want, "logits"), 4), *y = json_at(json_get(got, "logits"), 4);
    assert_int_equal(json_len(y), 287 + SENT_COUNT - 1);
    for (int k = 0; k < 287; k++) assert_true(json_num(json_at(x, k), 0) == json_num(json_at(y, k), 1));
    json_release(got);
    json_release(want);
    str_release(&text);
    str_release(&fewer);
    fails("import " PM " " OUT "_x", 2, "scoring model");
    fails("import " MODEL " " MODEL "/", 2, "is the folder to import");
    fails("import " OUT, 4, "no model here");
}

static void test_notes(void **state) {
    (void)state;
    Error err = {0};
    OK(io_make_dirs(OUT "_nan", &err));
    OK(io_copy_file(MODEL "/config.json", OUT "_nan/config.json", &err));
    Str s = {0};
    static const unsigned char nan[4] = {0, 0, 0xc0, 0x7f};
    OK(io_read_file(&s, MODEL "/model.safetensors", 1 << 24, &err));
    memcpy(s.s + s.n - 4, nan, 4);
    OK(io_write_file(OUT "_nan/model.safetensors", s.s, s.n, &err));
    Ran r = run("import " OUT "_nan");
    expect_code(&r, "import", 0);
    expect_holds(&r.err, "1 of 32 values are NaN, 0 infinite");
    expect_holds(&r.out, "tokenizer: not usable");
    ran_release(&r);
    str_release(&s);
}

static void test_score_tokens(void **state) {
    (void)state;
    const char row[] = "{\"context\":\"the judge\",\"continuation\":\" reads the rules\"}\n";
    Ran r = run_in("score " MODEL " --json", row, sizeof row - 1);
    expect_code(&r, "score --json", 0);
    Json *j = one_object(&r, "score --json");
    const Json *it = json_at(json_get(j, "rows"), 0), *each = json_get(it, "logprobs");
    double sum = 0;
    assert_true(json_len(each) > 2 && json_len(each) == json_len(json_get(it, "ids")));
    for (int i = 0; i < json_len(each); i++) sum += json_num(json_at(each, i), NAN);
    assert_true(fabs(sum - json_num(json_get(it, "logprob"), NAN)) < 1e-9);
    json_release(j);
    ran_release(&r);
}

/* -- adapters -------------------------------------------------------------------------------------------------------
 */

#define ADAPTER DIR "/stage/adapter"
#define SCORED DIR "/scored"

/* A new adapter's b is zero. */
static void train_b(void *ud, int index, const ParamInfo *p) {
    if (!strstr(p->name, "lora_B")) return;
    float *x = mem_alloc((size_t)tensor_count(p->w) * sizeof *x);
    for (int64_t i = 0; i < tensor_count(p->w); i++)
        x[i] = (float)(0.3 * rng_normal((Rng){8, RNG_TEST}, (uint64_t)i, (uint32_t)index));
    tensor_set_f32(ud, p->w, x);
    free(x);
}

/* A language model's and a scoring model's, both over MODEL, named by the folder that they are for. */
static void make_adapters(void) {
    static const char *const target[] = {"q_proj", "down_proj"};
    Pool *pool;
    Backend *be;
    Model m;
    Head lm, score;
    Adapter *a;
    Error err = {0};
    LoraConfig lora = {.r = 3, .alpha = 6, .target = target, .n_target = 2, .base = MODEL};
    OK(pool_open(&pool, 1, &err) && backend_open(&be, "cpu", pool, NULL, &err));
    OK(model_open(&m, be, MODEL, false, &err) && head_open(&lm, &m, HEAD_LM, MODEL, false, &err));
    OK(head_init(&score, &m, HEAD_SCORE, 1, 6, false, &err) && adapter_init(&a, &m, &lora, 1, false, &err));
    net_visit((Net){&m, &lm, a}, train_b, be);
    OK(adapter_save((Net){&m, &lm, a}, ADAPTER, &err) && adapter_save((Net){&m, &score, a}, SCORED, &err));
    adapter_close(a);
    head_release(&lm), head_release(&score);
    model_release(&m);
    backend_close(be);
    pool_close(pool);
}

static void test_adapter(void **state) {
    (void)state;
    Error err = {0};
    make_adapters();
    Json *base = logits_of("logits " MODEL " --all", ids);
    Json *want = logits_of("logits " MODEL " --all --adapter " ADAPTER, ids);
    const Json *x = json_at(json_at(json_get(base, "logits"), 3), 7),
               *y = json_at(json_at(json_get(want, "logits"), 3), 7);
    assert_true(fabs(json_num(x, 0) - json_num(y, 0)) > 1e-3);
    same_logits(ADAPTER, want, ids, 0);                          /* it names its base */
    same_logits(MODEL " --adapter " DIR "/stage", want, ids, 0); /* a stage's output */
    succeeds("export " MODEL " " OUT "_merged --to hf --adapter " ADAPTER);
    same_logits(OUT "_merged", want, ids, 1e-4);
    succeeds("export " ADAPTER " " OUT "_lora --to lora");
    static const char *const file[] = {"adapter_model.safetensors", "adapter_config.json"};
    for (int i = 0; i < 2; i++) {
        char path[2][256];
        Str text[2] = {{0}, {0}};
        snprintf(path[0], sizeof path[0], "%s/%s", ADAPTER, file[i]);
        snprintf(path[1], sizeof path[1], "%s_lora/%s", OUT, file[i]);
        for (int k = 0; k < 2; k++) OK(io_read_file(&text[k], path[k], 1 << 20, &err));
        assert_string_equal(text[0].s + text[0].n / 2, text[1].s + text[1].n / 2);
        assert_true(text[0].n == text[1].n && !memcmp(text[0].s, text[1].s, text[0].n));
        str_release(&text[0]), str_release(&text[1]);
    }
    Json *greedy[2] = {logits_of("logits " MODEL " --greedy 12 --adapter " ADAPTER, ids),
                       logits_of("logits " OUT "_merged --greedy 12", ids)};
    for (int i = 0; i < 12; i++)
        assert_int_equal(json_int(json_at(json_get(greedy[0], "greedy"), i), -1),
                         json_int(json_at(json_get(greedy[1], "greedy"), i), -2));
    Json *reward = logits_of("logits " SCORED, ids);
    assert_true(isfinite(json_num(json_get(reward, "reward"), NAN)));
    succeeds("export " SCORED " " OUT "_pm --to hf");
    Json *merged = logits_of("logits " OUT "_pm", ids);
    assert_true(fabs(json_num(json_get(reward, "reward"), 0) - json_num(json_get(merged, "reward"), 9)) < 1e-4);
    Json *const all[] = {base, want, greedy[0], greedy[1], reward, merged};
    for (int i = 0; i < COUNT_OF(all); i++) json_release(all[i]);
}

static void test_adapter_refused(void **state) {
    (void)state;
    Error err = {0};
    Str text = {0};
    fails("export " MODEL " " OUT "_no --to lora", 2, "has no adapter");
    fails("export " ADAPTER " " OUT "_no --to lora --dtype bf16", 2, "an adapter is written as F32");
    fails("export " ADAPTER " " ADAPTER " --to lora", 2, "name another");
    fails("export " MODEL " " OUT "_no --to peft", 2, "expected hf, gguf or lora");
    fails("logits " MODEL " --adapter " PM, 4, "no adapter here");
    OK(io_read_file(&text, ADAPTER "/adapter_config.json", 1 << 16, &err));
    char *at = strstr(text.s, MODEL "\"");
    assert_non_null(at);
    *at = '?';
    OK(io_write_file(ADAPTER "/adapter_config.json", text.s, text.n, &err));
    fails("logits " ADAPTER, 4, "name the base's folder, and this one behind --adapter");
    succeeds("generate " MODEL " --adapter " ADAPTER " --prompt hi --max-new 2");
    str_release(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits),  cmocka_unit_test(test_export_hf),       cmocka_unit_test(test_export_gguf),
        cmocka_unit_test(test_import),  cmocka_unit_test(test_notes),           cmocka_unit_test(test_score_tokens),
        cmocka_unit_test(test_adapter), cmocka_unit_test(test_adapter_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
