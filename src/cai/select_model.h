/* cai/select_model.h — scores of principles by the model at hand, beside those of words (cai/select.c).
 *
 *   e(x)         mean of the hidden states over the tokens of x as a dialogue, less the mean over all examples
 *   near(p|x)    max over p's examples of cos(e(x), e(example)); its text stands in where it has none
 *   odds(p|x)    log P(yes) - log P(no) in the applies format on (prompt, reply)
 *
 *   BM25         words alone: PARTS_WORDS            TEXT         PARTS_ALL and what requests teach
 *   EMBEDDING    z(text) + z(near)                   ODDS         odds of the best by EMBEDDING; others -INFINITY
 *   FUSION       the same candidates: z(text) + z(near) + z(odds)
 *
 * z: over the principles of a query (odds: over its candidates), mean 0 and deviation 1; 0 where all are equal. A pair (prompt,
 * reply) longer than the context has no odds: it counts as EMBEDDING. */
#ifndef DIKAST_CAI_SELECT_MODEL_H
#define DIKAST_CAI_SELECT_MODEL_H

#include "cai/constitution.h"
#include "engine/engine.h"
#include "text/chat.h"

typedef enum { SCORE_BM25, SCORE_TEXT, SCORE_EMBEDDING, SCORE_ODDS, SCORE_FUSION, SCORE_KIND_COUNT } ScoreKind;
static inline bool score_asks_model(ScoreKind k) { return k >= SCORE_EMBEDDING; }

typedef struct { const char *prompt, *reply; } SelectQuery;     /* reply "": none yet */
typedef struct SelectModel SelectModel;
/* Borrows all; s scores words. Embeds the examples. candidates: how many are asked for odds. */
bool select_model_open(SelectModel **out, Engine *e, const Chat *chat, const Constitution *c, const Selector *s, int max_len,
                       int candidates, Error *err);
bool select_model_scores(SelectModel *m, ScoreKind kind, const SelectQuery *query, int n, double (*score)[64], Error *err);
void select_model_close(SelectModel *m);

#endif
