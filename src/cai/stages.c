#include "cai/stages.h"

#include <stdlib.h>
#include <string.h>

const Stage *const stages[] = {
    &stage_world, &stage_tokenizer, &stage_prompts, &stage_pretrain, &stage_helpful,    &stage_revise, &stage_sl,
    &stage_pairs, &stage_label,     &stage_pm,      &stage_rl,       &stage_classifier, &stage_eval,   NULL,
};

const Stage *stage_find(const char *name) {
    for (int i = 0; stages[i]; i++)
        if (!strcmp(stages[i]->name, name)) return stages[i];
    return NULL;
}

void stage_list_files(const CfgList *list, void (*add)(void *ud, const char *path), void *ud) {
    for (int i = 0; i < list->n; i++) add(ud, list->item[i]);
}

void stage_import_file(const char *dir, const char *file, void (*add)(void *ud, const char *path), void *ud) {
    Str path = {0};
    if (dir[0] != '/' && dir[0] != '.') str_put(&path, "./"); /* not below the data folder */
    str_put(&path, dir);
    if (file[0]) str_printf(&path, "/%s", file);
    add(ud, str_get(&path));
    str_release(&path);
}

static const char *copy_member(Heap *h, const Json *row, const char *key) {
    size_t n;
    const char *s = json_str(json_get(row, key), &n);
    return s ? heap_strn(h, s, n) : "";
}

static bool add_prompt(void *ud, const Json *row, int line, Error *err) {
    Prompts *p = ud;
    const char *text;
    size_t n;
    (void)line;
    if (!json_need_str(row, "prompt", &text, &n, err)) return false;
    if (p->n == p->cap) {
        p->cap = p->cap ? 2 * p->cap : 256;
        p->item = mem_grow(p->item, (size_t)p->cap * sizeof *p->item);
    }
    Heap *h = &p->heap;
    const char *reference = copy_member(h, row, "reference");
    p->item[p->n++] = (Prompt){.id = copy_member(h, row, "id"),
                               .text = heap_strn(h, text, n),
                               .kind = copy_member(h, row, "kind"),
                               .category = copy_member(h, row, "category"),
                               .split = copy_member(h, row, "split"),
                               .parent = copy_member(h, row, "parent"),
                               .reference = reference[0] ? reference : NULL,
                               .unseen = json_get(row, "seen") && json_int(json_get(row, "seen"), 1) == 0};
    return true;
}

bool prompts_read(Prompts *p, const char *stage_dir, Error *err) {
    *p = (Prompts){0};
    if (jsonl_each(stage_dir, "prompts.jsonl", add_prompt, p, err)) return true;
    prompts_release(p);
    return false;
}

void prompts_release(Prompts *p) {
    free(p->item);
    heap_release(&p->heap);
    *p = (Prompts){0};
}

bool prompt_harmful(const Prompt *p) { return !strcmp(p->kind, "redteam") || !strcmp(p->kind, "harm"); }

static int draw_kind(PromptDraw *out, const Prompts *p, const StageCtx *ctx, bool harmful, int64_t want,
                     int64_t repeats) {
    int64_t n = 0, *index = mem_alloc((size_t)(p->n + 1) * sizeof *index),
            *order = mem_alloc((size_t)(p->n + 1) * sizeof *order);
    for (int i = 0; i < p->n; i++)
        if (!strcmp(p->item[i].split, "train") && prompt_harmful(&p->item[i]) == harmful) index[n++] = i;
    int made = 0;
    if (n > 0 && want >= 0) {
        if (want == 0) want = n * repeats;
        for (int64_t k = 0; k < want; k++) {
            if (k % n == 0) rng_shuffle((Rng){ctx->seed, RNG_SHUFFLE}, (uint64_t)(2 * (k / n) + harmful), order, n);
            out[made++] = (PromptDraw){(int)index[order[k % n]], (int)(k / n)};
        }
    }
    free(index);
    free(order);
    return made;
}

PromptDraw *prompts_draw(const Prompts *p, const StageCtx *ctx, int64_t n_red, int64_t n_benign, int64_t repeats,
                         int *n) {
    size_t cap = (size_t)(n_red + n_benign + 2 * (int64_t)p->n * repeats + 2);
    PromptDraw *out = mem_alloc(cap * sizeof *out);
    *n = draw_kind(out, p, ctx, true, n_red, repeats);
    *n += draw_kind(out + *n, p, ctx, false, n_benign, repeats);
    return out;
}
