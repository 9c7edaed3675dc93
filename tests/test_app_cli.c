// layer: app
/* The program itself, in processes of its own: help, exit codes, what goes to stdout, signals, and each command on a
 * tiny random model. DIKAST_WRITE_GOLDEN=1 writes the help files anew. */
#include "cli_help.h"

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

/* -- help -------------------------------------------------------------------------------------------------------- */

static void golden(const char *line, const char *file) {
    Str want = {0};
    Error err = {0};
    Ran r = run(line);
    expect_code(&r, line, 0);
    assert_int_equal(r.err.n, 0);
    char path[512];
    snprintf(path, sizeof path, TEST_DIR "/golden/%s", file);
    if (getenv("DIKAST_WRITE_GOLDEN")) OK(io_write_file(path, str_get(&r.out), r.out.n, &err));
    OK(io_read_file(&want, path, 1 << 20, &err));
    if (strcmp(str_get(&want), str_get(&r.out)))
        fail_msg("dikast %s differs from %s:\n%s", line, path, str_get(&r.out));
    str_release(&want);
    ran_release(&r);
}

static const char *const documented[] = {"answer",        "bench",
                                         "chat",          "ckpt",
                                         "compare",       "completion",
                                         "config",        "consistency",
                                         "constitution",  "contamination",
                                         "data",          "diff",
                                         "doctor",        "eval",
                                         "export",        "generate",
                                         "harm",          "import",
                                         "init",          "launch",
                                         "logits",        "ls",
                                         "monitor",       "oracle",
                                         "paraphrase",    "plan",
                                         "rank",          "rate",
                                         "replay",        "run",
                                         "score",         "stage",
                                         "tokenize",      "train-classifier",
                                         "verify-export", "why"};

static void test_help(void **state) {
    (void)state;
    golden("--help", "help.txt");
    golden("help", "help.txt");
    golden("-h", "help.txt");
    for (int i = 0; i < COUNT_OF(documented); i++) {
        char line[64], file[64];
        snprintf(file, sizeof file, "help_%s.txt", documented[i]);
        snprintf(line, sizeof line, "%s --help", documented[i]);
        golden(line, file);
        snprintf(line, sizeof line, "help %s", documented[i]);
        golden(line, file);
    }
    Ran r = run("help rl");
    expect_code(&r, "help rl", 0);
    expect_holds(&r.out, "rl.lr ");
    ran_release(&r);
}

/* CPU seconds in which the program starts and ends; the sanitizer's own start takes as long again, and more on a slow
 * machine. */
#ifdef __SANITIZE_ADDRESS__
#define START_S 0.5
#else
#define START_S 0.05
#endif

static void test_version(void **state) {
    (void)state;
    double least = 1e9;
    char backends[64], want[128];
    backend_names(backends, sizeof backends, ", ");
    snprintf(want, sizeof want, "dikast " DIKAST_VERSION " (%s)\n", backends);
    for (int i = 0; i < 5; i++) {
        Ran r = run("--version");
        expect_code(&r, "--version", 0);
        assert_string_equal(str_get(&r.out), want);
        if (r.cpu_s < least) least = r.cpu_s;
        ran_release(&r);
    }
    if (least >= START_S) fail_msg("%.3f s to say the version, expected less than %.2f", least, START_S);
    Ran r = run("version --json");
    Json *j = one_object(&r, "version --json");
    assert_string_equal(member(j, "version"), DIKAST_VERSION);
    assert_string_equal(member(j, "backends"), backends);
    json_release(j);
    ran_release(&r);
}

/* -- exit codes and errors --------------------------------------------------------------------------------------- */

