/* From a file of rows to the micro-batches a trainer takes, by the verbs a stage uses: rows, samples, packs.
 *
 *   json/rows    every line parsed to a tree, two strings read: the peers' task
 *   load/KIND    the whole chain. setup_s is what a training run waits before its first micro-batch; then packs are
 * asked for at the pace of a trainer of --trainer-tok-s, and wait_share is the part of that time it stood still */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "app/bench.h"
#include "base/io.h"
#include "cai/stage_util.h"
#include "data/loader.h"

enum { MAX_LINE = 64 << 20, SEQ = 256, BATCH = 16 };
static const double pace_s = 1; /* the longest a trainer is imitated */

typedef struct {
    const char *name;
    RowKind kind;
    const char *field; /* a row of this kind has it; NULL: any other */
} LoadKind;
static const LoadKind kinds[] = {
    {"preference", ROW_PREFERENCE, "chosen"}, {"text", ROW_TEXT, "text"}, {"instruction", ROW_INSTRUCTION, NULL}};

typedef struct {
    Bench *b;
    Str text;    /* the lines, each ended by a newline */
    size_t *off; /* (n_line+1) */
    int64_t n_line;
    const LoadKind *kind;
    bool json; /* rows, not plain text */
    Tokenizer *tok;
    Chat chat;
    Rows rows;
    SampleSet set;
    int64_t n_dropped; /* rows longer than a sequence */
    int seq, max_tok;
    double *read_s, *encode_s, *plan_s, *setup_s, *cpu_s; /* (reps) */
} LoadBench;

static bool read_text(LoadBench *l, Error *err) {
    LineReader *in;
    const char *line;
    size_t n;
    int64_t cap = 0;
    if (!lines_open(&in, l->b->file, MAX_LINE, err)) return false;
    while (lines_next(in, &line, &n, err)) {
        if (l->n_line + 1 >= cap) {
            cap = cap ? 2 * cap : 1024;
            l->off = mem_grow(l->off, (size_t)cap * sizeof *l->off);
        }
        l->off[l->n_line++] = l->text.n;
        str_putn(&l->text, line, n);
        str_putc(&l->text, '\n');
    }
    bool ok =
        err->code == ERR_NONE && (l->n_line > 0 || error_set(err, ERR_FORMAT, "%s: the file is empty", l->b->file));
    lines_close(in);
    if (ok) l->off[l->n_line] = l->text.n;
    return ok;
}

static bool parse_line(LoadBench *l, int64_t i, Json **j, Error *err) {
    return json_parse(j, l->text.s + l->off[i], l->off[i + 1] - l->off[i] - 1, 0, l->b->file, (int)i + 1, err);
}

/* By the first row's fields. */
static bool find_kind(LoadBench *l, Error *err) {
    Json *j;
    l->kind = &kinds[1];
    l->json = l->text.s[0] == '{';
    if (!l->json) return true;
    if (!parse_line(l, 0, &j, err)) return false;
    l->kind = kinds;
    while (l->kind->field && !json_get(j, l->kind->field)) l->kind++;
    json_release(j);
    return true;
}

/* ---- json/rows */

static bool parse_all(LoadBench *l, int64_t *bytes, Error *err) {
    *bytes = 0;
    for (int64_t i = 0; i < l->n_line; i++) {
        Json *j;
        size_t n, m;
        if (l->off[i + 1] - l->off[i] == 1) continue;
        if (!parse_line(l, i, &j, err)) return false;
        json_str(json_get(j, "prompt"), &n);
        json_str(json_get(j, "chosen"), &m);
        *bytes += (int64_t)(n + m);
        json_release(j);
    }
    return true;
}

static bool bench_json(LoadBench *l, Error *err) {
    int reps = (int)l->b->reps;
    int64_t bytes = 0;
    double mb = (double)l->text.n / 1e6, *v = mem_alloc((size_t)reps * sizeof *v);
    Meter meter = meter_start();
    double cpu = own_cpu_s();
    bool ok = true;
    for (int i = 0; ok && i < reps; i++) {
        double start = now_s();
        ok = parse_all(l, &bytes, err);
        v[i] = now_s() - start;
    }
    cpu = (own_cpu_s() - cpu) / reps;
    double med = median_of(v, reps);
    if (ok) {
        Case c;
        case_begin(&c, l->b, "json", "json/rows", 1);
        json_out_num(&c.j, "mb", rounded(mb, 1));
        json_out_num(&c.j, "mb_s", rounded(mb / med, 1));
        json_out_num(&c.j, "mb_s_best", rounded(mb / v[0], 1));
        json_out_num(&c.j, "mb_cpu_s", rounded(mb / cpu, 1));
        json_out_int(&c.j, "bytes", bytes);
        json_out_int(&c.j, "reps", reps);
        case_end(&c, meter, "%.1f MB/s  %lld rows", mb / med, (long long)l->n_line);
    }
    free(v);
    return ok;
}

