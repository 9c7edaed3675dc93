/* base/config_int.h — between config.c (the schema) and config_yaml.c (the only file that knows libfyaml). */
#ifndef DIKAST_BASE_CONFIG_INT_H
#define DIKAST_BASE_CONFIG_INT_H

#include "base/arena.h"
#include "base/config.h"

/* Where a value was written: a place in a text that can be shown, or a label ("override 'rl.lr=x'") when text is NULL.
 */
typedef struct {
    const char *path, *text;
    size_t n;
    int order; /* reports are sorted by source, then by place */
} ConfigSource;

typedef struct {
    int line, col, width;
} ConfigPlace; /* 1-based, in characters; width for the caret's tail */

typedef struct {
    const char *s;
    bool quoted;
    ConfigPlace at;
} ConfigScalar;

typedef struct {
    const char *key; /* dotted */
    ConfigPlace at;  /* of its last part */
    ConfigScalar value;
    bool is_list, is_null; /* is_null: nothing, ~ or null was written */
    ConfigScalar *item;
    int n_item;
} ConfigEntry;

typedef struct {
    int order, line, col, number;
    char *text;
} ConfigMistake;

typedef struct {
    ConfigMistake *mistake;
    int n_error;
    bool of_keys;     /* some error is about a key, and */
    char section[64]; /* the section of the first one that is in one: for the closing hint */
} ConfigReport;

void config_report(ConfigReport *r, const ConfigSource *src, ConfigPlace at, const char *fmt, ...) FORMAT(4, 5);

/* Flattens nested mappings and dotted keys to entries in file order, which live in heap; errors go to the report and
 * what they concern is left out. A text that holds no mapping but one value gives one entry with the key ""
 * (overrides). */
void config_yaml_read(ConfigEntry **entry, int *n_entry, Heap *heap, const ConfigSource *src, ConfigReport *r);

#endif