static const struct {
    const char *line;
    int code;
    const char *says;
} wrong[] = {
    {"", 2, "usage"},
    {"chatt " MODEL, 2, "did you mean 'chat'"},
    {"gen " MODEL, 2, "did you mean 'generate'"},
    {"zzzzzz", 2, "unknown command 'zzzzzz'; "},
    {"helpp", 2, "did you mean 'help'"},
    {"help rl.betta", 2, "did you mean 'rl.beta'"},
    {"help constitutoin", 2, "did you mean 'constitution'"},
    {"help zzzzzz", 2, "'zzzzzz'"},
    {"generate " MODEL " --temprature 1", 2, "did you mean '--temperature'"},
    {"generate " MODEL " --temprature=1", 2, "did you mean '--temperature'"},
    {"generate " MODEL " --jso", 2, "did you mean '--json'"},
    {"generate " MODEL " --seed", 2, "--seed needs N"},
    {"generate " MODEL " --raw=1", 2, "takes no value"},
    {"generate " MODEL " --temperature warm", 2, "must be a number, found 'warm'"},
    {"generate " MODEL " --temperature -1", 2, "must lie in 0..100"},
    {"generate " MODEL " --temperature nan", 2, "must lie in 0..100"},
    {"generate " MODEL " --max-new 2.5", 2, "whole number"},
    {"generate " MODEL " --n 0", 2, "must lie in 1..100000"},
    {"generate " MODEL " --raw --system x --prompt y", 2, "--system"},
    {"generate", 2, "usage: dikast generate"},
    {"chat " MODEL " more", 2, "unexpected argument 'more'"},
    {"chat " PM, 2, "scoring model"},
    {"chat " MODEL " --isa avx1024", 2, "avx1024"},
    {"chat " MODEL " --device tpu", 2, "unknown backend 'tpu', expected cpu or ref"},
    {"chat " MODEL " --device cpu:1", 2, "'cpu:1': expected cpu"},
    {"bench fly", 2, "no benchmark 'fly'"},
    {"bench train --model z", 2, "a, b, c, d or e"},
    {"bench tokenize", 2, "--file"},
    {"bench load", 2, "--file"},
    {"bench ppo --seqs 32 --minibatch 5", 2, "no multiple of --minibatch 5"},
    {"bench grpo --group 5", 2, "groups of --group 5"},
    {"bench ppo --plen 1000", 2, "context of 1024"},
    {"constitution convert --hash x", 2, "takes no --hash"},
    {"tokenize " MODEL " --ids --count", 2, "choose one"},
    {"config rl.lrr=1", 2, "did you mean 'rl.lr'"},
    {"config lr=1", 2, "unknown key 'lr' (it needs its section: 'pretrain.lr', "},
    {"config model_name_or_path=x", 2, "here it is 'model.path'"},
    {"run " DIR "/absent.yaml", 2, "absent.yaml"},
    {"run tiny", 2, "'dikast init tiny' writes conf/tiny.yaml"},
    {"run " TEST_DIR "/../conf/tinny.yaml", 2, "/../conf/tiny.yaml'?"},
    {"run " TEST_DIR "/../conf/constitution.json", 2, "is a constitution, expected a configuration"},
    {"run x.yaml rl.lr 3", 2, "a key is set by 'rl.lr=VALUE'"},
    {"run x.yaml --rl.lr=3", 2, "a key is set by 'rl.lr=VALUE'"},
    {"plan", 2, "as in 'dikast plan conf/real.yaml'"},
    {"monitor " DIR, 2, "is no run directory"},
    {"why pr-1 --run " DIR, 2, "is no run directory"},
    {"chat " DIR "/absent", 4, "no model here"},
    {"tokenize " DIR "/absent", 4, "absent"},
    {"constitution show " DIR "/absent", 4, "absent"},
    {"score " MODEL " " DIR "/absent", 4, "absent"},
    {"why pr-1 --out " DIR "/absent", 4, "absent"},
};

static void test_exit_codes(void **state) {
    (void)state;
    for (int i = 0; i < COUNT_OF(wrong); i++) {
        Ran r = run(wrong[i].line);
        expect_code(&r, wrong[i].line, wrong[i].code);
        expect_holds(&r.err, wrong[i].says);
        assert_int_equal(r.out.n, 0);
        ran_release(&r);
    }
}

static const struct {
    const char *line, *in, *says;
} bad_data[] = {
    {"score " MODEL, "{\"prompt\":\"a\",\"continuation\":\" b\"}\n{\"prompt\":1,\"continuation\":\"b\"}\n",
     ":2: expected a string at 'prompt'"},
    {"score " MODEL, "{\"prompt\":\"a\"}\n", "continuation"},
    {"score " MODEL, "{\"prompt\":\"a\",\"continuation\":\"\"}\n", "empty"},
    {"score " MODEL, "no json\n", ":1:"},
    {"score " PM, "{\"prompt\":\"a\"}\n", "response"},
    {"tokenize " MODEL " --decode", "1 2 x", "found 'x'"},
    {"tokenize " MODEL " --decode", "1 99999", "99999"},
    {"tokenize " MODEL " --decode", "-1", "-1"},
    {"tokenize " MODEL " --decode --binary", "abc", "multiple of 4"},
    {"constitution show " DIR "/stdin", "{\"schema\":1}", "stdin:1:"},
};

static void test_bad_data(void **state) {
    (void)state;
    Error err = {0};
    for (int i = 0; i < COUNT_OF(bad_data); i++) {
        Ran r = run_in(bad_data[i].line, bad_data[i].in, strlen(bad_data[i].in));
        expect_code(&r, bad_data[i].line, 3);
        expect_holds(&r.err, bad_data[i].says);
        ran_release(&r);
    }
    OK(io_make_dirs(DIR "/broken", &err) && io_copy_file(MODEL "/tokenizer.json", DIR "/broken/tokenizer.json", &err) &&
       io_copy_file(MODEL "/config.json", DIR "/broken/config.json", &err));
    OK(io_write_file(DIR "/broken/model.safetensors", "short", 5, &err));
    Ran r = run("generate " DIR "/broken --prompt x");
    expect_code(&r, "generate broken", 3);
    expect_holds(&r.err, "model.safetensors");
    ran_release(&r);
}

