/* dikast.h — the library's outside: run a training configuration, use the models it made.
 *
 *   dikast_error err;
 *   dikast_result *run;
 *   if (!dikast_run(&run, "conf/quickstart.yaml", NULL, &err)) fprintf(stderr, "%s\n", err.message);
 *   dikast_result_free(run);
 *
 *   dikast_model *m;
 *   dikast_message ask = {"user", "how do i bake bread ?"};
 *   dikast_reply reply;
 *   if (dikast_model_open(&m, "out/store/rl-308a58cf97785831/model", 0, &err)) {
 *       if (dikast_generate(&reply, m, &ask, 1, NULL, &err)) puts(reply.text), dikast_reply_free(&reply);
 *       dikast_model_close(m);
 *   }
 *
 * A function that can fail returns true on success; on false *err says why, and what it would have handed out is NULL
 * or zero. err belongs to the caller, is never NULL and need not be initialised. Texts are UTF-8; a (pointer, size)
 * pair may hold any bytes. Strings and arrays inside an object live as long as the object, unless a comment says
 * otherwise.
 *
 * There is no hidden state: objects are independent of each other, and different objects may be used by different
 * threads at the same time. One dikast_model is used by one thread at a time (it has compute threads of its own); a
 * tokenizer and a constitution are immutable and may be shared. The library never exits the process and installs no
 * signal handler; it prints only what dikast_run_options.verbosity asks for. An internal inconsistency prints where it
 * was found and aborts. */
#ifndef DIKAST_H
#define DIKAST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DIKAST_API __attribute__((visibility("default")))

/* The numbers are the program's exit statuses. */
typedef enum {
    DIKAST_OK = 0,
    DIKAST_ERR_STATE = 1,    /* something is not as it must be: an invariant of the run, a missing stage */
    DIKAST_ERR_CONFIG = 2,   /* a configuration key, an argument, a run that is locked by another process */
    DIKAST_ERR_FORMAT = 3,   /* a file is malformed */
    DIKAST_ERR_IO = 4,       /* the file system, the memory or a helper program said no */
    DIKAST_ERR_DIVERGED = 5, /* training diverged */
    DIKAST_ERR_GATE = 6,     /* a gate was missed: the result is complete; or a stage's own limit was not kept */
} dikast_code;

typedef struct {
    dikast_code code;
    char message[1000];
} dikast_error;

DIKAST_API const char *dikast_version(void); /* "0.1.0" */

/* -- running a configuration ----------------------------------------------------------------------------------------
 */

typedef struct {
    const char *const *set; /* n_set overrides, as on the command line: "rl.lr=3e-6" */
    size_t n_set;
    const char *only; /* stop after this stage; NULL: everything, gates and report */
    int verbosity;    /* on stderr: 0 nothing but errors, 1 progress, 2 more */
} dikast_run_options;

typedef struct {
    const char *name, *key, *directory; /* "pm", "30862d4c6b1a6302", "out/store/pm-30862d4c6b1a6302" */
    double seconds;
    bool cached; /* it was there already */
} dikast_stage;

typedef struct {
    const char *text; /* "eval.rl.harm.named <= 0.10" */
    double value, bound;
    bool ok;
} dikast_gate;

typedef struct {
    const char *directory, *report; /* of the run; report.html in it (written when the whole run is through) */
    const dikast_stage *stage;      /* those of this configuration, in order */
    size_t n_stage;
    const dikast_gate *gate;
    size_t n_gate;
    double seconds;
} dikast_result;

/* Runs what the configuration asks for and is not there yet; options NULL: no overrides, everything, quiet. A run that
 * was interrupted, in whatever way, goes on where it was. On failure *out holds what was reached (DIKAST_ERR_GATE: all
 * of it), or is NULL when the configuration itself is wrong. The tiny world's evaluation starts the program
 * dikast-gold: the one beside the calling program, or where the key eval.gold says. */
DIKAST_API bool dikast_run(dikast_result **out, const char *configuration, const dikast_run_options *options,
                           dikast_error *err);
DIKAST_API void dikast_result_free(dikast_result *result); /* NULL is fine */

/* -- tokenizers -----------------------------------------------------------------------------------------------------
 */

typedef struct dikast_tokenizer dikast_tokenizer;

