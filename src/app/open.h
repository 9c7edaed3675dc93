/* app/open.h — what several commands open: threads and a backend, a model folder with its tokenizer, an engine. */
#ifndef DIKAST_APP_OPEN_H
#define DIKAST_APP_OPEN_H

#include "app/command.h"
#include "base/hash.h"
#include "engine/engine.h"
#include "nn/lora.h"
#include "text/chat.h"

#define MACHINE_FLAGS                                                                                                  \
    {"--device", "NAME", "cpu (default), ref, or cuda: the first GPU; cuda:1 the next"},                               \
        {"--threads", "N", "compute threads of the CPU; 0: all usable CPUs (default)"}, {                              \
        "--isa", "ISA",                                                                                                \
            "auto (default), scalar, avx2, avx512, avx512_bf16, amx; cuda: auto, sm_80: what older GPUs have, or "     \
            "exact: no row depends on its company"                                                                     \
    }
#define MODEL_FLAGS                                                                                                    \
    {"--adapter", "DIR", "a LoRA adapter for MODEL, as PEFT writes it"}, MACHINE_FLAGS
#define SAMPLE_FLAGS(max_new_)                                                                                         \
    {"--temperature", "T", "sampling temperature; 0: the likeliest token (default 1)"},                                \
        {"--top-k", "K", "sample among the K likeliest tokens; 0: all (default)"},                                     \
        {"--top-p", "P", "sample from the least set of tokens of this mass; 1: all (default)"},                        \
        {"--max-new", "N", "longest reply, tokens (default " max_new_ ")"}, {                                          \
        "--seed", "N", "every draw follows from it (default 0)"                                                        \
    }

typedef struct {
    Pool *pool;
    Backend *be;
} Machine;                                                                  /* zeroed is closed */
bool machine_open(Machine *m, const Args *a, const Command *c, Error *err); /* by its MACHINE_FLAGS */
bool machine_open_on(Machine *m, const char *device, const Args *a, const Command *c, Error *err); /* whatever --device says */
void machine_close(Machine *m);

/* A folder with config.json, model.safetensors and tokenizer.json, or a stage's output, whose model/ is one; or an adapter's
 * folder whose adapter_config.json names such a folder. Not copied: net points into it. */
typedef struct {
    Machine machine;
    Str dir;
    Str adapter_dir; /* "": no adapter */
    Adapter *adapter;
    Tokenizer *tok;
    Chat chat;
    bool has_chat; /* the tokenizer knows the dialogue's special tokens */
    Error no_chat; /* why not */
    Model model;
    Head head;
    Net net;
    Engine *engine;
} OpenModel;
bool open_model(OpenModel *m, const Args *a, const Command *c, Error *err); /* folder: a->arg[0]; c has MODEL_FLAGS */
/* Without tokenizer and chat, which the folder need not hold. */
bool open_net(OpenModel *m, const Args *a, const Command *c, Error *err);
/* Then the tokenizer, if the folder holds one that we read: else m->tok stays NULL and the log says why. */
bool open_text_if_any(OpenModel *m, Log *log, Error *err);
/* What a system is called: the name given, else the folder's, "sl-7c1e" of out/store/sl-7c1e/model. */
void open_model_name(Str *out, const OpenModel *m, const char *given);
void open_model_merge(OpenModel *m); /* the adapter, if there is one, into the model */
void open_model_close(OpenModel *m);
bool open_model_need(const OpenModel *m, HeadKind kind, Error *err); /* error when the head is of the other kind */
/* The token that plain text begins with: the folder's bos_token_id; without one, <|endoftext|> of a model of ours. -1: none,
 * as with Qwen: then only an empty text needs one, the end token. */
int32_t open_model_begin(const OpenModel *m);
bool open_model_begin_empty(const OpenModel *m, int32_t *id, Error *err);

bool open_model_hash(const OpenModel *m, Hash *out, Error *err); /* of the folder's .safetensors files */

bool sampling_read(SampleParams *p, const Args *a, const Command *c, int max_new, Error *err);

/* Text as it is drawn. Bytes that would end inside a character wait for the rest of it; control characters, which could
 * move a terminal's cursor, are shown as '?' when stdout is one. */
typedef struct {
    const Tokenizer *tok;
    int shown; /* tokens of the text handed out so far */
    bool terminal;
    Str pending;
} TextStream;
void stream_open(TextStream *s, const Tokenizer *tok);
void stream_put(TextStream *s, const int32_t *text, int n); /* the whole text so far */
void stream_end(TextStream *s);                             /* what waited; released */

bool read_stdin(Str *out, Error *err);

#endif