static void test_config_errors_at_once(void **state) {
    (void)state;
    Error err = {0};
    static const char conf[] = "run:\n  sede: 1\nrl:\n  lr: fast\n  temperature: -3\nmodle:\n  d_model: 4\n";
    OK(io_write_file(DIR "/bad.yaml", conf, sizeof conf - 1, &err));
    static const char *const lines[] = {"run " DIR "/bad.yaml", "stage pm " DIR "/bad.yaml", "config " DIR "/bad.yaml"};
    for (int i = 0; i < COUNT_OF(lines); i++) {
        Ran r = run(lines[i]);
        expect_code(&r, lines[i], 2);
        expect_holds(&r.err, "bad.yaml:2:3: error:");
        expect_holds(&r.err, "run.seed");
        expect_holds(&r.err, "bad.yaml:4:7: error:");
        expect_holds(&r.err, "bad.yaml:5:16: error:");
        expect_holds(&r.err, "bad.yaml:7:3: error:");
        expect_holds(&r.err, "4 errors");
        assert_int_equal(r.out.n, 0);
        ran_release(&r);
    }
}

/* -- stdout
 * ------------------------------------------------------------------------------------------------------------ */

static const struct {
    const char *line, *in;
    int code;
    const char *key, *value;
} json_lines[] = {
    {"config --json", "", 0, "schema", "dikast-config/1"},
    {"generate " MODEL " --prompt judge --max-new 3 --json", "", 0, "schema", "dikast-generate/1"},
    {"generate " MODEL " --prompt judge --n 3 --max-new 3 --json", "", 0, "schema", "dikast-generate/1"},
    {"tokenize " MODEL " --json", "the judge", 0, "schema", "dikast-tokenize/1"},
    {"score " MODEL " --json", "{\"prompt\":\"a\",\"continuation\":\"b\"}\n", 0, "schema", "dikast-score/1"},
    {"chat " MODEL " --max-new 3 --json", "hello\n", 0, "schema", "dikast-chat/1"},
    {"bench train --model c --batch 1 --seq 16 --steps 1 --warmup 0 --threads 1 --json", "", 0, "case", "train/c/1x16"},
    {"doctor --json", "", 0, "schema", "dikast-doctor/1"},
    {"config rl.lrr=1 --json", "", 2, "status", "config"},
    {"run absent.yaml --json", "", 2, "error", "1 error in the configuration"},
    {"generate " MODEL " --n 0 --json", "", 2, "status", "config"},
    {"score " MODEL " --json", "x\n", 3, "status", "format"},
    {"chat absent --json", "", 4, "status", "io"},
};

static void test_json(void **state) {
    (void)state;
    for (int i = 0; i < COUNT_OF(json_lines); i++) {
        const char *line = json_lines[i].line;
        Ran r = run_in(line, json_lines[i].in, strlen(json_lines[i].in));
        expect_code(&r, line, json_lines[i].code);
        Json *j = one_object(&r, line);
        if (strcmp(member(j, json_lines[i].key), json_lines[i].value))
            fail_msg("dikast %s: %s is '%s'", line, json_lines[i].key, member(j, json_lines[i].key));
        if (json_lines[i].code) {
            assert_int_equal(json_int(json_get(j, "code"), 0), json_lines[i].code);
            assert_true(r.err.n > 0);
        }
        json_release(j);
        ran_release(&r);
    }
}

static void test_closed_stdout(void **state) {
    (void)state;
    static const char *const lines[] = {"config --keys", "--help", "chat " MODEL " --max-new 5",
                                        "bench train --model c --batch 1 --seq 16 --steps 1 --warmup 0"};
    for (int i = 0; i < COUNT_OF(lines); i++) {
        int fd[2];
        assert_int_equal(pipe(fd), 0);
        close(fd[0]);
        Call gone = {.in = "a\nb\n", .n_in = 4, .out_fd = fd[1]}, closed = {.in = "a\nb\n", .n_in = 4, .out_path = ""};
        Ran r = run_call(&gone, lines[i]);
        close(fd[1]);
        expect_code(&r, lines[i], 0);
        assert_int_equal(r.err.n, 0);
        ran_release(&r);
        r = run_call(&closed, lines[i]);
        expect_code(&r, lines[i], 0);
        ran_release(&r);
    }
    Call full = {.out_path = "/dev/full"};
    Ran r = run_call(&full, "config --keys");
    expect_code(&r, "config --keys >/dev/full", 4);
    expect_holds(&r.err, "standard output");
    ran_release(&r);
}

/* -- signals
 * ----------------------------------------------------------------------------------------------------------- */

static void nap(void) { nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL); }

static bool has_stage(const char *name) {
    char **names;
    int n;
    Error err = {0};
    if (!io_list_dir(&names, &n, DIR "/out/store", &err)) return false;
    bool found = false;
    for (int i = 0; i < n; i++) found = found || !strncmp(names[i], name, strlen(name));
    io_free_list(names, n);
    return found;
}