/* ---- load/KIND */

static const char *row_text(void *ud, int64_t i, size_t *n) {
    const char *s = ((const LoadBench *)ud)->rows.row[i].a;
    *n = strlen(s);
    return s;
}

typedef struct {
    const Rows *rows;
    int at, part;
} Parts;

/* Every text of every row, for a tokenizer. */
static const char *next_part(void *ud, size_t *n) {
    Parts *p = ud;
    for (; p->at < p->rows->n; p->at++, p->part = 0) {
        const Row *r = &p->rows->row[p->at];
        while (p->part < r->prompt.n + 2) {
            int k = p->part++;
            const char *s = k < r->prompt.n ? r->prompt.msg[k].text : k == r->prompt.n ? r->a : r->b;
            if (!s) continue;
            *n = strlen(s);
            return s;
        }
    }
    return NULL;
}

static bool find_tokenizer(LoadBench *l, Error *err) {
    if (l->b->tokenizer) return tokenizer_open(&l->tok, l->b->tokenizer, err) && chat_init(&l->chat, l->tok, err);
    const char *special[SENT_COUNT];
    Str json = {0};
    Parts parts = {&l->rows, 0, 0};
    for (int i = 0; i < SENT_COUNT; i++) special[i] = sentinel_spelling((Sentinel)i);
    BpeTrainParams p = {.n_vocab = (int)l->b->vocab, .special = special, .n_special = SENT_COUNT};
    bool ok = rows_read(&l->rows, l->b->file, l->kind->kind, err) && bpe_train(&json, &p, next_part, &parts, err) &&
              tokenizer_parse(&l->tok, json.s, json.n, "trained tokenizer", err) && chat_init(&l->chat, l->tok, err);
    rows_release(&l->rows);
    str_release(&json);
    return ok;
}

static void add_side(LoadBench *l, Sequence *s, const Row *r, const char *reply) {
    sequence_clear(s);
    chat_respond(s, &l->chat, r->prompt);
    chat_reply(s, &l->chat, reply, 1, true);
}

/* Dialogues as the stages sl and pm write them. */
static void add_dialogues(LoadBench *l) {
    Sequence a = {0}, b = {0};
    bool pair = l->kind->kind == ROW_PREFERENCE;
    for (int i = 0; i < l->rows.n; i++) {
        const Row *r = &l->rows.row[i];
        add_side(l, &a, r, r->a);
        if (pair) add_side(l, &b, r, r->b);
        if (a.tok.n > l->max_tok / 2 || b.tok.n > l->max_tok / 2) {
            l->n_dropped++;
            continue;
        }
        samples_add(&l->set, a.tok.id, a.weight, a.tok.n, (uint64_t)i, 0, 1);
        if (pair) samples_add(&l->set, b.tok.id, b.weight, b.tok.n, (uint64_t)i, 0, 1);
    }
    sequence_release(&a);
    sequence_release(&b);
}

static bool setup(LoadBench *l, int rep, Loader **loader, Error *err) {
    int threads = pool_threads(l->b->machine.pool);
    double t0 = now_s(), cpu = own_cpu_s();
    if (!rows_read_pool(&l->rows, l->b->file, l->kind->kind, NULL, l->b->machine.pool, err)) return false;
    double t1 = now_s();
    samples_init(&l->set, l->kind->kind == ROW_PREFERENCE ? 2 : 1);
    l->n_dropped = 0;
    if (l->kind->kind == ROW_TEXT)
        samples_add_texts(&l->set, &l->chat, row_text, l, l->rows.n, l->seq, threads, NULL);
    else
        add_dialogues(l);
    double t2 = now_s();
    if (!loader_open(loader, &l->set, l->max_tok, 0, err)) return false;
    loader_pack(*loader, 0);
    double t3 = now_s();
    l->read_s[rep] = t1 - t0;
    l->encode_s[rep] = t2 - t1;
    l->plan_s[rep] = t3 - t2;
    l->setup_s[rep] = t3 - t0;
    l->cpu_s[rep] = own_cpu_s() - cpu;
    return true;
}

static void unload(LoadBench *l) {
    samples_release(&l->set);
    rows_release(&l->rows);
}

typedef struct {
    double pack_tok_s; /* as fast as packs come */
    double wait_share; /* of a trainer at --trainer-tok-s */
    int64_t packs;
} Pace;

static void sleep_until(double t) {
    for (double left; (left = t - now_s()) > 0;)
        nanosleep(&(struct timespec){(time_t)left, (long)((left - (double)(time_t)left) * 1e9)}, NULL);
}

