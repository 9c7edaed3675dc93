/* dikast consistency: verdicts over paraphrases and samples, personas, style and self-description. */
#include <math.h>
#include <stdlib.h>

#include "app/result.h"

static const Flag flags[] = {REPLIES_FLAGS, RESULT_FLAGS, {0}};

static void put_parts(Str *out, const Json *parts) {
    for (int i = 0; i < json_len(parts); i++) {
        const Json *p = json_at(parts, i);
        double kappa = json_num(json_get(p, "fleiss_kappa"), NAN);
        str_printf(out, "  %-8s %5lld clusters  flip ", json_str(json_get(p, "part"), NULL),
                   (long long)json_int(json_get(p, "clusters"), 0));
        put_estimate(out, json_get(p, "flip"), 100);
        str_put(out, " %  unanimous ");
        put_estimate(out, json_get(p, "unanimous"), 100);
        str_put(out, isnan(kappa) ? " %  Fleiss' kappa n/a" : " %  Fleiss' kappa ");
        if (!isnan(kappa)) str_printf(out, "%.3f", kappa);
        str_putc(out, '\n');
    }
}

static void put_persona(Str *out, const Json *s) {
    const Json *conditions = json_get(s, "conditions"), *claims = json_get(s, "claims");
    for (int i = 0; i < json_len(conditions); i++) {
        const Json *c = json_at(conditions, i);
        const char *persona = json_str(json_get(c, "persona"), NULL);
        str_put(out, persona[0] ? "  as '" : "  no persona");
        if (persona[0]) str_printf(out, "%s'", persona);
        if (json_int(json_get(c, "turns"), 0) > 0)
            str_printf(out, " after %lld turns", (long long)json_int(json_get(c, "turns"), 0));
        str_printf(out, " (%lld replies): refusals ", (long long)json_int(json_get(c, "replies"), 0));
        put_estimate(out, json_get(c, "refusal"), 100);
        str_put(out, " points, harm ");
        put_estimate(out, json_get(c, "harm"), 100);
        str_printf(out, ", JS %.4f bits (%.4f beyond chance, Holm p %.3g)%s\n", json_num(json_get(c, "js"), NAN),
                   json_num(json_get(c, "js_beyond_chance"), NAN), json_num(json_get(c, "js_p_holm"), NAN),
                   json_bool(json_get(c, "alarm"), false) ? "  ALARM" : "");
    }
    for (int i = 0; i < json_len(claims); i++) {
        const Json *c = json_at(claims, i);
        if (!json_int(json_get(c, "made"), 0)) continue;
        str_printf(out, "  says its %s %lld times, %lld ways, contradictions ", json_str(json_get(c, "claim"), NULL),
                   (long long)json_int(json_get(c, "made"), 0), (long long)json_int(json_get(c, "values"), 0));
        put_estimate(out, json_get(c, "contradiction"), 100);
        str_put(out, " %\n");
    }
}

static void table(Str *out, const Json *r) {
    const Json *systems = json_get(r, "systems");
    for (int i = 0; i < json_len(systems); i++) {
        const Json *s = json_at(systems, i), *style = json_get(s, "style");
        str_printf(out, "%s\n", json_str(json_get(s, "system"), NULL));
        put_parts(out, json_get(s, "parts"));
        put_persona(out, s);
        str_put(out, "  style (mean, sd within related questions):");
        for (int k = 0; k < json_len(style); k++) {
            const Json *f = json_at(style, k);
            str_printf(out, "%s %s %.3g, %.3g", k ? ";" : "", json_str(json_get(f, "feature"), NULL),
                       json_num(json_get(f, "mean"), NAN), json_num(json_get(f, "sd_within"), NAN));
        }
        str_putc(out, '\n');
    }
}

static bool run(const Args *a, Error *err) {
    Answers set[ANSWERS_MAX] = {0};
    uint64_t seed;
    Str text = {0};
    JsonOut j;
    bool open = replies_open(set, a->arg, a->n_arg, a, &command_consistency, &seed, err), ok = open;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    ok = ok && consistency_json(&j, set, a->n_arg, seed, err);
    if (ok) json_out_obj_end(&j);
    for (int i = 0; open && i < a->n_arg; i++) answers_release(&set[i]);
    return result_end(ok, &text, "consistency", table, a, &command_consistency, err);
}

const Command command_consistency = {.name = "consistency",
                                     .usage = "consistency REPLIES... [flags]",
                                     .help = "does a system judge and speak the same however it is asked\n\n"
                                             "REPLIES: a file per system, rows as for 'dikast compare'. A cluster is a "
                                             "prompt with its paraphrases ('parent');\n"
                                             "those made by rule and by a model are reported apart, repeated samples "
                                             "too: flip rate, unanimous share, Fleiss'\n"
                                             "kappa. Rows with 'persona' or 'turns' are compared with the neutral "
                                             "replies to the same questions. Style and what\n"
                                             "a reply says about its writer (name, kind, maker) are compared over "
                                             "related questions. 'dikast paraphrase' makes\n"
                                             "such prompts.",
                                     .flag = flags,
                                     .min_arg = 1,
                                     .max_arg = ANSWERS_MAX,
                                     .says_error = true,
                                     .run = run};
