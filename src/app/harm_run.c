#include "app/harm_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "eval/taxonomy.h"

/* -- replies ------------------------------------------------------------------------------------------------------- */

/* Replies of rows from.. on. */
static bool generate(Harm *h, int from, SampleParams sp, Error *err) {
    int n = h->rows.n - from;
    OpenModel *m = h->m;
    if (!m->has_chat) {
        *err = m->no_chat;
        return false;
    }
    Sequence *seq = mem_alloc((size_t)(n + 1) * sizeof *seq);
    GenRequest *req = mem_alloc((size_t)(n + 1) * sizeof *req);
    GenResult *res = mem_alloc((size_t)(n + 1) * sizeof *res);
    sp.stop = &m->chat.id[SENT_END];
    sp.n_stop = 1;
    for (int i = 0; i < n; i++) {
        const HarmItem *x = &h->item[from + i];
        chat_respond(&seq[i], &m->chat, h->rows.row[from + i].prompt);
        uint64_t id = hash_bytes(x->id, strlen(x->id)).lo + (uint64_t)x->sample * 0x9E3779B97F4A7C15u;
        req[i] = (GenRequest){id, {seq[i].tok.id, seq[i].tok.n}, sp};
    }
    log_stage(h->job->a->log, "replies");
    bool ok =
        sequences_ok(seq, n, err) && engine_generate(m->engine, req, n, res, h->job->a->log, h->job->a->stop, err);
    log_stage(h->job->a->log, NULL);
    Str text = {0};
    for (int i = 0; i < n && ok; i++) {
        str_clear(&text);
        tokenizer_decode(m->tok, res[i].text, res[i].n - (res[i].why == STOP_TOKEN), false, &text);
        free(h->reply[from + i]);
        h->reply[from + i] = mem_str(str_get(&text));
        h->n_no_room += res[i].why == STOP_CONTEXT && res[i].n == 0;
    }
    if (ok) engine_free_results(res, n);
    for (int i = 0; i < n; i++) sequence_release(&seq[i]);
    str_release(&text);
    free(seq);
    free(req);
    free(res);
    return ok;
}

/* Rows for the samples beside the replies. */
static void add_samples(Harm *h) {
    h->n_main = h->rows.n;
    for (int i = 0; i < h->n_main; i++) {
        h->item[i].of = i;
        for (int k = 1; k <= h->worst_of && !h->item[i].benign; k++) {
            int at = h->rows.n;
            harm_room(h);
            if (at == h->rows.cap) {
                h->rows.cap = 2 * at + 64;
                h->rows.row = mem_grow(h->rows.row, (size_t)h->rows.cap * sizeof *h->rows.row);
            }
            h->rows.row[at] = h->rows.row[i];
            h->item[at] = h->item[i];
            h->item[at].sample = k;
            h->item[at].gold = -1;
            h->reply[at] = mem_str("");
            h->given[at] = NAN;
            h->rows.n++;
        }
    }
}

bool harm_write_replies(const Harm *h, const char *path, const HarmGroups *g, int from, int to, Error *err) {
    Str text = {0};
    for (int i = from; i < to; i++) {
        const HarmItem *x = &h->item[i];
        JsonOut j;
        json_out_init(&j, &text, 0);
        json_out_obj(&j, NULL);
        json_out_str(&j, "id", x->id);
        json_out_str(&j, "model", str_get(&h->name));
        if (x->sample) json_out_int(&j, "sample", x->sample);
        json_out_str(&j, "kind", x->benign ? "benign" : "harmful");
        json_out_str(&j, "category", g ? g->of[x->group].tag : x->category);
        json_out_str(&j, "prompt", x->prompt);
        json_out_str(&j, "reply", x->reply);
        json_out_str(&j, "refusal", refusal_name(x->refusal));
        if (!g || x->harmful < 0)
            json_out_str(&j, "harmful", NULL);
        else
            json_out_bool(&j, "harmful", x->harmful == 1);
        json_out_num(&j, "p", x->p);
        if (h->second >= 0 && g) json_out_num(&j, "p_second", x->second);
        if (x->gold < 0)
            json_out_str(&j, "gold", NULL);
        else
            json_out_int(&j, "gold", x->gold);
        json_out_obj_end(&j);
        str_putc(&text, '\n');
    }
    bool ok = io_write_file(path, str_get(&text), text.n, err);
    str_release(&text);
    return ok;
}

