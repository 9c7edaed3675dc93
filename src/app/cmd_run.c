/* dikast run, dikast stage, dikast why. */
#include <stdio.h>
#include <string.h>

#include "app/command.h"
#include "app/conf.h"
#include "base/json.h"
#include "cai/pipeline.h"

static const char *status_word(bool ok, const Error *err) {
    if (ok) return "done";
    return err->code == ERR_GATE ? "gate" : err->code == ERR_STOPPED ? "stopped" : "failed";
}

static void print_json(const PipelineResult *r, bool ok, const Error *err) {
    Str text = {0};
    JsonOut j;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-run/1");
    json_out_str(&j, "status", status_word(ok, err));
    json_out_num(&j, "seconds", r->seconds);
    json_out_str(&j, "run", r->run_dir);
    json_out_str(&j, "report", r->report);
    if (!ok) {
        json_out_int(&j, "code", error_exit_code(err->code));
        json_out_str(&j, "error", err->msg);
    }
    json_out_arr(&j, "stages");
    for (int i = 0; i < r->n_stage; i++) {
        if (!r->stage[i].applies) continue;
        json_out_obj(&j, NULL);
        json_out_str(&j, "name", r->stage[i].name);
        json_out_str(&j, "key", r->stage[i].key);
        json_out_num(&j, "seconds", r->stage[i].seconds);
        json_out_bool(&j, "cached", r->stage[i].cached);
        json_out_obj_end(&j);
    }
    json_out_arr_end(&j);
    json_out_arr(&j, "gates");
    for (int i = 0; i < r->n_gate; i++) {
        json_out_obj(&j, NULL);
        json_out_str(&j, "name", r->gate[i].text);
        json_out_str(&j, "stage", r->gate[i].stage);
        json_out_num(&j, "value", r->gate[i].value);
        json_out_num(&j, "bound", r->gate[i].bound);
        json_out_bool(&j, "ok", r->gate[i].ok);
        json_out_obj_end(&j);
    }
    json_out_arr_end(&j);
    json_out_obj_end(&j);
    print_text(&text);
}

static const char *model_dir(const PipelineResult *r) {
    for (int i = 0; i < r->n_stage; i++)
        if (!strcmp(r->stage[i].name, "rl")) return r->stage[i].dir;
    return NULL;
}

/* As a shell reads it: a folder's name may hold a blank. */
static void put_word(Str *out, const char *s) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-+:,@%";
    if (s[strspn(s, plain)] == 0) {
        str_put(out, s);
        return;
    }
    str_putc(out, '\'');
    for (; *s; s++) str_put(out, *s == '\'' ? "'\\''" : (char[]){*s, 0});
    str_putc(out, '\'');
}

static void print_summary(const PipelineResult *r, bool finished) {
    for (int i = 0; i < r->n_gate; i++)
        fprintf(stderr, "gate %s  %s  (%.4g against %.4g)\n", r->gate[i].ok ? "ok  " : "MISS", r->gate[i].text,
                r->gate[i].value, r->gate[i].bound);
    if (!finished) return;
    char took[32];
    format_time(took, r->seconds);
    fprintf(stderr, "done in %s\n  report  %s\n", took, r->report);
    if (!model_dir(r)) return;
    Str model = {0}, word = {0};
    str_printf(&model, "%s/model", model_dir(r));
    put_word(&word, str_get(&model));
    fprintf(stderr, "  chat    dikast chat %s\n", str_get(&word));
    str_release(&model);
    str_release(&word);
}

static bool run_to(const Args *a, const Command *c, const char *conf, const char *only, Error *err) {
    const char *name = args_flag(a, c, "--name");
    RunConfig cfg;
    Args with = *a;
    char set[160];
    if (name) {
        snprintf(set, sizeof set, "run.name=%s", name);
        with.set[with.n_set++] = set;
    }
    PipelineResult r = {0};
    bool ok = conf_load(&cfg, conf, with.set, with.n_set, err);
    if (ok) {
        ok = (args_flag(a, c, "--replace") || pipeline_claim(&cfg, conf, err)) &&
             pipeline_run(&r, &cfg, conf, only, a->log, a->stop, err);
        run_config_release(&cfg);
        if (!r.follows) print_summary(&r, (ok || err->code == ERR_GATE) && !only);
    }
    if (a->json && !r.follows) print_json(&r, ok, err);
    return ok;
}

#define NAME_FLAGS                                                                                                     \
    {"--name", "NAME", "name of the run directory (run.name)"},                                                        \
        {"--replace", NULL, "take the place of a run of this name that had another configuration"}, {                  \
        0                                                                                                              \
    }

static const Flag run_flags[] = {{"--only", "STAGE", "stop after this stage"}, NAME_FLAGS};
static const Flag stage_flags[] = {NAME_FLAGS};

static bool run(const Args *a, Error *err) {
    return run_to(a, &command_run, a->arg[0], args_flag(a, &command_run, "--only"), err);
}

const Command command_run = {
    .name = "run",
    .usage = "run CONF [key=value ...] [--only STAGE] [--name NAME] [--replace] [--json]",
    .help = "run the whole pipeline, or what is left of it\n\n"
            "Stages that are done and unchanged are not run again; an interrupted stage goes on where it was.\n"
            "out/runs/NAME is the run's directory. A run of another configuration that is there already is in the way: "
            "give\n"
            "this one another name, or --replace it, which costs it its report but no stage that is done.\n"
            "key=value overrides configuration keys, ~key takes the default; 'dikast help SECTION' lists keys.",
    .flag = run_flags,
    .min_arg = 1,
    .max_arg = 1,
    .takes_set = true,
    .saves_state = true,
    .says_error = true,
    .run = run};

static bool stage(const Args *a, Error *err) { return run_to(a, &command_stage, a->arg[1], a->arg[0], err); }

const Command command_stage = {.name = "stage",
                               .usage = "stage STAGE CONF [key=value ...] [--name NAME] [--replace] [--json]",
                               .help =
                                   "run one stage and what it needs\n\n"
                                   "As 'dikast run CONF --only STAGE', whose help says what a name is in the way of.",
                               .flag = stage_flags,
                               .min_arg = 2,
                               .max_arg = 2,
                               .takes_set = true,
                               .saves_state = true,
                               .says_error = true,
                               .run = stage};

static const Flag why_flags[] = {{"--run", "DIR", "run directory (default: the one written last below out/runs)"},
                                 {"--out", "DIR", "where runs live (default: out)"},
                                 {0}};

static bool why(const Args *a, Error *err) {
    const char *out = args_flag(a, &command_why, "--out");
    Str text = {0};
    bool ok = pipeline_why(&text, out ? out : "out", args_flag(a, &command_why, "--run"), a->arg[0], err);
    fputs(str_get(&text), stdout);
    str_release(&text);
    return ok;
}

const Command command_why = {.name = "why",
                             .usage = "why ID [--run DIR]",
                             .help = "one record's story: prompt, critique, revision, label, score, rollouts",
                             .flag = why_flags,
                             .min_arg = 1,
                             .max_arg = 1,
                             .run = why};