/* A command without state dies of the signal; a run saves its state and says 75. */
static void test_signals(void **state) {
    (void)state;
    static const int sigs[] = {SIGTERM, SIGINT};
    for (int i = 0; i < COUNT_OF(sigs); i++) {
        int fd[2];
        assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
        Call c = {.in_fd = fd[0]};
        words(&c, "score " MODEL);
        pid_t pid = start(&c);
        close(fd[0]);
        for (int k = 0; k < 20; k++) nap();
        kill(pid, sigs[i]);
        Ran r = finish(pid);
        assert_int_equal(r.sig, sigs[i]);
        close(fd[1]);
        ran_release(&r);
        call_release(&c);
    }
    Call c = {0};
    words(&c, "run " TEST_DIR "/../conf/quickstart.yaml run.out=" DIR "/out run.threads=1 world.sft_rows=4000 --json");
    pid_t pid = start(&c);
    for (int k = 0; k < 2000 && !has_stage("pretrain"); k++) nap();
    kill(pid, SIGTERM);
    Ran r = finish(pid);
    expect_code(&r, "run, SIGTERM", 75);
    expect_holds(&r.err, "stopping");
    Json *j = one_object(&r, "run, SIGTERM");
    assert_string_equal(member(j, "status"), "stopped");
    json_release(j);
    ran_release(&r);
    call_release(&c);
}

#define SLOW DIR "/slow"
static void make_slow(void) {
    Pool *pool;
    Backend *be;
    Model m;
    Head h;
    Error err = {0};
    ModelConfig c;
    OK(pool_open(&pool, 1, &err));
    OK(backend_open(&be, "cpu", pool, NULL, &err));
    OK(model_config_read(&c, MODEL, &err));
    c.n_layer = 4, c.max_seq = 16384, c.tied = false, c.eos_id = SENT_END;
    OK(model_init(&m, be, &c, 5, false, &err));
    OK(head_init(&h, &m, HEAD_LM, c.n_vocab, 5, false, &err));
    be->op->scale(be, h.w, 10);
    double *nothing = mem_alloc((size_t)h.w.cols * sizeof *nothing);
    tensor_set_row(be, h.w, SENT_END, nothing); /* never the likeliest: replies last for seconds */
    free(nothing);
    OK(io_make_dirs(SLOW, &err) && net_save((Net){&m, &h, NULL}, SLOW, &err));
    OK(io_copy_file(MODEL "/tokenizer.json", SLOW "/tokenizer.json", &err));
    head_release(&h);
    model_release(&m);
    backend_close(be);
    pool_close(pool);
}

/* SIGINT ends a reply, of which is printed what there is, and on a pipe the program too. */
static void test_chat_interrupted(void **state) {
    (void)state;
    make_slow();
    Call c = {.in = "the judge\nthe judge\n", .n_in = 20};
    words(&c, "chat " SLOW " --temperature 0 --max-new 16000 --threads 2");
    unlink(DIR "/stdout");
    pid_t pid = start(&c);
    for (int k = 0; k < 4000 && io_size(DIR "/stdout") <= 0; k++) nap(); /* the first block of a long reply */
    kill(pid, SIGINT);
    Ran r = finish(pid);
    assert_int_equal(r.sig, SIGINT);
    assert_true(r.out.n > 1000 && r.out.n < 16000);
    assert_int_equal(r.out.s[r.out.n - 1], '\n');
    ran_release(&r);
    call_release(&c);
}

/* -- commands
 * ---------------------------------------------------------------------------------------------------------- */

static void test_tokenize_round_trip(void **state) {
    (void)state;
    char text[1500];
    Rng rng = {11, RNG_TEST};
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = i < 700 ? (char)rng_u32(rng, i, 0) : "the judge reads it's 12 \n"[rng_below(rng, i, 1, 25)];
    static const char *const there[] = {"tokenize " MODEL, "tokenize " MODEL " - --ids",
                                        "tokenize " MODEL "/tokenizer.json --binary"};
    static const char *const back[] = {"tokenize " MODEL " --decode", "tokenize " MODEL " --decode",
                                       "tokenize " MODEL " --decode --binary"};
    for (int i = 0; i < COUNT_OF(there); i++) {
        Ran ids = run_in(there[i], text, sizeof text);
        expect_code(&ids, there[i], 0);
        assert_true(ids.out.n > 0);
        Ran again = run_in(back[i], ids.out.s, ids.out.n);
        expect_code(&again, back[i], 0);
        assert_int_equal(again.out.n, sizeof text);
        assert_memory_equal(again.out.s, text, sizeof text);
        ran_release(&ids);
        ran_release(&again);
    }
    Ran count = run_in("tokenize " MODEL " --count", "the judge", 9),
        pieces = run_in("tokenize " MODEL " --pieces", "the judge", 9);
    int n = 0;
    for (const char *p = str_get(&pieces.out); *p; p++) n += *p == '\n';
    assert_true(n > 0 && n < 9);
    assert_int_equal(atoi(str_get(&count.out)), n);
    expect_holds(&pieces.out, "\"the\"");
    ran_release(&count);
    ran_release(&pieces);
}