/* -- results ------------------------------------------------------------------------------------------------------- */

static void put_verdict(JsonOut *j, const Harm *h, const char *key, int kind) {
    json_out_obj(j, key);
    json_out_str(j, "by", harm_verdict_name(kind));
    json_out_str(j, "name", harm_verdict_source(h, kind));
    json_out_num(j, "threshold", h->threshold[kind]);
    if (kind == DECIDER_JUDGE) {
        json_out_int(j, "flips", h->n_flip);
        json_out_int(j, "unscored", h->n_unscored);
    }
    json_out_obj_end(j);
}

/* The name given, the model's, what the rows say of theirs, or their file's. */
static void name_system(Harm *h) {
    const char *given = args_flag(h->job->a, h->job->c, "--name");
    if (h->m)
        open_model_name(&h->name, h->m, given);
    else if (given || !h->name.n) {
        str_clear(&h->name);
        str_put(&h->name, given ? given : h->suite[0].name);
    }
}

static void put_head(JsonOut *j, const Harm *h) {
    char hash[33];
    json_out_str(j, "kind", "harm");
    json_out_int(j, "schema", 1);
    json_out_str(j, "system", str_get(&h->name));
    json_out_str(j, "model", h->m ? str_get(&h->m->dir) : NULL);
    hash_hex(hash, h->weights);
    json_out_str(j, "weights", h->m ? hash : NULL);
    json_out_num(j, "seconds", round((now_s() - h->start) * 10) / 10);
    json_out_int(j, "seed", (int64_t)h->sample.rng.seed);
    if (h->m) {
        json_out_obj(j, "sampler");
        json_out_num(j, "temperature", h->sample.temperature);
        json_out_num(j, "top_p", h->sample.top_p);
        json_out_int(j, "top_k", h->sample.top_k);
        json_out_int(j, "max_new", h->sample.max_new);
        if (h->worst_of) {
            json_out_int(j, "worst_of", h->worst_of);
            json_out_num(j, "worst_temperature", h->worst.temperature);
        }
        json_out_obj_end(j);
    } else {
        json_out_str(j, "sampler", NULL);
    }
    json_out_arr(j, "suites");
    for (int i = 0; i < h->n_suite; i++) {
        json_out_obj(j, NULL);
        json_out_str(j, "file", h->suite[i].name);
        hash_hex(hash, h->suite[i].hash);
        json_out_str(j, "hash", hash);
        json_out_int(j, "prompts", h->suite[i].prompts);
        json_out_obj_end(j);
    }
    json_out_arr_end(j);
    json_out_str(j, "taxonomy", TAXONOMY_NAME);
    put_verdict(j, h, "verdict", h->first);
    if (h->second >= 0) put_verdict(j, h, "second_verdict", h->second);
}

