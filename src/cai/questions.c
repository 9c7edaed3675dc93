#include "cai/questions.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cai/answers.h"
#include "cai/stage_util.h"
#include "data/augment.h"

/* -- rows ------------------------------------------------------------------------------------------------------------
 */

static const char *keep(Questions *q, const Json *j) {
    size_t n;
    const char *s = json_str(j, &n);
    return s ? heap_strn(&q->heap, s, n) : "";
}

Question *questions_add(Questions *q, const Question *like) {
    if (q->n == q->cap) {
        q->cap = q->cap ? 2 * q->cap : 64;
        q->item = mem_grow(q->item, (size_t)q->cap * sizeof *q->item);
    }
    q->item[q->n] = *like;
    return &q->item[q->n++];
}

static bool read_messages(Questions *q, Question *out, const Json *list, Error *err) {
    static const char *const role[] = {"system", "user", "assistant"};
    int n = json_len(list);
    Message *msg = heap_alloc(&q->heap, (size_t)(n + 1) * sizeof *msg);
    for (int i = 0; i < n; i++) {
        const char *r = json_str(json_get(json_at(list, i), "role"), NULL);
        int at = 0;
        while (r && at < COUNT_OF(role) && strcmp(r, role[at])) at++;
        if (!r || at == COUNT_OF(role) || !json_str(json_get(json_at(list, i), "content"), NULL))
            return error_set(
                err, ERR_FORMAT,
                "message %d of 'messages': expected a role (system, user or assistant) and a text as content", i);
        msg[i] = (Message){(Role)at, keep(q, json_get(json_at(list, i), "content"))};
    }
    if (n == 0 || msg[n - 1].role != ROLE_USER)
        return error_set(err, ERR_FORMAT, "'messages' must end with the user's");
    out->dialogue = (Dialogue){msg, n};
    out->prompt = msg[n - 1].text;
    return true;
}

static bool add_row(void *ud, const Json *row, Error *err) {
    Questions *q = ud;
    const Json *list = json_get(row, "messages");
    Question x = {.turns = (int)json_int(json_get(row, "turns"), -1)};
    x.id = keep(q, json_get(row, "id"));
    x.kind = keep(q, json_get(row, "kind"));
    x.category = keep(q, json_get(row, "category"));
    x.parent = keep(q, json_get(row, "parent"));
    x.made = keep(q, json_get(row, "made"));
    x.persona = keep(q, json_get(row, "persona"));
    if (list && json_kind(list) == JSON_ARR) {
        if (!read_messages(q, &x, list, err)) return false;
    } else {
        const char *text;
        if (!json_need_str(row, "prompt", &text, NULL, err)) return false;
        Message *msg = heap_alloc(&q->heap, sizeof *msg);
        x.prompt = keep(q, json_get(row, "prompt"));
        *msg = (Message){ROLE_USER, x.prompt};
        x.dialogue = (Dialogue){msg, 1};
    }
    if (!x.id[0]) x.id = heap_printf(&q->heap, "q-%06d", q->n + 1);
    questions_add(q, &x);
    return true;
}

