/* base/config.h — one row per key drives the YAML file, the override (rl.lr=3e-6), --help, validation, the dump and the
 * stage's hash. Unknown, duplicate or ill-typed keys are errors with file:line:column, a caret and the nearest known key;
 * config_load reports all of them at once. Anchors, aliases, merge keys, tags and second documents are refused;
 * 'extends: other.yaml' (path relative to the file) loads another file first. Precedence: default < extends < file <
 * DIKAST_SET_rl__lr < override. Values: integers may hold _ and end in k, M, G (1000s) or ki, Mi, Gi; booleans are true
 * and false only; quoted scalars are never numbers; lists of strings are YAML sequences or [a,b]. */
#ifndef DIKAST_BASE_CONFIG_H
#define DIKAST_BASE_CONFIG_H

#include "base/error.h"
#include "base/hash.h"
#include "base/str.h"

typedef enum { CFG_BOOL, CFG_INT, CFG_FLOAT, CFG_STR, CFG_ENUM, CFG_LIST } CfgType;
typedef enum { CFG_RESULT, CFG_RUNTIME } CfgScope; /* can change results: hashed | threads, log interval, paths: not */

typedef struct { char **item; int n; } CfgList;

typedef struct {
    const char *name; /* "rl.lr" */
    CfgType type;
    CfgScope scope;
    size_t offset;    /* of the field: BOOL bool, INT int64_t, FLOAT double, STR char*, ENUM int (index), LIST CfgList */
    const char *def;  /* as text; CFG_ENUM: "fp32|bf16", the first is the default; CFG_LIST: "a,b" or "" */
    double min, max;  /* INT, FLOAT; ignored for others */
    const char *help; /* one line, with unit: "peak learning rate, AdamW" */
} CfgKey;

/* cfg: a zeroed struct that the keys' offsets point into; strings are owned by it (config_release). On failure *report
 * holds every error in the form of the compilers ("conf/real.yaml:12:3: error: ..." + source line + caret) and err the
 * count. path may be NULL (defaults and overrides only). set: "rl.lr=3e-6" strings. */
bool config_load(void *cfg, const CfgKey *key, int n_key, const char *path, const char *const *set, int n_set,
                 Str *report, Error *err);
/* The same, and where each value was written: origin (n_key; zeroed, the caller releases them) "conf/real.yaml:12",
 * "override 'rl.lr=3e-6'", "" for a default. */
bool config_load_origins(void *cfg, const CfgKey *key, int n_key, const char *path, const char *const *set, int n_set,
                         Str *origin, Str *report, Error *err);
void config_release(void *cfg, const CfgKey *key, int n_key);
/* Only keys whose name starts with one of prefix[] and whose scope is CFG_RESULT; floats in shortest form. */
void config_hash_into(Hasher *h, const void *cfg, const CfgKey *key, int n_key, const char *const *prefix, int n_prefix);
void config_dump(Str *out, const void *cfg, const CfgKey *key, int n_key);  /* resolved YAML, one section per prefix */
/* The same, with origins as comments. */
void config_dump_origins(Str *out, const void *cfg, const CfgKey *key, int n_key, const Str *origin);
void config_value(Str *out, const void *cfg, const CfgKey *key);            /* one value as text */
void config_help(Str *out, const CfgKey *key, int n_key, const char *prefix);

#endif
