/* cai/train_classifier.h — a harm classifier from labelled replies: trunk and scoring head of our own, beside it a linear model over
 * n-grams; what the two say together is calibrated, and thresholds are chosen, on rows that trained neither.
 *
 *   rows {prompt, response, harmful, category} -> parts by prompt: train | valid | test
 *   train   tokenizer, unless model.path brings one; each trunk: next token on the dialogues (pretrain.*), then all labels at once
 *           (classifier.*), both by draws of its own; n-grams for each C of a short list
 *   valid   the C with the best AUPRC, of each reading of the n-grams (the n-gram part is the mean of both); blend of the two parts =
 *           temperature (eval/detect.h); thresholds: best expected F1 (of all rows, and
 *           of each category's), FPR 5 %
 *   test    the figures
 *
 * Labels: "harmful", then "harmful: <category>" for every category with at least CLASSIFIER_LEAST harmful rows in train and one
 * in valid: 1 where the row is harmful and of that category. Everything follows from (config, seed, files). */
#ifndef DIKAST_CAI_TRAIN_CLASSIFIER_H
#define DIKAST_CAI_TRAIN_CLASSIFIER_H

#include "cai/stage.h"

enum { CLASSIFIER_LEAST = 8 };
typedef struct {
    const RunConfig *cfg;       /* run.seed, data.columns, tokenizer.*, model.*, pretrain.*, classifier.* */
    const char *const *file;
    int n_file;
    const char *out;            /* folder: model/, ngrams.safetensors, classifier.json, predictions.jsonl, train/ */
    int trunks;                 /* 1..CLASSIFIER_TRUNKS; the mean of their log-odds is the trunk's (Lakshminarayanan et al. 2017) */
    bool ngrams;                /* false: the trunk alone */
    Backend *be;
    Log *log;
    const Stop *stop;
} ClassifierJob;
/* Goes on where it was stopped. result: classifier.json; table: the same for people. */
bool classifier_train(const ClassifierJob *job, Str *result, Str *table, Error *err);
/* Overrides that make a small classifier of the defaults of a run; they stand before the user's. */
extern const char *const classifier_defaults[];
extern const int classifier_default_count;

#endif
