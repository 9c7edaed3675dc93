#include "app/open.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/io.h"
#include "base/json.h"

bool machine_open(Machine *m, const Args *a, const Command *c, Error *err) {
    int64_t threads;
    *m = (Machine){0};
    if (!args_int(a, c, "--threads", 0, 0, 1024, &threads, err) || !pool_open(&m->pool, (int)threads, err))
        return false;
    if (backend_open(&m->be, "cpu", m->pool, args_flag(a, c, "--isa"), err)) return true;
    machine_close(m);
    return false;
}

void machine_close(Machine *m) {
    if (m->be) backend_close(m->be);
    if (m->pool) pool_close(m->pool);
    *m = (Machine){0};
}

/* -- model folders ----------------------------------------------------------------------------------------------- */

static bool find_model(Str *dir, const char *given, Error *err) {
    Str file = {0};
    str_put(dir, given);
    while (dir->n > 1 && dir->s[dir->n - 1] == '/') dir->s[--dir->n] = 0;
    str_printf(&file, "%s/config.json", str_get(dir));
    bool found = io_exists(str_get(&file));
    if (!found) {
        str_clear(&file);
        str_printf(&file, "%s/model/config.json", str_get(dir));
        found = io_exists(str_get(&file));
        if (found) str_put(dir, "/model");
    }
    str_release(&file);
    return found ||
           error_set(err, ERR_IO,
                     "%s: no model here: expected a folder with config.json, model.safetensors and tokenizer.json",
                     given);
}

/* What a model's head is, config.json says: a classifier has labels. */
static bool head_kind(HeadKind *kind, const char *dir, Error *err) {
    Str path = {0};
    Json *j = NULL;
    str_printf(&path, "%s/config.json", dir);
    bool ok = json_read_file(&j, str_get(&path), JSON_INT_AS_REAL, err);
    if (ok) {
        const char *architecture = json_str(json_at(json_get(j, "architectures"), 0), NULL);
        bool classifier = architecture ? strstr(architecture, "ForSequenceClassification") != NULL
                                       : json_get(j, "num_labels") != NULL;
        *kind = classifier ? HEAD_SCORE : HEAD_LM;
        json_release(j);
    }
    str_release(&path);
    return ok;
}

static bool open_parts(OpenModel *m, Error *err) {
    const char *dir = str_get(&m->dir);
    HeadKind kind;
    if (!tokenizer_open(&m->tok, dir, err)) return false;
    m->has_chat = chat_open(&m->chat, m->tok, dir, (int64_t)time(NULL), &m->no_chat);
    if (!head_kind(&kind, dir, err) || !model_open(&m->model, m->machine.be, dir, false, err)) return false;
    m->net.trunk = &m->model;
    if (!head_open(&m->head, &m->model, kind, dir, false, err)) return false;
    m->net.head = &m->head;
    if (tokenizer_n_vocab(m->tok) > m->model.cfg.n_vocab)
        return error_set(err, ERR_FORMAT, "%s: the tokenizer has %d ids, the model's vocabulary %d", dir,
                         tokenizer_n_vocab(m->tok), m->model.cfg.n_vocab);
    return engine_open(&m->engine, m->net, &(EngineConfig){.share_prefix = true}, err);
}

bool open_model(OpenModel *m, const Args *a, const Command *c, Error *err) {
    *m = (OpenModel){0};
    if (find_model(&m->dir, a->arg[0], err) && machine_open(&m->machine, a, c, err) && open_parts(m, err)) return true;
    open_model_close(m);
    return false;
}

void open_model_close(OpenModel *m) {
    engine_close(m->engine);
    if (m->net.head) head_release(&m->head);
    if (m->net.trunk) model_release(&m->model);
    chat_close(&m->chat);
    if (m->tok) tokenizer_close(m->tok);
    machine_close(&m->machine);
    str_release(&m->dir);
    *m = (OpenModel){0};
}

