/* eval/task.h — a benchmark as a file: which columns its documents have, how a document becomes requests, what is counted.
 *
 * Texts are templates (text/jinja.h) over a document's columns. What they make of it, for a document d:
 *
 *   context   description(d), then per shot s: prompt(s) delimiter answer(s) separator, then prompt(d)
 *   choice    a request per choice: (context, delimiter choice)                   answer: number of the right one, or its text
 *   contexts  a request per context: (.. choices(d)[i], delimiter target(d))      choices are ends of the context
 *   text      one request: (context, target(d))
 *   rolling   one request: the likelihood of target(d)
 *
 * Metrics. choice, contexts: acc, the first of the likeliest requests is right; acc_norm, by ll per character of the choice;
 * acc_bytes, per byte; with `labels`, acc is the probability of the choices labelled 1 among all. text: acc, the target is
 * what greedy decoding writes; perplexity exp(-mean ll). rolling: word_perplexity, byte_perplexity, bits_per_byte.
 *
 * Shots are the first n of the pool, or drawn by CPython's random.sample from one generator per leaf task, document after
 * document; a document is never a shot of its own. With split.by, the documents of each value of that column are a leaf task
 * with a pool of their own, and groups sum them up. */
#ifndef DIKAST_EVAL_TASK_H
#define DIKAST_EVAL_TASK_H

#include "base/arena.h"
#include "base/config.h"
#include "eval/likelihood.h"

typedef enum { TASK_CHOICE, TASK_CONTEXTS, TASK_TEXT, TASK_ROLLING } TaskType;
typedef enum { SHOTS_RANDOM, SHOTS_FIRST } ShotSampler;
typedef enum { CLEAN_NONE, CLEAN_WIKIHOW } TaskClean;

typedef struct {
    char *name, *version;
    int type, clean;
    char *description, *prompt, *choices, *answer, *target, *labels, *count;
    char *delimiter, *separator;
    CfgList columns, metrics;
    struct { CfgList test, shots; } data;
    struct { int64_t n, seed; int sampler; } shots;
    struct { char *by; CfgList groups; bool weighted; } split;
} TaskConfig;
extern const CfgKey task_keys[];
extern const int task_key_count;

typedef enum {
    METRIC_ACC, METRIC_ACC_NORM, METRIC_ACC_BYTES, METRIC_PERPLEXITY, METRIC_WORD_PERPLEXITY, METRIC_BYTE_PERPLEXITY,
    METRIC_BITS_PER_BYTE, METRIC_COUNT
} Metric;
const char *metric_name(Metric m);

/* A document's requests and what is known about them. Leaf is the number of its leaf task; doc counts from 0 in each. */
typedef struct {
    int leaf, doc, n; /* requests */
    int64_t first;    /* of its requests */
    int answer;       /* choice, contexts */
    int *len, *bytes; /* (n) of the choices; NULL: no choices */
    bool *label;      /* (n), or NULL */
    int64_t words, n_bytes; /* rolling */
} TaskItem;
typedef struct { const char *name, *group; } TaskLeaf; /* group NULL: none; "" with split but no group named */

/* Everything of one task, ready to be scored. What it points to lives until tasks_release. */
typedef struct {
    TaskConfig cfg;
    Metric metric[METRIC_COUNT];
    int n_metric;
    TaskLeaf *leaf;
    int n_leaf;
    TaskItem *item;
    int64_t n_item;
    LikelihoodRequest *request;
    int64_t n_request;
    Hash data; /* of its files */
    Heap heap;
} Task;

typedef struct {
    const char *folder;     /* where data.* are looked up; NULL: the task file's own folder */
    int64_t limit;          /* documents per leaf; 0: all */
    int64_t shots;          /* instead of shots.n; -1: as the file says */
} TaskOptions;
/* Reads file and data and makes all requests. report: as of config_load. set: overrides of keys. */
bool task_open(Task *t, const char *file, const char *const *set, int n_set, const TaskOptions *o, Str *report, Error *err);
void task_close(Task *t);

/* Results, after likelihood() over t->request: of each leaf, then of each group, a group's leaves before it. */
typedef struct {
    const char *name;
    bool group;
    int64_t n;
    struct { Metric metric; double value, se, lo, hi; } of[METRIC_COUNT]; /* se, lo, hi NaN: none */
    int n_metric;
} TaskResult;
/* *out has n entries, freed by the caller. pool draws the bootstrap of perplexity (n_draw resamples). */
int task_results(TaskResult **out, Task *t, int n_draw, Pool *pool);

#endif
