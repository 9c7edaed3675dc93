/* dikast chat: a dialogue on the terminal, or line by line on a pipe.
 *
 * SIGINT is blocked before the compute threads start (they inherit that) and read through a descriptor: during a reply
 * it ends the reply; between replies it is let through to its default action, which ends the program. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "app/open.h"

static const Flag flags[] = {{"--system", "TEXT", "system message"}, SAMPLE_FLAGS("256"), MODEL_FLAGS, {0}};

typedef struct {
    const Args *a;
    OpenModel m;
    SampleParams p;
    Message *msg; /* system message, then user and assistant in turn; texts are ours but for the system's */
    int n_msg, n_system;
    uint64_t turn;
    bool terminal; /* a person types */
    int signal_fd;
    sigset_t interrupt;
    bool cut; /* this reply was interrupted */
    TextStream stream;
} Talk;

static bool interrupted(Talk *t) {
    struct signalfd_siginfo info;
    return read(t->signal_fd, &info, sizeof info) == sizeof info;
}

static void each_token(void *ud, uint64_t id, const int32_t *text, int n, GenRule *rule) {
    Talk *t = ud;
    (void)id;
    if (!t->a->json) stream_put(&t->stream, text, n);
    t->cut = t->cut || interrupted(t);
    if (t->cut) rule->force = t->m.chat.id[SENT_END];
}

/* -- the dialogue ------------------------------------------------------------------------------------------------ */

static void add_message(Talk *t, Role role, const char *text) {
    t->msg = mem_grow(t->msg, (size_t)(t->n_msg + 1) * sizeof *t->msg);
    t->msg[t->n_msg++] = (Message){role, mem_str(text)};
}

static void drop_messages(Talk *t, int at, int n) {
    if (n == 0) return;
    for (int i = 0; i < n; i++) free((char *)t->msg[at + i].text);
    memmove(t->msg + at, t->msg + at + n, (size_t)(t->n_msg - at - n) * sizeof *t->msg);
    t->n_msg -= n;
}

/* The newest turns that leave room for a whole reply, or for half a context of it. The system message stays. */
static bool build(Talk *t, Sequence *s, Error *err) {
    int max = t->m.model.cfg.max_seq, want = t->p.max_new < max / 2 ? t->p.max_new : max / 2;
    for (;;) {
        sequence_clear(s);
        chat_respond(s, &t->m.chat, (Dialogue){t->msg, t->n_msg});
        if (!sequence_ok(s, err)) return false;
        if (s->tok.n + want <= max || t->n_msg < t->n_system + 3) break;
        drop_messages(t, t->n_system, 2);
        log_warn(t->a->log, "the model's context of %d tokens is full, the oldest turns are forgotten", max);
    }
    return s->tok.n < max ||
           error_set(err, ERR_FORMAT, "this message takes %d tokens, the model's context holds %d", s->tok.n, max);
}

