/* app/conf.h — the configuration that a command line asks for. */
#ifndef DIKAST_APP_CONF_H
#define DIKAST_APP_CONF_H

#include "cai/run_config.h"

/* run_config_load; what is wrong goes to stderr, mistake by mistake, with its place. */
bool conf_load(RunConfig *cfg, const char *path, const char *const *set, int n_set, Error *err);

#endif
