#include "cai/label_gates.h"

#include <math.h>
#include <string.h>

#include "base/json.h"
#include "cai/stage_util.h"
#include "eval/stats.h"

static double own_metric(void *ud, const char *name) {
    return strncmp(name, "label.", 6) ? NAN : json_num(json_get(ud, name + 6), NAN);
}

static void check_gate(Str *missed, const Json *root, const char *gate, bool *ok, Error *err) {
    GateResult g;
    if (!*ok) return;
    *ok = gate_eval(&g, gate, own_metric, (void *)root, err) || error_wrap(err, "label.gates");
    if (*ok && !g.ok) str_printf(missed, "%s%s (%.4g against %.4g)", missed->n ? "; " : "", g.text, g.value, g.bound);
}

/* Bounds that labels are released by unless label.release says otherwise, where there is enough to measure them by. */
static const struct {
    const char *metric, *gate, *count;
    int least;
} released_by[] = {{"flip_rate", "label.flip_rate <= 0.1", "decided", 20},
                   {"judge.ece", "label.judge.ece <= 0.1", "judge.n", 50},
                   {"judge.length_bias", "label.judge.length_bias <= 0.1", "judge.n", 50}};

bool label_release(const RunConfig *c, const char *dir, Error *err) {
    const CfgList *gates = &c->label.gates;
    Str path = {0}, missed = {0}, own = {0};
    Json *root = NULL;
    path_join(&path, dir, "summary.json");
    bool ok = json_read_file(&root, str_get(&path), 0, err);
    for (int i = 0; i < gates->n && ok; i++) check_gate(&missed, root, gates->item[i], &ok, err);
    for (int i = 0; i < COUNT_OF(released_by) && ok && c->label.release == 0; i++)
        if (json_num(json_get(root, released_by[i].count), 0) >= released_by[i].least &&
            json_get(root, released_by[i].metric))
            check_gate(&own, root, released_by[i].gate, &ok, err);
    if (ok && (missed.n || own.n))
        ok = error_set(
            err, ERR_LIMIT,
            "%s missed: %.400s. The labels are not released; they lie with their summary in %s. Another judge "
            "(judge.kind), label.t_cal%s or the constitution may mend them%s",
            missed.n ? "label.gates" : "bounds of label.release", missed.n ? str_get(&missed) : str_get(&own), dir,
            own.n ? ", more demonstrations of judging" : "",
            own.n && !missed.n ? "; label.release: always takes them as they are" : "");
    json_release(root);
    str_release(&path);
    str_release(&missed);
    str_release(&own);
    return ok;
}
