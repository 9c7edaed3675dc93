/* Replies of the models to the same prompts, side by side. What is shown follows from a rule, not from taste: of each
 * kind of prompt the first in the order of the evaluation, one per category as far as categories go. */
#include "cai/eval_replies.h"
#include "cai/report_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PER_KIND = 4, MAX_KINDS = 6 };

typedef struct {
    char *reply, *verdict; /* NULL: no row */
    double harm_p, score;
    bool ended;
} Side;
typedef struct {
    char *id, *kind, *category, *prompt;
    bool harmful, named, extra;
    Side side[PAGE_MODELS];
} Sample;
typedef struct {
    Page *p;
    Sample *item;
    int n, model;
} Samples;

static const char *text_of(const Json *row, const char *key) {
    const char *s = json_str(json_get(row, key), NULL);
    return s ? s : "";
}

/* Replies are numbered "<prompt>/<sample>": the first of a prompt. */
static bool is_first(const char *id) {
    size_t n = strlen(id);
    return n > 2 && !strcmp(id + n - 2, "/0");
}

static bool same_group(const Sample *s, const char *kind, bool named) {
    return !strcmp(s->kind, kind) && s->named == named;
}

/* Every first reply of the first model is a candidate; choose() drops most. */
static bool add_candidate(void *ud, const Json *row, int number, Error *err) {
    Samples *s = ud;
    (void)number, (void)err;
    if (!is_first(text_of(row, "id"))) return true;
    const char *kind = text_of(row, "kind"), *category = text_of(row, "category");
    Prompt q = {.kind = kind, .category = category};
    bool harmful = prompt_harmful(&q), named = s->p->has_con && harmful && prompt_named(&q, &s->p->con);
    int group = 0, category_seen = 0;
    for (int i = 0; i < s->n; i++) {
        if (!same_group(&s->item[i], kind, named)) continue;
        group++;
        category_seen += !strcmp(s->item[i].category, category);
        if (!strcmp(s->item[i].prompt, text_of(row, "prompt"))) return true;
    }
    /* One per category first; up to PER_KIND more stay in reserve for kinds with few categories. */
    bool extra = category_seen > 0;
    if (group >= 2 * PER_KIND || category_seen >= PER_KIND) return true;
    s->item = mem_grow(s->item, (size_t)(s->n + 1) * sizeof *s->item);
    s->item[s->n++] = (Sample){mem_str(text_of(row, "id")),
                               mem_str(kind),
                               mem_str(category),
                               mem_str(text_of(row, "prompt")),
                               harmful,
                               named,
                               extra,
                               {{0}}};
    return true;
}

static bool add_side(void *ud, const Json *row, int number, Error *err) {
    Samples *s = ud;
    const char *id = text_of(row, "id");
    (void)number, (void)err;
    if (!is_first(id)) return true;
    for (int i = 0; i < s->n; i++) {
        Side *side = &s->item[i].side[s->model];
        if (strcmp(s->item[i].id, id)) continue;
        free(side->reply); /* the last row of an id counts */
        free(side->verdict);
        *side = (Side){mem_str(text_of(row, "reply")), mem_str(text_of(row, "verdict")),
                       json_num(json_get(row, "harm_p"), NAN), json_num(json_get(row, "score"), NAN),
                       json_bool(json_get(row, "ended"), true)};
    }
    return true;
}

static void release(Samples *s) {
    for (int i = 0; i < s->n; i++) {
        Sample *q = &s->item[i];
        free(q->id), free(q->kind), free(q->category), free(q->prompt);
        for (int k = 0; k < PAGE_MODELS; k++) free(q->side[k].reply), free(q->side[k].verdict);
    }
    free(s->item);
}

static const char *verdict_words(const Sample *q, const char *verdict, bool world) {
    static const struct {
        const char *verdict, *words;
    } table[] = {{"refuse_reason", "refused, with the reason"},
                 {"refuse", "refused"},
                 {"evade", "evaded"},
                 {"other", "neither answered nor refused"}};
    if (!strcmp(verdict, "comply")) return !world ? "not refused" : q->harmful ? "complied" : "answered rightly";
    for (int i = 0; i < COUNT_OF(table); i++)
        if (!strcmp(table[i].verdict, verdict)) return table[i].words;
    return verdict;
}

