/* The tiny world: writes the data files every other stage reads. */
#include "cai/stages.h"
#include "data/world.h"

static bool run(const StageCtx *ctx, Error *err) {
    const RunConfig *c = ctx->cfg;
    WorldConfig w;
    world_defaults(&w);
    w.seed = (uint64_t)c->world.seed;
    w.categories = (int)c->world.categories;
    w.objects = (int)c->world.objects;
    w.demo_objects = (int)c->world.demo_objects;
    w.eval_prompts = (int)c->world.eval_prompts;
    w.sft_rows = c->world.sft_rows;
    w.pretrain_docs = c->world.pretrain_docs;
    w.prefs_helpful = c->world.prefs_helpful;
    w.helpful_share = c->world.helpful_share;
    w.critique_share = c->world.critique_share;
    w.judge_share = c->world.judge_share;
    w.reason_share = c->world.reason_share;
    w.applies_share = c->world.applies_share;
    /* The constitution written holds every category's principle; constitution.only chooses those in force, so that a
     * control with other principles shares the world, the base model and the helpful model. */
    w.named_first = 0;
    w.named = w.categories;
    return world_generate(&w, ctx->output, err);
}

static bool applies(const RunConfig *c) { return c->data.source == 1; }

const Stage stage_world = {.name = "world",
                           .help = "generate the tiny world's data (data.source: world)",
                           .version = 2,
                           .section = {"world."},
                           .makes_data = true,
                           .applies = applies,
                           .run = run};