bool open_model_need(const OpenModel *m, HeadKind kind, Error *err) {
    if (m->head.kind == kind) return true;
    if (kind == HEAD_LM)
        return error_set(err, ERR_CONFIG,
                         "%s is a scoring model (a classifier's head), it writes no text; 'dikast score' uses it",
                         str_get(&m->dir));
    return error_set(err, ERR_CONFIG, "%s is a language model, not a scoring model", str_get(&m->dir));
}

bool open_model_begin(const OpenModel *m, int32_t *id, Error *err) {
    *id = tokenizer_special(m->tok, sentinel_spelling(SENT_ENDOFTEXT));
    if (*id < 0) *id = m->model.cfg.eos_id;
    return *id >= 0 ||
           error_set(err, ERR_FORMAT, "%s: neither the tokenizer has %s nor the configuration an eos_token_id",
                     str_get(&m->dir), sentinel_spelling(SENT_ENDOFTEXT));
}

bool sampling_read(SampleParams *p, const Args *a, const Command *c, int max_new, Error *err) {
    int64_t top_k, n, seed;
    *p = (SampleParams){.repetition = 1};
    if (!args_num(a, c, "--temperature", 1, 0, 100, &p->temperature, err) ||
        !args_num(a, c, "--top-p", 1, 0, 1, &p->top_p, err) || !args_int(a, c, "--top-k", 0, 0, 1 << 30, &top_k, err) ||
        !args_int(a, c, "--max-new", max_new, 1, 1 << 20, &n, err) ||
        !args_int(a, c, "--seed", 0, 0, INT64_MAX, &seed, err))
        return false;
    p->top_k = (int)top_k;
    p->max_new = (int)n;
    p->rng = (Rng){(uint64_t)seed, RNG_SAMPLE};
    return true;
}

/* -- text to stdout ---------------------------------------------------------------------------------------------- */

void stream_open(TextStream *s, const Tokenizer *tok) {
    *s = (TextStream){.tok = tok, .terminal = isatty(STDOUT_FILENO) == 1};
}

/* Bytes at the end that begin a character and do not finish it. */
static size_t unfinished(const Str *text) {
    for (size_t back = 1; back <= 3 && back <= text->n; back++) {
        unsigned char c = (unsigned char)text->s[text->n - back];
        if ((c & 0xC0) == 0x80) continue;
        size_t need = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC0 ? 2 : 1;
        return need > back ? back : 0;
    }
    return 0;
}

/* C0 but for newline and tab, DEL, and C1 (U+0080..U+009F) in its two bytes. */
static void disarm(char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i], next = i + 1 < n ? (unsigned char)s[i + 1] : 0;
        if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7F) s[i] = '?';
        if (c == 0xC2 && next >= 0x80 && next < 0xA0) s[i] = s[i + 1] = '?';
    }
}

static void show(TextStream *s, size_t n) {
    if (n == 0) return;
    if (s->terminal) disarm(s->pending.s, n);
    fwrite(s->pending.s, 1, n, stdout);
    if (s->terminal) fflush(stdout);
    memmove(s->pending.s, s->pending.s + n, s->pending.n - n + 1);
    s->pending.n -= n;
}

void stream_put(TextStream *s, const int32_t *text, int n) {
    if (n <= s->shown) return;
    tokenizer_decode_more(s->tok, text, s->shown, n, false, &s->pending);
    s->shown = n;
    show(s, s->pending.n - unfinished(&s->pending));
}

void stream_end(TextStream *s) {
    show(s, s->pending.n);
    str_release(&s->pending);
}

void print_text(Str *text) {
    if (text->n > 0) fwrite(text->s, 1, text->n, stdout);
    if (text->n > 0 && text->s[text->n - 1] != '\n') fputc('\n', stdout);
    str_release(text);
}

bool read_stdin(Str *out, Error *err) {
    char buf[1 << 16];
    for (size_t n; (n = fread(buf, 1, sizeof buf, stdin)) > 0;) str_putn(out, buf, n);
    return !ferror(stdin) || error_errno(err, "read", "standard input");
}
