/* The tiny world: splits and files.
 *
 * Everything is drawn per category, so that no cell of (category, seen object) is empty by bad luck. In one harmful
 * category of O objects, of which D may be demonstrated:
 *
 *                  3 D pairs with demo objects      3 (O - D) pairs with other objects
 *      DEMO        at least one per demo object     none
 *      RED         = DEMO                           a share as large as RED's of all pairs, rounded down
 *      EVAL        the rest                         the rest
 *
 * The pairs of each side are dealt object by object with rotating verbs, so verbs are balanced in any prefix. */
#include "data/world_int.h"
#include "base/io.h"

#include <stdlib.h>
#include <string.h>

void world_defaults(WorldConfig *c) {
    *c = (WorldConfig){.seed = 1,
                       .categories = 8,
                       .objects = 12,
                       .demo_objects = 8,
                       .eval_prompts = 200,
                       .named_first = 0,
                       .named = 4,
                       .sft_rows = 40000,
                       .pretrain_docs = 4000,
                       .prefs_helpful = 1500,
                       .helpful_share = 0.47,
                       .critique_share = 0.25,
                       .judge_share = 0.28};
}

bool world_is_named(const WorldConfig *c, const WorldCategory *category) {
    int k = (int)(category - world_harm);
    return k >= 0 && k < c->categories && (k - c->named_first + c->categories) % c->categories < c->named;
}

static int eval_per_category(const WorldConfig *c) { return (c->eval_prompts + c->categories - 1) / c->categories; }

static bool check_config(const WorldConfig *c, Error *err) {
    if (c->categories < 2 || c->categories > WORLD_CATEGORIES || c->objects < 2 || c->objects > WORLD_OBJECTS)
        return error_set(err, ERR_CONFIG, "world: categories %d, objects %d: expected 2..%d and 2..%d", c->categories,
                         c->objects, WORLD_CATEGORIES, WORLD_OBJECTS);
    if (c->demo_objects < 1 || c->demo_objects > c->objects)
        return error_set(err, ERR_CONFIG, "world.demo_objects: %d, expected 1..%d (world.objects)", c->demo_objects,
                         c->objects);
    int most = (c->objects * WORLD_VERBS - c->demo_objects) * c->categories;
    if (c->eval_prompts < c->categories || c->eval_prompts > most)
        return error_set(
            err, ERR_CONFIG,
            "world.eval_prompts: %d, expected %d..%d: %d categories x %d objects x %d verbs, of which every "
            "demo object needs one pair outside",
            c->eval_prompts, c->categories, most, c->categories, c->objects, WORLD_VERBS);
    if (c->named < 1 || c->named > c->categories || c->named_first < 0 || c->named_first >= c->categories)
        return error_set(err, ERR_CONFIG, "world.named_first %d, world.named %d: expected 0..%d and 1..%d",
                         c->named_first, c->named, c->categories - 1, c->categories);
    double sum = c->helpful_share + c->critique_share + c->judge_share;
    if (!(c->helpful_share >= 0 && c->critique_share >= 0 && c->judge_share >= 0 && sum > 0 && sum < 1e9))
        return error_set(err, ERR_CONFIG,
                         "world: the shares of helpful, critique and judge rows are not usable: %g, %g, %g",
                         c->helpful_share, c->critique_share, c->judge_share);
    if (c->sft_rows < 0 || c->pretrain_docs < 0 || c->prefs_helpful < 0)
        return error_set(err, ERR_CONFIG, "world: negative numbers of rows");
    return true;
}

/* ---- splits */

static void pool_put(Pool *p, Pair pair) {
    if ((p->n & (p->n - 1)) == 0) p->pair = mem_grow(p->pair, sizeof *p->pair * (size_t)(p->n ? 2 * p->n : 1));
    p->pair[p->n++] = pair;
}

static void pool_shuffle(const WorldConfig *c, Pool *p, const char *name) {
    int64_t *order = mem_alloc(sizeof *order * (size_t)(p->n + 1));
    Pair *old = mem_alloc(sizeof *old * (size_t)(p->n + 1));
    memcpy(old, p->pair, sizeof *old * (size_t)p->n);
    rng_shuffle(rng_derive((Rng){c->seed, RNG_WORLD}, name), 0, order, p->n);
    for (int i = 0; i < p->n; i++) p->pair[i] = old[order[i]];
    free(order);
    free(old);
}

/* Pairs of `category` with object[0..n), every object once per round, verbs rotating. */
static void deal(const WorldCategory *category, const int64_t *object, int n, bool seen, int n_first, Pool *first,
                 Pool *rest) {
    for (int i = 0; i < n * WORLD_VERBS; i++) {
        Pair p = {category, category, (i % n + i / n) % WORLD_VERBS, (int)object[i % n], seen};
        pool_put(i < n_first ? first : rest, p);
    }
}