/* A tokenizer.json, or a folder that holds one. */
DIKAST_API bool dikast_tokenizer_open(dikast_tokenizer **out, const char *path, dikast_error *err);
DIKAST_API void dikast_tokenizer_close(dikast_tokenizer *tokenizer);
DIKAST_API int dikast_tokenizer_size(const dikast_tokenizer *tokenizer); /* largest id + 1 */
/* Any bytes encode. Text never becomes a special token. Writes at most `room` ids and returns how many there are; so a
 * call with room 0 (then ids may be NULL) says how much room it takes. */
DIKAST_API size_t dikast_encode(const dikast_tokenizer *tokenizer, const char *text, size_t n, int32_t *ids,
                                size_t room);
/* The same for bytes. Special tokens and ids that do not exist are left out. No final NUL. */
DIKAST_API size_t dikast_decode(const dikast_tokenizer *tokenizer, const int32_t *ids, size_t n, char *text,
                                size_t room);

/* -- models ---------------------------------------------------------------------------------------------------------
 */

typedef struct dikast_model dikast_model;

/* directory: config.json, model.safetensors, tokenizer.json. threads 0: all usable CPUs. No result depends on it. */
DIKAST_API bool dikast_model_open(dikast_model **out, const char *directory, int threads, dikast_error *err);
DIKAST_API void dikast_model_close(dikast_model *model); /* NULL is fine */

typedef struct {
    bool scores;        /* a preference model or classifier: dikast_preference; else a language model: the other two */
    int vocabulary;     /* ids */
    int context;        /* longest sequence, tokens */
    int64_t parameters; /* of the trunk, a language model's head included */
} dikast_model_info;
DIKAST_API dikast_model_info dikast_model_about(const dikast_model *model);
DIKAST_API const dikast_tokenizer *dikast_model_tokenizer(const dikast_model *model); /* the model's; do not close */

/* A dialogue: "system" first if at all, then "user" and "assistant" in turn; it ends with a user's turn. */
typedef struct {
    const char *role, *text;
} dikast_message;

typedef struct {
    double temperature; /* 0: the likeliest token */
    double top_p;       /* 1: off */
    int top_k;          /* 0: off */
    int max_new;        /* tokens */
    uint64_t seed;      /* every draw follows from it */
} dikast_sampling;
DIKAST_API dikast_sampling dikast_sampling_default(void); /* 1, 1, 0, 256, 0 */

typedef struct {
    char *text; /* NUL-terminated; may hold NULs before size */
    size_t size;
    int n_token;    /* drawn, the end included */
    bool ended;     /* the model ended its reply; false: max_new or the context did */
    double logprob; /* of the reply at the sampling temperature (at 1 for temperature 0) */
} dikast_reply;

/* sampling NULL: the defaults. */
DIKAST_API bool dikast_generate(dikast_reply *out, dikast_model *model, const dikast_message *message, size_t n_message,
                                const dikast_sampling *sampling, dikast_error *err);
DIKAST_API void dikast_reply_free(dikast_reply *reply);

/* log p(reply and its end | dialogue), nats at temperature 1; n_token (may be NULL): tokens it sums over. */
DIKAST_API bool dikast_score(double *logprob, int *n_token, dikast_model *model, const dikast_message *message,
                             size_t n_message, const char *reply, dikast_error *err);
/* A preference model's score of the reply, raw: its differences are log-odds of being preferred. A classifier's
 * log-odds. */
DIKAST_API bool dikast_preference(double *score, dikast_model *model, const dikast_message *message, size_t n_message,
                                  const char *reply, dikast_error *err);

/* -- constitutions --------------------------------------------------------------------------------------------------
 */

typedef struct dikast_constitution dikast_constitution;
typedef struct {
    const char *id, *text;
    const char *critique, *revise, *compare; /* the requests, its own or the generic ones */
    double weight;
} dikast_principle;

DIKAST_API bool dikast_constitution_open(dikast_constitution **out, const char *path,
                                         dikast_error *err); /* JSON or XML */
DIKAST_API void dikast_constitution_close(dikast_constitution *constitution);
/* 64 hexadecimal digits: SHA-256 of the canonical form, equal for both spellings. */
DIKAST_API const char *dikast_constitution_sha256(const dikast_constitution *constitution);
DIKAST_API size_t dikast_constitution_size(const dikast_constitution *constitution);
DIKAST_API dikast_principle dikast_constitution_at(const dikast_constitution *constitution, size_t i); /* i < size */

#ifdef __cplusplus
}
#endif

#endif