/* JSON lines there and back; a row's id stays, a mistake is named with its line. */
static void test_tokenize_lines(void **state) {
    (void)state;
    static const char rows[] = "{\"id\":7,\"text\":\"the judge reads\"}\n\n{\"text\":\"it's\\u0000 <|end|>\"}\n";
    Ran there = run_in("tokenize " MODEL " --jsonl", rows, sizeof rows - 1);
    expect_code(&there, "tokenize --jsonl", 0);
    Json *j;
    Error err = {0};
    OK(json_parse(&j, there.out.s, strcspn(there.out.s, "\n"), 0, "row", 1, &err));
    int n = json_len(json_get(j, "ids"));
    const Json *offsets = json_get(j, "offsets");
    assert_int_equal(json_int(json_get(j, "id"), -1), 7);
    assert_int_equal(json_int(json_get(j, "bytes"), -1), 15);
    assert_int_equal(json_int(json_get(j, "tokens"), -1), n);
    assert_true(n > 1 && json_len(offsets) == n && json_len(json_get(j, "pieces")) == n);
    for (int i = 0, at = 0; i < n; i++) { /* they cover the text */
        assert_int_equal(json_int(json_at(json_at(offsets, i), 0), -1), at);
        at = (int)json_int(json_at(json_at(offsets, i), 1), -1);
        assert_int_equal(strlen(json_str(json_at(json_get(j, "pieces"), i), NULL)),
                         at - json_int(json_at(json_at(offsets, i), 0), -1));
        if (i == n - 1) assert_int_equal(at, 15);
    }
    json_release(j);
    Ran back = run_in("tokenize " MODEL " --jsonl --decode", there.out.s, there.out.n);
    assert_string_equal(str_get(&back.out),
                        "{\"id\":7,\"text\":\"the judge reads\"}\n{\"text\":\"it's\\u0000 <|end|>\"}\n");
    Ran whole = run_in("tokenize " MODEL " --jsonl --json", "{\"text\":\"a\"}\n{\"text\":\"\"}\n", 25);
    j = one_object(&whole, "tokenize --jsonl --json");
    assert_int_equal(json_len(json_get(j, "rows")), 2);
    json_release(j);
    Ran special = run_in("tokenize " MODEL " --special --count", "<|end|>", 7);
    assert_string_equal(str_get(&special.out), "1\n");
    Ran bad = run_in("tokenize " MODEL " --jsonl", "{\"text\":\"a\"}\n{\"txt\":1}\n", 23);
    expect_code(&bad, "tokenize --jsonl", 3);
    expect_holds(&bad.err, "standard input:2: expected a string at 'text'");
    ran_release(&there);
    ran_release(&back);
    ran_release(&whole);
    ran_release(&special);
    ran_release(&bad);
}

static char *ids_of(const char *line) {
    Ran r = run(line);
    expect_code(&r, line, 0);
    Json *j = one_object(&r, line);
    Str ids = {0};
    JsonOut out;
    json_out_init(&out, &ids, 0);
    json_out_arr(&out, NULL);
    const Json *samples = json_get(j, "samples");
    assert_true(json_len(samples) > 0);
    for (int i = 0; i < json_len(samples); i++) {
        json_out_node(&out, NULL, json_get(json_at(samples, i), "ids"));
        json_out_node(&out, NULL, json_get(json_at(samples, i), "logprobs"));
    }
    json_out_arr_end(&out);
    json_release(j);
    ran_release(&r);
    return str_detach(&ids);
}

static void test_generate_deterministic(void **state) {
    (void)state;
#define SAME "generate " MODEL " --prompt judge --n 5 --max-new 24 --top-p 0.9 --json"
    char *one = ids_of(SAME " --seed 3 --threads 1");
    static const char *const equal[] = {SAME " --seed 3 --threads 1", SAME " --seed 3 --threads 2",
                                        SAME " --seed 3 --threads 3"};
    for (int i = 0; i < COUNT_OF(equal); i++) {
        char *other = ids_of(equal[i]);
        assert_string_equal(one, other);
        free(other);
    }
    char *other = ids_of(SAME " --seed 4 --threads 1");
    assert_string_not_equal(one, other);
    free(other);
    free(one);
    char *greedy = ids_of("generate " MODEL " --raw --prompt judge --max-new 8 --temperature 0 --json"),
         *again = ids_of("generate " MODEL " --raw --prompt judge --max-new 8 --temperature 0 --seed 9 --json");
    assert_string_equal(greedy, again);
    free(greedy);
    free(again);
}