static void put_sample(Page *p, const Sample *q) {
    str_put(p->out, "<div class=\"pair\"><h4>");
    html_text(p->out, q->prompt);
    str_put(p->out, "</h4>\n<div class=\"sides\">");
    for (int k = 0; k < PAGE_MODELS; k++) {
        const Side *s = &q->side[k];
        if (!s->reply) continue;
        str_printf(p->out, "<div><p class=\"who s%d\">%s <span>", page_model[k].colour, page_model[k].name);
        html_text(p->out, verdict_words(q, s->verdict, p->world));
        if (isfinite(s->harm_p)) html_textf(p->out, ", P(harmful) %.2f", s->harm_p);
        if (isfinite(s->score)) {
            str_put(p->out, ", score ");
            html_signed(p->out, s->score, 2);
        }
        if (!s->ended) str_put(p->out, ", cut at the length limit");
        str_put(p->out, "</span></p><p>");
        if (s->reply[0])
            html_text(p->out, s->reply);
        else
            str_put(p->out, "<em class=\"dim\">(an empty reply)</em>");
        str_put(p->out, "</p></div>");
    }
    str_put(p->out, "</div></div>\n");
}

/* First those that bring a new category, then the reserve, at most PER_KIND. */
static void put_group(Page *p, const Samples *s, const char *kind, bool named) {
    int shown = 0;
    for (int extra = 0; extra < 2; extra++)
        for (int i = 0; i < s->n && shown < PER_KIND; i++)
            if (same_group(&s->item[i], kind, named) && s->item[i].extra == extra) put_sample(p, &s->item[i]), shown++;
}

static void group_title(Page *p, const Sample *q) {
    if (q->harmful) {
        str_put(p->out, "Harmful requests");
        if (p->has_con && p->world)
            str_put(p->out, q->named ? ", a principle in force names the category"
                                     : ", no principle in force names the category");
    } else if (!strcmp(q->kind, "lookalike"))
        str_put(p->out, "Harmless requests that look harmful");
    else
        str_put(p->out, "Harmless requests");
    str_put(p->out, " (kind ‘");
    html_text(p->out, q->kind);
    str_put(p->out, "’)");
}

static void put_groups(Page *p, const Samples *s) {
    const Sample *done[MAX_KINDS];
    int n = 0;
    for (int i = 0; i < s->n; i++) {
        const Sample *q = &s->item[i];
        bool seen = false;
        for (int k = 0; k < n; k++) seen = seen || same_group(done[k], q->kind, q->named);
        if (seen || n == MAX_KINDS) continue;
        done[n++] = q;
        str_put(p->out, q->harmful ? "<details><summary>" : "<h3>");
        group_title(p, q);
        str_put(p->out, q->harmful ? " – may hold harmful text</summary>\n" : "</h3>\n");
        put_group(p, s, q->kind, q->named);
        if (q->harmful) str_put(p->out, "</details>\n");
    }
}

bool report_samples(Page *p, Error *err) {
    const StageResult *eval = page_stage(p, "eval");
    Str path = {0}, file = {0};
    Samples s = {.p = p};
    bool ok = true;
    if (eval && page_file(&path, eval, "replies-helpful.jsonl"))
        ok = jsonl_each(eval->dir, "replies-helpful.jsonl", add_candidate, &s, err);
    for (s.model = 0; s.model < PAGE_MODELS && ok; s.model++) {
        str_clear(&file);
        str_printf(&file, "replies-%s.jsonl", page_model[s.model].id);
        if (s.n > 0 && page_file(&path, eval, str_get(&file)))
            ok = jsonl_each(eval->dir, str_get(&file), add_side, &s, err);
    }
    page_section(p, "samples", "The same prompts before and after");
    if (s.n > 0) {
        str_printf(
            p->out,
            "<p>Not picked by hand: of each kind of prompt the first %d in the order of the evaluation, each of "
            "another "
            "category as far as there are any; of each prompt the first reply. The score is the preference model’s, "
            "in standard deviations.</p>\n",
            PER_KIND);
        put_groups(p, &s);
    } else
        str_put(p->out, "<p>The run has no evaluated replies.</p>\n");
    page_section_end(p);
    release(&s);
    str_release(&path);
    str_release(&file);
    return ok;
}
