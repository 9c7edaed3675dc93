/* dikast oracle: known results of loss functions against the functions that training calls. */
#include <stdio.h>
#include <string.h>

#include "app/open.h"
#include "train/oracle.h"

static const Flag flags[] = {MACHINE_FLAGS, {0}};

static void put_json(const OracleReport *r, const Error *failed) {
    Str text = {0};
    JsonOut j;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-oracle/1");
    if (failed) {
        json_out_int(&j, "code", error_exit_code(failed->code));
        json_out_str(&j, "error", failed->msg);
    }
    json_out_arr(&j, "cases");
    for (int i = 0; i < r->n; i++) {
        json_out_obj(&j, NULL);
        json_out_str(&j, "id", r->at[i].id);
        json_out_str(&j, "function", r->at[i].function);
        json_out_num(&j, "max_err", r->at[i].max_err);
        json_out_num(&j, "tol", r->at[i].tol);
        json_out_bool(&j, "ok", r->at[i].ok);
        json_out_obj_end(&j);
    }
    json_out_arr_end(&j);
    json_out_obj_end(&j);
    print_text(&text);
}

static void put_table(const OracleReport *r) {
    int widest = 2;
    for (int i = 0; i < r->n; i++)
        if ((int)strlen(r->at[i].id) > widest) widest = (int)strlen(r->at[i].id);
    for (int i = 0; i < r->n; i++) {
        const OracleCase *c = &r->at[i];
        printf("%-6s %-*s  %-21s  %.1e of %.0e  %s\n", c->ok ? "ok" : "FAILED", widest, c->id, c->function, c->max_err,
               c->tol, c->ok ? "" : c->worst);
    }
    printf("%d cases, %d failed\n", r->n, r->n_failed);
}

static bool run(const Args *a, Error *err) {
    Machine machine = {0};
    OracleReport r = {0};
    bool ok = machine_open(&machine, a, &command_oracle, err) && oracle_run(&r, a->arg[0], machine.be, err);
    Error gate = {0};
    if (ok && r.n_failed)
        error_set(&gate, ERR_GATE, "%s: %d of %d cases are further off than they may be", a->arg[0], r.n_failed, r.n);
    if (a->json)
        put_json(&r, ok ? NULL : err);
    else if (ok)
        put_table(&r);
    if (gate.code) *err = gate;
    oracle_release(&r);
    machine_close(&machine);
    return ok && !gate.code;
}

const Command command_oracle = {
    .name = "oracle",
    .usage = "oracle FILE [--json]",
    .help =
        "known results against the loss functions that training calls\n\n"
        "FILE: JSON of format dikast-rl-cases/1, as docs/formats.md describes it: tensors, and cases that name a\n"
        "function (policy_loss, gae, group_loss, dpo_loss, ...), its inputs, its known outputs and a tolerance. The\n"
        "error of an output is its largest difference over max(0.01, its largest value). Exit 6 when a case fails.\n"
        "With --json: {cases: [{id, function, max_err, tol, ok}]}; max_err null: a result was not finite.",
    .flag = flags,
    .min_arg = 1,
    .max_arg = 1,
    .says_error = true,
    .run = run};