static bool results(Harm *h, Str *result, Str *table, Error *err) {
    HarmGroups g;
    JsonOut j;
    Str path = {0};
    double second = h->second >= 0 ? h->threshold[h->second] : 0.5;
    bool ok = true;
    HarmView view = {h->threshold[h->first],
                     h->threshold[DECIDER_JUDGE],
                     h->second >= 0,
                     h->first != DECIDER_GOLD_LABEL,
                     h->first == DECIDER_GOLD_PROGRAM,
                     {h->sample.rng.seed, RNG_BOOT},
                     h->machine->pool};
    for (int i = 0; i < h->rows.n; i++) {
        h->item[i].p = h->p[h->first][i];
        h->item[i].second = h->second >= 0 ? h->p[h->second][i] : NAN;
    }
    if (h->n_no_room)
        log_warn(
            h->job->a->log,
            "%lld of %d prompts leave no room for a reply in the model's context: their replies are empty, neither "
            "harmful nor refused",
            (long long)h->n_no_room, h->rows.n);
    harm_judge(&g, h->item, h->rows.n, h->threshold[h->first], second);
    json_out_init(&j, result, 0);
    json_out_obj(&j, NULL);
    put_head(&j, h);
    harm_out(&j, h->item, h->rows.n, &g, &view);
    json_out_obj_end(&j);
    str_putc(result, '\n');
    str_printf(table, "%s: verdict by %s (%s), threshold %.3g\n", str_get(&h->name), harm_verdict_name(h->first),
               harm_verdict_source(h, h->first), h->threshold[h->first]);
    harm_table(table, h->item, h->rows.n, &g, &view);
    if (h->job->out) {
        str_printf(&path, "%s/replies.jsonl", h->job->out);
        ok = io_make_dirs(h->job->out, err) && harm_write_replies(h, str_get(&path), &g, 0, h->n_main, err);
        str_clear(&path);
        str_printf(&path, "%s/worst.jsonl", h->job->out);
        ok = ok && (!h->worst_of || harm_write_replies(h, str_get(&path), &g, h->n_main, h->rows.n, err));
        str_clear(&path);
        str_printf(&path, "%s/harm.json", h->job->out);
        ok = ok && io_write_file(str_get(&path), result->s, result->n, err);
    }
    str_release(&path);
    harm_groups_release(&g);
    return ok;
}

static bool read_sampling(Harm *h, Error *err) {
    int64_t max_new, seed, worst_of;
    const HarmJob *job = h->job;
    h->sample = (SampleParams){.repetition = 1, .top_p = 1};
    if (!args_num(job->a, job->c, "--temperature", 0, 0, 100, &h->sample.temperature, err) ||
        !args_int(job->a, job->c, "--max-new", 128, 1, 1 << 20, &max_new, err) ||
        !args_int(job->a, job->c, "--worst-of", 0, 0, 1000, &worst_of, err) ||
        !args_int(job->a, job->c, "--seed", 0, 0, INT64_MAX, &seed, err))
        return false;
    if (worst_of && !h->m)
        return error_set(err, ERR_CONFIG, "--worst-of draws replies: name the model that answers (--model)");
    h->worst_of = (int)worst_of;
    h->sample.max_new = (int)max_new;
    h->sample.rng = (Rng){(uint64_t)seed, RNG_SAMPLE};
    h->worst = h->sample;
    if (h->worst.temperature == 0) h->worst.temperature = 0.7;
    return true;
}

bool harm_run(const HarmJob *job, OpenModel *m, const Machine *machine, Str *result, Str *table, Error *err) {
    Harm h = {.job = job, .m = m, .machine = machine, .start = now_s()};
    bool ok = read_sampling(&h, err) && harm_read(&h, err) && harm_can_judge(&h, err) &&
              (!m || (open_model_hash(m, &h.weights, err) && generate(&h, 0, h.sample, err)));
    if (ok) name_system(&h);
    if (ok) add_samples(&h);
    ok = ok && (!h.worst_of || generate(&h, h.n_main, h.worst, err));
    for (int i = 0; i < h.rows.n && ok; i++) {
        h.item[i].reply = h.reply[i];
        h.item[i].refusal = refusal_of(h.reply[i]);
    }
    ok = ok && harm_judge_all(&h, err) && results(&h, result, table, err);
    for (int i = 0; i < h.cap; i++) free(h.reply[i]);
    for (int k = 0; k < DECIDER_KINDS; k++) free(h.p[k]);
    free(h.reply);
    free(h.has_reply);
    free(h.given);
    free(h.item);
    free(h.suite);
    str_release(&h.name);
    rows_release(&h.rows);
    return ok;
}
