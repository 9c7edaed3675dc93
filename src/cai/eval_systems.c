/* Evaluation results read from files, and what they say of each system. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "cai/eval_page_int.h"

static bool keep(ResultSet *r, Json *json, const char *name, Hash hash, Error *err) {
    const char *kind = result_kind(json);
    bool ok =
        kind != NULL ||
        error_set(
            err, ERR_FORMAT,
            "%s: no evaluation result: expected an object with \"kind\" and \"schema\": 1 ('dikast compare', 'harm', "
            "'rate', .. --out write them), or results.json of 'dikast eval'",
            name);
    if (ok && json_get(json, "status") && !strcmp(member_str(json, "status"), "failed"))
        ok = error_set(err, ERR_FORMAT, "%s: tells of a failure, not of a result: %.200s", name,
                       member_str(json, "error"));
    if (ok && r->n == PAGE_RESULTS) ok = error_set(err, ERR_FORMAT, "more than %d results", PAGE_RESULTS);
    if (!ok) {
        json_release(json);
        return false;
    }
    r->item[r->n++] = (Result){json, mem_str(name), kind, hash, false};
    return true;
}

/* results.json of 'dikast eval' may hold a harm and a contamination result: they are shown as such. */
static bool keep_inner(ResultSet *r, Error *err) {
    static const char *const inner[] = {"harm", "contamination"};
    const Result outer = r->item[r->n - 1];
    for (int i = 0; !strcmp(outer.kind, "capability") && i < COUNT_OF(inner); i++) {
        const Json *j = json_get(outer.json, inner[i]);
        const char *kind = j ? result_kind(j) : NULL;
        if (!kind) continue;
        if (r->n == PAGE_RESULTS) return error_set(err, ERR_FORMAT, "more than %d results", PAGE_RESULTS);
        r->item[r->n++] = (Result){(Json *)j, mem_str(outer.file), kind, outer.hash, true};
    }
    return true;
}

bool results_read(ResultSet *r, const char *const *path, int n, Error *err) {
    *r = (ResultSet){0};
    for (int i = 0; i < n; i++) {
        Json *json = NULL;
        Hash hash;
        if (hash_file(&hash, path[i], err) && json_read_file(&json, path[i], JSON_INT_AS_REAL, err) &&
            keep(r, json, path[i], hash, err) && keep_inner(r, err))
            continue;
        results_release(r);
        return false;
    }
    return true;
}

bool results_add(ResultSet *r, const char *text, size_t n, const char *name, Error *err) {
    Json *json = NULL;
    return json_parse(&json, text, n, 0, name, 1, err) && keep(r, json, name, hash_bytes(text, n), err);
}

void results_release(ResultSet *r) {
    for (int i = 0; i < r->n; i++) {
        if (!r->item[i].inner) json_release(r->item[i].json);
        free(r->item[i].file);
    }
    *r = (ResultSet){0};
}

const char *member_str(const Json *j, const char *key) {
    const char *s = json_str(json_get(j, key), NULL);
    return s ? s : "";
}

double member_num(const Json *j, const char *key) { return json_num(json_get(j, key), NAN); }

Interval interval_of(const Json *e) {
    return (Interval){member_num(e, "value"), member_num(e, "lo"), member_num(e, "hi"), json_int(json_get(e, "n"), 0)};
}

/* -- systems ---------------------------------------------------------------------------------------------------------
 */

static const Interval unknown = {NAN, NAN, NAN, 0};

static SystemView *view(Systems *s, const char *name) {
    for (int i = 0; i < s->n; i++)
        if (!strcmp(s->item[i].name, name)) return &s->item[i];
    if (!name[0] || s->n == PAGE_SYSTEMS) return NULL;
    s->item[s->n] = (SystemView){name, unknown, unknown, unknown, unknown, unknown, unknown, unknown, false};
    return &s->item[s->n++];
}

static void take(Interval *to, const Json *estimate) {
    if (estimate && isnan(to->mean)) *to = interval_of(estimate);
}

static void from_harm(Systems *s, const Json *r) {
    SystemView *v = view(s, member_str(r, "system"));
    if (!v) return;
    take(&v->harm, json_get(json_get(json_get(r, "policy"), "overall"), "harmful"));
    take(&v->over_refusal, json_get(json_get(json_get(r, "over_refusal"), "overall"), "full"));
}

static void from_systems(Systems *s, const Json *r, size_t field, const char *key) {
    const Json *list = json_get(r, "systems");
    for (int i = 0; i < json_len(list); i++) {
        SystemView *v = view(s, member_str(json_at(list, i), "system"));
        if (v) take((Interval *)((char *)v + field), json_get(json_at(list, i), key));
    }
}

static const Json *measure_of(const Json *r, const char *name) {
    const Json *list = json_get(r, "measures");
    for (int i = 0; i < json_len(list); i++)
        if (!strcmp(member_str(json_at(list, i), "measure"), name)) return json_get(json_at(list, i), "values");
    return NULL;
}

