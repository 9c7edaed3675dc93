/* Rollouts -> experience. Rollout j of the whole run (j = update * rollouts + i) takes prompt j / group of an endless
 * series of seeded permutations (group: 1 in methods without groups) and draws its tokens under id j, so nothing
 * depends on what else is generated beside it, nor on whom: ranks (tensor-parallel groups of them) take runs of prompts
 * by their numbers, with all replies to each, and one message from each to all brings them together.
 *
 * Rows: reply token t of a prompt of P tokens stands at position P + t and is predicted by the row before it, P + t
 * - 1. The value of the state in which it is drawn is read from that same row. */
#include "train/rollout.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "dist/agree.h"

enum { MAX_SLOTS = 64 }; /* replies generated at once */

static bool check_setup(const PpoConfig *c, const PpoSetup *s, Error *err) {
    if (!(c->temperature > 0)) return error_set(err, ERR_CONFIG, "ppo: temperature %g, expected > 0", c->temperature);
    if (c->rollouts < 1 || c->minibatches < 1 || c->minibatches > c->rollouts || c->epochs < 1 || c->max_new < 1)
        return error_set(
            err, ERR_CONFIG,
            "ppo: %d rollouts, %d minibatches, %d epochs, %d new tokens: expected at least 1 of each and no "
            "more minibatches than rollouts",
            c->rollouts, c->minibatches, c->epochs, c->max_new);
    const RlMethodInfo *method = &rl_methods[c->method];
    if (method->groups && (c->group < 2 || c->rollouts % c->group))
        return error_set(err, ERR_CONFIG,
                         "%s: %d rollouts in groups of %d: expected groups of at least 2 replies, whose advantages are "
                         "relative to each other, and whole groups in every update",
                         method->name, c->rollouts, c->group);
    if (s->n_prompt < 1) return error_set(err, ERR_CONFIG, "ppo: no prompts");
    if (!(s->score_sd > 0))
        return error_set(err, ERR_CONFIG, "ppo: the scores' deviation is %g, expected > 0", s->score_sd);
    const Model *net[] = {s->policy.trunk, s->reference.trunk, s->value.trunk};
    int n_net = method->value ? 3 : 2;
    for (int i = 0; i < s->n_prompt; i++) {
        int n = s->prompt[i].n + c->max_new;
        if (s->prompt[i].n < 1) return error_set(err, ERR_CONFIG, "ppo: prompt %" PRIu64 " is empty", s->prompt[i].id);
        if (n > c->max_tok)
            return error_set(err, ERR_CONFIG,
                             "ppo: prompt %" PRIu64
                             " of %d tokens and a reply of %d pass the %d tokens of one forward pass: "
                             "drop it or raise the tokens per pass",
                             s->prompt[i].id, s->prompt[i].n, c->max_new, c->max_tok);
        for (int k = 0; k < n_net; k++)
            if (n > net[k]->cfg.max_seq)
                return error_set(err, ERR_CONFIG,
                                 "ppo: prompt %" PRIu64
                                 " of %d tokens and a reply of %d pass the context of %d: drop it or "
                                 "shorten replies",
                                 s->prompt[i].id, s->prompt[i].n, c->max_new, net[k]->cfg.max_seq);
    }
    return true;
}

/* The cache holds what the rollouts can use at once and no more. */
static EngineConfig generation(const PpoConfig *c, const PpoSetup *s, const Model *m) {
    int longest = 0, pages;
    for (int i = 0; i < s->n_prompt; i++)
        if (s->prompt[i].n > longest) longest = s->prompt[i].n;
    pages = (longest + c->max_new - 1 + KV_PAGE - 1) / KV_PAGE;
    EngineConfig e = {.weights = c->rollout_weights,
                      .share_prefix = true,
                      .max_slots = c->rollouts < MAX_SLOTS ? c->rollouts : MAX_SLOTS};
    e.kv_bytes = (size_t)e.max_slots * (size_t)pages * kv_page_bytes(m);
    return e;
}

/* A stage becomes all layers of this rank's share. */
static bool gather_net(Regroup **out, Net *n, const Mesh *mesh, Error *err) {
    if (!model_is_stage(n->trunk)) return true;
    if (!regroup_open(out, *n, mesh, false, err) || !regroup_refresh(*out, err)) return false;
    *n = regroup_net(*out);
    return true;
}

