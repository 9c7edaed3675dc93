#include "cai/replay.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/io.h"
#include "cai/report.h"
#include "cai/stage_util.h"
#include "nn/ckpt.h"

typedef struct {
    int64_t number;
    int n_tok, n_row, n_seq;
    double loss;
    TraceSum sum;
    Str text; /* sequences, one a line, when shown */
} Pass;

typedef struct {
    const ReplayRequest *q;
    const Stage *stage;
    RunConfig cfg;
    PipelineResult run;
    const StageResult *result; /* of the run */
    Str base, place, scratch;  /* of all replays; of this process; of the stage in it */
    Json *was;                 /* the recorded row */
    const char *from;          /* "its beginning" */
    StageText text;
    bool has_text, done;
    Pass *pass;
    int n_pass, cap_pass;
} Replay;

/* -- seeing the step */

static void decode(Replay *r, Pass *p, const Batch *b) {
    Str one = {0};
    int32_t *id = mem_alloc((size_t)(b->seen ? b->n_seen : b->n_tok) * sizeof *id + 1);
    for (int s = 0; s < b->seqs.n_seq; s++) {
        int n = 0;
        for (int i = b->seqs.q_off[s]; i < b->seqs.q_off[s + 1]; i++) id[n++] = b->tok[b->seen ? b->seen[i] : i];
        str_clear(&one);
        tokenizer_decode(r->text.tok, id, n, true, &one);
        str_put(&p->text, "      ");
        for (const char *c = str_get(&one); *c; c++) str_putc(&p->text, *c == '\n' ? ' ' : *c);
        str_putc(&p->text, '\n');
    }
    free(id);
    str_release(&one);
}

static void look(void *ud, int64_t number, const Batch *b, double loss) {
    Replay *r = ud;
    if (r->n_pass == r->cap_pass) {
        r->cap_pass = r->cap_pass ? 2 * r->cap_pass : 16;
        r->pass = mem_grow(r->pass, (size_t)r->cap_pass * sizeof *r->pass);
    }
    Pass *p = &r->pass[r->n_pass++];
    *p = (Pass){.number = number, .n_tok = b->n_tok, .n_row = b->n_row, .n_seq = b->seqs.n_seq, .loss = loss};
    trace_add(&p->sum, NULL, 0, number, b, loss);
    if (r->q->show && r->has_text) decode(r, p, b);
}

/* -- what is needed */

static bool trains(const Stage *s) {
    static const char *const name[] = {"pretrain", "helpful", "sl", "pm", "rl", "classifier"};
    for (int i = 0; i < COUNT_OF(name); i++)
        if (!strcmp(s->name, name[i])) return true;
    return false;
}

static bool same_inputs(Replay *r, Error *err) {
    PipelineResult now;
    if (!pipeline_keys(&now, &r->cfg, NULL, err))
        return error_wrap(err, "what %s was computed from is not all there", r->q->run_dir);
    for (int i = 0; i < now.n_stage; i++)
        if (!strcmp(now.stage[i].name, r->stage->name) && strcmp(now.stage[i].key, r->result->key))
            return error_set(err, ERR_CONFIG,
                             "stage '%s' of %s has key %s; its inputs give %s now: data files, the constitution or the "
                             "version of dikast are others than then, so its steps cannot be made again. Put back what "
                             "changed (dikast diff compares two runs)",
                             r->stage->name, r->q->run_dir, r->result->key, now.stage[i].key);
    return true;
}

