#include "app/conf.h"

#include <stdio.h>

bool conf_load(RunConfig *cfg, const char *path, const char *const *set, int n_set, Error *err) {
    Str report = {0};
    bool ok = run_config_load(cfg, path, set, n_set, &report, err);
    if (!ok) fputs(str_get(&report), stderr);
    str_release(&report);
    return ok;
}
