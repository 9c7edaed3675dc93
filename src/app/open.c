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
    const char *device = args_flag(a, c, "--device");
    return machine_open_on(m, device ? device : "cpu", a, c, err);
}

bool machine_open_on(Machine *m, const char *device, const Args *a, const Command *c, Error *err) {
    int64_t threads;
    *m = (Machine){0};
    if (!args_int(a, c, "--threads", 0, 0, 1024, &threads, err) || !pool_open(&m->pool, (int)threads, err))
        return false;
    if (backend_open(&m->be, device, m->pool, args_flag(a, c, "--isa"), err)) return true;
    machine_close(m);
    return false;
}

void machine_close(Machine *m) {
    if (m->be) backend_close(m->be);
    if (m->pool) pool_close(m->pool);
    *m = (Machine){0};
}

/* -- model folders ----------------------------------------------------------------------------------------------- */

static bool has_file(const Str *dir, const char *below, const char *file) {
    Str path = {0};
    str_printf(&path, "%s%s/%s", str_get(dir), below, file);
    bool found = io_exists(path.s);
    str_release(&path);
    return found;
}

/* Without slashes at its end; what lies in `below` of a stage's output is meant where the folder itself has no such
 * file. */
static bool find_folder(Str *dir, const char *given, const char *file, const char *below) {
    str_clear(dir);
    str_put(dir, given);
    while (dir->n > 1 && dir->s[dir->n - 1] == '/') dir->s[--dir->n] = 0;
    if (has_file(dir, "", file)) return true;
    if (!has_file(dir, below, file)) return false;
    str_put(dir, below);
    return true;
}

/* An adapter's folder: its base lies where it says. */
static bool find_base(OpenModel *m, Error *err) {
    AdapterInfo info;
    if (!adapter_info(&info, str_get(&m->adapter_dir), err)) return false;
    bool found = find_folder(&m->dir, str_get(&info.base), "config.json", "/model");
    if (!found)
        error_set(
            err, ERR_IO,
            "%s: its 'base_model_name_or_path' is '%.100s', which is no model folder here: name the base's folder, and "
            "this one behind --adapter",
            str_get(&m->adapter_dir), str_get(&info.base));
    str_release(&info.base);
    return found;
}

/* The last model of a run, by what its stages.json says; "" when there is none. */
static void last_model(Str *out, const char *run) {
    static const char *const stage[] = {"rl", "sl", "helpful", "pretrain"};
    Str path = {0};
    Json *j = NULL;
    Error ignore = {0};
    str_clear(out);
    str_printf(&path, "%s/stages.json", run);
    bool read = io_exists(str_get(&path)) && json_read_file(&j, str_get(&path), 0, &ignore);
    for (int i = 0; read && i < COUNT_OF(stage) && !out->n; i++) {
        const char *dir = json_str(json_get(json_get(j, stage[i]), "dir"), NULL);
        if (!dir) continue;
        str_printf(out, "%s/model", dir);
        if (!io_is_dir(str_get(out))) str_clear(out);
    }
    json_release(j);
    str_release(&path);
}

static bool no_model(const char *given, Error *err) {
    Str model = {0};
    if (access(given, R_OK | X_OK) != 0 && errno == EACCES) return error_errno(err, "look into", given);
    last_model(&model, given);
    if (model.n)
        error_set(err, ERR_IO, "%s: a run has several models, each in its stage's folder: expected one, such as %s",
                  given, str_get(&model));
    else
        error_set(err, ERR_IO,
                  "%s: no model here: expected a folder with config.json, model.safetensors and tokenizer.json", given);
    str_release(&model);
    return false;
}

static bool find_model(OpenModel *m, const char *given, const char *adapter, Error *err) {
    static const char config[] = "adapter_config.json";
    if (adapter && !find_folder(&m->adapter_dir, adapter, config, "/adapter"))
        return error_set(err, ERR_IO, "%s: no adapter here: expected a folder with %s and adapter_model.safetensors",
                         adapter, config);
    if (find_folder(&m->dir, given, "config.json", "/model")) return true;
    if (!adapter && find_folder(&m->adapter_dir, given, config, "")) return find_base(m, err);
    return no_model(given, err);
}

/* What a model's head is, config.json says: a classifier has labels. */
void open_model_name(Str *out, const OpenModel *m, const char *given) {
    const char *dir = str_get(&m->dir);
    size_t n = strlen(dir);
    str_clear(out);
    if (given) {
        str_put(out, given);
        return;
    }
    if (n > 6 && !strcmp(dir + n - 6, "/model")) n -= 6;
    size_t from = n;
    while (from > 0 && dir[from - 1] != '/') from--;
    str_putn(out, dir + from, n - from);
}