static bool open_run(Replay *r, Error *err) {
    const ReplayRequest *q = r->q;
    r->stage = stage_find(q->stage);
    if (!r->stage || !trains(r->stage))
        return error_set(err, ERR_CONFIG,
                         "--stage '%s': expected a stage that trains: pretrain, helpful, sl, pm, rl or classifier",
                         q->stage);
    if (!run_load(&r->run, &r->cfg, q->run_dir, err)) return false;
    bool ok = false;
    for (int i = 0; i < r->run.n_stage; i++)
        if (!strcmp(r->run.stage[i].name, q->stage)) r->result = &r->run.stage[i];
    if (!r->result || !r->result->applies)
        error_set(err, ERR_CONFIG, "%s has no stage '%s'", q->run_dir, q->stage);
    else if (!io_is_dir(r->result->dir))
        error_set(err, ERR_STATE, "stage '%s' of %s: its result %s is gone; run the configuration again", q->stage,
                  q->run_dir, r->result->dir);
    else
        ok = same_inputs(r, err);
    if (!ok) run_config_release(&r->cfg);
    return ok;
}

/* -- where to begin */

static bool copy_tree(const char *from, const char *to, Error *err) {
    char **name;
    int n;
    Str a = {0}, b = {0};
    if (!io_make_dirs(to, err) || !io_list_dir(&name, &n, from, err)) return false;
    bool ok = true;
    for (int i = 0; i < n && ok; i++) {
        path_join(&a, from, name[i]);
        path_join(&b, to, name[i]);
        ok = io_is_dir(str_get(&a)) ? copy_tree(str_get(&a), str_get(&b), err)
                                    : io_copy_file(str_get(&a), str_get(&b), err);
    }
    io_free_list(name, n);
    str_release(&a);
    str_release(&b);
    return ok;
}

/* The newest checkpoint of an unfinished stage that lies before the step, as its folder's name in state/; 0: there is
 * none. */
static int64_t newest_before(char name[64], const char *dir, int64_t step) {
    Str path = {0};
    char **all;
    int n;
    int64_t best = 0;
    Error ignore = {0};
    path_join(&path, dir, "state");
    if (ckpt_list(&all, &n, str_get(&path), &ignore)) {
        for (int i = 0; i < n; i++) {
            int64_t at = strtoll(all[i] + strlen("step-"), NULL, 10);
            if (at <= best || at >= step) continue;
            best = at;
            snprintf(name, 64, "%s", all[i]);
        }
        io_free_list(all, n);
    }
    str_release(&path);
    return best;
}

/* The folder of a replay that was killed: its process is gone. */
static bool is_orphan(void *ud, const char *name) {
    char *end;
    long pid = strtol(name, &end, 10);
    (void)ud;
    return pid > 0 && !*end && kill((pid_t)pid, 0) != 0 && errno == ESRCH;
}

static bool begin(Replay *r, Error *err) {
    char found[64], state[80];
    r->from = "its beginning";
    /* Its last part is the stage's own name: a checkpoint says whose it is. */
    str_printf(&r->base, "%s/../../replay", r->result->dir); /* run.out may be seen from another folder now */
    Error ignore = {0};                                      /* what cannot be removed is in nobody's way */
    if (io_is_dir(r->base.s)) io_remove_in(r->base.s, is_orphan, NULL, &ignore);
    str_printf(&r->place, "%s/%ld", r->base.s, (long)getpid());
    str_printf(&r->scratch, "%s/%s-%s", r->place.s, r->stage->name, r->result->key);
    bool ok = io_remove_tree(r->scratch.s, err) && io_make_dirs(r->scratch.s, err);
    if (!ok || newest_before(found, r->result->dir, r->q->step) == 0) return ok;
    snprintf(state, sizeof state, "state/%s", found);
    const char *const beside[] = {state, "guard", "guard.jsonl", "metrics.jsonl", "samples.jsonl"};
    Str from = {0}, to = {0};
    path_join(&to, r->scratch.s, "state");
    ok = io_make_dirs(str_get(&to), err);
    for (int i = 0; i < COUNT_OF(beside) && ok; i++) {
        path_join(&from, r->result->dir, beside[i]);
        path_join(&to, r->scratch.s, beside[i]);
        if (io_is_dir(str_get(&from)))
            ok = copy_tree(str_get(&from), str_get(&to), err);
        else if (io_exists(str_get(&from)))
            ok = io_copy_file(str_get(&from), str_get(&to), err);
    }
    r->from = "the state it keeps";
    str_release(&from);
    str_release(&to);
    return ok;
}

