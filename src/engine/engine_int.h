/* engine/engine_int.h — the engine's memory, shared by generate.c and score.c. Everything here grows to the largest
 * need seen and stays: after warm-up no pass allocates. */
#ifndef DIKAST_ENGINE_ENGINE_INT_H
#define DIKAST_ENGINE_ENGINE_INT_H

#include "engine/pages.h"
#include "engine/sample.h"
#include "nn/light.h"
#include "nn/row_parts.h"

enum { SLICE_ROWS = 256, SLICE_WIDE = 4096 }; /* of the head at once, at most: on a CPU, on a device */

enum { NO_TOKEN = -2 }; /* a target: asked for, and none could be drawn */

typedef struct {            /* a request being worked on */
    int req;                /* its number; -1: the slot is free */
    int limit;              /* tokens it may get */
    int n_done;             /* positions whose keys and values are computed, those of the pass being built included */
    int n_page, n_promised; /* pages it holds; pages it may still take */
    int n_named;            /* full pages whose names are known to `chain` */
    int donor, n_copy;      /* n_copy > 0: positions of its next page that it copies from that slot after this pass */
    Hash chain;             /* name of the last full page */
    int32_t *page;          /* (max_page) */
    int32_t *seen;          /* (max_seq) prompt and text, for the repetition penalty */
} Slot;

typedef struct {      /* what ranks that share a model need beside (share.c) */
    Comm *group;      /* NULL: the model is whole */
    bool divided;     /* the head's outputs are: language models' */
    bool led;         /* rank 0 draws everything (lead.h); else each some rows */
    int n_here;       /* outputs that are here */
    int first, end;   /* rows of the slice that this rank draws */
    bool stopped;     /* some rank was asked to */
    float *out, *in;  /* (n_slice, n_here), (rows of this rank, n_out): logits as they travel */
    void *said, *all; /* what was drawn */
    int64_t *count;   /* (2 ranks) */
    RowParts parts;
} Share;

struct Engine {
    Net net, now; /* now: what passes run, net or its light copy */
    Backend *be;
    EngineConfig cfg; /* resolved: no zeros */
    int n_out;        /* width of the head, of a divided one of all ranks */
    Share share;
    struct Lead *lead; /* the others follow this engine, */
    int lead_number;   /* whose number it has among them; NULL: nobody does */
    int max_page;     /* pages of a sequence of max_seq tokens */
    EngineStats stats;

    /* one pass: activations and the arrays a Batch points to */
    Acts *acts;
    int cap_tok;
    int32_t *tok, *pos, *kv_row, *row, *q_off, *kv_len;
    int32_t *seen, *home; /* scoring only: where sequences share rows, see Batch */
    int cap_seen;
    int32_t *row_owner; /* (R) slot or sequence of each chosen row */
    int32_t *kv_page;
    size_t cap_kv_page;
    Batch b;

    /* the head, slice by slice */
    Arena head_mem;
    int n_slice;       /* rows of a slice */
    Tensor out, value; /* (n_slice, share.n_here), (n_slice, 1) */
    float *host;       /* (n_slice, n_out) */
    int32_t *target;   /* (n_slice) */
    float *column;     /* (n_slice) log-probs of a slice */
    struct {           /* (n_slice) each: what a device draws by, and what it drew */
        float *temp;
        double *u;
        int32_t *token;
    } draw;

    /* generation only, opened with the first call */
    bool kv_ready;
    LightNet light; /* cfg.weights */
    KvCache kv;
    Pages pages;
    uint64_t version; /* of the trunk, when the pages were named */
    Slot *slot;       /* (max_slots) */
    int32_t *slot_page, *slot_seen;
    float *odds;            /* (n_slice) GenResult.odds after this token */
    bool *row_ready;        /* (n_slice) logits are in host memory, masked as the request's hook asked */
    SampleScratch *scratch; /* one per thread */
};

bool engine_reserve(Engine *e, int n_tok, Error *err);   /* passes of n_tok tokens, as many rows */
bool engine_reserve_seen(Engine *e, int n, Error *err);  /* after it: attention's rows of such a pass */
void engine_reserve_kv_page(Engine *e, size_t n);      /* entries of b.seqs.kv_page */
void pass_begin(Engine *e);
void pass_forward(Engine *e, KvCache *kv);                              /* b is complete but for its pointers */
Tensor pass_head(Engine *e, int first, int n);                          /* head output of rows [first, first+n) */
void pass_logprob(Engine *e, int first, int n, float temp, float *out); /* of e->target, slice rows [first, first+n) */
void pass_best(Engine *e, int n); /* the likeliest token of each of the slice's first n rows, into draw.token; -1: none */
/* share.c. Of a whole model share_rows chooses all rows, share_agree and share_tell say what they were told, share_ok is true. */
void share_open(Engine *e);
void share_release(Engine *e);
bool share_agree(const Engine *e, bool ok, Error *err); /* before passes: can all of them go on? */
bool share_ok(const Engine *e, Error *err);             /* after passes: has everything arrived? */
void share_rows(Engine *e, int n); /* whole logits of rows [share.first, share.end) of the slice's n, into host */
/* The owners' targets and odds become everybody's, and so does a wish to stop. */
bool share_tell(Engine *e, int n, float *odds, bool stop, Error *err);
/* Of divided outputs: all n rows whole, into host, everywhere | draw.token, of columns here, becomes that of all (value: theirs) |
 * log-probs of what was said to share.parts. */
void share_outputs(Engine *e, int n);
void share_best(Engine *e, int n, const float *value);
void share_logprob(Engine *e, int n, float *out);
/* lead.c. Of engines that nobody follows: nothing. */
typedef enum {
    LEAD_END,
    LEAD_NET,
    LEAD_NET_CLOSE,
    LEAD_ENGINE,
    LEAD_ENGINE_CLOSE,
    LEAD_GENERATE,
    LEAD_SCORE,
    LEAD_SCORE_GREEDY,
    LEAD_OPTIONS,
    LEAD_SCORE_LAST,
    LEAD_SCORE_ALL,
    LEAD_EMBED,
    LEAD_LOGITS
} LeadVerb;
bool lead_engine_open(Engine *e, const EngineConfig *c, Error *err);
void lead_engine_close(Engine *e);
void lead_generate(Engine *e, const GenRequest *req, int n);
void lead_score(Engine *e, LeadVerb verb, const Tokens *prefix, const Tokens *text, int n, float temp,
                const int32_t *option, int n_option);
bool engine_check_tokens(const Engine *e, const char *what, int i, Tokens t, Error *err);
bool gen_open_cache(Engine *e, Error *err); /* keys and values, of the trunk as it is now */
void gen_release(Engine *e);
/* engine_options by way of the cache: prompts that begin alike are computed once. */
bool gen_options(Engine *e, const Tokens *prompt, int n, const int32_t *option, int n_option, float *logprob,
                 Error *err);
/* engine_score_greedy by way of the cache (score_pages.c); what it would compute, in rows. */
int64_t pages_rows(const Tokens *prefix, const Tokens *text, int n);
bool pages_score(Engine *e, const Tokens *prefix, const Tokens *text, int n, float *const *logprob, bool *greedy,
                 Error *err);
static inline float temperature_of(double t) { return t > 0.0 ? (float)t : 1.0f; }

#endif
