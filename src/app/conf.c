#include "app/conf.h"

#include <stdio.h>
#include <string.h>

#include "app/recipes.h"
#include "base/guess.h"
#include "base/io.h"

/* The nearest name beside a file that is not there, or the recipe that was meant. */
static void say_absent(const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char **beside;
    int n;
    Str dir = {0};
    Error ignore = {0};
    str_putn(&dir, path, slash ? (size_t)(slash - path) : 0);
    if (!slash) str_put(&dir, ".");
    if (slash == path) str_put(&dir, "/");
    Guess near = {.typed = name};
    if (io_list_dir(&beside, &n, str_get(&dir), &ignore)) {
        for (int i = 0; i < n; i++) guess_offer(&near, beside[i]);
        if (near.word) fprintf(stderr, "did you mean '%.*s%s'?\n", (int)(name - path), path, near.word);
        io_free_list(beside, n);
    }
    str_release(&dir);
    size_t stem = strcspn(name, ".");
    const Recipe *r = recipes;
    while (r->name && (strlen(r->name) != stem || strncmp(r->name, name, stem) != 0)) r++;
    if (r->name)
        fprintf(stderr, "'dikast init %s' writes conf/%s\n", r->name, r->file[0]);
    else if (!near.word)
        fprintf(stderr, "'dikast init' lists configurations to begin with\n");
}

/* Both stand in conf/, and both are given to commands. */
static bool is_constitution(const char *path) {
    Str text = {0};
    Error ignore = {0};
    bool is = io_read_file(&text, path, (size_t)4 << 20, &ignore) &&
              (strstr(str_get(&text), "\"dikast-constitution/") || strstr(str_get(&text), "<constitution"));
    str_release(&text);
    return is;
}

bool conf_load(RunConfig *cfg, const char *path, const char *const *set, int n_set, Error *err) {
    Str report = {0};
    if (path && is_constitution(path))
        return error_set(err, ERR_CONFIG,
                         "%s is a constitution, expected a configuration, which names it: constitution.path=%s", path,
                         path);
    bool ok = run_config_load(cfg, path, set, n_set, &report, err);
    if (!ok) fputs(str_get(&report), stderr);
    if (!ok && path && !io_exists(path)) say_absent(path);
    str_release(&report);
    return ok;
}
