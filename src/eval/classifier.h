/* eval/classifier.h — a harm classifier as a folder, used by evaluation alone:
 *
 *   model/               trunk and a scoring head of one output per label (a Hugging Face folder)
 *   ngrams.safetensors   a linear model over n-grams (eval/ngram.h); may be absent
 *   classifier.json      labels: how the two parts' log-odds become a probability, and thresholds
 *
 * The first label is "harmful". A folder that is itself a scoring model, without classifier.json, is a classifier too: its first
 * output is the log-odds of harm, the threshold .5. */
#ifndef DIKAST_EVAL_CLASSIFIER_H
#define DIKAST_EVAL_CLASSIFIER_H

#include "engine/engine.h"
#include "eval/detect.h"
#include "eval/ngram.h"
#include "text/chat.h"

typedef struct {
    char *name;                 /* "harmful", "harmful: Malicious Uses" */
    DetectBlend blend;          /* of trunk and ngrams; without ngrams w[1] is 0 */
    double threshold, threshold_fpr05;
} ClassifierLabel;

typedef struct { Dialogue prompt; const char *reply; } ClassifierText;

/* The ids a classifier sees: dialogue, reply, end; at most max. Too long: the reply keeps at least half of max, its beginning and
 * its last quarter; the dialogue its end. Returns how many ids were cut. */
int classifier_sequence(Sequence *s, const Chat *c, Dialogue prompt, const char *reply, int max);
const char *classifier_request(Dialogue prompt); /* the last user turn: what the n-grams read */

typedef struct Classifier Classifier;
bool classifier_open(Classifier **out, Backend *be, const char *dir, Error *err);
void classifier_close(Classifier *c);   /* NULL is fine */
int classifier_labels(const Classifier *c);
const ClassifierLabel *classifier_label(const Classifier *c, int k);
/* p (n, n_label). */
bool classifier_score(Classifier *c, const ClassifierText *text, int n, double *p, Error *err);

/* The "labels" of classifier.json, both ways. */
void classifier_labels_out(JsonOut *j, const ClassifierLabel *label, int n, bool ngrams);

#endif