/* What is streamed is the decoded text of the same ids; standard input is a prompt like --prompt. */
static void test_generate_streams(void **state) {
    (void)state;
    Ran j = run("generate " MODEL " --prompt judge --max-new 30 --json");
    Ran text = run("generate " MODEL " --prompt judge --max-new 30"),
        piped = run_in("generate " MODEL " --max-new 30", "judge\n", 6);
    Json *o = one_object(&j, "generate");
    const Json *ids = json_get(json_at(json_get(o, "samples"), 0), "ids");
    Str list = {0};
    for (int i = 0; i < json_len(ids); i++)
        if (json_int(json_at(ids, i), -1) >= SENT_COUNT) str_printf(&list, "%d ", (int)json_int(json_at(ids, i), -1));
    Ran want = run_in("tokenize " MODEL " --decode", list.s, list.n);
    str_putc(&want.out, '\n');
    assert_string_equal(str_get(&text.out), str_get(&want.out));
    assert_string_equal(str_get(&text.out), str_get(&piped.out));
    assert_true(text.out.n > 10);
    str_release(&list);
    json_release(o);
    ran_release(&j), ran_release(&text), ran_release(&piped), ran_release(&want);
}

/* A text's log-prob under generate and under score; greedy says what greedy decoding does. */
static void test_score(void **state) {
    (void)state;
    int n_greedy = 0;
    for (char c = 'a'; c <= 'z' && n_greedy < 3; c++) {
        char line[256];
        snprintf(line, sizeof line, "generate " MODEL " --raw --prompt %c --temperature 0 --max-new 1 --json", c);
        Ran r = run(line);
        Json *j = one_object(&r, line);
        const Json *sample = json_at(json_get(j, "samples"), 0);
        size_t n;
        const char *text = json_str(json_get(sample, "text"), &n);
        if (json_int(json_at(json_get(sample, "ids"), 0), -1) >= SENT_COUNT && n > 0 && (unsigned char)text[0] < 0x80 &&
            text[0] >= 0x20) {
            Str row = {0};
            JsonOut o;
            for (int k = 0; k < 2; k++) { /* the greedy continuation, and another one */
                char prompt[2] = {c, 0}, other[2] = {text[0] == 'x' ? 'y' : 'x', 0};
                json_out_init(&o, &row, 0);
                json_out_obj(&o, NULL);
                json_out_str(&o, "prompt", prompt);
                json_out_str(&o, "continuation", k ? other : text);
                json_out_obj_end(&o);
                str_putc(&row, '\n');
            }
            Ran s = run_in("score " MODEL " --bos --json", row.s, row.n); /* as generate begins */
            Json *rows = one_object(&s, "score");
            const Json *first = json_at(json_get(rows, "rows"), 0), *second = json_at(json_get(rows, "rows"), 1);
            assert_int_equal(json_int(json_get(first, "tokens"), 0), 1);
            assert_true(json_bool(json_get(first, "greedy"), false));
            assert_false(json_bool(json_get(second, "greedy"), true));
            assert_true(json_num(json_get(first, "logprob"), 1) ==
                        json_num(json_at(json_get(sample, "logprobs"), 0), 2));
            assert_true(json_num(json_get(first, "logprob"), 1) > json_num(json_get(second, "logprob"), 1));
            json_release(rows);
            ran_release(&s);
            str_release(&row);
            n_greedy++;
        }
        json_release(j);
        ran_release(&r);
    }
    assert_true(n_greedy > 0);
}

static void test_score_of_preference_model(void **state) {
    (void)state;
    static const char rows[] =
        "{\"prompt\":\"a\",\"response\":\"the judge\"}\n\n{\"prompt\":\"a\",\"response\":\"no\"}\n";
    Ran r = run_in("score " PM, rows, sizeof rows - 1);
    expect_code(&r, "score pm", 0);
    Json *j[2];
    Error err = {0};
    char *end = strchr(str_get(&r.out), '\n');
    assert_non_null(end);
    OK(json_parse(&j[0], r.out.s, (size_t)(end - r.out.s), 0, "row", 1, &err));
    OK(json_parse(&j[1], end + 1, strlen(end + 1), 0, "row", 2, &err));
    assert_int_equal(json_int(json_get(j[1], "line"), 0), 3);
    assert_true(json_num(json_get(j[0], "score"), 0) != json_num(json_get(j[1], "score"), 0));
    json_release(j[0]);
    json_release(j[1]);
    ran_release(&r);
}

