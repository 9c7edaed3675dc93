/* What was thrown away, for people to look at: counts of everything, texts of a few. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "cai/revise.h"

enum { NO_PRINCIPLE = 65, N_PRINCIPLE = 66, N_ROUND = MAX_ROUNDS + 1 }; /* 64, and the joint one */

typedef struct {
    uint64_t rank; /* which of a code's rejects are shown: the lowest */
    int chain, round;
    Reject code;
} Rejected;

static int by_code_rank(const void *a, const void *b) {
    const Rejected *x = a, *y = b;
    if (x->code != y->code) return x->code < y->code ? -1 : 1;
    if (x->rank != y->rank) return x->rank < y->rank ? -1 : 1;
    return x->chain != y->chain ? (x->chain > y->chain) - (x->chain < y->chain) : x->round - y->round;
}

/* Rejected rounds; a chain that was rejected outside of them (its first reply, a duplicate) once more. round 0: the
 * reply. */
static int collect(Rejected *out, const Reviser *r, const Chain *chain, int n) {
    int m = 0;
    for (int i = 0; i < n; i++) {
        const Chain *c = &chain[i];
        bool told = false;
        for (int k = 0; k < c->n_round; k++) {
            if (c->round[k].reject == REJECT_NONE) continue;
            told = told || c->round[k].reject == c->reject;
            out[m++] = (Rejected){0, i, k + 1, c->round[k].reject};
        }
        if (c->outcome == OUTCOME_REJECTED && !told) out[m++] = (Rejected){0, i, c->n_round, c->reject};
    }
    for (int i = 0; i < m; i++) {
        Rng rng = {r->ctx->seed, RNG_SPLIT};
        out[i].rank = rng_u32(rng, stage_id(chain[out[i].chain].id), (uint32_t)out[i].round);
    }
    if (m) qsort(out, (size_t)m, sizeof *out, by_code_rank);
    return m;
}

static void reject_json(Str *out, const Reviser *r, const Chain *c, const Rejected *x) {
    const char *before = c->reply;
    for (int k = 0; k < x->round - 1; k++)
        if (c->round[k].violates && c->round[k].reject == REJECT_NONE) before = c->round[k].revision;
    const Round *q = x->round ? &c->round[x->round - 1] : NULL;
    JsonOut j;
    str_clear(out);
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "code", reject_name(x->code));
    json_out_str(&j, "id", c->id);
    json_out_int(&j, "round", x->round);
    json_out_str(&j, "principle", q ? round_principle(r, q)->id : NULL);
    json_out_str(&j, "prompt", c->prompt->text);
    json_out_str(&j, "previous", before);
    json_out_str(&j, "critique", q ? q->critique : NULL);
    json_out_str(&j, "revision", q ? q->revision : NULL);
    json_out_num(&j, "gate_p", q ? q->gate_p : NAN);
    json_out_obj_end(&j);
    str_putc(out, '\n');
}

static bool write_samples(const Reviser *r, const Chain *chain, const Rejected *x, int n, Error *err) {
    Str path = {0}, line = {0};
    Writer *w = NULL;
    int64_t most = r->ctx->cfg->revise.audit, shown = 0;
    path_join(&path, r->ctx->output, "rejects.jsonl");
    bool ok = writer_open(&w, str_get(&path), err);
    for (int i = 0; i < n && ok; i++) {
        shown = i && x[i].code == x[i - 1].code ? shown + 1 : 0;
        if (shown >= most) continue;
        reject_json(&line, r, &chain[x[i].chain], &x[i]);
        ok = writer_put(w, line.s, line.n, err);
    }
    ok = writer_end(w, ok, err);
    str_release(&path);
    str_release(&line);
    return ok;
}

/* code x principle x round, those that happened. */
static bool write_counts(const Reviser *r, const Chain *chain, const Rejected *x, int n, Error *err) {
    int *count = mem_alloc((size_t)REJECT_COUNT * N_PRINCIPLE * N_ROUND * sizeof *count);
    for (int i = 0; i < n; i++) {
        int p = x[i].round ? chain[x[i].chain].round[x[i].round - 1].principle : NO_PRINCIPLE;
        count[((int)x[i].code * N_PRINCIPLE + p) * N_ROUND + x[i].round]++;
    }
    Str path = {0}, text = {0};
    JsonOut j;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-rejects/1");
    json_out_int(&j, "rejects", n);
    json_out_arr(&j, "counts");
    for (int k = 0; k < REJECT_COUNT * N_PRINCIPLE * N_ROUND; k++) {
        int round = k % N_ROUND, p = k / N_ROUND % N_PRINCIPLE, code = k / N_ROUND / N_PRINCIPLE;
        if (!count[k]) continue;
        json_out_obj(&j, NULL);
        json_out_str(&j, "code", reject_name((Reject)code));
        json_out_str(&j, "principle",
                     p == NO_PRINCIPLE ? NULL
                     : p == r->con->n  ? r->joint.id
                                       : r->con->principle[p].id);
        json_out_int(&j, "round", round);
        json_out_int(&j, "n", count[k]);
        json_out_obj_end(&j);
    }
    json_out_arr_end(&j);
    json_out_obj_end(&j);
    str_putc(&text, '\n');
    path_join(&path, r->ctx->output, "rejects.json");
    bool ok = io_write_file(str_get(&path), text.s, text.n, err);
    str_release(&path);
    str_release(&text);
    free(count);
    return ok;
}

bool revise_audit(const Reviser *r, const Chain *chain, int n, Error *err) {
    Rejected *x = mem_alloc((size_t)(n + 1) * N_ROUND * sizeof *x);
    int m = collect(x, r, chain, n);
    bool ok = write_samples(r, chain, x, m, err) && write_counts(r, chain, x, m, err);
    free(x);
    return ok;
}
