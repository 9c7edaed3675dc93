/* base/config_int.h — between config.c (values from all sources into the struct), config_names.c (which key a name means),
 * config_report.c (what is wrong, said at once) and config_yaml.c (the only file that knows libfyaml). */
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
    const CfgKey *key;
    int n;
} CfgTable;

typedef struct {
    ConfigMistake *mistake;
    int n_error;
    bool of_keys;     /* some error is about a key, and */
    char section[64]; /* the section of the first one that is in one: for the closing hint */
    CfgTable other;   /* the table, when it is not the one of runs, which 'dikast help' prints: its keys are the hint */
} ConfigReport;

/* One mistake; at: in src->text, ignored where that is NULL. */
void config_report(ConfigReport *r, const ConfigSource *src, ConfigPlace at, const char *fmt, ...) FORMAT(4, 5);

/* Appends all of them in the order of their sources and places, their number, and where keys are listed; r is used up. */
void config_report_print(ConfigReport *r, Str *out);

const CfgKey *config_find(CfgTable t, const char *name); /* NULL: there is none of that name */
bool config_is_section(CfgTable t, const char *name);    /* does a key begin with name and a dot? */
/* This mistake is about a key; the first name in a section decides which one the report points to. */
void config_note_section(ConfigReport *r, CfgTable t, const char *name);
/* Reports that there is no such key, and which one is meant: what other programs call so, the nearest, the same word in
 * other sections. */
void config_unknown_key(ConfigReport *r, CfgTable t, const ConfigSource *src, ConfigPlace at, const char *name);

/* Flattens nested mappings and dotted keys to entries in file order, which live in heap; errors go to the report and
 * what they concern is left out. A text that holds no mapping but one value gives one entry with the key ""
 * (overrides). */
void config_yaml_read(ConfigEntry **entry, int *n_entry, Heap *heap, const ConfigSource *src, ConfigReport *r);

#endif
