#include "app/result.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "base/io.h"

/* -- gates ----------------------------------------------------------------------------------------------------------
 */

static const CfgKey gate_keys[] = {
    {"gates", CFG_LIST, CFG_RESULT, offsetof(GateConfig, gates), "", 0, 0, "conditions, such as 'mmlu.acc >= 0.3'"}};

bool gates_load(GateConfig *cfg, const char *file, Error *err) {
    Str report = {0};
    *cfg = (GateConfig){0};
    bool ok = config_load(cfg, gate_keys, COUNT_OF(gate_keys), file, NULL, 0, &report, err);
    if (!ok && report.n) fputs(str_get(&report), stderr);
    str_release(&report);
    if (ok && cfg->gates.n == 0) ok = error_set(err, ERR_CONFIG, "no gates: expected 'gates:' and a list");
    for (int i = 0; i < cfg->gates.n && ok; i++) ok = gate_readable(cfg->gates.item[i], err);
    return ok || error_wrap(err, "%s", file);
}

void gates_release(GateConfig *cfg) { config_release(cfg, gate_keys, COUNT_OF(gate_keys)); }

bool gate_file_readable(const Args *a, const Command *c, Error *err) {
    GateConfig cfg;
    const char *file = args_flag(a, c, "--gate");
    if (!file) return true;
    bool ok = gates_load(&cfg, file, err);
    gates_release(&cfg);
    return ok;
}

bool replies_open(Answers *a, const char *const *path, int n, const Args *args, const Command *c, uint64_t *seed,
                  Error *err) {
    AnswersRead how = {NAN, args_flag(args, c, "--gold") != NULL, args_flag(args, c, "--prompts")};
    int64_t given;
    if (!args_int(args, c, "--seed", 0, 0, INT64_MAX, &given, err) ||
        !args_num(args, c, "--threshold", NAN, 0, 1, &how.threshold, err))
        return false;
    *seed = (uint64_t)given;
    if (!gate_file_readable(args, c, err)) return false;
    if (!answers_read_all(a, path, n, &how, err)) return false;
    for (int i = 0; i < n; i++)
        if (a[i].no_room)
            log_warn(args->log, "%s: %d replies left out: their prompts fill the model's context, nothing was asked",
                     a[i].system, a[i].no_room);
    return true;
}

typedef struct {
    const Json *const *result;
    int n;
} Results;

static double metric_of(void *ud, const char *name) {
    const Results *r = ud;
    double v = NAN;
    for (int i = 0; i < r->n && isnan(v); i++) v = result_metric(r->result[i], name);
    return v;
}

static bool check_all(Gates *out, const GateConfig *cfg, Results *r, Log *log, Error *err) {
    out->item = mem_alloc((size_t)(cfg->gates.n + 1) * sizeof *out->item);
    for (int i = 0; i < cfg->gates.n; i++) {
        GateResult *g = &out->item[out->n];
        if (!gate_eval(g, cfg->gates.item[i], metric_of, r, err)) return false;
        out->n++;
        out->missed += !g->ok;
        log_info(log, "gate %s  %s  (%.4g against %.4g)", g->ok ? "ok  " : "MISS", g->text, g->value, g->bound);
    }
    return true;
}

bool gates_check(Gates *out, const char *file, const Json *const *result, int n, Log *log, Error *err) {
    GateConfig cfg;
    Results r = {result, n};
    *out = (Gates){0};
    bool ok = gates_load(&cfg, file, err) && (check_all(out, &cfg, &r, log, err) || error_wrap(err, "%s", file));
    gates_release(&cfg);
    return ok;
}

void gates_json(JsonOut *j, const Gates *g) {
    json_out_arr(j, "gates");
    for (int i = 0; i < g->n; i++) {
        json_out_obj(j, NULL);
        json_out_str(j, "gate", g->item[i].text);
        json_out_num(j, "value", g->item[i].value);
        json_out_num(j, "bound", g->item[i].bound);
        json_out_bool(j, "ok", g->item[i].ok);
        json_out_obj_end(j);
    }
    json_out_arr_end(j);
}

/* -- the end --------------------------------------------------------------------------------------------------------
 */

static void print_failure(const char *kind, const Error *err) {
    Str text = {0};
    JsonOut j;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "kind", kind);
    json_out_int(&j, "schema", 1);
    json_out_str(&j, "status", "failed");
    json_out_int(&j, "code", error_exit_code(err->code));
    json_out_str(&j, "error", err->msg);
    json_out_obj_end(&j);
    print_text(&text);
}

/* The object with its gates behind its members. */
static void with_gates(Str *out, const Json *result, const Gates *g) {
    JsonOut j;
    json_out_init(&j, out, 0);
    json_out_obj(&j, NULL);
    for (int i = 0; i < json_len(result); i++) {
        const Json *value;
        const char *key = json_key_at(result, i, &value);
        json_out_node(&j, key, value);
    }
    if (g->n) gates_json(&j, g);
    json_out_obj_end(&j);
    str_putc(out, '\n');
}

bool result_gate(Str *json, const Args *a, const Command *c, Error *err) {
    const char *gate = args_flag(a, c, "--gate");
    Json *result = NULL;
    Gates g = {0};
    if (!gate) return true;
    bool ok = json_parse(&result, str_get(json), json->n, 0, "result", 1, err);
    CHECK(ok, "a result of ours is no JSON: %s", err->msg);
    ok = gates_check(&g, gate, (const Json *const[]){result}, 1, a->log, err);
    if (ok) {
        str_clear(json);
        with_gates(json, result, &g);
        ok = !g.missed || error_set(err, ERR_GATE, "%d of %d gates missed", g.missed, g.n);
    }
    free(g.item);
    json_release(result);
    return ok;
}

static bool finish(Str *json, ResultTable *table, const Args *a, const Command *c, bool *printed, Error *err) {
    const char *gate = args_flag(a, c, "--gate"), *file = args_flag(a, c, "--out");
    Json *result = NULL;
    Gates g = {0};
    Str text = {0};
    bool ok = json_parse(&result, str_get(json), json->n, 0, "result", 1, err);
    CHECK(ok, "a result of ours is no JSON: %s", err->msg);
    if (gate) ok = gates_check(&g, gate, (const Json *const[]){result}, 1, a->log, err);
    with_gates(&text, result, &g);
    if (ok && file) ok = io_write_file(file, text.s, text.n, err);
    if (ok && !a->json) {
        str_clear(&text);
        table(&text, result);
    }
    *printed = ok;
    if (ok) print_text(&text);
    if (ok && g.missed) ok = error_set(err, ERR_GATE, "%d of %d gates missed", g.missed, g.n);
    str_release(&text);
    free(g.item);
    json_release(result);
    return ok;
}

bool result_end(bool ok, Str *json, const char *kind, ResultTable *table, const Args *a, const Command *c, Error *err) {
    bool printed = false;
    ok = ok && finish(json, table, a, c, &printed, err);
    if (!ok && a->json && !printed) print_failure(kind, err);
    str_release(json);
    return ok;
}

void put_estimate(Str *out, const Json *e, double scale) {
    double v = json_num(json_get(e, "value"), NAN), lo = json_num(json_get(e, "lo"), NAN);
    if (isnan(v)) {
        str_put(out, "-");
        return;
    }
    int digits = scale > 1 ? 1 : 3;
    str_printf(out, "%.*f", digits, scale * v);
    if (!isnan(lo))
        str_printf(out, " [%.*f, %.*f]", digits, scale * lo, digits, scale * json_num(json_get(e, "hi"), NAN));
}