bool rollout_open(Rollout *r, const PpoConfig *c, const PpoSetup *s, Error *err) {
    *r = (Rollout){.c = c, .s = s, .order_epoch = -1};
    if (!check_setup(c, s, err)) return false;
    bool value = rl_methods[c->method].value;
    r->policy_net = s->policy, r->value_net = s->value;
    if (!gather_net(&r->joined[0], &r->policy_net, c->mesh, err) ||
        (value && !gather_net(&r->joined[1], &r->value_net, c->mesh, err))) {
        rollout_close(r);
        return false;
    }
    EngineConfig gen = generation(c, s, r->policy_net.trunk), score = {.max_batch_tok = c->max_tok};
    if (!engine_open(&r->policy, r->policy_net, &gen, err) || !engine_open(&r->reference, s->reference, &score, err) ||
        (value && !engine_open(&r->value, r->value_net, &score, err))) {
        rollout_close(r);
        return false;
    }
    r->order = mem_alloc((size_t)s->n_prompt * sizeof(int64_t));
    return true;
}

void rollout_close(Rollout *r) {
    engine_close(r->policy);
    engine_close(r->reference);
    engine_close(r->value);
    for (int i = 0; i < COUNT_OF(r->joined); i++) regroup_close(r->joined[i]);
    free(r->order);
    *r = (Rollout){0};
}

static const PpoPrompt *prompt_of(Rollout *r, int64_t j) {
    int64_t epoch = j / r->s->n_prompt;
    if (epoch != r->order_epoch) {
        rng_shuffle(rng_derive((Rng){r->c->seed, RNG_SHUFFLE}, "ppo prompts"), (uint64_t)epoch, r->order,
                    r->s->n_prompt);
        r->order_epoch = epoch;
    }
    return &r->s->prompt[r->order[j % r->s->n_prompt]];
}

static void ban_hook(void *ud, uint64_t id, const int32_t *text, int n, GenRule *rule) {
    (void)id, (void)text, (void)n;
    rule->ban = ((const PpoSetup *)ud)->ban;
}

/* Replies to one prompt, which one rank makes. */
static int together(const PpoConfig *c) { return rl_methods[c->method].groups ? c->group : 1; }

static bool generate(Experience *x, Rollout *r, int64_t first, const Stop *stop, Error *err) {
    const PpoConfig *c = r->c;
    GenRequest *req = mem_alloc((size_t)x->n * sizeof(GenRequest));
    for (int i = 0; i < x->n; i++) {
        int64_t j = first + i;
        x->prompt[i] = prompt_of(r, j / together(c));
        SampleParams p = {.temperature = c->temperature, .top_p = 1, .repetition = 1, .max_new = c->max_new};
        p.rng = rng_derive((Rng){c->seed, RNG_SAMPLE}, "ppo rollout");
        p.stop = &r->s->end_id;
        p.n_stop = r->s->end_id >= 0;
        if (r->s->ban) {
            p.hook = ban_hook;
            p.hook_ud = (void *)(uintptr_t)r->s;
        }
        req[i] = (GenRequest){(uint64_t)j, {x->prompt[i]->tok, x->prompt[i]->n}, p};
    }
    /* The run has its own progress line. */
    bool ok = x->n == 0 || engine_generate(r->policy, req, x->n, x->reply, NULL, stop, err);
    free(req);
    return ok;
}

static double *doubles(int64_t n) { return mem_alloc((size_t)(n > 0 ? n : 1) * sizeof(double)); }

static void place_tokens(Experience *x, RlMethod method) {
    for (int i = 0; i < x->n; i++) {
        CHECK(x->reply[i].n > 0, "reply %d of a prompt that fits is empty", i);
        x->off[i + 1] = x->off[i] + x->reply[i].n;
    }
    x->n_tok = x->off[x->n];
    double **const array[] = {&x->lp, &x->lr, &x->adv, &x->v, &x->r, &x->ret};
    for (int k = 0; k < (rl_methods[method].value ? 6 : 3); k++) *array[k] = doubles(x->n_tok);
    for (int i = 0; i < x->n; i++)
        for (int t = 0; t < x->reply[i].n; t++) x->lp[x->off[i] + t] = x->reply[i].logprob[t];
}

