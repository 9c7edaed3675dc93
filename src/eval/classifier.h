/* eval/classifier.h — a harm classifier as a folder, used by evaluation alone:
 *
 *   model/               trunk and a scoring head of one output per label (a Hugging Face folder)
 *   trunk-2/model/ ..    further ones that differ by their draws (classifier.json says how many): the mean of their log-odds counts
 *   ngrams.safetensors   a linear model over n-grams (eval/ngram.h); may be absent
 *   classifier.json      labels: how the two parts' log-odds become a probability, and thresholds
 *
 * The first label is "harmful", the others "harmful and of category c", which know what harm is in c from rows of all kinds: where a
 * category has few rows they tell it better than the first label, that learns mostly from the largest. So p(harmful) takes both:
 *
 *   u_k = w_k z_k + bias_k          the blend of label k: its calibrated log-odds, p_k = sigmoid(u_k)
 *   v   = logit(1 - prod_(k>0) (1 - p_k))
 *   p   = sigmoid(scale ((1 - share) u_0 + share v) + bias)         without categories p_0
 *
 * A folder that is itself a scoring model, without classifier.json, is a classifier too: its first
 * output is the log-odds of harm, the threshold .5. */
#ifndef DIKAST_EVAL_CLASSIFIER_H
#define DIKAST_EVAL_CLASSIFIER_H

#include "engine/engine.h"
#include "eval/detect.h"
#include "eval/ngram.h"
#include "text/chat.h"

enum { CLASSIFIER_TRUNKS = 16 };
typedef struct {
    char *name;                 /* "harmful", "harmful: Malicious Uses" */
    DetectBlend blend;          /* of trunk and ngrams; without ngrams w[1] is 0 */
    double threshold, threshold_fpr05;
} ClassifierLabel;

#define CLASSIFIER_SHARE 0.2
typedef struct { double share, scale, bias; } ClassifierMix;    /* zeroed: the first label alone */

typedef struct { Dialogue prompt; const char *reply; } ClassifierText;

/* The ids a classifier sees: dialogue, reply, end; at most max. Too long: the reply keeps at least half of max, its beginning and
 * its last quarter; the dialogue its end. Returns how many ids were cut. */
int classifier_sequence(Sequence *s, const Chat *c, Dialogue prompt, const char *reply, int max);
const char *classifier_request(Dialogue prompt); /* the last user turn: what the n-grams read */
void classifier_trunk_dir(Str *out, const char *dir, int k);    /* replaces *out by the folder of trunk k, from 0 */
/* z (n) becomes the mean of n_trunk vectors, which are given one after the other. */
void classifier_mean(float *z, const float *one, int64_t n, int k, int n_trunk);

/* (1 - share) u_0 + share v, and p; z (n_label, 2): log-odds of trunk and n-grams, of which n_part count. */
double classifier_mixed(const ClassifierLabel *label, int n_label, double share, const double *z, int n_part);
double classifier_harmful(const ClassifierLabel *label, int n_label, const ClassifierMix *m, const double *z, int n_part);

typedef struct Classifier Classifier;
bool classifier_open(Classifier **out, Backend *be, const char *dir, Error *err);
void classifier_close(Classifier *c);   /* NULL is fine */
int classifier_labels(const Classifier *c);
const ClassifierLabel *classifier_label(const Classifier *c, int k);
/* p (n, n_label); the first: harmful. */
bool classifier_score(Classifier *c, const ClassifierText *text, int n, double *p, Error *err);

/* "labels" and "categories" of classifier.json; classifier_open reads them. */
void classifier_labels_out(JsonOut *j, const ClassifierLabel *label, int n, bool ngrams);
void classifier_mix_out(JsonOut *j, const ClassifierMix *m);

#endif
