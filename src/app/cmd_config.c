/* dikast config: what a run would use. */
#include <string.h>

#include "app/command.h"
#include "app/conf.h"
#include "cai/run_config.h"

#include <stdio.h>

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

static bool run(const Args *a, Error *err) {
    Str text = {0};
    RunConfig cfg = {0};
    if (args_flag(a, &command_config, "--keys") && !a->json) {
        config_help(&text, run_keys, run_key_count, NULL);
        print_text(&text);
        return true;
    }
    if (!conf_load(&cfg, a->n_arg ? a->arg[0] : NULL, a->set, a->n_set, err)) return false;
    if (a->json)
        print_json(&cfg);
    else
        config_dump(&text, &cfg, run_keys, run_key_count);
    print_text(&text);
    run_config_release(&cfg);
    return true;
}

const Command command_config = {.name = "config",
                                .usage = "config [CONF] [key=value ...] [--keys] [--json]",
                                .help = "print the resolved configuration, or every key\n\n"
                                        "Without a file: the defaults. The output is a configuration file again. "
                                        "--json: an object with all keys, their\n"
                                        "values, defaults and meaning.",
                                .flag = flags,
                                .max_arg = 1,
                                .takes_set = true,
                                .run = run};