static bool open_parts(OpenModel *m, Log *log, Error *err) {
    const char *dir = str_get(&m->dir);
    HeadKind kind;
    if (!model_head_kind(&kind, dir, err) || !model_open_mapped(&m->model, m->machine.be, dir, err)) return false;
    m->net.trunk = &m->model;
    const char *adapter = str_get(&m->adapter_dir);
    AdapterInfo info = {0};
    bool ok = !*adapter || adapter_info(&info, adapter, err);
    if (ok && *adapter && info.head == HEAD_SCORE)
        ok = adapter_head_open(&m->head, &m->model, adapter, false, err);
    else
        ok = ok && head_open(&m->head, &m->model, kind, dir, false, err);
    str_release(&info.base);
    if (!ok) return false;
    m->net.head = &m->head;
    if (*adapter && !adapter_open(&m->adapter, &m->model, adapter, false, err)) return false;
    m->net.adapter = m->adapter;
    log_warn_lines(log, dir, str_get(&m->model.note));
    return engine_open(&m->engine, m->net, &(EngineConfig){.share_prefix = true}, err);
}

static bool open_text(OpenModel *m, Error *err) {
    const char *dir = str_get(&m->dir);
    if (!tokenizer_open(&m->tok, dir, err)) return false;
    m->has_chat = chat_open(&m->chat, m->tok, dir, (int64_t)time(NULL), &m->no_chat);
    return tokenizer_n_vocab(m->tok) <= m->model.cfg.n_vocab ||
           error_set(err, ERR_FORMAT, "%s: the tokenizer has %d ids, the model's vocabulary %d", dir,
                     tokenizer_n_vocab(m->tok), m->model.cfg.n_vocab);
}

bool open_net(OpenModel *m, const Args *a, const Command *c, Error *err) {
    *m = (OpenModel){0};
    if (find_model(m, a->arg[0], args_flag(a, c, "--adapter"), err) && machine_open(&m->machine, a, c, err) &&
        open_parts(m, a->log, err))
        return true;
    open_model_close(m);
    return false;
}

bool open_text_if_any(OpenModel *m, Log *log, Error *err) {
    Error no_text = {0};
    Str path = {0};
    str_printf(&path, "%s/tokenizer.json", str_get(&m->dir));
    bool there = io_exists(path.s);
    str_release(&path);
    if (!there || open_text(m, &no_text)) return true;
    if (m->tok) { /* read, but it does not belong to this model */
        *err = no_text;
        return false;
    }
    log_warn(log, "%s", no_text.msg);
    return true;
}

bool open_model(OpenModel *m, const Args *a, const Command *c, Error *err) {
    if (!open_net(m, a, c, err)) return false;
    if (open_text(m, err)) return true;
    open_model_close(m);
    return false;
}

void open_model_merge(OpenModel *m) {
    if (m->adapter) net_merge(m->net);
    adapter_close(m->adapter);
    m->adapter = m->net.adapter = NULL;
}

void open_model_close(OpenModel *m) {
    engine_close(m->engine);
    adapter_close(m->adapter);
    if (m->net.head) head_release(&m->head);
    if (m->net.trunk) model_release(&m->model);
    chat_close(&m->chat);
    if (m->tok) tokenizer_close(m->tok);
    machine_close(&m->machine);
    str_release(&m->dir);
    str_release(&m->adapter_dir);
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

int32_t open_model_begin(const OpenModel *m) {
    if (m->model.tokens.bos >= 0) return m->model.tokens.bos;
    return m->has_chat ? m->chat.id[SENT_ENDOFTEXT] : -1;
}

bool open_model_begin_empty(const OpenModel *m, int32_t *id, Error *err) {
    *id = open_model_begin(m);
    if (*id < 0) *id = m->model.cfg.eos_id;
    return *id >= 0 || error_set(err, ERR_FORMAT,
                                 "%s: an empty text needs a token to begin with, but config.json has neither "
                                 "bos_token_id nor eos_token_id",
                                 str_get(&m->dir));
}

bool open_model_hash(const OpenModel *m, Hash *out, Error *err) {
    char **name = NULL;
    int n = 0;
    const char *dir = str_get(&m->dir);
    if (!io_list_dir(&name, &n, dir, err)) return false;
    Hasher *h = hasher_new();
    bool ok = true;
    for (int i = 0; i < n && ok; i++) {
        size_t len = strlen(name[i]);
        if (len < 12 || strcmp(name[i] + len - 12, ".safetensors") != 0) continue;
        Str path = {0};
        Hash one;
        str_printf(&path, "%s/%s", dir, name[i]);
        ok = hash_file(&one, str_get(&path), err);
        if (ok) hasher_add(h, &one, sizeof one);
        str_release(&path);
    }
    *out = hasher_finish(h);
    io_free_list(name, n);
    return ok;
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
