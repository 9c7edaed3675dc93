/* dikast ls: runs and stored stages. */
#include <stdio.h>
#include <string.h>

#include "app/command.h"
#include "base/io.h"
#include "cai/inventory.h"

static const Flag flags[] = {{"--prune", NULL, "remove the stages that no run uses and no process works on"},
                             {"--dry-run", NULL, "with --prune: say what would go, remove nothing"},
                             {0}};

static void size_cell(char out[16], double bytes) {
    const double scale = bytes < 1e6 ? 1e3 : bytes < 1e9 ? 1e6 : 1e9;
    snprintf(out, 16, bytes / scale < 9.95 ? "%.1f %s" : "%.0f %s", bytes / scale,
             scale == 1e3   ? "kB"
             : scale == 1e6 ? "MB"
                            : "GB");
}

/* -- text */

enum { NAMED = 3 }; /* runs that a stage's line names */

static void put_runs(const Inventory *v) {
    size_t wide = 4;
    for (int i = 0; i < v->n_run; i++)
        if (strlen(v->run[i].name) > wide) wide = strlen(v->run[i].name);
    if (v->n_run) printf("%-*s  %-22s %12s %8s  stages\n", (int)wide, "run", "state", "age", "size");
    for (int i = 0; i < v->n_run; i++) {
        const InventoryRun *r = &v->run[i];
        char size[16], age[32], state[64];
        size_cell(size, r->bytes);
        format_time(age, r->age_s);
        snprintf(state, sizeof state, "%s%s%s", r->state[0] ? r->state : "not begun", r->stage[0] ? " in " : "",
                 r->stage);
        printf("%-*s  %-22s %12s %8s  %6d\n", (int)wide, r->name, state, age, size, r->n_stage);
    }
}

static void put_stages(const Inventory *v) {
    size_t wide = 5;
    for (int i = 0; i < v->n_stage; i++)
        if (strlen(v->stage[i].name) > wide) wide = strlen(v->stage[i].name);
    if (v->n_stage)
        printf("%s%-*s  %-10s %12s %8s  used by\n", v->n_run ? "\n" : "", (int)wide, "stage", "state", "age", "size");
    for (int i = 0; i < v->n_stage; i++) {
        const InventoryStage *s = &v->stage[i];
        char size[16], age[32];
        size_cell(size, s->bytes);
        format_time(age, s->age_s);
        printf("%-*s  %-10s %12s %8s  %s", (int)wide, s->name, s->state, age, size, s->n_run ? "" : "no run");
        for (int k = 0; k < s->n_run && k < NAMED; k++) printf("%s%s", k ? ", " : "", v->run[s->run[k]].name);
        if (s->n_run > NAMED) printf(" and %d more", s->n_run - NAMED);
        printf("\n");
    }
}

static void put_sum(const Inventory *v) {
    double all = v->left_bytes, unused = v->left_bytes;
    int n = 0;
    char whole[16], part[16];
    for (int i = 0; i < v->n_stage; i++) {
        all += v->stage[i].bytes;
        if (v->stage[i].n_run || !strcmp(v->stage[i].state, "running")) continue;
        unused += v->stage[i].bytes;
        n++;
    }
    size_cell(whole, all);
    size_cell(part, unused);
    fprintf(stderr, "%d run%s; %d stage%s, %s\n", v->n_run, v->n_run == 1 ? "" : "s", v->n_stage,
            v->n_stage == 1 ? "" : "s", whole);
    if (unused > 0)
        fprintf(stderr,
                "no run uses %d of them: 'dikast ls %s --prune' frees %s, with --dry-run it says what would go\n", n,
                v->out, part);
}

static void put_pruned(const Inventory *v, bool look) {
    double sum = 0;
    int n = 0;
    char size[16], age[32];
    for (int i = 0; i < v->n_stage; i++) {
        const InventoryStage *s = &v->stage[i];
        if (!s->pruned) continue;
        size_cell(size, s->bytes);
        format_time(age, s->age_s);
        printf("%-27s  %-10s %12s %8s\n", s->name, s->state, age, size);
        sum += s->bytes;
        n++;
    }
    size_cell(size, sum);
    fprintf(stderr, "%s %d of %d stages, %s\n", look ? "would remove" : "removed", n, v->n_stage, size);
    for (int i = 0; i < v->n_stage; i++)
        if (v->stage[i].n_run == 0 && !v->stage[i].pruned)
            fprintf(stderr, "%s stays: a process works on it\n", v->stage[i].name);
}

/* -- JSON */