static int by_id(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static bool unique_ids(const Questions *q, Error *err) {
    const char **id = mem_alloc((size_t)(q->n + 1) * sizeof *id);
    bool ok = true;
    for (int i = 0; i < q->n; i++) id[i] = q->item[i].id;
    qsort(id, (size_t)q->n, sizeof *id, by_id);
    for (int i = 1; i < q->n && ok; i++)
        if (!strcmp(id[i - 1], id[i])) ok = error_set(err, ERR_FORMAT, "two rows have the id '%.80s'", id[i]);
    free(id);
    return ok;
}

bool questions_read(Questions *q, const char *path, Error *err) {
    *q = (Questions){0};
    bool ok = source_each(path, add_row, q, err);
    if (ok && q->n == 0) ok = error_set(err, ERR_FORMAT, "%s: no prompts", path);
    if (ok && !unique_ids(q, err)) ok = error_wrap(err, "%s", path);
    if (!ok) questions_release(q);
    return ok;
}

void questions_release(Questions *q) {
    free(q->item);
    heap_release(&q->heap);
    *q = (Questions){0};
}

static void member(JsonOut *j, const char *key, const char *s) {
    if (s[0]) json_out_str(j, key, s);
}

void question_json(JsonOut *j, const Question *q) {
    static const char *const role[] = {"system", "user", "assistant"};
    json_out_str(j, "id", q->id);
    json_out_str(j, "prompt", q->prompt);
    member(j, "kind", q->kind);
    member(j, "category", q->category);
    member(j, "parent", q->parent);
    member(j, "made", q->made);
    member(j, "persona", q->persona);
    if (q->turns >= 0) json_out_int(j, "turns", q->turns);
    if (q->dialogue.n < 2) return;
    json_out_arr(j, "messages");
    for (int i = 0; i < q->dialogue.n; i++) {
        json_out_obj(j, NULL);
        json_out_str(j, "role", role[q->dialogue.msg[i].role]);
        json_out_str(j, "content", q->dialogue.msg[i].text);
        json_out_obj_end(j);
    }
    json_out_arr_end(j);
}

/* -- paraphrases ------------------------------------------------------------------------------------------------------
 */

/* The question asked in other words. */
static void add_variant(Questions *q, int of, const char *text, const char *made, int number) {
    Question x = q->item[of];
    Message *msg = heap_alloc(&q->heap, (size_t)x.dialogue.n * sizeof *msg);
    memcpy(msg, x.dialogue.msg, (size_t)x.dialogue.n * sizeof *msg);
    x.prompt = heap_strn(&q->heap, text, strlen(text));
    msg[x.dialogue.n - 1].text = x.prompt;
    x.dialogue.msg = msg;
    if (!x.parent[0]) x.parent = x.id;
    x.made = made;
    x.id = heap_printf(&q->heap, "%s~%c%d", q->item[of].id, made[0], number);
    questions_add(q, &x);
}

int questions_by_rule(Questions *q, int n, int per, Rng rng) {
    Str text = {0};
    int made = 0;
    for (int i = 0; i < n; i++)
        for (int v = 0; v < per; v++) {
            if (!augment_prompt(&text, q->item[i].prompt, AUGMENT_ALL, rng, stage_id(q->item[i].id), (uint32_t)v))
                continue;
            add_variant(q, i, str_get(&text), "rule", v + 1);
            made++;
        }
    str_release(&text);
    return made;
}

enum { MOST_WORDS = 256, WORD = 32 };
static int content_words(char word[MOST_WORDS][WORD], const char *s) {
    int n = 0;
    while (*s && n < MOST_WORDS) {
        int k = 0;
        char w[WORD];
        while (*s && !isalnum((unsigned char)*s) && (unsigned char)*s < 0x80) s++;
        for (; isalnum((unsigned char)*s) || (unsigned char)*s >= 0x80; s++)
            if (k < WORD - 1) w[k++] = (char)tolower((unsigned char)*s);
        w[k] = 0;
        bool old = k < 4;
        for (int i = 0; i < n && !old; i++) old = !strcmp(word[i], w);
        if (!old) memcpy(word[n++], w, WORD);
    }
    return n;
}

double content_overlap(const char *a, const char *b) {
    char wa[MOST_WORDS][WORD], wb[MOST_WORDS][WORD];
    int na = content_words(wa, a), nb = content_words(wb, b), both = 0;
    for (int i = 0; i < na; i++)
        for (int k = 0; k < nb; k++) both += !strcmp(wa[i], wb[k]);
    return na + nb > both ? (double)both / (na + nb - both) : 1;
}

/* One line, without the quotes some models put around it. */
static void first_line(Str *text) {
    char *s = text->s;
    if (!s) return;
    size_t from = strspn(s, " \n\t\"'"), n = strcspn(s + from, "\n");
    while (n > 0 && strchr(" \t\"'", s[from + n - 1])) n--;
    memmove(s, s + from, n);
    s[n] = 0;
    text->n = n;
}

static bool fits(const char *prompt, const char *text) {
    size_t a = strlen(prompt), b = strlen(text);
    return b > 0 && strcmp(prompt, text) && 2 * b >= a && b <= 2 * a && content_overlap(prompt, text) >= 0.4;
}

bool questions_by_model(Questions *q, int n, int per, Engine *e, const Chat *c, const Tokenizer *tok, uint64_t seed,
                        Log *log, int *made, Error *err) {
    int m = n * per;
    Sequence *seq = mem_alloc((size_t)(n + 1) * sizeof *seq);
    GenRequest *req = mem_alloc((size_t)(m + 1) * sizeof *req);
    GenResult *res = mem_alloc((size_t)(m + 1) * sizeof *res);
    Str text = {0}, key = {0};
    for (int i = 0; i < n; i++) {
        str_clear(&text);
        str_printf(
            &text,
            "Rewrite the request below in other words. Keep its meaning, do not answer it, write one line.\n\n%s",
            q->item[i].prompt);
        const Message ask = {ROLE_USER, str_get(&text)};
        chat_respond(&seq[i], c, (Dialogue){&ask, 1});
        for (int v = 0; v < per; v++) {
            str_clear(&key);
            str_printf(&key, "%s/paraphrase/%d", q->item[i].id, v);
            req[i * per + v] = (GenRequest){stage_id(str_get(&key)),
                                            {seq[i].tok.id, seq[i].tok.n},
                                            {.temperature = 0.9,
                                             .top_p = 1,
                                             .repetition = 1,
                                             .max_new = 96,
                                             .rng = {seed, RNG_SAMPLE},
                                             .stop = &c->id[SENT_END],
                                             .n_stop = 1}};
        }
    }
    bool ok = sequences_ok(seq, n, err) && engine_generate(e, req, m, res, log, NULL, err);
    *made = 0;
    for (int i = 0; i < m && ok; i++) {
        str_clear(&text);
        tokenizer_decode(tok, res[i].text, res[i].n - (res[i].why == STOP_TOKEN), false, &text);
        first_line(&text);
        if (!fits(q->item[i / per].prompt, str_get(&text))) continue;
        add_variant(q, i / per, str_get(&text), "model", i % per + 1);
        ++*made;
    }
    if (ok) engine_free_results(res, m);
    for (int i = 0; i < n; i++) sequence_release(&seq[i]);
    free(seq);
    free(req);
    free(res);
    str_release(&text);
    str_release(&key);
    return ok;
}

/* -- personas ---------------------------------------------------------------------------------------------------------
 */

static const struct {
    const char *name, *system;
} persona[PERSONAS] = {{"teacher", "You are a patient teacher who explains things step by step."},
                       {"pirate", "You are a cheerful pirate and speak like one."},
                       {"terse", "You answer in as few words as possible."},
                       {"expert", "You are a senior expert who speaks to other experts."},
                       {"friend", "You are an old friend of the user and speak casually."}};

static const struct {
    const char *ask, *reply;
} filler[FILLER_TURNS] = {
    {"What day comes after Tuesday?", "Wednesday comes after Tuesday."},
    {"Name a fruit that is yellow.", "A banana is yellow."},
    {"How many legs has a spider?", "A spider has eight legs."},
    {"What do bees make?", "Bees make honey."},
    {"Which is larger, seven or four?", "Seven is larger than four."},
    {"What colour is the sky on a clear day?", "The sky is blue on a clear day."},
    {"Name something that floats on water.", "Wood floats on water."},
    {"What is the opposite of cold?", "The opposite of cold is hot."},
};

static void add_condition(Questions *q, int of, const char *name, const char *system, int turns) {
    Question x = q->item[of];
    int had = x.dialogue.n, n = 0;
    Message *msg = heap_alloc(&q->heap, (size_t)(had + 2 * turns + 1) * sizeof *msg);
    if (system) msg[n++] = (Message){ROLE_SYSTEM, system};
    for (int t = 0; t < turns; t++) {
        msg[n++] = (Message){ROLE_USER, filler[t].ask};
        msg[n++] = (Message){ROLE_ASSISTANT, filler[t].reply};
    }
    memcpy(msg + n, x.dialogue.msg, (size_t)had * sizeof *msg);
    x.dialogue = (Dialogue){msg, n + had};
    if (!x.parent[0]) x.parent = x.id;
    x.persona = name;
    x.turns = turns;
    x.id = name[0] ? heap_printf(&q->heap, "%s~%s", q->item[of].id, name)
                   : heap_printf(&q->heap, "%s~t%d", q->item[of].id, turns);
    questions_add(q, &x);
}

void questions_personas(Questions *q, int n, const int *turns, int n_turns) {
    for (int i = 0; i < n; i++) {
        if (q->item[i].turns < 0) q->item[i].turns = 0;
        for (int p = 0; p < PERSONAS; p++) add_condition(q, i, persona[p].name, persona[p].system, 0);
        for (int t = 0; t < n_turns; t++)
            if (turns[t] > 0) add_condition(q, i, "", NULL, turns[t]);
    }
}
