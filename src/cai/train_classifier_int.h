/* cai/train_classifier_int.h — one training of a classifier, shared by train_classifier.c and train_classifier_results.c. */
#ifndef DIKAST_CAI_TRAIN_CLASSIFIER_INT_H
#define DIKAST_CAI_TRAIN_CLASSIFIER_INT_H

#include "base/hash.h"
#include "cai/stage_util.h"
#include "cai/train_classifier.h"
#include "eval/classifier.h"

enum { PART_TRAIN, PART_VALID, PART_TEST };      /* of the rows */
typedef struct {
    const Row *row;
    int number;             /* in the files */
    uint64_t prompt;        /* hash of the folded last user turn */
    int32_t cluster;        /* prompts by number, ascending */
    int part, category;     /* category -1: none */
    int32_t harmful;
    double *z;              /* (n_label, 2) log-odds of trunk and n-grams; NULL in training rows */
} Labelled;

/* The classifier, or a part of it, with something taken away or mixed up: what it should not be able to do (train_classifier_controls.c). */
typedef struct {
    const char *key, *name;
    bool own;               /* a model of its own, calibrated on the validation rows; else judged as the classifier is */
    int m;                  /* log-odds of a row: 1, or (n_label, 2) of the classifier as it is */
    double *z;              /* (valid + test rows, m); NULL: not made */
} ClassifierControl;
enum { CONTROL_REQUEST, CONTROL_REPLY, CONTROL_LABELS, CONTROL_REPLIES, CONTROLS };

typedef struct {
    const ClassifierJob *job;
    StageCtx ctx;
    Rows rows;
    Hash *file_hash;        /* of each file */
    Labelled *item;         /* by part, then prompt */
    int n_part[3], first[3], n_prompt;
    const char **category;
    int n_category;
    ClassifierLabel *label;
    int *label_category;    /* of each label; -1: any */
    int n_label;
    ClassifierMix mix;
    Str text_dir;
    StageText text;
    struct { StageNet net; bool trunk_open, head_open; } trunk[CLASSIFIER_TRUNKS];
    int max;                /* tokens a sequence may have */
    NgramModel *ngrams;     /* NULL: trunk alone */
    double ngram_c[NGRAM_READINGS], start;
    ClassifierControl control[CONTROLS];
} ClassifierRun;

/* Mean log-odds of the trunks, z (n, n_label). */
bool classifier_trunk(ClassifierRun *r, const ClassifierText *text, int n, float *z, Error *err);
/* Fits and scores the controls of a trained classifier. */
bool classifier_controls(ClassifierRun *r, Error *err);

/* Calibrates, chooses thresholds, and writes classifier.json and predictions.jsonl. */
bool classifier_results(ClassifierRun *r, Str *result, Str *table, Error *err);

#endif