/* As fast as packs come, then on from there at the trainer's pace: its clock goes on only while it holds a pack. */
static Pace run_trainer(LoadBench *l, Loader *loader) {
    Pace p = {.packs = loader_packs_in_epoch(loader, 0)};
    int64_t next = 1, n_tok = 0;
    double start = now_s();
    while ((next < p.packs || next == 1) && now_s() - start < pace_s) n_tok += loader_pack(loader, next++)->n_tok;
    p.pack_tok_s = (double)n_tok / (now_s() - start);
    loader_pack(loader,
                next++); /* planning the next epoch has no head start only because this one was rushed through */
    start = now_s();
    double waited = loader_wait_s(loader);
    while (now_s() - start < pace_s) {
        int n = loader_pack(loader, next++)->n_tok;
        sleep_until(now_s() + n / l->b->trainer_tok_s);
    }
    p.wait_share = (loader_wait_s(loader) - waited) / (now_s() - start);
    return p;
}

static void emit(LoadBench *l, Pace p, Meter meter) {
    int reps = (int)l->b->reps;
    double mb = (double)l->text.n / 1e6, setup_s = median_of(l->setup_s, reps), encode_s = median_of(l->encode_s, reps);
    double tokens = (double)l->set.off[l->set.n], train_s = tokens / l->b->trainer_tok_s;
    char name[64];
    snprintf(name, sizeof name, "load/%s", l->kind->name);
    Case c;
    case_begin(&c, l->b, "load", name, pool_threads(l->b->machine.pool));
    json_out_num(&c.j, "mb", rounded(mb, 2));
    json_out_num(&c.j, "mb_s", rounded(mb / setup_s, 2));
    json_out_num(&c.j, "mb_s_best", rounded(mb / l->setup_s[0], 2));
    json_out_num(&c.j, "mb_cpu_s", rounded(mb / median_of(l->cpu_s, reps), 2));
    json_out_int(&c.j, "rows", l->rows.n);
    json_out_int(&c.j, "rows_dropped", l->n_dropped);
    json_out_num(&c.j, "rows_s", rounded(l->rows.n / setup_s, 0));
    json_out_int(&c.j, "samples", l->set.n);
    json_out_int(&c.j, "tokens", (int64_t)tokens);
    json_out_num(&c.j, "tok_s", rounded(tokens / setup_s, 0));
    json_out_int(&c.j, "packs", p.packs);
    json_out_num(&c.j, "setup_s", rounded(setup_s, 4));
    json_out_num(&c.j, "read_s", rounded(median_of(l->read_s, reps), 4));
    json_out_num(&c.j, "encode_s", rounded(encode_s, 4));
    json_out_num(&c.j, "plan_s", rounded(median_of(l->plan_s, reps), 4));
    json_out_num(&c.j, "pack_tok_s", rounded(p.pack_tok_s, 0));
    json_out_num(&c.j, "trainer_tok_s", l->b->trainer_tok_s);
    json_out_num(&c.j, "setup_share", rounded(setup_s / (setup_s + train_s), 6));
    json_out_num(&c.j, "wait_share", rounded(p.wait_share, 6));
    json_out_int(&c.j, "vocab", tokenizer_n_vocab(l->tok));
    json_out_int(&c.j, "reps", reps);
    case_end(&c, meter,
             "%.1f MB/s, %.0f rows/s, %.0f tokens/s; at %.0f tokens/s a trainer waits %.2f %% of its first epoch and "
             "%.4f %% "
             "between steps",
             mb / setup_s, l->rows.n / setup_s, tokens / setup_s, l->b->trainer_tok_s,
             100 * setup_s / (setup_s + train_s), 100 * p.wait_share);
}

static bool bench_chain(LoadBench *l, Error *err) {
    bool ok = find_tokenizer(l, err);
    Meter meter = meter_start();
    for (int i = 0; ok && i < l->b->reps; i++) {
        Loader *loader = NULL;
        unload(l);
        ok = setup(l, i, &loader, err);
        if (ok && i + 1 == l->b->reps) emit(l, run_trainer(l, loader), meter);
        loader_close(loader);
    }
    return ok;
}

bool bench_load(Bench *b, Error *err) {
    LoadBench l = {.b = b, .seq = b->seq ? (int)b->seq : SEQ};
    l.max_tok = l.seq * (b->batch ? (int)b->batch : BATCH);
    double *times = mem_alloc(5 * (size_t)b->reps * sizeof *times);
    l.read_s = times;
    l.encode_s = times + b->reps;
    l.plan_s = times + 2 * b->reps;
    l.setup_s = times + 3 * b->reps;
    l.cpu_s = times + 4 * b->reps;
    b->size = NULL; /* no model in these lines */
    bool ok = b->file || error_set(err, ERR_CONFIG, "bench load needs --file FILE");
    ok = ok && read_text(&l, err) && find_kind(&l, err) && (!l.json || bench_json(&l, err)) && bench_chain(&l, err);
    unload(&l);
    if (l.tok) tokenizer_close(l.tok);
    str_release(&l.text);
    free(l.off);
    free(times);
    return ok;
}
