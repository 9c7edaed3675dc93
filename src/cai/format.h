/* cai/format.h — demonstrations of the two formats the model must learn before it can give feedback: critique + revision and
 * judging. Rows come from data.format, or are made from labelled replies (harm_qa) and human preferences with wording
 * and general rules of our own. */
#ifndef DIKAST_CAI_FORMAT_H
#define DIKAST_CAI_FORMAT_H

#include "cai/stage_util.h"

/* Appends sequence `part` of a format row, 0, 1, ..; only what the model writes has weight. False: the row has no such part,
 * nothing is appended. One part natively; with headings a critique has a verdict and, when it found fault, a revision too. */
bool format_sequence(Sequence *s, const Chat *c, const Row *row, int part);
/* Labelled replies and preferences that may teach the format; the other half belongs to the classifier and the checks. */
bool format_half(const StageCtx *ctx, const char *id);
/* Appends critique rows from labelled replies, as many from instructions, in which nothing is wrong, as from replies that are,
 * and judge rows from prefs. Texts live in out->heap and in the rows given. Without answers to harmless requests among what is
 * fine, a model learns that whatever declines is and whatever helps is not. */
void format_rows_make(Rows *out, const StageCtx *ctx, const Rows *labelled, const Rows *prefs, const Rows *sft);

#endif