static void split_harm(World *w) {
    const WorldConfig *c = &w->c;
    Rng rng = rng_derive((Rng){c->seed, RNG_WORLD}, "objects");
    int n_red = c->objects * WORLD_VERBS - eval_per_category(c), n_other = c->objects - c->demo_objects;
    int red_other = n_red * n_other / c->objects;
    if (red_other > n_red - c->demo_objects) red_other = n_red - c->demo_objects;
    int n_demo = n_red - red_other;
    if (n_demo > c->demo_objects * WORLD_VERBS) n_demo = c->demo_objects * WORLD_VERBS;
    for (int k = 0; k < c->categories; k++) {
        int64_t object[WORLD_OBJECTS];
        rng_shuffle(rng, (uint64_t)k, object, c->objects);
        deal(&world_harm[k], object, c->demo_objects, true, n_demo, &w->demo, &w->eval);
        deal(&world_harm[k], object + c->demo_objects, n_other, false, n_red - n_demo, &w->red, &w->eval);
    }
    for (int i = 0; i < w->demo.n; i++) pool_put(&w->red, w->demo.pair[i]);
    for (int i = 0; i < w->red.n; i++) pool_put(&w->harm, w->red.pair[i]);
    for (int i = 0; i < w->eval.n; i++) pool_put(&w->harm, w->eval.pair[i]);
    pool_shuffle(c, &w->red, "red");
    pool_shuffle(c, &w->demo, "demo");
    pool_shuffle(c, &w->eval, "eval");
}

static void split_benign(World *w) {
    const WorldConfig *c = &w->c;
    Rng rng = rng_derive((Rng){c->seed, RNG_WORLD}, "benign objects");
    int n_pair = c->objects * WORLD_VERBS, n_train = n_pair - n_pair / 4;
    for (int k = 0; k < c->categories; k++) {
        int64_t object[WORLD_OBJECTS];
        rng_shuffle(rng, (uint64_t)k, object, c->objects);
        deal(&world_benign[k], object, c->objects, true, n_train, &w->benign, &w->benign_eval);
    }
    pool_shuffle(c, &w->benign, "benign");
    pool_shuffle(c, &w->benign_eval, "benign eval");
}

static bool object_seen(const World *w, const WorldCategory *category, int object) {
    for (int i = 0; i < w->demo.n; i++) {
        if (w->demo.pair[i].objects == category && w->demo.pair[i].object == object) return true;
    }
    return false;
}

/* Every verb of the benign categories but the first (cooking) with every harmful category's objects. As many are held
 * out as harmful pairs, but at most a quarter. */
static void split_look(World *w) {
    const WorldConfig *c = &w->c;
    Pool all = {0};
    for (int o = 0; o < c->categories * c->objects; o++) {
        const WorldCategory *objects = &world_harm[o / c->objects];
        bool seen = object_seen(w, objects, o % c->objects);
        for (int v = WORLD_VERBS; v < c->categories * WORLD_VERBS; v++) {
            pool_put(&all, (Pair){&world_benign[v / WORLD_VERBS], objects, v % WORLD_VERBS, o % c->objects, seen});
        }
    }
    pool_shuffle(c, &all, "look-alikes");
    int n_eval = w->eval.n < all.n / 4 ? w->eval.n : all.n / 4;
    for (int i = 0; i < all.n; i++) {
        pool_put(i < n_eval ? &w->look_eval : &w->look, all.pair[i]);
        if (i >= n_eval && all.pair[i].seen) pool_put(&w->look_demo, all.pair[i]);
    }
    free(all.pair);
}

static void world_release(World *w) {
    free(w->harm.pair), free(w->red.pair), free(w->demo.pair), free(w->eval.pair);
    free(w->benign.pair), free(w->benign_eval.pair);
    free(w->look.pair), free(w->look_demo.pair), free(w->look_eval.pair);
}

/* ---- prompt files */

static void prompt_row(Str *out, const char *prefix, int number, const Pair *p, JsonOut *j) {
    Str prompt = {0}, id = {0};
    say_request(&prompt, p);
    str_printf(&id, "%s-%06d", prefix, number + 1);
    json_out_init(j, out, 0);
    json_out_obj(j, NULL);
    json_out_str(j, "id", id.s);
    json_out_str(j, "prompt", prompt.s);
    json_out_str(j, "category", pair_category(p));
    str_release(&prompt);
    str_release(&id);
}

static void prompt_end(Str *out, JsonOut *j) {
    json_out_obj_end(j);
    str_putc(out, '\n');
}

static void red_file(Str *out, const World *w) {
    for (int i = 0; i < w->red.n; i++) {
        JsonOut j;
        prompt_row(out, "red", i, &w->red.pair[i], &j);
        prompt_end(out, &j);
    }
}

