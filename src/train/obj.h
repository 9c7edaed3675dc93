/* train/obj.h — the objectives: next token, masked token, pairwise preference, classifier. Each owns its loader. */
#ifndef DIKAST_TRAIN_OBJ_H
#define DIKAST_TRAIN_OBJ_H

#include "data/loader.h"
#include "train/losses.h"
#include "train/objective.h"

typedef struct ObjLm ObjLm;
/* Next-token loss on the rows with weight; head rows are only those. Loss weight = token's weight * its sample's. Packs of max_tok tokens from s (borrowed). */
bool obj_lm_open(ObjLm **out, Objective *obj, const SampleSet *s, int max_tok, uint64_t seed, Error *err);
/* Masked-token loss (Devlin et al. 2019): 15 % of tokens are targets, of these 80 % become mask_id, 10 % a random id in
 * [first_random, n_vocab), 10 % stay; bidirectional attention. A token without loss weight is never a target. Drawn by (seed, RNG_MASK, pack number, row). */
bool obj_mlm_open(ObjLm **out, Objective *obj, const SampleSet *s, int max_tok, uint64_t seed, int32_t mask_id,
                  int32_t first_random, int n_vocab, double rate, Error *err);
double obj_lm_weight(const ObjLm *o);               /* loss weight of all rows of the micro-batch filled last */
void obj_lm_scale(ObjLm *o, double by);             /* losses and gradients from now on times by; weights stay: 1 */
int64_t obj_lm_packs(ObjLm *o, int64_t epoch);     /* micro-batches of that epoch; how many steps it takes, how far to evaluate */
void obj_lm_close(ObjLm *o);

typedef struct ObjPm ObjPm;
/* Pairs: group 2 samples, target of the first = q = P(first preferred). Head rows: the last token of each sample, which must
 * be end_id (checked at open; error names the sample). */
bool obj_pm_open(ObjPm **out, Objective *obj, const SampleSet *s, int max_tok, uint64_t seed, int32_t end_id,
                 double center, Error *err);
/* More than the plain loss. Head k of n_head has its own label and weight for every pair; their losses are added, so a head learns
 * from the pairs it has weight on. Of pair i, with q its label under that head:
 *   l = preference_loss(a, b, q, margin (2q - 1) - offset[i], center)
 * a margin asks for that much more than the label's own gap, in its direction (Touvron et al. 2023, soft); an offset is the part
 * of the gap that something else explains: the scores need not. Arrays are borrowed; NULL: the set's label and weight for every
 * head, offsets of 0. Metrics are of the heads' mean. */
typedef struct {
    int n_head;                     /* outputs of the head */
    const float *target, *weight;   /* (pairs of the set, n_head) */
    const double *offset;           /* (pairs of the set) */
    double margin;
} PmRule;
void obj_pm_rule(ObjPm *o, const PmRule *rule);
/* Single samples, target = label 0..1: binary cross-entropy on the last token. */
bool obj_classifier_open(ObjPm **out, Objective *obj, const SampleSet *s, int max_tok, uint64_t seed, int32_t end_id, Error *err);
/* The same for a head of n_label outputs: label (s->n, n_label), 0..1, NaN where it is not known, borrowed; the loss of a sample
 * is the sum over its known labels. */
bool obj_labels_open(ObjPm **out, Objective *obj, const SampleSet *s, const float *label, int n_label, int max_tok, uint64_t seed,
                     int32_t end_id, Error *err);
int64_t obj_pm_packs(ObjPm *o, int64_t epoch);
void obj_pm_close(ObjPm *o);

/* DPO on pairs (group 2; target of the first = q = P(first preferred)): the tokens with weight are the reply's. ref (2 n): sum
 * of each sample's log-probs under the reference (obj_dpo_reference). average: sums are divided by their tokens, as TRL does
 * for IPO. equal: policy and reference hold equal weights, so that the doctor may ask for D = 0 in the first micro-batch.
 * Head rows: the replies'. Metrics: accuracy (D on the preferred side, strictly; ties of q left out), margin, chosen_reward,
 * rejected_reward: beta times log-ratios, chosen being the likelier side. */
typedef struct ObjDpo ObjDpo;
typedef struct { DpoRule rule; bool average, equal; } DpoConfig;
bool obj_dpo_reference(double *ref, const SampleSet *s, Net reference, int max_tok, Error *err);
bool obj_dpo_open(ObjDpo **out, Objective *obj, const SampleSet *s, const double *ref, int max_tok, uint64_t seed,
                  const DpoConfig *c, Error *err);
int64_t obj_dpo_packs(ObjDpo *o, int64_t epoch);
bool obj_dpo_check(const ObjDpo *o, Error *err);    /* what the doctor saw in the first micro-batch, if that has been made */
void obj_dpo_close(ObjDpo *o);

#endif