/* -- the step */

static bool train(Replay *r, Log *log, const Stop *stop, Error *err) {
    Pool *pool = NULL;
    Backend *be = NULL;
    const char *input[STAGE_MAX_NEEDS] = {0};
    const Trace trace = {r->q->step, look, r, &r->done};
    StageCtx ctx;
    bool ok = pipeline_backend(&pool, &be, &r->cfg, err);
    if (ok) {
        pipeline_ctx(&ctx, input, &r->run, r->stage, &r->cfg, be, log, stop);
        ctx.output = r->scratch.s;
        ctx.trace = &trace;
        ctx.ledger = ledger_new();
        log_stage(log, r->stage->name);
        ok = r->stage->run(&ctx, err);
        log_stage(log, NULL);
        ledger_free(ctx.ledger);
    }
    backend_close(be);
    pool_close(pool);
    CHECK(!r->done || r->n_pass > 0, "a replay that begins behind step %" PRId64 " makes nothing again", r->q->step);
    if (!ok && r->done) *err = (Error){0};
    if (!ok && !r->done) return error_wrap(err, "replaying %s", r->stage->name);
    return r->done || error_set(err, ERR_CONFIG, "stage '%s' ends before step %" PRId64, r->stage->name, r->q->step);
}

/* -- what came out */

typedef struct {
    int64_t step, last;
    Str *text; /* the row, as it stands */
} FindRow;
static bool find_row(void *ud, const Json *row, int line, Error *err) {
    FindRow *f = ud;
    JsonOut j;
    (void)err;
    f->last = json_int(json_get(row, "step"), line);
    if (f->last != f->step || f->text->n) return true;
    json_out_init(&j, f->text, 0);
    json_out_node(&j, NULL, row);
    return true;
}

static bool read_row(Json **out, const char *dir, int64_t step, Error *err) {
    Str text = {0};
    FindRow f = {step, 0, &text};
    bool ok = jsonl_each(dir, "metrics.jsonl", find_row, &f, err);
    if (ok && !text.n)
        ok = error_set(err, ERR_CONFIG, "there is no step %" PRId64 ": %s/metrics.jsonl ends with step %" PRId64, step,
                       dir, f.last);
    ok = ok && json_parse(out, text.s, text.n, 0, "metrics.jsonl", 1, err);
    str_release(&text);
    return ok;
}

static void value_text(Str *out, const Json *v) {
    JsonOut j;
    str_clear(out);
    json_out_init(&j, out, 0);
    if (v)
        json_out_node(&j, NULL, v);
    else
        str_put(out, "-");
}

typedef struct {
    int equal, differ, unrecorded;
} Books;

/* Times are no function of the inputs. Numbers are written in the shortest form that reads back equal, so equal text is
 * equal bits. */
static Books compare(Str *out, const Json *was, const Json *now, bool json) {
    Books b = {0};
    Str x = {0}, y = {0};
    for (int i = 0; i < json_len(now); i++) {
        const Json *v, *old;
        const char *key = json_key_at(now, i, &v);
        if (!strncmp(key, "t_", 2)) continue;
        old = json_get(was, key);
        value_text(&x, old);
        value_text(&y, v);
        bool equal = old && !strcmp(str_get(&x), str_get(&y));
        *(equal ? &b.equal : old ? &b.differ : &b.unrecorded) += 1;
        const char *says = equal ? "equal" : old ? "DIFFERS, recorded" : "not recorded then";
        if (!json)
            str_printf(out, "  %-20s %-24s %s%s%s\n", key, str_get(&y), says, old && !equal ? " " : "",
                       old && !equal ? str_get(&x) : "");
    }
    str_release(&x);
    str_release(&y);
    return b;
}