static bool score_reference(Experience *x, Rollout *r, Error *err) {
    Tokens *prefix = mem_alloc((size_t)x->n * sizeof(Tokens)), *text = mem_alloc((size_t)x->n * sizeof(Tokens));
    float *flat = mem_alloc((size_t)x->n_tok * sizeof(float)), **lp = mem_alloc((size_t)x->n * sizeof(float *));
    for (int i = 0; i < x->n; i++) {
        prefix[i] = (Tokens){x->prompt[i]->tok, x->prompt[i]->n};
        text[i] = (Tokens){x->reply[i].text, x->reply[i].n};
        lp[i] = flat + x->off[i];
    }
    bool ok = engine_score(r->reference, prefix, text, x->n, (float)r->c->temperature, lp, err);
    for (int64_t t = 0; ok && t < x->n_tok; t++) x->lr[t] = flat[t];
    free(prefix);
    free(text);
    free(flat);
    free(lp);
    return ok;
}

double value_of(const PpoConfig *c, double output) {
    return c->value_scale > 0 ? (output - c->value_shift) / c->value_scale : output;
}

static bool score_values(Experience *x, Rollout *r, Error *err) {
    int64_t n_all = 0;
    for (int i = 0; i < x->n; i++) n_all += x->prompt[i]->n + x->reply[i].n - 1;
    int32_t *tok = mem_alloc((size_t)n_all * sizeof(int32_t)), *at = tok;
    float *flat = mem_alloc((size_t)n_all * sizeof(float)), **out = mem_alloc((size_t)x->n * sizeof(float *));
    Tokens *seq = mem_alloc((size_t)x->n * sizeof(Tokens));
    for (int i = 0; i < x->n; i++) { /* the last reply token predicts nothing, so its row is left out */
        int n_prompt = x->prompt[i]->n, n_reply = x->reply[i].n - 1;
        memcpy(at, x->prompt[i]->tok, (size_t)n_prompt * sizeof(int32_t));
        memcpy(at + n_prompt, x->reply[i].text, (size_t)n_reply * sizeof(int32_t));
        seq[i] = (Tokens){at, n_prompt + n_reply};
        out[i] = flat + (at - tok);
        at += n_prompt + n_reply;
    }
    bool ok = engine_score_all(r->value, seq, x->n, out, err);
    for (int i = 0; ok && i < x->n; i++)
        for (int t = 0; t < x->reply[i].n; t++) x->v[x->off[i] + t] = value_of(r->c, out[i][x->prompt[i]->n - 1 + t]);
    free(tok);
    free(flat);
    free(out);
    free(seq);
    return ok;
}

static bool score_replies(Experience *x, Rollout *r, Error *err) {
    const PpoSetup *s = r->s;
    PpoPrompt *p = mem_alloc((size_t)x->n * sizeof(PpoPrompt));
    Tokens *reply = mem_alloc((size_t)x->n * sizeof(Tokens));
    for (int i = 0; i < x->n; i++) {
        p[i] = *x->prompt[i];
        reply[i] = (Tokens){x->reply[i].text, x->reply[i].n};
    }
    bool ok = s->score(s->score_ud, p, reply, x->n, x->raw, err);
    for (int i = 0; ok && i < x->n; i++) {
        double z = (x->raw[i] - s->score_mean) / s->score_sd, top = r->c->score_clip;
        if (x->reply[i].why != STOP_TOKEN && !isnan(r->c->no_end_score))
            z = (r->c->no_end_adds ? z : 0) + r->c->no_end_score;
        if (top > 0) z = z < -top ? -top : z > top ? top : z;
        x->score[i] = z;
    }
    free(p);
    free(reply);
    return ok || error_wrap(err, "scoring the rollout");
}

static void sum_kl(Experience *x) {
    for (int i = 0; i < x->n; i++) {
        x->kl[i] = 0;
        for (int64_t t = x->off[i]; t < x->off[i + 1]; t++) x->kl[i] += x->lp[t] - x->lr[t];
    }
}

