/* app/config_schema.h — the table of keys as a JSON Schema (2020-12), for editors that check YAML while it is typed. */
#ifndef DIKAST_APP_CONFIG_SCHEMA_H
#define DIKAST_APP_CONFIG_SCHEMA_H

#include "base/config.h"

void config_schema(Str *out, const CfgKey *key, int n_key);

#endif
