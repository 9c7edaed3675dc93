/* dikast config: what a run would use, what keys there are, what two configurations do not have in common. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/command.h"
#include "app/conf.h"
#include "app/config_schema.h"
#include "cai/run_config.h"

static const Flag flags[] = {{"--keys", NULL, "every key with its default, its range and what it is for"}, {0}};

static const char *type_name(CfgType t) {
    static const char *const name[] = {"bool", "int", "float", "text", "enum", "list"};
    return name[t];
}

static void print_json(const RunConfig *cfg) {
    Str text = {0}, value = {0};
    JsonOut j;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-config/1");
    json_out_arr(&j, "keys");
    for (int i = 0; i < run_key_count; i++) {
        const CfgKey *k = &run_keys[i];
        str_clear(&value);
        config_value(&value, cfg, k);
        json_out_obj(&j, NULL);
        json_out_str(&j, "name", k->name);
        json_out_str(&j, "type", type_name(k->type));
        json_out_str(&j, "value", str_get(&value));
        if (k->type == CFG_ENUM)
            json_out_str(&j, "choices", k->def);
        else
            json_out_str(&j, "default", k->def);
        json_out_bool(&j, "changes_results", k->scope == CFG_RESULT);
        json_out_str(&j, "help", k->help);
        json_out_obj_end(&j);
    }
    json_out_arr_end(&j);
    json_out_obj_end(&j);
    print_text(&text);
    str_release(&value);
}

/* It has loaded once already: what is wrong with it was said. */
static bool dump(Str *text, const Args *a, const char *path, Error *err) {
    RunConfig cfg = {0};
    Str report = {0}, *origin = mem_alloc((size_t)run_key_count * sizeof *origin);
    bool ok = config_load_origins(&cfg, run_keys, run_key_count, path, a->set, a->n_set, origin, &report, err);
    if (ok) {
        config_dump_origins(text, &cfg, run_keys, run_key_count, origin);
        run_config_release(&cfg);
    }
    for (int i = 0; i < run_key_count; i++) str_release(&origin[i]);
    free(origin);
    str_release(&report);
    return ok;
}

static bool show(const Args *a, const char *path, bool origins, Error *err) {
    Str text = {0};
    RunConfig cfg = {0};
    if (args_flag(a, &command_config, "--keys") && !a->json) {
        config_help(&text, run_keys, run_key_count, NULL);
        print_text(&text);
        return true;
    }
    if (!conf_load(&cfg, path, a->set, a->n_set, err)) return false;
    bool ok = true;
    if (a->json)
        print_json(&cfg);
    else if (origins)
        ok = dump(&text, a, path, err);
    else
        config_dump(&text, &cfg, run_keys, run_key_count);
    if (text.n) print_text(&text);
    run_config_release(&cfg);
    return ok;
}

/* One line, or one member of an array, per key that differs. */
static void put_difference(Str *text, JsonOut *j, const CfgKey *k, const Str v[2]) {
    bool matters = k->scope == CFG_RESULT;
    if (!j) {
        str_printf(text, "%s: %s -> %s  (%s)\n", k->name, v[0].n ? v[0].s : "\"\"", v[1].n ? v[1].s : "\"\"",
                   matters ? "result" : "runtime");
        return;
    }
    json_out_obj(j, NULL);
    json_out_str(j, "key", k->name);
    json_out_str(j, "a", str_get(&v[0]));
    json_out_str(j, "b", str_get(&v[1]));
    json_out_bool(j, "changes_results", matters);
    json_out_obj_end(j);
}

static void print_differences(const RunConfig cfg[2], bool json) {
    Str text = {0}, v[2] = {{0}, {0}};
    JsonOut j;
    if (json) {
        json_out_init(&j, &text, 0);
        json_out_obj(&j, NULL);
        json_out_str(&j, "schema", "dikast-config-diff/1");
        json_out_arr(&j, "keys");
    }
    for (int i = 0; i < run_key_count; i++) {
        for (int k = 0; k < 2; k++) {
            str_clear(&v[k]);
            config_value(&v[k], &cfg[k], &run_keys[i]);
        }
        if (strcmp(str_get(&v[0]), str_get(&v[1])) != 0) put_difference(&text, json ? &j : NULL, &run_keys[i], v);
    }
    if (json) {
        json_out_arr_end(&j);
        json_out_obj_end(&j);
    }
    if (text.n > 0)
        print_text(&text);
    else
        fprintf(stderr, "every key has the same value\n");
    for (int k = 0; k < 2; k++) str_release(&v[k]);
}

/* Overrides are the second one's; without a second file they make it of the first. */
static bool differences(const Args *a, Error *err) {
    RunConfig cfg[2];
    if (a->n_arg < 2 || (a->n_arg < 3 && a->n_set == 0))
        return error_set(err, ERR_CONFIG, "config diff compares two files, or one with key=value: config diff A B");
    if (!conf_load(&cfg[0], a->arg[1], NULL, 0, err)) return false;
    bool ok = conf_load(&cfg[1], a->arg[a->n_arg - 1], a->set, a->n_set, err);
    if (ok) {
        print_differences(cfg, a->json);
        run_config_release(&cfg[1]);
    }
    run_config_release(&cfg[0]);
    return ok;
}

static bool run(const Args *a, Error *err) {
    const char *what = a->n_arg ? a->arg[0] : "";
    bool is_show = !strcmp(what, "show"), is_schema = !strcmp(what, "schema");
    if (!strcmp(what, "diff")) return differences(a, err);
    if (a->n_arg > (is_show ? 2 : 1))
        return error_set(err, ERR_CONFIG, "unexpected argument '%s'; usage: dikast %s", a->arg[a->n_arg - 1],
                         command_config.usage);
    if (is_schema) {
        Str text = {0};
        config_schema(&text, run_keys, run_key_count);
        print_text(&text);
        return true;
    }
    const char *path = is_show ? (a->n_arg > 1 ? a->arg[1] : NULL) : a->n_arg ? what : NULL;
    return show(a, path, is_show, err);
}

const Command command_config = {
    .name = "config",
    .usage = "config [CONF] [key=value ...] [--keys] | config show [CONF] [key=value ...] | config schema\n"
             "       | config diff A [B] [key=value ...]",
    .help = "print the resolved configuration, every key, or what two configurations differ in\n\n"
            "Without a file: the defaults. The output is a configuration file again. --json: an object with all keys, "
            "their\n"
            "values, defaults and meaning. show: with where each value that is no default was written.\n"
            "schema: a JSON Schema, for editors. diff: A against B, or against A with other values; 'result' keys can "
            "change\n"
            "results, 'runtime' ones cannot.",
    .flag = flags,
    .max_arg = 3,
    .takes_set = true,
    .run = run};