/* Twenty turns in a context of 128 tokens: the oldest are forgotten, none fails; each line gets its reply. */
static void test_chat(void **state) {
    (void)state;
    Str in = {0};
    for (int i = 0; i < 20; i++) str_put(&in, "the judge reads the rules\n");
    Ran r = run_in("chat " MODEL " --max-new 12 --system judge --json", in.s, in.n),
        same = run_in("chat " MODEL " --max-new 12 --system judge --json --threads 2", in.s, in.n);
    expect_code(&r, "chat", 0);
    expect_holds(&r.err, "forgotten");
    int n = 0;
    for (const char *p = str_get(&r.out); *p; p++) n += *p == '\n';
    assert_int_equal(n, 20);
    assert_string_equal(str_get(&r.out), str_get(&same.out));
    str_release(&in);
    for (int i = 0; i < 200; i++) str_put(&in, "the judge ");
    str_putc(&in, '\n');
    Ran too_long = run_in("chat " MODEL, in.s, in.n);
    expect_code(&too_long, "chat, a long line", 3);
    expect_holds(&too_long.err, "context holds 128");
    str_release(&in);
    ran_release(&r), ran_release(&same), ran_release(&too_long);
}

/* What config prints is a configuration that resolves to itself. */
static void test_config(void **state) {
    (void)state;
    Error err = {0};
    Ran r = run("config " TEST_DIR "/../conf/quickstart.yaml rl.lr=2e-5");
    expect_code(&r, "config", 0);
    expect_holds(&r.out, "  lr: 2e-05\n");
    OK(io_write_file(DIR "/resolved.yaml", r.out.s, r.out.n, &err));
    Ran again = run("config " DIR "/resolved.yaml");
    assert_string_equal(str_get(&r.out), str_get(&again.out));
    Ran keys = run("config --keys");
    expect_holds(&keys.out, "rl.lr ");
    ran_release(&r), ran_release(&again), ran_release(&keys);
}

static void test_doctor(void **state) {
    (void)state;
    Ran r = run("doctor --json --out " DIR "/doctor");
    Json *j = one_object(&r, "doctor");
    const Json *checks = json_get(j, "checks");
    int n_self = 0;
    for (int i = 0; i < json_len(checks); i++) {
        const Json *c = json_at(checks, i);
        const char *name = member(c, "check");
        bool self = !strncmp(name, "ops ", 4) || !strcmp(name, "training") || !strcmp(name, "tokenizer");
        n_self += self;
        if (self && strcmp(member(c, "state"), "ok")) fail_msg("%s: %s", name, member(c, "value"));
    }
    assert_true(n_self >= 3);
    assert_int_equal(r.code, json_int(json_get(j, "fail"), -1) ? 4 : 0);
    assert_false(io_exists(DIR "/doctor")); /* it leaves nothing */
    json_release(j);
    ran_release(&r);
    r = run("doctor --out /proc/nowhere");
    expect_code(&r, "doctor --out /proc/nowhere", 4);
    expect_holds(&r.out, "fail  disk");
    ran_release(&r);
}

/* Known results, one of them spoilt, and a file that is none. */
static void test_oracle(void **state) {
    (void)state;
    static const char spoilt[] =
        "{\"format\":\"dikast-rl-cases/1\",\"cases\":[{\"id\":\"right\",\"function\":\"soft_bt\","
        "\"tol\":1e-6,\"in\":{\"d\":[0],\"q\":[1]},\"out\":{\"dd\":[-0.5]}},{\"id\":\"wrong\","
        "\"function\":\"soft_bt\",\"tol\":1e-6,\"in\":{\"d\":[0],\"q\":[1]},\"out\":{\"dd\":[-1]}}]}";
    static const char *const lines[] = {"oracle " TEST_DIR "/golden/rl_cases.json --json",
                                        "oracle " DIR "/cases --json", "oracle " DIR "/other --json"};
    static const int code[] = {0, 6, 3}, count[] = {90, 2, 0};
    Error err = {0};
    OK(io_write_file(DIR "/cases", spoilt, sizeof spoilt - 1, &err) && io_write_file(DIR "/other", "{}", 2, &err));
    for (int i = 0; i < COUNT_OF(lines); i++) {
        Ran r = run(lines[i]);
        expect_code(&r, lines[i], code[i]);
        Json *j = one_object(&r, lines[i]);
        const Json *cases = json_get(j, "cases"), *last = json_at(cases, count[i] - 1);
        assert_int_equal(json_len(cases), count[i]);
        for (int k = 0; k < count[i]; k++)
            assert_true(json_bool(json_get(json_at(cases, k), "ok"), false) == (i == 0 || k == 0));
        if (i == 1) assert_true(!strcmp(member(last, "id"), "wrong") && json_num(json_get(last, "max_err"), 0) == 0.5);
        if (i == 2) assert_non_null(strstr(member(j, "error"), "'format'"));
        json_release(j);
        ran_release(&r);
    }
    Ran r = run("oracle " DIR "/cases");
    expect_code(&r, "oracle", 6);
    expect_holds(&r.out, "FAILED wrong");
    expect_holds(&r.out, "2 cases, 1 failed");
    ran_release(&r);
}

