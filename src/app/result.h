/* app/result.h — how a command that makes an evaluation result ends: gates, the file, what is printed. */
#ifndef DIKAST_APP_RESULT_H
#define DIKAST_APP_RESULT_H

#include "app/command.h"
#include "base/config.h"
#include "cai/eval_results.h"

#define RESULT_FLAGS                                                                                                   \
    {"--out", "FILE", "write the JSON result there"}, {                                                                \
        "--gate", "FILE", "YAML with conditions on its numbers, 'gates: [..]'; one missed: exit 6"                     \
    }
/* Of commands that read files of replies. */
#define REPLIES_FLAGS                                                                                                  \
    {"--prompts", "FILE", "rows that say what the replies' rows leave out: parent, kind, category, made"},             \
        {"--threshold", "P", "replies with p (harm_p) of at least P are harmful"},                                     \
        {"--gold", NULL, "verdicts are an exact rule's: complying with a harmful request is harm"}, {                  \
        "--seed", "N", "every draw follows from it (default 0)"                                                        \
    }
/* A gate file: at least one condition, each of which can be read; which metrics there are is seen when they are. Released in any case. */
typedef struct { CfgList gates; } GateConfig;
bool gates_load(GateConfig *cfg, const char *file, Error *err);
void gates_release(GateConfig *cfg);
/* That of --gate, looked at before hours of work. */
bool gate_file_readable(const Args *a, const Command *c, Error *err);
bool replies_open(Answers *a, const char *const *path, int n, const Args *args, const Command *c, uint64_t *seed, Error *err);

/* json: the text of the object, without gates; given up. Checks --gate, writes --out, prints the object with --json, else what
 * table says of it. ok false: the object was not made, err says why; with --json then an object {"kind", "schema", "status",
 * "code", "error"} is printed. Returns ok and no gate missed. Commands that call it have says_error. */
typedef void ResultTable(Str *out, const Json *result);
bool result_end(bool ok, Str *json, const char *kind, ResultTable *table, const Args *a, const Command *c, Error *err);

/* Conditions of a gate file against several results; messages to the log. out: (n) for the caller to free. */
typedef struct {
    GateResult *item;
    int n, missed;
} Gates;
bool gates_check(Gates *out, const char *file, const Json *const *result, int n, Log *log, Error *err);
void gates_json(JsonOut *j, const Gates *g);
/* What --gate FILE asks of an object that has been made: adds the list "gates" to its text. False with ERR_GATE when one is missed,
 * with another error and the text as it was when the file is of no use. */
bool result_gate(Str *json, const Args *a, const Command *c, Error *err);

/* "0.421 [0.380, 0.463]" of an estimate or rate; "-" without a value. */
void put_estimate(Str *out, const Json *estimate, double scale);

#endif
