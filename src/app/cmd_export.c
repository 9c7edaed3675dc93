/* dikast export: a model folder in the form another program loads. */
#include <stdlib.h>
#include <string.h>

#include "app/export.h"
#include "base/io.h"

static const Flag flags[] = {{"--to", "FORM", "hf: a folder for transformers"},
                             {"--dtype", "TYPE", "f32, bf16 or f16; default: as the weights are"},
                             {"--shard", "BYTES", "hf: longest file of weights (default 5e9)"},
                             THREADS_FLAG,
                             ISA_FLAG,
                             {0}};

static const struct { const char *flag, *name; } dtypes[] = {{"f32", "F32"}, {"bf16", "BF16"}, {"f16", "F16"}};

static bool read_dtype(const char **name, const Args *a, Error *err) {
    const char *given = args_flag(a, &command_export, "--dtype");
    *name = NULL;
    for (int i = 0; given && i < COUNT_OF(dtypes); i++)
        if (strcmp(dtypes[i].flag, given) == 0) *name = dtypes[i].name;
    return !given || *name || error_set(err, ERR_CONFIG, "--dtype %s: expected f32, bf16 or f16", given);
}

static bool same_folder(const char *dir, const char *out) {
    char *a = realpath(dir, NULL), *b = realpath(out, NULL);
    bool same = a && b && strcmp(a, b) == 0;
    free(a);
    free(b);
    return same;
}

static bool run(const Args *a, Error *err) {
    const Command *self = &command_export;
    const char *to = args_flag(a, self, "--to");
    OpenModel m;
    SaveOptions o = {0};
    if (!to || strcmp(to, "hf") != 0) return error_set(err, ERR_CONFIG, "--to %s: expected hf", to ? to : "is missing");
    if (!read_dtype(&o.dtype, a, err) || !args_int(a, self, "--shard", 0, 1, INT64_MAX, &o.shard, err) ||
        !open_net(&m, a, self, err))
        return false;
    bool ok = open_text_if_any(&m, a->log, err);
    if (ok && same_folder(str_get(&m.dir), a->arg[1]))
        ok = error_set(err, ERR_CONFIG, "%s is the folder to export: name another", a->arg[1]);
    ok = ok && export_hf(&m, a->arg[1], &o, err);
    open_model_close(&m);
    return ok;
}

const Command command_export = {
    .name = "export",
    .usage = "export MODEL OUT --to hf [--dtype TYPE] [--shard BYTES]",
    .help =
        "write a model for another program\n\n"
        "hf: OUT becomes a folder with config.json in both spellings, model.safetensors or shards with their index,\n"
        "tokenizer and generation files. 'dikast verify-export' compares what was written with its source.",
    .flag = flags,
    .min_arg = 2,
    .max_arg = 2,
    .run = run};
