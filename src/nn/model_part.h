/* nn/model_part.h — the part of a model that a rank holds (tensor and pipeline parallel; Shoeybi et al. 2019, Narayanan et al. 2021).
 *
 * Model.whole describes the model that people mean; Model.cfg what is here: fewer blocks (pipeline), fewer heads, MLP columns
 * and vocabulary rows (tensor parallel), so that params.def gives the shapes of both. Names are the whole's; a parameter says
 * where it begins in the whole's tensor (ParamInfo.row, col). Of one rank cfg and whole are equal. */
#ifndef DIKAST_NN_MODEL_PART_H
#define DIKAST_NN_MODEL_PART_H

#include "dist/mesh.h"

typedef struct {
    int layer0;         /* cfg's block 0 is block layer0 of the whole */
    bool first, last;   /* the embedding is here; the final norm and the head are */
    int tp, tp_n;       /* share tp of tp_n of every divided tensor */
    int cp, cp_n;       /* whatever trains works on share cp of cp_n of a micro-batch's rows (nn/cut.h) */
    Comm *tp_group, *pp_group, *cp_group;   /* borrowed; NULL: of one rank */
    struct Lead *lead;  /* rank 0 of tp_group works with it alone, and the others follow (engine/lead.h); NULL: all make the same calls */
    int lead_number;
} ModelPart;

/* Stage s of p has layers [ceil(L s/p), ceil(L (s+1)/p)): the first stages have the odd ones, for the head is the last one's. */
static inline int model_part_layer(int n_layer, int stage, int n_stage) { return (n_layer * stage + n_stage - 1) / n_stage; }

static inline ModelPart model_part_whole(void) { return (ModelPart){.first = true, .last = true, .tp_n = 1, .cp_n = 1}; }
/* Where the share of n things begins that tp holds, and where it ends. */
static inline int64_t model_part_begin(const ModelPart *p, int64_t n) { return n * p->tp / p->tp_n; }
static inline int64_t model_part_end(const ModelPart *p, int64_t n) { return n * (p->tp + 1) / p->tp_n; }

#endif