/* All benign training pairs and two look-alikes for each, mixed: a stage that takes the first n gets both. */
static void benign_file(Str *out, const World *w) {
    int look = 0;
    for (int i = 0, n = 0; i < w->benign.n; i++) {
        JsonOut j;
        prompt_row(out, "benign", n++, &w->benign.pair[i], &j);
        prompt_end(out, &j);
        for (int k = 0; k < 2 && look < w->look.n; k++) {
            prompt_row(out, "benign", n++, &w->look.pair[look++], &j);
            prompt_end(out, &j);
        }
    }
}

static void eval_file(Str *out, const World *w) {
    const Pool *pool[3] = {&w->eval, &w->benign_eval, &w->look_eval};
    static const char *const prefix[3] = {"eval-harm", "eval-benign", "eval-look"};
    for (int k = 0; k < 3; k++) {
        for (int i = 0; i < pool[k]->n; i++) {
            const Pair *p = &pool[k]->pair[i];
            JsonOut j;
            prompt_row(out, prefix[k], i, p, &j);
            json_out_str(&j, "kind", pair_kind(p));
            json_out_int(&j, "named", k == 0 && world_is_named(&w->c, p->verbs));
            json_out_int(&j, "seen", p->seen);
            if (k > 0) {
                Draw d = draw_for(&w->c, prefix[k], (uint64_t)i);
                Str reply = {0};
                say_comply(&reply, p, &d);
                json_out_str(&j, "reference", reply.s);
                str_release(&reply);
            }
            prompt_end(out, &j);
        }
    }
}

/* ---- constitutions. The texts of the lexicon hold nothing that JSON or XML would have to escape. */

typedef struct {
    const char *id, *text;
    Str applies, spares, better, worse; /* examples and a test, from demonstrations; empty: none */
} Article;

static void article_init(Article *a, const World *w, const WorldCategory *category, int number) {
    *a = (Article){.id = category->name, .text = category->principle};
    Draw d = draw_for(&w->c, "constitution", (uint64_t)number);
    for (int i = 0; i < w->demo.n && !a->applies.n; i++) {
        const Pair *p = &w->demo.pair[i];
        if (p->verbs != category) continue;
        say_request(&a->applies, p);
        say_refuse(&a->better, p, category->reason);
        say_comply(&a->worse, p, &d);
    }
    for (int i = 0; i < w->look_demo.n && !a->spares.n; i++) {
        if (w->look_demo.pair[i].objects == category) say_request(&a->spares, &w->look_demo.pair[i]);
    }
}

static void article_release(Article *a) {
    str_release(&a->applies), str_release(&a->spares), str_release(&a->better), str_release(&a->worse);
}

/* The demonstrations show a principle's bare text, so comparing uses it too and the two requests are empty. */
static void article_json(JsonOut *j, const Article *a) {
    json_out_obj(j, NULL);
    json_out_str(j, "id", a->id);
    json_out_str(j, "authority", "system");
    json_out_num(j, "weight", 1);
    json_out_arr(j, "use");
    json_out_str(j, NULL, "critique");
    json_out_str(j, NULL, "label");
    json_out_arr_end(j);
    json_out_arr(j, "tags");
    json_out_str(j, NULL, a->id);
    json_out_arr_end(j);
    json_out_str(j, "text", a->text);
    json_out_str(j, "critique", "");
    json_out_str(j, "revise", "");
    json_out_str(j, "compare", a->text);
    if (a->applies.n) {
        json_out_arr(j, "examples");
        for (int k = 0; k < 2; k++) {
            const Str *text = k ? &a->spares : &a->applies;
            if (!text->n) continue;
            json_out_obj(j, NULL);
            json_out_str(j, "text", text->s);
            json_out_bool(j, "applies", !k);
            json_out_obj_end(j);
        }
        json_out_arr_end(j);
        json_out_arr(j, "tests");
        json_out_obj(j, NULL);
        json_out_str(j, "prompt", a->applies.s);
        json_out_str(j, "better", a->better.s);
        json_out_str(j, "worse", a->worse.s);
        json_out_obj_end(j);
        json_out_arr_end(j);
    }
    json_out_obj_end(j);
}

static void constitution_json(Str *out, const char *id, const Article *a, int n) {
    JsonOut j;
    json_out_init(&j, out, 1);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-constitution/1");
    json_out_str(&j, "id", id);
    json_out_str(&j, "version", "1.0.0");
    json_out_str(&j, "license", "CC0-1.0");
    json_out_str(&j, "language", "en");
    json_out_arr(&j, "principles");
    for (int i = 0; i < n; i++) article_json(&j, &a[i]);
    json_out_arr_end(&j);
    json_out_obj_end(&j);
    str_putc(out, '\n');
}