/* What a build without CUDA, a machine without a GPU and one with a GPU say. */
static void test_device(void **state) {
    (void)state;
    const char *absent = backend_absent("cuda");
    Ran r = run("score " MODEL " --device cuda --json"), doctor = run("doctor --json");
    Json *j = one_object(&doctor, "doctor");
    const Json *checks = json_get(j, "checks");
    const char *gpu = NULL;
    for (int i = 0; i < json_len(checks); i++) {
        const char *name = member(json_at(checks, i), "check");
        if (!strcmp(name, "cuda") || !strcmp(name, "driver") || !strcmp(name, "gpu"))
            gpu = member(json_at(checks, i), "state");
        assert_false(absent && (!strcmp(name, "nvml") || !strcmp(name, "gpu")));
    }
    assert_non_null(gpu);
    if (absent) {
        expect_code(&r, "score --device cuda", 2);
        expect_holds(&r.err, "backend cuda: this build has none");
        expect_holds(&r.err, "cmake --preset cuda");
        assert_string_equal(gpu, "ok"); /* a build without is a choice */
        Ran d = run("doctor --device cuda");
        expect_code(&d, "doctor --device cuda", 4);
        expect_holds(&d.out, "fail  cuda");
        ran_release(&d);
    } else if (r.code)
        expect_holds(&r.err, "backend cuda: ");
    json_release(j);
    ran_release(&r), ran_release(&doctor);
}

static void test_bench(void **state) {
    (void)state;
    static const struct {
        const char *line, *name;
        const char *field[8];
    } kind[] = {
        {"bench train --model c --batch 2 --seq 24 --steps 2 --warmup 1 --peak 100 --json",
         "train/c/2x24",
         {"tok_s", "tok_s_best", "tok_cpu_s", "step_ms", "fwd_ms", "bwd_ms", "opt_ms", "mfu"}},
        {"bench generate --model c --batch 2 --reps 1 --json",
         "decode/c/x2/16+128",
         {"tok_s", "tok_s_best", "step_tok_s", "batch", "reps", "rss_mb"}},
        {"bench ppo --seqs 4 --plen 5 --new 6 --epochs 2 --minibatch 2 --iters 1 --json",
         "ppo/c/4x(5+6)x2",
         {"iter_s", "iter_s_best", "rollout_s", "score_s", "update_s", "rollout_tok_s", "seqs", "minibatch"}},
        {"bench grpo --seqs 4 --plen 5 --new 6 --group 2 --iters 1 --json",
         "grpo/c/4x(5+6)x4",
         {"iter_s", "rollout_s", "score_s", "update_s", "rollout_tok_s", "iter_cpu_s", "minibatch", "rss_mb"}},
    };
    for (int i = 0; i < COUNT_OF(kind); i++) {
        Ran r = run(kind[i].line);
        expect_code(&r, kind[i].line, 0);
        Json *j = one_object(&r, kind[i].line);
        assert_string_equal(member(j, "case"), kind[i].name);
        assert_string_equal(member(j, "engine"), "dikast");
        for (int k = 0; k < 8 && kind[i].field[k]; k++)
            if (!(json_num(json_get(j, kind[i].field[k]), -1) > 0))
                fail_msg("%s: no %s", kind[i].line, kind[i].field[k]);
        json_release(j);
        ran_release(&r);
    }
    Ran r = run("bench tokenize --vocab 290 --file " TEST_DIR "/golden/help.txt --reps 1");
    expect_code(&r, "bench tokenize", 0);
    expect_holds(&r.out, "bpe-encode/290");
    expect_holds(&r.out, "bpe-decode/290");
    ran_release(&r);
    Str rows = {0};
    Error err = {0};
    for (int i = 0; i < 40; i++)
        str_printf(&rows, "{\"prompt\":\"say %d\",\"chosen\":\"%d\",\"rejected\":\"no\"}\n", i, i);
    if (!io_write_file("t_bench_rows.jsonl", rows.s, rows.n, &err)) fail_msg("%s", err.msg);
    str_release(&rows);
    r = run("bench load --vocab 290 --file t_bench_rows.jsonl --reps 1 --seq 64 --trainer-tok-s 1e5");
    expect_code(&r, "bench load", 0);
    expect_holds(&r.out, "json/rows");
    expect_holds(&r.out, "load/preference");
    expect_holds(&r.out, "rows/s");
    ran_release(&r);
    unlink("t_bench_rows.jsonl");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_version),
        cmocka_unit_test(test_exit_codes),
        cmocka_unit_test(test_bad_data),
        cmocka_unit_test(test_config_errors_at_once),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_closed_stdout),
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_chat_interrupted),
        cmocka_unit_test(test_tokenize_round_trip),
        cmocka_unit_test(test_tokenize_lines),
        cmocka_unit_test(test_generate_deterministic),
        cmocka_unit_test(test_generate_streams),
        cmocka_unit_test(test_score),
        cmocka_unit_test(test_score_of_preference_model),
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_doctor),
        cmocka_unit_test(test_oracle),
        cmocka_unit_test(test_device),
        cmocka_unit_test(test_bench),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