static bool all_finite(const Experience *x, Error *err) {
    return doctor_finite("score", "the preference model diverged, or its unit (mean and deviation) is wrong", x->score,
                         x->n, err) &&
           doctor_finite("log-prob under the policy", "the last update broke the policy's weights", x->lp, x->n_tok,
                         err) &&
           doctor_finite("log-prob under the reference", "a token the reference cannot draw, or a broken reference",
                         x->lr, x->n_tok, err) &&
           (!x->v || doctor_finite("value", "the last update broke the value net's weights", x->v, x->n_tok, err));
}

static void experience_open(Experience *x, int n) {
    *x = (Experience){.n = n};
    x->prompt = mem_alloc((size_t)n * sizeof *x->prompt);
    x->reply = mem_alloc((size_t)n * sizeof *x->reply);
    x->off = mem_alloc((size_t)(n + 1) * sizeof *x->off);
    x->raw = doubles(n);
    x->score = doubles(n);
    x->kl = doubles(n);
}

/* Replies first.. of the whole run, generated and scored. */
static bool make_replies(Experience *x, Rollout *r, int64_t first, const Stop *stop, Error *err) {
    double start = now_s();
    pulse_section(r->pulse, SECTION_ROLLOUT);
    bool ok = generate(x, r, first, stop, err);
    x->generate_s = now_s() - start;
    if (!ok || x->n == 0) return ok;
    pulse_section(r->pulse, SECTION_SCORE);
    place_tokens(x, r->c->method);
    return score_reference(x, r, err) && (!rl_methods[r->c->method].value || score_values(x, r, err)) &&
           score_replies(x, r, err);
}

/* -- ranks */

typedef struct { /* one reply as it travels; behind it its ids, log-probs, the reference's, and values where there are
                    some */
    int64_t n, why, n_forced;
    double raw, score, odds;
} Sent;

static void put_floats(Str *out, const double *x, int64_t n) {
    for (int64_t t = 0; t < n; t++) { /* all of them came as floats */
        float f = (float)x[t];
        str_putn(out, &f, sizeof f);
    }
}

static void pack_replies(Str *out, const Experience *x) {
    for (int i = 0; i < x->n; i++) {
        const GenResult *g = &x->reply[i];
        Sent s = {g->n, (int64_t)g->why, g->n_forced, x->raw[i], x->score[i], g->odds};
        str_putn(out, &s, sizeof s);
        str_putn(out, g->text, (size_t)g->n * sizeof *g->text);
        str_putn(out, g->logprob, (size_t)g->n * sizeof *g->logprob);
        put_floats(out, x->lr + x->off[i], g->n);
        if (x->v) put_floats(out, x->v + x->off[i], g->n);
    }
}

static const unsigned char *get_floats(double *out, const unsigned char *at, int64_t n) {
    for (int64_t t = 0; t < n; t++) {
        float f;
        memcpy(&f, at + (size_t)t * sizeof f, sizeof f);
        out[t] = f;
    }
    return at + (size_t)n * sizeof(float);
}

/* Heads and texts first, for places follow from lengths; then what stands at them. */
static void unpack_replies(Experience *x, Rollout *r, int64_t first, const unsigned char *data) {
    bool value = rl_methods[r->c->method].value;
    const unsigned char *at = data;
    for (int i = 0; i < x->n; i++) {
        Sent s;
        memcpy(&s, at, sizeof s);
        GenResult *g = &x->reply[i];
        size_t bytes = (size_t)s.n * sizeof(float);
        *g = (GenResult){.id = (uint64_t)(first + i), .n = (int)s.n, .why = (StopReason)s.why};
        g->n_forced = (int)s.n_forced, g->odds = (float)s.odds;
        g->text = memcpy(mem_alloc(bytes), at + sizeof s, bytes);
        g->logprob = memcpy(mem_alloc(bytes), at + sizeof s + bytes, bytes);
        x->raw[i] = s.raw;
        x->score[i] = s.score;
        x->prompt[i] = prompt_of(r, (first + i) / together(r->c));
        at += sizeof s + bytes * (value ? 4 : 3);
    }
    place_tokens(x, r->c->method);
    for (int i = 0; i < x->n; i++) {
        data += sizeof(Sent) + 2 * (size_t)x->reply[i].n * sizeof(float);
        data = get_floats(x->lr + x->off[i], data, x->reply[i].n);
        if (value) data = get_floats(x->v + x->off[i], data, x->reply[i].n);
    }
}

