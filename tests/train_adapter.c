/* tests/train_adapter.c — training's own code on token ids that a script hands over, on backend ref (F64):
 * train_adapter REQUEST.json; the answer is one JSON object on stdout.
 *
 *   {"op":"dpo","policy":DIR,"reference":DIR,"beta","label_smoothing","ipo","average","pairs":[{"prompt":[ids],"chosen":[..],
 *    "rejected":[..]},...]}        ->  {"loss","accuracy","margin","chosen_reward","rejected_reward"}
 *   {"op":"sft","policy":DIR,"max_tok":N,"rows":[{"prompt":[ids],"completion":[ids]},...]}  ->  {"loss","packs"}: packs
 * of N
 *   {"op":"ppo","policy":DIR,"reference":DIR,"value":DIR,"out":DIR,"prompts":[[ids],...],"scores":[...],"max_new","epochs","lr",
 *    "beta","lambda","temperature"}  ->  {"replies":[[ids],...]} by prompt; out/policy and out/value: after one update
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "train/obj.h"
#include "train/ppo.h"

typedef struct {
    const Json *q;
    Backend *be;
    Error err;
} Request;

typedef struct {
    Model m;
    Head h;
    Net net;
} Opened;

static void must(Request *a, bool ok) {
    if (ok) return;
    fprintf(stderr, "train_adapter: %s\n", a->err.msg);
    exit(1);
}

static const char *text(Request *a, const char *key) {
    const char *s = NULL;
    must(a, json_need_str(a->q, key, &s, NULL, &a->err));
    return s;
}

static double number(Request *a, const char *key) {
    double v = 0;
    must(a, json_need_num(a->q, key, &v, &a->err));
    return v;
}

static void open_net(Request *a, Opened *o, const char *key, HeadKind kind, bool grads) {
    const char *dir = text(a, key);
    must(a, model_open(&o->m, a->be, dir, grads, &a->err));
    must(a, head_open(&o->h, &o->m, kind, dir, grads, &a->err));
    o->net = (Net){&o->m, &o->h, NULL};
}

static void close_net(Opened *o) {
    head_release(&o->h);
    model_release(&o->m);
}

static int read_ids(int32_t *out, const Json *ids) {
    int n = json_len(ids);
    for (int i = 0; i < n; i++) out[i] = (int32_t)json_int(json_at(ids, i), -1);
    return n;
}

static void add_row(SampleSet *set, const Json *prompt, const Json *reply, uint64_t id, float target) {
    int n_all = json_len(prompt) + json_len(reply), n;
    int32_t *tok = mem_alloc((size_t)n_all * sizeof *tok);
    float *weight = mem_alloc((size_t)n_all * sizeof *weight);
    n = read_ids(tok, prompt);
    read_ids(tok + n, reply);
    for (int i = n; i < n_all; i++) weight[i] = 1;
    samples_add(set, tok, weight, n_all, id, target, 1);
    free(tok);
    free(weight);
}

static int longest(const SampleSet *s) {
    int64_t most = 1;
    for (int64_t i = 0; i < s->n; i++)
        if (s->off[i + 1] - s->off[i] > most) most = s->off[i + 1] - s->off[i];
    return (int)most;
}

static void dpo(Request *a, JsonOut *out) {
    Opened policy, reference;
    SampleSet set;
    ObjDpo *o;
    Objective obj;
    double loss;
    DpoConfig c = {{number(a, "beta"), number(a, "label_smoothing"),
                    json_bool(json_get(a->q, "ipo"), false) ? DPO_IPO : DPO_SIGMOID},
                   json_bool(json_get(a->q, "average"), false),
                   false};
    open_net(a, &policy, "policy", HEAD_LM, true);
    open_net(a, &reference, "reference", HEAD_LM, false);
    samples_init(&set, 2);
    const Json *pairs = json_get(a->q, "pairs");
    for (int i = 0; i < json_len(pairs); i++) {
        const Json *p = json_at(pairs, i);
        add_row(&set, json_get(p, "prompt"), json_get(p, "chosen"), (uint64_t)i, 1);
        add_row(&set, json_get(p, "prompt"), json_get(p, "rejected"), (uint64_t)i, 0);
    }
    int max_tok = 2 * longest(&set);
    double *ref = mem_alloc((size_t)set.n * sizeof *ref);
    Metrics *m = metrics_new();
    must(a, obj_dpo_reference(ref, &set, reference.net, max_tok, &a->err));
    must(a, obj_dpo_open(&o, &obj, &set, ref, max_tok, 0, &c, &a->err));
    must(a, eval_run(&loss, policy.net, &obj, obj_dpo_packs(o, 0), m, &a->err));
    json_out_num(out, "loss", loss);
    for (int i = 0; i < metrics_count(m); i++) {
        double mean, weight;
        const char *name = metrics_at(m, i, &mean, &weight);
        json_out_num(out, name, mean);
    }
    metrics_free(m);
    obj_dpo_close(o);
    samples_release(&set);
    free(ref);
    close_net(&policy);
    close_net(&reference);
}

static void sft(Request *a, JsonOut *out) {
    Opened policy;
    SampleSet set;
    ObjLm *o;
    Objective obj;
    double loss;
    open_net(a, &policy, "policy", HEAD_LM, true);
    samples_init(&set, 1);
    const Json *rows = json_get(a->q, "rows");
    for (int i = 0; i < json_len(rows); i++)
        add_row(&set, json_get(json_at(rows, i), "prompt"), json_get(json_at(rows, i), "completion"), (uint64_t)i, 0);
    must(a, obj_lm_open(&o, &obj, &set, (int)number(a, "max_tok"), 0, &a->err));
    must(a, eval_run(&loss, policy.net, &obj, obj_lm_packs(o, 0), NULL, &a->err));
    json_out_num(out, "loss", loss);
    json_out_int(out, "packs", obj_lm_packs(o, 0));
    obj_lm_close(o);
    samples_release(&set);
    close_net(&policy);
}

typedef struct {
    const Json *scores;
    JsonOut *out;
    int n;
} PpoRun;

static bool given_scores(void *ud, const PpoPrompt *p, const Tokens *reply, int n, double *score, Error *err) {
    const PpoRun *r = ud;
    (void)reply, (void)err;
    for (int i = 0; i < n; i++) score[i] = json_num(json_at(r->scores, (int)p[i].id), NAN);
    return true;
}

static void put_replies(void *ud, const PpoReport *r) {
    PpoRun *run = ud;
    json_out_arr(run->out, "replies");
    for (int id = 0; id < run->n; id++)
        for (int i = 0; i < r->n; i++) {
            if (r->prompt[i]->id != (uint64_t)id) continue;
            json_out_arr(run->out, NULL);
            for (int t = 0; t < r->reply[i].n; t++) json_out_int(run->out, NULL, r->reply[i].text[t]);
            json_out_arr_end(run->out);
        }
    json_out_arr_end(run->out);
}

static void put_net(Request *a, Net net, const char *name) {
    Str path = {0};
    str_printf(&path, "%s/%s", text(a, "out"), name);
    must(a, net_save(net, path.s, &a->err));
    str_release(&path);
}

static void ppo(Request *a, JsonOut *out) {
    Opened policy, reference, value;
    const Json *prompts = json_get(a->q, "prompts");
    int n = json_len(prompts), len = json_len(json_at(prompts, 0));
    PpoPrompt *prompt = mem_alloc((size_t)n * sizeof *prompt);
    int32_t *tok = mem_alloc((size_t)(n * len) * sizeof *tok);
    for (int i = 0; i < n; i++) {
        read_ids(tok + i * len, json_at(prompts, i));
        prompt[i] = (PpoPrompt){(uint64_t)i, tok + i * len, len};
    }
    open_net(a, &policy, "policy", HEAD_LM, true);
    open_net(a, &reference, "reference", HEAD_LM, false);
    open_net(a, &value, "value", HEAD_SCORE, true);
    PpoConfig c = {.method = RL_PPO, .updates = 1, .rollouts = n, .minibatches = 1, .gamma = 1, .value_weight = 0.1};
    c.epochs = (int)number(a, "epochs"), c.max_new = (int)number(a, "max_new"), c.max_tok = n * (len + c.max_new);
    c.beta = number(a, "beta"), c.lambda = number(a, "lambda"), c.temperature = number(a, "temperature");
    c.clip = (PpoClip){0.2, 0.2, 0, 0, 0}, c.value_clip = 0.2, c.no_end_score = NAN, c.value_lr = 1;
    c.whiten_advantages = c.whiten_unbiased = true;
    c.optim = (OptimConfig){.lr = number(a, "lr"), .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
    c.schedule = (Schedule){.kind = SCHED_CONSTANT, .total = 1};
    PpoRun run = {json_get(a->q, "scores"), out, n};
    PpoSetup s = {
        .policy = policy.net, .reference = reference.net, .value = value.net, .prompt = prompt, .n_prompt = n};
    s.end_id = -1, s.score_sd = 1, s.score = given_scores, s.score_ud = &run, s.report = put_replies,
    s.report_ud = &run;
    must(a, ppo_run(&c, &s, NULL, NULL, NULL, &a->err));
    put_net(a, policy.net, "policy");
    put_net(a, value.net, "value");
    free(prompt);
    free(tok);
    close_net(&policy);
    close_net(&reference);
    close_net(&value);
}

int main(int argc, char **argv) {
    static const struct {
        const char *op;
        void (*run)(Request *a, JsonOut *out);
    } ops[] = {{"dpo", dpo}, {"sft", sft}, {"ppo", ppo}};
    Request a = {0};
    Json *root = NULL;
    Pool *pool;
    Str answer = {0};
    JsonOut out;
    if (argc != 2) {
        fprintf(stderr, "usage: train_adapter REQUEST.json\n");
        return 2;
    }
    must(&a, json_read_file(&root, argv[1], 0, &a.err));
    must(&a, pool_open(&pool, 1, &a.err) && backend_open(&a.be, "ref", pool, NULL, &a.err));
    a.q = root;
    json_out_init(&out, &answer, 0);
    json_out_obj(&out, NULL);
    const char *op = text(&a, "op");
    int k = 0;
    while (k < COUNT_OF(ops) && strcmp(ops[k].op, op)) k++;
    must(&a, k < COUNT_OF(ops) || error_set(&a.err, ERR_FORMAT, "unknown op '%s'", op));
    ops[k].run(&a, &out);
    json_out_obj_end(&out);
    puts(str_get(&answer));
    str_release(&answer);
    json_release(root);
    backend_close(a.be);
    pool_close(pool);
    return 0;
}
