#include "cai/format.h"

#include <stdlib.h>
#include <string.h>

#include "cai/decline.h"

/* The rule and its critique request, as the critique prompt shows them. */
static void format_principle(Str *out, const Principle *p) {
    str_clear(out);
    principle_text(out, p);
    if (principle_critique(p)[0]) str_printf(out, " %s", principle_critique(p));
}

/* Verdict and revision, which natively are part of the critique. The verdict is shown in either order. */
static bool later_part(Sequence *s, const Chat *c, const Row *row, int part) {
    static const Principle none = {.text = ""};
    if (part == 1) {
        bool flip = stage_id(row->id) & 1, breaks = row->b != NULL;
        chat_verdict_prompt(s, c, row->prompt, row->a, row->principle, "", row->critique, flip);
        sequence_put(s, c->id[breaks == flip ? SENT_FIRST : SENT_SECOND], 1);
        return true;
    }
    if (part != 2 || !row->b) return false;
    chat_revision_prompt(s, c, row->prompt, row->a, row->principle, "", row->critique,
                         row->revision_request ? row->revision_request : principle_revise(&none));
    chat_revision_answer(s, c, row->b, 1);
    return true;
}

bool format_sequence(Sequence *s, const Chat *c, const Row *row, int part) {
    bool critique = row->label < 0;
    if (part > 0) return critique && c->headings && later_part(s, c, row, part);
    if (critique) {
        chat_critique_prompt(s, c, row->prompt, row->a, row->principle, "",
                             row->revision_request ? row->revision_request : "");
        chat_critique_answer(s, c, row->critique, row->b, 1);
    } else if (!row->b) {
        chat_applies_prompt(s, c, row->prompt, row->a, row->principle);
        sequence_put(s, c->id[row->label ? SENT_YES : SENT_NO], 1);
    } else {
        if (row->critique) {
            chat_reason_prompt(s, c, row->prompt, row->a, row->b, row->principle);
            sequence_text(s, c, row->critique, 1);
            chat_reason_end(s, c, 1);
        } else
            chat_judge_prompt(s, c, row->prompt, row->a, row->b, row->principle);
        sequence_put(s, c->id[row->label == 0 ? SENT_FIRST : SENT_SECOND], 1);
    }
    return true;
}

bool format_half(const StageCtx *ctx, const char *id) {
    return rng_u32((Rng){(uint64_t)ctx->cfg->run.seed, RNG_SPLIT}, stage_id(id), 7) & 1;
}

static const char *const fine[] = {
    "Nothing in this reply conflicts with the rule.",
    "The reply keeps to the rule; I find no words in it that break it.",
    "I see no conflict with the rule here.",
};

/* Rules the demonstrations are written under. Not the run's constitution: so another principle there leaves the helpful
 * model as it is, and what the constitution changes is not already in the demonstrations. */
static const Principle general[] = {
    {.id = "no-harm", .text = "The assistant gives no help that could injure people or put them in danger."},
    {.id = "lawful", .text = "The assistant does not help with breaking the law or with deceiving others."},
    {.id = "respect", .text = "The assistant treats every person and every group with respect and without prejudice."},
    {.id = "privacy", .text = "The assistant keeps private what belongs to somebody's private life."},
    {.id = "useful", .text = "The assistant helps as much as it safely can, and explains itself in plain words."},
};

static const Principle *general_for(const StageCtx *ctx, const Row *r, uint32_t use) {
    return &general[rng_below((Rng){ctx->seed, RNG_PRINCIPLE}, stage_id(r->id), use, COUNT_OF(general))];
}

/* The first words of the reply, for a critique that quotes what it speaks of. */
static void quote(Str *out, const char *s, int words) {
    while (*s == ' ' || *s == '\n') s++;
    while (*s && words > 0) {
        if (*s == '\n') break;
        if (*s == ' ' && --words == 0) break;
        str_putc(out, *s++);
    }
}

static Row *put_row(Rows *out) {
    if (out->n == out->cap) {
        out->cap = out->cap ? 2 * out->cap : 64;
        out->row = mem_grow(out->row, (size_t)out->cap * sizeof *out->row);
    }
    out->row[out->n] = (Row){.weight = 1, .category = "", .source = "format"};
    return &out->row[out->n++];
}

static void critique_row(Rows *out, const StageCtx *ctx, const Row *from, const Principle *p) {
    Rng rng = {ctx->seed, RNG_AUGMENT};
    uint64_t item = stage_id(from->id);
    Str text = {0};
    Row *r = put_row(out);
    bool breaks = from->label == 1;
    r->id = heap_printf(&out->heap, "%s-critique", from->id);
    r->prompt = from->prompt;
    r->a = from->a;
    r->label = -1;
    format_principle(&text, p);
    r->principle = heap_strn(&out->heap, str_get(&text), text.n);
    r->revision_request = heap_printf(&out->heap, "%s", principle_revise(p));
    if (breaks) {
        str_clear(&text);
        str_put(&text, "The reply says \"");
        quote(&text, from->a, 8);
        str_put(&text, "\", and that helps with something harmful.");
        r->critique = heap_strn(&out->heap, str_get(&text), text.n);
        str_clear(&text);
        decline_say(&text, dialogue_last_user(from->prompt), ctx->cfg->helpful.reason_first, rng, item);
        r->b = heap_strn(&out->heap, str_get(&text), text.n);
    } else
        r->critique = fine[rng_below(rng, item, 1, COUNT_OF(fine))];
    str_release(&text);
}

static void judge_row(Rows *out, const StageCtx *ctx, const Row *from, const Principle *p) {
    Row *r = put_row(out);
    bool second = rng_u32((Rng){ctx->seed, RNG_SIDE}, stage_id(from->id), 0) & 1;
    r->id = heap_printf(&out->heap, "%s-judge", from->id);
    r->prompt = from->prompt;
    r->a = second ? from->b : from->a;
    r->b = second ? from->a : from->b;
    r->label = second;
    r->principle = principle_compare(p);
}

/* A plain reply to a person: neither ids from before, nor tools. */
static bool is_answer(const StageCtx *ctx, const Row *r) {
    return !r->tok && !r->talk && !instruction_held_out(ctx->cfg, r->id);
}

static void fine_rows(Rows *out, const StageCtx *ctx, const Rows *sft, int n) {
    int64_t *order = mem_alloc((size_t)(sft->n + 1) * sizeof *order);
    rng_shuffle((Rng){(uint64_t)ctx->cfg->run.seed, RNG_SPLIT}, stage_id("fine"), order, sft->n);
    for (int i = 0; i < sft->n && n > 0; i++) {
        const Row *r = &sft->row[order[i]];
        if (!is_answer(ctx, r)) continue;
        critique_row(out, ctx, r, general_for(ctx, r, 0));
        n--;
    }
    free(order);
}

void format_rows_make(Rows *out, const StageCtx *ctx, const Rows *labelled, const Rows *prefs, const Rows *sft) {
    int n_wrong = 0;
    for (int i = 0; i < labelled->n; i++) {
        const Row *r = &labelled->row[i];
        if (!format_half(ctx, r->id)) continue;
        critique_row(out, ctx, r, general_for(ctx, r, 0));
        n_wrong += r->label == 1;
    }
    fine_rows(out, ctx, sft, n_wrong);
    for (int i = 0; i < prefs->n; i++) {
        const Row *r = &prefs->row[i];
        if (format_half(ctx, r->id)) judge_row(out, ctx, r, general_for(ctx, r, 1));
    }
}
