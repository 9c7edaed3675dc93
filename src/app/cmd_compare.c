/* dikast compare: systems on the same prompts. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>

#include "base/cell.h"
#include "app/result.h"

static const Flag flags[] = {REPLIES_FLAGS, RESULT_FLAGS, {0}};

static void table(Str *out, const Json *r) {
    const Json *measures = json_get(r, "measures"), *correction = json_get(r, "correction");
    for (int m = 0; m < json_len(measures); m++) {
        const Json *of = json_at(measures, m), *values = json_get(of, "values"), *pairs = json_get(of, "pairs");
        int better = (int)json_int(json_get(of, "better"), 0);
        double scale = better ? 100 : 1;
        str_printf(out, "%s%s\n", json_str(json_get(of, "measure"), NULL),
                   better < 0   ? ", %, lower is better"
                   : better > 0 ? ", %, higher is better"
                                : "");
        for (int i = 0; i < json_len(values); i++) {
            const Json *v = json_at(values, i);
            str_put(out, "  ");
            str_cell(out, json_str(json_get(v, "system"), NULL), 32, INT_MAX);
            str_putc(out, ' ');
            put_estimate(out, v, scale);
            str_printf(out, "  (n %lld)\n", (long long)json_int(json_get(v, "n"), 0));
        }
        for (int i = 0; i < json_len(pairs); i++) {
            const Json *p = json_at(pairs, i);
            double raw = json_num(json_get(p, "p"), NAN);
            str_printf(out, "  %s -> %s: ", json_str(json_get(p, "a"), NULL), json_str(json_get(p, "b"), NULL));
            put_estimate(out, json_get(p, "difference"), scale);
            if (!isnan(raw))
                str_printf(out, "  p %.4g, Holm %.4g%s  (%s)", raw, json_num(json_get(p, "p_holm"), NAN),
                           json_bool(json_get(p, "clear"), false) ? " *" : "", json_str(json_get(p, "test"), NULL));
            str_putc(out, '\n');
        }
    }
    str_printf(out, "* below 0.05 after Holm's correction over %lld tests\n",
               (long long)json_int(json_get(correction, "tests"), 0));
}

static bool run(const Args *a, Error *err) {
    Answers set[ANSWERS_MAX] = {0};
    uint64_t seed;
    Str text = {0};
    JsonOut j;
    bool open = replies_open(set, a->arg, a->n_arg, a, &command_compare, &seed, err), ok = open;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    ok = ok && comparison_json(&j, set, a->n_arg, seed, err);
    json_out_obj_end(&j);
    for (int i = 0; open && i < a->n_arg; i++) answers_release(&set[i]);
    return result_end(ok, &text, "comparison", table, a, &command_compare, err);
}

const Command command_compare = {
    .name = "compare",
    .usage = "compare REPLIES REPLIES... [flags]",
    .help = "systems compared in pairs on the same prompts: harm, help, over-refusal, length\n\n"
            "REPLIES: a file per system, rows {prompt, reply, prompt_id or id, kind, parent, verdict, harmful or p, "
            "..} as\n"
            "'dikast answer', 'dikast harm' and a run's evaluation (replies-*.jsonl) write them. Differences are "
            "paired by\n"
            "prompt, with bootstrap intervals; tests: McNemar's where each prompt has one reply, else random sign "
            "flips by\n"
            "prompt; p is corrected over all tests by Holm's method.",
    .flag = flags,
    .min_arg = 2,
    .max_arg = ANSWERS_MAX,
    .says_error = true,
    .run = run};