static void print_json(const Talk *t, const GenResult *r, const char *text, size_t n) {
    static const char *const why[] = {[STOP_LENGTH] = "length", [STOP_TOKEN] = "end", [STOP_CONTEXT] = "context"};
    Str line = {0};
    JsonOut j;
    json_out_init(&j, &line, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-chat/1");
    json_out_strn(&j, "reply", text, n);
    json_out_int(&j, "tokens", r->n);
    json_out_str(&j, "stop", t->cut ? "interrupted" : why[r->why]);
    json_out_obj_end(&j);
    print_text(&line);
}

static bool reply(Talk *t, Error *err) {
    Sequence s = {0};
    GenResult r = {0};
    Str text = {0};
    int32_t stop[MODEL_MAX_EOS + 1];
    int n_stop = chat_stops(&t->m.chat, t->m.model.tokens.eos, t->m.model.tokens.n_eos, stop);
    bool ok = build(t, &s, err);
    if (ok) {
        t->cut = false;
        stream_open(&t->stream, t->m.tok);
        GenRequest q = {.id = t->turn++, .prompt = {s.tok.id, s.tok.n}, .sample = t->p};
        q.sample.stop = stop, q.sample.n_stop = n_stop, q.sample.hook = each_token, q.sample.hook_ud = t;
        ok = engine_generate(t->m.engine, &q, 1, &r, NULL, NULL, err);
        if (ok && !t->a->json) stream_put(&t->stream, r.text, r.n);
        stream_end(&t->stream);
    }
    if (ok) {
        tokenizer_decode(t->m.tok, r.text, r.n, false, &text);
        if (t->a->json)
            print_json(t, &r, str_get(&text), text.n);
        else
            printf("\n");
        fflush(stdout);
        add_message(t, ROLE_ASSISTANT, str_get(&text));
        engine_free_results(&r, 1);
    }
    str_release(&text);
    sequence_release(&s);
    return ok;
}

/* -- the loop ---------------------------------------------------------------------------------------------------- */

static bool next_line(Talk *t, char **line, size_t *cap, Error *err) {
    if (t->terminal) fputs("> ", stderr);
    if (t->terminal) pthread_sigmask(SIG_UNBLOCK, &t->interrupt, NULL);
    errno = 0;
    ssize_t n = getline(line, cap, stdin);
    if (t->terminal) pthread_sigmask(SIG_BLOCK, &t->interrupt, NULL);
    if (n < 0) return ferror(stdin) ? error_errno(err, "read", "standard input") : false;
    if (memchr(*line, 0, (size_t)n)) return error_set(err, ERR_FORMAT, "standard input holds a NUL byte");
    if (n > 0 && (*line)[n - 1] == '\n') (*line)[--n] = 0;
    return true;
}

static bool talk(Talk *t, Error *err) {
    char *line = NULL;
    size_t cap = 0;
    bool ok = true;
    while (ok && next_line(t, &line, &cap, err)) {
        if (line[0]) {
            add_message(t, ROLE_USER, line);
            ok = reply(t, err);
        } else if (!t->terminal && !t->a->json)
            printf("\n");                                    /* a line in, a reply out */
        if (!ok && t->terminal && err->code == ERR_FORMAT) { /* a message too long: say so and go on */
            log_info(t->a->log, "%s", err->msg);
            drop_messages(t, t->n_msg - 1, 1);
            *err = (Error){0};
            ok = true;
        }
        if (t->cut && !t->terminal) break;
        if (ferror(stdout)) break;
    }
    free(line);
    return err->code == ERR_NONE;
}

static bool talk_open(Talk *t, const Args *a, Error *err) {
    const char *system = args_flag(a, &command_chat, "--system");
    *t = (Talk){.a = a, .terminal = isatty(STDIN_FILENO) == 1 && isatty(STDERR_FILENO) == 1, .signal_fd = -1};
    sigemptyset(&t->interrupt);
    sigaddset(&t->interrupt, SIGINT);
    if (!sampling_read(&t->p, a, &command_chat, 256, err)) return false;
    pthread_sigmask(SIG_BLOCK, &t->interrupt, NULL);
    t->signal_fd = signalfd(-1, &t->interrupt, SFD_CLOEXEC | SFD_NONBLOCK);
    if (t->signal_fd < 0) return error_errno(err, "watch", "SIGINT");
    if (!open_model(&t->m, a, &command_chat, err) || !open_model_need(&t->m, HEAD_LM, err)) return false;
    if (!t->m.has_chat) {
        *err = t->m.no_chat;
        return error_wrap(err, "%s: no dialogue with this model ('dikast generate --raw' continues plain text)",
                          str_get(&t->m.dir));
    }
    if (system) add_message(t, ROLE_SYSTEM, system);
    t->n_system = t->n_msg;
    return true;
}

static bool run(const Args *a, Error *err) {
    Talk t;
    bool ok = talk_open(&t, a, err);
    if (ok && t.terminal)
        log_info(a->log, "%s, context %d tokens. Ctrl-D ends, Ctrl-C stops a reply.", str_get(&t.m.dir),
                 t.m.model.cfg.max_seq);
    ok = ok && talk(&t, err);
    if (t.terminal) fputs("\n", stderr);
    drop_messages(&t, 0, t.n_msg);
    free(t.msg);
    open_model_close(&t.m);
    if (t.signal_fd >= 0) close(t.signal_fd);
    pthread_sigmask(SIG_UNBLOCK, &t.interrupt, NULL);
    if (ok && t.cut && !t.terminal)
        raise(SIGINT); /* what was asked for has been cut short: end as the signal would have */
    return ok;
}

const Command command_chat = {
    .name = "chat",
    .usage = "chat MODEL [flags]",
    .help =
        "talk with a model\n\n"
        "On a terminal: a dialogue; Ctrl-D ends it, Ctrl-C stops a reply. Otherwise one line in, one reply out, all\n"
        "turns of one dialogue. What no longer fits the context is forgotten from the oldest turn on.",
    .flag = flags,
    .min_arg = 1,
    .max_arg = 1,
    .run = run};
