/* dikast init: a configuration to begin with. */
#include <stdio.h>
#include <string.h>

#include "app/command.h"
#include "app/recipes.h"
#include "base/guess.h"
#include "base/io.h"
#include "cai/run_config.h"

// clang-format off
const Recipe recipes[] = {
    {"tiny",       "every stage of a generated tiny world in seconds; the model learns nothing", {"tiny.yaml", "quickstart.yaml"}},
    {"quickstart", "the tiny world, in minutes on two cores: the whole method, with gates",      {"quickstart.yaml"}},
    {"real",       "your own text: a small model from scratch, or somebody's (model.path)",      {"real.yaml", "constitution.json"}},
    {0},
};
// clang-format on

static const CarriedFile *carried(const char *name) {
    const CarriedFile *f = carried_files;
    while (f->name && strcmp(f->name, name) != 0) f++;
    CHECK(f->name, "recipe file %s is not in cmake/carried.cmake", name);
    return f;
}

static const Recipe *find_recipe(const char *name, Error *err) {
    Guess near = {.typed = name};
    for (int i = 0; recipes[i].name; i++) {
        if (!strcmp(recipes[i].name, name)) return &recipes[i];
        guess_offer(&near, recipes[i].name);
    }
    error_set(err, ERR_CONFIG, "no recipe is called '%s'%s; 'dikast init' lists them", name, guess_hint(&near));
    return NULL;
}

static void path_of(char out[128], const char *name) { snprintf(out, 128, "conf/%s", name); }

/* A file of these very bytes may stay; any other is somebody's work. */
static bool may_write(const char *name, bool *there, Error *err) {
    char path[128];
    Str text = {0};
    const CarriedFile *f = carried(name);
    path_of(path, name);
    *there = io_exists(path);
    if (!*there) return true;
    bool ok = io_read_file(&text, path, (size_t)64 << 20, err);
    if (ok && (text.n != f->n || memcmp(text.s, f->data, f->n) != 0))
        ok = error_set(err, ERR_CONFIG,
                       "%s is there already, and another text: nothing was written. Move it away, or work in another "
                       "folder",
                       path);
    str_release(&text);
    return ok;
}

static bool write_files(const Recipe *r, bool written[RECIPE_MAX_FILES], Error *err) {
    bool there[RECIPE_MAX_FILES];
    for (int i = 0; i < RECIPE_MAX_FILES && r->file[i]; i++)
        if (!may_write(r->file[i], &there[i], err)) return false;
    if (!io_make_dirs("conf", err)) return false;
    for (int i = 0; i < RECIPE_MAX_FILES && r->file[i]; i++) {
        char path[128];
        const CarriedFile *f = carried(r->file[i]);
        path_of(path, r->file[i]);
        written[i] = !there[i];
        if (written[i] && !io_write_file(path, f->data, f->n, err)) return false;
    }
    return true;
}

/* Whether the recipe's data lie where it says; it is a file that we wrote, so it loads. */
static bool data_missing(const char *conf) {
    RunConfig cfg;
    Str report = {0};
    Error ignore = {0};
    bool missing = false;
    if (run_config_load(&cfg, conf, NULL, 0, &report, &ignore)) {
        missing = cfg.data.source != 1 && !io_is_dir(cfg.data.dir);
        run_config_release(&cfg);
    }
    str_release(&report);
    return missing;
}

static void list_recipes(bool json) {
    Str text = {0};
    JsonOut j;
    if (!json) {
        for (int i = 0; recipes[i].name; i++) printf("%-12s %s\n", recipes[i].name, recipes[i].help);
        fprintf(stderr, "'dikast init NAME' writes conf/NAME.yaml\n");
        return;
    }
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-init/1");
    json_out_arr(&j, "recipes");
    for (int i = 0; recipes[i].name; i++) {
        json_out_obj(&j, NULL);
        json_out_str(&j, "name", recipes[i].name);
        json_out_str(&j, "help", recipes[i].help);
        json_out_obj_end(&j);
    }
    json_out_arr_end(&j);
    json_out_obj_end(&j);
    print_text(&text);
}

static void print_json(const Recipe *r, const bool *written, const char *conf) {
    Str text = {0};
    JsonOut j;
    char path[128];
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-init/1");
    json_out_str(&j, "configuration", conf);
    json_out_arr(&j, "files");
    for (int i = 0; i < RECIPE_MAX_FILES && r->file[i]; i++) {
        path_of(path, r->file[i]);
        json_out_obj(&j, NULL);
        json_out_str(&j, "path", path);
        json_out_bool(&j, "written", written[i]);
        json_out_obj_end(&j);
    }
    json_out_arr_end(&j);
    json_out_obj_end(&j);
    print_text(&text);
}

static bool run(const Args *a, Error *err) {
    bool written[RECIPE_MAX_FILES] = {0};
    char conf[128], path[128];
    if (a->n_arg == 0) {
        list_recipes(a->json);
        return true;
    }
    const Recipe *r = find_recipe(a->arg[0], err);
    if (!r || !write_files(r, written, err)) return false;
    path_of(conf, r->file[0]);
    if (a->json) {
        print_json(r, written, conf);
        return true;
    }
    for (int i = 0; i < RECIPE_MAX_FILES && r->file[i]; i++) {
        path_of(path, r->file[i]);
        if (written[i])
            printf("%s\n", path);
        else
            fprintf(stderr, "%s is there already, the same\n", path);
    }
    const char *data = data_missing(conf) ? " data.dir=FOLDER" : "";
    fprintf(stderr, "now:\n  dikast plan %s%s  # what it will need\n  dikast run %s%s\n", conf, data, conf, data);
    if (*data)
        fprintf(stderr, "FOLDER holds the files that its section data names; 'dikast help data' says of what shape\n");
    return true;
}

const Command command_init = {.name = "init",
                              .usage = "init [RECIPE] [--json]",
                              .help = "write a configuration to begin with, or list those there are\n\n"
                                      "conf/RECIPE.yaml, and what it reads, in the working folder. Nothing is "
                                      "overwritten.",
                              .max_arg = 1,
                              .run = run};