/* Each group's replies, and everybody's to everybody: the ranks of a tensor-parallel group, neighbours in the world,
 * make the same ones together, and the first tells. */
static bool make_together(Experience *x, Rollout *r, int64_t first, const Stop *stop, Error *err) {
    const Mesh *mesh = r->c->mesh;
    int tp = mesh->size.tp, size = comm_size(mesh->world) / tp, me = comm_rank(mesh->world) / tp;
    int unit = together(r->c);
    int64_t units = x->n / unit, from = units * me / size * unit, to = units * (me + 1) / size * unit;
    Experience own;
    Gathered all;
    Str out = {0};
    Error mine = {0};
    experience_open(&own, (int)(to - from));
    if (make_replies(&own, r, first + from, stop, &mine) && mesh->at.tp == 0) pack_replies(&out, &own);
    x->generate_s = own.generate_s;
    experience_release(&own);
    bool ok = agree(mesh->world, &mine, out.s, (int64_t)out.n, &all, err);
    if (ok) unpack_replies(x, r, first, all.data);
    gathered_release(&all);
    str_release(&out);
    return ok;
}

bool rollout_make(Experience *x, Rollout *r, int64_t update, double beta, const Stop *stop, Error *err) {
    int64_t first = update * r->c->rollouts;
    double start = now_s();
    experience_open(x, r->c->rollouts);
    for (int i = 0; i < COUNT_OF(r->joined); i++)
        if (r->joined[i] && !regroup_refresh(r->joined[i], err)) {
            experience_release(x);
            return false;
        }
    bool alone = !r->c->mesh || comm_size(r->c->mesh->world) == 1;
    bool ok = alone ? make_replies(x, r, first, stop, err) : make_together(x, r, first, stop, err);
    if (ok && update == 0 && r->c->rollout_weights == DTYPE_F32 && doctor_same_weights(r->policy_net, r->s->reference))
        ok = doctor_equal_reference(x->lp, x->lr, x->n_tok, r->s->policy.trunk->be->exact, err);
    if (ok) sum_kl(x);
    ok = ok && all_finite(x, err) && experience_judge(x, r->c, beta, r->s->spoil, err);
    x->score_s = now_s() - start - x->generate_s;
    if (!ok) experience_release(x);
    return ok;
}

void experience_release(Experience *x) {
    if (x->reply) engine_free_results(x->reply, x->n);
    free(x->reply);
    free(x->prompt);
    free(x->off);
    double *const array[] = {x->lp, x->lr, x->v, x->r, x->adv, x->ret, x->raw, x->score, x->kl};
    for (int k = 0; k < COUNT_OF(array); k++) free(array[k]);
    *x = (Experience){0};
}

bool ppo_score_pm(void *ud, const PpoPrompt *p, const Tokens *reply, int n, double *score, Error *err) {
    const PpoPmScore *pm = ud;
    int64_t n_all = 0;
    for (int i = 0; i < n; i++) n_all += p[i].n + reply[i].n + 1;
    int32_t *tok = mem_alloc((size_t)n_all * sizeof(int32_t)), *at = tok;
    Tokens *seq = mem_alloc((size_t)n * sizeof(Tokens));
    float *out = mem_alloc((size_t)n * sizeof(float));
    for (int i = 0; i < n; i++) {
        int32_t *first = at;
        memcpy(at, p[i].tok, (size_t)p[i].n * sizeof(int32_t));
        at += p[i].n;
        memcpy(at, reply[i].tok, (size_t)reply[i].n * sizeof(int32_t));
        at += reply[i].n;
        if (at[-1] != pm->end_id && at - first < pm->max_seq) *at++ = pm->end_id;
        seq[i] = (Tokens){first, (int)(at - first)};
    }
    bool ok = engine_score_last(pm->pm, seq, n, out, err);
    for (int i = 0; ok && i < n; i++) score[i] = out[i];
    free(tok);
    free(seq);
    free(out);
    return ok;
}
