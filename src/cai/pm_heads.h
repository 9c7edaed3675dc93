/* cai/pm_heads.h — a preference model with several scalar heads on one trunk, which are summed into one when it is trained:
 * heads are linear, so the sum of heads is a head, and nothing that reads scores knows of them.
 *
 *   pm.ensemble k       heads that differ by their first weights and by the draw of pairs they see, each pair counting Poisson(1)
 *                       times (the bootstrap); score = their mean. Where they disagree the score says little.
 *   pm.heads principles one head per principle that labels, on that principle's own label sigmoid(clamp(l_p)), and one for
 *                       helpfulness pairs; score = sum of w_p s_p + s_help, as labels are summed (authority levels are not
 *                       asked here). */
#ifndef DIKAST_CAI_PM_HEADS_H
#define DIKAST_CAI_PM_HEADS_H

#include "cai/stage_util.h"

enum { PM_HEADS = 65, PM_HELPFUL = -1 };
typedef struct {
    int n;
    bool per_principle;
    int principle[PM_HEADS];    /* of each head; PM_HELPFUL: helpfulness */
    double share[PM_HEADS];     /* of the score */
} PmHeads;
bool pm_heads_plan(PmHeads *h, const RunConfig *c, const Constitution *con, Error *err);
/* l (n_pair, con->n): each principle's log-odds of labels.jsonl, both orders averaged; NaN: it did not judge. */
bool pm_labels_read(double *l, int n_pair, const Constitution *con, const char *label_dir, Error *err);
/* Label and weight of a pair of weight 1 under head k. l: its row of pm_labels_read, NULL: a helpfulness pair. swapped: sides were
 * exchanged after l and before q. rng, id: the bootstrap's draw. */
void pm_head_label(float *q_out, float *weight, const PmHeads *h, int k, double q, const double *l, bool swapped, double clamp,
                   Rng rng, uint64_t id);
/* The heads' sum times scale becomes the net's only head. */
bool pm_heads_sum(StageNet *pm, const PmHeads *h, double scale, Error *err);
/* pm.untrained: random heads number which (from 1). An even one is the mirror image of the one before: its scores have the other sign. */
void pm_heads_random(StageNet *pm, uint64_t seed, int which);

#endif