static void put_json(Str *out, const Replay *r, const Json *was, const Json *now, const Books *b) {
    JsonOut j;
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-replay/1");
    json_out_str(&j, "run", r->q->run_dir);
    json_out_str(&j, "stage", r->stage->name);
    json_out_int(&j, "step", r->q->step);
    json_out_str(&j, "from", r->from);
    json_out_bool(&j, "ok", b->differ == 0);
    json_out_int(&j, "equal", b->equal);
    json_out_int(&j, "differ", b->differ);
    json_out_int(&j, "not_recorded", b->unrecorded);
    json_out_arr(&j, "passes");
    for (int i = 0; i < r->n_pass; i++) {
        const Pass *p = &r->pass[i];
        char hex[17];
        json_out_obj(&j, NULL);
        json_out_int(&j, "pass", p->number);
        json_out_int(&j, "sequences", p->n_seq);
        json_out_int(&j, "tokens", p->n_tok);
        json_out_int(&j, "rows", p->n_row);
        snprintf(hex, sizeof hex, "%016" PRIx64, p->sum.inputs);
        json_out_str(&j, "inputs", hex);
        json_out_num(&j, "loss", p->loss);
        if (r->q->show) json_out_str(&j, "text", str_get(&p->text));
        json_out_obj_end(&j);
    }
    json_out_arr_end(&j);
    json_out_node(&j, "recorded", was);
    json_out_node(&j, "replayed", now);
    json_out_obj_end(&j);
}

static bool tell(Str *out, const Replay *r, Error *err) {
    Json *now = NULL;
    bool json = r->q->json;
    if (!read_row(&now, r->scratch.s, r->q->step, err)) return false;
    if (!json)
        str_printf(out, "%s, step %" PRId64 " of %s, made again from %s\n", r->stage->name, r->q->step, r->q->run_dir,
                   r->from);
    for (int i = 0; i < r->n_pass && !json; i++) {
        const Pass *p = &r->pass[i];
        char loss[32];
        json_format_num(loss, p->loss);
        str_printf(out, "  pass %3" PRId64 "  %4d sequences  %6d tokens  %6d rows  inputs %016" PRIx64 "  loss %s\n%s",
                   p->number, p->n_seq, p->n_tok, p->n_row, p->sum.inputs, loss, str_get(&p->text));
    }
    Books b = compare(out, r->was, now, json);
    if (json)
        put_json(out, r, r->was, now, &b);
    else
        str_printf(out, "%d values equal, bit for bit%s\n", b.equal, b.differ ? "; some differ" : "");
    json_release(now);
    return b.differ == 0 ||
           error_set(err, ERR_STATE,
                     "%d of %d values of step %" PRId64
                     " differ from what was recorded. Likely causes: another machine "
                     "or instruction set (manifest.json names the one of then, run.isa pins one); another build",
                     b.differ, b.differ + b.equal, r->q->step);
}

bool pipeline_replay(Str *out, const ReplayRequest *q, Log *log, const Stop *stop, Error *err) {
    Replay r = {.q = q};
    if (!open_run(&r, err)) return false;
    for (int i = 0; i < r.run.n_stage && q->show; i++)
        if (!strcmp(r.run.stage[i].name, "tokenizer") && r.run.stage[i].applies)
            r.has_text = stage_text_open(&r.text, r.run.stage[i].dir, err);
    bool ok = (!q->show || r.has_text) && read_row(&r.was, r.result->dir, q->step, err) && begin(&r, err) &&
              train(&r, log, stop, err) && tell(out, &r, err);
    Error ignore;
    if (r.place.n) io_remove_tree(r.place.s, &ignore);
    if (r.base.n) rmdir(r.base.s); /* unless another process replays */
    for (int i = 0; i < r.n_pass; i++) str_release(&r.pass[i].text);
    free(r.pass);
    if (r.has_text) stage_text_close(&r.text);
    json_release(r.was);
    str_release(&r.base);
    str_release(&r.place);
    str_release(&r.scratch);
    run_config_release(&r.cfg);
    return ok;
}
