/* dikast generate: one prompt, one or more texts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/open.h"

static const Flag flags[] = {{"--prompt", "TEXT", "what to answer or continue; - or none: standard input"},
                             {"--raw", NULL, "continue the text itself; else it is a user's turn and the reply comes"},
                             {"--system", "TEXT", "system message"},
                             {"--n", "N", "how many texts (default 1)"},
                             SAMPLE_FLAGS("256"),
                             MODEL_FLAGS,
                             {0}};

typedef struct {
    TextStream stream;
    bool on;
} Show;

static void show_hook(void *ud, uint64_t id, const int32_t *text, int n, GenRule *rule) {
    Show *s = ud;
    (void)id, (void)rule;
    if (s->on) stream_put(&s->stream, text, n);
}

typedef struct {
    int32_t id[MODEL_MAX_EOS + 1];
    int n;
} Stops;

static bool build_prompt(Sequence *s, const OpenModel *m, const Args *a, const char *text, size_t n, Stops *stop,
                         Error *err) {
    const char *system = args_flag(a, &command_generate, "--system");
    if (args_flag(a, &command_generate, "--raw")) {
        int32_t begin = open_model_begin(m);
        if (system) return error_set(err, ERR_CONFIG, "--system is part of a dialogue, it does not go with --raw");
        if (n == 0 && !open_model_begin_empty(m, &begin, err)) return false;
        if (begin >= 0) sequence_put(s, begin, 0);
        tokenizer_encode(m->tok, text, n, &s->tok);
        if (begin >= 0) stop->id[stop->n++] = begin; /* where the next text would begin, this one ends */
        for (int i = 0; i < m->model.tokens.n_eos; i++) stop->id[stop->n++] = m->model.tokens.eos[i];
        return true;
    }
    if (!m->has_chat) {
        *err = m->no_chat;
        return error_wrap(err, "%s: no dialogue with this model (--raw continues plain text)", str_get(&m->dir));
    }
    Message msg[2];
    int k = 0;
    if (system) msg[k++] = (Message){ROLE_SYSTEM, system};
    msg[k++] = (Message){ROLE_USER, text};
    chat_respond(s, &m->chat, (Dialogue){msg, k});
    stop->n = chat_stops(&m->chat, m->model.tokens.eos, m->model.tokens.n_eos, stop->id);
    return sequence_ok(s, err);
}

static const char *stop_word(StopReason why) {
    return why == STOP_TOKEN ? "end" : why == STOP_LENGTH ? "length" : "context";
}

static void print_json(const OpenModel *m, int n_prompt, const GenResult *r, int n, double seconds) {
    Str text = {0}, piece = {0};
    JsonOut j;
    int64_t total = 0;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-generate/1");
    json_out_str(&j, "model", str_get(&m->dir));
    json_out_int(&j, "prompt_tokens", n_prompt);
    json_out_arr(&j, "samples");
    for (int i = 0; i < n; i++) {
        total += r[i].n;
        str_clear(&piece);
        tokenizer_decode(m->tok, r[i].text, r[i].n, false, &piece);
        json_out_obj(&j, NULL);
        json_out_strn(&j, "text", str_get(&piece), piece.n);
        json_out_str(&j, "stop", stop_word(r[i].why));
        json_out_arr(&j, "ids");
        for (int k = 0; k < r[i].n; k++) json_out_int(&j, NULL, r[i].text[k]);
        json_out_arr_end(&j);
        json_out_arr(&j, "logprobs");
        for (int k = 0; k < r[i].n; k++) json_out_num(&j, NULL, (double)r[i].logprob[k]);
        json_out_arr_end(&j);
        json_out_obj_end(&j);
    }
    json_out_arr_end(&j);
    json_out_num(&j, "seconds", seconds);
    json_out_num(&j, "tok_s", seconds > 0 ? (double)total / seconds : 0);
    json_out_obj_end(&j);
    print_text(&text);
    str_release(&piece);
}

static void print_all(const OpenModel *m, const GenResult *r, int n) {
    for (int i = 0; i < n; i++) {
        TextStream s;
        stream_open(&s, m->tok);
        stream_put(&s, r[i].text, r[i].n);
        stream_end(&s);
        printf("\n%s", i + 1 < n ? "---\n" : "");
    }
}

static bool generate(const Args *a, const OpenModel *m, const Sequence *prompt, const SampleParams *p, int n,
                     Error *err) {
    GenRequest *req = mem_alloc((size_t)n * sizeof *req);
    GenResult *res = mem_alloc((size_t)n * sizeof *res);
    Show show = {.on = n == 1 && !a->json};
    stream_open(&show.stream, m->tok);
    for (int i = 0; i < n; i++) {
        req[i] = (GenRequest){.id = (uint64_t)i, .prompt = {prompt->tok.id, prompt->tok.n}, .sample = *p};
        req[i].sample.hook = show_hook;
        req[i].sample.hook_ud = &show;
    }
    double start = now_s();
    bool ok = engine_generate(m->engine, req, n, res, n > 64 ? a->log : NULL, NULL, err);
    if (ok && show.on) stream_put(&show.stream, res[0].text, res[0].n);
    stream_end(&show.stream);
    if (show.on)
        printf("\n");
    else if (ok && a->json)
        print_json(m, prompt->tok.n, res, n, now_s() - start);
    else if (ok)
        print_all(m, res, n);
    if (ok) engine_free_results(res, n);
    free(req);
    free(res);
    return ok;
}

static bool run(const Args *a, Error *err) {
    const Command *self = &command_generate;
    const char *given = args_flag(a, self, "--prompt");
    SampleParams p;
    int64_t n;
    Stops stop = {0};
    OpenModel m;
    if (!sampling_read(&p, a, self, 256, err) || !args_int(a, self, "--n", 1, 1, 100000, &n, err) ||
        !open_model(&m, a, self, err))
        return false;
    Str text = {0};
    Sequence prompt = {0};
    bool ok = open_model_need(&m, HEAD_LM, err);
    if (ok && given && strcmp(given, "-"))
        str_put(&text, given);
    else if (ok)
        ok = read_stdin(&text, err);
    /* The newline that ends a line typed or piped is no part of a question. */
    if (ok && !args_flag(a, self, "--raw") && text.n > 0 && text.s[text.n - 1] == '\n') text.s[--text.n] = 0;
    ok = ok && build_prompt(&prompt, &m, a, str_get(&text), text.n, &stop, err);
    if (ok && prompt.tok.n >= m.model.cfg.max_seq)
        ok = error_set(err, ERR_FORMAT, "the prompt has %d tokens, the model's context holds %d", prompt.tok.n,
                       m.model.cfg.max_seq);
    p.stop = stop.id;
    p.n_stop = stop.n;
    ok = ok && generate(a, &m, &prompt, &p, (int)n, err);
    sequence_release(&prompt);
    str_release(&text);
    open_model_close(&m);
    return ok;
}

const Command command_generate = {
    .name = "generate",
    .usage = "generate MODEL [--prompt TEXT|-] [--raw] [flags]",
    .help = "answer a prompt, or continue a text\n\n"
            "MODEL is a folder with config.json, model.safetensors and tokenizer.json, or a stage's output. Equal "
            "flags give\n"
            "equal texts, whatever the number of threads. Several texts are separated by lines of ---.",
    .flag = flags,
    .min_arg = 1,
    .max_arg = 1,
    .run = run};