static void json_run(JsonOut *j, const InventoryRun *r) {
    json_out_obj(j, NULL);
    json_out_str(j, "name", r->name);
    json_out_str(j, "state", r->state);
    if (r->stage[0]) json_out_str(j, "stage", r->stage);
    json_out_num(j, "age_s", r->age_s);
    json_out_int(j, "bytes", (int64_t)r->bytes);
    json_out_int(j, "stages", r->n_stage);
    json_out_obj_end(j);
}

static void json_stage(JsonOut *j, const Inventory *v, const InventoryStage *s, bool prune, bool look) {
    json_out_obj(j, NULL);
    json_out_str(j, "name", s->name);
    json_out_str(j, "state", s->state);
    json_out_num(j, "age_s", s->age_s);
    json_out_int(j, "bytes", (int64_t)s->bytes);
    json_out_arr(j, "runs");
    for (int i = 0; i < s->n_run; i++) json_out_str(j, NULL, v->run[s->run[i]].name);
    json_out_arr_end(j);
    if (prune) json_out_bool(j, look ? "would_remove" : "removed", s->pruned);
    json_out_obj_end(j);
}

static void print_json(const Inventory *v, bool prune, bool look) {
    Str text = {0};
    JsonOut j;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-ls/1");
    json_out_str(&j, "out", v->out);
    json_out_arr(&j, "runs");
    for (int i = 0; i < v->n_run; i++) json_run(&j, &v->run[i]);
    json_out_arr_end(&j);
    json_out_arr(&j, "stages");
    for (int i = 0; i < v->n_stage; i++) json_stage(&j, v, &v->stage[i], prune, look);
    json_out_arr_end(&j);
    json_out_obj_end(&j);
    print_text(&text);
}

/* -- the command */

static bool has(const char *dir, const char *sub) {
    Str path = {0};
    str_printf(&path, "%s/%s", dir, sub);
    bool there = io_is_dir(str_get(&path));
    str_release(&path);
    return there;
}

/* The folder that run.out names; its store/ is as good. */
static bool find_out(Str *out, const char *given, Error *err) {
    str_put(out, given ? given : "out");
    while (out->n > 1 && out->s[out->n - 1] == '/') out->s[--out->n] = 0;
    if (has(str_get(out), "store") || has(str_get(out), "runs")) return true;
    static const char tail[] = "/store";
    const size_t n = sizeof tail - 1;
    if (out->n > n && !strcmp(out->s + out->n - n, tail) && io_is_dir(str_get(out))) {
        out->s[out->n -= n] = 0;
        return true;
    }
    if (!given && !io_exists(str_get(out))) return true; /* there was no run yet */
    if (!io_exists(str_get(out)))
        return error_set(err, ERR_IO, "%s: no such folder; expected the one that run.out names, where runs live",
                         given);
    return error_set(err, ERR_CONFIG, "%s: neither runs/ nor store/ is in it: expected the folder that run.out names",
                     str_get(out));
}

static bool run(const Args *a, Error *err) {
    bool prune = args_flag(a, &command_ls, "--prune") != NULL, look = args_flag(a, &command_ls, "--dry-run") != NULL;
    Str out = {0};
    Inventory v;
    if (look && !prune) return error_set(err, ERR_CONFIG, "--dry-run goes with --prune");
    bool ok = find_out(&out, a->n_arg ? a->arg[0] : NULL, err);
    bool there = ok && io_is_dir(str_get(&out));
    ok =
        ok && (prune && there ? inventory_prune(&v, str_get(&out), look, err) : inventory_read(&v, str_get(&out), err));
    str_release(&out);
    if (!ok) return false;
    if (a->json) {
        print_json(&v, prune, look);
    } else if (prune) {
        put_pruned(&v, look);
    } else if (v.n_run + v.n_stage == 0) {
        fprintf(stderr,
                "%s: no runs yet; 'dikast run CONF' makes one, 'dikast init' lists configurations to begin with\n",
                v.out);
    } else {
        put_runs(&v);
        put_stages(&v);
        put_sum(&v);
    }
    inventory_release(&v);
    return true;
}

const Command command_ls = {
    .name = "ls",
    .usage = "ls [OUT] [--prune [--dry-run]] [--json]",
    .help =
        "runs and stored stages: state, age, size, and which runs use them\n\n"
        "OUT is the folder that run.out names (default out). A stage is used by the runs whose stages.json or "
        "configuration\n"
        "names it, done or not. To be rid of a run: remove its folder below OUT/runs, then --prune what only it used.\n"
        "--prune asks nothing; what is used, or worked on, stays.",
    .flag = flags,
    .max_arg = 1,
    .run = run};