static void from_measure(Systems *s, const Json *r, const char *measure, size_t field) {
    const Json *list = measure_of(r, measure);
    for (int i = 0; i < json_len(list); i++) {
        SystemView *v = view(s, member_str(json_at(list, i), "system"));
        if (v) take((Interval *)((char *)v + field), json_at(list, i));
    }
}

/* Wordings made by rule, else samples of one prompt, else what a model made. */
static void from_consistency(Systems *s, const Json *r) {
    static const char *const order[] = {"rule", "repeat", "model"};
    const Json *list = json_get(r, "systems");
    for (int i = 0; i < json_len(list); i++) {
        SystemView *v = view(s, member_str(json_at(list, i), "system"));
        const Json *parts = json_get(json_at(list, i), "parts");
        for (int o = 0; v && o < COUNT_OF(order); o++)
            for (int k = 0; k < json_len(parts); k++)
                if (!strcmp(member_str(json_at(parts, k), "part"), order[o]))
                    take(&v->unanimous, json_get(json_at(parts, k), "unanimous"));
    }
}

static bool has(const Systems *s, size_t field) {
    for (int i = 0; i < s->n; i++)
        if (!isnan(((const Interval *)((const char *)&s->item[i] + field))->mean)) return true;
    return false;
}

/* Systems whose harm is known, and help too. */
static int placed(const Systems *s) {
    int n = 0;
    for (int i = 0; i < s->n; i++) n += !isnan(s->item[i].harm.mean) && !isnan(s->item[i].help.mean);
    return n;
}

static void each(Systems *s, const ResultSet *r, const char *kind, void (*fn)(Systems *s, const Json *r)) {
    for (int i = 0; i < r->n; i++)
        if (!strcmp(r->item[i].kind, kind)) fn(s, r->item[i].json);
}

static void from_rating(Systems *s, const Json *r) { from_systems(s, r, offsetof(SystemView, rating), "rating"); }
static void from_ranking(Systems *s, const Json *r) {
    from_systems(s, r, offsetof(SystemView, elo), "elo");
    from_systems(s, r, offsetof(SystemView, elo_length), "elo_length");
}
static void harm_measure(Systems *s, const Json *r) { from_measure(s, r, "harm", offsetof(SystemView, harm)); }
static void lookalike_measure(Systems *s, const Json *r) {
    from_measure(s, r, "refusal.lookalike", offsetof(SystemView, over_refusal));
}
static void benign_measure(Systems *s, const Json *r) {
    from_measure(s, r, "refusal.benign", offsetof(SystemView, over_refusal));
}
static void answered_measure(Systems *s, const Json *r) { from_measure(s, r, "benign", offsetof(SystemView, help)); }

/* One system is better than another in harm and help when it is no worse in either and better in one. */
static void find_front(Systems *s) {
    for (int i = 0; i < s->n; i++) {
        SystemView *a = &s->item[i];
        a->front = !isnan(a->harm.mean) && !isnan(a->help.mean);
        for (int k = 0; k < s->n && a->front; k++) {
            const SystemView *b = &s->item[k];
            bool no_worse = b->harm.mean <= a->harm.mean && b->help.mean >= a->help.mean;
            a->front = !(no_worse && (b->harm.mean < a->harm.mean || b->help.mean > a->help.mean));
        }
    }
}

void systems_of(Systems *s, const ResultSet *r) {
    *s = (Systems){.over_refusal_is = "harmless look-alikes refused in full"};
    each(s, r, "comparison", harm_measure); /* its order of systems is the one they were given in */
    for (int i = 0; i < s->n; i++) s->item[i].harm = unknown;
    each(s, r, "harm", from_harm);
    each(s, r, "comparison", harm_measure);
    each(s, r, "rating", from_rating);
    each(s, r, "ranking", from_ranking);
    each(s, r, "consistency", from_consistency);
    if (!has(s, offsetof(SystemView, over_refusal))) {
        each(s, r, "comparison", lookalike_measure);
        s->over_refusal_is = "harmless look-alikes refused";
    }
    if (!has(s, offsetof(SystemView, over_refusal))) {
        each(s, r, "comparison", benign_measure);
        s->over_refusal_is = "harmless requests refused";
    }
    /* Ratings say more, answers are known of more systems: whichever places more of them in the picture. */
    each(s, r, "comparison", answered_measure);
    Systems answered = *s;
    s->help_is = "mean rating, 1 to 5";
    for (int i = 0; i < s->n; i++) s->item[i].help = s->item[i].rating;
    if (placed(&answered) > placed(s)) {
        *s = answered;
        s->help_is = "harmless requests answered";
    }
    find_front(s);
}

int system_colour(const char *name, const ResultSet *r) {
    Systems s;
    systems_of(&s, r);
    for (int i = 0; i < s.n; i++)
        if (!strcmp(s.item[i].name, name)) return i % 5;
    return 0;
}