static void constitution_xml(Str *out, const char *id, const Article *a, int n) {
    str_printf(out,
               "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<constitution schema=\"dikast-constitution/1\" id=\"%s\" "
               "version=\"1.0.0\" license=\"CC0-1.0\" language=\"en\">\n",
               id);
    for (int i = 0; i < n; i++) {
        str_printf(out, " <principle id=\"%s\" authority=\"system\" weight=\"1\" use=\"critique label\" tags=\"%s\">\n",
                   a[i].id, a[i].id);
        str_printf(out, "  <text>%s</text>\n  <critique></critique>\n  <revise></revise>\n  <compare>%s</compare>\n",
                   a[i].text, a[i].text);
        if (a[i].applies.n) {
            str_printf(out, "  <example applies=\"true\">%s</example>\n", a[i].applies.s);
            if (a[i].spares.n) str_printf(out, "  <example applies=\"false\">%s</example>\n", a[i].spares.s);
            str_printf(out, "  <test><prompt>%s</prompt><better>%s</better><worse>%s</worse></test>\n", a[i].applies.s,
                       a[i].better.s, a[i].worse.s);
        }
        str_put(out, " </principle>\n");
    }
    str_put(out, "</constitution>\n");
}

/* ---- files */

static bool put_file(const char *dir, const char *name, Str *text, Error *err) {
    Str path = {0};
    str_printf(&path, "%s/%s", dir, name);
    bool ok = io_write_file(path.s, str_get(text), text->n, err);
    str_release(&path);
    str_clear(text);
    return ok;
}

static bool write_constitutions(const World *w, const char *dir, Str *text, Error *err) {
    Article named[WORLD_CATEGORIES], neutral[WORLD_NEUTRAL];
    int n = 0;
    for (int k = 0; k < w->c.named; k++, n++) {
        article_init(&named[n], w, &world_harm[(w->c.named_first + k) % w->c.categories], k);
    }
    for (int k = 0; k < WORLD_NEUTRAL; k++) {
        neutral[k] = (Article){.id = world_neutral[k].name, .text = world_neutral[k].text};
    }
    constitution_json(text, "tiny-world", named, n);
    bool ok = put_file(dir, "constitution.json", text, err);
    if (ok) constitution_xml(text, "tiny-world", named, n), ok = put_file(dir, "constitution.xml", text, err);
    if (ok) {
        constitution_json(text, "tiny-world-irrelevant", neutral, WORLD_NEUTRAL);
        ok = put_file(dir, "constitution_irrelevant.json", text, err);
    }
    for (int i = 0; i < n; i++) article_release(&named[i]);
    return ok;
}

static bool write_files(const World *w, const char *dir, Str *text, Error *err) {
    double sum = w->c.helpful_share + w->c.critique_share + w->c.judge_share + w->c.applies_share;
    double rows = (double)w->c.sft_rows;
    int64_t n_critique = (int64_t)(rows * w->c.critique_share / sum + 0.5);
    int64_t n_judge = (int64_t)(rows * w->c.judge_share / sum + 0.5), n_helpful = w->c.sft_rows - n_critique - n_judge;
    int64_t n_applies = (int64_t)(rows * w->c.applies_share / sum + 0.5);
    n_helpful -= n_applies;
    if (n_helpful < 0) n_helpful = 0;
    return (world_facts(text, w), put_file(dir, "pretrain.jsonl", text, err)) &&
           (world_sft(text, w, n_helpful), put_file(dir, "sft.jsonl", text, err)) &&
           (world_format(text, w, n_critique, n_judge, n_applies), put_file(dir, "format.jsonl", text, err)) &&
           (red_file(text, w), put_file(dir, "redteam_prompts.jsonl", text, err)) &&
           (benign_file(text, w), put_file(dir, "benign_prompts.jsonl", text, err)) &&
           (world_prefs(text, w, w->c.prefs_helpful), put_file(dir, "prefs_helpful.jsonl", text, err)) &&
           (eval_file(text, w), put_file(dir, "eval_prompts.jsonl", text, err)) &&
           (world_judge_gold(text, w), put_file(dir, "judge_gold.jsonl", text, err)) &&
           (world_pm_gold(text, w), put_file(dir, "pm_gold.jsonl", text, err)) &&
           write_constitutions(w, dir, text, err);
}

bool world_generate(const WorldConfig *c, const char *dir, Error *err) {
    if (!check_config(c, err) || !io_make_dirs(dir, err)) return false;
    World w = {.c = *c};
    Str text = {0};
    split_harm(&w);
    split_benign(&w);
    split_look(&w);
    bool ok = write_files(&w, dir, &text, err);
    str_release(&text);
    world_release(&w);
    return ok || error_wrap(err, "world");
}
