/* engine/engine.h — what a language model does for its users: continue text, and say how likely text is. Knows token ids
 * only. Rollouts, evaluation, data stages and chat use these calls and nothing below them.
 *
 * Continuous batching: requests enter as slots and pages free up; prefill is cut into pieces that share a pass with decode
 * rows. Requests whose prompts begin alike share the full pages of the common beginning (found by the hash of its tokens
 * and the trunk's version) and copy the rest of it from a running one: many replies to one prompt compute it once. id keys the random numbers; on CPU F32 no result depends on what was shared, on slots or on who
 * else was generated. Borrowed Net; weights may change between calls (caches are dropped by version).
 *
 * A net may be this rank's share of one (all layers; nn/model_part.h). Then every rank of its tensor-parallel group opens the same engines and
 * makes the same calls, hooks saying the same everywhere, and gets the same results; calls fail on all of them or on none, and the
 * first that is asked to stop stops all. Or one rank does, and the others follow (engine/lead.h). */
#ifndef DIKAST_ENGINE_ENGINE_H
#define DIKAST_ENGINE_ENGINE_H

#include "base/log.h"
#include "nn/model.h"

typedef struct { const int32_t *tok; int n; } Tokens;

/* What the next token may be. The hook is asked before every token (n: tokens generated so far). */
typedef struct {
    int32_t force;              /* >= 0: this token, no draw; its log-prob is still recorded */
    const int32_t *allow;       /* n_allow > 0: drawn among these only */
    int n_allow;
    const uint8_t *ban;         /* (V) 1: never drawn; NULL: none */
} GenRule;
typedef void GenHook(void *ud, uint64_t id, const int32_t *text, int n, GenRule *rule); /* *rule arrives as {-1, 0..} */

/* Order (HF): repetition penalty -> temperature -> top-k -> top-p -> min-p -> softmax -> draw. T 0: argmax, lowest index. */
typedef struct {
    double temperature, top_p, min_p, repetition;   /* top_p 1, min_p 0, repetition 1: off */
    int top_k;                                      /* 0: off */
    int max_new;
    Rng rng;                                        /* draw for token t of request id: rng_uniform(rng, id, t) */
    const int32_t *stop;
    int n_stop;                                     /* a stop token, drawn or forced, ends the text and is part of it */
    GenHook *hook;
    void *hook_ud;
} SampleParams;

typedef enum { STOP_LENGTH, STOP_TOKEN, STOP_CONTEXT } StopReason;
typedef struct { uint64_t id; Tokens prompt; SampleParams sample; } GenRequest;
typedef struct {
    uint64_t id;
    int32_t *text;              /* (n) new tokens */
    float *logprob;             /* (n) log-prob of each at the sampling temperature (T 0: at 1), over the full vocabulary:
                                   bit for bit what logprob_fwd gives in a training forward at that temperature */
    int n;
    StopReason why;
    int n_forced;
    float odds;                 /* two allowed tokens: log-prob difference allow[0] - allow[1] at T 1, of the last such step; NaN */
} GenResult;

typedef struct Engine Engine;
/* 0: defaults. weights: DTYPE_BF16 or DTYPE_I8: generation reads the matrices in a copy of that dtype (nn/light.h), made
 * again whenever the weights have changed; its log-probs are then the copy's. DTYPE_F32 (0): the net's own. Scoring always
 * reads the net's own. */
typedef struct { int max_batch_tok, max_slots; size_t kv_bytes; bool share_prefix; DType weights; } EngineConfig;
bool engine_open(Engine **out, Net net, const EngineConfig *c, Error *err);
void engine_close(Engine *e);
/* Takes the memory of the largest passes, and of generation (generates), and computes nothing; for plans (tensor/dry.h). */
bool engine_rehearse(Engine *e, bool generates, Error *err);
/* out (n), in the order of req; texts live until engine_free_results. log may be NULL. A prompt that leaves no room in the
 * context gives n = 0 and STOP_CONTEXT. stop (may be NULL) ends early with ERR_STOPPED. */
bool engine_generate(Engine *e, const GenRequest *req, int n, GenResult *out, Log *log, const Stop *stop, Error *err);
void engine_free_results(GenResult *r, int n);
/* logprob[i] (text[i].n floats, caller's memory): of each token of text given prefix and the tokens before it, temperature
 * temp, packed in batches of rows; the same bits as training. */
bool engine_score(Engine *e, const Tokens *prefix, const Tokens *text, int n, float temp, float *const *logprob, Error *err);
/* The same at temperature 1, and greedy[i]: every token of text[i] is the likeliest in its place (the lowest id among equals).
 * With share_prefix, pages hold the common beginnings, across calls too, where that computes less than packing neighbours
 * together does; the bits are those of engine_score. */
bool engine_score_greedy(Engine *e, const Tokens *prefix, const Tokens *text, int n, float *const *logprob, bool *greedy,
                         Error *err);
/* logprob[i*n_option + k] = log p(option k | prompt i) over the full vocabulary. With share_prefix, prompts that begin alike
 * share pages as in generation: a thousand questions behind the same examples cost little more than the questions. */
bool engine_options(Engine *e, const Tokens *prompt, int n, const int32_t *option, int n_option, float *logprob, Error *err);
/* Head output (SCORE head) at the last token of each sequence: out (n * n_out). */
bool engine_score_last(Engine *e, const Tokens *seq, int n, float *out, Error *err);
/* Head output (SCORE head) at every token: out[i] (seq[i].n floats; n_out 1). */
bool engine_score_all(Engine *e, const Tokens *seq, int n, float *const *out, Error *err);
int engine_width(const Engine *e);      /* d_model */
/* Mean over its tokens of the hidden states that the head reads: out (n * engine_width). Of any head. */
bool engine_embed(Engine *e, const Tokens *seq, int n, float *out, Error *err);
/* Mean over tokens of exact-vocabulary KL(net || other) is the caller's; raw logits of the last row for tools: */
bool engine_logits(Engine *e, Tokens prompt, float *logits, Error *err);

typedef struct { int64_t n_prefill, n_decode, n_shared, n_copied, n_scored, n_pass; double seconds; } EngineStats;   /* tokens,
                    but for n_pass; shared: by page, copied: from a page that is not full */
EngineStats engine_stats(const Engine *e);

/* engine/sample.c, pure: logits (V) -> token; -1 when none can be drawn (logits not finite, or everything banned). u in
 * [0,1). seen: ids for the repetition penalty. sample_filter leaves the filtered logits (-INFINITY where dropped) as HF's
 * processors do. Both change logits. rule may be NULL. */
int32_t sample_token(float *logits, int n_vocab, const SampleParams *p, const GenRule *rule, const int32_t *seen, int n_seen,
                     double u);
void sample_filter(float *logits, int n_vocab, const SampleParams *p, const int32_t *seen, int n_seen);

#endif
