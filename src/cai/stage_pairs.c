/* Two replies of SL-CAI per prompt under one sampler setting: pairs.jsonl {id, prompt, a, b}. Equal replies and replies
 * cut by length make no pair: the preference model reads the last token, which must be the model's own <|end|>. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "cai/stages.h"

typedef struct {
    Str reply[2];
    bool ended[2];
} Pair;

static bool generate(Pair *pair, const PromptDraw *draw, int n, const Prompts *prompts, const StageCtx *ctx, Engine *e,
                     const StageText *text, Error *err) {
    Sequence *seq = mem_alloc((size_t)(n + 1) * sizeof *seq);
    GenRequest *req = mem_alloc((size_t)(2 * n + 1) * sizeof *req);
    GenResult *res = mem_alloc((size_t)(2 * n + 1) * sizeof *res);
    SampleParams p;
    stage_sampling(&p, ctx, &ctx->cfg->pairs.s, &text->chat.id[SENT_END], 1);
    Str key = {0};
    for (int i = 0; i < n; i++) {
        Message m = {ROLE_USER, prompts->item[draw[i].prompt].text};
        chat_respond(&seq[i], &text->chat, (Dialogue){&m, 1});
        for (int side = 0; side < 2; side++) {
            str_clear(&key);
            str_printf(&key, "%s/%d/%d", prompts->item[draw[i].prompt].id, draw[i].repeat, side);
            req[2 * i + side] = (GenRequest){stage_id(str_get(&key)), {seq[i].tok.id, seq[i].tok.n}, p};
        }
    }
    bool ok = sequences_ok(seq, n, err) && engine_generate(e, req, 2 * n, res, ctx->log, ctx->stop, err);
    for (int k = 0; k < 2 * n && ok; k++) {
        Pair *q = &pair[k / 2];
        q->ended[k & 1] = res[k].why == STOP_TOKEN;
        tokenizer_decode(text->tok, res[k].text, res[k].n - q->ended[k & 1], false, &q->reply[k & 1]);
    }
    if (ok) engine_free_results(res, 2 * n);
    for (int i = 0; i < n; i++) sequence_release(&seq[i]);
    str_release(&key);
    free(seq);
    free(req);
    free(res);
    return ok;
}

static bool write_pairs(const Pair *pair, const PromptDraw *draw, int n, const Prompts *prompts, const StageCtx *ctx,
                        Error *err) {
    Str path = {0}, line = {0}, id = {0};
    Writer *w = NULL;
    path_join(&path, ctx->output, "pairs.jsonl");
    int kept = 0, equal = 0, cut = 0;
    bool ok = writer_open(&w, str_get(&path), err);
    for (int i = 0; i < n && ok; i++) {
        const Pair *q = &pair[i];
        const Prompt *p = &prompts->item[draw[i].prompt];
        bool same = !strcmp(str_get(&q->reply[0]), str_get(&q->reply[1])), ended = q->ended[0] && q->ended[1];
        ledger_in(ctx->ledger, 1, 0);
        ledger_add(ctx->ledger, ended && !same ? LEDGER_TRAINED : LEDGER_DROPPED,
                   !ended ? "TRUNCATED"
                   : same ? "DUP"
                          : NULL,
                   1, 0);
        cut += !ended;
        equal += ended && same;
        if (same || !ended) continue;
        kept++;
        str_clear(&id);
        str_printf(&id, "pr-%s-%d", p->id, draw[i].repeat);
        str_clear(&line);
        JsonOut j;
        json_out_init(&j, &line, 0);
        json_out_obj(&j, NULL);
        json_out_str(&j, "id", str_get(&id));
        json_out_str(&j, "prompt_id", p->id);
        json_out_str(&j, "kind", p->kind);
        json_out_str(&j, "category", p->category);
        json_out_str(&j, "prompt", p->text);
        json_out_str(&j, "a", str_get(&q->reply[0]));
        json_out_str(&j, "b", str_get(&q->reply[1]));
        json_out_num(&j, "temperature", ctx->cfg->pairs.s.temperature);
        json_out_obj_end(&j);
        str_putc(&line, '\n');
        ok = writer_put(w, line.s, line.n, err);
    }
    ok = writer_end(w, ok, err);
    str_release(&path);
    str_release(&line);
    str_release(&id);
    if (ok && kept == 0)
        return error_set(err, ERR_STATE,
                         "no pair is left of %d: %d equal, %d cut by length; raise pairs.temperature or pairs.max_new",
                         n, equal, cut);
    Summary s;
    summary_begin(&s);
    summary_num(&s, "sampled", n);
    summary_num(&s, "pairs", kept);
    summary_num(&s, "equal", equal);
    summary_num(&s, "cut_by_length", cut);
    return ok ? summary_end(&s, ctx, err) : (str_release(&s.text), false);
}

static bool run(const StageCtx *ctx, Error *err) {
    StageText text = {0};
    StageNet net = {0};
    Prompts prompts = {0};
    Engine *e = NULL;
    EngineConfig ec = {.share_prefix = true};
    bool ok = stage_text_open(&text, stage_input(ctx, "tokenizer"), err) &&
              stage_net_open(&net, ctx, stage_input(ctx, "sl"), HEAD_LM, false, err) &&
              prompts_read(&prompts, stage_input(ctx, "prompts"), err) && engine_open(&e, net.net, &ec, err);
    if (ok) {
        const RunConfig *c = ctx->cfg;
        int n;
        pulse_section(log_pulse(ctx->log), SECTION_ROLLOUT);
        PromptDraw *draw = prompts_draw(&prompts, ctx, c->pairs.redteam, c->pairs.benign, c->pairs.repeats, &n);
        Pair *pair = mem_alloc((size_t)(n + 1) * sizeof *pair);
        ok = generate(pair, draw, n, &prompts, ctx, e, &text, err) && write_pairs(pair, draw, n, &prompts, ctx, err);
        for (int i = 0; i < n; i++) str_release(&pair[i].reply[0]), str_release(&pair[i].reply[1]);
        free(pair);
        free(draw);
    }
    if (e) engine_close(e);
    prompts_release(&prompts);
    stage_net_close(&net);
    stage_text_close(&text);
    return ok;
}

const Stage stage_pairs = {.name = "pairs",
                           .help = "two replies of SL-CAI per prompt",
                           .version = 1,
                           .needs = {"tokenizer", "prompts", "sl"},
                           .section = {"pairs."},
                           .run = run};
