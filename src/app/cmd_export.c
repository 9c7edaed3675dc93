/* dikast export: a model folder in the form another program loads. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/export.h"
#include "base/io.h"

static const Flag flags[] = {
    {"--to", "hf|gguf|lora", "hf: a folder for transformers; gguf: a file for llama.cpp; lora: a folder for PEFT"},
    {"--dtype", "f32|bf16|f16|q8_0", "f32 (default), bf16, f16; gguf: q8_0 too"},
    {"--shard", "BYTES", "hf: longest file of weights (default 5e9)"},
    {"--pre", "NAME", "gguf: name of the pre-tokenizer, where its pattern is none we know"},
    MODEL_FLAGS,
    {0}};

static const struct {
    const char *flag, *name;
    GgufType type;
} dtypes[] = {{"f32", "F32", GGUF_TYPE_F32},
              {"bf16", "BF16", GGUF_TYPE_BF16},
              {"f16", "F16", GGUF_TYPE_F16},
              {"q8_0", NULL, GGUF_TYPE_Q8_0}};

static bool read_dtype(int *at, const Args *a, bool gguf, Error *err) {
    const char *given = args_flag(a, &command_export, "--dtype");
    *at = -1;
    for (int i = 0; given && i < COUNT_OF(dtypes); i++)
        if (strcmp(dtypes[i].flag, given) == 0 && (gguf || dtypes[i].name)) *at = i;
    return !given || *at >= 0 ||
           error_set(err, ERR_CONFIG, "--dtype %s: expected f32, bf16%s", given, gguf ? ", f16 or q8_0" : " or f16");
}

static bool write_hf(const OpenModel *m, const Args *a, int dtype, Error *err) {
    SaveOptions o = {.dtype = dtypes[dtype >= 0 ? dtype : 0].name};
    if (same_folder(str_get(&m->dir), a->arg[1]))
        return error_set(err, ERR_CONFIG, "%s is the folder to export: name another", a->arg[1]);
    return args_int(a, &command_export, "--shard", 0, 1, INT64_MAX, &o.shard, err) && export_hf(m, a->arg[1], &o, err);
}

/* Anything else under that name was named by mistake. */
static bool may_become_gguf(const char *path, Error *err) {
    char begin[4] = {0};
    FILE *f = fopen(path, "rb");
    if (!f) return true;
    size_t n = fread(begin, 1, sizeof begin, f);
    fclose(f);
    return n == 0 || (n == sizeof begin && !memcmp(begin, "GGUF", sizeof begin)) ||
           error_set(err, ERR_CONFIG, "%s is there and no GGUF file: name another, or remove it", path);
}

static bool write_gguf(const OpenModel *m, const Args *a, int dtype, Error *err) {
    GgufType type = dtypes[dtype >= 0 ? dtype : 0].type;
    if (!may_become_gguf(a->arg[1], err)) return false;
    return export_gguf(m, a->arg[1], type, args_flag(a, &command_export, "--pre"), a->log, err);
}

/* The adapter alone. */
static bool write_lora(const OpenModel *m, const Args *a, int dtype, Error *err) {
    if (!m->adapter)
        return error_set(err, ERR_CONFIG, "%s has no adapter: name one behind --adapter, or its own folder as MODEL",
                         str_get(&m->dir));
    if (dtype > 0) return error_set(err, ERR_CONFIG, "--dtype %s: an adapter is written as F32", dtypes[dtype].flag);
    if (same_folder(str_get(&m->adapter_dir), a->arg[1]))
        return error_set(err, ERR_CONFIG, "%s is the folder to export: name another", a->arg[1]);
    return adapter_save(m->net, a->arg[1], err);
}

static bool write_form(OpenModel *m, const Args *a, const char *to, int dtype, Error *err) {
    if (strcmp(to, "lora") == 0) return write_lora(m, a, dtype, err);
    open_model_merge(m);
    return strcmp(to, "hf") == 0 ? write_hf(m, a, dtype, err) : write_gguf(m, a, dtype, err);
}

static bool run(const Args *a, Error *err) {
    const Command *self = &command_export;
    const char *to = args_flag(a, self, "--to");
    int dtype;
    OpenModel m;
    if (!to || (strcmp(to, "hf") && strcmp(to, "gguf") && strcmp(to, "lora")))
        return error_set(err, ERR_CONFIG, "--to %s: expected hf, gguf or lora", to ? to : "is missing");
    if (!read_dtype(&dtype, a, strcmp(to, "gguf") == 0, err) || !open_net(&m, a, self, err)) return false;
    bool ok = open_text_if_any(&m, a->log, err) && write_form(&m, a, to, dtype, err);
    open_model_close(&m);
    return ok;
}

const Command command_export = {
    .name = "export",
    .usage = "export MODEL OUT --to hf|gguf|lora [--adapter DIR] [--dtype TYPE] [flags]",
    .help =
        "write a model for another program\n\n"
        "hf: OUT becomes a folder with config.json in both spellings, model.safetensors or shards with their index, "
        "and what\n"
        "else the source holds. gguf: OUT becomes one file of version 3 with tokenizer and chat template; vectors "
        "are F32. Both hold MODEL with its adapter merged. lora: OUT becomes the adapter's folder.\n"
        "'dikast verify-export' compares what was written with its source.",
    .flag = flags,
    .min_arg = 2,
    .max_arg = 2,
    .run = run};
